// SPDX-License-Identifier: MIT
/*
 * listen.c: a listener, its socket, and the connections that have not said hello yet.
 *
 * Connections are handled side by side, because the only state of each is "has not said
 * hello yet".  The work of one call is bounded, whatever strangers do.  Each pass looks
 * at the clock.  A call that does not wait makes a fixed number of passes, and none
 * after a pass in which a client has sent descriptors: to make channels of them takes
 * time, and so does to look at them and to close them.  If there are more silent
 * connections than places, the user that has most of the places loses its oldest one.
 * So no client waits long, or for the silence of another user.
 *
 * If several listeners accept from one socket, only the one that has taken a connection
 * can answer it, and it may be busy for long with the client that it has just accepted.
 * So evering_accept() keeps no connections when it returns a channel.  It asks their
 * clients to connect again, also those that have said hello meanwhile.  Another
 * listener takes them, or the next call of this one.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define MAX_PENDING 64u
#define TIMER_INDEX MAX_PENDING
#define SOCK_INDEX (MAX_PENDING + 1)
#define GREET_NS 1000000000ll
/* See wait_for_hello(). */
#define HELLO_MS 5
/* Connections that one pass takes, and passes of a call that does not wait. */
#define TAKE_AT_ONCE 4u
/* The time of the timer when lanes wait for evering_accept(): one that has passed. */
#define AT_ONCE 1ll
#define PASSES_NOWAIT 8u
/* The kernel limits it to net.core.somaxconn. */
#define BACKLOG 4096

/**
 * struct pending - a connection that has not said hello yet
 * @fd: -1: none
 * @who: the process that made it
 * @deadline: when its time is up
 * @order: the lower, the older
 */
struct pending {
	int fd;
	struct ucred who;
	int64_t deadline;
	uint64_t order;
};

/**
 * struct file - the file of a socket, which the last listener at that socket removes
 * @listeners: how many listeners there are; any thread uses this
 * @maker: fork_id() of the process that made the file; others do not remove it
 * @path: its path
 * @dev: the device of the file, to recognize it
 * @ino: its inode number; 0: no file was made
 */
struct file {
	unsigned int listeners;
	uint64_t maker;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	dev_t dev;
	ino_t ino;
};

/* The first descriptor that a service manager passes, of sd_listen_fds(3). */
#define FIRST_PASSED 3

/**
 * struct evering_listener - a listener
 * @sock: the listening socket
 * @shared: other listeners may accept from @sock too: in other threads, or in processes
 *	that were not made by fork(2)
 * @adopted: another program made @sock, and may have set options that accept(2) passes
 *	on
 * @epoll: watches @sock, @timer and all pending connections;
 *	evering_listener_fd()
 * @timer: expires when the time of the oldest pending connection is up, so that a
 *	caller that polls @epoll comes and turns it away; and as long as there are lanes
 *	to take
 * @timer_at: when it expires; INT64_MAX: never
 * @maker: fork_id() of the process that bound @sock
 * @user: fork_id() of the process that made @epoll and @timer
 * @address: the address that was bound
 * @file: the socket file, shared by the listeners of @sock; NULL: there is none, or it
 *	belongs to another program
 * @pending: connections that have not said hello yet
 * @order: the order of the next connection
 * @admission: which clients may connect
 * @ledger: what each user has
 * @lanes: the lanes of the last meeting
 * @next: the next one of them that evering_accept() returns
 * @worked: in this pass a client has sent descriptors
 * @refused: of evering_listener_refused()
 * @last_error: of evering_listener_refused()
 * @member: the listener's place in a group, or NULL
 */
struct evering_listener {
	int sock;
	bool shared;
	bool adopted;
	int epoll;
	int timer;
	int64_t timer_at;
	uint64_t maker;
	uint64_t user;
	struct sockaddr_un address;
	struct file *file;
	struct pending pending[MAX_PENDING];
	uint64_t order;
	struct evering_admission admission;
	struct ledger *ledger;
	struct lanes lanes;
	unsigned int next;
	bool worked;
	uint64_t refused;
	int last_error;
	struct member *member;
};

/* --------------------------------------------------------------- the address */

/*
 * Locks the directory of @path.  So two processes that find the same stale socket do
 * not both replace it, the second removing the socket of the first.  A process that
 * dies leaves no lock behind.  If the directory cannot be read, or another process
 * keeps it locked for long, this continues without a lock.
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

static int file_new(struct evering_listener *l, const char *path)
{
	l->file = calloc(1, sizeof(*l->file));
	if (!l->file)
		return -ENOMEM;
	l->file->listeners = 1;
	l->file->maker = fork_id();
	strcpy(l->file->path, path);
	return 0;
}

static struct file *file_get(struct file *file)
{
	if (file)
		__atomic_add_fetch(&file->listeners, 1, __ATOMIC_RELAXED);
	return file;
}

/*
 * The last listener removes the file, unless another process has made another file
 * there.
 */
static void file_put(struct file *file)
{
	struct stat st;

	if (!file || __atomic_sub_fetch(&file->listeners, 1, __ATOMIC_ACQ_REL))
		return;
	if (file->ino && file->maker == fork_id() && !lstat(file->path, &st) &&
	    st.st_dev == file->dev && st.st_ino == file->ino)
		unlink(file->path);
	free(file);
}

/* Whether @address is a socket at which no process listens any more. */
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
		l->file->dev = st.st_dev;
		l->file->ino = st.st_ino;
	}
	return listen(l->sock, BACKLOG) ? -errno : 0;
}

static int watch(struct evering_listener *l, int op, int fd, uint32_t index)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = index };

	return epoll_ctl(l->epoll, op, fd, &event) ? -errno : 0;
}

/*
 * Makes what a listener needs to accept.  Returns 0, or a negative errno.
 *
 * The socket is not watched with EPOLLEXCLUSIVE.  That would wake only one of the
 * listeners that share it, which may be killed before it has accepted, while the others
 * sleep on.
 */
static int start_watching(struct evering_listener *l)
{
	int ret;

	l->timer_at = INT64_MAX;
	l->user = fork_id();
	if (!l->ledger)
		l->ledger = ledger_new();
	if (!l->ledger)
		return -ENOMEM;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll >= 0)
		l->timer = timerfd_create(CLOCK_MONOTONIC,
					  TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->timer < 0)
		return -errno;
	ret = watch(l, EPOLL_CTL_ADD, l->sock, SOCK_INDEX);
	return ret ? ret : watch(l, EPOLL_CTL_ADD, l->timer, TIMER_INDEX);
}

/*
 * Releases everything except the listening socket.  Descriptors that fork(2) has copied
 * belong to another process.
 */
static void stop_watching(struct evering_listener *l)
{
	bool own = l->user == fork_id();
	int left[MAX_PENDING];
	unsigned int i, n = 0;

	for (i = 0; i < MAX_PENDING; i++) {
		if (own)
			socket_close(l->pending[i].fd);
		else if (l->pending[i].fd >= 0)
			left[n++] = l->pending[i].fd;
		l->pending[i].fd = -1;
	}
	if (n)
		sockets_leave(left, n);
	/*
	 * The clients notice this, unless the lanes still belong to the parent process.
	 */
	while (l->next < l->lanes.count)
		evering_close(&l->lanes.e[l->next++]->ev);
	if (own)
		ledger_put(l->ledger);
	else
		ledger_forget(l->ledger);
	l->ledger = NULL;
	close_fds(&l->epoll, 1);
	close_fds(&l->timer, 1);
	l->epoll = l->timer = -1;
}

/*
 * A worker process, made with fork(2), accepts from the same socket.  It needs an epoll
 * set of its own, because each process has other connections, and a ledger of its own,
 * because the parent's may have been locked during the fork.
 */
static int after_fork(struct evering_listener *l)
{
	int error;

	if (l->user == fork_id())
		return 0;
	stop_watching(l);
	error = start_watching(l);
	if (error) {
		stop_watching(l);
		/* No process owns it, so that the next call tries again. */
		l->user = 0;
	}
	return error;
}

/* A listener without a socket, or NULL. */
static struct evering_listener *new_listener(void)
{
	struct evering_listener *l = calloc(1, sizeof(*l));
	unsigned int i;

	if (!l)
		return NULL;
	l->sock = l->epoll = l->timer = -1;
	l->maker = fork_id();
	for (i = 0; i < MAX_PENDING; i++)
		l->pending[i].fd = -1;
	admission_read(NULL, &l->admission);
	return l;
}

int evering_listen(const char *path, mode_t mode, struct evering_listener **ret)
{
	struct evering_listener *l = new_listener();
	int lock = -1, error;
	socklen_t len;

	if (!l)
		return -ENOMEM;
	error = make_address(path, &l->address, &len);
	if (error)
		goto fail;
	l->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK,
			 0);
	if (l->sock < 0) {
		error = -errno;
		goto fail;
	}
	error = start_watching(l);
	if (error)
		goto fail;
	if (l->address.sun_path[0]) {
		error = file_new(l, path);
		if (error)
			goto fail;
		lock = lock_directory(path);
	}
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

/* --------------------------------------------------------- sockets that exist */

/* Checks that @fd is a listening socket of the right type.  Returns 0, or why not. */
static int check_listening(int fd)
{
	socklen_t len = sizeof(int);
	int listens, ret;

	ret = check_socket(fd);
	if (ret)
		return ret;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len))
		return -errno;
	return listens ? 0 : -EINVAL;
}

/*
 * Makes a listener of @fd, which it owns if this returns 0.  It gets the rules and the
 * ledger of @like, if that is not NULL.
 */
static int adopt(int fd, const struct evering_listener *like,
		 struct evering_listener **ret)
{
	struct evering_listener *l = new_listener();
	int error, flags;

	if (!l)
		return -ENOMEM;
	l->shared = true;
	l->adopted = !like || like->adopted;
	if (like) {
		l->admission = like->admission;
		l->ledger = ledger_get(like->ledger);
		l->file = file_get(like->file);
	}
	l->sock = fd;
	error = start_watching(l);
	/* Other processes accept as well, and may be faster. */
	flags = fcntl(fd, F_GETFL);
	if (!error && (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
		       fcntl(fd, F_SETFD, FD_CLOEXEC)))
		error = -errno;
	if (error) {
		l->sock = -1;
		evering_listener_close(l);
		return error;
	}
	*ret = l;
	return 0;
}

int evering_listen_fd(int fd, struct evering_listener **ret)
{
	int error = check_listening(fd);

	return error ? error : adopt(fd, NULL, ret);
}

int evering_listener_share(struct evering_listener *l,
			   struct evering_listener **ret)
{
	int error, fd;

	error = after_fork(l);
	if (error)
		return error;
	fd = fcntl(l->sock, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	error = adopt(fd, l, ret);
	if (error)
		close(fd);
	else
		l->shared = true;
	return error;
}

/* An environment variable that is a number of at most nine digits, or -1. */
static int number_of(const char *name)
{
	const char *at = getenv(name);
	int n = 0;

	if (!at || !*at || strlen(at) > 9)
		return -1;
	for (; *at >= '0' && *at <= '9'; at++)
		n = 10 * n + (*at - '0');
	return *at ? -1 : n;
}

/* The place of @name among @count names that are separated by colons, or -1. */
static int place_of(const char *name, const char *names, int count)
{
	size_t len;
	int i;

	for (i = 0; names && i < count; i++) {
		len = strcspn(names, ":");
		if (len == strlen(name) && !memcmp(names, name, len))
			return i;
		names = names[len] ? names + len + 1 : NULL;
	}
	return -1;
}

int evering_listen_activated(const char *name, struct evering_listener **ret)
{
	int count, at = 0, pid;

	if (!getenv("LISTEN_PID") || !getenv("LISTEN_FDS"))
		return -ENOENT;
	pid = number_of("LISTEN_PID");
	count = number_of("LISTEN_FDS");
	if (pid < 0 || count < 0)
		return -EBADMSG;
	/* Otherwise the sockets were passed to a parent of this process. */
	if (pid != getpid() || !count)
		return -ENOENT;
	if (name)
		at = place_of(name, getenv("LISTEN_FDNAMES"), count);
	return at < 0 ? -ENOENT : evering_listen_fd(FIRST_PASSED + at, ret);
}

int evering_listener_admit(struct evering_listener *l,
			   const struct evering_admission *from)
{
	struct evering_admission admission;
	int ret;

	ret = admission_read(from, &admission);
	if (!ret)
		l->admission = admission;
	return ret;
}

int evering_listener_fd(struct evering_listener *l)
{
	int ret = after_fork(l);

	return ret ? ret : l->epoll;
}

uint64_t evering_listener_refused(const struct evering_listener *l, int *error)
{
	if (error)
		*error = l->last_error;
	return l->refused;
}

/* ------------------------------------------------- connections without a hello */

static void count_refused(struct evering_listener *l, int error)
{
	l->refused++;
	l->last_error = error;
}

/*
 * Closes a useless connection.  A child of this process may have a copy, which would
 * keep it in the epoll set.
 */
static void pending_close(struct evering_listener *l, struct pending *p)
{
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, p->fd, NULL);
	socket_close(p->fd);
	p->fd = -1;
}

static void pending_refuse(struct evering_listener *l, struct pending *p,
			   int error)
{
	refuse(p->fd, error);
	pending_close(l, p);
	count_refused(l, error);
}

/* Whether other listeners accept from the same socket. */
static bool is_shared(const struct evering_listener *l)
{
	return l->shared || l->maker != l->user;
}

/*
 * Asks the clients that got no answer yet to connect again, to a listener that has
 * time.
 */
static void pending_give_up(struct evering_listener *l)
{
	struct pending *p;

	for (p = l->pending; p < l->pending + MAX_PENDING; p++) {
		if (p->fd < 0)
			continue;
		refuse(p->fd, -ERESTART);
		pending_close(l, p);
	}
}

/* Sets the timer, which also clears its expiry. */
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

/* Whether it has sent something.  Then it waits for this side, and epoll reports it. */
static bool has_spoken(const struct pending *p)
{
	char byte;

	return recv(p->fd, &byte, 0, MSG_PEEK | MSG_DONTWAIT) >= 0;
}

/* Turns away the connections whose time is up, and sets the timer for the next one. */
static void pending_expire(struct evering_listener *l)
{
	int64_t next = INT64_MAX, now;
	struct pending *p;
	unsigned int i;

	if (l->timer_at == INT64_MAX)
		return;
	now = now_ns();
	for (i = 0; i < MAX_PENDING; i++) {
		p = &l->pending[i];
		if (p->fd < 0)
			continue;
		if (p->deadline <= now && !has_spoken(p))
			pending_refuse(l, p, -ETIMEDOUT);
		else if (p->deadline > now && p->deadline < next)
			next = p->deadline;
	}
	set_timer(l, next);
}

static unsigned int pending_of(const struct evering_listener *l, uid_t uid)
{
	unsigned int i, n = 0;

	for (i = 0; i < MAX_PENDING; i++)
		n += l->pending[i].fd >= 0 && l->pending[i].who.uid == uid;
	return n;
}

/* The oldest silent connection of @uid. */
static struct pending *oldest_of(struct evering_listener *l, uid_t uid)
{
	struct pending *p, *oldest = NULL;

	for (p = l->pending; p < l->pending + MAX_PENDING; p++)
		if (p->fd >= 0 && p->who.uid == uid &&
		    (!oldest || p->order < oldest->order))
			oldest = p;
	return oldest;
}

/* A place for a connection of @uid; another connection may have to leave it. */
static struct pending *pending_place(struct evering_listener *l, uid_t uid)
{
	struct pending *p, *victim = NULL;
	unsigned int n, most = 0;

	if (user_is_limited(uid) &&
	    pending_of(l, uid) >= l->admission.user_waiting) {
		victim = oldest_of(l, uid);
	} else {
		for (p = l->pending; p < l->pending + MAX_PENDING; p++) {
			if (p->fd < 0)
				return p;
			n = pending_of(l, p->who.uid);
			if (n > most ||
			    (n == most && p->order < victim->order)) {
				most = n;
				victim = p;
			}
		}
	}
	if (victim)
		pending_refuse(l, victim, -ETIMEDOUT);
	return victim;
}

/*
 * Returns 1: l->lanes are there; 0: this connection is none; a negative errno: this
 * side lacks a resource.
 */
static int greet_one(struct evering_listener *l, struct pending *p,
		     const struct evering_params *limits, int64_t deadline)
{
	bool own = false;
	int ret;

	l->next = l->lanes.count = 0;
	ret = greet(p->fd, limits, l, &p->who, deadline, &l->lanes, &own);
	if (ret == -EAGAIN)
		return 0;
	if (ret) {
		pending_close(l, p);
		count_refused(l, ret);
		return own ? ret : 0;
	}
	p->fd = -1;
	return 1;
}

struct member **listener_member(struct evering_listener *l)
{
	return &l->member;
}

bool listener_made_its_socket(const struct evering_listener *l)
{
	return !l->adopted;
}

/* Whether the next evering_accept() returns a lane of an earlier meeting. */
bool listener_has_lanes(const struct evering_listener *l)
{
	return l->next < l->lanes.count;
}

/* Makes this pass the last one of a call that does not wait. */
void listener_works(struct evering_listener *l)
{
	l->worked = true;
}

int listener_may_welcome(struct evering_listener *l, const struct ucred *who)
{
	return ledger_may_welcome(l->ledger, who->uid);
}

int listener_charge(struct evering_listener *l, const struct ucred *who,
		    uint64_t bytes, struct ledger **ledger)
{
	*ledger = l->ledger;
	return ledger_charge(l->ledger, &l->admission, who->uid, bytes);
}

/* Whether the admission rules let @who in at all. */
static int ask_admission(const struct evering_listener *l,
			 const struct ucred *who)
{
	int ret;

	if (!l->admission.user_waiting && user_is_limited(who->uid))
		return -EDQUOT;
	if (!l->admission.allow)
		return 0;
	ret = l->admission.allow(who->pid, who->uid, who->gid,
				 l->admission.context);
	return ret > 0 ? -EACCES : ret;
}

/*
 * Milliseconds until @deadline, rounded up, so that the last one is not spent spinning.
 */
static int wait_ms(int64_t deadline)
{
	int64_t left;

	if (deadline == INT64_MAX)
		return -1;
	left = deadline - now_ns();
	return left <= 0	 ? 0 :
	       left > 1000000000 ? 1000 :
				   (int)((left + 999999) / 1000000);
}

/*
 * A hello comes a moment after connect(2).  A client that is given this moment need not
 * connect again.  Only one client in each pass gets it, and none whose user has another
 * silent connection.  Otherwise all would wait for each client that never says hello.
 */
static void wait_for_hello(const struct evering_listener *l,
			   const struct pending *new, int64_t deadline,
			   bool *patient)
{
	struct pollfd pfd = { .fd = new->fd, .events = POLLIN };
	int ms = wait_ms(deadline);

	if (!*patient || !is_shared(l) || pending_of(l, new->who.uid))
		return;
	poll(&pfd, 1, ms < 0 || ms > HELLO_MS ? HELLO_MS : ms);
	*patient = false;
}

/*
 * Takes the next connection; its hello is usually there already.  Returns 1: l->lanes
 * are there; 0: another connection may wait; -EAGAIN: none does; or as greet_one().
 */
static int take_one(struct evering_listener *l,
		    const struct evering_params *limits, int64_t deadline,
		    bool *patient)
{
	struct pending new = { 0 }, *p;
	socklen_t len = sizeof(new.who);
	int ret;

	new.fd = accept4(l->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (new.fd < 0)
		return errno == ECONNABORTED || errno == EINTR ? 0 : -errno;
	if (getsockopt(new.fd, SOL_SOCKET, SO_PEERCRED, &new.who, &len))
		ret = -EACCES;
	else
		ret = ask_admission(l, &new.who);
	if (ret) {
		pending_refuse(l, &new, ret);
		return 0;
	}
	wait_for_hello(l, &new, deadline, patient);
	ret = greet_one(l, &new, limits, deadline);
	if (ret || new.fd < 0)
		return ret;
	p = pending_place(l, new.who.uid);
	if (!p) {
		pending_refuse(l, &new, -ETIMEDOUT);
		return 0;
	}
	ret = watch(l, EPOLL_CTL_ADD, new.fd, (uint32_t)(p - l->pending));
	if (ret) {
		socket_close(new.fd);
		return ret;
	}
	new.deadline = now_ns() + GREET_NS;
	new.order = l->order++;
	*p = new;
	if (l->timer_at == INT64_MAX)
		set_timer(l, new.deadline);
	return 0;
}

static int take_some(struct evering_listener *l,
		     const struct evering_params *limits, int64_t deadline,
		     bool patient)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && !l->worked && i < TAKE_AT_ONCE; i++)
		ret = take_one(l, limits, deadline, &patient);
	return ret == -EAGAIN ? 0 : ret;
}

static int pending_greet(struct evering_listener *l, unsigned int i,
			 const struct evering_params *limits, int64_t deadline)
{
	struct pending *p = &l->pending[i];
	int fd = p->fd, ret;

	/* The connection of an event may have ended since. */
	if (fd < 0)
		return 0;
	/*
	 * Before a close, as in pending_close(): on the device the channel does not
	 * keep the socket.
	 */
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
	ret = greet_one(l, p, limits, deadline);
	if (ret || p->fd < 0)
		return ret;
	/* The client has sent nothing after all. */
	ret = watch(l, EPOLL_CTL_ADD, fd, i);
	if (ret) {
		socket_close(fd);
		p->fd = -1;
	}
	return ret;
}

/* One pass, which waits @wait milliseconds at the most.  Returns as take_one(). */
static int one_pass(struct evering_listener *l,
		    const struct evering_params *limits, int64_t deadline,
		    int wait)
{
	struct epoll_event event;
	int ret;

	l->worked = false;
	pending_expire(l);
	/* One event at a time: the others are still there the next time. */
	ret = epoll_wait(l->epoll, &event, 1, wait);
	if (ret < 0)
		return -errno;
	if (ret == 0)
		return -EAGAIN;
	if (event.data.u32 == SOCK_INDEX)
		return take_some(l, limits, deadline, wait != 0);
	if (event.data.u32 == TIMER_INDEX)
		return 0;
	return pending_greet(l, event.data.u32, limits, deadline);
}

/* Hands out the next lane.  While there are more, the descriptor stays readable. */
static struct evering *next_lane(struct evering_listener *l)
{
	struct evering *ev = &l->lanes.e[l->next++]->ev;

	if (listener_has_lanes(l))
		set_timer(l, AT_ONCE);
	else
		pending_expire(l);
	return ev;
}

int evering_accept(struct evering_listener *l,
		   const struct evering_params *from, int64_t timeout_ns,
		   struct evering **ev)
{
	bool wait = timeout_ns != EVERING_NOWAIT;
	int64_t deadline = wait ? deadline_after(timeout_ns) : INT64_MAX;
	unsigned int passes = 0;
	struct evering_params limits;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, true, &limits);
	if (!ret)
		ret = after_fork(l);
	if (ret)
		return ret;
	if (listener_has_lanes(l)) {
		*ev = next_lane(l);
		return 0;
	}
	for (;;) {
		ret = one_pass(l, &limits, deadline,
			       wait ? wait_ms(deadline) : 0);
		if (ret == 1) {
			if (is_shared(l))
				pending_give_up(l);
			*ev = next_lane(l);
			return 0;
		}
		if (ret < 0 && ret != -EAGAIN)
			return ret;
		if (!wait &&
		    (ret == -EAGAIN || l->worked || ++passes == PASSES_NOWAIT))
			return -EAGAIN;
		if (wait && deadline != INT64_MAX && now_ns() >= deadline)
			return -ETIMEDOUT;
	}
}

void evering_listener_close(struct evering_listener *l)
{
	if (!l)
		return;
	group_forget(l->member);
	file_put(l->file);
	if (l->user == fork_id() && is_shared(l))
		pending_give_up(l);
	/*
	 * Connections that were never accepted end with it, and so does what is in
	 * them.
	 */
	if (l->sock >= 0) {
		sockets_leave(&l->sock, 1);
		/* An abstract name is free when no process has a copy of the socket. */
		if (!l->address.sun_path[0])
			children_settle();
	}
	stop_watching(l);
	free(l);
}
