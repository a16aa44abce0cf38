// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every invariant of <linux/kvm_memslots.h>, and every way to look a slot up.
 */
#include <linux/hash.h>
#include <linux/list.h>

#include "vm.h"

#define IDS_MIN_BITS	4

static void validate_slot(struct vm *vm, int as_id,
			  const struct kvm_memory_slot *slot,
			  const struct map_slot *expected)
{
	check(slot->base_gfn == expected->base_gfn);
	check(slot->npages == expected->npages);
	check(slot->userspace_addr == expected->userspace_addr);
	check(slot->flags == expected->flags);
	check(slot->id == expected->id);
	check(slot->as_id == as_id);
	check(*slot->arch.base == slot->base_gfn);
	check(!slot->dirty_bitmap ==
	      !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES));
	if (slot->dirty_bitmap) {
		check(shim_size(slot->dirty_bitmap) ==
		      BITS_TO_LONGS(slot->npages) * 2 * sizeof(long));
		if (!vm->threaded)
			check(!memcmp(slot->dirty_bitmap, expected->log->bits,
				      BITS_TO_LONGS(slot->npages) *
				      sizeof(slot->dirty_bitmap[0])));
	}
}

/* @slots, active or not, has what @map has. */
void validate_set(struct vm *vm, int as_id, struct kvm_memslots *slots,
		  struct map *map)
{
	struct kvm_memslot_space *space = &vm->kvm.memslot_space[as_id];
	struct kvm_memory_slot *last_used = READ_ONCE(slots->last_used_slot);
	bool last_used_found = !last_used;
	unsigned int idx = slots - space->sets;
	struct kvm_memory_slot *slot;
	unsigned int nr = 0;
	struct rb_node *node;
	gfn_t end = 0;

	check(slots->node_idx == idx);
	check(slots->ids == &space->ids);
	validate_trees(slots, map->nr);
	for (node = rb_first(&slots->gfn_tree); node; node = rb_next(node)) {
		slot = container_of(node, struct kvm_memory_slot,
				    gfn_node[idx]);
		check(slot->npages);
		check(slot->base_gfn >= end);
		end = slot->base_gfn + slot->npages;
		validate_slot(vm, as_id, slot, &map->slots[nr++]);
		last_used_found |= slot == last_used;
	}
	/* what the other set has there is not looked at */
	check(last_used_found || slots != vm->kvm.memslots[as_id]);
}

static void validate_ids(struct vm *vm, int as_id)
{
	struct kvm_memslot_ids *ids = &vm->kvm.memslot_space[as_id].ids;
	struct kvm_memslots *slots = vm->kvm.memslots[as_id];
	struct kvm_memory_slot *slot;
	struct hlist_node **pprev;
	unsigned int i, nr = 0;

	check(ids->nr == vm->map[as_id].nr);
	if (!ids->buckets) {
		check(!ids->nr);
		return;
	}

	check(ids->bits >= IDS_MIN_BITS);
	if (!vm->ids_unfit[as_id]) {
		check(ids->nr <= 1U << ids->bits);
		check(ids->bits == IDS_MIN_BITS ||
		      ids->nr >= (1U << ids->bits) / 8);
	}

	for (i = 0; i < 1U << ids->bits; i++) {
		pprev = &ids->buckets[i].first;
		hlist_for_each_entry(slot, &ids->buckets[i], id_node) {
			check(++nr <= ids->nr);
			check(slot->id_node.pprev == pprev);
			check(hash_32(slot->id, ids->bits) == i);
			/* It is the one that the sets have. */
			check(kvm_memslot_at_or_above(slots, slot->base_gfn) ==
			      slot);
			pprev = &slot->id_node.next;
		}
	}
	check(nr == ids->nr);
}

/* Between two requests. */
void validate(struct vm *vm)
{
	unsigned int live = 0;
	int as_id;

	for (as_id = 0; as_id < KVM_ADDRESS_SPACE_NUM; as_id++) {
		struct kvm_memslot_space *space = &vm->kvm.memslot_space[as_id];
		struct kvm_memslots *slots = vm->kvm.memslots[as_id];
		struct kvm_memslots *other = &space->sets[!slots->node_idx];
		struct map *map = &vm->map[as_id];
		struct rb_node *a, *b;
		unsigned int i;

		check(slots == &space->sets[0] || slots == &space->sets[1]);
		validate_set(vm, as_id, slots, map);
		validate_set(vm, as_id, other, map);
		a = rb_first(&slots->gfn_tree);
		b = rb_first(&other->gfn_tree);
		while (a) {
			check(kvm_memslot_of_gfn_node(a, slots->node_idx) ==
			      kvm_memslot_of_gfn_node(b, other->node_idx));
			a = rb_next(a);
			b = rb_next(b);
		}
		validate_ids(vm, as_id);

		/* Not in progress, and never that of the other space. */
		check(slots->generation == vm->generation[as_id]);
		check(slots->generation % KVM_ADDRESS_SPACE_NUM == as_id);
		check(!(slots->generation &
			KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));
		check(other->generation <= slots->generation);

		live += !!space->ids.buckets;
		for (i = 0; i < map->nr; i++) {
			check(!(map->slots[i].flags & KVM_MEMSLOT_INVALID));
			/* the slot, arch.base and the dirty log */
			live += 2 + !!(map->slots[i].flags &
				       KVM_MEM_LOG_DIRTY_PAGES);
		}
	}
	check(vm->kvm.nr_memslot_pages == vm->nr_pages);
	if (shim_memory.live != live)
		fail("%u objects allocated, %u in use", shim_memory.live, live);
}

/* Somewhere in, at an edge of, or beside one of the slots. */
static gfn_t probe(struct vm *vm, const struct map *map)
{
	u64 random = next_random(&vm->random);
	const struct map_slot *slot;

	if (!map->nr || random % 16 == 0)
		return random >> 8 & 0xffff;

	slot = &map->slots[(random >> 8) % map->nr];
	switch (random % 5) {
	case 0:
		return slot->base_gfn - 1;
	case 1:
		return slot->base_gfn;
	case 2:
		return slot->base_gfn + slot->npages - 1;
	case 3:
		return slot->base_gfn + slot->npages;
	default:
		return slot->base_gfn + (random >> 24) % slot->npages;
	}
}

static void validate_gfn(struct vm *vm, int as_id, gfn_t gfn)
{
	struct map_slot *expected = map_of_gfn(&vm->map[as_id], gfn);
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, as_id);
	struct kvm_memory_slot *slot = __gfn_to_memslot(slots, gfn);

	check(!slot == !expected);
	if (slot)
		validate_slot(vm, as_id, slot, expected);
	check(kvm_vcpu_gfn_to_memslot(&vm->vcpu[as_id], gfn) == slot);
	/* once more, as remembered */
	check(kvm_vcpu_gfn_to_memslot(&vm->vcpu[as_id], gfn) == slot);
	check(__gfn_to_memslot(slots, gfn) == slot);
}

static void validate_gfn_range(struct vm *vm, int as_id, gfn_t start, gfn_t end)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, as_id);
	const struct kvm_memory_slot *first = NULL;
	struct map *map = &vm->map[as_id];
	struct kvm_memory_slot *slot;
	unsigned int i = 0, nr = 0;

	while (i < map->nr &&
	       map->slots[i].base_gfn + map->slots[i].npages <= start)
		i++;

	slot = kvm_memslot_at_or_above(slots, start);
	check(!slot == (i == map->nr));
	if (slot)
		check(slot->id == map->slots[i].id);

	kvm_for_each_memslot_in_gfn_range(slot, slots, start, end) {
		check(i < map->nr && map->slots[i].base_gfn < end);
		validate_slot(vm, as_id, slot, &map->slots[i++]);
		if (!nr++)
			first = slot;
	}
	check(i == map->nr || map->slots[i].base_gfn >= end);

	check(kvm_check_memslot_overlap(slots, NULL, start, end - start) ==
	      (nr > 0));
	check(kvm_check_memslot_overlap(slots, first, start, end - start) ==
	      (nr > 1));
}

static void validate_hva_range(struct vm *vm, int as_id, unsigned long start,
			       unsigned long end)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, as_id);
	unsigned int i, nr = 0, expected_nr = 0;
	struct map *map = &vm->map[as_id];
	u64 ids = 0, expected_ids = 0;
	struct kvm_memory_slot *slot;
	unsigned long previous = 0;

	for (i = 0; i < map->nr; i++) {
		struct map_slot *slot = &map->slots[i];

		if (slot->userspace_addr < end &&
		    slot->userspace_addr + slot->npages * PAGE_SIZE > start) {
			expected_nr++;
			expected_ids += 1ULL << slot->id % 64;
		}
	}

	kvm_for_each_memslot_in_hva_range(slot, slots, start, end) {
		check(slot->userspace_addr >= previous);
		previous = slot->userspace_addr;
		check(++nr <= expected_nr);
		ids += 1ULL << slot->id % 64;
	}
	check(nr == expected_nr);
	check(ids == expected_ids);
}

/* All ways to find a slot find what the model finds, @nr times. */
void validate_lookups(struct vm *vm, int as_id, unsigned int nr)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, as_id);
	struct map *map = &vm->map[as_id];
	struct kvm_memory_slot *slot;
	unsigned int i = 0;

	check(kvm_memslots_empty(slots) == !map->nr);
	check(kvm_memslots_end_gfn(slots) ==
	      (map->nr ? map->slots[map->nr - 1].base_gfn +
			 map->slots[map->nr - 1].npages : 0));
	kvm_for_each_memslot(slot, slots)
		check(slot->id == map->slots[i++].id);
	check(i == map->nr);

	while (nr--) {
		gfn_t gfn = probe(vm, map);
		u64 random = next_random(&vm->random);
		u64 size = random % 4 ? random >> 16 & 0x3f : random >> 16 & 0xffff;
		struct map_slot *expected;
		int id;

		validate_gfn(vm, as_id, gfn);
		if (gfn + size + 1 > gfn)
			validate_gfn_range(vm, as_id, gfn, gfn + size + 1);

		expected = map->nr ? &map->slots[random % map->nr] : NULL;
		id = expected && random & 1 << 8 ? expected->id :
						   (random >> 32) % 64;
		expected = map_of_id(map, id);
		slot = id_to_memslot(slots, id);
		check(!slot == !expected);
		if (slot)
			validate_slot(vm, as_id, slot, expected);

		if (expected) {
			unsigned long edge = expected->userspace_addr;
			u64 length = (size << PAGE_SHIFT) + 1;

			/* bytes that are just in, or just not */
			if (random >> 40 & 1)
				edge += expected->npages * PAGE_SIZE;
			validate_hva_range(vm, as_id,
					   edge - (edge && random >> 41 & 1),
					   edge + (random >> 42 & 1 ?: length));
			if (edge > length)
				validate_hva_range(vm, as_id, edge - length,
						   edge + (random >> 43 & 1));
		} else {
			unsigned long start = random;

			if (start + (size << PAGE_SHIFT) < ULONG_MAX)
				validate_hva_range(vm, as_id, start, start +
						   (size << PAGE_SHIFT) + 1);
		}
	}
}
