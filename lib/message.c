// SPDX-License-Identifier: MIT
/*
 * message.c: posts and messages, which get no answer; and calls whose request and
 * answer have any length.
 *
 * The receiver stores each post and message until it has finished with it, so that one
 * that is not taken never blocks answers in the ring.  Each side states in its OPEN
 * entry how many it stores, and the other side has a credit of that number.  The HOME
 * entries of the receiver state how many it has finished with, which returns the
 * credit.  The receiver sends one when it has finished with a quarter of what it
 * stores; and also before it sleeps, if at least half of the sender's credit is used
 * up.  So a sender without credit never waits for a receiver that has nothing to do.
 */
#include "ops.h"

/* As for writev(2). */
#define MAX_PIECES 1024

/* The length of all pieces.  Returns 0; -EINVAL. */
int iov_length(const struct iovec *iov, int count, uint64_t *len)
{
	uint64_t all = 0;
	int i;

	if (count < 0 || count > MAX_PIECES || (count && !iov))
		return -EINVAL;
	for (i = 0; i < count; i++) {
		if (!iov[i].iov_base && iov[i].iov_len)
			return -EINVAL;
		if (iov[i].iov_len > INT64_MAX - all)
			return -EINVAL;
		all += iov[i].iov_len;
	}
	*len = all;
	return 0;
}

void iov_gather(void *to, const struct iovec *iov, int count)
{
	unsigned char *at = to;
	int i;

	for (i = 0; i < count; i++) {
		evering_copy(at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
}

/* Copies as much as fits.  Returns 0; -EMSGSIZE: not everything fits. */
static int iov_scatter(const struct iovec *iov, int count, const void *from,
		       uint64_t len)
{
	const unsigned char *at = from;
	size_t piece;
	int i;

	for (i = 0; i < count && len; i++) {
		piece = iov[i].iov_len < len ? iov[i].iov_len : (size_t)len;
		evering__copy(iov[i].iov_base, at, piece);
		at += piece;
		len -= piece;
	}
	return len ? -EMSGSIZE : 0;
}

/* ------------------------------------------------------------------- credit */

/* The peer stores @store posts and messages of this side. */
void message_open(struct ops *ops, uint32_t store)
{
	ops->peer_store = store;
	ops->pub.credit = store;
}

/*
 * Whether to inform the peer before this side sleeps, because it may use up its credit.
 */
bool message_credit_due(const struct ops *ops)
{
	return ops_finished(ops) &&
	       ops->pub.received - ops->told >= ops->store - ops->store / 2;
}

/* The number for the peer: how many of its posts and messages are finished with. */
uint32_t message_tell(struct ops *ops)
{
	ops->told += ops_finished(ops);
	ops->pub.tell_in = ops->tell_at;
	return ops->told;
}

/*
 * Takes such a number from the peer.  Returns 0; -EPROTO: the peer cannot have finished
 * with so many.
 */
int message_told(struct ops *ops, uint32_t finished)
{
	uint32_t more = finished - ops->peer_finished;

	if (more > ops->peer_store - ops->pub.credit)
		return -EPROTO;
	ops->peer_finished = finished;
	ops->pub.credit += more;
	return 0;
}

/* ---------------------------------------------------------------- receiving */

static uint32_t stored_index(const struct ops *ops,
			     const struct evering__stored *stored)
{
	return stored->name & ops->pub.stored_mask;
}

/* A place for a post or message that arrives; NULL: all are used. */
static struct evering__stored *stored_take(struct ops *ops)
{
	struct evering__stored *stored = ops->pub.vacant;

	if (stored) {
		ops->pub.vacant = stored->vacant;
		return stored;
	}
	if (ops->stored_used == ops->store)
		return NULL;
	stored = &ops->pub.stored[++ops->stored_used];
	stored->name = ops->stored_used;
	stored->data =
		ops->stored_data + ((size_t)ops->stored_used << ops->stride);
	return stored;
}

/* Frees the place of one that is finished with. */
void message_finish(struct ops *ops, uint32_t at)
{
	struct evering__stored *stored = &ops->pub.stored[at];

	stored->state = 0;
	stored->plain = 0;
	stored->name += 1u << EVERING__STORED_BITS;
	stored->buf = NULL;
	stored->vacant = ops->pub.vacant;
	ops->pub.vacant = stored;
	ops->pub.tell_in--;
	/* A cold member has to look, to return the credit. */
	if (ops_endpoint(ops)->member)
		group_touched(ops_endpoint(ops));
	if ((int32_t)ops->pub.tell_in <= 0)
		evering__msg_tell(&ops->pub);
}

/* Informs the peer at once that it can send more.  Returns 0. */
int evering__msg_tell(struct evering_ops *table)
{
	struct ops *ops = to_ops(table);

	if (!ops->error) {
		ops_send_home(ops, false);
		ops_flush(ops);
	}
	return 0;
}

/* Whether any is not finished with yet. */
bool message_any(const struct ops *ops)
{
	const struct evering__stored *stored;
	uint32_t count = ops->stored_used;

	for (stored = ops->pub.vacant; stored; stored = stored->vacant)
		count--;
	return count;
}

/* Starts with a peer that has sent none, and was informed of none. */
void message_renew(struct ops *ops)
{
	ops->pub.received = 0;
	ops->pub.tell_in = ops->tell_at;
	ops->pub.credit = 0;
	ops->told = 0;
	ops->told_messages = 0;
	ops->freed = 0;
	ops->peer_store = 0;
	ops->peer_finished = 0;
}

/* The post that is stored at @at, for the user. */
struct evering_request message_post(const struct ops *ops, uint32_t at)
{
	const struct evering__stored *stored = &ops->pub.stored[at];

	return (struct evering_request){
		.opcode = stored->opcode,
		.flags = EVERING_POST | (stored->buf ? EVERING_GIVE : 0),
		.len = stored->len,
		.data = stored->data,
		.buf = stored->buf,
		.buf_len = stored->buf_len,
	};
}

static struct evering_msg message_at(const struct ops *ops, uint32_t at)
{
	const struct evering__stored *stored = &ops->pub.stored[at];

	return (struct evering_msg){
		.data = stored->buf ? stored->buf : stored->data,
		.len = stored->buf ? stored->buf_len : stored->len,
		.place = stored->name,
	};
}

static void post_deliver(struct ops *ops, uint32_t at)
{
	struct evering_request request = message_post(ops, at);

	ops->pub.stored[at].state = STORED_POST;
	if (ops->request == answer_later) {
		answer_post_later(ops, at);
		return;
	}
	ops->request(&ops->pub, &request, ops->context);
	message_finish(ops, at);
}

static void message_deliver(struct ops *ops, uint32_t at)
{
	struct evering__stored *stored = &ops->pub.stored[at];
	struct evering_msg msg = message_at(ops, at);

	if (ops->message) {
		stored->state = STORED_MESSAGE;
		ops->message(&ops->pub, &msg, ops->context);
		return;
	}
	stored->state = STORED_WAITS;
	if (ops->messages.count++)
		ops->pub.stored[ops->messages.tail].next = at;
	else
		ops->messages.head = at;
	ops->messages.tail = at;
	ops_update(ops);
}

/* Takes a post or message.  Returns 0, or why the channel ends. */
int message_arrived(struct ops *ops, struct arrival *arrival)
{
	const struct evering_op_header *h = &arrival->header;
	unsigned int kind = h->flags & EVERING_OP_BUFFER;
	bool post = h->type == EVERING_OP_POST;
	struct evering__stored *stored;
	int ret;

	if (kind && kind != EVERING_OP_GIVEN &&
	    !(post && kind == EVERING_OP_BACK))
		return -EPROTO;
	stored = stored_take(ops);
	if (!stored)
		return -EPROTO;
	ret = kind ? loan_arrived(ops, arrival) : 0;
	if (ret)
		return ret;
	ops->pub.received++;
	evering__copy_data(stored->data, arrival->data, h->len);
	stored->len = h->len;
	stored->opcode = h->code;
	stored->buf = arrival->buf;
	stored->buf_len = arrival->buf_len;
	if (post)
		post_deliver(ops, stored_index(ops, stored));
	else
		message_deliver(ops, stored_index(ops, stored));
	return 0;
}

static bool has_message(struct ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->messages.count;
}

int evering__msg_recv(struct evering_ops *table, struct evering_msg *msg,
		      int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	struct evering__stored *stored;
	int64_t deadline = 0;
	int ret;

	if (ops->message)
		return -EINVAL;
	ops_take(ops, &ops->takes_messages);
	ret = ops_wait_for(ops, has_message, 0, false, timeout_ns, &deadline);
	if (ret)
		return ret;
	*msg = message_at(ops, ops->messages.head);
	stored = &ops->pub.stored[ops->messages.head];
	ops->messages.head = stored->next;
	ops->messages.count--;
	stored->state = STORED_MESSAGE;
	ops_update(ops);
	return 0;
}

/*
 * Returns a buffer.  A few small ones are not worth an entry.  But if the sender's
 * arena holds only some messages, it should write the next one while this side reads
 * another.
 */
static void message_send_home(struct ops *ops,
			      const struct evering__stored *stored)
{
	uint64_t arena = (uint64_t)ops->loan_count * EVERING_OP_GRANULE;

	evering_free(ops->pub.ev, stored->buf);
	ops->freed += stored->buf_len;
	if (ops->freed < arena / 8 || ops->error)
		return;
	ops->freed = 0;
	ops_send_home(ops, false);
	ops_flush(ops);
}

int evering__msg_free(struct evering_ops *table, const struct evering_msg *msg)
{
	struct ops *ops = to_ops(table);
	uint32_t at = msg->place & table->stored_mask;
	struct evering__stored *stored = &table->stored[at];

	if (stored->name != msg->place || stored->state != STORED_MESSAGE)
		return -EINVAL;
	if (stored->buf)
		message_send_home(ops, stored);
	message_finish(ops, at);
	return 0;
}

/* ------------------------------------------------------------------ sending */

struct sending {
	uint64_t len;
	void *buf;
	int error;
};

/*
 * Whether @arg has got a buffer, or a reason why it never will.  Either side may have
 * to free one first.
 */
static bool can_alloc(struct ops *ops, uint64_t arg)
{
	struct sending *s = (struct sending *)(uintptr_t)arg;

	if (!s->buf)
		s->buf = evering_alloc(ops->pub.ev, s->len, 0);
	s->error = !s->buf && ops_out_of_memory(ops) ? -ENOMEM : 0;
	return s->buf || s->error;
}

/*
 * Whether a post or message of @arg can be sent, and then has its buffer; or never can
 * be, and then has its error.
 */
static bool can_send(struct ops *ops, uint64_t arg)
{
	struct sending *s = (struct sending *)(uintptr_t)arg;

	if (!ops->pub.credit || !ops_room(ops))
		return false;
	return s->len <= ops->pub.max_data || can_alloc(ops, arg);
}

/*
 * Waits until @can is true.  Returns 0; or an error of evering_msg_send() for waits and
 * memory.
 */
static int wait_to_send(struct ops *ops, ops_condition can, struct sending *s,
			int64_t timeout_ns, int64_t *deadline)
{
	int ret = ops_wait_for_room(ops, can, (uint64_t)(uintptr_t)s,
				    timeout_ns, deadline);

	return ret ? ret : s->error;
}

int evering__msg_send(struct evering_ops *table, const struct iovec *iov,
		      int count, int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	struct evering_op_header header = { .type = EVERING_OP_MESSAGE };
	struct evering_op_buffer name = { 0 };
	unsigned char data[EVERING_MAX_SLOT];
	struct sending s = { 0 };
	int64_t deadline = 0;
	int ret;

	ret = iov_length(iov, count, &s.len);
	if (ret)
		return ret;
	if (ops_closed(ops))
		return ops->error;
	if (s.len > ops->pub.max_data && s.len > ops_arena_size(ops))
		return -EMSGSIZE;
	ret = wait_to_send(ops, can_send, &s, timeout_ns, &deadline);
	if (ret)
		return ret;
	if (s.buf) {
		iov_gather(s.buf, iov, count);
		/*
		 * It belongs to this side and was just allocated, so it can be given.
		 */
		loan_give(ops, s.buf, s.len, &header.flags, &name);
	} else {
		iov_gather(data, iov, count);
		header.len = (uint16_t)s.len;
	}
	ops->pub.credit--;
	ops_send(ops, &header, data, &name);
	ops_flush(ops);
	return 0;
}

int evering_op_post(struct evering_ops *table, const struct evering_op *op,
		    int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	struct evering_op_header header = { .type = EVERING_OP_POST,
					    .len = (uint16_t)op->len,
					    .code = op->opcode };
	uint32_t most = ops->pub.max_data;
	struct evering_op_buffer name = { 0 };
	struct sending s = { 0 };
	int64_t deadline = 0;
	int ret;

	if (ops_closed(ops))
		return ops->error;
	if (op->reserved || op->timeout_ns || op->done || op->user || op->ext ||
	    (!op->data && op->len) ||
	    (op->flags ? op->flags != EVERING_GIVE || !op->buf : !!op->buf))
		return -EINVAL;
	if (op->buf)
		most -= (uint32_t)sizeof(name);
	if (op->len > most)
		return -EMSGSIZE;
	ret = wait_to_send(ops, can_send, &s, timeout_ns, &deadline);
	if (!ret && op->buf)
		ret = loan_give(ops, op->buf, op->buf_len, &header.flags,
				&name);
	if (ret)
		return ret;
	ops->pub.credit--;
	ops_send(ops, &header, op->data, &name);
	return 0;
}

/* -------------------------------------------------------------------- calls */

/* The rest of @timeout_ns, which ends at @deadline if it is limited. */
static int64_t what_is_left(int64_t timeout_ns, int64_t deadline)
{
	int64_t left;

	if (timeout_ns <= 0)
		return timeout_ns;
	left = deadline - now_ns();
	return left > 0 ? left : EVERING_NOWAIT;
}

static int call(struct evering_ops *table, struct evering_op *op,
		const struct iovec *out, int out_count,
		struct evering_completion *c, int64_t timeout_ns)
{
	int ret;

	ret = evering_op_call(table, op, c, timeout_ns);
	if (ret)
		return ret;
	if (c->buf) {
		ret = iov_scatter(out, out_count, c->buf, c->buf_len);
		if (c->buf != op->buf)
			evering_free(table->ev, c->buf);
	} else {
		ret = iov_scatter(out, out_count, c->data, c->len);
		c->buf_len = c->len;
	}
	c->data = NULL;
	c->buf = NULL;
	return ret;
}

int evering_op_callv(struct evering_ops *table, uint32_t opcode,
		     const struct iovec *in, int in_count,
		     const struct iovec *out, int out_count,
		     struct evering_completion *completion, int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	unsigned char data[EVERING_MAX_SLOT];
	struct evering_op op = { .opcode = opcode };
	struct sending s = { 0 };
	int64_t deadline = 0;
	uint64_t out_len;
	int ret;

	*completion = (struct evering_completion){ 0 };
	ret = iov_length(in, in_count, &s.len);
	if (!ret)
		ret = iov_length(out, out_count, &out_len);
	if (!ret && timeout_ns < EVERING_WAIT_FOREVER)
		ret = -EINVAL;
	if (ret)
		return ret;
	if (s.len <= ops->pub.max_data) {
		iov_gather(data, in, in_count);
		op.data = data;
		op.len = (uint32_t)s.len;
		return call(table, &op, out, out_count, completion, timeout_ns);
	}
	if (ops_closed(ops))
		return ops->error;
	if (s.len > ops_arena_size(ops))
		return -EMSGSIZE;
	if (timeout_ns > 0)
		deadline = deadline_after(timeout_ns);
	ret = wait_to_send(ops, can_alloc, &s, timeout_ns, &deadline);
	if (ret)
		return ret;
	iov_gather(s.buf, in, in_count);
	op.flags = EVERING_LEND;
	op.buf = s.buf;
	op.buf_len = s.len;
	ret = call(table, &op, out, out_count, completion,
		   what_is_left(timeout_ns, deadline));
	/* The peer may still read an abandoned buffer. */
	if (!(completion->flags & EVERING_ABANDONED))
		evering_free(ops->pub.ev, s.buf);
	return ret;
}
