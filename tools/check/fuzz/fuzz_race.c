// SPDX-License-Identifier: MIT
/*
 * fuzz_race.c: the same peer, in a thread of its own, so that what the victim has
 * looked at changes before it looks again.  The input says which dice the peer rolls
 * and on what it insists; what comes when is not to be repeated.
 *
 * The peer does not stop before the victim is through, so that a call which goes on
 * as long as the peer does something is seen to last.
 */
#include <pthread.h>
#include <time.h>

#include "fuzz.h"

#define STEPS 192
/* The peer stops by itself, far behind any timeout, so that a run has an end. */
#define PATIENCE (8 * SECOND)

struct scribbler {
	struct peer peer;
	pthread_t thread;
	uint64_t dice;
	uint8_t insists;
	bool ops;
	bool stop;
};

static int64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* (S. Vigna: An experimental exploration of Marsaglia's xorshift generators.) */
static uint64_t roll(uint64_t *dice)
{
	*dice ^= *dice >> 12;
	*dice ^= *dice << 25;
	*dice ^= *dice >> 27;
	return *dice * 2685821657736338717ull;
}

/* The one thing, over and over: what a step of the peer's is too slow for. */
static void insist(struct scribbler *s)
{
	struct endpoint *e = s->peer.ev;
	const struct endpoint *v = s->peer.victim;
	/* An entry that there can be any number of, and that means nothing. */
	const struct evering_op_header nothing = { .type = EVERING_OP_HOME };
	uint32_t n, i, *word;

	switch (s->insists % 8) {
	case 1: /* rings, so that no sleep lasts */
		peer_ring(&s->peer);
		break;
	case 2: /* an entry is there, and is not */
		n = __atomic_load_n(&v->ev.rx.next, __ATOMIC_RELAXED);
		word = (uint32_t *)(evering__tx_slot(&e->ev.tx, n) +
				    e->ev.tx.payload);
		__atomic_store_n(word, n + 1, __ATOMIC_RELEASE);
		__atomic_store_n(word, n, __ATOMIC_RELEASE);
		break;
	case 3: /* there is room, and is not */
		n = __atomic_load_n(&v->ev.tx.next, __ATOMIC_RELAXED);
		__atomic_store_n(&e->half->released, n, __ATOMIC_RELEASE);
		__atomic_store_n(&e->half->released, n - e->geometry.entries,
				 __ATOMIC_RELEASE);
		break;
	case 4: /* sleeps, and does not */
		__atomic_add_fetch(&e->half->armed_rx, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&e->half->armed_tx, 1, __ATOMIC_RELAXED);
		break;
	case 5: /* a ring full of them, however many are taken */
		n = __atomic_load_n(&v->ev.rx.next, __ATOMIC_RELAXED);
		for (i = 0; n && i < e->geometry.entries; i++, n++) {
			memcpy(evering__tx_slot(&e->ev.tx, n), &nothing,
			       sizeof(nothing));
			word = (uint32_t *)(evering__tx_slot(&e->ev.tx, n) +
					    e->ev.tx.payload);
			__atomic_store_n(word, n + 1, __ATOMIC_RELEASE);
		}
		break;
	}
}

static void *scribble(void *arg)
{
	struct scribbler *s = arg;
	int64_t end = clock_ns() + PATIENCE;
	uint64_t bytes[64];
	struct input in;
	unsigned int i;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE) &&
	       clock_ns() < end) {
		for (i = 0; i < 64; i++)
			insist(s);
		if (s->insists & 0x80)
			continue;
		for (i = 0; i < ARRAY_SIZE(bytes); i++)
			bytes[i] = roll(&s->dice);
		in.at = (const uint8_t *)bytes;
		in.end = in.at + sizeof(bytes);
		for (i = 0; i < 24; i++)
			if (s->ops)
				peer_op_step(&s->peer, &in);
			else
				peer_ring_step(&s->peer, &in);
	}
	return NULL;
}

static void play_rings(struct evering *ev, struct input *in)
{
	struct ring_side side;
	int steps;

	ring_side_init(&side, ev, false);
	for (steps = 0; steps < STEPS && in_more(in); steps++)
		ring_side_step(&side, in);
	ring_side_end(&side);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct op_side *side = NULL;
	struct scribbler s = { 0 };
	struct evering *ev[2];
	struct fuzz_run run;
	int steps;

	fuzz_begin(&run);
	MUST(!fuzz_pair(&in, EVERING_OPS_MIN_SLOT, ev));
	s.dice = in16(&in) + 1u;
	s.insists = in8(&in);
	s.ops = in8(&in) & 1;
	peer_init(&s.peer, ev[EVERING_B], ev[EVERING_A]);
	fuzz_poison(ev[EVERING_A], true);
	if (s.ops) {
		side = op_side_open(ev[EVERING_A], &in);
		peer_open(&s.peer, 8, 8, 8);
		/* Nor is it known when the victim takes anything. */
		s.peer.vague = true;
	}
	MUST(!pthread_create(&s.thread, NULL, scribble, &s));

	if (side)
		for (steps = 0; steps < STEPS && in_more(&in); steps++)
			op_side_step(side, &in);
	else
		play_rings(ev[EVERING_A], &in);

	__atomic_store_n(&s.stop, true, __ATOMIC_RELEASE);
	MUST(!pthread_join(s.thread, NULL));
	fuzz_poison(ev[EVERING_A], false);
	peer_leave(&s.peer);
	if (side)
		op_side_end(side);
	evering_close(ev[EVERING_A]);
	fuzz_end(&run);
	return 0;
}
