/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h: what differs between the kernels that evering builds for.
 *
 * The build includes it before everything else.  It holds every #if about a kernel
 * version or option, so that the other files read as if there were one kernel.
 *
 * A shim has the name and the arguments of what it stands for in a newer kernel, with the
 * prefix evr_.  The prefix is needed because stable kernels take such functions back from
 * newer ones.  It is also all that `make in-tree` has to remove: a kernel's own tree needs
 * neither the prefix nor this file.  Four functions are exceptions, and
 * tools/in-tree/always.sed has what stands in their place there: evr_poll_does_not_wait(),
 * evr_need_resched_lazy(), evr_uring_cmd_data() and evr_uring_done().
 */
#ifndef EVR_COMPAT_H
#define EVR_COMPAT_H

#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/time_namespace.h>
#include <linux/timer.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#include <linux/io_uring.h>
#else
#include <linux/io_uring/cmd.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "evering needs Linux 6.1 or later"
#endif
/* A region's mmap offset is larger than mmap(2) takes on 32 bits. */
#ifndef CONFIG_64BIT
#error "evering needs a 64-bit kernel"
#endif
/* Every kernel that has KVM has it. */
#ifndef CONFIG_MMU_NOTIFIER
#error "evering needs a kernel with CONFIG_MMU_NOTIFIER"
#endif
/* The kernel and user space read a half at different addresses. */
#if defined(CONFIG_ARCH_HAS_CPU_CACHE_ALIASING) || defined(CONFIG_MIPS) || \
	defined(CONFIG_PARISC) || defined(CONFIG_SPARC)
#error "evering needs caches that do not alias"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define evr_timer_delete	del_timer
#define evr_timer_delete_sync	del_timer_sync
#else
#define evr_timer_delete	timer_delete
#define evr_timer_delete_sync	timer_delete_sync
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
#define evr_timer_container_of	from_timer
#else
#define evr_timer_container_of	timer_container_of
#endif

/*
 * WF_SYNC says that the waker is about to sleep.  The scheduler keeps the name to itself,
 * but default_wake_function() takes the flag, and warns of any other.  The public ways to
 * say it all lead through a wait queue, whose lock would be taken twice a sleep; rcuwait,
 * which has a place for one sleeper like ours, has no way to say it.
 */
#define EVR_WF_SYNC	0x10
/*
 * WF_CURRENT_CPU asks that the wakee run on the waker's CPU.  It exists since 6.6; before
 * that, default_wake_function() warns of it, and a hand-over moves no task.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
#define EVR_WF_CURRENT_CPU	0
#else
#define EVR_WF_CURRENT_CPU	0x40
#endif

/* Linux 6.12 has a poll_does_not_wait(), and 7.3 has not. */
static inline bool evr_poll_does_not_wait(const poll_table *table)
{
	return !table || !table->_qproc;
}

/* Does lazy preemption want the current task to give way? */
static inline bool evr_need_resched_lazy(void)
{
#ifdef TIF_NEED_RESCHED_LAZY
	return test_thread_flag(TIF_NEED_RESCHED_LAZY);
#else
	return false;
#endif
}

/* Only for a vma that nobody else can see yet, as in ->mmap(). */
static inline void evr_vm_flags_mod(struct vm_area_struct *vma,
				    unsigned long set, unsigned long clear)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#else
	vm_flags_mod(vma, set, clear);
#endif
}

static inline void evr_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx, 1);
#else
	eventfd_signal(ctx);
#endif
}

/* Before 6.8 the file shares one inode, which security modules cannot label. */
static inline struct file *
evr_anon_inode_create_getfile(const char *name, const struct file_operations *fops,
			      void *private, int flags,
			      const struct inode *context_inode)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	return anon_inode_getfile(name, fops, private, flags);
#else
	return anon_inode_create_getfile(name, fops, private, flags,
					 context_inode);
#endif
}

/*
 * For CLOCK_MONOTONIC alone.  The out-of-line half of the kernel's own function is not
 * exported.  The offsets of a time namespace do not change once it has tasks, and those
 * of the first one are zero.
 */
static inline ktime_t evr_timens_ktime_to_host(clockid_t clock, ktime_t time)
{
#ifdef CONFIG_TIME_NS
	struct time_namespace *ns = current->nsproxy->time_ns;
	ktime_t offset = timespec64_to_ktime(ns->offsets.monotonic);

	if (offset)
		time = time < offset ? 0 :
		       min_t(u64, time - offset, KTIME_MAX);
#endif
	return time;
}

/* sqe->cmd, which user space can write at any time. */
static inline const void *evr_uring_cmd_data(const struct io_uring_cmd *cmd)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	return cmd->cmd;
#else
	return cmd->sqe->cmd;
#endif
}

/*
 * What an io_uring command returns that ends with @ret.  Since 6.12 that is @ret itself.
 * Before (tried: 6.1) a value other than 0 that is returned ends the command too, but
 * fails what is linked behind it.
 */
static inline int evr_uring_done(struct io_uring_cmd *cmd, int ret,
				 unsigned int issue_flags)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
	if (ret > 0) {
		io_uring_cmd_done(cmd, ret, 0, issue_flags);
		return -EIOCBQUEUED;
	}
#endif
	return ret;
}

#endif /* EVR_COMPAT_H */
