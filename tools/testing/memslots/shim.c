// SPDX-License-Identifier: GPL-2.0-only
#include <linux/membarrier.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

bool shim_warn_expected;
unsigned int shim_warned;
bool shim_killed;
bool shim_signalled;
bool shim_pauses;
unsigned int shim_waiting;
unsigned int shim_endian;
unsigned long shim_rescheds;
struct shim_memory shim_memory;
struct srcu_struct *shim_srcu;

void shim_fail(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "# %s:%d: ", file, line);
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "\n");
	va_end(args);
	abort();
}

void shim_warn(const char *file, int line, const char *cond)
{
	shim_warned++;
	if (!shim_warn_expected)
		shim_fail(file, line, "warning: %s", cond);
}

void mutex_init(struct mutex *lock)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->held = false;
}

void (*shim_locking)(struct mutex *lock);

void mutex_lock(struct mutex *lock)
{
	if (shim_locking)
		shim_locking(lock);
	pthread_mutex_lock(&lock->mutex);
	lock->held = true;
}

void mutex_unlock(struct mutex *lock)
{
	lock->held = false;
	pthread_mutex_unlock(&lock->mutex);
}

int mutex_lock_killable(struct mutex *lock)
{
	if (shim_killed) {
		shim_killed = false;
		return -EINTR;
	}
	mutex_lock(lock);
	return 0;
}

void shim_pause(void)
{
	static __thread unsigned int nr;

	if (READ_ONCE(shim_pauses) && ++nr % 8 == 0)
		usleep(100);
}

void synchronize_rcu_expedited(void)
{
	if (syscall(__NR_membarrier,
		    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0) ||
	    syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0))
		fail("membarrier: %s", strerror(errno));
}

void init_waitqueue_head(struct shim_wait *wait)
{
	pthread_mutex_init(&wait->mutex, NULL);
	pthread_cond_init(&wait->woken, NULL);
}

void wake_up_all(struct shim_wait *wait)
{
	pthread_mutex_lock(&wait->mutex);
	pthread_cond_broadcast(&wait->woken);
	pthread_mutex_unlock(&wait->mutex);
}

/* In front of each object; as large as malloc() aligns. */
struct shim_object {
	u32 magic;
	enum shim_alloc type;
	size_t size;
};

#define SHIM_MAGIC		0x51075107
#define SHIM_POISON		0x6b
#define SHIM_POISON_MAX		PAGE_SIZE

void *shim_alloc(size_t n, size_t size, unsigned int gfp,
		 enum shim_alloc type)
{
	struct shim_object *object;
	size_t bytes;

	/* user space asks for it, so it pays */
	check(gfp & GFP_KERNEL_ACCOUNT);
	shim_memory.calls++;
	if (shim_memory.fail_at && !--shim_memory.fail_at) {
		shim_memory.failed = type;
		return NULL;
	}
	if (__builtin_mul_overflow(n, size, &bytes) || bytes > SSIZE_MAX / 2)
		return NULL;

	object = calloc(1, sizeof(*object) + bytes);
	if (!object)
		return NULL;

	object->magic = SHIM_MAGIC;
	object->type = type;
	object->size = bytes;
	shim_memory.live++;
	shim_memory.last = type;
	return object + 1;
}

void shim_free(const void *p, bool vmalloc)
{
	struct shim_object *object;

	if (!p)
		return;

	object = (struct shim_object *)p - 1;
	if (object->magic != SHIM_MAGIC)
		fail("%p freed twice, overrun or never allocated", p);
	if (object->type != SHIM_KMALLOC && !vmalloc)
		fail("%p from vmalloc() given to kfree()", p);
	if (shim_memory.on_free)
		shim_memory.on_free(p);

	object->magic = 0;
	if (object->size <= SHIM_POISON_MAX)
		memset(object + 1, SHIM_POISON, object->size);
	shim_memory.live--;
	free(object);
}

size_t shim_size(const void *p)
{
	const struct shim_object *object = (const struct shim_object *)p - 1;

	check(object->magic == SHIM_MAGIC);
	return object->size;
}

/* What there is beyond @size must be 0. */
int copy_struct_from_user(void *to, size_t size, const void *from,
			  size_t user_size)
{
	check(user_size >= size);
	if ((uintptr_t)from < PAGE_SIZE)
		return -EFAULT;
	if (memchr_inv((const char *)from + size, 0, user_size - size))
		return -E2BIG;
	memcpy(to, from, size);
	return 0;
}

bool memchr_inv(const void *p, int c, size_t bytes)
{
	const unsigned char *s = p;

	return bytes && (*s != c || memcmp(s, s + 1, bytes - 1));
}

ktime_t ktime_get(void)
{
	static ktime_t now;

	return ++now;
}

int srcu_read_lock(struct srcu_struct *srcu)
{
	int period = __atomic_load_n(&srcu->period, __ATOMIC_SEQ_CST) & 1;

	__atomic_fetch_add(&srcu->locks[period], 1, __ATOMIC_SEQ_CST);
	return period;
}

void srcu_read_unlock(struct srcu_struct *srcu, int period)
{
	__atomic_fetch_add(&srcu->unlocks[period], 1, __ATOMIC_SEQ_CST);
}

/*
 * Unlocks first: a reader between the two counts as one that still reads.  The
 * addition of nothing has its place among those of the readers: who comes after
 * it sees what was published before it.
 */
static bool srcu_has_readers(struct srcu_struct *srcu, int period)
{
	unsigned long unlocks;

	unlocks = __atomic_load_n(&srcu->unlocks[period], __ATOMIC_SEQ_CST);
	return __atomic_fetch_add(&srcu->locks[period], 0, __ATOMIC_SEQ_CST) !=
	       unlocks;
}

/* Callers hold kvm->slots_lock. */
void synchronize_srcu_expedited(struct srcu_struct *srcu)
{
	int period = srcu->period & 1;

	if (srcu->on_sync)
		srcu->on_sync(srcu);

	/* A reader that was late to count itself in may be in the other one. */
	while (srcu_has_readers(srcu, !period))
		sched_yield();
	__atomic_fetch_add(&srcu->period, 1, __ATOMIC_SEQ_CST);
	while (srcu_has_readers(srcu, period))
		sched_yield();

	if (srcu->on_synced)
		srcu->on_synced(srcu);
}

#if BITS_PER_LONG == 32
void (*shim_between_halves)(void);
bool shim_upper_first;

u64 shim_read_halves(const volatile void *p)
{
	const volatile u32 *half = p;
	u32 value[2];

	value[shim_upper_first] = half[shim_upper_first];
	if (shim_between_halves)
		shim_between_halves();
	value[!shim_upper_first] = half[!shim_upper_first];
	return (u64)value[1] << 32 | value[0];
}
#endif
