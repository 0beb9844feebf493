// SPDX-License-Identifier: GPL-2.0-only
/*
 * doorbell.c: ringing an endpoint, and sleeping until one's own is rung.
 *
 * A doorbell is the bit EVERING_ARMED of a word in the sleeper's own half.  The
 * sleeper sets it, in user space.  Ringing clears it here, and wakes only if it was
 * set.  So no sleeper is woken more often than it asks for, and of many that ring
 * at once, one finds the bit.
 *
 *	Sleeper: ENTER				Ringer: RING, ENTER
 *
 *	put itself into waiters.sleeper_*	clear EVERING_ARMED
 *	full barrier			[S]	full barrier			[S]
 *	armed: sleep				look into waiters.sleeper_*: wake
 *
 * [S] The store-buffer litmus test again, as in user space between the bit and the
 *     ring.  At least one of the two sees the other.  Without either barrier both
 *     could miss, and the sleeper would sleep on.  On the left the barrier is in
 *     set_current_state(), on the right in test_and_clear_bit().  For an endpoint
 *     that goes it is smp_mb() after the store of its state.  At a group the bit is
 *     one of evering_group_page, it is set instead of cleared, and evr_group_mark()
 *     has the barrier.
 */
#include <linux/eventfd.h>
#include <linux/hrtimer.h>
#include <linux/indirect_call_wrapper.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/time_namespace.h>
#include <linux/uaccess.h>

#include "evering_kmod.h"
#include "trace.h"

#define EVR_BELLS	(EVERING_RX | EVERING_TX)
/* Flags of ENTER that a caller sets; the kernel sets RUNG. */
#define EVR_ENTER_FLAGS	(EVERING_ENTER_FLAGS & ~EVERING_ENTER_RUNG)
#define EVR_RANG(bells)	((bells) * (EVERING_RANG_RX / EVERING_RX))

/*
 * Each doorbell that is rung wakes at most so many waiters of the endpoint, and each mark so
 * many of the group, beside the sleepers in their places and the eventfd.
 */
#define EVR_MAX_WAITERS	64

/*
 * Clears EVERING_ARMED of the first or the second of the two words.  Returns whether it
 * was set; if so, this is a full barrier [S].  A bit operation takes one step if the
 * machine has an instruction for it (x86, arm64 with LSE, riscv, s390);
 * atomic_fetch_andnot() on x86 does not.  On other machines (load-linked,
 * store-conditional) it is a loop.  There the owner of the word can prolong it by storing
 * to the word all the time, as with a futex; the hardware decides for how long.
 * Bits are counted in unsigned longs, each of which has two words.
 */
static bool evr_disarm(struct evering_half *half, unsigned int second)
{
	const bool swap = IS_ENABLED(CONFIG_CPU_BIG_ENDIAN);

	return test_and_clear_bit((second ^ swap) * 32,
				  (unsigned long *)&half->armed_rx);
}

/* Returns which of @bells, of the own endpoint, are rung, which means not armed. */
u32 evr_rung(const struct evr_endpoint *ep, u32 bells)
{
	u32 rx = READ_ONCE(ep->half->armed_rx) & EVERING_ARMED;
	u32 tx = READ_ONCE(ep->half->armed_tx) & EVERING_ARMED;

	return bells & ~(rx * EVERING_RX | tx * EVERING_TX);
}

static void evr_wake_sleeper(struct task_struct **sleeper, int flags)
{
	struct wait_queue_entry entry;

	/* The task may leave and exit meanwhile, but is not freed before the unlock. */
	rcu_read_lock();
	entry.private = READ_ONCE(*sleeper);
	if (entry.private)
		default_wake_function(&entry, TASK_INTERRUPTIBLE, flags, NULL);
	rcu_read_unlock();
}

/*
 * Moves the waiters in waiters->queue to the end of the line; returns true if more wait
 * than one ring wakes.  No waiter is kept out, since epoll comes only once, and is among
 * the first when others have gone.  But a caller that gets true may wait in vain.  It
 * counts the waiters that are in line: a caller that gets false is among the first, and
 * later ones stay behind it, however many come at once.
 */
static bool evr_line_up(struct evr_waiters *waiters)
{
	struct list_head *at;
	unsigned int n = 0;

	spin_lock_irq(&waiters->queue.lock);
	list_splice_tail_init(&waiters->queue.head, &waiters->line);
	list_for_each(at, &waiters->line)
		if (++n > EVR_MAX_WAITERS)
			break;
	spin_unlock_irq(&waiters->queue.lock);
	return n > EVR_MAX_WAITERS;
}

/*
 * For ->poll(), which looks without a lock:
 *
 *	here				a task that rings, or goes
 *
 *	add to waiters->line		clear EVERING_ARMED, store the state, or mark
 *	full barrier			full barrier (atomic, or evr_hang_up())
 *	load armed_*, state, summary	look whether anybody is in waiters->line
 *
 * At least one of the two sees the other.
 */
__poll_t evr_poll_wait(struct file *file, struct evr_waiters *waiters,
		       poll_table *table)
{
	bool crowded;

	/* With at most one in line there is nothing to count. */
	if (evr_poll_does_not_wait(table) &&
	    READ_ONCE(waiters->line.next) == READ_ONCE(waiters->line.prev))
		return 0;
	poll_wait(file, &waiters->queue, table);
	crowded = evr_line_up(waiters);
	smp_mb(); /* as drawn above */
	/* A poller that would wait in vain must know. */
	return crowded ? EPOLLERR : 0;
}

/*
 * __wake_up() with a bound: the ringer pays for each waiter, but has no say in how many
 * there are.  @all: wake all, with EPOLLEXCLUSIVE or without.
 */
static noinline void evr_wake_waiters(struct evr_waiters *waiters, bool all,
				      int flags, __poll_t key)
{
	struct wait_queue_entry *entry, *next;
	int budget = EVR_MAX_WAITERS;
	bool enough = false;
	unsigned long irq;

	spin_lock_irqsave(&waiters->queue.lock, irq);
	list_for_each_entry_safe(entry, next, &waiters->line, entry) {
		bool one = !all && entry->flags & WQ_FLAG_EXCLUSIVE;

		if (!(one && enough) &&
		    entry->func(entry, TASK_INTERRUPTIBLE, flags, poll_to_key(key)))
			enough |= one;
		if (!--budget)
			break;
	}
	spin_unlock_irqrestore(&waiters->queue.lock, irq);
}

/* Wakes the waiters for @bell, which is one of the two. */
void evr_wake(struct evr_waiters *waiters, u32 bell, int flags)
{
	bool rx = bell == EVERING_RX;

	evr_wake_sleeper(rx ? &waiters->sleeper_rx : &waiters->sleeper_tx, flags);
	if (!list_empty(&waiters->line)) /* no lock needed: [S] */
		evr_wake_waiters(waiters, false, flags & EVR_WF_SYNC,
				 rx ? EPOLLIN | EPOLLRDNORM :
				      EPOLLOUT | EPOLLWRNORM);
}

/* Signals the eventfd, and marks the group, of an endpoint that was rung or lost its peer. */
void evr_tell(struct evr_endpoint *to, int flags)
{
	/* It protects both from the next SET_EVENTFD, and from REMOVE. */
	lockdep_assert_held(&to->channel->lock);
	if (to->eventfd)
		evr_eventfd_signal(to->eventfd);
	if (to->group) {
		trace_evr_mark(to->group, to);
		evr_group_mark(to->group, to->index, flags);
	}
}

/*
 * Rings doorbells of an endpoint.  Returns which of them were armed, and so were
 * rung.  @flags: EVR_WF_*.
 */
u32 evr_ring(struct evr_endpoint *to, u32 bells, int flags)
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
	/* IN and OUT in one key would wake every EPOLLEXCLUSIVE waiter. */
	if (rang & EVERING_RX)
		evr_wake(&to->waiters, EVERING_RX, flags);
	if (rang & EVERING_TX)
		evr_wake(&to->waiters, EVERING_TX, flags);
	if (READ_ONCE(to->eventfd) || READ_ONCE(to->group)) {
		spin_lock_bh(&to->channel->lock);
		evr_tell(to, flags);
		spin_unlock_bh(&to->channel->lock);
	}
	if (rcu_access_pointer(to->port))
		evr_port_rung(to, true);
	return rang;
}

/* Wakes all waiters on @to, whatever they wait for: its peer has gone. */
void evr_hang_up(struct evr_endpoint *to, __poll_t events)
{
	events |= EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM;
	smp_mb(); /* [S] */
	evr_wake_sleeper(&to->waiters.sleeper_rx, 0);
	evr_wake_sleeper(&to->waiters.sleeper_tx, 0);
	evr_wake_waiters(&to->waiters, true, 0, events);
	if (rcu_access_pointer(to->port))
		evr_port_rung(to, false);
}

/*
 * Takes the sleeper's places for @bells.  Returns false if one was taken already, as
 * several threads wait for the same doorbell.  Such a thread waits as pollers do.
 */
static bool evr_sleep_begin(struct evr_waiters *waiters, u32 bells)
{
	return !(bells & EVERING_RX &&
		 cmpxchg(&waiters->sleeper_rx, NULL, current)) &&
	       !(bells & EVERING_TX &&
		 cmpxchg(&waiters->sleeper_tx, NULL, current));
}

/* Gives back the places, also one that was taken before evr_sleep_begin() failed. */
static void evr_sleep_end(struct evr_waiters *waiters, u32 bells)
{
	if (bells & EVERING_RX && READ_ONCE(waiters->sleeper_rx) == current)
		WRITE_ONCE(waiters->sleeper_rx, NULL);
	if (bells & EVERING_TX && READ_ONCE(waiters->sleeper_tx) == current)
		WRITE_ONCE(waiters->sleeper_tx, NULL);
}

/* Returns what a sleeper of an endpoint is to return, or 0 if it is to sleep. */
static int evr_look(struct evr_waiters *waiters, u32 bells)
{
	struct evr_endpoint *ep = container_of(waiters, struct evr_endpoint, waiters);

	return evr_rung(ep, bells) ?: evr_gone(ep->peer) ? -EPIPE : 0;
}

/* Sleeps at the places of @bells until @look returns something; or returns an errno. */
int evr_sleep(struct evr_waiters *waiters, u32 bells,
	      int (*look)(struct evr_waiters *waiters, u32 bells),
	      const struct evering_enter *enter, bool nonblock)
{
	struct wait_queue_entry entry;
	ktime_t expires = KTIME_MAX;
	bool late = false;
	bool placed;
	int ret;

	WRITE_ONCE(waiters->stays, enter->flags & EVERING_ENTER_NO_HANDOVER);
	if (enter->timeout < KTIME_MAX)
		expires = evr_timens_ktime_to_host(CLOCK_MONOTONIC, enter->timeout);
	placed = evr_sleep_begin(waiters, bells);
	if (unlikely(!placed)) {
		init_waitqueue_entry(&entry, current);
		add_wait_queue(&waiters->queue, &entry);
		ret = -EBUSY;
		if (evr_line_up(waiters))
			goto out;
	}
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE); /* [S] */
		ret = INDIRECT_CALL_2(look, evr_look, evr_group_look, waiters,
				      bells);
		if (ret)
			break;
		if (nonblock)
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
out:
	__set_current_state(TASK_RUNNING);
	evr_sleep_end(waiters, bells);
	if (unlikely(!placed))
		remove_wait_queue(&waiters->queue, &entry);
	return ret;
}

/* Not every struct that looks wrong is: evr_enter_interrupted() may have written it. */
static noinline bool evr_enter_bad(const struct evering_enter *enter)
{
	return enter->size < sizeof(*enter) ||
	       enter->flags & ~EVERING_ENTER_FLAGS ||
	       !(enter->flags & EVERING_ENTER_RUNG) ||
	       enter->ring & ~EVR_RANG(EVR_BELLS) || enter->wait & ~EVR_BELLS;
}

/* Does what evr_ioctl() does, but in one go: every message to a sleeper comes here. */
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
	if ((enter->size < sizeof(*enter) ||
	     enter->flags & ~EVR_ENTER_FLAGS ||
	     (enter->ring | enter->wait) & ~EVR_BELLS) && evr_enter_bad(enter))
		return -EINVAL;
	if (likely(enter->size == sizeof(*enter)))
		return 0;
	return evr_ioctl_tail(uarg, enter->size, sizeof(*enter));
fault:
	user_read_access_end();
	/* As in evr_ioctl(): too short a struct is -EINVAL wherever memory ends. */
	if (!get_user(enter->size, &uarg->size) && enter->size < sizeof(*enter))
		return -EINVAL;
	return -EFAULT;
}

/*
 * A ring is paid once.  A call that has rung and is interrupted by a signal notes this in
 * the caller's struct.  Otherwise it would ring again when it is restarted.
 */
int evr_enter_interrupted(struct evering_enter __user *uarg,
			  const struct evering_enter *enter, u32 rang, int ret)
{
	if (!enter->ring || (ret != -ERESTARTSYS && ret != -ERESTARTNOHAND))
		return ret;
	if (put_user(enter->flags | EVERING_ENTER_RUNG, &uarg->flags) ||
	    put_user(rang, &uarg->ring))
		return -EINTR;
	return ret;
}

/*
 * Is the sleeper on this CPU's run queue?  A task that sleeps may stay there for a while
 * (delayed dequeue), and single_task_running() counts it.
 */
static bool evr_queued_here(struct task_struct *const *sleeper)
{
	const struct task_struct *task;
	bool here;

	rcu_read_lock(); /* as in evr_wake_sleeper() */
	task = READ_ONCE(*sleeper);
	here = task && READ_ONCE(task->on_rq) &&
	       task_cpu(task) == raw_smp_processor_id();
	rcu_read_unlock();
	return here;
}

/* The same for the sleeper of @ep for @bells, or of its group. */
static bool evr_sleeps_here(struct evr_endpoint *ep, u32 bells)
{
	bool here = evr_queued_here(bells & EVERING_RX ?
				    &ep->waiters.sleeper_rx :
				    &ep->waiters.sleeper_tx);

	if (!here && READ_ONCE(ep->group)) {
		spin_lock_bh(&ep->channel->lock); /* as in evr_tell() */
		here = ep->group &&
		       evr_queued_here(&ep->group->waiters.sleeper_rx);
		spin_unlock_bh(&ep->channel->lock);
	}
	return here;
}

/* Lets a task run that the scheduler prefers to this one, if there is one. */
static void evr_resched(void)
{
	/* Lazy preemption asks for no more than this, and has no cond_resched(). */
	if (evr_need_resched_lazy())
		schedule();
	else
		cond_resched();
}

/*
 * Hand-over: a caller that rings and will sleep gives its CPU to the sleeper that it
 * wakes.  Left to itself, the scheduler prefers an idle CPU, and each message then costs
 * an interrupt there, and on a virtual machine an exit.
 *
 * There is no hand-over but an ordinary wake-up, synchronous as far as kernel and scheduler
 * know that,
 *	if another task wants this CPU: the wakee would have to queue behind it;
 *	if the caller does not want it (NO_HANDOVER), will not wait (O_NONBLOCK), or is
 *	realtime; if the peer did not want it when it last went to sleep;
 *	for waiters in poll(2), epoll or io_uring, or that found their place taken.
 * The scheduler itself ignores the request if the wakee may not run here (its affinity,
 * its cpuset), or is not in the fair class (realtime, deadline, stop).  It checks both
 * under the wakee's lock, so they are not checked here.
 *
 * However the peer came to this CPU, it then runs at once, while the caller is still
 * runnable.  When the caller continues there may be an answer, and no task has fallen asleep
 * or been woken.  The answer finds a caller that has yielded, not one that sleeps, and is
 * handed over in the same way.  With another task on this CPU the scheduler decides.
 *
 * @ep: the endpoint whose peer is rung, for @bells; @may: neither NO_HANDOVER nor
 * O_NONBLOCK.
 */
u32 evr_hand_over(struct evr_endpoint *ep, u32 bells, bool may)
{
	struct evr_endpoint *peer = ep->peer;
	bool alone;
	u32 rang;

	may = may && !READ_ONCE(peer->waiters.stays) &&
	      current->prio >= MAX_RT_PRIO;
	alone = may && single_task_running();
	may = alone || (may && (READ_ONCE(peer->yields) ||
				evr_sleeps_here(peer, bells)));
	rang = evr_ring(peer, bells, EVR_WF_SYNC | (alone ? EVR_WF_CURRENT_CPU : 0));
	if (rang && may && !single_task_running()) {
		WRITE_ONCE(ep->yields, true);
		schedule();
		WRITE_ONCE(ep->yields, false);
	} else if (rang) {
		evr_resched();
	}
	return rang;
}

/* EVERING_IOC_ENTER: ring the peer, then wait to be rung. */
long evr_enter(struct file *file, struct evering_enter __user *uarg)
{
	struct evr_endpoint *ep = file->private_data;
	bool nonblock = file->f_flags & O_NONBLOCK;
	struct evering_enter enter;
	u32 rung, rang = 0;
	int ret;

	ret = evr_enter_fetch(&enter, uarg);
	if (ret)
		return ret;
	rung = evr_rung(ep, enter.wait);
	if (enter.ring > EVR_BELLS)
		rang = enter.ring; /* before it was interrupted */
	else if (enter.ring && (rung || !enter.wait))
		rang = EVR_RANG(evr_ring(ep->peer, enter.ring, 0));
	else if (enter.ring) {
		bool may = !nonblock &&
			   !(enter.flags & EVERING_ENTER_NO_HANDOVER);

		rang = EVR_RANG(evr_hand_over(ep, enter.ring, may));
		rung = evr_rung(ep, enter.wait);
	}
	if (enter.wait && !rung) {
		ret = evr_sleep(&ep->waiters, enter.wait, evr_look, &enter,
				nonblock);
		trace_evr_wake(ep, enter.wait, ret > 0 ? ret : 0);
		if (ret < 0)
			return evr_enter_interrupted(uarg, &enter, rang, ret);
		rung = ret;
	}
	return rung | rang;
}
