/* SPDX-License-Identifier: MIT */
/*
 * lazy: EVERING_LAZY_RING: an owed doorbell is rung before any side depends on it.
 *
 * Two endpoints with one thread each, which sends and receives, on the memory of
 * memory.pml (-DTSO, -DWEAK) and with the device's doorbell; doorbell.pml and enter.pml
 * have more of that.  Each thread does any of these, in any order:
 *
 *	send	evering_send(): a stamp, and no ring.  evering__flush() has a fence and
 *		a look there as well, and does nothing with it: left out here, so what
 *		is proved does not lean on it.
 *	wait	wait_for() for EVERING_RX: finds an entry, or that somebody has called
 *		evering_wake(), or is EVERING_NOWAIT, and then pays by evering_flush();
 *		or sleep_until_ready() with evering__arm(), which looks at the peer's
 *		word after the fence, and ring_owed().  A sleep ends by a ring, a wake,
 *		or a deadline.
 *	leave	turns to something else for ever.  Of that evering.h says: who has sent
 *		since it last waited calls evering_flush() first.
 *
 * Proved: when no thread can take another step, each thread that has not left has
 * received what it was sent: no sleeper was left asleep.
 *
 * Each of these must fail:
 *	NO_FLUSH_READY	a wait that finds an entry does not pay
 *	NO_FLUSH_NOWAIT	nor one that does not wait
 *	NO_FLUSH_WOKEN	nor one that a pending wake ends
 *	NO_LOOK		evering__arm() does not look at what the sends before it owe
 *	LATE_LOOK	it looks before its fence
 *	NO_FENCE_ARM	it has none
 *	NO_FENCE_FLUSH	nor has evering_flush()
 *	NO_RECHECK	it does not look for entries again
 *	TWO_THREADS	one endpoint's sends are another thread's, which never waits: what
 *			the flag is not for
 *
 * ENTRIES: that each sends at the most; the ring has room for them.
 */
#ifndef ENTRIES
#define ENTRIES		2
#endif

#define A		0
#define B		1
#define SENDER		2	/* TWO_THREADS: for A */
#ifdef TWO_THREADS
#define THREADS		3
#else
#define THREADS		2
#endif

#define STAMPED		0	/* of A, of B: entries, in number */
#define ARMED		2	/* armed_rx of A, of B; cleared by the kernel */
#define WORDS		4
#define PEER(t)		(1 - (t))
#define READS(t, w) \
	((t) < 2 && ((w) == STAMPED + PEER(t) || (w) == ARMED + PEER(t)))

#include "memory.pml"

byte sent[2], received[2];
bit left[2];
bit woken[2];		/* endpoint.woken, which is of atomic operations alone */

#ifdef NO_FENCE_ARM
#define fence_arm(t)	skip
#else
#define fence_arm(t)	fence(t)
#endif
#ifdef NO_FENCE_FLUSH
#define fence_flush(t)	skip
#else
#define fence_flush(t)	fence(t)
#endif

/* RING, which is a system call. */
inline ring(t)
{
	if
	:: due -> fence(t); atomic { memory[ARMED + PEER(t)] = 0; due = 0 }
	:: else
	fi
}

inline look(t)
{
	due = LOAD(t, ARMED + PEER(t))
}

inline flush(t)
{
	fence_flush(t);
	look(t);
	ring(t)
}

inline disarm(t)
{
	atomic {
		LOCKED(t, ARMED + t);
		memory[ARMED + t] = 0;
		UNLOCKED(t, ARMED + t)
	}
}

inline take(t)
{
	acquire(t);
	received[t]++
}

inline send(side, by)
{
	atomic { sent[side]++; owes = 1 }
	store_release(by, STAMPED + side, sent[side])
}

#define READY(t)	(LOAD(t, STAMPED + PEER(t)) != received[t])

proctype endpoint(byte t)
{
	bit owes;	/* has sent, and not called since what pays */
	bit due;

go:	if
#ifdef TWO_THREADS
	:: t == B && sent[t] < ENTRIES -> send(t, t); goto go
#else
	:: sent[t] < ENTRIES -> send(t, t); goto go
#endif
	:: goto wait
	:: atomic { !owes -> left[t] = 1; goto over }
	:: owes -> fence(t); look(t); ring(t); owes = 0; goto go /* evering_flush() */
	fi;

wait:	owes = 0;
	if
	:: READY(t) ->
#ifndef NO_FLUSH_READY
		flush(t);
#endif
		take(t);
		goto go
	:: else
	fi;
	if
	:: woken[t] ->
		woken[t] = 0;
#ifndef NO_FLUSH_WOKEN
		flush(t);
#endif
		goto go
	:: true /* it may come only now */
	:: true -> /* EVERING_NOWAIT */
#ifndef NO_FLUSH_NOWAIT
		flush(t);
#endif
		goto go
	fi;
sleep:	store(t, ARMED + t, 1);
#ifdef LATE_LOOK
	look(t);
	fence_arm(t);
#else
	fence_arm(t);
#ifndef NO_LOOK
	look(t);
#endif
#endif
#ifndef NO_RECHECK
	if
	:: READY(t) -> disarm(t); ring(t); take(t); goto go
	:: else
	fi;
#endif
	if
	:: atomic { woken[t] -> woken[t] = 0 } disarm(t); ring(t); goto go
	:: else
	fi;
	ring(t);
	if
	:: skip; /* with no deadline */
end:		if
		:: !memory[ARMED + t]
		:: woken[t]
		fi
	:: skip /* with one, or a signal */
	fi;
	disarm(t);
	if
	:: READY(t) -> take(t); goto go
	:: else
	fi;
	if
	:: goto sleep
	:: goto go
	fi;
over:	skip
}

/* evering_wake(), once for each, at some time or never. */
proctype waker()
{
	if
	:: woken[A] = 1
	:: skip
	fi;
	if
	:: woken[B] = 1
	:: skip
	fi
}

#ifdef TWO_THREADS
proctype sender()
{
	bit owes;

	do
	:: sent[A] < ENTRIES -> send(A, SENDER)
	:: break
	od
}
#endif

/* No thread can take another step. */
proctype judge()
{
	timeout ->
	assert(left[A] || received[A] == sent[B]);
	assert(left[B] || received[B] == sent[A])
}

init {
	atomic {
		run cpu(A);
		run cpu(B);
#ifdef TWO_THREADS
		run cpu(SENDER);
		run sender();
#endif
		run endpoint(A);
		run endpoint(B);
		run waker();
		run judge()
	}
}
