// SPDX-License-Identifier: GPL-2.0-only
/* Every invariant of the trees of a set. */
#include <linux/interval_tree.h>
#include <linux/rbtree_augmented.h>

#include "test.h"

/*
 * Returns the number of black nodes on each way down from @node, and takes all
 * nodes from @rest, which is what the tree may still have.
 */
static unsigned int validate_rb(const struct rb_node *node,
				const struct rb_node *parent,
				unsigned int *rest)
{
	unsigned int left, right;

	if (!node)
		return 1;

	check((*rest)--);
	check(rb_parent(node) == parent);
	check(parent || rb_is_black(node));
	check(!parent || rb_is_black(parent) || rb_is_black(node));
	left = validate_rb(node->rb_left, node, rest);
	right = validate_rb(node->rb_right, node, rest);
	check(left == right);
	return left + rb_is_black(node);
}

/* Returns the largest address in the tree. */
static unsigned long validate_hva(const struct rb_node *node, unsigned int idx,
				  unsigned long min, unsigned long max)
{
	const struct interval_tree_node *it;
	const struct kvm_memory_slot *slot;
	unsigned long last, below;

	if (!node)
		return 0;

	it = container_of(node, struct interval_tree_node, rb);
	slot = container_of(it, struct kvm_memory_slot, hva_node[idx]);
	check(it->start == slot->userspace_addr);
	check(it->last == it->start + slot->npages * PAGE_SIZE - 1);
	check(it->start >= min && it->start <= max);

	last = it->last;
	below = validate_hva(node->rb_left, idx, min, it->start);
	last = below > last ? below : last;
	below = validate_hva(node->rb_right, idx, it->start, max);
	last = below > last ? below : last;
	check(it->__subtree_last == last);
	return last;
}

/* @slots, active or not, has @nr_slots in both trees. */
void validate_trees(struct kvm_memslots *slots, unsigned int nr_slots)
{
	struct rb_root *hva_root = &slots->hva_tree.rb_root;
	unsigned int rest = nr_slots;

	validate_rb(slots->gfn_tree.rb_node, NULL, &rest);
	check(!rest);

	rest = nr_slots;
	validate_rb(hva_root->rb_node, NULL, &rest);
	check(!rest);
	validate_hva(hva_root->rb_node, slots->node_idx, 0, ULONG_MAX);
	check(slots->hva_tree.rb_leftmost == rb_first(hva_root));
}
