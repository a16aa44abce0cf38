/* SPDX-License-Identifier: GPL-2.0-only */
/* What the memory_regions tests need beyond the library. */
#ifndef SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H
#define SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"
#ifdef __x86_64__
#include "vmx.h"
#endif

/* The fields of the older struct come first. */
static inline struct kvm_userspace_memory_region slot_region(struct kvm_vm *vm,
							     u32 slot)
{
	struct kvm_userspace_memory_region region;

	memcpy(&region, &memslot2region(vm, slot)->region, sizeof(region));
	return region;
}

static inline struct kvm_vm *vm_create_without_irqchip(void)
{
	struct kvm_vm *vm = vm_create_barebones();

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, 0, 0, 1024, 0);
	kvm_vm_elf_load(vm, program_invocation_name);
	return vm;
}

#ifdef __aarch64__
/*
 * The library initializes the vGIC as soon as the first vCPU is there, after which
 * there can be no more.  The tests need none.
 */
static void __attribute__((constructor)) no_vgic(void)
{
	test_disable_default_vgic();
}
#endif

#ifdef __x86_64__
#define nested_vmx_supported()	kvm_cpu_has(X86_FEATURE_VMX)

struct nested_range {
	u64 gpa, size;
};

/* Pages for VMX, with an identity map in EPT of slot 0 and @ranges. */
static inline gva_t vcpu_alloc_nested(struct kvm_vm *vm,
				      const struct nested_range *ranges, int nr)
{
	gva_t gva;

	/* All vCPUs share the map. */
	if (kvm_cpu_has_ept() && !vm->stage2_mmu.pgd_created) {
		vm_enable_ept(vm);
		tdp_identity_map_default_memslots(vm);
		for (; nr--; ranges++)
			tdp_map(vm, ranges->gpa, ranges->gpa, ranges->size);
	}
	vcpu_alloc_vmx(vm, &gva);
	return gva;
}
#endif

#endif /* SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H */
