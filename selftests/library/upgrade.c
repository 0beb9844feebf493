// SPDX-License-Identifier: MIT
/*
 * upgrade.c: a server that stops in good order leaves what it has not begun to its
 * successor, for clients that wait for one.  The first tests have the clients and both
 * servers in one thread, so that nothing depends on time; then there are many clients, and
 * servers that come and go under load.
 */
#include "op.h"

#include <pthread.h>

#include <evering_server.h>

#define ENTRIES	 16u
#define ARENA	 65536u
#define KEPT	 100u /* opcode: to be answered later, by the test */

/* What a server was asked for. */
struct served {
	struct evering_client *client; /* of the last one */
	uint64_t kept[8];
	unsigned int n_kept;
	uint32_t opcodes[64];
	unsigned int n;
	unsigned int cancelled;
	unsigned int closed;
	int why;
};

FIXTURE(upgrade)
{
	char path[64];
	struct evering *a; /* the client */
	struct side client;
	struct evering_server *server[2];
	struct served served[2];
	struct outcome o[32];
};

BACKEND_VARIANTS(upgrade);

static void note(struct served *s, uint32_t opcode)
{
	if (s->n < 64)
		s->opcodes[s->n] = opcode;
	s->n++;
}

static void on_request(struct evering_client *client,
		       const struct evering_request *request)
{
	struct served *s = client->context;

	note(s, request->opcode);
	s->client = client;
	if (request->flags & EVERING_GIVE)
		evering_free(client->ev, request->buf);
	if (!request->id)
		return;
	if (request->opcode == KEPT)
		s->kept[s->n_kept++] = request->id;
	else
		evering_op_answer(client->ops, request->id,
				  (int32_t)request->opcode, NULL, 0);
}

static void on_message(struct evering_client *client,
		       const struct evering_msg *msg)
{
	uint32_t opcode = 0;

	if (msg->len == sizeof(opcode))
		memcpy(&opcode, msg->data, sizeof(opcode));
	note(client->context, opcode);
	evering_msg_free(client->ops, msg);
}

static void on_cancelled(struct evering_client *client, uint64_t id, int why)
{
	struct served *s = client->context;

	s->cancelled++;
	evering_op_answer(client->ops, id, why, NULL, 0);
}

static void on_close(struct evering_client *client, int why)
{
	struct served *s = client->context;

	s->closed++;
	s->why = why;
}

static int open_server(FIXTURE_DATA(upgrade) * self, unsigned int which)
{
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;

	p.request = on_request;
	p.message = on_message;
	p.cancelled = on_cancelled;
	p.close = on_close;
	p.context = &self->served[which];
	return evering_server_open(self->path, &p, &self->server[which]);
}

FIXTURE_SETUP(upgrade)
{
	REQUIRE_BACKEND(variant->backend);
	snprintf(self->path, sizeof(self->path), "@evering-upgrade-%d",
		 getpid());
	ASSERT_EQ(0, open_server(self, 0));
}

FIXTURE_TEARDOWN(upgrade)
{
	over = true;
	evering_close(self->a);
	evering_server_close(self->server[0]);
	evering_server_close(self->server[1]);
}

/* Both sides find nothing more to do.  What the server says in the end. */
static int pump_server(FIXTURE_DATA(upgrade) * self, unsigned int which)
{
	int idle = 0, ret = 0;

	while (idle < 2) {
		ret = evering_server_wait(self->server[which], EVERING_NOWAIT);
		idle = ret > 0 ? 0 : idle + 1;
		if (self->client.ops && evering_ops_poll(self->client.ops) > 0)
			idle = 0;
	}
	return ret;
}

/* Until @c has met a server; 0, or why not. */
static int meet(FIXTURE_DATA(upgrade) * self, unsigned int which,
		struct evering_connecting *c)
{
	int64_t end = now_ns() + PLENTY;
	int ret;

	do {
		ret = evering_connecting_step(c, &self->a);
		evering_server_wait(self->server[which], EVERING_NOWAIT);
	} while (ret == -EAGAIN && now_ns() < end);
	evering_connecting_close(c);
	return ret;
}

static int open_client(FIXTURE_DATA(upgrade) * self, uint32_t backend,
		       unsigned int flags)
{
	struct evering_params params =
		params_sized(backend, 64, ENTRIES, ARENA);
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_connecting *c;
	int ret;

	ret = evering_connect_begin(self->path, &params, PLENTY, &c);
	ret = ret ? ret : meet(self, 0, c);
	p.depth = p.store = 8;
	p.serve = 8;
	p.request = note_request;
	p.cancelled = note_cancelled;
	p.context = &self->client;
	p.flags = flags;
	if (!ret)
		ret = evering_ops_open(self->a, &p, &self->client.ops);
	self->client.ev = self->a;
	return ret ? ret : pump_server(self, 0) == -EAGAIN ? 0 : -EIO;
}

/* The next server opens, and the client finds it. */
static int upgrade(FIXTURE_DATA(upgrade) * self)
{
	struct evering_connecting *c = NULL;
	int ret;

	ret = open_server(self, 1);
	if (!ret)
		ret = evering_replace_begin(self->a, self->path, 0, PLENTY, &c);
	ret = ret ? ret : meet(self, 1, c);
	return ret ? ret : pump_server(self, 1) == -EAGAIN ? 0 : -EIO;
}

static int ask_for(FIXTURE_DATA(upgrade) * self, uint32_t opcode,
		   unsigned int o, uint64_t *id)
{
	struct evering_op op = asks(opcode, NULL, 0, &self->o[o]);

	return ask(&self->client, &op, id);
}

static int answer_kept(struct served *s, int32_t result)
{
	return evering_op_answer(s->client->ops, s->kept[--s->n_kept], result,
				 NULL, 0);
}

#define EXPECT_ANSWER(n, expected)                                     \
	do {                                                           \
		EXPECT_EQ(1u, self->o[n].times);                       \
		EXPECT_EQ(expected, self->o[n].result);                \
		EXPECT_EQ((uint32_t)EVERING_ANSWERED, self->o[n].flags); \
	} while (0)

/* What nobody has looked at is the successor's. */
TEST_F(upgrade, what_is_not_begun_is_the_successors)
{
	uint32_t i;

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, ask_for(self, i, i, NULL));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(1u, self->served[0].closed);
	EXPECT_EQ(-ESHUTDOWN, self->served[0].why);
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->client.ops));
	EXPECT_EQ(0u, self->served[0].n);
	for (i = 0; i < 5; i++)
		EXPECT_EQ(0u, self->o[i].times);
	ASSERT_EQ(0, upgrade(self));
	ASSERT_EQ(5u, self->served[1].n);
	for (i = 0; i < 5; i++) {
		EXPECT_EQ(i, self->served[1].opcodes[i]);
		EXPECT_ANSWER(i, (int32_t)i);
	}
}

/* As long as something is kept the rest goes on, and the client keeps what is new. */
TEST_F(upgrade, what_is_kept_is_answered_first)
{
	uint32_t i;

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	/* It has not heard. */
	ASSERT_EQ(0, ask_for(self, 1, 1, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	EXPECT_ANSWER(1, 1);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-EAGAIN, ask_for(self, 2, 2, NULL));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_op_submit(self->client.ops,
				    &(struct evering_op){ .done = note_done },
				    NULL, MSEC));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	EXPECT_EQ(0, evering_server_poll(self->server[0]));
	EXPECT_EQ(0u, self->served[0].closed);
	ASSERT_EQ(0, answer_kept(&self->served[0], 7));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->client.ops));
	EXPECT_ANSWER(0, 7);
	EXPECT_EQ(2u, self->served[0].n);
	EXPECT_EQ(-EPIPE, ask_for(self, 2, 2, NULL));
	ASSERT_EQ(0, upgrade(self));
	ASSERT_EQ(0, ask_for(self, 2, 2, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 1));
	EXPECT_ANSWER(2, 2);
	EXPECT_EQ(1u, self->served[1].n);
}

/* Whoever does not wait for a successor is to know at once. */
TEST_F(upgrade, who_does_not_wait_is_refused)
{
	ASSERT_EQ(0, open_client(self, variant->backend, 0));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	ASSERT_EQ(0, ask_for(self, 1, 1, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	EXPECT_ANSWER(1, -ESHUTDOWN);
	ASSERT_EQ(0, answer_kept(&self->served[0], 7));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_ANSWER(0, 7);
}

/* Its first entry may be there, and not have been looked at. */
TEST_F(upgrade, one_that_was_not_heard_yet)
{
	struct evering_params params =
		params_sized(variant->backend, 64, ENTRIES, ARENA);
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_connecting *c;

	ASSERT_EQ(0, evering_connect_begin(self->path, &params, PLENTY, &c));
	ASSERT_EQ(0, meet(self, 0, c));
	p.flags = EVERING_REPLACEABLE;
	ASSERT_EQ(0, evering_ops_open(self->a, &p, &self->client.ops));
	self->client.ev = self->a;
	while (evering_ops_poll(self->client.ops) > 0)
		;
	ASSERT_EQ(0, ask_for(self, 1, 1, NULL));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(0u, self->served[0].n);
	EXPECT_EQ(0u, self->o[1].times);
	ASSERT_EQ(0, upgrade(self));
	EXPECT_EQ(1u, self->served[1].n);
	EXPECT_ANSWER(1, 1);
}

TEST_F(upgrade, posts_and_messages_too_in_order)
{
	const uint32_t said[] = { 11, 13 };
	const struct iovec iov[] = { { (void *)&said[0], 4 },
				     { (void *)&said[1], 4 } };
	struct evering_op post = { .opcode = 12 };
	uint32_t i;

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, 10, 1, NULL));
	ASSERT_EQ(0, evering_msg_send(self->client.ops, &iov[0], 1,
				      EVERING_NOWAIT));
	ASSERT_EQ(0, evering_op_post(self->client.ops, &post, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_msg_send(self->client.ops, &iov[1], 1,
				      EVERING_NOWAIT));
	ASSERT_EQ(0, ask_for(self, 14, 2, NULL));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(0u, self->served[0].n);
	ASSERT_EQ(0, upgrade(self));
	ASSERT_EQ(5u, self->served[1].n);
	for (i = 0; i < 5; i++)
		EXPECT_EQ(10 + i, self->served[1].opcodes[i]);
	EXPECT_ANSWER(1, 10);
	EXPECT_ANSWER(2, 14);
}

/* Lent and given ones go to the successor, and come home once. */
TEST_F(upgrade, buffers_go_to_the_successor)
{
	struct evering_op op;
	void *buf[2];

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	buf[0] = evering_alloc(self->a, 1000, 0);
	buf[1] = evering_alloc(self->a, 1000, 0);
	ASSERT_TRUE(buf[0] && buf[1]);
	op = hands(EVERING_LEND, buf[0], 1000, &self->o[1]);
	ASSERT_EQ(0, ask(&self->client, &op, NULL));
	op = hands(EVERING_GIVE, buf[1], 1000, &self->o[2]);
	ASSERT_EQ(0, ask(&self->client, &op, NULL));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(-EBUSY, evering_free(self->a, buf[0]));
	ASSERT_EQ(0, upgrade(self));
	EXPECT_EQ(2u, self->served[1].n);
	EXPECT_ANSWER(1, 0);
	EXPECT_ANSWER(2, 0);
	EXPECT_EQ(0, evering_free(self->a, buf[0]));
	EXPECT_TRUE(arena_whole(self->a));
}

/* What it keeps may wait for what comes home, however much was sent before that. */
TEST_F(upgrade, what_is_kept_may_need_room)
{
	struct served *s = &self->served[0];
	const uint32_t said = 9;
	const struct iovec iov = { (void *)&said, 4 };
	struct evering_arena_state arena;
	uint32_t i;
	void *buf;

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, NULL));
	ASSERT_EQ(0, ask_for(self, KEPT, 1, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(2u, s->n_kept);
	evering_get_arena(s->client->ev, EVERING_MINE, &arena);
	buf = evering_alloc(s->client->ev, arena.most, 0);
	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, evering_op_answer_buffer(s->client->ops, s->kept[0], 0,
					      buf, arena.most));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, evering_msg_send(self->client.ops, &iov, 1,
					      EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	EXPECT_ANSWER(0, 0);
	EXPECT_EQ(10u, s->n);
	EXPECT_EQ(NULL, evering_alloc(s->client->ev, arena.most, 0));
	EXPECT_EQ(-EAGAIN,
		  evering_msg_send(self->client.ops, &iov, 1, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_free(self->a, self->o[0].buf));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	buf = evering_alloc(s->client->ev, arena.most, 0);
	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, evering_op_answer_buffer(s->client->ops, s->kept[1], 5,
					      buf, arena.most));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_ANSWER(1, 5);
	EXPECT_EQ(0, evering_free(self->a, self->o[1].buf));
	ASSERT_EQ(0, upgrade(self));
	EXPECT_EQ(0u, self->served[1].n);
}

/* That nobody needs it any more is heard. */
TEST_F(upgrade, what_is_kept_may_be_cancelled)
{
	struct evering_op post = { .opcode = 12 };
	uint64_t id;
	uint32_t i;

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, &id));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0,
		  evering_server_stop(self->server[0], EVERING_WAIT_FOREVER));
	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, evering_op_post(self->client.ops, &post,
					     EVERING_NOWAIT));
	ASSERT_EQ(0,
		  evering_op_cancel(self->client.ops, id, EVERING_CANCEL_TELL));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(1u, self->served[0].cancelled);
	EXPECT_EQ(1u, self->o[0].times);
	EXPECT_EQ(-ECANCELED, self->o[0].result);
}

/* To answer it the server may have to ask and to tell, as often as it wants. */
TEST_F(upgrade, the_server_may_ask_and_post)
{
	struct served *s = &self->served[0];
	struct evering_op post = { .opcode = 12 };
	struct evering_op op = asks(13, NULL, 0, &self->o[1]);
	uint32_t i;

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	for (i = 0; i < 4 * ENTRIES; i++) {
		self->client.n_got = 0;
		ASSERT_EQ(0, evering_op_post(s->client->ops, &post,
					     EVERING_NOWAIT));
		ASSERT_EQ(0, evering_op_submit(s->client->ops, &op, NULL,
					       EVERING_NOWAIT));
		evering_ops_flush(s->client->ops);
		EXPECT_EQ(-EAGAIN, pump_server(self, 0));
		ASSERT_EQ(2u, self->client.n_got);
		ASSERT_EQ(0, evering_op_answer(self->client.ops,
					       self->client.got[1].id, 3, NULL,
					       0));
		evering_ops_flush(self->client.ops);
		EXPECT_EQ(-EAGAIN, pump_server(self, 0));
		ASSERT_EQ(i + 1, self->o[1].times);
		EXPECT_EQ(3, self->o[1].result);
	}
	ASSERT_EQ(0, answer_kept(s, 7));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_ANSWER(0, 7);
}

/* What the server has asked of its client, who has answered. */
TEST_F(upgrade, an_answer_to_the_server_is_taken)
{
	struct served *s = &self->served[0];
	struct evering_op op = asks(13, NULL, 0, &self->o[1]);

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, 1, 0, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0,
		  evering_op_submit(s->client->ops, &op, NULL, EVERING_NOWAIT));
	evering_ops_flush(s->client->ops);
	EXPECT_LT(0, evering_ops_poll(self->client.ops));
	ASSERT_EQ(1u, self->client.n_got);
	ASSERT_EQ(0, evering_op_answer(self->client.ops, self->client.got[0].id,
				       3, NULL, 0));
	evering_ops_flush(self->client.ops);
	ASSERT_EQ(0, evering_server_stop(self->server[0], PLENTY));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_EQ(1u, self->o[1].times);
	EXPECT_EQ(3, self->o[1].result);
}

/* A closed loop of as many operations as may be, and what its client was told of them. */
static struct busy {
	struct evering_server *server;
	uint32_t rounds;
	uint32_t refused;
	int32_t wrong;
} busy;

static void ask_again(struct evering_ops *ops,
		      const struct evering_completion *c)
{
	struct evering_op op = { .opcode = 1, .done = ask_again };

	if (over)
		return;
	if (c->result != 1)
		busy.wrong = c->result;
	if (evering_op_submit(ops, &op, NULL, EVERING_NOWAIT))
		busy.refused++;
	evering_ops_flush(ops);
	/* The server is faster than this callback. */
	evering_server_wait(busy.server, EVERING_NOWAIT);
	evering_server_wait(busy.server, EVERING_NOWAIT);
	if (++busy.rounds == 20)
		evering_server_stop(busy.server, EVERING_WAIT_FOREVER);
}

/* There is always an answer that it has not taken: it hears of it all the same. */
TEST_F(upgrade, a_busy_client_hears_of_it)
{
	struct evering_op op = { .opcode = 1, .done = ask_again };
	uint32_t i;

	busy = (struct busy){ .server = self->server[0] };
	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	for (i = 0; i < 7; i++)
		ASSERT_EQ(0, evering_op_submit(self->client.ops, &op, NULL,
					       EVERING_NOWAIT));
	evering_ops_flush(self->client.ops);
	evering_server_wait(self->server[0], EVERING_NOWAIT);
	while (busy.rounds < 1000 && !self->o[0].times && !busy.refused &&
	       evering_ops_poll(self->client.ops) >= 0)
		;
	EXPECT_EQ(0, busy.wrong);
	EXPECT_EQ(0u, self->o[0].times);
	EXPECT_NE(0u, busy.refused);
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0, answer_kept(&self->served[0], 7));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_ANSWER(0, 7);
}

static int send_for_ever(struct evering *ev, void *arg)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	const struct evering_op op = { .opcode = KEPT, .done = note_done };
	const struct iovec iov = { "abcd", 4 };
	struct evering_ops *ops;
	int ret;

	(void)arg;
	over = true;
	p.flags = EVERING_REPLACEABLE;
	ret = evering_ops_open(ev, &p, &ops);
	if (!ret)
		ret = evering_op_submit(ops, &op, NULL, PLENTY);
	while (!ret)
		ret = evering_msg_send(ops, &iov, 1, EVERING_WAIT_FOREVER);
	return ret == -EPIPE ? 0 : 1;
}

/* A client that waits until it may send, and a server that waits for an answer, sleep. */
TEST_F(upgrade, they_sleep_meanwhile)
{
	struct evering_params p[2];
	struct served *s = &self->served[0];
	struct evering_client *client;
	struct duo duo;
	uint32_t times = 0;
	int64_t end;

	p[0] = p[1] = params_sized(variant->backend, 64, ENTRIES, ARENA);
	ASSERT_EQ(0, duo_start(&duo, false, p, send_for_ever, NULL));
	ASSERT_EQ(0, evering_server_add(self->server[0], duo.ev, &client));
	end = now_ns() + PLENTY;
	while (!s->n_kept && now_ns() < end)
		evering_server_wait(self->server[0], MSEC);
	ASSERT_EQ(1u, s->n_kept);
	ASSERT_EQ(0,
		  evering_server_stop(self->server[0], EVERING_WAIT_FOREVER));
	/* What it has sent before it heard of that comes first. */
	while (evering_server_wait(self->server[0], slow(100 * MSEC)) !=
		       -ETIMEDOUT &&
	       now_ns() < end)
		times++;
	EXPECT_GT(1000, times);
	end = now_ns() + 100 * MSEC;
	for (times = 0; now_ns() < end; times++)
		evering_server_wait(self->server[0], 50 * MSEC);
	EXPECT_GT(10, times);
	ASSERT_EQ(0, answer_kept(s, 7));
	while (evering_server_wait(self->server[0], PLENTY) != -ESHUTDOWN &&
	       now_ns() < end + PLENTY)
		;
	EXPECT_EQ(0, reap(duo.pid));
}

/* The entries that a client without a library would send. */
static int put(struct evering *ev, uint8_t type, uint64_t id, uint32_t code,
	       const void *data, uint16_t len)
{
	unsigned char entry[48] = { 0 };
	const struct evering_op_header header = {
		.id = id, .type = type, .len = len, .code = code
	};

	memcpy(entry, &header, sizeof(header));
	if (len)
		memcpy(entry + sizeof(header), data, len);
	return evering_send(ev, entry, sizeof(header) + len, EVERING_NOWAIT);
}

/* One that goes on asking, whatever it is told, does not keep a server from its end. */
TEST_F(upgrade, one_that_goes_on_and_on)
{
	const struct evering_op_open open = { 8, 8, 8, EVERING_OP_OUTLIVES };
	struct evering_params params =
		params_sized(variant->backend, 64, ENTRIES, ARENA);
	struct evering_connecting *c;
	unsigned char entry[60];
	uint32_t i;
	int ret = 0;

	ASSERT_EQ(0, evering_connect_begin(self->path, &params, PLENTY, &c));
	ASSERT_EQ(0, meet(self, 0, c));
	ASSERT_EQ(0, put(self->a, EVERING_OP_OPEN, 0, EVERING_OPS_VERSION,
			 &open, sizeof(open)));
	ASSERT_EQ(0, put(self->a, EVERING_OP_REQUEST, 1, KEPT, NULL, 0));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0,
		  evering_server_stop(self->server[0], EVERING_WAIT_FOREVER));
	for (i = 0; i < 100 * ENTRIES && ret != -ESHUTDOWN; i++) {
		put(self->a, EVERING_OP_REQUEST, 2, 5, NULL, 0);
		ret = pump_server(self, 0);
		while (!evering_recv(self->a, entry, sizeof(entry),
				     EVERING_NOWAIT))
			;
	}
	EXPECT_EQ(-ESHUTDOWN, ret);
	EXPECT_EQ(-EPROTO, self->served[0].why);
}

/* Nobody is told so who has not said that it waits for another one. */
TEST_F(upgrade, who_outlives_nobody_is_left_by_nobody)
{
	const struct evering_op_open open = { 8, 8, 8, 0 };
	struct evering_params params =
		params_sized(variant->backend, 64, ENTRIES, ARENA);
	struct evering *ev[2];
	struct evering_ops *ops;

	ASSERT_EQ(0, evering_pair(&params, ev));
	ASSERT_EQ(0, evering_ops_open(ev[0], NULL, &ops));
	ASSERT_EQ(0, put(ev[1], EVERING_OP_OPEN, 0, EVERING_OPS_VERSION, &open,
			 sizeof(open)));
	ASSERT_EQ(0, put(ev[1], EVERING_OP_LEAVE, 0, 0, NULL, 0));
	EXPECT_EQ(-EPROTO, evering_ops_poll(ops));
	evering_close(ev[0]);
	evering_close(ev[1]);
}

/* When its time is up what it keeps ends, and nothing that was left does. */
TEST_F(upgrade, when_the_time_is_up)
{
	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask_for(self, KEPT, 0, NULL));
	EXPECT_EQ(-EAGAIN, pump_server(self, 0));
	ASSERT_EQ(0, ask_for(self, 1, 1, NULL));
	ASSERT_EQ(0, evering_server_stop(self->server[0], EVERING_NOWAIT));
	EXPECT_EQ(-ESHUTDOWN, pump_server(self, 0));
	EXPECT_ANSWER(0, -ESHUTDOWN);
	EXPECT_EQ(0u, self->o[1].times);
	ASSERT_EQ(0, upgrade(self));
	EXPECT_ANSWER(1, 1);
}

/* --------------------------------------------------------------- in its own waits */

struct next {
	FIXTURE_DATA(upgrade) * self;
	int ret;
};

/* The next server, in a thread, until it is stopped. */
static void *serve_next(void *arg)
{
	struct next *next = arg;
	struct evering_server *s = next->self->server[1];

	do
		next->ret = evering_server_wait(s, EVERING_WAIT_FOREVER);
	while (next->ret >= 0 || next->ret == -EINTR);
	return NULL;
}

/* The first server stops, with a request that it has not looked at. */
static int leave_one(FIXTURE_DATA(upgrade) * self, uint32_t backend)
{
	int ret = open_client(self, backend, EVERING_REPLACEABLE);

	if (!ret)
		ret = ask_for(self, 1, 1, NULL);
	if (!ret)
		ret = evering_server_stop(self->server[0], PLENTY);
	return ret ? ret : pump_server(self, 0) == -ESHUTDOWN ? 0 : -EIO;
}

TEST_F(upgrade, waits_go_on_with_the_successor)
{
	const struct iovec none = { NULL, 0 };
	struct evering_completion done;
	struct next next = { self, 0 };
	struct evering_op op = asks(2, NULL, 0, NULL);
	uint64_t id;
	pthread_t thread;

	ASSERT_EQ(0, leave_one(self, variant->backend));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path, PLENTY));
	/* Whoever does not wait is told as ever. */
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->client.ops));
	EXPECT_EQ(-EPIPE, ask_for(self, 2, 2, NULL));
	EXPECT_EQ(-EPIPE, evering_ops_wait(self->client.ops, EVERING_NOWAIT));
	EXPECT_EQ(0u, self->o[1].times);
	ASSERT_EQ(0, open_server(self, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, serve_next, &next));
	/* One that waits for anything may return when something is there to be looked at. */
	while (!self->o[1].times)
		ASSERT_LT(0, evering_ops_wait(self->client.ops, PLENTY));
	EXPECT_ANSWER(1, 1);
	EXPECT_EQ(1u, evering_predecessors(self->a));
	EXPECT_EQ(0, evering_op_call(self->client.ops, &op, &done, PLENTY));
	EXPECT_EQ(2, done.result);
	EXPECT_EQ(0, evering_op_callv(self->client.ops, 3, &none, 1, NULL, 0,
				      &done, PLENTY));
	EXPECT_EQ(3, done.result);
	evering_server_stop(self->server[1], PLENTY);
	pthread_join(thread, NULL);
	evering_server_close(self->server[1]);
	self->server[1] = NULL;
	/* From whatever it waits in. */
	EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(self->client.ops, 5 * MSEC));
	memset(&self->served[1], 0, sizeof(self->served[1]));
	ASSERT_EQ(0, open_server(self, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, serve_next, &next));
	EXPECT_EQ(0, evering_op_submit(self->client.ops, &op, &id, PLENTY));
	EXPECT_EQ(0, evering_op_wait(self->client.ops, id, &done, PLENTY));
	EXPECT_EQ(2, done.result);
	EXPECT_EQ(2u, evering_predecessors(self->a));
	evering_server_stop(self->server[1], PLENTY);
	pthread_join(thread, NULL);
	EXPECT_EQ(-ESHUTDOWN, next.ret);
}

/* Nobody comes: not for longer than they want, and no operation is late for that. */
TEST_F(upgrade, waits_have_their_patience)
{
	struct evering_op op = asks(2, NULL, 0, &self->o[2]);
	struct evering_completion done;
	int64_t start;

	op.timeout_ns = 50 * MSEC;
	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask(&self->client, &op, NULL));
	ASSERT_EQ(0, ask_for(self, 1, 1, NULL));
	evering_server_close(self->server[0]);
	self->server[0] = NULL;
	EXPECT_EQ(-EINVAL, evering_ops_follow(self->client.ops, "", PLENTY));
	EXPECT_EQ(-EINVAL, evering_ops_follow(self->client.ops, self->path, 0));
	EXPECT_EQ(-EINVAL,
		  evering_ops_follow(self->client.ops, self->path, -2));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path, MSEC));
	EXPECT_EQ(-EPIPE, evering_op_wait_all(self->client.ops, PLENTY));
	EXPECT_EQ(-EPIPE, evering_ops_wait(self->client.ops, PLENTY));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path,
					EVERING_WAIT_FOREVER));
	EXPECT_EQ(-ETIMEDOUT, evering_op_wait_all(self->client.ops, MSEC));
	op.done = NULL;
	op.timeout_ns = 0;
	EXPECT_EQ(-ETIMEDOUT,
		  evering_op_call(self->client.ops, &op, &done, MSEC));
	start = now_ns();
	while (!self->o[2].times && now_ns() < start + PLENTY)
		evering_op_wait_all(self->client.ops, 200 * MSEC);
	EXPECT_EQ(1u, self->o[2].times);
	EXPECT_EQ(-ETIMEDOUT, self->o[2].result);
	EXPECT_EQ(0u, self->o[1].times);
	/* As if nobody had said so. */
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, NULL, PLENTY));
	EXPECT_EQ(-EPIPE, evering_ops_wait(self->client.ops, PLENTY));
}

/* The first server has gone, and nobody else is there. */
static int follow_nobody(FIXTURE_DATA(upgrade) * self, uint32_t backend)
{
	int ret = open_client(self, backend, EVERING_REPLACEABLE);

	if (!ret)
		ret = evering_ops_follow(self->client.ops, self->path,
					 EVERING_WAIT_FOREVER);
	evering_server_close(self->server[0]);
	self->server[0] = NULL;
	return ret;
}

/* A meeting goes on where the last wait left it. */
TEST_F(upgrade, short_waits_meet_somebody)
{
	uint32_t i;

	ASSERT_EQ(0, follow_nobody(self, variant->backend));
	ASSERT_EQ(0, open_server(self, 1));
	for (i = 0; i < 1000 && !evering_predecessors(self->a); i++) {
		evering_ops_wait(self->client.ops, MSEC);
		while (evering_server_wait(self->server[1], EVERING_NOWAIT) > 0)
			;
	}
	EXPECT_EQ(1u, evering_predecessors(self->a));
	EXPECT_GT(1000u, i);
}

/* Or it is left. */
TEST_F(upgrade, a_table_may_be_closed_before_that)
{
	int fds = count_fds();

	ASSERT_EQ(0, follow_nobody(self, variant->backend));
	EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(self->client.ops, MSEC));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path, MSEC));
	EXPECT_EQ(-EPIPE, evering_ops_wait(self->client.ops, PLENTY));
	evering_close(self->a);
	self->a = NULL;
	self->client.ops = NULL;
	/* Of the listener there were some more. */
	EXPECT_GE(fds, count_fds());
}

static void submit_in_close(struct evering_ops *ops,
			    const struct evering_completion *c)
{
	const struct evering_op op = { .done = note_done };

	*(int *)c->user = evering_op_submit(ops, &op, NULL, PLENTY);
}

TEST_F(upgrade, nobody_is_met_while_it_closes)
{
	int ret = 0;
	const struct evering_op op = { .done = submit_in_close, .user = &ret };

	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path,
					EVERING_WAIT_FOREVER));
	ASSERT_EQ(0, ask(&self->client, &op, NULL));
	evering_ops_close(self->client.ops);
	self->client.ops = NULL;
	EXPECT_EQ(-EPIPE, ret);
}

/* One that waits for anything is told when something has ended. */
TEST_F(upgrade, what_runs_out_of_time_ends_a_wait)
{
	struct evering_op op = asks(2, NULL, 0, &self->o[2]);

	op.timeout_ns = 20 * MSEC;
	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, ask(&self->client, &op, NULL));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path,
					EVERING_WAIT_FOREVER));
	evering_server_close(self->server[0]);
	self->server[0] = NULL;
	EXPECT_LT(0, evering_ops_wait(self->client.ops, PLENTY));
	EXPECT_EQ(1u, self->o[2].times);
	EXPECT_EQ(-ETIMEDOUT, self->o[2].result);
}

static void *wake(void *ev)
{
	evering_wake(ev, EVERING_RX | EVERING_TX);
	return NULL;
}

TEST_F(upgrade, who_is_woken_meets_nobody)
{
	pthread_t thread;

	ASSERT_EQ(0, follow_nobody(self, variant->backend));
	ASSERT_EQ(0, pthread_create(&thread, NULL, wake, self->a));
	EXPECT_EQ(-EINTR, evering_ops_wait(self->client.ops, PLENTY));
	pthread_join(thread, NULL);
}

TEST_F(upgrade, who_does_not_outlive_its_peer_follows_nobody)
{
	ASSERT_EQ(0, open_client(self, variant->backend, 0));
	EXPECT_EQ(-EOPNOTSUPP,
		  evering_ops_follow(self->client.ops, self->path, PLENTY));
}

static void wait_in_callback(struct evering_ops *ops,
			     const struct evering_completion *c)
{
	note_done(ops, c);
	if (!over)
		((struct outcome *)c->user)->order =
			(unsigned int)-evering_ops_wait(ops, PLENTY);
}

/* Who waits in a callback is in the middle of something. */
TEST_F(upgrade, not_in_a_callback)
{
	struct evering_op op = asks(2, NULL, 0, &self->o[2]);

	op.done = wait_in_callback;
	ASSERT_EQ(0, open_client(self, variant->backend, EVERING_REPLACEABLE));
	ASSERT_EQ(0, evering_ops_follow(self->client.ops, self->path, PLENTY));
	ASSERT_EQ(0, ask(&self->client, &op, NULL));
	evering_ops_poll(self->client.ops);
	while (evering_server_wait(self->server[0], EVERING_NOWAIT) > 0)
		;
	evering_server_close(self->server[0]);
	self->server[0] = NULL;
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->client.ops));
	EXPECT_EQ(1u, self->o[2].times);
	EXPECT_EQ((unsigned int)EPIPE, self->o[2].order);
}

/* ------------------------------------------------------------------ under load */

#define MOST	1024u /* clients */
#define WORK	20000u /* operations of each */
#define AT_ONCE 4u

/* What clients and servers, which are processes, write down. */
struct sheet {
	uint32_t enough; /* clients may end */
	uint32_t asked[MOST];
	unsigned char begun[MOST][WORK];
	uint32_t n_pauses;
	int64_t pauses[1 << 14];
};

static struct sheet *sheet;
static uint32_t backend;
static uint32_t how_many; /* clients */
static char at[96]; /* where servers listen */

/* Each by its client's number and its own; now and then one is kept until the next. */
static void do_work(struct evering_client *client,
		    const struct evering_request *request)
{
	uint64_t *kept = client->user;
	uint32_t who = MOST;

	memcpy(&who, request->data, sizeof(who));
	if (who < MOST && request->opcode < WORK)
		__atomic_fetch_add(&sheet->begun[who][request->opcode], 1,
				   __ATOMIC_RELAXED);
	if (*kept)
		evering_op_answer(client->ops, *kept, 0, NULL, 0);
	*kept = 0;
	if (request->opcode % AT_ONCE == 1)
		*kept = request->id;
	else
		evering_op_answer(client->ops, request->id, 0, NULL, 0);
}

static int make_kept(struct evering_client *client)
{
	client->user = calloc(1, sizeof(uint64_t));
	return client->user ? 0 : -ENOMEM;
}

static void drop_kept(struct evering_client *client, int why)
{
	(void)why;
	free(client->user);
}

static struct evering_server *serving;

static void stop_serving(int signal)
{
	(void)signal;
	evering_server_stop(serving, EVERING_WAIT_FOREVER);
}

/* Whoever keeps something finishes it when the server is to end. */
static void finish_all(void)
{
	struct evering_client *client = NULL;
	uint64_t *kept;

	while ((client = evering_client_next(serving, client))) {
		kept = client->user;
		if (*kept)
			evering_op_answer(client->ops, *kept, 0, NULL, 0);
		*kept = 0;
	}
}

static int serve_until_stopped(void *arg)
{
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;
	struct evering_server_info info;
	int ret;

	(void)arg;
	p.request = do_work;
	p.open = make_kept;
	p.close = drop_kept;
	p.clients = MOST;
	if (evering_server_open(at, &p, &serving))
		return 1;
	signal(SIGTERM, stop_serving);
	do {
		ret = evering_server_wait(serving, EVERING_WAIT_FOREVER);
		evering_server_get_info(serving, &info);
		if (info.stopping)
			finish_all();
	} while (ret >= 0 || ret == -EINTR);
	signal(SIGTERM, SIG_IGN);
	evering_server_close(serving);
	return ret == -ESHUTDOWN ? 0 : 2;
}

struct worker {
	uint32_t who;
	struct evering *ev;
	struct evering_ops *ops;
	uint32_t in_flight;
	bool wrong;
};

static void note_work(struct evering_ops *ops,
		      const struct evering_completion *c)
{
	struct worker *w = c->user;

	(void)ops;
	w->in_flight--;
	w->wrong |= c->flags != EVERING_ANSWERED || c->result;
}

static void note_pause(int64_t ns)
{
	uint32_t n = __atomic_fetch_add(&sheet->n_pauses, 1, __ATOMIC_RELAXED);

	if (n < sizeof(sheet->pauses) / sizeof(sheet->pauses[0]))
		sheet->pauses[n] = ns;
}

/* Some operations, by as many servers as it takes.  0, or what failed. */
static int do_some(struct worker *w, uint32_t *next)
{
	struct evering_op op = { .data = &w->who,
				 .len = sizeof(w->who),
				 .done = note_work,
				 .user = w };
	uint32_t before = evering_predecessors(w->ev), n;
	int64_t start = now_ns();
	int ret = 0;

	for (n = 0; n < AT_ONCE && *next < WORK && !ret; n++) {
		op.opcode = *next;
		ret = evering_op_submit(w->ops, &op, NULL, PLENTY);
		*next += !ret;
		w->in_flight += !ret;
	}
	if (!ret)
		ret = evering_op_wait_all(w->ops, PLENTY);
	if (evering_predecessors(w->ev) != before)
		note_pause(now_ns() - start);
	return ret;
}

/* One that works, and rests a little; of very many, more. */
static int work_until_enough(void *arg)
{
	struct worker w = { .who = *(uint32_t *)arg };
	struct evering_params params =
		params_sized(backend, 64, ENTRIES, ARENA);
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	uint64_t random = w.who + 1;
	uint32_t next = 0;
	int ret;

	params.flags = EVERING_AWAIT;
	p.flags = EVERING_REPLACEABLE;
	p.depth = AT_ONCE;
	ret = evering_connect(at, &params, PLENTY, &w.ev);
	if (!ret)
		ret = evering_ops_open(w.ev, &p, &w.ops);
	if (!ret)
		ret = evering_ops_follow(w.ops, at, PLENTY);
	while (!ret && next < WORK &&
	       !__atomic_load_n(&sheet->enough, __ATOMIC_RELAXED)) {
		ret = do_some(&w, &next);
		__atomic_store_n(&sheet->asked[w.who], next, __ATOMIC_RELEASE);
		usleep(random_below(&random, how_many > 16 ? 200000 : 500));
	}
	evering_close(w.ev);
	return ret || w.wrong;
}

/* Each has had more answers than in @before, or all that it wanted. */
static bool all_went_on(const uint32_t *before)
{
	uint32_t i, asked;

	for (i = 0; i < how_many; i++) {
		asked = __atomic_load_n(&sheet->asked[i], __ATOMIC_ACQUIRE);
		if (asked == before[i] && asked < WORK)
			return false;
	}
	return true;
}

/* One server ends, in good order, and another one begins, and is met by all. */
static int next_server(pid_t *server)
{
	uint32_t before[MOST], i;
	int status;

	kill(*server, SIGTERM);
	status = reap(*server);
	if (status)
		return status;
	for (i = 0; i < how_many; i++)
		before[i] = __atomic_load_n(&sheet->asked[i], __ATOMIC_ACQUIRE);
	*server = spawn(serve_until_stopped, NULL);
	return EVENTUALLY(all_went_on(before)) ? 0 : -ETIMEDOUT;
}

/* EVERING_CLIENTS=n: so many, of which each works now and then. */
TEST_F_TIMEOUT(upgrade, servers_come_and_go, 600)
{
	const char *many = getenv("EVERING_CLIENTS");
	static const uint32_t none[MOST];
	uint32_t i, j, upgrades = slow(1) > 50 ? 2 : 10;
	pid_t server, clients[MOST];

	how_many = many ? (uint32_t)atoi(many) : 4;
	ASSERT_LE(how_many, MOST);
	socket_file(at, sizeof(at));
	backend = variant->backend;
	sheet = mmap(NULL, sizeof(*sheet), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)sheet);
	server = spawn(serve_until_stopped, NULL);
	for (i = 0; i < how_many; i++)
		clients[i] = spawn(work_until_enough, &i);
	ASSERT_TRUE(EVENTUALLY(all_went_on(none)));
	for (i = 0; i < upgrades; i++) {
		ASSERT_EQ(0, next_server(&server));
	}
	__atomic_store_n(&sheet->enough, 1, __ATOMIC_RELAXED);
	for (i = 0; i < how_many; i++) {
		EXPECT_EQ(0, reap(clients[i]));
	}
	kill(server, SIGTERM);
	EXPECT_EQ(0, reap(server));
	for (i = 0; i < how_many; i++)
		for (j = 0; j < WORK; j++) {
			ASSERT_EQ(j < sheet->asked[i], sheet->begun[i][j]);
		}
	if (sheet->n_pauses && sheet->n_pauses < 1 << 14) {
		int64_t median = median_of(sheet->pauses, sheet->n_pauses);

		TH_LOG("%u pauses of %u clients: median %lld us, p99 %lld us",
		       sheet->n_pauses, how_many, (long long)(median / USEC),
		       (long long)(sheet->pauses[sheet->n_pauses * 99 / 100] /
				   USEC));
	}
}

TEST_HARNESS_MAIN
