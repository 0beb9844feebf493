/* SPDX-License-Identifier: MIT */
/*
 * replace: operations of a survivor, over the lives of several servers.
 *
 * fate.pml has the words of a dead server in a memory that reorders.  Here a kill is
 * between two steps, and all earlier stores are visible.
 *
 *	server		takes an entry, stores begun, acts, answers; is killed at any moment,
 *			or fenced, which it does not notice before it looks for the next entry
 *	survivor	submits, takes answers; when a server has gone it takes what answers
 *			there are, sends to the next one what the last had not seen, then what it
 *			was not sent yet; ends what was begun, or sends it again if that may be
 *			begun twice; cancels what is queued, now and then
 *
 * Proved: each operation has one outcome; no operation is acted on twice, except those
 * that may be begun twice; an answered operation has its answer as outcome; no server
 * has acted on an operation that ends as unseen.
 *
 * Each of these must fail:
 *	ALL_AGAIN	what was begun is sent again, too
 *	NONE_AGAIN	what was not seen is forgotten
 *	REST_LOST	a server dies before it was sent all, and the rest is forgotten
 *	LATE_ANSWERS	fates are decided before the answers are taken
 *	FORCE_TRUSTS	what a fenced server says of itself is believed
 *	AGAIN_UNSEEN	what a second server has not seen counts as unseen, though a first
 *			may have begun it
 */
#define OPS		2
#ifndef LIVES
#define LIVES		3
#endif

/* Outcomes */
#define NO_OUTCOME	0
#define ANSWERED	1
#define ENDED		2	/* -EOWNERDEAD */
#define UNSEEN		3	/* cancelled, and certainly not begun */
#define CANCELLED	4	/* and perhaps begun */

byte ring[LIVES * OPS], tail[LIVES], begun[LIVES];
chan answers[LIVES] = [OPS] of { byte };
bit killed[LIVES], fenced[LIVES];

byte acted[OPS], answered[OPS], outcomes[OPS], outcome[OPS];
bit twice[OPS];		/* it may be begun twice */
bit again[OPS];		/* it was begun, and is sent again */
byte queue[OPS], queued;

#define END(op, what)	atomic { outcomes[op]++; outcome[op] = what }
#define IS_OPEN(op)	(outcome[op] == NO_OUTCOME)

proctype server(byte life)
{
	byte op;

	{
end:		do
		:: !fenced[life] && begun[life] < tail[life] ->
			op = ring[life * OPS + begun[life]];
			begun[life]++;
			atomic {
				acted[op]++;
				assert(twice[op] || acted[op] == 1);
				assert(outcome[op] != UNSEEN)
			}
			atomic { answered[op] = 1; answers[life]!op }
		:: fenced[life] -> break
		od
	} unless {
		killed[life]
	}
}

inline take_answers()
{
	do
	:: answers[life]?op ->
		if
		:: IS_OPEN(op) -> END(op, ANSWERED)
		:: else
		fi
	:: empty(answers[life]) -> break
	od
}

/* Appends to the queue. */
inline put(op)
{
	queue[queued] = op;
	queued++
}

/* Takes the first of the queue. */
inline pop()
{
	op = queue[0];
	queue[0] = queue[1];
	queue[1] = 0;
	queued--
}

/* Decides about the operations that the last server was sent, the oldest first. */
inline decide()
{
	seen = begun[life];
#ifndef FORCE_TRUSTS
	if
	:: fenced[life] && !killed[life] -> seen = tail[life]
	:: else
	fi;
#endif
	waiting = queued;
	for (i : 0 .. OPS - 1) {
		if
		:: i < tail[life] ->
			op = ring[life * OPS + i];
			if
			:: !IS_OPEN(op)
			:: IS_OPEN(op) && i < seen && !twice[op] ->
#ifdef ALL_AGAIN
				put(op)
#else
				assert(!answered[op] || fenced[life]);
				END(op, ENDED)
#endif
			:: IS_OPEN(op) && i < seen && twice[op] ->
				again[op] = 1;
				put(op)
			:: IS_OPEN(op) && i >= seen ->
#ifdef AGAIN_UNSEEN
				again[op] = 0;
#endif
#ifdef NONE_AGAIN
				skip
#else
				put(op)
#endif
			fi
		:: else
		fi
	}
	/* Those that were not sent yet come after them. */
	do
	:: waiting ->
		pop();
#ifndef REST_LOST
		put(op);
#endif
		waiting--
	:: else -> break
	od
}

proctype survivor()
{
	byte life, next, op, i, seen, waiting;

	do
	:: next < OPS && !killed[life] && !queued -> atomic {
		ring[life * OPS + tail[life]] = next;
		tail[life]++;
		next++ }
	:: atomic { answers[life]?op ->
		if
		:: IS_OPEN(op) -> END(op, ANSWERED)
		:: else
		fi }
	:: queued -> atomic {
		pop();
		if
		:: IS_OPEN(op) ->
			ring[life * OPS + tail[life]] = op;
			tail[life]++
		:: else
		fi }
	/* A queued operation is not wanted any more. */
	:: queued && IS_OPEN(queue[0]) -> atomic {
		op = queue[0];
		if
		:: again[op] -> END(op, CANCELLED)
		:: else ->
			assert(!acted[op]);
			END(op, UNSEEN)
		fi }
	:: life < LIVES - 1 -> atomic {
		if
		:: killed[life]
		:: fenced[life] = 1
		fi;
#ifndef LATE_ANSWERS
		take_answers();
#endif
		decide();
		life++;
		run server(life) }
	:: next == OPS && !IS_OPEN(0) && !IS_OPEN(1) -> break
	od;
	for (i : 0 .. OPS - 1) {
		assert(outcomes[i] == 1);
	}
}

/* The last one lives on. */
proctype killer()
{
	byte life;

	do
	:: life < LIVES - 1 -> killed[life] = 1; life++
	:: life < LIVES - 1 -> life++
	:: life == LIVES - 1 -> break
	od
}

init
{
	atomic {
		if
		:: twice[0] = 1
		:: twice[0] = 1; twice[1] = 1
		:: skip
		fi;
		run server(0);
		run survivor();
		run killer()
	}
}
