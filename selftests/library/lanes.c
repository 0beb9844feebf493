// SPDX-License-Identifier: MIT
/*
 * lanes.c: several channels that are made in one meeting, for a client's threads: how many
 * there are, that each is a channel of its own, in life and in death, and that what goes
 * wrong in between, by accident or on purpose, leaves nothing behind and delays nobody.
 */
#include <netinet/in.h>
#include <sys/eventfd.h>

#include "step.h"
#include "stranger.h"

#include <sys/wait.h>

#define LANES 8

/**
 * FIXTURE lanes
 * @c, @s: the client's lanes and the server's; NULL: none
 */
FIXTURE(lanes)
{
	struct evering_params p;
	struct evering_listener *l;
	char path[64];
	struct evering *c[EVERING_MAX_LANES];
	struct evering *s[EVERING_MAX_LANES];
	int fds;
};

BACKEND_VARIANTS(lanes);

FIXTURE_SETUP(lanes)
{
	struct evering *ev[2];

	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 65536);
	memset(self->c, 0, sizeof(self->c));
	memset(self->s, 0, sizeof(self->s));
	snprintf(self->path, sizeof(self->path), "@evering-lanes-%d", getpid());
	/* What is asked for once. */
	ASSERT_EQ(0, evering_pair(&self->p, ev));
	close_pair(ev);
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->l));
	self->fds = count_fds();
}

static void close_lanes(struct evering **ev)
{
	int i;

	for (i = 0; i < (int)EVERING_MAX_LANES; i++) {
		evering_close(ev[i]);
		ev[i] = NULL;
	}
}

/* Shared ones alone: threads leave their stacks behind. */
static int shared_mappings(void)
{
	return list_mappings(NULL, 0, true);
}

FIXTURE_TEARDOWN(lanes)
{
	close_lanes(self->c);
	close_lanes(self->s);
	EXPECT_EQ(self->fds, count_fds());
	evering_listener_close(self->l);
	EXPECT_TRUE(no_children());
}

/* ------------------------------------------------------------------ one meeting */

/* A client in a thread of its own. */
struct many {
	const char *path;
	const struct evering_params *p;
	unsigned int count;
	int64_t timeout;
	struct evering **ev;
	int ret;
	pthread_t t;
};

static void *many_main(void *arg)
{
	struct many *m = arg;

	m->ret = evering_connect_many(m->path, m->p, m->count, m->timeout,
				      m->ev);
	return NULL;
}

/* All lanes of the next client; how many, or a negative errno. */
static int accept_all(struct evering_listener *l,
		      const struct evering_params *limits, struct evering **ev)
{
	struct evering_lane lane;
	unsigned int n;
	int ret;

	ret = evering_accept(l, limits, PLENTY, &ev[0]);
	if (ret)
		return ret;
	evering_get_lane(ev[0], &lane);
	if (lane.lane || !lane.lanes || lane.lanes > EVERING_MAX_LANES)
		return -EBADMSG;
	/* The others are there. */
	for (n = 1; n < lane.lanes && !ret; n++)
		ret = evering_accept(l, limits, EVERING_NOWAIT, &ev[n]);
	return ret ? ret : (int)n;
}

/* Both ends of so many; how many there are, or why there are none. */
static int meet(const char *path, struct evering_listener *l,
		const struct evering_params *p,
		const struct evering_params *limits, unsigned int count,
		struct evering **c, struct evering **s)
{
	struct many m = { path, p, count, PLENTY, c, -1, 0 };
	int ret;

	if (pthread_create(&m.t, NULL, many_main, &m))
		return -EAGAIN;
	ret = accept_all(l, limits, s);
	pthread_join(m.t, NULL);
	return ret == m.ret ? ret : -EBADMSG;
}

#define MEET(count) \
	meet(self->path, self->l, &self->p, NULL, count, self->c, self->s)

/* A child of the library's may have a copy of a descriptor for a moment longer. */
static bool ends(struct evering *ev)
{
	return EVENTUALLY(evering_peer(ev) != EVERING_PEER_ALIVE);
}

static bool talk(struct evering *a, struct evering *b)
{
	uint32_t v = 42, w = 0;

	return !evering_send(a, &v, 4, 0) && !evering_recv(b, &w, 4, PLENTY) &&
	       w == v && !evering_send(b, &v, 4, 0) &&
	       !evering_recv(a, &w, 4, PLENTY);
}

static int says_hello(pid_t pid, uid_t uid, gid_t gid, void *context)
{
	(void)pid;
	(void)uid;
	(void)gid;
	(*(int *)context)++;
	return 0;
}

TEST_F(lanes, are_channels_of_one_meeting_and_say_so)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct evering_lane lane, other;
	uint64_t set[2] = { 0 };
	int i, meetings = 0;
	pid_t pid;
	uid_t uid;
	gid_t gid;

	a.allow = says_hello;
	a.context = &meetings;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	ASSERT_EQ(LANES, MEET(LANES));
	EXPECT_EQ(1, meetings);
	for (i = 0; i < LANES; i++) {
		EXPECT_TRUE(talk(self->c[i], self->s[i]));
		evering_get_lane(self->c[i], &lane);
		EXPECT_EQ((unsigned int)i, lane.lane);
		EXPECT_EQ((unsigned int)LANES, lane.lanes);
		evering_get_lane(self->s[i], &other);
		EXPECT_EQ((unsigned int)i, other.lane);
		EXPECT_EQ((unsigned int)LANES, other.lanes);
		if (!i)
			set[0] = lane.set, set[1] = other.set;
		EXPECT_EQ(set[0], lane.set);
		EXPECT_EQ(set[1], other.set);
		EXPECT_EQ(0, evering_peer_cred(self->s[i], &pid, &uid, &gid));
		EXPECT_EQ(getpid(), pid);
		EXPECT_EQ(geteuid(), uid);
		EXPECT_EQ(0, evering_peer_cred(self->c[i], &pid, &uid, &gid));
		EXPECT_EQ(getpid(), pid);
		EXPECT_STREQ(evering_backend_name(self->c[0]),
			     evering_backend_name(self->c[i]));
	}
	EXPECT_NE(0u, set[0]);
	/* What comes next is of another set, also alone. */
	ASSERT_EQ(1, meet(self->path, self->l, &self->p, NULL, 1,
			  self->c + LANES, self->s + LANES));
	evering_get_lane(self->s[LANES], &lane);
	EXPECT_NE(set[0], lane.set);
	EXPECT_NE(set[1], lane.set);
	EXPECT_EQ(0u, lane.lane);
	EXPECT_EQ(1u, lane.lanes);
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

TEST_F(lanes, of_a_pair_and_of_a_socket_are_one)
{
	struct evering_lane lane[2];
	struct evering *ev[2];
	int i;

	ASSERT_EQ(0, evering_pair(&self->p, ev));
	for (i = 0; i < 2; i++) {
		evering_get_lane(ev[i], &lane[i]);
		EXPECT_EQ(0u, lane[i].lane);
		EXPECT_EQ(1u, lane[i].lanes);
	}
	EXPECT_NE(lane[0].set, lane[1].set);
	close_pair(ev);
}

/* Each descriptor that a channel takes, and none for the meeting. */
TEST_F(lanes, take_the_descriptors_of_channels)
{
	int one, fds;

	fds = count_fds();
	ASSERT_EQ(1, MEET(1));
	one = count_fds() - fds;
	close_lanes(self->c);
	close_lanes(self->s);
	EXPECT_EQ(fds, count_fds());
	ASSERT_EQ(EVERING_LANES, (unsigned int)MEET(EVERING_LANES));
	EXPECT_EQ(fds + (int)EVERING_LANES * one, count_fds());
}

/* --------------------------------------------------------------- threads, groups */

struct lane_thread {
	struct evering *ev;
	uint32_t n;
	pthread_t t;
	pid_t tid;
	int ret;
};

static void *asks_main(void *arg)
{
	struct lane_thread *t = arg;
	uint32_t i, answer;

	for (i = 0; i < t->n && !t->ret; i++) {
		t->ret = evering_send(t->ev, &i, 4, PLENTY);
		if (!t->ret)
			t->ret = evering_recv(t->ev, &answer, 4, PLENTY);
		if (!t->ret && answer != i + 1)
			t->ret = -EBADMSG;
	}
	evering_close(t->ev);
	return NULL;
}

/* A server: a listener and its lanes in a group, until @ends of them have ended. */
struct server {
	struct evering_listener *l;
	int ends;
	int ended;
	int ret;
	pthread_t t;
};

static int serve_one(struct server *s, struct evering_group *g,
		     const struct evering_group_event *event)
{
	struct evering *ev = event->ev;
	uint32_t v;
	int ret = 0;

	if (event->what & EVERING_GROUP_ACCEPT) {
		ret = evering_accept(s->l, NULL, EVERING_NOWAIT, &ev);
		if (!ret)
			ret = evering_group_add(g, ev, EVERING_RX, NULL);
		return ret == -EAGAIN ? 0 : ret;
	}
	if (event->what & EVERING_RX) {
		ret = evering_recv(ev, &v, 4, EVERING_NOWAIT);
		v++;
		if (!ret)
			ret = evering_send(ev, &v, 4, EVERING_NOWAIT);
	}
	if (event->what & EVERING_GROUP_GONE) {
		s->ended++;
		evering_close(ev);
	}
	return ret;
}

static void *server_main(void *arg)
{
	const struct evering_group_event *events;
	struct server *s = arg;
	struct evering_group *g;
	int i, n;

	s->ret = evering_group_open(NULL, &g);
	if (!s->ret)
		s->ret = evering_group_add_listener(g, s->l, NULL);
	while (!s->ret && s->ended < s->ends) {
		n = evering_group_wait(g, &events, PLENTY);
		if (n < 0)
			s->ret = n;
		for (i = 0; i < n && !s->ret; i++)
			s->ret = serve_one(s, g, &events[i]);
	}
	evering_group_close(g);
	return NULL;
}

TEST_F(lanes, eight_threads_into_one_server_under_a_group)
{
	struct lane_thread t[LANES];
	struct server s = { .l = self->l, .ends = LANES };
	int i;

	ASSERT_EQ(0, pthread_create(&s.t, NULL, server_main, &s));
	ASSERT_EQ(LANES, evering_connect_many(self->path, &self->p, LANES,
					      PLENTY, self->c));
	for (i = 0; i < LANES; i++) {
		t[i] = (struct lane_thread){ .ev = self->c[i],
					     .n = short_run() ? 200 : 2000 };
		self->c[i] = NULL;
		ASSERT_EQ(0, pthread_create(&t[i].t, NULL, asks_main, &t[i]));
	}
	for (i = 0; i < LANES; i++) {
		pthread_join(t[i].t, NULL);
		EXPECT_EQ(0, t[i].ret);
	}
	pthread_join(s.t, NULL);
	EXPECT_EQ(0, s.ret);
	EXPECT_EQ(LANES, s.ended);
}

TEST_F(lanes, the_end_of_one_is_not_the_end_of_others)
{
	uint32_t v = 5;
	int i, closed, n = 0;

	ASSERT_EQ(LANES, MEET(LANES));
	/* From both sides, the lane that has the connection among them. */
	for (closed = 0; closed < LANES - 1; closed++) {
		struct evering **mine = closed % 2 ? self->c : self->s;
		struct evering **theirs = closed % 2 ? self->s : self->c;

		ASSERT_EQ(0, evering_send(mine[closed], &v, 4, 0));
		evering_close(mine[closed]);
		mine[closed] = NULL;
		EXPECT_EQ(0, evering_recv(theirs[closed], &v, 4, PLENTY));
		EXPECT_EQ(-EPIPE, evering_recv(theirs[closed], &v, 4, PLENTY));
		EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(theirs[closed]));
		for (i = closed + 1; i < LANES; i++) {
			EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(mine[i]));
			EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(theirs[i]));
			EXPECT_TRUE(talk(mine[i], theirs[i]));
			n++;
		}
	}
	EXPECT_EQ(LANES * (LANES - 1) / 2, n);
}

/* Ends the thread where it is, whatever it has begun. */
static void end_thread(int sig)
{
	(void)sig;
	syscall(SYS_exit, 0);
}

static void *stuck_main(void *arg)
{
	struct lane_thread *t = arg;
	uint32_t v;

	__atomic_store_n(&t->tid, gettid(), __ATOMIC_RELEASE);
	evering_recv(t->ev, &v, 4, EVERING_WAIT_FOREVER);
	return NULL;
}

TEST_F(lanes, a_thread_that_ends_delays_nobody_and_ends_no_lane)
{
	struct sigaction act = { .sa_handler = end_thread };
	struct lane_thread t = { 0 };
	int i;

	if (SANITIZED)
		SKIP(return, "a sanitizer wants to know of a thread's end");
	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(LANES, MEET(LANES));
	t.ev = self->c[3];
	ASSERT_EQ(0, pthread_create(&t.t, NULL, stuck_main, &t));
	/* Asleep: what it makes when it sleeps for the first time would be nobody's. */
	ASSERT_TRUE(peer_is_armed(self->s[3], EVERING_RX));
	ASSERT_TRUE(falls_asleep(&t.tid));
	ASSERT_EQ(0, pthread_kill(t.t, SIGUSR1));
	pthread_join(t.t, NULL);
	for (i = 0; i < LANES; i++) {
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->s[i]));
		/* With that one nobody can go on where it has been left. */
		if (i != 3)
			EXPECT_TRUE(talk(self->s[i], self->c[i]));
	}
	evering_close(self->c[3]);
	self->c[3] = NULL;
	EXPECT_TRUE(ends(self->s[3]));
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->s[3]));
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->s[2]));
}

/* ------------------------------------------------------------------------- death */

struct victim {
	const char *path;
	struct evering_params p;
};

static int lives_main(void *arg)
{
	struct evering *ev[LANES];
	struct victim *v = arg;
	uint32_t i;

	if (evering_connect_many(v->path, &v->p, LANES, PLENTY, ev) != LANES)
		return 1;
	for (i = 0; i < LANES; i++)
		if (evering_send(ev[i], &i, 4, 0))
			return 2;
	await_death();
}

TEST_F(lanes, of_a_client_that_is_killed_end_each_by_itself)
{
	struct victim v = { self->path, self->p };
	const struct evering_group_event *events;
	struct evering_group *g;
	uint32_t i, w;
	int mappings = shared_mappings(), ends = 0, n;
	pid_t pid;

	pid = spawn(lives_main, &v);
	ASSERT_LT(0, pid);
	ASSERT_EQ(LANES, accept_all(self->l, NULL, self->s));
	ASSERT_EQ(0, evering_group_open(NULL, &g));
	for (i = 0; i < LANES; i++) {
		EXPECT_EQ(0, evering_recv(self->s[i], &w, 4, PLENTY));
		EXPECT_EQ(i, w);
		/* Some are slept for alone. */
		if (i < LANES / 2)
			ASSERT_EQ(0, evering_group_add(g, self->s[i],
						       EVERING_RX, NULL));
	}
	kill_and_reap(pid);
	while (ends < LANES / 2) {
		n = evering_group_wait(g, &events, PLENTY);
		ASSERT_LT(0, n);
		while (n--) {
			EXPECT_EQ((uint32_t)EVERING_GROUP_GONE, events[n].what);
			EXPECT_EQ(-EPIPE, events[n].result);
			ends++;
		}
	}
	evering_group_close(g);
	for (i = 0; i < LANES; i++) {
		EXPECT_EQ(-EPIPE, evering_recv(self->s[i], &w, 4, PLENTY));
		EXPECT_EQ(EVERING_PEER_DIED, evering_peer(self->s[i]));
	}
	close_lanes(self->s);
	EXPECT_EQ(mappings, shared_mappings());
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

static int stops_main(void *arg)
{
	struct victim *v = arg;
	struct evering *ev[LANES];

	if (evering_connect_many(v->path, &v->p, LANES, PLENTY, ev) != LANES)
		return 1;
	raise(SIGSTOP);
	await_death();
}

TEST_F(lanes, of_a_client_that_stops_delay_nobody)
{
	struct victim v = { self->path, self->p };
	int status, i, n;
	pid_t pid;

	pid = spawn(stops_main, &v);
	ASSERT_LT(0, pid);
	ASSERT_EQ(LANES, accept_all(self->l, NULL, self->s));
	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	n = meet(self->path, self->l, &self->p, NULL, LANES, self->c,
		 self->s + LANES);
	ASSERT_EQ(LANES, n);
	for (i = 0; i < LANES; i++) {
		EXPECT_TRUE(talk(self->c[i], self->s[LANES + i]));
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->s[i]));
	}
	kill_and_reap(pid);
	for (i = 0; i < LANES; i++)
		EXPECT_TRUE(ends(self->s[i]));
}

/* SIGKILL before any instruction of a client that meets, uses its lanes and closes them. */
#define KILLED_LANES 3

struct led {
	const char *path;
	struct evering_params p;
	struct steps *steps;
	bool listed;
	size_t point;
};

static int story(struct led *led)
{
	struct evering *ev[KILLED_LANES];
	int ret, i;
	uint32_t v = 1;

	/* It may be too slow with its hello, step by step. */
	do
		ret = evering_connect_many(led->path, &led->p, KILLED_LANES,
					   6 * PLENTY, ev);
	while (ret == -ETIMEDOUT);
	if (ret != KILLED_LANES)
		return 2;
	for (i = 0; i < KILLED_LANES; i++)
		if (evering_send(ev[i], &v, 4, 0))
			return 3;
	for (i = 0; i < KILLED_LANES; i++)
		if (evering_recv(ev[i], &v, 4, 6 * PLENTY))
			return 4;
	for (i = 0; i < KILLED_LANES; i++)
		evering_close(ev[i]);
	return 0;
}

static int led_main(void *arg)
{
	struct led *led = arg;
	int ret;

	if (led->listed ? steps_note(led->steps) :
			  steps_lead(led->steps, led->point))
		return 1;
	ret = story(led);
	led->steps->over = true;
	return ret;
}

/**
 * struct survivor - the server of one that is led
 * @s, @n: what it has accepted
 * @answered: how many it has answered
 */
struct survivor {
	struct evering *s[KILLED_LANES];
	int n;
	int answered;
};

/* What there is to do; false: it went wrong. */
static bool survive(struct evering_listener *l, struct survivor *sv)
{
	struct evering *ev;
	uint32_t v;
	int ret, i;

	ret = evering_accept(l, NULL, EVERING_NOWAIT, &ev);
	if (!ret && sv->n == KILLED_LANES)
		return false;
	if (!ret)
		sv->s[sv->n++] = ev;
	for (i = 0; i < sv->n; i++) {
		ret = evering_recv(sv->s[i], &v, 4, EVERING_NOWAIT);
		if (ret == -EAGAIN || ret == -EPIPE)
			continue;
		if (ret || v != 1)
			return false;
		ret = evering_send(sv->s[i], &v, 4, EVERING_NOWAIT);
		if (ret && ret != -EPIPE)
			return false;
		sv->answered++;
	}
	return true;
}

/* Until it has come as far as it is led, or to its end.  Its status, or -1: killed. */
static int live_beside(struct evering_listener *l, struct led *led,
		       struct survivor *sv)
{
	/* Step by step it takes some hundred times as long. */
	int64_t end = now_ns() + (led->listed ? 6 : 1) * PLENTY;
	int status = -1, i;
	pid_t pid, got = 0;
	bool busy;

	led->steps->arrived = led->steps->over = false;
	pid = spawn(led_main, led);
	if (pid < 0)
		return -2;
	while (!got &&
	       !__atomic_load_n(&led->steps->arrived, __ATOMIC_ACQUIRE)) {
		/* One that steps has all the time it needs for its hello. */
		busy = led->listed && !is_asleep(&pid);
		if ((!busy && !survive(l, sv)) || now_ns() > end) {
			kill_and_reap(pid);
			return -2;
		}
		got = waitpid(pid, &status, WNOHANG);
		sleep_ns(20 * USEC);
	}
	if (!got)
		kill_and_reap(pid);
	/* What it has left behind: it may have said hello. */
	for (i = 0; i < 4 * KILLED_LANES; i++)
		if (!survive(l, sv))
			return -2;
	return got ? WEXITSTATUS(status) : -1;
}

TEST_F(lanes, of_a_client_that_is_killed_at_any_instruction_end)
{
	const char *kills = getenv("EVERING_KILLS");
	int i, at, count = kills ? atoi(kills) : short_run() ? 20 : 100;
	struct led led = { .path = self->path, .p = self->p, .listed = true };
	int mappings = shared_mappings(), killed = 0;
	int64_t end = now_ns() + 40 * SEC;
	struct survivor sv = { .n = 0 };
	uint64_t rng;

	/* Each is a trap, and a debug kernel takes a hundred times as long for it. */
	if (!STEPS || slow(1) > 50)
		SKIP(return, "nobody steps here");
	rng = random_seed();
	led.steps = shared_memory(sizeof(*led.steps));
	ASSERT_NE(NULL, led.steps);
	mappings++;
	ASSERT_EQ(0, live_beside(self->l, &led, &sv));
	ASSERT_EQ(KILLED_LANES, sv.n);
	ASSERT_LT(1000u, led.steps->n);
	printf("# %zu instructions\n", led.steps->n);
	led.listed = false;
	for (at = 0;; at++) {
		/* The first time there was nothing to be killed at. */
		for (i = 0; i < sv.n; i++) {
			EXPECT_TRUE(ends(sv.s[i]))
			{
				TH_LOG("lane %d at %zu", i, led.point);
			}
			evering_close(sv.s[i]);
		}
		/* All lanes or none. */
		ASSERT_TRUE(!sv.n || sv.n == KILLED_LANES);
		ASSERT_EQ(self->fds, count_fds());
		ASSERT_EQ(mappings, shared_mappings());
		/* However slow the machine is. */
		if (at == count || (killed && now_ns() > end))
			break;
		sv = (struct survivor){ .n = 0 };
		led.point = random_below(&rng, led.steps->n);
		i = live_beside(self->l, &led, &sv);
		ASSERT_TRUE(i == -1 || i == 0)
		{
			TH_LOG("%d at %zu", i, led.point);
		}
		killed += i == -1;
	}
	EXPECT_LT(0, killed);
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

/* ------------------------------------------------------------------------ limits */

TEST_F(lanes, are_as_many_as_the_listener_grants)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering_lane lane;
	int i;

	EXPECT_EQ(16u, limits.lanes);
	limits.lanes = 3;
	ASSERT_EQ(3, meet(self->path, self->l, &self->p, &limits, LANES,
			  self->c, self->s));
	for (i = 0; i < 3; i++) {
		EXPECT_TRUE(talk(self->c[i], self->s[i]));
		evering_get_lane(self->c[i], &lane);
		EXPECT_EQ(3u, lane.lanes);
	}
	EXPECT_EQ(NULL, self->c[3]);
	close_lanes(self->c);
	close_lanes(self->s);
	EXPECT_EQ(self->fds, count_fds());
	/* 0 is 1, and more than there are is not too much. */
	for (limits.lanes = 0; limits.lanes < 2; limits.lanes++) {
		ASSERT_EQ(1, meet(self->path, self->l, &self->p, &limits, LANES,
				  self->c, self->s));
		EXPECT_TRUE(talk(self->c[0], self->s[0]));
		close_lanes(self->c);
		close_lanes(self->s);
	}
	limits.lanes = EVERING_MAX_LANES;
	ASSERT_EQ((int)EVERING_MAX_LANES,
		  meet(self->path, self->l, &self->p, &limits,
		       EVERING_MAX_LANES, self->c, self->s));
	for (i = 0; i < (int)EVERING_MAX_LANES; i++)
		EXPECT_TRUE(talk(self->c[i], self->s[i]));
}

TEST_F(lanes, that_cannot_be_are_refused_before_anything_is_done)
{
	struct evering_params limits = EVERING_LIMITS_INIT, p = self->p;
	struct evering_connecting *c = NULL;
	struct evering *ev;

	EXPECT_EQ(-EINVAL,
		  evering_connect_many(self->path, &p, 0, PLENTY, self->c));
	EXPECT_EQ(-E2BIG,
		  evering_connect_many(self->path, &p, EVERING_MAX_LANES + 1,
				       PLENTY, self->c));
	EXPECT_EQ(-E2BIG, evering_connect_many(self->path, &p, UINT32_MAX,
					       PLENTY, self->c));
	EXPECT_EQ(-EINVAL,
		  evering_connect_begin_many(self->path, &p, 0, PLENTY, &c));
	EXPECT_EQ(-E2BIG, evering_connect_begin_many(self->path, &p,
						     EVERING_MAX_LANES + 1,
						     PLENTY, &c));
	EXPECT_EQ(-EINVAL, evering_connect_begin_many(self->path, &p, 2,
						      EVERING_NOWAIT, &c));
	/* A limit where a wish belongs. */
	p.lanes = 1;
	EXPECT_EQ(-EINVAL,
		  evering_connect(self->path, &p, PLENTY, &self->c[0]));
	EXPECT_EQ(-EINVAL,
		  evering_connect_many(self->path, &p, 1, PLENTY, self->c));
	limits.lanes = EVERING_MAX_LANES + 1;
	EXPECT_EQ(-E2BIG,
		  evering_accept(self->l, &limits, EVERING_NOWAIT, &ev));
	/* The one's step for the other's beginning. */
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->p, PLENTY, &c));
	EXPECT_EQ(-EINVAL, evering_connecting_step_many(c, self->c));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	evering_connecting_close(c);
	ASSERT_EQ(0, evering_connect_begin_many(self->path, &self->p, 1, PLENTY,
						&c));
	EXPECT_EQ(-EINVAL, evering_connecting_step(c, &ev));
	EXPECT_EQ(-EAGAIN, evering_connecting_step_many(c, self->c));
	evering_connecting_close(c);
	EXPECT_EQ(NULL, self->c[0]);
	EXPECT_EQ(-EAGAIN, evering_accept(self->l, NULL, EVERING_NOWAIT, &ev));
}

/**
 * struct wish - what another user asks for
 * @go: how many times it may
 * @got: what it got each time; 1000: nothing yet
 */
struct wish {
	const char *path;
	struct evering_params p;
	int *go;
	int *got;
};

static int wish_main(void *arg)
{
	struct evering *ev[EVERING_MAX_LANES];
	struct wish *w = arg;
	int i, ret;

	if (become_nobody())
		return 1;
	for (i = 0; i < 8; i++) {
		while (__atomic_load_n(w->go, __ATOMIC_ACQUIRE) <= i)
			sleep_ns(MSEC);
		ret = evering_connect_many(w->path, &w->p, LANES, PLENTY, ev);
		__atomic_store_n(&w->got[i], ret, __ATOMIC_RELEASE);
	}
	await_death();
}

/* The next wish: what the client got.  What the server has of it is in @s from @n on. */
static int grant(struct evering_listener *l, struct wish *w, int i,
		 struct evering **s, int *n)
{
	int64_t end = now_ns() + PLENTY;

	__atomic_store_n(w->go, i + 1, __ATOMIC_RELEASE);
	do {
		if (!evering_accept(l, NULL, 5 * MSEC, &s[*n]))
			(*n)++;
	} while (__atomic_load_n(&w->got[i], __ATOMIC_ACQUIRE) == 1000 &&
		 now_ns() < end);
	while (!evering_accept(l, NULL, EVERING_NOWAIT, &s[*n]))
		(*n)++;
	return w->got[i];
}

TEST_F(lanes, of_another_user_are_as_many_as_it_may_have)
{
	struct evering_admission a = EVERING_ADMISSION_INIT;
	struct wish w = { .path = self->path, .p = self->p };
	int i, n = 0;
	pid_t pid;

	if (geteuid())
		SKIP(return, "to be two users takes root");
	w.go = shared_memory(4096);
	ASSERT_NE(NULL, w.go);
	w.got = w.go + 1;
	for (i = 0; i < 8; i++)
		w.got[i] = 1000;
	a.user_channels = 5;
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	pid = spawn(wish_main, &w);
	ASSERT_LT(0, pid);
	EXPECT_EQ(5, grant(self->l, &w, 0, self->s, &n));
	EXPECT_EQ(5, n);
	EXPECT_EQ(-EDQUOT, grant(self->l, &w, 1, self->s, &n));
	/* It is that user's limit alone. */
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	/* Each lane that ends is one that may be again. */
	evering_close(self->s[4]);
	evering_close(self->s[3]);
	n = 3;
	EXPECT_EQ(2, grant(self->l, &w, 2, self->s, &n));
	EXPECT_EQ(5, n);
	close_lanes(self->s);
	/* Of bytes: this side's arena at least is each lane's. */
	n = 0;
	a.user_channels = 100;
	a.user_bytes = variant->backend == EVERING_BACKEND_DEVICE ?
			       3 * 65536 + 65535 :
			       3 * (2 * 65536 + 16384);
	ASSERT_EQ(0, evering_listener_admit(self->l, &a));
	EXPECT_EQ(3, grant(self->l, &w, 3, self->s, &n));
	EXPECT_EQ(3, n);
	EXPECT_EQ(-EDQUOT, grant(self->l, &w, 4, self->s, &n));
	kill_and_reap(pid);
}

/* ------------------------------------------------------------------- event loops */

static bool readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

TEST_F(lanes, are_made_step_by_step_and_taken_one_by_one)
{
	struct pollfd pfd[2] = { { .events = POLLIN }, { .events = POLLIN } };
	struct evering_connecting *c;
	int64_t end = now_ns() + PLENTY;
	int ret, n = 0, i;

	ASSERT_EQ(0, evering_connect_begin_many(self->path, &self->p, LANES,
						PLENTY, &c));
	pfd[0].fd = evering_connecting_fd(c);
	pfd[1].fd = evering_listener_fd(self->l);
	ASSERT_LE(0, pfd[0].fd);
	do {
		ret = evering_connecting_step_many(c, self->c);
		if (ret != -EAGAIN)
			break;
		ASSERT_LT(0, poll(pfd, 2, 10000));
		if (pfd[1].revents && n < LANES &&
		    !evering_accept(self->l, NULL, EVERING_NOWAIT, &self->s[n]))
			n++;
	} while (now_ns() < end);
	ASSERT_EQ(LANES, ret);
	EXPECT_EQ(-EINVAL, evering_connecting_step_many(c, self->c));
	evering_connecting_close(c);
	/* It says so for as long as there are some, and no longer. */
	while (n < LANES) {
		ASSERT_TRUE(readable(pfd[1].fd));
		ASSERT_EQ(0, evering_accept(self->l, NULL, EVERING_NOWAIT,
					    &self->s[n++]));
	}
	EXPECT_FALSE(readable(pfd[1].fd));
	EXPECT_EQ(-EAGAIN,
		  evering_accept(self->l, NULL, EVERING_NOWAIT, &self->s[n]));
	for (i = 0; i < LANES; i++)
		EXPECT_TRUE(talk(self->c[i], self->s[i]));
}

TEST_F(lanes, that_nobody_took_are_closed_with_the_listener)
{
	struct many m = { self->path, &self->p, LANES, PLENTY, self->c, -1, 0 };
	int i;

	ASSERT_EQ(0, pthread_create(&m.t, NULL, many_main, &m));
	ASSERT_EQ(0, evering_accept(self->l, NULL, PLENTY, &self->s[0]));
	pthread_join(m.t, NULL);
	ASSERT_EQ(LANES, m.ret);
	evering_listener_close(self->l);
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->l));
	EXPECT_TRUE(talk(self->c[0], self->s[0]));
	for (i = 1; i < LANES; i++) {
		EXPECT_TRUE(ends(self->c[i]));
		EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->c[i]));
	}
}

static int closes_main(void *arg)
{
	struct evering_listener *l = arg;
	struct evering *ev;

	/* They are the parent's. */
	if (evering_accept(l, NULL, EVERING_NOWAIT, &ev) != -EAGAIN)
		return 1;
	evering_listener_close(l);
	return 0;
}

TEST_F(lanes, that_wait_are_not_those_of_a_child)
{
	struct many m = { self->path, &self->p, LANES, PLENTY, self->c, -1, 0 };
	int i;

	ASSERT_EQ(0, pthread_create(&m.t, NULL, many_main, &m));
	ASSERT_EQ(0, evering_accept(self->l, NULL, PLENTY, &self->s[0]));
	pthread_join(m.t, NULL);
	ASSERT_EQ(LANES, m.ret);
	ASSERT_EQ(0, reap(spawn(closes_main, self->l)));
	for (i = 1; i < LANES; i++)
		ASSERT_EQ(0, evering_accept(self->l, NULL, EVERING_NOWAIT,
					    &self->s[i]));
	for (i = 0; i < LANES; i++)
		EXPECT_TRUE(talk(self->c[i], self->s[i]));
}

/* --------------------------------------------------------------- in the middle */

TEST_F(lanes, that_nobody_grants_in_time_leave_nothing)
{
	struct evering_connecting *c;
	int mappings = shared_mappings();

	EXPECT_EQ(-ETIMEDOUT, evering_connect_many(self->path, &self->p, LANES,
						   20 * MSEC, self->c));
	EXPECT_EQ(-EAGAIN, evering_connect_many(self->path, &self->p, LANES,
						EVERING_NOWAIT, self->c));
	EXPECT_EQ(-ENOENT, evering_connect_many("/nowhere/at/all", &self->p,
						LANES, PLENTY, self->c));
	ASSERT_EQ(0, evering_connect_begin_many(self->path, &self->p, LANES,
						PLENTY, &c));
	EXPECT_EQ(-EAGAIN, evering_connecting_step_many(c, self->c));
	evering_connecting_close(c);
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_EQ(mappings, shared_mappings());
	/* Those have gone; nobody else has to wait for them. */
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

static void nothing(int sig)
{
	(void)sig;
}

TEST_F(lanes, that_a_signal_interrupts_leave_nothing)
{
	struct many m = { self->path, &self->p, LANES, EVERING_WAIT_FOREVER,
			  self->c,    -1,	0 };
	struct sigaction act = { .sa_handler = nothing };
	int64_t end = now_ns() + PLENTY;
	int mappings = shared_mappings();
	struct evering *ev;

	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	ASSERT_EQ(0, pthread_create(&m.t, NULL, many_main, &m));
	while (pthread_tryjoin_np(m.t, NULL) == EBUSY && now_ns() < end) {
		pthread_kill(m.t, SIGUSR1);
		sleep_ns(MSEC);
	}
	EXPECT_EQ(-EINTR, m.ret);
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_EQ(mappings, shared_mappings());
	/* Its hello may be answered, and what is granted ends at once. */
	while (!evering_accept(self->l, NULL, EVERING_NOWAIT, &ev)) {
		EXPECT_TRUE(ends(ev));
		evering_close(ev);
	}
}

/* ----------------------------------------------------------------------- hostile */

/* A hello for so many, as the library says it; how many descriptors, or an errno. */
static int capture_hello(const struct evering_params *p, unsigned int count,
			 struct hello *hello, int fds[MAX_FDS])
{
	struct evering *ev[EVERING_MAX_LANES];
	struct evering_connecting *c;
	char path[64];
	int l, sock, n = 0, ret;

	snprintf(path, sizeof(path), "@evering-capture-%d", getpid());
	l = raw_socket(path, 0, true);
	if (l < 0)
		return l;
	ret = evering_connect_begin_many(path, p, count, PLENTY, &c);
	if (!ret) {
		ret = evering_connecting_step_many(c, ev);
		sock = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		if (ret == -EAGAIN && raw_recv(sock, hello, sizeof(*hello), fds,
					       &n) == (ssize_t)sizeof(*hello))
			ret = 0;
		close(sock);
		evering_connecting_close(c);
	}
	close(l);
	return ret ? ret : n;
}

/* What a listener has answered, behind word that the hello was not taken. */
static int error_of(int sock)
{
	struct welcome welcome = { .error = 1 };
	ssize_t n;

	n = recv(sock, &welcome, sizeof(welcome), 0);
	if (n < 0 && errno == ECONNRESET)
		n = recv(sock, &welcome, sizeof(welcome), 0);
	return n == (ssize_t)sizeof(welcome) ? welcome.error : -EBADMSG;
}

/* Says it to the listener; its socket.  What the listener made of it is in *@error. */
static int say_to(struct evering_listener *l, const char *path,
		  const struct hello *hello, const int *fds, int n,
		  struct evering **s, int *count, int *error)
{
	uint64_t refused = evering_listener_refused(l, NULL);
	int64_t end = now_ns() + PLENTY;
	int sock = raw_socket(path, 0, false);

	*count = *error = 0;
	if (raw_send(sock, hello, sizeof(*hello), fds, n))
		*error = 1;
	while (!*error && now_ns() < end) {
		if (!evering_accept(l, NULL, 5 * MSEC, &s[*count])) {
			(*count)++;
			while (!evering_accept(l, NULL, EVERING_NOWAIT,
					       &s[*count]))
				(*count)++;
			break;
		}
		if (evering_listener_refused(l, error) == refused)
			*error = 0;
	}
	return sock;
}

TEST_F(lanes, a_hello_that_lies_about_them_is_refused)
{
	static const struct {
		uint32_t lanes;
		int fewer;
		int error;
	} lies[] = {
		{ UINT32_MAX, 0, -E2BIG },
		{ EVERING_MAX_LANES + 1, 0, -E2BIG },
		{ 1u << 31, 0, -E2BIG },
		{ 0, 0, -EPROTO },
		{ 3, 0, -EPROTO }, /* no multiple */
		{ 2, 0, -EPROTO }, /* of each more than there can be */
		{ 5, 0, -EPROTO },
		{ 4, 1, -EPROTO }, /* fewer than it says */
	};
	int fds[MAX_FDS], n, count, error, sock, mappings;
	struct hello hello, lie;
	size_t i;

	n = capture_hello(&self->p, 4, &hello, fds);
	ASSERT_LE(4, n);
	EXPECT_EQ(4u, hello.lanes);
	EXPECT_EQ((uint32_t)n, hello.fds);
	mappings = shared_mappings();
	for (i = 0; i < ARRAY_SIZE(lies); i++) {
		lie = hello;
		lie.lanes = lies[i].lanes;
		/* Of these it may say what it likes. */
		lie.peers = (uint32_t)i;
		sock = say_to(self->l, self->path, &lie, fds, n - lies[i].fewer,
			      self->s, &count, &error);
		EXPECT_EQ(0, count);
		EXPECT_EQ(lies[i].error, error)
		{
			TH_LOG("lie %zu", i);
		}
		EXPECT_EQ(lies[i].error, error_of(sock));
		close(sock);
		EXPECT_EQ(self->fds + n, count_fds());
		EXPECT_EQ(mappings, shared_mappings());
	}
	/* The descriptors of a lane in the middle are those of another, or none. */
	for (i = 0; i < 2; i++) {
		struct hello twice = hello;
		int each = n / 4, at = each, j, again[MAX_FDS];
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		memcpy(again, fds, sizeof(again));
		for (j = 0; j < each; j++)
			again[2 * each + j] = i ? null : fds[at + j];
		sock = say_to(self->l, self->path, &twice, again, n, self->s,
			      &count, &error);
		close(null);
		if (!i && variant->backend == EVERING_BACKEND_MEMFD) {
			/* The client's memory twice: that is its own affair. */
			EXPECT_EQ(4, count);
			EXPECT_EQ(0, error);
		} else {
			EXPECT_EQ(0, count);
			EXPECT_EQ(-EPROTO, error);
		}
		close_lanes(self->s);
		close(sock);
		EXPECT_EQ(self->fds + n, count_fds());
		EXPECT_EQ(mappings, shared_mappings());
		if (variant->backend == EVERING_BACKEND_DEVICE) {
			/* Those before it have been used up. */
			close_all(fds, n);
			n = capture_hello(&self->p, 4, &hello, fds);
			ASSERT_EQ(4, n);
		}
	}
	/* And the hello itself is right. */
	sock = say_to(self->l, self->path, &hello, fds, n, self->s, &count,
		      &error);
	EXPECT_EQ(4, count);
	EXPECT_EQ(0, error);
	close(sock);
	close_all(fds, n);
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
}

/* It has said what it wishes for, and then nothing more: not even that it has it. */
TEST_F(lanes, that_are_granted_and_never_taken_are_given_up)
{
	int fds[MAX_FDS], n, count, error, sock, i;
	struct hello hello;

	n = capture_hello(&self->p, LANES, &hello, fds);
	ASSERT_LE(LANES, n);
	sock = say_to(self->l, self->path, &hello, fds, n, self->s, &count,
		      &error);
	ASSERT_EQ(LANES, count);
	close_all(fds, n);
	EXPECT_EQ(0, serves(self->l, self->path, &self->p));
	if (variant->backend == EVERING_BACKEND_MEMFD)
		for (i = 0; i < LANES; i++)
			EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->s[i]));
	/* The sockets that were for it go with the one that they are in. */
	close(sock);
	for (i = 0; i < LANES; i++)
		EXPECT_TRUE(ends(self->s[i]));
}

/* Over a socket that is there already, nobody could take the second one. */
TEST_F(lanes, over_a_socket_are_one)
{
	int fds[MAX_FDS], n, sv[2], more[MAX_FDS], m;
	struct hello hello;
	struct welcome welcome;

	n = capture_hello(&self->p, LANES, &hello, fds);
	ASSERT_LE(LANES, n);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0, raw_send(sv[1], &hello, sizeof(hello), fds, n));
	ASSERT_EQ(0, evering_accept_fd(sv[0], NULL, PLENTY, &self->s[0]));
	ASSERT_EQ((ssize_t)sizeof(welcome),
		  raw_recv(sv[1], &welcome, sizeof(welcome), more, &m));
	EXPECT_EQ(0, welcome.error);
	EXPECT_EQ(1u, welcome.lanes);
	EXPECT_EQ((int)welcome.fds, m);
	close_all(more, m);
	close_all(fds, n);
	close(sv[1]);
}

/* ------------------------------------------------------------- a hostile server */

/**
 * struct welcomes - a server that answers a hello for LANES in its own way
 * @lanes, @fewer: what it says, and how many descriptors it leaves out
 * @odd: it has this in the place of the last socket; -1: not
 * @bell: it has a socket in the place of a doorbell, which is written to
 */
struct welcomes {
	int l;
	const char *own;
	const struct evering_params *p;
	uint32_t lanes;
	int fewer;
	int odd;
	bool bell;
	int failed;
	pthread_t t;
};

/*
 * Says the client's hello to a listener of its own, and has what that answers, changed, for
 * the client.
 */
static int welcome_one(struct welcomes *w)
{
	struct evering *s[EVERING_MAX_LANES] = { NULL };
	int sock, own, fds[MAX_FDS], n, count, error, at;
	struct evering_listener *l;
	struct welcome welcome;
	struct hello hello;

	sock = accept4(w->l, NULL, NULL, SOCK_CLOEXEC);
	if (raw_recv(sock, &hello, sizeof(hello), fds, &n) !=
	    (ssize_t)sizeof(hello))
		return __LINE__;
	if (evering_listen(w->own, 0, &l))
		return __LINE__;
	own = say_to(l, w->own, &hello, fds, n, s, &count, &error);
	close_all(fds, n);
	if (count != LANES || raw_recv(own, &welcome, sizeof(welcome), fds,
				       &n) != (ssize_t)sizeof(welcome))
		return __LINE__;
	if (w->odd >= 0 && n) {
		close(fds[n - 1]);
		fds[n - 1] = fcntl(w->odd, F_DUPFD_CLOEXEC, 0);
	}
	if (w->bell) {
		at = (n - LANES + 1) / LANES - 1;
		close(fds[at]);
		fds[at] = fcntl(fds[n - 1], F_DUPFD_CLOEXEC, 0);
	}
	welcome.lanes = w->lanes;
	if (w->fewer > n)
		w->fewer = n;
	welcome.fds -= (uint32_t)w->fewer;
	if (raw_send(sock, &welcome, sizeof(welcome), fds, n - w->fewer))
		return __LINE__;
	close_all(fds, n);
	close_lanes(s);
	evering_listener_close(l);
	close(own);
	/* Until it has gone, or has closed what it had. */
	while (recv(sock, &welcome, sizeof(welcome), 0) > 0)
		;
	close(sock);
	return 0;
}

static void *welcomes_main(void *arg)
{
	struct welcomes *w = arg;

	w->failed = welcome_one(w);
	return NULL;
}

TEST_F(lanes, a_welcome_that_lies_about_them_is_no_welcome)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	struct welcomes w = { .p = &self->p };
	int odd[8], pair[2], fds, mappings, i, ret;
	char path[2][64];
	bool memfd = variant->backend == EVERING_BACKEND_MEMFD;

	for (i = 0; i < 2; i++)
		snprintf(path[i], sizeof(path[i]), "@evering-w%d-%d", i,
			 getpid());
	w.own = path[0];
	w.l = raw_socket(path[1], 0, true);
	ASSERT_LE(0, w.l);
	odd[0] = eventfd(0, EFD_CLOEXEC);
	odd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_EQ(0, bind(odd[1], (struct sockaddr *)&any, sizeof(any)));
	odd[2] = w.l;
	odd[3] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	odd[4] = open("/dev/null", O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, pipe2(pair, O_CLOEXEC));
	odd[5] = pair[0];
	odd[6] = pair[1];
	odd[7] = memfd_create("odd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fds = count_fds();
	mappings = shared_mappings();
	for (i = 0; i < 7 + 8; i++) {
		w.lanes = LANES;
		w.bell = i == 6;
		w.fewer = 0;
		w.odd = -1;
		switch (i) {
		case 0:
			w.lanes = 0;
			break;
		case 1:
			w.lanes = LANES + 1;
			break;
		case 2:
			w.lanes = UINT32_MAX;
			break;
		case 3:
			w.lanes = LANES - 1;
			break;
		case 4:
			w.fewer = 1;
			break;
		case 5:
			w.fewer = LANES;
			break;
		case 6:
			break;
		default:
			w.odd = odd[i - 7];
		}
		/* There the welcome brings none. */
		if (!memfd && i > 2)
			break;
		ASSERT_EQ(0, pthread_create(&w.t, NULL, welcomes_main, &w));
		ret = evering_connect_many(path[1], &self->p, LANES, PLENTY,
					   self->c);
		EXPECT_EQ(-EPROTO, ret)
		{
			TH_LOG("welcome %d", i);
		}
		close_lanes(self->c);
		pthread_join(w.t, NULL);
		EXPECT_EQ(0, w.failed);
		EXPECT_EQ(fds, count_fds());
		EXPECT_EQ(mappings, shared_mappings());
	}
	for (i = 0; i < 8; i++)
		close(odd[i]);
}

TEST_HARNESS_MAIN
