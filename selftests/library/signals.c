// SPDX-License-Identifier: MIT
/*
 * signals.c: what ends a wait that neither an entry nor the peer does: a handler while
 * it spins, a signal that is let in with evering_pwait(), evering_wake().  None of them
 * is slept over.  And what a wait that one has left still owes the peer.
 */
#include "common.h"

#include <sys/ioctl.h>

/**
 * FIXTURE signals
 * @others: descriptors that are not of the channel, by number
 */
FIXTURE(signals)
{
	bool others[FDS];
	struct evering *ev[2];
	struct evering *a, *b;
};

BACKEND_VARIANTS(signals);

FIXTURE_SETUP(signals)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	list_open(self->others);
	p = params_sized(variant->backend, 64, 16, 0);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(signals)
{
	close_pair(self->ev);
}

static const unsigned int policies[] = { EVERING_ADAPTIVE, EVERING_BLOCK,
					 EVERING_BUSY };
static const unsigned int roles[] = { EVERING_RX, EVERING_TX,
				      EVERING_RX | EVERING_TX };

static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
	(void)sig;
	handled++;
}

/* ------------------------------------------------------------ while it spins */

/*
 * Of signals a while after the call: how many end the wait, of 100?  The few that come
 * before it spins are not to.
 */
static int percent_noticed(struct evering *ev, unsigned int what,
			   uint32_t spin_ns, int laps)
{
	int i, noticed = 0, came = 0, ret;

	for (i = 0; i < laps; i++) {
		uint32_t us =
			spin_ns / 4000 + (uint32_t)i % 8 * spin_ns / 16000;
		struct itimerval once = { { 0, 0 }, { 0, us } };

		/* So that it spins for all of its time again. */
		evering_set_policy(ev, EVERING_ADAPTIVE, spin_ns);
		handled = 0;
		setitimer(ITIMER_REAL, &once, NULL);
		ret = evering_wait(ev, what, slow(20 * MSEC));
		came += handled > 0;
		noticed += ret == -EINTR;
	}
	return came ? noticed * 100 / came : 0;
}

TEST_F(signals, a_handler_ends_a_wait_that_spins)
{
	int laps = short_run() ? 16 : 100;
	size_t i;

	ASSERT_EQ(0, handle(SIGALRM, on_signal));
	ASSERT_EQ(16, send_until_full(self->a));
	/* A thread may lose its CPU on its way, often where the machine is busy. */
	for (i = 0; i < ARRAY_SIZE(roles); i++) {
		EXPECT_TRUE(EVENTUALLY(percent_noticed(self->a, roles[i],
						       1000000, laps) >= 70))
		{
			TH_LOG("roles %u", roles[i]);
		}
	}
	/* Where these are over before it spins, there is nothing to be noticed. */
	if (!SANITIZED && slow(1) == 1)
		EXPECT_TRUE(EVENTUALLY(percent_noticed(self->a, EVERING_RX,
						       EVERING_SPIN_NS,
						       laps) >= 20));
}

/* They come all the time: while it spins, on its way to sleep, and asleep. */
TEST_F(signals, one_that_is_ignored_ends_nothing)
{
	static const struct {
		int signal;
		void (*action)(int);
	} ignored[] = {
		{ SIGALRM, SIG_IGN },
		{ SIGCHLD, SIG_DFL },
	};
	int laps = short_run() ? 50 : 400, lap;
	size_t i, k;

	handle_nothing();
	ASSERT_EQ(16, send_until_full(self->a));
	for (i = 0; i < ARRAY_SIZE(ignored); i++) {
		pid_t child;

		ASSERT_EQ(0, handle(ignored[i].signal, ignored[i].action));
		child = send_signals(ignored[i].signal);
		ASSERT_LT(0, child);
		for (k = 0; k < ARRAY_SIZE(policies); k++)
			for (lap = 0; lap < laps; lap++) {
				evering_set_policy(self->a, policies[k],
						   EVERING_SPIN_NS);
				ASSERT_EQ(-ETIMEDOUT,
					  evering_wait(self->a, roles[lap % 3],
						       slow(MSEC)))
				{
					TH_LOG("policy %u lap %d", policies[k],
					       lap);
				}
			}
		kill_and_reap(child);
	}
}

/* How many waits does it end, of 100? */
static int percent_ended(struct evering *ev, int laps)
{
	int lap, ended = 0;

	for (lap = 0; lap < laps; lap++) {
		evering_set_policy(ev, EVERING_ADAPTIVE, EVERING_SPIN_NS);
		ended += evering_wait(ev, EVERING_RX, slow(MSEC)) == -EINTR;
	}
	return ended * 100 / laps;
}

/* It is not known then what ended a sleep: one that comes just before it may. */
TEST_F(signals, one_that_is_ignored_ends_little_where_another_is_handled)
{
	int laps = short_run() ? 50 : 200;
	pid_t child;

	ASSERT_EQ(0, handle(SIGUSR1, on_signal));
	ASSERT_EQ(0, handle(SIGALRM, SIG_IGN));
	child = send_signals(SIGALRM);
	ASSERT_LT(0, child);
	EXPECT_TRUE(EVENTUALLY(percent_ended(self->a, laps) <= 10));
	kill_and_reap(child);
}

/* ------------------------------------------------------------ evering_pwait() */

TEST_F(signals, one_that_is_let_in_is_not_slept_over)
{
	sigset_t blocked, none, own;
	size_t i, k;
	int lap;

	ASSERT_EQ(0, handle(SIGUSR1, on_signal));
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &blocked, NULL));
	ASSERT_EQ(16, send_until_full(self->a));
	for (i = 0; i < ARRAY_SIZE(policies); i++)
		for (k = 0; k < ARRAY_SIZE(roles); k++)
			for (lap = 0; lap < 20; lap++) {
				evering_set_policy(self->a, policies[i],
						   EVERING_SPIN_NS);
				handled = 0;
				raise(SIGUSR1);
				ASSERT_EQ(0, handled);
				ASSERT_EQ(-EINTR,
					  evering_pwait(self->a, roles[k],
							EVERING_WAIT_FOREVER,
							&none))
				{
					TH_LOG("policy %u roles %u",
					       policies[i], roles[k]);
				}
				ASSERT_EQ(1, handled);
				/* The mask is what it was. */
				pthread_sigmask(SIG_BLOCK, NULL, &own);
				ASSERT_EQ(1, sigismember(&own, SIGUSR1));
			}
}

TEST_F(signals, one_that_is_not_let_in_ends_nothing)
{
	sigset_t blocked;
	size_t i;

	ASSERT_EQ(0, handle(SIGUSR1, on_signal));
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	for (i = 0; i < ARRAY_SIZE(policies); i++) {
		evering_set_policy(self->a, policies[i], EVERING_SPIN_NS);
		ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &blocked, NULL));
		raise(SIGUSR1);
		EXPECT_EQ(-ETIMEDOUT, evering_pwait(self->a, EVERING_RX,
						    5 * MSEC, &blocked));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_pwait(self->a, EVERING_RX, 5 * MSEC, NULL));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_wait(self->a, EVERING_RX, 5 * MSEC));
		EXPECT_EQ(0, handled);
		ASSERT_EQ(0, pthread_sigmask(SIG_UNBLOCK, &blocked, NULL));
		EXPECT_EQ(1, handled);
		handled = 0;
	}
}

/* --------------------------------------------------- waits of another thread */

/**
 * struct waiter - a thread that waits
 * @mask: for evering_pwait()
 * @tid: it is about to
 * @ret: what came of it
 */
struct waiter {
	struct evering *ev;
	unsigned int what;
	int64_t timeout;
	const sigset_t *mask;
	pid_t tid;
	int ret;
	pthread_t t;
};

static void *waiter_main(void *arg)
{
	struct waiter *w = arg;

	__atomic_store_n(&w->tid, my_tid(), __ATOMIC_RELEASE);
	w->ret = evering_pwait(w->ev, w->what, w->timeout, w->mask);
	return NULL;
}

static int waiter_start(struct waiter *w, struct evering *ev, unsigned int what,
			const sigset_t *mask)
{
	*w = (struct waiter){
		.ev = ev, .what = what, .timeout = PLENTY, .mask = mask
	};
	return pthread_create(&w->t, NULL, waiter_main, w);
}

/* Until it waits: asleep, or for a while if it does not sleep. */
static bool waits(struct waiter *w, unsigned int policy)
{
	if (policy == EVERING_BLOCK)
		return falls_asleep(&w->tid);
	if (!EVENTUALLY(__atomic_load_n(&w->tid, __ATOMIC_ACQUIRE)))
		return false;
	sleep_ns(2 * MSEC);
	return true;
}

TEST_F(signals, one_that_comes_later_is_let_in_as_well)
{
	sigset_t blocked, none;
	struct waiter w;
	size_t i, k;

	ASSERT_EQ(0, handle(SIGUSR1, on_signal));
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &blocked, NULL));
	ASSERT_EQ(16, send_until_full(self->a));
	for (i = 0; i < ARRAY_SIZE(policies); i++)
		for (k = 0; k < ARRAY_SIZE(roles); k++) {
			evering_set_policy(self->a, policies[i],
					   EVERING_SPIN_NS);
			ASSERT_EQ(0,
				  waiter_start(&w, self->a, roles[k], &none));
			ASSERT_TRUE(waits(&w, policies[i]));
			pthread_kill(w.t, SIGUSR1);
			pthread_join(w.t, NULL);
			EXPECT_EQ(-EINTR, w.ret)
			{
				TH_LOG("policy %u roles %u", policies[i],
				       roles[k]);
			}
		}
}

/* ------------------------------------------------------------- evering_wake() */

/* A module that does not know it yet refuses it. */
static bool wakes(struct evering *ev)
{
	struct evering_bell bell;

	if (strcmp(evering_backend_name(ev), "device"))
		return true;
	bell.fd = evering_fd(ev);
	return !ioctl(bell.fd, EVERING_IOC_RING,
		      EVERING_RX | EVERING_RING_SELF);
}

TEST_F(signals, a_wake_before_the_wait_ends_one)
{
	size_t i, k;
	uint32_t v = 0;

	if (!wakes(self->a))
		SKIP(return, "this module cannot ring its own side");
	evering_wait(self->a, EVERING_RX, EVERING_NOWAIT);
	ASSERT_EQ(16, send_until_full(self->a));
	EXPECT_EQ(-EINVAL, evering_wake(self->a, 0));
	EXPECT_EQ(-EINVAL, evering_wake(self->a, 4));
	for (i = 0; i < ARRAY_SIZE(policies); i++)
		for (k = 0; k < ARRAY_SIZE(roles); k++) {
			evering_set_policy(self->a, policies[i],
					   EVERING_SPIN_NS);
			EXPECT_EQ(0, evering_wake(self->a, roles[k]));
			EXPECT_EQ(0, evering_wake(self->a, roles[k]));
			EXPECT_EQ(-EINTR,
				  evering_wait(self->a, roles[k], PLENTY));
			EXPECT_EQ(-ETIMEDOUT,
				  evering_wait(self->a, roles[k], 2 * MSEC));
		}
	/* Of the other role it is none. */
	evering_set_policy(self->a, EVERING_BLOCK, 0);
	EXPECT_EQ(0, evering_wake(self->a, EVERING_TX));
	EXPECT_EQ(-ETIMEDOUT, evering_wait(self->a, EVERING_RX, 2 * MSEC));
	EXPECT_EQ(-EINTR, evering_wait(self->a, EVERING_TX, PLENTY));
	/* Nor does it keep an entry from who comes for it. */
	EXPECT_EQ(0, evering_wake(self->a, EVERING_RX));
	EXPECT_EQ(0, evering_send(self->b, &v, 4, 0));
	EXPECT_EQ(0, evering_recv(self->a, &v, 4, PLENTY));
	EXPECT_EQ(-EINTR, evering_recv(self->a, &v, 4, PLENTY));
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->a, &v, 4, 2 * MSEC));
}

TEST_F(signals, a_wake_ends_a_wait)
{
	struct waiter w;
	size_t i, k;
	int lap, laps = short_run() ? 4 : 10;

	if (!wakes(self->a))
		SKIP(return, "this module cannot ring its own side");
	evering_wait(self->a, EVERING_RX, 1);
	ASSERT_EQ(16, send_until_full(self->a));
	for (i = 0; i < ARRAY_SIZE(policies); i++)
		for (k = 0; k < ARRAY_SIZE(roles); k++)
			for (lap = 0; lap < laps; lap++) {
				evering_set_policy(self->a, policies[i],
						   EVERING_SPIN_NS);
				ASSERT_EQ(0, waiter_start(&w, self->a, roles[k],
							  NULL));
				/* Some come on its way to sleep. */
				if (lap % 2)
					ASSERT_TRUE(waits(&w, policies[i]));
				EXPECT_EQ(0, evering_wake(self->a, roles[k]));
				pthread_join(w.t, NULL);
				ASSERT_EQ(-EINTR, w.ret)
				{
					TH_LOG("policy %u roles %u",
					       policies[i], roles[k]);
				}
			}
}

static struct evering *to_wake;

static void on_alarm(int sig)
{
	(void)sig;
	handled++;
	evering_wake(to_wake, EVERING_RX);
}

TEST_F(signals, a_wake_from_a_handler_is_never_missed)
{
	int laps = short_run() ? 20 : 200;
	size_t i;
	int lap;

	if (!wakes(self->a))
		SKIP(return, "this module cannot ring its own side");
	evering_wait(self->a, EVERING_RX, 1);
	to_wake = self->a;
	ASSERT_EQ(0, handle(SIGALRM, on_alarm));
	for (i = 0; i < ARRAY_SIZE(policies); i++)
		for (lap = 0; lap < laps; lap++) {
			struct itimerval once = { { 0, 0 },
						  { 0, 1 + lap % 80 } };

			evering_set_policy(self->a, policies[i],
					   EVERING_SPIN_NS);
			handled = 0;
			setitimer(ITIMER_REAL, &once, NULL);
			ASSERT_EQ(-EINTR,
				  evering_wait(self->a, EVERING_RX, PLENTY))
			{
				TH_LOG("policy %u, after %d us", policies[i],
				       lap % 80 + 1);
			}
			/* By the handler's return, by its wake, or by both. */
			while (!handled)
				sleep_ns(10 * USEC);
			evering_wait(self->a, EVERING_RX, 1);
			ASSERT_EQ(-ETIMEDOUT,
				  evering_wait(self->a, EVERING_RX, USEC));
		}
}

TEST_F(signals, a_wake_ends_a_loops_sleep)
{
	struct pollfd fd = { .events = evering_events(self->a, EVERING_RX) };
	uint32_t v = 0;
	int lap;

	if (!wakes(self->a))
		SKIP(return, "this module cannot ring its own side");
	fd.fd = evering_fd(self->a);
	for (lap = 0; lap < 5; lap++) {
		ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
		EXPECT_EQ(0, poll(&fd, 1, 0));
		EXPECT_EQ(0, evering_wake(self->a, EVERING_RX));
		EXPECT_EQ(1, poll(&fd, 1, (int)(PLENTY / MSEC)));
		/* And after it the loop still hears what comes. */
		ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
		EXPECT_EQ(0, poll(&fd, 1, 0));
		EXPECT_EQ(0, evering_send(self->b, &v, 4, 0));
		EXPECT_EQ(1, poll(&fd, 1, (int)(PLENTY / MSEC)));
		EXPECT_EQ(0, evering_recv(self->a, &v, 4, 0));
		EXPECT_EQ(-EAGAIN, evering_recv(self->a, &v, 4, 0));
	}
}

TEST_F(signals, a_peer_that_fills_bells_keeps_no_wake)
{
	struct pollfd fd = { .events = evering_events(self->a, EVERING_RX) };
	const struct evering_group_event *events;
	struct evering_group *g;
	struct waiter w;
	size_t i, k;
	int block;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "a doorbell of the device cannot be filled");
	evering_set_policy(self->a, EVERING_BLOCK, 0);
	ASSERT_EQ(16, send_until_full(self->a));
	for (block = 0; block < 2; block++) {
		/* Before anybody has slept, the first time. */
		ASSERT_EQ(8, fill_bells(self->others, block));
		for (k = 0; k < ARRAY_SIZE(roles); k++)
			for (i = 0; i < 3; i++) {
				ASSERT_EQ(0, waiter_start(&w, self->a, roles[k],
							  NULL));
				if (i)
					ASSERT_TRUE(falls_asleep(&w.tid));
				/* A first edge is there to be heard. */
				if (i == 2)
					ASSERT_EQ(8, fill_bells(self->others,
								block));
				EXPECT_EQ(0, evering_wake(self->a, roles[k]));
				pthread_join(w.t, NULL);
				ASSERT_EQ(-EINTR, w.ret)
				{
					TH_LOG("roles %u, block %d", roles[k],
					       block);
				}
			}
		/* Nor one of a loop. */
		EXPECT_EQ(-ETIMEDOUT, evering_wait(self->a, roles[2], MSEC));
		fd.fd = evering_fd(self->a);
		ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
		ASSERT_EQ(0, poll(&fd, 1, 0));
		EXPECT_EQ(0, evering_wake(self->a, EVERING_RX));
		EXPECT_EQ(1, poll(&fd, 1, (int)(PLENTY / MSEC)));
		EXPECT_EQ(-EINTR, evering_wait(self->a, EVERING_RX, PLENTY));
		/* Nor of a group, which it may enter late. */
		ASSERT_EQ(0, evering_group_open(NULL, &g));
		for (i = 0; i < 3; i++) {
			if (i == 2)
				evering_wake(self->a, EVERING_RX);
			ASSERT_EQ(0, evering_group_add(g, self->a, EVERING_RX,
						       NULL));
			if (i != 2) {
				ASSERT_EQ(-ETIMEDOUT,
					  evering_group_wait(g, &events, MSEC));
				EXPECT_EQ(0, evering_wake(self->a, EVERING_RX));
			}
			EXPECT_EQ(-EINTR,
				  evering_group_wait(g, &events, PLENTY));
			ASSERT_EQ(0, evering_group_remove(g, self->a));
		}
		evering_group_close(g);
	}
}

/* ---------------------------------------------------------- evering_publish() */

TEST_F(signals, what_was_released_is_published_when_asked)
{
	struct waiter w;
	uint32_t v;
	int i;

	/* Fewer than are told of by themselves; and then the peer waits, or comes. */
	ASSERT_EQ(16, send_until_full(self->a));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, 0));
	EXPECT_EQ(-ETIMEDOUT, evering_wait(self->a, EVERING_TX, MSEC));
	ASSERT_EQ(0, waiter_start(&w, self->a, EVERING_TX, NULL));
	ASSERT_TRUE(falls_asleep(&w.tid));
	ASSERT_TRUE(peer_is_armed(self->b, EVERING_TX));
	EXPECT_EQ(0, evering_publish(self->b));
	pthread_join(w.t, NULL);
	EXPECT_EQ(EVERING_TX, w.ret);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, evering_send(self->a, &v, 4, 0));
	EXPECT_EQ(-EAGAIN, evering_send(self->a, &v, 4, 0));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, 0));
	EXPECT_EQ(0, evering_publish(self->b));
	EXPECT_EQ(0, evering_send(self->a, &v, 4, 0));
	/* Where there is nothing to tell, nothing is told. */
	EXPECT_EQ(0, evering_publish(self->b));
	EXPECT_EQ(-EAGAIN, evering_send(self->a, &v, 4, 0));
}

/* -------------------------------------------------- one thread in each role */

struct receiver {
	struct evering *ev;
	bool stop;
	int got;
	pid_t tid;
};

static void *receiver_main(void *arg)
{
	struct receiver *r = arg;
	uint32_t v;

	__atomic_store_n(&r->tid, my_tid(), __ATOMIC_RELEASE);
	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE))
		if (!evering_recv(r->ev, &v, 4, 50 * MSEC))
			__atomic_fetch_add(&r->got, 1, __ATOMIC_RELEASE);
	return NULL;
}

/*
 * One thread receives, and another polls for space.  What came for the one does not
 * keep the other awake, once the one has it.
 */
TEST_F(signals, a_loop_that_waits_for_space_sleeps_while_others_receive)
{
	struct pollfd fd = { .events = evering_events(self->a, EVERING_TX) };
	struct receiver r = { .ev = self->a };
	int wakeups = 0, sent, i;
	uint32_t v = 0;
	pthread_t t;

	fd.fd = evering_fd(self->a);
	ASSERT_LE(0, fd.fd);
	ASSERT_EQ(16, send_until_full(self->a));
	ASSERT_EQ(0, pthread_create(&t, NULL, receiver_main, &r));
	for (sent = 0; sent < 10; sent++) {
		ASSERT_EQ(0, evering_arm(self->a, EVERING_TX));
		ASSERT_EQ(0, evering_send(self->b, &v, 4, 0));
		evering_flush(self->b);
		ASSERT_TRUE(EVENTUALLY(
			__atomic_load_n(&r.got, __ATOMIC_ACQUIRE) == sent + 1));
		/* It comes back, and sleeps. */
		ASSERT_TRUE(falls_asleep(&r.tid));
		sleep_ns(MSEC);
		for (i = 0; i < 20; i++) {
			ASSERT_EQ(0, evering_arm(self->a, EVERING_TX));
			wakeups += poll(&fd, 1, 1) > 0;
		}
	}
	printf("# %d wake-ups of 200\n", wakeups);
	EXPECT_GE(20, wakeups);
	/* And when there is space, it is told. */
	ASSERT_EQ(0, evering_arm(self->a, EVERING_TX));
	while (!evering_recv(self->b, &v, 4, 0))
		;
	evering_publish(self->b);
	EXPECT_EQ(1, poll(&fd, 1, (int)(PLENTY / MSEC)));
	EXPECT_EQ(EVERING_TX, evering_arm(self->a, EVERING_TX));
	__atomic_store_n(&r.stop, true, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
}

TEST_HARNESS_MAIN
