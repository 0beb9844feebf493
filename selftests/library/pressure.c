// SPDX-License-Identifier: MIT
/*
 * pressure.c: what the machine does to processes that talk: signals in storms, stops,
 * freezers, clocks that are set, CPUs that go, and limits that are nearly reached.
 * Nothing that was sent is lost, timeouts are kept, and nobody is taken for dead who
 * is only not running.
 *
 * What changes the machine as a whole, its clock or its CPUs, is done in guests
 * alone (EVERING_GUEST).
 *
 * A stop, a thaw and whatever else makes the kernel look for signals ends an
 * epoll_wait(2) with EINTR, be there a handler or not.  That is how one sleeps on
 * memfd, so there -EINTR is an answer to them, too; on the device it is not.
 */
#include "op.h"

#include <dirent.h>
#include <grp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SALT 0x9e55u
#define LEN  60u

static bool in_guest(void)
{
	const char *s = getenv("EVERING_GUEST");

	return s && *s;
}

FIXTURE(pressure)
{
	struct evering_params p[2];
	bool memfd;
};

BACKEND_VARIANTS(pressure);

FIXTURE_SETUP(pressure)
{
	REQUIRE_BACKEND(variant->backend);
	self->p[0] = params_sized(variant->backend, 64, 16, 65536);
	self->p[0].arena_begin = EVERING_WHOLE;
	self->p[1] = self->p[0];
	self->memfd = variant->backend == EVERING_BACKEND_MEMFD;
}

FIXTURE_TEARDOWN(pressure)
{
}

/* How late a timeout may be noticed on a machine that others use as well. */
#define LATE slow(2 * SEC)

/*
 * The whole of a timeout, signals or not: goes on with what is left of it.  Returns
 * as evering_recv(), never -EINTR; counts these.
 */
static int recv_through(struct evering *ev, void *entry, size_t len,
			int64_t timeout_ns, unsigned int *interrupted)
{
	int64_t left, end = now_ns() + timeout_ns;
	int ret;

	for (;;) {
		left = end - now_ns();
		ret = evering_recv(ev, entry, len, left > 0 ? left : 0);
		if (ret != -EINTR)
			return ret == -EAGAIN ? -ETIMEDOUT : ret;
		++*interrupted;
	}
}

static int send_through(struct evering *ev, const void *entry, size_t len)
{
	int ret;

	do
		ret = evering_send(ev, entry, len, PLENTY);
	while (ret == -EINTR);
	return ret;
}

/* Sends back what comes; ends when nothing does any more. */
static int echo(struct evering *ev, void *arg)
{
	unsigned int *interrupted = arg, none = 0;
	unsigned char entry[LEN];
	int ret;

	for (;;) {
		ret = recv_through(ev, entry, LEN, 3 * PLENTY,
				   interrupted ? interrupted : &none);
		if (ret)
			return ret == -EPIPE ? 0 : 10;
		if (send_through(ev, entry, LEN))
			return 11;
	}
}

/*
 * Sends @count entries, from *@n on, a few ahead of their echoes, and checks these.
 * 0, or the line of what went wrong.
 */
static int talk(struct evering *ev, uint32_t *n, uint32_t count)
{
	uint32_t sent = *n, got = sent, end = sent + count;
	unsigned int interrupted = 0;
	unsigned char entry[LEN];
	int ret;

	while (got != end) {
		while (sent != end && sent - got < 8) {
			fill_entry(entry, LEN, sent, SALT);
			ret = send_through(ev, entry, LEN);
			if (ret)
				return __LINE__;
			sent++;
		}
		ret = recv_through(ev, entry, LEN, PLENTY, &interrupted);
		if (ret || !check_entry(entry, LEN, got, SALT)) {
			printf("# %d at entry %u\n", ret, got);
			return __LINE__;
		}
		got++;
	}
	*n = end;
	return 0;
}

/* --------------------------------------------------------------------- signals */

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

/* @every_us: 0: no more. */
static int storm(int flags, long every_us)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = flags };
	struct itimerval timer = { { 0, every_us }, { 0, every_us } };

	if (every_us && sigaction(SIGALRM, &action, NULL))
		return -errno;
	return setitimer(ITIMER_REAL, &timer, NULL) ? -errno : 0;
}

static long storm_us(void)
{
	/* An emulated CPU would do nothing else. */
	return in_guest() ? 5000 : SANITIZED ? 1000 : 250;
}

struct stormy {
	int flags;
	unsigned int interrupted;
};

static int stormy_echo(struct evering *ev, void *arg)
{
	struct stormy *s = arg;

	if (storm(s->flags, storm_us()))
		return 12;
	return echo(ev, &s->interrupted);
}

/* 0, or the line of what went wrong. */
static int weather(struct evering *ev, unsigned int policy, uint32_t *n)
{
	uint32_t count = short_run() ? 300 : 4000;
	int64_t start, took, timeout = 50 * MSEC;
	unsigned int interrupted = 0, all = 0;
	struct evering *pair[2];
	unsigned char entry[LEN];
	struct evering_params p;
	int ret, i;

	if (evering_set_policy(ev, policy, EVERING_SPIN_NS))
		return __LINE__;
	ret = talk(ev, n, count);
	if (ret)
		return ret;
	for (i = 0; i < 3; i++) {
		interrupted = 0;
		start = now_ns();
		ret = recv_through(ev, entry, LEN, timeout, &interrupted);
		took = now_ns() - start;
		if (ret != -ETIMEDOUT || took < timeout ||
		    took > timeout + LATE)
			return __LINE__;
		all += interrupted;
	}
	/* Who only spins does not notice; a sleep hears of each. */
	if (policy == EVERING_BUSY ? all : !all)
		return __LINE__;
	/* A full ring, which is another sleep. */
	p = params_sized(EVERING_BACKEND_AUTO, 64, 4, 0);
	p.backend = strcmp(evering_backend_name(ev), "memfd") ?
			    EVERING_BACKEND_DEVICE :
			    EVERING_BACKEND_MEMFD;
	p.policy = policy;
	if (evering_pair(&p, pair))
		return __LINE__;
	for (i = 0; i < 4; i++)
		if (evering_send(pair[0], entry, LEN, 0))
			return __LINE__;
	start = now_ns();
	do {
		took = timeout - (now_ns() - start);
		ret = evering_send(pair[0], entry, LEN, took > 0 ? took : 0);
	} while (ret == -EINTR);
	took = now_ns() - start;
	close_pair(pair);
	if ((ret != -ETIMEDOUT && ret != -EAGAIN) || took < timeout ||
	    took > timeout + LATE)
		return __LINE__;
	return 0;
}

TEST_F(pressure, a_storm_of_signals_loses_nothing)
{
	static const int flags[] = { 0, SA_RESTART };
	unsigned int policy, i;
	struct stormy s;
	struct duo duo;
	uint32_t n = 0;

	for (i = 0; i < 2; i++) {
		s = (struct stormy){ .flags = flags[i] };
		n = 0;
		ASSERT_EQ(0, duo_start(&duo, i, self->p, stormy_echo, &s));
		alarms = 0;
		ASSERT_EQ(0, storm(flags[i], storm_us()));
		for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY;
		     policy++)
			EXPECT_EQ(0, weather(duo.ev, policy, &n))
			{
				TH_LOG("policy %u, flags %x", policy, flags[i]);
			}
		storm(0, 0);
		EXPECT_LT(10, alarms);
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(duo.ev));
		evering_close(duo.ev);
		EXPECT_EQ(0, reap(duo.pid));
	}
}

/* An operation's wait, too; and what is under way goes on. */
TEST_F(pressure, a_storm_of_signals_loses_no_operation)
{
	unsigned int i, many = short_run() ? 200 : 3000;
	struct evering_completion c;
	static struct side s[2];
	struct evering *ev[2];
	struct evering_op op;
	uint64_t id;
	int ret;

	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	ASSERT_EQ(0, sides_open(s, ev, 4, 4));
	ASSERT_EQ(0, storm(SA_RESTART, storm_us()));
	for (i = 0; i < many; i++) {
		op = asks(i, &i, 4, NULL);
		do
			ret = evering_op_submit(s[0].ops, &op, &id, PLENTY);
		while (ret == -EINTR);
		ASSERT_EQ(0, ret);
		s[1].n_got = 0;
		while (!s[1].n_got) {
			ret = evering_ops_wait(s[1].ops, PLENTY);
			ASSERT_TRUE(ret > 0 || ret == -EINTR);
		}
		if (i % 16 == 0) {
			ret = evering_op_wait(s[0].ops, id, &c, slow(MSEC));
			ASSERT_TRUE(ret == -EINTR || ret == -ETIMEDOUT);
		}
		ASSERT_EQ(0, evering_op_answer(s[1].ops, s[1].got[0].id,
					       (int32_t)i, NULL, 0));
		do
			ret = evering_op_wait(s[0].ops, id, &c, PLENTY);
		while (ret == -EINTR);
		ASSERT_EQ(0, ret);
		ASSERT_EQ((int32_t)i, c.result);
	}
	storm(0, 0);
	close_pair(ev);
}

/* ----------------------------------------------------------------------- stops */

/* Stops and continues @pid now and then until it is told to end. */
struct stopper {
	pid_t pid;
	uint64_t seed;
	bool end;
	unsigned int stops;
};

static void *stop_and_go(void *arg)
{
	struct stopper *s = arg;

	while (!__atomic_load_n(&s->end, __ATOMIC_RELAXED)) {
		sleep_ns((int64_t)random_below(&s->seed, 2 * MSEC));
		kill(s->pid, SIGSTOP);
		sleep_ns((int64_t)random_below(&s->seed, 10 * MSEC));
		kill(s->pid, SIGCONT);
		__atomic_fetch_add(&s->stops, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST_F(pressure, a_peer_that_is_stopped_loses_nothing_and_is_alive)
{
	int64_t end, start, took, timeout = 3 * MSEC;
	unsigned int timeouts = 0, interrupted = 0;
	uint32_t sent = 0, got = 0;
	unsigned char entry[LEN];
	struct stopper s = { 0 };
	bool more = true;
	struct duo duo;
	pthread_t t;
	int ret;

	s.seed = random_seed();
	ASSERT_EQ(0, duo_start(&duo, 0, self->p, echo, NULL));
	s.pid = duo.pid;
	ASSERT_EQ(0, pthread_create(&t, NULL, stop_and_go, &s));
	end = now_ns() + (short_run() ? SEC / 2 : SEC);
	while (more || got != sent) {
		more = now_ns() < end ||
		       __atomic_load_n(&s.stops, __ATOMIC_RELAXED) <= 2;
		fill_entry(entry, LEN, sent, SALT);
		if (more && !evering_send(duo.ev, entry, LEN, EVERING_NOWAIT))
			sent++;
		start = now_ns();
		ret = evering_recv(duo.ev, entry, LEN, timeout);
		took = now_ns() - start;
		if (!ret) {
			ASSERT_TRUE(check_entry(entry, LEN, got, SALT));
			got++;
		} else {
			ASSERT_EQ(-ETIMEDOUT, ret);
			ASSERT_LE(timeout, took);
			timeouts++;
		}
		ASSERT_GT(timeout + LATE, took);
		ASSERT_EQ(EVERING_PEER_ALIVE, evering_peer(duo.ev));
		ASSERT_GT(end + PLENTY, now_ns());
	}
	__atomic_store_n(&s.end, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	EXPECT_LT(0, got);
	EXPECT_LT(2, s.stops);
	printf("# %u stops, %u messages, %u timeouts\n", s.stops, got,
	       timeouts);
	EXPECT_EQ(-ETIMEDOUT,
		  recv_through(duo.ev, entry, LEN, MSEC, &interrupted));
	evering_close(duo.ev);
	EXPECT_EQ(0, reap(duo.pid));
}

/*
 * Asleep when it is stopped: without a handler that is no reason for -EINTR, where
 * the kernel can tell.
 */
struct sleeper {
	unsigned int *interrupted;
	int64_t timeout;
	bool polls;
	bool memfd;
};

/* One message, within PLENTY; another, that wakes it; and a timeout that is kept. */
static int sleeps_once(struct evering *ev, void *arg)
{
	struct sleeper *s = arg;
	struct pollfd pfd = { .events = evering_events(ev, EVERING_RX) };
	struct timespec ts = { PLENTY / SEC, 0 };
	unsigned int interrupted = 0;
	int64_t start, took;
	uint32_t v = 0;
	int ret;

	if (s->polls) {
		pfd.fd = evering_fd(ev);
		if (evering_arm(ev, EVERING_RX))
			return 20;
		if (ppoll(&pfd, 1, &ts, NULL) != 1)
			return 21;
	}
	ret = recv_through(ev, &v, 4, PLENTY, &interrupted);
	if (ret || v != 42)
		return 22;
	v = 43;
	if (evering_send(ev, &v, 4, 0))
		return 23;
	/* Longer than the other side has patience with who is not woken. */
	ret = recv_through(ev, &v, 4, 3 * PLENTY, &interrupted);
	if (ret || v != 46)
		return 27;
	v = 47;
	if (evering_send(ev, &v, 4, 0))
		return 28;
	start = now_ns();
	ret = recv_through(ev, &v, 4, s->timeout, &interrupted);
	took = now_ns() - start;
	if (ret != -ETIMEDOUT || took < s->timeout)
		return 24;
	v = took > s->timeout + LATE ? 45 : 44;
	if (evering_send(ev, &v, 4, 0))
		return 25;
	/* Handlers ran none: the device has restarted its wait. */
	return interrupted && !s->memfd ? 26 : 0;
}

/* Has the stop taken nothing along that the next ring needs? */
static bool wakes(struct evering *ev)
{
	uint32_t v = 46;

	return peer_is_armed(ev, EVERING_RX) && !evering_send(ev, &v, 4, 0) &&
	       !evering_recv(ev, &v, 4, PLENTY) && v == 47;
}

static bool stopped(pid_t pid)
{
	siginfo_t info = { 0 };

	return !waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT | WNOHANG) &&
	       info.si_pid == pid;
}

static bool await(bool (*what)(pid_t), pid_t pid)
{
	int64_t end = now_ns() + PLENTY;

	while (!what(pid)) {
		if (now_ns() > end)
			return false;
		sleep_ns(100 * USEC);
	}
	return true;
}

TEST_F(pressure, a_sleeper_that_is_stopped_sleeps_on)
{
	struct sleeper s = { .timeout = 200 * MSEC, .memfd = self->memfd };
	struct duo duo;
	uint32_t v;
	int polls;

	for (polls = 0; polls < 2; polls++) {
		s.polls = polls;
		ASSERT_EQ(0, duo_start(&duo, polls, self->p, sleeps_once, &s));
		ASSERT_TRUE(peer_is_armed(duo.ev, EVERING_RX));
		sleep_ns(slow(MSEC));
		kill(duo.pid, SIGSTOP);
		ASSERT_TRUE(await(stopped, duo.pid));
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(duo.ev));
		v = 42;
		EXPECT_EQ(0, evering_send(duo.ev, &v, 4, 0));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_recv(duo.ev, &v, 4, slow(2 * MSEC)));
		kill(duo.pid, SIGCONT);
		EXPECT_EQ(0, evering_recv(duo.ev, &v, 4, PLENTY));
		EXPECT_EQ(43, v);
		EXPECT_TRUE(wakes(duo.ev));
		/* Now it sleeps with a timeout, which runs out meanwhile. */
		ASSERT_TRUE(peer_is_armed(duo.ev, EVERING_RX));
		kill(duo.pid, SIGSTOP);
		ASSERT_TRUE(await(stopped, duo.pid));
		sleep_ns(2 * s.timeout);
		kill(duo.pid, SIGCONT);
		EXPECT_EQ(0, evering_recv(duo.ev, &v, 4, PLENTY));
		EXPECT_EQ(44, v);
		evering_close(duo.ev);
		EXPECT_EQ(0, reap(duo.pid));
	}
}

/* --------------------------------------------------------------------- freezer */

#define CGROUP "/sys/fs/cgroup/evering-pressure"

/* The number behind @key in a file of the group; behind nothing if @key is "". */
static long long cgroup_read(const char *file, const char *key)
{
	char path[128], line[128];
	long long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), CGROUP "/%s", file);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			n = atoll(line + strlen(key));
	fclose(f);
	return n;
}

static bool frozen(pid_t pid)
{
	(void)pid;
	return cgroup_read("cgroup.events", "frozen ") == 1;
}

static bool cgroup_gone(pid_t pid)
{
	(void)pid;
	return !rmdir(CGROUP) || errno == ENOENT;
}

static const char *cgroup_make(void)
{
	if (!in_guest())
		return "only in a guest: EVERING_GUEST";
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		return "no cgroup2 at /sys/fs/cgroup that can be written";
	return NULL;
}

TEST_F(pressure, a_sleeper_that_is_frozen_sleeps_on)
{
	struct sleeper s = { .timeout = 200 * MSEC, .memfd = self->memfd };
	const char *why = cgroup_make();
	struct duo duo;
	char text[32];
	uint32_t v;
	int polls;

	if (why)
		SKIP(return, "%s", why);
	if (write_text(CGROUP "/cgroup.freeze", "0")) {
		await(cgroup_gone, 0);
		SKIP(return, "this cgroup does not freeze");
	}
	for (polls = 0; polls < 2; polls++) {
		s.polls = polls;
		ASSERT_EQ(0, duo_start(&duo, polls, self->p, sleeps_once, &s));
		snprintf(text, sizeof(text), "%d", duo.pid);
		ASSERT_EQ(0, write_text(CGROUP "/cgroup.procs", text));
		ASSERT_TRUE(peer_is_armed(duo.ev, EVERING_RX));
		ASSERT_EQ(0, write_text(CGROUP "/cgroup.freeze", "1"));
		ASSERT_TRUE(await(frozen, 0));
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(duo.ev));
		v = 42;
		EXPECT_EQ(0, evering_send(duo.ev, &v, 4, 0));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_recv(duo.ev, &v, 4, slow(2 * MSEC)));
		ASSERT_EQ(0, write_text(CGROUP "/cgroup.freeze", "0"));
		EXPECT_EQ(0, evering_recv(duo.ev, &v, 4, PLENTY));
		EXPECT_EQ(43, v);
		EXPECT_TRUE(wakes(duo.ev));
		ASSERT_TRUE(peer_is_armed(duo.ev, EVERING_RX));
		ASSERT_EQ(0, write_text(CGROUP "/cgroup.freeze", "1"));
		ASSERT_TRUE(await(frozen, 0));
		sleep_ns(2 * s.timeout);
		ASSERT_EQ(0, write_text(CGROUP "/cgroup.freeze", "0"));
		EXPECT_EQ(0, evering_recv(duo.ev, &v, 4, PLENTY));
		EXPECT_EQ(44, v);
		evering_close(duo.ev);
		EXPECT_EQ(0, reap(duo.pid));
	}
	EXPECT_TRUE(await(cgroup_gone, 0));
}

/* ---------------------------------------------------------------------- memory */

static int stay(void *arg)
{
	if (write_text(CGROUP "/cgroup.procs", "0"))
		return 50;
	__atomic_store_n((bool *)arg, true, __ATOMIC_RELEASE);
	await_death();
}

struct edge {
	struct evering_params p;
	bool *ready;
};

/*
 * In a group that may have 16 MiB: channels of all sizes up to there, or beyond it if
 * the backend asks before it takes.
 */
static int lives_at_the_edge(void *arg)
{
	struct edge *e = arg;
	uint64_t size, most = e->p.backend == EVERING_BACKEND_DEVICE ? 20 : 6;
	struct evering *ev[2];
	long long before;
	int ret, failed = 0;
	int64_t end;

	if (write_text(CGROUP "/cgroup.procs", "0"))
		return 50;
	e->p.arena_size[1] = PAGE;
	if (evering_pair(&e->p, ev))
		return 1;
	close_pair(ev);
	before = cgroup_read("memory.current", "");
	for (size = 1; size <= 2 * most; size += short_run() ? 4 : 1) {
		e->p.arena_size[0] = size << 19;
		ret = evering_pair(&e->p, ev);
		if (ret && ret != -ENOMEM)
			return 2;
		failed += !!ret;
		if (ret)
			continue;
		memset(evering_arena(ev[0], NULL), 1, size << 19);
		close_pair(ev);
	}
	if (e->p.backend == EVERING_BACKEND_DEVICE && !failed)
		return 3;
	end = now_ns() + PLENTY;
	/* A little is kept for the next charge. */
	while (cgroup_read("memory.current", "") > before + (2 << 20)) {
		if (now_ns() > end)
			return 4;
		sleep_ns(MSEC);
	}
	return 0;
}

TEST_F(pressure, at_the_edge_of_a_memory_cgroup_nobody_is_killed)
{
	struct edge e = { .p = self->p[0] };
	const char *why = cgroup_make();
	pid_t bystander;
	bool *ready;
	int ret;

	if (why)
		SKIP(return, "%s", why);
	if (write_text(CGROUP "/memory.max", "16777216")) {
		await(cgroup_gone, 0);
		SKIP(return, "no memory controller for cgroups");
	}
	ready = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)ready);
	bystander = spawn(stay, ready);
	ret = reap(spawn(lives_at_the_edge, &e));
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(__atomic_load_n(ready, __ATOMIC_ACQUIRE));
	EXPECT_EQ(0, waitpid(bystander, NULL, WNOHANG));
	EXPECT_EQ(0, cgroup_read("memory.events", "oom_kill "));
	kill_and_reap(bystander);
	munmap(ready, 4096);
	EXPECT_TRUE(await(cgroup_gone, 0));
}

/* ---------------------------------------------------------------- clocks, CPUs */

struct setter {
	bool end;
	unsigned int steps;
};

/* The time of day, three hours forth and three hours back. */
static void *set_the_clock(void *arg)
{
	struct setter *s = arg;
	struct timespec now;

	while (!__atomic_load_n(&s->end, __ATOMIC_RELAXED)) {
		clock_gettime(CLOCK_REALTIME, &now);
		now.tv_sec += s->steps % 2 ? -3 * 3600 : 3 * 3600;
		if (clock_settime(CLOCK_REALTIME, &now))
			break;
		s->steps++;
		sleep_ns(5 * MSEC);
	}
	if (s->steps % 2) {
		clock_gettime(CLOCK_REALTIME, &now);
		now.tv_sec -= 3 * 3600;
		clock_settime(CLOCK_REALTIME, &now);
	}
	return NULL;
}

#define EXPECT_KEPT(expected, call) \
	do { \
		int64_t start_ = now_ns(), took_; \
 \
		EXPECT_EQ(expected, call); \
		took_ = now_ns() - start_; \
		EXPECT_LE(timeout, took_); \
		EXPECT_GT(timeout + LATE, took_); \
	} while (0)

TEST_F(pressure, a_clock_that_is_set_moves_no_timeout)
{
	struct evering_listener *l;
	int64_t timeout = 50 * MSEC;
	struct setter s = { 0 };
	static struct side side[2];
	struct evering *ev[2], *none;
	char path[64];
	uint32_t v = 0;
	pthread_t t;
	int i;

	if (!in_guest())
		SKIP(return, "only in a guest: EVERING_GUEST");
	snprintf(path, sizeof(path), "@evering-pressure-%d", getpid());
	ASSERT_EQ(0, evering_listen(path, 0, &l));
	self->p[0].entries = 4;
	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	ASSERT_EQ(0, pthread_create(&t, NULL, set_the_clock, &s));
	for (i = 0; i < 3; i++) {
		evering_set_policy(ev[0], (unsigned int)i, EVERING_SPIN_NS);
		EXPECT_KEPT(-ETIMEDOUT, evering_recv(ev[0], &v, 4, timeout));
		while (!evering_send(ev[0], &v, 4, 0))
			;
		EXPECT_KEPT(-ETIMEDOUT, evering_send(ev[0], &v, 4, timeout));
		while (!evering_recv(ev[1], &v, 4, 0))
			;
		EXPECT_KEPT(-ETIMEDOUT,
			    evering_accept(l, NULL, timeout, &none));
		EXPECT_KEPT(-ETIMEDOUT,
			    evering_connect(path, &self->p[1], timeout, &none));
	}
	evering_set_policy(ev[0], EVERING_BLOCK, 0);
	ASSERT_EQ(0, sides_open(side, ev, 1, 1));
	EXPECT_KEPT(-ETIMEDOUT, evering_ops_wait(side[0].ops, timeout));
	__atomic_store_n(&s.end, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	EXPECT_LT(4, s.steps);
	close_pair(ev);
	evering_listener_close(l);
}

#define CPU1 "/sys/devices/system/cpu/cpu1/online"

static int set_cpu(bool online)
{
	int fd = open(CPU1, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, online ? "1" : "0", 1) == 1 ? 0 : -errno;
	close(fd);
	return ret;
}

struct plugger {
	int times;
	int failed;
	bool over;
};

static void *unplug_and_plug(void *arg)
{
	struct plugger *p = arg;
	int i;

	for (i = 0; i < p->times && !p->failed; i++) {
		p->failed = set_cpu(false);
		sleep_ns(20 * MSEC);
		if (!p->failed)
			p->failed = set_cpu(true);
		sleep_ns(20 * MSEC);
	}
	__atomic_store_n(&p->over, true, __ATOMIC_RELEASE);
	return NULL;
}

TEST_F(pressure, a_cpu_that_goes_and_comes_loses_nothing)
{
	struct plugger plugger = { .times = 30 };
	struct duo duo;
	uint32_t n = 0;
	pthread_t t;

	if (!in_guest())
		SKIP(return, "only in a guest: EVERING_GUEST");
	if (access(CPU1, W_OK))
		SKIP(return, "no second CPU that can be unplugged");
	self->p[0].policy = EVERING_ADAPTIVE;
	self->p[1].policy = EVERING_ADAPTIVE;
	ASSERT_EQ(0, duo_start(&duo, 1, self->p, echo, NULL));
	ASSERT_EQ(0, pthread_create(&t, NULL, unplug_and_plug, &plugger));
	while (!__atomic_load_n(&plugger.over, __ATOMIC_ACQUIRE))
		ASSERT_EQ(0, talk(duo.ev, &n, 16));
	pthread_join(t, NULL);
	EXPECT_EQ(0, plugger.failed);
	printf("# %u messages\n", n);
	evering_close(duo.ev);
	EXPECT_EQ(0, reap(duo.pid));
}

/* -------------------------------------------------------------------- multitude */

#define MULTITUDE 1000

static int open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

struct crowd {
	const char *path;
	struct evering_params p;
	int count;
};

/* Connects them all, sends on each, answers on each; then waits to be killed. */
static int crowds(void *arg)
{
	static struct evering *ev[MULTITUDE];
	struct crowd *c = arg;
	uint32_t v;
	int i;

	for (i = 0; i < c->count; i++) {
		while (evering_connect(c->path, &c->p, PLENTY, &ev[i]) ==
		       -ECONNREFUSED)
			sleep_ns(MSEC);
		v = (uint32_t)i;
		if (!ev[i] || evering_send(ev[i], &v, 4, 0))
			return 30;
	}
	for (i = 0; i < c->count; i++)
		if (evering_recv(ev[i], &v, 4, 3 * PLENTY) ||
		    v != (uint32_t)i || evering_send(ev[i], &v, 4, 0))
			return 31;
	await_death();
}

TEST_F_TIMEOUT(pressure, a_thousand_channels_at_once, 600)
{
	struct epoll_event event, events[64];
	static struct evering *ev[MULTITUDE];
	static bool heard[MULTITUDE];
	int fds, files, i, k, n, left, set, ret = 0;
	struct evering_listener *l;
	/* An emulated CPU takes its time to make one. */
	struct crowd c = { .count = in_guest() && short_run() ? 250 :
								MULTITUDE };
	struct rlimit rl, old;
	char path[64];
	int64_t end;
	uint32_t v;
	pid_t pid;

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &old));
	rl = old;
	rl.rlim_cur = rl.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &rl));
	/* A connection, four bells, two sets and one of the own for each. */
	if (rl.rlim_cur < (MULTITUDE + 8) * 8)
		c.count = (int)rl.rlim_cur / 8 - 8;
	if (c.count < 10)
		SKIP(return, "RLIMIT_NOFILE is %lld", (long long)rl.rlim_cur);
	snprintf(path, sizeof(path), "@evering-crowd-%d", getpid());
	c.path = path;
	c.p = params_sized(variant->backend, 64, 4, 4096);
	files = open_files();
	fds = count_fds();

	set = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_LE(0, set);
	pid = spawn(crowds, &c);
	ASSERT_EQ(0, evering_listen(path, 0, &l));
	for (i = 0; i < c.count; i++) {
		ret = evering_accept(l, NULL, PLENTY, &ev[i]);
		ASSERT_EQ(0, ret)
		{
			TH_LOG("channel %d", i);
		}
		ASSERT_EQ(0, evering_set_policy(ev[i], EVERING_BLOCK, 0));
		event.events = (uint32_t)evering_events(ev[i], EVERING_RX);
		event.data.u32 = (uint32_t)i;
		ASSERT_LE(0, evering_fd(ev[i]));
		ASSERT_EQ(0, epoll_ctl(set, EPOLL_CTL_ADD, evering_fd(ev[i]),
				       &event));
	}
	evering_listener_close(l);
	for (i = 0; i < c.count; i++) {
		ASSERT_EQ(0, evering_recv(ev[i], &v, 4, PLENTY));
		ASSERT_EQ((uint32_t)i, v);
		ASSERT_EQ(0, evering_arm(ev[i], EVERING_RX));
	}
	for (i = 0; i < c.count; i++) {
		v = (uint32_t)i;
		ASSERT_EQ(0, evering_send(ev[i], &v, 4, 0));
	}
	/* Answers, and then, of one kill, all the ends. */
	for (k = 0; k < 2; k++) {
		memset(heard, 0, sizeof(heard));
		end = now_ns() + 3 * PLENTY;
		if (k)
			kill(pid, SIGKILL);
		for (left = c.count; left && now_ns() < end;) {
			n = epoll_wait(set, events, 64, 100);
			while (n-- > 0) {
				i = (int)events[n].data.u32;
				ret = evering_recv(ev[i], &v, 4,
						   EVERING_NOWAIT);
				ASSERT_TRUE(ret == -EAGAIN ||
					    (k ? ret == -EPIPE :
						 !ret && v == (uint32_t)i));
				/* Says which it is, if it is not sure. */
				if (ret != -EPIPE)
					ret = evering_arm(ev[i], EVERING_RX);
				if (heard[i] || (k && ret != -EPIPE))
					continue;
				if (k)
					ASSERT_EQ(0,
						  epoll_ctl(set, EPOLL_CTL_DEL,
							    evering_fd(ev[i]),
							    NULL));
				heard[i] = true;
				left--;
			}
		}
		ASSERT_EQ(0, left);
	}
	EXPECT_EQ(128 + SIGKILL, reap(pid));
	for (i = 0; i < c.count; i++) {
		EXPECT_EQ(EVERING_PEER_DIED, evering_peer(ev[i]));
		evering_close(ev[i]);
	}
	close(set);
	EXPECT_EQ(fds, count_fds());
	EXPECT_EQ(files, open_files());
	setrlimit(RLIMIT_NOFILE, &old);
	if (c.count < MULTITUDE && !in_guest())
		SKIP(return, "only %d, RLIMIT_NOFILE being %lld", c.count,
			   (long long)rl.rlim_cur);
}

/* ---------------------------------------------------------------------- limits */

static int under_limit(int resource, rlim_t value,
		       const struct evering_params *p)
{
	struct rlimit rl, old;
	struct evering *ev[2];
	uint32_t v = 1;
	int ret;

	if (getrlimit(resource, &old))
		return -errno;
	rl = old;
	rl.rlim_cur = value;
	if (setrlimit(resource, &rl))
		return -errno;
	ret = evering_pair(p, ev);
	if (!ret) {
		if (evering_send(ev[0], &v, 4, 0) ||
		    evering_recv(ev[1], &v, 4, 0))
			ret = -EIO;
		close_pair(ev);
	}
	setrlimit(resource, &old);
	return ret;
}

/* SIGXFSZ would end this process. */
TEST_F(pressure, at_the_edge_of_the_file_size_limit)
{
	const struct evering_params *p = &self->p[0];
	int refused = self->memfd ? -EFBIG : 0;
	int fds = count_fds();
	rlim_t size;

	/* The half, and the arena behind it. */
	EXPECT_EQ(0, under_limit(RLIMIT_FSIZE, PAGE + 65536, p));
	EXPECT_EQ(refused, under_limit(RLIMIT_FSIZE, PAGE + 65535, p));
	for (size = 0; size <= PAGE; size += 1024)
		EXPECT_EQ(refused, under_limit(RLIMIT_FSIZE, size, p))
		{
			TH_LOG("%d bytes", (int)size);
		}
	self->p[0].arena_size[0] = self->p[0].arena_size[1] = 0;
	EXPECT_EQ(0, under_limit(RLIMIT_FSIZE, PAGE, p));
	EXPECT_EQ(refused, under_limit(RLIMIT_FSIZE, PAGE - 1, p));
	EXPECT_EQ(fds, count_fds());
}

/* As a user who may not lock more than that, and has locked all that comes. */
static int locks_memory(void *arg)
{
	const struct evering_params *p = arg;
	int fds, mappings, ret, failed = 0;
	unsigned int i;
	struct evering_params q = *p;
	struct evering *ev[2];
	struct rlimit rl;
	uint64_t size;

	if (getrlimit(RLIMIT_MEMLOCK, &rl))
		return 77;
	if (rl.rlim_max > 32 << 20)
		rl.rlim_max = 32 << 20;
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_MEMLOCK, &rl))
		return 77;
	if (!getuid() &&
	    (setgroups(0, NULL) || setresgid(61003, 61003, 61003) ||
	     setresuid(61003, 61003, 61003)))
		return 77;
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		return 77;
	/* The first channel of a process divides a mapping. */
	q.arena_size[0] = 0;
	if (evering_pair(&q, ev))
		return 43;
	close_pair(ev);
	fds = count_fds();
	mappings = count_mappings();
	/* In steps so small that each mapping is, once, the one too many. */
	for (i = 1; i <= 32; i++) {
		size = rl.rlim_cur / 32 * i & ~0xffffull;
		if (!size)
			continue;
		q.arena_size[0] = size;
		ret = evering_pair(&q, ev);
		if (!ret) {
			close_pair(ev);
		} else {
			failed++;
			/* Words of its own; and -EAGAIN means something else. */
			if (ret != -ENOMEM) {
				printf("# %d at %d KiB\n", ret,
				       (int)(size / 1024));
				fflush(stdout);
				return 40;
			}
		}
		if (count_fds() != fds || count_mappings() != mappings)
			return 41;
	}
	return failed ? 0 : 42;
}

TEST_F(pressure, at_the_edge_of_the_memory_lock_limit)
{
	int ret;

	if (SANITIZED)
		SKIP(return, "a sanitizer's memory is too much to lock");
	ret = reap(spawn(locks_memory, &self->p[0]));
	if (ret == 77)
		SKIP(return, "cannot lock memory as another user");
	EXPECT_EQ(0, ret);
}

TEST_F(pressure, a_table_at_the_edge_of_the_address_space)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	int fds = count_fds(), mappings, ret = -1, failed = 0;
	struct evering_ops *ops;
	struct rlimit rl, old;
	struct evering *ev[2];
	uint32_t v;
	long vm, kb;

	if (SANITIZED)
		SKIP(return, "a sanitizer needs all of the address space");
	vm = status_kb("VmSize:");
	if (vm < 0)
		SKIP(return, "no /proc");
	self->p[0].entries = 4096;
	self->p[0].arena_size[1] = 4 << 20;
	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &old));
	rl = old;
	mappings = count_mappings();
	vm = status_kb("VmSize:");
	for (kb = 0; kb <= 4096 && ret; kb += 64) {
		rl.rlim_cur = (rlim_t)(vm + kb) * 1024;
		ASSERT_EQ(0, setrlimit(RLIMIT_AS, &rl));
		ret = evering_ops_open(ev[0], &params, &ops);
		setrlimit(RLIMIT_AS, &old);
		if (!ret)
			break;
		failed++;
		ASSERT_EQ(-ENOMEM, ret);
		ASSERT_EQ(mappings, count_mappings());
		/* The channel is as it was. */
		v = (uint32_t)failed;
		ASSERT_EQ(0, evering_send(ev[0], &v, 4, 0));
		v = 0;
		ASSERT_EQ(0, evering_recv(ev[1], &v, 4, 0));
		ASSERT_EQ((uint32_t)failed, v);
	}
	EXPECT_EQ(0, ret);
	EXPECT_LT(0, failed);
	close_pair(ev);
	EXPECT_EQ(fds, count_fds());
}

/* Who accepts has the limit, and the one that connects is told. */
static int accepts_in_vain(void *arg)
{
	const int *fd = arg;
	struct rlimit rl = { 16384, 16384 };
	struct evering *ev;
	int ret;

	if (setrlimit(RLIMIT_FSIZE, &rl))
		return 1;
	ret = evering_accept_fd(*fd, NULL, PLENTY, &ev);
	return ret == -EFBIG ? 42 : ret ? 2 : 0;
}

TEST_F(pressure, the_other_sides_file_size_limit)
{
	struct evering *ev;
	int sv[2], ret;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	pid = spawn(accepts_in_vain, &sv[1]);
	ret = evering_connect_fd(sv[0], &self->p[0], PLENTY, &ev);
	EXPECT_EQ(self->memfd ? -EFBIG : 0, ret);
	EXPECT_EQ(self->memfd ? 42 : 0, reap(pid));
	if (!ret)
		evering_close(ev);
	else
		close(sv[0]);
	close(sv[1]);
}

TEST_HARNESS_MAIN
