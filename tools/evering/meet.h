/* SPDX-License-Identifier: MIT */
/*
 * How commands meet the other side, and which users may be there.
 */
#ifndef MEET_H
#define MEET_H

#include <stdbool.h>
#include <stdint.h>

#include <evering.h>

/* What --listen begins with where a service manager has passed the socket. */
#define PASSED "fd:"

/*
 * Listens at @path for this user alone, or, if it begins with PASSED, at the socket of the
 * name that follows, or the first.  0, or a negative errno, having said why.
 */
int meet_listen(const char *path, struct evering_listener **listener);

/*
 * Waits until @deadline on clock_ns(), INT64_MAX: for ever, for a process of this
 * user, or of root; others are turned away.  The mode of a socket keeps them out
 * only where there is a file: any user may connect to an abstract name.
 *
 * Returns 0, -ETIMEDOUT, -EINTR: an end signal has come, or another negative errno.
 */
int meet_accept(struct evering_listener *listener,
		const struct evering_params *limits, int64_t deadline,
		struct evering **ev);

/*
 * The same without waiting: -EAGAIN: no client is waiting.
 */
int meet_take(struct evering_listener *listener,
	      const struct evering_params *limits, struct evering **ev);

/*
 * Connects to @path.  Where that is an abstract name, which any user may take before
 * another, the listening process has to be this user's, or root's: -EPERM.
 * Complains of that alone.
 */
int meet_connect(const char *path, const struct evering_params *params,
		 int64_t timeout_ns, struct evering **ev);

/* If the other side is this user's, or root's. */
bool is_ours(const struct evering *ev);

/* Its process, or 0 if that cannot be seen from this PID namespace. */
pid_t pid_of_peer(const struct evering *ev);

#endif /* MEET_H */
