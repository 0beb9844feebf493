// SPDX-License-Identifier: MIT
/*
 * fate.c: what a peer that has gone had done about what it was sent: for entries and for
 * operations, whatever it took them with, across the wrap, and when it lies.  That it is
 * so at each instruction at which a process can be killed is shown by kill.c.
 */
#include "op.h"

#define ENTRIES 16u
#define SENT 10u

FIXTURE(fate)
{
	struct evering *ev[2];
	struct evering *a; /* sends */
	struct evering *b; /* goes */
	struct side s[2];
	struct outcome o[8];
	bool table;
};

BACKEND_VARIANTS(fate);

FIXTURE_SETUP(fate)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 64, ENTRIES, 65536);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(fate)
{
	over = true;
	close_pair(self->ev);
}

/* The other end has gone.  Its half stays as it left it. */
static void leave(struct evering *ev[2])
{
	evering_close(ev[1]);
	ev[1] = NULL;
}

static int send_some(struct evering *ev, uint32_t count)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; i < count && !ret; i++)
		ret = evering_send(ev, &i, sizeof(i), EVERING_NOWAIT);
	return ret;
}

static int receive_some(struct evering *ev, uint32_t count)
{
	uint32_t entry;
	int ret = 0;

	while (count-- && !ret)
		ret = evering_recv(ev, &entry, sizeof(entry), EVERING_NOWAIT);
	return ret;
}

/* How many entries of those sent the peer may have acted on; all others are unseen. */
#define EXPECT_TAKEN(expected, ev)                                             \
	do {                                                                   \
		struct evering_fate_info fate_;                                \
                                                                               \
		ASSERT_EQ(0, evering_fate(ev, &fate_));                        \
		EXPECT_EQ((uint32_t)(expected), (ev)->tx.next - fate_.unseen); \
		EXPECT_EQ(peer_half(ev)->released,                             \
			  (ev)->tx.next - fate_.unseen - fate_.begun);         \
	} while (0)

TEST_F(fate, nothing_is_told_of_the_living)
{
	struct evering_fate_info fate = { 7, 7 };

	ASSERT_EQ(0, send_some(self->a, 3));
	EXPECT_EQ(-EBUSY, evering_fate(self->a, &fate));
	EXPECT_EQ(7u, fate.unseen);
	EXPECT_EQ(7u, fate.begun);
	leave(self->ev);
	EXPECT_EQ(0, evering_fate(self->a, &fate));
}

TEST_F(fate, what_was_received_is_begun)
{
	uint32_t entries[8];

	ASSERT_EQ(0, send_some(self->a, SENT));
	ASSERT_EQ(0, receive_some(self->b, 2));
	ASSERT_EQ(3, evering_recv_bulk(self->b, entries, sizeof(entries[0]), 3,
				       EVERING_NOWAIT));
	leave(self->ev);
	EXPECT_TAKEN(5, self->a);
}

TEST_F(fate, who_waits_to_receive_has_begun_nothing)
{
	uint32_t entry;

	EXPECT_EQ(-EAGAIN,
		  evering_recv(self->b, &entry, sizeof(entry), EVERING_NOWAIT));
	ASSERT_EQ(0, send_some(self->a, SENT));
	leave(self->ev);
	EXPECT_TAKEN(0, self->a);
}

TEST_F(fate, who_looks_may_have_done_all)
{
	ASSERT_EQ(0, send_some(self->a, SENT));
	ASSERT_NE(NULL, evering_peek_at(self->b, 3));
	evering_release_many(self->b, 2);
	ASSERT_EQ(0, evering_publish(self->b));
	leave(self->ev);
	EXPECT_TAKEN(SENT, self->a);
}

TEST_F(fate, who_has_not_received_yet_may_have_done_all)
{
	ASSERT_EQ(0, send_some(self->a, SENT));
	leave(self->ev);
	EXPECT_TAKEN(SENT, self->a);
}

/* Unless it says so before it acts. */
TEST_F(fate, who_looks_can_say_what_it_begins)
{
	evering_begin(self->b, 0);
	ASSERT_EQ(0, send_some(self->a, SENT));
	ASSERT_NE(NULL, evering_peek_at(self->b, 4));
	evering_begin(self->b, 3);
	evering_release(self->b);
	ASSERT_EQ(0, evering_publish(self->b));
	evering_begin(self->b, 4);
	leave(self->ev);
	EXPECT_TAKEN(5, self->a);
}

/* The first release of what was not begun tells on who did the one and the other. */
TEST_F(fate, who_receives_and_looks_may_have_done_all)
{
	ASSERT_EQ(0, send_some(self->a, SENT));
	ASSERT_EQ(0, receive_some(self->b, 2));
	ASSERT_NE(NULL, evering_peek(self->b));
	evering_release(self->b);
	ASSERT_EQ(0, evering_publish(self->b));
	leave(self->ev);
	EXPECT_TAKEN(SENT, self->a);
}

TEST_F(fate, the_entry_counter_wraps)
{
	uint32_t before;

	for (before = 0; before <= SENT; before++) {
		struct evering_params p =
			params_sized(variant->backend, 64, ENTRIES, 0);
		struct evering *ev[2];

		ASSERT_EQ(0, evering_pair(&p, ev));
		start_at(ev[0], ev[1], 0u - before);
		ASSERT_EQ(0, send_some(ev[0], SENT));
		ASSERT_EQ(0, receive_some(ev[1], 6));
		leave(ev);
		EXPECT_TAKEN(6u - before, ev[0]);
		evering_close(ev[0]);
	}
}

/* However many entries that is, its word never comes to lie among those that were sent. */
TEST_F(fate, who_looks_does_so_for_ever)
{
	uint32_t first, i;

	for (first = 0; first < 4; first++) {
		struct evering_params p =
			params_sized(variant->backend, 64, ENTRIES, 0);
		struct evering *ev[2];

		ASSERT_EQ(0, evering_pair(&p, ev));
		start_at(ev[0], ev[1], first * 0x3ffffff5u);
		own_half(ev[1])->begun = ev[1]->rx.next + 2 * ENTRIES;
		for (i = 0; i < 2 * ENTRIES - 2; i++) {
			ASSERT_EQ(0, send_some(ev[0], 1));
			ASSERT_NE(NULL, evering_peek(ev[1]));
			evering_release(ev[1]);
		}
		ASSERT_EQ(0, send_some(ev[0], 5));
		leave(ev);
		EXPECT_TAKEN(ev[0]->tx.next, ev[0]);
		evering_close(ev[0]);
	}
}

/* It can only say that it began what it had not, or had not what nobody can know. */
TEST_F(fate, a_liar_is_heard_within_bounds)
{
	static const struct {
		uint32_t begun, taken;
	} lies[] = {
		{ 3, 3 },
		{ SENT, SENT },
		{ SENT + 1, SENT },
		{ 0, 2 },
		{ UINT32_MAX, 2 },
		{ 0x7fffffffu, SENT },
		{ 0x80000000u, SENT },
		{ 0xa0000000u, SENT },
	};
	struct evering_half *half = own_half(self->b);
	struct evering_fate_info fate;
	unsigned int i;

	ASSERT_EQ(0, send_some(self->a, SENT));
	half->released = 2;
	for (i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct evering_params p =
			params_sized(variant->backend, 64, ENTRIES, 0);
		struct evering *ev[2];

		ASSERT_EQ(0, evering_pair(&p, ev));
		ASSERT_EQ(0, send_some(ev[0], SENT));
		own_half(ev[1])->released = 2;
		own_half(ev[1])->begun = lies[i].begun;
		leave(ev);
		EXPECT_TAKEN(lies[i].taken, ev[0]);
		evering_close(ev[0]);
	}
	half->released = SENT + 1;
	leave(self->ev);
	EXPECT_EQ(-EPROTO, evering_fate(self->a, &fate));
}

/* ---------------------------------------------------------------- operations */

static int submit(struct side *s, uint32_t opcode, struct outcome *o)
{
	struct evering_op op = asks(opcode, &opcode, sizeof(opcode), o);

	return evering_op_submit(s->ops, &op, NULL, EVERING_NOWAIT);
}

/* Of @count operations the first @took are taken up, and the first @answered answered. */
static int ask_and_leave(struct side s[2], struct outcome *o, uint32_t count,
			 uint32_t took, uint32_t answered)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; i < took && !ret; i++)
		ret = submit(&s[0], i, &o[i]);
	if (!ret && took && evering_ops_poll(s[1].ops) != (int)took)
		ret = -EBADMSG;
	for (i = 0; i < answered && !ret; i++)
		ret = evering_op_answer(s[1].ops, s[1].got[i].id, 5, NULL, 0);
	for (i = took; i < count && !ret; i++)
		ret = submit(&s[0], i, &o[i]);
	return ret;
}

TEST_F(fate, operations_are_unseen_begun_or_answered)
{
	uint32_t i;
	int n;

	ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
	ASSERT_EQ(0, ask_and_leave(self->s, self->o, 6, 4, 2));
	leave(self->ev);
	while ((n = evering_ops_poll(self->s[0].ops)) >= 0)
		;
	EXPECT_EQ(-EPIPE, n);
	for (i = 0; i < 6; i++) {
		EXPECT_EQ(1u, self->o[i].times);
		EXPECT_EQ(i < 2 ? 5 : -EPIPE, self->o[i].result);
		EXPECT_EQ(i < 2 ? EVERING_ANSWERED :
			  i < 4 ? EVERING_BEGUN :
				  EVERING_UNSEEN,
			  self->o[i].flags);
	}
}

TEST_F(fate, a_table_that_has_not_looked_has_begun_nothing)
{
	ASSERT_EQ(0, side_open(&self->s[0], self->a, 8, 8, false));
	ASSERT_EQ(0, side_open(&self->s[1], self->b, 8, 8, false));
	ASSERT_EQ(1, evering_ops_poll(self->s[0].ops));
	ASSERT_EQ(0, submit(&self->s[0], 1, &self->o[0]));
	leave(self->ev);
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->s[0].ops));
	EXPECT_EQ(EVERING_UNSEEN, self->o[0].flags);
}

/* What is fetched, and what was to be cancelled, is told the same; what was over is not. */
TEST_F(fate, every_outcome_says_it)
{
	struct evering_completion c;
	struct evering_op op = asks(1, NULL, 0, NULL);
	uint64_t id[4];
	unsigned int i;
	int n;

	ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, evering_op_submit(self->s[0].ops, &op, &id[i],
					       EVERING_NOWAIT));
		if (i == 1)
			ASSERT_EQ(2, evering_ops_poll(self->s[1].ops));
	}
	ASSERT_EQ(0, evering_op_cancel(self->s[0].ops, id[0], 0));
	ASSERT_EQ(0, evering_op_cancel(self->s[0].ops, id[2], 0));
	ASSERT_EQ(0, evering_op_cancel(self->s[0].ops, id[3],
				       EVERING_CANCEL_DETACH));
	leave(self->ev);
	while ((n = evering_ops_poll(self->s[0].ops)) >= 0)
		;
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, evering_op_done(self->s[0].ops, id[i], &c));
		EXPECT_EQ(i == 1 ? -EPIPE : -ECANCELED, c.result);
		EXPECT_EQ(i < 2	 ? EVERING_BEGUN :
			  i == 2 ? EVERING_UNSEEN :
				   0,
			  c.flags);
	}
}

/* Lent buffers come home from both. */
TEST_F(fate, buffers_come_home_with_it)
{
	struct evering_op op;
	unsigned int i;
	void *buf[2];

	ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
	for (i = 0; i < 2; i++) {
		buf[i] = evering_alloc(self->a, 256, 0);
		ASSERT_NE(NULL, buf[i]);
		op = hands(EVERING_LEND, buf[i], 256, &self->o[i]);
		ASSERT_EQ(0, evering_op_submit(self->s[0].ops, &op, NULL,
					       EVERING_NOWAIT));
		if (!i)
			ASSERT_EQ(1, evering_ops_poll(self->s[1].ops));
	}
	leave(self->ev);
	while (evering_ops_poll(self->s[0].ops) >= 0)
		;
	EXPECT_EQ(EVERING_BEGUN, self->o[0].flags);
	EXPECT_EQ(EVERING_UNSEEN, self->o[1].flags);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, evering_free(self->a, buf[i]));
}

/* The table is closed, and the peer lives: nobody says what it has done. */
TEST_F(fate, a_table_that_closes_says_nothing)
{
	unsigned int i;

	ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
	ASSERT_EQ(0, ask_and_leave(self->s, self->o, 4, 2, 0));
	evering_ops_close(self->s[0].ops);
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(-ECANCELED, self->o[i].result);
		EXPECT_EQ(0u, self->o[i].flags);
	}
}

TEST_HARNESS_MAIN
