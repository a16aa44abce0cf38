// SPDX-License-Identifier: GPL-2.0
/*
 * What the container of the memslots costs on a real processor: the trees (include/linux/kvm_memslots.h and
 * virt/kvm/memslots.c as they are, compiled in user space) against an array as Linux 5.10 has it, written anew: sorted by
 * gfn, binary search, last used slot, and copied by each change.
 *
 * usage: native                       all, as lines of JSON
 *        native STRUCTURE OP N LOOPS  one alone, for cachegrind and perf
 *
 * The structures take turns, of short rounds each. A quarter of these was faster than what is told: the others are those
 * that other programs disturbed.
 */
#include <sys/mman.h>
#include <time.h>

#include "shim.h"
#include <../virt/kvm/memslots.h>

#define TURNS		5
#define ROUNDS		24		/* of each turn */
#define LOOK_UPS	3		/* the first operations */
#define MAX_SLOTS	32764
#define SLOT_PAGES	16UL		/* and as many pages of gap */
#define GFNS		16384		/* of a sequence: 64 KiB, more than branch predictors remember */
#ifndef STRIDE
#define STRIDE		256UL		/* from slot to slot: kmalloc()'s slab for 248 bytes */
#endif
#define WALK		8		/* slots of a range */

#define noinline	__attribute__((noinline))

/* ---------------------------------------------------------------- the array */

struct array_slot {
	u64 base_gfn;
	unsigned long npages;
	unsigned long *dirty_bitmap;
	void *arch[6];
	unsigned long userspace_addr;
	u32 flags;
	short id;
	u16 as_id;
};

struct array {
	u64 generation;
	short index_of_id[512];
	int last_used;
	int nr;
	struct array_slot slots[];	/* the highest gfn first */
};

static struct array *array, *spare;

static inline struct array_slot *array_search(struct array *all, u64 gfn)
{
	int low = 0, high = all->nr, at = READ_ONCE(all->last_used);
	struct array_slot *slots = all->slots;

	if (unlikely(!all->nr))
		return NULL;
	if (gfn >= slots[at].base_gfn && gfn < slots[at].base_gfn + slots[at].npages)
		return &slots[at];

	while (low < high) {
		at = low + (high - low) / 2;
		if (gfn >= slots[at].base_gfn)
			high = at;
		else
			low = at + 1;
	}
	if (low < all->nr && gfn >= slots[low].base_gfn && gfn < slots[low].base_gfn + slots[low].npages) {
		WRITE_ONCE(all->last_used, low);
		return &slots[low];
	}
	return NULL;
}

static size_t array_bytes(int nr)
{
	return sizeof(struct array) + nr * sizeof(struct array_slot);
}

/* A change is made to a copy, which then takes the place of the original. */
static struct array *array_copy(int nr)
{
	struct array *copy = spare;

	memset(copy, 0, array_bytes(nr));
	memcpy(copy, array, array_bytes(array->nr));
	return copy;
}

static void array_publish(struct array *copy)
{
	spare = array;
	array = copy;
}

static void array_insert(const struct array_slot *new)
{
	struct array *copy = array_copy(array->nr + 1);
	int at;

	for (at = copy->nr++; at > 0 && copy->slots[at - 1].base_gfn < new->base_gfn; at--)
		copy->slots[at] = copy->slots[at - 1];
	copy->slots[at] = *new;
	array_publish(copy);
}

/* Deletion takes two copies: readers first see the slot as invalid. */
static void array_remove(u64 gfn)
{
	struct array *copy = array_copy(array->nr);
	struct array_slot *slot = array_search(copy, gfn);

	slot->flags |= 1U << 16;
	array_publish(copy);

	copy = array_copy(array->nr);
	slot = array_search(copy, gfn);
	for (copy->nr--; slot < copy->slots + copy->nr; slot++)
		slot[0] = slot[1];
	copy->last_used = 0;
	array_publish(copy);
}

static void array_replace(u64 gfn, u32 flags)
{
	struct array *copy = array_copy(array->nr);

	array_search(copy, gfn)->flags = flags;
	array_publish(copy);
}

/* ---------------------------------------------------------------- the trees */

static struct kvm_memslot_space space;
static unsigned char *slab;		/* a slot is in a slab of objects of 256 bytes */
static struct kvm_memory_slot *spare_slot;

static struct kvm_memory_slot *tree_slot(int i)
{
	return (struct kvm_memory_slot *)(slab + STRIDE * i);
}

static void tree_replace(struct kvm_memory_slot *old, struct kvm_memory_slot *new)
{
	kvm_memslots_replace(&space.sets[1], old, new);
	kvm_memslots_replace(&space.sets[0], old, new);
	kvm_memslot_ids_replace(&space.ids, old, new);
	/* As when the sets are switched: the slot may be gone. */
	space.sets[0].last_used_slot = NULL;
}

/* ---------------------------------------------------------------- the same slots for both */

static u64 gfn_of(int i)
{
	return 2 * SLOT_PAGES * i + SLOT_PAGES;
}

static unsigned long hva_of(int i)
{
	return 0x7f0000000000UL + ((unsigned long)i * SLOT_PAGES << PAGE_SHIFT);
}

static void fill_tree_slot(struct kvm_memory_slot *slot, int i, u64 gfn)
{
	memset(slot, 0, sizeof(*slot));
	slot->base_gfn = gfn;
	slot->npages = SLOT_PAGES;
	slot->userspace_addr = hva_of(i);
	slot->id = i;
}

static void fill_array_slot(struct array_slot *slot, int i, u64 gfn)
{
	*slot = (struct array_slot){ .base_gfn = gfn, .npages = SLOT_PAGES, .userspace_addr = hva_of(i), .id = i };
}

static u32 gfns[3][GFNS];	/* hit, miss, mixed */
static int nr_slots;

static unsigned int below(unsigned int limit)
{
	static u64 state = 1;

	state = state * 6364136223846793005UL + 1442695040888963407UL;
	return (u64)(u32)(state >> 32) * limit >> 32;
}

static void set_up(int nr)
{
	unsigned int bits;
	int i, last = -1;

	nr_slots = nr;
	free(space.ids.buckets);
	kvm_memslot_space_init(&space, 0);
	bits = kvm_memslot_ids_bits(&space.ids, nr + 2);
	kvm_memslot_ids_rehash(&space.ids, calloc(1UL << bits, sizeof(struct hlist_head)), bits);
	for (i = 0; i < nr; i++) {
		fill_tree_slot(tree_slot(i), i, gfn_of(i));
		tree_replace(NULL, tree_slot(i));
	}

	spare_slot = tree_slot(nr);

	memset(array, 0, sizeof(*array));
	array->nr = nr;
	for (i = 0; i < nr; i++)
		fill_array_slot(&array->slots[nr - 1 - i], i, gfn_of(i));

	for (i = 0; i < GFNS; i++) {
		int at;

		do
			at = below(nr);
		while (at == last && nr > 1);
		last = at;
		gfns[0][i] = gfn_of(nr / 3) + below(SLOT_PAGES);
		gfns[1][i] = gfn_of(at) + below(SLOT_PAGES);
		/* three of four in the slot of the one before */
		gfns[2][i] = i % 4 ? gfns[2][i - 1] : gfns[1][i];
	}
}

/* ---------------------------------------------------------------- operations */

static unsigned long sink;

#define LOOK_UP(name, type, search, set)				\
static noinline void name(const u32 *gfn, unsigned long loops)		\
{									\
	static unsigned long next;					\
									\
	/* where the last round ended; one waits for the other */	\
	while (loops--) {						\
		type *slot = search(set, gfn[next % GFNS]);		\
									\
		next += 1 + slot->flags;	/* they are 0 */	\
	}								\
}

LOOK_UP(array_look_up, struct array_slot, array_search, array)
LOOK_UP(tree_look_up, struct kvm_memory_slot, search_memslots, &space.sets[0])

static void array_op(int op, unsigned long loops)
{
	unsigned long i;
	int j, at;

	switch (op) {
	case 0 ... 2:
		array_look_up(gfns[op], loops);
		return;
	case 3:
		for (i = 0; i < loops; i++) {
			u64 gfn = gfn_of(below(nr_slots)) + SLOT_PAGES;
			struct array_slot slot;

			fill_array_slot(&slot, nr_slots, gfn);
			array_insert(&slot);
			array_remove(gfn);
		}
		return;
	case 4:
		for (i = 0; i < loops; i++)
			array_replace(gfn_of(below(nr_slots)), 0);
		return;
	case 5:		/* finds the first one as fast as can be, though 5.10 does not */
		for (i = 0; i < loops; i++) {
			at = array_search(array, gfns[1][i % GFNS]) - array->slots;
			for (j = at; j >= 0 && j > at - WALK; j--)
				sink += array->slots[j].npages;
		}
		return;
	case 6:
		for (i = 0; i < loops; i++) {
			unsigned long hva = hva_of(below(nr_slots)) + PAGE_SIZE, end = hva + PAGE_SIZE;

			for (j = 0; j < array->nr; j++) {
				struct array_slot *slot = &array->slots[j];

				if (hva < slot->userspace_addr + (slot->npages << PAGE_SHIFT) &&
				    end > slot->userspace_addr)
					sink += slot->npages;
			}
		}
		return;
	}
}

static void tree_op(int op, unsigned long loops)
{
	struct kvm_memory_slot *slot, *old;
	struct kvm_memslots *set = &space.sets[0];
	unsigned long i;

	switch (op) {
	case 0 ... 2:
		tree_look_up(gfns[op], loops);
		return;
	case 3:
		for (i = 0; i < loops; i++) {
			fill_tree_slot(spare_slot, nr_slots, gfn_of(below(nr_slots)) + SLOT_PAGES);
			tree_replace(NULL, spare_slot);
			tree_replace(spare_slot, NULL);
		}
		return;
	case 4:
		for (i = 0; i < loops; i++) {
			old = search_memslots(&space.sets[0], gfn_of(below(nr_slots)));
			*spare_slot = *old;
			tree_replace(old, spare_slot);
			spare_slot = old;
		}
		return;
	case 5:
		for (i = 0; i < loops; i++) {
			u64 gfn = gfns[1][i % GFNS];

			kvm_for_each_memslot_in_gfn_range(slot, set, gfn, gfn + 2 * SLOT_PAGES * (WALK - 1) + 1)
				sink += slot->npages;
		}
		return;
	case 6:
		for (i = 0; i < loops; i++) {
			unsigned long hva = hva_of(below(nr_slots)) + PAGE_SIZE;

			kvm_for_each_memslot_in_hva_range(slot, set, hva, hva + PAGE_SIZE)
				sink += slot->npages;
		}
		return;
	}
}

static const struct structure {
	const char *name;
	void (*op)(int op, unsigned long loops);
} structures[] = { { "array", array_op }, { "trees", tree_op } };

static const char *const ops[] = {
	"hit", "miss", "mixed", "insert and remove", "replace", "walk 8 slots by gfn", "find a page by hva",
};

/* The two must agree, in user space as in the kernel. */
static void compare_results(void)
{
	int i;

	for (i = 0; i < GFNS; i++) {
		struct array_slot *a = array_search(array, gfns[1][i]);
		struct kvm_memory_slot *b = search_memslots(&space.sets[0], gfns[1][i]);

		check(a && b && a->id == b->id && a->base_gfn == b->base_gfn);
		check(!array_search(array, a->base_gfn + SLOT_PAGES));
		check(!search_memslots(&space.sets[0], a->base_gfn + SLOT_PAGES));
	}
}

/* Of this thread: others on a busy machine do not count. */
static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(double *)a, y = *(double *)b;

	return x < y ? -1 : x > y;
}

static double round_ns(int structure, int op, unsigned long loops)
{
	double start = now_ns();

	structures[structure].op(op, loops);
	return (now_ns() - start) / loops;
}

static void measure(int op)
{
	double times[2][TURNS * ROUNDS], best[2];
	unsigned long loops[2] = { GFNS / 8, GFNS / 8 };
	int turn, round, i;

	for (turn = 0; turn < TURNS; turn++)
		for (i = 0; i < 2; i++) {
			/* what is not a look-up: a tenth of a millisecond a round, and the first ones warm up */
			while (op >= LOOK_UPS && loops[i] > 1 && round_ns(i, op, loops[i]) * loops[i] > 200e3)
				loops[i] /= 2;
			round_ns(i, op, op < LOOK_UPS ? GFNS : loops[i]);
			for (round = 0; round < ROUNDS; round++)
				times[i][turn * ROUNDS + round] = round_ns(i, op, loops[i]);
		}
	for (i = 0; i < 2; i++) {
		qsort(times[i], TURNS * ROUNDS, sizeof(double), compare_doubles);
		best[i] = times[i][TURNS * ROUNDS / 4];
	}
	printf("{\"slots\": %d, \"op\": \"%s\", \"array_ns\": %.2f, \"trees_ns\": %.2f}\n", nr_slots, ops[op], best[0],
	       best[1]);
	fflush(stdout);
}

/* In huge pages, as the kernel's linear map is. */
static void *allocate(size_t size)
{
	void *memory = aligned_alloc(1 << 21, ALIGN(size, 1UL << 21));

	check(memory);
	madvise(memory, size, MADV_HUGEPAGE);
	return memset(memory, 0, size);
}

int main(int argc, char **argv)
{
	static const int counts[] = { 1, 2, 4, 10, 16, 32, 64, 100, 200, 509, 1000, 2000, 4000, 8192, 16000, 32764 };
	size_t size = array_bytes(MAX_SLOTS + 2);
	unsigned int i, op;

	array = allocate(size);
	spare = allocate(size);
	slab = allocate((MAX_SLOTS + 4) * STRIDE);

	if (argc == 5) {
		set_up(atoi(argv[3]));
		for (op = 0; op < ARRAY_SIZE(ops); op++)
			if (!strcmp(argv[2], ops[op]))
				structures[!strcmp(argv[1], "trees")].op(op, strtoul(argv[4], NULL, 10));
		return 0;
	}
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		set_up(counts[i]);
		compare_results();
		for (op = 0; op < ARRAY_SIZE(ops); op++)
			measure(op);
	}
	return 0;
}
