// SPDX-License-Identifier: MIT
/*
 * replace.c: a successor takes the place of a peer that has gone.  Survivor and successors
 * are in one process and one thread, so that nothing depends on time; that a process can be
 * killed at any instruction of it is shown by kill.c.
 */
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "op.h"

#include <evering_group.h>

#define ENTRIES 16u
#define ARENA	65536u
/* A kernel that takes a hundred times as long for each. */
#define DEBUGGED (slow(1) > 50)

FIXTURE(replace)
{
	char path[64];
	struct evering_listener *listener;
	struct evering *ev[2];
	struct evering *a; /* survives */
	struct evering *b; /* goes, and its successors */
	struct side s[2];
	struct outcome o[12];
};

BACKEND_VARIANTS(replace);

/* On one path there is one test at a time. */
static int start_listening(FIXTURE_DATA(replace) * self)
{
	snprintf(self->path, sizeof(self->path), "@evering-replace-%d",
		 getpid());
	return evering_listen(self->path, 0, &self->listener);
}

FIXTURE_SETUP(replace)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 64, ENTRIES, ARENA);
	ASSERT_EQ(0, start_listening(self));
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(replace)
{
	over = true;
	evering_close(self->b);
	evering_close(self->a);
	evering_listener_close(self->listener);
}

/* The other end has gone.  Its half stays as it left it. */
static void leave(FIXTURE_DATA(replace) * self)
{
	evering_close(self->b);
	self->b = NULL;
}

/* Both sides at once, each without waiting.  0; or what either says. */
static int meet(FIXTURE_DATA(replace) * self, struct evering_connecting *c)
{
	struct evering *met = NULL;
	int64_t end = now_ns() + PLENTY;
	int ret, accepted = -EAGAIN;

	do {
		ret = evering_connecting_step(c, &met);
		if (accepted == -EAGAIN)
			accepted = evering_accept(self->listener, NULL,
						  EVERING_NOWAIT, &self->b);
	} while (ret == -EAGAIN && now_ns() < end);
	evering_connecting_close(c);
	if (!ret && met != self->a)
		return -ENXIO;
	return ret ? ret : accepted;
}

static int replace_by_force(FIXTURE_DATA(replace) * self, unsigned int flags)
{
	struct evering_connecting *c;
	int ret;

	ret = evering_replace_begin(self->a, self->path, flags, PLENTY, &c);
	return ret ? ret : meet(self, c);
}

static int replace(FIXTURE_DATA(replace) * self)
{
	return replace_by_force(self, 0);
}

/* What evering_replace() says of itself, whoever listens. */
static int try(FIXTURE_DATA(replace) * self)
{
	return evering_replace(self->a, "@evering-replace-nobody", 0,
			       EVERING_NOWAIT);
}

static int send_from(struct evering *ev, uint32_t first, uint32_t count)
{
	int ret = 0;

	for (; count-- && !ret; first++)
		ret = evering_send(ev, &first, sizeof(first), EVERING_NOWAIT);
	return ret;
}

/* 0; -EBADMSG: another one than @first, and so on, came. */
static int receive_from(struct evering *ev, uint32_t first, uint32_t count)
{
	uint32_t entry;
	int ret = 0;

	for (; count-- && !ret; first++) {
		ret = evering_recv(ev, &entry, sizeof(entry), EVERING_NOWAIT);
		if (!ret && entry != first)
			ret = -EBADMSG;
	}
	return ret;
}

static bool receives_nothing(struct evering *ev)
{
	return !evering_peek(ev);
}

/* A ring and more goes each way. */
static int talk(struct evering *a, struct evering *b)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; i < 3 * ENTRIES && !ret; i++) {
		ret = send_from(a, i, 1);
		ret = ret ? ret : receive_from(b, i, 1);
		ret = ret ? ret : send_from(b, i, 1);
		ret = ret ? ret : receive_from(a, i, 1);
	}
	return ret;
}

/* ------------------------------------------------------------------- entries */

TEST_F(replace, what_was_not_seen_is_sent_again)
{
	ASSERT_EQ(0, send_from(self->a, 0, 10));
	ASSERT_EQ(0, receive_from(self->b, 0, 3));
	leave(self);
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->a));
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->a));
	EXPECT_EQ(0, receive_from(self->b, 3, 7));
	EXPECT_TRUE(receives_nothing(self->b));
	EXPECT_EQ(0, talk(self->a, self->b));
}

TEST_F(replace, a_full_ring_is_sent_again)
{
	/* It says that it begins nothing. */
	evering_begin(self->b, 0);
	ASSERT_EQ(0, send_from(self->a, 0, ENTRIES));
	ASSERT_EQ(-EAGAIN, send_from(self->a, 0, 1));
	leave(self);
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(-EAGAIN, send_from(self->a, 0, 1));
	EXPECT_EQ(0, receive_from(self->b, 0, ENTRIES));
	EXPECT_EQ(0, talk(self->a, self->b));
}

TEST_F(replace, who_has_looked_may_have_done_all)
{
	ASSERT_EQ(0, send_from(self->a, 0, 10));
	ASSERT_NE(NULL, evering_peek(self->b));
	leave(self);
	ASSERT_EQ(0, replace(self));
	EXPECT_TRUE(receives_nothing(self->b));
	EXPECT_EQ(0, talk(self->a, self->b));
}

TEST_F(replace, at_the_wrap)
{
	uint32_t i;

	for (i = 0; i <= ENTRIES; i += DEBUGGED ? 5 : 1) {
		start_at(self->a, self->b, 0u - i);
		start_at(self->b, self->a, 0u - i / 2);
		ASSERT_EQ(0, send_from(self->a, 100, 10));
		ASSERT_EQ(0, receive_from(self->b, 100, 4));
		ASSERT_EQ(0, send_from(self->b, 0, 5));
		ASSERT_EQ(0, receive_from(self->a, 0, 5));
		leave(self);
		ASSERT_EQ(0, replace(self));
		ASSERT_EQ(0, receive_from(self->b, 104, 6));
		ASSERT_TRUE(receives_nothing(self->b));
		ASSERT_TRUE(receives_nothing(self->a));
		ASSERT_EQ(0, talk(self->a, self->b));
	}
}

/* What was there first is received first. */
TEST_F(replace, what_the_dead_had_sent_is_received_first)
{
	ASSERT_EQ(0, send_from(self->b, 0, 3));
	leave(self);
	EXPECT_EQ(-EBUSY, try(self));
	ASSERT_EQ(0, receive_from(self->a, 0, 3));
	EXPECT_EQ(-EAGAIN, try(self));
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, talk(self->a, self->b));
}

TEST_F(replace, who_lives_is_not_replaced)
{
	ASSERT_EQ(0, send_from(self->a, 0, 2));
	EXPECT_EQ(-EBUSY, replace(self));
	EXPECT_EQ(0, receive_from(self->b, 0, 2));
	EXPECT_EQ(0, talk(self->a, self->b));
}

TEST_F(replace, but_by_force)
{
	struct evering *old = self->b;

	ASSERT_EQ(0, send_from(self->a, 0, 2));
	ASSERT_EQ(0, receive_from(old, 0, 1));
	ASSERT_EQ(0, send_from(old, 0, 1));
	ASSERT_EQ(0, replace_by_force(self, EVERING_REPLACE_FORCE));
	EXPECT_TRUE(receives_nothing(self->a));
	EXPECT_TRUE(receives_nothing(self->b));
	EXPECT_EQ(0, talk(self->a, self->b));
	/* It wakes up, and has what it was sent, and no more. */
	EXPECT_EQ(0, send_from(old, 7, 1));
	EXPECT_EQ(0, receive_from(old, 1, 1));
	EXPECT_EQ(-EPIPE, receive_from(old, 2, 1));
	EXPECT_TRUE(receives_nothing(self->a));
	evering_close(old);
	EXPECT_EQ(0, talk(self->a, self->b));
}

/* The one that it was ended by force for has not come: it does not come back. */
TEST_F(replace, force_ends_the_channel_at_once)
{
	struct evering *old = self->b;

	EXPECT_EQ(-EAGAIN,
		  evering_replace(self->a, "@evering-replace-nobody",
				  EVERING_REPLACE_FORCE, EVERING_NOWAIT));
	EXPECT_EQ(-EPIPE, send_from(self->a, 0, 1));
	EXPECT_EQ(-EPIPE, receive_from(old, 0, 1));
	EXPECT_EQ(-EAGAIN, try(self));
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, talk(self->a, self->b));
	evering_close(old);
}

TEST_F(replace, what_fails_changes_nothing)
{
	ASSERT_EQ(0, send_from(self->a, 0, 10));
	ASSERT_EQ(0, receive_from(self->b, 0, 3));
	leave(self);
	EXPECT_EQ(-EAGAIN, try(self));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_replace(self->a, "@evering-replace-nobody", 0,
				  20 * MSEC));
	EXPECT_EQ(-EINVAL, evering_replace(self->a, "", 0, PLENTY));
	EXPECT_EQ(-EINVAL, evering_replace(self->a, self->path, 2, PLENTY));
	EXPECT_EQ(-EINVAL, evering_replace(self->a, self->path, 0, -2));
	EXPECT_EQ(-EPIPE, send_from(self->a, 0, 1));
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, receive_from(self->b, 3, 7));
	EXPECT_EQ(0, talk(self->a, self->b));
}

TEST_F(replace, who_broke_the_rules_has_no_successor)
{
	evering_store_release(&own_half(self->b)->released, 1000);
	while (!send_from(self->a, 0, 1))
		;
	leave(self);
	EXPECT_EQ(-EPROTO, try(self));
}

TEST_F(replace, each_side_knows_how_many_there_were)
{
	uint32_t i;

	EXPECT_EQ(0u, evering_predecessors(self->a));
	EXPECT_EQ(0u, evering_predecessors(self->b));
	for (i = 1; i < 4; i++) {
		leave(self);
		ASSERT_EQ(0, replace(self));
		EXPECT_EQ(i, evering_predecessors(self->a));
		EXPECT_EQ(i, evering_predecessors(self->b));
	}
}

/* Whichever end it was. */
TEST_F(replace, the_accepting_side_survives_as_well)
{
	struct evering *b = self->a;

	self->a = self->b;
	self->b = b;
	ASSERT_EQ(0, send_from(self->a, 0, 4));
	ASSERT_EQ(0, receive_from(self->b, 0, 1));
	leave(self);
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, receive_from(self->b, 1, 3));
	EXPECT_EQ(0, talk(self->a, self->b));
	leave(self);
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, talk(self->a, self->b));
}

/* -------------------------------------------------------------------- sleepers */

static bool is_readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

/* One that sleeps is rung, though its predecessor's first sleep was rung as well. */
TEST_F(replace, the_first_sleep_of_a_successor_is_rung)
{
	uint32_t i;

	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
		ASSERT_FALSE(is_readable(evering_fd(self->b)));
		ASSERT_FALSE(is_readable(evering_fd(self->a)));
		ASSERT_EQ(0, send_from(self->a, 0, 1));
		ASSERT_EQ(0, send_from(self->b, 0, 1));
		EXPECT_TRUE(is_readable(evering_fd(self->b)));
		EXPECT_TRUE(is_readable(evering_fd(self->a)));
		ASSERT_EQ(0, receive_from(self->b, 0, 1));
		ASSERT_EQ(0, receive_from(self->a, 0, 1));
		leave(self);
		ASSERT_EQ(0, replace(self));
	}
}

/* Also for space: it was full, and rung for, once. */
TEST_F(replace, and_so_is_who_waits_for_space)
{
	uint32_t i;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, send_from(self->a, 0, ENTRIES));
		ASSERT_EQ(0, evering_arm(self->a, EVERING_TX));
		ASSERT_EQ(0, receive_from(self->b, 0, ENTRIES));
		EXPECT_TRUE(is_readable(evering_fd(self->a)) ||
			    !(evering_load_relaxed(self->b->rx.armed) &
			      EVERING_ARMED));
		EXPECT_EQ(EVERING_TX,
			  evering_wait(self->a, EVERING_TX, PLENTY));
		leave(self);
		ASSERT_EQ(0, replace(self));
	}
}

TEST_F(replace, a_member_of_a_group_stays_one)
{
	const struct evering_group_event *events;
	struct evering_group *g;
	uint32_t i;

	ASSERT_EQ(0, evering_group_open(NULL, &g));
	ASSERT_EQ(0, evering_group_add(g, self->a, EVERING_RX, self));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, send_from(self->b, i, 1));
		ASSERT_EQ(1, evering_group_wait(g, &events, PLENTY));
		EXPECT_EQ(self->a, events[0].ev);
		EXPECT_EQ((void *)self, events[0].context);
		EXPECT_EQ((uint32_t)EVERING_RX, events[0].what);
		ASSERT_EQ(0, receive_from(self->a, i, 1));
		/* Asleep, and rung. */
		ASSERT_EQ(0, evering_group_arm(g));
		ASSERT_EQ(0, send_from(self->b, i, 1));
		EXPECT_TRUE(is_readable(evering_group_fd(g)));
		ASSERT_EQ(1, evering_group_wait(g, &events, PLENTY));
		ASSERT_EQ(0, receive_from(self->a, i, 1));
		leave(self);
		ASSERT_EQ(1, evering_group_wait(g, &events, PLENTY));
		EXPECT_EQ((uint32_t)EVERING_GROUP_GONE, events[0].what);
		ASSERT_EQ(0, replace(self));
		EXPECT_EQ(-EBUSY, evering_fd(self->a));
		EXPECT_EQ(-EAGAIN,
			  evering_group_wait(g, &events, EVERING_NOWAIT));
	}
	EXPECT_EQ(0, evering_group_remove(g, self->a));
	evering_group_close(g);
	EXPECT_EQ(0, talk(self->a, self->b));
}

/* --------------------------------------------------------------------- arenas */

TEST_F(replace, buffers_stay_where_they_are)
{
	unsigned char *buf[4];
	uint32_t i, k;

	for (i = 0; i < 4; i++) {
		buf[i] = evering_alloc(self->a, 5000, 0);
		ASSERT_NE(NULL, buf[i]);
		memset(buf[i], (int)(i + 1), 5000);
	}
	for (k = 0; k < 3; k++) {
		leave(self);
		ASSERT_EQ(0, replace(self));
		for (i = 0; i < 4; i++) {
			EXPECT_EQ(i + 1, buf[i][0]);
			EXPECT_EQ(i + 1, buf[i][4999]);
			const unsigned char *seen = evering_peer_buffer(
				self->b, evering_offset(self->a, buf[i]), 5000);

			ASSERT_NE(NULL, seen);
			EXPECT_EQ(i + 1, seen[4999]);
			/* It is shared: what is written now is seen. */
			buf[i][17] = (unsigned char)(10 * i + k);
			EXPECT_EQ(buf[i][17], seen[17]);
		}
	}
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, evering_free(self->a, buf[i]));
	EXPECT_TRUE(arena_whole(self->a));
}

TEST_F(replace, an_arena_grows_on)
{
	unsigned char *buf[ARENA / 4096];
	uint32_t i;

	for (i = 0; i < ARENA / 4096; i++) {
		buf[i] = evering_alloc(self->a, 4096, 0);
		ASSERT_NE(NULL, buf[i]);
		memset(buf[i], (int)i + 1, 4096);
		if (i % 3 == 1) {
			leave(self);
			ASSERT_EQ(0, replace(self));
		}
	}
	EXPECT_EQ(NULL, evering_alloc(self->a, 64, 0));
	for (i = 0; i < ARENA / 4096; i++) {
		EXPECT_EQ(i + 1, buf[i][4095]);
		EXPECT_EQ(0, evering_free(self->a, buf[i]));
	}
	EXPECT_TRUE(arena_whole(self->a));
}

/* How many successors; EVERING_REPLACEMENTS=10000 for the full run. */
static int how_many(void)
{
	const char *n = getenv("EVERING_REPLACEMENTS");

	return n && atoi(n) > 0 ? atoi(n) :
	       DEBUGGED		? 3 :
	       slow(1) > 1	? 10 :
				  100;
}

/* No descriptor, no mapping, and no memory. */
TEST_F_TIMEOUT(replace, nothing_is_left_behind, 600)
{
	const int times = how_many();
	size_t heap;
	enum {
		MOST = 512
	};
	struct mapping *maps = calloc(MOST, sizeof(*maps));
	int fds, shared, i;

	ASSERT_NE(NULL, maps);
	leave(self);
	ASSERT_EQ(0, replace(self));
	fds = count_fds();
	shared = list_mappings(maps, MOST, true);
	heap = heap_bytes();
	for (i = 0; i < times; i++) {
		ASSERT_EQ(0, send_from(self->a, 0, 3));
		leave(self);
		ASSERT_EQ(0, replace(self));
	}
	/* As leak.c: what malloc() keeps for itself. */
	if (!SANITIZED) {
		EXPECT_LE(heap_bytes(), heap + 4000);
	}
	EXPECT_EQ(fds, count_fds());
	EXPECT_EQ(shared, list_mappings(maps, MOST, true));
	free(maps);
	EXPECT_EQ(0, talk(self->a, self->b));
}

/* ----------------------------------------------------------------- operations */

static int open_table(struct side *s, struct evering *ev, bool survives)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	memset(s, 0, sizeof(*s));
	s->ev = ev;
	p.depth = p.serve = p.store = 8;
	p.flags = survives ? EVERING_REPLACEABLE : 0;
	p.request = survives ? NULL : note_request;
	p.cancelled = note_cancelled;
	p.context = s;
	return evering_ops_open(ev, &p, &s->ops);
}

static int open_tables(FIXTURE_DATA(replace) * self)
{
	int ret = open_table(&self->s[0], self->a, true);

	if (!ret)
		ret = open_table(&self->s[1], self->b, false);
	if (!ret)
		pump(self->s);
	return ret;
}

/* The server dies as it is, and another one takes its place, and opens its table. */
static int next_server(FIXTURE_DATA(replace) * self)
{
	int ret;

	leave(self);
	ret = replace(self);
	if (!ret)
		ret = open_table(&self->s[1], self->b, false);
	if (!ret)
		pump(self->s);
	return ret;
}

/* Another one, which stores one post or message at a time. */
static int next_server_stores_one(FIXTURE_DATA(replace) * self)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	int ret;

	leave(self);
	ret = replace(self);
	if (ret)
		return ret;
	p.depth = p.serve = 8;
	p.store = 1;
	ret = evering_ops_open(self->b, &p, &self->s[1].ops);
	if (!ret)
		pump(self->s);
	return ret;
}

/* What has come, with the same result for each. */
static int answer_all(struct side *s, int32_t result)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < s->n_got && !ret; i++)
		if (s->got[i].id)
			ret = evering_op_answer(s->ops, s->got[i].id, result,
						NULL, 0);
	s->n_got = 0;
	return ret;
}

static int ask_for(FIXTURE_DATA(replace) * self, uint32_t opcode,
		   struct outcome *o, unsigned int flags, uint64_t *id)
{
	struct evering_op op = asks(opcode, &opcode, sizeof(opcode), o);

	op.flags = flags;
	return ask(&self->s[0], &op, id);
}

#define EXPECT_OUTCOME(o, expected, has)                        \
	do {                                                    \
		EXPECT_EQ(1u, (o).times);                       \
		EXPECT_EQ(expected, (o).result);                \
		EXPECT_EQ((uint32_t)(has), (o).flags);          \
	} while (0)

TEST_F(replace, requests_that_were_not_seen_are_the_successors)
{
	uint64_t id[4];
	uint32_t i, code;

	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, ask_for(self, 100 + i, &self->o[i], 0, &id[i]));
	leave(self);
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->s[0].ops));
	EXPECT_EQ(-EPIPE, ask_for(self, 0, &self->o[5], 0, NULL));
	EXPECT_EQ(4u, info_of(self->s[0].ops).in_flight);
	ASSERT_EQ(0, replace(self));
	/* Not before it has opened its table. */
	EXPECT_EQ(0, evering_ops_poll(self->s[0].ops));
	EXPECT_EQ(-EAGAIN, ask_for(self, 0, &self->o[5], 0, NULL));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	ASSERT_EQ(4u, self->s[1].n_got);
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(id[i], self->s[1].got[i].id);
		EXPECT_EQ(100 + i, self->s[1].got[i].opcode);
		EXPECT_EQ(0u, self->s[1].got[i].flags);
		memcpy(&code, self->s[1].got[i].data, sizeof(code));
		EXPECT_EQ(100 + i, code);
	}
	ASSERT_EQ(0, answer_all(&self->s[1], 7));
	pump(self->s);
	for (i = 0; i < 4; i++)
		EXPECT_OUTCOME(self->o[i], 7, EVERING_ANSWERED);
	/* And on it goes. */
	ASSERT_EQ(0, ask_for(self, 0, &self->o[5], 0, NULL));
	pump(self->s);
	ASSERT_EQ(0, answer_all(&self->s[1], 8));
	pump(self->s);
	EXPECT_OUTCOME(self->o[5], 8, EVERING_ANSWERED);
}

TEST_F(replace, one_that_was_begun_ends)
{
	void *buf = evering_alloc(self->a, 100, 0);
	struct evering_op op = hands(EVERING_LEND, buf, 100, &self->o[1]);

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	pump(self->s);
	ASSERT_EQ(2u, self->s[1].n_got);
	ASSERT_EQ(0, ask_for(self, 2, &self->o[2], 0, NULL));
	ASSERT_EQ(0, next_server(self));
	EXPECT_OUTCOME(self->o[0], -EOWNERDEAD, EVERING_BEGUN);
	EXPECT_OUTCOME(self->o[1], -EOWNERDEAD, EVERING_BEGUN);
	EXPECT_EQ(0u, self->o[2].times);
	ASSERT_EQ(1u, self->s[1].n_got);
	EXPECT_EQ(2u, self->s[1].got[0].opcode);
	/* What was lent is the caller's. */
	EXPECT_EQ(0, evering_free(self->a, buf));
	EXPECT_TRUE(arena_whole(self->a));
}

TEST_F(replace, one_that_was_answered_is_answered)
{
	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	evering_ops_poll(self->s[1].ops);
	ASSERT_EQ(0, answer_all(&self->s[1], 5));
	ASSERT_EQ(0, next_server(self));
	EXPECT_OUTCOME(self->o[0], 5, EVERING_ANSWERED);
	EXPECT_EQ(0u, self->s[1].n_got);
}

TEST_F(replace, what_may_be_begun_twice_is_and_says_so)
{
	unsigned char *buf = evering_alloc(self->a, 100, 0);
	struct evering_op op =
		hands(EVERING_LEND | EVERING_REISSUE, buf, 100, &self->o[1]);
	uint32_t code, i;
	uint64_t id[2];

	memset(buf, 'x', 100);
	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 41, &self->o[0], EVERING_REISSUE, &id[0]));
	ASSERT_EQ(0, ask(&self->s[0], &op, &id[1]));
	pump(self->s);
	EXPECT_EQ(0u, self->s[1].got[0].flags);
	ASSERT_EQ(0, ask_for(self, 42, &self->o[2], 0, NULL));
	/* Each of these begins them, and dies. */
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, next_server(self));
		ASSERT_EQ(i ? 2u : 3u, self->s[1].n_got);
		EXPECT_EQ((uint32_t)EVERING_AGAIN, self->s[1].got[0].flags);
		EXPECT_EQ(id[0], self->s[1].got[0].id);
		EXPECT_EQ(41u, self->s[1].got[0].opcode);
		memcpy(&code, self->s[1].got[0].data, sizeof(code));
		EXPECT_EQ(41u, code);
		EXPECT_EQ((uint32_t)(EVERING_AGAIN | EVERING_LEND),
			  self->s[1].got[1].flags);
		EXPECT_EQ(id[1], self->s[1].got[1].id);
		EXPECT_EQ(100u, self->s[1].got[1].buf_len);
		EXPECT_EQ('x', ((unsigned char *)self->s[1].got[1].buf)[99]);
	}
	EXPECT_OUTCOME(self->o[2], -EOWNERDEAD, EVERING_BEGUN);
	ASSERT_EQ(0, answer_all(&self->s[1], 3));
	pump(self->s);
	EXPECT_OUTCOME(self->o[0], 3, EVERING_ANSWERED);
	EXPECT_OUTCOME(self->o[1], 3, EVERING_ANSWERED);
	EXPECT_EQ(0, evering_free(self->a, buf));
	EXPECT_TRUE(arena_whole(self->a));
}

/* One that a second peer has not seen may have been begun by the first. */
TEST_F(replace, begun_once_is_begun)
{
	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], EVERING_REISSUE, NULL));
	pump(self->s);
	leave(self);
	ASSERT_EQ(0, replace(self));
	/* It opens its table, and takes up nothing. */
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	evering_ops_poll(self->s[0].ops);
	leave(self);
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->s[0].ops));
	evering_ops_close(self->s[0].ops);
	EXPECT_OUTCOME(self->o[0], -ECANCELED, EVERING_BEGUN);
}

TEST_F(replace, what_was_given_and_not_seen_is_given_again)
{
	unsigned char *buf[3];
	struct evering_op op;
	uint32_t i;

	for (i = 0; i < 3; i++) {
		buf[i] = evering_alloc(self->a, 100, 0);
		memset(buf[i], 'a' + (int)i, 100);
	}
	ASSERT_EQ(0, open_tables(self));
	op = hands(EVERING_GIVE, buf[0], 100, &self->o[0]);
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	pump(self->s);
	op = hands(EVERING_GIVE, buf[1], 100, &self->o[1]);
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	op = (struct evering_op){ .opcode = 9,
				  .flags = EVERING_GIVE,
				  .buf = buf[2],
				  .buf_len = 100 };
	ASSERT_EQ(0, evering_op_post(self->s[0].ops, &op, EVERING_NOWAIT));
	ASSERT_EQ(0, next_server(self));
	EXPECT_OUTCOME(self->o[0], -EOWNERDEAD, EVERING_BEGUN);
	ASSERT_EQ(2u, self->s[1].n_got);
	for (i = 0; i < 2; i++) {
		ASSERT_NE(NULL, self->s[1].got[i].buf);
		EXPECT_EQ((unsigned int)('b' + i),
			  ((unsigned char *)self->s[1].got[i].buf)[99]);
		EXPECT_EQ(-ESTALE, evering_free(self->a, buf[1 + i]));
		EXPECT_EQ(0, evering_free(self->b, self->s[1].got[i].buf));
	}
	EXPECT_EQ((uint32_t)(EVERING_GIVE | EVERING_POST),
		  self->s[1].got[1].flags);
	ASSERT_EQ(0, answer_all(&self->s[1], 3));
	pump(self->s);
	EXPECT_OUTCOME(self->o[1], 3, EVERING_ANSWERED);
	/* All three are home, each once. */
	EXPECT_TRUE(arena_whole(self->a));
}

TEST_F(replace, messages_and_posts_come_again_in_order)
{
	const struct evering_op post = { .opcode = 77,
					 .data = "post",
					 .len = 4 };
	struct evering_msg msg;
	char text[3000];
	struct iovec iov = { text, sizeof(text) };
	uint32_t i;

	memset(text, 'm', sizeof(text));
	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < 6; i++) {
		text[0] = (char)('0' + i);
		iov.iov_len = i % 2 ? 3000 : 10;
		ASSERT_EQ(0, evering_msg_send(self->s[0].ops, &iov, 1,
					      EVERING_NOWAIT));
		/* Two are seen. */
		if (i == 1)
			pump(self->s);
	}
	ASSERT_EQ(0, evering_op_post(self->s[0].ops, &post, EVERING_NOWAIT));
	leave(self);
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	EXPECT_EQ(1u, self->s[1].n_got);
	EXPECT_EQ(77u, self->s[1].got[0].opcode);
	for (i = 2; i < 6; i++) {
		ASSERT_EQ(0, evering_msg_recv(self->s[1].ops, &msg,
					      EVERING_NOWAIT));
		EXPECT_EQ(i % 2 ? 3000u : 10u, msg.len);
		EXPECT_EQ('0' + (int)i, *(const char *)msg.data);
		EXPECT_EQ(0, evering_msg_free(self->s[1].ops, &msg));
	}
	pump(self->s);
	EXPECT_TRUE(arena_whole(self->a));
}

/* The successor stores one at a time: the others wait for it. */
TEST_F(replace, messages_come_again_as_there_is_credit)
{
	struct evering_msg msg;
	uint32_t i;

	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < 5; i++) {
		const struct iovec iov = { &i, sizeof(i) };

		ASSERT_EQ(0, evering_msg_send(self->s[0].ops, &iov, 1,
					      EVERING_NOWAIT));
	}
	ASSERT_EQ(0, next_server_stores_one(self));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, evering_msg_recv(self->s[1].ops, &msg,
					      EVERING_NOWAIT));
		EXPECT_EQ(i, *(const uint32_t *)msg.data);
		if (i < 4) {
			EXPECT_EQ(-EAGAIN, ask_for(self, 0, NULL, 0, NULL));
		}
		ASSERT_EQ(0, evering_msg_free(self->s[1].ops, &msg));
		pump(self->s);
	}
	EXPECT_EQ(0, ask_for(self, 0, NULL, 0, NULL));
}

TEST_F(replace, in_between_time_runs_out_and_who_cancels_is_heard)
{
	void *buf = evering_alloc(self->a, 100, 0);
	struct evering_op op = asks(1, NULL, 0, &self->o[0]);
	uint64_t id[4];
	int ret;

	ASSERT_EQ(0, open_tables(self));
	op.timeout_ns = 100 * MSEC;
	ASSERT_EQ(0, ask(&self->s[0], &op, &id[0]));
	op = hands(EVERING_LEND, buf, 100, &self->o[1]);
	ASSERT_EQ(0, ask(&self->s[0], &op, &id[1]));
	ASSERT_EQ(0, ask_for(self, 2, &self->o[2], 0, &id[2]));
	ASSERT_EQ(0, ask_for(self, 3, &self->o[3], 0, &id[3]));
	leave(self);
	while ((ret = evering_ops_poll(self->s[0].ops)) > 0)
		;
	EXPECT_EQ(-EPIPE, ret);
	EXPECT_TRUE(EVENTUALLY(evering_ops_poll(self->s[0].ops) == -EPIPE &&
			       self->o[0].times));
	EXPECT_EQ(-ETIMEDOUT, self->o[0].result);
	/* Unless it took so long until the death was known. */
	EXPECT_EQ(0u, self->o[0].flags & ~(uint32_t)EVERING_UNSEEN);
	EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id[1],
				       EVERING_CANCEL_DETACH |
					       EVERING_CANCEL_TELL));
	/* Nobody can use it any more. */
	EXPECT_OUTCOME(self->o[1], -ECANCELED, EVERING_UNSEEN);
	EXPECT_EQ(0, evering_free(self->a, buf));
	EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id[2],
				       EVERING_CANCEL_TELL));
	EXPECT_EQ(0u, self->o[2].times);
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(1u, self->o[2].times);
	EXPECT_EQ(-ECANCELED, self->o[2].result);
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	ASSERT_EQ(1u, self->s[1].n_got);
	EXPECT_EQ(3u, self->s[1].got[0].opcode);
	EXPECT_EQ(0u, self->s[1].n_told);
	ASSERT_EQ(0, answer_all(&self->s[1], 0));
	pump(self->s);
	EXPECT_EQ(0u, info_of(self->s[0].ops).abandoned);
	EXPECT_TRUE(arena_whole(self->a));
}

/* After the successor has come, and before it has opened its table. */
TEST_F(replace, nor_is_one_asked_that_is_cancelled_late)
{
	uint64_t id[3];

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, &id[0]));
	ASSERT_EQ(0, ask_for(self, 2, &self->o[1], 0, &id[1]));
	ASSERT_EQ(0, ask_for(self, 3, &self->o[2], 0, &id[2]));
	leave(self);
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id[0],
				       EVERING_CANCEL_TELL));
	EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id[1],
				       EVERING_CANCEL_DETACH |
					       EVERING_CANCEL_TELL));
	EXPECT_EQ(1u, self->o[1].times);
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	EXPECT_OUTCOME(self->o[0], -ECANCELED, EVERING_UNSEEN);
	EXPECT_EQ(1u, self->o[1].times);
	ASSERT_EQ(1u, self->s[1].n_got);
	EXPECT_EQ(3u, self->s[1].got[0].opcode);
	EXPECT_EQ(0u, info_of(self->s[0].ops).abandoned);
}

TEST_F(replace, what_the_dead_has_given_stays_until_it_is_freed)
{
	const unsigned char *got;
	void *buf;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[1], 0, NULL));
	evering_ops_poll(self->s[1].ops);
	ASSERT_EQ(2u, self->s[1].n_got);
	buf = evering_alloc(self->b, 100, 0);
	memset(buf, 'd', 100);
	ASSERT_EQ(0,
		  evering_op_answer_buffer(self->s[1].ops, self->s[1].got[0].id,
					   0, buf, 100));
	buf = evering_alloc(self->b, 100, 0);
	memset(buf, 'e', 100);
	ASSERT_EQ(0,
		  evering_op_answer_buffer(self->s[1].ops, self->s[1].got[1].id,
					   0, buf, 100));
	pump(self->s);
	got = self->o[0].buf;
	ASSERT_NE(NULL, got);
	ASSERT_EQ(0, next_server(self));
	ASSERT_EQ(0, next_server(self));
	EXPECT_EQ('d', got[99]);
	EXPECT_EQ('e', ((unsigned char *)self->o[1].buf)[0]);
	EXPECT_EQ(0, evering_free(self->a, self->o[0].buf));
	EXPECT_EQ(-EINVAL, evering_free(self->a, self->o[0].buf));
	EXPECT_EQ('e', ((unsigned char *)self->o[1].buf)[99]);
	EXPECT_EQ(-EINVAL,
		  evering_free(self->a, (unsigned char *)self->o[1].buf + 64));
	EXPECT_EQ(0, evering_free(self->a, self->o[1].buf));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[2], 0, NULL));
	pump(self->s);
	ASSERT_EQ(0, answer_all(&self->s[1], 3));
	pump(self->s);
	EXPECT_OUTCOME(self->o[2], 3, EVERING_ANSWERED);
}

/* What only the dead could have back: it is finished with first. */
TEST_F(replace, what_is_held_of_the_dead_is_finished_with_first)
{
	struct evering_request r;
	struct evering_msg msg;
	struct iovec iov = { (void *)(uintptr_t) "text", 4 };
	struct evering_op op = asks(5, NULL, 0, NULL);
	uint64_t id;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask(&self->s[1], &op, NULL));
	ASSERT_EQ(0, evering_msg_send(self->s[1].ops, &iov, 1, EVERING_NOWAIT));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, &id));
	leave(self);
	EXPECT_EQ(-EBUSY, try(self));
	ASSERT_EQ(0, evering_op_next(self->s[0].ops, &r, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_msg_recv(self->s[0].ops, &msg, EVERING_NOWAIT));
	EXPECT_EQ(-EBUSY, try(self));
	EXPECT_EQ(-EPIPE, evering_op_answer(self->s[0].ops, r.id, 0, NULL, 0));
	EXPECT_EQ(-EBUSY, try(self));
	EXPECT_EQ(0, memcmp(msg.data, "text", 4));
	EXPECT_EQ(0, evering_msg_free(self->s[0].ops, &msg));
	EXPECT_EQ(-EAGAIN, try(self));
	EXPECT_EQ(-EPIPE, evering_op_next(self->s[0].ops, &r, EVERING_NOWAIT));
	ASSERT_EQ(0, next_server(self));
	EXPECT_EQ(1u, self->s[1].n_got);
	/* Credit and places are as of two who have just met. */
	EXPECT_EQ(8u, info_of(self->s[1].ops).credit);
	EXPECT_EQ(8u, info_of(self->s[1].ops).depth);
	ASSERT_EQ(0, ask(&self->s[1], &op, &id));
	pump(self->s);
	ASSERT_EQ(0, evering_op_next(self->s[0].ops, &r, EVERING_NOWAIT));
	EXPECT_EQ(id, r.id);
	EXPECT_EQ(0, evering_op_answer(self->s[0].ops, r.id, 0, NULL, 0));
}

/* A buffer of the dead's that was on its way home, or with a request, has nowhere to go. */
TEST_F(replace, what_was_given_back_to_the_dead_is_gone)
{
	struct evering_op op;
	void *buf;
	uint64_t id;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	evering_ops_poll(self->s[1].ops);
	buf = evering_alloc(self->b, 100, 0);
	ASSERT_EQ(0,
		  evering_op_answer_buffer(self->s[1].ops, self->s[1].got[0].id,
					   0, buf, 100));
	pump(self->s);
	op = hands(EVERING_GIVE, self->o[0].buf, 100, &self->o[1]);
	ASSERT_EQ(0, evering_op_prepare(self->s[0].ops, &op, &id));
	leave(self);
	EXPECT_EQ(-EBUSY, try(self));
	EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id, 0));
	EXPECT_EQ(-EAGAIN, try(self));
	EXPECT_EQ(0, evering_free(self->a, self->o[0].buf));
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);

	ASSERT_EQ(0, ask_for(self, 1, &self->o[2], 0, NULL));
	evering_ops_poll(self->s[1].ops);
	buf = evering_alloc(self->b, 100, 0);
	ASSERT_EQ(0,
		  evering_op_answer_buffer(self->s[1].ops, self->s[1].got[0].id,
					   0, buf, 100));
	pump(self->s);
	op = hands(EVERING_GIVE, self->o[2].buf, 100, &self->o[3]);
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	ASSERT_EQ(0, next_server(self));
	EXPECT_OUTCOME(self->o[3], -EOWNERDEAD, EVERING_UNSEEN);
	EXPECT_EQ(0u, self->s[1].n_got);
}

TEST_F(replace, a_table_that_does_not_say_so_has_no_successor)
{
	ASSERT_EQ(0, sides_open(self->s, self->ev, 4, 4));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	leave(self);
	EXPECT_EQ(-EOPNOTSUPP, try(self));
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->s[0].ops));
	EXPECT_OUTCOME(self->o[0], -EPIPE, EVERING_UNSEEN);
	/* Without it the endpoint has one, which gets nothing of what the table had sent. */
	evering_ops_close(self->s[0].ops);
	ASSERT_EQ(0, replace(self));
	EXPECT_TRUE(receives_nothing(self->b));
	EXPECT_EQ(0, open_tables(self));
}

TEST_F(replace, who_serves_fewer_is_no_successor)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	leave(self);
	ASSERT_EQ(0, replace(self));
	p.serve = 7;
	ASSERT_EQ(0, evering_ops_open(self->b, &p, &self->s[1].ops));
	EXPECT_EQ(-EPROTO, evering_ops_poll(self->s[0].ops));
	EXPECT_EQ(1u, self->o[0].times);
	EXPECT_EQ(-EPROTO, self->o[0].result);
	EXPECT_EQ(-EPROTO, try(self));
}

static void try_in_callback(struct evering_ops *ops,
			    const struct evering_completion *c)
{
	*(int *)c->user = evering_replace(evering_ops_endpoint(ops), "@nobody",
					  0, EVERING_NOWAIT);
}

TEST_F(replace, not_in_a_callback)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	int said = 0;

	ASSERT_EQ(0, open_tables(self));
	op.done = try_in_callback;
	op.user = &said;
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	evering_ops_poll(self->s[1].ops);
	ASSERT_EQ(0, answer_all(&self->s[1], 0));
	leave(self);
	EXPECT_EQ(-EAGAIN, try(self));
	EXPECT_EQ(-EDEADLK, said);
}

static void ask_once_more(struct evering_ops *ops,
			  const struct evering_completion *c)
{
	FIXTURE_DATA(replace) *self = c->user;
	struct evering_op op = asks(2, NULL, 0, &self->o[1]);

	if (over)
		return;
	self->o[0].result = c->result;
	self->o[0].times++;
	/* There is no room until the successor has opened its table. */
	self->o[2].result = evering_op_submit(ops, &op, NULL, EVERING_NOWAIT);
	evering_op_prepare(ops, &op, &self->o[0].id);
}

TEST_F(replace, who_is_told_of_a_death_asks_again)
{
	struct evering_op op = asks(1, NULL, 0, NULL);

	ASSERT_EQ(0, open_tables(self));
	op.done = ask_once_more;
	op.user = self;
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	pump(self->s);
	ASSERT_EQ(0, next_server(self));
	EXPECT_EQ(1u, self->o[0].times);
	EXPECT_EQ(-EOWNERDEAD, self->o[0].result);
	EXPECT_EQ(-EAGAIN, self->o[2].result);
	ASSERT_EQ(0, evering_op_start(self->s[0].ops, self->o[0].id,
				      EVERING_NOWAIT));
	pump(self->s);
	ASSERT_EQ(0, answer_all(&self->s[1], 4));
	pump(self->s);
	EXPECT_OUTCOME(self->o[1], 4, EVERING_ANSWERED);
}

/* A call is over, and says what is known; who waits for an operation can wait on. */
TEST_F(replace, calls_and_waits)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_completion c;
	uint64_t id;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask(&self->s[0], &op, &id));
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	leave(self);
	EXPECT_EQ(-EPIPE, evering_op_wait(self->s[0].ops, id, &c, PLENTY));
	EXPECT_EQ(-EPIPE, evering_op_wait_any(self->s[0].ops, &c, PLENTY));
	EXPECT_EQ(-EPIPE, evering_op_wait_all(self->s[0].ops, PLENTY));
	EXPECT_EQ(-EPIPE, evering_op_call(self->s[0].ops, &op, &c, PLENTY));
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	ASSERT_EQ(2u, self->s[1].n_got);
	ASSERT_EQ(0, answer_all(&self->s[1], 6));
	ASSERT_EQ(0, evering_op_wait(self->s[0].ops, id, &c, PLENTY));
	EXPECT_EQ(6, c.result);
	ASSERT_EQ(0, evering_op_wait_any(self->s[0].ops, &c, PLENTY));
	EXPECT_EQ(6, c.result);
}

/* ----------------------------------------------------------- who lies, or is late */

/* The peer says that it has taken up nothing from entry @n on, and goes. */
static void deny(FIXTURE_DATA(replace) * self, uint32_t n)
{
	evering_store_release(&own_half(self->b)->begun, n);
	evering_store_release(&own_half(self->b)->released, n);
	leave(self);
}

/* It had sent home what it was given: that place is in use for something else. */
TEST_F(replace, a_buffer_that_came_home_is_not_given_again)
{
	struct evering_op post = { .opcode = 9, .flags = EVERING_GIVE };
	uint32_t before;
	void *buf;

	ASSERT_EQ(0, open_tables(self));
	before = self->a->tx.next;
	post.buf = buf = evering_alloc(self->a, 100, 0);
	post.buf_len = 100;
	ASSERT_EQ(0, evering_op_post(self->s[0].ops, &post, EVERING_NOWAIT));
	pump(self->s);
	ASSERT_EQ(1u, self->s[1].n_got);
	ASSERT_EQ(0, evering_free(self->b, self->s[1].got[0].buf));
	evering_ops_flush(self->s[1].ops);
	pump(self->s);
	ASSERT_EQ(buf, evering_alloc(self->a, 100, 0));
	deny(self, before);
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	EXPECT_EQ(0u, self->s[1].n_got);
	EXPECT_EQ(0, evering_free(self->a, buf));
	EXPECT_TRUE(arena_whole(self->a));
}

/* Of what was sent before the table nothing is taken for the table's. */
TEST_F(replace, entries_from_before_the_table_are_none_of_its)
{
	unsigned char entry[60];
	uint32_t i;

	memset(entry, 0xff, sizeof(entry));
	/* A post that gives a buffer from nowhere. */
	entry[8] = EVERING_OP_POST;
	entry[9] = EVERING_OP_GIVEN;
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, evering_send(self->a, entry, sizeof(entry),
					  EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, entry, sizeof(entry),
					  EVERING_NOWAIT));
	}
	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	deny(self, 0);
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	ASSERT_EQ(1u, self->s[1].n_got);
	EXPECT_EQ(1u, self->s[1].got[0].opcode);
}

static struct evering_connecting *steps;
static int stepped;

static void step_and_close(struct evering_ops *ops,
			   const struct evering_completion *c)
{
	struct evering *ev;

	(void)ops;
	(void)c;
	stepped = evering_connecting_step(steps, &ev);
	evering_connecting_close(steps);
}

TEST_F(replace, a_callback_may_end_the_steps_that_called_it)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering *met = NULL;
	int ret;

	ASSERT_EQ(0, open_tables(self));
	op.done = step_and_close;
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	pump(self->s);
	leave(self);
	ASSERT_EQ(0, evering_replace_begin(self->a, self->path, 0, PLENTY,
					   &steps));
	do {
		ret = evering_connecting_step(steps, &met);
		if (!self->b)
			evering_accept(self->listener, NULL, EVERING_NOWAIT,
				       &self->b);
	} while (ret == -EAGAIN);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(-EINVAL, stepped);
	EXPECT_EQ(self->a, met);
}

/* A second one finds the successor of the first, which lives. */
TEST_F(replace, one_of_several_succeeds)
{
	struct evering_connecting *c[2];

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	leave(self);
	ASSERT_EQ(0,
		  evering_replace_begin(self->a, self->path, 0, PLENTY, &c[0]));
	ASSERT_EQ(0,
		  evering_replace_begin(self->a, self->path, 0, PLENTY, &c[1]));
	ASSERT_EQ(0, meet(self, c[0]));
	self->ev[0] = self->b;
	self->b = NULL;
	EXPECT_EQ(-EBUSY, meet(self, c[1]));
	evering_close(self->b);
	self->b = self->ev[0];
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	EXPECT_EQ(1u, self->s[1].n_got);
}

/* Until all is answered. */
static void *wait_for_all(void *ops)
{
	return (void *)(intptr_t)evering_op_wait_all(ops, PLENTY);
}

/*
 * So many that they do not fit at once; the successor takes them, and answers none before it
 * has all.  The survivor sleeps meanwhile.
 */
TEST_F(replace, the_rest_is_sent_when_there_is_room)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	pthread_t waiter;
	void *ret;
	uint32_t i;

	p.depth = p.serve = 12;
	p.flags = EVERING_REPLACEABLE;
	ASSERT_EQ(0, evering_ops_open(self->a, &p, &self->s[0].ops));
	ASSERT_EQ(0, side_open(&self->s[1], self->b, 12, 12, false));
	pump(self->s);
	for (i = 0; i < 12; i++) {
		while (ask_for(self, i, NULL, EVERING_REISSUE, NULL))
			pump(self->s);
	}
	pump(self->s);
	leave(self);
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, side_open(&self->s[1], self->b, 12, 12, false));
	ASSERT_EQ(0,
		  pthread_create(&waiter, NULL, wait_for_all, self->s[0].ops));
	EXPECT_TRUE(EVENTUALLY(evering_ops_poll(self->s[1].ops) < 0 ||
			       self->s[1].n_got == 12));
	EXPECT_EQ(0, answer_all(&self->s[1], 0));
	evering_ops_flush(self->s[1].ops);
	ASSERT_EQ(0, pthread_join(waiter, &ret));
	EXPECT_EQ(0, (int)(intptr_t)ret);
}

/* What goes home, and credit, do not wait for what is sent again. */
TEST_F(replace, credit_goes_home_before_what_is_sent_again)
{
	const struct iovec iov = { (void *)(uintptr_t) "text", 4 };
	struct evering_msg msg;
	uint32_t i;

	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, evering_msg_send(self->s[0].ops, &iov, 1,
					      EVERING_NOWAIT));
	ASSERT_EQ(0, next_server_stores_one(self));
	/* It takes none before it was heard itself, more than once round. */
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, evering_msg_send(self->s[1].ops, &iov, 1,
					      EVERING_NOWAIT));
		pump(self->s);
		ASSERT_EQ(0, evering_msg_recv(self->s[0].ops, &msg,
					      EVERING_NOWAIT));
		ASSERT_EQ(0, evering_msg_free(self->s[0].ops, &msg));
		pump(self->s);
	}
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, evering_msg_recv(self->s[1].ops, &msg,
					      EVERING_NOWAIT));
		ASSERT_EQ(0, evering_msg_free(self->s[1].ops, &msg));
		pump(self->s);
	}
}

/* Nobody is told by a function that calls nobody; what is there to be told, a poll tells. */
TEST_F(replace, what_ends_in_the_queue_is_told_by_a_poll)
{
	uint64_t id[3];
	short events;
	uint32_t i;

	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, ask_for(self, i, &self->o[i], 0, &id[i]));
	leave(self);
	ASSERT_EQ(0, replace(self));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id[i],
					       EVERING_CANCEL_TELL));
	EXPECT_EQ(1, evering_ops_arm(self->s[0].ops, &events));
	evering_ops_flush(self->s[0].ops);
	EXPECT_EQ(0u, self->o[0].times);
	EXPECT_LE(4, evering_ops_poll(self->s[0].ops));
	for (i = 0; i < 3; i++)
		EXPECT_OUTCOME(self->o[i], -ECANCELED, EVERING_UNSEEN);
	EXPECT_EQ(0, evering_ops_poll(self->s[0].ops));
	EXPECT_EQ(0, evering_ops_arm(self->s[0].ops, &events));
	pump(self->s);
	EXPECT_EQ(0u, self->s[1].n_got);
}

TEST_F(replace, a_given_buffer_comes_home_from_the_queue)
{
	struct evering_op op;
	uint64_t id;
	void *buf;
	int i;

	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < 3; i++) {
		buf = evering_alloc(self->a, 100, 0);
		op = hands(EVERING_GIVE, buf, 100, &self->o[i]);
		ASSERT_EQ(0, ask(&self->s[0], &op, &id));
		leave(self);
		ASSERT_EQ(0, replace(self));
		EXPECT_EQ(0, evering_op_cancel(self->s[0].ops, id,
					       EVERING_CANCEL_DETACH));
		EXPECT_OUTCOME(self->o[i], -ECANCELED, EVERING_UNSEEN);
		/* The first time it is sent to nobody, then to a third. */
		if (i) {
			leave(self);
			ASSERT_EQ(0, replace(self));
		}
		ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
		pump(self->s);
		EXPECT_EQ(0u, self->s[1].n_got);
		EXPECT_TRUE(arena_whole(self->a));
	}
}

/* An id of the dead's names nothing, although its places are used again. */
TEST_F(replace, ids_of_the_dead_are_stale)
{
	struct evering_op op = asks(5, NULL, 0, NULL);
	struct evering_request r;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask(&self->s[1], &op, NULL));
	ASSERT_EQ(0, evering_op_next(self->s[0].ops, &r, EVERING_NOWAIT));
	leave(self);
	while (evering_ops_poll(self->s[0].ops) >= 0)
		;
	EXPECT_EQ(-EPIPE, evering_op_answer(self->s[0].ops, r.id, 0, NULL, 0));
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(-ESTALE, evering_op_cancelled(self->s[0].ops, r.id));
	EXPECT_EQ(-ESTALE, evering_op_answer(self->s[0].ops, r.id, 0, NULL, 0));
	ASSERT_EQ(0, open_table(&self->s[1], self->b, false));
	pump(self->s);
	EXPECT_EQ(-ESTALE, evering_op_answer(self->s[0].ops, r.id, 0, NULL, 0));
	EXPECT_EQ(0u, info_of(self->s[0].ops).held);
	leave(self);
	EXPECT_EQ(-EAGAIN, try(self));
}

TEST_F(replace, a_wake_is_not_lost)
{
	const struct evering_group_event *events;
	struct evering_group *g;
	int i;

	for (i = 0; i < 2; i++) {
		leave(self);
		ASSERT_EQ(0, evering_wake(self->a, EVERING_RX));
		ASSERT_EQ(0, replace(self));
		EXPECT_EQ(-EINTR, evering_wait(self->a, EVERING_RX, PLENTY));
	}
	ASSERT_EQ(0, evering_group_open(NULL, &g));
	ASSERT_EQ(0, evering_group_add(g, self->a, EVERING_RX, NULL));
	leave(self);
	ASSERT_EQ(1, evering_group_wait(g, &events, PLENTY));
	ASSERT_EQ(0, evering_wake(self->a, EVERING_RX));
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(-EINTR, evering_group_wait(g, &events, PLENTY));
	evering_group_close(g);
}

/* It has sent three, and the dead says that it had room for more than a ring before. */
TEST_F(replace, what_was_never_sent_is_not_sent_again)
{
	struct evering_fate_info fate;

	ASSERT_EQ(0, send_from(self->a, 0, 3));
	deny(self, 3u - ENTRIES);
	ASSERT_EQ(0, evering_fate(self->a, &fate));
	EXPECT_EQ(3u, fate.unseen);
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, receive_from(self->b, 0, 3));
	EXPECT_TRUE(receives_nothing(self->b));
}

/* As many entries after its table was opened as there are numbers. */
TEST_F(replace, a_table_after_a_wrap)
{
	uint32_t i;

	ASSERT_EQ(0, open_tables(self));
	for (i = 0; i < ENTRIES; i++) {
		ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
		pump(self->s);
		ASSERT_EQ(0, answer_all(&self->s[1], 0));
		pump(self->s);
	}
	start_at(self->a, self->b, 0u - 1);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, ask_for(self, 10 + i, &self->o[i + 1], 0, NULL));
	ASSERT_EQ(0, next_server(self));
	ASSERT_EQ(4u, self->s[1].n_got);
	EXPECT_EQ(10u, self->s[1].got[0].opcode);
}

/* It answers before it was asked. */
TEST_F(replace, an_answer_to_what_is_queued_breaks_the_rules)
{
	struct evering_op_header h = { .type = EVERING_OP_ANSWER, .code = 7 };
	struct evering_op_open open = { 8, 8, 8, 0 };
	unsigned char entry[60] = { 0 };
	uint64_t id;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, &id));
	leave(self);
	ASSERT_EQ(0, replace(self));
	h.type = EVERING_OP_OPEN;
	h.code = EVERING_OPS_VERSION;
	h.len = sizeof(open);
	memcpy(entry, &h, sizeof(h));
	memcpy(entry + sizeof(h), &open, sizeof(open));
	ASSERT_EQ(0,
		  evering_send(self->b, entry, sizeof(entry), EVERING_NOWAIT));
	h = (struct evering_op_header){ .id = id,
					.type = EVERING_OP_ANSWER,
					.code = 7 };
	memset(entry, 0, sizeof(entry));
	memcpy(entry, &h, sizeof(h));
	ASSERT_EQ(0,
		  evering_send(self->b, entry, sizeof(entry), EVERING_NOWAIT));
	EXPECT_EQ(-EPROTO, evering_ops_poll(self->s[0].ops));
	EXPECT_EQ(1u, self->o[0].times);
	EXPECT_EQ(-EPROTO, self->o[0].result);
}

static void poll_in_callback(struct evering_ops *ops,
			     const struct evering_completion *c)
{
	if (!over)
		*(int *)c->user = evering_ops_poll(ops);
}

/* The first that ends finds out that the successor is none: the others end once. */
TEST_F(replace, a_callback_may_find_the_end)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_connecting *c;
	struct evering_ops *other;
	struct evering *met;
	uint64_t id[3];
	int said = 0, i;

	ASSERT_EQ(0, open_tables(self));
	op.done = poll_in_callback;
	op.user = &said;
	ASSERT_EQ(0, ask(&self->s[0], &op, NULL));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, ask_for(self, 2, NULL, 0, &id[i]));
	pump(self->s);
	leave(self);
	ASSERT_EQ(0, evering_replace_begin(self->a, self->path, 0, PLENTY, &c));
	while (evering_accept(self->listener, NULL, EVERING_NOWAIT, &self->b))
		evering_connecting_step(c, &met);
	p.serve = 1;
	ASSERT_EQ(0, evering_ops_open(self->b, &p, &other));
	ASSERT_EQ(0, evering_connecting_step(c, &met));
	evering_connecting_close(c);
	EXPECT_EQ(-EPROTO, said);
	EXPECT_EQ(0u, info_of(self->s[0].ops).abandoned);
	EXPECT_EQ(0u, info_of(self->s[0].ops).in_flight);
	EXPECT_EQ(3u, info_of(self->s[0].ops).done);
}

/* It could never be sent what there is for it. */
TEST_F(replace, who_stores_nothing_is_no_successor_if_there_is_a_post)
{
	const struct evering_op post = { .opcode = 1 };
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	ASSERT_EQ(0, open_tables(self));
	ASSERT_EQ(0, evering_op_post(self->s[0].ops, &post, EVERING_NOWAIT));
	leave(self);
	ASSERT_EQ(0, replace(self));
	p.store = 0;
	ASSERT_EQ(0, evering_ops_open(self->b, &p, &self->s[1].ops));
	EXPECT_EQ(-EPROTO, evering_ops_poll(self->s[0].ops));
}

/* A request of a peer that is left is finished with first, as of one that has died. */
TEST_F(replace, force_takes_what_there_is_and_nothing_more)
{
	struct evering_op op = asks(5, NULL, 0, NULL);
	struct evering_request r;
	struct evering *old = self->b;
	struct evering_ops *old_table;

	ASSERT_EQ(0, open_tables(self));
	old_table = self->s[1].ops;
	ASSERT_EQ(0, ask_for(self, 1, &self->o[0], 0, NULL));
	ASSERT_EQ(0, ask(&self->s[1], &op, NULL));
	EXPECT_EQ(-EBUSY, replace_by_force(self, EVERING_REPLACE_FORCE));
	/* It is left, and cannot ask for more. */
	while (evering_ops_poll(old_table) > 0)
		;
	EXPECT_EQ(-EPIPE, evering_ops_poll(old_table));
	ASSERT_EQ(0, evering_op_next(self->s[0].ops, &r, EVERING_NOWAIT));
	EXPECT_EQ(-EPIPE, evering_op_answer(self->s[0].ops, r.id, 0, NULL, 0));
	ASSERT_EQ(0, replace(self));
	/* Nobody knows whether the old one will have done it. */
	EXPECT_OUTCOME(self->o[0], -EOWNERDEAD, EVERING_BEGUN);
	evering_close(old);
}

/* ------------------------------------------------------------ one after another */

/* Each takes up some, answers some of those, and dies; the last one answers all. */
#define OPS 64u

struct once {
	unsigned int outcomes;
	unsigned int begun; /* by how many servers */
	int32_t result;
	uint32_t flags;
	bool reissue;
};

static struct once once[OPS];

static void note_once(struct evering_ops *ops,
		      const struct evering_completion *c)
{
	struct once *o = c->user;

	(void)ops;
	if (over)
		return;
	o->outcomes++;
	o->result = c->result;
	o->flags = c->flags;
}

struct server {
	uint64_t *random;
	bool last;
	uint32_t answered;
};

static void serve_some(struct evering_ops *ops, const struct evering_request *r,
		       void *context)
{
	struct server *s = context;
	struct once *o = &once[r->opcode];

	o->begun++;
	if (!(r->flags & EVERING_AGAIN) != (o->begun == 1))
		o->begun += 1000;
	if (s->last || random_below(s->random, 3) == 0)
		evering_op_answer(ops, r->id, (int32_t)r->opcode, NULL, 0);
}

static int serve(FIXTURE_DATA(replace) * self, struct server *server)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	p.depth = p.serve = p.store = 8;
	p.request = serve_some;
	p.context = server;
	return evering_ops_open(self->b, &p, &self->s[1].ops);
}

static int submit_next(FIXTURE_DATA(replace) * self, uint64_t *random,
		       uint32_t n, void *buf)
{
	struct evering_op op = { .opcode = n, .done = note_once };

	op.user = &once[n];
	once[n].reissue = random_below(random, 2);
	if (once[n].reissue)
		op.flags |= EVERING_REISSUE;
	if (buf) {
		op.flags |= EVERING_LEND;
		op.buf = buf;
		op.buf_len = 64;
	}
	return evering_op_submit(self->s[0].ops, &op, NULL, EVERING_NOWAIT);
}

/* So many rounds of one life: submit, serve, look. */
static int live(FIXTURE_DATA(replace) * self, uint64_t *random, uint32_t rounds,
		uint32_t *next)
{
	bool lends = random_below(random, 2);
	void *buf;
	int ret;

	for (; rounds; rounds--) {
		switch (random_below(random, 3)) {
		case 0:
			if (*next == OPS)
				break;
			buf = lends ? evering_alloc(self->a, 64, 0) : NULL;
			ret = submit_next(self, random, *next, buf);
			*next += !ret;
			if (ret && buf)
				evering_free(self->a, buf);
			if (ret && ret != -EAGAIN)
				return ret;
			break;
		case 1:
			ret = evering_ops_poll(self->s[1].ops);
			if (ret < 0)
				return ret;
			break;
		default:
			ret = evering_ops_poll(self->s[0].ops);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

static int check_once(void)
{
	const struct once *o;
	uint32_t i;

	for (i = 0; i < OPS; i++) {
		o = &once[i];
		if (o->outcomes != 1 || o->begun > 1000)
			return -(int)i - 1;
		if (o->begun > 1 && !o->reissue)
			return -(int)i - 1;
		if (o->flags == EVERING_ANSWERED ?
			    o->result != (int32_t)i || !o->begun :
			    o->result != -EOWNERDEAD || o->reissue ||
				    o->flags != EVERING_BEGUN || !o->begun)
			return -(int)i - 1;
	}
	return 0;
}

TEST_F_TIMEOUT(replace, each_has_one_outcome_whoever_dies, 60)
{
	const unsigned int stories = DEBUGGED	 ? 1 :
				     slow(1) > 1 ? 4 :
				     short_run() ? 40 :
						   200;
	uint64_t random = random_seed();
	struct server server = { .random = &random };
	uint32_t next, life;
	unsigned int i;

	for (i = 0; i < stories; i++) {
		memset(once, 0, sizeof(once));
		next = 0;
		server.last = false;
		if (i) {
			/* A client and a server that are both new. */
			struct evering_params p = params_sized(
				variant->backend, 64, ENTRIES, ARENA);

			evering_close(self->a);
			evering_close(self->b);
			self->a = self->b = NULL;
			ASSERT_EQ(0, evering_pair(&p, self->ev));
			self->a = self->ev[0];
			self->b = self->ev[1];
		}
		ASSERT_EQ(0, open_table(&self->s[0], self->a, true));
		ASSERT_EQ(0, serve(self, &server));
		for (life = 0; next < OPS || life < 3; life++) {
			ASSERT_EQ(0, live(self, &random,
					  (uint32_t)random_below(&random, 60),
					  &next));
			leave(self);
			ASSERT_EQ(0, replace(self));
			/* Some die before they have opened their table. */
			while (random_below(&random, 4) == 0) {
				leave(self);
				ASSERT_EQ(0, replace(self));
			}
			ASSERT_EQ(0, serve(self, &server));
		}
		server.last = true;
		pump(self->s);
		ASSERT_EQ(0, check_once())
		{
			TH_LOG("story %u", i);
		}
		ASSERT_EQ(0u, info_of(self->s[0].ops).in_flight);
	}
}

/* --------------------------------------------------------------- other processes */

/* What the servers of a life have done for each operation: they share it. */
#define WORK 4000u

struct book {
	uint32_t lives;
	uint32_t next; /* of the client's operations */
	unsigned char begun[WORK];
	unsigned char answered[WORK];
};

static struct book *book;
static struct once work[WORK];
static uint32_t work_answered;

static void do_work(struct evering_ops *ops, const struct evering_request *r,
		    void *context)
{
	(void)context;
	__atomic_fetch_add(&book->begun[r->opcode], 1, __ATOMIC_RELAXED);
	evering_op_answer(ops, r->id, (int32_t)r->opcode, NULL, 0);
	__atomic_fetch_add(&book->answered[r->opcode], 1, __ATOMIC_RELAXED);
}

/* A server that is not told when it ends. */
static int serve_until_killed(void *path)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_listener *l;
	struct evering_ops *ops;
	struct evering *ev;

	p.request = do_work;
	if (evering_listen(path, 0600, &l))
		return 1;
	__atomic_fetch_add(&book->lives, 1, __ATOMIC_RELEASE);
	if (evering_accept(l, NULL, EVERING_WAIT_FOREVER, &ev))
		return 2;
	if (evering_ops_open(ev, &p, &ops))
		return 3;
	while (evering_ops_wait(ops, EVERING_WAIT_FOREVER) > 0)
		;
	/* Its client has gone, before or after this one was to be killed. */
	await_death();
}

static void note_work(struct evering_ops *ops,
		      const struct evering_completion *c)
{
	note_once(ops, c);
	work_answered += c->flags == EVERING_ANSWERED;
}

/* As many as there is room for. */
static int submit_work(struct evering_ops *ops)
{
	struct evering_op op = { .done = note_work };
	int ret = 0;

	while (book->next < WORK && !ret) {
		op.opcode = book->next;
		op.user = &work[book->next];
		ret = evering_op_submit(ops, &op, NULL, EVERING_NOWAIT);
		book->next += !ret;
	}
	return ret;
}

/* Some microseconds of work; -EPIPE: the server has gone. */
static int work_for(struct evering_ops *ops, int64_t ns)
{
	int64_t end = now_ns() + ns;
	int ret = 0;

	while (now_ns() < end && ret >= 0) {
		submit_work(ops);
		ret = evering_ops_wait(ops, MSEC);
		if (ret == -ETIMEDOUT)
			ret = 0;
	}
	return ret;
}

/* As any client would: once for each. */
static int check_work(void)
{
	uint32_t i;

	for (i = 0; i < WORK; i++) {
		if (work[i].outcomes != 1 || book->begun[i] > 1)
			return -(int)i - 1;
		if (work[i].flags == EVERING_ANSWERED ?
			    work[i].result != (int32_t)i || !book->begun[i] :
			    work[i].result != -EOWNERDEAD ||
				    book->answered[i] > 1)
			return -(int)i - 1;
	}
	return 0;
}

/* From a successor that listens to its first answer. */
static int64_t pauses[1 << 16];
static size_t n_pauses;

/* Another server comes, and is met; the client has @ops->in_flight operations.  0, or why. */
static int meet_next(struct evering_ops *ops, struct evering *ev, char *path,
		     pid_t *server)
{
	uint32_t lives = book->lives, before = work_answered;
	int64_t start;
	int ret;

	*server = spawn(serve_until_killed, path);
	if (!EVENTUALLY(__atomic_load_n(&book->lives, __ATOMIC_ACQUIRE) !=
			lives))
		return -ETIMEDOUT;
	start = now_ns();
	ret = evering_replace(ev, path, 0, PLENTY);
	while (!ret && work_answered == before &&
	       (book->next < WORK || info_of(ops).in_flight)) {
		submit_work(ops);
		ret = evering_ops_wait(ops, PLENTY) > 0 ? 0 : -EIO;
	}
	if (!ret && work_answered != before &&
	    n_pauses < sizeof(pauses) / sizeof(pauses[0]))
		pauses[n_pauses++] = now_ns() - start;
	return ret;
}

/* WORK operations, of which some servers die. */
static int work_and_kill(uint32_t backend, uint64_t *random)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_params params = params_on(backend);
	struct evering_ops *ops;
	struct evering *ev;
	unsigned int deaths = 0;
	char path[96];
	pid_t server;
	int ret;

	memset(book, 0, sizeof(*book));
	memset(work, 0, sizeof(work));
	socket_file(path, sizeof(path));
	server = spawn(serve_until_killed, path);
	params.flags = EVERING_AWAIT;
	ret = evering_connect(path, &params, PLENTY, &ev);
	if (ret)
		return ret;
	p.flags = EVERING_REPLACEABLE;
	ret = evering_ops_open(ev, &p, &ops);
	while (!ret && (book->next < WORK || info_of(ops).in_flight)) {
		ret = work_for(ops, (int64_t)random_below(random, 500) * USEC);
		if (ret < 0)
			break;
		ret = 0;
		if (deaths >= (DEBUGGED ? 3 : 20) && random_below(random, 8))
			continue;
		kill_and_reap(server);
		deaths++;
		while ((ret = evering_ops_wait(ops, PLENTY)) > 0)
			;
		if (ret == -EPIPE)
			ret = meet_next(ops, ev, path, &server);
	}
	if (!ret && deaths != evering_predecessors(ev))
		ret = -EBADMSG;
	if (!ret)
		ret = check_work();
	evering_close(ev);
	kill_and_reap(server);
	unlink(path);
	return ret;
}

/* Once; EVERING_SOAK=n: again and again for so many seconds. */
TEST_F_TIMEOUT(replace, servers_are_killed_at_work, 100000)
{
	const char *soak = getenv("EVERING_SOAK");
	int64_t end = now_ns() + (soak ? atoi(soak) : 0) * SEC;
	uint64_t random = random_seed();

	book = mmap(NULL, sizeof(*book), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)book);
	n_pauses = 0;
	do {
		ASSERT_EQ(0, work_and_kill(variant->backend, &random));
	} while (now_ns() < end);
	if (n_pauses) {
		int64_t median = median_of(pauses, n_pauses);

		TH_LOG("%zu pauses, of a successor that is there: median %lld us, p99 %lld us",
		       n_pauses, (long long)(median / USEC),
		       (long long)(pauses[n_pauses * 99 / 100] / USEC));
	}
}

/* Both have gone: what is left is a file, at which the next two meet. */
static int ask_until_killed(void *path)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_op op = { .opcode = 1,
				 .done = note_once,
				 .user = &work[0] };
	struct evering_ops *ops;
	struct evering *ev;

	p.flags = EVERING_REPLACEABLE;
	if (evering_connect(path, NULL, PLENTY, &ev) ||
	    evering_ops_open(ev, &p, &ops) ||
	    evering_op_submit(ops, &op, NULL, PLENTY))
		return 1;
	while (evering_ops_wait(ops, EVERING_WAIT_FOREVER) > 0)
		;
	evering_replace(ev, path, 0, EVERING_WAIT_FOREVER);
	return 2;
}

TEST_F(replace, both_may_die)
{
	pid_t server, client;
	char path[96];
	int i;

	book = mmap(NULL, sizeof(*book), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)book);
	socket_file(path, sizeof(path));
	for (i = 1; i <= 3; i++) {
		server = spawn(serve_until_killed, path);
		ASSERT_TRUE(EVENTUALLY(
			(int)__atomic_load_n(&book->lives, __ATOMIC_ACQUIRE) ==
			i));
		client = spawn(ask_until_killed, path);
		EXPECT_TRUE(EVENTUALLY(book->begun[1] == i));
		kill_and_reap(server);
		kill_and_reap(client);
	}
	unlink(path);
}

/* One that was stopped, and fenced, wakes up to find that it was left. */
static int serve_and_stop(struct evering *ev, void *arg)
{
	uint32_t entry;
	int ret;

	(void)arg;
	if (evering_recv(ev, &entry, sizeof(entry), PLENTY))
		return 1;
	raise(SIGSTOP);
	if (evering_send(ev, &entry, sizeof(entry), EVERING_NOWAIT))
		return 2;
	do
		ret = evering_recv(ev, &entry, sizeof(entry), PLENTY);
	while (!ret && entry == 1);
	return ret == -EPIPE ? 0 : 3;
}

TEST_F(replace, one_that_was_stopped_finds_that_it_was_left)
{
	const struct evering_params p[2] = {
		params_sized(variant->backend, 64, ENTRIES, ARENA),
		params_sized(variant->backend, 64, ENTRIES, ARENA),
	};
	struct duo duo;
	int status;

	ASSERT_EQ(0, duo_start(&duo, false, p, serve_and_stop, NULL));
	ASSERT_EQ(0, send_from(duo.ev, 0, 2));
	ASSERT_EQ(duo.pid, waitpid(duo.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	evering_close(self->a);
	evering_close(self->b);
	self->a = duo.ev;
	self->b = NULL;
	EXPECT_EQ(-EBUSY, try(self));
	ASSERT_EQ(0, replace_by_force(self, EVERING_REPLACE_FORCE));
	ASSERT_EQ(0, talk(self->a, self->b));
	kill(duo.pid, SIGCONT);
	EXPECT_EQ(0, reap(duo.pid));
	EXPECT_TRUE(receives_nothing(self->a));
	EXPECT_EQ(0, talk(self->a, self->b));
}

/* Who listens there is another user. */
static int listen_as_another(void *path)
{
	struct evering_listener *l;
	struct evering *ev;

	if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
		return 1;
	if (evering_listen(path, 0666, &l))
		return 2;
	evering_accept(l, NULL, PLENTY, &ev);
	return 3;
}

TEST_F(replace, another_user_is_no_successor)
{
	char path[64];
	pid_t pid;

	if (getuid())
		SKIP(return, "only root can be another user");
	snprintf(path, sizeof(path), "@evering-false-%d", getpid());
	pid = spawn(listen_as_another, path);
	ASSERT_EQ(0, send_from(self->a, 0, 3));
	evering_begin(self->b, 0);
	leave(self);
	EXPECT_EQ(-EACCES, evering_replace(self->a, path, 0, PLENTY));
	EXPECT_EQ(3, reap(pid));
	/* It has got nothing, and another one can still come. */
	ASSERT_EQ(0, replace(self));
	EXPECT_EQ(0, receive_from(self->b, 0, 3));
}

/* It dies after it was connected to, and before it says welcome. */
static int accept_and_die(void *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), i;

	strcpy(name.sun_path, path);
	if (bind(fd, (struct sockaddr *)&name, sizeof(name)) || listen(fd, 1))
		return 1;
	__atomic_fetch_add(&book->lives, 1, __ATOMIC_RELEASE);
	for (i = 0; i < 2; i++) {
		char byte;
		int sock = accept(fd, NULL, NULL);

		if (sock < 0 || recv(sock, &byte, 1, MSG_PEEK) != 1)
			return 2;
		close(sock);
	}
	unlink(path);
	return 0;
}

TEST_F(replace, successors_may_die_while_they_are_met)
{
	struct evering_listener *l;
	struct evering *b = NULL;
	struct evering_connecting *c;
	struct evering *met;
	char path[96];
	pid_t pid;
	int ret;

	book = mmap(NULL, sizeof(*book), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)book);
	socket_file(path, sizeof(path));
	evering_begin(self->b, 0);
	ASSERT_EQ(0, send_from(self->a, 0, 3));
	leave(self);
	pid = spawn(accept_and_die, path);
	ASSERT_EQ(0, evering_replace_begin(self->a, path, 0, PLENTY, &c));
	while (task_state(pid) != 'Z') {
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &met));
		sleep_ns(USEC);
	}
	EXPECT_EQ(0, reap(pid));
	ASSERT_EQ(0, evering_listen(path, 0600, &l));
	do {
		ret = evering_connecting_step(c, &met);
		if (!b)
			evering_accept(l, NULL, EVERING_NOWAIT, &b);
	} while (ret == -EAGAIN);
	EXPECT_EQ(0, ret);
	evering_connecting_close(c);
	self->b = b;
	ASSERT_NE(NULL, b);
	EXPECT_EQ(0, receive_from(self->b, 0, 3));
	EXPECT_EQ(0, talk(self->a, self->b));
	evering_listener_close(l);
}

TEST_HARNESS_MAIN
