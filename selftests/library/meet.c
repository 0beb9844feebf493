// SPDX-License-Identifier: MIT
/*
 * meet.c: two sides find each other, and strangers do not get in.  Socket files and
 * abstract names, timeouts on every step, what either side says to a partner that
 * talks nonsense, and hellos that are right in all but one thing.  After each of
 * them nothing is left open, and the next good partner is served.
 */
#include "common.h"
#include "cgroup.h"
#include "hello.h"

#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define ARENA	(2 * PAGE)

FIXTURE(meet)
{
	struct evering_params p;
	struct evering_listener *listener;
	struct evering *ev[2];
	char dir[64], path[108], top[128], group[160];
	int fds;
};

BACKEND_VARIANTS(meet);

FIXTURE_SETUP(meet)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, ARENA);
	strcpy(self->dir, "/tmp/evering-meet-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->path, sizeof(self->path), "%s/socket", self->dir);
	self->fds = count_fds();
}

FIXTURE_TEARDOWN(meet)
{
	close_pair(self->ev);
	evering_listener_close(self->listener);
	EXPECT_TRUE(groups_removed(self->top, self->group));
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_NE(0, unlink(self->path))
	{
		TH_LOG("the socket file was left behind");
	}
	EXPECT_EQ(0, rmdir(self->dir));
}

/* -------------------------------------------------------------------- partners */

static int raw_socket(const char *path, int type, bool listens)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t len = offsetof(struct sockaddr_un, sun_path) +
			(socklen_t)strlen(path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	int error;

	memcpy(a.sun_path, path, strlen(path));
	if (path[0] == '@')
		a.sun_path[0] = 0;
	else
		len++;
	if (listens ? bind(fd, (struct sockaddr *)&a, len) ||
			      (type != SOCK_DGRAM && listen(fd, 8)) :
		      connect(fd, (struct sockaddr *)&a, len)) {
		error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

static int raw_send(int sock, const void *data, size_t len, const int *fds,
		    int n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;

	if (n) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)n * sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -errno;
}

/* A client in a thread of its own. */
struct client {
	const char *path;
	const struct evering_params *params;
	int64_t timeout;
	struct evering *ev;
	int ret;
	int64_t took;
	pthread_t t;
};

static void *client_main(void *arg)
{
	struct client *c = arg;
	int64_t start = now_ns();

	c->ret = evering_connect(c->path, c->params, c->timeout, &c->ev);
	c->took = now_ns() - start;
	return NULL;
}

static int client_start(struct client *c, const char *path,
			const struct evering_params *params)
{
	c->path = path;
	c->params = params;
	c->timeout = PLENTY;
	c->ev = NULL;
	c->ret = 1;
	return pthread_create(&c->t, NULL, client_main, c);
}

static bool talks(struct evering *a, struct evering *b)
{
	uint32_t v = 41, w = 0;

	return !evering_send(a, &v, 4, 0) && !evering_recv(b, &w, 4, PLENTY) &&
	       w == 41 && !evering_send(b, &v, 4, 0) &&
	       !evering_recv(a, &w, 4, PLENTY);
}

/* Meets at @path and talks; leaves both endpoints in @ev. */
static int meet_at(struct evering_listener *l, const char *path,
		   const struct evering_params *params, struct evering *ev[2])
{
	struct client c;
	int ret;

	if (client_start(&c, path, params))
		return -EAGAIN;
	ret = evering_accept(l, NULL, PLENTY, &ev[1]);
	pthread_join(c.t, NULL);
	ev[0] = c.ev;
	if (ret || c.ret)
		return ret ? ret : c.ret;
	return talks(ev[0], ev[1]) ? 0 : -EBADMSG;
}

/* ---------------------------------------------------------------------- names */

TEST_F(meet, at_a_path)
{
	struct evering_geometry g[2];

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	ASSERT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
	EXPECT_EQ(EVERING_A, evering_get_geometry(self->ev[0], &g[0]));
	EXPECT_EQ(EVERING_B, evering_get_geometry(self->ev[1], &g[1]));
	EXPECT_EQ(0, memcmp(&g[0], &g[1], sizeof(g[0])));
	EXPECT_EQ(64u, g[0].slot_size);
	EXPECT_EQ(0u, evering_listener_refused(self->listener, NULL));
	EXPECT_STREQ(variant->backend == EVERING_BACKEND_DEVICE ? "device" :
								  "memfd",
		     evering_backend_name(self->ev[1]));
}

TEST_F(meet, at_an_abstract_name)
{
	char name[64];

	snprintf(name, sizeof(name), "@evering-meet-%d", getpid());
	ASSERT_EQ(0, evering_listen(name, 0600, &self->listener));
	ASSERT_EQ(0, meet_at(self->listener, name, &self->p, self->ev));
	/* No file of that name, and nobody there any more once it is closed. */
	EXPECT_NE(0, access(name, F_OK));
	evering_listener_close(self->listener);
	self->listener = NULL;
	EXPECT_EQ(-ECONNREFUSED,
		  evering_connect(name, &self->p, SEC, &self->ev[0]));
	EXPECT_TRUE(talks(self->ev[0], self->ev[1]));
}

static void *accept_fd_main(void *arg)
{
	struct client *c = arg;

	c->ret = evering_accept_fd((int)c->took, NULL, PLENTY, &c->ev);
	return NULL;
}

TEST_F(meet, over_a_socketpair)
{
	struct client c = { .ev = NULL };
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	EXPECT_EQ(-EAGAIN, evering_accept_fd(sv[1], NULL, 0, &c.ev));
	EXPECT_EQ(-ETIMEDOUT, evering_accept_fd(sv[1], NULL, MSEC, &c.ev));
	c.took = sv[1];
	ASSERT_EQ(0, pthread_create(&c.t, NULL, accept_fd_main, &c));
	ASSERT_EQ(0, evering_connect_fd(sv[0], &self->p, PLENTY, &self->ev[0]));
	pthread_join(c.t, NULL);
	ASSERT_EQ(0, c.ret);
	self->ev[1] = c.ev;
	EXPECT_TRUE(talks(self->ev[0], self->ev[1]));
	/* The sockets are the endpoints' now: teardown finds none left open. */
}

TEST_F(meet, on_error_the_socket_is_still_the_callers)
{
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_connect_fd(sv[0], &self->p, MSEC, &self->ev[0]));
	EXPECT_EQ(-EAGAIN, evering_connect_fd(sv[0], &self->p, EVERING_NOWAIT,
					      &self->ev[0]));
	self->p.entries = 3;
	EXPECT_EQ(-EINVAL,
		  evering_connect_fd(sv[0], &self->p, SEC, &self->ev[0]));
	self->p.entries = 16;
	self->p.lanes = 1;
	EXPECT_EQ(-EINVAL,
		  evering_connect_fd(sv[0], &self->p, SEC, &self->ev[0]));
	self->p.lanes = 0;
	EXPECT_LE(0, fcntl(sv[0], F_GETFD));
	EXPECT_LE(0, fcntl(sv[1], F_GETFD));
	close(sv[1]);
	EXPECT_EQ(-ECONNRESET,
		  evering_connect_fd(sv[0], &self->p, SEC, &self->ev[0]));
	EXPECT_EQ(-ECONNRESET,
		  evering_accept_fd(sv[0], NULL, SEC, &self->ev[0]));
	EXPECT_EQ(0, close(sv[0]));
}

TEST_F(meet, names_may_be_107_bytes_and_no_more)
{
	char path[200];
	size_t len = strlen(self->dir);

	memset(path, 'x', sizeof(path));
	memcpy(path, self->dir, len);
	path[len] = '/';
	path[108] = 0;
	EXPECT_EQ(-ENAMETOOLONG, evering_listen(path, 0, &self->listener));
	EXPECT_EQ(-ENAMETOOLONG,
		  evering_connect(path, &self->p, SEC, &self->ev[0]));
	path[107] = 0;
	ASSERT_EQ(0, evering_listen(path, 0600, &self->listener));
	EXPECT_EQ(0, meet_at(self->listener, path, &self->p, self->ev));
	evering_listener_close(self->listener);
	EXPECT_NE(0, access(path, F_OK));
	close_pair(self->ev);

	path[0] = '@';
	path[107] = 'x';
	self->listener = NULL;
	EXPECT_EQ(-ENAMETOOLONG, evering_listen(path, 0, &self->listener));
	path[107] = 0;
	ASSERT_EQ(0, evering_listen(path, 0, &self->listener));
	EXPECT_EQ(0, meet_at(self->listener, path, &self->p, self->ev));
	EXPECT_EQ(-EINVAL, evering_listen("", 0, &self->listener));
	EXPECT_EQ(-EINVAL, evering_connect("", NULL, 0, &self->ev[0]));
	/* Which would be any name that is free. */
	EXPECT_EQ(-EINVAL, evering_listen("@", 0, &self->listener));
	EXPECT_EQ(-EINVAL, evering_connect("@", NULL, 0, &self->ev[0]));
}

TEST_F(meet, the_socket_file_has_the_mode_asked_for)
{
	static const mode_t mode[] = { 0600, 0666, 0660, 0700, 0 };
	struct stat st;
	size_t i;

	umask(027);
	for (i = 0; i < ARRAY_SIZE(mode); i++) {
		ASSERT_EQ(0,
			  evering_listen(self->path, mode[i], &self->listener));
		ASSERT_EQ(0, stat(self->path, &st));
		EXPECT_TRUE(S_ISSOCK(st.st_mode));
		EXPECT_EQ(mode[i] ? mode[i] : 0750, st.st_mode & 07777);
		evering_listener_close(self->listener);
		self->listener = NULL;
		EXPECT_NE(0, stat(self->path, &st));
	}
}

TEST_F(meet, where_somebody_listens_nobody_else_can)
{
	struct evering_listener *second = NULL;
	int fd;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &second));
	EXPECT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
	evering_listener_close(self->listener);
	self->listener = NULL;

	/* Somebody of another kind, too. */
	fd = raw_socket(self->path, SOCK_STREAM, true);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &second));
	EXPECT_EQ(0, access(self->path, F_OK));
	close(fd);
	unlink(self->path);
	fd = raw_socket(self->path, SOCK_DGRAM, true);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &second));
	EXPECT_EQ(0, access(self->path, F_OK));
	close(fd);
	unlink(self->path);
}

TEST_F(meet, an_abstract_name_in_use_is_in_use)
{
	struct evering_listener *second = NULL;
	char name[64];

	snprintf(name, sizeof(name), "@evering-meet-%d", getpid());
	ASSERT_EQ(0, evering_listen(name, 0, &self->listener));
	EXPECT_EQ(-EADDRINUSE, evering_listen(name, 0, &second));
}

TEST_F(meet, where_so_many_wait_that_no_more_can_somebody_listens)
{
	struct evering_listener *second = NULL;
	int fd, waiting[64], n;

	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	{
		struct sockaddr_un a = { .sun_family = AF_UNIX };

		strcpy(a.sun_path, self->path);
		ASSERT_EQ(0, bind(fd, (struct sockaddr *)&a, sizeof(a)));
		ASSERT_EQ(0, listen(fd, 0));
		for (n = 0; n < 64; n++) {
			waiting[n] = socket(AF_UNIX,
					    SOCK_SEQPACKET | SOCK_CLOEXEC |
						    SOCK_NONBLOCK,
					    0);
			if (connect(waiting[n], (struct sockaddr *)&a,
				    sizeof(a)))
				break;
		}
	}
	ASSERT_LT(n, 64);
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &second));
	/* Nor does a client wait there for longer than it was told to. */
	EXPECT_EQ(-EAGAIN, evering_connect(self->path, &self->p, EVERING_NOWAIT,
					   &self->ev[0]));
	EXPECT_EQ(-ETIMEDOUT, evering_connect(self->path, &self->p, 50 * MSEC,
					      &self->ev[0]));
	/* The socket's time is in microseconds, of which this has no million. */
	EXPECT_EQ(-ETIMEDOUT,
		  evering_connect(self->path, &self->p, SEC - 1, &self->ev[0]));
	for (; n >= 0; n--)
		close(waiting[n]);
	close(fd);
	unlink(self->path);
}

static int listen_and_stay(void *arg)
{
	struct evering_listener *l;

	if (evering_listen(arg, 0, &l))
		return 1;
	await_death();
}

TEST_F(meet, what_a_dead_listener_left_behind_is_replaced)
{
	pid_t pid = spawn(listen_and_stay, self->path);
	int64_t end = now_ns() + PLENTY;

	while (now_ns() < end) {
		int fd = raw_socket(self->path, SOCK_SEQPACKET, false);

		if (fd >= 0) {
			close(fd);
			break;
		}
		sleep_ns(MSEC);
	}
	kill_and_reap(pid);
	ASSERT_EQ(0, access(self->path, F_OK));
	EXPECT_EQ(-ECONNREFUSED,
		  evering_connect(self->path, &self->p, SEC, &self->ev[0]));
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	EXPECT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
}

TEST_F(meet, who_keeps_the_folder_locked_keeps_nobody_from_listening)
{
	int fd = open(self->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, flock(fd, LOCK_EX));
	EXPECT_EQ(0, evering_listen(self->path, 0, &self->listener));
	EXPECT_EQ(0, flock(fd, LOCK_EX | LOCK_NB));
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
}

TEST_F(meet, what_cannot_be_removed_is_in_use)
{
	int fd = raw_socket(self->path, SOCK_SEQPACKET, true);

	close(fd);
	ASSERT_EQ(0, chmod(self->path, 0777));
	ASSERT_EQ(0, chmod(self->dir, 0555));
	if (!geteuid())
		ASSERT_EQ(0, seteuid(65534));
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &self->listener));
	if (!getuid())
		ASSERT_EQ(0, seteuid(0));
	EXPECT_EQ(0, chmod(self->dir, 0755));
	EXPECT_EQ(0, unlink(self->path));
}

TEST_F(meet, what_is_no_socket_is_left_alone)
{
	char other[128], c = 0;
	int fd;

	fd = open(self->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	ASSERT_EQ(1, write(fd, "k", 1));
	close(fd);
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &self->listener));
	fd = open(self->path, O_RDONLY | O_CLOEXEC);
	EXPECT_EQ(1, read(fd, &c, 1));
	EXPECT_EQ('k', c);
	close(fd);
	EXPECT_EQ(-ECONNREFUSED,
		  evering_connect(self->path, &self->p, SEC, &self->ev[0]));
	unlink(self->path);

	ASSERT_EQ(0, mkdir(self->path, 0700));
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &self->listener));
	ASSERT_EQ(0, rmdir(self->path));

	/* A link, to nothing and to a stale socket. */
	snprintf(other, sizeof(other), "%s/other", self->dir);
	ASSERT_EQ(0, symlink(other, self->path));
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &self->listener));
	fd = raw_socket(other, SOCK_SEQPACKET, true);
	close(fd);
	EXPECT_EQ(-EADDRINUSE, evering_listen(self->path, 0, &self->listener));
	EXPECT_EQ(0, access(other, F_OK));
	EXPECT_EQ(0, unlink(other));
	EXPECT_EQ(0, unlink(self->path));
	EXPECT_EQ(-ENOENT,
		  evering_connect(self->path, &self->p, SEC, &self->ev[0]));
	EXPECT_EQ(-ENOENT,
		  evering_listen("/nonexistent/x", 0, &self->listener));
}

TEST_F(meet, closing_removes_the_own_file_only)
{
	struct evering_listener *second;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	ASSERT_EQ(0, unlink(self->path));
	ASSERT_EQ(0, evering_listen(self->path, 0, &second));
	evering_listener_close(self->listener);
	self->listener = second;
	EXPECT_EQ(0, access(self->path, F_OK));
	EXPECT_EQ(0, meet_at(second, self->path, &self->p, self->ev));
	evering_listener_close(NULL);
	/* Nor is it missed. */
	EXPECT_EQ(0, unlink(self->path));
}

#define RACERS 8

/* Shared by the racers of a round. */
struct race {
	const char *path;
	uint32_t ready, go, done;
	int ret[RACERS];
};

struct racer {
	struct race *race;
	int number;
};

/* Looks all the time, or every @nap ns. */
static bool await_count(const uint32_t *word, uint32_t count, int64_t nap)
{
	int64_t end = now_ns() + PLENTY;

	while (evering_load_acquire(word) < count) {
		if (now_ns() > end)
			return false;
		if (nap)
			sleep_ns(nap);
		else
			sched_yield();
	}
	return true;
}

static int race_main(void *arg)
{
	struct racer *racer = arg;
	struct race *r = racer->race;
	struct evering_listener *l;

	__atomic_fetch_add(&r->ready, 1, __ATOMIC_RELEASE);
	if (!await_count(&r->go, 1, 0))
		return 1;
	r->ret[racer->number] = evering_listen(r->path, 0, &l);
	__atomic_fetch_add(&r->done, 1, __ATOMIC_RELEASE);
	/* Nobody stops listening before all have tried, or cleans up. */
	return !await_count(&r->done, RACERS, MSEC / 10);
}

TEST_F(meet, of_many_who_replace_a_stale_file_one_wins)
{
	struct race *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int rounds = short_run() ? 10 : 150;
	struct racer racer[RACERS];
	int i, won, lost, fd;
	pid_t pid[RACERS];

	fd = raw_socket(self->path, SOCK_SEQPACKET, true);
	ASSERT_LE(0, fd);
	close(fd);
	while (rounds--) {
		memset(r, 0, sizeof(*r));
		r->path = self->path;
		for (i = 0; i < RACERS; i++) {
			racer[i] = (struct racer){ r, i };
			pid[i] = spawn(race_main, &racer[i]);
		}
		ASSERT_TRUE(await_count(&r->ready, RACERS, MSEC / 10));
		evering_store_release(&r->go, 1);
		won = 0;
		lost = 0;
		for (i = 0; i < RACERS; i++) {
			ASSERT_EQ(0, reap(pid[i]));
			won += r->ret[i] == 0;
			lost += r->ret[i] == -EADDRINUSE;
		}
		ASSERT_EQ(1, won);
		ASSERT_EQ(RACERS - 1, lost);
	}
	EXPECT_EQ(0, unlink(self->path));
	munmap(r, sizeof(*r));
}

/* ------------------------------------------------------------------ accepting */

TEST_F(meet, accepting_times_out)
{
	int64_t t;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	t = now_ns();
	EXPECT_EQ(-EAGAIN, evering_accept(self->listener, NULL, EVERING_NOWAIT,
					  &self->ev[1]));
	EXPECT_EQ(-ETIMEDOUT, evering_accept(self->listener, NULL, 30 * MSEC,
					     &self->ev[1]));
	t = now_ns() - t;
	EXPECT_GE(t, 30 * MSEC);
	EXPECT_LT(t, 2 * SEC);
}

static void on_alarm(int sig)
{
	(void)sig;
}

TEST_F(meet, a_signal_ends_accepting_and_connecting)
{
	struct itimerval every = { { 0, 30000 }, { 0, 30000 } };
	struct itimerval off = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = on_alarm };
	int fd;

	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	setitimer(ITIMER_REAL, &every, NULL);
	EXPECT_EQ(-EINTR,
		  evering_accept(self->listener, NULL, PLENTY, &self->ev[1]));
	EXPECT_EQ(-EINTR,
		  evering_connect(self->path, &self->p, PLENTY, &self->ev[0]));
	setitimer(ITIMER_REAL, &off, NULL);
	/* That one's hello is still there, but it has gone. */
	fd = evering_accept(self->listener, NULL, 100 * MSEC, &self->ev[1]);
	EXPECT_TRUE(fd == 0 || fd == -ETIMEDOUT);
	evering_close(self->ev[1]);
	EXPECT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
}

TEST_F(meet, impossible_wishes_are_the_clients_own_fault)
{
	struct evering_params p = self->p;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	p.entries = 3;
	EXPECT_EQ(-EINVAL, evering_connect(self->path, &p, SEC, &self->ev[0]));
	p.entries = EVERING_MAX_ENTRIES * 2;
	EXPECT_EQ(-E2BIG, evering_connect(self->path, &p, SEC, &self->ev[0]));
	p = self->p;
	p.size = 0;
	EXPECT_EQ(-EINVAL, evering_connect(self->path, &p, SEC, &self->ev[0]));
	p = self->p;
	p.flags = 2;
	EXPECT_EQ(-EINVAL, evering_connect(self->path, &p, SEC, &self->ev[0]));
	EXPECT_EQ(-EINVAL, evering_connect(self->path, NULL, -2, &self->ev[0]));
	EXPECT_EQ(-EINVAL,
		  evering_connect_fd(-1, NULL, INT64_MIN, &self->ev[0]));
	EXPECT_EQ(-EINVAL, evering_accept_fd(-1, NULL, -2, &self->ev[1]));
	EXPECT_EQ(-EINVAL,
		  evering_accept(self->listener, NULL, -2, &self->ev[1]));
	EXPECT_EQ(-EINVAL,
		  evering_accept(self->listener, &p, SEC, &self->ev[1]));
	/*
	 * A channel is made before anybody is connected to: the listener, who
	 * gives a second to say hello in, has not heard of any of these.
	 */
	EXPECT_EQ(-EAGAIN,
		  evering_accept(self->listener, NULL, 0, &self->ev[1]));
	EXPECT_EQ(0u, evering_listener_refused(self->listener, NULL));
	EXPECT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
}

TEST_F(meet, wishes_beyond_the_limits_are_refused)
{
	struct evering_params limits = self->p;
	struct evering_params p;
	struct client c;
	int i, error;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (i = 0; i < 6; i++) {
		p = self->p;
		/* What the listener calls its own is the client's peer's. */
		limits.arena_size[EVERING_MINE] = ARENA;
		limits.arena_size[EVERING_PEERS] = 2 * ARENA;
		if (i == 1)
			p.slot_size *= 2;
		else if (i == 2)
			p.entries *= 2;
		else if (i == 3)
			p.arena_size[EVERING_MINE] = 2 * ARENA + PAGE;
		else if (i == 4)
			p.arena_size[EVERING_PEERS] = ARENA + PAGE;
		else if (i == 5)
			p.flags = EVERING_SHARED_ARENA;
		ASSERT_EQ(0, client_start(&c, self->path, &p));
		if (!i) {
			EXPECT_EQ(0, evering_accept(self->listener, &limits,
						    PLENTY, &self->ev[1]));
			pthread_join(c.t, NULL);
			EXPECT_EQ(0, c.ret);
			self->ev[0] = c.ev;
			close_pair(self->ev);
			continue;
		}
		while (evering_listener_refused(self->listener, NULL) <
		       (uint64_t)i)
			ASSERT_EQ(-ETIMEDOUT,
				  evering_accept(self->listener, &limits,
						 20 * MSEC, &self->ev[1]));
		pthread_join(c.t, NULL);
		EXPECT_EQ(-E2BIG, c.ret)
		{
			TH_LOG("case %d", i);
		}
		EXPECT_EQ((uint64_t)i,
			  evering_listener_refused(self->listener, &error));
		EXPECT_EQ(-E2BIG, error);
	}
}

TEST_F(meet, the_listeners_descriptor_works_in_epoll)
{
	struct epoll_event e = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	int64_t end = now_ns() + PLENTY;
	int ret, i, n = 0;
	struct client c;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD,
			       evering_listener_fd(self->listener), &e));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(0, epoll_wait(ep, &e, 1, 20));
		ASSERT_EQ(0, client_start(&c, self->path, &self->p));
		do {
			ASSERT_EQ(1, epoll_wait(ep, &e, 1, 5000));
			ret = evering_accept(self->listener, NULL,
					     EVERING_NOWAIT, &self->ev[1]);
			n++;
		} while (ret == -EAGAIN && now_ns() < end);
		EXPECT_EQ(0, ret);
		pthread_join(c.t, NULL);
		EXPECT_EQ(0, c.ret);
		self->ev[0] = c.ev;
		EXPECT_TRUE(talks(self->ev[0], self->ev[1]));
		close_pair(self->ev);
	}
	EXPECT_LT(n, 100);
	close(ep);
}

struct cred_check {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	const char *path;
};

static int connect_and_check_cred(void *arg)
{
	struct cred_check *c = arg;
	struct evering *ev;
	char byte;
	pid_t pid;
	uid_t uid;
	gid_t gid;

	if (evering_connect(c->path, NULL, PLENTY, &ev))
		return 1;
	if (evering_peer_cred(ev, &pid, &uid, &gid))
		return 2;
	if (pid != c->pid || uid != c->uid || gid != c->gid)
		return 3;
	evering_recv(ev, &byte, 1, PLENTY);
	evering_close(ev);
	return 0;
}

TEST_F(meet, each_side_learns_who_the_other_is)
{
	struct cred_check c = { getpid(), geteuid(), getegid(), self->path };
	pid_t pid, child;
	uid_t uid;
	gid_t gid;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	child = spawn(connect_and_check_cred, &c);
	ASSERT_EQ(0,
		  evering_accept(self->listener, NULL, PLENTY, &self->ev[1]));
	EXPECT_EQ(0, evering_peer_cred(self->ev[1], &pid, &uid, &gid));
	EXPECT_EQ(child, pid);
	EXPECT_EQ(geteuid(), uid);
	EXPECT_EQ(getegid(), gid);
	EXPECT_EQ(0, evering_send(self->ev[1], "x", 1, 0));
	EXPECT_EQ(0, reap(child));
	EXPECT_EQ(0, evering_peer_cred(self->ev[1], &pid, &uid, &gid));
	EXPECT_EQ(child, pid);
}

TEST_F(meet, many_clients_are_served_and_outlive_the_listener)
{
	struct client c[20];
	struct evering *b[20];
	int i, k;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (i = 0; i < 20; i++)
		ASSERT_EQ(0, client_start(&c[i], self->path, &self->p));
	for (i = 0; i < 20; i++)
		ASSERT_EQ(0,
			  evering_accept(self->listener, NULL, PLENTY, &b[i]));
	evering_listener_close(self->listener);
	self->listener = NULL;
	for (i = 0; i < 20; i++) {
		pthread_join(c[i].t, NULL);
		ASSERT_EQ(0, c[i].ret);
		ASSERT_EQ(0, evering_send(c[i].ev, &i, 4, 0));
	}
	/* Each has a partner of its own. */
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, evering_recv(b[i], &k, 4, PLENTY));
		EXPECT_NE(0, evering_recv(b[i], &k, 4, 0));
		evering_close(b[i]);
		evering_close(c[i].ev);
	}
}

/* ------------------------------------------------------------------ strangers */

/* Accepts until one more has been refused; 0 if that was for @why. */
static int refused_for(struct evering_listener *l, uint64_t count, int why)
{
	int64_t end = now_ns() + PLENTY;
	struct evering *ev;
	int ret, error;

	while (evering_listener_refused(l, &error) < count) {
		ret = evering_accept(l, NULL, 5 * MSEC, &ev);
		if (!ret) {
			evering_close(ev);
			return -EEXIST;
		}
		if (ret != -ETIMEDOUT)
			return ret;
		if (now_ns() > end)
			return -ETIME;
	}
	return error == why ? 0 : error;
}

TEST_F(meet, strangers_are_turned_away_and_counted)
{
	struct hello half = { .magic = HELLO_MAGIC,
			      .size = sizeof(half),
			      .abi = EVERING_ABI_VERSION };
	char garbage[300];
	uint64_t n = 0;
	int fd;

	memset(garbage, 0xa5, sizeof(garbage));
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));

	fd = raw_socket(self->path, SOCK_SEQPACKET, false);
	ASSERT_EQ(0, raw_send(fd, garbage, sizeof(garbage), NULL, 0));
	EXPECT_EQ(0, refused_for(self->listener, ++n, -EPROTO));
	close(fd);

	fd = raw_socket(self->path, SOCK_SEQPACKET, false);
	ASSERT_EQ(0, raw_send(fd, garbage, sizeof(half), NULL, 0));
	EXPECT_EQ(0, refused_for(self->listener, ++n, -EPROTO));
	close(fd);

	fd = raw_socket(self->path, SOCK_SEQPACKET, false);
	ASSERT_EQ(0, raw_send(fd, &half, sizeof(half) / 2, NULL, 0));
	EXPECT_EQ(0, refused_for(self->listener, ++n, -EPROTO));
	close(fd);

	fd = raw_socket(self->path, SOCK_SEQPACKET, false);
	close(fd);
	EXPECT_EQ(0, refused_for(self->listener, ++n, -ECONNRESET));

	fd = raw_socket(self->path, SOCK_SEQPACKET, false);
	EXPECT_EQ(0, refused_for(self->listener, ++n, -ETIMEDOUT));
	/* Who was turned away is told why, and the connection ends. */
	EXPECT_LT(0, recv(fd, garbage, sizeof(garbage), 0));
	EXPECT_EQ(0, recv(fd, garbage, sizeof(garbage), 0));
	close(fd);

	/* The kernel keeps these away, and nobody else minds. */
	EXPECT_EQ(-EPROTOTYPE, raw_socket(self->path, SOCK_STREAM, false));
	EXPECT_EQ(-EPROTOTYPE, raw_socket(self->path, SOCK_DGRAM, false));

	EXPECT_EQ(n, evering_listener_refused(self->listener, NULL));
	EXPECT_EQ(0, meet_at(self->listener, self->path, &self->p, self->ev));
	EXPECT_EQ(n, evering_listener_refused(self->listener, NULL));
}

/* How long a client waits that comes after ten who say nothing; or -1. */
static int64_t behind_silent_ones(struct evering_listener *l, const char *path,
				  const struct evering_params *p)
{
	struct evering *ev = NULL;
	int fd[10], i, ret;
	struct client c;

	for (i = 0; i < 10; i++)
		fd[i] = raw_socket(path, SOCK_SEQPACKET, false);
	ret = client_start(&c, path, p);
	if (!ret) {
		ret = evering_accept(l, NULL, PLENTY, &ev);
		pthread_join(c.t, NULL);
		if (ret || c.ret || !talks(c.ev, ev))
			ret = -1;
		evering_close(c.ev);
		evering_close(ev);
	}
	for (i = 0; i < 10; i++)
		close(fd[i]);
	return ret ? -1 : c.took;
}

TEST_F(meet, silent_strangers_keep_nobody_waiting)
{
	int64_t took = INT64_MAX;
	int i;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	/* A second is what each of them has to speak; one try may meet a busy machine. */
	for (i = 0; i < 5 && took > 500 * MSEC; i++) {
		took = behind_silent_ones(self->listener, self->path, &self->p);
		ASSERT_LE(0, took);
	}
	EXPECT_LT(took, 500 * MSEC);
}

TEST_F(meet, more_silent_strangers_than_are_greeted_delay_by_a_second)
{
	struct client c;
	int fd[100], i;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (i = 0; i < 100; i++)
		fd[i] = raw_socket(self->path, SOCK_SEQPACKET, false);
	ASSERT_EQ(0, client_start(&c, self->path, &self->p));
	ASSERT_EQ(0,
		  evering_accept(self->listener, NULL, PLENTY, &self->ev[1]));
	pthread_join(c.t, NULL);
	EXPECT_EQ(0, c.ret);
	EXPECT_LT(c.took, 5 * SEC);
	self->ev[0] = c.ev;
	for (i = 0; i < 100; i++)
		close(fd[i]);
}

/* A server may be long about something else after it has noticed who came. */
TEST_F(meet, who_said_hello_in_time_waits_for_a_slow_server)
{
	struct client c[2];
	int i;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, client_start(&c[i], self->path, &self->p));
	/* Were this too short for both, the test would show nothing, but pass. */
	sleep_ns(200 * MSEC);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, evering_accept(self->listener, NULL, PLENTY,
					    &self->ev[1]));
		evering_close(self->ev[1]);
		self->ev[1] = NULL;
		sleep_ns(1200 * MSEC);
	}
	for (i = 0; i < 2; i++) {
		pthread_join(c[i].t, NULL);
		EXPECT_EQ(0, c[i].ret);
		evering_close(c[i].ev);
	}
	EXPECT_EQ(0u, evering_listener_refused(self->listener, NULL));
}

/* A hello that is right in everything, to be made wrong in one thing. */
struct forged {
	struct hello hello;
	size_t size;		/* bytes to send */
	int fd[16];		/* memory, bells */
	int n;
};

enum {
	MEMORY,
	BELL_RX,
	BELL_TX,
	PARTS
};

/* Of a side: the half, and the arena behind it. */
#define HALF_SIZE ((uint64_t)PAGE)
#define MEMORY_SIZE (HALF_SIZE + ARENA)

static int sealed_memfd(size_t size, bool allocate, int seals)
{
	int fd =
		memfd_create("evering-forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (ftruncate(fd, (off_t)size) ||
	    (allocate && size && fallocate(fd, 0, 0, (off_t)size)) ||
	    fcntl(fd, F_ADD_SEALS, seals)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void forge(struct forged *f)
{
	f->hello = (struct hello){
		.magic = HELLO_MAGIC,
		.size = sizeof(f->hello),
		.abi = EVERING_ABI_VERSION,
		.backend = EVERING_BACKEND_MEMFD,
		.fds = PARTS,
		.geometry = { .slot_size = 64,
			      .entries = 16,
			      .arena_size = { ARENA, ARENA } },
		.lanes = 1,
	};
	f->size = sizeof(f->hello);
	f->fd[MEMORY] = sealed_memfd(MEMORY_SIZE, true, SEALS_OWN);
	f->fd[BELL_RX] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->fd[BELL_TX] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->n = PARTS;
}

static void swap_fd(struct forged *f, int which, int fd)
{
	close(f->fd[which]);
	f->fd[which] = fd;
}

/* The same with an arena that both write, of @arena bytes, behind the memory. */
static void share_arena(struct forged *f, size_t arena)
{
	memmove(&f->fd[MEMORY + 2], &f->fd[MEMORY + 1],
		(size_t)(f->n - 1) * sizeof(f->fd[0]));
	f->fd[MEMORY + 1] = sealed_memfd(arena, true, SEALS_SIZE);
	f->hello.geometry.flags = EVERING_SHARED_ARENA;
	f->hello.fds = (uint32_t)++f->n;
}

static void forge_shared(struct forged *f)
{
	forge(f);
	share_arena(f, ARENA);
	swap_fd(f, MEMORY, sealed_memfd(HALF_SIZE, true, SEALS_OWN));
}

/*
 * Says the forged hello to evering_accept_fd() and lets go of it.  Returns what that
 * returned; -EBADFD if something was left open.
 */
static int outcome_within(struct forged *f, const struct evering_params *limits)
{
	char packet[sizeof(f->hello) + 64] = "";
	struct evering *ev = NULL;
	int sv[2], ret, fds, i;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return 1;
	memcpy(packet, &f->hello, sizeof(f->hello));
	ret = raw_send(sv[0], packet, f->size, f->fd, f->n);
	for (i = 0; i < f->n; i++)
		close(f->fd[i]);
	if (ret)
		return 2;
	fds = count_fds();
	ret = evering_accept_fd(sv[1], limits, PLENTY, &ev);
	if (!ret) {
		evering_close(ev); /* and sv[1] with it */
		fds--;
	}
	if (count_fds() != fds)
		ret = -EBADFD;
	close(sv[0]);
	if (fcntl(sv[1], F_GETFD) >= 0)
		close(sv[1]);
	return ret;
}

static int outcome(struct forged *f)
{
	struct evering_params limits = EVERING_LIMITS_INIT;

	limits.flags = EVERING_SHARED_ARENA;
	return outcome_within(f, &limits);
}

#define NEEDS_MEMFD()                                                          \
	do {                                                                   \
		if (variant->backend != EVERING_BACKEND_MEMFD)                 \
			SKIP(return, \
				   "forges what memfd channels are made of"); \
	} while (0)

TEST_F(meet, a_right_hello_of_anybodys_is_accepted)
{
	struct forged f;

	NEEDS_MEMFD();
	/* So that the refusals below are for what was made wrong. */
	forge(&f);
	EXPECT_EQ(0, outcome(&f));
	forge(&f);
	f.hello.geometry.arena_size[0] = 0;
	swap_fd(&f, MEMORY, sealed_memfd(HALF_SIZE, true, SEALS_OWN));
	EXPECT_EQ(0, outcome(&f));
}

/* What is in a memfd, and where: both sides have to find the same. */
TEST_F(meet, memory_is_as_large_as_its_layout_says)
{
	const uint64_t mib = 1 << 20;
	const struct {
		uint64_t arena;
		uint32_t entries;
		uint32_t flags;
		uint64_t size;
	} right[] = {
		{ 0, 16, 0, PAGE },
		{ PAGE, 16, 0, 2 * PAGE },
		{ 2 * mib - PAGE, 16, 0, 2 * mib },
		{ 2 * mib, 16, 0, 4 * mib },
		{ 2 * mib + PAGE, 16, 0, 4 * mib + PAGE },
		/* 4 MiB of slots, and a page of control lines */
		{ mib, 16384, 0, 5 * mib + PAGE },
		{ 4 * mib, 16384, 0, 10 * mib },
		{ 4 * mib, 16, EVERING_SHARED_ARENA, PAGE },
	};
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct forged f;
	size_t i;
	int k;

	NEEDS_MEMFD();
	limits.flags = EVERING_SHARED_ARENA;
	limits.entries = 65536;
	for (i = 0; i < ARRAY_SIZE(right); i++)
		for (k = -1; k <= 1; k++) {
			forge(&f);
			f.hello.geometry.slot_size =
				right[i].entries > 16 ? 256 : 64;
			f.hello.geometry.entries = right[i].entries;
			f.hello.geometry.arena_size[0] = right[i].arena;
			swap_fd(&f, MEMORY,
				sealed_memfd(right[i].size + (size_t)k * PAGE,
					     false, SEALS_OWN));
			if (right[i].flags)
				share_arena(&f, right[i].arena);
			EXPECT_EQ(k ? -EPROTO : 0, outcome_within(&f, &limits))
			{
				TH_LOG("case %zu, %d pages", i, k);
			}
		}
}

TEST_F(meet, a_hello_wrong_in_one_word_is_refused)
{
	struct forged f;
	size_t size;

	NEEDS_MEMFD();
	/* Of none, too, where there are descriptors: it is not the end then. */
	for (size = 0; size < sizeof(f.hello); size += 8) {
		forge(&f);
		f.size = size;
		EXPECT_EQ(-EPROTO, outcome(&f))
		{
			TH_LOG("%zu bytes", size);
		}
	}
	forge(&f);
	f.hello.magic ^= 1ull << 63;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.hello.backend = 77;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.hello.size = 8;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.hello.fds = PARTS - 1;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.hello.fds = UINT32_MAX;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.hello.abi = EVERING_ABI_VERSION + 1;
	EXPECT_EQ(-EPROTONOSUPPORT, outcome(&f));
	forge(&f);
	f.hello.abi = 0;
	EXPECT_EQ(-EPROTONOSUPPORT, outcome(&f));
}

TEST_F(meet, a_longer_hello_is_another_versions)
{
	struct forged f;

	NEEDS_MEMFD();
	forge(&f);
	f.size += 8;
	f.hello.abi = EVERING_ABI_VERSION + 1;
	EXPECT_EQ(-EPROTONOSUPPORT, outcome(&f));
	forge(&f);
	f.size += 8;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.size += 8;
	f.hello.abi = EVERING_ABI_VERSION + 1;
	f.hello.magic++;
	EXPECT_EQ(-EPROTO, outcome(&f));
}

TEST_F(meet, a_hello_with_an_impossible_geometry_is_refused)
{
	struct forged f;
	int i;

	NEEDS_MEMFD();
	for (i = 0; i < 11; i++) {
		struct evering_geometry *g = &f.hello.geometry;

		forge(&f);
		switch (i) {
		case 0:
			g->slot_size = 0;
			break;
		case 1:
			g->slot_size = 48;
			break;
		case 2:
			g->entries = 3;
			break;
		case 3:
			g->entries = 0;
			break;
		case 4:
			g->arena_size[1] = 1;
			break;
		case 5:
			g->flags = 2;
			break;
		case 6:
			g->reserved = 1;
			break;
		case 7:
			g->slot_size = 1u << 31;
			break;
		case 8:
			g->entries = 1u << 31;
			break;
		case 9:
			g->arena_size[0] = 0ull - PAGE;
			break;
		case 10:
			g->arena_size[1] = EVERING_MAX_ARENA;
			break;
		}
		EXPECT_EQ(i < 7 ? -EINVAL : -E2BIG, outcome(&f))
		{
			TH_LOG("case %d", i);
		}
	}
	/* What the hello says is not what the descriptors are. */
	forge(&f);
	f.hello.geometry.slot_size = 256;
	f.hello.geometry.entries = 1024;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	f.hello.geometry.arena_size[0] = 2 * ARENA;
	EXPECT_EQ(-EPROTO, outcome(&f));
}

TEST_F(meet, wrong_numbers_of_descriptors_are_refused)
{
	struct forged f;
	int i;

	NEEDS_MEMFD();
	forge(&f);
	for (i = 0; i < PARTS; i++)
		close(f.fd[i]);
	f.n = 0;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	for (i = 0; i < PARTS; i++)
		close(f.fd[i]);
	f.n = 0;
	f.hello.fds = 0;
	EXPECT_EQ(-EPROTO, outcome(&f));
	for (i = 1; i < PARTS; i++) {
		forge(&f);
		while (f.n > i)
			close(f.fd[--f.n]);
		f.hello.fds = (uint32_t)i;
		EXPECT_EQ(-EPROTO, outcome(&f));
	}
	for (i = PARTS + 1; i < 16; i++) {
		forge(&f);
		while (f.n < i)
			f.fd[f.n++] = eventfd(0, EFD_CLOEXEC);
		f.hello.fds = (uint32_t)i;
		EXPECT_EQ(-EPROTO, outcome(&f));
	}
}

/* Whoever accepts may have asked for what the kernel adds to packets. */
TEST_F(meet, credentials_beside_a_hello_do_no_harm)
{
	struct evering *ev = NULL;
	int sv[2], i, on = 1;
	struct forged f;

	NEEDS_MEMFD();
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0,
		  setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
	forge(&f);
	ASSERT_EQ(0, raw_send(sv[0], &f.hello, sizeof(f.hello), f.fd, f.n));
	for (i = 0; i < f.n; i++)
		close(f.fd[i]);
	EXPECT_EQ(0, evering_accept_fd(sv[1], NULL, PLENTY, &ev));
	evering_close(ev);
	close(sv[0]);
}

TEST_F(meet, as_many_descriptors_as_a_packet_takes_are_refused)
{
	int sv[2], fd[253], before, i;
	struct evering *ev;
	struct forged f;

	NEEDS_MEMFD();
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	forge(&f);
	for (i = 0; i < 253; i++)
		fd[i] = f.fd[i % PARTS];
	ASSERT_EQ(0, raw_send(sv[0], &f.hello, sizeof(f.hello), fd, 253));
	before = count_fds();
	EXPECT_EQ(-EPROTO, evering_accept_fd(sv[1], NULL, SEC, &ev));
	EXPECT_EQ(before, count_fds());
	for (i = 0; i < PARTS; i++)
		close(f.fd[i]);
	close(sv[0]);
	close(sv[1]);
}

/* @fd, unless it has the inode that eventfds have. */
static int another_inode(int fd)
{
	int event = eventfd(0, EFD_CLOEXEC);
	struct stat st[2];
	bool same = fstat(fd, &st[0]) || fstat(event, &st[1]) ||
		    st[0].st_ino == st[1].st_ino;

	close(event);
	if (same)
		close(fd);
	return same ? -1 : fd;
}

/* A descriptor that is not what it should be; -1: no such thing here. */
static int wrong_memory(int kind, size_t size, int seals)
{
	char path[] = "/tmp/evering-wrong-XXXXXX";
	int fd, p[2];

	switch (kind) {
	case 0:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 1:
		if (pipe2(p, O_CLOEXEC))
			return -1;
		close(p[1]);
		return p[0];
	case 2: /* not sealed at all */
		return sealed_memfd(size, true, 0);
	case 3: /* can be shrunk */
		return sealed_memfd(size, true, seals & ~F_SEAL_SHRINK);
	case 4: /* can be written by somebody else */
		return sealed_memfd(size, true,
				    seals & ~(F_SEAL_FUTURE_WRITE |
					      F_SEAL_WRITE));
	case 5: /* seals can be added, and WRITE would end our writing */
		return sealed_memfd(size, true, seals & ~F_SEAL_SEAL);
	case 6:
		return sealed_memfd(size - PAGE, true, seals);
	case 7:
		return sealed_memfd(size + PAGE, true, seals);
	case 8: /* no page is there yet */
		return sealed_memfd(size, false, seals);
	case 9:
		fd = mkostemp(path, O_CLOEXEC);
		unlink(path);
		if (fallocate(fd, 0, 0, (off_t)size))
			return -1;
		return fd;
	case 10:
		return eventfd(0, EFD_CLOEXEC);
	case 11:
		return open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case 12:
		return open("/tmp", O_PATH | O_CLOEXEC);
	case 13:
		return open("/dev/zero", O_RDWR | O_CLOEXEC);
	case 14:
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	case 15: /* right, but cannot be read */
		fd = sealed_memfd(size, true, seals);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		p[0] = open(path, O_WRONLY | O_CLOEXEC);
		close(fd);
		return p[0];
	case 16: /* one of the same kind as eventfds are, with a file of its own */
		return another_inode((int)syscall(
			__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
	}
	return -1;
}

TEST_F(meet, memory_that_is_not_what_it_should_be_is_refused)
{
	int kind, fd, shared, n = 0;
	struct forged f;

	NEEDS_MEMFD();
	for (kind = 0; kind < 17 * 2; kind++) {
		/* Pages that are not there are had when it is mapped. */
		if (kind % 17 == 8)
			continue;
		/* What both may write is another memfd, with other seals. */
		shared = kind >= 17;
		if (shared && kind % 17 == 4)
			continue;
		fd = wrong_memory(kind % 17, shared ? ARENA : MEMORY_SIZE,
				  shared ? SEALS_SIZE : SEALS_OWN);
		if (fd < 0)
			continue;
		if (shared)
			forge_shared(&f);
		else
			forge(&f);
		swap_fd(&f, shared ? MEMORY + 1 : MEMORY, fd);
		EXPECT_EQ(-EPROTO, outcome(&f))
		{
			TH_LOG("shared %d, kind %d", shared, kind % 17);
		}
		n++;
	}
	EXPECT_GE(n, 27);
	/* The right ones in the wrong order. */
	forge_shared(&f);
	fd = f.fd[MEMORY];
	f.fd[MEMORY] = f.fd[MEMORY + 1];
	f.fd[MEMORY + 1] = fd;
	EXPECT_EQ(-EPROTO, outcome(&f));
	forge(&f);
	fd = f.fd[MEMORY];
	f.fd[MEMORY] = f.fd[PARTS - 1];
	f.fd[PARTS - 1] = fd;
	EXPECT_EQ(-EPROTO, outcome(&f));
}

/* No read of it may fail later, so all its pages are there when the two have met. */
TEST_F(meet, a_half_with_holes_is_filled)
{
	const uint64_t size = PAGE + 65536;
	struct forged f;
	struct evering *ev;
	struct stat st;
	int sv[2], i, kept;

	NEEDS_MEMFD();
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	forge(&f);
	f.hello.geometry.entries = 1024;
	swap_fd(&f, MEMORY, sealed_memfd(size + ARENA, false, SEALS_OWN));
	kept = fcntl(f.fd[MEMORY], F_DUPFD_CLOEXEC, 0);
	ASSERT_EQ(0, raw_send(sv[0], &f.hello, sizeof(f.hello), f.fd, f.n));
	for (i = 0; i < f.n; i++)
		close(f.fd[i]);
	ASSERT_EQ(0, evering_accept_fd(sv[1], NULL, PLENTY, &ev));
	EXPECT_EQ(0, fstat(kept, &st));
	EXPECT_EQ(size, (uint64_t)st.st_blocks * 512);
	evering_close(ev);
	close(sv[0]);
	close(kept);
}

/* In a group that has no room for the half that a stranger brings without its pages. */
static int no_room_for_a_half(void *group)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	const uint64_t size = (16 << 20) + PAGE;
	struct evering *ev;
	struct forged f;
	int sv[2];

	if (group_joined(group) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return 90;
	limits.entries = 65536;
	forge(&f);
	f.hello.geometry.slot_size = 256;
	f.hello.geometry.entries = 65536;
	swap_fd(&f, MEMORY, sealed_memfd(size + ARENA, false, SEALS_OWN));
	if (raw_send(sv[0], &f.hello, sizeof(f.hello), f.fd, f.n))
		return 91;
	return -evering_accept_fd(sv[1], &limits, PLENTY, &ev);
}

TEST_F(meet, a_half_with_holes_kills_nobody)
{
	const char *why;

	NEEDS_MEMFD();
	if (SANITIZED)
		SKIP(return, "a sanitizer takes memory of its own");
	why = make_groups("8388608", self->top, self->group);
	if (why)
		SKIP(return, "%s", why);
	EXPECT_EQ(ENOMEM, reap_within(spawn(no_room_for_a_half, self->group),
				      4 * PLENTY));
}

TEST_F(meet, a_shared_arena_that_cannot_be_written_is_refused)
{
	struct forged f;
	int sealed;

	NEEDS_MEMFD();
	for (sealed = 0; sealed < 2; sealed++) {
		forge_shared(&f);
		swap_fd(&f, MEMORY + 1,
			sealed_memfd(ARENA, true,
				     SEALS_SIZE | (sealed ? F_SEAL_WRITE : 0)));
		EXPECT_EQ(sealed ? -EPROTO : 0, outcome(&f));
	}
}

TEST_F(meet, doorbells_that_are_none_are_refused)
{
	static const int kinds[] = { 0, 1, 2, 9, 11, 12, 13, 14, 16 };
	struct forged f;
	int which, fd;
	size_t i;

	NEEDS_MEMFD();
	for (which = BELL_RX; which <= BELL_TX; which++)
		for (i = 0; i < ARRAY_SIZE(kinds); i++) {
			fd = wrong_memory(kinds[i], 4096, 0);
			if (fd < 0)
				continue;
			forge(&f);
			swap_fd(&f, which, fd);
			EXPECT_EQ(-EPROTO, outcome(&f))
			{
				TH_LOG("bell %d, kind %d", which, kinds[i]);
			}
		}
}

/* Says hello with the far endpoint of a channel of which @near is the near one. */
static int forge_device(struct forged *f, int *near)
{
	struct evering_create create = { .size = sizeof(create) };
	int fd = open("/dev/evering", O_RDWR | O_CLOEXEC);
	int ret;

	f->hello = (struct hello){
		.magic = HELLO_MAGIC,
		.size = sizeof(f->hello),
		.abi = EVERING_ABI_VERSION,
		.backend = EVERING_BACKEND_DEVICE,
		.fds = 1,
		.geometry = { .slot_size = 64,
			      .entries = 16,
			      .arena_size = { ARENA, ARENA } },
		.lanes = 1,
	};
	f->size = sizeof(f->hello);
	create.geometry = f->hello.geometry;
	ret = ioctl(fd, EVERING_IOC_CREATE, &create) ? -errno : 0;
	close(fd);
	f->fd[0] = create.fd[EVERING_B];
	f->n = 1;
	*near = create.fd[EVERING_A];
	return ret;
}

#define NEEDS_DEVICE()                                          \
	do {                                                    \
		if (variant->backend != EVERING_BACKEND_DEVICE) \
			SKIP(return, "the device's endpoints"); \
	} while (0)

TEST_F(meet, a_right_endpoint_of_anybodys_is_accepted)
{
	struct forged f;
	int near;

	NEEDS_DEVICE();
	/* Its other end is no process's yet, or is closed; that comes out later. */
	ASSERT_EQ(0, forge_device(&f, &near));
	EXPECT_EQ(0, outcome(&f));
	close(near);
	ASSERT_EQ(0, forge_device(&f, &near));
	close(near);
	EXPECT_EQ(0, outcome(&f));
}

TEST_F(meet, endpoints_that_are_not_what_they_should_be_are_refused)
{
	struct forged f;
	int near, kind, fd, i;

	NEEDS_DEVICE();
	for (kind = 0; kind < 17; kind++) {
		fd = wrong_memory(kind, 4096, SEALS_OWN);
		if (fd < 0)
			continue;
		ASSERT_EQ(0, forge_device(&f, &near));
		swap_fd(&f, 0, fd);
		EXPECT_EQ(-EPROTO, outcome(&f))
		{
			TH_LOG("kind %d", kind);
		}
		close(near);
	}
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, forge_device(&f, &near));
		if (i == 0) { /* the wrong one of both */
			fd = f.fd[0];
			f.fd[0] = near;
			near = fd;
		} else if (i == 1) { /* both */
			f.fd[f.n++] = dup(near);
			f.hello.fds = 2;
		} else if (i == 2) { /* none */
			close(f.fd[0]);
			f.n = 0;
			f.hello.fds = 0;
		} else if (i == 3) { /* another geometry */
			f.hello.geometry.entries = 1024;
		} else { /* the device itself */
			swap_fd(&f, 0,
				open("/dev/evering", O_RDWR | O_CLOEXEC));
		}
		EXPECT_EQ(-EPROTO, outcome(&f))
		{
			TH_LOG("case %d", i);
		}
		close(near);
	}
}

TEST_F(meet, who_has_gone_after_a_right_hello_does_no_harm)
{
	struct evering *ev = NULL;
	struct forged f;
	int sv[2], i, ret;
	char c;

	NEEDS_MEMFD();
	forge(&f);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0, raw_send(sv[0], &f.hello, sizeof(f.hello), f.fd, f.n));
	for (i = 0; i < f.n; i++)
		close(f.fd[i]);
	close(sv[0]);
	ret = evering_accept_fd(sv[1], NULL, SEC, &ev);
	if (ret) {
		EXPECT_EQ(-ECONNRESET, ret);
		close(sv[1]);
		return;
	}
	EXPECT_EQ(-EPIPE, evering_recv(ev, &c, 1, PLENTY));
	EXPECT_EQ(EVERING_PEER_DIED, evering_peer(ev));
	evering_close(ev);
}

TEST_F(meet, sockets_of_another_kind_are_refused)
{
	static const int others[] = { AF_VSOCK, AF_ALG };
	struct evering *ev;
	int sv[2], p[2], fd;
	size_t i;

	/* Such as keep packets apart, if there are any here. */
	for (i = 0; i < ARRAY_SIZE(others); i++) {
		fd = socket(others[i], SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		if (fd < 0)
			continue;
		EXPECT_EQ(-EPROTOTYPE,
			  evering_connect_fd(fd, &self->p, SEC, &ev));
		EXPECT_EQ(-EPROTOTYPE, evering_accept_fd(fd, NULL, SEC, &ev));
		close(fd);
	}
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	EXPECT_EQ(-EPROTOTYPE, evering_connect_fd(sv[0], &self->p, SEC, &ev));
	EXPECT_EQ(-EPROTOTYPE, evering_accept_fd(sv[1], NULL, SEC, &ev));
	close(sv[0]);
	close(sv[1]);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv));
	EXPECT_EQ(-EPROTOTYPE, evering_connect_fd(sv[0], &self->p, SEC, &ev));
	EXPECT_EQ(-EPROTOTYPE, evering_accept_fd(sv[1], NULL, SEC, &ev));
	close(sv[0]);
	close(sv[1]);
	ASSERT_EQ(0, pipe2(p, O_CLOEXEC));
	EXPECT_EQ(-ENOTSOCK, evering_connect_fd(p[0], &self->p, SEC, &ev));
	EXPECT_EQ(-ENOTSOCK, evering_accept_fd(p[1], NULL, SEC, &ev));
	close(p[0]);
	close(p[1]);
	EXPECT_EQ(-EBADF, evering_connect_fd(-1, &self->p, SEC, &ev));
	EXPECT_EQ(-EBADF, evering_accept_fd(-1, NULL, SEC, &ev));
}

/* ------------------------------------------------------- servers that are none */

struct server {
	int listener;	/* raw */
	int kind;
	pthread_t t;
};

enum {
	CLOSES,
	CLOSES_AFTER_HELLO,
	GARBAGE,
	SHORT_WELCOME,
	LONG_WELCOME,
	WRONG_MAGIC,
	WRONG_VERSION,
	TOO_BIG,
	STRANGE_ERROR,
	POSITIVE_ERROR,
	LEAST_ERROR,
	NO_FDS,
	FEW_FDS,
	NULL_FDS,
	MANY_FDS,
	RIGHT,
	WRONG_SIZE,
	WRONG_COUNT,
	ERROR_AND_FDS,
	NEVER_ANSWERS,
	SERVERS,
};

static void *server_main(void *arg)
{
	struct server *s = arg;
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	struct welcome w = { .magic = WELCOME_MAGIC,
			     .size = sizeof(w),
			     .abi_min = EVERING_ABI_VERSION,
			     .abi_max = EVERING_ABI_VERSION,
			     .lanes = 1 };
	size_t size = sizeof(w);
	int fds[16], n = 0, i;
	char buf[512] = "";
	struct forged f;

	if (s->kind != CLOSES)
		recv(fd, buf, sizeof(buf), 0); /* its descriptors are dropped */
	switch (s->kind) {
	case CLOSES:
	case CLOSES_AFTER_HELLO:
		size = 0;
		break;
	case GARBAGE:
		memset(&w, 0xa5, sizeof(w));
		break;
	case SHORT_WELCOME:
		size = 12;
		break;
	case LONG_WELCOME:
		size += 8;
		break;
	case WRONG_MAGIC:
		w.magic++;
		break;
	case WRONG_VERSION:
		w.error = -EPROTONOSUPPORT;
		w.abi_min = EVERING_ABI_VERSION + 1;
		w.abi_max = EVERING_ABI_VERSION + 4;
		break;
	case TOO_BIG:
		w.error = -E2BIG;
		break;
	case STRANGE_ERROR:
		w.error = -EHWPOISON;
		break;
	case POSITIVE_ERROR:
		w.error = 1;
		break;
	case LEAST_ERROR:
		w.error = INT32_MIN;
		break;
	case FEW_FDS:
		n = PARTS - 1;
		break;
	case NULL_FDS:
	case RIGHT:
	case WRONG_SIZE:
	case WRONG_COUNT:
	case ERROR_AND_FDS:
		n = PARTS;
		break;
	case MANY_FDS:
		n = 16;
		break;
	case NEVER_ANSWERS:
		recv(fd, buf, sizeof(buf), 0);
		size = 0;
		break;
	}
	w.fds = (uint32_t)n;
	if (s->kind >= RIGHT && n) {
		/* What the other side makes is of the same kind. */
		forge(&f);
		memcpy(fds, f.fd, PARTS * sizeof(int));
		w.size -= s->kind == WRONG_SIZE;
		w.fds -= s->kind == WRONG_COUNT;
		w.error = s->kind == ERROR_AND_FDS ? -E2BIG : 0;
	} else {
		for (i = 0; i < n; i++)
			fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
	}
	memcpy(buf, &w, sizeof(w));
	if (size)
		raw_send(fd, buf, size, fds, n);
	for (i = 0; i < n; i++)
		close(fds[i]);
	if (size)
		recv(fd, buf, sizeof(buf), 0); /* until the client has gone */
	close(fd);
	return NULL;
}

TEST_F(meet, a_server_that_talks_nonsense_is_left)
{
	static const int expect[SERVERS] = {
		[CLOSES] = -ECONNRESET,
		[CLOSES_AFTER_HELLO] = -ECONNRESET,
		[GARBAGE] = -EPROTO,
		[SHORT_WELCOME] = -EPROTO,
		[LONG_WELCOME] = -EPROTO,
		[WRONG_MAGIC] = -EPROTO,
		[WRONG_VERSION] = -EPROTONOSUPPORT,
		[TOO_BIG] = -E2BIG,
		[STRANGE_ERROR] = -EPROTO,
		[POSITIVE_ERROR] = -EPROTO,
		[LEAST_ERROR] = -EPROTO,
		[NO_FDS] = -EPROTO,
		[FEW_FDS] = -EPROTO,
		[NULL_FDS] = -EPROTO,
		[MANY_FDS] = -EPROTO,
		[WRONG_SIZE] = -EPROTO,
		[WRONG_COUNT] = -EPROTO,
		[ERROR_AND_FDS] = -EPROTO,
		[NEVER_ANSWERS] = -ETIMEDOUT,
	};
	struct server s;
	int64_t t;

	s.listener = raw_socket(self->path, SOCK_SEQPACKET, true);
	ASSERT_LE(0, s.listener);
	for (s.kind = 0; s.kind < SERVERS; s.kind++) {
		int64_t timeout = s.kind == NEVER_ANSWERS ? 50 * MSEC : PLENTY;
		int fds = count_fds(), want = expect[s.kind];

		/* So that those behind it are left for what is made wrong. */
		if (s.kind == RIGHT &&
		    variant->backend != EVERING_BACKEND_MEMFD)
			want = -EPROTO;
		ASSERT_EQ(0, pthread_create(&s.t, NULL, server_main, &s));
		t = now_ns();
		EXPECT_EQ(want, evering_connect(self->path, &self->p, timeout,
						&self->ev[0]))
		{
			TH_LOG("server %d", s.kind);
		}
		t = now_ns() - t;
		EXPECT_LT(t, 5 * SEC);
		if (s.kind == NEVER_ANSWERS)
			EXPECT_GE(t, timeout);
		evering_close(self->ev[0]);
		self->ev[0] = NULL;
		pthread_join(s.t, NULL);
		EXPECT_EQ(fds, count_fds())
		{
			TH_LOG("server %d", s.kind);
		}
	}
	close(s.listener);
	unlink(self->path);
}

TEST_F(meet, a_server_that_never_accepts_is_left_in_time)
{
	int fd = raw_socket(self->path, SOCK_SEQPACKET, true);
	int64_t t = now_ns();

	EXPECT_EQ(-EAGAIN, evering_connect(self->path, &self->p, EVERING_NOWAIT,
					   &self->ev[0]));
	EXPECT_EQ(-ETIMEDOUT, evering_connect(self->path, &self->p, 30 * MSEC,
					      &self->ev[0]));
	t = now_ns() - t;
	EXPECT_GE(t, 30 * MSEC);
	EXPECT_LT(t, 5 * SEC);
	close(fd);
	unlink(self->path);
}

TEST_F(meet, a_server_of_another_kind_is_no_server)
{
	int fd = raw_socket(self->path, SOCK_STREAM, true);

	EXPECT_EQ(-EPROTO,
		  evering_connect(self->path, &self->p, SEC, &self->ev[0]));
	close(fd);
	unlink(self->path);
	fd = raw_socket(self->path, SOCK_DGRAM, true);
	EXPECT_EQ(-EPROTO,
		  evering_connect(self->path, &self->p, SEC, &self->ev[0]));
	close(fd);
	unlink(self->path);
}

TEST_F(meet, permissions_of_the_socket_file_count)
{
	ASSERT_EQ(0, evering_listen(self->path, 0600, &self->listener));
	if (!geteuid()) {
		ASSERT_EQ(0, chmod(self->dir, 0755));
		ASSERT_EQ(0, seteuid(65534));
		EXPECT_EQ(-EACCES, evering_connect(self->path, &self->p, SEC,
						   &self->ev[0]));
		ASSERT_EQ(0, seteuid(0));
	} else {
		ASSERT_EQ(0, chmod(self->path, 0));
		EXPECT_EQ(-EACCES, evering_connect(self->path, &self->p, SEC,
						   &self->ev[0]));
	}
}

TEST_HARNESS_MAIN
