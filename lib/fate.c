// SPDX-License-Identifier: MIT
/*
 * fate.c: what a peer that is gone did with the entries it was sent.
 *
 * The words in the peer's half, which is not written any more, are the source: how many
 * entries it has released, and how many it has taken up (evering_half.begun).  A
 * hostile peer can only claim that it began entries that it did not begin, or the
 * reverse.  Only the peer itself knows what it did.
 */
#include "internal.h"

/* How many entries were ever sent over this channel. */
static uint64_t sent_ever(const struct endpoint *e)
{
	return e->half->counters.tx_entries +
	       (uint32_t)(e->ev.tx.next - e->tx.counted) - e->sent_before;
}

/* Reads each of the peer's words once; false: they are invalid. */
static bool read_fate(const struct endpoint *e, struct evering_fate_info *fate)
{
	const struct evering_tx *tx = &e->ev.tx;
	uint32_t released, begun, sent = tx->next;

	/* The peer stored these words before this side learned that it is gone. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	released = evering_load_relaxed(&e->peer->released);
	begun = evering_load_relaxed(&e->peer->begun);
	if (sent - released > tx->mask + 1)
		return false;
	if (begun - released > sent - released)
		begun = released - begun < EVERING_BEGUN_ALL ? released : sent;
	fate->unseen = sent - begun;
	fate->begun = begun - released;
	/* There are no entries before the first one, whatever the peer states. */
	if (fate->unseen > sent_ever(e))
		fate->unseen = (uint32_t)sent_ever(e);
	return true;
}

/* How many of the last entries a peer that is gone has certainly not acted on. */
uint32_t fate_unseen(const struct endpoint *e)
{
	struct evering_fate_info fate;

	/* A peer that may be alive may go on reading. */
	return !e->fenced && read_fate(e, &fate) ? fate.unseen : 0;
}

int evering_fate(struct evering *ev, struct evering_fate_info *fate)
{
	struct endpoint *e = to_endpoint(ev);
	struct evering_fate_info found;

	if (evering_peer(ev) == EVERING_PEER_ALIVE)
		return -EBUSY;
	if (channel_error(e) == -EPROTO || !read_fate(e, &found))
		return -EPROTO;
	*fate = found;
	return 0;
}
