/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMSLOTS_INTERNAL_H
#define __KVM_MEMSLOTS_INTERNAL_H

/*
 * The interface of memory_regions.h to the code that stores memslots; see
 * memslots_gmem.h for guest_memfd.  The functions declared first are in
 * kvm_main.c.
 */
#include <linux/kvm_host.h>

#include "memslots_gmem.h"

struct kvm_memslots *kvm_get_inactive_memslots(struct kvm *kvm, int as_id);
void kvm_memslots_replace(struct kvm_memslots *slots,
			  struct kvm_memory_slot *old,
			  struct kvm_memory_slot *new);
/*
 * Drops slots_arch_lock, and waits for MMU notifiers in progress, also with vCPUs
 * held: none of them waits for a vCPU.
 */
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

/* The end of the slot that was inserted last, and the slot above it. */
struct kvm_memslots_place {
	gfn_t end;
	struct kvm_memory_slot *above;
};

static inline bool kvm_memslots_insert(struct kvm_memslots *slots,
				       struct kvm_memory_slot *new,
				       struct kvm_memslots_place *place)
{
	/* Look it up, unless @new belongs right behind the last one. */
	if (!place->end || new->base_gfn < place->end ||
	    (place->above && place->above->base_gfn <= new->base_gfn))
		place->above = kvm_memslot_at_or_above(slots, new->base_gfn);

	/* kvm_insert_gfn_node() must not see the same base_gfn twice. */
	place->end = new->base_gfn + new->npages;
	if (place->above && place->above->base_gfn < place->end)
		return false;

	kvm_memslots_replace(slots, NULL, new);
	return true;
}

/* The last used slot may be one that the set will not have any more. */
static inline void kvm_memslots_reset_own(struct kvm_memslots *slots)
{
	hash_init(slots->id_hash);
	atomic_long_set(&slots->last_used_slot, 0);
}

static inline void kvm_memslots_add_own_id(struct kvm_memslots *slots,
					   struct kvm_memory_slot *slot)
{
	hash_add(slots->id_hash, &slot->id_node[slots->node_idx], slot->id);
}

/* Each set has its own hash by id, of fixed size. */
static inline void kvm_memslots_replace_id(struct kvm_memslots *slots,
					   struct kvm_memory_slot *old,
					   struct kvm_memory_slot *new)
{
}

static inline int kvm_memslots_fit_ids(struct kvm_memslots *slots, int more)
{
	return 0;
}

/* kvm_commit_memory_region() counts them. */
static inline void kvm_memslots_count_pages(struct kvm *kvm, u64 deleted,
					    u64 created)
{
}

static inline void kvm_commit_memslot_id(struct kvm *kvm,
					 struct kvm_memory_slot *old,
					 struct kvm_memory_slot *new)
{
	kfree(old);
}

/* vCPUs, and KVMGT, allocate arch data of slots in the active set. */
static inline void kvm_lock_slots_arch(struct kvm *kvm)
{
	mutex_lock(&kvm->slots_arch_lock);
}

static inline void kvm_unlock_slots_arch(struct kvm *kvm)
{
	mutex_unlock(&kvm->slots_arch_lock);
}

static inline unsigned int kvm_slots_arch_kinds(struct kvm *kvm)
{
	return kvm_arch_memslot_metadata_kinds(kvm);
}

static inline int kvm_refresh_slot_arch(struct kvm *kvm,
					const struct kvm_memory_slot *old,
					struct kvm_memory_slot *new)
{
	if (!old)
		return kvm_arch_refresh_memslot(kvm, new);
	new->arch = old->arch;
	return 0;
}

#endif /* __KVM_MEMSLOTS_INTERNAL_H */
