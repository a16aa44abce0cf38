// SPDX-License-Identifier: GPL-2.0-only
/*
 * Readers, a vCPU and an MMU notifier, while somebody changes the slots.
 * What they see is a map that there is or was, and complete: the writer says
 * before it switches which sum the map of the next generation has.
 */
#include <time.h>
#include <unistd.h>

#include "vm.h"

#define READERS		2

struct reader {
	pthread_t thread;
	struct vm *vm;
	struct kvm_vcpu vcpu[KVM_ADDRESS_SPACE_NUM];
	u64 random;
	unsigned long walks;
	unsigned long updates;	/* that it was in the middle of */
};

static bool stop;

/* Read, and write, what goes with a slot. */
static void use(struct kvm_memory_slot *slot)
{
	check(*slot->arch.base == slot->base_gfn);
	if (slot->dirty_bitmap)
		__atomic_fetch_or(slot->dirty_bitmap, 1, __ATOMIC_RELAXED);
}

static void read_slots(struct reader *reader, int as_id)
{
	struct vm *vm = reader->vm;
	struct kvm_memory_slot *slot, *one = NULL;
	u64 generation, gfn_sum = 0, hva_sum = 0;
	struct expected_map *expected;
	struct kvm_memslots *slots;
	unsigned long hva = 0;
	gfn_t gfn = 0;
	int period;

	period = srcu_read_lock(&vm->kvm.srcu);
	slots = __kvm_memslots(&vm->kvm, as_id);
	generation = READ_ONCE(slots->generation);
	if (generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) {
		generation &= ~KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;
		generation += KVM_ADDRESS_SPACE_NUM;
		reader->updates++;
	}

	kvm_for_each_memslot(slot, slots) {
		check(slot->base_gfn >= gfn);
		gfn = slot->base_gfn + slot->npages;
		gfn_sum += slot_sum(slot);
		use(slot);
		if (!one || next_random(&reader->random) % 4 == 0)
			one = slot;
	}
	kvm_for_each_memslot_in_hva_range(slot, slots, 0, ULONG_MAX) {
		check(slot->userspace_addr >= hva);
		hva = slot->userspace_addr;
		hva_sum += slot_sum(slot);
	}

	expected = &vm->expected[as_id][generation % EXPECTED_MAPS];
	check(READ_ONCE(expected->generation) == generation);
	check(READ_ONCE(expected->sum) == gfn_sum);
	check(gfn_sum == hva_sum);

	if (one) {
		gfn = one->base_gfn +
		      next_random(&reader->random) % one->npages;
		check(__gfn_to_memslot(slots, gfn) == one);

		/* That of the vCPU may be of a newer set. */
		slot = kvm_vcpu_gfn_to_memslot(&reader->vcpu[as_id], gfn);
		if (slot) {
			check(kvm_memslot_has_gfn(slot, gfn));
			use(slot);
		}
	}
	/* A reader that sleeps has the writer wait, which waits for it. */
	if (next_random(&reader->random) % 64 == 0)
		usleep(1);
	srcu_read_unlock(&vm->kvm.srcu, period);
	if (next_random(&reader->random) % 8 == 0)
		usleep(1);
	reader->walks++;
}

static void *read_thread(void *arg)
{
	struct reader *reader = arg;

	while (!READ_ONCE(stop))
		read_slots(reader, next_random(&reader->random) % 2);
	return NULL;
}

/* The same in KVM_RUN, where it is held while slots go all at once. */
static void *vcpu_thread(void *arg)
{
	struct reader *reader = arg;
	struct kvm_vcpu *vcpu = &reader->vcpu[0];
	struct vm *vm = reader->vm;

	while (!READ_ONCE(stop)) {
		if (kvm_vcpu_gate_wanted(vcpu))
			check(!kvm_vcpu_gate_pass(vcpu));
		check(!READ_ONCE(vm->switching));
		read_slots(reader, next_random(&reader->random) % 2);
		check(!READ_ONCE(vm->switching));
	}
	kvm_vcpu_gate_leave(vcpu);
	return NULL;
}

int threads_main(unsigned int seconds, u64 seed)
{
	static unsigned char script[10 * 9];
	unsigned long requests = 0, walks = 0, updates = 0;
	struct reader readers[READERS] = {};
	time_t end = time(NULL) + seconds;
	struct vm *vm = vm_create();
	int i, as_id;

	fprintf(stderr, "# seed %llu\n", seed);
	alarm(seconds + 60);
	vm->threaded = true;
	for (as_id = 0; as_id < KVM_ADDRESS_SPACE_NUM; as_id++)
		vm->expected[as_id][as_id].generation = as_id;

	vm->kvm.vcpus[0] = &readers[0].vcpu[0];
	atomic_set(&vm->kvm.online_vcpus, 1);
	for (i = 0; i < READERS; i++) {
		readers[i].vm = vm;
		readers[i].random = i + 1;
		for (as_id = 0; as_id < KVM_ADDRESS_SPACE_NUM; as_id++) {
			readers[i].vcpu[as_id].kvm = &vm->kvm;
			readers[i].vcpu[as_id].as_id = as_id;
		}
		check(!pthread_create(&readers[i].thread, NULL,
				      i ? read_thread : vcpu_thread,
				      &readers[i]));
	}

	do {
		script_generate(script, sizeof(script), seed++);
		requests += script_run_in(vm, script, sizeof(script), false);
	} while (time(NULL) < end);

	WRITE_ONCE(stop, true);
	for (i = 0; i < READERS; i++) {
		pthread_join(readers[i].thread, NULL);
		walks += readers[i].walks;
		updates += readers[i].updates;
	}
	vm->threaded = false;
	atomic_set(&vm->kvm.online_vcpus, 0);
	vm_destroy(vm);
	printf("ok - %lu requests, %lu walks, %lu of them during a switch\n",
	       requests, walks, updates);
	return 0;
}
