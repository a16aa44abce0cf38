// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure how long vCPUs stand still while their memory map changes.
 *
 * vCPUs read a clock and touch memory of all slots in turn, and keep the longest
 * gap between two reads, and the sum of those that are longer than usual.  What is
 * usual is calibrated while nothing changes.  Meanwhile the map is changed
 *
 *  - at once, by KVM_SET_USER_MEMORY_REGIONS;
 *  - stopped, as a VMM does without this ioctl if vCPUs use what changes: it stops
 *    all vCPUs, with a signal and a lock, deletes and creates one slot after
 *    another, and resumes them;
 *  - one by one, by the same single ioctls while the vCPUs run, if they survive it:
 *    they do not use the slot, or nothing but its flags changes.
 *
 * Times are never tested, for they depend on the machine and its load.  They repeat
 * where time is a count of instructions.  With fewer CPUs than threads, a gap
 * includes what the change itself takes, so the first way looks worse than it is.
 *
 * The test fails if a vCPU reads something else than it has written, or exits, or
 * is held by a change at once that leaves all present memory as it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
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

#define MAX_VCPUS	8
#define MAX_SLOTS	509
#define MAX_CHANGES	1000
#define CALIBRATION	9		/* windows of time */
#define FIRST_ID	10
#define WINDOW		0x40000000UL
/* Of the slot that is split, in pages; nobody writes there. */
#define PART_START	16
#define PART_END	20
#define LOG		KVM_MEM_LOG_DIRTY_PAGES
#define READONLY	KVM_MEM_READONLY

/* What a vCPU has seen in a window of time, in ticks of its clock. */
struct seen {
	u64 longest, lost, reads, ticks;
};

/* Shared by guest and host, in a slot that does not change. */
static struct control {
	u64 stop, page_size, nr_pages;
	u64 window;			/* that is wanted */
	u64 threshold;			/* longer gaps are lost time */
	struct {
		u64 window, rounds;
		struct seen now, last;
	} vcpu[MAX_VCPUS] __aligned(64);
} control __aligned(4096);

/* At the start of each page. */
struct words {
	u64 number;
	u64 round[MAX_VCPUS];		/* each vCPU has written */
};

static inline u64 read_clock(void)
{
#ifdef __x86_64__
	return rdtsc();
#else
	u64 ticks;

	asm volatile("isb; mrs %0, cntvct_el0" : "=r"(ticks) : : "memory");
	return ticks;
#endif
}

/* ------------------------------------------------------------- the guest */

static void guest_touch(u64 v, u64 p, u64 round)
{
	struct words *page = (void *)(WINDOW + p * control.page_size);
	u64 got = load(page->number);

	GUEST_EXPECT(got == p, p, got, p);
	if (p >= PART_START && p < PART_END)
		return;
	got = load(page->round[v]);
	GUEST_EXPECT(got == round - 1, p, got, round - 1);
	store(page->round[v], round);
}

static void guest_code(u64 v)
{
	struct seen *now = &control.vcpu[v].now, *last = &control.vcpu[v].last;
	u64 before = read_clock(), clock, gap, window, round, p;

	for (round = 1; !load(control.stop); round++) {
		for (p = 0; p < control.nr_pages; p++) {
			guest_touch(v, p, round);
			window = load(control.window);
			clock = read_clock();
			gap = clock - before;
			before = clock;
			now->reads++;
			now->ticks += gap;
			if (gap > now->longest)
				now->longest = gap;
			if (gap > load(control.threshold))
				now->lost += gap;
			if (window == control.vcpu[v].window)
				continue;
			/* Not by assignment, which may need libc. */
			last->reads = now->reads;
			last->ticks = now->ticks;
			last->longest = now->longest;
			last->lost = now->lost;
			now->reads = 0;
			now->ticks = 0;
			now->longest = 0;
			now->lost = 0;
			store(control.vcpu[v].window, window);
		}
		store(control.vcpu[v].rounds, round);
	}
	GUEST_DONE();
}

/* -------------------------------------------------------------- the host */

enum way { AT_ONCE, STOPPED, ONE_BY_ONE };

static const char * const ways[] = { "at-once", "stopped", "one-by-one" };

/* A change and its reverse.  All other slots stay as they are. */
struct change {
	const char *name[2];
	enum way other;			/* than at once */
	bool held[2];			/* may be, as something present changes */
	unsigned int nr[2];
	struct kvm_userspace_memory_region regions[2][3];
};

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpus[MAX_VCPUS];
static pthread_t threads[MAX_VCPUS];
static __thread struct kvm_vcpu *this_vcpu;
static struct control *shared;		/* the guest's variable */
static struct kvm_userspace_memory_region regions[MAX_SLOTS + 3];
static unsigned int nr_regions;		/* of those, slots that do not change */
static int nr_vcpus = 2, nr_changes = 5, mib = 4;
static bool atomic, tracing;
static double ticks_per_us;
static cpu_set_t cpus;
/* By way and direction, in microseconds. */
static double gaps[3][2][MAX_CHANGES], losses[3][2][MAX_CHANGES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_stopped = PTHREAD_COND_INITIALIZER;
static pthread_cond_t resumed = PTHREAD_COND_INITIALIZER;
static int nr_stopped;
static bool stop;

static void kick(int signal)
{
	this_vcpu->run->immediate_exit = 1;
}

static void stop_vcpus(void)
{
	int v;

	pthread_mutex_lock(&lock);
	stop = true;
	for (v = 0; v < nr_vcpus; v++)
		pthread_kill(threads[v], SIGUSR1);
	while (nr_stopped < nr_vcpus)
		pthread_cond_wait(&all_stopped, &lock);
}

static void resume_vcpus(void)
{
	stop = false;
	pthread_cond_broadcast(&resumed);
	pthread_mutex_unlock(&lock);
}

static void wait_while_stopped(void)
{
	pthread_mutex_lock(&lock);
	nr_stopped++;
	pthread_cond_signal(&all_stopped);
	while (stop)
		pthread_cond_wait(&resumed, &lock);
	nr_stopped--;
	pthread_mutex_unlock(&lock);
}

static void *vcpu_thread(void *arg)
{
	u64 v = (uintptr_t)arg;
	struct kvm_run *run = vcpus[v]->run;
	struct ucall uc;

	this_vcpu = vcpus[v];
	while (__vcpu_run(vcpus[v])) {
		if (errno != EINTR)
			ksft_exit_fail_msg("vCPU %lu: KVM_RUN: %s\n", v,
					   strerror(errno));
		run->immediate_exit = 0;
		wait_while_stopped();
	}

	switch (get_ucall(vcpus[v], &uc)) {
	case UCALL_DONE:
		return NULL;
	case UCALL_ABORT:
		ksft_exit_fail_msg("vCPU %lu: %s, line %lu: page %lu, %#lx, %#lx\n",
				   v, (const char *)uc.args[0], uc.args[1],
				   uc.args[2], uc.args[3], uc.args[4]);
	default:
		ksft_exit_fail_msg("vCPU %lu: exit %u (%s)\n", v,
				   run->exit_reason,
				   exit_reason_str(run->exit_reason));
	}
	return NULL;
}

/* Let each vCPU touch all memory. */
static void wait_rounds(void)
{
	u64 until[MAX_VCPUS];
	int v;

	for (v = 0; v < nr_vcpus; v++)
		until[v] = load(shared->vcpu[v].rounds) + 2;
	for (v = 0; v < nr_vcpus; v++) {
		while (load(shared->vcpu[v].rounds) < until[v])
			usleep(100);
	}
}

/* End a window of time, and start the next one. */
static void next_window(void)
{
	u64 window = shared->window + 1;
	int v;

	store(shared->window, window);
	for (v = 0; v < nr_vcpus; v++) {
		while (load(shared->vcpu[v].window) != window)
			usleep(100);
	}
}

/* What vCPUs have seen in the window that has ended, in microseconds. */
static void result(double *longest, double *lost)
{
	int v;

	*longest = 0;
	*lost = 0;
	for (v = 0; v < nr_vcpus; v++) {
		struct seen *seen = &shared->vcpu[v].last;

		if (seen->longest / ticks_per_us > *longest)
			*longest = seen->longest / ticks_per_us;
		*lost += seen->lost / ticks_per_us / nr_vcpus;
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(double *)a, y = *(double *)b;

	return (x > y) - (x < y);
}

static double median(const double *values, int nr)
{
	double sorted[MAX_CHANGES];

	memcpy(sorted, values, nr * sizeof(*values));
	qsort(sorted, nr, sizeof(*sorted), by_value);
	return sorted[nr / 2];
}

static void set_one(struct kvm_userspace_memory_region region, bool delete)
{
	int r;

	if (delete)
		region.memory_size = 0;
	r = __set_memory_region(vm->fd, &region);
	if (r)
		ksft_exit_fail_msg("KVM_SET_USER_MEMORY_REGION, slot %u: %s\n",
				   region.slot, strerror(r));
}

static bool same_place(const struct kvm_userspace_memory_region *a,
		       const struct kvm_userspace_memory_region *b)
{
	return a->slot == b->slot && a->guest_phys_addr == b->guest_phys_addr &&
	       a->memory_size == b->memory_size &&
	       a->userspace_addr == b->userspace_addr;
}

/* Delete slots that change, except in their flags, before creating any. */
static void set_one_by_one(const struct change *change, int to)
{
	const struct kvm_userspace_memory_region *old = change->regions[!to];
	const struct kvm_userspace_memory_region *new = change->regions[to];
	unsigned int nr_old = change->nr[!to], nr_new = change->nr[to], i, j;

	for (i = 0; i < nr_old; i++) {
		for (j = 0; j < nr_new && !same_place(&old[i], &new[j]); j++)
			;
		if (j == nr_new)
			set_one(old[i], true);
	}
	for (i = 0; i < nr_new; i++) {
		for (j = 0; j < nr_old; j++) {
			if (!memcmp(&old[j], &new[i], sizeof(*new)))
				break;
		}
		if (j == nr_old)
			set_one(new[i], false);
	}
}

static void set(const struct change *change, int to, enum way way)
{
	unsigned int i, nr = nr_regions;
	int r;

	switch (way) {
	case AT_ONCE:
		for (i = 0; i < change->nr[to]; i++)
			regions[nr++] = change->regions[to][i];
		r = set_memory_regions(vm->fd, 0, regions, nr);
		if (r)
			ksft_exit_fail_msg("KVM_SET_USER_MEMORY_REGIONS: %s\n",
					   strerror(r));
		break;
	case STOPPED:
		stop_vcpus();
		set_one_by_one(change, to);
		resume_vcpus();
		break;
	case ONE_BY_ONE:
		set_one_by_one(change, to);
		break;
	}
}

/* Count changes at once, there and back in turn, and those that held vCPUs. */
static void read_trace(int *all, int *held)
{
	FILE *file = fopen(TRACING "trace", "r");
	char line[512];
	int to = 1;

	while (file && fgets(line, sizeof(line), file)) {
		if (!strstr(line, "kvm_set_memory_regions:"))
			continue;
		all[to]++;
		held[to] += !!number_of(line, "held for ", 10);
		to = !to;
	}
	if (file)
		fclose(file);
}

static void print_all(const char *name, int slots, const char *way,
		      const double *longest, const double *lost)
{
	int i;

	printf("# [gap] %s %d %d %s longest", name, nr_vcpus, slots, way);
	for (i = 0; i < nr_changes; i++)
		printf(" %.1f", longest[i]);
	printf(" lost");
	for (i = 0; i < nr_changes; i++)
		printf(" %.1f", lost[i]);
	printf("\n");
}

static void change_map(const struct change *change, enum way way, int slots)
{
	int all[2] = {}, held[2] = {}, i, to;

	write_file(TRACING "trace", "");
	for (i = 0; i < nr_changes; i++) {
		for (to = 1; to >= 0; to--) {
			next_window();
			set(change, to, way);
			wait_rounds();
			next_window();
			result(&gaps[way][to][i], &losses[way][to][i]);
		}
	}
	read_trace(all, held);
	for (to = 1; to >= 0; to--) {
		const char *name = change->name[to];

		print_all(name, slots, ways[way], gaps[way][to],
			  losses[way][to]);
		if (way != AT_ONCE)
			continue;
		if (tracing)
			ksft_test_result(all[to] == nr_changes &&
					 (change->held[to] || !held[to]),
					 "%s, %d slots: %d of %d changes hold vCPUs\n",
					 name, slots, held[to], all[to]);
		else
			ksft_test_result_skip("%s, %d slots: no event tracing\n",
					      name, slots);
	}
}

static void row(const struct change *change, int to, int slots)
{
	enum way way = change->other;
	double once = median(gaps[AT_ONCE][to], nr_changes);
	double other = median(gaps[way][to], nr_changes);
	double once_lost = median(losses[AT_ONCE][to], nr_changes);
	double other_lost = median(losses[way][to], nr_changes);

	if (!atomic) {
		ksft_print_msg("table: %s, %d slots, longest gap, %s: %.0f us\n",
			       change->name[to], slots, ways[way], other);
		return;
	}
	ksft_print_msg("table: %s, %d slots, longest gap, at once / %s: %.0f / %.0f us = %.3f\n",
		       change->name[to], slots, ways[way], once, other,
		       once / other);
	ksft_print_msg("table: %s, %d slots, lost, at once / %s: %.0f / %.0f us\n",
		       change->name[to], slots, ways[way], once_lost,
		       other_lost);
}

/* Find out what is usual, and measure what happens anyway. */
static void idle(int slots)
{
	double step[CALIBRATION];
	int i;

	store(shared->threshold, -1UL);
	for (i = 0; i < CALIBRATION; i++) {
		struct seen *seen = &shared->vcpu[0].last;

		next_window();
		wait_rounds();
		next_window();
		step[i] = (double)seen->ticks / seen->reads;
	}
	store(shared->threshold, (u64)(4 * median(step, CALIBRATION)));

	for (i = 0; i < nr_changes; i++) {
		next_window();
		wait_rounds();
		next_window();
		result(&gaps[0][0][i], &losses[0][0][i]);
	}
	print_all("idle", slots, "idle", gaps[0][0], losses[0][0]);
	ksft_print_msg("table: nothing changes, %d slots, longest gap: %.0f us\n",
		       slots, median(gaps[0][0], nr_changes));
	ksft_print_msg("table: nothing changes, %d slots, lost: %.0f us\n", slots,
		       median(losses[0][0], nr_changes));
}

static struct kvm_userspace_memory_region
region_of(unsigned int id, void *memory, u64 start, u64 end, u32 flags)
{
	return (struct kvm_userspace_memory_region) {
		.slot = id,
		.flags = flags,
		.guest_phys_addr = WINDOW + start * getpagesize(),
		.memory_size = (end - start) * getpagesize(),
		.userspace_addr = (uintptr_t)memory + start * getpagesize(),
	};
}

/* If there are enough, each thread has a CPU of its own. */
static void pin(pthread_t thread, int nr)
{
	struct sched_param param = { .sched_priority = !nr };
	cpu_set_t one;
	int cpu;

	if (CPU_COUNT(&cpus) <= nr_vcpus) {
		/* vCPUs must not keep the changes waiting. */
		pthread_setschedparam(thread, nr ? SCHED_OTHER : SCHED_FIFO,
				      &param);
		return;
	}
	for (cpu = 0; !CPU_ISSET(cpu, &cpus) || nr--; cpu++)
		;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

static void calibrate_clock(void)
{
	u64 ns = now_ns(), ticks = read_clock();

	usleep(100000);
	ticks_per_us = (read_clock() - ticks) * 1000. / (now_ns() - ns);
}

/* @slots: slots of the VM, the program's and the one that is split included. */
static void test(int slots)
{
	u64 pages = (mib << 20) / getpagesize(), nr_pages = pages + slots - 2, p;
	size_t size = (nr_pages + 1) * getpagesize();
	void *memory = map_memory(size, MAP_PRIVATE);
	unsigned int id = FIRST_ID + slots, i;
	struct change changes[] = {
		{
			.name = { "merge", "split" },
			.other = STOPPED,
			.nr = { 1, 3 },
		}, {
			.name = { "writable-merge", "read-only-split" },
			.other = STOPPED,
			.held = { true, true },
			.nr = { 1, 3 },
		}, {
			.name = { "log-off", "log-on" },
			.other = ONE_BY_ONE,
			.nr = { 1, 1 },
		}, {
			.name = { "delete", "create" },
			.other = ONE_BY_ONE,
			.held = { true },
			.nr = { 1, 2 },
		},
	};
	int v;

	vm = __vm_create_with_one_vcpu(&vcpus[0], nr_pages, guest_code);
	for (v = 1; v < nr_vcpus; v++)
		vcpus[v] = vm_vcpu_add(vm, v, guest_code);
	virt_map(vm, WINDOW, WINDOW, nr_pages);
	shared = addr_gva2hva(vm, (uintptr_t)&control);
	shared->page_size = getpagesize();
	shared->nr_pages = nr_pages;

	madvise(memory, size, MADV_NOHUGEPAGE);
	for (p = 0; p < nr_pages; p++)
		((struct words *)(memory + p * getpagesize()))->number = p;
	regions[0] = slot_region(vm, 0);
	nr_regions = 1;
	for (p = pages; p < nr_pages; p++) {
		set_one(region_of(id, memory, p, p + 1, 0), false);
		regions[nr_regions++] = region_of(id++, memory, p, p + 1, 0);
	}

	/* The guest does not know of it. */
	regions[nr_regions] = region_of(id++, memory, 0, pages, 0);
	for (i = 0; i < ARRAY_SIZE(changes); i++) {
		changes[i].regions[0][0] = regions[nr_regions];
		changes[i].regions[1][0] = regions[nr_regions];
	}
	for (i = 0; i < 2; i++) {
		changes[i].regions[1][0] = region_of(id, memory, 0, PART_START,
						     0);
		changes[i].regions[1][1] = region_of(id + 1, memory, PART_START,
						     PART_END,
						     i ? READONLY : 0);
		changes[i].regions[1][2] = region_of(id + 2, memory, PART_END,
						     pages, 0);
	}
	changes[2].regions[1][0].flags = LOG;
	changes[3].regions[1][1] = region_of(id, memory, nr_pages, nr_pages + 1,
					     0);
	set_one(regions[nr_regions], false);

	for (v = 0; v < nr_vcpus; v++) {
		vcpu_args_set(vcpus[v], 1, (u64)v);
		pthread_create(&threads[v], NULL, vcpu_thread,
			       (void *)(uintptr_t)v);
		pin(threads[v], v + 1);
	}
	wait_rounds();

	idle(slots);
	for (i = 0; i < ARRAY_SIZE(changes); i++) {
		change_map(&changes[i], changes[i].other, slots);
		if (atomic)
			change_map(&changes[i], AT_ONCE, slots);
		for (v = 1; v >= 0; v--)
			row(&changes[i], v, slots);
	}

	store(shared->stop, 1);
	for (v = 0; v < nr_vcpus; v++)
		pthread_join(threads[v], NULL);
	kvm_vm_free(vm);
	munmap(memory, size);
}

static void help(const char *name)
{
	printf("usage: %s [-n changes] [-s slots] [-v vcpus] [-g MiB]\n"
	       "  -n  changes of each kind, and as many back (%d)\n"
	       "  -s  slots of the VM (one after another 2, 64 and %d)\n"
	       "  -v  vCPUs, up to %d (%d)\n"
	       "  -g  size of the slot that is split (%d)\n"
	       "For plots, there is a line for each series of changes, in microseconds:\n"
	       "# [gap] change vcpus slots way longest N... lost N...\n",
	       name, nr_changes, MAX_SLOTS, MAX_VCPUS, nr_vcpus, mib);
}

int main(int argc, char **argv)
{
	int counts[] = { 2, 64, MAX_SLOTS }, nr_counts = 3, most, opt, i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt(argc, argv, "hn:s:v:g:")) != -1) {
		switch (opt) {
		case 'n':
			nr_changes = parse_number(optarg, 1, MAX_CHANGES);
			break;
		case 's':
			counts[0] = parse_number(optarg, 2, MAX_SLOTS);
			nr_counts = 1;
			break;
		case 'v':
			nr_vcpus = parse_number(optarg, 1, MAX_VCPUS);
			break;
		case 'g':
			mib = parse_number(optarg, 1, 1024);
			break;
		default:
			help(argv[0]);
			return opt == 'h' ? 0 : KSFT_FAIL;
		}
	}

	ksft_print_header();
	atomic = kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS);
	mount_tracing();
	tracing = !write_file(TRACING "events/kvm/kvm_set_memory_regions/enable",
			      "1");
	signal(SIGUSR1, kick);
	calibrate_clock();
	sched_getaffinity(0, sizeof(cpus), &cpus);
	pin(pthread_self(), 0);
	/* A split takes two slots more. */
	most = kvm_check_cap(KVM_CAP_NR_MEMSLOTS) - 2;
	for (i = 0; i < nr_counts; i++)
		test(counts[i] < most ? counts[i] : most);

	write_file(TRACING "events/kvm/kvm_set_memory_regions/enable", "0");
	if (!atomic)
		ksft_exit_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	ksft_set_plan(ksft_test_num());
	ksft_exit(!ksft_get_fail_cnt());
}
