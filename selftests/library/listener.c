// SPDX-License-Identifier: MIT
/*
 * listener.c: a listener among many: strangers who flood it, keep silent, or bring as
 * many descriptors as they can; workers who share it; and the rules by which it admits
 * users.  Whoever keeps to the protocol is served, soon.
 */
#include "stranger.h"

#include <sys/eventfd.h>
#include <sys/stat.h>

FIXTURE(listener)
{
	struct evering_listener *l;
	struct evering_params p;
	char path[64];
	int fds;
};

BACKEND_VARIANTS(listener);

FIXTURE_SETUP(listener)
{
	REQUIRE_BACKEND(variant->backend);
	self->fds = count_fds();
	self->p = params_sized(variant->backend, 64, 16, 65536);
	snprintf(self->path, sizeof(self->path), "@evering-listener-%d",
		 getpid());
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->l));
}

FIXTURE_TEARDOWN(listener)
{
	evering_listener_close(self->l);
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_TRUE(no_children());
}

static int64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* ------------------------------------------------------- too many descriptors */

/* Leaves @spare descriptors that can still be opened. */
static int leave_fds(int spare)
{
	struct rlimit limit;
	int fd;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -errno;
	for (fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) < 0 && !spare--)
			break;
	limit.rlim_cur = (rlim_t)fd;
	return setrlimit(RLIMIT_NOFILE, &limit) ? -errno : 0;
}

/*
 * A packet with more descriptors than this process has room for, from somebody whose
 * fault that is, is no want of this side's own.
 */
TEST_F(listener, too_many_descriptors_are_their_senders_fault)
{
	static const int spares[] = { 60, 12, 4, 1 };
	int fds[MAX_FDS], socks[2 * ARRAY_SIZE(spares)], theirs[MAX_FDS];
	int n = 0, i;
	uint64_t refused = 0;
	struct rlimit limit;
	struct evering *ev;
	struct hello hello;
	unsigned int at;
	int null, ret;

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, null);
	for (i = 0; i < MAX_FDS; i++)
		fds[i] = null;
	for (at = 0; at < ARRAY_SIZE(socks); at++) {
		socks[at] = raw_socket(self->path, 0, false);
		ASSERT_LE(0, socks[at]);
		/* No hello, and one that is right but for them. */
		ASSERT_EQ(0, genuine_hello(&self->p, &hello, theirs, &n));
		close_all(theirs, n);
		ASSERT_EQ(0,
			  raw_send(socks[at], &hello,
				   at % 2 ? sizeof(hello) : 5, fds, MAX_FDS));
		ASSERT_EQ(0, leave_fds(spares[at / 2]));
		ret = evering_accept(self->l, NULL, 20 * MSEC, &ev);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		EXPECT_EQ(-ETIMEDOUT, ret)
		{
			TH_LOG("%d to spare", spares[at / 2]);
		}
		EXPECT_EQ(++refused, evering_listener_refused(self->l, &ret));
		EXPECT_EQ(-EPROTO, ret);
	}
	ASSERT_EQ(0, leave_fds(60));
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	close(null);
	close_all(socks, ARRAY_SIZE(socks));
}

/* Nor is one with as many of the right kind as its hello says, or more than that. */
TEST_F(listener, lanes_without_room_for_them_are_no_want_of_the_listeners)
{
	static const int spares[] = { 100, 40, 1 };
	int fds[MAX_FDS], socks[2 * ARRAY_SIZE(spares)], theirs[MAX_FDS];
	int n = 0, i, bell, ret;
	uint64_t refused = 0;
	struct rlimit limit;
	struct evering *ev;
	struct hello hello;
	unsigned int at;

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_LE(0, bell);
	for (i = 0; i < MAX_FDS; i++)
		fds[i] = bell;
	ASSERT_EQ(0, genuine_hello(&self->p, &hello, theirs, &n));
	close_all(theirs, n);
	for (at = 0; at < ARRAY_SIZE(socks); at++) {
		socks[at] = raw_socket(self->path, 0, false);
		ASSERT_LE(0, socks[at]);
		hello.lanes = at % 2 ? EVERING_MAX_LANES : 1;
		hello.fds = at % 2 ? 7 * hello.lanes : (uint32_t)n;
		ASSERT_EQ(0, raw_send(socks[at], &hello, sizeof(hello), fds,
				      at % 2 ? (int)hello.fds : MAX_FDS));
		ASSERT_EQ(0, leave_fds(spares[at / 2]));
		ret = evering_accept(self->l, NULL, 20 * MSEC, &ev);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		EXPECT_EQ(-ETIMEDOUT, ret)
		{
			TH_LOG("%d to spare, %u lanes", spares[at / 2],
			       hello.lanes);
		}
		EXPECT_EQ(++refused, evering_listener_refused(self->l, &ret));
		EXPECT_EQ(at % 2 ? -EMFILE : -EPROTO, ret);
	}
	ASSERT_EQ(0, leave_fds(60));
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	close(bell);
	close_all(socks, ARRAY_SIZE(socks));
}

/*
 * Memory that is @size bytes by its size, and more than that by its pages, or by what it
 * may become.
 */
static int heavy_memory(int kind, off_t size)
{
	int fd = memfd_create("evering-heavy", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (kind == 1)
		size += 1 << 30;
	if (ftruncate(fd, size) ||
	    (kind == 2 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 16 << 20)) ||
	    fcntl(fd, F_ADD_SEALS, kind == 3 ? F_SEAL_SHRINK : SEALS_OWN)) {
		close(fd);
		return -1;
	}
	return fd;
}

/*
 * To close memory takes time, so what is more than a channel needs is not received: that
 * shows where there is no room to receive anything.
 */
TEST_F(listener, memory_is_received_only_if_it_is_of_the_right_size)
{
	int fds[MAX_FDS], sock, n = 0, kind, ret, error;
	uint64_t refused = 0;
	struct rlimit limit;
	struct evering *ev;
	struct hello hello;
	struct stat st;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "memory is of memfd channels alone");
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	for (kind = 0; kind < 4; kind++) {
		ASSERT_EQ(0, genuine_hello(&self->p, &hello, fds, &n));
		ASSERT_EQ(0, fstat(fds[0], &st));
		if (kind) {
			close(fds[0]);
			fds[0] = heavy_memory(kind, st.st_size);
			ASSERT_LE(0, fds[0]);
		}
		sock = raw_socket(self->path, 0, false);
		ASSERT_LE(0, sock);
		ASSERT_EQ(0, raw_send(sock, &hello, sizeof(hello), fds, n));
		close_all(fds, n);
		ASSERT_EQ(0, leave_fds(1));
		ret = evering_accept(self->l, NULL, EVERING_NOWAIT, &ev);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		EXPECT_EQ(kind ? -EAGAIN : -EMFILE, ret)
		{
			TH_LOG("kind %d", kind);
		}
		EXPECT_EQ(++refused, evering_listener_refused(self->l, &error));
		EXPECT_EQ(kind ? -EPROTO : -EMFILE, error);
		close(sock);
	}
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

/* ----------------------------------------------------------------------- floods */

/* Connects, says a byte and goes, for ever. */
static int flood_main(void *path)
{
	int fd;

	for (;;) {
		fd = raw_socket(path, SOCK_NONBLOCK, false);
		if (fd < 0) {
			sched_yield();
			continue;
		}
		send(fd, "x", 1, MSG_NOSIGNAL);
		close(fd);
	}
	return 0;
}

/* The most that a call may turn away that does not wait. */
#define BOUND 64u

TEST_F(listener, not_to_wait_is_a_bounded_amount_of_work)
{
	uint64_t before = 0, now, most = 0;
	int i, laps = short_run() ? 20 : 300;
	struct evering *ev;
	pid_t pids[2];

	for (i = 0; i < 2; i++) {
		pids[i] = spawn(flood_main, self->path);
		ASSERT_LT(0, pids[i]);
	}
	for (i = 0; i < laps; i++) {
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
		now = evering_listener_refused(self->l, NULL);
		most = max_of(most, now - before);
		before = now;
		/* For them to get ahead. */
		sleep_ns(200 * USEC);
	}
	EXPECT_LT(0, most);
	EXPECT_GE(BOUND, most);
	kill_and_reap(pids[0]);
	kill_and_reap(pids[1]);
}

/*
 * Says a hello that is right but for what its descriptors are, of which one finds out no
 * sooner than at the channel that is made for it.  The socket, or a negative errno.
 */
static int nearly_right(const char *path, const struct evering_params *p)
{
	int theirs[MAX_FDS], fds[MAX_FDS], n = 0, i, sock, ret;
	struct hello hello;

	ret = genuine_hello(p, &hello, theirs, &n);
	if (ret)
		return ret;
	close_all(theirs, n);
	fds[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (i = 1; i < n; i++)
		fds[i] = fds[0];
	sock = raw_socket(path, 0, false);
	ret = sock < 0 ? sock : raw_send(sock, &hello, sizeof(hello), fds, n);
	close(fds[0]);
	if (ret && sock >= 0)
		close(sock);
	return ret ? ret : sock;
}

#define MANY 10

TEST_F(listener, not_to_wait_is_to_make_one_channel_at_the_most)
{
	struct client c = { .path = self->path, .params = &self->p };
	struct pollfd fd = { .events = POLLIN };
	int socks[MANY], i, n, error, met = 0;
	const struct evering_group_event *events;
	struct evering *ev = NULL;
	struct evering_group *g;

	fd.fd = evering_listener_fd(self->l);
	for (i = 0; i < MANY; i++) {
		socks[i] = nearly_right(self->path, &self->p);
		ASSERT_LE(0, socks[i]);
	}
	for (i = 1; i <= MANY / 2; i++) {
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
		EXPECT_EQ((uint64_t)i,
			  evering_listener_refused(self->l, &error));
		EXPECT_EQ(-EPROTO, error);
		/* There is more to do. */
		EXPECT_EQ(1, poll(&fd, 1, 0));
	}
	/* So who waits for that comes to all, and to the one behind them. */
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	ASSERT_EQ(0, evering_group_open(NULL, &g));
	ASSERT_EQ(0, evering_group_add_listener(g, self->l, NULL));
	while (!met) {
		n = evering_group_wait(g, &events, PLENTY);
		ASSERT_EQ(1, n);
		ASSERT_EQ(EVERING_GROUP_ACCEPT, events[0].what);
		met = !evering_accept(self->l, NULL, EVERING_NOWAIT, &ev);
	}
	EXPECT_EQ(MANY, evering_listener_refused(self->l, NULL));
	evering_group_close(g);
	pthread_join(c.t, NULL);
	EXPECT_EQ(0, c.ret);
	evering_close(c.ev);
	evering_close(ev);
	close_all(socks, MANY);
}

/* But its descriptors are to be closed, so one at a time. */
TEST_F(listener, for_who_has_gone_no_channel_is_made)
{
	struct evering *ev;
	int sock, error, i;

	for (i = 0; i < 3; i++) {
		sock = nearly_right(self->path, &self->p);
		ASSERT_LE(0, sock);
		close(sock);
	}
	for (i = 1; i <= 3; i++) {
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
		EXPECT_EQ((uint64_t)i,
			  evering_listener_refused(self->l, &error));
		EXPECT_EQ(-ECONNRESET, error);
	}
}

TEST_F(listener, a_flood_keeps_nobody_past_his_time)
{
	int64_t took, best = INT64_MAX;
	struct evering *ev;
	pid_t pids[2];
	int i;

	for (i = 0; i < 2; i++) {
		pids[i] = spawn(flood_main, self->path);
		ASSERT_LT(0, pids[i]);
	}
	for (i = 0; i < 5; i++) {
		took = now_ns();
		EXPECT_EQ(-ETIMEDOUT,
			  evering_accept(self->l, NULL, 20 * MSEC, &ev));
		took = now_ns() - took;
		EXPECT_LE(20 * MSEC, took);
		if (took < best)
			best = took;
	}
	/* Whatever else the machine does. */
	EXPECT_GT(20 * MSEC + slow(100 * MSEC), best);
	EXPECT_LT(0, evering_listener_refused(self->l, NULL));
	kill_and_reap(pids[0]);
	kill_and_reap(pids[1]);
}

#define CONNECTIONS 300

/* Keeps as many connections as it can, says nothing, and comes again. */
static int silent_main(void *arg)
{
	static struct pollfd fds[CONNECTIONS];
	const char *path = arg;
	int i;

	for (i = 0; i < CONNECTIONS; i++)
		fds[i] = (struct pollfd){ -1, POLLIN, 0 };
	for (;;) {
		for (i = 0; i < CONNECTIONS; i++) {
			if (fds[i].fd >= 0 && fds[i].revents) {
				close(fds[i].fd);
				fds[i].fd = -1;
			}
			if (fds[i].fd < 0)
				fds[i].fd =
					raw_socket(path, SOCK_NONBLOCK, false);
			fds[i].revents = 0;
		}
		poll(fds, CONNECTIONS, 1);
	}
	return 0;
}

struct server {
	struct evering_listener *l;
	bool stop;
	int ret;
};

static void *server_main(void *arg)
{
	struct server *s = arg;
	struct evering *ev;
	int ret;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		ret = evering_accept(s->l, NULL, 10 * MSEC, &ev);
		if (!ret)
			evering_close(ev);
		else if (ret != -ETIMEDOUT)
			s->ret = ret;
	}
	return NULL;
}

/* The quickest of some connects, in ns; negative errno if one failed. */
static int64_t quickest_connect(const char *path,
				const struct evering_params *p)
{
	int64_t took, best = INT64_MAX;
	struct evering *ev;
	int i, ret;

	for (i = 0; i < 5; i++) {
		took = now_ns();
		ret = evering_connect(path, p, PLENTY, &ev);
		took = now_ns() - took;
		if (ret)
			return ret;
		evering_close(ev);
		if (took < best)
			best = took;
	}
	return best;
}

TEST_F(listener, however_many_are_silent_a_client_is_served_at_once)
{
	struct server s = { .l = self->l };
	pid_t pids[3];
	int64_t took;
	pthread_t t;
	int i;

	ASSERT_EQ(0, pthread_create(&t, NULL, server_main, &s));
	for (i = 0; i < 3; i++) {
		pids[i] = spawn(silent_main, self->path);
		ASSERT_LT(0, pids[i]);
		if (i == 1)
			continue;
		sleep_ns(100 * MSEC);
		took = quickest_connect(self->path, &self->p);
		printf("# served in %lld us beside %d that are silent\n",
		       (long long)(took / USEC), (i + 1) * CONNECTIONS);
		EXPECT_LT(0, took);
		/* A second is what one of them has to speak. */
		EXPECT_GT(slow(500 * MSEC), took);
	}
	for (i = 0; i < 3; i++)
		kill_and_reap(pids[i]);
	__atomic_store_n(&s.stop, true, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	EXPECT_EQ(0, s.ret);
}

/* Threads that share a socket give each hello a moment, but not one after the other. */
TEST_F(listener, however_many_are_silent_one_who_shares_serves_at_once)
{
	struct client c = { .path = self->path, .params = &self->p };
	struct evering_listener *other;
	int socks[CONNECTIONS], n = 0;
	struct evering *ev;
	int64_t took;

	ASSERT_EQ(0, evering_listener_share(self->l, &other));
	while (n < CONNECTIONS) {
		socks[n] = raw_socket(self->path, SOCK_NONBLOCK, false);
		if (socks[n] < 0)
			break;
		n++;
	}
	EXPECT_LT(64, n);
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	took = now_ns();
	ASSERT_EQ(0, evering_accept(self->l, NULL, PLENTY, &ev));
	took = now_ns() - took;
	/* Five milliseconds for each would be more. */
	EXPECT_GT(slow(n * 3 * MSEC), took);
	pthread_join(c.t, NULL);
	EXPECT_EQ(0, c.ret);
	evering_close(c.ev);
	evering_close(ev);
	close_all(socks, n);
	evering_listener_close(other);
}

static int lives_main(void *arg)
{
	(void)arg;
	await_death();
}

/* A child has a copy of what this process closes. */
TEST_F(listener, nothing_is_heard_of_a_connection_that_was_turned_away)
{
	struct pollfd fd = { .events = POLLIN };
	struct evering *ev;
	int sock, i;
	pid_t pid;

	sock = raw_socket(self->path, 0, false);
	ASSERT_LE(0, sock);
	EXPECT_EQ(-EAGAIN, evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
	pid = spawn(lives_main, NULL);
	ASSERT_LT(0, pid);
	ASSERT_EQ(0, raw_send(sock, "junk", 4, NULL, 0));
	EXPECT_EQ(-EAGAIN, evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
	EXPECT_EQ(1, evering_listener_refused(self->l, NULL));
	shutdown(sock, SHUT_RDWR);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
	fd.fd = evering_listener_fd(self->l);
	/* Its timer may ring, once. */
	if (poll(&fd, 1, 0)) {
		sleep_ns(SEC);
		evering_accept(self->l, NULL, EVERING_NOWAIT, &ev);
		EXPECT_EQ(0, poll(&fd, 1, 0));
	}
	close(sock);
	kill_and_reap(pid);
}

/* -------------------------------------------------------------------- workers */

/* At first it has no room for what it needs of its own. */
static int late_worker_main(void *arg)
{
	struct evering_listener *l = arg;
	struct rlimit limit, none;
	struct evering *ev;
	int ret;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 1;
	none = limit;
	none.rlim_cur = 3;
	if (setrlimit(RLIMIT_NOFILE, &none))
		return 2;
	ret = evering_accept(l, NULL, EVERING_NOWAIT, &ev);
	setrlimit(RLIMIT_NOFILE, &limit);
	if (ret != -EMFILE)
		return 3;
	if (evering_accept(l, NULL, EVERING_NOWAIT, &ev) != -EAGAIN ||
	    evering_listener_fd(l) < 0)
		return 4;
	evering_listener_close(l);
	return 0;
}

TEST_F(listener, a_worker_that_had_no_room_tries_again)
{
	pid_t pid = spawn(late_worker_main, self->l);

	ASSERT_LT(0, pid);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

struct worker {
	struct evering_listener *l;
	uint32_t *stop;
};

/* Accepts one, waits for another who does not come, and says how much of a CPU it took. */
static int worker_main(void *arg)
{
	struct worker *w = arg;
	struct evering *ev, *none;
	uint32_t v;
	int64_t cpu;

	if (evering_accept(w->l, NULL, PLENTY, &ev))
		return 1;
	if (evering_recv(ev, &v, 4, PLENTY) || evering_send(ev, &v, 4, 0) ||
	    evering_listener_refused(w->l, NULL))
		return 2;
	/* Until the other has its own. */
	__atomic_fetch_add(w->stop, 1, __ATOMIC_ACQ_REL);
	if (!EVENTUALLY(__atomic_load_n(w->stop, __ATOMIC_ACQUIRE) == 2))
		return 3;
	cpu = cpu_ns();
	if (evering_accept(w->l, NULL, 300 * MSEC, &none) != -ETIMEDOUT)
		return 4;
	if (cpu_ns() - cpu > slow(100 * MSEC))
		return 5;
	evering_close(ev);
	evering_listener_close(w->l);
	return 0;
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

TEST_F(listener, workers_share_it_and_their_server_keeps_it)
{
	char dir[] = "/tmp/evering-listener-XXXXXX", path[64];
	struct client c[2] = { { .params = &self->p, .path = path },
			       { .params = &self->p, .path = path } };
	uint32_t *stop = shared_memory(4096);
	struct worker w = { .stop = stop };
	struct evering *ev;
	struct stat st;
	pid_t pids[2];
	int i, silent;

	ASSERT_NE(NULL, stop);
	ASSERT_NE(NULL, mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	ASSERT_EQ(0, evering_listen(path, 0, &w.l));
	/* What has been accepted, and has not said hello, is this process's. */
	silent = raw_socket(path, 0, false);
	ASSERT_LE(0, silent);
	EXPECT_EQ(-EAGAIN, evering_accept(w.l, NULL, EVERING_NOWAIT, &ev));
	/* Before there are threads: a child of theirs may find a sanitizer's heap locked. */
	for (i = 0; i < 2; i++) {
		pids[i] = spawn(worker_main, &w);
		ASSERT_LT(0, pids[i]);
	}
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&c[i].t, NULL, ask_main, &c[i]));
	}
	for (i = 0; i < 2; i++) {
		pthread_join(c[i].t, NULL);
		EXPECT_EQ(0, c[i].ret);
		EXPECT_EQ(0, reap(pids[i]));
	}
	EXPECT_EQ(0, lstat(path, &st));
	EXPECT_EQ(0, serves(w.l, path, &self->p));
	close(silent);
	evering_listener_close(w.l);
	EXPECT_EQ(-1, lstat(path, &st));
	EXPECT_EQ(0, rmdir(dir));
}

/* Whoever has not been greeted is not kept by one that serves another from now on. */
TEST_F(listener, who_shares_keeps_nobody_while_it_serves)
{
	struct client c = { .path = self->path, .params = &self->p };
	struct evering_listener *other;
	struct welcome welcome;
	struct evering *ev;
	int sock;

	ASSERT_EQ(0, evering_listener_share(self->l, &other));
	sock = raw_socket(self->path, 0, false);
	ASSERT_LE(0, sock);
	EXPECT_EQ(-EAGAIN, evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	ASSERT_EQ(0, evering_accept(self->l, NULL, PLENTY, &ev));
	EXPECT_EQ(sizeof(welcome),
		  recv(sock, &welcome, sizeof(welcome), MSG_DONTWAIT));
	EXPECT_EQ(-ERESTART, welcome.error);
	/* Now, or when a child that had a copy of it has gone. */
	EXPECT_EQ(0, recv(sock, &welcome, sizeof(welcome), 0));
	EXPECT_EQ(0, evering_listener_refused(self->l, NULL));
	pthread_join(c.t, NULL);
	EXPECT_EQ(0, c.ret);
	evering_close(ev);
	evering_close(c.ev);
	close(sock);
	/* Nor by one that goes. */
	sock = raw_socket(self->path, 0, false);
	ASSERT_LE(0, sock);
	EXPECT_EQ(-EAGAIN, evering_accept(other, NULL, EVERING_NOWAIT, &ev));
	evering_listener_close(other);
	EXPECT_EQ(sizeof(welcome),
		  recv(sock, &welcome, sizeof(welcome), MSG_DONTWAIT));
	EXPECT_EQ(-ERESTART, welcome.error);
	close(sock);
}

/* ------------------------------------------------------------------- admission */

/* What allow() is to say, and what it was told. */
struct asked {
	int answer;
	int count;
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

static int allow(pid_t pid, uid_t uid, gid_t gid, void *context)
{
	struct asked *a = context;

	a->count++;
	a->pid = pid;
	a->uid = uid;
	a->gid = gid;
	return a->answer;
}

TEST_F(listener, who_is_not_allowed_is_told_so_before_he_has_spoken)
{
	static const int answers[] = { -EACCES, -EPERM, -EDQUOT };
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct asked asked = { 0 };
	struct welcome welcome;
	struct evering *ev;
	unsigned int i;
	int sock, ret;

	a.allow = allow;
	a.context = &asked;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	for (i = 0; i < ARRAY_SIZE(answers); i++) {
		struct client c = { .path = self->path, .params = &self->p };

		asked.answer = answers[i];
		sock = raw_socket(self->path, 0, false);
		ASSERT_LE(0, sock);
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
		EXPECT_EQ(sizeof(welcome),
			  recv(sock, &welcome, sizeof(welcome), MSG_DONTWAIT));
		EXPECT_EQ(answers[i], welcome.error);
		close(sock);
		EXPECT_EQ((int)(2 * i + 1), asked.count);
		ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_accept(self->l, NULL, 20 * MSEC, &ev));
		while (asked.count < (int)(2 * i + 2))
			evering_accept(self->l, NULL, 20 * MSEC, &ev);
		pthread_join(c.t, NULL);
		EXPECT_EQ(answers[i], c.ret);
		evering_listener_refused(self->l, &ret);
		EXPECT_EQ(answers[i], ret);
	}
	EXPECT_EQ(getpid(), asked.pid);
	EXPECT_EQ(geteuid(), asked.uid);
	EXPECT_EQ(getegid(), asked.gid);
	asked.answer = 0;
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

TEST_F(listener, impossible_rules_are_refused)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;

	a.flags = 1;
	EXPECT_EQ(-EINVAL, evering_listener_admit(self->l, &a));
	a.flags = 0;
	a.size = 0;
	EXPECT_EQ(-EINVAL, evering_listener_admit(self->l, &a));
	EXPECT_EQ(0, evering_listener_admit(self->l, NULL));
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

/**
 * struct wishes - what another user asks for, one channel after the other
 * @want: of the listener: how much of its arena
 * @count: channels
 * @got: in shared memory: what came of each; 1: nothing yet
 * @go: how many may be asked for
 */
struct wishes {
	const char *path;
	struct evering_params p;
	int count;
	int *got;
	int *go;
};

static int wishes_main(void *arg)
{
	struct wishes *w = arg;
	struct evering *ev;
	int i;

	if (become_nobody())
		return 1;
	for (i = 0; i < w->count; i++) {
		while (__atomic_load_n(w->go, __ATOMIC_ACQUIRE) <= i)
			sleep_ns(MSEC);
		__atomic_store_n(&w->got[i],
				 evering_connect(w->path, &w->p, PLENTY, &ev),
				 __ATOMIC_RELEASE);
	}
	await_death();
}

/* The next wish; 0 and @ev, or what the client was told. */
static int grant(struct evering_listener *l, struct wishes *w, int i,
		 struct evering **ev)
{
	int64_t end = now_ns() + PLENTY;
	int ret = -1;

	__atomic_store_n(w->go, i + 1, __ATOMIC_RELEASE);
	do {
		if (ret)
			ret = evering_accept(l, NULL, 5 * MSEC, ev);
	} while (__atomic_load_n(&w->got[i], __ATOMIC_ACQUIRE) == 1 &&
		 now_ns() < end);
	return ret && !w->got[i] ? ret : w->got[i];
}

static bool start_wishes(struct wishes *w, const char *path,
			 const struct evering_params *p, int count, pid_t *pid)
{
	int i;

	w->path = path;
	w->p = *p;
	w->count = count;
	w->go = shared_memory(4096);
	if (!w->go)
		return false;
	w->got = w->go + 1;
	for (i = 0; i < count; i++)
		w->got[i] = 1;
	*pid = spawn(wishes_main, w);
	return *pid > 0;
}

static void *close_main(void *ev)
{
	evering_close(ev);
	return NULL;
}

TEST_F(listener, another_user_has_no_more_channels_than_he_may)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct evering *ev[4], *own;
	struct wishes w;
	pthread_t t;
	pid_t pid;

	if (geteuid())
		SKIP(return, "to be two users takes root");
	a.user_channels = 2;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	ASSERT_TRUE(start_wishes(&w, self->path, &self->p, 6, &pid));
	EXPECT_EQ(0, grant(self->l, &w, 0, &ev[0]));
	EXPECT_EQ(0, grant(self->l, &w, 1, &ev[1]));
	EXPECT_EQ(-EDQUOT, grant(self->l, &w, 2, &own));
	/* It is his alone. */
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	/* And is his again when one is closed, here in another thread. */
	ASSERT_EQ(0, pthread_create(&t, NULL, close_main, ev[0]));
	pthread_join(t, NULL);
	EXPECT_EQ(0, grant(self->l, &w, 3, &ev[0]));
	EXPECT_EQ(-EDQUOT, grant(self->l, &w, 4, &own));
	/* The books outlive the listener. */
	evering_listener_close(self->l);
	self->l = NULL;
	evering_close(ev[0]);
	evering_close(ev[1]);
	kill_and_reap(pid);
}

/* Threads that share a socket have one book. */
TEST_F(listener, another_user_has_no_more_of_all_who_share_a_socket)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct evering_listener *other;
	struct evering *ev[2], *none;
	struct wishes w;
	pid_t pid;

	if (geteuid())
		SKIP(return, "to be two users takes root");
	a.user_channels = 2;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	ASSERT_EQ(0, evering_listener_share(self->l, &other));
	ASSERT_TRUE(start_wishes(&w, self->path, &self->p, 5, &pid));
	EXPECT_EQ(0, grant(self->l, &w, 0, &ev[0]));
	EXPECT_EQ(0, grant(other, &w, 1, &ev[1]));
	EXPECT_EQ(-EDQUOT, grant(self->l, &w, 2, &none));
	evering_listener_close(self->l);
	self->l = NULL;
	EXPECT_EQ(-EDQUOT, grant(other, &w, 3, &none));
	evering_close(ev[0]);
	EXPECT_EQ(0, grant(other, &w, 4, &ev[0]));
	evering_listener_close(other);
	evering_close(ev[0]);
	evering_close(ev[1]);
	kill_and_reap(pid);
}

TEST_F(listener, another_user_has_no_more_bytes_than_he_may)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct evering *ev[2];
	struct wishes w;
	pid_t pid;
	int second, whose;

	if (geteuid())
		SKIP(return, "to be two users takes root");
	/*
	 * One arena, with its rings, but not two, whosever it is and however little of it
	 * there is yet.  On the device the client's own is the client's.
	 */
	a.user_bytes = 3 << 19;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	for (whose = 0; whose < 2; whose++) {
		self->p.arena_size[whose] = 1 << 20;
		self->p.arena_size[!whose] = 0;
		second = variant->backend == EVERING_BACKEND_DEVICE &&
					 whose == EVERING_MINE ?
				 0 :
				 -EDQUOT;
		ASSERT_TRUE(start_wishes(&w, self->path, &self->p, 3, &pid));
		EXPECT_EQ(0, grant(self->l, &w, 0, &ev[0]));
		EXPECT_EQ(second, grant(self->l, &w, 1, &ev[1]));
		if (!second)
			evering_close(ev[1]);
		evering_close(ev[0]);
		EXPECT_EQ(0, grant(self->l, &w, 2, &ev[0]));
		evering_close(ev[0]);
		kill_and_reap(pid);
	}
}

/* Connects @count times, says nothing, and tells how many are still connected. */
struct silent {
	const char *path;
	uint32_t *go;
	bool nobody;
};

static int connected_main(void *arg)
{
	struct silent *s = arg;
	struct pollfd fds[4];
	int i, n = 0;

	if (s->nobody && become_nobody())
		return 99;
	for (i = 0; i < 4; i++)
		fds[i] = (struct pollfd){ raw_socket(s->path, 0, false), POLLIN,
					  0 };
	__atomic_store_n(s->go, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(s->go, __ATOMIC_ACQUIRE) != 2)
		sleep_ns(MSEC);
	poll(fds, 4, 0);
	for (i = 0; i < 4; i++)
		n += fds[i].fd >= 0 && !fds[i].revents;
	return n;
}

TEST_F(listener, the_number_of_silent_ones_is_another_users_alone)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct silent s = { .path = self->path };
	struct evering *ev;
	pid_t pid;
	int i;

	a.user_waiting = 2;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	s.go = shared_memory(4096);
	ASSERT_NE(NULL, s.go);
	for (i = 0; i < 2; i++) {
		if (i && geteuid())
			break;
		s.nobody = i;
		*s.go = 0;
		pid = spawn(connected_main, &s);
		ASSERT_TRUE(
			EVENTUALLY(__atomic_load_n(s.go, __ATOMIC_ACQUIRE)));
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
		__atomic_store_n(s.go, 2, __ATOMIC_RELEASE);
		EXPECT_EQ(s.nobody ? 2 : 4, reap(pid))
		{
			TH_LOG("%s", s.nobody ? "nobody" : "own user");
		}
	}
}

/**
 * struct deaf - a client that says hello time and again, and reads no welcome
 * @path, @p: as of evering_connect()
 * @go: in shared memory: how many hellos it is to have said
 * @said: how many it has, or a negative errno
 */
struct deaf {
	const char *path;
	struct evering_params p;
	int *go;
	int *said;
};

static int deaf_main(void *arg)
{
	int fds[MAX_FDS], sock, n = 0, i, ret;
	struct deaf *d = arg;
	struct hello hello;

	if (become_nobody())
		return 1;
	for (i = 0;; i++) {
		while (__atomic_load_n(d->go, __ATOMIC_ACQUIRE) <= i)
			sleep_ns(MSEC);
		ret = genuine_hello(&d->p, &hello, fds, &n);
		sock = ret ? ret : raw_socket(d->path, 0, false);
		if (sock >= 0)
			ret = raw_send(sock, &hello, sizeof(hello), fds, n);
		close_all(fds, n);
		__atomic_store_n(d->said,
				 sock < 0 ? sock :
				 ret	  ? ret :
					    i + 1,
				 __ATOMIC_RELEASE);
	}
	return 0;
}

/* One more hello of its has been said, and is the next to be accepted. */
static bool says_one(struct deaf *d, int nth)
{
	__atomic_store_n(d->go, nth + 1, __ATOMIC_RELEASE);
	return EVENTUALLY(__atomic_load_n(d->said, __ATOMIC_ACQUIRE) ==
			  nth + 1);
}

#define DEAF 9

TEST_F(listener, another_user_that_reads_no_welcome_keeps_nobody_out)
{
	struct deaf d = { .path = self->path, .p = self->p };
	struct evering *ev[DEAF], *none;
	struct rlimit limit, low;
	uint64_t refused = 0;
	struct wishes w;
	int i, error, fds;
	pid_t pid, other;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "a welcome of the device has no descriptors");
	if (geteuid())
		SKIP(return, "to be two users takes root");
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	d.go = shared_memory(4096);
	ASSERT_NE(NULL, d.go);
	d.said = d.go + 1;
	pid = spawn(deaf_main, &d);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(start_wishes(&w, self->path, &self->p, 2, &other));
	fds = count_fds();
	/* An eighth of it is 25 descriptors, and a welcome has three. */
	low = limit;
	low.rlim_cur = 200;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &low));
	for (i = 0; i < DEAF; i++) {
		ASSERT_TRUE(says_one(&d, i));
		ASSERT_EQ(0, evering_accept(self->l, NULL, PLENTY, &ev[i]));
	}
	/* Nor when its channels are closed, which are as long in its socket. */
	for (i = 0; i < DEAF; i++) {
		ASSERT_TRUE(says_one(&d, DEAF + i));
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &none));
		EXPECT_EQ(++refused, evering_listener_refused(self->l, &error));
		EXPECT_EQ(-ETOOMANYREFS, error);
		evering_close(ev[i]);
	}
	/* One of the same user that would read is told why. */
	EXPECT_EQ(-ETOOMANYREFS, grant(self->l, &w, 0, &none));
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	kill_and_reap(pid);
	EXPECT_EQ(0, grant(self->l, &w, 1, &ev[0]));
	evering_close(ev[0]);
	EXPECT_EQ(fds, count_fds());
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	kill_and_reap(other);
}

/**
 * struct exhausted - a server whose user has too much under way
 * @path: where it listens
 * @at: in shared memory: 1: it listens; 2: it is to be well again, 3: it is
 */
struct exhausted {
	const char *path;
	int *at;
};

static int exhausted_main(void *arg)
{
	struct exhausted *x = arg;
	int socks[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC), i;
	struct rlimit limit, low;
	struct evering_listener *l;
	struct evering *ev;

	if (become_nobody() || getrlimit(RLIMIT_NOFILE, &limit) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		return 1;
	for (i = 0; i < 66; i++)
		if (raw_send(socks[0], "x", 1, &null, 1))
			return 2;
	low = limit;
	low.rlim_cur = 64;
	if (setrlimit(RLIMIT_NOFILE, &low) || evering_listen(x->path, 0, &l))
		return 3;
	__atomic_store_n(x->at, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(x->at, __ATOMIC_ACQUIRE) != 2)
		if (!evering_accept(l, NULL, 10 * MSEC, &ev))
			return 4;
	close_all(socks, 2);
	setrlimit(RLIMIT_NOFILE, &limit);
	__atomic_store_n(x->at, 3, __ATOMIC_RELEASE);
	for (;;)
		if (!evering_accept(l, NULL, EVERING_WAIT_FOREVER, &ev))
			evering_close(ev);
}

TEST_F(listener, who_cannot_be_welcomed_is_told_why)
{
	char path[80];
	struct exhausted x = { .path = path };
	struct evering *ev;
	pid_t pid;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "a welcome of the device has no descriptors");
	if (geteuid())
		SKIP(return, "to be two users takes root");
	snprintf(path, sizeof(path), "%s-exhausted", self->path);
	x.at = shared_memory(4096);
	ASSERT_NE(NULL, x.at);
	pid = spawn(exhausted_main, &x);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(EVENTUALLY(__atomic_load_n(x.at, __ATOMIC_ACQUIRE) == 1));
	EXPECT_EQ(-ETOOMANYREFS,
		  evering_connect(path, &self->p, EVERING_WAIT_FOREVER, &ev));
	__atomic_store_n(x.at, 2, __ATOMIC_RELEASE);
	ASSERT_TRUE(EVENTUALLY(__atomic_load_n(x.at, __ATOMIC_ACQUIRE) == 3));
	EXPECT_EQ(0, evering_connect(path, &self->p, PLENTY, &ev));
	evering_close(ev);
	kill_and_reap(pid);
}

TEST_F(listener, no_more_than_a_little_is_this_sides_by_default)
{
	struct client c = { .path = self->path, .params = &self->p };
	struct evering *ev;

	self->p.arena_size[EVERING_PEERS] = 64 << 20;
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	while (!evering_listener_refused(self->l, NULL))
		EXPECT_EQ(-ETIMEDOUT,
			  evering_accept(self->l, NULL, 20 * MSEC, &ev));
	pthread_join(c.t, NULL);
	EXPECT_EQ(-E2BIG, c.ret);
	self->p.arena_size[EVERING_PEERS] = 1 << 20;
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	/* An arena of the client's may have no memory, which this side then gives it. */
	self->p.arena_size[EVERING_MINE] = 5 << 20;
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	while (evering_listener_refused(self->l, NULL) < 2)
		ASSERT_EQ(-ETIMEDOUT,
			  evering_accept(self->l, NULL, 20 * MSEC, &ev));
	pthread_join(c.t, NULL);
	EXPECT_EQ(-E2BIG, c.ret);
	self->p.arena_size[EVERING_MINE] = 4 << 20;
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

/* Its memory could be taken away, over and over, at this side's expense. */
TEST_F(listener, an_arena_that_both_write_is_nobodys_by_default)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct client c = { .path = self->path, .params = &self->p };
	struct evering_geometry g;
	struct evering *ev;

	self->p.flags = EVERING_SHARED_ARENA;
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	while (!evering_listener_refused(self->l, NULL))
		ASSERT_EQ(-ETIMEDOUT,
			  evering_accept(self->l, NULL, 20 * MSEC, &ev));
	pthread_join(c.t, NULL);
	EXPECT_EQ(-E2BIG, c.ret);
	/* A server that wants it says so. */
	limits.flags |= EVERING_SHARED_ARENA;
	ASSERT_EQ(0, pthread_create(&c.t, NULL, client_main, &c));
	ASSERT_EQ(0, evering_accept(self->l, &limits, PLENTY, &ev));
	pthread_join(c.t, NULL);
	ASSERT_EQ(0, c.ret);
	evering_get_geometry(ev, &g);
	EXPECT_EQ(EVERING_SHARED_ARENA, g.flags);
	evering_close(c.ev);
	evering_close(ev);
}

/* --------------------------------------------------------------- other versions */

TEST_F(listener, a_hello_of_another_version_is_told_so_whatever_its_length)
{
	char packet[300] = { 0 };
	struct hello *hello = (struct hello *)packet;
	uint64_t refused = 0;
	struct welcome welcome;
	struct evering *ev;
	size_t len;
	int sock, error, wanted;

	for (len = 1; len < sizeof(packet); len += len < 80 ? 1 : 37) {
		hello->magic = HELLO_MAGIC;
		hello->size = (uint32_t)len;
		hello->abi = EVERING_ABI_VERSION + 1 + (uint32_t)len % 2;
		wanted = len < 16 ? -EPROTO : -EPROTONOSUPPORT;
		sock = raw_socket(self->path, 0, false);
		ASSERT_LE(0, sock);
		ASSERT_EQ(0, raw_send(sock, packet, len, NULL, 0));
		EXPECT_EQ(-EAGAIN,
			  evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
		EXPECT_EQ(++refused, evering_listener_refused(self->l, &error));
		EXPECT_EQ(wanted, error)
		{
			TH_LOG("%zu bytes", len);
		}
		ASSERT_EQ(sizeof(welcome),
			  recv(sock, &welcome, sizeof(welcome), MSG_DONTWAIT));
		EXPECT_EQ(WELCOME_MAGIC, welcome.magic);
		EXPECT_EQ(wanted, welcome.error);
		EXPECT_EQ(EVERING_ABI_VERSION, welcome.abi_min);
		EXPECT_EQ(EVERING_ABI_VERSION, welcome.abi_max);
		close(sock);
	}
}

TEST_F(listener, a_welcome_of_another_version_is_understood_whatever_its_length)
{
	char packet[300] = { 0 };
	struct welcome *welcome = (struct welcome *)packet;
	struct evering *ev;
	int sv[2], ret;
	size_t len;

	for (len = 1; len < sizeof(packet); len += len < 60 ? 1 : 37) {
		welcome->magic = WELCOME_MAGIC;
		welcome->size = (uint32_t)len;
		welcome->error = -EPROTONOSUPPORT;
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
					0, sv));
		ASSERT_EQ(0, raw_send(sv[1], packet, len, NULL, 0));
		ret = evering_connect_fd(sv[0], &self->p, PLENTY, &ev);
		EXPECT_EQ(len < 16 ? -EPROTO : -EPROTONOSUPPORT, ret)
		{
			TH_LOG("%zu bytes", len);
		}
		close(sv[0]);
		close(sv[1]);
	}
}

TEST_HARNESS_MAIN
