/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VM_H
#define VM_H

#include <../virt/kvm/memslots.h>

/*
 * The model: a sorted array of slots an address space.  Slow, and obviously
 * right.
 */
#define MAP_MAX		1024

struct map_slot {
	gfn_t base_gfn;
	unsigned long npages;
	unsigned long userspace_addr;
	u32 flags;
	int id;
	u64 dirty;		/* dirty log of the first 64 pages */
};

struct map {
	unsigned int nr;
	struct map_slot slots[MAP_MAX];
};

struct map_slot *map_of_id(struct map *map, int id);
struct map_slot *map_of_gfn(struct map *map, gfn_t gfn);
u64 map_sum(const struct map *map, int as_id);
u64 slot_sum(const struct kvm_memory_slot *slot);

#define KVM_MR_NONE	(-1)	/* nothing to change */

/* A request: what is to come of it, and what has been seen of it. */
struct request {
	const struct kvm_userspace_memory_region *mem;
	int r;			/* that the model expects, failures aside */
	int change;
	int as_id;
	int id;
	bool shared;		/* old and new slot have the same dirty log */
	bool had_chains;
	int prepare_error;	/* that the architecture is to return */
	bool prepare_failed;
	unsigned int published;
	unsigned int synchronized;
	struct kvm_memory_slot *old;
	unsigned int traced;
	int traced_result;
	/*
	 * In the order in which it happened: Assign the pointer to a set,
	 * Synchronize, Updated, Flush, Reclaimed, Prepare, Commit, X free.
	 */
	char log[32];
	unsigned int logged;
};

/* What a reader may have a pointer to. */
struct held {
	unsigned int nr;
	const void *p[3 * MAP_MAX];
};

/* Which sum a walk over the set of a generation must have. */
#define EXPECTED_MAPS	64

struct expected_map {
	u64 generation;
	u64 sum;
};

struct vm {
	struct kvm kvm;
	struct kvm_vcpu vcpu[KVM_ADDRESS_SPACE_NUM];

	struct map map[KVM_ADDRESS_SPACE_NUM];
	unsigned long nr_pages;
	u64 generation[KVM_ADDRESS_SPACE_NUM];
	/* There was no memory for a hash of the right size. */
	bool ids_unfit[KVM_ADDRESS_SPACE_NUM];
	u64 random;
	unsigned int freed;	/* slots, with the VM */

	/* The request that is under way, and the maps that it leads to. */
	struct request req;
	struct map during, after;
	struct held held[KVM_ADDRESS_SPACE_NUM];

	/* Too large for a model. */
	bool unchecked;
	/* Others look at the maps at the same time. */
	bool threaded;
	struct expected_map expected[KVM_ADDRESS_SPACE_NUM][EXPECTED_MAPS];
};

static inline u64 next_random(u64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dULL >> 16;
}

/* model.c */
void model_request(struct vm *vm, const struct kvm_userspace_memory_region *mem,
		   bool user);
struct map *model_stage(struct vm *vm, unsigned int published);
void model_done(struct vm *vm, int r);
void model_dirty(struct vm *vm, int as_id, int id, u64 mask);
void model_request_dirty(struct vm *vm, const struct map *stage, u64 mask);

/* validate.c */
void validate_set(struct vm *vm, int as_id, struct kvm_memslots *slots,
		  struct map *map);
void validate(struct vm *vm);
void validate_lookups(struct vm *vm, int as_id, unsigned int nr);

/* vm.c */
struct vm *vm_create(void);
void vm_destroy(struct vm *vm);
int vm_request(struct vm *vm, const struct kvm_userspace_memory_region *mem,
	       bool user);
void vm_dirty(struct vm *vm, int as_id, gfn_t gfn);

/* the programs */
int directed_main(void);
int script_random(unsigned long nr, u64 seed, const char *save);
int script_replay(const char *path, bool verbose);
void script_print(const char *path);
unsigned int script_run_in(struct vm *vm, const unsigned char *script,
			   size_t size, bool verbose);
void script_run(const unsigned char *script, size_t size, bool verbose);
void script_generate(unsigned char *script, size_t size, u64 seed);
int threads_main(unsigned int seconds, u64 seed);

#endif /* VM_H */
