# SPDX-License-Identifier: GPL-2.0-only
# What depends on the kernel.

# Files under test, and the headers that they bring.
TESTED := virt/kvm/memory_regions_diff.c virt/kvm/memory_regions.c \
	virt/kvm/vcpu_gate.c
HEADERS := include/linux/kvm_vcpu_gate.h virt/kvm/memory_regions.h \
	virt/kvm/memslots.h virt/kvm/memslots_gmem.h \
	virt/kvm/guest_memfd.h
COVERED := $(TESTED) include/linux/kvm_vcpu_gate.h virt/kvm/memslots.h \
	virt/kvm/memslots_gmem.h

# Of larger files, extracted_NAME is what the first one has of the rest.
EXTRACTED := kvm_types.h kvm_host.h kvm_main.h
kvm_types.h := include/linux/kvm_host.h \
	KVM_MEMSLOT_INVALID KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS \
	KVM_MEM_MAX_NR_PAGES KVM_MEM_SLOTS_NUM KVM_USER_MEM_SLOTS \
	struct:kvm_memory_slot kvm_slot_has_gmem kvm_dirty_bitmap_bytes \
	struct:kvm_memslots struct:kvm_vcpu_gate struct:kvm_memslot_iter \
	struct:kvm_memslot_range \
	enum:kvm_mr_change
kvm_host.h := include/linux/kvm_host.h \
	kvm_dirty_log_manual_protect_and_init_set kvm_memslots_empty \
	id_to_memslot kvm_memslot_iter_next kvm_memslot_iter_start \
	kvm_memslot_iter_is_valid kvm_for_each_memslot_in_gfn_range
kvm_main.h := virt/kvm/kvm_main.c \
	kvm_destroy_dirty_bitmap kvm_free_memslot kvm_alloc_dirty_bitmap \
	kvm_get_inactive_memslots kvm_insert_gfn_node kvm_erase_gfn_node \
	kvm_replace_gfn_node kvm_memslots_replace kvm_swap_active_memslots \
	kvm_prepare_memory_region kvm_commit_memory_region \
	kvm_arch_publish_memslots kvm_arch_refresh_memslot

# Files and headers of the kernel that they are built with, and headers that
# shim.h stands in for.
LIBRARY := lib/rbtree.c lib/interval_tree.c
REAL := linux/hash.h linux/hashtable.h linux/interval_tree.h \
	linux/interval_tree_generic.h linux/list.h linux/poison.h \
	linux/rbtree.h linux/rbtree_augmented.h linux/rbtree_types.h
SHIMMED := asm/barrier.h linux/atomic.h linux/bitmap.h linux/bitops.h \
	linux/bits.h linux/compiler.h linux/const.h linux/container_of.h \
	linux/export.h linux/file.h linux/kernel.h linux/ktime.h \
	linux/kvm_types.h linux/mm.h linux/rculist.h linux/rcupdate.h \
	linux/slab.h linux/stddef.h linux/swab.h linux/types.h \
	trace/events/kvm.h

TESTS := gate.c kvm_main.c maps.c run.c shim.c trees.c
