// SPDX-License-Identifier: MIT
/*
 * Arms: meetings.  The client connects, asks once, has its answer and closes; then the
 * next.  The server is there all the time, and is done with a client when it sees that
 * the client has closed.  Question and answer have @size bytes each.
 *
 * evering: evering_connect() and evering_accept() at an abstract name, as any two programs
 * would, and evering_op_callv().  The channel is what EVERING_PARAMS_INIT makes; -ring: it
 * has no arenas.
 *
 * uds-stream, uds-seqpacket: a blocking client; the server has epoll, tries before it
 * waits, and sleeps in epoll_wait(2).
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <linux/evering_op.h>

#include "bench.h"

/* The harness has a limit of its own. */
#define WAIT EVERING_WAIT_FOREVER

/* struct arm.variant of evering's: the backend, and */
#define RING_ALONE 0x400
#define BACKEND 0xff

/* Without arenas a message is in its entry, beside a header and the stamp. */
#define OP_ROOM (sizeof(struct evering_op_header) + EVERING_STAMP_SIZE)
#define RING_MOST 128u
/* Well below what a socket sends as one packet by default. */
#define PACKET_MOST (64u << 10)

const char *own_name(const struct side *s, char name[NAME_LEN])
{
	snprintf(name, NAME_LEN, "@evering-bench-%.8s",
		 s->address.sun_path + 1);
	return name;
}

void wait_for_server(struct side *s)
{
	char byte = 0;

	if ((s->server ? write(s->sock, &byte, 1) : read(s->sock, &byte, 1)) !=
	    1)
		fail(s, "the other side is gone");
}

/* A question or an answer: both have the number of the meeting. */
static void check_came(struct side *s, const void *data, size_t len)
{
	if (len != s->job->size)
		fail(s, "message %u has %zu bytes", s->number, len);
	check_message(s, data, len, s->number);
}

static void next_message(struct side *s)
{
	write_message(s, s->source, s->job->size, s->number);
}

/* evering ----------------------------------------------------------------- */

struct door {
	struct evering_listener *listener; /* the server's */
	unsigned char *answer; /* the client's */
};

static bool ring_alone(const struct side *s)
{
	return s->arm->variant & RING_ALONE;
}

void meet_open(struct side *s)
{
	struct door *d = calloc(1, sizeof(*d));
	char name[NAME_LEN];
	int ret = 0;

	if (d && !s->server)
		d->answer = calloc(1, s->job->size);
	if (!d || (!s->server && !d->answer))
		fail(s, "no memory");
	if (s->server)
		ret = evering_listen(own_name(s, name), 0, &d->listener);
	if (ret)
		fail(s, "evering_listen: %s", strerror(-ret));
	s->state = d;
	wait_for_server(s);
}

static void limit(const struct side *s, struct evering_params *limits)
{
	*limits = (struct evering_params)EVERING_LIMITS_INIT;
	limits->policy = s->job->policy;
	limits->arena_size[0] = limits->arena_size[1] = EVERING_MAX_ARENA;
}

static void wish(const struct side *s, struct evering_params *params)
{
	uint64_t arena = 4 * whole_pages(s->job->size);
	unsigned int i;

	*params = (struct evering_params)EVERING_PARAMS_INIT;
	params->policy = s->job->policy;
	params->backend = s->arm->variant & BACKEND;
	for (i = 0; i < 2; i++)
		if (ring_alone(s))
			params->arena_size[i] = 0;
		else if (params->arena_size[i] < arena)
			params->arena_size[i] = arena;
	if (!ring_alone(s))
		return;
	while (params->slot_size < s->job->size + OP_ROOM)
		params->slot_size *= 2;
}

static void visit(struct side *s, const char *name)
{
	const struct iovec in = { s->source, s->job->size };
	struct evering_completion done = { 0 };
	struct evering_params params;
	struct door *d = s->state;
	const struct iovec out = { d->answer, s->job->size };
	struct evering_ops *ops;
	struct evering *ev;
	int ret;

	wish(s, &params);
	next_message(s);
	ret = evering_connect(name, &params, WAIT, &ev);
	if (ret)
		fail(s, "evering_connect: %s", strerror(-ret));
	ret = evering_ops_open(ev, NULL, &ops);
	if (!ret)
		ret = evering_op_callv(ops, 1, &in, 1, &out, 1, &done, WAIT);
	if (!ret)
		ret = done.result;
	if (ret)
		fail(s, "the call: %s", strerror(-ret));
	check_came(s, d->answer, done.buf_len);
	evering_ops_close(ops);
	evering_close(ev);
}

/* One client, until it has closed. */
static void receive_visit(struct side *s)
{
	const struct iovec iov = { s->source, s->job->size };
	struct evering_request request;
	struct evering_params limits;
	struct door *d = s->state;
	struct evering_ops *ops;
	struct evering *ev;
	const void *data;
	uint64_t len;
	int ret;

	limit(s, &limits);
	ret = evering_accept(d->listener, &limits, WAIT, &ev);
	if (ret)
		fail(s, "evering_accept: %s", strerror(-ret));
	ret = evering_ops_open(ev, NULL, &ops);
	if (!ret)
		ret = evering_op_next(ops, &request, WAIT);
	if (ret)
		fail(s, "evering_op_next: %s", strerror(-ret));
	data = evering_request_bytes(&request, &len);
	check_came(s, data, len);
	next_message(s);
	ret = evering_op_answerv(ops, request.id, 0, &iov, 1, WAIT);
	if (ret)
		fail(s, "evering_op_answerv: %s", strerror(-ret));
	ret = evering_op_next(ops, &request, WAIT);
	if (ret != -EPIPE)
		fail(s, "the client does not close: %s", strerror(-ret));
	evering_ops_close(ops);
	evering_close(ev);
}

void meet_work(struct side *s, uint64_t ops)
{
	int64_t at = probe_start(s);
	char name[NAME_LEN];

	own_name(s, name);
	for (; ops; ops--) {
		s->number++;
		if (s->server)
			receive_visit(s);
		else
			visit(s, name);
		at = probe_lap(s, at);
	}
}

void meet_close(struct side *s)
{
	struct door *d = s->state;

	if (d->listener)
		evering_listener_close(d->listener);
	free(d->answer);
	free(d);
}

/* Unix sockets ------------------------------------------------------------ */

#define EVENTS 16

struct desk {
	int epoll;
	int listener;
	struct sockaddr_un address;
	socklen_t address_len;
	unsigned char *in;
};

static int socket_type(const struct side *s)
{
	return s->arm->variant;
}

static void watch(struct side *s, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	struct desk *d = s->state;

	s->syscalls++;
	if (epoll_ctl(d->epoll, EPOLL_CTL_ADD, fd, &event))
		fail(s, "epoll_ctl: %m");
}

static void desk_open(struct side *s)
{
	struct desk *d = calloc(1, sizeof(*d));
	char name[NAME_LEN];
	size_t len = strlen(own_name(s, name));

	if (d)
		d->in = malloc(s->job->size);
	if (!d || !d->in)
		fail(s, "no memory");
	s->state = d;
	d->epoll = d->listener = -1;
	d->address.sun_family = AF_UNIX;
	memcpy(d->address.sun_path + 1, name + 1, len - 1);
	d->address_len =
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (s->server) {
		d->epoll = epoll_create1(EPOLL_CLOEXEC);
		d->listener = socket(
			AF_UNIX, socket_type(s) | SOCK_CLOEXEC | SOCK_NONBLOCK,
			0);
		if (d->epoll < 0 || d->listener < 0 ||
		    bind(d->listener, (struct sockaddr *)&d->address,
			 d->address_len) ||
		    listen(d->listener, SOMAXCONN))
			fail(s, "a listening socket: %m");
		watch(s, d->listener);
	}
	wait_for_server(s);
}

static void send_all(struct side *s, int fd)
{
	const unsigned char *at = s->source;
	size_t left = s->job->size;
	struct pollfd room = { .fd = fd, .events = POLLOUT };
	ssize_t n;

	while (left) {
		s->syscalls++;
		n = send(fd, at, left, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			/* More than a socket takes: nothing else is to be done. */
			s->syscalls++;
			poll(&room, 1, -1);
			continue;
		}
		if (n <= 0)
			fail(s, "send: %m");
		at += n;
		left -= (size_t)n;
	}
}

static void desk_visit(struct side *s)
{
	struct desk *d = s->state;
	int fd = socket(AF_UNIX, socket_type(s) | SOCK_CLOEXEC, 0);
	size_t len = 0;
	ssize_t n;

	s->syscalls += 3; /* and close */
	if (fd < 0 ||
	    connect(fd, (struct sockaddr *)&d->address, d->address_len))
		fail(s, "connect: %m");
	next_message(s);
	send_all(s, fd);
	while (len < s->job->size) {
		s->syscalls++;
		n = recv(fd, d->in + len, s->job->size - len, 0);
		if (n <= 0)
			fail(s, "recv: the server is gone");
		len += (size_t)n;
	}
	check_came(s, d->in, len);
	close(fd);
}

/* What has come; true: the client has closed.  *@len: of a message that is not whole. */
static bool serve(struct side *s, int fd, size_t *len)
{
	struct desk *d = s->state;
	ssize_t n;

	for (;;) {
		s->syscalls++;
		n = recv(fd, d->in + *len, s->job->size - *len, 0);
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0)
			fail(s, "recv: %m");
		if (!n)
			return true;
		*len += (size_t)n;
		if (*len < s->job->size)
			continue;
		check_came(s, d->in, *len);
		next_message(s);
		send_all(s, fd);
		*len = 0;
		/* The client does not say more before it has read that. */
		return false;
	}
}

/* The client, until it has closed; one after another they come. */
static void desk_receive(struct side *s)
{
	struct epoll_event events[EVENTS];
	struct desk *d = s->state;
	int client = -1, count;
	bool closed = false;
	size_t len = 0;

	while (!closed) {
		s->syscalls++;
		count = epoll_wait(d->epoll, events, EVENTS, -1);
		if (count < 0)
			fail(s, "epoll_wait: %m");
		/* Either there is no client yet, or the next waits for this one's end. */
		if (client >= 0) {
			closed = serve(s, client, &len);
			continue;
		}
		s->syscalls++;
		client = accept4(d->listener, NULL, NULL,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (client < 0)
			fail(s, "accept: %m");
		watch(s, client);
		closed = serve(s, client, &len);
	}
	s->syscalls++;
	close(client);
}

static void desk_work(struct side *s, uint64_t ops)
{
	int64_t at = probe_start(s);

	for (; ops; ops--) {
		s->number++;
		if (s->server)
			desk_receive(s);
		else
			desk_visit(s);
		at = probe_lap(s, at);
	}
}

static void desk_close(struct side *s)
{
	struct desk *d = s->state;

	if (s->server) {
		close(d->listener);
		close(d->epoll);
	}
	free(d->in);
	free(d);
}

/* Arms -------------------------------------------------------------------- */

#define RING_MODES                                                             \
	{                                                                      \
		[MODE_CONNECT] = ONLY(EVERING_BLOCK) | ONLY(EVERING_ADAPTIVE)  \
	}
#define DESK_MODES                                                             \
	{                                                                      \
		[MODE_CONNECT] = ONLY(EVERING_BLOCK)                           \
	}

const struct arm evering_device_ring_arm = {
	.name = "evering-device-ring",
	.modes = RING_MODES,
	.most = RING_MOST,
	.variant = EVERING_BACKEND_DEVICE | RING_ALONE,
	.uncounted = 1u << MODE_CONNECT,
	.missing = device_missing,
	.open = meet_open,
	.work = meet_work,
	.close = meet_close,
};

const struct arm evering_memfd_ring_arm = {
	.name = "evering-memfd-ring",
	.modes = RING_MODES,
	.most = RING_MOST,
	.variant = EVERING_BACKEND_MEMFD | RING_ALONE,
	.uncounted = 1u << MODE_CONNECT,
	.open = meet_open,
	.work = meet_work,
	.close = meet_close,
};

const struct arm uds_stream_arm = {
	.name = "uds-stream",
	.modes = DESK_MODES,
	.variant = SOCK_STREAM,
	.open = desk_open,
	.work = desk_work,
	.close = desk_close,
};

const struct arm uds_seqpacket_arm = {
	.name = "uds-seqpacket",
	.modes = DESK_MODES,
	.most = PACKET_MOST,
	.variant = SOCK_SEQPACKET,
	.open = desk_open,
	.work = desk_work,
	.close = desk_close,
};
