// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lines of a script that edit a list of regions, which starts as what is in the
 * address space, and then ask for it.
 */
#include "vm.h"

#define EDIT_MAX	512	/* regions; a line adds one */
#define EDIT_PAGES_MAX	4096	/* that are logged, in one region */

static struct kvm_userspace_memory_region *
insert(struct regions *regions, const struct kvm_userspace_memory_region *region)
{
	if (regions->nr == EDIT_MAX)
		return NULL;
	regions->list[regions->nr] = *region;
	return &regions->list[regions->nr++];
}

static void drop(struct regions *regions, unsigned int i)
{
	regions->nr--;
	memmove(&regions->list[i], &regions->list[i + 1],
		(regions->nr - i) * sizeof(regions->list[0]));
}

/* The address space as it is now. */
void regions_now(struct vm *vm, int as_id, struct regions *regions)
{
	const struct map *map = &vm->map[as_id];
	unsigned int i;

	regions->nr = 0;
	for (i = 0; i < map->nr; i++) {
		const struct map_slot *slot = &map->slots[i];
		const struct kvm_userspace_memory_region region = {
			.slot = slot->id,
			.flags = slot->flags,
			.guest_phys_addr = slot->base_gfn << PAGE_SHIFT,
			.memory_size = (u64)slot->npages << PAGE_SHIFT,
			.userspace_addr = slot->userspace_addr,
		};

		if (slot->id < KVM_USER_MEM_SLOTS)
			insert(regions, &region);
	}
}

/* What the fields of a line say, see script.c. */
struct edit {
	unsigned int kind, pick, id;
	gfn_t gfn;
	u64 npages, hva;
	u32 flags;
};

static void edit(struct regions *regions, const struct edit *e)
{
	struct kvm_userspace_memory_region *a = NULL, *b = NULL, new;
	u64 size = e->npages << PAGE_SHIFT, part;
	unsigned int i, other = 0;

	if (regions->nr) {
		a = &regions->list[e->pick % regions->nr];
		other = (e->pick + 1 + e->gfn) % regions->nr;
		b = &regions->list[other];
	}
	if (!a && e->kind < 48)
		return;

	switch (e->kind) {
	case 0 ... 3:		/* grow at the end */
		a->memory_size += size;
		break;
	case 4 ... 5:		/* grow at the front */
		a->guest_phys_addr -= size;
		a->userspace_addr -= size;
		a->memory_size += size;
		break;
	case 6 ... 8:		/* shrink at the end */
		if (a->memory_size > size)
			a->memory_size -= size;
		break;
	case 9 ... 10:		/* shrink at the front */
		if (a->memory_size > size) {
			a->guest_phys_addr += size;
			a->userspace_addr += size;
			a->memory_size -= size;
		}
		break;
	case 11 ... 17:		/* split, with a hole or not */
		if (a->memory_size <= size)
			break;
		new = *a;
		new.slot = e->id;
		new.guest_phys_addr += size;
		new.userspace_addr += size;
		new.memory_size -= size;
		part = e->kind == 17 ? PAGE_SIZE : 0;
		if (new.memory_size > part)
			new.memory_size -= part;
		if (e->kind == 16)
			new.flags = e->flags;
		if (insert(regions, &new))
			a->memory_size = size;
		break;
	case 18 ... 24:		/* merge with what comes next */
		for (i = 0; i < regions->nr; i++) {
			b = &regions->list[i];
			if (b->guest_phys_addr !=
			    a->guest_phys_addr + a->memory_size)
				continue;
			/* if it comes next in the host, too, most often */
			if (e->kind != 24 && b->userspace_addr !=
			    a->userspace_addr + a->memory_size)
				continue;
			a->memory_size += b->memory_size;
			drop(regions, i);
			break;
		}
		break;
	case 25 ... 28:		/* swap ids */
		swap(a->slot, b->slot);
		break;
	case 29 ... 31:		/* swap places in the guest */
		swap(a->guest_phys_addr, b->guest_phys_addr);
		break;
	case 32 ... 33:		/* swap memory */
		swap(a->userspace_addr, b->userspace_addr);
		break;
	case 34 ... 37:		/* flags */
		a->flags ^= e->flags ?: KVM_MEM_LOG_DIRTY_PAGES;
		break;
	case 38:		/* log all, or none */
		for (i = 0; i < regions->nr; i++) {
			regions->list[i].flags &= ~KVM_MEM_LOG_DIRTY_PAGES;
			regions->list[i].flags |= e->flags &
						  KVM_MEM_LOG_DIRTY_PAGES;
		}
		break;
	case 39 ... 40:		/* other memory */
		a->userspace_addr = e->hva;
		break;
	case 41 ... 42:		/* elsewhere */
		a->guest_phys_addr = e->gfn << PAGE_SHIFT;
		break;
	case 43:		/* all a little further */
		for (i = 0; i < regions->nr; i++)
			regions->list[i].guest_phys_addr += size;
		break;
	case 44 ... 45:		/* another id */
		a->slot = e->id;
		break;
	case 46 ... 47:
		drop(regions, e->pick % regions->nr);
		break;
	case 48 ... 53:
		new = (struct kvm_userspace_memory_region) {
			.slot = e->id,
			.flags = e->flags,
			.guest_phys_addr = e->gfn << PAGE_SHIFT,
			.memory_size = size,
			.userspace_addr = e->hva,
		};
		insert(regions, &new);
		break;
	case 54 ... 55:		/* in another order */
		for (i = 0; a && i < regions->nr; i++)
			swap(*a, regions->list[i]);
		break;
	case 56:
		regions->nr = 0;
		break;
	case 57 ... 59:		/* as they are */
		break;
	}
}

/* A request that is wrong, whatever else it may be. */
static void spoil(struct kvm_userspace_memory_regions *all,
		  struct regions *regions, const struct edit *e)
{
	struct kvm_userspace_memory_region *a = NULL;

	if (regions->nr)
		a = &regions->list[e->pick % regions->nr];

	switch (e->gfn % 13) {
	case 0:
		all->flags = 1U << e->pick;
		break;
	case 1:
		all->region_size += 8;
		break;
	case 2:
		all->reserved[e->pick % 4] = 1ULL << 40;
		break;
	case 3:
		all->as_id = KVM_ADDRESS_SPACE_NUM + e->pick;
		break;
	case 4:
		all->nr_regions = KVM_USER_MEM_SLOTS + 1 + e->pick;
		break;
	case 5:
		all->regions = 8;
		break;
	}
	if (!a)
		return;
	switch (e->gfn % 13) {
	case 6:
		a->memory_size = 0;
		break;
	case 7:
		a->slot |= 1 << 16;
		break;
	case 8:
		a->slot = KVM_USER_MEM_SLOTS + e->pick % 8;
		break;
	case 9:
		a->flags |= 4U << e->pick % 30;
		break;
	case 10:
		a->guest_phys_addr += 1U << e->pick % 12;
		break;
	case 11:
		a->userspace_addr += 1ULL << 47;
		break;
	case 12:
		a->memory_size += 1ULL << 43;
		break;
	}
}

static void print(const struct regions *regions)
{
	unsigned int i;

	for (i = 0; i < regions->nr; i++) {
		const struct kvm_userspace_memory_region *region;

		region = &regions->list[i];
		fprintf(stderr, "#   slot %u gpa %#llx size %#llx hva %#llx flags %#x\n",
			region->slot, region->guest_phys_addr,
			region->memory_size, region->userspace_addr,
			region->flags);
	}
}

/*
 * What the fields are, script.c says.  Bit 2 of the flags asks for what has been
 * edited.  The caller has set what fails.  Returns the number of requests.
 */
unsigned int edit_line(struct vm *vm, int as_id, const unsigned char *line,
		       bool verbose)
{
	static struct regions asked;
	struct regions *regions = &vm->edited[as_id];
	struct kvm_userspace_memory_regions all = {
		.as_id = as_id,
		.region_size = sizeof(regions->list[0]),
		.regions = (uintptr_t)asked.list,
	};
	struct edit e = {
		.kind = script_field(line, KIND),
		.pick = script_field(line, SLOT) >> 1,
		.gfn = script_field(line, GFN_HIGH) << 6 |
		       script_field(line, GFN_LOW),
		.npages = script_npages(line),
		.hva = (script_field(line, HVA) + 1) << 16,
		.flags = script_field(line, FLAGS) & 3,
	};
	unsigned int i;
	int r;

	/* the id of a new region */
	e.id = 32 * (script_field(line, FLAGS) >> 4) +
	       (script_field(line, HVA) & 31);

	if (!vm->editing[as_id])
		regions_now(vm, as_id, regions);
	vm->editing[as_id] = true;
	edit(regions, &e);
	if (!(script_field(line, FLAGS) & 4))
		return 0;

	vm->editing[as_id] = false;
	asked = *regions;
	/* the dirty log of a huge slot takes too long */
	for (i = 0; i < asked.nr; i++) {
		if (asked.list[i].memory_size >> PAGE_SHIFT > EDIT_PAGES_MAX)
			asked.list[i].flags &= ~KVM_MEM_LOG_DIRTY_PAGES;
	}
	all.nr_regions = asked.nr;
	if (e.kind == 60)
		spoil(&all, &asked, &e);

	if (verbose) {
		fprintf(stderr, "# all of address space %u", all.as_id);
		if (shim_memory.fail_at)
			fprintf(stderr, ", allocation %u fails",
				shim_memory.fail_at);
		if (vm->req.prepare_error)
			fprintf(stderr, ", prepare fails after %u",
				vm->req.prepare_after);
		if (vm->req.hold_error)
			fprintf(stderr, ", hold fails");
		if (vm->req.killed)
			fprintf(stderr, ", killed");
		if (vm->refuses)
			fprintf(stderr, ", mappings go");
		fprintf(stderr, "\n");
		print(&asked);
	}
	r = vm_request_all(vm, &all);
	if (verbose)
		fprintf(stderr, "# = %d %s\n", r, vm->req.log);
	return 1;
}
