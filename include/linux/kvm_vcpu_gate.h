/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_VCPU_GATE_H
#define __KVM_VCPU_GATE_H

/*
 * Gate that holds vCPUs away from guest memory, see virt/kvm/vcpu_gate.c.
 */
#include <linux/kvm_host.h>

#ifdef CONFIG_HAVE_KVM_VCPU_GATE
enum kvm_vcpu_gate_state {
	KVM_GATE_OPEN,		/* vCPUs enter and leave without a barrier */
	KVM_GATE_WATCHED,	/* vCPUs enter and leave with a barrier */
	KVM_GATE_CLOSING,	/* vCPUs leave, and enter only to finish */
	KVM_GATE_CLOSED,	/* no vCPU is inside, none may enter */
};

int kvm_vcpu_gate_wait(struct kvm_vcpu *vcpu, bool finish);
void kvm_vcpu_gate_reenter(struct kvm_vcpu *vcpu);
void kvm_vcpu_gate_init(struct kvm *kvm);
int kvm_vcpus_hold(struct kvm *kvm);
void kvm_vcpus_let_finish(struct kvm *kvm);
void kvm_vcpus_release(struct kvm *kvm);

/* Enter the gate if it is open. */
static inline bool kvm_vcpu_gate_try_enter(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_gate *gate = &vcpu->kvm->gate;
	bool open;

	/* RCU read-side critical section, see vcpu_gate.c. */
	preempt_disable();
	WRITE_ONCE(vcpu->in_gate, true);
	/* Pairs with smp_store_release() in kvm_vcpu_gate_set_state(). */
	open = smp_load_acquire(&gate->state) == KVM_GATE_OPEN;
	preempt_enable();

	if (likely(open))
		rwsem_acquire_read(&gate->dep_map, 0, 1, _THIS_IP_);
	return open;
}

/**
 * kvm_vcpu_gate_enter - enter the gate, to run the guest or access its memory
 * @vcpu: the vCPU that the calling thread runs, not inside the gate
 * @finish: an exit to user space has to be completed before KVM_RUN returns
 *
 * Wait while vCPUs are held.  With @finish, do not wait for other vCPUs to leave,
 * nor for readers of kvm->srcu; KVM_REQ_LEAVE_GATE is pending then, as the guest
 * must not be entered.
 *
 * Context: in KVM_RUN, with the guest's signal mask, or in an ioctl that maps
 * guest memory alike.  May sleep.  Must not hold kvm->srcu, kvm->lock,
 * kvm->slots_lock or, where there is one, kvm->slots_arch_lock.
 * Return: 0, or -EINTR on a signal, with @finish only on a fatal one.
 */
static inline int kvm_vcpu_gate_enter(struct kvm_vcpu *vcpu, bool finish)
{
	might_lock_read(&vcpu->kvm->gate);

	return likely(kvm_vcpu_gate_try_enter(vcpu)) ? 0 :
	       kvm_vcpu_gate_wait(vcpu, finish);
}

/**
 * kvm_vcpu_gate_leave - leave the gate
 * @vcpu: the vCPU that the calling thread runs; need not be inside
 *
 * Context: in KVM_RUN, or another ioctl of the vCPU.  Does not sleep.
 */
static inline void kvm_vcpu_gate_leave(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_gate *gate = &vcpu->kvm->gate;
	bool open;

	/* Only lockdep needs the check. */
	if (vcpu->in_gate)
		rwsem_release(&gate->dep_map, _THIS_IP_);

	/* RCU read-side critical section, see vcpu_gate.c. */
	preempt_disable();
	/* Pairs with smp_load_acquire() in kvm_vcpu_gate_is_out(). */
	smp_store_release(&vcpu->in_gate, false);
	open = READ_ONCE(gate->state) == KVM_GATE_OPEN;
	preempt_enable();

	/* Has a full barrier before it looks for a waiter. */
	if (unlikely(!open))
		rcuwait_wake_up(&gate->holder);
}

/* Check whether to pass the gate before the guest is entered. */
static inline bool kvm_vcpu_gate_wanted(struct kvm_vcpu *vcpu)
{
	return !vcpu->in_gate || kvm_check_request(KVM_REQ_LEAVE_GATE, vcpu);
}

/**
 * kvm_vcpu_gate_pass - leave the gate, if inside, and enter it again
 * @vcpu: the vCPU that the calling thread runs
 *
 * See kvm_vcpu_gate_enter() for context and return value.
 */
static inline int kvm_vcpu_gate_pass(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_gate_leave(vcpu);
	return kvm_vcpu_gate_enter(vcpu, false);
}
#else
static inline int kvm_vcpu_gate_enter(struct kvm_vcpu *vcpu, bool finish)
{
	return 0;
}

static inline void kvm_vcpu_gate_leave(struct kvm_vcpu *vcpu)
{
}

static inline bool kvm_vcpu_gate_wanted(struct kvm_vcpu *vcpu)
{
	return false;
}

static inline int kvm_vcpu_gate_pass(struct kvm_vcpu *vcpu)
{
	return 0;
}

static inline void kvm_vcpu_gate_init(struct kvm *kvm)
{
}

static inline void kvm_vcpus_let_finish(struct kvm *kvm)
{
}
#endif /* CONFIG_HAVE_KVM_VCPU_GATE */

#endif /* __KVM_VCPU_GATE_H */
