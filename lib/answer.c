// SPDX-License-Identifier: MIT
/*
 * answer.c: the answering side of operations: requests from their arrival to their
 * answer.
 *
 * A request is held under the index that the peer gave it, of which there are no
 * more than this side said that it can hold.
 */
#include "ops.h"

static struct held *held_by_id(const struct evering_ops *ops, uint64_t id)
{
	uint32_t index = id_index(id);

	if (index >= ops->serve || !id || ops->held[index].id != id)
		return NULL;
	return &ops->held[index];
}

/* May a request come under this id? */
bool answer_expects(const struct evering_ops *ops, uint32_t id)
{
	return id_index(id) < ops->serve && !ops->held[id_index(id)].id;
}

static void describe(const struct evering_ops *ops, const struct held *held,
		     struct evering_request *request)
{
	unsigned int kind = held->flags & EVERING_OP_BUFFER;

	*request = (struct evering_request){
		.id = held->id,
		.opcode = held->opcode,
		.flags = !kind			 ? 0 :
			 kind == EVERING_OP_LENT ? EVERING_LEND :
						   EVERING_GIVE,
		.len = held->len,
		.data = held_data(ops, id_index(held->id)),
		.buf = held->buf,
		.buf_len = held->buf_len,
	};
}

/* A request that answer_expects() has come. */
void answer_requested(struct evering_ops *ops, const struct arrival *arrival)
{
	const struct evering_op_header *h = &arrival->header;
	uint32_t index = id_index(h->id);
	struct held *held = &ops->held[index];
	struct evering_request request;
	bool lent = (h->flags & EVERING_OP_BUFFER) == EVERING_OP_LENT;

	copy_blocks(held_data(ops, index), arrival->data, h->len);
	held->id = h->id | (uint64_t)++ops->serial << 32;
	held->opcode = h->code;
	held->len = h->len;
	held->flags = h->flags;
	held->granule = lent ? h->granule : NONE;
	held->buf = arrival->buf;
	held->buf_len = arrival->buf ? arrival->buf_len : 0;
	held->cancelled = false;
	ops->holding++;
	if (ops->request) {
		describe(ops, held, &request);
		ops->request(ops, &request, ops->context);
		return;
	}
	if (ops->inbox.count++)
		ops->held[ops->inbox.tail].next = index;
	else
		ops->inbox.head = index;
	ops->inbox.tail = index;
}

/* The peer does not need the answer to @id, if it has not come by already. */
void answer_cancelled(struct evering_ops *ops, uint32_t id)
{
	uint32_t index = id_index(id);
	struct held *held;

	if (index >= ops->serve)
		return;
	held = &ops->held[index];
	if (!held->id || (uint32_t)held->id != id || held->cancelled)
		return;
	held->cancelled = true;
	if (ops->cancelled)
		ops->cancelled(ops, held->id, ops->context);
}

static bool has_request(struct evering_ops *ops, uint64_t arg)
{
	(void)arg;
	return ops->inbox.count;
}

int evering_op_next(struct evering_ops *ops, struct evering_request *request,
		    int64_t timeout_ns)
{
	int64_t deadline = 0;
	struct held *held;
	int ret;

	ret = ops_wait_for(ops, has_request, 0, false, timeout_ns, &deadline);
	if (ret)
		return ret;
	held = &ops->held[ops->inbox.head];
	ops->inbox.head = held->next;
	ops->inbox.count--;
	describe(ops, held, request);
	return 0;
}

/* It needs no answer any more, or has it. */
static void held_end(struct evering_ops *ops, struct held *held)
{
	if (held->granule != NONE)
		loan_end(ops, held->granule);
	held->id = 0;
	ops->holding--;
}

/*
 * Is @id a request that can be answered?  0; -ESTALE; -EAGAIN: no room; or why the
 * channel has ended, and the request with it.
 */
static int answerable(struct evering_ops *ops, struct held *held)
{
	int error = ops->error;

	if (!held)
		return -ESTALE;
	if (!error && !evering_reserve(ops->ev))
		error = channel_error(ops_endpoint(ops)) ?: -EAGAIN;
	if (error && error != -EAGAIN)
		held_end(ops, held);
	return error;
}

/* An answer that takes buffers home, or ends a loan, or finds no room. */
static int answer_any(struct evering_ops *ops, uint64_t id, int32_t result,
		      const void *data, uint32_t len)
{
	struct evering_op_header header = { .id = (uint32_t)id,
					    .type = EVERING_OP_ANSWER,
					    .len = (uint16_t)len,
					    .code = (uint32_t)result };
	struct held *held = held_by_id(ops, id);
	int ret;

	if (held && len > ops->max_data)
		return -EMSGSIZE;
	ret = answerable(ops, held);
	if (ret)
		return ret;
	ops_send(ops, &header, data, 0, 0);
	held_end(ops, held);
	return 0;
}

int evering_op_answer(struct evering_ops *ops, uint64_t id, int32_t result,
		      const void *data, uint32_t len)
{
	struct evering_tx *tx = &ops->ev->tx;
	uint32_t n = tx->next, index = id_index(id);
	struct held *held = &ops->held[index];
	unsigned char *slot;

	if (EVERING_UNLIKELY(index >= ops->serve || held->id != id || !id ||
			     held->granule != NONE || len > ops->max_data ||
			     n == tx->limit || ops->homebound.count ||
			     ops->error))
		return answer_any(ops, id, result, data, len);
	slot = evering__tx_slot(tx, n);
	*(uint64_t *)slot = (uint32_t)id | (uint64_t)EVERING_OP_ANSWER << 32 |
			    (uint64_t)len << 48;
	((uint32_t *)slot)[2] = (uint32_t)result;
	copy_few(slot + sizeof(struct evering_op_header), data, len);
	held->id = 0;
	ops->holding--;
	ops->dirty = true;
	evering__stamp(tx, slot, n);
	return 0;
}

int evering_op_answer_buffer(struct evering_ops *ops, uint64_t id,
			     int32_t result, void *buf, uint64_t buf_len)
{
	struct evering_op_header header = { .id = (uint32_t)id,
					    .type = EVERING_OP_ANSWER,
					    .code = (uint32_t)result };
	struct endpoint *e = ops_endpoint(ops);
	struct held *held = held_by_id(ops, id);
	uint32_t generation = 0;
	int ret;

	ret = answerable(ops, held);
	if (ret)
		return ret;
	if (held->granule != NONE && buf == held->buf) {
		if (!endpoint_shares(e, EVERING_REGION_ARENA_A) || !buf_len ||
		    buf_len > held->buf_len)
			return -EINVAL;
		header.flags = EVERING_OP_IN_PLACE;
	} else if (arena_has(&e->arena, buf)) {
		ret = arena_hand_out(&e->arena, buf, buf_len, HOLD_GIVEN,
				     &header.granule, &generation);
		header.flags = EVERING_OP_GIVEN;
	} else {
		ret = loan_give_back(ops, buf, buf_len, &header.granule,
				     &generation);
		header.flags = EVERING_OP_BACK;
	}
	if (ret)
		return ret;
	ops_send(ops, &header, NULL, generation, buf_len);
	held_end(ops, held);
	return 0;
}

void *evering_op_answer_alloc(struct evering_ops *ops, uint64_t id,
			      uint64_t size)
{
	struct held *held = held_by_id(ops, id);

	if (!held)
		return NULL;
	if (held->granule != NONE && size && size <= held->buf_len &&
	    endpoint_shares(ops_endpoint(ops), EVERING_REGION_ARENA_A))
		return held->buf;
	return evering_alloc(ops->ev, size, 0);
}

int evering_op_cancelled(const struct evering_ops *ops, uint64_t id)
{
	const struct held *held = held_by_id(ops, id);

	return held ? held->cancelled : -ESTALE;
}
