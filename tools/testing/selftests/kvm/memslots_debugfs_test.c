// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the file "memslots" of a VM in debugfs, and the tracepoints
 * kvm_memslot_update and kvm_swap_active_memslots.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "memory_regions_util.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define UNIT		0x100000UL
#define SIZE		0x100000UL
/* More lines than fit in one read, not in the order of gfns. */
#define MANY		500
#define SCATTER(i)	((i) * 263UL % MANY)

static int kvm_fd, vm_fd;
static unsigned long hva;
static char path[128], text[1 << 20];

static int set_region(int id, int flags, unsigned long gpa, unsigned long size)
{
	return set_memory_region(vm_fd, id, flags, gpa, size, hva);
}

/* Read a file into @text as a string; returns -1 on error. */
static int slurp(const char *name, size_t step)
{
	int fd = open(name, O_RDONLY);
	size_t have = 0;
	ssize_t got;

	if (fd < 0)
		return -1;
	while ((got = read(fd, text + have, step)) > 0 &&
	       have + got + step < sizeof(text))
		have += got;
	text[have] = '\0';
	close(fd);
	return got;
}

/* Count the lines of @text that contain @what. */
static int count(const char *what)
{
	char *at = text;
	int n = 0;

	while ((at = strstr(at, what))) {
		at = strchr(at, '\n');
		n++;
		if (!at)
			break;
	}
	return n;
}

/* Check that the file has a line for each expected slot, in order. */
static int listed(int nr, size_t step)
{
	unsigned long long first, end, addr, above = 0;
	unsigned int as_id, id, flags;
	int n = 0;
	char *line;

	if (slurp(path, step) || strncmp(text, "as_id", 5))
		return 0;

	line = strtok(text, "\n");
	while ((line = strtok(NULL, "\n"))) {
		if (sscanf(line, "%u %u %llx %llx %llx %x", &as_id, &id, &first,
			   &end, &addr, &flags) != 6)
			return 0;
		if (as_id || first < above || addr != hva || id >= MANY ||
		    first * getpagesize() != SCATTER(id) * 2 * UNIT ||
		    (end - first) * getpagesize() != SIZE ||
		    flags != (id & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0))
			return 0;
		above = end;
		n++;
	}
	return n == nr;
}

static void test_file(void)
{
	int i, fd, ok = 1;
	char buf[64];

	ksft_test_result(listed(0, 4096), "no slots\n");

	for (i = 0; i < MANY; i++)
		ok &= !set_region(i, i & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0,
				  SCATTER(i) * 2 * UNIT, SIZE);
	ksft_test_result(ok && listed(MANY, 4096), "%d slots\n", MANY);
	ksft_test_result(listed(MANY, 7), "read 7 bytes at a time\n");

	/* If slots are deleted between reads, none is skipped or repeated. */
	fd = open(path, O_RDONLY);
	ok = fd >= 0 && read(fd, buf, sizeof(buf)) == sizeof(buf);
	for (i = 0; i < MANY; i += 2)
		ok &= !set_region(i, 0, 0, 0);
	while (read(fd, text, 4096) > 0)
		;
	ksft_test_result(ok && listed(MANY / 2, 4096), "half of them deleted\n");

	/* An open file does not keep the VM, nor access a freed one. */
	close(vm_fd);
	ok = lseek(fd, 0, SEEK_SET) || read(fd, text, 4096) <= 0;
	ksft_test_result(ok && access(path, F_OK), "VM gone\n");
	close(fd);
}

static void expect_trace(const char *what, int r, const char *line, int updates,
			 int switches)
{
	int ok;

	slurp(TRACING "trace", 4096);
	ok = !r && count("kvm_memslot_update:") == updates &&
	     count("kvm_swap_active_memslots:") == switches && count(line) == 1;
	ksft_test_result(ok, "trace of %s\n", what);
	if (!ok)
		ksft_print_msg("expected %d, %d, '%s' in:\n%s\n", updates,
			       switches, line, text);
	write_file(TRACING "trace", "");
}

static void test_trace(void)
{
	if (write_file(TRACING "events/kvm/kvm_memslot_update/enable", "1") ||
	    write_file(TRACING "events/kvm/kvm_swap_active_memslots/enable",
		       "1")) {
		ksft_test_result_skip("no event tracing\n");
		return;
	}
	write_file(TRACING "trace", "");

	expect_trace("create", set_region(3, 0, 0x100000, SIZE),
		     ": create as_id 0 id 3 gfn [0x100, 0x200) from 0x100", 1, 1);
	expect_trace("flags",
		     set_region(3, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, SIZE),
		     ": flags as_id 0 id 3 gfn [0x100, 0x200) from 0x100", 1, 1);
	expect_trace("move",
		     set_region(3, KVM_MEM_LOG_DIRTY_PAGES, 0x400000, SIZE),
		     ": move as_id 0 id 3 gfn [0x400, 0x500) from 0x100", 1, 2);
	expect_trace("delete", set_region(3, 0, 0, 0),
		     ": delete as_id 0 id 3 gfn [0x400, 0x500) from 0x400", 1, 2);

	write_file(TRACING "events/kvm/enable", "0");
}

int main(void)
{
	ksft_print_header();
	mount_tracing();
	kvm_fd = open("/dev/kvm", O_RDWR);
	if (kvm_fd < 0)
		ksft_exit_skip("/dev/kvm: %s\n", strerror(errno));

	hva = (unsigned long)map_memory(2 * UNIT, MAP_PRIVATE);
	hva = (hva + UNIT - 1) & -UNIT;

	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		ksft_exit_fail_msg("KVM_CREATE_VM: %s\n", strerror(errno));
	snprintf(path, sizeof(path), DEBUGFS "kvm/%d-%d/memslots", getpid(),
		 vm_fd);
	if (access(path, R_OK))
		ksft_exit_skip("%s: %s\n", path, strerror(errno));

	if (getpagesize() == 4096)
		test_trace();
	test_file();

	ksft_set_plan(ksft_test_num());
	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	ksft_exit_pass();
}
