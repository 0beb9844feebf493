// SPDX-License-Identifier: MIT
/*
 * op_side.c: the victim of a hostile peer, with a table of operations, asking and
 * answering by the rules.  It keeps books of its own, and holds the library to them:
 *
 * - each operation that was submitted has one outcome, the operation's own
 * - what is lent can be freed only after the outcome, what came back always
 * - what is given or lent by the peer lies in its arena, and is what was agreed
 * - there are never more messages than are stored, none has the place of another, and
 *   each can be freed once, whatever has become of the channel
 * - when the peer has gone nothing is in flight, and the whole arena can be had
 *
 * Callbacks go on with the program, so that anything happens inside of anything.
 */
#include <time.h>

#include "fuzz.h"

#define DEEDS 64u
#define HELD 64u
#define HAVE 32u
#define HEARD 64u
#define GRANULES (65536u / EVERING_OP_GRANULE)
#define NESTED 3u
#define WAITS 8u
/* How late a call may be on a machine that is busy with other things. */
#define LATE (5 * SECOND)

/* An operation. */
enum deed_state {
	NOTHING = 0,
	PREPARED,
	FLYING,
};

struct deed {
	enum deed_state state;
	uint64_t id;
	bool callback;
	bool vague; /* its lent buffer may be gone when the outcome has come */
	unsigned int flags;
	void *buf;
	uint64_t buf_len;
	unsigned int times;
};

struct held {
	bool live;
	uint64_t id;
	unsigned int flags;
	void *buf;
	uint64_t buf_len;
	uint32_t serial;
};

/* A buffer of this side's: its own, or one that it was given. */
struct have {
	void *buf;
	uint64_t len;
};

/* A message of the peer's. */
struct heard {
	bool live;
	struct evering_msg msg;
};

struct op_side {
	struct evering *ev;
	const struct endpoint *e;
	struct evering_ops *ops;
	struct input *in;
	struct deed deed[DEEDS];
	struct held held[HELD];
	struct have have[HAVE];
	struct heard heard[HEARD];
	uint32_t store;
	bool calling; /* there is an operation without a deed */
	uint64_t own_len[GRANULES]; /* of the buffer that began there last */
	unsigned int nested;
	unsigned int waits;
	unsigned int called;
	uint32_t serial;
	bool all_told; /* by a callback, of each request that has come */
	bool over;
};

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

static bool ended(int ret)
{
	return ret == -EPIPE || ret == -EPROTO || ret == -EPROTONOSUPPORT;
}

static bool in_time(int ret)
{
	return ret == -EAGAIN || ret == -ETIMEDOUT || ret == -EDEADLK ||
	       ret == -EINTR; /* libFuzzer's own alarm */
}

/* Where the input points to, or the next one that there is. */
static struct held *some_held(struct op_side *s, struct input *in)
{
	unsigned int at = in_below(in, HELD), n;

	for (n = 0; n < HELD && !s->held[at].live; n++)
		at = (at + 1) % HELD;
	return &s->held[at];
}

static struct deed *some_deed(struct op_side *s, struct input *in)
{
	unsigned int at = in_below(in, DEEDS), n;

	for (n = 0; n < DEEDS && s->deed[at].state == NOTHING; n++)
		at = (at + 1) % DEEDS;
	return &s->deed[at];
}

static struct have *some_have(struct op_side *s, struct input *in)
{
	unsigned int at = in_below(in, HAVE), n;

	for (n = 0; n < HAVE && !s->have[at].buf; n++)
		at = (at + 1) % HAVE;
	return &s->have[at];
}

static int64_t some_time(struct op_side *s, struct input *in)
{
	uint8_t t = in8(in);

	if (t < 192 || s->waits >= WAITS)
		return EVERING_NOWAIT;
	s->waits++;
	return (t - 191) * MICROSECOND;
}

/* ---------------------------------------------------------------------- buffers */

static bool in_arena(const struct op_side *s, unsigned int end, const void *buf,
		     uint64_t len)
{
	unsigned int region = EVERING_REGION_ARENA(end);
	uint64_t size = s->e->map_size[region];
	uint64_t offset =
		(uint64_t)((uintptr_t)buf - (uintptr_t)s->e->map[region]);

	return offset < size && len <= size - offset;
}

static bool is_own(const struct op_side *s, const void *buf)
{
	return in_arena(s, s->e->end, buf, 1);
}

static void keep(struct op_side *s, void *buf, uint64_t len)
{
	unsigned int i;

	for (i = 0; i < HAVE; i++)
		MUST(s->have[i].buf != buf);
	for (i = 0; i < HEARD; i++)
		MUST(!s->heard[i].live || s->heard[i].msg.data != buf);
	for (i = 0; i < HAVE && s->have[i].buf; i++)
		;
	if (i < HAVE)
		s->have[i] = (struct have){ buf, len };
	else
		MUST(!evering_free(s->ev, buf));
}

static uint64_t *own_len(struct op_side *s, const void *buf)
{
	return &s->own_len[evering_offset(s->ev, buf) / EVERING_OP_GRANULE];
}

static void remember(struct op_side *s, const void *buf, uint64_t len)
{
	*own_len(s, buf) = (len + EVERING_OP_GRANULE - 1) / EVERING_OP_GRANULE *
			   EVERING_OP_GRANULE;
}

/* A buffer has come from the peer. */
static void came(struct op_side *s, void *buf, uint64_t len)
{
	MUST(len);
	if (is_own(s, buf))
		MUST(len <= *own_len(s, buf));
	else
		MUST(in_arena(s, !s->e->end, buf, len));
	fuzz_touch(buf, len);
}

static void do_alloc(struct op_side *s, struct input *in)
{
	uint64_t len = in16(in) & 0x1fff;
	void *buf = evering_alloc(s->ev, len, 0);

	if (!buf)
		return;
	MUST(in_arena(s, s->e->end, buf, len));
	memset(buf, 1, len);
	remember(s, buf, len);
	keep(s, buf, len);
}

static void do_free(struct op_side *s, struct input *in)
{
	struct have *have = some_have(s, in);

	MUST(!evering_free(s->ev, have->buf));
	have->buf = NULL;
}

/* What is lent cannot be freed, by whichever side it was. */
static void do_free_lent(struct op_side *s, struct input *in)
{
	const struct deed *d = some_deed(s, in);
	const struct held *h = some_held(s, in);

	/*
	 * Without a callback it may have ended, and nobody has asked yet.  Without an
	 * id its call still waits for room, from which this one was called back.
	 */
	if (d->state != NOTHING && d->id && d->flags == EVERING_LEND &&
	    d->callback)
		MUST(evering_free(s->ev, d->buf) == -EBUSY);
	if (h->live && h->flags == EVERING_LEND)
		MUST(evering_free(s->ev, h->buf) == -EBUSY);
}

/* ----------------------------------------------------------------------- asking */

static void go_on(struct op_side *s)
{
	unsigned int n;

	if (s->over || s->nested >= NESTED)
		return;
	s->nested++;
	for (n = in8(s->in) & 3; n; n--)
		op_side_step(s, s->in);
	s->nested--;
}

static void outcome(struct op_side *s, const struct evering_completion *c)
{
	struct deed *d = &s->deed[(uintptr_t)c->user];
	struct deed was = *d;

	MUST((uintptr_t)c->user < DEEDS);
	MUST(d->state == FLYING && !d->times++);
	MUST(c->ext == ~(uint64_t)(uintptr_t)c->user);
	MUST(!d->id || c->id == d->id);
	MUST(c->len <=
	     evering_payload(s->ev) - sizeof(struct evering_op_header));
	fuzz_touch(c->data, c->len);
	MUST(!c->buf == !c->buf_len);
	d->state = NOTHING;
	d->times = 0;
	if (c->buf)
		came(s, c->buf, c->buf_len);
	if (s->over)
		return;
	if (was.flags == EVERING_LEND && !was.vague)
		keep(s, was.buf, was.buf_len);
	if (c->buf && (c->buf != was.buf || was.flags != EVERING_LEND))
		keep(s, c->buf, c->buf_len);
}

static void on_done(struct evering_ops *ops,
		    const struct evering_completion *c);

/* Of the one table that there is at a time. */
static _Thread_local struct op_side *current;

static void on_done(struct evering_ops *ops, const struct evering_completion *c)
{
	(void)ops;
	current->called++;
	outcome(current, c);
	go_on(current);
}

static void fill_op(struct op_side *s, struct input *in, unsigned int at,
		    struct evering_op *op, struct have *have)
{
	static const unsigned char data[EVERING_MAX_SLOT] = { 7 };
	struct deed *d = &s->deed[at];
	uint8_t what = in8(in);

	*op = (struct evering_op){
		.opcode = what,
		.data = data,
		.len = in8(in) & 63,
		.done = what & 1 ? on_done : NULL,
		.user = (void *)(uintptr_t)at,
		.ext = ~(uint64_t)at,
	};
	*d = (struct deed){ .callback = what & 1 };
	if (what & 2) {
		op->timeout_ns = 1 + in8(in) * MICROSECOND;
		d->vague = true;
	}
	if (!have->buf || !(what & 4))
		return;
	op->flags = what & 8 ? EVERING_GIVE : EVERING_LEND;
	if (!is_own(s, have->buf))
		op->flags = EVERING_GIVE;
	op->buf = have->buf;
	op->buf_len = have->len;
	d->flags = op->flags;
	d->buf = have->buf;
	d->buf_len = have->len;
}

static void check_submit(int ret)
{
	MUST(!ret || in_time(ret) || ended(ret) || ret == -EMSGSIZE);
}

/*
 * While a call waits its callbacks may do anything, but the buffer and the place in
 * the books are spoken for.
 */
static void do_submit(struct op_side *s, struct input *in, unsigned int how)
{
	struct have *have = some_have(s, in), mine = *have;
	unsigned int at = in_below(in, DEEDS);
	struct deed *d = &s->deed[at];
	struct evering_completion c;
	int64_t timeout, before;
	struct evering_op op;
	uint64_t id = 0;
	int ret;

	if (d->state != NOTHING)
		return;
	fill_op(s, in, at, &op, have);
	if (op.buf)
		have->buf = NULL;
	d->state = how == 1 ? PREPARED : FLYING;
	timeout = some_time(s, in);
	before = now();
	switch (how) {
	case 0:
		ret = evering_op_submit(s->ops, &op, &id, timeout);
		break;
	case 1:
		ret = evering_op_prepare(s->ops, &op, &id);
		break;
	default:
		/* It is its own if the time is over, and abandoned. */
		d->vague = true;
		d->callback = false;
		ret = evering_op_call(s->ops, &op, &c, timeout);
		/* A callback that took any outcome took this one, too. */
		if (ret == -ENOENT && d->state == NOTHING)
			return;
		if (!ret)
			outcome(s, &c);
	}
	MUST(now() - before < timeout + LATE);
	check_submit(ret);
	if (ret) {
		MUST(d->state != NOTHING);
		d->state = NOTHING;
		if (op.buf)
			keep(s, mine.buf, mine.len);
	} else if (d->state != NOTHING) {
		MUST(id);
		d->id = id;
	}
}

static void do_start(struct op_side *s, struct input *in)
{
	struct deed *d = some_deed(s, in);
	uint64_t id = d->id;
	int ret;

	if (d->state != PREPARED)
		return;
	ret = evering_op_start(s->ops, id, some_time(s, in));
	/* A callback has started or cancelled it meanwhile. */
	if (d->state != PREPARED || d->id != id)
		return;
	MUST(!ret || in_time(ret) || ended(ret));
	if (!ret)
		d->state = FLYING;
}

static void do_cancel(struct op_side *s, struct input *in)
{
	struct deed *d = some_deed(s, in), was = *d;
	unsigned int flags = in8(in) & 3;
	int ret;

	if (d->state == NOTHING || !d->id)
		return;
	if (d->state == FLYING && (flags & EVERING_CANCEL_DETACH))
		d->vague = true;
	ret = evering_op_cancel(s->ops, d->id, flags);
	if (was.state == PREPARED) {
		MUST(!ret);
		d->state = NOTHING;
		if (was.flags)
			keep(s, was.buf, was.buf_len);
		return;
	}
	MUST(!ret || ret == -EALREADY);
	if (ret && d->state == FLYING && d->id == was.id)
		d->vague = was.vague;
}

/* Of those without a callback, whatever has ended. */
static void do_take(struct op_side *s, struct input *in)
{
	const struct deed *d = some_deed(s, in);
	struct evering_completion c;
	int64_t timeout, before;
	bool waits;
	int ret;

	switch (in8(in) & 3) {
	case 0:
		if (s->calling)
			return;
		ret = evering_op_wait_any(s->ops, &c, some_time(s, in));
		MUST(!ret || in_time(ret) || ended(ret) || ret == -ENOENT);
		break;
	case 1:
		ret = evering_op_wait_all(s->ops, some_time(s, in));
		MUST(!ret || in_time(ret) || ended(ret));
		return;
	case 2:
		if (d->state != FLYING || !d->id || d->callback)
			return;
		ret = evering_op_done(s->ops, d->id, &c);
		MUST(!ret || ret == -EAGAIN);
		break;
	default:
		if (d->state != FLYING || !d->id || d->callback)
			return;
		timeout = some_time(s, in);
		before = now();
		ret = evering_op_wait(s->ops, d->id, &c, timeout);
		MUST(now() - before < timeout + LATE);
		waits = in_time(ret) || ended(ret);
		/* -ENOENT: a callback has taken it. */
		MUST(!ret || waits || ret == -ENOENT);
	}
	if (!ret)
		outcome(s, &c);
}

/* -------------------------------------------------------------------- answering */

static void on_request(struct op_side *s, const struct evering_request *r)
{
	struct held *free = NULL;
	unsigned int i;

	MUST(r->len <=
	     evering_payload(s->ev) - sizeof(struct evering_op_header));
	fuzz_touch(r->data, r->len);
	MUST(!r->buf == !(r->flags & ~EVERING_POST));
	if (r->buf)
		came(s, r->buf, r->buf_len);
	if (r->flags == EVERING_LEND)
		MUST(!is_own(s, r->buf));
	if ((r->flags & EVERING_GIVE) && !s->over)
		keep(s, r->buf, r->buf_len);
	MUST(!(r->flags & EVERING_POST) == !!r->id);
	if (r->flags & EVERING_POST) {
		MUST(!(r->flags & EVERING_LEND));
		return;
	}
	for (i = 0; i < HELD; i++) {
		MUST(!s->held[i].live || s->held[i].id != r->id);
		if (!s->held[i].live)
			free = &s->held[i];
	}
	MUST(free);
	*free = (struct held){ .live = true,
			       .id = r->id,
			       .flags = r->flags,
			       .buf = r->buf,
			       .buf_len = r->buf_len,
			       .serial = ++s->serial };
}

static void note_request(struct evering_ops *ops,
			 const struct evering_request *request, void *context)
{
	struct op_side *s = context;

	(void)ops;
	s->called++;
	on_request(s, request);
	go_on(s);
}

static void note_cancelled(struct evering_ops *ops, uint64_t id, void *context)
{
	struct op_side *s = context;
	bool known = false;
	unsigned int i;
	int ret;

	MUST(evering_op_cancelled(ops, id) == 1);
	for (i = 0; i < HELD; i++)
		known |= s->held[i].live && s->held[i].id == id;
	MUST(known || !s->all_told);
	if (in8(s->in) & 1) {
		/* It may be in the inbox still, of which nothing is known here. */
		ret = evering_op_answer(ops, id, -ECANCELED, NULL, 0);
		MUST(!ret || ended(ret) || ret == -EAGAIN);
		for (i = 0; i < HELD && ret != -EAGAIN; i++)
			if (s->held[i].id == id)
				s->held[i].live = false;
	}
	go_on(s);
}

static void do_next(struct op_side *s, struct input *in)
{
	struct evering_request r;
	int ret = evering_op_next(s->ops, &r, some_time(s, in));

	MUST(!ret || in_time(ret) || ended(ret));
	if (!ret)
		on_request(s, &r);
}

static void do_answer(struct op_side *s, struct input *in)
{
	static const unsigned char data[EVERING_MAX_SLOT] = { 9 };
	struct held *h = some_held(s, in);
	int ret;

	if (!h->live)
		return;
	MUST(evering_op_cancelled(s->ops, h->id) >= 0);
	ret = evering_op_answer(s->ops, h->id, 0, data, in8(in));
	MUST(!ret || ended(ret) || ret == -EMSGSIZE || ret == -EAGAIN);
	if (!ret || ended(ret))
		h->live = false;
}

static void do_answer_buffer(struct op_side *s, struct input *in)
{
	struct held *h = some_held(s, in);
	struct have *have = some_have(s, in);
	struct have with = *have;
	uint8_t what = in8(in);
	int ret;

	if (!h->live)
		return;
	if (what & 1) {
		with.len = in16(in) & 0xfff;
		with.buf = evering_op_answer_alloc(s->ops, h->id, with.len);
		if (!with.buf)
			return;
		if (with.buf == h->buf && h->flags == EVERING_LEND)
			MUST(s->e->geometry.flags & EVERING_SHARED_ARENA);
		else
			remember(s, with.buf, with.len);
		memset(with.buf, what, with.len);
	} else if (!with.buf) {
		return;
	}
	ret = evering_op_answer_buffer(s->ops, h->id, 1, with.buf, with.len);
	MUST(!ret || ended(ret) || ret == -EAGAIN);
	if (!ret || ended(ret))
		h->live = false;
	if (what & 1) {
		if (ret && with.buf != h->buf)
			MUST(!evering_free(s->ev, with.buf));
	} else if (!ret) {
		have->buf = NULL;
	}
}

/* ------------------------------------------------------------ what is not answered */

static void on_message(struct op_side *s, const struct evering_msg *msg)
{
	struct heard *free = NULL;
	unsigned int i, live = 0;

	if (in_arena(s, !s->e->end, msg->data, msg->len))
		MUST(msg->len);
	else
		MUST(msg->len <=
		     evering_payload(s->ev) - sizeof(struct evering_op_header));
	MUST(!((uintptr_t)msg->data & 15));
	fuzz_touch(msg->data, msg->len);
	for (i = 0; i < HAVE; i++)
		MUST(s->have[i].buf != msg->data);
	for (i = 0; i < HEARD; i++) {
		live += s->heard[i].live;
		MUST(!s->heard[i].live ||
		     (s->heard[i].msg.data != msg->data &&
		      s->heard[i].msg.place != msg->place));
		if (!s->heard[i].live)
			free = &s->heard[i];
	}
	MUST(live < s->store);
	if (free)
		*free = (struct heard){ true, *msg };
	else
		MUST(!evering_msg_free(s->ops, msg));
}

static void note_message(struct evering_ops *ops, const struct evering_msg *msg,
			 void *context)
{
	struct op_side *s = context;

	(void)ops;
	s->called++;
	on_message(s, msg);
	go_on(s);
}

static void free_heard(struct op_side *s, struct heard *heard)
{
	heard->live = false;
	MUST(!evering_msg_free(s->ops, &heard->msg));
	MUST(evering_msg_free(s->ops, &heard->msg) == -EINVAL);
}

/* The last entry that was sent may name a buffer that the library has allocated. */
static void remember_sent(struct op_side *s, uint64_t len)
{
	const struct evering_tx *tx = &s->ev->tx;
	const unsigned char *slot = evering__tx_slot(tx, tx->next - 1);
	struct evering_op_buffer name;
	struct evering_op_header h;

	memcpy(&h, slot, sizeof(h));
	memcpy(&name, slot + tx->payload - sizeof(name), sizeof(name));
	if ((h.flags & EVERING_OP_BUFFER) != EVERING_OP_GIVEN)
		return;
	MUST(name.granule < GRANULES && name.len_low == len);
	remember(s,
		 (unsigned char *)evering_arena(s->ev, NULL) +
			 (size_t)name.granule * EVERING_OP_GRANULE,
		 len);
}

static const unsigned char *some_text(void)
{
	static const unsigned char text[0x4000] = { 3 };

	return text;
}

/* In one piece or two. */
static int some_pieces(struct input *in, struct iovec iov[2], uint64_t *len)
{
	uint8_t how = in8(in);

	*len = how & 1 ? in16(in) & 0x3fff : how >> 1;
	iov[0].iov_base = (void *)(uintptr_t)some_text();
	iov[0].iov_len = how & 2 ? *len / 3 : *len;
	iov[1].iov_base = (void *)(uintptr_t)(some_text() + iov[0].iov_len);
	iov[1].iov_len = *len - iov[0].iov_len;
	return how & 2 ? 2 : 1;
}

static void do_send(struct op_side *s, struct input *in)
{
	struct iovec iov[2];
	uint64_t len;
	int count = some_pieces(in, iov, &len), ret;
	int64_t timeout = some_time(s, in), before = now();

	ret = evering_msg_send(s->ops, iov, count, timeout);
	MUST(!ret || in_time(ret) || ended(ret) || ret == -EMSGSIZE);
	MUST(now() - before < timeout + LATE);
	if (!ret)
		remember_sent(s, len);
}

static void do_post(struct op_side *s, struct input *in)
{
	struct have *have = some_have(s, in), mine = *have;
	struct evering_op op = { .opcode = in8(in), .data = some_text() };
	int64_t timeout, before;
	int ret;

	op.len = in8(in) & 63;
	if (have->buf && (op.opcode & 1)) {
		op.flags = EVERING_GIVE;
		op.buf = mine.buf;
		op.buf_len = mine.len;
		have->buf = NULL;
	}
	timeout = some_time(s, in);
	before = now();
	ret = evering_op_post(s->ops, &op, timeout);
	check_submit(ret);
	MUST(now() - before < timeout + LATE);
	if (ret && op.buf)
		keep(s, mine.buf, mine.len);
}

static void do_receive(struct op_side *s, struct input *in)
{
	int64_t timeout = some_time(s, in), before = now();
	struct evering_msg msg;
	int ret;

	ret = evering_msg_recv(s->ops, &msg, timeout);
	MUST(now() - before < timeout + LATE);
	MUST(!ret || in_time(ret) || ended(ret) || ret == -EINVAL);
	if (!ret)
		on_message(s, &msg);
}

static void do_msg_free(struct op_side *s, struct input *in)
{
	struct heard *heard = &s->heard[in_below(in, HEARD)];
	unsigned int n;

	for (n = 0; n < HEARD && !heard->live; n++)
		heard = &s->heard[(heard - s->heard + 1) % HEARD];
	if (heard->live)
		free_heard(s, heard);
}

static void do_callv(struct op_side *s, struct input *in)
{
	unsigned char room[256];
	struct iovec out = { room, in8(in) }, iov[2];
	struct evering_completion c;
	uint64_t len;
	int count = some_pieces(in, iov, &len), ret;
	int64_t timeout = some_time(s, in), before = now();

	if (s->calling)
		return;
	s->calling = true;
	ret = evering_op_callv(s->ops, 1, iov, count, &out, 1, &c, timeout);
	s->calling = false;
	check_submit(ret);
	MUST(now() - before < timeout + LATE);
	MUST(!c.buf && !c.data);
}

static void do_answerv(struct op_side *s, struct input *in)
{
	struct held *h = some_held(s, in);
	int64_t timeout, before;
	struct iovec iov[2];
	uint64_t id = h->id, len;
	int count, ret;

	if (!h->live)
		return;
	count = some_pieces(in, iov, &len);
	timeout = some_time(s, in);
	before = now();
	ret = evering_op_answerv(s->ops, id, 1, iov, count, timeout);
	MUST(now() - before < timeout + LATE);
	/* -ESTALE: a callback has answered it. */
	MUST(!ret || in_time(ret) || ended(ret) || ret == -EMSGSIZE ||
	     (ret == -ESTALE && (!h->live || h->id != id)));
	if ((!ret || ended(ret)) && h->id == id)
		h->live = false;
	if (!ret)
		remember_sent(s, len);
}

static void do_message(struct op_side *s, struct input *in)
{
	switch (in8(in) & 7) {
	case 0:
	case 1:
		do_send(s, in);
		break;
	case 2:
		do_post(s, in);
		break;
	case 3:
	case 4:
		do_receive(s, in);
		break;
	case 5:
		do_msg_free(s, in);
		break;
	case 6:
		do_callv(s, in);
		break;
	case 7:
		do_answerv(s, in);
	}
}

/* -------------------------------------------------------------------- the table */

static void check_info(const struct op_side *s)
{
	struct evering_ops_info info;

	evering_ops_get_info(s->ops, &info);
	MUST(info.in_flight + info.abandoned <= info.depth + 1);
	MUST(info.held <= info.serve + EVERING_OP_SPARE);
	MUST(info.done <= info.depth + 1);
	MUST(info.store == s->store && info.messages <= s->store);
}

static void do_table(struct op_side *s, struct input *in)
{
	int64_t timeout = EVERING_NOWAIT, before = now();
	unsigned int called = s->called;
	short events;
	int ret;

	switch (in8(in) & 7) {
	case 0:
		timeout = some_time(s, in);
		ret = op_side_wait(s, timeout);
		break;
	case 1:
		ret = evering_ops_arm(s->ops, &events);
		MUST(ret == 0 || ret == 1 || ended(ret));
		break;
	case 2:
		evering_ops_flush(s->ops);
		break;
	case 3:
		MUST(evering_ops_timeout(s->ops) >= EVERING_WAIT_FOREVER);
		check_info(s);
		break;
	default:
		ret = evering_ops_poll(s->ops);
		MUST(ret >= 0 || ended(ret));
		/* A lap, and what has come to its end with the channel. */
		if (!s->nested)
			MUST(s->called - called <=
			     8 * (s->e->geometry.entries + DEEDS));
	}
	MUST(now() - before < timeout + LATE);
}

void op_side_step(struct op_side *s, struct input *in)
{
	switch (in8(in) % 16) {
	case 0:
	case 1:
		do_submit(s, in, 0);
		break;
	case 2:
		do_submit(s, in, 1);
		break;
	case 3:
		do_submit(s, in, 2);
		break;
	case 4:
		do_start(s, in);
		break;
	case 5:
		do_cancel(s, in);
		break;
	case 6:
		do_take(s, in);
		break;
	case 7:
		do_next(s, in);
		break;
	case 8:
		do_answer(s, in);
		break;
	case 9:
		do_answer_buffer(s, in);
		break;
	case 10:
		do_alloc(s, in);
		break;
	case 11:
		do_free(s, in);
		break;
	case 12:
		do_free_lent(s, in);
		break;
	case 13:
		do_message(s, in);
		break;
	default:
		do_table(s, in);
	}
}

struct op_side *op_side_open(struct evering *ev, struct input *in)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct op_side *s = calloc(1, sizeof(*s));
	uint32_t most;
	uint8_t what = in8(in);

	MUST(s);
	s->ev = ev;
	s->e = to_endpoint(ev);
	s->in = in;
	current = s;
	most = s->e->geometry.entries - s->e->geometry.entries / 4;
	if (what & 1)
		params.depth = in8(in) % (most + 1);
	if (what & 2)
		params.serve = in8(in) % (most + 1);
	if (what & 4)
		params.request = note_request;
	s->all_told = params.request;
	if (what & 8)
		params.cancelled = note_cancelled;
	if (what & 16)
		params.store = in8(in) % (s->e->geometry.entries + 1);
	if (what & 32)
		params.message = note_message;
	s->store = what & 16 ? params.store : s->e->geometry.entries / 2;
	params.context = s;
	MUST(!evering_ops_open(ev, &params, &s->ops));
	return s;
}

int op_side_wait(struct op_side *s, int64_t timeout_ns)
{
	int ret = evering_ops_wait(s->ops, timeout_ns);

	MUST(ret > 0 || in_time(ret) || ended(ret));
	return ret;
}

/* The channel has ended: everything has its outcome, and nothing is locked. */
static void check_end(struct op_side *s)
{
	uint64_t size = s->e->geometry.arena_size[s->e->end];
	struct evering_completion c;
	struct evering_ops_info info;
	struct evering_msg msg;
	unsigned int i;
	void *buf;
	int ret;

	for (i = 0; i < DEEDS; i++)
		if (s->deed[i].state == PREPARED) {
			MUST(!evering_op_cancel(s->ops, s->deed[i].id, 0));
			s->deed[i].state = NOTHING;
		}
	while (!(ret = evering_op_wait_any(s->ops, &c, EVERING_NOWAIT)))
		outcome(s, &c);
	MUST(ret == -ENOENT);
	for (i = 0; i < DEEDS; i++)
		MUST(s->deed[i].state == NOTHING);
	evering_ops_get_info(s->ops, &info);
	MUST(!info.in_flight && !info.abandoned && !info.done);
	for (i = 0; i < HELD; i++)
		if (s->held[i].live)
			MUST(ended(evering_op_answer(s->ops, s->held[i].id, 0,
						     NULL, 0)));

	while (!evering_msg_recv(s->ops, &msg, EVERING_NOWAIT))
		on_message(s, &msg);
	for (i = 0; i < HEARD; i++)
		if (s->heard[i].live)
			free_heard(s, &s->heard[i]);
	for (i = 0; i < HAVE; i++)
		MUST(!evering_free(s->ev, s->have[i].buf));
	for (i = 0; i < size / EVERING_OP_GRANULE; i++) {
		buf = (unsigned char *)evering_arena(s->ev, NULL) +
		      i * EVERING_OP_GRANULE;
		if (s->own_len[i]) {
			ret = evering_free(s->ev, buf);
			MUST(!ret || ret == -EINVAL);
		}
	}
	if (size) {
		buf = evering_alloc(s->ev, size, 0);
		MUST(buf && !evering_free(s->ev, buf));
	}
}

/*
 * The peer has gone, or broke the rules.  By the program's last byte the table is
 * closed only after everything has ended, or with the endpoint.
 */
void op_side_end(struct op_side *s)
{
	static struct input nothing;
	unsigned int i;
	int ret = 0;

	s->in = &nothing;
	for (i = 0; i < 1000 && !ended(ret); i++)
		ret = op_side_wait(s, SECOND);
	MUST(ended(ret));
	MUST(evering_ops_poll(s->ops) == ret);
	check_end(s);
	s->over = true;
	evering_ops_close(s->ops);
	for (i = 0; i < DEEDS; i++)
		MUST(s->deed[i].state == NOTHING);
	free(s);
}
