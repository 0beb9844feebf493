// SPDX-License-Identifier: MIT
/*
 * grow.c: arenas that get their memory as it is used.
 *
 * Size, seals and mappings of an arena are those of the whole from the start; only its
 * memory grows, from the start of the arena on, and never shrinks.  The owner gives a
 * part memory before it hands out a buffer there, and then publishes how far it is.  The
 * peer believes that of no place that it has not made safe to read itself.
 *
 * A step is half of what there is, 64 KiB at the least: so an arena has at most half
 * again as much as was ever needed, and one of 64 MiB is there after 18 steps.
 */
#include "internal.h"

#define MIN_STEP ((uint64_t)64 << 10)
/* How far beyond what is needed the peer's arena is made safe to read, at the most. */
#define AHEAD	 ((uint64_t)1 << 20)

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t round_to(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

/* How far the own arena has memory, in bytes. */
uint64_t arena_there(const struct endpoint *e)
{
	return (uint64_t)e->arena.there * ARENA_GRANULE;
}

/*
 * The own arena has memory for its first @need bytes from now on.  0; -ENOMEM, -EDQUOT and
 * others: no more is to be had, by whose limit ever, and nothing has changed.  Thread: the
 * arena's.
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
 * The first @need bytes of the peer's arena are safe to read from now on.  0; -EPROTO: the
 * peer has not grown so far, or says what cannot be; -ENOMEM: this side has no memory to
 * see them, and may ask again.  Any thread.
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
	/* What it says it has grown is not populated for nothing, nor page by page. */
	enough = least(round_to(need, page_size()), mark);
	to = least(enough + AHEAD, mark);
	ret = e->backend->see(e, seen, to);
	if (ret == -ENOMEM && enough < to) {
		to = enough;
		ret = e->backend->see(e, seen, to);
	}
	if (ret)
		return ret;
	/* Another thread may have seen more meanwhile. */
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
