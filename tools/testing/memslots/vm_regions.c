// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests for all slots of an address space: what comes of them is compared
 * with the model, and so is what the architecture is told, and when.
 */
#include "vm.h"

static struct kvm_memslots *active(struct vm *vm)
{
	return vm->kvm.memslots[vm->req.as_id];
}

/* Nobody can have seen anything yet. */
static void check_before(struct vm *vm)
{
	struct kvm_memslots *slots = active(vm);

	check(!vm->req.published);
	check(slots->generation == vm->generation[vm->req.as_id]);
	validate_set(vm, vm->req.as_id, slots, &vm->map[vm->req.as_id]);
	check(vm->kvm.nr_memslot_pages == vm->nr_pages);
	/* whoever has the map still writes */
	vm_dirty_some(vm, slots, &vm->map[vm->req.as_id]);
}

/*
 * The gate of the vCPUs.
 */
int __wrap_kvm_vcpus_hold(struct kvm *kvm)
{
	struct vm *vm = container_of(kvm, struct vm, kvm);
	struct request *req = &vm->req;

	lockdep_assert_held(&kvm->slots_lock);
	if (vm->unchecked)
		return 0;

	vm_note(vm, req->hold_error ? 'h' : 'H');
	check(vm->nr_lost);
	check(!req->vcpus_held);
	check_before(vm);
	/* nobody but the vCPUs of threads.c goes through the gate */
	req->vcpus_held = !req->hold_error && !__real_kvm_vcpus_hold(kvm);
	WRITE_ONCE(vm->switching, req->vcpus_held);
	req->rescheds = shim_rescheds;
	return req->hold_error;
}

void __wrap_kvm_vcpus_release(struct kvm *kvm)
{
	struct vm *vm = container_of(kvm, struct vm, kvm);
	struct request *req = &vm->req;
	struct kvm_memslots *other;

	lockdep_assert_held(&kvm->slots_lock);
	if (vm->unchecked)
		return;

	other = &kvm->memslot_space[req->as_id].sets[!active(vm)->node_idx];
	vm_note(vm, 'L');
	check(req->vcpus_held);
	check(req->synchronized == 1);
	check(!(active(vm)->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));
	validate_set(vm, req->as_id, active(vm), &vm->after);
	/* what can wait has not been done while they were held */
	check(shim_rescheds == req->rescheds);
	validate_set(vm, req->as_id, other, &vm->map[req->as_id]);
	check(kvm->nr_memslot_pages == vm->nr_pages);
	req->vcpus_held = false;
	WRITE_ONCE(vm->switching, false);
	__real_kvm_vcpus_release(kvm);
	model_carry(vm);
	/* and now they write, while it is done */
	vm_dirty_some(vm, active(vm), &vm->after);
}

/*
 * The architecture.
 */
static struct going *going_of(struct vm *vm, const struct kvm_memory_slot *slot)
{
	unsigned int i;

	for (i = 0; i < vm->nr_going; i++) {
		if (vm->going[i].slot == slot)
			return &vm->going[i];
	}
	fail("a slot that was not there");
}

static struct coming *coming_of(struct vm *vm, const struct kvm_memory_slot *slot)
{
	unsigned int i;

	for (i = 0; i < vm->nr_coming; i++) {
		if (vm->coming[i].region->slot == slot->id)
			return &vm->coming[i];
	}
	fail("a slot that is not to be there");
}

static void check_old(const struct kvm_memory_slot *old)
{
	check(!(old->flags & KVM_MEMSLOT_INVALID));
	check(*old->arch.base == old->base_gfn);
}

/* A slot as the model has it, without its log. */
static struct map_slot model_of(const struct kvm_memory_slot *slot)
{
	return (struct map_slot) {
		.base_gfn = slot->base_gfn,
		.npages = slot->npages,
		.userspace_addr = slot->userspace_addr,
		.flags = slot->flags,
		.id = slot->id,
	};
}

/* There is a page of both whose mappings stay. */
static bool inherits(const struct kvm_memory_slot *old,
		     const struct coming *coming)
{
	const struct map_slot slot = model_of(old);
	gfn_t start, end;

	return model_inherits(current_vm, &slot, coming, &start, &end);
}

static void check_new(struct vm *vm, const struct kvm_memory_slot *new)
{
	const struct kvm_userspace_memory_region *region;

	region = coming_of(vm, new)->region;
	check(new->base_gfn == region->guest_phys_addr >> PAGE_SHIFT);
	check(new->npages == region->memory_size >> PAGE_SHIFT);
	check(new->userspace_addr == (unsigned long)region->userspace_addr);
	check(new->flags == region->flags);
	check(new->as_id == vm->req.as_id);
	check(!new->dirty_bitmap == !(new->flags & KVM_MEM_LOG_DIRTY_PAGES));
}

static void check_kind(const struct coming *coming,
		       const struct kvm_memory_slot *old,
		       enum kvm_mr_change change)
{
	if (coming->fate == CREATED && change == KVM_MR_FLAGS_ONLY) {
		/* the second time */
		check(coming->relogged && coming->committed);
		check((old->flags ^ coming->region->flags) &
		      KVM_MEM_LOG_DIRTY_PAGES);
		check(inherits(old, coming));
		check_old(old);
		return;
	}
	check(old == coming->old);
	if (coming->fate == CREATED) {
		check(!old);
		check(change == KVM_MR_CREATE);
	} else {
		check(old);
		check(coming->fate != KEPT);
		check(change == KVM_MR_FLAGS_ONLY);
		check_old(old);
	}
}

static void check_prepare(struct vm *vm, const struct kvm_memory_slot *old,
			  const struct kvm_memory_slot *new,
			  enum kvm_mr_change change)
{
	struct coming *coming;

	check(!vm->req.vcpus_held);
	if (change == KVM_MR_DELETE) {
		check(!new);
		check(going_of(vm, old)->goes);
		check_old(old);
		going_of(vm, old)->prepared++;
		check_before(vm);
		return;
	}

	coming = coming_of(vm, new);
	check_new(vm, new);
	check_kind(coming, old, change);
	check(coming->fate != RENAMED);
	if (old)
		check(!memcmp(&new->arch, &old->arch, sizeof(new->arch)));
	else
		check(!new->arch.base);
	coming->prepared++;
	check_before(vm);
}

/*
 * Before anything is visible, while the slot is, and while no vCPU runs.  @part is
 * what a part of the slot would be.
 */
static void check_flush(struct vm *vm, const struct kvm_memory_slot *part)
{
	struct kvm_memory_slot *slot;
	gfn_t start, end, part_end = part->base_gfn + part->npages;
	const struct map_slot old = model_of(part);
	struct going *going;
	unsigned int i;

	check(vm->req.vcpus_held);
	slot = kvm_memslot_at_or_above(active(vm), part->base_gfn);
	going = going_of(vm, slot);
	check(going->goes);
	check_old(slot);
	check(part->id == slot->id && part->as_id == slot->as_id);
	check(part->npages && part->base_gfn >= slot->base_gfn &&
	      part_end <= slot->base_gfn + slot->npages);
	check(part->userspace_addr == slot->userspace_addr +
	      (unsigned long)(part->base_gfn - slot->base_gfn) * PAGE_SIZE);

	/* each page once, and none that stays */
	check(part->base_gfn >= going->flushed_to);
	going->flushed_to = part_end;
	for (i = 0; i < vm->nr_coming; i++)
		check(!model_inherits(vm, &old, &vm->coming[i], &start, &end));
	going->flushed += part->npages;
	check_before(vm);
}

/*
 * Called for two slots that have memory in common, before one of them is prepared
 * and after.
 */
bool kvm_arch_memslot_inherit(struct kvm *kvm,
			      const struct kvm_memory_slot *old,
			      struct kvm_memory_slot *new)
{
	struct vm *vm = container_of(kvm, struct vm, kvm);
	const struct map_slot slot = model_of(old);
	struct coming coming = { .fate = CREATED };
	const struct kvm_userspace_memory_region region = {
		.guest_phys_addr = new->base_gfn << PAGE_SHIFT,
		.memory_size = (u64)new->npages << PAGE_SHIFT,
		.userspace_addr = new->userspace_addr,
		.flags = new->flags,
	};
	bool refuses = vm->refuses;
	gfn_t start, end;

	lockdep_assert_held(&kvm->slots_lock);
	coming.region = &region;
	vm->refuses = false;
	check(model_inherits(vm, &slot, &coming, &start, &end));
	vm->refuses = refuses;
	check(*old->arch.base == old->base_gfn);
	if (refuses)
		return false;

	/* nothing but kvm_arch_free_memslot() and prepare knows of this */
	if (!new->arch.base && !new->arch.spare[0]) {
		new->arch.spare[0] = vm;
		vm->nr_heirs++;
	}
	return true;
}

static void check_commit(struct vm *vm, const struct kvm_memory_slot *old,
			 const struct kvm_memory_slot *new,
			 enum kvm_mr_change change)
{
	struct request *req = &vm->req;
	struct kvm_memslots *slots = active(vm);
	struct kvm_memslots *other;
	unsigned long npages = vm->nr_pages;
	bool first = true;
	unsigned int i;

	check(!req->vcpus_held);
	check(req->published == 1);
	check(req->synchronized == 1);
	check(!(slots->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));

	for (i = 0; i < vm->nr_going; i++)
		first &= !vm->going[i].committed;
	if (change == KVM_MR_DELETE) {
		struct going *going = going_of(vm, old);

		check(!new);
		check(going->goes);
		check_old(old);
		check(id_to_memslot(slots, old->id) != old);
		going->committed++;
	} else {
		struct coming *coming = coming_of(vm, new);

		/* what goes comes last */
		check(first);
		check_kind(coming, old, change);
		check_new(vm, new);
		check(coming->fate != RENAMED);
		check(id_to_memslot(slots, new->id) == new);
		check(kvm_memslot_at_or_above(slots, new->base_gfn) == new);
		if (coming->committed)
			coming->recommitted++;
		else
			coming->committed++;
	}

	/* All is done, in every set. */
	for (i = 0; i < vm->nr_going; i++)
		first &= !vm->going[i].committed ||
			 (vm->going[i].slot == old && change == KVM_MR_DELETE);
	for (i = 0; i < vm->nr_coming; i++)
		first &= !vm->coming[i].committed ||
			 (new && vm->coming[i].region->slot == new->id);
	if (!first)
		return;

	other = &vm->kvm.memslot_space[req->as_id].sets[!slots->node_idx];
	validate_set(vm, req->as_id, slots, &vm->after);
	validate_set(vm, req->as_id, other, &vm->after);
	check(slots->ids->nr == vm->after.nr);
	for (i = 0; i < vm->map[req->as_id].nr; i++)
		npages -= vm->map[req->as_id].slots[i].npages;
	for (i = 0; i < vm->after.nr; i++)
		npages += vm->after.slots[i].npages;
	check(vm->kvm.nr_memslot_pages == npages);
}

static void check_free(struct vm *vm, const struct kvm_memory_slot *slot)
{
	struct going *going;
	unsigned int i;

	/* one that was not to be */
	if (!vm->req.published) {
		check(vm->req.r || coming_of(vm, slot)->fate == CREATED);
		for (i = 0; i < vm->nr_going; i++)
			check(vm->going[i].slot != slot);
		return;
	}

	check(vm->req.synchronized == 1);
	check(!vm->req.vcpus_held);
	going = going_of(vm, slot);
	check(going->goes);
	check(going->committed == 1);
	going->freed++;
}

/*
 * Tracepoints.
 */
static void check_trace(struct vm *vm, const struct kvm_memory_slot *old,
			const struct kvm_memory_slot *new,
			enum kvm_mr_change change, int result)
{
	check(!result);
	if (change == KVM_MR_DELETE) {
		check(!new);
		going_of(vm, old)->traced++;
	} else {
		struct coming *coming = coming_of(vm, new);

		check_kind(coming, old, change);
		coming->traced++;
	}
}

void trace_kvm_set_memory_regions(u16 as_id, unsigned int nr,
				  unsigned int deleted, unsigned int changed,
				  unsigned int created,
				  s64 waited_ns, s64 held_ns, u64 generation,
				  int result)
{
	struct vm *vm = current_vm;
	struct request *req = &vm->req;

	check(vm->kvm.memslots[as_id]->generation == generation);
	if (vm->unchecked)
		return;

	check(as_id == req->as_id);
	check(!req->vcpus_held);
	/* without memory for it, the difference is not known */
	if (!req->r && (result != -ENOMEM || changed || created || deleted)) {
		check(nr == vm->nr_coming);
		check(deleted == vm->nr_deleted);
		check(changed == vm->nr_changed);
		check(created == vm->nr_created);
	}
	check(!!held_ns == (!result && vm->nr_lost));
	/* who gave up has waited, too */
	check(!!waited_ns == (memchr(req->log, 'H', req->logged) ||
			      memchr(req->log, 'h', req->logged)));
	req->traced++;
	req->traced_result = result;
}

/*
 * Requests.
 */

/* Without the gate, nobody can use the former map after the grace period. */
static void check_synced(struct vm *vm)
{
	if (!vm->req.vcpus_held)
		model_carry(vm);
}

static const struct request_ops all_slots = {
	.once = "PFCX",
	.synced = check_synced,
	.flush = check_flush,
	.prepare = check_prepare,
	.commit = check_commit,
	.trace = check_trace,
	.free = check_free,
};

/* Without memory, what the request would have come to does not matter. */
static int expected_result(struct vm *vm, unsigned int prepare_after,
			   bool had_chains)
{
	const struct request *req = &vm->req;

	if (shim_memory.failed != SHIM_NONE &&
	    !(shim_memory.failed == SHIM_NOWARN && had_chains))
		return -ENOMEM;
	if (req->r || req->change == KVM_MR_NONE)
		return req->r;
	if (req->prepare_error && vm->nr_prepare > prepare_after)
		return req->prepare_error;
	if (req->hold_error && vm->nr_lost)
		return req->hold_error;
	return 0;
}

static void check_log(struct vm *vm, int r)
{
	struct request *req = &vm->req;
	bool prepared = memchr(req->log, 'P', req->logged);
	char log[sizeof(req->log)];

	if (r) {
		snprintf(log, sizeof(log), "%s%s%s", prepared ? "P" : "",
			 r == req->hold_error && req->change == KVM_MR_SET ?
			 "h" : "",
			 memchr(req->log, 'X', req->logged) ? "X" : "");
		check(!prepared || req->change == KVM_MR_SET);
	} else if (req->change == KVM_MR_NONE) {
		log[0] = 0;
	} else {
		snprintf(log, sizeof(log), "%s%sASU%s%s%s",
			 vm->nr_prepare ? "P" : "",
			 vm->nr_lost ? "HFR" : "",
			 vm->nr_lost ? "L" : "",
			 vm->nr_commit ? "C" : "",
			 vm->nr_deleted ? "X" : "");
	}
	if (strcmp(log, req->log))
		fail("does %s instead of %s", req->log, log);
}

/* Each slot has had its due, and those that stay are the same objects. */
static void check_slots(struct vm *vm, int r)
{
	struct request *req = &vm->req;
	unsigned int i;
	bool done = !r && req->change == KVM_MR_SET;

	for (i = 0; i < vm->nr_going; i++) {
		struct going *going = &vm->going[i];
		bool went = done && going->goes;

		check(!done || going->prepared == went);
		check(going->flushed == (went ? going->lost : 0));
		check(going->committed == went);
		check(going->traced == went);
		check(going->freed == went);
		if (!done || going->id >= KVM_USER_MEM_SLOTS)
			check(id_to_memslot(active(vm), going->id) ==
			      going->slot);
	}

	for (i = 0; done && i < vm->nr_coming; i++) {
		struct coming *coming = &vm->coming[i];
		struct kvm_memory_slot *slot;
		bool hooks = coming->fate == CREATED ||
			     coming->fate == REFLAGGED;

		check(coming->prepared == hooks);
		check(coming->committed == hooks);
		check(coming->recommitted == coming->relogged);
		check(coming->traced == (coming->fate != KEPT));

		slot = id_to_memslot(active(vm), coming->region->slot);
		check(slot);
		check((slot == coming->old) == (coming->fate == KEPT));
		if (coming->fate == CREATED)
			continue;
		check(slot->arch.base == coming->old_base);
		if (coming->old_log && slot->dirty_bitmap)
			check(slot->dirty_bitmap == coming->old_log);
	}
}

int vm_request_all(struct vm *vm,
		   const struct kvm_userspace_memory_regions *all)
{
	struct kvm_userspace_memory_regions copy = *all;
	struct request *req = &vm->req;
	unsigned int prepare_after = req->prepare_after;
	int r, expected;
	bool had_chains;

	*req = (struct request) {
		.id = -1,
		.prepare_error = req->prepare_error,
		.prepare_after = req->prepare_after,
		.killed = req->killed,
		.hold_error = req->hold_error,
	};
	vm->ops = &all_slots;
	shim_killed = req->killed;
	model_regions(vm, all);
	had_chains = vm->kvm.memslot_space[req->as_id].ids.buckets;
	shim_memory.failed = SHIM_NONE;
	shim_memory.calls = 0;

	r = kvm_vm_ioctl_set_memory_regions(&vm->kvm, &copy);

	check(!memcmp(&copy, all, sizeof(copy)));
	check(!vm->kvm.slots_lock.held);
	expected = expected_result(vm, prepare_after, had_chains);
	if (r != expected)
		fail("returns %d instead of %d", r, expected);
	check_log(vm, r);
	check_slots(vm, r);
	check(!req->vcpus_held);
	check(!vm->nr_heirs);
	check(!req->traced || req->traced_result == r);
	/* what is not even tried is not traced */
	check(req->traced == 1 || (r && r != -EEXIST && r != req->hold_error));
	check(req->traced <= 1);

	if (shim_memory.failed == SHIM_NOWARN)
		vm->ids_unfit[req->as_id] = true;
	else if (!r && req->change == KVM_MR_SET)
		vm->ids_unfit[req->as_id] = false;

	if (r)
		req->change = KVM_MR_NONE;
	model_done(vm, r);
	req->prepare_error = 0;
	req->prepare_after = 0;
	req->hold_error = 0;
	req->killed = false;
	shim_killed = false;
	shim_memory.fail_at = 0;
	validate(vm);
	return r;
}

/* The same, with nothing wrong about the request itself. */
int vm_set_all(struct vm *vm, int as_id, const struct regions *regions)
{
	const struct kvm_userspace_memory_regions all = {
		.as_id = as_id,
		.nr_regions = regions->nr,
		.region_size = sizeof(regions->list[0]),
		.regions = (uintptr_t)regions->list,
	};

	return vm_request_all(vm, &all);
}
