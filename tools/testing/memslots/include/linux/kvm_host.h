/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_HOST_H
#define __KVM_HOST_H

/*
 * A KVM of which there is little but its memslots.  What is short and a part
 * of what is tested comes from the real header, see the Makefile.
 */
#include <linux/kvm.h>

#include "shim.h"

typedef u64 gfn_t;

#define KVM_ADDRESS_SPACE_NUM	2
#define KVM_USER_MEM_SLOTS	32764
#define KVM_PRIVATE_MEM_SLOTS	3
#define KVM_MEM_SLOTS_NUM	(KVM_USER_MEM_SLOTS + KVM_PRIVATE_MEM_SLOTS)

/*
 * An address has a tag in its upper byte, and user space ends at 1 << 47; or it
 * has 32 bits, and user space ends as on i386.
 */
#if BITS_PER_LONG == 64
#define untagged_addr(addr)	((addr) & ~(0xffUL << 56))
#define TASK_SIZE		BIT(47)
#else
#define untagged_addr(addr)	(addr)
#define TASK_SIZE		0xc0000000UL
#endif

static inline bool access_ok(const void *addr, unsigned long size)
{
	return size <= TASK_SIZE && (unsigned long)addr <= TASK_SIZE - size;
}

struct kvm_arch_memory_slot {
	gfn_t *base;		/* allocated, says which gfn it was made for */
	void *spare[5];		/* as large as that of x86 */
};

#include <linux/kvm_memslots.h>

struct kvm_vcpu_gate {
	int state;
	wait_queue_head_t waiters;
	struct rcuwait holder;
	struct lockdep_map dep_map;
};

#define KVM_MAX_VCPUS		4
#define KVM_REQ_LEAVE_GATE	5

struct kvm {
	struct mutex slots_lock;	/* held by whoever changes slots */
	unsigned long nr_memslot_pages;
	struct kvm_memslots __rcu *memslots[KVM_ADDRESS_SPACE_NUM];
	struct kvm_memslot_space memslot_space[KVM_ADDRESS_SPACE_NUM];
	struct srcu_struct srcu;
	u64 manual_dirty_log_protect;
	struct kvm_vcpu_gate gate;
	atomic_t online_vcpus;
	struct kvm_vcpu *vcpus[KVM_MAX_VCPUS];
	struct {
		unsigned long secure_guest;
		bool svm_enabled;
		int lpid;
	} arch;
};

struct kvm_vcpu {
	struct kvm *kvm;
	int as_id;
	int vcpu_idx;
	unsigned long requests;
	bool in_gate;
	u64 last_used_gen;
	struct kvm_memory_slot *last_used_slot;
};

#include "kvm_common.h"

static inline struct kvm_memslots *kvm_vcpu_memslots(struct kvm_vcpu *vcpu)
{
	return __kvm_memslots(vcpu->kvm, vcpu->as_id);
}

static inline struct kvm_memslots *kvm_memslots(struct kvm *kvm)
{
	return __kvm_memslots(kvm, 0);
}

int __kvm_set_memory_region(struct kvm *kvm,
			    const struct kvm_userspace_memory_region *mem);
int kvm_set_memory_region(struct kvm *kvm,
			  const struct kvm_userspace_memory_region *mem);
int kvm_vm_ioctl_set_memory_region(struct kvm *kvm,
				   struct kvm_userspace_memory_region *mem);
struct kvm_memory_slot *kvm_vcpu_gfn_to_memslot(struct kvm_vcpu *vcpu,
						gfn_t gfn);
void *kvm_memslot_calloc(size_t n, size_t size);

void trace_kvm_swap_active_memslots(u16 as_id, unsigned int set,
				    u64 generation);
void trace_kvm_memslot_update(enum kvm_mr_change change,
			      const struct kvm_memory_slot *old,
			      const struct kvm_memory_slot *new,
			      u64 generation, int result);

#endif /* __KVM_HOST_H */
