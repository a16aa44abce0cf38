// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that KVM_SET_USER_MEMORY_REGIONS keeps the mappings of memory that does not
 * change.
 *
 * A guest touches each page of a window of its memory.  Then the slots of the
 * window are split, merged, grown, shrunk, renumbered, logged or not, and the guest
 * touches each page again.  There must be no fault (the tracepoints kvm_page_fault
 * and kvm_guest_fault) at a page that had the same host memory and access before,
 * and at least one at memory that changed.  vCPUs must be held (the tracepoint
 * kvm_set_memory_regions) only if a page goes or changes.
 *
 * With huge pages, all but those across the ends of a slot must be kept, and huge
 * pages must come back when the slots are merged.
 *
 * At last, slots are merged while the guest faults.  KVM must not lose track of a
 * page that it maps meanwhile: then the guest would still see the memory when it
 * has been replaced.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
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
#define WINDOW		0x40000000UL
#define LOW_SLOT	2
#define FIRST_ID	10
#define MAX_SEGMENTS	16
#define DIRTY		KVM_MEM_LOG_DIRTY_PAGES
#define READONLY	KVM_MEM_READONLY

/* Shared by guest and host, in a slot that does not change. */
struct control {
	u64 page_size, nr, write;
	u64 at, expected, wrong;
	struct {
		u64 start, end;
	} range[MAX_SEGMENTS];
};

/* Pages of the window in 64ths of it, and the host memory that they have. */
struct segment {
	unsigned int start, end;
	u32 flags;
	unsigned int memory;
	int extra;		/* pages more at the end */
};

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static struct control *control;
static size_t page_size;
static unsigned long nr_pages;		/* of the window */
static unsigned char *memory[2];
static unsigned int rotation;

/* How many slots have the guest's program and page tables. */
static unsigned int nr_low = 1;

/* What the pages of the window have: memory + 1, and access. */
static unsigned char *now, *before;
static bool *faulted;

/* ------------------------------------------------------------- the guest */

static void guest_code(void)
{
	struct control *c = (void *)CONTROL;
	u64 i, page;

	for (;;) {
		for (i = 0; i < load(c->nr); i++) {
			for (page = c->range[i].start; page < c->range[i].end;
			     page++) {
				u64 *at = (void *)(WINDOW + page * c->page_size);

				store(c->at, page);
				if (c->write)
					store(*at, page);
				else if (load(*at) != c->expected)
					c->wrong++;
			}
		}
		GUEST_SYNC(0);
	}
}

/* -------------------------------------------------------------- the host */

static void touch(bool write)
{
	struct ucall uc;

	control->write = write;
	vcpu_run(vcpu);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC, "exit %u (%s)",
		    vcpu->run->exit_reason,
		    exit_reason_str(vcpu->run->exit_reason));
}

/* Find out which pages have faulted, and whether vCPUs were held. */
static bool read_trace(void)
{
	FILE *file = fopen(TRACING "trace", "r");
	bool held = false;
	char line[512];

	TEST_ASSERT(file, "%s: %s", TRACING "trace", strerror(errno));
	memset(faulted, 0, nr_pages);
	while (fgets(line, sizeof(line), file)) {
		u64 addr = 0;

		if (strstr(line, "kvm_page_fault:"))
			addr = number_of(line, "address ", 16);
		else if (strstr(line, "kvm_guest_fault:"))
			addr = number_of(line, "ipa ", 16);
		else if (strstr(line, "kvm_set_memory_regions:"))
			held |= number_of(line, "held for ", 10);
		if (addr >= WINDOW && addr - WINDOW < nr_pages * page_size)
			faulted[(addr - WINDOW) / page_size] = true;
	}
	fclose(file);
	write_file(TRACING "trace", "");
	return held;
}

static unsigned long first_page(const struct segment *seg)
{
	return nr_pages / 64 * seg->start;
}

static unsigned long end_page(const struct segment *seg)
{
	return nr_pages / 64 * seg->end + seg->extra;
}

/* Set the map; an end of a segment is the start of the next one. */
static void set_map(const struct segment *segs, unsigned int nr)
{
	struct kvm_userspace_memory_region regions[MAX_SEGMENTS + 3], low;
	unsigned long start = 0, page;
	unsigned int i, fixed = 0;
	int r;

	memcpy(before, now, nr_pages);
	memset(now, 0, nr_pages);
	regions[fixed++] = slot_region(vm, CONTROL_SLOT);
	low = slot_region(vm, 0);
	if (nr_low == 2) {
		regions[fixed] = low;
		regions[fixed].slot = LOW_SLOT;
		regions[fixed].memory_size = low.memory_size / page_size / 2 *
					     page_size;
		low.guest_phys_addr += regions[fixed].memory_size;
		low.userspace_addr += regions[fixed].memory_size;
		low.memory_size -= regions[fixed++].memory_size;
	}
	if (nr_low)
		regions[fixed++] = low;
	control->nr = nr;
	for (i = 0; i < nr; i++) {
		const struct segment *seg = &segs[i];

		if (!i || segs[i - 1].end != seg->start)
			start = first_page(seg);
		regions[fixed + i] = (struct kvm_userspace_memory_region) {
			.slot = FIRST_ID + (i + rotation) % nr,
			.flags = seg->flags,
			.guest_phys_addr = WINDOW + start * page_size,
			.memory_size = (end_page(seg) - start) * page_size,
			.userspace_addr = (uintptr_t)memory[seg->memory] +
					  start * page_size,
		};
		control->range[i].start = start;
		control->range[i].end = end_page(seg);
		for (page = start; page < end_page(seg); page++)
			now[page] = 1 + seg->memory +
				    (seg->flags & READONLY ? 2 : 0);
		start = end_page(seg);
	}
	r = set_memory_regions(vm->fd, 0, regions, fixed + nr);
	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
}

/* Change the map, and check which pages fault. */
static void check(const char *what, bool write, const struct segment *segs,
		  unsigned int nr)
{
	unsigned long page, kept = 0, lost = 0, new = 0, faults = 0, found = 0;
	bool held;

	write_file(TRACING "trace", "");
	set_map(segs, nr);
	touch(write);
	held = read_trace();

	for (page = 0; page < nr_pages; page++) {
		if (before[page] && before[page] == now[page]) {
			kept++;
			faults += faulted[page];
		} else if (now[page]) {
			new++;
			found += faulted[page];
		}
		lost += before[page] && before[page] != now[page];
	}
	/* If anything goes, all shadow pages do. */
	if (lost && shadow_paging())
		faults = 0;
	ksft_test_result(!faults && !new == !found && !lost == !held,
			 "%s: %lu faults in %lu pages that stay, %lu in %lu new ones, vCPUs %s\n",
			 what, faults, kept, found, new,
			 held ? "held" : "not held");
	/* The next check is about what it changes, whatever the last one did. */
	touch(write);
}

#define CHECK(what, write, ...)						\
	check(what, write, (const struct segment []){ __VA_ARGS__ },	\
	      sizeof((const struct segment []){ __VA_ARGS__ }) /	\
	      sizeof(struct segment))

static void check_small_pages(void)
{
	CHECK("create", true, { 0, 10, .extra = 3 }, { 12, 64 });
	CHECK("grow at both ends", true, { 0, 11 }, { 11, 64 });
	CHECK("merge, and split elsewhere", true, { 0, 33 }, { 33, 64 });
	CHECK("merge", true, { 0, 64 });
	CHECK("nothing", true);
	CHECK("create", true, { 0, 64 });
	CHECK("the same", true, { 0, 64 });
	CHECK("split", true, { 0, 32 }, { 32, 64 });
	CHECK("split again, inside of huge pages", true,
	      { 0, 16, .extra = 3 }, { 16, 32, .extra = -5 }, { 32, 48 },
	      { 48, 64 });
	CHECK("merge some of them", true,
	      { 0, 32, .extra = -5 }, { 32, 48 }, { 48, 64 });
	rotation = 1;
	CHECK("renumber", true,
	      { 0, 32, .extra = -5 }, { 32, 48 }, { 48, 64 });
	CHECK("merge all", true, { 0, 64 });
	CHECK("shrink at the end", true, { 0, 48 });
	CHECK("shrink at the front", true, { 8, 48 });
	CHECK("grow at both ends", true, { 0, 64 });
	CHECK("a hole", true, { 0, 20 }, { 30, 64 });
	CHECK("the hole is filled", true, { 0, 20 }, { 20, 30 }, { 30, 64 });
	CHECK("merge all", true, { 0, 64 });
	CHECK("other memory", true, { 0, 64, .memory = 1 });
	CHECK("and back", true, { 0, 64 });
	CHECK("other memory for a part", true,
	      { 0, 20 }, { 20, 30, .memory = 1 }, { 30, 64 });
	CHECK("and for another part", true,
	      { 0, 20 }, { 20, 30, .memory = 1 }, { 30, 40 },
	      { 40, 50, .memory = 1 }, { 50, 64 });
	CHECK("back to what it was", true, { 0, 64 });
	CHECK("a part is read-only", false,
	      { 0, 20 }, { 20, 30, .flags = READONLY }, { 30, 64 });
	CHECK("split the part that is read-only", false,
	      { 0, 20 }, { 20, 24, .flags = READONLY },
	      { 24, 30, .flags = READONLY }, { 30, 64 });
	CHECK("and writable again", true, { 0, 64 });

	/* What is logged is write-protected, so only read. */
	CHECK("log a part", false,
	      { 0, 20 }, { 20, 30, .flags = DIRTY }, { 30, 64 });
	CHECK("log another part", false,
	      { 0, 10, .flags = DIRTY }, { 10, 25 }, { 25, 64, .flags = DIRTY });
	CHECK("log all", false, { 0, 64, .flags = DIRTY });
	touch(true);
	CHECK("split while logged and written", true,
	      { 0, 30, .extra = 7, .flags = DIRTY }, { 30, 64, .flags = DIRTY });
	CHECK("merge while logged and written", true, { 0, 64, .flags = DIRTY });
	CHECK("log none", true, { 0, 64 });
	CHECK("nothing", true);

	/* The kernel log would tell if it lost track of a page table. */
	nr_low = 0;
	set_map(NULL, 0);
	nr_low = 2;
	set_map((struct segment []){{ 0, 64 }}, 1);
	touch(true);
	nr_low = 1;
	CHECK("merge what has the guest's page tables", true, { 0, 64 });
}

static void init(bool huge, unsigned long pages, const char *what)
{
	size_t size = pages * page_size, align = 2UL << 20;
	char kib[32];
	int i;

	nr_pages = pages;
	rotation = 0;
	vm = __vm_create_with_one_vcpu(&vcpu, pages, guest_code);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CONTROL,
				    CONTROL_SLOT, 1, 0);
	virt_map(vm, CONTROL, CONTROL, 1);
	virt_map(vm, WINDOW, WINDOW, pages);
	control = addr_gpa2hva(vm, CONTROL);
	memset(control, 0, sizeof(*control));
	control->page_size = page_size;

	for (i = 0; i < 2; i++) {
		memory[i] = map_memory(size + align,
				       huge ? MAP_PRIVATE : MAP_SHARED);
		memory[i] += -(uintptr_t)memory[i] & (align - 1);
		madvise(memory[i], size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
		memset(memory[i], 1, size);
	}
	/* The trace has to hold a fault for each page. */
	snprintf(kib, sizeof(kib), "%lu", 1408 + pages / 8);
	write_file(TRACING "buffer_size_kb", kib);
	now = calloc(1, nr_pages);
	before = calloc(1, nr_pages);
	faulted = calloc(1, nr_pages);
	TEST_ASSERT(now && before && faulted, "no memory");
	ksft_print_msg("%lu MiB of %s\n", size >> 20, what);
}

static void done(void)
{
	kvm_vm_free(vm);
	free(now);
	free(before);
	free(faulted);
	/* The memory is not needed any more, but its address is not known. */
}

static unsigned long faults_in(unsigned long start, unsigned long end)
{
	unsigned long page, n = 0;

	for (page = start; page < end; page++)
		n += faulted[page];
	return n;
}

/* Eight huge pages; segments are in eighths of one. */
static void check_huge_pages(void)
{
	unsigned long huge = nr_pages / 8, n;
	bool held;

	set_map((struct segment []){{ 0, 64 }}, 1);
	write_file(TRACING "trace", "");
	touch(true);
	read_trace();
	n = faults_in(0, nr_pages);
	if (n != 8) {
		ksft_test_result_skip("%lu faults at 8 huge pages\n", n);
		return;
	}

	CHECK("split between huge pages", true, { 0, 32 }, { 32, 64 });
	CHECK("and merge", true, { 0, 64 });

	/* The third one is split. */
	set_map((struct segment []){{ 0, 20 }, { 20, 64 }}, 2);
	touch(true);
	held = read_trace();
	n = faults_in(2 * huge, 3 * huge);
	ksft_test_result(!held && n && faults_in(0, nr_pages) == n,
			 "split inside of a huge page: %lu faults there, %lu in all\n",
			 n, faults_in(0, nr_pages));

	/* Each end forbids a huge page, and no longer than it is there. */
	CHECK("split inside of it once more", true,
	      { 0, 19 }, { 19, 20 }, { 20, 64 });
	CHECK("one end less", true, { 0, 19 }, { 19, 64 });
	madvise(memory[0], nr_pages * page_size, MADV_DONTNEED);
	memset(memory[0], 1, nr_pages * page_size);
	touch(true);
	read_trace();
	n = faults_in(2 * huge, 3 * huge);
	ksft_test_result(n > 1 && faults_in(0, nr_pages) == n + 7,
			 "other huge pages come back, this one does not: %lu faults\n",
			 faults_in(0, nr_pages));
	CHECK("merge", true, { 0, 64 });
	madvise(memory[0], nr_pages * page_size, MADV_DONTNEED);
	memset(memory[0], 1, nr_pages * page_size);
	touch(true);
	read_trace();
	n = faults_in(0, nr_pages);
	ksft_test_result(n == 8, "all huge pages come back: %lu faults\n", n);

	/* A part of it goes. */
	set_map((struct segment []){{ 0, 20 }, { 21, 64 }}, 2);
	touch(true);
	held = read_trace();
	n = faults_in(2 * huge, 3 * huge);
	ksft_test_result(held && n &&
			 (shadow_paging() || faults_in(0, nr_pages) == n),
			 "hole inside of a huge page: %lu faults there, %lu in all\n",
			 n, faults_in(0, nr_pages));
}

static void *touch_thread(void *arg)
{
	touch(true);
	return NULL;
}

/* Merge slots that were created separately while the guest faults. */
static void check_faults_in_flight(void)
{
	unsigned int i, rounds = 32;
	unsigned long wrong = 0;
	pthread_t thread;

	memset(memory[1], 2, nr_pages * page_size);
	control->expected = 0x0202020202020202;
	for (i = 0; i < rounds && !wrong; i++) {
		set_map(NULL, 0);
		set_map((struct segment []){{ 0, 30 }, { 30, 64 }}, 2);
		control->at = 0;
		pthread_create(&thread, NULL, touch_thread, NULL);
		while (load(control->at) < nr_pages / rounds * i)
			sched_yield();
		set_map((struct segment []){{ 0, 33 }, { 33, 64 }}, 2);
		set_map((struct segment []){{ 0, 64 }}, 1);
		pthread_join(thread, NULL);

		set_map((struct segment []){{ 0, 64, .memory = 1 }}, 1);
		control->wrong = 0;
		touch(false);
		wrong = control->wrong;
	}
	ksft_test_result(!wrong, "merged %u times during faults: %lu pages are wrong\n",
			 2 * i, wrong);
}

int main(int argc, char **argv)
{
	static const char * const events[] = {
		TRACING "events/kvm/kvm_page_fault/enable",
		TRACING "events/kvm/kvm_guest_fault/enable",
	};
	unsigned int i, nr = 0;
	long mib = 16;
	int opt;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt(argc, argv, "hm:")) != -1) {
		switch (opt) {
		case 'm':
			mib = parse_number(optarg, 4, 3072);
			break;
		default:
			printf("usage: %s [-m MiB]\n"
			       "  -m  memory whose slots are changed (%ld)\n",
			       argv[0], mib);
			return opt == 'h' ? 0 : KSFT_FAIL;
		}
	}

	ksft_print_header();
	if (!kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS))
		ksft_exit_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	mount_tracing();
	for (i = 0; i < ARRAY_SIZE(events); i++)
		nr += !write_file(events[i], "1");
	if (!nr || write_file(TRACING "events/kvm/kvm_set_memory_regions/enable",
			      "1"))
		ksft_exit_skip("no event tracing\n");

	page_size = getpagesize();
	init(false, (mib << 20) / page_size, "small pages");
	check_small_pages();
	done();

	init(true, (16UL << 20) / page_size, "huge pages");
	check_huge_pages();
	done();

	init(false, 512, "small pages");
	check_faults_in_flight();
	done();

	write_file(TRACING "events/kvm/enable", "0");
	ksft_set_plan(ksft_test_num());
	ksft_exit(!ksft_get_fail_cnt());
}
