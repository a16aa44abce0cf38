// SPDX-License-Identifier: GPL-2.0-only
/*
 * One test an operation and an error path of requests for all slots, on what
 * directed.c has set up.  What vm_request_all() compares with the model is not
 * said again.
 */
#include <sched.h>

#include "vm.h"

#define DIRTY		KVM_MEM_LOG_DIRTY_PAGES
#define HVA		(TASK_SIZE / 4 * 3)

static struct regions now;	/* what is to be asked for next */

static struct kvm_userspace_memory_region *region(unsigned int id)
{
	unsigned int i;

	for (i = 0; i < now.nr; i++) {
		if (now.list[i].slot == id)
			return &now.list[i];
	}
	fail("%u is not there", id);
}

static void drop(unsigned int id)
{
	*region(id) = now.list[--now.nr];
}

static void add_region(unsigned int id, gfn_t gfn, u64 npages, u64 hva,
		       u32 flags)
{
	check(now.nr < MAP_MAX);
	now.list[now.nr++] = (struct kvm_userspace_memory_region) {
		.slot = id,
		.flags = flags,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = npages << PAGE_SHIFT,
		.userspace_addr = hva,
	};
}

/* What is done if mappings have to go, and if none have to. */
#define GONE	"PHFRASULCX"
#define STAYS	"PASUCX"

/* Give a region another size, with the memory that it has, at either end. */
static void resize(unsigned int id, long front, long end)
{
	struct kvm_userspace_memory_region *a = region(id);

	a->guest_phys_addr -= front * (long)PAGE_SIZE;
	a->userspace_addr -= front * (long)PAGE_SIZE;
	a->memory_size += (front + end) * (long)PAGE_SIZE;
}

static void split(unsigned int id, unsigned int new_id, unsigned long npages)
{
	struct kvm_userspace_memory_region *a = region(id);
	u64 size = npages << PAGE_SHIFT;

	add_region(new_id, (a->guest_phys_addr + size) >> PAGE_SHIFT,
		   (a->memory_size - size) >> PAGE_SHIFT,
		   a->userspace_addr + size, a->flags);
	a->memory_size = size;
}

static void merge(unsigned int id, unsigned int other)
{
	region(id)->memory_size += region(other)->memory_size;
	drop(other);
}

static int set_all(struct vm *vm)
{
	return vm_set_all(vm, 0, &now);
}

/* All went well, as said; the next request is for what there is now. */
static void check_set(struct vm *vm, const char *log)
{
	int r = set_all(vm);

	if (r || strcmp(vm->req.log, log))
		fail("returns %d, does %s instead of %s", r, vm->req.log, log);
	regions_now(vm, 0, &now);
}

static void check_error(struct vm *vm, int error)
{
	int r = set_all(vm);

	if (r != error)
		fail("returns %d instead of %d", r, error);
	regions_now(vm, 0, &now);
}

static struct kvm_memory_slot *slot_of(struct vm *vm, int id)
{
	return id_to_memslot(vm->kvm.memslots[0], id);
}

/* Only these gfns are dirty, of those of a slot, from the given one on. */
static void check_dirty(struct vm *vm, int id, gfn_t gfn, const char *expected)
{
	struct kvm_memory_slot *slot = slot_of(vm, id);

	check(slot->dirty_bitmap);
	check(gfn == slot->base_gfn);
	check(strlen(expected) == slot->npages);
	for (; *expected; expected++, gfn++) {
		if (test_bit(gfn - slot->base_gfn, slot->dirty_bitmap) !=
		    (*expected == '1'))
			fail("gfn %#llx of slot %d", gfn, id);
	}
}

/* Nothing is dirty. */
static void clean(struct vm *vm)
{
	unsigned int i;

	for (i = 0; i < vm->map[0].nr; i++) {
		struct map_slot *slot = &vm->map[0].slots[i];
		size_t bytes = BITS_TO_LONGS(slot->npages) * sizeof(long);

		if (!slot->log)
			continue;
		memset(slot->log->bits, 0, bytes);
		memset(slot_of(vm, slot->id)->dirty_bitmap, 0, bytes);
	}
}

static void swap_ids(unsigned int a_id, unsigned int b_id)
{
	struct kvm_userspace_memory_region *a = region(a_id), *b = region(b_id);

	swap(a->slot, b->slot);
}

/* As check_set(), and then nobody writes: what is logged is what was. */
static void check_quiet(struct vm *vm, const char *log)
{
	vm->quiet = true;
	check_set(vm, log);
	vm->quiet = false;
}

static void test_same(struct vm *vm)
{
	unsigned int i, live = shim_memory.live;
	u64 generation = vm->generation[0];

	regions_now(vm, 0, &now);
	check(now.nr == 4);
	check_set(vm, "");
	for (i = 0; i < now.nr / 2; i++)
		swap(now.list[i], now.list[now.nr - 1 - i]);
	check_set(vm, "");
	check(vm->generation[0] == generation);
	check(shim_memory.live == live);
}

/* User space of 32 bits may pass an address in its upper half as a long. */
static void test_sign_extended(struct vm *vm)
{
	unsigned int i;

	regions_now(vm, 0, &now);
	for (i = 0; i < now.nr; i++)
		now.list[i].userspace_addr = (long)now.list[i].userspace_addr;
	check_set(vm, "");
}

static void test_none(struct vm *vm)
{
	u64 generation = vm->generation[0];

	now.nr = 0;
	check_set(vm, GONE);
	check(kvm_memslots_empty(__kvm_memslots(&vm->kvm, 0)));
	check(!vm->kvm.nr_memslot_pages);
	check(__kvm_memslots(&vm->kvm, 0)->generation == generation + 2);
	check_set(vm, "");
	check(__kvm_memslots(&vm->kvm, 0)->generation == generation + 2);
}

static void test_first(struct vm *vm)
{
	unsigned int i;

	/* the other address space stays as it is */
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 0);

	now.nr = 0;
	for (i = 0; i < 100; i++)
		add_region(i * 7 % 100, (i * 37 % 100) << 4, 1 + i % 16,
			   HVA + (i << 16), i & 1 ? DIRTY : 0);
	check(!vm_set_all(vm, 1, &now));
	check(!strcmp(vm->req.log, "PASUC"));
	check(__kvm_memslots(&vm->kvm, 1)->generation == 3);
	check(vm->kvm.memslot_space[1].ids.bits == 7);
	now.nr = 3;
	check(!vm_set_all(vm, 1, &now));
	check(vm->kvm.memslot_space[1].ids.bits == 4);
	check(__kvm_memslots(&vm->kvm, 0) == slots);
}

static void test_resize(struct vm *vm)
{
	struct kvm_memory_slot *other = slot_of(vm, 1);

	regions_now(vm, 0, &now);
	resize(3, 0, 0x10);
	check_set(vm, STAYS);
	resize(3, 0x20, 0);
	check_set(vm, STAYS);
	check(slot_of(vm, 3)->base_gfn == 0x1e0);
	check(slot_of(vm, 3)->npages == 0x130);
	check(slot_of(vm, 3)->userspace_addr == HVA);
	resize(3, -0x20, 0);
	resize(2, 0, -1);
	resize(4, -1, -1);
	check_set(vm, GONE);
	check(!__gfn_to_memslot(vm->kvm.memslots[0], 0x11f));
	check(slot_of(vm, 1) == other);
}

static void test_resize_log(struct vm *vm)
{
	clean(vm);
	regions_now(vm, 0, &now);
	vm_dirty(vm, 0, 0x112);
	vm_dirty(vm, 0, 0x11f);
	resize(2, -2, 3);
	check_quiet(vm, GONE);
	check_dirty(vm, 2, 0x112, "10000000000001000");
	resize(2, 1, -4);
	check_quiet(vm, GONE);
	check_dirty(vm, 2, 0x111, "01000000000000");
	/* longer than a word, and not at the same bits */
	resize(2, 0, 0xb0);
	check_quiet(vm, STAYS);
	vm_dirty(vm, 0, 0x150);
	vm_dirty(vm, 0, 0x151);
	vm_dirty(vm, 0, 0x1ce);
	resize(2, -0x3f, -0x10);
	check_quiet(vm, GONE);
	check(test_bit(0, slot_of(vm, 2)->dirty_bitmap));
	check(test_bit(1, slot_of(vm, 2)->dirty_bitmap));
	check(!test_bit(2, slot_of(vm, 2)->dirty_bitmap));
}

static void test_split(struct vm *vm)
{
	clean(vm);
	regions_now(vm, 0, &now);
	vm_dirty(vm, 0, 0x110);
	vm_dirty(vm, 0, 0x113);
	vm_dirty(vm, 0, 0x115);
	vm_dirty(vm, 0, 0x11f);
	split(2, 9, 5);
	check_quiet(vm, STAYS);
	check_dirty(vm, 2, 0x110, "10010");
	check_dirty(vm, 9, 0x115, "10000000001");

	/* with a hole */
	split(9, 10, 2);
	resize(10, -3, 0);
	check_quiet(vm, GONE);
	check_dirty(vm, 9, 0x115, "10");
	check_dirty(vm, 10, 0x11a, "000001");

	/* only half of it is logged */
	split(2, 11, 3);
	region(11)->flags = 0;
	check_quiet(vm, STAYS);
	check_dirty(vm, 2, 0x110, "100");
	check(!slot_of(vm, 11)->dirty_bitmap);
}

static void test_merge(struct vm *vm)
{
	clean(vm);
	regions_now(vm, 0, &now);
	split(2, 9, 8);
	check_quiet(vm, STAYS);
	vm_dirty(vm, 0, 0x117);
	vm_dirty(vm, 0, 0x118);
	merge(2, 9);
	check_quiet(vm, STAYS);
	check_dirty(vm, 2, 0x110, "0000000110000000");

	/* with one that is not logged */
	merge(1, 2);
	region(1)->flags = DIRTY;
	check_quiet(vm, STAYS);
	check_dirty(vm, 1, 0x100, "00000000000000000000000110000000");
}

/* What was logged is as it was, all else as on creation. */
static void test_initially_set(struct vm *vm)
{
	vm->kvm.manual_dirty_log_protect = KVM_DIRTY_LOG_INITIALLY_SET;
	clean(vm);
	regions_now(vm, 0, &now);
	vm_dirty(vm, 0, 0x113);
	merge(1, 2);
	region(1)->flags = DIRTY;
	resize(1, 2, 1);
	check_quiet(vm, STAYS);
	check_dirty(vm, 1, 0x0fe, "11111111111111111100010000000000001");

	/* that it is logged is all that is new */
	region(4)->flags = DIRTY;
	check_quiet(vm, "PASUC");
	check_dirty(vm, 4, 0x080, "1111111111111111");
}

static void test_other_memory(struct vm *vm)
{
	clean(vm);
	regions_now(vm, 0, &now);
	vm_dirty(vm, 0, 0x113);
	region(2)->userspace_addr += 0x1000000;
	check_quiet(vm, GONE);
	check_dirty(vm, 2, 0x110, "1111111111111111");

	/* logged with other memory, or without memory before */
	region(1)->flags = DIRTY;
	region(1)->userspace_addr += PAGE_SIZE;
	resize(1, 3, -1);
	check_quiet(vm, GONE);
	check_dirty(vm, 1, 0x0fd, "000111111111111111");
}

static void test_swap_ids(struct vm *vm)
{
	struct kvm_memory_slot *second = slot_of(vm, 2);
	unsigned long *log = second->dirty_bitmap;
	gfn_t *base = second->arch.base;

	regions_now(vm, 0, &now);
	swap_ids(1, 2);
	check_set(vm, "ASU");
	check(slot_of(vm, 1)->base_gfn == 0x110);
	check(slot_of(vm, 1)->dirty_bitmap == log);
	check(slot_of(vm, 1)->arch.base == base);

	/* in a ring, and to an id that there was not */
	region(1)->slot = 100;
	region(2)->slot = 1;
	region(3)->slot = 2;
	region(100)->slot = 3;
	region(4)->slot = 32763;
	check_set(vm, "ASU");
	check(slot_of(vm, 3)->dirty_bitmap == log);
	check(slot_of(vm, 32763)->base_gfn == 0x80);
	check(!slot_of(vm, 4));

	/* and logged or not */
	swap_ids(1, 3);
	region(1)->flags ^= DIRTY;
	region(3)->flags ^= DIRTY;
	check_set(vm, "PASUC");
}

static void test_swap_places(struct vm *vm)
{
	clean(vm);
	regions_now(vm, 0, &now);
	vm_dirty(vm, 0, 0x113);
	swap(region(1)->guest_phys_addr, region(2)->guest_phys_addr);
	check_quiet(vm, GONE);
	check(slot_of(vm, 2)->base_gfn == 0x100);
	check_dirty(vm, 2, 0x100, "1111111111111111");
	swap(region(1)->userspace_addr, region(2)->userspace_addr);
	swap(region(1)->guest_phys_addr, region(4)->guest_phys_addr);
	check_set(vm, GONE);
}

static void test_new_flags(struct vm *vm)
{
	gfn_t *base = slot_of(vm, 1)->arch.base;

	regions_now(vm, 0, &now);
	region(1)->flags = DIRTY;
	region(2)->flags = 0;
	check_set(vm, "PASUC");
	check(slot_of(vm, 1)->arch.base == base);
	check(slot_of(vm, 1)->dirty_bitmap);
	check(!slot_of(vm, 2)->dirty_bitmap);

	/* as if it were another one */
	region(1)->flags |= KVM_MEM_READONLY;
	check_set(vm, GONE);
	region(1)->flags = 0;
	check_set(vm, GONE);
}

static void test_kept_private(struct vm *vm)
{
	const struct kvm_userspace_memory_region private = {
		.slot = KVM_USER_MEM_SLOTS,
		.guest_phys_addr = 0x300000,
		.memory_size = 0x3000,
		.userspace_addr = HVA,
	};
	struct kvm_memory_slot *slot;

	check(!vm_request(vm, &private, false));
	slot = slot_of(vm, private.slot);
	regions_now(vm, 0, &now);
	check(now.nr == 4);
	check_set(vm, "");

	/* next to it, in it, around it, and instead of it */
	resize(3, 0, 1);
	check_error(vm, -EEXIST);
	add_region(9, 0x302, 1, HVA, 0);
	check_error(vm, -EEXIST);
	add_region(9, 0x2ff, 9, HVA, 0);
	drop(3);
	check_error(vm, -EEXIST);
	add_region(9, 0x300, 3, HVA, 0);
	check_error(vm, -EEXIST);
	add_region(9, 0x303, 1, HVA, 0);
	check_set(vm, "PASUC");
	now.nr = 0;
	check_set(vm, GONE);
	check(slot_of(vm, private.slot) == slot);
	check(vm->kvm.memslot_space[0].ids.nr == 1);
}

static void test_all_overlap(struct vm *vm)
{
	regions_now(vm, 0, &now);
	resize(1, 0, 1);	/* into 2, which is to stay */
	check_error(vm, -EEXIST);
	resize(1, 0, 1);	/* into 2, which is to change, too */
	region(2)->flags = 0;
	check_error(vm, -EEXIST);
	resize(1, 0, 1);
	resize(2, 2, 0);
	check_error(vm, -EEXIST);
	resize(1, 0, 1);	/* into 2, which gets another id */
	region(2)->slot = 20;
	check_error(vm, -EEXIST);
	add_region(9, 0x100, 0x10, HVA, 0);	/* as 1 */
	check_error(vm, -EEXIST);
	add_region(9, 0x100, 0x10, HVA, 0);	/* both instead of 1 */
	region(1)->slot = 10;
	check_error(vm, -EEXIST);
	add_region(9, 0x1000, 1, HVA, 0);
	add_region(10, 0x1000, 1, HVA, 0);
	check_error(vm, -EEXIST);
	add_region(9, 0x10, 0x1000, HVA, 0);
	check_error(vm, -EEXIST);

	/* as long as all fit in the end */
	resize(1, 0, 4);
	resize(2, -4, 0);
	check_set(vm, STAYS);
}

static void test_repeated_id(struct vm *vm)
{
	regions_now(vm, 0, &now);
	add_region(1, 0x1000, 1, HVA, 0);
	check_error(vm, -EEXIST);
	now.list[now.nr++] = *region(3);
	check_error(vm, -EEXIST);
	add_region(32763, 0x1000, 1, HVA, 0);
	add_region(32763, 0x1001, 1, HVA, 0);
	check_error(vm, -EEXIST);
}

static void test_bad_header(struct vm *vm)
{
	struct kvm_userspace_memory_regions good = {
		.nr_regions = 4,
		.region_size = sizeof(now.list[0]),
		.regions = (uintptr_t)now.list,
	}, bad[20];
	unsigned int i, nr = 0;

	regions_now(vm, 0, &now);

#undef BAD
#define BAD(field, value)						\
	do {								\
		bad[nr] = good;						\
		bad[nr++].field = (value);				\
	} while (0)

	BAD(flags, 1);
	BAD(flags, 1U << 31);
	BAD(as_id, KVM_ADDRESS_SPACE_NUM);
	BAD(as_id, 0x10000);
	BAD(as_id, -1);
	BAD(region_size, 0);
	BAD(region_size, 8);
	BAD(region_size, sizeof(now.list[0]) - 1);
	BAD(reserved[0], 1);
	BAD(reserved[3], 1ULL << 63);
	for (i = 0; i < nr; i++) {
		check(vm_request_all(vm, &bad[i]) == -EINVAL);
		check(!shim_memory.calls);
	}

	nr = 0;
	BAD(nr_regions, KVM_USER_MEM_SLOTS + 1);
	BAD(nr_regions, -1);
	BAD(region_size, PAGE_SIZE + 1);
	BAD(region_size, -1);
	for (i = 0; i < nr; i++) {
		check(vm_request_all(vm, &bad[i]) == -E2BIG);
		check(!shim_memory.calls);
	}

	nr = 0;
	BAD(regions, 0);
	check(vm_request_all(vm, &bad[0]) == -EFAULT);
	/* there is nothing to read */
	bad[0].nr_regions = 0;
	check(!vm_request_all(vm, &bad[0]));
}

/*
 * A program may have a larger struct, of a kernel that knows more fields, as
 * long as it does not ask for what they stand for.
 */
static void test_larger_regions(struct vm *vm)
{
	static const unsigned int sizes[] = { 40, 160, PAGE_SIZE };
	static unsigned char bytes[8 * PAGE_SIZE];
	struct kvm_userspace_memory_regions all = {
		.regions = (uintptr_t)bytes,
	};
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		regions_now(vm, 0, &now);
		split(3, 30 + i, 0x80 >> i);
		all.nr_regions = now.nr;
		all.region_size = sizes[i];
		memset(bytes, 0, sizeof(bytes));
		for (j = 0; j < now.nr; j++)
			memcpy(&bytes[j * sizes[i]], &now.list[j],
			       sizeof(now.list[j]));

		/* the first byte that is not known, and the last one of all */
		bytes[sizeof(now.list[0])] = 1;
		check(vm_request_all(vm, &all) == -E2BIG);
		check(shim_memory.calls == 1);
		bytes[sizeof(now.list[0])] = 0;
		bytes[now.nr * sizes[i] - 1] = 0x80;
		check(vm_request_all(vm, &all) == -E2BIG);
		bytes[now.nr * sizes[i] - 1] = 0;

		check(!vm_request_all(vm, &all));
		check(slot_of(vm, 30 + i));
		check(!vm_request_all(vm, &all));
		check(!vm->req.logged);
	}
}

static void test_bad_regions(struct vm *vm)
{
	struct kvm_userspace_memory_region good, bad[20];
	unsigned int i, j, nr = 0;

	regions_now(vm, 0, &now);
	good = *region(3);

	BAD(slot, KVM_USER_MEM_SLOTS);
	BAD(slot, 1 << 16 | 3);
	BAD(slot, -1);
	BAD(flags, 1 << 2);
	BAD(flags, KVM_MEMSLOT_INVALID);
	BAD(guest_phys_addr, 0x200800);
	BAD(guest_phys_addr, -0x1000ULL);
	BAD(memory_size, 0);
	BAD(memory_size, 0x100800);
	BAD(memory_size, 1ULL << 43);
	BAD(userspace_addr, HVA + 1);
	BAD(userspace_addr, TASK_SIZE);
	if (BITS_PER_LONG == 64)
		BAD(userspace_addr, HVA | 1ULL << 60);

	for (i = 0; i < nr; i++) {
		for (j = 0; j < 2; j++) {
			*region(3) = bad[i];
			/* the first one or the last one */
			swap(now.list[0], now.list[now.nr - 1]);
			check_error(vm, -EINVAL);
			check(shim_memory.calls == 1);
		}
	}
}

/* Requests of each kind, for which things fail. */
static void change_all(struct vm *vm, unsigned int kind)
{
	regions_now(vm, 0, &now);
	switch (kind) {
	case 0:			/* only new ones */
		add_region(9, 0x1000, 0x10, HVA, DIRTY);
		add_region(10, 0x1010, 0x10, HVA, 0);
		break;
	case 1:			/* one goes */
		drop(2);
		break;
	case 2:			/* other ids */
		swap_ids(1, 2);
		break;
	case 3:			/* other flags */
		region(1)->flags ^= DIRTY;
		region(2)->flags ^= DIRTY;
		break;
	case 4:			/* some of all, and a larger hash */
		swap_ids(1, 4);
		region(2)->flags ^= DIRTY;
		split(3, 30, 0x10);
		region(3)->flags = DIRTY;
		region(30)->flags = DIRTY;
		add_region(9, 0x1000, 0x10, HVA, DIRTY);
		for (kind = 0; kind < 20; kind++)
			add_region(40 + kind, 0x2000 + kind, 1, HVA, 0);
		break;
	}
}

#define KINDS	5

/* One failure after the other, until there is none. */
static void test_all_no_memory(struct vm *vm)
{
	static const unsigned int allocations[KINDS] = {
		/* regions, kept, stays, changed, deleted, gone; slots... */
		5 + 2 + 3, 5 + 1, 5 + 2, 5 + 2 + 1,
		/* ... a hash that is done without, and is there from then on */
		5 + 26 + 1 + 1 + 23 + 3 - 1,
	};
	struct regions given;
	unsigned int i, kind;
	int r;

	regions_now(vm, 0, &given);
	for (kind = 0; kind < KINDS; kind++) {
		unsigned int failed = 0;

		for (i = 1;; i++) {
			struct regions before;

			regions_now(vm, 0, &before);
			change_all(vm, kind);
			shim_memory.fail_at = i;
			r = set_all(vm);
			if (!r && shim_memory.failed == SHIM_NONE)
				break;
			failed++;
			if (!r) {
				check(shim_memory.failed == SHIM_NOWARN);
				check(!vm_set_all(vm, 0, &before));
				continue;
			}
			check(r == -ENOMEM);
			regions_now(vm, 0, &now);
			check(now.nr == before.nr);
			check(!memcmp(&now, &before, sizeof(now.list[0]) *
				      now.nr));
			validate_lookups(vm, 0, 20);
		}
		if (failed != allocations[kind])
			fail("%u failures of kind %u", failed, kind);
		check(!vm_set_all(vm, 0, &given));
	}
}

/* The first slots of an address space need a hash. */
static void test_all_first_no_memory(struct vm *vm)
{
	unsigned int i;
	int r;

	now.nr = 0;
	add_region(9, 0x1000, 0x10, HVA, 0);
	for (i = 1;; i++) {
		/* without a hash from the time before */
		kvfree(vm->kvm.memslot_space[1].ids.buckets);
		memset(&vm->kvm.memslot_space[1].ids, 0,
		       sizeof(vm->kvm.memslot_space[1].ids));
		shim_memory.fail_at = i;
		r = vm_set_all(vm, 1, &now);
		if (!r)
			break;
		check(r == -ENOMEM);
	}
	check(i == 9);
}

/* A smaller hash that there is no memory for can wait. */
static void test_all_no_memory_to_shrink(struct vm *vm)
{
	struct kvm_memslot_ids *ids = &vm->kvm.memslot_space[1].ids;
	unsigned int i;

	now.nr = 0;
	for (i = 0; i < 64; i++)
		add_region(i, i, 1, HVA, 0);
	check(!vm_set_all(vm, 1, &now));
	check(ids->bits == 6);
	now.nr = 7;
	shim_memory.fail_at = 7;
	check(!vm_set_all(vm, 1, &now));
	check(shim_memory.failed == SHIM_NOWARN);
	check(ids->bits == 6);
	now.nr = 6;
	check(!vm_set_all(vm, 1, &now));
	check(ids->bits == 5);
}

/* If it comes to nothing, the hash does not stay too large. */
static void test_all_undone_hash(struct vm *vm)
{
	struct kvm_memslot_ids *ids = &vm->kvm.memslot_space[0].ids;
	unsigned int i;

	regions_now(vm, 0, &now);
	check(ids->bits == 4);
	for (i = 0; i < 60; i++)
		add_region(100 + i, 0x1000 + i, 1, HVA, 0);
	vm->req.prepare_error = -EBUSY;
	check_error(vm, -EBUSY);
	/* seven of eight chains would be empty in one that were larger */
	check(ids->bits == 5);
	check(ids->nr == 4);
}

static void test_all_prepare_fails(struct vm *vm)
{
	struct regions given;
	unsigned int i, kind;
	int r;

	regions_now(vm, 0, &given);
	for (kind = 0; kind < KINDS; kind++) {
		for (i = 0;; i++) {
			change_all(vm, kind);
			vm->req.prepare_error = -EBUSY;
			vm->req.prepare_after = i;
			r = set_all(vm);
			if (!r)
				break;
			check(r == -EBUSY);
			validate_lookups(vm, 0, 20);
		}
		check(i == vm->nr_prepare);
		check(!vm_set_all(vm, 0, &given));
	}
}

static void test_all_killed(struct vm *vm)
{
	struct regions given;
	unsigned int kind;

	regions_now(vm, 0, &given);
	for (kind = 0; kind < KINDS; kind++) {
		bool hold;

		change_all(vm, kind);
		vm->req.killed = true;
		check(set_all(vm) == -EINTR);
		check(!vm->req.logged);

		hold = kind == 1;
		vm->req.hold_error = -EINTR;
		check(set_all(vm) == (hold ? -EINTR : 0));
		check(!strchr(vm->req.log, 'h') == !hold);
		validate_lookups(vm, 0, 20);
		check(!vm_set_all(vm, 0, &given));
	}
}

/* The model is too slow for all slots that x86 has. */
static void check_map(struct vm *vm, int as_id,
		      const struct kvm_userspace_memory_region *list,
		      unsigned int nr)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, as_id);
	struct kvm_memory_slot *slot;
	unsigned int i;

	check(slots->ids->nr == nr);
	for (i = 0; i < nr; i++) {
		slot = id_to_memslot(slots, list[i].slot);
		check(slot->base_gfn << PAGE_SHIFT == list[i].guest_phys_addr);
		check(slot->npages << PAGE_SHIFT == list[i].memory_size);
		check(slot->userspace_addr == list[i].userspace_addr);
		check(slot->flags == list[i].flags);
		check(__gfn_to_memslot(slots, slot->base_gfn) == slot);
	}
}

static void test_all_at_once(struct vm *vm)
{
	static struct kvm_userspace_memory_region list[KVM_USER_MEM_SLOTS + 1];
	struct kvm_userspace_memory_regions all = {
		.as_id = 1,
		.nr_regions = KVM_USER_MEM_SLOTS,
		.region_size = sizeof(list[0]),
		.regions = (uintptr_t)list,
	};
	struct kvm_memslot_ids *ids = &vm->kvm.memslot_space[1].ids;
	struct kvm_userspace_memory_region was;
	struct kvm_memory_slot *slot;
	unsigned int i, nr = KVM_USER_MEM_SLOTS, calls;

	for (i = 0; i < nr; i++) {
		list[i] = (struct kvm_userspace_memory_region) {
			.slot = i,
			.guest_phys_addr = ((u64)i * 10007 % nr * 2) << PAGE_SHIFT,
			.memory_size = 2 * PAGE_SIZE,
			.userspace_addr = HVA + i * 2 * PAGE_SIZE,
		};
	}
	all.nr_regions = nr + 1;
	check(vm_request_all(vm, &all) == -E2BIG);

	vm->unchecked = true;
	all.nr_regions = nr;
	check(!kvm_vm_ioctl_set_memory_regions(&vm->kvm, &all));
	check_map(vm, 1, list, nr);
	check(ids->bits == 15);
	check(vm->kvm.memslots[1]->generation == 3);

	/* one of them split, for which another one goes */
	slot = id_to_memslot(vm->kvm.memslots[1], 7);
	was = list[200];
	list[100].memory_size = PAGE_SIZE;
	list[200].guest_phys_addr = list[100].guest_phys_addr + PAGE_SIZE;
	list[200].userspace_addr = list[100].userspace_addr + PAGE_SIZE;
	list[200].memory_size = PAGE_SIZE;
	shim_memory.calls = 0;
	check(!kvm_vm_ioctl_set_memory_regions(&vm->kvm, &all));
	/* what stays costs nothing */
	calls = shim_memory.calls;
	check(calls == 5 + 2 + 1 + 2);
	check_map(vm, 1, list, nr);
	check(id_to_memslot(vm->kvm.memslots[1], 7) == slot);
	check(vm->kvm.memslots[1]->generation == 5);

	/* Regions are read again if the architecture takes back what it said. */
	list[100].memory_size = 2 * PAGE_SIZE;
	list[200] = was;
	vm->req.prepare_error = -EAGAIN;
	vm->req.prepare_after = 3;
	check(!kvm_vm_ioctl_set_memory_regions(&vm->kvm, &all));
	vm->req.prepare_error = 0;
	check_map(vm, 1, list, nr);
	check(id_to_memslot(vm->kvm.memslots[1], 7) == slot);

	/* All ids, one further. */
	for (i = 0; i < nr; i++)
		list[i].slot = (i + 1) % nr;
	check(!kvm_vm_ioctl_set_memory_regions(&vm->kvm, &all));
	check_map(vm, 1, list, nr);

	all.nr_regions = 0;
	check(!kvm_vm_ioctl_set_memory_regions(&vm->kvm, &all));
	check(!ids->nr);
	check(ids->bits == 4);
	vm->unchecked = false;
	vm->generation[1] = vm->kvm.memslots[1]->generation;
}

/*
 * The dirty log is little-endian on every machine, and starts and goes on at
 * any bit.
 */
static void test_endian(struct vm *vm)
{
	struct kvm_memslots *other = kvm_get_inactive_memslots(&vm->kvm, 0);
	unsigned long old_log[192 / BITS_PER_LONG], new_log[192 / BITS_PER_LONG];
	struct kvm_memory_slot old = {
		.base_gfn = 0x10003,
		.npages = 150,
		.userspace_addr = HVA,
		.dirty_bitmap = old_log,
	};
	struct kvm_memory_slot new = {
		.base_gfn = 0x10010,
		.npages = 160,
		.dirty_bitmap = new_log,
	};
	unsigned int kind;
	gfn_t gfn;

	kvm_memslots_replace(other, NULL, &old);
	shim_endian = SHIM_BIG_ENDIAN;
	for (kind = 0; kind < 8; kind++) {
		bool logged = kind & 1, same = kind & 2, ones = kind & 4;

		memset(old_log, 0, sizeof(old_log));
		memset(new_log, ones ? 0xff : 0, sizeof(new_log));
		old.dirty_bitmap = logged ? old_log : NULL;
		new.userspace_addr = HVA + 13 * PAGE_SIZE + !same * PAGE_SIZE;

		kvm_memslot_start_log(other, &new);
		for (gfn = 0; gfn < new.npages; gfn++) {
			bool both = gfn + 13 < old.npages;

			check(test_bit_le(gfn, new_log) ==
			      (both && !same ? true :
			       both && logged ? false : ones));
		}

		for (gfn = 0; gfn < old.npages; gfn += 3)
			set_bit_le(gfn, old_log);
		set_bit_le(100, new_log);
		kvm_memslot_carry_log(other, &new);
		for (gfn = 0; gfn < new.npages; gfn++) {
			bool both = gfn + 13 < old.npages;

			check(test_bit_le(gfn, new_log) ==
			      (gfn == 100 ? true :
			       both && !same ? true :
			       both && logged ? !((gfn + 13) % 3) : ones));
		}
	}
	shim_endian = 0;
	kvm_memslots_replace(other, &old, NULL);
}

/*
 * A log is carried bit for bit, however far it is shifted and wherever it ends,
 * and nothing else of either log is touched.
 */
static void check_carried(struct kvm_memslots *set, long shift,
			  unsigned long npages, unsigned long old_end,
			  unsigned long new_end, bool same, u64 *random)
{
	static unsigned long old_log[512 / BITS_PER_LONG];
	static unsigned long new_log[512 / BITS_PER_LONG];
	static unsigned long expected[512 / BITS_PER_LONG];
	struct kvm_memory_slot old = {
		.base_gfn = 0x20000 - (shift > 0 ? shift : 0),
		.npages = (shift > 0 ? shift : 0) + npages + old_end,
		.userspace_addr = HVA,
		.dirty_bitmap = old_log,
	};
	struct kvm_memory_slot new = {
		.base_gfn = old.base_gfn + shift,
		.npages = (shift < 0 ? -shift : 0) + npages + new_end,
		.userspace_addr = HVA + (shift + !same) * (long)PAGE_SIZE,
		.dirty_bitmap = new_log,
	};
	unsigned long i;

	for (i = 0; i < ARRAY_SIZE(old_log); i++) {
		/* dense, sparse, or with words of nothing and of ones */
		old_log[i] = next_random(random) << 32 ^ next_random(random);
		if (shift & 1)
			old_log[i] &= -(next_random(random) & 1);
		if (npages & 1)
			old_log[i] |= -(next_random(random) & 1);
		new_log[i] = next_random(random) << 32 & next_random(random);
	}
	memcpy(expected, new_log, sizeof(expected));
	for (i = 0; i < npages && same; i++) {
		if (test_bit_le((shift > 0 ? shift : 0) + i, old_log))
			__set_bit_le((shift < 0 ? -shift : 0) + i, expected);
	}

	kvm_memslots_replace(set, NULL, &old);
	kvm_memslot_carry_log(set, &new);
	kvm_memslots_replace(set, &old, NULL);
	if (memcmp(new_log, expected, sizeof(expected)))
		fail("%lu pages shifted by %ld, %lu and %lu more", npages,
		     shift, old_end, new_end);
}

static void test_carry(struct vm *vm)
{
	struct kvm_memslots *other = kvm_get_inactive_memslots(&vm->kvm, 0);
	u64 random = vm->random;
	unsigned long npages;
	long shift;

	for (shift = -130; shift <= 130; shift++) {
		for (npages = 1; npages <= 140; npages++) {
			shim_endian = (shift + npages) & 2 ? SHIM_BIG_ENDIAN : 0;
			check_carried(other, shift, npages, 0, 0, true,
				      &random);
			check_carried(other, shift, npages, 0, 67, true,
				      &random);
			check_carried(other, shift, npages, 67, 0, true,
				      &random);
			check_carried(other, shift, npages, 1, 1, false,
				      &random);
		}
	}
	shim_endian = 0;
}

/* Somebody writes, and logs, while a log is carried: none of both gets lost. */
#define RACE_PAGES	16384

struct carry_race {
	struct kvm_memory_slot new;
	unsigned int started, done;
};

static void *carry_race_thread(void *arg)
{
	struct carry_race *race = arg;
	unsigned long i;

	WRITE_ONCE(race->started, 1);
	for (i = 0; i < RACE_PAGES; i += 2)
		set_bit_le(i, race->new.dirty_bitmap);
	WRITE_ONCE(race->done, 1);
	return NULL;
}

static void test_carry_race(struct vm *vm)
{
	struct kvm_memslots *other = kvm_get_inactive_memslots(&vm->kvm, 0);
	static unsigned long old_log[RACE_PAGES / BITS_PER_LONG];
	static unsigned long new_log[RACE_PAGES / BITS_PER_LONG];
	struct kvm_memory_slot old = {
		.base_gfn = 0x20000,
		.npages = RACE_PAGES,
		.userspace_addr = HVA,
		.dirty_bitmap = old_log,
	};
	unsigned int round, i;

	memset(old_log, 0xaa, sizeof(old_log));
	kvm_memslots_replace(other, NULL, &old);
	for (round = 0; round < 200; round++) {
		struct carry_race race = { .new = old };
		unsigned long rescheds = shim_rescheds;
		pthread_t thread;

		race.new.dirty_bitmap = new_log;
		memset(new_log, 0xff, sizeof(new_log));
		kvm_memslot_start_log(other, &race.new);
		/* it takes long enough that others want to run */
		check(shim_rescheds > rescheds);
		rescheds = shim_rescheds;

		check(!pthread_create(&thread, NULL, carry_race_thread, &race));
		while (!READ_ONCE(race.started))
			sched_yield();
		do {
			kvm_memslot_carry_log(other, &race.new);
		} while (!READ_ONCE(race.done));
		pthread_join(thread, NULL);
		for (i = 0; i < ARRAY_SIZE(new_log); i++)
			check(new_log[i] == ~0UL);
		check(shim_rescheds > rescheds);
	}
	kvm_memslots_replace(other, &old, NULL);
}

/* From every map of up to two slots and three gfns to every other, and back. */
static struct kvm_userspace_memory_region any_region(unsigned int n,
						     unsigned int id)
{
	static const struct {
		gfn_t gfn;
		unsigned int npages;
	} places[6] = {
		{ 0, 1 }, { 1, 1 }, { 2, 1 }, { 0, 2 }, { 1, 2 }, { 0, 3 },
	};
	gfn_t gfn = places[n / 4 % 6].gfn;

	return (struct kvm_userspace_memory_region) {
		.slot = id,
		.flags = n & 1 ? DIRTY : 0,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = places[n / 4 % 6].npages * PAGE_SIZE,
		.userspace_addr = HVA + (gfn << PAGE_SHIFT) + (n >> 1 & 1) *
				  PAGE_SIZE,
	};
}

#define ANY	24	/* regions */

static void test_every_map(struct vm *vm)
{
	struct kvm_userspace_memory_region (*maps)[2];
	unsigned int i, j, nr = 0, *sizes;

	maps = calloc(ANY * ANY + 2 * ANY + 1, sizeof(*maps));
	sizes = calloc(ANY * ANY + 2 * ANY + 1, sizeof(*sizes));
	check(maps && sizes);
	for (i = 0; i <= ANY; i++) {
		for (j = 0; j <= ANY; j++) {
			struct kvm_userspace_memory_region a, b;

			a = any_region(i, 0);
			b = any_region(j, 1);
			if (i < ANY && j < ANY &&
			    a.guest_phys_addr < b.guest_phys_addr +
						b.memory_size &&
			    b.guest_phys_addr < a.guest_phys_addr +
						a.memory_size)
				continue;
			if (i < ANY)
				maps[nr][sizes[nr]++] = a;
			if (j < ANY)
				maps[nr][sizes[nr]++] = b;
			nr++;
		}
	}
	check(nr == 1 + 2 * ANY + 2 * 5 * 16);

	for (i = 0; i < nr; i++) {
		for (j = 0; j < nr; j++) {
			now.nr = sizes[j];
			memcpy(now.list, maps[j], sizeof(maps[j]));
			check(!set_all(vm));
			now.nr = sizes[i];
			memcpy(now.list, maps[i], sizeof(maps[i]));
			check(!set_all(vm));
		}
	}
	free(maps);
	free(sizes);
}

const struct directed_test directed_regions[] = {
	{ "all slots: as they are", test_same },
	{ "all slots: sign-extended addresses", test_sign_extended },
	{ "all slots: none", test_none },
	{ "all slots: the first ones", test_first },
	{ "all slots: grow and shrink", test_resize },
	{ "all slots: grow and shrink, with a dirty log", test_resize_log },
	{ "all slots: split", test_split },
	{ "all slots: merge", test_merge },
	{ "all slots: dirty log that is set at first", test_initially_set },
	{ "all slots: other host memory", test_other_memory },
	{ "all slots: swap ids", test_swap_ids },
	{ "all slots: swap places", test_swap_places },
	{ "all slots: flags", test_new_flags },
	{ "all slots: private ones", test_kept_private },
	{ "all slots: overlap", test_all_overlap },
	{ "all slots: an id twice", test_repeated_id },
	{ "all slots: bad header", test_bad_header },
	{ "all slots: regions with fields to come", test_larger_regions },
	{ "all slots: bad regions", test_bad_regions },
	{ "all slots: each allocation fails", test_all_no_memory },
	{ "all slots: no memory for the first", test_all_first_no_memory },
	{ "all slots: no memory for a smaller hash", test_all_no_memory_to_shrink },
	{ "all slots: no hash that is too large", test_all_undone_hash },
	{ "all slots: prepare fails", test_all_prepare_fails },
	{ "all slots: killed", test_all_killed },
	{ "all slots: as many as x86 has", test_all_at_once },
	{ "all slots: dirty log of either endianness", test_endian },
	{ "all slots: each bit of a log that is carried", test_carry },
	{ "all slots: a log that is carried and written", test_carry_race },
	{ "all slots: from every small map to every other", test_every_map },
	{}
};
