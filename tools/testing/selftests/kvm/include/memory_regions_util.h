/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers shared by the tests of memslots and KVM_SET_USER_MEMORY_REGIONS.  They
 * take file descriptors, and return 0 or an error number.
 */
#ifndef SELFTEST_KVM_MEMORY_REGIONS_UTIL_H
#define SELFTEST_KVM_MEMORY_REGIONS_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <linux/kernel.h>
#include <linux/kvm.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#include "kselftest.h"

#define load(x)		__atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define store(x, v)	__atomic_store_n(&(x), v, __ATOMIC_SEQ_CST)

/* For guests: exit with UCALL_ABORT and the numbers @a, @b, @c. */
#define GUEST_EXPECT(cond, a, b, c)					\
do {									\
	if (!(cond))							\
		ucall(UCALL_ABORT, 5, (u64)#cond, (u64)__LINE__,	\
		      (u64)(a), (u64)(b), (u64)(c));			\
} while (0)

static inline int
__set_memory_region(int fd, const struct kvm_userspace_memory_region *region)
{
	return ioctl(fd, KVM_SET_USER_MEMORY_REGION, region) ? errno : 0;
}

static inline int set_memory_region(int fd, u32 slot, u32 flags, u64 gpa,
				    u64 size, u64 hva)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = hva,
	};

	return __set_memory_region(fd, &region);
}

static inline int
set_memory_regions(int fd, u32 as_id,
		   const struct kvm_userspace_memory_region *regions, u32 nr)
{
	struct kvm_userspace_memory_regions map = {
		.as_id = as_id,
		.nr_regions = nr,
		.region_size = sizeof(*regions),
		.regions = (uintptr_t)regions,
	};

	return ioctl(fd, KVM_SET_USER_MEMORY_REGIONS, &map) ? errno : 0;
}

static inline int get_dirty_log(int fd, u32 slot, void *bitmap)
{
	struct kvm_dirty_log log = {
		.slot = slot,
		.dirty_bitmap = bitmap,
	};

	return ioctl(fd, KVM_GET_DIRTY_LOG, &log) ? errno : 0;
}

static inline int clear_dirty_log(int fd, u32 slot, u64 first, u32 nr,
				  void *bitmap)
{
	struct kvm_clear_dirty_log log = {
		.slot = slot,
		.first_page = first,
		.num_pages = nr,
		.dirty_bitmap = bitmap,
	};

	return ioctl(fd, KVM_CLEAR_DIRTY_LOG, &log) ? errno : 0;
}

/* Map anonymous memory, MAP_PRIVATE or MAP_SHARED, or exit. */
static inline void *map_memory(size_t size, int flags)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
	return mem;
}

/* Open a userfaultfd for the pages missing in @size bytes at @mem, or skip. */
static inline int uffd_open(void *mem, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.start = (uintptr_t)mem,
		.range.len = size,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		ksft_exit_skip("no userfaultfd: %s\n", strerror(errno));
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		ksft_exit_fail_msg("UFFDIO_REGISTER: %s\n", strerror(errno));
	return uffd;
}

/* Wait for a page fault, for up to 30 seconds, or exit. */
static inline void uffd_wait(int uffd)
{
	struct pollfd pollfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&pollfd, 1, 30000) != 1 ||
	    read(uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		ksft_exit_fail_msg("there is no page fault\n");
}

/* Resolve a fault with @size bytes of zeroes at @mem, not by the zero page. */
static inline void uffd_resolve(int uffd, void *mem, size_t size)
{
	void *zeroes = calloc(1, size);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)mem,
		.src = (uintptr_t)zeroes,
		.len = size,
	};

	if (!zeroes || ioctl(uffd, UFFDIO_COPY, &copy))
		ksft_exit_fail_msg("UFFDIO_COPY: %s\n", strerror(errno));
	free(zeroes);
}

/* Write @text to a file that exists, e.g. in sysfs or debugfs. */
static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC), r = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		r = errno;
	close(fd);
	return r;
}

#define TRACING		"/sys/kernel/tracing/"

/* Not every kernel mounts it as a part of debugfs.  It may be mounted already. */
static inline void mount_tracing(void)
{
	mount("tracefs", TRACING, "tracefs", 0, NULL);
}

/* A statistic of the VM @fd, by its name in debugfs, or -1. */
static inline long debugfs_stat(int fd, const char *name)
{
	char path[256];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/%s", getpid(),
		 fd, name);
	file = fopen(path, "r");
	if (file) {
		if (fscanf(file, "%ld", &value) != 1)
			value = -1;
		fclose(file);
	}
	return value;
}

/* Get the number after @key in @line, or 0. */
static inline u64 number_of(const char *line, const char *key, int base)
{
	const char *at = strstr(line, key);

	return at ? strtoull(at + strlen(key), NULL, base) : 0;
}

/* Check for a boolean parameter of a module that is there, and off. */
static inline bool param_is_off(const char *path)
{
	FILE *file = fopen(path, "r");
	int c = file ? fgetc(file) : 0;

	if (file)
		fclose(file);
	return c == 'N' || c == '0';
}

/* With shadow paging, KVM drops all mappings rather than those of a slot. */
static inline bool shadow_paging(void)
{
	return param_is_off("/sys/module/kvm_amd/parameters/npt") ||
	       param_is_off("/sys/module/kvm_intel/parameters/ept");
}

/*
 * Prepare to let allocations of all kinds fail, without messages.  Returns a file
 * descriptor for fail_nth(), or -1: this needs CONFIG_FAILSLAB,
 * CONFIG_FAIL_PAGE_ALLOC, CONFIG_FAULT_INJECTION_DEBUG_FS and root.
 */
static inline int fail_nth_open(void)
{
#define FAULTS	"/sys/kernel/debug/"
	if (write_file(FAULTS "failslab/verbose", "0") ||
	    write_file(FAULTS "failslab/ignore-gfp-wait", "N") ||
	    write_file(FAULTS "fail_page_alloc/verbose", "0") ||
	    write_file(FAULTS "fail_page_alloc/min-order", "0") ||
	    write_file(FAULTS "fail_page_alloc/ignore-gfp-wait", "N") ||
	    write_file(FAULTS "fail_page_alloc/ignore-gfp-highmem", "N"))
		return -1;
#undef FAULTS
	return open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
}

/*
 * Let the @nth allocation of this thread from now on fail, or none if it is 0.
 * Returns what is left of the previous number: 0 if that allocation has failed.
 */
static inline unsigned int fail_nth(int fd, unsigned int nth)
{
	char was[16] = "", text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	if (pread(fd, was, sizeof(was) - 1, 0) <= 0 ||
	    pwrite(fd, text, len, 0) != len)
		ksft_exit_fail_msg("fail-nth: %s\n", strerror(errno));
	return atoi(was);
}

static inline u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* The argument of an option, or exit. */
static inline long parse_number(const char *arg, long min, long max)
{
	char *end;
	long n = strtol(arg, &end, 0);

	if (*end || end == arg || n < min || n > max) {
		fprintf(stderr, "%s is no number from %ld to %ld\n", arg, min,
			max);
		exit(KSFT_FAIL);
	}
	return n;
}

#endif /* SELFTEST_KVM_MEMORY_REGIONS_UTIL_H */
