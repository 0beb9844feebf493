// SPDX-License-Identifier: GPL-2.0-only
/*
 * port.c: a kernel module as one end of a channel.  See evering_port.h.
 *
 * A port is the endpoint A, attached from the start, and without a file.  No process maps
 * it, so nobody else writes its half, except for EVERING_ARMED, which ringers clear.
 *
 * Which task serves
 * -----------------
 *
 * A task that has work for serve sets EVR_PORT_KICKED and then makes sure that a task looks.
 * If there is a thread, it wakes that.  Otherwise the ringer itself serves, unless another
 * task is serving; and any other task queues a work item.
 *
 *	a ringer that finds @serving taken	the holder of @serving
 *
 *	set KICKED				unlock
 *	full barrier				full barrier
 *	trylock fails: leave			KICKED: begin again
 *
 * At least one of the two sees the other.  The port sleeps only until it is rung:
 *
 *	here					the process
 *
 *	armed_rx = ARMED			stamp the entry
 *	full barrier				full barrier
 *	look for the entry			look at armed_rx: ring
 *
 * A process that waits does the same, and this end is then the one that stamps and looks.
 * The same holds for room, with armed_tx and released.
 *
 * A ringer serves as much as a ring holds, which its own process has sent, and then arms,
 * whatever is left.  So the next task that sends rings, and serves.  What nobody rings for
 * is left to work items.  These get a part of each tick, since no process pays for it.
 */
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nospec.h>
#include <linux/page-flags.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "evering_kmod.h"
#include "evering_port.h"

#define EVR_PORT_BUDGET	64
/* Work items get 1/8 of the budget in one pass, and 1/8 of each tick. */
#define EVR_PORT_PART	8

/* evering_port.state */
enum {
	EVR_PORT_KICKED,	/* there may be something to do */
	EVR_PORT_DYING,		/* evering_port_destroy() runs: call no function of the module */
	EVR_PORT_FILED,		/* the process's file was made */
	EVR_PORT_TOLD,		/* the module knows that the process has gone */
	EVR_PORT_WANTS,		/* the module waits for room in the ring to the process */
};

struct evering_port {
	struct evr_endpoint *ep;
	const struct evering_port_ops *ops;
	void *private;
	struct task_struct *thread;	/* or NULL */
	u32 budget;
	u32 spin_us;
	unsigned long state;
	struct mutex serving;		/* for @generation, the ring from the process, and serve */
	unsigned long tick;		/* in which work items last served, */
	u64 taken;			/* and for how many ns; both under @serving */
	struct delayed_work work;
	refcount_t refs;		/* the module's, and that of each ringer in here */
	struct rcu_head rcu;

	u32 shift, mask, payload;	/* of entries */
	/* The ring to the process: the sender's; others may read at any time. */
	u32 tx_next;
	u32 tx_limit;
	u32 tx_wanted;			/* with WANTS: wait until released is not this */
	bool tx_news;			/* committed, and not flushed */
	/* The ring from it. */
	u32 rx_next;
	u32 rx_seen;			/* the first entry that serve has not seen */
	u32 rx_told;			/* released, as last published */
	u32 generation;			/* of both armed words */
	bool gone;			/* the process has gone, */
	u32 last;			/* and so many of its entries may still be served */
};

static void *evr_port_slot(const struct evering_port *port, unsigned int end, u32 n)
{
	u32 at = EVERING_SLOTS_OFFSET + ((n & port->mask) << port->shift);
	const struct evr_region *half =
		&port->ep->channel->region[EVERING_REGION_HALF(end)];

	/* Slots and their offset are powers of two, so none crosses a page. */
	return page_address(half->pages[at >> PAGE_SHIFT]) + offset_in_page(at);
}

static u32 *evr_port_stamp(const struct evering_port *port, void *slot)
{
	return slot + port->payload;
}

/* ---------------------------------------------------------------------- sending */

static u32 evr_port_limit(const struct evering_port *port)
{
	/* A process that lies here loses entries that it has not read, and no more. */
	return smp_load_acquire(&port->ep->peer->half->released) + port->mask + 1;
}

static bool evr_port_has_room(struct evering_port *port, u32 k)
{
	if ((s32)(port->tx_next + k - port->tx_limit) < 0)
		return true;
	port->tx_limit = evr_port_limit(port);
	return (s32)(port->tx_next + k - port->tx_limit) < 0;
}

/**
 * evering_port_reserve - find room for one of the next entries
 * @port: the port
 * @k: how many entries after the next one, from 0
 *
 * Context: the sender.
 *
 * Return: its place, of slot_size - EVERING_STAMP_SIZE bytes, until committed; NULL: the
 * ring is too full.  See evering_port_want_room().
 */
void *evering_port_reserve(struct evering_port *port, u32 k)
{
	if (k > port->mask || !evr_port_has_room(port, k))
		return NULL;
	return evr_port_slot(port, EVERING_A, port->tx_next + k);
}
EXPORT_SYMBOL_GPL(evering_port_reserve);

/**
 * evering_port_commit - publish the next entries, which were reserved
 * @port: the port
 * @count: how many
 *
 * The process is woken by evering_port_flush().
 *
 * Context: the sender.
 */
void evering_port_commit(struct evering_port *port, u32 count)
{
	u32 n = port->tx_next;
	void *slot;

	port->tx_news = true;
	while (count--) {
		slot = evr_port_slot(port, EVERING_A, n++);
		/* Release: the process that sees the stamp sees the entry. */
		smp_store_release(evr_port_stamp(port, slot), n);
	}
	WRITE_ONCE(port->tx_next, n);
}
EXPORT_SYMBOL_GPL(evering_port_commit);

/**
 * evering_port_flush - wake the process if it sleeps and waits for entries
 * @port: the port
 *
 * Context: the sender; softirqs too.
 */
void evering_port_flush(struct evering_port *port)
{
	struct evr_endpoint *peer = port->ep->peer;

	if (!port->tx_news)
		return;
	port->tx_news = false;
	smp_mb(); /* between the stamp and the armed word: as drawn at the top */
	if (READ_ONCE(peer->half->armed_rx) & EVERING_ARMED)
		evr_ring(peer, EVERING_RX, 0);
}
EXPORT_SYMBOL_GPL(evering_port_flush);

/**
 * evering_port_want_room - have serve called when the process has released something
 * @port: the port
 * @released: what evering_port_released() returned before the module found that there is
 *	no room, in the ring or elsewhere
 *
 * It holds until serve is called next.  Outside serve, call evering_port_kick() after it; serve
 * then looks for room itself.
 *
 * Context: any.
 */
void evering_port_want_room(struct evering_port *port, u32 released)
{
	WRITE_ONCE(port->tx_wanted, released);
	smp_mb__before_atomic(); /* a reader that sees WANTS sees @tx_wanted */
	set_bit(EVR_PORT_WANTS, &port->state);
}
EXPORT_SYMBOL_GPL(evering_port_want_room);

/**
 * evering_port_released - how many entries the process is done with
 * @port: the port
 *
 * How many of the committed entries the process says that it is done with, modulo 2^32,
 * from 0.  If the process lies it may be any number.
 *
 * Context: any.
 *
 * Return: their number.
 */
u32 evering_port_released(const struct evering_port *port)
{
	return evr_port_limit(port) - port->mask - 1;
}
EXPORT_SYMBOL_GPL(evering_port_released);

/* -------------------------------------------------------------------- receiving */

/* Entry @n of the process, or NULL. */
static const void *evr_port_entry(const struct evering_port *port, u32 n)
{
	void *slot = evr_port_slot(port, EVERING_B, n);

	/* Acquire: a caller that sees the stamp sees the entry. */
	return smp_load_acquire(evr_port_stamp(port, slot)) == n + 1 ? slot : NULL;
}

/**
 * evering_port_peek - look at one of the next entries
 * @port: the port
 * @k: how many entries after the next one, from 0
 *
 * Context: in serve.
 *
 * Return: the entry, in memory that the process may write at any time: copy it, check
 * the copy, use the copy; NULL: it is not there.
 */
const void *evering_port_peek(struct evering_port *port, u32 k)
{
	u32 n = port->rx_next + k;
	const void *slot = k > port->mask ? NULL : evr_port_entry(port, n);

	if (slot && (s32)(n + 1 - port->rx_seen) > 0)
		port->rx_seen = n + 1;
	return slot;
}
EXPORT_SYMBOL_GPL(evering_port_peek);

/* Publishes what was released, and wakes the process if it waits for room. */
static void evr_port_publish(struct evering_port *port)
{
	struct evr_endpoint *peer = port->ep->peer;

	if (port->rx_told == port->rx_next)
		return;
	port->rx_told = port->rx_next;
	WRITE_ONCE(port->ep->half->begun, port->rx_next);
	/* Release: the entries were read before they can be overwritten. */
	smp_store_release(&port->ep->half->released, port->rx_next);
	smp_mb(); /* between released and the armed word: as drawn at the top */
	if (READ_ONCE(peer->half->armed_tx) & EVERING_ARMED)
		evr_ring(peer, EVERING_TX, 0);
}

/**
 * evering_port_release - release the next entries
 * @port: the port
 * @count: how many; evering_port_peek() has returned each of them
 *
 * The process sees it when a quarter of the ring is free, and when serve returns.
 *
 * Context: in serve.
 */
void evering_port_release(struct evering_port *port, u32 count)
{
	port->rx_next += count;
	if (port->rx_next - port->rx_told > port->mask / 4)
		evr_port_publish(port);
}
EXPORT_SYMBOL_GPL(evering_port_release);

/* ----------------------------------------------------------------------- arenas */

static void *evr_port_arena(const struct evering_port *port, unsigned int end, u64 offset,
			    size_t *len)
{
	const struct evr_region *arena =
		&port->ep->channel->region[EVERING_REGION_ARENA(end)];
	unsigned long index;
	u64 there;

	/* Acquire: a caller that sees the count sees the pages. */
	there = (u64)smp_load_acquire(&arena->there) << PAGE_SHIFT;
	if (offset >= there)
		return NULL;
	/* The process chooses the offset. */
	index = array_index_nospec(offset >> PAGE_SHIFT, there >> PAGE_SHIFT);
	/* The process must not make the kernel read a page whose memory has failed. */
	if (end == EVERING_B && unlikely(PageHWPoison(arena->pages[index])))
		return NULL;
	*len = min_t(u64, *len, PAGE_SIZE - offset_in_page(offset));
	return page_address(arena->pages[index]) + offset_in_page(offset);
}

/**
 * evering_port_own - a place in the own arena
 * @port: the port
 * @offset: of the place, from the arena's start
 * @len: in: bytes that are wanted; out: how many of them are contiguous
 *
 * Context: any.
 *
 * Return: the place, which the process reads; NULL: beyond the arena.
 */
void *evering_port_own(struct evering_port *port, u64 offset, size_t *len)
{
	return evr_port_arena(port, EVERING_A, offset, len);
}
EXPORT_SYMBOL_GPL(evering_port_own);

/**
 * evering_port_theirs - a place in the process's arena
 * @port: the port
 * @offset: of the place, as the process has sent it
 * @len: in: bytes that are wanted; out: how many of them are contiguous
 *
 * Context: any.
 *
 * Return: the place, which the process may write at any time; NULL: there is no memory.
 */
const void *evering_port_theirs(struct evering_port *port, u64 offset, size_t *len)
{
	return evr_port_arena(port, EVERING_B, offset, len);
}
EXPORT_SYMBOL_GPL(evering_port_theirs);

/**
 * evering_port_copy_out - copy into the own arena
 * @port: the port
 * @offset: where to, from the arena's start
 * @from: the source
 * @len: bytes
 *
 * Context: any.
 *
 * Return: 0; -EFAULT: beyond the arena; some of it may be there.
 */
int evering_port_copy_out(struct evering_port *port, u64 offset, const void *from,
			  size_t len)
{
	while (len) {
		size_t n = len;
		void *to = evr_port_arena(port, EVERING_A, offset, &n);

		if (!to)
			return -EFAULT;
		memcpy(to, from, n);
		from += n;
		offset += n;
		len -= n;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(evering_port_copy_out);

/**
 * evering_port_copy_in - copy from the process's arena
 * @port: the port
 * @to: the destination
 * @offset: of the source in that arena, as the process has sent it
 * @len: bytes
 *
 * Context: any.
 *
 * Return: 0; -EFAULT: there is no memory; some of it may have been copied.
 */
int evering_port_copy_in(struct evering_port *port, void *to, u64 offset, size_t len)
{
	while (len) {
		size_t n = len;
		const void *from = evr_port_arena(port, EVERING_B, offset, &n);

		if (!from)
			return -EFAULT;
		memcpy(to, from, n);
		to += n;
		offset += n;
		len -= n;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(evering_port_copy_in);

/* --------------------------------------------------------------------- serving */

/*
 * Is there anything that serve has not seen?  That is an entry beyond those that it looked
 * at, unless it left some for want of room; more entries released than it knew of; a kick.
 */
static bool evr_port_has_news(struct evering_port *port)
{
	bool wants = test_bit(EVR_PORT_WANTS, &port->state);
	u32 seen = port->rx_seen;

	if (READ_ONCE(port->state) & (BIT(EVR_PORT_DYING) | BIT(EVR_PORT_TOLD)))
		return false;
	if (test_bit(EVR_PORT_KICKED, &port->state) ||
	    (!port->gone && !evering_port_alive(port)))
		return true;
	if (wants && evering_port_released(port) != READ_ONCE(port->tx_wanted))
		return true;
	return !(wants && seen != port->rx_next) && seen - port->rx_next <= port->mask &&
	       evr_port_entry(port, seen);
}

/*
 * Each arming has a new generation, so that the process never mistakes it for an earlier
 * one that it has rung.
 */
static void evr_port_arm(struct evering_port *port)
{
	struct evering_half *half = port->ep->half;

	port->generation += EVERING_GENERATION;
	WRITE_ONCE(half->armed_rx, port->generation | EVERING_ARMED);
	if (test_bit(EVR_PORT_WANTS, &port->state))
		WRITE_ONCE(half->armed_tx, port->generation | EVERING_ARMED);
	smp_mb(); /* as drawn at the top */
}

static void evr_port_disarm(struct evering_port *port)
{
	struct evering_half *half = port->ep->half;

	WRITE_ONCE(half->armed_rx, port->generation);
	WRITE_ONCE(half->armed_tx, port->generation);
}

/*
 * One pass; returns whether there is more to do.  What the process had sent before it went
 * is served first.  That is at most one ring of entries, even if another process goes on to
 * write there.
 */
static bool evr_port_pass(struct evering_port *port, u32 budget)
{
	unsigned int done;

	lockdep_assert_held(&port->serving);
	clear_bit(EVR_PORT_KICKED, &port->state);
	if (READ_ONCE(port->state) & (BIT(EVR_PORT_DYING) | BIT(EVR_PORT_TOLD)))
		return false;
	clear_bit(EVR_PORT_WANTS, &port->state);
	smp_mb__after_atomic(); /* later work is seen by this pass, or kicks again */
	if (!port->gone && !evering_port_alive(port)) {
		port->gone = true;
		port->last = port->mask + 1;
	}
	port->rx_seen = port->rx_next;
	done = port->ops->serve(port, budget);
	evr_port_publish(port);
	if (!port->gone)
		return done >= budget || evr_port_has_news(port);
	port->last -= min(port->last, budget);
	if (done >= budget && port->last)
		return true;
	set_bit(EVR_PORT_TOLD, &port->state);
	if (port->ops->gone)
		port->ops->gone(port);
	return false;
}

/* Makes passes until there is nothing to do, and arms.  Returns whether there is more. */
static bool evr_port_serve(struct evering_port *port, unsigned int passes, u32 budget)
{
	evr_port_disarm(port);
	while (passes--) {
		cond_resched();
		/* The task that learns of the process's end serves what is left. */
		if (fatal_signal_pending(current))
			return true;
		if (evr_port_pass(port, budget))
			continue;
		evr_port_arm(port);
		if (!evr_port_has_news(port))
			return false;
		evr_port_disarm(port);
	}
	return true;
}

/* Queues a work item, unless evering_port_destroy(), which waits for items, has begun. */
static void evr_port_queue(struct evering_port *port, unsigned long ticks)
{
	rcu_read_lock();
	if (!test_bit(EVR_PORT_DYING, &port->state)) {
		if (ticks)
			queue_delayed_work(system_unbound_wq, &port->work, ticks);
		else
			mod_delayed_work(system_unbound_wq, &port->work, 0);
	}
	rcu_read_unlock();
}

/* Adds the time that work items have served.  May they go on in this tick? */
static bool evr_port_may(struct evering_port *port, u64 ns)
{
	unsigned long now = jiffies;

	if (port->tick != now) {
		port->tick = now;
		port->taken = 0;
	}
	port->taken += ns;
	return port->taken < TICK_NSEC / EVR_PORT_PART;
}

/*
 * Serves in this task, if no other task is serving.  Work that comes meanwhile is left to
 * others, since the task that rang may have nothing to do with it.  @pays: this task rang.
 */
static void evr_port_run(struct evering_port *port, bool pays)
{
	u32 budget = pays ? port->budget : DIV_ROUND_UP(port->budget, EVR_PORT_PART);
	unsigned int passes = pays ? port->mask / budget + 2 : 2;
	bool more, may, gone;
	u64 began;

	if (!mutex_trylock(&port->serving))
		return;
	do {
		began = pays ? 0 : ktime_get_ns();
		more = evr_port_serve(port, passes, budget);
		may = evr_port_may(port, pays ? 0 : ktime_get_ns() - began);
	} while (more && may && !pays);
	/* For a process that has gone nobody rings; what is left is bounded. */
	gone = port->gone;
	if (more && !gone)
		evr_port_arm(port);
	mutex_unlock(&port->serving);
	smp_mb(); /* as drawn at the top */
	if (test_bit(EVR_PORT_KICKED, &port->state) || (more && (may || gone)))
		evr_port_queue(port, 0);
	else if (more)
		evr_port_queue(port, 1);
}

static void evr_port_work(struct work_struct *work)
{
	evr_port_run(container_of(to_delayed_work(work), struct evering_port, work), false);
}

/* Makes sure that serve runs after this.  @here: in this task, if there is no thread. */
static void evr_port_call(struct evering_port *port, bool here)
{
	smp_mb__before_atomic(); /* the work comes before the kick */
	set_bit(EVR_PORT_KICKED, &port->state);
	smp_mb__after_atomic(); /* as drawn at the top */
	if (port->thread)
		wake_up_process(port->thread);
	else if (here)
		evr_port_run(port, true);
	else
		evr_port_queue(port, 0);
}

static void evr_port_put(struct evering_port *port)
{
	if (!refcount_dec_and_test(&port->refs))
		return;
	if (port->thread)
		put_task_struct(port->thread);
	kfree_rcu(port, rcu);
}

/*
 * The port of an endpoint was rung, or has lost its peer.  @here: the caller holds no lock,
 * and may serve.
 */
void evr_port_rung(struct evr_endpoint *to, bool here)
{
	struct evering_port *port;

	rcu_read_lock();
	port = rcu_dereference(to->port);
	if (port && !refcount_inc_not_zero(&port->refs))
		port = NULL;
	rcu_read_unlock();
	if (!port)
		return;
	/* The reference keeps the port if evering_port_destroy() runs meanwhile. */
	evr_port_call(port, here);
	evr_port_put(port);
}

static void evr_port_spin(struct evering_port *port)
{
	ktime_t end = ktime_add_us(ktime_get(), port->spin_us);

	while (!evr_port_has_news(port) && !kthread_should_stop() &&
	       !need_resched() && ktime_before(ktime_get(), end))
		cpu_relax();
}

static int evr_port_thread(void *data)
{
	struct evering_port *port = data;
	bool more;

	while (!kthread_should_stop()) {
		mutex_lock(&port->serving);
		evr_port_disarm(port);
		do
			more = evr_port_pass(port, port->budget);
		while (more && !need_resched());
		if (!more && port->spin_us)
			evr_port_spin(port);
		if (!more && !evr_port_has_news(port)) {
			evr_port_arm(port);
			set_current_state(TASK_IDLE); /* and a full barrier */
			if (evr_port_has_news(port) || kthread_should_stop())
				__set_current_state(TASK_RUNNING);
		}
		mutex_unlock(&port->serving);
		schedule();
		__set_current_state(TASK_RUNNING);
		cond_resched();
	}
	return 0;
}

/**
 * evering_port_kick - have serve called
 * @port: the port
 *
 * For a module that has something to send, or to look at again.  However many tasks kick,
 * and however often, serve runs at least once after each kick.
 *
 * Context: any, interrupts too.
 */
void evering_port_kick(struct evering_port *port)
{
	evr_port_call(port, false);
}
EXPORT_SYMBOL_GPL(evering_port_kick);

/* ---------------------------------------------------------------- life and death */

/**
 * evering_port_private - the pointer that was given to evering_port_create()
 * @port: the port
 *
 * Context: any.
 *
 * Return: @private of that call.
 */
void *evering_port_private(const struct evering_port *port)
{
	return port->private;
}
EXPORT_SYMBOL_GPL(evering_port_private);

/**
 * evering_port_alive - is there a process, or may there still be one?
 * @port: the port
 *
 * Context: any.
 *
 * Return: true until the process that has attached the other end has gone, or its last
 * descriptor is closed.
 */
bool evering_port_alive(const struct evering_port *port)
{
	return !evr_gone(port->ep->peer);
}
EXPORT_SYMBOL_GPL(evering_port_alive);

static int evr_port_start(struct evering_port *port,
			  const struct evering_port_params *params)
{
	struct task_struct *thread;

	if (!(params->flags & EVERING_PORT_THREAD))
		return 0;
	thread = kthread_create(evr_port_thread, port, "%s",
				params->name ?: "evering_port");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	/* It stays until the last ringer that may wake it has left. */
	port->thread = get_task_struct(thread);
	return 0;
}

/**
 * evering_port_create - make a port
 * @params: its properties
 * @ops: the module's functions; valid as long as the port
 * @private: for evering_port_private()
 *
 * The current user pays for the memory, as for EVERING_IOC_CREATE.  The process's arena has
 * no memory until the process asks for it.
 *
 * Context: process; sleeps.
 *
 * Return: the port, for evering_port_destroy(); or -EINVAL, -E2BIG: an invalid geometry or
 * flag; -ENOMEM, -EDQUOT, -EINTR: as CREATE, or there is no thread to be had.
 */
struct evering_port *evering_port_create(const struct evering_port_params *params,
					 const struct evering_port_ops *ops, void *private)
{
	struct evering_create create = {
		.flags = EVERING_CREATE_GROW,
		.geometry = params->geometry,
		.arena_begin = { params->geometry.arena_size[EVERING_A], 0 },
	};
	struct evr_channel *channel;
	struct evering_port *port;
	int ret;

	if (params->flags & ~EVERING_PORT_THREAD || !ops->serve ||
	    params->spin_us > EVERING_PORT_MAX_SPIN)
		return ERR_PTR(-EINVAL);
	port = kzalloc(sizeof(*port), GFP_KERNEL_ACCOUNT);
	if (!port)
		return ERR_PTR(-ENOMEM);
	channel = evr_channel_create(&create);
	if (IS_ERR(channel)) {
		kfree(port);
		return ERR_CAST(channel);
	}
	port->ep = &channel->end[EVERING_A];
	port->ops = ops;
	port->private = private;
	port->budget = min_t(u32, params->budget ?: EVR_PORT_BUDGET, EVERING_MAX_ENTRIES);
	port->spin_us = params->spin_us;
	port->shift = ilog2(channel->geometry.slot_size);
	port->mask = channel->geometry.entries - 1;
	port->payload = channel->geometry.slot_size - EVERING_STAMP_SIZE;
	port->tx_limit = channel->geometry.entries;
	mutex_init(&port->serving);
	INIT_DELAYED_WORK(&port->work, evr_port_work);
	refcount_set(&port->refs, 1);
	ret = evr_port_start(port, params);
	if (ret) {
		evr_channel_put(channel);
		kfree(port);
		return ERR_PTR(ret);
	}
	evr_port_arm(port);
	evr_endpoint_occupy(port->ep, port);
	return port;
}
EXPORT_SYMBOL_GPL(evering_port_create);

/**
 * evering_port_file - the file of the process's end
 * @port: the port
 * @flags: EVERING_CREATE_NONBLOCK, or 0
 *
 * Call it once for a port, which serves from then on.  The caller gives the file a
 * descriptor (fd_install()), or drops it with fput(), after which the process has gone.
 *
 * Context: process; sleeps.
 *
 * Return: the file; or -EBUSY: this was called before; -ENOMEM, -ENFILE.
 */
struct file *evering_port_file(struct evering_port *port, u32 flags)
{
	struct evr_channel *channel = port->ep->channel;
	struct file *file;

	if (test_and_set_bit(EVR_PORT_FILED, &port->state))
		return ERR_PTR(-EBUSY);
	file = evr_getfile("[evering]", &evr_endpoint_fops, port->ep->peer,
			   flags & EVERING_CREATE_NONBLOCK);
	if (IS_ERR(file)) {
		clear_bit(EVR_PORT_FILED, &port->state);
		return file;
	}
	refcount_inc(&channel->refs);
	/* Not earlier: by now the module knows the port, and its functions may run. */
	if (port->thread)
		wake_up_process(port->thread);
	return file;
}
EXPORT_SYMBOL_GPL(evering_port_file);

/**
 * evering_port_destroy - end a port
 * @port: the port
 *
 * The process finds what was sent, then that its peer has closed.  When this returns, no
 * function of the module runs for the port, and none will be called, whoever rings.
 *
 * Context: process; sleeps, until serve has returned.  Not in serve, nor in gone.
 */
void evering_port_destroy(struct evering_port *port)
{
	struct evr_endpoint *ep = port->ep;

	set_bit(EVR_PORT_DYING, &port->state);
	if (port->thread)
		kthread_stop(port->thread);
	/* A task that serves now finishes first; the next one finds DYING. */
	mutex_lock(&port->serving);
	evr_port_publish(port);
	WRITE_ONCE(ep->half->closed, EVERING_CLOSED);
	mutex_unlock(&port->serving);
	/* After this no task queues the work, and a work item that runs finds DYING. */
	synchronize_rcu();
	cancel_delayed_work_sync(&port->work);
	/* The channel may go here; ringers that still hold the port do not use it. */
	evr_endpoint_close(ep);
	evr_port_put(port);
}
EXPORT_SYMBOL_GPL(evering_port_destroy);
