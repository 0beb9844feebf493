/* SPDX-License-Identifier: MIT */
/*
 * evering.h: talk to another process through shared memory.
 *
 * A channel joins two equal endpoints.  Each direction is a ring of fixed-size
 * entries, and beside the rings each endpoint has an arena for payload, which the
 * peer reads in place.  Sending and receiving are plain loads and stores; the
 * kernel is entered only when somebody sleeps or has to be woken.
 *
 * Conventions
 *
 * - Errors are negative errno values, returned; errno itself is not set.
 * - Times are in nanoseconds, relative, on CLOCK_MONOTONIC: EVERING_NOWAIT,
 *   EVERING_WAIT_FOREVER, or a positive number.
 * - Sizes are in bytes.
 * - A signal handler that runs while a call sleeps ends it with -EINTR, whatever
 *   SA_RESTART says.  So does one while it spins under EVERING_ADAPTIVE, but for the
 *   first microseconds, and no handler does under EVERING_BUSY: evering_wake() from
 *   the handler, or evering_pwait(), miss none.  A signal that is ignored ends nothing,
 *   with one exception: if the process has a handler for another signal, one that came
 *   while it was blocked may, in the last microsecond of such a spin or before an
 *   evering_pwait().  On memfd a process that is stopped and goes on (SIGSTOP, SIGTSTP,
 *   a debugger, a freezer) may get -EINTR, too, without any handler: as of
 *   epoll_wait(2).
 *
 * Threads
 *
 * One thread may send while another receives.  That is the whole rule, and the
 * roles are roles: a thread may take over from another if the two synchronize.
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
 * A process that was made by fork() has none of the memory of its parent's
 * channels: it must not use them, and may only exec, exit or close them, which the
 * peer does not notice.  Listeners it can use: see evering_accept().
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
 * The version of these headers, three numbers below 1000; evering_version() says the
 * library's.  The Makefile, pkg-config and the packages take theirs from here.
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
 * These are C's headers: what a compiler can be told to say of C++ alone is not for
 * them.  What their macros expand to, in the files of others, has nothing of it.
 */
#ifdef __cplusplus
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"
/* A function evering_peer_cred() beside a struct of that name. */
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
 * @EVERING_BACKEND_AUTO: what $EVERING_BACKEND says ("device" or "memfd"), else
 *	the device if /dev/evering can be opened, else memfd
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
 * @EVERING_BUSY: spin and never sleep: the lowest latency, for a CPU to itself
 */
enum evering_policy {
	EVERING_ADAPTIVE = 0,
	EVERING_BLOCK = 1,
	EVERING_BUSY = 2,
};

/*
 * Beside a policy.
 *
 * EVERING_LAZY_RING: for an endpoint of which one thread has both roles.  A send to a
 * peer that sleeps does not ring it: the ring is owed until this side waits (in either
 * role, EVERING_NOWAIT too), calls evering_arm(), evering_flush() or evering_publish(),
 * or closes.  On the device a send and the wait for its answer are one system call
 * then, not two.  Who turns to something else in between flushes first, or the peer
 * sleeps meanwhile.
 *
 * EVERING_NO_HANDOVER: the peer's thread that a wait rings runs where the scheduler
 * likes, and not on the CPU that the wait gives up (evering(4)).  For two that are to
 * run at the same time all the same.  memfd hands no CPU over.
 */
#define EVERING_LAZY_RING   (1u << 16)
#define EVERING_NO_HANDOVER (1u << 17)

/* evering_params.flags, beside EVERING_SHARED_ARENA */
#define EVERING_POPULATE (1u << 16) /* map the pages of the arenas at once */
#define EVERING_AWAIT \
	(1u << 20) /* evering_connect(): the listener may come later */

/* Index into evering_params.arena_size */
#define EVERING_MINE 0
#define EVERING_PEERS 1

/**
 * struct evering_params - how to make, or to accept, a channel
 * @size: sizeof(struct evering_params).  Functions take a shorter struct, of an earlier
 *	version, with the defaults for what it lacks, and a longer one if what this
 *	version does not know is zero
 * @flags: EVERING_SHARED_ARENA: of the channel; EVERING_POPULATE: of this side alone,
 *	so that touching an arena for the first time takes no page faults, each of which
 *	costs several times what copying the page does; EVERING_AWAIT: of
 *	evering_connect() and evering_connect_begin(), which then wait for a listener that
 *	is not there yet; without a meaning elsewhere, and invalid as a limit
 * @slot_size: EVERING_MIN_SLOT..EVERING_MAX_SLOT bytes, a power of two; an entry
 *	is EVERING_STAMP_SIZE less
 * @entries: slots of each ring, EVERING_MIN_ENTRIES..EVERING_MAX_ENTRIES, a power
 *	of two
 * @arena_size: bytes of this side's arena and of the peer's, 0..EVERING_MAX_ARENA,
 *	multiples of the page size
 * @backend: enum evering_backend_id
 * @policy: enum evering_policy, of this side, with EVERING_LAZY_RING and
 *	EVERING_NO_HANDOVER or without
 * @spin_ns: the longest that EVERING_ADAPTIVE spins; 0..1,000,000
 * @lanes: of evering_accept(): the most lanes that a client gets in one meeting,
 *	0..EVERING_MAX_LANES, 0 being as good as 1; without a meaning for evering_accept_fd(),
 *	which takes one; elsewhere 0
 * @arena_begin: bytes of this side's arena that have memory when the channel is made,
 *	rounded up to pages; the rest gets it when evering_alloc() needs it, never gives it
 *	back, and may be refused it.  EVERING_WHOLE or anything beyond @arena_size: all of
 *	it has, as under EVERING_POPULATE.  The peer's is the peer's matter
 *
 * Start from EVERING_PARAMS_INIT.  For evering_accept*(), which follows the
 * connecting side's wishes, @slot_size, @entries and @arena_size are the most that
 * is accepted and EVERING_SHARED_ARENA is, or is not: a client that wishes for more gets
 * -E2BIG; @backend is ignored.
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
 * What EVERING_PARAMS_INIT should be to accept whatever is reasonable.  EVERING_SHARED_ARENA
 * is not: on memfd a stranger could take the memory of both arenas away again and again,
 * and have this side pay for it wherever it reads or writes next.  Nor is a large arena of
 * the peer's: it may be empty, and one entry has this side fill it.
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
 * evering_listen - be found at a Unix socket
 * @path: the socket's path, or "@name" for the abstract name "name"
 * @mode: permissions of the socket file, as for chmod(2), set before anybody can
 *	connect; 0: what the umask leaves.  Abstract names have none.
 * @listener: out: the listener, for evering_listener_close()
 *
 * A socket file that a dead process left behind is replaced; one that is in use is
 * not.
 *
 * Returns 0; -EINVAL: @path is empty; -ENAMETOOLONG: over 107 bytes; -EADDRINUSE:
 * somebody listens there, or something else than a socket lies there; -ENOENT,
 * -EACCES, -EROFS, …: of bind(2); -EMFILE, -ENFILE, -ENOMEM; -ENOSPC: this user has
 * fs.epoll.max_user_watches.  Any thread.
 */
EVERING_API int evering_listen(const char *path, mode_t mode,
			       struct evering_listener **listener);

/**
 * evering_listen_fd - be found at a socket that listens already
 * @fd: a Unix socket of type SOCK_SEQPACKET that listens; the listener's on success,
 *	which closes it with evering_listener_close() and sets FD_CLOEXEC, and O_NONBLOCK
 *	for all who have the same socket; still the caller's on error
 * @listener: out: the listener, for evering_listener_close()
 *
 * For a socket that a service manager or a parent passes.  Its file is not removed when
 * the listener is closed.  Others may listen at the same socket, and each connection goes
 * to one of them.
 *
 * Returns 0; -EINVAL: @fd does not listen; -EPROTOTYPE: it is a socket of another kind;
 * -ENOTSOCK, -EBADF: it is no socket, or not open; -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: as
 * evering_listen().  Any thread.
 */
EVERING_API int evering_listen_fd(int fd, struct evering_listener **listener);

/**
 * evering_listen_activated - be found at a socket that the service manager has passed
 * @name: the socket's name among $LISTEN_FDNAMES (FileDescriptorName= in a .socket unit
 *	of systemd); NULL: the first socket
 * @listener: out: the listener, for evering_listener_close()
 *
 * As evering_listen_fd(), with the descriptor that $LISTEN_PID and $LISTEN_FDS tell of, as
 * sd_listen_fds(3) has it.  The variables stay as they are: to be called once for each
 * socket.
 *
 * Returns 0; -ENOENT: no such socket was passed, or it was to another process;
 * -EBADMSG: $LISTEN_PID or $LISTEN_FDS is no number; or as evering_listen_fd().  Thread:
 * any, while none changes the environment.
 */
EVERING_API int evering_listen_activated(const char *name,
					 struct evering_listener **listener);

/**
 * evering_listener_share - another listener at the same socket, for another thread
 * @listener: from evering_listen(), evering_listen_fd() or this
 * @other: out: the other one, for evering_listener_close()
 *
 * Each connection goes to one of the two.  The other has the rules that @listener has
 * now, and one book with it: what a user may have, it may have of both together.  Each
 * counts those that it turns away.  They may be closed in any order; the socket file of
 * evering_listen() goes with the last.
 *
 * Returns 0; -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: as evering_listen().  Thread: the one
 * that accepts.
 */
EVERING_API int evering_listener_share(struct evering_listener *listener,
				       struct evering_listener **other);

/**
 * struct evering_admission - who may meet a listener, and how much a user may have
 * @size: sizeof(struct evering_admission)
 * @flags: 0
 * @user_channels: channels that one user may have open with this listener, each lane
 *	counting as one
 * @user_waiting: connections of one user that have not said hello yet
 * @user_bytes: bytes that one user's channels may come to cost this side: of each both
 *	halves and both arenas, as large as they can grow; on the device, where the
 *	connecting side pays for the rest, this side's arena
 * @allow: called for each connection before anything of it is received and anything
 *	for it allocated, with the credentials of its maker as SO_PEERCRED has them;
 *	returns 0: it may say hello; a negative errno: it is turned away, and told so
 *	if that is -EACCES, -EPERM or -EDQUOT.  Called from evering_accept(); must
 *	not call it, nor close the listener.  NULL: everybody may
 * @context: for @allow
 *
 * Start from EVERING_ADMISSION_INIT.  The numbers hold for each user but root and the one
 * that this process runs as.  A user that would have more channels or bytes is turned away
 * with -EDQUOT, or gets as many lanes as it may still have; one connection more than
 * @user_waiting takes the place of its oldest.
 *
 * A user that does not read its welcomes may have an eighth of this process's RLIMIT_NOFILE
 * under way in them, also after the channels have been closed.  Then it is turned away with
 * -ETOOMANYREFS until it reads one, or closes its end.
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
 * evering_listener_admit - say who may meet a listener
 * @listener: from evering_listen()
 * @admission: the rules from now on; NULL: EVERING_ADMISSION_INIT, which hold if this
 *	is never called
 *
 * Channels that there are stay, and count.
 *
 * Returns 0; -EINVAL, -E2BIG: @admission.  Thread: the one that accepts.
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
 * Greets up to 64 connections side by side; each has a second to say hello, and if
 * there are more, the user with most of the places loses its oldest silent one.  A
 * connection that says hello wrongly, asks for too much, is not admitted or runs out of
 * time is turned away, counted, and does not end this call.  The work of one call is
 * bounded, whatever strangers do: with EVERING_NOWAIT by a fixed number of steps, and by
 * one hello, which may come to nothing: -EAGAIN need not mean that nobody is there, and
 * evering_listener_fd() is still readable if somebody is.
 *
 * In a process made by fork() the listener works as well: each connection goes to one
 * of the processes, and each has its own evering_listener_fd() and its own books.
 *
 * The lanes of evering_connect_many() are channels like others: this call returns the first
 * one, and the next calls, whatever their @limits, the others, in their order and at once;
 * evering_listener_fd() polls readable meanwhile.  evering_get_lane() tells which are of
 * one client.
 *
 * Returns 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: no peer in time; -EINVAL, -E2BIG:
 * @limits or @timeout_ns; -EINTR; -EMFILE, -ENFILE: this side has no descriptors left
 * for one more channel: a client that asks for lanes is turned away instead;
 * -ENOMEM, -ENOSPC: no memory, or watches of epoll, to look after connections.  A client
 * that asks for more memory than there is, or than RLIMIT_FSIZE allows, is turned away.
 * One thread at a time.
 */
EVERING_API int evering_accept(struct evering_listener *listener,
			       const struct evering_params *limits,
			       int64_t timeout_ns, struct evering **ev);

/**
 * evering_listener_fd - a descriptor for an event loop
 * @listener: from evering_listen()
 *
 * Returns a descriptor that polls readable when evering_accept() with
 * EVERING_NOWAIT has something to do.  It belongs to the listener.  A process made by
 * fork() asks for its own, and may get -EMFILE, -ENFILE, -ENOMEM or -ENOSPC instead.
 * Thread: the one that accepts.
 */
EVERING_API int evering_listener_fd(struct evering_listener *listener);

/**
 * evering_listener_refused - how many were turned away, and why the last one
 * @listener: from evering_listen()
 * @error: out: negative errno of the last one, 0 if there was none; may be NULL
 *
 * Of the reasons, -EPROTO: not a hello, or wrong descriptors with it;
 * -EPROTONOSUPPORT: another ABI version; -E2BIG: beyond the limits; -EINVAL:
 * an impossible geometry; -ETIMEDOUT: said nothing; -ECONNRESET: went away; -EDQUOT: its
 * user has enough; -EACCES and others: of evering_admission.allow; -ENOMEM, -EFBIG: no
 * memory, or no file so large, for what it asked for; -EMFILE, -ENFILE: no descriptors;
 * -ETOOMANYREFS: too many descriptors are under way, to its user, or from this one.
 * Thread: the one that accepts.
 */
EVERING_API uint64_t
evering_listener_refused(const struct evering_listener *listener, int *error);

/**
 * evering_listener_close - stop being found
 * @listener: from evering_listen(), or NULL
 *
 * The last one of those that share a socket removes its file, if it is still theirs, and
 * this is the process that made it.  Channels that were accepted live on; lanes that evering_accept() has not
 * returned yet are closed.  Of an abstract socket the name is free afterwards, unless others have
 * the socket, too: for that it may wait, for a second at most.  Thread: alone.
 */
EVERING_API void evering_listener_close(struct evering_listener *listener);

/**
 * evering_connect - meet the listener at a Unix socket
 * @path: as for evering_listen()
 * @params: the channel wished for; NULL: EVERING_PARAMS_INIT
 * @timeout_ns: for all of it
 * @ev: out: this side's endpoint, for evering_close()
 *
 * The connecting side makes the channel and pays for it.  With EVERING_AWAIT in @params
 * it does so at once, and tries to connect until the listener is there or @timeout_ns has
 * passed: again when the directory changes, and after pauses of 1 ms to 1 s (0.1 s at
 * abstract names).  Nor does it give up while the permissions keep it out, which a new
 * listener sets after it has made the file: -EACCES is then for the end of @timeout_ns.
 *
 * Where the listener serves somebody else first, or turns this side away because its hello
 * was held up for a second, this call connects again, as long as @timeout_ns lasts.
 *
 * Returns 0; -EINVAL: @params, @timeout_ns or $EVERING_BACKEND is invalid; -E2BIG:
 * beyond EVERING_MAX_*, or beyond what the listener accepts; -ENAMETOOLONG: over 107
 * bytes; -ENOENT, -ECONNREFUSED: of connect(2), without EVERING_AWAIT; -EACCES, -EPERM: of connect(2), or not
 * admitted by the listener; -EPROTONOSUPPORT: the listener speaks other versions of the
 * ABI; -EPROTO: it does not speak evering, or could not make its part; -ECONNRESET: it
 * went away; -EAGAIN (EVERING_NOWAIT),
 * -ETIMEDOUT: it was not fast enough; -EINTR; -EMFILE, -ENFILE: no descriptors; -ENOMEM:
 * no memory on either side, a memory cgroup's limit included; -EDQUOT: a quota of the
 * module, or what the listener lets a user have; -ENOBUFS: no memory for a packet;
 * -ETOOMANYREFS: too many descriptors under way in packets, on either side, for a second
 * or all of @timeout_ns if they are the listener's; -EFBIG: an arena beyond
 * RLIMIT_FSIZE of its side, which counts for memfds; -ENODEV: the device was asked for
 * and is not there.  Any thread.
 */
EVERING_API int evering_connect(const char *path,
				const struct evering_params *params,
				int64_t timeout_ns, struct evering **ev);

/**
 * evering_connect_many - meet a listener for a channel a thread
 * @path: as for evering_listen()
 * @params: each of the channels wished for; NULL: EVERING_PARAMS_INIT
 * @count: how many, 1..EVERING_MAX_LANES
 * @timeout_ns: for all of it
 * @ev: out: this side's endpoints, each for evering_close(); room for @count
 *
 * As evering_connect(), for several channels in one meeting: lanes.  All of them have the
 * same geometry and the same peer, and from then on each is a channel like others, with
 * threads, an end and a death of its own: evering_close() ends that lane only, and a thread
 * that stops or ends, in whatever way, delays none but its own, which stays open until it
 * is closed or the process ends.
 *
 * The listener grants as many as its limits and the user's allow, which may be fewer than
 * @count and are at least one.  This side makes, and pays for, all of them until it knows.
 *
 * Returns how many there are now in @ev, 1..@count; -EINVAL: @count is 0; -E2BIG: it is
 * beyond EVERING_MAX_LANES; else as evering_connect(), and there are none.  Any thread.
 */
EVERING_API int evering_connect_many(const char *path,
				     const struct evering_params *params,
				     unsigned int count, int64_t timeout_ns,
				     struct evering **ev);

/**
 * evering_connect_begin - begin to meet the listener at a Unix socket
 * @path: as for evering_listen()
 * @params: as for evering_connect()
 * @timeout_ns: for all of it from now on, not EVERING_NOWAIT
 * @c: out: for evering_connecting_close()
 *
 * evering_connect() for event loops: no call of it waits for the other side.  This one
 * makes the channel; evering_connecting_step() does the rest, the first time at once.
 *
 *	evering_connect_begin(path, NULL, SECOND, &c);
 *	while ((ret = evering_connecting_step(c, &ev)) == -EAGAIN)
 *		... until evering_connecting_fd(c) is readable ...
 *	evering_connecting_close(c);
 *
 * Returns 0; or as evering_connect(), without what the other side has to do with.  Any
 * thread.
 */
EVERING_API int evering_connect_begin(const char *path,
				      const struct evering_params *params,
				      int64_t timeout_ns,
				      struct evering_connecting **c);

/**
 * evering_connect_begin_many - begin to meet a listener for a channel a thread
 * @path: as for evering_listen()
 * @params: as for evering_connect_many()
 * @count: as for evering_connect_many()
 * @timeout_ns: for all of it from now on, not EVERING_NOWAIT
 * @c: out: for evering_connecting_close()
 *
 * As evering_connect_begin(), but the steps are those of evering_connecting_step_many().
 *
 * Returns 0; or as evering_connect_many(), without what the other side has to do with.
 * Any thread.
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
 * Returns a descriptor that polls readable when evering_connecting_step() has something to
 * do, be it that the time is up; or -EMFILE, -ENFILE, -ENOMEM, -ENOSPC; -EINVAL: in a
 * process that fork(2) has made after evering_connect_begin().  It is always the same
 * one, belongs to @c, and is closed with it.  Thread: one at a time for each @c.
 */
EVERING_API int evering_connecting_fd(struct evering_connecting *c);

/**
 * evering_connecting_step - go on with it as far as it goes without waiting
 * @c: from evering_connect_begin()
 * @ev: out: this side's endpoint, for evering_close()
 *
 * Returns 0; -EAGAIN: not yet; else it has failed, as evering_connect() does.  After
 * anything but -EAGAIN all that is left to do is evering_connecting_close(), and
 * another step is -EINVAL.  So is one in a process that fork(2) has made after
 * evering_connect_begin().  Thread: one at a time for each @c.
 */
EVERING_API int evering_connecting_step(struct evering_connecting *c,
					struct evering **ev);

/**
 * evering_connecting_step_many - the same for several channels
 * @c: from evering_connect_begin_many()
 * @ev: out: this side's endpoints, each for evering_close(); room for as many as were
 *	wished for
 *
 * Returns how many there are now in @ev, at least 1; else as evering_connecting_step().
 * Each of the two steps is -EINVAL for the other's @c.  Thread: one at a time for each @c.
 */
EVERING_API int evering_connecting_step_many(struct evering_connecting *c,
					     struct evering **ev);

/**
 * evering_connecting_close - end it, however far it is
 * @c: from evering_connect_begin() or evering_connect_begin_many(), or NULL
 *
 * Endpoints that a step has returned live on.  Thread: alone.
 */
EVERING_API void evering_connecting_close(struct evering_connecting *c);

/**
 * evering_connect_fd, evering_accept_fd - meet over a socket that is there already
 * @fd: a connected Unix socket of type SOCK_SEQPACKET, of socketpair(2) for
 *	instance, with nothing in it; the endpoint's on success, which sets FD_CLOEXEC;
 *	still the caller's on error, with that perhaps set and its packets dropped
 * @params: as for evering_connect()
 * @limits: as for evering_accept()
 * @timeout_ns: for all of it
 * @ev: out: this side's endpoint, for evering_close()
 *
 * For a parent and its child, or where somebody else knows how to connect.  One
 * side calls the one, the other side the other.  Whoever wishes for lanes gets one here.
 *
 * Returns as evering_connect(); evering_accept_fd() also the reasons of
 * evering_listener_refused().  -ENOTSOCK, -EPROTOTYPE: wrong @fd.  Any thread.
 */
EVERING_API int evering_connect_fd(int fd, const struct evering_params *params,
				   int64_t timeout_ns, struct evering **ev);
EVERING_API int evering_accept_fd(int fd, const struct evering_params *limits,
				  int64_t timeout_ns, struct evering **ev);

/**
 * evering_open_fd - open an end of a channel that a kernel module has
 * @fd: what the module's driver gave for it; stays the caller's, who may close it at once
 * @params: policy, spin_ns, flags and arena_begin; the rest is as the module made it; NULL
 *	for the defaults of evering_accept()
 * @ev: the endpoint
 *
 * There is nobody to meet: the module is there from the start.  One process at a time, as
 * any endpoint of the device; the peer has no credentials.
 *
 * Returns 0; -EINVAL, -E2BIG: @params; -EBADF; -EPROTO: no endpoint of the device, one that was
 * opened before, or not the end that modules give away; -EPROTONOSUPPORT: a module of another version;
 * -ENOMEM, -EMFILE, -ENFILE, -EDQUOT.  Any thread.
 */
EVERING_API int evering_open_fd(int fd, const struct evering_params *params,
				struct evering **ev);

/**
 * evering_pair - both endpoints of a new channel, in one process
 * @params: the channel wished for, A being this side; NULL: EVERING_PARAMS_INIT
 * @ev: out: A and B, each for evering_close()
 *
 * For two threads, and for tests.
 *
 * Returns 0; -EINVAL, -E2BIG: @params, $EVERING_BACKEND; -EMFILE, -ENFILE, -ENOMEM,
 * -EDQUOT, -EFBIG, -ENODEV: as evering_connect().  Any thread.
 */
EVERING_API int evering_pair(const struct evering_params *params,
			     struct evering *ev[2]);

/**
 * evering_close - leave a channel
 * @ev: endpoint, or NULL
 *
 * The peer can still receive what was sent, and is told that this side has closed
 * it (EVERING_PEER_CLOSED).  Unmaps everything: pointers into the rings and the
 * arenas are void.  In a process made by fork() it frees that one's copies of memory
 * and descriptors, and the channel goes on.  Thread: alone.
 */
EVERING_API void evering_close(struct evering *ev);

/* --------------------------------------------------------------------- relays */

/**
 * evering_relay - stand in for a process elsewhere
 * @ev: endpoint
 *
 * For who receives here what another process is to have, and sends what that one has sent.
 * If this process dies from now on, its peer has EVERING_PEER_RELAY_DIED and not
 * EVERING_PEER_DIED.  To be called before anything is received or sent.
 *
 * What a relay takes from the ring it keeps there until the other process is done with it
 * (evering_look_ahead()), takes up before it passes it on (evering_begin()), and, when that
 * process has gone, releases and takes up what that one had, so that evering_fate() is as
 * exact as between two on one machine.
 *
 * Thread: both roles.
 */
EVERING_API void evering_relay(struct evering *ev);

/**
 * evering_close_as - leave a channel as the process elsewhere has left it
 * @ev: endpoint, or NULL
 * @how: what the peer's evering_peer() is to say: EVERING_PEER_CLOSED, as evering_close();
 *	EVERING_PEER_DIED, _LOST or _RELAY_DIED
 *
 * Returns 0; -EINVAL: @how, and nothing has happened.  Thread: alone.
 */
EVERING_API int evering_close_as(struct evering *ev, int how);

/* ------------------------------------------------------------------- waiting */

#define EVERING_FLUSH (1u << 16) /* evering_wait(): flush first */

/**
 * evering_wait - wait until there is something to do
 * @ev: endpoint
 * @what: EVERING_RX: an entry; EVERING_TX: space for one; or both.  With
 *	EVERING_FLUSH: evering_flush() first, in the same system call where that
 *	can be
 * @timeout_ns: how long, at the most
 *
 * As the endpoint's policy says, publishes and flushes as needed before it sleeps.
 *
 * Returns those of EVERING_RX and EVERING_TX of @what that are ready, at least one;
 * -EAGAIN: none, and @timeout_ns was EVERING_NOWAIT; -ETIMEDOUT: none in time;
 * -EPIPE: the peer is gone, and with it any hope of space, and of entries once
 * those in the ring are received; -EPROTO: the peer broke the rules, the channel
 * is of no more use; -EINTR: a signal handler ran, or evering_wake() was called, as the
 * conventions above say; -EINVAL: @what or @timeout_ns.
 *
 * EVERING_NOWAIT makes no system call but for one in many calls, which finds out
 * whether the peer still lives.  Thread: the roles of @what.
 */
EVERING_API int evering_wait(struct evering *ev, unsigned int what,
			     int64_t timeout_ns);

/**
 * evering_pwait - evering_wait() with other signals let in, as ppoll(2)
 * @ev: endpoint
 * @what: as for evering_wait()
 * @timeout_ns: as for evering_wait()
 * @sigmask: the signals that are blocked while this waits; NULL: those that are anyway
 *
 * For callers that block a signal, look at what its handler has left, and wait: with the
 * signal let in here, and nowhere else, none is slept over.  It ends the wait within
 * some tens of microseconds (a millisecond under EVERING_BUSY) even while that spins.
 *
 * Declared where <signal.h> has sigset_t, which takes _POSIX_C_SOURCE or the like.
 *
 * Returns as evering_wait().  Thread: the roles of @what.
 */
#ifdef SIG_BLOCK
EVERING_API int evering_pwait(struct evering *ev, unsigned int what,
			      int64_t timeout_ns, const sigset_t *sigmask);
#endif

/**
 * evering_wake - end a wait of this process
 * @ev: endpoint
 * @what: the roles whose wait to end: EVERING_RX, EVERING_TX or both
 *
 * The wait that a thread is in, in one of these roles, ends with -EINTR, whether it spins
 * or sleeps; if there is none, the next one does that would have to wait.  Any number of
 * calls before that end one.  A loop that sleeps in evering_fd() is woken as well.
 *
 * Returns 0; -EINVAL: @what.  Any thread; async-signal-safe.  The endpoint must stay open
 * until it has returned.
 */
EVERING_API int evering_wake(struct evering *ev, unsigned int what);

/**
 * evering_want_room - how much room is worth being told of
 * @ev: endpoint, without a table of operations
 * @count: entries, 1..entries
 *
 * From now on EVERING_TX means, for evering_wait(), evering_arm() and groups, that there is
 * room for @count entries and not only for one.  evering_room() says what there is.
 *
 * Returns 0; -EINVAL: @count, or @ev has a table.  Sending thread.
 */
EVERING_API int evering_want_room(struct evering *ev, uint32_t count);

/**
 * evering_publish - tell the peer now what was released
 * @ev: endpoint
 *
 * The peer is otherwise told each quarter ring, and before this side waits on the same
 * channel.  Whoever stops receiving here to wait for something else, another channel or
 * a lock, calls this first: else the peer may wait for room that there is.  If the peer
 * sleeps for want of it, it is woken.
 *
 * Returns 0.  Thread: receiving.
 */
EVERING_API int evering_publish(struct evering *ev);

/**
 * evering_fd - a descriptor for an event loop
 * @ev: endpoint
 *
 * For poll, epoll (level- or edge-triggered) and io_uring.  Before every sleep of
 * the loop call evering_arm(); then poll it for evering_events() of what was armed:
 * it becomes ready when that is there, or the peer is gone.  While nothing is armed
 * it may be ready or not.  It belongs to the endpoint: add it and poll it, but do
 * not read, write or close it.  On memfd it is an epoll set itself, and so cannot
 * be added with EPOLLEXCLUSIVE.  Take it out of the loop before evering_close(): a child
 * that this process makes, as evering_accept() and evering_connect() in another thread
 * do for a moment, has a copy that keeps it there.
 *
 * Returns the descriptor; -EBUSY: a member of a group; -EMFILE, -ENFILE, -ENOMEM; -ENOSPC:
 * on memfd, this user has fs.epoll.max_user_watches.  Any thread.
 */
EVERING_API int evering_fd(struct evering *ev);

/**
 * evering_events - what to poll evering_fd() for
 * @ev: endpoint
 * @what: what is armed: EVERING_RX, EVERING_TX or both
 *
 * For EVERING_RX it is always POLLIN alone; for EVERING_TX it is POLLOUT on the
 * device, and on memfd, whose descriptor knows no other kind of ready, POLLIN.
 *
 * Returns events for poll(2), which are those of epoll(7) as well.  Any thread.
 */
EVERING_API short evering_events(const struct evering *ev, unsigned int what);

/**
 * evering_arm - ask to be woken through evering_fd()
 * @ev: endpoint
 * @what: EVERING_RX: when there is an entry; EVERING_TX: when there is space;
 *	or both
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
 * Publishes what was released; for EVERING_TX also flushes, since a full ring is not
 * drained by a receiver that nobody has woken.  For EVERING_RX alone it flushes nothing: a
 * caller that has sent calls evering_flush() first.  What was armed before need not be
 * disarmed first.
 *
 * Returns 0: nothing is there, and the descriptor will tell; those of @what that
 * are ready, and then nothing is armed; -EPIPE, -EPROTO: as evering_wait();
 * -EINVAL: @what; -EBUSY: a member of a group.  Thread: the roles of @what.
 */
EVERING_API int evering_arm(struct evering *ev, unsigned int what);

/**
 * evering_disarm - not to be woken any more
 * @ev: endpoint
 * @what: EVERING_RX, EVERING_TX or both
 *
 * Only to spare the peer a ring when the loop goes on with something else.
 * Thread: the roles of @what.
 */
EVERING_API void evering_disarm(struct evering *ev, unsigned int what);

/**
 * struct evering_bell - how to wake a peer
 * @fd: the endpoint's, which keeps it open until evering_close()
 * @command: EVERING_IOC_RING: by that ioctl of @fd with the argument EVERING_RX, or
 *	by the io_uring command of the same name; 0: by writing the uint64_t 1 to
 *	@fd, an eventfd
 */
struct evering_bell {
	int fd;
	uint32_t command;
};

/**
 * evering_flush_begin - evering_flush(), with the system call left to the caller
 * @ev: endpoint
 * @bell: out, if 1 is returned
 *
 * For who has sent on many channels, and wants to wake all of their peers in one
 * system call; <evering_uring.h> does, with io_uring.  From now on the peer counts as
 * woken: whoever does not ring @bell, before it waits for anything itself, leaves it
 * asleep.
 *
 * Returns 0: the peer is awake; 1: @bell is to be rung.  Thread: sending.
 */
EVERING_API int evering_flush_begin(struct evering *ev,
				    struct evering_bell *bell);

/**
 * evering_set_policy - change how this endpoint waits
 * @ev: endpoint
 * @policy: as evering_params.policy
 * @spin_ns: as evering_params.spin_ns
 *
 * Returns 0; -EINVAL.  Thread: both roles.
 */
EVERING_API int evering_set_policy(struct evering *ev, unsigned int policy,
				   uint32_t spin_ns);

/* -------------------------------------------------------------------- arenas */

/**
 * evering_alloc - a buffer in the own arena
 * @ev: endpoint
 * @size: bytes, 1..the arena
 * @align: 0 for 64, or a power of two up to 2 MiB
 *
 * Where the arena has no memory yet it gets some now, 64 KiB or half of what it has at a
 * time, unless the memory cgroup, the system or, on the device, a quota say no.  Then it
 * is as if the arena were full; evering_get_arena() tells which.
 *
 * Two-level segregated fit with its bookkeeping outside the arena, where neither
 * the peer nor a stray write gets at it.  O(1).  The contents are what they were.
 * (M. Masmano, I. Ripoll, A. Crespo, J. Real: TLSF: a new dynamic memory allocator
 * for real-time systems, ECRTS 2004.)
 *
 * Returns the buffer, to be freed with evering_free(); NULL: no such room, no memory for
 * it, or @align cannot be.  One thread at a time.
 */
EVERING_API void *evering_alloc(struct evering *ev, size_t size, size_t align);

/**
 * evering_free - give a buffer back
 * @ev: endpoint
 * @buf: from evering_alloc() of the same endpoint, or one that the peer has given
 *	(see evering_op.h), which goes home with this; or NULL
 *
 * Returns 0; else nothing has happened: -EINVAL: @buf is not the start of a buffer
 * that is allocated (freed twice, for instance), or given by the peer; -EBUSY: it is
 * lent; -ESTALE: it was given to the peer.  One thread at a time.
 */
EVERING_API int evering_free(struct evering *ev, void *buf);

/**
 * evering_copy - write payload for the peer to read
 * @to: where, in an arena or an entry
 * @from: what; the two do not overlap
 * @len: bytes; may be 0
 *
 * memcpy(3), but for what is so large that it is better written past the caches, which
 * this does, and makes it visible before whatever is committed afterwards.  A caller that
 * uses non-temporal stores of its own has to see to that itself, with sfence before the
 * commit: else the peer may find the entry before the payload.
 *
 * Returns @to.  Any thread.
 */
EVERING_API void *evering_copy(void *to, const void *from, size_t len);

/**
 * evering_offset - where a buffer lies, for an entry to say
 * @ev: endpoint
 * @buf: a place in the own arena
 *
 * Returns its offset from the start of the arena, in bytes.  Any thread.
 */
EVERING_API uint64_t evering_offset(const struct evering *ev, const void *buf);

/**
 * evering_peer_buffer - where the peer's payload lies
 * @ev: endpoint
 * @offset: bytes from the start of the peer's arena, as the peer says
 * @len: bytes
 *
 * The peer can change the bytes at any time.  Not writable unless the channel has
 * EVERING_SHARED_ARENA.
 *
 * Returns a pointer to @len bytes; NULL: not all of them lie in the arena, or the peer
 * has no memory for them yet, or this side none to see them.  Any thread.
 */
EVERING_API const void *evering_peer_buffer(const struct evering *ev,
					    uint64_t offset, uint64_t len);

/**
 * evering_arena - the own arena as a whole
 * @ev: endpoint
 * @size: out: its bytes; may be NULL
 *
 * All of it has memory from now on.
 *
 * Returns its start; NULL if it has no bytes, or there is no memory for all of them.
 * Thread: as evering_alloc(), or any once it has returned the start.
 */
EVERING_API void *evering_arena(const struct evering *ev, uint64_t *size);

/**
 * evering_arena_part - the first bytes of the own arena
 * @ev: endpoint
 * @size: how many; evering_get_arena() says how many it has
 *
 * Those have memory from now on.  For who chooses places in the arena itself, which
 * evering_alloc() is not to do as well.
 *
 * Returns its start; NULL: it is smaller, or there is no memory for so many.  Thread: as
 * evering_alloc().
 */
EVERING_API void *evering_arena_part(const struct evering *ev, uint64_t size);

/**
 * struct evering_arena_state - how far an arena has grown
 * @begin: bytes that had memory from the start; 0 of the peer's
 * @now: bytes that have it now; of the peer's as the peer says
 * @most: bytes of the arena
 * @refused: 0, or the negative errno with which the own arena was last refused more:
 *	-ENOMEM: the system or a memory cgroup has none; -EDQUOT: a quota of the module
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
 * evering_get_arena - how far an arena has grown
 * @ev: endpoint
 * @whose: EVERING_MINE or EVERING_PEERS
 * @state: out
 *
 * Thread: as evering_alloc() for EVERING_MINE, any for EVERING_PEERS.
 */
EVERING_API void evering_get_arena(const struct evering *ev, int whose,
				   struct evering_arena_state *state);

/* -------------------------------------------------------------------- asking */

/**
 * enum evering_peer_state - how the other side is
 * @EVERING_PEER_ALIVE: it has the channel
 * @EVERING_PEER_CLOSED: it closed it with evering_close()
 * @EVERING_PEER_DIED: it is gone without having done so
 * @EVERING_PEER_LOST: it is on another machine, and the way to it is lost: nothing is known
 *	of what it did since
 * @EVERING_PEER_RELAY_DIED: likewise, and a relay between the two has died
 *
 * The last two come from a relay alone, evering-relay(1).
 */
enum evering_peer_state {
	EVERING_PEER_ALIVE = 0,
	EVERING_PEER_CLOSED = 1,
	EVERING_PEER_DIED = 2,
	EVERING_PEER_LOST = 3,
	EVERING_PEER_RELAY_DIED = 4,
};

/**
 * evering_peer - how is the other side
 * @ev: endpoint
 *
 * Asks the kernel.  Once it has said that the peer is gone, evering_send() fails with
 * -EPIPE, in whatever thread.  Returns enum evering_peer_state.  Any thread.
 */
EVERING_API int evering_peer(struct evering *ev);

/**
 * struct evering_fate_info - what a peer that has gone did about what it was sent
 * @unseen: of all entries that were sent the last so many: it certainly did not act on them
 * @begun: so many before these: it may have acted on them, in part or whole, or not.  It
 *	had finished with all before
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
 * Exact, whenever the peer was killed, if it received with evering_recv() or the like, or
 * had a table of operations, or called evering_begin() for what it looked at; else, and
 * before its first call of these, all that it had not released counts as begun.  It is the
 * peer's word, written while it lived.  Operations have it in their completions:
 * EVERING_UNSEEN, EVERING_BEGUN.
 *
 * Returns 0; -EBUSY: the peer is there; -EPROTO: it broke the rules.  Sending thread.
 */
EVERING_API int evering_fate(struct evering *ev,
			     struct evering_fate_info *fate);

/* evering_replace() */
#define EVERING_REPLACE_FORCE (1u << 0)

/**
 * evering_replace - meet the successor of a peer that has gone
 * @ev: endpoint, which stays the same
 * @path: where the successor listens, or will, as for evering_listen()
 * @flags: 0; EVERING_REPLACE_FORCE: the peer may still live, or be stopped: the channel
 *	with it ends now, whether a successor comes or not.  Entries of its that are not
 *	received are lost, but for those that a table takes in this call; and nothing counts
 *	as unseen, as it may go on reading what it was sent
 * @timeout_ns: how long to wait for the successor
 *
 * The successor accepts this side like any other client, with a new channel of the same
 * geometry; its evering_predecessors() tells it that this side had a peer before.
 * Everything that this side holds stays as it is: the endpoint, its policy, its arena with
 * all buffers at their addresses, its place in a group.  Entries that the peer had
 * certainly not seen (evering_fate()) are sent to the successor, in order and before
 * anything else.  For what becomes of operations see evering_ops_params.flags,
 * EVERING_REPLACEABLE.  It waits for a listener that is not there yet, as under
 * EVERING_AWAIT, and a successor that dies while it is met has one, too.
 *
 * Before: all that the peer had sent is received (with a table, this does it), and nothing
 * of the peer's is held but buffers that it gave, which can be read until evering_free().
 * evering_fd() is taken out of event loops.
 *
 * Meanwhile no other thread uses the endpoint or writes to its arena, nor does the kernel
 * (io_uring, O_DIRECT), nor does anybody call evering_wake() for it.
 *
 * Afterwards evering_fd() is another descriptor, the arena has other pages at the same
 * addresses, so that buffers are to be registered with the kernel anew, and this side is
 * EVERING_A of a channel that was made alone (evering_get_geometry(), evering_get_lane()).
 * If it fails the endpoint is as it was, and the call can be repeated.
 *
 * A successor that dies before its first evering_recv() or evering_begin(), and has no
 * table, counts as having begun all entries that were sent again: see evering_fate().
 *
 * Returns 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: no successor in time; -EBUSY: the peer
 * lives, or requests, posts or messages of its are not finished with, or its entries are not
 * received, or a prepared operation is to give a buffer of its back; -EPROTO: it broke the
 * rules; -EACCES: who listens there runs as another user than the peer did, or this user
 * may not connect to the socket; -EOPNOTSUPP: the table beside @ev has no
 * EVERING_REPLACEABLE, as those of a server (evering_server.h); -EDEADLK: a callback of the
 * table runs; -EINVAL: @flags, @timeout_ns, or a process that fork() has made; or as
 * evering_connect().  Thread: both roles and the arena's, and no other.
 */
EVERING_API int evering_replace(struct evering *ev, const char *path,
				unsigned int flags, int64_t timeout_ns);

/**
 * evering_replace_begin - begin to meet the successor of a peer that has gone
 * @ev: endpoint
 * @path: as for evering_replace()
 * @flags: as for evering_replace()
 * @timeout_ns: for all of it from now on, not EVERING_NOWAIT
 * @c: out: for evering_connecting_close()
 *
 * evering_replace() for event loops: evering_connecting_step() does the rest, and returns
 * @ev when the successor is there; it may call callbacks of the table first.  The endpoint
 * is not closed before evering_connecting_close().  Of several that are begun for an
 * endpoint one succeeds, and the steps of the others return -EBUSY.
 *
 * Returns 0; or as evering_replace(), without what the successor has to do with.  Thread:
 * as evering_replace(), in all steps.
 */
EVERING_API int evering_replace_begin(struct evering *ev, const char *path,
				      unsigned int flags, int64_t timeout_ns,
				      struct evering_connecting **c);

/**
 * evering_predecessors - how many peers there were in the place of this one
 * @ev: endpoint
 *
 * Of the side that called evering_replace(): how often that was.  Of the other side: what
 * its peer says: 0: it is a new client.  Any thread.
 */
EVERING_API uint32_t evering_predecessors(const struct evering *ev);

/**
 * evering_peer_cred - who is the other side
 * @ev: endpoint
 * @pid: out: process that met this one, 0 if it cannot be seen from here
 * @uid: out: its effective user at that time
 * @gid: out: its effective group
 *
 * As SO_PEERCRED of the socket that they met over has it: over a socketpair(2) that
 * is the process that made the pair.
 *
 * Returns 0.  Any thread.
 */
EVERING_API int evering_peer_cred(const struct evering *ev, pid_t *pid,
				  uid_t *uid, gid_t *gid);

/**
 * struct evering_lane - which channels were made in one meeting
 * @set: the same for all of them on this side, and for no other channel that this process
 *	has, or had; the peer has a number of its own
 * @lane: this one's place among them, from 0, the same on both sides
 * @lanes: how many they were; 1: a channel that was made alone
 */
struct evering_lane {
	uint64_t set;
	uint32_t lane;
	uint32_t lanes;
};

/**
 * evering_get_lane - which channels are of the same client, or to the same server
 * @ev: endpoint
 * @lane: out
 *
 * evering_peer_cred() says the same of all lanes of a set.  Any thread.
 */
EVERING_API void evering_get_lane(const struct evering *ev,
				  struct evering_lane *lane);

/**
 * evering_get_geometry - what the channel measures
 * @ev: endpoint
 * @geometry: out
 *
 * Returns which endpoint this is, EVERING_A or EVERING_B.  Any thread.
 */
EVERING_API int evering_get_geometry(const struct evering *ev,
				     struct evering_geometry *geometry);

/**
 * evering_get_counters - what one side has done
 * @ev: endpoint
 * @whose: EVERING_MINE or EVERING_PEERS; the peer's are what the peer says
 * @counters: out
 *
 * The entry counts lag behind by up to a ring.  Any thread.
 */
EVERING_API void evering_get_counters(const struct evering *ev, int whose,
				      struct evering_counters *counters);

/**
 * evering_backend_name - "device" or "memfd"
 * @ev: endpoint
 */
EVERING_API const char *evering_backend_name(const struct evering *ev);

/**
 * evering_version - the library's version, "major.minor.patch"
 *
 * Of the library that runs, which may be another one than EVERING_VERSION, with which
 * the caller was compiled.  Any thread.
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
