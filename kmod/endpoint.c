// SPDX-License-Identifier: GPL-2.0-only
/*
 * endpoint.c: the file that an endpoint is: its ioctls, poll, fdinfo and release.
 */
#include <linux/compat.h>
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
	spin_lock(&ep->channel->lock);
	old = ep->eventfd;
	WRITE_ONCE(ep->eventfd, ctx); /* evr_ring() looks without the lock */
	/* Who sets it and then looks at STATUS misses nothing; nor who does not. */
	if (ctx && evr_gone(ep->peer))
		evr_eventfd_signal(ctx);
	spin_unlock(&ep->channel->lock);
	if (old)
		eventfd_ctx_put(old);
	return 0;
}

static int evr_peer_cred(struct file *file, void *arg, void __user *uarg)
{
	struct evr_endpoint *ep = file->private_data;
	struct evr_endpoint *peer = ep->peer;
	struct evering_peer_cred *out = arg;
	bool attached;

	/* Written once, and kept as long as the channel. */
	spin_lock(&ep->channel->lock);
	attached = peer->pid;
	spin_unlock(&ep->channel->lock);
	if (!attached)
		return -ENOTCONN;
	out->pid = pid_vnr(peer->pid);
	out->uid = from_kuid_munged(current_user_ns(), peer->cred->euid);
	out->gid = from_kgid_munged(current_user_ns(), peer->cred->egid);
	out->reserved = 0;
	return evr_ioctl_reply(uarg, out, sizeof(*out));
}

static const struct evr_ioctl evr_endpoint_ioctls[] = {
	{ EVERING_IOC_SET_EVENTFD, sizeof(struct evering_set_eventfd), 16, 0,
	  evr_set_eventfd },
	{ EVERING_IOC_PEER_CRED, sizeof(struct evering_peer_cred), 24, 0,
	  evr_peer_cred },
};

static int evr_ring_peer(struct file *file, unsigned long bells)
{
	struct evr_endpoint *ep = file->private_data;

	if (!bells || bells > (EVERING_RX | EVERING_TX))
		return -EINVAL;
	return evr_ring(ep->peer, bells, false);
}

static long evr_endpoint_ioctl(struct file *file, unsigned int cmd,
			       unsigned long arg)
{
	switch (cmd) {
	case EVERING_IOC_ENTER:
		return evr_enter(file, (void __user *)arg);
	case EVERING_IOC_RING:
		return evr_ring_peer(file, arg);
	default:
		return evr_ioctl(file, evr_endpoint_ioctls,
				 ARRAY_SIZE(evr_endpoint_ioctls), cmd, arg);
	}
}

/* The argument of RING is a number, all others' a pointer. */
static long evr_endpoint_compat_ioctl(struct file *file, unsigned int cmd,
				      unsigned long arg)
{
	if (cmd != EVERING_IOC_RING)
		arg = (unsigned long)compat_ptr(arg);
	return evr_endpoint_ioctl(file, cmd, arg);
}

/* RING alone; it never waits, and so completes at once. */
static int evr_endpoint_uring_cmd(struct io_uring_cmd *cmd,
				  unsigned int issue_flags)
{
	const struct evering_uring_ring *ring = evr_uring_cmd_data(cmd);

	if (issue_flags & IO_URING_F_IOPOLL)
		return -EOPNOTSUPP;
	if (cmd->cmd_op != EVERING_IOC_RING)
		return -ENOTTY;
	if (READ_ONCE(ring->reserved[0]) | READ_ONCE(ring->reserved[1]) |
	    READ_ONCE(ring->reserved[2]))
		return -EINVAL;
	return evr_ring_peer(cmd->file, READ_ONCE(ring->bells));
}

/*
 * Looks without a lock:
 *
 *	here				whoever rings, or goes
 *
 *	add to ep->wait			clear EVERING_ARMED, or store the state
 *	full barrier (poll_wait)	full barrier (atomic, or ep->wait's lock)
 *	load armed_*, load the state	look whether anybody is in ep->wait
 *
 * At least one of the two sees the other.
 */
static __poll_t evr_endpoint_poll(struct file *file, poll_table *table)
{
	struct evr_endpoint *ep = file->private_data;
	__poll_t events = 0;
	u32 rung, state;

	poll_wait(file, &ep->wait, table);
	rung = evr_rung(ep, EVERING_RX | EVERING_TX);
	state = READ_ONCE(ep->peer->state);
	if (rung & EVERING_RX)
		events |= EPOLLIN | EPOLLRDNORM;
	if (rung & EVERING_TX)
		events |= EPOLLOUT | EPOLLWRNORM;
	/* Like a socket: who asks for input alone is to hear of the end, too. */
	if (state >= EVERING_STATE_DETACHED)
		events |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM;
	if (state == EVERING_STATE_CLOSED)
		events |= EPOLLHUP;
	return events;
}

static int evr_endpoint_release(struct inode *inode, struct file *file)
{
	struct evr_endpoint *ep = file->private_data;

	evr_endpoint_close(ep);
	evr_channel_put(ep->channel);
	return 0;
}

/* One line a fact; what each endpoint has of its own in two columns, A and B. */
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
	int i;

	seq_printf(m, "channel:\t%llu\nend:\t%c\nbytes:\t%llu\n", channel->id,
		   'A' + evr_end(ep), channel->bytes);
	seq_printf(m, "slot_size:\t%u\nentries:\t%u\nflags:\t%#x\n",
		   g->slot_size, g->entries, g->flags);
	seq_printf(m, "arena_size:\t%llu\t%llu\narena_order:\t%u\t%u\n",
		   g->arena_size[EVERING_A], g->arena_size[EVERING_B],
		   channel->region[EVERING_REGION_ARENA_A].order,
		   channel->region[EVERING_REGION_ARENA_B].order);
	seq_printf(m, "state:\t%s\t%s\n", states[READ_ONCE(a->state)],
		   states[READ_ONCE(b->state)]);
	seq_printf(m, "epoch:\t%u\t%u\nrings:\t%lu\t%lu\nwakes:\t%lu\t%lu\n",
		   READ_ONCE(a->status->epoch), READ_ONCE(b->status->epoch),
		   atomic_long_read(&a->rings), atomic_long_read(&b->rings),
		   atomic_long_read(&a->wakes), atomic_long_read(&b->wakes));
	/* What the endpoints say of themselves, and nobody has checked. */
	for (i = 0; i < ARRAY_SIZE(counters); i++)
		seq_printf(m, "%s:\t%llu\t%llu\n", counters[i],
			   READ_ONCE(count_a[i]), READ_ONCE(count_b[i]));
}

const struct file_operations evr_endpoint_fops = {
	.owner = THIS_MODULE,
	.release = evr_endpoint_release,
	.unlocked_ioctl = evr_endpoint_ioctl,
	.compat_ioctl = evr_endpoint_compat_ioctl,
	.uring_cmd = evr_endpoint_uring_cmd,
	.mmap = evr_mmap,
	.poll = evr_endpoint_poll,
	.show_fdinfo = evr_endpoint_show_fdinfo,
	.llseek = noop_llseek,
};
