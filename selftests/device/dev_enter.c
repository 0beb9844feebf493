// SPDX-License-Identifier: MIT
/*
 * dev_enter.c: ENTER, which rings the peer and sleeps in one call: what it
 * returns, when it times out, what signals do to it, whom a ring wakes when
 * several threads wait on one endpoint, and that no wake-up is lost in a
 * hundred thousand rounds of two processes that ring and sleep.
 */
#include "dev.h"

#include <sys/resource.h>
#include <sys/wait.h>

static const struct evering_geometry *const G = &small_geometry;

FIXTURE(enter)
{
	int dev;
	int fd[2];
	struct side a, b; /* B sleeps, A rings */
};

FIXTURE_SETUP(enter)
{
	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	ASSERT_EQ(0, side_map(&self->a, G, self->fd[0], EVERING_A));
	ASSERT_EQ(0, side_map(&self->b, G, self->fd[1], EVERING_B));
}

FIXTURE_TEARDOWN(enter)
{
}

static uint64_t in(int64_t ns)
{
	return (uint64_t)(now_ns() + ns);
}

/* A thread in ENTER. */
struct sleeper {
	int fd;
	uint32_t flags, ring, wait;
	uint64_t timeout;
	int ret;
	int64_t returned; /* when */
	pid_t tid;
	bool done;
	pthread_t thread;
};

static void *sleep_in_thread(void *arg)
{
	struct sleeper *s = arg;
	int64_t start = now_ns();

	__atomic_store_n(&s->tid, my_tid(), __ATOMIC_RELEASE);
	s->ret = dev_enter_flags(s->fd, s->flags, s->ring, s->wait, s->timeout);
	s->returned = now_ns();
	if (s->ret != -ETIMEDOUT && s->returned > start + PLENTY)
		s->ret = TOO_LATE;
	__atomic_store_n(&s->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool is_done(const struct sleeper *s)
{
	return __atomic_load_n(&s->done, __ATOMIC_ACQUIRE);
}

/* Returns when it sleeps, or has slept already. */
static bool start(struct sleeper *s, int fd, uint32_t wait, uint64_t timeout)
{
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->wait = wait;
	s->timeout = timeout;
	if (pthread_create(&s->thread, NULL, sleep_in_thread, s))
		return false;
	return EVENTUALLY(is_done(s) || is_asleep(&s->tid));
}

static int result(struct sleeper *s)
{
	pthread_join(s->thread, NULL);
	return s->ret;
}

/* ---------------------------------------------------------- what it returns */

TEST_F(enter, what_is_rung_already_is_returned_at_once)
{
	EXPECT_EQ(RX, dev_enter(self->fd[1], 0, RX, EVERING_FOREVER));
	EXPECT_EQ(TX, dev_enter(self->fd[1], 0, TX, EVERING_FOREVER));
	EXPECT_EQ(RX | TX, dev_enter(self->fd[1], 0, RX | TX, EVERING_FOREVER));
	arm(self->b.own, RX);
	EXPECT_EQ(TX, dev_enter(self->fd[1], 0, RX | TX, EVERING_FOREVER));
	/* Waiting does not disarm: who is not rung stays armed. */
	EXPECT_EQ(RX, armed(self->b.own));
	/* Neither does the past make a ring undone. */
	EXPECT_EQ(TX, dev_enter(self->fd[1], 0, TX, 0));
}

TEST_F(enter, what_was_armed_at_the_peer_is_returned_too)
{
	EXPECT_EQ(0, dev_enter(self->fd[0], RX | TX, 0, 0));
	arm(self->b.own, RX);
	EXPECT_EQ(RANG_RX, dev_enter(self->fd[0], RX | TX, 0, 0));
	arm(self->b.own, TX);
	EXPECT_EQ(RANG_TX | RX, dev_enter(self->fd[0], TX, RX, 0));
	arm(self->b.own, RX | TX);
	EXPECT_EQ(RANG_RX | RANG_TX | RX | TX,
		  dev_enter(self->fd[0], RX | TX, RX | TX, EVERING_FOREVER));
	EXPECT_EQ(0, armed(self->b.own));
}

TEST_F(enter, it_sleeps_until_rung)
{
	struct sleeper s;
	int i;

	for (i = 0; i < 20; i++) {
		arm(self->b.own, RX);
		ASSERT_TRUE(start(&s, self->fd[1], RX, EVERING_FOREVER));
		EXPECT_FALSE(is_done(&s));
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
		EXPECT_EQ(RX, result(&s));
	}
}

TEST_F(enter, two_bells)
{
	struct sleeper s;

	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start(&s, self->fd[1], RX | TX, EVERING_FOREVER));
	EXPECT_EQ(TX, dev_ring(self->fd[0], TX));
	EXPECT_EQ(TX, result(&s));
	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start(&s, self->fd[1], RX | TX, EVERING_FOREVER));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&s));
	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start(&s, self->fd[1], RX | TX, EVERING_FOREVER));
	EXPECT_EQ(RX | TX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(RX | TX, result(&s));
}

/*
 * A ring by ENTER, with and without a sleep after it, is a ring like any other.
 */
TEST_F(enter, it_rings_the_sleeper)
{
	struct sleeper b, a;

	arm(self->b.own, RX);
	arm(self->a.own, RX);
	ASSERT_TRUE(start(&b, self->fd[1], RX, EVERING_FOREVER));
	memset(&a, 0, sizeof(a));
	a.fd = self->fd[0];
	a.ring = RX;
	a.wait = RX;
	a.timeout = EVERING_FOREVER;
	ASSERT_EQ(0, pthread_create(&a.thread, NULL, sleep_in_thread, &a));
	EXPECT_EQ(RX, result(&b));
	EXPECT_FALSE(is_done(&a));
	EXPECT_EQ(RANG_RX, dev_enter(self->fd[1], RX, 0, 0));
	EXPECT_EQ(RX | RANG_RX, result(&a));
}

TEST_F(enter, an_endpoint_does_not_hear_its_own_ring)
{
	arm(self->b.own, RX);
	EXPECT_EQ(-ETIMEDOUT, dev_enter(self->fd[1], RX, RX, in(2 * MSEC)));
	EXPECT_EQ(RX, armed(self->b.own));
}

/* --------------------------------------------------------------------- time */

TEST_F(enter, it_times_out_and_never_early)
{
	uint64_t until;
	int i;

	arm(self->b.own, RX | TX);
	for (i = 0; i < 50; i++) {
		until = in(i * 100 * USEC);
		ASSERT_EQ(-ETIMEDOUT,
			  dev_enter(self->fd[1], 0, RX | TX, until));
		ASSERT_GE((uint64_t)now_ns(), until);
	}
	EXPECT_EQ(RX | TX, armed(self->b.own));
}

TEST_F(enter, the_past_is_over_at_once_but_the_ring_is_heard)
{
	const uint64_t past[] = { 0, 1, 1000000, in(-SEC), in(-1) };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(past); i++) {
		arm(self->a.own, RX);
		arm(self->b.own, RX);
		EXPECT_EQ(-ETIMEDOUT, dev_enter(self->fd[1], RX, RX, past[i]));
		EXPECT_EQ(0, armed(self->a.own));
	}
}

TEST_F(enter, the_far_future_is_no_overflow)
{
	const uint64_t far[] = { EVERING_FOREVER, 1ull << 62,
				 INT64_MAX - 1,	  INT64_MAX,
				 1ull << 63,	  EVERING_FOREVER - 1,
				 EVERING_FOREVER };
	struct sleeper s;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(far); i++) {
		arm(self->b.own, RX);
		ASSERT_TRUE(start(&s, self->fd[1], RX, far[i]));
		EXPECT_FALSE(is_done(&s));
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
		EXPECT_EQ(RX, result(&s));
	}
}

TEST_F(enter, without_wait_the_timeout_means_nothing)
{
	EXPECT_EQ(0, dev_enter(self->fd[1], RX, 0, 0));
	EXPECT_EQ(0, dev_enter(self->fd[1], RX, 0, EVERING_FOREVER));
}

TEST_F(enter, nonblock)
{
	int flags = fcntl(self->fd[1], F_GETFL);

	ASSERT_EQ(0, fcntl(self->fd[1], F_SETFL, flags | O_NONBLOCK));
	arm(self->b.own, RX);
	EXPECT_EQ(-EAGAIN, dev_enter(self->fd[1], 0, RX, EVERING_FOREVER));
	EXPECT_EQ(-EAGAIN, dev_enter(self->fd[1], 0, RX, in(PLENTY)));
	EXPECT_EQ(TX, dev_enter(self->fd[1], 0, RX | TX, EVERING_FOREVER));
	/* The ring was for the peer, who hears it. */
	arm(self->a.own, TX);
	EXPECT_EQ(-EAGAIN, dev_enter(self->fd[1], TX, RX, EVERING_FOREVER));
	EXPECT_EQ(0, armed(self->a.own));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, dev_enter(self->fd[1], 0, RX, EVERING_FOREVER));
	ASSERT_EQ(0, fcntl(self->fd[1], F_SETFL, flags));
	arm(self->b.own, RX);
	EXPECT_EQ(-ETIMEDOUT, dev_enter(self->fd[1], 0, RX, in(MSEC)));
}

static int time_out_in_namespace(int fd)
{
	uint64_t until = in(20 * MSEC);
	int ret = dev_enter(fd, 0, RX, until);

	if (ret != -ETIMEDOUT)
		return 1;
	if ((uint64_t)now_ns() < until)
		return 2;
	/* When this clock began, the kernel's need not have begun. */
	return dev_enter(fd, 0, RX, 1) == -ETIMEDOUT ? 0 : 3;
}

/* The clock of the caller's time namespace, which is not the kernel's. */
TEST_F(enter, in_a_time_namespace)
{
	static const char *const offsets[] = { "monotonic 1000000 0",
					       "monotonic -1 0",
					       "monotonic 0 0" };
	size_t i;
	pid_t pid;
	int fd, ret;

	arm(self->b.own, RX);
	/* No clock can be set back to before it began. */
	while (now_ns() < 2 * SEC)
		sleep_ns(100 * MSEC);
	for (i = 0; i < ARRAY_SIZE(offsets); i++) {
		pid = fork();
		if (!pid) {
			if (unshare(CLONE_NEWTIME))
				_exit(50);
			fd = open("/proc/self/timens_offsets", O_WRONLY);
			if (fd < 0 ||
			    write(fd, offsets[i], strlen(offsets[i])) < 0)
				_exit(51);
			pid = fork();
			if (!pid)
				_exit(time_out_in_namespace(self->fd[1]));
			_exit(reap(pid) & 0xff);
		}
		ret = reap_within(pid, 2 * PLENTY);
		if (ret == 50)
			SKIP(return, "no time namespace");
		EXPECT_EQ(0, ret);
	}
}

/* ------------------------------------------------------------------ signals */

static volatile sig_atomic_t handled;
static int ring_in_handler;

static void on_signal(int sig)
{
	(void)sig;
	handled++;
	if (ring_in_handler) {
		ioctl(ring_in_handler, EVERING_IOC_RING, (unsigned long)RX);
		ring_in_handler = 0;
	}
}

static void handle_usr1(int flags)
{
	struct sigaction action = { .sa_handler = on_signal,
				    .sa_flags = flags };

	handled = 0;
	ring_in_handler = 0;
	sigaction(SIGUSR1, &action, NULL);
}

TEST_F(enter, a_signal_interrupts_it)
{
	struct sleeper s;

	handle_usr1(0);
	arm(self->b.own, RX);
	ASSERT_TRUE(start(&s, self->fd[1], RX, EVERING_FOREVER));
	pthread_kill(s.thread, SIGUSR1);
	EXPECT_EQ(-EINTR, result(&s));
	EXPECT_EQ(1, handled);
	EXPECT_EQ(RX, armed(self->b.own));
}

TEST_F(enter, a_signal_with_restart_does_not)
{
	struct sleeper s;
	int i;

	handle_usr1(SA_RESTART);
	arm(self->b.own, RX);
	ASSERT_TRUE(start(&s, self->fd[1], RX, EVERING_FOREVER));
	for (i = 1; i <= 20; i++) {
		pthread_kill(s.thread, SIGUSR1);
		ASSERT_TRUE(EVENTUALLY(handled == i));
		ASSERT_TRUE(falls_asleep(&s.tid));
		ASSERT_FALSE(is_done(&s));
	}
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&s));
}

/* Rung while the handler runs: the restarted call finds nothing armed. */
TEST_F(enter, a_ring_that_comes_with_a_signal_is_not_lost)
{
	struct sleeper s;
	int i;

	for (i = 0; i < 20; i++) {
		handle_usr1(SA_RESTART);
		arm(self->b.own, RX);
		ASSERT_TRUE(start(&s, self->fd[1], RX, EVERING_FOREVER));
		ring_in_handler = self->fd[0];
		pthread_kill(s.thread, SIGUSR1);
		EXPECT_EQ(RX, result(&s));
		EXPECT_EQ(1, handled);
		EXPECT_EQ(0, armed(self->b.own));
	}
}

/* As poll(2) does; and like poll(2) it minds no signal that nobody handles. */
TEST_F(enter, no_restart_means_interrupted_by_any_handler)
{
	struct sleeper s = { .fd = self->fd[1],
			     .flags = EVERING_ENTER_NO_RESTART,
			     .wait = RX,
			     .timeout = EVERING_FOREVER };
	int i;

	for (i = 0; i < 2; i++) {
		handle_usr1(i ? SA_RESTART : 0);
		arm(self->b.own, RX);
		s.tid = 0;
		ASSERT_EQ(0,
			  pthread_create(&s.thread, NULL, sleep_in_thread, &s));
		ASSERT_TRUE(falls_asleep(&s.tid));
		pthread_kill(s.thread, SIGUSR1);
		EXPECT_EQ(-EINTR, result(&s));
		EXPECT_EQ(1, handled);
		EXPECT_EQ(RX, armed(self->b.own));
	}
}

/* What it rings before it sleeps is rung once, restarted or not. */
TEST_F(enter, a_restarted_call_rings_nobody_twice)
{
	struct sleeper s = { 0 };

	handle_usr1(SA_RESTART);
	arm(self->a.own, RX);
	arm(self->b.own, RX);
	s.fd = self->fd[1];
	s.ring = RX;
	s.wait = RX;
	s.timeout = EVERING_FOREVER;
	ASSERT_EQ(0, pthread_create(&s.thread, NULL, sleep_in_thread, &s));
	ASSERT_TRUE(falls_asleep(&s.tid));
	EXPECT_EQ(0, armed(self->a.own));
	pthread_kill(s.thread, SIGUSR1);
	ASSERT_TRUE(EVENTUALLY(handled == 1));
	ASSERT_TRUE(falls_asleep(&s.tid));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&s) & ~RANG_RX);
	EXPECT_STREQ("1\t0", fdinfo(self->fd[0], "wakes") ? "1\t0" : "(none)");
}

/* Nor one who arms again in between, however often the call is restarted. */
TEST_F(enter, a_call_rings_once_however_often_it_is_restarted)
{
	struct sleeper s = { .fd = self->fd[1],
			     .ring = RX,
			     .wait = RX,
			     .timeout = EVERING_FOREVER };
	int i;

	handle_usr1(SA_RESTART);
	arm(self->a.own, RX);
	arm(self->b.own, RX);
	ASSERT_EQ(0, pthread_create(&s.thread, NULL, sleep_in_thread, &s));
	ASSERT_TRUE(falls_asleep(&s.tid));
	EXPECT_EQ(0, armed(self->a.own));
	for (i = 1; i <= 10; i++) {
		arm(self->a.own, RX);
		pthread_kill(s.thread, SIGUSR1);
		ASSERT_TRUE(EVENTUALLY(handled == i));
		ASSERT_TRUE(falls_asleep(&s.tid));
		EXPECT_EQ(RX, armed(self->a.own));
	}
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	/* And it has not forgotten that it rang. */
	EXPECT_EQ(RX | RANG_RX, result(&s));
}

struct const_sleeper {
	int fd;
	struct evering_enter *enter;
	int ret;
	pid_t tid;
	pthread_t thread;
};

static void *sleep_with(void *arg)
{
	struct const_sleeper *s = arg;

	__atomic_store_n(&s->tid, my_tid(), __ATOMIC_RELEASE);
	s->ret = dev_ioctl(s->fd, EVERING_IOC_ENTER, s->enter);
	return NULL;
}

/* Where that cannot be remembered the call is not restarted. */
TEST_F(enter, a_struct_that_cannot_be_written_is_interrupted)
{
	const struct evering_enter enter = { .size = sizeof(enter),
					     .wait = RX,
					     .timeout = EVERING_FOREVER };
	struct const_sleeper s = { .fd = self->fd[1] };
	bool rings;
	int i;

	for (i = 0; i < 2; i++) {
		rings = i;
		handle_usr1(SA_RESTART);
		arm(self->b.own, RX);
		s.enter = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, (void *)s.enter);
		*s.enter = enter;
		s.enter->ring = rings ? RX : 0;
		ASSERT_EQ(0, mprotect(s.enter, PAGE, PROT_READ));
		s.tid = 0;
		ASSERT_EQ(0, pthread_create(&s.thread, NULL, sleep_with, &s));
		ASSERT_TRUE(falls_asleep(&s.tid));
		pthread_kill(s.thread, SIGUSR1);
		ASSERT_TRUE(EVENTUALLY(handled == 1));
		/* One that rang nobody has nothing to remember. */
		if (!rings) {
			ASSERT_TRUE(falls_asleep(&s.tid));
			EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
		}
		pthread_join(s.thread, NULL);
		EXPECT_EQ(rings ? -EINTR : (int)RX, s.ret);
	}
}

TEST_F(enter, restarted_again_and_again_it_still_ends_in_time)
{
	struct sleeper s;
	/* It is to be asleep long before. */
	uint64_t until = in(200 * MSEC + slow(10 * MSEC));
	int i = 0;

	handle_usr1(SA_RESTART);
	arm(self->b.own, RX);
	ASSERT_TRUE(start(&s, self->fd[1], RX, until));
	while (!is_done(&s) && now_ns() < (int64_t)until + PLENTY) {
		pthread_kill(s.thread, SIGUSR1);
		sleep_ns(5 * MSEC);
		i++;
	}
	EXPECT_EQ(-ETIMEDOUT, result(&s));
	EXPECT_GE((uint64_t)s.returned, until);
	EXPECT_GE(i, 2);
}

static int sleep_once(void *arg)
{
	struct sleeper *s = arg;
	struct side b;

	if (side_map(&b, G, s->fd, EVERING_B))
		return 1;
	/*
	 * For ever: a wake-up that is lost must not look like one that is late.
	 */
	return dev_enter_flags(s->fd, s->flags, 0, RX, EVERING_FOREVER) != RX;
}

static void stop_and_continue(struct __test_metadata *_metadata,
			      FIXTURE_DATA(enter) * self, uint32_t flags)
{
	struct sleeper s = { .fd = self->fd[1], .flags = flags };
	int status;
	pid_t pid;

	arm(self->b.own, RX);
	pid = spawn(sleep_once, &s);
	ASSERT_TRUE(falls_asleep(&pid));
	kill(pid, SIGSTOP);
	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	kill(pid, SIGCONT);
	ASSERT_TRUE(falls_asleep(&pid));
	/* Stopped again, and rung meanwhile. */
	kill(pid, SIGSTOP);
	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	kill(pid, SIGCONT);
	EXPECT_EQ(0, reap(pid));
}

TEST_F(enter, stopped_and_continued_it_sleeps_on)
{
	stop_and_continue(_metadata, self, 0);
}

TEST_F(enter, stopped_and_continued_with_no_restart_it_sleeps_on)
{
	stop_and_continue(_metadata, self, EVERING_ENTER_NO_RESTART);
}

/* -------------------------------------------------------------------- death */

TEST_F(enter, the_peer_detaches)
{
	struct sleeper s;

	arm(self->b.own, RX);
	ASSERT_TRUE(start(&s, self->fd[1], RX, EVERING_FOREVER));
	side_unmap(&self->a);
	EXPECT_EQ(-EPIPE, result(&s));
	EXPECT_EQ(-EPIPE, dev_enter(self->fd[1], 0, RX, EVERING_FOREVER));
	EXPECT_EQ(-EPIPE, dev_enter(self->fd[1], 0, RX, 0));
	/* What was rung before counts more. */
	EXPECT_EQ(TX, dev_enter(self->fd[1], 0, RX | TX, EVERING_FOREVER));
	EXPECT_EQ(0, dev_enter(self->fd[1], RX, 0, 0));
	/* And it stays so, whoever maps the half afterwards. */
	ASSERT_EQ(0, side_map(&self->a, G, self->fd[0], EVERING_A));
	EXPECT_EQ(-EPIPE, dev_enter(self->fd[1], 0, RX, EVERING_FOREVER));
}

TEST_F(enter, the_peer_closes)
{
	struct sleeper s[3];
	int i;

	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start(&s[0], self->fd[1], RX, EVERING_FOREVER));
	ASSERT_TRUE(start(&s[1], self->fd[1], TX, EVERING_FOREVER));
	ASSERT_TRUE(start(&s[2], self->fd[1], RX | TX, EVERING_FOREVER));
	close(self->fd[0]);
	for (i = 0; i < 3; i++)
		EXPECT_FALSE(is_done(&s[i]));
	side_unmap(&self->a);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-EPIPE, result(&s[i]));
	EXPECT_EQ(0, dev_ring(self->fd[1], RX));
}

TEST_F(enter, a_peer_that_never_came_is_waited_for)
{
	struct sleeper s;
	struct side b;
	int fd[2];

	ASSERT_EQ(0, dev_pair(self->dev, G, fd));
	ASSERT_EQ(0, side_map(&b, G, fd[1], EVERING_B));
	arm(b.own, RX);
	EXPECT_EQ(-ETIMEDOUT, dev_enter(fd[1], 0, RX, in(MSEC)));
	/* Nor need one have mapped to ring. */
	ASSERT_TRUE(start(&s, fd[1], RX, EVERING_FOREVER));
	EXPECT_EQ(RX, dev_ring(fd[0], RX));
	EXPECT_EQ(RX, result(&s));
	arm(b.own, RX);
	ASSERT_TRUE(start(&s, fd[1], RX, EVERING_FOREVER));
	close(fd[0]);
	EXPECT_EQ(-EPIPE, result(&s));
}

/* Its own file may be closed under a thread that sleeps in it. */
TEST_F(enter, closing_ones_own_descriptor_wakes_nobody_and_hurts_nobody)
{
	struct sleeper s;

	arm(self->b.own, RX);
	ASSERT_TRUE(start(&s, self->fd[1], RX, EVERING_FOREVER));
	close(self->fd[1]);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&s));
}

/* --------------------------------------------------------- several sleepers */

TEST_F(enter, each_thread_hears_its_bell)
{
	struct sleeper rx, tx;

	arm(self->b.own, RX | TX);
	ASSERT_TRUE(start(&rx, self->fd[1], RX, EVERING_FOREVER));
	ASSERT_TRUE(start(&tx, self->fd[1], TX, EVERING_FOREVER));
	EXPECT_EQ(TX, dev_ring(self->fd[0], TX));
	EXPECT_EQ(TX, result(&tx));
	EXPECT_TRUE(falls_asleep(&rx.tid));
	EXPECT_FALSE(is_done(&rx));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&rx));
}

/*
 * The bell is rung for whoever waits for it, as long as nobody arms it again.
 */
TEST_F(enter, all_threads_on_one_bell_hear_it)
{
	struct sleeper s[5];
	uint32_t bell;
	int i, round;

	for (round = 0; round < 10; round++) {
		bell = round & 1 ? RX : TX;
		arm(self->b.own, RX | TX);
		for (i = 0; i < 5; i++)
			ASSERT_TRUE(start(&s[i], self->fd[1],
					  i & 1 ? bell : RX | TX,
					  EVERING_FOREVER));
		EXPECT_EQ((int)bell, dev_ring(self->fd[0], bell));
		for (i = 0; i < 5; i++)
			EXPECT_EQ((int)bell, result(&s[i]));
	}
}

/* Whoever leaves early leaves the others what they need to be woken. */
TEST_F(enter, a_thread_that_times_out_takes_nothing_with_it)
{
	struct sleeper first, second, third;

	arm(self->b.own, RX);
	ASSERT_TRUE(start(&first, self->fd[1], RX, in(300 * MSEC)));
	ASSERT_TRUE(start(&second, self->fd[1], RX, EVERING_FOREVER));
	EXPECT_EQ(-ETIMEDOUT, result(&first));
	ASSERT_TRUE(start(&third, self->fd[1], RX, EVERING_FOREVER));
	EXPECT_FALSE(is_done(&second));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&second));
	EXPECT_EQ(RX, result(&third));
}

TEST_F(enter, a_thread_that_is_interrupted_takes_nothing_with_it)
{
	struct sleeper s[3];
	int i;

	handle_usr1(0);
	arm(self->b.own, RX);
	for (i = 0; i < 3; i++)
		ASSERT_TRUE(start(&s[i], self->fd[1], RX, EVERING_FOREVER));
	for (i = 0; i < 2; i++) {
		pthread_kill(s[i].thread, SIGUSR1);
		EXPECT_EQ(-EINTR, result(&s[i]));
	}
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(RX, result(&s[2]));
}

struct churner {
	struct side *b;
	bool *stop;
	uint64_t seed;
	uint32_t wait;
	uint64_t bad;
	pthread_t thread;
};

/* Comes and goes, now and then by time-out. */
static void *churn(void *arg)
{
	struct churner *c = arg;
	int ret;

	while (!__atomic_load_n(c->stop, __ATOMIC_RELAXED)) {
		arm(c->b->own, c->wait);
		ret = dev_enter(
			c->b->fd, 0, c->wait,
			in((int64_t)random_below(&c->seed, 400 * USEC)));
		if (ret != -ETIMEDOUT && (ret <= 0 || ret & ~(int)c->wait))
			c->bad++;
	}
	return NULL;
}

TEST_F(enter, many_threads_come_and_go)
{
	struct churner c[4] = { 0 };
	bool stop = false;
	int64_t end = now_ns() + (short_run() ? SEC / 4 : SEC);
	int i;

	for (i = 0; i < 4; i++) {
		c[i].b = &self->b;
		c[i].stop = &stop;
		c[i].seed = (uint64_t)i;
		c[i].wait = 1 + (uint32_t)i % 3;
		ASSERT_EQ(0, pthread_create(&c[i].thread, NULL, churn, &c[i]));
	}
	while (now_ns() < end)
		dev_ring(self->fd[0], RX | TX);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < 4; i++) {
		pthread_join(c[i].thread, NULL);
		EXPECT_EQ(0, c[i].bad);
	}
	/* Nobody is left in a place where a ring would look for them. */
	arm(self->b.own, RX | TX);
	EXPECT_EQ(RX | TX, dev_ring(self->fd[0], RX | TX));
}

/* -------------------------------------------------- two processes, and time */

/*
 * The word that a side counts up for the other: the first of its slots.  The
 * doorbell protocol of the header is about exactly this: store the word, full
 * fence, look whether the other is armed; arm, full fence, look at the word.
 */
static uint32_t *word_of(struct evering_half *half)
{
	return (uint32_t *)((char *)half + EVERING_SLOTS_OFFSET);
}

struct game {
	struct side *s;
	uint32_t rounds;
	bool apart; /* rings and waits in two calls */
};

/*
 * Sleeps until the peer's word is @want; @ring is what the last move left to
 * do.
 */
static int await_move(struct game *g, uint32_t want, uint32_t ring)
{
	uint32_t *theirs = word_of(g->s->peer);
	int ret;

	if (ring && g->apart) {
		dev_ring(g->s->fd, ring);
		ring = 0;
	}
	for (;;) {
		arm(g->s->own, RX);
		if (__atomic_load_n(theirs, __ATOMIC_ACQUIRE) == want)
			break;
		ret = dev_ring_and_wait(g->s->fd, ring, RX);
		if (ret < 0)
			return ret;
		ring = 0;
	}
	if (ring)
		dev_ring(g->s->fd, ring);
	return 0;
}

/* Stores the own word; returns the bells that are to be rung for it. */
static uint32_t move(struct side *s, uint32_t n)
{
	__atomic_store_n(word_of(s->own), n, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return armed(s->peer) & RX;
}

/*
 * One begins, the other answers; what was rung for goes out with the next
 * sleep.
 */
static int play(struct game *g, bool begins)
{
	uint32_t n, ring = 0;
	int ret = 0;

	for (n = 1; n <= g->rounds && !ret; n++) {
		if (begins)
			ring = move(g->s, n);
		ret = await_move(g, n, ring);
		if (!begins && !ret)
			ring = move(g->s, n);
	}
	if (!begins && ring)
		dev_ring(g->s->fd, ring);
	return ret;
}

struct partner {
	int fd;
	struct game g;
};

static int answer(void *arg)
{
	struct partner *p = arg;
	struct side b;

	if (side_map(&b, G, p->fd, EVERING_B))
		return 1;
	p->g.s = &b;
	return play(&p->g, false) ? 2 : 0;
}

static void ping_pong(struct __test_metadata *_metadata,
		      FIXTURE_DATA(enter) * self, bool apart)
{
	struct partner p = { .fd = self->fd[1] };
	struct game g = { .s = &self->a,
			  .rounds = short_run() ? 200 : 2000,
			  .apart = apart };
	pid_t pid;

	p.g = g;
	/* It attaches after us: the endpoint is its own, whatever we have mapped. */
	pid = spawn(answer, &p);
	EXPECT_EQ(0, play(&g, true));
	EXPECT_EQ(0, reap(pid));
}

TEST_F(enter, ping_pong_of_two_processes)
{
	ping_pong(_metadata, self, false);
}

TEST_F(enter, ping_pong_with_ring_and_wait_apart)
{
	ping_pong(_metadata, self, true);
}

/*
 * The race for a lost wake-up, run over and over: one process says that it is
 * about to sleep, and does; the other lets a random time pass, no longer than
 * it takes to fall asleep, and rings.  So rings come at all moments of falling
 * asleep.
 */
struct race {
	int fd;
	uint32_t rounds;
	int64_t until;
};

static void look(uint32_t n)
{
	static volatile uint32_t sink;

	while (n--)
		sink++;
}

static bool await_word(const uint32_t *word, uint32_t want)
{
	int64_t until = now_ns() + PLENTY;
	uint32_t looks = 0;

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != want) {
		if (++looks % 1024)
			continue;
		if (now_ns() > until)
			return false;
		sched_yield();
	}
	return true;
}

static int fall_asleep_over_and_over(void *arg)
{
	struct race *r = arg;
	struct side b;
	uint32_t n;

	if (side_map(&b, G, r->fd, EVERING_B))
		return 1;
	for (n = 1; n <= r->rounds; n++) {
		__atomic_store_n(word_of(b.own), n, __ATOMIC_RELEASE);
		for (;;) {
			arm(b.own, RX);
			if (__atomic_load_n(word_of(b.peer),
					    __ATOMIC_ACQUIRE) >= n)
				break;
			if (dev_wait(r->fd, RX) != RX)
				return 2;
		}
		/* A word that no round has ends the race. */
		if (__atomic_load_n(word_of(b.peer), __ATOMIC_ACQUIRE) ==
		    UINT32_MAX)
			break;
	}
	return 0;
}

/* So many looks take twice as long as to go into ENTER and out again. */
static uint32_t looks_of_enter(int fd)
{
	const uint32_t n = 1000;
	int64_t start = now_ns(), enter;
	uint32_t i;

	for (i = 0; i < n; i++)
		dev_enter(fd, 0, RX, 0);
	enter = now_ns() - start;
	start = now_ns();
	look(n);
	return (uint32_t)(2 * enter / max_of(now_ns() - start, 1)) + 1;
}

/* Rounds, however slow the machine. */
#define AT_LEAST 1000u

TEST_F_TIMEOUT(enter, no_wakeup_is_lost, 90)
{
	struct race r = { .fd = self->fd[1],
			  .rounds = 100000,
			  .until = now_ns() + (short_run() ? 10 : 40) * SEC };
	uint32_t *theirs = word_of(self->a.peer);
	uint32_t n, most, rang = 0;
	uint64_t seed = random_seed();
	pid_t pid;

	arm(self->a.own, RX);
	most = looks_of_enter(self->fd[0]);
	side_unmap(&self->b);
	pid = spawn(fall_asleep_over_and_over, &r);
	close(self->fd[1]);
	for (n = 1; n <= r.rounds; n++) {
		ASSERT_TRUE(await_word(theirs, n))
		{
			TH_LOG("round %u of %u: %d", n, r.rounds, reap(pid));
		}
		look((uint32_t)random_below(&seed, most));
		if (move(&self->a,
			 now_ns() < r.until || n < AT_LEAST ? n : UINT32_MAX))
			rang += dev_ring(self->fd[0], RX) == RX;
		if (*word_of(self->a.own) == UINT32_MAX)
			break;
	}
	EXPECT_EQ(0, reap(pid));
	TH_LOG("%u rounds, %u rings", n - 1, rang);
	EXPECT_GE(n, AT_LEAST);
	EXPECT_GE(rang, n / 100);
}

TEST_HARNESS_MAIN
