// SPDX-License-Identifier: MIT
/*
 * dev_poll.c: an endpoint of /dev/evering in the event loops of others: poll,
 * epoll level- and edge-triggered and exclusive, io_uring multishot poll, an
 * eventfd set by SET_EVENTFD.  A ring of what is armed gives one event, to one
 * waiter; any other ring gives none; a peer that goes tells everybody.
 */
#include "dev.h"

static const struct evering_geometry *const G = &small_geometry;

FIXTURE(events)
{
	int dev;
	int fd[2];
	struct side a, b; /* B waits, A rings */
};

FIXTURE_SETUP(events)
{
	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	ASSERT_EQ(0, side_map(&self->a, G, self->fd[0], EVERING_A));
	ASSERT_EQ(0, side_map(&self->b, G, self->fd[1], EVERING_B));
}

FIXTURE_TEARDOWN(events)
{
}

#define IN (POLLIN | POLLRDNORM)
#define OUT (POLLOUT | POLLWRNORM)
#define ALL (IN | OUT | POLLRDHUP | POLLPRI)

static void goes(struct side *s)
{
	side_unmap(s);
	close(s->fd);
}

/* --------------------------------------------------------------------- poll */

TEST_F(events, poll_tells_what_is_not_armed)
{
	EXPECT_EQ(IN | OUT, poll_now(self->fd[1], ALL));
	arm(self->b.own, RX);
	EXPECT_EQ(OUT, poll_now(self->fd[1], ALL));
	arm(self->b.own, TX);
	EXPECT_EQ(0, poll_now(self->fd[1], ALL));
	/* The peer's words are the peer's matter. */
	EXPECT_EQ(IN | OUT, poll_now(self->fd[0], ALL));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(IN, poll_now(self->fd[1], ALL));
	EXPECT_EQ(TX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(IN | OUT, poll_now(self->fd[1], ALL));
	EXPECT_EQ(POLLIN, poll_now(self->fd[1], POLLIN));
	EXPECT_EQ(POLLOUT, poll_now(self->fd[1], POLLOUT));
	EXPECT_EQ(0, poll_now(self->fd[1], POLLPRI));
}

/* Only the bit counts: the generation above it is the library's. */
TEST_F(events, the_generation_is_left_alone)
{
	self->b.own->armed_rx = 0xfffffffe | EVERING_ARMED;
	self->b.own->armed_tx = 0x12345678 | EVERING_ARMED;
	EXPECT_EQ(RX | TX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(0xfffffffe, self->b.own->armed_rx);
	EXPECT_EQ(0x12345678, self->b.own->armed_tx);
	EXPECT_EQ(0, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(0xfffffffe, self->b.own->armed_rx);
}

TEST_F(events, a_peer_that_detaches_and_one_that_closes)
{
	arm(self->b.own, RX | TX);
	side_unmap(&self->a);
	/* Whoever asks for input alone, or for space alone, is to hear of it, too. */
	EXPECT_EQ(IN | OUT | POLLRDHUP, poll_now(self->fd[1], ALL));
	EXPECT_EQ(IN, poll_now(self->fd[1], IN));
	EXPECT_EQ(OUT, poll_now(self->fd[1], OUT));
	ASSERT_EQ(0, side_map(&self->a, G, self->fd[0], EVERING_A));
	EXPECT_EQ(IN | OUT | POLLRDHUP, poll_now(self->fd[1], ALL));
	goes(&self->a);
	EXPECT_EQ(IN | OUT | POLLRDHUP | POLLHUP, poll_now(self->fd[1], ALL));
	/* HUP is told whether asked for or not. */
	EXPECT_EQ(POLLHUP, poll_now(self->fd[1], 0));
}

struct poller {
	int fd;
	short events;
	short revents;
	pid_t tid;
	pthread_t thread;
};

static void *poll_in_thread(void *arg)
{
	struct poller *p = arg;
	struct pollfd pfd = { .fd = p->fd, .events = p->events };
	int64_t until = now_ns() + PLENTY;

	__atomic_store_n(&p->tid, my_tid(), __ATOMIC_RELEASE);
	/* Else nobody woke it, and it saw when its time was up. */
	if (poll(&pfd, 1, (int)(PLENTY / MSEC)) == 1 && now_ns() < until)
		p->revents = pfd.revents;
	return NULL;
}

static bool start_poller(struct poller *p, int fd, short events)
{
	memset(p, 0, sizeof(*p));
	p->fd = fd;
	p->events = events;
	return !pthread_create(&p->thread, NULL, poll_in_thread, p) &&
	       falls_asleep(&p->tid);
}

static short poller_result(struct poller *p)
{
	pthread_join(p->thread, NULL);
	return p->revents;
}

TEST_F(events, poll_sleeps_until_its_own_bell_rings)
{
	struct poller in, out;

	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start_poller(&in, self->fd[1], POLLIN));
	ASSERT_TRUE(start_poller(&out, self->fd[1], POLLOUT));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(POLLIN, poller_result(&in));
	EXPECT_TRUE(falls_asleep(&out.tid));
	EXPECT_EQ(TX, dev_ring(self->fd[0], TX));
	EXPECT_EQ(POLLOUT, poller_result(&out));
}

TEST_F(events, a_peer_that_goes_wakes_every_poller)
{
	struct poller in, out, hup;

	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start_poller(&in, self->fd[1], POLLIN | POLLRDHUP));
	ASSERT_TRUE(start_poller(&out, self->fd[1], POLLOUT | POLLRDHUP));
	ASSERT_TRUE(start_poller(&hup, self->fd[1], 0));
	side_unmap(&self->a);
	EXPECT_EQ(POLLIN | POLLRDHUP, poller_result(&in));
	EXPECT_EQ(POLLOUT | POLLRDHUP, poller_result(&out));
	EXPECT_TRUE(falls_asleep(&hup.tid));
	close(self->fd[0]);
	EXPECT_EQ(POLLHUP, poller_result(&hup));
}

/* Whatever a poller asks for, and whoever still holds the peer's descriptor. */
TEST_F(events, a_peer_that_goes_answers_every_question)
{
	static const short asked[] = { POLLIN, POLLOUT, POLLRDHUP };
	struct poller p[ARRAY_SIZE(asked)];
	size_t i;

	arm(self->b.own, RX | TX);
	for (i = 0; i < ARRAY_SIZE(asked); i++)
		ASSERT_TRUE(start_poller(&p[i], self->fd[1], asked[i]));
	side_unmap(&self->a);
	for (i = 0; i < ARRAY_SIZE(asked); i++)
		EXPECT_EQ(asked[i], poller_result(&p[i]));
}

/* ---------------------------------------- what must wake and disturb nobody */

struct sleeper {
	int fd;
	uint32_t wait;
	int ret;
	pid_t tid;
	pthread_t thread;
};

static void *enter_in_thread(void *arg)
{
	struct sleeper *s = arg;

	__atomic_store_n(&s->tid, my_tid(), __ATOMIC_RELEASE);
	s->ret = dev_wait(s->fd, s->wait);
	return NULL;
}

static bool start_sleeper(struct sleeper *s, int fd, uint32_t wait)
{
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->wait = wait;
	return !pthread_create(&s->thread, NULL, enter_in_thread, s) &&
	       falls_asleep(&s->tid);
}

static int sleeper_result(struct sleeper *s)
{
	pthread_join(s->thread, NULL);
	return s->ret;
}

/*
 * The one who sleeps is not even woken in order to find out that it was not
 * meant: it would have gone to sleep once more.
 */
TEST_F(events, a_ring_of_what_is_not_armed_wakes_nobody)
{
	struct sleeper sleeper;
	struct poller poller;
	int efd = eventfd(0, EFD_CLOEXEC);
	long sleeps[2];
	int i;

	arm(self->b.own, RX);
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	ASSERT_TRUE(start_sleeper(&sleeper, self->fd[1], RX));
	ASSERT_TRUE(start_poller(&poller, self->fd[1], POLLIN));
	sleeps[0] = sleeps_of_task(sleeper.tid);
	sleeps[1] = sleeps_of_task(poller.tid);
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0, dev_ring(self->fd[0], TX));
		ASSERT_EQ(0, dev_enter(self->fd[0], TX, 0, 0));
	}
	EXPECT_TRUE(falls_asleep(&sleeper.tid));
	EXPECT_TRUE(falls_asleep(&poller.tid));
	/* One more may be the sleep that was just beginning. */
	EXPECT_LE(sleeps_of_task(sleeper.tid), sleeps[0] + 1);
	EXPECT_LE(sleeps_of_task(poller.tid), sleeps[1] + 1);
	EXPECT_EQ(0, signals_of(efd));
	EXPECT_STREQ("0\t2000", fdinfo(self->fd[0], "rings"));
	EXPECT_STREQ("0\t0", fdinfo(self->fd[0], "wakes"));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, sleeper_result(&sleeper));
	EXPECT_EQ(POLLIN, poller_result(&poller));
	EXPECT_EQ(1, signals_of(efd));
}

TEST_F(events, rings_coalesce)
{
	int efd = eventfd(0, EFD_CLOEXEC);
	int i;

	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	arm(self->b.own, RX | TX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	for (i = 0; i < 100; i++)
		EXPECT_EQ(0, dev_ring(self->fd[0], RX));
	EXPECT_EQ(1, signals_of(efd));
	EXPECT_EQ(TX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(1, signals_of(efd));
	arm(self->b.own, RX | TX);
	EXPECT_EQ(RX | TX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(1, signals_of(efd));
	EXPECT_STREQ("0\t3", fdinfo(self->fd[0], "wakes"));
}

struct ringer {
	struct side *a;
	bool stop;
	uint64_t rang;
	pthread_t thread;
};

static void *ring_on_and_on(void *arg)
{
	struct ringer *r = arg;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED))
		r->rang += dev_ring(r->a->fd, RX) == RX;
	return NULL;
}

/* Of many who ring, exactly one finds the bit that was set. */
TEST_F(events, one_arming_is_rung_once_however_many_ring)
{
	struct ringer r[3] = { 0 };
	uint64_t rang = 0;
	int i;

	for (i = 0; i < 3; i++) {
		r[i].a = &self->a;
		ASSERT_EQ(0, pthread_create(&r[i].thread, NULL, ring_on_and_on,
					    &r[i]));
	}
	for (i = 0; i < 1000; i++) {
		arm(self->b.own, RX);
		ASSERT_EQ(RX, dev_wait(self->fd[1], RX));
	}
	for (i = 0; i < 3; i++)
		__atomic_store_n(&r[i].stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < 3; i++) {
		pthread_join(r[i].thread, NULL);
		rang += r[i].rang;
	}
	EXPECT_EQ(1000, rang);
}

/* -------------------------------------------------------------------- epoll */

TEST_F(events, level_triggered_until_armed_again)
{
	int ep = epoll_on(self->fd[1], EPOLLIN);
	int i;

	ASSERT_GE(ep, 0);
	for (i = 0; i < 10; i++)
		EXPECT_EQ(EPOLLIN, epoll_now(ep));
	for (i = 0; i < 100; i++) {
		arm(self->b.own, RX);
		EXPECT_EQ(0, epoll_now(ep));
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
		EXPECT_EQ(EPOLLIN, epoll_now(ep));
		EXPECT_EQ(EPOLLIN, epoll_now(ep));
	}
	arm(self->b.own, RX);
	side_unmap(&self->a);
	EXPECT_EQ(EPOLLIN, epoll_now(ep));
	close(self->fd[0]);
	EXPECT_EQ(EPOLLIN | EPOLLHUP, epoll_now(ep));
	EXPECT_EQ(EPOLLIN | EPOLLHUP, epoll_now(ep));
}

TEST_F(events, edge_triggered_once_a_ring)
{
	int ep, i;

	arm(self->b.own, RX | TX);
	ep = epoll_on(self->fd[1], EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	ASSERT_GE(ep, 0);
	EXPECT_EQ(0, epoll_now(ep));
	for (i = 0; i < 100; i++) {
		/* Nobody reads anything: there is nothing to read. */
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
		EXPECT_EQ(EPOLLIN, epoll_now(ep));
		EXPECT_EQ(0, epoll_now(ep));
		EXPECT_EQ(0, dev_ring(self->fd[0], RX));
		EXPECT_EQ(0, epoll_now(ep));
		arm(self->b.own, RX);
		EXPECT_EQ(0, epoll_now(ep));
		EXPECT_EQ(TX, dev_ring(self->fd[0], TX));
		EXPECT_EQ(EPOLLOUT, epoll_now(ep));
		EXPECT_EQ(0, epoll_now(ep));
		arm(self->b.own, TX);
	}
	side_unmap(&self->a);
	EXPECT_EQ(EPOLLIN | EPOLLOUT | EPOLLRDHUP, epoll_now(ep));
	EXPECT_EQ(0, epoll_now(ep));
	close(self->fd[0]);
	EXPECT_EQ(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP, epoll_now(ep));
	EXPECT_EQ(0, epoll_now(ep));
}

TEST_F(events, one_shot)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT };
	int ep = epoll_on(self->fd[1], EPOLLIN | EPOLLONESHOT);

	EXPECT_EQ(EPOLLIN, epoll_now(ep));
	EXPECT_EQ(0, epoll_now(ep));
	arm(self->b.own, RX);
	EXPECT_EQ(0, epoll_ctl(ep, EPOLL_CTL_MOD, self->fd[1], &ev));
	EXPECT_EQ(0, epoll_now(ep));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(EPOLLIN, epoll_now(ep));
}

#define WAITERS 3

struct waiter {
	int ep;
	int events; /* not yet accounted for */
	int ends;
	const bool *end; /* what comes now is the peer's going */
	pid_t tid;
	pthread_t thread;
};

static void *epoll_in_thread(void *arg)
{
	struct waiter *w = arg;
	struct epoll_event ev;

	__atomic_store_n(&w->tid, my_tid(), __ATOMIC_RELEASE);
	while (epoll_wait(w->ep, &ev, 1, (int)(2 * PLENTY / MSEC)) == 1) {
		if (__atomic_load_n(w->end, __ATOMIC_SEQ_CST)) {
			w->ends++;
			break;
		}
		__atomic_fetch_add(&w->events, 1, __ATOMIC_SEQ_CST);
		/* Not asleep, so as to sleep in no other place. */
		while (__atomic_load_n(&w->events, __ATOMIC_SEQ_CST))
			sched_yield();
	}
	close(w->ep);
	return NULL;
}

/* How many have an event, when all others sleep in epoll_wait(); -1: never. */
static int count_events(struct waiter *w)
{
	int events = 0;
	int i;

	for (i = 0; i < WAITERS; i++) {
		if (!EVENTUALLY(
			    __atomic_load_n(&w[i].events, __ATOMIC_SEQ_CST) ||
			    (w[i].tid && task_state(w[i].tid) == 'S')))
			return -1;
		events += __atomic_load_n(&w[i].events, __ATOMIC_SEQ_CST);
	}
	return events;
}

/*
 * Each waiter has an epoll of its own.  A ring comes only when all of them
 * sleep in epoll_wait(), and nobody arms before all who were woken have found
 * the bell rung.
 */
TEST_F(events, exclusive_waiters_are_woken_one_a_ring)
{
	struct waiter w[WAITERS] = { 0 };
	bool end = false;
	int i, round, plain;

	arm(self->b.own, RX | TX);
	for (i = 0; i < WAITERS; i++) {
		w[i].end = &end;
		w[i].ep = epoll_on(self->fd[1], EPOLLIN | EPOLLEXCLUSIVE);
		ASSERT_GE(w[i].ep, 0);
		ASSERT_EQ(0, pthread_create(&w[i].thread, NULL, epoll_in_thread,
					    &w[i]));
	}
	/* Who came after them, and is not exclusive, is woken all the same. */
	plain = epoll_on(self->fd[1], EPOLLIN | EPOLLET);
	ASSERT_GE(plain, 0);
	for (round = 0; round < 60; round++) {
		ASSERT_EQ(0, count_events(w));
		/* Both bells at once must not wake more, either. */
		if (round % 3 == 0) {
			ASSERT_EQ(RX | TX, dev_ring(self->fd[0], RX | TX));
		} else if (round % 3 == 1) {
			ASSERT_EQ(RX, dev_ring(self->fd[0], RX));
		} else {
			ASSERT_EQ(RANG_RX, dev_enter(self->fd[0], RX, 0, 0));
		}
		ASSERT_EQ(1, count_events(w));
		ASSERT_EQ(EPOLLIN, epoll_now(plain));
		arm(self->b.own, RX | TX);
		for (i = 0; i < WAITERS; i++)
			__atomic_store_n(&w[i].events, 0, __ATOMIC_SEQ_CST);
	}
	ASSERT_EQ(0, count_events(w));
	/* Who goes tells all of them. */
	__atomic_store_n(&end, true, __ATOMIC_SEQ_CST);
	goes(&self->a);
	for (i = 0; i < WAITERS; i++) {
		pthread_join(w[i].thread, NULL);
		EXPECT_EQ(1, w[i].ends);
	}
}

/* A ring wakes so many pollers, and one more is told that it waits in vain. */
#define MOST_WAITERS 64

TEST_F(events, a_ring_is_not_paid_for_all_who_care_to_wait)
{
	int ep[MOST_WAITERS + 10], i;

	arm(self->b.own, RX | TX);
	for (i = 0; i < MOST_WAITERS; i++) {
		ep[i] = epoll_on(self->fd[1], EPOLLIN);
		EXPECT_EQ(0, epoll_now(ep[i]));
	}
	for (; i < MOST_WAITERS + 10; i++) {
		ep[i] = epoll_on(self->fd[1], EPOLLIN | EPOLLET);
		EXPECT_EQ(EPOLLERR, epoll_now(ep[i]));
		EXPECT_EQ(0, epoll_now(ep[i]));
	}
	EXPECT_EQ(POLLERR, poll_now_waiting(self->fd[1], POLLIN));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	/* The oldest are woken, and nobody else is. */
	for (i = 0; i < MOST_WAITERS; i++)
		EXPECT_EQ(EPOLLIN, epoll_now(ep[i]) & EPOLLIN);
	for (; i < MOST_WAITERS + 10; i++)
		EXPECT_EQ(0, epoll_now(ep[i]));
	/* Those who sleep in ENTER have a place of their own; others are refused. */
	arm(self->b.own, RX | TX);
	EXPECT_EQ(-ETIMEDOUT,
		  dev_enter(self->fd[1], 0, RX, (uint64_t)now_ns() + MSEC));
	for (i = 0; i < MOST_WAITERS + 10; i++)
		close(ep[i]);
	EXPECT_EQ(0, poll_now(self->fd[1], POLLIN));
	EXPECT_EQ(0, poll_now_waiting(self->fd[1], POLLIN));
}

/* epoll asks for a place once, and the crowd may be gone before it looks again. */
TEST_F(events, one_that_came_to_a_crowd_hears_when_that_has_gone)
{
	int ep[MOST_WAITERS], late, i;

	arm(self->b.own, RX | TX);
	for (i = 0; i < MOST_WAITERS; i++)
		ep[i] = epoll_on(self->fd[1], EPOLLIN);
	late = epoll_on(self->fd[1], EPOLLIN);
	EXPECT_EQ(EPOLLERR, epoll_now(late));
	for (i = 1; i < MOST_WAITERS; i++)
		close(ep[i]);
	/* Whatever finds that out: a ring, or somebody who comes. */
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	arm(self->b.own, RX | TX);
	EXPECT_EQ(0, poll_now_waiting(self->fd[1], POLLIN));
	EXPECT_EQ(0, epoll_now(late));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(EPOLLIN, epoll_now(late));
	EXPECT_EQ(EPOLLIN, epoll_now(ep[0]));
}

/* An epoll in an epoll, and an endpoint that closes while it is in one. */
TEST_F(events, nested_and_closed_while_watched)
{
	int inner = epoll_on(self->fd[1], EPOLLIN);
	int outer = epoll_on(inner, EPOLLIN);

	ASSERT_GE(outer, 0);
	arm(self->b.own, RX);
	EXPECT_EQ(0, epoll_now(outer));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(EPOLLIN, epoll_now(outer));
	goes(&self->b);
	EXPECT_EQ(0, epoll_now(outer));
	EXPECT_EQ(POLLHUP, poll_now(self->fd[0], 0));
}

/* ----------------------------------------------------------------- io_uring */

TEST_F(events, uring_multishot_poll_completes_once_a_ring)
{
	struct io_uring_cqe cqe = { 0 };
	struct uring u;
	int i;

	REQUIRE_URING(&u);
	arm(self->b.own, RX | TX);
	ASSERT_EQ(1, uring_poll(&u, self->fd[1], POLLIN | POLLRDHUP,
				IORING_POLL_ADD_MULTI));
	EXPECT_FALSE(uring_reap(&u, &cqe));
	for (i = 0; i < 200; i++) {
		ASSERT_EQ(RX, dev_ring(self->fd[0], RX));
		ASSERT_TRUE(EVENTUALLY(uring_reap(&u, &cqe)));
		EXPECT_EQ(POLLIN, cqe.res & ~POLLRDNORM);
		EXPECT_TRUE(cqe.flags & IORING_CQE_F_MORE);
		ASSERT_EQ(0, dev_ring(self->fd[0], RX));
		ASSERT_EQ(0, dev_ring(self->fd[0], TX) & ~TX);
		ASSERT_FALSE(uring_reap(&u, &cqe));
		arm(self->b.own, RX | TX);
		ASSERT_FALSE(uring_reap(&u, &cqe));
	}
	goes(&self->a);
	ASSERT_TRUE(EVENTUALLY(uring_reap(&u, &cqe)));
	EXPECT_TRUE(cqe.res & POLLRDHUP);
}

TEST_F(events, uring_poll_of_a_peer_that_goes)
{
	struct io_uring_cqe cqe = { 0 };
	struct uring u;

	REQUIRE_URING(&u);
	arm(self->b.own, RX | TX);
	ASSERT_EQ(1, uring_poll(&u, self->fd[1], POLLIN, 0));
	EXPECT_FALSE(uring_reap(&u, &cqe));
	goes(&self->a);
	/* io_uring asks for RDHUP in any case, and it comes first. */
	ASSERT_TRUE(EVENTUALLY(uring_reap(&u, &cqe)));
	EXPECT_TRUE(cqe.res & (POLLHUP | POLLRDHUP));
}

/* ------------------------------------------------------------------ eventfd */

TEST_F(events, an_eventfd_is_signalled_when_rung)
{
	int efd = eventfd(0, EFD_CLOEXEC);

	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	EXPECT_EQ(0, signals_of(efd));
	EXPECT_EQ(0, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(0, signals_of(efd));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(1, signals_of(efd));
	arm(self->b.own, TX);
	EXPECT_EQ(RANG_TX, dev_enter(self->fd[0], TX, 0, 0));
	EXPECT_EQ(1, signals_of(efd));
	/* It is B's: to ring A does not concern it. */
	arm(self->a.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[1], RX));
	EXPECT_EQ(0, signals_of(efd));
}

TEST_F(events, an_eventfd_is_replaced_and_removed)
{
	int first = eventfd(0, EFD_CLOEXEC), second = eventfd(0, EFD_CLOEXEC);

	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], first));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], second));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(0, signals_of(first));
	EXPECT_EQ(1, signals_of(second));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], second));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(1, signals_of(second));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], -1));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], -1));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	goes(&self->a);
	EXPECT_EQ(0, signals_of(first));
	EXPECT_EQ(0, signals_of(second));
}

TEST_F(events, one_eventfd_for_many_endpoints)
{
	int efd = eventfd(0, EFD_CLOEXEC);

	ASSERT_EQ(0, dev_set_eventfd(self->fd[0], efd));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	arm(self->a.own, RX);
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, dev_ring(self->fd[1], RX));
	EXPECT_EQ(2, signals_of(efd));
}

/* The endpoint keeps what it signals, and lets it go when it goes. */
TEST_F(events, an_eventfd_that_its_owner_closed)
{
	int efd = eventfd(0, EFD_CLOEXEC);
	int i;

	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	close(efd);
	for (i = 0; i < 100; i++) {
		arm(self->b.own, RX);
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	}
	goes(&self->a);
	goes(&self->b);
}

TEST_F(events, a_full_eventfd_holds_nobody_up)
{
	uint64_t most = UINT64_MAX - 1;
	int efd = eventfd(0, EFD_CLOEXEC);
	int i;

	ASSERT_EQ(sizeof(most), write(efd, &most, sizeof(most)));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	for (i = 0; i < 3; i++) {
		arm(self->b.own, RX);
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	}
	goes(&self->a);
}

TEST_F(events, an_eventfd_is_signalled_when_the_peer_goes)
{
	int efd = eventfd(0, EFD_CLOEXEC);

	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	side_unmap(&self->a);
	EXPECT_EQ(1, signals_of(efd));
	close(self->fd[0]);
	EXPECT_EQ(1, signals_of(efd));
	/* Who comes too late is told at once. */
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], -1));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	EXPECT_EQ(1, signals_of(efd));
}

static void *set_and_remove(void *arg)
{
	struct ringer *r = arg;
	int efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		dev_set_eventfd(r->a->fd, efd);
		dev_set_eventfd(r->a->fd, -1);
	}
	close(efd);
	return NULL;
}

TEST_F(events, an_eventfd_that_is_exchanged_while_it_is_rung)
{
	struct ringer r = { .a = &self->b };
	int i;

	ASSERT_EQ(0, pthread_create(&r.thread, NULL, set_and_remove, &r));
	for (i = 0; i < 5000; i++) {
		arm(self->b.own, RX);
		ASSERT_EQ(RX, dev_ring(self->fd[0], RX));
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	pthread_join(r.thread, NULL);
}

TEST_HARNESS_MAIN
