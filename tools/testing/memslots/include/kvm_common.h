/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_COMMON_H
#define __KVM_COMMON_H

/*
 * What <linux/kvm_host.h> of each kernel ends with, after its struct kvm and
 * struct kvm_vcpu.
 */
static inline struct kvm_memslots *__kvm_memslots(struct kvm *kvm, int as_id)
{
	return srcu_dereference(kvm->memslots[as_id], &kvm->srcu);
}

#define kvm_for_each_vcpu(idx, vcpup, kvm)				\
	for (idx = 0; idx < atomic_read(&(kvm)->online_vcpus) &&	\
	     (vcpup = (kvm)->vcpus[idx]); idx++)

static inline bool kvm_check_request(int req, struct kvm_vcpu *vcpu)
{
	return __atomic_fetch_and(&vcpu->requests, ~BIT(req),
				  __ATOMIC_ACQUIRE) & BIT(req);
}

static inline void kvm_make_request(int req, struct kvm_vcpu *vcpu)
{
	__atomic_fetch_or(&vcpu->requests, BIT(req), __ATOMIC_RELEASE);
}

static inline void kvm_make_all_cpus_request(struct kvm *kvm, int req)
{
	struct kvm_vcpu *vcpu;
	int i;

	kvm_for_each_vcpu(i, vcpu, kvm)
		kvm_make_request(req, vcpu);
}

/* The linker's --wrap: the harness checks calls, those of vcpu_gate.c do them. */
int __real_kvm_vcpus_hold(struct kvm *kvm);
void __real_kvm_vcpus_release(struct kvm *kvm);

#include <linux/kvm_vcpu_gate.h>

#include "extracted_kvm_host.h"

int kvm_arch_prepare_memory_region(struct kvm *kvm,
				   const struct kvm_memory_slot *old,
				   struct kvm_memory_slot *new,
				   enum kvm_mr_change change);
void kvm_arch_commit_memory_region(struct kvm *kvm,
				   struct kvm_memory_slot *old,
				   const struct kvm_memory_slot *new,
				   enum kvm_mr_change change);
void kvm_arch_free_memslot(struct kvm *kvm, struct kvm_memory_slot *slot);
void kvm_arch_memslots_updated(struct kvm *kvm, u64 gen);
void kvm_arch_flush_shadow_memslot(struct kvm *kvm,
				   struct kvm_memory_slot *slot);
void kvm_arch_flush_memslot_ranges(struct kvm *kvm,
				   const struct kvm_memslot_range *ranges,
				   unsigned int nr);
bool kvm_arch_memslot_inherit(struct kvm *kvm,
			      const struct kvm_memory_slot *old,
			      struct kvm_memory_slot *new);
void kvm_arch_guest_memory_reclaimed(struct kvm *kvm);
void trace_kvm_set_memory_regions(u16 as_id, unsigned int nr,
				  unsigned int deleted, unsigned int changed,
				  unsigned int created,
				  s64 waited_ns, s64 held_ns, u64 generation,
				  int result);

#endif /* __KVM_COMMON_H */
