// SPDX-License-Identifier: GPL-2.0
/*
 * The load of the inner guest of make guest: as much memory as it is told, of which each page has a content that is
 * known, is checked and then rewritten, at random, by a thread a processor; and few pages that another thread writes all
 * the time.
 *
 * usage: load PORT
 * From PORT, behind a number: "size MEGABYTES", "state", "split 1|0", "stop". To it, in reply and behind that number:
 * "N MiB of N, N pages checked, N splits", and after a stop, when all was checked, "load: intact". A page that is not as
 * it was is told at once: "load: WRONG ...".
 *
 * "split 1": all RAM from 0xc0000 on becomes one range, which is split and merged again all the time, by the PAM
 * registers of the chipset (i440FX or q35; there by SMRAM, too). What is split off has its content when it is back, and
 * a thread writes, reads and executes in what stays.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS 2
#define MAX_CHUNKS 4096		/* of a MiB */
#define PAGES 256
#define WORDS 512

struct chunk {
	uint64_t *mem;
	uint32_t writes[PAGES];
};

static struct thread {
	pthread_t thread;
	struct chunk chunks[MAX_CHUNKS / THREADS];
	int nr;
} threads[THREADS];

static atomic_int wanted;	/* MiB in all */
static atomic_int stop, splitting;
static atomic_ulong checked, have, splits, calls;
static int port;

#define wrong(...) (dprintf(port, "load: WRONG " __VA_ARGS__), exit(1))

static uint64_t content(int thread, int chunk, int page, uint32_t writes, int word)
{
	uint64_t x = ((uint64_t)thread << 60) ^ ((uint64_t)chunk << 44) ^ ((uint64_t)page << 36) ^ writes;

	x = (x + word + 1) * 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 29;
}

static void fill(int t, int c, int page)
{
	struct chunk *chunk = &threads[t].chunks[c];

	chunk->writes[page]++;
	for (int word = 0; word < WORDS; word++)
		chunk->mem[page * WORDS + word] = content(t, c, page, chunk->writes[page], word);
}

static void check(int t, int c, int page)
{
	struct chunk *chunk = &threads[t].chunks[c];

	for (int word = 0; word < WORDS; word++) {
		uint64_t is = chunk->mem[page * WORDS + word];
		uint64_t want = content(t, c, page, chunk->writes[page], word);

		if (is != want)
			wrong("thread %d MiB %d page %d word %d: %#lx, not %#lx\n", t, c, page, word, is, want);
	}
	checked++;
}

static void *work(void *arg)
{
	int t = (intptr_t)arg;
	struct thread *me = &threads[t];
	unsigned int rnd = t + 1;

	while (!stop) {
		struct chunk *last = &me->chunks[me->nr];

		if (me->nr < wanted / THREADS) {
			last->mem = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (last->mem == MAP_FAILED)
				wrong("mmap: %m\n");
			for (int page = 0; page < PAGES; page++)
				fill(t, me->nr, page);
			me->nr++;
			have++;
			continue;
		}
		if (me->nr > wanted / THREADS) {
			last--;
			for (int page = 0; page < PAGES; page++)
				check(t, me->nr - 1, page);
			munmap(last->mem, 1 << 20);
			me->nr--;
			have--;
			continue;
		}
		for (int i = 0; i < 32 && me->nr; i++) {
			int c = rand_r(&rnd) % me->nr, page = rand_r(&rnd) % PAGES;

			check(t, c, page);
			fill(t, c, page);
		}
		usleep(2000);	/* so that a migration has a chance */
	}
	for (int c = 0; c < me->nr; c++)
		for (int page = 0; page < PAGES; page++)
			check(t, c, page);
	return NULL;
}

#define HOT 64

/* Write to few pages as often as possible, so that some are written whenever their log is fetched or cleared. */
static void *heat(void *arg)
{
	static uint64_t counts[HOT];
	uint64_t *mem = mmap(NULL, HOT * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		wrong("mmap: %m\n");
	for (unsigned int i = 0; !stop; i++) {
		volatile uint64_t *page = mem + i % HOT * WORDS;
		uint64_t *count = &counts[i % HOT];

		if (page[0] != *count || page[WORDS - 1] != *count)
			wrong("hot page %u: %#lx and %#lx, not %#lx\n", i % HOT, page[0], page[WORDS - 1], *count);
		page[0] = ++*count;
		page[WORDS - 1] = *count;
		if (i % 20000 == 0)
			usleep(1000);
	}
	return NULL;
}

#define LOW 0xa0000		/* what is mapped of physical memory: to 1 MiB */
#define LOW_SIZE 0x60000
#define RAN 0xd8000		/* there it is executed: PAM4, which is never split off */

static volatile uint8_t *low;
static int config;		/* of the host bridge */

static void wrong_at(const char *what, long place, long is)
{
	wrong("%s at %#lx: %#lx\n", what, place, is);
}

static uint8_t chipset(int reg, int value)
{
	uint8_t byte = value;

	if (value >= 0 && pwrite(config, &byte, 1, reg) != 1)
		wrong_at("write of register", reg, value);
	if (pread(config, &byte, 1, reg) != 1 || (value >= 0 && byte != value))
		wrong_at("register", reg, byte);
	return byte;
}

static uint64_t *word(long place)
{
	return (uint64_t *)(low + place - LOW);
}

/* Counts in the memory that it lies in: mov (%rdi),%rax; inc %rax; mov %rax,(%rdi); ret */
static const uint8_t code[] = { 0x48, 0x8b, 0x07, 0x48, 0xff, 0xc0, 0x48, 0x89, 0x07, 0xc3 };

static void *execute(void *arg)
{
	void (*count)(uint64_t *) = (void *)(low + RAN - LOW);
	uint64_t *counter = word(RAN + 0x1000);

	for (size_t i = 0; i < sizeof(code); i++)
		low[RAN - LOW + i] = code[i];
	*counter = 0;
	while (!stop) {
		for (int i = 0; i < 1000; i++) {
			count(counter);
			if (*(volatile uint64_t *)counter != ++calls)
				wrong_at("count", RAN + 0x1000, *counter);
		}
		usleep(1000);
	}
	return NULL;
}

/* Take PLACE away by VALUE in register REG, and bring it back. */
static void split(int reg, int away, int back, long place)
{
	static uint64_t number;

	*word(place) = ++number;
	*word(place + 0xff8) = ~number;
	chipset(reg, away);
	if (*(volatile uint64_t *)word(place) == number)
		wrong_at("memory that is gone", place, number);
	chipset(reg, back);
	if (*(volatile uint64_t *)word(place) != number || *(volatile uint64_t *)word(place + 0xff8) != ~number)
		wrong_at("memory that was split off", place, *word(place));
	splits++;
}

static void *splitter(void *arg)
{
	int fd = open("/dev/mem", O_RDWR), q35, pam, smram;
	uint16_t device;
	pthread_t runner;

	config = open("/sys/bus/pci/devices/0000:00:00.0/config", O_RDWR);
	if (config < 0 || pread(config, &device, 2, 2) != 2)
		wrong_at("host bridge", 0, config);
	q35 = device != 0x1237;
	pam = q35 ? 0x90 : 0x59;
	smram = q35 ? 0x9d : 0x72;
	low = mmap(NULL, LOW_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, LOW);
	if (low == MAP_FAILED)
		wrong_at("mapping of /dev/mem", LOW, fd);

	chipset(pam, chipset(pam, -1) | 0x30);
	for (int i = 1; i <= 6; i++)
		chipset(pam + i, 0x33);
	pthread_create(&runner, NULL, execute, NULL);
	for (unsigned int i = 0; !stop; i++) {
		if (!splitting) {
			usleep(10000);
			continue;
		}
		/* At 0xc0000 there may be a ROM of the hypervisor's that is not taken away. */
		split(pam + 1 + i % 3, 0, 0x33, 0xc4000 + i % 3 * 0x8000);
		if (q35) {
			int closed = chipset(smram, -1) & ~0x40;

			/* Open, it is RAM of everybody's: all RAM is one range then. */
			chipset(smram, closed | 0x40);
			split(smram, closed, closed | 0x40, 0xb8000);
			chipset(smram, closed);
		}
		usleep(2000);
	}
	pthread_join(runner, NULL);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t split_thread = 0, hot_thread;
	char line[200];
	size_t len = 0;

	port = argc > 1 ? open(argv[1], O_RDWR) : -1;
	if (port < 0) {
		perror("load: port");
		return 1;
	}
	for (int t = 0; t < THREADS; t++)
		pthread_create(&threads[t].thread, NULL, work, (void *)(intptr_t)t);
	pthread_create(&hot_thread, NULL, heat, NULL);

	while (!stop) {
		unsigned int number;
		char request[20];
		int mib = -1;

		/* 0: nobody at the other end, for now */
		if (read(port, line + len, 1) != 1) {
			usleep(100000);
			continue;
		}
		if (line[len] != '\n') {
			len = (len + 1) % (sizeof(line) - 1);
			continue;
		}
		line[len] = '\0';
		len = 0;
		if (sscanf(line, "%u %19s %d", &number, request, &mib) < 2)
			continue;
		if (!strcmp(request, "size") && mib >= 0 && mib <= MAX_CHUNKS)
			wanted = mib;
		if (!strcmp(request, "split")) {
			splitting = mib;
			if (!split_thread)
				pthread_create(&split_thread, NULL, splitter, NULL);
		}
		if (!strcmp(request, "stop"))
			stop = 1;
		dprintf(port, "%u %lu MiB of %ld, %lu pages checked, %lu splits\n", number, have,
			sysconf(_SC_PHYS_PAGES) >> 8, checked, splits);
	}
	for (int t = 0; t < THREADS; t++)
		pthread_join(threads[t].thread, NULL);
	pthread_join(hot_thread, NULL);
	if (split_thread)
		pthread_join(split_thread, NULL);
	dprintf(port, "load: intact, %lu pages checked, %lu splits, %lu calls\n", checked, splits, calls);
	sleep(1);
	return 0;
}
