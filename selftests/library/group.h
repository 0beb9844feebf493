/* SPDX-License-Identifier: MIT */
/*
 * group.h: what the tests of groups share: channels that become members, and small talk
 * over them.
 */
#ifndef EVERING_SELFTESTS_GROUP_H
#define EVERING_SELFTESTS_GROUP_H

#include "common.h"

#define MANY 8

static inline int open_group(uint32_t policy, struct evering_group **g)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;

	params.policy = policy;
	return evering_group_open(&params, g);
}

/* How long to look for an event that must not come. */
#define QUIET (20 * MSEC)

static inline int add_all(struct evering_group *g, struct evering *ev[MANY][2])
{
	int i, ret = 0;

	for (i = 0; i < MANY && !ret; i++)
		ret = evering_group_add(g, ev[i][0], EVERING_RX, &ev[i]);
	return ret;
}

/* Makes all of them cold: there is nothing to do. */
static inline int all_cold(struct evering_group *g)
{
	const struct evering_group_event *events;

	return evering_group_poll(g, &events);
}

static inline int send_one(struct evering *ev, uint32_t value)
{
	return evering_send(ev, &value, sizeof(value), EVERING_NOWAIT);
}

/* What it was, or a negative errno. */
static inline int64_t receive_one(struct evering *ev)
{
	uint32_t value;
	int ret = evering_recv(ev, &value, sizeof(value), EVERING_NOWAIT);

	return ret ? ret : (int64_t)value;
}

static inline bool readable(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, timeout_ms) == 1 && (p.revents & POLLIN);
}

/* Is the peer of @of armed for an entry, so that a send would ring it? */
static inline bool is_armed(const struct evering *of)
{
	return evering_load_acquire(of->tx.armed) & EVERING_ARMED;
}

#endif /* EVERING_SELFTESTS_GROUP_H */
