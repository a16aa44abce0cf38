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
typedef __s64 s64;

#define BITS_PER_LONG	__LONG_WIDTH__
#define PAGE_SHIFT	12
#define PAGE_SIZE	BIT(PAGE_SHIFT)

#define __rcu
#define __user
#define noinline		__attribute__((noinline))
#define __weak			__attribute__((weak))
#define __must_check		__attribute__((warn_unused_result))

#define likely(x)		__builtin_expect(!!(x), 1)
#define unlikely(x)		__builtin_expect(!!(x), 0)
#define barrier()		__atomic_signal_fence(__ATOMIC_SEQ_CST)
#define static_assert(expr, ...) _Static_assert(expr, #expr)

#define BIT(nr)			(1UL << (nr))
#define BIT_ULL(nr)		(1ULL << (nr))
#define GENMASK(h, l)							\
	(~0UL << (l) & ~0UL >> (BITS_PER_LONG - 1 - (h)))
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define container_of(ptr, type, member)					\
	((type *)((char *)(ptr) - offsetof(type, member)))

#define max(x, y) ({							\
	typeof(x) _x = (x);						\
	typeof(y) _y = (y);						\
									\
	(void)(&_x == &_y);						\
	_x > _y ? _x : _y;						\
})

#define min(x, y) ({							\
	typeof(x) _x = (x);						\
	typeof(y) _y = (y);						\
									\
	(void)(&_x == &_y);						\
	_x < _y ? _x : _y;						\
})

#define swap(x, y)							\
	do {								\
		typeof(x) __x = (x);					\
									\
		(x) = (y);						\
		(y) = __x;						\
	} while (0)

#define min3(x, y, z)		min((typeof(x))min(x, y), z)

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
#if BITS_PER_LONG == 64
#define READ_ONCE(x)		__atomic_load_n(&(x), __ATOMIC_RELAXED)
#else
/* Two halves, if it is a u64, and something may happen between them. */
extern void (*shim_between_halves)(void);
extern bool shim_upper_first;
u64 shim_read_halves(const volatile void *p);

#define READ_ONCE(x)							\
	__builtin_choose_expr(sizeof(x) == sizeof(u64),			\
			      shim_read_halves(&(x)),			\
			      __atomic_load_n(&(x), __ATOMIC_RELAXED))
#endif
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
/* Called before a lock is taken, if set. */
extern void (*shim_locking)(struct mutex *lock);
void mutex_lock(struct mutex *lock);
void mutex_unlock(struct mutex *lock);

/* Whoever waits for a lock is killed, once. */
extern bool shim_killed;
int __must_check mutex_lock_killable(struct mutex *lock);

#define lockdep_assert_held(lock)	check((lock)->held)

/* Threads that pause now and then find what may happen in between. */
extern bool shim_pauses;
void shim_pause(void);

/* TSan takes no notice of it, and does not have to, as long as it is there. */
#define smp_mb()		__atomic_thread_fence(__ATOMIC_SEQ_CST)

/* A section of RCU costs nothing; who waits makes all threads have a barrier. */
#define preempt_disable()	barrier()
#define preempt_enable()	(barrier(), shim_pause())
void synchronize_rcu_expedited(void);

typedef struct {
	int counter;
} atomic_t;

#define atomic_read(v)							\
	(shim_pause(), __atomic_load_n(&(v)->counter, __ATOMIC_RELAXED))
#define atomic_set(v, i)						\
	__atomic_store_n(&(v)->counter, i, __ATOMIC_RELAXED)

typedef struct {
	long counter;
} atomic_long_t;

#define atomic_long_or(i, v)						\
	((void)__atomic_fetch_or(&(v)->counter, i, __ATOMIC_RELAXED))

/* Threads that wait, to be woken up, signalled (all of them) or killed. */
struct shim_wait {
	pthread_mutex_t mutex;
	pthread_cond_t woken;
};

typedef struct shim_wait wait_queue_head_t;

struct rcuwait {
	struct shim_wait wait;
};

extern bool shim_signalled;
extern unsigned int shim_waiting;	/* threads */

/* How often others could have run. */
extern unsigned long shim_rescheds;

#define cond_resched()							\
	((void)__atomic_fetch_add(&shim_rescheds, 1, __ATOMIC_RELAXED))

void init_waitqueue_head(struct shim_wait *wait);
void wake_up_all(struct shim_wait *wait);
#define rcuwait_init(w)		init_waitqueue_head(&(w)->wait)
#define rcuwait_wake_up(w)	wake_up_all(&(w)->wait)

#define shim_wait_event(w, cond, interrupted) ({			\
	struct shim_wait *__w = (w);					\
	int __r = 0;							\
									\
	pthread_mutex_lock(&__w->mutex);				\
	while (!(cond)) {						\
		if (READ_ONCE(interrupted)) {				\
			__r = -EINTR;					\
			break;						\
		}							\
		__atomic_fetch_add(&shim_waiting, 1, __ATOMIC_RELAXED);	\
		pthread_cond_wait(&__w->woken, &__w->mutex);		\
		__atomic_fetch_sub(&shim_waiting, 1, __ATOMIC_RELAXED);	\
	}								\
	pthread_mutex_unlock(&__w->mutex);				\
	__r;								\
})
#define wait_event_interruptible(wq, cond)				\
	shim_wait_event(&(wq), cond, shim_signalled)
#define wait_event_killable(wq, cond)					\
	shim_wait_event(&(wq), cond, shim_killed)
#define rcuwait_wait_event(w, cond, state)				\
	shim_wait_event(&(w)->wait, cond, shim_killed)

/* What a thread has of a gate, as lockdep would see it. */
struct lockdep_map {
	const char *name;
};

struct lock_class_key {
	char unused;
};

#define _THIS_IP_		0UL
#define lockdep_init_map(map, n, key, sub)				\
	((void)(key), (map)->name = (n))
#define might_lock_read(lock)			check((lock)->dep_map.name)
#define rwsem_acquire_read(map, sub, try, ip)	check((map)->name)
#define rwsem_acquire(map, sub, try, ip)	check((map)->name)
#define rwsem_release(map, ip)			check((map)->name)

/* Memory: counted, poisoned when freed, and not there when a test says so. */
#define GFP_KERNEL		4U
#define GFP_KERNEL_ACCOUNT	1U
#define __GFP_NOWARN		2U

enum shim_alloc {
	SHIM_NONE,
	SHIM_KMALLOC,
	SHIM_VMALLOC,
	SHIM_KVMALLOC,
	SHIM_NOWARN,	/* kvmalloc() for what one may do without */
};

extern struct shim_memory {
	unsigned int live;		/* objects allocated and not freed */
	unsigned int calls;		/* allocations tried */
	unsigned int fail_at;		/* which one to fail from now, 0: none */
	enum shim_alloc failed;		/* the one that did */
	enum shim_alloc last;		/* the last one that did not */
	void (*on_free)(const void *p);	/* checks that it may be freed */
} shim_memory;

void *shim_alloc(size_t n, size_t size, unsigned int gfp,
		 enum shim_alloc type);
void shim_free(const void *p, bool vmalloc);
size_t shim_size(const void *p);

#define kzalloc(size, gfp)	shim_alloc(1, size, gfp, SHIM_KMALLOC)
#define kcalloc(n, size, gfp)	shim_alloc(n, size, gfp, SHIM_KMALLOC)
#define __vcalloc(n, size, gfp)	shim_alloc(n, size, gfp, SHIM_VMALLOC)
#define kvcalloc(n, size, gfp)						\
	shim_alloc(n, size, gfp,					\
		   (gfp) & __GFP_NOWARN ? SHIM_NOWARN : SHIM_KVMALLOC)
#define kvmalloc_array(n, size, gfp)	kvcalloc(n, size, gfp)
#define kfree(p)		shim_free(p, false)
#define kvfree(p)		shim_free(p, true)

static inline size_t array_size(size_t n, size_t size)
{
	size_t bytes;

	return __builtin_mul_overflow(n, size, &bytes) ? SIZE_MAX : bytes;
}

/* Memory of user space; there is none in the first page. */
#define u64_to_user_ptr(x)	((void *)(uintptr_t)(x))
int __must_check copy_struct_from_user(void *to, size_t size, const void *from,
				       size_t user_size);

static inline unsigned long __must_check
copy_from_user(void *to, const void *from, unsigned long n)
{
	return n && copy_struct_from_user(to, n, from, n);
}

bool memchr_inv(const void *p, int c, size_t bytes);

/* Bitmaps. */
#define BITS_TO_LONGS(nr)	(((nr) + BITS_PER_LONG - 1) / BITS_PER_LONG)

/*
 * The number of a bit in a bitmap of long, exclusive or this, is that of the
 * same bit in a little-endian bitmap: 0, or what it is on a big-endian machine.
 */
#define SHIM_BIG_ENDIAN		(BITS_PER_LONG - 8)
extern unsigned int shim_endian;

#define BITOP_LE_SWIZZLE	shim_endian
#define swab(x)								\
	(BITS_PER_LONG == 64 ? __builtin_bswap64(x) : __builtin_bswap32(x))

static inline bool test_bit(unsigned long nr, const unsigned long *map)
{
	return map[nr / BITS_PER_LONG] >> nr % BITS_PER_LONG & 1;
}

static inline void __set_bit(unsigned long nr, unsigned long *map)
{
	map[nr / BITS_PER_LONG] |= BIT(nr % BITS_PER_LONG);
}

static inline void __clear_bit(unsigned long nr, unsigned long *map)
{
	map[nr / BITS_PER_LONG] &= ~BIT(nr % BITS_PER_LONG);
}

static inline void set_bit_le(unsigned long nr, unsigned long *map)
{
	nr ^= shim_endian;
	__atomic_fetch_or(&map[nr / BITS_PER_LONG], BIT(nr % BITS_PER_LONG),
			  __ATOMIC_RELAXED);
}

static inline bool __test_and_set_bit(unsigned long nr, unsigned long *map)
{
	return test_bit(nr, map) || (__set_bit(nr, map), false);
}

#define test_bit_le(nr, map)	test_bit((nr) ^ shim_endian, map)
#define __set_bit_le(nr, map)	__set_bit((nr) ^ shim_endian, map)
#define __clear_bit_le(nr, map)	__clear_bit((nr) ^ shim_endian, map)
#define bitmap_copy(to, from, nr)					\
	memcpy(to, from, BITS_TO_LONGS(nr) * sizeof(long))

static inline void bitmap_set(unsigned long *map, unsigned int start,
			      unsigned int nr)
{
	while (nr--)
		__set_bit(start++, map);
}

/* A clock that goes on when one looks at it. */
typedef s64 ktime_t;
ktime_t ktime_get(void);
#define ktime_sub(x, y)		((x) - (y))
#define ktime_to_ns(x)		(x)

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
#define rcu_dereference_raw(p)	READ_ONCE(p)

#endif /* SHIM_H */
