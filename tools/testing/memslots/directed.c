// SPDX-License-Identifier: GPL-2.0-only
/*
 * One test an operation and an error path.  What vm_request() compares with
 * the model is not said again; what is said is what must not change with it.
 */
#include <unistd.h>

#include "vm.h"

#define DIRTY		KVM_MEM_LOG_DIRTY_PAGES
#define HVA		(TASK_SIZE / 4 * 3)

/* Slots that the tests below find in address space 0 of their VM. */
static const struct {
	int id;
	gfn_t gfn;
	unsigned long npages, hva;
	u32 flags;
} given[] = {
	{ 1, 0x100, 0x10, HVA, 0 },
	{ 2, 0x110, 0x10, HVA + 0x10000, DIRTY },
	{ 3, 0x200, 0x100, HVA + 0x20000, 0 },
	{ 4, 0x080, 0x10, HVA + 0x20000, 0 },
};

static int set_flags(struct vm *vm, int as_id, int id, gfn_t gfn,
		     unsigned long npages, unsigned long hva, u32 flags)
{
	struct kvm_userspace_memory_region mem = {
		.slot = as_id << 16 | id,
		.flags = flags,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = (u64)npages << PAGE_SHIFT,
		.userspace_addr = hva,
	};

	return vm_request(vm, &mem, id < KVM_USER_MEM_SLOTS);
}

static int set(struct vm *vm, int id, gfn_t gfn, unsigned long npages,
	       unsigned long hva)
{
	return set_flags(vm, 0, id, gfn, npages, hva, 0);
}

static int delete(struct vm *vm, int id)
{
	return set(vm, id, 0, 0, 0);
}

static struct kvm_memory_slot *find(struct vm *vm, gfn_t gfn)
{
	return __gfn_to_memslot(__kvm_memslots(&vm->kvm, 0), gfn);
}

static void check_log(struct vm *vm, const char *log)
{
	if (strcmp(vm->req.log, log))
		fail("does %s instead of %s", vm->req.log, log);
}

static void test_empty(struct vm *vm)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 1);

	check(kvm_memslots_empty(slots));
	check(!kvm_memslots_end_gfn(slots));
	check(!find(vm, 0));
	check(!id_to_memslot(slots, 0));
	check(!kvm_memslot_at_or_above(slots, 0));
	check(!kvm_check_memslot_overlap(slots, NULL, 0, ULONG_MAX));
	check(delete(vm, 0) == -EINVAL);
	check(!shim_memory.calls);
}

static void test_create(struct vm *vm)
{
	unsigned long pages = vm->nr_pages;

	check(!set(vm, 0, 0, 1, HVA));
	check_log(vm, "PASUC");
	check(find(vm, 0)->id == 0);
	check(find(vm, 0)->userspace_addr == HVA);
	check(!find(vm, 1));
	check(vm->kvm.nr_memslot_pages == pages + 1);
	check(__kvm_memslots(&vm->kvm, 0)->generation == 10);
	check(__kvm_memslots(&vm->kvm, 1)->generation == 1);

	/* The last gfn there is, and the last address of user space. */
	check(!set(vm, 5, (1ULL << 52) - 2, 1, TASK_SIZE - PAGE_SIZE));
	check(kvm_memslots_end_gfn(__kvm_memslots(&vm->kvm, 0)) ==
	      (1ULL << 52) - 1);
	check(set(vm, 6, (1ULL << 52) - 1, 1, HVA) == -EINVAL);
}

static void test_delete(struct vm *vm)
{
	unsigned long pages = vm->nr_pages;

	check(!delete(vm, 3));
	check_log(vm, "ASUFRPASUCX");
	check(!find(vm, 0x200));
	check(vm->kvm.nr_memslot_pages == pages - 0x100);
	check(delete(vm, 3) == -EINVAL);

	check(!delete(vm, 2));
	check(!delete(vm, 1));
	check(!delete(vm, 4));
	check(kvm_memslots_empty(__kvm_memslots(&vm->kvm, 0)));
	check(!vm->kvm.nr_memslot_pages);
}

static void test_move(struct vm *vm)
{
	unsigned long pages = vm->nr_pages;

	check(!set(vm, 1, 0x1000, 0x10, HVA));
	check_log(vm, "ASUFRPASUC");
	check(!find(vm, 0x100));
	check(find(vm, 0x100f)->id == 1);

	/* onto itself, up and down */
	check(!set(vm, 1, 0x1001, 0x10, HVA));
	check(!set(vm, 1, 0x0ff8, 0x10, HVA));
	check(find(vm, 0x1007)->id == 1);
	check(!find(vm, 0x1008));
	check(vm->kvm.nr_memslot_pages == pages);
}

static void test_move_dirty(struct vm *vm)
{
	unsigned long *log = find(vm, 0x110)->dirty_bitmap;

	vm_dirty(vm, 0, 0x113);
	check(!set_flags(vm, 0, 2, 0x1000, 0x10, HVA + 0x10000, DIRTY));
	check(find(vm, 0x1000)->dirty_bitmap == log);
	check(*log & 1 << 3);

	/* moved and reflagged at once */
	check(!set_flags(vm, 0, 2, 0x2000, 0x10, HVA + 0x10000, 0));
	check(!find(vm, 0x2000)->dirty_bitmap);
	check(!set_flags(vm, 0, 2, 0x3000, 0x10, HVA + 0x10000, DIRTY));
	check(find(vm, 0x3000)->dirty_bitmap);
}

static void test_flags(struct vm *vm)
{
	struct kvm_memory_slot *slot = find(vm, 0x100);

	check(!set_flags(vm, 0, 1, 0x100, 0x10, HVA, DIRTY));
	check_log(vm, "PASUC");
	check(find(vm, 0x100) != slot);
	check(find(vm, 0x100)->dirty_bitmap);
	check(!set(vm, 1, 0x100, 0x10, HVA));
	check_log(vm, "PASUC");
	check(!find(vm, 0x100)->dirty_bitmap);
}

static void test_no_change(struct vm *vm)
{
	struct kvm_memory_slot *slot = find(vm, 0x110);

	check(!set_flags(vm, 0, 2, 0x110, 0x10, HVA + 0x10000, DIRTY));
	check_log(vm, "");
	check(!shim_memory.calls);
	check(find(vm, 0x110) == slot);
}

static void test_manual_protect(struct vm *vm)
{
	unsigned long *log;

	vm->kvm.manual_dirty_log_protect = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	check(!set_flags(vm, 0, 5, 0x1000, 70, HVA, DIRTY));
	log = find(vm, 0x1000)->dirty_bitmap;
	check(!memchr_inv((char *)log + 8, 0, shim_size(log) - 8));

	vm->kvm.manual_dirty_log_protect |= KVM_DIRTY_LOG_INITIALLY_SET;
	check(!set_flags(vm, 0, 6, 0x2000, 70, HVA, DIRTY));
	log = find(vm, 0x2000)->dirty_bitmap;
	check(test_bit(0, log) && test_bit(69, log) && !test_bit(70, log));
	check(!memchr_inv((char *)log + 9, 0, shim_size(log) - 9));

	/* a log that goes on is not set again */
	log = find(vm, 0x1000)->dirty_bitmap;
	check(!set_flags(vm, 0, 5, 0x1100, 70, HVA, DIRTY));
	check(find(vm, 0x1100)->dirty_bitmap == log);
	check(!test_bit(64, log) && !test_bit(69, log));
}

static void test_unchangeable(struct vm *vm)
{
	check(set(vm, 1, 0x100, 0x11, HVA) == -EINVAL);
	check(set(vm, 1, 0x100, 0x0f, HVA) == -EINVAL);
	check(set(vm, 1, 0x1000, 0x0f, HVA) == -EINVAL);
	check(set(vm, 1, 0x100, 0x10, HVA + 0x1000) == -EINVAL);
	check(set_flags(vm, 0, 1, 0x100, 0x10, HVA, KVM_MEM_READONLY) ==
	      -EINVAL);
	check(!shim_memory.calls);
}

static void test_bad_fields(struct vm *vm)
{
	const struct kvm_userspace_memory_region good = {
		.slot = 9,
		.guest_phys_addr = 0x1000000,
		.memory_size = 0x10000,
		.userspace_addr = HVA,
	};
	struct kvm_userspace_memory_region mem[20];
	unsigned int i, nr = 0;

#define BAD(field, value)						\
	do {								\
		mem[nr] = good;						\
		mem[nr++].field = (value);				\
	} while (0)

	BAD(slot, KVM_USER_MEM_SLOTS);
	BAD(slot, KVM_USER_MEM_SLOTS + KVM_PRIVATE_MEM_SLOTS);
	BAD(slot, 0xffff);
	BAD(slot, KVM_ADDRESS_SPACE_NUM << 16 | 9);
	BAD(slot, 0xffff0009);
	BAD(flags, 1 << 2);
	BAD(flags, KVM_MEMSLOT_INVALID);
	BAD(flags, 1U << 31);
	BAD(guest_phys_addr, 0x1000001);
	BAD(guest_phys_addr, 0x1000800);
	BAD(guest_phys_addr, -0x10000ULL);
	BAD(guest_phys_addr, -0x1000ULL);
	BAD(memory_size, 1);
	BAD(memory_size, 0x10800);
	BAD(memory_size, 1ULL << 43);
	BAD(memory_size, 1ULL << 63);
	BAD(userspace_addr, HVA + 1);
	BAD(userspace_addr, TASK_SIZE);
	BAD(userspace_addr, TASK_SIZE - 0xf000);
	if (BITS_PER_LONG == 64)
		BAD(userspace_addr, HVA | 1ULL << 60);

	for (i = 0; i < nr; i++) {
		if (vm_request(vm, &mem[i], true) != -EINVAL)
			fail("bad request %u", i);
		check(!shim_memory.calls);
	}
	check(!vm_request(vm, &good, true));
}

/* User space of 32 bits may pass an address in its upper half as a long. */
static void test_sign_extended(struct vm *vm)
{
	struct kvm_userspace_memory_region mem = {
		.slot = 5,
		.guest_phys_addr = 0x1000 << PAGE_SHIFT,
		.memory_size = PAGE_SIZE,
		.userspace_addr = (long)HVA,
	};

	check(!vm_request(vm, &mem, true));
	check(find(vm, 0x1000)->userspace_addr == HVA);
	check(!vm_request(vm, &mem, true));
	mem.flags = DIRTY;
	check(!vm_request(vm, &mem, true));
	mem.guest_phys_addr += PAGE_SIZE;
	check(!vm_request(vm, &mem, true));
	mem.userspace_addr = HVA;
	mem.flags = 0;
	check(!vm_request(vm, &mem, true));
	check(!find(vm, 0x1001)->dirty_bitmap);
}

static void test_private(struct vm *vm)
{
	int last = KVM_MEM_SLOTS_NUM - 1;

	check(!set(vm, last, 0x1000, 1, HVA));
	check(find(vm, 0x1000)->id == last);
	check(set(vm, last + 1, 0x2000, 1, HVA) == -EINVAL);
	check(!delete(vm, last));
}

static void test_limits(struct vm *vm)
{
	unsigned long max = KVM_MEM_MAX_NR_PAGES;

	check(max == (1UL << 31) - 1);
	if (BITS_PER_LONG == 64)
		check(!set(vm, 5, 0x10000, max, 0x1000));
	check(set(vm, 6, 1ULL << 40, max + 1, 0x1000) == -EINVAL);

	/* The total of all slots of both address spaces fits a long. */
	vm->kvm.nr_memslot_pages = ULONG_MAX - 0x10;
	vm->nr_pages = vm->kvm.nr_memslot_pages;
	check(set(vm, 6, 1ULL << 40, 0x11, 0x1000) == -EINVAL);
	check(set_flags(vm, 1, 6, 1ULL << 40, 0x11, 0x1000, 0) == -EINVAL);
	check(!set(vm, 6, 1ULL << 40, 0x10, 0x1000));
	/* What is there may still change. */
	check(!set(vm, 6, 1ULL << 41, 0x10, 0x1000));
	check(!set_flags(vm, 0, 6, 1ULL << 41, 0x10, 0x1000, DIRTY));
	check(!delete(vm, 6));
}

static void test_overlap(struct vm *vm)
{
	/* around slot 3, with 0x200 to 0x2ff */
	check(set(vm, 5, 0x1f0, 0x11, HVA) == -EEXIST);
	check(set(vm, 5, 0x200, 1, HVA) == -EEXIST);
	check(set(vm, 5, 0x280, 1, HVA) == -EEXIST);
	check(set(vm, 5, 0x2ff, 1, HVA) == -EEXIST);
	check(set(vm, 5, 0x2ff, 2, HVA) == -EEXIST);
	check(set(vm, 5, 0x1ff, 0x102, HVA) == -EEXIST);
	check(set(vm, 5, 0, 0x1000, HVA) == -EEXIST);
	check(!set(vm, 5, 0x1f0, 0x10, HVA));
	check(!set(vm, 6, 0x300, 0x10, HVA));

	/* a move onto a neighbour, while what moves does not count */
	check(set(vm, 1, 0x108, 0x10, HVA) == -EEXIST);
	check(set(vm, 1, 0x101, 0x10, HVA) == -EEXIST);
	check(!set(vm, 1, 0x0f8, 0x10, HVA));
	check(set(vm, 1, 0x200, 0x10, HVA) == -EEXIST);

	/* another address space is another space */
	check(!set_flags(vm, 1, 5, 0x200, 1, HVA, 0));
}

static void test_address_spaces(struct vm *vm)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 0);

	check(!set_flags(vm, 1, 1, 0x100, 0x10, HVA, 0));
	check(!set_flags(vm, 1, 2, 0x200, 0x10, HVA, 0));
	check(__kvm_memslots(&vm->kvm, 0) == slots);
	check(__kvm_memslots(&vm->kvm, 1)->generation == 5);
	check(!set_flags(vm, 1, 1, 0, 0, 0, 0));
	check(__kvm_memslots(&vm->kvm, 1)->generation == 9);
	check(find(vm, 0x100)->id == 1);
	check(!__gfn_to_memslot(__kvm_memslots(&vm->kvm, 1), 0x100));
}

/* Requests of each kind, for which things fail. */
static const struct failing {
	const char *name;
	int id;
	gfn_t gfn;
	unsigned long npages, hva;
	u32 flags;
	unsigned int allocations;
} failing[] = {
	{ "create", 5, 0x1000, 0x10, HVA, 0, 2 },
	{ "create logged", 5, 0x1000, 0x10, HVA, DIRTY, 3 },
	{ "delete", 3, 0, 0, 0, 0, 1 },
	{ "delete logged", 2, 0, 0, 0, 0, 1 },
	{ "move", 1, 0x1000, 0x10, HVA, 0, 3 },
	{ "move logged", 2, 0x1000, 0x10, HVA + 0x10000, DIRTY, 3 },
	{ "move, log", 1, 0x1000, 0x10, HVA, DIRTY, 4 },
	{ "move, unlog", 2, 0x1000, 0x10, HVA + 0x10000, 0, 3 },
	{ "log", 1, 0x100, 0x10, HVA, DIRTY, 2 },
	{ "unlog", 2, 0x110, 0x10, HVA + 0x10000, 0, 1 },
};

static int try(struct vm *vm, const struct failing *f)
{
	return set_flags(vm, 0, f->id, f->gfn, f->npages, f->hva, f->flags);
}

/* Have slot @id as it is given. */
static void restore(struct vm *vm, int id)
{
	unsigned int i;

	if (id_to_memslot(vm->kvm.memslots[0], id))
		check(!delete(vm, id));
	for (i = 0; i < ARRAY_SIZE(given); i++) {
		if (given[i].id == id)
			check(!set_flags(vm, 0, id, given[i].gfn,
					 given[i].npages, given[i].hva,
					 given[i].flags));
	}
}

static void test_no_memory(struct vm *vm)
{
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(failing); i++) {
		const struct failing *f = &failing[i];
		struct kvm_memory_slot *slot;

		slot = id_to_memslot(vm->kvm.memslots[0], f->id);
		for (j = 1; j <= f->allocations; j++) {
			shim_memory.fail_at = j;
			if (try(vm, f) != -ENOMEM)
				fail("%s: no failure %u", f->name, j);
			check(id_to_memslot(vm->kvm.memslots[0], f->id) ==
			      slot);
			validate_lookups(vm, 0, 50);
		}
		shim_memory.fail_at = j;
		if (try(vm, f))
			fail("%s: failure %u", f->name, j);
		check(shim_memory.failed == SHIM_NONE);
		validate_lookups(vm, 0, 50);
		restore(vm, f->id);
	}
}

static void test_prepare_fails(struct vm *vm)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(failing); i++) {
		const struct failing *f = &failing[i];
		struct kvm_memory_slot *slot;
		bool twice;

		slot = id_to_memslot(vm->kvm.memslots[0], f->id);
		vm->req.prepare_error = -EBUSY;
		check(try(vm, f) == -EBUSY);
		check(id_to_memslot(vm->kvm.memslots[0], f->id) == slot);
		twice = slot && f->gfn != slot->base_gfn;
		check_log(vm, twice ? "ASUFRPASU" : "P");
		validate_lookups(vm, 0, 50);
	}
}

/* The first slot of an address space needs a hash. */
static void test_no_memory_for_first(struct vm *vm)
{
	shim_memory.fail_at = 1;
	check(set_flags(vm, 1, 5, 0x1000, 1, HVA, 0) == -ENOMEM);
	shim_memory.fail_at = 2;
	check(set_flags(vm, 1, 5, 0x1000, 1, HVA, 0) == -ENOMEM);
	check(!vm->kvm.memslot_space[1].ids.buckets);
	shim_memory.fail_at = 3;
	check(set_flags(vm, 1, 5, 0x1000, 1, HVA, 0) == -ENOMEM);
	check(!set_flags(vm, 1, 5, 0x1000, 1, HVA, 0));
}

/* A hash that cannot grow or shrink stays as it is, until it can. */
static void test_no_memory_for_ids(struct vm *vm)
{
	struct kvm_memslot_ids *ids = &vm->kvm.memslot_space[1].ids;
	int id;

	for (id = 0; id < 16; id++)
		check(!set_flags(vm, 1, id, id, 1, HVA, 0));
	check(ids->bits == 4);
	shim_memory.fail_at = 2;
	check(!set_flags(vm, 1, id, id, 1, HVA, 0));
	check(ids->bits == 4);
	id++;
	check(!set_flags(vm, 1, id, id, 1, HVA, 0));
	check(ids->bits == 5);
	while (id > 4)
		check(!set_flags(vm, 1, id--, 0, 0, 0, 0));
	check(ids->bits == 5);
	check(ids->nr == 5);
	check(!set_flags(vm, 1, 4, 0, 0, 0, 0));
	shim_memory.fail_at = 2;
	check(!set_flags(vm, 1, 3, 0, 0, 0, 0));
	check(ids->bits == 5);
	check(!set_flags(vm, 1, 2, 0, 0, 0, 0));
	check(ids->bits == 4);
}

static void test_ids_bits(struct vm *vm)
{
	static const struct {
		unsigned int bits, nr, expected;
	} sizes[] = {
		{ 0, 0, 4 }, { 0, 1, 4 }, { 0, 16, 4 }, { 0, 17, 5 },
		{ 4, 16, 4 }, { 4, 17, 5 }, { 4, 33, 6 }, { 4, 0, 4 },
		{ 5, 4, 5 }, { 5, 3, 4 }, { 5, 0, 4 }, { 5, 32, 5 },
		{ 9, 512, 9 }, { 9, 513, 10 }, { 9, 64, 9 }, { 9, 63, 8 },
		{ 0, 32767, 15 }, { 15, 4096, 15 }, { 15, 4095, 14 },
		{ 15, 1, 4 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct kvm_memslot_ids ids = { .bits = sizes[i].bits };

		if (kvm_memslot_ids_bits(&ids, sizes[i].nr) !=
		    sizes[i].expected)
			fail("wrong size %u", i);
	}
}

/* All slots that x86 has, without the model, which is too slow for them. */
static void test_all_slots(struct vm *vm)
{
	struct kvm_memslot_ids *ids = &vm->kvm.memslot_space[1].ids;
	struct kvm_memslots *slots;
	int i, nr = KVM_MEM_SLOTS_NUM;
	unsigned int chain, longest = 0;
	struct hlist_node *node;

	/* In an order that is neither up nor down; 10007 is a prime. */
	vm->unchecked = true;
	for (i = 0; i < nr; i++) {
		struct kvm_userspace_memory_region mem = {
			.slot = 1 << 16 | i,
			.guest_phys_addr = ((u64)i * 10007 % nr) << PAGE_SHIFT,
			.memory_size = PAGE_SIZE,
			.userspace_addr = HVA,
		};

		check(!kvm_set_memory_region(&vm->kvm, &mem));
	}
	check(ids->nr == nr);
	check(ids->bits == 15);
	slots = __kvm_memslots(&vm->kvm, 1);
	for (i = 0; i < nr; i++) {
		gfn_t gfn = (u64)i * 10007 % nr;

		check(id_to_memslot(slots, i)->id == i);
		check(__gfn_to_memslot(slots, gfn)->id == i);
	}
	for (i = 0; i < 1 << ids->bits; i++) {
		chain = 0;
		for (node = ids->buckets[i].first; node; node = node->next)
			chain++;
		longest = chain > longest ? chain : longest;
	}
	check(longest <= 8);

	for (i = 0; i < nr; i++) {
		struct kvm_userspace_memory_region mem = {
			.slot = 1 << 16 | i,
		};

		check(!kvm_set_memory_region(&vm->kvm, &mem));
	}
	check(!ids->nr);
	check(ids->bits == 4);
	check(kvm_memslots_empty(__kvm_memslots(&vm->kvm, 1)));
	vm->unchecked = false;
	vm->generation[1] = vm->kvm.memslots[1]->generation;
}

static void test_ranges(struct vm *vm)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 0);
	struct kvm_memory_slot *slot;
	int ids = 0;

	kvm_for_each_memslot(slot, slots)
		ids = ids * 10 + slot->id;
	check(ids == 4123);
	ids = 0;
	kvm_for_each_memslot_in_gfn_range(slot, slots, 0x10f, 0x111)
		ids = ids * 10 + slot->id;
	check(ids == 12);
	kvm_for_each_memslot_in_gfn_range(slot, slots, 0x120, 0x200)
		fail("a slot in a hole");
	ids = 0;
	kvm_for_each_memslot_in_hva_range(slot, slots, HVA + 0xffff,
					  HVA + 0x10001)
		ids = ids * 10 + slot->id;
	check(ids == 12);
	/* aliases: slots 3 and 4 share memory, in either order */
	ids = 0;
	kvm_for_each_memslot_in_hva_range(slot, slots, HVA + 0x2ffff,
					  HVA + 0x30000)
		ids += slot->id;
	check(ids == 3 + 4);
	ids = 0;
	kvm_for_each_memslot_in_hva_range(slot, slots, HVA + 0x30000,
					  HVA + 0x30001)
		ids += slot->id;
	check(ids == 3);

	shim_warn_expected = true;
	kvm_for_each_memslot_in_gfn_range(slot, slots, 0x100, 0x100)
		fail("a slot in an empty range");
	kvm_for_each_memslot_in_gfn_range(slot, slots, 0x101, 0x100)
		fail("a slot in a reversed range");
	kvm_for_each_memslot_in_hva_range(slot, slots, HVA, HVA)
		fail("a slot in an empty range");
	kvm_for_each_memslot_in_hva_range(slot, slots, HVA + 1, HVA)
		fail("a slot in a reversed range");
	check(shim_warned == 4);
	shim_warn_expected = false;
}

static void test_edges(struct vm *vm)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 0);

	check(!find(vm, 0x0ff));
	check(find(vm, 0x100)->id == 1);
	check(find(vm, 0x10f)->id == 1);
	check(find(vm, 0x110)->id == 2);
	check(!find(vm, 0x120));
	check(!find(vm, -1ULL));
	check(kvm_memslot_at_or_above(slots, 0x120)->id == 3);
	check(kvm_memslot_at_or_above(slots, 0x2ff)->id == 3);
	check(!kvm_memslot_at_or_above(slots, 0x300));
	check(kvm_memslot_at_or_above(slots, 0)->id == 4);
	check(kvm_memslots_end_gfn(slots) == 0x300);
	check(!id_to_memslot(slots, 0));
	check(id_to_memslot(slots, 4)->base_gfn == 0x80);
}

/* Both caches of the last slot found follow each kind of change. */
static void test_last_used(struct vm *vm)
{
	unsigned int i;
	int kind;

	for (kind = 0; kind < 3; kind++) {
		for (i = 0; i < 3; i++) {
			/* so that both sets have it */
			find(vm, 0x100);
			set_flags(vm, 0, 5, 0x5000 + i, 1, HVA, 0);
			find(vm, 0x100);
			delete(vm, 5);
		}
		find(vm, 0x100);
		check(__kvm_memslots(&vm->kvm, 0)->last_used_slot->id == 1);
		if (kind == 0)
			set_flags(vm, 0, 1, 0x100, 0x10, HVA, DIRTY);
		else if (kind == 1)
			set_flags(vm, 0, 1, 0x108 - 0x10, 0x10, HVA, DIRTY);
		else
			delete(vm, 1);
		check(!find(vm, 0x100) == (kind == 2));
		if (kind == 1)
			set_flags(vm, 0, 1, 0x100, 0x10, HVA, DIRTY);
	}
}

/*
 * Who reads without protection can leave a slot in a set that is none of its
 * slots any more.  Nobody finds it there when the set is the active one again.
 */
static void test_last_used_stale(struct vm *vm)
{
	struct kvm_memory_slot gone = { .base_gfn = 0, .npages = -1UL };
	struct kvm_memslots *next = kvm_get_inactive_memslots(&vm->kvm, 0);

	next->last_used_slot = &gone;
	check(!set_flags(vm, 0, 1, 0x100, 0x10, HVA, DIRTY));
	check(next == __kvm_memslots(&vm->kvm, 0));
	check(find(vm, 0x100) != &gone);
	check(!delete(vm, 1));
	check(!find(vm, 0x100));
}

/* A vCPU does not take a slot of another generation for one of this. */
static void test_vcpu(struct vm *vm)
{
	struct kvm_vcpu *vcpu = &vm->vcpu[0];
	struct kvm_memory_slot *slot;

	slot = kvm_vcpu_gfn_to_memslot(vcpu, 0x105);
	check(slot->id == 1);
	if (BITS_PER_LONG == 64) {
		check(vcpu->last_used_slot == slot);
		check(vcpu->last_used_gen == vm->generation[0]);
	}
	check(kvm_vcpu_gfn_to_memslot(vcpu, 0x106) == slot);
	check(kvm_vcpu_gfn_to_memslot(vcpu, 0x110)->id == 2);
	check(!kvm_vcpu_gfn_to_memslot(vcpu, 0x120));
	check(kvm_vcpu_gfn_to_memslot(vcpu, 0x110)->id == 2);

	check(!delete(vm, 2));
	check(!kvm_vcpu_gfn_to_memslot(vcpu, 0x110));
	/* as long as another map is there, what it remembers is not used */
	vcpu->last_used_slot = (void *)-1L;
	check(kvm_vcpu_gfn_to_memslot(vcpu, 0x105)->id == 1);
	if (BITS_PER_LONG == 64)
		check(vcpu->last_used_slot == find(vm, 0x105));
	check(!set_flags(vm, 1, 1, 0x100, 0x10, HVA, 0));
	vcpu->as_id = 1;
	check(kvm_vcpu_gfn_to_memslot(vcpu, 0x105)->as_id == 1);
	vcpu->as_id = 0;
	check(kvm_vcpu_gfn_to_memslot(vcpu, 0x105)->as_id == 0);
}

#if BITS_PER_LONG == 32
static struct kvm_memslots *torn_slots;

static void end_progress(void)
{
	torn_slots->generation &= ~KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;
	torn_slots->generation += KVM_ADDRESS_SPACE_NUM;
	shim_between_halves = NULL;
}

/*
 * A vCPU reads one half of a generation while an update is in progress, and the
 * other half when it is not any more.  Neither that number nor the one that it
 * looks like is of the slots that are remembered.
 */
static void test_torn_generation(struct vm *vm)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 0);
	struct kvm_memory_slot gone = { .base_gfn = 0, .npages = -1UL };
	struct kvm_vcpu *vcpu = &vm->vcpu[0];
	u64 generation = slots->generation;

	torn_slots = slots;
	for (;;) {
		slots->generation = generation;
		check(kvm_vcpu_gfn_to_memslot(vcpu, 0x105)->id == 1);

		/* that slot is replaced */
		vcpu->last_used_slot = &gone;
		slots->generation |= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;
		shim_between_halves = end_progress;
		check(kvm_vcpu_gfn_to_memslot(vcpu, 0x105)->id == 1);

		/* and replaced again */
		shim_between_halves = NULL;
		vcpu->last_used_slot = &gone;
		slots->generation = generation + KVM_ADDRESS_SPACE_NUM;
		slots->generation |= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;
		check(kvm_vcpu_gfn_to_memslot(vcpu, 0x105)->id == 1);

		if (shim_upper_first)
			break;
		shim_upper_first = true;
	}
	slots->generation = generation;
}
#endif

static void test_calloc(struct vm *vm)
{
	static const struct {
		size_t n, size;
		enum shim_alloc type;
	} sizes[] = {
		{ 1, 1, SHIM_KMALLOC },
		{ 1, PAGE_SIZE, SHIM_KMALLOC },
		{ 512, 8, SHIM_KMALLOC },
		{ 513, 8, SHIM_VMALLOC },
		{ 1, PAGE_SIZE + 1, SHIM_VMALLOC },
	};
	unsigned int i;
	char *p;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		p = kvm_memslot_calloc(sizes[i].n, sizes[i].size);
		check(p);
		check(!p[0] && !p[sizes[i].n * sizes[i].size - 1]);
		check(shim_memory.last == sizes[i].type);
		kvfree(p);
	}
	check(!kvm_memslot_calloc(SIZE_MAX / 4 + 1, 8));
	check(!kvm_memslot_calloc(SIZE_MAX / 8 + 1, 8));
}

static void test_log_sizes(struct vm *vm)
{
	static const unsigned long npages[] = {
		1, 63, 64, 65, 127, 128, 129, 32767, 32768, 32769,
	};
	unsigned int i;

	vm->kvm.manual_dirty_log_protect = KVM_DIRTY_LOG_INITIALLY_SET;
	for (i = 0; i < ARRAY_SIZE(npages); i++) {
		struct kvm_memory_slot *slot;
		unsigned long *log;

		check(!set_flags(vm, 1, 1, 0, npages[i], HVA, DIRTY));
		slot = __gfn_to_memslot(vm->kvm.memslots[1], 0);
		log = slot->dirty_bitmap;
		check(shim_size(log) == 2 * kvm_dirty_bitmap_bytes(slot));
		check(log[(npages[i] - 1) / BITS_PER_LONG] ==
		      -1UL >> (BITS_PER_LONG - 1 -
			       (npages[i] - 1) % BITS_PER_LONG));
		check(!set_flags(vm, 1, 1, 0, 0, 0, 0));
	}
}

static void test_warning(struct vm *vm)
{
	struct kvm_memslots *other = kvm_get_inactive_memslots(&vm->kvm, 0);
	struct kvm_memory_slot *slot = find(vm, 0x100);
	struct kvm_memory_slot overlapping = *slot;

	/* The container warns about what its callers have to rule out. */
	overlapping.base_gfn = 0x118;
	shim_warn_expected = true;
	kvm_memslots_replace(other, NULL, &overlapping);
	check(shim_warned);
	kvm_memslots_replace(other, &overlapping, NULL);
	shim_warn_expected = false;
	validate(vm);
}

/* The container alone, for what no request asks of it. */
#define SLOTS	24

static void check_space(struct kvm_memslot_space *space,
			struct kvm_memory_slot **in, unsigned int idx)
{
	struct kvm_memslots *slots = &space->sets[idx];
	struct kvm_memory_slot *slot;
	unsigned int i, j, nr = 0;
	gfn_t end = 0;

	kvm_for_each_memslot(slot, slots) {
		check(slot->base_gfn >= end);
		end = slot->base_gfn + slot->npages;
		nr++;
	}
	for (i = 0; i < SLOTS; i++) {
		unsigned long hva = i << PAGE_SHIFT;
		u64 found = 0, expected = 0;

		kvm_for_each_memslot_in_hva_range(slot, slots, hva, hva + 1)
			found += slot->base_gfn;
		for (j = 0; j < SLOTS; j++) {
			if (in[j] && hva >= in[j]->userspace_addr &&
			    hva - in[j]->userspace_addr <
			    in[j]->npages << PAGE_SHIFT)
				expected += in[j]->base_gfn;
		}
		check(found == expected);

		if (in[i])
			nr--;
		check(!in[i] || search_memslots(slots, in[i]->base_gfn) == in[i]);
	}
	check(!nr);
}

static void test_container(struct vm *vm)
{
	struct kvm_memory_slot pool[SLOTS][2];
	struct kvm_memory_slot *in[SLOTS] = {};
	struct kvm_memslot_space space;
	unsigned int i, j, k;

	memset(&space, 0xff, sizeof(space));
	kvm_memslot_space_init(&space, 7);
	check(!space.ids.buckets && !space.ids.bits && !space.ids.nr);
	for (i = 0; i < 2; i++) {
		check(space.sets[i].generation == 7);
		check(space.sets[i].node_idx == i);
		check(kvm_memslots_empty(&space.sets[i]));
		check(!space.sets[i].last_used_slot);
	}

	/* Replace slots by ones elsewhere in the guest, the host, or both. */
	for (i = 0; i < 20000; i++) {
		u64 random = next_random(&vm->random);
		struct kvm_memory_slot *old, *new;

		k = random % SLOTS;
		old = in[k];
		new = &pool[k][old == &pool[k][0]];
		*new = (struct kvm_memory_slot) {
			.base_gfn = 1 << 8 | k << 3 | (random >> 8 & 3),
			.npages = 1 + (random >> 10 & 3),
			.userspace_addr = (random >> 16) % SLOTS << PAGE_SHIFT,
		};
		if (random >> 32 & 1 && old) {
			new->userspace_addr = old->userspace_addr;
			if (random >> 33 & 1)
				new->npages = old->npages;
		}
		if ((random >> 34) % 4 == 0)
			new = NULL;
		if (!old && !new)
			continue;

		for (j = 0; j < 2; j++) {
			kvm_memslots_replace(&space.sets[j], old, new);
			in[k] = new;
			check_space(&space, in, j);
			in[k] = old;
		}
		in[k] = new;
	}
}

static const struct directed_test directed[] = {
	{ "a VM without slots", test_empty },
	{ "the container alone", test_container },
	{ "create", test_create },
	{ "delete", test_delete },
	{ "move", test_move },
	{ "move, with a dirty log", test_move_dirty },
	{ "flags", test_flags },
	{ "nothing to change", test_no_change },
	{ "dirty log that is set at first", test_manual_protect },
	{ "dirty log of any size", test_log_sizes },
	{ "what cannot change", test_unchangeable },
	{ "bad fields", test_bad_fields },
	{ "sign-extended addresses", test_sign_extended },
	{ "private slots", test_private },
	{ "page limits", test_limits },
	{ "overlap", test_overlap },
	{ "address spaces", test_address_spaces },
	{ "each allocation fails", test_no_memory },
	{ "prepare fails", test_prepare_fails },
	{ "no memory for the first slot", test_no_memory_for_first },
	{ "no memory for a larger or smaller hash", test_no_memory_for_ids },
	{ "size of the hash", test_ids_bits },
	{ "all slots of x86", test_all_slots },
	{ "ranges", test_ranges },
	{ "edges of slots", test_edges },
	{ "last used slot of a set", test_last_used },
	{ "last used slot of a set, left by an unprotected reader",
	  test_last_used_stale },
	{ "powerpc: registering a slot fails", test_uvmem_init_start },
	{ "powerpc: a secure guest is given up", test_uvmem_init_abort },
	{ "last used slot of a vCPU", test_vcpu },
#if BITS_PER_LONG == 32
	{ "last used slot of a vCPU, and half a generation",
	  test_torn_generation },
#endif
	{ "kmalloc() or vmalloc()", test_calloc },
	{ "warning about an overlap", test_warning },
	{}
};

const struct directed_test *const directed_groups[] = {
	directed, directed_regions, directed_gate, NULL
};

void directed_run(const struct directed_test *test)
{
	struct vm *vm = vm_create();
	unsigned int i;

	if (test->run != test_empty) {
		for (i = 0; i < ARRAY_SIZE(given); i++)
			check(!set_flags(vm, 0, given[i].id, given[i].gfn,
					 given[i].npages, given[i].hva,
					 given[i].flags));
	}
	validate_lookups(vm, 0, 50);
	test->run(vm);
	validate(vm);
	validate_lookups(vm, 0, 50);
	validate_lookups(vm, 1, 50);
	vm_destroy(vm);
}
