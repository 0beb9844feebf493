// SPDX-License-Identifier: MIT
/*
 * meet.c: two endpoints find each other.
 *
 * One packet each way over a Unix socket that keeps packets apart: the connecting
 * side makes the channel and says hello, with the descriptors of its part; the
 * accepting side checks them, makes its own part and says welcome, with its
 * descriptors, or says why not.  Neither believes anything: a packet is taken only
 * if it is exactly as long, and carries exactly as many descriptors, as it should.
 *
 * The listener greets many connections side by side, since each is in no state but
 * "has not said hello yet".
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define HELLO_MAGIC   0x6f6c6c6568766501ull /* "\001evhello" in memory */
#define WELCOME_MAGIC 0x6d6f636c65777601ull /* "\001vwelcom" in memory */

#define MAX_PENDING   64u
#define TIMER_INDEX   MAX_PENDING
#define SOCK_INDEX    (MAX_PENDING + 1)
#define GREET_NS      1000000000ll
/* What the kernel lets one packet carry: enough room, so that none is lost. */
#define MAX_SCM_FDS   253u

/**
 * struct hello - from the connecting side
 * @magic: HELLO_MAGIC
 * @size: bytes of this struct; a later version may be longer
 * @abi: version that the channel was made with
 * @backend: enum evering_backend_id
 * @fds: how many descriptors come with it
 * @geometry: of the channel
 */
struct hello {
	uint64_t magic;
	uint32_t size;
	uint32_t abi;
	uint32_t backend;
	uint32_t fds;
	struct evering_geometry geometry;
};

/**
 * struct welcome - from the accepting side
 * @magic: WELCOME_MAGIC
 * @size: bytes of this struct
 * @error: 0, or the negative errno that evering_connect() is to return
 * @abi_min, @abi_max: versions that it speaks
 * @fds: how many descriptors come with it
 * @reserved: 0
 */
struct welcome {
	uint64_t magic;
	uint32_t size;
	int32_t error;
	uint32_t abi_min;
	uint32_t abi_max;
	uint32_t fds;
	uint32_t reserved;
};

struct pending {
	int fd; /* -1: free */
	int64_t deadline;
};

/**
 * struct evering_listener
 * @sock: the listening socket
 * @epoll: watches @sock, @timer and all pending connections;
 *	evering_listener_fd()
 * @timer: rings when the oldest pending connection has had its time, so that who
 *	polls @epoll comes and turns it away
 * @timer_at: when that is, INT64_MAX for never
 * @full: no room in @pending, so @sock is not watched
 * @address: what was bound
 * @dev, @ino: the socket file, to know it again
 * @pending: connections that have not said hello yet
 * @refused, @last_error: evering_listener_refused()
 */
struct evering_listener {
	int sock;
	int epoll;
	int timer;
	int64_t timer_at;
	bool full;
	struct sockaddr_un address;
	dev_t dev;
	ino_t ino;
	struct pending pending[MAX_PENDING];
	uint64_t refused;
	int last_error;
};

/* ------------------------------------------------------------------- packets */

static int wait_readable(int fd, int64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct timespec left;
	int ret;

	ret = ppoll(&pfd, 1, time_left(deadline, &left), NULL);
	if (ret < 0)
		return -errno;
	return ret ? 0 : -ETIMEDOUT;
}

/* Never waits: a packet is far smaller than the socket's buffer, and sent whole. */
static int send_packet(int sock, const void *packet, size_t size,
		       const int *fds, unsigned int count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_HELLO_FDS * sizeof(int))];
	} control = { 0 };
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
 * Receives a packet of exactly @size bytes, and up to MAX_HELLO_FDS descriptors.
 * -EAGAIN: none there; -ECONNRESET: the other side is gone; -EMSGSIZE: a longer one,
 * which @packet has the beginning of; -EPROTO: something else;
 * -EMFILE: descriptors were lost for want of room.
 */
static int recv_packet(int sock, void *packet, size_t size, int *fds,
		       unsigned int *count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_SCM_FDS * sizeof(int))];
	} control;
	struct iovec iov = { packet, size };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int got[MAX_SCM_FDS];
	unsigned int n = 0, more;
	struct cmsghdr *cmsg;
	ssize_t ret;

	do
		ret = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;

	for (cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET ||
		    cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		more = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) /
				      sizeof(int));
		if (more > MAX_SCM_FDS - n)
			more = MAX_SCM_FDS -
			       n; /* the kernel does not do this */
		memcpy(got + n, CMSG_DATA(cmsg), more * sizeof(int));
		n += more;
	}
	if (ret == 0 && !n)
		ret = -ECONNRESET;
	else if (msg.msg_flags & MSG_CTRUNC)
		ret = -EMFILE;
	else if ((size_t)ret != size || n > MAX_HELLO_FDS)
		ret = -EPROTO;
	else if (msg.msg_flags & MSG_TRUNC)
		ret = -EMSGSIZE;
	else
		ret = 0;
	if (ret) {
		close_fds(got, n);
		return (int)ret;
	}
	memcpy(fds, got, n * sizeof(int));
	*count = n;
	return 0;
}

static void peer_credentials(struct endpoint *e)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(e->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return;
	e->pid = cred.pid;
	e->uid = cred.uid;
	e->gid = cred.gid;
}

/* -------------------------------------------------------------- accepting side */

static int check_limits(const struct evering_geometry *geometry,
			const struct evering_params *limits)
{
	int ret = geometry_check(geometry);

	if (ret)
		return ret;
	if (geometry->slot_size > limits->slot_size ||
	    geometry->entries > limits->entries ||
	    geometry->arena_size[EVERING_A] >
		    limits->arena_size[EVERING_PEERS] ||
	    geometry->arena_size[EVERING_B] >
		    limits->arena_size[EVERING_MINE] ||
	    (geometry->flags & ~limits->flags))
		return -E2BIG;
	return 0;
}

/* Owns @fds. */
static int join(const struct hello *hello, const int *fds, unsigned int count,
		const struct evering_params *limits, struct endpoint **ret)
{
	const struct backend *backend = backend_by_id(hello->backend);
	struct endpoint *e;
	int error;

	if (hello->magic != HELLO_MAGIC || hello->size != sizeof(*hello) ||
	    hello->fds != count || !backend)
		error = -EPROTO;
	else if (hello->abi != EVERING_ABI_VERSION)
		error = -EPROTONOSUPPORT;
	else
		error = check_limits(&hello->geometry, limits);
	if (!error)
		error = endpoint_new(backend, EVERING_B, &hello->geometry,
				     limits, &e);
	if (error) {
		close_fds(fds, count);
		return error;
	}
	error = backend->join(e, fds, count);
	if (!error)
		error = endpoint_ready(e);
	if (error) {
		endpoint_destroy(e);
		return error;
	}
	*ret = e;
	return 0;
}

/*
 * Takes a hello and answers it.  -EAGAIN: not there yet.  @sock becomes the endpoint's
 * on success only.  Sets *@own if the reason is this side's want of something.
 */
static int greet(int sock, const struct evering_params *limits,
		 struct evering **ev, bool *own)
{
	struct welcome welcome = {
		.magic = WELCOME_MAGIC,
		.size = sizeof(welcome),
		.abi_min = EVERING_ABI_VERSION,
		.abi_max = EVERING_ABI_VERSION,
	};
	int fds[MAX_HELLO_FDS];
	struct endpoint *e = NULL;
	struct hello hello;
	unsigned int count;
	int ret;

	*own = false;
	ret = recv_packet(sock, &hello, sizeof(hello), fds, &count);
	if (ret == -EAGAIN || ret == -ECONNRESET)
		return ret;
	/* A later version's may be longer. */
	if (ret == -EMSGSIZE)
		ret = hello.magic == HELLO_MAGIC &&
				      hello.abi != EVERING_ABI_VERSION ?
			      -EPROTONOSUPPORT :
			      -EPROTO;
	if (!ret)
		ret = join(&hello, fds, count, limits, &e);
	*own = ret == -EMFILE || ret == -ENFILE || ret == -ENOMEM;
	if (ret) {
		/* Who is gone already does not get the answer: no matter. */
		welcome.error = ret;
		send_packet(sock, &welcome, sizeof(welcome), NULL, 0);
		return ret;
	}
	welcome.fds = e->backend->offer(e, fds);
	ret = send_packet(sock, &welcome, sizeof(welcome), fds, welcome.fds);
	if (ret) {
		endpoint_destroy(e);
		return ret;
	}
	e->sock = sock;
	peer_credentials(e);
	e->backend->met(e);
	*ev = &e->ev;
	return 0;
}

/* -------------------------------------------------------------- connecting side */

static int check_socket(int fd)
{
	socklen_t len = sizeof(int);
	int type, domain;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return -errno;
	len = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
		return -errno;
	return type == SOCK_SEQPACKET && domain == AF_UNIX ? 0 : -EPROTOTYPE;
}

static void geometry_of(const struct evering_params *params,
			struct evering_geometry *geometry)
{
	*geometry = (struct evering_geometry){
		.slot_size = params->slot_size,
		.entries = params->entries,
		.arena_size = { params->arena_size[EVERING_MINE],
				params->arena_size[EVERING_PEERS] },
		.flags = params->flags & EVERING_SHARED_ARENA,
	};
}

/* An endpoint A with its part made, and nobody at the other end yet. */
static int make(const struct evering_params *params, struct endpoint **ret)
{
	struct evering_geometry geometry;
	const struct backend *backend;
	struct endpoint *e;
	unsigned int nth;
	int error, id;

	geometry_of(params, &geometry);
	error = geometry_check(&geometry);
	if (error)
		return error;
	id = backend_wanted(params->backend);
	if (id < 0)
		return id;
	error = -ENODEV;
	/* The next one if there is none, or one that was made for others. */
	for (nth = 0; error == -ENODEV || error == -EPROTONOSUPPORT; nth++) {
		backend = backend_for((unsigned int)id, nth);
		if (!backend)
			break;
		error = endpoint_new(backend, EVERING_A, &geometry, params, &e);
		if (error)
			break;
		error = backend->create(e);
		if (error)
			endpoint_destroy(e);
		else
			*ret = e;
	}
	return error;
}

/* The welcome's own errno values; a stranger may say anything. */
static int welcome_error(int32_t error)
{
	switch (-error) {
	case EPROTONOSUPPORT:
	case E2BIG:
	case EINVAL:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case EDQUOT:
	case ENODEV:
		return error;
	default:
		return -EPROTO;
	}
}

static int meet(struct endpoint *e, int sock, int64_t deadline)
{
	struct hello hello = {
		.magic = HELLO_MAGIC,
		.size = sizeof(hello),
		.abi = EVERING_ABI_VERSION,
		.backend = e->backend->id,
		.geometry = e->geometry,
	};
	int fds[MAX_HELLO_FDS];
	struct welcome welcome;
	unsigned int count;
	int ret;

	hello.fds = e->backend->offer(e, fds);
	ret = send_packet(sock, &hello, sizeof(hello), fds, hello.fds);
	if (ret)
		return ret;
	do {
		ret = wait_readable(sock, deadline);
		if (ret)
			return ret;
		ret = recv_packet(sock, &welcome, sizeof(welcome), fds, &count);
	} while (ret == -EAGAIN);
	if (ret)
		return ret == -EMSGSIZE ? -EPROTO : ret;
	if (welcome.magic != WELCOME_MAGIC || welcome.size != sizeof(welcome) ||
	    welcome.fds != count || (welcome.error && count)) {
		close_fds(fds, count);
		return -EPROTO;
	}
	if (welcome.error)
		return welcome_error(welcome.error);
	ret = e->backend->complete(e, fds, count);
	if (!ret)
		ret = endpoint_ready(e);
	return ret;
}

/* Says hello for @e, which is @ev on success and gone on error. */
static int greet_as(struct endpoint *e, int fd, int64_t deadline,
		    struct evering **ev)
{
	int ret = meet(e, fd, deadline);

	if (ret) {
		endpoint_destroy(e);
		return ret;
	}
	e->sock = fd;
	peer_credentials(e);
	e->backend->met(e);
	*ev = &e->ev;
	return 0;
}

/* Who would not wait is not told that it took too long. */
static int too_late(int ret, int64_t timeout_ns)
{
	return ret == -ETIMEDOUT && !timeout_ns ? -EAGAIN : ret;
}

int evering_connect_fd(int fd, const struct evering_params *from,
		       int64_t timeout_ns, struct evering **ev)
{
	int64_t deadline = deadline_after(timeout_ns);
	struct evering_params params;
	struct endpoint *e;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, false, &params);
	if (!ret)
		ret = check_socket(fd);
	if (!ret)
		ret = make(&params, &e);
	if (!ret)
		ret = greet_as(e, fd, deadline, ev);
	return too_late(ret, timeout_ns);
}

int evering_accept_fd(int fd, const struct evering_params *from,
		      int64_t timeout_ns, struct evering **ev)
{
	int64_t deadline = deadline_after(timeout_ns);
	struct evering_params limits;
	bool own;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, true, &limits);
	if (!ret)
		ret = check_socket(fd);
	if (ret)
		return ret;
	do {
		ret = wait_readable(fd, deadline);
		if (ret == -ETIMEDOUT && !timeout_ns)
			return -EAGAIN;
		if (ret)
			return ret;
		ret = greet(fd, &limits, ev, &own);
	} while (ret == -EAGAIN);
	return ret;
}

/* ------------------------------------------------------------------ addresses */

static int make_address(const char *path, struct sockaddr_un *address,
			socklen_t *len)
{
	size_t length = strlen(path);

	if (!length || (path[0] == '@' && length == 1))
		return -EINVAL;
	if (length >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, length);
	if (path[0] == '@') {
		address->sun_path[0] = 0;
		*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
				   length);
	} else {
		*len = sizeof(*address);
	}
	return 0;
}

/* A connected socket, or a negative errno. */
static int dial(const struct sockaddr_un *address, socklen_t len,
		int64_t timeout_ns)
{
	struct timeval timeout;
	int sock, ret;

	sock = socket(AF_UNIX,
		      SOCK_SEQPACKET | SOCK_CLOEXEC |
			      (timeout_ns ? 0 : SOCK_NONBLOCK),
		      0);
	if (sock < 0)
		return -errno;
	/* connect(2) waits while the listener's backlog is full. */
	if (timeout_ns > 0) {
		timeout.tv_sec = timeout_ns / 1000000000;
		timeout.tv_usec = timeout_ns % 1000000000 / 1000 + 1;
		if (timeout.tv_usec > 999999)
			timeout.tv_usec = 999999;
		setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &timeout,
			   sizeof(timeout));
	}
	if (!connect(sock, (const struct sockaddr *)address, len))
		return sock;
	ret = -errno;
	close(sock);
	if (ret == -EAGAIN && timeout_ns)
		return -ETIMEDOUT;
	if (ret == -EPROTOTYPE) /* a stream or datagram socket */
		return -EPROTO;
	return ret;
}

int evering_connect(const char *path, const struct evering_params *from,
		    int64_t timeout_ns, struct evering **ev)
{
	int64_t deadline = deadline_after(timeout_ns);
	struct evering_params params;
	struct sockaddr_un address;
	struct endpoint *e;
	socklen_t len;
	int ret, sock;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, false, &params);
	if (!ret)
		ret = make_address(path, &address, &len);
	/*
	 * The channel first: making a large one takes its time, and the listener
	 * waits for a hello from the moment that somebody connects.
	 */
	if (!ret)
		ret = make(&params, &e);
	if (ret)
		return ret;
	sock = dial(&address, len, timeout_ns);
	if (sock < 0) {
		endpoint_destroy(e);
		return sock;
	}
	ret = greet_as(e, sock, deadline, ev);
	if (ret)
		close(sock);
	return too_late(ret, timeout_ns);
}

/* ------------------------------------------------------------------- listening */

/*
 * Locks the directory that @path is in, so that two who find the same stale socket
 * do not both replace it, the second removing the first one's.  Nothing is left
 * behind by who dies with it.  Who may not read the directory, or finds it locked
 * by somebody else for long, goes on without.
 */
static int lock_directory(const char *path)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	char directory[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	const char *slash = strrchr(path, '/');
	unsigned int tries;
	int fd;

	if (!slash)
		strcpy(directory, ".");
	else
		*(char *)mempcpy(directory, path, (size_t)(slash - path) + 1) =
			0;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (tries = 0; fd >= 0 && tries < 100; tries++) {
		if (!flock(fd, LOCK_EX | LOCK_NB))
			break;
		nanosleep(&pause, NULL);
	}
	return fd;
}

/* Is @address a socket that nobody listens at any more? */
static bool is_stale(const struct sockaddr_un *address, socklen_t len)
{
	struct stat st;
	bool refused;
	int probe;

	if (lstat(address->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
		       0);
	if (probe < 0)
		return false;
	refused = connect(probe, (const struct sockaddr *)address, len) &&
		  errno == ECONNREFUSED;
	close(probe);
	return refused;
}

static int bind_listen(struct evering_listener *l, socklen_t len, mode_t mode)
{
	const struct sockaddr *address = (const struct sockaddr *)&l->address;
	const char *path = l->address.sun_path;
	struct stat st;
	int ret;

	ret = bind(l->sock, address, len) ? -errno : 0;
	if (ret == -EADDRINUSE && path[0] && is_stale(&l->address, len) &&
	    !unlink(path))
		ret = bind(l->sock, address, len) ? -errno : 0;
	if (ret)
		return ret;
	if (path[0]) {
		if (lstat(path, &st) || (mode && chmod(path, mode))) {
			ret = -errno;
			unlink(path);
			return ret;
		}
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	return listen(l->sock, 128) ? -errno : 0;
}

static int watch(struct evering_listener *l, int op, int fd, uint32_t events,
		 uint32_t index)
{
	struct epoll_event event = { .events = events, .data.u32 = index };

	return epoll_ctl(l->epoll, op, fd, &event) ? -errno : 0;
}

int evering_listen(const char *path, mode_t mode, struct evering_listener **ret)
{
	struct evering_listener *l;
	unsigned int i;
	int lock = -1, error;
	socklen_t len;

	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->sock = l->epoll = l->timer = -1;
	l->timer_at = INT64_MAX;
	for (i = 0; i < MAX_PENDING; i++)
		l->pending[i].fd = -1;
	error = make_address(path, &l->address, &len);
	if (error)
		goto fail;
	l->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
			 0);
	if (l->sock >= 0)
		l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll >= 0)
		l->timer = timerfd_create(CLOCK_MONOTONIC,
					  TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->timer < 0) {
		error = -errno;
		goto fail;
	}
	error = watch(l, EPOLL_CTL_ADD, l->sock, EPOLLIN, SOCK_INDEX);
	if (!error)
		error = watch(l, EPOLL_CTL_ADD, l->timer, EPOLLIN, TIMER_INDEX);
	if (error)
		goto fail;
	if (l->address.sun_path[0])
		lock = lock_directory(path);
	error = bind_listen(l, len, mode);
	close_fds(&lock, 1);
	if (error)
		goto fail;
	*ret = l;
	return 0;
fail:
	evering_listener_close(l);
	return error;
}

void evering_listener_close(struct evering_listener *l)
{
	struct stat st;
	unsigned int i;

	if (!l)
		return;
	for (i = 0; i < MAX_PENDING; i++)
		close_fds(&l->pending[i].fd, 1);
	if (l->ino && !lstat(l->address.sun_path, &st) && st.st_dev == l->dev &&
	    st.st_ino == l->ino)
		unlink(l->address.sun_path);
	close_fds(&l->sock, 1);
	close_fds(&l->epoll, 1);
	close_fds(&l->timer, 1);
	free(l);
}

int evering_listener_fd(const struct evering_listener *l)
{
	return l->epoll;
}

uint64_t evering_listener_refused(const struct evering_listener *l, int *error)
{
	if (error)
		*error = l->last_error;
	return l->refused;
}

static void pending_forget(struct evering_listener *l, unsigned int i)
{
	l->pending[i].fd = -1;
	if (l->full)
		l->full = watch(l, EPOLL_CTL_MOD, l->sock, EPOLLIN,
				SOCK_INDEX) != 0;
}

static void pending_refuse(struct evering_listener *l, unsigned int i,
			   int error)
{
	close(l->pending[i].fd);
	pending_forget(l, i);
	l->refused++;
	l->last_error = error;
}

/* Sets, and so also silences, the timer. */
static void set_timer(struct evering_listener *l, int64_t at)
{
	struct itimerspec when = { 0 };

	if (at == l->timer_at)
		return;
	l->timer_at = at;
	if (at != INT64_MAX) {
		when.it_value.tv_sec = at / 1000000000;
		when.it_value.tv_nsec = at % 1000000000;
	}
	timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Turns away whose time has passed, and has the timer ring for the next one. */
static void pending_expire(struct evering_listener *l)
{
	int64_t next = INT64_MAX, now = now_ns();
	struct pending *p;
	unsigned int i;
	char byte;

	for (i = 0; i < MAX_PENDING; i++) {
		p = &l->pending[i];
		if (p->fd < 0)
			continue;
		if (p->deadline > now) {
			if (p->deadline < next)
				next = p->deadline;
			continue;
		}
		/* Who has said something waits for us, and epoll tells us so. */
		if (recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0)
			pending_refuse(l, i, -ETIMEDOUT);
	}
	set_timer(l, next);
}

/* Takes new connections while there is room. */
static int pending_fill(struct evering_listener *l)
{
	unsigned int i;
	int fd, ret;

	for (i = 0; i < MAX_PENDING; i++) {
		if (l->pending[i].fd >= 0)
			continue;
		fd = accept4(l->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return errno == EAGAIN || errno == ECONNABORTED ||
					       errno == EINTR ?
				       0 :
				       -errno;
		ret = watch(l, EPOLL_CTL_ADD, fd, EPOLLIN, i);
		if (ret) {
			close(fd);
			return ret;
		}
		l->pending[i].fd = fd;
		l->pending[i].deadline = now_ns() + GREET_NS;
	}
	l->full = !watch(l, EPOLL_CTL_MOD, l->sock, 0, SOCK_INDEX);
	return 0;
}

/* 1: @ev is there; 0: not that one; negative errno: this side lacks something. */
static int pending_greet(struct evering_listener *l, unsigned int i,
			 const struct evering_params *limits,
			 struct evering **ev)
{
	int fd = l->pending[i].fd, ret;
	bool own;

	ret = greet(fd, limits, ev, &own);
	if (ret == -EAGAIN)
		return 0;
	if (ret) {
		pending_refuse(l, i, ret);
		return own ? ret : 0;
	}
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
	pending_forget(l, i);
	return 1;
}

int evering_accept(struct evering_listener *l,
		   const struct evering_params *from, int64_t timeout_ns,
		   struct evering **ev)
{
	int64_t deadline = deadline_after(timeout_ns);
	struct evering_params limits;
	struct epoll_event event;
	int ret, wait_ms;
	int64_t left;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, true, &limits);
	if (ret)
		return ret;
	for (;;) {
		pending_expire(l);
		wait_ms = -1;
		if (deadline != INT64_MAX) {
			left = deadline - now_ns();
			/* Rounded up, so as not to spin through the last one. */
			wait_ms = left <= 0 ? 0 :
				  left > 1000000000 ?
					      1000 :
					      (int)((left + 999999) / 1000000);
		}
		/* One at a time: what is left is still there the next time. */
		ret = epoll_wait(l->epoll, &event, 1, wait_ms);
		if (ret < 0)
			return -errno;
		if (ret == 0) {
			if (now_ns() < deadline)
				continue;
			return timeout_ns ? -ETIMEDOUT : -EAGAIN;
		}
		if (event.data.u32 == SOCK_INDEX)
			ret = pending_fill(l);
		else if (event.data.u32 != TIMER_INDEX)
			ret = pending_greet(l, event.data.u32, &limits, ev);
		else
			ret = 0;
		if (ret)
			return ret < 0 ? ret : 0;
	}
}

/* ------------------------------------------------------------------------ pair */

/* The descriptors that @from offers, for @to to own. */
static int offer_copies(struct endpoint *from, int fds[MAX_HELLO_FDS],
			unsigned int *count)
{
	int theirs[MAX_HELLO_FDS], error;
	unsigned int i;

	*count = from->backend->offer(from, theirs);
	for (i = 0; i < *count; i++) {
		fds[i] = fcntl(theirs[i], F_DUPFD_CLOEXEC, 0);
		if (fds[i] < 0) {
			error = -errno;
			close_fds(fds, i);
			return error;
		}
	}
	return 0;
}

static int pair_up(struct endpoint *a, struct endpoint *b)
{
	int fds[MAX_HELLO_FDS], socks[2], ret;
	unsigned int count;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		return -errno;
	a->sock = socks[0];
	b->sock = socks[1];
	peer_credentials(a);
	peer_credentials(b);
	ret = offer_copies(a, fds, &count);
	if (!ret)
		ret = b->backend->join(b, fds, count);
	if (!ret)
		ret = offer_copies(b, fds, &count);
	if (!ret)
		ret = a->backend->complete(a, fds, count);
	if (!ret)
		ret = endpoint_ready(a);
	if (!ret)
		ret = endpoint_ready(b);
	if (ret)
		return ret;
	a->backend->met(a);
	b->backend->met(b);
	return 0;
}

int evering_pair(const struct evering_params *from, struct evering *ev[2])
{
	struct evering_params params;
	struct endpoint *a, *b;
	int ret;

	ret = params_read(from, false, &params);
	if (!ret)
		ret = make(&params, &a);
	if (ret)
		return ret;
	ret = endpoint_new(a->backend, EVERING_B, &a->geometry, &params, &b);
	if (!ret) {
		ret = pair_up(a, b);
		if (ret)
			endpoint_destroy(b);
	}
	if (ret) {
		endpoint_destroy(a);
		return ret;
	}
	ev[EVERING_A] = &a->ev;
	ev[EVERING_B] = &b->ev;
	return 0;
}
