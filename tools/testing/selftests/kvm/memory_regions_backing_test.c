// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_SET_USER_MEMORY_REGIONS with what refers to a slot from elsewhere.
 *
 * A guest_memfd knows the slots that it is bound to: one that is listed
 * unchanged keeps its mappings, others are created or deleted, and a range that
 * is bound is refused to another slot, with nothing changed.  The same for
 * private memory, in a software-protected VM.
 *
 * An entry of a dirty ring names its slot by id: if the id or the place of a
 * logged slot changes before the ring is reset, writes must still be logged.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define DATA		0x40000000UL
#define MOVED		0x50000000UL
#define OTHER		0x60000000UL
#define PAGES		16
#define PAGE_USED	3
#define DATA_SLOT	10
#define OTHER_SLOT	11
#define PROBE_SLOT	12
#define GMEM		KVM_MEM_GUEST_MEMFD
#define RING_ENTRIES	1024

static struct kvm_vcpu *vcpu;
static struct kvm_vm *vm;
static char *memory;
static int gmem;

/* ------------------------------------------------------------- the guest */

static u64 guest_addr, guest_value;
static bool guest_writes;

static void guest_code(void)
{
	for (;;) {
		if (load(guest_writes))
			store(*(u64 *)load(guest_addr), load(guest_value));
		else
			store(guest_value, load(*(u64 *)load(guest_addr)));
		GUEST_SYNC(0);
	}
}

/* Returns whether the guest got there. */
static bool run(bool write, u64 addr, u64 value)
{
	struct ucall uc;

	guest_writes = write;
	guest_addr = addr;
	guest_value = value;
	sync_global_to_guest(vm, guest_writes);
	sync_global_to_guest(vm, guest_addr);
	sync_global_to_guest(vm, guest_value);
	__vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) != UCALL_SYNC)
		return false;
	sync_global_from_guest(vm, guest_value);
	return true;
}

static bool reads(u64 addr, u64 value)
{
	return run(false, addr, 0) && guest_value == value;
}

static u64 used(u64 gpa)
{
	return gpa + PAGE_USED * vm->page_size;
}

/* -------------------------------------------------------------- the host */

/* Addresses, offsets and sizes but @gpa are in pages. */
static struct kvm_userspace_memory_region2
region(u32 slot, u32 flags, u64 gpa, u64 pages, u64 offset)
{
	return (struct kvm_userspace_memory_region2) {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = pages * vm->page_size,
		.userspace_addr = (uintptr_t)memory + offset * vm->page_size,
		.guest_memfd = flags & GMEM ? gmem : 0,
		.guest_memfd_offset = flags & GMEM ? offset * vm->page_size : 0,
	};
}

/* The slot of the library, and up to two more. */
static int set_sized(u32 size, const struct kvm_userspace_memory_region2 *a,
		     const struct kvm_userspace_memory_region2 *b)
{
	/* The library sets guest_memfd without the flag; KVM refuses that. */
	struct kvm_userspace_memory_region first = slot_region(vm, 0);
	char regions[3 * sizeof(*a)] = {};
	struct kvm_userspace_memory_regions map = {
		.region_size = size,
		.regions = (uintptr_t)regions,
	};

	memcpy(regions, &first, sizeof(first));
	map.nr_regions = 1;
	if (a)
		memcpy(regions + map.nr_regions++ * size, a, size);
	if (b)
		memcpy(regions + map.nr_regions++ * size, b, size);
	return __vm_ioctl(vm, KVM_SET_USER_MEMORY_REGIONS, &map) ? errno : 0;
}

static int set(const struct kvm_userspace_memory_region2 *a,
	       const struct kvm_userspace_memory_region2 *b)
{
	return set_sized(sizeof(*a), a, b);
}

/* Overlap is checked before the file: no slot is created, or deleted again. */
static bool is_free(u64 gpa)
{
	return __vm_set_user_memory_region2(vm, PROBE_SLOT, GMEM, gpa,
					    vm->page_size, memory, -1, 0) &&
	       errno == EBADF;
}

/* Nothing was unmapped, and the guest has read what it should. */
static bool kept(u64 addr, u64 value)
{
	u64 faults = vcpu_get_stat(vcpu, pf_fixed);

	return reads(addr, value) && vcpu_get_stat(vcpu, pf_fixed) == faults;
}

static void refused(int want, int got, const char *what)
{
	ksft_test_result(got == want && kept(used(DATA), 1) && is_free(MOVED) &&
			 is_free(OTHER), "%s: %s\n", what, strerror(want));
	if (got != want)
		ksft_print_msg("got: %s\n", got ? strerror(got) : "accepted");
}

#define NR_REFUSED	17

static void test_refused(void)
{
	struct kvm_userspace_memory_region2 data, a, b;
	struct kvm_vm *other_vm = vm_create_barebones_type(vm->type);
	int fd, old = gmem;

	data = region(DATA_SLOT, GMEM, DATA, PAGES, 0);
	b = region(OTHER_SLOT, 0, OTHER, PAGES, 0);

	a = region(OTHER_SLOT, GMEM, MOVED, PAGES, 0);
	refused(EEXIST, set(&data, &a), "the range of another slot");
	a = region(OTHER_SLOT, GMEM, MOVED, 2, PAGES - 1);
	refused(EEXIST, set(&data, &a), "the last page of another slot");
	a = region(DATA_SLOT, GMEM, MOVED, PAGES, 0);
	refused(EEXIST, set(&a, &b), "the slot moves");
	a = region(OTHER_SLOT, GMEM, DATA, PAGES, 0);
	refused(EEXIST, set(&a, NULL), "the slot gets another id");
	a = region(DATA_SLOT, GMEM, DATA, PAGES - 1, 0);
	refused(EEXIST, set(&a, &b), "the slot shrinks");
	a = region(DATA_SLOT, GMEM, DATA, PAGES, 1);
	refused(EEXIST, set(&a, &b), "the slot gets another offset");
	a = data;
	a.userspace_addr += vm->page_size;
	refused(EEXIST, set(&a, &b), "the slot gets another hva");
	a = region(DATA_SLOT, GMEM, MOVED, PAGES, PAGES);
	b = region(OTHER_SLOT, GMEM, OTHER, PAGES, PAGES + 1);
	refused(EEXIST, set(&a, &b), "two new slots with a page in common");
	b = region(OTHER_SLOT, 0, OTHER, PAGES, 0);

	a = region(DATA_SLOT, GMEM | KVM_MEM_LOG_DIRTY_PAGES, DATA, PAGES, 0);
	refused(EINVAL, set(&a, &b), "a dirty log");
	a = region(DATA_SLOT, GMEM | KVM_MEM_READONLY, DATA, PAGES, 0);
	refused(EINVAL, set(&a, &b), "read-only");
	a = data;
	a.guest_memfd_offset++;
	refused(EINVAL, set(&a, &b), "an offset within a page");
	a = region(DATA_SLOT, GMEM, MOVED, PAGES, 3 * PAGES + 1);
	refused(EINVAL, set(&b, &a), "beyond the file");
	refused(EINVAL, set_sized(sizeof(struct kvm_userspace_memory_region),
				  &data, &b), "regions without guest_memfd");
	a = data;
	a.pad2[13] = 1;
	refused(E2BIG, set(&a, &b), "padding");

	gmem = -1;
	a = region(OTHER_SLOT, GMEM, MOVED, PAGES, PAGES);
	refused(EBADF, set(&data, &a), "no file");
	gmem = kvm_memfd_alloc(4 * PAGES * vm->page_size, false);
	a = region(OTHER_SLOT, GMEM, MOVED, PAGES, PAGES);
	refused(EINVAL, set(&data, &a), "another kind of file");
	close(gmem);
	fd = vm_create_guest_memfd(other_vm, 4 * PAGES * vm->page_size, 0);
	gmem = fd;
	a = region(OTHER_SLOT, GMEM, MOVED, PAGES, PAGES);
	refused(EINVAL, set(&data, &a), "another VM's file");
	close(fd);
	gmem = old;
	kvm_vm_free(other_vm);
}

/* Replace @from by @a and @b while one allocation after the other fails. */
static void test_allocations(const struct kvm_userspace_memory_region2 *from,
			     const struct kvm_userspace_memory_region2 *a,
			     const struct kvm_userspace_memory_region2 *b)
{
	unsigned int nth, left = 0, refused = 0;
	int fd = fail_nth_open(), r = 0;
	bool right = true;

	if (fd < 0) {
		ksft_test_result_skip("no fault injection\n");
		set(a, b);
		return;
	}
	for (nth = 1; !left && right; nth++) {
		r = set(from, NULL);
		TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
		fail_nth(fd, nth);
		r = set(a, b);
		left = fail_nth(fd, 0);
		refused += !!r;
		right = (!r || (r == ENOMEM && !left)) &&
			is_free(from->guest_phys_addr) == !r &&
			is_free(a->guest_phys_addr) == !!r &&
			is_free(b->guest_phys_addr) == !!r;
	}
	ksft_test_result(right, "each of %u allocations fails, %u times with ENOMEM\n",
			 nth - 2, refused);
	if (!right)
		ksft_print_msg("allocation %u: %s\n", nth - 1,
			       r ? strerror(r) : "accepted");
	close(fd);
}

#define NR_GMEM		(11 + NR_REFUSED)

static void test_gmem(unsigned long type, u64 flags)
{
	struct vm_shape shape = { .mode = VM_MODE_DEFAULT, .type = type };
	struct kvm_userspace_memory_region2 data, other, from;
	int fd, r;

	vm = vm_create_shape_with_one_vcpu(shape, &vcpu, guest_code);
	gmem = vm_create_guest_memfd(vm, 4 * PAGES * vm->page_size, flags);
	memory = map_memory(4 * PAGES * vm->page_size, MAP_PRIVATE);
	virt_map(vm, DATA, DATA, PAGES);
	virt_map(vm, MOVED, MOVED, PAGES);
	if (type != VM_TYPE_DEFAULT) {
		vm_mem_set_private(vm, DATA, PAGES * vm->page_size);
		vm_mem_set_private(vm, MOVED, PAGES * vm->page_size);
	}
	ksft_print_msg("VM type %lu, %s memory\n", type,
		       flags ? "shared" : "private");
	ksft_test_result(vm_check_cap(vm, KVM_CAP_USER_MEMORY_REGIONS) ==
			 kvm_check_cap(KVM_CAP_NR_MEMSLOTS),
			 "the VM has KVM_CAP_USER_MEMORY_REGIONS\n");

	data = region(DATA_SLOT, GMEM, DATA, PAGES, 0);
	other = region(OTHER_SLOT, 0, OTHER, PAGES, 0);
	r = set(&data, NULL);
	/* Reading faults in code of the guest, too. */
	ksft_test_result(!r && run(true, used(DATA), 1) &&
			 reads(used(DATA), 1) &&
			 !*(u64 *)(memory + PAGE_USED * vm->page_size),
			 "a new slot, and writes go to the file\n");

	r = set(&data, &other);
	ksft_test_result(!r && kept(used(DATA), 1) && !is_free(OTHER),
			 "it stays while another slot comes\n");
	fd = gmem;
	gmem = dup(fd);
	data = region(DATA_SLOT, GMEM, DATA, PAGES, 0);
	r = set(&data, NULL);
	ksft_test_result(!r && kept(used(DATA), 1) && is_free(OTHER),
			 "by another descriptor, while another slot goes\n");
	close(gmem);
	gmem = fd;

	test_refused();

	other = region(OTHER_SLOT, GMEM, MOVED, PAGES, PAGES);
	data = region(DATA_SLOT, GMEM, DATA, PAGES, 0);
	r = set(&data, &other);
	ksft_test_result(!r && kept(used(DATA), 1) && run(true, used(MOVED), 2),
			 "a range that was refused with another is free\n");

	r = set(NULL, NULL);
	ksft_test_result(!r && is_free(DATA) && is_free(MOVED) &&
			 !run(false, used(DATA), 0),
			 "the slots go: exit %s\n",
			 exit_reason_str(vcpu->run->exit_reason));

	other = region(DATA_SLOT, GMEM, MOVED, PAGES, 0);
	data = region(OTHER_SLOT, GMEM, DATA, PAGES, PAGES);
	r = set(&data, &other);
	/* Complete the access that exited. */
	run(false, used(DATA), 0);
	ksft_test_result(!r && reads(used(MOVED), 1) && reads(used(DATA), 2),
			 "then they come back with their places swapped\n");

	r = set(&data, NULL);
	ksft_test_result(!r && kept(used(DATA), 2) && is_free(MOVED),
			 "one of them goes\n");
	other = region(DATA_SLOT, 0, MOVED, PAGES, 0);
	r = set(&data, &other);
	ksft_test_result(!r && kept(used(DATA), 2) && !is_free(MOVED),
			 "a slot without the file in its place\n");

	other = region(DATA_SLOT, GMEM, MOVED, PAGES, 0);
	from = region(OTHER_SLOT, 0, OTHER, PAGES, 0);
	test_allocations(&from, &data, &other);
	ksft_test_result(reads(used(DATA), 2) && reads(used(MOVED), 1),
			 "the slots have what they had\n");

	close(gmem);
	munmap(memory, 4 * PAGES * vm->page_size);
	kvm_vm_free(vm);
}

static void skip(int nr, const char *why)
{
	while (nr--)
		ksft_test_result_skip("%s\n", why);
}

/* ------------------------------------------------------------ dirty rings */

/* Collect all entries; returns how many there are of that page. */
static int harvest(u32 slot, u64 offset)
{
	struct kvm_dirty_gfn *gfns = vcpu_map_dirty_ring(vcpu), *gfn;
	int nr = 0;

	for (;; vcpu->fetch_index++) {
		gfn = &gfns[vcpu->fetch_index % RING_ENTRIES];
		if (load(gfn->flags) != KVM_DIRTY_GFN_F_DIRTY)
			return nr;
		nr += gfn->slot == slot && gfn->offset == offset;
		store(gfn->flags, KVM_DIRTY_GFN_F_RESET);
	}
}

/* A page is written to, @from becomes @to, the ring is reset; written to again. */
static void ring_change(const char *what,
			struct kvm_userspace_memory_region2 from,
			struct kvm_userspace_memory_region2 to)
{
	u64 page = (used(DATA) - to.guest_phys_addr) / vm->page_size;
	int r, before, after;

	r = set(&from, NULL);
	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
	TEST_ASSERT(run(true, used(DATA), 1), "the guest does not write");
	before = harvest(from.slot, PAGE_USED);
	r = set(&to, NULL);
	kvm_vm_reset_dirty_ring(vm);
	TEST_ASSERT(run(true, used(DATA), 2), "the guest does not write");
	after = harvest(to.slot, page);
	kvm_vm_reset_dirty_ring(vm);
	ksft_test_result(!r && before == 1 && after == 1,
			 "dirty ring, %s: %d, then %d entries\n", what, before,
			 after);
}

#define NR_RING		6

static void test_ring(void)
{
	const u32 log = KVM_MEM_LOG_DIRTY_PAGES;
	struct kvm_userspace_memory_region2 from, to;
	u64 faults;
	int r;

	vm = vm_create(1);
	vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	vcpu = vm_vcpu_add(vm, 0, guest_code);
	memory = map_memory(4 * PAGES * vm->page_size, MAP_PRIVATE);
	virt_map(vm, DATA, DATA, PAGES);

	from = region(DATA_SLOT, log, DATA, PAGES, 1);
	ring_change("nothing changes", from, from);
	ring_change("another id", from,
		    region(OTHER_SLOT, log, DATA, PAGES, 1));
	ring_change("grown at the end", from,
		    region(DATA_SLOT, log, DATA, PAGES + 1, 1));
	ring_change("a page less in front", from,
		    region(DATA_SLOT, log, DATA + vm->page_size, PAGES - 1, 2));
	ring_change("shrunk to the page before", from,
		    region(OTHER_SLOT, log, DATA, PAGE_USED + 1, 1));

	from = region(DATA_SLOT, 0, DATA, PAGES, 1);
	to = region(OTHER_SLOT, 0, DATA, PAGES, 1);
	r = set(&from, NULL);
	TEST_ASSERT(!r && run(true, used(DATA), 3) && reads(used(DATA), 3),
		    "cannot set the slot: %s", strerror(r));
	faults = vcpu_get_stat(vcpu, pf_fixed);
	r = set(&to, NULL);
	ksft_test_result(!r && reads(used(DATA), 3) &&
			 vcpu_get_stat(vcpu, pf_fixed) == faults,
			 "dirty ring, a slot without a log keeps its mappings\n");

	munmap(memory, 4 * PAGES * vm->page_size);
	kvm_vm_free(vm);
}

int main(void)
{
	bool private = kvm_check_cap(KVM_CAP_VM_TYPES) &
		       BIT(KVM_X86_SW_PROTECTED_VM);
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;

	ksft_print_header();
	if (!kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS))
		ksft_exit_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	ksft_set_plan(2 * NR_GMEM + NR_RING);

	if ((kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & flags) == flags)
		test_gmem(VM_TYPE_DEFAULT, flags);
	else
		skip(NR_GMEM, "no guest_memfd that is shared");
	if (private)
		test_gmem(KVM_X86_SW_PROTECTED_VM, 0);
	else
		skip(NR_GMEM, "no software-protected VMs");
	if (kvm_check_cap(KVM_CAP_DIRTY_LOG_RING) ||
	    kvm_check_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		test_ring();
	else
		skip(NR_RING, "no dirty rings");
	ksft_exit(!ksft_get_fail_cnt());
}
