/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h: what differs between the kernels that evering builds for.
 *
 * Force-included before everything else; it holds every #if about a kernel
 * version or option, so that the other files read like one kernel's.  No name
 * of the kernel's own is ever defined here (stable kernels take them back from
 * newer ones): what needs a shim gets the prefix evr_.
 */
#ifndef EVR_COMPAT_H
#define EVR_COMPAT_H

#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/evering.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <linux/time_namespace.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#include <linux/io_uring.h>
#else
#include <linux/io_uring/cmd.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "evering needs Linux 6.1 or later"
#endif
/* The offsets of regions are beyond what mmap(2) takes there. */
#ifndef CONFIG_64BIT
#error "evering needs a 64-bit kernel"
#endif
/* Which whatever has KVM has. */
#ifndef CONFIG_MMU_NOTIFIER
#error "evering needs a kernel with CONFIG_MMU_NOTIFIER"
#endif
/* A half is looked at by another address than user space has for it. */
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
#define evr_timer_owner		from_timer
#else
#define evr_timer_owner		timer_container_of
#endif

/*
 * What the scheduler wants to be told when a waker is about to sleep itself: WF_SYNC,
 * which it keeps to itself, but default_wake_function() takes, and warns of others.
 * The public ways to say it all lead through a wait queue, whose lock would be taken
 * twice a sleep; rcuwait, a sleeper's place like ours, cannot say it.
 */
#define EVR_WF_SYNC	0x10
/*
 * And that the wakee is to run on the waker's CPU: WF_CURRENT_CPU, since 6.6; before,
 * default_wake_function() warns of it.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
#define EVR_WF_HERE	0
#else
#define EVR_WF_HERE	0x40
#endif

/* Lets a task run now that the scheduler prefers to this one, if there is one. */
static inline void evr_resched(void)
{
#ifdef TIF_NEED_RESCHED_LAZY
	/* Lazy preemption asks for no more than this, and has no cond_resched(). */
	if (test_thread_flag(TIF_NEED_RESCHED_LAZY)) {
		schedule();
		return;
	}
#endif
	cond_resched();
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

/*
 * Ends a command with @ret.  Before 6.12 (tried: 6.1) what a command returns ends it,
 * too, but anything except 0 fails what is linked behind it.
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

/*
 * With an inode of its own, which security modules can label, where there is one.
 * @flags: as given to CREATE.
 */
static inline struct file *evr_getfile(const char *name,
				       const struct file_operations *fops,
				       void *private, u32 flags)
{
	flags = O_RDWR | (flags & EVERING_CREATE_NONBLOCK ? O_NONBLOCK : 0);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	return anon_inode_getfile(name, fops, private, flags);
#else
	return anon_inode_create_getfile(name, fops, private, flags, NULL);
#endif
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
 * timens_ktime_to_host() for CLOCK_MONOTONIC; its out-of-line half is not
 * exported.  The offsets of a time namespace do not change once it has tasks,
 * and those of the first one are zero.
 */
static inline ktime_t evr_monotonic_to_host(ktime_t time)
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

#endif /* EVR_COMPAT_H */
