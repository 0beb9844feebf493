// SPDX-License-Identifier: MIT
/*
 * op_duo.c: operations between two processes: who sleeps is woken, whatever the
 * policy, in the library's waits and in event loops; and who survives the other
 * has one outcome for each operation, what was answered before, and its buffers.
 */
#include "op.h"
#include "peer.h"

#include <sys/epoll.h>

FIXTURE(op_duo)
{
	uint32_t backend;
	struct duo duo;
	struct evering_params p[2];
};

BACKEND_VARIANTS(op_duo);

FIXTURE_SETUP(op_duo)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
	self->p[0] = params_sized(variant->backend, 64, 16, 8192);
	self->p[1] = self->p[0];
}

FIXTURE_TEARDOWN(op_duo)
{
	over = true;
	evering_close(self->duo.ev);
	kill_and_reap(self->duo.pid);
}

#define ROUNDS (short_run() ? 300 : 3000)

/* Ends the child in good order and with 0, or says what it said. */
static int finish(struct duo *duo)
{
	int ret;

	evering_close(duo->ev);
	duo->ev = NULL;
	ret = duo->pid ? reap(duo->pid) : 0;
	duo->pid = 0;
	return ret;
}

/* ---------------------------------------------------------------------- servers */

struct server {
	uint64_t rng;
	int64_t naps; /* up to so long between two looks */
	bool in_loop; /* an event loop, and not a wait */
	uint32_t epoll;
	unsigned int keep; /* gifts not freed at once */
	void *kept[4096];
	unsigned int n_kept;
	uint64_t held[64];
	unsigned int n_held;
	bool hold; /* answers later */
	uint32_t serves; /* 0: half the ring */
	struct evering *ev;
	int error;
};

static void serve(struct evering_ops *ops, const struct evering_request *r,
		  void *context)
{
	struct server *s = context;

	if (r->flags == EVERING_GIVE)
		s->kept[s->n_kept++] = r->buf;
	if (s->hold) {
		s->held[s->n_held++] = r->id;
		return;
	}
	s->error |= evering_op_answer(ops, r->id, (int32_t)r->opcode, r->data,
				      r->len);
}

/*
 * One step of the documented loop: does what there is to do, or, if that is nothing,
 * sleeps.  In between the caller may find that it has more.  The loop's end, or 0.
 */
static int loop_once(struct evering_ops *ops, int ep)
{
	struct epoll_event e;
	int64_t timeout;
	short events;
	int n;

	n = evering_ops_poll(ops);
	if (n == 0)
		n = evering_ops_arm(ops, &events);
	if (n)
		return n < 0 ? n : 0;
	timeout = evering_ops_timeout(ops);
	if (epoll_wait(ep, &e, 1,
		       timeout < 0 ? (int)(PLENTY / MSEC) :
				     (int)(timeout / MSEC + 1)) < 1 &&
	    timeout < 0)
		return -ETIME;
	return 0;
}

static int loop_fd(struct evering *ev, uint32_t events)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | events };
	int ep = epoll_create1(EPOLL_CLOEXEC);

	/* The device tells of space by EPOLLOUT, memfd by EPOLLIN. */
	if (!(evering_events(ev, EVERING_TX) & POLLOUT))
		e.events &= ~(uint32_t)EPOLLOUT;
	epoll_ctl(ep, EPOLL_CTL_ADD, evering_fd(ev), &e);
	return ep;
}

static int server(struct evering *ev, void *arg)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct server *s = arg;
	struct evering_ops *ops;
	int ep, ret;

	p.request = serve;
	p.context = s;
	if (s->serves)
		p.depth = p.serve = s->serves;
	s->ev = ev;
	if (evering_ops_open(ev, &p, &ops))
		return 1;
	ep = s->in_loop ? loop_fd(ev, s->epoll) : -1;
	do {
		if (s->in_loop)
			ret = loop_once(ops, ep);
		else
			ret = evering_ops_wait(ops, PLENTY);
		if (s->naps && random_below(&s->rng, 16) == 0)
			sleep_ns((int64_t)random_below(&s->rng,
						       (uint64_t)s->naps));
		/* Then nothing else is done but to sleep. */
		while (s->n_kept > s->keep)
			if (evering_free(ev, s->kept[--s->n_kept]))
				return 2;
	} while (ret >= 0);
	if (ret != -EPIPE)
		return ret == -ETIME ? 3 : 4;
	evering_close(ev);
	return s->error ? 5 : 0;
}

/*
 * For tests that want no more of the peer than answers, which bring the opcode and the data:
 * a process, or a kernel module.
 */
FIXTURE(op_duo_peer)
{
	bool echo;
	struct duo duo;
	struct evering_params p[2];
};

PEER_VARIANTS(op_duo_peer);

FIXTURE_SETUP(op_duo_peer)
{
	REQUIRE_BACKEND(variant->backend);
	self->echo = variant->echo;
	self->p[0] = params_sized(variant->backend, 64, 16, 8192);
	self->p[1] = self->p[0];
}

FIXTURE_TEARDOWN(op_duo_peer)
{
	over = true;
	evering_close(self->duo.ev);
	kill_and_reap(self->duo.pid);
}

static int meet(FIXTURE_DATA(op_duo_peer) * self, bool child_connects,
		struct server *s)
{
	if (!self->echo)
		return duo_start(&self->duo, child_connects, self->p, server,
				 s);
	self->duo.pid = 0;
	return echo_open(&self->p[0], EVERING_ECHO_OPS, 0, &self->duo.ev);
}

/* ------------------------------------------------------------- all the policies */

TEST_F_TIMEOUT(op_duo_peer, whoever_sleeps_is_woken, 120)
{
	uint32_t policy, n = ROUNDS, i, burst, depth;
	struct evering_completion c;
	struct server s = { 0 };
	struct evering_ops *ops;
	struct evering_op op;
	uint64_t rng = random_seed();

	s.rng = rng;
	s.naps = 200 * USEC;
	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		self->p[0].policy = policy;
		self->p[1].policy = policy;
		/* Two who spin need a CPU each, and there may be one. */
		if (policy == EVERING_BUSY)
			n /= 10;
		ASSERT_EQ(0, meet(self, policy & 1, &s));
		ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &ops));
		for (i = 0; i < n; i++) {
			op = asks(i, &i, sizeof(i), NULL);
			ASSERT_EQ(0,
				  evering_op_call(ops, &op, &c, slow(PLENTY)));
			ASSERT_EQ((int32_t)i, c.result);
			ASSERT_EQ(0, memcmp(&i, c.data, sizeof(i)));
			if (random_below(&rng, 32) == 0)
				sleep_ns((int64_t)random_below(&rng,
							       200 * USEC));
		}
		/* Bursts, longer than the table: submitting sleeps too. */
		for (i = 0; i < n;) {
			burst = 1 + (uint32_t)random_below(&rng, 40);
			depth = i;
			while (burst--) {
				op = asks(i, &i, sizeof(i), NULL);
				while (evering_op_submit(ops, &op, NULL,
							 EVERING_NOWAIT)) {
					ASSERT_EQ(0, evering_op_wait_any(
							     ops, &c,
							     slow(PLENTY)));
					ASSERT_EQ((int32_t)depth++, c.result);
				}
				i++;
			}
			while (depth < i) {
				ASSERT_EQ(0, evering_op_wait_any(ops, &c,
								 slow(PLENTY)));
				ASSERT_EQ((int32_t)depth++, c.result);
			}
			EXPECT_EQ(-ENOENT, evering_op_wait_any(ops, &c, 0));
		}
		EXPECT_EQ(0, finish(&self->duo));
	}
}

TEST_F_TIMEOUT(op_duo_peer, a_submission_waits_for_a_place, 60)
{
	uint32_t n = ROUNDS, i;
	struct server s = { .naps = 100 * USEC };
	struct evering_ops *ops;
	struct outcome o = { 0 };
	struct evering_op op;

	ASSERT_EQ(0, meet(self, false, &s));
	ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &ops));
	for (i = 0; i < n; i++) {
		op = asks(i, NULL, 0, &o);
		ASSERT_EQ(0, evering_op_submit(ops, &op, NULL, slow(PLENTY)));
	}
	ASSERT_EQ(0, evering_op_wait_all(ops, slow(PLENTY)));
	EXPECT_EQ(n, o.times);
	EXPECT_EQ(0, finish(&self->duo));
}

/*
 * No answer comes: what wakes who waits for room is the room.  It may come while who
 * waits makes up its mind what to wait for, which takes some tries to hit.
 */
TEST_F_TIMEOUT(op_duo, a_submission_waits_for_room, 120)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	uint32_t policy, i, lap, laps = short_run() ? 10 : 60;
	struct server s = { .hold = true, .serves = 12 };
	struct evering_ops *ops;
	struct outcome o;
	struct evering_op op;

	p.depth = p.serve = 12;
	for (lap = 0; lap < laps; lap++) {
		policy = lap % (EVERING_BUSY + 1);
		self->p[0].policy = self->p[1].policy = policy;
		memset(&o, 0, sizeof(o));
		ASSERT_EQ(0, duo_start(&self->duo, false, self->p, server, &s));
		ASSERT_EQ(0, evering_ops_open(self->duo.ev, &p, &ops));
		for (i = 0; i < 12; i++) {
			op = asks(i, NULL, 0, &o);
			ASSERT_EQ(0, evering_op_submit(ops, &op, NULL,
						       slow(PLENTY)))
			{
				TH_LOG("policy %u, %u asked", policy, i);
			}
		}
		EXPECT_EQ(0u, o.times);
		ASSERT_EQ(0, finish(&self->duo));
		ASSERT_EQ(12u, o.times);
	}
}

/*
 * The arena is small and what was given is kept for a while by a peer that, having
 * freed it, only sleeps: each buffer that is waited for comes home.
 */
TEST_F_TIMEOUT(op_duo_peer, who_waits_for_buffers_gets_them, 120)
{
	uint32_t policy, n = ROUNDS, i, starved = 0, loop;
	struct server s = { .naps = 100 * USEC };
	struct evering_ops *ops;
	struct outcome o = { 0 };
	struct evering_op op;
	void *p;
	int ret;

	for (loop = 0; loop < 2; loop++)
		for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY;
		     policy++) {
			self->p[0].policy = policy;
			self->p[1].policy = policy;
			s.in_loop = loop;
			s.epoll = loop ? EPOLLET : 0;
			s.keep = 0;
			ASSERT_EQ(0, meet(self, policy & 1, &s));
			ASSERT_EQ(0,
				  evering_ops_open(self->duo.ev, NULL, &ops));
			for (i = 0; i < (policy == EVERING_BUSY ? n / 10 : n);
			     i++) {
				while (!(p = evering_alloc(self->duo.ev, 2048,
							   0))) {
					starved++;
					ret = evering_ops_wait(ops,
							       slow(PLENTY));
					ASSERT_LE(1, ret);
				}
				op = hands(EVERING_GIVE, p, 2048, &o);
				ASSERT_EQ(0, evering_op_submit(ops, &op, NULL,
							       slow(PLENTY)));
			}
			ASSERT_EQ(0, evering_op_wait_all(ops, slow(PLENTY)));
			while (!arena_whole(self->duo.ev))
				ASSERT_LE(1,
					  evering_ops_wait(ops, slow(PLENTY)));
			EXPECT_EQ(0, finish(&self->duo));
		}
	printf("# starved %u times\n", starved);
	EXPECT_LT(0u, starved);
}

/* ------------------------------------------------------------------ event loops */

TEST_F_TIMEOUT(op_duo_peer, the_documented_loop_loses_nothing, 120)
{
	static const uint32_t events[] = { 0, EPOLLET };
	uint32_t n = ROUNDS, asked, burst;
	bool refused;
	struct server s = { .naps = 100 * USEC, .in_loop = true };
	uint64_t rng = random_seed();
	struct evering_ops *ops;
	struct outcome o;
	struct evering_op op;
	unsigned int i;
	int ep;

	for (i = 0; i < 4; i++) {
		s.epoll = events[i / 2];
		ASSERT_EQ(0, meet(self, i & 1, &s));
		ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &ops));
		ep = loop_fd(self->duo.ev, events[i & 1]);
		memset(&o, 0, sizeof(o));
		asked = 0;
		while (o.times < n) {
			/* One at a time, then as many as there may be. */
			burst = asked < n / 2 ? asked == o.times :
						(uint32_t)random_below(&rng, 9);
			refused = false;
			while (burst-- && asked < n && !refused) {
				op = asks(asked, &asked, sizeof(asked), &o);
				refused = evering_op_submit(ops, &op, NULL,
							    EVERING_NOWAIT);
				asked += !refused;
			}
			/* The first is, before the peer has opened its table. */
			if (asked > o.times || refused)
				ASSERT_EQ(0, loop_once(ops, ep))
				{
					TH_LOG("%u asked, %u answered", asked,
					       o.times);
				}
		}
		EXPECT_EQ(n, o.times);
		EXPECT_EQ((int32_t)n - 1, o.result);
		EXPECT_EQ(0, finish(&self->duo));
		close(ep);
	}
}

TEST_F(op_duo, a_loop_sleeps_no_longer_than_a_timeout)
{
	struct server s = { .hold = true };
	struct evering_ops *ops;
	struct outcome o = { 0 };
	struct evering_op op;
	int64_t start, left;
	int ep;

	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, server, &s));
	ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &ops));
	ep = loop_fd(self->duo.ev, 0);
	op = asks(1, NULL, 0, &o);
	op.timeout_ns = 10 * MSEC;
	start = now_ns();
	ASSERT_EQ(0, evering_op_submit(ops, &op, NULL, slow(PLENTY)));
	left = evering_ops_timeout(ops);
	EXPECT_LE(0, left);
	EXPECT_GE(10 * MSEC, left);
	while (!o.times)
		ASSERT_EQ(0, loop_once(ops, ep));
	EXPECT_EQ(-ETIMEDOUT, o.result);
	EXPECT_LE(10 * MSEC, now_ns() - start);
	close(ep);
}

static bool readable(struct evering *ev, short events, int ms)
{
	struct pollfd p = { .fd = evering_fd(ev), .events = events };

	return poll(&p, 1, ms) == 1 && p.revents;
}

/* A peer that sleeps in its loop is woken by each that says so. */
TEST_F(op_duo, what_wakes_a_peer)
{
	enum {
		BY_POLL,
		BY_WAIT,
		BY_WAIT_THAT_IS_WOKEN,
		BY_FLUSH,
		BY_ARM,
		BY_NEXT,
		BY_OP,
		BY_ANY,
		BY_ALL,
		BY
	};
	struct evering_completion c;
	struct evering_request r;
	struct evering_ops *ops[2];
	struct evering *ev[2];
	struct evering_op op;
	short events, others;
	uint64_t id;
	int i, n, way;

	for (way = BY_POLL; way < BY; way++) {
		ASSERT_EQ(0, evering_pair(&self->p[0], ev));
		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, evering_ops_open(ev[i], NULL, &ops[i]));
		for (i = 0; i < 4; i++)
			evering_ops_poll(ops[i & 1]);
		while ((n = evering_ops_poll(ops[1])) > 0 ||
		       (n == 0 && (n = evering_ops_arm(ops[1], &events)) > 0))
			;
		ASSERT_EQ(0, n);
		EXPECT_FALSE(readable(ev[1], events, 5));
		op = asks(1, NULL, 0, NULL);
		ASSERT_EQ(0, evering_op_submit(ops[0], &op, &id, 0));
		switch (way) {
		case BY_POLL:
			EXPECT_EQ(0, evering_ops_poll(ops[0]));
			break;
		case BY_WAIT:
			EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(ops[0], USEC));
			break;
		case BY_WAIT_THAT_IS_WOKEN:
			/* Before it sleeps. */
			ASSERT_EQ(0, evering_wake(ev[0], EVERING_RX));
			EXPECT_EQ(-EINTR, evering_ops_wait(ops[0], PLENTY));
			break;
		case BY_FLUSH:
			evering_ops_flush(ops[0]);
			break;
		case BY_ARM:
			EXPECT_EQ(0, evering_ops_arm(ops[0], &others));
			break;
		case BY_NEXT:
			EXPECT_EQ(-ETIMEDOUT,
				  evering_op_next(ops[0], &r, USEC));
			break;
		case BY_OP:
			EXPECT_EQ(-ETIMEDOUT,
				  evering_op_wait(ops[0], id, &c, USEC));
			break;
		case BY_ANY:
			EXPECT_EQ(-ETIMEDOUT,
				  evering_op_wait_any(ops[0], &c, USEC));
			break;
		case BY_ALL:
			EXPECT_EQ(-ETIMEDOUT,
				  evering_op_wait_all(ops[0], USEC));
			break;
		}
		EXPECT_TRUE(readable(ev[1], events, 5000))
		{
			TH_LOG("way %d", way);
		}
		close_pair(ev);
	}
}

static void keep_gift(struct evering_ops *ops, const struct evering_request *r,
		      void *context)
{
	struct server *s = context;

	s->kept[s->n_kept++] = r->buf;
	s->error |= evering_op_answer(ops, r->id, 0, NULL, 0);
}

/*
 * Buffers that go home wait for room, which the loop is armed for then.  When they
 * have gone, the room that woke it must not wake it again and again.
 */
TEST_F(op_duo, a_loop_is_quiet_when_what_waited_for_room_is_sent)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	static struct server s;
	struct evering_ops *ops[2];
	struct outcome o = { 0 };
	struct evering *ev[2];
	struct evering_op op;
	short events;
	int i, n;

	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	ASSERT_EQ(0, evering_ops_open(ev[0], NULL, &ops[0]));
	p.request = keep_gift;
	p.context = &s;
	ASSERT_EQ(0, evering_ops_open(ev[1], &p, &ops[1]));
	for (i = 0; i < 4; i++)
		evering_ops_poll(ops[i & 1]);
	for (i = 0; i < 30; i++) {
		op = hands(EVERING_GIVE, evering_alloc(ev[0], 64, 0), 64, &o);
		ASSERT_EQ(0, evering_op_submit(ops[0], &op, NULL, 0));
		evering_ops_poll(ops[1]);
		evering_ops_poll(ops[0]);
	}
	ASSERT_EQ(30u, s.n_kept);
	for (i = 0; i < 4; i++)
		evering_ops_poll(ops[i & 1]);
	/* The ring is full of other things, as far as may be. */
	op = asks(1, NULL, 0, &o);
	while (!evering_op_submit(ops[1], &op, NULL, EVERING_NOWAIT))
		;
	while (s.n_kept)
		ASSERT_EQ(0, evering_free(ev[1], s.kept[--s.n_kept]));
	while ((n = evering_ops_poll(ops[1])) > 0 ||
	       (n == 0 && (n = evering_ops_arm(ops[1], &events)) > 0))
		;
	ASSERT_EQ(0, n);
	EXPECT_LT(0u, info_of(ops[1]).homebound);
	EXPECT_FALSE(readable(ev[1], events, 10));
	/* There is room: it is told, and all go. */
	while (evering_ops_poll(ops[0]) > 0)
		;
	evering_ops_flush(ops[0]);
	EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(ops[0], MSEC));
	EXPECT_TRUE(readable(ev[1], events, 5000));
	for (i = 0; i < 20; i++) {
		while ((n = evering_ops_poll(ops[1])) > 0 ||
		       (n == 0 && (n = evering_ops_arm(ops[1], &events)) > 0))
			;
		ASSERT_EQ(0, n);
		evering_ops_poll(ops[0]);
		EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(ops[0], 100 * USEC));
	}
	EXPECT_EQ(0u, info_of(ops[1]).homebound);
	EXPECT_FALSE(readable(ev[1], events, 10));
	close_pair(ev);
}

/*
 * What took the room goes nowhere and brings no answer, so that nothing would wake
 * who was refused, were it not for the room.
 */
TEST_F(op_duo, a_loop_hears_of_room_after_a_refusal)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	static struct server s;
	struct evering_ops *ops[2];
	struct outcome o = { 0 };
	struct evering *ev[2];
	struct evering_op op;
	short events, others;
	int i, n;

	p.depth = 12;
	p.serve = 12;
	p.request = keep_gift;
	p.context = &s;
	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, evering_ops_open(ev[i], &p, &ops[i]));
	for (i = 0; i < 4; i++)
		evering_ops_poll(ops[i & 1]);
	for (i = 0; i < 4; i++) {
		op = hands(EVERING_GIVE, evering_alloc(ev[0], 64, 0), 64, &o);
		ASSERT_EQ(0, evering_op_submit(ops[0], &op, NULL, 0));
		evering_ops_poll(ops[1]);
		evering_ops_poll(ops[0]);
	}
	ASSERT_EQ(4u, s.n_kept);
	/* Who is about to sleep has published all that it has received. */
	EXPECT_EQ(-ETIMEDOUT, evering_ops_wait(ops[0], MSEC));
	/* Each in an entry of its own: then the rest is kept for answers. */
	while (s.n_kept) {
		ASSERT_EQ(0, evering_free(ev[1], s.kept[--s.n_kept]));
		evering_ops_flush(ops[1]);
	}
	ASSERT_EQ(0u, info_of(ops[1]).homebound);
	op = asks(1, NULL, 0, &o);
	ASSERT_EQ(-EAGAIN,
		  evering_op_submit(ops[1], &op, NULL, EVERING_NOWAIT));
	ASSERT_EQ(0u, info_of(ops[1]).in_flight);
	while ((n = evering_ops_poll(ops[1])) > 0 ||
	       (n == 0 && (n = evering_ops_arm(ops[1], &events)) > 0))
		;
	ASSERT_EQ(0, n);
	EXPECT_FALSE(readable(ev[1], events, 10));
	EXPECT_EQ(4, evering_ops_poll(ops[0]));
	EXPECT_EQ(0, evering_ops_poll(ops[0]));
	EXPECT_EQ(0, evering_ops_arm(ops[0], &others));
	EXPECT_TRUE(readable(ev[1], events, 1000));
	EXPECT_EQ(0, evering_op_submit(ops[1], &op, NULL, EVERING_NOWAIT));
	close_pair(ev);
}

/* ------------------------------------------------------------------------ death */

struct victim {
	int answers; /* so many of what is asked, then stays */
	int way;
};

enum {
	KILLED,
	EXITS,
	CLOSES,
	WAYS
};

static int victim(struct evering *ev, void *arg)
{
	const struct victim *v = arg;
	struct evering_ops *ops;
	struct evering_request r;
	uint64_t rng = 1;
	int i, given = 0, lent = 0;
	void *p;

	(void)rng;
	if (evering_ops_open(ev, NULL, &ops))
		return 1;
	for (i = 0; i < 6; i++) {
		if (evering_op_next(ops, &r, PLENTY))
			return 2;
		given += r.flags == EVERING_GIVE;
		lent += r.flags == EVERING_LEND;
		if (i >= v->answers)
			continue;
		p = evering_alloc(ev, 100, 0);
		if (!p)
			return 3;
		fill_entry(p, 100, (uint32_t)i, 6);
		if (evering_op_answer_buffer(ops, r.id, i, p, 100))
			return 4;
	}
	evering_ops_flush(ops);
	if (v->way == CLOSES)
		evering_close(ev);
	else if (v->way == KILLED)
		await_death();
	return given == 2 && lent == 2 ? 0 : 5;
}

TEST_F_TIMEOUT(op_duo, everything_ends_once_when_the_peer_does, 120)
{
	struct outcome o[6], *one;
	struct victim v;
	struct evering_ops *ops;
	struct evering_op op;
	void *buf[6];
	int i, how;

	for (v.way = 0; v.way < WAYS; v.way++)
		for (how = 0; how < 3; how++) {
			v.answers = how * 2;
			memset(o, 0, sizeof(o));
			ASSERT_EQ(0, duo_start(&self->duo, how & 1, self->p,
					       victim, &v));
			ASSERT_EQ(0,
				  evering_ops_open(self->duo.ev, NULL, &ops));
			for (i = 0; i < 6; i++) {
				op = asks((uint32_t)i, NULL, 0, &o[i]);
				buf[i] = NULL;
				if (i & 2) {
					buf[i] = evering_alloc(self->duo.ev,
							       200, 0);
					op.buf = buf[i];
					op.buf_len = 200;
					op.flags = EVERING_LEND;
				} else if (i & 1) {
					op.buf = evering_alloc(self->duo.ev,
							       300, 0);
					op.buf_len = 300;
					op.flags = EVERING_GIVE;
				}
				ASSERT_EQ(0, evering_op_submit(ops, &op, NULL,
							       slow(PLENTY)));
			}
			evering_ops_flush(ops);
			if (v.way == KILLED) {
				/* When it has done all, it sleeps no more. */
				while (o[0].times < 1 && v.answers)
					ASSERT_LE(1,
						  evering_ops_wait(
							  ops, slow(PLENTY)));
				kill_and_reap(self->duo.pid);
				self->duo.pid = 0;
			} else {
				EXPECT_EQ(0, reap(self->duo.pid));
				self->duo.pid = 0;
			}
			if (how & 1)
				while (evering_ops_poll(ops) >= 0)
					;
			else
				while (evering_ops_wait(ops, slow(PLENTY)) > 0)
					;
			EXPECT_EQ(v.way == CLOSES ? EVERING_PEER_CLOSED :
						    EVERING_PEER_DIED,
				  evering_peer(self->duo.ev));
			for (i = 0; i < 6; i++) {
				one = &o[i];
				EXPECT_EQ(1u, one->times);
				/* A kill may come between two answers. */
				if (i < v.answers &&
				    (v.way != KILLED || !one->result)) {
					EXPECT_EQ(i, one->result);
					EXPECT_EQ(100u, one->buf_len);
				} else if (i >= v.answers) {
					EXPECT_EQ(-EPIPE, one->result);
				}
				if (one->buf) {
					EXPECT_TRUE(check_entry(
						one->buf, 100, (uint32_t)i, 6));
					EXPECT_EQ(0, evering_free(self->duo.ev,
								  one->buf));
				}
				if (buf[i])
					EXPECT_EQ(0, evering_free(self->duo.ev,
								  buf[i]));
			}
			EXPECT_TRUE(arena_whole(self->duo.ev));
			EXPECT_EQ(-EPIPE, evering_ops_poll(ops));
			evering_close(self->duo.ev);
			self->duo.ev = NULL;
		}
}

/* Killed at any moment of a busy traffic both ways. */
TEST_F_TIMEOUT(op_duo, a_kill_in_full_traffic_loses_nothing, 120)
{
	int times = short_run() ? 10 : 40, i;
	struct server s = { .keep = 8 };
	uint64_t rng = random_seed();
	struct evering_ops *ops;
	uint32_t asked;
	struct outcome o;
	struct evering_op op;
	int64_t end;
	void *p;
	int ret;

	for (i = 0; i < times; i++) {
		memset(&o, 0, sizeof(o));
		asked = 0;
		ASSERT_EQ(0, duo_start(&self->duo, i & 1, self->p, server, &s));
		ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &ops));
		end = now_ns() + (int64_t)random_below(&rng, 3 * MSEC);
		do {
			p = evering_alloc(self->duo.ev, 64, 0);
			op = p ? hands(EVERING_GIVE, p, 64, &o) :
				 asks(1, NULL, 0, &o);
			ret = evering_op_submit(ops, &op, NULL, EVERING_NOWAIT);
			asked += !ret;
			if (ret && p)
				evering_free(self->duo.ev, p);
			ASSERT_LE(0, evering_ops_poll(ops));
			if (now_ns() > end && self->duo.pid) {
				kill(self->duo.pid, SIGKILL);
				break;
			}
		} while (1);
		kill_and_reap(self->duo.pid);
		self->duo.pid = 0;
		while (evering_ops_wait(ops, slow(PLENTY)) > 0)
			;
		EXPECT_EQ(-EPIPE, evering_ops_poll(ops));
		EXPECT_EQ(EVERING_PEER_DIED, evering_peer(self->duo.ev));
		EXPECT_EQ(asked, o.times);
		EXPECT_TRUE(arena_whole(self->duo.ev));
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
	}
}

/* ---------------------------------------------------------------------- signals */

static void no_more(int sig)
{
	(void)sig;
}

TEST_F(op_duo, a_signal_ends_a_wait)
{
	struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };
	struct sigaction sa = { .sa_handler = no_more };
	struct server s = { .hold = true };
	struct evering_completion c;
	struct evering_request r;
	struct evering_ops *ops;
	struct evering_op op;
	uint64_t id;
	int i;

	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, server, &s));
	ASSERT_EQ(0, evering_ops_open(self->duo.ev, NULL, &ops));
	op = asks(1, NULL, 0, NULL);
	ASSERT_EQ(0, evering_op_submit(ops, &op, &id, slow(PLENTY)));
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(-EINTR, evering_op_wait(ops, id, &c, slow(PLENTY)));
		EXPECT_EQ(-EINTR,
			  evering_op_wait_any(ops, &c, EVERING_WAIT_FOREVER));
		EXPECT_EQ(-EINTR, evering_op_wait_all(ops, slow(PLENTY)));
		EXPECT_EQ(-EINTR, evering_ops_wait(ops, slow(PLENTY)));
		EXPECT_EQ(-EINTR, evering_op_next(ops, &r, slow(PLENTY)));
		ASSERT_EQ(0, evering_op_call(ops, &op, &c, slow(PLENTY)));
		EXPECT_EQ(-EINTR, c.result);
	}
	while (!evering_op_submit(ops, &op, NULL, EVERING_NOWAIT))
		;
	setitimer(ITIMER_REAL, &often, NULL);
	for (i = 0; i < 8; i++)
		if (evering_op_submit(ops, &op, NULL, slow(PLENTY)) == -EINTR)
			break;
	EXPECT_GT(8, i);
	setitimer(ITIMER_REAL, &never, NULL);
	EXPECT_EQ(3u, info_of(ops).abandoned);
	EXPECT_EQ(-EAGAIN, evering_op_done(ops, id, &c));
}

TEST_HARNESS_MAIN
