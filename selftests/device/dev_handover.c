// SPDX-License-Identifier: MIT
/*
 * dev_handover.c: an ENTER that rings and then waits gives its CPU to the thread that
 * it wakes: on which CPU that thread runs, with and without a reason against it, and
 * how many interrupts a round trip of two sleepers costs.
 *
 * Where a thread runs is the scheduler's decision, which may have a reason of its own at
 * any time (another task that has just become runnable).  So each case is tried many
 * times, and most of the trials have to agree.
 */
#include "dev.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>

static const struct evering_geometry *const G = &small_geometry;

#define TRIALS 40
#define MOST 28
#define FEW 12

FIXTURE(handover)
{
	int dev;
	int fd[2];
	struct side a, b; /* A rings, B sleeps */
	cpu_set_t all;
	int here, there; /* two CPUs */
};

static bool kernel_is(int major, int minor)
{
	struct utsname name;
	int x = 0, y = 0;

	uname(&name);
	sscanf(name.release, "%d.%d", &x, &y);
	return x > major || (x == major && y >= minor);
}

FIXTURE_SETUP(handover)
{
	int cpu;

	REQUIRE_DEVICE(self->dev);
	self->here = self->there = -1;
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(self->all), &self->all));
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &self->all))
			continue;
		if (self->here < 0)
			self->here = cpu;
		else if (self->there < 0)
			self->there = cpu;
	}
	if (self->there < 0)
		SKIP(return, "this takes two CPUs");
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	ASSERT_EQ(0, side_map(&self->a, G, self->fd[0], EVERING_A));
	ASSERT_EQ(0, side_map(&self->b, G, self->fd[1], EVERING_B));
}

FIXTURE_TEARDOWN(handover)
{
}

static int pin(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one);
}

static pid_t keep_busy(int cpu)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin(cpu);
	for (;;)
		;
}

/* ------------------------------------------------------------ where it wakes up */

/**
 * struct wakee - sleeps on another CPU than the ringer's, @trials times
 * @all: where it may run when it is woken
 * @fifo: it is a realtime thread
 * @flags: of its ENTER
 * @tid: while it is in ENTER, or about to be
 * @here: how often it woke up on the ringer's CPU
 */
struct wakee {
	struct side *s;
	const cpu_set_t *all;
	int here, there;
	bool fifo;
	uint32_t flags;
	pid_t tid;
	int found_here;
	int error;
	pthread_t thread;
};

static void *sleep_there(void *arg)
{
	struct sched_param param = { .sched_priority = 1 };
	struct wakee *w = arg;
	int i;

	if (w->fifo && sched_setscheduler(0, SCHED_FIFO, &param))
		w->error = -errno;
	for (i = 0; i < TRIALS && !w->error; i++) {
		arm(w->s->own, RX);
		/* It stays where it is when it may run elsewhere again. */
		if (pin(w->there) ||
		    sched_setaffinity(0, sizeof(*w->all), w->all)) {
			w->error = -errno;
			break;
		}
		__atomic_store_n(&w->tid, my_tid(), __ATOMIC_RELEASE);
		if (dev_enter_flags(w->s->fd, w->flags, 0, RX,
				    (uint64_t)(now_ns() + PLENTY)) != RX)
			w->error = -ETIMEDOUT;
		w->found_here += sched_getcpu() == w->here;
		__atomic_store_n(&w->tid, 0, __ATOMIC_RELEASE);
		/* Let the ringer go on. */
		dev_ring(w->s->fd, RX);
	}
	return NULL;
}

/* How often of TRIALS @w, who is woken, runs on the ringer's CPU; or an errno. */
static int count_here(FIXTURE_DATA(handover) * self, uint32_t flags,
		      struct wakee w)
{
	int i, ret = 0;

	w.s = &self->b;
	w.here = self->here;
	w.there = self->there;
	if (pin(self->here) || pthread_create(&w.thread, NULL, sleep_there, &w))
		return -1;
	for (i = 0; i < TRIALS && !ret; i++) {
		if (!EVENTUALLY(__atomic_load_n(&w.error, __ATOMIC_RELAXED) ||
				(__atomic_load_n(&w.tid, __ATOMIC_ACQUIRE) &&
				 is_asleep(&w.tid))))
			ret = TOO_LATE;
		if (__atomic_load_n(&w.error, __ATOMIC_RELAXED))
			break;
		arm(self->a.own, RX);
		ret = dev_enter_flags(self->fd[0], flags, RX, RX,
				      (uint64_t)(now_ns() + PLENTY));
		ret = ret == (RX | RANG_RX) ? 0 : ret < 0 ? ret : -1;
	}
	pthread_join(w.thread, NULL);
	return ret ? ret : w.error ? w.error : w.found_here;
}

/* Where most wake-ups have to be in one of ten counts. */
enum wanted {
	HERE,
	ELSEWHERE
};

/*
 * The same, counted again until it is MOST or FEW, whichever is @wanted: a task of others
 * that runs here at that moment keeps one away, and one that runs there moves one here.
 */
static int woken_here_as(FIXTURE_DATA(handover) * self, uint32_t flags,
			 enum wanted wanted, struct wakee w)
{
	int here = count_here(self, flags, w), i;

	for (i = 0;
	     i < 9 && (wanted == HERE ? here >= 0 && here < MOST : here > FEW);
	     i++)
		here = count_here(self, flags, w);
	return here;
}

static int woken_here(FIXTURE_DATA(handover) * self, uint32_t flags,
		      enum wanted wanted, const cpu_set_t *all, bool fifo)
{
	return woken_here_as(self, flags, wanted,
			     (struct wakee){ .all = all, .fifo = fifo });
}

TEST_F(handover, the_one_who_is_woken_runs_on_the_ringers_cpu)
{
	int here = woken_here(self, 0, HERE, &self->all, false);

	ASSERT_GE(here, 0);
	if (!kernel_is(6, 6))
		SKIP(return, "this kernel cannot be told; %d of %d here", here,
			   TRIALS);
	EXPECT_GE(here, MOST);
}

TEST_F(handover, unless_the_call_opts_out)
{
	int here = woken_here(self, EVERING_ENTER_NO_HANDOVER, ELSEWHERE,
			      &self->all, false);

	EXPECT_GE(here, 0);
	EXPECT_LE(here, FEW);
}

TEST_F(handover, unless_the_sleeper_has_opted_out)
{
	const struct wakee stays = { .all = &self->all,
				     .flags = EVERING_ENTER_NO_HANDOVER };
	int here = woken_here_as(self, 0, ELSEWHERE, stays);

	EXPECT_GE(here, 0);
	EXPECT_LE(here, FEW);
}

TEST_F(handover, unless_another_task_wants_that_cpu)
{
	int here;
	pid_t pid = keep_busy(self->here);

	here = woken_here(self, 0, ELSEWHERE, &self->all, false);
	kill_and_reap(pid);
	EXPECT_GE(here, 0);
	EXPECT_LE(here, FEW);
}

TEST_F(handover, unless_it_may_not_run_there)
{
	cpu_set_t there;

	CPU_ZERO(&there);
	CPU_SET(self->there, &there);
	EXPECT_EQ(0, woken_here(self, 0, ELSEWHERE, &there, false));
}

TEST_F(handover, unless_it_is_realtime)
{
	int here = woken_here(self, 0, ELSEWHERE, &self->all, true);

	if (here == -EPERM)
		SKIP(return, "no realtime thread for us");
	EXPECT_GE(here, 0);
	EXPECT_LE(here, FEW);
}

/* -------------------------------------------------------------- what it costs */

/* Function-call interrupts so far, of all CPUs; -1: nobody counts them. */
static int64_t call_interrupts(void)
{
	FILE *f = fopen("/proc/interrupts", "re");
	int64_t sum = -1, n;
	char line[4096], *at, *end;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		/* "CAL:" on x86-64, and one of those called IPI on arm64. */
		if (!strstr(line, "unction call interrupts"))
			continue;
		at = strchr(line, ':') + 1;
		for (sum = 0;; at = end) {
			n = strtoll(at, &end, 10);
			if (end == at)
				break;
			sum += n;
		}
	}
	fclose(f);
	return sum;
}

struct player {
	int fd;
	uint32_t flags;
	uint32_t rounds;
};

static uint32_t *word_of(struct evering_half *half)
{
	return (uint32_t *)((unsigned char *)half + EVERING_SLOTS_OFFSET);
}

/* Sleeps until the peer's word is @n, ringing first what is owed. */
static int await(struct side *s, const struct player *p, uint32_t n,
		 uint32_t ring)
{
	int ret;

	for (;;) {
		arm(s->own, RX);
		if (__atomic_load_n(word_of(s->peer), __ATOMIC_ACQUIRE) == n) {
			if (ring)
				dev_ring(s->fd, ring);
			return 0;
		}
		ret = dev_enter_flags(s->fd, p->flags, ring, RX,
				      (uint64_t)(now_ns() + PLENTY));
		if (ret < 0)
			return ret;
		ring = 0;
	}
}

static uint32_t move(struct side *s, uint32_t n)
{
	__atomic_store_n(word_of(s->own), n, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return armed(s->peer) & RX;
}

static int answer(void *arg)
{
	struct player *p = arg;
	uint32_t n, ring = 0;
	struct side b;

	if (side_map(&b, G, p->fd, EVERING_B))
		return 1;
	for (n = 1; n <= p->rounds; n++) {
		if (await(&b, p, n, ring))
			return 2;
		ring = move(&b, n);
	}
	if (ring)
		dev_ring(p->fd, ring);
	return 0;
}

/* Function-call interrupts of so many round trips of two unpinned processes. */
static int64_t interrupts_of(FIXTURE_DATA(handover) * self, uint32_t flags,
			     uint32_t rounds)
{
	struct player p = { .fd = self->fd[1],
			    .flags = flags,
			    .rounds = rounds };
	int64_t before;
	int ret = 0;
	uint32_t n;
	pid_t pid;

	/* It attaches after us: the endpoint is its own, whatever we have mapped. */
	pid = spawn(answer, &p);
	before = call_interrupts();
	for (n = 1; n <= rounds && !ret; n++)
		ret = await(&self->a, &p, n, move(&self->a, n));
	return reap(pid) || ret ? -1 : call_interrupts() - before;
}

/* 1.3 to 2 a round trip without, 0.02 with; see `tools/check/vm` for guests with more CPUs. */
TEST_F_TIMEOUT(handover, a_round_trip_interrupts_nobody, 60)
{
	const uint32_t rounds = short_run() ? 5000 : 20000;
	int64_t n;

	if (call_interrupts() < 0)
		SKIP(return, "this kernel counts no such interrupts");
	n = interrupts_of(self, 0, rounds);
	TH_LOG("%u round trips, %lld interrupts", rounds, (long long)n);
	ASSERT_GE(n, 0);
	if (!kernel_is(6, 6))
		SKIP(return, "this kernel cannot be told");
	EXPECT_LE(n, rounds * 3 / 10);
}

static long switches_of(int who)
{
	struct rusage usage;

	getrusage(who, &usage);
	return usage.ru_nvcsw + usage.ru_nivcsw;
}

/*
 * A third task on the CPU of two is not made to run in between: each of the two is
 * switched to once a round trip, as without a hand-over, and little more.
 */
TEST_F_TIMEOUT(handover, a_busy_task_costs_no_more_switches, 60)
{
	const uint32_t rounds = short_run() ? 1000 : 5000;
	pid_t busy = keep_busy(self->here);
	long before;

	ASSERT_EQ(0, pin(self->here));
	before = switches_of(RUSAGE_SELF) + switches_of(RUSAGE_CHILDREN);
	ASSERT_LE(0, interrupts_of(self, 0, rounds));
	before = switches_of(RUSAGE_SELF) + switches_of(RUSAGE_CHILDREN) -
		 before;
	kill_and_reap(busy);
	TH_LOG("%u round trips, %ld switches", rounds, before);
	EXPECT_LE(before, rounds * 5 / 2);
}

TEST_HARNESS_MAIN
