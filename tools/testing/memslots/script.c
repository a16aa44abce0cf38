// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sequences of requests, at random, from the fuzzer, or from a file.
 *
 * A script is text.  Each line is a request of eight characters, from 0 to o,
 * that stand for six bits each: what kind of request it is, about which slot,
 * where in the guest (two), of which size, where in the host, with which flags,
 * and what fails.  Bit 3 of the flags says that the line is one of edit.c.  Any
 * text is a script, so that one may be cut and mutated as one likes.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

#define FIELDS		8
#define LINE		(FIELDS + 1)
#define SCRIPT_MAX	(400 * LINE)

static unsigned long requests;

static void run_request(struct vm *vm, int as_id, int id, gfn_t gfn,
			u64 npages, u64 hva, u32 flags, bool verbose)
{
	/* the dirty log of a huge slot takes too long */
	struct kvm_userspace_memory_region mem = {
		.slot = as_id << 16 | id,
		.flags = npages >> 20 ? flags & KVM_MEM_READONLY : flags,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = npages << PAGE_SHIFT,
		.userspace_addr = hva,
	};
	unsigned int fail_at = shim_memory.fail_at;
	int prepare_error = vm->req.prepare_error;
	int r;

	if (verbose) {
		fprintf(stderr,
			"# slot %d:%d gpa %#llx size %#llx hva %#llx flags %#x",
			as_id, id, mem.guest_phys_addr, mem.memory_size,
			mem.userspace_addr, mem.flags);
		if (fail_at)
			fprintf(stderr, " allocation %u fails", fail_at);
		if (prepare_error)
			fprintf(stderr, " prepare fails");
	}
	r = vm_request(vm, &mem, id < KVM_USER_MEM_SLOTS);
	requests++;
	if (verbose)
		fprintf(stderr, " = %d %s\n", r, vm->req.log);
}

/* Something is wrong with the request, whatever else it may be. */
static void run_bad(struct vm *vm, unsigned int what, int as_id, int id,
		    gfn_t gfn, u64 npages, u64 hva, u32 flags, bool verbose)
{
	struct kvm_userspace_memory_region mem = {
		.slot = as_id << 16 | id,
		.flags = flags,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = npages << PAGE_SHIFT,
		.userspace_addr = hva,
	};

	switch (what % 12) {
	case 0:
		mem.slot += KVM_ADDRESS_SPACE_NUM << 16;
		break;
	case 1:
		mem.slot |= 0xfff0;
		break;
	case 2:
		mem.flags |= 1 << 2;
		break;
	case 3:
		mem.flags |= KVM_MEMSLOT_INVALID;
		break;
	case 4:
		mem.guest_phys_addr += 1;
		break;
	case 5:
		mem.guest_phys_addr = -PAGE_SIZE;
		break;
	case 6:
		mem.memory_size += 0x800;
		break;
	case 7:
		mem.memory_size = 1ULL << 43;
		break;
	case 8:
		mem.memory_size += 1ULL << 63;
		break;
	case 9:
		mem.userspace_addr += 0xfff;
		break;
	case 10:
		mem.userspace_addr |= 1ULL << 47;
		break;
	case 11:
		mem.userspace_addr |= 1ULL << 57;
		break;
	}
	if (verbose)
		fprintf(stderr, "# bad request %u\n", what % 12);
	vm_request(vm, &mem, true);
	requests++;
}

static void run_edit(struct vm *vm, const unsigned char *line, bool verbose)
{
	unsigned int failure = script_field(line, FAILURE);

	/* There is more to fail than for one slot. */
	if (failure & 8)
		shim_memory.fail_at = (failure & 7) + 1 +
				      8 * (script_field(line, GFN_LOW) & 7);
	vm->req.prepare_error = failure >> 4 == 3 ? -EBUSY : 0;
	vm->req.prepare_after = failure & 7;
	vm->req.hold_error = failure >> 4 == 2 ? -EINTR : 0;
	vm->req.killed = (failure & ~8) == 16;
	vm->refuses = failure >> 4 == 1 && failure & 1;

	requests += edit_line(vm, script_field(line, SLOT) & 1, line, verbose);

	shim_memory.fail_at = 0;
	vm->req.prepare_error = 0;
	vm->req.prepare_after = 0;
	vm->req.hold_error = 0;
	vm->req.killed = false;
	vm->refuses = false;
}

static void run_line(struct vm *vm, const unsigned char *line, bool verbose)
{
	unsigned int kind = script_field(line, KIND);
	unsigned int pick = script_field(line, SLOT) >> 1;
	int as_id = script_field(line, SLOT) & 1;
	gfn_t gfn = script_field(line, GFN_HIGH) << 6 | script_field(line, GFN_LOW);
	u64 npages = script_npages(line);
	u64 hva = (script_field(line, HVA) + 1) << 16;
	unsigned int failure = script_field(line, FAILURE);
	u32 flags = script_field(line, FLAGS) & 3;
	struct map *map = &vm->map[as_id];
	struct map_slot *slot;
	int i, id;

	if (script_field(line, FLAGS) & 8) {
		run_edit(vm, line, verbose);
		validate_lookups(vm, as_id, 3);
		return;
	}

	/* most fields have to agree with those of a slot that there is */
	slot = map->nr ? &map->slots[pick % map->nr] : NULL;
	id = pick + 32 * (script_field(line, FLAGS) >> 4);
	if (id == 127)
		id = KVM_MEM_SLOTS_NUM - 1;
	else if (id == 126)
		id = KVM_USER_MEM_SLOTS - 1;

	shim_memory.fail_at = failure & 8 ? (failure & 7) + 1 : 0;
	vm->req.prepare_error = failure >> 4 == 3 ? -EBUSY : 0;

	switch (kind) {
	case 0 ... 15:		/* create, most often */
		run_request(vm, as_id, id, gfn, npages, hva, flags, verbose);
		break;
	case 16 ... 23:		/* delete */
		id = slot ? slot->id : id;
		run_request(vm, as_id, id, gfn, 0, hva, flags, verbose);
		break;
	case 24 ... 35:		/* move, by little or by much */
		if (!slot)
			break;
		if (kind < 28)
			gfn = slot->base_gfn + gfn % 64 - 32;
		run_request(vm, as_id, slot->id, gfn & ((1ULL << 52) - 1),
			    slot->npages, slot->userspace_addr, kind & 1 ?
			    slot->flags : flags, verbose);
		break;
	case 36 ... 41:		/* flags */
		if (slot)
			run_request(vm, as_id, slot->id, slot->base_gfn,
				    slot->npages, slot->userspace_addr,
				    slot->flags ^ (kind & 1 ? 1 : flags),
				    verbose);
		break;
	case 42:		/* resize */
		if (slot)
			run_request(vm, as_id, slot->id, slot->base_gfn,
				    npages, slot->userspace_addr, slot->flags,
				    verbose);
		break;
	case 43:		/* other host memory */
		if (slot)
			run_request(vm, as_id, slot->id, slot->base_gfn,
				    slot->npages, hva, slot->flags, verbose);
		break;
	case 44 ... 45:		/* beside another one, with the same memory */
		if (slot)
			run_request(vm, as_id, id, slot->base_gfn + (kind & 1 ?
				    slot->npages : -npages), npages,
				    slot->userspace_addr, flags, verbose);
		break;
	case 46:		/* as large as can be, far up */
		run_request(vm, as_id, id, (1 + gfn) << 32,
			    KVM_MEM_MAX_NR_PAGES + (gfn & 1), hva, 0, verbose);
		break;
	case 47:
		run_bad(vm, gfn, as_id, id, gfn, npages, hva, flags & 1,
			verbose);
		break;
	case 48 ... 55:		/* the guest writes */
		if (slot)
			vm_dirty(vm, as_id, slot->base_gfn +
				 gfn % slot->npages);
		break;
	case 56:
		vm->kvm.manual_dirty_log_protect = gfn & 3;
		break;
	case 57 ... 60:		/* many slots, to make the hash grow */
		for (i = 0; i < 16; i++) {
			id = 128 + pick * 16 + i;
			run_request(vm, as_id, id, gfn + i * npages, npages,
				    hva + i * PAGE_SIZE, flags, verbose);
		}
		break;
	case 61 ... 63:
		for (i = 0; i < 16; i++)
			run_request(vm, as_id, 128 + pick * 16 + i, 0, 0, 0, 0,
				    verbose);
		break;
	}
	shim_memory.fail_at = 0;
	vm->req.prepare_error = 0;

	validate_lookups(vm, as_id, 3);
	validate_lookups(vm, !as_id, 1);
}

/* Returns the number of requests. */
unsigned int script_run_in(struct vm *vm, const unsigned char *script,
			   size_t size, bool verbose)
{
	unsigned long before = requests;
	size_t i;

	for (i = 0; i + FIELDS <= size; i += LINE)
		run_line(vm, script + i, verbose);
	return requests - before;
}

void script_run(const unsigned char *script, size_t size, bool verbose)
{
	struct vm *vm = vm_create();

	script_run_in(vm, script, size, verbose);
	vm_destroy(vm);
}

/* A script in lines, with characters that can be read. */
static void script_tidy(unsigned char *script, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		script[i] = i % LINE == FIELDS ? '\n' :
			    '0' + ((script[i] - '0') & 0x3f);
}

void script_generate(unsigned char *script, size_t size, u64 seed)
{
	u64 random = seed * 0x9e3779b97f4a7c15ULL + 1;
	bool failures, few, many, narrow;
	size_t i;

	for (i = 0; i < 8; i++)
		next_random(&random);
	failures = next_random(&random) % 4;
	few = next_random(&random) % 2;
	narrow = next_random(&random) % 2;
	/* takes long to compare with the model */
	many = next_random(&random) % 32 == 0;

	for (i = 0; i < size; i++) {
		u64 value = next_random(&random) >> 8 & 0x3f;

		switch (i % LINE) {
		case KIND:
			/* create or delete, beside or at once */
			if (!few && value >= 16 && value < 22)
				value -= 16;
			else if (!many && value >= 57)
				value -= 44;
			break;
		case GFN_HIGH:
			if (narrow)
				value %= 8;
			break;
		case SIZE:
			if (!narrow)
				value %= 20;
			break;
		case FAILURE:
			if (!failures || next_random(&random) % 3)
				value = 0;
			break;
		}
		script[i] = '0' + value;
	}
	script_tidy(script, size);
}

/* In a process of its own: does the script fail? */
static bool script_fails(const unsigned char *script, size_t size, bool quiet)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		if (quiet && !freopen("/dev/null", "w", stderr))
			_exit(1);
		alarm(20);
		script_run(script, size, !quiet);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

static size_t script_shrink(unsigned char *script, size_t size)
{
	unsigned char try[SCRIPT_MAX];
	size_t lines, i;
	bool again;

	/* leave out lines, fewer and fewer at once */
	for (lines = size / LINE; lines; lines /= 2) {
		for (i = 0; i < size / LINE;) {
			size_t cut = lines * LINE;

			if (i * LINE + cut > size)
				cut = size - i * LINE;
			memcpy(try, script, i * LINE);
			memcpy(try + i * LINE, script + i * LINE + cut,
			       size - i * LINE - cut);
			if (script_fails(try, size - cut, true)) {
				size -= cut;
				memcpy(script, try, size);
			} else {
				i += lines;
			}
		}
	}

	/* clear what does not matter */
	do {
		again = false;
		for (i = 0; i < size; i++) {
			unsigned char value = script[i];

			if (value == '0' || value == '\n')
				continue;
			script[i] = '0';
			if (!script_fails(script, size, true))
				script[i] = value;
			else
				again = true;
		}
	} while (again);
	return size;
}

/*
 * @nr requests or more.  The shortest script that fails goes to the file @save,
 * if it has a name.
 */
int script_random(unsigned long nr, u64 seed, const char *save)
{
	static unsigned char script[SCRIPT_MAX];
	size_t size = sizeof(script);
	struct {
		unsigned long requests;
		u64 seed;
	} *shared;
	int status;
	FILE *file;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(shared != MAP_FAILED);
	fprintf(stderr, "# seed %llu\n", seed);
	fflush(NULL);
	shared->seed = seed;
	if (!fork()) {
		for (; requests < nr; shared->seed++) {
			alarm(60);
			script_generate(script, size, shared->seed);
			script_run(script, size, false);
			shared->requests = requests;
		}
		exit(0);
	}
	wait(&status);
	if (!status) {
		printf("ok - %lu random requests\n", shared->requests);
		return 0;
	}

	printf("not ok - random requests, seed %llu\n", shared->seed);
	if (!*save)
		return 1;

	fprintf(stderr, "# seed %llu fails, status %#x; shrinking\n",
		shared->seed, status);
	script_generate(script, size, shared->seed);
	if (script_fails(script, size, true)) {
		size = script_shrink(script, size);
		script_fails(script, size, false);
	}
	file = fopen(save, "w");
	if (file) {
		fwrite(script, 1, size, file);
		fclose(file);
		fprintf(stderr, "# saved for --replay: %s\n", save);
	}
	return 1;
}

static size_t script_read(unsigned char *script, size_t size, const char *path)
{
	FILE *file = fopen(path, "r");

	if (!file) {
		perror(path);
		exit(2);
	}
	size = fread(script, 1, size, file);
	fclose(file);
	return size;
}

int script_replay(const char *path, bool verbose)
{
	static unsigned char script[1 << 20];
	size_t size = script_read(script, sizeof(script), path);

	if (!verbose)
		return script_fails(script, size, true);

	script_run(script, size, true);
	return 0;
}

/* What the fuzzer found, as text. */
void script_print(const char *path)
{
	static unsigned char script[1 << 20];
	size_t size = script_read(script, sizeof(script) - 1, path);

	/* a line may be without its end, or not be one yet */
	size = (size + 1) / LINE * LINE;
	script_tidy(script, size);
	fwrite(script, 1, size, stdout);
}
