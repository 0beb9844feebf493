// SPDX-License-Identifier: MIT
/*
 * doorbell.c: no wake-up is ever lost.  Producers and consumers, in two processes
 * or in the threads of one, delay each other by random times around the window
 * between "looked, and there was nothing" and "sleeps", at depth 1 and with a ring
 * that runs full and empty, under BLOCK, ADAPTIVE and both.  Every wait is without
 * a timeout: a lost wake-up stops the run, which the watchdog sees and explains.
 * Every entry is checked.  With evering_echo.ko as the peer what was sent comes back.
 *
 * The last test counts: a million real sleeps over all runs (EVERING_SHORT: fewer).
 */
#include "peer.h"

/* Guests stand still for seconds. */
#define STALL (slow(1) > 1 ? 30 * SEC : 5 * SEC)
#define LAST	0x80000000u	/* in the salt of the last entry */

struct lane {
	uint64_t sent __attribute__((aligned(128)));
	uint64_t received __attribute__((aligned(128)));
};

/* Shared by all processes of a run. */
struct control {
	struct lane lane[2];	/* by the sending endpoint */
	uint32_t stop __attribute__((aligned(128)));
	uint32_t ended; /* with hand_over: the last entry has been sent */
	uint32_t failed;
	char why[256];
};

/* Shared by all tests of this program. */
struct total {
	uint64_t sleeps, messages, runs;
	int64_t ns;
};

static struct total *total;

static void __attribute__((constructor)) make_total(void)
{
	total = mmap(NULL, sizeof(*total), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

struct scenario {
	bool hand_over; /* one direction, its ring full, space given singly */
	bool ping_pong;		/* else both directions stream at once */
	bool processes;		/* else four threads, or two, in one */
	bool echo;		/* else: the other side is a module, */
	uint32_t echo_flags;	/* which is asked for with these */
	uint32_t echo_spin_us;
	unsigned int policy[2];
	uint32_t slot, entries;
	uint64_t sleeps;	/* enough */
	int64_t ns;		/* at the most */
};

struct worker {
	struct evering *ev;
	struct control *c;
	const struct scenario *s;
	unsigned int end;
	uint64_t rng;
};

static uint32_t salt_of(unsigned int end)
{
	return 0x1000u + end;
}

static void failed(struct control *c, const char *format, ...)
{
	va_list args;

	if (__atomic_exchange_n(&c->failed, 1, __ATOMIC_ACQ_REL))
		return;
	va_start(args, format);
	vsnprintf(c->why, sizeof(c->why), format, args);
	va_end(args);
}

/*
 * Stores that the peer's cache has to give up the lines for, so that those that
 * follow, of a stamp or of an armed word, wait behind them for a microsecond in the
 * store buffer while the load that follows goes ahead.  Just what [D] in
 * evering_ring.h is about: without them a fence could be missing and not be missed.
 */
#define LINES	48
#define LINE	64

enum {
	SENDERS,
	RECEIVERS
}; /* whose part of the arena */

static void congest(struct worker *w, int role)
{
	unsigned char *p = evering_arena(w->ev, NULL);
	int i;

	p += role * LINES * LINE;
	if (random_u64(&w->rng) & 3)
		for (i = 0; i < LINES; i++)
			__atomic_store_n((uint32_t *)(p + i * LINE), i,
					 __ATOMIC_RELAXED);
}

/* Takes the lines over that the peer is going to write again. */
static void take_lines(struct worker *w, int role)
{
	const unsigned char *p =
		evering_peer_buffer(w->ev, 0, (RECEIVERS + 1) * LINES * LINE);
	int i;

	p += role * LINES * LINE;
	for (i = 0; i < LINES; i++)
		evering_load_relaxed((const uint32_t *)(p + i * LINE));
}

/* From nothing through a few instructions and some microseconds to a sleep. */
static void dither(uint64_t *rng, bool slow)
{
	uint64_t r = random_u64(rng);
	volatile unsigned int i;

	switch (r & 7) {
	case 0:
	case 1:
		break;
	case 2:
	case 3:
	case 4:
		for (i = (r >> 8) & 255; i; i--)
			;
		break;
	case 5:
	case 6:
		spin_ns((int64_t)((r >> 8) & 4095));
		break;
	default:
		if (((r >> 8) & 127) == 0)
			sleep_ns((int64_t)((r >> 16) & 32767));
		else
			spin_ns((int64_t)((r >> 16) & 8191));
	}
	if (slow)
		spin_ns((int64_t)((r >> 32) & 8191));
}

static bool send_one(struct worker *w, uint32_t n, bool last)
{
	uint32_t salt = salt_of(w->end) | (last ? LAST : 0);
	size_t len = evering_payload(w->ev);
	uint32_t buf[64];
	void *place;
	int ret;

	take_lines(w, RECEIVERS);
	if (random_u64(&w->rng) & 1) {
		fill_entry(buf, len, n, salt);
		congest(w, SENDERS);
		ret = evering_send(w->ev, buf, len, EVERING_WAIT_FOREVER);
	} else {
		for (ret = 0; !(place = evering_reserve(w->ev)) && ret >= 0;)
			ret = evering_wait(w->ev, EVERING_TX,
					   EVERING_WAIT_FOREVER);
		if (place) {
			fill_entry(place, len, n, salt);
			congest(w, SENDERS);
			evering_commit(w->ev);
			evering_flush(w->ev);
			ret = 0;
		}
	}
	if (ret < 0) {
		failed(w->c, "%c: sending entry %u: %s", 'A' + w->end, n,
		       strerror(-ret));
		return false;
	}
	__atomic_store_n(&w->c->lane[w->end].sent, n + 1, __ATOMIC_RELAXED);
	return true;
}

/* Who has sent what @w receives. */
static unsigned int sender_to(const struct worker *w)
{
	return w->s->echo ? w->end : !w->end;
}

/* 1: an entry; 0: the last one; -1: failed. */
static int receive_one(struct worker *w, uint32_t n)
{
	uint32_t salt = salt_of(sender_to(w));
	size_t len = evering_payload(w->ev);
	const void *entry = NULL;
	bool ok, last;
	uint32_t buf[64];
	int ret;

	take_lines(w, SENDERS);
	congest(w, RECEIVERS);
	if (random_u64(&w->rng) & 1) {
		ret = evering_recv(w->ev, buf, len, EVERING_WAIT_FOREVER);
		entry = buf;
	} else {
		for (ret = 0; !(entry = evering_peek(w->ev)) && ret >= 0;)
			ret = evering_wait(w->ev, EVERING_RX,
					   EVERING_WAIT_FOREVER);
	}
	if (ret < 0) {
		failed(w->c, "%c: receiving entry %u: %s", 'A' + w->end, n,
		       strerror(-ret));
		return -1;
	}
	last = check_entry(entry, len, n, salt | LAST);
	ok = last || check_entry(entry, len, n, salt);
	if (!ok) {
		failed(w->c, "%c: entry %u is not what was sent, begins %#x",
		       'A' + w->end, n, *(const uint32_t *)entry);
		return -1;
	}
	if (entry != buf) {
		congest(w, RECEIVERS);
		evering_release(w->ev);
	}
	__atomic_store_n(&w->c->lane[sender_to(w)].received, n + 1,
			 __ATOMIC_RELAXED);
	return !last;
}

static bool stopping(const struct worker *w)
{
	return __atomic_load_n(&w->c->stop, __ATOMIC_RELAXED);
}

/* Who is slow changes all the time, so the ring runs full and runs empty. */
static bool slow_turn(const struct scenario *s, uint32_t n, bool sender)
{
	return ((n / (2 * s->entries)) & 1) == sender;
}

static void *sender_main(void *arg)
{
	struct worker *w = arg;
	bool last;
	uint32_t n;

	for (n = 0, last = false; !last; n++) {
		dither(&w->rng, slow_turn(w->s, n, true));
		last = stopping(w);
		if (!send_one(w, n, last))
			break;
	}
	__atomic_store_n(&w->c->ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void *receiver_main(void *arg)
{
	struct worker *w = arg;
	uint32_t n = 0;

	while (receive_one(w, n) > 0)
		dither(&w->rng, slow_turn(w->s, n++, false));
	return NULL;
}

/*
 * Gives back one entry, and does nothing more, not even a wait, until its place has
 * been taken: if the sender was not woken by that one release, nothing else will.
 */
static void *handing_main(void *arg)
{
	struct worker *w = arg;
	const uint64_t *sent = &w->c->lane[!w->end].sent;
	uint32_t n = 0;

	while (receive_one(w, n) > 0) {
		n++;
		while (__atomic_load_n(sent, __ATOMIC_RELAXED) <
			       (uint64_t)n + w->s->entries &&
		       !__atomic_load_n(&w->c->ended, __ATOMIC_ACQUIRE))
			;
		dither(&w->rng, false);
	}
	return NULL;
}

static void *ping_main(void *arg)
{
	struct worker *w = arg;
	bool last = false;
	uint32_t n;

	for (n = 0; !last; n++) {
		dither(&w->rng, false);
		last = stopping(w);
		if (!send_one(w, n, last))
			break;
		dither(&w->rng, false);
		if (receive_one(w, n) < 0)
			break;
	}
	return NULL;
}

static void *pong_main(void *arg)
{
	struct worker *w = arg;
	uint32_t n = 0;
	int more;

	do {
		more = receive_one(w, n);
		if (more < 0)
			break;
		dither(&w->rng, false);
		if (!send_one(w, n++, false))
			break;
	} while (more);
	evering_flush(w->ev); /* the last, whose ring may be owed */
	return NULL;
}

/* Starts what endpoint @end does; returns how many threads. */
static int start_end(struct worker w[2], pthread_t t[2])
{
	unsigned int end = w[0].end;

	if (w[0].s->hand_over)
		return !pthread_create(
			&t[0], NULL,
			end == EVERING_A ? sender_main : handing_main, &w[0]);
	if (w[0].s->ping_pong)
		return !pthread_create(&t[0], NULL,
				       end == EVERING_A ? ping_main : pong_main,
				       &w[0]);
	if (pthread_create(&t[0], NULL, sender_main, &w[0]))
		return 0;
	return 1 + !pthread_create(&t[1], NULL, receiver_main, &w[1]);
}

static int other_process(struct evering *ev, void *arg)
{
	struct worker *w = arg;
	pthread_t t[2];
	int n;

	w[0].ev = ev;
	w[1].ev = ev;
	n = start_end(w, t);
	if (!n)
		return 1;
	while (n--)
		pthread_join(t[n], NULL);
	evering_close(ev);
	return 0;
}

static void explain(const struct control *c, const struct evering *a)
{
	const struct evering_half *half[2] = { own_half(a), peer_half(a) };
	int end;

	for (end = 0; end < 2; end++) {
		const struct lane *l = &c->lane[end];
		uint32_t rx = evering_load_relaxed(&half[!end]->armed_rx);
		uint32_t tx = evering_load_relaxed(&half[end]->armed_tx);

		printf("# ring of %c: sent %llu, received %llu, released %u; %c armed_rx %#x%s, %c armed_tx %#x%s\n",
		       'A' + end, (unsigned long long)l->sent,
		       (unsigned long long)l->received,
		       evering_load_relaxed(&half[!end]->released), 'B' - end,
		       rx, rx & EVERING_ARMED ? " (sleeps for an entry)" : "",
		       'A' + end, tx,
		       tx & EVERING_ARMED ? " (sleeps for space)" : "");
	}
	fflush(stdout);
}

static uint64_t progress(const struct control *c)
{
	return __atomic_load_n(&c->lane[0].sent, __ATOMIC_RELAXED) +
	       __atomic_load_n(&c->lane[0].received, __ATOMIC_RELAXED) +
	       __atomic_load_n(&c->lane[1].sent, __ATOMIC_RELAXED) +
	       __atomic_load_n(&c->lane[1].received, __ATOMIC_RELAXED);
}

/*
 * Watches until the workers are done: 0, or -1 for a stall or a failure.  Joins no
 * thread: one that hangs could not be.
 */
static int watch(struct control *c, const struct scenario *s,
		 const struct evering *a, bool (*done)(void *), void *arg)
{
	int64_t start = now_ns(), changed = start, now;
	uint64_t seen = 0, is;

	while (!done(arg)) {
		sleep_ns(5 * MSEC);
		now = now_ns();
		is = progress(c);
		if (is != seen)
			changed = now;
		seen = is;
		if (__atomic_load_n(&c->failed, __ATOMIC_ACQUIRE)) {
			printf("# %s\n", c->why);
			explain(c, a);
			return -1;
		}
		if (now - changed > STALL) {
			printf("# no progress for %lld s: a wake-up was lost\n",
			       STALL / SEC);
			explain(c, a);
			return -1;
		}
		if (sleeps_of(a) >= s->sleeps || now - start > s->ns)
			__atomic_store_n(&c->stop, 1, __ATOMIC_RELAXED);
	}
	return __atomic_load_n(&c->failed, __ATOMIC_ACQUIRE) ? -1 : 0;
}

struct joiner {
	pthread_t t[4];
	int n;
	pid_t pid;	/* 0: none, or reaped */
	int status;
};

static bool all_done(void *arg)
{
	struct joiner *j = arg;

	while (j->n && !pthread_tryjoin_np(j->t[j->n - 1], NULL))
		j->n--;
	if (j->pid && waitpid(j->pid, &j->status, WNOHANG) == j->pid)
		j->pid = 0;
	return !j->n && !j->pid;
}

static int run(uint32_t backend, const struct scenario *s)
{
	struct control *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct evering_params p[2];
	struct joiner j = { .n = 0 };
	struct evering *ev[2] = { NULL, NULL };
	struct worker w[4];
	uint64_t seed = random_seed();
	int64_t start = now_ns();
	struct duo duo;
	int i, ret;

	for (i = 0; i < 2; i++) {
		p[i] = params_sized(backend, s->slot, s->entries, 8192);
		p[i].arena_begin = EVERING_WHOLE;
		p[i].policy = s->policy[i];
		p[i].spin_ns = 3000;
	}
	for (i = 0; i < 4; i++)
		w[i] = (struct worker){ .c = c,
					.s = s,
					.end = i / 2,
					.rng = seed + (uint64_t)i * 0x1234567 };
	if (s->echo) {
		ret = echo_open(&p[0], s->echo_flags, s->echo_spin_us, &ev[0]);
	} else if (s->processes) {
		ret = duo_start(&duo, false, p, other_process, &w[2]);
		ev[0] = duo.ev;
		j.pid = duo.pid;
	} else {
		ret = evering_pair(&p[0], ev);
		if (!ret)
			ret = evering_set_policy(ev[1], p[1].policy,
						 p[1].spin_ns);
	}
	if (ret) {
		printf("# no channel: %s\n", strerror(-ret));
		return -1;
	}
	w[0].ev = ev[0];
	w[1].ev = ev[0];
	w[2].ev = ev[1];
	w[3].ev = ev[1];
	j.n = start_end(&w[0], &j.t[0]);
	if (!s->processes && !s->echo)
		j.n += start_end(&w[2], &j.t[j.n]);

	ret = watch(c, s, ev[0], all_done, &j);
	if (ret) {
		if (j.pid)
			kill_and_reap(j.pid);
		fflush(NULL);
		_exit(KSFT_FAIL); /* threads hang in the channel */
	}
	printf("# %s, slot %u, ring %u: %llu messages, %llu sleeps, %lld ms\n",
	       s->echo	    ? "a module" :
	       s->processes ? "processes" :
			      "threads",
	       s->slot, s->entries,
	       (unsigned long long)(c->lane[0].received + c->lane[1].received),
	       (unsigned long long)sleeps_of(ev[0]),
	       (long long)((now_ns() - start) / MSEC));
	/* Where the peer is a module it is not the peer that sleeps, and often nobody. */
	if (!s->echo) {
		total->sleeps += sleeps_of(ev[0]);
		total->messages += c->lane[0].received + c->lane[1].received;
		total->ns += now_ns() - start;
		total->runs++;
	}
	for (i = 0; i < 2; i++)
		if (c->lane[i].sent != c->lane[i].received)
			ret = -1;
	if (j.status)
		ret = -1;
	evering_close(ev[0]);
	evering_close(ev[1]);
	munmap(c, sizeof(*c));
	return ret;
}

FIXTURE(doorbell)
{
	int unused;
};

BACKEND_VARIANTS(doorbell);

FIXTURE_SETUP(doorbell)
{
	REQUIRE_BACKEND(variant->backend);
}

FIXTURE_TEARDOWN(doorbell)
{
}

static unsigned int stress_tests;

/*
 * @sleeps is for the full form; the time is what it may take at the most, a few
 * times what it should, so that all of them stay under two minutes.
 */
#define STRESS(name, ...)                                                      \
	static void __attribute__((constructor)) count_##name(void)            \
	{                                                                      \
		stress_tests++;                                                \
	}                                                                      \
	TEST_F_TIMEOUT(doorbell, name, 60)                                     \
	{                                                                      \
		struct scenario s = { __VA_ARGS__, .ns = 9 * SEC };           \
                                                                               \
		if (short_run()) {                                             \
			s.sleeps /= slow(1) > 1 ? 100 : 20;                    \
			s.ns = 5 * SEC;                                        \
		}                                                              \
		ASSERT_EQ(0, run(variant->backend, &s));                       \
	}

STRESS(processes_at_depth_1_block, .ping_pong = true, .processes = true,
       .policy = { EVERING_BLOCK, EVERING_BLOCK }, .slot = 64, .entries = 4,
       .sleeps = 300000)

STRESS(processes_at_depth_1_adaptive, .ping_pong = true, .processes = true,
       .policy = { EVERING_ADAPTIVE, EVERING_ADAPTIVE }, .slot = 64,
       .entries = 16, .sleeps = 90000)

STRESS(processes_at_depth_1_mixed, .ping_pong = true, .processes = true,
       .policy = { EVERING_ADAPTIVE, EVERING_BLOCK }, .slot = 16, .entries = 4,
       .sleeps = 150000)

STRESS(processes_at_depth_1_lazy, .ping_pong = true, .processes = true,
       .policy = { EVERING_BLOCK | EVERING_LAZY_RING,
		   EVERING_BLOCK | EVERING_LAZY_RING },
       .slot = 64, .entries = 4, .sleeps = 150000)

STRESS(processes_at_depth_1_half_lazy, .ping_pong = true, .processes = true,
       .policy = { EVERING_ADAPTIVE | EVERING_LAZY_RING, EVERING_BLOCK },
       .slot = 64, .entries = 4, .sleeps = 90000)

STRESS(processes_at_full_ring_block, .processes = true,
       .policy = { EVERING_BLOCK, EVERING_BLOCK }, .slot = 64, .entries = 4,
       .sleeps = 300000)

STRESS(processes_at_full_ring_adaptive, .processes = true,
       .policy = { EVERING_ADAPTIVE, EVERING_ADAPTIVE }, .slot = 256,
       .entries = 16, .sleeps = 90000)

STRESS(processes_at_full_ring_mixed, .processes = true,
       .policy = { EVERING_BLOCK, EVERING_ADAPTIVE }, .slot = 64, .entries = 8,
       .sleeps = 150000)

STRESS(processes_handing_over_space_block, .hand_over = true, .processes = true,
       .policy = { EVERING_BLOCK, EVERING_BLOCK }, .slot = 64, .entries = 4,
       .sleeps = 150000)

STRESS(processes_handing_over_space_adaptive, .hand_over = true,
       .processes = true, .policy = { EVERING_ADAPTIVE, EVERING_ADAPTIVE },
       .slot = 64, .entries = 4, .sleeps = 25000)

STRESS(processes_block_against_busy, .processes = true,
       .policy = { EVERING_BLOCK, EVERING_BUSY }, .slot = 64, .entries = 8,
       .sleeps = 30000)

STRESS(threads_at_depth_1_block, .ping_pong = true,
       .policy = { EVERING_BLOCK, EVERING_BLOCK }, .slot = 32, .entries = 4,
       .sleeps = 150000)

STRESS(threads_at_full_ring_block, .policy = { EVERING_BLOCK, EVERING_BLOCK },
       .slot = 16, .entries = 4, .sleeps = 225000)

STRESS(threads_at_full_ring_mixed,
       .policy = { EVERING_ADAPTIVE, EVERING_BLOCK }, .slot = 128, .entries = 8,
       .sleeps = 150000)

/* The same with a module as the peer, which answers in the task that rings, or in a thread. */
FIXTURE(doorbell_module)
{
	int unused;
};

FIXTURE_VARIANT(doorbell_module)
{
	uint32_t flags;
	uint32_t spin_us;
};

FIXTURE_VARIANT_ADD(doorbell_module, echo){};
FIXTURE_VARIANT_ADD(doorbell_module, echo_thread){
	.flags = EVERING_ECHO_THREAD,
};
FIXTURE_VARIANT_ADD(doorbell_module, echo_thread_spins){
	.flags = EVERING_ECHO_THREAD,
	.spin_us = 20,
};

FIXTURE_SETUP(doorbell_module)
{
	REQUIRE_BACKEND(EVERING_BACKEND_DEVICE);
}

FIXTURE_TEARDOWN(doorbell_module)
{
}

/* Of this side alone; so the time ends it where the module serves in this side's task. */
#define STRESS_MODULE(name, ...)                                               \
	TEST_F_TIMEOUT(doorbell_module, name, 60)                              \
	{                                                                      \
		struct scenario s = { .echo = true,                            \
				      .echo_flags = variant->flags,            \
				      .echo_spin_us = variant->spin_us,        \
				      .ns = short_run() ? SEC : 5 * SEC,       \
				      .sleeps = 100000,                        \
				      __VA_ARGS__ };                           \
                                                                               \
		if (short_run())                                               \
			s.sleeps /= slow(1) > 1 ? 100 : 20;                    \
		ASSERT_EQ(0, run(EVERING_BACKEND_DEVICE, &s));                 \
	}

STRESS_MODULE(at_depth_1_block, .ping_pong = true, .policy = { EVERING_BLOCK },
	      .slot = 64, .entries = 4)

STRESS_MODULE(at_depth_1_adaptive, .ping_pong = true,
	      .policy = { EVERING_ADAPTIVE }, .slot = 64, .entries = 16)

STRESS_MODULE(at_depth_1_lazy, .ping_pong = true,
	      .policy = { EVERING_BLOCK | EVERING_LAZY_RING }, .slot = 64,
	      .entries = 4)

STRESS_MODULE(at_full_ring_block, .policy = { EVERING_BLOCK }, .slot = 64,
	      .entries = 4)

STRESS_MODULE(at_full_ring_adaptive, .policy = { EVERING_ADAPTIVE },
	      .slot = 256, .entries = 16)

/* Fixtures run in the order of the file: this is the last test. */
FIXTURE(doorbells_in_all)
{
	int unused;
};

FIXTURE_SETUP(doorbells_in_all)
{
}

FIXTURE_TEARDOWN(doorbells_in_all)
{
}

TEST_F(doorbells_in_all, rang_for_a_million_sleeps)
{
	uint64_t wanted = 1000000;

	if (short_run())
		wanted = slow(1) > 1 ? 4000 : 20000;

	printf("# sleeps: %llu\n", (unsigned long long)total->sleeps);
	printf("# messages: %llu in %lld ms of %llu runs\n",
	       (unsigned long long)total->messages,
	       (long long)(total->ns / MSEC), (unsigned long long)total->runs);
	if (total->runs < stress_tests)
		SKIP(return, "not all of the runs were asked for, or passed");
	EXPECT_GE(total->sleeps, wanted);
	EXPECT_LT(total->ns / (int64_t)(total->runs / stress_tests), 120 * SEC);
}

TEST_HARNESS_MAIN
