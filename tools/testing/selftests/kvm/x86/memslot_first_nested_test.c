// SPDX-License-Identifier: GPL-2.0-only
/*
 * Start the first nested guest while a memslot is being replaced.
 *
 * With TDP, KVM allocates rmaps and write tracking when the first nested guest
 * starts, for the memslots that are installed then.  A memslot that was replaced
 * before, but is still in use, has none: by a vCPU in a page fault (userfaultfd),
 * or as a guest_memfd is still bound to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"
#include "memory_regions_compat.h"
#include "memory_regions_util.h"

#define FAULTING	0x30000000UL	/* nothing behind it */
#define FAULTING_SLOT	1
#define GMEM		0x40000000UL
#define GMEM_SLOT	3
#define PAGES		16
#define SIZE		(PAGES * PAGE_SIZE)

static struct kvm_vm *vm;
static char *memory, *faulting;
static int gmem, result;

static void faulter_code(void)
{
	store(*(u64 *)(FAULTING + PAGE_SIZE), 1);
	GUEST_DONE();
}

static void l2_code(void)
{
	vmcall();
}

static void l1_code(void *data)
{
	if (this_cpu_has(X86_FEATURE_VMX)) {
		GUEST_ASSERT(prepare_for_vmx_operation(data));
		GUEST_ASSERT(load_vmcs(data));
		prepare_vmcs(data, l2_code);
		GUEST_ASSERT(!vmlaunch());
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	} else {
		struct svm_test_data *svm = data;

		generic_svm_setup(svm, l2_code);
		run_guest(svm->vmcb, svm->vmcb_gpa);
		GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	}
	GUEST_DONE();
}

static void run(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("exit %u (%s)", vcpu->run->exit_reason,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static void *faulter_thread(void *vcpu)
{
	run(vcpu);
	return NULL;
}

/* What replaces a memslot, and waits for the vCPU in the page fault. */

static int log_slot(void)
{
	return set_memory_region(vm->fd, FAULTING_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
				 FAULTING, SIZE, (uintptr_t)faulting);
}

static int split_slot(void)
{
	struct kvm_userspace_memory_region regions[3] = {
		slot_region(vm, 0),
		slot_region(vm, FAULTING_SLOT),
		slot_region(vm, FAULTING_SLOT),
	};

	regions[1].memory_size = SIZE / 2;
	regions[2].slot++;
	regions[2].guest_phys_addr += SIZE / 2;
	regions[2].memory_size = SIZE / 2;
	regions[2].userspace_addr += SIZE / 2;
	return set_memory_regions(vm->fd, 0, regions, 3);
}

static int delete_gmem_slot(void)
{
	return __vm_set_user_memory_region2(vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD,
					    GMEM, 0, memory, gmem, 0) ?
	       errno : 0;
}

static void *change_thread(void *change)
{
	int (*function)(void) = change;

	store(result, function());
	return NULL;
}

static void test(int (*change)(void), bool with_gmem, const char *what)
{
	struct kvm_vcpu *faulter, *nested;
	pthread_t faults, changes;
	gva_t nested_gva;
	bool waits;
	int uffd;

	vm = __vm_create_with_one_vcpu(&faulter, 256, faulter_code);
	vm_enable_tdp(vm);
	nested = vm_vcpu_add(vm, 1, l1_code);
	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(vm, &nested_gva);
	else
		vcpu_alloc_svm(vm, &nested_gva);
	vcpu_args_set(nested, 1, nested_gva);
	tdp_identity_map_default_memslots(vm);

	memory = map_memory(SIZE, MAP_PRIVATE);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, FAULTING,
				    FAULTING_SLOT, PAGES, 0);
	virt_map(vm, FAULTING, FAULTING, PAGES);
	faulting = addr_gpa2hva(vm, FAULTING);
	TEST_ASSERT(!madvise(faulting, SIZE, MADV_DONTNEED), "madvise: %s",
		    strerror(errno));
	uffd = uffd_open(faulting, SIZE);
	if (with_gmem) {
		gmem = vm_create_guest_memfd(vm, SIZE, GUEST_MEMFD_FLAG_MMAP |
					     GUEST_MEMFD_FLAG_INIT_SHARED);
		vm_set_user_memory_region2(vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD,
					   GMEM, SIZE, memory, gmem, 0);
	}

	store(result, -1);
	pthread_create(&faults, NULL, faulter_thread, faulter);
	uffd_wait(uffd);
	pthread_create(&changes, NULL, change_thread, change);
	usleep(200000);

	run(nested);
	waits = load(result) == -1;
	if (with_gmem)
		TEST_ASSERT(!fallocate(gmem, FALLOC_FL_PUNCH_HOLE |
				       FALLOC_FL_KEEP_SIZE, 3 * PAGE_SIZE,
				       PAGE_SIZE), "fallocate: %s",
			    strerror(errno));
	uffd_resolve(uffd, faulting + PAGE_SIZE, PAGE_SIZE);
	pthread_join(faults, NULL);
	pthread_join(changes, NULL);
	ksft_test_result(waits && !result && load(faulting[PAGE_SIZE]) == 1,
			 "%s%s\n", what, waits ? "" : ": it did not wait");

	kvm_vm_free(vm);
	munmap(memory, SIZE);
	close(uffd);
	if (with_gmem)
		close(gmem);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX) ||
		     kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has_tdp());

	ksft_print_header();
	ksft_set_plan(3);
	test(log_slot, false, "a memslot is logged from now on");
	if (kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS))
		test(split_slot, false, "a memslot is split");
	else
		ksft_test_result_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	if (kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) &
	    GUEST_MEMFD_FLAG_INIT_SHARED)
		test(delete_gmem_slot, true, "a memslot of a guest_memfd is deleted");
	else
		ksft_test_result_skip("no guest_memfd with shared memory\n");
	ksft_exit(!ksft_get_fail_cnt());
}
