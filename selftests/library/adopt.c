// SPDX-License-Identifier: MIT
/*
 * adopt.c: listeners at sockets that listen already: those that a service manager or a
 * parent passes, and those that several threads share.
 */
#include "stranger.h"

#include <sys/stat.h>

FIXTURE(adopt)
{
	struct evering_params p;
	char dir[64];
	char path[80];
	int sock;
	int fds;
};

BACKEND_VARIANTS(adopt);

FIXTURE_SETUP(adopt)
{
	REQUIRE_BACKEND(variant->backend);
	self->fds = count_fds();
	self->p = params_sized(variant->backend, 64, 16, 65536);
	strcpy(self->dir, "/tmp/evering-adopt-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->path, sizeof(self->path), "%s/s", self->dir);
	self->sock = raw_socket(self->path, 0, true);
	ASSERT_LE(0, self->sock);
}

FIXTURE_TEARDOWN(adopt)
{
	if (self->sock >= 0)
		close(self->sock);
	unlink(self->path);
	EXPECT_EQ(0, rmdir(self->dir));
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_TRUE(no_children());
}

TEST_F(adopt, a_socket_that_listens_is_the_listeners_and_its_file_stays)
{
	struct evering_listener *l;
	struct evering *ev;
	int fd = dup(self->sock), silent;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, evering_listen_fd(fd, &l));
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	/* Others may take what is there: one more look must not wait for another. */
	EXPECT_EQ(O_NONBLOCK, fcntl(self->sock, F_GETFL) & O_NONBLOCK);
	EXPECT_EQ(-EAGAIN, evering_accept(l, NULL, EVERING_NOWAIT, &ev));
	silent = raw_socket(self->path, 0, false);
	ASSERT_LE(0, silent);
	EXPECT_EQ(-EAGAIN, evering_accept(l, NULL, EVERING_NOWAIT, &ev));
	close(silent);
	EXPECT_EQ(0, serves(l, self->path, &self->p));
	EXPECT_EQ(0, serves(l, self->path, &self->p));
	evering_listener_close(l);
	EXPECT_EQ(-1, fcntl(fd, F_GETFD));
	EXPECT_EQ(0, access(self->path, F_OK));
	/* Whoever has the socket yet can go on with it. */
	ASSERT_EQ(0, evering_listen_fd(self->sock, &l));
	self->sock = -1;
	EXPECT_EQ(0, serves(l, self->path, &self->p));
	evering_listener_close(l);
}

TEST_F(adopt, what_does_not_listen_stays_the_callers)
{
	struct evering_listener *l = NULL;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), pair[2], i;
	const struct {
		int fd;
		int want;
	} wrong[] = {
		{ -1, -EBADF },
		{ null, -ENOTSOCK },
		{ socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), -EPROTOTYPE },
		{ socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), -EPROTOTYPE },
		{ socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), -EPROTOTYPE },
		{ socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), -EINVAL },
		{ raw_socket(self->path, 0, false), -EINVAL },
	};

	/* A stream that listens is none of ours, either. */
	ASSERT_EQ(0, bind(wrong[2].fd, (struct sockaddr *)&a, 2));
	ASSERT_EQ(0, listen(wrong[2].fd, 1));
	for (i = 0; i < (int)ARRAY_SIZE(wrong); i++) {
		EXPECT_EQ(wrong[i].want, evering_listen_fd(wrong[i].fd, &l))
		{
			TH_LOG("number %d", i);
		}
		if (i) {
			EXPECT_EQ(0, close(wrong[i].fd));
		}
	}
	ASSERT_EQ(0,
		  socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	EXPECT_EQ(-EINVAL, evering_listen_fd(pair[0], &l));
	EXPECT_EQ(0, fcntl(pair[0], F_GETFL) & O_NONBLOCK);
	close_all(pair, 2);
	EXPECT_EQ(NULL, l);
}

/* ---------------------------------------------------------------- activation */

/* What a service manager leaves for a process that it has started. */
static void pass(const char *pid, const char *count, const char *names)
{
	char own[16];

	snprintf(own, sizeof(own), "%d", getpid());
	setenv("LISTEN_PID", pid ? pid : own, 1);
	setenv("LISTEN_FDS", count, 1);
	if (names)
		setenv("LISTEN_FDNAMES", names, 1);
	else
		unsetenv("LISTEN_FDNAMES");
}

/* What evering_listen_activated() makes of it; 1: another socket than that. */
static int activated(const char *name, int want)
{
	struct evering_listener *l;
	int ret = evering_listen_activated(name, &l), open;

	if (ret)
		return ret;
	open = fcntl(want, F_GETFD);
	/* It owns a copy, so as to be asked again. */
	evering_listener_close(l);
	return open == FD_CLOEXEC && fcntl(want, F_GETFD) < 0 ? 0 : 1;
}

/* Each answer on its own: which of them is wrong is the exit status. */
static int activation_main(void *arg)
{
	const int *sock = arg;
	static const struct {
		const char *pid;
		const char *count;
		const char *names;
		const char *name;
		int fd;
		int want;
	} cases[] = {
		{ NULL, "2", NULL, NULL, 3, 0 },
		{ NULL, "2", "a:b", NULL, 3, 0 },
		{ NULL, "2", "a:b", "a", 3, 0 },
		{ NULL, "2", "a:b", "b", 4, 0 },
		{ NULL, "2", ":b", "b", 4, 0 },
		{ NULL, "2", "ab:b", "b", 4, 0 },
		{ NULL, "2", "ab:b", "a", 0, -ENOENT },
		{ NULL, "2", "a:b", "", 0, -ENOENT },
		{ NULL, "2", "a", "b", 0, -ENOENT },
		{ NULL, "2", NULL, "b", 0, -ENOENT },
		/* Names without descriptors. */
		{ NULL, "1", "a:b", "b", 0, -ENOENT },
		{ NULL, "0", "a:b", NULL, 0, -ENOENT },
		{ "1", "2", "a:b", NULL, 0, -ENOENT },
		{ NULL, "x", NULL, NULL, 0, -EBADMSG },
		{ NULL, "2x", NULL, NULL, 0, -EBADMSG },
		{ NULL, "-1", NULL, NULL, 0, -EBADMSG },
		{ NULL, "", NULL, NULL, 0, -EBADMSG },
		{ "4294967296", "2", NULL, NULL, 0, -EBADMSG },
		{ NULL, "3", "a:b:c", "c", 0, -ENOTSOCK },
	};
	unsigned int i;

	if (activated(NULL, 0) != -ENOENT)
		return 101;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (dup2(*sock, 3) != 3 || dup2(*sock, 4) != 4 ||
		    dup2(STDERR_FILENO, 5) != 5)
			return 102;
		pass(cases[i].pid, cases[i].count, cases[i].names);
		if (activated(cases[i].name, cases[i].fd) != cases[i].want)
			return 1 + (int)i;
	}
	return 0;
}

TEST_F(adopt, a_socket_is_found_by_what_a_service_manager_says_of_it)
{
	int sock = fcntl(self->sock, F_DUPFD, 16);
	/* Standard error may itself be a socket, which is another fault. */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid;

	ASSERT_LE(0, sock);
	ASSERT_LE(0, null);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	fflush(NULL);
	pid = fork();
	if (!pid) {
		dup2(null, STDERR_FILENO);
		_exit(activation_main(&sock));
	}
	EXPECT_EQ(0, reap(pid));
	close(sock);
	close(null);
}

/* -------------------------------------------------------------------- threads */

#define SHARERS 4

/* A thread that accepts, and keeps what it has until each of the others has one. */
struct sharer {
	struct evering_listener *l;
	unsigned int *served;
	int ret;
	pthread_t t;
};

static void *sharer_main(void *arg)
{
	struct sharer *s = arg;
	struct evering *ev;
	uint32_t v;

	s->ret = evering_accept(s->l, NULL, PLENTY, &ev);
	if (s->ret)
		return NULL;
	__atomic_fetch_add(s->served, 1, __ATOMIC_ACQ_REL);
	if (!EVENTUALLY(__atomic_load_n(s->served, __ATOMIC_ACQUIRE) ==
			SHARERS))
		s->ret = -ETIME;
	if (!s->ret)
		s->ret = evering_recv(ev, &v, 4, PLENTY);
	if (!s->ret)
		s->ret = evering_send(ev, &v, 4, 0);
	evering_close(ev);
	return NULL;
}

static void *ask_main(void *arg)
{
	struct client *c = arg;
	uint32_t v = 7;

	c->ret = evering_connect(c->path, c->params, PLENTY, &c->ev);
	if (c->ret)
		return NULL;
	c->ret = evering_send(c->ev, &v, 4, 0);
	if (!c->ret)
		c->ret = evering_recv(c->ev, &v, 4, PLENTY);
	evering_close(c->ev);
	return NULL;
}

/* Each of @s has one of as many clients. */
static int serve_all(struct sharer s[SHARERS], const char *path,
		     const struct evering_params *p)
{
	struct client c[SHARERS];
	unsigned int served = 0;
	int i, ret = 0;

	for (i = 0; i < SHARERS; i++) {
		s[i].served = &served;
		c[i] = (struct client){ .path = path, .params = p };
		if (pthread_create(&s[i].t, NULL, sharer_main, &s[i]) ||
		    pthread_create(&c[i].t, NULL, ask_main, &c[i]))
			return -EAGAIN;
	}
	for (i = 0; i < SHARERS; i++) {
		pthread_join(s[i].t, NULL);
		pthread_join(c[i].t, NULL);
		if (!ret)
			ret = s[i].ret ? s[i].ret : c[i].ret;
	}
	return ret;
}

TEST_F(adopt, threads_share_a_socket_and_each_accepts)
{
	struct sharer s[SHARERS];
	struct stat st;
	int i;

	close(self->sock);
	self->sock = -1;
	ASSERT_EQ(0, evering_listen(self->path, 0, &s[0].l));
	for (i = 1; i < SHARERS; i++)
		ASSERT_EQ(0, evering_listener_share(s[i - 1].l, &s[i].l));
	EXPECT_EQ(0, serve_all(s, self->path, &self->p));
	/* The file and the socket go with the last, not with the one that made them. */
	evering_listener_close(s[1].l);
	EXPECT_EQ(0, lstat(self->path, &st));
	EXPECT_EQ(0, serves(s[2].l, self->path, &self->p));
	evering_listener_close(s[2].l);
	evering_listener_close(s[0].l);
	EXPECT_EQ(0, lstat(self->path, &st));
	EXPECT_EQ(0, serves(s[3].l, self->path, &self->p));
	evering_listener_close(s[3].l);
	EXPECT_EQ(-1, lstat(self->path, &st));
}

/* A fork of a process that has two at one socket. */
static int forked_main(void *arg)
{
	struct sharer *s = arg;
	int i;

	for (i = 0; i < 2; i++)
		if (evering_listener_fd(s[i].l) < 0)
			return 1 + i;
	s->served = shared_memory(4096);
	__atomic_store_n(s->served, SHARERS - 1, __ATOMIC_RELEASE);
	sharer_main(s);
	if (s->ret)
		return 10;
	for (i = 0; i < 2; i++)
		evering_listener_close(s[i].l);
	return 0;
}

TEST_F(adopt, workers_of_a_process_whose_threads_share_a_socket_share_it_too)
{
	struct sharer s[2];
	struct client c = { .path = self->path, .params = &self->p };
	pid_t pid;

	ASSERT_EQ(0, evering_listen_fd(self->sock, &s[0].l));
	self->sock = -1;
	ASSERT_EQ(0, evering_listener_share(s[0].l, &s[1].l));
	EXPECT_EQ(0, serves(s[1].l, self->path, &self->p));
	pid = spawn(forked_main, s);
	ASSERT_LT(0, pid);
	ASSERT_EQ(0, pthread_create(&c.t, NULL, ask_main, &c));
	pthread_join(c.t, NULL);
	EXPECT_EQ(0, c.ret);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, serves(s[0].l, self->path, &self->p));
	evering_listener_close(s[0].l);
	evering_listener_close(s[1].l);
}

TEST_HARNESS_MAIN
