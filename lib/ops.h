/* SPDX-License-Identifier: MIT */
/*
 * ops.h: what the parts of the operations' table share.
 *
 * What is sent, and when
 *
 * An answer may never have to wait.  If the peer can be owed n answers, other
 * entries are sent only if n slots are free even then, which is @reserve; and n is
 * at most three quarters of the ring.  Then, when an answer is due, either the peer
 * has received none of the answers that were sent since the last other entry: they
 * and this one are at most n, and as many slots were free.  Or it has received some:
 * then it has received whatever was before them, less than a quarter of the ring is
 * not yet published as released, and at most n - 1 are on their way.
 */
#ifndef EVERING_OPS_H
#define EVERING_OPS_H

#include <sys/un.h>

#include "internal.h"

#define NONE UINT32_MAX
/* So many slots are never free. */
#define NO_ROOM (1u << 30)

/* The first half of a header is read and written as one number. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "evering_op_header is laid out for little-endian machines");

/* struct evering__place.state */
#define OP_SENT	    (1u << 0) /* the answer is still to come */
#define OP_OPEN	    (1u << 1) /* it has no outcome yet */
#define OP_DONE	    (1u << 2) /* its outcome is there to be taken */
#define OP_PREPARED (1u << 3) /* not started: c.result is the opcode */
#define OP_ASKED    (1u << 4) /* its outcome will be -ECANCELED */
#define OP_LENDS    (1u << 5) /* its buffer is lent */
#define OP_GIVES    (1u << 6) /* its buffer is to be given, when it is started */
#define OP_RETURNS  (1u << 7) /* the same, of the peer's arena */
#define OP_TIMED    (1u << 8) /* it is in the heap */
#define OP_BEGUN    (1u << 9) /* the peer has gone, and may have acted on it */
#define OP_UNSEEN   (1u << 10) /* or certainly not */
#define OP_REISSUE  (1u << 11) /* EVERING_REISSUE */
#define OP_AGAIN    (1u << 12) /* a peer before may have begun it */
#define OP_QUEUED   (1u << 13) /* a successor is to be asked: see struct again */
#define OP_ENDS	    (1u << 14) /* it is not */

/* struct evering__held.state; a place that no request may take has HELD_BUSY alone */
#define HELD_BUSY      (1u << 0) /* there is one */
#define HELD_LENT      (1u << 1) /* its buffer is lent */
#define HELD_CANCELLED (1u << 2) /* the peer has told */
#define HELD_INBOX     (1u << 3) /* evering_op_next() is still to find it */

/* struct evering__stored.state, beside 0: free, or plain */
#define STORED_MESSAGE (1u << 1) /* a message, in the user's hands */
#define STORED_POST    (1u << 2) /* a post, likewise */
#define STORED_WAITS   (1u << 3) /* a message that nobody has received yet */

/* struct ops.inbox: this and the index of a post, or the index of a request alone */
#define INBOX_POST     (1u << 31)

/* struct loan.hold: what a granule of the peer's arena is; and its generation */
#define LOAN_BITS	2u
#define LOAN_MASK	((1u << LOAN_BITS) - 1)
#define LOAN_NONE	0u /* no buffer that this side has */
#define LOAN_LENT	1u /* lent with a request */
#define LOAN_GIVEN	2u /* this side's */
#define LOAN_HOMEBOUND	3u /* freed, to be sent home */

/**
 * struct loan - a granule of the peer's arena, where a buffer of its starts
 * @hold: LOAN_*, and above it the generation
 * @next: the next one to go home
 * @len: bytes of it that this side knows of
 */
struct loan {
	uint32_t hold;
	uint32_t next;
	uint64_t len;
};

/* A list of indices, first in, first out; the links are with what it lists. */
struct fifo {
	uint32_t head;
	uint32_t tail;
	uint32_t count;
};

/**
 * struct again - entries that the peer that has gone had not seen, for its successor
 * @entries: each as it was, of @size bytes
 * @count: how many there are
 * @at: the next one to be sent
 * @sent: those before this one its predecessor was sent, the others were queued for it
 * @size: bytes of one
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
 * @pub: what the fast path needs of it
 * @place_data, @held_data: data by index, @stride being log2 of the bytes for each
 * @request, @cancelled, @context: the parameters, @request being never NULL
 * @ended: called when a request has got its answer, or can get none any more, and is not
 *	one of the fast path's; NULL: there is no server
 * @no_room: called when an answer has no room in the ring, which only a peer can bring about
 *	that asks again before it has taken its answers; may be NULL
 * @keep: slots that an entry leaves free for answers, see above; NO_ROOM while
 *	nothing else can be sent
 * @homebound: loans to be sent home
 * @error: 0, or why nothing more will come
 * @opened: the peer has opened its table
 * @waits: waits that are in each other
 * @spare: places that are neither free nor in use, one for each poll that may be in
 *	another: while a callback is called with its operation's place, one of these
 *	stands in for it, so that the callback finds as many free as if it had ended
 * @takeable: operations in flight whose outcome is to be taken
 * @refused: somebody tried to submit, and there was no room in the ring
 * @depth, @serve: as in evering_ops_info, once it has
 * @size, @serve_size: what there is memory for
 * @prepared: operations not started, of those in flight
 * @abandoned: operations that have an outcome, and their answer still to come
 * @first_done, @last_done, @done: operations whose outcome is to be taken
 * @inbox: requests for evering_op_next(), and posts
 * @takes_requests, @takes_messages: evering_op_next(), evering_msg_recv() was called
 * @told_requests, @told_messages: how many waited when evering_ops_arm() last told so
 * @seen: the post that it has returned last; 0: none
 * @message: the parameter; may be NULL
 * @messages: those that wait for evering_msg_recv()
 * @stored_data: data by index, as @held_data
 * @stored_used: places that were ever used; the next one was not
 * @store: places
 * @tell_at: how many the peer is told at once that this side has finished with
 * @told: of the peer's posts and messages, how many it knows to be finished with
 * @freed: bytes of messages' buffers freed since they were last told of at once
 * @peer_store: places that the peer has
 * @peer_finished: of this side's, how many the peer has said it has finished with
 * @loans, @loan_count: struct loan by granule of the peer's arena
 * @heap, @heap_count: operations by deadline
 * @tell, @tell_first, @tell_count: ring of operations whose end the peer is to know
 * @map_size: bytes of all this
 * @outlives: EVERING_REPLACEABLE: operations stay when the peer goes
 * @peer_outlives: the peer says the same of itself
 * @leaves: it was told that this side is to go: see ops_leave()
 * @left: it has said so
 * @successor: where the peer's will listen, if waits meet it; empty: they do not
 * @patience_ns: then, how long
 * @meeting: with it, if one is under way
 * @calls: callbacks with outcomes that are in each other
 * @again: what a successor is still to be sent; until then nothing is submitted
 * @taken: data of the outcome that was taken last
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
 * @name: its buffer as the peer names it
 * @buf, @buf_len: its buffer, checked
 * @data: its data
 */
struct arrival {
	struct evering_op_header header;
	struct evering_op_buffer name;
	void *buf;
	uint64_t buf_len;
	unsigned char *data;
};

/* What a wait is for; @arg is whatever that takes. */
typedef bool (*ops_condition)(struct ops *ops, uint64_t arg);

/* Of what was written before. */
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

/* evering__held.plain of one that is held and not plain: another index' */
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

/* May an entry be sent that is no answer? */
static inline bool ops_room(struct ops *ops)
{
	return evering_reserve_at(ops->pub.ev, ops->keep);
}

/*
 * Or what is of no operation: a cancellation, buffers and credit that go home?  That need
 * not wait until a successor was sent what its predecessor had not seen, which in turn may
 * wait for it.
 */
static inline bool ops_room_beside(struct ops *ops)
{
	return ops->opened && !ops->error &&
	       evering_reserve_at(ops->pub.ev, ops->serve);
}

/* Of the entries of the table, which are those from the last that has opened one. */
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
 * What of it the fast path may know: it does not take buffers home with it, and does
 * not ask why the channel has ended.
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

/* What is new waits for a peer, for what is sent again before it, or for the next peer. */
static inline void ops_set_keep(struct ops *ops)
{
	ops->keep = ops->error || !ops->opened || ops->left ||
				    ops->again.entries ?
			    NO_ROOM :
			    ops->serve;
	ops_update(ops);
}

/* Posts and messages that are finished with, and the peer does not know of. */
static inline uint32_t ops_finished(const struct ops *ops)
{
	return ops->tell_at - ops->pub.tell_in;
}

/* Why nothing can be sent; 0 also if the peer has gone, and a wait meets its successor. */
static inline int ops_closed(const struct ops *ops)
{
	return ops->error == -EPIPE && ops->successor[0] ? 0 : ops->error;
}

/* Can no buffer be had, nor come home? */
static inline bool ops_out_of_memory(const struct ops *ops)
{
	const struct endpoint *e = ops_endpoint(ops);

	return e->refused && !e->arena.out;
}

/* Bytes of the own arena. */
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
