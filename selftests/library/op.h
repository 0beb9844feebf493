/* SPDX-License-Identifier: MIT */
/*
 * op.h: what the tests of operations share: a table with a notebook, in which its
 * callbacks write what they were told.  Both sides are in one process and one
 * thread, unless a test says otherwise, so that nothing depends on time.
 */
#ifndef EVERING_SELFTESTS_OP_H
#define EVERING_SELFTESTS_OP_H

#include "common.h"

#define NOTES 512

/* What an operation's callback was told: @times is to be 1 in the end. */
struct outcome {
	unsigned int times;
	unsigned int order;
	uint64_t id;
	uint64_t ext;
	int32_t result;
	uint32_t len;
	uint32_t flags;
	void *buf;
	uint64_t buf_len;
	unsigned char data[EVERING_MAX_SLOT];
};

static unsigned int outcomes;
/* The test is over, and its notebooks with it; only now everything is closed. */
static bool over;

static inline void note_done(struct evering_ops *ops,
			     const struct evering_completion *c)
{
	struct outcome *o = c->user;

	(void)ops;
	if (over)
		return;
	o->times++;
	o->order = ++outcomes;
	o->id = c->id;
	o->ext = c->ext;
	o->result = c->result;
	o->len = c->len;
	o->flags = c->flags;
	o->buf = c->buf;
	o->buf_len = c->buf_len;
	if (c->len)
		memcpy(o->data, c->data, c->len);
}

struct side {
	struct evering *ev;
	struct evering_ops *ops;
	struct evering_request got[NOTES];
	unsigned int n_got;
	uint64_t told[NOTES];
	unsigned int n_told;
};

static inline void note_request(struct evering_ops *ops,
				const struct evering_request *request,
				void *context)
{
	struct side *s = context;

	(void)ops;
	if (s->n_got < NOTES)
		s->got[s->n_got] = *request;
	s->n_got++;
}

static inline void note_cancelled(struct evering_ops *ops, uint64_t id,
				  void *context)
{
	struct side *s = context;

	(void)ops;
	if (s->n_told < NOTES)
		s->told[s->n_told] = id;
	s->n_told++;
}

/* A table that keeps notes; with @inbox one for evering_op_next(). */
static inline int side_open(struct side *s, struct evering *ev, uint32_t depth,
			    uint32_t serve, bool inbox)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	memset(s, 0, sizeof(*s));
	s->ev = ev;
	p.depth = depth;
	p.serve = serve;
	p.request = inbox ? NULL : note_request;
	p.cancelled = note_cancelled;
	p.context = s;
	return evering_ops_open(ev, &p, &s->ops);
}

/* Until neither side finds anything more to do, nor what that has sent. */
static inline void pump(struct side s[2])
{
	int idle, i;

	for (idle = 0; idle < 2; idle++)
		for (i = 0; i < 2; i++)
			if (evering_ops_poll(s[i].ops) > 0)
				idle = -1;
}

/* Both open, and each has heard of the other. */
static inline int sides_open(struct side s[2], struct evering *const ev[2],
			     uint32_t depth, uint32_t serve)
{
	int i, ret;

	for (i = 0; i < 2; i++) {
		ret = side_open(&s[i], ev[i], depth, serve, false);
		if (ret)
			return ret;
	}
	pump(s);
	return 0;
}

static inline struct evering_ops_info info_of(const struct evering_ops *ops)
{
	struct evering_ops_info info;

	evering_ops_get_info(ops, &info);
	return info;
}

/* An operation with a notebook, or, if @o is NULL, one whose outcome is fetched. */
static inline struct evering_op asks(uint32_t opcode, const void *data,
				     uint32_t len, struct outcome *o)
{
	return (struct evering_op){
		.opcode = opcode,
		.data = data,
		.len = len,
		.done = o ? note_done : NULL,
		.user = o,
	};
}

static inline struct evering_op hands(unsigned int how, void *buf, uint64_t len,
				      struct outcome *o)
{
	struct evering_op op = asks(0, NULL, 0, o);

	op.flags = how;
	op.buf = buf;
	op.buf_len = len;
	return op;
}

static inline int ask(struct side *s, const struct evering_op *op, uint64_t *id)
{
	return evering_op_submit(s->ops, op, id, EVERING_NOWAIT);
}

/* Everything in the own arena is free: it can be had at once. */
static inline bool arena_whole(struct evering *ev)
{
	struct evering_arena_state arena;
	void *p;

	evering_get_arena(ev, EVERING_MINE, &arena);
	p = evering_alloc(ev, arena.most, 0);
	return p && !evering_free(ev, p);
}

#endif /* EVERING_SELFTESTS_OP_H */
