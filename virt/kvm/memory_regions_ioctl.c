// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM_SET_USER_MEMORY_REGIONS: check what user space passes.
 */
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "memory_regions.h"

/* The structure of user space may be larger or smaller than that of KVM. */
static int kvm_copy_memory_regions(const struct kvm_map_regions *regions,
				   const struct kvm_userspace_memory_regions *map)
{
	u32 i;
	int r;

	if (map->region_size == regions->size) {
		if (copy_from_user(regions->list, u64_to_user_ptr(map->regions),
				   regions->nr * regions->size))
			return -EFAULT;
		return 0;
	}

	for (i = 0; i < regions->nr; i++) {
		u64 region = map->regions + (u64)i * map->region_size;

		kvm_memslots_cond_resched(i);
		r = copy_struct_from_user(kvm_nth_region(regions, i),
					  regions->size, u64_to_user_ptr(region),
					  map->region_size);
		if (r)
			return r;
	}
	return 0;
}

/* Read the regions, check them, and set them. */
static int kvm_try_set_memory_regions(struct kvm *kvm,
				      const struct kvm_userspace_memory_regions *map,
				      const struct kvm_map_regions *regions)
{
	u32 i;
	int r;

	r = kvm_copy_memory_regions(regions, map);
	if (r)
		return r;

	for (i = 0; i < regions->nr; i++) {
		struct kvm_map_region *region = kvm_nth_region(regions, i);

		kvm_memslots_cond_resched(i);
		if (!region->memory_size || region->slot >= KVM_USER_MEM_SLOTS)
			return -EINVAL;
		r = kvm_check_map_region(kvm, region, map->region_size);
		if (r)
			return r;
	}

	if (mutex_lock_killable(&kvm->slots_lock))
		return -EINTR;
	r = kvm_set_memory_regions(kvm, map->as_id, regions);
	mutex_unlock(&kvm->slots_lock);
	return r;
}

/**
 * kvm_vm_ioctl_set_memory_regions - KVM_SET_USER_MEMORY_REGIONS
 * @kvm: the VM
 * @map: the argument of the ioctl, in kernel memory
 *
 * Context: may sleep.  Takes kvm->slots_lock.
 * Return: what the ioctl returns.
 */
int kvm_vm_ioctl_set_memory_regions(struct kvm *kvm,
				    const struct kvm_userspace_memory_regions *map)
{
	struct kvm_map_regions regions = { .nr = map->nr_regions };
	int r;

	if (!kvm_arch_can_replace_memslots(kvm))
		return -EINVAL;
	if (map->flags || memchr_inv(map->reserved, 0, sizeof(map->reserved)) ||
	    map->region_size < sizeof(struct kvm_userspace_memory_region) ||
	    map->as_id >= kvm_arch_nr_memslot_as_ids(kvm))
		return -EINVAL;
	if (map->nr_regions > KVM_USER_MEM_SLOTS ||
	    map->region_size > PAGE_SIZE)
		return -E2BIG;

	/* Most VMMs pass the smallest structure, of regions that stay. */
	regions.size = sizeof(struct kvm_userspace_memory_region);
	if (map->region_size != regions.size)
		regions.size = sizeof(struct kvm_map_region);
	regions.list = kvmalloc_array(regions.nr, regions.size,
				      GFP_KERNEL_ACCOUNT);
	if (!regions.list)
		return -ENOMEM;

	/* The next time, the architecture keeps fewer mappings. */
	do {
		r = kvm_try_set_memory_regions(kvm, map, &regions);
	} while (r == -EAGAIN);

	kvfree(regions.list);
	return r;
}
