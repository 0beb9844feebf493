// SPDX-License-Identifier: MIT
/*
 * Arms: many channels of evering under one server thread; many.h describes the load.
 *
 * evering-device, evering-memfd: the server's ends are members of a group, whose policy is
 * the cell's.  scan: the same channels, of memfd, looked at one after the other, without
 * end.  evering-memfd-loop: the evering_fd() of each in an epoll set of the server's own,
 * which arms it.  These two are what a server does without a group.  no-group: one channel
 * alone, in which the server waits.
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "many.h"

/* Of each channel: see the library's memfd.c. */
#define MEMFD_DESCRIPTORS 5
#define MEMFD_MAPPINGS 4

/* The harness has a limit of its own. */
#define WAIT EVERING_WAIT_FOREVER

/* Limits ------------------------------------------------------------------ */

void many_raise_limits(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files))
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

void many_limits(struct many_limits *limits)
{
	FILE *in = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long long mappings;
	struct rlimit files;

	*limits = (struct many_limits){ UINT64_MAX, UINT64_MAX };
	if (!getrlimit(RLIMIT_NOFILE, &files))
		limits->descriptors = files.rlim_cur;
	if (!in)
		return;
	if (fscanf(in, "%llu", &mappings) == 1)
		limits->mappings = mappings;
	fclose(in);
}

static void *allocate(struct side *s, size_t count, size_t size)
{
	void *p = calloc(count, size);

	if (!p)
		fail(s, "no memory for %zu channels", count);
	return p;
}

/* The channels ------------------------------------------------------------ */

enum way {
	GROUP,
	SCAN,
	LOOP,
	ALONE
};

/* struct arm.variant: the backend, and a way, shifted by: */
#define WAY_SHIFT 8
#define BACKEND 0xff

struct lanes {
	struct crowd crowd;
	struct evering **ev;
	struct evering_group *group;
	int set;
	uint64_t left;
	uint64_t calls;
};

static enum way way(const struct side *s)
{
	return (enum way)(s->arm->variant >> WAY_SHIFT);
}

/* So many connect at the same time: as many as a listener greets side by side. */
#define AT_ONCE 64u

static void wish(const struct side *s, struct evering_params *params)
{
	*params = (struct evering_params)EVERING_PARAMS_INIT;
	params->backend = s->arm->variant & BACKEND;
	params->slot_size = MANY_SLOT;
	params->entries = MANY_ENTRIES;
	params->arena_size[0] = params->arena_size[1] = 0;
	params->policy = s->job->policy;
	/* It waits next for what it has just asked. */
	if (s->job->depth == 1 && s->job->mode != MODE_MANY_FLOOD)
		params->policy |= EVERING_LAZY_RING;
}

/* Channels from @first on. */
static void connect_some(struct side *s, struct lanes *l, uint32_t first,
			 uint32_t count)
{
	struct evering_connecting *c[AT_ONCE];
	struct evering_params params;
	struct pollfd fd = { .events = POLLIN };
	char name[NAME_LEN];
	uint32_t i;
	int ret = 0;

	wish(s, &params);
	own_name(s, name);
	for (i = 0; i < count; i++) {
		ret = evering_connect_begin(name, &params, WAIT, &c[i]);
		if (ret)
			fail(s, "channel %u: %s", first + i, strerror(-ret));
	}
	for (i = 0; i < count; i++) {
		while ((ret = evering_connecting_step(
				c[i], &l->ev[first + i])) == -EAGAIN) {
			fd.fd = evering_connecting_fd(c[i]);
			poll(&fd, 1, -1);
		}
		if (ret)
			fail(s, "channel %u: %s", first + i, strerror(-ret));
		evering_connecting_close(c[i]);
	}
}

/* And says which each of them is. */
static void connect_all(struct side *s, struct lanes *l)
{
	uint32_t n = l->crowd.channels, i;
	int ret;

	wait_for_server(s);
	for (i = 0; i < n; i += AT_ONCE)
		connect_some(s, l, i, n - i < AT_ONCE ? n - i : AT_ONCE);
	for (i = 0; i < n; i++) {
		ret = evering_send(l->ev[i], &i, sizeof(i), WAIT);
		evering_flush(l->ev[i]);
		if (ret)
			fail(s, "channel %u: %s", i, strerror(-ret));
	}
}

static void accept_all(struct side *s, struct lanes *l)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering **come = allocate(s, l->crowd.channels, sizeof(*come));
	uint32_t n = l->crowd.channels, i, which;
	struct evering_listener *listener;
	char name[NAME_LEN];
	int ret;

	limits.policy = s->job->policy;
	if (way(s) == GROUP || way(s) == ALONE)
		limits.policy |= EVERING_LAZY_RING;
	ret = evering_listen(own_name(s, name), 0, &listener);
	if (ret)
		fail(s, "evering_listen: %s", strerror(-ret));
	wait_for_server(s);
	for (i = 0; i < n; i++) {
		ret = evering_accept(listener, &limits, WAIT, &come[i]);
		if (ret)
			fail(s, "evering_accept: %s", strerror(-ret));
	}
	for (i = 0; i < n; i++) {
		ret = evering_recv(come[i], &which, sizeof(which), WAIT);
		if (ret || which >= n || l->ev[which])
			fail(s, "a channel does not say which it is");
		l->ev[which] = come[i];
	}
	evering_listener_close(listener);
	free(come);
}

static void join(struct side *s, struct lanes *l, uint32_t which)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET,
				     .data.u32 = which };
	int ret = 0;

	if (way(s) == GROUP)
		ret = evering_group_add(l->group, l->ev[which], EVERING_RX,
					(void *)(uintptr_t)which);
	else if (way(s) == LOOP)
		ret = epoll_ctl(l->set, EPOLL_CTL_ADD, evering_fd(l->ev[which]),
				&event) ?
			      -errno :
			      evering_arm(l->ev[which], EVERING_RX);
	/* Nobody has asked yet: there is nothing that it could have armed for in vain. */
	if (ret)
		fail(s, "channel %u does not join the others: %d", which, ret);
}

static void lanes_open(struct side *s)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	struct lanes *l = calloc(1, sizeof(*l));
	uint32_t i;
	int ret = 0;

	if (!l)
		fail(s, "no memory");
	s->state = l;
	crowd_open(s, &l->crowd);
	l->ev = allocate(s, l->crowd.channels, sizeof(struct evering *));
	l->set = -1;
	params.policy = s->job->policy;
	if (s->server && way(s) == GROUP)
		ret = evering_group_open(&params, &l->group);
	else if (s->server && way(s) == LOOP)
		l->set = epoll_create1(EPOLL_CLOEXEC);
	if (ret < 0)
		fail(s, "evering_group_open: %s", strerror(-ret));
	if (!s->server) {
		connect_all(s, l);
		wait_for_server(s);
		return;
	}
	accept_all(s, l);
	for (i = 0; i < l->crowd.channels; i++)
		join(s, l, i);
	wait_for_server(s);
}

/* The client -------------------------------------------------------------- */

static void out(struct side *s, uint32_t which)
{
	struct lanes *l = s->state;
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	int ret;

	many_write(&l->crowd, buf, which);
	ret = evering_send(l->ev[which], buf, sizeof(buf), WAIT);
	if (ret)
		fail(s, "evering_send: %s", strerror(-ret));
}

static void in(struct side *s, uint32_t which)
{
	struct lanes *l = s->state;
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	int ret;

	/* A signal that is ignored may end it, too: it was blocked while this spun. */
	do
		ret = evering_recv(l->ev[which], buf, sizeof(buf), WAIT);
	while (ret == -EINTR);
	if (ret)
		fail(s, "evering_recv: %s", strerror(-ret));
	many_answered(s, &l->crowd, buf, which);
}

static bool push(struct side *s, uint32_t which)
{
	struct lanes *l = s->state;
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	int ret;

	if (!evering_reserve(l->ev[which]))
		return false;
	l->crowd.number[which]++;
	many_write(&l->crowd, buf, which);
	ret = evering_send(l->ev[which], buf, sizeof(buf), EVERING_NOWAIT);
	if (ret)
		fail(s, "evering_send: %s", strerror(-ret));
	return true;
}

static bool try_in(struct side *s, uint32_t which)
{
	struct lanes *l = s->state;

	if (!evering_peek(l->ev[which]))
		return false;
	in(s, which);
	return true;
}

/* The server -------------------------------------------------------------- */

/* A turn of a channel; how many of its requests were answered. */
static uint32_t turn(struct side *s, struct lanes *l, uint32_t which)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct evering *ev = l->ev[which];
	uint32_t answered = 0, i;
	int ret;

	many_turn(s, which);
	for (i = 0; i < many_share(s); i++) {
		ret = evering_recv(ev, buf, sizeof(buf), EVERING_NOWAIT);
		if (ret == -EAGAIN)
			break;
		if (ret)
			fail(s, "evering_recv: %s", strerror(-ret));
		if (!many_serves(s, &l->crowd, buf, which))
			continue;
		many_write(&l->crowd, buf, which);
		ret = evering_send(ev, buf, sizeof(buf), EVERING_NOWAIT);
		if (ret)
			fail(s, "evering_send: %s", strerror(-ret));
		answered++;
	}
	return answered;
}

static void serve_group(struct side *s, struct lanes *l, uint64_t ops)
{
	const struct evering_group_event *events;
	int n, i;

	while (ops) {
		n = evering_group_wait(l->group, &events, WAIT);
		if (n == -EINTR)
			continue;
		if (n < 0)
			fail(s, "evering_group_wait: %s", strerror(-n));
		for (i = 0; i < n; i++) {
			if (events[i].what != EVERING_RX)
				fail(s, "a channel has ended: %s",
				     strerror(-events[i].result));
			ops -= turn(s, l,
				    (uint32_t)(uintptr_t)events[i].context);
		}
	}
	/* The last answers: peers are owed their rings until the next wait. */
	evering_group_wait(l->group, &events, EVERING_NOWAIT);
}

static void serve_scan(struct side *s, struct lanes *l, uint64_t ops)
{
	uint32_t i;

	while (ops)
		for (i = 0; ops && i < l->crowd.channels; i++)
			if (evering_peek(l->ev[i]))
				ops -= turn(s, l, i);
}

static void serve_loop(struct side *s, struct lanes *l, uint64_t ops)
{
	struct epoll_event events[EVERING_GROUP_BATCH];
	struct evering *ev;
	int n, i;

	while (ops) {
		l->calls++;
		n = epoll_wait(l->set, events, EVERING_GROUP_BATCH, -1);
		for (i = 0; i < n; i++) {
			ev = l->ev[events[i].data.u32];
			do
				ops -= turn(s, l, events[i].data.u32);
			while (evering_arm(ev, EVERING_RX) > 0);
		}
	}
}

static void serve_alone(struct side *s, struct lanes *l, uint64_t ops)
{
	int ret;

	while (ops) {
		ret = evering_wait(l->ev[0], EVERING_RX | EVERING_FLUSH, WAIT);
		if (ret < 0 && ret != -EINTR)
			fail(s, "evering_wait: %s", strerror(-ret));
		ops -= turn(s, l, 0);
	}
	evering_flush(l->ev[0]);
}

static void lanes_work(struct side *s, uint64_t ops)
{
	struct lanes *l = s->state;

	if (s->server && way(s) == GROUP)
		serve_group(s, l, ops);
	else if (s->server && way(s) == SCAN)
		serve_scan(s, l, ops);
	else if (s->server && way(s) == ALONE)
		serve_alone(s, l, ops);
	else if (s->server)
		serve_loop(s, l, ops);
	else if (s->job->mode == MODE_MANY_FLOOD)
		many_flood(s, &l->crowd, ops, out, push, try_in);
	else
		many_ask(s, &l->crowd, ops, out, in);
}

static void lanes_close(struct side *s)
{
	struct lanes *l = s->state;
	uint32_t i;

	crowd_leave(s);
	evering_group_close(l->group);
	for (i = 0; i < l->crowd.channels; i++)
		evering_close(l->ev[i]);
	free(l->ev);
	crowd_close(&l->crowd);
	free(l);
}

/* Arms --------------------------------------------------------------------- */

#define MANY(policies)                                                         \
	[MODE_MANY_ONE] = (policies), [MODE_MANY_SOME] = (policies),           \
	[MODE_MANY_ALL] = (policies), [MODE_MANY_ZIPF] = (policies)
#define GROUP_MODES                                                            \
	{                                                                      \
		MANY(ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY)),                \
			[MODE_MANY_FLOOD] = ONLY(EVERING_BLOCK)                \
	}

/* A group's calls are no endpoint's. */
const struct arm many_device_arm = {
	.name = "evering-device",
	.modes = GROUP_MODES,
	.variant = EVERING_BACKEND_DEVICE | GROUP << WAY_SHIFT,
	.uncounted = MANY_MODES,
	.descriptors = 1,
	.mappings = 3,
	.missing = device_missing,
	.open = lanes_open,
	.work = lanes_work,
	.close = lanes_close,
};

const struct arm many_memfd_arm = {
	.name = "evering-memfd",
	.modes = GROUP_MODES,
	.variant = EVERING_BACKEND_MEMFD | GROUP << WAY_SHIFT,
	.uncounted = MANY_MODES,
	.descriptors = MEMFD_DESCRIPTORS,
	.mappings = MEMFD_MAPPINGS,
	.open = lanes_open,
	.work = lanes_work,
	.close = lanes_close,
};

const struct arm many_loop_arm = {
	.name = "evering-memfd-loop",
	.modes = { MANY(ONLY(EVERING_BLOCK)) },
	.variant = EVERING_BACKEND_MEMFD | LOOP << WAY_SHIFT,
	.uncounted = MANY_MODES,
	.descriptors = MEMFD_DESCRIPTORS + 1,
	.mappings = MEMFD_MAPPINGS,
	.open = lanes_open,
	.work = lanes_work,
	.close = lanes_close,
};

const struct arm many_alone_arm = {
	.name = "no-group",
	.modes = {
		[MODE_MANY_ONE] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
	},
	.most = 1,
	.variant = EVERING_BACKEND_MEMFD | ALONE << WAY_SHIFT,
	.uncounted = MANY_MODES,
	.open = lanes_open,
	.work = lanes_work,
	.close = lanes_close,
};

const struct arm many_scan_arm = {
	.name = "scan",
	.modes = { MANY(ONLY(EVERING_BUSY)) },
	.variant = EVERING_BACKEND_MEMFD | SCAN << WAY_SHIFT,
	.uncounted = MANY_MODES,
	.descriptors = MEMFD_DESCRIPTORS,
	.mappings = MEMFD_MAPPINGS,
	.open = lanes_open,
	.work = lanes_work,
	.close = lanes_close,
};
