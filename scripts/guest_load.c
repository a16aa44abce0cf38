// SPDX-License-Identifier: GPL-2.0
/*
 * The load of the inner guest of make guest: as much memory as it is told, of which each page has a content that is
 * known, is checked and then rewritten, at random, by a thread a processor.
 *
 * usage: load PORT
 * From PORT, behind a number: "size MEGABYTES", "state", "stop". To it, in reply and behind that number: "N MiB of N,
 * N pages checked", and after a stop, when all was checked, "load: intact". A page that is not as it was is told at
 * once: "load: WRONG ...".
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
static atomic_int stop;
static atomic_ulong checked, have;
static int port;

static void say(const char *text)
{
	if (write(port, text, strlen(text)) < 0)
		perror("load: port");
}

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
	char text[200];

	for (int word = 0; word < WORDS; word++) {
		uint64_t is = chunk->mem[page * WORDS + word];
		uint64_t want = content(t, c, page, chunk->writes[page], word);

		if (is != want) {
			snprintf(text, sizeof(text), "load: WRONG thread %d MiB %d page %d word %d: %#lx, not %#lx\n",
				 t, c, page, word, is, want);
			say(text);
			exit(1);
		}
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
			if (last->mem == MAP_FAILED) {
				perror("load: mmap");
				exit(1);
			}
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

static long total(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	long kib = 0;

	if (file) {
		if (fscanf(file, "MemTotal: %ld", &kib) != 1)
			kib = 0;
		fclose(file);
	}
	return kib >> 10;
}

int main(int argc, char **argv)
{
	char line[200];
	size_t len = 0;

	port = argc > 1 ? open(argv[1], O_RDWR) : -1;
	if (port < 0) {
		perror("load: port");
		return 1;
	}
	for (int t = 0; t < THREADS; t++)
		pthread_create(&threads[t].thread, NULL, work, (void *)(intptr_t)t);

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
		if (!strcmp(request, "stop"))
			stop = 1;
		snprintf(line, sizeof(line), "%u %lu MiB of %ld, %lu pages checked\n", number, have, total(), checked);
		say(line);
	}
	for (int t = 0; t < THREADS; t++)
		pthread_join(threads[t].thread, NULL);
	snprintf(line, sizeof(line), "load: intact, %lu pages checked\n", checked);
	say(line);
	puts(line);
	sleep(1);
	return 0;
}
