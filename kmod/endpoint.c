// SPDX-License-Identifier: GPL-2.0-only
/*
 * endpoint.c: the file of an endpoint: its ioctls, poll, fdinfo and release.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/seq_file.h>
#include <linux/user_namespace.h>

#include "evering_kmod.h"

static int evr_set_eventfd(struct file *file, void *arg, void __user *uarg)
{
	struct evr_endpoint *ep = file->private_data;
	struct evering_set_eventfd *set = arg;
	struct eventfd_ctx *ctx = NULL, *old;

	if (set->reserved)
		return -EINVAL;
	if (set->fd != -1) {
		ctx = eventfd_ctx_fdget(set->fd);
		if (IS_ERR(ctx))
			return PTR_ERR(ctx);
	}
	spin_lock_bh(&ep->channel->lock);
	old = ep->eventfd;
	WRITE_ONCE(ep->eventfd, ctx); /* evr_ring() looks without the lock */
	/* No caller misses the peer's end, whether it looks at STATUS next or not; */
	if (ctx && evr_gone(ep->peer))
		evr_eventfd_signal(ctx);
	spin_unlock_bh(&ep->channel->lock);
	smp_mb(); /* nor a doorbell, if it arms and looks into its ring next: [S] */
	if (old)
		eventfd_ctx_put(old);
	return 0;
}

/* EVERING_IOC_ATTACH: from now on only the calling process speaks for this endpoint. */
static int evr_attach(struct file *file, void *arg, void __user *uarg)
{
	struct evr_endpoint *ep = file->private_data;
	struct evering_attach *attach = arg;
	int ret = 0;

	if (attach->reserved)
		return -EINVAL;
	spin_lock_bh(&ep->channel->lock);
	if (ep->state >= EVERING_STATE_DETACHED)
		ret = -ESTALE;
	else if (ep->shared || (ep->pid && ep->pid != task_tgid(current)))
		ret = -EBUSY;
	else if (ep->state == EVERING_STATE_NEW)
		ret = -ENOTCONN;
	else
		ep->named = true;
	attach->epoch = ep->status->epoch;
	spin_unlock_bh(&ep->channel->lock);
	return ret ?: evr_ioctl_reply(uarg, attach, sizeof(*attach));
}

static int evr_peer_cred(struct file *file, void *arg, void __user *uarg)
{
	struct evr_endpoint *ep = file->private_data;
	struct evr_endpoint *peer = ep->peer;
	struct evering_peer_cred *out = arg;
	bool named;

	spin_lock_bh(&ep->channel->lock);
	named = peer->named;
	if (named) {
		/* Never a pid that another process may have by now. */
		out->pid = pid_has_task(peer->pid, PIDTYPE_TGID) ?
			   pid_vnr(peer->pid) : 0;
		out->uid = from_kuid_munged(current_user_ns(), peer->cred->euid);
		out->gid = from_kgid_munged(current_user_ns(), peer->cred->egid);
		out->epoch = peer->status->epoch;
	}
	spin_unlock_bh(&ep->channel->lock);
	return named ? evr_ioctl_reply(uarg, out, sizeof(*out)) : -ENOTCONN;
}

static const struct evr_ioctl evr_endpoint_ioctls[] = {
	{ EVERING_IOC_SET_EVENTFD, sizeof(struct evering_set_eventfd), 16, 0,
	  evr_set_eventfd },
	{ EVERING_IOC_PEER_CRED, sizeof(struct evering_peer_cred), 24, 0,
	  evr_peer_cred },
	{ EVERING_IOC_ATTACH, sizeof(struct evering_attach), 16, 0, evr_attach },
	{ EVERING_IOC_GROW, sizeof(struct evering_grow), 16, 0, evr_channel_grow },
};

/* Rings the peer or, with RING_SELF, a sleeper at the own endpoint. */
static int evr_ring_bells(struct file *file, unsigned long bells)
{
	struct evr_endpoint *to = file->private_data;

	if (bells & EVERING_RING_SELF)
		bells &= ~(unsigned long)EVERING_RING_SELF;
	else
		to = to->peer;
	if (!bells || bells > (EVERING_RX | EVERING_TX))
		return -EINVAL;
	return evr_ring(to, bells, 0);
}

static long evr_endpoint_ioctl(struct file *file, unsigned int cmd,
			       unsigned long arg)
{
	switch (cmd) {
	case EVERING_IOC_ENTER:
		return evr_enter(file, (void __user *)arg);
	case EVERING_IOC_RING:
		return evr_ring_bells(file, arg);
	default:
		return evr_ioctl(file, evr_endpoint_ioctls,
				 ARRAY_SIZE(evr_endpoint_ioctls), cmd, arg);
	}
}

static struct evr_endpoint *evr_peer_of(const struct file *file)
{
	return ((struct evr_endpoint *)file->private_data)->peer;
}

/*
 * RING is the only command.  It waits for nothing but a module's serve, and is complete when
 * this returns.
 */
static int evr_endpoint_uring_cmd(struct io_uring_cmd *cmd,
				  unsigned int issue_flags)
{
	const struct evering_uring_ring *ring = evr_uring_cmd_data(cmd);
	int ret;

	if (issue_flags & IO_URING_F_IOPOLL)
		return -EOPNOTSUPP;
	if (cmd->cmd_op != EVERING_IOC_RING)
		return -ENOTTY;
	/* A module's port runs in the task that rings, and may sleep. */
	if (issue_flags & IO_URING_F_NONBLOCK &&
	    rcu_access_pointer(evr_peer_of(cmd->file)->port))
		return -EAGAIN;
	if (READ_ONCE(ring->reserved[0]) | READ_ONCE(ring->reserved[1]) |
	    READ_ONCE(ring->reserved[2]))
		return -EINVAL;
	ret = evr_ring_bells(cmd->file, READ_ONCE(ring->bells));
	return evr_uring_done(cmd, ret, issue_flags);
}

static __poll_t evr_endpoint_poll(struct file *file, poll_table *table)
{
	struct evr_endpoint *ep = file->private_data;
	__poll_t events = evr_poll_wait(file, &ep->waiters, table);
	u32 state;

	if (!(READ_ONCE(ep->half->armed_rx) & EVERING_ARMED))
		events |= EPOLLIN | EPOLLRDNORM;
	if (!(READ_ONCE(ep->half->armed_tx) & EVERING_ARMED))
		events |= EPOLLOUT | EPOLLWRNORM;
	state = smp_load_acquire(&ep->peer->state); /* as evr_gone() */
	/* As with a socket: the end is an answer, whatever the poller asked for. */
	if (state >= EVERING_STATE_DETACHED)
		events |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM | EPOLLOUT |
			  EPOLLWRNORM;
	if (state == EVERING_STATE_CLOSED)
		events |= EPOLLHUP;
	return events;
}

/* One line for each fact; two columns, A and B, for what each endpoint has. */
static void evr_endpoint_show_fdinfo(struct seq_file *m, struct file *file)
{
	static const char * const states[] = {
		[EVERING_STATE_NEW] = "new",
		[EVERING_STATE_ATTACHED] = "attached",
		[EVERING_STATE_DETACHED] = "detached",
		[EVERING_STATE_CLOSED] = "closed",
	};
	static const char * const counters[] = {
		"tx_entries", "tx_rings", "tx_sleeps", "tx_syscalls",
		"rx_entries", "rx_rings", "rx_sleeps", "rx_syscalls",
	};
	struct evr_endpoint *ep = file->private_data;
	struct evr_channel *channel = ep->channel;
	const struct evering_geometry *g = &channel->geometry;
	struct evr_endpoint *a = &channel->end[EVERING_A];
	struct evr_endpoint *b = &channel->end[EVERING_B];
	const u64 *count_a = (const u64 *)&a->half->counters;
	const u64 *count_b = (const u64 *)&b->half->counters;
	u64 group_a, group_b;
	int i;

	spin_lock_bh(&channel->lock); /* their groups stay while it is held */
	group_a = a->group ? a->group->id : 0;
	group_b = b->group ? b->group->id : 0;
	spin_unlock_bh(&channel->lock);
	seq_printf(m, "channel:\t%llu\nend:\t%c\nbytes:\t%llu\n", channel->id,
		   'A' + evr_end(ep), channel->account.bytes);
	seq_printf(m, "slot_size:\t%u\nentries:\t%u\nflags:\t%#x\n",
		   g->slot_size, g->entries, g->flags);
	seq_printf(m, "arena_size:\t%llu\t%llu\narena_order:\t%u\t%u\n",
		   g->arena_size[EVERING_A], g->arena_size[EVERING_B],
		   channel->region[EVERING_REGION_ARENA_A].order,
		   channel->region[EVERING_REGION_ARENA_B].order);
	seq_printf(m, "arena_there:\t%llu\t%llu\n",
		   (u64)READ_ONCE(channel->region[EVERING_REGION_ARENA_A].there) << PAGE_SHIFT,
		   (u64)READ_ONCE(channel->region[EVERING_REGION_ARENA_B].there) << PAGE_SHIFT);
	seq_printf(m, "state:\t%s\t%s\n", states[READ_ONCE(a->state)],
		   states[READ_ONCE(b->state)]);
	seq_printf(m, "epoch:\t%u\t%u\nrings:\t%lu\t%lu\nwakes:\t%lu\t%lu\n",
		   READ_ONCE(a->status->epoch), READ_ONCE(b->status->epoch),
		   atomic_long_read(&a->rings), atomic_long_read(&b->rings),
		   atomic_long_read(&a->wakes), atomic_long_read(&b->wakes));
	seq_printf(m, "group:\t%llu\t%llu\n", group_a, group_b);
	/* These the endpoints have written, and nobody has checked them. */
	for (i = 0; i < ARRAY_SIZE(counters); i++)
		seq_printf(m, "%s:\t%llu\t%llu\n", counters[i],
			   READ_ONCE(count_a[i]), READ_ONCE(count_b[i]));
}

const struct file_operations evr_endpoint_fops = {
	.owner = THIS_MODULE,
	.flush = evr_endpoint_flush,
	.release = evr_endpoint_release,
	.unlocked_ioctl = evr_endpoint_ioctl,
	/* RING's argument is no pointer; what this does to it does not matter. */
	.compat_ioctl = compat_ptr_ioctl,
	.uring_cmd = evr_endpoint_uring_cmd,
	.mmap = evr_mmap,
	.poll = evr_endpoint_poll,
	.show_fdinfo = evr_endpoint_show_fdinfo,
	.llseek = noop_llseek,
};
