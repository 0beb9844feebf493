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

#include "internal.h"

#define NONE UINT32_MAX

/* The first half of a header is read and written as one number. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "evering_op_header is laid out for little-endian machines");

/* struct op.state; a place is free when it is 0 */
#define OP_SENT	    (1u << 0) /* the answer is still to come */
#define OP_OPEN	    (1u << 1) /* it has no outcome yet */
#define OP_DONE	    (1u << 2) /* its outcome is there to be taken */
#define OP_PREPARED (1u << 3) /* not started */
#define OP_ASKED    (1u << 4) /* its outcome will be -ECANCELED */
#define OP_LENDS    (1u << 5) /* @granule is lent with it */
#define OP_GIVES    (1u << 6) /* @granule is to be given with it, when started */
#define OP_RETURNS  (1u << 7) /* the same, of the peer's arena */
#define OP_TIMED    (1u << 8) /* it is in the heap */

/* What all but few are: @state as it is on the fast path. */
#define OP_PLAIN (OP_SENT | OP_OPEN)

/**
 * struct op - a place in the table
 * @id: of the operation, or of the next one to be here: index, and above it how
 *	often the place was used.  The lower half of it goes over the wire.
 * @state: OP_*
 * @next: the next free place; or, with @prev, the neighbours among those done
 * @done, @user, @ext: as submitted
 * @granule, @generation, @buf_len: of the buffer
 * @opcode, @len: of the request, while it is prepared; @len also of an outcome
 * @result, @buf: of an outcome that is to be taken
 * @timeout: as submitted
 * @deadline: when it is abandoned
 * @heap: where in the heap it is
 *
 * What most operations need comes first, in a cache line of its own.
 */
struct op {
	uint64_t id;
	uint32_t state;
	uint32_t next;
	evering_done_fn done;
	void *user;
	uint64_t ext;
	uint32_t prev;
	uint32_t len;
	uint32_t opcode;
	int32_t result;

	uint32_t granule;
	uint32_t generation;
	void *buf;
	uint64_t buf_len;
	int64_t timeout;
	int64_t deadline;
	uint32_t heap;
} __attribute__((aligned(128)));

/**
 * struct held - a request that is not answered yet
 * @id: as it came, and above it how many had come before; 0: none
 * @next: the next one for evering_op_next()
 * @granule: of the buffer that was lent with it, or NONE
 * @buf, @buf_len, @opcode, @flags, @len: for evering_op_next()
 * @cancelled: the peer has told
 */
struct held {
	uint64_t id;
	uint32_t next;
	uint32_t granule;
	void *buf;
	uint64_t buf_len;
	uint32_t opcode;
	uint16_t len;
	uint8_t flags;
	bool cancelled;
};

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
 * struct evering_ops - a table
 * @ev: its endpoint
 * @ops: places, by index
 * @free: the first that is free
 * @reserve: see above; UINT32_MAX while nothing can be sent but answers
 * @max_data: bytes of data in an entry without a buffer
 * @depth: how many places are in use, once the peer has opened its table
 * @serve: likewise of @held
 * @dirty: something was sent, and a sleeping peer not woken yet
 * @in_flight: operations without an outcome
 * @stride: log2 of the bytes of data for each operation, and each request
 * @serial: requests that came, for their ids
 * @holding: requests that are not answered yet
 * @homebound: loans to be sent home
 * @held: requests, by index
 * @op_data, @held_data: their data
 * @request, @cancelled, @context: the parameters
 * @error: 0, or why nothing more will come
 * @opened: the peer has opened its table
 * @size, @serve_size: places there are memory for
 * @prepared: operations not started, of those in flight
 * @abandoned: operations that have an outcome, and their answer still to come
 * @done: operations whose outcome is to be taken
 * @inbox: requests for evering_op_next()
 * @loans, @loan_count: by granule
 * @heap, @heap_count: operations by deadline
 * @tell, @tell_first, @tell_count: ring of operations whose end the peer is to know
 * @map_size: bytes of all this
 * @taken: data of the outcome that was taken last
 */
struct evering_ops {
	struct evering *ev;
	struct op *ops;
	uint32_t free;
	uint32_t reserve;
	uint32_t max_data;
	uint32_t depth;
	uint32_t serve;
	uint32_t in_flight;
	uint32_t stride;
	uint32_t serial;
	uint32_t holding;
	bool dirty;
	struct fifo homebound;
	struct held *held;
	unsigned char *op_data;
	unsigned char *held_data;
	evering_request_fn request;
	evering_cancelled_fn cancelled;
	void *context;

	int error;
	bool opened;
	uint32_t size;
	uint32_t serve_size;
	uint32_t prepared;
	uint32_t abandoned;
	struct fifo done;
	struct fifo inbox;
	struct loan *loans;
	uint32_t loan_count;
	uint32_t *heap;
	uint32_t heap_count;
	uint32_t *tell;
	uint32_t tell_first;
	uint32_t tell_count;
	size_t map_size;
	unsigned char taken[EVERING_MAX_SLOT] __attribute__((aligned(16)));
};

/**
 * struct arrival - an entry, copied out of the peer's half
 * @header: its header
 * @buf, @buf_len: its buffer, checked
 * @data: its data
 */
struct arrival {
	struct evering_op_header header;
	void *buf;
	uint64_t buf_len;
	unsigned char *data;
};

/* What a wait is for; @arg is whatever that takes. */
typedef bool (*ops_condition)(struct evering_ops *ops, uint64_t arg);

static inline struct endpoint *ops_endpoint(const struct evering_ops *ops)
{
	return to_endpoint(ops->ev);
}

static inline unsigned char *op_data(const struct evering_ops *ops,
				     uint32_t index)
{
	return ops->op_data + ((size_t)index << ops->stride);
}

static inline unsigned char *held_data(const struct evering_ops *ops,
				       uint32_t index)
{
	return ops->held_data + ((size_t)index << ops->stride);
}

static inline uint32_t id_index(uint64_t id)
{
	return (uint32_t)id & ((1u << EVERING_OP_INDEX_BITS) - 1);
}

/* May an entry be sent that is no answer? */
static inline bool ops_room(struct evering_ops *ops)
{
	return evering_reserve_at(ops->ev, ops->reserve);
}

/*
 * Copies exactly @len bytes, of which there may be none, and few are usual.  Two
 * pieces that may overlap do for any length of one to two times theirs.
 */
static inline void copy_few(unsigned char *to, const unsigned char *from,
			    uint32_t len)
{
	uint32_t i;

	if (EVERING_LIKELY(len >= 16)) {
		for (i = 0; i + 16 < len; i += 16)
			__builtin_memcpy(to + i, from + i, 16);
		__builtin_memcpy(to + len - 16, from + len - 16, 16);
	} else if (len >= 8) {
		__builtin_memcpy(to, from, 8);
		__builtin_memcpy(to + len - 8, from + len - 8, 8);
	} else if (len >= 4) {
		__builtin_memcpy(to, from, 4);
		__builtin_memcpy(to + len - 4, from + len - 4, 4);
	} else {
		for (i = 0; i < len; i++)
			to[i] = from[i];
	}
}

/* Copies @len bytes, and up to a multiple of 16, of what has room for that. */
static inline void copy_blocks(unsigned char *to, const unsigned char *from,
			       uint32_t len)
{
	uint32_t i;

	for (i = 0; i < len; i += 16)
		__builtin_memcpy(to + i, from + i, 16);
}

/* ops.c */
void ops_send(struct evering_ops *ops, const struct evering_op_header *header,
	      const void *data, uint32_t generation, uint64_t buf_len);
int ops_end(struct evering_ops *ops, int error);
int ops_wait_for(struct evering_ops *ops, ops_condition condition, uint64_t arg,
		 bool space, int64_t timeout_ns, int64_t *deadline);

/* ask.c */
void ask_init(struct evering_ops *ops, uint32_t depth);
int ask_answered(struct evering_ops *ops, const struct arrival *arrival);
int ask_expire(struct evering_ops *ops);
void ask_tell(struct evering_ops *ops);
void ask_end_all(struct evering_ops *ops, int result, bool closing);

/* answer.c */
bool answer_expects(const struct evering_ops *ops, uint32_t id);
void answer_requested(struct evering_ops *ops, const struct arrival *arrival);
void answer_cancelled(struct evering_ops *ops, uint32_t id);

/* loan.c */
int loan_arrived(struct evering_ops *ops, struct arrival *arrival,
		 uint32_t generation);
void loan_end(struct evering_ops *ops, uint32_t granule);
int loan_give_back(struct evering_ops *ops, const void *buf, uint64_t len,
		   uint32_t *granule, uint32_t *generation);
void loan_keep(struct evering_ops *ops, uint32_t granule, uint32_t generation);
unsigned int loan_attach(struct evering_ops *ops, unsigned char *slot,
			 uint32_t from, uint32_t to);
int loan_come_home(struct evering_ops *ops, const unsigned char *slot,
		   uint32_t from, uint32_t to, unsigned int count);

#endif /* EVERING_OPS_H */
