/* SPDX-License-Identifier: MIT */
/*
 * liveness: an endpoint that goes away, its entries, and what its peer learns.
 *
 * On the memory of memory.pml (-DTSO, -DWEAK).
 *
 *	goer		is attached: evr_endpoint_attach(); sends up to ENTRIES entries, closes
 *			politely (evering_close()) or not, and is gone:
 *			evr_map_invalidate(), evr_endpoint_flush(),
 *			evr_vm_close(), evr_endpoint_release(); memfd: its socket
 *			is closed
 *	receiver	evering_wait() for EVERING_RX by all three policies and with
 *			EVERING_NOWAIT: ready(), spin_for(), wait_nowait(), wait_asleep(),
 *			peer_gone()
 *	other		the sending thread of the same endpoint: it may find the peer gone
 *			(evering_peer(), or a wait of its own) or break the rules (-EPROTO,
 *			evering__credit()), at any time; or read STATUS
 *
 * The state is stored with release order: evr_set_state(), or by the exit of a process.
 * A ppoll loads it without order (the socket's state), and endpoint.error is loaded so
 * too; the acquire is in peer_gone().  evr_gone() and device_gone() have an acquire of
 * their own.  enter.pml proves that a sleeper is woken.
 *
 * Proved: only the last state has no next step; when the receiver gets -EPIPE it has
 * received every entry that the goer stamped before it went, whichever thread found
 * out; the channel ends once, for one reason; a close is told from a death; and a
 * thread that sees a state sees its epoch.
 *
 * Each of these must fail:
 *	NO_SECOND_LOOK		peer_gone() does not look for entries once more
 *	NO_LOOK_AFTER_ERROR	-EPIPE found in endpoint.error, where the other thread
 *				put it, is returned without that look
 *	NO_ACQUIRE		no acquire between what told of the death and that look
 *				(WEAK)
 *	NO_RELEASE		the state is stored without release order (WEAK)
 *	NO_CAS			channel_end() loads and stores
 *	REATTACH		DETACHED is not final: another process attaches
 */
#define THREADS		3
#define GOER		0
#define RECEIVER	1
#define OTHER		2

#define STAMPED		0	/* entries: by the goer */
#define STATE		1	/* STATUS: by the kernel, the last time when it goes */
#define CLOSED		2	/* evering_half.closed: by the goer */
#define ERROR		3	/* endpoint.error: by the receiver and the other */
#define EPOCH		4	/* STATUS, likewise */
#define WORDS		5
#define READS(t, w) \
	(((t) == RECEIVER && ((w) == STAMPED || (w) == STATE || (w) == ERROR)) || \
	 ((t) == OTHER && (w) != STAMPED))
#define NEW		0
#define ATTACHED	1
#define DETACHED	2

#include "memory.pml"

#ifndef ENTRIES
#define ENTRIES		3
#endif
#define EPIPE		1
#define EPROTO		2

byte sent, received, ends;
bit polite;
bit rung;	/* a ring since the receiver slept last */

inline set_state(state)
{
#ifdef NO_RELEASE
	store(GOER, STATE, state)
#else
	store_release(GOER, STATE, state)
#endif
}

#define GONE(t)	(LOAD(t, STATE) >= DETACHED)

proctype goer()
{
	store(GOER, EPOCH, 1);
	set_state(ATTACHED);
	do
	:: sent < ENTRIES ->
		sent++;
		store_release(GOER, STAMPED, sent);
		fence(GOER);
		rung = 1
	:: break
	:: atomic { polite = 1; break }
	od;
	if
	:: polite -> store_release(GOER, CLOSED, 1)
	:: else
	fi;
	set_state(DETACHED);
#ifdef REATTACH
	set_state(ATTACHED);
	store(GOER, EPOCH, 2)
#endif
}

#define READY	(LOAD(RECEIVER, STAMPED) != received)

/* channel_end(): a relaxed compare-and-swap. */
inline channel_end(t, error)
{
#ifdef NO_CAS
	if
	:: LOAD(t, ERROR) == 0 ->
		atomic {
			LOCKED(t, ERROR);
			memory[ERROR] = error;
			UNLOCKED(t, ERROR);
			ends++;
			assert(ends <= 1)
		}
	:: else
	fi
#else
	atomic {
		LOCKED(t, ERROR);
		if
		:: memory[ERROR] == 0 ->
			memory[ERROR] = error;
			ends++;
			assert(ends <= 1)
		:: else
		fi;
		UNLOCKED(t, ERROR)
	}
#endif
}

inline acquire_gone(t)
{
#ifdef NO_ACQUIRE
	skip
#else
	acquire(t)
#endif
}

/* endpoint.error is set. */
inline error_found()
{
#ifdef NO_LOOK_AFTER_ERROR
	if
	:: LOAD(RECEIVER, ERROR) == EPIPE -> goto told
	:: else -> goto end
	fi
#else
	goto peer_gone
#endif
}

proctype receiver()
{
go:	if
	:: READY -> acquire(RECEIVER); received++; goto go
	:: else
	fi;

	/* evering_wait() after it has found nothing; wait_nowait(). */
	if
	:: LOAD(RECEIVER, ERROR) -> error_found()
	:: else
	fi;

	if
	:: true -> /* spin_for(), wait_nowait(): backend->gone(), now and then */
		if
		:: READY -> goto go
		:: LOAD(RECEIVER, ERROR) -> goto peer_gone
		:: GONE(RECEIVER) -> acquire(RECEIVER); goto peer_gone
		fi
	:: true -> /* wait_asleep() */
		rung = 0;
		fence(RECEIVER);
		if
		:: READY -> goto go
		:: else
		fi;
		if
		:: LOAD(RECEIVER, ERROR) -> error_found()
		:: else
		fi;
		if
		:: atomic { rung -> rung = 0 }
			goto go
		:: GONE(RECEIVER) && !rung
		fi;
		if
		:: READY -> goto go
		:: else
		fi
	fi;

peer_gone:
	channel_end(RECEIVER, EPIPE);
	if
	:: LOAD(RECEIVER, ERROR) == EPROTO -> goto end
	:: else
	fi;
#ifndef NO_SECOND_LOOK
	acquire_gone(RECEIVER);
	if
	:: READY -> goto go
	:: else
	fi;
#endif
told:	/* -EPIPE; the caller asks no more. */
	assert(received == sent);
end:	skip
}

proctype other()
{
	if
	:: GONE(OTHER) ->
		acquire(OTHER);
		channel_end(OTHER, EPIPE);
		/* evering_peer() */
		assert(LOAD(OTHER, CLOSED) == polite)
	:: LOAD(OTHER, STATE) != NEW ->
		acquire(OTHER);
		assert(LOAD(OTHER, EPOCH))
	:: true -> channel_end(OTHER, EPROTO)
	:: true
	fi
}

init {
	atomic {
		run goer();
		run receiver();
		run other();
		run cpu(GOER);
		run cpu(RECEIVER);
		run cpu(OTHER)
	}
}
