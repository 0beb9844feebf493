// SPDX-License-Identifier: MIT
/*
 * fuzz_ring.c: the rings of one endpoint, and in between whatever the peer writes.
 */
#include "fuzz.h"

#define STEPS 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct evering *ev[2];
	struct ring_side side;
	struct fuzz_run run;
	struct peer peer;
	uint8_t who;
	int steps;

	fuzz_begin(&run);
	MUST(!fuzz_pair(&in, EVERING_MIN_SLOT, ev));
	ring_side_init(&side, ev[EVERING_A], true);
	peer_init(&peer, ev[EVERING_B], ev[EVERING_A]);
	fuzz_before_sleep(peer_before_sleep, &peer);
	fuzz_before_write(peer_before_write, &peer);
	fuzz_poison(ev[EVERING_A], true);

	for (steps = 0; steps < STEPS && in_more(&in); steps++) {
		peer.sleeps = 0;
		who = in8(&in);
		if (who == 0xff)
			peer_leave(&peer);
		else if (who & 1)
			peer_ring_step(&peer, &in);
		else
			ring_side_step(&side, &in);
	}

	ring_side_end(&side);
	fuzz_poison(ev[EVERING_A], false);
	if (steps & 1)
		peer_leave(&peer);
	evering_close(ev[EVERING_A]);
	peer_leave(&peer);
	fuzz_end(&run);
	return 0;
}
