// SPDX-License-Identifier: GPL-2.0-only
/*
 * Walks over all memslots of a guest of powerpc that becomes a secure one, and
 * a change that publishes another set midway.  It then waits for the walk,
 * which is in a section of kvm->srcu, and does not change the set further.
 */
#include "vm.h"

#define KVMPPC_SECURE_INIT_START	1
#define KVMPPC_SECURE_INIT_DONE		2
#define H_SUCCESS			0
#define H_STATE				-75
#define H_PARAMETER			-4
#define H_UNSUPPORTED			-67
#define H_AUTHORITY			-3

static const bool kvmppc_uvmem_bitmap = true;
static struct kvm_memory_slot *fails, *publish_at, *seen[8];
static unsigned int nr_seen;

static bool kvm_is_radix(struct kvm *kvm)
{
	return true;
}

static void see(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	check(nr_seen < ARRAY_SIZE(seen));
	seen[nr_seen++] = slot;
	if (slot == publish_at)
		kvm->memslots[0] = kvm_get_inactive_memslots(kvm, 0);
}

static int __kvmppc_uvmem_memslot_create(struct kvm *kvm,
					 struct kvm_memory_slot *slot)
{
	see(kvm, slot);
	return slot == fails ? H_PARAMETER : H_SUCCESS;
}

static void __kvmppc_uvmem_memslot_delete(struct kvm *kvm,
					  struct kvm_memory_slot *slot)
{
	see(kvm, slot);
}

static void kvmppc_uvmem_drop_pages(struct kvm_memory_slot *slot,
				    struct kvm *kvm, bool skip_page_out)
{
	see(kvm, slot);
}

static void uv_svm_terminate(int lpid)
{
}

#include "extracted_uvmem.h"

/* The inactive set is without a slot, and is published at that one. */
static struct kvm_memslots *start(struct vm *vm, gfn_t gfn)
{
	struct kvm_memslots *slots = __kvm_memslots(&vm->kvm, 0);

	vm->kvm.arch.svm_enabled = true;
	nr_seen = 0;
	publish_at = __gfn_to_memslot(slots, gfn);
	kvm_memslots_replace(kvm_get_inactive_memslots(&vm->kvm, 0), publish_at,
			     NULL);
	return slots;
}

static void end(struct vm *vm, struct kvm_memslots *slots)
{
	check(vm->kvm.memslots[0] != slots);
	vm->kvm.memslots[0] = slots;
	kvm_memslots_replace(kvm_get_inactive_memslots(&vm->kvm, 0), NULL,
			     publish_at);
}

/* That a slot cannot be registered undoes those before it, no others. */
void test_uvmem_init_start(struct vm *vm)
{
	struct kvm_memslots *slots = start(vm, 0x110);

	fails = publish_at;
	check(kvmppc_h_svm_init_start(&vm->kvm) == H_PARAMETER);
	check(nr_seen == 5);
	check(seen[0]->id == 4 && seen[1]->id == 1 && seen[2]->id == 2);
	check(seen[3]->id == 4 && seen[4]->id == 1);
	end(vm, slots);

	fails = NULL;
	slots = start(vm, 0x100);
	check(kvmppc_h_svm_init_start(&vm->kvm) == H_SUCCESS);
	check(nr_seen == 4);
	end(vm, slots);
}

/* All slots lose their pages. */
void test_uvmem_init_abort(struct vm *vm)
{
	struct kvm_memslots *slots = start(vm, 0x100);

	vm->kvm.arch.secure_guest = KVMPPC_SECURE_INIT_START;
	check(kvmppc_h_svm_init_abort(&vm->kvm) == H_PARAMETER);
	check(nr_seen == 4);
	check(seen[0]->id == 4 && seen[1]->id == 1 && seen[2]->id == 2 &&
	      seen[3]->id == 3);
	end(vm, slots);
}
