// SPDX-License-Identifier: MIT
/*
 * Arms: Unix sockets with epoll, in the two ways of uds.h.
 *
 * original: as tokio does it: edge-triggered, every operation tried first, and
 * given up until the next event when it would block or did less than was asked.
 *
 * rtt, depth 1: the same, with one connection; busy polls without sleeping.  good
 * has no need of epoll there and waits in recv(2).  stream: original writes and
 * reads header and body apart, good up to 64 messages at once.  message and request:
 * good alone, header and body in a call, from where the body is; request also busy.
 *
 * chain: good, through two proxies; small messages of a stream many in a call.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "message.h"
#include "uds.h"

#define EVENTS 256
#define BATCH 64u
#define BATCH_BYTES (64u << 10)

struct loop {
	int epoll;
	uint32_t count;
	uint64_t done; /* operations of this call of work(), of so many */
	uint64_t ops;
	struct conn conns[MAX_DEPTH];
	struct mux mux;
	int fd; /* rtt good, stream */
	unsigned char *batch;
	uint32_t number;
};

static bool one_fd(const struct side *s)
{
	return s->job->mode == MODE_STREAM || s->arm->variant == UDS_GOOD;
}

static bool blocking(const struct side *s)
{
	return s->job->mode >= MODE_RTT && one_fd(s);
}

/* Messages of a stream in a call. */
static uint32_t batch(const struct job *job)
{
	size_t len = HEADER + message_size(job);

	if (job->mode == MODE_RELAY_STREAM && len <= BATCH_BYTES)
		return len * BATCH < BATCH_BYTES ?
			       BATCH :
			       (uint32_t)(BATCH_BYTES / len);
	return job->mode == MODE_STREAM && len <= 4096 ? BATCH : 1;
}

static void watch(struct side *s, int fd, void *what)
{
	struct loop *l = s->state;
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.ptr = what,
	};

	s->syscalls++;
	if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &event))
		fail(s, "epoll_ctl: %m");
}

static int connection(struct side *s)
{
	int flags = blocking(s) ? 0 : SOCK_NONBLOCK;

	return s->server ? uds_accept(s, flags) : uds_connect(s, flags);
}

static void epoll_open(struct side *s)
{
	struct loop *l = calloc(1, sizeof(*l));
	uint32_t i;
	int fd;

	if (!l)
		fail(s, "no memory");
	s->state = l;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0)
		fail(s, "epoll_create1: %m");
	if (through_relay(s->job->mode))
		chain_begin(s);
	l->count = one_fd(s) ? 1 : s->job->depth;
	for (i = 0; i < l->count; i++) {
		fd = connection(s);
		if (blocking(s)) {
			l->fd = fd;
			l->batch =
				malloc((s->job->size + HEADER) * batch(s->job));
			if (!l->batch)
				fail(s, "no memory");
		} else if (one_fd(s)) {
			mux_init(s, &l->mux, fd);
			watch(s, fd, &l->mux);
		} else {
			conn_init(s, &l->conns[i], fd);
			watch(s, fd, &l->conns[i]);
		}
	}
}

/* One attempt; what it did, 0 if it would have to wait. */
static size_t attempt(struct side *s, int fd, bool reads, struct iovec at)
{
	ssize_t n;

	s->syscalls++;
	n = reads ? recv(fd, at.iov_base, at.iov_len, 0) :
		    send(fd, at.iov_base, at.iov_len, MSG_NOSIGNAL);
	if (n > 0)
		return (size_t)n;
	if (n < 0 && errno == EAGAIN)
		return 0;
	fail(s, "%s: %s", reads ? "recv" : "send",
	     n ? strerror(errno) : "the other side is gone");
}

static void conn_step(struct side *s, struct loop *l, struct conn *c)
{
	struct iovec at;
	bool reads, *ready;
	size_t n;

	/* After the last one there is nothing to be read, or the other side's end. */
	while (!c->idle && l->done < l->ops) {
		reads = conn_reads(c);
		ready = reads ? &c->readable : &c->writable;
		if (!*ready)
			return;
		at = conn_next(s, c);
		n = attempt(s, c->fd, reads, at);
		if (n < at.iov_len)
			*ready = false;
		if (n && conn_done(s, c, n))
			l->done++;
	}
}

static int next_events(struct side *s, struct epoll_event *events)
{
	struct loop *l = s->state;
	bool busy = s->job->policy == EVERING_BUSY;
	int n;

	do {
		s->syscalls++;
		n = epoll_wait(l->epoll, events, EVENTS, busy ? 0 : -1);
	} while (n == 0 || (n < 0 && errno == EINTR));
	if (n < 0)
		fail(s, "epoll_wait: %m");
	return n;
}

static void conns_work(struct side *s, uint64_t ops)
{
	struct epoll_event events[EVENTS];
	struct loop *l = s->state;
	struct conn *c;
	int64_t at = probe_start(s);
	uint64_t seen = 0;
	uint32_t i;
	int n;

	l->done = 0;
	l->ops = ops;
	for (i = 0; i < l->count; i++) {
		if (!s->server)
			conn_load(s, &l->conns[i], message_ops(s->job, ops, i));
		conn_step(s, l, &l->conns[i]);
	}
	while (l->done < ops) {
		n = next_events(s, events);
		while (n--) {
			c = events[n].data.ptr;
			c->readable |= !!(events[n].events & ~EPOLLOUT);
			c->writable |= !!(events[n].events & EPOLLOUT);
			conn_step(s, l, c);
		}
		if (s->probe && l->done != seen) {
			at = probe_lap(s, at);
			seen = l->done;
		}
	}
}

static void mux_work(struct side *s, uint64_t ops)
{
	struct epoll_event events[EVENTS];
	struct iovec iov[MUX_IOVECS], room;
	struct loop *l = s->state;
	struct mux *m = &l->mux;
	bool readable = true, writable = true;
	ssize_t sent;
	size_t n;
	int count;

	mux_load(s, m, ops);
	for (;;) {
		while (writable && (count = mux_output(s, m, iov))) {
			s->syscalls++;
			sent = writev(m->fd, iov, count);
			if (sent < 0 && errno != EAGAIN)
				fail(s, "writev: %m");
			writable = sent >= 0;
			if (sent > 0)
				mux_sent(s, m, (size_t)sent);
		}
		if (!mux_busy(s, m))
			return;
		if (readable) {
			room = mux_room(s, m);
			n = attempt(s, m->fd, true, room);
			readable = n == room.iov_len;
			if (n)
				mux_came(s, m, n);
			if (n)
				continue;
		}
		/* A short read leaves nothing; an event since then is reported. */
		for (count = next_events(s, events); count--;) {
			readable |= !!(events[count].events & ~EPOLLOUT);
			writable |= !!(events[count].events & EPOLLOUT);
		}
	}
}

/* Blocking calls, or spinning ones; all of it. */
static void transfer(struct side *s, bool reads, void *buf, size_t len)
{
	struct loop *l = s->state;
	bool busy = s->job->policy == EVERING_BUSY;
	int flags = MSG_NOSIGNAL | (busy ? MSG_DONTWAIT : 0);
	unsigned char *at = buf;
	ssize_t n;

	while (len) {
		s->syscalls++;
		n = reads ? recv(l->fd, at, len, flags) :
			    send(l->fd, at, len, flags);
		if (n < 0 && errno == EAGAIN)
			continue;
		if (n <= 0)
			fail(s, "%s: %s", reads ? "recv" : "send",
			     n ? strerror(errno) : "the other side is gone");
		at += n;
		len -= (size_t)n;
	}
}

static void message_out(struct side *s)
{
	struct loop *l = s->state;

	write_message(s, l->batch + HEADER, message_size(s->job), l->number);
	memcpy(l->batch, &l->number, HEADER);
	transfer(s, false, l->batch, HEADER + message_size(s->job));
}

static void message_in(struct side *s)
{
	struct loop *l = s->state;

	transfer(s, true, l->batch, HEADER + message_size(s->job));
	if (memcmp(l->batch, &l->number, HEADER) != 0)
		fail(s, "a header that was not sent");
	check_message(s, l->batch + HEADER, message_size(s->job), l->number);
}

static void rtt_work(struct side *s, uint64_t ops)
{
	struct loop *l = s->state;
	int64_t at = probe_start(s);

	for (; ops; ops--) {
		l->number++;
		if (!s->server)
			message_out(s);
		message_in(s);
		if (s->server)
			message_out(s);
		at = probe_lap(s, at);
	}
}

static void stream_apart(struct side *s)
{
	struct loop *l = s->state;
	unsigned char *body = l->batch + HEADER;
	size_t len = message_size(s->job);

	if (!s->server) {
		memcpy(l->batch, &l->number, HEADER);
		write_message(s, body, len, l->number);
	}
	transfer(s, s->server, l->batch, HEADER);
	transfer(s, s->server, body, len);
	if (s->server)
		check_message(s, body, len, l->number);
}

/* Many messages in a call, if they are small. */
static uint32_t stream_batch(struct side *s, uint64_t ops)
{
	struct loop *l = s->state;
	size_t len = HEADER + message_size(s->job);
	uint32_t count = batch(s->job), i;
	unsigned char *at;

	if (count > ops)
		count = (uint32_t)ops;
	if (s->server)
		transfer(s, true, l->batch, count * len);
	for (i = 0; i < count; i++) {
		at = l->batch + i * len;
		if (s->server) {
			if (whole_messages(s->job))
				read_message(s, at + HEADER, len - HEADER,
					     l->number + i);
			else
				check_message(s, at + HEADER, len - HEADER,
					      l->number + i);
			continue;
		}
		memset(at, 0, HEADER);
		write_message(s, at + HEADER, len - HEADER, l->number + i);
	}
	if (!s->server)
		transfer(s, false, l->batch, count * len);
	return count;
}

static void stream_work(struct side *s, uint64_t ops)
{
	struct loop *l = s->state;
	uint32_t count = 1;

	for (; ops; ops -= count, l->number += count) {
		if (s->arm->variant == UDS_GOOD)
			count = stream_batch(s, ops);
		else
			stream_apart(s);
	}
}

/* message and request */
static void whole_out(struct side *s, const void *buf, size_t len)
{
	struct loop *l = s->state;
	struct iovec iov[2] = { { &s->number, HEADER }, { (void *)buf, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	bool busy = s->job->policy == EVERING_BUSY;
	ssize_t n;

	do {
		s->syscalls++;
		n = sendmsg(l->fd, &msg,
			    MSG_NOSIGNAL | (busy ? MSG_DONTWAIT : 0));
		if (n < 0 && errno == EAGAIN)
			continue;
		if (n < 0)
			fail(s, "sendmsg: %m");
		/* Blocking, it is short only after a signal. */
		for (; msg.msg_iovlen && (size_t)n >= msg.msg_iov->iov_len;
		     msg.msg_iovlen--)
			n -= (ssize_t)msg.msg_iov++->iov_len;
		if (msg.msg_iovlen) {
			msg.msg_iov->iov_base =
				(char *)msg.msg_iov->iov_base + n;
			msg.msg_iov->iov_len -= (size_t)n;
		}
	} while (msg.msg_iovlen);
}

static void whole_in(struct side *s, uint32_t number)
{
	struct loop *l = s->state;

	transfer(s, true, l->batch, HEADER + s->job->size);
	if (memcmp(l->batch, &number, HEADER) != 0)
		fail(s, "a header that was not sent");
	read_message(s, l->batch + HEADER, s->job->size, number);
}

static void epoll_work(struct side *s, uint64_t ops)
{
	if (whole_messages(s->job) && batch(s->job) == 1)
		carry_messages(s, ops, whole_out, whole_in);
	else if (one_way(s->job))
		stream_work(s, ops);
	else if (blocking(s))
		rtt_work(s, ops);
	else if (one_fd(s))
		mux_work(s, ops);
	else
		conns_work(s, ops);
}

static void epoll_close(struct side *s)
{
	struct loop *l = s->state;
	uint32_t i;

	for (i = 0; i < l->count; i++) {
		if (l->conns[i].body)
			close(l->conns[i].fd);
		free(l->conns[i].body);
	}
	if (l->mux.in)
		close(l->mux.fd);
	free(l->mux.in);
	if (l->batch)
		close(l->fd);
	free(l->batch);
	close(l->epoll);
	free(l);
}

#define EPOLL_MODES                                                            \
	ONLY(EVERING_BLOCK), ONLY(EVERING_BLOCK),                              \
		ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),                      \
		ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY)

const struct arm epoll_original_arm = {
	.name = "uds-epoll",
	.modes = { EPOLL_MODES },
	.variant = UDS_ORIGINAL,
	.open = epoll_open,
	.work = epoll_work,
	.close = epoll_close,
};

const struct arm epoll_good_arm = {
	.name = "uds-epoll-good",
	.modes = { EPOLL_MODES, [MODE_MESSAGE] = ONLY(EVERING_BLOCK),
		   [MODE_REQUEST] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		   [MODE_UNPINNED] = ONLY(EVERING_BLOCK) },
	.variant = UDS_GOOD,
	.open = epoll_open,
	.work = epoll_work,
	.close = epoll_close,
};

const struct arm chain_arm = {
	.name = "chain",
	.modes = { [MODE_RELAY_RTT] = ONLY(EVERING_BLOCK),
		   [MODE_RELAY_STREAM] = ONLY(EVERING_BLOCK) },
	.variant = UDS_GOOD,
	.uncounted = RELAY_MODES,
	.open = epoll_open,
	.work = epoll_work,
	.close = epoll_close,
};
