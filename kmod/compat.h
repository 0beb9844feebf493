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

#include <linux/eventfd.h>
#ifdef EVR_HAVE_IO_URING_CMD_H /* Kbuild looks: sparse knows no __has_include */
#include <linux/io_uring/cmd.h>
#else
#include <linux/io_uring.h>
#endif
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <linux/time_namespace.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "evering needs Linux 6.1 or later"
#endif

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
