// SPDX-License-Identifier: GPL-2.0-only
/*
 * life.c: the states of an endpoint: which process it belongs to, and how its peer learns
 * that the process has gone.
 *
 * An endpoint belongs to the process that attached it last, by mapping its half.  What
 * other processes map, or do, does not matter.  The first of these events detaches it for
 * ever:
 *
 *	release	  The memory of that process ends: it was killed, it exits, it execs.
 *		  This comes before any page is unmapped, however many there are.
 *	flush	  The process closes the descriptor as it dies, or after it has
 *		  exec'd, while a third process holds its memory (process_vm_readv()).
 *	vm_close  The process has unmapped the last of what it mapped through it.
 *
 * A process that dumps core has not gone until the dump is written: to the kernel, too, such
 * a process lives until then.
 */
#include <linux/delay.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/slab.h>

#include "evering_kmod.h"
#include "trace.h"

/*
 * Release pairs with the acquire of a reader of STATUS: a reader that sees a state sees its
 * epoch, and everything that the endpoint had written before the state changed.
 */
static void evr_set_state(struct evr_endpoint *ep, u32 state)
{
	lockdep_assert_held(&ep->channel->lock);
	smp_store_release(&ep->state, state); /* evr_gone() */
	smp_store_release(&ep->status->state, state); /* as described above */
}

/* Moves @ep to a state in which it does not answer; tells the peer's eventfd and group. */
static void evr_leave(struct evr_endpoint *ep, u32 state)
{
	evr_set_state(ep, state);
	evr_tell(ep->peer, 0);
	trace_evr_detach(ep);
}

/* Returns true if @ep was attached: the caller wakes the peer when the lock is free. */
static bool evr_detach(struct evr_endpoint *ep)
{
	if (ep->state != EVERING_STATE_ATTACHED)
		return false;
	evr_leave(ep, EVERING_STATE_DETACHED);
	return true;
}

/*
 * @ep has gone and the lock is free: wakes the peer's waiters.  @ep leaves its group, too:
 * otherwise another process that keeps its descriptor would keep the group.
 */
static void evr_part(struct evr_endpoint *ep, __poll_t events)
{
	evr_group_leave(ep, NULL);
	evr_hang_up(ep->peer, events);
}

/*
 * The scheduler lets a task that has woken another one finish its slice.  This task still
 * has to free its memory, and nobody waits for that: let the tasks that it woke on this CPU
 * run first.  Once for each process, so that many endpoints do not add up.
 */
static void evr_let_run(const struct mm_struct *mm)
{
	static const struct mm_struct *last;

	if (xchg(&last, mm) != mm && !single_task_running())
		usleep_range(100, 200);
}

static bool evr_map_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long seq)
{
	struct evr_map *map = container_of(notifier, struct evr_map, notifier);
	struct evr_endpoint *ep = map->ep;
	bool left;

	if (range->event != MMU_NOTIFY_RELEASE)
		return true;
	spin_lock_bh(&ep->channel->lock);
	left = ep->owner == map && evr_detach(ep);
	spin_unlock_bh(&ep->channel->lock);
	if (left) {
		evr_part(ep, EPOLLRDHUP);
		evr_let_run(range->mm);
	}
	return true;
}

static const struct mmu_interval_notifier_ops evr_map_ops = {
	.invalidate = evr_map_invalidate,
};

/* A descriptor was closed, which in most cases means nothing. */
int evr_endpoint_flush(struct file *file, fl_owner_t id)
{
	struct evr_endpoint *ep = file->private_data;
	struct mm_struct *mm = current->mm;
	bool left = false;

	spin_lock_bh(&ep->channel->lock);
	if (ep->owner && ep->pid == task_tgid(current) &&
	    (!atomic_read(&current->signal->live) ||
	     (mm && mm != ep->owner->notifier.mm)))
		left = evr_detach(ep);
	spin_unlock_bh(&ep->channel->lock);
	if (left)
		evr_part(ep, EPOLLRDHUP);
	return 0;
}

/* Counts a mapping of the current process, in @map if it has none yet. */
static struct evr_map *evr_map_count(struct evr_endpoint *ep, struct evr_map *map)
{
	struct evr_map *at;

	list_for_each_entry(at, &ep->maps, link)
		if (at->notifier.mm == current->mm) {
			at->vmas++;
			return at;
		}
	if (map)
		list_add(&map->link, &ep->maps);
	return map;
}

/* May the current process map a region?  @writes: it is one that this end can write. */
static int evr_may_map(struct evr_endpoint *ep, bool writes)
{
	if (ep->channel->over)
		return -ESTALE;
	if (!writes || !ep->named)
		return 0;
	if (ep->state != EVERING_STATE_ATTACHED)
		return -ESTALE;
	return ep->pid == task_tgid(current) ? 0 : -EBUSY;
}

static struct evr_map *evr_map_new(struct evr_endpoint *ep,
				   struct vm_area_struct *vma)
{
	struct evr_map *map = kzalloc(sizeof(*map), EVR_GFP);
	int ret;

	if (!map)
		return ERR_PTR(-ENOMEM);
	map->ep = ep;
	map->vmas = 1;
	/*
	 * For the first byte of the mm, which goes only with all of it; other events are
	 * ignored above.
	 */
	ret = mmu_interval_notifier_insert_locked(&map->notifier, vma->vm_mm,
						  0, 1, &evr_map_ops);
	if (!ret)
		return map;
	kfree(map);
	/* A signal is pending: mmap(2) begins again after it. */
	return ERR_PTR(ret == -EINTR ? -ERESTARTNOINTR : ret);
}

static void evr_map_free(struct evr_map *map)
{
	mmu_interval_notifier_remove(&map->notifier);
	kfree(map);
}

/* Counts a mapping of the current process, by @vma.  From here on the pages stay. */
int evr_endpoint_map(struct evr_endpoint *ep, struct vm_area_struct *vma,
		     bool writes)
{
	struct evr_map *new = NULL, *map = NULL;
	int ret;

	for (;;) {
		spin_lock_bh(&ep->channel->lock);
		ret = evr_may_map(ep, writes);
		if (!ret)
			map = evr_map_count(ep, new);
		if (map && writes && !ep->pid)
			ep->pid = get_pid(task_tgid(current));
		if (map && !ep->cred)
			ep->cred = get_current_cred();
		ep->shared |= map && writes && ep->pid != task_tgid(current);
		spin_unlock_bh(&ep->channel->lock);
		if (ret || map)
			break;
		new = evr_map_new(ep, vma);
		if (IS_ERR(new))
			return PTR_ERR(new);
	}
	if (new && new != map)
		evr_map_free(new);
	vma->vm_private_data = map;
	return ret;
}

/* The current process has mapped the half of @ep: attaches it, unless it is too late. */
void evr_endpoint_attach(struct evr_endpoint *ep, struct vm_area_struct *vma)
{
	bool moved;

	spin_lock_bh(&ep->channel->lock);
	moved = ep->state < EVERING_STATE_DETACHED &&
		ep->owner != vma->vm_private_data;
	if (moved) {
		put_pid(ep->pid);
		ep->pid = get_pid(task_tgid(current));
		put_cred(ep->cred);
		ep->cred = get_current_cred();
		ep->owner = vma->vm_private_data;
		WRITE_ONCE(ep->status->epoch, ep->status->epoch + 1);
		evr_set_state(ep, EVERING_STATE_ATTACHED);
		trace_evr_attach(ep);
	}
	spin_unlock_bh(&ep->channel->lock);
	if (moved && READ_ONCE(ep->peer->state) == EVERING_STATE_CLOSED)
		evr_quota_move(ep->channel, current_cred());
}

/* A mapping was moved by mremap(), or copied by fork after MADV_DOFORK. */
void evr_vm_open(struct vm_area_struct *vma)
{
	struct evr_map *map = vma->vm_private_data;
	struct evr_endpoint *ep = map->ep;

	spin_lock_bh(&ep->channel->lock);
	map->vmas++;
	ep->shared |= vma->vm_mm != current->mm;
	spin_unlock_bh(&ep->channel->lock);
}

/*
 * A channel is an orphan if one end is closed and nobody maps anything.  It waits for a
 * process that was given the other descriptor, until its payer needs the quota (@now).
 * Then its memory goes.
 */
void evr_channel_settle(struct evr_channel *channel, bool now)
{
	struct evr_endpoint *end = channel->end;
	bool idle;

	spin_lock_bh(&channel->lock);
	idle = !channel->over && !rcu_access_pointer(end[EVERING_A].port) &&
	       list_empty(&end[0].maps) &&
	       list_empty(&end[1].maps) && !end[0].growing && !end[1].growing &&
	       max(end[0].state, end[1].state) == EVERING_STATE_CLOSED;
	if (idle && now)
		WRITE_ONCE(channel->over, true);
	spin_unlock_bh(&channel->lock);
	if (idle && now)
		evr_channel_shrink(channel);
	else if (idle)
		evr_quota_orphan(channel);
}

/*
 * A mapping is gone.  It may be the last one; its process may have gone before, and this
 * may run in another task, which dropped the last reference to the mm.
 */
void evr_vm_close(struct vm_area_struct *vma)
{
	struct evr_map *map = vma->vm_private_data;
	struct evr_endpoint *ep = map->ep;
	struct evr_channel *channel = ep->channel;
	bool left = false, last;

	spin_lock_bh(&channel->lock);
	last = !--map->vmas;
	if (last) {
		list_del(&map->link);
		if (ep->owner == map) {
			ep->owner = NULL;
			left = evr_detach(ep);
		}
	}
	spin_unlock_bh(&channel->lock);
	if (left)
		evr_part(ep, EPOLLRDHUP);
	if (last) {
		evr_map_free(map);
		evr_channel_settle(channel, false);
	}
}

/* A kernel module becomes this end: from the start, until evr_endpoint_close(). */
void evr_endpoint_occupy(struct evr_endpoint *ep, struct evering_port *port)
{
	spin_lock_bh(&ep->channel->lock);
	ep->status->epoch = 1;
	evr_set_state(ep, EVERING_STATE_ATTACHED);
	rcu_assign_pointer(ep->port, port);
	trace_evr_attach(ep);
	spin_unlock_bh(&ep->channel->lock);
}

/*
 * The file of @ep is gone, and so are its mappings, which held the file; or its port is.
 * The user who keeps the channel alive pays from now on.
 */
void evr_endpoint_close(struct evr_endpoint *ep)
{
	struct evr_channel *channel = ep->channel;
	const struct cred *cred;

	spin_lock_bh(&channel->lock);
	cred = get_cred(ep->peer->cred);
	spin_unlock_bh(&channel->lock);
	/* First, so that a peer that learns of the end is charged already. */
	if (cred)
		evr_quota_move(channel, cred);
	put_cred(cred);
	spin_lock_bh(&channel->lock);
	RCU_INIT_POINTER(ep->port, NULL);
	evr_leave(ep, EVERING_STATE_CLOSED);
	spin_unlock_bh(&channel->lock);
	evr_part(ep, EPOLLRDHUP | EPOLLHUP);
	evr_channel_settle(channel, false);
	evr_channel_put(channel);
}

int evr_endpoint_release(struct inode *inode, struct file *file)
{
	evr_endpoint_close(file->private_data);
	return 0;
}
