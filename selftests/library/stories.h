/* SPDX-License-Identifier: MIT */
/*
 * stories.h: what the victims of kill.c do until they are killed: stories, each
 * short, that together take a message and a buffer everywhere they can come to.
 *
 * A victim notes down, in memory that outlives it, what it has begun and what it has
 * done.  That the survivor does its part is kill.c's.
 */
#ifndef EVERING_SELFTESTS_STORIES_H
#define EVERING_SELFTESTS_STORIES_H

#include "op.h"

#include <sys/ioctl.h>

#define ENTRIES	    16
#define SLOT	    64
#define LEN	    60u /* of an entry */
#define DATA	    20u /* of an operation */
#define BUFFER	    256u
#define ARENA	    65536u
#define MOST	    32
#define LANES	    3
#define SALT	    0x5eedu
#define SALT_BUFFER 0xb0ffu
/* Results are the opcode and one of these. */
#define ANSWER	    500

/* What the victim notes down. */
enum {
	SENT,	  /* entries */
	TAKEN,	  /* entries, or what a table's callbacks are told of */
	ASKED,	  /* operations */
	ANSWERED, /* requests */
	TOLD,	  /* messages */
	MET,
	CLOSED,
	STANDS, /* in for another */
	ACTS,
};

struct log {
	bool ready;   /* all is set up */
	bool go;      /* the survivor to the victim */
	bool running; /* the story has begun */
	bool over;    /* it has ended */
	int failed;   /* line of what went wrong with the victim; with @error */
	int error;
	uint32_t began[ACTS];
	uint32_t did[ACTS];
};

static struct log *notes;

/* Memory is written in the order of the program, if the compiler leaves it. */
#define IN_ORDER() __atomic_signal_fence(__ATOMIC_SEQ_CST)

static void note(uint32_t *counter, uint32_t n)
{
	IN_ORDER();
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
	IN_ORDER();
}

static bool look(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static void tell(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------- the victim */

struct victim {
	struct evering *ev;
	struct evering_ops *ops;
	struct evering *lane[LANES];
	struct evering_listener *listener;
	struct evering_server *server;
	bool ended; /* a client of its */
	uint32_t entries[MOST][LEN / 4];
	struct evering_request got[MOST];
	unsigned int n_got;
	unsigned int asked;
	unsigned int told; /* messages */
	unsigned int heard; /* of the survivor's */
	uint32_t texts[MOST][BUFFER / 4];
	void *buffer[MOST];
	/* From the survivor. */
	struct evering_params p;
	bool has_inbox;
	const char *path;
	int sock;
};

static struct victim v;

static __attribute__((noreturn)) void victim_failed(int line, int error)
{
	notes->error = error;
	notes->failed = line;
	await_death();
}

#define NEED(ok)                                    \
	do {                                        \
		if (!(ok))                          \
			victim_failed(__LINE__, 0); \
	} while (0)

/* @n times @what at once; must succeed. */
#define DO_MANY(what, n, call)                         \
	do {                                           \
		int ret_;                              \
                                                       \
		note(&notes->began[what], n);          \
		ret_ = (call);                         \
		if (ret_ < 0)                          \
			victim_failed(__LINE__, ret_); \
		note(&notes->did[what], n);            \
	} while (0)

#define DO(what, call) DO_MANY(what, 1, call)

static bool intact(const void *buf, size_t len)
{
	return check_entry(buf, len, *(const uint32_t *)buf, SALT_BUFFER);
}

/* Messages are short, in an entry, and long, in a buffer, by turns. */
static size_t message_len(uint32_t n)
{
	return n & 1 ? BUFFER : DATA;
}

static bool is_message(const struct evering_msg *msg, uint32_t n)
{
	return msg->len == message_len(n) &&
	       check_entry(msg->data, msg->len, n, SALT_BUFFER);
}

static void victim_asked(struct evering_ops *ops,
			 const struct evering_request *r, void *context)
{
	(void)ops;
	(void)context;
	note(&notes->did[TAKEN], 1);
	NEED(v.n_got < MOST && r->opcode == v.n_got);
	NEED(check_entry(r->data, DATA, r->opcode, SALT));
	NEED(!r->buf || intact(r->buf, r->buf_len));
	v.got[v.n_got++] = *r;
}

static void victim_told(struct evering_ops *ops,
			const struct evering_completion *c)
{
	(void)ops;
	(void)c;
}

static int victim_opens(void)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	p.request = v.has_inbox ? NULL : victim_asked;
	return evering_ops_open(v.ev, &p, &v.ops);
}

static void victim_writes(void)
{
	unsigned int i;

	for (i = 0; i < MOST; i++) {
		fill_entry(v.entries[i], LEN, i, SALT);
		fill_entry(v.texts[i], BUFFER, i, SALT_BUFFER);
	}
}

/* Buffers that are there before the story begins, so that it is short. */
static void victim_prepares(bool table)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		v.buffer[i] = evering_alloc(v.ev, BUFFER, 0);
		NEED(v.buffer[i]);
		fill_entry(v.buffer[i], BUFFER, 1000 + i, SALT_BUFFER);
	}
	if (!table)
		return;
	NEED(!victim_opens());
	while (!info_of(v.ops).depth)
		NEED(evering_ops_wait(v.ops, PLENTY) > 0);
}

static struct evering_op victims_op(unsigned int how, void *buf)
{
	struct evering_op op = hands(how, buf, how ? BUFFER : 0, NULL);

	op.opcode = v.asked;
	op.data = v.entries[v.asked];
	op.len = DATA;
	op.done = victim_told;
	v.asked++;
	return op;
}

/* ------------------------------------------------------- stories: sent, received */

static void story_send(void)
{
	int i;

	for (i = 0; i < 3; i++)
		DO(SENT, evering_send(v.ev, v.entries[i], LEN, EVERING_NOWAIT));
}

static void story_send_bulk(void)
{
	DO_MANY(SENT, 5, evering_send_bulk(v.ev, v.entries, LEN, 5, 0));
}

static int commit_two(void)
{
	void *one = evering_reserve(v.ev), *two = evering_reserve_at(v.ev, 1);

	NEED(one && two);
	memcpy(two, v.entries[1], LEN);
	memcpy(one, v.entries[0], LEN);
	evering_commit_many(v.ev, 2);
	return 0;
}

static void story_commit(void)
{
	DO_MANY(SENT, 2, commit_two());
	evering_flush(v.ev);
}

/* By the victim's own system call. */
static void story_ring(void)
{
	const uint64_t one = 1;
	struct evering_bell bell;

	DO_MANY(SENT, 2, commit_two());
	NEED(evering_flush_begin(v.ev, &bell) == 1);
	if (bell.command)
		NEED(ioctl(bell.fd, bell.command, EVERING_RX) >= 0);
	else
		NEED(write(bell.fd, &one, sizeof(one)) == sizeof(one));
}

/* Receives an entry, which is taken up in this call, if there is one. */
static int take(uint32_t *entry, int64_t timeout_ns)
{
	int ret;

	if (notes->began[TAKEN] == notes->did[TAKEN])
		note(&notes->began[TAKEN], 1);
	ret = evering_recv(v.ev, entry, LEN, timeout_ns);
	if (!ret)
		note(&notes->did[TAKEN], 1);
	return ret;
}

static void story_receive(void)
{
	uint32_t entry[LEN / 4];
	uint32_t n;

	for (n = 0; n < 6; n++) {
		NEED(!take(entry, EVERING_NOWAIT));
		NEED(check_entry(entry, LEN, n, SALT));
	}
}

static int begin(uint32_t count)
{
	evering_begin(v.ev, count);
	return 0;
}

static void story_release(void)
{
	uint32_t entries[6][LEN / 4];
	uint32_t n;

	DO_MANY(TAKEN, 6,
		evering_recv_bulk(v.ev, entries, LEN, 6, EVERING_NOWAIT));
	for (n = 0; n < 6; n++)
		NEED(check_entry(entries[n], LEN, n, SALT));
	NEED(evering_peek_at(v.ev, 1));
	DO_MANY(TAKEN, 2, begin(2));
	evering_release_many(v.ev, 2);
	NEED(!evering_publish(v.ev));
	NEED(!evering_wake(v.ev, EVERING_TX));
	NEED(evering_pwait(v.ev, EVERING_TX, EVERING_WAIT_FOREVER, NULL) > 0);
}

static void story_sleep(void)
{
	uint32_t entry[LEN / 4];
	uint32_t n;

	for (n = 0; n < 2; n++) {
		NEED(!take(entry, EVERING_WAIT_FOREVER));
		NEED(check_entry(entry, LEN, n, SALT));
	}
}

static void be_adaptive(void)
{
	NEED(!evering_set_policy(v.ev, EVERING_ADAPTIVE, EVERING_SPIN_NS));
}

static void story_sleep_for_many(void)
{
	uint32_t entries[2][LEN / 4];
	int ret;

	note(&notes->began[TAKEN], 2);
	ret = evering_recv_bulk(v.ev, entries, LEN, 2, EVERING_WAIT_FOREVER);
	NEED(ret > 0);
	note(&notes->did[TAKEN], (uint32_t)ret);
	NEED(check_entry(entries[0], LEN, 0, SALT));
}

static void story_sleep_for_ever(void)
{
	evering_wait(v.ev, EVERING_RX, EVERING_WAIT_FOREVER);
	NEED(false);
}

static void story_arm(void)
{
	struct pollfd fd = { .fd = evering_fd(v.ev) };
	struct evering_fate_info fate;
	uint32_t entry[LEN / 4];
	int ret;

	fd.events = evering_events(v.ev, EVERING_RX);
	while (take(entry, EVERING_NOWAIT)) {
		ret = evering_arm(v.ev, EVERING_RX);
		NEED(ret >= 0);
		if (!ret)
			NEED(poll(&fd, 1, -1) == 1);
	}
	NEED(check_entry(entry, LEN, 0, SALT));
	evering_arm(v.ev, EVERING_RX);
	evering_disarm(v.ev, EVERING_RX);
	NEED(evering_fate(v.ev, &fate) == -EBUSY);
}

static void fill_ring(void)
{
	int i;

	for (i = 0; i < ENTRIES; i++)
		DO(SENT, evering_send(v.ev, v.entries[i], LEN, EVERING_NOWAIT));
}

static void story_wait_for_space(void)
{
	DO(SENT,
	   evering_send(v.ev, v.entries[ENTRIES], LEN, EVERING_WAIT_FOREVER));
}

static void story_wait_for_more_space(void)
{
	DO(SENT, evering_send_bulk(v.ev, v.entries[ENTRIES], LEN, 1,
				   EVERING_WAIT_FOREVER));
}

/* An entry of its own kind: where the buffer is. */
struct where {
	uint64_t offset, len;
};

static void story_allocate(void)
{
	struct where where;
	void *one, *two;

	one = evering_alloc(v.ev, 100, 0);
	two = evering_alloc(v.ev, BUFFER, 0);
	NEED(one && two && !evering_free(v.ev, one));
	memcpy(two, v.buffer[0], BUFFER);
	where.offset = evering_offset(v.ev, two);
	where.len = BUFFER;
	DO(SENT, evering_send(v.ev, &where, sizeof(where), 0));
	NEED(!evering_free(v.ev, v.buffer[0]));
}

static int close_this(struct evering *ev)
{
	evering_close(ev);
	return 0;
}

static int close_endpoint(void)
{
	return close_this(v.ev);
}

static void story_close(void)
{
	NEED(evering_peer(v.ev) == EVERING_PEER_ALIVE);
	DO(SENT, evering_send(v.ev, v.entries[0], LEN, EVERING_NOWAIT));
	DO(CLOSED, close_endpoint());
}

static int stand_in(void)
{
	evering_relay(v.ev);
	return 0;
}

static int close_as(int how)
{
	return evering_close_as(v.ev, how);
}

/* As a relay does: what it takes up stays in the ring until others are done with it. */
static void story_stand_in(void)
{
	uint32_t n;

	NEED(evering_arena_part(v.ev, 4096) && !evering_want_room(v.ev, 2));
	DO(STANDS, stand_in());
	for (n = 0; n < 6; n++) {
		NEED(evering_peek_at(v.ev, n));
		DO(TAKEN, begin(n + 1));
		evering_look_ahead(v.ev, n + 1);
	}
	NEED(evering_room(v.ev) > 2);
	evering_release_many(v.ev, 6);
	evering_look_ahead(v.ev, 0);
	DO(CLOSED, close_as(EVERING_PEER_CLOSED));
}

/* ------------------------------------------------------------ stories: operations */

static void submit(unsigned int how, void *buf)
{
	struct evering_op op = victims_op(how, buf);

	DO(ASKED, evering_op_submit(v.ops, &op, NULL, EVERING_NOWAIT));
}

static void story_submit(void)
{
	submit(0, NULL);
	submit(0, NULL);
	evering_ops_flush(v.ops);
}

static void story_lend(void)
{
	submit(EVERING_LEND, v.buffer[0]);
	submit(EVERING_LEND, v.buffer[1]);
	evering_ops_flush(v.ops);
}

static void story_give(void)
{
	submit(EVERING_GIVE, v.buffer[0]);
	submit(EVERING_GIVE, v.buffer[1]);
	evering_ops_flush(v.ops);
}

/* Asks, sleeps until it is answered, and is done with what came. */
static void call(unsigned int how, void *buf)
{
	struct evering_op op = victims_op(how, buf);
	struct evering_completion c;

	DO(ASKED, evering_op_call(v.ops, &op, &c, EVERING_WAIT_FOREVER));
	NEED(c.result == ANSWER + (int)op.opcode);
	NEED(c.flags & EVERING_ANSWERED);
	if (c.buf) {
		NEED(intact(c.buf, c.buf_len));
		NEED(!evering_free(v.ev, c.buf));
	}
	if (how == EVERING_LEND && c.buf != buf)
		NEED(!evering_free(v.ev, buf));
}

static void story_call(void)
{
	call(0, NULL);
	call(0, NULL);
}

/* The second time, where the first one was. */
static void story_call_and_lend(void)
{
	void *buf;

	call(EVERING_LEND, v.buffer[0]);
	buf = evering_alloc(v.ev, BUFFER, 0);
	NEED(buf == v.buffer[0]);
	memcpy(buf, v.buffer[1], BUFFER);
	call(EVERING_LEND, buf);
}

static void story_call_and_give(void)
{
	call(EVERING_GIVE, v.buffer[0]);
	evering_ops_poll(v.ops);
}

static void story_wait(void)
{
	struct evering_completion c;
	struct evering_op op;
	uint64_t id[3];
	int i;

	for (i = 0; i < 3; i++) {
		op = victims_op(0, NULL);
		op.done = NULL;
		DO(ASKED,
		   evering_op_submit(v.ops, &op, &id[i], EVERING_NOWAIT));
	}
	NEED(!evering_op_wait(v.ops, id[1], &c, EVERING_WAIT_FOREVER));
	NEED(c.result == ANSWER + 1);
	NEED(!evering_op_wait_any(v.ops, &c, EVERING_WAIT_FOREVER));
	NEED(c.result == ANSWER);
	NEED(!evering_op_wait_all(v.ops, EVERING_WAIT_FOREVER));
	NEED(!evering_op_done(v.ops, id[2], &c) && c.result == ANSWER + 2);
}

static void story_cancel(void)
{
	struct evering_op op = victims_op(EVERING_LEND, v.buffer[0]);
	uint64_t id;

	/* This one never goes. */
	v.asked--;
	op.opcode = 99;
	NEED(!evering_op_prepare(v.ops, &op, &id));
	NEED(!evering_op_cancel(v.ops, id, 0));

	op = victims_op(EVERING_LEND, v.buffer[0]);
	NEED(!evering_op_prepare(v.ops, &op, &id));
	DO(ASKED, evering_op_start(v.ops, id, EVERING_NOWAIT));
	NEED(!evering_op_cancel(v.ops, id, EVERING_CANCEL_TELL));

	op = victims_op(EVERING_LEND, v.buffer[1]);
	DO(ASKED, evering_op_submit(v.ops, &op, &id, EVERING_NOWAIT));
	NEED(!evering_op_cancel(v.ops, id,
				EVERING_CANCEL_TELL | EVERING_CANCEL_DETACH));

	op = victims_op(EVERING_LEND, v.buffer[2]);
	op.timeout_ns = 1;
	DO(ASKED, evering_op_submit(v.ops, &op, NULL, EVERING_NOWAIT));
	NEED(evering_ops_poll(v.ops) > 0);
}

/* What the survivor asked before the story began. */
static void take_requests(unsigned int count)
{
	while (v.n_got < count)
		NEED(evering_ops_wait(v.ops, EVERING_WAIT_FOREVER) > 0);
}

static void answer(unsigned int i)
{
	DO(ANSWERED, evering_op_answer(v.ops, v.got[i].id, ANSWER + (int)i,
				       v.entries[i], DATA));
}

static void answer_buffer(unsigned int i, void *buf)
{
	DO(ANSWERED, evering_op_answer_buffer(v.ops, v.got[i].id,
					      ANSWER + (int)i, buf, BUFFER));
}

static void story_answer(void)
{
	take_requests(3);
	answer(2);
	answer(0);
	evering_ops_flush(v.ops);
	answer(1);
}

static void story_answer_and_give(void)
{
	take_requests(2);
	answer_buffer(0, v.buffer[0]);
	answer_buffer(1, v.buffer[1]);
	evering_ops_flush(v.ops);
}

static void story_answer_in_place(void)
{
	void *buf;

	take_requests(2);
	buf = evering_op_answer_alloc(v.ops, v.got[0].id, BUFFER);
	NEED(buf == v.got[0].buf);
	fill_entry(buf, BUFFER, 2000, SALT_BUFFER);
	answer_buffer(0, buf);
	evering_ops_flush(v.ops);
}

/* With an answer, with a request, and only its place. */
static void story_give_back(void)
{
	unsigned int i;

	take_requests(4);
	answer_buffer(0, v.got[0].buf);
	answer(1);
	submit(EVERING_GIVE, v.got[1].buf);
	for (i = 2; i < 4; i++)
		NEED(!evering_free(v.ev, v.got[i].buf));
	answer(2);
	NEED(evering_ops_poll(v.ops) >= 0);
	evering_ops_flush(v.ops);
}

static void story_loop(void)
{
	struct pollfd fd = { .fd = evering_fd(v.ev) };
	int ret;

	NEED(evering_ops_timeout(v.ops) == EVERING_WAIT_FOREVER);
	while (!v.n_got) {
		ret = evering_ops_poll(v.ops);
		if (!ret)
			ret = evering_ops_arm(v.ops, &fd.events);
		NEED(ret >= 0);
		if (!ret)
			NEED(poll(&fd, 1, -1) == 1);
	}
	answer(0);
	evering_ops_flush(v.ops);
}

static void story_next(void)
{
	struct evering_request r;

	NEED(!evering_op_next(v.ops, &r, EVERING_WAIT_FOREVER));
	victim_asked(v.ops, &r, NULL);
	NEED(!evering_op_cancelled(v.ops, r.id));
	answer(0);
	evering_ops_flush(v.ops);
}

static void story_open_table(void)
{
	NEED(!victim_opens());
	while (!info_of(v.ops).depth)
		NEED(evering_ops_poll(v.ops) >= 0);
	submit(0, NULL);
}

static void story_close_table(void)
{
	take_requests(2);
	submit(EVERING_LEND, v.buffer[0]);
	submit(EVERING_GIVE, v.buffer[1]);
	answer(0);
	DO(CLOSED, close_endpoint());
}

/* -------------------------------------------- stories: what is not answered */

static int send_message(int64_t timeout_ns)
{
	struct iovec iov[2];

	/* In two pieces, which is not the inline path; and in one. */
	iov[0].iov_base = v.texts[v.told];
	iov[0].iov_len = v.told & 2 ? 4 : message_len(v.told);
	iov[1].iov_base = v.texts[v.told] + 1;
	iov[1].iov_len = message_len(v.told) - 4;
	return evering_msg_send(v.ops, iov, v.told++ & 2 ? 2 : 1, timeout_ns);
}

static void story_send_messages(void)
{
	int i;

	for (i = 0; i < 4; i++)
		DO(TOLD, send_message(EVERING_NOWAIT));
}

/* As many as the survivor stores. */
static void use_credit(void)
{
	while (info_of(v.ops).credit)
		DO(TOLD, send_message(EVERING_NOWAIT));
}

static void story_wait_for_credit(void)
{
	struct evering_op post = { .data = v.entries[0], .len = DATA };

	DO(TOLD, send_message(EVERING_WAIT_FOREVER));
	DO(TOLD, send_message(EVERING_WAIT_FOREVER));
	v.asked++;
	DO(ASKED, evering_op_post(v.ops, &post, EVERING_WAIT_FOREVER));
	evering_ops_flush(v.ops);
}

/* Frees them in another order. */
static void story_receive_messages(void)
{
	struct evering_msg msg[4];

	for (; v.heard < 4; v.heard++) {
		NEED(!evering_msg_recv(v.ops, &msg[v.heard],
				       EVERING_WAIT_FOREVER));
		NEED(is_message(&msg[v.heard], v.heard));
	}
	NEED(!evering_msg_free(v.ops, &msg[3]));
	NEED(!evering_msg_free(v.ops, &msg[0]));
	NEED(!evering_msg_free(v.ops, &msg[1]));
	NEED(evering_msg_free(v.ops, &msg[1]) == -EINVAL);
	NEED(evering_ops_poll(v.ops) >= 0);
	NEED(!evering_msg_free(v.ops, &msg[2]));
	evering_ops_flush(v.ops);
}

/* Two short ones that are in the ring, for which there are places: the inline paths. */
static void receive_inline(void)
{
	struct evering_msg msg[2];
	uint32_t i;

	while (!evering_peek_at(v.ev, 1))
		sleep_ns(20 * USEC);
	for (i = 0; i < 2; i++) {
		NEED(!evering_msg_recv(v.ops, &msg[i], EVERING_NOWAIT));
		NEED(is_message(&msg[i], 4 + 2 * i));
	}
	NEED(!info_of(v.ops).messages);
	for (i = 0; i < 2; i++)
		NEED(!evering_msg_free(v.ops, &msg[i]));
}

static void story_receive_inline(void)
{
	story_receive_messages();
	receive_inline();
}

/* Messages that nobody has received. */
static void story_leave_messages(void)
{
	struct evering_msg msg;

	NEED(!evering_msg_recv(v.ops, &msg, EVERING_NOWAIT));
	NEED(is_message(&msg, 0));
	while (!info_of(v.ops).messages)
		NEED(evering_ops_poll(v.ops) >= 0);
	DO(CLOSED, close_endpoint());
}

static void post(unsigned int how, void *buf)
{
	struct evering_op op = victims_op(how, buf);

	op.done = NULL;
	DO(ASKED, evering_op_post(v.ops, &op, EVERING_NOWAIT));
}

static void story_post(void)
{
	submit(0, NULL);
	post(0, NULL);
	post(EVERING_GIVE, v.buffer[0]);
	submit(EVERING_LEND, v.buffer[1]);
	post(EVERING_GIVE, v.buffer[2]);
	evering_ops_flush(v.ops);
}

/* One goes back with a post, one with an operation, one by itself. */
static void story_take_posts(void)
{
	struct evering_request r;

	while (v.n_got < 4) {
		NEED(!evering_op_next(v.ops, &r, EVERING_WAIT_FOREVER));
		NEED(r.flags == (EVERING_POST | EVERING_GIVE) && !r.id);
		victim_asked(v.ops, &r, NULL);
	}
	post(EVERING_GIVE, v.got[0].buf);
	submit(EVERING_GIVE, v.got[1].buf);
	NEED(!evering_free(v.ev, v.got[2].buf));
	NEED(evering_ops_poll(v.ops) >= 0);
	evering_ops_flush(v.ops);
}

static void callv(bool is_long)
{
	uint32_t in[BUFFER / 4], out[BUFFER / 4];
	struct evering_completion c;
	struct iovec iov[2] = { { in, is_long ? BUFFER : DATA },
				{ out, sizeof(out) } };
	uint32_t n = v.asked++;

	memcpy(in, is_long ? v.texts[n] : v.entries[n], iov[0].iov_len);
	DO(ASKED, evering_op_callv(v.ops, n, &iov[0], 1, &iov[1], 1, &c,
				   EVERING_WAIT_FOREVER));
	NEED(c.result == ANSWER + (int)n && c.flags == EVERING_ANSWERED);
	NEED(!c.buf && c.buf_len == BUFFER && intact(out, BUFFER));
}

static void story_call_any_length(void)
{
	callv(false);
	callv(true);
}

static void answerv(unsigned int i, const void *data, size_t len)
{
	const struct iovec iov = { (void *)(uintptr_t)data, len };

	DO(ANSWERED, evering_op_answerv(v.ops, v.got[i].id, ANSWER + (int)i,
					&iov, 1, EVERING_WAIT_FOREVER));
}

static void story_answer_any_length(void)
{
	take_requests(2);
	answerv(0, v.texts[0], BUFFER);
	answerv(1, v.entries[1], DATA);
	evering_ops_flush(v.ops);
}

/* ------------------------------------------------------------ stories: groups */

/* Takes what a member has, and no more is wanted of it then. */
static uint32_t take_turn(uint32_t n)
{
	uint32_t entry[LEN / 4];

	while (!take(entry, EVERING_NOWAIT))
		NEED(check_entry(entry, LEN, n++, SALT));
	return n;
}

static void sleep_in_group(uint32_t policy)
{
	struct evering_group_params p = EVERING_GROUP_PARAMS_INIT;
	const struct evering_group_event *events;
	struct evering_group *g;
	uint32_t n = 0;

	p.policy = policy;
	NEED(!evering_group_open(&p, &g));
	NEED(!evering_group_add(g, v.ev, EVERING_RX, &n));
	while (n < 2) {
		NEED(evering_group_wait(g, &events, EVERING_WAIT_FOREVER) == 1);
		NEED(events[0].what == EVERING_RX && events[0].ev == v.ev);
		n = take_turn(n);
	}
	NEED(!evering_group_want(g, v.ev, EVERING_RX | EVERING_TX));
	NEED(evering_group_wait(g, &events, EVERING_NOWAIT) == 1);
	NEED(events[0].what == EVERING_TX);
	DO(SENT, evering_send(v.ev, v.entries[0], LEN, EVERING_NOWAIT));
	NEED(!evering_group_remove(g, v.ev));
	evering_group_close(g);
}

static void story_group(void)
{
	sleep_in_group(EVERING_BLOCK);
}

static void story_group_spins(void)
{
	sleep_in_group(EVERING_ADAPTIVE);
}

static void listen_aside(void)
{
	char name[32];

	snprintf(name, sizeof(name), "@evering-kill-%d", getpid());
	NEED(!evering_listen(name, 0, &v.listener));
}

/* In a loop, beside a listener and a descriptor; it ends with the process. */
static void story_group_loop(void)
{
	struct pollfd fd = { .events = POLLIN };
	const struct evering_group_event *events;
	struct evering_group *g;
	uint32_t n = 0;
	int pipes[2];

	NEED(!pipe2(pipes, O_CLOEXEC));
	NEED(!evering_group_open(NULL, &g));
	NEED(!evering_group_add_listener(g, v.listener, NULL));
	NEED(!evering_group_add_fd(g, pipes[0], POLLIN, NULL));
	NEED(!evering_group_add(g, v.ev, EVERING_RX, NULL));
	NEED(!evering_group_wake(g));
	while (evering_group_poll(g, &events) != -EINTR)
		;
	fd.fd = evering_group_fd(g);
	NEED(evering_group_timeout(g) == EVERING_WAIT_FOREVER);
	while (n < 2) {
		if (!evering_group_arm(g)) {
			NEED(poll(&fd, 1, -1) == 1);
			continue;
		}
		NEED(evering_group_poll(g, &events) == 1);
		NEED(events[0].what == EVERING_RX);
		n = take_turn(n);
	}
	NEED(!evering_group_remove_fd(g, pipes[0]));
	NEED(!evering_group_remove_listener(g, v.listener));
	evering_listener_close(v.listener);
}

/* ----------------------------------------------------- stories: meeting a peer */

static void story_connect(void)
{
	DO(MET, evering_connect(v.path, &v.p, EVERING_WAIT_FOREVER, &v.ev));
}

static int connect_in_steps(void)
{
	struct evering_connecting *c;
	struct pollfd fd = { .events = POLLIN };
	int ret;

	ret = evering_connect_begin(v.path, &v.p, EVERING_WAIT_FOREVER, &c);
	if (ret)
		return ret;
	fd.fd = evering_connecting_fd(c);
	while ((ret = evering_connecting_step(c, &v.ev)) == -EAGAIN)
		poll(&fd, 1, -1);
	evering_connecting_close(c);
	return ret;
}

static void story_connect_in_steps(void)
{
	DO(MET, connect_in_steps());
}

static void story_listen(void)
{
	NEED(!evering_listen(v.path, 0600, &v.listener));
	NEED(!evering_listener_admit(v.listener, NULL));
	DO(MET, evering_accept(v.listener, NULL, EVERING_WAIT_FOREVER, &v.ev));
	evering_listener_close(v.listener);
}

static bool is_lane(const struct evering *ev, uint32_t n)
{
	struct evering_lane lane;

	evering_get_lane(ev, &lane);
	return lane.lane == n && lane.lanes == LANES;
}

static int connect_lanes(void)
{
	struct evering_connecting *c;
	struct pollfd fd = { .events = POLLIN };
	int ret;

	ret = evering_connect_begin_many(v.path, &v.p, LANES,
					 EVERING_WAIT_FOREVER, &c);
	if (ret)
		return ret;
	fd.fd = evering_connecting_fd(c);
	while ((ret = evering_connecting_step_many(c, v.lane)) == -EAGAIN)
		poll(&fd, 1, -1);
	evering_connecting_close(c);
	return ret;
}

/* Over each lane an entry; each ends by itself. */
static void story_connect_lanes(void)
{
	uint32_t i;

	DO(MET, connect_lanes());
	for (i = 0; i < LANES; i++) {
		NEED(is_lane(v.lane[i], i));
		DO(SENT,
		   evering_send(v.lane[i], v.entries[i], LEN, EVERING_NOWAIT));
	}
	for (i = 0; i < LANES; i++)
		DO(CLOSED, close_this(v.lane[i]));
}

static int stop_listening(void)
{
	evering_listener_close(v.listener);
	return 0;
}

/* The last lane nobody takes, and it goes with the listener; then the others. */
static void story_take_lanes(void)
{
	uint32_t i;

	NEED(!evering_listen(v.path, 0600, &v.listener));
	DO(MET,
	   evering_accept(v.listener, NULL, EVERING_WAIT_FOREVER, &v.lane[0]));
	for (i = 1; i < LANES - 1; i++)
		NEED(!evering_accept(v.listener, NULL, EVERING_WAIT_FOREVER,
				     &v.lane[i]));
	while (i--)
		NEED(is_lane(v.lane[i], i));
	DO(CLOSED, stop_listening());
	for (i = LANES - 1; i--;) {
		DO(SENT, evering_send(v.lane[i], v.entries[LANES - 2 - i], LEN,
				      EVERING_NOWAIT));
		DO(CLOSED, close_this(v.lane[i]));
	}
}

static void story_connect_fd(void)
{
	DO(MET, evering_connect_fd(v.sock, &v.p, EVERING_WAIT_FOREVER, &v.ev));
}

static void story_accept_fd(void)
{
	DO(MET, evering_accept_fd(v.sock, NULL, EVERING_WAIT_FOREVER, &v.ev));
}

/* --------------------------------------------- stories: a peer that is replaced */

/* Its peer has gone, and has not seen two entries. */
static void story_replace(void)
{
	struct evering *ev[2];
	int i;

	NEED(!evering_pair(&v.p, ev));
	evering_begin(ev[1], 0);
	note(&notes->began[SENT], 2);
	for (i = 0; i < 2; i++)
		NEED(!evering_send(ev[0], v.entries[i], LEN, EVERING_NOWAIT));
	evering_close(ev[1]);
	DO(MET, evering_replace(ev[0], v.path, 0, EVERING_WAIT_FOREVER));
	note(&notes->did[SENT], 2);
}

static void victim_answered(struct evering_ops *ops,
			    const struct evering_completion *c)
{
	(void)ops;
	NEED(c->flags == EVERING_ANSWERED);
	NEED(c->result == ANSWER || c->result == ANSWER + 1);
	v.heard++;
}

/* A table, whose peer has opened its own, and then gone without a look at two requests. */
static void outlive(struct evering *ev[2])
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_ops *other;
	struct evering_op op;
	int i;

	NEED(!evering_pair(&v.p, ev));
	v.ev = ev[0];
	NEED(!evering_ops_open(ev[1], NULL, &other));
	p.flags = EVERING_REPLACEABLE;
	NEED(!evering_ops_open(ev[0], &p, &v.ops));
	NEED(evering_ops_poll(v.ops) > 0);
	for (i = 0; i < 2; i++) {
		op = victims_op(i ? EVERING_REISSUE : 0, NULL);
		op.done = victim_answered;
		note(&notes->began[ASKED], 1);
		NEED(!evering_op_submit(v.ops, &op, NULL, EVERING_NOWAIT));
	}
	evering_close(ev[1]);
	NEED(evering_ops_poll(v.ops) == -EPIPE);
}

static int replace_in_steps(void)
{
	struct evering_connecting *c;
	struct pollfd fd = { .events = POLLIN };
	struct evering *same;
	int ret;

	ret = evering_replace_begin(v.ev, v.path, 0, EVERING_WAIT_FOREVER, &c);
	if (ret)
		return ret;
	fd.fd = evering_connecting_fd(c);
	while ((ret = evering_connecting_step(c, &same)) == -EAGAIN)
		poll(&fd, 1, -1);
	NEED(ret || same == v.ev);
	evering_connecting_close(c);
	return ret;
}

/* The successor answers both. */
static void hear_and_close(void)
{
	while (v.heard < 2)
		NEED(evering_ops_wait(v.ops, EVERING_WAIT_FOREVER) > 0);
	note(&notes->did[ASKED], 2);
	DO(CLOSED, close_endpoint());
}

static void story_replace_in_steps(void)
{
	struct evering *ev[2];

	outlive(ev);
	DO(MET, replace_in_steps());
	hear_and_close();
}

/* The wait meets it. */
static int wait_and_follow(void)
{
	int ret = evering_ops_follow(v.ops, v.path, EVERING_WAIT_FOREVER);

	if (!ret)
		ret = evering_ops_wait(v.ops, EVERING_WAIT_FOREVER);
	return ret < 0 ? ret : 0;
}

static void story_follow(void)
{
	struct evering *ev[2];

	outlive(ev);
	DO(MET, wait_and_follow());
	hear_and_close();
}

/* ---------------------------------------------------- stories: serving clients */

/* What a client asks; of the requests two are kept, one of them until the end. */
#define ASKS 4

static int client_came(struct evering_client *client)
{
	v.ops = client->ops;
	note(&notes->did[MET], 1);
	return 0;
}

static void client_asked(struct evering_client *client,
			 const struct evering_request *r)
{
	victim_asked(client->ops, r, NULL);
	if (r->opcode == 1 || r->opcode == 2)
		answer(r->opcode);
	if (r->opcode == 2)
		answer(0);
}

static void client_cancelled(struct evering_client *client, uint64_t id,
			     int why)
{
	NEED(client->ops == v.ops && id == v.got[ASKS - 1].id);
	NEED(why == -ESHUTDOWN);
	answer(ASKS - 1);
}

static void client_ended(struct evering_client *client, int why)
{
	(void)why;
	NEED(!client->ops && !v.ended);
	NEED(notes->did[ANSWERED] == ASKS);
	v.ended = true;
}

static struct evering_server_params servers_params(void)
{
	static struct evering_group_params group = EVERING_GROUP_PARAMS_INIT;
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;

	group.policy = EVERING_BLOCK;
	p.group = &group;
	p.open = client_came;
	p.request = client_asked;
	p.cancelled = client_cancelled;
	p.close = client_ended;
	return p;
}

static bool is_served(void)
{
	return v.n_got == ASKS && notes->did[ANSWERED] == ASKS - 1;
}

/* One client, which was there before, and whose memory stays a while longer. */
static void story_serve(void)
{
	struct evering_server_params p = servers_params();
	struct evering_server_info info;
	struct evering_client *client;

	NEED(!evering_server_open(NULL, &p, &v.server));
	NEED(!evering_server_add(v.server, v.ev, &client));
	evering_client_hold(client);
	while (!is_served())
		NEED(evering_server_wait(v.server, EVERING_WAIT_FOREVER) > 0);
	NEED(evering_client_next(v.server, NULL) == client);
	NEED(!evering_client_next(v.server, client));
	evering_server_get_info(v.server, &info);
	NEED(info.clients == 1 && info.held == 1);
	evering_client_close(client, 0);
	while (!v.ended)
		NEED(evering_server_wait(v.server, EVERING_WAIT_FOREVER) > 0);
	NEED(evering_peer(v.ev) == EVERING_PEER_ALIVE);
	note(&notes->began[CLOSED], 1);
	evering_client_release(client);
	note(&notes->did[CLOSED], 1);
	evering_server_close(v.server);
}

/* In a loop, beside a descriptor, until it is stopped. */
static void story_serve_in_loop(void)
{
	struct evering_server_params p = servers_params();
	struct pollfd fd = { .events = POLLIN };
	int pipes[2], ret;

	NEED(!evering_server_open(v.path, &p, &v.server));
	NEED(evering_server_listener(v.server));
	NEED(!pipe2(pipes, O_CLOEXEC));
	NEED(!evering_group_add_fd(evering_server_group(v.server), pipes[0],
				   POLLIN, NULL));
	NEED(!evering_server_wake(v.server));
	fd.fd = evering_server_fd(v.server);
	while (!is_served()) {
		ret = evering_server_poll(v.server);
		NEED(ret >= 0);
		if (ret)
			continue;
		NEED(evering_server_timeout(v.server) == EVERING_WAIT_FOREVER);
		NEED(poll(&fd, 1, -1) == 1);
	}
	note(&notes->began[CLOSED], 1);
	NEED(!evering_server_stop(v.server, EVERING_NOWAIT));
	while ((ret = evering_server_poll(v.server)) != -ESHUTDOWN)
		NEED(ret >= 0);
	note(&notes->did[CLOSED], 1);
	NEED(v.ended);
	evering_server_close(v.server);
}

static int close_servers(struct evering_server *const server[2])
{
	evering_server_close(server[1]);
	evering_server_close(server[0]);
	return 0;
}

/* Two at a socket that others listen at as well; either may have the client. */
static void story_serve_at_socket(void)
{
	struct evering_server_params p = servers_params();
	struct evering_server *server[2];
	struct pollfd fd[2];
	int i, ret, done;

	NEED(!evering_server_open_fd(v.sock, &p, &server[0]));
	NEED(!evering_server_share(server[0], NULL, &server[1]));
	for (i = 0; i < 2; i++) {
		fd[i].fd = evering_server_fd(server[i]);
		fd[i].events = POLLIN;
	}
	while (!is_served()) {
		for (i = done = 0; i < 2; i++) {
			ret = evering_server_poll(server[i]);
			NEED(ret >= 0);
			done += ret;
		}
		if (!done)
			NEED(poll(fd, 2, -1) > 0);
	}
	DO(CLOSED, close_servers(server));
	NEED(v.ended);
}

/* Nobody else has anything of it. */
static void story_pair(void)
{
	struct evering *ev[2];

	NEED(!evering_pair(&v.p, ev));
	close_pair(ev);
}

#endif /* EVERING_SELFTESTS_STORIES_H */
