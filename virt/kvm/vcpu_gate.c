// SPDX-License-Identifier: GPL-2.0-only
/*
 * Gate that holds vCPUs away from guest memory.
 *
 * A vCPU thread in KVM_RUN is inside the gate whenever it runs the guest, or
 * reads, writes or maps guest memory.  It is outside while the vCPU is halted and
 * while it waits for kvm->lock or kvm->slots_lock, whose owner may be waiting for
 * the gate.  Architectures enter and leave the gate in
 * kvm_arch_vcpu_ioctl_run().
 *
 * Exceptions: a vCPU outside may be marked as preempted in guest memory (steal
 * time); a halted vCPU may leave its nested guest while it blocks; KVM_RUN may
 * access guest memory before it enters, as other ioctls do (on x86, for events in
 * synced registers).
 *
 * The owner of kvm->slots_lock can hold the vCPUs: those inside leave the gate,
 * and none enters.  A request alone is not sufficient, because it only makes vCPUs
 * leave guest mode: an exit handler may still be about to map a page that it has
 * looked up before.
 *
 * Other ioctls access guest memory under kvm->srcu, and are not held, unless
 * they map it as a page fault in KVM_RUN does: these go through the gate, too.
 *
 * The gate is lockless.  A vCPU writes in_gate and then reads the state of the
 * gate; the holder writes the state and then reads in_gate; one of them must see
 * the write of the other.  The same applies to a vCPU that leaves and has to wake
 * up the holder.  Full barriers on both sides would be sufficient, but would slow
 * down each KVM_RUN for the sake of a rare event.  Instead, a vCPU writes and
 * reads in an RCU read-side critical section, and the holder waits for a grace
 * period first:
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
 * A critical section that has not ended when the grace period ends must have
 * started after WATCHED was written.  Its vCPU sees that state, and uses a
 * barrier of its own.  Writes of earlier critical sections are visible once the
 * grace period is over.  vCPUs are not held during the grace period.
 *
 * Not all vCPUs are kept out at once.  One that has to complete an exit to user
 * space (e.g. a port read) may enter while others are still inside.  Otherwise it
 * would have to wait for the slowest of them, while user space expects KVM_RUN to
 * return when asked to.  It leaves the gate before it runs the guest.  Therefore,
 * the holder checks again after it has closed the gate for these vCPUs, too.  Once
 * the holder has made its change and only waits for readers of kvm->srcu, which may
 * be in a page fault as well, these vCPUs may enter again.
 */
#include <linux/kvm_host.h>

/* Check whether a vCPU may be inside. */
static bool kvm_vcpu_gate_admits(int state, bool finish)
{
	return state <= (finish ? KVM_GATE_CLOSING : KVM_GATE_WATCHED);
}

/* Check whether to try to enter again. */
static bool kvm_vcpu_gate_opens(struct kvm_vcpu_gate *gate, bool finish)
{
	return kvm_vcpu_gate_admits(READ_ONCE(gate->state), finish);
}

/**
 * kvm_vcpu_gate_wait - enter the gate after kvm_vcpu_gate_try_enter() failed
 * @vcpu: the vCPU that the calling thread runs
 * @finish: see kvm_vcpu_gate_enter()
 *
 * See kvm_vcpu_gate_enter() for context and return value.
 */
int kvm_vcpu_gate_wait(struct kvm_vcpu *vcpu, bool finish)
{
	struct kvm_vcpu_gate *gate = &vcpu->kvm->gate;
	int state, r;

	might_lock_read(gate);

	for (;;) {
		/* Pairs with smp_mb() in kvm_vcpus_hold(). */
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

	/* The request of the holder may have been consumed already. */
	if (state == KVM_GATE_CLOSING)
		kvm_make_request(KVM_REQ_LEAVE_GATE, vcpu);
	rwsem_acquire_read(&gate->dep_map, 0, 0, _THIS_IP_);
	return 0;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_vcpu_gate_wait);

/**
 * kvm_vcpu_gate_reenter - enter the gate where failure is not an option
 * @vcpu: the vCPU that the calling thread runs, not inside the gate
 *
 * For callers that left the gate in the middle of an operation to take a lock.
 *
 * Context: in KVM_RUN.  Takes kvm->slots_lock.  Must not hold kvm->srcu.
 */
void kvm_vcpu_gate_reenter(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;

	/* Only the owner of this lock holds vCPUs, so the gate is open. */
	mutex_lock(&kvm->slots_lock);
	WRITE_ONCE(vcpu->in_gate, true);
	rwsem_acquire_read(&kvm->gate.dep_map, 0, 1, _THIS_IP_);
	mutex_unlock(&kvm->slots_lock);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_vcpu_gate_reenter);

static bool kvm_vcpu_gate_is_out(struct kvm_vcpu *vcpu)
{
	/* Pairs with smp_store_release() in kvm_vcpu_gate_leave(). */
	return !smp_load_acquire(&vcpu->in_gate);
}

static bool kvm_vcpu_gate_all_out(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (!kvm_vcpu_gate_is_out(vcpu))
			return false;
	}
	return true;
}

/* A vCPU that reads this state sees everything that was done before. */
static void kvm_vcpu_gate_set_state(struct kvm_vcpu_gate *gate, int state)
{
	/* Pairs with smp_load_acquire() where vCPUs enter. */
	smp_store_release(&gate->state, state);
}

/**
 * kvm_vcpus_hold - hold all vCPUs away from the guest and its memory
 * @kvm: the VM
 *
 * First, wait for an expedited RCU grace period.  Then, wait for the vCPUs
 * inside the gate to leave, and keep the others out.  A vCPU in a page fault
 * leaves the gate when the fault is done, however long user space takes for
 * that (userfaultfd).  vCPUs that are created or run later are held, too.
 *
 * Context: kvm->slots_lock held, vCPUs not held.  Sleeps.  Must not hold
 * kvm->srcu, kvm->lock or, where there is one, kvm->slots_arch_lock.
 * Return: 0, or -EINTR if the caller is being killed, with no vCPU held.
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
		/* vCPUs with an exit to complete may have found it closed. */
		wake_up_all(&gate->waiters);
		kvm_make_all_cpus_request(kvm, KVM_REQ_LEAVE_GATE);

		if (rcuwait_wait_event(&gate->holder, kvm_vcpu_gate_all_out(kvm),
				       TASK_KILLABLE)) {
			kvm_vcpus_release(kvm);
			return -EINTR;
		}

		kvm_vcpu_gate_set_state(gate, KVM_GATE_CLOSED);
		/* Pairs with smp_mb() in kvm_vcpu_gate_wait(). */
		smp_mb();
	} while (!kvm_vcpu_gate_all_out(kvm));

	return 0;
}

/**
 * kvm_vcpus_let_finish - let held vCPUs complete exits to user space
 * @kvm: the VM
 *
 * Call this once vCPUs that enter see the complete change for which they were
 * held.  Does nothing if vCPUs are not held.
 *
 * Context: kvm->slots_lock held; if vCPUs are held, by the caller of
 * kvm_vcpus_hold().  Does not sleep.
 */
void kvm_vcpus_let_finish(struct kvm *kvm)
{
	if (kvm->gate.state != KVM_GATE_CLOSED)
		return;

	kvm_vcpu_gate_set_state(&kvm->gate, KVM_GATE_CLOSING);
	wake_up_all(&kvm->gate.waiters);
}

/**
 * kvm_vcpus_release - release the vCPUs held by kvm_vcpus_hold()
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
 * kvm_vcpu_gate_init - initialize the gate of a new VM
 * @kvm: the VM
 *
 * Context: @kvm is not visible to others yet.
 */
void kvm_vcpu_gate_init(struct kvm *kvm)
{
	static struct lock_class_key key;

	kvm->gate.state = KVM_GATE_OPEN;
	init_waitqueue_head(&kvm->gate.waiters);
	rcuwait_init(&kvm->gate.holder);
	lockdep_init_map(&kvm->gate.dep_map, "kvm->gate", &key, 0);
}
