// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compute the difference between the current memslots and a list of regions.
 *
 * A slot that is listed without a change is kept.  A slot whose pages and
 * addresses are listed with another id or another KVM_MEM_LOG_DIRTY_PAGES flag is
 * replaced, and its metadata is handed over.  All other slots are deleted, and
 * all other regions are created.
 *
 * A created slot inherits the mappings of the gfns that it has in common with a
 * deleted one, if these have the same host memory and access in both, and the
 * architecture can hand them over.  What is left of deleted slots is gone.
 *
 * This file does not wait for readers.
 */
#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/interval_tree.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/rbtree_augmented.h>
#include <linux/slab.h>
#include <linux/swab.h>

#include "memory_regions.h"

/**
 * kvm_arch_memslot_inherit - let a new slot take over mappings of an old one
 * @kvm: the VM
 * @old: a slot of the active set
 * @new: a slot to create that overlaps @old; gfns of both have the same host
 *	 memory and access in both
 *
 * Called any number of times, for each old slot that @new overlaps, until
 * kvm_arch_prepare_memory_region() is called for @new; vCPUs run.  May initialize
 * new->arch, for that hook to find; kvm_arch_free_memslot() undoes that.
 *
 * If the architecture keeps mappings that cross the ends of a slot, it must drop
 * them by the time it commits @new, or else when a fault needs more access than
 * they grant.
 *
 * Context: kvm->slots_lock held.  May sleep.
 * Return: true if the mappings of the common gfns stay.  Once this has returned
 * true for two slots, it must do so on every further call for them.
 */
bool __weak kvm_arch_memslot_inherit(struct kvm *kvm,
				     const struct kvm_memory_slot *old,
				     struct kvm_memory_slot *new)
{
	return true;
}

static bool kvm_memslot_is_internal(const struct kvm_memory_slot *slot)
{
	return slot->id >= KVM_USER_MEM_SLOTS;
}

/* Check whether everything that mappings depend on is the same. */
static bool kvm_memslot_maps(const struct kvm_memory_slot *slot,
			     const struct kvm_map_region *region)
{
	return slot->base_gfn == region->guest_phys_addr >> PAGE_SHIFT &&
	       slot->npages == region->memory_size >> PAGE_SHIFT &&
	       slot->userspace_addr == (unsigned long)region->userspace_addr &&
	       !((slot->flags ^ region->flags) & KVM_MEM_READONLY) &&
	       kvm_memslot_same_backing(slot, region);
}

/*
 * Find the first slot of a set, or if @last is not NULL, the first one after
 * @last, that has gfns in common with @slot.  Return NULL if there is none.
 */
static struct kvm_memory_slot *
kvm_memslot_next_common(struct kvm_memslots *slots,
			struct kvm_memory_slot *last,
			const struct kvm_memory_slot *slot)
{
	struct kvm_memory_slot *next;

	next = last ? kvm_memslot_next(slots, last) :
		      kvm_memslot_at_or_above(slots, slot->base_gfn);
	if (next && next->base_gfn >= slot->base_gfn + slot->npages)
		return NULL;
	return next;
}

/* Get the common gfns of two slots; true if their host addresses are the same. */
static bool kvm_memslots_common(const struct kvm_memory_slot *old,
				const struct kvm_memory_slot *new,
				gfn_t *start, gfn_t *end)
{
	*start = max(old->base_gfn, new->base_gfn);
	*end = min(old->base_gfn + old->npages, new->base_gfn + new->npages);

	return old->userspace_addr + ((*start - old->base_gfn) << PAGE_SHIFT) ==
	       new->userspace_addr + ((*start - new->base_gfn) << PAGE_SHIFT);
}

/*
 * Check whether @new inherits the mappings of the common gfns of two slots.
 * @old is not an internal slot of KVM, as these stay, and @new must not overlap
 * them.
 */
static bool kvm_memslot_inherits(struct kvm *kvm,
				 const struct kvm_memory_slot *old,
				 struct kvm_memory_slot *new,
				 gfn_t *start, gfn_t *end)
{
	return kvm_memslots_common(old, new, start, end) &&
	       !((old->flags ^ new->flags) & KVM_MEM_READONLY) &&
	       kvm_memslot_can_inherit(kvm, old, new) &&
	       kvm_arch_memslot_inherit(kvm, old, new);
}

/* User slots that are not kept: their number, the first one, the highest id + 1. */
struct kvm_memslots_rest {
	struct kvm_memory_slot *first;
	unsigned int nr, end;
};

static void kvm_memslots_rest_add(struct kvm_memslots_rest *rest,
				  struct kvm_memory_slot *slot)
{
	if (kvm_memslot_is_internal(slot))
		return;

	rest->first = rest->first ?: slot;
	rest->end = max_t(unsigned int, rest->end, slot->id + 1);
	rest->nr++;
}

/*
 * Find the slot at @gfn or above: look it up, or if @walk, walk on from @slot.
 * Add the slots that are skipped to @rest.  Not inlined, as regions that do not
 * change do not need it.
 */
static noinline struct kvm_memory_slot *
kvm_memslots_seek(struct kvm_memslots *slots, struct kvm_memory_slot *slot,
		  bool walk, gfn_t gfn, struct kvm_memslots_rest *rest)
{
	if (!walk)
		slot = kvm_memslot_at_or_above(slots, gfn);

	while (slot && slot->base_gfn < gfn) {
		kvm_memslots_rest_add(rest, slot);
		slot = kvm_memslot_next(slots, slot);
	}
	return slot;
}

/*
 * Move regions that differ from @slots to the front of @regions, set the bits
 * of the ids of all other regions in @kept, which has @nr_bits bits, and add
 * slots that are not kept to @rest.  Return the number of regions that differ.
 *
 * Slots are in ascending order.  If regions are, too, look at each slot once.
 */
static int kvm_memslots_diff_sort(struct kvm_memslots *slots,
				  const struct kvm_map_regions *regions,
				  unsigned long *kept, unsigned int nr_bits,
				  struct kvm_memslots_rest *rest)
{
	struct kvm_memory_slot *slot = kvm_memslot_at_or_above(slots, 0);
	unsigned int i, nr_changed = 0;
	bool ascending = true;
	gfn_t gfn, last = 0;

	for (i = 0; i < regions->nr; i++) {
		struct kvm_map_region *region = kvm_nth_region(regions, i);

		kvm_memslots_cond_resched(i);
		if (__test_and_set_bit(region->slot, kept))
			return -EEXIST;

		gfn = region->guest_phys_addr >> PAGE_SHIFT;
		if (!slot || slot->base_gfn != gfn) {
			ascending = ascending && gfn >= last;
			slot = kvm_memslots_seek(slots, slot, ascending, gfn,
						 rest);
		}
		last = gfn;
		if (slot && slot->id == region->slot &&
		    !((slot->flags ^ region->flags) & KVM_MEM_LOG_DIRTY_PAGES) &&
		    kvm_memslot_maps(slot, region)) {
			slot = kvm_memslot_next(slots, slot);
			continue;
		}
		if (nr_changed != i)
			memcpy(kvm_nth_region(regions, nr_changed), region,
			       regions->size);
		nr_changed++;
	}
	for (i = 0; i < nr_changed; i++)
		__clear_bit(kvm_nth_region(regions, i)->slot, kept);

	if (!ascending) {
		*rest = (struct kvm_memslots_rest) {};
		slot = kvm_memslot_at_or_above(slots, 0);
	}
	for (; slot; slot = kvm_memslot_next(slots, slot)) {
		if (slot->id >= nr_bits || !test_bit(slot->id, kept))
			kvm_memslots_rest_add(rest, slot);
	}
	return nr_changed;
}

/* Add a slot for @region to @diff, and find the slot that it replaces, if any. */
static int kvm_memslots_diff_add(struct kvm *kvm,
				 struct kvm_memslots_diff *diff,
				 struct kvm_memslots *slots, u16 as_id,
				 const struct kvm_map_region *region,
				 unsigned long *stays)
{
	struct kvm_memslot_change *change = &diff->changed[diff->nr_changed];
	struct kvm_memory_slot *old, *new;
	int r;

	new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!new)
		return -ENOMEM;

	new->base_gfn = region->guest_phys_addr >> PAGE_SHIFT;
	new->npages = region->memory_size >> PAGE_SHIFT;
	new->userspace_addr = region->userspace_addr;
	new->flags = region->flags;
	new->id = region->slot;
	new->as_id = as_id;

	old = kvm_memslot_at_or_above(slots, new->base_gfn);
	if (old && !kvm_memslot_is_internal(old) &&
	    kvm_memslot_maps(old, region) &&
	    kvm_memslot_can_inherit(kvm, old, new) &&
	    !__test_and_set_bit(old->id, stays)) {
		change->old = old;
		new->arch = old->arch;
	} else {
		r = kvm_memslot_get_backing(kvm, new, region);
		if (r) {
			kfree(new);
			return r;
		}
		diff->has_backing |= kvm_memslot_has_backing(new);
		diff->nr_created++;
		diff->pages_created += new->npages;
	}
	change->new = new;
	diff->nr_changed++;
	return 0;
}

/**
 * kvm_memslots_diff - compute the changes that lead to a list of regions
 * @kvm: the VM
 * @as_id: the address space
 * @regions: all user slots of the new map, in any order; each one checked by
 *	     kvm_check_map_region(), not empty, and with the id of a user slot;
 *	     overwritten
 * @diff: result
 *
 * Does not check for overlapping slots: kvm_memslots_diff_apply() does.
 *
 * The caller owns the new slots, which are allocated with kmalloc() and have no
 * dirty bitmap, and arch data only if they replace a slot; a reference to the
 * backing of created ones; and both arrays of @diff, to be freed with kvfree().
 * On error, there is nothing to free.
 *
 * Context: kvm->slots_lock held.  May sleep.
 * Return: 0, -EEXIST if an id is listed twice, -ENOMEM, or an error of
 * kvm_memslot_get_backing().
 */
int kvm_memslots_diff(struct kvm *kvm, u16 as_id,
		      const struct kvm_map_regions *regions,
		      struct kvm_memslots_diff *diff)
{
	struct kvm_memslots *slots = __kvm_memslots(kvm, as_id);
	unsigned int nr_changed, nr_deleted, nr_bits = 1, i;
	unsigned long *kept, *stays = NULL;
	struct kvm_memslots_rest rest = {};
	struct kvm_memory_slot *slot;
	int r;

	*diff = (struct kvm_memslots_diff) { .nr_regions = regions->nr };

	for (i = 0; i < regions->nr; i++)
		nr_bits = max(nr_bits, kvm_nth_region(regions, i)->slot + 1);
	kept = kvcalloc(BITS_TO_LONGS(nr_bits), sizeof(*kept),
			GFP_KERNEL_ACCOUNT);
	if (!kept)
		return -ENOMEM;

	r = kvm_memslots_diff_sort(slots, regions, kept, nr_bits, &rest);
	if (r < 0)
		goto out;

	nr_changed = r;
	r = 0;
	if (!nr_changed && !rest.nr)
		goto out;

	r = -ENOMEM;
	i = max(nr_bits, rest.end);
	stays = kvcalloc(BITS_TO_LONGS(i), sizeof(*stays), GFP_KERNEL_ACCOUNT);
	diff->changed = kvcalloc(nr_changed ?: 1, sizeof(*diff->changed),
				 GFP_KERNEL_ACCOUNT);
	diff->deleted = kvcalloc(rest.nr ?: 1, sizeof(*diff->deleted),
				 GFP_KERNEL_ACCOUNT);
	if (!stays || !diff->changed || !diff->deleted)
		goto out_free;

	bitmap_copy(stays, kept, nr_bits);

	for (i = 0; i < nr_changed; i++) {
		kvm_memslots_cond_resched(i);
		r = kvm_memslots_diff_add(kvm, diff, slots, as_id,
					  kvm_nth_region(regions, i), stays);
		if (r)
			goto out_free;
	}
	r = 0;
	/* Of the rest, what is not replaced is deleted. */
	nr_deleted = rest.nr - (nr_changed - diff->nr_created);
	for (slot = rest.first; diff->nr_deleted < nr_deleted;
	     slot = kvm_memslot_next(slots, slot)) {
		if (kvm_memslot_is_internal(slot) || test_bit(slot->id, stays))
			continue;
		diff->deleted[diff->nr_deleted++] = slot;
		diff->pages_deleted += slot->npages;
	}
	goto out;

out_free:
	for (i = 0; i < diff->nr_changed; i++) {
		if (!diff->changed[i].old)
			kvm_memslot_put_backing(diff->changed[i].new, false);
		kfree(diff->changed[i].new);
	}
	kvfree(diff->changed);
	kvfree(diff->deleted);
	*diff = (struct kvm_memslots_diff) {};
out:
	kvfree(stays);
	kvfree(kept);
	return r;
}

static void kvm_memslots_diff_undo_first(const struct kvm_memslots_diff *diff,
					 unsigned int nr,
					 struct kvm_memslots *slots)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace(slots, diff->changed[i].new,
				     diff->changed[i].old);
	}
	for (i = 0; i < diff->nr_deleted; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace(slots, NULL, diff->deleted[i]);
	}
}

/**
 * kvm_memslots_diff_apply - apply a difference to the inactive set
 * @diff: the difference
 * @slots: the inactive set, same slots as in the active one
 *
 * Context: kvm->slots_lock held, and nobody reads @slots.
 * Return: 0, or -EEXIST if slots would overlap, with @slots unchanged.
 */
int kvm_memslots_diff_apply(const struct kvm_memslots_diff *diff,
			    struct kvm_memslots *slots)
{
	struct kvm_memslots_place place = {};
	unsigned int i;

	for (i = 0; i < diff->nr_deleted; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace(slots, diff->deleted[i], NULL);
	}

	/* Regions in ascending order are quicker to insert. */
	for (i = 0; i < diff->nr_changed; i++) {
		const struct kvm_memslot_change *change = &diff->changed[i];

		kvm_memslots_cond_resched(i);
		/* A slot that replaces another one cannot overlap. */
		if (change->old) {
			kvm_memslots_replace(slots, change->old, change->new);
			place = (struct kvm_memslots_place) {};
		} else if (!kvm_memslots_insert(slots, change->new, &place)) {
			kvm_memslots_diff_undo_first(diff, i, slots);
			return -EEXIST;
		}
	}
	return 0;
}

static void kvm_memslots_diff_add_gone(struct kvm_memslots_diff *diff,
				       struct kvm_memory_slot *old,
				       gfn_t start, gfn_t end)
{
	if (start == end)
		return;

	diff->gone[diff->nr_gone++] = (struct kvm_memslot_range) {
		.slot = old,
		.base_gfn = start,
		.npages = end - start,
	};
}

/*
 * Find a slot that is logged while the new one is not, or the other way round, and
 * hands over mappings to it; or NULL.
 */
static struct kvm_memory_slot *
kvm_memslot_find_relogged(struct kvm *kvm, struct kvm_memslots *slots,
			  struct kvm_memory_slot *new)
{
	struct kvm_memory_slot *old = NULL;
	gfn_t start, end;

	while ((old = kvm_memslot_next_common(slots, old, new))) {
		if ((old->flags ^ new->flags) & KVM_MEM_LOG_DIRTY_PAGES &&
		    kvm_memslot_inherits(kvm, old, new, &start, &end))
			return old;
	}
	return NULL;
}

/**
 * kvm_memslots_diff_find_gone - find the mappings that have to be dropped
 * @kvm: the VM
 * @diff: the difference
 * @active: the active set
 * @slots: the inactive set, with the difference applied
 *
 * New slots inherit all other mappings.  Therefore, those that are created have
 * to be freed with kvm_free_memslot(), even on error.  This also finds those that
 * inherit mappings for which logging is enabled or disabled, see @relogged of
 * struct kvm_memslot_change.
 *
 * Context: kvm->slots_lock held, and nobody reads @slots.  May sleep.
 * Return: 0 or -ENOMEM.
 */
int kvm_memslots_diff_find_gone(struct kvm *kvm, struct kvm_memslots_diff *diff,
				struct kvm_memslots *active,
				struct kvm_memslots *slots)
{
	struct kvm_memslot_change *change;
	unsigned int i;

	if (!diff->nr_deleted)
		return 0;

	/* At most one before each new slot, one at the end of each old one. */
	diff->gone = kvcalloc(diff->nr_deleted + diff->nr_created,
			      sizeof(*diff->gone), GFP_KERNEL_ACCOUNT);
	if (!diff->gone)
		return -ENOMEM;

	for (i = 0; i < diff->nr_deleted; i++) {
		struct kvm_memory_slot *old = diff->deleted[i], *new = NULL;
		gfn_t gfn = old->base_gfn, start, end;

		kvm_memslots_cond_resched(i);
		while ((new = kvm_memslot_next_common(slots, new, old))) {
			if (!kvm_memslot_inherits(kvm, old, new, &start, &end))
				continue;
			kvm_memslots_diff_add_gone(diff, old, gfn, start);
			gfn = end;
		}
		kvm_memslots_diff_add_gone(diff, old, gfn,
					   old->base_gfn + old->npages);
	}

	/* If the architecture kept mappings above, it does so here, too. */
	for (i = 0; i < diff->nr_changed; i++) {
		kvm_memslots_cond_resched(i);
		change = &diff->changed[i];
		if (change->old)
			continue;
		change->relogged = kvm_memslot_find_relogged(kvm, active,
							     change->new);
	}
	return 0;
}

/* Add @bytes to @node unless it is NULL. */
static struct rb_node *kvm_rb_moved(struct rb_node *node, long bytes)
{
	return node ? (void *)node + bytes : NULL;
}

static void kvm_rb_copy(struct rb_node *node, long bytes)
{
	struct rb_node *copy = (void *)node + bytes;

	rb_set_parent_color(copy, kvm_rb_moved(rb_parent(node), bytes),
			    rb_color(node));
	copy->rb_left = kvm_rb_moved(node->rb_left, bytes);
	copy->rb_right = kvm_rb_moved(node->rb_right, bytes);
}

/*
 * Make the inactive set @slots a copy of the active one; its contents are
 * discarded.  The distance between the nodes of a slot in the two sets is fixed.
 * So the trees can be copied in one walk, without searching.
 */
static void kvm_memslots_copy(struct kvm_memslots *slots,
			      struct kvm_memslots *from)
{
	long step = (long)slots->node_idx - (long)from->node_idx;
	long gfn_bytes = step * (long)sizeof(struct rb_node);
	long hva_bytes = step * (long)sizeof(struct interval_tree_node);
	struct kvm_memory_slot *slot;
	unsigned int i = 0;

	kvm_memslots_reset_own(slots);
	for (slot = kvm_memslot_at_or_above(from, 0); slot;
	     slot = kvm_memslot_next(from, slot)) {
		struct interval_tree_node *hva = &slot->hva_node[from->node_idx];
		struct interval_tree_node *copy;

		kvm_memslots_cond_resched(i++);
		copy = &slot->hva_node[slots->node_idx];
		kvm_rb_copy(&slot->gfn_node[from->node_idx], gfn_bytes);
		kvm_rb_copy(&hva->rb, hva_bytes);
		copy->start = hva->start;
		copy->last = hva->last;
		copy->__subtree_last = hva->__subtree_last;
		kvm_memslots_add_own_id(slots, slot);
	}
	slots->gfn_tree.rb_node = kvm_rb_moved(from->gfn_tree.rb_node,
					       gfn_bytes);
	slots->hva_tree.rb_root.rb_node =
		kvm_rb_moved(from->hva_tree.rb_root.rb_node, hva_bytes);
	slots->hva_tree.rb_leftmost = kvm_rb_moved(from->hva_tree.rb_leftmost,
						   hva_bytes);
}

/**
 * kvm_memslots_diff_follow - apply a difference to the formerly active set
 * @diff: the difference
 * @slots: the inactive set, without the difference
 * @active: the active set, with the difference applied
 *
 * Context: kvm->slots_lock held, and nobody reads @slots any more.
 */
void kvm_memslots_diff_follow(const struct kvm_memslots_diff *diff,
			      struct kvm_memslots *slots,
			      struct kvm_memslots *active)
{
	unsigned int i;

	/* Copying a slot takes a fraction of the time of inserting one. */
	if (diff->nr_deleted + diff->nr_changed > diff->nr_regions / 4) {
		kvm_memslots_copy(slots, active);
		return;
	}

	for (i = 0; i < diff->nr_deleted; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace(slots, diff->deleted[i], NULL);
	}
	for (i = 0; i < diff->nr_changed; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace(slots, diff->changed[i].old,
				     diff->changed[i].new);
	}
}

/**
 * kvm_memslots_diff_undo - revert a difference
 * @diff: the difference
 * @slots: the inactive set, with the difference applied
 *
 * Context: kvm->slots_lock held, and nobody reads @slots.
 */
void kvm_memslots_diff_undo(const struct kvm_memslots_diff *diff,
			    struct kvm_memslots *slots)
{
	kvm_memslots_diff_undo_first(diff, diff->nr_changed, slots);
}

/*
 * Dirty logs are little-endian on all architectures, so bitmap_set() would be
 * correct for whole longs only.
 */
static void kvm_memslot_fill_log(unsigned long *log, unsigned long bit,
				 unsigned long end, bool dirty)
{
	unsigned long i;

	for (i = 0; bit < end; i++) {
		kvm_memslots_cond_resched(i);
		if (bit % BITS_PER_LONG == 0 && end - bit >= BITS_PER_LONG) {
			log[bit / BITS_PER_LONG] = dirty ? ~0UL : 0;
			bit += BITS_PER_LONG;
			continue;
		}
		if (dirty)
			__set_bit_le(bit, log);
		else
			__clear_bit_le(bit, log);
		bit++;
	}
}

/* Convert a word of a dirty log to a number, or a number to a word. */
static unsigned long kvm_memslot_log_word(unsigned long word)
{
	return BITOP_LE_SWIZZLE ? swab(word) : word;
}

/* Merge @nr bits of the log @from into @to, where others may set bits, too. */
static void kvm_memslot_merge_log(unsigned long *to, unsigned long to_bit,
				  const unsigned long *from,
				  unsigned long from_bit, unsigned long nr)
{
	unsigned long word, n, i;

	for (i = 0; nr; i++) {
		kvm_memslots_cond_resched(i);
		/* Do not cross a word boundary in either log. */
		n = min3(nr, BITS_PER_LONG - to_bit % BITS_PER_LONG,
			 BITS_PER_LONG - from_bit % BITS_PER_LONG);
		word = kvm_memslot_log_word(from[from_bit / BITS_PER_LONG]);
		word = word >> from_bit % BITS_PER_LONG & GENMASK(n - 1, 0);
		word = kvm_memslot_log_word(word << to_bit % BITS_PER_LONG);
		if (word)
			atomic_long_or(word, (atomic_long_t *)
				       &to[to_bit / BITS_PER_LONG]);
		to_bit += n;
		from_bit += n;
		nr -= n;
	}
}

/**
 * kvm_memslot_start_log - initialize the dirty log of a new slot
 * @slots: the set with the old slots
 * @new: the new slot, with a dirty bitmap as on creation
 *
 * Pages whose host address changes are dirty.  Pages that keep their host address
 * and were logged start clean: kvm_memslot_carry_log() merges the old log later.
 *
 * Context: kvm->slots_lock held.  May sleep.
 */
void kvm_memslot_start_log(struct kvm_memslots *slots,
			   struct kvm_memory_slot *new)
{
	struct kvm_memory_slot *old = NULL;
	gfn_t start, end;

	while ((old = kvm_memslot_next_common(slots, old, new))) {
		bool moved = !kvm_memslots_common(old, new, &start, &end);

		if (moved || old->dirty_bitmap)
			kvm_memslot_fill_log(new->dirty_bitmap,
					     start - new->base_gfn,
					     end - new->base_gfn, moved);
	}
}

/**
 * kvm_memslot_carry_log - carry over the dirty logs of old slots
 * @slots: the set with the old slots
 * @new: a slot with a dirty bitmap
 *
 * Merge the dirty logs of old slots into that of @new, for pages that keep their
 * host address.
 *
 * Context: kvm->slots_lock held, and nobody writes through @slots any more.
 * Others may write through @new and log that, but nobody reads its log without
 * kvm->slots_lock.  May sleep.
 */
void kvm_memslot_carry_log(struct kvm_memslots *slots,
			   struct kvm_memory_slot *new)
{
	struct kvm_memory_slot *old = NULL;
	gfn_t start, end;

	while ((old = kvm_memslot_next_common(slots, old, new))) {
		if (kvm_memslots_common(old, new, &start, &end) &&
		    old->dirty_bitmap)
			kvm_memslot_merge_log(new->dirty_bitmap,
					      start - new->base_gfn,
					      old->dirty_bitmap,
					      start - old->base_gfn,
					      end - start);
	}
}
