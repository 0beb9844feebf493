// SPDX-License-Identifier: MIT
/*
 * ops.c: the operations' table as a whole: opening and closing, sending entries,
 * taking those that arrive, and waiting.
 *
 * What an answer does to its operation is ask.c's, what becomes of a request
 * answer.c's, what is a buffer loan.c's.  Each entry is copied before it is looked
 * at, and released before anybody is called, who may thus call back.
 */
#include <sys/mman.h>

#include "ops.h"

/* What was lent or given by name of @generation, and is @buf_len bytes long. */
static void put_buffer(unsigned char *tail, uint32_t generation,
		       uint64_t buf_len)
{
	uint32_t words[3] = { generation, (uint32_t)buf_len,
			      (uint32_t)(buf_len >> 32) };

	memcpy(tail, words, sizeof(words));
}

static void get_buffer(const unsigned char *tail, uint32_t *generation,
		       uint64_t *buf_len)
{
	uint32_t words[3];

	memcpy(words, tail, sizeof(words));
	*generation = words[0];
	*buf_len = (uint64_t)words[2] << 32 | words[1];
}

/* Sends an entry, for which there is room.  Buffers that go home go with it. */
void ops_send(struct evering_ops *ops, const struct evering_op_header *header,
	      const void *data, uint32_t generation, uint64_t buf_len)
{
	struct evering_op_header h = *header;
	struct evering_tx *tx = &ops->ev->tx;
	unsigned char *slot = evering__tx_slot(tx, tx->next);
	uint32_t from = (uint32_t)sizeof(h) + h.len, to = tx->payload;

	copy_few(slot + sizeof(h), data, h.len);
	if (h.flags & EVERING_OP_BUFFER) {
		to -= EVERING_OP_BUFFER_TAIL;
		put_buffer(slot + to, generation, buf_len);
	}
	if (ops->homebound.count)
		h.flags |= (uint8_t)(loan_attach(ops, slot, from, to)
				     << EVERING_OP_HOME_SHIFT);
	memcpy(slot, &h, sizeof(h));
	evering__stamp(tx, slot, tx->next);
	ops->dirty = true;
}

static void send_home(struct evering_ops *ops)
{
	const struct evering_op_header header = { .type = EVERING_OP_HOME };

	while (ops->homebound.count && ops_room(ops))
		ops_send(ops, &header, NULL, 0, 0);
}

static void flush(struct evering_ops *ops)
{
	if (!ops->dirty)
		return;
	ops->dirty = false;
	evering_flush(ops->ev);
}

/* Nothing more will come: everything ends, once.  Returns the reason. */
int ops_end(struct evering_ops *ops, int error)
{
	if (ops->error)
		return ops->error;
	ops->error = error;
	ops->reserve = UINT32_MAX;
	if (error != -EPIPE)
		channel_end(ops_endpoint(ops), -EPROTO);
	ask_end_all(ops, error, false);
	arena_all_home(&ops_endpoint(ops)->arena);
	return error;
}

static int opened(struct evering_ops *ops, const struct arrival *arrival)
{
	struct evering_op_open open;

	if (ops->opened)
		return -EPROTO;
	if (arrival->header.code != EVERING_OPS_VERSION)
		return -EPROTONOSUPPORT;
	if (arrival->header.len < sizeof(open))
		return -EPROTO;
	memcpy(&open, arrival->data, sizeof(open));
	ops->opened = true;
	ops->serve = open.depth < ops->serve_size ? open.depth :
						    ops->serve_size;
	ops->reserve = ops->serve;
	ask_init(ops, open.serve < ops->size ? open.serve : ops->size);
	return 0;
}

static int arrived(struct evering_ops *ops, struct arrival *arrival,
		   uint32_t generation)
{
	unsigned int kind = arrival->header.flags & EVERING_OP_BUFFER;

	switch (arrival->header.type) {
	case EVERING_OP_REQUEST:
		if (!answer_expects(ops, arrival->header.id) ||
		    kind == EVERING_OP_IN_PLACE ||
		    (kind && loan_arrived(ops, arrival, generation)))
			return -EPROTO;
		answer_requested(ops, arrival);
		return 0;
	case EVERING_OP_ANSWER:
		if (kind == EVERING_OP_LENT ||
		    (kind && kind != EVERING_OP_IN_PLACE &&
		     loan_arrived(ops, arrival, generation)))
			return -EPROTO;
		return ask_answered(ops, arrival);
	case EVERING_OP_CANCEL:
		answer_cancelled(ops, arrival->header.id);
		return kind ? -EPROTO : 0;
	case EVERING_OP_HOME:
		return kind ? -EPROTO : 0;
	case EVERING_OP_OPEN:
		return kind ? -EPROTO : opened(ops, arrival);
	default:
		return -EPROTO;
	}
}

/* Takes the entry in @slot, whatever it is.  0, or why the channel ends. */
static int take_any(struct evering_ops *ops, const unsigned char *slot)
{
	unsigned char copy[EVERING_MAX_SLOT] __attribute__((aligned(16)));
	uint32_t from, to = ops->ev->rx.payload, generation = 0;
	struct arrival arrival = { .data = copy + sizeof(arrival.header) };
	const struct evering_op_header *h = &arrival.header;
	int ret;

	memcpy(copy, slot, to);
	/* From here on only the copy is looked at, and no compiler knows better. */
	__asm__ __volatile__("" ::: "memory");
	evering_release(ops->ev);

	memcpy(&arrival.header, copy, sizeof(arrival.header));
	from = (uint32_t)sizeof(*h) + h->len;
	if (h->flags & EVERING_OP_BUFFER) {
		to -= EVERING_OP_BUFFER_TAIL;
		get_buffer(copy + to, &generation, &arrival.buf_len);
	}
	if (from > to)
		return -EPROTO;
	if (h->flags >> EVERING_OP_HOME_SHIFT) {
		ret = loan_come_home(ops, copy, from, to,
				     h->flags >> EVERING_OP_HOME_SHIFT);
		if (ret)
			return ret;
	}
	return arrived(ops, &arrival, generation);
}

/*
 * The answer to an operation that has a callback and nothing out of the ordinary:
 * what take_any() and ask_answered() would do, in fewer steps.
 */
static void take_plain(struct evering_ops *ops, struct op *op,
		       const unsigned char *slot, uint32_t len, int32_t result)
{
	unsigned char data[EVERING_MAX_SLOT] __attribute__((aligned(16)));
	struct evering_completion completion = {
		.id = op->id,
		.user = op->user,
		.ext = op->ext,
		.result = result,
		.len = len,
		.data = len ? data : NULL,
	};
	evering_done_fn done = op->done;

	copy_blocks(data, slot + sizeof(struct evering_op_header), len);
	evering__released(ops->ev, ops->ev->rx.next + 1);
	op->id += (uint64_t)1 << EVERING_OP_INDEX_BITS;
	op->state = 0;
	op->next = ops->free;
	ops->free = id_index(completion.id);
	ops->in_flight--;
	done(ops, &completion);
}

/* Likewise a request, of a table with a callback. */
static void take_request(struct evering_ops *ops, struct held *held,
			 const unsigned char *slot, uint64_t head,
			 uint32_t opcode)
{
	uint32_t index = id_index(head), len = (uint32_t)(head >> 48);
	struct evering_request request = {
		.id = (uint32_t)head | (uint64_t)++ops->serial << 32,
		.opcode = opcode,
		.len = len,
		.data = held_data(ops, index),
	};

	copy_blocks(held_data(ops, index),
		    slot + sizeof(struct evering_op_header), len);
	evering__released(ops->ev, ops->ev->rx.next + 1);
	held->id = request.id;
	held->granule = NONE;
	held->cancelled = false;
	ops->holding++;
	ops->request(ops, &request, ops->context);
}

/* Takes the next entry: 1; 0: there is none; or why the channel ends. */
static int take(struct evering_ops *ops)
{
	const unsigned char *slot = evering_peek(ops->ev);
	uint32_t index, code;
	struct held *held;
	struct op *op;
	uint64_t head;
	int ret;

	if (!slot)
		return 0;
	/* id, type, flags and len in one */
	head = __atomic_load_n((const uint64_t *)slot, __ATOMIC_RELAXED);
	code = evering_load_relaxed((const uint32_t *)slot + 2);
	index = id_index(head);
	if (EVERING_LIKELY(head >> 48 <= ops->max_data)) {
		switch ((uint16_t)(head >> 32)) {
		case EVERING_OP_ANSWER:
			if (EVERING_UNLIKELY(index >= ops->depth))
				break;
			op = &ops->ops[index];
			if (EVERING_UNLIKELY(
				    (uint32_t)op->id != (uint32_t)head ||
				    op->state != OP_PLAIN || !op->done))
				break;
			take_plain(ops, op, slot, (uint32_t)(head >> 48),
				   (int32_t)code);
			return 1;
		case EVERING_OP_REQUEST:
			if (EVERING_UNLIKELY(index >= ops->serve))
				break;
			held = &ops->held[index];
			if (EVERING_UNLIKELY(held->id || !ops->request))
				break;
			take_request(ops, held, slot, head, code);
			return 1;
		default:
			break;
		}
	}
	ret = take_any(ops, slot);
	return ret ? ret : 1;
}

/* How many go home in an entry of their own. */
static uint32_t home_batch(const struct evering_ops *ops)
{
	uint32_t fit = ops->max_data / EVERING_OP_HOME_TAIL;

	return fit < EVERING_OP_MAX_HOME ? fit : EVERING_OP_MAX_HOME;
}

int evering_ops_poll(struct evering_ops *ops)
{
	uint32_t most = ops->ev->rx.mask + 1;
	int n = 0, ret;

	if (ops->error)
		return ops->error;
	/* A lap at the most, so that the peer cannot keep this from returning. */
	while ((uint32_t)n < most) {
		ret = take(ops);
		if (!ret)
			break;
		if (ops->error)
			return ops->error;
		if (ret < 0)
			return ops_end(ops, ret);
		n++;
	}
	if (ops->heap_count)
		n += ask_expire(ops);
	if (ops->tell_count)
		ask_tell(ops);
	if (ops->homebound.count >= home_batch(ops))
		send_home(ops);
	flush(ops);
	if (n || ops->error)
		return ops->error ? ops->error : n;
	ret = evering_wait(ops->ev, EVERING_RX, EVERING_NOWAIT);
	if (ret > 0 || ret == -EAGAIN)
		return 0;
	return ops_end(ops, ret);
}

/* Sends what has waited for room; true: some still does. */
static bool send_rest(struct evering_ops *ops)
{
	send_home(ops);
	ask_tell(ops);
	return ops->opened && (ops->homebound.count || ops->tell_count);
}

/*
 * One sleep, until something arrives, an operation runs out of time or, if @space is
 * what lacks, there is room to submit one.
 */
static int sleep_once(struct evering_ops *ops, bool space, int64_t deadline)
{
	struct endpoint *e = ops_endpoint(ops);
	unsigned int what = EVERING_RX | EVERING_FLUSH;
	int64_t until = deadline, timeout = EVERING_WAIT_FOREVER;
	int ret;

	if (send_rest(ops) || (space && ops->opened && !ops_room(ops))) {
		what |= EVERING_TX;
		e->room = ops->reserve;
	}
	if (ops->heap_count && ops->ops[ops->heap[0]].deadline < until)
		until = ops->ops[ops->heap[0]].deadline;
	if (until != INT64_MAX) {
		timeout = until - now_ns();
		if (timeout < 0)
			timeout = 0;
	}
	ops->dirty = false;
	ret = evering_wait(ops->ev, what, timeout);
	e->room = 0;
	if (ret > 0)
		return 0;
	switch (ret) {
	case -EAGAIN:
	case -ETIMEDOUT:
		return until == deadline ? -ETIMEDOUT : 0;
	case -EINTR:
		return ret;
	default:
		return ops_end(ops, ret);
	}
}

/*
 * Until @condition holds.  *@deadline is when @timeout_ns has passed; 0: nobody has
 * looked at the clock yet.  0; -EAGAIN, -ETIMEDOUT, -EINTR, -EINVAL, or why the
 * channel has ended.
 */
int ops_wait_for(struct evering_ops *ops, ops_condition condition, uint64_t arg,
		 bool space, int64_t timeout_ns, int64_t *deadline)
{
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	if (condition(ops, arg))
		return 0;
	for (;;) {
		ret = evering_ops_poll(ops);
		if (condition(ops, arg))
			return 0;
		if (ret < 0)
			return ret;
		if (timeout_ns == EVERING_NOWAIT)
			return -EAGAIN;
		if (ret > 0)
			continue;
		if (!*deadline)
			*deadline = deadline_after(timeout_ns);
		ret = sleep_once(ops, space, *deadline);
		if (ret && !condition(ops, arg))
			return ret;
	}
}

int evering_ops_wait(struct evering_ops *ops, int64_t timeout_ns)
{
	int64_t deadline = 0;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	for (;;) {
		ret = evering_ops_poll(ops);
		if (ret)
			return ret;
		if (timeout_ns == EVERING_NOWAIT)
			return -EAGAIN;
		if (!deadline)
			deadline = deadline_after(timeout_ns);
		ret = sleep_once(ops, false, deadline);
		if (ret)
			return ret;
	}
}

void evering_ops_flush(struct evering_ops *ops)
{
	if (ops->error)
		return;
	send_rest(ops);
	flush(ops);
}

int evering_ops_arm(struct evering_ops *ops, short *events)
{
	struct endpoint *e = ops_endpoint(ops);
	unsigned int what = EVERING_RX;
	int ret;

	*events = evering_events(ops->ev, what);
	if (ops->error)
		return ops->error;
	if (ops->inbox.count)
		return 1;
	if (send_rest(ops)) {
		what |= EVERING_TX;
		e->room = ops->reserve;
		*events = evering_events(ops->ev, what);
	}
	flush(ops);
	ret = evering_arm(ops->ev, what);
	e->room = 0;
	if (ret < 0)
		return ops_end(ops, ret);
	return ret > 0;
}

int64_t evering_ops_timeout(const struct evering_ops *ops)
{
	int64_t left;

	if (!ops->heap_count)
		return EVERING_WAIT_FOREVER;
	left = ops->ops[ops->heap[0]].deadline - now_ns();
	return left > 0 ? left : 0;
}

void evering_ops_get_info(const struct evering_ops *ops,
			  struct evering_ops_info *info)
{
	*info = (struct evering_ops_info){
		.depth = ops->depth,
		.serve = ops->serve,
		.in_flight = ops->in_flight,
		.abandoned = ops->abandoned,
		.done = ops->done.count,
		.held = ops->holding,
		.homebound = ops->homebound.count,
		.max_data = ops->max_data,
	};
}

/* ------------------------------------------------------- opening and closing */

static const struct evering_ops_params default_params = EVERING_OPS_PARAMS_INIT;

static int read_params(const struct evering_ops_params *from, uint32_t entries,
		       struct evering_ops_params *params)
{
	const unsigned char *bytes = (const unsigned char *)from;
	uint32_t i;

	*params = default_params;
	if (from) {
		if (from->size < sizeof(*params) || from->size > 65536)
			return -EINVAL;
		for (i = sizeof(*params); i < from->size; i++)
			if (bytes[i])
				return -EINVAL;
		*params = *from;
	}
	if (params->depth == EVERING_OPS_DEFAULT)
		params->depth = entries / 2;
	if (params->serve == EVERING_OPS_DEFAULT)
		params->serve = entries / 2;
	if (params->flags || params->depth > entries - entries / 4 ||
	    params->serve > entries - entries / 4)
		return -EINVAL;
	return 0;
}

/**
 * struct layout - where the parts of a table lie in its memory
 */
struct layout {
	size_t ops;
	size_t held;
	size_t op_data;
	size_t held_data;
	size_t heap;
	size_t tell;
	size_t loans;
	size_t all;
};

static size_t add_part(size_t *end, size_t size)
{
	size_t start = *end;

	*end = (start + size + 127) & ~(size_t)127;
	return start;
}

static void lay_out(const struct endpoint *e,
		    const struct evering_ops_params *params,
		    struct layout *layout)
{
	size_t slot = e->geometry.slot_size, end = 0;
	size_t granules = e->geometry.arena_size[!e->end] / EVERING_OP_GRANULE;

	add_part(&end, sizeof(struct evering_ops));
	layout->ops = add_part(&end, params->depth * sizeof(struct op));
	layout->held = add_part(&end, params->serve * sizeof(struct held));
	layout->op_data = add_part(&end, params->depth * slot);
	layout->held_data = add_part(&end, params->serve * slot);
	layout->heap = add_part(&end, params->depth * sizeof(uint32_t));
	layout->tell = add_part(&end, params->depth * sizeof(uint32_t));
	/* Touched only where the peer's buffers begin. */
	layout->loans = add_part(&end, granules * sizeof(struct loan));
	layout->all = end;
}

int evering_ops_open(struct evering *ev, const struct evering_ops_params *from,
		     struct evering_ops **ret)
{
	struct endpoint *e = to_endpoint(ev);
	struct evering_op_header header = { .type = EVERING_OP_OPEN,
					    .len = sizeof(
						    struct evering_op_open),
					    .code = EVERING_OPS_VERSION };
	struct evering_ops_params params;
	struct evering_op_open open;
	struct evering_ops *ops;
	struct layout layout;
	unsigned char *memory;
	int error;

	if (e->geometry.slot_size < EVERING_OPS_MIN_SLOT)
		return -EINVAL;
	error = read_params(from, e->geometry.entries, &params);
	if (error)
		return error;
	if (e->ops)
		return -EBUSY;
	if (!evering_reserve(ev))
		return channel_error(e) ? channel_error(e) : -EAGAIN;

	lay_out(e, &params, &layout);
	memory = mmap(NULL, layout.all, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -ENOMEM;
	ops = (struct evering_ops *)memory;
	ops->map_size = layout.all;
	ops->ev = ev;
	ops->ops = (struct op *)(memory + layout.ops);
	ops->held = (struct held *)(memory + layout.held);
	ops->op_data = memory + layout.op_data;
	ops->held_data = memory + layout.held_data;
	ops->heap = (uint32_t *)(memory + layout.heap);
	ops->tell = (uint32_t *)(memory + layout.tell);
	ops->loans = (struct loan *)(memory + layout.loans);
	ops->loan_count = (uint32_t)(e->geometry.arena_size[!e->end] /
				     EVERING_OP_GRANULE);
	ops->size = params.depth;
	ops->serve_size = params.serve;
	ops->free = NONE;
	ops->reserve = UINT32_MAX;
	ops->max_data = ev->tx.payload - (uint32_t)sizeof(header);
	ops->stride = ev->tx.shift;
	ops->request = params.request;
	ops->cancelled = params.cancelled;
	ops->context = params.context;
	e->ops = ops;

	open = (struct evering_op_open){ params.depth, params.serve };
	ops_send(ops, &header, &open, 0, 0);
	flush(ops);
	*ret = ops;
	return 0;
}

void evering_ops_close(struct evering_ops *ops)
{
	if (!ops)
		return;
	if (!ops->error) {
		send_rest(ops);
		ops->error = -EPIPE;
		ops->reserve = UINT32_MAX;
	}
	ask_end_all(ops, -ECANCELED, true);
	flush(ops);
	ops_endpoint(ops)->ops = NULL;
	munmap(ops, ops->map_size);
}
