/* SPDX-License-Identifier: MIT */
/*
 * evering_uring.h: channels in an event loop of liburing.  It needs C11 or C++,
 * liburing 2.3, and _GNU_SOURCE for that.
 *
 * The library itself does not use io_uring: everything is in this header, which
 * includes <evering.h> and <liburing.h>. It has three parts:
 *
 * - a watch of a channel: one multishot poll, which stays in the kernel from the first
 *   to the last event, so that a wake-up costs no submission; or a watch of a group of
 *   channels: one poll for each sleep, submitted with it;
 * - the doorbells of many channels, rung in one system call;
 * - arenas as fixed buffers: data that is read from a file or a socket into a buffer of
 *   the arena, and given to the peer, is never copied.
 *
 *	evering_uring_init(&watch, ev, EVERING_RX, user_data);
 *	for (;;) {
 *		while (evering_recv(ev, &entry, sizeof(entry), EVERING_NOWAIT) == 0)
 *			handle(&entry);
 *		ret = evering_uring_arm(&ring, &watch, EVERING_RX);
 *		if (ret < 0)
 *			break;
 *		if (ret == 0) {
 *			ret = evering_uring_wait(&ring, EVERING_WAIT_FOREVER, &cqe);
 *			...
 *			evering_uring_event(&watch, cqe);
 *			io_uring_cqe_seen(&ring, cqe);
 *		}
 *	}
 *
 * A multishot poll completes once for each wake-up, like an edge-triggered epoll set:
 * it does not complete again before the caller arms again.  evering_arm() is called
 * before each sleep anyway.
 *
 * How to end
 *
 * While a watch is in the kernel, the io_uring holds the descriptor, and a completion
 * with @user_data will come.  So a channel ends in this order:
 *
 *	evering_uring_stop(); while it returns 1: a completion, evering_uring_event(),
 *	and evering_uring_stop() again; then evering_close(), and then the memory.
 *
 * Wait also for a read into the arena that is under way, before evering_close().
 *
 * Threads: the rules of <evering.h> hold for the channel.  One thread at a time uses
 * the io_uring, as liburing demands.  "@ring" is an io_uring in this file, not a ring
 * of the channel.
 */
#ifndef EVERING_URING_H
#define EVERING_URING_H

#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>
#include <liburing.h>

#ifdef __cplusplus
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"
extern "C" {
#endif

/**
 * struct evering_uring - a channel, or a group of channels, that an io_uring watches
 * @ev: the endpoint; NULL: a group is watched
 * @group: the group; NULL: an endpoint is watched
 * @user_data: the user_data of its completions
 * @events: the events of the poll
 * @watched: the poll is in the kernel, or about to be: a completion will come
 * @removing: the removal of the poll is in the kernel, or about to be
 * @stopped: evering_uring_stop() was called, so no other poll begins
 *
 * The memory belongs to the caller; the members are private.
 */
struct evering_uring {
	struct evering *ev;
	struct evering_group *group;
	uint64_t user_data;
	unsigned int events;
	bool watched;
	bool removing;
	bool stopped;
};

/**
 * evering_uring_init - initialize the watch of a channel
 * @watch: out
 * @ev: endpoint
 * @what: everything that will ever be armed: EVERING_RX, EVERING_TX or both; both for a
 *	table of operations.  On the device both cost one completion more, when the
 *	watch begins
 * @user_data: the user_data of its completions
 */
static inline void evering_uring_init(struct evering_uring *watch,
				      struct evering *ev, unsigned int what,
				      uint64_t user_data)
{
	watch->ev = ev;
	watch->group = NULL;
	watch->user_data = user_data;
	watch->events = (unsigned int)evering_events(ev, what);
	watch->watched = false;
	watch->removing = false;
	watch->stopped = false;
}

/**
 * evering_uring_init_group - initialize the watch of a group
 * @watch: out
 * @group: group, or evering_server_group() of a server
 * @user_data: the user_data of its completions
 *
 *	evering_uring_init_group(&watch, group, user_data);
 *	for (;;) {
 *		while ((n = evering_group_poll(group, &events)) > 0)
 *			handle(events, n);
 *		evering_uring_watch(&ring, &watch);
 *		ret = evering_uring_wait(&ring, evering_group_timeout(group), &cqe);
 *		...
 *		evering_uring_event(&watch, cqe);
 *		io_uring_cqe_seen(&ring, cqe);
 *	}
 *
 * A server's loop calls evering_server_poll() and evering_server_timeout() instead.
 */
static inline void evering_uring_init_group(struct evering_uring *watch,
					    struct evering_group *group,
					    uint64_t user_data)
{
	watch->ev = NULL;
	watch->group = group;
	watch->user_data = user_data;
	watch->events = POLLIN;
	watch->watched = false;
	watch->removing = false;
	watch->stopped = false;
}

/*
 * Returns an entry of the submission queue, and submits the queue if it is full.
 * Returns NULL if the kernel takes no submission; *@error is the reason.
 */
static inline struct io_uring_sqe *evering_uring__sqe(struct io_uring *ring,
						      int *error)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int ret = 0;

	if (!sqe) {
		ret = io_uring_submit(ring);
		sqe = io_uring_get_sqe(ring);
	}
	*error = ret < 0 ? ret : -EBUSY;
	return sqe;
}

/**
 * evering_uring_watch - put the poll into the io_uring, if it is not there
 * @ring: an io_uring
 * @watch: watch
 *
 * Call this when the channel is armed, by evering_arm() or evering_ops_arm(), or when
 * evering_group_poll(), evering_group_arm() or evering_server_poll() has returned 0.
 * The poll is submitted with the next submission, by evering_uring_wait() for instance.
 *
 * Return: 0; -ESHUTDOWN: evering_uring_stop() was called; -EBUSY, -EAGAIN, …: the
 * kernel takes no submissions now, see io_uring_submit(3); -EMFILE, -ENFILE, -ENOMEM,
 * -ENOSPC: from evering_fd() or evering_group_fd().
 */
static inline int evering_uring_watch(struct io_uring *ring,
				      struct evering_uring *watch)
{
	struct io_uring_sqe *sqe;
	int fd, error;

	if (watch->stopped)
		return -ESHUTDOWN;
	if (EVERING_LIKELY(watch->watched))
		return 0;
	fd = watch->group ? evering_group_fd(watch->group) :
			    evering_fd(watch->ev);
	if (fd < 0)
		return fd;
	sqe = evering_uring__sqe(ring, &error);
	if (!sqe)
		return error;
	/*
	 * A group stays ready as long as its events are not dealt with.  There is no
	 * wake-up for that, but a poll that begins completes at once.
	 */
	if (watch->group)
		io_uring_prep_poll_add(sqe, fd, watch->events);
	else
		io_uring_prep_poll_multishot(sqe, fd, watch->events);
	io_uring_sqe_set_data64(sqe, watch->user_data);
	watch->watched = true;
	return 0;
}

/**
 * evering_uring_arm - prepare for a sleep in the io_uring
 * @ring: an io_uring
 * @watch: watch
 * @what: what to be woken for, among what the watch was initialized with
 *
 * Return: as evering_arm(); or an error of evering_uring_watch(), and then nothing is
 * armed.
 */
static inline int evering_uring_arm(struct io_uring *ring,
				    struct evering_uring *watch,
				    unsigned int what)
{
	int ret = evering_arm(watch->ev, what);

	if (ret == 0) {
		ret = evering_uring_watch(ring, watch);
		if (ret < 0)
			evering_disarm(watch->ev, what);
	}
	return ret;
}

/**
 * evering_uring_event - handle a completion of the watch
 * @watch: watch
 * @cqe: a completion with the watch's user_data
 *
 * The kernel may end a multishot poll at any time, when completions overflow for
 * instance; the next evering_uring_arm() begins another.
 *
 * Return: 1: there may be something to do: look and then arm again, or after
 * evering_uring_stop() call that again; 0: the watch was stopped, and nothing refers to
 * it any more; a negative errno: the kernel does not poll (-EINVAL before Linux 5.13).
 */
static inline int evering_uring_event(struct evering_uring *watch,
				      const struct io_uring_cqe *cqe)
{
	/* A poll that ends has none of these results. */
	bool removal =
		watch->removing &&
		(cqe->res == 0 || cqe->res == -ENOENT || cqe->res == -EALREADY);

	if (removal)
		watch->removing = false;
	else if (!(cqe->flags & IORING_CQE_F_MORE))
		watch->watched = false;
	if (watch->stopped)
		return watch->watched || watch->removing;
	return cqe->res < 0 && cqe->res != -ECANCELED ? cqe->res : 1;
}

/**
 * evering_uring_stop - take the poll out of the io_uring
 * @ring: an io_uring
 * @watch: watch
 *
 * The kernel does not remove a poll while it is about to report an event, so this may
 * take more than one call.
 *
 * Return: 0: nothing refers to the watch any more; 1: a completion will come for
 * evering_uring_event(), and if that returns 1, call this again; -EBUSY, -EAGAIN, …: as
 * evering_uring_watch(): call this again.
 */
static inline int evering_uring_stop(struct io_uring *ring,
				     struct evering_uring *watch)
{
	struct io_uring_sqe *sqe;
	int error;

	watch->stopped = true;
	if (watch->watched && !watch->removing) {
		sqe = evering_uring__sqe(ring, &error);
		if (!sqe)
			return error;
		io_uring_prep_poll_remove(sqe, watch->user_data);
		io_uring_sqe_set_data64(sqe, watch->user_data);
		watch->removing = true;
	}
	return watch->watched || watch->removing;
}

static inline int64_t evering_uring__now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

/**
 * evering_uring_wait - submit the queue and wait for a completion
 * @ring: an io_uring
 * @timeout_ns: how long to wait, in nanoseconds, EVERING_NOWAIT or EVERING_WAIT_FOREVER
 * @cqe: out: the first completion, for io_uring_cqe_seen(); there may be more
 *
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: none in time; -EINTR: a signal;
 * -EINVAL: @timeout_ns is invalid; or as io_uring_submit(3).
 */
static inline int evering_uring_wait(struct io_uring *ring, int64_t timeout_ns,
				     struct io_uring_cqe **cqe)
{
	struct __kernel_timespec timeout;
	int64_t begin;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	if (timeout_ns == EVERING_NOWAIT) {
		/* Also lets the kernel run its deferred work. */
		ret = io_uring_submit_and_get_events(ring);
		if (ret < 0)
			return ret;
		return io_uring_peek_cqe(ring, cqe);
	}
	timeout.tv_sec = timeout_ns / 1000000000;
	timeout.tv_nsec = timeout_ns % 1000000000;
	begin = timeout_ns < 0 ? 0 : evering_uring__now();
	ret = io_uring_submit_and_wait_timeout(
		ring, cqe, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
	if (ret == -ETIME)
		return -ETIMEDOUT;
	if (ret >= 0)
		ret = io_uring_peek_cqe(ring, cqe);
	/* liburing returned how many were submitted, not how the wait ended. */
	if (ret == -EAGAIN)
		ret = timeout_ns < 0 || evering_uring__now() - begin <
						timeout_ns ?
			      -EINTR :
			      -ETIMEDOUT;
	return ret;
}

/*
 * Rings a doorbell at once that could not be put into the io_uring.  It fails only if
 * the peer is gone.
 */
static inline void evering_uring__bell(const struct evering_bell *bell)
{
	const uint64_t one = 1;

	if (bell->command)
		(void)ioctl(bell->fd, bell->command, (unsigned long)EVERING_RX);
	else
		(void)!write(bell->fd, &one, sizeof(one));
}

/**
 * evering_uring_flush_many - wake the peers of many channels in one system call
 * @ring: an io_uring without IORING_SETUP_IOPOLL
 * @evs: endpoints
 * @count: how many
 * @user_data: the user_data of completions to ignore.  There is one for each peer that
 *	was woken, on the device with Linux 6.1 and on memfd before Linux 5.17; else
 *	none
 *
 * As evering_flush() for each endpoint, except that all peers that sleep are woken by
 * one io_uring_enter(2): on the device by its io_uring command, on memfd by a write.
 * Whatever else is in the submission queue is submitted too.  The peers are awake when
 * this returns, or soon after with IORING_SETUP_SQPOLL.  For a table of operations use
 * evering_ops_flush() instead.
 *
 * Context: The sending thread of each endpoint.
 * Return: how many doorbells were rung; -EBUSY, -EAGAIN, …: as io_uring_submit(3), and
 * the next submission rings them.
 */
static inline int evering_uring_flush_many(struct io_uring *ring,
					   struct evering *const *evs,
					   size_t count, uint64_t user_data)
{
	static const uint64_t one = 1;
	struct evering_uring_ring rx;
	struct evering_bell bell;
	struct io_uring_sqe *sqe;
	int error = 0, queued = 0, rung = 0;
	size_t i;

	memset(&rx, 0, sizeof(rx));
	rx.bells = EVERING_RX;
	for (i = 0; i < count; i++) {
		if (!evering_flush_begin(evs[i], &bell))
			continue;
		rung++;
		sqe = evering_uring__sqe(ring, &error);
		if (!sqe) {
			evering_uring__bell(&bell);
			continue;
		}
		if (bell.command) {
			io_uring_prep_rw(IORING_OP_URING_CMD, sqe, bell.fd,
					 NULL, 0, 0);
			sqe->cmd_op = bell.command;
			memcpy(sqe->cmd, &rx, sizeof(rx));
		} else {
			io_uring_prep_write(sqe, bell.fd, &one, sizeof(one), 0);
		}
		io_uring_sqe_set_data64(sqe, user_data);
		if (ring->features & IORING_FEAT_CQE_SKIP)
			io_uring_sqe_set_flags(sqe, IOSQE_CQE_SKIP_SUCCESS);
		queued++;
	}
	if (queued) {
		error = io_uring_submit(ring);
		if (error < 0)
			return error;
	}
	return rung;
}

/* ------------------------------------------------------------------- arenas */

#define EVERING_URING_MAX_BUFFER (UINT64_C(1) << 30) /* the kernel's limit */

/**
 * evering_uring_register_arena - register this side's arena as a fixed buffer
 * @ring: an io_uring in which io_uring_register_buffers_sparse() has made places
 * @index: the place, for io_uring_prep_read_fixed() and the like with any part of the
 *	arena
 * @ev: endpoint
 *
 * The pages are pinned, and counted against RLIMIT_MEMLOCK, until
 * evering_uring_unregister_arena().  The peer's arena can be registered only if the
 * channel has EVERING_SHARED_ARENA, because the kernel pins only memory that this
 * process may write.
 *
 * Return: 0; -E2BIG: the arena has more than 1 GiB; -ENODATA: there is no arena;
 * -ENOMEM: over RLIMIT_MEMLOCK, or no memory; -EINVAL: no such place; -ENXIO: there are
 * no places; or as io_uring_register(2).  An arena that is not registered can still be
 * read into, with io_uring_prep_read(), for which the kernel looks up each page.
 */
static inline int evering_uring_register_arena(struct io_uring *ring,
					       unsigned int index,
					       const struct evering *ev)
{
	struct iovec iov;
	uint64_t size;
	__u64 tag = 0;
	int ret;

	iov.iov_base = evering_arena(ev, &size);
	if (!iov.iov_base)
		return -ENODATA;
	if (size > EVERING_URING_MAX_BUFFER)
		return -E2BIG;
	iov.iov_len = (size_t)size;
	ret = io_uring_register_buffers_update_tag(ring, index, &iov, &tag, 1);
	return ret < 0 ? ret : 0;
}

/**
 * evering_uring_unregister_arena - empty a place again
 * @ring: an io_uring
 * @index: the place
 *
 * The pages are unpinned when the operations that use them have ended.
 *
 * Return: 0; -EINVAL, -ENXIO: no such place.
 */
static inline int evering_uring_unregister_arena(struct io_uring *ring,
						 unsigned int index)
{
	struct iovec none;
	__u64 tag = 0;
	int ret;

	none.iov_base = NULL;
	none.iov_len = 0;
	ret = io_uring_register_buffers_update_tag(ring, index, &none, &tag, 1);
	return ret < 0 ? ret : 0;
}

#ifdef __cplusplus
}
#pragma GCC diagnostic pop
#endif

#endif /* EVERING_URING_H */
