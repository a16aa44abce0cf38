// SPDX-License-Identifier: GPL-2.0-only
/*
 * What KVM_SET_USER_MEMORY_REGION does, after the documentation and the code
 * that it had before there were trees.
 */
#include "vm.h"

struct log *log_new(unsigned long npages, bool ones)
{
	struct log *log = calloc(1, sizeof(*log) +
				 BITS_TO_LONGS(npages) * sizeof(log->bits[0]));
	unsigned long i;

	check(log);
	log->refs = 1;
	log->npages = npages;
	for (i = 0; ones && i < npages; i++)
		__set_bit(i, log->bits);
	return log;
}

struct log *log_get(struct log *log)
{
	if (log)
		log->refs++;
	return log;
}

void log_put(struct log *log)
{
	if (log && !--log->refs)
		free(log);
}

struct map_slot *map_of_id(struct map *map, int id)
{
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		if (map->slots[i].id == id)
			return &map->slots[i];
	}
	return NULL;
}

struct map_slot *map_of_gfn(struct map *map, gfn_t gfn)
{
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		struct map_slot *slot = &map->slots[i];

		if (gfn >= slot->base_gfn &&
		    gfn < slot->base_gfn + slot->npages)
			return slot;
	}
	return NULL;
}

static u64 mix(u64 sum, u64 value)
{
	sum = (sum ^ value) * 0x9e3779b97f4a7c15ULL;
	return sum ^ sum >> 32;
}

static u64 sum_of(gfn_t base_gfn, unsigned long npages,
		  unsigned long userspace_addr, u32 flags, int id, int as_id)
{
	u64 sum = mix(1, base_gfn);

	sum = mix(sum, npages);
	sum = mix(sum, userspace_addr);
	sum = mix(sum, flags);
	sum = mix(sum, id);
	return mix(sum, as_id);
}

/* The sum of a map is that of its slots, in whatever order. */
u64 slot_sum(const struct kvm_memory_slot *slot)
{
	return sum_of(slot->base_gfn, slot->npages, slot->userspace_addr,
		      slot->flags, slot->id, slot->as_id);
}

u64 map_sum(const struct map *map, int as_id)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		const struct map_slot *slot = &map->slots[i];

		sum += sum_of(slot->base_gfn, slot->npages,
			      slot->userspace_addr, slot->flags, slot->id,
			      as_id);
	}
	return sum;
}

void map_clear(struct map *map)
{
	while (map->nr)
		log_put(map->slots[--map->nr].log);
}

void map_copy(struct map *to, const struct map *from)
{
	unsigned int i;

	map_clear(to);
	to->nr = from->nr;
	memcpy(to->slots, from->slots, from->nr * sizeof(from->slots[0]));
	for (i = 0; i < to->nr; i++)
		log_get(to->slots[i].log);
}

static void map_remove(struct map *map, int id)
{
	struct map_slot *slot = map_of_id(map, id);

	log_put(slot->log);
	map->nr--;
	memmove(slot, slot + 1, (char *)&map->slots[map->nr] - (char *)slot);
}

/* The map takes over what @new has of its log. */
void map_insert(struct map *map, const struct map_slot *new)
{
	unsigned int i = map->nr;

	check(map->nr < MAP_MAX);
	while (i && map->slots[i - 1].base_gfn > new->base_gfn) {
		map->slots[i] = map->slots[i - 1];
		i--;
	}
	map->slots[i] = *new;
	map->nr++;
}

static bool map_overlaps(struct map *map, int id, gfn_t base_gfn,
			 unsigned long npages)
{
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		struct map_slot *slot = &map->slots[i];

		if (slot->id != id &&
		    slot->base_gfn < base_gfn + npages &&
		    base_gfn < slot->base_gfn + slot->npages)
			return true;
	}
	return false;
}

bool model_valid(const struct kvm_userspace_memory_region *mem, bool user)
{
	u32 flags = KVM_MEM_LOG_DIRTY_PAGES;

#ifdef __KVM_HAVE_READONLY_MEM
	flags |= KVM_MEM_READONLY;
#endif
	return !(mem->flags & ~flags) &&
	       mem->memory_size % PAGE_SIZE == 0 &&
	       mem->memory_size / PAGE_SIZE < 1UL << 31 &&
	       mem->guest_phys_addr % PAGE_SIZE == 0 &&
	       mem->guest_phys_addr <= -1ULL - mem->memory_size &&
	       mem->userspace_addr % PAGE_SIZE == 0 &&
	       mem->memory_size <= TASK_SIZE &&
	       (unsigned long)mem->userspace_addr <=
	       TASK_SIZE - mem->memory_size &&
	       (mem->slot & 0xffff) < (user ? KVM_USER_MEM_SLOTS :
					      KVM_MEM_SLOTS_NUM) &&
	       mem->slot >> 16 < KVM_ADDRESS_SPACE_NUM;
}

/* Fills in vm->req.r and .change, and the maps that the change leads to. */
void model_request(struct vm *vm, const struct kvm_userspace_memory_region *mem,
		   bool user)
{
	struct request *req = &vm->req;
	struct map_slot *old, new = {};
	struct map *map;

	vm->nr_deleted = 0;
	vm->nr_lost = 0;
	req->r = -EINVAL;
	req->change = KVM_MR_NONE;
	if (!model_valid(mem, user))
		return;

	req->as_id = mem->slot >> 16;
	req->id = mem->slot & 0xffff;
	map = &vm->map[req->as_id];
	old = map_of_id(map, req->id);

	new.base_gfn = mem->guest_phys_addr / PAGE_SIZE;
	new.npages = mem->memory_size / PAGE_SIZE;
	new.userspace_addr = mem->userspace_addr;
	new.flags = mem->flags;
	new.id = req->id;

	if (!new.npages) {
		if (!old)
			return;
		req->change = KVM_MR_DELETE;
	} else if (!old) {
		if (new.npages > -1UL - vm->nr_pages)
			return;
		req->change = KVM_MR_CREATE;
	} else {
		if (old->userspace_addr != new.userspace_addr ||
		    old->npages != new.npages ||
		    (old->flags ^ new.flags) & KVM_MEM_READONLY)
			return;
		if (old->base_gfn != new.base_gfn)
			req->change = KVM_MR_MOVE;
		else if (old->flags != new.flags)
			req->change = KVM_MR_FLAGS_ONLY;
	}

	if (req->change != KVM_MR_DELETE &&
	    map_overlaps(map, new.id, new.base_gfn, new.npages)) {
		req->r = -EEXIST;
		return;
	}

	req->r = 0;
	if (req->change == KVM_MR_NONE)
		return;

	if (req->change != KVM_MR_DELETE &&
	    new.flags & KVM_MEM_LOG_DIRTY_PAGES) {
		req->shared = old && old->flags & KVM_MEM_LOG_DIRTY_PAGES;
		if (req->shared)
			new.log = log_get(old->log);
		else
			new.log = log_new(new.npages,
					  vm->kvm.manual_dirty_log_protect &
					  KVM_DIRTY_LOG_INITIALLY_SET);
	}

	map_copy(&vm->during, map);
	if (old)
		map_of_id(&vm->during, old->id)->flags |= KVM_MEMSLOT_INVALID;

	map_copy(&vm->after, map);
	if (old)
		map_remove(&vm->after, old->id);
	if (req->change != KVM_MR_DELETE)
		map_insert(&vm->after, &new);
}

/* The map that readers find after so many switches of the request. */
struct map *model_stage(struct vm *vm, unsigned int published)
{
	struct request *req = &vm->req;
	bool twice = req->change == KVM_MR_DELETE || req->change == KVM_MR_MOVE;

	if (!published)
		return &vm->map[req->as_id];
	if (twice && published == 1)
		return &vm->during;
	if (published == 1 + twice && !req->prepare_failed)
		return &vm->after;
	if (published == 2 && twice)
		return &vm->map[req->as_id];
	fail("switched too often: %.*s", (int)req->logged, req->log);
}

/* The request is over. */
void model_done(struct vm *vm, int r)
{
	struct request *req = &vm->req;
	struct map *map = &vm->map[req->as_id];
	unsigned int i;

	vm->generation[req->as_id] += req->published * KVM_ADDRESS_SPACE_NUM;
	if (r || req->change == KVM_MR_NONE)
		return;

	for (i = 0; i < map->nr; i++)
		vm->nr_pages -= map->slots[i].npages;
	map_copy(map, &vm->after);
	for (i = 0; i < map->nr; i++)
		vm->nr_pages += map->slots[i].npages;
}
