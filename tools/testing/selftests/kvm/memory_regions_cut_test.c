// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test faults in a huge page that KVM_SET_USER_MEMORY_REGIONS cuts in two.
 *
 * vCPUs find the new slots before KVM drops the mapping of the huge page, as it
 * waits for those that use old slots in between.  One vCPU is kept in a page fault
 * (userfaultfd), so that it waits long.  Meanwhile, another one writes to a part of
 * the huge page, or executes it, which the mapping does not allow.  This may give
 * it access to no more than that part: where it writes to the other one, and that
 * is logged, the log must say so.
 *
 * It is a vCPU that did not run before, and all else that it needs is mapped, so
 * this is its first fault.  If KVM needs memory for it (arm64: for a page table)
 * and has none at hand, the kernel log tells.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/compiler.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define CONTROL		0x20000000UL
#define CONTROL_SLOT	1
#define FAULTING	0x30000000UL	/* nothing behind it */
#define FAULTING_SLOT	2
#define OPENED		0x34000000UL	/* in the new map alone */
#define OPENED_SLOT	3
#define DONE		0x38000000UL	/* in no map */
#define CUT		0x40000000UL	/* the huge page */
#define CUT_SLOT	4		/* and the next one */
#define SIZE		(2UL << 20)
#define NR_HUGETLB	"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define NR_WRITES	3
#define DIRTY		KVM_MEM_LOG_DIRTY_PAGES

enum { TOUCHER, FAULTER, NEW, NR_VCPUS };

/* Shared by guest and host; the next page is what OPENED has. */
struct control {
	u64 page_size;
	u64 execute, first;
	u64 write[2][NR_WRITES];
};

struct test {
	const char *what;
	u32 before, flags[2];	/* of the slots */
	unsigned int part;	/* with the first fault */
	bool execute;
};

static const struct test tests[] = {
	{ "not logged, execute", 0, { 0, 0 }, 0, true },
	{ "logged, execute", DIRTY, { DIRTY, DIRTY }, 0, true },
	{ "logged, write", DIRTY, { DIRTY, DIRTY }, 1, false },
	{ "2nd part stays logged, write to the 1st", DIRTY, { 0, DIRTY }, 0, false },
	{ "2nd part stays logged, execute the 1st", DIRTY, { 0, DIRTY }, 0, true },
	{ "1st part stays logged, write to the 2nd", DIRTY, { DIRTY, 0 }, 1, false },
	{ "1st part stays logged, write to it", DIRTY, { DIRTY, 0 }, 0, false },
	{ "1st part is logged now, execute the 2nd", 0, { DIRTY, 0 }, 1, true },
	{ "neither part stays logged, write", DIRTY, { 0, 0 }, 0, false },
};

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpus[NR_VCPUS];
static struct control *control;
static size_t page_size;
static unsigned long nr_pages[3];	/* of both parts; of the huge page */
static unsigned char *memory;
static void *faulting;
static int uffd;

/* ------------------------------------------------------------- the guest */

/* The instruction at @at jumps back. */
#ifdef __x86_64__
static const unsigned char jump_back[] = { 0xff, 0xe2 };	/* jmp *%rdx */

static inline void execute(u64 at)
{
	asm volatile("lea 1f(%%rip), %%rdx\n\t"
		     "jmp *%0\n"
		     "1:" : : "r" (at) : "rdx", "memory");
}
#else
static const unsigned char jump_back[] = { 0x20, 0, 0x1f, 0xd6 };	/* br x1 */

static inline void execute(u64 at)
{
	asm volatile("adr x1, 1f\n\t"
		     "br %0\n"
		     "1:" : : "r" (at) : "x1", "memory");
}
#endif

static inline void write_to(u64 at)
{
	/* Do not overwrite the instruction. */
	store(*(u64 *)(at + 64), 1);
}

/* All that the new vCPU needs is in one page, and it needs no stack. */
static void __aligned(4096) guest_code(u64 v)
{
	struct control *c = (void *)CONTROL;
	unsigned int i, round = 0;
	u64 at;

	for (;;) {
		if (v == FAULTER) {
			load(*(u64 *)FAULTING);
		} else if (v == TOUCHER) {
			for (at = CUT; !round && at < CUT + SIZE;
			     at += c->page_size)
				write_to(at);
			while (round && !load(*(u64 *)OPENED))
				;
		} else if (!round) {
			if (c->execute)
				execute(c->first);
			else
				write_to(c->first);
		} else {
			for (i = 0; i < NR_WRITES; i++)
				write_to(c->write[round - 1][i]);
		}
		round++;
		load(*(u64 *)DONE);
	}
}

/* -------------------------------------------------------------- the host */

static void run(u32 v)
{
	struct kvm_run *run = vcpus[v]->run;

	for (;;) {
		TEST_ASSERT(!__vcpu_run(vcpus[v]), "KVM_RUN: %s",
			    strerror(errno));
		TEST_ASSERT(run->exit_reason == KVM_EXIT_MMIO,
			    "vCPU %u: exit %u (%s)", v, run->exit_reason,
			    exit_reason_str(run->exit_reason));
		if (run->mmio.phys_addr == DONE)
			return;
		TEST_ASSERT(run->mmio.phys_addr == OPENED,
			    "vCPU %u: MMIO at 0x%llx", v,
			    (unsigned long long)run->mmio.phys_addr);
		memset(run->mmio.data, 0, sizeof(run->mmio.data));
		usleep(1000);
	}
}

static void *faulter_thread(void *arg)
{
	run(FAULTER);
	return NULL;
}

/* Set the map, with one slot for the huge page, or two. */
static int set_map(const u32 *flags, bool cut)
{
	struct kvm_userspace_memory_region regions[6] = {
		slot_region(vm, 0),
		slot_region(vm, CONTROL_SLOT),
		{
			.slot = FAULTING_SLOT,
			.guest_phys_addr = FAULTING,
			.memory_size = page_size,
			.userspace_addr = (uintptr_t)faulting,
		}, {
			.slot = CUT_SLOT,
			.flags = flags[0],
			.guest_phys_addr = CUT,
			.memory_size = nr_pages[cut ? 0 : 2] * page_size,
			.userspace_addr = (uintptr_t)memory,
		}, {
			.slot = CUT_SLOT + 1,
			.flags = flags[1],
			.guest_phys_addr = CUT + nr_pages[0] * page_size,
			.memory_size = nr_pages[1] * page_size,
			.userspace_addr = (uintptr_t)memory +
					  nr_pages[0] * page_size,
		}, {
			.slot = OPENED_SLOT,
			.guest_phys_addr = OPENED,
			.memory_size = page_size,
			.userspace_addr = regions[1].userspace_addr + page_size,
		},
	};

	return set_memory_regions(vm->fd, 0, regions, cut ? 6 : 4);
}

static int cut_result;

static void *cut_thread(void *arg)
{
	const struct test *test = arg;

	store(cut_result, set_map(test->flags, true));
	return NULL;
}

static void set_up(void)
{
	int v;

	faulting = map_memory(page_size, MAP_PRIVATE);
	uffd = uffd_open(faulting, page_size);

	vm = __vm_create_with_one_vcpu(&vcpus[TOUCHER], nr_pages[2], guest_code);
	for (v = 0; v < NR_VCPUS; v++) {
		if (v != TOUCHER)
			vcpus[v] = vm_vcpu_add(vm, v, guest_code);
		vcpu_args_set(vcpus[v], 1, (u64)v);
	}
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CONTROL,
				    CONTROL_SLOT, 2, 0);
	virt_map(vm, CONTROL, CONTROL, 2);
	virt_map(vm, FAULTING, FAULTING, 1);
	virt_map(vm, OPENED, OPENED, 1);
	virt_map(vm, DONE, DONE, 1);
	virt_map(vm, CUT, CUT, nr_pages[2]);
	control = addr_gpa2hva(vm, CONTROL);
	memset(control, 0, page_size);
	memset((char *)control + page_size, 1, page_size);
	control->page_size = page_size;
}

static void tear_down(void)
{
	kvm_vm_free(vm);
	munmap(faulting, page_size);
	close(uffd);
}

/*
 * Check that the log of a part has the pages of @written, and no others.  A page
 * that is executed may be mapped writable, and logged for that.
 */
static bool check_log(unsigned int part, const bool *written,
		      unsigned long executed)
{
	unsigned long first = part ? nr_pages[0] : 0, page;
	unsigned long missing = 0, wrong = 0;
	unsigned char *log = calloc(1, SIZE / page_size / 8 + 8);
	int r;

	TEST_ASSERT(log, "no memory");
	r = get_dirty_log(vm->fd, CUT_SLOT + part, log);
	TEST_ASSERT(!r, "KVM_GET_DIRTY_LOG: %s", strerror(r));
	for (page = 0; page < nr_pages[part]; page++) {
		bool dirty = log[page / 8] & 1 << page % 8;

		missing += written[first + page] && !dirty;
		wrong += !written[first + page] && dirty &&
			 first + page != executed;
	}
	free(log);
	if (missing || wrong)
		ksft_print_msg("part %u: %lu pages are missing in the log, %lu are wrong there\n",
			       part + 1, missing, wrong);
	return !missing && !wrong;
}

static void check(const struct test *test, const char *kind)
{
	u32 unlogged[2] = {}, before[2] = { test->before };
	bool *written = calloc(nr_pages[2], sizeof(*written));
	unsigned long other, executed, i, page;
	pthread_t faulter, cutter;
	bool waits, good = true;
	long exits;
	int r;

	TEST_ASSERT(written, "no memory");
	set_up();
	for (page = 0; page < nr_pages[2]; page++)
		memcpy(memory + page * page_size, jump_back, sizeof(jump_back));
	r = set_map(unlogged, false);
	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
	exits = debugfs_stat(vm->fd, "exits");
	run(TOUCHER);
	exits = debugfs_stat(vm->fd, "exits") - exits;
	if (exits > nr_pages[2] / 2) {
		ksft_test_result_skip("%s, %s: no huge page (%ld exits)\n",
				      kind, test->what, exits);
		goto out;
	}

	/* First a page of one part, then some of the other one, and of both. */
	control->execute = test->execute;
	other = test->part ? 0 : nr_pages[0];
	page = (test->part ? nr_pages[0] : 0) + 5;
	control->first = CUT + page * page_size;
	written[page] = !test->execute;
	executed = test->execute ? page : -1UL;
	for (i = 0; i < NR_WRITES; i++) {
		page = other + (nr_pages[!test->part] - 1) / (NR_WRITES - 1) * i;
		control->write[0][i] = CUT + page * page_size;
		written[page] = true;
		page = nr_pages[2] / NR_WRITES * i + 3;
		control->write[1][i] = CUT + page * page_size;
		written[page] = true;
	}

	if (test->before)
		r = set_map(before, false);
	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
	pthread_create(&faulter, NULL, faulter_thread, NULL);
	uffd_wait(uffd);
	store(cut_result, -1);
	pthread_create(&cutter, NULL, cut_thread, (void *)test);
	run(TOUCHER);
	run(NEW);
	run(NEW);
	waits = load(cut_result) == -1;
	uffd_resolve(uffd, faulting, page_size);
	pthread_join(cutter, NULL);
	pthread_join(faulter, NULL);
	TEST_ASSERT(!cut_result, "KVM_SET_USER_MEMORY_REGIONS: %s",
		    strerror(cut_result));
	run(NEW);

	for (i = 0; i < 2; i++) {
		if (test->flags[i])
			good &= check_log(i, written, executed);
	}
	ksft_test_result(waits && good, "%s, %s%s\n", kind, test->what,
			 waits ? "" : ": the call did not wait");
out:
	tear_down();
	free(written);
}

/* Change the number of huge pages that the system keeps. */
static void add_hugetlb(long more)
{
	char text[32] = "";
	FILE *file = fopen(NR_HUGETLB, "r");

	if (!file)
		return;
	if (fgets(text, sizeof(text), file)) {
		snprintf(text, sizeof(text), "%ld", atol(text) + more);
		write_file(NR_HUGETLB, text);
	}
	fclose(file);
}

int main(void)
{
	unsigned int i;
	void *whole;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	if (!kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS))
		ksft_exit_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	ksft_set_plan(2 * ARRAY_SIZE(tests));

	page_size = getpagesize();
	nr_pages[2] = SIZE / page_size;
	nr_pages[0] = nr_pages[2] / 3;
	nr_pages[1] = nr_pages[2] - nr_pages[0];

	whole = map_memory(2 * SIZE, MAP_PRIVATE);
	memory = whole;
	memory += -(uintptr_t)memory & (SIZE - 1);
	madvise(memory, SIZE, MADV_HUGEPAGE);
	memset(memory, 0, SIZE);
	for (i = 0; i < ARRAY_SIZE(tests); i++)
		check(&tests[i], "transparent");
	munmap(whole, 2 * SIZE);

	add_hugetlb(1);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
		      21 << MAP_HUGE_SHIFT, -1, 0);
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (memory == MAP_FAILED)
			ksft_test_result_skip("hugetlb, %s\n", tests[i].what);
		else
			check(&tests[i], "hugetlb");
	}
	add_hugetlb(-1);

	ksft_exit(!ksft_get_fail_cnt());
}
