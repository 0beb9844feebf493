// SPDX-License-Identifier: MIT
/*
 * Arms: many Unix sockets under one server thread; many.h describes the load.
 *
 * uds-epoll-good: the server has one epoll set, level-triggered, so that a socket in which
 * one receive has taken all is not tried again; all that has come of a socket, up to a
 * turn, is read at once, and answered at once.  busy: the set is asked without waiting, and
 * the client tries without waiting.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "many.h"
#include "uds.h"

#define EVENTS 256

struct desks {
	struct crowd crowd;
	int *fd;
	int set;
};

static bool busy(const struct side *s)
{
	return s->job->policy == EVERING_BUSY;
}

static void desks_open(struct side *s)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct desks *d = calloc(1, sizeof(*d));
	uint32_t i;

	if (!d)
		fail(s, "no memory");
	s->state = d;
	crowd_open(s, &d->crowd);
	d->fd = calloc(d->crowd.channels, sizeof(*d->fd));
	d->set = s->server ? epoll_create1(EPOLL_CLOEXEC) : -1;
	if (!d->fd || (s->server && d->set < 0))
		fail(s, "epoll_create1: %m");
	/* They are accepted in the order in which they connect. */
	for (i = 0; i < d->crowd.channels; i++) {
		d->fd[i] = s->server ? uds_accept(s, 0) : uds_connect(s, 0);
		event.data.u32 = i;
		if (s->server &&
		    epoll_ctl(d->set, EPOLL_CTL_ADD, d->fd[i], &event))
			fail(s, "epoll_ctl: %m");
	}
}

static void out(struct side *s, uint32_t which)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct desks *d = s->state;

	many_write(&d->crowd, buf, which);
	s->syscalls++;
	if (send(d->fd[which], buf, sizeof(buf), MSG_NOSIGNAL) != sizeof(buf))
		fail(s, "send: %m");
}

/* One answer; false: there is none, and @flags has MSG_DONTWAIT. */
static bool take(struct side *s, uint32_t which, int flags)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct desks *d = s->state;
	ssize_t n;

	s->syscalls++;
	n = recv(d->fd[which], buf, sizeof(buf), flags);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n != sizeof(buf))
		fail(s, "recv: %s",
		     n < 0 ? strerror(errno) : "a part of a message");
	many_answered(s, &d->crowd, buf, which);
	return true;
}

static void in(struct side *s, uint32_t which)
{
	while (!take(s, which, busy(s) ? MSG_DONTWAIT : 0))
		;
}

static bool try_in(struct side *s, uint32_t which)
{
	return take(s, which, MSG_DONTWAIT);
}

static bool push(struct side *s, uint32_t which)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct desks *d = s->state;

	write_words((uint32_t *)buf, sizeof(buf), d->crowd.number[which] + 1);
	s->syscalls++;
	if (send(d->fd[which], buf, sizeof(buf), MSG_NOSIGNAL | MSG_DONTWAIT) <
	    0) {
		if (errno == EAGAIN)
			return false;
		fail(s, "send: %m");
	}
	d->crowd.number[which]++;
	return true;
}

/* A turn of a socket; how many of its requests were answered. */
static uint32_t turn(struct side *s, struct desks *d, uint32_t which)
{
	unsigned char buf[MANY_ENTRIES * MANY_MESSAGE]
		__attribute__((aligned(16)));
	unsigned char *at = buf, *end = buf;
	uint32_t answered = 0;
	ssize_t n;

	many_turn(s, which);
	s->syscalls++;
	n = recv(d->fd[which], buf, many_share(s) * MANY_MESSAGE, MSG_DONTWAIT);
	/* A message is sent, and so comes, whole. */
	if (n <= 0 || n % MANY_MESSAGE)
		fail(s, "recv: %s",
		     n < 0 ? strerror(errno) : "a channel has ended");
	for (; at < buf + n; at += MANY_MESSAGE) {
		if (!many_serves(s, &d->crowd, at, which))
			continue;
		many_write(&d->crowd, end, which);
		end += MANY_MESSAGE;
		answered++;
	}
	if (end == buf)
		return 0;
	s->syscalls++;
	n = send(d->fd[which], buf, (size_t)(end - buf),
		 MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n != end - buf)
		fail(s, "send: %m");
	return answered;
}

static void serve(struct side *s, struct desks *d, uint64_t ops)
{
	struct epoll_event events[EVENTS];
	int n, i;

	while (ops) {
		s->syscalls++;
		n = epoll_wait(d->set, events, EVENTS, busy(s) ? 0 : -1);
		if (n < 0 && errno != EINTR)
			fail(s, "epoll_wait: %m");
		for (i = 0; i < n; i++)
			ops -= turn(s, d, events[i].data.u32);
	}
}

static void desks_work(struct side *s, uint64_t ops)
{
	struct desks *d = s->state;

	if (s->server)
		serve(s, d, ops);
	else if (s->job->mode == MODE_MANY_FLOOD)
		many_flood(s, &d->crowd, ops, out, push, try_in);
	else
		many_ask(s, &d->crowd, ops, out, in);
}

static void desks_close(struct side *s)
{
	struct desks *d = s->state;
	uint32_t i;

	crowd_leave(s);
	for (i = 0; i < d->crowd.channels; i++)
		close(d->fd[i]);
	if (d->set >= 0)
		close(d->set);
	free(d->fd);
	crowd_close(&d->crowd);
	free(d);
}

const struct arm many_epoll_arm = {
	.name = "uds-epoll-good",
	.modes = {
		[MODE_MANY_ONE] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_SOME] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_ALL] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_ZIPF] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_FLOOD] = ONLY(EVERING_BLOCK),
	},
	.open = desks_open,
	.work = desks_work,
	.close = desks_close,
};
