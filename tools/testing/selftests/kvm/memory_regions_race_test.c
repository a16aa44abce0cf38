// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change the whole memory map with KVM_SET_USER_MEMORY_REGIONS while vCPUs use
 * it.
 *
 * vCPUs read, write and execute in a window of guest memory that always exists,
 * but in slots that are split, merged, grown, shrunk, renumbered, logged or not,
 * made read-only where nobody writes, and given other host memory.  The test
 * fails if
 *
 *  - KVM_RUN returns for a reason other than a request of the guest: an address
 *    was missing;
 *  - the version of a page, which increases with each new host memory, decreases
 *    after any vCPU has seen it;
 *  - a vCPU does not read back what it wrote, though the version is the same;
 *  - released host memory is written to by a vCPU that knew the new version, or
 *    by any vCPU after the ioctl has returned;
 *  - a copy of the logged pages that follows the dirty log, page by page as in a
 *    live migration, differs from them while the vCPUs are paused.
 *
 * The test is repeated with huge pages, of which a slot may have any eighths.
 *
 * With VMX, the test runs in a nested guest, too: L1 of each vCPU runs the same
 * code as L2, in the same memory, with page tables of its own if it has EPT.
 *
 * Then it does the same one slot at a time, deleting before creating, as is
 * necessary without this ioctl: this must fail, or the above proves nothing.
 * That is all that is done by a kernel without the ioctl, before the test is
 * skipped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
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
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define MAX_VCPUS	8
#define PAGES		48		/* of the window */
#define RO_PAGES	8		/* last pages of the window, never written */
#define TAIL_PAGES	16		/* after the window, optional, never used */
#define MAX_IDS		100
#define FIRST_ID	10
#define CODE_OFFSET	2048
#define WINDOW		0x40000000UL
#define CONTROL		0x20000000UL
#define CONTROL_SLOT	1
#define CONTROL_PAGES	16
#define HUGE_PAGE	(2UL << 20)
#define MAX_BITS	((PAGES + TAIL_PAGES) * (HUGE_PAGE / 8 / 4096))

/* At the start of each page of the window; then code at CODE_OFFSET. */
struct words {
	u64 version;
	u64 word[MAX_VCPUS];	/* version known << 32 | count */
};

/* Shared by guest and host, in a slot that does not change. */
struct control {
	u64 stop, pause, nr_vcpus, page_size;
	u64 accesses[MAX_VCPUS], calls[MAX_VCPUS];
	u64 nested_exits[MAX_VCPUS], nested_ept;
	u64 seen[PAGES];		/* highest version seen by a vCPU */
	/*
	 * Last value and version written by each vCPU.  Not on the stack, as
	 * the compiler might call memset(), and the guest has no libc.
	 */
	u64 last[MAX_VCPUS][PAGES], last_version[MAX_VCPUS][PAGES];
};

/* ------------------------------------------------------------- the guest */

static struct words *guest_page(struct control *c, u64 p)
{
	return (void *)(WINDOW + p * c->page_size);
}

static void guest_saw(struct control *c, u64 p, u64 version)
{
	u64 seen = load(c->seen[p]);

	while (seen < version &&
	       !__atomic_compare_exchange_n(&c->seen[p], &seen, version, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
}

static void guest_use(struct control *c, u64 v, u64 p, u64 *last,
		      u64 *last_version, u64 count)
{
	struct words *page = guest_page(c, p);
	u64 seen = load(c->seen[p]);
	u64 version = load(page->version);
	u64 got, value;

	GUEST_EXPECT(version >= seen, p, version, seen);
	guest_saw(c, p, version);

	got = load(page->word[v]);
	if (*last_version == version && load(page->version) == version)
		GUEST_EXPECT(got == *last, p, got, *last);

	if (p >= PAGES - RO_PAGES)
		return;

	/* A vCPU that has seen a version may rely on this value. */
	value = load(c->seen[p]) << 32 | (count & 0xffffffff);
	store(page->word[v], value);
	got = load(page->word[v]);
	seen = load(page->version);
	*last_version = 0;
	if (seen == version) {
		GUEST_EXPECT(got == value, p, got, value);
		*last = value;
		*last_version = version;
	}
}

/* Make one access, and pause if the host requests it. */
static void guest_step(struct control *c, u64 v, u64 *rnd)
{
	u64 (*code)(void);
	u64 p, got;

	*rnd = *rnd * 6364136223846793005ULL + 1442695040888963407ULL;
	p = (*rnd >> 33) % PAGES;

	if ((*rnd >> 60) < 4) {
		code = (void *)guest_page(c, p) + CODE_OFFSET;
		got = code();
		GUEST_EXPECT(got == p + 1, p, got, 0);
		c->calls[v]++;
	} else {
		guest_use(c, v, p, &c->last[v][p], &c->last_version[v][p],
			  c->accesses[v]);
	}
	c->accesses[v]++;

	/* Leave KVM_RUN: only then is every write in the dirty log. */
	if (load(c->pause))
		GUEST_SYNC(0);
}

static void guest_code(u64 v)
{
	struct control *c = (void *)CONTROL;
	u64 rnd = v + 1;

	while (!load(c->stop))
		guest_step(c, v, &rnd);
	GUEST_DONE();
}

#ifdef __x86_64__
/* L2 has no arguments: it derives its number from its stack. */
static unsigned char nested_stack[MAX_VCPUS][4096];

static void nested_code(void)
{
	struct control *c = (void *)CONTROL;
	u64 v = ((uintptr_t)__builtin_frame_address(0) -
		      (uintptr_t)nested_stack) / sizeof(nested_stack[0]);
	u64 rnd = v + 1, i = 0;

	while (!load(c->stop)) {
		guest_step(c, v, &rnd);
		if (++i % 64 == 0)
			vmcall();
	}
	GUEST_DONE();
}

/*
 * Run L2 until it exits: 0, or 1 if it cannot be entered.  The library's functions
 * may keep the registers of L2 in a variable that all vCPUs share.  Here L2 gets
 * those of L1 instead: vmcall() tells the compiler that they change.
 */
int enter_l2(u64 resume, u64 host_rsp, u64 host_rip);
asm("enter_l2:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	vmwrite %rsp, %rsi\n"
	"	lea 3f(%rip), %rax\n"
	"	vmwrite %rax, %rdx\n"
	"	test %rdi, %rdi\n"
	"	jnz 1f\n"
	"	vmlaunch\n"
	"	jmp 2f\n"
	"1:	vmresume\n"
	"2:	mov $1, %eax\n"
	"	jmp 4f\n"
	"3:	xor %eax, %eax\n"
	"4:	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n");

static void nesting_code(u64 v, struct vmx_pages *vmx)
{
	struct control *c = (void *)CONTROL;
	u64 rnd = ~v;
	int r;

	GUEST_EXPECT(prepare_for_vmx_operation(vmx), 0, 0, 0);
	GUEST_EXPECT(load_vmcs(vmx), 0, 0, 0);

	/* L0 may not support EPT for L1. */
	if (!(rdmsr(MSR_IA32_VMX_TRUE_PROCBASED_CTLS) >> 32 &
	      CPU_BASED_ACTIVATE_SECONDARY_CONTROLS) ||
	    !(rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 &
	      SECONDARY_EXEC_ENABLE_EPT))
		vmx->eptp_gpa = 0;
	else
		c->nested_ept = 1;
	prepare_vmcs(vmx, nested_code);
	vmwrite(GUEST_RSP,
		(uintptr_t)nested_stack[v] + sizeof(nested_stack[v]) - 8);

	r = enter_l2(false, HOST_RSP, HOST_RIP);
	for (;;) {
		u64 reason = vmreadz(VM_EXIT_REASON);

		GUEST_EXPECT(!r && reason == EXIT_REASON_VMCALL, r, reason, 0);
		c->nested_exits[v]++;
		guest_step(c, v, &rnd);
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) +
				   vmreadz(VM_EXIT_INSTRUCTION_LEN));
		r = enter_l2(true, HOST_RSP, HOST_RIP);
	}
}
#endif

#ifdef __aarch64__
/*
 * A missing instruction is an exception in the guest, not an exit.  Without
 * vectors, the guest would fault forever.
 */
void guest_exception(u64 pc, u64 syndrome)
{
	GUEST_EXPECT(!"exception", pc, syndrome, 0);
}

static u64 guest_vectors(void)
{
	u64 addr;

	asm("	adr %0, 1f\n"
	    "	b 2f\n"
	    "	.balign 2048\n"
	    "1:	.rept 16\n"
	    "	mrs x0, elr_el1\n"
	    "	mrs x1, esr_el1\n"
	    "	b guest_exception\n"
	    "	.balign 128\n"
	    "	.endr\n"
	    "2:\n" : "=r"(addr));
	return addr;
}
#endif

/* -------------------------------------------------------------- the host */

struct segment {
	int start, end;			/* pages of the window, or of the tail */
	u32 id, flags;
};

/* How to change a map: one slot at a time with the vCPUs running, or not. */
enum way { WHOLE_MAP, SLOT_BY_SLOT, SLOT_BY_SLOT_PAUSED };

/* How the window is divided into slots, and which memory backs its pages. */
struct map {
	int nr;
	struct segment seg[PAGES + TAIL_PAGES];
};

static int nr_vcpus = 2, switches = 3000, control_changes = 20000, seconds;
static u64 rnd;
static bool manual_protect, huge, nested, nested_works, atomic;

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpus[MAX_VCPUS];
static struct control *control;
static size_t page_size;		/* that of the host, or more */
static unsigned char *backing[2];
static int cur[PAGES + TAIL_PAGES];	/* memory that backs each page */
static u64 version[PAGES];
static bool logged[PAGES];
static struct words copy[PAGES];	/* follows the dirty log */
static struct words given_back[PAGES];	/* contents of the other memory */
static bool check_given_back[PAGES];
static struct map map;
static bool failed, paused[MAX_VCPUS];
static char failure[512];
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;
static u64 dirty_pages, max_ns;
static long huge_mappings;		/* most that were seen */

static u64 random_below(u64 n)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 7;
	rnd ^= rnd << 17;
	return (rnd >> 11) % n;
}

static void fail(const char *fmt, ...)
{
	va_list args;

	pthread_mutex_lock(&failure_lock);
	if (!failed) {
		va_start(args, fmt);
		vsnprintf(failure, sizeof(failure), fmt, args);
		va_end(args);
	}
	store(failed, true);
	pthread_mutex_unlock(&failure_lock);
}

static struct words *host_page(int which, int p)
{
	return (struct words *)(backing[which] + p * page_size);
}

static void write_code(void *page, u32 value)
{
#ifdef __x86_64__
	unsigned char code[] = { 0xb8, 0, 0, 0, 0, 0xc3 };	/* mov, ret */

	memcpy(code + 1, &value, sizeof(value));
#else
	u32 code[] = { 0xd2800000 | value << 5, 0xd65f03c0 };
#endif
	memcpy(page + CODE_OFFSET, code, sizeof(code));
	__builtin___clear_cache(page + CODE_OFFSET,
				page + CODE_OFFSET + sizeof(code));
}

static void *vcpu_thread(void *arg)
{
	u32 v = (uintptr_t)arg;
	struct kvm_run *run = vcpus[v]->run;
	struct ucall uc;

	while (!load(failed)) {
		if (__vcpu_run(vcpus[v])) {
			if (errno == EINTR)
				continue;
			fail("vCPU %u: KVM_RUN: %s", v, strerror(errno));
			break;
		}

		switch (get_ucall(vcpus[v], &uc)) {
		case UCALL_DONE:
			return NULL;
		case UCALL_SYNC:
			store(paused[v], true);
			while (load(control->pause) && !load(failed))
				sched_yield();
			store(paused[v], false);
			continue;
		case UCALL_ABORT:
			fail("vCPU %u: %s, line %lu: page %lu, %#lx, %#lx", v,
			     (const char *)uc.args[0], uc.args[1], uc.args[2],
			     uc.args[3], uc.args[4]);
			return NULL;
		default:
			break;
		}
		if (run->exit_reason == KVM_EXIT_MMIO)
			fail("vCPU %u: MMIO %s at %#llx", v,
			     run->mmio.is_write ? "write" : "read",
			     run->mmio.phys_addr);
		else
			fail("vCPU %u: exit %u (%s)", v, run->exit_reason,
			     exit_reason_str(run->exit_reason));
	}
	return NULL;
}

static struct kvm_userspace_memory_region region_of(const struct segment *seg)
{
	return (struct kvm_userspace_memory_region) {
		.slot = seg->id,
		.flags = seg->flags,
		.guest_phys_addr = WINDOW + seg->start * page_size,
		.memory_size = (seg->end - seg->start) * page_size,
		.userspace_addr = (uintptr_t)host_page(cur[seg->start],
						       seg->start),
	};
}

/* The slots of the library: the guest's program, and what is shared with it. */
static int fixed_regions(struct kvm_userspace_memory_region *regions)
{
	regions[0] = slot_region(vm, 0);
	regions[1] = slot_region(vm, CONTROL_SLOT);
	return 2;
}

static int set_all(void)
{
	struct kvm_userspace_memory_region regions[PAGES + TAIL_PAGES + 2];
	int nr = fixed_regions(regions), i, j;

	for (i = 0; i < map.nr; i++)
		regions[nr++] = region_of(&map.seg[i]);
	/* The order does not matter. */
	for (i = nr - 1; i > 0; i--) {
		struct kvm_userspace_memory_region one = regions[i];

		j = random_below(i + 1);
		regions[i] = regions[j];
		regions[j] = one;
	}
	return set_memory_regions(vm->fd, 0, regions, nr);
}

static void set_one(struct kvm_userspace_memory_region region)
{
	int r = __set_memory_region(vm->fd, &region);

	if (r)
		fail("KVM_SET_USER_MEMORY_REGION, slot %u: %s", region.slot,
		     strerror(r));
}

/* The old way: delete slots that change first, then create the new ones. */
static void set_one_by_one(const struct kvm_userspace_memory_region *old, int nr)
{
	struct kvm_userspace_memory_region new[PAGES + TAIL_PAGES], region;
	bool same;
	int i, j;

	for (i = 0; i < map.nr; i++)
		new[i] = region_of(&map.seg[i]);
	for (i = 0; i < nr; i++) {
		for (j = 0, same = false; j < map.nr; j++)
			same |= !memcmp(&old[i], &new[j], sizeof(old[i]));
		if (!same) {
			region = old[i];
			region.memory_size = 0;
			set_one(region);
		}
	}
	for (i = 0; i < map.nr; i++)
		set_one(new[i]);
}

/* Divide the window again: where its memory changes, and at random. */
static void cut(struct map *m)
{
	bool used[MAX_IDS] = {};
	int i, p, cuts = random_below(4) ? 1 + random_below(6) : PAGES;
	int end = PAGES + random_below(TAIL_PAGES + 1);
	bool edge[PAGES + TAIL_PAGES] = {};
	int log_all = random_below(8);

	for (p = 1; p < end; p++)
		edge[p] = cur[p] != cur[p - 1] ||
			  (p >= PAGES ? p == PAGES : p == PAGES - RO_PAGES);
	for (i = 0; i < cuts; i++)
		edge[random_below(end)] = true;
	edge[0] = true;

	m->nr = 0;
	for (p = 0; p < end; p++) {
		struct segment *seg;

		if (!edge[p])
			continue;
		if (m->nr)
			m->seg[m->nr - 1].end = p;
		seg = &m->seg[m->nr++];
		do
			i = random_below(MAX_IDS);
		while (used[i]);
		used[i] = true;
		*seg = (struct segment) { .start = p, .id = FIRST_ID + i };
		/* All or none, or for some time, as a whole or in parts. */
		if (p < PAGES && (log_all < 2 ? log_all : logged[p] ?
				  random_below(8) : !random_below(8)))
			seg->flags |= KVM_MEM_LOG_DIRTY_PAGES;
		if (p >= PAGES - RO_PAGES && p < PAGES && random_below(2))
			seg->flags |= KVM_MEM_READONLY;
	}
	m->seg[m->nr - 1].end = end;
}

/* Change only ids and flags, and possibly the bounds of one slot. */
static void vary(struct map *m)
{
	int i = random_below(m->nr), j = random_below(m->nr);
	u32 id = m->seg[i].id;

	m->seg[i].id = m->seg[j].id;
	m->seg[j].id = id;

	i = random_below(m->nr);
	if (m->seg[i].start < PAGES)
		m->seg[i].flags ^= KVM_MEM_LOG_DIRTY_PAGES;

	i = random_below(m->nr);
	if (i && m->seg[i].end - m->seg[i].start > 1 &&
	    m->seg[i].start < PAGES - RO_PAGES &&
	    cur[m->seg[i].start] == cur[m->seg[i].start - 1]) {
		m->seg[i].start++;
		m->seg[i - 1].end++;
	}
}

/* Give other host memory to some pages; the guest sees its version. */
static void remap(void)
{
	int p = random_below(PAGES - RO_PAGES);
	int end = p + 1 + random_below(6);

	for (; p < end && p < PAGES - RO_PAGES; p++) {
		struct words *page;

		cur[p] = !cur[p];
		page = host_page(cur[p], p);
		if (check_given_back[p] &&
		    memcmp(page, &given_back[p], sizeof(*page)))
			fail("page %d: written to after it was given back", p);
		memset(page, 0, sizeof(*page));
		page->version = ++version[p];
		check_given_back[p] = false;
	}
}

static void check_old_memory(const int *before)
{
	int p, v;

	for (p = 0; p < PAGES; p++) {
		struct words *old = host_page(!cur[p], p);

		if (cur[p] == before[p])
			continue;
		given_back[p] = *old;
		check_given_back[p] = true;
		for (v = 0; v < nr_vcpus; v++) {
			if (given_back[p].word[v] >> 32 >= version[p])
				fail("page %d: vCPU %d wrote %#lx to memory of version %lu",
				     p, v, given_back[p].word[v],
				     version[p] - 1);
		}
	}
}

static void copy_page(int p)
{
	copy[p] = *host_page(cur[p], p);
}

static void harvest(const struct segment *seg)
{
	static u64 bitmap[MAX_BITS / 64];
	int per_page = page_size / getpagesize(), p, r, bit;

	if (!(seg->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return;
	r = get_dirty_log(vm->fd, seg->id, bitmap);
	if (r)
		fail("KVM_GET_DIRTY_LOG, slot %u: %s", seg->id, strerror(r));
	r = manual_protect ? clear_dirty_log(vm->fd, seg->id, 0,
					     (seg->end - seg->start) * per_page,
					     bitmap) : 0;
	if (r)
		fail("KVM_CLEAR_DIRTY_LOG, slot %u: %s", seg->id, strerror(r));
	for (p = seg->start; p < seg->end; p++) {
		bit = (p - seg->start) * per_page;
		if (bitmap[bit / 64] & 1ULL << bit % 64) {
			copy_page(p);
			dirty_pages++;
		}
	}
}

static void pause_vcpus(bool pause)
{
	int v;

	store(control->pause, pause);
	for (v = 0; v < nr_vcpus; v++) {
		while (load(paused[v]) != pause && !load(failed))
			sched_yield();
	}
}

/* With the vCPUs paused, update the copy and compare. */
static void compare(void)
{
	int i, p;

	pause_vcpus(true);
	for (i = 0; i < 2; i++) {
		long nr = debugfs_stat(vm->fd, i ? "largepages" : "pages_2m");

		if (nr > huge_mappings)
			huge_mappings = nr;
	}
	for (i = 0; i < map.nr; i++)
		harvest(&map.seg[i]);
	for (p = 0; p < PAGES && !load(failed); p++) {
		if (logged[p] && memcmp(&copy[p], host_page(cur[p], p),
					sizeof(copy[p])))
			fail("page %d: changed, and not in the dirty log", p);
	}
	pause_vcpus(false);
}

static void follow_flags(void)
{
	bool was;
	int i, p;

	for (i = 0; i < map.nr; i++) {
		for (p = map.seg[i].start; p < map.seg[i].end && p < PAGES; p++) {
			was = logged[p];
			logged[p] = map.seg[i].flags & KVM_MEM_LOG_DIRTY_PAGES;
			if (logged[p] && !was)
				copy_page(p);
		}
	}
}

static void change(enum way way)
{
	struct kvm_userspace_memory_region old[PAGES + TAIL_PAGES];
	int before[PAGES + TAIL_PAGES], i, r, nr = map.nr;
	u64 start;

	for (i = 0; i < nr; i++)
		old[i] = region_of(&map.seg[i]);
	memcpy(before, cur, sizeof(cur));

	if (random_below(2)) {
		if (random_below(2))
			remap();
		cut(&map);
	} else {
		vary(&map);
	}

	start = now_ns();
	if (way == WHOLE_MAP) {
		r = set_all();
		if (r)
			fail("KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
	} else {
		if (way == SLOT_BY_SLOT_PAUSED)
			pause_vcpus(true);
		set_one_by_one(old, nr);
		if (way == SLOT_BY_SLOT_PAUSED)
			pause_vcpus(false);
	}
	start = now_ns() - start;
	if (start > max_ns)
		max_ns = start;

	if (way == SLOT_BY_SLOT)
		return;
	check_old_memory(before);
	/* Deleting and creating loses the log: do not compare. */
	if (way != WHOLE_MAP)
		return;
	follow_flags();
	/*
	 * Clear the log of everything from time to time, so that vCPUs have
	 * entries in PML buffers when the next change is made.
	 */
	if (!random_below(4)) {
		for (i = 0; i < map.nr; i++)
			harvest(&map.seg[i]);
		usleep(random_below(200));
	} else if (!random_below(8)) {
		harvest(&map.seg[random_below(map.nr)]);
	}
	if (!random_below(32))
		compare();
}

#ifdef __x86_64__
/* Identity page tables of L1 for L2, for all memory. */
static void nest(u32 v)
{
	const struct nested_range ranges[] = {
		{ CONTROL, CONTROL_PAGES * getpagesize() },
		{ WINDOW, PAGES * page_size },
	};

	vcpu_args_set(vcpus[v], 2, (u64)v,
		      vcpu_alloc_nested(vm, ranges, ARRAY_SIZE(ranges)));
}
#endif

static void add_vcpus(void)
{
	void *code = guest_code;
	int v;

#ifdef __x86_64__
	if (nested)
		code = nesting_code;
#endif
	/* With page tables of L1 for each. */
	vm = __vm_create_with_one_vcpu(&vcpus[0],
				       (nested ? 128 : 64) * nr_vcpus, code);
	for (v = 1; v < nr_vcpus; v++)
		vcpus[v] = vm_vcpu_add(vm, v, code);
}

/* Memory for all pages, which is huge if the host can do that. */
static unsigned char *map_backing(void)
{
	size_t size = (PAGES + TAIL_PAGES) * page_size, align = HUGE_PAGE;
	unsigned char *mem;

	if (!huge)
		return map_memory(size, MAP_SHARED);
	mem = map_memory(size + align, MAP_PRIVATE);
	mem += -(uintptr_t)mem & (align - 1);
	madvise(mem, size, MADV_HUGEPAGE);
	memset(mem, 0, size);
	return mem;
}

/* Returns the number of changes until a failure, or the total. */
static int run(enum way way, int nr, u64 ns)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			   KVM_DIRTY_LOG_INITIALLY_SET,
	};
	pthread_t threads[MAX_VCPUS];
	int i, p, v;
	u64 start;

	page_size = huge ? HUGE_PAGE / 8 : getpagesize();
	add_vcpus();
	if (manual_protect)
		vm_ioctl(vm, KVM_ENABLE_CAP, &cap);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CONTROL,
				    CONTROL_SLOT, CONTROL_PAGES, 0);
	virt_map(vm, CONTROL, CONTROL, CONTROL_PAGES);
	virt_map(vm, WINDOW, WINDOW, PAGES * (page_size / getpagesize()));
	control = addr_gpa2hva(vm, CONTROL);
	memset(control, 0, sizeof(*control));
	control->nr_vcpus = nr_vcpus;
	control->page_size = page_size;

	memset(cur, 0, sizeof(cur));
	memset(logged, 0, sizeof(logged));
	memset(check_given_back, 0, sizeof(check_given_back));
	memset(&map, 0, sizeof(map));
	failed = false;
	dirty_pages = 0;
	huge_mappings = 0;
	max_ns = 0;
	for (i = 0; i < 2; i++) {
		backing[i] = map_backing();
		for (p = 0; p < PAGES; p++) {
			version[p] = 1;
			host_page(i, p)->version = 1;
			write_code(host_page(i, p), p + 1);
		}
	}

	cut(&map);
	if (way == WHOLE_MAP)
		TEST_ASSERT(!set_all(), "the first map: %s", strerror(errno));
	else
		set_one_by_one(NULL, 0);
	follow_flags();

	for (v = 0; v < nr_vcpus; v++) {
#ifdef __aarch64__
		/* VBAR_EL1 */
		vcpu_set_reg(vcpus[v], ARM64_SYS_REG(3, 0, 12, 0, 0),
			     guest_vectors());
#endif
		vcpu_args_set(vcpus[v], 1, (u64)v);
#ifdef __x86_64__
		if (nested)
			nest(v);
#endif
		pthread_create(&threads[v], NULL, vcpu_thread,
			       (void *)(uintptr_t)v);
	}
	for (v = 0; v < nr_vcpus; v++) {
		while (!load(control->accesses[v]) && !load(failed))
			sched_yield();
	}

	start = now_ns();
	for (i = 0; (ns ? now_ns() - start < ns : i < nr) && !load(failed); i++)
		change(way);
	if (way == WHOLE_MAP && !load(failed))
		compare();

	store(control->stop, 1);
	for (v = 0; v < nr_vcpus; v++)
		pthread_join(threads[v], NULL);
	return i;
}

static void done(void)
{
	u64 accesses = 0, calls = 0, exits = 0;
	int v;

	for (v = 0; v < nr_vcpus; v++) {
		accesses += control->accesses[v];
		calls += control->calls[v];
		exits += control->nested_exits[v];
	}
	ksft_print_msg("%lu accesses, %lu calls, %lu dirty pages, longest change %lu us\n",
		       accesses, calls, dirty_pages, max_ns / 1000);
	if (huge)
		ksft_print_msg("debugfs counts up to %ld huge mappings\n",
			       huge_mappings);
	if (nested)
		ksft_print_msg("%lu exits of L2 to L1, %s EPT\n", exits,
			       control->nested_ept ? "with" : "without");
	kvm_vm_free(vm);
	munmap(backing[0], (PAGES + TAIL_PAGES) * page_size);
	munmap(backing[1], (PAGES + TAIL_PAGES) * page_size);
}

static void help(const char *name)
{
	printf("usage: %s [-r] [-n changes | -t seconds] [-c changes] [-v vcpus] [-s seed]\n"
	       "  -r  for reference, on any kernel: only slot by slot, as it has to go wrong\n"
	       "      and then, as it must not, while the vCPUs pause\n"
	       "  -n  changes of the whole map, for each way to log (%d)\n"
	       "  -t  how long the whole map is changed, in all, instead of -n\n"
	       "  -c  changes slot by slot, at most, until one goes wrong (%d)\n"
	       "  -v  vCPUs, up to %d (%d)\n"
	       "  -s  seed of what is random (the clock)\n",
	       name, switches, control_changes, MAX_VCPUS, nr_vcpus);
}

static void test(enum way way, const char *what, u64 ns)
{
	char where[64];
	int nr;

	snprintf(where, sizeof(where), "%s%s", huge ? ", huge pages" : "",
		 nested ? ", nested guest" : "");

	if (nested && !nested_works) {
		ksft_test_result_skip("%s%s: no nested VMX\n", what, where);
		return;
	}
	if (way == WHOLE_MAP && !atomic) {
		ksft_test_result_skip("%s%s: no such ioctl\n", what, where);
		ksft_print_msg("table: changes %s%s: no such ioctl\n", what,
			       where);
		return;
	}
	nr = run(way, way == SLOT_BY_SLOT ? control_changes : switches, ns);
	ksft_test_result(failed == (way == SLOT_BY_SLOT),
			 "%d changes %s%s\n", nr, what, where);
	/* A row of a table with several kernels. */
	ksft_print_msg(failed ? "table: changes %s%s: fails after %d\n" :
				"table: changes %s%s: %d pass\n", what, where, nr);
	if (failed)
		ksft_print_msg("%s\n", failure);
	done();
}

int main(int argc, char **argv)
{
	static const char * const log[] = {
		"of the whole map, KVM_GET_DIRTY_LOG",
		"of the whole map, KVM_CLEAR_DIRTY_LOG, initially set",
	};
	bool reference = false;
	int opt, i, level, levels = 1;
	u64 ns;

	setvbuf(stdout, NULL, _IOLBF, 0);
	rnd = time(NULL) + now_ns();
	while ((opt = getopt(argc, argv, "hrn:t:c:v:s:")) != -1) {
		switch (opt) {
		case 'r':
			reference = true;
			break;
		case 'n':
			switches = parse_number(optarg, 1, INT_MAX);
			seconds = 0;
			break;
		case 't':
			seconds = parse_number(optarg, 1, INT_MAX);
			break;
		case 'c':
			control_changes = parse_number(optarg, 1, INT_MAX);
			break;
		case 'v':
			nr_vcpus = parse_number(optarg, 1, MAX_VCPUS);
			break;
		case 's':
			rnd = strtoull(optarg, NULL, 0);
			break;
		default:
			help(argv[0]);
			return opt == 'h' ? 0 : KSFT_FAIL;
		}
	}
	rnd = rnd * 2 + 1;

	ksft_print_header();
	atomic = kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS);
#ifdef __x86_64__
	nested_works = nested_vmx_supported();
	levels = 2;
#endif
	ns = seconds * 1000000000ULL / ((reference ? 1 : 4) * (1 + nested_works));
	ksft_set_plan((reference ? 2 : 5) * levels);
	ksft_print_msg("seed %lu, %d vCPUs\n", rnd / 2, nr_vcpus);

	for (level = 0; level < levels; level++) {
		nested = level;
		for (i = 0; i < 4 && !reference; i++) {
			manual_protect = i & 1;
			huge = i & 2;
			test(WHOLE_MAP, log[i & 1], ns);
		}
		manual_protect = false;
		huge = false;
		test(SLOT_BY_SLOT, "slot by slot, a vCPU falls into a hole", 0);
		if (reference)
			test(SLOT_BY_SLOT_PAUSED,
			     "slot by slot, while the vCPUs pause", ns);
	}

	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	if (reference || atomic)
		ksft_exit_pass();
	ksft_print_cnts();
	exit(KSFT_SKIP);
}
