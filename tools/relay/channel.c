// SPDX-License-Identifier: MIT
/*
 * channel.c: channels that cross.  wire.h says what crosses, and why nothing is stored here.
 *
 * pump() says all that there is to say for a channel and stops where a message has no room:
 * then the channel is blocked, and is pumped again when there is.  So every other function
 * only notes what is to be said.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "../evering/util.h"
#include "relay.h"

/* What a channel has said when it is the next one's turn. */
#define TURN_ENTRIES	256u
#define TURN_BYTES	32768u
/* Of a channel; far beyond --channels. */
#define MAX_NUMBER	(1u << 17)

/* No errno is larger, here as in the kernel. */
#define LAST_ERRNO	4095

static void want(struct channel *ch)
{
	unsigned int what = (ch->open && !ch->blocked ? EVERING_RX : 0) |
			    (ch->filled ? EVERING_TX : 0);

	if (ch->ev && !ch->gone)
		evering_group_want(ch->connection->relay->group, ch->ev, what);
}

static void block(struct channel *ch)
{
	ch->blocked = true;
	ch->connection->blocked = true;
}

/*
 * The local peer has broken a rule that the library cannot see, or there is no memory for it.
 * Its channel ends, and not the link, which is others' as well.
 */
static void fail_channel(struct channel *ch)
{
	evering_group_want(ch->connection->relay->group, ch->ev, 0);
	ch->failed = ch->gone = true;
	block(ch);
}

/* --------------------------------------------------------------------- numbers */

static struct channel *new_channel(struct connection *c, uint32_t number,
				   const char *name)
{
	struct channel *ch, **more;
	uint32_t count = c->count;

	while (number > count)
		count = count ? 2 * count : 16;
	if (count > c->count) {
		more = realloc(c->channels, count * sizeof(*more));
		if (!more)
			return NULL;
		memset(more + c->count, 0, (count - c->count) * sizeof(*more));
		c->channels = more;
		c->count = count;
	}
	ch = calloc(1, sizeof(*ch));
	if (!ch)
		return NULL;
	ch->source = SOURCE_CHANNEL;
	ch->number = number;
	ch->connection = c;
	ch->connecting_fd = -1;
	memcpy(ch->name, name, WIRE_NAME);
	c->channels[number - 1] = ch;
	if (c->used < number)
		c->used = number;
	c->relay->channels++;
	return ch;
}

static struct channel *channel_of(const struct connection *c, uint32_t number)
{
	return number && number <= c->used ? c->channels[number - 1] : NULL;
}

static uint32_t free_number(const struct connection *c)
{
	uint32_t i;

	for (i = 0; i < c->used; i++)
		if (!c->channels[i])
			break;
	return i + 1;
}

static void stop_connecting(struct channel *ch)
{
	if (!ch->connecting)
		return;
	if (ch->connecting_fd >= 0)
		evering_group_remove_fd(ch->connection->relay->group,
					ch->connecting_fd);
	evering_connecting_close(ch->connecting);
	ch->connecting = NULL;
	ch->connecting_fd = -1;
	ch->source = SOURCE_CHANNEL;
}

static void free_channel(struct channel *ch)
{
	struct connection *c = ch->connection;

	stop_connecting(ch);
	c->channels[ch->number - 1] = NULL;
	while (c->used && !c->channels[c->used - 1])
		c->used--;
	c->relay->channels--;
	free(ch);
}

/* --------------------------------------------------------------------- sending */

/* The first entry of a table says what it is.  Whoever sends that by chance loses nothing. */
static bool opens_table(const struct channel *ch)
{
	struct evering_op_header header;

	if (ch->geometry.slot_size < EVERING_OPS_MIN_SLOT)
		return false;
	memcpy(&header, ch->entry, sizeof(header));
	return header.type == EVERING_OP_OPEN &&
	       header.code == EVERING_OPS_VERSION &&
	       header.len == sizeof(struct evering_op_open);
}

/* What of the local peer's arena goes with the entry in @ch->entry: from @at to @until. */
static void find_buffer(struct channel *ch)
{
	struct evering_op_header header;
	struct evering_op_buffer buffer;
	unsigned int kind;

	ch->at = ch->until = 0;
	if (!ch->operations) {
		ch->operations = opens_table(ch);
		return;
	}
	memcpy(&header, ch->entry, sizeof(header));
	kind = header.flags & EVERING_OP_BUFFER;
	if (kind != EVERING_OP_LENT && kind != EVERING_OP_GIVEN)
		return;
	memcpy(&buffer, ch->entry + ch->payload - sizeof(buffer),
	       sizeof(buffer));
	ch->at = (uint64_t)buffer.granule * EVERING_OP_GRANULE;
	ch->until = ch->at + ((uint64_t)buffer.len_high << 32 | buffer.len_low);
	/* What cannot be is the other side's to find out, in the entry. */
	if (ch->until < ch->at)
		ch->until = ch->at;
}

/* The rest of a buffer.  1: it is through; 0: another's turn; -1: no room. */
static int send_buffer(struct channel *ch, uint32_t *bytes)
{
	struct connection *c = ch->connection;
	struct wire_record *record;
	const void *from;
	uint64_t left;
	uint32_t len;
	size_t room;

	while (ch->at < ch->until) {
		if (!*bytes)
			return 0;
		left = ch->until - ch->at;
		room = link_room(c->link);
		if (room < 4096 + sizeof(ch->at) && room < left)
			room = WIRE_MESSAGE - sizeof(*record);
		room -= sizeof(ch->at);
		len = left < room ? (uint32_t)left : (uint32_t)room;
		from = evering_peer_buffer(ch->ev, ch->at, len);
		if (!from) {
			ch->at = ch->until;
			break;
		}
		record = link_record(c->link, ch->number, WIRE_DATA, 0,
				     len + (uint32_t)sizeof(ch->at));
		if (!record)
			return -1;
		memcpy(record + 1, &ch->at, sizeof(ch->at));
		memcpy((unsigned char *)(record + 1) + sizeof(ch->at), from,
		       len);
		ch->at += len;
		c->relay->totals.bytes[0] += len;
		*bytes -= len < *bytes ? len : *bytes;
	}
	return 1;
}

/* A place in a message for one more entry, or NULL. */
static unsigned char *place_for_entry(struct channel *ch)
{
	struct link *link = ch->connection->link;
	struct wire_record *record = link->tail;
	uint32_t len;

	if (record && record->type == WIRE_ENTRIES &&
	    record->channel == ch->number) {
		len = record->len;
		if (link_extend(link, record, ch->payload)) {
			record->arg++;
			return (unsigned char *)(record + 1) + len;
		}
	}
	record = link_record(link, ch->number, WIRE_ENTRIES, 1, ch->payload);
	return record ? (unsigned char *)(record + 1) : NULL;
}

/* Passes on what the local peer has sent.  False: there was no room, or it is over. */
static bool forward(struct channel *ch)
{
	uint32_t bytes = TURN_BYTES, count;
	unsigned char *place;
	const void *slot;
	int ret = 1;

	for (count = 0; count < TURN_ENTRIES && ret == 1; count++) {
		if (!ch->held && ch->ahead == ch->entries) {
			/* It has no room for this one, and the other side has none. */
			if (evering_peek_at(ch->ev, ch->ahead))
				fail_channel(ch);
			break;
		}
		if (!ch->held) {
			slot = evering_peek_at(ch->ev, ch->ahead);
			if (!slot)
				break;
			memcpy(ch->entry, slot, ch->payload);
			find_buffer(ch);
			ch->held = true;
		}
		ret = send_buffer(ch, &bytes);
		if (ret != 1)
			break;
		place = place_for_entry(ch);
		if (!place) {
			ret = -1;
			break;
		}
		/* Before any of it can have any effect. */
		evering_begin(ch->ev, ch->ahead + 1);
		memcpy(place, ch->entry, ch->payload);
		ch->held = false;
		ch->ahead++;
		ch->connection->relay->totals.entries[0]++;
	}
	evering_look_ahead(ch->ev, ch->ahead);
	return ret >= 0;
}

/* Has it sent nothing that was not passed on? */
static bool is_drained(const struct channel *ch)
{
	return !ch->held && (ch->ahead == ch->entries ||
			     !evering_peek_at(ch->ev, ch->ahead));
}

/*
 * Says how many the local peer has released.  The other relay's peer can wait for that, for
 * room for more than one: a table keeps up to three quarters of the ring for answers.  So from
 * a quarter on this side is told of each entry that is released.
 */
static bool report(struct channel *ch)
{
	uint32_t room, released;

	ch->filled = false;
	if (ch->delivered - ch->reported < ch->entries / 4)
		return true;
	room = evering_room(ch->ev);
	released = ch->delivered - (ch->entries - room);
	/* None also if it has gone, which will be told. */
	if (room && released != ch->reported) {
		/* It has taken back what it had released. */
		if ((int32_t)(released - ch->reported) < 0) {
			fail_channel(ch);
			return true;
		}
		if (!link_record(ch->connection->link, ch->number,
				 WIRE_RELEASED, released, 0))
			return false;
		ch->reported = released;
	}
	ch->filled = ch->delivered - ch->reported >= ch->entries / 4;
	if (ch->filled)
		evering_want_room(ch->ev, room + 1);
	return true;
}

/* How it has ended, and how far the local peer had come. */
static void note_end(struct channel *ch)
{
	struct evering_fate_info fate;
	int how = evering_peer(ch->ev);

	ch->verdict = ch->failed || how == EVERING_PEER_ALIVE ?
			      EVERING_PEER_DIED :
			      how;
	ch->end = (struct wire_end){ 0 };
	if (!ch->failed && !evering_fate(ch->ev, &fate)) {
		ch->end.begun = ch->delivered - fate.unseen;
		ch->end.released = ch->end.begun - fate.begun;
		/* It has not taken back what it had released. */
		ch->end.known = (int32_t)(ch->end.released - ch->reported) >= 0;
	}
	ch->say_end = true;
	evering_close(ch->ev);
	ch->ev = NULL;
}

/* All that can be said now; true: and it is there no more. */
static bool pump(struct channel *ch)
{
	struct connection *c = ch->connection;
	struct wire_record *record;
	struct wire_open open;

	ch->blocked = false;
	if (ch->say_open) {
		record = link_record(c->link, ch->number, WIRE_OPEN, 0,
				     sizeof(open));
		if (!record)
			goto blocked;
		memset(&open, 0, sizeof(open));
		memcpy(open.name, ch->name, WIRE_NAME);
		open.geometry = ch->geometry;
		memcpy(record + 1, &open, sizeof(open));
		ch->say_open = false;
	}
	if (ch->say_opened) {
		if (!link_record(c->link, ch->number, WIRE_OPENED,
				 (uint32_t)ch->opened, 0))
			goto blocked;
		ch->say_opened = false;
	}
	if (ch->ev && ch->open && (!report(ch) || !forward(ch)))
		goto blocked;
	/* Of one that has gone nothing more is told: so all that it had sent crosses now. */
	if (ch->ev && ch->gone && ch->open) {
		while (!ch->failed && !is_drained(ch))
			if (!forward(ch))
				goto blocked;
		note_end(ch);
	}
	if (ch->say_end) {
		record = link_record(c->link, ch->number, WIRE_END,
				     (uint32_t)ch->verdict, sizeof(ch->end));
		if (!record)
			goto blocked;
		memcpy(record + 1, &ch->end, sizeof(ch->end));
		ch->say_end = false;
		ch->ended = true;
	}
	if (ch->ended && ch->over) {
		free_channel(ch);
		return true;
	}
	want(ch);
	return false;
blocked:
	block(ch);
	want(ch);
	return false;
}

/* --------------------------------------------------------------- the local side */

static bool attach(struct channel *ch, struct evering *ev)
{
	struct relay *relay = ch->connection->relay;

	evering_relay(ev);
	evering_begin(ev, 0);
	evering_get_geometry(ev, &ch->geometry);
	ch->entries = ch->geometry.entries;
	ch->payload = (uint32_t)evering_payload(ev);
	if (evering_group_add(relay->group, ev, ch->open ? EVERING_RX : 0, ch))
		return false;
	ch->ev = ev;
	relay->totals.opened++;
	return true;
}

void channel_begin(struct connection *c, const char *name, struct evering *ev)
{
	char full[WIRE_NAME] = { 0 };
	struct channel *ch = NULL;

	strncpy(full, name, WIRE_NAME - 1);
	if (c->relay->channels < c->relay->config.most_channels)
		ch = new_channel(c, free_number(c), full);
	if (!ch || !attach(ch, ev)) {
		c->relay->totals.refused++;
		evering_close(ev);
		if (ch)
			free_channel(ch);
		return;
	}
	ch->say_open = true;
	pump(ch);
}

void channel_event(struct channel *ch, const struct evering_group_event *event)
{
	if (event->what & EVERING_GROUP_GONE) {
		ch->gone = true;
		ch->failed |= event->result == -EPROTO;
	}
	pump(ch);
}

/* The server is there, or will not be. */
static void reached(struct channel *ch, struct evering *ev, int error)
{
	stop_connecting(ch);
	ch->open = ev;
	if (ev && !attach(ch, ev)) {
		evering_close(ev);
		ch->open = false;
		error = -ENOMEM;
	}
	ch->say_opened = true;
	ch->opened = error;
	if (error) {
		ch->ended = true;
		ch->connection->relay->totals.refused++;
	}
	pump(ch);
}

/* Begins to connect to the server, again or for the first time. */
static int connect_server(struct channel *ch)
{
	struct relay *relay = ch->connection->relay;
	struct evering_params params = EVERING_PARAMS_INIT;
	const struct evering_geometry *geometry = &ch->geometry;
	const struct service_rule *service;
	int64_t left = ch->patience - clock_ns();
	int ret;

	stop_connecting(ch);
	service = service_of(relay, ch->connection, ch->name, &ret);
	if (!service)
		return ret;
	if (left <= 0)
		return -ETIMEDOUT;
	params.flags = EVERING_AWAIT;
	params.slot_size = geometry->slot_size;
	params.entries = geometry->entries;
	params.arena_size[EVERING_MINE] = geometry->arena_size[EVERING_A];
	params.arena_size[EVERING_PEERS] = geometry->arena_size[EVERING_B];
	params.backend = relay->config.backend;
	ret = evering_connect_begin(service->path, &params, left,
				    &ch->connecting);
	if (ret)
		return ret;
	ch->source = SOURCE_CONNECTING;
	ch->connecting_fd = evering_connecting_fd(ch->connecting);
	if (ch->connecting_fd < 0)
		return ch->connecting_fd;
	ret = evering_group_add_fd(relay->group, ch->connecting_fd, POLLIN, ch);
	if (ret)
		ch->connecting_fd = -1;
	return ret;
}

void channel_connecting(struct channel *ch)
{
	struct evering *ev = NULL;
	int ret;

	ret = evering_connecting_step(ch->connecting, &ev);
	if (ret == -EAGAIN)
		return;
	/* It has gone in the middle of it, and may come back. */
	if (ret == -ECONNRESET || ret == -EPIPE) {
		ret = connect_server(ch);
		if (!ret)
			return;
	}
	reached(ch, ev, ret);
}

/* --------------------------------------------------------------- the other side */

static const char *why_refused(int error)
{
	switch (error) {
	case -EACCES:
		return "it may not be reached with this key, or its relay may not reach it";
	case -ENOENT:
	case -ECONNREFUSED:
	case -ETIMEDOUT:
		return "its server is not there";
	case -E2BIG:
		return "it is larger than the server there takes, or --arena of the relay";
	case -EDQUOT:
		return "there are too many there: --channels, or what the server lets a user have";
	default:
		return strerror(-error);
	}
}

/* The server can come back, and has seen nothing. */
static bool is_absent(int error)
{
	return error == -ENOENT || error == -ECONNREFUSED ||
	       error == -ETIMEDOUT || error == -ECONNRESET || error == -EPIPE;
}

static int hear_opened(struct channel *ch, int error)
{
	if (ch->open || ch->over || ch->say_open || error > 0 ||
	    error < -LAST_ERRNO)
		return -EPROTO;
	if (!error) {
		ch->open = true;
		pump(ch);
		return 0;
	}
	ch->connection->relay->totals.refused++;
	complain("a channel of '%s': %s", printable(ch->name),
		 why_refused(error));
	if (ch->ev)
		evering_close_as(ch->ev, is_absent(error) ?
						 EVERING_PEER_DIED :
						 EVERING_PEER_CLOSED);
	ch->ev = NULL;
	/* That side has ended it with these words, and waits for this side's. */
	ch->over = true;
	ch->verdict = EVERING_PEER_CLOSED;
	ch->say_end = !ch->ended;
	pump(ch);
	return 0;
}

static int hear_open(struct connection *c, uint32_t number,
		     const unsigned char *data, uint32_t len)
{
	struct relay *relay = c->relay;
	struct wire_open open;
	struct channel *ch;
	int error;

	if (len != sizeof(open) || c->link->caller || !number ||
	    number > MAX_NUMBER || channel_of(c, number))
		return -EPROTO;
	/* Who goes on without ever taking leave of those that were refused. */
	if (relay->channels > 2 * relay->config.most_channels + 64)
		return -EPROTO;
	memcpy(&open, data, sizeof(open));
	open.name[WIRE_NAME - 1] = 0;
	ch = new_channel(c, number, open.name);
	if (!ch)
		return -ENOMEM;
	ch->geometry = open.geometry;
	ch->patience = clock_ns() + relay->config.patience_ns;
	if (relay->channels > relay->config.most_channels)
		error = -EDQUOT;
	else if (open.geometry.flags ||
		 open.geometry.arena_size[0] > relay->config.most_arena ||
		 open.geometry.arena_size[1] > relay->config.most_arena)
		error = -E2BIG;
	else
		error = connect_server(ch);
	if (error)
		reached(ch, NULL, error);
	else
		channel_connecting(ch);
	return 0;
}

static int hear_data(struct channel *ch, const unsigned char *data,
		     uint32_t len)
{
	struct evering_arena_state arena;
	unsigned char *base;
	uint64_t at, bytes;

	if (len <= sizeof(at) || !ch->open)
		return -EPROTO;
	if (!ch->ev || ch->failed)
		return 0;
	memcpy(&at, data, sizeof(at));
	bytes = len - sizeof(at);
	evering_get_arena(ch->ev, EVERING_MINE, &arena);
	if (at > arena.most || bytes > arena.most - at)
		return -EPROTO;
	base = evering_arena_part(ch->ev, at + bytes);
	if (!base) {
		fail_channel(ch);
		return 0;
	}
	evering_copy(base + at, data + sizeof(at), bytes);
	ch->connection->relay->totals.bytes[1] += bytes;
	return 0;
}

static int hear_entries(struct channel *ch, const unsigned char *data,
			uint32_t len, uint32_t count)
{
	uint32_t i;
	void *slot;

	if (!ch->open || (uint64_t)count * ch->payload != len)
		return -EPROTO;
	/* What it was not told to be released still lies in the ring. */
	if (count > ch->entries - (ch->delivered - ch->reported))
		return -EPROTO;
	if (!ch->ev || ch->failed)
		return 0;
	for (i = 0; i < count; i++) {
		slot = evering_reserve(ch->ev);
		if (!slot)
			break;
		memcpy(slot, data + (size_t)i * ch->payload, ch->payload);
		evering_commit(ch->ev);
	}
	ch->delivered += i;
	ch->connection->relay->totals.entries[1] += i;
	/* There is room, unless the local peer has gone, or takes back what it released. */
	if (i < count && evering_peer(ch->ev) == EVERING_PEER_ALIVE)
		fail_channel(ch);
	return 0;
}

static int hear_released(struct channel *ch, uint32_t released)
{
	uint32_t more = released - ch->released;

	if (!ch->ev)
		return 0;
	if (more > ch->ahead)
		return -EPROTO;
	evering_release_many(ch->ev, more);
	ch->released = released;
	ch->ahead -= more;
	evering_look_ahead(ch->ev, ch->ahead);
	evering_publish(ch->ev);
	return 0;
}

/* What was released and taken up there is so here, and all behind that was not seen. */
static int take_fate(struct channel *ch, const struct wire_end *end)
{
	uint32_t begun = end->begun - end->released;
	int ret;

	if (!end->known)
		return 0;
	ret = hear_released(ch, end->released);
	if (!ret && begun > ch->ahead)
		ret = -EPROTO;
	if (!ret)
		evering_begin(ch->ev, begun);
	return ret;
}

static int hear_end(struct channel *ch, uint32_t how, const unsigned char *data,
		    uint32_t len)
{
	struct wire_end end;
	int ret = 0;

	if (len != sizeof(end) || ch->over || how < EVERING_PEER_CLOSED ||
	    how > EVERING_PEER_RELAY_DIED)
		return -EPROTO;
	memcpy(&end, data, sizeof(end));
	ch->over = true;
	stop_connecting(ch);
	if (how == EVERING_PEER_DIED)
		ch->connection->relay->totals.died++;
	if (ch->ev) {
		ret = take_fate(ch, &end);
		evering_close_as(ch->ev, (int)how);
		ch->ev = NULL;
	}
	if (!ch->ended && !ch->say_end) {
		ch->verdict = (int)how;
		ch->end = (struct wire_end){ 0 };
		ch->say_end = true;
	}
	ch->say_open = false;
	/* That it was not opened is this side's last word, and still waited for. */
	if (!ch->ended)
		ch->say_opened = false;
	pump(ch);
	return ret;
}

/* What was asked for, as far as there is room for answers. */
static void answer_names(struct connection *c)
{
	struct wire_record *answer;
	unsigned int i;
	int error;

	for (i = 0; i < c->asked; i++) {
		answer = link_record(c->link, 0, WIRE_TOLD, 0, WIRE_NAME);
		if (!answer)
			break;
		service_of(c->relay, c, c->name[i], &error);
		answer->arg = (uint32_t)error;
		memcpy(answer + 1, c->name[i], WIRE_NAME);
	}
	c->asked -= i;
	memmove(c->name, c->name + i, c->asked * sizeof(*c->name));
}

static int note_name(struct connection *c, const char name[WIRE_NAME])
{
	unsigned int i;

	for (i = 0; i < c->asked; i++)
		if (!strcmp(c->name[i], name))
			return 0;
	if (c->asked == MAX_ASKED)
		return -EPROTO;
	memcpy(c->name[c->asked++], name, WIRE_NAME);
	answer_names(c);
	return 0;
}

/* A name is asked for, or was: @len bytes of it. */
static int hear_name(struct connection *c, const struct wire_record *record,
		     const unsigned char *data)
{
	char name[WIRE_NAME] = { 0 };

	if (record->len != WIRE_NAME || record->channel ||
	    c->link->caller != (record->type == WIRE_TOLD))
		return -EPROTO;
	strncpy(name, (const char *)data, WIRE_NAME - 1);
	if (record->type == WIRE_ASK)
		return note_name(c, name);
	entrance_told(c, name, (int)record->arg);
	return 0;
}

static int hear(struct connection *c, const struct wire_record *record,
		const unsigned char *data)
{
	struct channel *ch;

	switch (record->type) {
	case WIRE_NOTHING:
		return 0;
	case WIRE_SILENT:
		return -ENETRESET;
	case WIRE_ASK:
	case WIRE_TOLD:
		return hear_name(c, record, data);
	case WIRE_OPEN:
		return hear_open(c, record->channel, data, record->len);
	}
	ch = channel_of(c, record->channel);
	if (!ch)
		return -EPROTO;
	switch (record->type) {
	case WIRE_OPENED:
		return c->link->caller ? hear_opened(ch, (int)record->arg) :
					 -EPROTO;
	case WIRE_DATA:
		return hear_data(ch, data, record->len);
	case WIRE_ENTRIES:
		return hear_entries(ch, data, record->len, record->arg);
	case WIRE_RELEASED:
		return hear_released(ch, record->arg);
	case WIRE_END:
		return hear_end(ch, record->arg, data, record->len);
	default:
		return -EPROTO;
	}
}

/* Wakes who was sent to, and says what it has released. */
static void settle(struct connection *c, uint32_t number)
{
	struct channel *ch = channel_of(c, number);

	if (!ch || !ch->ev || !ch->open)
		return;
	evering_flush(ch->ev);
	if (!report(ch))
		block(ch);
	want(ch);
}

int channel_message(struct link *link, const unsigned char *data, size_t len,
		    void *context)
{
	struct connection *c = context;
	struct wire_record record;
	uint32_t sent_to = 0;
	size_t at = 0, size;
	int ret = 0;

	(void)link;
	while (at < len && !ret) {
		if (len - at < sizeof(record))
			return -EPROTO;
		memcpy(&record, data + at, sizeof(record));
		at += sizeof(record);
		if (record.len > len - at || record.reserved)
			return -EPROTO;
		size = ((size_t)record.len + WIRE_ALIGN - 1) &
		       ~(size_t)(WIRE_ALIGN - 1);
		if (size > len - at)
			return -EPROTO;
		if (sent_to && sent_to != record.channel) {
			settle(c, sent_to);
			sent_to = 0;
		}
		ret = hear(c, &record, data + at);
		if (record.type == WIRE_ENTRIES)
			sent_to = record.channel;
		at += size;
	}
	if (!ret && sent_to)
		settle(c, sent_to);
	return ret;
}

void channels_unblock(struct connection *c)
{
	uint32_t i, first = c->next, used = c->used;
	struct channel *ch;

	answer_names(c);
	if (!c->blocked || !used)
		return;
	c->blocked = false;
	for (i = 0; i < used; i++) {
		ch = channel_of(c, (first + i) % used + 1);
		if (ch && ch->blocked)
			pump(ch);
	}
	c->next = first + 1;
}

void channels_end(struct connection *c, int how)
{
	struct channel *ch;
	uint32_t i;

	for (i = c->used; i > 0; i--) {
		ch = channel_of(c, i);
		if (!ch)
			continue;
		/* What was passed on counts as begun, until that side says otherwise. */
		if (ch->ev)
			evering_close_as(ch->ev, how);
		ch->ev = NULL;
		c->relay->totals.lost++;
		free_channel(ch);
	}
	c->blocked = false;
}

void channels_leave(struct connection *c)
{
	struct channel *ch;
	uint32_t i;

	for (i = c->used; i > 0; i--) {
		ch = channel_of(c, i);
		if (!ch || ch->ended || ch->over)
			continue;
		stop_connecting(ch);
		if (ch->ev)
			evering_close_as(ch->ev, EVERING_PEER_RELAY_DIED);
		ch->ev = NULL;
		ch->verdict = EVERING_PEER_RELAY_DIED;
		ch->end = (struct wire_end){ 0 };
		ch->say_open = ch->say_opened = false;
		ch->say_end = true;
		pump(ch);
	}
}
