// SPDX-License-Identifier: MIT
/*
 * soak.c: everything at once, for long.  Channels of every kind, one after the other,
 * each with a process at its other end: entries both ways at full speed, one by one
 * and in bulk, with pauses; or operations both ways, with data and with buffers that
 * are lent, given, passed on and sent back, that are cancelled or run out of time, and
 * messages of any length and posts between them, by a side that waits for one channel or
 * for a group.
 * Each ends as it likes: closed by the one or the other, or by a kill.
 *
 * Every entry says its number and every buffer what it should hold; every operation
 * has one outcome; in the end all of an arena is free, and the process weighs what it
 * weighed.
 *
 * EVERING_SOAK=n soaks for n seconds (10; 5 if EVERING_SHORT), on all backends
 * together; EVERING_SEED=n replays the choices of the run that printed n.  An hour:
 *
 *	make soak
 */
#include "op.h"

#include <sys/mman.h>
#include <sys/wait.h>

#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 100000

#define SALT	    0x50a4u
#define LAST	    UINT32_MAX /* number of a stream's last entry */
#define BUFFERS	    32
#define WAYS	    2

/**
 * struct sums - what was done, in memory that outlives who did it
 * @sent: entries that were sent for sure, by side
 * @failed: line of what went wrong at the child's
 */
struct sums {
	uint32_t sent[2];
	int failed;
	int error;
};

/**
 * struct plan - a channel, as both sides know it before there is one
 * @ops: operations rather than entries
 * @run_ns: for so long
 * @killed: the child is
 * @grouped: which side waits in a group
 */
struct plan {
	struct evering_params p[2];
	bool ops;
	bool connects;
	bool killed;
	bool abrupt;
	bool grouped[2];
	int64_t run_ns;
	uint64_t seed;
	struct sums *sums;
};

static struct {
	uint64_t messages, bytes, channels, sleeps, kills, operations;
} total;

static int fail(int line, int ret)
{
	printf("# line %d: %d\n", line, ret);
	fflush(stdout);
	return line;
}

#define NEED(ok, ret) \
	do { \
		if (!(ok)) \
			return fail(__LINE__, (int)(ret)); \
	} while (0)

static bool one_in(uint64_t *seed, uint64_t n)
{
	return !random_below(seed, n);
}

static void pause_a_little(uint64_t *seed)
{
	if (one_in(seed, 400))
		sleep_ns((int64_t)random_below(seed, MSEC));
}

/* --------------------------------------------------------------------- entries */

/**
 * struct stream - one direction, as one of its ends sees it
 * @me: which side sends it
 * @gone: the peer was killed, and that is no failure
 */
struct stream {
	struct evering *ev;
	const struct plan *plan;
	uint64_t seed;
	int me;
	uint32_t count;
	bool gone;
	bool ended;
	int failed;
};

static int stream_sends(struct stream *s)
{
	int64_t end = now_ns() + s->plan->run_ns;
	size_t len = evering_payload(s->ev), i, n;
	unsigned char entries[16][EVERING_MAX_SLOT];
	unsigned char packed[16 * EVERING_MAX_SLOT];
	uint32_t *sent = &s->plan->sums->sent[s->me];
	int ret = 0;
	void *slot;

	while (now_ns() < end) {
		n = random_below(&s->seed, 16) + 1;
		switch (random_below(&s->seed, 3)) {
		case 0:
			fill_entry(entries[0], len, s->count, SALT);
			ret = evering_send(s->ev, entries[0], len, PLENTY);
			s->count += !ret;
			break;
		case 1:
			for (i = 0; i < n; i++)
				fill_entry(packed + i * len, len,
					   s->count + (uint32_t)i, SALT);
			ret = evering_send_bulk(s->ev, packed, len,
						(unsigned int)n, PLENTY);
			if (ret > 0)
				s->count += (uint32_t)ret;
			break;
		default:
			for (i = 0; i < n; i++) {
				slot = evering_reserve_at(s->ev, (uint32_t)i);
				if (!slot)
					break;
				fill_entry(slot, len, s->count + (uint32_t)i,
					   SALT);
			}
			evering_commit_many(s->ev, (uint32_t)i);
			evering_flush(s->ev);
			s->count += (uint32_t)i;
			if (!i)
				ret = evering_wait(s->ev, EVERING_TX, PLENTY);
		}
		__atomic_store_n(sent, s->count, __ATOMIC_RELEASE);
		if (ret == -EPIPE && s->gone)
			return 0;
		NEED(ret >= 0, ret);
		pause_a_little(&s->seed);
	}
	/* How many there were. */
	memset(entries[0], 0, len);
	((uint32_t *)entries[0])[0] = LAST;
	((uint32_t *)entries[0])[1] = s->count;
	ret = evering_send(s->ev, entries[0], len, PLENTY);
	NEED(!ret || (ret == -EPIPE && s->gone), ret);
	return 0;
}

static int stream_check(struct stream *s, const void *entry, size_t len)
{
	const uint32_t *w = entry;

	if (w[0] == LAST) {
		NEED(w[1] == s->count, w[1]);
		s->ended = true;
		return 0;
	}
	NEED(!s->ended && check_entry(entry, len, s->count, SALT), s->count);
	s->count++;
	return 0;
}

static int stream_receives(struct stream *s)
{
	size_t len = evering_payload(s->ev);
	unsigned char packed[16 * EVERING_MAX_SLOT];
	const void *slot;
	int ret, i;

	while (!s->ended) {
		switch (random_below(&s->seed, 3)) {
		case 0:
			ret = evering_recv(s->ev, packed, len, PLENTY);
			if (!ret)
				NEED(!stream_check(s, packed, len), 0);
			break;
		case 1:
			ret = evering_recv_bulk(
				s->ev, packed, len,
				(unsigned int)random_below(&s->seed, 16) + 1,
				PLENTY);
			for (i = 0; i < ret; i++)
				NEED(!stream_check(s, packed + i * len, len),
				     i);
			break;
		default:
			slot = evering_peek(s->ev);
			ret = slot ? 0 :
				     evering_wait(s->ev, EVERING_RX, PLENTY);
			if (!slot)
				break;
			NEED(!stream_check(s, slot, len), 0);
			evering_release(s->ev);
		}
		if (ret == -EPIPE && s->gone)
			break;
		NEED(ret >= 0, ret);
		pause_a_little(&s->seed);
	}
	return 0;
}

static void *sender_main(void *arg)
{
	struct stream *s = arg;

	s->failed = stream_sends(s);
	return NULL;
}

/* One side of both directions: a thread sends, this one receives. */
static int soak_entries(struct evering *ev, const struct plan *plan, int me,
			uint32_t *received)
{
	struct stream tx = { .ev = ev, .plan = plan, .me = me };
	struct stream rx = tx;
	pthread_t t;
	int ret;

	tx.seed = plan->seed + (uint64_t)me * 2;
	rx.seed = tx.seed + 1;
	tx.gone = rx.gone = plan->killed || plan->abrupt;
	NEED(!pthread_create(&t, NULL, sender_main, &tx), 0);
	ret = stream_receives(&rx);
	/* A sender that has no reader would wait for long: all is over then. */
	if (ret)
		_exit(97);
	pthread_join(t, NULL);
	*received = rx.count;
	return tx.failed;
}

/* ------------------------------------------------------------------ operations */

/**
 * struct actor - one side that asks and answers
 * @asked, @told: operations submitted, and their outcomes
 * @held: requests to answer
 * @sent, @heard: messages and posts, which are numbered together
 * @kept: messages that are not freed yet
 * @bye: the peer asks nothing any more
 * @group: in which it waits, or NULL
 */
struct actor {
	struct evering *ev;
	struct evering_ops *ops;
	uint64_t seed;
	bool shared;
	uint32_t asked, told;
	uint64_t bytes;
	struct evering_request held[EVERING_MAX_ENTRIES / 16];
	unsigned int n_held;
	uint32_t sent, heard;
	struct evering_msg kept[16];
	unsigned int n_kept;
	bool bye;
	struct evering_group *group;
	int failed;
};

#define BYE 0xb7e00000u

#define ACTOR_NEED(a, ok) \
	do { \
		if (!(ok)) { \
			fail(__LINE__, 0); \
			(a)->failed = __LINE__; \
		} \
	} while (0)

/* Of what a buffer holds the first word is its number. */
static bool whole(const void *buf, uint64_t len)
{
	return check_entry(buf, len & ~3ull, *(const uint32_t *)buf, SALT);
}

/* The one of this process. */
static struct actor *actor;

static void actor_told(struct evering_ops *ops,
		       const struct evering_completion *c)
{
	struct actor *a = actor;
	void *lent = c->user;
	int ret;

	(void)ops;
	a->told++;
	if (!(c->flags & EVERING_ANSWERED)) {
		ACTOR_NEED(a, c->result == -ECANCELED ||
				      c->result == -ETIMEDOUT ||
				      c->result == -EPIPE);
		ACTOR_NEED(a, !c->buf || c->result != 0);
	} else {
		ACTOR_NEED(a, c->result == (int32_t)(uint32_t)c->ext);
	}
	if (c->flags & EVERING_ANSWERED && c->buf) {
		a->bytes += c->buf_len;
		ACTOR_NEED(a, whole(c->buf, c->buf_len));
	}
	if (c->buf)
		ACTOR_NEED(a, !evering_free(a->ev, c->buf));
	if (!lent || lent == c->buf)
		return;
	/* Abandoned, it stays lent, and is freed when the answer comes. */
	ret = evering_free(a->ev, lent);
	ACTOR_NEED(a,
		   !ret || (ret == -EBUSY && !(c->flags & EVERING_ANSWERED)));
}

/* A message or post is the next one, whichever of both. */
static void actor_hears(struct actor *a, const void *data, uint64_t len)
{
	a->bytes += len;
	ACTOR_NEED(a, len >= 4);
	ACTOR_NEED(a, check_entry(data, len & ~3ull, a->heard, SALT));
	a->heard++;
}

static void actor_posted(struct actor *a, const struct evering_request *r)
{
	ACTOR_NEED(a, !r->id && r->opcode == a->heard);
	if (r->buf) {
		ACTOR_NEED(a, r->flags == (EVERING_POST | EVERING_GIVE));
		actor_hears(a, r->buf, r->buf_len);
		ACTOR_NEED(a, !evering_free(a->ev, r->buf));
	} else {
		actor_hears(a, r->data, r->len);
	}
}

static void actor_forgets(struct actor *a)
{
	unsigned int i = (unsigned int)random_below(&a->seed, a->n_kept);

	ACTOR_NEED(a, whole(a->kept[i].data, a->kept[i].len));
	ACTOR_NEED(a, !evering_msg_free(a->ops, &a->kept[i]));
	ACTOR_NEED(a, evering_msg_free(a->ops, &a->kept[i]) == -EINVAL);
	a->kept[i] = a->kept[--a->n_kept];
}

static void actor_messaged(struct evering_ops *ops,
			   const struct evering_msg *msg, void *context)
{
	struct actor *a = context;

	(void)ops;
	actor_hears(a, msg->data, msg->len);
	if (a->n_kept == sizeof(a->kept) / sizeof(a->kept[0]))
		actor_forgets(a);
	a->kept[a->n_kept++] = *msg;
}

static void actor_asked(struct evering_ops *ops,
			const struct evering_request *r, void *context)
{
	struct actor *a = context;

	(void)ops;
	if (r->flags & EVERING_POST) {
		actor_posted(a, r);
		return;
	}
	/* It says how many messages and posts there were. */
	if (r->opcode == BYE) {
		a->bye = true;
		ACTOR_NEED(a, r->len == 4 && !memcmp(r->data, &a->heard, 4));
	}
	if (r->buf) {
		a->bytes += r->buf_len;
		ACTOR_NEED(a, whole(r->buf, r->buf_len));
	}
	ACTOR_NEED(a, !r->len || whole(r->data, r->len));
	ACTOR_NEED(a, a->n_held < sizeof(a->held) / sizeof(a->held[0]));
	if (!a->failed)
		a->held[a->n_held++] = *r;
}

/* Result of the request with this opcode. */
static int32_t result_of(uint32_t opcode)
{
	return (int32_t)(opcode & 0x7fffffff);
}

/* 0; -EPIPE: the peer has gone; else has noted what went wrong. */
static int actor_answers(struct actor *a, unsigned int which)
{
	struct evering_request r = a->held[which];
	int32_t result = result_of(r.opcode);
	uint64_t size;
	int ret = 0;
	void *buf;

	a->held[which] = a->held[--a->n_held];
	switch (random_below(&a->seed, 3)) {
	case 0: /* a buffer */
		size = (random_below(&a->seed, 900) + 4) & ~3ull;
		buf = evering_op_answer_alloc(a->ops, r.id, size);
		if (!buf)
			break;
		if ((r.flags & EVERING_GIVE) && r.buf)
			ACTOR_NEED(a, !evering_free(a->ev, r.buf));
		r.buf = NULL;
		fill_entry(buf, size, r.opcode, SALT);
		ret = evering_op_answer_buffer(a->ops, r.id, result, buf, size);
		if (ret)
			evering_free(a->ev, buf);
		ACTOR_NEED(a, !ret || ret == -EPIPE);
		return ret;
	case 1: /* what was given goes back */
		if (!(r.flags & EVERING_GIVE))
			break;
		ret = evering_op_answer_buffer(a->ops, r.id, result, r.buf,
					       r.buf_len);
		if (ret)
			evering_free(a->ev, r.buf);
		ACTOR_NEED(a, !ret || ret == -EPIPE);
		return ret;
	}
	if (r.flags & EVERING_GIVE)
		ACTOR_NEED(a, !evering_free(a->ev, r.buf));
	ret = evering_op_answer(a->ops, r.id, result, NULL, 0);
	ACTOR_NEED(a, !ret || ret == -EPIPE);
	return ret;
}

/* 0, -EAGAIN: not now, or -EPIPE. */
static int actor_asks(struct actor *a)
{
	uint32_t opcode = a->asked & 0xfffff, data[4], len;
	struct evering_op op = { .opcode = opcode,
				 .done = actor_told,
				 .ext = (uint32_t)result_of(opcode) };
	uint64_t id;
	int ret;

	if (random_below(&a->seed, 2)) {
		len = 4 * (uint32_t)(1 + random_below(&a->seed, 4));
		fill_entry(data, len, opcode, SALT);
		op.data = data;
		op.len = len;
	}
	if (one_in(&a->seed, 3)) {
		op.buf_len = (random_below(&a->seed, 2000) + 4) & ~3ull;
		op.buf = evering_alloc(a->ev, op.buf_len, 0);
		if (op.buf) {
			fill_entry(op.buf, op.buf_len, opcode, SALT);
			op.flags = one_in(&a->seed, 2) ? EVERING_LEND :
							 EVERING_GIVE;
			op.user = op.flags == EVERING_LEND ? op.buf : NULL;
		} else {
			op.buf_len = 0;
		}
	}
	if (one_in(&a->seed, 20))
		op.timeout_ns = (int64_t)random_below(&a->seed, 200 * USEC) + 1;
	ret = evering_op_submit(a->ops, &op, &id, EVERING_NOWAIT);
	if (ret) {
		if (op.buf)
			ACTOR_NEED(a, !evering_free(a->ev, op.buf));
		ACTOR_NEED(a, ret == -EAGAIN || ret == -EPIPE);
		return ret;
	}
	a->asked++;
	if (one_in(&a->seed, 10)) {
		ret = evering_op_cancel(
			a->ops, id,
			(one_in(&a->seed, 2) ? EVERING_CANCEL_TELL : 0) |
				(one_in(&a->seed, 2) ? EVERING_CANCEL_DETACH :
						       0));
		ACTOR_NEED(a, !ret || ret == -EALREADY);
	}
	return 0;
}

/* 0, -EAGAIN: not now, or -EPIPE. */
static int actor_tells(struct actor *a)
{
	static uint32_t text[65536 / 4];
	struct iovec iov = { text, random_below(&a->seed, 40) + 4 };
	struct evering_op op = { .opcode = a->sent };
	int ret;

	if (one_in(&a->seed, 32))
		iov.iov_len = sizeof(text) - random_below(&a->seed, 30000);
	else if (one_in(&a->seed, 2))
		iov.iov_len = 4 + random_below(&a->seed, 3000);
	fill_entry(text, iov.iov_len & ~3ull, a->sent, SALT);
	if (!one_in(&a->seed, 3)) {
		ret = evering_msg_send(a->ops, &iov, 1, EVERING_NOWAIT);
		a->sent += !ret;
		ACTOR_NEED(a, !ret || ret == -EAGAIN || ret == -EPIPE);
		return ret;
	}
	op.data = text;
	op.len = iov.iov_len < 16 ? (uint32_t)iov.iov_len : 16;
	if (one_in(&a->seed, 2)) {
		op.buf = evering_alloc(a->ev, iov.iov_len, 0);
		if (!op.buf)
			return -EAGAIN;
		memcpy(op.buf, text, iov.iov_len);
		op.buf_len = iov.iov_len;
		op.flags = EVERING_GIVE;
		op.len = 0;
	}
	ret = evering_op_post(a->ops, &op, EVERING_NOWAIT);
	a->sent += !ret;
	if (ret && op.buf)
		ACTOR_NEED(a, !evering_free(a->ev, op.buf));
	ACTOR_NEED(a, !ret || ret == -EAGAIN || ret == -EPIPE);
	return ret;
}

/* As evering_ops_wait(). */
static int actor_waits(struct actor *a, int64_t timeout_ns)
{
	const struct evering_group_event *events;
	int ret;

	if (!a->group)
		return evering_ops_wait(a->ops, timeout_ns);
	evering_ops_flush(a->ops);
	ret = evering_group_wait(a->group, &events, timeout_ns);
	if (ret < 0)
		return ret;
	ret = evering_ops_poll(a->ops);
	return ret ? ret : -EAGAIN;
}

/* Which it leaves, and comes back to, now and then. */
static int actor_joins(struct actor *a, const struct plan *plan, int me)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	int ret;

	if (!plan->grouped[me])
		return 0;
	params.policy = plan->p[me].policy;
	ret = evering_group_open(&params, &a->group);
	return ret ? ret : evering_group_add(a->group, a->ev, EVERING_RX, a);
}

static int actor_comes_and_goes(struct actor *a)
{
	int ret;

	if (!a->group || !one_in(&a->seed, 100))
		return 0;
	ret = evering_group_remove(a->group, a->ev);
	return ret ? ret : evering_group_add(a->group, a->ev, EVERING_RX, a);
}

static int soak_operations(struct evering *ev, const struct plan *plan, int me,
			   struct actor *a)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	bool gone_ok = plan->killed || plan->abrupt, said = false;
	int64_t end = now_ns() + plan->run_ns, limit;
	struct evering_op bye = { .opcode = BYE,
				  .done = actor_told,
				  .ext = (uint32_t)result_of(BYE) };
	struct evering_ops_info info;
	int ret;

	memset(a, 0, sizeof(*a));
	a->ev = ev;
	a->seed = plan->seed + 7 * (uint64_t)me + 1;
	params.request = actor_asked;
	params.message = actor_messaged;
	params.context = a;
	ret = evering_ops_open(ev, &params, &a->ops);
	NEED(!ret || (ret == -EPIPE && gone_ok), ret);
	if (ret)
		return 0;
	ret = actor_joins(a, plan, me);
	NEED(!ret, ret);
	limit = end + 3 * PLENTY;
	for (;;) {
		NEED(!a->failed, a->failed);
		NEED(now_ns() < limit, 0);
		ret = actor_comes_and_goes(a);
		NEED(!ret, ret);
		if (now_ns() < end && !one_in(&a->seed, 8))
			ret = actor_asks(a);
		if (now_ns() < end && ret != -EPIPE && one_in(&a->seed, 3))
			ret = actor_tells(a);
		while (a->n_kept && !(now_ns() < end && one_in(&a->seed, 2)))
			actor_forgets(a);
		while (a->n_held && ret != -EPIPE &&
		       !(now_ns() < end && one_in(&a->seed, 4)))
			ret = actor_answers(a, (unsigned int)random_below(
						       &a->seed, a->n_held));
		if (now_ns() >= end && !said && ret != -EPIPE) {
			bye.data = &a->sent;
			bye.len = 4;
			ret = evering_op_submit(a->ops, &bye, NULL,
						EVERING_NOWAIT);
			if (!ret) {
				said = true;
				a->asked++;
			}
		}
		if (ret != -EPIPE)
			ret = actor_waits(a, one_in(&a->seed, 4) ?
						     50 * USEC :
						     EVERING_NOWAIT);
		evering_ops_get_info(a->ops, &info);
		if (ret == -EPIPE) {
			/* Also one that has said all that it had to say. */
			NEED(gone_ok || (said && a->bye), ret);
			break;
		}
		NEED(ret > 0 || ret == -EAGAIN || ret == -ETIMEDOUT, ret);
		if (said && a->bye && a->told == a->asked && !a->n_held &&
		    !a->n_kept && !info.homebound && !info.abandoned &&
		    arena_whole(ev))
			break;
		pause_a_little(&a->seed);
	}
	evering_group_close(a->group);
	if (ret == -EPIPE)
		evering_ops_poll(a->ops);
	evering_ops_flush(a->ops);
	NEED(!a->failed, a->failed);
	NEED(a->told == a->asked, a->asked - a->told);
	/* Whoever had what, it is here again. */
	while (ret == -EPIPE && a->n_held)
		a->n_held--;
	while (a->n_kept)
		actor_forgets(a);
	NEED(!a->failed, a->failed);
	NEED(arena_whole(ev), ret);
	return 0;
}

/* -------------------------------------------------------------------- channels */

static int child_main(struct evering *ev, void *arg)
{
	struct plan *plan = arg;
	uint32_t received;
	int ret;

	if (plan->ops)
		ret = soak_operations(ev, plan, 1, actor);
	else
		ret = soak_entries(ev, plan, 1, &received);
	if (ret) {
		plan->sums->failed = ret;
		return 1;
	}
	/* What was sent last is not to be lost to a close. */
	if (plan->ops)
		evering_ops_wait(actor->ops, PLENTY);
	if (!plan->abrupt)
		evering_close(ev);
	return 0;
}

struct killer {
	pid_t pid;
	int64_t after;
};

static void *kill_later(void *arg)
{
	struct killer *k = arg;

	sleep_ns(k->after);
	kill(k->pid, SIGKILL);
	return NULL;
}

static void draw(uint64_t *seed, uint32_t backend, struct plan *plan)
{
	struct evering_params *p = plan->p;
	uint64_t how;

	p[0] = params_sized(backend, 16u << random_below(seed, 5),
			    4u << random_below(seed, 9), 0);
	plan->ops = p[0].slot_size >= EVERING_OPS_MIN_SLOT &&
		    p[0].entries >= 8 && random_below(seed, 3);
	p[0].arena_size[0] = PAGE * random_below(seed, 40);
	p[0].arena_size[1] = PAGE * random_below(seed, 40);
	if (plan->ops) {
		p[0].arena_size[0] += 65536;
		p[0].arena_size[1] += 65536;
	}
	p[0].flags = one_in(seed, 3) ? EVERING_SHARED_ARENA : 0;
	p[1] = p[0];
	/* Who spins for ever, and its peer, want a CPU each. */
	p[0].policy = (uint32_t)random_below(seed, one_in(seed, 4) ? 3 : 2);
	p[1].policy = (uint32_t)random_below(seed, one_in(seed, 4) ? 3 : 2);
	plan->grouped[0] = one_in(seed, 2);
	plan->grouped[1] = one_in(seed, 2);
	plan->connects = one_in(seed, 2);
	plan->run_ns = (int64_t)random_below(seed, 150 * MSEC) + 10 * MSEC;
	how = random_below(seed, 6);
	plan->killed = how == 0;
	plan->abrupt = how == 1;
	plan->seed = random_u64(seed);
}

/* A channel from its first to its last moment.  0, or the line of what went wrong. */
static int soak_once(struct plan *plan)
{
	struct killer killer;
	struct duo duo;
	uint32_t received = 0, sent;
	pthread_t t;
	int ret, end;

	memset(plan->sums, 0, sizeof(*plan->sums));
	ret = duo_start(&duo, plan->connects, plan->p, child_main, plan);
	NEED(!ret, ret);
	if (plan->killed) {
		killer.pid = duo.pid;
		killer.after = (int64_t)(plan->seed % (uint64_t)plan->run_ns);
		NEED(!pthread_create(&t, NULL, kill_later, &killer), 0);
	}
	if (plan->ops)
		ret = soak_operations(duo.ev, plan, 0, actor);
	else
		ret = soak_entries(duo.ev, plan, 0, &received);
	if (plan->killed)
		pthread_join(t, NULL);
	total.channels++;
	total.kills += plan->killed;
	total.sleeps += sleeps_of(duo.ev);
	if (plan->ops) {
		total.operations += actor->told;
		total.messages += 2ull * actor->told + actor->heard;
		total.bytes += actor->bytes;
	} else {
		sent = __atomic_load_n(&plan->sums->sent[0], __ATOMIC_ACQUIRE);
		total.messages += (uint64_t)received + sent;
		total.bytes +=
			((uint64_t)received + sent) * evering_payload(duo.ev);
	}
	evering_close(duo.ev);
	end = reap(duo.pid);
	NEED(!ret, ret);
	NEED(!plan->sums->failed, plan->sums->failed);
	NEED(end == 0 || (plan->killed && end == 128 + SIGKILL), end);
	/* All that was sent for sure has come, whatever became of the sender. */
	if (!plan->ops)
		NEED(received >= __atomic_load_n(&plan->sums->sent[1],
						 __ATOMIC_ACQUIRE),
		     received);
	return 0;
}

FIXTURE(soak)
{
	struct plan plan;
	int64_t ns;
};

BACKEND_VARIANTS(soak);

FIXTURE_SETUP(soak)
{
	const char *s = getenv("EVERING_SOAK");
	int backends = backend_there(EVERING_BACKEND_MEMFD) +
		       backend_there(EVERING_BACKEND_DEVICE);

	REQUIRE_BACKEND(variant->backend);
	self->ns = (s ? atoll(s) : short_run() ? 5 : 10) * SEC / backends;
	self->plan.sums = mmap(NULL, sizeof(struct sums),
			       PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->plan.sums);
	actor = calloc(1, sizeof(*actor));
	ASSERT_NE(NULL, actor);
}

FIXTURE_TEARDOWN(soak)
{
	free(actor);
	if (self->plan.sums)
		munmap(self->plan.sums, sizeof(struct sums));
}

TEST_F(soak, everything_at_once)
{
	int fds = 0, mappings = 0, shared = 0, ret;
	uint64_t seed = random_seed();
	uint64_t warm = 0;
	size_t heap = 0;
	int64_t end;

	for (end = now_ns() + self->ns; now_ns() < end;) {
		draw(&seed, variant->backend, &self->plan);
		ret = soak_once(&self->plan);
		ASSERT_EQ(0, ret)
		{
			TH_LOG("channel %llu: %s, slots of %u, %u of them, policies %u and %u%s%s%s",
			       (unsigned long long)total.channels,
			       self->plan.ops ? "operations" : "entries",
			       self->plan.p[0].slot_size,
			       self->plan.p[0].entries, self->plan.p[0].policy,
			       self->plan.p[1].policy,
			       self->plan.grouped[0] || self->plan.grouped[1] ?
				       ", grouped" :
				       "",
			       self->plan.killed ? ", killed" : "",
			       self->plan.abrupt ? ", abrupt" : "");
		}
		if (++warm == 8) {
			fds = count_fds();
			shared = list_mappings(NULL, 0, true);
			mappings = count_mappings();
			heap = heap_bytes();
		} else if (warm > 8) {
			ASSERT_EQ(fds, count_fds());
			ASSERT_EQ(shared, list_mappings(NULL, 0, true));
			/* libc keeps stacks and arenas of threads. */
			ASSERT_GT(mappings + 16, count_mappings());
		}
	}
	if (!SANITIZED && heap)
		EXPECT_LT(heap_bytes(), heap + 16384);
	printf("# %llu messages (%llu operations), %llu bytes, %llu channels (%llu killed), %llu sleeps\n",
	       (unsigned long long)total.messages,
	       (unsigned long long)total.operations,
	       (unsigned long long)total.bytes,
	       (unsigned long long)total.channels,
	       (unsigned long long)total.kills,
	       (unsigned long long)total.sleeps);
}

TEST_HARNESS_MAIN
