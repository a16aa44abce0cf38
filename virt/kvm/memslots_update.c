// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change one memslot, given a valid request.
 *
 *   CREATE, FLAGS_ONLY   DELETE, MOVE
 *
 *                        replace the slot in the inactive set by a copy marked
 *                        INVALID; swap the sets; let the architecture drop all
 *                        mappings of the slot; no new ones can appear
 *   prepare              prepare; on failure, swap the sets again
 *   insert the new slot into the inactive set, in place of the old one if any
 *   swap the sets
 *   update the other set
 *   commit
 *
 * Swapping makes the inactive set the active one, and waits until nobody reads
 * the other.  Everything that can fail comes before the last swap.
 */
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <trace/events/kvm.h>

#include "memslots.h"

/**
 * kvm_get_inactive_memslots - get the set that readers do not see
 * @kvm: the VM
 * @as_id: the address space
 *
 * Context: kvm->slots_lock held.
 * Return: the set.
 */
struct kvm_memslots *kvm_get_inactive_memslots(struct kvm *kvm, int as_id)
{
	struct kvm_memslots *active = __kvm_memslots(kvm, as_id);

	return &kvm->memslot_space[as_id].sets[!active->node_idx];
}

/* Change the inactive set. */
static void kvm_replace_memslot(struct kvm *kvm, struct kvm_memory_slot *old,
				struct kvm_memory_slot *new)
{
	int as_id = new ? new->as_id : old->as_id;

	kvm_memslots_replace(kvm_get_inactive_memslots(kvm, as_id), old, new);
}

/**
 * kvm_arch_publish_memslots - make a set the active one
 * @kvm: the VM
 * @as_id: the address space
 * @slots: the set
 *
 * An architecture should override this if it has to move something from slots of
 * the active set to those of @slots while nobody looks it up.
 *
 * Context: kvm->slots_lock held.
 */
void __weak kvm_arch_publish_memslots(struct kvm *kvm, int as_id,
				      struct kvm_memslots *slots)
{
	rcu_assign_pointer(kvm->memslots[as_id], slots);
}

/**
 * kvm_swap_active_memslots - make the inactive set the active one
 * @kvm: the VM
 * @as_id: the address space
 *
 * On return, nobody reads the other set any more, and nobody has a pointer to a
 * slot that is only in the other set.
 *
 * Context: kvm->slots_lock held; waits for readers of kvm->srcu.
 */
void kvm_swap_active_memslots(struct kvm *kvm, int as_id)
{
	struct kvm_memslots *next = kvm_get_inactive_memslots(kvm, as_id);
	u64 gen = __kvm_memslots(kvm, as_id)->generation;

	/*
	 * Until all readers use the new set, they must not cache what they find
	 * in it beyond their SRCU critical section.  The flag tells them so,
	 * and no later generation matches one that has it.
	 */
	WARN_ON_ONCE(gen & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS);
	next->generation = gen | KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;

	/*
	 * The slot may have been freed.  A plain write is sufficient: the set
	 * has no readers until it is published.
	 */
	next->last_used_slot = NULL;

	kvm_arch_publish_memslots(kvm, as_id, next);
	kvm_vcpus_let_finish(kvm);
	synchronize_srcu_expedited(&kvm->srcu);

	/*
	 * Generations of different address spaces never match, so that a
	 * generation identifies the address space, too.
	 */
	gen += KVM_ADDRESS_SPACE_NUM;
	kvm_arch_memslots_updated(kvm, gen);
	WRITE_ONCE(next->generation, gen);
	trace_kvm_swap_active_memslots(as_id, next->node_idx, gen);
}

/**
 * kvm_memslot_ids_fit - resize a hash by id
 * @ids: the hash
 * @nr: number of slots to provide for
 *
 * If there is no memory, the hash keeps its size.  It fails only if there are no
 * buckets at all.
 *
 * Context: kvm->slots_lock held; may sleep.
 * Return: 0, or -ENOMEM.
 */
int kvm_memslot_ids_fit(struct kvm_memslot_ids *ids, unsigned int nr)
{
	unsigned int bits = kvm_memslot_ids_bits(ids, nr);
	struct hlist_head *buckets;

	if (ids->buckets && bits == ids->bits)
		return 0;

	buckets = kvcalloc(1U << bits, sizeof(*buckets),
			   GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!buckets)
		return ids->buckets ? 0 : -ENOMEM;

	kvfree(kvm_memslot_ids_rehash(ids, buckets, bits));
	return 0;
}

/**
 * kvm_memslot_calloc - allocate metadata of a memslot
 * @n: number of elements
 * @size: size of an element in bytes
 *
 * For the few bytes of a small slot, vmalloc() would use whole pages, plus its own
 * metadata; kmalloc() is not suitable for the size that a large slot needs.
 *
 * Context: may sleep.
 * Return: zeroed memory to be freed with kvfree(), charged to the memory
 * cgroup, or NULL.
 */
void *kvm_memslot_calloc(size_t n, size_t size)
{
	if (array_size(n, size) <= PAGE_SIZE)
		return kcalloc(n, size, GFP_KERNEL_ACCOUNT);
	return __vcalloc(n, size, GFP_KERNEL_ACCOUNT);
}

/**
 * kvm_memslot_init_bitmap - set up the dirty bitmap of a new slot
 * @kvm: the VM
 * @old: slot that @new replaces, with the same pages, or NULL
 * @new: the new slot; depending on its flags, it gets the bitmap of @old, a new
 *	 one, or none
 *
 * Context: kvm->slots_lock held; may sleep.
 * Return: 0, or -ENOMEM.
 */
int kvm_memslot_init_bitmap(struct kvm *kvm, const struct kvm_memory_slot *old,
			    struct kvm_memory_slot *new)
{
	new->dirty_bitmap = NULL;
	if (!(new->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return 0;

	if (old && old->dirty_bitmap) {
		new->dirty_bitmap = old->dirty_bitmap;
		return 0;
	}

	/* KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG use the second half. */
	new->dirty_bitmap = kvm_memslot_calloc(2, kvm_dirty_bitmap_bytes(new));
	if (!new->dirty_bitmap)
		return -ENOMEM;

	if (kvm_dirty_log_manual_protect_and_init_set(kvm))
		bitmap_set(new->dirty_bitmap, 0, new->npages);
	return 0;
}

/**
 * kvm_memslot_free_bitmap - free the dirty bitmap of a slot
 * @slot: the slot, or NULL
 * @other: slot that may share the bitmap, in which case it is kept; or NULL
 */
void kvm_memslot_free_bitmap(struct kvm_memory_slot *slot,
			     const struct kvm_memory_slot *other)
{
	if (slot && (!other || slot->dirty_bitmap != other->dirty_bitmap))
		kvfree(slot->dirty_bitmap);
}

/*
 * Replace @old by @invalid in the active set, and drop all mappings of @old.
 * The inactive set keeps @old.  @invalid shares bitmap and arch data with @old,
 * because MMU notifiers and reverse mappings still have to find them.
 */
static void kvm_invalidate_memslot(struct kvm *kvm, struct kvm_memory_slot *old,
				   struct kvm_memory_slot *invalid)
{
	invalid->base_gfn = old->base_gfn;
	invalid->npages = old->npages;
	invalid->userspace_addr = old->userspace_addr;
	invalid->dirty_bitmap = old->dirty_bitmap;
	invalid->flags = old->flags | KVM_MEMSLOT_INVALID;
	invalid->id = old->id;
	invalid->as_id = old->as_id;
	invalid->arch = old->arch;

	kvm_replace_memslot(kvm, old, invalid);
	kvm_swap_active_memslots(kvm, old->as_id);

	/*
	 * From here on, nobody maps a page of the slot, or uses one of its gfns
	 * as the root of a page table: gfn_to_hva() and kvm_is_visible_gfn()
	 * fail for an INVALID slot.
	 */
	kvm_arch_flush_shadow_memslot(kvm, old);
	kvm_arch_guest_memory_reclaimed(kvm);
}

/* Undo kvm_invalidate_memslot(), except for mappings, which faults restore. */
static void kvm_memslot_revalidate(struct kvm *kvm, struct kvm_memory_slot *old,
				   struct kvm_memory_slot *invalid)
{
	kvm_swap_active_memslots(kvm, old->as_id);
	kvm_replace_memslot(kvm, invalid, old);
}

/**
 * kvm_free_memslot - free a slot, its dirty bitmap and its arch data
 * @kvm: the VM
 * @slot: a slot that is in no set
 */
void kvm_free_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	kvm_memslot_free_bitmap(slot, NULL);
	kvm_arch_free_memslot(kvm, slot);
	kfree(slot);
}

/**
 * kvm_commit_memory_region - complete the change of a slot
 * @kvm: the VM
 * @old: the old slot, which is freed, or NULL
 * @new: the new slot, or NULL
 * @change: the kind of change
 *
 * Context: kvm->slots_lock held, both sets and the number of pages are up to date.
 */
void kvm_commit_memory_region(struct kvm *kvm, struct kvm_memory_slot *old,
			      struct kvm_memory_slot *new,
			      enum kvm_mr_change change)
{
	int as_id = new ? new->as_id : old->as_id;

	kvm_arch_commit_memory_region(kvm, old, new, change);
	trace_kvm_memslot_update(change, old, new,
				 __kvm_memslots(kvm, as_id)->generation, 0);
	if (change == KVM_MR_DELETE) {
		kvm_free_memslot(kvm, old);
	} else if (old) {
		/* The architecture has handed over or freed old->arch. */
		kvm_memslot_free_bitmap(old, new);
		kfree(old);
	}
}

/**
 * kvm_commit_memslot_id - complete the change of the id of a slot
 * @kvm: the VM
 * @old: the old slot, which is freed
 * @new: the new slot, which has taken over everything else
 *
 * Context: kvm->slots_lock held, both sets are up to date.
 */
void kvm_commit_memslot_id(struct kvm *kvm, struct kvm_memory_slot *old,
			   struct kvm_memory_slot *new)
{
	trace_kvm_memslot_update(KVM_MR_FLAGS_ONLY, old, new,
				 __kvm_memslots(kvm, new->as_id)->generation, 0);
	kfree(old);
}

/**
 * kvm_set_memslot - create, delete or move a memslot, or change its flags
 * @kvm: the VM
 * @old: the current slot, NULL for KVM_MR_CREATE
 * @new: the new slot, NULL for KVM_MR_DELETE; valid, allocated with kmalloc(),
 *	 its arch data a copy of that of @old or zero
 * @change: the kind of change
 *
 * On success, the VM owns @new, and @old is freed.  On error, nothing has changed,
 * except for mappings, which faults restore, and the caller still owns @new.
 *
 * Context: kvm->slots_lock held.  Sleeps; waits for readers of kvm->srcu.
 * Return: 0, -ENOMEM, or an error of kvm_arch_prepare_memory_region().
 */
int kvm_set_memslot(struct kvm *kvm, struct kvm_memory_slot *old,
		    struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	int as_id = new ? new->as_id : old->as_id;
	struct kvm_memslot_ids *ids = &kvm->memslot_space[as_id].ids;
	struct kvm_memory_slot *invalid = NULL;
	int r;

	lockdep_assert_held(&kvm->slots_lock);

	if (change == KVM_MR_CREATE) {
		r = kvm_memslot_ids_fit(ids, ids->nr + 1);
		if (r)
			goto out_trace;
	}

	if (new) {
		r = kvm_memslot_init_bitmap(kvm, old, new);
		if (r)
			goto out_trace;
	}

	if (change == KVM_MR_DELETE || change == KVM_MR_MOVE) {
		invalid = kzalloc(sizeof(*invalid), GFP_KERNEL_ACCOUNT);
		if (!invalid) {
			r = -ENOMEM;
			goto out_bitmap;
		}
		kvm_invalidate_memslot(kvm, old, invalid);
	}

	r = kvm_arch_prepare_memory_region(kvm, old, new, change);
	if (r)
		goto out_revalidate;

	/* Both sets hold @old, or the active one holds @invalid instead. */
	kvm_replace_memslot(kvm, old, new);
	kvm_swap_active_memslots(kvm, as_id);
	kvm_replace_memslot(kvm, invalid ?: old, new);
	kvm_memslot_ids_replace(ids, old, new);

	if (change == KVM_MR_CREATE)
		kvm->nr_memslot_pages += new->npages;
	else if (change == KVM_MR_DELETE)
		kvm->nr_memslot_pages -= old->npages;

	kvm_commit_memory_region(kvm, old, new, change);
	kfree(invalid);
	if (change == KVM_MR_DELETE)
		kvm_memslot_ids_fit(ids, ids->nr);
	return 0;

out_revalidate:
	if (invalid)
		kvm_memslot_revalidate(kvm, old, invalid);
	kfree(invalid);
out_bitmap:
	kvm_memslot_free_bitmap(new, old);
out_trace:
	trace_kvm_memslot_update(change, old, new,
				 __kvm_memslots(kvm, as_id)->generation, r);
	return r;
}

/**
 * kvm_memslots_init - initialize the address spaces of a new VM
 * @kvm: the VM
 *
 * Context: @kvm is not visible to others yet.
 */
void kvm_memslots_init(struct kvm *kvm)
{
	int i;

	for (i = 0; i < KVM_ADDRESS_SPACE_NUM; i++) {
		kvm_memslot_space_init(&kvm->memslot_space[i], i);
		rcu_assign_pointer(kvm->memslots[i],
				   &kvm->memslot_space[i].sets[0]);
	}
}

/**
 * kvm_memslots_free - free all memslots of a VM
 * @kvm: the VM
 *
 * Context: @kvm is not visible to others any more.
 */
void kvm_memslots_free(struct kvm *kvm)
{
	int i;

	for (i = 0; i < KVM_ADDRESS_SPACE_NUM; i++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, i);
		struct kvm_memory_slot *slot, *next;

		rbtree_postorder_for_each_entry_safe(slot, next,
						     &slots->gfn_tree,
						     gfn_node[slots->node_idx])
			kvm_free_memslot(kvm, slot);
		kvfree(kvm->memslot_space[i].ids.buckets);
	}
}
