// SPDX-License-Identifier: GPL-2.0-only
/*
 * Delete memslots while a vCPU has been asked to drop its root.
 *
 * When a memslot is deleted, KVM asks the vCPUs to drop the roots of their page
 * tables.  A page fault may be in progress then.  Its mapping in the old root must
 * not outlive its memslot, even if a signal takes the vCPU to user space and the
 * vCPU drops the root only when it runs again.
 *
 * In each round, the guest writes to one absent huge page after another, and a
 * slot that it does not use is deleted.  At some random time after that, a signal
 * takes the vCPU to user space, where it waits.  Then the slot that it uses is
 * deleted, its memory is released, and both slots are created again.
 *
 * The guest has no paging: with shadow paging (kvm_amd.npt=0, kvm_intel.ept=0),
 * its huge pages are mapped in the root itself.  The test only checks that the
 * kernel survives; a failure is reported in the kernel log.
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
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "memory_regions_util.h"

#define VCPU_ID		0
#define HUGE_PAGE	0x200000UL
#define USED_SLOT	1
#define USED_ADDR	0x40000000UL
#define USED_SIZE	(32 * HUGE_PAGE)
#define OTHER_SLOT	2
#define OTHER_ADDR	0x80000000UL

/* Guest code at address 0: write to each huge page, forever. */
static const uint8_t guest_code[] = {
	0x89, 0xd9,				/* 1: movl %ebx, %ecx */
	0x89, 0x01,				/* 2: movl %eax, (%ecx) */
	0x81, 0xc1, 0x00, 0x00, 0x20, 0x00,	/* addl $0x200000, %ecx */
	0x39, 0xd1,				/* cmpl %edx, %ecx */
	0x72, 0xf4,				/* jb 2b */
	0xeb, 0xf0,				/* jmp 1b */
};

static struct kvm_vm *vm;
static bool stop, hold, held;

static void set_region(uint32_t slot, uint64_t addr, uint64_t size, void *mem)
{
	int r = set_memory_region(vm_get_fd(vm), slot, 0, addr, size,
				  (uintptr_t)mem);

	TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGION of slot %u: %s", slot,
		    strerror(r));
}

/* Protected mode without paging, flat segments of 4 GiB. */
static void set_up_vcpu(void)
{
	struct kvm_segment segment = {
		.limit = 0xffffffff, .present = 1, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_regs regs = {
		.rflags = 2,
		.rbx = USED_ADDR,
		.rdx = USED_ADDR + USED_SIZE,
	};
	struct kvm_sregs sregs;

	vm_vcpu_add(vm, VCPU_ID);
	vcpu_sregs_get(vm, VCPU_ID, &sregs);
	sregs.cr0 |= X86_CR0_PE;
	segment.selector = 8;
	segment.type = 11;
	sregs.cs = segment;
	segment.selector = 16;
	segment.type = 3;
	sregs.ds = segment;
	sregs.es = segment;
	sregs.ss = segment;
	vcpu_sregs_set(vm, VCPU_ID, &sregs);
	vcpu_regs_set(vm, VCPU_ID, &regs);
}

static void on_alarm(int sig)
{
}

/* Alarms are delivered here: the main thread blocks them. */
static void *run_vcpu(void *alarms)
{
	int r;

	pthread_sigmask(SIG_UNBLOCK, alarms, NULL);
	while (!load(stop)) {
		r = _vcpu_ioctl(vm, VCPU_ID, KVM_RUN, NULL);
		TEST_ASSERT(r == -1 && errno == EINTR,
			    "KVM_RUN returned %d (%s), exit reason %u", r,
			    strerror(errno), vcpu_state(vm, VCPU_ID)->exit_reason);
		while (load(hold)) {
			store(held, true);
			usleep(50);
		}
		store(held, false);
	}
	return NULL;
}

/*
 * Send the first alarm after that time, none if it is 0; then so many that one
 * hits the vCPU while it runs.
 */
static void set_alarms(long first_us)
{
	struct itimerval value = {
		.it_value.tv_usec = first_us,
		.it_interval.tv_usec = 200,
	};

	setitimer(ITIMER_REAL, &value, NULL);
}

static void one_round(void *used, void *other)
{
	usleep(random() % 3000);
	store(hold, true);
	set_alarms(1 + random() % 4000);
	set_region(OTHER_SLOT, 0, 0, NULL);
	while (!load(held))
		usleep(50);
	set_alarms(0);

	set_region(USED_SLOT, 0, 0, NULL);
	madvise(used, USED_SIZE, MADV_DONTNEED);
	set_region(USED_SLOT, USED_ADDR, USED_SIZE, used);
	set_region(OTHER_SLOT, OTHER_ADDR, HUGE_PAGE, other);
	store(hold, false);
	while (load(held))
		usleep(50);
}

int main(int argc, char *argv[])
{
	struct sigaction action = { .sa_handler = on_alarm };
	void *code, *other, *used;
	unsigned long rounds = 0;
	int opt, seconds = 5;
	sigset_t alarms;
	pthread_t vcpu;
	time_t end;

	while ((opt = getopt(argc, argv, "ht:")) != -1) {
		if (opt == 't') {
			seconds = parse_number(optarg, 1, 1000000);
			continue;
		}
		printf("usage: %s [-h] [-t SECONDS]\n\n"
		       "Delete memslots while the vCPU has to drop its root.\n"
		       " -t: how long (default %d)\n", argv[0], seconds);
		exit(opt == 'h' ? 0 : 2);
	}

	setbuf(stdout, NULL);
	ksft_print_header();
	ksft_set_plan(1);

	code = map_memory(getpagesize(), MAP_PRIVATE);
	memcpy(code, guest_code, sizeof(guest_code));
	other = map_memory(HUGE_PAGE, MAP_PRIVATE);
	used = map_memory(USED_SIZE + HUGE_PAGE, MAP_PRIVATE);
	used = (void *)(((uintptr_t)used + HUGE_PAGE - 1) & -HUGE_PAGE);
	if (madvise(used, USED_SIZE, MADV_HUGEPAGE))
		ksft_exit_skip("no transparent huge pages: %s\n", strerror(errno));

	vm = vm_create(VM_MODE_DEFAULT, 0, O_RDWR);
	set_region(0, 0, getpagesize(), code);
	set_region(USED_SLOT, USED_ADDR, USED_SIZE, used);
	set_region(OTHER_SLOT, OTHER_ADDR, HUGE_PAGE, other);
	set_up_vcpu();

	sigaction(SIGALRM, &action, NULL);
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarms, NULL);
	pthread_create(&vcpu, NULL, run_vcpu, &alarms);
	for (end = time(NULL) + seconds; time(NULL) < end; rounds++)
		one_round(used, other);
	store(stop, true);
	set_alarms(1);
	pthread_join(vcpu, NULL);
	kvm_vm_free(vm);

	ksft_print_msg("%lu rounds\n", rounds);
	ksft_test_result_pass("the kernel is there\n");
	ksft_exit_pass();
}
