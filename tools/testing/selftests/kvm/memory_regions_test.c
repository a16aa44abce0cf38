// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_SET_USER_MEMORY_REGIONS without a guest: its errors, which must leave
 * the map and the dirty logs unchanged, and its effect on map and dirty logs if
 * it succeeds.
 *
 * The test has a model: the map that was set last, and the dirty state of each
 * page.  After each call it compares KVM with the model: by the dirty logs, by
 * trying to create slots where there should be some or none, and by the file in
 * debugfs if there is one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "memory_regions_util.h"

/* Limit of the gpas, and size of the host memory, that the test uses, in pages. */
#define GPAS		1024
#define HVAS		(4 * GPAS)
/* Never backed by a slot. */
#define FREE_GPA	(2 * GPAS)
#define FREE_ID		100
#define MAX_REGIONS	16
#define MAX_SPACES	2
#define RANDOM_MAPS	200

#define LOG		KVM_MEM_LOG_DIRTY_PAGES
#define RO		KVM_MEM_READONLY

/* Addresses and sizes are in pages; size 0 ends a map. */
struct region {
	unsigned int id, flags;
	unsigned long gpa, size, hva;
};

#define MAP(...)	((const struct region []){ __VA_ARGS__, {} })
#define EMPTY		MAP({})

/* The expected state of KVM. */
static struct space {
	struct region map[MAX_REGIONS + 1];
	unsigned char dirty[GPAS];
} spaces[MAX_SPACES];

static int kvm_fd, vm_fd, nr_slots, nr_as;
/* Whether reading a log keeps it; initial state of a page in a log. */
static int manual_log, first_dirty;
static int has_debugfs;
static unsigned long page, hva;
static char text[4 << 20], title[128], problem[128];

static struct kvm_userspace_memory_region *regions;

static int set_slot(u32 slot, u32 flags, u64 gpa, u64 size,
		    u64 addr)
{
	return set_memory_region(vm_fd, slot, flags, gpa * page, size * page,
				 hva + addr * page);
}

static int set_raw(void *map)
{
	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGIONS, map) ? errno : 0;
}

static int set_regions(u32 as_id, u32 nr)
{
	return set_memory_regions(vm_fd, as_id, regions, nr);
}

/* Put @map into @regions.  Returns how many there are. */
static int fill(const struct region *map)
{
	int nr;

	for (nr = 0; map[nr].size; nr++)
		regions[nr] = (struct kvm_userspace_memory_region) {
			.slot = map[nr].id,
			.flags = map[nr].flags,
			.guest_phys_addr = map[nr].gpa * page,
			.memory_size = map[nr].size * page,
			.userspace_addr = hva + map[nr].hva * page,
		};
	return nr;
}

static int set_map(u32 as_id, const struct region *map)
{
	return set_regions(as_id, fill(map));
}

static const struct region *find(const struct space *space, unsigned long gpa)
{
	const struct region *r;

	for (r = space->map; r->size; r++) {
		if (gpa >= r->gpa && gpa < r->gpa + r->size)
			return r;
	}
	return NULL;
}

/* Update the model of the dirty log, page by page. */
static void model_set(int as_id, const struct region *map)
{
	struct space *space = &spaces[as_id], was = *space;
	const struct region *r, *old;
	unsigned long i;
	int nr = 0;

	memset(space, 0, sizeof(*space));
	for (r = map; r->size; r++) {
		space->map[nr++] = *r;
		if (!(r->flags & LOG))
			continue;

		for (i = r->gpa; i < r->gpa + r->size; i++) {
			old = find(&was, i);
			if (old && old->hva - old->gpa != r->hva - r->gpa)
				space->dirty[i] = 1;
			else if (old && old->flags & LOG)
				space->dirty[i] = was.dirty[i];
			else
				space->dirty[i] = first_dirty;
		}
	}
}

static int get_log(int as_id, int id, void *to)
{
	return get_dirty_log(vm_fd, as_id << 16 | id, to);
}

static int logs_right(int as_id)
{
	struct space *space = &spaces[as_id];
	unsigned char bitmap[GPAS / 8];
	const struct region *r;
	unsigned long i;
	int got;

	for (r = space->map; r->size; r++) {
		got = get_log(as_id, r->id, bitmap);
		if (got != (r->flags & LOG ? 0 : ENOENT)) {
			snprintf(problem, sizeof(problem),
				 "log of slot %d:%u: %s", as_id, r->id,
				 strerror(got));
			return 0;
		}
		for (i = 0; i < r->size && !got; i++) {
			int dirty = bitmap[i / 8] >> i % 8 & 1;

			if (dirty == space->dirty[r->gpa + i])
				continue;
			snprintf(problem, sizeof(problem),
				 "page %lu of slot %d:%u is %s", i, as_id,
				 r->id, dirty ? "dirty" : "clean");
			return 0;
		}
		if (!got && !manual_log)
			memset(space->dirty + r->gpa, 0, r->size);
	}
	return 1;
}

/* Check for a slot at @gpa, by trying to create one. */
static int present(int as_id, unsigned long gpa)
{
	int r = set_slot(as_id << 16 | FREE_ID, 0, gpa, 1, 0);

	if (!r)
		set_slot(as_id << 16 | FREE_ID, 0, 0, 0, 0);
	return r == EEXIST;
}

static int present_right(int as_id)
{
	struct space *space = &spaces[as_id];
	const struct region *r;
	int i;

	for (r = space->map; r->size; r++) {
		unsigned long at[] = {
			r->gpa - 1, r->gpa, r->gpa + r->size - 1,
			r->gpa + r->size,
		};

		for (i = 0; i < ARRAY_SIZE(at); i++) {
			if (present(as_id, at[i]) == !!find(space, at[i]))
				continue;
			snprintf(problem, sizeof(problem),
				 "gpa of page %lu is %s in address space %d",
				 at[i], find(space, at[i]) ? "absent" : "present",
				 as_id);
			return 0;
		}
	}
	return 1;
}

/* Read the debugfs file into @text.  Returns the start without the header. */
static char *read_list(void)
{
	size_t have = 0;
	char name[64];
	ssize_t got;
	char *line;
	int fd;

	snprintf(name, sizeof(name), "/sys/kernel/debug/kvm/%d-%d/memslots",
		 getpid(), vm_fd);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return NULL;
	while ((got = read(fd, text + have, sizeof(text) - 1 - have)) > 0)
		have += got;
	close(fd);
	text[have] = '\0';
	line = strchr(text, '\n');
	return line ? line + 1 : NULL;
}

static int list_right(void)
{
	unsigned long long first, end, addr;
	unsigned int as_id, id, flags;
	const struct region *r;
	char *line, *rest;
	int as, nr = 0;

	if (!has_debugfs)
		return 1;

	rest = read_list();
	if (!rest) {
		strcpy(problem, "no list in debugfs any more");
		return 0;
	}
	for (line = strtok(rest, "\n"); line; line = strtok(NULL, "\n")) {
		if (sscanf(line, "%u %u %llx %llx %llx %x", &as_id, &id, &first,
			   &end, &addr, &flags) != 6 || as_id >= nr_as)
			goto bad;
		for (r = spaces[as_id].map; r->size && r->id != id; r++)
			;
		if (!r->size || first != r->gpa || end != r->gpa + r->size ||
		    addr != hva + r->hva * page || flags != r->flags)
			goto bad;
		nr++;
	}
	for (as = 0; as < nr_as; as++) {
		for (r = spaces[as].map; r->size; r++)
			nr--;
	}
	if (!nr)
		return 1;
	snprintf(problem, sizeof(problem), "%d slots %s", abs(nr),
		 nr > 0 ? "too many" : "missing");
	return 0;
bad:
	snprintf(problem, sizeof(problem), "slots differ: %s", line);
	return 0;
}

/* Compare KVM with the model, in both sets of slots of each address space. */
static int all_right(void)
{
	int as;

	problem[0] = '\0';
	if (!list_right())
		return 0;
	for (as = 0; as < nr_as; as++) {
		if (!logs_right(as))
			return 0;
		/* Three swaps. */
		if (present(as, FREE_GPA)) {
			strcpy(problem, "slot where there should be none");
			return 0;
		}
	}
	if (!list_right())
		return 0;
	for (as = 0; as < nr_as; as++) {
		if (!present_right(as) || !logs_right(as))
			return 0;
	}
	return 1;
}

/* Report the result of a call that returned @got, named @title. */
static void judge(int got, int want)
{
	int right = all_right(), as;

	ksft_test_result(got == want && right, "%s: %s\n", title,
			 want ? strerror(want) : "accepted");
	if (got != want)
		ksft_print_msg("got: %s\n", got ? strerror(got) : "accepted");
	if (!right)
		ksft_print_msg("%s\n", problem);

	/* Do not let this failure affect the following tests. */
	if (got != want || !right) {
		for (as = 0; as < nr_as; as++)
			set_map(as, spaces[as].map);
	}
}

#define expect(got, want, ...)					\
	do {							\
		snprintf(title, sizeof(title), __VA_ARGS__);	\
		judge(got, want);				\
	} while (0)

/* Set a map of an address space; must succeed. */
static void accept_in(int as_id, const char *what, const struct region *map)
{
	int got = set_map(as_id, map);

	if (!got)
		model_set(as_id, map);
	expect(got, 0, "%s", what);
}

static void accept(const char *what, const struct region *map)
{
	accept_in(0, what, map);
}

static void refuse(const char *what, int want, const struct region *map)
{
	expect(set_map(0, map), want, "%s", what);
}

/* Clear the pages from @first on whose bits are set in @pattern. */
static int clear_log(int as_id, int id, unsigned long first, unsigned long nr,
		     u64 pattern)
{
	struct space *space = &spaces[as_id];
	u64 bitmap[GPAS / 64];
	const struct region *r;
	unsigned long i;
	int err;

	for (i = 0; i < ARRAY_SIZE(bitmap); i++)
		bitmap[i] = pattern;
	err = clear_dirty_log(vm_fd, as_id << 16 | id, first, nr, bitmap);
	if (err)
		return err;

	for (r = space->map; r->id != id; r++)
		;
	for (i = 0; i < nr; i++) {
		if (pattern >> i % 64 & 1)
			space->dirty[r->gpa + first + i] = 0;
	}
	return 0;
}

/*
 * Create a VM without slots.  With @init_set, pages are dirty when they are first
 * logged, and until they are cleared; otherwise they are clean then, and after
 * the log has been read.
 */
static int new_vm(int init_set)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			   KVM_DIRTY_LOG_INITIALLY_SET,
	};

	if (vm_fd > 0)
		close(vm_fd);
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		ksft_exit_fail_msg("KVM_CREATE_VM: %s\n", strerror(errno));

	memset(spaces, 0, sizeof(spaces));
	has_debugfs = !!read_list();
	first_dirty = 0;
	manual_log = 0;
	if (!init_set)
		return 1;
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap))
		return 0;
	first_dirty = 1;
	manual_log = 1;
	return 1;
}

/* The map that must survive rejected calls ... */
static const struct region old_map[] = {
	{ 0, 0, 16, 64, 0 },
	{ 1, LOG, 96, 100, 100 },
	{ 2, RO, 256, 64, 300 },
	{ 5, LOG, 320, 8, 400 },
	{}
};

/* ... and one that has only one slot in common with it. */
static const struct region new_map[] = {
	{ 3, 0, 20, 10, 600 },
	{ 1, LOG, 96, 50, 100 },
	{ 2, RO, 256, 64, 300 },
	{ 0, LOG, 146, 50, 150 },
	{ 6, RO, 500, 64, 700 },
	{}
};

static void start_with_old_map(void)
{
	int r = set_map(0, old_map);

	if (r)
		ksft_exit_fail_msg("cannot set a map: %s\n", strerror(r));
	model_set(0, old_map);
	if (manual_log && clear_log(0, 1, 0, 100, 0x123456789abcdef0ULL))
		ksft_exit_fail_msg("cannot clear a log: %s\n", strerror(errno));
}

static void test_header(void)
{
	struct kvm_userspace_memory_regions good = {
		.nr_regions = fill(new_map),
		.region_size = sizeof(*regions),
		.regions = (unsigned long)regions,
	}, bad;
	const u32 sizes[] = {
		0, 8, 31, page + 1, 0x10020, 0x80000000, 0xffffffff
	};
	int i;

	for (i = 0; i < 32; i++) {
		bad = good;
		bad.flags = 1U << i;
		expect(set_raw(&bad), EINVAL, "bit %d of the flags", i);
	}
	for (i = 0; i < ARRAY_SIZE(bad.reserved); i++) {
		bad = good;
		bad.reserved[i] = 1;
		expect(set_raw(&bad), EINVAL, "low bit of reserved[%d]", i);
		bad.reserved[i] = 1ULL << 63;
		expect(set_raw(&bad), EINVAL, "high bit of reserved[%d]", i);
	}
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		bad = good;
		int want = sizes[i] < page ? EINVAL : E2BIG;

		bad.region_size = sizes[i];
		expect(set_raw(&bad), want, "region_size %#x", sizes[i]);
		bad.nr_regions = 0;
		expect(set_raw(&bad), want, "region_size %#x, no regions",
		       sizes[i]);
	}

	bad = good;
	bad.as_id = nr_as;
	expect(set_raw(&bad), EINVAL, "address space is the maximum");
	bad.as_id = 0x10000;
	expect(set_raw(&bad), EINVAL, "address space in the upper half");
	bad.as_id = 0xffffffff;
	expect(set_raw(&bad), EINVAL, "address space of all ones");

	bad = good;
	bad.nr_regions = nr_slots + 1;
	expect(set_raw(&bad), E2BIG, "one region too many");
	bad.nr_regions = 0x80000000;
	expect(set_raw(&bad), E2BIG, "2^31 regions");
	bad.nr_regions = 0xffffffff;
	expect(set_raw(&bad), E2BIG, "2^32 - 1 regions");
	bad.regions = 8;
	expect(set_raw(&bad), E2BIG, "2^32 - 1 regions from nowhere");
}

/* What KVM knows of a region; the fields for guest_memfd are ignored without it. */
#ifdef KVM_MEM_GUEST_MEMFD
#define KNOWN	sizeof(struct kvm_userspace_memory_region2)
#else
#define KNOWN	sizeof(struct kvm_userspace_memory_region)
#endif

/* Regions of a kernel with more fields. */
static void test_larger_regions(void)
{
	/* The last but one is that of struct kvm_userspace_memory_region2. */
	const u32 sizes[] = { 33, 40, 64, 160, page };
	struct kvm_userspace_memory_regions map = {
		.nr_regions = fill(new_map),
	};
	unsigned char *bytes, *end, *first;
	size_t size;
	int i, j;

	bytes = map_memory((MAX_REGIONS + 1) * page, MAP_PRIVATE);
	end = bytes + MAX_REGIONS * page;
	munmap(end, page);

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(bytes, 0, end - bytes);
		size = map.nr_regions * sizes[i];
		first = end - size;
		for (j = 0; j < map.nr_regions; j++)
			memcpy(first + j * sizes[i], &regions[j],
			       sizeof(*regions));
		map.regions = (unsigned long)first;
		map.region_size = sizes[i];

		if (sizes[i] > KNOWN) {
			first[KNOWN] = 1;
			expect(set_raw(&map), E2BIG,
			       "region_size %u, the first byte beyond is set",
			       sizes[i]);
			first[KNOWN] = 0;
			end[-1] = 0x80;
			expect(set_raw(&map), E2BIG,
			       "region_size %u, the last byte of all is set",
			       sizes[i]);
			end[-1] = 0;
		}
		if (sizes[i] == 33)
			memmove(first + 1, first, size - 1);
		else
			memmove(first + 8, first, size - 8);
		map.regions += sizes[i] == 33 ? 1 : 8;
		expect(set_raw(&map), EFAULT,
		       "region_size %u, the last bytes are not there", sizes[i]);

		memset(bytes, 0, end - bytes);
		for (j = 0; j < map.nr_regions; j++) {
			unsigned char *next = first + j * sizes[i];

			memset(next, 0xff, sizes[i] < KNOWN ? sizes[i] : KNOWN);
			memcpy(next, &regions[j], sizeof(*regions));
		}
		map.regions = (unsigned long)first;
		j = set_raw(&map);
		if (!j)
			model_set(0, new_map);
		expect(j, 0, "region_size %u", sizes[i]);
		start_with_old_map();
		fill(new_map);
	}
	munmap(bytes, end - bytes);
}

static int set_from_child(void)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(set_map(0, new_map));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static void test_pointers(void)
{
	struct kvm_userspace_memory_regions good = {
		.nr_regions = fill(new_map),
		.region_size = sizeof(*regions),
		.regions = (unsigned long)regions,
	}, map;
	size_t size = good.nr_regions * sizeof(*regions);
	char *end = map_memory(2 * page, MAP_PRIVATE);

	end += page;
	munmap(end, page);

	expect(set_raw(NULL), EFAULT, "no struct");
	expect(set_raw((void *)8), EFAULT, "struct from nowhere");
	expect(set_raw((void *)-page), EFAULT, "struct of the kernel");
	expect(set_raw(end), EFAULT, "struct in unmapped memory");
	memcpy(end - sizeof(good) + 8, &good, sizeof(good) - 8);
	expect(set_raw(end - sizeof(good) + 8), EFAULT,
	       "last word of the struct in unmapped memory");

	map = good;
	map.regions = 0;
	expect(set_raw(&map), EFAULT, "no regions");
	map.regions = 8;
	expect(set_raw(&map), EFAULT, "regions from nowhere");
	map.regions = -page;
	expect(set_raw(&map), EFAULT, "regions of the kernel");
	map.regions = -8ULL;
	expect(set_raw(&map), EFAULT, "regions wrap");
	map.regions = (unsigned long)end;
	expect(set_raw(&map), EFAULT, "regions in unmapped memory");
	memcpy(end - size + sizeof(*regions), regions, size - sizeof(*regions));
	map.regions = (unsigned long)end - size + sizeof(*regions);
	expect(set_raw(&map), EFAULT, "last region in unmapped memory");
	memcpy(end - size + 8, regions, size - 8);
	map.regions = (unsigned long)end - size + 8;
	expect(set_raw(&map), EFAULT,
	       "last word of the regions in unmapped memory");
	memcpy(end - 8, regions, 8);
	map.regions = (unsigned long)end - 8;
	expect(set_raw(&map), EFAULT, "all but one word in unmapped memory");

	expect(set_from_child(), EIO, "another process");

	/* Valid, and the same map as before. */
	good.nr_regions = fill(old_map);
	size = good.nr_regions * sizeof(*regions);
	good.regions = (unsigned long)end - size;
	memcpy(end - size, regions, size);
	expect(set_raw(&good), 0, "regions up to unmapped memory");
	good.regions = (unsigned long)regions;
	memcpy(end - sizeof(good), &good, sizeof(good));
	expect(set_raw(end - sizeof(good)), 0, "struct up to unmapped memory");

	/* Nothing is read if there are no regions. */
	model_set(0, EMPTY);
	good.nr_regions = 0;
	good.regions = 8;
	expect(set_raw(&good), 0, "no regions, from nowhere");
	start_with_old_map();
}

/* One invalid region: first, in the middle, and last. */
static void refuse_region(const char *what, int want, u32 slot,
			  u32 flags, u64 gpa, u64 size,
			  u64 addr)
{
	static const char * const where[] = { "first", "in the middle", "last" };
	int i, at, nr;

	for (i = 0; i < ARRAY_SIZE(where); i++) {
		nr = fill(new_map);
		at = i * (nr - 1) / 2;
		regions[at] = (struct kvm_userspace_memory_region) {
			.slot = slot,
			.flags = flags,
			.guest_phys_addr = gpa,
			.memory_size = size,
			.userspace_addr = addr,
		};
		expect(set_regions(0, nr), want, "%s, %s", what, where[i]);
	}
}

static void test_regions(void)
{
	u64 gpa = FREE_GPA * page;
	int i;

	refuse_region("slot of the next address space", EINVAL, 1U << 16 | 7, 0,
		      gpa, page, hva);
	refuse_region("slot with the highest bit", EINVAL, 1U << 31 | 7, 0, gpa,
		      page, hva);
	refuse_region("slot is the maximum", EINVAL, nr_slots, 0, gpa, page,
		      hva);
	refuse_region("slot is behind the maximum", EINVAL, nr_slots + 1, 0,
		      gpa, page, hva);
	refuse_region("slot of 16 ones", EINVAL, 0xffff, 0, gpa, page, hva);
	refuse_region("slot of 32 ones", EINVAL, 0xffffffff, 0, gpa, page, hva);

	for (i = 2; i < 32; i++) {
		char what[32];

		snprintf(what, sizeof(what), "flag of bit %d", i);
		refuse_region(what, EINVAL, 7, 1U << i, gpa, page, hva);
	}

	refuse_region("size 0", EINVAL, 7, 0, gpa, 0, hva);
	refuse_region("size 0 for a slot that is there", EINVAL, 0, 0, 0, 0, 0);
	refuse_region("size of a byte", EINVAL, 7, 0, gpa, 1, hva);
	refuse_region("size of a page and a half", EINVAL, 7, 0, gpa,
		      page + page / 2, hva);
	refuse_region("size of 2^31 pages", EINVAL, 7, 0, gpa,
		      (1ULL << 31) * page, 0);
	refuse_region("size of all ones", EINVAL, 7, 0, gpa, -1ULL, 0);
	refuse_region("size of all pages", EINVAL, 7, 0, 0, -page, 0);
	refuse_region("gpa within a page", EINVAL, 7, 0, gpa + page / 2, page,
		      hva);
	refuse_region("gpa of one byte", EINVAL, 7, 0, gpa + 1, page, hva);
	refuse_region("gpa wraps", EINVAL, 7, 0, -page, 2 * page, hva);
	refuse_region("gpa wraps to 0", EINVAL, 7, 0, -page, page, hva);
	refuse_region("hva within a page", EINVAL, 7, 0, gpa, page,
		      hva + page / 2);
	refuse_region("hva of the kernel", EINVAL, 7, 0, gpa, page, -2 * page);
	refuse_region("hva wraps", EINVAL, 7, 0, gpa, 2 * page, -page);
#ifdef __aarch64__
	/* Reported by the architecture, after everything else is prepared. */
	refuse_region("gpa beyond the size of an IPA", EFAULT, 7, 0, 1ULL << 40,
		      page, hva);
#endif
}

static void test_repeated_ids(void)
{
	refuse("id twice", EEXIST, MAP({ 3, 0, 16, 8, 0 }, { 3, 0, 32, 8, 0 }));
	refuse("id twice, far apart", EEXIST,
	       MAP({ 3, 0, 16, 8, 0 }, { 4, 0, 32, 8, 0 }, { 6, 0, 48, 8, 0 },
		   { 3, 0, 64, 8, 0 }));
	refuse("region twice", EEXIST,
	       MAP({ 3, 0, 16, 8, 0 }, { 3, 0, 16, 8, 0 }));
	refuse("slot that there is twice", EEXIST,
	       MAP({ 0, 0, 16, 64, 0 }, { 0, 0, 16, 64, 0 }));
	refuse("id of a slot that stays, before it", EEXIST,
	       MAP({ 0, 0, 200, 8, 0 }, { 0, 0, 16, 64, 0 }));
	refuse("id of a slot that stays, after it", EEXIST,
	       MAP({ 0, 0, 16, 64, 0 }, { 0, 0, 200, 8, 0 }));
	refuse("id of a slot that gets another one", EEXIST,
	       MAP({ 3, 0, 16, 64, 0 }, { 0, 0, 200, 8, 0 },
		   { 0, 0, 220, 8, 0 }));
	refuse("highest id twice", EEXIST,
	       MAP({ nr_slots - 1, 0, 200, 8, 0 },
		   { nr_slots - 1, 0, 220, 8, 0 }));
	refuse("id three times", EEXIST,
	       MAP({ 3, 0, 16, 8, 0 }, { 3, 0, 32, 8, 0 }, { 3, 0, 48, 8, 0 }));
}

/* Two regions that overlap, in both orders, alone and with others. */
static void refuse_both(const char *what, struct region a, struct region b)
{
	expect(set_map(0, MAP(a, b)), EEXIST, "%s", what);
	expect(set_map(0, MAP(b, a)), EEXIST, "%s, the other way round", what);
	expect(set_map(0, MAP(b, { 6, LOG, 600, 8, 0 }, { 5, LOG, 320, 8, 400 },
			      a)), EEXIST, "%s, with others", what);
}

static void test_overlap(void)
{
	struct region fresh = { 3, 0, 400, 40, 0 };
	struct region stays = { 0, 0, 16, 64, 0 };
	struct region renumbered = { 4, LOG, 96, 100, 100 };
	const struct {
		const char *name;
		struct region r;
	} with[] = {
		{ "a new slot", fresh },
		{ "a slot that stays", stays },
		{ "a slot that gets another id", renumbered },
	};
	char what[64];
	int i, j;

	for (i = 0; i < ARRAY_SIZE(with); i++) {
		struct region r = with[i].r;
		const struct {
			const char *name;
			struct region r;
		} kinds[] = {
			{ "is", { 7, 0, r.gpa, r.size, 0 } },
			{ "is, at the same hva,", { 7, 0, r.gpa, r.size, r.hva } },
			{ "is within", { 7, 0, r.gpa + 1, r.size - 2, 0 } },
			{ "is around", { 7, 0, r.gpa - 1, r.size + 2, 0 } },
			{ "has the first page of", { 7, 0, r.gpa - 4, 5, 0 } },
			{ "has the last page of",
			  { 7, 0, r.gpa + r.size - 1, 5, 0 } },
			{ "is the first page of", { 7, 0, r.gpa, 1, 0 } },
			{ "is the last page of",
			  { 7, 0, r.gpa + r.size - 1, 1, 0 } },
		};

		for (j = 0; j < ARRAY_SIZE(kinds); j++) {
			snprintf(what, sizeof(what), "a region %s %s",
				 kinds[j].name, with[i].name);
			refuse_both(what, r, kinds[j].r);
		}
	}
	refuse("a region around all others", EEXIST,
	       MAP({ 0, 0, 16, 64, 0 }, { 7, 0, 1, 900, 0 },
		   { 6, 0, 500, 64, 700 }));
	refuse("regions in a row, the last on the first", EEXIST,
	       MAP({ 3, 0, 400, 10, 0 }, { 4, 0, 410, 10, 0 },
		   { 6, 0, 420, 10, 0 }, { 7, 0, 409, 1, 0 }));
	accept("regions in a row",
	       MAP({ 3, 0, 400, 10, 0 }, { 4, 0, 410, 10, 0 },
		   { 6, 0, 420, 10, 0 }, { 7, 0, 399, 1, 0 }));
}

/* Three slots, the second one with a log that is neither clean nor dirty. */
static void accept_three(struct region a, struct region b, struct region c)
{
	accept("three slots", MAP(a, b, c));
	if (manual_log)
		expect(clear_log(0, b.id, 0, b.size, 0xfedcba9876543210ULL), 0,
		       "some pages are clean");
}

static void test_changes(void)
{
	struct region a = { 0, 0, 100, 100, 0 }, b = { 1, LOG, 200, 100, 100 };
	struct region c = { 2, RO | LOG, 400, 50, 400 };

	accept("empty map", EMPTY);
	accept("empty map again", EMPTY);
	accept_three(a, b, c);
	accept("the same again", MAP(a, b, c));
	accept("order 0 2 1", MAP(a, c, b));
	accept("order 1 0 2", MAP(b, a, c));
	accept("order 1 2 0", MAP(b, c, a));
	accept("order 2 0 1", MAP(c, a, b));
	accept("order 2 1 0", MAP(c, b, a));
	accept("the first goes", MAP(b, c));
	accept("it comes back", MAP(b, c, a));
	accept("the middle one goes", MAP(a, c));
	accept("it comes back", MAP(a, b, c));
	accept("the last goes", MAP(a, b));
	accept("another one comes", MAP(a, b, { 7, 0, 600, 1, 0 }));
	accept("the id of one that went", MAP(a, b, { 2, 0, 600, 1, 0 }));
	accept("all others, same ids",
	       MAP({ 0, LOG, 500, 10, 0 }, { 1, 0, 700, 10, 0 },
		   { 2, 0, 720, 10, 0 }));
	accept("all others, other ids", MAP({ 8, 0, 50, 10, 0 },
					    { 9, LOG, 80, 10, 40 }));
	accept("lowest and highest id",
	       MAP({ 0, 0, 50, 10, 0 }, { nr_slots - 1, LOG, 80, 10, 40 }));
	accept("one page, at another gpa", MAP({ 0, 0, GPAS - 1, 1, 0 }));
	accept("gpa 0", MAP({ 0, LOG, 0, 8, 0 }, b, { 2, 0, 8, 8, 0 }));
	accept("all go", EMPTY);

	accept_three(a, b, c);
	accept("another id", MAP({ 5, 0, 100, 100, 0 }, b, c));
	accept("two swap their ids",
	       MAP({ 1, 0, 100, 100, 0 }, { 5, LOG, 200, 100, 100 }, c));
	accept("three rotate their ids",
	       MAP({ 5, 0, 100, 100, 0 }, { 2, LOG, 200, 100, 100 },
		   { 1, RO | LOG, 400, 50, 400 }));
	accept("a new one gets an id, its old owner another",
	       MAP({ 6, 0, 100, 100, 0 }, { 2, LOG, 200, 100, 100 },
		   { 5, 0, 700, 10, 0 }, { 1, RO | LOG, 400, 50, 400 }));
	accept("two swap their addresses",
	       MAP({ 2, LOG, 100, 100, 100 }, { 6, 0, 200, 100, 0 },
		   { 1, RO | LOG, 400, 50, 400 }));
	accept("two swap their hva",
	       MAP({ 2, LOG, 100, 100, 0 }, { 6, 0, 200, 100, 100 },
		   { 1, RO | LOG, 400, 50, 400 }));
	accept("a slot moves by a page",
	       MAP({ 2, LOG, 101, 99, 1 }, { 6, 0, 200, 100, 100 },
		   { 1, RO | LOG, 401, 50, 400 }));

	accept_three(a, b, c);
	accept("another hva", MAP({ 0, 0, 100, 100, 800 }, b, c));
	accept("it grows at its end", MAP(a, b, { 2, RO | LOG, 400, 90, 400 }));
	accept("it grows at its start",
	       MAP(a, b, { 2, RO | LOG, 380, 110, 380 }));
	accept("it shrinks at its end",
	       MAP(a, b, { 2, RO | LOG, 380, 20, 380 }));
	accept("it shrinks at its start",
	       MAP(a, b, { 2, RO | LOG, 399, 1, 399 }));
	accept("one grows into what another gives",
	       MAP({ 0, 0, 100, 150, 0 }, { 1, LOG, 250, 50, 150 }));
	accept("and back", MAP(a, b));
	accept("a slot is split",
	       MAP(a, { 1, LOG, 200, 50, 100 }, { 3, LOG, 250, 50, 150 }));
	accept("it is split again, with a hole",
	       MAP(a, { 1, LOG, 200, 20, 100 }, { 4, LOG, 230, 20, 130 },
		   { 3, LOG, 250, 50, 150 }));
	accept("it is merged", MAP(a, b));
	accept("slots at one stretch of memory are merged",
	       MAP({ 4, LOG, 100, 200, 0 }));
	accept("a hole", MAP({ 4, LOG, 100, 50, 0 }, { 0, 0, 151, 149, 51 }));
	accept("a page of other memory in it",
	       MAP({ 4, LOG, 100, 50, 0 }, { 1, LOG, 150, 1, 2000 },
		   { 0, 0, 151, 149, 51 }));
	accept("slots at one hva",
	       MAP({ 4, LOG, 100, 50, 0 }, { 1, LOG, 150, 50, 0 },
		   { 0, 0, 250, 50, 0 }));

	accept_three(a, b, c);
	accept("read-only", MAP({ 0, RO, 100, 100, 0 }, b, c));
	accept("writable", MAP(a, b, { 2, LOG, 400, 50, 400 }));
	accept("half of it read-only", MAP({ 0, 0, 100, 50, 0 }, b,
					   { 3, RO, 150, 50, 50 }));
	accept("logged", MAP({ 0, LOG, 100, 100, 0 }, b));
	accept("logged no more", MAP(a, { 1, 0, 200, 100, 100 }));
	accept("logged and another id",
	       MAP({ 3, LOG, 100, 100, 0 }, { 1, 0, 200, 100, 100 }));
	accept("logged and read-only",
	       MAP({ 3, LOG, 100, 100, 0 }, { 1, LOG | RO, 200, 100, 100 }));
	accept("all go", EMPTY);
}

/* Set one slot with KVM_SET_USER_MEMORY_REGION; must succeed. */
static void accept_slot(const char *what, struct region r,
			const struct region *map)
{
	int got = set_slot(r.id, r.flags, r.gpa, r.size, r.hva);

	if (!got)
		model_set(0, map);
	expect(got, 0, "one slot %s", what);
}

static void test_single(void)
{
	struct region a = { 0, 0, 100, 100, 0 }, b = { 1, LOG, 200, 100, 100 };
	struct region c = { 2, RO, 400, 50, 400 };

	accept_slot("comes", a, MAP(a));
	accept_slot("comes", b, MAP(a, b));
	accept("the same as all slots", MAP(b, a));
	accept("another one", MAP(a, b, c));
	accept_slot("is as it is", c, MAP(a, b, c));
	accept_slot("goes", (struct region){ .id = 1 }, MAP(a, c));
	accept("it comes back", MAP(a, b, c));
	a.flags = LOG;
	accept_slot("is logged", a, MAP(a, b, c));
	accept("it is logged no more",
	       MAP({ 0, 0, 100, 100, 0 }, b, c));
	c.gpa = 450;
	accept_slot("moves", c, MAP({ 0, 0, 100, 100, 0 }, b, c));
	accept("it moves back", MAP(b, { 2, RO, 400, 50, 400 }));
	accept("it gets another id", MAP(b, { 3, RO, 400, 50, 400 }));
	expect(set_slot(2, 0, 0, 0, 0), EINVAL, "one slot of the old id goes");
	accept_slot("of the old id comes", (struct region){ 2, 0, 600, 1, 0 },
		    MAP(b, { 3, RO, 400, 50, 400 }, { 2, 0, 600, 1, 0 }));
	expect(set_slot(4, 0, 420, 4, 0), EEXIST, "one slot within it");
	accept_slot("of the new id goes", (struct region){ .id = 3 },
		    MAP(b, { 2, 0, 600, 1, 0 }));
	accept("a slot is split",
	       MAP({ 1, LOG, 200, 50, 100 }, { 4, LOG, 250, 50, 150 }));
	accept_slot("of its halves goes", (struct region){ .id = 1 },
		    MAP({ 4, LOG, 250, 50, 150 }));
	accept("all go", EMPTY);
}

static void test_spaces(void)
{
	struct region a = { 0, 0, 100, 100, 0 }, b = { 1, LOG, 200, 100, 100 };

	if (nr_as < 2) {
		ksft_test_result_skip("one address space only\n");
		return;
	}
	accept("address space 0 gets slots", MAP(a, b));
	accept_in(1, "address space 1 gets the same", MAP(a, b));
	accept_in(1, "another order", MAP(b, a));
	expect(manual_log ? clear_log(1, 1, 0, 64, 0x5555) : 0, 0,
	       "a log of address space 1 is cleared");
	accept("ids change in address space 0",
	       MAP({ 1, 0, 100, 100, 0 }, { 0, LOG, 200, 100, 100 }));
	accept_in(1, "a slot is split in address space 1",
		  MAP(a, { 1, LOG, 200, 33, 100 }, { 3, LOG, 233, 67, 133 }));
	accept("address space 0 is emptied", EMPTY);
	accept_in(1, "ids of both",
		  MAP({ 0, 0, 233, 67, 0 }, { nr_slots - 1, 0, 2, 7, 0 }));
	accept("address space 0 gets slots again", MAP(b));
	expect(set_map(1, MAP(a, a)), EEXIST,
	       "a repeated id in address space 1");
	expect(set_map(1, MAP(a, { 5, 0, 150, 1, 0 })), EEXIST,
	       "overlap in address space 1");
	accept_in(1, "address space 1 is emptied", EMPTY);
	accept("address space 0 is emptied", EMPTY);
}

static void test_logs(void)
{
	struct region a = { 0, LOG, 128, 256, 0 };
	int r;

	accept("a logged slot", MAP(a));
	if (manual_log) {
		r = clear_log(0, 0, 0, 128, 0xf0f0f0f0f0f0f0f0ULL) ?:
		    clear_log(0, 0, 192, 64, 0x00ff00ff00ff00ffULL);
		expect(r, 0, "some pages are clean");
	} else {
		/* Without a guest, a change of host memory makes pages dirty. */
		accept("some pages get other memory",
		       MAP({ 0, LOG, 128, 50, 0 }, { 1, LOG, 178, 100, 1000 },
			   { 2, LOG, 278, 106, 150 }));
		/* Restore the memory without reading the log. */
		r = set_map(0, MAP({ 0, LOG, 128, 30, 0 },
				   { 1, LOG, 158, 7, 2000 },
				   { 2, LOG, 165, 219, 37 }));
		model_set(0, MAP({ 0, LOG, 128, 30, 0 },
				 { 1, LOG, 158, 7, 2000 },
				 { 2, LOG, 165, 219, 37 }));
		if (!r)
			r = set_map(0, MAP(a));
		model_set(0, MAP(a));
		expect(r, 0, "dirty pages that nobody has read about");
	}
	accept("another id", MAP({ 7, LOG, 128, 256, 0 }));
	accept("split", MAP({ 7, LOG, 128, 101, 0 }, { 3, LOG, 229, 155, 101 }));
	accept("split to single pages",
	       MAP({ 7, LOG, 128, 101, 0 }, { 3, LOG, 229, 1, 101 },
		   { 4, LOG, 230, 1, 102 }, { 5, LOG, 231, 153, 103 }));
	accept("read-only in the middle",
	       MAP({ 7, LOG, 128, 101, 0 }, { 3, LOG | RO, 229, 55, 101 },
		   { 5, LOG, 284, 100, 156 }));
	accept("merged", MAP({ 3, LOG, 128, 256, 0 }));
	accept("grown at both ends, the new pages fresh",
	       MAP({ 0, LOG, 101, 300, -27UL }));
	accept("shrunk", MAP({ 0, LOG, 133, 201, 5 }));
	accept("a page less in the middle",
	       MAP({ 0, LOG, 133, 67, 5 }, { 1, LOG, 201, 133, 73 }));
	accept("it comes back, fresh", MAP({ 0, LOG, 133, 201, 5 }));
	accept("a page of other memory in the middle",
	       MAP({ 0, LOG, 133, 67, 5 }, { 1, LOG, 200, 1, 900 },
		   { 2, LOG, 201, 133, 73 }));
	accept("other memory by one page", MAP({ 0, LOG, 133, 201, 6 }));
	if (manual_log)
		expect(clear_log(0, 0, 64, 64, -1ULL), 0, "pages are clean");
	accept("half of it not logged",
	       MAP({ 0, LOG, 133, 100, 6 }, { 1, 0, 233, 101, 106 }));
	accept("the other half logged instead",
	       MAP({ 0, 0, 133, 100, 6 }, { 1, LOG, 233, 101, 106 }));
	accept("all of it", MAP({ 1, LOG, 133, 201, 6 }));
	accept("none of it", MAP({ 1, 0, 133, 201, 6 }));
	accept("all of it again", MAP({ 1, LOG, 133, 201, 6 }));
	if (manual_log)
		expect(clear_log(0, 1, 0, 201, 0x3), 0, "pages are clean");
	accept("as a part of more slots",
	       MAP({ 1, 0, 10, 123, 800 }, { 2, LOG, 133, 201, 6 },
		   { 0, LOG, 334, 66, 207 }));
	accept("all go", EMPTY);
	expect(get_log(0, 1, text), ENOENT, "the log of a slot that went");
	accept("a slot in its place, fresh", MAP({ 1, LOG, 133, 201, 6 }));
	accept("all go", EMPTY);
}

/* Put a random map into @map. */
static void random_map(struct region *map)
{
	unsigned int first_id = random() % 50, nr = 0, swap;
	unsigned long gpa = random() % 200, size;

	while (nr < MAX_REGIONS - 2) {
		size = 1 + random() % (random() % 2 ? 20 : 300);
		if (gpa + size > GPAS)
			break;
		/* Often unchanged, never beyond the memory. */
		if (random() % 4) {
			map[nr] = (struct region) {
				.id = random() % 2 ? nr : first_id + nr,
				.flags = (random() % 4 ? LOG : 0) |
					 (random() % 4 ? 0 : RO),
				.gpa = gpa,
				.size = size,
				.hva = gpa + (random() % 5 ? 0 : 1000),
			};
			nr++;
		}
		gpa += size + (random() % 2 ? 0 : random() % 100);
	}
	map[nr] = (struct region) {};

	for (gpa = 0; gpa < nr; gpa++) {
		for (swap = 0; swap < gpa; swap++) {
			if (map[swap].id == map[gpa].id)
				map[gpa].id = 60 + gpa;
		}
	}
	for (gpa = 1; gpa < nr; gpa++) {
		struct region r = map[gpa];

		swap = random() % (gpa + 1);
		map[gpa] = map[swap];
		map[swap] = r;
	}
}

/* Split or merge slots of @map, or give them other ids. */
static void random_change(struct region *map)
{
	int nr, i;

	for (nr = 0; map[nr].size; nr++)
		;
	for (i = 0; i < nr && nr < MAX_REGIONS - 2; i++) {
		unsigned long cut = random() % map[i].size;

		if (!cut || random() % 3)
			continue;
		map[nr] = map[i];
		map[nr].gpa += cut;
		map[nr].hva += cut;
		map[nr].size -= cut;
		map[nr].id = 70 + random() % 10 + i;
		map[i].size = cut;
		nr++;
		break;
	}
	if (nr && !(random() % 3))
		map[random() % nr].flags ^= random() % 2 ? LOG : RO;
	map[nr] = (struct region) {};
}

static int repeats_ids(const struct region *map)
{
	const struct region *a, *b;

	for (a = map; a->size; a++) {
		for (b = map; b < a; b++) {
			if (a->id == b->id)
				return 1;
		}
	}
	return 0;
}

static void test_random(void)
{
	struct region map[MAX_REGIONS + 1];
	int i, r, refused = 0, as = 0;

	srandom(1);
	for (i = 0; i < RANDOM_MAPS; i++) {
		const struct region *s;

		as = nr_as > 1 && !(random() % 4);
		memcpy(map, spaces[as].map, sizeof(map));
		if (random() % 3)
			random_change(map);
		else
			random_map(map);

		r = set_map(as, map);
		if (r != (repeats_ids(map) ? EEXIST : 0))
			break;
		refused += !!r;
		if (!r)
			model_set(as, map);
		if (!all_right())
			break;

		for (s = spaces[as].map; s->size && manual_log; s++) {
			u64 pattern = (u64)random() << 33 ^ random();

			if (s->flags & LOG && random() % 2 &&
			    clear_log(as, s->id, 0, s->size, pattern))
				break;
		}
	}
	ksft_test_result(i == RANDOM_MAPS, "%d random maps\n", RANDOM_MAPS);
	if (i < RANDOM_MAPS)
		ksft_print_msg("map %d, address space %d: %s; %s\n", i, as,
			       strerror(r), problem);
	else
		ksft_print_msg("%d refused for a repeated id\n", refused);
}

/*
 * Change the map from @from to @to while one allocation after the other fails.  KVM
 * must refuse, or do without that memory.  @first is the map before @from, whose
 * slots share metadata with those of @first that they are a part of.
 */
static void fail_each(int fd, const char *what, const struct region *first,
		      const struct region *from, const struct region *to)
{
	unsigned int nth, left = 0, refused = 0;
	int r = 0, right = 1;

	for (nth = 1; !left && right && (!r || r == ENOMEM); nth++) {
		r = set_map(0, first);
		if (r)
			break;
		model_set(0, first);
		r = set_map(0, from);
		if (r)
			break;
		model_set(0, from);

		/* Fault in the test's own memory. */
		fill(to);
		fail_nth(fd, nth);
		r = set_map(0, to);
		left = fail_nth(fd, 0);
		if (!r)
			model_set(0, to);
		refused += !!r;
		right = all_right();
	}
	ksft_test_result(left && !r && right,
			 "%s: each of %u allocations fails, %u times with ENOMEM\n",
			 what, nth - 2, refused);
	if (r || !right)
		ksft_print_msg("%s, %s\n", r ? strerror(r) : "accepted",
			       problem);
}

static void test_allocations(void)
{
	static const struct region one[] = {{ 7, LOG, 128, 256, 0 }, {}};
	static const struct region two[] = {
		{ 7, LOG, 128, 101, 0 }, { 3, LOG, 229, 155, 101 }, {},
	};
	struct region many[MAX_REGIONS + 1] = {};
	struct region logged[8 + 1] = {}, not_logged[8 + 1] = {};
	int fd = fail_nth_open(), i;

	if (fd < 0) {
		ksft_test_result_skip("no fault injection\n");
		return;
	}
	for (i = 0; i < MAX_REGIONS; i++)
		many[i] = (struct region) { 20 + i, LOG, i * 16, 16, i * 16 };
	for (i = 0; i < 8; i++) {
		logged[i] = many[i];
		not_logged[i] = many[i];
		not_logged[i].flags = 0;
	}

	fail_each(fd, "a map", EMPTY, EMPTY, old_map);
	fail_each(fd, "another one", EMPTY, old_map, new_map);
	fail_each(fd, "none", EMPTY, new_map, EMPTY);
	fail_each(fd, "more slots", EMPTY, old_map, many);
	fail_each(fd, "fewer slots", old_map, many, old_map);
	fail_each(fd, "another id", EMPTY, one, MAP({ 8, LOG, 128, 256, 0 }));
	fail_each(fd, "logged", EMPTY, not_logged, logged);
	fail_each(fd, "not logged", EMPTY, logged, not_logged);
	fail_each(fd, "split", EMPTY, one, two);
	fail_each(fd, "merged again", one, two, one);
	fail_each(fd, "merged", EMPTY, two, one);
	fail_each(fd, "merged and split", EMPTY, two,
		  MAP({ 7, LOG, 128, 50, 0 }, { 3, LOG, 178, 206, 50 }));
	close(fd);
}

#if defined(__x86_64__)
/* Returns the number of private slots at @gpa, in all address spaces. */
static int listed(unsigned long gpa)
{
	unsigned long long first, end;
	unsigned int as_id, id;
	int found = 0;
	char *line;

	for (line = strtok(read_list(), "\n"); line; line = strtok(NULL, "\n")) {
		if (sscanf(line, "%u %u %llx %llx", &as_id, &id, &first,
			   &end) == 4 && id >= nr_slots && first <= gpa &&
		    gpa < end)
			found++;
	}
	return found;
}

/* Both ioctls must reject an overlap with private slot @what and keep it. */
static void refuse_private(int as, const char *what, unsigned long gpa,
			   unsigned long size)
{
	const struct region *r = &spaces[as].map[1];
	struct region map[] = {
		{ 3, 0, 600, 8, 0 }, { 4, 0, gpa, size, 0 }, {},
	};

	expect(set_slot(as << 16 | 4, 0, gpa, size, 0), EEXIST,
	       "a slot that is %s, address space %d", what, as);
	expect(set_slot(as << 16 | r->id, r->flags, gpa + size - r->size,
			r->size, r->hva), EEXIST,
	       "a slot moves to where is %s, address space %d", what, as);
	expect(set_map(as, map), EEXIST, "a region that is %s, address space %d",
	       what, as);

	/* As the first of two regions. */
	map[1] = map[0];
	map[0] = (struct region){ 4, 0, gpa - 8, 9, 0 };
	expect(set_map(as, map), EEXIST,
	       "a region with the first page of %s, address space %d", what, as);
	map[0].size = 64;
	expect(set_map(as, map), EEXIST,
	       "a region around %s, address space %d", what, as);
}

/*
 * Private slots exist only if the CPU needs them, in both address spaces.  Only
 * the list in debugfs shows whether they exist: without it, missing slots cannot
 * be distinguished from slots that are not checked for.
 */
static void test_private(void)
{
	const struct {
		const char *name;
		u64 gpa, size;
	} slots[] = {
		{ "the TSS", 0xfffbd000, 3 },
		{ "the identity map", 0xfffbc000, 1 },
		{ "the APIC access page", 0xfee00000, 1 },
	};
	int i, id, as, vcpu, there[ARRAY_SIZE(slots)];
	u64 identity = slots[1].gpa;

	new_vm(0);
	if (!has_debugfs) {
		ksft_test_result_skip("private slots: no debugfs to list them\n");
		return;
	}

	ioctl(vm_fd, KVM_SET_TSS_ADDR, slots[0].gpa);
	ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0);
	vcpu = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		ksft_exit_fail_msg("KVM_CREATE_VCPU: %s\n", strerror(errno));
	for (i = 0; i < ARRAY_SIZE(slots); i++)
		there[i] = listed(slots[i].gpa / page);

	/* Not in the model. */
	has_debugfs = 0;
	start_with_old_map();
	for (as = 1; as < nr_as; as++) {
		set_map(as, old_map);
		model_set(as, old_map);
	}
	for (i = 0; i < ARRAY_SIZE(slots); i++) {
		u64 gpa = slots[i].gpa / page;

		if (!there[i]) {
			ksft_test_result_skip("this CPU has no slot for %s\n",
					      slots[i].name);
			continue;
		}
		ksft_test_result(there[i] == nr_as && listed(gpa) == nr_as,
				 "%s is there in each address space\n",
				 slots[i].name);

		for (as = 0; as < nr_as; as++) {
			refuse_private(as, slots[i].name, gpa, slots[i].size);
			accept_in(as, "all of user space's slots go", EMPTY);
			accept_in(as, "they come back", old_map);
		}
		/* User space cannot delete it by its id. */
		for (as = 0; as < nr_as; as++) {
			for (id = nr_slots; id < nr_slots + 3; id++) {
				expect(set_slot(as << 16 | id, 0, 0, 0, 0),
				       EINVAL, "private slot %d:%d is deleted",
				       as, id);
				expect(set_map(as, MAP({ id, 0, 600, 8, 0 })),
				       EINVAL, "private slot %d:%d is a region's",
				       as, id);
			}
		}
		ksft_test_result(listed(gpa) == nr_as, "%s stays\n",
				 slots[i].name);
	}
	close(vcpu);
}
#else
static void test_private(void)
{
	ksft_test_result_skip("there are no private slots\n");
}
#endif

/* The maximum number of slots, one at every other page. */
static int fill_max(int (*id)(int i))
{
	int i;

	for (i = 0; i < nr_slots; i++)
		regions[i] = (struct kvm_userspace_memory_region) {
			.slot = id(i),
			.flags = i & 1 ? LOG : 0,
			.guest_phys_addr = (u64)i * 2 * page,
			.memory_size = page,
			.userspace_addr = hva + i % HVAS * page,
		};
	return nr_slots;
}

static int up(int i)
{
	return i;
}

static int down(int i)
{
	return nr_slots - 1 - i;
}

/* Check that slot @id(i) is at page 2 * i for each i. */
static int max_right(int (*id)(int i), int nr)
{
	unsigned long long first, end, addr;
	unsigned int as_id, slot, flags;
	char *line = read_list();
	int i;

	/* sscanf() would search for the end of the whole text each time. */
	if (line)
		line = strtok(line, "\n");
	for (i = 0; i < nr && line; i++, line = strtok(NULL, "\n")) {
		if (sscanf(line, "%u %u %llx %llx %llx %x", &as_id, &slot,
			   &first, &end, &addr, &flags) != 6 || as_id ||
		    slot != id(i) || first != 2 * i || end != 2 * i + 1 ||
		    addr != hva + i % HVAS * page || flags != (i & 1 ? LOG : 0))
			return 0;
	}
	if (line || (has_debugfs && i < nr))
		return 0;

	/* An existing slot may stay, but not at another hva. */
	for (i = 0; i < nr; i += 1 + i / 8) {
		if (set_slot(id(i), i & 1 ? LOG : 0, 2 * i, 1, HVAS + 1) !=
		    EINVAL ||
		    set_slot(id(i), i & 1 ? LOG : 0, 2 * i, 1, i % HVAS))
			return 0;
	}
	return 1;
}

static void expect_max(const char *what, int got, int want, int (*id)(int i),
		       int nr)
{
	int right = max_right(id, nr);

	ksft_test_result(got == want && right, "%s: %s\n", what,
			 want ? strerror(want) : "accepted");
	if (got != want)
		ksft_print_msg("got: %s\n", got ? strerror(got) : "accepted");
	if (!right)
		ksft_print_msg("the map is not as expected\n");
}

static void test_max(void)
{
	int nr = nr_slots, i;

	new_vm(0);
	fill_max(up);
	expect_max("as many slots as there can be", set_regions(0, nr), 0, up,
		   nr);

	regions[nr] = regions[0];
	regions[nr].guest_phys_addr = nr * 2 * page;
	expect_max("one more", set_regions(0, nr + 1), E2BIG, up, nr);
	regions[nr - 1].slot = 0;
	expect_max("the last with the first's id", set_regions(0, nr), EEXIST,
		   up, nr);
	regions[nr - 1].slot = nr - 1;
	regions[nr - 1].guest_phys_addr = 0;
	expect_max("the last at the first's address", set_regions(0, nr), EEXIST,
		   up, nr);
	for (i = 0; i < nr; i++)
		regions[i].userspace_addr = hva;
	expect_max("and all at another hva", set_regions(0, nr), EEXIST, up, nr);
	regions[nr - 1].flags = 1U << 31;
	expect_max("the last with an unknown flag", set_regions(0, nr), EINVAL,
		   up, nr);

	fill_max(up);
	for (i = 0; i < nr / 2; i++) {
		struct kvm_userspace_memory_region r = regions[i];

		regions[i] = regions[nr - 1 - i];
		regions[nr - 1 - i] = r;
	}
	expect_max("the same backwards", set_regions(0, nr), 0, up, nr);
	fill_max(down);
	expect_max("all ids swapped", set_regions(0, nr), 0, down, nr);
	expect_max("the first third alone", set_regions(0, nr / 3), 0, down,
		   nr / 3);
	expect_max("as many as there can be again", set_regions(0, nr), 0, down,
		   nr);
	expect_max("none", set_regions(0, 0), 0, up, 0);
}

static void test_capability(void)
{
	int cap = ioctl(kvm_fd, KVM_CHECK_EXTENSION,
			KVM_CAP_USER_MEMORY_REGIONS);
	int got;

	new_vm(0);
	if (cap <= 0) {
		/* arm64 returns EINVAL for unknown ones. */
		got = set_regions(0, 0);
		if (got != ENOTTY && got != EINVAL)
			ksft_exit_fail_msg("no KVM_CAP_USER_MEMORY_REGIONS, but: %s\n",
					   got ? strerror(got) : "accepted");
		ksft_exit_skip("no KVM_CAP_USER_MEMORY_REGIONS\n");
	}
	ksft_test_result(cap == nr_slots,
			 "KVM_CAP_USER_MEMORY_REGIONS is %d of %d slots\n", cap,
			 nr_slots);
	cap = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY_REGIONS);
	ksft_test_result(cap == nr_slots, "and the same of a VM\n");
}

int main(void)
{
	int init_set;

	ksft_print_header();
	kvm_fd = open("/dev/kvm", O_RDWR);
	if (kvm_fd < 0)
		ksft_exit_skip("/dev/kvm: %s\n", strerror(errno));

	setvbuf(stdout, NULL, _IOLBF, 0);
	page = getpagesize();
	nr_slots = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
	nr_as = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE);
	if (nr_as < 1)
		nr_as = 1;
	if (nr_as > MAX_SPACES)
		ksft_exit_fail_msg("%d address spaces\n", nr_as);

	regions = calloc(nr_slots + 1, sizeof(*regions));
	/* Some pages before and after those that maps use. */
	hva = (unsigned long)map_memory((HVAS + 2 * GPAS) * page, MAP_PRIVATE);
	hva += GPAS * page;
	if (!regions)
		ksft_exit_fail_msg("no memory\n");

	test_capability();
	init_set = new_vm(1);
	ksft_print_msg("%d slots in each of %d address spaces, %s debugfs\n",
		       nr_slots, nr_as, has_debugfs ? "with" : "without");

	start_with_old_map();
	test_header();
	test_larger_regions();
	test_pointers();
	test_regions();
	test_repeated_ids();
	test_overlap();
	test_changes();
	test_single();
	test_spaces();
	if (init_set) {
		ksft_print_msg("logs that start dirty\n");
		test_logs();
		test_random();
	} else {
		ksft_test_result_skip("no KVM_DIRTY_LOG_INITIALLY_SET\n");
	}

	ksft_print_msg("logs that start clean\n");
	new_vm(0);
	test_logs();
	test_spaces();
	test_random();
	test_allocations();
	test_private();
	test_max();

	ksft_set_plan(ksft_test_num());
	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	ksft_exit_pass();
}
