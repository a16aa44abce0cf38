// SPDX-License-Identifier: GPL-2.0-only
/*
 * Maps at random, one after the other, for a VM whose memslots kvm_main.c keeps
 * in sets of its own.  Both sets, the dirty logs, which guests write to all the
 * while, the calls of hooks, and the memory in use have to be those of the map
 * that was asked for, or of the one before if anything fails.
 */
#include <../virt/kvm/memory_regions.h>

#include "test.h"

#define DIRTY		KVM_MEM_LOG_DIRTY_PAGES
#define PRIVATE_GFN	200	/* among those of user space */
#define GFNS		600
#define MAPS		20000
#define HVA		(TASK_SIZE / 2)
#define PRIVATE_HVA	(HVA / 2)
#define MEMFDS		2
#define MEMFD_PAGES	2048

struct map {
	unsigned int nr;
	struct kvm_map_region list[24];
	bool dirty[GFNS];	/* what is in the logs */
};

static struct {
	struct kvm kvm;
	struct map maps[KVM_MAX_NR_ADDRESS_SPACES];
	u64 generation[KVM_MAX_NR_ADDRESS_SPACES];
	u64 random;

	/* What is under way, and what was seen of it. */
	int as_id;
	const struct map *next;
	bool held;
	bool refuses;		/* the architecture cannot hand mappings over */
	/* which one fails, 0: none */
	unsigned int fail_prepare, fail_hold, fail_refresh, fail_get, fail_bind;
	unsigned int kinds;	/* of metadata, which has changed so often */
	struct {
		int error;		/* of what failed */
		unsigned int flushed;	/* pages */
		gfn_t flushed_to;
		unsigned int synced, created, flags, deleted;
		bool written[GFNS], gave_up, reclaimed, asked;
		unsigned long rescheds;		/* before vCPUs were held */
	} seen;

	struct file memfds[MEMFDS];
	struct kvm_memory_slot *bound[MEMFDS][MEMFD_PAGES];
} t;

static unsigned int below(unsigned int limit)
{
	return next_random(&t.random) % limit;
}

/* Fail if it is the @nth that is to fail. */
static int fails(unsigned int *nth, int error)
{
	if (!*nth || --*nth)
		return 0;
	t.seen.error = error;
	return error;
}

static gfn_t gfn_of(const struct kvm_map_region *region)
{
	return region->guest_phys_addr >> PAGE_SHIFT;
}

static unsigned long npages_of(const struct kvm_map_region *region)
{
	return region->memory_size >> PAGE_SHIFT;
}

static bool has_gfn(const struct kvm_map_region *region, gfn_t gfn)
{
	return gfn - gfn_of(region) < npages_of(region);
}

static u64 hva_of(const struct kvm_map_region *region, gfn_t gfn)
{
	return region->userspace_addr + ((gfn - gfn_of(region)) << PAGE_SHIFT);
}

static const struct kvm_map_region *region_at(const struct map *map, gfn_t gfn)
{
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		if (has_gfn(&map->list[i], gfn))
			return &map->list[i];
	}
	return NULL;
}

static bool has_memfd(const struct kvm_map_region *region)
{
	return region->flags & KVM_MEM_GUEST_MEMFD;
}

static unsigned long memfd_page(const struct kvm_map_region *region)
{
	return region->guest_memfd_offset >> PAGE_SHIFT;
}

/* What is bound to guest_memfd stays as it is, or goes. */
static bool same_backing(const struct kvm_map_region *a,
			 const struct kvm_map_region *b)
{
	if (!has_memfd(a) && !has_memfd(b))
		return true;
	return has_memfd(a) && has_memfd(b) && a->slot == b->slot &&
	       a->guest_memfd == b->guest_memfd &&
	       a->guest_memfd_offset == b->guest_memfd_offset;
}

/* The region that takes over the mappings of @region, or hands its own on. */
static const struct kvm_map_region *
twin_of(const struct map *map, const struct kvm_map_region *region)
{
	const struct kvm_map_region *twin = region_at(map, gfn_of(region));

	return twin && twin->guest_phys_addr == region->guest_phys_addr &&
	       twin->memory_size == region->memory_size &&
	       twin->userspace_addr == region->userspace_addr &&
	       !((twin->flags ^ region->flags) & KVM_MEM_READONLY) &&
	       same_backing(twin, region) ? twin : NULL;
}

/* The mappings of a page stay if its memory and access do. */
static bool stays(const struct map *map, const struct map *next, gfn_t gfn)
{
	const struct kvm_map_region *old = region_at(map, gfn);
	const struct kvm_map_region *new = region_at(next, gfn);

	return old && new && hva_of(old, gfn) == hva_of(new, gfn) &&
	       !((old->flags ^ new->flags) & KVM_MEM_READONLY) &&
	       ((!t.refuses && !has_memfd(old) && !has_memfd(new)) ||
		twin_of(next, old));
}

static unsigned int count_lost(const struct map *map, const struct map *next)
{
	unsigned int lost = 0;
	gfn_t gfn;

	for (gfn = 0; gfn < GFNS; gfn++)
		lost += region_at(map, gfn) && !stays(map, next, gfn);
	return lost;
}

/* Somebody writes through the active set now and then. */
static void write_some(bool *log)
{
	struct kvm_memslots *slots = __kvm_memslots(&t.kvm, t.as_id);
	struct kvm_memory_slot *slot;
	unsigned int i;

	for (i = 0; i < 4; i++) {
		gfn_t gfn = below(GFNS);

		slot = kvm_memslot_at_or_above(slots, gfn);
		if (slot && slot->base_gfn <= gfn && slot->dirty_bitmap) {
			set_bit_le(gfn - slot->base_gfn, slot->dirty_bitmap);
			log[gfn] = true;
		}
		if (slot)
			atomic_long_set(&slots->last_used_slot, (long)slot);
	}
}

/* User space takes a part of the log. */
static void take_log(struct map *map)
{
	struct kvm_memslots *slots = __kvm_memslots(&t.kvm, t.as_id);
	struct kvm_memory_slot *slot;
	gfn_t gfn, end;

	gfn = below(GFNS);
	for (end = gfn + below(GFNS - gfn + 1); gfn < end; gfn++) {
		slot = kvm_memslot_at_or_above(slots, gfn);
		if (slot && slot->base_gfn <= gfn && slot->dirty_bitmap) {
			__clear_bit_le(gfn - slot->base_gfn,
				       slot->dirty_bitmap);
			map->dirty[gfn] = false;
		}
	}
}

/*
 * The architecture, and others that are called.
 */
static gfn_t *base_of(gfn_t gfn)
{
	gfn_t *base = kzalloc(sizeof(*base), GFP_KERNEL_ACCOUNT);

	if (base)
		*base = gfn;
	return base;
}

int kvm_arch_prepare_memory_region(struct kvm *kvm,
				   const struct kvm_memory_slot *old,
				   struct kvm_memory_slot *new,
				   enum kvm_mr_change change)
{
	check(!t.held && kvm->slots_arch_lock.held);
	write_some(t.maps[t.as_id].dirty);
	if (fails(&t.fail_prepare, -EBUSY))
		return -EBUSY;
	if (change == KVM_MR_FLAGS_ONLY)
		new->arch = old->arch;
	if (change != KVM_MR_CREATE)
		return 0;

	new->arch.base = base_of(new->base_gfn);
	return new->arch.base ? 0 : -ENOMEM;
}

int kvm_arch_refresh_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	int r = fails(&t.fail_refresh, -EBUSY);

	check(kvm->slots_arch_lock.held);
	t.seen.gave_up = r;
	return r;
}

unsigned int kvm_arch_memslot_metadata_kinds(struct kvm *kvm)
{
	check(kvm->slots_arch_lock.held);
	return t.kinds;
}

void kvm_arch_free_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	kfree(slot->arch.base);
}

void kvm_arch_commit_memory_region(struct kvm *kvm,
				   struct kvm_memory_slot *old,
				   const struct kvm_memory_slot *new,
				   enum kvm_mr_change change)
{
	check(!t.held && t.seen.synced == 1);
	check(change != KVM_MR_MOVE);
	/* so that the number of pages is never too low */
	check(change == KVM_MR_DELETE || !t.seen.deleted);
	t.seen.created += change == KVM_MR_CREATE;
	t.seen.flags += change == KVM_MR_FLAGS_ONLY;
	t.seen.deleted += change == KVM_MR_DELETE;
}

void kvm_arch_flush_shadow_memslot(struct kvm *kvm,
				   struct kvm_memory_slot *slot)
{
	const struct kvm_map_region *region;
	unsigned long i;

	check(t.held && !t.seen.synced);
	check(slot->base_gfn >= t.seen.flushed_to);
	region = region_at(&t.maps[t.as_id], slot->base_gfn);
	check(region->slot == slot->id);
	check(slot->userspace_addr == hva_of(region, slot->base_gfn));
	for (i = 0; i < slot->npages; i++) {
		check(has_gfn(region, slot->base_gfn + i));
		check(!stays(&t.maps[t.as_id], t.next, slot->base_gfn + i));
	}
	t.seen.flushed += slot->npages;
	t.seen.flushed_to = slot->base_gfn + slot->npages;
}

bool kvm_arch_memslot_inherit(struct kvm *kvm,
			      const struct kvm_memory_slot *old,
			      struct kvm_memory_slot *new)
{
	gfn_t gfn = max(old->base_gfn, new->base_gfn);

	check(!t.held && !kvm->slots_arch_lock.held);
	check(gfn - old->base_gfn < old->npages);
	check(gfn - new->base_gfn < new->npages);
	check(old->userspace_addr - (old->base_gfn << PAGE_SHIFT) ==
	      new->userspace_addr - (new->base_gfn << PAGE_SHIFT));
	check(old->id < KVM_USER_MEM_SLOTS);
	check(!((old->flags ^ new->flags) & KVM_MEM_READONLY));
	check(!((old->flags | new->flags) & KVM_MEM_GUEST_MEMFD));
	return !t.refuses;
}

void kvm_arch_guest_memory_reclaimed(struct kvm *kvm)
{
	check(t.held && t.seen.flushed);
	t.seen.reclaimed = true;
}

void kvm_arch_memslots_updated(struct kvm *kvm, u64 gen)
{
	check(gen == t.generation[t.as_id] + KVM_MAX_NR_ADDRESS_SPACES);
}

void trace_kvm_set_memory_regions(u16 as_id, unsigned int nr,
				  unsigned int deleted, unsigned int changed,
				  unsigned int created, s64 waited_ns,
				  s64 held_ns, u64 generation, int result)
{
	check(!t.held);
	check(!!held_ns == (t.seen.flushed > 0));
	check(!!waited_ns == t.seen.asked);
	if (result)
		return;
	check(deleted == t.seen.deleted && created == t.seen.created);
	check(changed >= t.seen.created);
}

/* A descriptor is the number of its file. */
struct file *shim_fd(int fd)
{
	return &t.memfds[fd];
}

void fput(struct file *file)
{
	check(file->users--);
}

int kvm_gmem_prepare_memory_region(struct kvm *kvm, struct kvm_memory_slot *slot,
				   unsigned int fd, uoff_t offset)
{
	check(!t.held && !kvm->slots_arch_lock.held);
	if (fails(&t.fail_get, -EBUSY))
		return -EBUSY;
	slot->gmem.file = shim_fd(fd);
	slot->gmem.file->users++;
	slot->gmem.pgoff = offset >> PAGE_SHIFT;
	return 0;
}

static struct kvm_memory_slot **bound_to(const struct kvm_memory_slot *slot)
{
	return &t.bound[slot->gmem.file - t.memfds][slot->gmem.pgoff];
}

/* From now on, others find the slot through its file. */
int kvm_gmem_commit_memory_region(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_memory_slot **bound = bound_to(slot);
	void *node = kzalloc(1, GFP_KERNEL_ACCOUNT);
	unsigned long i;
	int r = 0;

	check(kvm->slots_arch_lock.held && !t.seen.flushed);
	check(t.held == !!count_lost(&t.maps[t.as_id], t.next));
	kfree(node);
	if (!node)
		r = -ENOMEM;
	if (fails(&t.fail_bind, -EBUSY))
		r = -EBUSY;
	for (i = 0; i < slot->npages && !r; i++) {
		if (bound[i])
			r = -EEXIST;
	}
	t.seen.gave_up = r;
	for (i = 0; i < slot->npages && !r; i++)
		bound[i] = slot;
	return r;
}

void kvm_gmem_unbind(struct kvm_memory_slot *slot)
{
	struct kvm_memory_slot **bound;
	unsigned long i;

	check(!t.held && !t.kvm.slots_arch_lock.held);
	if (!slot->gmem.file)
		return;
	bound = bound_to(slot);
	for (i = 0; i < slot->npages; i++) {
		check(bound[i] == slot);
		bound[i] = NULL;
	}
}

/* Slots in use get new metadata as long as the lock is not held. */
static void change_metadata(struct mutex *lock)
{
	unsigned int failing = shim_memory.fail_at;
	struct kvm_memory_slot *slot;

	if (lock != &t.kvm.slots_arch_lock || !below(3))
		return;
	t.kinds++;
	shim_memory.fail_at = 0;
	for (slot = kvm_memslot_at_or_above(__kvm_memslots(&t.kvm, t.as_id), 0);
	     slot; slot = kvm_memslot_next(__kvm_memslots(&t.kvm, t.as_id), slot)) {
		kfree(slot->arch.base);
		slot->arch.base = base_of(slot->base_gfn);
	}
	shim_memory.fail_at = failing;
}

int __wrap_kvm_vcpus_hold(struct kvm *kvm)
{
	int r;

	check(!t.held && !kvm->slots_arch_lock.held);
	t.seen.asked = true;
	if (fails(&t.fail_hold, -EINTR))
		return -EINTR;
	r = __real_kvm_vcpus_hold(kvm);
	t.held = !r;
	t.seen.rescheds = shim_rescheds;
	return r;
}

void __wrap_kvm_vcpus_release(struct kvm *kvm)
{
	check(t.held && t.seen.synced == !t.seen.gave_up);
	/* what can wait has not been done while they were held */
	check(shim_rescheds == t.seen.rescheds);
	t.held = false;
	__real_kvm_vcpus_release(kvm);
}

/* Readers of the former set are still there, and then there are none. */
static void on_sync(struct srcu_struct *srcu)
{
	struct kvm_memslots *now = t.kvm.memslots[t.as_id];

	check(t.held == (t.seen.flushed > 0));
	check(!t.kvm.slots_arch_lock.held);
	check(now->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS);
	t.kvm.memslots[t.as_id] = kvm_get_inactive_memslots(&t.kvm, t.as_id);
	write_some(t.maps[t.as_id].dirty);
	t.kvm.memslots[t.as_id] = now;
	write_some(t.seen.written);
	t.seen.synced++;
}

static void on_synced(struct srcu_struct *srcu)
{
	write_some(t.seen.written);
}

/*
 * The checks.
 */
static void check_slot(const struct map *map, struct kvm_memslots *slots,
		       struct kvm_memory_slot *slot)
{
	const struct kvm_map_region *region = region_at(map, slot->base_gfn);
	unsigned long i;

	check(*slot->arch.base == slot->base_gfn);
	check(slot->as_id == map - t.maps);
	check(id_to_memslot(slots, slot->id) == slot);
	if (slot->id >= KVM_USER_MEM_SLOTS)
		return;
	check(region && region->slot == slot->id);
	check(gfn_of(region) == slot->base_gfn);
	check(npages_of(region) == slot->npages);
	check(region->userspace_addr == slot->userspace_addr);
	check(region->flags == slot->flags);
	for (i = 0; has_memfd(region) && i < slot->npages; i++)
		check(t.bound[region->guest_memfd][memfd_page(region) + i] ==
		      slot);
	check(!slot->dirty_bitmap == !(region->flags & DIRTY));
	for (i = 0; slot->dirty_bitmap && i < slot->npages; i++)
		check(test_bit_le(i, slot->dirty_bitmap) ==
		      map->dirty[slot->base_gfn + i]);
}

/* Slots have no reference to their file. */
static void check_memfds(void)
{
	unsigned long i, left = 0;
	unsigned int n, as_id;

	for (n = 0; n < MEMFDS; n++) {
		check(!t.memfds[n].users);
		for (i = 0; i < MEMFD_PAGES; i++)
			left += !!t.bound[n][i];
	}
	for (as_id = 0; as_id < KVM_MAX_NR_ADDRESS_SPACES; as_id++) {
		for (n = 0; n < t.maps[as_id].nr; n++) {
			if (has_memfd(&t.maps[as_id].list[n]))
				left -= npages_of(&t.maps[as_id].list[n]);
		}
	}
	check(!left);
}

static void check_all(void)
{
	unsigned int as_id, set, nr, live = 0, logged = 0;
	struct kvm_memory_slot *slot, *last_used;
	struct kvm_memslots *slots;
	unsigned long npages = 0;

	for (as_id = 0; as_id < KVM_MAX_NR_ADDRESS_SPACES; as_id++) {
		const struct map *map = &t.maps[as_id];

		slots = __kvm_memslots(&t.kvm, as_id);
		check(slots->generation == t.generation[as_id]);
		for (set = 0; set < 2; set++) {
			nr = 0;
			for (slot = kvm_memslot_at_or_above(slots, 0); slot;
			     slot = kvm_memslot_next(slots, slot)) {
				check_slot(map, slots, slot);
				nr++;
				if (set)
					continue;
				npages += slot->npages;
				live += 2 + !!slot->dirty_bitmap;
				logged += !!slot->dirty_bitmap;
			}
			check(nr == map->nr + !as_id);
			validate_trees(slots, nr);
			last_used = (void *)atomic_long_read(&slots->last_used_slot);
			check(!last_used ||
			      id_to_memslot(slots, last_used->id) == last_used);
			slots = kvm_get_inactive_memslots(&t.kvm, as_id);
		}
	}
	check(t.kvm.nr_memslot_pages == npages);
	check(atomic_read(&t.kvm.nr_memslots_dirty_logging) == logged);
	check(shim_memory.live == live);
	check_memfds();
}

/* What the logs have after the change, as each page asks for. */
static void carry(const struct map *now, struct map *next)
{
	bool all = t.kvm.manual_dirty_log_protect & KVM_DIRTY_LOG_INITIALLY_SET;
	const struct kvm_map_region *old, *new;
	gfn_t gfn;

	for (gfn = 0; gfn < GFNS; gfn++) {
		old = region_at(now, gfn);
		new = region_at(next, gfn);
		if (!new || !(new->flags & DIRTY))
			next->dirty[gfn] = false;
		else if (old && hva_of(old, gfn) != hva_of(new, gfn))
			next->dirty[gfn] = true;
		else if (old && old->flags & DIRTY)
			next->dirty[gfn] = now->dirty[gfn];
		else
			next->dirty[gfn] = all;
		next->dirty[gfn] |= t.seen.written[gfn];
	}
}

/* Whether both bind some page. */
static bool bind_the_same(const struct kvm_map_region *a,
			  const struct kvm_map_region *b)
{
	return has_memfd(a) && has_memfd(b) && a->guest_memfd == b->guest_memfd &&
	       memfd_page(a) < memfd_page(b) + npages_of(b) &&
	       memfd_page(b) < memfd_page(a) + npages_of(a);
}

/* Whether a new region binds what is bound already. */
static bool bound_already(const struct kvm_map_region *region)
{
	unsigned int as_id, i;

	if (twin_of(&t.maps[t.as_id], region))
		return false;
	for (as_id = 0; as_id < KVM_MAX_NR_ADDRESS_SPACES; as_id++) {
		for (i = 0; i < t.maps[as_id].nr; i++) {
			if (bind_the_same(region, &t.maps[as_id].list[i]))
				return true;
		}
	}
	return false;
}

static int expected(const struct map *map)
{
	const struct kvm_map_region *list = map->list;
	unsigned int i, j;

	for (i = 0; i < map->nr; i++) {
		if ((!t.as_id && has_gfn(&list[i], PRIVATE_GFN)) ||
		    bound_already(&list[i]))
			return -EEXIST;
		for (j = 0; j < i; j++) {
			if (list[i].slot == list[j].slot ||
			    has_gfn(&list[i], gfn_of(&list[j])) ||
			    has_gfn(&list[j], gfn_of(&list[i])) ||
			    bind_the_same(&list[i], &list[j]))
				return -EEXIST;
		}
	}
	return 0;
}

static int set_once(const struct map *next)
{
	struct map copy = *next;
	const struct kvm_map_regions regions = {
		.list = copy.list,
		.size = sizeof(copy.list[0]),
		.nr = copy.nr,
	};
	unsigned int i;
	int r;

	/* the upper half of an address means nothing to 32-bit code */
	for (i = 0; BITS_PER_LONG == 32 && i < copy.nr; i++)
		copy.list[i].userspace_addr |= (u64)below(2) << 32;

	t.next = next;
	memset(&t.seen, 0, sizeof(t.seen));
	mutex_lock(&t.kvm.slots_lock);
	r = kvm_set_memory_regions(&t.kvm, t.as_id, &regions);
	mutex_unlock(&t.kvm.slots_lock);
	check(!t.held && !t.kvm.slots_arch_lock.held);
	check(!t.seen.error || r == t.seen.error);
	return r;
}

/* What fails changes nothing.  At last, nothing fails. */
static void set(struct map *next, bool no_memory)
{
	struct map *now = &t.maps[t.as_id];
	unsigned int i, created = 0, flags = 0, deleted = 0, renamed = 0;
	gfn_t gfn;
	int r, wanted = expected(next);

	for (i = 1; no_memory; i++) {
		shim_memory.failed = SHIM_NONE;
		shim_memory.fail_at = i;
		r = set_once(next);
		shim_memory.fail_at = 0;
		if (!shim_memory.failed)
			goto done;
		check(r == -ENOMEM);
		check_all();
	}

	t.refuses = !below(4);
	t.fail_prepare = below(8);
	t.fail_hold = below(2);
	t.fail_refresh = below(4);
	t.fail_get = below(4);
	t.fail_bind = below(4);
	while ((r = set_once(next)) == -EBUSY || r == -EINTR)
		check_all();
done:
	check(r == wanted);
	if (r) {
		check_all();
		return;
	}

	for (i = 0; i < now->nr; i++)
		deleted += !twin_of(next, &now->list[i]);
	for (i = 0; i < next->nr; i++) {
		const struct kvm_map_region *twin;

		twin = twin_of(now, &next->list[i]);
		created += !twin;
		for (gfn = 0; gfn < GFNS && !twin; gfn++) {
			/* some of what it inherits is logged, or no more */
			if (has_gfn(&next->list[i], gfn) &&
			    stays(now, next, gfn) &&
			    (region_at(now, gfn)->flags ^
			     next->list[i].flags) & DIRTY) {
				flags++;
				break;
			}
		}
		flags += twin && twin->flags != next->list[i].flags;
		renamed += twin && twin->slot != next->list[i].slot;
	}
	check(t.seen.flushed == count_lost(now, next));
	check(t.seen.reclaimed == (t.seen.flushed > 0));
	check(t.seen.deleted == deleted);
	check(t.seen.created == created && t.seen.flags == flags);
	check(t.seen.synced == (deleted || created || flags || renamed));

	carry(now, next);
	*now = *next;
	t.generation[t.as_id] += t.seen.synced * KVM_MAX_NR_ADDRESS_SPACES;
	check_all();
}

static void add(struct map *map)
{
	struct kvm_map_region *region = &map->list[map->nr];

	if (map->nr == ARRAY_SIZE(map->list))
		return;
	map->nr++;
	*region = (struct kvm_map_region) {
		.slot = below(2 * ARRAY_SIZE(map->list)),
		.flags = below(2) * DIRTY,
		.guest_phys_addr = (u64)below(GFNS - 200) << PAGE_SHIFT,
		.memory_size = (u64)(1 + below(below(4) ? 8 : 150)) << PAGE_SHIFT,
		.userspace_addr = HVA + ((u64)below(4) << PAGE_SHIFT),
	};
	region->userspace_addr += region->guest_phys_addr;
}

/* Change a region of @map. */
static void edit(struct map *map)
{
	struct kvm_map_region *region = &map->list[map->nr ? below(map->nr) : 0];
	struct kvm_map_region *other;
	u64 size;

	if (!map->nr || !below(3)) {
		add(map);
		return;
	}
	switch (below(9)) {
	case 0:
		*region = map->list[--map->nr];
		break;
	case 1:
		region->flags ^= DIRTY;
		break;
	case 2:
		region->flags ^= KVM_MEM_READONLY;
		break;
	case 3:
		region->slot = below(2 * ARRAY_SIZE(map->list));
		break;
	case 4:
		region->userspace_addr = HVA + region->guest_phys_addr;
		break;
	case 5:		/* split */
		other = &map->list[map->nr];
		add(map);
		if (region->memory_size == PAGE_SIZE ||
		    other == &map->list[map->nr])
			break;
		size = (u64)(1 + below(npages_of(region) - 1)) << PAGE_SHIFT;
		other->flags = region->flags;
		other->guest_phys_addr = region->guest_phys_addr + size;
		other->userspace_addr = region->userspace_addr + size;
		other->memory_size = region->memory_size - size;
		region->memory_size = size;
		break;
	case 6:		/* grow, or merge */
		if (gfn_of(region) + npages_of(region) == GFNS)
			break;
		region->memory_size += PAGE_SIZE;
		other = (void *)region_at(map, gfn_of(region) +
					       npages_of(region));
		if (other && other != region) {
			/* It may begin before, in a map that is refused. */
			size = (u64)(GFNS - gfn_of(region)) << PAGE_SHIFT;
			region->memory_size += other->memory_size - PAGE_SIZE;
			region->memory_size = min(region->memory_size, size);
			*other = map->list[--map->nr];
		}
		break;
	case 7:		/* move, with the same memory */
		if (gfn_of(region))
			region->guest_phys_addr -= PAGE_SIZE;
		break;
	case 8:		/* what one of KVM's own has */
		if (below(8))
			break;
		region->flags = 0;
		region->guest_phys_addr = (u64)PRIVATE_GFN << PAGE_SHIFT;
		region->userspace_addr = PRIVATE_HVA;
		region->memory_size = PAGE_SIZE;
		break;
	}
}

/* Give regions of @map guest_memfd, or another part of it. */
static void edit_memfds(struct map *map)
{
	struct kvm_map_region *region;
	unsigned int i;

	for (i = 0; i < map->nr; i++) {
		region = &map->list[i];
		if (!has_memfd(region) && below(50))
			continue;
		/* no logs, and not read-only */
		region->flags = KVM_MEM_GUEST_MEMFD;
		if (twin_of(&t.maps[t.as_id], region) ? below(8) : !below(4))
			continue;
		region->guest_memfd = below(MEMFDS);
		region->guest_memfd_offset = (u64)below(MEMFD_PAGES - GFNS) <<
					     PAGE_SHIFT;
	}
}

static void shuffle(struct map *map)
{
	unsigned int i, j;

	for (i = 1; i < map->nr; i++) {
		j = below(i + 1);
		swap(map->list[i], map->list[j]);
	}
}

/* One of KVM's own, which no list has. */
static void add_private(void)
{
	struct kvm_memory_slot *slot = kzalloc(sizeof(*slot), GFP_KERNEL_ACCOUNT);
	int set;

	slot->base_gfn = PRIVATE_GFN;
	slot->npages = 1;
	slot->userspace_addr = PRIVATE_HVA;
	slot->id = KVM_USER_MEM_SLOTS;
	slot->arch.base = base_of(PRIVATE_GFN);
	for (set = 0; set < 2; set++)
		kvm_memslots_replace(&t.kvm.__memslots[0][set], NULL, slot);
	t.kvm.nr_memslot_pages = 1;
}

void directed_run(const struct directed_test *test)
{
	struct kvm_memslots *slots;
	int as_id, set;

	t.random = 1;
	mutex_init(&t.kvm.slots_lock);
	mutex_init(&t.kvm.slots_arch_lock);
	mutex_init(&t.kvm.mn_invalidate_lock);
	kvm_vcpu_gate_init(&t.kvm);
	for (as_id = 0; as_id < KVM_MAX_NR_ADDRESS_SPACES; as_id++) {
		for (set = 0; set < 2; set++) {
			slots = &t.kvm.__memslots[as_id][set];
			slots->node_idx = set;
			slots->generation = as_id;
			hash_init(slots->id_hash);
		}
		t.kvm.memslots[as_id] = &t.kvm.__memslots[as_id][0];
		t.generation[as_id] = as_id;
	}
	add_private();
	shim_locking = change_metadata;
	t.kvm.srcu.on_sync = on_sync;
	t.kvm.srcu.on_synced = on_synced;
	test->run(NULL);
}

static void set_maps(unsigned int nr, bool no_memory)
{
	struct map next;
	unsigned int i;

	check_all();
	while (nr--) {
		t.as_id = below(KVM_MAX_NR_ADDRESS_SPACES);
		if (!below(3))
			take_log(&t.maps[t.as_id]);
		next = t.maps[t.as_id];
		for (i = below(5); i; i--)
			edit(&next);
		if (!below(50))
			next.nr = 0;
		edit_memfds(&next);
		shuffle(&next);
		set(&next, no_memory);
	}
}

static void test_random(struct vm *vm)
{
	shim_endian = SHIM_BIG_ENDIAN;
	set_maps(MAPS, false);
	shim_endian = 0;
}

static void test_initially_set(struct vm *vm)
{
	t.kvm.manual_dirty_log_protect = KVM_DIRTY_LOG_INITIALLY_SET;
	set_maps(MAPS, false);
}

static void test_no_memory(struct vm *vm)
{
	set_maps(MAPS / 4, true);
}

static const struct directed_test maps[] = {
	{ "maps at random, big-endian", test_random },
	{ "maps at random, all pages dirty at first", test_initially_set },
	{ "maps at random, each allocation fails", test_no_memory },
	{}
};

const struct directed_test *const directed_groups[] = {
	maps, directed_gate, NULL
};

int main(void)
{
	return directed_main();
}
