/* SPDX-License-Identifier: MIT */
/*
 * doorbell: arm, look again, ring: no thread sleeps although there is something for it.
 *
 * One ring, whose producer and consumer sleep by turns, on the memory of memory.pml
 * (-DTSO, -DWEAK) and with the doorbell of either backend (-DDEVICE, -DMEMFD).
 *
 *	sender		evering_send(), evering_commit() in batches, evering_flush(),
 *			and wait_asleep() for EVERING_TX with evering__arm(),
 *			evering__credit(), evering__ring(), disarm()
 *	receiver	evering_recv() with evering__released(), evering__publish(),
 *			and wait_asleep() for EVERING_RX
 *	stand_in	(-DTWO_RINGERS) the other thread of the receiver's endpoint,
 *			that goes to sleep for EVERING_TX itself and so publishes
 *			in the receiver's stead: publish_released(), ring_owed()
 *			with its own memory of what it rang, space_rung
 *
 * The receiver sleeps; or with -DBUSY it spins and never sleeps: spin_for() with
 * publish_awake(). With -DNOWAIT as well it uses wait_nowait(), which publishes only
 * for a sender that it has seen armed. The sender waits for ROOM + 1 free slots
 * (endpoint.room). A sleep ends by the doorbell; with -DDEADLINES also at any time, by
 * a deadline; or at any time by evering_disarm() (after evering_arm() and a poll by
 * other code). The sender may fall silent for ever after any flush; the receiver waits
 * until then.
 *
 * DEVICE: RING is one atomic step that clears EVERING_ARMED if it is set; a sleep lasts
 * until it is clear.  enter.pml proves that the kernel does that.  MEMFD: RING writes an
 * eventfd, and the sleeper disarms itself.  A sleep ends when epoll reports a write,
 * once for each write, which leaves the eventfd full (sleep_on_edge()).  With -DLEVEL
 * it ends when the eventfd is full, and empties it: evering_arm(), a poll by other
 * code, and evering_disarm() (memfd_drain()).  With -DMIXED it ends in either way, by
 * turns.  Then both ways may report the same write, so generations change without
 * doorbells, up to five times before the ringer looks again.  With five generations in
 * all, the ringer mistakes the present one for its old one.
 *
 * -DLOOP: the receiver is an edge-triggered loop with evering_arm(). It gets each write
 * once, whatever it does at that time, and only that ends its sleep. It empties the
 * eventfd when it arms, if it has armed this generation before.
 *
 * The stamps are one word: how many entries are stamped.  Each is a release store, so
 * they appear in order.  ring.pml has their other purposes.
 *
 * Proved: the only states without a next step are those where the sender has fallen
 * silent and everything that it sent was received; with weak fairness, no endless run
 * in which nothing is received (non-progress, without DEADLINES, which may be endless);
 * never more entries in flight than slots; and with MEMFD that no thread rings twice
 * for a generation.  The generation comes round again all the time: it has GENERATIONS
 * values.
 *
 * Two things hold only until it has come round once, and are proved until then:
 *	TWO_RINGERS	each ringer of armed_tx remembers for itself what it rang.  One
 *			that has not rung for a whole round takes a generation for the
 *			one that it did ring.
 *	FAILED_ENTER	an ENTER that rings and then fails does not tell what it rang.
 *			One that fails for a whole round, each time, does the same.
 * 2^31 generations are taken to be more than that.  With -DWRAP as well, which lets it
 * come round, both must fail.
 *
 * Each of these must fail:
 *	NO_FENCE_FLUSH		no fence in evering__flush()
 *	NO_FENCE_ARM		none in evering__arm()
 *	NO_FENCE_PUBLISH	none in evering__publish() (WEAK, BUSY: on TSO the
 *				compare-and-swap before it is one, and who sleeps fences
 *				before he does)
 *	NO_PUBLISH		who spins does not publish first (BUSY, ROOM 1)
 *	NO_RECHECK		evering__arm() does not look again
 *	NO_GENERATION		the generation never moves on
 *	EAGER_GENERATION	it moves on at each disarm, rung or not (DEADLINES)
 *	NO_RUNG			nobody remembers what he rang (MEMFD)
 *	FIRST_EDGE		epoll tells only of what is written to an empty eventfd
 *				(MEMFD)
 *	LATE_RING		of a generation that was armed, and disarmed because there was
 *				something, a ring is not waited for (LOOP)
 *	NOTE_ALWAYS		a doorbell counts as rung even if the kernel found it
 *				disarmed (DEVICE)
 *
 * SLOTS: of the ring.  LAZY: released is published after so many entries at the latest.
 * Numbers of entries count modulo NUMBERS.
 */
#ifndef SLOTS
#define SLOTS		2
#endif
#ifndef LAZY
#define LAZY		2
#endif
#ifndef ROOM
#define ROOM		0
#endif
#ifndef GENERATIONS
#define GENERATIONS	2
#endif
#ifdef TWO_RINGERS
#define NUMBERS		(4 * SLOTS)
#else
#define NUMBERS		(2 * SLOTS)
#endif

#define SENDER		0
#define RECEIVER	1
#define STAND_IN	2
#ifdef TWO_RINGERS
#define THREADS		3
#else
#define THREADS		2
#endif

#define STAMPED		0	/* by the sender; entries, in number */
#define RELEASED	1	/* by the receiver and the stand-in */
#define ARMED_RX	2	/* by the receiver, and cleared by the kernel */
#define ARMED_TX	3	/* by the sender, likewise */
#ifdef TWO_RINGERS
#define NEXT		4	/* evering_rx.next: by the receiver, for the stand-in */
#define WORDS		5
#else
#define WORDS		4
#endif
#define READS(t, w) \
	(((t) == SENDER && ((w) == RELEASED || (w) == ARMED_RX)) || \
	 ((t) == RECEIVER && ((w) == STAMPED || (w) == RELEASED || \
			      (w) == ARMED_TX)) || \
	 ((t) == STAND_IN && ((w) == 4 || (w) == RELEASED || \
			      (w) == ARMED_TX)))

#include "memory.pml"

#define ARMED		1
#define MORE(n, k)	(((n) + (k)) % NUMBERS)
#define LESS(n, k)	(((n) + NUMBERS - (k)) % NUMBERS)
#define ROOMY(limit)	(LESS(limit, sent) > ROOM)
#define AHEAD(n, old)	((n) != (old) && LESS(n, old) <= SLOTS)
#define RX		0
#define TX		1

/* State that is not in memory: the eventfds, and state for the proofs. */
bit bell[2]; /* not empty */
#ifdef MEMFD
bit edge[2]; /* written since epoll has told of it */
#endif
byte sent, received;
bit silent;

#define OVER	(silent && received == sent)

bit turn;

/*
 * What the stand-in holds between its load of evering_rx.next and its compare-and-swap.
 * If half of all numbers went by meanwhile, it would mistake the old one for a newer
 * one.  The model assumes that fewer than 2^31 entries go by.
 */
bit late;
byte next;
#define IN_TIME()	(!late || LESS(sent, next) < NUMBERS / 2)

#if (defined(TWO_RINGERS) || defined(FAILED_ENTER)) && !defined(WRAP)
/* Before the generation comes round, the sender falls silent and the receiver spins. */
#define UNUSED(generation)	((generation) < GENERATIONS - 1)
#else
#define UNUSED(generation)	true
#endif
#ifdef BUSY
#define SPINS(generation)	true
#else
#define SPINS(generation)	(!UNUSED(generation))
#endif

#ifdef NO_FENCE_FLUSH
#define fence_flush(t)		skip
#else
#define fence_flush(t)		fence(t)
#endif
#ifdef NO_FENCE_ARM
#define fence_arm(t)		skip
#else
#define fence_arm(t)		fence(t)
#endif
#ifdef NO_FENCE_PUBLISH
#define fence_publish(t)	skip
#else
#define fence_publish(t)	fence(t)
#endif
#ifdef FIRST_EDGE
#define WRITE_TELLS(which)	!bell[which]
#else
#define WRITE_TELLS(which)	1
#endif
#ifdef NO_RUNG
#define RING_DUE(armed, rung)	((armed) & ARMED)
#else
#define RING_DUE(armed, rung)	(((armed) & ARMED) && (armed) != (rung))
#endif

/* Keeps what was seen only if it asks for the doorbell: 0 does not. */
inline look(t, which, armed, rung)
{
	atomic {
		armed = LOAD(t, ARMED_RX + which);
		if
		:: RING_DUE(armed, rung) -> skip
		:: else -> armed = 0
		fi
	}
}

/*
 * backend->ring() and note_*_rung().  A system call that writes an eventfd, or clears
 * a bit, orders all that is before it (spin lock, atomic operation).
 */
#ifdef NOTE_ALWAYS
#define FOUND(which)	true
#else
#define FOUND(which)	(memory[ARMED_RX + which] & ARMED)
#endif

inline ring_owed(t, which, armed, rung)
{
	if
	:: armed ->
		fence(t);
		atomic {
#ifdef MEMFD
			assert(rung != armed);
			edge[which] = edge[which] || WRITE_TELLS(which);
			bell[which] = 1;
			rung = armed;
#else
			if
			:: FOUND(which) -> rung = armed
			:: else
			fi;
			memory[ARMED_RX + which] = 0;
#endif
			armed = 0
		}
	:: else
	fi
}

/* What a sleeper waits for, and what it consumes. */
#ifdef MEMFD
#define RUNG(which)		bell[which]
#define TAKE(which)		bell[which] = 0
/* epoll looks once more before it reports; it does not report an empty eventfd. */
#define TOLD(which)		(edge[which] && bell[which])
#define HEAR(which)		edge[which] = 0
#ifdef LATE_RING
#define MAY_BE_RUNG		0
#else
#define MAY_BE_RUNG		1
#endif
#else
#define RUNG(which)		!(memory[ARMED_RX + which] & ARMED)
#define TAKE(which)		skip
#endif

/*
 * disarm_word(): @rung is what the backend returns.  Relaxed, which still orders on
 * TSO.  A word that is not armed is 0 here, because its generation is not used.
 */
#ifdef NO_GENERATION
#define CONSUMED(which, rung)	false
#elif defined(EAGER_GENERATION)
#define CONSUMED(which, rung)	true
#elif defined(MEMFD)
#define CONSUMED(which, rung)	rung
#else
#define CONSUMED(which, rung)	(rung || !(memory[ARMED_RX + which] & ARMED))
#endif

inline disarm(t, which, generation, rung)
{
	atomic {
		LOCKED(t, ARMED_RX + which);
		if
		:: CONSUMED(which, rung) ->
			generation = (generation + 1) % GENERATIONS
		:: else
		fi;
		memory[ARMED_RX + which] = 0;
		rung = 0;
		UNLOCKED(t, ARMED_RX + which)
	}
}

/* backend->sleep(); or evering_arm(), a poll by other code, and evering_disarm(). */
inline sleep(t, which, rung)
{
	if
#if !defined(MEMFD) || defined(LEVEL) || defined(MIXED)
	:: true ->
		if
		:: atomic { RUNG(which) -> TAKE(which); rung = 1 }
		:: atomic { which == RX && OVER -> goto over }
		fi
#endif
#if defined(MEMFD) && !defined(LEVEL)
	:: true ->
		if
		:: atomic { TOLD(which) -> HEAR(which); rung = 1 }
		:: atomic { which == RX && OVER -> goto over }
		fi
#endif
#ifdef DEADLINES
	:: true -> rung = 0 /* or a signal */
#if defined(LEVEL) || defined(MIXED)
	:: atomic { true -> rung = bell[which]; TAKE(which) } /* evering_disarm() */
#endif
#endif
	fi
}

/* publish_released(); a compare-and-swap with release order, if there is anything. */
inline publish(t, n)
{
	if
	:: AHEAD(n, LOAD(t, RELEASED)) ->
		atomic {
			release(t);
			LOCKED(t, RELEASED);
			if
			:: AHEAD(n, memory[RELEASED]) -> memory[RELEASED] = n
			:: else
			fi;
			UNLOCKED(t, RELEASED)
		}
	:: else
	fi
}

inline credit()
{
	atomic {
		limit = MORE(LOAD(SENDER, RELEASED), SLOTS);
		acquire(SENDER)
	}
}

proctype sender()
{
	byte limit = SLOTS, rung_rx, generation, armed;
	bit rung;
#ifdef FAILED_ENTER
	byte before;
#endif

go:	if
	:: ROOMY(limit) -> skip
	:: else ->
		credit();
		if
		:: ROOMY(limit) -> skip
		:: else -> goto wait
		fi
	fi;
	atomic {
		IN_TIME();
		assert(LESS(sent, received) < SLOTS);
		sent = MORE(sent, 1)
	}
	store_release(SENDER, STAMPED, sent);
	if
	:: goto go /* more of a batch */
	:: skip
	fi;
flush:	fence_flush(SENDER);
	look(SENDER, RX, armed, rung_rx);
	ring_owed(SENDER, RX, armed, rung_rx);
	if
	:: UNUSED(generation) -> goto go
	:: goto over
	fi;

wait:	if
	:: UNUSED(generation) -> skip
	:: else -> goto flush
	fi;
	store(SENDER, ARMED_TX, 2 * generation + ARMED);
#ifdef TWO_RINGERS
	turn = 1;
#endif
	fence_arm(SENDER);
	look(SENDER, RX, armed, rung_rx);
#ifndef NO_RECHECK
	credit();
	if
	:: ROOMY(limit) ->
		disarm(SENDER, TX, generation, rung);
		ring_owed(SENDER, RX, armed, rung_rx);
		goto go
	:: else
	fi;
#endif
#ifdef FAILED_ENTER
	before = rung_rx;
#endif
	ring_owed(SENDER, RX, armed, rung_rx);
	sleep(SENDER, TX, rung);
#ifdef FAILED_ENTER
	if
	:: rung == 0 -> rung_rx = before
	:: else
	fi;
	before = 0;
#endif
	disarm(SENDER, TX, generation, rung);
	goto go;

over:	silent = 1
}

/* evering__publish() */
inline publish_and_look(t)
{
	counted = received;
	publish(t, received);
	fence_publish(t);
	look(t, TX, armed, rung_tx);
	ring_owed(t, TX, armed, rung_tx)
}

proctype receiver()
{
	byte counted, rung_tx, generation, armed;
	bit rung;
#ifdef LOOP
	bit exposed;
#endif
#ifdef FAILED_ENTER
	byte before;
#endif

go:	if
	:: LOAD(RECEIVER, STAMPED) != received ->
		acquire(RECEIVER);
progress:	received = MORE(received, 1);
#ifdef TWO_RINGERS
		store_release(RECEIVER, NEXT, received);
#endif
		if
		:: LESS(received, counted) >= LAZY ||
		   (LOAD(RECEIVER, ARMED_TX) & ARMED) ->
			publish_and_look(RECEIVER)
		:: else
		fi;
		goto go
	:: else
	fi;

	if
	:: !SPINS(generation) -> skip
	:: else ->
#ifndef NO_PUBLISH
		if
#ifdef NOWAIT
		:: received != counted && (LOAD(RECEIVER, ARMED_TX) & ARMED) ->
			publish_and_look(RECEIVER)
#else
		:: received != counted -> publish_and_look(RECEIVER)
#endif
		:: else
		fi;
#endif
		if
		:: LOAD(RECEIVER, STAMPED) != received -> goto go
#ifdef NOWAIT
		:: received != counted && (LOAD(RECEIVER, ARMED_TX) & ARMED) -> goto go
#endif
		:: OVER -> goto over
		fi
	fi;
#ifdef LOOP
	if
	:: atomic { edge[RX] -> HEAR(RX) }
	:: skip
	fi;
	if
	:: exposed ->
		atomic {
			rung = bell[RX];
			exposed = !rung;
			TAKE(RX)
		}
		disarm(RECEIVER, RX, generation, rung)
	:: else
	fi;
#endif
	if
	:: received != counted -> counted = received; publish(RECEIVER, received)
	:: else
	fi;
	store(RECEIVER, ARMED_RX, 2 * generation + ARMED);
	fence_arm(RECEIVER);
	look(RECEIVER, TX, armed, rung_tx);
#ifndef NO_RECHECK
	if
	:: LOAD(RECEIVER, STAMPED) != received ->
		disarm(RECEIVER, RX, generation, rung);
		ring_owed(RECEIVER, TX, armed, rung_tx);
#ifdef LOOP
		exposed = MAY_BE_RUNG;
#endif
		goto go
	:: else
	fi;
#endif
#ifdef LOOP
	exposed = 1;
	ring_owed(RECEIVER, TX, armed, rung_tx);
	if
	:: atomic { TOLD(RX) -> HEAR(RX) }
	:: atomic { OVER -> goto over }
	fi;
	goto go;
#endif
#ifdef FAILED_ENTER
	before = rung_tx;
#endif
	ring_owed(RECEIVER, TX, armed, rung_tx);
	sleep(RECEIVER, RX, rung);
#ifdef FAILED_ENTER
	if
	:: rung == 0 -> rung_tx = before
	:: else
	fi;
	before = 0;
#endif
	disarm(RECEIVER, RX, generation, rung);
	goto go;
over:	skip
}

#ifdef TWO_RINGERS
/* Once for each time that the sender arms, at any time from then on. */
proctype stand_in()
{
	byte space_rung, armed;

end:	do
	:: atomic {
			turn -> turn = 0;
			acquire(STAND_IN);
			next = LOAD(STAND_IN, NEXT);
			late = 1
		}
		publish(STAND_IN, next);
		late = 0;
		next = 0;
		fence_arm(STAND_IN);
		look(STAND_IN, TX, armed, space_rung);
		ring_owed(STAND_IN, TX, armed, space_rung)
	od
}
#endif

init {
	atomic {
		run sender();
		run receiver();
		run cpu(SENDER);
		run cpu(RECEIVER);
#ifdef TWO_RINGERS
		run stand_in();
		run cpu(STAND_IN);
#endif
	}
}
