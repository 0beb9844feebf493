// SPDX-License-Identifier: MIT
/*
 * clients.c: one server with many clients: what a channel costs each side, in descriptors
 * and in mappings, to the last one; and that they all get through.
 *
 *	EVERING_CLIENTS=n	how many (500; 50 if EVERING_SHORT).  10,000 take 50,010
 *				descriptors on memfd: the soft limit is raised to that,
 *				which takes as high a hard one, or root's rights.
 */
#include "common.h"

#include <dirent.h>
#include <poll.h>
#include <sys/resource.h>

#define SOME 500u
#define FEW 50u

/* What is beside the channels: standard streams, sockets, sets, pipes. */
#define BESIDE 64u

/* Of a channel, on one side. */
struct cost {
	int fds; /* exactly */
	int shared; /* mappings of shared memory, exactly */
	int mappings; /* of all kinds, with the books of its allocator, at most */
};

static const struct cost memfd_cost = { .fds = 5, .shared = 2, .mappings = 4 };
static const struct cost device_cost = { .fds = 1, .shared = 5, .mappings = 6 };

/* Of a group beside its channels, from its first one of the device on: the group file. */
static const struct cost no_file_cost = { .fds = 0 };
static const struct cost file_cost = { .fds = 1, .shared = 1, .mappings = 1 };

/* Of a process. */
struct weight {
	int fds;
	int shared;
	int mappings;
};

/* Without a limit. */
static int all_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static struct weight weigh(void)
{
	return (struct weight){ .fds = all_fds(),
				.shared = list_mappings(NULL, 0, true),
				.mappings = count_mappings() };
}

/* Is @now what @before and @n channels are?  0, or which is not. */
static int compare(const char *who, const struct weight *before,
		   const struct weight *now, const struct cost *cost, int n)
{
	int fds = now->fds - before->fds, shared = now->shared - before->shared;
	int mappings = now->mappings - before->mappings;

	printf("# %s: %d channels: %d descriptors, %d mappings, %d of them shared\n",
	       who, n, fds, mappings, shared);
	fflush(stdout);
	return fds != cost->fds * n	     ? 1 :
	       shared != cost->shared * n    ? 2 :
	       mappings > cost->mappings * n ? 3 :
					       0;
}

static unsigned int wanted(void)
{
	const char *n = getenv("EVERING_CLIENTS");

	if (n)
		return (unsigned int)strtoul(n, NULL, 10);
	return getenv("EVERING_SHORT") ? FEW : SOME;
}

/* Room for so many descriptors; false: there is none to be had. */
static bool make_room(rlim_t fds)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return false;
	if (limit.rlim_cur >= fds)
		return true;
	limit.rlim_cur = fds;
	if (limit.rlim_max < fds)
		limit.rlim_max = fds;
	return !setrlimit(RLIMIT_NOFILE, &limit);
}

FIXTURE(clients)
{
	struct evering_params p;
	struct evering_listener *listener;
	struct evering_group *group;
	char dir[64], path[108];
	unsigned int n;
	const struct cost *cost;
	const struct cost *group_cost;
	pid_t client;
	int done[2];
};

BACKEND_VARIANTS(clients);

FIXTURE_SETUP(clients)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;

	REQUIRE_BACKEND(variant->backend);
	self->done[0] = self->done[1] = -1;
	self->p = params_on(variant->backend);
	self->p.arena_size[0] = self->p.arena_size[1] = 1 << 20;
	self->p.policy = EVERING_BLOCK;
	params.policy = EVERING_BLOCK;
	self->n = wanted();
	if (variant->backend == EVERING_BACKEND_MEMFD) {
		self->cost = &memfd_cost;
		self->group_cost = &no_file_cost;
	} else {
		self->cost = &device_cost;
		self->group_cost = &file_cost;
	}
	strcpy(self->dir, "/tmp/evering-clients-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->path, sizeof(self->path), "%s/socket", self->dir);
	ASSERT_EQ(0, evering_group_open(&params, &self->group));
	ASSERT_EQ(0, pipe2(self->done, O_CLOEXEC));
}

FIXTURE_TEARDOWN(clients)
{
	kill_and_reap(self->client);
	evering_group_close(self->group);
	evering_listener_close(self->listener);
	close(self->done[0]);
	close(self->done[1]);
	EXPECT_EQ(0, rmdir(self->dir));
}

/* Says @v and hears it again, without a sleep: one that sleeps has an epoll set more. */
static bool is_served(struct evering *ev, uint32_t v)
{
	uint32_t answer;
	int ret;

	if (evering_send(ev, &v, sizeof(v), EVERING_NOWAIT) < 0)
		return false;
	do
		ret = evering_recv(ev, &answer, sizeof(answer), EVERING_NOWAIT);
	while (ret == -EAGAIN && !sched_yield());
	return !ret && answer == v;
}

/* All clients; says what came of them, and lives on. */
static int be_clients(void *arg)
{
	FIXTURE_DATA(clients) *self = arg;
	struct evering **ev = calloc(self->n, sizeof(struct evering *));
	struct weight before = weigh(), now;
	unsigned char ret = 0;
	uint32_t i;

	for (i = 0; i < self->n && !ret; i++)
		if (evering_connect(self->path, &self->p, PLENTY, &ev[i]))
			ret = 10;
		else if (!is_served(ev[i], i))
			ret = 11;
	/* Those that came first are there still. */
	for (i = 0; i < self->n && !ret; i++)
		if (!is_served(ev[i], ~i))
			ret = 12;
	now = weigh();
	if (!ret)
		ret = (unsigned char)compare("clients", &before, &now,
					     self->cost, (int)self->n);
	if (write(self->done[1], &ret, 1) != 1)
		return 13;
	await_death();
}

/* The group has its first channel, and then none again: 0, if that cost what it should. */
static int warm_up(const FIXTURE_DATA(clients) * self)
{
	struct weight before = weigh(), now;
	struct evering *ev[2];
	int ret = 10;

	if (evering_pair(&self->p, ev))
		return 11;
	if (!evering_group_add(self->group, ev[0], EVERING_RX, NULL) &&
	    !evering_group_remove(self->group, ev[0]))
		ret = 0;
	close_pair(ev);
	now = weigh();
	return ret ? ret : compare("group", &before, &now, self->group_cost, 1);
}

/* What a server does for one event.  *@open: its channels. */
static int serve(const struct evering_group_event *event,
		 FIXTURE_DATA(clients) * self, unsigned int *open)
{
	struct evering *ev = event->ev;
	uint32_t v;
	int ret;

	if (event->what & EVERING_GROUP_ACCEPT) {
		ret = evering_accept(self->listener, &self->p, EVERING_NOWAIT,
				     &ev);
		if (ret)
			return ret == -EAGAIN ? 0 : ret;
		++*open;
		return evering_group_add(self->group, ev, EVERING_RX, NULL);
	}
	if (event->what & EVERING_GROUP_GONE) {
		evering_close(ev);
		--*open;
		return 0;
	}
	while (!(ret = evering_recv(ev, &v, sizeof(v), EVERING_NOWAIT)))
		if (evering_send(ev, &v, sizeof(v), EVERING_NOWAIT) < 0)
			return -EPROTO;
	return ret == -EAGAIN || ret == -EPIPE ? 0 : ret;
}

TEST_F_TIMEOUT(clients, cost_what_they_should_and_nothing_when_they_have_gone,
	       3600)
{
	const struct evering_group_event *events;
	struct weight before, now;
	unsigned char result = 99;
	unsigned int open = 0;
	bool done = false;
	int n, i;

	if (!make_room((rlim_t)self->cost->fds * self->n + BESIDE))
		SKIP(return, "%u clients are more than the limits let have",
			   self->n);
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	ASSERT_EQ(0, evering_group_add_listener(self->group, self->listener,
						NULL));
	ASSERT_EQ(0, evering_group_add_fd(self->group, self->done[0], POLLIN,
					  NULL));
	ASSERT_EQ(0, warm_up(self));
	before = weigh();
	self->client = spawn(be_clients, self);
	while (!done) {
		n = evering_group_wait(self->group, &events, PLENTY);
		ASSERT_LT(0, n);
		for (i = 0; i < n; i++)
			if (events[i].what & EVERING_GROUP_FD)
				done = true;
			else
				ASSERT_EQ(0, serve(&events[i], self, &open));
	}
	EXPECT_EQ(1, read(self->done[0], &result, 1));
	EXPECT_EQ(0, result);
	ASSERT_EQ(self->n, open);
	now = weigh();
	EXPECT_EQ(0, compare("server", &before, &now, self->cost, (int)open));
	ASSERT_EQ(0, evering_group_remove_fd(self->group, self->done[0]));
	kill_and_reap(self->client);
	self->client = 0;
	while (open) {
		n = evering_group_wait(self->group, &events, PLENTY);
		ASSERT_LT(0, n);
		for (i = 0; i < n; i++)
			ASSERT_EQ(0, serve(&events[i], self, &open));
	}
	now = weigh();
	EXPECT_EQ(before.fds, now.fds);
	EXPECT_EQ(before.shared, now.shared);
}

TEST_HARNESS_MAIN
