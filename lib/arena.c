// SPDX-License-Identifier: MIT
/*
 * arena.c: the allocator of an endpoint's arena.
 *
 * The algorithm is two-level segregated fit (Masmano, Ripoll, Crespo, Real: TLSF, ECRTS
 * 2004).  All of its data is outside the arena, because the peer can read the arena,
 * and perhaps write it.  The arena is divided into granules of 64 bytes.  Block headers
 * are records of a book, one for each granule, so there are no nodes to allocate.
 * After arena_init() only one thing is allocated: memory for the record of a block that
 * begins in an unused part of the arena.
 *
 * Invariants, for granule g:
 *	tag[g] is 0 unless a block starts at g; else its granules, times two, plus
 *		one if it is in use
 *	before[g], where a block starts, is the length of the block in front of it
 *		if that is free, else 0
 *	next[g], prev[g] link the free blocks of one class
 *	no two free blocks are neighbours
 *	a header behind the last granule is in use for ever, so that there is always
 *		a neighbour to look at
 *	hold[g], where a block in use starts, says whether its owner has it, or the
 *		peer; and a generation, which moves on when it is freed, so that the
 *		peer cannot mean a block that was there before
 *
 * A class is a range of sizes: below 32 granules one class for each size, above that 32
 * classes for each power of two.  A block is taken from a class in which every block is
 * large enough.  If all of those are empty, a few blocks of the size's own class are
 * tried, so that the whole arena can be allocated and the time stays bounded.  If the
 * arena cannot grow, a few blocks of each class that is large enough are tried.
 */
#include <sys/mman.h>

#include "internal.h"

#define GRANULE	      ARENA_GRANULE
#define SL_BITS	      5u
#define SL_COUNT      (1u << SL_BITS)
#define NONE	      UINT32_MAX
#define LOOKS	      32u
#define MAX_ALIGN     (2u << 20)

/*
 * hold[g]: which side has the block, and in the bits above it how often there was a
 * block at g.
 */
#define HOLD_BITS     2u
#define HOLD_MASK     ((1u << HOLD_BITS) - 1)

/* The record of granule g, if a block starts there. */
struct block {
	uint32_t tag;
	uint32_t before;
	uint32_t next;
	uint32_t prev;
	uint32_t hold;
};

static inline struct block *at(const struct arena *a, uint32_t g)
{
	return (struct block *)a->book.base + g;
}

static unsigned int log2_floor(uint32_t n)
{
	return 31u - (unsigned int)__builtin_clz(n);
}

static void class_of(uint32_t n, unsigned int *fl, unsigned int *sl)
{
	unsigned int log;

	if (n < SL_COUNT) {
		*fl = 0;
		*sl = n;
		return;
	}
	log = log2_floor(n);
	*fl = log - SL_BITS + 1;
	*sl = (n >> (log - SL_BITS)) & (SL_COUNT - 1);
}

static uint32_t block_length(const struct arena *a, uint32_t g)
{
	return at(a, g)->tag >> 1;
}

static bool block_used(const struct arena *a, uint32_t g)
{
	return at(a, g)->tag & 1;
}

static void list_insert(struct arena *a, uint32_t g, uint32_t length)
{
	unsigned int fl, sl;
	uint32_t head;

	class_of(length, &fl, &sl);
	head = a->head[fl][sl];
	at(a, g)->next = head;
	at(a, g)->prev = NONE;
	if (head != NONE)
		at(a, head)->prev = g;
	a->head[fl][sl] = g;
	a->first_level |= 1u << fl;
	a->second_level[fl] |= 1u << sl;

	at(a, g)->tag = length << 1;
	at(a, g + length)->before = length;
}

static void list_remove(struct arena *a, uint32_t g)
{
	uint32_t length = block_length(a, g);
	uint32_t next = at(a, g)->next, prev = at(a, g)->prev;
	unsigned int fl, sl;

	if (next != NONE)
		at(a, next)->prev = prev;
	if (prev != NONE) {
		at(a, prev)->next = next;
	} else {
		class_of(length, &fl, &sl);
		a->head[fl][sl] = next;
		if (next == NONE) {
			a->second_level[fl] &= ~(1u << sl);
			if (!a->second_level[fl])
				a->first_level &= ~(1u << fl);
		}
	}
	at(a, g + length)->before = 0;
}

/* Where @n granules aligned to @align begin in the free block at @g; NONE: nowhere. */
static uint32_t fit(const struct arena *a, uint32_t g, uint32_t n,
		    uint32_t align)
{
	uint64_t start = ((uint64_t)g + align - 1) & ~(uint64_t)(align - 1);

	if (start + n > (uint64_t)g + block_length(a, g))
		return NONE;
	return (uint32_t)start;
}

/* A free block of at least @n granules, from the classes above; NONE: there is none. */
static uint32_t find_above(const struct arena *a, uint64_t n)
{
	unsigned int fl, sl;
	uint32_t map;

	if (n > a->granules)
		return NONE;
	/* Rounded up to the next class, unless it is the least size of its own. */
	if (n >= SL_COUNT)
		n += (1u << (63u - (unsigned int)__builtin_clzll(n) -
			     SL_BITS)) -
		     1;
	class_of((uint32_t)n, &fl, &sl);
	map = a->second_level[fl] & (~0u << sl);
	if (!map) {
		map = a->first_level & (~0u << 1 << fl);
		if (!map)
			return NONE;
		fl = (unsigned int)__builtin_ctz(map);
		map = a->second_level[fl];
	}
	return a->head[fl][__builtin_ctz(map)];
}

/* A block of a class that has room before @end, among the few that are tried. */
static uint32_t find_in_class(const struct arena *a, unsigned int fl,
			      unsigned int sl, uint32_t n, uint32_t align,
			      uint32_t *start, uint32_t end)
{
	unsigned int looks;
	uint32_t g;

	g = a->head[fl][sl];
	for (looks = 0; g != NONE && looks < LOOKS; looks++) {
		*start = fit(a, g, n, align);
		if (*start != NONE && *start + n <= end)
			return g;
		g = at(a, g)->next;
	}
	return NONE;
}

/*
 * A block that has room in the part of the arena with memory: of the size's own class
 * or of any above, because the larger blocks may lie behind that part.
 */
static __attribute__((noinline)) uint32_t
find_there(const struct arena *a, uint32_t n, uint32_t align, uint32_t *start)
{
	unsigned int fl, sl;
	uint32_t map, g;

	class_of(n, &fl, &sl);
	map = a->second_level[fl] & (~0u << sl);
	for (;;) {
		for (; map; map &= map - 1) {
			sl = (unsigned int)__builtin_ctz(map);
			g = find_in_class(a, fl, sl, n, align, start, a->there);
			if (g != NONE)
				return g;
		}
		map = a->first_level & (~0u << 1 << fl);
		if (!map)
			return NONE;
		fl = (unsigned int)__builtin_ctz(map);
		map = a->second_level[fl];
	}
}

/* A free block that has room, and where in it; NONE: none was found. */
static uint32_t find(const struct arena *a, uint32_t n, uint32_t align,
		     uint32_t *start)
{
	unsigned int fl, sl;
	uint32_t g;

	g = find_above(a, n);
	if (g != NONE) {
		*start = fit(a, g, n, align);
		if (*start != NONE)
			return g;
		g = find_above(a, (uint64_t)n + align - 1);
		if (g != NONE) {
			*start = fit(a, g, n, align);
			return g;
		}
	}
	class_of(n, &fl, &sl);
	return find_in_class(a, fl, sl, n, align, start, a->granules);
}

void *evering_alloc(struct evering *ev, size_t size, size_t align)
{
	struct endpoint *e = to_endpoint(ev);
	struct arena *a = &e->arena;
	uint32_t n, align_n, g, length, start;

	if (!size || size > (size_t)a->granules * GRANULE ||
	    align > MAX_ALIGN || (align & (align - 1)))
		return NULL;
	n = (uint32_t)((size + GRANULE - 1) / GRANULE);
	align_n = align > GRANULE ? (uint32_t)(align / GRANULE) : 1;

	g = find(a, n, align_n, &start);
	/* A place without memory that gets none counts as taken. */
	if (g != NONE && EVERING_UNLIKELY(start + n > a->there) &&
	    arena_grow(e, (uint64_t)(start + n) * GRANULE))
		g = find_there(a, n, align_n, &start);
	if (g == NONE)
		return NULL;
	length = block_length(a, g);
	if (book_open(&a->book, start) || book_open(&a->book, start + n))
		return NULL;
	list_remove(a, g);
	at(a, g)->tag = 0;
	if (start != g)
		list_insert(a, g, start - g);
	if (start + n != g + length)
		list_insert(a, start + n, g + length - (start + n));
	at(a, start)->tag = n << 1 | 1;
	return a->base + (size_t)start * GRANULE;
}

/* The block in use that starts at @buf; NONE: there is none. */
static uint32_t block_at(const struct arena *a, const void *buf)
{
	uint64_t offset = (uint64_t)((uintptr_t)buf - (uintptr_t)a->base);

	if (offset % GRANULE || offset / GRANULE >= a->granules ||
	    !book_has(&a->book, (uint32_t)(offset / GRANULE)) ||
	    !block_used(a, (uint32_t)(offset / GRANULE)))
		return NONE;
	return (uint32_t)(offset / GRANULE);
}

static unsigned int hold_of(const struct arena *a, uint32_t g)
{
	return at(a, g)->hold & HOLD_MASK;
}

static void hold_set(struct arena *a, uint32_t g, unsigned int hold)
{
	at(a, g)->hold = (at(a, g)->hold & ~HOLD_MASK) | hold;
}

/* Frees the block in use at @g, whichever side has it. */
static void block_free(struct arena *a, uint32_t g)
{
	uint32_t length = block_length(a, g);
	uint32_t neighbour = g + length;

	at(a, g)->hold = (at(a, g)->hold & ~HOLD_MASK) + (1u << HOLD_BITS);
	at(a, g)->tag = 0;
	if (!block_used(a, neighbour)) {
		length += block_length(a, neighbour);
		list_remove(a, neighbour);
		at(a, neighbour)->tag = 0;
	}
	if (at(a, g)->before) {
		neighbour = g - at(a, g)->before;
		length += block_length(a, neighbour);
		list_remove(a, neighbour);
		g = neighbour;
	}
	list_insert(a, g, length);
}

/* Why the owner may not free, lend or give a block; 0: it may. */
static int hold_error(const struct arena *a, uint32_t g)
{
	switch (hold_of(a, g)) {
	case HOLD_OWN:
		return 0;
	case HOLD_LENT:
		return -EBUSY;
	default:
		return -ESTALE;
	}
}

int evering_free(struct evering *ev, void *buf)
{
	struct endpoint *e = to_endpoint(ev);
	struct arena *a = &e->arena;
	uint32_t g;
	int ret;

	if (!buf)
		return 0;
	g = block_at(a, buf);
	if (g == NONE)
		return ops_free(e, buf);
	ret = hold_error(a, g);
	if (!ret)
		block_free(a, g);
	return ret;
}

/* Whether @buf is in this arena, and not in that of the peer. */
bool arena_has(const struct arena *a, const void *buf)
{
	return (uint64_t)((uintptr_t)buf - (uintptr_t)a->base) <
	       (uint64_t)a->granules * GRANULE;
}

/*
 * Hands the first @len bytes of the block at @buf to the peer; @hold is how.  Sets
 * *@granule and *@generation, by which the peer names the block.  Returns 0; -EINVAL:
 * @buf is not the start of a block that long; -EBUSY, -ESTALE: the peer has it already.
 */
int arena_hand_out(struct arena *a, const void *buf, uint64_t len,
		   unsigned int hold, uint32_t *granule, uint32_t *generation)
{
	uint32_t g = block_at(a, buf);
	int ret;

	if (g == NONE || !len || len > (uint64_t)block_length(a, g) * GRANULE)
		return -EINVAL;
	ret = hold_error(a, g);
	if (ret)
		return ret;
	hold_set(a, g, hold);
	a->out++;
	*granule = g;
	*generation = at(a, g)->hold >> HOLD_BITS;
	return 0;
}

/* Makes a lent block a given one. */
void arena_give(struct arena *a, uint32_t g)
{
	hold_set(a, g, HOLD_GIVEN);
}

/* Returns a block that was handed out to its owner, or frees it. */
void *arena_take_back(struct arena *a, uint32_t g, bool release)
{
	a->out--;
	if (release)
		block_free(a, g);
	else
		hold_set(a, g, HOLD_OWN);
	return a->base + (size_t)g * GRANULE;
}

/* Whether the peer has the block that begins at @g, under this name. */
static bool was_given(const struct arena *a, uint32_t g, uint32_t generation)
{
	return g < a->granules && book_has(&a->book, g) && block_used(a, g) &&
	       hold_of(a, g) == HOLD_GIVEN &&
	       at(a, g)->hold >> HOLD_BITS == generation;
}

/*
 * The peer states that it has finished with a block that it was given.  Returns the
 * block, which must have @len bytes; NULL: the peer was given no such block.
 */
void *arena_come_home(struct arena *a, uint32_t g, uint32_t generation,
		      uint64_t len, bool release)
{
	if (!was_given(a, g, generation) ||
	    len > (uint64_t)block_length(a, g) * GRANULE)
		return NULL;
	return arena_take_back(a, g, release);
}

/* Frees the blocks that the peer was given: it is gone, and will not return them. */
void arena_all_home(struct arena *a)
{
	uint32_t g, next;

	for (g = 0; g < a->granules; g = next) {
		next = g + block_length(a, g);
		if (block_used(a, g) && hold_of(a, g) == HOLD_GIVEN) {
			/*
			 * The free may join the next block to this one, so step over
			 * that.
			 */
			if (!block_used(a, next))
				next += block_length(a, next);
			a->out--;
			block_free(a, g);
		}
	}
}

/*
 * Keeps a block that was given to a dead peer for its successor: until arena_give() no
 * peer can return it.  False: that peer does not have it any more.
 */
bool arena_hold_back(struct arena *a, uint32_t g, uint32_t generation)
{
	if (!was_given(a, g, generation))
		return false;
	hold_set(a, g, HOLD_LENT);
	return true;
}

/*
 * Initializes the allocator of @size bytes, of which the first @there have memory.
 * Returns 0; -ENOMEM.
 */
int arena_init(struct arena *a, void *base, uint64_t size, uint64_t there)
{
	uint32_t granules = (uint32_t)(size / GRANULE);

	memset(a->head, 0xff, sizeof(a->head));
	a->base = base;
	if (!granules)
		return 0;
	if (book_init(&a->book, granules + 1, sizeof(struct block), NULL) ||
	    book_open(&a->book, 0) || book_open(&a->book, granules))
		return -ENOMEM;
	a->granules = granules;
	a->there = (uint32_t)(there / GRANULE);
	at(a, granules)->tag = 1;
	list_insert(a, 0, granules);
	return 0;
}

void arena_destroy(struct arena *a)
{
	book_destroy(&a->book);
}
