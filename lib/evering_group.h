/* SPDX-License-Identifier: MIT */
/*
 * evering_group.h: many channels of one thread under one sleeper.
 *
 * A group has members: endpoints, with a table of operations or without, listeners, and
 * plain descriptors.  evering_group_wait() returns those that there is something to do
 * for.  Include <evering.h>, not this file.
 *
 *	evering_group_open(NULL, &group);
 *	evering_group_add(group, ev, EVERING_RX, context);
 *	for (;;) {
 *		n = evering_group_wait(group, &events, EVERING_WAIT_FOREVER);
 *		for (i = 0; i < n; i++)
 *			handle(&events[i]);
 *	}
 *
 * Ready is a state, not an event: a member that is not dealt with is returned again by the
 * next call.  Members take turns: in each round each of them that is ready is
 * returned once, whatever others send.  So how long a quiet member waits is up to the
 * caller: at most a turn of each of the others, and a turn is what the caller takes of a
 * member before it calls evering_group_wait() again.  Take a number of entries, not all
 * that come.  Where others are few and their turns short, one that was cold may wait for
 * more of them: until 64 entries, or one call more, were returned.
 *
 * A member is hot or cold.  A hot one is looked at, which costs a cache line or two, and
 * its peer rings nobody.  A cold one is armed: it is not looked at, and costs nothing until
 * its peer rings.  A member that the group has looked at in vain for a while becomes cold,
 * and one that is rung becomes hot.
 *
 * What a member was sent with EVERING_LAZY_RING, its peer is rung for when the group next
 * waits.  So is what a table of operations was given, if the group had returned it: for
 * others call evering_ops_flush().
 *
 * Rules for members
 *
 * - An endpoint is a member of at most one group.  Both its roles belong to the thread
 *   that uses the group.
 * - evering_fd(), evering_arm() and evering_ops_arm() of a member are -EBUSY, and
 *   evering_disarm() does nothing: arming is the group's business.
 * - A send or a receive that waits, evering_wait() and the waits of operations are allowed.
 * - A member may be removed or closed at any time, also one that the last call has
 *   returned and that was not dealt with: its event has no @what from then on.
 *   evering_close() and evering_listener_close() remove it.
 *
 * Threads: one at a time for each group, but evering_group_wake(), which any thread and any
 * signal handler may call.  Two threads have a group each, and a member goes from one to
 * the other by evering_group_remove() and evering_group_add().  A process made by fork()
 * has none of the groups of its parent: it may only close them.
 */
#ifndef EVERING_GROUP_H
#define EVERING_GROUP_H

#ifndef EVERING_H
#error "include <evering.h>"
#endif

struct evering_group;

/* evering_group_event.what, beside EVERING_RX and EVERING_TX */
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
 * @policy: enum evering_policy: of the group; that of its members does not matter.
 *	EVERING_BLOCK: sleeps when nothing is ready; EVERING_ADAPTIVE: looks at those that
 *	were busy for a bounded time that adjusts itself, then sleeps; EVERING_BUSY: never
 *	sleeps
 * @spin_ns: the longest that EVERING_ADAPTIVE spins; 0..1,000,000
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
 * struct evering_group_event - a member that there is something to do for
 * @ev: the endpoint; NULL: a listener or a descriptor
 * @context: as it was added with
 * @what: EVERING_RX: there is an entry, or evering_ops_poll() has something to do, or
 *	requests or messages wait; EVERING_TX: there is space; EVERING_GROUP_GONE: the peer
 *	is gone, and all that it had sent was received if EVERING_RX is wanted, or it has
 *	broken the rules: told once, and the last that the group has to say of this member;
 *	evering_ops_poll() then ends the operations of a table; EVERING_GROUP_ACCEPT;
 *	EVERING_GROUP_FD; 0: it was removed since, or nothing of it is wanted any more
 * @result: with EVERING_GROUP_GONE -EPIPE or -EPROTO; with EVERING_GROUP_FD the events, as
 *	of poll(2); else 0
 */
struct evering_group_event {
	struct evering *ev;
	void *context;
	uint32_t what;
	int32_t result;
};

/**
 * evering_group_open - a group without members
 * @params: how it waits; NULL: EVERING_GROUP_PARAMS_INIT
 * @group: out: for evering_group_close()
 *
 * Takes two descriptors, and a third with its first endpoint of the device, if the module
 * has a group file for it.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL, -E2BIG: @params; -EMFILE, -ENFILE, -ENOMEM; -ENOSPC: this user
 * has fs.epoll.max_user_watches.
 */
EVERING_API int evering_group_open(const struct evering_group_params *params,
				   struct evering_group **group);

/**
 * evering_group_close - end a group
 * @group: from evering_group_open(), or NULL
 *
 * Its members are removed, and live on.
 *
 * Context: The group's, and no evering_group_wake() may be under way.
 */
EVERING_API void evering_group_close(struct evering_group *group);

/**
 * evering_group_add - an endpoint becomes a member
 * @group: group
 * @ev: endpoint, of either backend
 * @what: what is of interest: EVERING_RX: entries; EVERING_TX: space; both; or 0: the
 *	peer's end alone.  A table of operations beside it goes with EVERING_RX
 * @context: for evering_group_event
 *
 * It is looked at the next time.  One whose peer has gone already is told of then.
 *
 * Context: The group's, and both roles of @ev.
 * Return: 0; -EEXIST: it is a member of @group; -EBUSY: of another one; -EINVAL: @what,
 * or a process that fork() has made; -ENOMEM; -ENOSPC: this user has
 * fs.epoll.max_user_watches.
 */
EVERING_API int evering_group_add(struct evering_group *group,
				  struct evering *ev, unsigned int what,
				  void *context);

/**
 * evering_group_want - change what of a member is of interest
 * @group: group
 * @ev: a member
 * @what: as for evering_group_add()
 *
 * For a caller that has more to send than there is room for, and for one that wants no
 * more entries for a while.
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT: not a member of @group; -EINVAL: as evering_group_add().
 */
EVERING_API int evering_group_want(struct evering_group *group,
				   struct evering *ev, unsigned int what);

/**
 * evering_group_remove - an endpoint is no member any more
 * @group: group
 * @ev: a member
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT: not a member of @group; -EINVAL: a process that fork() has made.
 */
EVERING_API int evering_group_remove(struct evering_group *group,
				     struct evering *ev);

/**
 * evering_group_add_listener - a listener becomes a member
 * @group: group
 * @listener: from evering_listen() and the like; evering_listener_close() removes it
 * @context: for evering_group_event
 *
 * Told with EVERING_GROUP_ACCEPT as long as evering_accept() with EVERING_NOWAIT has
 * something to do, which need not end in a channel.
 *
 * Context: The group's, and the one that accepts.
 * Return: 0; -EEXIST, -EBUSY, -EINVAL, -ENOMEM, -ENOSPC: as evering_group_add().
 */
EVERING_API int evering_group_add_listener(struct evering_group *group,
					   struct evering_listener *listener,
					   void *context);

/**
 * evering_group_remove_listener - a listener is no member any more
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
 * evering_group_add_fd - a plain descriptor becomes a member
 * @group: group
 * @fd: one that epoll(7) takes; stays the caller's, who removes it before closing it
 * @events: POLLIN, POLLOUT and the like
 * @context: for evering_group_event
 *
 * Level-triggered: told with EVERING_GROUP_FD as long as it is ready.
 *
 * Context: The thread of the group.
 * Return: 0; -EEXIST: it is a member; -EBADF; -EPERM: epoll(7) does not take it;
 * -EINVAL: it is the group's own, or a process that fork() has made; -ENOMEM, -ENOSPC.
 */
EVERING_API int evering_group_add_fd(struct evering_group *group, int fd,
				     short events, void *context);

/**
 * evering_group_remove_fd - a plain descriptor is no member any more
 * @group: group
 * @fd: a member.  Takes as long as the group has members
 *
 * Context: The thread of the group.
 * Return: 0; -ENOENT, -EINVAL: as evering_group_remove().
 */
EVERING_API int evering_group_remove_fd(struct evering_group *group, int fd);

/**
 * evering_group_wait - wait until there is something to do
 * @group: group
 * @events: out: the members, in the group's memory, until the next call for @group
 * @timeout_ns: how long, at the most
 *
 * Rings the peers that are owed a ring, on the device in the same system call as it sleeps.
 *
 * Context: The thread of the group.
 * Return: how many, 1..EVERING_GROUP_BATCH; -EAGAIN: none, and @timeout_ns was
 * EVERING_NOWAIT; -ETIMEDOUT: none in time; -EINTR: a signal handler ran, as the
 * conventions of <evering.h> say, or evering_group_wake() was called, or evering_wake()
 * of a cold member; -EINVAL: @timeout_ns, or a process that fork() has made.
 */
EVERING_API int evering_group_wait(struct evering_group *group,
				   const struct evering_group_event **events,
				   int64_t timeout_ns);

/**
 * evering_group_poll - what is there to do, in an event loop
 * @group: group
 * @events: out: as for evering_group_wait()
 *
 *	while ((n = evering_group_poll(group, &events)) > 0)
 *		... handle them ...
 *
 * Then sleep until evering_group_fd() is readable, for evering_group_timeout() at the most.
 *
 * Context: The thread of the group.
 * Return: how many, 1..EVERING_GROUP_BATCH; 0: none, and every member is armed, so that
 * evering_group_fd() will tell; -EINTR: evering_group_wake() was called; -EINVAL: a
 * process that fork() has made.
 */
EVERING_API int evering_group_poll(struct evering_group *group,
				   const struct evering_group_event **events);

/**
 * evering_group_arm - before a sleep in an event loop
 * @group: group
 *
 * evering_group_poll() for a loop that takes what is there at another place.
 *
 * Context: The thread of the group.
 * Return: 0: every member is armed, and evering_group_fd() will tell; 1: there is
 * something to do already, which the next evering_group_wait() or evering_group_poll()
 * returns; -EINTR, -EINVAL: as evering_group_poll().
 */
EVERING_API int evering_group_arm(struct evering_group *group);

/**
 * evering_group_timeout - when does the next operation of a member run out of time
 * @group: group
 *
 * Context: The thread of the group.
 * Return: nanoseconds from now, 0 if it has, or if there is something to do already;
 * EVERING_WAIT_FOREVER: none can.  It may be too early, if that operation has ended.
 */
EVERING_API int64_t evering_group_timeout(const struct evering_group *group);

/**
 * evering_group_fd - a descriptor for an event loop
 * @group: group
 *
 * Polls readable when evering_group_poll() has something to do, if that has returned 0
 * before.  It is always the same, and belongs to the group: an epoll set, which may be
 * added to another, level- or edge-triggered, but not with EPOLLEXCLUSIVE.
 *
 * Context: The thread of the group.
 * Return: the descriptor; -EINVAL: a process that fork() has made; -ENOMEM, -ENOSPC: as
 * evering_group_add().
 */
EVERING_API int evering_group_fd(struct evering_group *group);

/**
 * evering_group_wake - end a wait of this process
 * @group: group
 *
 * The evering_group_wait() that a thread is in ends with -EINTR, whether it spins or
 * sleeps; if there is none, the next one does that finds nothing to do.  Any number of
 * calls before that end one.  A loop that sleeps in evering_group_fd() is woken as well.
 *
 * Context: Any thread; async-signal-safe.
 * Return: 0; -EINVAL: a process that fork() has made.
 */
EVERING_API int evering_group_wake(struct evering_group *group);

#endif /* EVERING_GROUP_H */
