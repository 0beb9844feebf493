// SPDX-License-Identifier: MIT
/*
 * fuzz_op.c: a table of operations, and in between whatever the peer writes.
 */
#include "fuzz.h"

#define STEPS 384

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct evering *ev[2];
	struct op_side *side;
	struct fuzz_run run;
	struct peer peer;
	uint8_t who;
	int steps;

	fuzz_begin(&run);
	MUST(!fuzz_pair(&in, EVERING_OPS_MIN_SLOT, ev));
	fuzz_poison(ev[EVERING_A], true);
	side = op_side_open(ev[EVERING_A], &in);
	peer_init(&peer, ev[EVERING_B], ev[EVERING_A]);
	fuzz_before_sleep(peer_before_sleep, &peer);
	fuzz_before_write(peer_before_write, &peer);
	/* Most of what there is to find lies behind a right beginning. */
	who = in8(&in);
	if (who)
		peer_open(&peer, who, who, who);

	for (steps = 0; steps < STEPS && in_more(&in); steps++) {
		peer.sleeps = 0;
		who = in8(&in);
		if (who == 0xff)
			peer_leave(&peer);
		else if (who & 1)
			peer_op_step(&peer, &in);
		else
			op_side_step(side, &in);
		peer_check(&peer);
	}

	peer_leave(&peer);
	peer.sleeps = 0;
	op_side_end(side);
	fuzz_poison(ev[EVERING_A], false);
	evering_close(ev[EVERING_A]);
	fuzz_end(&run);
	return 0;
}
