/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_H
#define SHIM_H

/*
 * What the files under test need of the kernel, in user space.  The Makefile
 * makes every kernel header that they include, and that is not taken from the
 * kernel as it is, one that includes this file.
 */
#define __SANE_USERSPACE_TYPES__
#include <asm/types.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define BITS_PER_LONG	__LONG_WIDTH__
#define PAGE_SHIFT	12
#define PAGE_SIZE	BIT(PAGE_SHIFT)

#define __init
#define __rcu
#define __user
#define __must_check		__attribute__((warn_unused_result))
#define notrace

#define likely(x)		__builtin_expect(!!(x), 1)
#define unlikely(x)		__builtin_expect(!!(x), 0)
#define barrier()		__atomic_signal_fence(__ATOMIC_SEQ_CST)
#define static_assert(expr, ...) _Static_assert(expr, #expr)

#define BIT(nr)			(1UL << (nr))
#define BIT_ULL(nr)		(1ULL << (nr))
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define container_of(ptr, type, member)					\
	((type *)((char *)(ptr) - offsetof(type, member)))

#define max_t(type, x, y) ({						\
	type __x = (x);							\
	type __y = (y);							\
									\
	__x > __y ? __x : __y;						\
})

#define ALIGN(x, a) ({							\
	typeof(x) __mask = (typeof(x))(a) - 1;				\
									\
	((x) + __mask) & ~__mask;					\
})

/* Atomic, so that TSan takes what is marked for what it is. */
#define READ_ONCE(x)		__atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, val)	__atomic_store_n(&(x), val, __ATOMIC_RELAXED)
/* pairs with smp_store_release() */
#define smp_load_acquire(p)	__atomic_load_n(p, __ATOMIC_ACQUIRE)
/* pairs with smp_load_acquire() */
#define smp_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)

struct list_head {
	struct list_head *next, *prev;
};

struct hlist_node {
	struct hlist_node *next, **pprev;
};

struct hlist_head {
	struct hlist_node *first;
};

/* Whatever is wrong ends the process: the test runs in one of its own. */
void shim_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 3, 4)));

#define fail(...)		shim_fail(__FILE__, __LINE__, __VA_ARGS__)
#define check(cond)							\
	do {								\
		if (!(cond))						\
			fail("not so: %s", #cond);			\
	} while (0)

/* A warning is a failure, but in a test that provokes it. */
extern bool shim_warn_expected;
extern unsigned int shim_warned;
void shim_warn(const char *file, int line, const char *cond);

#define WARN_ON_ONCE(cond) ({						\
	bool __cond = !!(cond);						\
									\
	if (__cond)							\
		shim_warn(__FILE__, __LINE__, #cond);			\
	__cond;								\
})

struct mutex {
	pthread_mutex_t mutex;
	bool held;
};

void mutex_init(struct mutex *lock);
void mutex_lock(struct mutex *lock);
void mutex_unlock(struct mutex *lock);

#define lockdep_assert_held(lock)	check((lock)->held)

/* Memory: counted, poisoned when freed, and not there when a test says so. */
#define GFP_KERNEL_ACCOUNT	1U
#define __GFP_NOWARN		2U

enum shim_alloc {
	SHIM_NONE,
	SHIM_KMALLOC,
	SHIM_VMALLOC,
	SHIM_KVMALLOC,
};

extern struct shim_memory {
	unsigned int live;		/* objects allocated and not freed */
	unsigned int calls;		/* allocations tried */
	unsigned int fail_at;		/* which one to fail from now, 0: none */
	enum shim_alloc failed;		/* the one that did */
	enum shim_alloc last;		/* the last one that did not */
	void (*on_free)(const void *p);	/* checks that it may be freed */
} shim_memory;

void *shim_alloc(size_t n, size_t size, enum shim_alloc type);
void shim_free(const void *p, bool vmalloc);
size_t shim_size(const void *p);

#define kzalloc(size, gfp)	shim_alloc(1, size, SHIM_KMALLOC)
#define kcalloc(n, size, gfp)	shim_alloc(n, size, SHIM_KMALLOC)
#define __vcalloc(n, size, gfp)	shim_alloc(n, size, SHIM_VMALLOC)
#define kvcalloc(n, size, gfp)	shim_alloc(n, size, SHIM_KVMALLOC)
#define kfree(p)		shim_free(p, false)
#define kvfree(p)		shim_free(p, true)

static inline size_t array_size(size_t n, size_t size)
{
	size_t bytes;

	return __builtin_mul_overflow(n, size, &bytes) ? SIZE_MAX : bytes;
}

void bitmap_set(unsigned long *map, unsigned int start, unsigned int nr);

/* SRCU: two counters for each of two periods, as in the kernel, less per-CPU. */
struct srcu_struct {
	unsigned int period;
	unsigned long locks[2];
	unsigned long unlocks[2];
	void (*on_publish)(struct srcu_struct *srcu, const void *p);
	void (*on_sync)(struct srcu_struct *srcu);
	void (*on_synced)(struct srcu_struct *srcu);
};

extern struct srcu_struct *shim_srcu;	/* for whom rcu_assign_pointer() is */

int srcu_read_lock(struct srcu_struct *srcu);
void srcu_read_unlock(struct srcu_struct *srcu, int period);
void synchronize_srcu_expedited(struct srcu_struct *srcu);

#define rcu_assign_pointer(p, v)					\
	do {								\
		typeof(p) __v = (v);					\
									\
		if (shim_srcu)						\
			shim_srcu->on_publish(shim_srcu, __v);		\
		__atomic_store_n(&(p), __v, __ATOMIC_RELEASE);		\
	} while (0)
#define srcu_dereference(p, srcu)	__atomic_load_n(&(p), __ATOMIC_ACQUIRE)

#endif /* SHIM_H */
