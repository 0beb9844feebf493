// SPDX-License-Identifier: MIT
/*
 * op_buffer.c: buffers that go with operations: lent, given, given back and sent
 * home.  Whoever has one is the only one who may do anything with it, and in the end
 * each is home exactly once, which shows when the whole arena can be had.
 */
#include "op.h"

#define ARENA 65536

FIXTURE(op_buffer)
{
	uint32_t backend;
	struct evering *ev[2];
	struct side s[2];
};

BACKEND_VARIANTS(op_buffer);

/* Arenas of these sizes; both writable for both if @shared. */
static int remake(struct evering *ev[2], uint32_t backend, uint64_t first,
		  uint64_t second, bool shared)
{
	struct evering_params p = params_sized(backend, 64, 64, 0);

	p.arena_size[0] = first;
	p.arena_size[1] = second;
	p.flags = shared ? EVERING_SHARED_ARENA : 0;
	close_pair(ev);
	return evering_pair(&p, ev);
}

FIXTURE_SETUP(op_buffer)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
	ASSERT_EQ(0, remake(self->ev, self->backend, ARENA, ARENA, false));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
}

FIXTURE_TEARDOWN(op_buffer)
{
	over = true;
	close_pair(self->ev);
}

#define A (&self->s[0])
#define B (&self->s[1])

static int reopen(struct evering *ev[2], struct side s[2], uint32_t backend,
		  bool shared)
{
	int ret = remake(ev, backend, ARENA, ARENA, shared);

	return ret ? ret : sides_open(s, ev, 8, 8);
}

static void *filled(struct evering *ev, size_t size, uint32_t n)
{
	void *p = evering_alloc(ev, size, 0);

	if (p)
		fill_entry(p, size, n, 4);
	return p;
}

/* All that is out comes home; both arenas are whole. */
static bool all_home(struct side s[2])
{
	pump(s);
	return arena_whole(s[0].ev) && arena_whole(s[1].ev) &&
	       !info_of(s[0].ops).homebound && !info_of(s[1].ops).homebound;
}

/* A buffer of @s' arena that is now the other side's. */
static void *give(struct side s[2], int i, size_t size, struct outcome *o)
{
	void *p = filled(s[i].ev, size, (uint32_t)size);
	struct evering_op op = hands(EVERING_GIVE, p, size, o);

	s[!i].n_got = 0;
	if (!p || ask(&s[i], &op, NULL))
		return NULL;
	pump(s);
	return s[!i].n_got ? s[!i].got[0].buf : NULL;
}

/* ----------------------------------------------------------------------- lent */

TEST_F(op_buffer, what_is_lent_is_locked_until_answered)
{
	struct outcome o = { 0 }, never = { 0 };
	struct evering_op op, again;
	struct evering_request *r;
	unsigned char *p;
	uint64_t id, other;

	p = filled(self->ev[0], 1000, 5);
	op = hands(EVERING_LEND, p, 1000, &o);
	op.opcode = 9;
	op.data = "tiny";
	op.len = 4;
	ASSERT_EQ(0, ask(A, &op, &id));
	EXPECT_EQ(-EBUSY, evering_free(self->ev[0], p));
	again = hands(EVERING_LEND, p, 10, &never);
	EXPECT_EQ(-EBUSY, ask(A, &again, NULL));
	EXPECT_EQ(-EBUSY, evering_op_prepare(A->ops, &again, &other));
	again.flags = EVERING_GIVE;
	EXPECT_EQ(-EBUSY, ask(A, &again, NULL));
	EXPECT_EQ(1u, info_of(A->ops).in_flight);

	pump(self->s);
	ASSERT_EQ(1u, B->n_got);
	r = &B->got[0];
	EXPECT_EQ(EVERING_LEND, r->flags);
	EXPECT_EQ(1000u, r->buf_len);
	EXPECT_EQ(evering_peer_buffer(self->ev[1],
				      evering_offset(self->ev[0], p), 1000),
		  r->buf);
	EXPECT_TRUE(check_entry(r->buf, 1000, 5, 4));
	EXPECT_EQ(9u, r->opcode);
	EXPECT_EQ(4u, r->len);
	EXPECT_EQ(0, memcmp("tiny", r->data, 4));
	/* It is not the peer's to do anything with. */
	EXPECT_EQ(-EBUSY, evering_free(self->ev[1], r->buf));
	again = hands(EVERING_GIVE, r->buf, 10, &never);
	EXPECT_EQ(-EBUSY, ask(B, &again, NULL));
	again.flags = EVERING_LEND;
	EXPECT_EQ(-EINVAL, ask(B, &again, NULL));
	/* The owner sees what it writes; so does the peer. */
	p[7] ^= 0xff;
	EXPECT_EQ(p[7], ((unsigned char *)r->buf)[7]);

	ASSERT_EQ(0, evering_op_answer(B->ops, r->id, 3, "done", 4));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[1], r->buf));
	EXPECT_EQ(-EBUSY, evering_free(self->ev[0], p));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(3, o.result);
	EXPECT_EQ(NULL, o.buf);
	EXPECT_EQ(0u, o.buf_len);
	EXPECT_EQ(0, memcmp("done", o.data, 4));
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], p));
	EXPECT_EQ(0u, never.times);
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(op_buffer, every_place_of_the_table_can_lend)
{
	struct outcome o[8] = { 0 };
	struct evering_op op;
	void *p[8];
	int i, lap;

	for (lap = 0; lap < 5; lap++) {
		memset(o, 0, sizeof(o));
		B->n_got = 0;
		for (i = 0; i < 8; i++) {
			p[i] = filled(self->ev[0], 100, (uint32_t)i);
			op = hands(EVERING_LEND, p[i], 100, &o[i]);
			ASSERT_EQ(0, ask(A, &op, NULL));
		}
		pump(self->s);
		ASSERT_EQ(8u, B->n_got);
		EXPECT_EQ(8u, info_of(B->ops).held);
		for (i = 7; i >= 0; i--) {
			EXPECT_EQ(0,
				  evering_op_cancelled(B->ops, B->got[i].id));
			EXPECT_TRUE(check_entry(B->got[i].buf, 100, (uint32_t)i,
						4));
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[i].id, i,
						       NULL, 0));
		}
		pump(self->s);
		for (i = 0; i < 8; i++) {
			ASSERT_EQ(1u, o[i].times);
			ASSERT_EQ(i, o[i].result);
			ASSERT_EQ(0, evering_free(self->ev[0], p[i]));
		}
		ASSERT_TRUE(all_home(self->s));
	}
}

TEST_F(op_buffer, only_buffers_can_be_lent_or_given)
{
	static const unsigned int how[] = { EVERING_LEND, EVERING_GIVE };
	unsigned char *p = evering_alloc(self->ev[0], 200, 0);
	unsigned char *peers = evering_alloc(self->ev[1], 200, 0);
	const void *seen;
	unsigned char local[64];
	struct evering_op op;
	struct outcome o = { 0 };
	uint64_t id;
	size_t i;

	seen = evering_peer_buffer(self->ev[0],
				   evering_offset(self->ev[1], peers), 200);
	for (i = 0; i < 2; i++) {
		const struct {
			const void *buf;
			uint64_t len;
		} bad[] = {
			{ p, 0 },	{ p, 257 },	     { p, UINT64_MAX },
			{ p + 64, 64 }, { p + 1, 1 },	     { p + 256, 64 },
			{ p - 64, 64 }, { local, 1 },	     { NULL, 1 },
			{ seen, 1 },	{ (char *)-64l, 1 },
		};
		size_t k;

		for (k = 0; k < ARRAY_SIZE(bad); k++) {
			op = hands(how[i], (void *)bad[k].buf, bad[k].len, &o);
			EXPECT_EQ(-EINVAL, ask(A, &op, &id))
			{
				TH_LOG("%zu", k);
			}
			EXPECT_EQ(-EINVAL,
				  evering_op_prepare(A->ops, &op, &id));
		}
	}
	EXPECT_EQ(0u, info_of(A->ops).in_flight);
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], (void *)seen));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], local));
	EXPECT_EQ(0, evering_free(self->ev[0], NULL));
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	op = hands(EVERING_LEND, p, 10, &o);
	EXPECT_EQ(-EINVAL, ask(A, &op, &id));
	EXPECT_EQ(0, evering_free(self->ev[1], peers));
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(op_buffer, with_a_buffer_there_is_less_room_for_data)
{
	uint32_t max = info_of(A->ops).max_data, len, b, i;
	unsigned char data[EVERING_MAX_SLOT];
	struct outcome o = { 0 };
	struct evering_op op;
	void *p, *given[4];

	for (b = 0; b < sizeof(data); b++)
		data[b] = (unsigned char)(b + 1);
	p = filled(self->ev[0], 64, 1);
	for (len = 0; len <= max - 16; len++)
		for (i = 0; i < 4; i++) {
			uint32_t n = 0;

			/* So many go home with it, as far as there is room. */
			while (n < i) {
				given[n] = give(self->s, 1, 64, &o);
				ASSERT_NE(NULL, given[n]);
				ASSERT_EQ(0, evering_op_answer(A->ops,
							       A->got[0].id, 0,
							       NULL, 0));
				pump(self->s);
				n++;
			}
			while (n)
				ASSERT_EQ(0, evering_free(self->ev[0],
							  given[--n]));
			EXPECT_EQ(i, info_of(A->ops).homebound);
			memset(&o, 0, sizeof(o));
			B->n_got = 0;
			op = hands(EVERING_LEND, p, 64, &o);
			op.data = data;
			op.len = len;
			ASSERT_EQ(0, ask(A, &op, NULL));
			pump(self->s);
			ASSERT_EQ(1u, B->n_got);
			ASSERT_EQ(len, B->got[0].len);
			ASSERT_EQ(0, memcmp(data, B->got[0].data, len));
			ASSERT_EQ(64u, B->got[0].buf_len);
			ASSERT_TRUE(check_entry(B->got[0].buf, 64, 1, 4));
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0,
						       data, max));
			pump(self->s);
			ASSERT_EQ(1u, o.times);
			ASSERT_EQ(max, o.len);
			ASSERT_EQ(0, memcmp(data, o.data, max));
			ASSERT_TRUE(arena_whole(self->ev[1]));
		}
	op = hands(EVERING_LEND, p, 64, &o);
	op.data = data;
	op.len = max - 15;
	EXPECT_EQ(-EMSGSIZE, ask(A, &op, NULL));
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_TRUE(all_home(self->s));
}

/* ------------------------------------------------------------ lent, and written */

TEST_F(op_buffer, an_answer_can_be_written_where_the_question_was)
{
	struct outcome o = { 0 };
	struct evering_request *r;
	struct evering_op op;
	void *p, *at, *larger;

	ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, true));
	p = filled(self->ev[0], 1000, 5);
	op = hands(EVERING_LEND, p, 1000, &o);
	ASSERT_EQ(0, ask(A, &op, NULL));
	pump(self->s);
	ASSERT_EQ(1u, B->n_got);
	r = &B->got[0];
	at = evering_op_answer_alloc(B->ops, r->id, 1000);
	EXPECT_EQ(r->buf, at);
	EXPECT_EQ(r->buf, evering_op_answer_alloc(B->ops, r->id, 1));
	EXPECT_EQ(NULL, evering_op_answer_alloc(B->ops, r->id, 0));
	/* Larger than what was lent: from the own arena. */
	larger = evering_op_answer_alloc(B->ops, r->id, 1001);
	ASSERT_NE(NULL, larger);
	EXPECT_EQ(0u, evering_offset(self->ev[1], larger) / ARENA);
	EXPECT_EQ(NULL, evering_op_answer_alloc(B->ops, r->id, ARENA + 1));
	EXPECT_EQ(NULL, evering_op_answer_alloc(B->ops, r->id + 1, 1));
	EXPECT_EQ(0, evering_free(self->ev[1], larger));
	/* If that is not to be, freeing leaves what was lent alone. */
	EXPECT_EQ(-EBUSY, evering_free(self->ev[1], at));

	EXPECT_EQ(-EINVAL,
		  evering_op_answer_buffer(B->ops, r->id, 0, at, 1001));
	EXPECT_EQ(-EINVAL, evering_op_answer_buffer(B->ops, r->id, 0, at, 0));
	EXPECT_EQ(-EINVAL, evering_op_answer_buffer(B->ops, r->id, 0,
						    (char *)at + 64, 10));
	fill_entry(at, 600, 6, 7);
	ASSERT_EQ(0, evering_op_answer_buffer(B->ops, r->id, 44, at, 600));
	EXPECT_EQ(-ESTALE,
		  evering_op_answer_buffer(B->ops, r->id, 44, at, 600));
	EXPECT_EQ(NULL, evering_op_answer_alloc(B->ops, r->id, 1));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[1], at));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(44, o.result);
	EXPECT_EQ(p, o.buf);
	EXPECT_EQ(600u, o.buf_len);
	EXPECT_EQ(0u, o.len);
	EXPECT_TRUE(check_entry(p, 600, 6, 7));
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(op_buffer, what_is_lent_is_not_written_without_a_shared_arena)
{
	struct outcome o = { 0 };
	struct evering_request *r;
	struct evering_op op;
	void *p, *at;

	p = filled(self->ev[0], 1000, 5);
	op = hands(EVERING_LEND, p, 1000, &o);
	ASSERT_EQ(0, ask(A, &op, NULL));
	pump(self->s);
	r = &B->got[0];
	EXPECT_EQ(-EINVAL,
		  evering_op_answer_buffer(B->ops, r->id, 0, r->buf, 100));
	at = evering_op_answer_alloc(B->ops, r->id, 500);
	ASSERT_NE(NULL, at);
	EXPECT_EQ(0u, evering_offset(self->ev[1], at) / ARENA);
	fill_entry(at, 500, 6, 7);
	ASSERT_EQ(0, evering_op_answer_buffer(B->ops, r->id, 44, at, 500));
	EXPECT_EQ(-ESTALE, evering_free(self->ev[1], at));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(500u, o.buf_len);
	EXPECT_NE(p, o.buf);
	EXPECT_TRUE(check_entry(o.buf, 500, 6, 7));
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_EQ(0, evering_free(self->ev[0], o.buf));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], o.buf));
	EXPECT_EQ(1u, info_of(A->ops).homebound);
	EXPECT_TRUE(all_home(self->s));
}

/* One side has no arena: the other lends, or answers from its own. */
TEST_F(op_buffer, one_arena_is_enough)
{
	struct outcome o = { 0 };
	struct evering_op op;
	void *p;
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, i ? ARENA : 0,
				    i ? 0 : ARENA, false));
		ASSERT_EQ(0, sides_open(self->s, self->ev, 8, 8));
		memset(&o, 0, sizeof(o));
		if (i) {
			p = filled(self->ev[0], 300, 1);
			op = hands(EVERING_GIVE, p, 300, &o);
		} else {
			op = asks(1, NULL, 0, &o);
		}
		ASSERT_EQ(0, ask(A, &op, NULL));
		pump(self->s);
		ASSERT_EQ(1u, B->n_got);
		p = evering_op_answer_alloc(B->ops, B->got[0].id, 300);
		if (i) {
			EXPECT_EQ(NULL, p);
			/* There is nothing but what was given. */
			p = B->got[0].buf;
		} else {
			fill_entry(p, 300, 1, 4);
		}
		ASSERT_EQ(0, evering_op_answer_buffer(B->ops, B->got[0].id, 1,
						      p, 300));
		pump(self->s);
		EXPECT_EQ(1u, o.times);
		EXPECT_EQ(300u, o.buf_len);
		EXPECT_TRUE(check_entry(o.buf, 300, 1, 4));
		EXPECT_EQ(0, evering_free(self->ev[0], o.buf));
		EXPECT_EQ(-EINVAL, evering_free(self->ev[0], o.buf));
		pump(self->s);
		EXPECT_TRUE(arena_whole(self->ev[!i]));
	}
}

/* ---------------------------------------------------------------------- given */

TEST_F(op_buffer, what_is_given_is_the_receivers)
{
	struct outcome o = { 0 }, never = { 0 };
	struct evering_op op, again;
	struct evering_request *r;
	unsigned char *p = filled(self->ev[0], 1000, 5);

	op = hands(EVERING_GIVE, p, 900, &o);
	ASSERT_EQ(0, ask(A, &op, NULL));
	EXPECT_EQ(-ESTALE, evering_free(self->ev[0], p));
	again = hands(EVERING_LEND, p, 10, &never);
	EXPECT_EQ(-ESTALE, ask(A, &again, NULL));
	again.flags = EVERING_GIVE;
	EXPECT_EQ(-ESTALE, ask(A, &again, NULL));
	pump(self->s);
	ASSERT_EQ(1u, B->n_got);
	r = &B->got[0];
	EXPECT_EQ(EVERING_GIVE, r->flags);
	EXPECT_EQ(900u, r->buf_len);
	EXPECT_TRUE(check_entry(r->buf, 900, 5, 4));
	ASSERT_EQ(0, evering_op_answer(B->ops, r->id, 0, NULL, 0));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(NULL, o.buf);
	/* It outlives its request. */
	EXPECT_EQ(-ESTALE, evering_free(self->ev[0], p));
	EXPECT_TRUE(check_entry(r->buf, 900, 5, 4));
	EXPECT_FALSE(arena_whole(self->ev[0]));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[1], (char *)r->buf + 64));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[1], (char *)r->buf + 1));
	again = hands(EVERING_LEND, r->buf, 10, &never);
	EXPECT_EQ(-EINVAL, ask(B, &again, NULL));
	EXPECT_EQ(0, evering_free(self->ev[1], r->buf));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[1], r->buf));
	again.flags = EVERING_GIVE;
	EXPECT_EQ(-EINVAL, ask(B, &again, NULL));
	EXPECT_EQ(1u, info_of(B->ops).homebound);
	EXPECT_EQ(-ESTALE, evering_free(self->ev[0], p));
	/* Home, and thus free. */
	EXPECT_TRUE(all_home(self->s));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], p));
	EXPECT_EQ(0u, never.times);
}

TEST_F(op_buffer, what_is_given_can_be_given_back)
{
	struct outcome o = { 0 }, back = { 0 };
	struct evering_request *r = &B->got[0];
	struct evering_op op;
	void *p, *given;
	uint64_t id;

	/* With an answer, and not more of it than is known here. */
	p = filled(self->ev[0], 1000, 5);
	op = hands(EVERING_GIVE, p, 900, &o);
	ASSERT_EQ(0, ask(A, &op, NULL));
	pump(self->s);
	EXPECT_EQ(-EINVAL,
		  evering_op_answer_buffer(B->ops, r->id, 0, r->buf, 901));
	EXPECT_EQ(-EINVAL,
		  evering_op_answer_buffer(B->ops, r->id, 0, r->buf, 0));
	ASSERT_EQ(0, evering_op_answer_buffer(B->ops, r->id, 0, r->buf, 800));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[1], r->buf));
	EXPECT_EQ(-ESTALE, evering_free(self->ev[0], p));
	pump(self->s);
	EXPECT_EQ(1u, o.times);
	EXPECT_EQ(p, o.buf);
	EXPECT_EQ(800u, o.buf_len);
	EXPECT_EQ(0u, info_of(B->ops).homebound);
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_TRUE(all_home(self->s));

	/* With a request of the receiver's. */
	given = give(self->s, 0, 512, &o);
	ASSERT_NE(NULL, given);
	ASSERT_EQ(0, evering_op_answer(B->ops, r->id, 0, NULL, 0));
	op = hands(EVERING_GIVE, given, 513, &back);
	EXPECT_EQ(-EINVAL, ask(B, &op, &id));
	op.buf_len = 512;
	ASSERT_EQ(0, ask(B, &op, &id));
	EXPECT_EQ(-EINVAL, ask(B, &op, &id));
	pump(self->s);
	ASSERT_EQ(1u, A->n_got);
	EXPECT_EQ(EVERING_GIVE, A->got[0].flags);
	EXPECT_EQ(512u, A->got[0].buf_len);
	EXPECT_TRUE(check_entry(A->got[0].buf, 512, 512, 4));
	EXPECT_EQ(0, evering_free(self->ev[0], A->got[0].buf));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], A->got[0].buf));
	ASSERT_EQ(0, evering_op_answer(A->ops, A->got[0].id, 0, NULL, 0));
	pump(self->s);
	EXPECT_EQ(1u, back.times);
	EXPECT_TRUE(all_home(self->s));
}

TEST_F(op_buffer, answers_that_cannot_be_are_refused)
{
	struct outcome o[3] = { 0 };
	void *lent, *given, *own, *out;
	struct evering_op op;
	uint64_t id;
	int i;

	/* A buffer of each kind, in B's hands. */
	lent = filled(self->ev[0], 100, 1);
	op = hands(EVERING_LEND, lent, 100, &o[0]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	given = filled(self->ev[0], 100, 1);
	op = hands(EVERING_GIVE, given, 100, &o[1]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	op = asks(1, NULL, 0, &o[2]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	pump(self->s);
	ASSERT_EQ(3u, B->n_got);
	own = filled(self->ev[1], 100, 1);
	out = filled(self->ev[1], 100, 1);
	op = hands(EVERING_LEND, out, 100, &o[2]);
	ASSERT_EQ(0, ask(B, &op, NULL));
	pump(self->s);

	id = B->got[2].id;
	/* Lent with another request; lent to the peer; none at all. */
	EXPECT_EQ(-EBUSY,
		  evering_op_answer_buffer(B->ops, id, 0, B->got[0].buf, 1));
	EXPECT_EQ(-EBUSY, evering_op_answer_buffer(B->ops, id, 0, out, 1));
	EXPECT_EQ(-EINVAL, evering_op_answer_buffer(B->ops, id, 0, NULL, 1));
	EXPECT_EQ(-EINVAL, evering_op_answer_buffer(B->ops, id, 0, &o, 1));
	EXPECT_EQ(-EINVAL, evering_op_answer_buffer(B->ops, id, 0, own, 0));
	EXPECT_EQ(-EINVAL, evering_op_answer_buffer(B->ops, id, 0, own, 129));
	EXPECT_EQ(-ESTALE, evering_op_answer_buffer(B->ops, id + 1, 0, own, 1));
	EXPECT_EQ(-ESTALE, evering_op_answer_buffer(B->ops, 0, 0, own, 1));
	/* All is as before. */
	EXPECT_EQ(4u, info_of(B->ops).held + info_of(A->ops).held);
	ASSERT_EQ(0, evering_op_answer_buffer(B->ops, id, 0, own, 100));
	EXPECT_EQ(-ESTALE,
		  evering_op_answer_buffer(B->ops, B->got[1].id, 0, own, 100));
	ASSERT_EQ(0, evering_op_answer_buffer(B->ops, B->got[1].id, 0,
					      B->got[1].buf, 100));
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
	ASSERT_EQ(0, evering_op_answer(A->ops, A->got[0].id, 0, NULL, 0));
	pump(self->s);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(1u, o[i].times);
	EXPECT_EQ(given, o[1].buf);
	EXPECT_EQ(0, evering_free(self->ev[0], given));
	EXPECT_EQ(0, evering_free(self->ev[0], lent));
	EXPECT_EQ(0, evering_free(self->ev[1], out));
	EXPECT_EQ(-ESTALE, evering_free(self->ev[1], own));
	/* What came with the answer, by the address here. */
	EXPECT_EQ(0,
		  evering_free(self->ev[0],
			       (void *)evering_peer_buffer(
				       self->ev[0],
				       evering_offset(self->ev[1], own), 100)));
	EXPECT_TRUE(all_home(self->s));
}

/* ------------------------------------------------------------------- going home */

TEST_F(op_buffer, freed_buffers_go_home_with_whatever_is_sent)
{
	struct outcome o = { 0 };
	struct evering_op op;
	void *given[3];
	int i, how;

	for (how = 0; how < 5; how++) {
		for (i = 0; i < 3; i++) {
			given[i] = give(self->s, 0, 64, &o);
			ASSERT_NE(NULL, given[i]);
			if (i < 2)
				ASSERT_EQ(0, evering_op_answer(B->ops,
							       B->got[0].id, 0,
							       NULL, 0));
		}
		pump(self->s);
		for (i = 0; i < 3; i++)
			ASSERT_EQ(0, evering_free(self->ev[1], given[i]));
		EXPECT_EQ(3u, info_of(B->ops).homebound);
		op = asks(1, NULL, 0, &o);
		switch (how) {
		case 0:
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0,
						       NULL, 0));
			break;
		case 1:
			ASSERT_EQ(0, ask(B, &op, NULL));
			break;
		case 2:
			evering_ops_flush(B->ops);
			break;
		case 3:
			EXPECT_EQ(-ETIMEDOUT,
				  evering_ops_wait(B->ops, 100 * USEC));
			break;
		case 4:
			EXPECT_EQ(0, evering_ops_poll(B->ops));
			break;
		}
		EXPECT_EQ(0u, info_of(B->ops).homebound);
		EXPECT_LE(1, evering_ops_poll(A->ops));
		EXPECT_TRUE(arena_whole(self->ev[0]))
		{
			TH_LOG("way %d", how);
		}
		if (how)
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0,
						       NULL, 0));
		if (how == 1)
			ASSERT_EQ(0, evering_op_answer(A->ops, A->got[0].id, 0,
						       NULL, 0));
		A->n_got = 0;
		pump(self->s);
	}
}

/* No room for more than a few at a time: they go one after the other. */
TEST_F_TIMEOUT(op_buffer, thousands_of_buffers_go_and_come_home, 60)
{
	uint32_t n = short_run() ? 2000 : 15000, i, k;
	uint64_t size = 1 << 20, rng = random_seed();
	struct outcome o = { 0 };
	struct evering_op op;
	void **given, *p;
	int lap;

	given = calloc(n, sizeof(*given));
	ASSERT_EQ(0, remake(self->ev, self->backend, size, size, false));
	ASSERT_EQ(0, sides_open(self->s, self->ev, 48, 48));
	for (lap = 0; lap < 3; lap++) {
		memset(&o, 0, sizeof(o));
		for (i = 0; i < n; i++) {
			p = filled(self->ev[0], 64, i);
			ASSERT_NE(NULL, p);
			op = hands(EVERING_GIVE, p, 64, &o);
			B->n_got = 0;
			ASSERT_EQ(0, ask(A, &op, NULL));
			evering_ops_poll(B->ops);
			ASSERT_EQ(1u, B->n_got);
			given[i] = B->got[0].buf;
			ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0,
						       NULL, 0));
			evering_ops_poll(A->ops);
		}
		ASSERT_EQ(n, o.times);
		for (i = n; i > 0; i--) {
			k = (uint32_t)random_below(&rng, i);
			p = given[k];
			given[k] = given[i - 1];
			ASSERT_EQ(0u, ((uint32_t *)p)[0] / n);
			ASSERT_EQ(0, evering_free(self->ev[1], p));
			/* The owner is busy with something else for long. */
			if (random_below(&rng, 1000) == 0)
				pump(self->s);
			else if (random_below(&rng, 50) == 0)
				evering_ops_poll(B->ops);
		}
		ASSERT_TRUE(all_home(self->s));
	}
	free(given);
}

/* ------------------------------------------------------- prepared and cancelled */

TEST_F(op_buffer, a_prepared_buffer_comes_back_when_cancelled)
{
	static const unsigned int how[] = { EVERING_LEND, EVERING_GIVE };
	struct outcome o = { 0 };
	struct evering_op op;
	void *p, *given;
	uint64_t id, other;
	size_t i;

	for (i = 0; i < 2; i++) {
		p = filled(self->ev[0], 100, 1);
		op = hands(how[i], p, 100, &o);
		ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &id));
		EXPECT_GT(0, evering_free(self->ev[0], p));
		EXPECT_GT(0, evering_op_prepare(A->ops, &op, &other));
		ASSERT_EQ(0, evering_op_cancel(A->ops, id, 0));
		/* As before: it can be prepared again, and started. */
		ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &id));
		ASSERT_EQ(0, evering_op_start(A->ops, id, EVERING_NOWAIT));
		EXPECT_EQ(i ? -ESTALE : -EBUSY, evering_free(self->ev[0], p));
		B->n_got = 0;
		pump(self->s);
		ASSERT_EQ(1u, B->n_got);
		EXPECT_TRUE(check_entry(B->got[0].buf, 100, 1, 4));
		EXPECT_EQ(i ? 0 : -EBUSY,
			  evering_free(self->ev[1], B->got[0].buf));
		ASSERT_EQ(0,
			  evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
		pump(self->s);
		EXPECT_EQ(i ? -EINVAL : 0, evering_free(self->ev[0], p));
		EXPECT_TRUE(all_home(self->s));
	}

	/* One that is to go back. */
	given = give(self->s, 0, 100, &o);
	op = hands(EVERING_GIVE, given, 100, &o);
	ASSERT_EQ(0, evering_op_prepare(B->ops, &op, &id));
	EXPECT_GT(0, evering_free(self->ev[1], given));
	EXPECT_GT(0, evering_op_prepare(B->ops, &op, &other));
	EXPECT_GT(0,
		  evering_op_answer_buffer(B->ops, B->got[0].id, 0, given, 10));
	ASSERT_EQ(0, evering_op_cancel(B->ops, id, 0));
	ASSERT_EQ(0, evering_op_answer_buffer(B->ops, B->got[0].id, 0, given,
					      100));
	pump(self->s);
	ASSERT_NE(NULL, o.buf);
	EXPECT_EQ(0, evering_free(self->ev[0], o.buf));
	EXPECT_TRUE(all_home(self->s));
}

/* All that an answer can bring. */
enum brought {
	NOTHING,
	OWN,
	BACK,
	IN_PLACE,
	BROUGHT
};

static int bring(struct side *s, const struct evering_request *r,
		 enum brought what, void *given)
{
	void *p;

	switch (what) {
	case OWN:
		p = filled(s->ev, 200, 8);
		return p ? evering_op_answer_buffer(s->ops, r->id, 1, p, 200) :
			   -ENOMEM;
	case BACK:
		return evering_op_answer_buffer(s->ops, r->id, 1, given, 64);
	case IN_PLACE:
		return evering_op_answer_buffer(s->ops, r->id, 1, r->buf, 64);
	default:
		return evering_op_answer(s->ops, r->id, 1, "x", 1);
	}
}

/*
 * Nobody wants the answer, whatever it brings: what it brings is dropped.  What was
 * lent is freed if the operation was detached, in time or by time, and is the
 * caller's again if not.
 */
TEST_F(op_buffer, what_nobody_wants_goes_where_it_belongs)
{
	enum {
		ASKED,
		DETACHED,
		BOTH,
		TIMED,
		CALLED,
		WAYS
	} way;
	struct evering_completion c;
	struct outcome o, gift = { 0 };
	enum brought what;
	struct evering_op op;
	void *given, *lent;
	uint64_t id = 0;
	int fetched;

	ASSERT_EQ(0, reopen(self->ev, self->s, self->backend, true));
	for (way = 0; way < WAYS; way++)
		for (what = 0; what < BROUGHT; what++)
			for (fetched = 0; fetched < 2; fetched++) {
				given = give(self->s, 0, 64, &gift);
				ASSERT_NE(NULL, given);
				ASSERT_EQ(0, evering_op_answer(B->ops,
							       B->got[0].id, 0,
							       NULL, 0));
				B->n_got = 0;
				memset(&o, 0, sizeof(o));
				lent = filled(self->ev[0], 128, 3);
				op = hands(EVERING_LEND, lent, 128,
					   fetched ? NULL : &o);
				if (way == TIMED)
					op.timeout_ns = 1;
				if (way == CALLED) {
					fetched = 1;
					ASSERT_EQ(0, evering_op_call(
							     A->ops, &op, &c,
							     EVERING_NOWAIT));
					EXPECT_EQ(-ETIMEDOUT, c.result);
				} else {
					ASSERT_EQ(0, ask(A, &op, &id));
				}
				if (way == TIMED)
					sleep_ns(USEC);
				if (way == ASKED || way == BOTH)
					ASSERT_EQ(0, evering_op_cancel(A->ops,
								       id, 0));
				if (way == DETACHED || way == BOTH)
					ASSERT_EQ(
						0,
						evering_op_cancel(
							A->ops, id,
							EVERING_CANCEL_DETACH));
				evering_ops_poll(A->ops);
				EXPECT_EQ(-EBUSY,
					  evering_free(self->ev[0], lent));
				EXPECT_EQ(way == ASKED ? 0u : 1u,
					  info_of(A->ops).abandoned);
				evering_ops_poll(B->ops);
				ASSERT_EQ(1u, B->n_got);
				ASSERT_EQ(0, bring(B, &B->got[0], what, given));
				if (what != BACK)
					ASSERT_EQ(0, evering_free(self->ev[1],
								  given));
				ASSERT_LE(0, evering_ops_poll(A->ops))
				{
					TH_LOG("way %d, what %d, fetched %d",
					       way, what, fetched);
				}
				EXPECT_EQ(0u, info_of(A->ops).abandoned);
				if (way != CALLED && fetched) {
					ASSERT_EQ(0, evering_op_done(A->ops, id,
								     &c));
					o.times = 1;
					o.result = c.result;
					o.len = c.len;
					o.buf = c.buf;
				}
				if (way != CALLED) {
					EXPECT_EQ(1u, o.times);
					EXPECT_EQ(way == TIMED ? -ETIMEDOUT :
								 -ECANCELED,
						  o.result);
					EXPECT_EQ(0u, o.len);
					EXPECT_EQ(NULL, o.buf);
				}
				EXPECT_EQ(way == ASKED ? 0 : -EINVAL,
					  evering_free(self->ev[0], lent));
				ASSERT_TRUE(all_home(self->s))
				{
					TH_LOG("way %d, what %d, fetched %d",
					       way, what, fetched);
				}
			}
}

/* Requests that bring a buffer may be cancelled too; the receiver has it. */
TEST_F(op_buffer, a_gift_is_a_gift_though_cancelled)
{
	struct outcome o = { 0 };
	struct evering_op op;
	uint64_t id;
	int i;

	for (i = 0; i < 2; i++) {
		memset(&o, 0, sizeof(o));
		B->n_got = 0;
		op = hands(EVERING_GIVE, filled(self->ev[0], 64, 2), 64, &o);
		ASSERT_EQ(0, ask(A, &op, &id));
		ASSERT_EQ(0, evering_op_cancel(
				     A->ops, id,
				     EVERING_CANCEL_TELL |
					     (i ? EVERING_CANCEL_DETACH : 0)));
		pump(self->s);
		ASSERT_EQ(1u, B->n_got);
		EXPECT_EQ(1, evering_op_cancelled(B->ops, B->got[0].id));
		EXPECT_TRUE(check_entry(B->got[0].buf, 64, 2, 4));
		ASSERT_EQ(0, evering_free(self->ev[1], B->got[0].buf));
		ASSERT_EQ(0,
			  evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
		EXPECT_TRUE(all_home(self->s));
		EXPECT_EQ(1u, o.times);
		EXPECT_EQ(-ECANCELED, o.result);
	}
}

/* --------------------------------------------------------------------- the end */

TEST_F(op_buffer, everything_comes_home_when_the_peer_goes)
{
	struct outcome o[4] = { 0 }, gift[2] = { 0 };
	void *lent[3], *given, *kept, *received, *unstarted;
	struct evering_op op;
	uint64_t id[3], prepared;
	int i;

	/* Received before the end: it stays readable. */
	received = give(self->s, 1, 256, &gift[0]);
	ASSERT_NE(NULL, received);
	ASSERT_EQ(0, evering_op_answer(A->ops, A->got[0].id, 0, NULL, 0));
	kept = give(self->s, 0, 300, &gift[1]);
	ASSERT_NE(NULL, kept);
	ASSERT_EQ(0, evering_op_answer(B->ops, B->got[0].id, 0, NULL, 0));
	for (i = 0; i < 3; i++) {
		lent[i] = filled(self->ev[0], 100, 1);
		op = hands(EVERING_LEND, lent[i], 100, &o[i]);
		ASSERT_EQ(0, ask(A, &op, &id[i]));
	}
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[1], 0));
	ASSERT_EQ(0, evering_op_cancel(A->ops, id[2], EVERING_CANCEL_DETACH));
	given = filled(self->ev[0], 100, 1);
	op = hands(EVERING_GIVE, given, 100, &o[3]);
	ASSERT_EQ(0, ask(A, &op, NULL));
	unstarted = filled(self->ev[0], 100, 1);
	op = hands(EVERING_GIVE, unstarted, 100, &o[3]);
	ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &prepared));
	pump(self->s);
	evering_close(self->ev[1]);
	self->ev[1] = NULL;
	while (evering_ops_wait(A->ops, PLENTY) > 0)
		;
	for (i = 0; i < 4; i++)
		EXPECT_EQ(1u, o[i].times);
	EXPECT_EQ(-EPIPE, o[0].result);
	EXPECT_EQ(NULL, o[0].buf);
	EXPECT_EQ(-EPIPE, o[3].result);
	/* The caller's again, both; that of the detached one is free. */
	EXPECT_EQ(0, evering_free(self->ev[0], lent[0]));
	EXPECT_EQ(0, evering_free(self->ev[0], lent[1]));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], lent[2]));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], given));
	EXPECT_EQ(0, evering_op_cancel(A->ops, prepared, 0));
	EXPECT_EQ(0, evering_free(self->ev[0], unstarted));
	EXPECT_TRUE(arena_whole(self->ev[0]));
	EXPECT_TRUE(check_entry(received, 256, 256, 4));
	EXPECT_EQ(0, evering_free(self->ev[0], received));
	EXPECT_EQ(-EINVAL, evering_free(self->ev[0], received));
}

TEST_F(op_buffer, what_the_peer_may_still_use_stays_locked_after_closing)
{
	struct outcome o[2] = { 0 };
	void *lent[2], *given;
	struct evering_op op;
	uint64_t id;
	int i;

	for (i = 0; i < 2; i++) {
		lent[i] = filled(self->ev[0], 100, 7);
		op = hands(EVERING_LEND, lent[i], 100, &o[i]);
		ASSERT_EQ(0, ask(A, &op, &id));
	}
	ASSERT_EQ(0, evering_op_cancel(A->ops, id, EVERING_CANCEL_DETACH));
	given = filled(self->ev[0], 100, 7);
	op = hands(EVERING_GIVE, given, 100, &o[0]);
	ASSERT_EQ(0, evering_op_prepare(A->ops, &op, &id));
	pump(self->s);
	evering_ops_close(A->ops);
	EXPECT_EQ(1u, o[0].times);
	EXPECT_EQ(1u, o[1].times);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(-EBUSY, evering_free(self->ev[0], lent[i]));
	/* Never started, so never anybody else's. */
	EXPECT_EQ(0, evering_free(self->ev[0], given));
	for (i = 0; i < 2; i++)
		EXPECT_TRUE(check_entry(B->got[i].buf, 100, 7, 4));
}

/* ------------------------------------------------------------------- at random */

/* Who has which buffer, by the owner's side and the granule. */
struct trade {
	struct side *s;
	uint64_t *rng;
	void *mine[64]; /* given to this side, or its own */
	unsigned int n_mine;
	unsigned int in_flight;
	uint64_t held[64];
	void *held_lent[64];
	unsigned int n_held;
	int bad;
};

static void trade_done(struct evering_ops *ops,
		       const struct evering_completion *c)
{
	struct trade *t = c->user;
	void *lent = (void *)(uintptr_t)c->ext;

	(void)ops;
	t->in_flight--;
	if (c->buf)
		t->mine[t->n_mine++] = c->buf;
	if (lent && lent != c->buf)
		t->mine[t->n_mine++] = lent;
}

static void trade_request(struct evering_ops *ops,
			  const struct evering_request *r, void *context)
{
	struct trade *t = context;

	(void)ops;
	t->held[t->n_held] = r->id;
	t->held_lent[t->n_held++] = r->flags == EVERING_LEND ? r->buf : NULL;
	if (r->flags == EVERING_GIVE)
		t->mine[t->n_mine++] = r->buf;
}

static void *trade_pick(struct trade *t)
{
	uint32_t at;
	void *p;

	if (!t->n_mine)
		return NULL;
	at = (uint32_t)random_below(t->rng, t->n_mine);
	p = t->mine[at];
	t->mine[at] = t->mine[--t->n_mine];
	return p;
}

static bool own(struct evering *ev, const void *p)
{
	struct evering_arena_state arena;

	evering_get_arena(ev, EVERING_MINE, &arena);
	return p && evering_offset(ev, p) < arena.most;
}

static void trade_ask(struct trade *t)
{
	void *p = random_below(t->rng, 4) ? trade_pick(t) : NULL;
	struct evering_op op = asks(1, "abc", 3, NULL);
	int ret;

	if (p) {
		op.flags = own(t->s->ev, p) && random_below(t->rng, 2) ?
				   EVERING_LEND :
				   EVERING_GIVE;
		op.buf = p;
		op.buf_len = 1 + random_below(t->rng, 2);
		if (op.flags == EVERING_LEND)
			op.ext = (uintptr_t)p;
	}
	op.done = trade_done;
	op.user = t;
	ret = evering_op_submit(t->s->ops, &op, NULL, EVERING_NOWAIT);
	if (!ret)
		t->in_flight++;
	else if (p && (ret == -EAGAIN || ret == -EINVAL))
		t->mine[t->n_mine++] = p; /* no room, or more than is known */
	else if (ret != -EAGAIN)
		t->bad = ret;
}

static void trade_answer(struct trade *t, bool shared)
{
	uint32_t at = (uint32_t)random_below(t->rng, t->n_held);
	uint64_t id = t->held[at];
	void *p = t->held_lent[at];
	int ret;

	t->n_held--;
	t->held[at] = t->held[t->n_held];
	t->held_lent[at] = t->held_lent[t->n_held];
	if (p && shared && random_below(t->rng, 2)) {
		ret = evering_op_answer_buffer(t->s->ops, id, 1, p, 1);
	} else if (random_below(t->rng, 2)) {
		p = trade_pick(t);
		if (!p)
			p = evering_op_answer_alloc(t->s->ops, id, 65);
		ret = evering_op_answer_buffer(t->s->ops, id, 1, p, 1);
		if (ret == -EINVAL && !p)
			ret = evering_op_answer(t->s->ops, id, 1, NULL, 0);
	} else {
		ret = evering_op_answer(t->s->ops, id, 1, NULL, 0);
	}
	if (ret)
		t->bad = ret;
}

TEST_F_TIMEOUT(op_buffer, buffers_change_hands_at_random, 60)
{
	uint32_t steps = short_run() ? 5000 : 60000, step, i, idle;
	uint64_t rng = random_seed();
	struct trade t[2], *one;
	struct evering_ops_params p;
	int shared;
	void *buf;

	for (shared = 0; shared < 2; shared++) {
		ASSERT_EQ(0, remake(self->ev, self->backend, PAGE, 2 * PAGE,
				    shared));
		memset(t, 0, sizeof(t));
		for (i = 0; i < 2; i++) {
			p = (struct evering_ops_params)EVERING_OPS_PARAMS_INIT;
			p.depth = p.serve = 12;
			p.request = trade_request;
			p.context = &t[i];
			t[i].s = &self->s[i];
			t[i].s->ev = self->ev[i];
			t[i].rng = &rng;
			ASSERT_EQ(0, evering_ops_open(self->ev[i], &p,
						      &self->s[i].ops));
		}
		for (step = 0; step < steps; step++) {
			one = &t[random_below(&rng, 2)];
			switch (random_below(&rng, 8)) {
			case 0:
				buf = one->n_mine < 16 ?
					      evering_alloc(
						      one->s->ev,
						      1 + random_below(&rng,
								       300),
						      0) :
					      NULL;
				if (buf)
					one->mine[one->n_mine++] = buf;
				break;
			case 1:
				buf = trade_pick(one);
				ASSERT_EQ(0, evering_free(one->s->ev, buf));
				break;
			case 2:
			case 3:
				if (one->n_mine < 24)
					trade_ask(one);
				break;
			case 4:
			case 5:
				if (one->n_held && one->n_mine < 24)
					trade_answer(one, shared);
				break;
			default:
				ASSERT_LE(0, evering_ops_poll(one->s->ops));
			}
			if (one->n_mine > 20) {
				buf = trade_pick(one);
				ASSERT_EQ(0, evering_free(one->s->ev, buf));
			}
			ASSERT_EQ(0, one->bad);
		}
		for (idle = 0; idle < 4; idle++)
			for (i = 0; i < 2; i++) {
				if (evering_ops_poll(t[i].s->ops) > 0)
					idle = 0;
				while (t[i].n_held)
					trade_answer(&t[i], shared);
				while ((buf = trade_pick(&t[i])))
					ASSERT_EQ(0, evering_free(t[i].s->ev,
								  buf));
				ASSERT_EQ(0, t[i].bad);
			}
		EXPECT_EQ(0u, t[0].in_flight + t[1].in_flight);
		EXPECT_TRUE(all_home(self->s));
	}
}

TEST_HARNESS_MAIN
