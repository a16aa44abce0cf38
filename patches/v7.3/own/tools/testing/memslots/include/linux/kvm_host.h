/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_HOST_H
#define __KVM_HOST_H

/*
 * A KVM of which there is little but its memslots, for kvm_main.c and the real
 * header, of which base.mk says what is taken.
 */
#include "shim.h"

typedef u64 gfn_t;
typedef u64 uoff_t;
typedef unsigned long pgoff_t;
struct module;

#define CONFIG_KVM_GUEST_MEMFD

/* CLASS(fd, f) takes no reference, for want of a destructor. */
struct file {
	unsigned int users;
};

struct file *shim_fd(int fd);
void fput(struct file *file);
#define CLASS(class, name)	struct file *(name) = shim_##class
#define fd_file(f)		(f)

#define __DECLARE_FLEX_ARRAY(type, name)	type name[0]
#include <linux/kvm.h>

#define ilog2(n)		(BITS_PER_LONG - 1 - __builtin_clzl(n))
#define __context_unsafe(comment)
#define hlist_del_init_rcu(n)	hlist_del_init(n)
#define hlist_add_head_rcu(n, h) hlist_add_head(n, h)
#include <linux/hashtable.h>
#include <linux/interval_tree.h>

#define KVM_MAX_NR_ADDRESS_SPACES	2
#define KVM_INTERNAL_MEM_SLOTS	3
#define KVM_MAX_VCPUS		4
#define KVM_REQ_LEAVE_GATE	4
#define TASK_SIZE		BIT(BITS_PER_LONG == 64 ? 47 : 31)

#define fallthrough		__attribute__((fallthrough))
#define BUG()			fail("BUG")
#define WARN_ON(cond)		WARN_ON_ONCE(cond)
#define vfree(p)		shim_free(p, true)
#define atomic_long_read(v)	READ_ONCE((v)->counter)
#define atomic_long_set(v, i)	WRITE_ONCE((v)->counter, i)

/* No MMU notifier is ever in progress. */
#define spinlock_t		struct mutex
#define spin_lock(lock)		mutex_lock(lock)
#define spin_unlock(lock)	mutex_unlock(lock)
#define prepare_to_rcuwait(w)	((void)(w))
#define finish_rcuwait(w)	((void)(w))
#define set_current_state(state)
#define schedule()		fail("nobody would wake it up")

struct kvm_arch_memory_slot {
	gfn_t *base;		/* allocated, says which gfn it was made for */
};

#include "extracted_kvm_types.h"

struct kvm {
	spinlock_t mn_invalidate_lock;	/* as in the kernel */
	struct mutex slots_lock;	/* held by whoever changes slots */
	struct mutex slots_arch_lock;	/* for arch data of slots in use */
	unsigned long nr_memslot_pages;
	struct kvm_memslots __memslots[KVM_MAX_NR_ADDRESS_SPACES][2];
	struct kvm_memslots __rcu *memslots[KVM_MAX_NR_ADDRESS_SPACES];
	atomic_t nr_memslots_dirty_logging;
	unsigned long mn_active_invalidate_count;
	struct rcuwait mn_memslots_update_rcuwait;
	struct srcu_struct srcu;
	u64 manual_dirty_log_protect;
	u32 dirty_ring_size;
	struct kvm_vcpu_gate gate;
	atomic_t online_vcpus;
	struct kvm_vcpu *vcpus[KVM_MAX_VCPUS];
};

struct kvm_vcpu {
	struct kvm *kvm;
	int vcpu_idx;
	unsigned long requests;
	bool in_gate;
};

#define kvm_arch_nr_memslot_as_ids(kvm)	((void)(kvm), KVM_MAX_NR_ADDRESS_SPACES)
#define kvm_use_dirty_bitmap(kvm)	(!(kvm)->dirty_ring_size)

#include "kvm_common.h"

int kvm_arch_refresh_memslot(struct kvm *kvm, struct kvm_memory_slot *slot);
unsigned int kvm_arch_memslot_metadata_kinds(struct kvm *kvm);

#endif /* __KVM_HOST_H */
