// SPDX-License-Identifier: MIT
/*
 * ring.c: what goes into a ring comes out, once, in order and unharmed, for every
 * slot size and ring size, through every pair of calls, and across the wrap of the
 * entry counter.  Both endpoints are in one thread here, so nothing waits; waking
 * is doorbell.c's.
 *
 * Tests of ring_peer do not care who takes what they send and who sends what they take: with
 * a kernel module as the peer, what was sent comes back, and only that is waited for.
 */
#include "peer.h"

FIXTURE(ring)
{
	struct evering_params p;
	struct evering *ev[2];
	struct evering *a, *b;
};

BACKEND_VARIANTS(ring);

FIXTURE_SETUP(ring)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 4096);
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(ring)
{
	close_pair(self->ev);
}

static int remake(FIXTURE_DATA(ring) * self, uint32_t slot, uint32_t entries)
{
	int ret;

	close_pair(self->ev);
	self->p.slot_size = slot;
	self->p.entries = entries;
	ret = evering_pair(&self->p, self->ev);
	self->a = self->ev[0];
	self->b = self->ev[1];
	return ret;
}

/* The same for tests whose peer can be a module; then both names mean this side. */
FIXTURE(ring_peer)
{
	struct evering_params p;
	struct evering *ev[2];
	struct evering *a, *b;
	bool echo;
	int64_t patience; /* with what the other one sends */
};

PEER_VARIANTS(ring_peer);

static int meet(FIXTURE_DATA(ring_peer) * self, uint32_t slot, uint32_t entries)
{
	int ret;

	close_pair(self->ev);
	self->p.slot_size = slot;
	self->p.entries = entries;
	ret = self->echo ? echo_open(&self->p, 0, 0, &self->ev[0]) :
			   evering_pair(&self->p, self->ev);
	self->a = self->ev[0];
	self->b = self->ev[!self->echo];
	return ret;
}

FIXTURE_SETUP(ring_peer)
{
	REQUIRE_BACKEND(variant->backend);
	self->echo = variant->echo;
	self->patience = self->echo ? PLENTY : EVERING_NOWAIT;
	self->p = params_sized(variant->backend, 64, 16, 4096);
	ASSERT_EQ(0, meet(self, 64, 16));
}

FIXTURE_TEARDOWN(ring_peer)
{
	close_pair(self->ev);
}

/* Has @ev tell what it released lazily, as before a sleep. */
static void publish(struct evering *ev)
{
	evering_arm(ev, EVERING_RX);
	evering_disarm(ev, EVERING_RX);
}

/*
 * Sends and receives @total entries in bursts of random length, all checked; each is there
 * after @patience at the latest.
 */
static uint32_t stream_to(struct evering *a, struct evering *b,
			  int64_t patience, uint32_t first, uint32_t total,
			  uint64_t *rng)
{
	size_t len = evering_payload(a);
	uint32_t entries = a->tx.mask + 1;
	uint32_t sent = 0, received = 0, burst;
	uint32_t buf[64];

	while (received < total) {
		burst = (uint32_t)random_below(rng, entries + 2);
		while (burst-- && sent < total) {
			fill_entry(buf, len, first + sent, 7);
			if (evering_send(a, buf, len, EVERING_NOWAIT))
				break;
			sent++;
		}
		burst = (uint32_t)random_below(rng, entries + 2);
		while (burst-- && received < sent) {
			if (evering_recv(b, buf, len, patience) ||
			    !check_entry(buf, len, first + received, 7))
				return received;
			received++;
		}
		if (received == sent &&
		    evering_recv(b, buf, len, EVERING_NOWAIT) != -EAGAIN)
			return received;
	}
	return received;
}

static uint32_t stream(struct evering *a, struct evering *b, uint32_t first,
		       uint32_t total, uint64_t *rng)
{
	return stream_to(a, b, EVERING_NOWAIT, first, total, rng);
}

/* Each entry to a module may be a system call. */
TEST_F(ring_peer, order_and_content_hold_for_every_size)
{
	uint32_t slot, entries, total, most = self->echo ? 1024 : 4096;
	uint64_t rng = random_seed();

	for (slot = 16; slot <= 256; slot *= 2)
		for (entries = 4; entries <= most; entries *= 4) {
			ASSERT_EQ(0, meet(self, slot, entries));
			total = (self->echo ? 4 : 20) * entries + 3;
			ASSERT_EQ(total,
				  stream_to(self->a, self->b, self->patience, 0,
					    total, &rng))
			{
				TH_LOG("A to B, %u x %u", entries, slot);
			}
			ASSERT_EQ(total,
				  stream_to(self->b, self->a, self->patience, 0,
					    total, &rng))
			{
				TH_LOG("B to A, %u x %u", entries, slot);
			}
		}
}

TEST_F(ring, the_two_directions_do_not_disturb_each_other)
{
	uint32_t out = 1, in = 2, i;

	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, evering_send(self->a, &out, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_send(self->b, &in, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->a, &in, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &out, 4, EVERING_NOWAIT));
		ASSERT_EQ(1u, out);
		ASSERT_EQ(2u, in);
	}
}

TEST_F(ring, empty_says_again_and_full_says_again)
{
	uint32_t slot, i, n;
	char buf[256] = "";

	for (slot = 16; slot <= 256; slot *= 2) {
		ASSERT_EQ(0, remake(self, slot, 8));
		for (i = 0; i < 30; i++) {
			EXPECT_EQ(-EAGAIN, evering_recv(self->b, buf, 1,
							EVERING_NOWAIT));
			EXPECT_EQ(NULL, evering_peek(self->b));
			for (n = 0; n < 8; n++)
				ASSERT_EQ(0, evering_send(self->a, buf, 4,
							  EVERING_NOWAIT));
			EXPECT_EQ(-EAGAIN, evering_send(self->a, buf, 4,
							EVERING_NOWAIT));
			EXPECT_EQ(NULL, evering_reserve(self->a));
			for (n = 0; n < 8; n++)
				ASSERT_EQ(0, evering_recv(self->b, buf, 4,
							  EVERING_NOWAIT));
		}
	}
}

TEST_F(ring, the_whole_ring_can_be_used)
{
	uint32_t i, k, v;

	/* Wherever the ring begins, all of its slots hold an entry at once. */
	for (k = 0; k < 40; k++) {
		publish(self->b);
		for (i = 0; i < 16; i++)
			ASSERT_EQ(0,
				  evering_send(self->a, &i, 4, EVERING_NOWAIT))
			{
				TH_LOG("lap %u, entry %u", k, i);
			}
		ASSERT_EQ(NULL, evering_reserve(self->a));
		for (i = 0; i < 16; i++)
			ASSERT_EQ(0,
				  evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &i, 4, EVERING_NOWAIT));
	}
}

TEST_F(ring_peer, too_long_is_refused_and_nothing_is_sent)
{
	char buf[512];
	uint32_t slot;

	memset(buf, 'z', sizeof(buf));
	for (slot = 16; slot <= 256; slot *= 2) {
		ASSERT_EQ(0, meet(self, slot, 4));
		EXPECT_EQ(-EMSGSIZE, evering_send(self->a, buf, slot - 3, 0));
		EXPECT_EQ(-EMSGSIZE, evering_send(self->a, buf, slot, 0));
		EXPECT_EQ(-EMSGSIZE, evering_send(self->a, buf, SIZE_MAX, 0));
		EXPECT_EQ(-EMSGSIZE,
			  evering_send_bulk(self->a, buf, slot - 3, 1, 0));
		EXPECT_EQ(NULL, evering_peek(self->b));
		EXPECT_EQ(0, evering_send(self->a, buf, slot - 4, 0));
		EXPECT_EQ(EVERING_RX,
			  evering_wait(self->b, EVERING_RX, self->patience));
		EXPECT_EQ(-EMSGSIZE, evering_recv(self->b, buf, slot - 3, 0));
		EXPECT_EQ(-EMSGSIZE,
			  evering_recv_bulk(self->b, buf, slot, 1, 0));
		EXPECT_NE(NULL, evering_peek(self->b));
		EXPECT_EQ(0, evering_recv(self->b, buf, slot - 4, 0));
	}
}

TEST_F(ring_peer, short_entries_leave_the_rest_of_the_slot_and_of_the_buffer)
{
	char in[60], out[60];

	memset(out, 'o', sizeof(out));
	memset(in, 'i', sizeof(in));
	ASSERT_EQ(0, evering_send(self->a, out, 60, 0));
	ASSERT_EQ(0, evering_recv(self->b, in, 10, self->patience));
	EXPECT_EQ('o', in[9]);
	EXPECT_EQ('i', in[10]);
	EXPECT_EQ(0, evering_send(self->a, out, 0, 0));
	EXPECT_EQ(0, evering_recv(self->b, in, 0, self->patience));
}

TEST_F(ring, bulk_sends_what_fits_and_receives_what_is_there)
{
	uint32_t out[40 * 3], in[40 * 3], i;
	struct evering_counters c;

	for (i = 0; i < 40; i++)
		fill_entry(out + 3 * i, 12, i, 1);
	EXPECT_EQ(-EINVAL, evering_send_bulk(self->a, out, 12, 0, 0));
	EXPECT_EQ(-EINVAL, evering_send_bulk(self->a, out, 12, 1u << 31, 0));
	EXPECT_EQ(-EINVAL, evering_recv_bulk(self->b, in, 12, 0, 0));
	EXPECT_EQ(-EAGAIN, evering_recv_bulk(self->b, in, 12, 40, 0));
	EXPECT_EQ(1, evering_send_bulk(self->a, out, 12, 1, 0));
	EXPECT_EQ(1, evering_recv_bulk(self->b, in, 12, 40, 0));
	publish(self->b);
	EXPECT_EQ(16, evering_send_bulk(self->a, out, 12, 40, 0));
	EXPECT_EQ(-EAGAIN, evering_send_bulk(self->a, out, 12, 40, 0));
	EXPECT_EQ(5, evering_recv_bulk(self->b, in, 12, 5, 0));
	EXPECT_EQ(11, evering_recv_bulk(self->b, in + 15, 12, 40, 0));
	for (i = 0; i < 16; i++)
		EXPECT_TRUE(check_entry(in + 3 * i, 12, i, 1));
	EXPECT_EQ(16, evering_send_bulk(self->a, out, 12, 16, 0));

	/* One ring for all of them, if the peer sleeps. */
	while (evering_recv(self->b, in, 4, 0) == 0)
		;
	evering_get_counters(self->a, EVERING_MINE, &c);
	i = (uint32_t)c.tx_rings;
	EXPECT_EQ(0, evering_arm(self->b, EVERING_RX));
	EXPECT_EQ(16, evering_send_bulk(self->a, out, 12, 16, 0));
	evering_get_counters(self->a, EVERING_MINE, &c);
	EXPECT_EQ(i + 1, (uint32_t)c.tx_rings);
}

TEST_F(ring_peer, reserved_places_are_stable_until_committed)
{
	uint32_t *place[16], *again;
	uint32_t k, lap, in[15];

	for (lap = 0; lap < 10; lap++) {
		publish(self->b);
		/* What was received is about to be released, if the peer is a module. */
		ASSERT_TRUE(EVENTUALLY(evering_reserve_at(self->a, 15)));
		for (k = 0; k < 16; k++) {
			place[k] = evering_reserve_at(self->a, k);
			ASSERT_NE(NULL, place[k]);
			EXPECT_EQ(0u, (uintptr_t)place[k] % 64);
			fill_entry(place[k], 60, k, lap);
		}
		EXPECT_EQ(NULL, evering_reserve_at(self->a, 16));
		EXPECT_EQ(NULL, evering_reserve_at(self->a, UINT32_MAX));
		for (k = 16; k--;) {
			again = evering_reserve_at(self->a, k);
			EXPECT_EQ(place[k], again);
		}
		EXPECT_EQ(place[0], evering_reserve(self->a));
		EXPECT_EQ(NULL, evering_peek(self->b));
		evering_commit_many(self->a, 5);
		EXPECT_EQ(place[5], evering_reserve(self->a));
		evering_flush(self->a);
		EXPECT_TRUE(EVENTUALLY(evering_peek_at(self->b, 4)));
		EXPECT_EQ(NULL, evering_peek_at(self->b, 5));
		evering_commit_many(self->a, 0);
		evering_commit_many(self->a, 11);
		evering_flush(self->a);
		for (k = 0; k < 16; k++) {
			ASSERT_EQ(0, evering_recv(self->b, in, 60,
						  self->patience));
			EXPECT_TRUE(check_entry(in, 60, k, lap));
		}
		/* Another first slot for the next lap. */
		ASSERT_EQ(0, evering_send(self->a, in, 4, 0));
		ASSERT_EQ(0, evering_recv(self->b, in, 4, self->patience));
	}
}

TEST_F(ring_peer, peeked_entries_are_stable_until_released)
{
	const uint32_t *seen[16];
	uint32_t k, out[15];

	for (k = 0; k < 16; k++) {
		fill_entry(out, 60, k, 3);
		ASSERT_EQ(0, evering_send(self->a, out, 60, 0));
	}
	for (k = 0; k < 16; k++) {
		ASSERT_TRUE(EVENTUALLY(seen[k] = evering_peek_at(self->b, k)));
		EXPECT_TRUE(check_entry(seen[k], 60, k, 3));
	}
	EXPECT_EQ(NULL, evering_peek_at(self->b, 16));
	EXPECT_EQ(seen[0], evering_peek(self->b));
	evering_release(self->b);
	EXPECT_EQ(seen[1], evering_peek(self->b));
	evering_release_many(self->b, 7);
	EXPECT_EQ(seen[8], evering_peek(self->b));
	evering_release_many(self->b, 0);

	/* What was released may be reused, the rest is as it was. */
	while (evering_send(self->a, "\377\377\377\377", 4, 0) == 0)
		;
	for (k = 8; k < 16; k++)
		EXPECT_TRUE(check_entry(seen[k], 60, k, 3));
}

TEST_F(ring, the_entry_counter_wraps)
{
	uint64_t rng = random_seed();
	uint32_t slot, entries, back;

	for (slot = 16; slot <= 256; slot *= 2)
		for (entries = 4; entries <= 1024; entries *= 4)
			for (back = 0; back < 3; back++) {
				uint32_t first = 0u - back * entries - back;

				ASSERT_EQ(0, remake(self, slot, entries));
				start_at(self->a, self->b, first);
				ASSERT_EQ(8 * entries,
					  stream(self->a, self->b, first,
						 8 * entries, &rng))
				{
					TH_LOG("A to B, %u x %u from %#x",
					       entries, slot, first);
				}
				start_at(self->b, self->a, first);
				ASSERT_EQ(8 * entries,
					  stream(self->b, self->a, first,
						 8 * entries, &rng))
				{
					TH_LOG("B to A, %u x %u from %#x",
					       entries, slot, first);
				}
			}
}

TEST_F(ring, the_counter_wraps_with_the_largest_ring)
{
	uint64_t rng = random_seed();
	uint32_t first = 0u - 70000;

	ASSERT_EQ(0, remake(self, 16, EVERING_MAX_ENTRIES));
	start_at(self->a, self->b, first);
	ASSERT_EQ(300000u, stream(self->a, self->b, first, 300000, &rng));
}

TEST_F(ring, full_and_empty_hold_at_the_wrap)
{
	uint32_t first, i, v;

	for (first = 0u - 20; first != 4; first++) {
		ASSERT_EQ(0, remake(self, 64, 16));
		start_at(self->a, self->b, first);
		EXPECT_EQ(NULL, evering_peek(self->b));
		EXPECT_EQ(NULL, evering_reserve_at(self->a, 16));
		for (i = 0; i < 16; i++)
			ASSERT_EQ(0, evering_send(self->a, &i, 4, 0));
		EXPECT_EQ(-EAGAIN, evering_send(self->a, &i, 4, 0));
		EXPECT_EQ(EVERING_RX,
			  (unsigned int)evering_wait(self->b, EVERING_RX, 0));
		EXPECT_EQ(-EAGAIN, evering_wait(self->a, EVERING_TX, 0));
		for (i = 0; i < 16; i++) {
			ASSERT_EQ(0, evering_recv(self->b, &v, 4, 0));
			EXPECT_EQ(i, v);
		}
		EXPECT_EQ(-EAGAIN, evering_recv(self->b, &v, 4, 0));
		EXPECT_EQ(EVERING_TX,
			  (unsigned int)evering_wait(self->a, EVERING_TX, 0));
	}
}

TEST_F(ring, a_release_of_many_across_the_wrap_is_published)
{
	uint32_t first, count, k;

	for (first = 0u - 40; first != 8; first++)
		for (count = 4; count <= 16; count += 4) {
			ASSERT_EQ(0, remake(self, 64, 16));
			start_at(self->a, self->b, first);
			while (evering_reserve(self->a))
				evering_commit(self->a);
			for (k = 0; k < count; k++)
				ASSERT_NE(NULL, evering_peek_at(self->b, k));
			evering_release_many(self->b, count);
			for (k = 0; k < count; k++)
				ASSERT_EQ(0, evering_send(self->a, &k, 4, 0))
				{
					TH_LOG("%u of %u from %#x", k, count,
					       first);
				}
			ASSERT_EQ(NULL, evering_reserve(self->a));
		}
}

TEST_F(ring, what_was_done_with_is_published_each_quarter_ring_and_no_oftener)
{
	const uint32_t *released;
	uint32_t i, v, seen = 0, changes = 0, lag_max = 0;

	ASSERT_EQ(0, remake(self, 64, 64));
	released = &peer_half(self->a)->released;
	for (i = 0; i < 6400; i++) {
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		v = evering_load_acquire(released);
		lag_max = max_of(lag_max, i + 1 - v);
		if (v != seen)
			changes++;
		seen = v;
	}
	EXPECT_LE(lag_max, 16u);
	/* 16 entries a time: 400 in all.  Leave room for half of that distance. */
	EXPECT_LE(changes, 800u);
	EXPECT_GE(changes, 400u);
	printf("# published every %u entries of 64\n", 6400 / changes);
}

TEST_F(ring, a_producer_that_wants_space_is_told_of_each_release)
{
	uint32_t i, v;

	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
	for (i = 16; i < 200; i++) {
		ASSERT_EQ(0, evering_arm(self->a, EVERING_TX));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		EXPECT_EQ(i - 16, v);
		EXPECT_EQ(i - 15,
			  evering_load_acquire(&peer_half(self->a)->released));
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
	}
}

TEST_F(ring, what_was_done_with_is_published_before_a_sleep)
{
	uint32_t v = 1;

	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_wait(self->b, EVERING_RX, MSEC));
	EXPECT_EQ(1u, evering_load_acquire(&peer_half(self->a)->released));
	ASSERT_EQ(0, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_arm(self->b, EVERING_RX));
	EXPECT_EQ(2u, evering_load_acquire(&peer_half(self->a)->released));
}

TEST_F(ring, counters_follow_within_a_ring)
{
	struct evering_counters c;
	uint32_t i, v;

	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	}
	evering_get_counters(self->a, EVERING_MINE, &c);
	EXPECT_LE(c.tx_entries, 1000u);
	EXPECT_GE(c.tx_entries, 1000u - 16);
	EXPECT_EQ(0u, c.tx_sleeps);
	EXPECT_EQ(0u, c.tx_rings);
	EXPECT_EQ(0u, c.rx_entries);
	evering_get_counters(self->a, EVERING_PEERS, &c);
	EXPECT_LE(c.rx_entries, 1000u);
	EXPECT_GE(c.rx_entries, 1000u - 16);
	EXPECT_EQ(0u, c.rx_sleeps);
	evering_get_counters(self->b, EVERING_MINE, &c);
	EXPECT_GE(c.rx_entries, 1000u - 16);

	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->b, &v, 4, MSEC));
	evering_get_counters(self->b, EVERING_MINE, &c);
	EXPECT_EQ(1u, c.rx_sleeps);
	EXPECT_EQ(1000u, c.rx_entries);
	EXPECT_GE(c.rx_syscalls, 1u);
	EXPECT_LE(c.rx_syscalls, 8u);
}

TEST_F(ring, no_system_call_while_there_is_work)
{
	struct evering_counters a, b;
	uint32_t i, v;

	for (i = 0; i < 5000; i++) {
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
	}
	evering_get_counters(self->a, EVERING_MINE, &a);
	evering_get_counters(self->b, EVERING_MINE, &b);
	EXPECT_EQ(0u, a.tx_syscalls);
	EXPECT_EQ(0u, a.tx_rings);
	EXPECT_EQ(0u, b.rx_syscalls);
	EXPECT_EQ(0u, b.rx_rings);
}

TEST_HARNESS_MAIN
