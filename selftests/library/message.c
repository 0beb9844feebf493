// SPDX-License-Identifier: MIT
/*
 * message.c: messages of any length, posts, and calls with an iovec each way.  Exact
 * lengths and order, credit that comes back, buffers that come home, and what a peer
 * that breaks the rules is told.
 */
#include "op.h"

#include <sys/epoll.h>

#define ARENA 65536u
#define A (&self->s[0])
#define B (&self->s[1])

FIXTURE(message)
{
	uint32_t backend;
	struct evering *ev[2];
	struct side s[2];
	struct duo duo;
};

BACKEND_VARIANTS(message);

/* What a side is opened with, beside the notebook: posts and messages that it stores. */
static int side_stores(struct side *s, struct evering *ev, uint32_t store,
		       bool inbox, evering_message_fn message)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	memset(s, 0, sizeof(*s));
	s->ev = ev;
	p.request = inbox ? NULL : note_request;
	p.cancelled = note_cancelled;
	p.context = s;
	p.store = store;
	p.message = message;
	return evering_ops_open(ev, &p, &s->ops);
}

static int reopen(struct evering *ev[2], struct side s[2], uint32_t backend,
		  const struct evering_params *p, uint32_t store)
{
	struct evering_params standard = params_sized(backend, 64, 64, ARENA);
	int i, ret;

	close_pair(ev);
	ret = evering_pair(p ? p : &standard, ev);
	for (i = 0; i < 2 && !ret; i++)
		ret = side_stores(&s[i], ev[i], store, i, NULL);
	if (!ret)
		pump(s);
	return ret;
}

FIXTURE_SETUP(message)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
	ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, NULL, 16));
}

FIXTURE_TEARDOWN(message)
{
	over = true;
	close_pair(self->ev);
	evering_close(self->duo.ev);
	kill_and_reap(self->duo.pid);
}

/* What message @n has at byte @i. */
static unsigned char byte_of(uint32_t n, uint64_t i)
{
	return (unsigned char)(n * 31 + i + (i >> 8) * 7);
}

static unsigned char *text(uint32_t n, uint64_t len)
{
	static unsigned char bytes[2 << 20];
	uint64_t i;

	for (i = 0; i < len && i < sizeof(bytes); i++)
		bytes[i] = byte_of(n, i);
	return bytes;
}

static bool is_text(uint32_t n, const void *data, uint64_t len)
{
	const unsigned char *bytes = data;
	uint64_t i;

	for (i = 0; i < len; i++)
		if (bytes[i] != byte_of(n, i))
			return false;
	return true;
}

static int send_one(struct side *s, uint32_t n, uint64_t len, int64_t timeout)
{
	struct iovec iov = { text(n, len), len };

	return evering_msg_send(s->ops, &iov, 1, timeout);
}

/* The next message is the @n-th, and @len bytes long; it is freed. */
static int take_one(struct side *s, uint32_t n, uint64_t len, int64_t timeout)
{
	struct evering_msg msg;
	int ret;

	ret = evering_msg_recv(s->ops, &msg, timeout);
	if (ret)
		return ret;
	if (msg.len != len || !msg.data || ((uintptr_t)msg.data & 15) ||
	    !is_text(n, msg.data, len))
		return __LINE__;
	ret = evering_msg_free(s->ops, &msg);
	return ret ? ret : evering_msg_free(s->ops, &msg) + EINVAL;
}

static bool all_home(struct side s[2])
{
	pump(s);
	return arena_whole(s[0].ev) && arena_whole(s[1].ev);
}

/* ------------------------------------------------------------------- lengths */

TEST_F(message, every_length_arrives_exactly)
{
	uint32_t len, n = 0, most = short_run() ? 300 : 3000;

	for (len = 0; len < most; len++, n++) {
		ASSERT_EQ(0, send_one(A, n, len, PLENTY));
		ASSERT_EQ(0, take_one(B, n, len, PLENTY));
	}
	for (len = 4096; len <= ARENA; len += len == ARENA ? 1 : 4079, n++) {
		if (len > ARENA - 4079 && len < ARENA)
			len = ARENA;
		ASSERT_EQ(0, send_one(B, n, len, PLENTY));
		ASSERT_EQ(0, take_one(A, n, len, PLENTY));
		pump(self->s);
	}
	EXPECT_EQ(0, send_one(A, n, ARENA - 1, PLENTY));
	EXPECT_EQ(0, take_one(B, n, ARENA - 1, PLENTY));
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, longer_than_the_arena_is_refused_before_anything_is_sent)
{
	EXPECT_EQ(-EMSGSIZE, send_one(A, 1, ARENA + 1, EVERING_WAIT_FOREVER));
	EXPECT_EQ(-EMSGSIZE, send_one(A, 1, 1 << 20, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, take_one(B, 1, 0, EVERING_NOWAIT));
	EXPECT_EQ(16u, info_of(A->ops).credit);
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, slots_of_any_size)
{
	struct evering_params p;
	uint32_t slot, len;

	for (slot = 64; slot <= EVERING_MAX_SLOT; slot *= 2) {
		p = params_sized(self->backend, slot, 16, ARENA);
		ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, &p, 4));
		for (len = 0; len <= slot + 2; len++) {
			ASSERT_EQ(0, send_one(A, len, len, PLENTY));
			ASSERT_EQ(0, take_one(B, len, len, PLENTY));
		}
	}
}

TEST_F(message, without_an_arena_only_what_fits_an_entry)
{
	struct evering_params p = params_sized(self->backend, 64, 16, 0);
	uint32_t most;

	ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, &p, 4));
	most = info_of(A->ops).max_data;
	EXPECT_EQ(0, send_one(A, 1, most, PLENTY));
	EXPECT_EQ(0, take_one(B, 1, most, PLENTY));
	EXPECT_EQ(-EMSGSIZE, send_one(A, 1, most + 1, PLENTY));
}

TEST_F(message, pieces_are_joined_in_order)
{
	struct iovec iov[1024];
	uint32_t i, n = 0, count;

	for (count = 0; count <= 1024; count = count ? count * 2 : 1, n++) {
		uint64_t at = 0;

		for (i = 0; i < count; i++) {
			iov[i].iov_base = text(n, 8192) + at;
			iov[i].iov_len = i % 9;
			at += iov[i].iov_len;
		}
		/* Nothing lies at NULL. */
		if (count > 2)
			iov[0].iov_base = NULL;
		ASSERT_EQ(0, evering_msg_send(A->ops, iov, (int)count, PLENTY));
		ASSERT_EQ(0, take_one(B, n, at, PLENTY));
	}
}

TEST_F(message, what_is_invalid_is_refused_and_nothing_is_sent)
{
	struct iovec iov[2] = { { text(1, 64), 8 }, { text(1, 64), 8 } };
	struct iovec nowhere = { NULL, 8 };
	struct iovec huge[2] = { { text(1, 64), SIZE_MAX },
				 { text(1, 64), 8 } };
	struct evering_msg msg = { 0 };
	struct evering_ops *ops = A->ops;

	EXPECT_EQ(-EINVAL, evering_msg_send(ops, iov, -1, 0));
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, iov, 1025, 0));
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, NULL, 2, 0));
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, &nowhere, 1, 0));
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, huge, 1, 0));
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, huge, 2, 0));
	huge[0].iov_len = SIZE_MAX / 2;
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, huge, 2, 0));
	EXPECT_EQ(-EINVAL, evering_msg_recv(ops, &msg, -2));
	EXPECT_EQ(-EINVAL, evering_msg_free(ops, &msg));
	msg.place = UINT32_MAX;
	EXPECT_EQ(-EINVAL, evering_msg_free(ops, &msg));
	EXPECT_EQ(-EAGAIN, evering_msg_recv(B->ops, &msg, EVERING_NOWAIT));
	EXPECT_EQ(16u, info_of(ops).credit);
	/* Times are looked at by those that wait. */
	while (!send_one(A, 1, 8, EVERING_NOWAIT))
		;
	EXPECT_EQ(-EINVAL, evering_msg_send(ops, iov, 2, -2));
}

/* --------------------------------------------------------------------- order */

TEST_F(message, order_is_kept_among_all_lengths)
{
	uint32_t len[16], i, lap;
	uint64_t rng = random_seed();

	for (lap = 0; lap < 100; lap++) {
		/* Of up to a quarter the sender need not have heard yet. */
		for (i = 0; i < 12; i++) {
			len[i] = (uint32_t)random_below(
				&rng, random_below(&rng, 2) ? 60 : 3000);
			ASSERT_EQ(0, send_one(A, i, len[i], EVERING_NOWAIT));
			/* Some have been taken from the ring before. */
			if (!random_below(&rng, 7))
				ASSERT_LE(0, evering_ops_poll(B->ops));
		}
		for (i = 0; i < 12; i++)
			ASSERT_EQ(0, take_one(B, i, len[i], EVERING_NOWAIT));
		pump(self->s);
	}
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, freed_in_any_order)
{
	struct evering_msg msg[16];
	uint32_t i, k, n, lap;

	for (lap = 0; lap < 20; lap++) {
		for (n = 0; n < 17; n++)
			if (send_one(A, n, n * 97 % 500, EVERING_NOWAIT))
				break;
		ASSERT_TRUE(n > 12 && n <= 16);
		for (i = 0; i < n; i++)
			ASSERT_EQ(0, evering_msg_recv(B->ops, &msg[i], 0));
		for (i = 0; i < n; i++) {
			k = (i * 11 + 5) % n;
			if (n % 11 == 0)
				k = i;
			ASSERT_EQ(k * 97 % 500, msg[k].len);
			ASSERT_TRUE(is_text(k, msg[k].data, msg[k].len));
			ASSERT_EQ(0, evering_msg_free(B->ops, &msg[k]));
			ASSERT_EQ(-EINVAL, evering_msg_free(B->ops, &msg[k]));
		}
		pump(self->s);
	}
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, posts_come_among_requests)
{
	struct evering_op post = { 0 }, op;
	struct evering_request r;
	struct outcome o[8] = { 0 };
	uint32_t i;

	for (i = 0; i < 8; i++) {
		post.opcode = 100 + i;
		post.data = &i;
		post.len = 4;
		op = asks(i, &i, 4, &o[i]);
		ASSERT_EQ(0, ask(A, &op, NULL));
		ASSERT_EQ(0, evering_op_post(A->ops, &post, EVERING_NOWAIT));
	}
	evering_ops_flush(A->ops);
	for (i = 0; i < 8; i++) {
		ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
		EXPECT_EQ(i, r.opcode);
		EXPECT_EQ(0u, r.flags);
		ASSERT_EQ(0, evering_op_answer(B->ops, r.id, (int)i, NULL, 0));
		ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
		EXPECT_EQ(100 + i, r.opcode);
		EXPECT_EQ(EVERING_POST, r.flags);
		EXPECT_EQ(0u, r.id);
		EXPECT_EQ(4u, r.len);
		EXPECT_EQ(0, memcmp(&i, r.data, 4));
		EXPECT_EQ(-ESTALE, evering_op_answer(B->ops, r.id, 0, NULL, 0));
	}
	pump(self->s);
	for (i = 0; i < 8; i++)
		EXPECT_EQ((int)i, o[i].result);
	EXPECT_EQ(0u, info_of(B->ops).held);
}

/* -------------------------------------------------------------------- credit */

TEST_F(message, no_more_are_sent_than_are_stored)
{
	static const uint32_t stores[] = { 0, 1, 2, 3, 5, 16, 64 };
	uint32_t i, k, lap, store;

	for (k = 0; k < sizeof(stores) / sizeof(*stores); k++) {
		store = stores[k];
		ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, NULL,
				    store));
		EXPECT_EQ(store, info_of(A->ops).store);
		for (lap = 0; lap < 5; lap++) {
			for (i = 0; i < store; i++) {
				ASSERT_EQ(0, send_one(A, i, i, 0));
				ASSERT_LE(0, evering_ops_poll(B->ops));
			}
			ASSERT_EQ(-EAGAIN, send_one(A, i, i, 0));
			ASSERT_EQ(-ETIMEDOUT, send_one(A, i, i, MSEC));
			ASSERT_EQ(store, info_of(B->ops).messages);
			for (i = 0; i < store; i++)
				ASSERT_EQ(0, take_one(B, i, i, 0));
			pump(self->s);
		}
	}
}

TEST_F(message, a_sender_without_credit_is_told_of_the_first_that_is_freed)
{
	struct evering_msg msg[17];
	short events;
	uint32_t i;

	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, send_one(A, i, 8, EVERING_NOWAIT));
	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, evering_msg_recv(B->ops, &msg[i], EVERING_NOWAIT));
	for (i = 0; i < 16; i++) {
		ASSERT_EQ(0, evering_msg_free(B->ops, &msg[i]));
		/* Before B sleeps in a loop of its own. */
		ASSERT_EQ(0, evering_ops_arm(B->ops, &events));
		ASSERT_LE(0, evering_ops_poll(A->ops));
		ASSERT_EQ(0, send_one(A, 16 + i, 8, EVERING_NOWAIT));
		ASSERT_EQ(-EAGAIN, send_one(A, 1, 8, EVERING_NOWAIT));
		ASSERT_EQ(0,
			  evering_msg_recv(B->ops, &msg[16], EVERING_NOWAIT));
	}
}

TEST_F(message, posts_that_nobody_takes_do_not_hold_up_answers)
{
	struct evering_op post = { .opcode = 1 };
	struct evering_request r;
	struct evering_completion c;
	struct evering_op op = asks(7, NULL, 0, NULL);
	uint32_t posted = 0;
	uint64_t id;

	/* Until B, who asks, has stored all it can of what A, who answers, posts. */
	while (!evering_op_post(B->ops, &post, EVERING_NOWAIT))
		posted++;
	EXPECT_EQ(16u, posted);
	ASSERT_EQ(0, evering_op_submit(A->ops, &op, &id, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_op_answer(B->ops, r.id, 5, NULL, 0));
	evering_ops_flush(B->ops);
	ASSERT_EQ(0, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(5, c.result);
	EXPECT_EQ(16u, A->n_got);
	/* A has a callback, and so is finished with them. */
	pump(self->s);
	EXPECT_EQ(0, evering_op_post(B->ops, &post, EVERING_NOWAIT));
}

TEST_F(message, posts_wait_for_evering_op_next)
{
	struct evering_op post = { .opcode = 1 };
	struct evering_request r;
	uint32_t i;

	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, evering_op_post(A->ops, &post, EVERING_NOWAIT));
	pump(self->s);
	ASSERT_EQ(-EAGAIN, evering_op_post(A->ops, &post, EVERING_NOWAIT));
	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	/* The last one's data is still the caller's, and so is its place. */
	pump(self->s);
	EXPECT_EQ(12u, info_of(A->ops).credit);
	EXPECT_EQ(-EAGAIN, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	pump(self->s);
	EXPECT_EQ(16u, info_of(A->ops).credit);
}

/* A message waits for room in the arena, which the receiver makes. */
struct receiver {
	struct side *s;
	uint32_t n;
	int64_t nap;
	int ret;
};

static void *receives(void *arg)
{
	struct receiver *r = arg;
	uint32_t i;

	for (i = 0; i < r->n && !r->ret; i++) {
		sleep_ns(r->nap);
		r->ret = take_one(r->s, 1, 40000, PLENTY);
	}
	return NULL;
}

TEST_F(message, one_that_finds_no_room_waits_for_it)
{
	struct receiver r = { B, 6, 10 * MSEC, 0 };
	pthread_t thread;
	uint32_t i;

	ASSERT_EQ(0, send_one(A, 1, 40000, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, send_one(A, 1, 40000, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, send_one(A, 1, 40000, MSEC));
	ASSERT_EQ(0, pthread_create(&thread, NULL, receives, &r));
	for (i = 1; i < r.n; i++)
		EXPECT_EQ(0, send_one(A, 1, 40000, PLENTY));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, r.ret);
	EXPECT_TRUE(all_home(self->s));
}

/* ---------------------------------------------------------------------- ends */

TEST_F(message, what_was_sent_before_the_end_is_received)
{
	struct evering_msg msg[4];
	uint32_t i;

	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, send_one(A, i, 30 * i, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_msg_recv(B->ops, &msg[0], EVERING_NOWAIT));
	evering_close(self->ev[0]);
	self->ev[0] = NULL;
	for (i = 1; i < 3; i++)
		ASSERT_EQ(0, evering_msg_recv(B->ops, &msg[i], PLENTY));
	ASSERT_EQ(0, evering_msg_recv(B->ops, &msg[3], EVERING_NOWAIT));
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(30 * i, msg[i].len);
		EXPECT_TRUE(is_text(i, msg[i].data, msg[i].len));
	}
	EXPECT_EQ(-EPIPE, take_one(B, 0, 0, PLENTY));
	EXPECT_EQ(-EPIPE, send_one(B, 0, 8, PLENTY));
	EXPECT_EQ(-EPIPE, send_one(B, 0, 3000, PLENTY));
	/* They are there until they are freed. */
	for (i = 0; i < 4; i++) {
		EXPECT_TRUE(is_text(i, msg[i].data, msg[i].len));
		EXPECT_EQ(0, evering_msg_free(B->ops, &msg[i]));
	}
	EXPECT_TRUE(arena_whole(B->ev));
}

TEST_F(message, waiting_messages_keep_a_loop_from_sleeping)
{
	short events;

	ASSERT_EQ(0, send_one(A, 1, 100, EVERING_NOWAIT));
	ASSERT_LT(0, evering_ops_poll(B->ops));
	EXPECT_EQ(1, evering_ops_arm(B->ops, &events));
	EXPECT_EQ(0, take_one(B, 1, 100, EVERING_NOWAIT));
	EXPECT_LE(0, evering_ops_poll(B->ops));
	EXPECT_EQ(0, evering_ops_arm(B->ops, &events));
}

TEST_F(message, a_message_that_nobody_takes_does_not_keep_a_loop_awake)
{
	struct evering_op post = { .opcode = 1 };
	short events;
	int i, ones = 0;

	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, send_one(A, 1, 10, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_op_post(A->ops, &post, EVERING_NOWAIT));
	}
	evering_ops_flush(A->ops);
	for (i = 0; i < 100; i++) {
		ASSERT_LE(0, evering_ops_poll(B->ops));
		ones += evering_ops_arm(B->ops, &events);
	}
	EXPECT_LT(0, ones);
	EXPECT_GE(8, ones);
}

TEST_F(message, who_was_refused_for_want_of_room_is_told_of_it)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	short events;
	uint64_t id;

	ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, NULL, 0));
	/* The ring is full; then it is not, but no message can be stored. */
	while (!evering_op_submit(A->ops, &op, &id, EVERING_NOWAIT))
		;
	EXPECT_EQ(-EAGAIN, send_one(A, 1, 8, EVERING_NOWAIT));
	ASSERT_LT(0, evering_ops_poll(B->ops));
	ASSERT_LE(0, evering_publish(B->ev));
	EXPECT_EQ(-EAGAIN, send_one(A, 1, 8, EVERING_NOWAIT));
	EXPECT_EQ(1, evering_ops_arm(A->ops, &events));
}

/* --------------------------------------------------------------- with callback */

static struct {
	uint32_t n;
	int ret;
} heard;

static void hears(struct evering_ops *ops, const struct evering_msg *msg,
		  void *context)
{
	struct iovec iov = { (void *)(uintptr_t)msg->data, msg->len };

	(void)context;
	heard.n++;
	if (!is_text(1, msg->data, msg->len))
		heard.ret = __LINE__;
	/* As an echo does. */
	if (!heard.ret)
		heard.ret = evering_msg_send(ops, &iov, 1, PLENTY);
	if (!heard.ret)
		heard.ret = evering_msg_free(ops, msg);
}

TEST_F(message, a_callback_gets_each_and_can_send)
{
	struct evering_params p = params_sized(self->backend, 64, 64, ARENA);
	struct evering_msg msg;
	uint32_t i;

	memset(&heard, 0, sizeof(heard));
	close_pair(self->ev);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	ASSERT_EQ(0, side_stores(A, self->ev[0], 8, true, NULL));
	ASSERT_EQ(0, side_stores(B, self->ev[1], 8, true, hears));
	pump(self->s);
	EXPECT_EQ(-EINVAL, evering_msg_recv(B->ops, &msg, EVERING_NOWAIT));
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, send_one(A, 1, i * 19, EVERING_NOWAIT));
		ASSERT_LT(0, evering_ops_poll(B->ops));
		ASSERT_EQ(i + 1, heard.n);
		ASSERT_EQ(0, heard.ret);
		ASSERT_EQ(0, take_one(A, 1, i * 19, EVERING_NOWAIT));
	}
	EXPECT_TRUE(all_home(self->s));
}

/* --------------------------------------------------------------------- posts */

TEST_F(message, posts_bring_buffers)
{
	struct evering_op post = { .opcode = 1, .flags = EVERING_GIVE };
	struct evering_request r;
	void *buf = evering_alloc(A->ev, 5000, 0);

	memcpy(buf, text(3, 5000), 5000);
	post.buf = buf;
	post.buf_len = 5000;
	ASSERT_EQ(0, evering_op_post(A->ops, &post, EVERING_NOWAIT));
	EXPECT_EQ(-ESTALE, evering_free(A->ev, buf));
	ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	EXPECT_EQ(EVERING_POST | EVERING_GIVE, r.flags);
	ASSERT_EQ(5000u, r.buf_len);
	EXPECT_TRUE(is_text(3, r.buf, 5000));
	/* It goes back with another one. */
	post.buf = r.buf;
	ASSERT_EQ(0, evering_op_post(B->ops, &post, EVERING_NOWAIT));
	EXPECT_EQ(-EINVAL, evering_op_post(B->ops, &post, EVERING_NOWAIT));
	ASSERT_LT(0, evering_ops_poll(A->ops));
	ASSERT_EQ(1u, A->n_got);
	EXPECT_EQ(buf, A->got[0].buf);
	EXPECT_EQ(0, evering_free(A->ev, buf));
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, invalid_posts_are_refused)
{
	struct outcome o = { 0 };
	struct evering_op good = { .opcode = 1 }, bad;
	void *buf = evering_alloc(A->ev, 100, 0);
	uint32_t most = info_of(A->ops).max_data;

#define REFUSED(error, member, value)                                          \
	do {                                                                   \
		bad = good;                                                    \
		bad.member = value;                                            \
		EXPECT_EQ(error, evering_op_post(A->ops, &bad, 0));            \
	} while (0)
	REFUSED(-EINVAL, reserved, 1);
	REFUSED(-EINVAL, timeout_ns, 1);
	REFUSED(-EINVAL, done, note_done);
	REFUSED(-EINVAL, user, &o);
	REFUSED(-EINVAL, ext, 1);
	REFUSED(-EINVAL, len, 1);
	REFUSED(-EINVAL, flags, EVERING_GIVE);
	REFUSED(-EINVAL, buf, buf);
	good.data = text(1, 300);
	REFUSED(-EMSGSIZE, len, most + 1);
	good.buf = buf;
	good.buf_len = 100;
	REFUSED(-EINVAL, flags, EVERING_LEND);
	good.flags = EVERING_GIVE;
	REFUSED(-EMSGSIZE, len, most - 15);
	REFUSED(-EINVAL, buf_len, 0);
	REFUSED(-EINVAL, buf, (char *)buf + 64);
	EXPECT_EQ(0, evering_free(A->ev, buf));
	EXPECT_EQ(16u, info_of(A->ops).credit);
	EXPECT_EQ(-EAGAIN, take_one(B, 1, 0, EVERING_NOWAIT));
}

/* --------------------------------------------------------------------- calls */

struct answerer {
	struct side *s;
	uint32_t n;
	int ret;
};

/* Answers as long a text as the request says in its first 4 bytes. */
static void *answers(void *arg)
{
	struct answerer *a = arg;
	struct evering_request r;
	const void *data;
	struct iovec iov;
	uint64_t len;
	uint32_t i, want;

	for (i = 0; i < a->n && !a->ret; i++) {
		a->ret = evering_op_next(a->s->ops, &r, PLENTY);
		if (a->ret)
			break;
		data = evering_request_bytes(&r, &len);
		memcpy(&want, data, 4);
		if (len != r.opcode)
			a->ret = __LINE__;
		iov.iov_base = malloc(want + 1);
		iov.iov_len = want;
		memset(iov.iov_base, (int)want, want);
		if (!a->ret)
			a->ret = evering_op_answerv(a->s->ops, r.id, 3, &iov, 1,
						    PLENTY);
		free(iov.iov_base);
		evering_ops_flush(a->s->ops);
	}
	return NULL;
}

TEST_F(message, calls_of_any_length_each_way)
{
	static const uint32_t sizes[] = { 4, 5, 43, 44, 45, 200, 10000, 65536 };
	struct answerer a = { .s = B, .n = 64 };
	struct iovec in[2], out[2];
	struct evering_completion c;
	unsigned char *room = malloc(ARENA + 1);
	pthread_t thread;
	uint32_t i, k, want;

	ASSERT_EQ(0, pthread_create(&thread, NULL, answers, &a));
	for (i = 0; i < 64; i++) {
		want = sizes[i / 8] == 4 ? 0 : sizes[i / 8];
		in[0] = (struct iovec){ &want, 4 };
		in[1] = (struct iovec){ text(1, sizes[i % 8]),
					sizes[i % 8] - 4 };
		out[0] = (struct iovec){ room, 5 };
		out[1] = (struct iovec){ room + 5, ARENA - 5 };
		ASSERT_EQ(0, evering_op_callv(A->ops, sizes[i % 8], in, 2, out,
					      2, &c, PLENTY));
		ASSERT_EQ(3, c.result);
		ASSERT_EQ(want, c.buf_len);
		ASSERT_EQ(NULL, c.buf);
		ASSERT_EQ(EVERING_ANSWERED, c.flags);
		for (k = 0; k < want; k++)
			ASSERT_EQ((unsigned char)want, room[k]);
	}
	pthread_join(thread, NULL);
	EXPECT_EQ(0, a.ret);
	EXPECT_TRUE(all_home(self->s));
	free(room);
}

TEST_F(message, an_answer_that_does_not_fit_is_cut_and_told)
{
	struct answerer a = { .s = B, .n = 2 };
	uint32_t want = 3000, i;
	struct iovec in = { &want, 4 }, out;
	struct evering_completion c;
	unsigned char room[3000];
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, answers, &a));
	for (i = 0; i < 2; i++) {
		want = i ? 30 : 3000;
		out = (struct iovec){ room, want - 1 };
		EXPECT_EQ(-EMSGSIZE, evering_op_callv(A->ops, 4, &in, 1, &out,
						      1, &c, PLENTY));
		EXPECT_EQ(want, c.buf_len);
		EXPECT_EQ(3, c.result);
		EXPECT_EQ(EVERING_ANSWERED, c.flags);
		EXPECT_EQ((unsigned char)want, room[want - 2]);
	}
	pthread_join(thread, NULL);
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, a_call_that_nobody_answers_ends_and_its_buffer_comes_home)
{
	struct iovec in = { text(1, 5000), 5000 };
	struct evering_completion c;
	struct evering_request r;

	EXPECT_EQ(0, evering_op_callv(A->ops, 1, &in, 1, NULL, 0, &c, MSEC));
	EXPECT_EQ(-ETIMEDOUT, c.result);
	EXPECT_TRUE(c.flags & EVERING_ABANDONED);
	EXPECT_FALSE(arena_whole(A->ev));
	ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	EXPECT_EQ(5000u, r.buf_len);
	EXPECT_TRUE(is_text(1, r.buf, 5000));
	EXPECT_EQ(0, evering_op_answerv(B->ops, r.id, 0, &in, 1, PLENTY));
	EXPECT_TRUE(all_home(self->s));
	EXPECT_EQ(-EMSGSIZE,
		  evering_op_callv(A->ops, 1,
				   &(struct iovec){ text(1, 9), ARENA + 1 }, 1,
				   NULL, 0, &c, PLENTY));
	EXPECT_EQ(-EINVAL,
		  evering_op_callv(A->ops, 1, &in, -1, NULL, 0, &c, 0));
	EXPECT_EQ(-EINVAL, evering_op_callv(A->ops, 1, &in, 1, NULL, 1, &c, 0));
	EXPECT_EQ(-EINVAL,
		  evering_op_callv(A->ops, 1, &in, 1, NULL, 0, &c, -2));
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(message, an_answer_waits_for_room_and_the_request_stays)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct evering_request r;
	struct evering_completion c;
	struct iovec iov = { text(1, 5000), 5000 };
	void *all = evering_alloc(B->ev, ARENA, 0);
	uint64_t id;

	ASSERT_EQ(0, evering_op_submit(A->ops, &op, &id, 0));
	ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, evering_op_answerv(B->ops, r.id, 1, &iov, 1, 0));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_op_answerv(B->ops, r.id, 1, &iov, 1, MSEC));
	EXPECT_EQ(-EINVAL, evering_op_answerv(B->ops, r.id, 1, &iov, -1, 0));
	EXPECT_EQ(-EINVAL, evering_op_answerv(B->ops, r.id, 1, &iov, 1, -2));
	iov.iov_len = ARENA + 1;
	EXPECT_EQ(-EMSGSIZE, evering_op_answerv(B->ops, r.id, 1, &iov, 1, 0));
	iov.iov_len = 5000;
	EXPECT_EQ(0, evering_free(B->ev, all));
	EXPECT_EQ(0, evering_op_answerv(B->ops, r.id, 1, &iov, 1, 0));
	EXPECT_EQ(-ESTALE, evering_op_answerv(B->ops, r.id, 1, &iov, 1, 0));
	ASSERT_EQ(0, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	EXPECT_EQ(5000u, c.buf_len);
	EXPECT_TRUE(is_text(1, c.buf, 5000));
	EXPECT_EQ(0, evering_free(A->ev, c.buf));
	pump(self->s);
	EXPECT_TRUE(arena_whole(A->ev));
	EXPECT_TRUE(arena_whole(B->ev));
}

/* An answer that is made of the request, which lies where the answer could be written. */
TEST_F(message, an_answer_may_quote_its_request)
{
	struct evering_params p = params_sized(self->backend, 64, 64, ARENA);
	struct iovec in = { text(2, 4000), 4000 }, iov[2];
	struct evering_op op = { .opcode = 1, .flags = EVERING_LEND };
	struct evering_completion c;
	struct evering_request r;
	unsigned char *got;
	uint64_t id;

	p.flags = EVERING_SHARED_ARENA;
	ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, &p, 16));
	op.buf = evering_alloc(A->ev, 8000, 0);
	op.buf_len = 8000;
	memcpy(op.buf, in.iov_base, 4000);
	ASSERT_EQ(0, evering_op_submit(A->ops, &op, &id, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
	iov[0] = (struct iovec){ (void *)(uintptr_t) "quoted: ", 8 };
	iov[1] = (struct iovec){ r.buf, 4000 };
	ASSERT_EQ(0, evering_op_answerv(B->ops, r.id, 0, iov, 2, PLENTY));
	ASSERT_EQ(0, evering_op_wait(A->ops, id, &c, EVERING_NOWAIT));
	ASSERT_EQ(4008u, c.buf_len);
	got = c.buf;
	EXPECT_EQ(0, memcmp(got, "quoted: ", 8));
	EXPECT_TRUE(is_text(2, got + 8, 4000));
	if (c.buf != op.buf)
		EXPECT_EQ(0, evering_free(A->ev, c.buf));
	EXPECT_EQ(0, evering_free(A->ev, op.buf));
	EXPECT_TRUE(all_home(self->s));
}

/* Takes a post in the midst of another wait for one. */
static void takes_a_post(struct evering_ops *ops,
			 const struct evering_completion *c)
{
	struct evering_request r;

	if (!c->result)
		*(int *)c->user = evering_op_next(ops, &r, EVERING_NOWAIT);
}

TEST_F(message, posts_taken_in_callbacks_are_finished_with)
{
	struct evering_op post = { .opcode = 1 }, op = { .opcode = 2 };
	struct evering_request r;
	int lap, taken;

	op.done = takes_a_post;
	op.user = &taken;
	for (lap = 0; lap < 40; lap++) {
		taken = -1;
		ASSERT_EQ(0,
			  evering_op_submit(B->ops, &op, NULL, EVERING_NOWAIT));
		pump(self->s);
		ASSERT_EQ(1u, A->n_got);
		A->n_got = 0;
		ASSERT_EQ(0, evering_op_post(A->ops, &post, EVERING_NOWAIT));
		ASSERT_EQ(0,
			  evering_op_answer(A->ops, A->got[0].id, 0, NULL, 0));
		ASSERT_EQ(0, evering_op_post(A->ops, &post, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_op_next(B->ops, &r, EVERING_NOWAIT));
		ASSERT_EQ(0, taken);
		ASSERT_EQ(-EAGAIN, evering_op_next(B->ops, &r, EVERING_NOWAIT));
		pump(self->s);
	}
}

TEST_F(message, a_message_is_freed_once_whoever_has_its_place_now)
{
	struct evering_msg first, second;
	uint32_t len;

	for (len = 10; len < 4000; len += 3000) {
		ASSERT_EQ(0, send_one(A, 1, len, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_msg_recv(B->ops, &first, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_msg_free(B->ops, &first));
		ASSERT_EQ(0, send_one(A, 2, len, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_msg_recv(B->ops, &second, EVERING_NOWAIT));
		EXPECT_EQ(-EINVAL, evering_msg_free(B->ops, &first));
		EXPECT_TRUE(is_text(2, second.data, len));
		EXPECT_EQ(0, evering_msg_free(B->ops, &second));
		pump(self->s);
	}
}

/* ------------------------------------------------------------- two processes */

struct echo {
	uint32_t n;
	uint32_t policy;
};

static int echoes(struct evering *ev, void *arg)
{
	const struct echo *e = arg;
	struct evering_ops *ops;
	struct evering_msg msg;
	struct iovec iov;
	uint32_t i;
	int ret;

	evering_set_policy(ev, e->policy, 20000);
	ret = evering_ops_open(ev, NULL, &ops);
	for (i = 0; i < e->n && !ret; i++) {
		ret = evering_msg_recv(ops, &msg, PLENTY);
		if (ret)
			break;
		iov.iov_base = (void *)(uintptr_t)msg.data;
		iov.iov_len = msg.len;
		ret = evering_msg_send(ops, &iov, 1, PLENTY);
		if (!ret)
			ret = evering_msg_free(ops, &msg);
	}
	/* Until the other side has all of it. */
	while (!ret)
		ret = evering_ops_wait(ops, PLENTY) < 0;
	return i == e->n ? 0 : -ret;
}

TEST_F(message, two_processes_whatever_the_policy)
{
	struct echo e = { .n = short_run() ? 200 : 2000 };
	struct evering_params p[2];
	uint64_t rng = random_seed();
	uint64_t len[8];
	uint32_t i, sent, got;

	p[0] = params_sized(self->backend, 64, 16, ARENA);
	p[1] = p[0];
	for (e.policy = 0; e.policy <= EVERING_BUSY; e.policy++) {
		ASSERT_EQ(0, duo_start(&self->duo, true, p, echoes, &e));
		evering_set_policy(self->duo.ev, e.policy, 20000);
		memset(A, 0, sizeof(*A));
		ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &A->ops));
		for (i = sent = got = 0; got < e.n; i++) {
			/* Some under way, now and then none. */
			if (sent < e.n && sent - got < 1 + i % 3) {
				len[sent % 8] =
					random_below(&rng, i % 5 ? 100 : 15000);
				ASSERT_EQ(0, send_one(A, sent, len[sent % 8],
						      PLENTY));
				sent++;
			} else {
				ASSERT_EQ(0, take_one(A, got, len[got % 8],
						      PLENTY));
				got++;
			}
		}
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
		EXPECT_EQ(0, reap(self->duo.pid));
		self->duo.pid = 0;
	}
}

TEST_HARNESS_MAIN
