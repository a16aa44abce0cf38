/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory_regions tests are those of newer kernels, whose library has a struct
 * for a vCPU.  Provide its interface.
 */
#ifndef SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H
#define SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H

#include <linux/kernel.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "../lib/kvm_util_internal.h"
#ifdef __x86_64__
#include "vmx.h"
#endif

struct kvm_vcpu {
	struct kvm_vm *vm;
	u32 id;
	int fd;
	struct kvm_run *run;
};

static inline struct kvm_vcpu *vcpu_of(struct kvm_vm *vm, u32 id)
{
	struct kvm_vcpu *vcpu = calloc(1, sizeof(*vcpu));

	TEST_ASSERT(vcpu, "no memory");
	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->fd = vcpu_find(vm, id)->fd;
	vcpu->run = vcpu_state(vm, id);
#ifdef __x86_64__
	vcpu_set_cpuid(vm, id, kvm_get_supported_cpuid());
#endif
	return vcpu;
}

static inline struct kvm_vcpu *vm_vcpu_add_code(struct kvm_vm *vm, u32 id,
						void *code)
{
	vm_vcpu_add_default(vm, id, code);
	return vcpu_of(vm, id);
}

static inline struct kvm_vm *
__vm_create_with_one_vcpu(struct kvm_vcpu **vcpu, u64 pages, void *code)
{
	struct kvm_vm *vm = vm_create_default(0, pages, code);

	ucall_init(vm, NULL);
	*vcpu = vcpu_of(vm, 0);
	return vm;
}

static inline struct kvm_vm *vm_create_without_irqchip(void)
{
	struct kvm_vm *vm = vm_create(VM_MODE_DEFAULT, DEFAULT_GUEST_PHY_PAGES,
				      O_RDWR);

	kvm_vm_elf_load(vm, program_invocation_name, 0, 0);
	return vm;
}

static inline struct kvm_userspace_memory_region slot_region(struct kvm_vm *vm,
							     u32 slot)
{
	return memslot2region(vm, slot)->region;
}

static inline int __vcpu_run(struct kvm_vcpu *vcpu)
{
	return ioctl(vcpu->fd, KVM_RUN, NULL);
}

static inline void vcpu_set_reg_value(struct kvm_vcpu *vcpu, u64 id, u64 value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	(vcpu_set_reg)(vcpu->vm, vcpu->id, &reg);
}

#define vm_vcpu_add			vm_vcpu_add_code
#define vcpu_set_reg			vcpu_set_reg_value
#define vcpu_run(vcpu)			((vcpu_run)((vcpu)->vm, (vcpu)->id))
#define vcpu_args_set(vcpu, nr, ...)	\
	((vcpu_args_set)((vcpu)->vm, (vcpu)->id, nr, ##__VA_ARGS__))
#define vcpu_regs_get(vcpu, regs)	\
	((vcpu_regs_get)((vcpu)->vm, (vcpu)->id, regs))
#define vcpu_sregs_get(vcpu, sregs)	\
	((vcpu_sregs_get)((vcpu)->vm, (vcpu)->id, sregs))
#define vcpu_sregs_set(vcpu, sregs)	\
	((vcpu_sregs_set)((vcpu)->vm, (vcpu)->id, sregs))
#define get_ucall(vcpu, uc)		((get_ucall)((vcpu)->vm, (vcpu)->id, uc))
#define virt_map(vm, gva, gpa, nr)	((virt_map)(vm, gva, gpa, nr, 0))

#ifdef __x86_64__
struct nested_range {
	u64 gpa, size;
};

/* Pages for VMX, with an identity map in EPT of slot 0 and @ranges. */
static inline vm_vaddr_t vcpu_alloc_nested(struct kvm_vm *vm,
					   const struct nested_range *ranges,
					   int nr)
{
	vm_vaddr_t gva;
	struct vmx_pages *vmx = vcpu_alloc_vmx(vm, &gva);

	prepare_eptp(vmx, vm, 0);
	nested_map_memslot(vmx, vm, 0, 0);
	for (; nr--; ranges++)
		nested_map(vmx, vm, ranges->gpa, ranges->gpa, ranges->size, 0);
	return gva;
}

#define prepare_vmcs(vmx, rip)		((prepare_vmcs)(vmx, rip, NULL))
#endif

#endif /* SELFTEST_KVM_MEMORY_REGIONS_COMPAT_H */
