// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM whose every request is compared with the model: what it returns, what
 * readers see at any time, what it frees and when, and what the architecture,
 * which is a fake, is told.
 */
#include "vm.h"

static struct vm *vm_of(struct kvm *kvm)
{
	return container_of(kvm, struct vm, kvm);
}

void vm_note(struct vm *vm, char event)
{
	struct request *req = &vm->req;

	if (strchr(vm->ops->once, event) &&
	    memchr(req->log, event, req->logged))
		return;
	check(req->logged < sizeof(req->log) - 1);
	req->log[req->logged++] = event;
}

/*
 * Readers.
 */
struct vm *current_vm;

static void hold(struct vm *vm, int as_id)
{
	struct kvm_memslots *slots = vm->kvm.memslots[as_id];
	struct held *held = &vm->held[as_id];
	struct rb_node *node;

	held->nr = 0;
	for (node = rb_first(&slots->gfn_tree); node; node = rb_next(node)) {
		struct kvm_memory_slot *slot;

		slot = kvm_memslot_of_gfn_node(node, slots->node_idx);
		held->p[held->nr++] = slot;
		held->p[held->nr++] = slot->arch.base;
		held->p[held->nr++] = slot->dirty_bitmap;
	}
}

static void on_free(const void *p)
{
	unsigned int i;
	int as_id;

	if (!current_vm || current_vm->threaded || current_vm->unchecked)
		return;

	for (as_id = 0; as_id < KVM_ADDRESS_SPACE_NUM; as_id++) {
		struct held *held = &current_vm->held[as_id];

		for (i = 0; i < held->nr; i++)
			check(held->p[i] != p);
	}
}

/* A new set is about to become the active one. */
static void on_publish(struct srcu_struct *srcu, const void *p)
{
	struct vm *vm = container_of(srcu, struct vm, kvm.srcu);
	struct request *req = &vm->req;
	struct kvm_memslots *slots = vm->kvm.memslots[req->as_id];
	struct kvm_memslots *next;
	u64 generation;

	if (vm->unchecked)
		return;

	vm_note(vm, 'A');
	next = &vm->kvm.memslot_space[req->as_id].sets[!slots->node_idx];
	check(p == next);
	check(req->published == req->synchronized);
	check(req->vcpus_held == !!vm->nr_lost);
	generation = vm->generation[req->as_id] +
		     req->published * KVM_ADDRESS_SPACE_NUM;
	check(slots->generation == generation);
	check(next->generation ==
	      (generation | KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));
	req->published++;

	if (vm->threaded) {
		struct expected_map *expected;

		generation += KVM_ADDRESS_SPACE_NUM;
		expected = &vm->expected[req->as_id][generation %
						     EXPECTED_MAPS];
		WRITE_ONCE(expected->generation, generation);
		WRITE_ONCE(expected->sum,
			   map_sum(model_stage(vm, req->published),
				   req->as_id));
	}
}

/* A guest writes to a slot, as found in a set that has what @stage has. */
static void dirty_slot(struct vm *vm, struct kvm_memslots *slots,
		       const struct map_slot *expected)
{
	gfn_t offset = next_random(&vm->random) % expected->npages;
	struct kvm_memory_slot *slot;

	slot = __gfn_to_memslot(slots, expected->base_gfn + offset);
	check(slot && slot->id == expected->id);
	if (slot->dirty_bitmap) {
		set_bit_le(offset, slot->dirty_bitmap);
		__set_bit(offset, expected->log->bits);
	}
}

/* The same for some slots, that of the request among them if it has one. */
void vm_dirty_some(struct vm *vm, struct kvm_memslots *slots,
		   const struct map *stage)
{
	const struct map_slot *slot;
	unsigned int i;

	if (vm->threaded || vm->quiet)
		return;

	for (i = 0; i < 8 && i < stage->nr; i++) {
		slot = &stage->slots[stage->nr <= 8 ? i :
				     next_random(&vm->random) % stage->nr];
		dirty_slot(vm, slots, slot);
	}
	slot = map_of_id((struct map *)stage, vm->req.id);
	if (slot)
		dirty_slot(vm, slots, slot);
}

/* The last moment of those who still have the other set. */
static void on_sync(struct srcu_struct *srcu)
{
	struct vm *vm = container_of(srcu, struct vm, kvm.srcu);
	struct request *req = &vm->req;
	struct kvm_memslots *slots = vm->kvm.memslots[req->as_id];
	struct kvm_memslots *other;
	struct map *then, *now;

	if (vm->unchecked)
		return;

	vm_note(vm, 'S');
	check(req->published == req->synchronized + 1);
	req->synchronized++;

	now = model_stage(vm, req->published);
	then = model_stage(vm, req->published - 1);
	other = &vm->kvm.memslot_space[req->as_id].sets[!slots->node_idx];
	validate_set(vm, req->as_id, slots, now);
	validate_set(vm, req->as_id, other, then);
	check(slots->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS);
	if (vm->threaded)
		return;

	vm_dirty_some(vm, other, then);
	vm_dirty_some(vm, slots, now);

	/* Leave something in both caches, and in that of a vCPU. */
	if (then->nr)
		__gfn_to_memslot(other,
				 then->slots[vm->random % then->nr].base_gfn);
	if (now->nr) {
		struct kvm_vcpu *vcpu = &vm->vcpu[req->as_id];
		struct map_slot *expected;

		expected = &now->slots[vm->random % now->nr];
		check(kvm_vcpu_gfn_to_memslot(vcpu, expected->base_gfn) ==
		      __gfn_to_memslot(slots, expected->base_gfn));
	}
}

static void on_synced(struct srcu_struct *srcu)
{
	struct vm *vm = container_of(srcu, struct vm, kvm.srcu);

	if (vm->unchecked)
		return;
	if (!vm->threaded)
		hold(vm, vm->req.as_id);
	if (vm->ops->synced)
		vm->ops->synced(vm);
}

/*
 * The architecture.
 */
void kvm_arch_memslots_updated(struct kvm *kvm, u64 gen)
{
	struct vm *vm = vm_of(kvm);
	struct request *req = &vm->req;

	if (vm->unchecked)
		return;

	vm_note(vm, 'U');
	check(req->published == req->synchronized);
	check(gen == vm->generation[req->as_id] +
		     req->published * KVM_ADDRESS_SPACE_NUM);
	check(kvm->memslots[req->as_id]->generation ==
	      ((gen - KVM_ADDRESS_SPACE_NUM) |
	       KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));
	vm_dirty_some(vm, kvm->memslots[req->as_id],
		      model_stage(vm, req->published));
}

/* Readers find no slot but an INVALID one where @old is. */
static void check_invalid(struct vm *vm, const struct kvm_memory_slot *old)
{
	struct kvm_memslots *slots = vm->kvm.memslots[old->as_id];
	struct kvm_memory_slot *slot;

	check(!(slots->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));
	slot = kvm_memslot_at_or_above(slots, old->base_gfn);
	check(slot != old);
	check(slot->id == old->id);
	check(slot->flags == (old->flags | KVM_MEMSLOT_INVALID));
	check(slot->dirty_bitmap == old->dirty_bitmap);
	check(!memcmp(&slot->arch, &old->arch, sizeof(old->arch)));
	check(vm->req.published == 1);
	check(vm->req.synchronized == 1);
}

static const struct kvm_arch_memory_slot no_arch;

static void check_old(struct vm *vm, const struct kvm_memory_slot *old)
{
	check(old == vm->req.old);
	check(id_to_memslot(vm->kvm.memslots[old->as_id], old->id) == old);
	check(!(old->flags & KVM_MEMSLOT_INVALID));
	check(*old->arch.base == old->base_gfn);
}

static void check_flush(struct vm *vm, const struct kvm_memory_slot *slot)
{
	check_old(vm, slot);
	check_invalid(vm, slot);
}

void kvm_arch_flush_shadow_memslot(struct kvm *kvm,
				   struct kvm_memory_slot *slot)
{
	struct vm *vm = vm_of(kvm);

	if (vm->unchecked)
		return;

	vm_note(vm, 'F');
	vm->ops->flush(vm, slot);
}

void kvm_arch_guest_memory_reclaimed(struct kvm *kvm)
{
	struct vm *vm = vm_of(kvm);

	if (!vm->unchecked)
		vm_note(vm, 'R');
}

static void check_prepare(struct vm *vm, const struct kvm_memory_slot *old,
			  const struct kvm_memory_slot *new,
			  enum kvm_mr_change change)
{
	struct request *req = &vm->req;

	check(change == req->change);
	check(!old == (change == KVM_MR_CREATE));
	check(!new == (change == KVM_MR_DELETE));
	if (old)
		check_old(vm, old);
	if (change == KVM_MR_DELETE || change == KVM_MR_MOVE)
		check_invalid(vm, old);
	if (!new)
		return;

	check(new->base_gfn == req->mem->guest_phys_addr >> PAGE_SHIFT);
	check(new->npages == req->mem->memory_size >> PAGE_SHIFT);
	check(new->userspace_addr == (unsigned long)req->mem->userspace_addr);
	check(new->flags == req->mem->flags);
	check(new->id == req->id);
	check(new->as_id == req->as_id);
	check(!memcmp(&new->arch, old ? &old->arch : &no_arch,
		      sizeof(new->arch)));
	check(!new->dirty_bitmap == !(new->flags & KVM_MEM_LOG_DIRTY_PAGES));
	check(req->shared == (old && new->dirty_bitmap &&
			      new->dirty_bitmap == old->dirty_bitmap));
}

int kvm_arch_prepare_memory_region(struct kvm *kvm,
				   const struct kvm_memory_slot *old,
				   struct kvm_memory_slot *new,
				   enum kvm_mr_change change)
{
	struct vm *vm = vm_of(kvm);
	struct request *req = &vm->req;

	if (!vm->unchecked) {
		lockdep_assert_held(&kvm->slots_lock);
		vm_note(vm, 'P');
		vm->ops->prepare(vm, old, new, change);
	}

	req->prepare_failed = true;
	if (req->prepare_error && !req->prepare_after--)
		return req->prepare_error;

	if (change == KVM_MR_CREATE || change == KVM_MR_MOVE) {
		if (change == KVM_MR_CREATE && new->arch.spare[0])
			vm->nr_heirs--;
		new->arch = no_arch;
		new->arch.base = kcalloc(1, sizeof(*new->arch.base),
					 GFP_KERNEL_ACCOUNT);
		if (!new->arch.base)
			return -ENOMEM;
		*new->arch.base = new->base_gfn;
	}
	req->prepare_failed = false;
	return 0;
}

static void check_commit(struct vm *vm, const struct kvm_memory_slot *old,
			 const struct kvm_memory_slot *new,
			 enum kvm_mr_change change)
{
	struct kvm *kvm = &vm->kvm;
	struct request *req = &vm->req;
	struct kvm_memslots *slots = kvm->memslots[req->as_id];
	struct kvm_memslots *other;

	check(change == req->change);
	check(!old == (change == KVM_MR_CREATE));
	check(!new == (change == KVM_MR_DELETE));
	check(req->published == req->synchronized);
	if (old) {
		check(old == req->old);
		check(!(old->flags & KVM_MEMSLOT_INVALID));
		check(*old->arch.base == old->base_gfn);
	}

	/* It is done, in every set. */
	other = &kvm->memslot_space[req->as_id].sets[!slots->node_idx];
	check(!(slots->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS));
	validate_set(vm, req->as_id, slots, &vm->after);
	validate_set(vm, req->as_id, other, &vm->after);
	check(id_to_memslot(slots, req->id) == new);
	if (new) {
		check(!(new->flags & KVM_MEMSLOT_INVALID));
		check(kvm_memslot_at_or_above(slots, new->base_gfn) == new);
	}
	check(kvm->nr_memslot_pages == vm->nr_pages +
	      (change == KVM_MR_CREATE ? new->npages : 0) -
	      (change == KVM_MR_DELETE ? old->npages : 0));
}

void kvm_arch_commit_memory_region(struct kvm *kvm,
				   struct kvm_memory_slot *old,
				   const struct kvm_memory_slot *new,
				   enum kvm_mr_change change)
{
	struct vm *vm = vm_of(kvm);

	if (!vm->unchecked) {
		lockdep_assert_held(&kvm->slots_lock);
		vm_note(vm, 'C');
		vm->ops->commit(vm, old, new, change);
	}

	if (change == KVM_MR_MOVE) {
		kfree(old->arch.base);
		old->arch.base = NULL;
	}
}

void kvm_arch_free_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct vm *vm = vm_of(kvm);

	if (!current_vm)
		vm->freed++;
	else if (!vm->unchecked)
		vm_note(vm, 'X');
	check(!(slot->flags & KVM_MEMSLOT_INVALID));
	if (current_vm && vm->ops->free && !vm->unchecked)
		vm->ops->free(vm, slot);
	if (slot->arch.spare[0])
		vm->nr_heirs--;
	/* it may not have been prepared */
	if (!slot->arch.base && current_vm && !vm->req.published)
		return;
	check(*slot->arch.base == slot->base_gfn);
	kfree(slot->arch.base);
	slot->arch.base = NULL;
}

/*
 * Tracepoints.
 */
void trace_kvm_swap_active_memslots(u16 as_id, unsigned int set, u64 generation)
{
	struct kvm *kvm = &current_vm->kvm;

	check(kvm->memslots[as_id] == &kvm->memslot_space[as_id].sets[set]);
	check(kvm->memslots[as_id]->generation == generation);
}

void trace_kvm_memslot_update(enum kvm_mr_change change,
			      const struct kvm_memory_slot *old,
			      const struct kvm_memory_slot *new,
			      u64 generation, int result)
{
	struct vm *vm = current_vm;

	if (vm->unchecked)
		return;
	check(vm->kvm.memslots[vm->req.as_id]->generation == generation);
	vm->ops->trace(vm, old, new, change, result);
}

/*
 * Requests.
 */
static void check_trace(struct vm *vm, const struct kvm_memory_slot *old,
			const struct kvm_memory_slot *new,
			enum kvm_mr_change change, int result)
{
	const struct kvm_memory_slot *slot = new ?: old;
	struct request *req = &vm->req;

	check(change == req->change);
	check(old == req->old);
	check(!new == (change == KVM_MR_DELETE));
	check(slot->id == req->id);
	check(slot->as_id == req->as_id);
	check(slot->npages);
	req->traced++;
	req->traced_result = result;
}

static const struct request_ops one_slot = {
	.once = "",
	.flush = check_flush,
	.prepare = check_prepare,
	.commit = check_commit,
	.trace = check_trace,
};

/* What the log must say, given what came of the request. */
static const char *expected_log(const struct request *req, int r)
{
	bool prepared = memchr(req->log, 'P', req->logged);

	switch (req->change) {
	case KVM_MR_CREATE:
	case KVM_MR_FLAGS_ONLY:
		return r ? prepared ? "P" : "" : "PASUC";
	case KVM_MR_MOVE:
		return r ? prepared ? "ASUFRPASU" : "" : "ASUFRPASUC";
	case KVM_MR_DELETE:
		return r ? prepared ? "ASUFRPASU" : "" : "ASUFRPASUCX";
	default:
		return "";
	}
}

int vm_request(struct vm *vm, const struct kvm_userspace_memory_region *mem,
	       bool user)
{
	struct kvm_userspace_memory_region copy = *mem;
	int prepare_error = vm->req.prepare_error;
	struct request *req = &vm->req;
	struct kvm_memslot_ids *ids;
	const char *log;
	int r;

	*req = (struct request) {
		.mem = mem,
		.prepare_error = prepare_error,
	};
	vm->ops = &one_slot;
	model_request(vm, mem, user);
	if (req->change != KVM_MR_NONE)
		req->old = id_to_memslot(vm->kvm.memslots[req->as_id], req->id);
	ids = &vm->kvm.memslot_space[req->as_id].ids;
	req->had_chains = ids->buckets;
	shim_memory.failed = SHIM_NONE;
	shim_memory.calls = 0;

	if (user)
		r = kvm_vm_ioctl_set_memory_region(&vm->kvm, &copy);
	else
		r = kvm_set_memory_region(&vm->kvm, mem);

	check(!vm->kvm.slots_lock.held);
	if (req->r || req->change == KVM_MR_NONE) {
		if (r != req->r)
			fail("returns %d instead of %d", r, req->r);
		req->change = KVM_MR_NONE;
	} else if (shim_memory.failed != SHIM_NONE &&
		   !(shim_memory.failed == SHIM_NOWARN && req->had_chains)) {
		if (r != -ENOMEM)
			fail("returns %d without memory", r);
	} else if (r != req->prepare_error) {
		fail("returns %d instead of %d", r, req->prepare_error);
	}

	log = expected_log(req, r);
	if (strcmp(log, req->log))
		fail("does %s instead of %s", req->log, log);

	/* Without memory for a new slot there is nothing to trace. */
	check(req->traced == (req->change != KVM_MR_NONE &&
			      !(r == -ENOMEM && req->change != KVM_MR_DELETE &&
				shim_memory.calls == 1)));
	check(!req->traced || req->traced_result == r);

	if (shim_memory.failed == SHIM_NOWARN)
		vm->ids_unfit[req->as_id] = true;
	else if (!r && (req->change == KVM_MR_CREATE ||
			req->change == KVM_MR_DELETE))
		vm->ids_unfit[req->as_id] = false;

	model_done(vm, r);
	req->prepare_error = 0;
	shim_memory.fail_at = 0;
	validate(vm);
	return r;
}

/* A guest writes to a page. */
void vm_dirty(struct vm *vm, int as_id, gfn_t gfn)
{
	struct kvm_memory_slot *slot;

	if (vm->threaded)
		return;

	slot = kvm_vcpu_gfn_to_memslot(&vm->vcpu[as_id], gfn);
	if (!slot || !slot->dirty_bitmap)
		return;

	set_bit_le(gfn - slot->base_gfn, slot->dirty_bitmap);
	__set_bit(gfn - slot->base_gfn,
		  map_of_gfn(&vm->map[as_id], gfn)->log->bits);
}

struct vm *vm_create(void)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int i;

	check(vm);
	check(!shim_memory.live);
	shim_srcu = NULL;
	mutex_init(&vm->kvm.slots_lock);
	kvm_memslots_init(&vm->kvm);
	kvm_vcpu_gate_init(&vm->kvm);
	vm->random = 1;
	vm->ops = &one_slot;
	vm->kvm.srcu.on_publish = on_publish;
	vm->kvm.srcu.on_sync = on_sync;
	vm->kvm.srcu.on_synced = on_synced;
	shim_srcu = &vm->kvm.srcu;
	shim_memory.on_free = on_free;
	current_vm = vm;
	for (i = 0; i < KVM_ADDRESS_SPACE_NUM; i++) {
		vm->generation[i] = i;
		vm->vcpu[i].kvm = &vm->kvm;
		vm->vcpu[i].as_id = i;
		check(vm->kvm.memslots[i] ==
		      &vm->kvm.memslot_space[i].sets[0]);
	}
	validate(vm);
	return vm;
}

void vm_destroy(struct vm *vm)
{
	unsigned int nr = 0;
	int i;

	for (i = 0; i < KVM_ADDRESS_SPACE_NUM; i++)
		nr += vm->map[i].nr;

	current_vm = NULL;
	kvm_memslots_free(&vm->kvm);
	check(vm->freed == nr);
	check(!shim_memory.live);
	for (i = 0; i < KVM_ADDRESS_SPACE_NUM; i++)
		map_clear(&vm->map[i]);
	map_clear(&vm->during);
	map_clear(&vm->after);
	free(vm);
}
