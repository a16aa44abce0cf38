// SPDX-License-Identifier: GPL-2.0-only
/*
 * The gate between vCPUs and guest memory.
 *
 * A thread in KVM_RUN is inside the gate whenever it runs the guest, or reads,
 * writes or maps guest memory for it.  It is outside while the vCPU is halted
 * and while it waits for kvm->lock or kvm->slots_lock, that is, for somebody
 * who may be waiting for the gate.  Where an architecture enters and leaves is
 * in its kvm_arch_vcpu_ioctl_run().
 *
 * Whoever holds kvm->slots_lock can hold the vCPUs: then those inside leave and
 * none enters.  A request would not do, for it only sees to it that vCPUs leave
 * guest mode: in the handler of an exit, one may still be about to map a page
 * that it has looked up before.
 *
 * Those who read or write guest memory outside of KVM_RUN do so in a section of
 * kvm->srcu, and are not held.
 *
 * Neither side has a lock.  A vCPU writes in_gate and then reads the state of
 * the gate, the holder writes the state and then reads in_gate, and one of them
 * has to see what the other one wrote.  The same goes for a vCPU that leaves and
 * has to wake up the holder.  Full barriers on both sides would do, but KVM_RUN
 * is not to pay for what happens once in a while.  So a vCPU writes and reads in
 * a section of RCU, and the holder lets a grace period pass first:
 *
 *	vCPU				holder
 *	----				------
 *	preempt_disable()		state = WATCHED
 *	in_gate = true			synchronize_rcu_expedited()
 *	r1 = state			state = CLOSED
 *	preempt_enable()		smp_mb()
 *	if (r1 != OPEN) {		r2 = in_gate
 *		smp_mb()
 *		r1 = state
 *	}
 *
 * A section that ends after the grace period has begun after WATCHED was written,
 * so that the vCPU sees that, and goes on with a barrier of its own.  What an
 * earlier section wrote can be seen once the grace period is over.  vCPUs are not
 * held during the grace period.
 *
 * One exception: a vCPU that has to finish what user space has done for it (a
 * read from a port, say) may enter as long as others are still inside, for it
 * would wait for as long as one of them takes, and user space counts on KVM_RUN
 * to come back when it wants that.  It leaves before it runs the guest.  That is
 * why the holder looks once more after it has closed the gate for these, too.
 */
#include <linux/kvm_host.h>

/* May a vCPU be inside? */
static bool kvm_vcpu_gate_admits(int state, bool finish)
{
	return state <= (finish ? KVM_GATE_CLOSING : KVM_GATE_WATCHED);
}

/* Is it worth a try? */
static bool kvm_vcpu_gate_opens(struct kvm_vcpu_gate *gate, bool finish)
{
	return kvm_vcpu_gate_admits(READ_ONCE(gate->state), finish);
}

/**
 * kvm_vcpu_gate_wait - enter the gate after kvm_vcpu_gate_try_enter() did not
 * @vcpu: the vCPU that the calling thread runs
 * @finish: see kvm_vcpu_gate_enter()
 *
 * Context and return value are those of kvm_vcpu_gate_enter().
 */
int kvm_vcpu_gate_wait(struct kvm_vcpu *vcpu, bool finish)
{
	struct kvm_vcpu_gate *gate = &vcpu->kvm->gate;
	int state, r;

	for (;;) {
		/* Pairs with the one in kvm_vcpus_hold(). */
		smp_mb();
		/* Pairs with smp_store_release() in kvm_vcpu_gate_set_state(). */
		state = smp_load_acquire(&gate->state);
		if (kvm_vcpu_gate_admits(state, finish))
			break;

		/* Pairs with smp_load_acquire() in kvm_vcpu_gate_is_out(). */
		smp_store_release(&vcpu->in_gate, false);
		rcuwait_wake_up(&gate->holder);
		if (finish)
			r = wait_event_killable(gate->waiters,
						kvm_vcpu_gate_opens(gate, true));
		else
			r = wait_event_interruptible(gate->waiters,
						     kvm_vcpu_gate_opens(gate, false));
		if (r)
			return -EINTR;
		WRITE_ONCE(vcpu->in_gate, true);
	}

	/* The one that the holder made may have been taken before. */
	if (state == KVM_GATE_CLOSING)
		kvm_make_request(KVM_REQ_LEAVE_GATE, vcpu);
	rwsem_acquire_read(&gate->dep_map, 0, 0, _THIS_IP_);
	return 0;
}
EXPORT_SYMBOL_GPL(kvm_vcpu_gate_wait);

/**
 * kvm_vcpu_gate_reenter - enter the gate where giving up is no option
 * @vcpu: the vCPU that the calling thread runs, not inside the gate
 *
 * For those who left to take a lock, in the middle of something.
 *
 * Context: in KVM_RUN.  Takes kvm->slots_lock.  Must not hold kvm->srcu.
 */
void kvm_vcpu_gate_reenter(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;

	/* The vCPUs are held with this lock taken. */
	mutex_lock(&kvm->slots_lock);
	WRITE_ONCE(vcpu->in_gate, true);
	rwsem_acquire_read(&kvm->gate.dep_map, 0, 1, _THIS_IP_);
	mutex_unlock(&kvm->slots_lock);
}
EXPORT_SYMBOL_GPL(kvm_vcpu_gate_reenter);

static bool kvm_vcpu_gate_is_out(struct kvm_vcpu *vcpu)
{
	/* Pairs with smp_store_release() of a vCPU that leaves. */
	return !smp_load_acquire(&vcpu->in_gate);
}

static bool kvm_vcpu_gate_all_out(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	int i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (!kvm_vcpu_gate_is_out(vcpu))
			return false;
	}
	return true;
}

/* Whoever finds the gate in this state sees what was done until then. */
static void kvm_vcpu_gate_set_state(struct kvm_vcpu_gate *gate, int state)
{
	/* Pairs with smp_load_acquire() where vCPUs enter. */
	smp_store_release(&gate->state, state);
}

/**
 * kvm_vcpus_hold - keep all vCPUs away from the guest and its memory
 * @kvm: the VM
 *
 * Waits for the vCPUs inside the gate, and holds the others meanwhile.  One that
 * is in a page fault leaves when the fault is done, however long user space takes
 * for that (userfaultfd).  vCPUs that are created or run later are held, too.
 * Before that, waits for an expedited grace period of RCU.
 *
 * Context: kvm->slots_lock held, vCPUs not held.  Sleeps.  Must not hold
 * kvm->srcu or kvm->lock.
 * Return: 0, or -EINTR if the caller is being killed: then no vCPU is held.
 */
int kvm_vcpus_hold(struct kvm *kvm)
{
	struct kvm_vcpu_gate *gate = &kvm->gate;

	lockdep_assert_held(&kvm->slots_lock);

	rwsem_acquire(&gate->dep_map, 0, 0, _THIS_IP_);
	kvm_vcpu_gate_set_state(gate, KVM_GATE_WATCHED);
	synchronize_rcu_expedited();

	do {
		kvm_vcpu_gate_set_state(gate, KVM_GATE_CLOSING);
		/* Those that wanted to finish when it was closed, see below. */
		wake_up_all(&gate->waiters);
		kvm_make_all_cpus_request(kvm, KVM_REQ_LEAVE_GATE);

		if (rcuwait_wait_event(&gate->holder, kvm_vcpu_gate_all_out(kvm),
				       TASK_KILLABLE)) {
			kvm_vcpus_release(kvm);
			return -EINTR;
		}

		kvm_vcpu_gate_set_state(gate, KVM_GATE_CLOSED);
		/* Pairs with the one in kvm_vcpu_gate_wait(). */
		smp_mb();
	} while (!kvm_vcpu_gate_all_out(kvm));

	return 0;
}

/**
 * kvm_vcpus_release - let vCPUs run that kvm_vcpus_hold() held
 * @kvm: the VM
 *
 * Context: kvm->slots_lock held, by the same caller.  Does not sleep.
 */
void kvm_vcpus_release(struct kvm *kvm)
{
	kvm_vcpu_gate_set_state(&kvm->gate, KVM_GATE_OPEN);
	rwsem_release(&kvm->gate.dep_map, _THIS_IP_);
	wake_up_all(&kvm->gate.waiters);
}

/**
 * kvm_vcpu_gate_init - set up the gate of a new VM
 * @kvm: the VM
 *
 * Context: before anybody else knows @kvm.
 */
void kvm_vcpu_gate_init(struct kvm *kvm)
{
	static struct lock_class_key key;

	kvm->gate.state = KVM_GATE_OPEN;
	init_waitqueue_head(&kvm->gate.waiters);
	rcuwait_init(&kvm->gate.holder);
	lockdep_init_map(&kvm->gate.dep_map, "kvm->gate", &key, 0);
}
