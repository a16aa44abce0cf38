// SPDX-License-Identifier: GPL-2.0-only
/*
 * Force a vCPU out of its nested guest by setting it to SMM, with
 * KVM_SET_VCPU_EVENTS and with the events in the registers of KVM_RUN.
 *
 * KVM then unmaps memory of L1 that it has mapped for L2, here the virtual-APIC
 * page, which requires kvm->srcu.  A kernel with PROVE_RCU reports in its log if
 * that is not held; there is nothing else to check.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#define VCPU_ID		0
#define L2_STACK_SIZE	64

enum { IN_L1 = 1, IN_L2 };

static void l2_code(void)
{
	GUEST_SYNC(IN_L2);
}

static void l1_vmx_code(struct vmx_pages *vmx, uint64_t virtual_apic)
{
	unsigned long stack[L2_STACK_SIZE];

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_code, &stack[L2_STACK_SIZE]);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, virtual_apic);
	vmwrite(TPR_THRESHOLD, 0);
	GUEST_ASSERT(!vmlaunch());
}

static void l1_svm_code(struct svm_test_data *svm)
{
	unsigned long stack[L2_STACK_SIZE];

	generic_svm_setup(svm, l2_code, &stack[L2_STACK_SIZE]);
	run_guest(svm->vmcb, svm->vmcb_gpa);
}

static void __attribute__((__flatten__))
l1_code(void *nested, uint64_t virtual_apic)
{
	GUEST_SYNC(IN_L1);
	if (cpu_has_svm())
		l1_svm_code(nested);
	else
		l1_vmx_code(nested, virtual_apic);
	GUEST_ASSERT(0);
}

static void run_to(struct kvm_vm *vm, uint64_t where)
{
	struct ucall uc;

	vcpu_run(vm, VCPU_ID);
	switch (get_ucall(vm, VCPU_ID, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT(uc.args[1] == where, "at %lu, not %lu",
			    (unsigned long)uc.args[1], (unsigned long)where);
		break;
	case UCALL_ABORT:
		TEST_FAIL("%s at %s:%lu", (const char *)uc.args[0], __FILE__,
			  (unsigned long)uc.args[1]);
	default:
		TEST_FAIL("exit %u (%s)", vcpu_state(vm, VCPU_ID)->exit_reason,
			  exit_reason_str(vcpu_state(vm, VCPU_ID)->exit_reason));
	}
}

static void leave(bool with_run)
{
	struct kvm_vcpu_events events;
	vm_vaddr_t nested, page;
	struct kvm_run *run;
	struct kvm_vm *vm;
	int r;

	vm = vm_create_default(VCPU_ID, 0, l1_code);
	vcpu_set_cpuid(vm, VCPU_ID, kvm_get_supported_cpuid());
	if (nested_svm_supported())
		vcpu_alloc_svm(vm, &nested);
	else
		vcpu_alloc_vmx(vm, &nested);
	page = vm_vaddr_alloc(vm, getpagesize(), 0x10000, 0, 0);
	vcpu_args_set(vm, VCPU_ID, 2, nested, addr_gva2gpa(vm, page));

	run_to(vm, IN_L1);
	run_to(vm, IN_L2);

	vcpu_events_get(vm, VCPU_ID, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	if (with_run) {
		run = vcpu_state(vm, VCPU_ID);
		run->s.regs.events = events;
		run->kvm_dirty_regs = KVM_SYNC_X86_EVENTS;
		run->immediate_exit = 1;
		r = _vcpu_ioctl(vm, VCPU_ID, KVM_RUN, NULL);
		TEST_ASSERT(r && errno == EINTR, "KVM_RUN returns %d (%s)", r,
			    strerror(errno));
	} else {
		vcpu_events_set(vm, VCPU_ID, &events);
	}

	vcpu_events_get(vm, VCPU_ID, &events);
	ksft_test_result(events.smi.smm, "left by %s\n",
			 with_run ? "KVM_RUN" : "KVM_SET_VCPU_EVENTS");
	kvm_vm_free(vm);
}

int main(void)
{
	setbuf(stdout, NULL);
	ksft_print_header();
	if (!nested_svm_supported() && !nested_vmx_supported())
		ksft_exit_skip("no nested guests\n");
	if (!(kvm_check_cap(KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_EVENTS))
		ksft_exit_skip("no events in KVM_RUN's registers\n");
	ksft_set_plan(2);

	leave(false);
	leave(true);
	ksft_exit(!ksft_get_fail_cnt());
}
