/* SPDX-License-Identifier: MIT */
/*
 * group: the ready bitmap of a group of the device: each member whose doorbell is rung
 * is looked at.
 *
 * A group with one member, and its ringer with at most one message under way, on the
 * memory of memory.pml (-DTSO, -DWEAK).  With -DTWO there are two members, whose bits
 * are in one word; the ringer of the second sends one message in all, and stays.  With
 * -DBOTH the second is like the first.
 *
 *	owner		user space: takes the word of summary, then the word that it names;
 *			looks at each member that is hot; arms one that has nothing, looks
 *			once more, and it is cold.  When all are cold it sleeps: evr_sleep()
 *			with evr_group_look().  -DMOVES: it removes a member and adds it
 *			again, at any such time (EVERING_IOC_REMOVE, EVERING_IOC_ADD:
 *			evr_group_leave(), evr_group_add()).  -DCLOSES: it removes all, and
 *			closes the group, whose page is free then
 *	ringer		evering__flush() in user space, then evr_ring() with evr_tell() and
 *			evr_group_mark(); -DLEAVES: or it goes, at any time: evr_leave()
 *
 * enter.pml proves that a wake-up wakes the task.  Here the sleeper waits until another
 * thread has seen it in its place (waiters.sleeper_rx, or in waiters.queue), and marks
 * it woken.  A lock belongs to the channel; to take it is an acquire (on TSO a full
 * barrier), to release it a release.  set_bit() between smp_mb__before_atomic() and
 * smp_mb__after_atomic() is fully ordered, and so is the owner's exchange.  A
 * read-modify-write acts on memory itself here, so the model does not show that [G] is
 * needed between the two bits.
 *
 * Proved: the only states without a next step are those where the owner has received
 * everything from all, knows which ringers are gone, and the others are silent, or
 * where it has closed the group; and no thread writes into the page of a closed group.
 *
 * Each of these must fail:
 *	SUMMARY_FIRST		the bit in summary is set before the member's
 *	READY_FIRST		the owner takes the members' bits before summary
 *	NO_EXCHANGE		it takes them by a load and a store
 *	TAKE_FIRST		it looks at the first of those that it took (TWO)
 *	NO_RECHECK_ARM		it does not look again after it has armed
 *	NO_FENCE_ARM		it does, without a fence
 *	HOT_SLEEP		it sleeps while a member is hot: not armed
 *	NO_RECHECK_SLEEP	evr_sleep() does not look at summary in its place
 *	NO_FENCE_SLEEPER	it does, without a barrier
 *	NO_FENCE_RINGER		evr_group_mark() wakes without a barrier before (WEAK)
 *	NO_ADD_MARK		ADD sets no bit (MOVES)
 *	NO_LEAVE_MARK		evr_leave() sets none (LEAVES)
 *	NO_LOCK			evr_ring() marks without the lock (CLOSES)
 */
#ifdef BOTH
#define TWO
#endif

#define THREADS		3
#define OWNER		2

#define WORK		0	/* of each ringer: what it sent last, or GONE */
#define ARMED		2	/* of each member: by the owner, cleared by the kernel */
#define GROUP		4	/* of each: ep->group */
#define READY		6	/* bits of both */
#define SUMMARY		7
#define PLACE		8	/* of the sleeper */
#define WORDS		9
#define READS(t, w) \
	(((t) == OWNER && ((w) < ARMED || (w) == SUMMARY || (w) == READY)) || \
	 ((t) != OWNER && ((w) == ARMED + (t) || (w) == GROUP + (t) || \
			   (w) == PLACE)))

#include "memory.pml"

#define GONE		2

bit sent[2], received[2], silent[2], gone[2];
bit locked[2];
bit woken, closed;

#ifdef TWO
#define SECOND(x)	x
#else
#define SECOND(x)	skip
#endif

#define PENDING(m)	(sent[m] != received[m])
#define DONE(m)		(gone[m] || (silent[m] && !PENDING(m)))
#define OVER		(DONE(0) && DONE(1))

#ifdef TSO
/* A locked instruction; and the store that unlocks is the last to get to memory. */
#define LOCK_ORDER(t)	fence(t)
#define UNLOCK_ORDER(t)	fence(t)
#else
#define LOCK_ORDER(t)	acquire(t)
#define UNLOCK_ORDER(t)	skip
#endif

inline lock(t, m)
{
	atomic {
		!locked[m];
		locked[m] = 1;
		LOCK_ORDER(t)
	}
}

inline unlock(t, m)
{
	release(t);
	UNLOCK_ORDER(t);
	locked[m] = 0
}

/* Lost by NO_EXCHANGE: what is set between its load and its store. */
inline set_bit(t, w, b)
{
	atomic {
		fence(t);
		assert(!closed);
		LOCKED(t, w);
		memory[w] = memory[w] | (b);
		UNLOCKED(t, w);
		fence(t)
	}
}

#ifdef NO_FENCE_RINGER
#define FENCE_WAKE(t)	skip
#else
#define FENCE_WAKE(t)	fence(t)
#endif

/* evr_group_mark() */
inline mark(t, m)
{
#ifdef SUMMARY_FIRST
	set_bit(t, SUMMARY, 1);
	set_bit(t, READY, 1 << m);
#else
	set_bit(t, READY, 1 << m);
	atomic {
		assert(!closed);
		LOCKED(t, SUMMARY);
		memory[SUMMARY] = 1;
		UNLOCKED(t, SUMMARY)
	}
#endif
	FENCE_WAKE(t); /* [S] */
	if
	:: LOAD(t, PLACE) -> woken = 1
	:: else
	fi
}

/* evr_group_add(); the owner does not find itself asleep. */
inline add(m)
{
	lock(OWNER, m);
	store(OWNER, GROUP + m, 1);
#ifndef NO_ADD_MARK
	set_bit(OWNER, READY, 1 << m);
	set_bit(OWNER, SUMMARY, 1);
#endif
	unlock(OWNER, m)
}

inline remove(m)
{
	lock(OWNER, m);
	store(OWNER, GROUP + m, 0);
	unlock(OWNER, m)
}

inline take(w, bits)
{
#ifdef NO_EXCHANGE
	fence(OWNER);
	bits = LOAD(OWNER, w);
	store(OWNER, w, 0);
	fence(OWNER)
#else
	atomic {
		fence(OWNER);
		LOCKED(OWNER, w);
		bits = memory[w];
		memory[w] = 0;
		UNLOCKED(OWNER, w);
		fence(OWNER)
	}
#endif
}

inline look(m)
{
	if
	:: !hot[m] || gone[m] -> hot[m] = 0
	:: else ->
		if
		:: LOAD(OWNER, WORK + m) == GONE ->
			gone[m] = 1;
			hot[m] = 0
		:: LOAD(OWNER, WORK + m) != GONE &&
		   LOAD(OWNER, WORK + m) != received[m] ->
			acquire(OWNER);
			received[m] = !received[m]
		:: LOAD(OWNER, WORK + m) == received[m] ->
			store(OWNER, ARMED + m, 1);
#ifndef NO_FENCE_ARM
			fence(OWNER);
#endif
#ifdef NO_RECHECK_ARM
			hot[m] = 0
#else
			if
			:: LOAD(OWNER, WORK + m) == received[m] -> hot[m] = 0
			:: else ->
				atomic {
					LOCKED(OWNER, ARMED + m);
					memory[ARMED + m] = 0;
					UNLOCKED(OWNER, ARMED + m)
				}
			fi
#endif
#ifdef HOT_SLEEP
		:: LOAD(OWNER, WORK + m) == received[m] -> hot[m] = 0
#endif
		fi
	fi
}

proctype owner()
{
	bit hot[2];
	byte got;

	add(0);
	SECOND(add(1));
sweep:
#ifdef READY_FIRST
	take(READY, got);
	hot[0] = hot[0] || (got & 1);
	hot[1] = hot[1] || (got & 2);
	take(SUMMARY, got);
	got = 0;
#else
	take(SUMMARY, got);
	if
	:: got ->
		take(READY, got);
		hot[0] = hot[0] || (got & 1);
#ifdef TAKE_FIRST
		hot[1] = hot[1] || got == 2;
#else
		hot[1] = hot[1] || (got & 2);
#endif
		got = 0
	:: else
	fi;
#endif
	look(0);
	SECOND(look(1));
	if
	:: hot[0] || hot[1] -> goto sweep
	:: else
	fi;
	if
	:: goto sleep
#ifdef MOVES
	:: remove(0);
		add(0);
		goto sweep
#endif
#ifdef CLOSES
	:: remove(0);
		SECOND(remove(1));
		closed = 1;
		goto over
#endif
	fi;

sleep:	store(OWNER, PLACE, 1);
	do
	::
#ifndef NO_FENCE_SLEEPER
		fence(OWNER); /* [S] */
#endif
#ifndef NO_RECHECK_SLEEP
		if
		:: LOAD(OWNER, SUMMARY) -> break
		:: else
		fi;
#endif
		fence(OWNER); /* schedule() */
		if
		:: atomic { woken -> woken = 0 }
		:: OVER -> goto over
		fi;
#ifdef NO_RECHECK_SLEEP
		break
#endif
	od;
	store(OWNER, PLACE, 0);
	woken = 0;
	goto sweep;
over:	skip
}

#ifdef BOTH
#define MAY_SEND(me)	true
#define MAY_LEAVE(me)	true
#else
#define MAY_SEND(me)	(me == 0 || !sent[me])
#define MAY_LEAVE(me)	(me == 0)
#endif

proctype ringer(bit me)
{
	bit rang;

go:	if
	:: !PENDING(me) && MAY_SEND(me) ->
		sent[me] = !sent[me];
		store_release(me, WORK + me, sent[me]);
		fence(me); /* [D] */
		if
		:: LOAD(me, ARMED + me) -> skip
		:: else -> goto go
		fi;
		atomic {
			LOCKED(me, ARMED + me);
			rang = memory[ARMED + me];
			memory[ARMED + me] = 0;
			UNLOCKED(me, ARMED + me);
			fence(me)
		}
		if
		:: rang && LOAD(me, GROUP + me) ->
			rang = 0;
#ifdef NO_LOCK
			mark(me, me)
#else
			lock(me, me);
			if
			:: LOAD(me, GROUP + me) -> mark(me, me)
			:: else
			fi;
			unlock(me, me)
#endif
		:: else -> rang = 0
		fi;
		goto go
	:: silent[me] = 1 -> goto end
#ifdef LEAVES
	:: MAY_LEAVE(me) -> goto leave
#endif
	:: closed -> goto end
	fi;
#ifndef LEAVES
	goto end;
#endif

leave:	lock(me, me);
	store_release(me, WORK + me, GONE);
#ifndef NO_LEAVE_MARK
	if
	:: LOAD(me, GROUP + me) -> mark(me, me)
	:: else
	fi;
#endif
	unlock(me, me);
end:	skip
}

init {
	atomic {
		run owner();
		run ringer(0);
		run cpu(0);
		run cpu(OWNER);
#ifdef TWO
		run ringer(1);
		run cpu(1)
#else
		silent[1] = 1
#endif
	}
}
