// SPDX-License-Identifier: MIT
/*
 * lazy.c: EVERING_LAZY_RING: what a send leaves owed, each of the ways in which it is
 * paid, that it is paid once, and how many system calls a message takes then.  That no
 * wake-up is lost on the way is doorbell.c's.
 */
#include "common.h"

#include <sched.h>

FIXTURE(lazy)
{
	struct evering_params p;
	struct evering *ev[2];
	struct evering *a, *b; /* A is lazy, B waits in an event loop */
	struct duo duo;
};

BACKEND_VARIANTS(lazy);

FIXTURE_SETUP(lazy)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 4, 0);
	self->p.policy = EVERING_BLOCK | EVERING_LAZY_RING;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
	ASSERT_EQ(0, evering_set_policy(self->b, EVERING_BLOCK, 0));
}

FIXTURE_TEARDOWN(lazy)
{
	evering_close(self->a);
	evering_close(self->b);
	evering_close(self->duo.ev);
	kill_and_reap(self->duo.pid);
}

static bool tells(struct evering *ev, unsigned int what, int timeout_ms)
{
	struct pollfd p = { .fd = evering_fd(ev),
			    .events = evering_events(ev, what) };

	return poll(&p, 1, timeout_ms) == 1 && p.revents;
}

static uint64_t syscalls_of(const struct evering *ev)
{
	struct evering_counters c;

	evering_get_counters(ev, EVERING_MINE, &c);
	return c.tx_syscalls + c.rx_syscalls;
}

/* B sleeps, A sends, and that has rung nobody. */
static int owe(FIXTURE_DATA(lazy) * self)
{
	uint32_t v = 7;
	int ret = evering_arm(self->b, EVERING_RX);

	if (ret)
		return ret;
	ret = evering_send(self->a, &v, sizeof(v), EVERING_NOWAIT);
	if (ret)
		return ret;
	return tells(self->b, EVERING_RX, 0) ? -EALREADY : 0;
}

/* B has been told, and takes it. */
static bool paid(FIXTURE_DATA(lazy) * self)
{
	uint32_t v = 0;

	return tells(self->b, EVERING_RX, (int)(PLENTY / MSEC)) &&
	       !evering_recv(self->b, &v, sizeof(v), EVERING_NOWAIT) && v == 7;
}

TEST_F(lazy, without_it_a_send_rings)
{
	ASSERT_EQ(0, evering_set_policy(self->a, EVERING_BLOCK, 0));
	EXPECT_EQ(-EALREADY, owe(self));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, many_sends_are_one_ring)
{
	uint32_t v[2] = { 7, 8 };

	ASSERT_EQ(0, owe(self));
	ASSERT_EQ(2, evering_send_bulk(self->a, v, 4, 2, EVERING_NOWAIT));
	EXPECT_FALSE(tells(self->b, EVERING_RX, 0));
	EXPECT_EQ(0, syscalls_of(self->a));
	evering_flush(self->a);
	EXPECT_EQ(1, syscalls_of(self->a));
	evering_flush(self->a);
	EXPECT_EQ(1, syscalls_of(self->a));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, a_wait_pays)
{
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(-ETIMEDOUT, evering_wait(self->a, EVERING_RX, MSEC));
	EXPECT_TRUE(paid(self));
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(EVERING_TX, evering_wait(self->a, EVERING_TX, MSEC));
	EXPECT_TRUE(paid(self));
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(EVERING_TX,
		  evering_wait(self->a, EVERING_RX | EVERING_TX, MSEC));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, a_wait_that_spins_pays_first)
{
	ASSERT_EQ(0, evering_set_policy(self->a,
					EVERING_BUSY | EVERING_LAZY_RING, 0));
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(-ETIMEDOUT, evering_wait(self->a, EVERING_RX, MSEC));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, a_wait_with_a_mask_pays)
{
	sigset_t none;

	sigemptyset(&none);
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(-ETIMEDOUT, evering_pwait(self->a, EVERING_RX, MSEC, &none));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, a_look_that_finds_nothing_pays)
{
	uint32_t v;

	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(-EAGAIN, evering_recv(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_TRUE(paid(self));
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(-EAGAIN, evering_wait(self->a, EVERING_RX, EVERING_NOWAIT));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, a_send_that_finds_no_room_pays)
{
	uint32_t v = 7;
	int i;

	EXPECT_EQ(0, owe(self));
	for (i = 1; i < 4; i++)
		EXPECT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_FALSE(tells(self->b, EVERING_RX, 0));
	EXPECT_EQ(-EAGAIN, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, arming_pays)
{
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(0, evering_arm(self->a, EVERING_RX));
	EXPECT_TRUE(paid(self));
	evering_disarm(self->a, EVERING_RX);
	/* Though there is something, so that nobody waits. */
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(EVERING_TX, evering_arm(self->a, EVERING_TX));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, publishing_pays)
{
	uint32_t v = 1;

	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(0, evering_publish(self->a));
	EXPECT_TRUE(paid(self));
	EXPECT_EQ(0, evering_send(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(0, evering_recv(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_publish(self->a));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, another_policy_pays)
{
	EXPECT_EQ(0, owe(self));
	EXPECT_EQ(0, evering_set_policy(self->a, EVERING_BLOCK, 0));
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, closing_pays)
{
	EXPECT_EQ(0, owe(self));
	evering_close(self->a);
	self->a = NULL;
	EXPECT_TRUE(paid(self));
}

TEST_F(lazy, an_unknown_policy_is_none)
{
	EXPECT_EQ(-EINVAL, evering_set_policy(self->a, 3, 0));
	EXPECT_EQ(-EINVAL,
		  evering_set_policy(self->a, 3 | EVERING_LAZY_RING, 0));
	EXPECT_EQ(-EINVAL, evering_set_policy(self->a, 1u << 18, 0));
	EXPECT_EQ(-EINVAL, evering_set_policy(self->a, 1u << 15, 0));
	EXPECT_EQ(0, evering_set_policy(self->a,
					EVERING_BLOCK | EVERING_LAZY_RING |
						EVERING_NO_HANDOVER,
					0));
	self->p.policy = EVERING_BUSY | 1u << 18;
	EXPECT_EQ(-EINVAL, evering_pair(&self->p, self->ev));
}

/* What one who dies owes, the death pays. */
static int send_and_die(struct evering *ev, void *arg)
{
	uint32_t v = 7;

	(void)arg;
	if (!peer_is_armed(ev, EVERING_RX) ||
	    evering_send(ev, &v, sizeof(v), EVERING_NOWAIT))
		return 1;
	kill(getpid(), SIGKILL);
	return 2;
}

TEST_F(lazy, the_peer_of_one_that_dies_receives)
{
	struct evering_params p[2] = { self->p, self->p };
	uint32_t v = 0;

	ASSERT_EQ(0, duo_start(&self->duo, true, p, send_and_die, NULL));
	EXPECT_EQ(0, evering_recv(self->duo.ev, &v, 4, PLENTY));
	EXPECT_EQ(7, v);
	EXPECT_EQ(-EPIPE, evering_recv(self->duo.ev, &v, 4, PLENTY));
}

/* ----------------------------------------------------------------- system calls */

#define ROUNDS 500

static int echo(struct evering *ev, void *arg)
{
	uint64_t *calls = arg;
	uint32_t v;
	int i;

	for (i = 0; i < ROUNDS; i++)
		if (evering_recv(ev, &v, 4, EVERING_WAIT_FOREVER) ||
		    evering_send(ev, &v, 4, EVERING_WAIT_FOREVER))
			return 1;
	evering_flush(ev);
	*calls = syscalls_of(ev);
	return evering_recv(ev, &v, 4, EVERING_WAIT_FOREVER) == -EPIPE ? 0 : 2;
}

static int pin_to_one(void)
{
	cpu_set_t set, one;
	int cpu = 0;

	if (sched_getaffinity(0, sizeof(set), &set))
		return -errno;
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one) ? -errno : 0;
}

/*
 * One system call a message where both sides sleep, and a few more or less: on one CPU,
 * so that neither finds what the other has not rung for yet.
 */
TEST_F(lazy, a_round_trip_is_one_call_a_side)
{
	struct evering_params p[2] = { self->p, self->p };
	uint64_t *calls = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t mine;
	uint32_t v;
	int i;

	ASSERT_EQ(0, pin_to_one());
	ASSERT_EQ(0, duo_start(&self->duo, true, p, echo, calls));
	for (i = 0; i < ROUNDS; i++) {
		v = (uint32_t)i;
		ASSERT_EQ(0, evering_send(self->duo.ev, &v, 4, PLENTY));
		ASSERT_EQ(0, evering_recv(self->duo.ev, &v, 4, PLENTY));
		ASSERT_EQ((uint32_t)i, v);
	}
	mine = syscalls_of(self->duo.ev);
	evering_close(self->duo.ev);
	self->duo.ev = NULL;
	EXPECT_EQ(0, reap(self->duo.pid));
	self->duo.pid = -1;
	TH_LOG("%d round trips, %llu and %llu calls", ROUNDS,
	       (unsigned long long)mine, (unsigned long long)*calls);
	if (variant->backend == EVERING_BACKEND_MEMFD)
		SKIP(return, "where a ring and a sleep are two");
	EXPECT_LE(mine, ROUNDS + ROUNDS / 20);
	EXPECT_LE(*calls, ROUNDS + ROUNDS / 20);
}

/**
 * struct calls - system calls of one side
 * @rings: that did nothing but ring
 * @all: with those that slept
 */
struct calls {
	uint64_t rings, all;
};

static struct calls calls_of(const struct evering *ev)
{
	struct evering_counters c;

	evering_get_counters(ev, EVERING_MINE, &c);
	return (struct calls){ c.tx_syscalls, syscalls_of(ev) };
}

/**
 * struct server - answers ROUNDS calls
 * @calls: the system calls that this took, in memory that both have
 * @by_callback: its requests come to a callback, else by evering_op_next()
 */
struct server {
	struct calls *calls;
	bool by_callback;
};

static void answer(struct evering_ops *ops,
		   const struct evering_request *request, void *context)
{
	(void)context;
	evering_op_answer(ops, request->id, 0, request->data, request->len);
}

static int serve(struct evering *ev, void *arg)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_request request;
	struct server *s = arg;
	struct evering_ops *ops;
	int i, ret;

	p.depth = p.serve = 1;
	p.request = s->by_callback ? answer : NULL;
	if (evering_ops_open(ev, &p, &ops))
		return 1;
	for (i = 0;; i++) {
		ret = s->by_callback ?
			      evering_ops_wait(ops, EVERING_WAIT_FOREVER) :
			      evering_op_next(ops, &request,
					      EVERING_WAIT_FOREVER);
		if (ret < 0)
			break;
		if (!s->by_callback)
			answer(ops, &request, NULL);
		*s->calls = calls_of(ev);
	}
	return ret == -EPIPE ? 0 : 2;
}

/* @policy: of the server. */
static void call_and_count(struct __test_metadata *_metadata,
			   FIXTURE_DATA(lazy) * self,
			   const FIXTURE_VARIANT(lazy) * variant,
			   struct server s, unsigned int policy)
{
	struct evering_params p[2] = { self->p, self->p };
	struct evering_op op = { .opcode = 1, .data = "four", .len = 4 };
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct evering_completion c;
	struct evering_ops *ops;
	struct calls calls[2], before[2];
	int i;

	params.depth = params.serve = 1;
	p[0].entries = p[1].entries = 16;
	p[0].policy = EVERING_BLOCK;
	p[1].policy = policy;
	s.calls = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_EQ(0, pin_to_one());
	ASSERT_EQ(0, duo_start(&self->duo, true, p, serve, &s));
	ASSERT_EQ(0, evering_ops_open(self->duo.ev, &params, &ops));
	ASSERT_EQ(0, evering_op_call(ops, &op, &c, PLENTY));
	before[0] = calls_of(self->duo.ev);
	before[1] = *s.calls;
	for (i = 0; i < ROUNDS; i++)
		ASSERT_EQ(0, evering_op_call(ops, &op, &c, PLENTY));
	calls[0] = calls_of(self->duo.ev);
	calls[1] = *s.calls;
	evering_close(self->duo.ev);
	self->duo.ev = NULL;
	EXPECT_EQ(0, reap(self->duo.pid));
	self->duo.pid = -1;
	munmap(s.calls, 4096);
	for (i = 0; i < 2; i++) {
		calls[i].rings -= before[i].rings;
		calls[i].all -= before[i].all;
		TH_LOG("%d calls, %llu system calls, %llu of them rings",
		       ROUNDS, (unsigned long long)calls[i].all,
		       (unsigned long long)calls[i].rings);
		if (variant->backend == EVERING_BACKEND_MEMFD)
			continue; /* where a ring and a sleep are two */
		EXPECT_LE(calls[i].rings, ROUNDS / 20);
		EXPECT_LE(calls[i].all, ROUNDS + ROUNDS / 20);
	}
}

/* Who calls and who asks for the next request rings by the sleep, lazy or not. */
TEST_F(lazy, an_operation_is_one_call_a_side)
{
	call_and_count(_metadata, self, variant,
		       (struct server){ .by_callback = false }, EVERING_BLOCK);
}

/* Who answers in a callback has answered before the wait returns: that is for lazy. */
TEST_F(lazy, an_answer_of_a_callback_is_none_of_its_own)
{
	call_and_count(_metadata, self, variant,
		       (struct server){ .by_callback = true },
		       EVERING_BLOCK | EVERING_LAZY_RING);
}

TEST_HARNESS_MAIN
