// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change memslots while vCPUs and other ioctls take locks.
 *
 * A change of memslots holds kvm->slots_lock and waits for vCPUs to leave
 * kvm->srcu read-side critical sections, or the gate.  A vCPU must not wait there
 * for a lock whose owner wants kvm->slots_lock.  In this test, the vCPU
 *
 *   - accesses the ports of the PIT, while another thread switches the PIT's
 *     reinjection on and off, which takes kvm->slots_lock with AVIC;
 *   - needs memory for page tables, and may have to reclaim some, which shrinks
 *     those of other VMs, while another thread changes kvm.nx_huge_pages, which
 *     takes kvm->slots_lock of each VM.
 *
 * All threads must make progress.  A kernel with lockdep reports a wrong order of
 * locks even if the threads never deadlock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "memory_regions_util.h"

#define VCPU_ID		0
#define USED		0x20000000UL
#define USED_SLOT	1
#define OTHER		0x40000000UL
#define OTHER_SLOT	2
#define STRIDE		0x200000UL	/* a page table each */
#define NR_PAGES	128

#define PIT_CHANNEL_0	0x40
#define PIT_MODE	0x43
#define PIT_COUNTER_0	0x34	/* low byte, high byte, as a rate generator */

static struct kvm_vm *vm;
static bool stop;
static void *other;

/* ------------------------------------------------------------- the guest */

static void out(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in(uint16_t port)
{
	uint8_t value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void guest_code(void)
{
	uint64_t *used = (void *)USED;
	unsigned int i;

	for (i = 0;; i++) {
		out(PIT_MODE, PIT_COUNTER_0);
		out(PIT_CHANNEL_0, 0);
		out(PIT_CHANNEL_0, 0x80);
		store(used[i % NR_PAGES * STRIDE / 8], in(PIT_CHANNEL_0));
	}
}

/* -------------------------------------------------------------- the host */

static void *run_vcpu(void *arg)
{
	for (;;) {
		if (_vcpu_ioctl(vm, VCPU_ID, KVM_RUN, NULL))
			TEST_ASSERT(errno == EINTR, "KVM_RUN: %s",
				    strerror(errno));
		else
			TEST_FAIL("exit %u", vcpu_state(vm, VCPU_ID)->exit_reason);
	}
	return NULL;
}

static void *reinject(void *arg)
{
	struct kvm_reinject_control control = {};

	while (!load(stop)) {
		control.pit_reinject ^= 1;
		vm_ioctl(vm, KVM_REINJECT_CONTROL, &control);
	}
	return NULL;
}

static void *set_nx(void *arg)
{
	while (!load(stop)) {
		write_file("/sys/module/kvm/parameters/nx_huge_pages", "force");
		write_file("/sys/module/kvm/parameters/nx_huge_pages", "off");
	}
	return NULL;
}

static long number_in(const char *path, const char *format)
{
	FILE *file = fopen(path, "r");
	char line[128];
	long number = 0;

	while (file && !number && fgets(line, sizeof(line), file))
		sscanf(line, format, &number);
	if (file)
		fclose(file);
	return number;
}

/*
 * Reduce free memory below the low watermark, which wakes up kswapd, but not
 * below the minimum watermark: the former is a quarter above the latter.
 */
static void *reclaim(void *arg)
{
	const char *path = "/proc/sys/vm/min_free_kbytes";
	long min_kb = number_in(path, "%ld");
	char value[32];

	while (!load(stop)) {
		snprintf(value, sizeof(value), "%ld", min_kb +
			 number_in("/proc/meminfo", "MemFree: %ld") * 85 / 100);
		write_file(path, value);
		usleep(100000);
		snprintf(value, sizeof(value), "%ld", min_kb);
		write_file(path, value);
		usleep(100000);
	}
	return NULL;
}

static void set_other(uint64_t size)
{
	int r = set_memory_region(vm_get_fd(vm), OTHER_SLOT, 0, OTHER, size,
				  (uintptr_t)other);

	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGION: %s", strerror(r));
}

/* All slots but one: vCPUs are held, if the kernel supports the ioctl. */
static void remove_other(void)
{
	struct kvm_userspace_memory_region regions[] = {
		*kvm_userspace_memory_region_find(vm, 0, 0),
		*kvm_userspace_memory_region_find(vm, USED, USED),
	};
	int r;

	if (kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS) <= 0) {
		set_other(0);
		return;
	}
	r = set_memory_regions(vm_get_fd(vm), 0, regions, ARRAY_SIZE(regions));
	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
}

static void work(int seconds, bool reclaims)
{
	void *(*others[])(void *) = {
		reinject, set_nx, reclaims ? reclaim : reinject,
	};
	pthread_t threads[ARRAY_SIZE(others)], vcpu;
	struct kvm_pit_config pit = {};
	time_t end = time(NULL) + seconds;
	unsigned long changes = 0;
	int i;

	vm = vm_create_default(VCPU_ID, NR_PAGES * STRIDE / getpagesize(),
			       guest_code);
	vcpu_set_cpuid(vm, VCPU_ID, kvm_get_supported_cpuid());
	vm_ioctl(vm, KVM_CREATE_PIT2, &pit);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, USED, USED_SLOT,
				    NR_PAGES * STRIDE / vm_get_page_size(vm), 0);
	for (i = 0; i < NR_PAGES; i++)
		virt_pg_map(vm, USED + i * STRIDE, USED + i * STRIDE, 0);
	other = map_memory(getpagesize(), MAP_PRIVATE);

	pthread_create(&vcpu, NULL, run_vcpu, NULL);
	for (i = 0; i < ARRAY_SIZE(others); i++)
		pthread_create(&threads[i], NULL, others[i], NULL);

	while (time(NULL) < end) {
		set_other(getpagesize());
		if (changes++ % 2)
			set_other(0);
		else
			remove_other();
	}

	store(stop, true);
	for (i = 0; i < ARRAY_SIZE(others); i++)
		pthread_join(threads[i], NULL);
	ksft_print_msg("%lu changes\n", changes);
	exit(0);
}

int main(int argc, char *argv[])
{
	int opt, status, tries, seconds = 5;
	bool reclaims = false;
	pid_t pid;

	while ((opt = getopt(argc, argv, "hrt:")) != -1) {
		if (opt == 'r') {
			reclaims = true;
			continue;
		}
		if (opt == 't') {
			seconds = parse_number(optarg, 1, 1000000);
			continue;
		}
		printf("usage: %s [-h] [-r] [-t SECONDS]\n\n"
		       "Change memslots while others take locks.\n"
		       " -r: have memory reclaimed, by vm.min_free_kbytes\n"
		       " -t: how long (default %d)\n", argv[0], seconds);
		exit(opt == 'h' ? 0 : 2);
	}

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	ksft_set_plan(1);

	/* Threads that deadlock may not be killable: do not wait for them. */
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork: %s", strerror(errno));
	if (!pid)
		work(seconds, reclaims);
	for (tries = (seconds + 60) * 10; tries; tries--) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		usleep(100000);
	}
	if (!tries)
		kill(pid, SIGKILL);
	ksft_test_result(tries && WIFEXITED(status) && !WEXITSTATUS(status),
			 "nobody waits for ever\n");
	ksft_exit(!ksft_get_fail_cnt());
}
