// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure the cost of KVM_SET_USER_MEMORY_REGIONS, compared to one ioctl per
 * slot: time in the ioctls alone, grace periods, how long vCPUs are held, and
 * how many pages a guest has to fault on again.
 *
 * Prints one figure per line, "name slots value unit", with -m without TAP.
 * Counts are tested.  Times are tested with -t only, for machines where time is a
 * count of instructions.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define MAX_SLOTS	32764
#define ROUNDS		10
#define FIRST_ID	10
/* Addressable with 36 bits: two pages per slot, one of them a gap. */
#define WINDOW		0x100000000ULL
#define STRIDE		4
#define CONTROL		0x20000000UL
#define CONTROL_SLOT	1
#define PAGE		4096UL
#define LARGE_PAGE	0x200000UL
#define LOG		KVM_MEM_LOG_DIRTY_PAGES
/* A slot that takes long to walk, and how much of it is mapped. */
#define HUGE_PAGES	(24UL << 30 >> 12)
#define HUGE_MAPPED	1000
#define HUGE_GVA	0x200000000UL
/* Slots that are split, with a mapping for each 2 MiB. */
#define SPLIT_SMALL	(64UL << 20 >> 12)
#define SPLIT_LARGE	(4UL << 30 >> 12)
#define SPLIT_MAPPED	(SPLIT_LARGE * PAGE / LARGE_PAGE)
#define ZAP_ALL		"/sys/module/kvm/parameters/memslot_zap_all"

static int counts[] = { 10, 509, 32764 };
/* Not in the program itself, which is copied to the guest. */
static struct kvm_userspace_memory_region *regions;
static int nr_fixed;			/* of those, slots of the library */
static int vm_fd, max_slots, mib = 1024, failed, ns_per_insn;
static bool machine;
static char *host;			/* behind all slots, never touched */

static void figure(const char *name, int slots, double value, const char *unit)
{
	printf("%s%s %d %.4g %s\n", machine ? "" : "# ", name, slots, value,
	       unit);
}

static void result(bool ok, const char *what, int slots, double value,
		   double limit)
{
	failed += !ok;
	if (!machine)
		ksft_test_result(ok, "%s, %d slots: %.4g, at most %.4g\n", what,
				 slots, value, limit);
}

static void result_skip(const char *what, int slots, const char *why)
{
	if (!machine)
		ksft_test_result_skip("%s, %d slots: %s\n", what, slots, why);
}

/*
 * Compare a ratio of times to its limit only if times are reproducible.  Limits
 * have some room: they are there to notice what starts to depend on the number of
 * slots or pages.
 */
static void ratio(const char *name, int slots, double value, double limit)
{
	figure(name, slots, value, "ratio");
	if (ns_per_insn)
		result(value <= limit, name, slots, value, limit);
}

/* Returns the time in nanoseconds. */
static double set_one(struct kvm_userspace_memory_region region)
{
	u64 start = now_ns();
	int r = __set_memory_region(vm_fd, &region);

	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGION, slot %u: %s", region.slot,
		    strerror(r));
	return now_ns() - start;
}

static double delete_one(struct kvm_userspace_memory_region region)
{
	region.memory_size = 0;
	return set_one(region);
}

static double set_all(int nr)
{
	u64 start = now_ns();
	int r = set_memory_regions(vm_fd, 0, regions, nr);

	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
	return now_ns() - start;
}

static void fill(int nr)
{
	int i;

	for (i = nr_fixed; i < nr; i++)
		regions[i] = (struct kvm_userspace_memory_region) {
			.slot = FIRST_ID + i,
			.guest_phys_addr = WINDOW + i * STRIDE * PAGE,
			.memory_size = 2 * PAGE,
			.userspace_addr = (uintptr_t)host + i * 2 * PAGE,
		};
}

/*
 * Returns how often the tracepoint @system/@event was hit since the last call, or
 * -1 if unknown.
 */
static int trace_hits_of(const char *system, const char *event,
			 const char *field, double *max)
{
	char path[256], line[1024], *at;
	int hits = 0;
	FILE *file;

	file = fopen(TRACING "trace", "r");
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		if (line[0] == '#' || !strstr(line, event))
			continue;
		hits++;
		at = field ? strstr(line, field) : NULL;
		if (at && atof(at + strlen(field)) > *max)
			*max = atof(at + strlen(field));
	}
	fclose(file);

	/* Discard earlier events. */
	snprintf(path, sizeof(path), TRACING "events/%s/%s/enable", system,
		 event);
	if (write_file(path, "1") || write_file(TRACING "trace", ""))
		return -1;
	return hits;
}

static int trace_hits(const char *event, const char *field, double *max)
{
	return trace_hits_of("kvm", event, field, max);
}

static void new_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR);

	vm_fd = ioctl(kvm, KVM_CREATE_VM, 0);
	TEST_ASSERT(vm_fd >= 0, "KVM_CREATE_VM: %s", strerror(errno));
	close(kvm);
	nr_fixed = 0;
}

/* Set the first @nr regions; returns how long vCPUs are held, or 0. */
static double hold_time(int nr)
{
	double ns = 0;

	trace_hits("kvm_set_memory_regions", NULL, NULL);
	set_all(nr);
	if (trace_hits("kvm_set_memory_regions", "held for ", &ns) < 0)
		return 0;
	return ns;
}

static double hold_of(const char *name, int nr, int slots)
{
	double ns = hold_time(nr);

	if (ns)
		figure(name, slots, ns, "ns");
	return ns;
}

static void set_up(int nr)
{
	double one_by_one = 0, at_once;
	int i;

	new_vm();
	fill(nr);
	for (i = 0; i < nr; i++)
		one_by_one += set_one(regions[i]);
	close(vm_fd);

	new_vm();
	at_once = set_all(nr);
	figure("set-up, one by one", nr, one_by_one / nr, "ns/slot");
	figure("set-up, at once", nr, at_once / nr, "ns/slot");
	ratio("set-up, at once / one by one", nr, at_once / one_by_one,
	      nr > 1000 ? 0.18 : 1);
	at_once = set_all(0);
	figure("tear-down, at once", nr, at_once / nr, "ns/slot");
	for (i = 0; i < nr; i++)
		regions[i].flags = LOG;
	at_once = set_all(nr);
	figure("set-up, at once, logged", nr, at_once / nr, "ns/slot");
	close(vm_fd);
}

/* Work that can be done later must not prolong the hold. */
static void holds(void)
{
	struct kvm_enable_cap dirty_at_first = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			   KVM_DIRTY_LOG_INITIALLY_SET,
	};
	int i, nr = max_slots - FIRST_ID;
	double alone, more;

	/* Logging is enabled or disabled for all slots but one. */
	new_vm();
	fill(nr);
	set_all(nr);
	regions[nr / 2].userspace_addr += PAGE;
	alone = hold_of("hold for one slot", nr, nr);
	for (i = 0; i < nr; i++)
		regions[i].flags ^= i != nr / 2 ? LOG : 0;
	regions[nr / 2].userspace_addr -= PAGE;
	more = hold_of("hold, and all others are logged", nr, nr);
	if (alone && more)
		ratio("hold, all others logged / for one slot", nr,
		      more / alone, 1.2);
	for (i = 0; i < nr; i++)
		regions[i].flags ^= i != nr / 2 ? LOG : 0;
	regions[nr / 2].userspace_addr += PAGE;
	more = hold_of("hold, and no other is logged any more", nr, nr);
	if (alone && more)
		ratio("hold, no other logged / for one slot", nr,
		      more / alone, 1.2);
	for (i = 0; i < nr; i++)
		regions[i].userspace_addr ^= PAGE;
	hold_of("hold for all slots", nr, nr);
	close(vm_fd);

	/* A large slot loses a page at the front and gets one at the end. */
	new_vm();
	ioctl(vm_fd, KVM_ENABLE_CAP, &dirty_at_first);
	for (i = 0; i < 2; i++) {
		regions[0] = (struct kvm_userspace_memory_region) {
			.slot = FIRST_ID,
			.flags = i ? LOG : 0,
			.guest_phys_addr = WINDOW,
			.memory_size = HUGE_PAGES * PAGE,
			.userspace_addr = (uintptr_t)host,
		};
		set_all(1);
		regions[0].guest_phys_addr += PAGE;
		regions[0].userspace_addr += PAGE;
		more = hold_of(i ? "hold for a large slot, all dirty" :
				   "hold for a large slot", 1, 1);
		if (!i)
			alone = more;
	}
	if (alone && more)
		ratio("hold for a large slot, all dirty / not logged", 1,
		      more / alone, 1.2);
	close(vm_fd);
}

/*
 * Change one of @nr slots and change it back: with one call, and with as few
 * single-slot calls as possible.  Returns the time of the former.
 */
static double change_one(int nr, const char *what,
			 const struct kvm_userspace_memory_region *to, int nr_to)
{
	struct kvm_userspace_memory_region from = regions[nr / 2];
	double at_once = 0, one_by_one = 0;
	bool recreate = nr_to > 1 || to->userspace_addr != from.userspace_addr;
	char name[64];
	int i, j;

	for (i = 0; i < ROUNDS; i++) {
		regions[nr / 2] = to[0];
		regions[nr] = to[nr_to - 1];
		at_once += set_all(nr + nr_to - 1);
		regions[nr / 2] = from;
		at_once += set_all(nr);

		if (recreate)
			one_by_one += delete_one(from);
		for (j = 0; j < nr_to; j++)
			one_by_one += set_one(to[j]);
		for (j = 0; j < nr_to && recreate; j++)
			one_by_one += delete_one(to[j]);
		one_by_one += set_one(from);
	}
	at_once /= 2 * ROUNDS;
	one_by_one /= 2 * ROUNDS;

	snprintf(name, sizeof(name), "%s, one by one", what);
	figure(name, nr, one_by_one, "ns");
	snprintf(name, sizeof(name), "%s, at once", what);
	figure(name, nr, at_once, "ns");
	snprintf(name, sizeof(name), "%s, at once / one by one", what);
	if (nr == 10)
		ratio(name, nr, at_once / one_by_one, 2);
	return at_once;
}

/*
 * Set the first @nr regions; returns how often the map has been switched so far, with
 * a grace period each time, or -1.
 */
static int nr_swaps(int nr)
{
	int nr_as = kvm_check_cap(KVM_CAP_MULTI_ADDRESS_SPACE);
	double generation = 0;

	trace_hits("kvm_set_memory_regions", NULL, NULL);
	set_all(nr);
	if (trace_hits("kvm_set_memory_regions", "generation ", &generation) < 0)
		return -1;
	return generation / (nr_as ? nr_as : 1);
}

static void one_changes(int nr, double *few)
{
	struct kvm_userspace_memory_region to[2];
	double ns, none = 0;
	int i, swaps;

	new_vm();
	fill(nr);
	set_all(nr);

	to[0] = regions[nr / 2];
	to[0].memory_size = PAGE;
	to[1] = to[0];
	to[1].slot = max_slots - 1;
	to[1].guest_phys_addr += PAGE;
	to[1].userspace_addr += PAGE;
	change_one(nr, "split", to, 2);

	to[0] = regions[nr / 2];
	to[0].guest_phys_addr += PAGE;
	change_one(nr, "move", to, 1);

	to[0] = regions[nr / 2];
	to[0].userspace_addr += PAGE;
	ns = change_one(nr, "remap", to, 1);

	to[0] = regions[nr / 2];
	to[0].flags = KVM_MEM_LOG_DIRTY_PAGES;
	change_one(nr, "flags", to, 1);

	swaps = nr_swaps(nr);
	for (i = 0; i < ROUNDS; i++)
		none += set_all(nr) / ROUNDS;
	figure("no change", nr, none, "ns");
	i = nr_swaps(nr) - swaps;
	if (swaps >= 0)
		result(!i, "grace periods without a change", nr, i, 0);

	regions[nr / 2].userspace_addr += PAGE;
	i = nr_swaps(nr) - swaps;
	if (swaps >= 0)
		result(i == 1, "grace periods of a change", nr, i, 1);

	if (nr == counts[0]) {
		*few = ns;
	} else {
		ns = (ns - *few) / (nr - counts[0]);
		figure("a slot that does not change", nr, ns, "ns");
		if (ns_per_insn)
			result(ns / ns_per_insn <= 200,
			       "instructions for a slot that does not change",
			       nr, ns / ns_per_insn, 200);
	}
	close(vm_fd);
}

/* ------------------------------------------------------------- with a guest */

struct control {
	u64 stop, start, stride, pages, rounds;
};

static void guest_code(void)
{
	struct control *c = (void *)CONTROL;
	u64 p;

	while (!load(c->stop)) {
		for (p = 0; p < load(c->pages); p++)
			load(*(u64 *)(c->start + p * c->stride));
		store(c->rounds, c->rounds + 1);
	}
	GUEST_DONE();
}

static void *vcpu_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	vcpu_run(vcpu);
	return NULL;
}

static void wait_rounds(struct control *c, int nr)
{
	u64 until = load(c->rounds) + nr;

	while (load(c->rounds) < until)
		usleep(1000);
}

/* Let the guest read @nr pages once, and then none. */
static void read_pages(struct control *c, u64 start, u64 stride, u64 nr)
{
	store(c->pages, 0);
	wait_rounds(c, 1);
	c->start = start;
	c->stride = stride;
	store(c->pages, nr);
	wait_rounds(c, 2);
	store(c->pages, 0);
	wait_rounds(c, 1);
}

/* Measure the scheduling latency of another thread. */
static bool waiter_stop;
static int waiter_rounds, nr_waits;
static struct {
	double start, ns;
} waits[100];

static void *waiter_thread(void *unused)
{
	struct sched_param param = { .sched_priority = 1 };
	struct timespec wait = { .tv_nsec = 20000 };
	u64 start, ns;

	pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
	while (!load(waiter_stop)) {
		start = now_ns();
		nanosleep(&wait, NULL);
		ns = now_ns() - start;
		store(waiter_rounds, waiter_rounds + 1);
		if (ns > 100000 && nr_waits < 100) {
			waits[nr_waits].start = start;
			waits[nr_waits++].ns = ns;
		}
	}
	return NULL;
}

/* Set the first @nr regions; returns the longest latency while a slot goes, or -1. */
static double longest_wait(int nr)
{
	/* Where there is one: freeing the slot is not included then. */
	const char *event = "kvm_memslot_update";
	double until = 0, ns = 0;
	pthread_t thread;
	int i;

	/* The clock of now_ns() follows the CPU in each line. */
	write_file(TRACING "trace_clock", "mono");
	write_file(TRACING "trace_options", "noirq-info");
	waiter_stop = false;
	waiter_rounds = 0;
	nr_waits = 0;
	pthread_create(&thread, NULL, waiter_thread, NULL);
	while (load(waiter_rounds) < 10)
		usleep(1000);
	if (trace_hits(event, NULL, NULL) < 0) {
		event = "kvm_set_memory_regions";
		trace_hits(event, NULL, NULL);
	}
	i = load(waiter_rounds);
	while (load(waiter_rounds) < i + 10)
		usleep(1000);
	nr_waits = 0;
	set_all(nr);
	store(waiter_stop, true);
	pthread_join(thread, NULL);

	if (trace_hits(event, "] ", &until) < 0)
		return -1;
	for (i = 0; i < nr_waits; i++) {
		if (waits[i].start < until * 1e9 && waits[i].ns > ns)
			ns = waits[i].ns;
	}
	return ns;
}

/*
 * Split a slot in the middle of a huge page; returns how long that takes, without
 * other tasks that run meanwhile.
 */
static double split_slot(struct control *c, u64 pages)
{
	struct kvm_userspace_memory_region *slot = &regions[nr_fixed];
	u64 half = pages / 2 * PAGE + 3 * PAGE;
	double ns, least = 0;
	int i;

	slot[0] = (struct kvm_userspace_memory_region) {
		.slot = FIRST_ID,
		.guest_phys_addr = WINDOW,
		.userspace_addr = round_up((uintptr_t)host, LARGE_PAGE),
	};
	slot[1] = slot[0];
	slot[1].slot = FIRST_ID + 1;
	slot[1].guest_phys_addr += half;
	slot[1].userspace_addr += half;
	slot[1].memory_size = pages * PAGE - half;
	for (i = 0; i < ROUNDS; i++) {
		slot[0].memory_size = pages * PAGE;
		set_all(nr_fixed + 1);
		read_pages(c, HUGE_GVA, LARGE_PAGE, pages * PAGE / LARGE_PAGE);
		slot[0].memory_size = half;
		ns = set_all(nr_fixed + 2);
		if (!i || ns < least)
			least = ns;
	}
	set_all(nr_fixed);
	return least;
}

static void split_mapped_slots(struct control *c)
{
	bool no_tdp_mmu = param_is_off("/sys/module/kvm/parameters/tdp_mmu") ||
			  shadow_paging();
	double small, large;
	char name[64];
	int i;

	for (i = 0; i < 2; i++) {
		const char *what = i ? "small pages" : "huge pages";

		madvise(host, HUGE_PAGES * PAGE,
			i ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
		/* A guest that reads maps a page of zeros, small or huge. */
		madvise(host, HUGE_PAGES * PAGE, MADV_DONTNEED);
		small = split_slot(c, SPLIT_SMALL);
		large = split_slot(c, SPLIT_LARGE);
		snprintf(name, sizeof(name), "split 64 MiB, %s", what);
		figure(name, 1, small, "ns");
		snprintf(name, sizeof(name), "split 4 GiB, %s", what);
		figure(name, 1, large, "ns");
		snprintf(name, sizeof(name), "split 4 GiB / 64 MiB, %s", what);
		ratio(name, 1, large / small, no_tdp_mmu ? 1.5 : 1.2);
	}
}

/* Delete a large slot of which little or nothing is mapped. */
static void large_slot_goes(struct control *c)
{
	double ns = 0;
	int i;

	/* One MMU page table per page. */
	madvise(host, HUGE_PAGES * PAGE, MADV_NOHUGEPAGE);
	regions[nr_fixed] = (struct kvm_userspace_memory_region) {
		.slot = FIRST_ID,
		.guest_phys_addr = WINDOW,
		.memory_size = HUGE_PAGES * PAGE,
		.userspace_addr = (uintptr_t)host,
	};
	for (i = 0; i < 2; i++) {
		set_all(nr_fixed + 1);
		if (i)
			read_pages(c, HUGE_GVA, LARGE_PAGE, HUGE_MAPPED);
		ns = longest_wait(nr_fixed);
		if (ns < 0) {
			result_skip("longest wait for the CPU, large slot", 1,
				    "no event tracing");
			return;
		}
		figure(i ? "longest wait for the CPU, large slot, mapped" :
			   "longest wait for the CPU, large slot", 1, ns, "ns");
	}
	if (ns_per_insn)
		result(ns <= 1e6, "longest wait for the CPU, large slot", 1, ns,
		       1e6);
}

/* Tests that do not depend on single slots run once. */
static void zap_all_once(void)
{
	FILE *file = fopen(ZAP_ALL, "r+");
	int i, nr = 100;

	if (!file)
		return;
	fill(nr);
	set_all(nr);
	fputs("1", file);
	fflush(file);
	trace_hits_of("kvmmmu", "kvm_mmu_zap_all_fast", NULL, NULL);
	for (i = nr_fixed; i < nr; i++)
		regions[i].userspace_addr += PAGE;
	set_all(nr);
	i = trace_hits_of("kvmmmu", "kvm_mmu_zap_all_fast", NULL, NULL);
	if (i >= 0)
		result(i == 1, "times that all is zapped", nr - nr_fixed, i, 1);
	fputs("0", file);
	fclose(file);
}

static void with_guest(void)
{
	u64 pages = mib * 256UL, start = 0x40000000UL;
	struct kvm_vcpu *vcpu;
	struct control *c;
	struct kvm_vm *vm;
	double held[2] = {}, longest, ns;
	pthread_t thread;
	long faults, once, old;
	int i, j, nr;

	vm = __vm_create_with_one_vcpu(&vcpu, pages * 2 + SPLIT_MAPPED * 512,
				       guest_code);
	vm_fd = vm->fd;
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CONTROL,
				    CONTROL_SLOT, 1, 0);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, start,
				    CONTROL_SLOT + 1, pages, 0);
	virt_map(vm, CONTROL, CONTROL, 1);
	virt_map(vm, start, start, pages);
	for (i = 0; i < SPLIT_MAPPED; i++)
		virt_map(vm, HUGE_GVA + i * LARGE_PAGE, WINDOW + i * LARGE_PAGE,
			 1);
	c = addr_gpa2hva(vm, CONTROL);
	c->start = start;
	c->stride = PAGE;
	c->pages = pages;

	regions[0] = slot_region(vm, 0);
	regions[1] = slot_region(vm, CONTROL_SLOT);
	regions[2] = slot_region(vm, CONTROL_SLOT + 1);
	nr_fixed = 3;
	pthread_create(&thread, NULL, vcpu_thread, vcpu);
	wait_rounds(c, 2);

	/* Create and delete a slot while the guest walks all of its memory. */
	fill(10);
	set_all(10);
	wait_rounds(c, 2);
	faults = debugfs_stat(vm_fd, "pf_fixed");
	for (i = 0; i < 4; i++) {
		set_all(9);
		wait_rounds(c, 1);
		set_all(10);
	}
	wait_rounds(c, 2);
	once = debugfs_stat(vm_fd, "pf_fixed") - faults;
	delete_one(regions[9]);
	wait_rounds(c, 2);
	old = debugfs_stat(vm_fd, "pf_fixed") - faults - once;
	if (faults >= 0) {
		figure("faults after KVM_SET_USER_MEMORY_REGION", 10, old, "");
		figure("faults after KVM_SET_USER_MEMORY_REGIONS", 10, once, "");
		if (shadow_paging())
			result_skip("faults elsewhere", 10,
				    "shadow paging drops all mappings");
		else
			result(!once, "faults elsewhere", 10, once, 0);
	}

	/* How long a vCPU that uses few pages is held. */
	store(c->pages, 1);
	for (i = 0; i < 2; i++) {
		nr = i ? max_slots - FIRST_ID : 10;
		fill(nr);
		set_all(nr);
		longest = 0;
		for (j = 0; j < ROUNDS; j++) {
			regions[nr / 2].userspace_addr ^= PAGE;
			ns = hold_time(nr);
			wait_rounds(c, 1);
			if (ns > longest)
				longest = ns;
			/* Without other tasks that run meanwhile. */
			if (!j || ns < held[i])
				held[i] = ns;
		}
		if (longest) {
			figure("longest hold", nr, longest, "ns");
			figure("shortest hold", nr, held[i], "ns");
		}
	}
	if (held[0] && held[1])
		ratio("shortest hold, most slots / 10", nr,
		      held[1] / held[0], 1.5);

	zap_all_once();
	split_mapped_slots(c);
	large_slot_goes(c);

	store(c->stop, 1);
	pthread_join(thread, NULL);
	kvm_vm_free(vm);
}

static void help(const char *name)
{
	printf("usage: %s [-m] [-t ns] [-g MiB]\n"
	       "  -m  only the figures, a line each: name slots value unit\n"
	       "  -t  test times, too: an instruction takes so many ns, always\n"
	       "  -g  memory that the guest uses (%d)\n", name, mib);
}

int main(int argc, char **argv)
{
	double few = 0;
	int opt, i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt(argc, argv, "hmt:g:")) != -1) {
		switch (opt) {
		case 'm':
			machine = true;
			break;
		case 't':
			ns_per_insn = parse_number(optarg, 1, 1000);
			break;
		case 'g':
			mib = parse_number(optarg, 1, 1 << 20);
			break;
		default:
			help(argv[0]);
			return opt == 'h' ? 0 : KSFT_FAIL;
		}
	}

	if (!machine)
		ksft_print_header();
	max_slots = kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS);
	if (!max_slots)
		ksft_exit_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	mount_tracing();
	host = map_memory(HUGE_PAGES * PAGE + PAGE, MAP_PRIVATE);
	regions = calloc(MAX_SLOTS + FIRST_ID, sizeof(*regions));
	TEST_ASSERT(regions, "no memory");

	for (i = 0; i < 3; i++)
		set_up(counts[i] > max_slots - FIRST_ID ?
		       max_slots - FIRST_ID : counts[i]);
	for (i = 0; i < 3; i++)
		one_changes(counts[i] > max_slots - FIRST_ID - 1 ?
		       max_slots - FIRST_ID - 1 : counts[i], &few);
	holds();
	with_guest();

	if (!machine) {
		ksft_set_plan(ksft_test_num());
		ksft_print_cnts();
	}
	return failed ? KSFT_FAIL : KSFT_PASS;
}
