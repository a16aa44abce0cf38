/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMSLOTS_INTERNAL_H
#define __KVM_MEMSLOTS_INTERNAL_H

/*
 * What the files of memslots share among themselves and with kvm_main.c.
 * Everything else is in <linux/kvm_memslots.h>, part of <linux/kvm_host.h>.
 */
#include <linux/kvm_host.h>

/* memslots.c: the container */
void kvm_memslot_space_init(struct kvm_memslot_space *space, u64 generation);
void kvm_memslots_replace(struct kvm_memslots *slots,
			  struct kvm_memory_slot *old,
			  struct kvm_memory_slot *new);
bool kvm_memslots_overlap(struct kvm_memslots *slots,
			  const struct kvm_memory_slot *except,
			  gfn_t base_gfn, unsigned long npages);
unsigned int kvm_memslot_ids_bits(const struct kvm_memslot_ids *ids,
				  unsigned int nr);
struct hlist_head *kvm_memslot_ids_rehash(struct kvm_memslot_ids *ids,
					  struct hlist_head *buckets,
					  unsigned int bits);
void kvm_memslot_ids_replace(struct kvm_memslot_ids *ids,
			     struct kvm_memory_slot *old,
			     struct kvm_memory_slot *new);

/* memslots_update.c: a change of one slot */
int kvm_memslot_update(struct kvm *kvm, struct kvm_memory_slot *old,
		       struct kvm_memory_slot *new, enum kvm_mr_change change);
void kvm_memslots_init(struct kvm *kvm);
void kvm_memslots_free(struct kvm *kvm);

/* memslots_debugfs.c */
void kvm_memslots_create_debugfs(struct kvm *kvm);

#endif /* __KVM_MEMSLOTS_INTERNAL_H */
