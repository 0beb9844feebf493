// SPDX-License-Identifier: MIT
/*
 * replace.c: a successor replaces a peer that is gone.
 *
 * The survivor keeps its endpoint, with a new channel behind it.  It meets the
 * successor as it meets any listener, with a new endpoint (the stand-in).  When the
 * meeting is complete, the endpoint takes over what the stand-in has: halves,
 * doorbells, connection, the peer's arena.  The new arena of this side gets the
 * contents and the address of the old one, so that every buffer keeps its address and
 * its owner.  Up to that moment nothing has changed, so a meeting that fails, or whose
 * other side dies, can be repeated.
 *
 * Both rings begin at entry 0, with nothing armed and no doorbell remembered as rung.
 * So no number, stamp or doorbell of the old channel can be mistaken for one of the
 * new.  A process that still has the old channel, because it was stopped or the dead
 * peer has forked it, sees nothing of what the successor is sent, and changes nothing.
 * The price is a copy of this side's arena, as far as it has memory.
 *
 * Entries that the dead peer had certainly not seen (fate.c) are sent to the successor,
 * in order: plain entries by this file, those of a table by again.c.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "ops.h"

/**
 * struct relic - the arena of an earlier peer, in which this side still has buffers
 * @next: the next one
 * @map: the arena
 * @size: bytes of the arena
 * @count: how many buffers this side has in it
 * @granule: the granule where each of them begins
 */
struct relic {
	struct relic *next;
	unsigned char *map;
	size_t size;
	uint32_t count;
	uint32_t granule[];
};

/* ------------------------------------------------------------------------ relics */

/*
 * @own: false in a process made by fork(2), where something else may be at the address.
 */
static void relic_destroy(struct relic *relic, bool own)
{
	if (own)
		munmap(relic->map, relic->size);
	free(relic);
}

void relics_destroy(struct endpoint *e, bool own)
{
	struct relic *relic;

	while ((relic = e->relics)) {
		e->relics = relic->next;
		relic_destroy(relic, own);
	}
}

/*
 * evering_free() of a buffer that an earlier peer has given.  Returns 0; -EINVAL: there
 * is none.
 */
int relics_free(struct endpoint *e, const void *buf)
{
	struct relic **at, *relic;
	uint64_t offset;
	uint32_t i;

	for (at = &e->relics; (relic = *at); at = &relic->next) {
		offset = (uint64_t)((uintptr_t)buf - (uintptr_t)relic->map);
		if (offset >= relic->size)
			continue;
		for (i = 0; i < relic->count; i++)
			if (offset ==
			    (uint64_t)relic->granule[i] * EVERING_OP_GRANULE)
				break;
		if (i == relic->count)
			return -EINVAL;
		relic->granule[i] = relic->granule[--relic->count];
		if (!relic->count) {
			*at = relic->next;
			relic_destroy(relic, true);
		}
		return 0;
	}
	return -EINVAL;
}

/*
 * Makes a relic of the buffers that the dead peer has given; NULL in *@ret: there are
 * none.  Returns 0; -ENOMEM.
 */
static int relic_new(const struct endpoint *e, struct relic **ret)
{
	uint32_t count = e->ops ? loan_count_given(e->ops) : 0, at = 0, i;
	struct relic *relic;

	*ret = NULL;
	if (!count)
		return 0;
	relic = malloc(sizeof(*relic) + count * sizeof(relic->granule[0]));
	if (!relic)
		return -ENOMEM;
	relic->count = count;
	for (i = 0; i < count; i++) {
		relic->granule[i] = loan_next_given(e->ops, at);
		at = relic->granule[i] + 1;
	}
	*ret = relic;
	return 0;
}

/* Keeps the arena of @from's peer as long as any of it is in use. */
static void relic_keep(struct endpoint *e, struct endpoint *from,
		       struct relic *relic)
{
	unsigned int region = EVERING_REGION_ARENA(!from->end);

	if (!relic)
		return;
	relic->map = from->map[region];
	relic->size = from->map_size[region];
	from->map[region] = NULL;
	from->map_size[region] = 0;
	relic->next = e->relics;
	e->relics = relic;
}

/* ------------------------------------------------------------------------ before */

/* Takes what the peer has sent: at most a full ring, whatever others do now. */
static void take_rest(struct endpoint *e)
{
	uint32_t rounds = 2 * (e->ev.rx.mask + 1);
	struct ops *ops = e->ops;

	e->replacing = true;
	while (rounds-- && evering_ops_poll(&ops->pub) > 0)
		;
	e->replacing = false;
}

static bool lives(struct endpoint *e)
{
	return !e->fenced && evering_peer(&e->ev) == EVERING_PEER_ALIVE;
}

/* Whether there can be a successor at all, and now. */
static int may_succeed(struct endpoint *e)
{
	struct ops *ops = e->ops;

	if (e->owner != fork_id())
		return -EINVAL;
	if (e->replacing || (ops && ops_in_callback(ops)))
		return -EDEADLK;
	if (ops && !ops->outlives)
		return -EOPNOTSUPP;
	return channel_error(e) == -EPROTO ? -EPROTO : 0;
}

/* Ends the channel with a peer that may be alive. */
static void fence(struct endpoint *e)
{
	e->fenced = true;
	evering_store_release(&e->half->closed, EVERING_CLOSED);
	if (e->sock >= 0)
		shutdown(e->sock, SHUT_WR);
	channel_end(e, -EPIPE);
}

/*
 * Checks that @e's peer may be replaced.  If so, the peer is gone or counts as gone,
 * and everything that it had sent was taken.  Returns 0; or an error of
 * evering_replace().
 */
int survivor_check(struct endpoint *e, unsigned int flags)
{
	bool force = flags & EVERING_REPLACE_FORCE;
	struct ops *ops = e->ops;
	int ret;

	if (flags & ~EVERING_REPLACE_FORCE)
		return -EINVAL;
	ret = may_succeed(e);
	if (ret)
		return ret;
	if ((!force && lives(e)) || (!ops && !force && evering_peek(&e->ev)))
		return -EBUSY;
	if (ops)
		take_rest(e);
	if (channel_error(e) == -EPROTO)
		return -EPROTO;
	if (lives(e))
		fence(e);
	/* Entries that come from now on are too late. */
	if (ops && !ops->error)
		ops_end(ops, -EPIPE);
	return ops && again_check(ops) ? -EBUSY : 0;
}

/* The same when @s is there, because much may have happened since. */
static int check_again(struct endpoint *e, const struct endpoint *s)
{
	int ret = may_succeed(e);

	if (ret)
		return ret;
	if (e->peers + 1 != s->peers || lives(e) ||
	    (e->ops && (!((struct ops *)e->ops)->error || again_check(e->ops))))
		return -EBUSY;
	return e->uid == s->uid ? 0 : -EACCES;
}

/* The parameters of a channel like that of @e. */
void survivor_params(const struct endpoint *e, struct evering_params *params)
{
	const struct evering_geometry *g = &e->geometry;

	*params = (struct evering_params){
		.size = sizeof(*params),
		.flags = (g->flags & EVERING_SHARED_ARENA) |
			 (e->populate ? EVERING_POPULATE : 0) | EVERING_AWAIT,
		.slot_size = g->slot_size,
		.entries = g->entries,
		.arena_size = { g->arena_size[e->end], g->arena_size[!e->end] },
		.backend = e->backend->id,
		.spin_ns = e->spin_ns,
		.arena_begin = arena_there(e),
	};
}

/* ---------------------------------------------------------------------- exchange */

/*
 * Copies the contents of @e's arena to that of @s, and moves that to the address of
 * @e's.  Returns 0; -ENOMEM, -EDQUOT: @e's arena is as it was.
 *
 * mremap(2) first unmaps what is there, but checks for errors before that.
 */
static int move_arena(const struct endpoint *e, struct endpoint *s)
{
	unsigned int from = EVERING_REGION_ARENA(s->end);
	size_t size = s->map_size[from];
	void *to = e->map[EVERING_REGION_ARENA(e->end)];
	int ret;

	if (!size)
		return 0;
	ret = arena_grow(s, arena_there(e));
	if (ret)
		return ret;
	memcpy(s->map[from], to, arena_there(e));
	if (mremap(s->map[from], size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   to) == MAP_FAILED)
		return -ENOMEM;
	s->map[from] = to;
	return 0;
}

static void swap(void *a, void *b, size_t size)
{
	unsigned char *x = a, *y = b, byte;

	for (; size; size--, x++, y++) {
		byte = *x;
		*x = *y;
		*y = byte;
	}
}

#define SWAP(a, b)                                                        \
	do {                                                              \
		_Static_assert(sizeof(a) == sizeof(b), "of the same type"); \
		swap(&(a), &(b), sizeof(a));                              \
	} while (0)

/* Takes over what belongs to the channel of a role, and not to its thread. */
static void take_role(struct role *to, const struct role *from)
{
	to->word = from->word;
	to->generation = from->generation;
	to->armed = from->armed;
	to->exposed = from->exposed;
	to->counted = from->counted;
}

/* Exchanges everything that @e and @s have of their channels. */
static void exchange(struct endpoint *e, struct endpoint *s)
{
	unsigned int own = EVERING_REGION_ARENA(e->end);
	struct evering_counters *counters = &s->half->counters;

	/* The arena of @s is mapped there now. */
	e->map[own] = NULL;
	e->map_size[own] = 0;
	counter_add(&e->half->counters.tx_entries,
		    e->ev.tx.next - e->tx.counted);
	e->sent_before = e->half->counters.tx_entries;
	*counters = e->half->counters;

	SWAP(e->geometry, s->geometry);
	SWAP(e->end, s->end);
	SWAP(e->map, s->map);
	SWAP(e->map_size, s->map_size);
	SWAP(e->half, s->half);
	SWAP(e->peer, s->peer);
	SWAP(e->sock, s->sock);
	SWAP(e->sealed, s->sealed);
	SWAP(e->theirs, s->theirs);
	SWAP(e->set, s->set);
	SWAP(e->lane, s->lane);
	SWAP(e->lanes, s->lanes);
	SWAP(e->pid, s->pid);
	SWAP(e->uid, s->uid);
	SWAP(e->gid, s->gid);
	SWAP(e->ledger, s->ledger);
	SWAP(e->charged, s->charged);
	SWAP(e->charged_uid, s->charged_uid);
	SWAP(e->partial, s->partial);
	SWAP(e->peer_there, s->peer_there);
	SWAP(e->memfd, s->memfd);
	SWAP(e->device, s->device);

	e->ev = s->ev;
	take_role(&e->tx, &s->tx);
	take_role(&e->rx, &s->rx);
	e->arena.there = s->arena.there;
	e->refused = 0;
	e->space_rung = 0;
	e->room = 0;
	e->fenced = false;
	e->tabled = false;
	e->peers = s->peers;
	__atomic_store_n(&e->error, s->error, __ATOMIC_RELAXED);
}

/* Sends plain entries; there is room for all of them. */
static void send_plain(struct endpoint *e, const struct again *again)
{
	void *slot;

	for (; e->ev.tx.next < again->count; evering_commit(&e->ev)) {
		slot = evering_reserve(&e->ev);
		if (!slot)
			break;
		memcpy(slot,
		       again->entries + (size_t)e->ev.tx.next * again->size,
		       again->size);
	}
	evering_flush(&e->ev);
}

/*
 * @s has met a successor, and @e becomes its endpoint.  The old channel is released,
 * and what has to be sent to the successor is in *@again.  Returns 0: @s is freed; or
 * an error: nothing has changed, and @s is still there.  Calls no callback.
 */
int survivor_take(struct endpoint *e, struct endpoint *s, struct again *again)
{
	struct relic *relic = NULL;
	sigset_t signals;
	int ret, masked;

	ret = check_again(e, s);
	if (ret)
		return ret;
	ret = again_collect(e, again);
	if (!ret)
		ret = relic_new(e, &relic);
	if (!ret)
		ret = group_welcome(e, s);
	if (!ret)
		ret = move_arena(e, s);
	if (ret) {
		if (s->member)
			group_forget(s->member);
		free(relic);
		again_drop(again);
		return ret;
	}
	/* A signal handler may call evering_wake(). */
	masked = block_signals(&signals);
	evering_store_release(&e->half->closed, EVERING_CLOSED);
	group_replaced(e, s);
	exchange(e, s);
	if (!masked)
		pthread_sigmask(SIG_SETMASK, &signals, NULL);
	relic_keep(e, s, relic);
	endpoint_destroy(s);
	/* Repeat a wake-up that has rung the old doorbells. */
	if (__atomic_load_n(&e->woken, __ATOMIC_RELAXED))
		e->backend->wake(e, e->woken);
	return 0;
}

/*
 * Sends it, or lets the table send it.  Callbacks of operations that are over are
 * called.
 */
void survivor_start(struct endpoint *e, struct again *again)
{
	if (e->ops) {
		again_start(e->ops, again);
		return;
	}
	send_plain(e, again);
	again_drop(again);
}

uint32_t evering_predecessors(const struct evering *ev)
{
	return to_const_endpoint(ev)->peers;
}
