// SPDX-License-Identifier: MIT
/*
 * grow.c: arenas that get their memory as it is used.
 *
 * The size, seals and mappings of an arena are those of the whole arena from the
 * beginning.  Only its memory grows, from the first byte on, and never shrinks.  The
 * owner gives a part memory before it allocates a buffer there, and then publishes how
 * far the memory reaches.  The peer trusts this only after it has made the part safe to
 * read itself.
 *
 * A step is half of the present memory, at least 64 KiB.  So an arena has at most 1.5
 * times the memory that was ever needed, and one of 64 MiB is complete after 18 steps.
 */
#include "internal.h"

#define MIN_STEP ((uint64_t)64 << 10)
/*
 * The most bytes beyond what is needed that are made safe to read in the peer's arena.
 */
#define AHEAD	 ((uint64_t)1 << 20)

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t round_to(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

/* How many bytes of this side's arena have memory. */
uint64_t arena_there(const struct endpoint *e)
{
	return (uint64_t)e->arena.there * ARENA_GRANULE;
}

/*
 * Gives this side's arena memory for its first @need bytes.  Returns 0; -ENOMEM,
 * -EDQUOT and others: a limit does not allow more, and nothing has changed.  Only the
 * arena's thread calls this.
 */
int arena_grow(struct endpoint *e, uint64_t need)
{
	uint64_t most = e->map_size[EVERING_REGION_ARENA(e->end)];
	uint64_t there = arena_there(e), enough, to;
	int ret;

	if (need <= there)
		return 0;
	enough = least(round_to(need, page_size()), most);
	to = there + (there / 2 > MIN_STEP ? there / 2 : MIN_STEP);
	to = least(round_to(to > enough ? to : enough, MIN_STEP), most);
	ret = e->backend->grow(e, there, to);
	if (ret && enough < to) {
		to = enough;
		ret = e->backend->grow(e, there, to);
	}
	e->refused = ret;
	if (!ret)
		e->arena.there = (uint32_t)(to / ARENA_GRANULE);
	return ret;
}

/*
 * Makes the first @need bytes of the peer's arena safe to read.  Returns 0; -EPROTO:
 * the peer's arena has not grown so far, or the peer states something invalid; -ENOMEM:
 * this side has no memory to map them, and may try again.  Any thread calls this.
 */
int peer_arena_grown(struct endpoint *e, uint64_t need)
{
	uint64_t most = e->map_size[EVERING_REGION_ARENA(!e->end)];
	uint64_t seen = peer_arena_there(e);
	uint64_t mark, enough, to;
	int ret;

	if (need <= seen)
		return 0;
	mark = e->backend->grown(e);
	if (mark > most || mark < seen || mark < need)
		return -EPROTO;
	/* Populate neither everything that the peer states nor single pages. */
	enough = least(round_to(need, page_size()), mark);
	to = least(enough + AHEAD, mark);
	ret = e->backend->see(e, seen, to);
	if (ret == -ENOMEM && enough < to) {
		to = enough;
		ret = e->backend->see(e, seen, to);
	}
	if (ret)
		return ret;
	/* Another thread may have made more safe meanwhile. */
	while (to > seen &&
	       !__atomic_compare_exchange_n(&e->peer_there, &seen, to, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	return 0;
}

void evering_get_arena(const struct evering *ev, int whose,
		       struct evering_arena_state *state)
{
	const struct endpoint *e = to_const_endpoint(ev);
	unsigned int end = whose == EVERING_PEERS ? !e->end : e->end;
	uint64_t most = e->map_size[EVERING_REGION_ARENA(end)];

	*state = (struct evering_arena_state){ .most = most };
	if (whose == EVERING_PEERS) {
		state->now = least(e->backend->grown(e), most);
		return;
	}
	state->begin = e->begin;
	state->now = arena_there(e);
	state->refused = e->refused;
}
