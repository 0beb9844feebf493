// SPDX-License-Identifier: MIT
/*
 * group_file.c: groups of the library that use the module's group file: when they do, and
 * when they fall back; one system call that rings many and sleeps; that a signal loses no
 * ring; members of both backends, listeners and descriptors beside it; members that come
 * and go while others ring; fork.  What a group returns, and when, is group.c's, with the
 * same file.
 */
#include "group.h"
#include "interpose.h"

#include <dirent.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* System calls of this thread, and what the module says in its own stead: an errno. */
static __thread struct {
	unsigned int ring, enter, add, epoll;
} calls;
static int refuse_group;
static int refuse_add;
/* One that disarms just before ENTER rings it. */
static struct evering *disarm_at_enter;

HIDDEN int ioctl(int fd, ioctl_command given, ...)
{
	const unsigned int command = (unsigned int)given;
	unsigned long arg;
	va_list list;

	va_start(list, given);
	arg = va_arg(list, unsigned long);
	va_end(list);
	calls.ring += command == EVERING_IOC_RING;
	calls.enter += command == EVERING_IOC_ENTER;
	calls.add += command == EVERING_IOC_ADD;
	if (command == EVERING_IOC_ENTER && disarm_at_enter)
		evering_disarm(disarm_at_enter, EVERING_RX);
	if ((command == EVERING_IOC_GROUP && refuse_group) ||
	    (command == EVERING_IOC_ADD && refuse_add)) {
		errno = refuse_group + refuse_add;
		return -1;
	}
	return REAL(ioctl)(fd, given, arg);
}

HIDDEN int epoll_wait(int set, struct epoll_event *events, int n, int ms)
{
	calls.epoll++;
	return REAL(epoll_wait)(set, events, n, ms);
}

HIDDEN int epoll_pwait(int set, struct epoll_event *events, int n, int ms,
		       const sigset_t *mask)
{
	calls.epoll++;
	return REAL(epoll_pwait)(set, events, n, ms, mask);
}

/*
 * Calls @call for each line of fdinfo of each descriptor of this process, and returns the
 * sum of what it returns.
 */
static int sum_fdinfo(int (*call)(const char *line))
{
	DIR *dir = opendir("/proc/self/fdinfo");
	struct dirent *entry;
	char path[512], line[256];
	int sum = 0;
	FILE *f;

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%s",
			 entry->d_name);
		f = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			sum += call(line);
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return sum;
}

/* An endpoint names its group as well. */
static int is_file(const char *line)
{
	return !strncmp(line, "members:", 8);
}

static int count_members(const char *line)
{
	int n;

	return sscanf(line, "members: %d", &n) == 1 ? n : 0;
}

static int is_watched(const char *line)
{
	return !strncmp(line, "tfd:", 4);
}

/* Of all groups of this process: their files, and the members of these. */
static int files(void)
{
	return sum_fdinfo(is_file);
}

static int members(void)
{
	return sum_fdinfo(count_members);
}

FIXTURE(file)
{
	struct evering_params p, memfd;
	struct evering_group *g;
	struct evering *ev[MANY][2];
	struct evering *a, *b;
	const struct evering_group_event *events;
};

FIXTURE_VARIANT(file)
{
	uint32_t policy;
};

FIXTURE_VARIANT_ADD(file, block){
	.policy = EVERING_BLOCK,
};

FIXTURE_VARIANT_ADD(file, adaptive){
	.policy = EVERING_ADAPTIVE,
};

FIXTURE_SETUP(file)
{
	int i;

	REQUIRE_BACKEND(EVERING_BACKEND_DEVICE);
	self->p = params_sized(EVERING_BACKEND_DEVICE, 64, 16, 0);
	self->memfd = params_sized(EVERING_BACKEND_MEMFD, 64, 16, 0);
	ASSERT_EQ(0, open_group(variant->policy, &self->g));
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, evering_pair(&self->p, self->ev[i]));
	self->a = self->ev[0][0];
	self->b = self->ev[0][1];
}

FIXTURE_TEARDOWN(file)
{
	int i;

	for (i = 0; i < MANY; i++)
		close_pair(self->ev[i]);
	evering_group_close(self->g);
}

static void forget_calls(void)
{
	memset(&calls, 0, sizeof(calls));
}

/* One of all is rung, and told of. */
static int one_is_told(struct evering_group *g, struct evering *ev[2],
		       uint32_t value)
{
	const struct evering_group_event *events;

	if (send_one(ev[1], value))
		return 1;
	if (evering_group_wait(g, &events, PLENTY) != 1)
		return 2;
	if (events[0].ev != ev[0] || events[0].what != EVERING_RX)
		return 3;
	return receive_one(ev[0]) == value ? 0 : 4;
}

static int each_is_told(struct evering_group *g, struct evering *ev[MANY][2])
{
	int i, ret = 0;

	for (i = 0; i < MANY && !ret; i++) {
		ret = all_cold(g);
		if (!ret)
			ret = one_is_told(g, ev[i], 100u + (uint32_t)i);
	}
	return ret;
}

/* -------------------------------------------------------------- whose they are */

TEST_F(file, members_of_the_device_are_in_one_file)
{
	int fds = count_fds();

	EXPECT_EQ(0, files());
	ASSERT_EQ(0, add_all(self->g, self->ev));
	EXPECT_EQ(1, files());
	EXPECT_EQ(MANY, members());
	EXPECT_EQ(fds + 1, count_fds());
	/* Nothing is in the set, not even what wakes it. */
	EXPECT_EQ(0, sum_fdinfo(is_watched));
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	ASSERT_LE(0, evering_group_fd(self->g));
	ASSERT_LE(0, evering_group_fd(self->g));
	EXPECT_EQ(1, sum_fdinfo(is_watched));
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	EXPECT_EQ(MANY - 1, members());
	close_pair(self->ev[1]);
	EXPECT_EQ(MANY - 2, members());
	evering_group_close(self->g);
	self->g = NULL;
	EXPECT_EQ(0, files());
}

TEST_F(file, awake_it_makes_no_system_call)
{
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, all_cold(self->g));
	for (i = 0; i < 200; i++) {
		ASSERT_EQ(0, send_one(self->ev[i % MANY][1], 1));
		forget_calls();
		ASSERT_EQ(1, evering_group_wait(self->g, &self->events,
						EVERING_NOWAIT));
		ASSERT_EQ(1, receive_one(self->ev[i % MANY][0]));
		ASSERT_EQ(-EAGAIN, evering_group_wait(self->g, &self->events,
						      EVERING_NOWAIT));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(0, calls.ring + calls.enter + calls.epoll);
	}
}

/* The module has no room, or an endpoint is in another group: the set tells of it. */
TEST_F(file, what_the_module_refuses_is_in_the_set)
{
	static const int errors[] = { EDQUOT, ENOMEM, EMFILE, ENOTTY };
	struct evering_group *g;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		ASSERT_EQ(0, open_group(variant->policy, &g));
		refuse_group = errors[i];
		ASSERT_EQ(0, add_all(g, self->ev));
		refuse_group = 0;
		EXPECT_EQ(0, files());
		/* And what wakes it, and the other one. */
		EXPECT_EQ(MANY + 2, sum_fdinfo(is_watched));
		ASSERT_EQ(0, each_is_told(g, self->ev));
		evering_group_wake(g);
		EXPECT_EQ(-EINTR, evering_group_wait(g, &self->events, PLENTY));
		/* One that comes later has room, and they go together. */
		ASSERT_EQ(0, evering_group_remove(g, self->a));
		ASSERT_EQ(0, evering_group_add(g, self->a, EVERING_RX,
					       &self->ev[0]));
		EXPECT_EQ(1, members());
		ASSERT_EQ(0, each_is_told(g, self->ev));
		evering_group_wake(g);
		EXPECT_EQ(-EINTR, evering_group_wait(g, &self->events, PLENTY));
		ASSERT_EQ(0, all_cold(g));
		ASSERT_FALSE(readable(evering_group_fd(g), 0));
		evering_group_wake(g);
		ASSERT_TRUE(readable(evering_group_fd(g), 5000));
		evering_group_close(g);
	}
	refuse_add = EBUSY;
	ASSERT_EQ(0, add_all(self->g, self->ev));
	refuse_add = 0;
	EXPECT_EQ(1, files());
	EXPECT_EQ(0, members());
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	evering_group_wake(self->g);
	EXPECT_EQ(-EINTR, evering_group_wait(self->g, &self->events, PLENTY));
}

/* More members than the page has bits. */
TEST_F(file, an_index_that_is_too_high_is_in_the_set)
{
	struct rlimit limit;
	int i, ret = 0;

	if (variant->policy != EVERING_BLOCK)
		return;
	if (slow(1) > 50)
		SKIP(return, "so many descriptors take half a minute here");
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	if (limit.rlim_max < EVERING_GROUP_MEMBERS + 200 ||
	    setrlimit(RLIMIT_NOFILE, &limit))
		SKIP(return, "not so many descriptors");
	/*
	 * The last that has an index, the first that has none, and those between.  Each is
	 * a file of its own: epoll goes through all copies of one at each that is added.
	 */
	for (i = 0; i < (int)EVERING_GROUP_MEMBERS - 2 && !ret; i++)
		ret = evering_group_add_fd(self->g, eventfd(0, EFD_CLOEXEC),
					   POLLIN, NULL);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, add_all(self->g, self->ev));
	EXPECT_EQ(1, members());
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
}

/* ---------------------------------------------------------------- owed rings */

enum {
	CROWD = 2 * EVERING_MAX_GROUP_RINGS + 20
};

TEST_F(file, more_rings_than_a_list_has)
{
	struct evering *crowd[CROWD][2];
	int i;

	for (i = 0; i < CROWD; i++) {
		ASSERT_EQ(0, evering_pair(&self->p, crowd[i]));
		ASSERT_EQ(0, evering_group_add(self->g, crowd[i][0], EVERING_RX,
					       NULL));
		ASSERT_EQ(0, evering_set_policy(
				     crowd[i][0],
				     EVERING_BLOCK | EVERING_LAZY_RING, 0));
		ASSERT_EQ(0, evering_arm(crowd[i][1], EVERING_RX));
	}
	while (all_cold(self->g))
		;
	forget_calls();
	for (i = 0; i < CROWD; i++)
		ASSERT_EQ(0, send_one(crowd[i][0], 1));
	EXPECT_EQ(0, calls.ring + calls.enter);
	ASSERT_EQ(-EAGAIN,
		  evering_group_wait(self->g, &self->events, EVERING_NOWAIT));
	EXPECT_EQ(3, calls.enter);
	EXPECT_EQ(0, calls.ring);
	for (i = 0; i < CROWD; i++) {
		EXPECT_FALSE(is_armed(crowd[i][0]));
		EXPECT_TRUE(readable(evering_fd(crowd[i][1]), 0));
	}
	/* Once: they are not armed, and then they are again. */
	for (i = 0; i < CROWD; i++) {
		ASSERT_EQ(1, receive_one(crowd[i][1]));
		ASSERT_EQ(0, evering_arm(crowd[i][1], EVERING_RX));
		ASSERT_EQ(0, send_one(crowd[i][0], 1));
	}
	forget_calls();
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_EQ(3, calls.enter);
	for (i = 0; i < CROWD; i++)
		EXPECT_FALSE(is_armed(crowd[i][0]));
	for (i = 0; i < CROWD; i++)
		close_pair(crowd[i]);
}

/* A peer that was not armed when it was rung, and arms the same again, is rung again. */
TEST_F(file, a_ring_that_found_nobody_is_owed_again)
{
	int i;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, evering_set_policy(
				     self->ev[i][0],
				     EVERING_BLOCK | EVERING_LAZY_RING, 0));
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_EQ(0, send_one(self->a, 1));
		disarm_at_enter = self->b;
		ASSERT_EQ(-EAGAIN, evering_group_wait(self->g, &self->events,
						      EVERING_NOWAIT));
		disarm_at_enter = NULL;
		ASSERT_EQ(1, receive_one(self->b));
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_EQ(0, send_one(self->a, 2));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_TRUE(readable(evering_fd(self->b), 0));
		ASSERT_EQ(2, receive_one(self->b));
	}
}

/* A member that is closed while its ring is owed, and one that has its number then. */
TEST_F(file, who_is_closed_is_rung_before)
{
	struct evering *more[2];

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, evering_set_policy(self->a,
					EVERING_BLOCK | EVERING_LAZY_RING, 0));
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	ASSERT_EQ(0, send_one(self->a, 1));
	ASSERT_TRUE(is_armed(self->a));
	ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	EXPECT_FALSE(is_armed(self->a));
	ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX, NULL));
	ASSERT_EQ(1, receive_one(self->b));
	ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
	ASSERT_EQ(0, send_one(self->a, 2));
	evering_close(self->a);
	self->ev[0][0] = NULL;
	ASSERT_TRUE(readable(evering_fd(self->b), 0));
	ASSERT_EQ(2, receive_one(self->b));
	ASSERT_EQ(0, evering_pair(&self->p, more));
	ASSERT_EQ(0, evering_arm(more[1], EVERING_RX));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_TRUE(is_armed(more[0]));
	close_pair(more);
}

/* ---------------------------------------------------------------------- sleeps */

struct helper {
	FIXTURE_DATA(file) * self;
	pthread_t sleeper;
	pid_t tid;
	int lap;
	int laps;
	bool asleep;
	bool wake;
	int result;
};

/* Whenever the main thread sleeps: sends what is due. */
static void *answer_sleeper(void *arg)
{
	struct helper *h = arg;
	uint32_t i;

	for (i = 0; i < (uint32_t)h->laps && !h->result; i++) {
		while (__atomic_load_n(&h->lap, __ATOMIC_ACQUIRE) != (int)i)
			sched_yield();
		if (h->asleep && !falls_asleep(&h->tid))
			h->result = 1;
		if (evering_recv(h->self->b, &(uint32_t){ 0 }, 4, PLENTY))
			h->result = 2;
		if (send_one(h->self->ev[1 + i % (MANY - 1)][1], i))
			h->result = 3;
	}
	return NULL;
}

/*
 * What it owes is paid in the call that it sleeps in, and nothing else is called.  The
 * peer that is rung then, and no other thread, rings it.
 */
TEST_F(file, it_rings_and_sleeps_in_one_call)
{
	struct helper h = { .self = self,
			    .laps = short_run() ? 20 : 100,
			    .tid = my_tid() };
	pthread_t thread;
	int i, most = 1;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, evering_set_policy(self->a,
					EVERING_BLOCK | EVERING_LAZY_RING, 0));
	/* One that has spun has paid before. */
	if (variant->policy == EVERING_ADAPTIVE)
		most = 2;
	h.lap = -1;
	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_sleeper, &h));
	for (i = 0; i < h.laps; i++) {
		ASSERT_EQ(0, all_cold(self->g));
		__atomic_store_n(&h.lap, i, __ATOMIC_RELEASE);
		/* It sleeps for the entry. */
		ASSERT_TRUE(EVENTUALLY(is_armed(self->a)));
		ASSERT_EQ(0, send_one(self->a, 1));
		forget_calls();
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_GE((unsigned int)most, calls.enter);
		ASSERT_LE(1, calls.enter);
		ASSERT_EQ(0, calls.ring + calls.epoll);
		ASSERT_EQ(i, receive_one(self->events[0].ev));
	}
	pthread_join(thread, NULL);
	EXPECT_EQ(0, h.result);
}

static struct evering_group *to_wake;
static int handled;

static void wake_group(int sig)
{
	(void)sig;
	handled++;
	if (to_wake)
		evering_group_wake(to_wake);
}

static void *signal_sleeper(void *arg)
{
	struct helper *h = arg;

	if (!falls_asleep(&h->tid) || pthread_kill(h->sleeper, SIGUSR1))
		h->result = 1;
	return NULL;
}

/* In ENTER: what was to be rung was, once, and the wait ends, whatever the handler does. */
TEST_F(file, a_signal_in_its_sleep_loses_no_ring)
{
	struct sigaction sa = { .sa_handler = wake_group,
				.sa_flags = SA_RESTART };
	pthread_t thread;
	int i;

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, evering_set_policy(self->a,
					EVERING_BLOCK | EVERING_LAZY_RING, 0));
	for (i = 0; i < 20; i++) {
		struct helper h = { .sleeper = pthread_self(),
				    .tid = my_tid() };

		to_wake = i % 2 ? self->g : NULL;
		handled = 0;
		ASSERT_EQ(0, evering_arm(self->b, EVERING_RX));
		ASSERT_EQ(0, send_one(self->a, 1));
		ASSERT_TRUE(is_armed(self->a));
		forget_calls();
		ASSERT_EQ(0, pthread_create(&thread, NULL, signal_sleeper, &h));
		ASSERT_EQ(-EINTR, evering_group_wait(self->g, &self->events,
						     EVERING_WAIT_FOREVER));
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(0, h.result);
		EXPECT_EQ(1, handled);
		EXPECT_TRUE(readable(evering_fd(self->b), 0));
		EXPECT_EQ(0, calls.epoll);
		/* Of evering_group_wake() in the handler; none is paid again. */
		EXPECT_EQ((unsigned int)(i % 2), calls.ring);
		EXPECT_GE(2, calls.enter);
		ASSERT_EQ(1, receive_one(self->b));
		/* By the signal alone it may have been. */
		while (all_cold(self->g))
			;
		ASSERT_EQ(-ETIMEDOUT,
			  evering_group_wait(self->g, &self->events, QUIET));
	}
}

/* -------------------------------------------------------------- both in a group */

struct asker {
	struct evering *(*ev)[2];
	int count;
	uint64_t seed;
	int messages;
	int result;
};

/* Sends on one at random, and waits until that is answered. */
static void *ask_at_random(void *arg)
{
	struct asker *s = arg;
	uint32_t value, answer;
	struct evering *ev;
	int n;

	for (n = 0; n < s->messages && !s->result; n++) {
		ev = s->ev[random_below(&s->seed, (uint64_t)s->count)][1];
		value = (uint32_t)n;
		s->result = evering_send(ev, &value, 4, PLENTY);
		if (!s->result)
			s->result = evering_recv(ev, &answer, 4, PLENTY);
		if (!s->result && answer != value)
			s->result = -EPROTO;
	}
	return NULL;
}

static int answer_all(const struct evering_group_event *events, int n)
{
	uint32_t value;

	while (n-- > 0)
		while (events[n].ev &&
		       !evering_recv(events[n].ev, &value, 4, EVERING_NOWAIT))
			if (evering_send(events[n].ev, &value, 4,
					 EVERING_NOWAIT))
				return -1;
	return 0;
}

static int stress_length(void)
{
	return short_run() || SANITIZED ? 300 : 1500;
}

/* Answers until the other thread has ended; a wake-up that is lost ends that with -ETIMEDOUT. */
static int serve(struct evering_group *g, pthread_t thread, int *events_of_fd)
{
	const struct evering_group_event *events;
	int n;

	for (;;) {
		n = evering_group_wait(g, &events, 20 * MSEC);
		if (n == -ETIMEDOUT && pthread_tryjoin_np(thread, NULL) == 0)
			return 0;
		if (n == -ETIMEDOUT || n == -EINTR)
			continue;
		if (n < 1)
			return n;
		while (n && events[n - 1].what == EVERING_GROUP_FD) {
			++*events_of_fd;
			n--;
		}
		if (answer_all(events, n))
			return -EPROTO;
	}
}

TEST_F(file, members_of_both_backends)
{
	struct evering *ev[2 * MANY][2] = { 0 };
	struct asker s = { .ev = ev,
			   .count = 2 * MANY,
			   .seed = random_seed(),
			   .messages = stress_length() };
	int i, events_of_fd = 0;
	pthread_t thread;

	for (i = 0; i < 2 * MANY; i++) {
		ASSERT_EQ(0,
			  evering_pair(i % 2 ? &self->p : &self->memfd, ev[i]));
		evering_set_policy(ev[i][1], EVERING_BLOCK, 0);
		evering_set_policy(
			ev[i][0],
			EVERING_BLOCK | (i % 3 ? EVERING_LAZY_RING : 0), 0);
		ASSERT_EQ(0, evering_group_add(self->g, ev[i][0], EVERING_RX,
					       &ev[i]));
	}
	EXPECT_EQ(MANY, members());
	for (i = 0; i < 2 * MANY; i++) {
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(0, one_is_told(self->g, ev[i], 5));
	}
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask_at_random, &s));
	ASSERT_EQ(0, serve(self->g, thread, &events_of_fd));
	EXPECT_EQ(0, s.result);
	/* Those of memfd leave, those of the device stay; and the other way round. */
	for (i = 0; i < 2 * MANY; i += 2)
		close_pair(ev[i]);
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(0, one_is_told(self->g, ev[1], 6));
	for (i = 1; i < 2 * MANY; i += 2)
		close_pair(ev[i]);
	ASSERT_EQ(0, evering_pair(&self->memfd, ev[0]));
	ASSERT_EQ(0, evering_group_add(self->g, ev[0][0], EVERING_RX, NULL));
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(0, one_is_told(self->g, ev[0], 7));
	EXPECT_EQ(0, members());
	close_pair(ev[0]);
}

/* One that has died stays, and its bell is rung: whoever polls the group can sleep. */
TEST_F(file, a_dead_member_of_memfd_keeps_nobody_awake)
{
	int fd = evering_group_fd(self->g), bell_fd;
	struct evering_bell bell;
	struct evering *ev[2];
	uint64_t one = 1;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, evering_pair(&self->memfd, ev));
	ASSERT_EQ(0, evering_group_add(self->g, ev[0], EVERING_RX, NULL));
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(1, evering_flush_begin(ev[1], &bell));
	bell_fd = dup(bell.fd);
	ASSERT_LE(0, bell_fd);
	evering_close(ev[1]);
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	ASSERT_EQ(EVERING_GROUP_GONE, self->events[0].what);
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(8, write(bell_fd, &one, 8));
	ASSERT_EQ(0, all_cold(self->g));
	EXPECT_FALSE(readable(fd, 0));
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	evering_close(ev[0]);
	close(bell_fd);
}

/* A listener that nobody comes to, and a descriptor, beside members that are rung. */
TEST_F(file, a_listener_and_a_descriptor_beside_members)
{
	struct asker s = { .ev = self->ev,
			   .count = MANY,
			   .seed = random_seed(),
			   .messages = stress_length() };
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), told = 0, i, n;
	struct evering_listener *listener;
	uint64_t one = 1;
	pthread_t thread;
	char path[64];

	snprintf(path, sizeof(path), "@evering-file-%d", getpid());
	ASSERT_EQ(0, evering_listen(path, 0, &listener));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	ASSERT_EQ(0, evering_group_add_listener(self->g, listener, NULL));
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	ASSERT_EQ(0, evering_group_add_fd(self->g, fd, POLLIN, NULL));
	for (i = 0; i < MANY; i++)
		evering_set_policy(self->ev[i][1], EVERING_BLOCK, 0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask_at_random, &s));
	ASSERT_EQ(0, serve(self->g, thread, &told));
	EXPECT_EQ(0, s.result);
	EXPECT_EQ(0, told);
	/* The descriptor, when all sleep. */
	ASSERT_EQ(0, all_cold(self->g));
	ASSERT_EQ(8, write(fd, &one, 8));
	ASSERT_EQ(1, evering_group_wait(self->g, &self->events, PLENTY));
	EXPECT_EQ(EVERING_GROUP_FD, self->events[0].what);
	ASSERT_EQ(8, read(fd, &one, 8));
	/* When they have left it sleeps in the file again. */
	ASSERT_EQ(0, evering_group_remove_fd(self->g, fd));
	evering_listener_close(listener);
	forget_calls();
	n = evering_group_wait(self->g, &self->events, QUIET);
	EXPECT_EQ(-ETIMEDOUT, n);
	EXPECT_EQ(0, calls.epoll);
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	close(fd);
}

/* ------------------------------------------------------------- coming and going */

/* Members come and go, and move between groups, while the others are rung. */
TEST_F(file, members_come_while_others_ring)
{
	struct evering *ev[MANY][2] = { 0 };
	struct asker s = { .ev = self->ev,
			   .count = MANY,
			   .seed = random_seed(),
			   .messages = stress_length() };
	const struct evering_group_event *events;
	uint64_t seed = random_seed();
	struct evering_group *other;
	int n, k, moves = 0;
	bool in[MANY] = { 0 };
	pthread_t thread;

	ASSERT_EQ(0, open_group(variant->policy, &other));
	for (n = 0; n < MANY; n++) {
		ASSERT_EQ(0, evering_pair(&self->p, ev[n]));
		evering_set_policy(self->ev[n][1], EVERING_BLOCK, 0);
	}
	ASSERT_EQ(0, add_all(self->g, self->ev));
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask_at_random, &s));
	for (;;) {
		n = evering_group_wait(self->g, &events, 20 * MSEC);
		if (n == -ETIMEDOUT && pthread_tryjoin_np(thread, NULL) == 0)
			break;
		ASSERT_TRUE(n >= 1 || n == -ETIMEDOUT || n == -EINTR)
		{
			TH_LOG("%d", n);
		}
		ASSERT_EQ(0, answer_all(events, n));
		/* Another one comes, or goes; or one of those that are rung moves. */
		k = (int)random_below(&seed, MANY);
		if (in[k]) {
			ASSERT_EQ(0, evering_group_remove(self->g, ev[k][0]));
		} else {
			ASSERT_EQ(0, evering_group_add(self->g, ev[k][0],
						       EVERING_RX, NULL));
		}
		in[k] = !in[k];
		k = (int)random_below(&seed, MANY);
		ASSERT_EQ(0, evering_group_remove(self->g, self->ev[k][0]));
		ASSERT_EQ(0, evering_group_add(other, self->ev[k][0],
					       EVERING_RX, NULL));
		if (moves++ % 2)
			all_cold(other);
		ASSERT_EQ(0, evering_group_remove(other, self->ev[k][0]));
		ASSERT_EQ(0, evering_group_add(self->g, self->ev[k][0],
					       EVERING_RX, &self->ev[k]));
	}
	EXPECT_EQ(0, s.result);
	for (n = 0; n < MANY; n++)
		close_pair(ev[n]);
	EXPECT_EQ(MANY, members());
	evering_group_close(other);
}

/* A ring of what evering_arm() had armed before it was added counts. */
TEST_F(file, one_that_was_rung_before_it_is_added)
{
	uint32_t i;

	for (i = 0; i < 20; i++) {
		/* In the set, and then in the file. */
		refuse_group = i < 10 ? EDQUOT : 0;
		ASSERT_EQ(0, evering_arm(self->a, EVERING_RX));
		ASSERT_EQ(0, send_one(self->b, i));
		ASSERT_FALSE(is_armed(self->b));
		ASSERT_EQ(i, receive_one(self->a));
		ASSERT_EQ(0, evering_group_add(self->g, self->a, EVERING_RX,
					       NULL));
		ASSERT_EQ(0, all_cold(self->g));
		ASSERT_TRUE(is_armed(self->b));
		ASSERT_EQ(0, one_is_told(self->g, self->ev[0], i));
		ASSERT_EQ(0, evering_group_remove(self->g, self->a));
	}
}

TEST_F(file, deaths_are_told_asleep_and_awake)
{
	int i, n;

	ASSERT_EQ(0, add_all(self->g, self->ev));
	for (i = 0; i < MANY; i++) {
		if (i % 2)
			ASSERT_EQ(0, all_cold(self->g));
		ASSERT_EQ(0, send_one(self->ev[i][1], 3));
		evering_close(self->ev[i][1]);
		self->ev[i][1] = NULL;
		ASSERT_EQ(1,
			  evering_group_wait(self->g, &self->events, PLENTY));
		ASSERT_EQ(EVERING_RX, self->events[0].what);
		ASSERT_EQ(3, receive_one(self->ev[i][0]));
		n = evering_group_wait(self->g, &self->events, PLENTY);
		ASSERT_EQ(1, n);
		ASSERT_EQ(EVERING_GROUP_GONE, self->events[0].what);
		ASSERT_EQ(self->ev[i][0], self->events[0].ev);
	}
	EXPECT_EQ(-ETIMEDOUT,
		  evering_group_wait(self->g, &self->events, QUIET));
}

/* ------------------------------------------------------------------------- fork */

/* Where the page of the only group is, or NULL. */
static void *page_of_group(void)
{
	unsigned long at = 0, found = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "evering-group") &&
		    sscanf(line, "%lx-", &at) == 1)
			found = at;
	if (f)
		fclose(f);
	return (void *)found;
}

/* In the child: it closes the group, and leaves alone what is in the place of the page. */
static int close_in_child(struct evering_group *g, void *page)
{
	char *own = mmap(page, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
			 0);

	if (own != page)
		return 1;
	*own = 5;
	evering_group_close(g);
	return msync(own, 4096, MS_ASYNC) || *own != 5 ? 2 : 0;
}

/* A child has the file as well: what the parent has removed is free all the same. */
TEST_F(file, a_child_that_lives_on_keeps_no_member)
{
	struct evering_group *other;
	int gate[2];
	void *page;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe2(gate, O_CLOEXEC));
	ASSERT_EQ(0, add_all(self->g, self->ev));
	page = page_of_group();
	ASSERT_NE(NULL, page);
	ASSERT_EQ(0, all_cold(self->g));
	fflush(NULL);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(gate[1]);
		if (read(gate[0], &c, 1) < 0)
			_exit(1);
		_exit(close_in_child(self->g, page));
	}
	close(gate[0]);
	ASSERT_EQ(0, each_is_told(self->g, self->ev));
	evering_group_close(self->g);
	ASSERT_EQ(0, open_group(variant->policy, &other));
	self->g = other;
	ASSERT_EQ(0, add_all(other, self->ev));
	EXPECT_EQ(MANY, members());
	ASSERT_EQ(0, each_is_told(other, self->ev));
	close(gate[1]);
	EXPECT_EQ(0, reap(pid));
	ASSERT_EQ(0, each_is_told(other, self->ev));
}

TEST_HARNESS_MAIN
