// SPDX-License-Identifier: GPL-2.0-only
/*
 * The gate between vCPUs and guest memory, with threads for vCPUs.
 */
#include <sched.h>
#include <unistd.h>

#include "test.h"

#define VCPUS		3
#define HOLDS		500

static struct {
	struct kvm kvm;
	struct kvm_vcpu vcpus[VCPUS];
	pthread_t threads[VCPUS];
	/* Not atomic: it is the gate that keeps the threads apart. */
	u64 map;
	u64 walks[VCPUS];
	bool stop;
	unsigned int inside;
	int result;
	bool finish;		/* what it enters with */
} g;

static void gate_setup(unsigned int online)
{
	unsigned int i;

	/* whoever is not woken up would wait for ever */
	alarm(20);
	mutex_init(&g.kvm.slots_lock);
	kvm_vcpu_gate_init(&g.kvm);
	for (i = 0; i < VCPUS; i++) {
		g.vcpus[i].kvm = &g.kvm;
		g.vcpus[i].vcpu_idx = i;
		g.kvm.vcpus[i] = &g.vcpus[i];
	}
	atomic_set(&g.kvm.online_vcpus, online);
}

static void *enter(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	g.result = kvm_vcpu_gate_enter(vcpu, g.finish);
	check(vcpu->in_gate == !g.result);
	__atomic_fetch_add(&g.inside, !g.result, __ATOMIC_RELEASE);
	return NULL;
}

static void start(unsigned int i, void *(*run)(void *))
{
	check(!pthread_create(&g.threads[i], NULL, run, &g.vcpus[i]));
}

/* Nothing comes of it for a while. */
static void check_waits(unsigned int i)
{
	unsigned int ms;

	/* it may be late, or wait for a lock, which nobody counts */
	for (ms = 0; ms < 300 && !READ_ONCE(shim_waiting); ms += 10)
		usleep(10000);
	usleep(10000);
	/* pairs with what the threads add */
	check(!smp_load_acquire(&g.inside));
	check(pthread_tryjoin_np(g.threads[i], NULL) == EBUSY);
}

static void hold(void)
{
	mutex_lock(&g.kvm.slots_lock);
	check(!__real_kvm_vcpus_hold(&g.kvm));
	check(g.kvm.gate.state == KVM_GATE_CLOSED);
}

static void release(void)
{
	__real_kvm_vcpus_release(&g.kvm);
	check(g.kvm.gate.state == KVM_GATE_OPEN);
	mutex_unlock(&g.kvm.slots_lock);
}

static void test_one(struct vm *vm)
{
	struct kvm_vcpu *vcpu = &g.vcpus[0];

	gate_setup(1);
	check(kvm_vcpu_gate_wanted(vcpu));
	kvm_vcpu_gate_leave(vcpu);
	check(!kvm_vcpu_gate_enter(vcpu, g.finish));
	check(vcpu->in_gate);
	check(!kvm_vcpu_gate_wanted(vcpu));
	check(!kvm_vcpu_gate_pass(vcpu));
	kvm_vcpu_gate_leave(vcpu);
	check(!vcpu->in_gate);
	check(kvm_vcpu_gate_wanted(vcpu));
	kvm_vcpu_gate_reenter(vcpu);
	check(vcpu->in_gate);
	check(!g.kvm.slots_lock.held);
	kvm_vcpu_gate_leave(vcpu);

	hold();
	release();
	check(!kvm_vcpu_gate_enter(vcpu, g.finish));
	/* it has been asked to leave meanwhile */
	check(kvm_vcpu_gate_wanted(vcpu));
	check(!kvm_vcpu_gate_wanted(vcpu));
	kvm_vcpu_gate_leave(vcpu);
}

/* A signal gets a vCPU out, and it is not taken for one inside. */
static void test_signal(struct vm *vm)
{
	gate_setup(1);
	hold();
	start(0, enter);
	check_waits(0);
	WRITE_ONCE(shim_signalled, true);
	wake_up_all(&g.kvm.gate.waiters);
	pthread_join(g.threads[0], NULL);
	check(g.result == -EINTR && !g.inside);
	release();
	hold();
	release();
}

/* One that has something to finish waits all the same, unless it is killed. */
static void test_finish(struct vm *vm)
{
	gate_setup(1);
	g.finish = true;
	hold();
	start(0, enter);
	check_waits(0);
	WRITE_ONCE(shim_signalled, true);
	wake_up_all(&g.kvm.gate.waiters);
	check_waits(0);
	WRITE_ONCE(shim_killed, true);
	wake_up_all(&g.kvm.gate.waiters);
	pthread_join(g.threads[0], NULL);
	check(g.result == -EINTR && !g.inside);
	shim_killed = false;
	release();
}

/* Then the holder only waits for readers. */
static void test_let_finish(struct vm *vm)
{
	gate_setup(2);
	g.finish = true;
	mutex_lock(&g.kvm.slots_lock);
	kvm_vcpus_let_finish(&g.kvm);
	check(g.kvm.gate.state == KVM_GATE_OPEN);
	mutex_unlock(&g.kvm.slots_lock);
	hold();
	start(0, enter);
	check_waits(0);
	kvm_vcpus_let_finish(&g.kvm);
	pthread_join(g.threads[0], NULL);
	check(!g.result && g.inside == 1);
	check(kvm_vcpu_gate_wanted(&g.vcpus[0]));
	kvm_vcpu_gate_leave(&g.vcpus[0]);

	/* and the others are still held */
	g.inside = 0;
	g.finish = false;
	start(1, enter);
	check_waits(1);
	release();
	pthread_join(g.threads[1], NULL);
	check(!g.result && g.inside == 1);
}

/* Whoever is killed while a vCPU is inside holds none. */
static void test_killed(struct vm *vm)
{
	gate_setup(2);
	check(!kvm_vcpu_gate_enter(&g.vcpus[1], g.finish));
	mutex_lock(&g.kvm.slots_lock);
	WRITE_ONCE(shim_killed, true);
	check(__real_kvm_vcpus_hold(&g.kvm) == -EINTR);
	shim_killed = false;
	check(g.kvm.gate.state == KVM_GATE_OPEN);
	mutex_unlock(&g.kvm.slots_lock);
	check(!kvm_vcpu_gate_enter(&g.vcpus[0], g.finish));
	check(kvm_vcpu_gate_wanted(&g.vcpus[1]));
	kvm_vcpu_gate_leave(&g.vcpus[0]);
	kvm_vcpu_gate_leave(&g.vcpus[1]);
	hold();
	release();
}

/* One that becomes online while the others are held. */
static void test_online(struct vm *vm)
{
	gate_setup(2);
	hold();
	atomic_set(&g.kvm.online_vcpus, 3);
	start(2, enter);
	check_waits(2);
	release();
	pthread_join(g.threads[2], NULL);
	check(g.inside == 1);
}

static void *reenter(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	kvm_vcpu_gate_reenter(vcpu);
	__atomic_fetch_add(&g.inside, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void test_reenter(struct vm *vm)
{
	gate_setup(1);
	hold();
	start(0, reenter);
	check_waits(0);
	release();
	pthread_join(g.threads[0], NULL);
	check(g.inside == 1 && g.vcpus[0].in_gate);
}

static void *take(void *arg)
{
	hold();
	__atomic_fetch_add(&g.inside, 1, __ATOMIC_RELEASE);
	release();
	return NULL;
}

static void test_waits_for_all(struct vm *vm)
{
	unsigned int i;

	gate_setup(VCPUS);
	for (i = 0; i < VCPUS; i++)
		check(!kvm_vcpu_gate_enter(&g.vcpus[i], g.finish));
	start(0, take);
	for (i = 0; i < VCPUS; i++) {
		check_waits(0);
		check(kvm_vcpu_gate_wanted(&g.vcpus[i]));
		kvm_vcpu_gate_leave(&g.vcpus[i]);
	}
	pthread_join(g.threads[0], NULL);
	check(g.inside == 1);
}

/* Who has something to finish does not wait for others to come out. */
static void test_finish_early(struct vm *vm)
{
	gate_setup(VCPUS);
	check(!kvm_vcpu_gate_enter(&g.vcpus[1], false));
	start(0, take);
	check_waits(0);
	check(READ_ONCE(g.kvm.gate.state) == KVM_GATE_CLOSING);
	start(2, enter);
	check_waits(2);

	check(kvm_vcpu_gate_wanted(&g.vcpus[1]));
	kvm_check_request(KVM_REQ_LEAVE_GATE, &g.vcpus[0]);
	check(!kvm_vcpu_gate_enter(&g.vcpus[0], true));
	/* but it has to come out again, and is waited for */
	check(kvm_vcpu_gate_wanted(&g.vcpus[0]));
	kvm_vcpu_gate_leave(&g.vcpus[1]);
	check_waits(0);
	kvm_vcpu_gate_leave(&g.vcpus[0]);

	pthread_join(g.threads[0], NULL);
	pthread_join(g.threads[2], NULL);
	check(g.inside == 2);
}

/* In and out, as KVM_RUN does. */
static void *run_vcpu(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	u64 random = vcpu->vcpu_idx + 1, seen = 0;

	while (!READ_ONCE(g.stop)) {
		switch (next_random(&random) % 8) {
		case 0:
			kvm_vcpu_gate_leave(vcpu);
			check(!kvm_vcpu_gate_enter(vcpu, next_random(&random) % 2));
			break;
		case 1:
			kvm_vcpu_gate_leave(vcpu);
			kvm_vcpu_gate_reenter(vcpu);
			break;
		default:
			if (kvm_vcpu_gate_wanted(vcpu))
				check(!kvm_vcpu_gate_pass(vcpu));
			break;
		}
		__atomic_fetch_add(&g.inside, 1, __ATOMIC_RELAXED);
		check(g.map >= seen);
		seen = g.map;
		g.walks[vcpu->vcpu_idx]++;
		__atomic_fetch_sub(&g.inside, 1, __ATOMIC_RELAXED);
		if (next_random(&random) % 64 == 0)
			sched_yield();
	}
	kvm_vcpu_gate_leave(vcpu);
	return NULL;
}

static void test_race(struct vm *vm)
{
	u64 walks[VCPUS];
	unsigned int i;

	gate_setup(VCPUS);
	shim_pauses = true;
	for (i = 0; i < VCPUS; i++)
		start(i, run_vcpu);
	for (i = 0; i < HOLDS; i++) {
		hold();
		check(!READ_ONCE(g.inside));
		memcpy(walks, g.walks, sizeof(walks));
		g.map++;
		sched_yield();
		check(!READ_ONCE(g.inside));
		check(!memcmp(walks, g.walks, sizeof(walks)));
		release();
	}
	WRITE_ONCE(g.stop, true);
	for (i = 0; i < VCPUS; i++)
		pthread_join(g.threads[i], NULL);
}

const struct directed_test directed_gate[] = {
	{ "gate: in and out", test_one },
	{ "gate: a signal", test_signal },
	{ "gate: something to finish", test_finish },
	{ "gate: something to finish, others inside", test_finish_early },
	{ "gate: something to finish, the change is made", test_let_finish },
	{ "gate: the holder is killed", test_killed },
	{ "gate: a vCPU that becomes online", test_online },
	{ "gate: back in where one cannot give up", test_reenter },
	{ "gate: the holder waits for all", test_waits_for_all },
	{ "gate: vCPUs against a holder", test_race },
	{}
};
