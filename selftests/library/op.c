// SPDX-License-Identifier: MIT
/*
 * op.c: operations from submission to their one outcome: how they are asked for,
 * answered, waited for, cancelled and run out of time, from callbacks too, and how
 * two tables agree on how many there may be.  Buffers are in op_buffer.c, other
 * processes in op_duo.c, and peers that break the rules in op_hostile.c.
 */
#include "op.h"
#include "peer.h"

#define ARENA 65536
#define SLOT EVERING_OPS_MIN_SLOT
/* What of a slot is not data: the header and the stamp. */
#define OVERHEAD 20

FIXTURE(op)
{
	uint32_t backend;
	struct evering *ev[2];
	struct side s[2];
};

BACKEND_VARIANTS(op);

static int remake(struct evering *ev[2], uint32_t backend, uint32_t slot,
		  uint32_t entries)
{
	struct evering_params p = params_sized(backend, slot, entries, ARENA);

	close_pair(ev);
	return evering_pair(&p, ev);
}

FIXTURE_SETUP(op)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 64));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
}

FIXTURE_TEARDOWN(op)
{
	over = true;
	close_pair(self->ev);
}

#define A (&self->s[0])
#define B (&self->s[1])

/* ------------------------------------------------------------ opening a table */

TEST_F(op, params_that_cannot_be_are_refused)
{
	struct evering_ops_params good = EVERING_OPS_PARAMS_INIT, p;
	struct {
		struct evering_ops_params p;
		uint32_t more;
	} longer = { .p = EVERING_OPS_PARAMS_INIT };
	static union {
		struct evering_ops_params p;
		unsigned char all[65537];
	} longest;
	struct evering_ops *ops = NULL;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	p = good;
	p.size--;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &p, &ops));
	p = good;
	p.size = 0;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &p, &ops));
	p = good;
	p.flags = EVERING_REPLACEABLE << 1;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &p, &ops));
	p = good;
	p.depth = 13;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &p, &ops));
	p = good;
	p.serve = 13;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &p, &ops));
	p = good;
	p.depth = EVERING_OPS_DEFAULT - 1;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &p, &ops));
	longer.p.size = sizeof(longer);
	longer.more = 1;
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &longer.p, &ops));
	longest.p = good;
	longest.p.size = sizeof(longest.all);
	EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], &longest.p, &ops));
	/* None of that has left anything in the ring. */
	EXPECT_EQ(NULL, evering_peek(self->ev[1]));

	longer.more = 0;
	EXPECT_EQ(0, evering_ops_open(self->ev[0], &longer.p, &ops));
	EXPECT_EQ(-EBUSY, evering_ops_open(self->ev[0], NULL, &ops));
	p = good;
	p.depth = 12;
	p.serve = 12;
	EXPECT_EQ(0, evering_ops_open(self->ev[1], &p, &ops));
}

TEST_F(op, a_full_ring_has_no_room_to_open)
{
	struct evering_ops *ops;
	uint32_t v = 0;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	while (!evering_send(self->ev[0], &v, sizeof(v), EVERING_NOWAIT))
		;
	EXPECT_EQ(-EAGAIN, evering_ops_open(self->ev[0], NULL, &ops));
}

TEST_F(op, a_channel_that_has_ended_opens_no_table)
{
	struct evering_ops *ops;
	uint32_t v = 0;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	while (!evering_send(self->ev[0], &v, sizeof(v), EVERING_NOWAIT))
		;
	evering_store_release(&own_half(self->ev[1])->released, 12345);
	EXPECT_EQ(-EPROTO, evering_ops_open(self->ev[0], NULL, &ops));
}

TEST_F(op, slots_too_small_for_an_entry_are_refused)
{
	struct evering_ops *ops;
	uint32_t slot;

	for (slot = EVERING_MIN_SLOT; slot < EVERING_OPS_MIN_SLOT; slot *= 2) {
		ASSERT_EQ(0, remake(self->ev, self->backend, slot, 16));
		EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[0], NULL, &ops));
		EXPECT_EQ(-EINVAL, evering_ops_open(self->ev[1], NULL, &ops));
	}
	ASSERT_EQ(0, remake(self->ev, self->backend, slot, 16));
	EXPECT_EQ(0, evering_ops_open(self->ev[0], NULL, &ops));
	EXPECT_EQ(0, evering_ops_open(self->ev[1], NULL, &ops));
}

TEST_F(op, the_default_is_half_the_ring)
{
	struct evering_ops_params zero = EVERING_OPS_PARAMS_INIT;
	struct evering_ops_info info;
	struct evering_ops *ops[2];
	uint32_t entries;
	int i;

	for (entries = 4; entries <= 1024; entries *= 4) {
		ASSERT_EQ(0, remake(self->ev, self->backend, SLOT, entries));
		ASSERT_EQ(0, evering_ops_open(self->ev[0], NULL, &ops[0]));
		ASSERT_EQ(0, evering_ops_open(self->ev[1], &zero, &ops[1]));
		for (i = 0; i < 2; i++) {
			info = info_of(ops[i]);
			EXPECT_EQ(0u, info.depth);
			ASSERT_EQ(1, evering_ops_poll(ops[i]));
			info = info_of(ops[i]);
			EXPECT_EQ(entries / 2, info.depth);
			EXPECT_EQ(entries / 2, info.serve);
			EXPECT_EQ(SLOT - OVERHEAD, info.max_data);
			EXPECT_EQ(0u, info.in_flight + info.abandoned +
					      info.done + info.held +
					      info.homebound);
		}
	}
}

/* How many can be asked for, if the peer takes them and answers none. */
static uint32_t ask_all(struct side s[2], int i, struct outcome *o)
{
	struct evering_op op = asks(0, NULL, 0, o);
	uint32_t n = 0;

	for (;;) {
		while (!ask(&s[i], &op, NULL))
			n++;
		if (evering_ops_poll(s[!i].ops) <= 0)
			return n;
	}
}

/* All of them, the last first: none may find the ring full. */
static int answer_all(struct side *s)
{
	int ret = 0;

	while (s->n_got && !ret)
		ret = evering_op_answer(s->ops, s->got[--s->n_got].id, 7, NULL,
					0);
	return ret;
}

TEST_F(op, in_flight_is_the_lesser_of_depth_and_serve)
{
	static const uint32_t wish[] = { 0, 1, 2, 3, 5, 8, 12 };
	uint32_t d, s, depth[2], serve[2], want[2];
	struct outcome o[2];
	int i, lap;

	for (d = 0; d < ARRAY_SIZE(wish); d++)
		for (s = 0; s < ARRAY_SIZE(wish); s++) {
			ASSERT_EQ(0, remake(self->ev, self->backend, SLOT, 16));
			depth[0] = wish[d];
			serve[1] = wish[s];
			depth[1] = wish[(d + 3) % ARRAY_SIZE(wish)];
			serve[0] = wish[(s + 5) % ARRAY_SIZE(wish)];
			for (i = 0; i < 2; i++)
				ASSERT_EQ(0,
					  side_open(&self->s[i], self->ev[i],
						    depth[i], serve[i], false));
			pump(self->s);
			for (i = 0; i < 2; i++) {
				want[i] = depth[i] < serve[!i] ? depth[i] :
								 serve[!i];
				EXPECT_EQ(want[i],
					  info_of(self->s[i].ops).depth);
				EXPECT_EQ(want[i],
					  info_of(self->s[!i].ops).serve);
			}
			/* More than once around the ring, in every position. */
			for (lap = 0; lap < 17; lap++) {
				memset(o, 0, sizeof(o));
				for (i = 0; i < 2; i++)
					ASSERT_EQ(want[i],
						  ask_all(self->s, i, &o[i]))
					{
						TH_LOG("%u/%u lap %d", wish[d],
						       wish[s], lap);
					}
				for (i = 0; i < 2; i++)
					ASSERT_EQ(0, answer_all(&self->s[i]));
				pump(self->s);
				for (i = 0; i < 2; i++)
					ASSERT_EQ(want[i], o[i].times);
			}
		}
}

TEST_F(op, every_ring_can_be_used_to_three_quarters_both_ways)
{
	uint32_t entries, n, most = short_run() ? 256 : 65536;
	struct outcome o[2];
	int i, lap;

	for (entries = 4; entries <= most; entries *= 4) {
		n = entries - entries / 4;
		ASSERT_EQ(0, remake(self->ev, self->backend, SLOT, entries));
		ASSERT_EQ(0, sides_open(self->s, self->ev, n, n));
		for (lap = 0; lap < 5; lap++) {
			memset(o, 0, sizeof(o));
			ASSERT_EQ(n, ask_all(self->s, 0, &o[0]));
			ASSERT_EQ(n, ask_all(self->s, 1, &o[1]));
			ASSERT_EQ(n, info_of(A->ops).in_flight);
			ASSERT_EQ(n, info_of(B->ops).held);
			if (n > NOTES)
				break;
			for (i = 0; i < 2; i++)
				ASSERT_EQ(0, answer_all(&self->s[i]));
			pump(self->s);
			ASSERT_EQ(n, o[0].times);
			ASSERT_EQ(n, o[1].times);
		}
	}
}

TEST_F(op, a_peer_that_opens_late)
{
	struct evering_op op = asks(1, "x", 1, NULL);
	struct evering_completion c;
	uint64_t id;
	int64_t t;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, side_open(A, self->ev[0], 4, 4, false));
	EXPECT_EQ(-EAGAIN, ask(A, &op, &id));
	EXPECT_EQ(-EAGAIN, evering_op_prepare(A->ops, &op, &id));
	EXPECT_EQ(-EAGAIN, evering_op_call(A->ops, &op, &c, EVERING_NOWAIT));
	t = now_ns();
	EXPECT_EQ(-ETIMEDOUT, evering_op_submit(A->ops, &op, &id, 5 * MSEC));
	EXPECT_LE(5 * MSEC, now_ns() - t);
	EXPECT_EQ(-ETIMEDOUT, evering_op_call(A->ops, &op, &c, MSEC));
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_op_wait_all(A->ops, EVERING_NOWAIT));
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(0u, info_of(A->ops).depth);

	ASSERT_EQ(0, side_open(B, self->ev[1], 4, 4, false));
	ASSERT_EQ(0, evering_op_submit(A->ops, &op, &id, PLENTY));
	ASSERT_EQ(2, evering_ops_poll(B->ops));
	ASSERT_EQ(1u, B->n_got);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 3, NULL, 0));
	ASSERT_EQ(0, evering_op_wait(A->ops, id, &c, PLENTY));
	EXPECT_EQ(3, c.result);
}

/* ------------------------------------------------------- the life of operations */

TEST_F(op, a_callback_is_told_once_and_everything)
{
	struct evering_op op;
	struct outcome o = { 0 };
	uint64_t id = 0;

	op = asks(0xfeedface, "question", 8, &o);
	op.ext = 0x123456789abcdef0ull;
	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_NE(0u, id);
	EXPECT_EQ(1u, info_of(A->ops).in_flight);
	EXPECT_EQ(1, evering_ops_poll(B->ops));
	ASSERT_EQ(1u, B->n_got);
	EXPECT_EQ(0xfeedface, B->got[0].opcode);
	EXPECT_EQ(8u, B->got[0].len);
	EXPECT_EQ(0, memcmp("question", B->got[0].data, 8));
	EXPECT_EQ(0u, B->got[0].flags);
	EXPECT_EQ(NULL, B->got[0].buf);
	EXPECT_EQ(0u, B->got[0].buf_len);
	EXPECT_EQ(1u, info_of(B->ops).held);
	EXPECT_EQ(0, evering_ops_poll(A->ops));
	EXPECT_EQ(0u, o.times);

	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, INT32_MIN,
				       "answer", 6));
	EXPECT_EQ(0u, info_of(B->ops).held);
	EXPECT_EQ(0u, o.times);
	EXPECT_EQ(1, evering_ops_poll(A->ops));
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(id, o.id);
	EXPECT_EQ(op.ext, o.ext);
	EXPECT_EQ(INT32_MIN, o.result);
	EXPECT_EQ(6u, o.len);
	EXPECT_EQ(0, memcmp("answer", o.data, 6));
	EXPECT_EQ(NULL, o.buf);
	EXPECT_EQ(0u, o.buf_len);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ESTALE, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
	EXPECT_EQ(-ESTALE, evering_op_cancelled(B->ops, B->got[0].id));
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id, 0));
	EXPECT_EQ(-ENOENT, evering_op_start(A->ops, id, EVERING_NOWAIT));
}

TEST_F(op, an_outcome_without_callback_is_kept_and_taken_once)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;
	uint64_t id;
	int mark;

	op.user = &mark;
	op.ext = 99;
	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_EQ(-EAGAIN, evering_op_done(A->ops, id, &c));
	pump(self->s);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, -5, "abc", 3));
	/* It looks at what is in the table only. */
	EXPECT_EQ(-EAGAIN, evering_op_done(A->ops, id, &c));
	EXPECT_EQ(1, evering_ops_poll(A->ops));
	EXPECT_EQ(1u, info_of(A->ops).done);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id, 0));
	EXPECT_EQ(-EALREADY, evering_op_start(A->ops, id, EVERING_NOWAIT));
	memset(&c, 0xa5, sizeof(c));
	ASSERT_EQ(0, evering_op_done(A->ops, id, &c));
	EXPECT_EQ(id, c.id);
	EXPECT_EQ(&mark, c.user);
	EXPECT_EQ(99u, c.ext);
	EXPECT_EQ(-5, c.result);
	EXPECT_EQ(3u, c.len);
	EXPECT_EQ(0, memcmp("abc", c.data, 3));
	EXPECT_EQ(NULL, c.buf);
	EXPECT_EQ(0u, c.buf_len);
	EXPECT_EQ(0u, info_of(A->ops).done);
	EXPECT_EQ(-ENOENT, evering_op_done(A->ops, id, &c));
	EXPECT_EQ(-ENOENT, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id, 0));

	/* Without data. */
	ASSERT_EQ(0, ask(A, &op, &id));
	pump(self->s);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[1].id, 0, NULL, 0));
	ASSERT_EQ(0, evering_op_wait(A->ops, id, &c, PLENTY));
	EXPECT_EQ(0u, c.len);
}

TEST_F(op, one_with_a_callback_cannot_be_waited_for)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id;

	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_EQ(-ENOENT, evering_op_done(A->ops, id, &c));
	EXPECT_EQ(-ENOENT, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, evering_op_wait_all(A->ops, EVERING_NOWAIT));
}

/* "Of those without a callback.  Returns -ENOENT: there is none." */
TEST_F(op, wait_any_does_not_wait_for_those_with_callbacks)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);

	ASSERT_EQ(0, ask(A, &op, NULL));
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, EVERING_NOWAIT));
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, 20 * MSEC));
}

TEST_F(op, wait_any_has_the_oldest_outcome_first)
{
	static const int order[] = { 3, 0, 4, 1, 2 };
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;
	uint64_t id[5];
	size_t i;

	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, PLENTY));
	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, ask(A, &op, &id[i]));
	EXPECT_EQ(-EAGAIN, evering_op_wait_any(A->ops, &c, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait_any(A->ops, &c, MSEC));
	pump(self->s);
	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, evering_op_answer(B->ops, B->got[order[i]].id,
					       order[i], NULL, 0));
	/* One from the middle first: the rest keeps its order. */
	ASSERT_EQ(0, evering_op_wait(A->ops, id[4], &c, PLENTY));
	EXPECT_EQ(4, c.result);
	for (i = 0; i < 5; i++) {
		if (order[i] == 4)
			continue;
		ASSERT_EQ(0, evering_op_wait_any(A->ops, &c, PLENTY));
		EXPECT_EQ(order[i], c.result);
		EXPECT_EQ(id[order[i]], c.id);
	}
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, PLENTY));
}

TEST_F(op, wait_all_leaves_outcomes_to_be_taken)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_op told = asks(1, NULL, 0, &o);
	struct evering_completion c;
	uint64_t id, prepared;
	int i;

	EXPECT_EQ(0, evering_op_wait_all(A->ops, PLENTY));
	EXPECT_EQ(-EINVAL, evering_op_wait_all(A->ops, -2));
	ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &prepared));
	EXPECT_EQ(0, evering_op_wait_all(A->ops, PLENTY));
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, PLENTY));
	ASSERT_EQ(0, ask(A, &op, &id));
	ASSERT_EQ(0, ask(A, &told, NULL));
	pump(self->s);
	EXPECT_EQ(-EAGAIN, evering_op_wait_all(A->ops, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait_all(A->ops, MSEC));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 1, NULL, 0));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait_all(A->ops, MSEC));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[1].id, 2, NULL, 0));
	EXPECT_EQ(0, evering_op_wait_all(A->ops, PLENTY));
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(2, o.result);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(i ? -ENOENT : 0, evering_op_done(A->ops, id, &c));
	EXPECT_EQ(0, evering_op_cancel(A->ops, prepared, 0));
}

TEST_F(op, waits_end_in_time_and_the_operation_goes_on)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;
	struct evering_request r;
	int64_t t = now_ns();
	uint64_t id;

	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_EQ(-EAGAIN, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait(A->ops, id, &c, 3 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait_any(A->ops, &c, 3 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait_all(A->ops, 3 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(A->ops, 3 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_op_next(A->ops, &r, 3 * MSEC));
	EXPECT_LE(15 * MSEC, now_ns() - t);
	EXPECT_EQ(-EAGAIN, evering_ops_wait(A->ops, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, evering_op_next(A->ops, &r, EVERING_NOWAIT));
	EXPECT_EQ(-EINVAL, evering_op_wait(A->ops, id, &c, -2));
	EXPECT_EQ(-EINVAL, evering_op_wait_any(A->ops, &c, -2));
	EXPECT_EQ(-EINVAL, evering_ops_wait(A->ops, -2));
	EXPECT_EQ(-EINVAL, evering_op_next(A->ops, &r, -2));
	EXPECT_EQ(-EINVAL, evering_op_call(A->ops, &op, &c, -2));
	pump(self->s);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 1, NULL, 0));
	EXPECT_LE(1, evering_ops_wait(A->ops, PLENTY));
	EXPECT_EQ(0, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(1, c.result);
}

TEST_F(op, a_call_is_abandoned_when_its_time_is_up)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct outcome o = { 0 };
	struct evering_completion c;
	int64_t t;

	op.ext = 5;
	/* @done is not used. */
	op.done = note_done;
	op.user = &o;
	ASSERT_EQ(0, evering_op_call(A->ops, &op, &c, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, c.result);
	EXPECT_EQ(5u, c.ext);
	EXPECT_EQ(&o, c.user);
	EXPECT_EQ(1u, info_of(A->ops).abandoned);
	t = now_ns();
	ASSERT_EQ(0, evering_op_call(A->ops, &op, &c, 5 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, c.result);
	EXPECT_LE(5 * MSEC, now_ns() - t);
	EXPECT_EQ(2u, info_of(A->ops).abandoned);
	/* Its own time may be the shorter one. */
	op.timeout_ns = MSEC;
	ASSERT_EQ(0, evering_op_call(A->ops, &op, &c, EVERING_WAIT_FOREVER));
	EXPECT_EQ(-ETIMEDOUT, c.result);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(0u, info_of(A->ops).done);
	pump(self->s);
	/* The peer was told of all three. */
	ASSERT_EQ(3u, B->n_got);
	EXPECT_EQ(3u, B->n_told);
	ASSERT_EQ(0, answer_all(B));
	pump(self->s);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
	EXPECT_EQ(0u, o.times);
}

/* -------------------------------------------------------- any peer that answers */

static void answer_at_once(struct evering_ops *ops,
			   const struct evering_request *r, void *context)
{
	(void)context;
	evering_op_answer(ops, r->id, (int32_t)r->opcode, r->data, r->len);
}

/*
 * Tests that do not care who answers: with the opcode and the data, as soon as it is there.
 * That is the other side of the same process, or a kernel module.
 */
FIXTURE(op_peer)
{
	uint32_t backend;
	bool echo;
	struct evering *ev[2];
	struct side s[1];
	struct evering_ops *answers; /* or NULL: the module does */
};

PEER_VARIANTS(op_peer);

static int meet(FIXTURE_DATA(op_peer) * self, uint32_t slot, uint32_t entries)
{
	struct evering_params p =
		params_sized(self->backend, slot, entries, ARENA);
	struct evering_ops_params ops = EVERING_OPS_PARAMS_INIT;
	int ret;

	close_pair(self->ev);
	self->answers = NULL;
	ret = self->echo ? echo_open(&p, EVERING_ECHO_OPS, 0, &self->ev[0]) :
			   evering_pair(&p, self->ev);
	if (!ret)
		ret = side_open(A, self->ev[0], 8, 8, false);
	if (ret || self->echo)
		return ret;
	ops.depth = ops.serve = 8;
	ops.request = answer_at_once;
	return evering_ops_open(self->ev[1], &ops, &self->answers);
}

/* Until everything is answered; 0, or a negative errno. */
static int answered(FIXTURE_DATA(op_peer) * self)
{
	int ret = 0;

	while (ret >= 0 && info_of(A->ops).in_flight) {
		if (self->answers)
			evering_ops_poll(self->answers);
		ret = evering_ops_wait(A->ops,
				       self->answers ? EVERING_NOWAIT : PLENTY);
		if (ret == -EAGAIN)
			ret = 0;
	}
	return ret < 0 ? ret : 0;
}

FIXTURE_SETUP(op_peer)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
	self->echo = variant->echo;
	ASSERT_EQ(0, meet(self, 64, 64));
	/* Each has heard of the other. */
	if (self->answers)
		evering_ops_poll(self->answers);
	while (!info_of(A->ops).depth) {
		ASSERT_LT(0, evering_ops_wait(A->ops, PLENTY));
	}
}

FIXTURE_TEARDOWN(op_peer)
{
	over = true;
	close_pair(self->ev);
}

TEST_F(op_peer, an_outcome_that_is_not_taken_keeps_its_place)
{
	struct evering_completion c;
	struct evering_op op;
	uint64_t id[8];
	int i;

	for (i = 0; i < 8; i++) {
		op = asks((uint32_t)i, &i, sizeof(i), NULL);
		ASSERT_EQ(0, ask(A, &op, &id[i]));
		ASSERT_EQ(0, answered(self));
	}
	EXPECT_EQ(-EAGAIN, ask(A, &op, NULL));
	EXPECT_EQ(8u, info_of(A->ops).done);
	for (i = 7; i >= 0; i--) {
		ASSERT_EQ(0, evering_op_done(A->ops, id[i], &c));
		EXPECT_EQ(i, c.result);
		EXPECT_EQ(0, memcmp(&i, c.data, sizeof(i)));
	}
	EXPECT_EQ(0, ask(A, &op, NULL));
}

/* The list of outcomes under all orders of taking them. */
TEST_F(op_peer, outcomes_can_be_taken_in_any_order)
{
	uint64_t rng = random_seed(), id[8], queue[8];
	struct evering_completion c;
	struct evering_op op;
	int round, n = 0, at, i, rounds = short_run() ? 500 : 5000;

	for (round = 0; round < rounds; round++) {
		if (n < 8 && random_below(&rng, 2)) {
			op = asks((uint32_t)round, NULL, 0, NULL);
			ASSERT_EQ(0, ask(A, &op, &id[n]));
			ASSERT_EQ(0, answered(self));
			queue[n++] = (uint64_t)round;
			continue;
		}
		if (!n)
			continue;
		at = random_below(&rng, 3) ?
			     (int)random_below(&rng, (uint64_t)n) :
			     -1;
		if (at < 0) {
			at = 0;
			ASSERT_EQ(0, evering_op_wait_any(A->ops, &c, PLENTY));
		} else {
			ASSERT_EQ(0, evering_op_done(A->ops, id[at], &c));
		}
		ASSERT_EQ(id[at], c.id);
		ASSERT_EQ((int)queue[at], c.result);
		n--;
		for (i = at; i < n; i++) {
			id[i] = id[i + 1];
			queue[i] = queue[i + 1];
		}
		ASSERT_EQ((uint32_t)n, info_of(A->ops).done);
	}
}

/* The other side of the same process, driven by whoever has to wait. */
struct helper {
	struct evering_ops *ops;
	bool stop;
};

static void *helper_main(void *arg)
{
	struct helper *h = arg;

	while (!__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE))
		if (evering_ops_wait(h->ops, 20 * MSEC) == -EPIPE)
			break;
	return NULL;
}

/* With data of every length that there is. */
TEST_F(op_peer, a_call_brings_the_answer)
{
	unsigned char data[EVERING_MAX_SLOT];
	struct evering_completion c;
	struct helper h = { 0 };
	struct evering_op op;
	pthread_t thread;
	uint32_t i, k;

	ASSERT_EQ(0, meet(self, 64, 16));
	h.ops = self->answers;
	if (h.ops)
		ASSERT_EQ(0, pthread_create(&thread, NULL, helper_main, &h));
	for (i = 0; i < 500; i++) {
		for (k = 0; k < sizeof(data); k++)
			data[k] = (unsigned char)(k * 7 + i);
		op = asks(i, data, i % (64 - OVERHEAD + 1), NULL);
		ASSERT_EQ(0, evering_op_call(A->ops, &op, &c,
					     i & 1 ? EVERING_WAIT_FOREVER :
						     PLENTY));
		ASSERT_EQ((int32_t)i, c.result);
		ASSERT_EQ(op.len, c.len);
		ASSERT_EQ(0, memcmp(data, c.data, c.len));
	}
	__atomic_store_n(&h.stop, true, __ATOMIC_RELEASE);
	if (h.ops)
		pthread_join(thread, NULL);
}

/* ------------------------------------------------------------- what is refused */

TEST_F(op, what_cannot_be_asked_is_refused_and_nothing_has_happened)
{
	struct evering_op op, good = asks(1, "data", 4, NULL);
	struct evering_completion c;
	char big[256] = { 0 };
	uint64_t id = 77;
	int i;

	for (i = 0; i < 10; i++) {
		int want = -EINVAL;

		op = good;
		switch (i) {
		case 0:
			op.reserved = 1;
			break;
		case 1:
			op.timeout_ns = -2;
			break;
		case 2:
			op.flags = 4;
			break;
		case 3:
			op.flags = EVERING_LEND | EVERING_GIVE;
			break;
		case 4:
			op.flags = EVERING_LEND; /* what? */
			break;
		case 5:
			op.flags = EVERING_GIVE;
			break;
		case 6:
			op.flags = EVERING_LEND;
			op.buf = big;
			op.buf_len = 1;
			break;
		case 7:
			op.data = big;
			op.len = info_of(A->ops).max_data + 1;
			want = -EMSGSIZE;
			break;
		case 8:
			op.data = big;
			op.len = UINT32_MAX;
			want = -EMSGSIZE;
			break;
		case 9: /* a buffer, and not a word of what to do with it */
			op.buf = big;
			op.buf_len = 1;
			break;
		}
		EXPECT_EQ(want, ask(A, &op, &id))
		{
			TH_LOG("case %d", i);
		}
		EXPECT_EQ(want, evering_op_prepare(A->ops, &op, &id));
		EXPECT_EQ(want, evering_op_call(A->ops, &op, &c, PLENTY));
	}
	EXPECT_EQ(77u, id);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	pump(self->s);
	EXPECT_EQ(0u, B->n_got);
}

/* -EINVAL, and not a crash. */
TEST_F(op, data_from_nowhere_is_refused)
{
	struct evering_op op = asks(1, NULL, 4, NULL);
	struct outcome o;
	uint64_t id;

	EXPECT_EQ(-EINVAL, evering_op_prepare(A->ops, &op, &id));
	EXPECT_EQ(-EINVAL, ask(A, &op, &id));
	op.done = note_done;
	op.user = &o;
	EXPECT_EQ(-EINVAL, ask(A, &op, &id));
}

TEST_F(op, an_answer_with_data_from_nowhere_is_refused)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id;

	ASSERT_EQ(0, ask(A, &op, &id));
	pump(self->s);
	EXPECT_EQ(-EINVAL, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 4));
	/* The same of one that is not plain any more. */
	ASSERT_EQ(0, evering_op_cancel(A->ops, id, EVERING_CANCEL_TELL));
	pump(self->s);
	ASSERT_EQ(1u, B->n_told);
	EXPECT_EQ(-EINVAL, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 4));
	pump(self->s);
	EXPECT_EQ(0u, o.times);
	EXPECT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
}

TEST_F(op, data_of_all_lengths_with_nothing_behind_it)
{
	uint32_t slot, len, max, i, b;
	unsigned char in[EVERING_MAX_SLOT], out[EVERING_MAX_SLOT];
	struct evering_completion c;
	struct evering_op op;
	struct outcome o;
	uint64_t id;

	for (slot = SLOT; slot <= EVERING_MAX_SLOT; slot *= 2) {
		ASSERT_EQ(0, remake(self->ev, self->backend, slot, 8));
		ASSERT_EQ(0, sides_open(self->s, self->ev, 4, 4));
		max = info_of(A->ops).max_data;
		ASSERT_EQ(slot - OVERHEAD, max);
		for (len = 0; len <= max; len++) {
			for (b = 0; b < max; b++) {
				in[b] = (unsigned char)(b * 7 + len + 1);
				out[b] = (unsigned char)~in[b];
			}
			/* Once told and once fetched. */
			for (i = 0; i < 2; i++) {
				memset(&o, 0xee, sizeof(o));
				o.times = 0;
				B->n_got = 0;
				op = asks(len, in, len, i ? &o : NULL);
				ASSERT_EQ(0, ask(A, &op, &id));
				pump(self->s);
				ASSERT_EQ(1u, B->n_got);
				ASSERT_EQ(len, B->got[0].len);
				ASSERT_EQ(0u, (uintptr_t)B->got[0].data % 16);
				ASSERT_EQ(0, memcmp(in, B->got[0].data, len));
				ASSERT_EQ(0, evering_op_answer(B->ops,
							       B->got[0].id, 0,
							       out, len));
				pump(self->s);
				if (i) {
					ASSERT_EQ(1u, o.times);
					ASSERT_EQ(len, o.len);
					ASSERT_EQ(0, memcmp(out, o.data, len));
					ASSERT_EQ(0xee, o.data[len]);
				} else {
					ASSERT_EQ(0, evering_op_done(A->ops, id,
								     &c));
					ASSERT_EQ(len, c.len);
					ASSERT_EQ(0, memcmp(out, c.data, len));
				}
			}
		}
		B->n_got = 0;
		op = asks(0, in, max + 1, NULL);
		EXPECT_EQ(-EMSGSIZE, ask(A, &op, &id));
		op = asks(0, in, 0, NULL);
		ASSERT_EQ(0, ask(A, &op, &id));
		pump(self->s);
		EXPECT_EQ(-EMSGSIZE, evering_op_answer(B->ops, B->got[0].id, 0,
						       out, max + 1));
		/* It can still be answered. */
		EXPECT_EQ(0,
			  evering_op_answer(B->ops, B->got[0].id, 0, out, max));
	}
}

/* The data of many requests lies side by side: none runs into another's. */
TEST_F(op, data_stays_until_answered)
{
	uint32_t max = info_of(A->ops).max_data, len, n, i, k;
	uint64_t rng = random_seed();
	unsigned char data[8][64];
	unsigned char *p;
	struct evering_op op;
	struct outcome o = { 0 };
	uint64_t id[8] = { 0 };
	const void *at[8];
	uint32_t lens[8];

	for (i = 0; i < (short_run() ? 500 : 5000); i++) {
		k = (uint32_t)random_below(&rng, 8);
		if (id[k]) {
			ASSERT_EQ(0, memcmp(data[k], at[k], lens[k]));
			ASSERT_EQ(0,
				  evering_op_answer(B->ops, id[k], 0, NULL, 0));
			id[k] = 0;
		} else {
			p = data[k];
			len = (uint32_t)random_below(&rng, max + 1);
			for (n = 0; n < len; n++)
				p[n] = (unsigned char)random_u64(&rng);
			op = asks(0, p, len, &o);
			B->n_got = 0;
			ASSERT_EQ(0, ask(A, &op, NULL));
			pump(self->s);
			ASSERT_EQ(1u, B->n_got);
			id[k] = B->got[0].id;
			at[k] = B->got[0].data;
			lens[k] = len;
		}
		pump(self->s);
		for (n = 0; n < 8; n++)
			if (id[n])
				ASSERT_EQ(0, memcmp(data[n], at[n], lens[n]));
	}
}

TEST_F(op, requests_without_a_callback_wait_in_order)
{
	struct evering_op op;
	struct evering_request r;
	uint64_t id[8];
	uint32_t i, lap;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, side_open(A, self->ev[0], 8, 8, false));
	ASSERT_EQ(0, side_open(B, self->ev[1], 8, 8, true));
	pump(self->s);
	for (lap = 0; lap < 10; lap++) {
		for (i = 0; i < 8; i++) {
			op = asks(100 + i, &i, sizeof(i), NULL);
			ASSERT_EQ(0, ask(A, &op, NULL));
			evering_ops_poll(B->ops);
		}
		EXPECT_EQ(8u, info_of(B->ops).held);
		for (i = 0; i < 8; i++) {
			ASSERT_EQ(0,
				  evering_op_next(B->ops, &r, EVERING_NOWAIT));
			EXPECT_EQ(100 + i, r.opcode);
			EXPECT_EQ(sizeof(i), r.len);
			EXPECT_EQ(0, memcmp(&i, r.data, sizeof(i)));
			EXPECT_EQ(0u, r.flags);
			EXPECT_EQ(NULL, r.buf);
			EXPECT_EQ(0u, r.buf_len);
			id[i] = r.id;
		}
		EXPECT_EQ(-EAGAIN, evering_op_next(B->ops, &r, EVERING_NOWAIT));
		EXPECT_EQ(8u, info_of(B->ops).held);
		for (i = 0; i < 8; i++) {
			struct evering_completion c;

			ASSERT_EQ(0, evering_op_answer(B->ops, id[i ^ 5], 0,
						       NULL, 0));
			ASSERT_EQ(0, evering_op_wait_any(A->ops, &c, PLENTY));
		}
	}
}

TEST_F(op, answers_come_in_any_order)
{
	uint64_t rng = random_seed();
	struct evering_op op;
	struct outcome o[8];
	uint32_t round, i, k;
	struct evering_request t;

	for (round = 0; round < 200; round++) {
		memset(o, 0, sizeof(o));
		B->n_got = 0;
		for (i = 0; i < 8; i++) {
			op = asks(i, &i, sizeof(i), &o[i]);
			ASSERT_EQ(0, ask(A, &op, NULL));
			evering_ops_poll(B->ops);
		}
		pump(self->s);
		ASSERT_EQ(8u, B->n_got);
		for (i = 8; i > 1; i--) {
			k = (uint32_t)random_below(&rng, i);
			t = B->got[k];
			B->got[k] = B->got[i - 1];
			B->got[i - 1] = t;
		}
		for (i = 0; i < 8; i++)
			ASSERT_EQ(0, evering_op_answer(
					     B->ops, B->got[i].id,
					     (int32_t)B->got[i].opcode,
					     B->got[i].data, B->got[i].len));
		pump(self->s);
		for (i = 0; i < 8; i++) {
			ASSERT_EQ(1u, o[i].times);
			ASSERT_EQ((int32_t)i, o[i].result);
			ASSERT_EQ(0, memcmp(&i, o[i].data, sizeof(i)));
		}
		for (i = 1; i < 8; i++)
			ASSERT_LT(o[B->got[i - 1].opcode].order,
				  o[B->got[i].opcode].order);
	}
}

/* ------------------------------------------------------------------- prepared */

TEST_F(op, a_prepared_operation_is_sent_when_started)
{
	char data[] = "first";
	struct outcome o = { 0 };
	struct evering_op op = asks(42, data, 5, &o);
	uint64_t id;

	op.timeout_ns = SEC;
	ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &id));
	EXPECT_NE(0u, id);
	memcpy(data, "other", 5);
	EXPECT_EQ(1u, info_of(A->ops).in_flight);
	/* Its time begins when it is sent. */
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_ops_timeout(A->ops));
	pump(self->s);
	EXPECT_EQ(0u, B->n_got);
	ASSERT_EQ(0, evering_op_start(A->ops, id, EVERING_NOWAIT));
	EXPECT_GE(SEC, evering_ops_timeout(A->ops));
	EXPECT_EQ(-EALREADY, evering_op_start(A->ops, id, EVERING_NOWAIT));
	pump(self->s);
	ASSERT_EQ(1u, B->n_got);
	EXPECT_EQ(42u, B->got[0].opcode);
	EXPECT_EQ(5u, B->got[0].len);
	EXPECT_EQ(0, memcmp("first", B->got[0].data, 5));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 1, NULL, 0));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(id, o.id);
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_ops_timeout(A->ops));
	EXPECT_EQ(-ENOENT, evering_op_start(A->ops, id, EVERING_NOWAIT));
	EXPECT_EQ(-ENOENT, evering_op_start(A->ops, 0, EVERING_NOWAIT));
	EXPECT_EQ(-ENOENT, evering_op_start(A->ops, UINT64_MAX, 0));
}

TEST_F(op, a_prepared_operation_that_is_cancelled_never_was)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(42, "data", 4, &o);
	uint64_t id[8], again;
	int i;

	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &id[i]));
	EXPECT_EQ(-EAGAIN, evering_op_prepare(A->ops, &op, &again));
	EXPECT_EQ(-EAGAIN, ask(A, &op, NULL));
	for (i = 0; i < 8; i++) {
		ASSERT_EQ(0, evering_op_cancel(
				     A->ops, id[i],
				     i & 1 ? EVERING_CANCEL_TELL |
						     EVERING_CANCEL_DETACH :
					     0));
		EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id[i], 0));
		EXPECT_EQ(-ENOENT, evering_op_start(A->ops, id[i], 0));
	}
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
	pump(self->s);
	EXPECT_EQ(0u, o.times);
	EXPECT_EQ(0u, B->n_got);
	EXPECT_EQ(0u, B->n_told);
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, PLENTY));
	EXPECT_EQ(0, ask(A, &op, NULL));
}

TEST_F(op, a_prepared_operation_without_room_stays_prepared)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id;
	uint32_t n = 0;

	/* Both tables of three quarters: room for a few until the peer takes them. */
	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 12, 12));
	ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &id));
	while (!ask(A, &op, NULL))
		n++;
	ASSERT_GT(11u, n);
	EXPECT_EQ(-EAGAIN, evering_op_start(A->ops, id, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_op_start(A->ops, id, MSEC));
	EXPECT_EQ(-EINVAL, evering_op_start(A->ops, id, -2));
	pump(self->s);
	EXPECT_EQ(0, evering_op_start(A->ops, id, EVERING_NOWAIT));
	pump(self->s);
	EXPECT_EQ(n + 1, B->n_got);
	ASSERT_EQ(0, answer_all(B));
	pump(self->s);
	EXPECT_EQ(n + 1, o.times);
}

struct meanwhile {
	struct side *peer;
	uint64_t id; /* of another, prepared */
	bool starts; /* or cancels */
	int ret;
};

static void meanwhile_done(struct evering_ops *ops,
			   const struct evering_completion *c)
{
	struct meanwhile *m = c->user;

	/* So that there is room. */
	while (evering_ops_poll(m->peer->ops) > 0)
		;
	m->ret = m->starts ? evering_op_start(ops, m->id, EVERING_NOWAIT) :
			     evering_op_cancel(ops, m->id, 0);
}

TEST_F(op, a_callback_may_be_faster_than_a_start_that_waits_for_room)
{
	struct outcome o;
	struct evering_op op;
	struct meanwhile m;
	uint32_t n;

	for (m.starts = false;; m.starts = true) {
		ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
		ASSERT_EQ(0, sides_open(self->s, self->ev, 12, 12));
		memset(&o, 0, sizeof(o));
		m.peer = B;
		m.ret = 1;
		op = asks(1, NULL, 0, NULL);
		op.done = meanwhile_done;
		op.user = &m;
		ASSERT_EQ(0, ask(A, &op, NULL));
		ASSERT_EQ(1, evering_ops_poll(B->ops));
		op = asks(2, NULL, 0, &o);
		ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &m.id));
		for (n = 0; !ask(A, &op, NULL); n++)
			;
		ASSERT_EQ(0,
			  evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
		EXPECT_EQ(m.starts ? -EALREADY : -ENOENT,
			  evering_op_start(A->ops, m.id, PLENTY));
		EXPECT_EQ(0, m.ret);
		B->n_got = 0;
		pump(self->s);
		EXPECT_EQ(m.starts, B->n_got);
		if (m.starts)
			break;
	}
}

/* --------------------------------------------------------------- full tables */

TEST_F(op, a_full_table_says_so)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	struct evering_completion c;
	uint64_t id = 5;
	int64_t t;

	ASSERT_EQ(8u, ask_all(self->s, 0, &o));
	EXPECT_EQ(-EAGAIN, ask(A, &op, &id));
	EXPECT_EQ(-EAGAIN, evering_op_prepare(A->ops, &op, &id));
	t = now_ns();
	EXPECT_EQ(-ETIMEDOUT, evering_op_submit(A->ops, &op, &id, 3 * MSEC));
	EXPECT_LE(3 * MSEC, now_ns() - t);
	EXPECT_EQ(-EAGAIN, evering_op_call(A->ops, &op, &c, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_op_call(A->ops, &op, &c, MSEC));
	EXPECT_EQ(5u, id);
	EXPECT_EQ(8u, info_of(A->ops).in_flight);
	/* An answer makes room, which is found by who waits: to try takes nothing. */
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[3].id, 0, NULL, 0));
	EXPECT_EQ(-EAGAIN, ask(A, &op, &id));
	EXPECT_EQ(0u, o.times);
	EXPECT_EQ(0, evering_op_submit(A->ops, &op, &id, PLENTY));
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-EAGAIN, ask(A, &op, &id));
}

/* ------------------------------------------- both sides asking and answering */

/* One side's half of a storm. */
struct storm {
	struct side *side;
	uint64_t *rng;
	uint32_t asked; /* so many were, numbered in ext */
	uint32_t told;
	uint32_t bad;
	unsigned char *seen;
	uint64_t held[NOTES];
	uint32_t what[NOTES];
	unsigned int n_held;
	unsigned char max;
};

static void storm_done(struct evering_ops *ops,
		       const struct evering_completion *c)
{
	struct storm *s = c->user;
	uint32_t n = (uint32_t)c->ext;

	(void)ops;
	s->told++;
	if (s->seen[n]++ || (uint32_t)c->result != ~n || c->len != n % 5 * 8 ||
	    (c->len && !check_entry(c->data, c->len, n, 1)))
		s->bad++;
}

static void storm_request(struct evering_ops *ops,
			  const struct evering_request *r, void *context)
{
	struct storm *s = context;

	(void)ops;
	if (s->n_held == NOTES || !r->id || r->len != r->opcode % 6 * 4 ||
	    (r->len && !check_entry(r->data, r->len, r->opcode, 2))) {
		s->bad++;
		return;
	}
	s->held[s->n_held] = r->id;
	s->what[s->n_held++] = r->opcode;
}

static int storm_ask(struct storm *s)
{
	uint32_t n = s->asked, data[8];
	struct evering_op op = asks(n, data, n % 6 * 4, NULL);
	int ret;

	fill_entry(data, sizeof(data), n, 2);
	op.done = storm_done;
	op.user = s;
	op.ext = n;
	ret = evering_op_submit(s->side->ops, &op, NULL, EVERING_NOWAIT);
	if (!ret)
		s->asked++;
	return ret;
}

static int storm_answer(struct storm *s)
{
	uint32_t at = (uint32_t)random_below(s->rng, s->n_held);
	uint32_t n = s->what[at], data[8];
	int ret;

	fill_entry(data, sizeof(data), n, 1);
	ret = evering_op_answer(s->side->ops, s->held[at], (int32_t)~n, data,
				n % 5 * 8);
	s->held[at] = s->held[--s->n_held];
	s->what[at] = s->what[s->n_held];
	return ret;
}

/* 0; or what should not have happened. */
static int storm_run(struct evering *ev[2], uint32_t depth, uint32_t serve,
		     uint32_t steps, uint64_t *rng)
{
	struct storm s[2] = { 0 };
	struct side side[2];
	struct evering_ops_params p;
	uint32_t step, i, n, idle;
	int ret = 0;

	for (i = 0; i < 2; i++) {
		p = (struct evering_ops_params)EVERING_OPS_PARAMS_INIT;
		p.depth = depth;
		p.serve = serve;
		p.request = storm_request;
		p.context = &s[i];
		s[i].side = &side[i];
		s[i].rng = rng;
		s[i].seen = calloc(steps * 16 + 1, 1);
		ret = evering_ops_open(ev[i], &p, &side[i].ops);
		if (ret)
			goto out;
	}
	for (step = 0; step < steps && !ret; step++) {
		struct storm *one = &s[random_below(rng, 2)];

		n = (uint32_t)random_below(rng, 16);
		switch (random_below(rng, 4)) {
		case 0:
			while (n-- && !ret)
				ret = storm_ask(one);
			if (ret == -EAGAIN)
				ret = 0;
			break;
		case 1:
			while (n-- && one->n_held && !ret)
				ret = storm_answer(one);
			break;
		default:
			ret = evering_ops_poll(one->side->ops);
			if (ret > 0)
				ret = 0;
		}
	}
	/* The rest is answered, and nobody waits for ever. */
	for (idle = 0; idle < 3 && !ret; idle++)
		for (i = 0; i < 2 && !ret; i++) {
			ret = evering_ops_poll(side[i].ops);
			if (ret > 0) {
				idle = 0;
				ret = 0;
			}
			while (s[i].n_held && !ret) {
				idle = 0;
				ret = storm_answer(&s[i]);
			}
		}
	for (i = 0; i < 2 && !ret; i++)
		if (s[i].bad || s[i].told != s[i].asked ||
		    (depth && serve && !s[i].asked) ||
		    info_of(side[i].ops).in_flight || info_of(side[i].ops).held)
			ret = 1;
out:
	free(s[0].seen);
	free(s[1].seen);
	return ret;
}

TEST_F_TIMEOUT(op, both_sides_ask_and_answer_and_no_answer_has_to_wait, 120)
{
	uint32_t entries, most, depth, steps = short_run() ? 500 : 4000;
	uint64_t rng = random_seed();
	int i;

	for (entries = 4; entries <= 256; entries *= 2) {
		most = entries - entries / 4;
		for (i = 0; i < 6; i++) {
			depth = i ? 1 + (uint32_t)random_below(&rng, most) :
				    most;
			ASSERT_EQ(0,
				  remake(self->ev, self->backend, 64, entries));
			ASSERT_EQ(0,
				  storm_run(self->ev, depth,
					    i < 2 ? most : depth, steps, &rng))
			{
				TH_LOG("%u entries, depth %u", entries, depth);
			}
		}
	}
}

/* ---------------------------------------------------------- from callbacks */

struct chain {
	struct side *s;
	struct evering_op op;
	uint32_t left;
	unsigned int nested, deepest;
	unsigned int refused;
	int64_t timeout;
	int error;
};

/* Each outcome asks anew: with a full table there is just this one's place. */
static void chain_done(struct evering_ops *ops,
		       const struct evering_completion *c)
{
	struct chain *chain = c->user;
	int ret;

	if (++chain->nested > chain->deepest)
		chain->deepest = chain->nested;
	if (c->result != 7)
		chain->error = -EBADMSG;
	if (chain->left) {
		chain->left--;
		ret = evering_op_submit(ops, &chain->op, NULL, chain->timeout);
		if (ret == -EAGAIN || ret == -ETIMEDOUT || ret == -EDEADLK)
			chain->refused++;
		else if (ret)
			chain->error = ret;
	}
	chain->nested--;
}

TEST_F(op_peer, an_outcome_can_ask_anew_with_a_full_table)
{
	struct chain chain = { .left = self->echo ? 1000 : 10000 };
	uint32_t i;

	chain.op = asks(7, NULL, 0, NULL);
	chain.op.done = chain_done;
	chain.op.user = &chain;
	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, ask(A, &chain.op, NULL));
	ASSERT_EQ(0, answered(self));
	EXPECT_EQ(0u, chain.left);
	EXPECT_EQ(0u, chain.refused);
	EXPECT_EQ(0, chain.error);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
}

/*
 * The peer says when answers come and when it is done with requests.  If there is a
 * place but no room in the ring, asking anew from an outcome takes the next answer,
 * whose callback does the same: how deep that goes must not be up to the peer.
 */
TEST_F(op, asking_anew_without_room_does_not_nest_without_end)
{
	static const int64_t timeout[] = { EVERING_NOWAIT, 100 * USEC };
	uint32_t entries = 1024, n;
	struct chain chain;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(timeout); i++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, SLOT, entries));
		ASSERT_EQ(0, sides_open(self->s, self->ev, EVERING_OPS_DEFAULT,
					EVERING_OPS_DEFAULT));
		memset(&chain, 0, sizeof(chain));
		chain.left = UINT32_MAX;
		chain.timeout = timeout[i];
		chain.op = asks(1, NULL, 0, NULL);
		chain.op.done = chain_done;
		chain.op.user = &chain;
		/* With the table's opening, a quarter less two is not published. */
		for (n = 0; n < entries / 2 - 4;) {
			n += !ask(A, &chain.op, NULL);
			ASSERT_LE(0, evering_ops_poll(B->ops));
		}
		ASSERT_EQ(n, B->n_got);
		ASSERT_EQ(0, answer_all(B));
		ASSERT_LE(0, evering_ops_poll(A->ops));
		EXPECT_EQ(0, chain.error);
		EXPECT_LT(0u, chain.refused);
		EXPECT_GE(16u, chain.deepest)
		{
			TH_LOG("%u callbacks in each other, %u asked",
			       chain.deepest, n);
		}
		chain.left = 0;
		close_pair(self->ev);
	}
}

struct nest {
	struct side *s;
	uint64_t other; /* an operation to wait for, or a request */
	struct evering_completion c;
	uint64_t id;
	int ret[8];
	unsigned int times;
};

static void wait_inside(struct evering_ops *ops,
			const struct evering_completion *c)
{
	struct nest *n = c->user;

	/* Which is not to be looked at after a wait. */
	n->ret[3] = c->len == 3 && !memcmp(c->data, "out", 3);
	n->times++;
	/* The peer is in the same thread: let it answer the other one first. */
	evering_ops_poll(n->s[1].ops);
	n->ret[0] =
		evering_op_answer(n->s[1].ops, n->s[1].got[1].id, 22, "in", 2);
	n->ret[1] = evering_op_wait(ops, n->other, &n->c, PLENTY);
	n->ret[2] = evering_op_done(ops, n->other, &n->c);
}

TEST_F(op, an_outcome_can_wait_for_another)
{
	struct nest n = { .s = self->s };
	struct evering_op op = asks(1, NULL, 0, NULL);

	op.done = wait_inside;
	op.user = &n;
	ASSERT_EQ(0, ask(A, &op, NULL));
	op = asks(2, NULL, 0, NULL);
	ASSERT_EQ(0, ask(A, &op, &n.other));
	pump(self->s);
	ASSERT_EQ(2u, B->n_got);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 11, "out", 3));
	ASSERT_LE(1, evering_ops_poll(A->ops));
	EXPECT_EQ(1u, n.times);
	EXPECT_EQ(0, n.ret[0]);
	EXPECT_EQ(0, n.ret[1]);
	EXPECT_EQ(22, n.c.result);
	EXPECT_EQ(-ENOENT, n.ret[2]);
	EXPECT_EQ(1, n.ret[3]);
}

struct deep {
	uint64_t other;
	bool any; /* any wait, or the one for @other */
	unsigned int times, nested, deepest, refused;
};

static void wait_deeper(struct evering_ops *ops,
			const struct evering_completion *c)
{
	struct deep *d = c->user;
	struct evering_completion other;
	int ret;

	d->times++;
	if (++d->nested > d->deepest)
		d->deepest = d->nested;
	ret = d->any ? evering_ops_wait(ops, MSEC) :
		       evering_op_wait(ops, d->other, &other, PLENTY);
	d->refused += ret == -EDEADLK;
	d->nested--;
}

/* "When eight waits are in each other the next fails with -EDEADLK." */
TEST_F(op, waits_in_each_other_have_an_end)
{
	struct evering_op op;
	struct deep d;
	int any, i;

	for (any = 0; any < 2; any++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, 64, 64));
		ASSERT_EQ(0, sides_open(self->s, self->ev, 16, 16));
		memset(&d, 0, sizeof(d));
		d.any = any;
		for (i = 0; i < 12; i++) {
			op = asks(1, NULL, 0, NULL);
			op.done = wait_deeper;
			op.user = &d;
			ASSERT_EQ(0, ask(A, &op, NULL));
		}
		op = asks(2, NULL, 0, NULL);
		ASSERT_EQ(0, ask(A, &op, &d.other));
		pump(self->s);
		for (i = 0; i < 13; i++)
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[i].id, 0,
						       NULL, 0));
		ASSERT_LE(1, evering_ops_poll(A->ops));
		EXPECT_EQ(12u, d.times);
		EXPECT_EQ(9u, d.deepest)
		{
			TH_LOG("%s: %u in each other",
			       any ? "evering_ops_wait" : "evering_op_wait",
			       d.deepest);
		}
		EXPECT_LT(0u, d.refused);
	}
}

static void look_while_others_go(struct evering_ops *ops,
				 const struct evering_completion *c)
{
	struct evering_completion was = *c, other;
	struct nest *n = c->user;
	struct evering_op op = asks(3, "other data", 10, NULL);
	uint64_t id;
	int i;

	n->times++;
	/* Nothing here polls or waits. */
	if (n->id)
		n->ret[0] = evering_op_cancel(ops, n->id, 0);
	else
		n->ret[0] = evering_op_done(ops, n->other, &other);
	for (i = 0; i < 2; i++)
		n->ret[1 + i] = evering_op_prepare(ops, &op, &id);
	n->ret[3] = c->id == was.id && c->user == was.user &&
		    c->result == was.result && c->len == was.len &&
		    c->data == was.data && c->buf == was.buf;
	n->ret[4] = was.len == 4 && !memcmp(was.data, "mine", 4);
}

/*
 * A completion stays until its callback returns, or polls or waits; what is forgotten
 * and prepared meanwhile does not get its place.
 */
TEST_F(op, a_completion_stays_while_its_callback_does_other_things)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct nest n;
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
		ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
		memset(&n, 0, sizeof(n));
		n.s = self->s;
		if (i) {
			op = asks(2, NULL, 0, NULL);
			ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &n.id));
		} else {
			op = asks(2, NULL, 0, NULL);
			ASSERT_EQ(0, ask(A, &op, &n.other));
			pump(self->s);
			ASSERT_EQ(0, answer_all(B));
			pump(self->s);
		}
		op = asks(1, NULL, 0, NULL);
		op.done = look_while_others_go;
		op.user = &n;
		ASSERT_EQ(0, ask(A, &op, NULL));
		pump(self->s);
		ASSERT_EQ(1u, B->n_got);
		ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 11, "mine",
					       4));
		ASSERT_EQ(1, evering_ops_poll(A->ops));
		EXPECT_EQ(1u, n.times);
		EXPECT_EQ(0, n.ret[0]);
		EXPECT_EQ(0, n.ret[1]);
		EXPECT_EQ(0, n.ret[2]);
		EXPECT_EQ(1, n.ret[3]);
		EXPECT_EQ(1, n.ret[4]);
	}
}

static void answer_other(struct evering_ops *ops,
			 const struct evering_request *r, void *context)
{
	struct nest *n = context;

	n->times++;
	if (!n->other) {
		n->other = r->id;
		return;
	}
	n->ret[0] = evering_op_answer(ops, n->other, 1, NULL, 0);
	n->ret[1] = evering_op_answer(ops, n->other, 1, NULL, 0);
	n->ret[2] = evering_op_answer(ops, r->id, 2, NULL, 0);
}

TEST_F(op, a_request_can_answer_another)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct nest n = { 0 };
	struct outcome o[2] = { 0 };
	struct evering_op op;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, side_open(A, self->ev[0], 8, 8, false));
	p.request = answer_other;
	p.context = &n;
	ASSERT_EQ(0, evering_ops_open(self->ev[1], &p, &B->ops));
	pump(self->s);
	op = asks(0, NULL, 0, &o[0]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	op = asks(0, NULL, 0, &o[1]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	pump(self->s);
	EXPECT_EQ(2u, n.times);
	EXPECT_EQ(0, n.ret[0]);
	EXPECT_EQ(-ESTALE, n.ret[1]);
	EXPECT_EQ(0, n.ret[2]);
	EXPECT_EQ(1, o[0].result);
	EXPECT_EQ(2, o[1].result);
	EXPECT_EQ(1u, o[0].times);
	EXPECT_EQ(1u, o[1].times);
}

/* A request that asks back before it answers, as deep as there is room. */
struct back_and_forth {
	struct evering_ops *other;
	uint32_t depth;
	int error;
};

static void ask_back(struct evering_ops *ops, const struct evering_request *r,
		     void *context)
{
	struct back_and_forth *b = context;
	struct evering_op op = asks(r->opcode - 1, NULL, 0, NULL);
	struct evering_completion c = { .result = 0 };
	uint64_t id;
	int ret;

	if (r->opcode) {
		ret = evering_op_submit(ops, &op, &id, PLENTY);
		if (!ret) {
			/* Both sides are in this thread. */
			evering_ops_poll(b->other);
			ret = evering_op_wait(ops, id, &c, PLENTY);
		}
		if (ret)
			b->error = ret;
		else
			c.result++;
	}
	ret = evering_op_answer(ops, r->id, c.result, NULL, 0);
	if (ret)
		b->error = ret;
}

TEST_F(op, a_request_can_ask_back_and_wait)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct back_and_forth b[2] = { 0 };
	struct evering_op op;
	struct outcome o = { 0 };
	uint32_t depth;
	int i;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	for (i = 0; i < 2; i++) {
		p.request = ask_back;
		p.context = &b[i];
		ASSERT_EQ(0,
			  evering_ops_open(self->ev[i], &p, &self->s[i].ops));
		b[!i].other = self->s[i].ops;
	}
	pump(self->s);
	for (depth = 0; depth <= 15; depth++) {
		memset(&o, 0, sizeof(o));
		op = asks(depth, NULL, 0, &o);
		ASSERT_EQ(0, ask(A, &op, NULL));
		pump(self->s);
		ASSERT_EQ(1u, o.times);
		ASSERT_EQ((int32_t)depth, o.result);
	}
	EXPECT_EQ(0, b[0].error);
	EXPECT_EQ(0, b[1].error);
}

static void cancel_in_callback(struct evering_ops *ops,
			       const struct evering_completion *c)
{
	struct nest *n = c->user;

	if (n->times++)
		return;
	n->ret[0] = evering_op_cancel(ops, c->id, EVERING_CANCEL_DETACH);
	n->ret[1] = evering_op_cancel(ops, n->other, EVERING_CANCEL_DETACH);
	n->ret[2] = evering_op_cancel(ops, n->other, EVERING_CANCEL_DETACH);
	n->ret[3] = evering_op_cancel(ops, c->id, 0);
}

TEST_F(op, callbacks_can_cancel_themselves_and_others)
{
	struct nest n = { 0 };
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, NULL), other;

	op.done = cancel_in_callback;
	op.user = &n;
	other = asks(2, NULL, 0, &o);
	ASSERT_EQ(0, ask(A, &op, NULL));
	ASSERT_EQ(0, ask(A, &other, &n.other));
	pump(self->s);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[1].id, 0, NULL, 0));
	pump(self->s);
	EXPECT_EQ(1u, n.times);
	EXPECT_EQ(-EALREADY, n.ret[0]);
	EXPECT_EQ(0, n.ret[1]);
	EXPECT_EQ(-EALREADY, n.ret[2]);
	EXPECT_EQ(-EALREADY, n.ret[3]);
	/* Though its answer was in the ring already. */
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ECANCELED, o.result);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);

	/* One that is cancelled with detaching calls back from there. */
	memset(&n, 0, sizeof(n));
	ASSERT_EQ(0, ask(A, &other, &n.other));
	ASSERT_EQ(0, ask(A, &op, &n.id));
	EXPECT_EQ(0, evering_op_cancel(A->ops, n.id, EVERING_CANCEL_DETACH));
	EXPECT_EQ(1u, n.times);
	EXPECT_EQ(-EALREADY, n.ret[0]);
	EXPECT_EQ(0, n.ret[1]);
	EXPECT_EQ(2u, o.times);
	EXPECT_EQ(2u, info_of(A->ops).abandoned);
}

/* A peer that never falls silent: each request that is taken brings the next. */
struct chatter {
	struct evering_ops *peer;
	struct outcome o;
	int64_t until;
	uint32_t n;
};

static void chatter_on(struct evering_ops *ops, const struct evering_request *r,
		       void *context)
{
	struct chatter *c = context;
	struct evering_op op = asks(1, NULL, 0, &c->o);

	c->n++;
	evering_op_answer(ops, r->id, 0, NULL, 0);
	if (now_ns() > c->until)
		return;
	evering_ops_poll(c->peer);
	evering_op_submit(c->peer, &op, NULL, EVERING_NOWAIT);
}

TEST_F(op, a_wait_ends_in_time_whatever_else_arrives)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_op op = asks(1, NULL, 0, NULL);
	int64_t bound = slow(2 * SEC), start;
	struct evering_completion c;
	struct chatter chatter = { .n = 0 };
	uint64_t id;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	p.request = chatter_on;
	p.context = &chatter;
	ASSERT_EQ(0, evering_ops_open(self->ev[0], &p, &A->ops));
	ASSERT_EQ(0, side_open(B, self->ev[1], 8, 8, false));
	pump(self->s);
	ASSERT_EQ(0, ask(A, &op, &id));
	chatter.peer = B->ops;
	start = now_ns();
	chatter.until = start + bound;
	op = asks(1, NULL, 0, &chatter.o);
	ASSERT_EQ(0, ask(B, &op, NULL));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait(A->ops, id, &c, 10 * MSEC));
	EXPECT_GT(bound, now_ns() - start)
	{
		TH_LOG("10 ms became %lld, %u requests later",
		       (long long)((now_ns() - start) / MSEC), chatter.n);
	}
	chatter.until = 0;
}

/* ------------------------------------------------------------------- timeouts */

TEST_F(op, an_operation_that_takes_too_long_ends_once)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id, fetched;

	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_ops_timeout(A->ops));
	op.timeout_ns = MSEC;
	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_GE(MSEC, evering_ops_timeout(A->ops));
	op = asks(1, NULL, 0, NULL);
	op.timeout_ns = MSEC;
	ASSERT_EQ(0, ask(A, &op, &fetched));
	sleep_ns(2 * MSEC);
	EXPECT_EQ(0, evering_ops_timeout(A->ops));
	/* Not by itself: nothing happens behind anybody's back. */
	EXPECT_EQ(0u, o.times);
	EXPECT_EQ(2, evering_ops_poll(A->ops));
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_ops_timeout(A->ops));
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ETIMEDOUT, o.result);
	EXPECT_EQ(0u, o.len);
	EXPECT_EQ(NULL, o.buf);
	EXPECT_EQ(id, o.id);
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id, 0));
	ASSERT_EQ(0, evering_op_done(A->ops, fetched, &c));
	EXPECT_EQ(-ETIMEDOUT, c.result);
	EXPECT_EQ(-ENOENT, evering_op_done(A->ops, fetched, &c));
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(2u, info_of(A->ops).abandoned);
	/* As if by EVERING_CANCEL_TELL. */
	pump(self->s);
	ASSERT_EQ(2u, B->n_got);
	EXPECT_EQ(2u, B->n_told);
	EXPECT_EQ(1, evering_op_cancelled(B->ops, B->got[0].id));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0, "late", 4));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[1].id, 0, "late", 4));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ENOENT, evering_op_done(A->ops, fetched, &c));
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
	EXPECT_EQ(0u, info_of(A->ops).done);
}

TEST_F(op, places_of_abandoned_operations_are_free_when_answered)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	int i;

	op.timeout_ns = 1;
	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, ask(A, &op, NULL));
	sleep_ns(USEC);
	EXPECT_EQ(-EAGAIN, ask(A, &op, NULL));
	pump(self->s);
	EXPECT_EQ(8u, o.times);
	EXPECT_EQ(-EAGAIN, ask(A, &op, NULL));
	ASSERT_EQ(0, answer_all(B));
	pump(self->s);
	EXPECT_EQ(8u, o.times);
	for (i = 0; i < 8; i++)
		EXPECT_EQ(0, ask(A, &op, NULL));
}

static void ends_and_waits(struct evering_ops *ops,
			   const struct evering_completion *c)
{
	struct evering **peer = c->user;

	evering_close(*peer);
	*peer = NULL;
	evering_ops_wait(ops, PLENTY);
}

/* It counts as done, but what there is to say is that all has ended. */
TEST_F(op, the_end_may_be_found_where_time_runs_out)
{
	struct evering_op op = asks(1, NULL, 0, NULL);

	op.done = ends_and_waits;
	op.user = &self->ev[1];
	op.timeout_ns = 1;
	ASSERT_EQ(0, ask(A, &op, NULL));
	sleep_ns(USEC);
	EXPECT_EQ(-EPIPE, evering_ops_poll(A->ops));
	EXPECT_EQ(NULL, self->ev[1]);
}

/*
 * The peer may answer with what looks like the library's own words.  Whatever ended
 * the last operation at a place, of the next one it is told anew.
 */
TEST_F(op, who_says_the_result_is_told)
{
	uint16_t abandoned;
	static const int32_t words[] = { -EPIPE, -ECANCELED, -ETIMEDOUT, 0 };
	unsigned int lap, plain;
	struct evering_completion c;
	struct outcome o;
	struct evering_op op;
	uint64_t id;
	void *p;

	for (lap = 0; lap < 64; lap++) {
		plain = lap & 1;
		/* The peer says it, of one that the fast path has, and another. */
		memset(&o, 0, sizeof(o));
		op = asks(lap, NULL, 0, &o);
		op.timeout_ns = plain ? 0 : PLENTY;
		ASSERT_EQ(0, ask(A, &op, NULL));
		pump(self->s);
		ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id,
					       words[lap & 3], "x", lap & 1));
		B->n_got = 0;
		pump(self->s);
		EXPECT_EQ(1u, o.times);
		EXPECT_EQ(words[lap & 3], o.result);
		EXPECT_EQ(EVERING_ANSWERED, o.flags);
		op = asks(lap, NULL, 0, NULL);
		ASSERT_EQ(0, ask(A, &op, &id));
		pump(self->s);
		ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id,
					       words[lap & 3], "x", lap & 1));
		B->n_got = 0;
		pump(self->s);
		ASSERT_EQ(0, evering_op_done(A->ops, id, &c));
		EXPECT_EQ(EVERING_ANSWERED, c.flags);
		EXPECT_EQ(lap & 1, c.len);

		/* The library says it. */
		memset(&o, 0, sizeof(o));
		op = asks(lap, NULL, 0, plain ? &o : NULL);
		p = NULL;
		if (lap & 2) {
			p = evering_alloc(A->ev, 64, 0);
			ASSERT_NE(NULL, p);
			op.flags = EVERING_LEND;
			op.buf = p;
			op.buf_len = 64;
		}
		abandoned = p && (lap & 4) ? EVERING_ABANDONED : 0;
		ASSERT_EQ(0, ask(A, &op, &id));
		ASSERT_EQ(0, evering_op_cancel(A->ops, id,
					       lap & 4 ? EVERING_CANCEL_DETACH :
							 0));
		pump(self->s);
		ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, -EPIPE,
					       "late", 4));
		B->n_got = 0;
		pump(self->s);
		if (plain) {
			EXPECT_EQ(1u, o.times);
			EXPECT_EQ(-ECANCELED, o.result);
			EXPECT_EQ(abandoned, o.flags);
		} else {
			ASSERT_EQ(0, evering_op_done(A->ops, id, &c));
			EXPECT_EQ(-ECANCELED, c.result);
			EXPECT_EQ(abandoned, c.flags);
		}
		if (p && !(lap & 4))
			ASSERT_EQ(0, evering_free(A->ev, p));
	}
	memset(&o, 0, sizeof(o));
	op = asks(lap, NULL, 0, &o);
	ASSERT_EQ(0, ask(A, &op, NULL));
	evering_close(self->ev[1]);
	self->ev[1] = NULL;
	EXPECT_EQ(A->ev, evering_ops_endpoint(A->ops));
	EXPECT_EQ(-EPIPE, evering_ops_wait(A->ops, PLENTY));
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-EPIPE, o.result);
	EXPECT_EQ((uint32_t)EVERING_UNSEEN, o.flags);
}

TEST_F(op, who_takes_longest_ends_last)
{
	static const int ms[] = { 5, 3, 8, 1, 4, 7, 2, 6 };
	int64_t step = MSEC, took;
	struct outcome o[8];
	struct evering_op op;
	int i, k;

	/* The time of each begins when it is asked: all together, by steps. */
	do {
		memset(o, 0, sizeof(o));
		took = now_ns();
		for (i = 0; i < 8; i++) {
			op = asks(1, NULL, 0, &o[i]);
			op.timeout_ns = ms[i] * step;
			ASSERT_EQ(0, ask(A, &op, NULL));
		}
		took = now_ns() - took;
		sleep_ns(9 * step + took);
		EXPECT_EQ(8, evering_ops_poll(A->ops));
		pump(self->s);
		answer_all(B);
		pump(self->s);
		step *= 2;
	} while (took >= step / 2);
	for (i = 0; i < 8; i++) {
		EXPECT_EQ(1u, o[i].times);
		for (k = 0; k < 8; k++)
			if (ms[i] < ms[k])
				EXPECT_LT(o[i].order, o[k].order);
	}
}

/* A sleep ends when the first runs out of time, and the wait goes on. */
TEST_F(op, a_sleep_ends_for_a_timeout)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, NULL);
	uint64_t id;
	int64_t t;
	int i;

	ASSERT_EQ(0, ask(A, &op, &id));
	for (i = 0; i < 3; i++) {
		memset(&o, 0, sizeof(o));
		op = asks(1, NULL, 0, &o);
		op.timeout_ns = 5 * MSEC;
		t = now_ns();
		ASSERT_EQ(0, ask(A, &op, NULL));
		switch (i) {
		case 0:
			EXPECT_EQ(1, evering_ops_wait(A->ops, PLENTY));
			break;
		case 1:
			EXPECT_EQ(1, evering_ops_wait(A->ops,
						      EVERING_WAIT_FOREVER));
			break;
		case 2:
			EXPECT_EQ(-ETIMEDOUT,
				  evering_op_wait(A->ops, id, &c, 20 * MSEC));
			break;
		}
		EXPECT_LE(5 * MSEC, now_ns() - t);
		EXPECT_EQ(1u, o.times);
		EXPECT_EQ(-ETIMEDOUT, o.result);
	}
	op = asks(1, NULL, 0, NULL);
	op.timeout_ns = 2 * MSEC;
	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_EQ(0, evering_op_wait(A->ops, id, &c, EVERING_WAIT_FOREVER));
	EXPECT_EQ(-ETIMEDOUT, c.result);
}

#define TIMED 40

/* Against a list: which is next, while they come, are answered and cancelled. */
TEST_F(op, the_next_timeout_is_always_known)
{
	int64_t early[TIMED], late[TIMED], lo, hi, before, left, after;
	uint64_t rng = random_seed(), id[TIMED] = { 0 }, request[TIMED];
	uint32_t step, steps = short_run() ? 2000 : 20000, i, k;
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 256));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 64, 64));
	for (step = 0; step < steps; step++) {
		k = (uint32_t)random_below(&rng, TIMED);
		if (!id[k]) {
			op.timeout_ns = 60 * SEC +
					(int64_t)random_below(&rng, 60 * SEC);
			early[k] = now_ns() + op.timeout_ns;
			ASSERT_EQ(0, ask(A, &op, &id[k]));
			late[k] = now_ns() + op.timeout_ns;
			B->n_got = 0;
			ASSERT_LE(1, evering_ops_poll(B->ops));
			ASSERT_EQ(1u, B->n_got);
			request[k] = B->got[0].id;
		} else {
			if (step & 1)
				ASSERT_EQ(0, evering_op_cancel(
						     A->ops, id[k],
						     EVERING_CANCEL_DETACH));
			ASSERT_EQ(0, evering_op_answer(B->ops, request[k], 0,
						       NULL, 0));
			ASSERT_LE(1, evering_ops_poll(A->ops));
			ASSERT_EQ(0, evering_op_done(A->ops, id[k], &c));
			ASSERT_EQ(step & 1 ? -ECANCELED : 0, c.result);
			id[k] = 0;
		}
		lo = hi = INT64_MAX;
		for (i = 0; i < TIMED; i++)
			if (id[i]) {
				lo = lo < early[i] ? lo : early[i];
				hi = hi < late[i] ? hi : late[i];
			}
		before = now_ns();
		left = evering_ops_timeout(A->ops);
		after = now_ns();
		if (lo == INT64_MAX) {
			ASSERT_EQ(EVERING_WAIT_FOREVER, left);
			continue;
		}
		ASSERT_LE(lo, left + after);
		ASSERT_GE(hi, left + before);
	}
}

/* ----------------------------------------------------------------- cancelling */

TEST_F(op, a_cancelled_operation_ends_when_the_answer_comes)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id[2];

	ASSERT_EQ(0, ask(A, &op, &id[0]));
	op = asks(2, NULL, 0, NULL);
	ASSERT_EQ(0, ask(A, &op, &id[1]));
	pump(self->s);
	EXPECT_EQ(-EINVAL, evering_op_cancel(A->ops, id[0], 4));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[0], 0));
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id[0], 0));
	EXPECT_EQ(-EALREADY,
		  evering_op_cancel(A->ops, id[0], EVERING_CANCEL_TELL));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[1], EVERING_CANCEL_TELL));
	pump(self->s);
	EXPECT_EQ(0u, o.times);
	EXPECT_EQ(2u, info_of(A->ops).in_flight);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
	EXPECT_EQ(-EAGAIN, evering_op_done(A->ops, id[1], &c));
	/* The peer was told of the one alone. */
	ASSERT_EQ(1u, B->n_told);
	EXPECT_EQ(B->got[1].id, B->told[0]);
	EXPECT_EQ(0, evering_op_cancelled(B->ops, B->got[0].id));
	EXPECT_EQ(1, evering_op_cancelled(B->ops, B->got[1].id));
	/* Whatever the answer says. */
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 5, "abc", 3));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[1].id, 5, "abc", 3));
	EXPECT_EQ(-ESTALE, evering_op_cancelled(B->ops, B->got[1].id));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ECANCELED, o.result);
	EXPECT_EQ(0u, o.len);
	ASSERT_EQ(0, evering_op_done(A->ops, id[1], &c));
	EXPECT_EQ(-ECANCELED, c.result);
	EXPECT_EQ(0u, c.len);
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id[0], 0));
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id[1], 0));
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
}

TEST_F(op, a_detached_operation_ends_at_once)
{
	struct evering_completion c;
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id[2];
	int i;

	ASSERT_EQ(0, ask(A, &op, &id[0]));
	op = asks(2, NULL, 0, NULL);
	ASSERT_EQ(0, ask(A, &op, &id[1]));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, evering_op_cancel(A->ops, id[i],
					       EVERING_CANCEL_DETACH));
		EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id[i],
						       EVERING_CANCEL_DETACH));
	}
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ECANCELED, o.result);
	EXPECT_EQ(id[0], o.id);
	ASSERT_EQ(0, evering_op_done(A->ops, id[1], &c));
	EXPECT_EQ(-ECANCELED, c.result);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(2u, info_of(A->ops).abandoned);
	pump(self->s);
	EXPECT_EQ(0u, B->n_told);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, evering_op_cancelled(B->ops, B->got[i].id));
		ASSERT_EQ(0,
			  evering_op_answer(B->ops, B->got[i].id, 1, "x", 1));
	}
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ENOENT, evering_op_done(A->ops, id[1], &c));
	EXPECT_EQ(-EALREADY, evering_op_cancel(A->ops, id[0], 0));
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
}

/* The outcome is there, the answer is not: taken before and after that. */
TEST_F(op, an_answer_may_come_before_the_outcome_is_taken)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;
	uint64_t id;

	ASSERT_EQ(0, ask(A, &op, &id));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id, EVERING_CANCEL_DETACH));
	EXPECT_EQ(1u, info_of(A->ops).done);
	EXPECT_EQ(1u, info_of(A->ops).abandoned);
	pump(self->s);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 1, "late", 4));
	pump(self->s);
	EXPECT_EQ(1u, info_of(A->ops).done);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
	ASSERT_EQ(0, evering_op_wait_any(A->ops, &c, PLENTY));
	EXPECT_EQ(id, c.id);
	EXPECT_EQ(-ECANCELED, c.result);
	EXPECT_EQ(0u, c.len);
	EXPECT_EQ(0u, info_of(A->ops).done);
	EXPECT_EQ(8u, ask_all(self->s, 0, NULL));
}

TEST_F(op, one_that_was_cancelled_can_still_be_detached)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id;

	ASSERT_EQ(0, ask(A, &op, &id));
	pump(self->s);
	ASSERT_EQ(0, evering_op_cancel(A->ops, id, EVERING_CANCEL_TELL));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id,
				       EVERING_CANCEL_TELL |
					       EVERING_CANCEL_DETACH));
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(-ECANCELED, o.result);
	pump(self->s);
	/* Its peer hears of it once. */
	EXPECT_EQ(1u, B->n_told);
	ASSERT_EQ(0, answer_all(B));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
}

TEST_F(op, what_never_was_cannot_be_cancelled)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	uint64_t id;

	EXPECT_EQ(-ENOENT, evering_op_cancel(A->ops, 0, 0));
	EXPECT_EQ(-ENOENT, evering_op_cancel(A->ops, 1, 0));
	EXPECT_EQ(-ENOENT, evering_op_cancel(A->ops, UINT64_MAX, 0));
	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_EQ(-ENOENT, evering_op_cancel(A->ops, id + 8, 0));
	EXPECT_EQ(-ENOENT, evering_op_cancel(A->ops, id + 1, 0));
	EXPECT_EQ(-ENOENT, evering_op_cancel(A->ops, id | 1ull << 63, 0));
	EXPECT_EQ(0, evering_op_cancel(A->ops, id, 0));
}

/* The answer and the news that it is not needed cross. */
TEST_F(op, telling_too_late_does_no_harm)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id;
	int i;

	for (i = 0; i < 100; i++) {
		memset(&o, 0, sizeof(o));
		B->n_got = 0;
		ASSERT_EQ(0, ask(A, &op, &id));
		evering_ops_poll(B->ops);
		ASSERT_EQ(0,
			  evering_op_cancel(A->ops, id, EVERING_CANCEL_TELL));
		ASSERT_EQ(0,
			  evering_op_answer(B->ops, B->got[0].id, 5, NULL, 0));
		pump(self->s);
		ASSERT_EQ(1u, o.times);
		ASSERT_EQ(-ECANCELED, o.result);
		ASSERT_EQ(0u, B->n_told);
	}
}

TEST_F(op, telling_waits_for_room)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id[12];
	uint32_t n, i;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 12, 12));
	for (n = 0; n < 12; n++) {
		ASSERT_EQ(0, ask(A, &op, &id[n]));
		evering_ops_poll(B->ops);
	}
	for (i = 0; i < n; i++)
		ASSERT_EQ(0, evering_op_cancel(A->ops, id[i],
					       EVERING_CANCEL_TELL));
	pump(self->s);
	EXPECT_EQ(n, B->n_told);
	for (i = 0; i < n; i++) {
		EXPECT_EQ(B->got[i].id, B->told[i]);
		EXPECT_EQ(1, evering_op_cancelled(B->ops, B->got[i].id));
	}
	ASSERT_EQ(0, answer_all(B));
	pump(self->s);
	EXPECT_EQ(12u, o.times);
}

/* Which the peer does without: who tells more often than there is room for. */
TEST_F(op, telling_is_advice_that_may_get_lost)
{
	struct outcome o = { 0 };
	struct evering_op op = asks(1, NULL, 0, &o);
	uint64_t id[12];
	uint32_t i;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 12, 12));
	for (i = 0; i < 12; i++) {
		ASSERT_EQ(0, ask(A, &op, &id[i]));
		evering_ops_poll(B->ops);
	}
	/* Each but the last twice: the second time its outcome is due at once. */
	for (i = 0; i < 11; i++)
		ASSERT_EQ(0, evering_op_cancel(A->ops, id[i],
					       EVERING_CANCEL_TELL));
	for (i = 0; i < 11; i++)
		ASSERT_EQ(0, evering_op_cancel(A->ops, id[i],
					       EVERING_CANCEL_TELL |
						       EVERING_CANCEL_DETACH));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[11], EVERING_CANCEL_TELL));
	pump(self->s);
	EXPECT_EQ(11u, B->n_told);
	for (i = 0; i < 12; i++)
		EXPECT_EQ(i < 11, evering_op_cancelled(B->ops, B->got[i].id));
	ASSERT_EQ(0, answer_all(B));
	pump(self->s);
	EXPECT_EQ(12u, o.times);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
}

struct impatient {
	struct evering_ops_params p;
	unsigned int times;
	int ret;
};

static void answer_when_told(struct evering_ops *ops, uint64_t id,
			     void *context)
{
	struct impatient *i = context;

	i->times++;
	i->ret = evering_op_answer(ops, id, -ECANCELED, NULL, 0);
}

/*
 * It "has still to be answered, soon": from there, too, and though nobody has asked
 * evering_op_next() for it yet.
 */
TEST_F(op, a_request_can_be_answered_where_its_cancelling_is_told)
{
	struct impatient i = { .p = EVERING_OPS_PARAMS_INIT };
	struct outcome o[2] = { 0 };
	struct evering_request r, again;
	struct evering_op op;
	uint64_t id;

	ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
	ASSERT_EQ(0, side_open(A, self->ev[0], 8, 8, false));
	i.p.cancelled = answer_when_told;
	i.p.context = &i;
	ASSERT_EQ(0, evering_ops_open(self->ev[1], &i.p, &B->ops));
	pump(self->s);
	op = asks(1, NULL, 0, &o[0]);
	ASSERT_EQ(0, ask(A, &op, &id));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id, EVERING_CANCEL_TELL));
	pump(self->s);
	EXPECT_EQ(1u, i.times);
	EXPECT_EQ(0, i.ret);
	EXPECT_EQ(1u, o[0].times);
	EXPECT_EQ(0u, info_of(B->ops).held);

	/* It is answered: there is no next one. */
	op = asks(2, NULL, 0, &o[1]);
	ASSERT_EQ(0, ask(A, &op, &id));
	pump(self->s);
	ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	EXPECT_NE(0u, r.id);
	EXPECT_EQ(2u, r.opcode);
	EXPECT_EQ(-EAGAIN, evering_op_next(B->ops, &again, EVERING_NOWAIT))
	{
		TH_LOG("the same request twice: %llx, then %llx",
		       (unsigned long long)r.id, (unsigned long long)again.id);
	}
	EXPECT_EQ(0, evering_op_answer(B->ops, r.id, 2, NULL, 0));
	pump(self->s);
	EXPECT_EQ(1u, o[1].times);
}

/* Whichever of those in line it is. */
TEST_F(op, the_line_of_requests_closes_where_one_is_answered)
{
	struct impatient im = { .p = EVERING_OPS_PARAMS_INIT };
	struct evering_request r;
	struct evering_op op;
	uint32_t gone, i;
	uint64_t id[4];

	for (gone = 0; gone < 3; gone++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, 64, 64));
		ASSERT_EQ(0, side_open(A, self->ev[0], 8, 8, false));
		im.p.cancelled = answer_when_told;
		im.p.context = &im;
		ASSERT_EQ(0, evering_ops_open(self->ev[1], &im.p, &B->ops));
		pump(self->s);
		for (i = 0; i < 4; i++) {
			op = asks(i, NULL, 0, NULL);
			if (i == 3) {
				ASSERT_EQ(0, evering_op_cancel(
						     A->ops, id[gone],
						     EVERING_CANCEL_TELL));
				pump(self->s);
			}
			ASSERT_EQ(0, ask(A, &op, &id[i]));
		}
		pump(self->s);
		EXPECT_EQ(3u, info_of(B->ops).held);
		for (i = 0; i < 4; i++) {
			if (i == gone)
				continue;
			ASSERT_EQ(0,
				  evering_op_next(B->ops, &r, EVERING_NOWAIT));
			EXPECT_EQ(i, r.opcode);
			EXPECT_EQ(id[i], r.id);
			EXPECT_EQ(0,
				  evering_op_answer(B->ops, r.id, 0, NULL, 0));
		}
		EXPECT_EQ(-EAGAIN, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	}
}

/* ------------------------------------------------------------------------ ids */

TEST_F(op, old_ids_are_nobodys)
{
	uint32_t n = short_run() ? 70000 : 140000, i, old = 0;
	struct evering_completion c;
	struct evering_op op = asks(1, NULL, 0, NULL);
	uint64_t rng = random_seed(), id, last = 0, request = 0;
	uint64_t ids[64] = { 0 }, requests[64] = { 0 };

	/* One place, so that what the peer sees of its id comes round again. */
	ASSERT_EQ(0, remake(self->ev, self->backend, SLOT, 4));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 1, 1));
	for (i = 0; i < n; i++) {
		B->n_got = 0;
		ASSERT_EQ(0, ask(A, &op, &id));
		ASSERT_NE(0u, id);
		ASSERT_LT(last, id);
		last = id;
		ASSERT_LE(1, evering_ops_poll(B->ops));
		ASSERT_EQ(1u, B->n_got);
		request = B->got[0].id;
		ASSERT_NE(0u, request);
		if (i) {
			old = (uint32_t)random_below(&rng, i < 64 ? i : 64);
			ASSERT_EQ(-EALREADY,
				  evering_op_cancel(A->ops, ids[old], 0));
			ASSERT_EQ(-ENOENT,
				  evering_op_done(A->ops, ids[old], &c));
			ASSERT_EQ(-ENOENT,
				  evering_op_start(A->ops, ids[old], 0));
			ASSERT_EQ(-ESTALE,
				  evering_op_answer(B->ops, requests[old], 0,
						    NULL, 0));
			ASSERT_EQ(-ESTALE,
				  evering_op_cancelled(B->ops, requests[old]));
			ASSERT_EQ(NULL, evering_op_answer_alloc(
						B->ops, requests[old], 1));
		}
		ASSERT_EQ(0, evering_op_answer(B->ops, request, (int32_t)i,
					       NULL, 0));
		ASSERT_LE(1, evering_ops_poll(A->ops));
		ASSERT_EQ(0, evering_op_done(A->ops, id, &c));
		ASSERT_EQ((int32_t)i, c.result);
		/* Some of the last, and some that are very old. */
		if (i < 64 || random_below(&rng, 500) == 0) {
			ids[i % 64] = id;
			requests[i % 64] = request;
		}
	}
	EXPECT_EQ(-ESTALE, evering_op_answer(B->ops, 0, 0, NULL, 0));
	EXPECT_EQ(-ESTALE, evering_op_answer(B->ops, UINT64_MAX, 0, NULL, 0));
	EXPECT_EQ(-ESTALE, evering_op_answer(B->ops, request + (1ull << 32), 0,
					     NULL, 0));
}

/* -------------------------------------------------------------------- closing */

TEST_F(op, closing_a_table_ends_everything_once)
{
	struct outcome o[5] = { 0 };
	struct evering_op op;
	uint64_t id[5];
	int i;

	for (i = 0; i < 5; i++) {
		op = asks(1, NULL, 0, &o[i]);
		if (i == 4)
			op.timeout_ns = SEC;
		ASSERT_EQ(0, i == 3 ? evering_op_prepare(A->ops, &op, &id[i]) :
				      ask(A, &op, &id[i]));
	}
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[1], 0));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[2], EVERING_CANCEL_DETACH));
	evering_ops_close(A->ops);
	for (i = 0; i < 5; i++) {
		/* What was only prepared was never submitted. */
		EXPECT_EQ(i == 3 ? 0u : 1u, o[i].times);
		if (i != 3)
			EXPECT_EQ(-ECANCELED, o[i].result);
	}
	evering_ops_close(NULL);
	/* The peer may answer, and hears of the end with the channel's. */
	while (evering_ops_poll(B->ops) > 0)
		;
	EXPECT_EQ(4u, info_of(B->ops).held);
	evering_close(self->ev[0]);
	self->ev[0] = NULL;
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->ev[1]));
	EXPECT_EQ(-EPIPE, evering_ops_wait(B->ops, PLENTY));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(1u - (i == 3), o[i].times);
}

TEST_F(op, closing_the_channel_closes_the_table)
{
	struct outcome o[2] = { 0 };
	struct evering_completion c;
	struct evering_op op;
	uint64_t id;

	op = asks(1, NULL, 0, &o[0]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	op = asks(1, NULL, 0, &o[1]);
	ASSERT_EQ(0, ask(B, &op, NULL));
	op = asks(1, NULL, 0, NULL);
	ASSERT_EQ(0, ask(B, &op, &id));
	pump(self->s);
	evering_close(self->ev[0]);
	self->ev[0] = NULL;
	EXPECT_EQ(1u, o[0].times);
	EXPECT_EQ(-ECANCELED, o[0].result);
	EXPECT_EQ(0u, o[1].times);
	while (evering_ops_wait(B->ops, PLENTY) > 0)
		;
	EXPECT_EQ(1u, o[1].times);
	EXPECT_EQ(-EPIPE, o[1].result);
	EXPECT_EQ(0, evering_op_wait(B->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(-EPIPE, c.result);
	EXPECT_EQ(-ENOENT, evering_op_wait(B->ops, id, &c, EVERING_NOWAIT));
}

static void ask_in_vain(struct evering_ops *ops,
			const struct evering_completion *c)
{
	struct nest *n = c->user;
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion other;

	n->times++;
	n->ret[0] = c->result;
	n->ret[1] = evering_op_submit(ops, &op, NULL, EVERING_NOWAIT);
	n->ret[2] = evering_op_prepare(ops, &op, &n->id);
	n->ret[3] = evering_op_call(ops, &op, &other, PLENTY);
	n->ret[4] = evering_ops_poll(ops);
	n->ret[5] = evering_ops_wait(ops, PLENTY);
	evering_ops_flush(ops);
}

/* The last callbacks of all may call what they like, and nothing begins. */
TEST_F(op, nothing_begins_while_everything_ends)
{
	struct nest n[2][3] = { 0 };
	struct evering_op op;
	int i, k, r;

	for (i = 0; i < 2; i++)
		for (k = 0; k < 3; k++) {
			op = asks(1, NULL, 0, NULL);
			op.done = ask_in_vain;
			op.user = &n[i][k];
			ASSERT_EQ(0, ask(&self->s[i], &op, NULL));
		}
	pump(self->s);
	evering_ops_close(A->ops);
	evering_close(self->ev[0]);
	self->ev[0] = NULL;
	while (evering_ops_wait(B->ops, PLENTY) > 0)
		;
	for (i = 0; i < 2; i++)
		for (k = 0; k < 3; k++) {
			EXPECT_EQ(1u, n[i][k].times);
			EXPECT_EQ(i ? -EPIPE : -ECANCELED, n[i][k].ret[0]);
			for (r = 1; r < 6; r++)
				EXPECT_EQ(-EPIPE, n[i][k].ret[r]);
		}
}

TEST_F(op, after_the_end_everything_says_so)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;
	struct evering_request r;
	uint64_t id, prepared;
	short events;

	ASSERT_EQ(0, ask(B, &op, NULL));
	ASSERT_EQ(0, ask(A, &op, &id));
	ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &prepared));
	pump(self->s);
	evering_close(self->ev[1]);
	self->ev[1] = NULL;
	EXPECT_EQ(-EPIPE, evering_ops_wait(A->ops, PLENTY));
	EXPECT_EQ(-EPIPE, evering_ops_wait(A->ops, EVERING_NOWAIT));
	EXPECT_EQ(-EPIPE, evering_ops_poll(A->ops));
	EXPECT_EQ(-EPIPE, evering_ops_arm(A->ops, &events));
	EXPECT_EQ(-EPIPE, ask(A, &op, NULL));
	EXPECT_EQ(-EPIPE, evering_op_submit(A->ops, &op, NULL, PLENTY));
	EXPECT_EQ(-EPIPE, evering_op_prepare(A->ops, &op, &id));
	EXPECT_EQ(-EPIPE, evering_op_start(A->ops, prepared, PLENTY));
	EXPECT_EQ(0, evering_op_cancel(A->ops, prepared, 0));
	EXPECT_EQ(-EPIPE, evering_op_call(A->ops, &op, &c, PLENTY));
	EXPECT_EQ(-EPIPE, evering_op_next(A->ops, &r, PLENTY));
	EXPECT_EQ(0, evering_op_wait_all(A->ops, PLENTY));
	/* The request ends with its answer. */
	ASSERT_EQ(1u, A->n_got);
	EXPECT_EQ(0, evering_op_cancelled(A->ops, A->got[0].id));
	EXPECT_EQ(-EPIPE, evering_op_answer(A->ops, A->got[0].id, 0, NULL, 0));
	EXPECT_EQ(-ESTALE, evering_op_answer(A->ops, A->got[0].id, 0, NULL, 0));
	EXPECT_EQ(0u, info_of(A->ops).held);
	ASSERT_EQ(0, evering_op_wait_any(A->ops, &c, PLENTY));
	EXPECT_EQ(-EPIPE, c.result);
	EXPECT_EQ(-ENOENT, evering_op_wait_any(A->ops, &c, PLENTY));
	evering_ops_flush(A->ops);
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_ops_timeout(A->ops));
}

/* Cancelled first, then the peer goes: one outcome, and it is there at once. */
TEST_F(op, the_end_ends_what_was_cancelled_too)
{
	struct outcome o[3] = { 0 };
	struct evering_op op;
	uint64_t id[3];
	int i;

	for (i = 0; i < 3; i++) {
		op = asks(1, NULL, 0, &o[i]);
		ASSERT_EQ(0, ask(A, &op, &id[i]));
	}
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[0], 0));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[1], EVERING_CANCEL_DETACH));
	evering_close(self->ev[1]);
	self->ev[1] = NULL;
	while (evering_ops_wait(A->ops, PLENTY) > 0)
		;
	for (i = 0; i < 3; i++)
		EXPECT_EQ(1u, o[i].times);
	EXPECT_EQ(-ECANCELED, o[1].result);
	EXPECT_EQ(-EPIPE, o[2].result);
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(0u, info_of(A->ops).abandoned);
}

TEST_F(op, answers_from_before_the_end_come_first)
{
	struct outcome o[8] = { 0 };
	struct evering_op op;
	int i, half;

	/* As found by waiting, by polling, and by who asked evering_peer(). */
	for (half = 0; half < 3; half++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, 64, 16));
		ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
		memset(o, 0, sizeof(o));
		for (i = 0; i < 8; i++) {
			op = asks((uint32_t)i, NULL, 0, &o[i]);
			ASSERT_EQ(0, ask(A, &op, NULL));
			evering_ops_poll(B->ops);
		}
		for (i = 0; i < 8; i += 2)
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[i].id, i,
						       NULL, 0));
		evering_close(self->ev[1]);
		self->ev[1] = NULL;
		if (half == 2)
			EXPECT_EQ(EVERING_PEER_CLOSED,
				  evering_peer(self->ev[0]));
		if (half == 1)
			while (evering_ops_poll(A->ops) >= 0)
				;
		else
			while (evering_ops_wait(A->ops, PLENTY) > 0)
				;
		for (i = 0; i < 8; i++) {
			EXPECT_EQ(1u, o[i].times);
			EXPECT_EQ(i & 1 ? -EPIPE : i, o[i].result);
		}
	}
}

TEST_HARNESS_MAIN
