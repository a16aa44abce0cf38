// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change memslots while a nested guest (VMX) uses a page of them that KVM pins:
 * its virtual-APIC page, which the CPU writes to by a host address.
 *
 * L2 writes to CR8, and thus to the virtual-APIC page, and reports to user space.
 * Meanwhile, the slot of the page is changed.  L2 does not exit to L1 unless
 * requested.  Whatever ioctl changes the slots:
 *
 *  - if the host memory stays, it gets the writes, and they are in the dirty log,
 *    including those before the change if the whole map was changed at once;
 *  - if the page gets other host memory, the next writes of L2 may go to the old
 *    memory, as KVM keeps it until L2 exits to L1, but nowhere else, and are in
 *    the log;
 *  - from the next entry to L2 on, they go to the new memory only.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "vmx.h"
#include "memory_regions_util.h"

#define VCPU		0
#define SLOT		10
#define OTHER_SLOT	11
#define PAGES		4
#define GPA		0xc0000000UL
#define VAPIC_PAGE	1		/* index of the virtual-APIC page */
#define VTPR		0x80		/* in the virtual-APIC page */

/* Requests to L2, in bits above those of CR8. */
#define EXIT_TO_L1	0x10

static unsigned char l2_stack[4096];
static uint64_t todo;

static void l2_code(void)
{
	for (;;) {
		uint64_t this = load(todo);

		if (this & EXIT_TO_L1)
			vmcall();
		asm volatile("mov %0, %%cr8" : : "r"(this & 0xf));
		GUEST_SYNC(this);
	}
}

static void l1_code(struct vmx_pages *vmx)
{
	int r;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_code, l2_stack + sizeof(l2_stack) - 8);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, GPA + VAPIC_PAGE * 4096);

	r = vmlaunch();
	for (;;) {
		uint64_t reason = vmreadz(VM_EXIT_REASON);

		GUEST_ASSERT_2(!r && reason == EXIT_REASON_VMCALL, r, reason);
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) +
				   vmreadz(VM_EXIT_INSTRUCTION_LEN));
		r = vmresume();
	}
}

static struct kvm_vm *vm;
static unsigned char *memory[2];
static uint64_t *todo_hva;
static bool whole_map;

/* Let L2 write @cr8. */
static void l2(uint64_t cr8)
{
	struct kvm_run *run = vcpu_state(vm, VCPU);
	struct ucall uc;

	store(*todo_hva, cr8);
	vcpu_run(vm, VCPU);
	switch (get_ucall(vm, VCPU, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT(uc.args[1] == cr8, "L2 did %#lx, not %#lx",
			    uc.args[1], cr8);
		return;
	case UCALL_ABORT:
		TEST_FAIL("%s at %s:%lu: %#lx, %#lx", (char *)uc.args[0],
			  __FILE__, uc.args[1], uc.args[2], uc.args[3]);
	default:
		TEST_FAIL("exit %u (%s)", run->exit_reason,
			  exit_reason_str(run->exit_reason));
	}
}

/* Put pages [@first, PAGES) of @from into @slot, the others into another one. */
static void set(uint32_t slot, int first, int from)
{
	struct kvm_userspace_memory_region regions[] = {
		*kvm_userspace_memory_region_find(vm, 0, 0),
		{
			.slot = slot,
			.flags = KVM_MEM_LOG_DIRTY_PAGES,
			.guest_phys_addr = GPA + first * 4096,
			.memory_size = (PAGES - first) * 4096,
			.userspace_addr = (uintptr_t)memory[from] + first * 4096,
		}, {
			.slot = SLOT + OTHER_SLOT - slot,
			.guest_phys_addr = GPA,
			.memory_size = first * 4096,
			.userspace_addr = (uintptr_t)memory[from],
		},
	};
	int i, r, nr = first ? 3 : 2;

	if (whole_map) {
		r = set_memory_regions(vm_get_fd(vm), 0, regions, nr);
		TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGIONS: %s", strerror(r));
		return;
	}

	/* there, or not */
	for (i = SLOT; i <= OTHER_SLOT; i++)
		set_memory_region(vm_get_fd(vm), i, 0, 0, 0, 0);
	for (i = 1; i < nr; i++) {
		r = __set_memory_region(vm_get_fd(vm), &regions[i]);
		TEST_ASSERT(!r, "KVM_SET_USER_MEMORY_REGION, slot %u: %s",
			    regions[i].slot, strerror(r));
	}
}

static bool dirty(uint32_t slot, int first)
{
	uint64_t bitmap = 0;
	int r = get_dirty_log(vm_get_fd(vm), slot, &bitmap);

	TEST_ASSERT(!r, "KVM_GET_DIRTY_LOG: %s", strerror(r));
	return bitmap >> (VAPIC_PAGE - first) & 1;
}

static int vtpr(int which)
{
	return memory[which][VAPIC_PAGE * 4096 + VTPR] >> 4;
}

static void test(const char *way)
{
	vm_vaddr_t gva;
	int i, kept;

	vm = vm_create_default(VCPU, 0, l1_code);
	vcpu_set_cpuid(vm, VCPU, kvm_get_supported_cpuid());
	vcpu_alloc_vmx(vm, &gva);
	vcpu_args_set(vm, VCPU, 1, gva);
	todo_hva = addr_gva2hva(vm, (uintptr_t)&todo);
	for (i = 0; i < 2; i++)
		memory[i] = map_memory(PAGES * 4096, MAP_SHARED);

	set(SLOT, 0, 0);
	l2(1);
	ksft_test_result(vtpr(0) == 1 && dirty(SLOT, 0),
			 "%s: L2 writes to the page, and that is logged\n", way);
	l2(2);
	ksft_test_result(vtpr(0) == 2 && dirty(SLOT, 0),
			 "%s: again, without an exit to L1\n", way);

	l2(3);
	set(OTHER_SLOT, 1, 0);
	if (whole_map)
		ksft_test_result(dirty(OTHER_SLOT, 1),
				 "%s: slot split, writes before that are logged\n",
				 way);
	else
		ksft_test_result_skip("%s: a slot that is deleted loses its log\n",
				      way);
	l2(4);
	ksft_test_result(vtpr(0) == 4 && dirty(OTHER_SLOT, 1),
			 "%s: slot split, writes go on, and are logged\n", way);

	set(SLOT, 0, 1);
	dirty(SLOT, 0);
	l2(5);
	kept = vtpr(0) == 5;
	ksft_test_result(vtpr(0) + vtpr(1) == (kept ? 5 : 4 + 5) &&
			 dirty(SLOT, 0),
			 "%s: other host memory, a write is in one of the two, and logged\n",
			 way);
	ksft_print_msg("in the %s one\n", kept ? "former" : "new");

	i = vtpr(0);
	l2(6 | EXIT_TO_L1);
	ksft_test_result(vtpr(0) == i && vtpr(1) == 6 && dirty(SLOT, 0),
			 "%s: in the new one after an exit to L1, and logged\n",
			 way);

	kvm_vm_free(vm);
	for (i = 0; i < 2; i++)
		munmap(memory[i], PAGES * 4096);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	nested_vmx_check_supported();

	ksft_print_header();
	ksft_set_plan(12);
	test("slot by slot");
	whole_map = true;
	if (kvm_check_cap(KVM_CAP_USER_MEMORY_REGIONS)) {
		test("whole map");
	} else {
		int i;

		for (i = 0; i < 6; i++)
			ksft_test_result_skip("no KVM_SET_USER_MEMORY_REGIONS\n");
	}
	ksft_exit(!ksft_get_fail_cnt());
}
