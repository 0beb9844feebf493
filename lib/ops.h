/* SPDX-License-Identifier: MIT */
/*
 * ops.h: declarations that the files of the table of operations share.
 *
 * What is sent, and when
 *
 * An answer must never wait.  Let n be the most answers that this side can owe the
 * peer; n is at most three quarters of the ring.  Any other entry is sent only if n
 * slots are still free after it, which is @reserve.  Then there is room for every
 * answer.  Either the peer has received none of the answers that were sent since the
 * last other entry: with the new one they are at most n, and n slots were free.  Or it
 * has received some: then it has received everything before them, less than a quarter
 * of the ring is not yet published as released, and at most n - 1 answers are on their
 * way.
 */
#ifndef EVERING_OPS_H
#define EVERING_OPS_H

#include <sys/un.h>

#include "internal.h"

#define NONE UINT32_MAX
/* More slots than are ever free. */
#define NO_ROOM (1u << 30)

/* The first half of a header is read and written as one number. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "evering_op_header is laid out for little-endian machines");

/* struct evering__place.state */
#define OP_SENT	    (1u << 0) /* the answer is still to come */
#define OP_OPEN	    (1u << 1) /* it has no outcome yet */
#define OP_DONE	    (1u << 2) /* its outcome can be taken */
#define OP_PREPARED (1u << 3) /* not started: c.result is the opcode */
#define OP_ASKED    (1u << 4) /* its outcome will be -ECANCELED */
#define OP_LENDS    (1u << 5) /* its buffer is lent */
#define OP_GIVES    (1u << 6) /* its buffer will be given when it is started */
#define OP_RETURNS  (1u << 7) /* the same, with a buffer of the peer's arena */
#define OP_TIMED    (1u << 8) /* it is in the heap */
#define OP_BEGUN    (1u << 9) /* the peer is gone, and may have acted on it */
#define OP_UNSEEN   (1u << 10) /* the peer is gone, and has not acted on it */
#define OP_REISSUE  (1u << 11) /* EVERING_REISSUE */
#define OP_AGAIN    (1u << 12) /* an earlier peer may have begun it */
#define OP_QUEUED   (1u << 13) /* a successor will get it: see struct again */
#define OP_ENDS	    (1u << 14) /* a successor will not get it */

/* struct evering__held.state; a place that no request may take has only HELD_BUSY */
#define HELD_BUSY      (1u << 0) /* the place has a request */
#define HELD_LENT      (1u << 1) /* its buffer is lent */
#define HELD_CANCELLED (1u << 2) /* the peer has cancelled it */
#define HELD_INBOX     (1u << 3) /* evering_op_next() has not returned it yet */

/* struct evering__stored.state; 0: free, or plain */
#define STORED_MESSAGE (1u << 1) /* a message that the user has */
#define STORED_POST    (1u << 2) /* a post that the user has */
#define STORED_WAITS   (1u << 3) /* a message that was not received yet */

/* struct ops.inbox: this with the index of a post, or only the index of a request */
#define INBOX_POST     (1u << 31)

/*
 * struct loan.hold: the state of a granule of the peer's arena, and above it its
 * generation
 */
#define LOAN_BITS	2u
#define LOAN_MASK	((1u << LOAN_BITS) - 1)
#define LOAN_NONE	0u /* this side has no buffer there */
#define LOAN_LENT	1u /* a buffer that was lent with a request */
#define LOAN_GIVEN	2u /* this side's */
#define LOAN_HOMEBOUND	3u /* freed, to be sent home */

/**
 * struct loan - a granule of the peer's arena at which a buffer starts
 * @hold: LOAN_*, and in the bits above it the generation
 * @next: the next buffer to return
 * @len: bytes of the buffer that this side knows of
 */
struct loan {
	uint32_t hold;
	uint32_t next;
	uint64_t len;
};

/* A list of indices, first in, first out.  The links are in the listed records. */
struct fifo {
	uint32_t head;
	uint32_t tail;
	uint32_t count;
};

/**
 * struct again - entries that a dead peer had not seen, for its successor
 * @entries: the entries as they were, each of @size bytes
 * @count: how many there are
 * @at: the next one to be sent
 * @sent: the entries before this one were sent to the predecessor; the others were
 *	queued for it
 * @size: bytes of one entry
 */
struct again {
	unsigned char *entries;
	uint32_t count;
	uint32_t at;
	uint32_t sent;
	uint32_t size;
};

/**
 * struct ops - a table
 * @pub: the part that the fast path uses
 * @place_data: the data of operations by index
 * @held_data: the data of requests by index
 * @stride: log2 of the bytes for the data of one
 * @request: the callback of the parameters, or answer_later(); never NULL
 * @cancelled: the callback of the parameters; may be NULL
 * @context: the context of the parameters
 * @ended: called when a request that is not plain has got its answer, or can get none
 *	any more; NULL: there is no server
 * @no_room: called when an answer has no room in the ring.  Only a peer that sends
 *	requests before it takes its answers can cause that.  May be NULL
 * @keep: slots that an entry leaves free for answers, see above; NO_ROOM while only
 *	answers can be sent
 * @homebound: loans to be returned
 * @error: 0, or why nothing more will come
 * @opened: the peer has opened its table
 * @waits: waits that are nested
 * @spare: places that are neither free nor in use, one for each poll that may be
 *	nested.  While a callback runs with its operation's place, one of these replaces
 *	that place, so that the callback finds as many free places as after the
 *	operation
 * @takeable: operations in flight whose outcome will have to be taken
 * @refused: a submission failed because the ring had no room
 * @depth: as in evering_ops_info, once the peer has opened its table
 * @serve: as in evering_ops_info, likewise
 * @size: operations that there is memory for
 * @serve_size: requests that there is memory for
 * @prepared: operations, of those in flight, that are not started
 * @abandoned: operations that have an outcome, and whose answer has not come yet
 * @first_done: the first operation whose outcome is to be taken
 * @last_done: the last one
 * @done: how many there are
 * @inbox: requests for evering_op_next(), and posts
 * @takes_requests: evering_op_next() was called
 * @takes_messages: evering_msg_recv() was called
 * @told_requests: how many requests waited when evering_ops_arm() last returned so
 * @told_messages: how many messages waited then
 * @seen: the post that evering_op_next() returned last; 0: none
 * @message: the callback of the parameters; may be NULL
 * @messages: messages that wait for evering_msg_recv()
 * @stored_data: the data of posts and messages by index, as @held_data
 * @stored_used: places that were ever used; those after them were not
 * @store: how many posts and messages this side stores
 * @tell_at: how many this side has finished with when it informs the peer of them
 * @told: of the peer's posts and messages, how many the peer knows to be finished with
 * @freed: bytes of messages' buffers that were freed since the peer was last informed
 *	at once
 * @peer_store: how many posts and messages the peer stores
 * @peer_finished: of this side's posts and messages, how many the peer has stated to be
 *	finished with
 * @loans: a struct loan for each granule of the peer's arena
 * @loan_count: how many granules that arena has
 * @heap: indices of operations, a heap by deadline
 * @heap_count: how many there are
 * @tell: a queue of operations that the peer is to be informed of as cancelled
 * @tell_first: the place of the first one
 * @tell_count: how many there are
 * @map_size: bytes of all this
 * @outlives: EVERING_REPLACEABLE: operations stay when the peer goes away
 * @peer_outlives: the peer has stated the same of its table
 * @leaves: the peer was informed that this side will stop: see ops_leave()
 * @left: the peer has stated that it will stop
 * @successor: where the peer's successor will listen, if waits meet it; empty: they do
 *	not
 * @patience_ns: how long such a wait lasts at the most
 * @meeting: the meeting with the successor that is under way, or NULL
 * @calls: callbacks with outcomes that are nested
 * @again: what has to be sent to a successor; until that is sent, nothing is submitted
 * @taken: the data of the outcome that was taken last
 */
struct ops {
	struct evering_ops pub;
	unsigned char *place_data;
	unsigned char *held_data;
	uint32_t stride;
	uint32_t keep;
	struct fifo homebound;
	evering_request_fn request;
	evering_cancelled_fn cancelled;
	void (*ended)(struct ops *ops, uint32_t index);
	void (*no_room)(struct ops *ops);
	void *context;

	int error;
	bool opened;
	uint32_t waits;
	uint32_t takeable;
	struct evering__place *spare;
	bool refused;
	uint32_t depth;
	uint32_t serve;
	uint32_t size;
	uint32_t serve_size;
	uint32_t prepared;
	uint32_t abandoned;
	struct evering__place *first_done;
	struct evering__place *last_done;
	uint32_t done;
	struct fifo inbox;
	bool takes_requests;
	bool takes_messages;
	uint32_t told_requests;
	uint32_t told_messages;
	uint32_t seen;
	evering_message_fn message;
	struct fifo messages;
	unsigned char *stored_data;
	uint32_t stored_used;
	uint32_t store;
	uint32_t tell_at;
	uint32_t told;
	uint64_t freed;
	uint32_t peer_store;
	uint32_t peer_finished;
	struct book loans;
	uint32_t loan_count;
	uint32_t *heap;
	uint32_t heap_count;
	uint64_t *tell;
	uint32_t tell_first;
	uint32_t tell_count;
	size_t map_size;
	bool outlives;
	bool peer_outlives;
	bool leaves;
	bool left;
	char successor[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int64_t patience_ns;
	struct evering_connecting *meeting;
	uint32_t calls;
	struct again again;
	unsigned char taken[EVERING_MAX_SLOT] __attribute__((aligned(16)));
};

/**
 * struct arrival - an entry, copied out of the peer's half
 * @header: its header
 * @name: its buffer, as the peer names it
 * @buf: its buffer, checked
 * @buf_len: bytes of @buf
 * @data: its data
 */
struct arrival {
	struct evering_op_header header;
	struct evering_op_buffer name;
	void *buf;
	uint64_t buf_len;
	unsigned char *data;
};

/* The condition that a wait waits for; @arg depends on the condition. */
typedef bool (*ops_condition)(struct ops *ops, uint64_t arg);

/* Only for a granule whose record was written before. */
static inline struct loan *loan_of(const struct ops *ops, uint32_t granule)
{
	return (struct loan *)ops->loans.base + granule;
}

static inline struct ops *to_ops(struct evering_ops *ops)
{
	return (struct ops *)ops;
}

static inline const struct ops *to_const_ops(const struct evering_ops *ops)
{
	return (const struct ops *)ops;
}

static inline struct endpoint *ops_endpoint(const struct ops *ops)
{
	return to_endpoint(ops->pub.ev);
}

static inline uint32_t id_index(uint64_t id)
{
	return (uint32_t)id & ((1u << EVERING_OP_INDEX_BITS) - 1);
}

/*
 * evering__held.plain of a request that is held and not plain: no id of its index has
 * it.
 */
static inline uint64_t held_not_plain(uint32_t index)
{
	return ~(uint64_t)index;
}

static inline unsigned char *place_data(const struct ops *ops, uint32_t index)
{
	return ops->place_data + ((size_t)index << ops->stride);
}

static inline unsigned char *held_data(const struct ops *ops, uint32_t index)
{
	return ops->held_data + ((size_t)index << ops->stride);
}

/* Returns whether an entry that is not an answer can be sent. */
static inline bool ops_room(struct ops *ops)
{
	return evering_reserve_at(ops->pub.ev, ops->keep);
}

/*
 * The same for an entry of no operation: a cancellation, or returned buffers and
 * credit.  It need not wait until a successor was sent what its predecessor had not
 * seen; that may wait for this entry.
 */
static inline bool ops_room_beside(struct ops *ops)
{
	return ops->opened && !ops->error &&
	       evering_reserve_at(ops->pub.ev, ops->serve);
}

/* The unseen entries of this table: those after the last entry that opened a table. */
static inline uint32_t ops_unseen(const struct ops *ops)
{
	const struct evering_tx *tx = &ops->pub.ev->tx;
	uint32_t unseen = fate_unseen(ops_endpoint(ops)), n;
	struct evering_op_header header;

	for (n = 0; n < unseen; n++) {
		memcpy(&header, evering__tx_slot(tx, tx->next - n - 1),
		       sizeof(header));
		if (header.type == EVERING_OP_OPEN)
			break;
	}
	return n;
}

/*
 * Sets what the fast path may send.  It does not take returned buffers with it, and
 * does not look at why the channel has ended.
 */
static inline void ops_update(struct ops *ops)
{
	bool slow = ops->homebound.count || ops->error;

	ops->pub.reserve = slow ? NO_ROOM : ops->keep;
	ops->pub.answer_limit = slow ? 0 : ops->pub.max_data + 1;
	ops->pub.message_limit = ops->error || ops->message ||
						 ops->messages.count ?
					 0 :
					 ops->pub.max_data + 1;
}

/*
 * New entries wait until there is a peer, until what is sent again is sent, or for the
 * next peer.
 */
static inline void ops_set_keep(struct ops *ops)
{
	ops->keep = ops->error || !ops->opened || ops->left ||
				    ops->again.entries ?
			    NO_ROOM :
			    ops->serve;
	ops_update(ops);
}

/*
 * The number of posts and messages that are finished with, and that the peer does not
 * know of.
 */
static inline uint32_t ops_finished(const struct ops *ops)
{
	return ops->tell_at - ops->pub.tell_in;
}

/*
 * Returns why nothing can be sent.  Returns 0 also if the peer is gone and a wait meets
 * its successor.
 */
static inline int ops_closed(const struct ops *ops)
{
	return ops->error == -EPIPE && ops->successor[0] ? 0 : ops->error;
}

/* Returns whether the arena gets no memory, and no buffer can return. */
static inline bool ops_out_of_memory(const struct ops *ops)
{
	const struct endpoint *e = ops_endpoint(ops);

	return e->refused && !e->arena.out;
}

/* Bytes of this side's arena. */
static inline uint64_t ops_arena_size(const struct ops *ops)
{
	const struct endpoint *e = ops_endpoint(ops);

	return e->geometry.arena_size[e->end];
}

/* ops.c */
void ops_send(struct ops *ops, const struct evering_op_header *header,
	      const void *data, const struct evering_op_buffer *buffer);
int ops_end(struct ops *ops, int error);
void ops_renew(struct ops *ops);
bool ops_leave(struct ops *ops);
bool ops_in_callback(const struct ops *ops);
void ops_flush(struct ops *ops);
void ops_settle(struct ops *ops);
int ops_poll_some(struct ops *ops, uint32_t most);
bool ops_to_do(struct ops *ops);
void ops_take(struct ops *ops, bool *takes);
int ops_arm_member(struct ops *ops, unsigned int want);
void ops_send_home(struct ops *ops, bool all);
int ops_wait_for_room(struct ops *ops, ops_condition condition, uint64_t arg,
		      int64_t timeout_ns, int64_t *deadline);
int ops_wait_for(struct ops *ops, ops_condition condition, uint64_t arg,
		 bool space, int64_t timeout_ns, int64_t *deadline);

/* ask.c */
void ask_init(struct ops *ops);
void ask_open(struct ops *ops, uint32_t depth);
bool ask_expects(const struct ops *ops, uint64_t id);
int ask_answered(struct ops *ops, const struct arrival *arrival);
int ask_expire(struct ops *ops);
void ask_tell(struct ops *ops);
void ask_end_all(struct ops *ops, int result, bool closing);
void ask_mark_fates(struct ops *ops);
bool ask_gives_back(const struct ops *ops);
void ask_queue_none(struct ops *ops);
bool ask_queue(struct ops *ops, uint64_t id);
void ask_unqueue(struct ops *ops, uint64_t id);
bool ask_next_reissue(struct ops *ops, uint32_t *at, unsigned char *entry);
void ask_succeed(struct ops *ops);
bool ask_is_awaited(const struct ops *ops, uint64_t id);
void ask_sends(struct ops *ops, uint64_t id);

/* again.c */
int again_check(struct ops *ops);
int again_collect(struct endpoint *e, struct again *again);
void again_start(struct ops *ops, const struct again *again);
int again_opened(const struct ops *ops, uint32_t store);
bool again_is_due(const struct ops *ops);
bool again_lacks_room(const struct ops *ops);
int again_send(struct ops *ops);
void again_end(struct ops *ops);
void again_drop(struct again *again);

/* answer.c */
void answer_init(struct ops *ops);
void answer_open(struct ops *ops, uint32_t serve);
void answer_later(struct evering_ops *table,
		  const struct evering_request *request, void *context);
bool answer_expects(const struct ops *ops, uint64_t id);
bool answer_keep(struct ops *ops, uint64_t id);
uint64_t answer_next_kept(const struct ops *ops, uint32_t *at);
void answer_requested(struct ops *ops, const struct arrival *arrival);
void answer_cancelled(struct ops *ops, uint64_t id);
void answer_post_later(struct ops *ops, uint32_t at);

/* message.c */
void message_open(struct ops *ops, uint32_t store);
int iov_length(const struct iovec *iov, int count, uint64_t *len);
void iov_gather(void *to, const struct iovec *iov, int count);
bool message_credit_due(const struct ops *ops);
uint32_t message_tell(struct ops *ops);
int message_told(struct ops *ops, uint32_t finished);
bool message_any(const struct ops *ops);
void message_renew(struct ops *ops);
int message_arrived(struct ops *ops, struct arrival *arrival);
void message_finish(struct ops *ops, uint32_t at);
struct evering_request message_post(const struct ops *ops, uint32_t at);

/* loan.c */
int loan_arrived(struct ops *ops, struct arrival *arrival);
void loan_end(struct ops *ops, const void *buf);
int loan_give(struct ops *ops, void *buf, uint64_t len, uint8_t *flags,
	      struct evering_op_buffer *name);
int loan_give_back(struct ops *ops, const void *buf, uint64_t len,
		   uint32_t *granule, uint32_t *generation);
void loan_forget(struct ops *ops);
void loan_keep(struct ops *ops, uint32_t granule, uint32_t generation);
uint32_t loan_count_given(const struct ops *ops);
uint32_t loan_next_given(const struct ops *ops, uint32_t from);
void loan_renew(struct ops *ops);
unsigned int loan_attach(struct ops *ops, unsigned char *slot, uint32_t from,
			 uint32_t to);
int loan_come_home(struct ops *ops, const unsigned char *slot, uint32_t from,
		   uint32_t to, unsigned int count);

#endif /* EVERING_OPS_H */
