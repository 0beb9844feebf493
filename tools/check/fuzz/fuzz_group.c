// SPDX-License-Identifier: MIT
/*
 * fuzz_group.c: two groups and their members, with peers that write whatever they may and
 * peers that behave.  The input says what the caller does, and what the peers do between
 * two calls.  What must hold is in check_events(), check_quiet() and settle().
 */
#include <poll.h>

#include "fuzz.h"

#define STEPS 512
#define MEMBERS 4
#define GROUPS 2
#define BOTH ((unsigned int)(EVERING_RX | EVERING_TX))
/* Events of others until one that is ready is told of; see evering_group.h. */
#define PATIENCE (2 * EVERING_GROUP_BATCH + MEMBERS)
#define MOST_SLEEPS 20000u

/**
 * struct one - a channel: its member, and the peer
 * @ev: NULL: closed
 * @behaves: the peer uses the library, and says how much it has @sent
 * @taken: entries received
 * @in: of which group it is a member, plus 1
 * @told: that it has ended
 * @waits: events of others since it had something
 */
struct one {
	struct evering *ev;
	struct evering_ops *ops;
	struct peer peer;
	bool behaves;
	uint32_t sent;
	uint32_t taken;
	unsigned int in;
	unsigned int want;
	bool told;
	unsigned int waits;
};

struct many {
	struct one one[MEMBERS];
	struct evering_group *g[GROUPS];
	const struct evering_group_event *events[GROUPS];
	int count[GROUPS];
	bool kept[GROUPS]; /* what evering_group_arm() has found */
	bool woken[GROUPS];
	unsigned int sleeps;
};

/* ------------------------------------------------------------------ what must hold */

static bool has_entry(const struct one *o)
{
	return o->ev && (o->want & EVERING_RX) && evering_peek(o->ev);
}

static void check_event(struct many *m, unsigned int k,
			const struct evering_group_event *event)
{
	struct one *o = event->context;
	bool fresh = !m->kept[k];

	if (!event->what) {
		MUST(!event->ev && !fresh);
		return;
	}
	MUST(o >= m->one && o < m->one + MEMBERS && o->ev);
	MUST(event->ev == o->ev && o->in == k + 1 && !o->told);
	o->waits = 0;
	if (event->what == EVERING_GROUP_GONE) {
		MUST(event->result == -EPIPE || event->result == -EPROTO);
		if (o->behaves && (o->want & EVERING_RX) && fresh) {
			MUST(!o->peer.ev && event->result == -EPIPE);
			MUST(o->taken == o->sent);
		}
		o->told = true;
		return;
	}
	MUST(!(event->what & ~BOTH) && !event->result);
	if (!fresh)
		return;
	MUST(!(event->what & ~o->want));
	if ((event->what & EVERING_RX) && !o->ops)
		MUST(evering_peek(o->ev));
	if (event->what & EVERING_TX)
		MUST(evering_reserve(o->ev));
}

static void check_events(struct many *m, unsigned int k)
{
	const struct evering_group_event *events = m->events[k];
	unsigned int seen = 0, i;
	struct one *o;
	int n;

	for (i = 0; i < MEMBERS; i++) {
		o = &m->one[i];
		if (o->in == k + 1 && o->behaves && !o->told && has_entry(o))
			o->waits += (unsigned int)m->count[k];
		MUST(o->waits <= PATIENCE);
	}
	for (n = 0; n < m->count[k]; n++) {
		check_event(m, k, &events[n]);
		if (!events[n].what)
			continue;
		i = (unsigned int)((struct one *)events[n].context - m->one);
		MUST(!(seen & 1u << i));
		seen |= 1u << i;
	}
}

/* There is nothing, but from those that do not ring.  @armed: and all are armed. */
static void check_quiet(const struct many *m, unsigned int k, bool armed)
{
	const struct endpoint *e;
	const struct one *o;
	unsigned int i;

	for (i = 0; i < MEMBERS; i++) {
		o = &m->one[i];
		if (!o->ev || o->in != k + 1 || o->told)
			continue;
		MUST(!o->behaves || !has_entry(o));
		if (!armed)
			continue;
		e = to_const_endpoint(o->ev);
		if (o->want & EVERING_RX)
			MUST(e->half->armed_rx & EVERING_ARMED);
		if (o->want & EVERING_TX)
			MUST(e->half->armed_tx & EVERING_ARMED);
		if (o->behaves && (o->want & EVERING_TX))
			MUST(!evering_reserve(o->ev));
	}
}

/* ---------------------------------------------------------------------- the caller */

static void wait_for(struct many *m, unsigned int k, int64_t timeout_ns)
{
	int n = evering_group_wait(m->g[k], &m->events[k], timeout_ns);

	m->count[k] = n > 0 ? n : 0;
	check_events(m, k);
	m->kept[k] = false;
	if (n > 0) {
		MUST(n <= MEMBERS);
		return;
	}
	switch (n) {
	case -EAGAIN:
		MUST(timeout_ns == EVERING_NOWAIT);
		check_quiet(m, k, false);
		break;
	case -ETIMEDOUT:
		MUST(timeout_ns > 0 && !m->woken[k]);
		check_quiet(m, k, false);
		break;
	default: /* libFuzzer has an alarm of its own */
		MUST(n == -EINTR);
		m->woken[k] = false;
	}
}

static void poll_group(struct many *m, unsigned int k)
{
	int n = evering_group_poll(m->g[k], &m->events[k]);

	m->count[k] = n > 0 ? n : 0;
	check_events(m, k);
	m->kept[k] = false;
	if (n == -EINTR) {
		m->woken[k] = false;
		return;
	}
	MUST(n >= 0 && n <= MEMBERS);
	if (!n) {
		MUST(!m->woken[k]);
		check_quiet(m, k, true);
	}
}

static void arm_group(struct many *m, unsigned int k)
{
	int ret = evering_group_arm(m->g[k]);

	m->count[k] = 0;
	if (ret == 1) {
		m->kept[k] = true;
		MUST(!evering_group_timeout(m->g[k]));
		return;
	}
	m->kept[k] = false;
	if (ret == -EINTR) {
		m->woken[k] = false;
		return;
	}
	MUST(!ret);
	check_quiet(m, k, true);
}

/* Nothing that was returned is its any more. */
static void left(struct many *m, struct one *o)
{
	unsigned int k = o->in - 1;
	int n;

	for (n = 0; n < m->count[k]; n++)
		if (m->events[k][n].context == o)
			MUST(!m->events[k][n].what && !m->events[k][n].ev);
	o->in = 0;
	o->waits = 0;
}

static void add(struct many *m, struct one *o, unsigned int k,
		unsigned int want)
{
	int ret = evering_group_add(m->g[k], o->ev, want, o);

	if (o->in) {
		MUST(ret == (o->in == k + 1 ? -EEXIST : -EBUSY));
		return;
	}
	MUST(!ret);
	o->in = k + 1;
	o->want = want;
	o->told = false;
}

static void take_out(struct many *m, struct one *o, unsigned int k)
{
	int ret = evering_group_remove(m->g[k], o->ev);

	MUST(ret == (o->in == k + 1 ? 0 : -ENOENT));
	if (!ret)
		left(m, o);
}

static void close_one(struct many *m, struct one *o)
{
	if (!o->ev)
		return;
	fuzz_poison(o->ev, false);
	evering_close(o->ev);
	o->ev = NULL;
	if (o->in)
		left(m, o);
}

/* A turn of it. */
static void take(struct one *o, uint8_t how)
{
	unsigned char entry[EVERING_MAX_SLOT];
	struct evering_request request;
	struct evering_msg msg;
	int ret;

	o->waits = 0;
	if (!o->ops) {
		ret = evering_recv(o->ev, entry, evering_payload(o->ev),
				   EVERING_NOWAIT);
		o->taken += !ret;
		return;
	}
	switch (how % 3) {
	case 0:
		evering_ops_poll(o->ops);
		break;
	case 1:
		if (!evering_op_next(o->ops, &request, EVERING_NOWAIT))
			evering_op_answer(o->ops, request.id, 1, NULL, 0);
		break;
	default:
		if (!evering_msg_recv(o->ops, &msg, EVERING_NOWAIT))
			evering_msg_free(o->ops, &msg);
	}
}

static void give(struct one *o, uint8_t how)
{
	const unsigned char entry[EVERING_MAX_SLOT] = { 0 };
	struct evering_op op = { .opcode = how };

	if (o->ops && how & 1)
		op.timeout_ns = how * MICROSECOND;
	if (o->ops)
		evering_op_submit(o->ops, &op, NULL, EVERING_NOWAIT);
	else
		evering_send(o->ev, entry, 4, EVERING_NOWAIT);
}

/* Seldom, or to one member alone. */
static void other_step(struct many *m, struct one *o, unsigned int k,
		       struct input *in)
{
	uint8_t what = in8(in);

	switch (what % 8) {
	case 0:
		MUST(!evering_group_wake(m->g[k]));
		m->woken[k] = true;
		break;
	case 1:
	case 2: /* a wait of its own */
		if (o->ev && !o->ops)
			evering_wait(o->ev, 1 + what / 8 % 3,
				     what & 128 ? MICROSECOND : EVERING_NOWAIT);
		break;
	case 3:
		if (what > 200)
			peer_leave(&o->peer);
		break;
	case 4:
		if (what > 200)
			close_one(m, o);
		break;
	case 5:
		evering_group_timeout(m->g[k]);
		break;
	case 6:
		if (o->ev && o->ops)
			evering_ops_flush(o->ops);
		break;
	default:
		if (o->ev)
			MUST(evering_fd(o->ev) == -EBUSY || !o->in);
	}
}

static void peer_step(struct one *o, struct input *in)
{
	const unsigned char entry[EVERING_MAX_SLOT] = { 0 };
	unsigned char got[EVERING_MAX_SLOT];
	uint8_t what;

	/* It looks where the victim is. */
	if (!o->ev)
		return;
	if (!o->behaves) {
		if (o->ops)
			peer_op_step(&o->peer, in);
		else
			peer_ring_step(&o->peer, in);
		if (o->ops)
			peer_check(&o->peer);
		return;
	}
	if (!o->peer.ev)
		return;
	what = in8(in);
	if (what & 1)
		o->sent += !evering_send(&o->peer.ev->ev, entry, 4,
					 EVERING_NOWAIT);
	else
		evering_recv(&o->peer.ev->ev, got,
			     evering_payload(&o->peer.ev->ev), EVERING_NOWAIT);
}

static void step(struct many *m, struct input *in)
{
	uint8_t who = in8(in);
	struct one *o = &m->one[who % MEMBERS];
	unsigned int k = who >> 2 & 1, op = who >> 3;

	m->sleeps = 0;
	switch (op) {
	case 20:
	case 21:
		wait_for(m, k, EVERING_NOWAIT);
		return;
	case 22:
		wait_for(m, k, (1 + in8(in)) * MICROSECOND);
		return;
	case 23:
	case 24:
		poll_group(m, k);
		return;
	case 25:
		arm_group(m, k);
		return;
	case 26:
		other_step(m, o, k, in);
		return;
	}
	if (op < 10) {
		peer_step(o, in);
		return;
	}
	if (!o->ev)
		return;
	switch (op) {
	case 27:
		add(m, o, k, in8(in) & BOTH);
		break;
	case 28:
		take_out(m, o, k);
		break;
	case 29:
		if (o->in) {
			o->want = in8(in) & BOTH;
			MUST(!evering_group_want(m->g[o->in - 1], o->ev,
						 o->want));
		}
		break;
	case 30:
	case 31:
		give(o, in8(in));
		break;
	default:
		take(o, (uint8_t)op);
	}
}

/* --------------------------------------------------------------------- the whole */

static void before_sleep(void *arg)
{
	struct many *m = arg;
	unsigned int i;

	MUST(m->sleeps++ < MOST_SLEEPS);
	for (i = 0; i < MEMBERS; i++)
		if (m->one[i].peer.rings && m->one[i].peer.ev)
			peer_ring(&m->one[i].peer);
}

/* The victims ring nobody who is not to be rung. */
static void before_write(void *arg, int fd)
{
	struct many *m = arg;
	unsigned int i;

	for (i = 0; i < MEMBERS; i++)
		if (m->one[i].ev)
			peer_before_write(&m->one[i].peer, fd);
}

static void set_up(struct many *m, struct input *in)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	struct evering *ev[2];
	uint8_t how = in8(in);
	unsigned int i;
	struct one *o;

	for (i = 0; i < GROUPS; i++) {
		params.policy = i ? EVERING_BLOCK : EVERING_ADAPTIVE;
		params.spin_ns = 2 * MICROSECOND;
		MUST(!evering_group_open(&params, &m->g[i]));
	}
	for (i = 0; i < MEMBERS; i++) {
		o = &m->one[i];
		MUST(!fuzz_pair(in, EVERING_OPS_MIN_SLOT, ev));
		o->ev = ev[EVERING_A];
		fuzz_poison(o->ev, true);
		o->behaves = how >> i & 1;
		peer_init(&o->peer, ev[EVERING_B], o->ev);
		if (o->behaves || !(how >> (4 + i) & 1))
			continue;
		MUST(!evering_ops_open(o->ev, NULL, &o->ops));
		peer_open(&o->peer, 8, 8, 8);
	}
	fuzz_before_sleep(before_sleep, m);
	fuzz_before_write(before_write, m);
	/* Most of what there is to find is among members. */
	for (i = 0; i < MEMBERS; i++)
		add(m, &m->one[i], how >> i & 1, EVERING_RX);
}

/* What was sent is told of, and received. */
static void settle(struct many *m)
{
	unsigned int i, k, rounds;
	struct one *o;
	int n;

	m->sleeps = 0;
	for (i = 0; i < MEMBERS; i++) {
		o = &m->one[i];
		if (!o->ev || !o->in)
			continue;
		o->want |= EVERING_RX;
		MUST(!evering_group_want(m->g[o->in - 1], o->ev, o->want));
	}
	for (k = 0; k < GROUPS; k++) {
		for (rounds = 0; rounds < 1000; rounds++) {
			wait_for(m, k, EVERING_NOWAIT);
			for (n = 0; n < m->count[k]; n++) {
				o = m->events[k][n].context;
				if (m->events[k][n].what & EVERING_RX)
					take(o, (uint8_t)rounds);
			}
		}
	}
	for (i = 0; i < MEMBERS; i++) {
		o = &m->one[i];
		if (o->ev && o->in && o->behaves && !o->told)
			MUST(o->taken == o->sent);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	static struct many m;
	struct fuzz_run run;
	unsigned int i;
	int steps;

	fuzz_begin(&run);
	memset(&m, 0, sizeof(m));
	set_up(&m, &in);
	for (steps = 0; steps < STEPS && in_more(&in); steps++)
		step(&m, &in);
	settle(&m);
	if (steps & 1)
		for (i = 0; i < GROUPS; i++)
			evering_group_close(m.g[i]);
	for (i = 0; i < MEMBERS; i++) {
		if (steps & 1)
			m.one[i].in = 0;
		if (steps & 2)
			peer_leave(&m.one[i].peer);
		close_one(&m, &m.one[i]);
		peer_leave(&m.one[i].peer);
	}
	if (!(steps & 1))
		for (i = 0; i < GROUPS; i++)
			evering_group_close(m.g[i]);
	fuzz_end(&run);
	return 0;
}
