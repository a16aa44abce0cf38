/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMORY_REGIONS_H
#define __KVM_MEMORY_REGIONS_H

/*
 * Change the whole map of an address space: what memory_regions*.c share.
 *
 * These files do not depend on how slots are stored, but for one thing: a slot has
 * a gfn_node and an hva_node for each of two sets, with their trees.  "memslots.h"
 * provides, with kvm->slots_lock held:
 *
 *	struct kvm_map_region		a region as user space describes it
 *	kvm_check_map_region()		check it, apart from the map (not locked)
 *	kvm_memslot_at_or_above()	find a slot by gfn, or its upper neighbour
 *	kvm_memslot_next()		get the slot with the next higher gfn
 *	kvm_memslots_insert()		insert a slot into a set unless it overlaps
 *	kvm_memslots_replace()		replace or remove a slot in a set
 *	kvm_memslots_reset_own()	empty what a set has for itself besides its trees
 *	kvm_memslots_add_own_id()	add the id of a slot to that
 *	kvm_memslots_fit_ids()		make room for more ids, or free unused room
 *	kvm_memslots_replace_id()	change the ids that both sets share
 *	kvm_memslots_count_pages()	update the number of pages of the VM, unless
 *					kvm_commit_memory_region() does
 *	kvm_get_inactive_memslots()	get the set without readers
 *	kvm_lock_slots_arch()		keep arch data as it is; do not wait for
 *					vCPUs with this lock held
 *	kvm_unlock_slots_arch()		drop that lock
 *	kvm_refresh_slot_arch()		update the arch data of a new slot
 *	kvm_slots_arch_kinds()		get a number that tells what all slots have of it
 *	kvm_swap_active_memslots()	publish the inactive set, drop that lock,
 *					and wait for readers
 *	kvm_memslot_same_backing()	check whether a region has a slot's backing
 *	kvm_memslot_can_inherit()	check whether a slot can hand over mappings
 *					to a new slot
 *	kvm_memslot_get_backing()	take a reference to the backing of a new slot
 *	kvm_memslot_has_backing()	check whether it has one, besides a host address
 *	kvm_memslot_bind_backing()	bind it
 *	kvm_memslot_put_backing()	put the reference
 *	kvm_arch_memslot_inherit()	let a new slot take over mappings, if the
 *					architecture can
 *	kvm_prepare_memory_region()	allocate bitmap and arch data of a slot
 *	kvm_commit_memory_region()	complete the change of a slot, free the old
 *	kvm_commit_memslot_id()		the same if only the id changes
 *	kvm_free_memslot()		free a slot that is in no set
 */
#include <linux/kvm_host.h>

#include "memslots.h"

/* Call cond_resched() from time to time in loops over thousands of slots. */
#define kvm_memslots_cond_resched(i)					\
	do {								\
		if (!((i) % 256))					\
			cond_resched();					\
	} while (0)

/**
 * struct kvm_map_regions - the regions of a new map
 * @list: the regions
 * @size: size of each region in bytes: that of struct kvm_map_region, or that
 *	  of struct kvm_userspace_memory_region, with which it starts; in the
 *	  latter case, the other members do not exist, and no flag refers to
 *	  them
 * @nr: number of regions
 */
struct kvm_map_regions {
	void *list;
	size_t size;
	unsigned int nr;
};

static inline struct kvm_map_region *
kvm_nth_region(const struct kvm_map_regions *regions, unsigned int n)
{
	return regions->list + n * regions->size;
}

/**
 * struct kvm_memslot_change - a slot to create or to replace
 * @old: slot to replace, with the same pages at the same addresses, whose arch
 *	 data, and dirty bitmap if logging stays enabled, @new takes over; or NULL
 * @new: the new slot
 * @relogged: if @new is created, an old slot from which @new inherits mappings,
 *	      and whose KVM_MEM_LOG_DIRTY_PAGES flag differs from that of @new;
 *	      or NULL
 */
struct kvm_memslot_change {
	struct kvm_memory_slot *old;
	struct kvm_memory_slot *new;
	struct kvm_memory_slot *relogged;
};

/**
 * struct kvm_memslots_diff - the difference between two maps
 * @nr_regions: number of regions of the new map
 * @deleted: slots to delete
 * @nr_deleted: number of slots to delete
 * @pages_deleted: number of pages in the slots to delete
 * @changed: slots to create or to replace
 * @nr_changed: number of slots to create or to replace
 * @nr_bound: number of those whose backing is bound
 * @has_backing: a slot to create has a backing
 * @nr_created: number of slots to create, i.e. without an old slot
 * @pages_created: number of pages in the slots to create
 * @gone: the parts of slots to delete whose mappings no new slot inherits, in
 *	  ascending order
 * @nr_gone: number of these parts
 */
struct kvm_memslots_diff {
	unsigned int nr_regions;
	struct kvm_memory_slot **deleted;
	unsigned int nr_deleted;
	u64 pages_deleted;
	struct kvm_memslot_change *changed;
	unsigned int nr_changed;
	unsigned int nr_bound;
	bool has_backing;
	unsigned int nr_created;
	u64 pages_created;
	struct kvm_memslot_range *gone;
	unsigned int nr_gone;
};

/* memory_regions_diff.c: the difference between two maps */
int kvm_memslots_diff(struct kvm *kvm, u16 as_id,
		      const struct kvm_map_regions *regions,
		      struct kvm_memslots_diff *diff);
int kvm_memslots_diff_apply(const struct kvm_memslots_diff *diff,
			    struct kvm_memslots *slots);
int kvm_memslots_diff_find_gone(struct kvm *kvm, struct kvm_memslots_diff *diff,
				struct kvm_memslots *active,
				struct kvm_memslots *slots);
void kvm_memslots_diff_follow(const struct kvm_memslots_diff *diff,
			      struct kvm_memslots *slots,
			      struct kvm_memslots *active);
void kvm_memslots_diff_undo(const struct kvm_memslots_diff *diff,
			    struct kvm_memslots *slots);
void kvm_memslot_start_log(struct kvm_memslots *slots,
			   struct kvm_memory_slot *new);
void kvm_memslot_carry_log(struct kvm_memslots *slots,
			   struct kvm_memory_slot *new);

/* memory_regions.c: a change of the whole map */
int kvm_set_memory_regions(struct kvm *kvm, u16 as_id,
			   const struct kvm_map_regions *regions);

/* memory_regions_ioctl.c: KVM_SET_USER_MEMORY_REGIONS */
struct kvm_userspace_memory_regions;
int kvm_vm_ioctl_set_memory_regions(struct kvm *kvm,
				    const struct kvm_userspace_memory_regions *map);

#endif /* __KVM_MEMORY_REGIONS_H */
