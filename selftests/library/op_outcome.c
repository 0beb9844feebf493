// SPDX-License-Identifier: MIT
/*
 * op_outcome.c: what an outcome says of the buffer that was lent, of every way in which
 * an operation can end; operations that make no sense; and that to ask how a table
 * stands costs the same whatever its size.
 */
#include "op.h"

FIXTURE(op_outcome)
{
	struct evering_params p;
	struct evering *ev[2];
	struct evering_ops *ops[2];
};

BACKEND_VARIANTS(op_outcome);

FIXTURE_SETUP(op_outcome)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 128, 64, 65536);
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
}

FIXTURE_TEARDOWN(op_outcome)
{
	over = true;
	close_pair(self->ev);
}

static int open_tables(FIXTURE_DATA(op_outcome) * self)
{
	int i, ret = 0;

	for (i = 0; i < 2 && !ret; i++)
		ret = evering_ops_open(self->ev[i], NULL, &self->ops[i]);
	for (i = 0; i < 2 && !ret; i++)
		if (evering_ops_poll(self->ops[i]) < 0)
			ret = -EPIPE;
	return ret;
}

/* ------------------------------------------------------- whose the buffer is */

/* How an operation ends. */
enum ending {
	ANSWERED,
	TOLD_AND_ANSWERED, /* cancelled, and the answer waited for */
	TIMED_OUT,
	TOLD_AND_TIMED_OUT,
	DETACHED,
	TOLD_AND_DETACHED,
	CALLED, /* evering_op_call(), which takes too long */
	PEER_CLOSED,
	PEER_BROKE_RULES,
	TABLE_CLOSED,
	ENDINGS
};

struct expected {
	int result;
	bool answered;
	bool abandoned;
};

static const struct expected expected[ENDINGS] = {
	[ANSWERED] = { 7, true, false },
	[TOLD_AND_ANSWERED] = { -ECANCELED, false, false },
	[TIMED_OUT] = { -ETIMEDOUT, false, true },
	[TOLD_AND_TIMED_OUT] = { -ETIMEDOUT, false, true },
	[DETACHED] = { -ECANCELED, false, true },
	[TOLD_AND_DETACHED] = { -ECANCELED, false, true },
	[CALLED] = { -ETIMEDOUT, false, true },
	[PEER_CLOSED] = { -EPIPE, false, false },
	[PEER_BROKE_RULES] = { -EPROTO, false, false },
	[TABLE_CLOSED] = { -ECANCELED, false, true },
};

#define TIME (5 * MSEC)

/* Ends it so.  What a callback does not note is in @c.  0, or the line that failed. */
static int end_it(FIXTURE_DATA(op_outcome) * self, enum ending how, uint64_t id,
		  uint64_t request)
{
	struct evering_ops *a = self->ops[0], *b = self->ops[1];
	uint64_t garbage[2] = { 0x1234, 0xffff };

	switch (how) {
	case ANSWERED:
		return evering_op_answer(b, request, 7, NULL, 0);
	case TOLD_AND_ANSWERED:
		return evering_op_cancel(a, id, EVERING_CANCEL_TELL) ?
			       -1 :
			       evering_op_answer(b, request, 7, NULL, 0);
	case TOLD_AND_TIMED_OUT:
		if (evering_op_cancel(a, id, EVERING_CANCEL_TELL))
			return -1;
		/* fall through */
	case TIMED_OUT:
		sleep_ns(TIME + MSEC);
		return 0;
	case TOLD_AND_DETACHED:
		if (evering_op_cancel(a, id, EVERING_CANCEL_TELL))
			return -1;
		return evering_op_cancel(a, id, EVERING_CANCEL_DETACH);
	case DETACHED:
		return evering_op_cancel(
			a, id, EVERING_CANCEL_DETACH | EVERING_CANCEL_TELL);
	case PEER_CLOSED:
		evering_close(self->ev[1]);
		self->ev[1] = NULL;
		return 0;
	case PEER_BROKE_RULES:
		return evering_send(self->ev[1], garbage, sizeof(garbage), 0);
	case TABLE_CLOSED:
		evering_ops_close(a);
		self->ops[0] = NULL;
		return 0;
	default:
		return 0;
	}
}

TEST_F(op_outcome, says_whose_the_buffer_is)
{
	struct evering_completion c;
	struct evering_request request;
	struct evering_op op;
	struct outcome o;
	const struct expected *e;
	bool in_callback;
	uint64_t id;
	char *buf, *other;
	int how, lap;

	for (lap = 0; lap < 2 * ENDINGS; lap++) {
		how = lap / 2;
		e = &expected[how];
		/* Some are noted by a callback, and some asked for. */
		in_callback = lap % 2 || how == TABLE_CLOSED;
		if (how == CALLED)
			in_callback = false;
		close_pair(self->ev);
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));
		ASSERT_EQ(0, open_tables(self));
		buf = evering_alloc(self->ev[0], 4096, 0);
		ASSERT_NE(NULL, buf);
		memset(&o, 0, sizeof(o));
		op = (struct evering_op){
			.flags = EVERING_LEND,
			.buf = buf,
			.buf_len = 4096,
			.timeout_ns =
				how == TIMED_OUT || how == TOLD_AND_TIMED_OUT ?
					TIME :
					0,
			.done = in_callback ? note_done : NULL,
			.user = &o,
		};
		id = 0;
		if (how == CALLED) {
			ASSERT_EQ(0,
				  evering_op_call(self->ops[0], &op, &c, TIME));
		} else {
			ASSERT_EQ(0,
				  evering_op_submit(self->ops[0], &op, &id, 0));
		}
		ASSERT_EQ(0, evering_op_next(self->ops[1], &request, PLENTY));
		if (how != CALLED) {
			EXPECT_EQ(-EBUSY, evering_free(self->ev[0], buf));
		}
		EXPECT_EQ(0, end_it(self, how, id, request.id));
		if (self->ops[0])
			evering_ops_poll(self->ops[0]);
		if (how != CALLED && !in_callback)
			ASSERT_EQ(0, evering_op_done(self->ops[0], id, &c))
			{
				TH_LOG("ending %d", how);
			}
		if (in_callback) {
			ASSERT_EQ(1, o.times)
			{
				TH_LOG("ending %d", how);
			}
			c.result = o.result;
			c.flags = (uint16_t)o.flags;
		}
		EXPECT_EQ(e->result, c.result)
		{
			TH_LOG("ending %d", how);
		}
		EXPECT_EQ(e->answered, !!(c.flags & EVERING_ANSWERED))
		{
			TH_LOG("ending %d", how);
		}
		EXPECT_EQ(e->abandoned, !!(c.flags & EVERING_ABANDONED))
		{
			TH_LOG("ending %d", how);
		}
		/* It is the caller's exactly if it is not abandoned. */
		EXPECT_EQ(!(c.flags & EVERING_ABANDONED),
			  !evering_free(self->ev[0], buf))
		{
			TH_LOG("ending %d", how);
		}
		if (!(c.flags & EVERING_ABANDONED) || !self->ops[0])
			continue;
		/* And is freed, once, when the peer has done with it. */
		EXPECT_EQ(0, evering_op_answer(self->ops[1], request.id, 7,
					       NULL, 0));
		EXPECT_LE(0, evering_ops_poll(self->ops[0]));
		EXPECT_EQ(-EINVAL, evering_free(self->ev[0], buf));
		other = evering_alloc(self->ev[0], 65536, 0);
		EXPECT_NE(NULL, other);
		EXPECT_EQ(0, evering_free(self->ev[0], other));
	}
}

TEST_F(op_outcome, one_that_was_only_prepared_leaves_the_buffer)
{
	struct evering_op op = { .flags = EVERING_LEND, .buf_len = 64 };
	uint64_t id;

	ASSERT_EQ(0, open_tables(self));
	op.buf = evering_alloc(self->ev[0], 64, 0);
	ASSERT_EQ(0, evering_op_prepare(self->ops[0], &op, &id));
	EXPECT_EQ(-EBUSY, evering_free(self->ev[0], op.buf));
	EXPECT_EQ(0, evering_op_cancel(self->ops[0], id, 0));
	EXPECT_EQ(0, evering_free(self->ev[0], op.buf));
}

/* ------------------------------------------------------------ what makes no sense */

TEST_F(op_outcome, what_makes_no_sense_is_refused)
{
	static const int64_t for_ever[] = { 0, EVERING_WAIT_FOREVER };
	struct evering_ops_info info;
	struct evering_op op = { 0 };
	unsigned int i;
	uint64_t id;

	ASSERT_EQ(0, open_tables(self));
	op.buf = evering_alloc(self->ev[0], 10000, 0);
	op.buf_len = 10000;
	/* A buffer that is neither lent nor given would go nowhere. */
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	op.done = note_done;
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	EXPECT_EQ(-EINVAL, evering_op_prepare(self->ops[0], &op, &id));
	op.done = NULL;
	op.flags = EVERING_LEND | EVERING_GIVE;
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	op.flags = EVERING_GIVE << 1;
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	op.flags = EVERING_LEND;
	op.buf_len = 0;
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	EXPECT_EQ(0, evering_free(self->ev[0], op.buf));
	op = (struct evering_op){ .flags = EVERING_LEND };
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	op = (struct evering_op){ .timeout_ns = -2 };
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	op = (struct evering_op){ .len = 4 };
	EXPECT_EQ(-EINVAL, evering_op_submit(self->ops[0], &op, &id, 0));
	evering_ops_get_info(self->ops[0], &info);
	EXPECT_EQ(0, info.in_flight);
	/* For ever has two names. */
	for (i = 0; i < ARRAY_SIZE(for_ever); i++) {
		op = (struct evering_op){ .timeout_ns = for_ever[i] };
		EXPECT_EQ(0, evering_op_submit(self->ops[0], &op, &id, 0));
		EXPECT_EQ(EVERING_WAIT_FOREVER,
			  evering_ops_timeout(self->ops[0]));
	}
}

/* ------------------------------------------------------------------ what it costs */

static int64_t cost_of(struct evering_ops *ops, int kind)
{
	struct evering_ops_info info;
	int64_t took[31];
	unsigned int i;
	int k;

	for (i = 0; i < ARRAY_SIZE(took); i++) {
		took[i] = now_ns();
		for (k = 0; k < 50; k++) {
			if (kind == 0)
				evering_op_wait_all(ops, EVERING_NOWAIT);
			else if (kind == 1)
				evering_ops_get_info(ops, &info);
			else
				evering_ops_timeout(ops);
		}
		took[i] = now_ns() - took[i];
	}
	return median_of(took, ARRAY_SIZE(took));
}

TEST_F(op_outcome, a_large_table_costs_no_more_to_ask)
{
	static const uint32_t sizes[] = { 256, EVERING_MAX_ENTRIES };
	static const char *const names[] = { "wait_all", "get_info",
					     "timeout" };
	struct evering_op op = { 0 };
	int64_t cost[2][2][3];
	unsigned int i, busy, kind;
	uint64_t id;

	for (i = 0; i < 2; i++) {
		close_pair(self->ev);
		self->p.entries = sizes[i];
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));
		ASSERT_EQ(0, open_tables(self));
		for (busy = 0; busy < 2; busy++) {
			for (kind = 0; kind < 3; kind++)
				cost[i][busy][kind] =
					cost_of(self->ops[0], (int)kind);
			ASSERT_EQ(0,
				  evering_op_submit(self->ops[0], &op, &id, 0));
		}
	}
	for (busy = 0; busy < 2; busy++) {
		for (kind = 0; kind < 3; kind++) {
			EXPECT_GT(50 * cost[0][busy][kind] + 50 * USEC,
				  cost[1][busy][kind])
			{
				TH_LOG("%s: %lld and %lld ns", names[kind],
				       (long long)cost[0][busy][kind] / 50,
				       (long long)cost[1][busy][kind] / 50);
			}
		}
	}
}

TEST_HARNESS_MAIN
