// SPDX-License-Identifier: MIT
/*
 * alloc.c: how full an arena can be before an allocation fails that would fit it.
 *
 * Buffers of random sizes are allocated, and random ones freed, first so that the
 * arena is never more than half full, each round until it has been turned over
 * some times, and then always a little fuller.  The first allocation to fail although
 * that many bytes are free ends it: they are in pieces.  How full the arena was then
 * is what fragmentation leaves to be used, printed here and kept above a bound.
 *
 * The sizes of the original benchmark span six orders of magnitude; it is the largest,
 * a 32nd of the arena, that fails first.
 */
#include "common.h"

#define ARENA	(128ull << 20)
#define GRANULE	64u

/* How full it must become: in half of the rounds, and in each. */
#define USABLE		0.70
#define USABLE_LEAST	0.60

static const uint64_t original[] = { 4,		64,	   512,	     1 << 10,
				     4 << 10,	16 << 10,  32 << 10, 64 << 10,
				     256 << 10, 512 << 10, 1 << 20,  4 << 20 };

typedef uint64_t (*size_fn)(uint64_t *rng);

/* As many of each. */
static uint64_t original_size(uint64_t *rng)
{
	return original[random_below(rng, ARRAY_SIZE(original))];
}

/* As many bytes of each, but for the least two, of which that would be millions. */
static uint64_t original_bytes(uint64_t *rng)
{
	static const unsigned int first = 2;
	double all = 0, at;
	size_t i;

	for (i = first; i < ARRAY_SIZE(original); i++)
		all += 1.0 / (double)original[i];
	at = (double)(random_u64(rng) >> 11) * 0x1p-53 * all;
	for (i = first; i < ARRAY_SIZE(original) - 1; i++) {
		at -= 1.0 / (double)original[i];
		if (at < 0)
			break;
	}
	return original[i];
}

/* 64 bytes to 1 MiB, as many from each octave. */
static uint64_t octave_size(uint64_t *rng)
{
	uint64_t least = 64ull << random_below(rng, 14);

	return least + random_below(rng, least);
}

struct buffer {
	void *p;
	uint64_t size; /* in the arena */
};

struct filling {
	struct evering *ev;
	struct buffer *out;
	size_t n_out;
	uint64_t live; /* bytes in the arena */
	uint64_t failed; /* bytes that could not be had */
};

static void free_one(struct filling *f, uint64_t *rng)
{
	size_t i = random_below(rng, f->n_out);

	evering_free(f->ev, f->out[i].p);
	f->live -= f->out[i].size;
	f->out[i] = f->out[--f->n_out];
}

/*
 * Turns @turnover bytes over, never more than @most of them in use.  False: one
 * could not be had.
 */
static bool churn(struct filling *f, size_fn next_size, uint64_t *rng,
		  uint64_t most, uint64_t turnover)
{
	uint64_t done, size, asked;
	void *p;

	for (done = 0; done < turnover; done += size) {
		asked = next_size(rng);
		size = (asked + GRANULE - 1) / GRANULE * GRANULE;
		while (f->live + size > most)
			free_one(f, rng);
		p = evering_alloc(f->ev, asked, 0);
		if (!p) {
			f->failed = asked;
			return false;
		}
		f->out[f->n_out++] = (struct buffer){ p, size };
		f->live += size;
	}
	return true;
}

FIXTURE(alloc)
{
	struct evering *ev[2];
	struct buffer *out;
};

FIXTURE_VARIANT(alloc)
{
	const char *name;
	size_fn size;
};

FIXTURE_VARIANT_ADD(alloc, original_sizes){
	.name = "original sizes, as many of each",
	.size = original_size,
};

FIXTURE_VARIANT_ADD(alloc, original_bytes){
	.name = "original sizes of 512 and more, as many bytes of each",
	.size = original_bytes,
};

FIXTURE_VARIANT_ADD(alloc, any_size){
	.name = "any size from 64 to 1 MiB, as many from each octave",
	.size = octave_size,
};

FIXTURE_SETUP(alloc)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_MEMFD, 16, 4, ARENA);

	/* The allocator is the same on both backends, and in every kernel. */
	if (getenv("EVERING_GUEST"))
		SKIP(return, "EVERING_GUEST");
	p.arena_size[EVERING_PEERS] = 0;
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->out = malloc(ARENA / GRANULE * sizeof(*self->out));
	ASSERT_NE(NULL, self->out);
}

FIXTURE_TEARDOWN(alloc)
{
	free(self->out);
	close_pair(self->ev);
}

TEST_F(alloc, most_of_an_arena_can_be_used)
{
	int rounds = short_run() || slow(1) > 1 ? 3 : 9, round;
	int64_t permille[9] = { 0 }, failed[9] = { 0 };
	uint64_t rng = random_seed(), most;
	struct filling f;
	double least = 1, median;
	void *whole;

	for (round = 0; round < rounds; round++) {
		f = (struct filling){ .ev = self->ev[0], .out = self->out };
		for (most = ARENA / 2; most < ARENA; most += ARENA / 50)
			if (!churn(&f, variant->size, &rng, most, 2 * ARENA))
				break;
		failed[round] = (int64_t)f.failed;
		permille[round] = (int64_t)(f.live * 1000 / ARENA);
		if ((double)f.live / ARENA < least)
			least = (double)f.live / ARENA;
		while (f.n_out)
			free_one(&f, &rng);
		ASSERT_EQ(0u, f.live);
		/* And whatever was left in pieces becomes one again. */
		whole = evering_alloc(self->ev[0], ARENA, 0);
		ASSERT_NE(NULL, whole);
		ASSERT_EQ(0, evering_free(self->ev[0], whole));
	}
	median = (double)median_of(permille, (size_t)rounds) / 1000;
	printf("# %s: full to %.1f %% when one of %lld KiB fails (medians of %d); "
	       "least %.1f %%\n",
	       variant->name, median * 100,
	       (long long)median_of(failed, (size_t)rounds) / 1024, rounds,
	       least * 100);
	EXPECT_GE(median, USABLE);
	EXPECT_GE(least, USABLE_LEAST);
}

TEST_HARNESS_MAIN
