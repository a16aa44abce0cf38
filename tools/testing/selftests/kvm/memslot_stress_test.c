// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change memslots while vCPUs use the memory.
 *
 * vCPUs read and write the pages of some slots, and check every value.  Other
 * threads delete, create, move and log these slots, and remove the memory behind
 * them, one slot at a time, as a VMM may.  The test checks that
 *
 *  - a vCPU reads what was last written, by itself or another one;
 *  - once an ioctl that removes a slot from an address has returned, an access to
 *    it exits as MMIO; once one that adds a slot has returned, it does not;
 *  - nothing is written to memory that was released;
 *  - a copy of a slot that follows its dirty log, page by page as in a live
 *    migration, is identical to the slot whenever no vCPU writes to it.
 *
 * On x86, this is tested in the address space of SMM, too, with accesses in SMM.
 *
 * As slots are deleted under running vCPUs, an access may exit as MMIO while the
 * change is in progress.  This program then does what a VMM does: it applies a
 * write to the memory of the slot.  A read returns all ones, and the guest retries
 * if a change was in progress.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/compiler.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
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
#include "memory_regions_util.h"

#define MAX_VCPUS	8
#define MAX_TARGETS	64
#define PAGE		4096
#define SMALL_PAGES	16
#define BIG_PAGES	512		/* one huge page */
#define HOT_PAGES	4		/* pages of a slot used most of the time */
#define BITMAP_BYTES	(BIG_PAGES / 8)

/* Memory of the test itself, in a slot that does not change. */
#define CONTROL_SLOT	1
#define CONTROL_ADDR	0x20000000UL
#define SMRAM_SIZE	0x10000UL
#define SMRAM_ADDR(v)	(CONTROL_ADDR + (v) * SMRAM_SIZE)
#define SHARED_ADDR	SMRAM_ADDR(MAX_VCPUS)

/* Two windows per slot, identity-mapped. */
#define FIRST_SLOT	2
#define WINDOW_SIZE	0x200000UL
#define WINDOW(i, pos)	(0x40000000UL + ((i) * 2UL + (pos)) * WINDOW_SIZE)
#define NOWHERE		2

/* Value of a word: writer and place in the upper part, a count in the lower. */
#define ABSENT		0xffffffffU
#define POISON		0xfefefefeU
#define COUNT_BITS	20
#define COUNT(x)	((x) & ((1U << COUNT_BITS) - 1))
#define TAG(n, p, v)	((((n) * 517U + (p) * 8U + (v)) % 4000U) << COUNT_BITS)

/* State of a slot, shared by guest and host; seq is odd while it changes. */
struct target {
	uint32_t seq, pos, hold, npages, as_id, index, number;
	uint32_t want[BIG_PAGES][MAX_VCPUS];	/* last value written */
};

struct shared {
	uint32_t stop, nr_targets, nr_vcpus, nr_workers, seed, smm;
	uint32_t busy[MAX_VCPUS];		/* with target - 1 */
	uint32_t hot[MAX_VCPUS];		/* preferred targets */
	uint64_t accesses[MAX_VCPUS], smis[MAX_VCPUS];
	struct target targets[MAX_TARGETS];
};

/* At the start of each vCPU's SMRAM, used by the handler below. */
struct mailbox {
	uint32_t addr, write, value, done;
};

/* ------------------------------------------------------------- the guest */

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

#ifdef __x86_64__
/*
 * SMI handler, in real mode with segments of 4 GiB and %cs at the mailbox: make
 * one access of the kind, at the address and with the value given there.
 */
static const uint8_t smi_handler[] = {
	0x66, 0x2e, 0xa1, 0x00, 0x00,		/* movl %cs:0, %eax */
	0x66, 0x2e, 0x83, 0x3e, 0x04, 0x00, 0x00, /* cmpl $0, %cs:4 */
	0x75, 0x0c,				/* jne 1f */
	0x67, 0x66, 0x8b, 0x18,			/* movl (%eax), %ebx */
	0x66, 0x2e, 0x89, 0x1e, 0x08, 0x00,	/* movl %ebx, %cs:8 */
	0xeb, 0x0a,				/* jmp 2f */
	0x66, 0x2e, 0x8b, 0x1e, 0x08, 0x00,	/* 1: movl %cs:8, %ebx */
	0x67, 0x66, 0x89, 0x18,			/* movl %ebx, (%eax) */
	0x66, 0x2e, 0xff, 0x06, 0x0c, 0x00,	/* 2: incl %cs:12 */
	0x0f, 0xaa,				/* rsm */
};
#endif

/* Use an instruction that KVM can emulate, whatever the compiler prefers. */
static uint32_t read_word(uint64_t addr)
{
	uint32_t value;

#ifdef __x86_64__
	asm volatile("movl (%1), %0" : "=r"(value) : "r"(addr) : "memory");
#else
	asm volatile("ldr %w0, [%1]" : "=r"(value) : "r"(addr) : "memory");
#endif
	return value;
}

static void write_word(uint64_t addr, uint32_t value)
{
#ifdef __x86_64__
	asm volatile("movl %0, (%1)" : : "r"(value), "r"(addr) : "memory");
#else
	asm volatile("str %w0, [%1]" : : "r"(value), "r"(addr) : "memory");
#endif
}

/* Same in SMM: user space injects the SMI. */
static uint32_t smm_access(uint32_t vcpu, uint64_t addr, int write,
			   uint32_t value)
{
	struct mailbox *mail = (void *)SMRAM_ADDR(vcpu);
	uint32_t done = load(mail->done);

	store(mail->addr, addr);
	store(mail->write, write);
	store(mail->value, value);
	GUEST_SYNC(0);
	GUEST_ASSERT_2(load(mail->done) == done + 1, load(mail->done), done);
	return load(mail->value);
}

static uint32_t guest_read(struct target *t, uint32_t vcpu, uint64_t addr)
{
	return t->as_id ? smm_access(vcpu, addr, 0, 0) : read_word(addr);
}

static void guest_write(struct target *t, uint32_t vcpu, uint64_t addr,
			uint32_t value)
{
	if (t->as_id)
		smm_access(vcpu, addr, 1, value);
	else
		write_word(addr, value);
}

/* Check that it has not changed since @seq and was not changing then. */
static int stable(struct target *t, uint32_t seq)
{
	return !(seq & 1) && load(t->seq) == seq;
}

static void guest_access(struct shared *s, uint32_t vcpu, struct target *t,
			 uint32_t rnd)
{
	uint32_t page = (rnd >> 8) % (rnd >> 30 ? HOT_PAGES : t->npages);
	uint32_t action = rnd % 16;
	uint32_t other = (rnd >> 4) % s->nr_vcpus;
	uint32_t seq = load(t->seq), pos = load(t->pos);
	uint64_t offset = page * PAGE + vcpu * sizeof(uint32_t);
	uint32_t got, want;

	if (pos == NOWHERE || action == 0) {
		uint32_t window = pos == NOWHERE ? action & 1 : !pos;

		got = guest_read(t, vcpu, WINDOW(t->index, window) + offset);
		__GUEST_ASSERT(got == ABSENT || !stable(t, seq), 4, t->number,
			       page, got, ABSENT);
		return;
	}

	/* The word of another vCPU may be newer than its published value. */
	if (other != vcpu) {
		want = load(t->want[page][other]);
		got = guest_read(t, vcpu, WINDOW(t->index, pos) + page * PAGE +
				 other * sizeof(uint32_t));
		if (got == ABSENT && !stable(t, seq))
			return;
		__GUEST_ASSERT(got - want < 1U << (COUNT_BITS - 1), 4,
			       t->number | other << 16, page, got, want);
	}

	want = load(t->want[page][vcpu]);
	got = guest_read(t, vcpu, WINDOW(t->index, pos) + offset);
	if (got == ABSENT && !stable(t, seq))
		return;
	__GUEST_ASSERT(got == want, 4, t->number, page, got, want);

	if (action & 1)
		return;
	want = COUNT(want + 1) | TAG(t->number, page, vcpu);
	guest_write(t, vcpu, WINDOW(t->index, pos) + offset, want);
	store(t->want[page][vcpu], want);
}

static void guest_code(uint32_t vcpu)
{
	struct shared *s = (void *)SHARED_ADDR;
	uint32_t rnd = s->seed * (vcpu + 1) | 1;
	uint32_t i;

	while (!load(s->stop)) {
		struct target *t;

		i = next_random(&rnd) % s->nr_targets;
		if (next_random(&rnd) & 1)
			i = load(s->hot[next_random(&rnd) % s->nr_workers]);
		t = &s->targets[i];
		/* An access in SMM takes much longer. */
		if (t->as_id && (!s->smm || next_random(&rnd) % 4))
			continue;

		store(s->busy[vcpu], i + 1);
		if (!load(t->hold))
			guest_access(s, vcpu, t, next_random(&rnd));
		store(s->busy[vcpu], 0);
		s->accesses[vcpu]++;
		if (t->as_id)
			s->smis[vcpu]++;
	}
	GUEST_DONE();
}

/* -------------------------------------------------------------- the host */

/* State of a slot that only the host uses. */
struct slot {
	struct target *target;
	uint32_t as_id, id, npages, flags;
	size_t size;
	bool present, is_shared;
	void *mem[2];			/* one in use, one poisoned */
	int cur;
	uint32_t (*copy)[MAX_VCPUS];	/* follows the log, if there is one */
	unsigned long by_mmio[BITMAP_BYTES / sizeof(long)];
	pthread_mutex_t owner;		/* held by the thread that changes it */
	pthread_mutex_t state;		/* held while its state must not change */
};

enum log_mode { LOG_GET, LOG_CLEAR, LOG_INIT_SET, NR_LOG_MODES };

static const char * const log_mode_names[] = {
	"KVM_GET_DIRTY_LOG",
	"KVM_CLEAR_DIRTY_LOG",
	"KVM_CLEAR_DIRTY_LOG, initially set",
};

static int nr_vcpus = 3, nr_workers = 3, slots_per_as = 6, seconds = 9;
static uint32_t seed;
static int nr_as = 1;

static struct kvm_vm *vm;
static struct shared *shared;
static struct slot slots[MAX_TARGETS];
static int nr_slots;
static enum log_mode log_mode;
static bool stop, failed, calm;
static pthread_mutex_t report_lock = PTHREAD_MUTEX_INITIALIZER;
/* Reserve the range, so that other mappings do not land in it. */
static pthread_mutex_t mmap_lock = PTHREAD_MUTEX_INITIALIZER;

enum op { RECREATE, ABSENCE, MOVE, LOG, HARVEST, CHECK, MIGRATE, HOLE, DROP, NR_OPS };

static const char * const op_names[] = {
	"recreate", "delete, create", "move", "log", "get log", "compare",
	"replace memory", "unmap", "drop pages",
};

/* A deletion or move may unmap all slots and hide stale mappings. */
static const enum op calm_ops[] = { LOG, HARVEST, CHECK, MIGRATE };

static unsigned long op_count[NR_OPS], nr_mmio, nr_fault, nr_dirty;

#define count(x)	__atomic_fetch_add(&(x), 1, __ATOMIC_RELAXED)

static void __printf(1, 2) fail(const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);

	pthread_mutex_lock(&report_lock);
	if (!failed)
		ksft_print_msg("%s\n", text);
	failed = true;
	pthread_mutex_unlock(&report_lock);
	store(stop, true);
}

static void __printf(2, 3) fail_slot(struct slot *s, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fail("as_id %u slot %u (%u pages, %s, window %u): %s", s->as_id, s->id,
	     s->npages, s->flags ? "logged" : "not logged",
	     load(s->target->pos), text);
}

static uint32_t *word(void *mem, uint32_t page, uint32_t vcpu)
{
	return mem + page * PAGE + vcpu * sizeof(uint32_t);
}

static void *allocate(struct slot *s)
{
	size_t align = s->npages == BIG_PAGES ? s->size : PAGE;
	void *mem, *start;
	int fd = -1;

	/* Aligned for huge pages. */
	mem = mmap(NULL, s->size + align, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap: %s", strerror(errno));
	start = (void *)(((uintptr_t)mem + align - 1) & -align);
	if (start > mem)
		munmap(mem, start - mem);
	munmap(start + s->size, mem + align - start);

	if (s->is_shared) {
		fd = memfd_create("slot", 0);
		TEST_ASSERT(fd >= 0 && !ftruncate(fd, s->size), "memfd: %s",
			    strerror(errno));
	}
	mem = mmap(start, s->size, PROT_READ | PROT_WRITE, MAP_FIXED |
		   (s->is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS),
		   fd, 0);
	TEST_ASSERT(mem == start, "mmap: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	return mem;
}

static void poison(struct slot *s, void *mem)
{
	uint32_t p, v;

	for (p = 0; p < s->npages; p++)
		for (v = 0; v < nr_vcpus; v++)
			*word(mem, p, v) = POISON;
}

static void check_poison(struct slot *s)
{
	uint32_t p, v, got;

	for (p = 0; p < s->npages; p++) {
		for (v = 0; v < nr_vcpus; v++) {
			got = load(*word(s->mem[!s->cur], p, v));
			if (got != POISON) {
				fail_slot(s,
					  "vCPU %u wrote %#x to page %u of memory that was given back",
					  v, got, p);
				return;
			}
		}
	}
}

static void set_region(struct slot *s, uint32_t flags, int pos)
{
	int r = set_memory_region(vm_get_fd(vm), s->as_id << 16 | s->id, flags,
				  WINDOW(s->target->index, pos),
				  pos == NOWHERE ? 0 : s->size,
				  (uintptr_t)s->mem[s->cur]);

	if (r)
		fail_slot(s, "KVM_SET_USER_MEMORY_REGION to window %d, flags %#x: %s",
			  pos, flags, strerror(r));
	s->flags = flags;
}

/* Meanwhile, a guest that reads all ones retries. */
static void begin_change(struct slot *s)
{
	pthread_mutex_lock(&s->state);
	store(s->target->seq, s->target->seq + 1);
}

static void end_change(struct slot *s)
{
	store(s->target->seq, s->target->seq + 1);
	pthread_mutex_unlock(&s->state);
}

static void copy_page(struct slot *s, uint32_t page)
{
	uint32_t v;

	for (v = 0; v < nr_vcpus; v++)
		s->copy[page][v] = load(*word(s->mem[s->cur], page, v));
}

/* Logging is enabled: copy everything once. */
static void copy_all(struct slot *s)
{
	uint32_t p;

	memset(s->by_mmio, 0, sizeof(s->by_mmio));
	for (p = 0; p < s->npages; p++)
		copy_page(s, p);
}

static void op_recreate(struct slot *s, uint32_t rnd, bool absence)
{
	uint32_t flags = rnd & 2 ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	uint32_t p, v;

	begin_change(s);
	check_poison(s);
	set_region(s, 0, NOWHERE);
	for (p = 0; p < s->npages; p++)
		for (v = 0; v < nr_vcpus; v++)
			*word(s->mem[!s->cur], p, v) =
				load(*word(s->mem[s->cur], p, v));
	poison(s, s->mem[s->cur]);
	s->cur = !s->cur;
	if (absence) {
		store(s->target->pos, NOWHERE);
		end_change(s);
		usleep(rnd % 8192);
		begin_change(s);
	}
	set_region(s, flags, rnd & 1);
	store(s->target->pos, rnd & 1);
	if (flags)
		copy_all(s);
	check_poison(s);
	end_change(s);
}

static void op_move(struct slot *s)
{
	uint32_t pos = !s->target->pos;

	begin_change(s);
	set_region(s, s->flags, pos);
	store(s->target->pos, pos);
	end_change(s);
}

static void op_log(struct slot *s)
{
	set_region(s, s->flags ^ KVM_MEM_LOG_DIRTY_PAGES, s->target->pos);
	if (s->flags)
		copy_all(s);
}

/* Update the copy according to the log. */
static void op_harvest(struct slot *s)
{
	unsigned long bits[BITMAP_BYTES / sizeof(long)] = {};
	uint32_t id = s->as_id << 16 | s->id, p, i;
	int r;

	if (!s->flags)
		return;
	r = get_dirty_log(vm_get_fd(vm), id, bits);
	if (r)
		fail_slot(s, "KVM_GET_DIRTY_LOG: %s", strerror(r));
	r = log_mode == LOG_GET ? 0 :
	    clear_dirty_log(vm_get_fd(vm), id, 0, s->npages, bits);
	if (r)
		fail_slot(s, "KVM_CLEAR_DIRTY_LOG: %s", strerror(r));

	/* KVM does not log what this program wrote for a vCPU. */
	pthread_mutex_lock(&s->state);
	for (i = 0; i < BITMAP_BYTES / sizeof(long); i++) {
		bits[i] |= s->by_mmio[i];
		s->by_mmio[i] = 0;
	}
	pthread_mutex_unlock(&s->state);

	for (p = 0; p < s->npages; p++) {
		if (bits[p / 64] & 1UL << p % 64) {
			copy_page(s, p);
			count(nr_dirty);
		}
	}
}

/* Keep vCPUs away from the slot, and check every word of it. */
static void op_check(struct slot *s)
{
	struct target *t = s->target;
	uint32_t p, v, is, want;

	store(t->hold, 1);
	for (v = 0; v < nr_vcpus; v++)
		while (load(shared->busy[v]) == t - shared->targets + 1 &&
		       !load(stop))
			usleep(50);
	if (load(stop))
		return;

	op_harvest(s);
	check_poison(s);
	for (p = 0; p < s->npages && !load(stop); p++) {
		for (v = 0; v < nr_vcpus; v++) {
			is = load(*word(s->mem[s->cur], p, v));
			want = load(t->want[p][v]);
			if (is != want)
				fail_slot(s,
					  "page %u of vCPU %u is %#x, it wrote %#x: a lost write",
					  p, v, is, want);
			else if (s->flags && s->copy[p][v] != is)
				fail_slot(s,
					  "page %u of vCPU %u is %#x, but %#x in the copy: not in the dirty log",
					  p, v, is, s->copy[p][v]);
		}
	}
	store(t->hold, 0);
}

/*
 * Replace the memory by another one with the same contents, at the same host
 * address.  It is write-protected until then: KVM_RUN fails and is repeated.
 */
static void op_migrate(struct slot *s)
{
	void *mem = s->mem[s->cur], *other;

	pthread_mutex_lock(&s->state);
	pthread_mutex_lock(&mmap_lock);
	other = allocate(s);
	if (mprotect(mem, s->size, PROT_READ))
		fail_slot(s, "mprotect: %s", strerror(errno));
	memcpy(other, mem, s->size);
	if (mremap(other, s->size, s->size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   mem) != mem)
		fail_slot(s, "mremap: %s", strerror(errno));
	pthread_mutex_unlock(&mmap_lock);
	pthread_mutex_unlock(&s->state);
}

/* Leave the host address unmapped for some time. */
static void op_hole(struct slot *s, uint32_t rnd)
{
	void *mem = s->mem[s->cur], *aside;

	begin_change(s);
	pthread_mutex_lock(&mmap_lock);
	aside = allocate(s);
	if (mremap(mem, s->size, s->size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   aside) != aside)
		fail_slot(s, "mremap: %s", strerror(errno));
	if (rnd & 1)
		usleep(rnd % 512);
	if (mremap(aside, s->size, s->size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   mem) != mem)
		fail_slot(s, "mremap: %s", strerror(errno));
	pthread_mutex_unlock(&mmap_lock);
	end_change(s);
}

/* Unmap pages temporarily. */
static void op_drop(struct slot *s, uint32_t rnd)
{
	uint32_t first = rnd % s->npages;
	void *mem = s->mem[s->cur] + first * PAGE;
	size_t size = (1 + (rnd >> 16) % (s->npages - first)) * PAGE;
	int r;

	if (s->is_shared) {
		r = madvise(mem, size, MADV_DONTNEED);
	} else {
		pthread_mutex_lock(&s->state);
		r = mprotect(mem, size, PROT_READ) ||
		    mprotect(mem, size, PROT_READ | PROT_WRITE);
		pthread_mutex_unlock(&s->state);
	}
	if (r)
		fail_slot(s, "unmapping %zu bytes at page %u: %s", size, first,
			  strerror(errno));
}

static void *worker(void *arg)
{
	uint32_t rnd = (seed + log_mode) * 31 + (uintptr_t)arg * 7919 + 1;
	int op, left;

	while (!load(stop)) {
		struct slot *s = &slots[next_random(&rnd) % nr_slots];

		if (pthread_mutex_trylock(&s->owner)) {
			usleep(100);
			continue;
		}
		store(shared->hot[(uintptr_t)arg], s->target->number);

		/* Make some changes in quick succession, and check the result. */
		for (left = next_random(&rnd) % 8; left >= 0 && !load(stop);
		     left--) {
			op = next_random(&rnd) % NR_OPS;
			if (left == 0)
				op = CHECK;
			else if (load(calm))
				op = calm_ops[op % ARRAY_SIZE(calm_ops)];

			if (op == RECREATE || op == ABSENCE)
				op_recreate(s, next_random(&rnd), op == ABSENCE);
			else if (op == MOVE)
				op_move(s);
			else if (op == LOG)
				op_log(s);
			else if (op == HARVEST)
				op_harvest(s);
			else if (op == CHECK)
				op_check(s);
			else if (op == MIGRATE)
				op_migrate(s);
			else if (op == HOLE)
				op_hole(s, next_random(&rnd));
			else
				op_drop(s, next_random(&rnd));
			count(op_count[op]);
			usleep(next_random(&rnd) % 2048);
		}
		pthread_mutex_unlock(&s->owner);
	}
	return NULL;
}

static void handle_mmio(uint32_t vcpu, struct kvm_run *run)
{
	uint64_t gpa = run->mmio.phys_addr, offset;
	uint32_t as_id = 0, i;
	struct slot *s;

#ifdef __x86_64__
	as_id = !!(run->flags & KVM_RUN_X86_SMM);
#endif
	for (i = 0; i < nr_slots; i++) {
		s = &slots[i];
		if (s->as_id == as_id && gpa >= WINDOW(s->target->index, 0) &&
		    gpa < WINDOW(s->target->index, 2))
			break;
	}
	offset = (gpa - WINDOW(0, 0)) % WINDOW_SIZE;
	if (i == nr_slots || offset / PAGE >= s->npages || run->mmio.len != 4) {
		fail("vCPU %u: MMIO exit at %#lx, as_id %u, %u bytes", vcpu,
		     gpa, as_id, run->mmio.len);
		return;
	}

	count(nr_mmio);
	pthread_mutex_lock(&s->state);
	if (run->mmio.is_write) {
		memcpy(s->mem[s->cur] + offset, run->mmio.data, 4);
		s->by_mmio[offset / PAGE / 64] |= 1UL << offset / PAGE % 64;
	} else {
		memset(run->mmio.data, 0xff, 4);
	}
	pthread_mutex_unlock(&s->state);
}

static void guest_failed(uint32_t vcpu, struct ucall *uc)
{
	fail("vCPU %u, line %lu: target %lu, page %lu of vCPU %lu: read %#lx, expected %#lx",
	     vcpu, uc->args[1], uc->args[2] & 0xffff, uc->args[3],
	     uc->args[2] >> 16 ?: vcpu, uc->args[4], uc->args[5]);
}

static void *vcpu_worker(void *arg)
{
	uint32_t vcpu = (uintptr_t)arg;
	struct kvm_run *run = vcpu_state(vm, vcpu);
	time_t faulting = 0;
	struct ucall uc;

	for (;;) {
		if (_vcpu_run(vm, vcpu)) {
			/* The memory is missing or write-protected. */
			if (!faulting)
				faulting = time(NULL);
			if (errno != EFAULT || time(NULL) - faulting > 30) {
				fail("vCPU %u: KVM_RUN: %s", vcpu,
				     strerror(errno));
				return NULL;
			}
			count(nr_fault);
			usleep(100);
			continue;
		}
		faulting = 0;

		switch (get_ucall(vm, vcpu, &uc)) {
#ifdef __x86_64__
		case UCALL_SYNC:
			vcpu_ioctl(vm, vcpu, KVM_SMI, NULL);
			break;
#endif
		case UCALL_DONE:
			return NULL;
		case UCALL_ABORT:
			guest_failed(vcpu, &uc);
			return NULL;
		default:
			if (run->exit_reason == KVM_EXIT_MMIO) {
				handle_mmio(vcpu, run);
				break;
			}
			fail("vCPU %u: exit reason %u (%s)", vcpu,
			     run->exit_reason,
			     exit_reason_str(run->exit_reason));
			return NULL;
		}
	}
}

/* ------------------------------------------------------------ the set-up */

static void create_vm(int vcpus, void *code)
{
	uint64_t size = SHARED_ADDR - CONTROL_ADDR + sizeof(struct shared);
	uint64_t pages = vm_calc_num_guest_pages(VM_MODE_DEFAULT, size);
	uint64_t windows = 2 * slots_per_as * (WINDOW_SIZE / PAGE);
	uint32_t v;

	vm = vm_create_default(0, pages + windows, code);
	ucall_init(vm, NULL);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CONTROL_ADDR,
				    CONTROL_SLOT, pages, 0);
	virt_map(vm, CONTROL_ADDR, CONTROL_ADDR, pages, 0);
	shared = addr_gpa2hva(vm, SHARED_ADDR);
	for (v = 0; v < vcpus; v++) {
		if (v)
			vm_vcpu_add_default(vm, v, code);
#ifdef __x86_64__
		vcpu_set_cpuid(vm, v, kvm_get_supported_cpuid());
#endif
		vcpu_args_set(vm, v, 1, v);
	}
#ifdef __x86_64__
	if (nr_as > 1) {
		struct kvm_userspace_memory_region smram = {
			.slot = 1 << 16 | CONTROL_SLOT,
			.guest_phys_addr = CONTROL_ADDR,
			.memory_size = MAX_VCPUS * SMRAM_SIZE,
			.userspace_addr =
				(uintptr_t)addr_gpa2hva(vm, CONTROL_ADDR),
		};

		vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &smram);
		for (v = 0; v < vcpus; v++) {
			memcpy(addr_gpa2hva(vm, SMRAM_ADDR(v)) + 0x8000,
			       smi_handler, sizeof(smi_handler));
			vcpu_set_msr(vm, v, MSR_IA32_SMBASE, SMRAM_ADDR(v));
		}
	}
#endif
}

#ifdef __x86_64__
static void probe_code(uint32_t vcpu)
{
	struct mailbox *mail = (void *)SMRAM_ADDR(vcpu);

	/* Reads its own address. */
	GUEST_ASSERT(smm_access(vcpu, (uintptr_t)mail, 0, 0) == SMRAM_ADDR(vcpu));
	GUEST_DONE();
}

/* Not every KVM that claims to support SMM can enter and leave it. */
static bool smm_works(void)
{
	struct ucall uc = {};
	bool works;

	if (!kvm_check_cap(KVM_CAP_X86_SMM))
		return false;
	create_vm(1, probe_code);
	works = !_vcpu_run(vm, 0) && get_ucall(vm, 0, &uc) == UCALL_SYNC &&
		!_vcpu_ioctl(vm, 0, KVM_SMI, NULL) &&
		!_vcpu_run(vm, 0) && get_ucall(vm, 0, &uc) == UCALL_DONE;
	if (!works)
		ksft_print_msg("no SMM in the guest: exit reason %u (%s)\n",
			       vcpu_state(vm, 0)->exit_reason,
			       exit_reason_str(vcpu_state(vm, 0)->exit_reason));
	kvm_vm_free(vm);
	return works;
}
#endif

static void create_slots(void)
{
	uint32_t i, p, v;

	nr_slots = nr_as * slots_per_as;
	for (i = 0; i < nr_slots; i++) {
		struct slot *s = &slots[i];
		struct target *t = &shared->targets[i];

		memset(s, 0, sizeof(*s));
		s->target = t;
		s->as_id = i / slots_per_as;
		t->as_id = s->as_id;
		t->index = i % slots_per_as;
		t->number = i;
		s->id = FIRST_SLOT + t->index;
		/* Both sizes with both kinds of memory. */
		s->npages = t->index % 3 ? SMALL_PAGES : BIG_PAGES;
		t->npages = s->npages;
		s->size = s->npages * PAGE;
		s->is_shared = t->index % 2;
		s->mem[0] = allocate(s);
		s->mem[1] = allocate(s);
		poison(s, s->mem[1]);
		s->copy = calloc(s->npages, sizeof(*s->copy));
		TEST_ASSERT(s->copy, "no memory");
		pthread_mutex_init(&s->owner, NULL);
		pthread_mutex_init(&s->state, NULL);

		for (p = 0; p < s->npages; p++) {
			for (v = 0; v < nr_vcpus; v++) {
				t->want[p][v] = TAG(i, p, v);
				*word(s->mem[0], p, v) = t->want[p][v];
			}
		}
		set_region(s, 0, 0);
		if (s->as_id)
			continue;
		for (p = 0; p < 2; p++)
			virt_map(vm, WINDOW(i, p), WINDOW(i, p),
				 WINDOW_SIZE / PAGE, 0);
	}
	shared->nr_targets = nr_slots;
	shared->nr_vcpus = nr_vcpus;
	shared->nr_workers = nr_workers;
	shared->seed = seed;
}

static void join(pthread_t thread, const char *what, int nr)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 120;
	if (pthread_timedjoin_np(thread, NULL, &until)) {
		ksft_print_msg("%s %d does not end\n", what, nr);
		ksft_exit_fail();
	}
}

static void enable_clear(uint64_t how)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = how,
	};

	vm_enable_cap(vm, &cap);
}

static void run(bool smm, int duration)
{
	pthread_t vcpus[MAX_VCPUS], workers[MAX_VCPUS];
	uint64_t accesses = 0, smis = 0;
	int i;

	stop = false;
	calm = false;
	failed = false;
	memset(op_count, 0, sizeof(op_count));
	nr_mmio = 0;
	nr_fault = 0;
	nr_dirty = 0;

	create_vm(nr_vcpus, guest_code);
	if (log_mode == LOG_CLEAR)
		enable_clear(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	else if (log_mode == LOG_INIT_SET)
		enable_clear(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			     KVM_DIRTY_LOG_INITIALLY_SET);
	create_slots();
	shared->smm = smm;

	/* Keep their stacks out of the range, too. */
	pthread_mutex_lock(&mmap_lock);
	for (i = 0; i < nr_vcpus; i++)
		pthread_create(&vcpus[i], NULL, vcpu_worker, (void *)(long)i);
	for (i = 0; i < nr_workers; i++)
		pthread_create(&workers[i], NULL, worker, (void *)(long)i);
	pthread_mutex_unlock(&mmap_lock);

	for (i = 0; i < duration * 4 && !load(stop); i++) {
		usleep(250000);
		store(calm, i & 1);
	}

	store(stop, true);
	for (i = 0; i < nr_workers; i++)
		join(workers[i], "worker", i);
	store(shared->stop, 1);
	for (i = 0; i < nr_vcpus; i++) {
		join(vcpus[i], "vCPU", i);
		accesses += shared->accesses[i];
		smis += shared->smis[i];
	}

	/* The last published values must be in memory and in the log. */
	if (!failed) {
		store(stop, false);
		for (i = 0; i < nr_slots; i++)
			op_check(&slots[i]);
	}

	ksft_print_msg("%lu accesses (%lu in SMM), %lu MMIO exits, %lu faults, %lu dirty pages\n",
		       accesses, smis, nr_mmio, nr_fault, nr_dirty);
	for (i = 0; i < NR_OPS; i++)
		ksft_print_msg("%8lu x %s\n", op_count[i], op_names[i]);
	if (!accesses)
		fail("no vCPU has done anything");

	for (i = 0; i < nr_slots; i++) {
		munmap(slots[i].mem[0], slots[i].size);
		munmap(slots[i].mem[1], slots[i].size);
		free(slots[i].copy);
	}
	kvm_vm_free(vm);
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-t SECONDS] [-v VCPUS] [-s SLOTS] [-w THREADS] [-r SEED]\n\n"
	       "Change memslots while vCPUs use the memory.\n"
	       " -t: how long, in all (default %d)\n"
	       " -v: number of vCPUs, up to %d (default %d)\n"
	       " -s: number of slots in each address space, up to %d (default %d)\n"
	       " -w: number of threads that change them, up to %d (default %d)\n"
	       " -r: seed of what is random (default: the time)\n",
	       name, seconds, MAX_VCPUS, nr_vcpus, MAX_TARGETS / 2,
	       slots_per_as, MAX_VCPUS, nr_workers);
	exit(0);
}

int main(int argc, char *argv[])
{
	int opt, clear, modes;
	bool smm = false;

	seed = time(NULL);
	while ((opt = getopt(argc, argv, "ht:v:s:w:r:")) != -1) {
		switch (opt) {
		case 't':
			seconds = parse_number(optarg, 1, 1000000);
			break;
		case 'v':
			nr_vcpus = parse_number(optarg, 1, MAX_VCPUS);
			break;
		case 's':
			slots_per_as = parse_number(optarg, 1, MAX_TARGETS / 2);
			break;
		case 'w':
			nr_workers = parse_number(optarg, 1, MAX_VCPUS);
			break;
		case 'r':
			seed = parse_number(optarg, 0, 0x7fffffff);
			break;
		case 'h':
			help(argv[0]);
		default:
			exit(2);
		}
	}

	setbuf(stdout, NULL);
	ksft_print_header();
#ifdef __x86_64__
	nr_as = kvm_check_cap(KVM_CAP_MULTI_ADDRESS_SPACE) > 1 ? 2 : 1;
	smm = nr_as > 1 && smm_works();
#endif
	clear = kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	modes = clear & KVM_DIRTY_LOG_INITIALLY_SET ? 3 : clear ? 2 : 1;
	ksft_print_msg("%d vCPUs, %d threads, %d address spaces of %d slots, seed %u\n",
		       nr_vcpus, nr_workers, nr_as, slots_per_as, seed);
	if (nr_as > 1)
		ksft_print_msg("vCPUs %s SMM\n", smm ? "enter" : "do not enter");
	ksft_set_plan(modes);
	for (log_mode = 0; log_mode < modes; log_mode++) {
		run(smm, (seconds + modes - 1) / modes);
		ksft_test_result(!failed, "slots change under load, log by %s\n",
				 log_mode_names[log_mode]);
	}
	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	ksft_exit_pass();
}
