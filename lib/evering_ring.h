/* SPDX-License-Identifier: MIT */
/*
 * evering_ring.h: the fast path, inlined into its callers.
 *
 * The functions here run once for every entry: reserve, commit and flush on the sending
 * side, peek and release on the receiving side, and the copying calls made of them.
 * Everything that happens less often (credit, publishing, waking, sleeping) is a call
 * into the library.  Include <evering.h>, not this file.
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
 * [B] If the consumer dies, the producer learns from begun what it may have acted on:
 *     see evering__begin() and evering_fate().
 * [C] Without release and acquire the producer could overwrite an entry that is still
 *     being read.  The consumer publishes released seldom: see evering_release().
 *
 * How a consumer sleeps until there are entries.  (For a producer that waits for room,
 * read "released" for "stamp" and "armed_tx" for "armed_rx".)
 *
 *	Producer: commit, flush				Consumer: arm
 *
 *	stamp = n + 1				armed_rx = generation | ARMED
 *	full fence			 [D]	full fence			 [D]
 *	load the peer's armed_rx		load the stamp of entry n
 *	armed, and this generation not		not there: sleep until rung
 *	rung yet: ring
 *
 * [D] This is the store-buffer litmus test.  With both fences, at least one of the two
 *     loads sees the other side's store: either the consumer finds the entry and does
 *     not sleep, or the producer finds it armed and rings the doorbell.  If one fence
 *     is missing, both loads may read the old value, and the consumer sleeps for ever
 *     although there is an entry.  x86 does this too.  One half is evering_full_fence()
 *     in evering__flush(), evering_flush(), evering__publish() and publish_awake(),
 *     which look for a sleeper.  The other half is in evering__arm(), which is about to
 *     sleep.  There is no other full fence.
 *
 * Tried, and rejected
 * -------------------
 * Each change was measured alone against the code here, in alternating runs, with both
 * sides spinning.  The columns are medians of the ratio of times: one way with 16 bytes,
 * one way with 64 bytes, and a round trip with 64 bytes; a ratio above 1 is slower.
 * The code here against itself gave -, 1.03 and 1.02, so a smaller difference means
 * nothing.  (Two virtual CPUs of an AMD EPYC.  To try another change: make it, and run
 * `evering bench --modes=rtt,stream --sizes=16,64 --wait=busy` twice, with --output and
 * --against.)
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
 * The stamp is last because a payload at offset 0 is aligned, and a side that writes or
 * reads in ascending order has finished with the slot when it reaches the stamp.  In
 * 64-byte slots both are on one line.  A receiver that spins in its own code, instead
 * of in evering_wait(), has its answer in 0.9 of the time.  Callers that look with
 * evering_peek() anyway can do so.
 *
 * If payload is copied, its owner does that: with evering_copy(), or with stores that
 * are ordered before the stamp.  Non-temporal stores are not: without sfence, 6,708 of
 * 3 million entries arrived before their payload.  Into an arena that the peer reads
 * next, such stores took 0.35 of the time of glibc 2.36's memcpy() for 64 KiB, 0.41 for
 * 1 MiB and 0.93 for 4 MiB.  Huge pages took 0.99, 0.97 and 1.12.  EVERING_POPULATE
 * maps pages beforehand.
 */
#ifndef EVERING_RING_H
#define EVERING_RING_H

#ifndef EVERING_H
#error "include <evering.h>"
#endif

/*
 * The private state of an endpoint's two directions.  It is in this header so that the
 * fast path can be inlined; callers do not access the members.  The two structs lie 128
 * bytes apart because two threads may use them at the same time.
 */
struct evering_tx {
	unsigned char *slots;	/* slot 0, in this side's half */
	const uint32_t *armed;	/* the peer's armed_rx, read-only here */
	uint32_t next;		/* number of the next entry to commit */
	uint32_t limit;		/* first entry number without credit */
	uint32_t mask;		/* entries - 1 */
	uint32_t shift;		/* log2 of the slot size */
	uint32_t payload;	/* bytes of an entry: slot size - stamp */
	uint32_t rung;		/* the value of *armed for which the doorbell was rung last */
	unsigned char reserved[128 - 2 * sizeof(void *) - 6 * 4];
};

struct evering_rx {
	const unsigned char *slots; /* slot 0, in the peer's half */
	const uint32_t *armed;	/* the peer's armed_tx */
	uint32_t next;		/* number of the next entry to release */
	uint32_t publish_at;	/* publish released when next reaches this */
	uint32_t mask;
	uint32_t shift;
	uint32_t payload;
	uint32_t rung;
	uint32_t *begun;	/* this side's word */
	uint32_t ahead;		/* evering_look_ahead() */
	unsigned char reserved[128 - 3 * sizeof(void *) - 7 * 4];
};

struct evering {
	struct evering_tx tx __attribute__((aligned(128)));
	struct evering_rx rx __attribute__((aligned(128)));
};

/*
 * Words in shared memory.  The peer may change them at any time.  So each word is
 * loaded once into a local variable, and only that is used.
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
 * [D] The only full fence; the head of this file describes its callers and their
 * reason.  On x86 it is a locked instruction on a line that is in the cache anyway, as
 * in the kernel's smp_mb().  Some compilers use mfence for a fence, which takes twice
 * as long (49 cycles instead of 21, as tools/bench/speed counted) and also orders accesses
 * that need no order here.
 */
static inline void evering_full_fence(void)
{
#if defined(EVERING__TSAN)
#if defined(__GNUC__) && __GNUC__ >= 11 && !defined(__clang__)
/* gcc's TSan does not support fences and warns at each; it needs none of them. */
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
 * Returns whether there is no room for entry @n + @k, with @k far below 2^31.
 *
 * When a channel has ended, perhaps in another thread, its limit is the number of the
 * entry that was next then.  That is never ahead of @n.
 */
static inline int evering__full(const struct evering_tx *tx, uint32_t n,
				uint32_t k)
{
#ifdef EVERING__TSAN
	uint32_t limit = evering_load_relaxed(&tx->limit);
#else
	uint32_t limit = tx->limit; /* compilers compare it in memory */
#endif

	return (int32_t)(n + k - limit) >= 0;
}

#define EVERING_LIKELY(x)	__builtin_expect(!!(x), 1)
#define EVERING_UNLIKELY(x)	__builtin_expect(!!(x), 0)

/*
 * The slow paths, in the library.  Only the functions below call them.  Those that
 * return an int return what their caller returns, so that they can be tail calls and
 * the fast path can be a leaf function.
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

/* With @len 0, @to and @from may be NULL, which memcpy() does not allow. */
static inline void evering__copy(void *to, const void *from, size_t len)
{
	if (len)
		memcpy(to, from, len);
}

/* Publishes entry @n, the next one, in @slot. */
static inline void evering__stamp(struct evering_tx *tx, unsigned char *slot,
				  uint32_t n)
{
	uint32_t stamp = n + 1;

	__atomic_store_n(&tx->next, stamp, __ATOMIC_RELAXED);
	evering_store_release((uint32_t *)(slot + tx->payload),
			      stamp); /* [A] */
}

/*
 * As evering_flush(), except that EVERING_LAZY_RING leaves the doorbell owed.  Returns
 * 0.
 */
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
 * Takes up all entries before @n; the last of them has arrived.  If this process is
 * killed, its peer knows that these entries may have been acted on, and that no later
 * one was.
 *
 * [B] In program order, the store comes before every use of the entry.  A process is
 *     killed between two instructions, and a peer that learns of its end sees all of
 *     its earlier stores.  So only the compiler has to keep the order.
 */
static inline void evering__begin(struct evering_rx *rx, uint32_t n)
{
	__atomic_store_n(rx->begun, n, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* [B] */
}

/* Releases all entries before @n.  Returns 0. */
static inline int evering__released(struct evering *ev, uint32_t n)
{
	struct evering_rx *rx = &ev->rx;

	/* [C] The sending thread may be the one that publishes it. */
	evering_store_release(&rx->next, n);
	/* No fence: a sleeper that is missed here is seen when publishing. */
	if (EVERING_UNLIKELY((int32_t)(n - rx->publish_at) >= 0) ||
	    EVERING_UNLIKELY(evering_load_relaxed(rx->armed) & EVERING_ARMED))
		return evering__publish(ev);
	return 0;
}

/**
 * evering_payload - get the bytes of an entry
 * @ev: endpoint
 *
 * Context: Any thread.
 * Return: the slot size less EVERING_STAMP_SIZE, in bytes.
 */
static inline size_t evering_payload(const struct evering *ev)
{
	return ev->tx.payload;
}

/**
 * evering_reserve_at - find room for one of the next entries
 * @ev: endpoint
 * @k: how many entries after the next one, 0..entries - 1
 *
 * Context: The sending thread.
 * Return: the place of that entry: evering_payload() bytes, aligned to the lesser of
 * the slot size and 64, in memory that the peer can read; NULL: the ring has no room
 * for it, or the channel has ended (evering_wait() returns which).  The place belongs
 * to the caller until it is committed.  A second call returns the same place, so there
 * is nothing to give back.  It holds what an earlier entry left there.
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
 * Context: The sending thread.
 * Return: as evering_reserve_at(ev, 0).
 */
static inline void *evering_reserve(struct evering *ev)
{
	return evering_reserve_at(ev, 0);
}

/**
 * evering_room - get how many entries there is room for
 * @ev: endpoint
 *
 * The other entries of the ring were sent, and the peer has not published yet that it
 * released them.  This reads a word of the peer's, and so takes a cache line from it.
 *
 * Context: The sending thread.
 * Return: 0..entries; 0 also if the channel has ended.
 */
static inline uint32_t evering_room(struct evering *ev)
{
	return evering__credit(ev);
}

/**
 * evering_commit - publish the entry that was reserved
 * @ev: endpoint
 *
 * A peer that is looking sees the entry at once.  A peer that sleeps is not woken: call
 * evering_flush() after the last commit of a batch.  A commit without a reserve that
 * succeeded is a bug of the caller.
 *
 * Context: The sending thread.
 */
static inline void evering_commit(struct evering *ev)
{
	struct evering_tx *tx = &ev->tx;

	evering__stamp(tx, evering__tx_slot(tx, tx->next), tx->next);
}

/**
 * evering_commit_many - publish several entries, in order
 * @ev: endpoint
 * @count: how many entries; each was reserved with evering_reserve_at()
 *
 * Like evering_commit().
 *
 * Context: The sending thread.
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
 * Call this after the last commit of a batch, and before a wait for an answer.  It
 * costs a full fence and a load if the peer is awake.  If the peer sleeps it costs a
 * system call, once for each time that the peer sleeps, also under EVERING_LAZY_RING.
 *
 * Context: The sending thread.
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
 * @entry: what to send; it is copied
 * @len: bytes of @entry, 0..evering_payload(); the rest of the slot keeps its old
 *	contents
 * @timeout_ns: how long to wait for room, in nanoseconds, EVERING_NOWAIT or
 *	EVERING_WAIT_FOREVER
 *
 * Reserves, copies, commits and flushes.  Waits by the endpoint's policy.  Under
 * EVERING_LAZY_RING the flush is left to the next wait.  Success means that the entry
 * is in the ring, not that the peer has received it.
 *
 * Context: The sending thread.
 * Return: 0; -EMSGSIZE: @len is too long; or as evering_wait(ev, EVERING_TX, …):
 * -EAGAIN, -ETIMEDOUT: no room; -EPIPE: the peer is gone; -EPROTO: it broke the rules;
 * -EINTR: a signal.  After an error, nothing was sent.
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
 * evering_send_bulk - send several entries and wake the peer once
 * @ev: endpoint
 * @entries: an array of entries of @len bytes each
 * @len: bytes of an entry, 0..evering_payload()
 * @count: how many entries, 1..INT_MAX
 * @timeout_ns: how long to wait for room for the first of them, as in evering_send()
 *
 * Context: The sending thread.
 * Return: how many were sent, in order from the first: at least one, and fewer than
 * @count if the ring became full; -EINVAL: @count is invalid; or a negative errno as
 * evering_send().
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
 * Context: The receiving thread.
 * Return: the entry, evering_payload() bytes in memory that the peer can still write,
 * valid until it is released; NULL: it is not there yet.  NULL does not mean that the
 * peer is still there: evering_wait() returns that.  If the peer is not trusted, copy
 * what has to be checked, check the copy, and use the copy.
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
 * Context: The receiving thread.
 * Return: as evering_peek_at(ev, 0).
 */
static inline const void *evering_peek(struct evering *ev)
{
	return evering_peek_at(ev, 0);
}

/**
 * evering_begin - take up the next entries, before they are acted on
 * @ev: endpoint
 * @count: how many, 0..entries; not fewer than were taken up before
 *
 * For a caller that looks with evering_peek() and acts on the entry before it releases
 * it.  If this process dies, its peer learns from evering_fate() that these entries may
 * have been acted on, and that no later one was.  Without this call, any entry that was
 * sent may have been acted on.  evering_recv() and tables of operations take up by
 * themselves what they receive.  A caller that uses evering_peek() as well calls this
 * for everything that it looks at.  It costs one store.
 *
 * Context: The receiving thread.
 */
static inline void evering_begin(struct evering *ev, uint32_t count)
{
	evering__begin(&ev->rx, ev->rx.next + count);
}

/**
 * evering_look_ahead - wait for entries after those that are known
 * @ev: endpoint
 * @count: how many of the next entries are known already, 0..entries
 *
 * For a caller that keeps entries in the ring while it waits for more.  evering_wait(),
 * evering_arm() and groups then wait for the entry evering_peek_at(ev, @count), and
 * report that the peer is gone if that entry is not there.  @count starts at the first
 * entry that is not released.  So after evering_release() and evering_recv(), call this
 * again with the entries that are left.
 *
 * Context: The receiving thread.
 */
static inline void evering_look_ahead(struct evering *ev, uint32_t count)
{
	ev->rx.ahead = count;
}

/**
 * evering_release_many - release the next entries
 * @ev: endpoint
 * @count: how many; evering_peek_at() has returned each of them
 *
 * The peer may overwrite them at any time from now on.  This side publishes its
 * position at least every quarter ring, at once if the peer sleeps for lack of room,
 * and before this side sleeps in either role.  To publish it more often would take the
 * cache line from a producer that does not need the position.  To publish it less often
 * could leave a producer waiting for room that exists.
 *
 * Context: The receiving thread.
 */
static inline void evering_release_many(struct evering *ev, uint32_t count)
{
	evering__released(ev, ev->rx.next + count);
}

/**
 * evering_release - release the next entry
 * @ev: endpoint
 *
 * The same as evering_release_many(ev, 1).
 *
 * Context: The receiving thread.
 */
static inline void evering_release(struct evering *ev)
{
	evering_release_many(ev, 1);
}

/**
 * evering_recv - receive one entry
 * @ev: endpoint
 * @entry: where to copy the entry
 * @len: bytes to copy, 0..evering_payload()
 * @timeout_ns: how long to wait for an entry, in nanoseconds, EVERING_NOWAIT or
 *	EVERING_WAIT_FOREVER
 *
 * Peeks, copies and releases.  Waits by the endpoint's policy.  Entries that the peer
 * sent before it went away can still be received.
 *
 * Context: The receiving thread.
 * Return: 0; -EMSGSIZE: @len is longer than an entry; or as evering_wait(ev,
 * EVERING_RX, …): -EAGAIN, -ETIMEDOUT: no entry; -EPIPE: no entry, and the peer is
 * gone; -EPROTO: it broke the rules; -EINTR: a signal.  After an error, nothing was
 * received.
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
 * evering_recv_bulk - receive the entries that are there
 * @ev: endpoint
 * @entries: an array with room for @count entries of @len bytes
 * @len: bytes to copy of each, 0..evering_payload()
 * @count: how many entries at the most, 1..INT_MAX
 * @timeout_ns: how long to wait for the first of them, as in evering_recv()
 *
 * Context: The receiving thread.
 * Return: how many were received, at least one; -EINVAL: @count is invalid; or a
 * negative errno as evering_recv().
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
	/* The first entry was seen once; a hostile peer might not show it twice. */
	for (i = 0; slot; slot = i < count ? evering_peek(ev) : NULL) {
		evering__copy(entry + i++ * len, slot, len);
		evering_begin(ev, 1);
		evering_release(ev);
	}
	return (int)i;
}

#endif /* EVERING_RING_H */
