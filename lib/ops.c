// SPDX-License-Identifier: MIT
/*
 * ops.c: the table of operations as a whole: it opens and closes, sends entries, takes
 * those that arrive, and waits.
 *
 * ask.c handles answers, answer.c requests, loan.c buffers.  Each entry is copied
 * before it is looked at, and released before a callback runs, so that the callback may
 * call the library.
 */
#include <stdio.h>
#include <sys/mman.h>

#include "ops.h"

/* The most waits that may be nested in callbacks. */
#define MAX_WAITS 8u

/* Sends an entry, for which there is room.  Buffers to be returned go with it. */
void ops_send(struct ops *ops, const struct evering_op_header *header,
	      const void *data, const struct evering_op_buffer *buffer)
{
	struct evering_op_header h = *header;
	struct evering_tx *tx = &ops->pub.ev->tx;
	unsigned char *slot = evering__tx_slot(tx, tx->next);
	uint32_t from = (uint32_t)sizeof(h) + h.len, to = tx->payload;

	if (data)
		memcpy(slot + sizeof(h), data, h.len);
	if (h.flags & EVERING_OP_BUFFER) {
		to -= (uint32_t)sizeof(*buffer);
		memcpy(slot + to, buffer, sizeof(*buffer));
	}
	if (ops->homebound.count)
		h.flags |= (uint8_t)(loan_attach(ops, slot, from, to)
				     << EVERING_OP_HOME_SHIFT);
	memcpy(slot, &h, sizeof(h));
	evering__stamp(tx, slot, tx->next);
}

/* Returns buffers and credit; @all: also credit that is still little. */
void ops_send_home(struct ops *ops, bool all)
{
	struct evering_op_header header = { .type = EVERING_OP_HOME };

	while ((ops->homebound.count ||
		(all ? message_credit_due(ops) :
		       (int32_t)ops->pub.tell_in <= 0)) &&
	       ops_room_beside(ops)) {
		header.code = message_tell(ops);
		ops_send(ops, &header, NULL, NULL);
	}
}

/* Wakes the peer if it sleeps and there is something new for it. */
void ops_flush(struct ops *ops)
{
	if (ops->pub.flushed == ops->pub.ev->tx.next)
		return;
	ops->pub.flushed = ops->pub.ev->tx.next;
	evering__flush(ops->pub.ev);
}

/* Also rings the doorbell that EVERING_LAZY_RING has left owed. */
static void flush_now(struct ops *ops)
{
	ops_flush(ops);
	if (ops_endpoint(ops)->lazy)
		evering_flush(ops->pub.ev);
}

/* Ends everything, once, because nothing more will come.  Returns the reason. */
int ops_end(struct ops *ops, int error)
{
	if (ops->error)
		return ops->error;
	ops->error = error;
	ops->keep = NO_ROOM;
	loan_forget(ops);
	ops_update(ops);
	if (error != -EPIPE)
		channel_end(ops_endpoint(ops), -EPROTO);
	if (error == -EPIPE && ops->outlives) {
		/*
		 * There may be a successor, so only operations that take too long end.
		 */
		ask_mark_fates(ops);
		return error;
	}
	again_end(ops);
	ask_end_all(ops, error, false);
	arena_all_home(&ops_endpoint(ops)->arena);
	return error;
}

static int opened(struct ops *ops, const struct arrival *arrival)
{
	struct evering_op_open open;
	uint32_t depth;

	if (ops->opened)
		return -EPROTO;
	if (arrival->header.code != EVERING_OPS_VERSION)
		return -EPROTONOSUPPORT;
	if (arrival->header.len < sizeof(open))
		return -EPROTO;
	memcpy(&open, arrival->data, sizeof(open));
	depth = open.serve < ops->size ? open.serve : ops->size;
	/* A successor must serve as many operations as were in flight before. */
	if ((open.flags & ~EVERING_OP_OUTLIVES) || depth < ops->depth ||
	    again_opened(ops, open.store))
		return -EPROTO;
	ops->opened = true;
	ops->peer_outlives = open.flags & EVERING_OP_OUTLIVES;
	answer_open(ops, open.depth < ops->serve_size ? open.depth :
							ops->serve_size);
	ops_set_keep(ops);
	message_open(ops, open.store);
	/* Operations in flight continue, and the number of places stays. */
	if (!ops->depth)
		ask_open(ops, depth);
	return 0;
}

static int arrived(struct ops *ops, struct arrival *arrival)
{
	unsigned int kind = arrival->header.flags & EVERING_OP_BUFFER;
	int ret;

	if (!ops->opened && arrival->header.type != EVERING_OP_OPEN)
		return -EPROTO;
	switch (arrival->header.type) {
	case EVERING_OP_REQUEST:
		if (!answer_expects(ops, arrival->header.id) ||
		    kind == EVERING_OP_IN_PLACE)
			return -EPROTO;
		ret = kind ? loan_arrived(ops, arrival) : 0;
		if (ret)
			return ret;
		answer_requested(ops, arrival);
		return 0;
	case EVERING_OP_ANSWER:
		if (!ask_expects(ops, arrival->header.id) ||
		    kind == EVERING_OP_LENT)
			return -EPROTO;
		ret = kind ? loan_arrived(ops, arrival) : 0;
		return ret ? ret : ask_answered(ops, arrival);
	case EVERING_OP_CANCEL:
		answer_cancelled(ops, arrival->header.id);
		return kind ? -EPROTO : 0;
	case EVERING_OP_HOME:
		return kind ? -EPROTO : message_told(ops, arrival->header.code);
	case EVERING_OP_POST:
	case EVERING_OP_MESSAGE:
		return message_arrived(ops, arrival);
	case EVERING_OP_OPEN:
		return kind ? -EPROTO : opened(ops, arrival);
	case EVERING_OP_LEAVE:
		if (kind || !ops->outlives)
			return -EPROTO;
		ops->left = true;
		ops_set_keep(ops);
		return 0;
	default:
		return -EPROTO;
	}
}

/* Takes the entry in @slot, of any type.  Returns 0, or why the channel ends. */
static int take_any(struct ops *ops, const unsigned char *slot)
{
	unsigned char copy[EVERING_MAX_SLOT] __attribute__((aligned(16)));
	struct arrival arrival = { .data = copy + sizeof(arrival.header) };
	const struct evering_op_header *h = &arrival.header;
	uint32_t from, to = ops->pub.ev->rx.payload;
	int ret;

	memcpy(copy, slot, to);
	/*
	 * From here on only the copy is used, and the compiler must not read the slot
	 * again.
	 */
	__asm__ __volatile__("" ::: "memory");
	evering_begin(ops->pub.ev, 1);
	evering_release(ops->pub.ev);

	memcpy(&arrival.header, copy, sizeof(arrival.header));
	from = (uint32_t)sizeof(*h) + h->len;
	if ((h->flags & EVERING_OP_AGAIN) && h->type != EVERING_OP_REQUEST)
		return -EPROTO;
	if (h->flags & EVERING_OP_BUFFER) {
		to -= (uint32_t)sizeof(arrival.name);
		memcpy(&arrival.name, copy + to, sizeof(arrival.name));
	}
	if (from > to)
		return -EPROTO;
	if (h->flags >> EVERING_OP_HOME_SHIFT) {
		ret = loan_come_home(ops, copy, from, to,
				     h->flags >> EVERING_OP_HOME_SHIFT);
		if (ret)
			return ret;
	}
	return arrived(ops, &arrival);
}

/*
 * The type and flags, and below them the length, from the first half of a header's
 * word.
 */
static inline uint32_t header_key(uint32_t word)
{
	return word << 16 | word >> 16;
}

/* Takes an answer to a plain operation, as ask_answered() does; @place expects it. */
static inline __attribute__((always_inline)) void
take_answer(struct ops *ops, struct evering__place *place,
	    struct evering__place **spare, uint32_t len, uint32_t code)
{
	ops->pub.in_flight--;
	place->c.result = (int32_t)code;
	place->c.len = (uint16_t)len;
	place->expect = 0;
	(*spare)->next = ops->pub.free;
	ops->pub.free = *spare;
	place->done(&ops->pub, &place->c);
	*spare = place;
}

/* Takes a request without a buffer, for a free place. */
static inline __attribute__((always_inline)) void
take_request(struct ops *ops, struct evering__held *held, uint64_t id,
	     uint32_t len, uint32_t code)
{
	ops->pub.holding++;
	held->r.id = id;
	held->r.opcode = code;
	held->r.len = len;
	held->plain = id;
	ops->request(&ops->pub, &held->r, ops->context);
}

/**
 * struct take - arguments of take_some(), most of them constants at compile time
 * @shift: log2 of the slot size
 * @requests: more requests are expected than answers
 * @most: the most entries to take
 * @spare: see struct ops
 */
struct take {
	uint32_t shift;
	bool requests;
	uint32_t most;
	struct evering__place **spare;
};

/*
 * Takes entries that have come.  Returns how many, or why the channel ends.
 *
 * Each word of a header is read once, and no more than a slot is copied.  One
 * comparison of type, flags and length finds an entry without flags whose data fits.
 * The id of an answer is valid if the place that it names expects it; only plain
 * operations expect one.  The id of a request is not checked: whatever it is, its low
 * bits name a place that is free and may be used.
 *
 * After a callback the compiler has to reload all memory, so values that do not change
 * are in local variables.  The caller publishes what was released.
 */
static inline __attribute__((always_inline)) int take_some(struct ops *ops,
							   struct take take)
{
	struct evering_rx *rx = &ops->pub.ev->rx;
	const unsigned char *const slots = rx->slots;
	const uint32_t payload = (1u << take.shift) - EVERING_STAMP_SIZE;
	const uint32_t max_data = payload - sizeof(struct evering_op_header);
	const uint32_t mask = rx->mask;
	struct evering__place *place;
	struct evering__held *held;
	const unsigned char *slot, *data;
	uint32_t left = take.most, n, key, code, answer, request;
	uint64_t id;
	int ret;

	do {
		n = rx->next;
		slot = slots + ((size_t)(n & mask) << take.shift);
		if (evering_load_acquire((const uint32_t *)(slot + payload)) !=
		    n + 1) /* [A] */
			break;
		data = slot + sizeof(struct evering_op_header);
		id = __atomic_load_n((const uint64_t *)slot, __ATOMIC_RELAXED);
		key = header_key(
			evering_load_relaxed((const uint32_t *)slot + 2));
		code = evering_load_relaxed((const uint32_t *)slot + 3);
		answer = key - (EVERING_OP_ANSWER << 16);
		request = key - (EVERING_OP_REQUEST << 16);
		if (take.requests ? request > max_data : answer <= max_data) {
			place = &ops->pub.places[id & ops->pub.place_mask];
			if (EVERING_UNLIKELY(place->expect != id ||
					     answer > max_data))
				goto any;
			evering__copy_data((void *)(uintptr_t)place->c.data,
					   data, max_data > 48 ? answer : 0);
			evering__begin(rx, n + 1);
			evering_store_release(&rx->next, n + 1); /* [C] */
			take_answer(ops, place, take.spare, answer, code);
			continue;
		}
		held = &ops->pub.held[id & ops->pub.held_mask];
		if (EVERING_LIKELY(!held->plain && request <= max_data)) {
			evering__copy_data((void *)(uintptr_t)held->r.data,
					   data, max_data > 48 ? request : 0);
			evering__begin(rx, n + 1);
			evering_store_release(&rx->next, n + 1); /* [C] */
			take_request(ops, held, id, request, code);
			continue;
		}
any:
		ret = take_any(ops, slot);
		if (ret)
			return ret;
	} while (--left);
	return (int)(take.most - left);
}

/* The same, with constants for slots of 64 bytes, the most common size. */
static int take_until(struct ops *ops, uint32_t most,
		      struct evering__place **spare)
{
	uint32_t shift = ops->pub.ev->rx.shift;

	if (shift != 6)
		return take_some(ops,
				 (struct take){ shift, false, most, spare });
	if (ops->serve > ops->depth)
		return take_some(ops, (struct take){ 6, true, most, spare });
	return take_some(ops, (struct take){ 6, false, most, spare });
}

/*
 * Takes at most @most entries, and at most a full ring, so that the peer cannot keep
 * this from returning.
 */
static int take_lap(struct ops *ops, uint32_t most,
		    struct evering__place **spare)
{
	const struct evering_rx *rx = &ops->pub.ev->rx;
	const uint32_t lap = rx->mask + 1;
	uint32_t taken = 0, until;
	int ret;

	if (most > lap)
		most = lap;
	do {
		/*
		 * What was released is published every quarter ring, at a number that
		 * is computed in advance, so that no check is needed for each entry.  A
		 * long callback does not keep a quarter from the peer.
		 */
		until = rx->publish_at - rx->next;
		if (until <= 1 || until > lap) {
			evering__publish(ops->pub.ev);
			until = rx->publish_at - rx->next;
		}
		if (until > 1)
			until--;
		if (until > most - taken)
			until = most - taken;
		ret = take_until(ops, until, spare);
		if (ret < 0)
			return ret;
		taken += (uint32_t)ret;
	} while ((uint32_t)ret == until && taken < most);
	return (int)taken;
}

/* How many buffers return in an entry of their own. */
static uint32_t home_batch(const struct ops *ops)
{
	uint32_t fit =
		ops->pub.max_data / (uint32_t)sizeof(struct evering_op_home);

	return fit < EVERING_OP_MAX_HOME ? fit : EVERING_OP_MAX_HOME;
}

/*
 * Takes @most entries at the most.  @sleeps: if there is nothing, the caller sleeps and
 * rings the peer in the same call; else this flushes what was sent.
 */
static int poll_once(struct ops *ops, bool sleeps, uint32_t most)
{
	struct evering__place *spare = ops->spare;
	int n, ret;

	if (EVERING_UNLIKELY(ops->error)) {
		/* Operations that outlive the peer can run out of time. */
		if (ops->heap_count)
			ask_expire(ops);
		return ops->error;
	}
	/* The most polls are nested. */
	if (!spare)
		return -EDEADLK;
	ops->spare = spare->next;
	n = take_lap(ops, most, &spare);
	spare->next = ops->spare;
	ops->spare = spare;
	if (n < 0)
		return ops_end(ops, n);
	/* A function that a callback has called may have found an error. */
	if (ops->error)
		return ops->error;
	if (n && (evering_load_relaxed(ops->pub.ev->rx.armed) & EVERING_ARMED))
		evering__publish(ops->pub.ev);
	if (ops->heap_count)
		n += ask_expire(ops);
	if (EVERING_UNLIKELY(ops->again.entries))
		n += again_send(ops);
	if (ops->tell_count)
		ask_tell(ops);
	/* A few buffers are not worth an entry while other entries may take them. */
	if (!n || ops->homebound.count >= home_batch(ops) ||
	    (int32_t)ops->pub.tell_in <= 0)
		ops_send_home(ops, !n);
	if (n || !sleeps)
		ops_flush(ops);
	if (n)
		return ops->error ? ops->error : n;
	ret = sleeps ? wait_look(ops_endpoint(ops)) :
		       evering_wait(ops->pub.ev, EVERING_RX, EVERING_NOWAIT);
	if (ret > 0 || ret == -EAGAIN)
		return 0;
	return ops_end(ops, ret);
}

int evering_ops_poll(struct evering_ops *ops)
{
	return poll_once(to_ops(ops), false, UINT32_MAX);
}

int ops_poll_some(struct ops *ops, uint32_t most)
{
	return poll_once(ops, false, most);
}

/* How many slots have to be free besides the one that is waited for. */
static uint32_t reserve_of(const struct ops *ops)
{
	return ops->opened ? ops->serve : NO_ROOM;
}

/* Sends what has waited for room.  Returns whether something still waits. */
static bool send_rest(struct ops *ops)
{
	ops_send_home(ops, true);
	ask_tell(ops);
	return ops->opened &&
	       (ops->homebound.count || ops->tell_count ||
		again_lacks_room(ops) || message_credit_due(ops));
}

/*
 * The work before a sleep, for a member of a group that stays hot and is never armed.
 */
void ops_settle(struct ops *ops)
{
	if (!ops->error)
		send_rest(ops);
}

/* The next time at which something is due, at most @deadline. */
static int64_t due_before(const struct ops *ops, int64_t deadline)
{
	int64_t due = deadline;

	if (ops->heap_count && ops->pub.places[ops->heap[0]].deadline < due)
		due = ops->pub.places[ops->heap[0]].deadline;
	return due;
}

/*
 * Sleeps once, until something arrives, an operation runs out of time or, if @space,
 * there is room to submit one.
 */
static int sleep_once(struct ops *ops, bool space, int64_t deadline)
{
	struct endpoint *e = ops_endpoint(ops);
	unsigned int what = EVERING_RX;
	int64_t until = due_before(ops, deadline);
	int64_t timeout = EVERING_WAIT_FOREVER;
	bool rest;
	int ret;

	rest = send_rest(ops);
	/*
	 * The next poll sends entries again; it may call callbacks.  If there was no
	 * room for them before and there is now, do not sleep.  So this look is the
	 * later one.
	 */
	if (again_is_due(ops))
		return 0;
	/* A submission comes after those entries, which may wait for credit. */
	if (rest || (space && !ops->again.entries)) {
		what |= EVERING_TX;
		e->room = reserve_of(ops);
	}
	if (until != INT64_MAX) {
		timeout = until - now_ns();
		if (timeout < 0)
			timeout = 0;
	}
	/* A flush wakes a sleeping peer even if there is nothing new for it. */
	if (ops->pub.flushed != ops->pub.ev->tx.next)
		what |= EVERING_FLUSH;
	ops->pub.flushed = ops->pub.ev->tx.next;
	ret = evering_wait(ops->pub.ev, what, timeout);
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

/* The condition of a caller that waits for any work. */
static bool never(struct ops *ops, uint64_t arg)
{
	(void)ops;
	(void)arg;
	return false;
}

/* Ends a meeting that is under way, if necessary when its step ends. */
static void meet_nobody(struct ops *ops)
{
	struct evering_connecting *meeting = ops->meeting;

	ops->meeting = NULL;
	evering_connecting_close(meeting);
}

/*
 * Meets the successor of a peer that is gone, until @deadline, *@patience (0: not set
 * yet) or the time limit of the next operation.  Returns 1: there is one; 0: not yet;
 * or the error for the caller.
 */
static int follow(struct ops *ops, int64_t deadline, int64_t *patience)
{
	int64_t until, now = now_ns();
	int ret;

	if (!*patience)
		*patience = deadline_after(ops->patience_ns);
	if (deadline <= now)
		return -ETIMEDOUT;
	if (*patience <= now)
		return -EPIPE;
	until = due_before(ops, *patience < deadline ? *patience : deadline);
	/* The wait around this one has no callback running: see ops_in_callback(). */
	ops->waits--;
	ret = ops_in_callback(ops) ?
		      -EDEADLK :
		      survivor_follow(ops_endpoint(ops), ops->successor,
				      &ops->meeting, until);
	ops->waits++;
	switch (ret) {
	case 0:
		return 1;
	case -ETIMEDOUT:
		return 0;
	case -EBUSY:
	case -EDEADLK:
		return -EPIPE;
	default:
		return ret;
	}
}

static int wait_for(struct ops *ops, ops_condition condition, uint64_t arg,
		    bool space, int64_t timeout_ns, int64_t *deadline)
{
	int64_t patience = 0;
	uint32_t in_flight = ops->pub.in_flight;
	bool room, gone;
	int ret;

	for (;;) {
		ret = poll_once(ops, timeout_ns != EVERING_NOWAIT, UINT32_MAX);
		if (condition(ops, arg)) {
			ops_flush(ops);
			return 0;
		}
		gone = ret == -EPIPE && !ops_closed(ops) &&
		       timeout_ns != EVERING_NOWAIT;
		if (!gone && (ret < 0 || (ret && condition == never)))
			return ret;
		/* Operations got their outcome, or ran out of time. */
		if (gone && condition == never &&
		    ops->pub.in_flight != in_flight)
			return 1;
		if (timeout_ns == EVERING_NOWAIT)
			return -EAGAIN;
		if (!*deadline)
			*deadline = deadline_after(timeout_ns);
		if (gone) {
			ret = follow(ops, *deadline, &patience);
			/* Operations may have ended because of that. */
			if (ret > 0 && condition == never)
				return ret;
			/*
			 * If the next peer goes away, its successor is waited for as
			 * long.
			 */
			if (ret > 0)
				patience = 0;
		} else if (!ret) {
			/*
			 * One look decides whether to wait for room.  With a second
			 * look, room that came between the two would be neither used
			 * nor waited for.
			 */
			room = !space || !ops->opened || ops->left ||
			       ops_room(ops);
			if (room && condition(ops, arg)) {
				ops_flush(ops);
				return 0;
			}
			ret = sleep_once(ops, !room, *deadline);
		} else if (*deadline != INT64_MAX && now_ns() >= *deadline) {
			ret = -ETIMEDOUT;
		}
		/* If the peer has gone just now, the next look finds that. */
		if (ret < 0 && (gone || ret != -EPIPE || ops_closed(ops)))
			return condition(ops, arg) ? 0 : ret;
	}
}

/*
 * Waits until @condition holds. *@deadline is the end of @timeout_ns; 0: the clock was
 * not read yet.  Returns 0; -EAGAIN, -ETIMEDOUT, -EINTR, -EINVAL, -EDEADLK, or why the
 * channel has ended.
 */
int ops_wait_for(struct ops *ops, ops_condition condition, uint64_t arg,
		 bool space, int64_t timeout_ns, int64_t *deadline)
{
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	if (condition(ops, arg))
		return 0;
	/* The peer can influence how many waits are nested. */
	if (ops->waits >= MAX_WAITS)
		return -EDEADLK;
	ops->waits++;
	ret = wait_for(ops, condition, arg, space, timeout_ns, deadline);
	ops->waits--;
	return ret;
}

/*
 * Makes it hot: it has to be armed in another way, or has something to do, while it is
 * cold in a group.
 */
static void ops_touched(struct ops *ops)
{
	struct endpoint *e = ops_endpoint(ops);

	if (e->member)
		group_touched(e);
}

/*
 * From now on the caller takes requests or messages, and has to be notified of those
 * that are there already.
 */
void ops_take(struct ops *ops, bool *takes)
{
	if (*takes)
		return;
	*takes = true;
	ops_touched(ops);
}

/*
 * The same, for a caller that wants to send.  EVERING_NOWAIT only looks, and takes
 * nothing that has arrived, because callbacks may call this.
 */
int ops_wait_for_room(struct ops *ops, ops_condition condition, uint64_t arg,
		      int64_t timeout_ns, int64_t *deadline)
{
	if (timeout_ns == EVERING_NOWAIT && !condition(ops, arg)) {
		/* A loop that sleeps on the descriptor has to be woken. */
		if (ops->opened && !ops_room(ops)) {
			ops->refused = true;
			ops_touched(ops);
		}
		return ops->error ? ops->error : -EAGAIN;
	}
	return ops_wait_for(ops, condition, arg, true, timeout_ns, deadline);
}

int evering_ops_follow(struct evering_ops *table, const char *path,
		       int64_t patience_ns)
{
	struct ops *ops = to_ops(table);
	struct sockaddr_un address;
	socklen_t len;
	int ret;

	if (!ops->outlives)
		return -EOPNOTSUPP;
	if (patience_ns < EVERING_WAIT_FOREVER || !patience_ns)
		return -EINVAL;
	ret = path ? make_address(path, &address, &len) : 0;
	if (ret)
		return ret;
	meet_nobody(ops);
	snprintf(ops->successor, sizeof(ops->successor), "%s",
		 path ? path : "");
	ops->patience_ns = patience_ns;
	return 0;
}

int evering_ops_wait(struct evering_ops *table, int64_t timeout_ns)
{
	int64_t deadline = 0;

	return ops_wait_for(to_ops(table), never, 0, false, timeout_ns,
			    &deadline);
}

void evering_ops_flush(struct evering_ops *table)
{
	struct ops *ops = to_ops(table);

	if (ops->error)
		return;
	send_rest(ops);
	flush_now(ops);
}

/*
 * Whether the caller has to take something before it sleeps.  A caller that takes such
 * things is notified as long as there are any.  Another caller is notified once of
 * each, so that a peer cannot keep it from sleeping with things that are never taken.
 */
static bool to_take(const struct fifo *waiting, bool takes, uint32_t *told)
{
	bool is = waiting->count && (takes || waiting->count != *told);

	*told = waiting->count;
	return is;
}

/*
 * Prepares the sleep of a caller that arms with @arm.  Adds to *@armed what it is armed
 * for.  Returns 0; what is ready; or why the channel has ended.  Calls no callback.
 */
static int arm_table(struct ops *ops, unsigned int *armed,
		     int (*arm)(struct endpoint *e, unsigned int what))
{
	struct endpoint *e = ops_endpoint(ops);
	unsigned int what = *armed;
	bool rest;
	int ret;

	if (ops->error)
		return ops->error;
	if (to_take(&ops->inbox, ops->takes_requests, &ops->told_requests) ||
	    to_take(&ops->messages, ops->takes_messages, &ops->told_messages))
		return EVERING_RX;
	rest = send_rest(ops);
	if (again_is_due(ops))
		return EVERING_RX;
	if (ops->refused && ops_room(ops)) {
		ops->refused = false;
		return EVERING_RX;
	}
	if (what & EVERING_TX) {
		/* The caller waits for any room. */
	} else if (rest ||
		   (ops->refused && !ops->again.entries && !ops->left)) {
		what |= EVERING_TX;
		e->room = reserve_of(ops);
		*armed = what;
	} else {
		/* It must not wake the caller any more. */
		evering_disarm(&e->ev, EVERING_TX);
	}
	if (e->member)
		group_flush(e);
	else
		ops_flush(ops);
	ret = arm(e, what);
	e->room = 0;
	return ret;
}

static int arm_alone(struct endpoint *e, unsigned int what)
{
	return evering_arm(&e->ev, what);
}

int evering_ops_arm(struct evering_ops *table, short *events)
{
	struct ops *ops = to_ops(table);
	struct endpoint *e = ops_endpoint(ops);
	unsigned int what = EVERING_RX;
	int ret;

	*events = evering_events(&e->ev, what);
	if (e->member)
		return -EBUSY;
	ret = arm_table(ops, &what, arm_alone);
	*events = evering_events(&e->ev, what);
	return ret < 0 ? ops_end(ops, ret) : ret > 0;
}

/*
 * For a group that looks: whether there is something to do although nothing has
 * arrived.  As in arming, room is reported once.
 */
bool ops_to_do(struct ops *ops)
{
	if ((ops->inbox.count && ops->takes_requests) ||
	    (ops->messages.count && ops->takes_messages) ||
	    EVERING_UNLIKELY(ops->again.entries && again_is_due(ops)))
		return true;
	if (!ops->refused || ops->error || !ops_room(ops))
		return false;
	ops->refused = false;
	return true;
}

/*
 * Arms for a group that sleeps and waits for @want, which includes EVERING_RX.  Returns
 * what of @want is ready; or why the channel has ended, which evering_ops_poll() then
 * finds for the table.
 */
int ops_arm_member(struct ops *ops, unsigned int want)
{
	unsigned int what = want;
	int ret = arm_table(ops, &what, wait_arm);

	/* There is room for what the table itself has to send, so there is work. */
	if (ret > 0 && !((unsigned int)ret & want))
		return EVERING_RX;
	return ret;
}

int64_t evering_ops_timeout(const struct evering_ops *table)
{
	const struct ops *ops = to_const_ops(table);
	int64_t left;

	if (!ops->heap_count)
		return EVERING_WAIT_FOREVER;
	left = ops->pub.places[ops->heap[0]].deadline - now_ns();
	return left > 0 ? left : 0;
}

void evering_ops_get_info(const struct evering_ops *table,
			  struct evering_ops_info *info)
{
	const struct ops *ops = to_const_ops(table);

	*info = (struct evering_ops_info){
		.depth = ops->depth,
		.serve = ops->serve,
		.in_flight = ops->pub.in_flight,
		.abandoned = ops->abandoned,
		.done = ops->done,
		.held = ops->pub.holding,
		.homebound = ops->homebound.count,
		.max_data = ops->pub.max_data,
		.store = ops->store,
		.credit = ops->pub.credit,
		.messages = ops->messages.count,
	};
}

/* ------------------------------------------------------- opening and closing */

static const struct evering_ops_params default_params = EVERING_OPS_PARAMS_INIT;

static int read_params(const struct evering_ops_params *from, uint32_t entries,
		       struct evering_ops_params *params)
{
	*params = default_params;
	if (from && read_sized(params, sizeof(*params), from))
		return -EINVAL;
	if (params->depth == EVERING_OPS_DEFAULT)
		params->depth = entries / 2;
	if (params->serve == EVERING_OPS_DEFAULT)
		params->serve = entries / 2;
	if (params->store == EVERING_OPS_DEFAULT)
		params->store = entries / 2;
	if (params->reserved || params->store > entries)
		return -EINVAL;
	if ((params->flags & ~EVERING_REPLACEABLE) ||
	    params->depth > entries - entries / 4 ||
	    params->serve > entries - entries / 4)
		return -EINVAL;
	return 0;
}

/**
 * struct layout - the offsets of the parts of a table in its memory
 */
struct layout {
	uint32_t place_count;
	uint32_t held_count;
	uint32_t stored_count;
	uint32_t loan_count;
	size_t places;
	size_t held;
	size_t place_data;
	size_t held_data;
	size_t stored;
	size_t stored_data;
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

static uint32_t power_above(uint32_t n)
{
	uint32_t power = 1;

	while (power < n)
		power *= 2;
	return power;
}

static void lay_out(const struct endpoint *e,
		    const struct evering_ops_params *params,
		    struct layout *layout)
{
	size_t slot = e->geometry.slot_size, end = 0, loans;

	layout->place_count = power_above(1 + params->depth + EVERING_OP_SPARE);
	layout->held_count = power_above(1 + params->serve + EVERING_OP_SPARE);
	add_part(&end, sizeof(struct ops));
	layout->places = add_part(&end, layout->place_count *
						sizeof(struct evering__place));
	layout->held = add_part(&end, layout->held_count *
					      sizeof(struct evering__held));
	layout->place_data = add_part(&end, layout->place_count * slot);
	layout->held_data = add_part(&end, layout->held_count * slot);
	layout->stored_count = power_above(1 + params->store);
	layout->stored = add_part(&end, layout->stored_count *
						sizeof(struct evering__stored));
	layout->stored_data = add_part(&end, (params->store + 1) * slot);
	layout->heap = add_part(&end, params->depth * sizeof(uint32_t));
	layout->tell = add_part(&end, params->depth * sizeof(uint64_t));
	layout->loan_count = (uint32_t)(e->geometry.arena_size[!e->end] /
					EVERING_OP_GRANULE);
	layout->loans = 0;
	loans = book_place(layout->loan_count, sizeof(struct loan));
	if (loans)
		layout->loans = add_part(&end, loans);
	layout->all = end;
}

static void set_up(struct ops *ops, struct endpoint *e,
		   const struct evering_ops_params *params,
		   const struct layout *layout)
{
	unsigned char *memory = (unsigned char *)ops;

	ops->map_size = layout->all;
	ops->pub.ev = &e->ev;
	ops->pub.places = (struct evering__place *)(memory + layout->places);
	ops->pub.place_mask = layout->place_count - 1;
	ops->pub.held = (struct evering__held *)(memory + layout->held);
	ops->pub.held_mask = layout->held_count - 1;
	ops->pub.max_data =
		e->ev.tx.payload - (uint32_t)sizeof(struct evering_op_header);
	ops->place_data = memory + layout->place_data;
	ops->held_data = memory + layout->held_data;
	ops->pub.stored = (struct evering__stored *)(memory + layout->stored);
	ops->pub.stored_mask = layout->stored_count - 1;
	/* A name that no message has. */
	ops->pub.stored[0].plain = 1u << EVERING__STORED_BITS;
	ops->stored_data = memory + layout->stored_data;
	ops->store = params->store;
	ops->tell_at = params->store / 4 ? params->store / 4 : 1;
	ops->pub.tell_in = ops->tell_at;
	ops->message = params->message;
	ops->stride = e->ev.tx.shift;
	ops->heap = (uint32_t *)(memory + layout->heap);
	ops->tell = (uint64_t *)(memory + layout->tell);
	ops->loan_count = layout->loan_count;
	ops->size = params->depth;
	ops->serve_size = params->serve;
	ops->keep = NO_ROOM;
	ops->request = params->request ? params->request : answer_later;
	ops->cancelled = params->cancelled;
	ops->context = params->context;
	ops->outlives = params->flags & EVERING_REPLACEABLE;
	ops_update(ops);
	answer_init(ops);
	ask_init(ops);
	e->ops = ops;
	evering_begin(&e->ev, 0);
}

/* Sends the first entry of a channel, for which there is room. */
static void say_open(struct ops *ops)
{
	const struct evering_op_header header = {
		.type = EVERING_OP_OPEN,
		.len = sizeof(struct evering_op_open),
		.code = EVERING_OPS_VERSION,
	};
	const struct evering_op_open open = {
		.depth = ops->size,
		.serve = ops->serve_size,
		.store = ops->store,
		.flags = ops->outlives ? EVERING_OP_OUTLIVES : 0,
	};

	ops_send(ops, &header, &open, NULL);
	ops->pub.flushed = ops->pub.ev->tx.next;
	evering_flush(ops->pub.ev);
}

/*
 * Starts on a new channel, whose peer is unknown.  Operations in flight stay, and
 * again.c sends them when the peer has opened its table.
 */
void ops_renew(struct ops *ops)
{
	meet_nobody(ops);
	ops->error = 0;
	ops->opened = ops->left = ops->leaves = false;
	ops->keep = NO_ROOM;
	ops->serve = 0;
	ops->tell_first = ops->tell_count = 0;
	ops->told_requests = 0;
	loan_renew(ops);
	message_renew(ops);
	answer_init(ops);
	ops_update(ops);
	evering_begin(ops->pub.ev, 0);
	say_open(ops);
}

/*
 * Whether the peer can be informed without making an answer wait.  If all entries that
 * the peer has not released are answers, then these, the ones that may become due
 * before it takes more, and this entry are at most n + 1, and less than a quarter of
 * the ring is released and not published.  So there is room for all.  A busy peer may
 * never leave more.
 */
static bool room_to_leave(struct ops *ops)
{
	const struct evering_tx *tx = &ops->pub.ev->tx;
	struct evering_op_header header;
	uint32_t used;

	if (ops_room_beside(ops))
		return true;
	if (!ops->opened || ops->error || !evering_reserve(ops->pub.ev))
		return false;
	used = tx->next - (tx->limit - (tx->mask + 1));
	for (; used; used--) {
		memcpy(&header, evering__tx_slot(tx, tx->next - used),
		       sizeof(header));
		if (header.type != EVERING_OP_ANSWER)
			return false;
	}
	return true;
}

/*
 * Informs the peer, once and when there is room, that this side will stop.  From then
 * on the peer keeps new operations for the successor.  Returns whether it was informed
 * now.
 */
bool ops_leave(struct ops *ops)
{
	const struct evering_op_header header = { .type = EVERING_OP_LEAVE };

	if (ops->leaves || !room_to_leave(ops))
		return false;
	ops->leaves = true;
	ops_send(ops, &header, NULL, NULL);
	ops_flush(ops);
	return true;
}

/* Whether a callback of the table, or a wait in one, is running. */
bool ops_in_callback(const struct ops *ops)
{
	const struct evering__place *spare;
	unsigned int count = 0;

	for (spare = ops->spare; spare; spare = spare->next)
		count++;
	return ops->waits || ops->calls || count < EVERING_OP_SPARE;
}

int evering_ops_open(struct evering *ev, const struct evering_ops_params *from,
		     struct evering_ops **ret)
{
	struct endpoint *e = to_endpoint(ev);
	struct evering_ops_params params;
	struct layout layout;
	struct ops *ops;
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
	ops = mmap(NULL, layout.all, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ops == MAP_FAILED)
		return -ENOMEM;
	set_up(ops, e, &params, &layout);
	if (book_init(&ops->loans, ops->loan_count, sizeof(struct loan),
		      layout.loans ? (unsigned char *)ops + layout.loans :
				     NULL)) {
		e->ops = NULL;
		munmap(ops, layout.all);
		return -ENOMEM;
	}

	say_open(ops);
	*ret = &ops->pub;
	return 0;
}

static void ops_free_table(struct ops *ops)
{
	ops_endpoint(ops)->ops = NULL;
	ops_endpoint(ops)->tabled = true;
	meet_nobody(ops);
	again_drop(&ops->again);
	book_destroy(&ops->loans);
	munmap(ops, ops->map_size);
}

void evering_ops_close(struct evering_ops *table)
{
	struct ops *ops = to_ops(table);

	if (!ops)
		return;
	/*
	 * In a process made by fork(2), do nothing with the table, and call no
	 * callback.
	 */
	if (ops_endpoint(ops)->owner != fork_id()) {
		ops_free_table(ops);
		return;
	}
	/* From here on the peer counts as present, and it may be. */
	ops->outlives = false;
	if (!ops->error) {
		send_rest(ops);
		ops->error = -EPIPE;
		ops->keep = NO_ROOM;
		ops_update(ops);
	}
	ask_end_all(ops, -ECANCELED, true);
	flush_now(ops);
	ops_free_table(ops);
}
