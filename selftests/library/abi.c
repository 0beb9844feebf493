// SPDX-License-Identifier: MIT
/*
 * abi.c: what two programs that were compiled apart must agree on to the byte.
 * The header asserts it when compiled; here it is seen at run time, with what
 * assertions cannot see: the bytes that a library really puts into memory.
 */
#include "common.h"

TEST(structs_measure_what_version_2_measures)
{
	EXPECT_EQ(32u, sizeof(struct evering_geometry));
	EXPECT_EQ(128u, sizeof(struct evering_endpoint_status));
	EXPECT_EQ(384u, sizeof(struct evering_status));
	EXPECT_EQ(128u, sizeof(struct evering_counters));
	EXPECT_EQ(512u, sizeof(struct evering_half));
	EXPECT_EQ(56u, sizeof(struct evering_info));
	EXPECT_EQ(72u, sizeof(struct evering_create));
	EXPECT_EQ(16u, sizeof(struct evering_grow));
	EXPECT_EQ(24u, sizeof(struct evering_enter));
	EXPECT_EQ(16u, sizeof(struct evering_set_eventfd));
	EXPECT_EQ(16u, sizeof(struct evering_uring_ring));
	EXPECT_EQ(24u, sizeof(struct evering_peer_cred));
	EXPECT_EQ(16u, sizeof(struct evering_attach));
	EXPECT_EQ(4096u, sizeof(struct evering_group_page));
	EXPECT_EQ(16u, sizeof(struct evering_group_create));
	EXPECT_EQ(16u, sizeof(struct evering_add));
	EXPECT_EQ(8u, sizeof(struct evering_group_ring));
	EXPECT_EQ(32u, sizeof(struct evering_group_enter));
	EXPECT_EQ(56u, sizeof(struct evering_params));
	EXPECT_EQ(32u, sizeof(struct evering_arena_state));
}

TEST(members_lie_where_version_2_has_them)
{
	EXPECT_EQ(8u, offsetof(struct evering_geometry, arena_size));
	EXPECT_EQ(24u, offsetof(struct evering_geometry, flags));
	EXPECT_EQ(0u, offsetof(struct evering_status, magic));
	EXPECT_EQ(8u, offsetof(struct evering_status, abi));
	EXPECT_EQ(16u, offsetof(struct evering_status, geometry));
	EXPECT_EQ(48u, offsetof(struct evering_status, half_size));
	EXPECT_EQ(128u, offsetof(struct evering_status, end));
	EXPECT_EQ(0u, offsetof(struct evering_half, released));
	EXPECT_EQ(128u, offsetof(struct evering_half, armed_rx));
	EXPECT_EQ(132u, offsetof(struct evering_half, armed_tx));
	EXPECT_EQ(256u, offsetof(struct evering_half, counters));
	EXPECT_EQ(384u, offsetof(struct evering_half, closed));
	EXPECT_EQ(388u, offsetof(struct evering_half, begun));
	EXPECT_EQ(392u, offsetof(struct evering_half, grown));
	EXPECT_EQ(56u, offsetof(struct evering_status, arena_there));
	EXPECT_EQ(72u, offsetof(struct evering_status, token));
	EXPECT_EQ(512u, EVERING_SLOTS_OFFSET);
	EXPECT_EQ(128u, offsetof(struct evering_group_page, ready));
	/* The kernel takes what comes before @rings for an endpoint's ENTER. */
	EXPECT_EQ(4u, offsetof(struct evering_group_enter, flags));
	EXPECT_EQ(8u, offsetof(struct evering_group_enter, ring));
	EXPECT_EQ(16u, offsetof(struct evering_group_enter, timeout));
	EXPECT_EQ(24u, offsetof(struct evering_group_enter, rings));
	EXPECT_EQ(16u, offsetof(struct evering_params, arena_size));
	EXPECT_EQ(40u, offsetof(struct evering_params, spin_ns));
	EXPECT_EQ(48u, offsetof(struct evering_params, arena_begin));
}

TEST(inlined_state_keeps_the_size_that_callers_were_compiled_with)
{
	EXPECT_EQ(128u, sizeof(struct evering_tx));
	EXPECT_EQ(128u, sizeof(struct evering_rx));
	EXPECT_EQ(0u, offsetof(struct evering, tx));
	EXPECT_EQ(128u, offsetof(struct evering, rx));
	EXPECT_EQ(0u, offsetof(struct evering_tx, slots));
	EXPECT_EQ(sizeof(void *), offsetof(struct evering_tx, armed));
	EXPECT_EQ(2 * sizeof(void *), offsetof(struct evering_tx, next));
}

TEST(ioctl_numbers_are_for_ever)
{
	EXPECT_EQ(0xeb00u, (unsigned int)EVERING_IOC_INFO);
	EXPECT_EQ(0xeb01u, (unsigned int)EVERING_IOC_CREATE);
	EXPECT_EQ(0xeb10u, (unsigned int)EVERING_IOC_RING);
	EXPECT_EQ(0xeb11u, (unsigned int)EVERING_IOC_ENTER);
	EXPECT_EQ(0xeb12u, (unsigned int)EVERING_IOC_SET_EVENTFD);
	EXPECT_EQ(0xeb13u, (unsigned int)EVERING_IOC_PEER_CRED);
	EXPECT_EQ(0xeb14u, (unsigned int)EVERING_IOC_ATTACH);
	EXPECT_EQ(0xeb15u, (unsigned int)EVERING_IOC_GROW);
	EXPECT_EQ(0xeb02u, (unsigned int)EVERING_IOC_GROUP);
	EXPECT_EQ(0xeb20u, (unsigned int)EVERING_IOC_ADD);
	EXPECT_EQ(0xeb21u, (unsigned int)EVERING_IOC_REMOVE);
	EXPECT_EQ(3ull << 40, EVERING_MMAP_OFFSET(EVERING_REGION_ARENA_A));
	EXPECT_EQ(EVERING_REGION_HALF_B, EVERING_REGION_HALF(EVERING_B));
	EXPECT_EQ(EVERING_REGION_ARENA_B, EVERING_REGION_ARENA(EVERING_B));
}

TEST(magic_spells_evering)
{
	uint64_t magic = EVERING_MAGIC;

	EXPECT_EQ(0, memcmp(&magic, "\001evering", 8));
}

TEST(version_is_three_numbers)
{
	int major, minor, patch, end = 0;
	const char *v = evering_version();

	ASSERT_NE(NULL, v);
	EXPECT_EQ(3, sscanf(v, "%d.%d.%d%n", &major, &minor, &patch, &end));
	EXPECT_EQ((size_t)end, strlen(v))
	{
		TH_LOG("version \"%s\"", v);
	}
	/* The library's; it was built from these headers. */
	EXPECT_EQ(EVERING_VERSION_NUMBER(major, minor, patch), EVERING_VERSION);
}

#if EVERING_VERSION < EVERING_VERSION_NUMBER(0, 1, 0) || \
	EVERING_VERSION >= EVERING_VERSION_NUMBER(1000, 0, 0)
#error "the preprocessor can compare versions"
#endif

FIXTURE(channel)
{
	struct evering *ev[2];
};

BACKEND_VARIANTS(channel);

FIXTURE_SETUP(channel)
{
	struct evering_params p = params_on(variant->backend);

	REQUIRE_BACKEND(variant->backend);
	p.slot_size = 128;
	p.entries = 8;
	p.arena_size[EVERING_MINE] = PAGE;
	p.arena_size[EVERING_PEERS] = 3 * PAGE;
	p.arena_begin = EVERING_WHOLE;
	ASSERT_EQ(0, evering_pair(&p, self->ev));
}

FIXTURE_TEARDOWN(channel)
{
	close_pair(self->ev);
}

TEST_F(channel, status_region_if_mapped_says_what_was_created)
{
	struct mapping m[64];
	int n = list_mappings(m, 64, true);
	int i, seen = 0;

	if (n < 0)
		SKIP(return, "no /proc");
	for (i = 0; i < n && i < 64; i++) {
		const struct evering_status *s = (const void *)m[i].start;

		if (!m[i].read || !strstr(m[i].name, "evering") ||
		    s->magic != EVERING_MAGIC)
			continue;
		seen++;
		EXPECT_EQ((unsigned int)EVERING_ABI_VERSION, s->abi);
		EXPECT_EQ(sizeof(*s), s->size);
		EXPECT_EQ(128u, s->geometry.slot_size);
		EXPECT_EQ(8u, s->geometry.entries);
		EXPECT_EQ(PAGE, s->geometry.arena_size[EVERING_A]);
		EXPECT_EQ(3 * PAGE, s->geometry.arena_size[EVERING_B]);
		EXPECT_EQ(0u, s->geometry.flags);
		EXPECT_LE(512u + 128u * 8u, s->half_size);
		EXPECT_EQ((uint32_t)EVERING_STATE_ATTACHED, s->end[0].state);
		EXPECT_EQ((uint32_t)EVERING_STATE_ATTACHED, s->end[1].state);
	}
	printf("# STATUS mapped %d times\n", seen);
}

TEST_F(channel, slot_and_stamp_lie_where_the_header_says)
{
	const unsigned char *b_sees = self->ev[1]->rx.slots;
	uint32_t stamp;
	int i;

	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, evering_send(self->ev[0], "hello\0", 7,
					  EVERING_NOWAIT));
	EXPECT_STREQ("hello", (const char *)b_sees + 4 * 128);
	memcpy(&stamp, b_sees + 5 * 128 - EVERING_STAMP_SIZE, sizeof(stamp));
	EXPECT_EQ(5u, stamp);
	memcpy(&stamp, b_sees + 6 * 128 - EVERING_STAMP_SIZE, sizeof(stamp));
	EXPECT_EQ(0u, stamp);
	EXPECT_EQ(128u - EVERING_STAMP_SIZE, evering_payload(self->ev[0]));
}

TEST_F(channel, backend_is_the_one_asked_for)
{
	EXPECT_STREQ(variant->backend == EVERING_BACKEND_DEVICE ? "device" :
								  "memfd",
		     evering_backend_name(self->ev[0]));
}

TEST_HARNESS_MAIN
