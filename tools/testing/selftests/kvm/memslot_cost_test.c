// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure the cost of memslots over the number of slots.
 *
 * There are two VMs.  One has slots of one page each, with gaps between them, and
 * a vCPU that never runs; it is used to time single ioctls.  In the other one,
 * slots cover an area without gaps, and a guest works in it.  Both set their
 * slots with plain ioctls, so that only the kernel is timed.
 *
 * Times are those of CLOCK_MONOTONIC.  Data that is read back is checked outside
 * of the time that is measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/kvm.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define CHUNK		0x200000UL
#define MAX_COUNTS	32

/* Address of the area in the guest, above everything that the library maps. */
#define AREA_GVA	BIT(41)
#define AREA_GPA	BIT(32)
#define AREA_AWAY	(AREA_GPA + 2 * ((opts.length + CHUNK) & -CHUNK))

/* s390 requires segments of 1 MiB. */
#ifdef __s390x__
#define MIN_UNIT	0x100000UL
#define NO_MMIO		"a guest cannot touch what has no slot"
#else
#define MIN_UNIT	0x1000UL
#define NO_MMIO		NULL
#endif

/* An MSR that makes the kernel write to a gpa of choice: a look-up by gfn. */
#ifdef __x86_64__
#define WALL_CLOCK_MSR	0x4b564d00
#define NO_CLOCK	NULL
#else
#define NO_CLOCK	"there is no wall clock MSR"
#endif

#if defined(__x86_64__) || defined(__aarch64__)
#define NO_EXIT		NULL
#else
#define NO_EXIT		"nothing is known that leaves a guest for KVM alone"
#endif

static struct {
	unsigned int counts[MAX_COUNTS], nr_counts;
	unsigned long length;
	unsigned int runs, ops, first, last;
	bool quiet;
	FILE *out;
} opts = {
	.length = 128UL << 20,
	.runs = 1,
	.ops = 100,
};

static unsigned int nr_slots;		/* total in use */
static unsigned long unit;		/* smallest slot, in bytes */

/* ---------------------------------------------------------------- times */

static uint64_t *samples;		/* in picoseconds */
static unsigned int nr_samples, max_samples;
static unsigned long nr_ops;

/* @ops operations have taken @ns nanoseconds. */
static void took(uint64_t ns, unsigned long ops)
{
	if (nr_samples == max_samples) {
		max_samples = max_samples * 2 + 1024;
		samples = realloc(samples, max_samples * sizeof(*samples));
		if (!samples)
			ksft_exit_fail_msg("no memory for the times\n");
	}
	samples[nr_samples++] = ns * 1000 / ops;
	nr_ops += ops;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(uint64_t *)a, y = *(uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The same sequence in each run and on each kernel. */
static uint64_t random_state;

static unsigned int below(unsigned int limit)
{
	random_state = random_state * 6364136223846793005UL + 1442695040888963407UL;
	return (random_state >> 33) % limit;
}

/* ---------------------------------------------------------------- slots */

static void set_slot(int fd, uint32_t id, uint32_t flags, uint64_t gpa,
		     uint64_t size, void *hva)
{
	int r = set_memory_region(fd, id, flags, gpa, size, (uintptr_t)hva);

	if (r)
		ksft_exit_fail_msg("slot %u, flags %u, %lu bytes at %#lx: %s\n",
				   id, flags, size, gpa, strerror(r));
}

static void time_slot(int fd, uint32_t id, uint32_t flags, uint64_t gpa,
		      uint64_t size, void *hva)
{
	uint64_t start = now_ns();

	set_slot(fd, id, flags, gpa, size, hva);
	took(now_ns() - start, 1);
}

static void *reserve(unsigned long size)
{
	unsigned long addr = (uintptr_t)map_memory(size + CHUNK, MAP_PRIVATE);
	void *hva = (void *)((addr + CHUNK - 1) & -CHUNK);

	/* huge pages would make the number of faults depend on the slots */
	madvise(hva, size, MADV_NOHUGEPAGE);
	return hva;
}

/* ---------------------------------------------------------------- the VM without a guest */

static struct {
	int kvm_fd, fd, vcpu_fd;
	unsigned char *mem;
	unsigned long size;
} idle;

/*
 * Slots are at every other unit, the slot that comes and goes is between two.
 * There is no slot at 0, because a wall clock at 0 means that there is none.
 */
static uint64_t gpa_of(unsigned int i)
{
	return 2UL * (i + 1) * unit;
}

static void *hva_of(unsigned int i)
{
	return idle.mem + i * unit;
}

static unsigned int others(void)
{
	return nr_slots - 1;
}

#define OP_ID	(nr_slots - 1)

static uint64_t some_gap(void)
{
	return gpa_of(below(others())) + unit;
}

static void idle_slot(unsigned int i, uint32_t flags)
{
	set_slot(idle.fd, i, flags, gpa_of(i), unit, hva_of(i));
}

static void create_op_slot(uint64_t gpa)
{
	set_slot(idle.fd, OP_ID, 0, gpa, unit, hva_of(OP_ID));
}

static void delete_op_slot(void)
{
	set_slot(idle.fd, OP_ID, 0, 0, 0, NULL);
}

/* Let the kernel write to @gpa; if that has a slot, its memory changes. */
static void write_clock(uint64_t gpa)
{
#ifdef __x86_64__
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {
		.head.nmsrs = 1,
		.entry = { .index = WALL_CLOCK_MSR, .data = gpa },
	};

	if (ioctl(idle.vcpu_fd, KVM_SET_MSRS, &msrs) != 1)
		ksft_exit_fail_msg("the wall clock cannot be set to %#lx: %s\n",
				   gpa, strerror(errno));
#endif
}

/* Check that @gpa is backed by page @i; true if that cannot be checked. */
static bool backed(uint64_t gpa, unsigned int i)
{
	uint32_t *version = hva_of(i);

	*version = 0;
	write_clock(gpa);
	return NO_CLOCK || *version;
}

/* Return the first byte of the log of slot @id, or -errno. */
static int dirty_log(unsigned int id)
{
	static unsigned char bitmap[4096];
	int r;

	bitmap[0] = 0xff;
	r = get_dirty_log(idle.fd, id, bitmap);
	return r ? -r : bitmap[0];
}

static void idle_open(void)
{
	/* As much host memory as a slot that covers all others. */
	idle.size = gpa_of(nr_slots);
	idle.mem = reserve(idle.size);
	idle.fd = ioctl(idle.kvm_fd, KVM_CREATE_VM, 0);
	idle.vcpu_fd = idle.fd < 0 ? -1 : ioctl(idle.fd, KVM_CREATE_VCPU, 0);
	if (idle.vcpu_fd < 0)
		ksft_exit_fail_msg("no VM: %s\n", strerror(errno));
}

static void idle_close(void)
{
	close(idle.vcpu_fd);
	close(idle.fd);
	munmap(idle.mem, idle.size);
}

static const char *test_setup(void)
{
	unsigned int i;

	for (i = 0; i < others(); i++)
		time_slot(idle.fd, i, 0, gpa_of(i), unit, hva_of(i));

	for (i = 0; i < opts.ops; i++) {
		unsigned int some = below(others());

		if (!backed(gpa_of(some), some))
			return "a slot is not where it was put";
		if (!NO_CLOCK && backed(some_gap(), some))
			return "there is a slot where none was put";
	}
	return NULL;
}

static const char *test_create(void)
{
	unsigned int i;

	for (i = 0; i < opts.ops; i++) {
		uint64_t gpa = some_gap();

		time_slot(idle.fd, OP_ID, 0, gpa, unit, hva_of(OP_ID));
		if (!backed(gpa, OP_ID))
			return "the slot is not where it was put";
		delete_op_slot();
	}
	return NULL;
}

static const char *test_delete(void)
{
	unsigned int i;

	for (i = 0; i < opts.ops; i++) {
		uint64_t gpa = some_gap();

		create_op_slot(gpa);
		time_slot(idle.fd, OP_ID, 0, 0, 0, NULL);
		if (!NO_CLOCK && backed(gpa, OP_ID))
			return "the slot is still there";
	}
	return NULL;
}

static const char *test_move(void)
{
	uint64_t from = some_gap(), to;
	unsigned int i;

	create_op_slot(from);
	for (i = 0; i < opts.ops; i++, from = to) {
		do
			to = some_gap();
		while (to == from && others() > 1);
		time_slot(idle.fd, OP_ID, 0, to, unit, hva_of(OP_ID));
		if (!backed(to, OP_ID))
			return "the slot is not where it was moved";
		if (!NO_CLOCK && to != from && backed(from, OP_ID))
			return "the slot is still where it was";
	}
	delete_op_slot();
	return NULL;
}

static const char *test_flags(void)
{
	uint64_t gpa;
	unsigned int i;

	for (i = 0; i < opts.ops; i++) {
		gpa = some_gap();
		create_op_slot(gpa);
		if (dirty_log(OP_ID) != -ENOENT)
			return "there is a log without KVM_MEM_LOG_DIRTY_PAGES";
		time_slot(idle.fd, OP_ID, KVM_MEM_LOG_DIRTY_PAGES, gpa, unit,
			  hva_of(OP_ID));
		if (dirty_log(OP_ID) < 0)
			return "there is no log";
		delete_op_slot();
	}
	return NULL;
}

static const char *test_unmap_idle(void)
{
	unsigned int i;
	uint64_t start;

	for (i = 0; i < opts.ops; i++) {
		unsigned char *hva = hva_of(below(others()));

		*hva = 1;
		start = now_ns();
		madvise(hva, getpagesize(), MADV_DONTNEED);
		took(now_ns() - start, 1);
		if (*hva)
			return "the page is still there";
	}
	return NULL;
}

static const char *test_dirty_on(void)
{
	unsigned int i;

	for (i = 0; i < others(); i++)
		time_slot(idle.fd, i, KVM_MEM_LOG_DIRTY_PAGES, gpa_of(i), unit,
			  hva_of(i));
	for (i = 0; i < others(); i++)
		if (dirty_log(i) < 0)
			return "a slot has no log";
	return NULL;
}

static const char *test_dirty_off(void)
{
	unsigned int i;

	for (i = 0; dirty_log(0) < 0 && i < others(); i++)
		idle_slot(i, KVM_MEM_LOG_DIRTY_PAGES);
	for (i = 0; i < others(); i++)
		time_slot(idle.fd, i, 0, gpa_of(i), unit, hva_of(i));
	for (i = 0; i < others(); i++)
		if (dirty_log(i) != -ENOENT)
			return "a slot still has a log";
	return NULL;
}

static const char *test_id(void)
{
	unsigned int i;

	for (i = 0; i < opts.ops; i++) {
		unsigned int id = below(others());
		uint64_t start;
		int log;

		idle_slot(id, KVM_MEM_LOG_DIRTY_PAGES);
		if (!backed(gpa_of(id), id))
			return "a slot is not where it was put";
		log = dirty_log(id);
		if (log != (NO_CLOCK ? 0 : 1))
			return "the log does not have the page that was written";
		start = now_ns();
		log = dirty_log(id);
		took(now_ns() - start, 1);
		if (log)
			return "the log was not cleared when it was read";
		idle_slot(id, 0);
	}
	return NULL;
}

static const char *test_gfn(void)
{
	unsigned int i, n = opts.ops * 10;

	/* Keep page faults out of the measured time. */
	for (i = 0; i < others(); i++)
		memset(hva_of(i), 0, sizeof(uint32_t));
	for (i = 0; i < n; i++) {
		unsigned int some = below(others());
		uint32_t *version = hva_of(some);
		uint64_t start;

		*version = 0;
		start = now_ns();
		write_clock(gpa_of(some));
		took(now_ns() - start, 1);
		if (!*version)
			return "the kernel did not write to the slot";
	}
	return NULL;
}

static const char *test_teardown(void)
{
	unsigned int i;
	int r;

	for (i = 0; i < others(); i++)
		time_slot(idle.fd, i, 0, 0, 0, NULL);

	r = set_memory_region(idle.fd, 0, 0, 0, idle.size,
			      (uintptr_t)idle.mem);
	if (r)
		return "there still is a slot";
	return NULL;
}

/* ---------------------------------------------------------------- the VM with a guest */

enum { ACCESS, EXIT_TO_USER, EXIT_TO_KVM };

/* Work of the guest, and its progress. */
static struct work {
	uint64_t kind;
	uint64_t blind;		/* only write, memory may be missing */
	uint64_t first;		/* page */
	uint64_t end;		/* page, where it goes back to the first */
	uint64_t step;		/* pages from one to the next */
	uint64_t count;		/* accesses or exits */
	uint64_t expect;	/* pattern to read, 0: zeroes */
	uint64_t pattern;	/* pattern to write */
	uint64_t page_size;
	uint64_t stop;
	uint64_t done;		/* accesses */
	uint64_t bad;		/* of these */
} guest_work __aligned(128);

static struct {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	unsigned char *mem;
	unsigned long pages, page_size;
	unsigned long used, gap;	/* pages that are touched, and from one to the next */
	unsigned long scatter;		/* the same in random order */
	unsigned int slots;	/* of the area: one is the library's, one spare */
	unsigned long slot_pages;
	uint64_t pattern;	/* of the existing pages, 0: none */
	struct work *work;
} busy;

static uint64_t value(uint64_t page, uint64_t pattern)
{
	return pattern ? (page + 1) * 0x9e3779b97f4a7c15UL + pattern : 0;
}

static void exit_to_user(void)
{
#ifdef __x86_64__
	asm volatile("outb %%al, $0x80" : : : "memory");
#else
	ucall(UCALL_NONE, 0);
#endif
}

static void exit_to_kvm(void)
{
#if defined(__x86_64__)
	uint32_t eax = 0, ecx = 0;

	asm volatile("cpuid" : "+a"(eax), "+c"(ecx) : : "ebx", "edx", "memory");
#elif defined(__aarch64__)
	/* PSCI_VERSION */
	register uint64_t x0 asm("x0") = 0x84000000;

	asm volatile("hvc #0" : "+r"(x0) : : "x1", "x2", "x3", "memory");
#endif
}

static void guest_main(void)
{
	struct work *work = &guest_work;

	for (;;) {
		uint64_t i, page = work->first;

		if (work->kind != ACCESS) {
			for (i = 0; i < work->count; i++) {
				if (work->kind == EXIT_TO_USER)
					exit_to_user();
				else
					exit_to_kvm();
			}
			GUEST_SYNC(0);
			continue;
		}

		for (i = 0; i < work->count && !READ_ONCE(work->stop); i++) {
			uint64_t *p;

			p = (uint64_t *)(AREA_GVA + page * work->page_size);
			if (!work->blind &&
			    READ_ONCE(*p) != value(page, work->expect))
				work->bad++;
			WRITE_ONCE(*p, value(page, work->pattern));
			WRITE_ONCE(work->done, i + 1);

			page += work->step;
			if (page >= work->end)
				page -= work->end - work->first;
		}
		GUEST_SYNC(0);
	}
}

/* Run the guest until it reports that it is done. */
static void *run_guest(void *unused)
{
	struct kvm_run *run = busy.vcpu->run;
	struct ucall uc;

	for (;;) {
		vcpu_run(busy.vcpu);
		if (get_ucall(busy.vcpu, &uc) == UCALL_SYNC)
			return NULL;
		/* It may access a slot that is being moved: continue. */
		if (run->exit_reason != KVM_EXIT_MMIO)
			ksft_exit_fail_msg("the guest stopped: %s\n",
					   exit_reason_str(run->exit_reason));
	}
}

static void set_work(struct work work)
{
	work.page_size = busy.page_size;
	*busy.work = work;
}

/*
 * Let the guest make @count accesses, @step pages apart, expect the pattern
 * @expect and write the current one.  Returns its time.
 */
static uint64_t touch(uint64_t count, uint64_t step, uint64_t expect)
{
	uint64_t start;

	set_work((struct work) {
		.end = busy.used * busy.gap,
		.step = step,
		.count = count,
		.expect = expect,
		.pattern = busy.pattern,
	});
	start = now_ns();
	run_guest(NULL);
	return now_ns() - start;
}

static uint64_t *used_page(unsigned long i)
{
	return (uint64_t *)(busy.mem + i * busy.gap * busy.page_size);
}

static unsigned long gcd(unsigned long a, unsigned long b)
{
	return b ? gcd(b, a % b) : a;
}

/* Use one page per @gap bytes. */
static void use(unsigned long gap)
{
	busy.gap = gap / busy.page_size;
	busy.used = busy.pages / busy.gap;
	/* A step that visits each page once, mostly far from the last one. */
	busy.scatter = busy.used * 5 / 8 | 1;
	while (gcd(busy.scatter, busy.used) != 1)
		busy.scatter += 2;
	busy.scatter *= busy.gap;
}

/*
 * Write to all used pages, then let the guest map them in steps of @step, so that
 * there are page faults of KVM only.  Returns the time of the guest.
 */
static uint64_t map(uint64_t step)
{
	unsigned long i;

	madvise(busy.mem, opts.length, MADV_DONTNEED);
	busy.pattern++;
	for (i = 0; i < busy.used; i++)
		*used_page(i) = value(i * busy.gap, busy.pattern);
	busy.pattern++;
	return touch(busy.used, step, busy.pattern - 1);
}

/* Check that the guest read what the host wrote, and vice versa. */
static const char *mapped(void)
{
	unsigned long i;

	if (busy.work->bad)
		return "the guest read what nobody wrote there";
	for (i = 0; i < busy.used; i++)
		if (*used_page(i) != value(i * busy.gap, busy.pattern))
			return "the host reads what the guest did not write";
	return NULL;
}

static const char *test_map(void)
{
	map(busy.gap);		/* allocates page tables the first time */
	took(map(busy.gap), busy.used);
	return mapped();
}

static const char *test_map_random(void)
{
	took(map(busy.scatter), busy.used);
	return mapped();
}

/* Unmap @size bytes at each used page. */
static const char *unmap(unsigned long size)
{
	unsigned long i;

	map(busy.gap);
	for (i = 0; i < busy.used; i++) {
		uint64_t start = now_ns();

		madvise(used_page(i), size, MADV_DONTNEED);
		took(now_ns() - start, 1);
	}
	touch(busy.used, busy.gap, 0);
	if (busy.work->bad)
		return "the guest still has a page that was unmapped";
	return NULL;
}

static const char *test_unmap(void)
{
	return unmap(getpagesize());
}

/* The guest uses one page per chunk: more would outweigh the slots. */
static const char *test_unmap_chunked(void)
{
	unsigned long gap = busy.gap;
	const char *wrong;

	use(CHUNK);
	wrong = unmap(CHUNK);
	use(gap * busy.page_size);
	return wrong;
}

static pthread_t start_guest(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run_guest, NULL))
		ksft_exit_fail_msg("no thread for the vCPU\n");
	return thread;
}

/* Move a slot away and back while the guest writes to slot @where. */
static const char *move(unsigned int slot, unsigned int where)
{
	unsigned long size = busy.slot_pages * busy.page_size;
	unsigned long offset = slot * size;
	unsigned long first = where * busy.slot_pages;
	unsigned long pages = min(busy.slot_pages, 16UL), i;
	pthread_t thread;

	map(busy.gap);
	set_work((struct work) {
		.first = first,
		.end = first + pages,
		.step = 1,
		.count = -1UL,
		.pattern = busy.pattern,
		.blind = true,
	});
	thread = start_guest();
	while (READ_ONCE(busy.work->done) < pages)
		usleep(100);
	for (i = 0; i < opts.ops; i++) {
		time_slot(busy.fd, slot + 1, 0, AREA_AWAY + offset, size,
			  busy.mem + offset);
		time_slot(busy.fd, slot + 1, 0, AREA_GPA + offset, size,
			  busy.mem + offset);
	}
	WRITE_ONCE(busy.work->stop, 1);
	pthread_join(thread, NULL);

	for (i = first; i < first + pages; i++)
		if (*(uint64_t *)(busy.mem + i * busy.page_size) !=
		    value(i, busy.pattern))
			return "the host reads what the guest did not write";
	/* Check that the memory of the moved slot is in its place. */
	touch(busy.used, busy.gap, busy.pattern);
	return mapped();
}

static const char *test_move_active(void)
{
	return move(busy.slots / 2, busy.slots / 2);
}

static const char *test_move_inactive(void)
{
	return move(busy.slots / 2, 0);
}

static const char *test_rw(void)
{
	unsigned long count = opts.ops * 100, changes = 0;
	void *hva = reserve(unit);
	pthread_t thread;
	uint64_t start;

	map(busy.gap);
	set_work((struct work) {
		.end = busy.used * busy.gap,
		.step = busy.scatter,
		.count = count,
		.expect = busy.pattern,
		.pattern = busy.pattern,
	});
	start = now_ns();
	thread = start_guest();
	while (READ_ONCE(busy.work->done) < count) {
		set_slot(busy.fd, nr_slots - 1, 0, AREA_AWAY, unit, hva);
		set_slot(busy.fd, nr_slots - 1, 0, 0, 0, NULL);
		changes += 2;
		usleep(1000);
	}
	pthread_join(thread, NULL);
	took(now_ns() - start, count);

	munmap(hva, unit);
	return changes ? mapped() : "no slot was changed meanwhile";
}

/* Only exits, either all to user space or all handled by KVM. */
static const char *exits(uint64_t kind)
{
	unsigned long count = opts.ops * 10, seen = 0;
	struct ucall uc;
	unsigned int i;

	/* There are page faults the first time. */
	for (i = 0; i <= 10; i++, seen = 0) {
		uint64_t start = now_ns(), ns;

		set_work((struct work) { .kind = kind, .count = count });
		while (!__vcpu_run(busy.vcpu) &&
		       kind == EXIT_TO_USER && seen < count)
			seen++;
		ns = now_ns() - start;
		if (get_ucall(busy.vcpu, &uc) != UCALL_SYNC)
			return "the guest stopped";
		if (i)
			took(ns, count);
	}
	return NULL;
}

static const char *test_exit_user(void)
{
	return exits(EXIT_TO_USER);
}

static const char *test_exit_kvm(void)
{
	return exits(EXIT_TO_KVM);
}

static void busy_open(void)
{
	unsigned long page, length = opts.length, step;
	unsigned int i;

	busy.slots = nr_slots - 2;
	busy.vm = __vm_create_with_one_vcpu(&busy.vcpu, length / 4096,
					    guest_main);
	busy.fd = busy.vm->fd;
	busy.page_size = busy.vm->page_size;
	busy.pages = length / busy.page_size;
	if ((AREA_AWAY + length) / busy.page_size > busy.vm->max_gfn)
		ksft_exit_fail_msg("the guest has no addresses for %lu bytes\n",
				   length);

	busy.mem = reserve(length);
	busy.pattern = 0;
	step = length / busy.slots & -unit;
	busy.slot_pages = step / busy.page_size;
	for (i = 0; i < busy.slots; i++)
		set_slot(busy.fd, i + 1, 0, AREA_GPA + i * step,
			 i + 1 < busy.slots ? step : length - i * step,
			 busy.mem + i * step);
	for (page = 0; page < busy.pages; page++)
		virt_map(busy.vm, AREA_GVA + page * busy.page_size,
			 AREA_GPA + page * busy.page_size, 1);
	busy.work = addr_gva2hva(busy.vm, (uintptr_t)&guest_work);

	/* The same number of pages per chunk, each in a host page of its own. */
	step = max(opts.length / (opts.ops * 20), (unsigned long)getpagesize());
	while (CHUNK % step)
		step--;
	use(step);
}

static void busy_close(void)
{
	kvm_vm_free(busy.vm);
	munmap(busy.mem, opts.length);
}

/* ---------------------------------------------------------------- all tests */

static const struct test {
	const char *name;
	const char *(*run)(void);	/* returns an error, or NULL */
	const char *cannot;		/* why it is unavailable, or NULL */
	const char *what;
} tests[] = {
	{ "setup", test_setup, NULL, "create all slots but one" },
	{ "create", test_create, NULL, "create one slot among the others" },
	{ "flags", test_flags, NULL, "switch its dirty log on" },
	{ "move", test_move, NULL, "move it to another gap" },
	{ "delete", test_delete, NULL, "delete it" },
	{ "unmap-idle", test_unmap_idle, NULL,
	  "unmap a page of host memory that no guest has used" },
	{ "dirty-on", test_dirty_on, NULL, "switch the dirty log of each slot on" },
	{ "dirty-off", test_dirty_off, NULL, "switch the dirty log of each slot off" },
	{ "id", test_id, NULL, "look a slot up by id: read its clean dirty log" },
	{ "gfn", test_gfn, NO_CLOCK,
	  "look a random slot up by gfn: have the wall clock written there" },
	{ "teardown", test_teardown, NULL, "delete all slots" },
	{ "map", test_map, NULL, "guest touches pages for the first time, in order" },
	{ "map-random", test_map_random, NULL,
	  "guest touches pages for the first time, here and there" },
	{ "unmap", test_unmap, NULL, "unmap pages that the guest uses, one by one" },
	{ "unmap-chunked", test_unmap_chunked, NULL,
	  "unmap memory that the guest uses, 2 MiB at a time" },
	{ "move-active", test_move_active, NO_MMIO,
	  "move a slot that the guest is writing to" },
	{ "move-inactive", test_move_inactive, NULL,
	  "move a slot while the guest is writing to another one" },
	{ "rw", test_rw, NULL, "guest reads and writes while a slot comes and goes" },
	{ "exit-user", test_exit_user, NULL,
	  "guest exits to user space, which lets it go on at once" },
	{ "exit-kvm", test_exit_kvm, NO_EXIT, "guest exits, and KVM handles it" },
};

#define FIRST_BUSY	11	/* first test with a guest */

static struct result {
	const char *wrong;
	double best, worst;	/* means of a run, in microseconds */
	double median;		/* of the best run */
} results[ARRAY_SIZE(tests)];

static bool wanted(unsigned int i)
{
	return i >= opts.first && i <= opts.last && !tests[i].cannot;
}

static void run_test(unsigned int i, unsigned int run)
{
	struct result *result = &results[i];
	uint64_t total = 0, median;
	const char *wrong;
	unsigned int j;
	double mean;

	nr_samples = 0;
	nr_ops = 0;
	random_state = 1;
	wrong = tests[i].run();
	if (!wanted(i))
		return;
	if (wrong || !nr_samples) {
		result->wrong = wrong ? wrong : "nothing was timed";
		return;
	}

	qsort(samples, nr_samples, sizeof(*samples), compare);
	for (j = 0; j < nr_samples; j++)
		total += samples[j];
	mean = total / 1e6 / nr_samples;
	median = samples[nr_samples / 2];
	if (!result->best || mean < result->best) {
		result->best = mean;
		result->median = median / 1e6;
	}
	if (mean > result->worst)
		result->worst = mean;

	if (opts.out) {
		fprintf(opts.out, "{\"slots\": %u, \"test\": \"%s\", \"run\": %u, ",
			nr_slots, tests[i].name, run);
		fprintf(opts.out, "\"ops\": %lu, \"mean_us\": %.6f, \"median_us\": %.6f, ",
			nr_ops, mean, median / 1e6);
		fprintf(opts.out, "\"min_us\": %.3f, \"max_us\": %.3f}\n",
			samples[0] / 1e6, samples[nr_samples - 1] / 1e6);
		fflush(opts.out);
	}
}

/* Run the tests [@first, @last] if any of them is selected. */
static void run_tests(unsigned int first, unsigned int last, unsigned int run,
		      void (*open)(void), void (*close)(void))
{
	unsigned int i;

	if (opts.first > last || opts.last < first)
		return;
	open();
	for (i = first; i <= last; i++)
		/* Other tests need the slots of the first one. */
		if (wanted(i) || tests[i].run == test_setup)
			run_test(i, run);
	close();
}

static void report(unsigned int max)
{
	unsigned int i;

	for (i = opts.first; i <= opts.last; i++) {
		struct result *result = &results[i];
		const char *name = tests[i].name;

		if (nr_slots > max)
			ksft_test_result_skip("%u slots: %s: the kernel takes %u slots\n",
					      nr_slots, name, max);
		else if (tests[i].cannot)
			ksft_test_result_skip("%u slots: %s: %s\n", nr_slots,
					      name, tests[i].cannot);
		else if (result->wrong)
			ksft_test_result_fail("%u slots: %s: %s\n", nr_slots,
					      name, result->wrong);
		else if (opts.quiet)
			ksft_test_result_pass("%u slots: %s\n", nr_slots, name);
		else
			ksft_test_result_pass("%u slots: %s: %.2f us, median %.2f, worst %.2f\n",
					      nr_slots, name, result->best,
					      result->median, result->worst);
	}
	fflush(stdout);
}

static void list(FILE *to)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tests); i++)
		fprintf(to, "%3u %-14s %s%s%s%s\n", i, tests[i].name,
			tests[i].what, tests[i].cannot ? " (not here: " : "",
			tests[i].cannot ? tests[i].cannot : "",
			tests[i].cannot ? ")" : "");
}

static void help(const char *name, FILE *to)
{
	fprintf(to,
		"usage: %s [-h] [-L] [-q] [-s N[,N...]] [-l BYTES] [-r RUNS] [-n OPS]\n"
		"       [-f FIRST] [-e LAST] [-o FILE]\n\n"
		" -s  numbers of slots, default: all that the kernel takes\n"
		" -l  the memory that a guest works in, default: 128M\n"
		" -r  run all that often; the best run counts, default: 1\n"
		" -n  operations of a test and run, default: 100\n"
		" -f  the first and\n"
		" -e  the last test to run, by number or name\n"
		" -q  no times\n"
		" -o  write a line of JSON for each test and run to FILE, - is stdout\n"
		" -L  list the tests\n"
		" -h  this text\n\n"
		"Times are of a single operation, in microseconds: the mean of a run.\n"
		"A number of slots that the kernel refuses is reported as skipped.\n\n",
		name);
	list(to);
}

static void __noreturn usage(const char *what, const char *arg)
{
	fprintf(stderr, "memslot_cost_test: %s: %s (see -h)\n", arg, what);
	exit(KSFT_FAIL);
}

static unsigned long number(const char *arg, char **end, unsigned long min,
			    unsigned long max, const char *what)
{
	unsigned long n;
	char *rest;

	errno = 0;
	n = strtoul(arg, &rest, 10);
	if (*arg < '0' || *arg > '9' || errno || n < min || n > max ||
	    (!end && *rest))
		usage(what, arg);
	if (end)
		*end = rest;
	return n;
}

static void parse_counts(const char *arg)
{
	const char *what = "give up to 32 numbers of slots from 3, as in 10,509";
	char *end;

	opts.nr_counts = 0;
	do {
		if (opts.nr_counts == MAX_COUNTS)
			usage(what, arg);
		opts.counts[opts.nr_counts++] = number(arg, &end, 3, 1 << 20, what);
		arg = end + 1;
	} while (*end == ',');
	if (*end)
		usage(what, end);
}

static unsigned long parse_length(const char *arg)
{
	const char *what = "give a length up to 64G, as in 128M";
	const char *units = "kKmMgG", *at;
	unsigned long n;
	char *end;

	n = number(arg, &end, 1, 64UL << 30, what);
	at = *end ? strchr(units, *end) : NULL;
	if ((*end && !at) || (at && end[1]))
		usage(what, arg);
	if (at)
		n <<= ((at - units) / 2 + 1) * 10;
	if (n > 64UL << 30)
		usage(what, arg);
	return n;
}

static unsigned int parse_test(const char *arg)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tests); i++)
		if (!strcmp(arg, tests[i].name))
			return i;
	return number(arg, NULL, 0, ARRAY_SIZE(tests) - 1,
		      "there is no such test, -L lists them");
}

static void parse(int argc, char *argv[])
{
	int c;

	opts.last = ARRAY_SIZE(tests) - 1;
	while ((c = getopt(argc, argv, "hLqs:l:r:n:f:e:o:")) != -1) {
		switch (c) {
		case 'h':
			help(argv[0], stdout);
			exit(KSFT_PASS);
		case 'L':
			list(stdout);
			exit(KSFT_PASS);
		case 'q':
			opts.quiet = true;
			break;
		case 's':
			parse_counts(optarg);
			break;
		case 'l':
			opts.length = parse_length(optarg);
			break;
		case 'r':
			opts.runs = number(optarg, NULL, 1, 1000,
					   "give 1 to 1000 runs");
			break;
		case 'n':
			opts.ops = number(optarg, NULL, 1, 1000000,
					  "give 1 to 1000000 operations");
			break;
		case 'f':
			opts.first = parse_test(optarg);
			break;
		case 'e':
			opts.last = parse_test(optarg);
			break;
		case 'o':
			opts.out = strcmp(optarg, "-") ? fopen(optarg, "w") : stdout;
			if (!opts.out)
				usage(strerror(errno), optarg);
			break;
		default:
			help(argv[0], stderr);
			exit(KSFT_FAIL);
		}
	}
	if (optind < argc)
		usage("there are only options", argv[optind]);
	if (opts.first > opts.last)
		usage("the first test comes behind it", tests[opts.last].name);
}

int main(int argc, char *argv[])
{
	unsigned int i, run, max;

	parse(argc, argv);
	idle.kvm_fd = open("/dev/kvm", O_RDWR);
	if (idle.kvm_fd < 0) {
		print_skip("no /dev/kvm: %s", strerror(errno));
		exit(KSFT_SKIP);
	}
	max = ioctl(idle.kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
	if (!opts.nr_counts)
		opts.counts[opts.nr_counts++] = max;

	/* Whole units, with the end aligned like the start. */
	unit = getpagesize() > MIN_UNIT ? getpagesize() : MIN_UNIT;
	opts.length = (opts.length + CHUNK - 1) & -CHUNK;
	for (i = 0; i < opts.nr_counts; i++)
		if (opts.counts[i] <= max && opts.length / unit < opts.counts[i])
			usage("too small for that many slots, give -l",
			      "length of the guest's memory");

	ksft_print_header();
	ksft_set_plan(opts.nr_counts * (opts.last - opts.first + 1));
	for (i = 0; i < opts.nr_counts; i++) {
		nr_slots = opts.counts[i];
		memset(results, 0, sizeof(results));
		if (nr_slots > max && opts.out)
			fprintf(opts.out, "{\"slots\": %u, \"refused\": true, \"max\": %u}\n",
				nr_slots, max);
		for (run = 1; run <= opts.runs && nr_slots <= max; run++) {
			run_tests(0, FIRST_BUSY - 1, run, idle_open, idle_close);
			run_tests(FIRST_BUSY, ARRAY_SIZE(tests) - 1, run,
				  busy_open, busy_close);
		}
		report(max);
	}
	ksft_exit(!ksft_get_fail_cnt());
}
