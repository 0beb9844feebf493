// SPDX-License-Identifier: GPL-2.0-only
/*
 * evering: shared-memory channels between two processes.  uapi/linux/evering.h
 * describes the ABI and the shared memory.
 *
 * Objects
 * -------
 *
 *	/dev/evering		misc device: INFO, CREATE, GROUP; no state (main.c)
 *	struct evr_channel	pages, quota and two endpoints (channel.c)
 *	struct evr_endpoint	half of a channel: an anonymous file (endpoint.c),
 *				its state (life.c), mappings (mmap.c), doorbells
 *				(doorbell.c)
 *	struct evr_map		what one process maps through an endpoint (life.c)
 *	struct evr_group	many endpoints under one sleeper: an anonymous file, and a
 *				page with a bit for each of its members (group.c)
 *	struct evering_port	a module in place of a process and its file, at one end
 *				(port.c)
 *	struct evr_user		what a user is charged for (quota.c)
 *
 *	   fd, dup, fork,		fd, dup, fork,
 *	   SCM_RIGHTS			SCM_RIGHTS
 *		|				|
 *		v				v
 *	   struct file A <-- vmas	   struct file B <-- vmas
 *		|				|
 *		+-----> struct evr_channel <----+
 *			  end[A], end[B] --> maps --> struct evr_map --> mm_struct
 *			  end[A], end[B] --> group --> struct evr_group <-- struct file
 *			  region[] ----> pages <---- ptes, I/O in flight
 *			  account ----> struct cred, by which struct evr_user is found
 *
 * Each file holds one of the channel's two references.  A vma holds its file, and so
 * does a system call, a poll and a descriptor in flight in a socket.  An endpoint is
 * part of its channel: it needs no count, and may touch its peer at any time.
 * A vma counts in the struct evr_map of its process, which goes with the last vma.
 * When both files are released the channel goes, with its quota.  Its memory may go
 * earlier if one file is released and nobody maps anything: see evr_channel_settle().
 * An arena's pages may come later, by GROW; while GROW runs the memory stays.
 * The pages are counted one by one and outlive the channel if somebody does I/O on
 * them.  The files hold the module.  Nothing is deferred past release, so rmmod has
 * nothing to wait for.
 *
 * An endpoint that is a member of a group holds the group: its struct and its page, not
 * its file.  A group holds no endpoint, and finds none.  So there is no cycle, and files
 * may be released in any order.  Membership ends when the endpoint's file is released, or
 * when the endpoint is DETACHED because the process that called ATTACH and ADD has gone,
 * whatever others map.  So a process that keeps a descriptor of a dead server's endpoint
 * does not keep the server's group, for which the server's user pays.  The release of the
 * group's file ends no membership but marks the group as closed, and then its members may
 * join another group.
 *
 * A port has the reference of a file, but no file, vma or mm.  Its endpoint is ATTACHED
 * from the start, and CLOSED when the module lets go of it.  That module holds this one by
 * the symbols that it uses, so each port goes before evering does.
 *
 * Life of an endpoint, as its peer sees it
 * ----------------------------------------
 *
 *	NEW --(own half mapped)--> ATTACHED --(mapped by another process)--+
 *	 |			     ^	 |				   |
 *	 |			     +---|---------------------------------+
 *	 |				 +-(its process ends, or unmaps all)-> DETACHED
 *	 |							     (RDHUP)	   |
 *	 +--------------------(file released)--------------> CLOSED (HUP) <--------+
 *
 * DETACHED is final.  Neither vm_close nor release need run in the process that the
 * endpoint belonged to, so neither looks at current.
 *
 * Locks, outermost first
 * ----------------------
 *
 *	mmap_lock		held around evr_mmap() and the vm_operations
 *	evering_port.serving	the calls of a module's serve(), by a ringer or a thread
 *	evr_channel.lock	states, mappings, eventfds, membership; no sleep, no user copy;
 *				a port may ring in a softirq: bottom halves are off
 *	lock of a wait queue	an endpoint's, a group's or an eventfd's, and epoll's below
 *
 *	evr_quota_lock		alone, and a spinlock: while one user waits for memory no
 *				other user waits for the lock
 *
 * Ringing takes only the lock of a wait queue that somebody is in, and the lock of the
 * channel if an eventfd is set or the endpoint is in a group.  The side that is woken
 * decides what that costs, up to a bound: EVR_MAX_WAITERS at the endpoint and at the
 * group, and behind each what the kernel allows to hang on a descriptor (an epoll set
 * that others poll, pollers of the eventfd).
 *
 * Trust
 * -----
 *
 * User space can write into halves and arenas at any time.  The module writes them
 * before the channel has a descriptor, and does three things there later: it clears
 * EVERING_ARMED atomically; it looks whether EVERING_ARMED is set; it shows the counters
 * in fdinfo.  In the page of a group it sets bits atomically, and looks whether any is
 * set.  The worst that a lie can do is to wake, or not to wake, the process that told it.
 *
 * A port writes its own half and arena, and reads what the process has sent: each byte
 * once, into memory of its module, where the copy is checked and used.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "evering_kmod.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Each begins with its size and its flags. */
union evr_ioctl_arg {
	struct evering_info info;
	struct evering_create create;
	struct evering_set_eventfd set_eventfd;
	struct evering_peer_cred peer_cred;
	struct evering_attach attach;
	struct evering_grow grow;
	struct evering_group_create group;
	struct evering_add add;
};

/* Checks the part of a caller's struct that the module does not know. */
int evr_ioctl_tail(const void __user *uarg, u32 size, size_t known)
{
	int ret;

	if (size <= known)
		return 0;
	/* No future struct will be as long, and the check takes time. */
	if (size > PAGE_SIZE)
		return -E2BIG;
	ret = check_zeroed_user(uarg + known, size - known);
	return ret > 0 ? 0 : ret ?: -E2BIG;
}

/* Copies the struct back, as much as the caller has room for. */
int evr_ioctl_reply(void __user *uarg, const void *arg, size_t known)
{
	const u32 *size = arg;

	if (copy_to_user(uarg, arg, min_t(size_t, *size, known)))
		return -EFAULT;
	return 0;
}

/* Executes the command of @table that @cmd names, after the checks that all share. */
long evr_ioctl(struct file *file, const struct evr_ioctl *table, size_t nr,
	       unsigned int cmd, unsigned long arg)
{
	void __user *uarg = (void __user *)arg;
	const struct evr_ioctl *op = table;
	union evr_ioctl_arg u = {};
	u32 size;
	int ret;

	while (op < table + nr && op->cmd != cmd)
		op++;
	if (op == table + nr)
		return -ENOTTY;
	if (get_user(size, (u32 __user *)uarg))
		return -EFAULT;
	if (size < op->min_size)
		return -EINVAL;
	ret = evr_ioctl_tail(uarg, size, op->size);
	if (ret)
		return ret;
	if (copy_from_user(&u, uarg, min(size, op->size)))
		return -EFAULT;
	/* The value that was checked; the caller may have changed it since. */
	u.info.size = size;
	if (u.info.flags & ~op->flags)
		return -EINVAL;
	return op->execute(file, &u, uarg);
}

static int evr_info(struct file *file, void *arg, void __user *uarg)
{
	struct evering_info *info = arg;

	info->abi = EVERING_ABI_VERSION;
	info->page_size = PAGE_SIZE;
	info->features = EVERING_FEATURE_GROW | EVERING_FEATURE_GROUP;
	info->reserved = 0;
	evr_quota_info(info);
	return evr_ioctl_reply(uarg, info, sizeof(*info));
}

/*
 * Gives each file a descriptor, stores these in @fds, which are part of @arg, and copies @arg
 * to the caller.  A file may be an error pointer.  The files are consumed in any case.
 * @flags: of CREATE or of GROUP, which has the same.
 */
int evr_install(struct file **files, s32 *fds, int nr, u32 flags,
		void __user *uarg, const void *arg, size_t known)
{
	int cloexec = flags & EVERING_CREATE_KEEP_ON_EXEC ? 0 : O_CLOEXEC;
	int i, had = 0, ret = 0;

	for (i = 0; i < nr && !ret; i++)
		ret = PTR_ERR_OR_ZERO(files[i]);
	while (had < nr && ret >= 0) {
		ret = get_unused_fd_flags(cloexec);
		if (ret >= 0)
			fds[had++] = ret;
	}
	if (ret >= 0)
		ret = evr_ioctl_reply(uarg, arg, known);
	for (i = 0; i < nr; i++) {
		if (!ret) /* Nothing can fail now; other threads can use it at once. */
			fd_install(fds[i], files[i]);
		else if (!IS_ERR(files[i]))
			fput(files[i]);
	}
	while (ret && had--)
		put_unused_fd(fds[had]);
	return ret;
}

/*
 * A file with an inode of its own, which security modules can label.
 * @flags: of CREATE or of GROUP, which has the same.
 */
struct file *evr_getfile(const char *name, const struct file_operations *fops,
			 void *private, u32 flags)
{
	flags = O_RDWR | (flags & EVERING_CREATE_NONBLOCK ? O_NONBLOCK : 0);
	return evr_anon_inode_create_getfile(name, fops, private, flags, NULL);
}

static int evr_create(struct file *file, void *arg, void __user *uarg)
{
	struct evering_create *create = arg;
	struct evr_channel *channel;
	struct file *files[2];
	int i, ret;

	if (!(create->flags & EVERING_CREATE_GROW))
		memcpy(create->arena_begin, create->geometry.arena_size,
		       sizeof(create->arena_begin));
	channel = evr_channel_create(create);
	if (IS_ERR(channel))
		return PTR_ERR(channel);
	for (i = 0; i < 2; i++) {
		create->arena_order[i] =
			channel->region[EVERING_REGION_ARENA(i)].order;
		files[i] = evr_getfile("[evering]", &evr_endpoint_fops,
				       &channel->end[i], create->flags);
		if (!IS_ERR(files[i]))
			refcount_inc(&channel->refs);
	}
	ret = evr_install(files, create->fd, 2, create->flags, uarg, create,
			  sizeof(*create));
	evr_channel_put(channel);
	return ret;
}

static const struct evr_ioctl evr_device_ioctls[] = {
	{ EVERING_IOC_INFO, sizeof(struct evering_info), 56, 0, evr_info },
	{ EVERING_IOC_CREATE, sizeof(struct evering_create), 72,
	  EVERING_CREATE_FLAGS, evr_create },
	{ EVERING_IOC_GROUP, sizeof(struct evering_group_create), 16,
	  EVERING_GROUP_FLAGS, evr_group_create },
};

static long evr_device_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	return evr_ioctl(file, evr_device_ioctls, ARRAY_SIZE(evr_device_ioctls),
			 cmd, arg);
}

static const struct file_operations evr_device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = evr_device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice evr_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "evering",
	.fops = &evr_device_fops,
	.mode = 0666,
};

module_misc_device(evr_device);

MODULE_DESCRIPTION("evering: shared-memory channels between two processes");
MODULE_LICENSE("GPL");
