// SPDX-License-Identifier: MIT
/*
 * spin.c: how long EVERING_ADAPTIVE spins before it sleeps, to the nanosecond.  Time
 * is the test's: a look at the clock takes one, and a sleep as long as it is told to.
 * The peer is in the same thread, and answers from within the sleep, or from within a
 * look.  So nothing depends on what the machine does meanwhile.
 */
#include "op.h"
#include "interpose.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>

/**
 * struct world - what the library lives in while it is @on
 * @now: the time
 * @nap: how long a sleep takes
 * @peer: who answers a sleeper
 * @slept_at: when the last sleep began
 * @sleeps: how many there were
 * @look: called at the first look at the clock from @look_at on, once
 */
static struct world {
	bool on;
	int64_t now;
	int64_t nap;
	struct evering *peer;
	int64_t slept_at;
	unsigned int sleeps;
	void (*look)(struct evering *peer);
	int64_t look_at;
} world;

static void answer(struct evering *peer)
{
	uint32_t v = 0;

	if (evering_send(peer, &v, sizeof(v), EVERING_NOWAIT))
		abort();
}

HIDDEN int clock_gettime(clockid_t clock, struct timespec *ts)
{
	if (!world.on)
		return REAL(clock_gettime)(clock, ts);
	if (world.look && world.now >= world.look_at) {
		world.look(world.peer);
		world.look = NULL;
	}
	ts->tv_sec = world.now / SEC;
	ts->tv_nsec = world.now % SEC;
	world.now++;
	return 0;
}

static void sleeping(void)
{
	if (!world.on)
		return;
	world.slept_at = world.now;
	world.sleeps++;
	world.now += world.nap;
	answer(world.peer);
}

HIDDEN int epoll_wait(int set, struct epoll_event *events, int n, int ms)
{
	sleeping();
	return REAL(epoll_wait)(set, events, n, ms);
}

HIDDEN int epoll_pwait(int set, struct epoll_event *events, int n, int ms,
		       const sigset_t *mask)
{
	sleeping();
	return REAL(epoll_pwait)(set, events, n, ms, mask);
}

HIDDEN int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
		 const sigset_t *mask)
{
	if (n) /* else it only asks for signals */
		sleeping();
	return REAL(ppoll)(fds, n, timeout, mask);
}

HIDDEN int ioctl(int fd, ioctl_command given, ...)
{
	const unsigned int command = (unsigned int)given;
	va_list args;
	void *arg;

	va_start(args, given);
	arg = va_arg(args, void *);
	va_end(args);
	if (command == EVERING_IOC_ENTER)
		sleeping();
	return REAL(ioctl)(fd, given, arg);
}

FIXTURE(spin)
{
	struct evering *ev[2];
	struct evering *a, *b;
};

BACKEND_VARIANTS(spin);

FIXTURE_SETUP(spin)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 64, 16, 0);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
	world = (struct world){ .peer = self->b };
}

FIXTURE_TEARDOWN(spin)
{
	close_pair(self->ev);
}

static int wait_in_world(struct evering *ev, unsigned int what)
{
	int ret;

	world.sleeps = 0;
	world.on = true;
	ret = evering_wait(ev, what, EVERING_WAIT_FOREVER);
	world.on = false;
	return ret;
}

/*
 * How long the next wait spins before a sleep of @nap that ends with an answer; -1 if
 * it went otherwise.
 */
static int64_t spins(struct evering *ev, int64_t nap)
{
	int64_t start = world.now, took;
	uint32_t v;

	world.nap = nap;
	if (wait_in_world(ev, EVERING_RX) != EVERING_RX || world.sleeps != 1 ||
	    evering_recv(ev, &v, sizeof(v), EVERING_NOWAIT))
		return -1;
	/* One look before it, and two for a spin: at its begin and after it. */
	took = world.slept_at - start - 1;
	return took ? took - 2 : 0;
}

/* A wait that has its answer @after it began, and does not sleep. */
static bool finds(struct evering *ev, int64_t after)
{
	uint32_t v;

	world.look = answer;
	world.look_at = world.now + after;
	return wait_in_world(ev, EVERING_RX) == EVERING_RX && !world.sleeps &&
	       !evering_recv(ev, &v, sizeof(v), EVERING_NOWAIT);
}

#define SHORT 1
#define LONG 10000

TEST_F(spin, halves_after_a_long_wait_until_there_is_none)
{
	static const int64_t expect[] = { 800, 400, 200, 100, 0, 0, 0 };
	size_t i;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 800));
	for (i = 0; i < ARRAY_SIZE(expect); i++)
		EXPECT_EQ(expect[i], spins(self->a, LONG));
	/* What it has learned is forgotten with a new policy. */
	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 800));
	EXPECT_EQ(800, spins(self->a, LONG));
}

TEST_F(spin, doubles_after_a_short_wait)
{
	static const int64_t expect[] = { 0, 100, 200, 400 };
	size_t i;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 800));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(800 >> i, spins(self->a, LONG));
	for (i = 0; i < ARRAY_SIZE(expect); i++)
		EXPECT_EQ(expect[i], spins(self->a, SHORT));
	/* And so it stays, while it finds something. */
	for (i = 0; i < 100; i++)
		ASSERT_TRUE(finds(self->a, 799));
}

TEST_F(spin, is_never_longer_than_it_may_be)
{
	static const int64_t expect[] = { 0, 100, 200, 400 };
	size_t i;

	/* No eighth of it is a whole number. */
	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 807));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(807 >> i, spins(self->a, LONG));
	for (i = 0; i < ARRAY_SIZE(expect); i++)
		EXPECT_EQ(expect[i], spins(self->a, SHORT));
	ASSERT_TRUE(finds(self->a, 799));
	EXPECT_EQ(800, spins(self->a, SHORT));
	EXPECT_EQ(807, spins(self->a, SHORT));
}

/*
 * As where both sides share a CPU: the peer answers when the spin is over, always.
 */
TEST_F(spin, is_left_alone_for_longer_and_longer_while_it_is_in_vain)
{
	static const int64_t expect[] = { 800, 400, 800, 400 };
	static const int64_t again[] = { 0, 100, 200, 400, 800 };
	unsigned int hold, i;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 800));
	for (i = 0; i < ARRAY_SIZE(expect); i++)
		ASSERT_EQ(expect[i], spins(self->a, SHORT));
	for (hold = 8; hold < 4096; hold *= 2) {
		for (i = 0; i < hold && i < 1024; i++)
			ASSERT_EQ(0, spins(self->a, SHORT))
			{
				TH_LOG("sleep %u of %u", i, hold);
			}
		for (i = 0; i < ARRAY_SIZE(again); i++)
			ASSERT_EQ(again[i], spins(self->a, SHORT))
			{
				TH_LOG("after %u", hold);
			}
	}
}

TEST_F(spin, that_finds_something_is_none_in_vain)
{
	unsigned int round, i;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 800));
	for (round = 0; round < 5; round++) {
		/* Three in vain: not left alone. */
		for (i = 0; i < 3; i++)
			ASSERT_NE(0, spins(self->a, SHORT));
		ASSERT_TRUE(finds(self->a, 100));
	}
	/* Four: for eight sleeps, and not for more, having found something since. */
	for (round = 0; round < 3; round++) {
		for (i = 0; i < 4; i++)
			ASSERT_NE(0, spins(self->a, SHORT));
		for (i = 0; i < 9; i++)
			ASSERT_EQ(0, spins(self->a, SHORT));
		ASSERT_TRUE(finds(self->a, 50));
	}
}

TEST_F(spin, that_a_long_sleep_follows_is_none_in_vain)
{
	unsigned int i;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 800));
	for (i = 0; i < 3; i++)
		ASSERT_NE(0, spins(self->a, SHORT));
	ASSERT_EQ(400, spins(self->a, LONG));
	for (i = 0; i < 4; i++)
		EXPECT_NE(0, spins(self->a, SHORT));
	EXPECT_EQ(0, spins(self->a, SHORT));
}

TEST_F(spin, of_no_time_is_none)
{
	int i;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 0));
	for (i = 0; i < 20; i++)
		ASSERT_EQ(0, spins(self->a, i & 4 ? LONG : SHORT));
}

/* ---------------------------------------------------------- between two looks */

static void release_too_much(struct evering *peer)
{
	evering_store_release(&own_half(peer)->released, 12345);
}

/* It is found out when there is no room, and before the sleep for some. */
TEST_F(spin, nobody_sleeps_on_a_peer_that_breaks_the_rules_meanwhile)
{
	uint32_t v = 0;

	while (!evering_send(self->a, &v, sizeof(v), EVERING_NOWAIT))
		;
	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 0));
	world.look = release_too_much;
	EXPECT_EQ(-EPROTO, wait_in_world(self->a, EVERING_RX | EVERING_TX));
	EXPECT_TRUE(!world.look);
	EXPECT_EQ(0u, world.sleeps);
}

static struct evering_ops *table_of_peer;

static void take_all(struct evering *peer)
{
	(void)peer;
	while (evering_ops_poll(table_of_peer) > 0)
		;
}

/* Nor on room that has come between a look for some and the sleep. */
TEST_F(spin, nobody_sleeps_on_room_that_has_come_meanwhile)
{
	static struct side s[2];
	struct evering_op op = asks(1, NULL, 0, NULL);
	int ret;

	ASSERT_EQ(0, sides_open(s, self->ev, 12, 12));
	while (!ask(&s[0], &op, NULL))
		;
	table_of_peer = s[1].ops;
	world.look = take_all;
	world.on = true;
	ret = evering_op_submit(s[0].ops, &op, NULL, INT64_MAX);
	world.on = false;
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(!world.look);
	EXPECT_EQ(0u, world.sleeps);
}

TEST_HARNESS_MAIN
