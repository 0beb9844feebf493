/* SPDX-License-Identifier: MIT */
/*
 * credit: messages and posts, which the receiver stores, and the answers after them.
 *
 * Two sides with a table each (lib/message.c, lib/ops.c), and a ring each way.  ring.pml
 * proves that a ring keeps its entries and their order; doorbell.pml proves that a
 * doorbell wakes a side that sleeps.  Here a ring is a channel of Promela, and a side
 * sleeps until there is something for it.
 *
 * Each side does any of these, for ever and in any order: sends a message or a post and
 * waits for credit and room, or only tries; submits a request and waits for the answer,
 * which the other side's callback gives; receives a message and waits for it; frees a
 * message; polls.  A message that arrives waits to be received; a post goes to a
 * callback, which finishes with it at once.  A program may keep messages for ever, and
 * may never receive.
 *
 *	poll		poll_once(), arrived(), message_arrived(), message_told()
 *	finish		message_finish(), which tells after a quarter of STORE
 *	tell		message_tell(), ops_send_home()
 *	attempt		wait_for(); between it and the sleep may be much
 *	sleepy		sleep_once(), send_rest(), message_credit_due()
 *	ROOM		ops_room(): an entry other than an answer leaves KEEP slots free
 *
 * A HOME entry states how many more are finished with, not how many there have been.
 *
 * Proved: no more are stored than there are places; the credit is never more than the
 * places; an answer always finds a free slot.  When both sides sleep and nothing is
 * under way, no side waits for an answer or for room.  If one waits for credit then,
 * the other side's program has not finished with any of the STORE that it was sent.
 *
 * Each of these must fail:
 *	NO_CREDIT	the sender does not look at its credit
 *	NO_TELL		credit is not given back before a sleep
 *	NO_REST		a side that found no room to give it back does not wait for room
 *	LATE_TELL	before a sleep it is given back only if the program has finished
 *			with all that is stored
 *	FREE_TWICE	what was freed can be freed again
 *	IN_RING		a message stays in the ring until it is received
 *	NO_KEEP		no slots are left free for answers (SLOTS 2)
 *
 * STORE: places.  SLOTS: of each ring.
 */
#ifndef STORE
#define STORE		2
#endif
#ifndef SLOTS
#define SLOTS		3
#endif
#define KEEP		1
#if STORE / 4
#define TELL_AT		(STORE / 4)
#else
#define TELL_AT		1
#endif

mtype = { MESSAGE, POST, HOME, REQUEST, ANSWER };

/* What a program wants, and what a side sleeps for. */
#define NOTHING		0
#define SEND		1
#define ASK		2
#define HEAR		3
#define RECEIVE		4

chan ring0 = [SLOTS] of { mtype, byte };
chan ring1 = [SLOTS] of { mtype, byte };

byte credit[2] = STORE;
byte waiting[2];	/* stored, and not received */
byte kept[2];		/* received, and not freed */
byte untold[2];		/* arrived, and not known to the sender to be finished with */
byte finished[2];	/* those that are */
byte asleep[2];
bit asked[2];		/* a request that is not answered yet */

#define FREE(ring)	(SLOTS - len(ring))
#ifdef NO_KEEP
#define ROOM(ring)	(FREE(ring) > 0)
#else
#define ROOM(ring)	(FREE(ring) > KEEP)
#endif
#ifdef NO_CREDIT
#define CREDIT(me)	true
#define SPEND(me)	skip
#else
#define CREDIT(me)	(credit[me] > 0)
#define SPEND(me)	credit[me]--
#endif
#ifdef LATE_TELL
#define DUE(me)		(finished[me] == STORE)
#else
#define DUE(me)		(finished[me] && untold[me] >= STORE - STORE / 2)
#endif

#if defined(NO_REST) || defined(NO_TELL)
#define REST(me, out)	false
#else
#define REST(me, out)	(DUE(me) && ROOM(out))
#endif

inline tell(me, out)
{
	untold[me] = untold[me] - finished[me];
	out!HOME(finished[me]);
	finished[me] = 0
}

inline finish(me, out)
{
	finished[me]++;
	if
	:: finished[me] >= TELL_AT && ROOM(out) -> tell(me, out)
	:: else
	fi
}

/* One entry. */
inline take(me, in, out)
{
	if
	:: in?MESSAGE(n) ->
		assert(waiting[me] + kept[me] < STORE);
		waiting[me]++;
		untold[me]++
	:: in?POST(n) ->
		assert(waiting[me] + kept[me] < STORE);
		untold[me]++;
		finish(me, out)
	:: in?HOME(n) ->
		credit[me] = credit[me] + n;
		assert(credit[me] <= STORE)
	:: in?REQUEST(n) ->
		assert(FREE(out) > 0);
		out!ANSWER(0)
	:: in?ANSWER(n) -> asked[me] = 0
	fi
}

#ifdef IN_RING
#define TAKEABLE(me, in)	(len(in) > 0 && \
				 !(in?[MESSAGE, n] && waiting[me]))
#else
#define TAKEABLE(me, in)	(len(in) > 0)
#endif

/* Takes what has come; idle: there was nothing. */
inline poll(me, in, out)
{
	idle = 1;
	do
	:: TAKEABLE(me, in) -> take(me, in, out); idle = 0
	:: else -> break
	od;
	if
#ifndef NO_TELL
	:: idle && DUE(me) && ROOM(out) -> tell(me, out)
#endif
	:: !idle && finished[me] >= TELL_AT && ROOM(out) -> tell(me, out)
	:: else
	fi
}

/* wait_for(): polls, does what it wants if it can, and else is about to sleep. */
inline attempt(me, in, out)
{
	poll(me, in, out);
	lacks = (want == SEND || want == ASK) && !ROOM(out);
	if
	:: want == SEND && CREDIT(me) && ROOM(out) ->
		SPEND(me);
		if
		:: out!MESSAGE(0)
		:: out!POST(0)
		fi;
		want = NOTHING
	:: want == ASK && !asked[me] && ROOM(out) ->
		asked[me] = 1;
		out!REQUEST(0);
		want = NOTHING
	:: want == HEAR && !asked[me] -> want = NOTHING
	:: want == RECEIVE && waiting[me] ->
		waiting[me]--;
		kept[me]++;
		want = NOTHING
	:: else ->
		if
		:: !idle /* once more */
		:: idle -> sleepy = 1
		:: want = NOTHING /* it only tried */
		fi
	fi;
	lacks = lacks && sleepy;
	idle = 0
}

proctype side(bit me; chan in; chan out)
{
	bit idle, lacks, sleepy;
	byte n, want;

	do
	:: atomic {
		want != NOTHING && !sleepy -> attempt(me, in, out)
	}
	:: atomic {
		want == NOTHING ->
		if
		:: want = SEND
		:: !asked[me] -> want = ASK
		:: asked[me] -> want = HEAR
		:: want = RECEIVE
		fi;
		attempt(me, in, out)
	}
	:: atomic { want == NOTHING && kept[me] -> kept[me]--; finish(me, out) }
#ifdef FREE_TWICE
	:: atomic {
		want == NOTHING && untold[me] > finished[me] -> finish(me, out)
	}
#endif
	/*
	 * Until something arrives; or until there is room, if that is lacking or credit
	 * is due.
	 */
	:: atomic {
		sleepy ->
#ifndef NO_TELL
		if
		:: DUE(me) && ROOM(out) -> tell(me, out)
		:: else
		fi;
#endif
		asleep[me] = want
	}
		atomic {
			TAKEABLE(me, in) || (lacks && ROOM(out)) ||
				REST(me, out) ->
			asleep[me] = NOTHING;
			sleepy = 0;
			lacks = 0
		}
	od
}

/* Both sides sleep, and nothing wakes them. */
#define STUCK(me) \
	(asleep[me] == HEAR || asleep[me] == ASK || \
	 (asleep[me] == SEND && waiting[1 - me] + kept[1 - me] < STORE))

active proctype watch()
{
	do
	:: timeout -> assert(!STUCK(0) && !STUCK(1))
	od
}

init {
	atomic {
		run side(0, ring1, ring0);
		run side(1, ring0, ring1)
	}
}
