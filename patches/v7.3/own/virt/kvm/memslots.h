/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMSLOTS_INTERNAL_H
#define __KVM_MEMSLOTS_INTERNAL_H

/* What memory_regions.h needs; the first part is in kvm_main.c. */
#include <linux/file.h>
#include <linux/kvm_host.h>

#include "guest_memfd.h"

#define kvm_map_region kvm_userspace_memory_region2

struct kvm_memslots *kvm_get_inactive_memslots(struct kvm *kvm, int as_id);
void kvm_memslots_replace(struct kvm_memslots *slots,
			  struct kvm_memory_slot *old,
			  struct kvm_memory_slot *new);
void kvm_swap_active_memslots(struct kvm *kvm, int as_id);
int kvm_prepare_memory_region(struct kvm *kvm,
			      const struct kvm_memory_slot *old,
			      struct kvm_memory_slot *new,
			      enum kvm_mr_change change);
void kvm_commit_memory_region(struct kvm *kvm, struct kvm_memory_slot *old,
			      const struct kvm_memory_slot *new,
			      enum kvm_mr_change change);
void kvm_free_memslot(struct kvm *kvm, struct kvm_memory_slot *slot);
int kvm_check_map_region(struct kvm *kvm, const struct kvm_map_region *region,
			 size_t size);

static inline struct kvm_memory_slot *
kvm_memslot_at_or_above(struct kvm_memslots *slots, gfn_t gfn)
{
	struct kvm_memslot_iter iter;

	kvm_memslot_iter_start(&iter, slots, gfn);
	return iter.node ? iter.slot : NULL;
}

static inline struct kvm_memory_slot *
kvm_memslot_next(struct kvm_memslots *slots, struct kvm_memory_slot *slot)
{
	struct rb_node *node = rb_next(&slot->gfn_node[slots->node_idx]);

	return node ? container_of(node, struct kvm_memory_slot,
				   gfn_node[slots->node_idx]) : NULL;
}

/* Neighbours are not remembered, and a set is not copied. */
struct kvm_memslots_place {
};

static inline bool kvm_memslots_insert(struct kvm_memslots *slots,
				       struct kvm_memory_slot *new,
				       struct kvm_memslots_place *place)
{
	struct kvm_memory_slot *above;

	above = kvm_memslot_at_or_above(slots, new->base_gfn);
	if (above && above->base_gfn < new->base_gfn + new->npages)
		return false;

	kvm_memslots_replace(slots, NULL, new);
	return true;
}

#define kvm_memslots_try_copy(slots, from, nr_changes)	false

/* Each set has its own hash by id, of fixed size. */
#define kvm_memslots_replace_id(slots, old, new)	do { } while (0)
#define kvm_commit_memslot_id(kvm, old, new)		kfree(old)

static inline int kvm_memslots_fit_ids(struct kvm_memslots *slots, int more)
{
	return 0;
}

/* kvm_commit_memory_region() counts them. */
#define kvm_memslots_count_pages(kvm, deleted, created)	do { } while (0)

/* vCPUs, and KVMGT, allocate arch data of slots in the active set. */
#define kvm_lock_slots_arch(kvm)	mutex_lock(&(kvm)->slots_arch_lock)
#define kvm_unlock_slots_arch(kvm)	mutex_unlock(&(kvm)->slots_arch_lock)

static inline int kvm_refresh_slot_arch(struct kvm *kvm,
					const struct kvm_memory_slot *old,
					struct kvm_memory_slot *new)
{
	if (!old)
		return kvm_arch_refresh_memslot(kvm, new);
	new->arch = old->arch;
	return 0;
}

/* A dirty ring names a slot by its id. */
static inline bool kvm_memslot_can_inherit(struct kvm *kvm,
					   const struct kvm_memory_slot *old,
					   const struct kvm_map_region *region)
{
	/* Bound by the address of the slot, and unbound when it is freed. */
	if (kvm_slot_has_gmem(old))
		return false;
	return old->id == region->slot || !kvm->dirty_ring_size ||
	       !((old->flags | region->flags) & KVM_MEM_LOG_DIRTY_PAGES);
}

static inline bool
kvm_memslot_same_backing(const struct kvm_memory_slot *slot,
			 const struct kvm_map_region *region)
{
	if ((slot->flags ^ region->flags) & KVM_MEM_GUEST_MEMFD)
		return false;
#ifdef CONFIG_KVM_GUEST_MEMFD
	if (kvm_slot_has_gmem(slot)) {
		CLASS(fd, f)(region->guest_memfd);

		return fd_file(f) && fd_file(f) == READ_ONCE(slot->gmem.file) &&
		       slot->gmem.pgoff ==
		       region->guest_memfd_offset >> PAGE_SHIFT;
	}
#endif
	return true;
}

static inline int kvm_memslot_get_backing(struct kvm *kvm,
					  struct kvm_memory_slot *new,
					  const struct kvm_map_region *region)
{
	return kvm_slot_has_gmem(new) ?
	       kvm_gmem_prepare_memory_region(kvm, new, region->guest_memfd,
					      region->guest_memfd_offset) : 0;
}

#define kvm_memslot_bind_backing(kvm, new)				\
	(kvm_slot_has_gmem(new) ? kvm_gmem_commit_memory_region(kvm, new) : 0)

/* Do not unbind what another slot may have bound. */
static inline void kvm_memslot_put_backing(struct kvm_memory_slot *new,
					   bool bound)
{
#ifdef CONFIG_KVM_GUEST_MEMFD
	if (!kvm_slot_has_gmem(new))
		return;
	fput(new->gmem.file);
	if (!bound)
		new->gmem.file = NULL;
#endif
}

#endif /* __KVM_MEMSLOTS_INTERNAL_H */
