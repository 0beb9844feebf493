/* SPDX-License-Identifier: MIT */
/*
 * The modes of many channels: one server thread has all their ends, one client thread
 * all the others.
 *
 * The client is the load, and is the same in every arm: it has @depth requests in flight,
 * and each step is one receive, from the channel that was asked longest ago, and one send
 * to the next channel of an order that was drawn beforehand.  So it needs no group, no
 * epoll set and no event loop: it waits in that one channel, in the plain way of the arm,
 * and what it takes does not depend on how many channels there are, but for the caches
 * that they all need.  A request, and its answer, has MANY_MESSAGE bytes: the channel's own
 * count of requests in each word, which the receiver checks.
 *
 * MODE_MANY_FLOOD: channel 0 is quiet, one request in flight; into each of the others the
 * client puts more than a turn takes before it asks, and gets no answers.  How many
 * turns of others the server begins after a request of the quiet one is in, and before it
 * comes to it, is counted: the server counts turns where the client reads them.
 */
#ifndef MANY_H
#define MANY_H

#include <stdlib.h>

#include "bench.h"

#define MANY_SLOT 64u
#define MANY_MESSAGE 60u
/*
 * Slots of a ring, and the most messages that a server takes of a channel in a turn: of a
 * flood one, so that the client is faster.
 */
#define MANY_ENTRIES 16u

static inline uint32_t many_share(const struct side *s)
{
	return s->job->mode == MODE_MANY_FLOOD ? 1 : MANY_ENTRIES;
}

/**
 * struct crowd - the channels of a side, but for what they are made of
 * @channels: how many
 * @number: by channel, of the last request that was sent, or received
 * @answer: by channel, the client's, of the last answer
 * @order, @length, @at: the client's order of channels, which begins anew at its end
 * @asked, @since: the requests in flight, a ring of @depth: channels, and when
 */
struct crowd {
	uint32_t channels;
	uint32_t *number;
	uint32_t *answer;
	uint32_t *order;
	uint32_t length;
	uint32_t at;
	uint32_t *asked;
	int64_t *since;
};

/* crowd.c */
void crowd_open(struct side *s, struct crowd *c);
/* Waits for the other side to be done, before any channel is closed. */
void crowd_leave(struct side *s);
void crowd_close(struct crowd *c);

static inline void many_write(const struct crowd *c, void *buf, uint32_t which)
{
	write_words(buf, MANY_MESSAGE, c->number[which]);
}

static inline void many_check(struct side *s, const void *buf, uint32_t which,
			      uint32_t number)
{
	if (wrong_words(buf, MANY_MESSAGE, number))
		fail(s, "channel %u: message %u is not what was sent", which,
		     number);
}

/* The client has received an answer. */
static inline void many_answered(struct side *s, struct crowd *c,
				 const void *buf, uint32_t which)
{
	many_check(s, buf, which, ++c->answer[which]);
	s->done++;
}

static inline bool many_floods(const struct side *s, uint32_t which)
{
	return s->job->mode == MODE_MANY_FLOOD && which;
}

/* The server turns to @which. */
static inline void many_turn(struct side *s, uint32_t which)
{
	atomic_ullong *turns = &s->shared->turns;

	if (many_floods(s, which))
		atomic_store_explicit(
			turns,
			atomic_load_explicit(turns, memory_order_relaxed) + 1,
			memory_order_relaxed);
}

/*
 * The server has received a request of @which.  True: it is to be answered, with what
 * many_write() makes.
 */
static inline bool many_serves(struct side *s, struct crowd *c, const void *buf,
			       uint32_t which)
{
	many_check(s, buf, which, ++c->number[which]);
	if (many_floods(s, which))
		return false;
	if (s->job->mode == MODE_MANY_FLOOD)
		atomic_store_explicit(
			&s->shared->turn_of_quiet,
			atomic_load_explicit(&s->shared->turns,
					     memory_order_relaxed),
			memory_order_relaxed);
	s->done++;
	return true;
}

/*
 * The client: @out sends a request to a channel, whose number it has, @in waits for its
 * answer, and checks it.
 */
static inline __attribute__((always_inline)) void
many_ask(struct side *s, struct crowd *c, uint64_t ops,
	 void (*out)(struct side *s, uint32_t which),
	 void (*in)(struct side *s, uint32_t which))
{
	uint32_t depth = s->job->depth, place = 0;
	uint64_t i;

	for (i = 0; i < ops + depth; i++) {
		if (i >= depth) {
			in(s, c->asked[place]);
			if (s->probe)
				hist_add(&s->shared->hist,
					 (uint64_t)(clock_ns() -
						    c->since[place]));
		}
		if (i < ops) {
			uint32_t which = c->order[c->at];

			c->at = c->at + 1 < c->length ? c->at + 1 : 0;
			c->asked[place] = which;
			if (s->probe)
				c->since[place] = clock_ns();
			c->number[which]++;
			out(s, which);
		}
		place = place + 1 < depth ? place + 1 : 0;
	}
}

/* A client that was kept from looking for so many turns does not know when it asked. */
#define TURNS_UNSEEN 64u

static inline uint64_t many_turns(struct side *s)
{
	return atomic_load(&s->shared->turns);
}

/* Of the probes one in so many comes after a rest, in which each other had so many turns. */
#define FLOOD_RESTS	 8u
#define FLOOD_REST_TURNS 80u
#define FLOOD_PIECE	 4u

typedef bool (*many_try)(struct side *s, uint32_t which);

/* Each of the others gets more than a turn takes, if there is room. */
static inline __attribute__((always_inline)) void
many_pour(struct side *s, struct crowd *c, many_try push)
{
	uint32_t which, k;

	for (which = 1; which < c->channels; which++)
		for (k = 0; k < FLOOD_PIECE && push(s, which); k++)
			;
}

/* So long that a server that knows the quiet one for busy forgets about it. */
static inline __attribute__((always_inline)) void
many_rest(struct side *s, struct crowd *c, many_try push)
{
	uint64_t until =
		many_turns(s) + (uint64_t)FLOOD_REST_TURNS * (c->channels - 1);

	while (many_turns(s) < until)
		many_pour(s, c, push);
}

/*
 * The client of MODE_MANY_FLOOD: @push sends to a channel if there is room, @try_in takes an
 * answer if there is one.  When it asks each of the others has got more than the server takes
 * of it in a turn.
 */
static inline __attribute__((always_inline)) void
many_flood(struct side *s, struct crowd *c, uint64_t ops,
	   void (*out)(struct side *s, uint32_t which), many_try push,
	   many_try try_in)
{
	uint64_t before, asked, served;
	int64_t since;

	for (; ops; ops--) {
		if (s->probe && ops % FLOOD_RESTS == 0)
			many_rest(s, c, push);
		many_pour(s, c, push);
		since = clock_ns();
		before = many_turns(s);
		c->number[0]++;
		out(s, 0);
		asked = many_turns(s);
		while (!try_in(s, 0))
			relax();
		served = atomic_load(&s->shared->turn_of_quiet);
		if (asked - before <= TURNS_UNSEEN)
			hist_add(&s->shared->waited,
				 served > asked ? served - asked : 0);
		if (s->probe)
			hist_add(&s->shared->hist,
				 (uint64_t)(clock_ns() - since));
	}
}

#endif /* MANY_H */
