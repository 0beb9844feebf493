// SPDX-License-Identifier: MIT
/*
 * connect.c: connects in steps that do not wait, for one channel or for lanes.
 *
 * A step tries to reach the listener, says hello, and takes the welcome.  If the
 * welcome asks to connect again (see listen.c), the next step begins anew: the first
 * time at once, because another listener at the socket may be idle, and then after
 * pauses, because a listener may ask for ever.  A caller that waits (evering_connect())
 * takes steps and sleeps in between.  An event loop has a descriptor that is readable
 * when the next step has something to do.
 *
 * With EVERING_AWAIT there may be no listener yet.  A watch of the directory (inotify)
 * reports when a file of its name is made or gets other permissions.  It does not
 * report when a process listens there, and there is no watch of abstract names and
 * missing directories.  So the step is repeated after a pause, which doubles from a
 * millisecond to a tenth of a second, or to a second while there is a watch.  Files of
 * other names do not keep it busy either: after each event the watch is ignored for a
 * pause.
 */
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ops.h"

#define PAUSE_FIRST 1000000ll
#define PAUSE_DEAF 20000000ll
#define PAUSE_MOST 100000000ll
#define PAUSE_WATCHED 1000000000ll
/* A short pause, because several listeners may share the socket. */
#define PAUSE_BACK 20000000ll
/* After this many attempts, which take a second, the reason is returned. */
#define MOST_CROWDED 50u

#define WATCHED (IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR)

/**
 * struct evering_connecting - a meeting that is under way
 * @lanes: this side's part of the channels, while it has them
 * @many: for evering_connecting_step_many()
 * @maker: fork_id() of the process that has begun it
 * @error: the result of the last step; -EAGAIN: another step has to be taken
 * @address: the address of the listener
 * @len: bytes of @address
 * @name: the last part of the path, for which the watch is
 * @sock: -1: none yet
 * @await: EVERING_AWAIT
 * @full: the listener is there, and its queue is full
 * @denied: the last attempt was not permitted
 * @crowded: how many welcomes had the error that too many descriptors are under way
 * @said: it is connected and has said hello
 * @deaf: the watch is ignored until @again
 * @deadline: INT64_MAX: none
 * @again: when to try to connect again
 * @pause: the time from then until the next attempt
 * @back: how long to wait after the next welcome that asks to connect again
 * @watch: an inotify instance, or -1
 * @loop: the epoll set of evering_connecting_fd(), for what the next step waits for; -1:
 *	not made yet
 * @timer: the timer in @loop
 * @watched: the other descriptor in @loop, besides @timer; or -1
 * @stepping: a step is being taken, which may call callbacks
 * @closed: it was closed during that step
 * @survivor: the endpoint whose peer is to be replaced, or NULL
 * @params: how to make the channels
 */
struct evering_connecting {
	struct lanes lanes;
	bool many;
	uint64_t maker;
	int error;
	struct sockaddr_un address;
	socklen_t len;
	const char *name;
	int sock;
	bool await;
	bool full;
	bool denied;
	unsigned int crowded;
	bool said;
	bool deaf;
	int64_t deadline;
	int64_t again;
	int64_t pause;
	int64_t back;
	int watch;
	int loop;
	int timer;
	int watched;
	bool stepping;
	bool closed;
	struct endpoint *survivor;
	struct evering_params params;
};

/* ------------------------------------------------------------------- the watch */

/* Watches the directory of the path, if possible. */
static void start_watch(struct evering_connecting *c)
{
	char directory[sizeof(c->address.sun_path)];

	if (!c->address.sun_path[0])
		return;
	c->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (c->watch < 0)
		return;
	memcpy(directory, c->address.sun_path, sizeof(directory));
	directory[c->name - c->address.sun_path] = 0;
	if (inotify_add_watch(c->watch, *directory ? directory : ".", WATCHED) <
	    0) {
		close(c->watch);
		c->watch = -1;
	}
}

/*
 * Call this before a close: a child of this process may have a copy of the descriptor,
 * which keeps it in the set.
 */
static void leave_loop(struct evering_connecting *c)
{
	if (c->loop >= 0 && c->watched >= 0)
		epoll_ctl(c->loop, EPOLL_CTL_DEL, c->watched, NULL);
	c->watched = -1;
}

static void stop_watch(struct evering_connecting *c)
{
	if (c->watched == c->watch)
		leave_loop(c);
	close_fds(&c->watch, 1);
	c->watch = -1;
}

/* Whether the watch has reported anything; *@ours: about that name. */
static bool hear_watch(struct evering_connecting *c, bool *ours)
{
	char buf[4096] __attribute__((aligned(8)));
	struct inotify_event event;
	bool heard = false;
	ssize_t n, at;

	/* Events that do not fit into one buffer are read the next time. */
	n = c->watch < 0 ? 0 : read(c->watch, buf, sizeof(buf));
	for (at = 0; at < n; at += (ssize_t)(sizeof(event) + event.len)) {
		memcpy(&event, buf + at, sizeof(event));
		heard = true;
		if (event.len && !strcmp(buf + at + sizeof(event), c->name))
			*ours = true;
	}
	return heard;
}

/* ----------------------------------------------------------------------- steps */

/* One attempt to connect.  Returns 0: connected. */
static int dial(struct evering_connecting *c)
{
	if (c->sock < 0)
		c->sock = socket(AF_UNIX,
				 SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
				 0);
	if (c->sock < 0)
		return -errno;
	if (!connect(c->sock, (struct sockaddr *)&c->address, c->len))
		return 0;
	/* EPROTOTYPE: a stream or datagram socket. */
	return errno == EPROTOTYPE ? -EPROTO : -errno;
}

/*
 * Whether to try again.  Between bind(2) and chmod(2) of a new listener, connect(2) is
 * not permitted.
 */
static bool may_come(const struct evering_connecting *c, int error)
{
	return error == -EAGAIN ||
	       (c->await && (error == -ENOENT || error == -ECONNREFUSED ||
			     error == -EACCES));
}

/* Returns 0: connected; -EAGAIN: not yet, try again at c->again. */
static int reach(struct evering_connecting *c)
{
	bool ours = false, heard;
	int64_t most, pause;
	int ret;

	heard = hear_watch(c, &ours);
	ret = dial(c);
	c->full = ret == -EAGAIN;
	c->denied = ret == -EACCES;
	if (!may_come(c, ret))
		return ret;
	if (!c->pause) {
		c->pause = PAUSE_FIRST;
		/*
		 * The watch does not report what came between the attempt and the
		 * watch.
		 */
		if (!c->full) {
			start_watch(c);
			if (c->watch >= 0)
				return reach(c);
		}
	}
	if (ours)
		c->pause = PAUSE_FIRST;
	c->deaf = heard;
	pause = heard && c->pause > PAUSE_DEAF ? PAUSE_DEAF : c->pause;
	c->again = now_ns() + pause;
	most = c->watch < 0 || c->full ? PAUSE_MOST : PAUSE_WATCHED;
	c->pause = 2 * c->pause < most ? 2 * c->pause : most;
	return -EAGAIN;
}

static int greet_listener(struct evering_connecting *c)
{
	int ret = say_hello(&c->lanes, c->sock);

	c->said = !ret;
	if (c->said)
		stop_watch(c);
	/* Only lack of memory can prevent the first packet of a connection. */
	return ret == -EAGAIN ? -ENOBUFS : ret;
}

/* The successor has gone during the meeting, and may have a successor itself. */
static bool is_lost(const struct evering_connecting *c, int error)
{
	return c->survivor && (error == -ECONNRESET || error == -EPIPE);
}

/*
 * Whether to try again after a welcome with @error.  If the listener serves another
 * client (-ERESTART), or did not wait longer for a late hello (-ETIMEDOUT), another
 * listener at the same socket takes the next attempt, or the same one later.  If other
 * clients have not read their welcomes (-ETOOMANYREFS), that takes them a moment,
 * unless they do it on purpose.
 */
static bool may_come_again(struct evering_connecting *c, int error)
{
	return is_lost(c, error) || error == -ERESTART || error == -ETIMEDOUT ||
	       (error == -ETOOMANYREFS && c->crowded++ < MOST_CROWDED);
}

/* Makes this side's part of @count channels. */
static int make_lanes(struct evering_connecting *c, unsigned int count,
		      int64_t deadline)
{
	int ret = lanes_make(&c->lanes, count, &c->params, deadline);

	if (!ret && c->survivor)
		c->lanes.e[0]->peers = c->survivor->peers + 1;
	return ret;
}

/*
 * Prepares another attempt.  Returns 0, or an errno.  No other process gets what a lost
 * successor was given.
 */
static int start_over(struct evering_connecting *c, bool anew)
{
	leave_loop(c);
	socket_close(c->sock);
	c->sock = -1;
	c->said = c->full = false;
	c->pause = 0;
	c->again = now_ns() + c->back;
	c->back = c->back ? 2 * c->back : PAUSE_FIRST;
	if (c->back > PAUSE_BACK)
		c->back = PAUSE_BACK;
	if (!anew)
		return 0;
	lanes_destroy(&c->lanes);
	return make_lanes(c, 1, c->deadline);
}

/* The connection goes to the new endpoint, which then becomes part of the survivor. */
static int succeed(struct evering_connecting *c)
{
	struct again again;
	int ret;

	c->sock = -1;
	c->said = false;
	ret = survivor_take(c->survivor, c->lanes.e[0], &again);
	if (ret)
		return ret;
	c->lanes.count = 0;
	survivor_start(c->survivor, &again);
	return 0;
}

/*
 * Returns 0: the endpoints are complete; -EAGAIN: not yet; or why the meeting has
 * failed.
 */
static int step(struct evering_connecting *c)
{
	int ret = 0;

	if (!c->said)
		ret = reach(c);
	if (!ret && !c->said)
		ret = greet_listener(c);
	if (!ret)
		ret = take_welcome(&c->lanes, c->sock, true);
	if (!ret && c->survivor)
		return succeed(c);
	if ((c->said || is_lost(c, ret)) && may_come_again(c, ret)) {
		ret = start_over(c, is_lost(c, ret));
		ret = ret ? ret : -EAGAIN;
	}
	if (ret == -EAGAIN && c->deadline != INT64_MAX &&
	    now_ns() >= c->deadline)
		return !c->said && c->denied ? -EACCES :
		       c->crowded	     ? -ETOOMANYREFS :
					       -ETIMEDOUT;
	return ret;
}

static int64_t next_look(const struct evering_connecting *c)
{
	return c->said || c->deadline < c->again ? c->deadline : c->again;
}

/* The descriptor that the next step waits for, besides the time; -1: none. */
static int next_fd(const struct evering_connecting *c)
{
	if (c->said)
		return c->sock;
	return c->deaf ? -1 : c->watch;
}

/* ------------------------------------------------------- from begin to the end */

/*
 * Begins @c and makes this side's part of @count channels; of one, if there is a
 * @survivor, whose peer is gone.
 */
static int begin(const char *path, const struct evering_params *from,
		 struct endpoint *survivor, unsigned int count,
		 int64_t timeout_ns, struct evering_connecting *c)
{
	const char *slash;
	int ret;

	*c = (struct evering_connecting){
		.maker = fork_id(),
		.error = -EAGAIN,
		.sock = -1,
		.deadline = deadline_after(timeout_ns),
		.watch = -1,
		.loop = -1,
		.timer = -1,
		.watched = -1,
		.survivor = survivor,
	};
	if (timeout_ns < EVERING_WAIT_FOREVER || !count)
		return -EINVAL;
	if (count > EVERING_MAX_LANES)
		return -E2BIG;
	ret = params_read(from, false, &c->params);
	if (!ret)
		ret = make_address(path, &c->address, &c->len);
	if (ret)
		return ret;
	c->await = c->params.flags & EVERING_AWAIT;
	slash = strrchr(c->address.sun_path, '/');
	c->name = slash ? slash + 1 : c->address.sun_path;
	/*
	 * Make the channels first: to make large ones takes time, and the listener
	 * waits for a hello from the moment of the connection.
	 */
	return make_lanes(c, count, timeout_ns ? c->deadline : INT64_MAX);
}

/* The same for a successor of the peer of @e. */
static int begin_replacing(struct endpoint *e, const char *path,
			   unsigned int flags, int64_t timeout_ns,
			   struct evering_connecting *c)
{
	struct evering_params params;
	int ret;

	*c = (struct evering_connecting){ .sock = -1 };
	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = make_address(path, &c->address, &c->len);
	if (!ret)
		ret = survivor_check(e, flags);
	if (ret)
		return ret;
	survivor_params(e, &params);
	return begin(path, &params, e, 1, timeout_ns, c);
}

/*
 * Releases everything that does not belong to an endpoint.  In a process made by
 * fork(2) the socket belongs to the parent.
 */
static void end(struct evering_connecting *c)
{
	if (c->sock >= 0 && c->maker != fork_id())
		sockets_leave(&c->sock, 1);
	else
		socket_close(c->sock);
	lanes_destroy(&c->lanes);
	/* First, because in a process made by fork(2) the set belongs to the parent. */
	close_fds(&c->loop, 1);
	close_fds(&c->timer, 1);
	c->sock = c->loop = c->timer = -1;
	stop_watch(c);
}

/* Hands out the endpoints; the socket belongs to the first.  Returns how many. */
static int take_endpoints(struct evering_connecting *c, struct evering **ev)
{
	unsigned int count = c->lanes.count, i;

	if (c->survivor) {
		*ev = &c->survivor->ev;
		return 1;
	}
	for (i = 0; i < count; i++)
		ev[i] = &c->lanes.e[i]->ev;
	c->lanes.count = 0;
	c->sock = -1;
	return (int)count;
}

/* -------------------------------------------------------------- in event loops */

/*
 * Begins a meeting with the successor of @survivor's peer, if that is not NULL; else
 * for @count new channels.
 */
static int new_connecting(struct endpoint *survivor, unsigned int flags,
			  const char *path, const struct evering_params *params,
			  unsigned int count, int64_t timeout_ns,
			  struct evering_connecting **ret)
{
	struct evering_connecting *c;
	int error;

	/* -EAGAIN would mean both "not yet" and this error. */
	if (timeout_ns == EVERING_NOWAIT)
		return -EINVAL;
	c = malloc(sizeof(*c));
	if (!c)
		return -ENOMEM;
	if (survivor)
		error = begin_replacing(survivor, path, flags, timeout_ns, c);
	else
		error = begin(path, params, NULL, count, timeout_ns, c);
	if (error)
		free(c);
	else
		*ret = c;
	return error;
}

int evering_replace_begin(struct evering *ev, const char *path,
			  unsigned int flags, int64_t timeout_ns,
			  struct evering_connecting **ret)
{
	return new_connecting(to_endpoint(ev), flags, path, NULL, 1, timeout_ns,
			      ret);
}

int evering_connect_begin(const char *path, const struct evering_params *params,
			  int64_t timeout_ns, struct evering_connecting **ret)
{
	return new_connecting(NULL, 0, path, params, 1, timeout_ns, ret);
}

int evering_connect_begin_many(const char *path,
			       const struct evering_params *params,
			       unsigned int count, int64_t timeout_ns,
			       struct evering_connecting **ret)
{
	int error =
		new_connecting(NULL, 0, path, params, count, timeout_ns, ret);

	if (!error)
		(*ret)->many = true;
	return error;
}

static int set_timer(const struct evering_connecting *c)
{
	struct itimerspec when = { 0 };
	int64_t at = next_look(c);

	if (at != INT64_MAX) {
		when.it_value.tv_sec = at / 1000000000;
		/* All zero would mean never, not at once. */
		when.it_value.tv_nsec = at ? at % 1000000000 : 1;
	}
	return timerfd_settime(c->timer, TFD_TIMER_ABSTIME, &when, NULL) ?
		       -errno :
		       0;
}

/* Makes the loop's descriptor ready for what the next step waits for. */
static int tell_loop(struct evering_connecting *c)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = next_fd(c);

	if (c->loop < 0)
		return 0;
	if (fd != c->watched) {
		leave_loop(c);
		if (fd >= 0 && epoll_ctl(c->loop, EPOLL_CTL_ADD, fd, &event))
			return -errno;
		c->watched = fd;
	}
	return set_timer(c);
}

int evering_connecting_fd(struct evering_connecting *c)
{
	struct epoll_event event = { .events = EPOLLIN };
	int ret = 0;

	if (c->maker != fork_id())
		return -EINVAL;
	if (c->loop >= 0)
		return c->loop;
	c->loop = epoll_create1(EPOLL_CLOEXEC);
	if (c->loop >= 0)
		c->timer = timerfd_create(CLOCK_MONOTONIC,
					  TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer < 0 || epoll_ctl(c->loop, EPOLL_CTL_ADD, c->timer, &event))
		ret = -errno;
	if (!ret)
		ret = tell_loop(c);
	if (!ret)
		return c->loop;
	close_fds(&c->loop, 1);
	close_fds(&c->timer, 1);
	c->loop = c->timer = c->watched = -1;
	return ret;
}

static int take_step(struct evering_connecting *c, bool many,
		     struct evering **ev)
{
	int ret;

	if (c->maker != fork_id() || c->error != -EAGAIN || c->many != many ||
	    c->stepping)
		return -EINVAL;
	c->stepping = true;
	ret = step(c);
	if (ret == -EAGAIN) {
		ret = tell_loop(c);
		ret = ret ? ret : -EAGAIN;
	}
	c->stepping = false;
	c->error = ret;
	if (!ret)
		ret = take_endpoints(c, ev);
	if (c->closed)
		evering_connecting_close(c);
	return ret;
}

int evering_connecting_step(struct evering_connecting *c, struct evering **ev)
{
	int ret = take_step(c, false, ev);

	return ret < 0 ? ret : 0;
}

int evering_connecting_step_many(struct evering_connecting *c,
				 struct evering **ev)
{
	return take_step(c, true, ev);
}

void evering_connecting_close(struct evering_connecting *c)
{
	if (!c)
		return;
	c->closed = true;
	if (c->stepping)
		return;
	end(c);
	free(c);
}

/* --------------------------------------------------------------------- waiting */

/*
 * The queue of the listener is full until it accepts, and only connect(2) can wait for
 * that.  Returns 0: connected.
 */
static int dial_waiting(struct evering_connecting *c)
{
	struct timeval timeout = { 0 };
	int64_t left;
	int ret;

	close_fds(&c->sock, 1);
	c->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (c->sock < 0)
		return -errno;
	if (c->deadline != INT64_MAX) {
		left = c->deadline - now_ns();
		if (left < 1000)
			left = 1000;
		timeout.tv_sec = left / 1000000000;
		timeout.tv_usec = left % 1000000000 / 1000;
		setsockopt(c->sock, SOL_SOCKET, SO_SNDTIMEO, &timeout,
			   sizeof(timeout));
	}
	if (!connect(c->sock, (struct sockaddr *)&c->address, c->len))
		return greet_listener(c);
	ret = -errno;
	/* Another attempt must not wait, or not as long. */
	close_fds(&c->sock, 1);
	c->sock = -1;
	if (ret == -EAGAIN)
		return -ETIMEDOUT;
	/* The listener may have gone meanwhile, and another may come. */
	return may_come(c, ret) ? 0 : ret;
}

static int wait_for_step(struct evering_connecting *c)
{
	struct pollfd fd = { .fd = next_fd(c), .events = POLLIN };
	struct timespec left;

	if (!c->said && c->full)
		return dial_waiting(c);
	return ppoll(&fd, 1, time_left(next_look(c), &left), NULL) < 0 ?
		       -errno :
		       0;
}

/*
 * Continues a meeting with a successor until @until, for a table that waits.  Begins
 * *@meeting if there is none.  After -ETIMEDOUT or -EINTR the next call continues it.
 * Returns 0; or as evering_replace().
 */
int survivor_follow(struct endpoint *e, const char *path,
		    struct evering_connecting **meeting, int64_t until)
{
	struct evering_connecting *c;
	struct timespec left;
	struct evering *ev;
	struct pollfd fd = { .events = POLLIN };
	int64_t look;
	int ret = 0;

	if (!*meeting)
		ret = evering_replace_begin(&e->ev, path, 0,
					    EVERING_WAIT_FOREVER, meeting);
	if (ret)
		return ret;
	c = *meeting;
	while ((ret = evering_connecting_step(c, &ev)) == -EAGAIN) {
		if (wait_woken(e))
			return -EINTR;
		look = now_ns();
		if (look >= until)
			return -ETIMEDOUT;
		/*
		 * evering_wake() rings a doorbell of the channel that has ended, so
		 * look from time to time.
		 */
		look += PAUSE_WATCHED;
		look = next_look(c) < look ? next_look(c) : look;
		fd.fd = next_fd(c);
		if (ppoll(&fd, 1, time_left(look < until ? look : until, &left),
			  NULL) < 0)
			return -errno;
	}
	/* Unless a callback has ended it, or the table did so with its new channel. */
	if (*meeting == c) {
		*meeting = NULL;
		evering_connecting_close(c);
	}
	return ret;
}

/*
 * Takes all steps of @c and closes it.  Returns how many endpoints there are, or why
 * there are none.
 */
static int go_on(struct evering_connecting *c, int64_t timeout_ns,
		 struct evering **ev)
{
	int ret;

	for (;;) {
		ret = step(c);
		if (ret != -EAGAIN)
			break;
		ret = wait_for_step(c);
		if (ret)
			break;
	}
	if (!ret)
		ret = take_endpoints(c, ev);
	end(c);
	/* A caller that does not wait gets -EAGAIN instead of -ETIMEDOUT. */
	return ret == -ETIMEDOUT && !timeout_ns ? -EAGAIN : ret;
}

int evering_connect_many(const char *path, const struct evering_params *params,
			 unsigned int count, int64_t timeout_ns,
			 struct evering **ev)
{
	struct evering_connecting c;
	int ret;

	ret = begin(path, params, NULL, count, timeout_ns, &c);
	return ret ? ret : go_on(&c, timeout_ns, ev);
}

int evering_replace(struct evering *ev, const char *path, unsigned int flags,
		    int64_t timeout_ns)
{
	struct evering_connecting c;
	int ret;

	ret = begin_replacing(to_endpoint(ev), path, flags, timeout_ns, &c);
	if (!ret)
		ret = go_on(&c, timeout_ns, &ev);
	return ret < 0 ? ret : 0;
}

int evering_connect(const char *path, const struct evering_params *params,
		    int64_t timeout_ns, struct evering **ev)
{
	int ret = evering_connect_many(path, params, 1, timeout_ns, ev);

	return ret < 0 ? ret : 0;
}
