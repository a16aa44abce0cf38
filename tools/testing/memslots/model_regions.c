// SPDX-License-Identifier: GPL-2.0-only
/*
 * What KVM_SET_USER_MEMORY_REGIONS does, after its documentation: every region
 * is compared with every slot, and every gfn with every gfn.
 */
#include "vm.h"

static bool is_private(const struct map_slot *slot)
{
	return slot->id >= KVM_USER_MEM_SLOTS;
}

static bool same_flags(u32 a, u32 b, u32 which)
{
	return (a & which) == (b & which);
}

/* The region is what the slot is, but for the id and for whether it is logged. */
static bool same_place(const struct map_slot *slot,
		       const struct kvm_userspace_memory_region *region)
{
	return slot->base_gfn * PAGE_SIZE == region->guest_phys_addr &&
	       slot->npages * PAGE_SIZE == region->memory_size &&
	       slot->userspace_addr == (unsigned long)region->userspace_addr &&
	       same_flags(slot->flags, region->flags, KVM_MEM_READONLY);
}

static bool overlap(const struct kvm_userspace_memory_region *a,
		    const struct kvm_userspace_memory_region *b)
{
	return a->guest_phys_addr < b->guest_phys_addr + b->memory_size &&
	       b->guest_phys_addr < a->guest_phys_addr + a->memory_size;
}

/* They may have fields that nobody knows yet. */
static const struct kvm_userspace_memory_region *
region_at(const struct kvm_userspace_memory_regions *all, unsigned int i)
{
	return u64_to_user_ptr(all->regions + (u64)i * all->region_size);
}

static int model_errors(struct vm *vm,
			const struct kvm_userspace_memory_regions *all)
{
	const struct kvm_userspace_memory_region *region;
	struct map *map;
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(all->reserved); i++) {
		if (all->reserved[i])
			return -EINVAL;
	}
	if (all->flags || all->as_id >= KVM_ADDRESS_SPACE_NUM ||
	    all->region_size < 32)
		return -EINVAL;
	if (all->nr_regions > 32764 || all->region_size > 4096)
		return -E2BIG;
	if (all->nr_regions && all->regions < PAGE_SIZE)
		return -EFAULT;

	for (i = 0; i < all->nr_regions; i++) {
		const unsigned char *bytes;

		region = region_at(all, i);
		bytes = (const unsigned char *)region;
		for (j = 32; j < all->region_size; j++) {
			if (bytes[j])
				return -E2BIG;
		}
		if (!region->memory_size || region->slot >= 32764 ||
		    !model_valid(region, true))
			return -EINVAL;
	}
	if (vm->req.killed)
		return -EINTR;

	map = &vm->map[all->as_id];
	for (i = 0; i < all->nr_regions; i++) {
		region = region_at(all, i);
		for (j = 0; j < i; j++) {
			if (region->slot == region_at(all, j)->slot ||
			    overlap(region, region_at(all, j)))
				return -EEXIST;
		}
		for (j = 0; j < map->nr; j++) {
			const struct kvm_userspace_memory_region private = {
				.guest_phys_addr = map->slots[j].base_gfn *
						   PAGE_SIZE,
				.memory_size = map->slots[j].npages * PAGE_SIZE,
			};

			if (is_private(&map->slots[j]) &&
			    overlap(region, &private))
				return -EEXIST;
		}
	}
	return 0;
}

static struct map_slot *predecessor(struct vm *vm, struct map *map,
				    const struct kvm_userspace_memory_region *region,
				    enum fate *fate)
{
	struct map_slot *same = map_of_id(map, region->slot);
	unsigned int i;

	*fate = KEPT;
	if (same && same_place(same, region) && same->flags == region->flags)
		return same;

	for (i = 0; i < map->nr; i++) {
		same = &map->slots[i];
		if (!is_private(same) && same_place(same, region)) {
			*fate = same->flags == region->flags ? RENAMED :
							       REFLAGGED;
			return same;
		}
	}
	*fate = CREATED;
	return NULL;
}

/* The first gfn of both, and the gfn after the last one. */
static gfn_t both(const struct map_slot *a, const struct map_slot *b, gfn_t *end)
{
	gfn_t a_end = a->base_gfn + a->npages, b_end = b->base_gfn + b->npages;

	*end = a_end < b_end ? a_end : b_end;
	return a->base_gfn > b->base_gfn ? a->base_gfn : b->base_gfn;
}

static unsigned long hva_of(const struct map_slot *slot, gfn_t gfn)
{
	return slot->userspace_addr + (gfn - slot->base_gfn) * PAGE_SIZE;
}

/* As on creation, but for what was logged, and for what has other memory. */
static struct log *first_log(struct vm *vm, const struct map *map,
			     const struct map_slot *new)
{
	struct log *log = log_new(new->npages,
				  vm->kvm.manual_dirty_log_protect &
				  KVM_DIRTY_LOG_INITIALLY_SET);
	gfn_t gfn, end;
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		const struct map_slot *old = &map->slots[i];

		for (gfn = both(old, new, &end); gfn < end; gfn++) {
			if (hva_of(old, gfn) != hva_of(new, gfn))
				__set_bit(gfn - new->base_gfn, log->bits);
			else if (old->log)
				__clear_bit(gfn - new->base_gfn, log->bits);
		}
	}
	return log;
}

/*
 * Which gfns of a slot that goes keep their mappings in a new one: those with the
 * same memory and the same access.
 */
bool model_inherits(struct vm *vm, const struct map_slot *old,
		    const struct coming *coming, gfn_t *start, gfn_t *end)
{
	const struct kvm_userspace_memory_region *region = coming->region;
	const struct map_slot new = {
		.base_gfn = region->guest_phys_addr / PAGE_SIZE,
		.npages = region->memory_size / PAGE_SIZE,
		.userspace_addr = region->userspace_addr,
	};

	*start = both(old, &new, end);
	return *start < *end && coming->fate == CREATED && !vm->refuses &&
	       !is_private(old) && hva_of(old, *start) == hva_of(&new, *start) &&
	       same_flags(old->flags, region->flags, KVM_MEM_READONLY);
}

/* What keeps its mappings, and what loses them. */
static void find_lost(struct vm *vm, const struct map *map)
{
	unsigned int i, j;
	gfn_t start, end;

	for (i = 0; i < map->nr; i++) {
		const struct map_slot *old = &map->slots[i];
		struct going *going = &vm->going[i];

		if (!going->goes)
			continue;
		going->lost = old->npages;
		for (j = 0; j < vm->nr_coming; j++) {
			struct coming *coming = &vm->coming[j];

			if (!model_inherits(vm, old, coming, &start, &end))
				continue;
			going->lost -= end - start;
			if (!same_flags(old->flags, coming->region->flags,
					KVM_MEM_LOG_DIRTY_PAGES))
				coming->relogged = true;
		}
		vm->nr_lost += going->lost;
	}
}

/* Nobody writes through the former map any more. */
void model_carry(struct vm *vm)
{
	struct map *map = &vm->map[vm->req.as_id];
	unsigned int i, j;
	gfn_t gfn, end;

	if (vm->threaded)
		return;

	for (i = 0; i < vm->after.nr; i++) {
		struct map_slot *new = &vm->after.slots[i];

		for (j = 0; j < map->nr && new->log; j++) {
			struct map_slot *old = &map->slots[j];

			if (!old->log || old->log == new->log)
				continue;
			for (gfn = both(old, new, &end); gfn < end; gfn++) {
				if (hva_of(old, gfn) == hva_of(new, gfn) &&
				    test_bit(gfn - old->base_gfn, old->log->bits))
					__set_bit(gfn - new->base_gfn,
						  new->log->bits);
			}
		}
	}
}

/*
 * Fills in vm->req.r, .change and .as_id, what comes of each region and of each
 * slot, and the map that comes of it all.
 */
void model_regions(struct vm *vm,
		   const struct kvm_userspace_memory_regions *all)
{
	struct request *req = &vm->req;
	struct map *map;
	unsigned int i;

	vm->nr_coming = 0;
	vm->nr_going = 0;
	vm->nr_prepare = 0;
	vm->nr_commit = 0;
	vm->nr_changed = 0;
	vm->nr_created = 0;
	vm->nr_deleted = 0;
	vm->nr_lost = 0;

	req->change = KVM_MR_NONE;
	req->as_id = all->as_id % KVM_ADDRESS_SPACE_NUM;
	map = &vm->map[req->as_id];
	for (i = 0; i < map->nr; i++) {
		vm->going[vm->nr_going++] = (struct going) {
			.slot = id_to_memslot(vm->kvm.memslots[req->as_id],
					      map->slots[i].id),
			.id = map->slots[i].id,
			.goes = !is_private(&map->slots[i]),
		};
	}

	req->r = model_errors(vm, all);
	if (req->r)
		return;

	map_clear(&vm->after);
	for (i = 0; i < map->nr; i++) {
		struct map_slot private = map->slots[i];

		if (is_private(&private)) {
			log_get(private.log);
			map_insert(&vm->after, &private);
		}
	}

	for (i = 0; i < all->nr_regions; i++) {
		const struct kvm_userspace_memory_region *region;
		struct coming *coming = &vm->coming[vm->nr_coming++];
		struct map_slot *old, new;

		region = region_at(all, i);
		new = (struct map_slot) {
			.base_gfn = region->guest_phys_addr / PAGE_SIZE,
			.npages = region->memory_size / PAGE_SIZE,
			.userspace_addr = region->userspace_addr,
			.flags = region->flags,
			.id = region->slot,
		};

		*coming = (struct coming) { .region = region };
		old = predecessor(vm, map, region, &coming->fate);
		if (old) {
			struct going *going = &vm->going[old - map->slots];

			going->goes = false;
			coming->old = going->slot;
			coming->old_base = going->slot->arch.base;
			coming->old_log = going->slot->dirty_bitmap;
		}

		if (new.flags & KVM_MEM_LOG_DIRTY_PAGES) {
			if (old && old->log)
				new.log = log_get(old->log);
			else
				new.log = first_log(vm, old ? &(struct map) {} :
						    map, &new);
		}
		map_insert(&vm->after, &new);

		vm->nr_changed += coming->fate != KEPT;
		vm->nr_created += coming->fate == CREATED;
		vm->nr_prepare += coming->fate == CREATED ||
				  coming->fate == REFLAGGED;
	}

	find_lost(vm, map);
	for (i = 0; i < vm->nr_going; i++)
		vm->nr_deleted += vm->going[i].goes;
	vm->nr_prepare += vm->nr_deleted;
	vm->nr_commit = vm->nr_prepare;
	if (vm->nr_changed || vm->nr_deleted)
		req->change = KVM_MR_SET;
}
