// SPDX-License-Identifier: MIT
/*
 * geometry.c: which channels can be made, and how those that cannot are refused:
 * slot, ring and arena sizes, flags, and a params struct of another version's
 * length.  What a channel then does is the business of the other files.
 */
#include "common.h"

FIXTURE(geometry)
{
	struct evering_params p;
	struct evering *ev[2];
};

BACKEND_VARIANTS(geometry);

FIXTURE_SETUP(geometry)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 64, 4096);
}

FIXTURE_TEARDOWN(geometry)
{
	close_pair(self->ev);
}

/* What comes of asking for *@p; leaves nothing behind. */
static int outcome(const struct evering_params *p)
{
	struct evering *ev[2] = { NULL, NULL };
	int fds = count_fds();
	int ret = evering_pair(p, ev);

	if (!ret)
		close_pair(ev);
	return count_fds() == fds ? ret : -EBADFD;
}

TEST_F(geometry, every_legal_slot_and_ring_size_carries_entries)
{
	struct evering_geometry g;
	char out[256], in[256];
	uint32_t slot, entries, i;

	memset(out, 'x', sizeof(out));
	for (slot = EVERING_MIN_SLOT; slot <= EVERING_MAX_SLOT; slot *= 2)
		for (entries = EVERING_MIN_ENTRIES;
		     entries <= EVERING_MAX_ENTRIES; entries *= 2) {
			self->p.slot_size = slot;
			self->p.entries = entries;
			ASSERT_EQ(0, evering_pair(&self->p, self->ev))
			{
				TH_LOG("%u x %u", entries, slot);
			}
			ASSERT_EQ(EVERING_A,
				  evering_get_geometry(self->ev[0], &g));
			EXPECT_EQ(slot, g.slot_size);
			EXPECT_EQ(entries, g.entries);
			ASSERT_EQ(EVERING_B,
				  evering_get_geometry(self->ev[1], &g));
			EXPECT_EQ(slot, g.slot_size);
			EXPECT_EQ(entries, g.entries);
			EXPECT_EQ(slot - 4, evering_payload(self->ev[1]));
			for (i = 0; i < entries; i++)
				if (evering_send(self->ev[0], out, slot - 4,
						 EVERING_NOWAIT))
					break;
			EXPECT_EQ(entries, i);
			EXPECT_EQ(-EAGAIN, evering_send(self->ev[0], out, 1,
							EVERING_NOWAIT));
			memset(in, 0, sizeof(in));
			EXPECT_EQ(0, evering_recv(self->ev[1], in, slot - 4,
						  EVERING_NOWAIT));
			EXPECT_EQ(0, memcmp(in, out, slot - 4));
			close_pair(self->ev);
		}
}

TEST_F(geometry, impossible_slot_sizes_are_refused)
{
	static const uint32_t impossible[] = { 0,  1,  4,  8,  12,  15, 17,
					       24, 48, 63, 65, 100, 192 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(impossible); i++) {
		self->p.slot_size = impossible[i];
		EXPECT_EQ(-EINVAL, outcome(&self->p))
		{
			TH_LOG("slot of %u bytes", impossible[i]);
		}
	}
	self->p.slot_size = 512;
	EXPECT_EQ(-E2BIG, outcome(&self->p));
	self->p.slot_size = 1u << 31;
	EXPECT_EQ(-E2BIG, outcome(&self->p));
}

TEST_F(geometry, impossible_ring_sizes_are_refused)
{
	static const uint32_t impossible[] = { 0, 1, 2,	  3,	5,
					       6, 7, 100, 1000, 65535 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(impossible); i++) {
		self->p.entries = impossible[i];
		EXPECT_EQ(-EINVAL, outcome(&self->p))
		{
			TH_LOG("%u entries", impossible[i]);
		}
	}
	self->p.entries = 2 * EVERING_MAX_ENTRIES;
	EXPECT_EQ(-E2BIG, outcome(&self->p));
	self->p.entries = 1u << 31;
	EXPECT_EQ(-E2BIG, outcome(&self->p));
}

TEST_F(geometry, impossible_arena_sizes_are_refused)
{
	static const uint64_t impossible[] = { 1,    64,   4095,
					       4097, 6144, (1 << 20) + 1 };
	size_t i;
	int k;

	for (k = 0; k < 2; k++) {
		for (i = 0; i < ARRAY_SIZE(impossible); i++) {
			self->p.arena_size[k] = impossible[i];
			EXPECT_EQ(-EINVAL, outcome(&self->p))
			{
				TH_LOG("arena of %llu bytes",
				       (unsigned long long)impossible[i]);
			}
		}
		self->p.arena_size[k] = EVERING_MAX_ARENA + PAGE;
		EXPECT_EQ(-E2BIG, outcome(&self->p));
		self->p.arena_size[k] = 1ull << 63;
		EXPECT_EQ(-E2BIG, outcome(&self->p));
		self->p.arena_size[k] = 0ull - PAGE;
		EXPECT_EQ(-E2BIG, outcome(&self->p));
		self->p.arena_size[k] = PAGE;
	}
	EXPECT_EQ(0, outcome(&self->p));
}

TEST_F(geometry, unknown_flags_and_values_are_refused)
{
	struct evering_params good = self->p;
	int bit;

	for (bit = 1; bit < 32; bit++) {
		self->p = good;
		self->p.flags = 1u << bit;
		if (self->p.flags == EVERING_POPULATE ||
		    self->p.flags == EVERING_AWAIT)
			continue;
		EXPECT_EQ(-EINVAL, outcome(&self->p))
		{
			TH_LOG("flag %d", bit);
		}
		self->p.flags |= EVERING_SHARED_ARENA;
		EXPECT_EQ(-EINVAL, outcome(&self->p));
	}
	self->p = good;
	self->p.lanes = 1;
	EXPECT_EQ(-EINVAL, outcome(&self->p));
	self->p = good;
	self->p.backend = 3;
	EXPECT_EQ(-EINVAL, outcome(&self->p));
	self->p = good;
	self->p.policy = 3;
	EXPECT_EQ(-EINVAL, outcome(&self->p));
	self->p = good;
	self->p.spin_ns = 1000001;
	EXPECT_EQ(-EINVAL, outcome(&self->p));
	self->p.spin_ns = 1000000;
	EXPECT_EQ(0, outcome(&self->p));
	self->p.spin_ns = 0;
	EXPECT_EQ(0, outcome(&self->p));
}

TEST_F(geometry, params_of_another_version_are_taken_for_what_they_are)
{
	struct {
		struct evering_params p;
		unsigned char tail[64];
	} later;
	uint32_t size;
	size_t i;

	memset(&later, 0, sizeof(later));
	later.p = self->p;
	later.p.size = sizeof(later);
	EXPECT_EQ(0, outcome(&later.p));
	for (i = 0; i < sizeof(later.tail); i++) {
		later.tail[i] = 1;
		EXPECT_EQ(-E2BIG, outcome(&later.p))
		{
			TH_LOG("tail byte %zu", i);
		}
		later.tail[i] = 0;
	}
	/* An older one's ends between two fields, and what is behind that is not read. */
	for (size = 0; size < sizeof(self->p); size++) {
		struct evering_params shorter = self->p;

		shorter.size = size;
		memset((char *)&shorter + max_of(size, 4u), 0xee,
		       sizeof(shorter) - max_of(size, 4u));
		EXPECT_EQ(size >= 8 && size % sizeof(void *) == 0 ? 0 : -EINVAL,
			  outcome(&shorter))
		{
			TH_LOG("size %u", size);
		}
	}
}

/* However much of it is zero: whoever looks through it is done some time. */
TEST_F(geometry, params_longer_than_any_are_refused)
{
	static union {
		struct evering_params p;
		unsigned char all[65537];
	} u;

	u.p = self->p;
	u.p.size = 65536;
	EXPECT_EQ(0, outcome(&u.p));
	u.p.size = 65537;
	EXPECT_EQ(-E2BIG, outcome(&u.p));
}

TEST_F(geometry, an_empty_name_of_a_backend_is_none)
{
	struct evering_params p = params_on(EVERING_BACKEND_AUTO);

	setenv("EVERING_BACKEND", "", 1);
	EXPECT_EQ(0, outcome(&p));
	setenv("EVERING_BACKEND", "neither", 1);
	EXPECT_EQ(-EINVAL, outcome(&p));
}

TEST_F(geometry, no_params_mean_the_defaults)
{
	struct evering_params init = EVERING_PARAMS_INIT;
	struct evering_geometry g;

	setenv("EVERING_BACKEND",
	       variant->backend == EVERING_BACKEND_DEVICE ? "device" : "memfd",
	       1);
	ASSERT_EQ(0, evering_pair(NULL, self->ev));
	EXPECT_EQ(EVERING_A, evering_get_geometry(self->ev[0], &g));
	EXPECT_EQ(init.slot_size, g.slot_size);
	EXPECT_EQ(init.entries, g.entries);
	EXPECT_EQ(init.arena_size[0], g.arena_size[EVERING_A]);
	EXPECT_EQ(init.arena_size[1], g.arena_size[EVERING_B]);
	EXPECT_EQ(0u, g.flags);
	EXPECT_STREQ(getenv("EVERING_BACKEND"),
		     evering_backend_name(self->ev[0]));
}

TEST_F(geometry, a_channel_needs_no_arena)
{
	uint64_t size = 1;
	char c = 'c';

	self->p.arena_size[0] = 0;
	self->p.arena_size[1] = 0;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	EXPECT_EQ(NULL, evering_arena(self->ev[0], &size));
	EXPECT_EQ(0u, size);
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], 1, 0));
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], 0, 1));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], &c));
	EXPECT_EQ(0, evering_free(self->ev[0], NULL));
	EXPECT_EQ(0, evering_send(self->ev[0], &c, 1, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_recv(self->ev[1], &c, 1, EVERING_NOWAIT));
}

TEST_F(geometry, arenas_may_differ)
{
	struct evering_geometry g;
	uint64_t size;

	self->p.arena_size[EVERING_MINE] = 0;
	self->p.arena_size[EVERING_PEERS] = 3 << 20;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	EXPECT_EQ(NULL, evering_arena(self->ev[0], &size));
	EXPECT_NE(NULL, evering_arena(self->ev[1], &size));
	EXPECT_EQ(3u << 20, size);
	evering_get_geometry(self->ev[1], &g);
	EXPECT_EQ(0u, g.arena_size[EVERING_A]);
	EXPECT_EQ(3u << 20, g.arena_size[EVERING_B]);
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[0], 0, 3 << 20));
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[1], 0, 1));
}

TEST_F(geometry, shared_arena_is_told_in_the_geometry)
{
	struct evering_geometry g;

	self->p.flags = EVERING_SHARED_ARENA;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	evering_get_geometry(self->ev[1], &g);
	EXPECT_EQ(EVERING_SHARED_ARENA, g.flags);
}

TEST_F(geometry, memory_is_zero_at_first)
{
	const unsigned char *p;
	uint64_t size, i;

	self->p.arena_size[0] = 1 << 20;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	p = evering_arena(self->ev[0], &size);
	ASSERT_EQ(1u << 20, size);
	for (i = 0; i < size && !p[i]; i++)
		;
	EXPECT_EQ(size, i);
	p = self->ev[0]->tx.slots;
	for (i = 0; i < 64 * 64 && !p[i]; i++)
		;
	EXPECT_EQ(64u * 64u, i);
}

TEST_F(geometry, arena_memory_is_there_when_the_channel_is)
{
	struct rusage before, after;
	unsigned char *p;
	uint64_t size;

	/* No block is left to be missing later: a write costs no SIGBUS. */
	self->p.arena_size[0] = 8 << 20;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	p = evering_arena(self->ev[0], &size);
	getrusage(RUSAGE_SELF, &before);
	memset(p, 0xaa, size);
	getrusage(RUSAGE_SELF, &after);
	EXPECT_EQ(before.ru_majflt, after.ru_majflt);
	EXPECT_EQ(0,
		  memcmp(p, evering_peer_buffer(self->ev[1], 0, size), size));
}

/* How many pages of @size bytes at @p this process has mapped; < 0: not told. */
static long mapped_pages(const void *p, uint64_t size)
{
	uint64_t first = (uintptr_t)p / 4096, n = size / 4096, entry, i;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long mapped = 0;

	for (i = 0; i < n && mapped >= 0; i++) {
		if (pread(fd, &entry, 8, (off_t)((first + i) * 8)) != 8)
			mapped = -1;
		else
			mapped += entry >> 63;
	}
	close(fd);
	return mapped;
}

TEST_F(geometry, populate_maps_the_arenas_at_once)
{
	const size_t last = 64 * 63;
	long mine = 0, peers = 0, all;
	uint64_t size;
	int i, populate;

	if (getpagesize() != 4096)
		SKIP(return, "pages of %d bytes", getpagesize());
	self->p.arena_size[0] = self->p.arena_size[1] = 1 << 20;
	self->p.arena_begin = EVERING_WHOLE;
	for (i = 0; i < 4; i++) {
		populate = i & 1;
		self->p.flags = populate ? EVERING_POPULATE : 0;
		if (i & 2)
			self->p.flags |= EVERING_SHARED_ARENA;
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));
		/* The rings are in any case: nobody has touched their second page. */
		EXPECT_EQ(1, mapped_pages(self->ev[0]->tx.slots + last, 4096));
		EXPECT_EQ(1, mapped_pages(self->ev[0]->rx.slots + last, 4096));
		mine = mapped_pages(evering_arena(self->ev[0], &size), 1 << 20);
		peers = mapped_pages(evering_peer_buffer(self->ev[0], 0, 1),
				     1 << 20);
		if (mine < 0 || peers < 0)
			SKIP(return, "no pagemap");
		all = populate ? 256 : 0;
		EXPECT_EQ(all, mine);
		/* Without, as much as whoever looks there is shown. */
		if (populate)
			EXPECT_EQ(all, peers);
		close_pair(self->ev);
	}
}

TEST_F(geometry, limits_of_the_accepting_side_are_kept)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering *ev = NULL;
	int i;

	/* A limit that cannot be is the caller's mistake, whatever comes in. */
	for (i = 0; i < 5; i++) {
		struct evering_params bad = limits;
		int sv[2];

		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
					0, sv));
		if (i == 0)
			bad.flags = 2;
		else if (i == 1)
			bad.size = 4;
		else if (i == 2)
			bad.flags = EVERING_AWAIT;
		else if (i == 3)
			bad.policy = 9;
		else
			bad.spin_ns = 2000000;
		EXPECT_EQ(-EINVAL, evering_accept_fd(sv[1], &bad, MSEC, &ev))
		{
			TH_LOG("limits %d", i);
		}
		EXPECT_EQ(0, fcntl(sv[1], F_GETFD) < 0);
		close(sv[0]);
		close(sv[1]);
	}
}

TEST_HARNESS_MAIN
