// SPDX-License-Identifier: MIT
/*
 * death.c: how one side learns that the other has gone.  The other is a process that
 * is killed with SIGKILL while it sleeps, spins or is in the middle of a message,
 * that exits without a word, or that closes in good order.  Whoever survives knows
 * within 10 ms (the median of 20 deaths, because the machine is shared), which of
 * it was, and loses nothing that was sent before.
 */
#include "common.h"

/*
 * The kernel takes a process's memory before it closes its descriptors, and with a
 * sanitizer there is much of it.
 */
#define BOUND	slow((SANITIZED ? 200 : 10) * MSEC)
#define DEATHS	20

FIXTURE(death)
{
	struct duo duo;
	struct evering_params p[2];	/* this side's, the victim's */
};

BACKEND_VARIANTS(death);

FIXTURE_SETUP(death)
{
	REQUIRE_BACKEND(variant->backend);
	self->p[0] = params_sized(variant->backend, 64, 16, 65536);
	self->p[1] = self->p[0];
}

FIXTURE_TEARDOWN(death)
{
	evering_close(self->duo.ev);
	kill_and_reap(self->duo.pid);
}

/* ------------------------------------------------------------------- victims */

static int recv_for_ever(struct evering *ev, void *arg)
{
	uint32_t v;

	(void)arg;
	for (;;)
		if (evering_recv(ev, &v, 4, EVERING_WAIT_FOREVER))
			return 1;
}

static int die_in_a_message(struct evering *ev, void *arg)
{
	uint32_t *place = evering_reserve(ev);

	(void)arg;
	if (place)
		fill_entry(place, evering_payload(ev), 666, 666);
	await_death();
}

/* Sends as many as *@arg says, the last unfinished, and stays. */
static int send_some(struct evering *ev, void *arg)
{
	uint32_t n, count = *(uint32_t *)arg;
	uint32_t buf[15];

	for (n = 0; n < count; n++) {
		fill_entry(buf, sizeof(buf), n, 9);
		if (evering_send(ev, buf, sizeof(buf), PLENTY))
			return 1;
	}
	return die_in_a_message(ev, NULL);
}

static int send_some_and_exit(struct evering *ev, void *arg)
{
	uint32_t n, count = *(uint32_t *)arg;
	uint32_t buf[15];

	for (n = 0; n < count; n++) {
		fill_entry(buf, sizeof(buf), n, 9);
		if (evering_send(ev, buf, sizeof(buf), PLENTY))
			return 1;
	}
	return 0;
}

static int send_some_and_close(struct evering *ev, void *arg)
{
	int ret = send_some_and_exit(ev, arg);

	evering_close(ev);
	return ret;
}

static int fill_and_sleep(struct evering *ev, void *arg)
{
	uint32_t v = 0;

	(void)arg;
	while (!evering_send(ev, &v, 4, EVERING_WAIT_FOREVER))
		;
	return 1;
}

static int close_and_stay(struct evering *ev, void *arg)
{
	(void)arg;
	evering_close(ev);
	await_death();
}

/* ----------------------------------------------------------- how long it takes */

struct killer {
	pid_t pid;
	struct evering *ev;
	unsigned int armed;	/* 0: do not wait for the survivor to sleep */
	int64_t killed, dead;
};

/*
 * From a thread: waits until the survivor is where it should be, then kills, and
 * stays until the kernel says that it is dead: by then it has let go of everything.
 */
static void *killer_main(void *arg)
{
	struct killer *k = arg;
	const struct evering_half *own = own_half(k->ev);
	const uint32_t *word = k->armed == EVERING_RX ? &own->armed_rx :
							&own->armed_tx;
	int64_t end = now_ns() + PLENTY;
	siginfo_t info;

	while (k->armed && now_ns() < end &&
	       !(evering_load_acquire(word) & EVERING_ARMED))
		sleep_ns(50 * USEC);
	sleep_ns(2 * MSEC);
	__atomic_store_n(&k->killed, now_ns(), __ATOMIC_RELEASE);
	kill(k->pid, SIGKILL);
	waitid(P_PID, (id_t)k->pid, &info, WEXITED | WNOWAIT);
	k->dead = now_ns();
	return NULL;
}

/* How long it took to know, from the signal and from the end. */
struct delay {
	int64_t killed, dead;
};

/*
 * One death, the survivor waiting for @what.  Returns 0, or a negative errno that is
 * not -EPIPE.
 */
static int one_death(struct duo *duo, bool victim_connects,
		     const struct evering_params p[2], peer_fn victim,
		     unsigned int what, struct delay *delay)
{
	struct killer k = { 0 };
	uint32_t v = 0;
	int64_t known;
	pthread_t t;
	int ret;

	ret = duo_start(duo, victim_connects, p, victim, NULL);
	if (ret)
		return ret;
	if (what == EVERING_TX)
		while (!evering_send(duo->ev, &v, 4, EVERING_NOWAIT))
			;
	k.pid = duo->pid;
	k.ev = duo->ev;
	k.armed = p[0].policy == EVERING_BUSY ? 0 : what;
	if (pthread_create(&t, NULL, killer_main, &k))
		return -EAGAIN;
	do /* what was sent before its death comes first */
		ret = what == EVERING_RX ?
			      evering_recv(duo->ev, &v, 4, PLENTY) :
			      evering_send(duo->ev, &v, 4, PLENTY);
	while (!ret);
	known = now_ns();
	pthread_join(t, NULL);
	if (ret == -EPIPE && evering_peer(duo->ev) != EVERING_PEER_DIED)
		ret = -EBADE;
	evering_close(duo->ev);
	duo->ev = NULL;
	waitpid(duo->pid, NULL, 0);
	duo->pid = 0;
	if (ret != -EPIPE)
		return ret ? ret : -EBADMSG;
	delay->killed = max_of(known - k.killed, 0);
	delay->dead = max_of(known - k.dead, 0);
	return 0;
}

static const char *policy_name(unsigned int policy)
{
	static const char *const name[] = { "adaptive", "block", "busy" };

	return name[policy];
}

/*
 * A round of deaths, of which the median counts, from before the signal is sent.  A
 * machine that has more to do than CPUs to do it with keeps both sides waiting for
 * their turn: then what counts is the time from the end of the dead, which takes
 * its turn too, and a few rounds are tried.  Code that is late is late every time.
 */
#define ROUNDS 5

static int deaths(FIXTURE_DATA(death) * self, const char *name, bool connects,
		  peer_fn victim, unsigned int what)
{
	int64_t killed[DEATHS] = { 0 }, dead[DEATHS] = { 0 };
	int n = slow(1) > 1 ? 6 : DEATHS, i, round, ret;

	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < n; i++) {
			struct delay delay;

			ret = one_death(&self->duo, connects, self->p, victim,
					what, &delay);
			if (ret)
				return ret;
			killed[i] = delay.killed;
			dead[i] = delay.dead;
		}
		median_of(killed, n);
		median_of(dead, n);
		printf("# %s as %c, survivor %s: median %lld, max %lld us; from its end %lld, %lld us\n",
		       name, connects ? 'A' : 'B',
		       policy_name(self->p[0].policy),
		       (long long)(killed[n / 2] / USEC),
		       (long long)(killed[n - 1] / USEC),
		       (long long)(dead[n / 2] / USEC),
		       (long long)(dead[n - 1] / USEC));
		if (killed[n / 2] < BOUND || dead[n / 2] < BOUND)
			return 0;
	}
	return -ETIME;
}

#define EXPECT_KNOWN_IN_TIME(connects, victim, what) \
	ASSERT_EQ(0, deaths(self, #victim, connects, victim, what))

TEST_F_TIMEOUT(death, of_a_sleeper_is_known_in_10_ms, 60)
{
	unsigned int policy;

	self->p[1].policy = EVERING_BLOCK;
	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		self->p[0].policy = policy;
		EXPECT_KNOWN_IN_TIME(false, recv_for_ever, EVERING_RX);
		EXPECT_KNOWN_IN_TIME(true, recv_for_ever, EVERING_RX);
	}
}

TEST_F_TIMEOUT(death, of_a_spinner_is_known_in_10_ms, 60)
{
	unsigned int policy;

	self->p[1].policy = EVERING_BUSY;
	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		self->p[0].policy = policy;
		EXPECT_KNOWN_IN_TIME(false, recv_for_ever, EVERING_RX);
		EXPECT_KNOWN_IN_TIME(true, recv_for_ever, EVERING_RX);
	}
}

TEST_F_TIMEOUT(death, in_the_middle_of_a_message_is_known_in_10_ms, 60)
{
	unsigned int policy;

	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		self->p[0].policy = policy;
		self->p[1].policy = policy;
		EXPECT_KNOWN_IN_TIME(false, die_in_a_message, EVERING_RX);
		EXPECT_KNOWN_IN_TIME(true, die_in_a_message, EVERING_RX);
	}
}

TEST_F_TIMEOUT(death, is_known_to_who_waits_for_space_in_10_ms, 60)
{
	unsigned int policy;

	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		self->p[0].policy = policy;
		EXPECT_KNOWN_IN_TIME(false, die_in_a_message, EVERING_TX);
		EXPECT_KNOWN_IN_TIME(true, die_in_a_message, EVERING_TX);
	}
}

TEST_F_TIMEOUT(death, of_who_waits_for_space_is_known_in_10_ms, 60)
{
	self->p[0].policy = EVERING_BLOCK;
	EXPECT_KNOWN_IN_TIME(false, fill_and_sleep, EVERING_RX);
	EXPECT_KNOWN_IN_TIME(true, fill_and_sleep, EVERING_RX);
}

/* ------------------------------------------------------ what is left of the dead */

/* Receives @count entries and then the end.  Returns how many were right. */
static uint32_t receive_all(struct evering *ev, int *end)
{
	uint32_t buf[15], n = 0;

	while (!(*end = evering_recv(ev, buf, sizeof(buf), PLENTY)))
		n += check_entry(buf, sizeof(buf), n, 9);
	return n;
}

TEST_F(death, leaves_what_was_sent)
{
	uint32_t count = 13;
	uint32_t v;
	int end;

	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, send_some, &count));
	ASSERT_EQ((int)EVERING_RX,
		  evering_wait(self->duo.ev, EVERING_RX, PLENTY));
	while (!evering_peek_at(self->duo.ev, count - 1))
		sleep_ns(100 * USEC);
	sleep_ns(2 * MSEC);
	kill_and_reap(self->duo.pid);
	self->duo.pid = 0;

	/* Even to who knows already. */
	EXPECT_EQ(EVERING_PEER_DIED, evering_peer(self->duo.ev));
	EXPECT_EQ((int)EVERING_RX,
		  evering_wait(self->duo.ev, EVERING_RX, EVERING_NOWAIT));
	EXPECT_EQ((int)EVERING_RX, evering_arm(self->duo.ev, EVERING_RX));
	EXPECT_EQ(count, receive_all(self->duo.ev, &end));
	EXPECT_EQ(-EPIPE, end);
	/* And it stays so. */
	EXPECT_EQ(-EPIPE, evering_recv(self->duo.ev, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(-EPIPE, evering_recv(self->duo.ev, &v, 4, PLENTY));
	EXPECT_EQ(-EPIPE,
		  evering_wait(self->duo.ev, EVERING_RX, EVERING_WAIT_FOREVER));
	EXPECT_EQ(-EPIPE, evering_arm(self->duo.ev, EVERING_RX));
	EXPECT_EQ(EVERING_PEER_DIED, evering_peer(self->duo.ev));
}

TEST_F(death, of_who_exits_without_a_word_is_a_death)
{
	uint32_t count = 16;
	int end;

	ASSERT_EQ(0, duo_start(&self->duo, true, self->p, send_some_and_exit,
			       &count));
	EXPECT_EQ(0, reap(self->duo.pid));
	self->duo.pid = 0;
	EXPECT_EQ(EVERING_PEER_DIED, evering_peer(self->duo.ev));
	EXPECT_EQ(count, receive_all(self->duo.ev, &end));
	EXPECT_EQ(-EPIPE, end);
}

TEST_F(death, is_not_what_a_close_is)
{
	uint32_t count = 7;
	int end;

	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, send_some_and_close,
			       &count));
	EXPECT_EQ(count, receive_all(self->duo.ev, &end));
	EXPECT_EQ(-EPIPE, end);
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->duo.ev));
	EXPECT_EQ(0, reap(self->duo.pid));
	self->duo.pid = 0;
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->duo.ev));
}

/* It has a child that has all that it has, and closes while the other side sleeps. */
static int live_on(void *arg)
{
	(void)arg;
	await_death();
}

static int close_beside_a_child(struct evering *ev, void *arg)
{
	(void)arg;
	if (spawn(live_on, NULL) < 0 || !peer_is_armed(ev, EVERING_RX))
		return 1;
	evering_close(ev);
	await_death();
}

/* Of who closes: what its child has keeps nobody asleep. */
TEST_F(death, is_no_matter_of_the_children_of_who_closes)
{
	unsigned int side;
	uint32_t v;

	for (side = 0; side < 2; side++) {
		ASSERT_EQ(0, duo_start(&self->duo, side, self->p,
				       close_beside_a_child, NULL));
		EXPECT_EQ(-EPIPE, evering_recv(self->duo.ev, &v, 4, PLENTY));
		EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->duo.ev));
		kill_and_reap(self->duo.pid);
		self->duo.pid = 0;
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
	}
}

/* A child that closes its copy, and has every descriptor of its parent's, ends nothing. */
static int close_copy(void *arg)
{
	evering_close(arg);
	return 0;
}

TEST_F(death, is_none_where_a_child_closes_its_copy)
{
	struct evering *ev[2];
	uint32_t v = 3;
	unsigned int i;

	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, reap(spawn(close_copy, ev[i])));
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(ev[!i]));
		EXPECT_EQ(0, evering_send(ev[i], &v, 4, EVERING_NOWAIT));
		EXPECT_EQ(0, evering_recv(ev[!i], &v, 4, PLENTY));
	}
	close_pair(ev);
}

TEST_F(death, after_a_close_changes_nothing)
{
	uint32_t v;

	ASSERT_EQ(0,
		  duo_start(&self->duo, false, self->p, close_and_stay, NULL));
	EXPECT_EQ(-EPIPE, evering_recv(self->duo.ev, &v, 4, PLENTY));
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->duo.ev));
	kill_and_reap(self->duo.pid);
	self->duo.pid = 0;
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->duo.ev));
}

static int stay(struct evering *ev, void *arg)
{
	(void)ev;
	(void)arg;
	await_death();
}

TEST_F(death, is_not_seen_where_there_is_none)
{
	uint32_t v;
	int i;

	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, stay, NULL));
	for (i = 0; i < 1000; i++)
		ASSERT_EQ(EVERING_PEER_ALIVE, evering_peer(self->duo.ev));
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->duo.ev, &v, 4, 20 * MSEC));
	kill(self->duo.pid, SIGSTOP);
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->duo.ev, &v, 4, 20 * MSEC));
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->duo.ev));
}

TEST_F(death, ends_sending_when_the_ring_is_full)
{
	unsigned int policy;
	uint32_t v = 0;
	int ret, n;

	for (policy = EVERING_ADAPTIVE; policy <= EVERING_BUSY; policy++) {
		self->p[0].policy = policy;
		ASSERT_EQ(0, duo_start(&self->duo, policy & 1, self->p, stay,
				       NULL));
		kill_and_reap(self->duo.pid);
		self->duo.pid = 0;
		for (n = 0, ret = 0; !ret && n < 100; n++)
			ret = evering_send(self->duo.ev, &v, 4, PLENTY);
		EXPECT_EQ(-EPIPE, ret);
		EXPECT_LE(n, 17);
		EXPECT_EQ(-EPIPE,
			  evering_wait(self->duo.ev, EVERING_RX | EVERING_TX,
				       PLENTY));
		EXPECT_EQ(-EPIPE, evering_arm(self->duo.ev, EVERING_TX));
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
	}
}

/* It has rung before, for nothing, and who sleeps hears both. */
TEST_F(death, behind_a_ring_is_one_all_the_same)
{
	const uint64_t one = 1;
	struct evering_bell bell;
	struct evering *ev[2];
	uint32_t v = 0;
	int64_t t;

	ASSERT_EQ(0, evering_pair(&self->p[0], ev));
	while (!evering_send(ev[0], &v, 4, 0))
		;
	ASSERT_EQ(0, evering_arm(ev[0], EVERING_RX));
	EXPECT_EQ(1, evering_flush_begin(ev[1], &bell));
	evering_disarm(ev[0], EVERING_RX);
	if (!bell.command)
		ASSERT_EQ(8, write(bell.fd, &one, sizeof(one)));
	evering_close(ev[1]);
	t = now_ns();
	EXPECT_EQ(-EPIPE, evering_wait(ev[0], EVERING_RX | EVERING_TX, PLENTY));
	EXPECT_LT(now_ns() - t, PLENTY / 2);
	evering_close(ev[0]);
}

TEST_F(death, is_found_out_by_who_never_waits)
{
	uint32_t v = 0;
	int64_t end;
	int ret, k;

	for (k = 0; k < 3; k++) {
		ASSERT_EQ(0, duo_start(&self->duo, false, self->p, stay, NULL));
		if (k == 1)
			while (!evering_send(self->duo.ev, &v, 4, 0))
				;
		kill_and_reap(self->duo.pid);
		self->duo.pid = 0;
		end = now_ns() + PLENTY;
		do {
			if (k == 0)
				ret = evering_recv(self->duo.ev, &v, 4, 0);
			else if (k == 1)
				ret = evering_send(self->duo.ev, &v, 4, 0);
			else
				ret = evering_wait(self->duo.ev, EVERING_RX, 0);
		} while (ret == -EAGAIN && now_ns() < end);
		EXPECT_EQ(-EPIPE, ret);
		evering_close(self->duo.ev);
		self->duo.ev = NULL;
	}
}

struct waiter {
	struct evering *ev;
	unsigned int what;
	int ret;
};

static void *waiter_main(void *arg)
{
	struct waiter *w = arg;

	w->ret = evering_wait(w->ev, w->what, PLENTY);
	return NULL;
}

TEST_F(death, wakes_both_threads)
{
	struct waiter w[2];
	pthread_t t[2];
	uint32_t v = 0;
	int64_t start;
	int i;

	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, stay, NULL));
	while (!evering_send(self->duo.ev, &v, 4, 0))
		;
	for (i = 0; i < 2; i++) {
		w[i] = (struct waiter){ self->duo.ev,
					i ? EVERING_TX : EVERING_RX, 0 };
		ASSERT_EQ(0, pthread_create(&t[i], NULL, waiter_main, &w[i]));
	}
	while (!(evering_load_acquire(&own_half(self->duo.ev)->armed_rx) &
		 evering_load_acquire(&own_half(self->duo.ev)->armed_tx) &
		 EVERING_ARMED))
		sleep_ns(50 * USEC);
	sleep_ns(2 * MSEC);
	start = now_ns();
	kill_and_reap(self->duo.pid);
	self->duo.pid = 0;
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(t[i], NULL));
		EXPECT_EQ(-EPIPE, w[i].ret);
	}
	EXPECT_LT(now_ns() - start, SEC);
}

/* A receiver that can be stopped anywhere, and is let go on by who stopped it. */
static bool held, let_go;

static void hold_still(int sig)
{
	(void)sig;
	__atomic_store_n(&held, true, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&let_go, __ATOMIC_SEQ_CST))
		;
}

struct receiver {
	struct evering *ev;
	unsigned int got;
	int end;
};

static void *receiver_main(void *arg)
{
	struct receiver *r = arg;
	uint32_t v;

	for (;;) {
		r->end = evering_recv(r->ev, &v, 4, EVERING_NOWAIT);
		if (!r->end)
			r->got++;
		else if (r->end != -EAGAIN)
			return NULL;
	}
}

/*
 * Wherever the receiver is, an entry comes, then the end, and another thread is the
 * first to see it.
 */
TEST_F_TIMEOUT(death, found_by_another_thread_hides_no_entry, 60)
{
	unsigned int lap, laps = slow(1) > 1 || SANITIZED ? 100 : 400, lost = 0;
	struct sigaction action = { .sa_handler = hold_still }, old;
	struct receiver r;
	struct evering *ev[2];
	pthread_t thread;
	uint32_t v = 0;

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, &old));
	for (lap = 0; lap < laps; lap++) {
		ASSERT_EQ(0, evering_pair(&self->p[0], ev));
		held = let_go = false;
		r = (struct receiver){ .ev = ev[0] };
		ASSERT_EQ(0, pthread_create(&thread, NULL, receiver_main, &r));
		sleep_ns(20 * USEC);
		/* More than once: TSan has been seen to lose one. */
		while (!__atomic_load_n(&held, __ATOMIC_SEQ_CST)) {
			pthread_kill(thread, SIGUSR1);
			sched_yield();
		}
		EXPECT_EQ(0, evering_send(ev[1], &v, 4, EVERING_NOWAIT));
		evering_close(ev[1]);
		while (evering_peer(ev[0]) == EVERING_PEER_ALIVE)
			;
		__atomic_store_n(&let_go, true, __ATOMIC_SEQ_CST);
		pthread_join(thread, NULL);
		EXPECT_EQ(-EPIPE, r.end);
		lost += r.got != 1;
		evering_close(ev[0]);
	}
	EXPECT_EQ(0u, lost);
	sigaction(SIGUSR1, &old, NULL);
}

TEST_F(death, leaves_the_arena_of_the_dead_readable)
{
	const unsigned char *p;
	unsigned int i, sum = 0;

	self->p[0].arena_begin = self->p[1].arena_begin = EVERING_WHOLE;
	ASSERT_EQ(0, duo_start(&self->duo, false, self->p, stay, NULL));
	kill_and_reap(self->duo.pid);
	self->duo.pid = 0;
	p = evering_peer_buffer(self->duo.ev, 0, 65536);
	ASSERT_NE(NULL, p);
	for (i = 0; i < 65536; i++)
		sum += p[i];
	EXPECT_EQ(0u, sum);
	for (i = 0; i < 64 * 16; i++)
		sum += self->duo.ev->rx.slots[i];
	EXPECT_EQ(0u, sum);
}

TEST_HARNESS_MAIN
