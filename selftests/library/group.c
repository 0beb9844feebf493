// SPDX-License-Identifier: MIT
/*
 * group.c: many members under one sleeper: what a group returns, and when; turns; no
 * wake-up lost between hot and cold; members that are removed, closed or die meanwhile;
 * peers that ring for nothing; and a group in an event loop of another.
 */
#include "group.h"
#include "interpose.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#ifdef __x86_64__
#include <ucontext.h>
#endif

FIXTURE(group)
{
	struct evering_params p;
	struct evering_group *g;
	struct evering *ev[MANY][2];
	struct evering *a, *b;
	const struct evering_group_event *events;
};

FIXTURE_VARIANT(group)
{
	uint32_t backend;
	uint32_t policy;
};

FIXTURE_VARIANT_ADD(group, memfd_block){
	.backend = EVERING_BACKEND_MEMFD,
	.policy = EVERING_BLOCK,
};

FIXTURE_VARIANT_ADD(group, memfd_adaptive){
	.backend = EVERING_BACKEND_MEMFD,
	.policy = EVERING_ADAPTIVE,
};

FIXTURE_VARIANT_ADD(group, memfd_busy){
	.backend = EVERING_BACKEND_MEMFD,
	.policy = EVERING_BUSY,
};

FIXTURE_VARIANT_ADD(group, device_block){
	.backend = EVERING_BACKEND_DEVICE,
	.policy = EVERING_BLOCK,
};

FIXTURE_VARIANT_ADD(group, device_adaptive){
	.backend = EVERING_BACKEND_DEVICE,
	.policy = EVERING_ADAPTIVE,
};

FIXTURE_SETUP(group)
{
	int i;

	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 0);
	ASSERT_EQ(0, open_group(variant->policy, &self->g));
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, evering_pair(&self->p, self->ev[i]));
	self->a = self->ev[0][0];
	self->b = self->ev[0][1];
}

FIXTURE_TEARDOWN(group)
{
	int i;

	for (i = 0; i < MANY; i++)
		close_pair(self->ev[i]);
	evering_group_close(self->g);
}

/* Of one that is armed for an entry. */
static bool rung(struct evering *ev, int timeout_ms)
{
	return readable(evering_fd(ev), timeout_ms);
}

/* ------------------------------------------------------------------ bad input */

TEST_F(group, parameters_are_checked)
{
	struct evering_group_params p = EVERING_GROUP_PARAMS_INIT;
	struct {
		struct evering_group_params p;
		uint64_t more;
	} longer = { EVERING_GROUP_PARAMS_INIT, 0 };
	struct evering_group *g;
	int n = count_fds();

	p.flags = 1;
	EXPECT_EQ(-EINVAL, evering_group_open(&p, &g));
	p.flags = 0;
	p.policy = EVERING_BUSY + 1;
	EXPECT_EQ(-EINVAL, evering_group_open(&p, &g));
	p.policy = EVERING_BLOCK;
	p.spin_ns = 1000001;
	EXPECT_EQ(-EINVAL, evering_group_open(&p, &g));
	p.spin_ns = 0;
	p.size = 4;
	EXPECT_EQ(-EINVAL, evering_group_open(&p, &g));
	longer.p.size = sizeof(longer);
	longer.more = 1;
	EXPECT_EQ(-E2BIG, evering_group_open(&longer.p, &g));
	longer.more = 0;
	ASSERT_EQ(0, evering_group_open(&longer.p, &g));
	EXPECT_EQ(n + 2, count_fds());
	evering_group_close(g);
	evering_group_close(NULL);
	ASSERT_EQ(0, evering_group_open(NULL, &g));
	evering_group_close(g);
	EXPECT_EQ(n, count_fds());
	EXPECT_EQ(-EINVAL, evering_group_wait(self->g, &self->events, -2));
}

TEST_F(group, a_member_is_in_one_group_once)
{
	struct evering_group *other;

	ASSERT_EQ(0, open_group(variant->policy, &other));
	EXPECT_EQ(-EINVAL, evering_group_add(self->g, self->a, 1u << 5, NULL));
	EXPECT_EQ(-ENOENT, evering_group_remove(self->g, self->a));
	EXPECT_EQ(-ENOENT, evering_group_want(self->g, self->a, EVERING_RX));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	EXPECT_EQ(-EEXIST,
		  evering_group_add(self->g, self->a, EVERING_RX, NULL));
	EXPECT_EQ(-EBUSY, evering_group_add(other, self->a, EVERING_RX, NULL));
	EXPECT_EQ(-ENOENT, evering_group_remove(other, self->a));
	EXPECT_EQ(-ENOENT, evering_group_want(other, self->a, EVERING_RX));
	EXPECT_EQ(-EINVAL, evering_group_want(self->g, self->a, 1u << 5));
	/* The other end is another member. */
	EXPECT_EQ(0, evering_group_add(other, self->b, EVERING_RX, NULL));
	/* It moves. */
	EXPECT_EQ(0, evering_group_remove(self->g, self->a));
	EXPECT_EQ(-ENOENT, evering_group_remove(self->g, self->a));
	EXPECT_EQ(0, evering_group_add(other, self->a, EVERING_RX, NULL));
	evering_group_close(other);
	EXPECT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	EXPECT_EQ(0, evering_group_add(self->g, self->b, EVERING_RX, NULL));
}

TEST_F(group, a_member_is_armed_by_its_group_alone)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct evering_ops *ops;
	short events;

	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	EXPECT_EQ(-EBUSY, evering_fd(self->a));
	EXPECT_EQ(-EBUSY, evering_arm(self->a, EVERING_RX));
	ASSERT_EQ(0, evering_ops_open(self->a, &params, &ops));
	EXPECT_EQ(-EBUSY, evering_ops_arm(ops, &events));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_TRUE(is_armed(self->b));
	evering_disarm(self->a, EVERING_RX);
	EXPECT_TRUE(is_armed(self->b));
	ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	EXPECT_FALSE(is_armed(self->b));
	EXPECT_LE(0, evering_fd(self->a));
	EXPECT_EQ(0, evering_ops_arm(ops, &events));
	evering_ops_close(ops);
	EXPECT_EQ(0, evering_arm(self->a, EVERING_RX));
}

TEST_F(group, plain_descriptors_are_members)
{
	uint64_t one = 1;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), file, i;

	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBADF, evering_group_add_fd(self->g, -1, POLLIN, NULL));
	EXPECT_EQ(-EINVAL,
		  evering_group_add_fd(self->g, evering_group_fd(self->g),
				       POLLIN, NULL));
	file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (file >= 0)
		EXPECT_EQ(-EPERM,
			  evering_group_add_fd(self->g, file, POLLIN, NULL));
	close(file);
	ASSERT_EQ(0, evering_group_add_fd(self->g, fd, POLLIN, &fd));
	EXPECT_EQ(-EEXIST, evering_group_add_fd(self->g, fd, POLLIN, NULL));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	ASSERT_EQ(8, write(fd, &one, 8));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		EXPECT_EQ(EVERING_GROUP_FD, self->events[0].what);
		EXPECT_EQ(POLLIN, self->events[0].result);
		EXPECT_EQ(&fd, self->events[0].context);
		EXPECT_EQ(NULL, self->events[0].ev);
	}
	ASSERT_EQ(8, read(fd, &one, 8));
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_group_remove_fd(self->g, fd));
	EXPECT_EQ(-ENOENT, evering_group_remove_fd(self->g, fd));
	one = 1;
	ASSERT_EQ(8, write(fd, &one, 8));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	close(fd);
}

/* ------------------------------------------------------------------- readiness */

TEST_F(group, what_is_ready_is_returned_until_it_is_not)
{
	uint32_t lap;
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	for (lap = 0; lap < 200; lap++) {
		unsigned int k = lap % MANY;

		ASSERT_EQ(0, send_one(self->ev[k][1], lap));
		for (i = 0; i < 3; i++) {
			ASSERT_EQ(1, evering_group_wait(self->g, &self->events,
							i ? EVERING_NOWAIT :
							    PLENTY));
			ASSERT_EQ(self->ev[k][0], self->events[0].ev);
			ASSERT_EQ(&self->ev[k], self->events[0].context);
			ASSERT_EQ(EVERING_RX, self->events[0].what);
			ASSERT_EQ(0, self->events[0].result);
		}
		ASSERT_EQ(lap, receive_one(self->ev[k][0]));
		ASSERT_EQ(-EAGAIN, evering_group_wait(self->g, &self->events,
						      EVERING_NOWAIT));
		if (lap % 3 == 0)
			ASSERT_EQ(0, all_cold(self->g));
	}
}

TEST_F(group, all_that_is_ready_comes_at_once)
{
	unsigned int seen = 0;
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, send_one(self->ev[i][1], 1));
	ASSERT_EQ(MANY, evering_group_wait(self->g, &self->events, PLENTY));
	for (i = 0; i < MANY; i++)
		seen |= 1u
			<< ((struct evering * (*)[2]) self->events[i].context -
			    self->ev);
	EXPECT_EQ((1u << MANY) - 1, seen);
}

TEST_F(group, what_is_not_wanted_is_not_returned)
{
	ASSERT_EQ(0, evering_group_add(self->g, self->a, 0, NULL));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_FALSE(is_armed(self->b));
	ASSERT_EQ(0, send_one(self->b, 1));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	ASSERT_EQ(0, evering_group_want(self->g, self->a, EVERING_RX));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	ASSERT_EQ(1, receive_one(self->a));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_TRUE(is_armed(self->b));
	ASSERT_EQ(0, evering_group_want(self->g, self->a, 0));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_FALSE(is_armed(self->b));
}

/* Nor if it was found before it was said that it is not wanted. */
TEST_F(group, what_is_not_wanted_any_more_is_not_kept)
{
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0, send_one(self->b, 1));
	ASSERT_EQ(1, evering_group_arm(self->g));
	ASSERT_EQ(0, evering_group_want(self->g, self->a, 0));
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_group_want(self->g, self->a, EVERING_RX));
	EXPECT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	/* What was returned already stays as it is: it is being dealt with. */
	ASSERT_EQ(0, evering_group_want(self->g, self->a, EVERING_TX));
	EXPECT_EQ(self->a, self->events[0].ev);
}

TEST_F(group, a_look_tells_of_a_wake_too)
{
	ASSERT_EQ(0, evering_group_wake(self->g));
	EXPECT_EQ(-EINTR,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
}

TEST_F(group, space_is_waited_for)
{
	int lap, n;

	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	for (lap = 0; lap < 20; lap++) {
		send_until_full(self->a);
		ASSERT_EQ(0, evering_group_want(self->g, self->a,
						EVERING_RX | EVERING_TX));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_FALSE(readable(evering_group_fd(self->g), 0));
		for (n = 0; receive_one(self->b) >= 0; n++)
			;
		ASSERT_LE(8, n);
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(EVERING_TX, self->events[0].what);
		ASSERT_EQ(0, send_one(self->b, 7));
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(EVERING_RX | EVERING_TX, self->events[0].what);
		ASSERT_EQ(7, receive_one(self->a));
		ASSERT_EQ(0, evering_group_want(self->g, self->a, EVERING_RX));
		ASSERT_EQ(-EAGAIN, evering_group_wait(self->g, &self->events,
						      EVERING_NOWAIT));
	}
}

/* What was received, and not published, is, when the group goes on. */
TEST_F(group, a_peer_that_waits_for_space_is_told_of_it)
{
	int i, n;

	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(16, send_until_full(self->b));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	/* Less than a quarter of the ring. */
	ASSERT_LE(0, receive_one(self->a));
	ASSERT_EQ(0, evering_arm(self->b, EVERING_TX));
	for (i = 0; i < 4 && !evering_wait(self->b, EVERING_TX, EVERING_NOWAIT);
	     i++)
		evering_group_wait(self->g, &self->events, EVERING_NOWAIT);
	EXPECT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ((int)EVERING_TX, evering_wait(self->b, EVERING_TX, PLENTY));
	/* And when it will not see that it waits, or not yet. */
	evering_disarm(self->b, EVERING_TX);
	ASSERT_EQ(1, send_until_full(self->b));
	while (receive_one(self->a) >= 0)
		;
	for (n = 1; n <= 4; n++) {
		for (i = 0; i < n; i++) {
			ASSERT_EQ(0, send_one(self->b, 1));
			ASSERT_EQ(1, receive_one(self->a));
		}
		ASSERT_EQ(-ETIMEDOUT,
			  evering_group_wait(self->g, &self->events, QUIET));
		EXPECT_EQ(self->a->rx.next, own_half(self->a)->released);
	}
	EXPECT_EQ(16, send_until_full(self->b));
}

/* A wait of the caller's own on a member that is cold disarms it. */
TEST_F(group, waits_on_a_member_are_allowed)
{
	uint32_t value = 3;
	int i;

	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(-ETIMEDOUT, evering_recv(self->a, &value, 4, MSEC));
		send_until_full(self->a);
		ASSERT_EQ(-ETIMEDOUT, evering_send(self->a, &value, 4, MSEC));
		ASSERT_EQ(0, send_one(self->b, 3));
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(3, receive_one(self->a));
		while (receive_one(self->b) >= 0)
			;
	}
}

TEST_F(group, rings_that_sends_owe_are_paid)
{
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, evering_set_policy(
				     self->ev[i][0],
				     EVERING_BLOCK | EVERING_LAZY_RING, 0));
		ASSERT_EQ(0, evering_arm(self->ev[i][1], EVERING_RX));
	}
	ASSERT_EQ(0, all_cold(self->g));
	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, send_one(self->ev[i][0], 1));
		ASSERT_TRUE(is_armed(self->ev[i][0]));
		ASSERT_FALSE(rung(self->ev[i][1], 0));
	}
	/* One that leaves pays as well. */
	ASSERT_EQ(0, evering_group_remove(self->g, self->ev[0][0]));
	ASSERT_TRUE(rung(self->ev[0][1], 5000));
	ASSERT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	for (i = 1; i < MANY; i++)
		EXPECT_TRUE(rung(self->ev[i][1], 5000));
	/* And one that comes, for what it was sent alone. */
	while (receive_one(self->b) >= 0)
		;
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	ASSERT_EQ(0, send_one(self->a, 1));
	ASSERT_FALSE(rung(self->b, 0));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	EXPECT_TRUE(rung(self->b, 5000));
}

/* ------------------------------------------------------------------------ turns */

/* One that sends one entry among those whose rings are never empty. */
TEST_F(group, each_has_its_turn)
{
	int turns[MANY] = { 0 }, lap, i, k, n, quiet = MANY - 1, since = -1;
	int sent = 0;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	for (lap = 0; lap < 2000; lap++) {
		for (i = 0; i < quiet; i++)
			send_until_full(self->ev[i][1]);
		/* So seldom that it is cold. */
		if (is_armed(self->ev[quiet][1])) {
			ASSERT_EQ(0, send_one(self->ev[quiet][1], 1));
			since = lap;
			sent++;
		}
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_LE(1, n);
		for (i = 0; i < n; i++) {
			k = (int)((struct evering * (*)[2]) self->events[i]
					  .context -
				  self->ev);
			turns[k]++;
			if (k == quiet)
				since = -1;
			/* A turn: the whole ring, or one entry. */
			do {
				ASSERT_LE(0, receive_one(self->ev[k][0]));
			} while (k != 0 && evering_peek(self->ev[k][0]));
		}
		/* A turn of each is over. */
		ASSERT_TRUE(since < 0 || lap - since < 1)
		{
			TH_LOG("lap %d since %d", lap, since);
		}
	}
	for (i = 0; i < quiet; i++)
		EXPECT_LE(1990, turns[i]);
	EXPECT_EQ(sent, turns[quiet]);
	EXPECT_LE(2, sent);
}

/* So many rounds in which all others are busy. */
static int busy_rounds(struct evering_group *g, struct evering *ev[MANY][2],
		       int rounds)
{
	const struct evering_group_event *events;
	struct evering **one;
	int i, n;

	while (rounds--) {
		for (i = 0; i < MANY - 1; i++)
			send_until_full(ev[i][1]);
		n = evering_group_wait(g, &events, PLENTY);
		if (n < 1)
			return n;
		while (n--) {
			one = events[n].context;
			if (receive_one(one[0]) < 0)
				return -EIO;
		}
	}
	return 0;
}

/* One that comes back soon is looked at until then; one that does not is soon cold. */
TEST_F(group, looks_go_on_where_they_pay)
{
	struct evering **seldom = self->ev[MANY - 1];
	struct evering_counters c;
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, send_one(seldom[1], 1));
		ASSERT_EQ(0, busy_rounds(self->g, self->ev, 100));
	}
	evering_get_counters(seldom[1], EVERING_MINE, &c);
	EXPECT_GE(2, c.tx_rings);
	ASSERT_EQ(0, busy_rounds(self->g, self->ev, 1000));
	for (i = 0; i < 3; i++) {
		ASSERT_TRUE(is_armed(seldom[1]));
		ASSERT_EQ(0, send_one(seldom[1], 1));
		ASSERT_EQ(0, busy_rounds(self->g, self->ev, i ? 40 : 1000));
	}
	evering_get_counters(seldom[1], EVERING_MINE, &c);
	EXPECT_LE(4, c.tx_rings);
}

#define FLOODERS 100

/*
 * More of those than one call returns, of which one entry is taken in a turn: one that was
 * cold waits for one turn of each at the most, in whatever turn it is rung.
 */
TEST_F(group, a_cold_one_waits_for_one_turn_of_each)
{
	struct evering *ev[FLOODERS + 1][2];
	struct evering **quiet = ev[FLOODERS];
	int n, i, round, turns = 0, waited = -1, served = 0;
	struct rlimit rl;

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = rl.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &rl));
	for (i = 0; i <= FLOODERS; i++) {
		ASSERT_EQ(0, evering_pair(&self->p, ev[i]));
		ASSERT_EQ(0, evering_group_add(self->g, ev[i][0], EVERING_RX,
					       ev[i]));
		send_until_full(ev[i][1]);
	}
	while (receive_one(quiet[0]) >= 0)
		;
	for (round = 0; round < 10000 && served < 4; round++) {
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_LE(1, n);
		for (i = 0; i < n; i++) {
			struct evering **one = self->events[i].context;

			ASSERT_LE(0, receive_one(one[0]));
			if (one == quiet) {
				ASSERT_LE(0, waited);
				ASSERT_GE(FLOODERS, turns - waited);
				waited = -1;
				served++;
				continue;
			}
			send_until_full(one[1]);
			turns++;
			/* In the first turn of a call, in a later one, in the last. */
			if (waited >= 0 || i != n / 3 * served ||
			    !is_armed(quiet[1]))
				continue;
			ASSERT_EQ(0, send_one(quiet[1], 1));
			waited = turns;
		}
	}
	EXPECT_EQ(4, served);
	for (i = 0; i <= FLOODERS; i++) {
		evering_close(ev[i][0]);
		evering_close(ev[i][1]);
	}
}

/* More than fit one call: nobody is left out of it twice. */
TEST_F(group, turns_go_on_where_the_last_call_ended)
{
	enum {
		CROWD = EVERING_GROUP_BATCH + 20
	};
	struct evering *crowd[CROWD][2];
	int turns[CROWD] = { 0 }, i, n, lap, most = 0, least = 1000;

	for (i = 0; i < CROWD; i++) {
		ASSERT_EQ(0, evering_pair(&self->p, crowd[i]));
		ASSERT_EQ(0, evering_group_add(self->g, crowd[i][0], EVERING_RX,
					       &turns[i]));
		ASSERT_EQ(0, send_one(crowd[i][1], 1));
	}
	for (lap = 0; lap < 21; lap++) {
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_EQ(EVERING_GROUP_BATCH, n);
		while (n--)
			++*(int *)self->events[n].context;
		/* And those that come and go do not change that. */
		ASSERT_EQ(0, evering_group_remove(self->g, crowd[lap][0]));
		ASSERT_EQ(0, evering_group_add(self->g, crowd[lap][0],
					       EVERING_RX, &turns[lap]));
	}
	for (i = 21; i < CROWD; i++) {
		most = max_of(most, turns[i]);
		least = turns[i] < least ? turns[i] : least;
	}
	EXPECT_GE(2, most - least);
	EXPECT_LE(21 * EVERING_GROUP_BATCH / CROWD - 1, least);
	for (i = 0; i < CROWD; i++)
		close_pair(crowd[i]);
}

/* ------------------------------------------------------------- hot, cold, hot */

struct stress {
	struct evering *(*ev)[2];
	uint64_t seed;
	int messages;
	int asked;
	int result;
};

/*
 * The peers of all: sends on one, or on several, and waits until each message is answered;
 * sometimes with a pause, so that the group has gone to sleep.
 */
static void *ask_at_random(void *arg)
{
	struct stress *s = arg;
	uint32_t value, answer;
	int n, i, k;

	for (n = 0; n < s->messages && !s->result; n++) {
		unsigned int which = 1u + (unsigned int)random_below(
						  &s->seed, (1 << MANY) - 1);

		if (random_below(&s->seed, 4))
			which &= 1u << random_below(&s->seed, MANY);
		if (!random_below(&s->seed, 8))
			spin_ns((int64_t)random_below(&s->seed, 100 * USEC));
		for (i = 0; i < MANY; i++)
			if (which & 1u << i) {
				value = (uint32_t)(n * MANY + i);
				s->result |= evering_send(s->ev[i][1], &value,
							  4, PLENTY);
				s->asked++;
			}
		for (i = 0; i < MANY; i++) {
			k = (i + n) % MANY;
			if (!(which & 1u << k))
				continue;
			s->result |=
				evering_recv(s->ev[k][1], &answer, 4, PLENTY);
			if (answer != (uint32_t)(n * MANY + k))
				s->result |= -EPROTO;
		}
	}
	return NULL;
}

static int answer_all(const struct evering_group_event *events, int n)
{
	uint32_t value;
	int answered = 0;

	while (n-- > 0)
		while (events[n].ev &&
		       !evering_recv(events[n].ev, &value, 4, EVERING_NOWAIT)) {
			if (evering_send(events[n].ev, &value, 4,
					 EVERING_NOWAIT))
				return -1;
			answered++;
		}
	return answered;
}

static int stress_length(uint32_t policy)
{
	int n = short_run() ? 300 : SANITIZED ? 1000 : 10000;

	return policy == EVERING_BUSY ? n / 4 : n;
}

TEST_F(group, no_message_is_slept_over)
{
	struct stress s = { .ev = self->ev, .seed = random_seed() };
	pthread_t thread;
	int n, i;

	s.messages = stress_length(variant->policy);
	for (i = 0; i < MANY; i++)
		evering_set_policy(self->ev[i][1], EVERING_BLOCK, 0);
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask_at_random, &s));
	for (;;) {
		n = evering_group_wait(self->g, &self->events, 20 * MSEC);
		if (n == -ETIMEDOUT && pthread_tryjoin_np(thread, NULL) == 0)
			break;
		if (n == -ETIMEDOUT || n == -EINTR)
			continue;
		ASSERT_LE(1, n);
		ASSERT_LE(0, answer_all(self->events, n));
	}
	EXPECT_EQ(0, s.result);
}

/* Without a time limit: a wake-up that is lost is for ever. */
TEST_F(group, no_message_is_slept_over_in_a_loop_of_another)
{
	struct stress s = { .ev = self->ev, .seed = random_seed() };
	int total = 0, n, ep = epoll_create1(EPOLL_CLOEXEC), i;
	struct epoll_event event = { .events = EPOLLIN };
	pthread_t thread;
	bool done = false;

	if (variant->policy == EVERING_BLOCK)
		event.events |= EPOLLET;
	s.messages = stress_length(variant->policy);
	for (i = 0; i < MANY; i++)
		evering_set_policy(self->ev[i][1], EVERING_BLOCK, 0);
	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, evering_group_fd(self->g),
			       &event));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask_at_random, &s));
	while (!done) {
		while ((n = evering_group_poll(self->g, &self->events)) > 0) {
			n = answer_all(self->events, n);
			ASSERT_LE(0, n);
			total += n;
		}
		ASSERT_EQ(0, n);
		if (!epoll_wait(ep, &event, 1, 50))
			done = pthread_tryjoin_np(thread, NULL) == 0;
	}
	EXPECT_EQ(0, s.result);
	EXPECT_EQ(s.asked, total);
	close(ep);
}

#ifdef __x86_64__
/*
 * An entry that comes after any instruction of the call that arms.  The processor stops
 * after each (the trap flag), and the handler sends after so many.
 */
static struct {
	struct evering *ev;
	struct evering_group *g; /* is woken instead */
	int after;
	int sent;
	int64_t at;
} step;

#define TRAP_FLAG 0x100

static void on_step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *c = context;

	(void)sig;
	(void)info;
	if (step.after-- > 0)
		return;
	c->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	step.at = now_ns();
	step.sent +=
		!(step.g ? evering_group_wake(step.g) : send_one(step.ev, 1));
}

static void set_trap_flag(void)
{
	__asm__ __volatile__("lea -128(%%rsp), %%rsp\n\t"
			     "pushfq\n\t"
			     "orq $0x100, (%%rsp)\n\t"
			     "popfq\n\t"
			     "lea 128(%%rsp), %%rsp" ::
				     : "memory", "cc");
}

static void clear_trap_flag(void)
{
	__asm__ __volatile__("lea -128(%%rsp), %%rsp\n\t"
			     "pushfq\n\t"
			     "andq $~0x100, (%%rsp)\n\t"
			     "popfq\n\t"
			     "lea 128(%%rsp), %%rsp" ::
				     : "memory", "cc");
}

TEST_F(group, what_comes_while_it_arms_is_not_slept_over)
{
	struct sigaction sa = { .sa_sigaction = on_step,
				.sa_flags = SA_SIGINFO };
	int stride = short_run() ? 23 : 3, k, n, told = 0;

	if (SANITIZED)
		SKIP(return, "too many instructions");
	ASSERT_EQ(0, sigaction(SIGTRAP, &sa, NULL));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	step.ev = self->b;
	for (k = 0; k < 100000; k += stride) {
		/* Hot, with nothing there. */
		ASSERT_EQ(0, send_one(self->b, 1));
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(1, receive_one(self->a));
		step.after = k;
		step.sent = 0;
		set_trap_flag();
		n = evering_group_poll(self->g, &self->events);
		clear_trap_flag();
		if (!step.sent) {
			ASSERT_EQ(0, n);
			break;
		}
		told += n == 0;
		if (!n) {
			ASSERT_TRUE(readable(evering_group_fd(self->g), 0))
			{
				TH_LOG("after %d instructions", k);
			}
			n = evering_group_poll(self->g, &self->events);
		}
		ASSERT_EQ(1, n);
		ASSERT_EQ(1, receive_one(self->a));
	}
	printf("# %d instructions, told of by the descriptor %d times\n", k,
	       told);
	EXPECT_LT(100, k);
	EXPECT_GT(100000, k);
	EXPECT_LT(0, told);
}

/*
 * The same of a handler that calls evering_group_wake(), wherever a wait is.  The first one
 * that comes too late to end it comes when its time has passed.
 */
TEST_F(group, a_wake_is_not_slept_over)
{
	bool block = variant->policy == EVERING_BLOCK;
	int64_t timeout_ns = block ? slow(SEC) : 5 * MSEC, start;
	struct sigaction sa = { .sa_sigaction = on_step,
				.sa_flags = SA_SIGINFO };
	int stride = short_run() ? 23 : 3, k, n, woken = 0;

	/* Each is a trap, and a debug kernel takes a hundred times as long for it. */
	if (SANITIZED || slow(1) > 50)
		SKIP(return, "too many instructions");
	/* Such a one looks for as long as it may. */
	if (!block)
		stride *= 11;
	ASSERT_EQ(0, sigaction(SIGTRAP, &sa, NULL));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	step.g = self->g;
	for (k = 0; k < 100000; k += stride) {
		ASSERT_EQ(0, all_cold(self->g));
		step.after = k;
		step.sent = 0;
		start = now_ns();
		set_trap_flag();
		n = evering_group_wait(self->g, &self->events, timeout_ns);
		clear_trap_flag();
		if (n == -EINTR) {
			woken++;
			continue;
		}
		ASSERT_EQ(-ETIMEDOUT, n);
		if (!step.sent)
			break;
		if (block) {
			ASSERT_LE(start + timeout_ns, step.at)
			{
				TH_LOG("after %d instructions", k);
			}
		}
		ASSERT_EQ(-EINTR,
			  evering_group_wait(self->g, &self->events, PLENTY));
		if (block)
			break;
	}
	printf("# %d instructions, woken %d times\n", k, woken);
	EXPECT_LT(0, woken);
}
#endif

/* Members that nothing comes for cost their peers a ring, and this side nothing. */
TEST_F(group, what_is_silent_is_cold)
{
	struct evering_counters c;
	int i, lap;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	if (variant->policy == EVERING_BUSY)
		return;
	ASSERT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	for (i = 0; i < MANY; i++)
		EXPECT_TRUE(is_armed(self->ev[i][1]));
	/* One that is rung is hot, and not rung again before it is cold. */
	for (lap = 0; lap < 4; lap++) {
		ASSERT_EQ(0, send_one(self->b, 1));
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(1, receive_one(self->a));
		EXPECT_FALSE(is_armed(self->b));
		EXPECT_TRUE(is_armed(self->ev[1][1]));
		for (i = 0; i < 10; i++)
			ASSERT_EQ(0, send_one(self->b, 1));
		evering_get_counters(self->b, EVERING_MINE, &c);
		EXPECT_EQ((uint64_t)lap + 1, c.tx_rings);
		while (receive_one(self->a) >= 0)
			;
		ASSERT_EQ(0, all_cold(self->g));
	}
}

/* -------------------------------------------------------------- death and leave */

TEST_F(group, a_death_is_told_once_after_what_was_sent)
{
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, send_one(self->b, 5));
	evering_close(self->b);
	self->ev[0][1] = NULL;
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(EVERING_RX, self->events[0].what);
		ASSERT_EQ(5, receive_one(self->a));
	}
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(EVERING_GROUP_GONE, self->events[0].what);
	EXPECT_EQ(-EPIPE, self->events[0].result);
	EXPECT_EQ(self->a, self->events[0].ev);
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	EXPECT_EQ(-EEXIST,
		  evering_group_add(self->g, self->a, EVERING_RX, NULL));
	/* Elsewhere it is told again. */
	ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(EVERING_GROUP_GONE, self->events[0].what);
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
}

TEST_F(group, a_death_is_told_whatever_is_wanted)
{
	unsigned int want[] = { 0, EVERING_RX, EVERING_TX,
				EVERING_RX | EVERING_TX };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(want); i++)
		ASSERT_EQ(0, evering_group_add(self->g, self->ev[i][0], want[i],
					       NULL));
	evering_group_wait(self->g, &self->events, EVERING_NOWAIT);
	for (i = 0; i < ARRAY_SIZE(want); i++) {
		evering_close(self->ev[i][1]);
		self->ev[i][1] = NULL;
	}
	for (i = 0; i < ARRAY_SIZE(want);) {
		int n = evering_group_wait(self->g, &self->events, PLENTY);

		ASSERT_LE(1, n);
		while (n--)
			i += self->events[n].what == EVERING_GROUP_GONE;
	}
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
}

static int send_and_die(struct evering *ev, void *arg)
{
	(void)arg;
	return send_one(ev, 9);
}

TEST_F(group, a_killed_peer_is_gone)
{
	struct evering_params p[2] = { self->p, self->p };
	struct duo duo;

	ASSERT_EQ(0, duo_start(&duo, true, p, send_and_die, NULL));
	ASSERT_EQ(0, evering_group_add(self->g, duo.ev, EVERING_RX, NULL));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(EVERING_RX, self->events[0].what);
	EXPECT_EQ(9, receive_one(duo.ev));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(EVERING_GROUP_GONE, self->events[0].what);
	EXPECT_EQ(0, reap(duo.pid));
	evering_close(duo.ev);
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
}

/* Each closes, or removes, one that is returned with it. */
TEST_F(group, members_leave_in_the_middle_of_a_loop)
{
	int lap, i, n, called = 0, left;

	for (lap = 0; lap < 20; lap++) {
		ASSERT_EQ(0, add_all(self->g, self->ev));
		ASSERT_EQ(0, all_cold(self->g));
		for (i = 0; i < MANY; i++)
			ASSERT_EQ(0, send_one(self->ev[i][1], 1));
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_EQ(MANY, n);
		called = 0;
		for (i = 0; i < n; i++) {
			struct evering *ev = self->events[i].ev;
			int other;

			if (!self->events[i].what) {
				ASSERT_EQ(NULL, ev);
				continue;
			}
			called++;
			ASSERT_EQ(1, receive_one(ev));
			other = (int)((struct evering * (*)[2]) self->events[i]
					      .context -
				      self->ev + 1) %
				MANY;
			if (lap % 2) {
				evering_group_remove(self->g,
						     self->ev[other][0]);
			} else {
				close_pair(self->ev[other]);
				ASSERT_EQ(0, evering_pair(&self->p,
							  self->ev[other]));
			}
		}
		EXPECT_LE(MANY / 2, called);
		EXPECT_GE(MANY, called);
		left = 0;
		for (i = 0; i < MANY; i++) {
			left += evering_group_remove(self->g, self->ev[i][0]) ==
				0;
			close_pair(self->ev[i]);
			ASSERT_EQ(0, evering_pair(&self->p, self->ev[i]));
		}
		ASSERT_GE(MANY, left);
		ASSERT_EQ(-EAGAIN, evering_group_wait(self->g, &self->events,
						      EVERING_NOWAIT));
	}
	self->a = self->ev[0][0];
	self->b = self->ev[0][1];
}

/* A ring of a member that has gone is nobody else's, and one that comes gets its own. */
TEST_F(group, removed_while_it_is_rung)
{
	struct evering_group *other;
	uint32_t i;

	ASSERT_EQ(0, open_group(variant->policy, &other));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX,
					       NULL));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(0, send_one(self->b, i));
		ASSERT_EQ(0, evering_group_remove(self->g, self->a));
		/* Moved while it is rung, it is told of where it is. */
		ASSERT_EQ(0,
			  evering_group_add(other, self->a, EVERING_RX, NULL));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_FALSE(readable(evering_group_fd(self->g), 0));
		ASSERT_EQ(1, evering_group_wait(other, &self->events, PLENTY));
		ASSERT_EQ(i, receive_one(self->a));
		ASSERT_EQ(0, all_cold(other));
		ASSERT_EQ(0, send_one(self->b, i));
		ASSERT_EQ(0, evering_group_remove(other, self->a));
		/* And alone. */
		ASSERT_EQ((int)EVERING_RX,
			  evering_wait(self->a, EVERING_RX, PLENTY));
		ASSERT_EQ(i, receive_one(self->a));
		ASSERT_EQ(-ETIMEDOUT, evering_wait(self->a, EVERING_RX, 1));
	}
	evering_group_close(other);
}

TEST_F(group, descriptors_and_memory_come_back)
{
	struct evering_group *g;
	int n = count_fds(), i;

	for (i = 0; i < 50; i++) {
		ASSERT_EQ(0, open_group(variant->policy, &g));
		ASSERT_EQ(0, add_all(g, self->ev));
		evering_group_wait(g, &self->events, EVERING_NOWAIT);
		evering_group_close(g);
	}
	EXPECT_EQ(n, count_fds());
	ASSERT_EQ(0, send_one(self->b, 1));
	EXPECT_EQ(1, receive_one(self->a));
}

/* --------------------------------------------------------------- wake and signals */

struct waker {
	struct evering_group *g;
	int laps;
	int seen;
};

static void *wake_often(void *arg)
{
	struct waker *w = arg;
	int i;

	for (i = 0; i < w->laps; i++) {
		evering_group_wake(w->g);
		while (__atomic_load_n(&w->seen, __ATOMIC_ACQUIRE) <= i)
			sched_yield();
	}
	return NULL;
}

TEST_F(group, another_thread_ends_each_wait)
{
	struct waker w = { .g = self->g,
			   .laps = short_run() || SANITIZED ? 50 : 2000 };
	pthread_t thread;
	int i;

	/* Two that spin, where there are few CPUs. */
	if (variant->policy == EVERING_BUSY)
		w.laps = 50;
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, pthread_create(&thread, NULL, wake_often, &w));
	for (i = 0; i < w.laps; i++) {
		ASSERT_EQ(-EINTR, evering_group_wait(self->g, &self->events,
						     EVERING_WAIT_FOREVER));
		__atomic_store_n(&w.seen, i + 1, __ATOMIC_RELEASE);
	}
	ASSERT_EQ(0, pthread_join(thread, NULL));
	/* Calls that came before end one wait, and one alone. */
	evering_group_wake(self->g);
	evering_group_wake(self->g);
	EXPECT_EQ(-EINTR, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	/* What is ready comes first. */
	evering_group_wake(self->g);
	ASSERT_EQ(0, send_one(self->b, 1));
	if (evering_group_wait(self->g, &self->events, PLENTY) == -EINTR)
		EXPECT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(1, receive_one(self->a));
	/* In a loop of another. */
	while (evering_group_poll(self->g, &self->events))
		;
	ASSERT_FALSE(readable(evering_group_fd(self->g), 0));
	evering_group_wake(self->g);
	EXPECT_TRUE(readable(evering_group_fd(self->g), 5000));
	EXPECT_EQ(-EINTR, evering_group_poll(self->g, &self->events));
	EXPECT_EQ(0, evering_group_poll(self->g, &self->events));
}

static struct evering_group *to_wake;

static void wake_group(int sig)
{
	(void)sig;
	evering_group_wake(to_wake);
}

TEST_F(group, a_signal_handler_ends_a_wait)
{
	struct sigaction sa = { .sa_handler = wake_group,
				.sa_flags = SA_RESTART };
	struct itimerval soon = { { 0, 0 }, { 0, 2000 } };
	int i;

	to_wake = self->g;
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
		ASSERT_EQ(-EINTR, evering_group_wait(self->g, &self->events,
						     EVERING_WAIT_FOREVER));
		/* By the signal alone it may have been before. */
		evering_group_wait(self->g, &self->events, EVERING_NOWAIT);
		if (evering_group_poll(self->g, &self->events) == -EINTR)
			ASSERT_EQ(0,
				  evering_group_poll(self->g, &self->events));
	}
}

/* They come all the time: while it spins, on its way to sleep, and asleep. */
TEST_F(group, a_signal_that_is_ignored_ends_nothing)
{
	static const struct {
		int signal;
		void (*action)(int);
	} ignored[] = {
		{ SIGALRM, SIG_IGN },
		{ SIGCHLD, SIG_DFL },
	};
	int laps = short_run() ? 50 : 400, lap, silent = eventfd(0, 0);
	size_t i;

	ASSERT_LE(0, silent);
	handle_nothing();
	for (i = 0; i < ARRAY_SIZE(ignored); i++) {
		pid_t child;

		ASSERT_EQ(0, handle(ignored[i].signal, ignored[i].action));
		child = send_signals(ignored[i].signal);
		ASSERT_LT(0, child);
		for (lap = 0; lap < laps; lap++) {
			struct evering_group *g;

			/* Another one: the spins of this get shorter. */
			ASSERT_EQ(0, open_group(variant->policy, &g));
			ASSERT_EQ(0, evering_group_add(g, self->a, EVERING_RX,
						       NULL));
			/* With it the device's sleeps in the set, too. */
			if (lap % 2)
				ASSERT_EQ(0, evering_group_add_fd(
						     g, silent, POLLIN, NULL));
			ASSERT_EQ(-ETIMEDOUT,
				  evering_group_wait(g, &self->events,
						     slow(MSEC)))
			{
				TH_LOG("lap %d", lap);
			}
			evering_group_close(g);
		}
		kill_and_reap(child);
	}
	close(silent);
}

/* It would keep whoever rings it: here all members and whoever waits for them. */
TEST_F(group, a_member_whose_bell_is_full_keeps_no_other)
{
	struct evering *h[2], *gone = NULL, *heard = NULL;
	bool others[FDS];
	unsigned int way;
	int i, n;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "a doorbell of the device cannot be filled");
	ASSERT_EQ(0, add_all(self->g, self->ev));
	/* A receiver that sleeps, and a sender that sleeps for want of space. */
	for (way = 0; way < 2; way++) {
		list_open(others);
		ASSERT_EQ(0, evering_pair(&self->p, h));
		ASSERT_EQ(0,
			  evering_group_add(self->g, h[0], EVERING_RX, NULL));
		if (way) {
			send_until_full(h[1]);
			ASSERT_EQ(0, evering_arm(h[1], EVERING_TX));
		} else {
			ASSERT_EQ(0, evering_arm(h[1], EVERING_RX));
		}
		ASSERT_LT(0, fill_bells(others, true));
		if (way)
			while (!evering_recv(h[0], &n, 4, EVERING_NOWAIT))
				;
		else
			ASSERT_EQ(0, send_one(h[0], 1));
		ASSERT_EQ(0, send_one(self->b, 2));
		gone = heard = NULL;
		while (!gone || !heard) {
			n = evering_group_wait(self->g, &self->events, PLENTY);
			ASSERT_LT(0, n);
			for (i = 0; i < n; i++) {
				if (self->events[i].what & EVERING_GROUP_GONE)
					gone = self->events[i].ev;
				else if (self->events[i].ev == self->a)
					heard = self->a;
			}
			if (heard)
				receive_one(self->a);
		}
		EXPECT_EQ(h[0], gone);
		EXPECT_EQ(-EPROTO, evering_wait(h[0], EVERING_RX, PLENTY));
		ASSERT_EQ(0, evering_group_remove(self->g, h[0]));
		close_pair(h);
	}
}

TEST_F(group, evering_wake_of_a_cold_member_ends_it)
{
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(0, evering_wake(self->a, EVERING_RX));
	EXPECT_EQ(-EINTR, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
}

/* ------------------------------------------------------------ a loop of another */

TEST_F(group, its_descriptor_tells)
{
	uint32_t i;
	int fd = evering_group_fd(self->g);

	ASSERT_LE(0, fd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD) & FD_CLOEXEC);
	ASSERT_EQ(0, add_all(self->g, self->ev));
	for (i = 0; i < 100; i++) {
		unsigned int k = i % MANY;

		ASSERT_EQ(0, evering_group_poll(self->g, &self->events));
		ASSERT_FALSE(readable(fd, i < 3 ? 20 : 0));
		ASSERT_EQ(0, send_one(self->ev[k][1], i));
		ASSERT_TRUE(readable(fd, 5000));
		ASSERT_EQ(1, evering_group_poll(self->g, &self->events));
		ASSERT_EQ(self->ev[k][0], self->events[0].ev);
		ASSERT_EQ(i, receive_one(self->ev[k][0]));
	}
	/* To arm is to look, and what it finds is still there. */
	ASSERT_EQ(0, evering_group_arm(self->g));
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_group_timeout(self->g));
	ASSERT_EQ(0, send_one(self->b, 1));
	evering_close(self->ev[1][1]);
	self->ev[1][1] = NULL;
	ASSERT_EQ(1, evering_group_arm(self->g));
	ASSERT_EQ(1, evering_group_arm(self->g));
	EXPECT_EQ(0, evering_group_timeout(self->g));
	ASSERT_EQ(2, evering_group_poll(self->g, &self->events));
	EXPECT_EQ(EVERING_GROUP_GONE, self->events[0].what == EVERING_RX ?
					      self->events[1].what :
					      self->events[0].what);
	ASSERT_EQ(1, receive_one(self->a));
	ASSERT_EQ(0, evering_group_arm(self->g));
	/* Those that were found and have left since are not. */
	ASSERT_EQ(0, send_one(self->b, 1));
	ASSERT_EQ(1, evering_group_arm(self->g));
	ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	EXPECT_EQ(0, evering_group_poll(self->g, &self->events));
}

/* ---------------------------------------------------------------------- the peer */

/* Rings, again and again, for nothing. */
TEST_F(group, rings_for_nothing_keep_nobody)
{
	struct evering_bell bell;
	uint64_t one = 1;
	int64_t end;
	int i, n;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	for (i = 0; i < 100; i++) {
		/* Exactly what a send makes of an armed word, without the entry. */
		if (evering_flush_begin(self->b, &bell)) {
			if (bell.command) {
				ASSERT_LE(0, ioctl(bell.fd, bell.command,
						   EVERING_RX));
			} else {
				ASSERT_EQ(8, write(bell.fd, &one, 8));
			}
		}
		if (i % 4 == 0)
			ASSERT_EQ(0, send_one(self->ev[1][1], 1));
		end = now_ns() + PLENTY;
		n = evering_group_wait(self->g, &self->events,
				       i % 4 ? MSEC : PLENTY);
		ASSERT_LT(now_ns(), end);
		if (i % 4) {
			ASSERT_EQ(-ETIMEDOUT, n);
			continue;
		}
		ASSERT_EQ(1, n);
		ASSERT_EQ(self->ev[1][0], self->events[0].ev);
		ASSERT_EQ(1, receive_one(self->ev[1][0]));
	}
	EXPECT_EQ(0, evering_group_poll(self->g, &self->events));
}

struct ringer {
	struct evering_bell bell;
	bool stop;
};

static void *ring_always(void *arg)
{
	struct ringer *r = arg;
	uint64_t one = 1;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		if (r->bell.command)
			ioctl(r->bell.fd, r->bell.command, EVERING_RX);
		else if (write(r->bell.fd, &one, 8) != 8)
			break;
	}
	return NULL;
}

TEST_F(group, a_flood_of_rings_delays_nobody)
{
	struct ringer r = { .stop = false };
	pthread_t thread;
	uint32_t i;
	int n;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(1, evering_flush_begin(self->b, &r.bell));
	ASSERT_EQ(0, pthread_create(&thread, NULL, ring_always, &r));
	for (i = 0; i < 200; i++) {
		ASSERT_EQ(0, send_one(self->ev[2][1], i));
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_EQ(1, n);
		ASSERT_EQ(self->ev[2][0], self->events[0].ev);
		ASSERT_EQ(i, receive_one(self->ev[2][0]));
		ASSERT_EQ(-ETIMEDOUT,
			  evering_group_wait(self->g, &self->events, USEC));
		ASSERT_EQ(0, evering_group_poll(self->g, &self->events));
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
}

/* One that says it has released what it was never sent. */
TEST_F(group, a_peer_that_breaks_the_rules_is_gone)
{
	int i, n, told = 0;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	send_until_full(self->a);
	evering_store_release(&own_half(self->b)->released, 12345);
	ASSERT_EQ(0, evering_group_want(self->g, self->a,
					EVERING_RX | EVERING_TX));
	for (i = 0; i < 4; i++) {
		n = evering_group_wait(self->g, &self->events, QUIET);
		if (n == -ETIMEDOUT)
			continue;
		ASSERT_EQ(1, n);
		EXPECT_EQ(EVERING_GROUP_GONE, self->events[0].what);
		EXPECT_EQ(-EPROTO, self->events[0].result);
		told++;
	}
	/* Who never looks at an empty ring twice finds out when it sends. */
	EXPECT_EQ(1, told);
	ASSERT_EQ(0, send_one(self->ev[1][1], 1));
	EXPECT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
}

/* Stamps of what was never sent: they are no entries until the one that is due. */
TEST_F(group, stamps_out_of_order_are_no_entries)
{
	uint32_t *stamp;
	uint32_t i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	for (i = 0; i < 16; i++) {
		stamp = (uint32_t *)(self->b->tx.slots + 64 * i + 60);
		evering_store_release(stamp, i + 2);
	}
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	ASSERT_EQ(0, send_one(self->ev[1][1], 1));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(self->ev[1][0], self->events[0].ev);
}

/* ------------------------------------------------------- listeners and operations */

struct visitor {
	char path[64];
	struct evering_params p;
	int result;
};

static void *visit(void *arg)
{
	struct visitor *v = arg;
	struct evering *ev;
	uint32_t value = 42, answer = 0;

	v->result = evering_connect(v->path, &v->p, PLENTY, &ev);
	if (v->result)
		return NULL;
	v->result = evering_send(ev, &value, 4, PLENTY);
	if (!v->result)
		v->result = evering_recv(ev, &answer, 4, PLENTY);
	if (answer != value)
		v->result = -EPROTO;
	evering_close(ev);
	return NULL;
}

TEST_F(group, a_listener_and_its_clients)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering_listener *listener;
	struct visitor v[4] = { 0 };
	struct evering_group *other;
	struct evering *ev;
	int clients = 0, gone = 0, n, i;
	pthread_t thread[4];

	for (i = 0; i < 4; i++) {
		v[i].p = self->p;
		snprintf(v[i].path, sizeof(v[i].path), "@evering-group-%d",
			 getpid());
	}
	ASSERT_EQ(0, evering_listen(v[0].path, 0, &listener));
	ASSERT_EQ(0, open_group(variant->policy, &other));
	EXPECT_EQ(-ENOENT, evering_group_remove_listener(self->g, listener));
	ASSERT_EQ(0, evering_group_add_listener(self->g, listener, &listener));
	EXPECT_EQ(-EEXIST, evering_group_add_listener(self->g, listener, NULL));
	EXPECT_EQ(-EBUSY, evering_group_add_listener(other, listener, NULL));
	EXPECT_EQ(-ENOENT, evering_group_remove_listener(other, listener));
	ASSERT_EQ(0, evering_group_remove_listener(self->g, listener));
	ASSERT_EQ(0, evering_group_add_listener(self->g, listener, &listener));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, visit, &v[i]));
	while (gone < 4) {
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_LE(1, n);
		for (i = 0; i < n; i++) {
			ev = self->events[i].ev;
			switch (self->events[i].what) {
			case EVERING_GROUP_ACCEPT:
				ASSERT_EQ(&listener, self->events[i].context);
				if (evering_accept(listener, &limits,
						   EVERING_NOWAIT, &ev))
					break;
				clients++;
				ASSERT_EQ(0,
					  evering_group_add(self->g, ev,
							    EVERING_RX, NULL));
				break;
			case EVERING_RX:
				ASSERT_EQ(42, receive_one(ev));
				ASSERT_EQ(0, send_one(ev, 42));
				break;
			case EVERING_GROUP_GONE:
				gone++;
				evering_close(ev);
				break;
			}
		}
	}
	EXPECT_EQ(4, clients);
	for (i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		EXPECT_EQ(0, v[i].result);
	}
	evering_listener_close(listener);
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	evering_group_close(other);
}

static void on_request(struct evering_ops *ops,
		       const struct evering_request *request, void *context)
{
	++*(int *)context;
	evering_op_answer(ops, request->id, 7, NULL, 0);
}

static void on_done(struct evering_ops *ops, const struct evering_completion *c)
{
	(void)ops;
	*(int *)c->user = c->result;
}

TEST_F(group, operations_are_members)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct evering_op op = { .opcode = 1, .done = on_done };
	struct evering_ops *server, *client;
	int served = 0, result = -1, lap, n, i;
	uint64_t id;

	params.request = on_request;
	params.context = &served;
	ASSERT_EQ(0, evering_ops_open(self->a, &params, &server));
	ASSERT_EQ(0, evering_ops_open(self->b, &params, &client));
	op.user = &result;
	/* Both ends, in one group: requests and answers. */
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, server));
	ASSERT_EQ(0, evering_group_add(self->g, self->b, EVERING_RX, client));
	while ((n = evering_group_poll(self->g, &self->events)) > 0)
		for (i = 0; i < n; i++)
			evering_ops_poll(self->events[i].context);
	for (lap = 0; lap < 50; lap++) {
		result = -1;
		ASSERT_EQ(0,
			  evering_op_submit(client, &op, &id, EVERING_NOWAIT));
		evering_ops_flush(client);
		while (result < 0) {
			n = evering_group_wait(self->g, &self->events, PLENTY);
			ASSERT_LE(1, n);
			for (i = 0; i < n; i++)
				ASSERT_LE(0, evering_ops_poll(
						     self->events[i].context));
		}
		ASSERT_EQ(7, result);
	}
	EXPECT_EQ(50, served);
}

static void count_late(struct evering_ops *ops,
		       const struct evering_completion *c)
{
	(void)ops;
	*(int *)c->user += c->result == -ETIMEDOUT;
}

TEST_F(group, operations_run_out_of_time)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct evering_op op = { .opcode = 1, .done = count_late };
	struct evering_ops *server, *client;
	struct evering_request request;
	int late, lap, n;
	int64_t start;
	uint64_t id;

	ASSERT_EQ(0, evering_ops_open(self->a, &params, &server));
	ASSERT_EQ(0, evering_ops_open(self->b, &params, &client));
	op.user = &late;
	ASSERT_EQ(0, evering_group_add(self->g, self->b, EVERING_RX, client));
	while ((n = evering_group_poll(self->g, &self->events)) > 0)
		evering_ops_poll(client);
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_group_timeout(self->g));
	for (lap = 0; lap < 4; lap++) {
		late = 0;
		op.timeout_ns = 5 * MSEC;
		ASSERT_EQ(0,
			  evering_op_submit(client, &op, &id, EVERING_NOWAIT));
		op.timeout_ns = 10 * MSEC;
		ASSERT_EQ(0,
			  evering_op_submit(client, &op, &id, EVERING_NOWAIT));
		EXPECT_GE(10 * MSEC, evering_group_timeout(self->g));
		start = now_ns();
		while (late < 2) {
			ASSERT_EQ(1, evering_group_wait(self->g, &self->events,
							PLENTY));
			EXPECT_EQ(EVERING_RX, self->events[0].what);
			ASSERT_LE(0, evering_ops_poll(client));
		}
		/* Not when the wait is over. */
		ASSERT_GT(start + PLENTY, now_ns());
		/* The server answers, so that there are places again. */
		for (n = 0; n < 2; n++) {
			ASSERT_EQ(0, evering_op_next(server, &request, PLENTY));
			ASSERT_EQ(0, evering_op_answer(server, request.id, 0,
						       NULL, 0));
		}
		evering_ops_flush(server);
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_LE(0, evering_ops_poll(client));
	}
}

/* Requests that the caller takes one at a time are told of until it has them all. */
TEST_F(group, requests_that_wait_are_told_of)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct evering_op op = { .opcode = 1 };
	struct evering_ops *server, *client;
	struct evering_request request;
	int i, n, taken = 0;
	uint64_t id;

	ASSERT_EQ(0, evering_ops_open(self->a, &params, &server));
	ASSERT_EQ(0, evering_ops_open(self->b, &params, &client));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, server));
	evering_ops_poll(server);
	evering_ops_poll(client);
	ASSERT_EQ(-EAGAIN, evering_op_next(server, &request, EVERING_NOWAIT));
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0,
			  evering_op_submit(client, &op, &id, EVERING_NOWAIT));
	evering_ops_flush(client);
	while (taken < 4) {
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_EQ(1, n);
		if (!evering_op_next(server, &request, EVERING_NOWAIT)) {
			taken++;
			evering_op_answer(server, request.id, 0, NULL, 0);
		}
	}
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
}

/* --------------------------------------------------------- what cannot be had */

/* The call of that number to add to a set is refused; 0: none is. */
static int refused_add;

HIDDEN int epoll_ctl(int set, int what, int fd, struct epoll_event *event)
{
	if (what == EPOLL_CTL_ADD && refused_add && !--refused_add) {
		errno = ENOSPC;
		return -1;
	}
	return REAL(epoll_ctl)(set, what, fd, event);
}

TEST_F(group, without_descriptors_or_watches_nothing_changes)
{
	int n = count_fds(), free_fd = dup(0), i, watches, fd;
	struct evering_group *g = NULL;
	struct rlimit rl, less;

	close(free_fd);
	ASSERT_LE(0, free_fd);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &rl));
	for (i = 0; i < 2; i++) {
		less = rl;
		less.rlim_cur = (rlim_t)free_fd + (rlim_t)i;
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &less));
		EXPECT_EQ(-EMFILE, evering_group_open(NULL, &g));
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &rl));
		EXPECT_EQ(n, count_fds());
	}
	refused_add = 1;
	EXPECT_EQ(-ENOSPC, evering_group_open(NULL, &g));
	EXPECT_EQ(n, count_fds());
	/* The group file takes no watch of the set. */
	watches = variant->backend == EVERING_BACKEND_MEMFD ? 3 : 0;
	for (i = 1; i <= watches; i++) {
		refused_add = i;
		EXPECT_EQ(-ENOSPC, evering_group_add(self->g, self->a,
						     EVERING_RX, NULL));
		EXPECT_EQ(-ENOENT, evering_group_remove(self->g, self->a));
		EXPECT_EQ(0, refused_add);
	}
	fd = eventfd(1, EFD_CLOEXEC);
	refused_add = 1;
	EXPECT_EQ(-ENOSPC, evering_group_add_fd(self->g, fd, POLLIN, NULL));
	EXPECT_EQ(-ENOENT, evering_group_remove_fd(self->g, fd));
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	close(fd);
	/* One that failed to come is as it was. */
	ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(0, send_one(self->b, 1));
	EXPECT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
}

/* ----------------------------------------------------- what others may not hold up */

/* Exactly what a send makes of an armed word, without the entry. */
static bool ring_bell(const struct evering_bell *bell)
{
	const uint64_t one = 1;

	if (bell->command)
		return ioctl(bell->fd, bell->command, EVERING_RX) >= 0;
	return write(bell->fd, &one, sizeof(one)) == sizeof(one);
}

/* Keeps the ring of @ev full, of which one entry is taken each time. */
static void keep_full(struct evering *from, struct evering *to)
{
	receive_one(to);
	send_until_full(from);
}

/* A loop that never gets to the end of what one peer sends hears the others. */
TEST_F(group, a_flood_hides_nobody_from_a_loop_of_another)
{
	int turns, i, n;
	bool told = false;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	send_until_full(self->b);
	ASSERT_EQ(1, evering_group_poll(self->g, &self->events));
	ASSERT_EQ(0, send_one(self->ev[1][1], 1));
	for (turns = 0; turns < 100 && !told; turns++) {
		keep_full(self->b, self->a);
		n = evering_group_poll(self->g, &self->events);
		ASSERT_LE(1, n);
		for (i = 0; i < n; i++)
			told |= self->events[i].ev == self->ev[1][0];
	}
	EXPECT_TRUE(told);
	/* To arm is no different. */
	ASSERT_EQ(1, receive_one(self->ev[1][0]));
	evering_close(self->ev[2][1]);
	self->ev[2][1] = NULL;
	told = false;
	for (turns = 0; turns < 200 && !told; turns++) {
		keep_full(self->b, self->a);
		ASSERT_EQ(1, evering_group_arm(self->g));
		n = evering_group_poll(self->g, &self->events);
		for (i = 0; i < n; i++)
			told |= self->events[i].what == EVERING_GROUP_GONE;
	}
	EXPECT_TRUE(told);
}

/* The channel is found to have ended when something is sent. */
TEST_F(group, an_end_is_told_beside_a_flood)
{
	bool told = false;
	int turns, i, n;

	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0,
		  evering_group_add(self->g, self->ev[1][0], EVERING_RX, NULL));
	for (turns = 0; turns < 10; turns++) {
		keep_full(self->ev[1][1], self->ev[1][0]);
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
	}
	send_until_full(self->a);
	evering_store_release(&own_half(self->b)->released, 12345);
	ASSERT_EQ(-EPROTO, send_one(self->a, 1));
	for (turns = 0; turns < 200 && !told; turns++) {
		keep_full(self->ev[1][1], self->ev[1][0]);
		n = evering_group_wait(self->g, &self->events, PLENTY);
		for (i = 0; i < n; i++)
			told |= self->events[i].what == EVERING_GROUP_GONE;
	}
	EXPECT_TRUE(told);
}

/* One that has broken the rules, and sends on and on, is told of all the same. */
TEST_F(group, an_end_is_told_of_one_that_floods_on)
{
	int turns, gone = 0;

	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	send_until_full(self->a);
	evering_store_release(&own_half(self->b)->released, 12345);
	ASSERT_EQ(-EPROTO, send_one(self->a, 1));
	for (turns = 0; turns < 100 && !gone; turns++) {
		keep_full(self->b, self->a);
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		if (self->events[0].what == EVERING_GROUP_GONE) {
			EXPECT_EQ(-EPROTO, self->events[0].result);
			gone++;
		}
	}
	EXPECT_EQ(1, gone);
}

struct meeting {
	int fd;
	struct evering_params p;
	struct evering *ev;
	int result;
};

static void *connect_there(void *arg)
{
	struct meeting *m = arg;

	m->result = evering_connect_fd(m->fd, &m->p, PLENTY, &m->ev);
	return NULL;
}

/* One that says it is gone, and sends on and on: what a ring holds was sent before. */
TEST_F(group, one_that_is_gone_cannot_flood_on)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct meeting m = { .p = self->p };
	int sv[2], still, turns, gone = 0;
	struct evering *ev;
	pthread_t thread;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "the kernel says who is gone");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	still = dup(sv[1]);
	m.fd = sv[1];
	ASSERT_EQ(0, pthread_create(&thread, NULL, connect_there, &m));
	ASSERT_EQ(0, evering_accept_fd(sv[0], &limits, PLENTY, &ev));
	pthread_join(thread, NULL);
	ASSERT_EQ(0, m.result);
	ASSERT_EQ(0, evering_group_add(self->g, ev, EVERING_RX, NULL));
	ASSERT_EQ(0, all_cold(self->g));
	send_until_full(m.ev);
	ASSERT_EQ(0, shutdown(still, SHUT_RDWR));
	for (turns = 0; turns < 100 && !gone; turns++) {
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		if (self->events[0].what == EVERING_GROUP_GONE) {
			gone++;
			break;
		}
		ASSERT_LE(0, receive_one(ev));
		/* The next entry, by hand: its library knows better. */
		evering_store_release(
			(uint32_t *)(m.ev->tx.slots + 64 * (turns % 16) + 60),
			(uint32_t)turns + 17);
	}
	EXPECT_EQ(1, gone);
	/* Nothing of what was there before is lost. */
	EXPECT_LE(16, turns);
	evering_close(m.ev);
	evering_close(ev);
	close(still);
}

/* Of what was told nothing is heard any more, though its peer rings on. */
TEST_F(group, one_that_was_told_of_wakes_nobody)
{
	struct evering_bell bell;
	int i, n;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(1, evering_flush_begin(self->b, &bell));
	send_until_full(self->a);
	evering_store_release(&own_half(self->b)->released, 12345);
	ASSERT_EQ(-EPROTO, send_one(self->a, 1));
	ASSERT_EQ(0, evering_group_want(self->g, self->a, EVERING_RX));
	ASSERT_EQ(0, evering_group_want(self->g, self->a, 0));
	n = evering_group_wait(self->g, &self->events, PLENTY);
	ASSERT_EQ(1, n);
	ASSERT_EQ(EVERING_GROUP_GONE, self->events[0].what);
	EXPECT_FALSE(is_armed(self->b));
	ASSERT_EQ(0, evering_group_poll(self->g, &self->events));
	ASSERT_FALSE(readable(evering_group_fd(self->g), 0));
	for (i = 0; i < 3; i++) {
		ASSERT_TRUE(ring_bell(&bell));
		EXPECT_FALSE(readable(evering_group_fd(self->g), 0));
	}
	/* Nor when it goes. */
	evering_close(self->b);
	self->ev[0][1] = NULL;
	EXPECT_FALSE(readable(evering_group_fd(self->g), 0));
	ASSERT_EQ(0, send_one(self->ev[1][1], 1));
	EXPECT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
}

/* ------------------------------------------------------ armed, rung, armed anew */

/* One that was armed, and rung, before it came. */
TEST_F(group, one_that_was_armed_before_it_came_is_heard)
{
	int lap;

	for (lap = 0; lap < 4; lap++) {
		ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
		ASSERT_EQ(0, send_one(self->b, 1));
		ASSERT_EQ(1, receive_one(self->a));
		ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX,
					       NULL));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(0, send_one(self->b, 2));
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(2, receive_one(self->a));
		ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	}
}

/* A wait for entries leaves it armed for space, and rung for that. */
TEST_F(group, one_that_is_waited_on_is_heard_in_the_other_role)
{
	uint32_t value;
	int lap;

	ASSERT_EQ(0, evering_group_add(self->g, self->a,
				       EVERING_RX | EVERING_TX, NULL));
	for (lap = 0; lap < 4; lap++) {
		send_until_full(self->a);
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(-ETIMEDOUT, evering_recv(self->a, &value, 4, MSEC));
		/* Space, for which it is rung, and which is used. */
		while (receive_one(self->b) >= 0)
			;
		send_until_full(self->a);
		ASSERT_EQ(0, all_cold(self->g));
		while (receive_one(self->b) >= 0)
			;
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(EVERING_TX, self->events[0].what);
	}
}

/* -------------------------------------------------------- tables of operations */

struct two_tables {
	struct evering_ops *server, *client;
	int done;
	int result;
	struct evering_group *g;
	struct evering *leaves;
};

static void note_done(struct evering_ops *ops,
		      const struct evering_completion *c)
{
	struct two_tables *t = c->user;

	(void)ops;
	t->done++;
	t->result = c->result;
	if (t->leaves)
		evering_group_remove(t->g, t->leaves);
}

/* Of a pair that is no member yet; none of them has a callback for requests. */
static int open_tables(struct two_tables *t, struct evering *ev[2])
{
	int ret = evering_ops_open(ev[0], NULL, &t->client);

	if (!ret)
		ret = evering_ops_open(ev[1], NULL, &t->server);
	if (!ret)
		ret = evering_ops_poll(t->client);
	return ret < 0 ? ret : evering_ops_poll(t->server) < 0;
}

static int ask(struct two_tables *t, int64_t timeout_ns)
{
	struct evering_op op = { .opcode = 1,
				 .done = note_done,
				 .user = t,
				 .timeout_ns = timeout_ns };

	return evering_op_submit(t->client, &op, NULL, EVERING_NOWAIT);
}

/* Until there is nothing to do. */
static int poll_table(struct evering_group *g, struct evering_ops *ops)
{
	const struct evering_group_event *events;
	int n, i;

	for (i = 0; i < 100; i++) {
		n = evering_group_poll(g, &events);
		if (n <= 0)
			return n;
		evering_ops_poll(ops);
	}
	return i;
}

/* What it has sent behind the entry that was one too many is nobody's. */
TEST_F(group, a_table_that_has_ended_is_told_of_whatever_is_in_the_ring)
{
	struct evering_ops *ops;
	int i, n, gone = 0;

	ASSERT_EQ(0, evering_ops_open(self->a, NULL, &ops));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, ops));
	send_until_full(self->b);
	for (i = 0; i < 8 && !gone; i++) {
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_EQ(1, n);
		if (self->events[0].what == EVERING_GROUP_GONE) {
			EXPECT_EQ(-EPROTO, self->events[0].result);
			gone++;
		}
		EXPECT_EQ(-EPROTO, evering_ops_poll(ops));
		send_until_full(self->b);
	}
	EXPECT_EQ(1, gone);
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
}

/* A time limit of one that nothing is wanted of wakes nobody, until something is. */
TEST_F(group, time_limits_go_with_what_is_wanted)
{
	static struct two_tables t;
	int lap;

	ASSERT_EQ(0, open_tables(&t, self->ev[0]));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0, poll_table(self->g, t.client));
	for (lap = 1; lap <= 3; lap++) {
		ASSERT_EQ(0, evering_group_want(self->g, self->a, 0));
		ASSERT_EQ(0, ask(&t, MSEC));
		ASSERT_EQ(0, all_cold(self->g));
		EXPECT_EQ(EVERING_WAIT_FOREVER, evering_group_timeout(self->g));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_group_wait(self->g, &self->events, QUIET));
		EXPECT_EQ(EVERING_WAIT_FOREVER, evering_group_timeout(self->g));
		ASSERT_EQ(0, evering_group_want(self->g, self->a, EVERING_RX));
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		EXPECT_EQ(EVERING_RX, self->events[0].what);
		ASSERT_LE(0, evering_ops_poll(t.client));
		EXPECT_EQ(lap, t.done);
		EXPECT_EQ(-ETIMEDOUT, t.result);
	}
}

/* Nor are they for the one whose peer never stops. */
TEST_F(group, time_limits_are_told_beside_a_flood)
{
	static struct two_tables t;
	int turns, i, n;

	ASSERT_EQ(0, open_tables(&t, self->ev[0]));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0,
		  evering_group_add(self->g, self->ev[1][0], EVERING_RX, NULL));
	ASSERT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	ASSERT_EQ(0, ask(&t, MSEC));
	sleep_ns(2 * MSEC);
	for (turns = 0; turns < 200 && !t.done; turns++) {
		keep_full(self->ev[1][1], self->ev[1][0]);
		n = evering_group_wait(self->g, &self->events, PLENTY);
		for (i = 0; i < n; i++)
			if (self->events[i].ev == self->a)
				ASSERT_LE(0, evering_ops_poll(t.client));
	}
	EXPECT_EQ(1, t.done);
}

/* Callbacks are called by the caller's own calls, and so may do what they like. */
TEST_F(group, a_group_calls_no_callbacks)
{
	static struct two_tables t;
	int n, i, gone = 0;

	ASSERT_EQ(0, open_tables(&t, self->ev[0]));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0, ask(&t, 0));
	t.g = self->g;
	t.leaves = self->a;
	evering_close(self->b);
	self->ev[0][1] = NULL;
	/* So that it is this side that knows, before the set has told. */
	ASSERT_EQ(EVERING_PEER_CLOSED, evering_peer(self->a));
	for (i = 0; i < 4 && !gone; i++) {
		n = evering_group_poll(self->g, &self->events);
		ASSERT_EQ(0, t.done);
		ASSERT_EQ(1, n);
		if (self->events[0].what == EVERING_GROUP_GONE)
			gone++;
		else
			ASSERT_EQ(EVERING_RX, self->events[0].what);
		if (!gone)
			receive_one(self->a);
	}
	EXPECT_EQ(1, gone);
	EXPECT_EQ(-EPIPE, evering_ops_poll(t.client));
	EXPECT_EQ(1, t.done);
	EXPECT_EQ(-EPIPE, t.result);
	EXPECT_EQ(0, self->events[0].what);
	EXPECT_EQ(-ENOENT, evering_group_remove(self->g, self->a));
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
}

/* Space is told of, if it is wanted, beside a table as well. */
TEST_F(group, space_is_waited_for_beside_a_table)
{
	struct evering_ops *ops;
	int lap;

	ASSERT_EQ(0, evering_ops_open(self->a, NULL, &ops));
	ASSERT_EQ(0, evering_group_add(self->g, self->a,
				       EVERING_RX | EVERING_TX, ops));
	for (lap = 0; lap < 3; lap++) {
		send_until_full(self->a);
		ASSERT_EQ(0, all_cold(self->g));
		while (receive_one(self->b) >= 0)
			;
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		EXPECT_EQ(EVERING_TX, self->events[0].what);
	}
}

/* A caller that was refused while the member slept is told when there is room. */
TEST_F(group, room_is_told_of_to_one_that_was_refused)
{
	static struct two_tables t;
	int n = 0;

	ASSERT_EQ(0, open_tables(&t, self->ev[0]));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(0, poll_table(self->g, t.client));
	while (!ask(&t, 0))
		n++;
	ASSERT_LE(1, n);
	ASSERT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_TRUE(evering_load_acquire(self->b->rx.armed) & EVERING_ARMED);
	/* Taken, and not answered. */
	ASSERT_LE(0, evering_ops_poll(t.server));
	evering_publish(self->b);
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(EVERING_RX, self->events[0].what);
}

/* Requests that came before anybody took any are told of when somebody does. */
TEST_F(group, requests_are_told_of_to_one_that_begins_to_take_them)
{
	static struct two_tables t;
	struct evering_request request;
	int i;

	ASSERT_EQ(0, open_tables(&t, self->ev[0]));
	ASSERT_EQ(0, evering_group_add(self->g, self->b, EVERING_RX, NULL));
	ASSERT_EQ(0, poll_table(self->g, t.server));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, ask(&t, 0));
	evering_ops_flush(t.client);
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	ASSERT_EQ(0, poll_table(self->g, t.server));
	for (i = 0; i < 3; i++) {
		if (i)
			ASSERT_EQ(1, evering_group_wait(self->g, &self->events,
							PLENTY));
		ASSERT_EQ(0,
			  evering_op_next(t.server, &request, EVERING_NOWAIT));
	}
	EXPECT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
}

/* -------------------------------------------------------------------------- fork */

TEST_F(group, a_child_may_only_close_it)
{
	pid_t pid;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	fflush(NULL);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		const struct evering_group_event *events;
		int i, bad = 0;

		bad += evering_group_wait(self->g, &events, 0) != -EINVAL;
		bad += evering_group_poll(self->g, &events) != -EINVAL;
		bad += evering_group_arm(self->g) != -EINVAL;
		bad += evering_group_fd(self->g) != -EINVAL;
		bad += evering_group_wake(self->g) != -EINVAL;
		bad += evering_group_remove(self->g, self->a) != -EINVAL;
		bad += evering_group_want(self->g, self->a, 0) != -EINVAL;
		bad += evering_group_add(self->g, self->b, 0, NULL) != -EINVAL;
		bad += evering_group_add_fd(self->g, 0, POLLIN, NULL) !=
		       -EINVAL;
		bad += evering_group_remove_fd(self->g, 0) != -EINVAL;
		for (i = 0; i < MANY / 2; i++)
			evering_close(self->ev[i][0]);
		evering_group_close(self->g);
		_exit(bad);
	}
	EXPECT_EQ(0, reap(pid));
	/* The parent's is as it was. */
	ASSERT_FALSE(readable(evering_group_fd(self->g), 0));
	ASSERT_EQ(0, send_one(self->b, 1));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(self->a, self->events[0].ev);
}

TEST_HARNESS_MAIN
