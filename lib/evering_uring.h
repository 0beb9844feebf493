/* SPDX-License-Identifier: MIT */
/*
 * evering_uring.h: channels in a loop of liburing.  C11 or C++, liburing 2.3, which
 * wants _GNU_SOURCE defined.
 *
 * The library itself does not know io_uring; this header is all there is, and
 * includes <evering.h> and <liburing.h>.  It has three parts:
 *
 * - a watch: one multishot poll of a channel, which stays in the kernel from its
 *   first to its last event, so that to be woken costs no submission; or of a group of
 *   channels, and then a poll for each sleep, which is submitted with it;
 * - ringing many channels in one system call;
 * - arenas as fixed buffers: what is read from a file or a socket into a buffer of
 *   the arena, and given to the peer, is copied nowhere.
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
 * A multishot poll completes once for each wake-up, as an edge-triggered epoll set
 * tells: whoever is told and does not arm again is not told again.  That is what
 * evering_arm() asks for anyway.
 *
 * Who ends
 *
 * While a watch is in the kernel the ring holds the descriptor, and the completion
 * that is to come holds @user_data.  So a channel ends in this order:
 *
 *	evering_uring_stop(); while it returns 1: a completion, evering_uring_event(),
 *	and evering_uring_stop() again; then evering_close(), and then the memory.
 *
 * A read into the arena that is under way is likewise waited for before
 * evering_close().
 *
 * Threads: those of <evering.h> for the channel, and liburing's rule for the ring,
 * which is one thread at a time.
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
 * struct evering_uring - a channel, or a group of them, that a ring watches
 * @ev, @group: endpoint or group; the other one is NULL
 * @user_data: of its completions
 * @events: what the poll is for
 * @watched: the poll is in the kernel, or about to be: a completion will come
 * @removing: so is its removal
 * @stopped: there is to be no other poll
 *
 * The caller's memory; the members are private.
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
 * evering_uring_init - a watch that is not in the ring yet
 * @watch: out
 * @ev: endpoint
 * @what: all that is ever to be armed: EVERING_RX, EVERING_TX or both; both for a
 *	table of operations.  On the device both cost one completion more, when
 *	the watch begins.
 * @user_data: of its completions
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
 * evering_uring_init_group - a watch of a group that is not in the ring yet
 * @watch: out
 * @group: group, or evering_server_group() of a server
 * @user_data: of its completions
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
 * A submission, making room by submitting what is there; NULL: the kernel takes none,
 * *@error says why.
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
 * evering_uring_watch - see that the poll is in the ring
 * @ring: ring
 * @watch: watch
 *
 * For what has been armed already, by evering_arm() or evering_ops_arm(), or when
 * evering_group_poll(), evering_group_arm() or evering_server_poll() has returned 0.
 * Submitted with the rest, by evering_uring_wait() for instance.
 *
 * Return: 0; -ESHUTDOWN: it was stopped; -EBUSY, -EAGAIN, …: the kernel takes no
 * submissions now, see io_uring_submit(3); -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: of
 * evering_fd() or evering_group_fd().
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
	 * A group stays ready as long as nobody deals with what is there.  No wake-up tells
	 * of that, but a poll that begins does.
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
 * evering_uring_arm - before a sleep in the ring
 * @ring: ring
 * @watch: watch
 * @what: what to be woken for, of the watch's
 *
 * Return: as evering_arm(), or as evering_uring_watch(), and then nothing is armed.
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
 * evering_uring_event - a completion with the watch's @user_data has come
 * @watch: watch
 * @cqe: the completion
 *
 * The kernel may end a multishot poll at any time, when completions overflow for
 * instance; the next evering_uring_arm() begins another.
 *
 * Return: 1: there may be something to do, look and then arm again, or if it was
 * stopped call evering_uring_stop() again; 0: it was stopped, and nothing refers to it
 * any more; negative errno: the kernel does not poll, -EINVAL before Linux 5.13.
 */
static inline int evering_uring_event(struct evering_uring *watch,
				      const struct io_uring_cqe *cqe)
{
	/* A poll that ends says neither. */
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
 * evering_uring_stop - take the poll out of the ring
 * @ring: ring
 * @watch: watch
 *
 * The kernel does not remove a poll while it is about to tell of an event, so this
 * may take more than one call.
 *
 * Return: 0: nothing refers to the watch any more; 1: a completion will come, for
 * evering_uring_event(): if that returns 1, call this again; -EBUSY, -EAGAIN, …: as
 * evering_uring_watch(), call this again.
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
 * evering_uring_wait - submit what there is, and wait for a completion
 * @ring: ring
 * @timeout_ns: how long
 * @cqe: out: the first completion, for io_uring_cqe_seen(); there may be more
 *
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: none in time; -EINTR: a signal;
 * -EINVAL: @timeout_ns; or as io_uring_submit(3).
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
		/* Also lets the kernel bring what it has put off. */
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
	/* It said how many were submitted, and not how the wait ended. */
	if (ret == -EAGAIN)
		ret = timeout_ns < 0 || evering_uring__now() - begin <
						timeout_ns ?
			      -EINTR :
			      -ETIMEDOUT;
	return ret;
}

/*
 * Rings at once what could not be put into the ring.  It cannot fail but where the
 * peer is gone.
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
 * @ring: ring; without IORING_SETUP_IOPOLL
 * @evs: endpoints
 * @count: how many
 * @user_data: of the completions, which mean nothing.  There are none, but on the device
 *	with Linux 6.1 and on memfd before 5.17 one for each peer that was woken.
 *
 * evering_flush() for each, but that of those who sleep and were not rung yet all are
 * rung by one io_uring_enter(2): on the device by its io_uring command, on memfd by a
 * write.  What else is in the submission queue is submitted with them.  Who sleeps
 * has been woken when this returns, unless the ring has IORING_SETUP_SQPOLL: then it
 * soon is.  A table of operations flushes by itself: evering_ops_flush().
 *
 * Return: how many were rung; -EBUSY, -EAGAIN, …: as io_uring_submit(3), and they will
 * be rung with the next submission.  Sending thread of each.
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

#define EVERING_URING_MAX_BUFFER (UINT64_C(1) << 30) /* the kernel's */

/**
 * evering_uring_register_arena - the own arena as a fixed buffer
 * @ring: ring, in which io_uring_register_buffers_sparse() has made places
 * @index: which place, for io_uring_prep_read_fixed() and its like with any part of
 *	the arena
 * @ev: endpoint
 *
 * The pages are pinned, and counted against RLIMIT_MEMLOCK, until
 * evering_uring_unregister_arena().  The peer's arena cannot be registered unless
 * the channel has EVERING_SHARED_ARENA: the kernel pins only what may be written.
 *
 * Return: 0; -E2BIG: more than 1 GiB; -ENODATA: there is no arena; -ENOMEM: over
 * RLIMIT_MEMLOCK, or no memory; -EINVAL: no such place; -ENXIO: no places; otherwise as
 * io_uring_register(2).  What cannot be registered can still be read into, by
 * io_uring_prep_read(), which costs the kernel a look at each page.
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
 * @ring: ring
 * @index: which
 *
 * The pages are unpinned when what is under way with them has ended.
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
