// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the errors of KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG and
 * KVM_CLEAR_DIRTY_LOG: each kind of invalid request must fail with the right errno
 * and leave the memory map unchanged.  Works on any kernel, without a guest.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "memory_regions_util.h"

/* Unit of all addresses and sizes; s390 requires segments of 1 MiB. */
#define UNIT		0x100000UL
#define FREE_ID		7

static int vm_fd, nr_slots, nr_as, has_readonly;
static unsigned long page, hva;
static unsigned char bitmap[4096], all_ones[4096];

/* The map that must not change: id, flags, gpa and size in UNITs. */
static struct region {
	unsigned int id, flags;
	unsigned long gpa, size;
} map[] = {
	{ 0, 0, 16, 4 },
	{ 1, KVM_MEM_LOG_DIRTY_PAGES, 32, 4 },
	{ 2, KVM_MEM_READONLY, 64, 2 },
};

static int set_region(uint32_t slot, uint32_t flags, uint64_t gpa,
		      uint64_t size, uint64_t addr)
{
	return set_memory_region(vm_fd, slot, flags, gpa, size, addr);
}

/* Check for a slot at @gpa, in UNITs, by trying to create one. */
static int present(unsigned long gpa)
{
	int r = set_region(FREE_ID, 0, gpa * UNIT, UNIT, hva);

	if (!r)
		set_region(FREE_ID, 0, 0, 0, 0);
	return r == EEXIST;
}

static int map_intact(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(map); i++) {
		if (present(map[i].gpa - 1) || !present(map[i].gpa) ||
		    !present(map[i].gpa + map[i].size - 1) ||
		    present(map[i].gpa + map[i].size))
			return 0;
		/* Setting the same slot again is no change and must succeed. */
		if (set_region(map[i].id, map[i].flags, map[i].gpa * UNIT,
			       map[i].size * UNIT, hva))
			return 0;
	}
	return 1;
}

static void expect(const char *what, int got, int want)
{
	int intact = map_intact();

	ksft_test_result(got == want && intact, "%s: %s\n", what,
			 want ? strerror(want) : "accepted");
	if (got != want)
		ksft_print_msg("got: %s\n", got ? strerror(got) : "accepted");
	if (!intact)
		ksft_print_msg("the memory map has changed\n");
}

static void expect_region(const char *what, int want, uint32_t slot,
			  uint32_t flags, uint64_t gpa, uint64_t size,
			  uint64_t addr)
{
	int got = set_region(slot, flags, gpa, size, addr);

	/* Delete a new slot that was accepted. */
	if (!got && (slot & 0xffff) == FREE_ID)
		set_region(slot, 0, 0, 0, 0);
	expect(what, got, want);
}

static void test_requests(void)
{
	unsigned long u = UNIT;

	expect_region("unknown flag", EINVAL, FREE_ID, 1U << 2, 0, u, hva);
	expect_region("KVM's own flag", EINVAL, FREE_ID, 1U << 16, 0, u, hva);
	expect_region("size of half a page", EINVAL, FREE_ID, 0, 0,
		      u + page / 2, hva);
	expect_region("gpa within a page", EINVAL, FREE_ID, 0, page / 2, u,
		      hva);
	expect_region("hva within a page", EINVAL, FREE_ID, 0, 0, u,
		      hva + page / 2);
	expect_region("gpa wraps", EINVAL, FREE_ID, 0, -u, 2 * u, hva);
	expect_region("id is the maximum", EINVAL, nr_slots, 0, 0, u, hva);
	expect_region("id of all ones", EINVAL, 0xffff, 0, 0, u, hva);
	expect_region("address space is the maximum", EINVAL,
		      nr_as << 16 | FREE_ID, 0, 0, u, hva);
	expect_region("address space of all ones", EINVAL,
		      0xffffU << 16 | FREE_ID, 0, 0, u, hva);
	expect_region("2^31 pages", EINVAL, FREE_ID, 0, 0,
		      (1ULL << 31) * page, 0);
	expect_region("2^31 pages for a slot that is there", EINVAL, 0, 0,
		      16 * u, (1ULL << 31) * page, 0);
#ifndef __s390x__
	/* s390 has separate address spaces for kernel and users. */
	expect_region("hva of the kernel", EINVAL, FREE_ID, 0, 0, u,
		      -2 * u);
	expect_region("hva wraps", EINVAL, FREE_ID, 0, 0, 2 * u, -u);
#endif
	expect_region("delete what is not there", EINVAL, FREE_ID, 0, 0, 0, 0);
}

static void test_changes(void)
{
	unsigned long u = UNIT;

	expect_region("create next to a slot, below", 0, FREE_ID, 0, 15 * u, u,
		      hva);
	expect_region("create next to a slot, above", 0, FREE_ID, 0, 20 * u, u,
		      hva);
	expect_region("create upon a slot", EEXIST, FREE_ID, 0, 16 * u, 4 * u,
		      hva);
	expect_region("create within a slot", EEXIST, FREE_ID, 0, 17 * u, u,
		      hva);
	expect_region("create around a slot", EEXIST, FREE_ID, 0, 15 * u,
		      6 * u, hva);
	expect_region("create upon the first page", EEXIST, FREE_ID, 0, 15 * u,
		      2 * u, hva);
	expect_region("create upon the last page", EEXIST, FREE_ID, 0, 19 * u,
		      2 * u, hva);
	expect_region("create across two slots", EEXIST, FREE_ID, 0, 8 * u,
		      40 * u, hva);
	if (nr_as > 1)
		expect_region("create upon a slot of another address space", 0,
			      1U << 16 | FREE_ID, 0, 16 * u, 4 * u, hva);

	expect_region("grow a slot", EINVAL, 0, 0, 16 * u, 5 * u, hva);
	expect_region("shrink a slot", EINVAL, 0, 0, 16 * u, 3 * u, hva);
	expect_region("change the hva of a slot", EINVAL, 0, 0, 16 * u, 4 * u,
		      hva + u);
	if (has_readonly) {
		expect_region("make a slot read-only", EINVAL, 0,
			      KVM_MEM_READONLY, 16 * u, 4 * u, hva);
		expect_region("make a slot writable", EINVAL, 2, 0, 64 * u,
			      2 * u, hva);
	}
	expect_region("move upon another slot", EEXIST, 0, 0, 32 * u, 4 * u,
		      hva);
	expect_region("move upon the end of another slot", EEXIST, 0, 0,
		      35 * u, 4 * u, hva);

	/* These succeed; revert them before checking the map. */
	if (!set_region(0, 0, 18 * u, 4 * u, hva))
		expect("move upon itself, and back",
		       set_region(0, 0, 16 * u, 4 * u, hva), 0);
	else
		expect("move upon itself", errno, 0);
	if (!set_region(0, KVM_MEM_LOG_DIRTY_PAGES, 16 * u, 4 * u, hva))
		expect("log a slot, and no more",
		       set_region(0, 0, 16 * u, 4 * u, hva), 0);
	else
		expect("log a slot", errno, 0);
	if (!set_region(0, 0, 0, 0, 0))
		expect("delete a slot, and create it again",
		       set_region(0, 0, 16 * u, 4 * u, hva), 0);
	else
		expect("delete a slot", errno, 0);
	if (!set_region(nr_slots - 1, 0, 0, u, hva))
		expect("create the highest id, and delete it",
		       set_region(nr_slots - 1, 0, 0, 0, 0), 0);
	else
		expect("create the highest id", errno, 0);
}

static int get_log(uint32_t slot, void *to)
{
	return get_dirty_log(vm_fd, slot, to);
}

static void test_get_log(void)
{
	expect("log of a slot", get_log(1, bitmap), 0);
	expect("log of a slot without one", get_log(0, bitmap), ENOENT);
	expect("log of no slot", get_log(FREE_ID, bitmap), ENOENT);
	expect("log of the maximal id", get_log(nr_slots, bitmap), EINVAL);
	expect("log of the maximal address space",
	       get_log(nr_as << 16 | 1, bitmap), EINVAL);
	expect("log to nowhere", get_log(1, (void *)8), EFAULT);
}

static int clear_log(uint32_t slot, uint64_t first, uint32_t nr, void *from)
{
	return clear_dirty_log(vm_fd, slot, first, nr, from);
}

static void test_clear_log(void)
{
	unsigned int pages = 4 * UNIT / page;

	expect("clear a log", clear_log(1, 0, pages, all_ones), 0);
	expect("clear the end of a log",
	       clear_log(1, pages - 64, 64, all_ones), 0);
	expect("clear a log from page 1", clear_log(1, 1, 63, all_ones),
	       EINVAL);
	expect("clear 63 pages of a log", clear_log(1, 0, 63, all_ones),
	       EINVAL);
	expect("clear past the end of a log",
	       clear_log(1, 64, pages, all_ones), EINVAL);
	expect("clear behind the end of a log",
	       clear_log(1, 2 * pages, 64, all_ones), EINVAL);
	expect("clear a first page that wraps",
	       clear_log(1, -64ULL, 64, all_ones), EINVAL);
	expect("clear the log of a slot without one",
	       clear_log(0, 0, 64, all_ones), ENOENT);
	expect("clear the log of no slot",
	       clear_log(FREE_ID, 0, 64, all_ones), ENOENT);
	expect("clear the log of the maximal id",
	       clear_log(nr_slots, 0, 64, all_ones), EINVAL);
	expect("clear the log of the maximal address space",
	       clear_log(nr_as << 16 | 1, 0, 64, all_ones), EINVAL);
	expect("clear a log from nowhere", clear_log(1, 0, 64, (void *)8),
	       EFAULT);
}

int main(void)
{
	int kvm_fd = open("/dev/kvm", O_RDWR);
	int has_clear, i;

	ksft_print_header();
	if (kvm_fd < 0)
		ksft_exit_skip("/dev/kvm: %s\n", strerror(errno));

	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		ksft_exit_fail_msg("KVM_CREATE_VM: %s\n", strerror(errno));

	page = getpagesize();
	nr_slots = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
	nr_as = ioctl(kvm_fd, KVM_CHECK_EXTENSION,
		      KVM_CAP_MULTI_ADDRESS_SPACE);
	if (nr_as < 1)
		nr_as = 1;
	has_readonly = ioctl(kvm_fd, KVM_CHECK_EXTENSION,
			     KVM_CAP_READONLY_MEM) > 0;
	has_clear = ioctl(kvm_fd, KVM_CHECK_EXTENSION,
			  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) > 0;
	if (has_clear) {
		struct kvm_enable_cap cap = {
			.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			.args[0] = 1,
		};

		has_clear = !ioctl(vm_fd, KVM_ENABLE_CAP, &cap);
	}
	ksft_print_msg("%d slots in each of %d address spaces\n", nr_slots,
		       nr_as);

	hva = (unsigned long)map_memory(64 * UNIT, MAP_PRIVATE);
	hva = (hva + UNIT - 1) & -UNIT;
	memset(all_ones, 0xff, sizeof(all_ones));

	for (i = 0; i < ARRAY_SIZE(map); i++) {
		if (!has_readonly)
			map[i].flags &= ~KVM_MEM_READONLY;
		if (set_region(map[i].id, map[i].flags, map[i].gpa * UNIT,
			       map[i].size * UNIT, hva))
			ksft_exit_fail_msg("slot %d: %s\n", i, strerror(errno));
	}

	test_requests();
	test_changes();
	test_get_log();
	if (has_clear)
		test_clear_log();

	ksft_set_plan(ksft_test_num());
	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	ksft_exit_pass();
}
