/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H
#define SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H

/*
 * The memory_regions tests are shared with older kernels, whose library names a
 * vCPU by its VM and id.
 */
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"
#ifdef __x86_64__
#include "vmx.h"
#endif

typedef gva_t vm_vaddr_t;
typedef gpa_t vm_paddr_t;

static inline struct kvm_vcpu *vcpu_of(struct kvm_vm *vm, u32 id)
{
	struct kvm_vcpu *vcpu;

	list_for_each_entry(vcpu, &vm->vcpus, list) {
		if (vcpu->id == id)
			return vcpu;
	}
	TEST_FAIL("no vCPU %u", id);
	return NULL;
}

static inline struct kvm_vm *vm_create_default(u32 id, u64 pages, void *code)
{
	struct kvm_vcpu *vcpu;

	return __vm_create_with_one_vcpu(&vcpu, pages, code);
}

/* The fields that older kernels have come first. */
static inline struct kvm_userspace_memory_region *
kvm_userspace_memory_region_find(struct kvm_vm *vm, u64 start, u64 end)
{
	struct userspace_mem_region *region;
	int bkt;

	hash_for_each(vm->regions.slot_hash, bkt, region, slot_node) {
		u64 gpa = region->region.guest_phys_addr;

		if (start <= gpa + region->region.memory_size - 1 && end >= gpa)
			return (void *)&region->region;
	}
	return NULL;
}

/* The library loads the program, and creates an irqchip, in any VM. */
#define DEFAULT_GUEST_PHY_PAGES		0
#define vm_create(mode, pages, perm)	__vm_create(VM_SHAPE_DEFAULT, 8, 0)
#define kvm_vm_elf_load(vm, name, data, pgd) do { } while (0)

#define vm_get_fd(vm)			((vm)->fd)
#define vcpu_state(vm, id)		(vcpu_of(vm, id)->run)
#define vm_vcpu_add_default(vm, id, code) vm_vcpu_add(vm, id, code)
#define vcpu_set_cpuid(vm, id, cpuid)	do { } while (0)
#define vcpu_run(vm, id)		(vcpu_run)(vcpu_of(vm, id))
#define _vcpu_run(vm, id)		(_vcpu_run)(vcpu_of(vm, id))
#define get_ucall(vm, id, uc)		(get_ucall)(vcpu_of(vm, id), uc)
#define ucall_init(vm, arg)		do { } while (0)
#define vcpu_args_set(vm, id, num, ...)	\
	(vcpu_args_set)(vcpu_of(vm, id), num, ##__VA_ARGS__)
#define vcpu_regs_get(vm, id, regs)	(vcpu_regs_get)(vcpu_of(vm, id), regs)
#define vcpu_sregs_get(vm, id, sregs)	(vcpu_sregs_get)(vcpu_of(vm, id), sregs)
#define _vcpu_ioctl(vm, id, cmd, arg)	__vcpu_ioctl(vcpu_of(vm, id), cmd, arg)
#define virt_map(vm, gva, gpa, npages, slot) (virt_map)(vm, gva, gpa, npages)
#define vm_enable_cap(vm, cap)		vm_ioctl(vm, KVM_ENABLE_CAP, cap)

/* Numbers, not a message, for the test to print. */
#define GUEST_ASSERT_ARGS(cond, nr, ...)					\
do {										\
	if (!(cond))								\
		ucall(UCALL_ABORT, 2 + (nr), (u64)#cond, (u64)__LINE__,		\
		      ##__VA_ARGS__);						\
} while (0)
#define GUEST_ASSERT_2(cond, a, b)	\
	GUEST_ASSERT_ARGS(cond, 2, (u64)(a), (u64)(b))
#define GUEST_ASSERT_3(cond, a, b, c)	\
	GUEST_ASSERT_ARGS(cond, 3, (u64)(a), (u64)(b), (u64)(c))

#ifdef __x86_64__
/* All vCPUs share one set of page tables of L1 for L2. */
#define is_intel_cpu()			host_cpu_is_intel
#define nested_vmx_supported()		kvm_cpu_has(X86_FEATURE_VMX)
#define prepare_eptp(vmx, vm, slot)	do { (void)(vmx); } while (0)
#define nested_map_memslot(vmx, vm, slot, eptp) do { } while (0)
#define nested_map(vmx, vm, l2, l1, size, eptp)	do { } while (0)
#define prepare_vmcs(vmx, rip, rsp)						\
do {										\
	(prepare_vmcs)(vmx, rip);						\
	vmwrite(GUEST_RSP, (u64)(rsp));						\
} while (0)
#endif

#endif /* SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H */
