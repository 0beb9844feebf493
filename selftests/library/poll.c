// SPDX-License-Identifier: MIT
/*
 * poll.c: evering_fd() and evering_arm() in the event loops that people have: poll,
 * epoll level- and edge-triggered, and several waiters on one descriptor.  What is
 * armed for makes the descriptor readable, nothing else does, and arming again
 * makes it quiet.
 */
#include "common.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>

FIXTURE(event_loop)
{
	struct evering *ev[2];
	struct evering *a, *b;
	struct evering_params p;
	struct duo duo;
};

BACKEND_VARIANTS(event_loop);

FIXTURE_SETUP(event_loop)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 0);
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(event_loop)
{
	close_pair(self->ev);
	evering_close(self->duo.ev);
	kill_and_reap(self->duo.pid);
}

/* Does the descriptor tell, polled as one who is armed for @what polls it? */
static bool tells(struct evering *ev, unsigned int what, int timeout_ms)
{
	struct pollfd p = { .fd = evering_fd(ev),
			    .events = evering_events(ev, what) };

	return poll(&p, 1, timeout_ms) == 1 && p.revents;
}

/* How long to look for an event that must not come, in ms. */
#define QUIET	20
/* How long for one that must. */
#define SURELY	5000

TEST_F(event_loop, the_descriptor_is_always_the_same)
{
	int fd = evering_fd(self->a);
	int n = count_fds(), i;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD) & FD_CLOEXEC);
	for (i = 0; i < 100; i++)
		EXPECT_EQ(fd, evering_fd(self->a));
	EXPECT_EQ(n, count_fds());
	EXPECT_NE(fd, evering_fd(self->b));
}

TEST_F(event_loop, an_entry_makes_it_readable_and_arming_again_quiet)
{
	uint32_t v = 0, i;

	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_FALSE(tells(self->b, EVERING_RX, i < 5 ? QUIET : 0));
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_TRUE(tells(self->b, EVERING_RX, SURELY));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
	}
}

TEST_F(event_loop, space_makes_it_readable)
{
	uint32_t v = 0;
	int i;

	for (i = 0; i < 50; i++) {
		while (!evering_send(self->a, &v, 4, EVERING_NOWAIT))
			;
		ASSERT_EQ(0, evering_arm(self->a, EVERING_TX));
		ASSERT_FALSE(tells(self->a, EVERING_TX, i < 5 ? QUIET : 0));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_TRUE(tells(self->a, EVERING_TX, SURELY));
	}
}

TEST_F(event_loop, only_what_is_armed_makes_it_readable)
{
	uint32_t v = 0;

	while (!evering_send(self->a, &v, 4, EVERING_NOWAIT))
		;
	/* Armed for an entry; space comes. */
	ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_FALSE(tells(self->a, EVERING_RX, QUIET));
	/* Armed for both; the one comes, then the other. */
	while (!evering_send(self->a, &v, 4, EVERING_NOWAIT))
		;
	ASSERT_EQ(0, evering_arm(self->a, EVERING_RX | EVERING_TX));
	ASSERT_EQ(0, evering_send(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_TRUE(tells(self->a, EVERING_RX | EVERING_TX, SURELY));
	EXPECT_EQ((int)EVERING_RX,
		  evering_arm(self->a, EVERING_RX | EVERING_TX));
	ASSERT_EQ(0, evering_recv(self->a, &v, 4, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_arm(self->a, EVERING_RX | EVERING_TX));
	EXPECT_FALSE(tells(self->a, EVERING_RX | EVERING_TX, QUIET));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_TRUE(tells(self->a, EVERING_RX | EVERING_TX, SURELY));
	EXPECT_EQ((int)EVERING_TX,
		  evering_arm(self->a, EVERING_RX | EVERING_TX));
}

TEST_F(event_loop, arming_says_what_is_there_already)
{
	struct evering_counters c;
	uint64_t rings;
	uint32_t v = 0;

	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ((int)EVERING_RX, evering_arm(self->b, EVERING_RX));
	EXPECT_EQ((int)(EVERING_RX | EVERING_TX),
		  evering_arm(self->b, EVERING_RX | EVERING_TX));
	EXPECT_EQ((int)EVERING_TX, evering_arm(self->b, EVERING_TX));
	/* Then nothing is armed: nobody rings. */
	evering_get_counters(self->a, EVERING_MINE, &c);
	rings = c.tx_rings;
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	evering_get_counters(self->a, EVERING_MINE, &c);
	EXPECT_EQ(rings, c.tx_rings);
	/* The device reports what is not armed as ready. */
	if (variant->backend == EVERING_BACKEND_MEMFD)
		EXPECT_FALSE(tells(self->b, EVERING_RX, 0));
}

TEST_F(event_loop, nobody_rings_for_what_is_disarmed)
{
	struct evering_counters c;
	uint64_t rings;
	uint32_t v = 0;

	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	evering_disarm(self->b, EVERING_RX);
	evering_get_counters(self->a, EVERING_MINE, &c);
	rings = c.tx_rings;
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	evering_get_counters(self->a, EVERING_MINE, &c);
	EXPECT_EQ(rings, c.tx_rings);
	if (variant->backend == EVERING_BACKEND_MEMFD)
		EXPECT_FALSE(tells(self->b, EVERING_RX, QUIET));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));

	/* Disarming what was rung, and what was never armed. */
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	evering_disarm(self->b, EVERING_RX);
	evering_disarm(self->b, EVERING_RX | EVERING_TX);
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	EXPECT_FALSE(tells(self->b, EVERING_RX, QUIET));
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_TRUE(tells(self->b, EVERING_RX, SURELY));
}

TEST_F(event_loop, waiting_and_arming_can_alternate)
{
	uint32_t v = 0;
	int i;

	for (i = 0; i < 200; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		if (i & 1)
			ASSERT_EQ(0, evering_send(self->a, &v, 4, 0));
		ASSERT_EQ(i & 1 ? 0 :
			  i & 2 ? -ETIMEDOUT :
				  -EAGAIN,
			  evering_recv(self->b, &v, 4, i & 2 ? USEC : 0));
		ASSERT_EQ(-ETIMEDOUT, evering_recv(self->b, &v, 4, USEC));
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_FALSE(tells(self->b, EVERING_RX, 0));
		ASSERT_EQ(0, evering_send(self->a, &v, 4, 0));
		ASSERT_TRUE(tells(self->b, EVERING_RX, SURELY));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, 0));
	}
}

struct late {
	struct evering *ev;
	unsigned int what;
	struct evering_counters seen; /* while the other did not sleep yet */
};

/* Does, once the other sleeps, what it sleeps for. */
static void *does_late(void *arg)
{
	struct late *l = arg;
	struct evering_counters c;
	uint32_t v;

	do {
		sleep_ns(100 * USEC);
		evering_get_counters(l->ev, EVERING_PEERS, &c);
	} while (c.rx_sleeps == l->seen.rx_sleeps &&
		 c.tx_sleeps == l->seen.tx_sleeps);
	/* It may not have got there yet, which is one more way to be woken. */
	sleep_ns(MSEC);
	if (l->what == EVERING_RX)
		evering_send(l->ev, &v, 4, EVERING_NOWAIT);
	else
		evering_recv(l->ev, &v, 4, EVERING_NOWAIT);
	return NULL;
}

/* What a sleep was woken by is not told again by the descriptor. */
TEST_F(event_loop, after_a_sleep_arming_is_quiet)
{
	struct late l = { 0 };
	unsigned int turn, what;
	pthread_t t;
	uint32_t v = 0;

	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_BLOCK, 0));
	for (turn = 0; turn < 6; turn++) {
		what = turn & 1 ? EVERING_TX : EVERING_RX;
		while (what == EVERING_TX &&
		       !evering_send(self->a, &v, 4, EVERING_NOWAIT))
			;
		l.ev = self->b;
		l.what = what;
		evering_get_counters(self->b, EVERING_PEERS, &l.seen);
		ASSERT_EQ(0, pthread_create(&t, NULL, does_late, &l));
		ASSERT_EQ((int)what, evering_wait(self->a, what, PLENTY));
		pthread_join(t, NULL);
		while (what == EVERING_RX ?
			       !evering_recv(self->a, &v, 4, EVERING_NOWAIT) :
			       !evering_send(self->a, &v, 4, EVERING_NOWAIT))
			;
		ASSERT_EQ(0, evering_arm(self->a, what));
		EXPECT_FALSE(tells(self->a, what, QUIET));
		ASSERT_EQ(0, what == EVERING_RX ?
				     evering_send(self->b, &v, 4, 0) :
				     evering_recv(self->b, &v, 4, 0));
		EXPECT_TRUE(tells(self->a, what, SURELY));
		evering_disarm(self->a, what);
		while (!evering_recv(self->a, &v, 4, EVERING_NOWAIT))
			;
		while (!evering_recv(self->b, &v, 4, EVERING_NOWAIT))
			;
	}
}

TEST_F(event_loop, arming_again_and_again_leaks_nothing_and_rings_once)
{
	int n = short_run() ? 10000 : 100000;
	struct evering_counters c;
	uint32_t v = 0;
	int fds, i;

	ASSERT_LE(0, evering_fd(self->b));
	fds = count_fds();
	for (i = 0; i < n; i++)
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	EXPECT_EQ(fds, count_fds());
	EXPECT_FALSE(tells(self->b, EVERING_RX, 0));
	for (i = 0; i < 10; i++)
		ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	evering_get_counters(self->a, EVERING_MINE, &c);
	EXPECT_EQ(1u, c.tx_rings);
	EXPECT_TRUE(tells(self->b, EVERING_RX, SURELY));
}

TEST_F(event_loop, level_triggered_epoll_tells_until_armed_again)
{
	struct epoll_event e = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	uint32_t v = 0;
	int i;

	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, evering_fd(self->b), &e));
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_EQ(0, epoll_wait(ep, &e, 1, i ? 0 : QUIET));
		ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(1, epoll_wait(ep, &e, 1, SURELY));
		ASSERT_EQ(1, epoll_wait(ep, &e, 1, SURELY));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	}
	close(ep);
}

TEST_F(event_loop, edge_triggered_epoll_tells_each_armed_event_once)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLET };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	uint32_t v = 0;
	int i;

	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, evering_fd(self->b), &e));
	epoll_wait(ep, &e, 1, 0); /* what it was when it was added */
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_EQ(0, epoll_wait(ep, &e, 1, i < 5 ? QUIET : 0));
		ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(1, epoll_wait(ep, &e, 1, SURELY))
		{
			TH_LOG("round %d", i);
		}
		ASSERT_EQ(0, epoll_wait(ep, &e, 1, 0));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	}
	close(ep);
}

struct watcher {
	int ep;
	pid_t tid;
	int woken;
};

static void *watcher_main(void *arg)
{
	struct watcher *w = arg;
	struct epoll_event e;

	__atomic_store_n(&w->tid, my_tid(), __ATOMIC_RELEASE);
	w->woken = epoll_wait(w->ep, &e, 1, 2000);
	return NULL;
}

TEST_F(event_loop, two_exclusive_waiters_are_woken_one_at_a_time)
{
	struct watcher w[2];
	struct epoll_event e;
	pthread_t t[2];
	uint32_t v = 0;
	int i;

	for (i = 0; i < 2; i++) {
		w[i] = (struct watcher){ .ep = epoll_create1(EPOLL_CLOEXEC) };
		e.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLET;
		e.data.u32 = 0;
		if (epoll_ctl(w[i].ep, EPOLL_CTL_ADD, evering_fd(self->b), &e))
			SKIP(return, "this descriptor takes no EPOLLEXCLUSIVE");
		epoll_wait(w[i].ep, &e, 1, 0);
	}
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&t[i], NULL, watcher_main, &w[i]));
		ASSERT_TRUE(falls_asleep(&w[i].tid));
	}
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(t[i], NULL));
	EXPECT_EQ(1, w[0].woken + w[1].woken);
	close(w[0].ep);
	close(w[1].ep);
}

TEST_F(event_loop, two_waiters_both_hear_of_an_event)
{
	struct watcher w[2];
	struct epoll_event e;
	pthread_t t[2];
	uint32_t v = 0;
	int i;

	for (i = 0; i < 2; i++) {
		w[i] = (struct watcher){ .ep = epoll_create1(EPOLL_CLOEXEC) };
		e.events = EPOLLIN;
		e.data.u32 = 0;
		ASSERT_EQ(0, epoll_ctl(w[i].ep, EPOLL_CTL_ADD,
				       evering_fd(self->b), &e));
	}
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&t[i], NULL, watcher_main, &w[i]));
		ASSERT_TRUE(falls_asleep(&w[i].tid));
	}
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(t[i], NULL));
	EXPECT_EQ(1, w[0].woken);
	EXPECT_EQ(1, w[1].woken);
	close(w[0].ep);
	close(w[1].ep);
}

/* -------------------------------------------------------- with another process */

static int chatter(struct evering *ev, void *arg)
{
	uint32_t n, count = *(uint32_t *)arg;
	uint64_t rng = count;

	for (n = 0; n < count; n++) {
		if (random_below(&rng, 64) == 0)
			sleep_ns((int64_t)random_below(&rng, 100000));
		else
			spin_ns((int64_t)random_below(&rng, 4000));
		if (evering_send(ev, &n, 4, PLENTY))
			return 1;
	}
	evering_close(ev);
	return 0;
}

/* The loop of evering_arm()'s documentation.  Returns how many entries came. */
static uint32_t documented_loop(struct evering *ev, uint32_t epoll_events,
				int *end, uint32_t *wakes)
{
	struct epoll_event e = { .events = epoll_events };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	uint32_t v, n = 0;
	int ret = 0;

	*wakes = 0;
	epoll_ctl(ep, EPOLL_CTL_ADD, evering_fd(ev), &e);
	for (;;) {
		while (evering_recv(ev, &v, sizeof(v), EVERING_NOWAIT) == 0) {
			if (v != n) {
				ret = -EBADMSG;
				goto out;
			}
			n++;
		}
		ret = evering_arm(ev, EVERING_RX);
		if (ret < 0)
			break;
		if (ret == 0) {
			if (epoll_wait(ep, &e, 1, SURELY) != 1) {
				ret = -ETIME;
				break;
			}
			++*wakes;
		}
	}
out:
	close(ep);
	*end = ret;
	return n;
}

TEST_F_TIMEOUT(event_loop, the_documented_loop_loses_nothing, 60)
{
	static const uint32_t events[] = { EPOLLIN, EPOLLIN | EPOLLET };
	uint32_t count = short_run() ? 5000 : 100000;
	struct evering_params p[2] = { self->p, self->p };
	uint32_t wakes;
	size_t i;
	int end;

	for (i = 0; i < ARRAY_SIZE(events); i++) {
		ASSERT_EQ(0, duo_start(&self->duo, i, p, chatter, &count));
		EXPECT_EQ(count, documented_loop(self->duo.ev, events[i], &end,
						 &wakes));
		EXPECT_EQ(-EPIPE, end);
		EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->duo.ev));
		EXPECT_EQ(0, reap(self->duo.pid));
		self->duo.pid = 0;
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
		printf("# %u entries, woken %u times\n", count, wakes);
	}
}

/* Answers each entry with the same, and closes after one of 0. */
static int echo(struct evering *ev, void *arg)
{
	uint32_t v = 1;
	int ret = 0;

	(void)arg;
	while (!ret && v) {
		ret = evering_recv(ev, &v, 4, PLENTY);
		if (!ret)
			ret = evering_send(ev, &v, 4, PLENTY);
	}
	evering_close(ev);
	return ret ? 1 : 0;
}

static void on_signal(int sig)
{
	(void)sig;
}

/* libuv makes whatever it polls non-blocking; waits are none the shorter for it. */
TEST_F(event_loop, a_wait_sleeps_on_a_descriptor_that_was_made_nonblocking)
{
	const struct evering_params p[2] = { self->p, self->p };
	struct itimerval every = { { 0, 30000 }, { 0, 30000 } };
	struct itimerval off = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = on_signal };
	const uint32_t rounds = 500;
	uint32_t v = 0, i;
	int64_t before;
	int fd;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, evering_set_policy(self->ev[i], EVERING_BLOCK, 0));
	fd = evering_fd(self->b);
	ASSERT_EQ(0, fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
	before = now_ns();
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->b, &v, 4, 20 * MSEC));
	EXPECT_LE(20 * MSEC, now_ns() - before);
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
	setitimer(ITIMER_REAL, &every, NULL);
	EXPECT_EQ(-EINTR, evering_recv(self->b, &v, 4, PLENTY));
	setitimer(ITIMER_REAL, &off, NULL);

	ASSERT_EQ(0, duo_start(&self->duo, true, p, echo, NULL));
	ASSERT_EQ(0, evering_set_policy(self->duo.ev, EVERING_BLOCK, 0));
	fd = evering_fd(self->duo.ev);
	ASSERT_EQ(0, fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
	for (i = rounds; i + 1; i--) {
		ASSERT_EQ(0, evering_send(self->duo.ev, &i, 4, PLENTY));
		ASSERT_EQ(0, evering_recv(self->duo.ev, &v, 4, PLENTY));
		ASSERT_EQ(i, v);
	}
	EXPECT_EQ(-EPIPE, evering_recv(self->duo.ev, &v, 4, PLENTY));
	EXPECT_EQ(0, reap(self->duo.pid));
	self->duo.pid = 0;
}

/* As evering_bell says; no faster way is needed here. */
static int ring_bell(const struct evering_bell *bell)
{
	const uint64_t one = 1;

	if (bell->command)
		return ioctl(bell->fd, bell->command,
			     (unsigned long)EVERING_RX);
	return write(bell->fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

TEST_F(event_loop, a_flush_that_was_begun_wakes_when_its_bell_is_rung)
{
	struct evering_counters counters;
	struct evering_bell bell;
	uint32_t v, i;
	void *slot;

	ASSERT_EQ(0, evering_flush_begin(self->a, &bell));
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		slot = evering_reserve(self->a);
		ASSERT_NE(NULL, slot);
		memcpy(slot, &i, 4);
		evering_commit(self->a);
		ASSERT_EQ(1, evering_flush_begin(self->a, &bell));
		ASSERT_FALSE(tells(self->b, EVERING_RX, i < 3 ? QUIET : 0));
		ASSERT_LE(0, ring_bell(&bell));
		ASSERT_TRUE(tells(self->b, EVERING_RX, SURELY));
		/* It is known to be awake, until it is armed again. */
		ASSERT_EQ(0, evering_flush_begin(self->a, &bell));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
	}
	evering_get_counters(self->a, EVERING_MINE, &counters);
	EXPECT_EQ(100u, counters.tx_rings);
	/* Disarmed between the two: the same ring is owed again when it is armed. */
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	ASSERT_EQ(1, evering_flush_begin(self->a, &bell));
	evering_disarm(self->b, EVERING_RX);
	ASSERT_LE(0, ring_bell(&bell));
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
	EXPECT_TRUE(tells(self->b, EVERING_RX, SURELY));
}

/*
 * A ring that was begun while the loop was armed may come when it no longer is.  Its
 * edge is then all that an edge-triggered loop ever hears of it, and is not to be
 * taken for that of what comes after the loop has armed again.
 */
enum {
	FOUND, /* arming again found an entry */
	DISARMED, /* evering_disarm() */
	WAITED, /* evering_wait() has armed, for a time, and slept in vain */
	CASES,
};

TEST_F(event_loop, edge_triggered_epoll_is_told_what_comes_after_a_late_ring)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLET };
	int ep = epoll_create1(EPOLL_CLOEXEC), found;
	struct evering_bell bell;
	unsigned int late, i;
	uint32_t v;

	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, evering_fd(self->b), &e));
	for (i = 0; i < 3 * CASES; i++) {
		late = i % CASES;
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		epoll_wait(ep, &e, 1, 0);
		ASSERT_EQ(1, evering_flush_begin(self->a, &bell));
		if (late == WAITED)
			ASSERT_EQ(-ETIMEDOUT,
				  evering_wait(self->b, EVERING_RX, MSEC));
		if (late != FOUND)
			evering_disarm(self->b, EVERING_RX);
		memcpy(evering_reserve(self->a), &i, 4);
		evering_commit(self->a);
		found = late == FOUND ? evering_arm(self->b, EVERING_RX) : 0;
		ASSERT_EQ(late == FOUND ? (int)EVERING_RX : 0, found);
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_LE(0, ring_bell(&bell));
		epoll_wait(ep, &e, 1, 0);

		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		epoll_wait(ep, &e, 1, 0);
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(1, epoll_wait(ep, &e, 1, SURELY))
		{
			TH_LOG("round %u, case %u", i, late);
		}
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
	}
	close(ep);
}

static int wait_to_be_killed(struct evering *ev, void *arg)
{
	(void)ev;
	(void)arg;
	await_death();
}

TEST_F(event_loop, death_makes_it_readable)
{
	struct evering_params p[2] = { self->p, self->p };
	unsigned int what;

	for (what = EVERING_RX; what <= (EVERING_RX | EVERING_TX); what++) {
		uint32_t v = 0;

		ASSERT_EQ(0, duo_start(&self->duo, false, p, wait_to_be_killed,
				       NULL));
		while (!evering_send(self->duo.ev, &v, 4, EVERING_NOWAIT))
			;
		ASSERT_EQ(0, evering_arm(self->duo.ev, what));
		EXPECT_FALSE(tells(self->duo.ev, what, QUIET));
		kill_and_reap(self->duo.pid);
		self->duo.pid = 0;
		EXPECT_TRUE(tells(self->duo.ev, what, SURELY));
		EXPECT_EQ(-EPIPE, evering_arm(self->duo.ev, what));
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
	}
}

/*
 * The ring and the end come so close together that an edge-triggered epoll tells of
 * both at once.  Then arming, which forgets the ring, must not forget the end.
 */
TEST_F(event_loop, an_end_right_behind_an_entry_is_not_missed)
{
	static const uint32_t events[] = { EPOLLIN, EPOLLIN | EPOLLET };
	struct epoll_event e;
	uint32_t v = 0;
	size_t i;
	int ep, ret;

	for (i = 0; i < ARRAY_SIZE(events); i++) {
		close_pair(self->ev);
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));
		ep = epoll_create1(EPOLL_CLOEXEC);
		e.events = events[i];
		ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD,
				       evering_fd(self->ev[1]), &e));
		epoll_wait(ep, &e, 1, 0);
		ASSERT_EQ(0, evering_arm(self->ev[1], EVERING_RX));
		ASSERT_EQ(0, evering_send(self->ev[0], &v, 4, 0));
		evering_close(self->ev[0]);
		self->ev[0] = NULL;
		ASSERT_EQ(1, epoll_wait(ep, &e, 1, SURELY));
		ASSERT_EQ(0, evering_recv(self->ev[1], &v, 4, 0));
		ret = evering_arm(self->ev[1], EVERING_RX);
		if (!ret) {
			EXPECT_EQ(1, epoll_wait(ep, &e, 1, 1000))
			{
				TH_LOG("events %#x", events[i]);
			}
			ret = evering_arm(self->ev[1], EVERING_RX);
		}
		EXPECT_EQ(-EPIPE, ret);
		close(ep);
	}
}

TEST_HARNESS_MAIN
