// SPDX-License-Identifier: MIT
/*
 * answer.c: the answering side of operations, from the arrival of a request to its
 * answer.
 *
 * A request is held at the index that the peer gave it.  There are only as many indices
 * as this side has stated that it can hold.
 */
#include "ops.h"

static struct evering__held *held_by_id(const struct ops *ops, uint64_t id)
{
	struct evering__held *held = &ops->pub.held[id & ops->pub.held_mask];

	return held->plain && held->r.id == id && id ? held : NULL;
}

static uint32_t held_index(const struct ops *ops,
			   const struct evering__held *held)
{
	return (uint32_t)(held - ops->pub.held);
}

/* Makes it not plain, so that the fast path leaves it alone. */
static void unplain(const struct ops *ops, struct evering__held *held)
{
	held->plain = held_not_plain(held_index(ops, held));
	held->state |= HELD_BUSY;
}

/* Begins with no place that a request may take. */
void answer_init(struct ops *ops)
{
	uint32_t i;

	for (i = 0; i <= ops->pub.held_mask; i++) {
		ops->pub.held[i].r.data = held_data(ops, i);
		ops->pub.held[i].r.id = 0;
		unplain(ops, &ops->pub.held[i]);
	}
}

/* Lets @serve requests be in flight, with a few more indices than that, from 1 on. */
void answer_open(struct ops *ops, uint32_t serve)
{
	uint32_t i;

	ops->serve = serve;
	for (i = 1; serve && i <= serve + EVERING_OP_SPARE; i++) {
		ops->pub.held[i].plain = 0;
		ops->pub.held[i].state = 0;
	}
}

/* Whether a request may come with this id. */
bool answer_expects(const struct ops *ops, uint64_t id)
{
	return !ops->pub.held[id & ops->pub.held_mask].plain;
}

/* The link to what comes after @at in the inbox. */
static uint32_t *inbox_next(const struct ops *ops, uint32_t at)
{
	return at & INBOX_POST ? &ops->pub.stored[at & ~INBOX_POST].next :
				 &ops->pub.held[at].next;
}

static void inbox_push(struct ops *ops, uint32_t at)
{
	if (ops->inbox.count++)
		*inbox_next(ops, ops->inbox.tail) = at;
	else
		ops->inbox.head = at;
	ops->inbox.tail = at;
}

/*
 * The callback of tables without one: puts the request where evering_op_next() finds
 * it.
 */
void answer_later(struct evering_ops *table,
		  const struct evering_request *request, void *context)
{
	struct ops *ops = to_ops(table);
	uint32_t index = (uint32_t)request->id & table->held_mask;

	(void)context;
	unplain(ops, &table->held[index]);
	table->held[index].state |= HELD_INBOX;
	inbox_push(ops, index);
}

/* The same for the post that is stored at @at. */
void answer_post_later(struct ops *ops, uint32_t at)
{
	inbox_push(ops, at | INBOX_POST);
}

/*
 * Removes a request that was answered before evering_op_next() returned it; the
 * callback for a cancellation can do that.
 */
static void inbox_remove(struct ops *ops, uint32_t index)
{
	uint32_t at = ops->inbox.head, before = NONE;

	while (at != index) {
		before = at;
		at = *inbox_next(ops, at);
	}
	if (before == NONE)
		ops->inbox.head = *inbox_next(ops, at);
	else
		*inbox_next(ops, before) = *inbox_next(ops, at);
	if (ops->inbox.tail == at)
		ops->inbox.tail = before;
	ops->inbox.count--;
}

/* Takes a request that answer_expects(). */
void answer_requested(struct ops *ops, const struct arrival *arrival)
{
	const struct evering_op_header *h = &arrival->header;
	struct evering__held *held;
	unsigned int kind = h->flags & EVERING_OP_BUFFER;
	void *data;

	held = &ops->pub.held[h->id & ops->pub.held_mask];
	data = held_data(ops, held_index(ops, held));
	evering__copy_data(data, arrival->data, h->len);
	held->r = (struct evering_request){
		.id = h->id,
		.opcode = h->code,
		.len = h->len,
		.data = data,
		.buf = arrival->buf,
		.buf_len = arrival->buf_len,
	};
	unplain(ops, held);
	ops->pub.holding++;
	if (kind)
		held->r.flags = kind == EVERING_OP_LENT ? EVERING_LEND :
							  EVERING_GIVE;
	if (h->flags & EVERING_OP_AGAIN)
		held->r.flags |= EVERING_AGAIN;
	if (kind == EVERING_OP_LENT)
		held->state |= HELD_LENT;
	ops->request(&ops->pub, &held->r, ops->context);
}

/* The peer does not need the answer to @id, if that was not sent already. */
void answer_cancelled(struct ops *ops, uint64_t id)
{
	struct evering__held *held = held_by_id(ops, id);

	if (!held || (held->state & HELD_CANCELLED))
		return;
	unplain(ops, held);
	held->state |= HELD_CANCELLED;
	if (ops->cancelled)
		ops->cancelled(&ops->pub, id, ops->context);
}

/* Whether it still has to be answered.  If so, ops->ended will be called for it. */
bool answer_keep(struct ops *ops, uint64_t id)
{
	struct evering__held *held = held_by_id(ops, id);

	if (held)
		unplain(ops, held);
	return held;
}

/*
 * The next request from index *@at on that still has to be answered; 0: there is none.
 */
uint64_t answer_next_kept(const struct ops *ops, uint32_t *at)
{
	const struct evering__held *held;

	while (*at <= ops->pub.held_mask) {
		held = &ops->pub.held[(*at)++];
		/* A place that no request may take never had an id. */
		if (held->plain && held->r.id)
			return held->r.id;
	}
	return 0;
}

static bool has_request(struct ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->inbox.count;
}

int evering_op_next(struct evering_ops *table, struct evering_request *request,
		    int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	int64_t deadline = 0;
	uint32_t at;
	int ret;

	ops_take(ops, &ops->takes_requests);
	/* The data of the last post is invalid from now on. */
	if (ops->seen)
		message_finish(ops, ops->seen);
	ops->seen = 0;
	ret = ops_wait_for(ops, has_request, 0, false, timeout_ns, &deadline);
	if (ret)
		return ret;
	at = ops->inbox.head;
	ops->inbox.head = *inbox_next(ops, at);
	ops->inbox.count--;
	/* A callback has taken another post meanwhile. */
	if (ops->seen)
		message_finish(ops, ops->seen);
	ops->seen = 0;
	if (at & INBOX_POST) {
		ops->seen = at & ~INBOX_POST;
		*request = message_post(ops, ops->seen);
		return 0;
	}
	ops->pub.held[at].state &= ~HELD_INBOX;
	*request = ops->pub.held[at].r;
	return 0;
}

/* Ends a request that has its answer, or needs none any more. */
static void held_end(struct ops *ops, struct evering__held *held)
{
	if (held->state & HELD_LENT)
		loan_end(ops, held->r.buf);
	if (held->state & HELD_INBOX)
		inbox_remove(ops, held_index(ops, held));
	ops->pub.holding--;
	held->plain = 0;
	held->state = 0;
	held->r.flags = 0;
	held->r.buf = NULL;
	held->r.buf_len = 0;
	if (ops->ended)
		ops->ended(ops, held_index(ops, held));
}

/*
 * Whether it can be answered.  Returns 0; -ESTALE; -EAGAIN: no room; or why the channel
 * has ended, and the request with it.
 */
static int answerable(struct ops *ops, struct evering__held *held)
{
	int error = ops->error;

	if (!held)
		return -ESTALE;
	if (!error && !evering_reserve(ops->pub.ev)) {
		error = channel_error(ops_endpoint(ops));
		if (!error && ops->no_room)
			ops->no_room(ops);
		if (!error)
			return -EAGAIN;
	}
	if (error)
		held_end(ops, held);
	return error;
}

/*
 * Sends an answer that returns buffers or ends a loan, or for which there is no room.
 */
int evering__op_answer(struct evering_ops *table, uint64_t id, int32_t result,
		       const void *data, uint32_t len)
{
	struct ops *ops = to_ops(table);
	struct evering_op_header header = { .id = id,
					    .type = EVERING_OP_ANSWER,
					    .len = (uint16_t)len,
					    .code = (uint32_t)result };
	struct evering__held *held = held_by_id(ops, id);
	int ret;

	if (held && len > ops->pub.max_data)
		return -EMSGSIZE;
	if (held && !data && len)
		return -EINVAL;
	ret = answerable(ops, held);
	if (ret)
		return ret;
	ops_send(ops, &header, data, NULL);
	held_end(ops, held);
	return 0;
}

int evering_op_answer_buffer(struct evering_ops *table, uint64_t id,
			     int32_t result, void *buf, uint64_t buf_len)
{
	struct ops *ops = to_ops(table);
	struct evering_op_header header = { .id = id,
					    .type = EVERING_OP_ANSWER,
					    .code = (uint32_t)result };
	struct evering_op_buffer name = { .len_low = (uint32_t)buf_len,
					  .len_high =
						  (uint32_t)(buf_len >> 32) };
	struct evering__held *held = held_by_id(ops, id);
	int ret;

	ret = answerable(ops, held);
	if (ret)
		return ret;
	if ((held->state & HELD_LENT) && buf == held->r.buf) {
		if (!endpoint_shares(ops_endpoint(ops),
				     EVERING_REGION_ARENA_A) ||
		    !buf_len || buf_len > held->r.buf_len)
			return -EINVAL;
		header.flags = EVERING_OP_IN_PLACE;
	} else {
		ret = loan_give(ops, buf, buf_len, &header.flags, &name);
	}
	if (ret)
		return ret;
	ops_send(ops, &header, NULL, &name);
	held_end(ops, held);
	return 0;
}

struct answering {
	uint64_t id;
	const struct iovec *iov;
	int count;
	uint64_t len;
	void *buf;
	int error;
};

/* The buffer that was lent with the request, if an answer may overwrite it. */
static void *answer_in_place(struct ops *ops, const struct evering__held *held,
			     const struct answering *a)
{
	uintptr_t from = (uintptr_t)held->r.buf, piece;
	int i;

	if (!(held->state & HELD_LENT) || a->len > held->r.buf_len ||
	    !endpoint_shares(ops_endpoint(ops), EVERING_REGION_ARENA_A))
		return NULL;
	for (i = 0; i < a->count; i++) {
		piece = (uintptr_t)a->iov[i].iov_base;
		if (piece < from + held->r.buf_len &&
		    from < piece + a->iov[i].iov_len)
			return NULL;
	}
	return held->r.buf;
}

/* Whether there is room for the answer, or nothing to be answered any more. */
static bool can_answer(struct ops *ops, uint64_t arg)
{
	struct answering *a = (struct answering *)(uintptr_t)arg;
	const struct evering__held *held = held_by_id(ops, a->id);

	if (!held)
		return true;
	if (!a->buf)
		a->buf = answer_in_place(ops, held, a);
	if (!a->buf)
		a->buf = evering_alloc(ops->pub.ev, a->len, 0);
	a->error = 0;
	if (!a->buf && a->len > ops_arena_size(ops))
		a->error = -EMSGSIZE;
	else if (!a->buf && ops_out_of_memory(ops))
		a->error = -ENOMEM;
	return a->buf || a->error;
}

int evering_op_answerv(struct evering_ops *table, uint64_t id, int32_t result,
		       const struct iovec *iov, int count, int64_t timeout_ns)
{
	struct answering a = { .id = id, .iov = iov, .count = count };
	struct ops *ops = to_ops(table);
	unsigned char data[EVERING_MAX_SLOT];
	int64_t deadline = 0;
	int ret;

	ret = iov_length(iov, count, &a.len);
	if (ret)
		return ret;
	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	if (a.len <= ops->pub.max_data) {
		iov_gather(data, iov, count);
		return evering_op_answer(table, id, result, data,
					 (uint32_t)a.len);
	}
	ret = ops->error;
	if (!ret)
		ret = ops_wait_for_room(ops, can_answer,
					(uint64_t)(uintptr_t)&a, timeout_ns,
					&deadline);
	if (!ret)
		ret = a.error;
	if (ret && ret != ops->error)
		return ret;
	/* If there is no room, this returns why. */
	if (!a.buf)
		return evering_op_answer(table, id, result, NULL, 0);
	iov_gather(a.buf, iov, count);
	ret = evering_op_answer_buffer(table, id, result, a.buf, a.len);
	if (ret)
		evering_free(ops->pub.ev, a.buf);
	return ret;
}

void *evering_op_answer_alloc(struct evering_ops *table, uint64_t id,
			      uint64_t size)
{
	struct ops *ops = to_ops(table);
	struct evering__held *held = held_by_id(ops, id);

	if (!held)
		return NULL;
	if ((held->state & HELD_LENT) && size && size <= held->r.buf_len &&
	    endpoint_shares(ops_endpoint(ops), EVERING_REGION_ARENA_A))
		return held->r.buf;
	return evering_alloc(ops->pub.ev, size, 0);
}

int evering_op_cancelled(const struct evering_ops *table, uint64_t id)
{
	const struct ops *ops = to_const_ops(table);
	const struct evering__held *held = held_by_id(ops, id);

	if (!held)
		return -ESTALE;
	return !!(held->state & HELD_CANCELLED);
}
