// SPDX-License-Identifier: MIT
/*
 * wait.c: what a wait returns, when, and what it costs: timeouts, signals, the
 * three policies, and no CPU while idle.  That no wake-up is ever lost is
 * doorbell.c's, that death ends a wait death.c's.
 */
#include "common.h"

FIXTURE(wait)
{
	struct evering *ev[2];
	struct evering *a, *b;
};

BACKEND_VARIANTS(wait);

FIXTURE_SETUP(wait)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 64, 16, 0);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(wait)
{
	close_pair(self->ev);
}

TEST_F(wait, a_timeout_is_never_early_and_not_much_late)
{
	static const int64_t timeout[] = { 1, USEC, 300 * USEC, 5 * MSEC,
					   60 * MSEC };
	static const unsigned int what[] = { EVERING_RX, EVERING_TX,
					     EVERING_RX | EVERING_TX };
	unsigned int policy;
	size_t i, k;
	int64_t t;

	ASSERT_EQ(16, send_until_full(self->a));
	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++)
		for (k = 0; k < ARRAY_SIZE(what); k++)
			for (i = 0; i < ARRAY_SIZE(timeout); i++) {
				ASSERT_EQ(0, evering_set_policy(self->a, policy,
								20000));
				t = now_ns();
				EXPECT_EQ(-ETIMEDOUT,
					  evering_wait(self->a, what[k],
						       timeout[i]));
				t = now_ns() - t;
				EXPECT_GE(t, timeout[i]);
				EXPECT_LT(t, timeout[i] + 2 * SEC)
				{
					TH_LOG("policy %u, what %u", policy,
					       what[k]);
				}
			}
}

TEST_F(wait, send_and_recv_time_out_alike)
{
	uint32_t v[2] = { 0, 0 };
	int64_t t;

	ASSERT_EQ(16, send_until_full(self->a));
	t = now_ns();
	EXPECT_EQ(-ETIMEDOUT, evering_send(self->a, v, 4, 5 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_send_bulk(self->a, v, 4, 2, 5 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->a, v, 4, 5 * MSEC));
	EXPECT_EQ(-ETIMEDOUT, evering_recv_bulk(self->a, v, 4, 2, 5 * MSEC));
	EXPECT_GE(now_ns() - t, 20 * MSEC);
}

TEST_F(wait, not_waiting_says_again)
{
	unsigned int policy;
	int i;

	ASSERT_EQ(16, send_until_full(self->a));
	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		ASSERT_EQ(0, evering_set_policy(self->a, policy, 1000));
		/* Enough calls that one of them asks whether the peer lives. */
		for (i = 0; i < 5000; i++) {
			ASSERT_EQ(-EAGAIN, evering_wait(self->a, EVERING_RX,
							EVERING_NOWAIT));
			ASSERT_EQ(-EAGAIN, evering_wait(self->a, EVERING_TX,
							EVERING_NOWAIT));
			ASSERT_EQ(-EAGAIN,
				  evering_wait(self->a,
					       EVERING_RX | EVERING_TX |
						       EVERING_FLUSH,
					       EVERING_NOWAIT));
		}
	}
}

TEST_F(wait, what_is_ready_is_returned_at_once)
{
	uint32_t v = 0;

	EXPECT_EQ((int)EVERING_TX, evering_wait(self->a, EVERING_TX, PLENTY));
	EXPECT_EQ((int)EVERING_TX,
		  evering_wait(self->a, EVERING_RX | EVERING_TX, PLENTY));
	ASSERT_EQ(0, evering_send(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ((int)(EVERING_RX | EVERING_TX),
		  evering_wait(self->a, EVERING_RX | EVERING_TX, PLENTY));
	EXPECT_EQ((int)EVERING_RX,
		  evering_wait(self->a, EVERING_RX, EVERING_WAIT_FOREVER));
	ASSERT_EQ(16, send_until_full(self->a));
	EXPECT_EQ((int)EVERING_RX,
		  evering_wait(self->a, EVERING_RX | EVERING_TX, 0));
}

TEST_F(wait, impossible_waits_are_refused)
{
	uint32_t v;

	EXPECT_EQ(-EINVAL, evering_wait(self->a, 0, 0));
	EXPECT_EQ(-EINVAL, evering_wait(self->a, EVERING_FLUSH, 0));
	EXPECT_EQ(-EINVAL, evering_wait(self->a, 4, 0));
	EXPECT_EQ(-EINVAL, evering_wait(self->a, EVERING_RX | 1u << 31, 0));
	EXPECT_EQ(-EINVAL, evering_wait(self->a, EVERING_RX, -2));
	EXPECT_EQ(-EINVAL, evering_wait(self->a, EVERING_TX, INT64_MIN));
	EXPECT_EQ(-EINVAL, evering_recv(self->a, &v, 4, -2));
	EXPECT_EQ(-EINVAL, evering_arm(self->a, 0));
	EXPECT_EQ(-EINVAL, evering_arm(self->a, 4));
	EXPECT_EQ(-EINVAL, evering_arm(self->a, EVERING_RX | EVERING_FLUSH));
	EXPECT_EQ(-EINVAL, evering_set_policy(self->a, 3, 0));
	EXPECT_EQ(-EINVAL, evering_set_policy(self->a, UINT32_MAX, 0));
	EXPECT_EQ(-EINVAL, evering_set_policy(self->a, 0, 1000001));
	EXPECT_EQ(0, evering_set_policy(self->a, EVERING_BUSY, 1000000));
}

TEST_F(wait, the_longest_timeout_is_no_timeout)
{
	struct evering_params p = params_sized(variant->backend, 64, 16, 0);
	unsigned int policy;
	uint32_t v = 1;

	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		close_pair(self->ev);
		p.policy = policy;
		ASSERT_EQ(0, evering_pair(&p, self->ev));
		ASSERT_EQ(0, evering_send(self->ev[0], &v, 4, INT64_MAX));
		ASSERT_EQ(0, evering_recv(self->ev[1], &v, 4, INT64_MAX));
	}
}

/* ------------------------------------------------- a partner in another thread */

struct partner {
	struct evering *ev;
	unsigned int armed;	/* what the other side is to sleep for first */
	int send, recv;		/* how many entries, then */
	bool flush;
	int ret;
	int64_t at;		/* when it was done */
};

static void *partner_main(void *arg)
{
	struct partner *p = arg;
	uint32_t v = 77;

	p->ret = peer_is_armed(p->ev, p->armed) ? 0 : -ETIMEDOUT;
	sleep_ns(2 * MSEC);
	while (!p->ret && p->recv-- > 0)
		p->ret = evering_recv(p->ev, &v, 4, EVERING_NOWAIT);
	while (!p->ret && p->send-- > 0)
		p->ret = evering_send(p->ev, &v, 4, EVERING_NOWAIT);
	__atomic_store_n(&p->at, now_ns(), __ATOMIC_RELEASE);
	return NULL;
}

TEST_F(wait, an_entry_wakes_who_waits_for_one)
{
	static const unsigned int policy[] = { EVERING_BLOCK,
					       EVERING_ADAPTIVE };
	struct partner p;
	pthread_t t;
	uint32_t v;
	size_t i;
	int64_t end;

	for (i = 0; i < ARRAY_SIZE(policy); i++) {
		p = (struct partner){ .ev = self->b,
				      .armed = EVERING_RX,
				      .send = 1 };
		ASSERT_EQ(0, evering_set_policy(self->a, policy[i], 20000));
		ASSERT_EQ(0, pthread_create(&t, NULL, partner_main, &p));
		v = 0;
		EXPECT_EQ(0, evering_recv(self->a, &v, 4, PLENTY));
		end = now_ns();
		ASSERT_EQ(0, pthread_join(t, NULL));
		EXPECT_EQ(77u, v);
		EXPECT_EQ(0, p.ret);
		EXPECT_LT(end - p.at, SEC);
	}
}

TEST_F(wait, one_release_wakes_who_waits_for_space)
{
	static const unsigned int policy[] = { EVERING_BLOCK,
					       EVERING_ADAPTIVE };
	struct partner p;
	pthread_t t;
	uint32_t v = 0;
	size_t i;
	int64_t end;

	for (i = 0; i < ARRAY_SIZE(policy); i++) {
		p = (struct partner){ .ev = self->b,
				      .armed = EVERING_TX,
				      .recv = 1 };
		send_until_full(self->a);
		ASSERT_EQ(0, evering_set_policy(self->a, policy[i], 20000));
		ASSERT_EQ(0, pthread_create(&t, NULL, partner_main, &p));
		EXPECT_EQ(0, evering_send(self->a, &v, 4, PLENTY));
		end = now_ns();
		ASSERT_EQ(0, pthread_join(t, NULL));
		EXPECT_EQ(0, p.ret);
		EXPECT_LT(end - p.at, SEC);
		EXPECT_EQ(-EAGAIN, evering_send(self->a, &v, 4, 0));
	}
}

TEST_F(wait, waiting_for_either_ends_with_the_one_that_came)
{
	struct partner p;
	pthread_t t;
	uint32_t v;

	ASSERT_EQ(16, send_until_full(self->a));
	p = (struct partner){ .ev = self->b, .armed = EVERING_RX, .send = 1 };
	ASSERT_EQ(0, pthread_create(&t, NULL, partner_main, &p));
	EXPECT_EQ((int)EVERING_RX,
		  evering_wait(self->a, EVERING_RX | EVERING_TX, PLENTY));
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_EQ(0, evering_recv(self->a, &v, 4, 0));

	p = (struct partner){ .ev = self->b, .armed = EVERING_TX, .recv = 1 };
	ASSERT_EQ(0, pthread_create(&t, NULL, partner_main, &p));
	EXPECT_EQ((int)EVERING_TX,
		  evering_wait(self->a, EVERING_RX | EVERING_TX, PLENTY));
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_EQ(0, p.ret);
}

/* Answers one entry with one, having slept for it. */
static void *answer_one(void *arg)
{
	struct partner *p = arg;
	uint32_t v;

	p->ret = evering_recv(p->ev, &v, 4, PLENTY);
	if (!p->ret)
		p->ret = evering_send(p->ev, &v, 4, PLENTY);
	return NULL;
}

static void *receive_all(void *arg)
{
	struct partner *p = arg;
	uint32_t v;

	while (!p->ret && p->recv-- > 0)
		p->ret = evering_recv(p->ev, &v, 4, PLENTY);
	return NULL;
}

/*
 * Both sides wait for PLENTY, after which they would look at the rings again: what
 * ends just then was not woken.
 */
#define EXPECT_WOKEN(since) EXPECT_LT(now_ns() - (since), PLENTY / 2)

TEST_F(wait, flush_in_a_wait_wakes_the_peer)
{
	static const unsigned int policy[] = { EVERING_BLOCK, EVERING_ADAPTIVE,
					       EVERING_BUSY };
	struct partner p;
	int64_t start;
	pthread_t t;
	uint32_t v;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(policy); i++) {
		p = (struct partner){ .ev = self->b };
		ASSERT_EQ(0, evering_set_policy(self->a, policy[i], 20000));
		start = now_ns();
		ASSERT_EQ(0, pthread_create(&t, NULL, answer_one, &p));
		ASSERT_TRUE(peer_is_armed(self->a, EVERING_RX));
		sleep_ns(MSEC);
		ASSERT_NE(NULL, evering_reserve(self->a));
		evering_commit(self->a);
		EXPECT_EQ((int)EVERING_RX,
			  evering_wait(self->a, EVERING_RX | EVERING_FLUSH,
				       PLENTY));
		ASSERT_EQ(0, pthread_join(t, NULL));
		EXPECT_WOKEN(start);
		EXPECT_EQ(0, p.ret);
		EXPECT_EQ(0, evering_recv(self->a, &v, 4, 0));
	}
}

TEST_F(wait, flush_in_a_wait_that_need_not_wait_wakes_the_peer_too)
{
	struct partner p = { .ev = self->b };
	int64_t start = now_ns();
	uint32_t v = 5;
	pthread_t t;

	ASSERT_EQ(0, evering_send(self->b, &v, 4, EVERING_NOWAIT));
	ASSERT_EQ(0, pthread_create(&t, NULL, answer_one, &p));
	ASSERT_TRUE(peer_is_armed(self->a, EVERING_RX));
	sleep_ns(MSEC);
	ASSERT_NE(NULL, evering_reserve(self->a));
	evering_commit(self->a);
	EXPECT_EQ((int)EVERING_RX,
		  evering_wait(self->a, EVERING_RX | EVERING_FLUSH, PLENTY));
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_WOKEN(start);
	EXPECT_EQ(0, p.ret);
}

TEST_F(wait, a_full_ring_is_not_waited_on_behind_an_unwoken_reader)
{
	struct evering_params params =
		params_sized(variant->backend, 64, 16, 0);
	unsigned int policy;
	struct partner p;
	uint32_t v = 0;
	int64_t start;
	pthread_t t;

	/* B sleeps; A commits a whole ring without a flush, then wants space. */
	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		close_pair(self->ev);
		params.policy = policy;
		ASSERT_EQ(0, evering_pair(&params, self->ev));
		ASSERT_EQ(0, evering_set_policy(self->ev[1], EVERING_BLOCK, 0));
		p = (struct partner){ .ev = self->ev[1], .recv = 8 };
		start = now_ns();
		ASSERT_EQ(0, pthread_create(&t, NULL, receive_all, &p));
		ASSERT_TRUE(peer_is_armed(self->ev[0], EVERING_RX));
		sleep_ns(MSEC);
		while (evering_reserve(self->ev[0]))
			evering_commit(self->ev[0]);
		EXPECT_EQ(0, evering_send(self->ev[0], &v, 4, PLENTY));
		ASSERT_EQ(0, pthread_join(t, NULL));
		EXPECT_WOKEN(start);
		EXPECT_EQ(0, p.ret);
	}
}

TEST_F(wait, release_publishes_before_the_wait_so_both_can_go_on)
{
	struct partner p = { .ev = self->b, .armed = EVERING_RX, .send = 1 };
	int64_t start = now_ns();
	uint32_t v = 0;
	pthread_t t;
	int i;

	/* Three of them are less than a quarter ring, and not told at once. */
	for (i = 0; i < 15; i++)
		ASSERT_EQ(0, evering_send(self->b, &v, 4, 0));
	for (i = 0; i < 15; i++)
		ASSERT_EQ(0, evering_recv(self->a, &v, 4, 0));
	ASSERT_EQ(0, pthread_create(&t, NULL, partner_main, &p));
	EXPECT_EQ(0, evering_recv(self->a, &v, 4, PLENTY));
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_WOKEN(start);
	EXPECT_EQ(0, p.ret);
	EXPECT_EQ(77u, v);
	EXPECT_EQ(15, send_until_full(self->b));
}

static void *send_one_main(void *arg)
{
	struct partner *p = arg;
	uint32_t v = 0;

	p->ret = evering_send(p->ev, &v, 4, PLENTY);
	return NULL;
}

/*
 * Each side has one thread for both roles.  B has received a little less than what
 * it publishes at once, and then waits for space itself.
 */
TEST_F(wait, who_waits_for_space_keeps_no_space_back)
{
	unsigned int policy;
	struct partner a, b;
	pthread_t t[2];
	uint32_t v;
	int64_t start;
	int i, first;

	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++)
		for (first = 0; first < 2; first++) {
			struct evering_params p =
				params_sized(variant->backend, 64, 16, 0);

			close_pair(self->ev);
			p.policy = policy;
			ASSERT_EQ(0, evering_pair(&p, self->ev));
			ASSERT_EQ(16, send_until_full(self->ev[0]));
			ASSERT_EQ(16, send_until_full(self->ev[1]));
			for (i = 0; i < 3; i++)
				ASSERT_EQ(0,
					  evering_recv(self->ev[1], &v, 4, 0));
			start = now_ns();
			a = (struct partner){ .ev = self->ev[0] };
			b = (struct partner){ .ev = self->ev[1] };
			ASSERT_EQ(0, pthread_create(&t[0], NULL, send_one_main,
						    first ? &a : &b));
			sleep_ns(5 * MSEC);
			ASSERT_EQ(0, pthread_create(&t[1], NULL, send_one_main,
						    first ? &b : &a));
			ASSERT_EQ(0, pthread_join(t[!first], NULL));
			EXPECT_WOKEN(start);
			EXPECT_EQ(0, a.ret)
			{
				TH_LOG("policy %u, A %s", policy,
				       first ? "first" : "second");
			}
			while (!evering_recv(self->ev[0], &v, 4, 0))
				;
			ASSERT_EQ(0, pthread_join(t[first], NULL));
			EXPECT_EQ(0, b.ret);
		}
}

/* Whether the thread has slept in a wait of @ns; not if it lost its CPU for as long. */
static bool sleeps(struct evering *ev, int64_t ns)
{
	struct evering_counters before, after;
	uint32_t v;

	evering_get_counters(ev, EVERING_MINE, &before);
	if (evering_recv(ev, &v, 4, ns) != -ETIMEDOUT)
		return false;
	evering_get_counters(ev, EVERING_MINE, &after);
	return after.rx_sleeps == before.rx_sleeps + 1;
}

TEST_F(wait, a_new_policy_counts_from_the_next_wait)
{
	struct evering_counters before, after;
	uint32_t v;
	int i;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, evering_set_policy(self->a, EVERING_BUSY, 0));
		evering_get_counters(self->a, EVERING_MINE, &before);
		EXPECT_EQ(-ETIMEDOUT, evering_recv(self->a, &v, 4, MSEC));
		evering_get_counters(self->a, EVERING_MINE, &after);
		EXPECT_EQ(before.rx_sleeps, after.rx_sleeps);
		ASSERT_EQ(0, evering_set_policy(self->a, EVERING_BLOCK, 0));
		EXPECT_TRUE(EVENTUALLY(sleeps(self->a, MSEC)));
		ASSERT_EQ(0, evering_set_policy(self->a, EVERING_ADAPTIVE, 50));
		/* It is to be over with spinning before its time is. */
		EXPECT_TRUE(EVENTUALLY(sleeps(self->a, slow(5 * MSEC))));
	}
}

/* ------------------------------------------------------------------- signals */

static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
	(void)sig;
	handled++;
}

TEST_F(wait, a_signal_handler_ends_a_wait)
{
	static const unsigned int policy[] = { EVERING_BLOCK,
					       EVERING_ADAPTIVE };
	static const int flags[] = { 0, SA_RESTART };
	struct itimerval every = { { 0, 30000 }, { 0, 30000 } };
	struct itimerval off = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = on_signal };
	uint32_t v = 0;
	size_t i, k;
	int64_t t;

	for (i = 0; i < ARRAY_SIZE(policy); i++)
		for (k = 0; k < ARRAY_SIZE(flags); k++) {
			sa.sa_flags = flags[k];
			ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
			ASSERT_EQ(0, evering_set_policy(self->a, policy[i],
							10000));
			handled = 0;
			t = now_ns();
			setitimer(ITIMER_REAL, &every, NULL);
			EXPECT_EQ(-EINTR, evering_recv(self->a, &v, 4, PLENTY))
			{
				TH_LOG("flags %#x", flags[k]);
			}
			EXPECT_EQ(-EINTR, evering_wait(self->a, EVERING_RX,
						       EVERING_WAIT_FOREVER));
			send_until_full(self->a);
			EXPECT_EQ(-EINTR, evering_send(self->a, &v, 4,
						       EVERING_WAIT_FOREVER));
			EXPECT_EQ(-EINTR,
				  evering_wait(self->a, EVERING_RX | EVERING_TX,
					       EVERING_WAIT_FOREVER));
			setitimer(ITIMER_REAL, &off, NULL);
			EXPECT_GE(handled, 3);
			EXPECT_LT(now_ns() - t, PLENTY / 2);
		}

	/* Nothing was lost, nothing is left behind. */
	EXPECT_EQ(0, evering_send(self->b, &v, 4, 0));
	EXPECT_EQ(0, evering_recv(self->a, &v, 4, 0));
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->a, &v, 4, MSEC));
}

TEST_F(wait, an_ignored_signal_ends_nothing)
{
	struct itimerval every = { { 0, 5000 }, { 0, 5000 } };
	struct itimerval off = { { 0, 0 }, { 0, 0 } };
	uint32_t v;

	signal(SIGALRM, SIG_IGN);
	setitimer(ITIMER_REAL, &every, NULL);
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->a, &v, 4, 50 * MSEC));
	setitimer(ITIMER_REAL, &off, NULL);
}

/* ---------------------------------------------------------------------- idle */

struct idler {
	struct evering *ev;
	unsigned int what;
	int64_t ns;
	int ret;
};

static void *idle_main(void *arg)
{
	struct idler *idler = arg;

	idler->ret = evering_wait(idler->ev, idler->what, idler->ns);
	return NULL;
}

TEST_F(wait, idle_costs_no_cpu)
{
	struct evering_params p = params_sized(variant->backend, 64, 16, 0);
	struct evering_counters before[2], after[2];
	int64_t ns = short_run() ? 2 * SEC : 5 * SEC;
	struct rusage ru_before, ru_after;
	struct evering *other[2];
	struct idler idler[2];
	pthread_t t[2];
	uint32_t v = 0;
	int64_t cpu;
	int i;

	/* One channel under each policy, both roles, so all is seen in one wait. */
	p.policy = EVERING_ADAPTIVE;
	ASSERT_EQ(0, evering_pair(&p, other));
	/* Rings that have been answered, or that nobody slept for, wake nobody. */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, evering_arm(i ? other[0] : self->a, EVERING_RX));
		ASSERT_EQ(0, evering_send(i ? other[1] : self->b, &v, 4, 0));
		ASSERT_EQ(0, evering_recv(i ? other[0] : self->a, &v, 4, 0));
	}
	send_until_full(self->a);
	send_until_full(other[0]);
	idler[0] = (struct idler){ self->a, EVERING_RX | EVERING_TX, ns, 0 };
	idler[1] = (struct idler){ other[0], EVERING_RX | EVERING_TX, ns, 0 };
	for (i = 0; i < 2; i++)
		evering_get_counters(idler[i].ev, EVERING_MINE, &before[i]);
	getrusage(RUSAGE_SELF, &ru_before);
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&t[i], NULL, idle_main, &idler[i]));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(t[i], NULL));
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	getrusage(RUSAGE_SELF, &ru_after);
	printf("# idle %lld ms: %lld us of CPU, %ld sleeps\n",
	       (long long)(ns / MSEC), (long long)(cpu / USEC),
	       ru_after.ru_nvcsw - ru_before.ru_nvcsw);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(-ETIMEDOUT, idler[i].ret);
		evering_get_counters(idler[i].ev, EVERING_MINE, &after[i]);
		/* No looking up now and then. */
		EXPECT_LE(after[i].rx_sleeps + after[i].tx_sleeps,
			  before[i].rx_sleeps + before[i].tx_sleeps + 3);
		EXPECT_LE(after[i].rx_syscalls, before[i].rx_syscalls + 6);
	}
	/* A sanitizer has a thread of its own, which looks up now and then. */
	EXPECT_LT(cpu, SANITIZED ? slow(ns / 20) : slow(10 * MSEC));
	if (!SANITIZED)
		EXPECT_LE(ru_after.ru_nvcsw - ru_before.ru_nvcsw, 20);
	close_pair(other);
}

TEST_HARNESS_MAIN
