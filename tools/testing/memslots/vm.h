/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VM_H
#define VM_H

#include <../virt/kvm/memory_regions.h>

#include "test.h"

/*
 * The model: a sorted array of slots an address space.  Slow, and obviously
 * right.
 */
#define MAP_MAX		1024

/* A dirty log.  Slots of several maps have the same one, as those of KVM have. */
struct log {
	unsigned int refs;
	unsigned long npages;
	unsigned long bits[];
};

struct map_slot {
	gfn_t base_gfn;
	unsigned long npages;
	unsigned long userspace_addr;
	u32 flags;
	int id;
	struct log *log;	/* or NULL */
};

struct map {
	unsigned int nr;
	struct map_slot slots[MAP_MAX];
};

struct log *log_new(unsigned long npages, bool ones);
struct log *log_get(struct log *log);
void log_put(struct log *log);
void map_copy(struct map *to, const struct map *from);
void map_clear(struct map *map);
void map_insert(struct map *map, const struct map_slot *new);
struct map_slot *map_of_id(struct map *map, int id);
struct map_slot *map_of_gfn(struct map *map, gfn_t gfn);
u64 map_sum(const struct map *map, int as_id);
u64 slot_sum(const struct kvm_memory_slot *slot);

#define KVM_MR_NONE	(-1)	/* nothing to change */
#define KVM_MR_SET	(-2)	/* all slots of an address space at once */

/* What comes of the regions of a request for all slots. */
enum fate {
	KEPT,		/* the slot that there is */
	RENAMED,	/* another one in its place that differs in its id */
	REFLAGGED,	/* ... in whether it is logged, and maybe in its id */
	CREATED,
};

struct coming {
	const struct kvm_userspace_memory_region *region;
	enum fate fate;
	struct kvm_memory_slot *old;
	gfn_t *old_base;	/* that it hands on */
	unsigned long *old_log;
	bool relogged;		/* pages that it inherits are logged, or no more */
	unsigned int prepared, committed, recommitted, traced;
};

/* A slot that there was. */
struct going {
	struct kvm_memory_slot *slot;
	int id;
	bool goes;
	u64 lost;		/* pages whose mappings have to go */
	gfn_t flushed_to;
	u64 flushed;
	unsigned int prepared, committed, traced, freed;
};

/* A request: what is to come of it, and what has been seen of it. */
struct request {
	const struct kvm_userspace_memory_region *mem;
	int r;			/* that the model expects, failures aside */
	int change;
	int as_id;
	int id;			/* -1 if it is for all slots */
	bool shared;		/* old and new slot have the same dirty log */
	bool had_chains;
	int prepare_error;	/* that the architecture is to return */
	unsigned int prepare_after;	/* so many slots */
	bool prepare_failed;
	bool killed;		/* while it waits for kvm->slots_lock */
	int hold_error;		/* that kvm_vcpus_hold() is to return */
	bool vcpus_held;
	unsigned long rescheds;	/* by then */
	unsigned int published;
	unsigned int synchronized;
	struct kvm_memory_slot *old;
	unsigned int traced;
	int traced_result;
	/*
	 * In the order in which it happened: Assign the pointer to a set,
	 * Synchronize, Updated, Flush, Reclaimed, Prepare, Commit, X free; Hold
	 * the vCPUs (h if that fails), Let them run.  Once for several slots.
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

/* What user space asks for when it asks for all slots. */
struct regions {
	unsigned int nr;
	struct kvm_userspace_memory_region list[MAP_MAX];
};

struct vm;

/* What requests for one slot and for all slots are checked for. */
struct request_ops {
	const char *once;	/* events that are logged once for several slots */
	void (*synced)(struct vm *vm);
	void (*flush)(struct vm *vm, const struct kvm_memory_slot *slot);
	void (*prepare)(struct vm *vm, const struct kvm_memory_slot *old,
			const struct kvm_memory_slot *new,
			enum kvm_mr_change change);
	void (*commit)(struct vm *vm, const struct kvm_memory_slot *old,
		       const struct kvm_memory_slot *new,
		       enum kvm_mr_change change);
	void (*trace)(struct vm *vm, const struct kvm_memory_slot *old,
		      const struct kvm_memory_slot *new,
		      enum kvm_mr_change change, int result);
	void (*free)(struct vm *vm, const struct kvm_memory_slot *slot);
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
	const struct request_ops *ops;
	struct map during, after;
	struct held held[KVM_ADDRESS_SPACE_NUM];

	/* If it is one for all slots: what comes of each. */
	struct coming coming[MAP_MAX];
	struct going going[MAP_MAX];
	unsigned int nr_coming, nr_going;
	unsigned int nr_prepare, nr_commit, nr_changed, nr_created, nr_deleted;
	u64 nr_lost;
	/* The architecture cannot hand mappings over. */
	bool refuses;
	/* New slots that have been told to inherit, and nothing more. */
	unsigned int nr_heirs;

	/* Maps that are being edited, see edit.c. */
	bool editing[KVM_ADDRESS_SPACE_NUM];
	struct regions edited[KVM_ADDRESS_SPACE_NUM];

	/* Nobody writes while a request is under way. */
	bool quiet;
	/* Too large for a model. */
	bool unchecked;
	/* Others look at the maps at the same time. */
	bool threaded;
	/* No vCPU is inside the gate. */
	bool switching;
	struct expected_map expected[KVM_ADDRESS_SPACE_NUM][EXPECTED_MAPS];
};

/* model.c */
void model_request(struct vm *vm, const struct kvm_userspace_memory_region *mem,
		   bool user);
bool model_valid(const struct kvm_userspace_memory_region *mem, bool user);
struct map *model_stage(struct vm *vm, unsigned int published);
void model_done(struct vm *vm, int r);

/* model_regions.c */
void model_regions(struct vm *vm,
		   const struct kvm_userspace_memory_regions *all);
void model_carry(struct vm *vm);
bool model_inherits(struct vm *vm, const struct map_slot *old,
		    const struct coming *coming, gfn_t *start, gfn_t *end);

/* validate.c */
void validate_set(struct vm *vm, int as_id, struct kvm_memslots *slots,
		  struct map *map);
void validate(struct vm *vm);
void validate_lookups(struct vm *vm, int as_id, unsigned int nr);

/* vm.c */
extern struct vm *current_vm;	/* for tracepoints, which have no VM */

struct vm *vm_create(void);
void vm_destroy(struct vm *vm);
int vm_request(struct vm *vm, const struct kvm_userspace_memory_region *mem,
	       bool user);
void vm_dirty(struct vm *vm, int as_id, gfn_t gfn);
void vm_note(struct vm *vm, char event);
void vm_dirty_some(struct vm *vm, struct kvm_memslots *slots,
		   const struct map *stage);

/* vm_regions.c */
int vm_request_all(struct vm *vm,
		   const struct kvm_userspace_memory_regions *all);
int vm_set_all(struct vm *vm, int as_id, const struct regions *regions);

/* edit.c */
void regions_now(struct vm *vm, int as_id, struct regions *regions);
unsigned int edit_line(struct vm *vm, int as_id, const unsigned char *line,
		       bool verbose);

/* powerpc.c */
void test_uvmem_init_start(struct vm *vm);
void test_uvmem_init_abort(struct vm *vm);

/* The characters of a line of a script, see script.c. */
enum field { KIND, SLOT, GFN_HIGH, GFN_LOW, SIZE, HVA, FLAGS, FAILURE };

static inline unsigned int script_field(const unsigned char *line,
					enum field field)
{
	return (line[field] - '0') & 0x3f;
}

static inline u64 script_npages(const unsigned char *line)
{
	unsigned int size = script_field(line, SIZE);

	return ((size & 15) + 1) << "\0\0\3\6"[size >> 4];
}

/* the programs */
int script_random(unsigned long nr, u64 seed, const char *save);
int script_replay(const char *path, bool verbose);
void script_print(const char *path);
unsigned int script_run_in(struct vm *vm, const unsigned char *script,
			   size_t size, bool verbose);
void script_run(const unsigned char *script, size_t size, bool verbose);
void script_generate(unsigned char *script, size_t size, u64 seed);
int threads_main(unsigned int seconds, u64 seed);

extern const struct directed_test directed_regions[];

#endif /* VM_H */
