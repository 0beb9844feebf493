// SPDX-License-Identifier: MIT
/*
 * connect.c: to a listener that comes later, and in steps that an event loop takes.
 */
#include <sys/inotify.h>

#include "stranger.h"

#include <sys/stat.h>

FIXTURE(connect)
{
	struct evering_params p;
	struct evering_params await;
	char dir[64];
	char path[96];
	int fds;
};

BACKEND_VARIANTS(connect);

FIXTURE_SETUP(connect)
{
	REQUIRE_BACKEND(variant->backend);
	self->fds = count_fds();
	self->p = params_sized(variant->backend, 64, 16, 65536);
	self->await = self->p;
	self->await.flags = EVERING_AWAIT;
	strcpy(self->dir, "/tmp/evering-connect-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->path, sizeof(self->path), "%s/s", self->dir);
}

FIXTURE_TEARDOWN(connect)
{
	unlink(self->path);
	EXPECT_EQ(0, rmdir(self->dir));
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_TRUE(no_children());
}

static int64_t thread_cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int touch(const char *path)
{
	int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : close(fd);
}

/* -------------------------------------------------------------- who comes later */

/* The client of @c is served at @path, where nobody listened when it began. */
static int serve_late(struct client *c, const char *path)
{
	struct evering_listener *l;
	struct evering *ev = NULL;
	int ret;

	ret = evering_listen(path, 0600, &l);
	if (ret)
		return ret;
	ret = evering_accept(l, NULL, PLENTY, &ev);
	pthread_join(c->t, NULL);
	if (!c->ret)
		evering_close(c->ev);
	evering_close(ev);
	evering_listener_close(l);
	return ret ? ret : c->ret;
}

TEST_F(connect, one_who_waits_meets_a_listener_that_comes_later)
{
	struct client c = { .path = self->path, .params = &self->await };
	struct evering *ev;

	EXPECT_EQ(-ENOENT, evering_connect(self->path, &self->p, PLENTY, &ev));
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	sleep_ns(50 * MSEC);
	EXPECT_EQ(0, serve_late(&c, self->path));
}

TEST_F(connect, one_who_waits_meets_a_listener_in_a_directory_that_comes_later)
{
	char sub[128], path[160];
	struct client c = { .path = path, .params = &self->await };

	snprintf(sub, sizeof(sub), "%s/sub", self->dir);
	snprintf(path, sizeof(path), "%s/s", sub);
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	sleep_ns(20 * MSEC);
	ASSERT_EQ(0, mkdir(sub, 0700));
	EXPECT_EQ(0, serve_late(&c, path));
	EXPECT_EQ(0, rmdir(sub));
}

TEST_F(connect, one_who_waits_meets_a_listener_at_a_name)
{
	char name[64];
	struct client c = { .path = name, .params = &self->await };
	struct evering *ev;

	snprintf(name, sizeof(name), "@evering-connect-%d", getpid());
	EXPECT_EQ(-ECONNREFUSED, evering_connect(name, &self->p, PLENTY, &ev));
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	sleep_ns(50 * MSEC);
	EXPECT_EQ(0, serve_late(&c, name));
}

/* A socket file that a dead process has left, and that another one replaces. */
TEST_F(connect, one_who_waits_meets_the_next_one_after_one_that_is_dead)
{
	struct client c = { .path = self->path, .params = &self->await };
	int dead = raw_socket(self->path, 0, true);
	struct evering *ev;

	ASSERT_LE(0, dead);
	close(dead);
	EXPECT_EQ(-ECONNREFUSED,
		  evering_connect(self->path, &self->p, PLENTY, &ev));
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	sleep_ns(20 * MSEC);
	EXPECT_EQ(0, serve_late(&c, self->path));
}

/* What no directory tells of: it is bound long before it listens. */
TEST_F(connect, one_who_waits_meets_a_socket_that_listens_later)
{
	struct client c = { .path = self->path, .params = &self->await };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct evering_listener *l;
	struct evering *ev = NULL;

	ASSERT_LE(0, fd);
	strcpy(a.sun_path, self->path);
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	sleep_ns(20 * MSEC);
	ASSERT_EQ(0, bind(fd, (struct sockaddr *)&a, sizeof(a)));
	sleep_ns(20 * MSEC);
	ASSERT_EQ(0, listen(fd, 8));
	ASSERT_EQ(0, evering_listen_fd(fd, &l));
	EXPECT_EQ(0, evering_accept(l, NULL, PLENTY, &ev));
	pthread_join(c.t, NULL);
	EXPECT_EQ(0, c.ret);
	evering_close(c.ev);
	evering_close(ev);
	evering_listener_close(l);
}

/* Between bind(2) and chmod(2) of a listener nobody else may connect to it. */
struct outsider {
	const char *path;
	struct evering_params p;
	uint32_t *tried;
};

static int outsider_main(void *arg)
{
	struct outsider *o = arg;
	struct evering_connecting *c;
	struct evering *ev;
	int ret;

	if (become_nobody())
		return 1;
	/* Whom nobody lets in is told so when the time is up. */
	if (evering_connect(o->path, &o->p, 20 * MSEC, &ev) != -EACCES)
		return 2;
	if (evering_connect_begin(o->path, &o->p, PLENTY, &c))
		return 3;
	ret = evering_connecting_step(c, &ev);
	__atomic_store_n(o->tried, 1, __ATOMIC_RELEASE);
	while (ret == -EAGAIN) {
		poll(&(struct pollfd){ evering_connecting_fd(c), POLLIN, 0 }, 1,
		     (int)(PLENTY / MSEC));
		ret = evering_connecting_step(c, &ev);
	}
	evering_connecting_close(c);
	if (!ret)
		evering_close(ev);
	return ret ? 4 : 0;
}

TEST_F(connect, one_who_waits_meets_a_listener_that_is_not_open_to_him_yet)
{
	struct outsider o = { .path = self->path, .p = self->await };
	struct evering_listener *l;
	struct evering *ev;
	pid_t pid;
	int ret;

	if (geteuid())
		SKIP(return, "to be two users takes root");
	o.tried = shared_memory(4096);
	ASSERT_NE(NULL, o.tried);
	ASSERT_EQ(0, chmod(self->dir, 0755));
	ASSERT_EQ(0, evering_listen(self->path, 0600, &l));
	pid = spawn(outsider_main, &o);
	ASSERT_LT(0, pid);
	EXPECT_TRUE(EVENTUALLY(__atomic_load_n(o.tried, __ATOMIC_ACQUIRE)));
	ASSERT_EQ(0, chmod(self->path, 0666));
	ret = evering_accept(l, NULL, PLENTY, &ev);
	EXPECT_EQ(0, ret);
	if (!ret)
		evering_close(ev);
	EXPECT_EQ(0, reap(pid));
	evering_listener_close(l);
}

/* Files that come and go in the directory, for ever. */
static int traffic_main(void *dir)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/other", (const char *)dir);
	for (;;) {
		touch(path);
		unlink(path);
	}
	return 0;
}

TEST_F(connect, to_wait_takes_the_time_given_and_little_of_a_cpu)
{
	const char *const paths[] = { self->path, "@evering-nobody",
				      "/none/s" };
	int64_t began, took, cpu;
	struct evering *ev;
	char other[128];
	unsigned int i;
	pid_t pid = 0;

	for (i = 0; i < ARRAY_SIZE(paths) + 1; i++) {
		if (i == ARRAY_SIZE(paths)) {
			pid = spawn(traffic_main, self->dir);
			ASSERT_LT(0, pid);
		}
		began = now_ns();
		cpu = thread_cpu_ns();
		EXPECT_EQ(-ETIMEDOUT,
			  evering_connect(paths[i % ARRAY_SIZE(paths)],
					  &self->await, 400 * MSEC, &ev));
		cpu = thread_cpu_ns() - cpu;
		took = now_ns() - began;
		EXPECT_LE(400 * MSEC, took);
		EXPECT_GT(400 * MSEC + slow(2 * SEC), took);
		EXPECT_GT(slow(40 * MSEC), cpu)
		{
			TH_LOG("number %u", i);
		}
	}
	kill_and_reap(pid);
	snprintf(other, sizeof(other), "%s/other", self->dir);
	unlink(other);
	EXPECT_EQ(-EAGAIN, evering_connect(self->path, &self->await,
					   EVERING_NOWAIT, &ev));
}

static void nothing(int sig)
{
	(void)sig;
}

TEST_F(connect, a_signal_ends_the_waiting)
{
	struct client c = { .path = self->path, .params = &self->await };
	struct sigaction act = { .sa_handler = nothing,
				 .sa_flags = SA_RESTART };
	int64_t end = now_ns() + PLENTY;

	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	/* One may come before it sleeps. */
	while (pthread_tryjoin_np(c.t, NULL) == EBUSY && now_ns() < end) {
		pthread_kill(c.t, SIGUSR1);
		sleep_ns(MSEC);
	}
	EXPECT_EQ(-EINTR, c.ret);
}

TEST_F(connect, other_errors_are_not_waited_out)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char file[128], path[160];
	struct evering *ev;

	ASSERT_LE(0, fd);
	strcpy(a.sun_path, self->path);
	ASSERT_EQ(0, bind(fd, (struct sockaddr *)&a, sizeof(a)));
	ASSERT_EQ(0, listen(fd, 1));
	EXPECT_EQ(-EPROTO,
		  evering_connect(self->path, &self->await, PLENTY, &ev));
	close(fd);
	snprintf(file, sizeof(file), "%s/f", self->dir);
	snprintf(path, sizeof(path), "%s/s", file);
	ASSERT_EQ(0, touch(file));
	EXPECT_EQ(-ENOTDIR, evering_connect(path, &self->await, PLENTY, &ev));
	unlink(file);
	EXPECT_EQ(-EINVAL, evering_connect(self->path, &self->await, -2, &ev));
	EXPECT_EQ(-EINVAL,
		  evering_connect(self->path, &self->await, INT64_MIN, &ev));
	/* It is no limit for one who accepts. */
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	EXPECT_EQ(-EINVAL,
		  evering_accept_fd(fd, &self->await, EVERING_NOWAIT, &ev));
	close(fd);
}

/* ----------------------------------------------------------------------- steps */

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* As a loop takes them: when the descriptor says so.  At most @most steps. */
static int take_steps(struct evering_connecting *c, int most,
		      struct evering **ev)
{
	int fd = evering_connecting_fd(c), ret = evering_connecting_step(c, ev);

	while (ret == -EAGAIN && most--) {
		if (!readable(fd, (int)(PLENTY / MSEC)))
			return -ETIME;
		ret = evering_connecting_step(c, ev);
	}
	return ret;
}

/* Both sides in one thread: whatever waited for the other would wait for ever. */
TEST_F(connect, steps_lead_to_a_channel_and_none_waits)
{
	struct evering_connecting *c;
	struct evering_listener *l;
	struct evering *ev[2] = { NULL, NULL };
	uint32_t v = 7;
	int late, fd;

	for (late = 0; late < 2; late++) {
		ASSERT_EQ(0, evering_listen(self->path, 0, &l));
		ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, PLENTY,
						   &c));
		fd = late ? -1 : evering_connecting_fd(c);
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
		if (late)
			fd = evering_connecting_fd(c);
		ASSERT_LE(0, fd);
		EXPECT_EQ(fd, evering_connecting_fd(c));
		EXPECT_FALSE(readable(fd, 0));
		ASSERT_EQ(0, evering_accept(l, NULL, PLENTY, &ev[1]));
		EXPECT_TRUE(readable(fd, 0));
		ASSERT_EQ(0, evering_connecting_step(c, &ev[0]));
		EXPECT_EQ(-EINVAL, evering_connecting_step(c, &ev[0]));
		evering_connecting_close(c);
		EXPECT_EQ(0, evering_send(ev[0], &v, 4, 0));
		EXPECT_EQ(0, evering_recv(ev[1], &v, 4, 0));
		close_pair(ev);
		evering_listener_close(l);
	}
	evering_connecting_close(NULL);
}

TEST_F(connect, the_first_step_is_due_at_once)
{
	struct evering_connecting *c;
	struct evering *ev;

	ASSERT_EQ(0, evering_connect_begin(self->path, &self->await,
					   EVERING_WAIT_FOREVER, &c));
	EXPECT_TRUE(readable(evering_connecting_fd(c), (int)(PLENTY / MSEC)));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	evering_connecting_close(c);
}

static int lives_main(void *arg)
{
	(void)arg;
	await_death();
}

/* A child has a copy of what this process closes. */
TEST_F(connect, a_loop_hears_no_more_of_a_directory_that_has_told)
{
	struct evering *ev[2] = { NULL, NULL };
	struct evering_connecting *c;
	struct evering_listener *l;
	char other[128];
	pid_t pid;
	int fd;

	snprintf(other, sizeof(other), "%s/other", self->dir);
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->await,
					   EVERING_WAIT_FOREVER, &c));
	fd = evering_connecting_fd(c);
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
	pid = spawn(lives_main, NULL);
	ASSERT_LT(0, pid);
	ASSERT_EQ(0, evering_listen(self->path, 0, &l));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
	ASSERT_EQ(0, touch(other));
	EXPECT_FALSE(readable(fd, 0));
	ASSERT_EQ(0, evering_accept(l, NULL, PLENTY, &ev[1]));
	EXPECT_EQ(0, take_steps(c, 3, &ev[0]));
	evering_connecting_close(c);
	close_pair(ev);
	evering_listener_close(l);
	kill_and_reap(pid);
	unlink(other);
}

TEST_F(connect, steps_of_one_who_is_not_served_end_in_time)
{
	int silent = raw_socket(self->path, 0, true);
	struct evering_connecting *c;
	struct evering *ev;
	int64_t began = now_ns();

	ASSERT_LE(0, silent);
	ASSERT_EQ(0,
		  evering_connect_begin(self->path, &self->p, 50 * MSEC, &c));
	EXPECT_EQ(-ETIMEDOUT, take_steps(c, 3, &ev));
	EXPECT_LE(50 * MSEC, now_ns() - began);
	evering_connecting_close(c);
	close(silent);
	unlink(self->path);
	began = now_ns();
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->await, 50 * MSEC,
					   &c));
	EXPECT_EQ(-ETIMEDOUT, take_steps(c, 20, &ev));
	EXPECT_LE(50 * MSEC, now_ns() - began);
	evering_connecting_close(c);
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, SEC, &c));
	EXPECT_EQ(-ENOENT, evering_connecting_step(c, &ev));
	evering_connecting_close(c);
}

/* Its backlog is full: a nonblocking connect(2) does not wait for it, nor tells. */
TEST_F(connect, steps_reach_a_listener_that_has_no_room_at_first)
{
	int l = raw_socket(self->path, 0, true), socks[64], fds[MAX_FDS];
	int n = 0, i, got, sock = -1;
	struct evering_connecting *c;
	struct evering *ev;
	struct hello hello;
	int64_t end = now_ns() + PLENTY;

	ASSERT_LE(0, l);
	while (n < 64) {
		socks[n] = raw_socket(self->path, SOCK_NONBLOCK, false);
		if (socks[n] < 0)
			break;
		n++;
	}
	ASSERT_LT(n, 64);
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, PLENTY, &c));
	for (i = 0; i < 8; i++)
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	/* So the time tells. */
	EXPECT_TRUE(readable(evering_connecting_fd(c), (int)(PLENTY / MSEC)));
	close_all(socks, n);
	for (i = 0; i < n; i++)
		close(accept(l, NULL, NULL));
	/* The hello comes without another call than a step's. */
	while (sock < 0 && now_ns() < end) {
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
		fcntl(l, F_SETFL, O_NONBLOCK);
		sock = accept(l, NULL, NULL);
	}
	ASSERT_LE(0, sock);
	EXPECT_EQ((ssize_t)sizeof(hello),
		  raw_recv(sock, &hello, sizeof(hello), fds, &got));
	close_all(fds, got);
	close(sock);
	EXPECT_EQ(-ECONNRESET, take_steps(c, 3, &ev));
	evering_connecting_close(c);
	close(l);
}

/**
 * struct full - a listener that has no room, and never will have
 * @fds: its socket, and those of who wait for it
 */
struct full {
	const char *path;
	int fds[64];
	int count;
};

static bool be_full(struct full *f)
{
	int fd = raw_socket(f->path, 0, true);

	for (f->count = 0; fd >= 0 && f->count < 63; f->count++) {
		f->fds[f->count] = fd;
		fd = raw_socket(f->path, SOCK_NONBLOCK, false);
	}
	if (fd >= 0)
		close(fd);
	return fd < 0 && f->count;
}

/* Goes when most of the time has passed, and another one comes. */
static void *relay_main(void *arg)
{
	struct full *f = arg;

	sleep_ns(1500 * MSEC);
	close_all(f->fds, f->count);
	unlink(f->path);
	/* Else it would be found without another attempt. */
	sleep_ns(50 * MSEC);
	return be_full(f) ? f : NULL;
}

TEST_F(connect, two_that_have_no_room_take_the_time_of_one)
{
	struct full f = { .path = self->path };
	struct evering *ev;
	void *ret = NULL;
	int64_t took;
	pthread_t t;

	ASSERT_TRUE(be_full(&f));
	took = now_ns();
	ASSERT_EQ(0, pthread_create(&t, NULL, relay_main, &f));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_connect(self->path, &self->await, 2 * SEC, &ev));
	took = now_ns() - took;
	EXPECT_LE(2 * SEC, took);
	EXPECT_GT(2 * SEC + slow(1200 * MSEC), took);
	pthread_join(t, &ret);
	EXPECT_NE(NULL, ret);
	close_all(f.fds, f.count);
}

/*
 * Its pause is long when nobody came for long: what tells is the directory, and what
 * others do there does not.
 */
TEST_F(connect, a_loop_is_told_of_the_file_at_once)
{
	struct evering *ev[2] = { NULL, NULL };
	struct evering_connecting *c;
	struct evering_listener *l;
	bool deaf = false;
	char other[128];
	int i, fd = inotify_init1(IN_CLOEXEC);

	if (fd < 0)
		SKIP(return, "this kernel has no inotify");
	close(fd);
	snprintf(other, sizeof(other), "%s/other", self->dir);
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->await,
					   EVERING_WAIT_FOREVER, &c));
	fd = evering_connecting_fd(c);
	for (i = 0; i < 16; i++)
		ASSERT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
	EXPECT_FALSE(readable(fd, 0));
	/*
	 * After one file of another name it does not listen to the next, for a moment,
	 * which is too short for a slow machine.
	 */
	for (i = 0; i < 10 && !deaf && slow(1) == 1; i++) {
		unlink(other);
		ASSERT_EQ(0, touch(other));
		EXPECT_TRUE(readable(fd, 0));
		ASSERT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
		unlink(other);
		ASSERT_EQ(0, touch(other));
		deaf = !readable(fd, 0);
		/* It looks by itself once a second. */
		while (readable(fd, 100))
			ASSERT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
	}
	EXPECT_TRUE(deaf || slow(1) > 1);
	ASSERT_EQ(0, evering_listen(self->path, 0, &l));
	EXPECT_TRUE(readable(fd, 0));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
	EXPECT_FALSE(readable(fd, 0));
	ASSERT_EQ(0, evering_accept(l, NULL, PLENTY, &ev[1]));
	EXPECT_EQ(0, take_steps(c, 3, &ev[0]));
	evering_connecting_close(c);
	close_pair(ev);
	evering_listener_close(l);
	unlink(other);
}

static int no(pid_t pid, uid_t uid, gid_t gid, void *context)
{
	(void)pid;
	(void)uid;
	(void)gid;
	return *(const int *)context;
}

TEST_F(connect, who_is_refused_is_told_why)
{
	static const int answers[][2] = {
		{ -EACCES, -EACCES },
		{ -EPERM, -EPERM },
		{ -EDQUOT, -EDQUOT },
		{ 1, -EACCES },
		/* What it means is not for strangers. */
		{ -EIO, -EPROTO },
	};
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct evering_connecting *c;
	struct evering_listener *l;
	struct evering *ev;
	unsigned int i;
	int reason;

	ASSERT_EQ(0, evering_listen(self->path, 0, &l));
	a.allow = no;
	for (i = 0; i < ARRAY_SIZE(answers); i++) {
		a.context = (void *)(uintptr_t)&answers[i][0];
		ASSERT_EQ(0, evering_listener_admit(l, &a));
		ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, PLENTY,
						   &c));
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
		EXPECT_EQ(-EAGAIN,
			  evering_accept(l, NULL, EVERING_NOWAIT, &ev));
		EXPECT_EQ(answers[i][1], take_steps(c, 3, &ev));
		evering_connecting_close(c);
		EXPECT_EQ(i + 1, evering_listener_refused(l, &reason));
		EXPECT_EQ(answers[i][0] > 0 ? -EACCES : answers[i][0], reason);
	}
	evering_listener_close(l);
}

TEST_F(connect, an_absurd_time_or_wish_begins_nothing)
{
	struct evering_connecting *c;
	struct evering *ev;
	char name[256];

	EXPECT_EQ(-EINVAL, evering_connect_begin(self->path, &self->p, -2, &c));
	EXPECT_EQ(-EINVAL,
		  evering_connect_begin(self->path, &self->p, INT64_MIN, &c));
	EXPECT_EQ(-EINVAL, evering_connect_begin(self->path, &self->p,
						 EVERING_NOWAIT, &c));
	EXPECT_EQ(-EINVAL, evering_connect_begin("", &self->p, SEC, &c));
	memset(name, 'x', sizeof(name));
	name[255] = 0;
	EXPECT_EQ(-ENAMETOOLONG,
		  evering_connect_begin(name, &self->p, SEC, &c));
	/* 292 years from now are not in the past. */
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->await, INT64_MAX,
					   &c));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	EXPECT_LE(0, evering_connecting_fd(c));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	evering_connecting_close(c);
}

/* A child takes no steps, and closes what it holds without harm to its parent's. */
static int closing_main(void *c)
{
	struct evering *ev;

	if (evering_connecting_fd(c) != -EINVAL ||
	    evering_connecting_step(c, &ev) != -EINVAL)
		return 1;
	evering_connecting_close(c);
	return 0;
}

TEST_F(connect, it_can_be_given_up_at_each_step)
{
	struct evering *ev[2] = { NULL, NULL };
	struct evering_connecting *c;
	struct evering_listener *l;
	int steps, asked;
	pid_t pid;

	ASSERT_EQ(0, evering_listen(self->path, 0, &l));
	for (steps = 0; steps < 3; steps++)
		for (asked = 0; asked < 2; asked++) {
			int i;

			ASSERT_EQ(0, evering_connect_begin(self->path, &self->p,
							   PLENTY, &c));
			if (asked)
				EXPECT_LE(0, evering_connecting_fd(c));
			for (i = 0; i < steps; i++)
				EXPECT_EQ(-EAGAIN,
					  evering_connecting_step(c, &ev[0]));
			evering_connecting_close(c);
		}
	while (evering_accept(l, NULL, EVERING_NOWAIT, &ev[1]) != -EAGAIN)
		evering_close(ev[1]);
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, PLENTY, &c));
	EXPECT_LE(0, evering_connecting_fd(c));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev[0]));
	pid = spawn(closing_main, c);
	ASSERT_LT(0, pid);
	EXPECT_EQ(0, reap(pid));
	ASSERT_EQ(0, evering_accept(l, NULL, PLENTY, &ev[1]));
	EXPECT_EQ(0, take_steps(c, 3, &ev[0]));
	evering_connecting_close(c);
	close_pair(ev);
	evering_listener_close(l);
}

/* ------------------------------------------------------- who is to come again */

/*
 * Accepts one at @sock, and tells it to connect again (-ERESTART), or that it has said
 * nothing for too long (-ETIMEDOUT): its hello is read by nobody.
 */
static int send_back(int sock, int error)
{
	const struct welcome again = {
		.magic = WELCOME_MAGIC,
		.size = sizeof(again),
		.error = error,
		.abi_min = EVERING_ABI_VERSION,
		.abi_max = EVERING_ABI_VERSION,
	};
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	int ret;

	if (poll(&pfd, 1, 10000) != 1)
		return -ETIMEDOUT;
	pfd.fd = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
	if (pfd.fd < 0)
		return -errno;
	/* Not before it has spoken, or it would have two reasons to come again. */
	ret = poll(&pfd, 1, 10000) == 1 ? 0 : -ETIMEDOUT;
	if (!ret)
		ret = raw_send(pfd.fd, &again, sizeof(again), NULL, 0);
	close(pfd.fd);
	return ret;
}

TEST_F(connect, who_is_sent_back_comes_again)
{
	struct client c = { .path = self->path, .params = &self->p };
	struct evering_listener *l;
	struct evering *ev;
	int sock, i;

	sock = raw_socket(self->path, 0, true);
	ASSERT_LE(0, sock);
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, send_back(sock, i % 2 ? -ERESTART : -ETIMEDOUT));
	ASSERT_EQ(0, evering_listen_fd(sock, &l));
	EXPECT_EQ(0, evering_accept(l, NULL, PLENTY, &ev));
	pthread_join(c.t, NULL);
	ASSERT_EQ(0, c.ret);
	evering_close(c.ev);
	evering_close(ev);
	evering_listener_close(l);
}

/* The loop's descriptor tells of the step that connects again. */
TEST_F(connect, steps_come_again)
{
	struct evering_connecting *c;
	struct evering_listener *l;
	struct evering *ev, *theirs;
	int sock, fd, i;

	sock = raw_socket(self->path, 0, true);
	ASSERT_LE(0, sock);
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, PLENTY, &c));
	fd = evering_connecting_fd(c);
	ASSERT_LE(0, fd);
	for (i = 0; i < 2; i++) {
		EXPECT_TRUE(readable(fd, 10000));
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
		EXPECT_EQ(0, send_back(sock, i ? -ERESTART : -ETIMEDOUT));
		EXPECT_TRUE(readable(fd, 10000));
		EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	}
	EXPECT_TRUE(readable(fd, 10000));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	EXPECT_FALSE(readable(fd, 0));
	ASSERT_EQ(0, evering_listen_fd(sock, &l));
	EXPECT_EQ(0, evering_accept(l, NULL, PLENTY, &theirs));
	EXPECT_TRUE(readable(fd, 10000));
	EXPECT_EQ(0, evering_connecting_step(c, &ev));
	evering_connecting_close(c);
	evering_close(ev);
	evering_close(theirs);
	evering_listener_close(l);
}

/**
 * struct refuser - a listener that sends everybody back, for ever
 * @sock: where it listens
 * @error: what it says
 * @count: how often it has
 */
struct refuser {
	int sock;
	int error;
	unsigned int count;
};

static void *send_back_main(void *arg)
{
	struct refuser *r = arg;

	while (!send_back(r->sock, r->error))
		r->count++;
	return NULL;
}

/* But for no longer than it may, and after pauses that grow to 20 ms. */
TEST_F(connect, who_is_always_sent_back_gives_up_in_time)
{
	static const int errors[] = { -ERESTART, -ETIMEDOUT };
	struct refuser r;
	struct evering *ev;
	int64_t took;
	pthread_t t;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		unlink(self->path);
		r = (struct refuser){ .error = errors[i] };
		r.sock = raw_socket(self->path, 0, true);
		ASSERT_LE(0, r.sock);
		ASSERT_EQ(0, pthread_create(&t, NULL, send_back_main, &r));
		took = now_ns();
		EXPECT_EQ(-ETIMEDOUT, evering_connect(self->path, &self->p,
						      300 * MSEC, &ev));
		took = now_ns() - took;
		/* Ends its poll(2), and then there is nothing to accept. */
		shutdown(r.sock, SHUT_RDWR);
		pthread_join(t, NULL);
		close(r.sock);
		/* At once, and then after 1, 2, 4, 8 and 16 ms. */
		EXPECT_GE(8 + took / (20 * MSEC), r.count);
	}
}

/* And over a socket that the caller has brought there is nobody to come to. */
TEST_F(connect, who_is_sent_back_over_its_own_socket_is_not)
{
	const struct welcome again = {
		.magic = WELCOME_MAGIC,
		.size = sizeof(again),
		.error = -ERESTART,
	};
	struct evering *ev;
	int socks[2];

	ASSERT_EQ(0,
		  socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
	ASSERT_EQ(0, raw_send(socks[1], &again, sizeof(again), NULL, 0));
	EXPECT_EQ(-EPROTO, evering_connect_fd(socks[0], &self->p, PLENTY, &ev));
	close(socks[0]);
	close(socks[1]);
}

TEST_HARNESS_MAIN
