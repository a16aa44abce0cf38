// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change the whole map of an address space at once.
 *
 *   compute the difference between the current and the new map
 *   apply it to the inactive set
 *   prepare
 *   ---- if mappings have to go: hold the vCPUs, drop these mappings
 *   swap the sets
 *   ---- release the vCPUs
 *   carry over the dirty logs of old slots; update the other set
 *   commit
 *
 * A guest never sees an INVALID slot, and never misses a gfn that is in both
 * maps: while vCPUs run, they see one map or the other.  Everything that can fail
 * comes before the first mapping is dropped, except for huge mappings across the
 * ends of new slots, see below.
 *
 * Mappings are dropped while the old map is still active: the architecture finds
 * the mappings of a slot through the active set, and so do MMU notifiers, which
 * must find a mapping for as long as it exists.
 *
 * A gfn that has the same host memory and access in both maps keeps its mapping,
 * whatever happens to its slot, if the mapping can be handed over: see
 * kvm_memslot_can_inherit() and kvm_arch_memslot_inherit().  If this holds for
 * all gfns of the old map, vCPUs are not held, and it does not matter which of
 * the maps they see: a fault that uses an old slot installs a mapping that is
 * right in the new map, too, and completes before the grace period ends.  Huge
 * mappings that would cross the ends of new slots are left to the architecture,
 * which may drop them before the switch or on commit, while vCPUs run.
 *
 * vCPUs are held only for the drop and for the grace period.  Once they run on
 * the new map, their writes are logged in the new slots.  The old logs are
 * merged into the new ones.  This is safe, as reading a log and looking up a
 * slot by its id require kvm->slots_lock.  Then, slots for which logging is
 * enabled are write-protected, as when a single slot is changed.
 */
#include <linux/kvm_host.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <trace/events/kvm.h>

#include "memory_regions.h"

/**
 * kvm_arch_flush_memslot_ranges - drop all mappings of parts of slots
 * @kvm: the VM
 * @ranges: parts of valid slots of the active set, in ascending order
 * @nr: number of ranges, at least one
 *
 * Like kvm_arch_flush_shadow_memslot() for a slot that has just the gfns of a
 * range, for each range, but with vCPUs held.  An architecture should override
 * this if its slots have arch data, if it can keep more mappings when vCPUs are
 * held, or if some work is needed only once for all ranges.
 *
 * Context: kvm->slots_lock held.  May sleep.
 */
void __weak kvm_arch_flush_memslot_ranges(struct kvm *kvm,
					  const struct kvm_memslot_range *ranges,
					  unsigned int nr)
{
	struct kvm_memory_slot part;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		part = *ranges[i].slot;
		part.userspace_addr += (ranges[i].base_gfn - part.base_gfn) <<
				       PAGE_SHIFT;
		part.base_gfn = ranges[i].base_gfn;
		part.npages = ranges[i].npages;
		kvm_arch_flush_shadow_memslot(kvm, &part);
	}
}

static enum kvm_mr_change
kvm_memslot_change_kind(const struct kvm_memslot_change *change)
{
	return change->old ? KVM_MR_FLAGS_ONLY : KVM_MR_CREATE;
}

/* Arch hooks are not called if only the id changes. */
static bool kvm_memslot_change_is_id_only(const struct kvm_memslot_change *change)
{
	return change->old && change->old->flags == change->new->flags;
}

/* Check the total number of pages, and make room for the ids. */
static int kvm_memslots_diff_fit(struct kvm *kvm, struct kvm_memslots *slots,
				 const struct kvm_memslots_diff *diff)
{
	u64 npages = kvm->nr_memslot_pages - diff->pages_deleted +
		     diff->pages_created;

	if (npages != (unsigned long)npages)
		return -EINVAL;

	return kvm_memslots_fit_ids(slots, (int)diff->nr_created -
					   (int)diff->nr_deleted);
}

static int kvm_memslots_diff_prepare(struct kvm *kvm, struct kvm_memslots *slots,
				     const struct kvm_memslots_diff *diff)
{
	unsigned int i;
	int r;

	for (i = 0; i < diff->nr_deleted; i++) {
		kvm_memslots_cond_resched(i);
		r = kvm_prepare_memory_region(kvm, diff->deleted[i], NULL,
					      KVM_MR_DELETE);
		if (r)
			return r;
	}

	for (i = 0; i < diff->nr_changed; i++) {
		const struct kvm_memslot_change *change = &diff->changed[i];

		kvm_memslots_cond_resched(i);
		if (kvm_memslot_change_is_id_only(change)) {
			r = kvm_refresh_slot_arch(kvm, change->old, change->new);
			if (r)
				return r;
			change->new->dirty_bitmap = change->old->dirty_bitmap;
			continue;
		}

		r = kvm_prepare_memory_region(kvm, change->old, change->new,
					      kvm_memslot_change_kind(change));
		if (r)
			return r;
		if (change->new->dirty_bitmap)
			kvm_memslot_start_log(slots, change->new);
	}

	return 0;
}

/*
 * Hold the vCPUs.  Drop the lock of the arch data meanwhile, as vCPUs may need
 * it to leave the gate, and update the arch data then, as they may have changed
 * it.
 */
static int kvm_memslots_diff_hold(struct kvm *kvm,
				  const struct kvm_memslots_diff *diff)
{
	unsigned int kinds = kvm_slots_arch_kinds(kvm), i;
	int r;

	kvm_unlock_slots_arch(kvm);
	r = kvm_vcpus_hold(kvm);
	kvm_lock_slots_arch(kvm);
	/* Do not visit all new slots for nothing. */
	if (r || kvm_slots_arch_kinds(kvm) == kinds)
		return r;

	for (i = 0; i < diff->nr_changed; i++) {
		r = kvm_refresh_slot_arch(kvm, diff->changed[i].old,
					  diff->changed[i].new);
		if (r) {
			kvm_vcpus_release(kvm);
			return r;
		}
	}
	return 0;
}

/*
 * Bind the backing of new slots.  Others can unmap what is bound, so arch data must
 * not change any more.
 */
static int kvm_memslots_diff_bind(struct kvm *kvm, struct kvm_memslots_diff *diff)
{
	unsigned int i;
	int r;

	if (!diff->has_backing)
		return 0;

	for (i = 0; i < diff->nr_changed; i++) {
		r = kvm_memslot_bind_backing(kvm, diff->changed[i].new);
		if (r)
			return r;
		diff->nr_bound = i + 1;
	}
	return 0;
}

/* Free the arrays, and on error the new slots. */
static void kvm_memslots_diff_free(struct kvm *kvm,
				   const struct kvm_memslots_diff *diff, int error)
{
	unsigned int i;

	for (i = 0; i < diff->nr_changed; i++) {
		struct kvm_memory_slot *old = diff->changed[i].old;
		struct kvm_memory_slot *new = diff->changed[i].new;

		kvm_memslots_cond_resched(i);
		if (!old) {
			kvm_memslot_put_backing(new, i < diff->nr_bound);
			if (error)
				kvm_free_memslot(kvm, new);
			continue;
		}

		/* Both share the same arch data. */
		if (error) {
			if (new->dirty_bitmap != old->dirty_bitmap)
				kvfree(new->dirty_bitmap);
			kfree(new);
		}
	}

	kvfree(diff->changed);
	kvfree(diff->deleted);
	kvfree(diff->gone);
}

/*
 * Commit new slots first: the number of pages, from which x86 computes the size
 * of its MMU, must not drop below the final one in between.
 */
static void kvm_memslots_diff_commit(struct kvm *kvm, struct kvm_memslots *slots,
				     const struct kvm_memslots_diff *diff)
{
	unsigned int i;

	for (i = 0; i < diff->nr_deleted; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace_id(slots, diff->deleted[i], NULL);
	}
	/* Two slots may have swapped their ids. */
	for (i = 0; i < diff->nr_changed; i++) {
		kvm_memslots_cond_resched(i);
		if (diff->changed[i].old)
			kvm_memslots_replace_id(slots, diff->changed[i].old,
						NULL);
	}
	for (i = 0; i < diff->nr_changed; i++) {
		kvm_memslots_cond_resched(i);
		kvm_memslots_replace_id(slots, NULL, diff->changed[i].new);
	}

	kvm_memslots_count_pages(kvm, diff->pages_deleted, diff->pages_created);

	for (i = 0; i < diff->nr_changed; i++) {
		const struct kvm_memslot_change *change = &diff->changed[i];

		kvm_memslots_cond_resched(i);
		if (kvm_memslot_change_is_id_only(change))
			kvm_commit_memslot_id(kvm, change->old, change->new);
		else
			kvm_commit_memory_region(kvm, change->old, change->new,
						 kvm_memslot_change_kind(change));
		if (change->relogged)
			kvm_arch_commit_memory_region(kvm, change->relogged,
						      change->new,
						      KVM_MR_FLAGS_ONLY);
	}
	for (i = 0; i < diff->nr_deleted; i++) {
		kvm_memslots_cond_resched(i);
		kvm_commit_memory_region(kvm, diff->deleted[i], NULL,
					 KVM_MR_DELETE);
	}
}

/**
 * kvm_set_memory_regions - set all user memslots of an address space
 * @kvm: the VM
 * @as_id: the address space
 * @regions: all user slots of the new map, see kvm_memslots_diff(); overwritten
 *
 * On error, the map, the dirty logs and the generation are unchanged, but huge
 * mappings across the ends of new slots may be gone.
 *
 * Arch hooks are called with valid slots, in this order:
 *
 * - inherit for each pair of an old and a new slot that share memory
 * - prepare for each deleted slot, then for each new slot
 * - refresh, if there is such a hook, for each created slot, if all slots need
 *   more arch data once vCPUs are held
 * - flush for what is gone
 * - publish for the new set
 * - commit for each new slot, then for each deleted slot
 *
 * The kind of change is KVM_MR_FLAGS_ONLY for a new slot that replaces an old
 * one to enable or disable logging, and KVM_MR_CREATE for all other new
 * slots.  If one of these inherits mappings for some of which logging is
 * enabled or disabled, commit is called again with KVM_MR_FLAGS_ONLY and an old
 * slot whose KVM_MEM_LOG_DIRTY_PAGES flag differs.  If only the id of a slot
 * changes, no hook is called for it.
 *
 * Context: kvm->slots_lock held.  Sleeps; waits once for readers of kvm->srcu.  If
 * a gfn of the old map goes, changes its memory or access, or cannot hand over
 * its mapping, waits until all vCPUs have left the gate.
 * Return: 0; -EEXIST for a repeated id or overlapping slots; -EINVAL if there are
 * too many pages in total; -ENOMEM; -EINTR if the caller is being killed; -EAGAIN if
 * the architecture can keep fewer mappings than kvm_arch_memslot_inherit() said; or
 * another error of kvm_arch_prepare_memory_region(), or of the backing of a new slot.
 */
int kvm_set_memory_regions(struct kvm *kvm, u16 as_id,
			   const struct kvm_map_regions *regions)
{
	struct kvm_memslots *slots = __kvm_memslots(kvm, as_id);
	struct kvm_memslots *next = kvm_get_inactive_memslots(kvm, as_id);
	struct kvm_memslots_diff diff;
	ktime_t waited = 0, held = 0;
	unsigned int i;
	int r;

	lockdep_assert_held(&kvm->slots_lock);

	r = kvm_memslots_diff(kvm, as_id, regions, &diff);
	if (r || (!diff.nr_changed && !diff.nr_deleted))
		goto out;

	r = kvm_memslots_diff_fit(kvm, next, &diff);
	if (r)
		goto out_free;

	r = kvm_memslots_diff_apply(&diff, next);
	if (r)
		goto out_free;

	r = kvm_memslots_diff_find_gone(kvm, &diff, slots, next);
	if (r)
		goto out_undo;

	kvm_lock_slots_arch(kvm);
	r = kvm_memslots_diff_prepare(kvm, slots, &diff);
	if (r)
		goto out_unlock;

	if (diff.nr_gone) {
		/* Let other tasks run now rather than with the vCPUs held. */
		cond_resched();
		waited = ktime_get();
		r = kvm_memslots_diff_hold(kvm, &diff);
		held = ktime_get();
		waited = ktime_sub(held, waited);
		if (r)
			goto out_unlock;
	}

	r = kvm_memslots_diff_bind(kvm, &diff);
	if (r) {
		if (diff.nr_gone)
			kvm_vcpus_release(kvm);
		goto out_unlock;
	}

	if (diff.nr_gone) {
		kvm_arch_flush_memslot_ranges(kvm, diff.gone, diff.nr_gone);
		kvm_arch_guest_memory_reclaimed(kvm);
	}

	/* Drops the lock of the arch data. */
	kvm_swap_active_memslots(kvm, as_id);

	if (diff.nr_gone) {
		kvm_vcpus_release(kvm);
		held = ktime_sub(ktime_get(), held);
	}

	/* @slots is now the inactive set, which still holds the old slots. */
	for (i = 0; i < diff.nr_changed; i++) {
		kvm_memslots_cond_resched(i);
		if (diff.changed[i].new->dirty_bitmap && !diff.changed[i].old)
			kvm_memslot_carry_log(slots, diff.changed[i].new);
	}
	kvm_memslots_diff_follow(&diff, slots, next);
	kvm_memslots_diff_commit(kvm, next, &diff);
	goto out_free;

out_unlock:
	held = 0;
	kvm_unlock_slots_arch(kvm);
out_undo:
	kvm_memslots_diff_undo(&diff, next);
out_free:
	kvm_memslots_diff_free(kvm, &diff, r);
	kvm_memslots_fit_ids(next, 0);
out:
	trace_kvm_set_memory_regions(as_id, regions->nr, diff.nr_deleted,
				     diff.nr_changed, diff.nr_created,
				     ktime_to_ns(waited), ktime_to_ns(held),
				     __kvm_memslots(kvm, as_id)->generation, r);
	return r;
}
