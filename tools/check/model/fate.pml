/* SPDX-License-Identifier: MIT */
/*
 * fate: what a receiver that was killed has acted on, and what it certainly has not.
 *
 * A sender with ENTRIES entries under way, and a receiver that may be killed before any
 * of its steps, on the memory of memory.pml (-DTSO, -DWEAK).
 *
 *	receiver	evering_recv(), or a table before its callback: takes an entry,
 *			stores begun, acts, stores released now and then.  What it acts on is
 *			a word of its own, such as a file's that it maps.  -DLOOKS: it looks
 *			with evering_peek() and never stores begun but as far away, when it
 *			publishes
 *	kernel		kills it between two steps; all that it had stored gets to memory
 *			before anybody is told that it is gone
 *	sender		evering_fate()
 *
 * Proved: the receiver has acted on no entry that is unseen; and, except with LOOKS, it
 * had found each entry that is begun.
 *
 * Each of these must fail:
 *	LATE_BEGIN	it stores begun when it has acted
 *	EARLY_BEGIN	it does so before it has found the entry
 *	NO_BEGIN	released is all that there is
 *	NO_FAR		begun is 0 until it is stored (LOOKS)
 *	NO_DRAIN	death is told of before what was stored is in memory
 *	NO_ACQUIRE	the sender looks at begun as it was before it was told (WEAK)
 */
#ifndef ENTRIES
#define ENTRIES		3
#endif
#define SLOTS		2
#define FAR		200

#define THREADS		2
#define SENDER		0
#define RECEIVER	1

#define STAMP		0	/* of each slot */
#define RELEASED	2
#define BEGUN		3
#define ACTED		4	/* how many entries */
#define WORDS		5
#define READS(t, w) \
	(((t) == SENDER && ((w) == RELEASED || (w) == BEGUN)) || \
	 ((t) == RECEIVER && (w) < RELEASED))

#include "memory.pml"

bit killed, told;
byte found;	/* entries that the receiver has found there */

#ifdef LATE_BEGIN
#define BEGIN_BEFORE	skip
#define BEGIN_AFTER	store(RECEIVER, BEGUN, n + 1)
#elif defined(NO_BEGIN) || defined(LOOKS)
#define BEGIN_BEFORE	skip
#define BEGIN_AFTER	skip
#else
#define BEGIN_BEFORE	store(RECEIVER, BEGUN, n + 1)
#define BEGIN_AFTER	skip
#endif

#ifdef EARLY_BEGIN
#define BEGIN_EARLY	store(RECEIVER, BEGUN, n + 1)
#else
#define BEGIN_EARLY	skip
#endif

#if defined(LOOKS) && !defined(NO_FAR)
#define GO_FAR		store(RECEIVER, BEGUN, FAR)
#else
#define GO_FAR		skip
#endif

proctype receiver()
{
	byte n;

	{
		GO_FAR;
		do
		:: n < ENTRIES ->
			BEGIN_EARLY;
			atomic {
				LOAD(RECEIVER, STAMP + n % SLOTS) == n + 1;
				acquire(RECEIVER);
				found = n + 1
			}
			BEGIN_BEFORE;
			store(RECEIVER, ACTED, n + 1);
			BEGIN_AFTER;
			n++;
			if
			:: GO_FAR;
				store_release(RECEIVER, RELEASED, n)
			:: n < ENTRIES && n % SLOTS -> skip
			fi
		:: else -> break
		od;
		killed
	} unless {
		killed
	}
}

proctype kernel()
{
	killed = 1;
#ifndef NO_DRAIN
	fence(RECEIVER);
#endif
	told = 1
}

proctype sender()
{
	byte sent, released, begun, first;

	do
	:: sent < ENTRIES && sent - LOAD(SENDER, RELEASED) < SLOTS ->
		acquire(SENDER);
		store_release(SENDER, STAMP + sent % SLOTS, sent + 1);
		sent++
	:: told -> break
	od;
#ifndef NO_ACQUIRE
	acquire(SENDER);
#endif
	/* evering_fate() */
	released = LOAD(SENDER, RELEASED);
	begun = LOAD(SENDER, BEGUN);
	if
	:: released <= begun && begun <= sent -> first = begun
	:: begun < released -> first = released
	:: else -> first = sent
	fi;
	fence(RECEIVER);
	assert(memory[ACTED] <= first);
#ifndef LOOKS
	assert(first <= found);
#endif
}

init
{
	atomic {
		run receiver();
		run kernel();
		run sender();
		run cpu(SENDER);
		run cpu(RECEIVER)
	}
}
