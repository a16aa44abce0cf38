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
void kvm_commit_memory_region(struct kvm *kvm, struct kvm_memory_slot *old,
			      struct kvm_memory_slot *new,
			      enum kvm_mr_change change);
void kvm_commit_memslot_id(struct kvm *kvm, struct kvm_memory_slot *old,
			   struct kvm_memory_slot *new);
void kvm_memslots_init(struct kvm *kvm);
void kvm_memslots_free(struct kvm *kvm);

/* memslots_debugfs.c */
void kvm_memslots_create_debugfs(struct kvm *kvm);

/*
 * For memory_regions.h.
 */
#define kvm_map_region kvm_userspace_memory_region

static inline int kvm_arch_nr_memslot_as_ids(struct kvm *kvm)
{
	return KVM_ADDRESS_SPACE_NUM;
}

static inline bool kvm_arch_can_replace_memslots(struct kvm *kvm)
{
	return true;
}

static inline int kvm_check_map_region(struct kvm *kvm,
				       const struct kvm_map_region *region,
				       size_t size)
{
	return kvm_check_memory_region(region);
}

/* The sets share the ids, and last_used_slot is reset before it is published. */
static inline void kvm_memslots_reset_own(struct kvm_memslots *slots)
{
}

static inline void kvm_memslots_add_own_id(struct kvm_memslots *slots,
					   struct kvm_memory_slot *slot)
{
}

/* There is no memory but that at userspace_addr. */
static inline bool
kvm_memslot_same_backing(const struct kvm_memory_slot *slot,
			 const struct kvm_map_region *region)
{
	return true;
}

static inline bool kvm_memslot_can_inherit(struct kvm *kvm,
					   const struct kvm_memory_slot *old,
					   const struct kvm_memory_slot *new)
{
	return true;
}

static inline int kvm_memslot_get_backing(struct kvm *kvm,
					  struct kvm_memory_slot *new,
					  const struct kvm_map_region *region)
{
	return 0;
}

static inline bool kvm_memslot_has_backing(const struct kvm_memory_slot *slot)
{
	return false;
}

static inline int kvm_memslot_bind_backing(struct kvm *kvm,
					   struct kvm_memory_slot *new)
{
	return 0;
}

static inline void kvm_memslot_put_backing(struct kvm_memory_slot *new,
					   bool bound)
{
}

static inline int kvm_memslots_fit_ids(struct kvm_memslots *slots, int more)
{
	struct kvm_memslot_ids *ids = slots->ids;

	if (!ids->buckets && more <= 0)
		return 0;
	return kvm_memslot_ids_fit(ids, ids->nr + max(more, 0));
}

static inline void kvm_memslots_replace_id(struct kvm_memslots *slots,
					   struct kvm_memory_slot *old,
					   struct kvm_memory_slot *new)
{
	kvm_memslot_ids_replace(slots->ids, old, new);
}

/* The architecture is to see the final number only. */
static inline void kvm_memslots_count_pages(struct kvm *kvm, u64 deleted,
					    u64 created)
{
	kvm->nr_memslot_pages -= deleted;
	kvm->nr_memslot_pages += created;
}

/* Arch data changes under kvm->slots_lock only. */
static inline void kvm_lock_slots_arch(struct kvm *kvm)
{
}

static inline void kvm_unlock_slots_arch(struct kvm *kvm)
{
}

static inline unsigned int kvm_slots_arch_kinds(struct kvm *kvm)
{
	return 0;
}

static inline int kvm_refresh_slot_arch(struct kvm *kvm,
					const struct kvm_memory_slot *old,
					struct kvm_memory_slot *new)
{
	return 0;
}

static inline int kvm_prepare_memory_region(struct kvm *kvm,
					    const struct kvm_memory_slot *old,
					    struct kvm_memory_slot *new,
					    enum kvm_mr_change change)
{
	int r = new ? kvm_memslot_init_bitmap(kvm, old, new) : 0;

	return r ?: kvm_arch_prepare_memory_region(kvm, old, new, change);
}

#endif /* __KVM_MEMSLOTS_INTERNAL_H */
