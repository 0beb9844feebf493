// SPDX-License-Identifier: MIT
/*
 * space.c: all the space that there is can be had.  released is published
 * seldom; that must never leave a sender waiting for slots that its peer has
 * done with, above all when the peer waits for space itself.
 */
#include "common.h"

FIXTURE(space)
{
	uint32_t backend;
};

BACKEND_VARIANTS(space);

FIXTURE_SETUP(space)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
}

FIXTURE_TEARDOWN(space)
{
}

/* One thread in both roles: takes one entry, answers it, and so on. */
static int echo(struct evering *ev, void *arg)
{
	uint32_t n;
	int ret;

	(void)arg;
	while (!(ret = evering_recv(ev, &n, sizeof(n), PLENTY))) {
		ret = evering_send(ev, &n, sizeof(n), PLENTY);
		if (ret)
			break;
	}
	return ret == -EPIPE ? 0 : 1;
}

/*
 * Both rings full, and one entry in the hands of the echo, which waits for space:
 * so many can be sent without an answer being taken, and not one less.
 */
static int flood(struct evering *ev, uint32_t entries)
{
	uint32_t n, answer;
	int ret;

	for (n = 0; n < 2 * entries + 1; n++) {
		ret = evering_send(ev, &n, sizeof(n), PLENTY);
		if (ret)
			return ret;
	}
	for (n = 0; n < 2 * entries + 1; n++) {
		ret = evering_recv(ev, &answer, sizeof(answer), PLENTY);
		if (ret)
			return ret;
		if (answer != n)
			return -EBADMSG;
	}
	return 0;
}

TEST_F_TIMEOUT(space, two_who_wait_for_space_do_not_wait_for_each_other, 120)
{
	uint32_t entries, policy, times = short_run() ? 3 : 20, i;
	struct evering_params p[2];
	struct duo duo;

	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++)
		for (entries = 4; entries <= 1024; entries *= 4) {
			p[0] = params_sized(self->backend, 16, entries, 0);
			p[0].policy = policy;
			p[1] = p[0];
			ASSERT_EQ(0, duo_start(&duo, false, p, echo, NULL));
			for (i = 0; i < times; i++)
				ASSERT_EQ(0, flood(duo.ev, entries));
			evering_close(duo.ev);
			EXPECT_EQ(0, reap(duo.pid));
		}
}

/* The same of a sender that never sleeps in the library: it only tries. */
TEST_F(space, who_only_tries_to_send_publishes_too)
{
	struct evering_params p = params_sized(self->backend, 16, 64, 0);
	uint32_t n = 0, taken;
	struct evering *ev[2];
	unsigned int i;

	ASSERT_EQ(0, evering_pair(&p, ev));
	while (!evering_send(ev[0], &n, sizeof(n), EVERING_NOWAIT))
		n++;
	ASSERT_EQ(64, n);
	while (!evering_send(ev[1], &n, sizeof(n), EVERING_NOWAIT))
		;
	/* Less than a quarter ring, so that releasing does not publish it. */
	for (taken = 0; taken < 3; taken++)
		ASSERT_EQ(0,
			  evering_recv(ev[1], &n, sizeof(n), EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, evering_send(ev[1], &n, sizeof(n), EVERING_NOWAIT));
	for (i = 0; i < taken; i++)
		EXPECT_EQ(0,
			  evering_send(ev[0], &n, sizeof(n), EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, evering_send(ev[0], &n, sizeof(n), EVERING_NOWAIT));
	close_pair(ev);
}

TEST_HARNESS_MAIN
