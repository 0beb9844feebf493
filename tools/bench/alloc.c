// SPDX-License-Identifier: MIT
/*
 * alloc: what a buffer of the arena costs, beside malloc() and mimalloc.
 *
 * Pairs of an allocation and a free, the first byte written in between: of one size at
 * a time, each freed at once, and of the original benchmark's sizes in random order,
 * each freed in place of which another is allocated.  All allocators in the same
 * rounds: the machine may be shared, so the ratio within a round says most.
 *
 * mimalloc is looked for when this runs, and left out if it is not there.
 */
#include <dlfcn.h>
#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "evering.h"
#include "measure.h"

#define ARENA	   ((uint64_t)128 << 20)
#define LIVE	   16u /* buffers of the mix: at 4 MiB each half of the arena */
#define PATTERN	   4096u
#define MAX_ROUNDS 1001u

static const size_t sizes[] = { 4,	   64,	      512,	1 << 10,
				4 << 10,   16 << 10,  32 << 10, 64 << 10,
				256 << 10, 512 << 10, 1 << 20,	4 << 20 };
#define SIZES (sizeof(sizes) / sizeof(*sizes))
#define ROWS  (SIZES + 1) /* each size, and the mix */

enum {
	EVERING,
	MALLOC,
	MIMALLOC,
	ALLOCATORS,
};

static struct evering *ev;
static unsigned int rounds = 101;
static unsigned int pairs = 2000;

/* The mix: which size replaces what. */
static struct {
	unsigned char size;
	unsigned char live;
} pattern[PATTERN];

static void *arena_alloc(size_t size)
{
	return evering_alloc(ev, size, 0);
}

static void arena_free(void *p)
{
	evering_free(ev, p);
}

static struct allocator {
	const char *name;
	void *(*alloc)(size_t size);
	void (*free)(void *p);
} allocators[ALLOCATORS] = {
	[EVERING] = { "evering", arena_alloc, arena_free },
	[MALLOC] = { "malloc", malloc, free },
	[MIMALLOC] = { "mimalloc", NULL, NULL },
};

static void *get(const struct allocator *a, size_t size)
{
	volatile char *p = a->alloc(size);

	if (!p)
		errx(1, "%s: no %zu bytes", a->name, size);
	*p = 1;
	return (void *)p;
}

static double one_size(const struct allocator *a, size_t size)
{
	double start = now_ns();
	unsigned int i;

	for (i = 0; i < pairs; i++)
		a->free(get(a, size));
	return (now_ns() - start) / pairs;
}

static double mix(const struct allocator *a)
{
	void *live[LIVE];
	double start;
	unsigned int i, at;

	for (i = 0; i < LIVE; i++)
		live[i] = get(a, sizes[i % SIZES]);
	start = now_ns();
	for (i = 0; i < pairs; i++) {
		at = pattern[i % PATTERN].live;
		a->free(live[at]);
		live[at] = get(a, sizes[pattern[i % PATTERN].size]);
	}
	start = now_ns() - start;
	for (i = 0; i < LIVE; i++)
		a->free(live[i]);
	return start / pairs;
}

static double measure_row(const struct allocator *a, unsigned int row)
{
	return row < SIZES ? one_size(a, sizes[row]) : mix(a);
}

static void make_pattern(void)
{
	uint64_t state = 1;
	unsigned int i;

	/* The same every time: D. Knuth's MMIX, its upper bits. */
	for (i = 0; i < PATTERN; i++) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		pattern[i].size = (unsigned char)((state >> 33) % SIZES);
		pattern[i].live = (unsigned char)((state >> 48) % LIVE);
	}
}

static void measure(void)
{
	static double took[ALLOCATORS][ROWS][MAX_ROUNDS];
	static double ratio[ALLOCATORS][ROWS][MAX_ROUNDS];
	unsigned int round, row, i;
	double ns;

	/* One more than is counted: the first warms up. */
	for (round = 0; round <= rounds; round++)
		for (row = 0; row < ROWS; row++)
			for (i = 0; i < ALLOCATORS; i++) {
				if (!allocators[i].alloc)
					continue;
				ns = measure_row(&allocators[i], row);
				if (!round)
					continue;
				took[i][row][round - 1] = ns;
				ratio[i][row][round - 1] =
					took[EVERING][row][round - 1] / ns;
			}

	printf("alloc and free, ns a pair; and how many times as much evering's takes\n"
	       "(medians of %u rounds of %u, ratios within a round)\n\n%10s",
	       rounds, pairs, "bytes");
	for (i = 0; i < ALLOCATORS; i++)
		if (allocators[i].alloc)
			printf("  %10s%s", allocators[i].name,
			       i == EVERING ? "" : "        ");
	putchar('\n');
	for (row = 0; row < ROWS; row++) {
		if (row < SIZES)
			printf("%10zu", sizes[row]);
		else
			printf("%10s", "mix");
		for (i = 0; i < ALLOCATORS; i++) {
			if (!allocators[i].alloc)
				continue;
			printf("  %10.1f", median(took[i][row], rounds));
			if (i != EVERING)
				printf("  (%4.2f)",
				       median(ratio[i][row], rounds));
		}
		putchar('\n');
	}
}

static void find_mimalloc(void)
{
	void *lib = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
	struct allocator *a = &allocators[MIMALLOC];

	if (lib) {
		/* ISO C knows no way from an object's address to a function's. */
		*(void **)&a->alloc = dlsym(lib, "mi_malloc");
		*(void **)&a->free = dlsym(lib, "mi_free");
	}
	if (a->alloc && a->free)
		return;
	a->alloc = NULL;
	printf("without mimalloc: no libmimalloc.so.2, "
	       "which libmimalloc2.0 has (tools/setup alloc)\n");
}

static void usage(FILE *to)
{
	fprintf(to,
		"usage: alloc [--rounds=N] [--pairs=N]\n"
		"Measures what evering_alloc() costs beside malloc() and mimalloc.\n");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "pairs", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering *pair[2];
	int option, ret;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'r':
			rounds = number("alloc", "rounds", optarg, MAX_ROUNDS);
			break;
		case 'p':
			pairs = number("alloc", "pairs", optarg, 100000000);
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind < argc) {
		usage(stderr);
		return 2;
	}
	params.backend = EVERING_BACKEND_MEMFD;
	params.arena_size[EVERING_MINE] = ARENA;
	params.arena_size[EVERING_PEERS] = 0;
	ret = evering_pair(&params, pair);
	if (ret)
		errx(1, "evering_pair: %s", strerror(-ret));
	ev = pair[0];
	find_mimalloc();
	make_pattern();
	measure();
	evering_close(pair[0]);
	evering_close(pair[1]);
	return 0;
}
