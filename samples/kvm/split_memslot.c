// SPDX-License-Identifier: GPL-2.0
/*
 * Split a memslot under a running guest, and merge it again.
 *
 * One slot at a time, slots cannot be resized without a gap: overlapping slots
 * have to be deleted before new ones can be created, and a vCPU that hits the gap
 * leaves KVM_RUN with an MMIO exit, or fails to fetch its next instruction.
 * KVM_SET_USER_MEMORY_REGIONS sets all slots of an address space at once, and the
 * guest sees either the old or the new ones.  See Documentation/virt/kvm/api.rst.
 *
 * The guest increments a counter in memory, in a loop that is in memory, too, and
 * both are split repeatedly.  See set_memory() and split_and_merge(); the rest is
 * a minimal VMM.
 */
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>

#define MEM_SIZE	0x10000
#define CODE		0x1000
#define COUNTER		0x8000
#define STOP		0x8004
#define TIMES		1000

/*
 * 16-bit real mode:
 *	1:	incl	COUNTER
 *		cmpb	$0, STOP
 *		je	1b
 *		hlt
 */
static const unsigned char guest_code[] = {
	0x66, 0xff, 0x06, COUNTER & 0xff, COUNTER >> 8,
	0x80, 0x3e, STOP & 0xff, STOP >> 8, 0x00,
	0x74, 0xf4,
	0xf4,
};

static int vm_fd, vcpu_fd;
static struct kvm_run *run;
static unsigned char *mem;

/* Fill in slot @id with guest memory from @start to @end, in bytes. */
static struct kvm_userspace_memory_region region(int id, uint64_t start,
						 uint64_t end)
{
	return (struct kvm_userspace_memory_region) {
		.slot = id,
		.guest_phys_addr = start,
		.memory_size = end - start,
		.userspace_addr = (uintptr_t)mem + start,
	};
}

/* Make @regions the complete memory map of the guest. */
static void set_memory(struct kvm_userspace_memory_region *regions, int nr)
{
	struct kvm_userspace_memory_regions map = {
		.nr_regions = nr,
		.region_size = sizeof(*regions),
		.regions = (uintptr_t)regions,
	};

	/* On failure, nothing has changed. */
	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGIONS, &map))
		err(1, "KVM_SET_USER_MEMORY_REGIONS");
}

static void split_and_merge(void)
{
	struct kvm_userspace_memory_region whole[] = {
		region(0, 0, MEM_SIZE),
	};
	/* Any order, ids, flags and holes are possible. */
	struct kvm_userspace_memory_region parts[] = {
		region(2, COUNTER + 0x1000, MEM_SIZE),
		region(0, COUNTER, COUNTER + 0x1000),
		region(1, 0, COUNTER),
	};

	set_memory(parts, 3);
	set_memory(whole, 1);
}

/* Read the counter of the guest. */
static unsigned int count(void)
{
	return __atomic_load_n((unsigned int *)(mem + COUNTER),
			       __ATOMIC_RELAXED);
}

/* Wait some seconds for the counter to advance from @from. */
static int counts_on(unsigned int from)
{
	int i;

	for (i = 0; count() == from && i < 5000; i++)
		usleep(1000);
	return count() != from;
}

static void *run_vcpu(void *unused)
{
	if (ioctl(vcpu_fd, KVM_RUN, 0))
		err(1, "KVM_RUN");
	return NULL;
}

static void create_vm(int kvm_fd)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;
	int run_size;

	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		err(1, "KVM_CREATE_VM");
	vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu_fd < 0)
		err(1, "KVM_CREATE_VCPU");

	run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd,
		   0);
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (run == MAP_FAILED || mem == MAP_FAILED)
		err(1, "mmap");
	memcpy(mem + CODE, guest_code, sizeof(guest_code));

	/* A vCPU starts in real mode; all segments but CS start at 0. */
	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) ||
	    ioctl(vcpu_fd, KVM_SET_REGS, &regs))
		err(1, "cannot set registers");
}

int main(void)
{
	struct kvm_userspace_memory_region whole;
	unsigned int before, after;
	pthread_t thread;
	int kvm_fd, i;

	kvm_fd = open("/dev/kvm", O_RDWR);
	if (kvm_fd < 0)
		err(1, "/dev/kvm");
	if (ioctl(kvm_fd, KVM_CHECK_EXTENSION,
		  KVM_CAP_USER_MEMORY_REGIONS) < 3)
		errx(1, "this kernel has no KVM_SET_USER_MEMORY_REGIONS");

	create_vm(kvm_fd);
	whole = region(0, 0, MEM_SIZE);
	set_memory(&whole, 1);
	if (pthread_create(&thread, NULL, run_vcpu, NULL))
		errx(1, "cannot create a thread");
	if (!counts_on(0))
		errx(1, "the guest does not start: exit reason %u",
		     run->exit_reason);

	before = count();
	for (i = 0; i < TIMES; i++)
		split_and_merge();
	after = count();
	printf("split and merged %d times, while the guest counted from %u to %u\n",
	       TIMES, before, after);

	/* A vCPU that has hit a gap is not in KVM_RUN any more. */
	if (!counts_on(after))
		errx(1, "the guest does not go on: exit reason %u",
		     run->exit_reason);
	mem[STOP] = 1;
	pthread_join(thread, NULL);
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(1, "the guest has left with exit reason %u",
		     run->exit_reason);
	printf("it went on to %u, and has halted when told to\n", count());
	return 0;
}
