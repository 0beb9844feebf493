// SPDX-License-Identifier: MIT
/*
 * wait.c: the slow paths of a channel: credit, publishing, doorbells, spinning and
 * sleeping.
 *
 * evering_ring.h describes the protocol.  Both of its halves are here:
 * evering__publish(), publish_awake() and evering__flush() look for a sleeper;
 * evering__arm() is about to sleep.  The backend rings doorbells and sleeps, and does
 * not use the words in shared memory.
 */
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "internal.h"

/*
 * Spins between two looks at the clock.  A short wait, common with one message under
 * way, ends before the first look.
 */
#define SPINS_PER_LOOK 64u
/* Looks between two questions whether the peer is alive. */
#define LOOKS_PER_QUESTION 256u
/* Calls with EVERING_NOWAIT between two looks at a cheap and coarse clock. */
#define CALLS_PER_CLOCK 16u
/*
 * A wait that has looked this often has taken a microsecond or more, and can afford two
 * system calls.
 */
#define LOOKS_UNTIL_BLOCKED 1u

#define WAIT_MASK (EVERING_RX | EVERING_TX)

int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The time @timeout_ns from now; INT64_MAX: never. */
int64_t deadline_after(int64_t timeout_ns)
{
	int64_t deadline;

	if (timeout_ns < 0 ||
	    __builtin_add_overflow(now_ns(), timeout_ns, &deadline))
		return INT64_MAX;
	return deadline;
}

/* The time for ppoll(2) to wait until @deadline; NULL: for ever. */
const struct timespec *time_left(int64_t deadline, struct timespec *left)
{
	int64_t ns;

	if (deadline == INT64_MAX)
		return NULL;
	ns = deadline - now_ns();
	if (ns < 0)
		ns = 0;
	left->tv_sec = ns / 1000000000;
	left->tv_nsec = ns % 1000000000;
	return left;
}

/*
 * Ends the channel; the first reason stays.  Any thread may call this, and the sending
 * thread finds no room from now on.  It may have committed more meanwhile, so it takes
 * a limit that lies behind its position for "no room", too.
 */
int channel_end(struct endpoint *e, int error)
{
	struct evering_tx *tx = &e->ev.tx;
	int none = 0;

	__atomic_compare_exchange_n(&e->error, &none, error, false,
				    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	evering_full_fence(); /* the store of the error, then that of the limit */
	__atomic_store_n(&tx->limit,
			 __atomic_load_n(&tx->next, __ATOMIC_RELAXED),
			 __ATOMIC_RELAXED);
	return none ? none : error;
}

/*
 * evering__credit - find out how many entries there is room for
 *
 * The peer's word is read once.  It is invalid if the peer has released more than was
 * committed, or is more than a ring behind.
 */
uint32_t evering__credit(struct evering *ev)
{
	struct endpoint *e = to_endpoint(ev);
	struct evering_tx *tx = &ev->tx;
	uint32_t entries = tx->mask + 1;
	uint32_t released;

	counter_add(&e->half->counters.tx_entries, tx->next - e->tx.counted);
	e->tx.counted = tx->next;

	released = evering_load_acquire(&e->peer->released); /* [C] */
	if (tx->next - released > entries) {
		channel_end(e, -EPROTO);
		return 0;
	}
	__atomic_store_n(&tx->limit, released + entries, __ATOMIC_RELAXED);
	evering_full_fence(); /* the store of the limit, then a look at the error */
	if (channel_error(e)) {
		channel_end(e, channel_error(e));
		return 0;
	}
	return released + entries - tx->next;
}

/*
 * Publishes how far the peer may write, without a fence, and only forward.  Either
 * thread may do this, so that no thread sleeps, in any role, while the peer waits for
 * room that is released and not published.  A thread with both roles could otherwise
 * wait for room itself, while the peer waits for just these entries.
 */
static bool publish_released(struct endpoint *e)
{
	uint32_t next = evering_load_acquire(&e->ev.rx.next);
	uint32_t old = evering_load_relaxed(&e->half->released);

	while ((int32_t)(next - old) > 0)
		if (__atomic_compare_exchange_n(&e->half->released, &old, next,
						true, __ATOMIC_RELEASE,
						__ATOMIC_RELAXED)) /* [C] */
			return true;
	return false;
}

/*
 * Whether this side has taken up everything that it has released, and not more than can
 * exist.
 */
static bool begins(const struct evering_rx *rx)
{
	return evering_load_relaxed(rx->begun) - rx->next <= rx->mask + 1;
}

/* This side receives, and takes up what it receives. */
static void begin_none(struct evering_rx *rx)
{
	if (!begins(rx))
		evering__begin(rx, rx->next);
}

/* The same by the receiving thread, which counts the entries. */
static bool store_released(struct endpoint *e)
{
	struct evering_rx *rx = &e->ev.rx;

	/* Entries after this may have been looked at, without evering_begin(). */
	if (!begins(rx))
		evering__begin(rx, rx->next + 2 * EVERING_BEGUN_ALL);
	counter_add(&e->half->counters.rx_entries, rx->next - e->rx.counted);
	e->rx.counted = rx->next;
	rx->publish_at = rx->next + ((rx->mask + 1) >> 2);
	return publish_released(e);
}

/* Whether the peer's word @armed, which was read, asks for the doorbell. */
static bool ring_due(uint32_t armed, uint32_t rung)
{
	return (armed & EVERING_ARMED) && armed != rung;
}

/*
 * A doorbell counts as rung when the backend has rung it.  The device does not ring if
 * the sleeper has disarmed meanwhile; if it arms this generation again, the doorbell
 * has to be rung.
 */
static void note_tx_rung(struct endpoint *e, uint32_t armed, unsigned int rang)
{
	if (!(rang & EVERING_RX))
		return;
	e->ev.tx.rung = armed;
	counter_add(&e->half->counters.tx_rings, 1);
}

static void note_rx_rung(struct endpoint *e, uint32_t armed, unsigned int rang)
{
	if (!(rang & EVERING_TX))
		return;
	e->ev.rx.rung = armed;
	counter_add(&e->half->counters.rx_rings, 1);
}

/* The sending thread rang for room, after it published for the receiving thread. */
static void note_space_rung(struct endpoint *e, uint32_t armed,
			    unsigned int rang)
{
	if (!(rang & EVERING_TX))
		return;
	e->space_rung = armed;
	counter_add(&e->half->counters.tx_rings, 1);
}

/* evering__ring - ring the peer, whose armed_rx was seen armed after a fence */
int evering__ring(struct evering *ev, uint32_t armed)
{
	struct endpoint *e = to_endpoint(ev);

	if (ring_due(armed, ev->tx.rung)) {
		counter_add(&e->half->counters.tx_syscalls, 1);
		note_tx_rung(e, armed, e->backend->ring(e, EVERING_RX));
	}
	return 0;
}

/*
 * evering__ring_owed - the same, in a send
 *
 * Under EVERING_LAZY_RING there is nothing to remember.  The code that rings later
 * looks at the word again, after a fence of its own: see evering__arm() and
 * evering_flush().
 */
int evering__ring_owed(struct evering *ev, uint32_t armed)
{
	struct endpoint *e = to_endpoint(ev);

	if (!e->lazy && !(e->member && group_collects(e)))
		return evering__ring(ev, armed);
	if (e->member)
		group_owes(e);
	return 0;
}

int evering_publish(struct evering *ev)
{
	const struct endpoint *e = to_endpoint(ev);

	if (ev->rx.next != evering_load_relaxed(&e->half->released))
		evering__publish(ev);
	if (e->lazy)
		evering_flush(ev);
	return 0;
}

int evering_flush_begin(struct evering *ev, struct evering_bell *bell)
{
	struct endpoint *e = to_endpoint(ev);
	uint32_t armed;

	evering_full_fence(); /* [D] */
	armed = evering_load_relaxed(ev->tx.armed);
	if (!ring_due(armed, ev->tx.rung))
		return 0;
	/*
	 * The caller rings it, so it counts as rung whether or not the device finds a
	 * sleeper.
	 */
	if (e->backend->bell(e, bell) & EVERING_RX)
		e->ev.tx.rung = armed;
	counter_add(&e->half->counters.tx_rings, 1);
	return 1;
}

/* evering__publish - publish what was released, and wake the peer if it waits */
int evering__publish(struct evering *ev)
{
	struct endpoint *e = to_endpoint(ev);
	uint32_t armed;

	store_released(e);
	evering_full_fence(); /* [D] */
	armed = evering_load_relaxed(ev->rx.armed);
	if (ring_due(armed, ev->rx.rung)) {
		counter_add(&e->half->counters.rx_syscalls, 1);
		note_rx_rung(e, armed, e->backend->ring(e, EVERING_TX));
	}
	return 0;
}

/* The roles of @what that have something to do. */
FOLDED unsigned int ready(struct endpoint *e, unsigned int what)
{
	unsigned int is = 0;

	if ((what & EVERING_RX) && evering_peek_at(&e->ev, e->ev.rx.ahead))
		is |= EVERING_RX;
	if ((what & EVERING_TX) && evering_reserve_at(&e->ev, e->room))
		is |= EVERING_TX;
	return is;
}

/**
 * struct owed - doorbells of the peer to ring, and the words that ask for it
 * @ring: the doorbells, EVERING_RX and EVERING_TX
 * @armed_rx: the peer's word for EVERING_RX
 * @armed_tx: the peer's word for EVERING_TX
 */
struct owed {
	unsigned int ring;
	uint32_t armed_rx;
	uint32_t armed_tx;
};

FOLDED void note_owed(struct endpoint *e, unsigned int what,
		      const struct owed *owed, unsigned int rang)
{
	note_tx_rung(e, owed->armed_rx, rang & owed->ring);
	if (what & EVERING_RX)
		note_rx_rung(e, owed->armed_tx, rang & owed->ring);
	else
		note_space_rung(e, owed->armed_tx, rang & owed->ring);
}

static void arm_word(struct role *role)
{
	role->armed = role->exposed = true;
	__atomic_store_n(role->word, role->generation | EVERING_ARMED,
			 __ATOMIC_RELAXED);
}

/*
 * evering__arm - prepare to sleep
 *
 * Stores what the peer has to see; then the fence; then looks at what the peer has
 * stored: whether there is something to do after all (the return value), and whether
 * the peer sleeps on what was just stored (*@owed).
 */
FOLDED unsigned int evering__arm(struct endpoint *e, unsigned int what,
				 struct owed *owed)
{
	bool published = false;
	uint32_t rung;

	*owed = (struct owed){ 0 };

	if (what & EVERING_RX) {
		if (e->ev.rx.next != e->rx.counted)
			published = store_released(e);
		arm_word(&e->rx);
		rung = e->ev.rx.rung;
	} else {
		published = publish_released(e);
		rung = e->space_rung;
	}
	if (what & EVERING_TX)
		arm_word(&e->tx);

	evering_full_fence(); /* [D] */

	/*
	 * Ring only if the position was published just now; for an older one this side
	 * has looked then.  To ring without news would lead to an endless exchange with
	 * a producer that has no room because this side keeps entries and waits for
	 * more: see evering_look_ahead().
	 */
	owed->armed_tx = evering_load_relaxed(e->ev.rx.armed);
	if (published && ring_due(owed->armed_tx, rung))
		owed->ring |= EVERING_TX;
	if (what & (EVERING_TX | EVERING_FLUSH)) {
		owed->armed_rx = evering_load_relaxed(e->ev.tx.armed);
		if (ring_due(owed->armed_rx, e->ev.tx.rung))
			owed->ring |= EVERING_RX;
	}
	return ready(e, what);
}

/*
 * If the present generation was exposed, its doorbell has been consumed if the backend
 * says so (@rung), or if the kernel has cleared EVERING_ARMED.
 */
static void disarm_word(struct role *role, bool rung)
{
	uint32_t old = __atomic_exchange_n(role->word, role->generation,
					   __ATOMIC_RELAXED);

	if (role->armed && !(old & EVERING_ARMED))
		rung = true;
	role->armed = false;
	if (rung && role->exposed) {
		role->generation += EVERING_GENERATION;
		role->exposed = false;
	}
}

FOLDED void disarm(struct endpoint *e, unsigned int what, unsigned int rung)
{
	if (what & EVERING_RX)
		disarm_word(&e->rx, rung & EVERING_RX);
	if (what & EVERING_TX)
		disarm_word(&e->tx, rung & EVERING_TX);
}

static void ring_owed(struct endpoint *e, unsigned int what,
		      const struct owed *owed)
{
	if (!owed->ring)
		return;
	if (what & EVERING_RX)
		counter_add(&e->half->counters.rx_syscalls, 1);
	else
		counter_add(&e->half->counters.tx_syscalls, 1);
	note_owed(e, what, owed, e->backend->ring(e, owed->ring));
}

/* Publishes as before a sleep, for a thread that continues without sleeping. */
static void publish_awake(struct endpoint *e, unsigned int what)
{
	struct owed owed = { 0 };

	if (evering_load_relaxed(&e->ev.rx.next) ==
	    evering_load_relaxed(&e->half->released))
		return;
	if (what & EVERING_RX) {
		evering__publish(&e->ev);
		return;
	}
	publish_released(e);
	evering_full_fence(); /* [D] */
	owed.armed_tx = evering_load_relaxed(e->ev.rx.armed);
	if (ring_due(owed.armed_tx, e->space_rung))
		owed.ring = EVERING_TX;
	ring_owed(e, what, &owed);
}

/* Consumes doorbells outside of a sleep, for a caller that polls evering_fd(). */
static void drain(struct endpoint *e, unsigned int what)
{
	if (!what)
		return;
	disarm(e, what, e->backend->drain(e, what));
}

/* Disarms what evering_arm() has armed.  Reads nothing of the other thread's role. */
static void disarm_external(struct endpoint *e, unsigned int what)
{
	unsigned int armed = 0;

	if ((what & EVERING_RX) && e->rx.armed)
		armed |= EVERING_RX;
	if ((what & EVERING_TX) && e->tx.armed)
		armed |= EVERING_TX;
	drain(e, armed);
}

static bool may_have_heard(const struct role *role)
{
	return role->armed || role->exposed;
}

/*
 * Consumes, before arming, a doorbell that was rung late, when its generation was not
 * armed any more.  It must not be taken for news that comes from now on: an
 * edge-triggered loop has had its edge, and the peer rings once for each generation.
 */
static void drain_heard(struct endpoint *e, unsigned int what)
{
	unsigned int heard = 0;

	if ((what & EVERING_RX) && may_have_heard(&e->rx))
		heard |= EVERING_RX;
	if ((what & EVERING_TX) && may_have_heard(&e->tx))
		heard |= EVERING_TX;
	drain(e, heard);
}

/*
 * When the peer is gone there may still be entries that it sent before.  They were
 * visible before its death was, so one more look is enough.  That holds whether this
 * thread found the death or the other one did and stored it in e->error.  The acquire
 * is needed because that is loaded without order.
 */
static int peer_gone(struct endpoint *e, unsigned int what)
{
	unsigned int is;

	channel_end(e, -EPIPE);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	is = ready(e, what & EVERING_RX);
	return is ? (int)is : channel_error(e);
}

/*
 * Adjusts how long to spin, after a wait that began at @start and slept from @asleep
 * on.  The algorithm is that by which KVM polls before it halts a virtual CPU
 * (virt/kvm/kvm_main.c, grow and shrink): spin longer if the wait was short enough to
 * be spun away, else shorter.  One case is not in KVM: if both sides share one CPU,
 * spinning itself delays the answer, and every spin is followed by a short sleep.  So
 * after some such failures in a row, do not spin for a while.  This looks only at the
 * length of the sleep, because a spin of full length makes the whole wait long.
 */
void spin_adjust(struct spin *spin, uint32_t spin_ns, int64_t start,
		 int64_t asleep)
{
	uint32_t least = spin_ns / 8;
	int64_t now;

	if (spin->hold) {
		spin->hold--;
		return;
	}
	now = now_ns();
	if (now - asleep > (int64_t)spin_ns) {
		spin->failed = 0;
	} else if (spin->budget && ++spin->failed >= 4) {
		spin->failed = 0;
		spin->budget = 0;
		spin->hold = spin->next_hold;
		if (spin->next_hold < 1024)
			spin->next_hold *= 2;
		return;
	}
	if (now - start > (int64_t)spin_ns) {
		spin->budget /= 2;
		if (spin->budget < least)
			spin->budget = 0;
		return;
	}
	spin->budget = spin->budget ? spin->budget * 2 : least;
	if (spin->budget > spin_ns)
		spin->budget = spin_ns;
}

void spin_succeeded(struct spin *spin)
{
	spin->failed = 0;
	spin->next_hold = 8;
}

/*
 * Blocks all signals except those that a fault in this thread raises, which cannot
 * wait.  Returns 0, or an errno.
 */
int block_signals(sigset_t *old)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE,
				      SIGTRAP, SIGSYS, SIGABRT };
	sigset_t most;
	unsigned int i;

	sigfillset(&most);
	for (i = 0; i < ARRAY_SIZE(faults); i++)
		sigdelset(&most, faults[i]);
	return pthread_sigmask(SIG_BLOCK, &most, old);
}

void signals_block(struct signals *s)
{
	if (block_signals(&s->own))
		return;
	s->blocked = true;
	s->mask = &s->own;
}

void signals_restore(struct signals *s)
{
	if (!s->blocked)
		return;
	pthread_sigmask(SIG_SETMASK, &s->own, NULL);
	s->blocked = false;
	s->mask = NULL;
}

/* Whether this process handles the signal.  Others end the process, or are ignored. */
static bool is_handled(int signal)
{
	struct sigaction action;

	if (sigaction(signal, NULL, &action))
		return errno != EINVAL; /* no such signal, or the C library's */
	return action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN;
}

/* Whether any signal that @mask does not block is handled. */
bool signals_handled(const sigset_t *mask)
{
	int i;

	for (i = 1; i <= SIGRTMAX; i++)
		if (!sigismember(mask, i) && is_handled(i))
			return true;
	return false;
}

static bool let_in(const sigset_t *mask)
{
	const struct timespec none = { 0 };

	return ppoll(NULL, 0, &none, mask) < 0 && errno == EINTR;
}

/*
 * Whether a handled signal has come that the sleep does not block.  If so, its handler
 * has run when this returns.  An ignored signal stays pending while it is blocked, and
 * ends a sleep that unblocks it.  So it is unblocked here, alone, where it ends
 * nothing.
 */
bool signals_came(const struct signals *s)
{
	sigset_t pending, others;
	bool ignored = false, handled = false;
	int i;

	if (!s->mask)
		return false;
	if (sigpending(&pending))
		return let_in(s->mask);
	if (sigisemptyset(&pending))
		return false;
	sigfillset(&others);
	for (i = 1; i <= SIGRTMAX; i++) {
		if (sigismember(&pending, i) != 1 || sigismember(s->mask, i))
			continue;
		if (is_handled(i)) {
			handled = true;
		} else {
			ignored = true;
			sigdelset(&others, i);
		}
	}
	if (ignored)
		let_in(&others);
	return handled && let_in(s->mask);
}

/*
 * Whether evering_wake() was called for @what since the last time that this returned
 * true.
 */
static bool was_woken(struct endpoint *e, unsigned int what)
{
	unsigned int woken = __atomic_load_n(&e->woken, __ATOMIC_RELAXED) &
			     what;

	if (EVERING_LIKELY(!woken))
		return false;
	__atomic_fetch_and(&e->woken, ~woken, __ATOMIC_RELAXED);
	return true;
}

/*
 * Spins until something is ready (returns what), the budget or the time has passed (0),
 * the peer is gone (-EPIPE) or a signal came (-EINTR).
 */
static int spin_for(struct endpoint *e, unsigned int what, int64_t budget,
		    int64_t deadline, struct signals *signals)
{
	unsigned int looks = 0, i, is;
	int64_t until = 0;

	for (;;) {
		for (i = 0; i < SPINS_PER_LOOK; i++) {
			is = ready(e, what);
			if (is)
				return (int)is;
			relax();
		}
		if (channel_error(e))
			return channel_error(e);
		if (was_woken(e, what))
			return -EINTR;
		/* This wait takes longer, so the peer has to see what was released. */
		publish_awake(e, what);
		looks++;
		if (looks == LOOKS_UNTIL_BLOCKED && budget != INT64_MAX &&
		    !signals->mask)
			signals_block(signals);
		if (looks % LOOKS_PER_QUESTION == 0) {
			if (e->backend->gone(e))
				return -EPIPE;
			if (signals_came(signals))
				return -EINTR;
		}
		if (budget != INT64_MAX || deadline != INT64_MAX) {
			int64_t now = now_ns();

			if (!until &&
			    __builtin_add_overflow(now, budget, &until))
				until = INT64_MAX;
			if (now >= until || now >= deadline)
				return 0;
		}
	}
}

/*
 * Whether it is time to ask the system if the peer is alive.  A caller that looks
 * seldom asks at once; one that looks all the time asks once in some milliseconds.
 */
static bool time_to_ask(struct role *role)
{
	struct timespec now;

	if (++role->idle % CALLS_PER_CLOCK)
		return false;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (role->asked == now.tv_nsec)
		return false;
	role->asked = now.tv_nsec;
	return true;
}

static int wait_nowait(struct endpoint *e, unsigned int what)
{
	struct role *role = what & EVERING_RX ? &e->rx : &e->tx;

	if (channel_error(e))
		return peer_gone(e, what);
	/*
	 * A caller that polls and never sleeps still publishes for a producer that
	 * waits.  It looks again, so to look without a fence is enough.
	 */
	if (!(what & EVERING_RX) ||
	    (evering_load_relaxed(e->ev.rx.armed) & EVERING_ARMED))
		publish_awake(e, what);
	if (evering_load_relaxed(&e->peer->closed) ||
	    (time_to_ask(role) && e->backend->gone(e)))
		return peer_gone(e, what);
	return -EAGAIN;
}

FOLDED int sleep_until_ready(struct endpoint *e, unsigned int what,
			     int64_t deadline, const sigset_t *mask)
{
	struct owed owed;
	unsigned int is, rang;
	bool woken;
	int ret;

	for (;;) {
		is = evering__arm(e, what, &owed);
		woken = !is && was_woken(e, what);
		if (is || woken || channel_error(e)) {
			disarm(e, what, 0);
			ring_owed(e, what, &owed);
			if (woken)
				return -EINTR;
			return is ? (int)is : peer_gone(e, what);
		}
		if (what & EVERING_RX)
			counter_add(&e->half->counters.rx_sleeps, 1);
		else
			counter_add(&e->half->counters.tx_sleeps, 1);
		rang = 0;
		ret = e->backend->sleep(e, what & WAIT_MASK, owed.ring,
					deadline, mask, &rang);
		note_owed(e, what, &owed, rang);
		disarm(e, what, ret > 0 ? (unsigned int)ret : 0);
		is = ready(e, what);
		if (is)
			return (int)is;
		if (ret == -EPIPE)
			return peer_gone(e, what);
		/*
		 * An ignored signal was pending while it was blocked, and must not end
		 * the wait.
		 */
		if (ret < 0 &&
		    (ret != -EINTR || !mask || signals_handled(mask)))
			return ret;
		/*
		 * Neither such signals nor a peer that rings for nothing extend the
		 * wait.
		 */
		if (deadline != INT64_MAX && now_ns() >= deadline)
			return -ETIMEDOUT;
	}
}

static int wait_asleep(struct endpoint *e, unsigned int what, int64_t deadline,
		       const sigset_t *mask)
{
	unsigned int is;

	disarm_external(e, what);
	if (EVERING_UNLIKELY(e->member))
		group_touched(e);
	/*
	 * If the peer has to run on this CPU it runs now, and has answered when this
	 * thread runs again, without a doorbell and a sleep, because this side has not
	 * armed yet.
	 */
	if ((what & EVERING_FLUSH) && !e->backend->joint) {
		evering_flush(&e->ev);
		what &= ~EVERING_FLUSH;
		is = ready(e, what);
		if (is)
			return (int)is;
	}
	switch (what) {
	case EVERING_RX:
		return sleep_until_ready(e, EVERING_RX, deadline, mask);
	case EVERING_RX | EVERING_FLUSH:
		return sleep_until_ready(e, EVERING_RX | EVERING_FLUSH,
					 deadline, mask);
	case EVERING_TX | EVERING_FLUSH:
		return sleep_until_ready(e, EVERING_TX | EVERING_FLUSH,
					 deadline, mask);
	default:
		return sleep_until_ready(e, what, deadline, mask);
	}
}

/*
 * Spins by the policy.  Returns 0: sleep; else what the wait returns.  Sets *@start and
 * *@asleep to when the spin began and ended, for EVERING_ADAPTIVE.
 */
static int wait_awake(struct endpoint *e, unsigned int *what, int64_t deadline,
		      struct signals *signals, int64_t *start, int64_t *asleep)
{
	struct spin *spin = *what & EVERING_RX ? &e->rx.spin : &e->tx.spin;
	int64_t budget = 0;
	int ret;

	if (e->policy == EVERING_BUSY)
		budget = INT64_MAX;
	else if (e->policy == EVERING_ADAPTIVE && !spin->hold)
		budget = spin->budget;
	if (e->policy == EVERING_ADAPTIVE)
		*start = *asleep = now_ns();
	if (!budget)
		return 0;
	if (*what & EVERING_FLUSH)
		evering_flush(&e->ev);
	*what &= ~EVERING_FLUSH;
	ret = spin_for(e, *what, budget, deadline, signals);
	if (ret > 0)
		spin_succeeded(spin);
	if (ret == -EPIPE)
		return peer_gone(e, *what);
	if (ret)
		return ret;
	*asleep = now_ns();
	if (*asleep >= deadline)
		return -ETIMEDOUT;
	if (signals->blocked) {
		if (signals_came(signals))
			return -EINTR;
		/* Only if a sleep with a mask costs more than one without. */
		if (!e->backend->masks)
			signals_restore(signals);
	}
	return 0;
}

/*
 * A function of its own, so that a caller that sleeps at once does not pay for a signal
 * mask on the stack.
 */
static __attribute__((noinline)) int wait_spinning(struct endpoint *e,
						   unsigned int what,
						   int64_t deadline,
						   const sigset_t *mask)
{
	int64_t start = 0, asleep = 0;
	struct signals signals;
	int ret;

	signals.mask = mask;
	signals.blocked = false;
	ret = wait_awake(e, &what, deadline, &signals, &start, &asleep);
	if (!ret) {
		ret = wait_asleep(e, what, deadline, signals.mask);
		if (e->policy == EVERING_ADAPTIVE && ret > 0)
			spin_adjust(what & EVERING_RX ? &e->rx.spin :
							&e->tx.spin,
				    e->spin_ns, start, asleep);
	}
	signals_restore(&signals);
	return ret;
}

FOLDED int wait_for(struct evering *ev, unsigned int what, int64_t timeout_ns,
		    const sigset_t *mask)
{
	struct endpoint *e = to_endpoint(ev);
	int64_t deadline;
	unsigned int is;

	if (EVERING_UNLIKELY(!(what & WAIT_MASK) ||
			     (what & ~(WAIT_MASK | EVERING_FLUSH)) ||
			     timeout_ns < EVERING_WAIT_FOREVER))
		return -EINVAL;
	/* A receiver that sleeps does not drain a full ring. */
	if (what & EVERING_TX)
		what |= EVERING_FLUSH;
	what |= e->lazy;

	is = ready(e, what);
	if (is || timeout_ns == EVERING_NOWAIT) {
		if (what & EVERING_FLUSH)
			evering_flush(ev);
		return is ? (int)is : wait_nowait(e, what);
	}
	if (channel_error(e))
		return peer_gone(e, what);
	if (was_woken(e, what)) {
		/* Everything that was sent before counts as flushed. */
		if (what & EVERING_FLUSH)
			evering_flush(ev);
		return -EINTR;
	}

	deadline = deadline_after(timeout_ns);
	if (e->policy == EVERING_BLOCK)
		return wait_asleep(e, what, deadline, mask);
	return wait_spinning(e, what, deadline, mask);
}

/*
 * As evering_wait(EVERING_RX, EVERING_NOWAIT) of a caller that will sleep: rings no
 * doorbell.
 */
int wait_look(struct endpoint *e)
{
	return ready(e, EVERING_RX) ? (int)EVERING_RX :
				      wait_nowait(e, EVERING_RX);
}

/* The functions by which a group looks at its members and arms them. */
unsigned int wait_ready(struct endpoint *e, unsigned int what)
{
	return ready(e, what);
}

void wait_publish(struct endpoint *e)
{
	publish_awake(e, EVERING_RX);
}

/* The doorbells @rung were rung and are consumed. */
void wait_disarm(struct endpoint *e, unsigned int what, unsigned int rung)
{
	if ((what & EVERING_RX) && may_have_heard(&e->rx))
		disarm_word(&e->rx, rung & EVERING_RX);
	if ((what & EVERING_TX) && may_have_heard(&e->tx))
		disarm_word(&e->tx, rung & EVERING_TX);
}

bool wait_woken(struct endpoint *e)
{
	return was_woken(e, WAIT_MASK);
}

/*
 * Arms a member before a sleep of its group.  Returns 0: it is armed; the roles of
 * @what that are ready, or why the channel has ended: it is not armed.  A doorbell that
 * it owes for room is on the group's list, or was rung.
 */
FOLDED int arm_member(struct endpoint *e, unsigned int what)
{
	unsigned int heard = ~what & WAIT_MASK, is;
	struct owed owed;

	/* If a doorbell has cleared what is already armed, do not hide that. */
	if (e->rx.armed)
		heard |= EVERING_RX;
	if (e->tx.armed)
		heard |= EVERING_TX;
	/* What is no longer wanted must not wake the group. */
	wait_disarm(e, heard, 0);
	is = evering__arm(e, what, &owed);
	/*
	 * A doorbell on the list does not count as rung, because it is not known
	 * whether the kernel finds it armed.  If it does, it clears that.
	 */
	if (owed.ring && group_rings(e, owed.ring))
		counter_add(what & EVERING_RX ? &e->half->counters.rx_rings :
						&e->half->counters.tx_rings,
			    1);
	else
		ring_owed(e, what, &owed);
	if (is || channel_error(e)) {
		disarm(e, what, 0);
		return is ? (int)is : peer_gone(e, what);
	}
	return 0;
}

int wait_arm(struct endpoint *e, unsigned int what)
{
	return what == EVERING_RX ? arm_member(e, EVERING_RX) :
				    arm_member(e, what);
}

int evering_wait(struct evering *ev, unsigned int what, int64_t timeout_ns)
{
	return wait_for(ev, what, timeout_ns, NULL);
}

int evering_pwait(struct evering *ev, unsigned int what, int64_t timeout_ns,
		  const sigset_t *mask)
{
	return wait_for(ev, what, timeout_ns, mask);
}

/*
 * Only calls that are safe in a signal handler.  The word is stored before the doorbell
 * is rung, so a sleeper that arms too late for the doorbell sees the word.
 */
int evering_wake(struct evering *ev, unsigned int what)
{
	struct endpoint *e = to_endpoint(ev);
	int saved = errno;

	if (!what || (what & ~WAIT_MASK))
		return -EINVAL;
	__atomic_fetch_or(&e->woken, what, __ATOMIC_SEQ_CST);
	e->backend->wake(e, what);
	errno = saved;
	return 0;
}

int evering__wait_space(struct evering *ev, int64_t timeout_ns)
{
	return evering_wait(ev, EVERING_TX, timeout_ns);
}

int evering__wait_entry(struct evering *ev, int64_t timeout_ns)
{
	begin_none(&ev->rx);
	return evering_wait(ev, EVERING_RX, timeout_ns);
}

int evering__send_wait(struct evering *ev, const void *entry, size_t len,
		       int64_t timeout_ns)
{
	/*
	 * A wait flushes, and so wakes a peer that this entry would wake soon anyway.
	 */
	int ret = evering_reserve(ev) ?
			  0 :
			  evering_wait(ev, EVERING_TX, timeout_ns);

	if (ret < 0)
		return ret;
	return evering_send(ev, entry, len, EVERING_NOWAIT);
}

int evering__recv_wait(struct evering *ev, void *entry, size_t len,
		       int64_t timeout_ns)
{
	int ret;

	begin_none(&ev->rx);
	ret = evering_wait(ev, EVERING_RX, timeout_ns);
	if (ret < 0)
		return ret;
	return evering_recv(ev, entry, len, EVERING_NOWAIT);
}

int evering_arm(struct evering *ev, unsigned int what)
{
	struct endpoint *e = to_endpoint(ev);
	struct owed owed;
	unsigned int is;

	if (!what || (what & ~WAIT_MASK))
		return -EINVAL;
	if (e->member)
		return -EBUSY;

	drain_heard(e, what);
	is = evering__arm(e, what | e->lazy, &owed);
	ring_owed(e, what, &owed);
	if (is) {
		disarm(e, what, 0);
		return (int)is;
	}
	/*
	 * Ask also whether the peer is gone: an edge-triggered loop that has polled is
	 * not notified of that a second time.
	 */
	if (channel_error(e) || e->backend->gone(e)) {
		disarm(e, what, 0);
		return peer_gone(e, what);
	}
	return 0;
}

void evering_disarm(struct evering *ev, unsigned int what)
{
	struct endpoint *e = to_endpoint(ev);

	/* The group arms its members. */
	if (!e->member)
		disarm_external(e, what);
}

int evering_fd(struct evering *ev)
{
	struct endpoint *e = to_endpoint(ev);

	return e->member ? -EBUSY : e->backend->fd(e);
}

short evering_events(const struct evering *ev, unsigned int what)
{
	return to_const_endpoint(ev)->backend->events(what);
}

int evering_want_room(struct evering *ev, uint32_t count)
{
	struct endpoint *e = to_endpoint(ev);

	if (!count || count > e->geometry.entries || e->ops)
		return -EINVAL;
	e->room = count - 1;
	return 0;
}

_Static_assert(EVERING_CLOSED == EVERING_PEER_CLOSED &&
		       EVERING_CLOSED_DIED == EVERING_PEER_DIED &&
		       EVERING_CLOSED_LOST == EVERING_PEER_LOST &&
		       EVERING_CLOSED_RELAY == EVERING_PEER_RELAY_DIED,
	       "evering_peer() and evering_close_as() hand them on");

int evering_peer(struct evering *ev)
{
	struct endpoint *e = to_endpoint(ev);
	uint32_t closed = evering_load_relaxed(&e->peer->closed);

	if (!closed && !e->backend->gone(e))
		return EVERING_PEER_ALIVE;
	channel_end(e, -EPIPE);
	/* The peer may have closed it between the two looks. */
	if (!closed)
		closed = evering_load_relaxed(&e->peer->closed);
	if (!closed)
		return evering_load_relaxed(&e->peer->relayed) ?
			       EVERING_PEER_RELAY_DIED :
			       EVERING_PEER_DIED;
	return closed <= EVERING_CLOSED_RELAY ? (int)closed :
						EVERING_PEER_CLOSED;
}
