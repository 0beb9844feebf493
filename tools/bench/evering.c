// SPDX-License-Identifier: MIT
/*
 * Arms: evering on each backend.
 *
 * original and fair: what fits an entry is in it, and is written each time in both
 * modes.  Else the payload is in the arenas, the rings carry where.  A request takes a
 * place until its response has been read, and the response is written to the place of
 * the same number in the server's arena: a client that asks from it anew has read what was
 * there.  There are as many places as clients, but of large payloads no more than a
 * cache holds, and the place given back last is taken first; the other clients wait
 * for one, as they wait for room in a socket's buffer in other arms.  In
 * MODE_ORIGINAL, where a request is written once, each client has its own buffer.
 * The server reads requests in place and copies the response from private memory,
 * the client reads responses in place.
 *
 * rtt and stream: the message is the entry up to the largest slot, beyond that in
 * the arena.  There rtt has one buffer on each side, free when the answer has come,
 * and stream as many as there are slots: that there is a slot says that the buffer
 * of the entry a lap ago is free.  Its ring is short then, so that what is written
 * has not yet left the caches when it is read.
 *
 * message: evering_msg_send() and evering_msg_recv(), the message read where the library
 * puts it: in the arena, or where it has copied it from the entry.  request: the same
 * both ways; relay: the same through two relays; -call: evering_op_callv(), which copies the answer to where the client
 * wants it, and its counterparts.  connect: connect.c.
 *
 * -loop: with an event loop's evering_arm() and poll(2) instead of evering_wait().
 *
 * System calls: evering_get_counters() of both sides.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "message.h"

/* The harness has a limit of its own, and bare eventfds wait without one. */
#define WAIT EVERING_WAIT_FOREVER
#define UNIT 64u

/* Bytes copied after which a peer that sleeps is better woken than left asleep. */
#define FLUSH_BYTES (64u << 10)
#define FAR_ENTRIES 16u
/* Messages of a stream between two flushes. */
#define FLUSH_MESSAGES 16u
/* message and request: of two lines, whatever the size. */
#define MESSAGE_SLOT 128u

/*
 * Bytes of payload on their way in one direction, of original and fair; and two places
 * of any size, one to write while the other is read.  Four of 4 MiB each way are
 * more than caches hold, and take 1.4 times as long.
 */
#define WINDOW_BYTES (512u << 10)
#define WINDOW_LEAST 2u

/*
 * relay: a longer way has more messages on it, as it has in the buffers of sockets.  The arena
 * has so many bytes at the least, and costs no memory until it is used.
 */
#define RELAY_ENTRIES 4096u
#define RELAY_ARENA (1u << 20)
#define RELAY_WINDOW 4u
#define RELAY_WAIT 10000000000ll

struct entry {
	uint16_t client;
	uint16_t slot; /* the place */
	uint32_t word; /* PING or PONG */
};

/* Behind it, or in rtt and stream alone, if the payload itself is not. */
struct far {
	uint32_t at; /* in the sender's arena, in units of 64 bytes */
	uint32_t length;
};

/* The most that an entry can have behind it. */
#define NEAR_MOST (SLOT_MAX - EVERING_STAMP_SIZE - sizeof(struct entry))

struct channel {
	struct evering *ev;
	struct evering_ops *ops; /* message and request */
	unsigned char *answer; /* request, -call */
	unsigned char *buf[MAX_DEPTH]; /* by place; or by client, or by slot */
	uint64_t left[MAX_DEPTH];
	uint16_t free[MAX_DEPTH]; /* places, of which the last is taken first */
	uint16_t waiting[MAX_DEPTH]; /* clients, first come, first served */
	uint32_t frees, first, waits;
	uint64_t unflushed;
	uint32_t number; /* of messages sent or received, rtt and stream */
	uint64_t polls;
};

/* struct arm.variant: the backend, and */
#define LOOP 0x100
#define CALL 0x200
#define BACKEND 0xff

static uint32_t backend(const struct side *s)
{
	return s->arm->variant & BACKEND;
}

static bool by_reference(const struct job *job)
{
	if (whole_messages(job))
		return job->size > MESSAGE_SLOT / 2;
	return job->size > (job->mode < MODE_RTT ? NEAR_MOST : SLOT_MAX);
}

static uint32_t slot_size(const struct job *job)
{
	uint32_t slot = EVERING_MIN_SLOT;
	size_t least = message_size(job);

	if (whole_messages(job))
		return MESSAGE_SLOT;
	if (by_reference(job))
		least = sizeof(struct entry) + sizeof(struct far);
	else if (job->mode < MODE_RTT)
		least = sizeof(struct entry) + job->size;
	while (slot < least + EVERING_STAMP_SIZE)
		slot *= 2;
	return slot;
}

static uint32_t ring_entries(const struct job *job)
{
	if (through_relay(job->mode))
		return RELAY_ENTRIES;
	return job->mode == MODE_STREAM && by_reference(job) ? FAR_ENTRIES :
							       RING_ENTRIES;
}

/* Places of original and fair. */
static uint32_t places(const struct job *job)
{
	uint64_t n = WINDOW_BYTES / job->size;

	if (!by_reference(job))
		return job->depth;
	if (n < WINDOW_LEAST)
		n = WINDOW_LEAST;
	return n < job->depth ? (uint32_t)n : job->depth;
}

static uint32_t buffers(const struct job *job, bool server)
{
	if (job->mode == MODE_RTT || job->mode == MODE_LATE ||
	    job->mode == MODE_UNPINNED)
		return 1;
	if (job->mode == MODE_STREAM)
		return FAR_ENTRIES;
	if (whole_messages(job))
		return message_window(job);
	return job->mode == MODE_ORIGINAL && !server ? job->depth : places(job);
}

static uint64_t arena_size(const struct job *job, bool server)
{
	uint64_t each = (job->size + UNIT - 1) / UNIT * UNIT;

	if (!by_reference(job))
		return 0;
	if (through_relay(job->mode))
		return each < RELAY_ARENA / RELAY_WINDOW ?
			       RELAY_ARENA :
			       RELAY_WINDOW * whole_pages(each + each / 16);
	/* An allocator of size classes may leave up to 1/32 of a buffer unused. */
	each = (each + each / 16) * buffers(job, server) + (64u << 10);
	return whole_pages(each);
}

static int meet_through_relay(struct side *s, struct evering_params *params,
			      struct evering **ev)
{
	struct evering_listener *listener = NULL;
	char name[NAME_LEN];
	int ret;

	if (!s->server) {
		relay_begin(s, name);
		/* It listens there when the other relay has told it that it may. */
		params->flags |= EVERING_AWAIT;
		return evering_connect(name, params, RELAY_WAIT, ev);
	}
	ret = evering_listen(own_name(s, name), 0, &listener);
	if (ret)
		return ret;
	relay_begin(s, name);
	ret = evering_accept(listener, params, RELAY_WAIT, ev);
	evering_listener_close(listener);
	return ret;
}

static void open_channel(struct side *s)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct channel *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		fail(s, "no memory");
	s->state = c;
	if (s->job->mode == MODE_CHANNEL)
		return;
	params.policy = limits.policy = s->job->policy;
	params.flags = limits.flags = EVERING_POPULATE;
	if (s->server) {
		limits.arena_size[0] = limits.arena_size[1] = EVERING_MAX_ARENA;
		ret = through_relay(s->job->mode) ?
			      meet_through_relay(s, &limits, &c->ev) :
			      evering_accept_fd(s->sock, &limits, WAIT, &c->ev);
	} else {
		params.backend = backend(s);
		params.slot_size = slot_size(s->job);
		params.entries = ring_entries(s->job);
		params.arena_size[EVERING_MINE] = arena_size(s->job, false);
		params.arena_size[EVERING_PEERS] =
			one_way(s->job) ? 0 : arena_size(s->job, true);
		ret = through_relay(s->job->mode) ?
			      meet_through_relay(s, &params, &c->ev) :
			      evering_connect_fd(s->sock, &params, WAIT,
						 &c->ev);
	}
	if (ret >= 0 && whole_messages(s->job))
		ret = evering_ops_open(c->ev, NULL, &c->ops);
	if (ret < 0)
		fail(s, "a channel: %s", strerror(-ret));
	if (!(s->arm->variant & CALL))
		return;
	c->answer = calloc(1, s->job->size);
	if (!c->answer)
		fail(s, "no memory");
}

static unsigned char *buffer(struct side *s, uint32_t i)
{
	struct channel *c = s->state;

	if (!c->buf[i]) {
		c->buf[i] = evering_alloc(c->ev, s->job->size, 0);
		if (!c->buf[i])
			fail(s, "no room in the arena");
		/* Written here once: all there is of it in MODE_ORIGINAL. */
		if (!s->server || s->job->mode >= MODE_RTT)
			memcpy(c->buf[i], s->source, s->job->size);
	}
	return c->buf[i];
}

static void wait_for(struct side *s, unsigned int what)
{
	struct channel *c = s->state;
	int ret;

	/* Who was stopped and goes on gets -EINTR, too. */
	do
		ret = evering_wait(c->ev, what, WAIT);
	while (ret == -EINTR);
	if (ret < 0)
		fail(s, "evering_wait: %s", strerror(-ret));
	if (what & EVERING_FLUSH)
		c->unflushed = 0;
}

static void *reserve(struct side *s)
{
	struct channel *c = s->state;
	void *slot;

	while (!(slot = evering_reserve(c->ev)))
		wait_for(s, EVERING_TX | EVERING_FLUSH);
	return slot;
}

static const void *peek(struct side *s)
{
	struct channel *c = s->state;
	const void *slot;

	while (!(slot = evering_peek(c->ev)))
		wait_for(s, EVERING_RX | EVERING_FLUSH);
	return slot;
}

/* Says where in an entry, @buf being in the own arena. */
static void put_far(struct side *s, void *at, const unsigned char *buf)
{
	struct channel *c = s->state;
	struct far far = {
		.at = (uint32_t)(evering_offset(c->ev, buf) / UNIT),
		.length = (uint32_t)s->job->size,
	};

	memcpy(at, &far, sizeof(far));
}

/* What that says, NULL if it is invalid. */
static const unsigned char *get_far(struct side *s, const void *at)
{
	struct channel *c = s->state;
	struct far far;

	memcpy(&far, at, sizeof(far));
	return far.length != s->job->size ?
		       NULL :
		       evering_peer_buffer(c->ev, (uint64_t)far.at * UNIT,
					   far.length);
}

static void commit(struct side *s)
{
	struct channel *c = s->state;

	evering_commit(c->ev);
	c->unflushed += s->job->size;
	if (c->unflushed >= FLUSH_BYTES) {
		evering_flush(c->ev);
		c->unflushed = 0;
	}
}

/* @buf: the payload if it is in the arena, else NULL. */
static void put(struct side *s, uint32_t client, uint32_t slot, uint32_t word,
		const unsigned char *buf)
{
	struct entry e = {
		.client = (uint16_t)client,
		.slot = (uint16_t)slot,
		.word = htonl(word),
	};
	unsigned char *entry = reserve(s);

	memcpy(entry, &e, sizeof(e));
	if (buf)
		put_far(s, entry + sizeof(e), buf);
	else
		memcpy(entry + sizeof(e), s->source, s->job->size);
	commit(s);
}

/* The next entry, a copy, and its payload, which stays until it is released. */
static const unsigned char *get(struct side *s, uint32_t word, struct entry *e)
{
	const unsigned char *entry = peek(s), *payload;

	memcpy(e, entry, sizeof(*e));
	payload = entry + sizeof(*e);
	if (by_reference(s->job))
		payload = get_far(s, payload);
	if (!payload || ntohl(e->word) != word || e->client >= s->job->depth ||
	    e->slot >= places(s->job))
		fail(s, "an entry that was not sent");
	return payload;
}

static void wait_for_place(struct channel *c, uint32_t client)
{
	c->waiting[(c->first + c->waits++) % MAX_DEPTH] = (uint16_t)client;
}

/* Clients that wait ask, as long as there are places. */
static void ask(struct side *s)
{
	struct channel *c = s->state;
	uint32_t client, slot;
	unsigned char *buf;

	while (c->waits && c->frees) {
		client = c->waiting[c->first++ % MAX_DEPTH];
		c->waits--;
		slot = c->free[--c->frees];
		buf = NULL;
		if (by_reference(s->job)) {
			buf = buffer(s,
				     s->job->mode == MODE_FAIR ? slot : client);
			if (s->job->mode == MODE_FAIR)
				memcpy(buf, s->source, s->job->size);
		}
		put(s, client, slot, PING, buf);
	}
}

static void load_client(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;
	struct entry e;
	uint32_t i;

	c->frees = places(s->job);
	for (i = 0; i < c->frees; i++)
		c->free[i] = (uint16_t)i;
	for (i = 0; i < s->job->depth; i++) {
		c->left[i] = message_ops(s->job, ops, i);
		if (c->left[i])
			wait_for_place(c, i);
	}
	ask(s);
	while (c->frees < places(s->job)) {
		check_payload(s, get(s, PONG, &e));
		evering_release(c->ev);
		if (!c->left[e.client])
			fail(s, "a response without a request");
		c->free[c->frees++] = e.slot;
		if (--c->left[e.client])
			wait_for_place(c, e.client);
		ask(s);
	}
}

static void load_server(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;
	unsigned char *buf;
	struct entry e;

	for (; ops; ops--) {
		check_payload(s, get(s, PING, &e));
		evering_release(c->ev);
		buf = NULL;
		if (by_reference(s->job)) {
			buf = buffer(s, e.slot);
			memcpy(buf, s->source, s->job->size);
		}
		put(s, e.client, e.slot, PONG, buf);
	}
	evering_flush(c->ev);
}

/* rtt and stream, the payload in the arena. */
static void send_far(struct side *s, uint32_t number)
{
	void *entry = reserve(s);
	unsigned char *buf = buffer(s, number % buffers(s->job, s->server));

	write_message(s, buf, message_size(s->job), number);
	put_far(s, entry, buf);
	commit(s);
}

static void recv_far(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	const unsigned char *buf = get_far(s, peek(s));

	if (!buf)
		fail(s, "an entry that was not sent");
	check_message(s, buf, message_size(s->job), number);
	evering_release(c->ev);
}

/* What the server does before it answers. */
static inline void work_on_it(const struct side *s)
{
	const struct timespec nap = { .tv_nsec = LATE_NS };

	if (s->job->mode == MODE_LATE)
		clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
}

static void rtt_far(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;
	int64_t at = probe_start(s);

	for (; ops; ops--) {
		c->number++;
		if (s->server) {
			recv_far(s, c->number);
			work_on_it(s);
		}
		send_far(s, c->number);
		evering_flush(c->ev);
		if (!s->server)
			recv_far(s, c->number);
		at = probe_lap(s, at);
	}
}

static void stream_far(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;

	for (; ops; ops--) {
		c->number++;
		if (s->server) {
			recv_far(s, c->number);
			continue;
		}
		send_far(s, c->number);
		if (c->number % FLUSH_MESSAGES == 0)
			evering_flush(c->ev);
	}
	if (!s->server)
		evering_flush(c->ev);
}

/*
 * rtt and stream, the message in the entry.  A message has a type, and so has a size
 * that the compiler knows, as the queues' elements have: hence a copy for each.
 */
#define COPIED static inline __attribute__((always_inline))

/* A sleep as an event loop has it. */
static void poll_for(struct side *s, unsigned int what)
{
	struct channel *c = s->state;
	struct pollfd fd = { .fd = evering_fd(c->ev),
			     .events = evering_events(c->ev, what) };
	int ret;

	evering_flush(c->ev);
	ret = evering_arm(c->ev, what);
	if (ret < 0)
		fail(s, "evering_arm: %s", strerror(-ret));
	if (ret)
		return;
	c->polls++;
	if (poll(&fd, 1, -1) < 1)
		fail(s, "poll: nothing came");
}

/* Written in its slot. */
COPIED void produce_near(struct side *s, size_t len, uint32_t number)
{
	struct channel *c = s->state;

	write_words(reserve(s), len, number);
	evering_commit(c->ev);
}

/*
 * rtt, read in its slot: what was committed is flushed by the wait that follows, for who
 * spins while the answer is on its way, else in the system call that sleeps where
 * that can be.
 */
COPIED void take_near(struct side *s, size_t len, uint32_t number)
{
	struct channel *c = s->state;
	const void *slot;

	while (!(slot = evering_peek(c->ev))) {
		if (s->arm->variant & LOOP)
			poll_for(s, EVERING_RX);
		else
			wait_for(s, EVERING_RX | EVERING_FLUSH);
	}
	check_message(s, slot, len, number);
	evering_release(c->ev);
}

COPIED void rtt_near(struct side *s, uint64_t ops, size_t len)
{
	struct channel *c = s->state;
	int64_t at = probe_start(s);

	for (; ops; ops--) {
		c->number++;
		if (s->server) {
			take_near(s, len, c->number);
			work_on_it(s);
		}
		produce_near(s, len, c->number);
		if (!s->server)
			take_near(s, len, c->number);
		at = probe_lap(s, at);
	}
	evering_flush(c->ev);
}

/* stream */
COPIED void consume_near(struct side *s, size_t len, uint32_t number)
{
	struct channel *c = s->state;
	const void *slot;

	while (!(slot = evering_peek(c->ev)))
		wait_for(s, EVERING_RX);
	check_message(s, slot, len, number);
	evering_release(c->ev);
}

COPIED void stream_near(struct side *s, uint64_t ops, size_t len)
{
	struct channel *c = s->state;

	for (; ops; ops--) {
		c->number++;
		if (s->server) {
			consume_near(s, len, c->number);
			continue;
		}
		produce_near(s, len, c->number);
		if (c->number % FLUSH_MESSAGES == 0)
			evering_flush(c->ev);
	}
	if (!s->server)
		evering_flush(c->ev);
}

COPIED void near(struct side *s, uint64_t ops, size_t len)
{
	if (s->job->mode == MODE_STREAM)
		stream_near(s, ops, len);
	else
		rtt_near(s, ops, len);
}

static void work_near(struct side *s, uint64_t ops)
{
	size_t len = message_size(s->job);

	switch (len) {
	case 16 - EVERING_STAMP_SIZE:
		near(s, ops, 16 - EVERING_STAMP_SIZE);
		return;
	case 64 - EVERING_STAMP_SIZE:
		near(s, ops, 64 - EVERING_STAMP_SIZE);
		return;
	case 256 - EVERING_STAMP_SIZE:
		near(s, ops, 256 - EVERING_STAMP_SIZE);
		return;
	default: /* sizes of less interest */
		near(s, ops, len);
	}
}

/* message and request */
static void whole_out(struct side *s, const void *buf, size_t len)
{
	const struct iovec iov = { (void *)buf, len };
	struct channel *c = s->state;
	int ret = evering_msg_send(c->ops, &iov, 1, WAIT);

	if (ret)
		fail(s, "evering_msg_send: %s", strerror(-ret));
}

static void whole_in(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	struct evering_msg msg;
	int ret = evering_msg_recv(c->ops, &msg, WAIT);

	if (ret)
		fail(s, "evering_msg_recv: %s", strerror(-ret));
	read_message(s, msg.data, msg.len, number);
	evering_msg_free(c->ops, &msg);
}

static void ask_whole(struct side *s)
{
	const struct iovec in = { s->source, s->job->size };
	struct channel *c = s->state;
	const struct iovec out = { c->answer, s->job->size };
	struct evering_completion done;
	int ret;

	write_message(s, s->source, s->job->size, s->number);
	ret = evering_op_callv(c->ops, 1, &in, 1, &out, 1, &done, WAIT);
	if (ret)
		fail(s, "evering_op_callv: %s", strerror(-ret));
	read_message(s, c->answer, done.buf_len, s->number);
}

static void answer_whole(struct side *s)
{
	const struct iovec iov = { s->source, s->job->size };
	struct channel *c = s->state;
	struct evering_request request;
	uint64_t len;
	const void *data;
	int ret = evering_op_next(c->ops, &request, WAIT);

	if (ret)
		fail(s, "evering_op_next: %s", strerror(-ret));
	data = evering_request_bytes(&request, &len);
	read_message(s, data, len, s->number);
	write_message(s, s->source, s->job->size, s->number);
	ret = evering_op_answerv(c->ops, request.id, 0, &iov, 1, WAIT);
	if (ret)
		fail(s, "evering_op_answerv: %s", strerror(-ret));
}

static void call_whole(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;

	for (; ops; ops--) {
		s->number++;
		if (s->server)
			answer_whole(s);
		else
			ask_whole(s);
	}
	evering_ops_flush(c->ops);
}

/* Both ends, in one process. */
static void make_channels(struct side *s, uint64_t ops)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering *ev[2];
	int ret;

	params.backend = backend(s);
	params.arena_size[0] = params.arena_size[1] = whole_pages(s->job->size);
	for (s->done += ops; ops && !s->server; ops--) {
		ret = evering_pair(&params, ev);
		if (ret)
			fail(s, "evering_pair: %s", strerror(-ret));
		evering_close(ev[0]);
		evering_close(ev[1]);
	}
}

static void open_side(struct side *s)
{
	if (s->job->mode == MODE_CONNECT)
		meet_open(s);
	else
		open_channel(s);
}

static void work(struct side *s, uint64_t ops)
{
	if (s->job->mode == MODE_CONNECT)
		meet_work(s, ops);
	else if (s->job->mode == MODE_CHANNEL)
		make_channels(s, ops);
	else if (s->arm->variant & CALL)
		call_whole(s, ops);
	else if (whole_messages(s->job))
		carry_messages(s, ops, whole_out, whole_in);
	else if (s->job->mode >= MODE_RTT && !by_reference(s->job))
		work_near(s, ops);
	else if (s->job->mode == MODE_STREAM)
		stream_far(s, ops);
	else if (s->job->mode >= MODE_RTT)
		rtt_far(s, ops);
	else if (s->server)
		load_server(s, ops);
	else
		load_client(s, ops);
}

static void count(struct side *s)
{
	struct channel *c = s->state;
	struct evering_counters counters;

	if (s->job->mode == MODE_CONNECT || !c->ev)
		return;
	evering_get_counters(c->ev, EVERING_MINE, &counters);
	s->syscalls = counters.tx_syscalls + counters.rx_syscalls + c->polls;
}

static void close_channel(struct side *s)
{
	struct channel *c = s->state;

	if (s->job->mode == MODE_CONNECT) {
		meet_close(s);
		return;
	}
	evering_ops_close(c->ops);
	evering_close(c->ev);
	free(c->answer);
	free(c);
}

const char *device_missing(void)
{
	int fd = open("/dev/evering", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return "/dev/evering is not there: load the evering module";
	close(fd);
	return NULL;
}

#define EVERING_MODES                                                          \
	{                                                                      \
		[MODE_ORIGINAL] = ANY_POLICY, [MODE_FAIR] = ANY_POLICY,        \
		[MODE_RTT] = ANY_POLICY, [MODE_STREAM] = ANY_POLICY,           \
		[MODE_LATE] = ONLY(EVERING_BLOCK) | ONLY(EVERING_ADAPTIVE),    \
		[MODE_CHANNEL] = ONLY(EVERING_BLOCK),                          \
		[MODE_MESSAGE] = ANY_POLICY, [MODE_REQUEST] = ANY_POLICY,      \
		[MODE_UNPINNED] = ONLY(EVERING_BLOCK),                         \
		[MODE_CONNECT] = ONLY(EVERING_BLOCK) | ONLY(EVERING_ADAPTIVE), \
	}

/* A counter is an endpoint's, and says nothing of making one. */
#define EVERING_UNCOUNTED (1u << MODE_CHANNEL | 1u << MODE_CONNECT)

#define CALL_MODES                                                             \
	{                                                                      \
		[MODE_REQUEST] = ANY_POLICY                                    \
	}
#define LOOP_MODES                                                             \
	{                                                                      \
		[MODE_RTT] = ONLY(EVERING_BLOCK)                               \
	}

const struct arm evering_device_arm = {
	.name = "evering-device",
	.modes = EVERING_MODES,
	.variant = EVERING_BACKEND_DEVICE,
	.uncounted = EVERING_UNCOUNTED,
	.opens_early = true,
	.missing = device_missing,
	.open = open_side,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_device_loop_arm = {
	.name = "evering-device-loop",
	.modes = LOOP_MODES,
	.most = SLOT_MAX,
	.variant = EVERING_BACKEND_DEVICE | LOOP,
	.missing = device_missing,
	.open = open_channel,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_memfd_arm = {
	.name = "evering-memfd",
	.modes = EVERING_MODES,
	.variant = EVERING_BACKEND_MEMFD,
	.uncounted = EVERING_UNCOUNTED,
	.opens_early = true,
	.open = open_side,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_memfd_loop_arm = {
	.name = "evering-memfd-loop",
	.modes = LOOP_MODES,
	.most = SLOT_MAX,
	.variant = EVERING_BACKEND_MEMFD | LOOP,
	.open = open_channel,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_device_call_arm = {
	.name = "evering-device-call",
	.modes = CALL_MODES,
	.variant = EVERING_BACKEND_DEVICE | CALL,
	.missing = device_missing,
	.open = open_channel,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_memfd_call_arm = {
	.name = "evering-memfd-call",
	.modes = CALL_MODES,
	.variant = EVERING_BACKEND_MEMFD | CALL,
	.open = open_channel,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_relay_arm = {
	.name = "evering-relay",
	.modes = { [MODE_RELAY_RTT] = ANY_POLICY,
		   [MODE_RELAY_STREAM] = ANY_POLICY },
	.variant = EVERING_BACKEND_AUTO,
	.uncounted = RELAY_MODES,
	.missing = relay_missing,
	.open = open_channel,
	.work = work,
	.count = count,
	.close = close_channel,
};
