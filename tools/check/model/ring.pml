/* SPDX-License-Identifier: MIT */
/*
 * ring: stamps, a released position that is published late, and numbers that come
 * round.
 *
 * One ring, whose two sides spin, on the memory of memory.pml (-DTSO, -DWEAK).
 *
 *	producer	evering_reserve_at() and evering_commit_many() of one entry or of
 *			two, evering__stamp(), evering__credit()
 *	consumer	evering_peek_at(), evering_release_many() of one or two,
 *			evering__released(), store_released(); publishes before it waits,
 *			as spin_for() does
 *	stand_in	(-DSTAND_IN) the other thread of the consumer's endpoint, that
 *			publishes what that has released: publish_released()
 *
 * An entry holds its number.  Payload and stamp are different words of the slot.
 *
 * Proved: each entry is received once, whole and in order (its stamp is there, its
 * number is right); no slot is written before its entry was read; released never goes
 * back nor beyond what was sent (which evering__credit() takes for a breach of the
 * rules); and both sides make progress for ever: no state without a next step, and with
 * weak fairness no endless run in which nothing is received (non-progress).
 *
 * SLOTS, LAZY 2: released is published after so many entries at the latest.  Numbers
 * count modulo NUMBERS, twice the slots, as few as there may be: a u32 holds at least
 * 2^15 times as many as the largest ring.
 *
 * Each of these must fail:
 *	NO_RELEASE_A	the stamp is stored without release order (WEAK)
 *	NO_ACQUIRE_A	and loaded without acquire order (WEAK)
 *	NO_RELEASE_C	released is stored without release order: the entry may still be
 *			read afterwards, which is what the model then does
 *	NO_ACQUIRE_C	and loaded without acquire order: the entry may be written
 *			before, likewise
 *	NO_CREDIT	the producer takes one slot more than there are
 *	NO_PUBLISH	what was released last is not published before a wait, and LAZY
 *			is more than the ring
 *	NO_FORWARD	the stand-in stores released without a compare-and-swap (STAND_IN)
 *	TIGHT		numbers come round with the slots: the old stamp is the new one
 */
#ifndef SLOTS
#define SLOTS		2
#endif
#ifdef NO_PUBLISH
#define LAZY		(SLOTS + 1)
#else
#define LAZY		2
#endif
#ifdef TIGHT
#define NUMBERS		SLOTS
#elif defined(STAND_IN)
#define NUMBERS		(4 * SLOTS)
#else
#define NUMBERS		(2 * SLOTS)
#endif

#define PRODUCER	0
#define CONSUMER	1
#define STANDING_IN	2
#ifdef STAND_IN
#define THREADS		3
#define WORDS		(2 * SLOTS + 2)
#else
#define THREADS		2
#define WORDS		(2 * SLOTS + 1)
#endif

#define STAMP(n)	((n) % SLOTS)
#define ENTRY(n)	(SLOTS + (n) % SLOTS)
#define RELEASED	(2 * SLOTS)
#define NEXT		(2 * SLOTS + 1) /* evering_rx.next: by the consumer, for the stand-in */
#define READS(t, w) \
	(((t) == PRODUCER && (w) == RELEASED) || \
	 ((t) == CONSUMER && (w) <= RELEASED) || \
	 ((t) == STANDING_IN && (w) >= RELEASED))

#include "memory.pml"

#define MORE(n, k)	(((n) + (k)) % NUMBERS)
#define LESS(n, k)	(((n) + NUMBERS - (k)) % NUMBERS)
#define AHEAD(n, old)	((n) != (old) && LESS(n, old) <= SLOTS)

byte sent, received;	/* numbers of the next entry to stamp, and to read */
bit unread[SLOTS];	/* written, and not read yet */
bit due;		/* the stand-in may publish once for each entry */
bit late;		/* it has loaded NEXT: see doorbell.pml */
byte next;
#define IN_TIME()	(!late || LESS(sent, next) < NUMBERS / 2)

#ifdef NO_RELEASE_A
#define store_stamp(n, v)	store(PRODUCER, STAMP(n), v)
#else
#define store_stamp(n, v)	store_release(PRODUCER, STAMP(n), v)
#endif
#ifdef NO_ACQUIRE_A
#define acquire_stamp()		skip
#else
#define acquire_stamp()		acquire(CONSUMER)
#endif

inline write_entry(n)
{
	atomic {
		IN_TIME();
		assert(!unread[(n) % SLOTS]);
		unread[(n) % SLOTS] = 1
	}
	store(PRODUCER, ENTRY(n), n)
}

inline credit()
{
	atomic {
		limit = LOAD(PRODUCER, RELEASED);
		assert(LESS(sent, limit) <= SLOTS);
#ifdef NO_CREDIT
		limit = MORE(limit, SLOTS + 1);
#else
		limit = MORE(limit, SLOTS);
#endif
		acquire(PRODUCER)
	}
}

inline commit()
{
	atomic {
		n = MORE(sent, 1);
		sent = n
	}
	store_stamp(MORE(n, NUMBERS - 1), n);
	n = 0
}

proctype producer()
{
	byte limit = SLOTS, n;

	do
	:: sent == limit ->
#ifdef NO_ACQUIRE_C
		/* The CPU writes early, on the speculation that there will be room. */
		write_entry(sent);
		do
		:: sent == limit -> credit()
		:: else -> break
		od;
		commit()
#else
		LOAD(PRODUCER, RELEASED) != LESS(limit, SLOTS);
		credit()
#endif
	:: sent != limit ->
		write_entry(sent);
		commit()
	:: LESS(limit, sent) > 1 ->
		write_entry(sent);
		write_entry(MORE(sent, 1));
		commit();
		commit()
	od
}

#define THERE(k)	(LOAD(CONSUMER, STAMP(MORE(received, k))) == MORE(received, k + 1))

inline read_entry(n)
{
	atomic {
		assert(unread[(n) % SLOTS]);
		assert(LOAD(CONSUMER, ENTRY(n)) == n);
		unread[(n) % SLOTS] = 0
	}
}

inline publish(t, n)
{
	if
	:: AHEAD(n, LOAD(t, RELEASED)) ->
#ifdef NO_FORWARD
		store_release(t, RELEASED, n)
#else
		atomic {
			release(t);
			LOCKED(t, RELEASED);
			if
			:: AHEAD(n, memory[RELEASED]) -> memory[RELEASED] = n
			:: else
			fi;
			UNLOCKED(t, RELEASED)
		}
#endif
	:: else
	fi
}

inline released(k)
{
	received = MORE(received, k);
#ifdef STAND_IN
	store_release(CONSUMER, NEXT, received);
	due = 1;
#endif
	if
	:: LESS(received, published) >= LAZY ->
		published = received;
		publish(CONSUMER, received)
	:: else
	fi
}

proctype consumer()
{
	byte published;

	do
	:: THERE(0) ->
progress:	acquire_stamp();
#ifdef NO_RELEASE_C
		/* The CPU reads late. */
		received = MORE(received, 1);
		published = received;
		publish(CONSUMER, received);
		read_entry(MORE(received, NUMBERS - 1))
#else
		read_entry(received);
		if
		:: THERE(1) ->
			acquire_stamp();
			read_entry(MORE(received, 1));
			released(2)
		:: released(1)
		fi
#endif
	:: else ->
#ifndef NO_PUBLISH
		if
		:: received != published ->
			published = received;
			publish(CONSUMER, received)
		:: else
		fi;
#endif
		THERE(0)
	od
}

#ifdef STAND_IN
proctype stand_in()
{
end:	do
	:: atomic {
			due -> due = 0;
			acquire(STANDING_IN);
			next = LOAD(STANDING_IN, NEXT);
			late = 1
		}
		acquire(STANDING_IN);
		publish(STANDING_IN, next);
		late = 0;
		next = 0
	od
}
#endif

init {
	atomic {
		run producer();
		run consumer();
		run cpu(PRODUCER);
		run cpu(CONSUMER);
#ifdef STAND_IN
		run stand_in();
		run cpu(STANDING_IN);
#endif
	}
}
