/* SPDX-License-Identifier: MIT */
/*
 * What the arms of messages.c share: a name for both sides, and how they begin and end
 * together.
 */
#ifndef MESSAGES_H
#define MESSAGES_H

#include "../message.h"

/* Not linked where the library's headers are not there. */
extern const struct arm zeromq_arm __attribute__((weak));
extern const struct arm zeromq_router_arm __attribute__((weak));
extern const struct arm nng_arm __attribute__((weak));
extern const struct arm ucx_arm __attribute__((weak));
extern const struct arm libfabric_arm __attribute__((weak));

/* Both waits of a kind in both modes. */
#define WHOLE(policy)                                                          \
	{                                                                      \
		[MODE_MESSAGE] = ONLY(policy), [MODE_REQUEST] = ONLY(policy)   \
	}
/* And over TCP, from one side to the other. */
#define WHOLE_OR_TCP(policy)                                                   \
	{                                                                      \
		[MODE_MESSAGE] = ONLY(policy), [MODE_REQUEST] = ONLY(policy),  \
		[MODE_RELAY_RTT] = ONLY(policy),                               \
		[MODE_RELAY_STREAM] = ONLY(policy)                             \
	}

/*
 * An address of @transport that is unique: an abstract name, which vanishes with
 * the sockets.  MODE_RELAY_*: of TCP instead.
 */
static inline const char *common_address(struct side *s, const char *transport)
{
	static char address[64];

	if (through_relay(s->job->mode)) {
		snprintf(address, sizeof(address), "tcp://127.0.0.1:%u",
			 common_port(s, NULL));
		return address;
	}
	snprintf(address, sizeof(address), "%severing-bench-%.8s", transport,
		 s->address.sun_path + 1);
	return address;
}

/* Sends @len bytes to the other side; returns how many of @size that has sent. */
static inline size_t swap_bytes(struct side *s, const void *own, size_t len,
				void *others, size_t size)
{
	ssize_t n;

	if (send(s->sock, own, len, MSG_NOSIGNAL) != (ssize_t)len)
		fail(s, "send: %m");
	n = recv(s->sock, others, size, 0);
	if (n <= 0)
		fail(s, "the other side is gone");
	return (size_t)n;
}

/* What a side has sent may be lost when it closes before the other has it. */
static inline void meet_other(struct side *s)
{
	char byte = 0;

	swap_bytes(s, &byte, 1, &byte, 1);
}

#endif /* MESSAGES_H */
