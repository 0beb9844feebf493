// SPDX-License-Identifier: MIT
/*
 * fuzz_wire.c: a relay (tools/relay/) whose other relay is a stranger at first, and hostile
 * later, with clients or servers on this machine that are hostile as well.
 *
 * The relay's own sources are linked in, all but its loop, which is imitated here, and its
 * configuration.  libfabric is fabric.c.  What must hold:
 *
 * - Of a stranger nothing larger than a greeting can be received, and nothing at all is handed
 *   to channel_message() before it has used the key.  Whoever has it gets in.
 * - Whatever an authenticated relay sends, channel_message() returns 0 or an error, and all
 *   channels end as they are told to.
 * - A relay that keeps to the rules is never cut off for what a local process does, and what
 *   it is sent keeps to the rules: its books are struct far.
 */
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>

#include "../../relay/relay.h"
#include "../../evering/util.h"
#include "fabric.h"
#include "fuzz.h"

#define STEPS 256
#define LOCALS 4u
#define FARS 8u
#define MOST_CHANNELS 4u
#define MOST_ARENA 65536u
#define MOST_TURNS 20000u
#define KEEPALIVE (3 * SECOND)

/**
 * struct far - what the other relay knows of a channel, by its number - 1
 * @used: it is there
 * @open: both have it
 * @over, @ended: the other relay has said END, this one has
 * @geometry, @payload: of it
 * @sent, @told: entries that it has sent, and how many of them it was told to be released
 * @got, @freed: entries that it has, and how many of them it has said to be released
 */
struct far {
	bool used;
	bool open;
	bool over;
	bool ended;
	struct evering_geometry geometry;
	uint32_t payload;
	uint32_t sent;
	uint32_t told;
	uint32_t got;
	uint32_t freed;
};

enum local_kind {
	LOCAL_RING,
	LOCAL_OP,
	LOCAL_HOSTILE,
};

/**
 * struct local - a process on this machine
 * @ev: NULL: there is none
 * @relays: the relay's endpoint, which may be there no more: see is_attached()
 */
struct local {
	struct evering *ev;
	struct evering *relays;
	enum local_kind kind;
	struct ring_side ring;
	struct op_side *op;
	struct peer peer;
};

/**
 * struct wire - all of it
 * @member: the other relay has used the key
 * @honest: it has kept to the rules
 * @stalled: nothing can be sent
 * @hello, @answer: as they were said last
 * @last: what the relay has said last
 * @row, @len: the message that is being made
 */
struct wire {
	struct relay relay;
	struct connection c;
	struct evering_listener *listener;
	bool two_keys;
	bool member;
	bool honest;
	bool always_honest;
	bool stalled;
	struct wire_greeting hello;
	struct wire_greeting answer;
	struct wire_greeting last;
	struct far far[FARS];
	struct local local[LOCALS];
	unsigned char row[WIRE_MESSAGE];
	size_t len;
};

static struct wire wire;
static int64_t now;

/* ------------------------------------------------------------ what main.c would do */

int64_t clock_ns(void)
{
	return now;
}

void complain(const char *fmt, ...)
{
	(void)fmt;
}

const char *printable(const char *text)
{
	return text;
}

void entrance_told(struct connection *c, const char *name, int error)
{
	(void)error;
	MUST(c == &wire.c && strnlen(name, WIRE_NAME) < WIRE_NAME);
}

/* "a" is served, "b" is not there yet, "c" is not for everybody. */
const struct service_rule *service_of(const struct relay *relay,
				      const struct connection *c,
				      const char *name, int *error)
{
	unsigned int i;

	MUST(c == &wire.c && strnlen(name, WIRE_NAME) < WIRE_NAME);
	*error = -ENOENT;
	for (i = 0; i < relay->config.services; i++) {
		if (strcmp(relay->config.service[i].name, name))
			continue;
		*error = i == 2 ? -EACCES : 0;
		return *error ? NULL : &relay->config.service[i];
	}
	return NULL;
}

static struct channel *relays_channel(const struct evering *ev)
{
	uint32_t i;

	for (i = 0; ev && i < wire.c.used; i++)
		if (wire.c.channels[i] && wire.c.channels[i]->ev == ev)
			return wire.c.channels[i];
	return NULL;
}

static bool is_attached(const struct local *l)
{
	return l->ev && relays_channel(l->relays);
}

/* Whoever has a channel on this machine is told @how it has ended. */
static void end_channels(int how)
{
	bool lives[LOCALS];
	unsigned int i;

	for (i = 0; i < LOCALS; i++)
		lives[i] = is_attached(&wire.local[i]) &&
			   evering_peer(wire.local[i].ev) == EVERING_PEER_ALIVE;
	channels_end(&wire.c, how);
	MUST(!wire.relay.channels && !wire.c.used);
	for (i = 0; i < LOCALS; i++)
		MUST(!lives[i] || evering_peer(wire.local[i].ev) == how);
}

static void lose(void)
{
	int error = wire.c.link->error;

	MUST(error < 0);
	end_channels(error == -ECONNRESET || error == -EPROTO ?
			     EVERING_PEER_RELAY_DIED :
			     EVERING_PEER_LOST);
	link_close(wire.c.link);
	wire.c.link = NULL;
}

/* One turn of the loop; false: there was nothing to do. */
static bool turn(void)
{
	const struct evering_group_event *events;
	enum source *source;
	bool did = false;
	int n, i;

	if (!wire.c.link)
		return false;
	n = evering_group_wait(wire.relay.group, &events, EVERING_NOWAIT);
	MUST(n > 0 || n == -EAGAIN || n == -EINTR);
	for (i = 0; i < n; i++) {
		source = events[i].context;
		if (!events[i].what)
			continue;
		did = true;
		MUST(*source == SOURCE_CHANNEL || *source == SOURCE_CONNECTING);
		if (*source == SOURCE_CHANNEL)
			channel_event(events[i].context, &events[i]);
		else
			channel_connecting(events[i].context);
	}
	if (link_step(wire.c.link, true))
		did = true;
	if (wire.c.link->state == LINK_UP) {
		channels_unblock(&wire.c);
		link_flush(wire.c.link);
	}
	if (wire.c.link->state == LINK_DOWN)
		lose();
	return did;
}

/* ------------------------------------------------------- what the relay has to say */

static void hear_open(const struct wire_record *record,
		      const unsigned char *data)
{
	struct wire_open open;
	struct far *far;

	MUST(record->len == sizeof(open) && wire.c.link && record->channel);
	if (record->channel > FARS)
		return;
	far = &wire.far[record->channel - 1];
	memcpy(&open, data, sizeof(open));
	MUST(!wire.honest || !far->used);
	*far = (struct far){ .used = true, .geometry = open.geometry };
	far->payload = far->geometry.slot_size - EVERING_MIN_SLOT / 4;
}

/* The arena whose bytes the relay sends: that of the process at its side. */
static uint64_t near_arena(const struct far *far)
{
	return far->geometry
		.arena_size[wire.c.link && wire.c.link->caller ? EVERING_A :
								 EVERING_B];
}

static uint64_t far_arena(const struct far *far)
{
	return far->geometry
		.arena_size[wire.c.link && wire.c.link->caller ? EVERING_B :
								 EVERING_A];
}

static void hear_end(struct far *far, const struct wire_record *record,
		     const unsigned char *data)
{
	struct wire_end end;

	MUST(record->len == sizeof(end));
	MUST(record->arg >= EVERING_PEER_CLOSED &&
	     record->arg <= EVERING_PEER_RELAY_DIED);
	memcpy(&end, data, sizeof(end));
	far->ended = true;
	if (!end.known || !wire.honest)
		return;
	MUST(end.released - far->told <= far->sent - far->told);
	MUST(end.begun - end.released <= far->sent - end.released);
}

static void hear_record(const struct wire_record *record,
			const unsigned char *data)
{
	struct far *far;
	uint64_t at;

	MUST(record->type >= WIRE_NOTHING && record->type <= WIRE_SILENT);
	if (record->type == WIRE_OPEN) {
		hear_open(record, data);
		return;
	}
	if (record->type == WIRE_NOTHING || record->type == WIRE_TOLD ||
	    record->type == WIRE_SILENT) {
		MUST(!record->channel);
		return;
	}
	MUST(record->channel);
	if (record->channel > FARS)
		return;
	far = &wire.far[record->channel - 1];
	MUST(!wire.honest || (far->used && !far->ended));
	switch (record->type) {
	case WIRE_OPENED:
		MUST(!record->len && (int)record->arg <= 0);
		if (record->arg)
			far->ended = true;
		else
			far->open = true;
		break;
	case WIRE_DATA:
		MUST(record->len > sizeof(at));
		memcpy(&at, data, sizeof(at));
		if (wire.honest)
			MUST(far->open &&
			     at + record->len - sizeof(at) <= near_arena(far));
		break;
	case WIRE_ENTRIES:
		MUST(record->arg);
		far->got += record->arg;
		if (wire.honest)
			MUST(far->open &&
			     record->len == record->arg * far->payload &&
			     far->got - far->freed <= far->geometry.entries);
		break;
	case WIRE_RELEASED:
		MUST(!record->len);
		if (wire.honest)
			MUST(far->open &&
			     record->arg - far->told <= far->sent - far->told);
		far->told = record->arg;
		break;
	case WIRE_END:
		hear_end(far, record, data);
		break;
	default:
		MUST(!"a record that the relay says");
	}
	if (far->over && far->ended)
		far->used = false;
}

static void hear_greeting(const struct wire_greeting *said)
{
	MUST(said->version == WIRE_VERSION && said->magic == WIRE_MAGIC);
	/* Who calls shows what it has only to who has shown the same. */
	MUST(said->kind != WIRE_PROVEN || wire.member);
	MUST(said->kind != WIRE_READY || wire.member);
	if (said->kind == WIRE_HELLO)
		wire.hello = *said;
	else if (said->kind == WIRE_ANSWER)
		wire.answer = *said;
	wire.last = *said;
}

/* All that it has sent arrives. */
static bool take_all(void)
{
	static unsigned char data[WIRE_MESSAGE];
	struct wire_greeting said;
	struct wire_record record;
	size_t len, at, size;
	bool did = false;

	while (fabric_take(data, sizeof(data), &len)) {
		did = true;
		if (len == sizeof(said)) {
			memcpy(&said, data, sizeof(said));
			if (said.magic == WIRE_MAGIC) {
				hear_greeting(&said);
				continue;
			}
		}
		MUST(wire.member);
		for (at = 0; at < len; at += size) {
			MUST(len - at >= sizeof(record));
			memcpy(&record, data + at, sizeof(record));
			at += sizeof(record);
			size = (record.len + WIRE_ALIGN - 1) &
			       ~(size_t)(WIRE_ALIGN - 1);
			MUST(size <= len - at && !record.reserved);
			hear_record(&record, data + at);
		}
	}
	return did;
}

/* Until there is nothing to do, which must be some time. */
static void settle(void)
{
	unsigned int turns;
	bool did = true;

	for (turns = 0; did; turns++) {
		MUST(turns < MOST_TURNS);
		did = turn();
		if (!wire.stalled && take_all())
			did = true;
	}
}

static int on_message(struct link *link, const unsigned char *data, size_t len,
		      void *context)
{
	unsigned char *copy = malloc(len ? len : 1);
	int ret;

	/* To the byte, so that AddressSanitizer sees who reads beyond. */
	MUST(copy && wire.member && link == wire.c.link);
	MUST(link->state == LINK_UP && len <= WIRE_MESSAGE);
	memcpy(copy, data, len);
	ret = channel_message(link, copy, len, context);
	free(copy);
	MUST(!ret || ret == -EPROTO || ret == -ENOMEM || ret == -ENETRESET);
	MUST(!ret || !wire.honest);
	return ret;
}

/* ------------------------------------------------------------------------ strangers */

/* The key whose identity is "alice", or the only one. */
static const struct key *known_key(bool right)
{
	static const struct key wrong = { .bytes = "not the right key at all",
					  .len = 24 };

	return right ? &wire.relay.keys.key[0] : &wrong;
}

/* Says what is due, as far as it can be said, by @what. */
static void make_greeting(struct wire_greeting *g, uint8_t what)
{
	bool right = what & 1, as_other = what & 8, has_proof;

	memset(g, 0, sizeof(*g));
	g->magic = WIRE_MAGIC;
	g->version = WIRE_VERSION;
	g->abi = EVERING_ABI_VERSION;
	g->ops = EVERING_OPS_VERSION;
	g->keepalive_ms = (uint32_t)(KEEPALIVE / 1000000);
	g->kind = (uint16_t)wire.c.link->expected;
	if (wire.c.link->state == LINK_CALLING)
		g->kind = wire.c.link->caller ? WIRE_ANSWER : WIRE_HELLO;
	memset(g->nonce, what, sizeof(g->nonce));
	if (g->kind == WIRE_HELLO) {
		strcpy(g->identity, as_other ? "bob" : "alice");
		wire.hello = *g;
	}
	if (g->kind == WIRE_ANSWER)
		wire.answer = *g;
	has_proof = g->kind == WIRE_ANSWER || g->kind == WIRE_PROVEN;
	if (!has_proof)
		return;
	MUST(auth_prove(known_key(right), g->kind == WIRE_PROVEN, &wire.hello,
			&wire.answer, g->proof));
	/* With one's own key nobody is somebody else. */
	if (right && (!wire.two_keys || !strcmp(wire.hello.identity, "alice")))
		wire.member = true;
}

static void give(const void *data, size_t len)
{
	unsigned int count;
	size_t most = fabric_posted(&count);

	if (!wire.c.link)
		return;
	if (wire.c.link->state != LINK_UP) {
		MUST(count <= 1);
		MUST(!count || most == sizeof(struct wire_greeting));
	}
	fabric_give(data, len);
}

static void say_greeting(struct input *in, uint8_t what)
{
	struct wire_greeting g;
	size_t len = sizeof(g);
	uint8_t n, at;

	make_greeting(&g, what);
	if (what & 2) /* out of turn */
		g.kind = in8(in) % 8;
	if (what & 4) /* sends back what it was sent */
		memcpy(g.proof, wire.last.proof, sizeof(g.proof));
	if (what & 16)
		for (n = in8(in) & 3; n; n--) {
			at = in8(in) % sizeof(g);
			((unsigned char *)&g)[at] ^= in8(in);
		}
	if (what & 32)
		len = in8(in) % (sizeof(g) + 1);
	give(&g, len);
}

static void stranger_step(struct input *in)
{
	unsigned char bytes[512] = { 0 };
	size_t len;
	uint8_t op = in8(in);

	switch (op % 8) {
	case 0:
		fabric_event(FI_CONNECTED);
		break;
	case 1:
	case 2:
	case 3:
		say_greeting(in, (uint8_t)(in8(in) & ~1u));
		break;
	case 4:
		say_greeting(in, in8(in));
		break;
	case 5: /* bytes */
		len = in16(in) % sizeof(bytes);
		in_bytes(in, bytes, len < 16 ? len : 16);
		give(bytes, len);
		break;
	case 6: /* no turn for the relay in between */
		if (op & 64)
			fabric_fail(op & 16, in8(in));
		else if (op & 128)
			fabric_event(op & 32 ? FI_SHUTDOWN : op);
		return;
	default:
		now += in8(in) * (SECOND / 32);
		link_time(wire.c.link, now);
		wire.stalled = (op & 0xc0) == 0xc0;
		fabric_stall(wire.stalled);
	}
	settle();
}

/* Whoever has the key, and says what is to be said, gets in; @early: before it is noticed. */
static void come_in(bool early)
{
	struct wire_greeting g;
	unsigned int i;

	if (!early || wire.c.link->caller)
		fabric_event(FI_CONNECTED);
	settle();
	for (i = 0; i < 2; i++) {
		MUST(wire.c.link && wire.c.link->state != LINK_DOWN);
		make_greeting(&g, 1);
		give(&g, sizeof(g));
		settle();
	}
	MUST(wire.member && wire.c.link && wire.c.link->state == LINK_UP);
}

static void check_stranger(void)
{
	unsigned int count;
	size_t most;

	if (!wire.c.link)
		return;
	if (wire.c.link->state == LINK_UP) {
		MUST(wire.member);
		MUST(wire.c.link->caller || !wire.two_keys ||
		     !strcmp(wire.c.link->identity, "alice"));
		return;
	}
	most = fabric_posted(&count);
	MUST(count <= 1 && most <= sizeof(struct wire_greeting));
	MUST(!wire.relay.channels);
}

/* --------------------------------------------------------------- local processes */

static void add_local(struct input *in, struct evering *ev,
		      struct evering *relays)
{
	struct evering_geometry g;
	struct local *l = NULL;
	unsigned int i;
	bool ops = false;
	uint8_t kind = in8(in);

	for (i = 0; i < LOCALS; i++) {
		if (!wire.local[i].ev && !l)
			l = &wire.local[i];
		else if (wire.local[i].op)
			ops = true;
	}
	MUST(l);
	*l = (struct local){ .ev = ev, .relays = relays };
	evering_get_geometry(ev, &g);
	l->kind = kind % 3;
	/* There is one of these at a time. */
	if (l->kind == LOCAL_OP && (ops || g.slot_size < EVERING_OPS_MIN_SLOT))
		l->kind = LOCAL_HOSTILE;
	if (l->kind == LOCAL_HOSTILE && !relays)
		l->kind = LOCAL_RING;
	switch (l->kind) {
	case LOCAL_RING:
		ring_side_init(&l->ring, ev, false);
		break;
	case LOCAL_OP:
		l->op = op_side_open(ev, in);
		break;
	case LOCAL_HOSTILE:
		peer_init(&l->peer, ev, relays);
		/* What comes from the other relay is whatever it likes. */
		l->peer.vague = true;
		if ((kind & 64) && g.slot_size >= EVERING_OPS_MIN_SLOT)
			peer_open(&l->peer, 8, 8, 8);
		break;
	}
}

/* It goes, when its channel has ended or before. */
static void end_local(struct local *l)
{
	if (!l->ev)
		return;
	if (l->kind == LOCAL_RING)
		ring_side_end(&l->ring);
	/* Only a channel that has ended ends a table that is waited for. */
	if (l->kind == LOCAL_OP && evering_peer(l->ev) == EVERING_PEER_ALIVE)
		return;
	if (l->kind == LOCAL_OP)
		op_side_end(l->op);
	evering_close(l->ev);
	memset(l, 0, sizeof(*l));
}

static bool has_place(void)
{
	unsigned int i;

	for (i = 0; i < LOCALS; i++)
		if (!wire.local[i].ev)
			return true;
	return false;
}

/* A client of this machine comes in, as by an entrance. */
static void begin_client(struct input *in)
{
	static const uint32_t arena[] = { MOST_ARENA, 4096, 8192, 0 };
	struct evering_params params = EVERING_PARAMS_INIT;
	uint8_t first = in8(in), second = in8(in);
	struct evering *ev[2];

	if (!has_place())
		return;
	params.backend = EVERING_BACKEND_MEMFD;
	params.slot_size = EVERING_MAX_SLOT >> first % 5;
	params.entries = EVERING_MIN_ENTRIES << (first >> 4) % 4;
	params.arena_size[0] = arena[second & 3];
	params.arena_size[1] = arena[second >> 2 & 3];
	params.spin_ns = 0;
	MUST(!evering_pair(&params, ev));
	channel_begin(&wire.c, "a", ev[EVERING_B]);
	add_local(in, ev[EVERING_A],
		  relays_channel(ev[EVERING_B]) ? ev[EVERING_B] : NULL);
}

/* Is this end of the relay's some other process's? */
static bool is_taken(const struct evering *relays)
{
	unsigned int i;

	for (i = 0; i < LOCALS; i++)
		if (wire.local[i].ev && wire.local[i].relays == relays)
			return true;
	return false;
}

/* The server of this machine takes a channel. */
static void accept_one(struct input *in)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering *ev, *relays = NULL;
	struct channel *ch;
	uint32_t i;

	if (!has_place() ||
	    evering_accept(wire.listener, &limits, EVERING_NOWAIT, &ev))
		return;
	settle();
	for (i = 0; i < wire.c.used; i++) {
		ch = wire.c.channels[i];
		if (ch && ch->ev && !is_taken(ch->ev))
			relays = ch->ev;
	}
	add_local(in, ev, relays);
}

static void local_step(struct input *in)
{
	struct local *l = &wire.local[in8(in) % LOCALS];

	if (!l->ev)
		return;
	switch (l->kind) {
	case LOCAL_RING:
		ring_side_step(&l->ring, in);
		break;
	case LOCAL_OP:
		op_side_step(l->op, in);
		break;
	case LOCAL_HOSTILE:
		/* It looks where its victim is. */
		if (!is_attached(l))
			break;
		if (to_endpoint(l->ev)->geometry.slot_size <
		    EVERING_OPS_MIN_SLOT)
			peer_ring_step(&l->peer, in);
		else
			peer_op_step(&l->peer, in);
		break;
	}
}

/*
 * A hostile process does what the library cannot see at the relay's end: says that there is one
 * more entry than there can be, or takes back what it has released.
 */
static void aim(struct input *in)
{
	struct local *l = &wire.local[in8(in) % LOCALS];
	struct channel *ch = l->ev ? relays_channel(l->relays) : NULL;
	uint8_t what = in8(in);
	struct endpoint *e;
	uint32_t next;

	if (!ch || l->kind != LOCAL_HOSTILE)
		return;
	e = to_endpoint(l->ev);
	if (what & 1) {
		next = ch->ev->rx.next + ch->ahead;
		evering_store_release(
			(uint32_t *)(evering__tx_slot(&e->ev.tx, next) +
				     e->ev.tx.payload),
			next + 1);
	} else {
		evering_store_release(&e->half->released,
				      ch->ev->tx.next -
					      (what >> 1) % (ch->entries + 1));
	}
	peer_ring(&l->peer);
}

/* And sends what the relay looks for in a table's entries: a buffer, as it says. */
static void lend(struct input *in)
{
	struct local *l = &wire.local[in8(in) % LOCALS];
	struct channel *ch = l->ev ? relays_channel(l->relays) : NULL;
	struct evering_op_header header = { .type = EVERING_OP_REQUEST };
	uint64_t len = 1 + in16(in);
	uint8_t what = in8(in);
	struct evering_op_buffer name = { .len_low = (uint32_t)len };
	unsigned char *entry;
	struct evering_tx *tx;
	uint32_t next;
	void *buf;

	if (!ch || l->kind != LOCAL_HOSTILE ||
	    ch->geometry.slot_size < EVERING_OPS_MIN_SLOT)
		return;
	tx = &to_endpoint(l->ev)->ev.tx;
	next = ch->ev->rx.next + ch->ahead;
	entry = evering__tx_slot(tx, next);
	if (!ch->operations) {
		header = (struct evering_op_header){
			.type = EVERING_OP_OPEN,
			.len = sizeof(struct evering_op_open),
			.code = EVERING_OPS_VERSION,
		};
	} else {
		header.flags = what & 1 ? EVERING_OP_LENT : EVERING_OP_GIVEN;
		buf = evering_alloc(l->ev, len, 0);
		if (buf) {
			memset(buf, what, len);
			name.granule = (uint32_t)(evering_offset(l->ev, buf) /
						  EVERING_OP_GRANULE);
			evering_free(l->ev, buf);
		}
		if (what & 128)
			name.len_high = what;
		if (what & 64)
			name.granule += what;
	}
	memcpy(entry, &header, sizeof(header));
	memcpy(entry + tx->payload - sizeof(name), &name, sizeof(name));
	evering_store_release((uint32_t *)(entry + tx->payload), next + 1);
	peer_ring(&l->peer);
}

/* ------------------------------------------------------------------------ records */

/* Room for one more record in the row, whose bytes behind it are 0; NULL: no more. */
static unsigned char *add_record(const struct wire_record *record)
{
	size_t size = (record->len + WIRE_ALIGN - 1) &
		      ~(size_t)(WIRE_ALIGN - 1);
	unsigned char *at = wire.row + wire.len;

	if (size > sizeof(wire.row) - wire.len ||
	    sizeof(*record) > sizeof(wire.row) - wire.len - size)
		return NULL;
	memset(at, 0, sizeof(*record) + size);
	memcpy(at, record, sizeof(*record));
	wire.len += sizeof(*record) + size;
	return at + sizeof(*record);
}

static void add_open(struct input *in, struct far *far, uint32_t number)
{
	static const uint32_t arena[] = { MOST_ARENA, 4096, 0, 2 * MOST_ARENA };
	struct wire_record record = { .channel = number,
				      .type = WIRE_OPEN,
				      .len = sizeof(struct wire_open) };
	uint8_t first = in8(in), second = in8(in);
	struct wire_open open = { 0 };
	unsigned char *at;

	open.name[0] =
		(char)('a' + ((second >> 4) % 8 > 4 ? (second >> 4) % 4 : 0));
	open.geometry.slot_size = EVERING_MAX_SLOT >> first % 5;
	open.geometry.entries = EVERING_MIN_ENTRIES << (first >> 4) % 4;
	open.geometry.arena_size[0] = arena[second & 3];
	open.geometry.arena_size[1] = arena[second >> 2 & 3];
	/* What cannot be is refused. */
	if (first == 0xff)
		in_bytes(in, &open.geometry, sizeof(open.geometry));
	at = add_record(&record);
	if (!at)
		return;
	memcpy(at, &open, sizeof(open));
	*far = (struct far){ .used = true, .geometry = open.geometry };
	far->payload = open.geometry.slot_size - EVERING_MIN_SLOT / 4;
}

/* Entries, for which there is room by the rules, the first perhaps that of a table. */
static void add_entries(struct input *in, struct far *far, uint32_t number)
{
	struct evering_op_header header = { .type = EVERING_OP_OPEN,
					    .len = sizeof(
						    struct evering_op_open),
					    .code = EVERING_OPS_VERSION };
	struct evering_op_open open = { 8, 8, 8, 0 };
	uint32_t room = far->geometry.entries - (far->sent - far->told), i;
	struct wire_record record = { .channel = number, .type = WIRE_ENTRIES };
	uint8_t how = in8(in);
	unsigned char *at;

	record.arg = room ? 1 + how % room : 0;
	if (how & 128)
		record.arg = room;
	record.len = record.arg * far->payload;
	at = add_record(&record);
	if (!at || !record.arg)
		return;
	for (i = 0; i < record.arg; i++) {
		unsigned char *entry = at + (size_t)i * far->payload;

		if (!far->sent && !i && far->payload >= 60 && (how & 64)) {
			memcpy(entry, &header, sizeof(header));
			memcpy(entry + sizeof(header), &open, sizeof(open));
		} else {
			in_bytes(in, entry,
				 far->payload < 16 ? far->payload : 16);
			in_bytes(in, entry + far->payload - 8,
				 how & 32 ? 8 : 0);
		}
	}
	far->sent += record.arg;
}

static void add_data(struct input *in, const struct far *far, uint32_t number)
{
	struct wire_record record = { .channel = number, .type = WIRE_DATA };
	uint64_t size = far_arena(far), at = in16(in), len = in16(in);
	unsigned char *place;

	if (!size)
		return;
	at %= size;
	len = 1 + len % (size - at);
	record.len = (uint32_t)(sizeof(at) + len);
	place = add_record(&record);
	if (place)
		memcpy(place, &at, sizeof(at));
}

static void add_end(struct input *in, struct far *far, uint32_t number)
{
	struct wire_record record = { .channel = number,
				      .type = WIRE_END,
				      .len = sizeof(struct wire_end) };
	struct wire_end end = { 0 };
	uint8_t how = in8(in);
	unsigned char *at;

	record.arg = EVERING_PEER_CLOSED + how % 4;
	if (how & 128) {
		end.known = 1;
		end.released =
			far->freed + in8(in) % (far->got - far->freed + 1);
		end.begun =
			end.released + in8(in) % (far->got - end.released + 1);
	}
	at = add_record(&record);
	if (!at)
		return;
	memcpy(at, &end, sizeof(end));
	far->over = true;
	if (far->ended)
		far->used = false;
}

/* A word that is due for what @far is; or, if the relay is asked for nothing, none. */
static void add_due(struct input *in, uint8_t op, struct far *far,
		    uint32_t number)
{
	struct wire_record record = { .channel = number };
	bool caller = wire.c.link->caller;
	uint8_t how;

	if (!far->used) {
		if (!caller)
			add_open(in, far, number);
		return;
	}
	if (far->over)
		return;
	if (!far->open && caller) {
		how = in8(in);
		record.type = WIRE_OPENED;
		record.arg = how & 3 ? 0 : (uint32_t) - (1 + how % 132);
		if (!add_record(&record))
			return;
		far->open = !record.arg;
		far->over = record.arg;
		if (far->over && far->ended)
			far->used = false;
		return;
	}
	if (!far->open || op % 8 == 7) {
		add_end(in, far, number);
		return;
	}
	switch (op % 8) {
	case 0:
	case 1:
	case 2:
		add_entries(in, far, number);
		break;
	case 3:
	case 4:
		add_data(in, far, number);
		break;
	default:
		far->freed += in8(in) % (far->got - far->freed + 1);
		record.type = WIRE_RELEASED;
		record.arg = far->freed;
		add_record(&record);
	}
}

static void add_name(struct input *in)
{
	struct wire_record record = { .len = WIRE_NAME };
	unsigned char *at;

	record.type = wire.c.link->caller ? WIRE_TOLD : WIRE_ASK;
	record.arg = wire.c.link->caller ? (uint32_t)-in8(in) : 0;
	/* No relay asks for much, and one that cannot be answered gives up. */
	if (wire.stalled)
		record = (struct wire_record){ .type = WIRE_NOTHING };
	at = add_record(&record);
	if (at && record.len)
		at[0] = (unsigned char)('a' + in8(in) % 5);
}

/* Breaks a rule, whatever it was. */
static void break_record(struct input *in, size_t begin)
{
	struct wire_record record;
	uint8_t what = in8(in);
	size_t at;

	if (wire.always_honest || wire.len < begin + sizeof(record))
		return;
	wire.honest = false;
	memcpy(&record, wire.row + begin, sizeof(record));
	switch (what % 8) {
	case 0:
		record.channel = what & 128 ? in32(in) : in8(in) % 16;
		break;
	case 1:
		record.type = in8(in) % 16;
		break;
	case 2:
		record.len = what & 128 ? in32(in) : record.len + in8(in) - 128;
		break;
	case 3:
	case 4:
		record.arg = what & 128 ? in32(in) : record.arg + in8(in) - 128;
		break;
	case 5:
		record.reserved = what;
		break;
	case 6:
		wire.len -= in8(in) % sizeof(record);
		break;
	default:
		at = begin + sizeof(record) + in8(in);
		if (at + 8 <= wire.len)
			in_bytes(in, wire.row + at, 8);
	}
	if (begin + sizeof(record) <= wire.len)
		memcpy(wire.row + begin, &record, sizeof(record));
}

static void say_row(struct input *in)
{
	uint8_t count = in8(in), op;
	uint32_t number;
	size_t begin;

	wire.len = 0;
	for (count = 1 + count % 6; count; count--) {
		op = in8(in);
		number = 1 + (op >> 3) % FARS;
		begin = wire.len;
		if ((op & 0xf8) == 0xf8 && op % 8 < 2)
			add_name(in);
		else
			add_due(in, op, &wire.far[number - 1], number);
		if ((op & 0xc0) == 0x40)
			break_record(in, begin);
	}
	give(wire.row, wire.len);
}

static void say_bytes(struct input *in)
{
	if (wire.always_honest)
		return;
	wire.honest = false;
	wire.len = in16(in) % 512;
	memset(wire.row, 0, wire.len);
	in_bytes(in, wire.row, wire.len < 64 ? wire.len : 64);
	give(wire.row, wire.len);
}

static void member_step(struct input *in)
{
	uint8_t op = in8(in);

	switch (op % 16) {
	default:
		say_row(in);
		break;
	case 5:
	case 6:
	case 7:
	case 8:
		local_step(in);
		break;
	case 9:
		if (wire.c.link->caller)
			begin_client(in);
		else
			accept_one(in);
		break;
	case 10:
		if (op & 128)
			end_local(&wire.local[in8(in) % LOCALS]);
		else
			turn();
		return;
	case 11:
		say_bytes(in);
		break;
	case 12: /* the relay is busy with something else */
		if (op < 64)
			lend(in);
		else if (op & 128)
			aim(in);
		else
			local_step(in);
		return;
	case 13:
		wire.stalled = op & 128;
		fabric_stall(wire.stalled);
		break;
	case 14:
		now += SECOND / 2;
		link_time(wire.c.link, now);
		break;
	case 15:
		if (op & 128)
			fabric_fail(op & 64, in8(in));
		break;
	}
	settle();
}

/* ---------------------------------------------------------------------- the whole */

static void add_key(const char *identity, const char *bytes)
{
	struct key *key = &wire.relay.keys.key[wire.relay.keys.count++];

	strcpy(key->identity, identity);
	key->len = (unsigned int)strlen(bytes);
	memcpy(key->bytes, bytes, key->len);
}

static void set_up(uint8_t how)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	struct relay *relay = &wire.relay;
	struct config *config = &relay->config;
	static unsigned int runs;
	bool caller = how & 1;
	unsigned int i;
	int error;

	/* A name is in use until the last child has ended that looked at descriptors. */
	runs++;
	memset(&wire, 0, sizeof(wire));
	now = SECOND;
	wire.honest = true;
	wire.always_honest = how & 32;
	wire.two_keys = (how & 2) && !caller;
	add_key(how & 2 ? "alice" : "", "0123456789abcdef0123456789abcdef");
	if (wire.two_keys)
		add_key("bob", "fedcba9876543210fedcba9876543210");
	config->most_channels = MOST_CHANNELS;
	config->most_arena = MOST_ARENA;
	config->backend = EVERING_BACKEND_MEMFD;
	config->patience_ns = 100 * SECOND;
	config->services = 3;
	for (i = 0; i < config->services; i++) {
		config->service[i].name[0] = (char)('a' + i);
		snprintf(config->service[i].path,
			 sizeof(config->service[i].path),
			 "@evering-fuzz-wire-%d-%u-%u", (int)getpid(), runs, i);
	}
	relay->settings = (struct link_settings){
		.keys = &relay->keys,
		.identity = "alice",
		.keepalive_ns = KEEPALIVE,
		.greeting_ns = 2 * SECOND,
	};
	relay->engine.provider = "tcp";
	params.policy = EVERING_BLOCK;
	MUST(!evering_group_open(&params, &relay->group));
	MUST(!evering_listen(config->service[0].path, 0, &wire.listener));
	wire.c.source = SOURCE_LINK;
	wire.c.relay = relay;
	fabric_begin(how & 4);
	if (caller) {
		MUST(!link_call(&relay->engine, "host", "1", &relay->settings,
				&wire.c.link));
	} else {
		MUST(!engine_listen(&relay->engine, "host", "1", true));
		MUST(!engine_answer(&relay->engine, &relay->settings, &error));
		fabric_call();
		wire.c.link =
			engine_answer(&relay->engine, &relay->settings, &error);
		MUST(wire.c.link && !error);
	}
	wire.c.link->message = on_message;
	wire.c.link->context = &wire.c;
}

/* The other relay ends all of its channels: then this one has none. */
static void end_politely(void)
{
	static struct input nothing;
	struct far *far;
	uint32_t i;

	wire.stalled = false;
	fabric_stall(false);
	settle();
	MUST(!wire.honest || wire.c.link);
	for (i = 0; i < FARS && wire.c.link; i++) {
		far = &wire.far[i];
		if (!far->used || far->over)
			continue;
		wire.len = 0;
		add_end(&nothing, far, i + 1);
		give(wire.row, wire.len);
		settle();
	}
	MUST(!wire.honest || (wire.c.link && !wire.relay.channels));
}

static void tear_down(uint8_t how)
{
	unsigned int i;

	if (wire.c.link && wire.c.link->state == LINK_UP) {
		switch (how >> 6) {
		case 0:
			end_politely();
			break;
		case 1:
			channels_leave(&wire.c);
			link_flush(wire.c.link);
			link_step(wire.c.link, true);
			take_all();
			break;
		case 2:
			fabric_event(FI_SHUTDOWN);
			settle();
			break;
		default:
			now += 2 * KEEPALIVE;
			link_time(wire.c.link, now);
			settle();
		}
	}
	if (wire.c.link) {
		end_channels(EVERING_PEER_RELAY_DIED);
		link_close(wire.c.link);
		wire.c.link = NULL;
	}
	for (i = 0; i < LOCALS; i++) {
		MUST(!wire.local[i].ev ||
		     evering_peer(wire.local[i].ev) != EVERING_PEER_ALIVE);
		end_local(&wire.local[i]);
	}
	evering_listener_close(wire.listener);
	evering_group_close(wire.relay.group);
	free(wire.c.channels);
	engine_close(&wire.relay.engine);
	fabric_end();
}

/* What libcrypto opens and keeps is there before anything is counted. */
static void warm_up(void)
{
	unsigned char nonce[WIRE_NONCE];
	struct wire_greeting g = { 0 };
	static bool warm;

	if (warm)
		return;
	warm = true;
	MUST(auth_nonce(nonce) && auth_prove(NULL, true, &g, &g, g.proof));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct fuzz_run run;
	uint8_t how = in8(&in);
	int steps;

	warm_up();
	fuzz_begin(&run);
	set_up(how);
	if (how & 8)
		come_in(how & 16);
	for (steps = 0; steps < STEPS && in_more(&in) && wire.c.link; steps++) {
		if (wire.c.link->state == LINK_UP) {
			member_step(&in);
		} else {
			stranger_step(&in);
			check_stranger();
		}
	}
	tear_down(how);
	fuzz_end(&run);
	return 0;
}
