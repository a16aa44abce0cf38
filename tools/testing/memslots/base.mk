# SPDX-License-Identifier: GPL-2.0-only
# What depends on the kernel.

# Files under test, and the headers that they bring.
TESTED := virt/kvm/memslots.c virt/kvm/memory_regions_diff.c \
	virt/kvm/memory_regions.c virt/kvm/memory_regions_ioctl.c \
	virt/kvm/memslots_update.c virt/kvm/vcpu_gate.c
HEADERS := include/linux/kvm_memslots.h include/linux/kvm_vcpu_gate.h \
	virt/kvm/memory_regions.h virt/kvm/memslots.h
# Slots have no backing, and arch data that does not change, so the tests do not
# get to all of memory_regions.c.
COVERED := $(filter-out virt/kvm/memory_regions.c,$(TESTED)) $(HEADERS) \
	virt/kvm/kvm_main.c

# Of larger files, extracted_NAME is what the first one has of the rest.
EXTRACTED := kvm_host.h kvm_main.h uvmem.h
kvm_host.h := include/linux/kvm_host.h \
	KVM_MEMSLOT_INVALID KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS \
	KVM_MEM_MAX_NR_PAGES enum:kvm_mr_change kvm_dirty_bitmap_bytes \
	struct:kvm_memslot_range \
	kvm_dirty_log_manual_protect_and_init_set
kvm_main.h := virt/kvm/kvm_main.c \
	check_memory_region_flags kvm_check_memory_region \
	__kvm_set_memory_region kvm_set_memory_region \
	kvm_vm_ioctl_set_memory_region kvm_vcpu_gfn_to_memslot
# It runs nowhere else: it needs an ultravisor.
uvmem.h := arch/powerpc/kvm/book3s_hv_uvmem.c \
	kvmppc_h_svm_init_start kvmppc_h_svm_init_abort

# Files and headers of the kernel that they are built with, and headers that
# shim.h stands in for.
LIBRARY := lib/rbtree.c lib/interval_tree.c
REAL := linux/hash.h linux/interval_tree.h linux/interval_tree_generic.h \
	linux/list.h linux/poison.h linux/rbtree.h linux/rbtree_augmented.h
SHIMMED := linux/atomic.h linux/bitmap.h linux/bitops.h linux/build_bug.h \
	linux/compiler.h linux/const.h linux/export.h linux/kernel.h \
	linux/ktime.h linux/kvm_types.h linux/mm.h linux/overflow.h \
	linux/rcupdate.h linux/slab.h linux/stddef.h linux/string.h \
	linux/swab.h linux/types.h linux/uaccess.h trace/events/kvm.h

TESTS := directed.c directed_regions.c edit.c gate.c kvm_main.c main.c \
	model.c model_regions.c powerpc.c run.c script.c shim.c threads.c \
	trees.c validate.c vm.c vm_regions.c
