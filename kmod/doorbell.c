// SPDX-License-Identifier: GPL-2.0-only
/*
 * doorbell.c: ringing an endpoint, and sleeping until one's own is rung.
 *
 * A doorbell is the bit EVERING_ARMED of a word in the sleeper's own half.  The
 * sleeper sets it, in user space; ringing clears it here, and wakes only if it was
 * set.  Nobody can be woken more often than he asks for, and however many ring,
 * one finds the bit.
 *
 *	Sleeper: ENTER				Ringer: RING, ENTER
 *
 *	put itself into ep->sleeper_*		clear EVERING_ARMED
 *	full barrier			[S]	full barrier			[S]
 *	armed: sleep				look into ep->sleeper_*: wake
 *
 * [S] The store-buffer litmus test again, as in user space between the bit and the
 *     ring.  At least one of the two sees the other; without either barrier both
 *     could miss, and the sleeper would sleep on.  On the left the barrier is in
 *     set_current_state(), on the right in test_and_clear_bit(), and for an
 *     endpoint that goes, smp_mb() after its state was stored.
 */
#include <linux/eventpoll.h>
#include <linux/hrtimer.h>
#include <linux/init.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "evering_kmod.h"
#include "trace.h"

#define EVR_BELLS	(EVERING_RX | EVERING_TX)

/*
 * What the scheduler wants to be told when a waker is about to sleep itself.  The
 * flag has no public name: it is learned from a synchronous wake-up.
 */
static int evr_wake_sync __ro_after_init;

static int __init evr_learn_sync(struct wait_queue_entry *entry,
				 unsigned int mode, int flags, void *key)
{
	evr_wake_sync = flags;
	return 0;
}

void __init evr_doorbell_init(void)
{
	DECLARE_WAIT_QUEUE_HEAD_ONSTACK(wait);
	struct wait_queue_entry entry;

	init_waitqueue_func_entry(&entry, evr_learn_sync);
	add_wait_queue(&wait, &entry);
	wake_up_interruptible_sync_poll(&wait, 0);
	remove_wait_queue(&wait, &entry);
}

/*
 * Clears EVERING_ARMED of the first or the second of the two words; true if it was
 * set, and then a full barrier [S].  A bit operation takes one step, where
 * atomic_fetch_andnot() may be a loop that the owner of the word could keep going;
 * it counts in unsigned longs, two words to each on 64 bits.
 */
static bool evr_disarm(struct evering_half *half, unsigned int second)
{
	const bool swap = BITS_PER_LONG == 64 && IS_ENABLED(CONFIG_CPU_BIG_ENDIAN);

	return test_and_clear_bit((second ^ swap) * 32,
				  (unsigned long *)&half->armed_rx);
}

/* Which of @bells, of the own endpoint, are rung: not armed. */
u32 evr_rung(const struct evr_endpoint *ep, u32 bells)
{
	u32 rx = READ_ONCE(ep->half->armed_rx) & EVERING_ARMED;
	u32 tx = READ_ONCE(ep->half->armed_tx) & EVERING_ARMED;

	return bells & ~(rx * EVERING_RX | tx * EVERING_TX);
}

static void evr_wake_sleeper(struct task_struct **sleeper, int flags)
{
	struct wait_queue_entry entry;

	/* The task may leave and exit meanwhile, but is not freed before this. */
	rcu_read_lock();
	entry.private = READ_ONCE(*sleeper);
	if (entry.private)
		default_wake_function(&entry, TASK_INTERRUPTIBLE, flags, NULL);
	rcu_read_unlock();
}

static void evr_wake(struct evr_endpoint *ep, struct task_struct **sleeper,
		     __poll_t key, bool sync)
{
	evr_wake_sleeper(sleeper, sync ? evr_wake_sync : 0);
	if (!waitqueue_active(&ep->wait)) /* no lock needed: [S] */
		return;
	if (sync)
		wake_up_interruptible_sync_poll(&ep->wait, key);
	else
		wake_up_interruptible_poll(&ep->wait, key);
}

/*
 * Rings doorbells of an endpoint; returns which of them were armed, and so were
 * rung.  @sync: the caller is about to sleep.
 */
u32 evr_ring(struct evr_endpoint *to, u32 bells, bool sync)
{
	u32 rang = 0;

	if (bells & EVERING_RX && evr_disarm(to->half, 0))
		rang |= EVERING_RX;
	if (bells & EVERING_TX && evr_disarm(to->half, 1))
		rang |= EVERING_TX;
	atomic_long_inc(&to->rings);
	trace_evr_ring(to, bells, rang);
	if (!rang)
		return 0;
	atomic_long_inc(&to->wakes);
	/* IN and OUT in one key would wake everybody with EPOLLEXCLUSIVE. */
	if (rang & EVERING_RX)
		evr_wake(to, &to->sleeper_rx, EPOLLIN | EPOLLRDNORM, sync);
	if (rang & EVERING_TX)
		evr_wake(to, &to->sleeper_tx, EPOLLOUT | EPOLLWRNORM, sync);
	if (READ_ONCE(to->eventfd)) {
		/* The lock keeps it from the next SET_EVENTFD. */
		spin_lock(&to->channel->lock);
		if (to->eventfd)
			evr_eventfd_signal(to->eventfd);
		spin_unlock(&to->channel->lock);
	}
	return rang;
}

/* Wakes everybody who waits on @to, because its peer has gone. */
void evr_hang_up(struct evr_endpoint *to, __poll_t events)
{
	smp_mb(); /* [S] */
	evr_wake_sleeper(&to->sleeper_rx, 0);
	evr_wake_sleeper(&to->sleeper_tx, 0);
	__wake_up(&to->wait, TASK_NORMAL, 0, poll_to_key(events));
}

/*
 * Takes the places of a sleeper for @bells.  False if one was taken already,
 * because several threads wait for the same: let this one wait as pollers do.
 */
static bool evr_sleep_begin(struct evr_endpoint *ep, u32 bells)
{
	return !(bells & EVERING_RX &&
		 cmpxchg(&ep->sleeper_rx, NULL, current)) &&
	       !(bells & EVERING_TX &&
		 cmpxchg(&ep->sleeper_tx, NULL, current));
}

/* Gives them back, and what was taken before a false. */
static void evr_sleep_end(struct evr_endpoint *ep, u32 bells)
{
	if (bells & EVERING_RX && READ_ONCE(ep->sleeper_rx) == current)
		WRITE_ONCE(ep->sleeper_rx, NULL);
	if (bells & EVERING_TX && READ_ONCE(ep->sleeper_tx) == current)
		WRITE_ONCE(ep->sleeper_tx, NULL);
}

/* Sleeps until one of @bells is rung; returns those that are, or an errno. */
static int evr_sleep(struct evr_endpoint *ep, const struct evering_enter *enter,
		     bool nonblock)
{
	struct wait_queue_entry entry;
	ktime_t expires = KTIME_MAX;
	u32 bells = enter->wait;
	bool late = false;
	bool placed;
	int ret;

	if (enter->timeout < KTIME_MAX)
		expires = evr_monotonic_to_host(enter->timeout);
	placed = evr_sleep_begin(ep, bells);
	if (!placed) {
		init_waitqueue_entry(&entry, current);
		add_wait_queue(&ep->wait, &entry);
	}
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE); /* [S] */
		ret = evr_rung(ep, bells);
		if (ret)
			break;
		if (evr_gone(ep->peer))
			ret = -EPIPE;
		else if (nonblock)
			ret = -EAGAIN;
		else if (late)
			ret = -ETIMEDOUT;
		else if (signal_pending(current))
			ret = enter->flags & EVERING_ENTER_NO_RESTART ?
			      -ERESTARTNOHAND : -ERESTARTSYS;
		if (ret)
			break;
		if (expires == KTIME_MAX)
			schedule();
		else
			late = !schedule_hrtimeout_range(&expires,
							 current->timer_slack_ns,
							 HRTIMER_MODE_ABS);
	}
	__set_current_state(TASK_RUNNING);
	evr_sleep_end(ep, bells);
	if (!placed)
		remove_wait_queue(&ep->wait, &entry);
	trace_evr_wake(ep, bells, ret > 0 ? ret : 0);
	return ret;
}

/* Like evr_ioctl(), in one go: every message to a sleeper comes this way. */
static int evr_enter_fetch(struct evering_enter *enter,
			   struct evering_enter __user *uarg)
{
	if (!user_read_access_begin(uarg, sizeof(*uarg)))
		return -EFAULT;
	unsafe_get_user(enter->size, &uarg->size, fault);
	unsafe_get_user(enter->flags, &uarg->flags, fault);
	unsafe_get_user(enter->ring, &uarg->ring, fault);
	unsafe_get_user(enter->wait, &uarg->wait, fault);
	unsafe_get_user(enter->timeout, &uarg->timeout, fault);
	user_read_access_end();
	if (enter->size < sizeof(*enter) ||
	    enter->flags & ~EVERING_ENTER_FLAGS ||
	    (enter->ring | enter->wait) & ~EVR_BELLS)
		return -EINVAL;
	if (likely(enter->size == sizeof(*enter)))
		return 0;
	return evr_ioctl_tail(uarg, enter->size, sizeof(*enter));
fault:
	user_read_access_end();
	/* As in evr_ioctl(): one that is too short is so wherever memory ends. */
	if (!get_user(enter->size, &uarg->size) && enter->size < sizeof(*enter))
		return -EINVAL;
	return -EFAULT;
}

/* EVERING_IOC_ENTER: ring the peer, then wait to be rung. */
long evr_enter(struct file *file, struct evering_enter __user *uarg)
{
	struct evr_endpoint *ep = file->private_data;
	struct evering_enter enter;
	u32 rung, rang = 0;
	int ret;

	ret = evr_enter_fetch(&enter, uarg);
	if (ret)
		return ret;
	rung = evr_rung(ep, enter.wait);
	if (enter.ring)
		rang = evr_ring(ep->peer, enter.ring, enter.wait && !rung);
	if (rang && enter.wait && !rung) {
		/*
		 * If the one who was woken is to have this CPU, let him have it
		 * now: when it comes back he may have answered, and there is
		 * no falling asleep and no waking up.
		 */
		cond_resched();
		rung = evr_rung(ep, enter.wait);
	}
	if (enter.wait && !rung) {
		ret = evr_sleep(ep, &enter, file->f_flags & O_NONBLOCK);
		if (ret < 0)
			return ret;
		rung = ret;
	}
	return rung | rang * (EVERING_RANG_RX / EVERING_RX);
}
