/* SPDX-License-Identifier: MIT */
/*
 * evering.h: talk to another process through shared memory.
 *
 * A channel joins two equal endpoints.  Each direction is a ring of fixed-size entries,
 * and beside the rings each endpoint has an arena for payload, which the peer reads in
 * place.  Sending and receiving are plain loads and stores.  The library enters the
 * kernel only when one side sleeps or has to be woken.
 *
 * Conventions
 *
 * - Errors are negative errno values, returned; errno itself is not set.
 * - Times are in nanoseconds, relative, on CLOCK_MONOTONIC: EVERING_NOWAIT,
 *   EVERING_WAIT_FOREVER, or a positive number.
 * - Sizes are in bytes.
 * - A signal handler that runs while a call sleeps ends the call with -EINTR, whatever
 *   SA_RESTART says.  A handler that runs while the call spins does so too under
 *   EVERING_ADAPTIVE, except in the first microseconds, and never under EVERING_BUSY.
 *   evering_pwait(), and evering_wake() from the handler, miss no signal under any
 *   policy.
 *
 * A signal that is ignored ends nothing, with one exception.  If the process has a
 * handler for another signal, an ignored signal that came while it was blocked may end
 * a call: in the last microsecond of such a spin, or before an evering_pwait().
 *
 * On memfd, a process that is stopped and continues (SIGSTOP, SIGTSTP, a debugger, a
 * freezer) may get -EINTR without any handler, as from epoll_wait(2).
 *
 * Threads
 *
 * One thread may send while another receives.  That is the whole rule.  A role is not
 * tied to a thread: a thread may take a role over from another one if the two
 * synchronize.  The same words name the threads after "Context:" below: "the sending
 * thread" is the one that has the sending role.
 *
 *	role		functions
 *	sending		evering_reserve*, _commit*, _flush, _send*;
 *			evering_wait and evering_arm with EVERING_TX
 *	receiving	evering_peek*, _release*, _recv*, _publish;
 *			evering_wait and evering_arm with EVERING_RX
 *	both at once	evering_wait with EVERING_RX and EVERING_TX or EVERING_FLUSH
 *	arena		evering_alloc, _free: one thread at a time, any
 *	listener	evering_accept, evering_listener_admit, _fd, _refused, _share: one
 *			thread at a time
 *	connecting	evering_connecting_fd, _step, _step_many: one thread at a time
 *	alone		evering_close, evering_listener_close, evering_connecting_close,
 *			evering_replace, evering_replace_begin and its steps;
 *			evering_set_policy takes both roles
 *	any thread	the rest; see evering_op.h for a table of operations, which
 *			takes everything, and evering_group.h and evering_server.h for
 *			groups and servers
 *
 * A process made by fork() has none of the memory of its parent's channels.  It must
 * not use them; it may exec, exit or close them, which the peer does not notice.  It
 * can use listeners: see evering_accept().
 */
#ifndef EVERING_H
#define EVERING_H

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include <linux/evering.h>
#include <linux/evering_op.h>

#define EVERING_API __attribute__((visibility("default")))

/*
 * The version of these headers, three numbers below 1000.  evering_version() returns
 * that of the library.  The Makefile, pkg-config and the packages take theirs from
 * here.
 *
 *	#if EVERING_VERSION >= EVERING_VERSION_NUMBER(0, 2, 0)
 *
 * What a version promises to the next is in evering-stability(7).
 */
#define EVERING_VERSION_MAJOR 0
#define EVERING_VERSION_MINOR 1
#define EVERING_VERSION_PATCH 0
#define EVERING_VERSION_NUMBER(major, minor, patch) \
	(1000000 * (major) + 1000 * (minor) + (patch))
#define EVERING_VERSION                                                      \
	EVERING_VERSION_NUMBER(EVERING_VERSION_MAJOR, EVERING_VERSION_MINOR, \
			       EVERING_VERSION_PATCH)

/*
 * These are C headers, so warnings that compilers have for C++ alone are switched off
 * in them.  The code that their macros expand to in a user's file causes none of these
 * warnings.
 */
#ifdef __cplusplus
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"
/* A function evering_peer_cred() hides a struct of that name. */
#pragma GCC diagnostic ignored "-Wshadow"
#define EVERING__NULL nullptr
extern "C" {
#else
#define EVERING__NULL NULL
#endif

#define EVERING_NOWAIT INT64_C(0)
#define EVERING_WAIT_FOREVER INT64_C(-1)

struct evering;
struct evering_connecting;
struct evering_listener;

/**
 * enum evering_backend_id - what a channel is made of
 * @EVERING_BACKEND_AUTO: the backend that $EVERING_BACKEND names ("device" or "memfd");
 *	without it the device if /dev/evering can be opened, else memfd
 * @EVERING_BACKEND_DEVICE: the evering kernel module
 * @EVERING_BACKEND_MEMFD: sealed memfds, eventfds and a Unix socket
 */
enum evering_backend_id {
	EVERING_BACKEND_AUTO = 0,
	EVERING_BACKEND_DEVICE = 1,
	EVERING_BACKEND_MEMFD = 2,
};

/**
 * enum evering_policy - how an endpoint waits
 * @EVERING_ADAPTIVE: spin for a bounded time that adjusts itself, then sleep
 * @EVERING_BLOCK: sleep at once
 * @EVERING_BUSY: spin and never sleep: the lowest latency; takes a whole CPU
 */
enum evering_policy {
	EVERING_ADAPTIVE = 0,
	EVERING_BLOCK = 1,
	EVERING_BUSY = 2,
};

/*
 * Flags that go with a policy.
 *
 * EVERING_LAZY_RING: for an endpoint of which one thread has both roles.  A send to a
 * peer that sleeps does not ring the doorbell at once.  The doorbell is owed until this
 * side waits (in either role, EVERING_NOWAIT too), calls evering_arm(), evering_flush()
 * or evering_publish(), or closes.  On the device a send and the wait for its answer
 * are then one system call instead of two.  A caller that does something else in
 * between flushes first; otherwise the peer sleeps meanwhile.
 *
 * EVERING_NO_HANDOVER: the scheduler chooses where the peer's thread runs that a wait
 * wakes.  Without this flag, that thread runs on the CPU that the wait gives up
 * (evering(4)).  It is for two sides that should run at the same time. memfd hands no
 * CPU over.
 */
#define EVERING_LAZY_RING   (1u << 16)
#define EVERING_NO_HANDOVER (1u << 17)

/* evering_params.flags, with EVERING_SHARED_ARENA */
#define EVERING_POPULATE (1u << 16) /* map the pages of the arenas at once */
#define EVERING_AWAIT \
	(1u << 20) /* evering_connect(): the listener may come later */

/* Index into evering_params.arena_size */
#define EVERING_MINE 0
#define EVERING_PEERS 1

/**
 * struct evering_params - how to make, or to accept, a channel
 * @size: sizeof(struct evering_params).  Functions accept a shorter struct, of an
 *	earlier version, and use the defaults for what it lacks.  They accept a longer
 *	one if the part that this version does not know is zero
 * @flags: EVERING_SHARED_ARENA: both sides can write both arenas; a property of the
 *	channel.  EVERING_POPULATE: map the arenas' pages now, on this side alone, so
 *	that the first touch of a page takes no fault, which costs several times as much
 *	as a copy of the page.  EVERING_AWAIT: evering_connect() and
 *	evering_connect_begin() wait for a listener that is not there yet; it has no
 *	meaning elsewhere and is invalid as a limit
 * @slot_size: bytes of a slot, EVERING_MIN_SLOT..EVERING_MAX_SLOT, a power of two; an
 *	entry has EVERING_STAMP_SIZE bytes less
 * @entries: slots of each ring, EVERING_MIN_ENTRIES..EVERING_MAX_ENTRIES, a power
 *	of two
 * @arena_size: bytes of this side's arena and of the peer's, 0..EVERING_MAX_ARENA,
 *	multiples of the page size
 * @backend: enum evering_backend_id
 * @policy: enum evering_policy, of this side, optionally with EVERING_LAZY_RING and
 *	EVERING_NO_HANDOVER
 * @spin_ns: the longest time that EVERING_ADAPTIVE spins, in nanoseconds, 0..1,000,000
 * @lanes: for evering_accept(): the most lanes that a client gets in one meeting,
 *	0..EVERING_MAX_LANES; 0 means 1.  evering_accept_fd() accepts one lane and
 *	ignores this.  Elsewhere 0
 * @arena_begin: bytes of this side's arena that have memory when the channel is made,
 *	rounded up to pages.  The rest gets memory when evering_alloc() needs it, which
 *	may be refused; it never gives memory back.  EVERING_WHOLE, or anything beyond
 *	@arena_size: all of the arena has memory, as under EVERING_POPULATE.  The peer
 *	decides about its own arena
 *
 * Start from EVERING_PARAMS_INIT.  For evering_accept*() these are limits, because the
 * connecting side chooses the geometry.  @slot_size, @entries and @arena_size are the
 * most that is accepted, and EVERING_SHARED_ARENA is accepted only if it is set here.
 * A client that asks for more gets -E2BIG.  @backend is ignored.
 */
struct evering_params {
	uint32_t size;
	uint32_t flags;
	uint32_t slot_size;
	uint32_t entries;
	uint64_t arena_size[2];
	uint32_t backend;
	uint32_t policy;
	uint32_t spin_ns;
	uint32_t lanes;
	uint64_t arena_begin;
};

#define EVERING_SPIN_NS 50000u
#define EVERING_ARENA_BEGIN 0u
#define EVERING_LANES 16u
#define EVERING_MAX_LANES 32u
#define EVERING_WHOLE UINT64_MAX

#define EVERING_PARAMS_INIT                                                    \
	{                                                                      \
		sizeof(struct evering_params), 0, 64, 256,                     \
			{ 1 << 20, 1 << 20 }, EVERING_BACKEND_AUTO,            \
			EVERING_ADAPTIVE, EVERING_SPIN_NS, 0,                  \
			EVERING_ARENA_BEGIN                                    \
	}

/*
 * Limits that accept every reasonable channel.  EVERING_SHARED_ARENA is not among them:
 * on memfd a stranger could take the memory of both arenas away again and again, and
 * this side would pay for it at its next read or write.  Nor is a large arena of the
 * peer: it may be empty, and a single entry can make this side fill it.
 */
#define EVERING_LIMITS_INIT                                                    \
	{                                                                      \
		sizeof(struct evering_params), 0, EVERING_MAX_SLOT, 4096,      \
			{ 1 << 20, 4 << 20 }, EVERING_BACKEND_AUTO,            \
			EVERING_ADAPTIVE, EVERING_SPIN_NS, EVERING_LANES,      \
			EVERING_ARENA_BEGIN                                    \
	}

/* ------------------------------------------------------------------ meeting */

/**
 * evering_listen - listen at a Unix socket
 * @path: the socket's path, or "@name" for the abstract name "name"
 * @mode: permissions of the socket file, as for chmod(2), set before any process can
 *	connect; 0: 0777 less the umask.  An abstract name has no permissions
 * @listener: out: the listener, for evering_listener_close()
 *
 * Replaces a socket file that a dead process left behind, and never one that is in use.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL: @path is empty; -ENAMETOOLONG: over 107 bytes; -EADDRINUSE:
 * another process listens there, or the file is not a socket; -ENOENT, -EACCES, -EROFS,
 * …: from bind(2); -EMFILE, -ENFILE: no descriptors; -ENOMEM: no memory; -ENOSPC: this
 * user has reached fs.epoll.max_user_watches.
 */
EVERING_API int evering_listen(const char *path, mode_t mode,
			       struct evering_listener **listener);

/**
 * evering_listen_fd - listen at a socket that listens already
 * @fd: a Unix socket of type SOCK_SEQPACKET that listens.  On success it belongs to the
 *	listener, which sets FD_CLOEXEC, sets O_NONBLOCK for every process that shares
 *	the socket, and closes it in evering_listener_close().  On error it still
 *	belongs to the caller
 * @listener: out: the listener, for evering_listener_close()
 *
 * For a socket that a service manager or a parent process passes.
 * evering_listener_close() does not remove its file.  Other listeners may have the same
 * socket; each connection goes to one of them.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL: @fd does not listen; -EPROTOTYPE: it is a socket of another type;
 * -ENOTSOCK, -EBADF: it is not a socket, or not open; -EMFILE, -ENFILE, -ENOMEM,
 * -ENOSPC: as evering_listen().
 */
EVERING_API int evering_listen_fd(int fd, struct evering_listener **listener);

/**
 * evering_listen_activated - listen at a socket that the service manager has passed
 * @name: the socket's name among $LISTEN_FDNAMES (FileDescriptorName= in a .socket unit
 *	of systemd); NULL: the first socket
 * @listener: out: the listener, for evering_listener_close()
 *
 * As evering_listen_fd(), with the descriptor that $LISTEN_PID and $LISTEN_FDS describe
 * (sd_listen_fds(3)).  The variables stay as they are, so call this once for each
 * socket.
 *
 * Context: Any thread, while no thread changes the environment.
 * Return: 0; -ENOENT: no such socket was passed to this process; -EBADMSG: $LISTEN_PID
 * or $LISTEN_FDS is not a number; or as evering_listen_fd().
 */
EVERING_API int evering_listen_activated(const char *name,
					 struct evering_listener **listener);

/**
 * evering_listener_share - another listener at the same socket, for another thread
 * @listener: from evering_listen(), evering_listen_fd(), evering_listen_activated() or
 *	this function
 * @other: out: the new listener, for evering_listener_close()
 *
 * Each connection goes to one of the two.  @other has the admission rules that
 * @listener has now.  The two count together what each user has; each one counts by
 * itself the connections that it turns away.  They may be closed in any order, and the
 * last one removes the socket file of evering_listen().
 *
 * Context: The thread that accepts.
 * Return: 0; -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: as evering_listen().
 */
EVERING_API int evering_listener_share(struct evering_listener *listener,
				       struct evering_listener **other);

/**
 * struct evering_admission - who may meet a listener, and how much a user may have
 * @size: sizeof(struct evering_admission)
 * @flags: 0
 * @user_channels: channels that one user may have open with this listener, each lane
 *	counting as one
 * @user_waiting: connections that one user may have that have not said hello yet
 * @user_bytes: bytes that one user's channels may cost this side at the most.  A
 *	channel counts with both halves and both arenas, as large as they can grow; on
 *	the device, where the connecting side pays for the rest, with this side's arena
 * @allow: called for each connection, before the library receives anything from it or
 *	allocates anything for it, with the credentials of SO_PEERCRED.  It returns 0 to
 *	let the connection say hello, or a negative errno to turn it away; the client is
 *	told the reason if that is -EACCES, -EPERM or -EDQUOT.  It runs inside
 *	evering_accept(), and must neither call evering_accept() nor close the listener.
 *	NULL: every process may connect
 * @context: for @allow
 *
 * Start from EVERING_ADMISSION_INIT.  The numbers hold for each user except root and
 * the user that this process runs as.  A user that would have more channels or bytes is
 * turned away with -EDQUOT, or gets as many lanes as it may still have.  One connection
 * more than @user_waiting replaces the user's oldest one.
 *
 * The welcome packets that a user has not read hold descriptors, also after their
 * channels have been closed.  They may hold an eighth of this process's RLIMIT_NOFILE.
 * A user at that limit is turned away with -ETOOMANYREFS until it reads a packet or
 * closes its end.
 */
struct evering_admission {
	uint32_t size;
	uint32_t flags;
	uint32_t user_channels;
	uint32_t user_waiting;
	uint64_t user_bytes;
	int (*allow)(pid_t pid, uid_t uid, gid_t gid, void *context);
	void *context;
};

#define EVERING_ADMISSION_INIT                                            \
	{                                                                 \
		sizeof(struct evering_admission), 0, 1024, 64, 256 << 20, \
			NULL, NULL                                        \
	}

/**
 * evering_listener_admit - decide who may meet a listener
 * @listener: from evering_listen()
 * @admission: the rules from now on; NULL: EVERING_ADMISSION_INIT, the rules of a new
 *	listener
 *
 * Existing channels stay open, and count.
 *
 * Context: The thread that accepts.
 * Return: 0; -EINVAL, -E2BIG: @admission is invalid, or longer than this version knows.
 */
EVERING_API int
evering_listener_admit(struct evering_listener *listener,
		       const struct evering_admission *admission);

/**
 * evering_accept - take the next peer
 * @listener: from evering_listen()
 * @limits: the most that a peer may ask for; NULL: EVERING_LIMITS_INIT
 * @timeout_ns: how long to wait for a peer
 * @ev: out: this side's endpoint, for evering_close()
 *
 * Handles up to 64 connections side by side.  Each has one second to say hello.  If
 * there are more, the user that has most of the places loses its oldest silent
 * connection.  A connection that sends a wrong hello, asks for too much, is not
 * admitted or runs out of time is turned away and counted; it does not end this call.
 *
 * The work of one call is bounded, whatever strangers do.  With EVERING_NOWAIT the
 * bound is a fixed number of steps and one hello, which may fail.  So -EAGAIN does not
 * mean that no client is there; evering_listener_fd() is still readable if one is.
 *
 * In a process made by fork() the listener works as well.  Each connection goes to one
 * of the processes, and each process has its own evering_listener_fd() and counts its
 * users by itself.
 *
 * The lanes of evering_connect_many() are channels like others.  This call returns the
 * first one; the next calls return the others, in order and at once, whatever their
 * @limits.  evering_listener_fd() polls readable meanwhile.  evering_get_lane() tells
 * which lanes belong to one client.
 *
 * Context: One thread at a time.
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: no peer in time; -EINVAL, -E2BIG:
 * @limits or @timeout_ns is invalid; -EINTR: a signal; -EMFILE, -ENFILE: this side has
 * no descriptors left for one more channel (a client that asks for several lanes is
 * turned away instead); -ENOMEM, -ENOSPC: no memory, or no epoll watches, for
 * connections.  A client that asks for more memory than there is, or than RLIMIT_FSIZE
 * allows, is turned away.
 */
EVERING_API int evering_accept(struct evering_listener *listener,
			       const struct evering_params *limits,
			       int64_t timeout_ns, struct evering **ev);

/**
 * evering_listener_fd - a descriptor for an event loop
 * @listener: from evering_listen()
 *
 * Context: The thread that accepts.
 * Return: a descriptor that polls readable when evering_accept() with EVERING_NOWAIT
 * has something to do.  It belongs to the listener.  A process made by fork() calls
 * this for its own descriptor, and may get -EMFILE, -ENFILE, -ENOMEM or -ENOSPC
 * instead.
 */
EVERING_API int evering_listener_fd(struct evering_listener *listener);

/**
 * evering_listener_refused - count the connections that were turned away
 * @listener: from evering_listen()
 * @error: out: the negative errno of the last one, 0 if there was none; may be NULL
 *
 * The reasons are -EPROTO: not a hello, or wrong descriptors with it; -EPROTONOSUPPORT:
 * another ABI version; -E2BIG: beyond the limits; -EINVAL: an invalid geometry;
 * -ETIMEDOUT: it said nothing; -ECONNRESET: it went away; -EDQUOT: its user has all
 * that a user may have; -EACCES and others: from evering_admission.allow; -ENOMEM,
 * -EFBIG: no memory, or no file so large, for the channel; -EMFILE, -ENFILE: no
 * descriptors; -ETOOMANYREFS: too many descriptors are under way in packets, to its
 * user or from this one.
 *
 * Context: The thread that accepts.
 * Return: how many were turned away since the listener was made.
 */
EVERING_API uint64_t
evering_listener_refused(const struct evering_listener *listener, int *error);

/**
 * evering_listener_close - stop listening
 * @listener: from evering_listen() or another function that makes listeners; NULL: does
 *	nothing
 *
 * The last of the listeners that share a socket removes its file, if the file is still
 * theirs and this process made it.  Channels that were accepted live on; lanes that
 * evering_accept() has not returned yet are closed.  An abstract name is free
 * afterwards, unless other processes have the socket too; this call may wait for that,
 * one second at most.
 *
 * Context: Alone: no other thread uses it.
 */
EVERING_API void evering_listener_close(struct evering_listener *listener);

/**
 * evering_connect - meet the listener at a Unix socket
 * @path: as for evering_listen()
 * @params: the channel to make; NULL: EVERING_PARAMS_INIT
 * @timeout_ns: time for the whole meeting
 * @ev: out: this side's endpoint, for evering_close()
 *
 * The connecting side makes the channel.  On the device it pays for it; on memfd each
 * side pays for its own half and arena.
 *
 * With EVERING_AWAIT in @params, this call makes the channel at once and tries to
 * connect until the listener is there or @timeout_ns has passed.  It tries again when
 * the directory changes, and after pauses of 1 ms to 1 s (0.1 s for abstract names).
 * It also tries again after -EACCES, because a new listener sets the permissions after
 * it has made the file; -EACCES is then returned at the end of @timeout_ns.
 *
 * If the listener serves another client first, or turns this side away because its
 * hello was late by a second, this call connects again, as long as @timeout_ns lasts.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL: @params, @timeout_ns or $EVERING_BACKEND is invalid; -E2BIG:
 * beyond EVERING_MAX_*, or beyond what the listener accepts; -ENAMETOOLONG: @path has
 * over 107 bytes; -ENOENT, -ECONNREFUSED: from connect(2), without EVERING_AWAIT;
 * -EACCES, -EPERM: from connect(2), or not admitted by the listener; -EPROTONOSUPPORT:
 * the listener speaks other versions of the ABI; -EPROTO: it does not speak evering, or
 * could not make its part; -ECONNRESET: it went away; -EAGAIN (EVERING_NOWAIT),
 * -ETIMEDOUT: it did not answer in time; -EINTR: a signal; -EMFILE, -ENFILE: no
 * descriptors; -ENOMEM: no memory on either side, a memory cgroup's limit included;
 * -EDQUOT: a quota of the module, or of the listener for a user; -ENOBUFS: no memory
 * for a packet; -ETOOMANYREFS: too many descriptors were under way in packets, on
 * either side, for a second (for all of @timeout_ns if they are the listener's);
 * -EFBIG: an arena is beyond RLIMIT_FSIZE of its side, which counts for memfds;
 * -ENODEV: the caller asked for the device, which is not there.
 */
EVERING_API int evering_connect(const char *path,
				const struct evering_params *params,
				int64_t timeout_ns, struct evering **ev);

/**
 * evering_connect_many - meet a listener for several channels at once
 * @path: as for evering_listen()
 * @params: the channels to make, each of them; NULL: EVERING_PARAMS_INIT
 * @count: how many, 1..EVERING_MAX_LANES
 * @timeout_ns: time for the whole meeting
 * @ev: out: this side's endpoints, each for evering_close(); room for @count
 *
 * As evering_connect(), for several channels in one meeting: lanes.  All lanes have the
 * same geometry and the same peer.  Each is a channel like others, with its own threads
 * and its own end: evering_close() ends that lane only.  A thread that stops or ends,
 * in whatever way, delays only its own lane, which stays open until it is closed or the
 * process ends.
 *
 * The listener grants as many lanes as its limits and those of the user allow: at least
 * one, perhaps fewer than @count.  Until it answers, this side makes and pays for all
 * of them.
 *
 * Context: Any thread.
 * Return: the number of endpoints in @ev, 1..@count; -EINVAL: @count is 0; -E2BIG:
 * @count is beyond EVERING_MAX_LANES; else as evering_connect(), and @ev has none.
 */
EVERING_API int evering_connect_many(const char *path,
				     const struct evering_params *params,
				     unsigned int count, int64_t timeout_ns,
				     struct evering **ev);

/**
 * evering_connect_begin - begin to meet the listener at a Unix socket
 * @path: as for evering_listen()
 * @params: as for evering_connect()
 * @timeout_ns: time for the whole meeting from now on, not EVERING_NOWAIT
 * @c: out: for evering_connecting_close()
 *
 * evering_connect() for event loops: none of these calls waits for the other side.
 * This one makes the channel.  evering_connecting_step() does the rest; call it the
 * first time at once.
 *
 *	evering_connect_begin(path, NULL, SECOND, &c);
 *	while ((ret = evering_connecting_step(c, &ev)) == -EAGAIN)
 *		... until evering_connecting_fd(c) is readable ...
 *	evering_connecting_close(c);
 *
 * Context: Any thread.
 * Return: 0; or as evering_connect(), without the errors that the other side causes.
 */
EVERING_API int evering_connect_begin(const char *path,
				      const struct evering_params *params,
				      int64_t timeout_ns,
				      struct evering_connecting **c);

/**
 * evering_connect_begin_many - begin to meet a listener for several channels
 * @path: as for evering_listen()
 * @params: as for evering_connect_many()
 * @count: as for evering_connect_many()
 * @timeout_ns: time for the whole meeting from now on, not EVERING_NOWAIT
 * @c: out: for evering_connecting_close()
 *
 * As evering_connect_begin(), with evering_connecting_step_many() for the steps.
 *
 * Context: Any thread.
 * Return: 0; or as evering_connect_many(), without the errors that the other side
 * causes.
 */
EVERING_API int evering_connect_begin_many(const char *path,
					   const struct evering_params *params,
					   unsigned int count,
					   int64_t timeout_ns,
					   struct evering_connecting **c);

/**
 * evering_connecting_fd - a descriptor for an event loop
 * @c: from evering_connect_begin() or evering_connect_begin_many()
 *
 * Context: One thread at a time for each @c.
 * Return: a descriptor that polls readable when evering_connecting_step() has something
 * to do, the end of the time included; -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: no
 * descriptors, memory or epoll watches; -EINVAL: in a process that fork(2) has made
 * after evering_connect_begin().  It is always the same descriptor, belongs to @c, and
 * is closed with it.
 */
EVERING_API int evering_connecting_fd(struct evering_connecting *c);

/**
 * evering_connecting_step - continue a meeting as far as possible without waiting
 * @c: from evering_connect_begin()
 * @ev: out: this side's endpoint, for evering_close()
 *
 * Context: One thread at a time for each @c.
 * Return: 0; -EAGAIN: not yet; else the meeting has failed, with an error of
 * evering_connect().  After any result but -EAGAIN, call evering_connecting_close();
 * another step returns -EINVAL.  So does a step in a process that fork(2) has made
 * after evering_connect_begin().
 */
EVERING_API int evering_connecting_step(struct evering_connecting *c,
					struct evering **ev);

/**
 * evering_connecting_step_many - continue a meeting for several channels
 * @c: from evering_connect_begin_many()
 * @ev: out: this side's endpoints, each for evering_close(); room for as many as were
 *	asked for
 *
 * Context: One thread at a time for each @c.
 * Return: the number of endpoints in @ev, at least 1; else as
 * evering_connecting_step().  Each of the two functions returns -EINVAL for a @c of the
 * other.
 */
EVERING_API int evering_connecting_step_many(struct evering_connecting *c,
					     struct evering **ev);

/**
 * evering_connecting_close - end a meeting, at any stage
 * @c: from evering_connect_begin(), evering_connect_begin_many() or
 *	evering_replace_begin(); NULL: does nothing
 *
 * Endpoints that a step has returned live on.
 *
 * Context: Alone: no other thread uses it.
 */
EVERING_API void evering_connecting_close(struct evering_connecting *c);

/**
 * evering_connect_fd - make a channel over a connected socket
 * @fd: a connected Unix socket of type SOCK_SEQPACKET, from socketpair(2) for instance,
 *	with nothing in it.  On success it belongs to the endpoint, which sets
 *	FD_CLOEXEC.  On error it still belongs to the caller, perhaps with FD_CLOEXEC
 *	set and its packets dropped
 * @params: as for evering_connect()
 * @timeout_ns: time for the whole meeting
 * @ev: out: this side's endpoint, for evering_close()
 *
 * For a parent and its child, or for callers that connect in their own way.  One side
 * calls this, the other side calls evering_accept_fd().  The result is a single lane.
 *
 * Context: Any thread.
 * Return: as evering_connect(); -ENOTSOCK, -EPROTOTYPE: @fd is not such a socket.
 */
EVERING_API int evering_connect_fd(int fd, const struct evering_params *params,
				   int64_t timeout_ns, struct evering **ev);

/**
 * evering_accept_fd - accept a channel over a connected socket
 * @fd: as for evering_connect_fd()
 * @limits: as for evering_accept()
 * @timeout_ns: time for the whole meeting
 * @ev: out: this side's endpoint, for evering_close()
 *
 * The other side of evering_connect_fd().  A client that asks for several lanes gets one.
 *
 * Context: Any thread.
 * Return: as evering_connect_fd(), or a reason of evering_listener_refused().
 */
EVERING_API int evering_accept_fd(int fd, const struct evering_params *limits,
				  int64_t timeout_ns, struct evering **ev);

/**
 * evering_open_fd - open an endpoint of a channel with a kernel module
 * @fd: the descriptor that the module's driver gave for it; it still belongs to the
 *	caller, who may close it at once
 * @params: policy, spin_ns, flags and arena_begin count; the module has chosen the
 *	rest; NULL: the defaults of evering_accept()
 * @ev: the endpoint
 *
 * There is no meeting, because the module is there from the start.  One process at a
 * time has the endpoint, as with any endpoint of the device.  The peer has no
 * credentials.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL, -E2BIG: @params is invalid; -EBADF: @fd is not open; -EPROTO: it
 * is not an endpoint of the device, was opened before, or is not the endpoint that
 * modules give away; -EPROTONOSUPPORT: the module has another version; -ENOMEM,
 * -EMFILE, -ENFILE, -EDQUOT: as evering_connect().
 */
EVERING_API int evering_open_fd(int fd, const struct evering_params *params,
				struct evering **ev);

/**
 * evering_pair - both endpoints of a new channel, in one process
 * @params: the channel to make, seen from A; NULL: EVERING_PARAMS_INIT
 * @ev: out: A and B, each for evering_close()
 *
 * For two threads, and for tests.
 *
 * Context: Any thread.
 * Return: 0; -EINVAL, -E2BIG: @params or $EVERING_BACKEND is invalid; -EMFILE, -ENFILE,
 * -ENOMEM, -EDQUOT, -EFBIG, -ENODEV: as evering_connect().
 */
EVERING_API int evering_pair(const struct evering_params *params,
			     struct evering *ev[2]);

/**
 * evering_close - leave a channel
 * @ev: endpoint, or NULL
 *
 * The peer can still receive what was sent, and its evering_peer() returns
 * EVERING_PEER_CLOSED.  This unmaps everything: pointers into the rings and the arenas
 * become invalid.  In a process made by fork() it frees that process's copies of memory
 * and descriptors, and the channel continues.
 *
 * Context: Alone: no other thread uses it.
 */
EVERING_API void evering_close(struct evering *ev);

/* --------------------------------------------------------------------- relays */

/**
 * evering_relay - represent a process on another machine
 * @ev: endpoint
 *
 * For a process that passes on what it receives here to another process, and sends here
 * what that process has sent.  If the relay dies from now on, its peer sees
 * EVERING_PEER_RELAY_DIED instead of EVERING_PEER_DIED.  Call this before anything is
 * received or sent.
 *
 * A relay keeps entries in the ring until the other process is done with them
 * (evering_look_ahead()), and takes them up before it passes them on (evering_begin()).
 * When that process has gone, the relay releases and takes up what that process had.
 * Then evering_fate() is as exact as between two processes on one machine.
 *
 * Context: The thread that has both roles.
 */
EVERING_API void evering_relay(struct evering *ev);

/**
 * evering_close_as - leave a channel the way a process on another machine has left it
 * @ev: endpoint, or NULL
 * @how: what the peer's evering_peer() returns from now on: EVERING_PEER_CLOSED, as
 *	after evering_close(); EVERING_PEER_DIED, EVERING_PEER_LOST or
 *	EVERING_PEER_RELAY_DIED
 *
 * Context: Alone: no other thread uses it.
 * Return: 0; -EINVAL: @how is invalid, and nothing has happened.
 */
EVERING_API int evering_close_as(struct evering *ev, int how);

/* ------------------------------------------------------------------- waiting */

#define EVERING_FLUSH (1u << 16) /* evering_wait(): flush first */

/**
 * evering_wait - wait until there is something to do
 * @ev: endpoint
 * @what: EVERING_RX: for an entry; EVERING_TX: for room for one; or both.  With
 *	EVERING_FLUSH: evering_flush() first, in the same system call where possible
 * @timeout_ns: the longest time to wait
 *
 * Waits by the endpoint's policy.  Publishes and flushes as needed before it sleeps.
 *
 * With EVERING_NOWAIT only one call in many makes a system call, which finds out
 * whether the peer is still alive.
 *
 * Context: The threads that have the roles of @what.
 * Return: the flags of @what that are ready, EVERING_RX, EVERING_TX or both; -EAGAIN:
 * none is, and @timeout_ns was EVERING_NOWAIT; -ETIMEDOUT: none in time; -EPIPE: the
 * peer is gone, so there is no more room, and no more entries once those in the ring
 * are received; -EPROTO: the peer broke the rules, and the channel cannot be used any
 * more; -EINTR: a signal handler ran, as the conventions above describe, or
 * evering_wake() was called; -EINVAL: @what or @timeout_ns is invalid.
 */
EVERING_API int evering_wait(struct evering *ev, unsigned int what,
			     int64_t timeout_ns);

/**
 * evering_pwait - evering_wait() with another signal mask, as ppoll(2)
 * @ev: endpoint
 * @what: as for evering_wait()
 * @timeout_ns: as for evering_wait()
 * @sigmask: the signals that are blocked during the wait; NULL: those that are blocked
 *	now
 *
 * For callers that block a signal, look at what its handler has left, and wait.  If the
 * signal is unblocked only here, the wait misses none.  The signal ends the wait within
 * some tens of microseconds (a millisecond under EVERING_BUSY), even while the wait
 * spins.
 *
 * Declared only if <signal.h> declares sigset_t, which needs _POSIX_C_SOURCE or the
 * like.
 *
 * Context: The threads that have the roles of @what.
 * Return: as evering_wait().
 */
#ifdef SIG_BLOCK
EVERING_API int evering_pwait(struct evering *ev, unsigned int what,
			      int64_t timeout_ns, const sigset_t *sigmask);
#endif

/**
 * evering_wake - end a wait in this process
 * @ev: endpoint
 * @what: the roles whose wait to end: EVERING_RX, EVERING_TX or both
 *
 * If a thread waits in one of these roles, spinning or asleep, its wait ends with
 * -EINTR.  If none waits, the next call that would have to wait ends so.  Any number of
 * calls before that end a single wait.  A loop that sleeps on evering_fd() is woken as
 * well.
 *
 * Context: Any thread; async-signal-safe.
 * Return: 0; -EINVAL: @what is invalid.  The endpoint must stay open until this has
 * returned.
 */
EVERING_API int evering_wake(struct evering *ev, unsigned int what);

/**
 * evering_want_room - set how much room EVERING_TX means
 * @ev: endpoint, without a table of operations
 * @count: entries, from 1 to the entries of the ring
 *
 * From now on EVERING_TX means room for @count entries, instead of one, in
 * evering_wait(), evering_arm() and groups.  evering_room() returns the room that there
 * is.
 *
 * Context: The sending thread.
 * Return: 0; -EINVAL: @count is invalid, or @ev has a table of operations.
 */
EVERING_API int evering_want_room(struct evering *ev, uint32_t count);

/**
 * evering_publish - show the peer now what was released
 * @ev: endpoint
 *
 * Without this call, this side publishes its position every quarter ring, and before it
 * waits on the same channel.  A receiver that stops to wait for something else, another
 * channel or a lock, calls this first; otherwise the peer may wait for room that
 * exists.  A peer that sleeps for lack of room is woken.
 *
 * Context: The receiving thread.
 * Return: 0.
 */
EVERING_API int evering_publish(struct evering *ev);

/**
 * evering_fd - a descriptor for an event loop
 * @ev: endpoint
 *
 * For poll, epoll (level- or edge-triggered) and io_uring.  Before every sleep of the
 * loop, call evering_arm(); then poll the descriptor for evering_events() of what was
 * armed.  It becomes ready when that is there, or when the peer is gone.  While nothing
 * is armed it may be ready or not.
 *
 * The descriptor belongs to the endpoint: add it and poll it, but do not read, write or
 * close it.  On memfd it is an epoll set itself, so it cannot be added with
 * EPOLLEXCLUSIVE.  Take it out of the loop before evering_close().  A child process has
 * a copy that keeps it in the loop, and evering_accept() and evering_connect() in
 * another thread make a child for a moment.
 *
 * Context: Any thread.
 * Return: the descriptor; -EBUSY: @ev is a member of a group; -EMFILE, -ENFILE: no
 * descriptors; -ENOMEM: no memory; -ENOSPC: on memfd, this user has reached
 * fs.epoll.max_user_watches.
 */
EVERING_API int evering_fd(struct evering *ev);

/**
 * evering_events - the events to poll evering_fd() for
 * @ev: endpoint
 * @what: what is armed: EVERING_RX, EVERING_TX or both
 *
 * For EVERING_RX they are always POLLIN alone.  For EVERING_TX they are POLLOUT on the
 * device, and POLLIN on memfd, whose descriptor has no other event.
 *
 * Context: Any thread.
 * Return: events for poll(2); those of epoll(7) have the same values.
 */
EVERING_API short evering_events(const struct evering *ev, unsigned int what);

/**
 * evering_arm - ask to be woken through evering_fd()
 * @ev: endpoint
 * @what: EVERING_RX: when there is an entry; EVERING_TX: when there is room; or both
 *
 *	for (;;) {
 *		while (evering_recv(ev, &entry, sizeof(entry), EVERING_NOWAIT) == 0)
 *			handle(&entry);
 *		ret = evering_arm(ev, EVERING_RX);
 *		if (ret < 0)
 *			break;
 *		if (ret == 0)
 *			epoll_wait(epoll_fd, events, 1, -1);
 *	}
 *
 * Publishes what was released.  For EVERING_TX it also flushes, because a receiver that
 * sleeps does not drain a full ring.  For EVERING_RX alone it does not flush: a caller
 * that has sent calls evering_flush() first.  What was armed before need not be
 * disarmed first.
 *
 * Context: The threads that have the roles of @what.
 * Return: 0: nothing is ready, and the descriptor becomes ready when something is; the
 * flags of @what that are ready, and then nothing is armed; -EPIPE, -EPROTO: as
 * evering_wait(); -EINVAL: @what is invalid; -EBUSY: @ev is a member of a group.
 */
EVERING_API int evering_arm(struct evering *ev, unsigned int what);

/**
 * evering_disarm - take evering_arm() back
 * @ev: endpoint
 * @what: EVERING_RX, EVERING_TX or both
 *
 * Only saves the peer a doorbell when the loop continues with something else.
 *
 * Context: The threads that have the roles of @what.
 */
EVERING_API void evering_disarm(struct evering *ev, unsigned int what);

/**
 * struct evering_bell - how to wake a peer
 * @fd: belongs to the endpoint, which keeps it open until evering_close()
 * @command: EVERING_IOC_RING: issue that ioctl on @fd with the argument EVERING_RX, or
 *	the io_uring command of the same name; 0: write the uint64_t 1 to @fd, an
 *	eventfd
 */
struct evering_bell {
	int fd;
	uint32_t command;
};

/**
 * evering_flush_begin - evering_flush(), with the system call left to the caller
 * @ev: endpoint
 * @bell: out: the doorbell to ring, if 1 is returned
 *
 * For a caller that has sent on many channels and wants to wake all of their peers in
 * one system call, as <evering_uring.h> does with io_uring.  From now on the peer
 * counts as woken: the caller has to ring @bell before it waits for anything itself, or
 * the peer stays asleep.
 *
 * Context: The sending thread.
 * Return: 0: the peer is awake; 1: the caller is to ring @bell.
 */
EVERING_API int evering_flush_begin(struct evering *ev,
				    struct evering_bell *bell);

/**
 * evering_set_policy - change how this endpoint waits
 * @ev: endpoint
 * @policy: as in evering_params.policy
 * @spin_ns: as in evering_params.spin_ns, nanoseconds
 *
 * Context: The thread that has both roles.
 * Return: 0; -EINVAL: @policy or @spin_ns is invalid.
 */
EVERING_API int evering_set_policy(struct evering *ev, unsigned int policy,
				   uint32_t spin_ns);

/* -------------------------------------------------------------------- arenas */

/**
 * evering_alloc - allocate a buffer in this side's arena
 * @ev: endpoint
 * @size: bytes, from 1 to those of the arena
 * @align: bytes, a power of two up to 2 MiB; 0: 64
 *
 * If the arena has no memory there yet, it grows now, by 64 KiB or half of what it has.
 * The memory cgroup, the system or, on the device, a quota may refuse that.  Then the
 * call fails as if the arena were full; evering_get_arena() returns the reason.
 *
 * The buffer keeps the contents that its place had.  The algorithm is two-level
 * segregated fit, in constant time, with its data outside the arena, where neither the
 * peer nor a stray write reaches it.  (M. Masmano, I. Ripoll, A. Crespo, J. Real: TLSF:
 * a new dynamic memory allocator for real-time systems, ECRTS 2004.)
 *
 * Context: One thread at a time.
 * Return: the buffer, for evering_free(); NULL: the arena has no such room, there is no
 * memory for it, or @align is invalid.
 */
EVERING_API void *evering_alloc(struct evering *ev, size_t size, size_t align);

/**
 * evering_free - free a buffer
 * @ev: endpoint
 * @buf: from evering_alloc() of the same endpoint, or a buffer that the peer has given
 *	(see evering_op.h), which this returns to the peer; NULL: does nothing
 *
 * Context: One thread at a time.
 * Return: 0; -EINVAL: @buf is not the start of a buffer that is allocated or was given
 * by the peer (it was freed twice, for instance); -EBUSY: it is lent; -ESTALE: it was
 * given to the peer.  After an error nothing has happened.
 */
EVERING_API int evering_free(struct evering *ev, void *buf);

/**
 * evering_copy - write payload for the peer to read
 * @to: the place, in an arena or an entry
 * @from: the payload; the two must not overlap
 * @len: bytes; may be 0
 *
 * As memcpy(3), except that a large payload is written past the caches, with
 * non-temporal stores.  They are visible before anything that is committed afterwards.
 * A caller that uses non-temporal stores of its own has to execute sfence before the
 * commit; otherwise the peer may find the entry before the payload.
 *
 * Context: Any thread.
 * Return: @to.
 */
EVERING_API void *evering_copy(void *to, const void *from, size_t len);

/**
 * evering_offset - the offset of a buffer, to be sent in an entry
 * @ev: endpoint
 * @buf: an address in this side's arena
 *
 * Context: Any thread.
 * Return: its offset from the start of the arena, in bytes.
 */
EVERING_API uint64_t evering_offset(const struct evering *ev, const void *buf);

/**
 * evering_peer_buffer - the address of payload in the peer's arena
 * @ev: endpoint
 * @offset: bytes from the start of the peer's arena, as the peer has sent it; any value
 *	is safe
 * @len: bytes
 *
 * The peer can change the bytes at any time.  This side can write them only if the
 * channel has EVERING_SHARED_ARENA.
 *
 * Context: Any thread.
 * Return: a pointer to @len bytes, valid until evering_close() or evering_replace();
 * NULL: not all of them lie in the arena, the arena has no memory there yet, or this
 * side has no memory to map them.
 */
EVERING_API const void *evering_peer_buffer(const struct evering *ev,
					    uint64_t offset, uint64_t len);

/**
 * evering_arena - this side's arena as a whole
 * @ev: endpoint
 * @size: out: the bytes of the arena; may be NULL
 *
 * The whole arena has memory from now on.
 *
 * Context: As evering_alloc(); any thread once this has returned the start.
 * Return: its start; NULL: it has no bytes, or there is no memory for all of them.
 */
EVERING_API void *evering_arena(const struct evering *ev, uint64_t *size);

/**
 * evering_arena_part - the first bytes of this side's arena
 * @ev: endpoint
 * @size: bytes; evering_get_arena() returns how many there are
 *
 * These bytes have memory from now on.  For callers that choose places in the arena
 * themselves, and do not use evering_alloc().
 *
 * Context: As evering_alloc().
 * Return: the arena's start; NULL: it is smaller, or there is no memory for so many
 * bytes.
 */
EVERING_API void *evering_arena_part(const struct evering *ev, uint64_t size);

/**
 * struct evering_arena_state - how far an arena has grown
 * @begin: bytes that had memory from the start; 0 for the peer's arena
 * @now: bytes that have memory now; for the peer's arena, as the peer states
 * @most: bytes of the arena
 * @refused: 0, or the negative errno with which this side's arena was last refused
 *	memory: -ENOMEM: by the system or a memory cgroup; -EDQUOT: by a quota of the
 *	module
 * @reserved: 0
 */
struct evering_arena_state {
	uint64_t begin;
	uint64_t now;
	uint64_t most;
	int32_t refused;
	uint32_t reserved;
};

/**
 * evering_get_arena - get how far an arena has grown
 * @ev: endpoint
 * @whose: EVERING_MINE or EVERING_PEERS
 * @state: out
 *
 * Context: As evering_alloc() for EVERING_MINE, any thread for EVERING_PEERS.
 */
EVERING_API void evering_get_arena(const struct evering *ev, int whose,
				   struct evering_arena_state *state);

/* -------------------------------------------------------------------- asking */

/**
 * enum evering_peer_state - state of the other side
 * @EVERING_PEER_ALIVE: it has the channel open
 * @EVERING_PEER_CLOSED: it closed it with evering_close()
 * @EVERING_PEER_DIED: it is gone and had not closed it
 * @EVERING_PEER_LOST: it is on another machine, and the connection to it is lost:
 *	nothing is known about what it did since
 * @EVERING_PEER_RELAY_DIED: it is on another machine, and a relay between the two has
 *	died
 *
 * Only a channel to a relay, evering-relay(1), has the last two.
 */
enum evering_peer_state {
	EVERING_PEER_ALIVE = 0,
	EVERING_PEER_CLOSED = 1,
	EVERING_PEER_DIED = 2,
	EVERING_PEER_LOST = 3,
	EVERING_PEER_RELAY_DIED = 4,
};

/**
 * evering_peer - get the state of the other side
 * @ev: endpoint
 *
 * Asks the kernel.  Once this has returned that the peer is gone, evering_send() fails
 * with -EPIPE in every thread.
 *
 * Context: Any thread.
 * Return: enum evering_peer_state.
 */
EVERING_API int evering_peer(struct evering *ev);

/**
 * struct evering_fate_info - what a peer that has gone did about what it was sent
 * @unseen: the last entries that were sent, as many as this, have certainly not been
 *	acted on
 * @begun: the peer may have acted on so many entries before those, wholly, in part, or
 *	not at all.  It had finished with all earlier ones
 */
struct evering_fate_info {
	uint32_t unseen;
	uint32_t begun;
};

/**
 * evering_fate - what a peer that has gone did about what it was sent
 * @ev: endpoint
 * @fate: out
 *
 * Exact at whatever instruction the peer was killed, if it received with evering_recv()
 * or the like, had a table of operations, or called evering_begin() for what it looked
 * at.  Otherwise, and before its first such call, every entry that it had not released
 * counts as begun.  The numbers are what the peer wrote while it lived; a hostile peer
 * can write wrong ones.  The completions of operations have the same result:
 * EVERING_UNSEEN, EVERING_BEGUN.
 *
 * Context: The sending thread.
 * Return: 0; -EBUSY: the peer is not gone; -EPROTO: it broke the rules.
 */
EVERING_API int evering_fate(struct evering *ev,
			     struct evering_fate_info *fate);

/* evering_replace() */
#define EVERING_REPLACE_FORCE (1u << 0)

/**
 * evering_replace - meet the successor of a peer that has gone
 * @ev: endpoint, which stays the same
 * @path: where the successor listens or will listen, as for evering_listen()
 * @flags: 0; EVERING_REPLACE_FORCE: the peer may still be alive, or stopped.  The
 *	channel with it ends now, whether or not a successor comes.  Entries from it
 *	that are not received are lost, except those that a table of operations takes in
 *	this call.  No entry counts as unseen, because the peer may go on reading
 * @timeout_ns: how long to wait for the successor
 *
 * The successor accepts this side like any other client, with a new channel of the same
 * geometry.  Its evering_predecessors() returns that this side had a peer before.
 * Everything that this side has stays as it is: the endpoint, its policy, its arena
 * with all buffers at their addresses, its place in a group.
 *
 * Entries that the peer had certainly not seen (evering_fate()) are sent to the
 * successor, in order and before anything else.  evering_ops_params.flags,
 * EVERING_REPLACEABLE, describes what happens to operations.
 *
 * This waits for a listener that is not there yet, as under EVERING_AWAIT.  If a
 * successor dies during the meeting, this waits for the next one.
 *
 * Before the call, the caller receives all that the peer had sent (a table of
 * operations does that in this call), keeps nothing of the peer's except buffers that
 * it gave, which can be read until evering_free(), and takes evering_fd() out of event
 * loops.
 *
 * During the call, no other thread uses the endpoint, writes to its arena or calls
 * evering_wake() for it, and the kernel does not write to the arena either (io_uring,
 * O_DIRECT).
 *
 * Afterwards, evering_fd() is another descriptor.  The arena has other pages at the
 * same addresses, so buffers that were registered with the kernel have to be registered
 * again.  This side is EVERING_A of a channel with a single lane
 * (evering_get_geometry(), evering_get_lane()).  If the call fails, the endpoint is as
 * it was, and the call can be repeated.
 *
 * If a successor without a table of operations dies before its first evering_recv() or
 * evering_begin(), all entries that were sent to it again count as begun: see
 * evering_fate().
 *
 * Context: The thread that has both roles and the arena; no other thread uses @ev.
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: no successor in time; -EBUSY: the
 * peer is alive, its requests, posts or messages are not finished with, its entries are
 * not received, or a prepared operation is to give one of its buffers back; -EPROTO: it
 * broke the rules; -EACCES: the listener runs as another user than the peer did, or
 * this user may not connect to the socket; -EOPNOTSUPP: the table beside @ev has no
 * EVERING_REPLACEABLE, such as the tables of a server (evering_server.h); -EDEADLK: a
 * callback of the table runs; -EINVAL: @flags or @timeout_ns is invalid, or fork() has
 * made this process; or as evering_connect().
 */
EVERING_API int evering_replace(struct evering *ev, const char *path,
				unsigned int flags, int64_t timeout_ns);

/**
 * evering_replace_begin - begin to meet the successor of a peer that has gone
 * @ev: endpoint
 * @path: as for evering_replace()
 * @flags: as for evering_replace()
 * @timeout_ns: time for the whole meeting from now on, not EVERING_NOWAIT
 * @c: out: for evering_connecting_close()
 *
 * evering_replace() for event loops.  evering_connecting_step() does the rest, and
 * returns @ev when the successor is there; it may call callbacks of the table first.
 * The endpoint must not be closed before evering_connecting_close().  If several are
 * begun for one endpoint, one succeeds and the steps of the others return -EBUSY.
 *
 * Context: As evering_replace(), in all steps.
 * Return: 0; or as evering_replace(), without the errors that the successor causes.
 */
EVERING_API int evering_replace_begin(struct evering *ev, const char *path,
				      unsigned int flags, int64_t timeout_ns,
				      struct evering_connecting **c);

/**
 * evering_predecessors - get how many earlier peers the channel had
 * @ev: endpoint
 *
 * On the side that called evering_replace() this is the number of those calls that
 * succeeded.  On the other side it is what the peer states; 0: the peer is a new client.
 *
 * Context: Any thread.
 * Return: the number of earlier peers.
 */
EVERING_API uint32_t evering_predecessors(const struct evering *ev);

/**
 * evering_peer_cred - get the credentials of the other side
 * @ev: endpoint
 * @pid: out: the process that met this one; 0: it is not visible in this pid namespace
 * @uid: out: its effective user at that time
 * @gid: out: its effective group
 *
 * They are those of SO_PEERCRED of the socket of the meeting.  For a socketpair(2) that
 * is the process that made the pair.
 *
 * Context: Any thread.
 * Return: 0.
 */
EVERING_API int evering_peer_cred(const struct evering *ev, pid_t *pid,
				  uid_t *uid, gid_t *gid);

/**
 * struct evering_lane - the place of a channel among those of one meeting
 * @set: a number that all channels of the meeting have on this side, and that no other
 *	channel of this process has or had; the peer has a number of its own
 * @lane: this channel's place among them, from 0, the same on both sides
 * @lanes: how many there were; 1: the channel was made alone
 */
struct evering_lane {
	uint64_t set;
	uint32_t lane;
	uint32_t lanes;
};

/**
 * evering_get_lane - find which channels were made in one meeting
 * @ev: endpoint
 * @lane: out
 *
 * All lanes of a set have the same peer, and evering_peer_cred() returns the same for
 * them.
 *
 * Context: Any thread.
 */
EVERING_API void evering_get_lane(const struct evering *ev,
				  struct evering_lane *lane);

/**
 * evering_get_geometry - get the sizes of a channel
 * @ev: endpoint
 * @geometry: out
 *
 * Context: Any thread.
 * Return: the name of this endpoint, EVERING_A or EVERING_B.
 */
EVERING_API int evering_get_geometry(const struct evering *ev,
				     struct evering_geometry *geometry);

/**
 * evering_get_counters - get the counters of one side
 * @ev: endpoint
 * @whose: EVERING_MINE or EVERING_PEERS; the peer's are as the peer states
 * @counters: out
 *
 * The counts of entries may lag by up to the entries of a ring.
 *
 * Context: Any thread.
 */
EVERING_API void evering_get_counters(const struct evering *ev, int whose,
				      struct evering_counters *counters);

/**
 * evering_backend_name - get the name of a channel's backend
 * @ev: endpoint
 *
 * Context: Any thread.
 * Return: "device" or "memfd", a constant string.
 */
EVERING_API const char *evering_backend_name(const struct evering *ev);

/**
 * evering_version - get the library's version
 *
 * This is the version of the library that runs.  The caller may have been compiled with
 * another one, EVERING_VERSION.
 *
 * Context: Any thread.
 * Return: "major.minor.patch", a constant string.
 */
EVERING_API const char *evering_version(void);

#include "evering_ring.h"
#include "evering_op.h"
#include "evering_group.h"
#include "evering_server.h"

#ifdef __cplusplus
}
#pragma GCC diagnostic pop
#endif

#endif /* EVERING_H */
