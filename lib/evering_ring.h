/* SPDX-License-Identifier: MIT */
/*
 * evering_ring.h: the fast path, inlined into its callers.
 *
 * What is here runs once for every message: reserve, commit and flush on the
 * sending side, peek and release on the receiving side, and the copying calls
 * made of them.  Whatever happens less often (credit, publishing, waking,
 * sleeping) is a call into the library.  Include <evering.h>, not this file.
 *
 * The protocol
 * ------------
 * Producer, for entry n:				Consumer, for entry n:
 *
 *	credit: n - released < entries	 [C]		stamp == n + 1 (acquire)   [A]
 *	write the entry					read the entry
 *	stamp = n + 1 (release)		 [A]		begun = n + 1, then act	   [B]
 *							released = n + 1 (release) [C]
 *
 * [A] Without release and acquire the consumer could see the stamp and read the
 *     entry that was in the slot a lap ago.
 * [B] For who outlives the consumer: see evering__begin(), and evering_fate().
 * [C] Without release and acquire the producer could overwrite an entry that is
 *     still being read.  released is published seldom: see evering_release().
 *
 * Sleeping, the consumer waiting for entries (for a producer waiting for space
 * read "released" for "stamp" and armed_tx for armed_rx):
 *
 *	Producer: commit, flush				Consumer: arm
 *
 *	stamp = n + 1				armed_rx = generation | ARMED
 *	full fence			 [D]	full fence			 [D]
 *	load the peer's armed_rx		load the stamp of entry n
 *	armed, and this generation not		not there: sleep until rung
 *	rung yet: ring
 *
 * [D] This is the store-buffer litmus test.  With both fences at least one of the
 *     two loads sees the other side's store: either the consumer finds the entry
 *     and does not sleep, or the producer finds it armed and rings.  Without
 *     either fence both may read the old value, and the consumer sleeps on an
 *     entry for ever.  x86 does this too.  The two halves are
 *     evering_full_fence() in evering__flush(), evering_flush(), evering__publish()
 *     and publish_awake() (looking for a sleeper) and in evering__arm() (about to be
 *     one); there is no fence anywhere else.
 *
 * Tried, and lost
 * ---------------
 * Each change alone, both sides spinning, by turns with what is here; medians of the
 * ratios for one way of 16 bytes, one way of 64, and there and back with 64.  What is
 * here, once more, came to -, 1.03 and 1.02: less than that is nothing.  (Two virtual
 * CPUs of an AMD EPYC.  To try another: change it, and `evering bench
 * --modes=rtt,stream --sizes=16,64 --wait=busy` twice, with --output and --against.)
 *
 *	the stamp first in its slot			0.90	1.00	1.06
 *	prefetch for writing, 1 or 4 entries ahead	1.07	1.01	1.04
 *	  8 entries ahead				1.05	1.00	1.01
 *	prefetch for reading, 4 entries ahead		0.92	1.00	1.03
 *	send_bulk stamps a cache line from its end	1.04	-	-
 *	released every half ring, not quarter		1.16	1.02	1.03
 *	  every eighth					1.16	1.25	1.00
 *	spinning without a pause			1.05	1.27	1.23
 *	a flush for each message, not 16		1.61	1.27	1.03
 *	  for each 64					0.99	0.95	0.98
 *	cldemote (not in this CPU: a nop)		-	1.29	1.01
 *
 * The stamp is last because a payload at offset 0 is aligned, and whoever writes
 * and reads in ascending order is done with the slot when it is done with the stamp.
 * For 64-byte slots the line is the same.  A receiver that spins in its own code,
 * instead of in evering_wait(), has its answer in 0.9 of the time; that is for who
 * looks with evering_peek() anyway.
 *
 * Payload is copied by its owner, if at all: with evering_copy(), or else with what is
 * ordered before the stamp, which non-temporal stores are not (of 3 million entries
 * 6,708 came before a payload that was written so, without sfence).  Into an arena that
 * the peer reads next such stores took 0.35 of glibc 2.36's memcpy() for 64 KiB, 0.41 for 1 MiB
 * and 0.93 for 4 MiB; huge pages 0.99, 0.97 and 1.12.  Pages mapped beforehand:
 * EVERING_POPULATE.
 */
#ifndef EVERING_RING_H
#define EVERING_RING_H

#ifndef EVERING_H
#error "include <evering.h>"
#endif

/*
 * Private state of an endpoint's two directions.  It is in this header so that the
 * fast path can be inlined; do not access the members.  The two structs lie 128
 * bytes apart because two threads may use them.
 */
struct evering_tx {
	unsigned char *slots;	/* slot 0, in the own half */
	const uint32_t *armed;	/* peer's armed_rx: its word, read-only here */
	uint32_t next;		/* number of the next entry to commit */
	uint32_t limit;		/* first entry number without credit */
	uint32_t mask;		/* entries - 1 */
	uint32_t shift;		/* log2 of the slot size */
	uint32_t payload;	/* bytes of an entry: slot size - stamp */
	uint32_t rung;		/* value of *armed that was rung last */
	unsigned char reserved[128 - 2 * sizeof(void *) - 6 * 4];
};

struct evering_rx {
	const unsigned char *slots; /* slot 0, in the peer's half */
	const uint32_t *armed;	/* peer's armed_tx */
	uint32_t next;		/* number of the next entry to release */
	uint32_t publish_at;	/* when next gets here, publish released */
	uint32_t mask;
	uint32_t shift;
	uint32_t payload;
	uint32_t rung;
	uint32_t *begun;	/* the own word */
	uint32_t ahead;		/* evering_look_ahead() */
	unsigned char reserved[128 - 3 * sizeof(void *) - 7 * 4];
};

struct evering {
	struct evering_tx tx __attribute__((aligned(128)));
	struct evering_rx rx __attribute__((aligned(128)));
};

/*
 * Words in shared memory.  The peer may change them at any time, so each is loaded
 * once, into a local, and only the local is used.
 */
static inline uint32_t evering_load_relaxed(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint32_t evering_load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void evering_store_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

#if defined(__SANITIZE_THREAD__)
#define EVERING__TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EVERING__TSAN
#endif
#endif

/*
 * [D] The only full fence: who calls it, and why, is told above.  On x86 a locked
 * instruction on a line that is there anyway, as in the kernel's smp_mb(): some
 * compilers make it mfence, which takes twice as long (49 and 21 cycles in
 * tools/speed's machine) to order also what nobody here needs.
 */
static inline void evering_full_fence(void)
{
#if defined(EVERING__TSAN)
#if defined(__GNUC__) && __GNUC__ >= 11 && !defined(__clang__)
/* gcc's knows no fences, says so at each, and needs none of these. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#if defined(__GNUC__) && __GNUC__ >= 11 && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#elif defined(__x86_64__)
	__asm__ __volatile__("lock addl $0,-4(%%rsp)" ::: "memory", "cc");
#elif defined(__i386__)
	__asm__ __volatile__("lock addl $0,-4(%%esp)" ::: "memory", "cc");
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/*
 * Is there no room for entry @n + @k?  @k is far below 2^31.
 *
 * The limit of a channel that has ended, perhaps by another thread, lies at an entry
 * that was the next one then, or is: nowhere ahead of @n.
 */
static inline int evering__full(const struct evering_tx *tx, uint32_t n,
				uint32_t k)
{
#ifdef EVERING__TSAN
	uint32_t limit = evering_load_relaxed(&tx->limit);
#else
	uint32_t limit = tx->limit; /* which compilers compare in memory */
#endif

	return (int32_t)(n + k - limit) >= 0;
}

#define EVERING_LIKELY(x)	__builtin_expect(!!(x), 1)
#define EVERING_UNLIKELY(x)	__builtin_expect(!!(x), 0)

/*
 * Off the fast path, in the library.  For the functions below alone.  Those that
 * return an int return 0 or what their caller is to return, so that the calls can
 * be tail calls and the fast path a leaf.
 */
EVERING_API uint32_t evering__credit(struct evering *ev);
EVERING_API int evering__publish(struct evering *ev);
EVERING_API int evering__ring(struct evering *ev, uint32_t armed);
EVERING_API int evering__ring_owed(struct evering *ev, uint32_t armed);
EVERING_API int evering__send_wait(struct evering *ev, const void *entry,
				   size_t len, int64_t timeout_ns);
EVERING_API int evering__recv_wait(struct evering *ev, void *entry, size_t len,
				   int64_t timeout_ns);
EVERING_API int evering__wait_space(struct evering *ev, int64_t timeout_ns);
EVERING_API int evering__wait_entry(struct evering *ev, int64_t timeout_ns);

static inline unsigned char *evering__tx_slot(const struct evering_tx *tx,
					      uint32_t n)
{
	return tx->slots + ((size_t)(n & tx->mask) << tx->shift);
}

static inline const unsigned char *evering__rx_slot(const struct evering_rx *rx,
						    uint32_t n)
{
	return rx->slots + ((size_t)(n & rx->mask) << rx->shift);
}

/* Nothing may be copied from nowhere, or to it. */
static inline void evering__copy(void *to, const void *from, size_t len)
{
	if (len)
		memcpy(to, from, len);
}

/* Publishes entry @n, the next one, which lies in @slot. */
static inline void evering__stamp(struct evering_tx *tx, unsigned char *slot,
				  uint32_t n)
{
	uint32_t stamp = n + 1;

	__atomic_store_n(&tx->next, stamp, __ATOMIC_RELAXED);
	evering_store_release((uint32_t *)(slot + tx->payload),
			      stamp); /* [A] */
}

/* As evering_flush(), but that EVERING_LAZY_RING leaves the ring owed; returns 0. */
static inline int evering__flush(struct evering *ev)
{
	uint32_t armed;

	evering_full_fence(); /* [D] */
	armed = evering_load_relaxed(ev->tx.armed);
	if (EVERING_UNLIKELY(armed & EVERING_ARMED))
		return evering__ring_owed(ev, armed);
	return 0;
}

/*
 * Takes up all entries before @n, of which the last one is there.  If this process is
 * killed the peer will know that they may have been acted on, and that no later one was.
 *
 * [B] The store comes before whatever is done with the entry, in the order of the program.
 *     A process is killed between two instructions, and all that it has stored before
 *     is seen by whoever learns that it is gone: so it is the compiler alone that has to
 *     keep the order.
 */
static inline void evering__begin(struct evering_rx *rx, uint32_t n)
{
	__atomic_store_n(rx->begun, n, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* [B] */
}

/* Is done with all entries before @n; returns 0. */
static inline int evering__released(struct evering *ev, uint32_t n)
{
	struct evering_rx *rx = &ev->rx;

	/* [C] The sending thread may be the one to publish it. */
	evering_store_release(&rx->next, n);
	/* Without a fence: a sleeper missed here is seen when publishing. */
	if (EVERING_UNLIKELY((int32_t)(n - rx->publish_at) >= 0) ||
	    EVERING_UNLIKELY(evering_load_relaxed(rx->armed) & EVERING_ARMED))
		return evering__publish(ev);
	return 0;
}

/**
 * evering_payload - bytes of an entry
 * @ev: endpoint
 *
 * The slot size less EVERING_STAMP_SIZE.  Any thread.
 */
static inline size_t evering_payload(const struct evering *ev)
{
	return ev->tx.payload;
}

/**
 * evering_reserve_at - find room for one of the next entries
 * @ev: endpoint
 * @k: how many entries after the next one, from 0
 *
 * Returns the place of that entry, evering_payload() bytes aligned to the lesser
 * of the slot size and 64, in memory that the peer reads; NULL if the ring is
 * too full for it, or if the channel has ended (evering_wait() tells which).  The
 * place is the caller's until committed; reserving again returns it again, so
 * there is nothing to give back.  It holds what an entry of an earlier lap left.
 * Sending thread.
 */
static inline void *evering_reserve_at(struct evering *ev, uint32_t k)
{
	struct evering_tx *tx = &ev->tx;

	if (EVERING_UNLIKELY(k > tx->mask) ||
	    (EVERING_UNLIKELY(evering__full(tx, tx->next, k)) &&
	     evering__credit(ev) <= k))
		return NULL;
	return evering__tx_slot(tx, tx->next + k);
}

/**
 * evering_reserve - find room for the next entry
 * @ev: endpoint
 *
 * evering_reserve_at(ev, 0).  Sending thread.
 */
static inline void *evering_reserve(struct evering *ev)
{
	return evering_reserve_at(ev, 0);
}

/**
 * evering_room - how many entries there is room for
 * @ev: endpoint
 *
 * All but so many of the ring's entries were sent and are not released yet, as far as the
 * peer has told.  Reads the peer's word, whose line it takes from it.
 *
 * Returns 0..entries; 0 also if the channel has ended.  Sending thread.
 */
static inline uint32_t evering_room(struct evering *ev)
{
	return evering__credit(ev);
}

/**
 * evering_commit - publish the entry that was reserved
 * @ev: endpoint
 *
 * The peer sees it at once if it is looking, and is not woken if it sleeps: that
 * takes an evering_flush() after the last commit of a batch.  Commit without a
 * reserve that succeeded is a bug of the caller.  Sending thread.
 */
static inline void evering_commit(struct evering *ev)
{
	struct evering_tx *tx = &ev->tx;

	evering__stamp(tx, evering__tx_slot(tx, tx->next), tx->next);
}

/**
 * evering_commit_many - publish several entries, in order
 * @ev: endpoint
 * @count: how many; each was reserved with evering_reserve_at()
 *
 * Like evering_commit().  Sending thread.
 */
static inline void evering_commit_many(struct evering *ev, uint32_t count)
{
	while (count--)
		evering_commit(ev);
}

/**
 * evering_flush - wake the peer if it sleeps waiting for entries
 * @ev: endpoint
 *
 * Due after the last commit of a batch, and before waiting for an answer.  A full
 * fence and a load if the peer is awake; else a system call, once each time it
 * sleeps, under EVERING_LAZY_RING too.  Sending thread.
 */
static inline void evering_flush(struct evering *ev)
{
	uint32_t armed;

	evering_full_fence(); /* [D] */
	armed = evering_load_relaxed(ev->tx.armed);
	if (EVERING_UNLIKELY(armed & EVERING_ARMED))
		evering__ring(ev, armed);
}

/**
 * evering_send - send one entry
 * @ev: endpoint
 * @entry: what to send; copied
 * @len: its bytes, 0..evering_payload(); the rest of the slot is left as it is
 * @timeout_ns: how long to wait for room, in nanoseconds; EVERING_NOWAIT not at
 *	all, EVERING_WAIT_FOREVER without end
 *
 * Reserve, copy, commit and flush.  Waits as the endpoint's policy says; under
 * EVERING_LAZY_RING the flush is left to the next wait.  A success says that the entry is in the ring, not that anybody received it.
 *
 * Returns 0; -EMSGSIZE: @len is too long; or as evering_wait(ev, EVERING_TX, …):
 * -EAGAIN or -ETIMEDOUT: no room; -EPIPE: the peer is gone; -EPROTO: it broke the
 * rules; -EINTR: a signal.  Nothing was sent on error.  Sending thread.
 */
static inline int evering_send(struct evering *ev, const void *entry,
			       size_t len, int64_t timeout_ns)
{
	struct evering_tx *tx = &ev->tx;
	uint32_t n = tx->next;
	unsigned char *slot;

	if (EVERING_UNLIKELY(len > tx->payload))
		return -EMSGSIZE;
	if (EVERING_UNLIKELY(evering__full(tx, n, 0)))
		return evering__send_wait(ev, entry, len, timeout_ns);
	slot = evering__tx_slot(tx, n);
	evering__copy(slot, entry, len);
	evering__stamp(tx, slot, n);
	return evering__flush(ev);
}

/**
 * evering_send_bulk - send several entries, waking the peer once
 * @ev: endpoint
 * @entries: an array of entries of @len bytes each
 * @len: bytes of an entry, 0..evering_payload()
 * @count: how many, 1..INT_MAX
 * @timeout_ns: how long to wait for room for the first of them
 *
 * Returns how many were sent, in order from the first: at least one, and fewer
 * than @count if the ring filled up; or a negative errno as evering_send().
 * Sending thread.
 */
static inline int evering_send_bulk(struct evering *ev, const void *entries,
				    size_t len, unsigned int count,
				    int64_t timeout_ns)
{
	const unsigned char *entry = (const unsigned char *)entries;
	unsigned int i;
	void *slot;
	int ret;

	if (EVERING_UNLIKELY(len > ev->tx.payload))
		return -EMSGSIZE;
	if (EVERING_UNLIKELY(count - 1 >= 0x7fffffffu))
		return -EINVAL;
	while (EVERING_UNLIKELY(!evering_reserve(ev))) {
		ret = evering__wait_space(ev, timeout_ns);
		if (ret < 0)
			return ret;
	}
	for (i = 0; i < count; i++) {
		slot = evering_reserve(ev);
		if (!slot)
			break;
		evering__copy(slot, entry + i * len, len);
		evering_commit(ev);
	}
	evering__flush(ev);
	return (int)i;
}

/**
 * evering_peek_at - look at one of the next entries
 * @ev: endpoint
 * @k: how many entries after the next one, 0..entries - 1
 *
 * Returns the entry, evering_payload() bytes in memory that the peer can still
 * write: if the peer is not trusted copy what is to be checked, check the copy
 * and use the copy.  NULL if it is not there yet, which says nothing about the
 * peer: evering_wait() does.  Stays until released.  Receiving thread.
 */
static inline const void *evering_peek_at(struct evering *ev, uint32_t k)
{
	const struct evering_rx *rx = &ev->rx;
	uint32_t n = rx->next + k;
	const unsigned char *slot = evering__rx_slot(rx, n);

	if (evering_load_acquire((const uint32_t *)(slot + rx->payload)) !=
	    n + 1) /* [A] */
		return NULL;
	return slot;
}

/**
 * evering_peek - look at the next entry
 * @ev: endpoint
 *
 * evering_peek_at(ev, 0).  Receiving thread.
 */
static inline const void *evering_peek(struct evering *ev)
{
	return evering_peek_at(ev, 0);
}

/**
 * evering_begin - take up the next entries, before they are acted on
 * @ev: endpoint
 * @count: how many, 0..entries; not fewer than were taken up already
 *
 * For who looks with evering_peek() and acts on what it sees before releasing it: should
 * this process die, evering_fate() tells its peer that these may have been acted on, and
 * that no later one was.  Without this call all that were sent may have been.  evering_recv()
 * and tables of operations take up what they take by themselves; who uses both on one
 * endpoint calls this for all that it looks at.  One store.  Receiving thread.
 */
static inline void evering_begin(struct evering *ev, uint32_t count)
{
	evering__begin(&ev->rx, ev->rx.next + count);
}

/**
 * evering_look_ahead - wait for entries behind those that are looked at
 * @ev: endpoint
 * @count: how many of the next entries are no news, 0..entries
 *
 * For who keeps entries in the ring while it waits for more: evering_wait(), evering_arm()
 * and groups then tell of the entry evering_peek_at(ev, @count), and of a peer that is gone
 * when that is not there.  Counted from the next entry that is not released, so
 * evering_release() and evering_recv() are followed by this call with what is left.
 * Receiving thread.
 */
static inline void evering_look_ahead(struct evering *ev, uint32_t count)
{
	ev->rx.ahead = count;
}

/**
 * evering_release_many - be done with the next entries
 * @ev: endpoint
 * @count: how many; each was seen by evering_peek_at()
 *
 * The peer may overwrite them at any time from now on.  It is told at least every
 * quarter ring, at once if it sleeps for want of space, and before this side
 * sleeps in either role.  More often would take the line from a producer that does not need it;
 * less often could leave a producer waiting for space that is there.  Receiving
 * thread.
 */
static inline void evering_release_many(struct evering *ev, uint32_t count)
{
	evering__released(ev, ev->rx.next + count);
}

/**
 * evering_release - be done with the next entry
 * @ev: endpoint
 *
 * evering_release_many(ev, 1).  Receiving thread.
 */
static inline void evering_release(struct evering *ev)
{
	evering_release_many(ev, 1);
}

/**
 * evering_recv - receive one entry
 * @ev: endpoint
 * @entry: where to copy it
 * @len: how much of it, 0..evering_payload()
 * @timeout_ns: how long to wait, in nanoseconds; EVERING_NOWAIT not at all,
 *	EVERING_WAIT_FOREVER without end
 *
 * Peek, copy and release.  Waits as the endpoint's policy says.  Entries that the
 * peer sent before it went can still be received.
 *
 * Returns 0; -EMSGSIZE: @len is longer than an entry; or as
 * evering_wait(ev, EVERING_RX, …): -EAGAIN or -ETIMEDOUT: no entry; -EPIPE: none,
 * and the peer is gone; -EPROTO: the peer broke the rules; -EINTR: a signal.
 * Receiving thread.
 */
static inline int evering_recv(struct evering *ev, void *entry, size_t len,
			       int64_t timeout_ns)
{
	struct evering_rx *rx = &ev->rx;
	uint32_t payload = rx->payload;
	uint32_t n = rx->next;
	const unsigned char *slot = evering__rx_slot(rx, n);

	if (EVERING_UNLIKELY(len > payload))
		return -EMSGSIZE;
	if (EVERING_UNLIKELY(
		    evering_load_acquire((const uint32_t *)(slot + payload)) !=
		    n + 1)) /* [A] */
		return evering__recv_wait(ev, entry, len, timeout_ns);
	evering__copy(entry, slot, len);
	evering__begin(rx, n + 1);
	return evering__released(ev, n + 1);
}

/**
 * evering_recv_bulk - receive what is there
 * @ev: endpoint
 * @entries: an array with room for @count entries of @len bytes
 * @len: bytes to copy of each, 0..evering_payload()
 * @count: how many at the most, 1..INT_MAX
 * @timeout_ns: how long to wait for the first of them
 *
 * Returns how many were received, at least one; or a negative errno as
 * evering_recv().  Receiving thread.
 */
static inline int evering_recv_bulk(struct evering *ev, void *entries,
				    size_t len, unsigned int count,
				    int64_t timeout_ns)
{
	unsigned char *entry = (unsigned char *)entries;
	const void *slot;
	unsigned int i;
	int ret;

	if (EVERING_UNLIKELY(len > ev->rx.payload))
		return -EMSGSIZE;
	if (EVERING_UNLIKELY(count - 1 >= 0x7fffffffu))
		return -EINVAL;
	while (EVERING_UNLIKELY(!(slot = evering_peek(ev)))) {
		ret = evering__wait_entry(ev, timeout_ns);
		if (ret < 0)
			return ret;
	}
	/* It was seen once, and a hostile peer need not show it twice. */
	for (i = 0; slot; slot = i < count ? evering_peek(ev) : NULL) {
		evering__copy(entry + i++ * len, slot, len);
		evering_begin(ev, 1);
		evering_release(ev);
	}
	return (int)i;
}

#endif /* EVERING_RING_H */
