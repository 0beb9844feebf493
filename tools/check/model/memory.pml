/* SPDX-License-Identifier: MIT */
/*
 * memory.pml: two machines for the models to run on: -DTSO or -DWEAK.
 *
 * A model defines how many THREADS it has, how many WORDS of shared memory (bytes, all
 * zero at first), and which words a thread loads, READS(t, w).  It runs cpu(t) for each
 * thread.
 *
 * TSO is x86 as in Sewell, Sarkar, Owens, Zappa Nardelli and Myreen, "x86-TSO" (CACM
 * 53(7), 2010): a FIFO of stores for each thread, from which its own loads are
 * forwarded.  A fence waits until the FIFO has drained, and so does a locked
 * instruction.  On TSO, release and acquire change nothing.
 *
 * WEAK is a machine that reorders stores with stores and loads with loads as well, as
 * McKenney's "Memory Barriers: a Hardware View for Software Hackers" (2010) describes
 * it and the models of userspace RCU run on one (Desnoyers, McKenney, Dagenais,
 * "Multi-core systems modeling for formal verification of parallel algorithms", ACM OSR
 * 47(2), 2013).  Each thread has a cache of its own.  A store changes the cache, and
 * gets to memory at any later time, in no order.  A load reads the cache, which may be
 * arbitrarily old: each word in it is updated at any time, in no order.  Release first
 * writes back all earlier stores, acquire afterwards updates the whole cache, a full
 * fence does both.  A read-modify-write acts on memory itself, and orders nothing else
 * unless stated.  Each word is coherent.
 *
 * WEAK does not let a store pass an earlier load.  The protocol does not depend on
 * that: its stores after loads are release stores, or follow a branch on the load.
 */
#define AT(t, w) ((t)*WORDS + (w))
#define WORDS_ALL \
	WORD(0) WORD_1 WORD_2 WORD_3 WORD_4 WORD_5 WORD_6 WORD_7 WORD_8

#if WORDS > 1
#define WORD_1		WORD(1)
#else
#define WORD_1
#endif
#if WORDS > 2
#define WORD_2		WORD(2)
#else
#define WORD_2
#endif
#if WORDS > 3
#define WORD_3		WORD(3)
#else
#define WORD_3
#endif
#if WORDS > 4
#define WORD_4		WORD(4)
#else
#define WORD_4
#endif
#if WORDS > 5
#define WORD_5		WORD(5)
#else
#define WORD_5
#endif
#if WORDS > 6
#define WORD_6		WORD(6)
#else
#define WORD_6
#endif
#if WORDS > 7
#define WORD_7		WORD(7)
#else
#define WORD_7
#endif
#if WORDS > 8
#define WORD_8		WORD(8)
#else
#define WORD_8
#endif
#if WORDS > 9
#error "one WORD_ for each"
#endif

byte memory[WORDS];

#ifdef TSO

#define DEPTH	3	/* stores that a buffer holds; with more, a thread waits */

chan buffer[THREADS] = [DEPTH] of { byte, byte };
byte own[THREADS * WORDS];	/* the newest in the buffer, for forwarding */
byte queued[THREADS * WORDS];	/* how many there are */

#define LOAD(t, w) (queued[AT(t, w)]->own[AT(t, w)] : memory[w])
#define DRAINED(t)	empty(buffer[t])

inline store(t, w, v)
{
	atomic
	{
		nfull(buffer[t]);
		own[AT(t, w)] = v;
		queued[AT(t, w)]++;
		buffer[t] !w, own[AT(t, w)];
	}
}

#define store_release(t, w, v)	store(t, w, v)
#define acquire(t)		skip
#define release(t)		skip
#define fence(t)		DRAINED(t)

/* What comes before and after a read-modify-write in its atomic step. */
#define LOCKED(t, w)		DRAINED(t)
#define UNLOCKED(t, w)		skip

proctype cpu(byte t)
{
	byte w, v;

end:
	do
		::atomic
		{
			buffer[t] ? w, v;
			memory[w] = v;
			queued[AT(t, w)]--;
			if
				::queued[AT(t, w)] ==
					0->own[AT(t, w)] = 0 ::else fi;
			w = 0;
			v = 0
		}
	od
}

#else /* WEAK */

byte cache[THREADS * WORDS];
bit dirty[THREADS * WORDS];

#define LOAD(t, w)	cache[AT(t, w)]

inline store(t, w, v)
{
	d_step
	{
		cache[AT(t, w)] = v;
		dirty[AT(t, w)] = 1
	}
}

#define WRITE_BACK(t, w) \
	if \
		::dirty[AT(t, w)]->memory[w] = cache[AT(t, w)]; \
	dirty[AT(t, w)] = 0; \
	cache[AT(t, w)] = (READS(t, w)->memory[w] : 0)::else fi;
#define BRING_UP(t, w) \
	if \
		::READS(t, w) && !dirty[AT(t, w)]->cache[AT(t, w)] = \
			memory[w] ::else fi;

inline release(t)
{
	d_step
	{
#define WORD(w)	WRITE_BACK(t, w)
		WORDS_ALL
#undef WORD
		skip
	}
}

inline acquire(t)
{
	d_step
	{
#define WORD(w)	BRING_UP(t, w)
		WORDS_ALL
#undef WORD
		skip
	}
}

inline fence(t)
{
	atomic {
		release(t);
		acquire(t)
	}
}

inline store_release(t, w, v)
{
	atomic {
		release(t);
		store(t, w, v)
	}
}

#define LOCKED(t, w) \
	if \
		::dirty[AT(t, w)]->memory[w] = cache[AT(t, w)]; \
	dirty[AT(t, w)] = 0 ::else fi
/* A word that the thread does not load stays 0 and has no meaning. */
#define UNLOCKED(t, w) cache[AT(t, w)] = (READS(t, w)->memory[w] : 0)

#define WORD(w) \
	::atomic \
	{ \
		dirty[AT(t, w)]; \
		memory[w] = cache[AT(t, w)]; \
		dirty[AT(t, w)] = 0; \
		cache[AT(t, w)] = (READS(t, w)->memory[w] : 0) \
	} \
	::atomic \
	{ \
		READS(t, w) && !dirty[AT(t, w)] && \
			cache[AT(t, w)] != memory[w]; \
		cache[AT(t, w)] = memory[w] \
	}

proctype cpu(byte t)
{
end:
	do
		WORDS_ALL
	od
}
#undef WORD

#endif
