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
 */
#include <linux/kvm_host.h>

/*
 * Neither side has a lock: a vCPU writes in_gate and then reads held, the
 * holder writes held and then reads in_gate, with a full barrier in between.
 */
static void kvm_vcpu_gate_out(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_gate *gate = &vcpu->kvm->gate;

	/*
	 * What was done inside has been done when the holder sees this: pairs
	 * with smp_load_acquire() in kvm_vcpu_gate_is_out().
	 */
	smp_store_release(&vcpu->in_gate, false);
	/* Pairs with the one in kvm_vcpus_hold(). */
	smp_mb();
	if (unlikely(READ_ONCE(gate->held)))
		rcuwait_wake_up(&gate->holder);
}

/*
 * User space can guess the file descriptor of a vCPU that is about to become
 * online.  Nobody would see this one inside the gate.
 */
static bool kvm_vcpu_gate_is_open(struct kvm_vcpu *vcpu)
{
	/*
	 * What was done while the vCPUs were held is seen from here on: pairs
	 * with smp_store_release() in kvm_vcpus_release().
	 */
	return !smp_load_acquire(&vcpu->kvm->gate.held) &&
	       vcpu->vcpu_idx < atomic_read(&vcpu->kvm->online_vcpus);
}

/**
 * kvm_vcpu_gate_enter - be where the guest and its memory may be touched
 * @vcpu: the vCPU that the calling thread runs, not inside the gate
 * @finish: something that user space had to do for the guest is to be finished:
 *	    who calls KVM_RUN with a signal pending counts on that
 *
 * Waits as long as the vCPUs are held.
 *
 * Context: in KVM_RUN, with the guest's signal mask.  May sleep.  Must not hold
 * kvm->srcu, kvm->lock or kvm->slots_lock.
 * Return: 0, or -EINTR if there is a signal, with @finish only a deadly one.
 */
int kvm_vcpu_gate_enter(struct kvm_vcpu *vcpu, bool finish)
{
	struct kvm_vcpu_gate *gate = &vcpu->kvm->gate;
	int r;

	for (;;) {
		WRITE_ONCE(vcpu->in_gate, true);
		/* Pairs with the one in kvm_vcpus_hold(). */
		smp_mb();
		if (likely(kvm_vcpu_gate_is_open(vcpu)))
			break;

		kvm_vcpu_gate_out(vcpu);
		if (finish)
			r = wait_event_killable(gate->closed,
						kvm_vcpu_gate_is_open(vcpu));
		else
			r = wait_event_interruptible(gate->closed,
						     kvm_vcpu_gate_is_open(vcpu));
		if (r)
			return -EINTR;
	}
	rwsem_acquire_read(&gate->dep_map, 0, 0, _THIS_IP_);
	return 0;
}
EXPORT_SYMBOL_GPL(kvm_vcpu_gate_enter);

/**
 * kvm_vcpu_gate_leave - let the vCPUs be held without waiting for this one
 * @vcpu: the vCPU that the calling thread runs; if it is not inside, nothing
 *	  happens
 *
 * Context: in KVM_RUN.  Does not sleep.
 */
void kvm_vcpu_gate_leave(struct kvm_vcpu *vcpu)
{
	if (!vcpu->in_gate)
		return;

	rwsem_release(&vcpu->kvm->gate.dep_map, _THIS_IP_);
	kvm_vcpu_gate_out(vcpu);
}
EXPORT_SYMBOL_GPL(kvm_vcpu_gate_leave);

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
	/* Pairs with smp_store_release() in kvm_vcpu_gate_out(). */
	return !smp_load_acquire(&vcpu->in_gate);
}

/**
 * kvm_vcpus_hold - keep all vCPUs away from the guest and its memory
 * @kvm: the VM
 *
 * Waits for the vCPUs inside the gate.  One that is in a page fault leaves when
 * the fault is done, however long user space takes for that (userfaultfd).
 * vCPUs that are created or run later are held, too.
 *
 * Context: kvm->slots_lock held, vCPUs not held.  Sleeps.  Must not hold
 * kvm->srcu or kvm->lock.
 * Return: 0, or -EINTR if the caller is being killed: then no vCPU is held.
 */
int kvm_vcpus_hold(struct kvm *kvm)
{
	struct kvm_vcpu_gate *gate = &kvm->gate;
	struct kvm_vcpu *vcpu;
	int i;

	lockdep_assert_held(&kvm->slots_lock);

	rwsem_acquire(&gate->dep_map, 0, 0, _THIS_IP_);
	WRITE_ONCE(gate->held, true);
	/* Pairs with those of vCPUs that enter or leave. */
	smp_mb();
	kvm_make_all_cpus_request(kvm, KVM_REQ_LEAVE_GATE);

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (rcuwait_wait_event(&gate->holder,
				       kvm_vcpu_gate_is_out(vcpu),
				       TASK_KILLABLE)) {
			kvm_vcpus_release(kvm);
			return -EINTR;
		}
	}
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
	/* pairs with smp_load_acquire() in kvm_vcpu_gate_is_open() */
	smp_store_release(&kvm->gate.held, false);
	rwsem_release(&kvm->gate.dep_map, _THIS_IP_);
	wake_up_all(&kvm->gate.closed);
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

	kvm->gate.held = false;
	init_waitqueue_head(&kvm->gate.closed);
	rcuwait_init(&kvm->gate.holder);
	lockdep_init_map(&kvm->gate.dep_map, "kvm->gate", &key, 0);
}

/**
 * kvm_vcpu_gate_online - tell the gate about a new vCPU
 * @kvm: the VM, with the vCPU counted in online_vcpus
 */
void kvm_vcpu_gate_online(struct kvm *kvm)
{
	wake_up_all(&kvm->gate.closed);
}
