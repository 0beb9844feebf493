// SPDX-License-Identifier: MIT
/*
 * stranger.c: packets from a process that is not trusted, over a Unix socket.
 *
 * A packet may bring descriptors, and to hold one is a risk.  The last close of a
 * socket with SO_LINGER waits as long as its sender chose.  Each close of a file on
 * FUSE or NFS waits for the server of that file system, and so do fstat(), poll() and
 * most ioctls.  The last close of a memfd takes the time to free its memory.  To
 * receive a packet without its descriptors closes them too, and so does to close a
 * socket with packets in it.  Therefore:
 *
 * - The bytes of a packet are checked first.  MSG_PEEK without room for descriptors
 *   receives none, and shows whether there are some.
 * - A child process with its own descriptor table peeks at the descriptors.  It finds
 *   out what they are with calls that reach no file system and no driver.  Only memfds
 *   of the right size, eventfds and endpoints of /dev/evering are then received, and
 *   Unix sockets where a welcome should bring them (see sockets_leave() for how they
 *   are closed).
 * - A socket that may contain descriptors is closed by a child that exits, because a
 *   task that exits does not linger (PF_EXITING in inet_release() and the like).
 *
 * Each child shares this process's memory while it runs, like a child of posix_spawn(),
 * and releases the memory before it closes anything.  A file can prevent its exit
 * (FUSE, before Linux 6.2), but then the child keeps only that file: it has closed
 * everything that is not from the stranger.  If there can be no child (RLIMIT_NPROC, a
 * filter of system calls), or if children do not end because of a file that this
 * process itself has open, packets are received and sockets closed as if they were
 * harmless.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/stat.h> /* struct statx: musl has none */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "internal.h"

/* Sanitizers support threads, but not a process in the same memory. */
#if defined(__has_attribute) && __has_attribute(no_sanitize)
#define CHILD __attribute__((no_sanitize("address", "thread", "undefined")))
#else
#define CHILD
#endif

#if defined(EVERING__TSAN) && defined(__GLIBC__)
/* A name of clone() that sanitizers do not intercept as a fork. */
int __clone(int (*run)(void *arg), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

#define CHILD_STACK 16384
/* How many packets without descriptors are dropped before a socket is given up. */
#define MAX_DROPPED 16

/* struct look.verdict */
#define LOOK_NONE 0 /* the child did not get so far */
#define LOOK_HARMLESS 1
#define LOOK_WRONG 2
#define LOOK_NO_ROOM 3 /* harmless, but this process has no descriptors left */

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(MAX_PACKET_FDS * sizeof(int))];
};

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/* ------------------------------------------------------------------ children */

/*
 * Children that do not end, by reason: because of what a stranger has sent, or because
 * of a file that this process itself has open on a file system that does not answer.
 */
enum kind {
	OF_A_STRANGER,
	OF_OUR_OWN,
	KINDS
};

static const unsigned int most[KINDS] = { 192, 32 };

static struct {
	pthread_mutex_t lock;
	unsigned int count[KINDS];
	pid_t pid[KINDS][192];
} unreaped = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Forgets the children that have ended.  Returns how many have not. */
static unsigned int reap(enum kind kind)
{
	pid_t *pid = unreaped.pid[kind];
	unsigned int i, kept = 0;

	for (i = 0; i < unreaped.count[kind]; i++)
		if (!waitpid(pid[i], NULL, __WCLONE | WNOHANG))
			pid[kept++] = pid[i];
	unreaped.count[kind] = kept;
	return kept;
}

/* Whether there are @many of @kind. */
static bool too_many(enum kind kind, unsigned int many)
{
	bool ret;

	/* Without the lock, because usually there are none. */
	if (!__atomic_load_n(&unreaped.count[kind], __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&unreaped.lock);
	ret = reap(kind) >= many;
	pthread_mutex_unlock(&unreaped.lock);
	return ret;
}

/*
 * Waits for a child that has released the memory and exits.  A child with copies of
 * this process's descriptors is waited for, but not for long, and not if others have
 * not ended either.
 */
static void end_child(pid_t pid, enum kind kind)
{
	const struct timespec pause = { .tv_nsec = 50000 };
	unsigned int tries, patience = 20;

	if (kind == OF_OUR_OWN && !too_many(kind, 1))
		patience = 120;
	for (tries = 0; tries < patience; tries++) {
		if (waitpid(pid, NULL, __WCLONE | WNOHANG))
			return;
		if (tries < 20)
			sched_yield();
		else
			nanosleep(&pause, NULL);
	}
	pthread_mutex_lock(&unreaped.lock);
	if (reap(kind) < most[kind])
		unreaped.pid[kind][unreaped.count[kind]++] = pid;
	pthread_mutex_unlock(&unreaped.lock);
}

/*
 * children_settle - wait for children that hold copies of this process's descriptors
 *
 * For a caller that has closed a socket with a name, which such a copy keeps in use.
 * These children only have to exit, for which they need a CPU.  Waits a second at most,
 * because a file on a file system that does not answer may prevent an exit.
 */
void children_settle(void)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	unsigned int tries = 1000;

	while (too_many(OF_OUR_OWN, 1) && tries--)
		nanosleep(&pause, NULL);
}

/* The number in the name of a namespace, "pid:[4026531836]"; 0: it cannot be read. */
static uint64_t namespace_at(const char *path)
{
	char name[64];
	uint64_t n = 0;
	ssize_t i, len;

	len = readlink(path, name, sizeof(name));
	for (i = 0; i < len; i++)
		if (name[i] >= '0' && name[i] <= '9')
			n = 10 * n + (uint64_t)(name[i] - '0');
	return n;
}

/*
 * What is found out once for a process: the same for all threads, as long as it lives.
 */
static struct {
	uint64_t of; /* fork_id() */
	uint64_t namespace;
	pid_t pid;
} self;

static void know_self(void)
{
	uint64_t id = fork_id(), namespace;

	if (__atomic_load_n(&self.of, __ATOMIC_ACQUIRE) == id)
		return;
	namespace = namespace_at("/proc/self/ns/pid");
	__atomic_store_n(&self.namespace, namespace, __ATOMIC_RELAXED);
	__atomic_store_n(&self.pid, getpid(), __ATOMIC_RELAXED);
	/* It may be readable the next time. */
	if (namespace)
		__atomic_store_n(&self.of, id, __ATOMIC_RELEASE);
}

static pid_t own_pid(void)
{
	know_self();
	return __atomic_load_n(&self.pid, __ATOMIC_RELAXED);
}

/*
 * After unshare(CLONE_NEWPID), a thread's next child is the init of a new pid
 * namespace, which ends with it.  The program must choose that child itself.  Without
 * /proc, a child could not look at descriptors either.
 */
static bool same_pid_namespace(void)
{
	uint64_t own;

	know_self();
	own = __atomic_load_n(&self.namespace, __ATOMIC_RELAXED);
	return own &&
	       namespace_at("/proc/thread-self/ns/pid_for_children") == own;
}

/*
 * Starts @run in a child that shares the memory and has a copy of the descriptor table.
 * No signal from another process runs a handler in it.  Returns its pid, or a negative
 * errno.
 */
static pid_t start_child(int (*run)(void *arg), void *arg, void *stack,
			 int flags, pid_t *tid)
{
	sigset_t old;
	pid_t pid;

	if (!same_pid_namespace())
		return -ENOSYS;
	if (block_signals(&old))
		return -ENOSYS;
	pid = clone(run, (char *)stack + CHILD_STACK, CLONE_VM | flags, arg,
		    NULL, NULL, tid);
	if (pid < 0)
		pid = -errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

/* From now on this child ends if @parent is killed; false: it was killed already. */
static CHILD bool outlived_by(pid_t parent)
{
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	return syscall(SYS_getppid) == parent;
}

/* The lowest of @count descriptors from @from on, or INT_MAX. */
static CHILD int lowest_from(const int *fds, unsigned int count, int from)
{
	int lowest = INT_MAX;
	unsigned int i;

	for (i = 0; i < count; i++)
		if (fds[i] >= from && fds[i] < lowest)
			lowest = fds[i];
	return lowest;
}

/*
 * Closes all descriptors except @keep, so that a child that cannot exit holds nothing
 * important.
 */
static CHILD void close_others(const int *keep, unsigned int count)
{
	struct rlimit64 limit = { 0 };
	int from = 0, next, fd;

	do {
		next = lowest_from(keep, count, from);
		if (next > from && syscall(SYS_close_range, from, next - 1, 0))
			break;
		from = next < INT_MAX ? next + 1 : next;
	} while (next < INT_MAX);
	if (from == INT_MAX)
		return;
	/* Before Linux 5.9, or if a filter refuses that. */
	syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
	for (fd = 0; (rlim64_t)fd < limit.rlim_cur && fd < 65536; fd++)
		if (lowest_from(keep, count, fd) != fd)
			syscall(SYS_close, fd);
}

/* Makes room for descriptors in a child, which has its own limits. */
static CHILD void make_room(int keep)
{
	struct rlimit64 limit;

	close_others(&keep, 1);
	if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL);
}

/* -------------------------------------------------------- what a descriptor is */

/* The file system of an open file, without a call to that file system. */
static CHILD bool file_system_of(int fd, uint32_t dev[2])
{
	struct statx st;

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0,
		    &st))
		return false;
	dev[0] = st.stx_dev_major;
	dev[1] = st.stx_dev_minor;
	return true;
}

/* As has_harmless_name(), without /proc: whether it is at least an anonymous inode. */
static CHILD bool is_anonymous(int fd)
{
	int own = (int)syscall(SYS_eventfd2, 0, EFD_CLOEXEC);
	uint32_t dev[2], owns[2];
	bool is;

	if (own < 0)
		return false;
	is = file_system_of(fd, dev) && file_system_of(own, owns) &&
	     dev[0] == owns[0] && dev[1] == owns[1];
	syscall(SYS_close, own);
	return is;
}

/* Whether it is an eventfd or an endpoint of /dev/evering, by its name. */
static CHILD bool has_harmless_name(int fd)
{
	static const char eventfd[] = "anon_inode:[eventfd]";
	static const char endpoint[] = "anon_inode:[evering]";
	char path[32] = "/proc/self/fd/", name[32];
	unsigned int at = sizeof("/proc/self/fd/") - 1, digits = 1, rest;
	long n;

	for (rest = (unsigned int)fd; rest >= 10; rest /= 10)
		digits++;
	path[at + digits] = 0;
	for (rest = (unsigned int)fd; digits; rest /= 10)
		path[at + --digits] = (char)('0' + rest % 10);
	n = syscall(SYS_readlinkat, AT_FDCWD, path, name, sizeof(name));
	if (n < 0)
		return is_anonymous(fd);
	return (n == sizeof(eventfd) - 1 &&
		!__builtin_memcmp(name, eventfd, sizeof(eventfd) - 1)) ||
	       (n == sizeof(endpoint) - 1 &&
		!__builtin_memcmp(name, endpoint, sizeof(endpoint) - 1));
}

/* An option of a socket that is read without a lock; -1: it is not a socket. */
static CHILD int option_of(int fd, int option)
{
	socklen_t len = sizeof(int);
	int value;

	if (syscall(SYS_getsockopt, fd, SOL_SOCKET, option, &value, &len))
		return -1;
	return value;
}

/*
 * Whether it is a SOCK_SEQPACKET socket that never lingers and holds no connections of
 * others.
 */
static CHILD bool is_unix_socket(int fd)
{
	return option_of(fd, SO_DOMAIN) == AF_UNIX &&
	       option_of(fd, SO_TYPE) == SOCK_SEQPACKET &&
	       option_of(fd, SO_ACCEPTCONN) == 0;
}

/*
 * Whether it is a memfd whose size is final and at most *@left bytes, which this then
 * subtracts.  The last close of a memfd frees its pages, which takes time for each, so
 * pages beyond its end count too.  The last page may be a huge one.
 */
static CHILD bool is_memory(int fd, uint64_t *left)
{
	const long need = F_SEAL_SHRINK | F_SEAL_GROW;
	long seals = syscall(SYS_fcntl, fd, F_GET_SEALS);
	uint64_t size, pages, spare = EVERING_MEMFD_ALIGN;
	struct statx st;

	if (seals < 0 || (seals & need) != need)
		return false;
	/*
	 * A filter of system calls may refuse statx(2). memfd.c checks the size as
	 * well.
	 */
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
		    STATX_SIZE | STATX_BLOCKS, &st))
		return true;
	size = st.stx_size;
	pages = st.stx_blocks * 512;
	if (spare < st.stx_blksize)
		spare = st.stx_blksize;
	if (pages > spare && size < pages - spare)
		size = pages - spare;
	if (size > *left)
		return false;
	*left -= size;
	return true;
}

/*
 * How many of @count descriptors, from the first on, are of a kind that a channel
 * consists of and that closes at once.  This uses the descriptor table and names that
 * the kernel gives, and no call that a file could delay.  Memfds come first in a hello,
 * so after the first descriptor of another kind that kind is tried first.  Unix sockets
 * must be at the places of cargo.sockets, and not before: the library writes to those.
 */
static CHILD unsigned int count_harmless(const int *fds, unsigned int count,
					 const struct cargo *cargo)
{
	uint64_t left = cargo->bytes;
	bool memfds = true;
	unsigned int i;

	for (i = 0; i < count && i < cargo->sockets; i++) {
		if (memfds && is_memory(fds[i], &left))
			continue;
		if (!has_harmless_name(fds[i]) &&
		    (memfds || !is_memory(fds[i], &left)))
			return i;
		memfds = false;
	}
	while (i < count && is_unix_socket(fds[i]))
		i++;
	return i;
}

/* Takes the descriptors of a control message.  Returns their number. */
static CHILD unsigned int control_fds(struct msghdr *msg,
				      int fds[MAX_PACKET_FDS])
{
	struct cmsghdr *cmsg;
	unsigned int n = 0, i, more;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET ||
		    cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		more = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) /
				      sizeof(int));
		for (i = 0; i < more && n < MAX_PACKET_FDS; i++)
			fds[n++] = ((int *)CMSG_DATA(cmsg))[i];
	}
	return n;
}

/**
 * struct look - a child's look at the descriptors of a packet
 * @parent: its parent, as getppid(2) returns it
 * @sock: where the packet waits
 * @cargo: what the descriptors have to be
 * @verdict: LOOK_*
 */
struct look {
	pid_t parent;
	int sock;
	const struct cargo *cargo;
	int verdict;
};

/* Peeks at the descriptors of the next packet.  *@all: there were no more. */
static CHILD unsigned int look_once(int sock, int fds[MAX_PACKET_FDS],
				    bool *all)
{
	union control control;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	if (syscall(SYS_recvmsg, sock, &msg,
		    MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
		return 0;
	*all = !(msg.msg_flags & MSG_CTRUNC);
	return control_fds(&msg, fds);
}

static CHILD int look_child(void *arg)
{
	struct look *look = arg;
	int fds[MAX_PACKET_FDS + 1];
	bool all = false, room = true;
	unsigned int n, i;

	n = look_once(look->sock, fds, &all);
	i = count_harmless(fds, n, look->cargo);
	/* To close them takes time, but the child must not outlive its parent. */
	if ((!all || i < n) && !outlived_by(look->parent))
		syscall(SYS_exit, LOOK_NONE);
	if (!all && i == n) {
		/* Too many descriptors, or no room in the table? */
		room = false;
		make_room(look->sock);
		n = look_once(look->sock, fds, &all);
		i = count_harmless(fds, n, look->cargo);
	}
	if (i < n) {
		/*
		 * If the exit has to wait for something, the child holds nothing else.
		 */
		fds[n] = look->sock;
		close_others(fds, n + 1);
	}
	if (i < n || !all || n != look->cargo->count)
		look->verdict = LOOK_WRONG;
	else
		look->verdict = room ? LOOK_HARMLESS : LOOK_NO_ROOM;
	syscall(SYS_exit, look->verdict);
	return 0;
}

/*
 * Has a child look at the descriptors of the next packet.  Returns LOOK_*; LOOK_NONE:
 * no child.
 */
static int look_at_next(int sock, const struct cargo *cargo)
{
	unsigned char stack[CHILD_STACK] __attribute__((aligned(16)));
	struct look look = { .parent = own_pid(),
			     .sock = sock,
			     .cargo = cargo };
	int saved = errno, status;
	pid_t pid;

	if (too_many(OF_A_STRANGER, most[OF_A_STRANGER]))
		return LOOK_WRONG;
	if (too_many(OF_OUR_OWN, most[OF_OUR_OWN]))
		return LOOK_NONE;
	/* Returns when the child has released the memory, before it closes anything. */
	pid = start_child(look_child, &look, stack, CLONE_VFORK, NULL);
	if (pid < 0) {
		errno = saved;
		return LOOK_NONE;
	}
	/*
	 * If the child has memory of its own (valgrind), its exit status has the
	 * verdict.
	 */
	if (!look.verdict && waitpid(pid, &status, __WCLONE) == pid)
		look.verdict = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
	else
		end_child(pid, look.verdict == LOOK_WRONG ? OF_A_STRANGER :
							    OF_OUR_OWN);
	errno = saved;
	return look.verdict;
}

/* ------------------------------------------------------------------- packets */

/*
 * packet_send - send a packet with @count descriptors, @count <= MAX_PACKET_FDS
 *
 * Never waits: a packet is far smaller than the socket's buffer, and is sent as a
 * whole.  Returns 0; -ECONNRESET: the other side is gone; -EAGAIN, -ENOBUFS, -ENOMEM,
 * -ETOOMANYREFS: from sendmsg(2).
 */
int packet_send(int sock, const void *packet, size_t size, const int *fds,
		unsigned int count)
{
	union control control = { 0 };
	struct iovec iov = { (void *)packet, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;
	ssize_t ret;

	if (count) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	}
	do
		ret = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return errno == EPIPE ? -ECONNRESET : -errno;
	return 0;
}

/*
 * packet_peek - copy the first @size bytes of the next packet, which stays in the
 * socket
 *
 * Sets *@len to the bytes of the packet, and *@fds to whether it may have descriptors.
 * Returns 0; -EAGAIN: there is no packet; -ECONNRESET: the other side is gone, or the
 * packet has no bytes and no descriptors; or an errno of recvmsg(2).
 */
int packet_peek(int sock, void *packet, size_t size, size_t *len, bool *fds)
{
	struct iovec iov = { packet, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	bool reset = false, ended = false, again;
	ssize_t ret;

	/*
	 * A client that was turned away gets ECONNRESET once, before the packet with
	 * the reason, because the socket was closed with its hello unread.
	 *
	 * The kernel looks into the queue, and then whether the other side has closed.
	 * A packet that was sent in between is there although the end is reported.
	 * Nothing comes after that, so a second look is final.
	 */
	do {
		msg.msg_flags = 0;
		ret = recvmsg(sock, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
		if (ret < 0)
			again = errno == EINTR ||
				(errno == ECONNRESET && !reset);
		else
			again = !ret && !ended;
		reset = reset || (ret < 0 && errno == ECONNRESET);
		ended = ended || !ret;
	} while (again);
	if (ret < 0)
		return errno == EAGAIN && reset ? -ECONNRESET : -errno;
	*len = (size_t)ret;
	*fds = msg.msg_flags & MSG_CTRUNC;
	return ret || *fds ? 0 : -ECONNRESET;
}

/*
 * fds_leave - close what packet_take_fds() has returned
 * @sockets: as in struct cargo; the sockets may contain anything
 */
void fds_leave(const int *fds, unsigned int count, unsigned int sockets)
{
	if (count > sockets) {
		sockets_leave(fds + sockets, count - sockets);
		count = sockets;
	}
	close_fds(fds, count);
}

/*
 * packet_take_fds - receive the packet that was peeked at, for its descriptors
 * @cargo: what the descriptors have to be
 *
 * Returns 0: they are that, and all harmless; -EPROTO: they are not, or a security
 * module removed them, and the packet may still be there; -EMFILE: this process has no
 * descriptors left.
 */
int packet_take_fds(int sock, int fds[MAX_PACKET_FDS],
		    const struct cargo *cargo)
{
	union control control;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	bool looked = true, harmless;
	unsigned int n;
	ssize_t ret;

	switch (look_at_next(sock, cargo)) {
	case LOOK_NONE:
		looked = false;
		break;
	case LOOK_WRONG:
		return -EPROTO;
	case LOOK_NO_ROOM:
		return -EMFILE;
	}
	do
		ret = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -EPROTO;
	n = control_fds(&msg, fds);
	harmless = looked || count_harmless(fds, n, cargo) == n;
	if (harmless && n == cargo->count && !(msg.msg_flags & MSG_CTRUNC))
		return 0;
	fds_leave(fds, n, cargo->sockets);
	/* Another thread may have taken the last place in the table. */
	return looked ? -EMFILE : -EPROTO;
}

/* ------------------------------------------------------------------- sockets */

/*
 * socket_seal - stop a socket from receiving anything more
 * @own: this library made it, or has it from a listening socket that it made
 *
 * From now on, whatever a process sends to it is dropped in the sender's system call,
 * with its descriptors, and the sender does not notice.  Packets that are in it are
 * received with nothing but their descriptors.  Returns whether this has worked.
 */
bool socket_seal(int sock, bool own)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = { 1, &drop };
	const int off = 0;
	bool sealed;

	sealed = !setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &program,
			     sizeof(program));
	if (own)
		return sealed;
	/*
	 * Credentials that its owner may have asked for would take the room of
	 * descriptors.
	 */
	setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &off, sizeof(off));
	setsockopt(sock, SOL_SOCKET, SO_PASSSEC, &off, sizeof(off));
	setsockopt(sock, SOL_SOCKET, SO_PASSPIDFD, &off, sizeof(off));
	return sealed;
}

/*
 * Whether a socket contains nothing that is dangerous to close.  Packets without
 * descriptors are dropped, if there are only a few.  A packet has the credentials of
 * its sender and the end of the connection has none, so an empty packet is not mistaken
 * for the end.
 */
static bool socket_is_empty(int sock)
{
	const int on = 1;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct msghdr msg = { 0 };
	bool ended = false;
	unsigned int i;
	ssize_t ret;

	/* Without credentials, descriptors would take their room. */
	if (setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
		return false;
	for (i = 0; i < MAX_DROPPED; i++) {
		msg.msg_flags = 0;
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		ret = recvmsg(sock, &msg, MSG_PEEK | MSG_DONTWAIT);
		/* Reported once, before the packets that are there. */
		if (ret < 0 && errno == ECONNRESET)
			continue;
		if (ret < 0)
			return errno == EAGAIN;
		if (msg.msg_flags & MSG_CTRUNC)
			return false;
		/*
		 * As in packet_peek(): the first time, the end may be older than a
		 * packet that is there.
		 */
		if (!msg.msg_controllen && ended)
			return true;
		if (msg.msg_controllen)
			recv(sock, NULL, 0, MSG_DONTWAIT);
		else
			ended = true;
	}
	return false;
}

/**
 * struct holder - a child that keeps a copy of the descriptors until it may exit
 * @parent: its parent, as getppid(2) returns it
 * @tid: not zero until it has released the memory
 * @go: it may exit
 */
struct holder {
	pid_t parent;
	pid_t tid;
	uint32_t go;
};

static CHILD int holder_child(void *arg)
{
	struct holder *h = arg;

	while (outlived_by(h->parent) &&
	       !__atomic_load_n(&h->go, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &h->go, FUTEX_WAIT, 0, NULL);
	syscall(SYS_exit, 0);
	return 0;
}

/* Closes @count descriptors; if @instead is not -1, that is put in their place. */
static void close_all(const int *fds, unsigned int count, int instead)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (fds[i] >= 0 && instead < 0)
			close(fds[i]);
		else if (fds[i] >= 0)
			dup3(instead, fds[i], O_CLOEXEC);
}

/*
 * The same while a child has copies, which end with the child.  Its memory is on this
 * stack, so this waits until the child has released that.
 */
static void close_by_child(const int *fds, unsigned int count, int instead)
{
	unsigned char stack[CHILD_STACK] __attribute__((aligned(16)));
	struct holder h = { .parent = own_pid(), .tid = 1 };
	int saved = errno;
	pid_t pid = -1, tid;

	if (!too_many(OF_OUR_OWN, most[OF_OUR_OWN]))
		pid = start_child(holder_child, &h, stack, CLONE_CHILD_CLEARTID,
				  &h.tid);
	close_all(fds, count, instead);
	if (pid > 0) {
		__atomic_store_n(&h.go, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &h.go, FUTEX_WAKE, 1);
		while ((tid = __atomic_load_n(&h.tid, __ATOMIC_ACQUIRE)))
			syscall(SYS_futex, &h.tid, FUTEX_WAIT, tid, NULL);
		end_child(pid, OF_OUR_OWN);
	}
	errno = saved;
}

/*
 * socket_close_sealed - close a socket that a stranger may have put something into
 * @sealed: what socket_seal() has returned
 *
 * A packet without bytes looks like the end of the connection, and other packets may
 * follow it.  So a socket is closed here without another look only if it is certain
 * that nothing is in it, and not because its peer may be gone.
 */
void socket_close_sealed(int sock, bool sealed)
{
	if (sock < 0)
		return;
	if (!sealed)
		socket_seal(sock, false);
	if ((sealed && recv(sock, NULL, 0, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	     errno == EAGAIN) ||
	    socket_is_empty(sock))
		close(sock);
	else
		close_by_child(&sock, 1, -1);
}

/* socket_close - the same for a socket that is not sealed */
void socket_close(int sock)
{
	socket_close_sealed(sock, false);
}

/*
 * sockets_leave - close sockets that other processes may have too
 *
 * This does nothing to what the processes share.  If no other process has a socket,
 * what is in it ends with a child.  A socket from a stranger can be closed only so,
 * because the stranger can hold the locks that recvmsg(2) and setsockopt(2) take for
 * any time.  poll(2) and close(2) take none of these locks.
 */
void sockets_leave(const int *socks, unsigned int count)
{
	close_by_child(socks, count, -1);
}

/*
 * socket_empty - make the caller's socket harmless to close
 *
 * If its contents may be dangerous, the descriptor number is from now on that of a
 * socket that has been shut down.
 */
void socket_empty(int sock)
{
	int pair[2], flags = fcntl(sock, F_GETFD);

	if (socket_is_empty(sock))
		return;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return;
	close(pair[1]);
	close_by_child(&sock, 1, pair[0]);
	close(pair[0]);
	if (!(flags & FD_CLOEXEC))
		fcntl(sock, F_SETFD, flags);
}
