/* SPDX-License-Identifier: MIT */
/*
 * enter: ENTER, RING, poll and a hang-up in the kernel: a sleeper whose doorbell is
 * rung wakes.
 *
 * One doorbell of one endpoint, its sleeper and its ringer, on the memory of memory.pml
 * (-DTSO, -DWEAK).  The other direction is the same with the sides exchanged, and
 * shares no word with this one.
 *
 *	sleeper		evering__arm() in user space, then evr_enter() and evr_sleep();
 *			-DQUEUED: its place in ep->sleeper_* is taken, and it waits in
 *			ep->wait; -DPOLL: evr_endpoint_poll() under poll(2) instead;
 *			-DEVENTFD: evr_set_eventfd() at some time, and then evering_arm()
 *			and a wait for that eventfd
 *	ringer		evering__flush() in user space, then evr_ring(), evr_disarm(),
 *			evr_wake(), evr_wake_sleeper(); it may also go, at any time:
 *			evr_vm_close(), evr_leave() and evr_hang_up()
 *
 * The kernel's own functions are as documented: set_current_state() is a store and a
 * full barrier; a wake-up sees, after a full barrier, a task that is not running and
 * sets it running (try_to_wake_up()); schedule() is a full barrier and continues once
 * the task is set running; test_and_clear_bit() and cmpxchg() are fully ordered; to
 * take a spin lock is an acquire (on TSO a full barrier), to release it a release.
 * With -DDEADLINES any wait may also end at any time, by a deadline or a signal.
 *
 * Proved: the only states without a next step are those where the sleeper has received
 * everything and the ringer is silent, or where the sleeper knows that the ringer is
 * gone; with weak fairness, no endless run in which nothing is received (non-progress,
 * without DEADLINES, which may be endless).
 *
 * Each of these must fail:
 *	NO_FENCE_SLEEPER	__set_current_state() for set_current_state() in
 *				evr_sleep()
 *	NO_FENCE_RINGER		clear_bit() after test_bit(): no barrier [S] (WEAK: a
 *				locked instruction always is one on TSO)
 *	NO_FENCE_HANG_UP	no smp_mb() in evr_hang_up()
 *	NO_FENCE_POLL		poll_wait() without its smp_mb() (POLL), as in kernels
 *				before "poll_wait: add mb() to fix theoretical race"
 *	NO_FENCE_ARM		user space enters without a fence after it has armed
 *	NO_RECHECK		evr_sleep() does not look whether it is rung
 *	LATE_PLACE		it looks first and takes its place afterwards
 *	NO_SIGNAL_GONE		evr_set_eventfd() does not signal one that is set when the
 *				peer has gone already (EVENTFD, whose user does not look)
 *	NO_LEAVE_SIGNAL		evr_leave() does not signal it
 */
#define THREADS		2
#define SLEEPER		0
#define RINGER		1

#define WORK		0	/* entries stamped: by the ringer */
#define ARMED		1	/* by the sleeper, and cleared by the kernel */
#define PLACE		2	/* ep->sleeper_rx */
#define STATE		3	/* of the task */
#define QUEUE		4	/* in ep->wait; EVENTFD: ep->eventfd instead */
#define GONE		5	/* ep->peer->state */
#define WORDS		6
#define READS(t, w) \
	(((t) == SLEEPER && ((w) == WORK || (w) == ARMED || (w) == GONE)) || \
	 ((t) == RINGER && ((w) == ARMED || (w) == PLACE || (w) == QUEUE)))

#include "memory.pml"

#ifndef ENTRIES
#define ENTRIES		2
#endif
#define NUMBERS		(2 * ENTRIES)
#define IN_FLIGHT	((sent + NUMBERS - received) % NUMBERS)
#define RUNNING		0
#define SLEEPING	1

byte sent, received;
bit silent;
bit adding;	/* the sleeper has ep->wait's lock, or had it to add itself */
bit triggered;	/* poll_wqueues.triggered */
bit locked;	/* channel->lock */
bit signalled;	/* the eventfd */

#ifdef NO_FENCE_SLEEPER
#define fence_sleeper()	skip
#else
#define fence_sleeper()	fence(SLEEPER)
#endif
#ifdef NO_FENCE_RINGER
#define fence_ringer()	skip
#else
#define fence_ringer()	fence(RINGER)
#endif
#ifdef NO_FENCE_HANG_UP
#define fence_hang_up()	skip
#else
#define fence_hang_up()	fence(RINGER)
#endif
#ifdef NO_FENCE_POLL
#define fence_poll()	skip
#else
#define fence_poll()	fence(SLEEPER)
#endif
#ifdef NO_FENCE_ARM
#define fence_arm()	skip
#else
#define fence_arm()	fence(SLEEPER)
#endif

#define HAS_WORK	(LOAD(SLEEPER, WORK) != received)
#define OVER		(silent && received == sent)
/* The lock is free when the stores under it are visible. */
#define LOCK_FREE	(!adding || memory[QUEUE])

inline add_wait_queue()
{
#ifdef TSO
	fence(SLEEPER);
#else
	acquire(SLEEPER);
#endif
	adding = 1;
	store_release(SLEEPER, QUEUE, 1)
}

inline remove_wait_queue()
{
#ifdef TSO
	fence(SLEEPER);
#endif
	store_release(SLEEPER, QUEUE, 0);
	adding = 0
}

/* cmpxchg(): always finds NULL, or QUEUED, which took nothing. */
inline take_place()
{
#ifdef QUEUED
	add_wait_queue()
#else
	fence(SLEEPER);
	atomic {
		LOCKED(SLEEPER, PLACE);
		memory[PLACE] = 1;
		UNLOCKED(SLEEPER, PLACE)
	}
#endif
}

inline leave_place()
{
#ifdef QUEUED
	remove_wait_queue()
#else
	store(SLEEPER, PLACE, 0)
#endif
}

/* evr_sleep(); back at out, or at gone with -EPIPE. */
inline enter()
{
#ifndef LATE_PLACE
	take_place();
#endif
	do
	:: store(SLEEPER, STATE, SLEEPING);
		fence_sleeper(); /* [S] */
#ifndef NO_RECHECK
		if
		:: LOAD(SLEEPER, ARMED) == 0 -> break
		:: else
		fi;
#endif
		if
		:: LOAD(SLEEPER, GONE) -> goto gone
		:: else
		fi;
#ifdef LATE_PLACE
		take_place();
#endif
		fence(SLEEPER);
		if
		:: true ->
			if
			:: memory[STATE] == RUNNING
			:: OVER -> goto over
			fi
#ifdef DEADLINES
		:: true -> break
#endif
		fi;
#ifdef NO_RECHECK
		break
#endif
	od;
	store(SLEEPER, STATE, RUNNING);
	leave_place()
}

/* poll(2) on this one file, until it reports EPOLLIN or EPOLLRDHUP. */
inline poll()
{
	add_wait_queue();
	fence_poll();
	do
	:: if
		:: LOAD(SLEEPER, ARMED) == 0 -> break
		:: else
		fi;
		if
		:: LOAD(SLEEPER, GONE) -> goto gone
		:: else
		fi;
		if
		:: true ->
			if
			:: atomic { triggered -> triggered = 0 }
			:: OVER -> goto over
			fi;
			fence(SLEEPER) /* poll_schedule_timeout(): smp_store_mb() */
#ifdef DEADLINES
		:: true -> break
#endif
		fi
	od;
	remove_wait_queue();
	triggered = 0
}

#ifdef TSO
/* A locked instruction; the store that unlocks is the last to get to memory. */
#define LOCK_ORDER(t)	fence(t)
#define UNLOCK_ORDER(t)	fence(t)
#else
#define LOCK_ORDER(t)	acquire(t)
#define UNLOCK_ORDER(t)	skip
#endif

inline lock(t)
{
	atomic {
		!locked;
		locked = 1;
		LOCK_ORDER(t)
	}
}

inline unlock(t)
{
	release(t);
	UNLOCK_ORDER(t);
	locked = 0
}

inline set_eventfd()
{
	lock(SLEEPER);
	store(SLEEPER, QUEUE, 1);
#ifndef NO_SIGNAL_GONE
	if
	:: LOAD(SLEEPER, GONE) -> signalled = 1
	:: else
	fi;
#endif
	unlock(SLEEPER)
}

/*
 * A sleeper that waits only for the eventfd, and looks at STATUS when that is
 * signalled.
 */
inline wait_eventfd()
{
	if
	:: atomic { signalled -> signalled = 0 }
		fence(SLEEPER);
		if
		:: LOAD(SLEEPER, GONE) -> goto gone
		:: else
		fi
	:: OVER -> goto over
#ifdef DEADLINES
	:: true
#endif
	fi
}

proctype sleeper()
{
#ifdef EVENTFD
	set_eventfd();
#endif
go:	if
	:: HAS_WORK ->
		acquire(SLEEPER);
progress:	received = (received + 1) % NUMBERS;
		goto go
	:: else
	fi;
	store(SLEEPER, ARMED, 1);
	fence_arm(); /* [D] */
	if
	:: HAS_WORK -> goto disarm
	:: else
	fi;
#ifdef EVENTFD
	wait_eventfd();
#elif defined(POLL)
	poll();
#else
	if
	:: LOAD(SLEEPER, ARMED) == 0 -> goto disarm
	:: else
	fi;
	enter();
#endif
disarm:	atomic {
		LOCKED(SLEEPER, ARMED);
		memory[ARMED] = 0;
		UNLOCKED(SLEEPER, ARMED)
	}
	goto go;
gone:	skip;
over:	skip
}

/* default_wake_function() on the sleeper. */
inline wake()
{
	fence(RINGER);
	memory[STATE] = RUNNING
}

inline wake_queued()
{
#ifdef POLL
	triggered = 1
#else
	wake()
#endif
}

inline wake_sleeper()
{
	if
	:: LOAD(RINGER, PLACE) -> wake()
	:: else
	fi
}

proctype ringer()
{
	bit rang;

go:	if
	:: IN_FLIGHT < ENTRIES ->
		sent = (sent + 1) % NUMBERS;
		store_release(RINGER, WORK, sent);
		fence(RINGER); /* [D] */
		if
		:: LOAD(RINGER, ARMED) -> skip
		:: else -> goto go
		fi;
		fence_ringer();
		atomic {
			LOCKED(RINGER, ARMED);
			rang = memory[ARMED];
			memory[ARMED] = 0;
			UNLOCKED(RINGER, ARMED)
		}
		fence_ringer(); /* [S] */
		if
		:: rang ->
			rang = 0;
			wake_sleeper();
#ifdef EVENTFD
			if
			:: LOAD(RINGER, QUEUE) ->
				lock(RINGER);
				signalled = 1;
				unlock(RINGER)
			:: else
			fi
#else
			if
			:: LOAD(RINGER, QUEUE) ->
				LOCK_FREE;
				if
				:: memory[QUEUE] -> wake_queued()
				:: else
				fi
			:: else
			fi
#endif
		:: else
		fi;
		goto go
	:: goto quiet
	:: goto hang_up
	fi;

hang_up:
#ifdef EVENTFD
	lock(RINGER);
	store_release(RINGER, GONE, 1);
#ifndef NO_LEAVE_SIGNAL
	if
	:: LOAD(RINGER, QUEUE) -> signalled = 1
	:: else
	fi;
#endif
	unlock(RINGER);
	goto end;
#endif
	store_release(RINGER, GONE, 1);
	fence_hang_up(); /* [S] */
	wake_sleeper();
#ifdef TSO
	fence(RINGER);
#endif
	LOCK_FREE;
	if
	:: memory[QUEUE] -> wake_queued()
	:: else
	fi;
	goto end;

quiet:	silent = 1;
end:	skip
}

init {
	atomic {
		run sleeper();
		run ringer();
		run cpu(SLEEPER);
		run cpu(RINGER)
	}
}
