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

/* The first entry that the peer, which has gone, has certainly not acted on. */
static uint32_t first_unseen(const struct endpoint *e)
{
	const struct evering_tx *tx = &e->ev.tx;
	uint32_t released, begun, sent = tx->next;

	/* The peer has stored these before that by which it is known to be gone. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	released = evering_load_relaxed(&e->peer->released);
	begun = evering_load_relaxed(&e->peer->begun);
	/* It says what cannot be. */
	if (sent - released > tx->mask + 1)
		return sent;
	if (begun - released <= sent - released)
		return begun;
	return released - begun < EVERING_BEGUN_ALL ? released : sent;
}

uint32_t fate_unseen(const struct endpoint *e)
{
	return e->ev.tx.next - first_unseen(e);
}

int evering_fate(struct evering *ev, struct evering_fate_info *fate)
{
	struct endpoint *e = to_endpoint(ev);
	uint32_t released;
	int error;

	if (evering_peer(ev) == EVERING_PEER_ALIVE)
		return -EBUSY;
	error = channel_error(e);
	released = evering_load_acquire(&e->peer->released);
	if (error == -EPROTO || ev->tx.next - released > ev->tx.mask + 1)
		return -EPROTO;
	fate->unseen = fate_unseen(e);
	fate->begun = ev->tx.next - released - fate->unseen;
	return 0;
}
