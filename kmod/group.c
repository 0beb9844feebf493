// SPDX-License-Identifier: GPL-2.0-only
/*
 * group.c: many endpoints under one sleeper: a file of its own, with one page in which
 * each member has a bit.
 *
 * It does what epoll cannot.  To find one ready member among thousands costs the owner
 * three loads and two exchanges in its own memory, and no system call while it is awake.
 * One call rings many peers and then waits.
 *
 * A member points at its group, and has a reference to the struct; a group does not know
 * its members.  So there is no cycle, no table and no list, and members come and go
 * under the lock of their channel alone.  When the group's file is closed the members
 * stay, and nobody sees their bits, until they join another group, or are detached or
 * closed.
 *
 *	Owner					Ringer: evr_group_mark()
 *
 *	take a word of summary			set the bit of the member
 *	full barrier			[G]	full barrier			[G]
 *	take the words it names			set the bit of its word in summary
 *
 * [G] An owner that takes a bit of summary sees the bit that it was set for.  If a bit is
 *     set later, in a word that was taken already, summary names that word once more.
 *
 * The owner of the page can write there at any time.  But here bits are only set, by atomic
 * operations, and summary is read.  As with EVERING_ARMED, a lie wakes, or does not wake,
 * the process that told it.
 */
#include <linux/bitops.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "evering_kmod.h"
#include "trace.h"

/* Sets the bit at @index, and wakes the waiters of the group. */
void evr_group_mark(struct evr_group *group, u32 index, int flags)
{
	struct evering_group_page *page = group->page;

	/* Also if the bit is set already: the owner that takes it sees what was sent. */
	smp_mb__before_atomic();
	set_bit(index, (unsigned long *)page->ready);
	smp_mb__after_atomic(); /* [G] */
	set_bit(index / 64, (unsigned long *)page->summary);
	smp_mb__after_atomic(); /* [S] in doorbell.c */
	if (READ_ONCE(group->waiters.stays))
		flags &= ~EVR_WF_CURRENT_CPU;
	evr_wake(&group->waiters, EVERING_RX, flags);
}

/* Is any bit of summary set?  For evr_sleep(). */
int evr_group_look(struct evr_waiters *waiters, u32 bells)
{
	struct evr_group *group = container_of(waiters, struct evr_group, waiters);
	const u64 *summary = group->page->summary;

	BUILD_BUG_ON(sizeof(group->page->summary) != 8 * sizeof(*summary));
	return !!(READ_ONCE(summary[0]) | READ_ONCE(summary[1]) |
		  READ_ONCE(summary[2]) | READ_ONCE(summary[3]) |
		  READ_ONCE(summary[4]) | READ_ONCE(summary[5]) |
		  READ_ONCE(summary[6]) | READ_ONCE(summary[7]));
}

static void evr_group_put(struct evr_group *group)
{
	if (!group || !refcount_dec_and_test(&group->refs))
		return;
	free_page((unsigned long)group->page);
	evr_quota_uncharge(&group->account);
	kfree(group);
}

/* The file of the endpoint that @fd refers to. */
static struct file *evr_member_get(int fd)
{
	struct file *file = fget(fd);

	if (!file)
		return ERR_PTR(-EBADF);
	if (file->f_op == &evr_endpoint_fops)
		return file;
	fput(file);
	return ERR_PTR(-EINVAL);
}

static int evr_group_add(struct file *file, void *arg, void __user *uarg)
{
	struct evr_group *group = file->private_data, *old = NULL;
	const struct evering_add *add = arg;
	struct evr_endpoint *ep;
	int ret = 0;

	if (add->index >= EVERING_GROUP_MEMBERS)
		return -EINVAL;
	file = evr_member_get(add->fd);
	if (IS_ERR(file))
		return PTR_ERR(file);
	ep = file->private_data;
	spin_lock_bh(&ep->channel->lock);
	if (ep->state >= EVERING_STATE_DETACHED) {
		ret = -ESTALE; /* evr_part() has removed it, or will: too late */
	} else if (ep->group == group) {
		ret = -EEXIST;
	} else if ((ep->group && !READ_ONCE(ep->group->closed)) ||
		   (ep->named && ep->pid != task_tgid(current))) {
		ret = -EBUSY;
	} else if (!ep->named) {
		ret = -ENOTCONN; /* no process whose end would remove it: evr_part() */
	} else {
		old = ep->group;
		refcount_inc(&group->refs);
		WRITE_ONCE(ep->group, group); /* evr_ring() looks without the lock */
		ep->index = add->index;
		trace_evr_add(group, ep);
		/* For a ring that came before the group was there, or a peer that has gone. */
		evr_group_mark(group, ep->index, 0);
	}
	spin_unlock_bh(&ep->channel->lock);
	evr_group_put(old);
	fput(file);
	return ret;
}

/* Ends membership in @from or, if that is NULL, in any group; -ENOENT if there is none. */
int evr_group_leave(struct evr_endpoint *ep, const struct evr_group *from)
{
	struct evr_group *group;

	spin_lock_bh(&ep->channel->lock);
	group = ep->group;
	if (from && group != from)
		group = NULL;
	if (group) {
		trace_evr_remove(group, ep);
		WRITE_ONCE(ep->group, NULL);
	}
	spin_unlock_bh(&ep->channel->lock);
	evr_group_put(group);
	return group ? 0 : -ENOENT;
}

static int evr_group_remove(struct evr_group *group, int fd)
{
	struct file *file = evr_member_get(fd);
	int ret;

	if (IS_ERR(file))
		return PTR_ERR(file);
	ret = evr_group_leave(file->private_data, group);
	fput(file);
	return ret;
}

static bool evr_ring_bad(const struct evering_group_ring *ring)
{
	return !ring->bells || ring->bells > (EVERING_RX | EVERING_TX);
}

/*
 * Rings one peer.  Returns how many doorbells were armed, or an errno.  @sleeps: the caller
 * will sleep: hand over if it @may.
 */
static int evr_group_ring_one(const struct evering_group_ring *ring,
			      bool sleeps, bool may)
{
	struct file *file = evr_member_get(ring->fd);
	struct evr_endpoint *ep;
	u32 rang;

	if (IS_ERR(file))
		return PTR_ERR(file);
	ep = file->private_data;
	rang = sleeps ? evr_hand_over(ep, ring->bells, may) :
			evr_ring(ep->peer, ring->bells, 0);
	fput(file);
	return hweight32(rang);
}

/* Rings a list, which takes its place on the stack; most kernels clear that first. */
static noinline int evr_group_ring_many(const struct evering_group_ring __user *rings,
					u32 count)
{
	struct evering_group_ring list[EVERING_MAX_GROUP_RINGS];
	int ret, rang = 0;
	u32 i;

	if (count > ARRAY_SIZE(list))
		return -E2BIG;
	if (copy_from_user(list, rings, count * sizeof(*list)))
		return -EFAULT;
	for (i = 0; i < count; i++)
		if (evr_ring_bad(&list[i]))
			return -EINVAL;
	for (i = 0; i < count; i++) {
		/* The side that is woken decides how long each takes. */
		if (need_resched())
			cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
		ret = evr_group_ring_one(&list[i], false, false);
		if (ret < 0)
			return ret;
		rang += ret;
	}
	return rang;
}

/* Rings the list of @enter.  Returns how many doorbells were armed, or an errno. */
static int evr_group_ring(struct evr_group *group, bool nonblock,
			  const struct evering_group_enter *enter)
{
	const struct evering_group_ring __user *rings = u64_to_user_ptr(enter->rings);
	struct evering_group_ring ring;

	if (enter->ring != 1)
		return evr_group_ring_many(rings, enter->ring);
	if (get_user(ring.fd, &rings->fd) || get_user(ring.bells, &rings->bells))
		return -EFAULT;
	if (evr_ring_bad(&ring))
		return -EINVAL;
	return evr_group_ring_one(&ring,
				  enter->wait && !evr_group_look(&group->waiters, 0),
				  !nonblock &&
				  !(enter->flags & EVERING_ENTER_NO_HANDOVER));
}

/* In one go, for the same reason as evr_enter_fetch(). */
static int evr_group_fetch(struct evering_group_enter *enter,
			   struct evering_group_enter __user *uarg)
{
	if (!user_read_access_begin(uarg, sizeof(*uarg)))
		return -EFAULT;
	unsafe_get_user(enter->size, &uarg->size, fault);
	unsafe_get_user(enter->flags, &uarg->flags, fault);
	unsafe_get_user(enter->ring, &uarg->ring, fault);
	unsafe_get_user(enter->wait, &uarg->wait, fault);
	unsafe_get_user(enter->timeout, &uarg->timeout, fault);
	unsafe_get_user(enter->rings, &uarg->rings, fault);
	user_read_access_end();
	if (enter->size < sizeof(*enter) || enter->wait > 1 ||
	    enter->flags & ~EVERING_ENTER_FLAGS)
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

/* The struct begins like that of an endpoint's ENTER, and evr_sleep() reads no more. */
static long evr_group_enter(struct file *file,
			    struct evering_group_enter __user *uarg)
{
	struct evr_group *group = file->private_data;
	bool nonblock = file->f_flags & O_NONBLOCK;
	struct evering_group_enter enter;
	int ret, rang;

	ret = evr_group_fetch(&enter, uarg);
	if (ret)
		return ret;
	/* An interrupted call may have rung this many doorbells before. */
	if (enter.flags & EVERING_ENTER_RUNG &&
	    enter.ring > 2 * EVERING_MAX_GROUP_RINGS)
		return -EINVAL;
	rang = enter.ring;
	if (rang && !(enter.flags & EVERING_ENTER_RUNG))
		rang = evr_group_ring(group, nonblock, &enter);
	if (rang < 0 || !enter.wait || evr_group_look(&group->waiters, 0))
		return rang;
	ret = evr_sleep(&group->waiters, EVERING_RX, evr_group_look,
			(const struct evering_enter *)&enter, nonblock);
	return ret < 0 ? evr_enter_interrupted((void __user *)uarg,
					       (const struct evering_enter *)&enter,
					       rang, ret) : rang;
}

static const struct evr_ioctl evr_group_ioctls[] = {
	{ EVERING_IOC_ADD, sizeof(struct evering_add), 16, 0, evr_group_add },
};

static long evr_group_ioctl(struct file *file, unsigned int cmd,
			    unsigned long arg)
{
	switch (cmd) {
	case EVERING_IOC_ENTER:
		return evr_group_enter(file, (void __user *)arg);
	case EVERING_IOC_RING:
		if (arg >= EVERING_GROUP_MEMBERS)
			return -EINVAL;
		evr_group_mark(file->private_data, arg, 0);
		return 0;
	case EVERING_IOC_REMOVE:
		return arg > INT_MAX ? -EBADF :
				       evr_group_remove(file->private_data, arg);
	default:
		return evr_ioctl(file, evr_group_ioctls,
				 ARRAY_SIZE(evr_group_ioctls), cmd, arg);
	}
}

static vm_fault_t evr_group_fault(struct vm_fault *vmf)
{
	struct evr_group *group = vmf->vma->vm_file->private_data;

	vmf->page = virt_to_page(group->page);
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct evr_group_vm_ops = {
	.fault = evr_group_fault,
};

static int evr_group_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (vma->vm_pgoff || vma_pages(vma) != 1 || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vma->vm_ops = &evr_group_vm_ops;
	return evr_vma_init(vma, VM_EXEC);
}

static __poll_t evr_group_poll(struct file *file, poll_table *table)
{
	struct evr_group *group = file->private_data;
	__poll_t events = evr_poll_wait(file, &group->waiters, table);

	if (evr_group_look(&group->waiters, 0))
		events |= EPOLLIN | EPOLLRDNORM;
	return events;
}

static void evr_group_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct evr_group *group = file->private_data;

	seq_printf(m, "group:\t%llu\nmembers:\t%u\nbytes:\t%llu\n", group->id,
		   refcount_read(&group->refs) - 1, group->account.bytes);
}

static int evr_group_release(struct inode *inode, struct file *file)
{
	struct evr_group *group = file->private_data;

	WRITE_ONCE(group->closed, true);
	evr_group_put(group);
	return 0;
}

static const struct file_operations evr_group_fops = {
	.owner = THIS_MODULE,
	.release = evr_group_release,
	.unlocked_ioctl = evr_group_ioctl,
	/* Some arguments are no pointers; what this does to them does not matter. */
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = evr_group_mmap,
	.poll = evr_group_poll,
	.show_fdinfo = evr_group_show_fdinfo,
	.llseek = noop_llseek,
};

/* EVERING_IOC_GROUP, on the device. */
int evr_group_create(struct file *file, void *arg, void __user *uarg)
{
	struct evering_group_create *create = arg;
	struct evr_group *group;
	int ret;

	if (create->reserved)
		return -EINVAL;
	group = kzalloc(sizeof(*group), EVR_GFP);
	if (!group)
		return -ENOMEM;
	refcount_set(&group->refs, 1);
	group->id = get_random_u64() >> 16; /* as that of a channel */
	init_waitqueue_head(&group->waiters.queue);
	INIT_LIST_HEAD(&group->waiters.line);
	INIT_LIST_HEAD(&group->account.orphan);
	ret = evr_quota_charge(&group->account, PAGE_SIZE, PAGE_SIZE);
	if (ret)
		goto out;
	group->page = (void *)get_zeroed_page(EVR_GFP);
	ret = -ENOMEM;
	if (!group->page)
		goto out;
	file = evr_getfile("[evering-group]", &evr_group_fops, group,
			   create->flags);
	if (!IS_ERR(file))
		refcount_inc(&group->refs);
	ret = evr_install(&file, &create->fd, 1, create->flags, uarg, create,
			  sizeof(*create));
out:
	evr_group_put(group);
	return ret;
}
