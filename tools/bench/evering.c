// SPDX-License-Identifier: MIT
/*
 * Arms: evering on each backend.
 *
 * original and fair: the payload is in the arenas, the rings carry where.  A request
 * takes a place until its response has been read, and the response is written to
 * the place of the same number in the server's arena: who asks from it anew has read
 * what was there.  There are as many places as clients, but of large payloads no more
 * than a cache holds, and the place given back last is taken first; the other
 * clients wait for one, as they wait for room in a socket's buffer in other arms.
 * In MODE_ORIGINAL, where a request is written once, each client has its own buffer.
 * The server reads requests in place and copies the response from private memory,
 * the client reads responses in place.
 *
 * rtt and stream: the message is the entry up to the largest slot, beyond that in
 * the arena.  There rtt has one buffer on each side, free when the answer has come,
 * and stream as many as there are slots: that there is a slot says that the buffer
 * of the entry a lap ago is free.  Its ring is short then, so that what is written
 * has not yet left the caches when it is read.
 *
 * System calls: evering_get_counters() of both sides.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"

#define WAIT_NS 20000000000ll
#define UNIT 64u

/* Bytes copied after which a peer that sleeps is better woken than left asleep. */
#define FLUSH_BYTES (64u << 10)
#define FAR_ENTRIES 16u
/* Messages of a stream between two flushes. */
#define FLUSH_MESSAGES 16u

/* Bytes of payload on their way in one direction, of original and fair. */
#define WINDOW_BYTES (512u << 10)
#define WINDOW_LEAST 4u

struct entry {
	uint16_t client;
	uint16_t slot; /* the place */
	uint32_t word; /* PING or PONG */
	uint32_t at; /* in the sender's arena, in units of 64 bytes */
	uint32_t length;
};

struct channel {
	struct evering *ev;
	unsigned char *buf[MAX_DEPTH]; /* by place; or by client, or by slot */
	uint64_t left[MAX_DEPTH];
	uint16_t free[MAX_DEPTH]; /* places, of which the last is taken first */
	uint16_t waiting[MAX_DEPTH]; /* clients, first come, first served */
	uint32_t frees, first, waits;
	uint64_t unflushed;
	uint32_t number; /* of messages sent or received, rtt and stream */
};

static bool by_reference(const struct job *job)
{
	return job->mode < MODE_RTT || job->size > SLOT_MAX;
}

static uint32_t slot_size(const struct job *job)
{
	uint32_t slot = EVERING_MIN_SLOT;
	size_t least = by_reference(job) ? sizeof(struct entry) :
					   message_size(job);

	while (slot < least + EVERING_STAMP_SIZE)
		slot *= 2;
	return slot;
}

static uint32_t ring_entries(const struct job *job)
{
	return job->mode == MODE_STREAM && by_reference(job) ? FAR_ENTRIES :
							       RING_ENTRIES;
}

/* Places of original and fair. */
static uint32_t places(const struct job *job)
{
	uint64_t n = WINDOW_BYTES / job->size;

	if (n < WINDOW_LEAST)
		n = WINDOW_LEAST;
	return n < job->depth ? (uint32_t)n : job->depth;
}

static uint32_t buffers(const struct job *job, bool server)
{
	if (job->mode == MODE_RTT)
		return 1;
	if (job->mode == MODE_STREAM)
		return FAR_ENTRIES;
	return job->mode == MODE_ORIGINAL && !server ? job->depth : places(job);
}

static uint64_t arena_size(const struct job *job, bool server)
{
	uint64_t each = (job->size + UNIT - 1) / UNIT * UNIT;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (!by_reference(job))
		return 0;
	/* An allocator of size classes may leave up to 1/32 of a buffer unused. */
	each = (each + each / 16) * buffers(job, server) + (64u << 10);
	return (each + page - 1) / page * page;
}

static void open_channel(struct side *s, uint32_t backend)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct channel *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		fail(s, "no memory");
	s->state = c;
	params.policy = limits.policy = s->job->policy;
	if (s->server) {
		limits.arena_size[0] = limits.arena_size[1] = EVERING_MAX_ARENA;
		ret = evering_accept_fd(s->sock, &limits, WAIT_NS, &c->ev);
	} else {
		params.backend = backend;
		params.slot_size = slot_size(s->job);
		params.entries = ring_entries(s->job);
		params.arena_size[EVERING_MINE] = arena_size(s->job, false);
		params.arena_size[EVERING_PEERS] =
			s->job->mode == MODE_STREAM ? 0 :
						      arena_size(s->job, true);
		ret = evering_connect_fd(s->sock, &params, WAIT_NS, &c->ev);
	}
	if (ret < 0)
		fail(s, "a channel: %s", strerror(-ret));
}

static void open_device(struct side *s)
{
	open_channel(s, EVERING_BACKEND_DEVICE);
}

static void open_memfd(struct side *s)
{
	open_channel(s, EVERING_BACKEND_MEMFD);
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
	int ret = evering_wait(c->ev, what, WAIT_NS);

	if (ret < 0)
		fail(s, "evering_wait: %s", strerror(-ret));
	if (what & EVERING_FLUSH)
		c->unflushed = 0;
}

static void put(struct side *s, uint32_t client, uint32_t slot, uint32_t word,
		const unsigned char *buf)
{
	struct channel *c = s->state;
	struct entry e = {
		.client = (uint16_t)client,
		.slot = (uint16_t)slot,
		.word = htonl(word),
		.at = (uint32_t)(evering_offset(c->ev, buf) / UNIT),
		.length = (uint32_t)s->job->size,
	};
	void *entry;

	while (!(entry = evering_reserve(c->ev)))
		wait_for(s, EVERING_TX | EVERING_FLUSH);
	memcpy(entry, &e, sizeof(e));
	evering_commit(c->ev);
	c->unflushed += s->job->size;
	if (c->unflushed >= FLUSH_BYTES) {
		evering_flush(c->ev);
		c->unflushed = 0;
	}
}

/* The next entry, a copy, and the payload that it names. */
static const unsigned char *get(struct side *s, uint32_t word, struct entry *e)
{
	struct channel *c = s->state;
	const unsigned char *buf;
	const void *slot;

	while (!(slot = evering_peek(c->ev)))
		wait_for(s, EVERING_RX | EVERING_FLUSH);
	memcpy(e, slot, sizeof(*e));
	evering_release(c->ev);
	buf = evering_peer_buffer(c->ev, (uint64_t)e->at * UNIT, e->length);
	if (!buf || ntohl(e->word) != word || e->client >= s->job->depth ||
	    e->slot >= places(s->job) || e->length != s->job->size)
		fail(s, "an entry that nobody sent");
	return buf;
}

static void wait_for_place(struct channel *c, uint32_t client)
{
	c->waiting[(c->first + c->waits++) % MAX_DEPTH] = (uint16_t)client;
}

/* Those who wait ask, as long as there are places. */
static void ask(struct side *s)
{
	struct channel *c = s->state;
	uint32_t client, slot;
	unsigned char *buf;

	while (c->waits && c->frees) {
		client = c->waiting[c->first++ % MAX_DEPTH];
		c->waits--;
		slot = c->free[--c->frees];
		buf = buffer(s, s->job->mode == MODE_FAIR ? slot : client);
		if (s->job->mode == MODE_FAIR)
			memcpy(buf, s->source, s->job->size);
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
		buf = buffer(s, e.slot);
		memcpy(buf, s->source, s->job->size);
		put(s, e.client, e.slot, PONG, buf);
	}
	evering_flush(c->ev);
}

/* rtt and stream, the payload in the arena. */
static void send_far(struct side *s, uint32_t number)
{
	uint32_t i = number % buffers(s->job, s->server);
	struct channel *c = s->state;
	unsigned char *buf;

	while (!evering_reserve(c->ev))
		wait_for(s, EVERING_TX | EVERING_FLUSH);
	buf = buffer(s, i);
	write_message(s, buf, message_size(s->job), number);
	put(s, i, 0, PING, buf);
}

static void recv_far(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	const unsigned char *buf;
	struct entry e;
	const void *slot;

	while (!(slot = evering_peek(c->ev)))
		wait_for(s, EVERING_RX | EVERING_FLUSH);
	memcpy(&e, slot, sizeof(e));
	buf = evering_peer_buffer(c->ev, (uint64_t)e.at * UNIT, e.length);
	if (!buf || e.length != s->job->size)
		fail(s, "an entry that nobody sent");
	check_message(s, buf, message_size(s->job), number);
	evering_release(c->ev);
}

/* rtt, the message in the entry: the calls that copy, as with the queues. */
static void send_near(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	uint32_t message[SLOT_MAX / 4];
	int ret;

	write_words(message, message_size(s->job), number);
	ret = evering_send(c->ev, message, message_size(s->job), WAIT_NS);
	if (ret)
		fail(s, "evering_send: %s", strerror(-ret));
}

static void recv_near(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	uint32_t message[SLOT_MAX / 4];
	int ret = evering_recv(c->ev, message, message_size(s->job), WAIT_NS);

	if (ret)
		fail(s, "evering_recv: %s", strerror(-ret));
	check_message(s, message, message_size(s->job), number);
}

static void rtt(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;
	bool far = by_reference(s->job);
	int64_t at = probe_start(s);

	for (; ops; ops--) {
		c->number++;
		if (!s->server && far) {
			send_far(s, c->number);
			evering_flush(c->ev);
			recv_far(s, c->number);
		} else if (!s->server) {
			send_near(s, c->number);
			recv_near(s, c->number);
		} else if (far) {
			recv_far(s, c->number);
			send_far(s, c->number);
			evering_flush(c->ev);
		} else {
			recv_near(s, c->number);
			send_near(s, c->number);
		}
		at = probe_lap(s, at);
	}
}

/* stream, the message in the entry: written and read in its slot. */
static void produce_near(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	void *slot;

	while (!(slot = evering_reserve(c->ev)))
		wait_for(s, EVERING_TX | EVERING_FLUSH);
	write_message(s, slot, message_size(s->job), number);
	evering_commit(c->ev);
}

static void consume_near(struct side *s, uint32_t number)
{
	struct channel *c = s->state;
	const void *slot;

	while (!(slot = evering_peek(c->ev)))
		wait_for(s, EVERING_RX);
	check_message(s, slot, message_size(s->job), number);
	evering_release(c->ev);
}

static void stream(struct side *s, uint64_t ops)
{
	struct channel *c = s->state;
	bool far = by_reference(s->job);

	for (; ops; ops--) {
		c->number++;
		if (s->server && far)
			recv_far(s, c->number);
		else if (s->server)
			consume_near(s, c->number);
		else if (far)
			send_far(s, c->number);
		else
			produce_near(s, c->number);
		if (!s->server && c->number % FLUSH_MESSAGES == 0)
			evering_flush(c->ev);
	}
	if (!s->server)
		evering_flush(c->ev);
}

static void work(struct side *s, uint64_t ops)
{
	if (s->job->mode == MODE_RTT)
		rtt(s, ops);
	else if (s->job->mode == MODE_STREAM)
		stream(s, ops);
	else if (s->server)
		load_server(s, ops);
	else
		load_client(s, ops);
}

static void count(struct side *s)
{
	struct channel *c = s->state;
	struct evering_counters counters;

	evering_get_counters(c->ev, EVERING_MINE, &counters);
	s->syscalls = counters.tx_syscalls + counters.rx_syscalls;
}

static void close_channel(struct side *s)
{
	struct channel *c = s->state;

	evering_close(c->ev);
	free(c);
}

static const char *device_missing(void)
{
	int fd = open("/dev/evering", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return "/dev/evering is not there: load the evering module";
	close(fd);
	return NULL;
}

#define EVERING_MODES                                                          \
	{                                                                      \
		ANY_POLICY, ANY_POLICY, ANY_POLICY, ANY_POLICY                 \
	}

const struct arm evering_device_arm = {
	.name = "evering-device",
	.modes = EVERING_MODES,
	.opens_early = true,
	.missing = device_missing,
	.open = open_device,
	.work = work,
	.count = count,
	.close = close_channel,
};

const struct arm evering_memfd_arm = {
	.name = "evering-memfd",
	.modes = EVERING_MODES,
	.opens_early = true,
	.open = open_memfd,
	.work = work,
	.count = count,
	.close = close_channel,
};
