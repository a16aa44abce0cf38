/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMSLOTS_INTERNAL_H
#define __KVM_MEMSLOTS_INTERNAL_H

/*
 * Internal interface of the memslot code, for its own files and kvm_main.c.  See
 * <linux/kvm_memslots.h>, included by <linux/kvm_host.h>, for the public one.
 */
#include <linux/kvm_host.h>

/* memslots.c: the container */
void kvm_memslot_space_init(struct kvm_memslot_space *space, u64 generation);
void kvm_memslots_replace(struct kvm_memslots *slots,
			  struct kvm_memory_slot *old,
			  struct kvm_memory_slot *new);

/* Two slots that are neighbours by gfn in a set, NULL for none. */
struct kvm_memslots_place {
	struct kvm_memory_slot *below;
	struct kvm_memory_slot *above;
};

bool kvm_memslots_insert(struct kvm_memslots *slots,
			 struct kvm_memory_slot *new,
			 struct kvm_memslots_place *place);
void kvm_memslots_copy(struct kvm_memslots *slots, struct kvm_memslots *from);
bool kvm_check_memslot_overlap(struct kvm_memslots *slots,
			       const struct kvm_memory_slot *except,
			       gfn_t base_gfn, unsigned long npages);
unsigned int kvm_memslot_ids_bits(const struct kvm_memslot_ids *ids,
				  unsigned int nr);
struct hlist_head *kvm_memslot_ids_rehash(struct kvm_memslot_ids *ids,
					  struct hlist_head *buckets,
					  unsigned int bits);
void kvm_memslot_ids_replace(struct kvm_memslot_ids *ids,
			     struct kvm_memory_slot *old,
			     struct kvm_memory_slot *new);

/* kvm_main.c: requests of user space */
int kvm_check_memory_region(const struct kvm_userspace_memory_region *mem);

/* memslots_update.c: a change of one slot */
int kvm_set_memslot(struct kvm *kvm, struct kvm_memory_slot *old,
		    struct kvm_memory_slot *new, enum kvm_mr_change change);
struct kvm_memslots *kvm_get_inactive_memslots(struct kvm *kvm, int as_id);
void kvm_swap_active_memslots(struct kvm *kvm, int as_id);
int kvm_memslot_ids_fit(struct kvm_memslot_ids *ids, unsigned int nr);
int kvm_memslot_init_bitmap(struct kvm *kvm, const struct kvm_memory_slot *old,
			    struct kvm_memory_slot *new);
void kvm_memslot_free_bitmap(struct kvm_memory_slot *slot,
			     const struct kvm_memory_slot *other);
void kvm_free_memslot(struct kvm *kvm, struct kvm_memory_slot *slot);
void kvm_memslots_init(struct kvm *kvm);
void kvm_memslots_free(struct kvm *kvm);

/* memory_regions_diff.c: the difference between two maps */

/* Call cond_resched() from time to time in loops over thousands of slots. */
#define kvm_memslots_cond_resched(i)					\
	do {								\
		if (!((i) % 256))					\
			cond_resched();					\
	} while (0)

/**
 * struct kvm_memslot_change - a slot to create or to replace
 * @old: slot to replace, with the same pages at the same addresses, whose dirty
 *	 bitmap and arch data @new takes over; or NULL
 * @new: the new slot
 */
struct kvm_memslot_change {
	struct kvm_memory_slot *old;
	struct kvm_memory_slot *new;
};

/**
 * struct kvm_memslots_diff - the difference between two maps
 * @deleted: slots to delete
 * @nr_deleted: number of slots to delete
 * @pages_deleted: number of pages in the slots to delete
 * @changed: slots to create or to replace
 * @nr_changed: number of slots to create or to replace
 * @nr_created: number of slots to create, i.e. without an old slot
 * @pages_created: number of pages in the slots to create
 */
struct kvm_memslots_diff {
	struct kvm_memory_slot **deleted;
	unsigned int nr_deleted;
	u64 pages_deleted;
	struct kvm_memslot_change *changed;
	unsigned int nr_changed;
	unsigned int nr_created;
	u64 pages_created;
};

int kvm_memslots_diff(struct kvm_memslots *slots, u16 as_id,
		      struct kvm_userspace_memory_region *regions,
		      unsigned int nr, struct kvm_memslots_diff *diff);
int kvm_memslots_diff_apply(const struct kvm_memslots_diff *diff,
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
			   struct kvm_userspace_memory_region *regions,
			   unsigned int nr);

/* memslots_debugfs.c */
void kvm_memslots_create_debugfs(struct kvm *kvm);

#endif /* __KVM_MEMSLOTS_INTERNAL_H */
