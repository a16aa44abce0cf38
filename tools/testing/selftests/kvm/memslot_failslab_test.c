// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fail each memory allocation of each memslot ioctl, one after the other.
 *
 * The ioctl must fail with ENOMEM and leave everything unchanged, or succeed
 * completely if it can do without that memory.  The test checks where slots are,
 * what a vCPU reads there, the dirty log, and, if it exists, the file "memslots"
 * in debugfs.  Memory must not leak.
 *
 * Needs CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC, CONFIG_FAULT_INJECTION_DEBUG_FS
 * and root.  Leaks are found with CONFIG_DEBUG_KMEMLEAK only.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
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
#include "memory_regions_util.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define PAGE		4096UL
#define SMALL		16
/* Large enough that each allocation exceeds a page, including the log. */
#define LARGE		0x8000
#define WINDOW(i)	(0x40000000UL + (i) * 0x10000000UL)
#define OTHERS		0x80000000UL
#define ID		1
#define PROBE_ID	2
#define FIRST_OTHER	3
#define DIRTY_PAGE	3
#define NR_WORDS	4

enum op { CREATE, DELETE, MOVE, LOG_ON, LOG_OFF, GET_LOG, CLEAR_LOG };

static const struct test {
	const char *name;
	enum op op;
	uint32_t flags, npages;
	int others;			/* number of other slots */
} tests[] = {
	{ "create", CREATE, 0, SMALL, 0 },
	{ "create logged", CREATE, KVM_MEM_LOG_DIRTY_PAGES, SMALL, 0 },
	{ "create large logged", CREATE, KVM_MEM_LOG_DIRTY_PAGES, LARGE, 0 },
	{ "create, 15 others", CREATE, 0, SMALL, 15 },
	{ "create, 31 others", CREATE, 0, SMALL, 31 },
	{ "create, 32 others", CREATE, 0, SMALL, 32 },
	{ "create, 64 others", CREATE, 0, SMALL, 64 },
	{ "delete", DELETE, 0, SMALL, 0 },
	{ "delete logged", DELETE, KVM_MEM_LOG_DIRTY_PAGES, SMALL, 0 },
	{ "delete large logged", DELETE, KVM_MEM_LOG_DIRTY_PAGES, LARGE, 0 },
	{ "delete, 16 others", DELETE, 0, SMALL, 16 },
	{ "delete, 64 others", DELETE, 0, SMALL, 64 },
	{ "move", MOVE, 0, SMALL, 0 },
	{ "move logged", MOVE, KVM_MEM_LOG_DIRTY_PAGES, SMALL, 0 },
	{ "move large logged", MOVE, KVM_MEM_LOG_DIRTY_PAGES, LARGE, 0 },
	{ "log on", LOG_ON, 0, SMALL, 0 },
	{ "log on, large", LOG_ON, 0, LARGE, 0 },
	{ "log off", LOG_OFF, KVM_MEM_LOG_DIRTY_PAGES, SMALL, 0 },
	{ "log off, large", LOG_OFF, KVM_MEM_LOG_DIRTY_PAGES, LARGE, 0 },
	{ "get log", GET_LOG, KVM_MEM_LOG_DIRTY_PAGES, SMALL, 0 },
	{ "get log, large", GET_LOG, KVM_MEM_LOG_DIRTY_PAGES, LARGE, 0 },
	{ "clear log", CLEAR_LOG, KVM_MEM_LOG_DIRTY_PAGES, SMALL, 0 },
	{ "clear log, large", CLEAR_LOG, KVM_MEM_LOG_DIRTY_PAGES, LARGE, 0 },
};

/* The visible state of the memory map. */
struct view {
	int there[2];			/* whether a window has a slot */
	uint32_t words[NR_WORDS];	/* first and dirty page of the windows */
	int log_error;
	uint8_t log[LARGE / 8];
	char file[16384];
};

static struct kvm_vm *vm;
static uint32_t as_id;
static void *memory;
static int nth_fd, leak_fd;
static uint8_t bitmap[LARGE / 8], all_ones[LARGE / 8];
static char file[128];

/* --------------------------------------------------------------- the guest */

static uint32_t words[NR_WORDS], write_dirty;

static uint64_t word_addr(int i)
{
	return WINDOW(i / 2) + (i % 2 ? DIRTY_PAGE * PAGE : 0);
}

static void guest_code(void)
{
	int i;

	for (;;) {
		if (load(write_dirty))
			store(*(uint32_t *)(word_addr(1) + 8), 1);
		else
			for (i = 0; i < NR_WORDS; i++)
				words[i] = load(*(uint32_t *)word_addr(i));
		GUEST_SYNC(0);
	}
}

/* Absent memory reads as all ones. */
static void run_guest(uint32_t write)
{
	struct kvm_run *run = vcpu_state(vm, 0);

	write_dirty = write;
	sync_global_to_guest(vm, write_dirty);
	for (;;) {
		vcpu_run(vm, 0);
		if (get_ucall(vm, 0, NULL) == UCALL_SYNC)
			return;
		TEST_ASSERT(run->exit_reason == KVM_EXIT_MMIO,
			    "exit reason %u (%s)", run->exit_reason,
			    exit_reason_str(run->exit_reason));
		memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
	}
}

/* ---------------------------------------------------------------- requests */

static int set_region(uint32_t id, uint32_t flags, uint64_t gpa,
		      uint32_t npages)
{
	return set_memory_region(vm_get_fd(vm), as_id << 16 | id, flags, gpa,
				 npages * PAGE, (uintptr_t)memory);
}

static int get_log(uint8_t *to)
{
	return get_dirty_log(vm_get_fd(vm), as_id << 16 | ID, to);
}

static int clear_log(uint32_t npages)
{
	return clear_dirty_log(vm_get_fd(vm), as_id << 16 | ID, 0, npages,
			       all_ones);
}

static int request(const struct test *t)
{
	switch (t->op) {
	case CREATE:
		return set_region(ID, t->flags, WINDOW(0), t->npages);
	case DELETE:
		return set_region(ID, 0, 0, 0);
	case MOVE:
		return set_region(ID, t->flags, WINDOW(1), t->npages);
	case LOG_ON:
	case LOG_OFF:
		return set_region(ID, t->flags ^ KVM_MEM_LOG_DIRTY_PAGES,
				  WINDOW(0), t->npages);
	case GET_LOG:
		return get_log(bitmap);
	case CLEAR_LOG:
		return clear_log(t->npages);
	}
	return -1;
}

/* Set up the state before the request. */
static void reset(const struct test *t)
{
	int r = set_region(ID, 0, 0, 0);

	TEST_ASSERT(!r || r == EINVAL, "delete: %s", strerror(r));
	if (t->op == CREATE)
		return;
	r = set_region(ID, t->flags, WINDOW(0), t->npages);
	TEST_ASSERT(!r, "create: %s", strerror(r));
	/* Mapped, with one dirty page. */
	run_guest(1);
}

static int there(int window)
{
	int r = set_region(PROBE_ID, 0, WINDOW(window), SMALL);

	TEST_ASSERT(!r || r == EEXIST, "probe: %s", strerror(r));
	if (!r)
		set_region(PROBE_ID, 0, 0, 0);
	return r == EEXIST;
}

static void look(struct view *view)
{
	int fd, i;

	memset(view, 0, sizeof(*view));
	view->there[0] = there(0);
	view->there[1] = there(1);
	run_guest(0);
	sync_global_from_guest(vm, words);
	for (i = 0; i < NR_WORDS; i++)
		view->words[i] = words[i];
	/* Does not clear the log, as the capability is enabled. */
	view->log_error = get_log(view->log);

	fd = open(file, O_RDONLY);
	if (fd >= 0) {
		TEST_ASSERT(read(fd, view->file, sizeof(view->file)) > 0,
			    "%s: %s", file, strerror(errno));
		close(fd);
	}
}

static int same(const struct view *a, const struct view *b)
{
	return !memcmp(a, b, sizeof(*a));
}

/* ---------------------------------------------------------------- the tests */

static void create_vm(int others)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
	};
	int i, r;

	vm = vm_create_default(0, 0, guest_code);
	ucall_init(vm, NULL);
	vm_enable_cap(vm, &cap);
	for (i = 0; i < 2; i++)
		virt_map(vm, WINDOW(i), WINDOW(i), SMALL, 0);
	for (i = 0; i < others; i++) {
		r = set_region(FIRST_OTHER + i, 0, OTHERS + i * PAGE, 1);
		TEST_ASSERT(!r, "slot %d: %s", i, strerror(r));
	}
	snprintf(file, sizeof(file), DEBUGFS "kvm/%d-%d/memslots", getpid(),
		 vm_get_fd(vm));
}

static void run_test(const struct test *t)
{
	static struct view before, after, now;
	unsigned int nth, left, refused = 0, done = 0, wrong = 0;
	int r;

	create_vm(t->others);

	/* Once without failures. */
	reset(t);
	look(&before);
	r = request(t);
	TEST_ASSERT(!r, "%s: %s", t->name, strerror(r));
	look(&after);
	TEST_ASSERT(t->op == GET_LOG || t->op == CLEAR_LOG ||
		    !same(&before, &after), "%s has changed nothing", t->name);

	reset(t);
	look(&now);
	TEST_ASSERT(same(&now, &before), "cannot repeat %s", t->name);

	for (nth = 1; !wrong; nth++) {
		reset(t);
		fail_nth(nth_fd, nth);
		r = request(t);
		left = fail_nth(nth_fd, 0);

		look(&now);
		if (left) {
			/* There are no more allocations. */
			if (r || !same(&now, &after))
				wrong = nth;
			break;
		}
		if (r == ENOMEM && same(&now, &before))
			refused++;
		else if (!r && same(&now, &after))
			done++;
		else
			wrong = nth;
	}

	if (wrong)
		ksft_print_msg("allocation %u: %s, state is %s\n", wrong,
			       r ? strerror(r) : "success",
			       same(&now, &before) ? "as before" :
			       same(&now, &after) ? "as after success" :
			       "neither as before nor as after success");
	ksft_test_result(!wrong, "%-20s as_id %u: %4u allocations, %4u ENOMEM, %4u done without\n",
			 t->name, as_id, nth - 1, refused, done);
	kvm_vm_free(vm);
}

static void test_leaks(void)
{
	static char text[4096];
	ssize_t got;
	int i;

	if (leak_fd < 0) {
		ksft_test_result_skip("no kmemleak\n");
		return;
	}
	/* Twice: the first scan may still see memory that was just freed. */
	for (i = 0; i < 2; i++) {
		if (write(leak_fd, "scan", 4) != 4) {
			ksft_test_result_fail("kmemleak: %s\n",
					      strerror(errno));
			return;
		}
		sleep(6);
	}
	got = pread(leak_fd, text, sizeof(text) - 1, 0);
	ksft_test_result(!got, "no leak\n");
	if (got > 0)
		ksft_print_msg("%s\n", text);
}

int main(void)
{
	int i, nr_as;

	setbuf(stdout, NULL);
	ksft_print_header();

	nth_fd = fail_nth_open();
	if (nth_fd < 0)
		ksft_exit_skip("no fault injection: %s\n", strerror(errno));
	if (!kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2))
		ksft_exit_skip("no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2\n");
	nr_as = kvm_check_cap(KVM_CAP_MULTI_ADDRESS_SPACE);
	if (nr_as < 1)
		nr_as = 1;

	memory = mmap(NULL, LARGE * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(memory != MAP_FAILED, "mmap: %s", strerror(errno));
	/* Pre-fault memory that is used under fault injection. */
	memset(memory, 0x5a, SMALL * PAGE);
	memset(bitmap, 0x5a, sizeof(bitmap));
	memset(all_ones, 0xff, sizeof(all_ones));

	leak_fd = open(DEBUGFS "kmemleak", O_RDWR);
	if (leak_fd >= 0 && write(leak_fd, "clear", 5) != 5)
		ksft_print_msg("kmemleak: %s\n", strerror(errno));

	for (as_id = 0; as_id < nr_as; as_id++)
		for (i = 0; i < ARRAY_SIZE(tests); i++)
			run_test(&tests[i]);
	test_leaks();

	ksft_set_plan(ksft_test_num());
	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	ksft_exit_pass();
}
