// SPDX-License-Identifier: MIT
/*
 * ask.c: the asking side of operations: from submission to the one outcome.
 *
 * An operation owes two things: to the caller an outcome (OP_OPEN, then perhaps
 * OP_DONE until it is taken), and to its resources the answer, before which the peer
 * may use them (OP_SENT).  Its place is free when it owes neither.
 */
#include "ops.h"

#define ANSWER_DUE	(OP_SENT)
#define OUTCOME_DUE	(OP_OPEN | OP_DONE)

static struct op *op_by_id(const struct evering_ops *ops, uint64_t id)
{
	uint32_t index = id_index(id);

	if (index >= ops->depth || ops->ops[index].id != id ||
	    !ops->ops[index].state)
		return NULL;
	return &ops->ops[index];
}

static uint32_t op_index(const struct evering_ops *ops, const struct op *op)
{
	return (uint32_t)(op - ops->ops);
}

/* The table begins: @depth places are free. */
void ask_init(struct evering_ops *ops, uint32_t depth)
{
	uint32_t i;

	ops->depth = depth;
	for (i = 0; i < depth; i++) {
		ops->ops[i].id = (uint64_t)1 << EVERING_OP_INDEX_BITS | i;
		ops->ops[i].next = i + 1 < depth ? i + 1 : NONE;
	}
	ops->free = depth ? 0 : NONE;
}

static void op_free(struct evering_ops *ops, struct op *op)
{
	op->id += (uint64_t)1 << EVERING_OP_INDEX_BITS;
	op->state = 0;
	op->next = ops->free;
	ops->free = op_index(ops, op);
}

/* --------------------------------------------- operations done, oldest first */

static void done_push(struct evering_ops *ops, struct op *op)
{
	uint32_t index = op_index(ops, op);

	op->next = NONE;
	op->prev = ops->done.count ? ops->done.tail : NONE;
	if (ops->done.count++)
		ops->ops[ops->done.tail].next = index;
	else
		ops->done.head = index;
	ops->done.tail = index;
}

static void done_remove(struct evering_ops *ops, struct op *op)
{
	if (op->prev != NONE)
		ops->ops[op->prev].next = op->next;
	else
		ops->done.head = op->next;
	if (op->next != NONE)
		ops->ops[op->next].prev = op->prev;
	else
		ops->done.tail = op->prev;
	ops->done.count--;
}

/* ------------------------------------- those that may take so long, in a heap */

static void heap_put(struct evering_ops *ops, uint32_t at, uint32_t index)
{
	ops->heap[at] = index;
	ops->ops[index].heap = at;
}

static int64_t heap_deadline(const struct evering_ops *ops, uint32_t at)
{
	return ops->ops[ops->heap[at]].deadline;
}

static void heap_up(struct evering_ops *ops, uint32_t at)
{
	uint32_t index = ops->heap[at], parent;

	for (; at; at = parent) {
		parent = (at - 1) / 2;
		if (heap_deadline(ops, parent) <= ops->ops[index].deadline)
			break;
		heap_put(ops, at, ops->heap[parent]);
	}
	heap_put(ops, at, index);
}

static void heap_down(struct evering_ops *ops, uint32_t at)
{
	uint32_t index = ops->heap[at], child;

	for (;; at = child) {
		child = 2 * at + 1;
		if (child >= ops->heap_count)
			break;
		if (child + 1 < ops->heap_count &&
		    heap_deadline(ops, child + 1) < heap_deadline(ops, child))
			child++;
		if (ops->ops[index].deadline <= heap_deadline(ops, child))
			break;
		heap_put(ops, at, ops->heap[child]);
	}
	heap_put(ops, at, index);
}

static void heap_insert(struct evering_ops *ops, struct op *op)
{
	heap_put(ops, ops->heap_count++, op_index(ops, op));
	heap_up(ops, op->heap);
	op->state |= OP_TIMED;
}

static void heap_remove(struct evering_ops *ops, struct op *op)
{
	uint32_t at = op->heap, last;

	if (!(op->state & OP_TIMED))
		return;
	op->state &= ~OP_TIMED;
	last = ops->heap[--ops->heap_count];
	if (at == ops->heap_count)
		return;
	heap_put(ops, at, last);
	heap_up(ops, at);
	heap_down(ops, ops->ops[last].heap);
}

/* ------------------------------------------------------------------ outcomes */

/* The caller's outcome; the place is free if the answer has come, too. */
static void op_outcome(struct evering_ops *ops, struct op *op, int32_t result,
		       const struct arrival *arrival)
{
	struct evering_completion completion = {
		.id = op->id,
		.user = op->user,
		.ext = op->ext,
		.result = result,
	};
	evering_done_fn done = op->done;

	heap_remove(ops, op);
	ops->in_flight--;
	op->state &= ~OP_OPEN;
	if (arrival) {
		completion.len = arrival->header.len;
		completion.data = completion.len ? arrival->data : NULL;
		completion.buf = arrival->buf;
		completion.buf_len = arrival->buf_len;
	}
	if (done) {
		if (!(op->state & ANSWER_DUE))
			op_free(ops, op);
		done(ops, &completion);
		return;
	}
	op->result = result;
	op->len = completion.len;
	op->buf = completion.buf;
	op->buf_len = completion.buf_len;
	if (op->len)
		copy_blocks(op_data(ops, op_index(ops, op)), arrival->data,
			    op->len);
	op->state |= OP_DONE;
	done_push(ops, op);
}

/*
 * The peer can no longer use what is lent with the operation.  Who still waits for
 * it has its buffer back; if nobody does, it is freed.
 */
static void *op_unlend(struct evering_ops *ops, struct op *op)
{
	if (!(op->state & OP_LENDS))
		return NULL;
	op->state &= ~OP_LENDS;
	return arena_take_back(&ops_endpoint(ops)->arena, op->granule,
			       !(op->state & OP_OPEN));
}

/* Neither the answer nor the peer is there any more: @arrival, or nothing. */
static void op_answered(struct evering_ops *ops, struct op *op, int32_t result,
			struct arrival *arrival)
{
	op_unlend(ops, op);
	op->state &= ~OP_SENT;
	if (op->state & OP_OPEN && !(op->state & OP_ASKED)) {
		op_outcome(ops, op, result, arrival);
		return;
	}
	/* Nobody wants what it brings. */
	if (arrival && arrival->buf &&
	    (arrival->header.flags & EVERING_OP_BUFFER) != EVERING_OP_IN_PLACE)
		evering_free(ops->ev, arrival->buf);
	if (op->state & OP_OPEN) {
		op_outcome(ops, op, -ECANCELED, NULL);
		return;
	}
	ops->abandoned--;
	if (!(op->state & OUTCOME_DUE))
		op_free(ops, op);
}

/* An answer has come.  0; -EPROTO: to nothing that was asked. */
int ask_answered(struct evering_ops *ops, const struct arrival *from)
{
	uint32_t index = id_index(from->header.id);
	struct arrival arrival = *from;
	struct op *op;

	if (index >= ops->depth)
		return -EPROTO;
	op = &ops->ops[index];
	if ((uint32_t)op->id != from->header.id || !(op->state & OP_SENT))
		return -EPROTO;
	if ((from->header.flags & EVERING_OP_BUFFER) == EVERING_OP_IN_PLACE) {
		if (!(op->state & OP_LENDS) || !arrival.buf_len ||
		    arrival.buf_len > op->buf_len ||
		    !endpoint_shares(ops_endpoint(ops), EVERING_REGION_ARENA_A))
			return -EPROTO;
		arrival.buf = op->buf;
	}
	op_answered(ops, op, (int32_t)arrival.header.code, &arrival);
	return 0;
}

/* Tells the peer which answers are not needed any more, while there is room. */
void ask_tell(struct evering_ops *ops)
{
	struct evering_op_header header = { .type = EVERING_OP_CANCEL };
	const struct op *op;

	while (ops->tell_count && ops_room(ops)) {
		header.id = ops->tell[ops->tell_first];
		if (++ops->tell_first == ops->size)
			ops->tell_first = 0;
		ops->tell_count--;
		op = &ops->ops[id_index(header.id)];
		if ((uint32_t)op->id == header.id && (op->state & OP_SENT))
			ops_send(ops, &header, NULL, 0, 0);
	}
}

/* It is advice: if there is no room to remember it, the peer is not told. */
static void op_tell(struct evering_ops *ops, const struct op *op)
{
	uint32_t at;

	if (ops->tell_count == ops->size)
		return;
	at = ops->tell_first + ops->tell_count++;
	if (at >= ops->size)
		at -= ops->size;
	ops->tell[at] = (uint32_t)op->id;
	ask_tell(ops);
}

/* The caller has its outcome before the answer has come. */
static void op_abandon(struct evering_ops *ops, struct op *op, int32_t result,
		       bool tell)
{
	if (tell)
		op_tell(ops, op);
	ops->abandoned++;
	op_outcome(ops, op, result, NULL);
}

/* Abandons what has taken too long.  Returns how many that were. */
int ask_expire(struct evering_ops *ops)
{
	int64_t now = now_ns();
	struct op *op;
	int n = 0;

	while (ops->heap_count && heap_deadline(ops, 0) <= now) {
		op = &ops->ops[ops->heap[0]];
		op_abandon(ops, op,
			   op->state & OP_ASKED ? -ECANCELED : -ETIMEDOUT,
			   true);
		n++;
	}
	return n;
}

/* It never was sent: its buffer is as before. */
static void op_unprepare(struct evering_ops *ops, struct op *op)
{
	struct arena *arena = &ops_endpoint(ops)->arena;

	if (op->state & (OP_LENDS | OP_GIVES))
		arena_take_back(arena, op->granule, false);
	if (op->state & OP_RETURNS)
		loan_keep(ops, op->granule, op->generation);
	ops->prepared--;
	ops->in_flight--;
	op_free(ops, op);
}

/*
 * Nothing more will be answered.  When a table closes the peer may still be there,
 * and use what was lent to it.
 */
void ask_end_all(struct evering_ops *ops, int result, bool closing)
{
	struct op *op;
	uint32_t i;

	for (i = 0; i < ops->depth; i++) {
		op = &ops->ops[i];
		if (closing && (op->state & OP_PREPARED))
			op_unprepare(ops, op);
		if (closing)
			op->state &= ~OP_LENDS;
		if (op->state & OP_SENT)
			op_answered(ops, op, result, NULL);
	}
}

/* ------------------------------------------------------------------- asking */

static uint32_t max_data(const struct evering_ops *ops,
			 const struct evering_op *op)
{
	return op->flags ? ops->max_data - EVERING_OP_BUFFER_TAIL :
			   ops->max_data;
}

/* Can it be?  What its buffer is, is seen later. */
static int check_op(const struct evering_ops *ops, const struct evering_op *op)
{
	if (ops->error)
		return ops->error;
	if (op->reserved || op->timeout_ns < 0 || (!op->data && op->len) ||
	    (op->flags && op->flags != EVERING_LEND &&
	     op->flags != EVERING_GIVE))
		return -EINVAL;
	if (op->len > max_data(ops, op))
		return -EMSGSIZE;
	return 0;
}

/* Locks its buffer.  What was given is the peer's when the operation is sent. */
static int take_buffer(struct evering_ops *ops, const struct evering_op *from,
		       struct op *op)
{
	struct arena *arena = &ops_endpoint(ops)->arena;
	int ret;

	if (arena_has(arena, from->buf)) {
		op->state |= from->flags == EVERING_LEND ? OP_LENDS : OP_GIVES;
		ret = arena_hand_out(arena, from->buf, from->buf_len, HOLD_LENT,
				     &op->granule, &op->generation);
	} else if (from->flags == EVERING_GIVE) {
		op->state |= OP_RETURNS;
		ret = loan_give_back(ops, from->buf, from->buf_len,
				     &op->granule, &op->generation);
	} else {
		ret = -EINVAL;
	}
	op->buf = from->buf;
	op->buf_len = from->buf_len;
	return ret;
}

int evering_op_prepare(struct evering_ops *ops, const struct evering_op *from,
		       uint64_t *id)
{
	uint32_t index = ops->free;
	struct op *op;
	int ret;

	ret = check_op(ops, from);
	if (ret)
		return ret;
	if (index == NONE)
		return -EAGAIN;
	op = &ops->ops[index];
	op->state = OP_OPEN | OP_PREPARED;
	if (from->flags) {
		ret = take_buffer(ops, from, op);
		if (ret) {
			op->state = 0;
			return ret;
		}
	}
	ops->free = op->next;
	ops->in_flight++;
	ops->prepared++;
	op->done = from->done;
	op->user = from->user;
	op->ext = from->ext;
	op->opcode = from->opcode;
	op->len = from->len;
	op->timeout = from->timeout_ns;
	copy_few(op_data(ops, index), from->data, from->len);
	*id = op->id;
	return 0;
}

static void op_start(struct evering_ops *ops, struct op *op)
{
	struct evering_op_header header = { .id = (uint32_t)op->id,
					    .type = EVERING_OP_REQUEST,
					    .len = (uint16_t)op->len,
					    .code = op->opcode,
					    .granule = op->granule };

	if (op->state & OP_LENDS)
		header.flags = EVERING_OP_LENT;
	if (op->state & OP_GIVES) {
		header.flags = EVERING_OP_GIVEN;
		arena_give(&ops_endpoint(ops)->arena, op->granule);
	}
	if (op->state & OP_RETURNS)
		header.flags = EVERING_OP_BACK;
	ops_send(ops, &header, op_data(ops, op_index(ops, op)), op->generation,
		 op->buf_len);
	ops->prepared--;
	op->state &= ~(OP_PREPARED | OP_GIVES | OP_RETURNS);
	op->state |= OP_SENT;
	if (op->timeout) {
		op->deadline = deadline_after(op->timeout);
		heap_insert(ops, op);
	}
}

static bool can_start(struct evering_ops *ops, uint64_t id)
{
	(void)id;
	return ops_room(ops);
}

static bool can_submit(struct evering_ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->free != NONE && ops_room(ops);
}

int evering_op_start(struct evering_ops *ops, uint64_t id, int64_t timeout_ns)
{
	struct op *op = op_by_id(ops, id);
	int64_t deadline = 0;
	int ret;

	if (!op)
		return -ENOENT;
	if (!(op->state & OP_PREPARED))
		return -EALREADY;
	ret = ops_wait_for(ops, can_start, 0, true, timeout_ns, &deadline);
	if (ret)
		return ret;
	/* A callback may have done what it wanted, meanwhile. */
	if (op_by_id(ops, id) != op)
		return -ENOENT;
	if (!(op->state & OP_PREPARED))
		return -EALREADY;
	op_start(ops, op);
	return 0;
}

/* An operation with a buffer or a timeout, or one that has to wait. */
static int submit_any(struct evering_ops *ops, const struct evering_op *op,
		      uint64_t *id, int64_t timeout_ns)
{
	int64_t deadline = 0;
	uint64_t new;
	int ret;

	ret = check_op(ops, op);
	if (ret)
		return ret;
	ret = ops_wait_for(ops, can_submit, 0, true, timeout_ns, &deadline);
	if (ret)
		return ret;
	ret = evering_op_prepare(ops, op, &new);
	if (ret)
		return ret;
	op_start(ops, op_by_id(ops, new));
	if (id)
		*id = new;
	return 0;
}

int evering_op_submit(struct evering_ops *ops, const struct evering_op *from,
		      uint64_t *id, int64_t timeout_ns)
{
	struct evering_tx *tx = &ops->ev->tx;
	uint32_t n = tx->next, index = ops->free, len = from->len;
	unsigned char *slot;
	struct op *op;

	if (EVERING_UNLIKELY(from->flags | from->reserved | from->timeout_ns ||
			     len > ops->max_data || index == NONE ||
			     tx->limit - n <= ops->reserve ||
			     ops->homebound.count))
		return submit_any(ops, from, id, timeout_ns);
	op = &ops->ops[index];
	ops->free = op->next;
	ops->in_flight++;
	op->state = OP_PLAIN;
	op->done = from->done;
	op->user = from->user;
	op->ext = from->ext;
	if (id)
		*id = op->id;
	slot = evering__tx_slot(tx, n);
	*(uint64_t *)slot = (uint32_t)op->id |
			    (uint64_t)EVERING_OP_REQUEST << 32 |
			    (uint64_t)len << 48;
	((uint32_t *)slot)[2] = from->opcode;
	copy_few(slot + sizeof(struct evering_op_header), from->data, len);
	ops->dirty = true;
	evering__stamp(tx, slot, n);
	return 0;
}

int evering_op_cancel(struct evering_ops *ops, uint64_t id, unsigned int flags)
{
	struct op *op = op_by_id(ops, id);
	uint32_t index = id_index(id);

	if (flags & ~(EVERING_CANCEL_TELL | EVERING_CANCEL_DETACH))
		return -EINVAL;
	if (!op)
		return index < ops->depth && id >> EVERING_OP_INDEX_BITS &&
				       id < ops->ops[index].id ?
			       -EALREADY :
			       -ENOENT;
	if (op->state & OP_PREPARED) {
		op_unprepare(ops, op);
		return 0;
	}
	if (!(op->state & OP_OPEN))
		return -EALREADY;
	if (flags & EVERING_CANCEL_DETACH) {
		op_abandon(ops, op, -ECANCELED, flags & EVERING_CANCEL_TELL);
		return 0;
	}
	if (op->state & OP_ASKED)
		return -EALREADY;
	op->state |= OP_ASKED;
	if (flags & EVERING_CANCEL_TELL)
		op_tell(ops, op);
	return 0;
}

/* ------------------------------------------------------------------- waiting */

static void op_take(struct evering_ops *ops, struct op *op,
		    struct evering_completion *completion)
{
	*completion = (struct evering_completion){
		.id = op->id,
		.user = op->user,
		.ext = op->ext,
		.result = op->result,
		.len = op->len,
		.data = op->len ? ops->taken : NULL,
		.buf = op->buf,
		.buf_len = op->buf_len,
	};
	copy_blocks(ops->taken, op_data(ops, op_index(ops, op)), op->len);
	done_remove(ops, op);
	op->state &= ~OP_DONE;
	if (!(op->state & ANSWER_DUE))
		op_free(ops, op);
}

/* The operation, if it has an outcome to be taken, or will have. */
static struct op *op_to_take(const struct evering_ops *ops, uint64_t id)
{
	struct op *op = op_by_id(ops, id);

	return op && !op->done && (op->state & OUTCOME_DUE) ? op : NULL;
}

int evering_op_done(struct evering_ops *ops, uint64_t id,
		    struct evering_completion *completion)
{
	struct op *op = op_to_take(ops, id);

	if (!op)
		return -ENOENT;
	if (!(op->state & OP_DONE))
		return -EAGAIN;
	op_take(ops, op, completion);
	return 0;
}

/* Or is it not there any more, since a callback has taken it? */
static bool is_done(struct evering_ops *ops, uint64_t id)
{
	const struct op *op = op_to_take(ops, id);

	return !op || (op->state & OP_DONE);
}

int evering_op_wait(struct evering_ops *ops, uint64_t id,
		    struct evering_completion *completion, int64_t timeout_ns)
{
	int64_t deadline = 0;
	int ret;

	if (!op_to_take(ops, id))
		return -ENOENT;
	ret = ops_wait_for(ops, is_done, id, false, timeout_ns, &deadline);
	return ret ? ret : evering_op_done(ops, id, completion);
}

static bool any_done(struct evering_ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->done.count;
}

int evering_op_wait_any(struct evering_ops *ops,
			struct evering_completion *completion,
			int64_t timeout_ns)
{
	int64_t deadline = 0;
	int ret;

	if (!ops->done.count && ops->in_flight == ops->prepared)
		return -ENOENT;
	ret = ops_wait_for(ops, any_done, 0, false, timeout_ns, &deadline);
	if (ret)
		return ret;
	op_take(ops, &ops->ops[ops->done.head], completion);
	return 0;
}

static bool all_done(struct evering_ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->in_flight == ops->prepared;
}

int evering_op_wait_all(struct evering_ops *ops, int64_t timeout_ns)
{
	int64_t deadline = 0;

	return ops_wait_for(ops, all_done, 0, false, timeout_ns, &deadline);
}

int evering_op_call(struct evering_ops *ops, const struct evering_op *from,
		    struct evering_completion *completion, int64_t timeout_ns)
{
	struct evering_op op = *from;
	int64_t deadline = 0;
	uint64_t id;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	op.done = NULL;
	if (timeout_ns > 0)
		deadline = deadline_after(timeout_ns);
	ret = evering_op_submit(ops, &op, &id, timeout_ns);
	if (ret)
		return ret;
	ret = ops_wait_for(ops, is_done, id, false, timeout_ns, &deadline);
	if (ret && !is_done(ops, id)) {
		op_abandon(ops, op_by_id(ops, id),
			   ret == -EAGAIN ? -ETIMEDOUT : ret, true);
		evering_ops_flush(ops);
	}
	return evering_op_done(ops, id, completion);
}
