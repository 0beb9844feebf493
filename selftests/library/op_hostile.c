// SPDX-License-Identifier: MIT
/*
 * op_hostile.c: a table whose peer breaks the rules.  The peer lays its entries by
 * hand.  Whatever cannot be ends the channel with -EPROTO: every operation has its
 * one outcome, every buffer of the victim's is home, and nothing beyond the arenas
 * was looked at.
 *
 * A kernel module, evering_echo, is the victim too: it is in no process, so that all there is
 * to see is that it ends the channel and goes on with others.
 */
#include "op.h"
#include "peer.h"

#define ARENA 65536u
#define GRANULES (ARENA / EVERING_OP_GRANULE)
#define SLOT 64u
#define PAYLOAD (SLOT - EVERING_STAMP_SIZE)
#define MAX_DATA (PAYLOAD - 16)
#define DEPTH 8u
#define STORE 8u
#define MOST 16u

struct entry {
	struct evering_op_header h;
	unsigned char rest[PAYLOAD - 16];
};

static struct entry entry_of(unsigned int type, uint64_t id, unsigned int flags,
			     unsigned int len, uint32_t code)
{
	struct entry e = { .h = {
				   .id = id,
				   .type = (uint8_t)type,
				   .flags = (uint8_t)flags,
				   .len = (uint16_t)len,
				   .code = code,
			   } };

	return e;
}

static struct entry hello(uint32_t version, uint32_t depth, uint32_t serve,
			  uint32_t store)
{
	struct entry e = entry_of(EVERING_OP_OPEN, 0, 0,
				  sizeof(struct evering_op_open), version);
	struct evering_op_open open = { depth, serve, store, 0 };

	memcpy(e.rest, &open, sizeof(open));
	return e;
}

/* With a buffer. */
static struct entry bringing(unsigned int type, uint64_t id, unsigned int kind,
			     uint32_t granule, uint32_t generation,
			     uint64_t len)
{
	struct evering_op_buffer b = { granule, generation, (uint32_t)len,
				       (uint32_t)(len >> 32) };
	struct entry e = entry_of(type, id, kind, 0, 1);

	memcpy(e.rest + sizeof(e.rest) - sizeof(b), &b, sizeof(b));
	return e;
}

/* One more goes home with @e, which brings no buffer. */
static struct entry sending_home(struct entry e, uint32_t granule,
				 uint32_t generation)
{
	struct evering_op_home home = { granule, generation };
	unsigned int n = e.h.flags >> EVERING_OP_HOME_SHIFT;

	memcpy(e.rest + sizeof(e.rest) - (n + 1) * sizeof(home), &home,
	       sizeof(home));
	e.h.flags = (uint8_t)(e.h.flags + (1 << EVERING_OP_HOME_SHIFT));
	return e;
}

static struct evering_op_buffer name_of(const struct entry *e)
{
	struct evering_op_buffer b;

	memcpy(&b, e->rest + sizeof(e->rest) - sizeof(b), sizeof(b));
	return b;
}

/* What the victim has under way when the peer begins. */
enum {
	PLAIN,
	FETCHED,
	LENDS,
	GIVES,
	ASKED,
	DETACHED,
	ANSWERED,
	ASKS
};

/* Both arenas can be written; what comes waits to be taken, and has no callbacks. */
#define SHARED 1u
#define INBOX 2u
#define WAYS 4u

/* Messages and posts that the victim has sent: in an entry, in a buffer, a post */
#define SENT 3u

struct scene {
	struct evering *ev[2];
	struct side v;
	unsigned int way;
	struct entry sent[SENT]; /* as the peer has it */
	struct evering_msg msg[MOST];
	unsigned int n_msg;
	uint64_t id[ASKS];
	void *buf[ASKS];
	struct outcome o[ASKS];
	struct entry asked[ASKS]; /* as the peer has it */
	uint64_t request; /* its own that the victim holds */
	bool busy[64]; /* places of the victim's for them */
	bool answered[ASKS];
	uint32_t n_put; /* messages and posts, from both sides, as the peer counts */
	uint32_t n_freed;
	uint32_t n_seen;
	uint32_t n_told;
};

#define RIVAL_GIVEN 3u
#define RIVAL_LENT 5u
#define RIVAL_MESSAGE 7u
/* Messages of the peer's that the victim has not freed */
#define KEPT 2u

static int put(struct scene *s, const struct entry *e)
{
	return evering_send(s->ev[1], e, PAYLOAD, EVERING_NOWAIT);
}

static void note_message(struct evering_ops *ops, const struct evering_msg *msg,
			 void *context)
{
	struct scene *s = context;

	(void)ops;
	if (s->n_msg < MOST)
		s->msg[s->n_msg] = *msg;
	s->n_msg++;
}

static void scene_request(struct evering_ops *ops,
			  const struct evering_request *request, void *context)
{
	struct scene *s = context;

	note_request(ops, request, &s->v);
}

static void scene_cancelled(struct evering_ops *ops, uint64_t id, void *context)
{
	struct scene *s = context;

	note_cancelled(ops, id, &s->v);
}

/* Takes what has come, as callbacks note it.  0; or why the channel has ended. */
static int polled(struct scene *s)
{
	struct evering_request request;
	struct evering_msg msg;
	int ret;

	if (!(s->way & INBOX)) {
		do
			ret = evering_ops_poll(s->v.ops);
		while (ret > 0);
		return ret;
	}
	do {
		while (!(ret = evering_msg_recv(s->v.ops, &msg, 0)))
			note_message(s->v.ops, &msg, s);
		ret = evering_op_next(s->v.ops, &request, EVERING_NOWAIT);
		if (!ret)
			note_request(s->v.ops, &request, &s->v);
	} while (!ret);
	return ret == -EAGAIN ? 0 : ret;
}

static void touch(const void *at, uint64_t len)
{
	const volatile unsigned char *p = at;

	if (len)
		(void)(p[0] + p[len - 1]);
}

/* Touches both ends of what has come, as a user would. */
static void look_at(const struct scene *s)
{
	unsigned int i;

	for (i = 0; i < s->v.n_got && i < NOTES; i++) {
		touch(s->v.got[i].data, s->v.got[i].len);
		touch(s->v.got[i].buf, s->v.got[i].buf_len);
	}
	for (i = 0; i < s->n_msg && i < MOST; i++)
		touch(s->msg[i].data, s->msg[i].len);
}

/* Each message can be freed once, whatever has become of the channel. */
static int free_messages(struct scene *s)
{
	unsigned int i;

	for (i = 0; i < s->n_msg && i < MOST; i++)
		if (evering_msg_free(s->v.ops, &s->msg[i]) ||
		    evering_msg_free(s->v.ops, &s->msg[i]) != -EINVAL)
			return __LINE__;
	s->n_msg = 0;
	return 0;
}

static int scene_channel(struct scene *s, uint32_t backend, unsigned int way)
{
	struct evering_params p = params_sized(backend, SLOT, 64, ARENA);
	struct evering_ops_params ops = EVERING_OPS_PARAMS_INIT;
	int ret;

	memset(s, 0, sizeof(*s));
	s->way = way;
	p.flags = way & SHARED ? EVERING_SHARED_ARENA : 0;
	p.arena_begin = EVERING_WHOLE;
	ret = evering_pair(&p, s->ev);
	if (ret)
		return ret;
	s->v.ev = s->ev[0];
	ops.depth = DEPTH;
	ops.serve = DEPTH;
	ops.store = STORE;
	ops.cancelled = scene_cancelled;
	ops.context = s;
	if (!(way & INBOX)) {
		ops.request = scene_request;
		ops.message = note_message;
	}
	return evering_ops_open(s->ev[0], &ops, &s->v.ops);
}

static int take(struct scene *s, unsigned int type, struct entry *e)
{
	return evering_recv(s->ev[1], e, PAYLOAD, EVERING_NOWAIT) ||
	       e->h.type != type;
}

/* What gets no answer, each way. */
static int scene_messages(struct scene *s)
{
	static unsigned char text[300];
	const struct iovec iov[2] = { { text, 20 }, { text, sizeof(text) } };
	struct evering_op post = { .opcode = 3 };
	struct entry e;

	post.flags = EVERING_GIVE;
	post.buf = evering_alloc(s->ev[0], 256, 0);
	post.buf_len = 200;
	if (evering_msg_send(s->v.ops, &iov[0], 1, EVERING_NOWAIT) ||
	    evering_msg_send(s->v.ops, &iov[1], 1, EVERING_NOWAIT) ||
	    evering_op_post(s->v.ops, &post, EVERING_NOWAIT))
		return __LINE__;
	if (take(s, EVERING_OP_MESSAGE, &s->sent[0]) ||
	    take(s, EVERING_OP_MESSAGE, &s->sent[1]) ||
	    take(s, EVERING_OP_POST, &s->sent[2]))
		return __LINE__;
	if (info_of(s->v.ops).credit != STORE - SENT)
		return __LINE__;

	e = entry_of(EVERING_OP_MESSAGE, 0, 0, 5, 0);
	if (put(s, &e))
		return __LINE__;
	e = bringing(EVERING_OP_MESSAGE, 0, EVERING_OP_GIVEN, RIVAL_MESSAGE, 0,
		     64);
	if (put(s, &e))
		return __LINE__;
	e = entry_of(EVERING_OP_POST, 0, 0, 5, 1);
	if (put(s, &e) || polled(s) || s->n_msg != KEPT)
		return __LINE__;
	return 0;
}

/* 0; or what went wrong, by line. */
static int scene_begin(struct scene *s, uint32_t backend, unsigned int way)
{
	struct entry e;
	struct evering_op op;
	int i;

	if (scene_channel(s, backend, way))
		return __LINE__;
	if (evering_recv(s->ev[1], &e, PAYLOAD, EVERING_NOWAIT) ||
	    e.h.type != EVERING_OP_OPEN || e.h.code != EVERING_OPS_VERSION)
		return __LINE__;
	e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
	if (put(s, &e) || polled(s))
		return __LINE__;
	/* This one first, so that others may come to its place. */
	for (i = ANSWERED; i >= 0; i--) {
		op = asks((uint32_t)i, NULL, 0, i == FETCHED ? NULL : &s->o[i]);
		if (i >= LENDS && i <= DETACHED) {
			s->buf[i] = evering_alloc(s->ev[0], 256, 0);
			op.buf = s->buf[i];
			op.buf_len = 200;
			op.flags = i == GIVES ? EVERING_GIVE : EVERING_LEND;
		}
		if (evering_op_submit(s->v.ops, &op, &s->id[i], EVERING_NOWAIT))
			return __LINE__;
		if (evering_recv(s->ev[1], &s->asked[i], PAYLOAD,
				 EVERING_NOWAIT) ||
		    s->asked[i].h.id != s->id[i] ||
		    s->asked[i].h.type != EVERING_OP_REQUEST)
			return __LINE__;
		if (i == ANSWERED) {
			e = entry_of(EVERING_OP_ANSWER, s->id[i], 0, 0, 1);
			if (put(s, &e) || polled(s) || s->o[i].times != 1)
				return __LINE__;
		}
	}
	if (evering_op_cancel(s->v.ops, s->id[ASKED], 0) ||
	    evering_op_cancel(s->v.ops, s->id[DETACHED], EVERING_CANCEL_DETACH))
		return __LINE__;

	s->request = 1 | 1 << EVERING_OP_INDEX_BITS;
	e = entry_of(EVERING_OP_REQUEST, s->request, 0, 4, 1);
	if (put(s, &e))
		return __LINE__;
	e = bringing(EVERING_OP_REQUEST, s->request + 1, EVERING_OP_GIVEN,
		     RIVAL_GIVEN, 0, 64);
	if (put(s, &e))
		return __LINE__;
	e = bringing(EVERING_OP_REQUEST, s->request + 2, EVERING_OP_LENT,
		     RIVAL_LENT, 0, 64);
	if (put(s, &e) || polled(s) || s->v.n_got != 3)
		return __LINE__;
	return scene_messages(s);
}

/* Everything has ended with @error, once, and all is the victim's again. */
static int scene_ended(struct scene *s, int error)
{
	struct evering_completion c;
	struct evering_op op = asks(1, NULL, 0, NULL);
	unsigned int i;

	look_at(s);
	if (free_messages(s))
		return __LINE__;
	for (i = 0; i < ASKS; i++)
		if (i != FETCHED && s->o[i].times != 1)
			return __LINE__;
	if (s->o[PLAIN].result != error || s->o[GIVES].result != error ||
	    s->o[LENDS].result != error || s->o[DETACHED].result != -ECANCELED)
		return __LINE__;
	if (evering_op_done(s->v.ops, s->id[FETCHED], &c) ||
	    c.result != error ||
	    evering_op_done(s->v.ops, s->id[FETCHED], &c) != -ENOENT)
		return __LINE__;
	if (info_of(s->v.ops).in_flight || info_of(s->v.ops).abandoned)
		return __LINE__;
	if (evering_ops_poll(s->v.ops) != error ||
	    evering_ops_wait(s->v.ops, PLENTY) != error ||
	    evering_op_submit(s->v.ops, &op, NULL, PLENTY) != error)
		return __LINE__;
	for (i = 0; i < s->v.n_got && i < NOTES; i++)
		if (evering_op_answer(s->v.ops, s->v.got[i].id, 0, NULL, 0) !=
		    (s->v.got[i].flags & EVERING_POST ? -ESTALE : error))
			return __LINE__;
	if (evering_free(s->ev[0], s->buf[LENDS]) ||
	    evering_free(s->ev[0], s->buf[ASKED]) ||
	    evering_free(s->ev[0], s->buf[GIVES]) != -EINVAL ||
	    evering_free(s->ev[0], s->buf[DETACHED]) != -EINVAL)
		return __LINE__;
	return arena_whole(s->ev[0]) ? 0 : __LINE__;
}

FIXTURE(op_hostile)
{
	uint32_t backend;
};

BACKEND_VARIANTS(op_hostile);

FIXTURE_SETUP(op_hostile)
{
	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
}

FIXTURE_TEARDOWN(op_hostile)
{
}

/*
 * Plays @n entries made by @make.  Those before the last are right, the last one is
 * not if @wrong.
 */
typedef unsigned int (*make_fn)(struct scene *s, unsigned int which,
				struct entry *e);

/* 0: that was it; else a line, which @make may look up. */
static int play(uint32_t backend, unsigned int way, make_fn make,
		unsigned int which, bool wrong, bool *more)
{
	struct entry e[MOST];
	unsigned int n, i;
	struct scene s;
	int ret, line;

	*more = false;
	line = scene_begin(&s, backend, way);
	if (line)
		goto out;
	n = make(&s, which, e);
	*more = n != 0;
	if (!n)
		goto out;
	for (i = 0; i < n && !line; i++) {
		if (put(&s, &e[i])) {
			line = __LINE__;
			break;
		}
		ret = polled(&s);
		if (ret != (wrong && i == n - 1 ? -EPROTO : 0))
			line = __LINE__;
	}
	if (line)
		goto out;
	look_at(&s);
	if (wrong)
		line = scene_ended(&s, -EPROTO);
	else if (free_messages(&s))
		line = __LINE__;
	else if (evering_ops_poll(s.v.ops) < 0)
		line = __LINE__;
out:
	close_pair(s.ev);
	return line;
}

#define ANSWER EVERING_OP_ANSWER
#define REQUEST EVERING_OP_REQUEST

static unsigned int make_header(struct scene *s, unsigned int which,
				struct entry *e)
{
	uint64_t id = s->request + 3, answer = s->id[PLAIN];

	switch (which) {
	case 0:
		e[0] = entry_of(0, 0, 0, 0, 0);
		return 1;
	case 1:
		e[0] = entry_of(EVERING_OP_MESSAGE + 1, id, 0, 0, 0);
		return 1;
	case 2:
		e[0] = entry_of(255, id, 0, 0, 0);
		return 1;
	case 3: /* more data than there is room for */
		e[0] = entry_of(REQUEST, id, 0, MAX_DATA + 1, 0);
		return 1;
	case 4:
		e[0] = entry_of(REQUEST, id, 0, 0xffff, 0);
		return 1;
	case 5:
		e[0] = entry_of(ANSWER, answer, 0, MAX_DATA + 1, 0);
		return 1;
	case 6:
		e[0] = entry_of(ANSWER, answer, 0, 0xffff, 0);
		return 1;
	case 7:
		e[0] = bringing(REQUEST, id, EVERING_OP_GIVEN, 9, 0, 64);
		e[0].h.len = MAX_DATA - 15;
		return 1;
	case 8:
		e[0] = entry_of(EVERING_OP_CANCEL, s->request, 0, MAX_DATA + 1,
				0);
		return 1;
	case 9:
		e[0] = entry_of(EVERING_OP_HOME, 0, 0, 0xffff, 0);
		return 1;
	case 10: /* buffers of no kind */
	case 11:
	case 12:
		e[0] = bringing(REQUEST, id, which - 5, 9, 0, 64);
		return 1;
	case 13:
	case 14:
	case 15:
		e[0] = bringing(ANSWER, answer, which - 8, 9, 0, 64);
		return 1;
	case 16: /* buffers where there is none */
		e[0] = bringing(EVERING_OP_CANCEL, s->request, EVERING_OP_GIVEN,
				9, 0, 64);
		return 1;
	case 17:
		e[0] = bringing(EVERING_OP_HOME, 0, EVERING_OP_GIVEN, 9, 0, 64);
		return 1;
	case 18:
		e[0] = bringing(EVERING_OP_OPEN, 0, EVERING_OP_LENT, 9, 0, 64);
		return 1;
	case 19: /* a second opening */
		e[0] = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
		return 1;
	default:
		return 0;
	}
}

static unsigned int make_flags(struct scene *s, unsigned int which,
			       struct entry *e)
{
	uint64_t answer = s->id[PLAIN];

	switch (which) {
	case 0:
		e[0] = entry_of(EVERING_OP_CANCEL, s->request, 8, 0, 0);
		return 1;
	case 1:
		e[0] = entry_of(ANSWER, answer, 8, 0, 0);
		return 1;
	case 2:
		e[0] = entry_of(EVERING_OP_HOME, 0, 8, 0, 0);
		return 1;
	default:
		return 0;
	}
}

static unsigned int make_id(struct scene *s, unsigned int which,
			    struct entry *e)
{
	const uint64_t generation = 1ull << EVERING_OP_INDEX_BITS;
	uint64_t plain = s->id[PLAIN];
	struct evering_op_buffer gift;

	switch (which) {
	case 0: /* requests that there is no place for */
		e[0] = entry_of(REQUEST, 0, 0, 0, 0);
		return 1;
	case 1:
		e[0] = entry_of(REQUEST, generation, 0, 0, 0);
		return 1;
	case 2:
		e[0] = entry_of(REQUEST,
				generation | (DEPTH + EVERING_OP_SPARE + 1), 0,
				0, 0);
		return 1;
	case 3: /* a place that is taken: plainly, by a gift, by a loan */
	case 4:
	case 5:
		e[0] = entry_of(REQUEST, s->request + which - 3, 0, 0, 0);
		return 1;
	case 6:
	case 7:
	case 8:
		e[0] = entry_of(REQUEST, s->request + generation + which - 6, 0,
				0, 0);
		return 1;
	case 9: /* and by one that was cancelled */
		e[0] = entry_of(EVERING_OP_CANCEL, s->request, 0, 0, 0);
		e[1] = entry_of(REQUEST, s->request, 0, 0, 0);
		return 2;
	case 10: /* answers to what was not asked */
		e[0] = entry_of(ANSWER, 0, 0, 0, 0);
		return 1;
	case 11:
		e[0] = entry_of(ANSWER, 1, 0, 0, 0);
		return 1;
	case 12:
		e[0] = entry_of(ANSWER, generation, 0, 0, 0);
		return 1;
	case 13:
		e[0] = entry_of(ANSWER, UINT64_MAX, 0, 0, 0);
		return 1;
	case 14: /* of another generation */
		e[0] = entry_of(ANSWER, plain + generation, 0, 0, 0);
		return 1;
	case 15:
		e[0] = entry_of(ANSWER, plain - generation, 0, 0, 0);
		return 1;
	case 16:
		e[0] = entry_of(ANSWER, plain | 1ull << 63, 0, 0, 0);
		return 1;
	case 17:
		e[0] = entry_of(ANSWER, plain | 1ull << 32, 0, 0, 0);
		return 1;
	case 18: /* an index that means the same place */
		e[0] = entry_of(ANSWER, plain + 16, 0, 0, 0);
		return 1;
	case 19: /* of those that were answered */
		e[0] = entry_of(ANSWER, s->id[ANSWERED], 0, 0, 0);
		return 1;
	case 20:
		e[0] = bringing(ANSWER, s->id[ANSWERED], EVERING_OP_GIVEN, 9, 0,
				64);
		return 1;
	case 21: /* with one that would be welcome */
		gift = name_of(&s->asked[GIVES]);
		e[0] = bringing(ANSWER, s->id[ANSWERED], EVERING_OP_BACK,
				gift.granule, gift.generation, 64);
		return 1;
	default:
		return 0;
	}
}

static unsigned int make_buffer(struct scene *s, unsigned int which,
				struct entry *e)
{
	struct evering_op_buffer gift = name_of(&s->asked[GIVES]);
	struct evering_op_buffer lent = name_of(&s->asked[LENDS]);
	uint64_t id = s->request + 3, answer = s->id[PLAIN];
	unsigned int kind = which & 1 ? EVERING_OP_GIVEN : EVERING_OP_LENT;
	const struct {
		uint32_t granule;
		uint64_t len;
	} nowhere[] = {
		{ GRANULES, 1 },
		{ UINT32_MAX, 1 },
		{ GRANULES + 1, UINT64_MAX },
		{ 9, 0 },
		{ GRANULES - 1, 65 },
		{ 0, ARENA + 1 },
		{ 1, ARENA },
		{ 9, UINT64_MAX },
		{ 9, UINT64_MAX - 9 * 64 + 1 },
		{ 9, 1ull << 32 },
		/* It has these already. */
		{ RIVAL_GIVEN, 64 },
		{ RIVAL_LENT, 64 },
	};

	if (which < 2 * ARRAY_SIZE(nowhere)) {
		e[0] = bringing(REQUEST, id, kind, nowhere[which / 2].granule,
				7, nowhere[which / 2].len);
		return 1;
	}
	which -= 2 * ARRAY_SIZE(nowhere);
	if (which < ARRAY_SIZE(nowhere)) {
		e[0] = bringing(ANSWER, answer, EVERING_OP_GIVEN,
				nowhere[which].granule, 7, nowhere[which].len);
		return 1;
	}
	which -= ARRAY_SIZE(nowhere);
	kind = EVERING_OP_BACK;
	switch (which) {
	case 0:
		e[0] = bringing(ANSWER, answer, EVERING_OP_LENT, 9, 0, 64);
		return 1;
	case 1:
		e[0] = bringing(REQUEST, id, EVERING_OP_IN_PLACE, 9, 0, 64);
		return 1;
	/* Back, though it was not given */
	case 2:
		e[0] = bringing(REQUEST, id, kind, lent.granule,
				lent.generation, 64);
		return 1;
	case 3:
		e[0] = bringing(REQUEST, id, kind, GRANULES - 1, 0, 64);
		return 1;
	case 4:
		e[0] = bringing(REQUEST, id, kind, gift.granule + 1,
				gift.generation, 64);
		return 1;
	case 5:
		e[0] = bringing(REQUEST, id, kind, GRANULES, 0, 64);
		return 1;
	case 6:
		e[0] = bringing(REQUEST, id, kind, UINT32_MAX, 0, 64);
		return 1;
	case 7:
		e[0] = bringing(REQUEST, id, kind, gift.granule,
				gift.generation + 1, 64);
		return 1;
	case 8:
		e[0] = bringing(REQUEST, id, kind, gift.granule,
				gift.generation - 1, 64);
		return 1;
	case 9:
		e[0] = bringing(REQUEST, id, kind, gift.granule,
				gift.generation, 0);
		return 1;
	case 10: /* longer than the block */
		e[0] = bringing(REQUEST, id, kind, gift.granule,
				gift.generation, 257);
		return 1;
	case 11:
		e[0] = bringing(REQUEST, id, kind, gift.granule,
				gift.generation, 1ull << 32 | 1);
		return 1;
	case 12:
		e[0] = bringing(ANSWER, answer, kind, lent.granule,
				lent.generation, 64);
		return 1;
	/* In place, where nothing was lent, or less, or not to be written */
	case 13:
		e[0] = bringing(ANSWER, answer, EVERING_OP_IN_PLACE, 0, 0, 1);
		return 1;
	case 14:
		e[0] = bringing(ANSWER, s->id[GIVES], EVERING_OP_IN_PLACE,
				gift.granule, gift.generation, 1);
		return 1;
	case 15:
		e[0] = bringing(ANSWER, s->id[LENDS], EVERING_OP_IN_PLACE, 0, 0,
				0);
		return 1;
	case 16:
		e[0] = bringing(ANSWER, s->id[LENDS], EVERING_OP_IN_PLACE, 0, 0,
				201);
		return 1;
	case 17:
		e[0] = bringing(ANSWER, s->id[LENDS], EVERING_OP_IN_PLACE, 0, 0,
				1ull << 32 | 1);
		return 1;
	case 18:
		if (s->way & SHARED)
			return 0;
		e[0] = bringing(ANSWER, s->id[LENDS], EVERING_OP_IN_PLACE, 0, 0,
				200);
		return 1;
	default:
		return 0;
	}
}

static unsigned int make_home(struct scene *s, unsigned int which,
			      struct entry *e)
{
	struct evering_op_buffer gift = name_of(&s->asked[GIVES]);
	struct evering_op_buffer lent = name_of(&s->asked[LENDS]);
	struct entry home = entry_of(EVERING_OP_HOME, 0, 0, 0, 0);

	switch (which) {
	case 0:
		e[0] = sending_home(home, lent.granule, lent.generation);
		return 1;
	case 1:
		e[0] = sending_home(home, 0x300, 0);
		return 1;
	case 2:
		e[0] = sending_home(home, GRANULES, 0);
		return 1;
	case 3:
		e[0] = sending_home(home, UINT32_MAX, UINT32_MAX);
		return 1;
	case 4:
		e[0] = sending_home(home, gift.granule, gift.generation + 1);
		return 1;
	case 5: /* wider than the owner counts */
		e[0] = sending_home(home, gift.granule,
				    gift.generation | 1u << 30);
		return 1;
	case 6:
		e[0] = sending_home(home, gift.granule + 1, gift.generation);
		return 1;
	case 7: /* more than fit */
		e[0] = home;
		e[0].h.flags = 15 << EVERING_OP_HOME_SHIFT;
		return 1;
	case 8:
		e[0] = sending_home(home, gift.granule, gift.generation);
		e[0].h.len = MAX_DATA - 7;
		return 1;
	case 9: /* with a buffer in between */
		e[0] = bringing(REQUEST, s->request + 3, EVERING_OP_GIVEN, 9, 0,
				64);
		e[0].h.flags |= 4 << EVERING_OP_HOME_SHIFT;
		return 1;
	case 10:
		e[0] = sending_home(entry_of(EVERING_OP_OPEN, 0, 0, 8, 1),
				    lent.granule, lent.generation);
		return 1;
	case 11:
		e[0] = sending_home(entry_of(ANSWER, s->id[PLAIN], 0, 0, 0),
				    lent.granule, lent.generation);
		return 1;
	default:
		return 0;
	}
}

/*
 * The same with something right before: then what is its own again is no more home
 * than before.  scene_ended() does not fit, so only the end is looked for.
 */
static unsigned int make_twice(struct scene *s, unsigned int which,
			       struct entry *e)
{
	struct evering_op_buffer gift = name_of(&s->asked[GIVES]);
	struct entry home = sending_home(entry_of(EVERING_OP_HOME, 0, 0, 0, 0),
					 gift.granule, gift.generation);
	uint64_t id = s->request + 3;

	switch (which) {
	case 0:
		e[0] = home;
		e[1] = home;
		return 2;
	case 1:
		e[0] = sending_home(home, gift.granule, gift.generation);
		return 1;
	case 2:
		e[0] = bringing(REQUEST, id, EVERING_OP_BACK, gift.granule,
				gift.generation, 64);
		e[1] = bringing(REQUEST, id + 1, EVERING_OP_BACK, gift.granule,
				gift.generation, 64);
		return 2;
	case 3:
		e[0] = bringing(REQUEST, id, EVERING_OP_BACK, gift.granule,
				gift.generation, 64);
		e[1] = home;
		return 2;
	case 4:
		e[0] = home;
		e[1] = bringing(ANSWER, s->id[PLAIN], EVERING_OP_BACK,
				gift.granule, gift.generation, 64);
		return 2;
	case 5: /* both in one entry */
		e[0] = bringing(REQUEST, id, EVERING_OP_BACK, gift.granule,
				gift.generation, 64);
		memcpy(e[0].rest + sizeof(e[0].rest) - 24,
		       home.rest + sizeof(home.rest) - 8, 8);
		e[0].h.flags |= 1 << EVERING_OP_HOME_SHIFT;
		return 1;
	case 6:
		e[0] = entry_of(ANSWER, s->id[PLAIN], 0, 0, 0);
		e[1] = e[0];
		return 2;
	case 7:
		e[0] = entry_of(ANSWER, s->id[FETCHED], 0, 0, 0);
		e[1] = e[0];
		return 2;
	case 8:
		e[0] = entry_of(ANSWER, s->id[DETACHED], 0, 0, 0);
		e[1] = e[0];
		return 2;
	case 9:
		e[0] = entry_of(ANSWER, s->id[ASKED], 0, 0, 0);
		e[1] = e[0];
		return 2;
	default:
		return 0;
	}
}

#define MESSAGE EVERING_OP_MESSAGE
#define POST EVERING_OP_POST
#define HOME EVERING_OP_HOME

/* Messages and posts: what is wrong with either. */
static unsigned int make_message(struct scene *s, unsigned int which,
				 struct entry *e)
{
	const struct {
		uint32_t granule;
		uint64_t len;
	} nowhere[] = {
		{ GRANULES, 1 },
		{ UINT32_MAX, 1 },
		{ GRANULES + 1, UINT64_MAX },
		{ 9, 0 },
		{ GRANULES - 1, 65 },
		{ 0, ARENA + 1 },
		{ 1, ARENA },
		{ 9, UINT64_MAX },
		{ 9, 1ull << 32 },
		/* It has these already. */
		{ RIVAL_GIVEN, 64 },
		{ RIVAL_LENT, 64 },
		{ RIVAL_MESSAGE, 64 },
	};
	static const unsigned int bad_kinds[] = {
		EVERING_OP_LENT, EVERING_OP_IN_PLACE, 5, 6, 7, EVERING_OP_BACK,
	};
	const unsigned int type = which & 1 ? POST : MESSAGE;
	struct evering_op_buffer gift = name_of(&s->asked[GIVES]);
	unsigned int kind;

	which /= 2;
	if (which < ARRAY_SIZE(nowhere)) {
		e[0] = bringing(type, 0, EVERING_OP_GIVEN,
				nowhere[which].granule, 7, nowhere[which].len);
		return 1;
	}
	which -= ARRAY_SIZE(nowhere);
	if (which < ARRAY_SIZE(bad_kinds)) {
		kind = bad_kinds[which];
		e[0] = bringing(type, 0, kind, 9, 0, 64);
		/* A post may bring one back; a message may not even so. */
		if (kind == EVERING_OP_BACK && type == MESSAGE)
			e[0] = bringing(type, 0, kind, gift.granule,
					gift.generation, 64);
		return 1;
	}
	which -= ARRAY_SIZE(bad_kinds);
	switch (which) {
	case 0:
		e[0] = entry_of(type, 0, 0, MAX_DATA + 1, 0);
		return 1;
	case 1:
		e[0] = entry_of(type, 0, 0, 0xffff, 0);
		return 1;
	case 2:
		e[0] = bringing(type, 0, EVERING_OP_GIVEN, 9, 0, 64);
		e[0].h.len = MAX_DATA - 15;
		return 1;
	case 3:
		e[0] = entry_of(type, 0, EVERING_OP_AGAIN, 4, 0);
		return 1;
	case 4: /* more go home than fit, and what is not away */
		e[0] = entry_of(type, 0, 15 << EVERING_OP_HOME_SHIFT, 4, 0);
		return 1;
	case 5:
		e[0] = sending_home(entry_of(type, 0, 0, 4, 0), GRANULES - 1,
				    0);
		return 1;
	default:
		return 0;
	}
}

/* What only a message can, or only a post. */
static unsigned int make_store(struct scene *s, unsigned int which,
			       struct entry *e)
{
	struct evering_op_buffer gift = name_of(&s->asked[GIVES]);
	struct evering_op_buffer msg = name_of(&s->sent[1]);
	unsigned int i;

	switch (which) {
	case 0: /* more than are stored */
	case 1:
		for (i = 0; i <= STORE - KEPT; i++)
			e[i] = entry_of(MESSAGE, 0, 0, 1, 0);
		if (which)
			e[i - 1] = bringing(MESSAGE, 0, EVERING_OP_GIVEN, 9, 0,
					    64);
		return i;
	case 2:
		for (i = 0; i < STORE - KEPT; i++)
			e[i] = entry_of(MESSAGE, 0, 0, 1, 0);
		e[i++] = entry_of(POST, 0, 0, 1, 0);
		return i;
	/* A post brings back what was not given, or too much of it. */
	case 3:
		e[0] = bringing(POST, 0, EVERING_OP_BACK, gift.granule + 1,
				gift.generation, 64);
		return 1;
	case 4:
		e[0] = bringing(POST, 0, EVERING_OP_BACK, gift.granule,
				gift.generation + 1, 64);
		return 1;
	case 5:
		e[0] = bringing(POST, 0, EVERING_OP_BACK, gift.granule,
				gift.generation, 0);
		return 1;
	case 6:
		e[0] = bringing(POST, 0, EVERING_OP_BACK, gift.granule,
				gift.generation, 257);
		return 1;
	/* Finished with what it never had */
	case 7:
	case 8:
		e[0] = entry_of(HOME, 0, 0, 0, which == 7 ? SENT + 1 : STORE);
		return 1;
	case 9:
		e[0] = entry_of(HOME, 0, 0, 0, UINT32_MAX);
		return 1;
	case 10:
		e[0] = entry_of(HOME, 0, 0, 0, 1u << 31);
		return 1;
	/* Then with less again, or with more */
	case 11:
		e[0] = entry_of(HOME, 0, 0, 0, 2);
		e[1] = entry_of(HOME, 0, 0, 0, 1);
		return 2;
	case 12:
		e[0] = entry_of(HOME, 0, 0, 0, SENT);
		e[1] = entry_of(HOME, 0, 0, 0, 0);
		return 2;
	case 13:
		e[0] = entry_of(HOME, 0, 0, 0, SENT);
		e[1] = entry_of(HOME, 0, 0, 0, SENT + 1);
		return 2;
	/* A message's buffer comes home twice, or is another one */
	case 14:
		e[0] = sending_home(entry_of(HOME, 0, 0, 0, 1), msg.granule,
				    msg.generation);
		e[1] = e[0];
		return 2;
	case 15:
		e[0] = sending_home(entry_of(HOME, 0, 0, 0, 1), msg.granule,
				    msg.generation + 1);
		return 1;
	default:
		return 0;
	}
}

/* What is unusual, and right. */
static unsigned int make_right(struct scene *s, unsigned int which,
			       struct entry *e)
{
	struct evering_op_buffer gift = name_of(&s->asked[GIVES]);
	uint64_t id = s->request + 3;

	switch (which) {
	case 0:
		e[0] = entry_of(REQUEST, id, 0, MAX_DATA, 0);
		return 1;
	case 1:
		e[0] = bringing(REQUEST, id, EVERING_OP_GIVEN, GRANULES - 1,
				UINT32_MAX, 64);
		e[0].h.len = MAX_DATA - 16;
		return 1;
	case 2:
		e[0] = bringing(REQUEST, id, EVERING_OP_LENT, 0, 0, ARENA);
		return 1;
	case 3: /* the news of an end may come too late */
		e[0] = entry_of(EVERING_OP_CANCEL, 1ull << 60, 0, 0, 0);
		e[1] = entry_of(EVERING_OP_CANCEL, UINT64_MAX, 0, 0, 0);
		e[2] = entry_of(EVERING_OP_CANCEL, s->request, 0, 0, 0);
		e[3] = entry_of(EVERING_OP_CANCEL, s->request, 0, 0, 0);
		return 4;
	case 4:
		e[0] = bringing(ANSWER, s->id[PLAIN], EVERING_OP_BACK,
				gift.granule, gift.generation, 256);
		return 1;
	case 5:
		e[0] = sending_home(entry_of(ANSWER, s->id[LENDS], 0,
					     MAX_DATA - 8, 0),
				    gift.granule, gift.generation);
		return 1;
	case 6:
		e[0] = bringing(ANSWER, s->id[DETACHED], EVERING_OP_GIVEN, 9, 0,
				64);
		e[1] = bringing(ANSWER, s->id[ASKED], EVERING_OP_GIVEN, 10, 0,
				64);
		return 2;
	case 7:
		if (!(s->way & SHARED))
			return 0;
		e[0] = bringing(ANSWER, s->id[LENDS], EVERING_OP_IN_PLACE, 0, 0,
				200);
		e[1] = bringing(ANSWER, s->id[DETACHED], EVERING_OP_IN_PLACE, 0,
				0, 200);
		e[2] = bringing(ANSWER, s->id[ASKED], EVERING_OP_IN_PLACE, 0, 0,
				200);
		return 3;
	case 8: /* all that there are places for */
		e[0] = entry_of(MESSAGE, 0, 0, 0, 0);
		e[1] = entry_of(MESSAGE, 0, 0, MAX_DATA, 0);
		e[2] = bringing(MESSAGE, 0, EVERING_OP_GIVEN, 9, UINT32_MAX, 1);
		e[3] = bringing(MESSAGE, 0, EVERING_OP_GIVEN, 0, 0, ARENA);
		e[4] = entry_of(MESSAGE, 0, 0, 1, 0);
		e[5] = entry_of(POST, 0, 0, MAX_DATA, UINT32_MAX);
		return 6;
	case 9:
		e[0] = bringing(POST, 0, EVERING_OP_BACK, gift.granule,
				gift.generation, 256);
		e[0].h.len = MAX_DATA - 16;
		e[1] = bringing(POST, 0, EVERING_OP_GIVEN, 9, 0, 64);
		return 2;
	case 10: /* what is said twice, and what is new */
		e[0] = entry_of(HOME, 0, 0, MAX_DATA, 0);
		e[1] = entry_of(HOME, 0, 0, 0, 1);
		e[2] = entry_of(HOME, 0, 0, 0, 1);
		e[3] = entry_of(HOME, 0, 0, 0, SENT);
		return 4;
	case 11: /* a buffer goes home with a message */
		e[0] = sending_home(entry_of(MESSAGE, 0, 0, MAX_DATA - 8, 0),
				    name_of(&s->sent[1]).granule,
				    name_of(&s->sent[1]).generation);
		return 1;
	default:
		return 0;
	}
}

#define PLAY(make, wrong)                                                   \
	do {                                                                \
		unsigned int which_, way_;                                  \
		bool more_ = true;                                          \
		int line_;                                                  \
                                                                            \
		for (way_ = 0; way_ < WAYS; way_++)                         \
			for (which_ = 0, more_ = true; more_; which_++) {   \
				line_ = play(self->backend, way_, make,     \
					     which_, wrong, &more_);        \
				EXPECT_EQ(0, line_)                         \
				{                                           \
					TH_LOG("%s %u, way %u: line %d",    \
					       #make, which_, way_, line_); \
				}                                           \
			}                                                   \
	} while (0)

TEST_F(op_hostile, what_is_unusual_and_right_is_taken)
{
	PLAY(make_right, false);
}

TEST_F(op_hostile, a_wrong_header_ends_the_channel)
{
	PLAY(make_header, true);
}

/* Bits that mean nothing yet: who sets them means something by it. */
TEST_F(op_hostile, an_unknown_flag_ends_the_channel)
{
	PLAY(make_flags, true);
}

TEST_F(op_hostile, a_wrong_id_ends_the_channel)
{
	PLAY(make_id, true);
}

TEST_F(op_hostile, a_wrong_buffer_ends_the_channel)
{
	PLAY(make_buffer, true);
}

TEST_F(op_hostile, a_wrong_message_or_post_ends_the_channel)
{
	PLAY(make_message, true);
}

TEST_F(op_hostile, more_than_is_stored_or_was_sent_ends_the_channel)
{
	PLAY(make_store, true);
}

TEST_F(op_hostile, a_wrong_homecoming_ends_the_channel)
{
	PLAY(make_home, true);
}

TEST_F(op_hostile, what_is_done_twice_ends_the_channel)
{
	struct entry e[MOST];
	struct scene s;
	unsigned int which, n, i;
	int ret;

	for (which = 0;; which++) {
		ASSERT_EQ(0, scene_begin(&s, self->backend, which % WAYS));
		n = make_twice(&s, which, e);
		for (i = 0; i < n; i++) {
			ASSERT_EQ(0, put(&s, &e[i]));
			ret = polled(&s);
			EXPECT_EQ(i == n - 1 ? -EPROTO : 0, ret)
			{
				TH_LOG("%u", which);
			}
		}
		for (i = 0; i < ASKS && n; i++)
			EXPECT_EQ(i == FETCHED ? 0u : 1u, s.o[i].times);
		/* What came back is the victim's, and only once. */
		ret = n ? evering_free(s.ev[0], s.buf[GIVES]) : 0;
		EXPECT_TRUE(ret == 0 || ret == -EINVAL);
		if (n) {
			EXPECT_EQ(0, evering_free(s.ev[0], s.buf[LENDS]));
			EXPECT_EQ(0, evering_free(s.ev[0], s.buf[ASKED]));
			EXPECT_TRUE(arena_whole(s.ev[0]))
			{
				TH_LOG("%u", which);
			}
		}
		close_pair(s.ev);
		if (!n)
			break;
	}
	EXPECT_LT(5u, which);
}

TEST_F(op_hostile, the_first_entry_opens_the_table)
{
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct entry e;
	struct scene s;
	uint32_t type, index;

	for (type = 0; type < 10; type++)
		for (index = 0; index < 4; index++) {
			if (type == EVERING_OP_OPEN)
				continue;
			ASSERT_EQ(0, scene_channel(&s, self->backend, false));
			e = entry_of(type,
				     1ull << EVERING_OP_INDEX_BITS | index, 0,
				     0, 0);
			ASSERT_EQ(0, put(&s, &e));
			EXPECT_EQ(-EPROTO, polled(&s))
			{
				TH_LOG("type %u, index %u", type, index);
			}
			EXPECT_EQ(0u, s.v.n_got);
			EXPECT_EQ(-EPROTO, evering_op_submit(s.v.ops, &op, NULL,
							     EVERING_NOWAIT));
			close_pair(s.ev);
		}
}

TEST_F(op_hostile, versions_and_openings_that_cannot_be)
{
	static const uint32_t version[] = { 0, EVERING_OPS_VERSION + 1,
					    UINT32_MAX };
	struct evering_op op = asks(1, NULL, 0, NULL);
	struct entry e;
	struct scene s;
	uint32_t i;

	for (i = 0; i < ARRAY_SIZE(version); i++) {
		ASSERT_EQ(0, scene_channel(&s, self->backend, false));
		e = hello(version[i], DEPTH, DEPTH, STORE);
		ASSERT_EQ(0, put(&s, &e));
		EXPECT_EQ(-EPROTONOSUPPORT, polled(&s));
		EXPECT_EQ(-EPROTONOSUPPORT, evering_ops_wait(s.v.ops, PLENTY));
		EXPECT_EQ(-EPROTONOSUPPORT,
			  evering_op_submit(s.v.ops, &op, NULL, PLENTY));
		close_pair(s.ev);
	}
	for (i = 0; i < sizeof(struct evering_op_open); i++) {
		ASSERT_EQ(0, scene_channel(&s, self->backend, false));
		e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
		e.h.len = (uint16_t)i;
		ASSERT_EQ(0, put(&s, &e));
		EXPECT_EQ(-EPROTO, polled(&s));
		close_pair(s.ev);
	}
	/* Who wants too much has what there is. */
	ASSERT_EQ(0, scene_channel(&s, self->backend, false));
	e = hello(EVERING_OPS_VERSION, UINT32_MAX, UINT32_MAX, UINT32_MAX);
	ASSERT_EQ(0, put(&s, &e));
	EXPECT_EQ(0, polled(&s));
	EXPECT_EQ(DEPTH, info_of(s.v.ops).depth);
	EXPECT_EQ(DEPTH, info_of(s.v.ops).serve);
	close_pair(s.ev);
}

static int send_one(struct scene *s, uint64_t len)
{
	static unsigned char text[4096];
	const struct iovec iov = { text, len };

	return evering_msg_send(s->v.ops, &iov, 1, EVERING_NOWAIT);
}

/* Whatever a peer says that it stores, it is sent no more than the ring takes. */
TEST_F(op_hostile, stores_that_cannot_be)
{
	static const uint32_t stores[] = { 0, 1, 1u << 31, UINT32_MAX };
	uint32_t i, n, sent, most;
	struct entry e;
	struct scene s;

	for (i = 0; i < ARRAY_SIZE(stores); i++) {
		ASSERT_EQ(0, scene_channel(&s, self->backend, INBOX));
		ASSERT_EQ(-EAGAIN, send_one(&s, 1));
		ASSERT_EQ(0, take(&s, EVERING_OP_OPEN, &e));
		e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, stores[i]);
		ASSERT_EQ(0, put(&s, &e));
		ASSERT_EQ(0, polled(&s));
		EXPECT_EQ(stores[i], info_of(s.v.ops).credit);
		ASSERT_EQ(0, evering_publish(s.ev[1]));
		for (sent = 0; !send_one(&s, 1); sent++)
			;
		most = stores[i] < 64 ? stores[i] : 64 - DEPTH;
		EXPECT_EQ(most, sent);
		/* The ring has room again, and then nothing was finished with. */
		for (n = 0; n < sent; n++)
			ASSERT_EQ(0, take(&s, EVERING_OP_MESSAGE, &e));
		EXPECT_EQ(stores[i] < 64 ? -EAGAIN : 0, send_one(&s, 1));
		if (stores[i] >= 64)
			sent++;
		e = entry_of(EVERING_OP_HOME, 0, 0, 0, sent);
		ASSERT_EQ(0, put(&s, &e));
		ASSERT_EQ(0, polled(&s));
		EXPECT_EQ(stores[i], info_of(s.v.ops).credit);
		e.h.code++;
		ASSERT_EQ(0, put(&s, &e));
		EXPECT_EQ(-EPROTO, polled(&s));
		EXPECT_EQ(-EPROTO, send_one(&s, 1));
		close_pair(s.ev);
	}
}

struct looker {
	struct evering_ops_params p;
	unsigned int times;
	int ret;
};

static void look_again(struct evering_ops *ops,
		       const struct evering_request *request, void *context)
{
	struct looker *l = context;

	(void)request;
	l->times++;
	l->ret = evering_ops_poll(ops);
}

/* More entries may lie behind the one that ended it. */
TEST_F(op_hostile, what_a_callback_finds_ends_the_channel)
{
	struct evering_params p = params_sized(self->backend, SLOT, 64, ARENA);
	struct looker l;
	struct evering *ev[2];
	struct evering_ops *ops;
	struct entry e;
	int more;

	for (more = 0; more < 2; more++) {
		l = (struct looker){ .p = EVERING_OPS_PARAMS_INIT };
		l.p.request = look_again;
		l.p.context = &l;
		ASSERT_EQ(0, evering_pair(&p, ev));
		ASSERT_EQ(0, evering_ops_open(ev[0], &l.p, &ops));
		e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
		ASSERT_EQ(0, evering_send(ev[1], &e, PAYLOAD, 0));
		ASSERT_EQ(1, evering_ops_poll(ops));
		e = entry_of(EVERING_OP_REQUEST, 1 | 1 << EVERING_OP_INDEX_BITS,
			     0, 0, 1);
		ASSERT_EQ(0, evering_send(ev[1], &e, PAYLOAD, 0));
		e = entry_of(77, 0, 0, 0, 0);
		ASSERT_EQ(0, evering_send(ev[1], &e, PAYLOAD, 0));
		if (more)
			ASSERT_EQ(0, evering_send(ev[1], &e, PAYLOAD, 0));
		EXPECT_EQ(-EPROTO, evering_ops_poll(ops));
		EXPECT_EQ(1u, l.times);
		EXPECT_EQ(-EPROTO, l.ret);
		EXPECT_EQ(-EPROTO, evering_ops_poll(ops));
		close_pair(ev);
	}
}

/* The peer claims to have received what was never sent. */
TEST_F(op_hostile, a_wrong_count_of_what_was_received)
{
	struct entry e;
	struct scene s;
	uint64_t i;
	int ret = 0;

	ASSERT_EQ(0, scene_begin(&s, self->backend, false));
	evering_store_release(&own_half(s.ev[1])->released, 1000000);
	/* It is noticed when room is looked for: at the end of the ring. */
	for (i = 1; i < 100 && !ret; i++) {
		e = entry_of(REQUEST, i << EVERING_OP_INDEX_BITS | 4, 0, 0, 0);
		ASSERT_EQ(0, put(&s, &e));
		ret = polled(&s);
		if (!ret)
			ret = evering_op_answer(
				s.v.ops, s.v.got[s.v.n_got - 1].id, 0, NULL, 0);
	}
	EXPECT_EQ(-EPROTO, ret);
	EXPECT_EQ(-EPROTO, evering_ops_wait(s.v.ops, PLENTY));
	s.v.n_got = 0; /* most are answered */
	EXPECT_EQ(0, scene_ended(&s, -EPROTO));
	close_pair(s.ev);
}

/* More requests than may be, answered or not: no place, and no harm. */
TEST_F(op_hostile, a_flood_of_requests)
{
	struct entry e;
	struct scene s;
	uint32_t i;
	int ret = 0;

	ASSERT_EQ(0, scene_channel(&s, self->backend, false));
	e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
	ASSERT_EQ(0, put(&s, &e));
	for (i = 1; i < 80 && !ret; i++) {
		e = entry_of(REQUEST, 1ull << 16 | i, 0, 0, 0);
		ASSERT_EQ(0, put(&s, &e));
		ret = polled(&s);
	}
	EXPECT_EQ(-EPROTO, ret);
	EXPECT_GE(DEPTH + EVERING_OP_SPARE, s.v.n_got);
	close_pair(s.ev);
}

/*
 * Nobody takes the answers: the victim is told that there is no room, and nothing
 * else happens.
 */
TEST_F(op_hostile, a_peer_that_takes_no_answers)
{
	struct entry e;
	struct scene s;
	uint32_t i;
	int ret = 0;

	ASSERT_EQ(0, scene_channel(&s, self->backend, false));
	e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
	ASSERT_EQ(0, put(&s, &e));
	for (i = 1; i < 1000 && !ret; i++) {
		e = entry_of(REQUEST, (uint64_t)i << 16 | 1, 0, 0, 0);
		if (put(&s, &e))
			break;
		s.v.n_got = 0;
		ASSERT_EQ(0, polled(&s));
		ASSERT_EQ(1u, s.v.n_got);
		ret = evering_op_answer(s.v.ops, s.v.got[0].id, 0, NULL, 0);
	}
	EXPECT_EQ(-EAGAIN, ret);
	EXPECT_EQ(1u, info_of(s.v.ops).held);
	/* Later it goes. */
	for (i = 0; i < 64; i++)
		ASSERT_EQ(0,
			  evering_recv(s.ev[1], &e, PAYLOAD, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_op_answer(s.v.ops, s.v.got[0].id, 0, NULL, 0));
	close_pair(s.ev);
}

/* The peer gives no credit back: messages and posts wait, and nothing else does. */
TEST_F(op_hostile, a_peer_that_finishes_with_nothing)
{
	unsigned char text[500] = { 0 };
	const struct iovec iov = { text, sizeof(text) };
	struct evering_op post = { .opcode = 1 };
	struct entry e;
	struct scene s;
	uint32_t way;

	for (way = 0; way < WAYS; way++) {
		ASSERT_EQ(0, scene_begin(&s, self->backend, way));
		while (!evering_msg_send(s.v.ops, &iov, 1, EVERING_NOWAIT))
			ASSERT_EQ(0, take(&s, EVERING_OP_MESSAGE, &e));
		EXPECT_EQ(0u, info_of(s.v.ops).credit);
		EXPECT_EQ(-EAGAIN, send_one(&s, 1));
		EXPECT_EQ(-EAGAIN,
			  evering_op_post(s.v.ops, &post, EVERING_NOWAIT));
		EXPECT_EQ(-ETIMEDOUT, evering_msg_send(s.v.ops, &iov, 1, MSEC));
		EXPECT_EQ(-ETIMEDOUT, evering_op_post(s.v.ops, &post, MSEC));
		/* Answers go, and both ways. */
		EXPECT_EQ(0, evering_op_answer(s.v.ops, s.request, 1, NULL, 0));
		ASSERT_EQ(0, take(&s, ANSWER, &e));
		e = entry_of(ANSWER, s.id[PLAIN], 0, 0, 7);
		ASSERT_EQ(0, put(&s, &e));
		ASSERT_EQ(0, polled(&s));
		EXPECT_EQ(7, s.o[PLAIN].result);
		EXPECT_EQ(0, free_messages(&s));
		/* Their buffers are the victim's again when the peer is gone. */
		evering_close(s.ev[1]);
		s.ev[1] = NULL;
		EXPECT_EQ(-EPIPE, evering_msg_send(s.v.ops, &iov, 1, PLENTY));
		EXPECT_EQ(-EPIPE, evering_op_post(s.v.ops, &post, PLENTY));
		EXPECT_EQ(0, evering_free(s.ev[0], s.buf[LENDS]));
		EXPECT_EQ(0, evering_free(s.ev[0], s.buf[ASKED]));
		EXPECT_TRUE(arena_whole(s.ev[0]));
		close_pair(s.ev);
	}
}

/* The peer gives the credit back, and keeps each buffer. */
TEST_F(op_hostile, a_peer_whose_buffers_never_come_home)
{
	struct entry e;
	struct scene s;
	uint32_t way, n;
	int ret;

	for (way = 0; way < WAYS; way++) {
		ASSERT_EQ(0, scene_begin(&s, self->backend, way));
		for (n = SENT; n < 100; n++) {
			ret = send_one(&s, 4096);
			if (ret)
				break;
			ASSERT_EQ(0, take(&s, EVERING_OP_MESSAGE, &e));
			e = entry_of(EVERING_OP_HOME, 0, 0, 0, n + 1);
			ASSERT_EQ(0, put(&s, &e));
			ASSERT_EQ(0, polled(&s));
		}
		EXPECT_EQ(-EAGAIN, ret);
		EXPECT_GT(20u, n);
		EXPECT_EQ(STORE, info_of(s.v.ops).credit);
		/* What needs none still goes. */
		EXPECT_EQ(0, send_one(&s, MAX_DATA));
		ASSERT_EQ(0, take(&s, EVERING_OP_MESSAGE, &e));
		EXPECT_EQ(0, evering_op_answer(s.v.ops, s.request, 1, NULL, 0));
		evering_close(s.ev[1]);
		s.ev[1] = NULL;
		EXPECT_EQ(-EPIPE, polled(&s));
		EXPECT_EQ(0, free_messages(&s));
		EXPECT_EQ(0, evering_free(s.ev[0], s.buf[LENDS]));
		EXPECT_EQ(0, evering_free(s.ev[0], s.buf[ASKED]));
		EXPECT_TRUE(arena_whole(s.ev[0]));
		close_pair(s.ev);
	}
}

/*
 * evering_msg_recv() looks at the next entry itself, and takes it only if it is a message
 * without anything else.  Here one bit of a right message is wrong.
 */
TEST_F(op_hostile, the_next_entry_is_almost_a_message)
{
	static const unsigned char bits[] = { 1, 2, 4, 8, 16, 32, 64, 128 };
	struct evering_msg msg;
	uint32_t byte, bit;
	struct scene s;
	struct entry e;
	int ret;

	for (byte = 8; byte < 12; byte++)
		for (bit = 0; bit < ARRAY_SIZE(bits); bit++) {
			ASSERT_EQ(0, scene_begin(&s, self->backend, INBOX));
			ASSERT_EQ(0, free_messages(&s));
			e = entry_of(MESSAGE, 0, 0, 8, 0);
			((unsigned char *)&e)[byte] ^= bits[bit];
			ASSERT_EQ(0, put(&s, &e));
			ret = evering_msg_recv(s.v.ops, &msg, EVERING_NOWAIT);
			/* A length that fits, or else what is no message. */
			if (e.h.type == MESSAGE && !e.h.flags &&
			    e.h.len <= MAX_DATA) {
				EXPECT_EQ(0, ret);
				EXPECT_EQ(e.h.len, msg.len);
			} else if (e.h.type == HOME || e.h.type == POST) {
				EXPECT_EQ(-EAGAIN, ret);
			} else {
				EXPECT_EQ(-EPROTO, ret)
				{
					TH_LOG("byte %u, bit %u", byte, bit);
				}
			}
			close_pair(s.ev);
		}
}

/* As many as are stored come by the fast path, and one more is too many. */
TEST_F(op_hostile, a_flood_of_messages)
{
	struct evering_msg msg;
	struct scene s;
	struct entry e;
	uint32_t n, lap;

	ASSERT_EQ(0, scene_begin(&s, self->backend, INBOX));
	ASSERT_EQ(0, free_messages(&s));
	for (lap = 0; lap < 3; lap++) {
		for (n = 0; n < STORE; n++) {
			e = entry_of(MESSAGE, 0, 0, n, 0);
			ASSERT_EQ(0, put(&s, &e));
		}
		for (n = 0; n < STORE; n++) {
			ASSERT_EQ(0, evering_msg_recv(s.v.ops, &msg, 0));
			ASSERT_EQ(n, msg.len);
			note_message(s.v.ops, &msg, &s);
		}
		if (lap < 2)
			ASSERT_EQ(0, free_messages(&s));
	}
	e = entry_of(MESSAGE, 0, 0, 1, 0);
	ASSERT_EQ(0, put(&s, &e));
	EXPECT_EQ(-EPROTO, evering_msg_recv(s.v.ops, &msg, EVERING_NOWAIT));
	EXPECT_EQ(-EPROTO, evering_msg_recv(s.v.ops, &msg, PLENTY));
	EXPECT_EQ(STORE, s.n_msg);
	EXPECT_EQ(0, scene_ended(&s, -EPROTO));
	close_pair(s.ev);
}

/*
 * The peer takes nothing for long: credit that finds no room waits for it, and for nothing
 * else.
 */
TEST_F(op_hostile, credit_waits_for_room)
{
	struct pollfd fd = { 0 };
	struct entry e, last = { .h = { 0 } };
	struct scene s;
	uint32_t n, way;

	for (way = 0; way < WAYS; way++) {
		ASSERT_EQ(0, scene_channel(&s, self->backend, way));
		ASSERT_EQ(0, take(&s, EVERING_OP_OPEN, &e));
		e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, UINT32_MAX);
		ASSERT_EQ(0, put(&s, &e));
		for (n = 0; n < STORE; n++) {
			e = entry_of(MESSAGE, 0, 0, n, 0);
			ASSERT_EQ(0, put(&s, &e));
		}
		ASSERT_EQ(0, polled(&s));
		ASSERT_EQ(0, evering_publish(s.ev[1]));
		/* None is refused, which would be another reason to wait. */
		for (n = 0; n < 64 - DEPTH; n++)
			ASSERT_EQ(0, send_one(&s, 1));
		ASSERT_EQ(STORE, s.n_msg);
		ASSERT_EQ(0, free_messages(&s));
		EXPECT_LE(0, evering_ops_poll(s.v.ops));
		fd.fd = evering_fd(s.ev[0]);
		ASSERT_EQ(0, evering_ops_arm(s.v.ops, &fd.events));
		EXPECT_TRUE(own_half(s.ev[0])->armed_tx & EVERING_ARMED);
		EXPECT_EQ(0, poll(&fd, 1, 0));
		while (!evering_recv(s.ev[1], &last, PAYLOAD, EVERING_NOWAIT))
			ASSERT_EQ(MESSAGE, last.h.type);
		evering_publish(s.ev[1]);
		EXPECT_EQ(1, poll(&fd, 1, (int)(PLENTY / MSEC)));
		EXPECT_EQ(0, evering_ops_poll(s.v.ops));
		ASSERT_EQ(0, take(&s, HOME, &e));
		EXPECT_EQ(STORE, e.h.code);
		close_pair(s.ev);
	}
}

/* Messages that wait when the channel ends, and the table knows, are still received. */
TEST_F(op_hostile, what_came_before_the_end_is_received)
{
	struct entry e[4];
	struct scene s;
	uint32_t i, closes;
	int error;

	for (closes = 0; closes < 2; closes++) {
		error = closes ? -EPIPE : -EPROTO;
		ASSERT_EQ(0, scene_channel(&s, self->backend, INBOX));
		e[0] = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
		e[1] = entry_of(MESSAGE, 0, 0, 1, 0);
		e[2] = bringing(MESSAGE, 0, EVERING_OP_GIVEN, 9, 0, 2);
		e[3] = entry_of(MESSAGE, 0, 0, 3, 0);
		for (i = 0; i < 4; i++)
			ASSERT_EQ(0, put(&s, &e[i]));
		ASSERT_EQ(4, evering_ops_poll(s.v.ops));
		e[0] = entry_of(77, 0, 0, 0, 0);
		if (closes) {
			evering_close(s.ev[1]);
			s.ev[1] = NULL;
		} else {
			ASSERT_EQ(0, put(&s, &e[0]));
		}
		EXPECT_EQ(error, evering_ops_poll(s.v.ops));
		EXPECT_EQ(3u, info_of(s.v.ops).messages);
		EXPECT_EQ(error, polled(&s));
		ASSERT_EQ(3u, s.n_msg);
		for (i = 0; i < 3; i++)
			EXPECT_EQ(i + 1, s.msg[i].len);
		look_at(&s);
		EXPECT_EQ(0, free_messages(&s));
		close_pair(s.ev);
	}
}

/* ------------------------------------------------------ a module as the victim */

/* The variants are there with the module alone. */
FIXTURE(op_hostile_module)
{
	struct scene s;
	struct evering *ev; /* the hostile one's: entries are laid by hand */
};

FIXTURE_VARIANT(op_hostile_module)
{
	uint32_t flags;
};

FIXTURE_VARIANT_ADD(op_hostile_module, echo){};
FIXTURE_VARIANT_ADD(op_hostile_module, echo_thread){
	.flags = EVERING_ECHO_THREAD,
};

typedef FIXTURE_DATA(op_hostile_module) module_data;

/* A channel whose module has opened its table; the scene has what it may know of it. */
static int module_begin(module_data *self, uint32_t flags)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_DEVICE, SLOT, 64, ARENA);
	struct entry e = hello(EVERING_OPS_VERSION, DEPTH, DEPTH, STORE);
	unsigned int i;

	evering_close(self->ev);
	self->ev = NULL;
	memset(&self->s, 0, sizeof(self->s));
	self->s.request = 1 | 1 << EVERING_OP_INDEX_BITS;
	for (i = 0; i < ASKS; i++)
		self->s.id[i] = self->s.request + i;
	p.arena_begin = EVERING_WHOLE;
	if (echo_open(&p, flags | EVERING_ECHO_OPS, 0, &self->ev) ||
	    evering_send(self->ev, &e, PAYLOAD, PLENTY) ||
	    evering_recv(self->ev, &e, PAYLOAD, PLENTY))
		return __LINE__;
	return e.h.type == EVERING_OP_OPEN ? 0 : __LINE__;
}

FIXTURE_SETUP(op_hostile_module)
{
	REQUIRE_BACKEND(EVERING_BACKEND_DEVICE);
	self->ev = NULL;
	ASSERT_EQ(0, module_begin(self, variant->flags));
}

FIXTURE_TEARDOWN(op_hostile_module)
{
	evering_close(self->ev);
}

/* Whether the module ends the channel; what it has answered before is passed over. */
static bool module_ends(module_data *self)
{
	struct entry e;
	int ret;

	do
		ret = evering_recv(self->ev, &e, PAYLOAD, PLENTY);
	while (!ret);
	return ret == -EPIPE && evering_peer(self->ev) == EVERING_PEER_CLOSED;
}

/* Whether it answers a request that is right, after whatever else. */
static bool module_answers(module_data *self)
{
	struct entry e = entry_of(REQUEST, 77, 0, 0, 4711);
	int ret;

	ret = evering_send(self->ev, &e, PAYLOAD, PLENTY);
	while (!ret) {
		ret = evering_recv(self->ev, &e, PAYLOAD, PLENTY);
		if (!ret && e.h.type == ANSWER && e.h.id == 77)
			return e.h.code == 4711;
	}
	return false;
}

TEST_F(op_hostile_module, what_is_wrong_ends_the_channel)
{
	static const make_fn makes[] = { make_header, make_home };
	struct entry e[MOST];
	unsigned int which, n, i, k;

	for (i = 0; i < ARRAY_SIZE(makes); i++)
		for (which = 0;; which++) {
			ASSERT_EQ(0, module_begin(self, variant->flags));
			n = makes[i](&self->s, which, e);
			if (!n)
				break;
			/* To one that remembers no requests these say nothing, whatever they bring. */
			if ((e[0].h.type == EVERING_OP_CANCEL ||
			     e[0].h.type == EVERING_OP_LEAVE) &&
			    e[0].h.len <= MAX_DATA)
				continue;
			for (k = 0; k < n; k++)
				ASSERT_EQ(0, evering_send(self->ev, &e[k],
							  PAYLOAD, PLENTY));
			EXPECT_TRUE(module_ends(self))
			{
				TH_LOG("list %u, %u", i, which);
			}
		}
	EXPECT_TRUE(module_answers(self));
}

/* Of what it does not check, as it is nothing to it, as much as of the rest: no harm. */
TEST_F(op_hostile_module, nothing_does_harm)
{
	static const make_fn makes[] = { make_flags, make_id,	   make_buffer,
					 make_home,  make_message, make_store,
					 make_right };
	struct entry e[MOST];
	unsigned int which, n, i, k;

	for (i = 0; i < ARRAY_SIZE(makes); i++)
		for (which = 0;; which++) {
			ASSERT_EQ(0, module_begin(self, variant->flags));
			n = makes[i](&self->s, which, e);
			if (!n)
				break;
			for (k = 0; k < n; k++)
				evering_send(self->ev, &e[k], PAYLOAD,
					     EVERING_NOWAIT);
			EXPECT_TRUE(module_answers(self) || module_ends(self))
			{
				TH_LOG("list %u, %u", i, which);
			}
		}
	EXPECT_TRUE(module_answers(self));
}

/* No entry before the first that opens, of the version that it has. */
TEST_F(op_hostile_module, only_an_opening_opens)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_DEVICE, SLOT, 64, ARENA);
	struct entry e;
	uint32_t i;

	for (i = 0; i < 10; i++) {
		e = entry_of(i, self->s.request, 0, 0, 0);
		if (i == EVERING_OP_OPEN)
			e = hello(EVERING_OPS_VERSION + 1, DEPTH, DEPTH, STORE);
		evering_close(self->ev);
		self->ev = NULL;
		ASSERT_EQ(0, echo_open(&p, variant->flags | EVERING_ECHO_OPS, 0,
				       &self->ev));
		ASSERT_EQ(0, evering_send(self->ev, &e, PAYLOAD, PLENTY));
		EXPECT_TRUE(module_ends(self))
		{
			TH_LOG("type %u", i);
		}
	}
}

/* -------------------------------------------------------------------- garbage */

/* Something between noise and what an entry looks like, to what there is. */
static struct entry garbage(struct scene *s, uint64_t *rng)
{
	struct evering_op_buffer b;
	struct entry e;
	uint64_t any;
	size_t i;

	for (i = 0; i + 8 <= sizeof(e); i += 8) {
		any = random_u64(rng);
		memcpy((char *)&e + i, &any, 8);
	}
	if (random_below(rng, 20) == 0)
		return e;
	e.h.type = (uint8_t)(random_below(rng, 6) + 2);
	e.h.len = (uint16_t)random_below(
		rng, random_below(rng, 20) ? MAX_DATA - 16 : 256);
	e.h.flags = 0;
	if (random_below(rng, 2)) {
		e.h.flags = (uint8_t)random_below(rng, 6);
		b = name_of(&s->asked[random_below(rng, ASKS)]);
		if (e.h.flags != EVERING_OP_BACK)
			b.granule = (uint32_t)random_below(rng, GRANULES + 1);
		b.len_low = (uint32_t)random_below(rng, 300);
		b.len_high = random_below(rng, 20) == 0;
		memcpy(e.rest + sizeof(e.rest) - sizeof(b), &b, sizeof(b));
	} else if (random_below(rng, 4) == 0) {
		b = name_of(&s->asked[random_below(rng, ASKS)]);
		e = sending_home(e, b.granule, b.generation);
	}
	if (e.h.type == HOME && random_below(rng, 2))
		e.h.code = s->n_seen + (uint32_t)random_below(rng, 3);
	if (random_below(rng, 8) == 0)
		e.h.id &= 0xfffff;
	else if (e.h.type == ANSWER)
		e.h.id = s->id[random_below(rng, ASKS)];
	else
		e.h.id = (random_below(rng, 3) + 1) << EVERING_OP_INDEX_BITS |
			 (random_below(rng, DEPTH) + 1);
	return e;
}

/* What keeps the rules, so that there is something to harm. */
static struct entry in_order(struct scene *s, uint64_t *rng, uint32_t n)
{
	uint64_t id = ((uint64_t)n + 2) << EVERING_OP_INDEX_BITS;
	unsigned int kind = (unsigned int)random_below(rng, 3);
	struct entry e;
	uint32_t i;

	if (random_below(rng, 3) == 0 && s->n_put - s->n_freed < STORE) {
		s->n_put++;
		i = random_below(rng, 4) ? MESSAGE : POST;
		if (kind)
			return entry_of(
				i, 0, 0,
				(unsigned int)random_below(rng, MAX_DATA + 1),
				n);
		return bringing(i, 0, EVERING_OP_GIVEN, 500 + n, n,
				1 + random_below(rng, 64));
	}
	if (random_below(rng, 6) == 0) {
		s->n_told +=
			(uint32_t)random_below(rng, s->n_seen - s->n_told + 1);
		return entry_of(HOME, 0, 0, 0, s->n_told);
	}
	if (random_below(rng, 8) == 0) {
		i = (uint32_t)random_below(rng, ANSWERED);
		if (!s->answered[i]) {
			s->answered[i] = true;
			return entry_of(ANSWER, s->id[i], 0, 4, n);
		}
	}
	for (i = 1; i <= DEPTH + 1; i++)
		if (!s->busy[i])
			break;
	if (i > DEPTH + 1)
		return entry_of(EVERING_OP_CANCEL, random_u64(rng), 0, 0, 0);
	s->busy[i] = true;
	if (kind)
		e = bringing(REQUEST, id | i, kind, 100 + n, n,
			     1 + random_below(rng, 64));
	else
		e = entry_of(REQUEST, id | i, 0, MAX_DATA, 0);
	return e;
}

TEST_F_TIMEOUT(op_hostile, garbage_does_no_harm, 120)
{
	uint32_t scenes = short_run() ? 200 : 2000, n, i, sent = 0, ended = 0;
	struct evering_completion c;
	uint64_t rng = random_seed(), id;
	struct scene s;
	struct entry e;
	int ret, k;

	for (n = 0; n < scenes; n++) {
		ASSERT_EQ(0, scene_begin(&s, self->backend, n % WAYS));
		for (i = 1; i <= 3; i++)
			s.busy[i] = true;
		s.n_put = KEPT + 1;
		s.n_seen = SENT;
		for (i = 0, ret = 0; i < 300 && ret >= 0; i++, sent++) {
			if (random_below(&rng, 16))
				e = in_order(&s, &rng, i);
			else
				e = garbage(&s, &rng);
			ASSERT_EQ(0, put(&s, &e));
			ret = random_below(&rng, 8) ? polled(&s) : 0;
			ASSERT_GE(STORE, s.n_msg);
			if (ret >= 0 && random_below(&rng, 3) == 0)
				send_one(&s, random_below(&rng, 2) ? 9 : 99);
			if (random_below(&rng, 4) == 0)
				ASSERT_EQ(0, free_messages(&s));
			if (ret >= 0 && s.v.n_got && random_below(&rng, 4)) {
				k = (int)random_below(&rng, s.v.n_got);
				id = s.v.got[k].id;
				if (!evering_op_answer(s.v.ops, id, 0, NULL, 0))
					s.busy[id & 63] = false;
			}
			/* What was given goes, what was lent does not. */
			if (ret >= 0 && s.v.n_got &&
			    random_below(&rng, 4) == 0) {
				k = (int)random_below(&rng, s.v.n_got);
				if (s.v.got[k].buf)
					evering_free(s.ev[0], s.v.got[k].buf);
			}
			while (!evering_recv(s.ev[1], &e, PAYLOAD,
					     EVERING_NOWAIT)) {
				s.n_seen += e.h.type == MESSAGE;
				if (e.h.type == HOME)
					s.n_freed = e.h.code;
			}
		}
		ended += ret == -EPROTO;
		ASSERT_TRUE(ret >= 0 || ret == -EPROTO);
		look_at(&s);
		evering_close(s.ev[1]);
		s.ev[1] = NULL;
		while (evering_ops_wait(s.v.ops, PLENTY) > 0)
			;
		polled(&s);
		look_at(&s);
		ASSERT_EQ(0, free_messages(&s));
		for (i = 0; i < ASKS; i++)
			ASSERT_EQ(i == FETCHED ? 0u : 1u, s.o[i].times);
		ASSERT_EQ(0, evering_op_done(s.v.ops, s.id[FETCHED], &c));
		ASSERT_EQ(0u, info_of(s.v.ops).in_flight);
		ASSERT_EQ(0u, info_of(s.v.ops).abandoned);
		/* What came with answers, or back with requests. */
		for (i = 0; i < ASKS; i++)
			if (s.o[i].buf && s.o[i].buf != s.buf[LENDS])
				evering_free(s.ev[0], s.o[i].buf);
		if (c.buf)
			evering_free(s.ev[0], c.buf);
		for (i = 0; i < s.v.n_got && i < NOTES; i++)
			if (s.v.got[i].buf)
				evering_free(s.ev[0], s.v.got[i].buf);
		ASSERT_EQ(0, evering_free(s.ev[0], s.buf[LENDS]));
		ASSERT_EQ(0, evering_free(s.ev[0], s.buf[ASKED]));
		ASSERT_EQ(-EINVAL, evering_free(s.ev[0], s.buf[DETACHED]));
		ASSERT_TRUE(arena_whole(s.ev[0]));
		close_pair(s.ev);
	}
	printf("# %u entries, %u of %u channels ended by them\n", sent, ended,
	       scenes);
	EXPECT_LT(scenes / 4, ended);
}

/* The channel ends at the latest where everything does that cannot be, and others go on. */
TEST_F_TIMEOUT(op_hostile_module, garbage_does_no_harm, 120)
{
	uint32_t scenes = short_run() ? 30 : 1000, n, i;
	uint64_t rng = random_seed();
	struct entry e;
	int ret;

	for (n = 0; n < scenes; n++) {
		ASSERT_EQ(0, module_begin(self, variant->flags));
		for (i = 0, ret = 0; i < 300 && ret != -EPIPE; i++) {
			e = random_below(&rng, 16) ?
				    in_order(&self->s, &rng, i) :
				    garbage(&self->s, &rng);
			ret = evering_send(self->ev, &e, PAYLOAD,
					   EVERING_NOWAIT);
			while (!evering_recv(self->ev, &e, PAYLOAD,
					     EVERING_NOWAIT)) {
				self->s.n_seen += e.h.type == MESSAGE ||
						  e.h.type == POST;
				if (e.h.type == HOME)
					self->s.n_freed = e.h.code;
				if (e.h.type == ANSWER)
					self->s.busy[e.h.id & 63] = false;
			}
		}
		e = entry_of(0, 0, 0, 0, 0);
		ret = evering_send(self->ev, &e, PAYLOAD, PLENTY);
		ASSERT_TRUE(!ret || ret == -EPIPE);
		ASSERT_TRUE(module_ends(self));
	}
	ASSERT_EQ(0, module_begin(self, variant->flags));
	EXPECT_TRUE(module_answers(self));
}

TEST_HARNESS_MAIN
