/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEMSLOTS_GMEM_H
#define __KVM_MEMSLOTS_GMEM_H

/*
 * What memory_regions.h needs to know about slots with guest_memfd.
 */
#include <linux/file.h>
#include <linux/kvm_host.h>

#include "guest_memfd.h"

#define kvm_map_region kvm_userspace_memory_region2

static inline bool kvm_memslot_can_inherit(struct kvm *kvm,
					   const struct kvm_memory_slot *old,
					   const struct kvm_memory_slot *new)
{
	/* A guest_memfd is bound to the address of a slot until it is freed. */
	if (kvm_slot_has_gmem(old) || kvm_slot_has_gmem(new))
		return false;

	/* A dirty ring names a page by the id of its slot and its offset. */
	return !kvm->dirty_ring_size ||
	       !((old->flags | new->flags) & KVM_MEM_LOG_DIRTY_PAGES) ||
	       (old->id == new->id && old->base_gfn == new->base_gfn);
}

static inline bool
kvm_memslot_same_backing(const struct kvm_memory_slot *slot,
			 const struct kvm_map_region *region)
{
	if ((slot->flags ^ region->flags) & KVM_MEM_GUEST_MEMFD)
		return false;
#ifdef CONFIG_KVM_GUEST_MEMFD
	if (kvm_slot_has_gmem(slot)) {
		CLASS(fd, f)(region->guest_memfd);

		return fd_file(f) && fd_file(f) == READ_ONCE(slot->gmem.file) &&
		       slot->gmem.pgoff ==
		       region->guest_memfd_offset >> PAGE_SHIFT;
	}
#endif
	return true;
}

static inline bool kvm_memslot_has_backing(const struct kvm_memory_slot *slot)
{
	return kvm_slot_has_gmem(slot);
}

static inline int kvm_memslot_get_backing(struct kvm *kvm,
					  struct kvm_memory_slot *new,
					  const struct kvm_map_region *region)
{
	return kvm_slot_has_gmem(new) ?
	       kvm_gmem_prepare_memory_region(kvm, new, region->guest_memfd,
					      region->guest_memfd_offset) : 0;
}

static inline int kvm_memslot_bind_backing(struct kvm *kvm,
					   struct kvm_memory_slot *new)
{
	return kvm_slot_has_gmem(new) ? kvm_gmem_commit_memory_region(kvm, new) : 0;
}

/* Do not unbind what another slot may have bound. */
static inline void kvm_memslot_put_backing(struct kvm_memory_slot *new,
					   bool bound)
{
#ifdef CONFIG_KVM_GUEST_MEMFD
	if (!kvm_slot_has_gmem(new))
		return;
	fput(new->gmem.file);
	if (!bound)
		new->gmem.file = NULL;
#endif
}

#endif /* __KVM_MEMSLOTS_GMEM_H */
