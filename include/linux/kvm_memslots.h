/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMSLOTS_H
#define __KVM_MEMSLOTS_H

/**
 * DOC: Memslots
 *
 * A memslot says which host memory backs a range of guest memory.
 *
 * ::
 *
 *   struct kvm
 *     memslots[as_id] ---------+  the active set: kvm->srcu, or slots_lock
 *                              |
 *     memslot_space[as_id]     v
 *     +-----------------------------------------------------------+
 *     | sets[0]                     sets[1]                  ids  |
 *     |   generation                  generation              |   |
 *     |   last_used_slot              last_used_slot          |   |
 *     |   gfn_tree  hva_tree          gfn_tree  hva_tree      |   |
 *     +------|----------|-----------------|---------|---------|---+
 *            |          |                 |         |         |
 *     +------v----------v-----------------v---------v---------v---+
 *     | gfn_node[0] hva_node[0]    gfn_node[1] hva_node[1] id_node|
 *     |               one struct kvm_memory_slot                  |
 *     +-----------------------------------------------------------+
 *
 * There is one copy of each slot, and it is linked into both sets of its
 * address space.  Readers see the active set, and hold kvm->srcu or
 * kvm->slots_lock.  A change is made to the inactive set, which then becomes
 * the active one, and is repeated in the other set once an SRCU grace period
 * has passed.  Between changes, both sets hold the same slots.
 *
 * The fields of a slot that readers access do not change while the slot is in
 * a set: to change a slot, KVM replaces it.
 *
 * Slots must be in the linear map: powerpc looks them up in real mode, with
 * the functions of this header that are inline.
 */
#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/interval_tree.h>
#include <linux/kernel.h>
#include <linux/kvm_types.h>
#include <linux/rbtree.h>
#include <linux/stddef.h>
#include <linux/types.h>

/**
 * struct kvm_memory_slot - contiguous guest memory, backed by host memory
 * @gfn_node: nodes in the trees by gfn, one per set
 * @base_gfn: first gfn
 * @npages: size in pages, never 0
 * @userspace_addr: host virtual address of @base_gfn, in bytes
 * @dirty_bitmap: dirty log, followed by a buffer of the same size, or NULL
 * @flags: KVM_MEM_* flags of user space and KVM_MEMSLOT_* flags of KVM
 * @id: id of the slot in its address space, assigned by user space
 * @as_id: address space
 * @arch: data of the architecture
 * @hva_node: nodes in the trees by host address, one per set
 * @id_node: node in the hash by id, which both sets share
 */
struct kvm_memory_slot {
	/* Read by look-ups by gfn in each slot that they visit. */
	struct rb_node gfn_node[2];
	gfn_t base_gfn;
	unsigned long npages;

	unsigned long userspace_addr;
	unsigned long *dirty_bitmap;
	u32 flags;
	short id;
	u16 as_id;
	struct kvm_arch_memory_slot arch;

	struct interval_tree_node hva_node[2];
	struct hlist_node id_node;
};

/* What look-ups by gfn read of a slot fits into a cache line. */
static_assert(offsetof(struct kvm_memory_slot, userspace_addr) <= 64);

/**
 * struct kvm_memslot_ids - hash of the slots of an address space by their id
 * @buckets: 1 << @bits buckets, NULL until the first slot is created
 * @bits: log2 of the number of buckets, follows @nr
 * @nr: number of slots
 *
 * Look-ups by id are made to change a slot or to read its dirty log, and hold
 * kvm->slots_lock, so one hash serves both sets.  While a change is in progress,
 * the hash holds the old slot.
 */
struct kvm_memslot_ids {
	struct hlist_head *buckets;
	unsigned int bits;
	unsigned int nr;
};

/**
 * struct kvm_memslots - a set of slots of an address space
 * @generation: generation of the map, see KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
 * @last_used_slot: slot found by the last look-up by gfn, or NULL
 * @gfn_tree: all slots, by @base_gfn
 * @node_idx: index of this set's nodes in a slot
 * @hva_tree: all slots, as intervals of host virtual addresses in bytes
 * @ids: all slots, by id
 */
struct kvm_memslots {
	u64 generation;
	struct kvm_memory_slot *last_used_slot;
	struct rb_root gfn_tree;
	unsigned int node_idx;
	struct rb_root_cached hva_tree;
	struct kvm_memslot_ids *ids;
};

/**
 * struct kvm_memslot_space - the slots of an address space
 * @sets: the active and the inactive set
 * @ids: hash by id, shared by both sets
 */
struct kvm_memslot_space {
	struct kvm_memslots sets[2];
	struct kvm_memslot_ids ids;
};

/* x86 has two of these per VM; a slot must fit the 256-byte slab there. */
#ifdef CONFIG_X86_64
static_assert(sizeof(struct kvm_memslot_space) <= 128);
static_assert(sizeof(struct kvm_memory_slot) <= 256);
#endif

static inline struct kvm_memory_slot *
kvm_memslot_of_gfn_node(struct rb_node *node, unsigned int idx)
{
	return container_of(node - idx, struct kvm_memory_slot, gfn_node[0]);
}

static inline struct kvm_memory_slot *
kvm_memslot_of_hva_node(struct interval_tree_node *node, unsigned int idx)
{
	return container_of(node - idx, struct kvm_memory_slot, hva_node[0]);
}

static inline bool kvm_memslot_has_gfn(const struct kvm_memory_slot *slot,
				       gfn_t gfn)
{
	/* Below base_gfn, the difference wraps and exceeds any npages. */
	return gfn - slot->base_gfn < slot->npages;
}

static inline bool kvm_memslots_empty(const struct kvm_memslots *slots)
{
	return RB_EMPTY_ROOT(&slots->gfn_tree);
}

/*
 * Find the slot that contains @gfn, or NULL.  Called in real mode by built-in
 * code on powerpc: must not print, trace, sleep or call module code.
 */
static inline struct kvm_memory_slot *
search_memslots(struct kvm_memslots *slots, gfn_t gfn)
{
	struct kvm_memory_slot *slot = READ_ONCE(slots->last_used_slot);
	unsigned int idx = slots->node_idx;
	struct rb_node *node;

	if (likely(slot && kvm_memslot_has_gfn(slot, gfn)))
		return slot;

	node = slots->gfn_tree.rb_node;
	while (node) {
		slot = kvm_memslot_of_gfn_node(node, idx);
		if (kvm_memslot_has_gfn(slot, gfn)) {
			WRITE_ONCE(slots->last_used_slot, slot);
			return slot;
		}
		node = gfn < slot->base_gfn ? node->rb_left : node->rb_right;
	}
	return NULL;
}

static inline struct kvm_memory_slot *
__gfn_to_memslot(struct kvm_memslots *slots, gfn_t gfn)
{
	return search_memslots(slots, gfn);
}

struct kvm_memory_slot *id_to_memslot(struct kvm_memslots *slots, int id);
struct kvm_memory_slot *kvm_memslot_at_or_above(struct kvm_memslots *slots,
						gfn_t gfn);
gfn_t kvm_memslots_end_gfn(struct kvm_memslots *slots);

/* Return the slot with the next higher gfn, or NULL. */
static inline struct kvm_memory_slot *
kvm_memslot_next(struct kvm_memslots *slots, struct kvm_memory_slot *slot)
{
	struct rb_node *node = rb_next(&slot->gfn_node[slots->node_idx]);

	return node ? kvm_memslot_of_gfn_node(node, slots->node_idx) : NULL;
}

static inline struct kvm_memory_slot *
kvm_memslot_first_in_gfn_range(struct kvm_memslots *slots, gfn_t start,
			       gfn_t end)
{
	struct kvm_memory_slot *slot;

	if (WARN_ON_ONCE(start >= end))
		return NULL;

	slot = kvm_memslot_at_or_above(slots, start);
	return slot && slot->base_gfn < end ? slot : NULL;
}

static inline struct kvm_memory_slot *
kvm_memslot_next_in_gfn_range(struct kvm_memslots *slots,
			      struct kvm_memory_slot *slot, gfn_t end)
{
	slot = kvm_memslot_next(slots, slot);
	return slot && slot->base_gfn < end ? slot : NULL;
}

/*
 * Walk the slots that overlap the gfns [start, end), in ascending order.  Warns
 * once about an empty or reversed range and visits nothing.  @slots must be a
 * variable.
 */
#define kvm_for_each_memslot_in_gfn_range(slot, slots, start, end)	\
	for (slot = kvm_memslot_first_in_gfn_range(*&(slots), start, end); slot; \
	     slot = kvm_memslot_next_in_gfn_range(slots, slot, end))

static inline struct kvm_memory_slot *
kvm_memslot_first_in_hva_range(struct kvm_memslots *slots, unsigned long start,
			       unsigned long end)
{
	struct interval_tree_node *node;

	if (WARN_ON_ONCE(start >= end))
		return NULL;

	node = interval_tree_iter_first(&slots->hva_tree, start, end - 1);
	return node ? kvm_memslot_of_hva_node(node, slots->node_idx) : NULL;
}

static inline struct kvm_memory_slot *
kvm_memslot_next_in_hva_range(struct kvm_memslots *slots,
			      struct kvm_memory_slot *slot,
			      unsigned long start, unsigned long end)
{
	struct interval_tree_node *node;

	node = interval_tree_iter_next(&slot->hva_node[slots->node_idx], start,
				       end - 1);
	return node ? kvm_memslot_of_hva_node(node, slots->node_idx) : NULL;
}

/*
 * Walk the slots that overlap the host addresses [start, end), in bytes, in
 * ascending order.  Warns once about an empty or reversed range and visits
 * nothing.  @slots must be a variable.
 */
#define kvm_for_each_memslot_in_hva_range(slot, slots, start, end)	\
	for (slot = kvm_memslot_first_in_hva_range(*&(slots), start, end); slot; \
	     slot = kvm_memslot_next_in_hva_range(slots, slot, start, end))

/*
 * Walk all slots in ascending order of gfns.  @slots must be a variable: it is
 * evaluated at each step, and kvm_memslots() may return another set by then.
 */
#define kvm_for_each_memslot(slot, slots)				\
	for (slot = kvm_memslot_at_or_above(*&(slots), 0); slot;	\
	     slot = kvm_memslot_next(slots, slot))

#endif /* __KVM_MEMSLOTS_H */
