// SPDX-License-Identifier: MIT
/*
 * peer.c: the hostile peer.  It writes whatever it likes wherever it may: its half,
 * its arena (both if they are shared), the doorbells, the socket.  So that more comes
 * of it than garbage in the first entry, much of what it does is almost right: it
 * knows where the victim is, and what it has been sent.
 *
 * May run beside the victim in a thread of its own: what it reads of it, it reads
 * atomically.
 */
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"

void peer_init(struct peer *p, struct evering *ev, struct evering *victim)
{
	memset(p, 0, sizeof(*p));
	p->ev = to_endpoint(ev);
	p->victim = to_endpoint(victim);
}

void peer_leave(struct peer *p)
{
	if (p->ev)
		evering_close(&p->ev->ev);
	p->ev = NULL;
}

static void store32(void *at, uint32_t value)
{
	__atomic_store_n((uint32_t *)at, value, __ATOMIC_RELEASE);
}

/* Where the victim is: the entry that it takes next, and the one it sends next. */
static uint32_t takes_next(const struct peer *p)
{
	return __atomic_load_n(&p->victim->ev.rx.next, __ATOMIC_RELAXED);
}

static uint32_t sends_next(const struct peer *p)
{
	return __atomic_load_n(&p->victim->ev.tx.next, __ATOMIC_RELAXED);
}

static unsigned char *slot_of(const struct peer *p, uint32_t n)
{
	return evering__tx_slot(&p->ev->ev.tx, n);
}

static void stamp(const struct peer *p, uint32_t n, uint32_t value)
{
	store32(slot_of(p, n) + p->ev->ev.tx.payload, value);
}

/* Its next entry, in a slot that the victim has done with; NULL: there is none. */
static unsigned char *next_slot(struct peer *p)
{
	uint32_t taken = takes_next(p);

	if ((int32_t)(p->next - taken) < 0)
		p->next = taken;
	return p->next - taken < p->ev->geometry.entries ? slot_of(p, p->next) :
							   NULL;
}

/* No id of the victim's has come so far. */
static bool is_alien(uint64_t id)
{
	return id >> 40;
}

/* Nor has a buffer of such a generation. */
#define ALIEN (1u << 28)

/* Does it name a buffer of the victim's that there never was? */
static bool names_alien(const struct peer *p, const unsigned char *entry,
			const struct evering_op_header *h)
{
	unsigned int homes = h->flags >> EVERING_OP_HOME_SHIFT;
	const unsigned char *end = entry + p->ev->ev.tx.payload;
	struct evering_op_buffer name;
	struct evering_op_home home;

	if (h->flags & EVERING_OP_BUFFER) {
		end -= sizeof(name);
		memcpy(&name, end, sizeof(name));
		if ((h->flags & EVERING_OP_BUFFER) == EVERING_OP_BACK &&
		    (name.generation & ALIEN))
			return true;
	}
	for (; homes; homes--) {
		end -= sizeof(home);
		memcpy(&home, end, sizeof(home));
		if (home.generation & ALIEN)
			return true;
	}
	return false;
}

/* By what can be seen from here: must the channel end when the victim takes it? */
static bool is_fatal(const struct peer *p, const unsigned char *entry)
{
	struct evering_op_header h;
	unsigned int kind;
	size_t size;

	memcpy(&h, entry, sizeof(h));
	kind = h.flags & EVERING_OP_BUFFER;
	size = sizeof(h) + h.len + (kind ? sizeof(p->names[0]) : 0) +
	       (h.flags >> EVERING_OP_HOME_SHIFT) *
		       sizeof(struct evering_op_home);
	if (size > p->ev->ev.tx.payload ||
	    ((h.flags & EVERING_OP_AGAIN) && h.type != EVERING_OP_REQUEST) ||
	    kind > EVERING_OP_IN_PLACE || names_alien(p, entry, &h))
		return true;
	if (!p->opened && h.type != EVERING_OP_OPEN)
		return true;
	switch (h.type) {
	case EVERING_OP_OPEN:
		return kind || h.len < sizeof(struct evering_op_open) ||
		       h.code != EVERING_OPS_VERSION;
	case EVERING_OP_REQUEST:
		return kind == EVERING_OP_IN_PLACE;
	case EVERING_OP_ANSWER:
		return kind == EVERING_OP_LENT || is_alien(h.id) ||
		       (kind == EVERING_OP_IN_PLACE &&
			!(p->ev->geometry.flags & EVERING_SHARED_ARENA));
	case EVERING_OP_CANCEL:
		return kind;
	case EVERING_OP_HOME:
		/* The victim never has more under way than are stored. */
		return kind || (!p->vague && h.code - p->finished > p->store);
	case EVERING_OP_POST:
		return kind && kind != EVERING_OP_GIVEN &&
		       kind != EVERING_OP_BACK;
	case EVERING_OP_MESSAGE:
		return kind && kind != EVERING_OP_GIVEN;
	default:
		return true;
	}
}

/* Has it taken what must end the channel, and goes on?  Of who has operations. */
void peer_check(const struct peer *p)
{
	MUST(!p->fatal || (int32_t)(takes_next(p) - p->fatal_at) <= 0 ||
	     channel_error(p->victim));
}

/* What it had put there may be something else now. */
static void forget(struct peer *p)
{
	p->fatal = false;
	p->opened = true;
	p->vague = true;
}

/* What follows from an entry that the victim will take, if it takes any. */
static void note(struct peer *p, const unsigned char *entry)
{
	struct evering_op_header h;
	struct evering_op_open open;

	memcpy(&h, entry, sizeof(h));
	memcpy(&open, entry + sizeof(h), sizeof(open));
	if (!p->opened && h.type == EVERING_OP_OPEN)
		p->store = open.store;
	p->tells += h.type == EVERING_OP_POST || h.type == EVERING_OP_MESSAGE;
	if (h.type == EVERING_OP_HOME)
		p->finished = h.code;
}

static void put(struct peer *p, const unsigned char *entry)
{
	unsigned char *slot = next_slot(p);

	if (!slot)
		return;
	if (!p->fatal && is_fatal(p, entry)) {
		p->fatal = true;
		p->fatal_at = p->next;
	}
	if (!p->fatal)
		note(p, entry);
	p->opened = true;
	memcpy(slot, entry, p->ev->ev.tx.payload);
	stamp(p, p->next, p->next + 1);
	p->next++;
}

/* A number near @base, or like it in its low bits, or any. */
static uint32_t near(struct input *in, uint32_t base)
{
	uint8_t how = in8(in);

	if (how == 0xff)
		return in32(in);
	if (how >= 0x60 && how < 0x80)
		return base + (1u << (how & 31));
	return base + (uint32_t)(int8_t)how;
}

static void write_bell(int fd, uint64_t value)
{
	ssize_t ignored = write(fd, &value, sizeof(value));

	(void)ignored;
}

static void read_bell(int fd)
{
	uint64_t value;
	ssize_t ignored = read(fd, &value, sizeof(value));

	(void)ignored;
}

/* An open file is both sides' and may be made so that who reads it waits. */
static void let_block(const struct peer *p, bool block)
{
	const int *bell = p->ev->memfd.bell[!p->ev->end];
	unsigned int i;

	for (i = 0; i < 2 && p->blocks; i++)
		fcntl(bell[i], F_SETFL, block ? 0 : O_NONBLOCK);
}

/*
 * The eventfds of both sides are open here, non-blocking while this side does
 * something.
 */
static void do_bells(struct peer *p, struct input *in)
{
	uint8_t what = in8(in);
	int fd = p->ev->memfd.bell[what & 1][what >> 1 & 1];

	p->rings = what & 16;
	p->blocks = what & 32;
	switch (what >> 2 & 3) {
	case 0:
	case 1:
		write_bell(fd, 1);
		break;
	case 2:
		write_bell(fd, UINT64_MAX - 1);
		break;
	case 3:
		read_bell(fd);
		break;
	}
}

void peer_ring(const struct peer *p)
{
	let_block(p, false);
	write_bell(p->ev->memfd.bell[!p->ev->end][0], 1);
	write_bell(p->ev->memfd.bell[!p->ev->end][1], 1);
	let_block(p, true);
}

/* More sleeps than any timeout of the victim's has room for. */
#define MOST_SLEEPS 20000u

void peer_before_sleep(void *arg)
{
	struct peer *p = arg;

	MUST(p->sleeps++ < MOST_SLEEPS);
	if (p->rings && p->ev)
		peer_ring(p);
}

/*
 * The victim rings: who is armed, and who has not been rung yet since he armed; for
 * space once by each of its roles.
 */
void peer_before_write(void *arg, int fd)
{
	struct peer *p = arg;
	const int *bell = p->victim->memfd.bell[!p->victim->end];
	uint32_t armed;

	if (fd == bell[0]) {
		armed = p->victim->peer->armed_rx;
		MUST((armed & EVERING_ARMED) && armed != p->rung_rx);
		p->rung_rx = armed;
	}
	if (fd == bell[1]) {
		armed = p->victim->peer->armed_tx;
		if (armed != p->rung_tx)
			p->rung_tx_times = 0;
		MUST((armed & EVERING_ARMED) && p->rung_tx_times++ < 2);
		p->rung_tx = armed;
	}
}

static void do_socket(struct peer *p, struct input *in)
{
	uint8_t what = in8(in);
	char bytes[256];

	switch (what & 7) {
	case 0:
		shutdown(p->ev->sock, SHUT_WR);
		break;
	case 1:
		shutdown(p->ev->sock, SHUT_RD);
		break;
	default:
		in_bytes(in, bytes, 8);
		send(p->ev->sock, bytes, 1u + what,
		     MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

/* In the order in which the input has it, whatever a compiler evaluates first. */
static void store_anywhere(struct peer *p, unsigned int region,
			   struct input *in)
{
	size_t at = in16(in) * 4u % p->ev->map_size[region];

	store32((unsigned char *)p->ev->map[region] + at, in32(in));
}

static void do_arena(struct peer *p, struct input *in)
{
	unsigned int end = p->ev->end;
	uint8_t what = in8(in);
	unsigned int region;

	if ((what & 1) && (p->ev->geometry.flags & EVERING_SHARED_ARENA))
		end = !end;
	region = EVERING_REGION_ARENA(end);
	if (p->ev->map_size[region])
		store_anywhere(p, region, in);
}

static void ring_step(struct peer *p, struct input *in)
{
	struct evering_half *half = p->ev->half;
	unsigned char entry[EVERING_MAX_SLOT];
	uint8_t op = in8(in) % 16;
	uint32_t n;

	switch (op) {
	case 0:
	case 1:
	case 2:
	case 3: /* some right entries */
		memset(entry, in8(in), sizeof(entry));
		for (n = 0; n < 1u << 2 * op; n++)
			put(p, entry);
		break;
	case 4: /* a stamp, almost right */
		forget(p);
		n = near(in, takes_next(p));
		stamp(p, n, near(in, n + 1));
		break;
	case 5:
		forget(p);
		n = near(in, takes_next(p));
		in_bytes(in, slot_of(p, n), p->ev->ev.tx.payload);
		break;
	case 6: /* has taken everything, or almost, or what cannot be */
		store32(&half->released, near(in, sends_next(p)));
		break;
	case 7:
		store32(&half->released,
			near(in, sends_next(p) - p->ev->geometry.entries));
		break;
	case 8:
		store32(&half->armed_rx, half->armed_rx + in8(in));
		break;
	case 9:
		store32(&half->armed_tx, half->armed_tx + in8(in));
		break;
	case 10:
		store32(in8(in) & 1 ? &half->armed_rx : &half->armed_tx,
			in32(in));
		break;
	case 11: /* anything anywhere */
		forget(p);
		store_anywhere(p, EVERING_REGION_HALF(p->ev->end), in);
		break;
	case 12:
		do_bells(p, in);
		break;
	case 13:
		if (in8(in) < 32)
			do_socket(p, in);
		break;
	case 14:
		do_arena(p, in);
		break;
	case 15:
		forget(p);
		p->next += (uint32_t)(int8_t)in8(in);
		break;
	}
}

void peer_ring_step(struct peer *p, struct input *in)
{
	if (!p->ev)
		return;
	let_block(p, false);
	ring_step(p, in);
	let_block(p, true);
}

/* ------------------------------------------------------------------ operations */

/* Of posts and messages the victim neither sends nor takes more than was agreed. */
static void check_credit(struct peer *p, const struct evering_op_header *h)
{
	p->told += h->type == EVERING_OP_POST || h->type == EVERING_OP_MESSAGE;
	if (p->vague)
		return;
	if ((int32_t)(p->told - p->finished) > 0)
		MUST(p->told - p->finished <= p->store);
	if (h->type == EVERING_OP_HOME)
		MUST(h->code <= p->tells);
}

/* Looks at what the victim has sent, to have names that are almost right. */
static void harvest(struct peer *p)
{
	const struct evering_rx *rx = &p->ev->ev.rx;
	const unsigned char *slot;
	unsigned int looks, at;

	for (looks = 0; looks <= rx->mask; looks++) {
		slot = evering__rx_slot(rx, p->seen);
		if (evering_load_acquire(
			    (const uint32_t *)(slot + rx->payload)) !=
		    p->seen + 1)
			return;
		at = p->n_heads++ % PEER_SEEN;
		memcpy(&p->heads[at], slot, sizeof(p->heads[at]));
		memcpy(&p->names[at], slot + rx->payload - sizeof(p->names[at]),
		       sizeof(p->names[at]));
		check_credit(p, &p->heads[at]);
		p->seen++;
	}
}

static uint64_t some_id(struct peer *p, struct input *in)
{
	uint8_t what = in8(in);

	switch (what >> 6) {
	case 0: /* one of the victim's */
		return p->heads[what % PEER_SEEN].id;
	case 1: /* a new one */
		p->asked += (uint64_t)1 << EVERING_OP_INDEX_BITS;
		p->asked &= ~(uint64_t)63;
		p->asked |= what & 63;
		return p->asked;
	case 2:
		return p->asked;
	default:
		if (what & 16) /* one of them, of a time to come */
			return p->heads[what % PEER_SEEN].id | (uint64_t)1
								       << 40;
		return what & 32 ? in64(in) : what & 31;
	}
}

static struct evering_op_buffer some_buffer(const struct peer *p,
					    struct input *in)
{
	struct evering_op_buffer name = { 0 };
	uint8_t what = in8(in);

	switch (what >> 6) {
	case 0: /* one of the victim's, or of a time to come */
		name = p->names[what % PEER_SEEN];
		name.generation |= what & 32 ? ALIEN : 0;
		return name;
	case 1: /* one of its own, right at the start of its arena */
		name.granule = what & 15;
		name.generation = what & 16 ? 1 : 0;
		name.len_low = 64;
		return name;
	case 2: /* the same, and as long as may be */
		name.granule = what & 63;
		name.len_low = in16(in);
		return name;
	default:
		in_bytes(in, &name, sizeof(name));
		return name;
	}
}

static void put_op(struct peer *p, struct input *in)
{
	uint32_t payload = p->ev->ev.tx.payload, from, to = payload;
	struct evering_op_buffer name;
	unsigned char entry[EVERING_MAX_SLOT];
	uint8_t what = in8(in), len = in8(in), homes;
	struct evering_op_header h = { 0 };

	memset(entry, len, sizeof(entry));
	h.type = what & 7;
	h.id = some_id(p, in);
	h.flags = in8(in);
	h.code = h.type == EVERING_OP_OPEN ? EVERING_OPS_VERSION : in8(in);
	h.len = len < 0xf0 ? len % (payload - sizeof(h)) : len;
	if (len == 0xff)
		h.len = in16(in);
	if (what & 8) /* no buffer, nothing home */
		h.flags = 0;
	if (what & 16)
		h.flags &= EVERING_OP_BUFFER;
	if (h.type == EVERING_OP_HOME && !(what & 16))
		h.code = p->told - (h.code & 3);
	if (what & 32)
		h.code = in32(in);
	homes = h.flags >> EVERING_OP_HOME_SHIFT;
	if (h.flags & EVERING_OP_BUFFER) {
		name = some_buffer(p, in);
		to -= (uint32_t)sizeof(name);
		memcpy(entry + to, &name, sizeof(name));
	}
	while (homes-- && to >= 8 + sizeof(h)) {
		name = some_buffer(p, in);
		to -= 8;
		memcpy(entry + to, &name, 8);
	}
	/* Not so long that it cannot be, unless it is meant to be. */
	from = (uint32_t)sizeof(h);
	if (len < 0xf0 && h.len > to - from)
		h.len = (uint16_t)(to - from);
	memcpy(entry, &h, sizeof(h));
	put(p, entry);
}

void peer_open(struct peer *p, uint32_t depth, uint32_t serve, uint32_t store)
{
	const struct evering_op_header h = {
		.type = EVERING_OP_OPEN,
		.len = sizeof(struct evering_op_open),
		.code = EVERING_OPS_VERSION,
	};
	const struct evering_op_open open = { depth, serve, store, 0 };
	unsigned char entry[EVERING_MAX_SLOT] = { 0 };

	memcpy(entry, &h, sizeof(h));
	memcpy(entry + sizeof(h), &open, sizeof(open));
	put(p, entry);
}

/* Answers the @k-th of what it has seen lately. */
static void answer(struct peer *p, uint32_t k, struct input *in)
{
	struct evering_op_header h = p->heads[k % PEER_SEEN];
	struct evering_op_buffer name = p->names[k % PEER_SEEN];
	unsigned char entry[EVERING_MAX_SLOT];
	uint32_t payload = p->ev->ev.tx.payload;
	uint8_t what = k & 16 ? in8(in) : 0;

	memset(entry, 1, sizeof(entry));
	h.type = EVERING_OP_ANSWER;
	/* What was lent comes back in its place, what was given comes back. */
	if ((h.flags & EVERING_OP_BUFFER) == EVERING_OP_LENT)
		h.flags = in8(in) & 1 ? EVERING_OP_IN_PLACE : 0;
	else if ((h.flags & EVERING_OP_BUFFER) == EVERING_OP_GIVEN)
		h.flags = EVERING_OP_BACK;
	else
		h.flags = 0;
	/* Or so it says, or there is more of it than there was. */
	if (what & 1)
		h.flags = EVERING_OP_IN_PLACE;
	if (what & 2)
		name.len_low += 1u << (what >> 4);
	if (what & 4)
		h.id |= (uint64_t)1 << 40;
	if (what & 8)
		name.generation |= ALIEN;
	h.len = h.flags ? 0 : 4;
	memcpy(entry, &h, sizeof(h));
	memcpy(entry + payload - sizeof(name), &name, sizeof(name));
	put(p, entry);
}

/* A message, a post, or the news that it has finished with all that came, by @what. */
static void tell(struct peer *p, uint8_t what, struct input *in)
{
	struct evering_op_header h = { .len = what & 7 };
	unsigned char entry[EVERING_MAX_SLOT];
	struct evering_op_buffer name = { 0 };

	memset(entry, what, sizeof(entry));
	h.type = what & 8 ? EVERING_OP_POST : EVERING_OP_MESSAGE;
	switch (what & 24) {
	case 0:
		h.len = (uint16_t)(in8(in) %
				   (p->ev->ev.tx.payload - sizeof(h) + 1));
		break;
	case 24:
		h.type = EVERING_OP_HOME;
		h.code = p->told;
		break;
	default:
		/* Of its own arena, or as it came: the victim's. */
		h.flags = EVERING_OP_GIVEN;
		name.granule = in8(in);
		name.len_low = 64 + h.len;
		if (h.type == EVERING_OP_POST && (what & 4)) {
			h.flags = EVERING_OP_BACK;
			name = p->names[name.granule % PEER_SEEN];
		}
		h.len = 0;
	}
	memcpy(entry, &h, sizeof(h));
	if (h.flags)
		memcpy(entry + p->ev->ev.tx.payload - sizeof(name), &name,
		       sizeof(name));
	put(p, entry);
}

void peer_op_step(struct peer *p, struct input *in)
{
	struct evering_op_header h = { .type = EVERING_OP_REQUEST, .len = 4 };
	unsigned char entry[EVERING_MAX_SLOT];
	uint8_t op, open[3];

	if (!p->ev)
		return;
	harvest(p);
	op = in8(in);
	switch (op >> 5) {
	case 0:
		peer_ring_step(p, in);
		break;
	case 1: /* has taken everything, as a peer should */
		store32(&p->ev->half->released, p->seen);
		break;
	case 2:
		answer(p, op, in);
		break;
	case 3: /* a plain request */
		p->asked += (uint64_t)1 << EVERING_OP_INDEX_BITS;
		p->asked = (p->asked & ~(uint64_t)31) | (op & 31);
		memset(entry, op, sizeof(entry));
		h.id = p->asked;
		memcpy(entry, &h, sizeof(h));
		put(p, entry);
		break;
	case 4:
		in_bytes(in, open, sizeof(open));
		peer_open(p, open[0], open[1], open[2]);
		break;
	case 5:
		tell(p, op, in);
		break;
	default:
		put_op(p, in);
	}
}
