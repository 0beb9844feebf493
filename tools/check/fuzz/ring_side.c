// SPDX-License-Identifier: MIT
/*
 * ring_side.c: the victim of a hostile peer, using the rings by the rules.  Whatever
 * the peer does, a call returns what its documentation says, in time, and a place that
 * it names can be used.
 */
#include <poll.h>
#include <time.h>

#include "fuzz.h"

/* How late a call may be on a machine that is busy with other things. */
#define LATE (5 * SECOND)

void ring_side_init(struct ring_side *s, struct evering *ev, bool alone)
{
	memset(s, 0, sizeof(*s));
	s->ev = ev;
	s->alone = alone;
	s->e = to_endpoint(ev);
}

static uint32_t entries_of(const struct ring_side *s)
{
	return s->e->geometry.entries;
}

/* Not often, so that a run stays short. */
static int64_t some_time(struct ring_side *s, struct input *in)
{
	uint8_t t = in8(in);

	if (t < 192 || s->waits >= 8)
		return EVERING_NOWAIT;
	s->waits++;
	return (t - 191) * MICROSECOND;
}

static void check_error(int ret)
{
	/* -EINTR: libFuzzer has an alarm of its own. */
	MUST(ret == -EAGAIN || ret == -ETIMEDOUT || ret == -EPIPE ||
	     ret == -EPROTO || ret == -EINTR);
}

/* Of the sending side, which is the receiving one if the names are exchanged. */
static void check_credit(const struct ring_side *s)
{
	MUST(s->e->ev.tx.limit - s->e->ev.tx.next <= entries_of(s));
}

static void check_entry(const struct ring_side *s, const void *entry)
{
	const unsigned char *at = entry, *first = s->e->ev.rx.slots;

	MUST(at >= first &&
	     (size_t)(at - first) < (size_t)entries_of(s) << s->e->ev.rx.shift);
	fuzz_touch(entry, evering_payload(s->ev));
}

/* The @k-th of the next entries, if it says that it is there; without the library. */
static const unsigned char *stamped(const struct ring_side *s, uint32_t k)
{
	const struct evering_geometry *g = &s->e->geometry;
	uint32_t n = s->e->ev.rx.next + k, stamp;
	const unsigned char *slot = (const unsigned char *)s->e->peer +
				    EVERING_SLOTS_OFFSET +
				    (size_t)(n % g->entries) * g->slot_size;

	memcpy(&stamp, slot + g->slot_size - sizeof(stamp), sizeof(stamp));
	return stamp == n + 1 ? slot : NULL;
}

static void do_peek(struct ring_side *s, struct input *in)
{
	uint32_t k = in_below(in, entries_of(s));
	const void *entry = evering_peek_at(s->ev, k);

	if (s->alone)
		MUST(entry == stamped(s, k));
	if (!entry)
		return;
	check_entry(s, entry);
	/* Each was seen, one after the other. */
	if (k == s->seen)
		s->seen++;
}

static void do_release(struct ring_side *s, struct input *in)
{
	uint32_t n = in_below(in, s->seen + 1);

	evering_release_many(s->ev, n);
	s->seen -= n;
}

static void do_recv(struct ring_side *s, struct input *in)
{
	unsigned char entry[EVERING_MAX_SLOT];
	size_t len = in_below(in, EVERING_MAX_SLOT);
	const unsigned char *slot = stamped(s, 0);
	int ret;

	ret = evering_recv(s->ev, entry, len, some_time(s, in));
	s->seen = 0;
	if (len > evering_payload(s->ev))
		MUST(ret == -EMSGSIZE);
	else if (ret)
		check_error(ret);
	if (s->alone && len <= evering_payload(s->ev)) {
		MUST(!ret == !!slot);
		MUST(!slot || !memcmp(entry, slot, len));
	}
}

static void do_recv_bulk(struct ring_side *s, struct input *in)
{
	unsigned int count = in8(in) & 15;
	size_t len = evering_payload(s->ev) >> (in8(in) & 3);
	unsigned char *entries = malloc(len * count + 1);
	int ret, there = 0;

	MUST(entries);
	while ((unsigned int)there < count && stamped(s, (uint32_t)there))
		there++;
	ret = evering_recv_bulk(s->ev, entries, len, count, some_time(s, in));
	s->seen = 0;
	if (!count)
		MUST(ret == -EINVAL);
	else if (ret <= 0)
		check_error(ret);
	else
		MUST((unsigned int)ret <= count);
	if (s->alone && count)
		MUST(there ? ret == there : ret < 0);
	free(entries);
}

static void do_reserve(struct ring_side *s, struct input *in)
{
	uint32_t k = in8(in), n = in8(in), i;
	void *place;

	place = evering_reserve_at(s->ev, k);
	check_credit(s);
	if (!place)
		return;
	MUST(k < entries_of(s));
	for (i = 0; i <= k; i++) {
		place = evering_reserve_at(s->ev, i);
		MUST(place);
		memset(place, (int)n, evering_payload(s->ev));
	}
	evering_commit_many(s->ev, n % (k + 2));
}

static void do_send(struct ring_side *s, struct input *in)
{
	unsigned char entry[EVERING_MAX_SLOT] = { 1 };
	size_t len = in_below(in, EVERING_MAX_SLOT);
	int ret;

	ret = evering_send(s->ev, entry, len, some_time(s, in));
	check_credit(s);
	if (len > evering_payload(s->ev))
		MUST(ret == -EMSGSIZE);
	else if (ret)
		check_error(ret);
}

static void do_send_bulk(struct ring_side *s, struct input *in)
{
	unsigned int count = in8(in) & 15;
	size_t len = evering_payload(s->ev);
	unsigned char *entries = calloc(count + 1, len);
	int ret;

	MUST(entries);
	ret = evering_send_bulk(s->ev, entries, len, count, some_time(s, in));
	check_credit(s);
	if (!count)
		MUST(ret == -EINVAL);
	else if (ret <= 0)
		check_error(ret);
	else
		MUST((unsigned int)ret <= count);
	free(entries);
}

static void do_wait(struct ring_side *s, struct input *in)
{
	unsigned int what = in8(in) & 3;
	int64_t timeout = some_time(s, in), before = 0;
	struct timespec now;
	int ret;

	if (in8(in) & 1)
		what |= EVERING_FLUSH;
	clock_gettime(CLOCK_MONOTONIC, &now);
	before = now.tv_sec * SECOND + now.tv_nsec;
	ret = evering_wait(s->ev, what, timeout);
	clock_gettime(CLOCK_MONOTONIC, &now);
	MUST(now.tv_sec * SECOND + now.tv_nsec - before < timeout + LATE);
	if (!(what & (EVERING_RX | EVERING_TX)))
		MUST(ret == -EINVAL);
	else if (ret <= 0)
		check_error(ret);
	else
		MUST(!((unsigned int)ret & ~what));
}

static void do_arm(struct ring_side *s, struct input *in)
{
	unsigned int what = in8(in) & 3;
	struct pollfd fd = { .fd = evering_fd(s->ev) };
	int ret;

	MUST(fd.fd >= 0);
	ret = evering_arm(s->ev, what);
	if (!what)
		MUST(ret == -EINVAL);
	else if (ret < 0)
		check_error(ret);
	else
		MUST(!((unsigned int)ret & ~what));
	fd.events = evering_events(s->ev, what);
	poll(&fd, 1, 0);
	if (in8(in) & 1)
		evering_disarm(s->ev, what);
}

static void do_arena(struct ring_side *s, struct input *in)
{
	uint8_t what = in8(in), k = what % ARRAY_SIZE(s->buf);

	if (s->buf[k]) {
		memset(s->buf[k], what, s->buf_len[k]);
		MUST(!evering_free(s->ev, s->buf[k]));
		s->buf[k] = NULL;
		return;
	}
	s->buf_len[k] = in16(in);
	s->buf[k] = evering_alloc(s->ev, s->buf_len[k],
				  what & 0x80 ? 1u << (what >> 3 & 15) : 0);
	if (s->buf[k]) {
		memset(s->buf[k], what, s->buf_len[k]);
		MUST(evering_offset(s->ev, s->buf[k]) + s->buf_len[k] <=
		     s->e->geometry.arena_size[s->e->end]);
	}
}

static void do_payload(struct ring_side *s, struct input *in)
{
	uint64_t offset = in8(in) & 1 ? in64(in) : in16(in);
	uint64_t len = in8(in) & 1 ? in64(in) : in16(in);
	const void *at = evering_peer_buffer(s->ev, offset, len);

	if (!at)
		return;
	MUST(offset + len <= s->e->geometry.arena_size[!s->e->end]);
	fuzz_touch(at, len);
}

static void do_ask(struct ring_side *s, struct input *in)
{
	struct evering_counters counters;
	struct evering_geometry geometry;
	pid_t pid;
	uid_t uid;
	gid_t gid;
	int ret;

	switch (in8(in) & 3) {
	case 0:
		evering_get_counters(s->ev, EVERING_PEERS, &counters);
		break;
	case 1:
		ret = evering_peer(s->ev);
		MUST(ret >= EVERING_PEER_ALIVE &&
		     ret <= EVERING_PEER_RELAY_DIED);
		break;
	case 2:
		MUST(evering_get_geometry(s->ev, &geometry) == (int)s->e->end);
		MUST(!evering_peer_cred(s->ev, &pid, &uid, &gid));
		break;
	case 3:
		MUST(!evering_set_policy(s->ev, in8(in) % 3, 2000));
		break;
	}
}

void ring_side_step(struct ring_side *s, struct input *in)
{
	switch (in8(in) % 12) {
	case 0:
		do_peek(s, in);
		break;
	case 1:
		do_release(s, in);
		break;
	case 2:
		do_recv(s, in);
		break;
	case 3:
		do_recv_bulk(s, in);
		break;
	case 4:
		do_reserve(s, in);
		break;
	case 5:
		do_send(s, in);
		break;
	case 6:
		do_send_bulk(s, in);
		break;
	case 7:
		do_wait(s, in);
		break;
	case 8:
		do_arm(s, in);
		break;
	case 9:
		do_arena(s, in);
		break;
	case 10:
		do_payload(s, in);
		break;
	case 11:
		do_ask(s, in);
		break;
	}
}

/* What is in the arena is nobody's but this side's: all of it can be had again. */
void ring_side_end(struct ring_side *s)
{
	uint64_t size = s->e->geometry.arena_size[s->e->end];
	unsigned int i;
	void *all;

	for (i = 0; i < ARRAY_SIZE(s->buf); i++)
		MUST(!evering_free(s->ev, s->buf[i]));
	if (!size)
		return;
	all = evering_alloc(s->ev, size, 0);
	MUST(all && !evering_free(s->ev, all));
}
