// SPDX-License-Identifier: MIT
/*
 * ask.c: the submitting side of operations, from submission to the outcome.
 *
 * An operation is over when two things have come: the outcome for the caller (OP_OPEN
 * until then, and perhaps OP_DONE until it is taken), and the answer, before which the
 * peer may use the operation's resources (OP_SENT).  Then its place is free.
 */
#include "ops.h"

#define OUTCOME_DUE (OP_OPEN | OP_DONE)

/* Makes it not plain, so that the fast path leaves it alone. */
static void unplain(struct evering__place *place)
{
	if (!place->expect)
		return;
	place->expect = 0;
	place->state = OP_SENT | OP_OPEN;
}

/* The place of an operation that is not over.  It is not plain from here on. */
static struct evering__place *place_by_id(const struct ops *ops, uint64_t id)
{
	struct evering__place *place;

	place = &ops->pub.places[id & ops->pub.place_mask];
	if (!id || place->c.id != id)
		return NULL;
	unplain(place);
	return place->state ? place : NULL;
}

static uint32_t place_index(const struct ops *ops,
			    const struct evering__place *place)
{
	return (uint32_t)(place - ops->pub.places);
}

static void place_push(struct evering__place **list,
		       struct evering__place *place)
{
	place->next = *list;
	*list = place;
}

static struct evering__place *place_pop(struct evering__place **list)
{
	struct evering__place *place = *list;

	*list = place->next;
	return place;
}

static void place_init(struct ops *ops, uint32_t index,
		       struct evering__place **list)
{
	struct evering__place *place = &ops->pub.places[index];

	/* The ids differ from those of a predecessor. */
	place->c.id = index | (uint64_t)ops_endpoint(ops)->peers << 48;
	place->c.data = place_data(ops, index);
	place->c.flags = EVERING_ANSWERED;
	place_push(list, place);
}

/* Begins without a free place.  The place with index 0 is never in flight. */
void ask_init(struct ops *ops)
{
	uint32_t i;

	for (i = EVERING_OP_SPARE; i; i--)
		place_init(ops, i, &ops->spare);
	ops->pub.places[0].expect = 1; /* which no id with index 0 is */
}

/* Makes @depth places free. */
void ask_open(struct ops *ops, uint32_t depth)
{
	uint32_t i;

	ops->depth = depth;
	for (i = depth; i; i--)
		place_init(ops, EVERING_OP_SPARE + i, &ops->pub.free);
}

/* Sets what the fast path expects in a free place. */
static void place_clear(struct evering__place *place)
{
	place->state = 0;
	place->c.flags = EVERING_ANSWERED;
	place->c.ext = 0;
	place->c.buf = NULL;
	place->c.buf_len = 0;
}

static void place_free(struct ops *ops, struct evering__place *place)
{
	place_clear(place);
	place_push(&ops->pub.free, place);
}

/* --------------------------------------------- operations done, oldest first */

static void done_push(struct ops *ops, struct evering__place *place)
{
	place->next = NULL;
	place->prev = ops->last_done;
	if (ops->last_done)
		ops->last_done->next = place;
	else
		ops->first_done = place;
	ops->last_done = place;
	ops->done++;
}

static void done_remove(struct ops *ops, struct evering__place *place)
{
	if (place->prev)
		place->prev->next = place->next;
	else
		ops->first_done = place->next;
	if (place->next)
		place->next->prev = place->prev;
	else
		ops->last_done = place->prev;
	ops->done--;
}

/* ------------------------------------- those that may take so long, in a heap */

static void heap_put(struct ops *ops, uint32_t at, uint32_t index)
{
	ops->heap[at] = index;
	ops->pub.places[index].heap = at;
}

static int64_t heap_deadline(const struct ops *ops, uint32_t at)
{
	return ops->pub.places[ops->heap[at]].deadline;
}

static void heap_up(struct ops *ops, uint32_t at)
{
	uint32_t index = ops->heap[at], parent;

	for (; at; at = parent) {
		parent = (at - 1) / 2;
		if (heap_deadline(ops, parent) <=
		    ops->pub.places[index].deadline)
			break;
		heap_put(ops, at, ops->heap[parent]);
	}
	heap_put(ops, at, index);
}

static void heap_down(struct ops *ops, uint32_t at)
{
	uint32_t index = ops->heap[at], child;

	for (;; at = child) {
		child = 2 * at + 1;
		if (child >= ops->heap_count)
			break;
		if (child + 1 < ops->heap_count &&
		    heap_deadline(ops, child + 1) < heap_deadline(ops, child))
			child++;
		if (ops->pub.places[index].deadline <=
		    heap_deadline(ops, child))
			break;
		heap_put(ops, at, ops->heap[child]);
	}
	heap_put(ops, at, index);
}

static void heap_insert(struct ops *ops, struct evering__place *place)
{
	heap_put(ops, ops->heap_count++, place_index(ops, place));
	heap_up(ops, place->heap);
	if (ops_endpoint(ops)->member)
		group_due(ops_endpoint(ops), place->deadline);
	place->state |= OP_TIMED;
}

static void heap_remove(struct ops *ops, struct evering__place *place)
{
	uint32_t at = place->heap, last;

	if (!(place->state & OP_TIMED))
		return;
	place->state &= ~OP_TIMED;
	last = ops->heap[--ops->heap_count];
	if (at == ops->heap_count)
		return;
	heap_put(ops, at, last);
	heap_up(ops, at);
	heap_down(ops, ops->pub.places[last].heap);
}

/* ------------------------------------------------------------------ outcomes */

/* Gives the caller the outcome.  The place is free if the answer has come too. */
static void op_outcome(struct ops *ops, struct evering__place *place,
		       int32_t result, const struct arrival *arrival)
{
	struct evering_completion *c = &place->c, copy;
	evering_done_fn done = place->done;

	heap_remove(ops, place);
	place->state &= ~OP_OPEN;
	/* It was not sent to this peer, perhaps to an earlier one. */
	if (place->state & OP_QUEUED)
		place->state |= place->state & OP_AGAIN ? OP_BEGUN : OP_UNSEEN;
	ops->pub.in_flight--;
	c->result = result;
	c->len = 0;
	c->flags = place->state & OP_LENDS ? EVERING_ABANDONED : 0;
	if (place->state & OP_BEGUN)
		c->flags |= EVERING_BEGUN;
	if (place->state & OP_UNSEEN)
		c->flags |= EVERING_UNSEEN;
	if (arrival) {
		c->len = arrival->header.len;
		c->flags = EVERING_ANSWERED;
		c->buf = arrival->buf;
		c->buf_len = arrival->buf_len;
		evering__copy_data(place_data(ops, place_index(ops, place)),
				   arrival->data, c->len);
	}
	if (!done) {
		ops->takeable--;
		place->state |= OP_DONE;
		done_push(ops, place);
		return;
	}
	copy = *c;
	c->buf = NULL;
	c->buf_len = 0;
	ops->calls++;
	if (place->state & OP_SENT) {
		done(&ops->pub, &copy);
		ops->calls--;
		return;
	}
	/* The place must not be used while the callback may look at its data. */
	if (ops->spare)
		place_free(ops, place_pop(&ops->spare));
	place_clear(place);
	done(&ops->pub, &copy);
	place_push(&ops->spare, place);
	ops->calls--;
}

/*
 * The peer can no longer use the buffer that was lent with the operation.  If the
 * caller still waits, it gets the buffer back; else the buffer is freed.
 */
static void op_unlend(struct ops *ops, struct evering__place *place)
{
	if (!(place->state & OP_LENDS))
		return;
	place->state &= ~OP_LENDS;
	arena_take_back(&ops_endpoint(ops)->arena, place->granule,
			!(place->state & OP_OPEN));
}

/* The answer has come, or will never come. */
static void op_answered(struct ops *ops, struct evering__place *place,
			int32_t result, const struct arrival *arrival)
{
	op_unlend(ops, place);
	place->state &= ~OP_SENT;
	if ((place->state & OP_OPEN) && !(place->state & OP_ASKED)) {
		op_outcome(ops, place, result, arrival);
		return;
	}
	/* The caller does not want what it brings. */
	if (arrival && arrival->buf &&
	    (arrival->header.flags & EVERING_OP_BUFFER) != EVERING_OP_IN_PLACE)
		evering_free(ops->pub.ev, arrival->buf);
	if (place->state & OP_OPEN) {
		op_outcome(ops, place, -ECANCELED, NULL);
		return;
	}
	ops->abandoned--;
	if (!(place->state & OUTCOME_DUE))
		place_free(ops, place);
}

/* Whether the operation was sent to this peer, and is not answered. */
bool ask_expects(const struct ops *ops, uint64_t id)
{
	const struct evering__place *place = place_by_id(ops, id);

	return place &&
	       (place->state & (OP_SENT | OP_QUEUED | OP_ENDS)) == OP_SENT;
}

/*
 * Takes an answer that ask_expects().  Returns 0; -EPROTO: its buffer is not the one
 * that was lent.
 */
int ask_answered(struct ops *ops, const struct arrival *from)
{
	struct evering__place *place = place_by_id(ops, from->header.id);
	struct arrival arrival = *from;

	if ((from->header.flags & EVERING_OP_BUFFER) == EVERING_OP_IN_PLACE) {
		if (!(place->state & OP_LENDS) || !arrival.buf_len ||
		    arrival.buf_len > place->buf_len ||
		    !endpoint_shares(ops_endpoint(ops), EVERING_REGION_ARENA_A))
			return -EPROTO;
		arrival.buf = place->buf;
	}
	op_answered(ops, place, (int32_t)arrival.header.code, &arrival);
	return 0;
}

/* Informs the peer which answers are not needed any more, while there is room. */
void ask_tell(struct ops *ops)
{
	struct evering_op_header header = { .type = EVERING_OP_CANCEL };
	const struct evering__place *place;

	while (ops->tell_count && ops_room_beside(ops)) {
		header.id = ops->tell[ops->tell_first];
		if (++ops->tell_first == ops->size)
			ops->tell_first = 0;
		ops->tell_count--;
		place = place_by_id(ops, header.id);
		if (place && (place->state & OP_SENT))
			ops_send(ops, &header, NULL, NULL);
	}
}

/* This is only advice: if there is no room to remember it, the peer is not informed. */
static void op_tell(struct ops *ops, const struct evering__place *place)
{
	uint32_t at;

	if (ops->tell_count == ops->size)
		return;
	at = ops->tell_first + ops->tell_count++;
	if (at >= ops->size)
		at -= ops->size;
	ops->tell[at] = place->c.id;
	ask_tell(ops);
}

/* Gives the caller its outcome before the answer has come. */
static void op_abandon(struct ops *ops, struct evering__place *place,
		       int32_t result, bool tell)
{
	if (tell)
		op_tell(ops, place);
	/*
	 * A peer that is gone uses nothing any more, unless the channel was ended by
	 * force.
	 */
	if (ops->outlives && ops->error == -EPIPE && !ops_endpoint(ops)->fenced)
		op_unlend(ops, place);
	ops->abandoned++;
	op_outcome(ops, place, result, NULL);
}

/* Abandons operations that have taken too long.  Returns how many. */
int ask_expire(struct ops *ops)
{
	int64_t now = now_ns();
	struct evering__place *place;
	int n = 0;

	while (ops->heap_count && heap_deadline(ops, 0) <= now) {
		place = &ops->pub.places[ops->heap[0]];
		op_abandon(ops, place, -ETIMEDOUT, true);
		n++;
	}
	return n;
}

/* The operation was never sent, so its buffer is as before. */
static void op_unprepare(struct ops *ops, struct evering__place *place)
{
	if (place->state & (OP_LENDS | OP_GIVES))
		arena_take_back(&ops_endpoint(ops)->arena, place->granule,
				false);
	if (place->state & OP_RETURNS)
		loan_keep(ops, place->granule, place->generation);
	ops->prepared--;
	ops->pub.in_flight--;
	place_free(ops, place);
}

/*
 * Ends an operation to which no answer will come; @closing: because the table closes.
 */
static void op_end(struct ops *ops, struct evering__place *place,
		   int32_t result, bool closing)
{
	if (!closing) {
		op_answered(ops, place, result, NULL);
		return;
	}
	/* The lent buffer stays locked until evering_close(). */
	place->state &= ~OP_SENT;
	if (place->state & OP_OPEN)
		op_outcome(ops, place, result, NULL);
}

/* The dead peer has not taken up this entry; perhaps an earlier peer has. */
static void mark_unseen(struct ops *ops, const unsigned char *entry)
{
	struct evering_op_header header;
	struct evering__place *place;

	memcpy(&header, entry, sizeof(header));
	place = header.type == EVERING_OP_REQUEST ?
			place_by_id(ops, header.id) :
			NULL;
	if (place && (place->state & OP_SENT) && !(place->state & OP_AGAIN))
		place->state ^= OP_BEGUN | OP_UNSEEN;
}

/*
 * Finds what the dead peer did about the operations that it has not answered.  A
 * request that it has not taken up is still in its slot, or was not sent again yet.
 */
void ask_mark_fates(struct ops *ops)
{
	const struct evering_tx *tx = &ops->pub.ev->tx;
	const struct again *again = &ops->again;
	struct evering__place *place;
	uint32_t i, n;

	for (i = 1; i <= ops->depth + EVERING_OP_SPARE; i++) {
		place = &ops->pub.places[i];
		unplain(place);
		place->state &= ~OP_UNSEEN;
		if (place->state & OP_SENT)
			place->state |= OP_BEGUN;
	}
	for (n = tx->next - ops_unseen(ops); n != tx->next; n++)
		mark_unseen(ops, evering__tx_slot(tx, n));
	for (n = again->at; n < again->count; n++)
		mark_unseen(ops, again->entries + (size_t)n * again->size);
}

/* ---------------------------------------------------------------- a successor */

/* Whether a prepared operation gives a buffer of the dead peer back. */
bool ask_gives_back(const struct ops *ops)
{
	uint32_t i;

	for (i = 1; i <= ops->depth + EVERING_OP_SPARE; i++)
		if (ops->pub.places[i].state & OP_RETURNS)
			return true;
	return false;
}

void ask_queue_none(struct ops *ops)
{
	uint32_t i;

	for (i = 1; i <= ops->depth + EVERING_OP_SPARE; i++)
		ops->pub.places[i].state &= ~OP_QUEUED;
}

static bool is_awaited(const struct evering__place *place)
{
	return (place->state & (OP_SENT | OP_OPEN | OP_ASKED)) ==
	       (OP_SENT | OP_OPEN);
}

/* Queues the operation for the successor, if its answer is still wanted. */
bool ask_queue(struct ops *ops, uint64_t id)
{
	struct evering__place *place = place_by_id(ops, id);

	if (!place || !is_awaited(place))
		return false;
	place->state |= OP_QUEUED;
	return true;
}

/* The operation cannot be sent to the successor.  It counts as begun. */
void ask_unqueue(struct ops *ops, uint64_t id)
{
	struct evering__place *place = place_by_id(ops, id);

	if (!place)
		return;
	place->state &= ~(OP_QUEUED | OP_UNSEEN);
	place->state |= OP_BEGUN;
}

/* The header of the request of @place, which has no outcome. */
static struct evering_op_header request_of(const struct evering__place *place)
{
	return (struct evering_op_header){ .id = place->c.id,
					   .type = EVERING_OP_REQUEST,
					   .len = place->c.len,
					   .code = (uint32_t)place->c.result };
}

static struct evering_op_buffer buffer_of(const struct evering__place *place)
{
	return (struct evering_op_buffer){
		.granule = place->granule,
		.generation = place->generation,
		.len_low = (uint32_t)place->buf_len,
		.len_high = (uint32_t)(place->buf_len >> 32),
	};
}

/* Writes the request of @place, for a peer that does not know it. */
static void write_again(const struct ops *ops,
			const struct evering__place *place,
			unsigned char *entry)
{
	struct evering_op_header header = request_of(place);
	struct evering_op_buffer name = buffer_of(place);

	header.flags = EVERING_OP_AGAIN;
	/* All of the entry goes into memory that the peer reads. */
	memset(entry, 0, ops->pub.ev->tx.payload);
	if (place->state & OP_LENDS) {
		header.flags |= EVERING_OP_LENT;
		memcpy(entry + ops->pub.ev->tx.payload - sizeof(name), &name,
		       sizeof(name));
	}
	memcpy(entry, &header, sizeof(header));
	memcpy(entry + sizeof(header), place->c.data, header.len);
}

/*
 * Finds the next operation from index *@at on that was begun, is not queued, and may be
 * begun twice, and writes its request. false: there is none.
 */
bool ask_next_reissue(struct ops *ops, uint32_t *at, unsigned char *entry)
{
	struct evering__place *place;

	while (++*at <= ops->depth + EVERING_OP_SPARE) {
		place = &ops->pub.places[*at];
		if (!is_awaited(place) ||
		    (place->state & (OP_REISSUE | OP_QUEUED)) != OP_REISSUE)
			continue;
		place->state |= OP_QUEUED | OP_AGAIN;
		write_again(ops, place, entry);
		return true;
	}
	return false;
}

/*
 * The successor is there, so operations that it will not get are over.  They are marked
 * before the first of them ends, because its callback may submit others.
 */
void ask_succeed(struct ops *ops)
{
	struct evering__place *place;
	uint32_t i;

	for (i = 1; i <= ops->depth + EVERING_OP_SPARE; i++) {
		place = &ops->pub.places[i];
		if (place->state & OP_QUEUED)
			place->state &= ~(OP_BEGUN | OP_UNSEEN);
		else if (place->state & OP_SENT)
			place->state |= OP_ENDS;
	}
	for (i = 1; i <= ops->depth + EVERING_OP_SPARE; i++) {
		place = &ops->pub.places[i];
		if (!(place->state & OP_ENDS))
			continue;
		place->state &= ~OP_ENDS;
		/*
		 * The callback of an earlier one may have found out that all are over.
		 */
		if (place->state & OP_SENT)
			op_answered(ops, place, -EOWNERDEAD, NULL);
	}
}

/* Whether the answer to the queued request @id is still wanted. */
bool ask_is_awaited(const struct ops *ops, uint64_t id)
{
	const struct evering__place *place = place_by_id(ops, id);

	return place && is_awaited(place);
}

/*
 * The queued request is sent.  If its answer is not wanted any more, it is not sent,
 * and ends.
 */
void ask_sends(struct ops *ops, uint64_t id)
{
	struct evering__place *place = place_by_id(ops, id);

	if (!place || !(place->state & OP_SENT))
		return;
	if (is_awaited(place))
		place->state &= ~OP_QUEUED;
	else
		op_answered(ops, place, -ECANCELED, NULL);
}

/*
 * Ends all operations, because no more answers will come.  When a table closes, the
 * peer may still be there and use the buffers that were lent to it.
 */
void ask_end_all(struct ops *ops, int result, bool closing)
{
	struct evering__place *place;
	uint32_t i;

	if (!closing && result == -EPIPE)
		ask_mark_fates(ops);
	for (i = 1; i <= ops->depth + EVERING_OP_SPARE; i++) {
		place = &ops->pub.places[i];
		unplain(place);
		if (closing && (place->state & OP_PREPARED))
			op_unprepare(ops, place);
		if (place->state & OP_SENT)
			op_end(ops, place, result, closing);
	}
}

/* ------------------------------------------------------------------- asking */

/* Checks an operation, except its buffer, which is checked later. */
static int check_op(const struct ops *ops, const struct evering_op *op)
{
	uint32_t most = ops->pub.max_data, buffer = op->flags;

	if (ops_closed(ops))
		return ops->error;
	/* A buffer that is given to a peer that goes away may not exist any more. */
	if ((buffer & ~EVERING_REISSUE) != EVERING_GIVE)
		buffer &= ~EVERING_REISSUE;
	if (op->reserved || op->timeout_ns < EVERING_WAIT_FOREVER ||
	    (!op->data && op->len) || (op->buf && !buffer) ||
	    (buffer && buffer != EVERING_LEND && buffer != EVERING_GIVE))
		return -EINVAL;
	if (buffer)
		most -= (uint32_t)sizeof(struct evering_op_buffer);
	return op->len > most ? -EMSGSIZE : 0;
}

/*
 * Locks its buffer.  A buffer that is given belongs to the peer when the operation is
 * sent.
 */
static int take_buffer(struct ops *ops, const struct evering_op *op,
		       struct evering__place *place)
{
	struct arena *arena = &ops_endpoint(ops)->arena;

	place->buf = op->buf;
	place->buf_len = op->buf_len;
	if (arena_has(arena, op->buf)) {
		place->state |= op->flags & EVERING_LEND ? OP_LENDS : OP_GIVES;
		return arena_hand_out(arena, op->buf, op->buf_len, HOLD_LENT,
				      &place->granule, &place->generation);
	}
	if (op->flags != EVERING_GIVE)
		return -EINVAL;
	place->state |= OP_RETURNS;
	return loan_give_back(ops, op->buf, op->buf_len, &place->granule,
			      &place->generation);
}

int evering_op_prepare(struct evering_ops *table, const struct evering_op *op,
		       uint64_t *id)
{
	struct ops *ops = to_ops(table);
	struct evering__place *place = ops->pub.free;
	int ret;

	ret = check_op(ops, op);
	if (!ret)
		ret = ops->error;
	if (ret)
		return ret;
	if (!place)
		return -EAGAIN;
	place->state = OP_OPEN | OP_PREPARED;
	if (op->flags & EVERING_REISSUE)
		place->state |= OP_REISSUE;
	if (op->flags & (EVERING_LEND | EVERING_GIVE)) {
		ret = take_buffer(ops, op, place);
		if (ret) {
			place->state = 0;
			return ret;
		}
	}
	ops->pub.free = place->next;
	ops->prepared++;
	ops->pub.in_flight++;
	place->c.id += (uint64_t)1 << EVERING_OP_INDEX_BITS;
	place->c.user = op->user;
	place->c.ext = op->ext;
	place->c.result = (int32_t)op->opcode;
	place->c.len = (uint16_t)op->len;
	place->done = op->done;
	place->deadline = op->timeout_ns;
	evering__copy(place_data(ops, place_index(ops, place)), op->data,
		      op->len);
	*id = place->c.id;
	return 0;
}

static void op_start(struct ops *ops, struct evering__place *place)
{
	struct evering_op_header header = request_of(place);
	struct evering_op_buffer name = buffer_of(place);

	if (place->state & OP_LENDS)
		header.flags = EVERING_OP_LENT;
	if (place->state & OP_GIVES) {
		header.flags = EVERING_OP_GIVEN;
		arena_give(&ops_endpoint(ops)->arena, place->granule);
	}
	if (place->state & OP_RETURNS) {
		header.flags = EVERING_OP_BACK;
		loan_end(ops, place->buf);
	}
	ops_send(ops, &header, place->c.data, &name);
	ops->prepared--;
	place->state &= ~(OP_PREPARED | OP_GIVES | OP_RETURNS);
	place->state |= OP_SENT;
	if (!place->done)
		ops->takeable++;
	if (place->deadline > 0) {
		place->deadline = deadline_after(place->deadline);
		heap_insert(ops, place);
	}
}

static bool can_start(struct ops *ops, uint64_t arg)
{
	(void)arg;
	return ops_room(ops);
}

static bool can_submit(struct ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->pub.free && ops_room(ops);
}

int evering_op_start(struct evering_ops *table, uint64_t id, int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	struct evering__place *place = place_by_id(ops, id);
	int64_t deadline = 0;
	int ret;

	if (!place)
		return -ENOENT;
	if (!(place->state & OP_PREPARED))
		return -EALREADY;
	ret = ops_wait_for_room(ops, can_start, 0, timeout_ns, &deadline);
	if (ret)
		return ret;
	/* A callback may have ended or started it meanwhile. */
	if (!place_by_id(ops, id))
		return -ENOENT;
	if (!(place->state & OP_PREPARED))
		return -EALREADY;
	op_start(ops, place);
	return 0;
}

/* Submits a plain operation that has to wait. */
int evering__op_submit_data(struct evering_ops *table, uint32_t opcode,
			    const void *data, uint32_t len,
			    evering_done_fn done, void *user,
			    int64_t timeout_ns)
{
	const struct evering_op op = {
		.opcode = opcode,
		.data = data,
		.len = len,
		.done = done,
		.user = user,
	};

	if (!done)
		return -EINVAL;
	return evering__op_submit(table, &op, NULL, timeout_ns);
}

/* Submits an operation that is not plain, or has to wait. */
int evering__op_submit(struct evering_ops *table, const struct evering_op *op,
		       uint64_t *id, int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	int64_t deadline = 0;
	uint64_t new;
	int ret;

	ret = check_op(ops, op);
	if (ret)
		return ret;
	ret = ops_wait_for_room(ops, can_submit, 0, timeout_ns, &deadline);
	if (ret)
		return ret;
	ret = evering_op_prepare(table, op, &new);
	if (ret)
		return ret;
	op_start(ops, place_by_id(ops, new));
	if (id)
		*id = new;
	return 0;
}

int evering_op_cancel(struct evering_ops *table, uint64_t id,
		      unsigned int flags)
{
	struct ops *ops = to_ops(table);
	struct evering__place *place = place_by_id(ops, id);
	bool tell = flags & EVERING_CANCEL_TELL;

	if (flags & ~(EVERING_CANCEL_TELL | EVERING_CANCEL_DETACH))
		return -EINVAL;
	if (!place) {
		place = &ops->pub.places[id & ops->pub.place_mask];
		return id_index(id) == id_index(place->c.id) &&
				       id >> EVERING_OP_INDEX_BITS &&
				       id <= place->c.id ?
			       -EALREADY :
			       -ENOENT;
	}
	if (place->state & OP_PREPARED) {
		op_unprepare(ops, place);
		return 0;
	}
	if (!(place->state & OP_OPEN))
		return -EALREADY;
	if (flags & EVERING_CANCEL_DETACH) {
		op_abandon(ops, place, -ECANCELED, tell);
		return 0;
	}
	if (place->state & OP_ASKED)
		return -EALREADY;
	place->state |= OP_ASKED;
	if (tell)
		op_tell(ops, place);
	return 0;
}

/* ------------------------------------------------------------------- waiting */

static void op_take(struct ops *ops, struct evering__place *place,
		    struct evering_completion *completion)
{
	*completion = place->c;
	completion->data = ops->taken;
	evering__copy_data(ops->taken, place_data(ops, place_index(ops, place)),
			   completion->len);
	done_remove(ops, place);
	place->state &= ~OP_DONE;
	if (!(place->state & OP_SENT))
		place_free(ops, place);
}

/* The operation, if it has an outcome to be taken, or will have one. */
static struct evering__place *to_take(const struct ops *ops, uint64_t id)
{
	struct evering__place *place = place_by_id(ops, id);

	return place && !place->done && (place->state & OUTCOME_DUE) ? place :
								       NULL;
}

int evering_op_done(struct evering_ops *table, uint64_t id,
		    struct evering_completion *completion)
{
	struct ops *ops = to_ops(table);
	struct evering__place *place = to_take(ops, id);

	if (!place)
		return -ENOENT;
	if (!(place->state & OP_DONE))
		return -EAGAIN;
	op_take(ops, place, completion);
	return 0;
}

/* Whether the operation has an outcome, or is gone because a callback has taken it. */
static bool is_done(struct ops *ops, uint64_t id)
{
	const struct evering__place *place = to_take(ops, id);

	return !place || (place->state & OP_DONE);
}

int evering_op_wait(struct evering_ops *table, uint64_t id,
		    struct evering_completion *completion, int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	int64_t deadline = 0;
	int ret;

	if (!to_take(ops, id))
		return -ENOENT;
	ret = ops_wait_for(ops, is_done, id, false, timeout_ns, &deadline);
	return ret ? ret : evering_op_done(table, id, completion);
}

static bool any_done(struct ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->done;
}

int evering_op_wait_any(struct evering_ops *table,
			struct evering_completion *completion,
			int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	int64_t deadline = 0;
	int ret;

	if (!ops->done && !ops->takeable)
		return -ENOENT;
	ret = ops_wait_for(ops, any_done, 0, false, timeout_ns, &deadline);
	if (ret)
		return ret;
	op_take(ops, ops->first_done, completion);
	return 0;
}

/* Apart from operations that are not started. */
static bool all_done(struct ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->pub.in_flight == ops->prepared;
}

int evering_op_wait_all(struct evering_ops *table, int64_t timeout_ns)
{
	int64_t deadline = 0;

	return ops_wait_for(to_ops(table), all_done, 0, false, timeout_ns,
			    &deadline);
}

int evering_op_call(struct evering_ops *table, const struct evering_op *from,
		    struct evering_completion *completion, int64_t timeout_ns)
{
	struct ops *ops = to_ops(table);
	struct evering_op op = *from;
	int64_t deadline = 0;
	uint64_t id;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	op.done = NULL;
	if (timeout_ns > 0)
		deadline = deadline_after(timeout_ns);
	ret = evering_op_submit(table, &op, &id, timeout_ns);
	if (ret)
		return ret;
	ret = ops_wait_for(ops, is_done, id, false, timeout_ns, &deadline);
	if (ret && ops->error) {
		/*
		 * The operation has outlived the peer from which this call wanted an
		 * answer.
		 */
		op_answered(ops, place_by_id(ops, id), ret, NULL);
	} else if (ret) {
		op_abandon(ops, place_by_id(ops, id),
			   ret == -EAGAIN ? -ETIMEDOUT : ret, true);
		evering_ops_flush(table);
	}
	return evering_op_done(table, id, completion);
}
