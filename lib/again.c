// SPDX-License-Identifier: MIT
/*
 * again.c: what the table of a survivor sends to its peer's successor.
 *
 * While there is no peer, operations in flight end only by their time limits or when
 * they are cancelled.  When a successor is there, each of them is of one of three
 * kinds.
 *
 * - Its request was certainly not seen.  It is still in its slot, and is sent again as
 *   it was.
 * - It may have been begun, and EVERING_REISSUE allows that twice.  It is sent again
 *   from its place, with EVERING_OP_AGAIN.
 * - It may have been begun, without EVERING_REISSUE.  It ends with -EOWNERDEAD.
 *
 * Posts and messages that were not seen are sent again in order, among the requests.
 * Answers, cancellations and returned buffers were for the dead peer, and are dropped.
 * All entries are copied out of the old ring before it is unmapped, and sent when the
 * successor has opened its table and has room and credit.  Until then no new request,
 * post or message is sent.  Buffers and credit are returned, because the successor may
 * wait for them.
 */
#include <stdlib.h>

#include "ops.h"

static unsigned char *entry_at(const struct again *again, uint32_t i)
{
	return again->entries + (size_t)i * again->size;
}

static struct evering_op_header header_of(const unsigned char *entry)
{
	struct evering_op_header header;

	memcpy(&header, entry, sizeof(header));
	return header;
}

void again_drop(struct again *again)
{
	free(again->entries);
	*again = (struct again){ 0 };
}

/*
 * Checks that nothing is in use that only the dead peer could get back.  Returns 0;
 * -EBUSY.
 */
int again_check(struct ops *ops)
{
	return ops->pub.holding || message_any(ops) || ask_gives_back(ops) ?
		       -EBUSY :
		       0;
}

/* Makes an entry as it has to be sent: without returned buffers. */
static void strip(unsigned char *entry)
{
	struct evering_op_header header = header_of(entry);

	header.flags &= (1u << EVERING_OP_HOME_SHIFT) - 1;
	memcpy(entry, &header, sizeof(header));
}

static bool gives(const struct evering_op_header *header)
{
	return (header->flags & EVERING_OP_BUFFER) == EVERING_OP_GIVEN;
}

static struct evering_op_buffer buffer_of(const struct again *again,
					  const unsigned char *entry)
{
	struct evering_op_buffer name;

	memcpy(&name, entry + again->size - sizeof(name), sizeof(name));
	return name;
}

/*
 * Whether the entry is for any peer, and still wanted.  A buffer that it gives back is
 * of an arena that the successor does not have.
 */
static bool is_wanted(struct ops *ops, const unsigned char *entry)
{
	struct evering_op_header header = header_of(entry);

	if ((header.flags & EVERING_OP_BUFFER) == EVERING_OP_BACK)
		return false;
	switch (header.type) {
	case EVERING_OP_REQUEST:
		return ask_queue(ops, header.id);
	case EVERING_OP_POST:
	case EVERING_OP_MESSAGE:
		return true;
	default:
		return false;
	}
}

/*
 * The entries that the dead peer had not seen, and after them those that it was not
 * sent yet.
 */
static const unsigned char *unseen_at(const struct endpoint *e, uint32_t unseen,
				      uint32_t i)
{
	const struct evering_tx *tx = &e->ev.tx;
	const struct ops *ops = e->ops;

	return i < unseen ? evering__tx_slot(tx, tx->next - unseen + i) :
			    entry_at(&ops->again, ops->again.at + i - unseen);
}

static void add(struct again *again, const unsigned char *entry)
{
	memcpy(entry_at(again, again->count++), entry, again->size);
}

/*
 * Collects the entries of a table: begun operations first, because they were sent
 * first.
 */
static void collect(struct ops *ops, struct again *again, uint32_t unseen,
		    uint32_t count)
{
	const struct endpoint *e = ops_endpoint(ops);
	uint32_t i, at = 0;

	ask_queue_none(ops);
	for (i = 0; i < count; i++)
		is_wanted(ops, unseen_at(e, unseen, i));
	while (ask_next_reissue(ops, &at, entry_at(again, again->count)))
		again->count++;
	again->sent = again->count;
	for (i = 0; i < count; i++) {
		if (i == unseen)
			again->sent = again->count;
		if (!is_wanted(ops, unseen_at(e, unseen, i)))
			continue;
		add(again, unseen_at(e, unseen, i));
		strip(entry_at(again, again->count - 1));
	}
	if (count == unseen)
		again->sent = again->count;
}

/*
 * Copies what has to be sent to a successor.  This changes only marks.  Returns 0;
 * -ENOMEM.
 */
int again_collect(struct endpoint *e, struct again *again)
{
	struct ops *ops = e->ops;
	uint32_t unseen, count, i;

	unseen = ops ? ops_unseen(ops) : e->tabled ? 0 : fate_unseen(e);
	count = unseen + (ops ? ops->again.count - ops->again.at : 0);
	*again = (struct again){ .size = e->ev.tx.payload };
	if (!count && !(ops && ops->depth))
		return 0;
	again->entries =
		malloc((size_t)(count + (ops ? ops->depth : 0)) * again->size);
	if (!again->entries)
		return -ENOMEM;
	if (ops)
		collect(ops, again, unseen, count);
	for (i = 0; i < count && !ops; i++)
		add(again, unseen_at(e, unseen, i));
	return 0;
}

/* Drops an entry that will not be sent, and frees its buffer. */
static void let_go(struct ops *ops, const struct again *again,
		   const unsigned char *entry)
{
	struct evering_op_header header = header_of(entry);

	if (gives(&header))
		arena_take_back(&ops_endpoint(ops)->arena,
				buffer_of(again, entry).granule, true);
}

/*
 * Takes back the buffers of entries that the dead peer had not seen; the successor does
 * not have them yet.  If the dead peer has returned such a buffer, or an entry names it
 * twice, that entry is dropped.
 */
static void hold_back(struct ops *ops, struct again *again)
{
	struct arena *arena = &ops_endpoint(ops)->arena;
	struct evering_op_header header;
	struct evering_op_buffer name;
	unsigned char *entry;
	uint32_t i;

	for (i = 0; i < again->sent; i++) {
		entry = entry_at(again, i);
		header = header_of(entry);
		name = buffer_of(again, entry);
		if (!gives(&header) ||
		    arena_hold_back(arena, name.granule, name.generation))
			continue;
		if (header.type == EVERING_OP_REQUEST)
			ask_unqueue(ops, header.id);
		memset(entry, 0, sizeof(header));
	}
}

/*
 * Starts on a new channel, whose peer knows nothing of the table.  Takes ownership of
 * what is in @again.
 */
void again_start(struct ops *ops, const struct again *again)
{
	struct again *old = &ops->again;
	struct evering_op_header header;

	/*
	 * Requests that were queued for the dead peer, and whose answers are not wanted
	 * any more.
	 */
	for (; old->at < old->count; old->at++) {
		header = header_of(entry_at(old, old->at));
		if (header.type == EVERING_OP_REQUEST &&
		    !ask_is_awaited(ops, header.id))
			let_go(ops, old, entry_at(old, old->at));
	}
	again_drop(old);
	*old = *again;
	hold_back(ops, old);
	arena_all_home(&ops_endpoint(ops)->arena);
	ops_renew(ops);
	ask_succeed(ops);
}

/* Drops everything, because it will not be sent. */
void again_end(struct ops *ops)
{
	struct again *again = &ops->again;

	for (; again->at < again->count; again->at++)
		let_go(ops, again, entry_at(again, again->at));
	again_drop(again);
}

/*
 * The successor stores @store posts and messages.  Returns 0; -EPROTO: it could never
 * take those that wait for it.
 */
int again_opened(const struct ops *ops, uint32_t store)
{
	const struct again *again = &ops->again;
	struct evering_op_header header;
	uint32_t i;

	for (i = again->at; i < again->count && !store; i++) {
		header = header_of(entry_at(again, i));
		if (header.type == EVERING_OP_POST ||
		    header.type == EVERING_OP_MESSAGE)
			return -EPROTO;
	}
	return 0;
}

/* What the next entry lacks before it can be sent. */
enum lack {
	NOTHING,
	PEER, /* a peer: it has not opened its table, will stop, or is gone */
	CREDIT,
	ROOM,
};

static enum lack what_it_lacks(const struct ops *ops)
{
	const struct again *again = &ops->again;
	struct evering_op_header header;

	if (!ops->opened || ops->left || ops->error)
		return PEER;
	if (again->at == again->count)
		return NOTHING;
	header = header_of(entry_at(again, again->at));
	/* An entry that is dropped takes no credit and no place. */
	if (!header.type || (header.type == EVERING_OP_REQUEST &&
			     !ask_is_awaited(ops, header.id)))
		return NOTHING;
	if (header.type != EVERING_OP_REQUEST && !ops->pub.credit)
		return CREDIT;
	return evering_reserve_at(ops->pub.ev, ops->serve) ? NOTHING : ROOM;
}

/* Whether again_send() has something to do. */
bool again_is_due(const struct ops *ops)
{
	return ops->again.entries && what_it_lacks(ops) == NOTHING;
}

bool again_lacks_room(const struct ops *ops)
{
	return ops->again.entries && what_it_lacks(ops) == ROOM;
}

/* Sends the next entry.  If it is not wanted any more, frees its buffer instead. */
static void send_next(struct ops *ops)
{
	struct again *again = &ops->again;
	struct evering_tx *tx = &ops->pub.ev->tx;
	unsigned char entry[EVERING_MAX_SLOT] __attribute__((aligned(16)));
	struct evering_op_header header;
	unsigned char *slot;

	/* A callback may call this function again. */
	memcpy(entry, entry_at(again, again->at++), again->size);
	header = header_of(entry);
	if (header.type == EVERING_OP_REQUEST &&
	    !ask_is_awaited(ops, header.id)) {
		let_go(ops, again, entry);
		ask_sends(ops, header.id);
		return;
	}
	if (!header.type)
		return;
	if (header.type == EVERING_OP_REQUEST)
		ask_sends(ops, header.id);
	else
		ops->pub.credit--;
	if (gives(&header))
		arena_give(&ops_endpoint(ops)->arena,
			   buffer_of(again, entry).granule);
	slot = evering__tx_slot(tx, tx->next);
	memcpy(slot, entry, again->size);
	evering__stamp(tx, slot, tx->next);
}

/*
 * Sends entries for which there is room and credit.  Returns how many.  A request whose
 * answer is not wanted any more ends here.
 */
int again_send(struct ops *ops)
{
	struct again *again = &ops->again;
	int n = 0;

	while (again_is_due(ops)) {
		if (again->at < again->count) {
			send_next(ops);
			n++;
			continue;
		}
		again_drop(again);
		ops_set_keep(ops);
	}
	return n;
}
