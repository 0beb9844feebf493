// SPDX-License-Identifier: MIT
/*
 * wait.c: what the fast path leaves to others: credit, publishing, ringing,
 * spinning and sleeping.
 *
 * The protocol is told in evering_ring.h.  Both its halves are here: looking for a
 * sleeper is evering__publish(), publish_awake() and evering__flush(), about to
 * sleep is evering__arm().  The backend knows how to ring and how to sleep, and nothing of
 * the words in shared memory.
 */
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "internal.h"

/*
 * Spins between two looks at the clock.  Short waits, the common case at depth 1,
 * end before the first look.
 */
#define SPINS_PER_LOOK 64u
/* Looks between two questions whether the peer lives. */
#define LOOKS_PER_QUESTION 256u
/* Calls with EVERING_NOWAIT between two looks at a clock that is cheap, and coarse. */
#define CALLS_PER_CLOCK 16u
/* A wait that has looked so often, a microsecond or more, can afford two system calls. */
#define LOOKS_UNTIL_BLOCKED 1u

#define WAIT_MASK (EVERING_RX | EVERING_TX)

int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The moment @timeout_ns from now; INT64_MAX: never. */
int64_t deadline_after(int64_t timeout_ns)
{
	int64_t deadline;

	if (timeout_ns < 0 ||
	    __builtin_add_overflow(now_ns(), timeout_ns, &deadline))
		return INT64_MAX;
	return deadline;
}

/* What ppoll(2) is to be given to wait until @deadline. */
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
 * Ends the channel; the first reason stays.  The sending thread, whichever thread this
 * is, is to find no room from now on: it may have committed more meanwhile, which is
 * why it takes a limit that lies behind it for no room, too.
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
 * The peer's word is read once.  More released than committed, or less than a ring
 * ago, cannot be.
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
 * Tells the peer how far it may write; no fence.  Either thread may do it, so that
 * nobody sleeps, in whatever role, on space that the peer waits for: a thread that
 * has both roles would otherwise wait for space itself, with a few entries released
 * and not published, while the peer waits for just these.  Only ever forward.
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

/* Has it taken up all that it has released, and not more than there can be? */
static bool begins(const struct evering_rx *rx)
{
	return evering_load_relaxed(rx->begun) - rx->next <= rx->mask + 1;
}

/* It receives, and takes up what it receives. */
static void begin_none(struct evering_rx *rx)
{
	if (!begins(rx))
		evering__begin(rx, rx->next);
}

/* The same by the receiving thread, which keeps the books. */
static bool store_released(struct endpoint *e)
{
	struct evering_rx *rx = &e->ev.rx;

	/* What it has looked at beyond may be anything. */
	if (!begins(rx))
		evering__begin(rx, rx->next + 2 * EVERING_BEGUN_ALL);
	counter_add(&e->half->counters.rx_entries, rx->next - e->rx.counted);
	e->rx.counted = rx->next;
	rx->publish_at = rx->next + ((rx->mask + 1) >> 2);
	return publish_released(e);
}

/* @armed of the peer's was seen, and asks to be rung. */
static bool ring_due(uint32_t armed, uint32_t rung)
{
	return (armed & EVERING_ARMED) && armed != rung;
}

/*
 * A doorbell counts as rung when the backend has rung it.  The device says no if
 * the sleeper had disarmed meanwhile; if it arms this generation again, it is owed
 * a ring.
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

/* The sending thread rang for space, having published in the other's stead. */
static void note_space_rung(struct endpoint *e, uint32_t armed,
			    unsigned int rang)
{
	if (!(rang & EVERING_TX))
		return;
	e->space_rung = armed;
	counter_add(&e->half->counters.tx_rings, 1);
}

/* evering__ring - the peer's armed_rx was seen armed after a fence */
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
 * evering__ring_owed - the same, by a send
 *
 * EVERING_LAZY_RING: nothing is to be remembered.  Whoever pays it looks at the word
 * again, after a fence of its own: see evering__arm() and evering_flush().
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
	/* Rung by the caller, it is counted whether the device finds a sleeper or not. */
	if (e->backend->bell(e, bell) & EVERING_RX)
		e->ev.tx.rung = armed;
	counter_add(&e->half->counters.tx_rings, 1);
	return 1;
}

/* evering__publish - tell the peer what was released, and wake it if it waits */
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

/* Those of @what that there is something for. */
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
 * evering__arm - about to sleep
 *
 * Stores what the peer has to know, then the fence, then looks at what the peer has
 * stored: whether there is something after all (the return value), and whether
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
	 * Who has published before has looked then.  To ring without news would be answered
	 * in kind, for ever, by a producer that has no space because this side keeps entries
	 * and waits for more: see evering_look_ahead().
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
 * The ring of the present generation, if it was exposed, has been consumed if the
 * backend says so, or if the kernel has cleared EVERING_ARMED.
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

/* Publishes, as before a sleep, for somebody who goes on without one. */
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

/* Rings drained outside of a sleep, of whoever polls evering_fd(). */
static void drain(struct endpoint *e, unsigned int what)
{
	if (!what)
		return;
	disarm(e, what, e->backend->drain(e, what));
}

/* What evering_arm() has armed; of the other thread's role nothing is read. */
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
 * Before it arms: a ring that came late, when its generation was not armed any more, is
 * not to be taken for one of what comes from now on: an edge-triggered loop has had its
 * edge, and the peer rings a generation once.
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
 * After the peer has gone there may still be entries that it sent before.  They
 * were visible before its death was, so one more look is enough, by whichever thread
 * the death was found: in this one, or in the other, that has put it into e->error.
 * Acquire, for that is loaded without order.
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
 * How long to spin, after a wait that began at @start and slept from @asleep on.  As
 * KVM polls before it halts a virtual CPU (virt/kvm/kvm_main.c, grow and shrink): more
 * if the wait was short enough to have been spun away, less if not.  What KVM leaves
 * out: where both sides share one CPU spinning itself delays the answer, and every
 * spin is followed by a short sleep; so after some such failures in a row leave
 * spinning alone for a while.  That takes a look at the sleep alone: a wait is long by
 * the spin itself once that has its full length.
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

/* All but what a fault in this thread raises, which cannot wait.  0, or an errno. */
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

/* Does this process handle it?  One that it does not may end it, or be ignored. */
static bool is_handled(int signal)
{
	struct sigaction action;

	if (sigaction(signal, NULL, &action))
		return errno != EINVAL; /* no such signal, or the C library's */
	return action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN;
}

/* Is any signal handled that @mask lets in? */
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
 * Has one come that is to be let in, and is handled?  If so its handler has run after
 * this.  One that is ignored waits as long as it is blocked, and ends a sleep that lets
 * it in: it is let in here, alone, so that it ends nothing.
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

/* evering_wake() was called for @what since it was last found out. */
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
 * Spins until something is ready (returns what), the budget or the time given has
 * passed (0), the peer has gone (-EPIPE) or a signal came (-EINTR).
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
		/* This takes longer. */
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
 * Is it time to ask the system whether the peer lives?  A caller that looks seldom asks
 * at once, one that does nothing else once in some milliseconds.
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
	 * Who polls without ever sleeping still tells a producer that waits; to look
	 * without a fence is enough for who looks again.
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
		/* What is ignored was kept while it was blocked, and ends nothing. */
		if (ret < 0 &&
		    (ret != -EINTR || !mask || signals_handled(mask)))
			return ret;
		/* Neither it nor a peer that rings for nothing, time after time, keeps anybody. */
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
	 * If the peer is to run on this CPU it does so now, and has answered when it has
	 * run: unless this side has armed, with no ring back, and nobody to sleep.
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
 * Spins as the policy says.  0: sleep; else what the wait is to return.  *@start and
 * *@asleep: when it began, and ended, for EVERING_ADAPTIVE.
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
		/* Where one that lets them in costs more than one that need not. */
		if (!e->backend->masks)
			signals_restore(signals);
	}
	return 0;
}

/* Apart, so that who sleeps at once does not pay for a signal mask on the stack. */
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
	/* A full ring is not drained by a receiver that nobody has woken. */
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
		/* What was sent before counts as told of. */
		if (what & EVERING_FLUSH)
			evering_flush(ev);
		return -EINTR;
	}

	deadline = deadline_after(timeout_ns);
	if (e->policy == EVERING_BLOCK)
		return wait_asleep(e, what, deadline, mask);
	return wait_spinning(e, what, deadline, mask);
}

/* As evering_wait(EVERING_RX, EVERING_NOWAIT) of a caller that will sleep: rings nobody. */
int wait_look(struct endpoint *e)
{
	return ready(e, EVERING_RX) ? (int)EVERING_RX :
				      wait_nowait(e, EVERING_RX);
}

/* What a group has to know of, and do with, its members. */
unsigned int wait_ready(struct endpoint *e, unsigned int what)
{
	return ready(e, what);
}

void wait_publish(struct endpoint *e)
{
	publish_awake(e, EVERING_RX);
}

/* Those of @rung were rung, and that is consumed. */
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
 * Before a sleep of the group: 0: it is armed; those of @what that are ready, or why the
 * channel has ended: then it is not armed.  The ring that it owes for space is on the
 * group's list, or was rung.
 */
FOLDED int arm_member(struct endpoint *e, unsigned int what)
{
	unsigned int heard = ~what & WAIT_MASK, is;
	struct owed owed;

	/* A ring that has cleared what is armed already is not to be covered up. */
	if (e->rx.armed)
		heard |= EVERING_RX;
	if (e->tx.armed)
		heard |= EVERING_TX;
	/* Nor is what is not wanted any more to wake anybody. */
	wait_disarm(e, heard, 0);
	is = evering__arm(e, what, &owed);
	/*
	 * One on the list is not remembered: whether the kernel finds the bell armed is
	 * not known, and if it does it is armed no more.
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
 * Only what is safe in a signal handler.  The word is stored before the ring, so a sleeper
 * that arms too late to hear the ring sees the word.
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
	/* A wait flushes, and so wakes a peer that this entry is to wake soon. */
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
	 * Whether the peer has gone, too, has to be asked after the poll that an
	 * edge-triggered loop comes from: it is not told a second time.
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

	/* A member is armed by its group. */
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
	/* It may have been closed between the two looks. */
	if (!closed)
		closed = evering_load_relaxed(&e->peer->closed);
	if (!closed)
		return evering_load_relaxed(&e->peer->relayed) ?
			       EVERING_PEER_RELAY_DIED :
			       EVERING_PEER_DIED;
	return closed <= EVERING_CLOSED_RELAY ? (int)closed :
						EVERING_PEER_CLOSED;
}
