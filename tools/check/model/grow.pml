/* SPDX-License-Identifier: MIT */
/*
 * grow: an arena gets its memory as it is used, and no process dies for lack of it.
 *
 * One arena of MOST pages with memfd, its owner and the peer, on the memory of
 * memory.pml (-DTSO, -DWEAK).  ring.pml proves that a ring keeps its entries.  Here the
 * owner sends one entry after the other, each when the peer has finished with the last.
 *
 *	owner		arena_grow(), memfd_grow(), publish_grown(), and then an entry
 *			that names a page.  A growth may be refused, halfway as well:
 *			then some pages have memory that nobody is told of.  It may
 *			die between any two steps.
 *	peer		peer_arena_grown(), memfd_grown(), memfd_see(), and then it reads
 *			the page.  To see may fail for want of memory, and be tried again.
 *
 * -DHOSTILE: the owner states that the arena has grown to any place, also back and
 * beyond the arena, and names any page, with memory or without.
 *
 * A page that the peer populates stays, because the seals let no process take it away.
 * A page that had no memory gets it then, and the peer pays for it.
 *
 * Proved: the peer reads no page that it has not populated, and populates none beyond
 * the arena, nor more than AHEAD pages beyond the one that it needs.  With an honest
 * owner it never returns -EPROTO, and never pays for a page.  What is seen never gets
 * less.  Everything continues until the owner has died or the peer has returned
 * -EPROTO.
 *
 * Each of these must fail:
 *	TELL_FIRST	memfd_grow() publishes before it has populated
 *	TELL_REFUSED	memfd_grow() publishes though populate() has failed
 *	ENTRY_FIRST	the entry is stamped before @grown is published
 *	LOOK_FIRST	the peer reads before memfd_see()
 *	NO_NEED		peer_arena_grown() does not compare @mark with @need (HOSTILE)
 *	NO_MOST		nor with @most (HOSTILE)
 *	NO_AHEAD	all that the owner claims is populated (HOSTILE)
 */
#define MOST		3
#define AHEAD		1
#define ENTRIES		3

#define OWNER		0
#define PEER		1
#define THREADS		2

#define GROWN		0	/* by the owner: evering_half.grown, in pages */
#define PAGE		1	/* by the owner: what the entry names */
#define STAMP		2	/* by the owner */
#define DONE		3	/* by the peer */
#define WORDS		4
#define READS(t, w) \
	(((t) == PEER && (w) != DONE) || ((t) == OWNER && (w) == DONE))

#include "memory.pml"

bit has[MOST + 2];	/* a page has memory */
bit sees[MOST + 2];	/* the peer has populated it */
bit over;		/* the owner has died, or the peer has said -EPROTO */

inline tell(n)
{
	store_release(OWNER, GROWN, n)
}

inline stamp()
{
	store(OWNER, PAGE, page);
	store_release(OWNER, STAMP, sent + 1)
}

/* memfd_grow(), from @there to @to. */
inline grow(to)
{
#ifdef TELL_FIRST
	tell(to);
#endif
#ifdef ENTRY_FIRST
	page = to - 1;
	stamp();
#endif
	n = there;
	do
	:: n < to -> atomic { has[n] = 1; n++ }
	:: n < to -> break /* refused */
	:: n == to -> break
	:: goto dead
	od;
#ifdef TELL_REFUSED
	tell(to);
	there = to;
#else
	if
	:: n == to ->
#ifndef TELL_FIRST
		tell(to);
#endif
		there = to
	:: else
	fi;
#endif
	n = 0
}

proctype owner()
{
	byte there, sent, page, n;

	do
	:: sent == ENTRIES -> break
	:: sent < ENTRIES && LOAD(OWNER, DONE) == sent ->
		acquire(OWNER);
#ifdef HOSTILE
		if
		:: tell(0)
		:: tell(1)
		:: tell(MOST)
		:: tell(MOST + 2)
		:: skip
		fi;
		if
		:: page = 0
		:: page = 1
		:: page = MOST - 1
		fi;
		stamp();
		sent++
#else
		if
		:: there < MOST -> grow(there + 1)
		:: there + 2 <= MOST -> grow(there + 2)
		:: there > 0
		fi;
		if
		:: there > 0 ->
			if
			:: page = there - 1
			:: page = 0
			fi;
			stamp();
			sent++
		:: else
		fi
#endif
	:: over -> break
	:: break /* it dies */
	od;
dead:	over = 1
}

/* Why peer_arena_grown() says -EPROTO. */
#ifdef NO_MOST
#define BEYOND(mark)	false
#else
#define BEYOND(mark)	((mark) > MOST)
#endif
#define BACK(mark)	((mark) < seen) /* less than @need, too */
#ifdef NO_NEED
#define SHORT(mark)	false
#else
#define SHORT(mark)	((mark) < page + 1)
#endif

/* memfd_see(), page by page: what a hostile owner has not populated is a hole. */
inline populate()
{
	atomic {
		assert(n < MOST);
#ifndef HOSTILE
		assert(has[n]);
#endif
		has[n] = 1;
		sees[n] = 1;
		n++
	}
}

inline look()
{
	assert(page < MOST && sees[page])
}

proctype peer()
{
	byte taken, seen, mark, page, to, n;

go:	if
	:: taken < ENTRIES && LOAD(PEER, STAMP) == taken + 1 -> acquire(PEER)
	:: over && LOAD(PEER, STAMP) == taken -> goto end
	:: taken == ENTRIES -> goto end
	fi;
	page = LOAD(PEER, PAGE);
#ifdef LOOK_FIRST
	look();
#endif
see:	if
	:: page + 1 <= seen
	:: else ->
		atomic { mark = LOAD(PEER, GROWN); acquire(PEER) }
		if
		:: BEYOND(mark) || BACK(mark) || SHORT(mark) ->
#ifndef HOSTILE
			assert(false);
#endif
			goto proto
		:: else
		fi;
		to = mark;
#ifndef NO_AHEAD
		if
		:: to > page + 1 + AHEAD -> to = page + 1 + AHEAD
		:: else
		fi;
#endif
		assert(to <= page + 1 + AHEAD);
		n = seen;
		do
		:: n < to -> populate()
		:: n < to -> n = 0; goto see /* -ENOMEM, and tried again */
		:: n >= to -> break
		od;
		n = 0;
		assert(to >= seen);
		seen = to
	fi;
	look();
	taken++;
	store_release(PEER, DONE, taken);
	goto go;
proto:	over = 1;
end:	skip
}

init {
	atomic {
		run cpu(OWNER);
		run cpu(PEER);
		run owner();
		run peer()
	}
}
