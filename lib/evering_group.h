/* SPDX-License-Identifier: MIT */
/*
 * evering_group.h: one thread waits for many channels.
 *
 * A group has members: endpoints, with a table of operations or without, listeners, and
 * plain descriptors.  evering_group_wait() returns the members that have something to
 * do.  Include <evering.h>, not this file.
 *
 *	evering_group_open(NULL, &group);
 *	evering_group_add(group, ev, EVERING_RX, context);
 *	for (;;) {
 *		n = evering_group_wait(group, &events, EVERING_WAIT_FOREVER);
 *		for (i = 0; i < n; i++)
 *			handle(&events[i]);
 *	}
 *
 * Ready is a state, not an event: the next call returns again a member that was not
 * dealt with.  Members take turns: each round returns each ready member once, however
 * much others send.
 *
 * A quiet member waits at most for one turn of each of the others.  A turn is what the
 * caller takes from a member before it calls evering_group_wait() again, so the caller
 * should take a fixed number of entries, not all that come.  If there are few other
 * members with short turns, a cold member may wait for more turns: until the caller has
 * taken 64 entries, or made one more call.
 *
 * A member is hot or cold.  The group looks at a hot member, which costs a cache line
 * or two, and its peer rings no doorbell.  A cold member is armed: the group does not
 * look at it, and it costs nothing until its peer rings the doorbell.  A member becomes
 * cold when the group has found nothing in it for a while, and hot when its doorbell is
 * rung.
 *
 * The doorbells that EVERING_LAZY_RING leaves owed are rung when the group next waits.
 * So are those of tables of operations that the group has returned; for other tables
 * call evering_ops_flush().
 *
 * Rules for members
 *
 * - An endpoint is a member of at most one group.  Both its roles belong to the thread
 *   that uses the group.
 * - evering_fd(), evering_arm() and evering_ops_arm() of a member return -EBUSY, and
 *   evering_disarm() does nothing: the group arms its members.
 * - Calls that wait are allowed: to send, to receive, evering_wait() and the waits of
 *   operations.
 * - A member may be removed or closed at any time, even if the last call has returned
 *   it and it was not dealt with: the what of its event is 0 from then on.
 *   evering_close() and evering_listener_close() remove the member.
 *
 * Threads: one thread at a time uses a group, "the thread of the group" below.  Any
 * thread and any signal handler may call evering_group_wake().  Two threads use two
 * groups; a member moves between them by evering_group_remove() and
 * evering_group_add().  A process made by fork() has none of the groups of its parent:
 * it may only close them.
 */
#ifndef EVERING_GROUP_H
#define EVERING_GROUP_H

#ifndef EVERING_H
#error "include <evering.h>"
#endif

struct evering_group;

/* evering_group_event.what, with EVERING_RX and EVERING_TX */
#define EVERING_GROUP_GONE (1u << 2) /* the channel has ended */
#define EVERING_GROUP_ACCEPT \
	(1u << 3) /* evering_accept() has something to do */
#define EVERING_GROUP_FD (1u << 4) /* a plain descriptor is ready */

/* The most events that one call returns. */
#define EVERING_GROUP_BATCH 64

/**
 * struct evering_group_params - how a group waits
 * @size: sizeof(struct evering_group_params)
 * @flags: 0
 * @policy: enum evering_policy of the group; the policies of its members are not used.
 *	EVERING_BLOCK: sleeps when nothing is ready; EVERING_ADAPTIVE: looks at the busy
 *	members for a bounded time that adjusts itself, then sleeps; EVERING_BUSY: never
 *	sleeps
 * @spin_ns: the longest time that EVERING_ADAPTIVE spins, in nanoseconds, 0..1,000,000
 *
 * Start from EVERING_GROUP_PARAMS_INIT.
 */
struct evering_group_params {
	uint32_t size;
	uint32_t flags;
	uint32_t policy;
	uint32_t spin_ns;
};

#define EVERING_GROUP_PARAMS_INIT                                         \
	{                                                                 \
		sizeof(struct evering_group_params), 0, EVERING_ADAPTIVE, \
			EVERING_SPIN_NS                                   \
	}

/**
 * struct evering_group_event - a member that has something to do
 * @ev: the endpoint; NULL: the member is a listener or a descriptor
 * @context: the pointer that the member was added with
 * @what: EVERING_RX: there is an entry, evering_ops_poll() has something to do, or
 *	requests or messages wait.  EVERING_TX: there is room.  EVERING_GROUP_GONE: the
 *	peer broke the rules, or is gone and all that it had sent was received (if
 *	EVERING_RX is wanted); this is returned once, as the last event of the member,
 *	and evering_ops_poll() then ends the operations of a table.
 *	EVERING_GROUP_ACCEPT: evering_accept() has something to do.  EVERING_GROUP_FD:
 *	the descriptor is ready. 0: the member was removed since, or nothing of it is
 *	wanted any more
 * @result: with EVERING_GROUP_GONE -EPIPE or -EPROTO; with EVERING_GROUP_FD the events
 *	of poll(2); else 0
 */
struct evering_group_event {
	struct evering *ev;
	void *context;
	uint32_t what;
	int32_t result;
};

/**
 * evering_group_open - make a group without members
 * @params: how the group waits; NULL: EVERING_GROUP_PARAMS_INIT
 * @group: out: the group, for evering_group_close()
 *
 * A group takes two descriptors, and a third when its first endpoint of the device is
 * added, if the module has group files.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL, -E2BIG: @params is invalid; -EMFILE, -ENFILE: no descriptors;
 * -ENOMEM: no memory; -ENOSPC: this user has reached fs.epoll.max_user_watches.
 */
EVERING_API int evering_group_open(const struct evering_group_params *params,
				   struct evering_group **group);

/**
 * evering_group_close - end a group
 * @group: from evering_group_open(); NULL: does nothing
 *
 * Its members are removed and live on.
 *
 * Context: The thread of the group; no evering_group_wake() may be under way.
 */
EVERING_API void evering_group_close(struct evering_group *group);

/**
 * evering_group_add - add an endpoint to a group
 * @group: group
 * @ev: endpoint, of either backend
 * @what: what to wait for: EVERING_RX: entries; EVERING_TX: room; both; or 0: only the
 *	end of the peer.  An endpoint with a table of operations takes EVERING_RX
 * @context: returned in struct evering_group_event
 *
 * The next call looks at the member.  If its peer is gone already, that call returns
 * it.
 *
 * Context: The thread of the group, which has both roles of @ev.
 * Return: 0; -EEXIST: @ev is a member of @group; -EBUSY: of another group; -EINVAL:
 * @what is invalid, or fork() has made this process; -ENOMEM: no memory; -ENOSPC: this
 * user has reached fs.epoll.max_user_watches.
 */
EVERING_API int evering_group_add(struct evering_group *group,
				  struct evering *ev, unsigned int what,
				  void *context);

/**
 * evering_group_want - change what to wait for in a member
 * @group: group
 * @ev: a member
 * @what: as for evering_group_add()
 *
 * For a caller that has more to send than there is room for, or that wants no more
 * entries for a while.
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT: not a member of @group; -EINVAL: as evering_group_add().
 */
EVERING_API int evering_group_want(struct evering_group *group,
				   struct evering *ev, unsigned int what);

/**
 * evering_group_remove - remove an endpoint from a group
 * @group: group
 * @ev: a member
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT: not a member of @group; -EINVAL: fork() has made this process.
 */
EVERING_API int evering_group_remove(struct evering_group *group,
				     struct evering *ev);

/**
 * evering_group_add_listener - add a listener to a group
 * @group: group
 * @listener: from evering_listen() and the like; evering_listener_close() removes it
 * @context: returned in struct evering_group_event
 *
 * The group returns EVERING_GROUP_ACCEPT as long as evering_accept() with
 * EVERING_NOWAIT has something to do, which may not result in a channel.
 *
 * Context: The thread of the group, which is also the one that accepts.
 * Return: 0; -EEXIST, -EBUSY, -EINVAL, -ENOMEM, -ENOSPC: as evering_group_add().
 */
EVERING_API int evering_group_add_listener(struct evering_group *group,
					   struct evering_listener *listener,
					   void *context);

/**
 * evering_group_remove_listener - remove a listener from a group
 * @group: group
 * @listener: a member
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT, -EINVAL: as evering_group_remove().
 */
EVERING_API int
evering_group_remove_listener(struct evering_group *group,
			      struct evering_listener *listener);

/**
 * evering_group_add_fd - add a plain descriptor to a group
 * @group: group
 * @fd: a descriptor that epoll(7) takes.  It still belongs to the caller, who removes
 *	it before closing it
 * @events: POLLIN, POLLOUT and the like
 * @context: returned in struct evering_group_event
 *
 * Level-triggered: the group returns EVERING_GROUP_FD as long as the descriptor is
 * ready.
 *
 * Context: The thread of the group.
 * Return: 0; -EEXIST: @fd is a member; -EBADF: it is not open; -EPERM: epoll(7) does
 * not take it; -EINVAL: it is the group's own descriptor, or fork() has made this
 * process; -ENOMEM, -ENOSPC: as evering_group_add().
 */
EVERING_API int evering_group_add_fd(struct evering_group *group, int fd,
				     short events, void *context);

/**
 * evering_group_remove_fd - remove a plain descriptor from a group
 * @group: group
 * @fd: a member
 *
 * The time that this takes grows with the number of members.
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT, -EINVAL: as evering_group_remove().
 */
EVERING_API int evering_group_remove_fd(struct evering_group *group, int fd);

/**
 * evering_group_wait - wait until there is something to do
 * @group: group
 * @events: out: the events, in the group's memory, valid until the next call for @group
 * @timeout_ns: how long to wait at the most
 *
 * Rings the doorbells that are owed; on the device in the system call in which it
 * sleeps.
 *
 * Context: The thread of the group.
 * Return: how many events there are, 1..EVERING_GROUP_BATCH; -EAGAIN: none, and
 * @timeout_ns was EVERING_NOWAIT; -ETIMEDOUT: none in time; -EINTR: a signal handler
 * ran, as the conventions of <evering.h> describe, evering_group_wake() was called, or
 * evering_wake() for a cold member; -EINVAL: @timeout_ns is invalid, or fork() has made
 * this process.
 */
EVERING_API int evering_group_wait(struct evering_group *group,
				   const struct evering_group_event **events,
				   int64_t timeout_ns);

/**
 * evering_group_poll - get what there is to do, in an event loop
 * @group: group
 * @events: out: as for evering_group_wait()
 *
 *	while ((n = evering_group_poll(group, &events)) > 0)
 *		... handle them ...
 *
 * Then sleep until evering_group_fd() is readable, for evering_group_timeout() at the most.
 *
 * Context: The thread of the group.
 * Return: how many events there are, 1..EVERING_GROUP_BATCH; 0: none, and every member
 * is armed, so that evering_group_fd() becomes readable; -EINTR: evering_group_wake()
 * was called; -EINVAL: fork() has made this process.
 */
EVERING_API int evering_group_poll(struct evering_group *group,
				   const struct evering_group_event **events);

/**
 * evering_group_arm - prepare for a sleep in an event loop
 * @group: group
 *
 * evering_group_poll() for a loop that takes the events at another place.
 *
 * Context: The thread of the group.
 * Return: 0: every member is armed, and evering_group_fd() becomes readable; 1: there
 * is something to do, which the next evering_group_wait() or evering_group_poll()
 * returns; -EINTR, -EINVAL: as evering_group_poll().
 */
EVERING_API int evering_group_arm(struct evering_group *group);

/**
 * evering_group_timeout - get when the next operation of a member runs out of time
 * @group: group
 *
 * Context: The thread of the group.
 * Return: nanoseconds from now; 0: an operation has run out of time, or there is
 * something else to do; EVERING_WAIT_FOREVER: no operation has a time limit.  The time
 * may be too early if that operation has ended.
 */
EVERING_API int64_t evering_group_timeout(const struct evering_group *group);

/**
 * evering_group_fd - a descriptor for an event loop
 * @group: group
 *
 * If evering_group_poll() has returned 0, the descriptor polls readable when that has
 * something to do.  It is always the same descriptor, and belongs to the group.  It is
 * an epoll set, which may be added to another one, level- or edge-triggered, but not
 * with EPOLLEXCLUSIVE.
 *
 * Context: The thread of the group.
 * Return: the descriptor; -EINVAL: fork() has made this process; -ENOMEM, -ENOSPC: as
 * evering_group_add().
 */
EVERING_API int evering_group_fd(struct evering_group *group);

/**
 * evering_group_wake - end a wait in this process
 * @group: group
 *
 * If a thread is in evering_group_wait(), spinning or asleep, that ends with -EINTR.
 * If none is, the next one that finds nothing to do ends so.  Any number of calls
 * before that end a single wait.  A loop that sleeps on evering_group_fd() is woken as
 * well.
 *
 * Context: Any thread; async-signal-safe.
 * Return: 0; -EINVAL: fork() has made this process.
 */
EVERING_API int evering_group_wake(struct evering_group *group);

#endif /* EVERING_GROUP_H */
