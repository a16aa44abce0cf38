// SPDX-License-Identifier: GPL-2.0-only
/*
 * The container of KVM's memslots, see <linux/kvm_memslots.h>.
 *
 * This file does not sleep, allocate, call arch hooks or wait for readers.  It
 * also compiles in user space.
 */
#include <linux/export.h>
#include <linux/hash.h>
#include <linux/list.h>

#include "memslots.h"

/* The smallest hash by id: 128 bytes on 64-bit. */
#define KVM_MEMSLOT_IDS_MIN_BITS	4

/**
 * kvm_memslot_space_init - initialize an address space without slots
 * @space: the address space
 * @generation: initial generation, different for each address space of a VM
 *
 * Context: @space is not visible to others yet.
 */
void kvm_memslot_space_init(struct kvm_memslot_space *space, u64 generation)
{
	int i;

	space->ids = (struct kvm_memslot_ids) {};
	for (i = 0; i < ARRAY_SIZE(space->sets); i++)
		space->sets[i] = (struct kvm_memslots) {
			.generation = generation,
			.gfn_tree = RB_ROOT,
			.hva_tree = RB_ROOT_CACHED,
			.node_idx = i,
			.ids = &space->ids,
		};
}

/**
 * kvm_memslot_at_or_above - find a slot or its upper neighbour
 * @slots: the set to search
 * @gfn: guest frame number
 *
 * Context: kvm->srcu or kvm->slots_lock held.
 * Return: the slot that contains @gfn, else the next higher slot, or NULL.
 */
struct kvm_memory_slot *kvm_memslot_at_or_above(struct kvm_memslots *slots,
						gfn_t gfn)
{
	struct rb_node *node = slots->gfn_tree.rb_node;
	struct kvm_memory_slot *above = NULL;

	while (node) {
		struct kvm_memory_slot *slot;

		slot = kvm_memslot_of_gfn_node(node, slots->node_idx);
		if (kvm_memslot_has_gfn(slot, gfn))
			return slot;

		if (gfn < slot->base_gfn) {
			above = slot;
			node = node->rb_left;
		} else {
			node = node->rb_right;
		}
	}
	return above;
}
EXPORT_SYMBOL_GPL(kvm_memslot_at_or_above);

/**
 * kvm_memslots_end_gfn - get the end of guest memory
 * @slots: the set of slots
 *
 * Context: kvm->srcu or kvm->slots_lock held.
 * Return: the first gfn above all slots, or 0 if there are no slots.
 */
gfn_t kvm_memslots_end_gfn(struct kvm_memslots *slots)
{
	struct rb_node *node = rb_last(&slots->gfn_tree);
	struct kvm_memory_slot *slot;

	if (!node)
		return 0;

	slot = kvm_memslot_of_gfn_node(node, slots->node_idx);
	return slot->base_gfn + slot->npages;
}
EXPORT_SYMBOL_GPL(kvm_memslots_end_gfn);

/**
 * kvm_check_memslot_overlap - check whether a gfn range overlaps with a slot
 * @slots: the set to search
 * @except: slot to ignore, or NULL
 * @base_gfn: first gfn of the range
 * @npages: pages in the range, not 0
 *
 * Context: kvm->srcu or kvm->slots_lock held.
 * Return: true if a slot other than @except overlaps with the range.
 */
bool kvm_check_memslot_overlap(struct kvm_memslots *slots,
			       const struct kvm_memory_slot *except,
			       gfn_t base_gfn, unsigned long npages)
{
	struct kvm_memory_slot *slot;

	kvm_for_each_memslot_in_gfn_range(slot, slots, base_gfn,
					  base_gfn + npages) {
		if (slot != except)
			return true;
	}
	return false;
}

/*
 * Find the link in the tree where @new belongs, and its neighbours, which may
 * still overlap with it.  If @new belongs between the neighbours that are passed
 * in @place, no search is needed.
 */
static struct rb_node **
kvm_memslots_find_place(struct kvm_memslots *slots,
			const struct kvm_memory_slot *new,
			struct kvm_memslots_place *place,
			struct rb_node **parent)
{
	struct rb_node **link = &slots->gfn_tree.rb_node;
	struct kvm_memory_slot *below = place->below, *above = place->above;
	unsigned int idx = slots->node_idx;

	if (below && below->base_gfn < new->base_gfn &&
	    (!above || new->base_gfn < above->base_gfn)) {
		/* One of two neighbours has no child on the side of the other. */
		*parent = &below->gfn_node[idx];
		link = &(*parent)->rb_right;
		if (*link) {
			*parent = &above->gfn_node[idx];
			link = &(*parent)->rb_left;
		}
		return link;
	}

	*parent = NULL;
	place->below = NULL;
	place->above = NULL;
	while (*link) {
		struct kvm_memory_slot *slot;

		*parent = *link;
		slot = kvm_memslot_of_gfn_node(*parent, idx);
		if (new->base_gfn < slot->base_gfn) {
			place->above = slot;
			link = &(*parent)->rb_left;
		} else {
			place->below = slot;
			link = &(*parent)->rb_right;
		}
	}
	return link;
}

static bool kvm_memslots_room(const struct kvm_memslots_place *place,
			      const struct kvm_memory_slot *new)
{
	const struct kvm_memory_slot *below = place->below;
	const struct kvm_memory_slot *above = place->above;

	return !(below && new->base_gfn - below->base_gfn < below->npages) &&
	       !(above && above->base_gfn - new->base_gfn < new->npages);
}

static void kvm_memslots_insert_gfn(struct kvm_memslots *slots,
				    struct kvm_memory_slot *new)
{
	struct rb_node *node = &new->gfn_node[slots->node_idx], *parent, **link;
	struct kvm_memslots_place place = {};

	link = kvm_memslots_find_place(slots, new, &place, &parent);
	WARN_ON_ONCE(!kvm_memslots_room(&place, new));
	rb_link_node(node, parent, link);
	rb_insert_color(node, &slots->gfn_tree);
}

static void kvm_memslots_replace_gfn(struct kvm_memslots *slots,
				     struct kvm_memory_slot *old,
				     struct kvm_memory_slot *new)
{
	unsigned int idx = slots->node_idx;

	/* A slot with the same base_gfn has the same place in the tree. */
	if (old && new && old->base_gfn == new->base_gfn) {
		rb_replace_node(&old->gfn_node[idx], &new->gfn_node[idx],
				&slots->gfn_tree);
		return;
	}

	if (old)
		rb_erase(&old->gfn_node[idx], &slots->gfn_tree);
	if (new)
		kvm_memslots_insert_gfn(slots, new);
}

static void kvm_memslots_replace_hva(struct kvm_memslots *slots,
				     struct kvm_memory_slot *old,
				     struct kvm_memory_slot *new)
{
	unsigned int idx = slots->node_idx;
	struct interval_tree_node *node;

	if (new) {
		node = &new->hva_node[idx];
		node->start = new->userspace_addr;
		node->last = new->userspace_addr +
			     (new->npages << PAGE_SHIFT) - 1;
	}

	/*
	 * The same interval has the same place in the tree, and its subtree has
	 * the same largest address.
	 */
	if (old && new && old->hva_node[idx].start == node->start &&
	    old->hva_node[idx].last == node->last) {
		node->__subtree_last = old->hva_node[idx].__subtree_last;
		rb_replace_node_cached(&old->hva_node[idx].rb, &node->rb,
				       &slots->hva_tree);
		return;
	}

	if (old)
		interval_tree_remove(&old->hva_node[idx], &slots->hva_tree);
	if (new)
		interval_tree_insert(node, &slots->hva_tree);
}

/**
 * kvm_memslots_replace - change the inactive set
 * @slots: the inactive set
 * @old: slot to remove, or NULL
 * @new: slot to insert, or NULL; must not overlap with a slot other than @old
 *
 * Context: kvm->slots_lock held, and nobody reads @slots any more.  Neither
 * allocates nor fails.
 */
void kvm_memslots_replace(struct kvm_memslots *slots,
			  struct kvm_memory_slot *old,
			  struct kvm_memory_slot *new)
{
	kvm_memslots_replace_gfn(slots, old, new);
	kvm_memslots_replace_hva(slots, old, new);
}

/**
 * kvm_memslots_insert - insert a slot into the inactive set unless it overlaps
 * @slots: the inactive set
 * @new: the slot
 * @place: hint, two neighbours in the set that @new may belong between, or NULLs;
 *	   updated on success, for the next slot
 *
 * Context: kvm->slots_lock held, and nobody reads @slots any more.
 * Return: true, or false if @new overlaps with another slot and is not inserted.
 */
bool kvm_memslots_insert(struct kvm_memslots *slots,
			 struct kvm_memory_slot *new,
			 struct kvm_memslots_place *place)
{
	struct rb_node *node = &new->gfn_node[slots->node_idx], *parent, **link;

	link = kvm_memslots_find_place(slots, new, place, &parent);
	if (!kvm_memslots_room(place, new))
		return false;

	rb_link_node(node, parent, link);
	rb_insert_color(node, &slots->gfn_tree);
	kvm_memslots_replace_hva(slots, NULL, new);
	place->below = new;
	return true;
}

/**
 * id_to_memslot - find a slot by its id
 * @slots: either set of the address space
 * @id: id of the slot
 *
 * Context: kvm->slots_lock held.
 * Return: the slot, or NULL.
 */
struct kvm_memory_slot *id_to_memslot(struct kvm_memslots *slots, int id)
{
	struct kvm_memslot_ids *ids = slots->ids;
	struct kvm_memory_slot *slot;

	if (!ids->buckets)
		return NULL;

	hlist_for_each_entry(slot, &ids->buckets[hash_32(id, ids->bits)],
			     id_node) {
		if (slot->id == id)
			return slot;
	}
	return NULL;
}
EXPORT_SYMBOL_GPL(id_to_memslot);

/**
 * kvm_memslot_ids_bits - compute the size of a hash by id
 * @ids: the current hash
 * @nr: number of slots to provide for
 *
 * Grow if there are more slots than buckets.  Shrink only if seven of eight
 * buckets are empty, so that creating and deleting a slot repeatedly does not
 * resize the hash each time.
 *
 * Context: kvm->slots_lock held.
 * Return: log2 of the number of buckets.
 */
unsigned int kvm_memslot_ids_bits(const struct kvm_memslot_ids *ids,
				  unsigned int nr)
{
	unsigned int bits = max_t(unsigned int, ids->bits,
				  KVM_MEMSLOT_IDS_MIN_BITS);

	while (nr > 1U << bits)
		bits++;
	while (bits > KVM_MEMSLOT_IDS_MIN_BITS && nr < 1U << (bits - 3))
		bits--;
	return bits;
}

/**
 * kvm_memslot_ids_rehash - move a hash by id to new buckets
 * @ids: the hash
 * @buckets: 1 << @bits empty buckets
 * @bits: log2 of the number of buckets
 *
 * Context: kvm->slots_lock held.
 * Return: the former buckets, to be freed by the caller, or NULL.
 */
struct hlist_head *kvm_memslot_ids_rehash(struct kvm_memslot_ids *ids,
					  struct hlist_head *buckets,
					  unsigned int bits)
{
	struct hlist_head *former = ids->buckets;
	struct kvm_memory_slot *slot;
	struct hlist_node *next;
	unsigned int i;

	for (i = 0; former && i < 1U << ids->bits; i++) {
		hlist_for_each_entry_safe(slot, next, &former[i], id_node)
			hlist_add_head(&slot->id_node,
				       &buckets[hash_32(slot->id, bits)]);
	}
	ids->buckets = buckets;
	ids->bits = bits;
	return former;
}

/**
 * kvm_memslot_ids_replace - change the hash by id
 * @ids: the hash; buckets must be allocated
 * @old: slot to remove, or NULL
 * @new: slot to insert, or NULL
 *
 * Context: kvm->slots_lock held.
 */
void kvm_memslot_ids_replace(struct kvm_memslot_ids *ids,
			     struct kvm_memory_slot *old,
			     struct kvm_memory_slot *new)
{
	if (old) {
		hlist_del(&old->id_node);
		ids->nr--;
	}
	if (new) {
		hlist_add_head(&new->id_node,
			       &ids->buckets[hash_32(new->id, ids->bits)]);
		ids->nr++;
	}
}
