// SPDX-License-Identifier: MIT
/*
 * Meeting the other side; meet.h says what the functions are for.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "meet.h"
#include "process.h"
#include "remedy.h"
#include "util.h"

/* At the socket of that name that a service manager has passed; "": at the first. */
static int listen_activated(const char *name,
			    struct evering_listener **listener)
{
	int ret = evering_listen_activated(*name ? name : NULL, listener);

	if (ret == -ENOENT)
		complain(
			"no socket%s%s was passed to this process: start it by a "
			"service manager, or use a path",
			*name ? " named " : "", *name ? printable(name) : "");
	else if (ret == -EPROTOTYPE || ret == -EINVAL)
		complain(
			"the socket that was passed does not listen for packets in "
			"order: use ListenSequentialPacket=");
	else if (ret)
		complain("cannot listen at the socket that was passed: %s",
			 strerror(-ret));
	return ret;
}

int meet_listen(const char *path, struct evering_listener **listener)
{
	const struct attempt attempt = {
		.what = "cannot listen at",
		.path = path,
		.listening = true,
	};
	int ret;

	if (!strncmp(path, PASSED, strlen(PASSED)))
		return listen_activated(path + strlen(PASSED), listener);
	ret = evering_listen(path, 0600, listener);
	if (ret)
		complain_of(&attempt, ret);
	return ret;
}

bool is_ours(const struct evering *ev)
{
	pid_t pid;
	uid_t uid;
	gid_t gid;

	/* Root need not ask: it may look into this process anyway. */
	return !evering_peer_cred(ev, &pid, &uid, &gid) &&
	       (uid == geteuid() || !uid);
}

pid_t pid_of_peer(const struct evering *ev)
{
	pid_t pid = 0;
	uid_t uid;
	gid_t gid;

	evering_peer_cred(ev, &pid, &uid, &gid);
	return pid;
}

/* Says so once: a process that comes again and again must not fill a disk. */
static void turn_away(const struct evering *ev)
{
	static bool said;
	pid_t pid = 0;
	uid_t uid = 0;
	gid_t gid = 0;

	if (said)
		return;
	said = true;
	evering_peer_cred(ev, &pid, &uid, &gid);
	complain(
		"user %u (pid %d) is refused, as all others will be: this is for "
		"user %u alone",
		uid, pid, (unsigned int)geteuid());
}

/* Waits for a connection.  End signals arrive only while it waits. */
static int wait_for_peer(struct evering_listener *listener, int64_t deadline,
			 const sigset_t *waiting)
{
	struct pollfd fd = { .fd = evering_listener_fd(listener),
			     .events = POLLIN };
	int64_t left = deadline - clock_ns();
	struct timespec timeout;
	int ret;

	if (left < 0)
		left = 0;
	timeout.tv_sec = left / 1000000000;
	timeout.tv_nsec = left % 1000000000;
	ret = ppoll(&fd, 1, deadline == INT64_MAX ? NULL : &timeout, waiting);
	if (end_signal)
		return -EINTR;
	return ret ? 0 : -ETIMEDOUT;
}

int meet_take(struct evering_listener *listener,
	      const struct evering_params *limits, struct evering **ev)
{
	int ret = evering_accept(listener, limits, EVERING_NOWAIT, ev);

	if (ret || is_ours(*ev))
		return ret;
	turn_away(*ev);
	evering_close(*ev);
	return -EAGAIN;
}

int meet_accept(struct evering_listener *listener,
		const struct evering_params *limits, int64_t deadline,
		struct evering **ev)
{
	sigset_t old;
	int ret;

	block_end_signals(&old);
	do {
		ret = end_signal ? -EINTR :
				   wait_for_peer(listener, deadline, &old);
		if (ret)
			break;
		ret = meet_take(listener, limits, ev);
		/* Strangers must not keep it waiting beyond its time. */
		if ((ret == -EAGAIN || ret == -EINTR) && clock_ns() >= deadline)
			ret = -ETIMEDOUT;
	} while (ret == -EAGAIN || ret == -EINTR);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return ret;
}

int meet_connect(const char *path, const struct evering_params *params,
		 int64_t timeout_ns, struct evering **ev)
{
	int ret = evering_connect(path, params, timeout_ns, ev);

	if (ret || *path != '@' || is_ours(*ev))
		return ret;
	complain("another user listens at %s", printable(path));
	evering_close(*ev);
	*ev = NULL;
	return -EPERM;
}
