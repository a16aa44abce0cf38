// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test how KVM_SET_USER_MEMORY_REGIONS holds vCPUs when it deletes a slot.
 *
 * One vCPU is kept in a page fault (userfaultfd), which the ioctl waits for.
 * Meanwhile, other vCPUs must be held, exit on a signal, and not start if they
 * are new; halted vCPUs must not be waited for; and a caller that is killed must
 * leave everything unchanged.  A VMM that stops all other vCPUs before it serves
 * the fault must not wait for the ioctl, and the registers that it has passed to
 * a vCPU that was held must not be lost.  A vCPU that another thread runs before
 * KVM_CREATE_VCPU returns must be held, too.
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define CONTROL		0x20000000UL
#define CONTROL_SLOT	1
#define FAULTING	0x30000000UL	/* nothing behind it */
#define FAULTING_SLOT	2
#define REMOVED		0x40000000UL	/* in the map, or not */
#define REMOVED_SLOT	3
#define NR_PAGES	16
#define IO_VALUE	0x5aa5	/* of an access to REMOVED without a slot */

enum { FAULTER, RUNNER, NEW, LATE, HALTED, NR_VCPUS };

struct control {
	u64 fault_page;		/* for FAULTER to read, or 0 */
	u64 io_value;		/* last value read by RUNNER */
	u64 count[NR_VCPUS];
};

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpus[NR_VCPUS];
static struct control *control;
static size_t page_size;
static void *faulting;
static int uffd;
static bool stop;
static bool pause_io, paused;		/* RUNNER, after its next MMIO exit */
static pthread_t threads[NR_VCPUS];
static u64 eintr[NR_VCPUS], mmio[NR_VCPUS];
static bool in_run[NR_VCPUS];		/* or about to be, or just back */

/* ------------------------------------------------------------- the guest */

static void guest_code(u64 v, u64 page_size)
{
	struct control *c = (void *)CONTROL;
	u64 page;

	for (;;) {
		store(c->count[v], c->count[v] + 1);
		switch (v) {
		case FAULTER:
			page = load(c->fault_page);
			if (page) {
				load(*(u64 *)(FAULTING + page * page_size));
				store(c->fault_page, 0);
			}
			break;
		case RUNNER:
			store(c->io_value, load(*(u64 *)REMOVED));
			break;
		case HALTED:
#ifdef __x86_64__
			asm volatile("hlt");
#else
			asm volatile("wfi");
#endif
			break;
		}
	}
}

/* -------------------------------------------------------------- the host */

static void *vcpu_thread(void *arg)
{
	u32 v = (uintptr_t)arg;
	struct kvm_run *run;
	int r;

	if (v == LATE) {
		vcpus[v] = vm_vcpu_add(vm, v, guest_code);
		vcpu_args_set(vcpus[v], 2, (u64)v, (u64)page_size);
	}
	run = vcpus[v]->run;
	while (!load(stop)) {
		store(in_run[v], true);
		r = __vcpu_run(vcpus[v]);
		store(in_run[v], false);
		if (r) {
			TEST_ASSERT(errno == EINTR, "KVM_RUN: %s",
				    strerror(errno));
			store(eintr[v], eintr[v] + 1);
		} else if (run->exit_reason == KVM_EXIT_MMIO &&
			   run->mmio.phys_addr == REMOVED) {
			store(mmio[v], mmio[v] + 1);
			*(u64 *)run->mmio.data = IO_VALUE;
			/* Between two reads, pause_io may change. */
			while (load(pause_io)) {
				store(paused, true);
				usleep(1000);
			}
			store(paused, false);
		} else {
			TEST_FAIL("vCPU %u: exit %u (%s)", v, run->exit_reason,
				  exit_reason_str(run->exit_reason));
		}
	}
	return NULL;
}

static void start(u32 v)
{
	pthread_create(&threads[v], NULL, vcpu_thread, (void *)(uintptr_t)v);
}

/* Set the map with or without REMOVED. */
static int set_all(bool with)
{
	struct kvm_userspace_memory_region regions[4] = {
		slot_region(vm, 0),
		slot_region(vm, CONTROL_SLOT),
		{
			.slot = FAULTING_SLOT,
			.guest_phys_addr = FAULTING,
			.memory_size = NR_PAGES * page_size,
			.userspace_addr = (uintptr_t)faulting,
		}, {
			.slot = REMOVED_SLOT,
			.guest_phys_addr = REMOVED,
			.memory_size = page_size,
			.userspace_addr = regions[1].userspace_addr,
		},
	};

	return set_memory_regions(vm->fd, 0, regions, with ? 4 : 3);
}

static int remove_result;

static void *remove_thread(void *arg)
{
	store(remove_result, set_all(false));
	return NULL;
}

static pthread_t start_remove(void)
{
	pthread_t thread;

	store(remove_result, -1);
	pthread_create(&thread, NULL, remove_thread, NULL);
	return thread;
}

/* Fork a process that shares the memory, so that it can be killed. */
static int remove_process(void *arg)
{
	set_all(false);
	return 0;
}

/* Say what each vCPU is at when something does not happen. */
static void explain(int where, const char *what)
{
	int v;

	ksft_print_msg("line %d: not yet: %s\n", where, what);
	ksft_print_msg("pause_io %d paused %d stop %d remove_result %d\n",
		       load(pause_io), load(paused), load(stop),
		       load(remove_result));
	for (v = 0; v < NR_VCPUS; v++) {
		if (!threads[v] || !load(vcpus[v]))
			continue;
		ksft_print_msg("vCPU %d: KVM_RUN %d exit %u count %llu mmio %llu eintr %llu\n",
			       v, load(in_run[v]),
			       vcpus[v]->run->exit_reason,
			       (unsigned long long)load(control->count[v]),
			       (unsigned long long)load(mmio[v]),
			       (unsigned long long)load(eintr[v]));
	}
}

/* Wait for up to 30 seconds, and look once more after that. */
#define eventually(cond) ({						\
	u64 end_ = now_ns() + 30000000000ULL;				\
	bool late_ = false, is_;					\
									\
	while (!(is_ = (cond)) && !late_) {				\
		usleep(1000);						\
		late_ = now_ns() > end_;				\
	}								\
	if (!is_)							\
		explain(__LINE__, #cond);				\
	is_;								\
})

/* Check that the vCPU does not run for a tenth of a second. */
static bool is_held(u32 v)
{
	u64 before = load(control->count[v]);

	usleep(100000);
	return load(control->count[v]) == before;
}

static bool runs(u32 v)
{
	u64 before = load(control->count[v]);

	return eventually(load(control->count[v]) > before);
}

static void take_fault(u64 page)
{
	TEST_ASSERT(eventually(!load(control->fault_page)),
		    "the last fault is not done");
	store(control->fault_page, page);
	uffd_wait(uffd);
}

static void resolve(u64 page)
{
	uffd_resolve(uffd, (char *)faulting + page * page_size, page_size);
}

static void ignore(int signal)
{
}

static void test_halted(void)
{
	bool halted = eventually(load(control->count[HALTED])) &&
		      is_held(HALTED);
	int r;

	r = set_all(false);
	ksft_test_result(halted && !r && !load(eintr[HALTED]),
			 "a halted vCPU is not waited for\n");
	ksft_test_result(eventually(load(mmio[RUNNER])),
			 "the slot is gone\n");
	r = set_all(true);
	ksft_test_result(!r && runs(RUNNER), "the slot is back\n");
}

static void test_held(void)
{
	u64 before;
	pthread_t thread;

	take_fault(1);
	thread = start_remove();
	ksft_test_result(eventually(is_held(RUNNER)) &&
			 load(remove_result) == -1,
			 "a vCPU that runs is held while another one faults\n");

	before = load(eintr[RUNNER]);
	/* It is lost if the thread is not in KVM_RUN, although it should be. */
	ksft_test_result(eventually((pthread_kill(threads[RUNNER], SIGUSR1),
				     load(eintr[RUNNER]) > before)),
			 "a held vCPU leaves on a signal\n");
	ksft_test_result(is_held(RUNNER), "and is held again\n");

	start(NEW);
	ksft_test_result(is_held(NEW) && !load(control->count[NEW]),
			 "a vCPU that runs for the first time is held\n");
	start(LATE);
	ksft_test_result(is_held(LATE) && !load(control->count[LATE]),
			 "a vCPU that is created is held\n");

	ksft_test_result(load(remove_result) == -1, "the call waits\n");
	before = load(mmio[RUNNER]);
	resolve(1);
	ksft_test_result(eventually(load(remove_result) != -1) &&
			 !remove_result, "the call returns after the fault\n");
	pthread_join(thread, NULL);
	ksft_test_result(runs(FAULTER) && runs(RUNNER) && runs(NEW) &&
			 runs(LATE), "all vCPUs go on\n");
	ksft_test_result(eventually(load(mmio[RUNNER]) > before),
			 "without the slot\n");
}

static void test_killed(void)
{
	size_t stack_size = 65536;
	char *stack = malloc(stack_size);
	u64 before;
	int status;
	pid_t pid;

	TEST_ASSERT(stack && !set_all(true), "the slot cannot be made");
	/* An access from before may still be in progress. */
	TEST_ASSERT(runs(RUNNER) && runs(RUNNER), "a vCPU does not go on");
	before = load(mmio[RUNNER]);

	take_fault(2);
	pid = clone(remove_process, stack + stack_size,
		    CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
	TEST_ASSERT(pid > 0, "clone: %s", strerror(errno));
	ksft_test_result(eventually(is_held(RUNNER)),
			 "another process waits\n");
	kill(pid, SIGKILL);
	ksft_test_result(waitpid(pid, &status, 0) == pid &&
			 WIFSIGNALED(status), "it is killed\n");
	ksft_test_result(runs(RUNNER),
			 "vCPUs go on, but for the one that faults\n");
	ksft_test_result(is_held(FAULTER) && load(mmio[RUNNER]) == before,
			 "the slot is still there\n");
	resolve(2);
	ksft_test_result(runs(FAULTER), "the fault is done\n");
	ksft_test_result(!set_all(false) &&
			 eventually(load(mmio[RUNNER]) > before),
			 "and the next call takes the slot away\n");
	free(stack);
}

/* Make a vCPU exit with immediate_exit, and keep it set. */
static void stop_vcpu(u32 v)
{
	vcpus[v]->run->immediate_exit = 1;
	pthread_kill(threads[v], SIGUSR1);
}

static bool is_stopped(u32 v)
{
	u64 before = load(eintr[v]);

	/* The signal makes it exit once. */
	return eventually(load(eintr[v]) > before + 10);
}

static void test_stopped(void)
{
	pthread_t thread;

	/* RUNNER has an access to complete, for which it has to run. */
	store(pause_io, true);
	TEST_ASSERT(eventually(load(paused)), "there is no access to finish");
	TEST_ASSERT(!set_all(true), "the slot cannot be made");
	take_fault(3);
	thread = start_remove();
	TEST_ASSERT(eventually(is_held(NEW)), "no vCPU is held");

	stop_vcpu(RUNNER);
	store(pause_io, false);
	ksft_test_result(is_stopped(RUNNER),
			 "a vCPU with an access to finish stops\n");
	stop_vcpu(NEW);
	ksft_test_result(is_stopped(NEW), "a vCPU that is held stops\n");
	stop_vcpu(HALTED);
	ksft_test_result(is_stopped(HALTED), "a vCPU that is halted stops\n");
	ksft_test_result(is_held(RUNNER) && is_held(NEW) &&
			 load(remove_result) == -1, "the call waits\n");

	resolve(3);
	ksft_test_result(eventually(load(remove_result) != -1) &&
			 !remove_result, "and returns after the fault\n");
	pthread_join(thread, NULL);
	vcpus[RUNNER]->run->immediate_exit = 0;
	vcpus[NEW]->run->immediate_exit = 0;
	vcpus[HALTED]->run->immediate_exit = 0;
	ksft_test_result(runs(RUNNER) && runs(NEW), "the vCPUs go on\n");
	ksft_test_result(eventually(load(control->io_value) == IO_VALUE),
			 "the access is finished\n");
}

static void start_all(void)
{
	start(FAULTER);
	start(RUNNER);
	start(HALTED);
	TEST_ASSERT(runs(FAULTER) && runs(RUNNER), "the vCPUs do not run");
}

static void stop_all(void)
{
	int v;

	store(stop, true);
	for (v = 0; v < NR_VCPUS; v++) {
		if (!threads[v])
			continue;
		/* The signal may arrive before KVM_RUN. */
		stop_vcpu(v);
		pthread_join(threads[v], NULL);
		threads[v] = 0;
	}
	store(stop, false);
}

#ifdef __x86_64__
#define NR_X86_TESTS	9

static bool back;

static void *signal_thread(void *arg)
{
	while (!load(back)) {
		usleep(100000);
		pthread_kill(*(pthread_t *)arg, SIGUSR1);
	}
	return NULL;
}

/* Run a vCPU that is held until it gets a signal. */
static bool run_held(u32 v)
{
	pthread_t me = pthread_self(), thread;
	int r;

	store(back, false);
	pthread_create(&thread, NULL, signal_thread, &me);
	r = __vcpu_run(vcpus[v]) ? errno : 0;
	store(back, true);
	pthread_join(thread, NULL);
	return r == EINTR && !load(control->count[v]);
}

/* In a VM without an APIC, KVM_RUN also takes CR8. */
static void test_registers(void)
{
	struct kvm_run *run = vcpus[NEW]->run;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	pthread_t thread;

	take_fault(1);
	thread = start_remove();

	vcpu_regs_get(vcpus[NEW], &run->s.regs.regs);
	run->s.regs.regs.rax = 0x1234;
	run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	run->cr8 = 5;
	/* It takes a moment until vCPUs are held. */
	usleep(100000);
	ksft_test_result(run_held(NEW) && load(remove_result) == -1,
			 "a vCPU is held\n");
	ksft_test_result(run->s.regs.regs.rax == 0x1234,
			 "the registers that it was given are those it has\n");
	ksft_test_result(run->cr8 == 5, "and so is CR8\n");
	vcpu_regs_get(vcpus[NEW], &regs);
	vcpu_sregs_get(vcpus[NEW], &sregs);
	ksft_test_result(regs.rax == 0x1234 && sregs.cr8 == 5,
			 "as other ioctls see them, too\n");
	run->kvm_valid_regs = 0;

	resolve(1);
	ksft_test_result(eventually(load(remove_result) != -1) &&
			 !remove_result, "the call returns after the fault\n");
	pthread_join(thread, NULL);
}

static int guessed;
static bool guess_stop;

static void *create_thread(void *arg)
{
	int fd = ioctl(vm->fd, KVM_CREATE_VCPU, LATE);

	TEST_ASSERT(fd == guessed, "KVM_CREATE_VCPU: %d (%s), expected %d", fd,
		    fd < 0 ? strerror(errno) : "no error", guessed);
	return NULL;
}

/* Run LATE with the registers of NEW, as soon as it has a descriptor. */
static void *guess_thread(void *arg)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_sregs_get(vcpus[NEW], &sregs);
	vcpu_regs_get(vcpus[NEW], &regs);
	regs.rdi = LATE;
	while (ioctl(guessed, KVM_SET_CPUID2, kvm_get_supported_cpuid()))
		TEST_ASSERT(errno == EBADF, "KVM_SET_CPUID2: %s",
			    strerror(errno));
	TEST_ASSERT(!ioctl(guessed, KVM_SET_SREGS, &sregs) &&
		    !ioctl(guessed, KVM_SET_REGS, &regs),
		    "the registers cannot be set: %s", strerror(errno));
	while (!load(guess_stop))
		ioctl(guessed, KVM_RUN, NULL);
	return NULL;
}

/*
 * A vCPU can run as soon as its descriptor is installed, which is before
 * KVM_CREATE_VCPU returns, if another thread guesses the number.  Without a delay
 * in KVM_CREATE_VCPU, it is unlikely to do so before it is online.
 */
static void test_created(void)
{
	pthread_t creator, runner, thread;
	bool held = true;
	u64 page;

	guessed = dup(vm->fd);
	close(guessed);
	pthread_create(&runner, NULL, guess_thread, NULL);
	pthread_create(&creator, NULL, create_thread, NULL);
	TEST_ASSERT(eventually(load(control->count[LATE])),
		    "the new vCPU does not run");

	for (page = 3; page < 6 && held; page++) {
		take_fault(page);
		thread = start_remove();
		held = eventually(is_held(RUNNER)) && is_held(LATE);
		resolve(page);
		pthread_join(thread, NULL);
		TEST_ASSERT(!set_all(true), "the slot cannot be made");
	}
	ksft_test_result(held, "a vCPU that is being created is held\n");

	store(guess_stop, true);
	while (pthread_tryjoin_np(runner, NULL)) {
		pthread_kill(runner, SIGUSR1);
		usleep(1000);
	}
	pthread_join(creator, NULL);
	close(guessed);
}

static void *translate_thread(void *arg)
{
	struct kvm_translation translation = { .linear_address = CONTROL };

	ioctl(vcpus[NEW]->fd, KVM_TRANSLATE, &translation);
	return NULL;
}

/* An ioctl that reads guest memory is in a page fault, rather than a vCPU. */
static void test_ioctl_faults(void)
{
	pthread_t thread, translator;
	struct kvm_sregs sregs;

	store(pause_io, true);
	TEST_ASSERT(eventually(load(paused)),
		    "there is no access to finish while an ioctl faults");
	TEST_ASSERT(!set_all(true), "the slot cannot be made");
	vcpu_sregs_get(vcpus[NEW], &sregs);
	sregs.cr3 = FAULTING + 2 * page_size;
	vcpu_sregs_set(vcpus[NEW], &sregs);
	pthread_create(&translator, NULL, translate_thread, NULL);
	uffd_wait(uffd);
	thread = start_remove();
	TEST_ASSERT(eventually(is_held(FAULTER)), "no vCPU is held");

	stop_vcpu(RUNNER);
	store(pause_io, false);
	ksft_test_result(is_stopped(RUNNER),
			 "a vCPU with an access to finish stops while an ioctl faults\n");
	ksft_test_result(is_held(RUNNER) && load(remove_result) == -1,
			 "the call waits\n");
	resolve(2);
	ksft_test_result(eventually(load(remove_result) != -1) &&
			 !remove_result, "and returns after the fault\n");
	pthread_join(thread, NULL);
	pthread_join(translator, NULL);
	vcpus[RUNNER]->run->immediate_exit = 0;
}
#else
#define NR_X86_TESTS	0
#endif

static void set_up(bool irqchip)
{
	int v;

	page_size = getpagesize();
	faulting = map_memory(NR_PAGES * page_size, MAP_PRIVATE);
	uffd = uffd_open(faulting, NR_PAGES * page_size);
	if (irqchip) {
		vm = __vm_create_with_one_vcpu(&vcpus[FAULTER], 0, guest_code);
	} else {
		vm = vm_create_without_irqchip();
		vcpus[FAULTER] = vm_vcpu_add(vm, FAULTER, guest_code);
	}
	for (v = RUNNER; v < NR_VCPUS; v++) {
		if (v != LATE)
			vcpus[v] = vm_vcpu_add(vm, v, guest_code);
	}
	for (v = 0; v < NR_VCPUS; v++) {
		if (v != LATE)
			vcpu_args_set(vcpus[v], 2, (u64)v, (u64)page_size);
	}

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CONTROL,
				    CONTROL_SLOT, NR_PAGES, 0);
	virt_map(vm, CONTROL, CONTROL, NR_PAGES);
	virt_map(vm, FAULTING, FAULTING, NR_PAGES);
	virt_map(vm, REMOVED, REMOVED, 1);
	control = addr_gpa2hva(vm, CONTROL);

	TEST_ASSERT(!set_all(true), "KVM_SET_USER_MEMORY_REGIONS: %s",
		    strerror(errno));
}

int main(void)
{
	struct sigaction action = { .sa_handler = ignore };

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	if (!kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS))
		ksft_exit_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	ksft_set_plan(25 + NR_X86_TESTS);

	sigaction(SIGUSR1, &action, NULL);
	set_up(true);
	start_all();
	test_halted();
	test_held();
	test_killed();
	test_stopped();
	stop_all();
	kvm_vm_free(vm);

#ifdef __x86_64__
	set_up(false);
	start(FAULTER);
	start(RUNNER);
	TEST_ASSERT(runs(FAULTER) && runs(RUNNER),
		    "vCPUs without an APIC do not run");
	test_created();
	test_registers();
	test_ioctl_faults();
	stop_all();
	kvm_vm_free(vm);
#endif
	ksft_exit(!ksft_get_fail_cnt());
}
