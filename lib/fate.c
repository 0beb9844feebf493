// SPDX-License-Identifier: MIT
/*
 * fate.c: what became of what was sent to a peer that has gone.
 *
 * Its own words say so, in its half, which nobody writes any more: how many entries it has
 * released, and how many it has taken up (evering_half.begun).  One that lies can only say
 * that it began what it had not, or not what it had: of its own doing nothing more is known
 * anyway.
 */
#include "internal.h"

/* How many entries there ever were over this channel. */
static uint64_t sent_ever(const struct endpoint *e)
{
	return e->half->counters.tx_entries +
	       (uint32_t)(e->ev.tx.next - e->tx.counted) - e->sent_before;
}

/* What its words say, each of which is read once; false: what cannot be. */
static bool read_fate(const struct endpoint *e, struct evering_fate_info *fate)
{
	const struct evering_tx *tx = &e->ev.tx;
	uint32_t released, begun, sent = tx->next;

	/* The peer has stored these before that by which it is known to be gone. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	released = evering_load_relaxed(&e->peer->released);
	begun = evering_load_relaxed(&e->peer->begun);
	if (sent - released > tx->mask + 1)
		return false;
	if (begun - released > sent - released)
		begun = released - begun < EVERING_BEGUN_ALL ? released : sent;
	fate->unseen = sent - begun;
	fate->begun = begun - released;
	/* Before the first there are none, whatever it says. */
	if (fate->unseen > sent_ever(e))
		fate->unseen = (uint32_t)sent_ever(e);
	return true;
}

/* So many entries, the last that were sent, has the peer, which is gone, not acted on. */
uint32_t fate_unseen(const struct endpoint *e)
{
	struct evering_fate_info fate;

	/* One that may live goes on. */
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
