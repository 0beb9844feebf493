// SPDX-License-Identifier: MIT
/*
 * arena.c: the allocator of the own arena against a model of it that is too simple to
 * be wrong: a list of what is out.  No two buffers overlap, each lies where it was
 * asked to, what cannot be freed is refused, and when all is given back the
 * whole arena can be had again.
 */
#include "common.h"

#define SIZE	(4u << 20)

struct buffer {
	unsigned char *p;
	size_t size;
	unsigned char mark;
};

FIXTURE(arena)
{
	struct evering *ev[2];
	struct evering *a, *b;
	unsigned char *base;
	struct buffer *out;
	size_t n_out;
};

BACKEND_VARIANTS(arena);

FIXTURE_SETUP(arena)
{
	struct evering_params p;
	uint64_t size;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 16, 4, SIZE);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
	self->base = evering_arena(self->a, &size);
	ASSERT_NE(NULL, self->base);
	ASSERT_EQ(SIZE, size);
	self->out = calloc(SIZE / 64 + 1, sizeof(*self->out));
}

FIXTURE_TEARDOWN(arena)
{
	free(self->out);
	close_pair(self->ev);
}

static bool inside(const unsigned char *base, const unsigned char *p,
		   size_t size)
{
	return p >= base && size <= SIZE && p <= base + SIZE - size;
}

/* Everything is free: the whole arena can be had at once. */
static bool is_whole(struct evering *ev)
{
	void *p = evering_alloc(ev, SIZE, 0);

	return p && p == evering_arena(ev, NULL) && !evering_free(ev, p);
}

TEST_F(arena, every_size_can_be_had)
{
	unsigned char *p;
	size_t size;
	int shift, d;

	for (shift = 0; shift <= 22; shift++)
		for (d = -1; d <= 1; d++) {
			size = (size_t)((1l << shift) + d);
			p = evering_alloc(self->a, size, 0);
			if (!size || size > SIZE) {
				EXPECT_EQ(NULL, p);
				continue;
			}
			ASSERT_NE(NULL, p)
			{
				TH_LOG("%zu bytes", size);
			}
			EXPECT_TRUE(inside(self->base, p, size));
			EXPECT_EQ(0u, (uintptr_t)p % 64);
			memset(p, 0xff, size);
			ASSERT_EQ(0, evering_free(self->a, p));
		}
	EXPECT_EQ(NULL, evering_alloc(self->a, SIZE_MAX, 0));
	EXPECT_EQ(NULL, evering_alloc(self->a, SIZE_MAX - 63, 0));
	EXPECT_EQ(NULL, evering_alloc(self->a, SIZE_MAX / 2 + 1, 0));
#if SIZE_MAX > UINT32_MAX
	EXPECT_EQ(NULL, evering_alloc(self->a, ((size_t)1 << 38) + 64, 0));
#endif
	EXPECT_TRUE(is_whole(self->a));
}

TEST_F(arena, every_alignment_is_kept)
{
	unsigned char *p[3];
	size_t align;
	int i;

	/*
	 * Counted from the start of the arena, and in addresses as far as the
	 * arena itself is aligned.
	 */
	for (align = 1; align <= 2u << 20; align *= 2) {
		size_t real = align < PAGE ? align : PAGE;

		p[0] = evering_alloc(self->a, 100, align);
		p[1] = evering_alloc(self->a, 5000, align);
		p[2] = evering_alloc(self->a, 64, 0);
		for (i = 0; i < 3; i++)
			ASSERT_NE(NULL, p[i])
			{
				TH_LOG("alignment %zu", align);
			}
		for (i = 0; i < 2; i++) {
			EXPECT_EQ(0u, evering_offset(self->a, p[i]) % align);
			EXPECT_EQ(0u, (uintptr_t)p[i] % real);
		}
		for (i = 0; i < 3; i++)
			ASSERT_EQ(0, evering_free(self->a, p[i]));
		ASSERT_TRUE(is_whole(self->a))
		{
			TH_LOG("alignment %zu", align);
		}
	}
	EXPECT_EQ(NULL, evering_alloc(self->a, 64, 3));
	EXPECT_EQ(NULL, evering_alloc(self->a, 64, 96));
	EXPECT_EQ(NULL, evering_alloc(self->a, 64, 4u << 20));
	EXPECT_EQ(NULL, evering_alloc(self->a, 64, SIZE_MAX));
}

TEST_F(arena, large_alignment_is_found_however_the_rest_lies)
{
	unsigned char *p, *small;

	/* The last 2 MiB, behind one small buffer at the start. */
	small = evering_alloc(self->a, 64, 0);
	p = evering_alloc(self->a, 2u << 20, 2u << 20);
	ASSERT_NE(NULL, p);
	EXPECT_EQ(2u << 20, evering_offset(self->a, p));
	EXPECT_EQ(NULL, evering_alloc(self->a, 2u << 20, 0));
	EXPECT_EQ(0, evering_free(self->a, small));
	small = evering_alloc(self->a, 2u << 20, 2u << 20);
	EXPECT_EQ(self->base, small);
	EXPECT_EQ(0, evering_free(self->a, p));
	EXPECT_EQ(0, evering_free(self->a, small));
	EXPECT_TRUE(is_whole(self->a));
}

TEST_F(arena, it_can_be_exhausted_and_refilled)
{
	static const size_t size[] = { 1, 64, 65, 4096, 100000, SIZE / 2, SIZE };
	size_t i, n, k, room;

	for (i = 0; i < ARRAY_SIZE(size); i++) {
		room = SIZE / ((size[i] + 63) / 64 * 64);
		for (k = 0; k < 3; k++) {
			for (n = 0; n <= room; n++) {
				self->out[n].p =
					evering_alloc(self->a, size[i], 0);
				if (!self->out[n].p)
					break;
				*self->out[n].p = (unsigned char)n;
			}
			/* Not one less than fits. */
			ASSERT_EQ(room, n)
			{
				TH_LOG("buffers of %zu bytes", size[i]);
			}
			while (n--) {
				ASSERT_EQ((unsigned char)n, *self->out[n].p);
				ASSERT_EQ(0, evering_free(self->a,
							  self->out[n].p));
			}
			ASSERT_TRUE(is_whole(self->a));
		}
	}
}

TEST_F(arena, freed_neighbours_become_one_again)
{
	size_t n, i;

	/* Every other one first, then the rest: nothing but holes between. */
	for (n = 0; (self->out[n].p = evering_alloc(self->a, 4096, 0)); n++)
		;
	ASSERT_EQ(SIZE / 4096, n);
	for (i = 0; i < n; i += 2)
		ASSERT_EQ(0, evering_free(self->a, self->out[i].p));
	EXPECT_EQ(NULL, evering_alloc(self->a, 4097, 0));
	for (i = 1; i < n; i += 2)
		ASSERT_EQ(0, evering_free(self->a, self->out[i].p));
	EXPECT_TRUE(is_whole(self->a));
}

static bool is_marked(const struct buffer *b)
{
	size_t step = b->size > 4096 ? 509 : 1;
	size_t i;

	for (i = 0; i < b->size; i += step)
		if (b->p[i] != b->mark)
			return false;
	return b->p[b->size - 1] == b->mark;
}

static size_t random_size(uint64_t *rng)
{
	switch (random_below(rng, 4)) {
	case 0:
		return 1 + random_below(rng, 64);
	case 1:
		return 1 + random_below(rng, 4096);
	case 2:
		return 64 * (1 + random_below(rng, 100));
	default:
		return 1 + random_below(rng, 1u << random_below(rng, 20));
	}
}

/* Bytes that are surely free: the arena less all that is out, rounded up. */
static size_t bytes_out(const struct buffer *out, size_t n)
{
	size_t bytes = 0, i;

	for (i = 0; i < n; i++)
		bytes += (out[i].size + 63) / 64 * 64;
	return bytes;
}

TEST_F(arena, a_random_mix_agrees_with_the_model)
{
	int steps = short_run() ? 4000 : 40000;
	uint64_t rng = random_seed();
	struct buffer *b;
	size_t i, align;
	int step;

	for (step = 0; step < steps; step++) {
		/* Swings between nearly empty and nearly full. */
		bool fill = (step / 2000) & 1 ? random_below(&rng, 3) == 0 :
						random_below(&rng, 3) != 0;

		if (fill) {
			b = &self->out[self->n_out];
			b->size = random_size(&rng);
			b->mark = (unsigned char)random_u64(&rng);
			align = random_below(&rng, 4) ?
					0 :
					(size_t)1 << random_below(&rng, 17);
			b->p = evering_alloc(self->a, b->size, align);
			if (!b->p) {
				/* Only ever for want of room. */
				ASSERT_GT(bytes_out(self->out, self->n_out) +
						  b->size + align,
					  SIZE / 8);
				continue;
			}
			ASSERT_TRUE(inside(self->base, b->p, b->size));
			ASSERT_EQ(0u, evering_offset(self->a, b->p) %
					      (align ? align : 64));
			for (i = 0; i < self->n_out; i++)
				ASSERT_TRUE(b->p + b->size <= self->out[i].p ||
					    self->out[i].p +
							    self->out[i].size <=
						    b->p);
			memset(b->p, b->mark, b->size);
			self->n_out++;
		} else if (self->n_out) {
			i = random_below(&rng, self->n_out);
			ASSERT_TRUE(is_marked(&self->out[i]));
			ASSERT_EQ(0, evering_free(self->a, self->out[i].p));
			ASSERT_EQ(-EINVAL,
				  evering_free(self->a, self->out[i].p));
			self->out[i] = self->out[--self->n_out];
		}
	}
	printf("# %zu buffers of %zu bytes out at the end\n", self->n_out,
	       bytes_out(self->out, self->n_out));
	while (self->n_out--) {
		ASSERT_TRUE(is_marked(&self->out[self->n_out]));
		ASSERT_EQ(0, evering_free(self->a, self->out[self->n_out].p));
	}
	EXPECT_TRUE(is_whole(self->a));
}

TEST_F(arena, what_is_no_buffer_is_not_freed)
{
	unsigned char on_stack[64];
	unsigned char *p, *q;
	void *heap = malloc(64);
	uint64_t rng = random_seed();
	int i;

	p = evering_alloc(self->a, 1000, 0);
	q = evering_alloc(self->a, 1000, 0);
	EXPECT_EQ(-EINVAL, evering_free(self->a, on_stack));
	EXPECT_EQ(-EINVAL, evering_free(self->a, heap));
	EXPECT_EQ(-EINVAL, evering_free(self->a, p + 1));
	EXPECT_EQ(-EINVAL, evering_free(self->a, p + 64));
	EXPECT_EQ(-EINVAL, evering_free(self->a, p + 999));
	EXPECT_EQ(-EINVAL, evering_free(self->a, self->base - 64));
	EXPECT_EQ(-EINVAL, evering_free(self->a, self->base + SIZE));
	EXPECT_EQ(-EINVAL, evering_free(self->a, self->base + SIZE - 64));
	EXPECT_EQ(-EINVAL, evering_free(self->a, (void *)64));
	EXPECT_EQ(-EINVAL, evering_free(self->a, (void *)UINTPTR_MAX));
	EXPECT_EQ(-EINVAL, evering_free(self->a, self->a->tx.slots));
	EXPECT_EQ(-EINVAL, evering_free(self->b, p));
	ASSERT_NE(NULL, evering_arena(self->b, NULL));
	EXPECT_EQ(-EINVAL,
		  evering_free(self->a, (void *)(uintptr_t)evering_peer_buffer(
						self->a, 0, 1)));
	for (i = 0; i < 100000; i++) {
		void *any = self->base + random_below(&rng, SIZE);

		if (any != p && any != q)
			ASSERT_EQ(-EINVAL, evering_free(self->a, any));
	}
	EXPECT_EQ(0, evering_free(self->a, NULL));
	EXPECT_EQ(0, evering_free(self->a, p));
	EXPECT_EQ(-EINVAL, evering_free(self->a, p));
	EXPECT_EQ(0, evering_free(self->a, q));
	EXPECT_EQ(-EINVAL, evering_free(self->a, q));
	EXPECT_EQ(-EINVAL, evering_free(self->a, p));
	EXPECT_TRUE(is_whole(self->a));
	free(heap);
}

TEST_F(arena, what_is_in_the_arena_does_not_matter_to_the_allocator)
{
	unsigned char *p[64];
	int i;

	/* Whoever can write the arena finds no bookkeeping in it. */
	for (i = 0; i < 64; i++)
		p[i] = evering_alloc(self->a, 1000, 0);
	for (i = 0; i < 64; i += 2)
		ASSERT_EQ(0, evering_free(self->a, p[i]));
	memset(self->base, 0xff, SIZE);
	for (i = 0; i < 64; i += 2)
		ASSERT_NE(NULL, p[i] = evering_alloc(self->a, 900, 0));
	memset(self->base, 0x01, SIZE);
	for (i = 0; i < 64; i++)
		ASSERT_EQ(0, evering_free(self->a, p[i]));
	EXPECT_TRUE(is_whole(self->a));
}

TEST_F(arena, the_smallest_arena_works)
{
	struct evering_params p = params_sized(variant->backend, 16, 4, 4096);
	struct evering *ev[2];
	void *q;

	ASSERT_EQ(0, evering_pair(&p, ev));
	EXPECT_EQ(NULL, evering_alloc(ev[0], PAGE + 1, 0));
	q = evering_alloc(ev[0], PAGE, PAGE);
	EXPECT_EQ(evering_arena(ev[0], NULL), q);
	EXPECT_EQ(NULL, evering_alloc(ev[0], 1, 0));
	EXPECT_EQ(0, evering_free(ev[0], q));
	q = evering_alloc(ev[0], PAGE - 63, 0);
	EXPECT_NE(NULL, q);
	close_pair(ev);
}

TEST_F(arena, odd_sizes_of_arenas_can_be_had_whole)
{
	struct evering_params p = params_sized(variant->backend, 16, 4, 0);
	struct evering *ev[2];
	uint64_t pages, size;
	void *q;

	for (pages = 1; pages < 200; pages += pages < 40 ? 1 : 37) {
		p.arena_size[0] = pages * PAGE;
		ASSERT_EQ(0, evering_pair(&p, ev));
		for (size = pages * PAGE; size > pages * PAGE - PAGE;
		     size -= 64) {
			q = evering_alloc(ev[0], size, 0);
			ASSERT_NE(NULL, q)
			{
				TH_LOG("%llu of %llu bytes",
				       (unsigned long long)size,
				       (unsigned long long)pages * PAGE);
			}
			ASSERT_EQ(0, evering_free(ev[0], q));
		}
		close_pair(ev);
	}
}

TEST_F(arena, payload_is_seen_in_place)
{
	uint64_t rng = random_seed();
	const unsigned char *theirs;
	unsigned char *mine;
	struct {
		uint64_t offset;
		uint32_t len;
	} e;
	int i, end;

	for (i = 0; i < 200; i++) {
		end = i & 1;
		e.len = 1 + (uint32_t)random_below(&rng, 100000);
		mine = evering_alloc(self->ev[end], e.len, 0);
		ASSERT_NE(NULL, mine);
		memset(mine, i, e.len);
		e.offset = evering_offset(self->ev[end], mine);
		EXPECT_EQ(mine,
			  (unsigned char *)evering_arena(self->ev[end], NULL) +
				  e.offset);
		ASSERT_EQ(0, evering_send(self->ev[end], &e, 12, 0));
		e.offset = UINT64_MAX;
		ASSERT_EQ(0, evering_recv(self->ev[!end], &e, 12, 0));
		theirs = evering_peer_buffer(self->ev[!end], e.offset, e.len);
		ASSERT_NE(NULL, theirs);
		EXPECT_NE(mine, theirs);
		EXPECT_EQ(0, memcmp(mine, theirs, e.len));
		mine[e.len - 1] ^= 0xff;
		EXPECT_EQ(
			mine[e.len - 1],
			*(volatile const unsigned char *)(theirs + e.len - 1));
		ASSERT_EQ(0, evering_free(self->ev[end], mine));
	}
}

TEST_HARNESS_MAIN
