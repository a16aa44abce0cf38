/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef TEST_H
#define TEST_H

#include <linux/kvm_host.h>

struct vm;

struct directed_test {
	const char *name;
	void (*run)(struct vm *vm);
};

/* Lists end with an empty test, and the list of those with NULL. */
extern const struct directed_test *const directed_groups[];
extern const struct directed_test directed_gate[];

void directed_run(const struct directed_test *test);
int directed_main(void);
void validate_trees(struct kvm_memslots *slots, unsigned int nr_slots);

static inline u64 next_random(u64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dULL >> 16;
}

#endif /* TEST_H */
