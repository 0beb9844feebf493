/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * evering_kmod.h: the structs of the module and what its files offer each other.
 * The top of main.c describes how they belong together.
 */
#ifndef EVERING_KMOD_H
#define EVERING_KMOD_H

#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/evering.h>

/* For what user space makes us allocate: it fails rather than invoke the OOM killer. */
#define EVR_GFP	(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

/* Pages of one region, in order.  Those of an arena may come later, and then stay. */
struct evr_region {
	struct page **pages;
	unsigned long max;	/* pages that a mapping spans, with memory or without */
	unsigned long nr;	/* pages that were allocated; only the grower looks */
	unsigned long there;	/* pages that a fault may map; release, acquire */
	unsigned int order;	/* of the largest block among them */
};

/* What one process maps through an endpoint.  Its notifier says when the process ends. */
struct evr_map {
	struct mmu_interval_notifier notifier;
	struct evr_endpoint *ep;
	struct list_head link;	/* in ep->maps; under channel->lock, */
	unsigned int vmas;	/* as this is; copies in children count too */
};

/* The user who is charged, and for how much; all of it under evr_quota_lock. */
struct evr_account {
	u64 bytes;
	const struct cred *payer;	/* the user who pays, or NULL */
	struct list_head orphan;	/* of a channel: in evr_orphans, or empty */
};

/* Tasks and pollers that wait at one file: an endpoint or a group. */
struct evr_waiters {
	/*
	 * Tasks asleep in ENTER, for RX and for TX, or NULL.  A task puts itself
	 * in with cmpxchg() and takes itself out.  Wakers read under RCU, which
	 * keeps the task_struct of a task that has just left.  At a group all
	 * tasks sleep for RX.
	 */
	struct task_struct *sleeper_rx;
	struct task_struct *sleeper_tx;
	/*
	 * Pollers, and sleepers that found their place taken, the oldest first.  They
	 * arrive in @queue and move to @line; its lock protects both.
	 */
	struct list_head line;
	wait_queue_head_t queue;
	bool stays;	/* the last sleeper of ENTER said NO_HANDOVER: do not move it */
};

/* Many endpoints under one sleeper: its file, and a bit for each. */
struct evr_group {
	refcount_t refs;	/* the file, and each member */
	bool closed;	/* the file is gone: members may join another group */
	u64 id;		/* its name in traces and fdinfo */
	/* The kernel's mapping.  User space writes there; nothing is trusted. */
	struct evering_group_page *page;
	struct evr_waiters waiters;
	struct evr_account account;
};

struct evering_port;

/* One end of a channel. */
struct evr_endpoint {
	/*
	 * Control lines of the own half, the kernel's mapping.  User space writes
	 * there at any time; nothing read from it is trusted.
	 */
	struct evering_half *half;
	struct evr_endpoint *peer;
	struct evr_waiters waiters;
	bool yields;	/* a caller of ENTER has let the peer run, and will run again */
	u32 state;	/* EVERING_STATE_*; read without the lock as well */
	struct evr_channel *channel;
	atomic_long_t rings;	/* how often the peer rang it, */
	atomic_long_t wakes;	/* and how often a doorbell was armed then */
	struct evering_port __rcu *port; /* a kernel module is this end, or NULL */

	/* Under channel->lock. */
	struct evering_endpoint_status *status;	/* the kernel's mapping */
	struct eventfd_ctx *eventfd;	/* signalled along with @waiters, or NULL */
	struct evr_group *group;	/* its bit is set along with @waiters, or NULL */
	u32 index;			/* of that bit */
	struct list_head maps;		/* one for each process that maps something */
	struct evr_map *owner;		/* of the process that attached last, or NULL */
	/* That process.  Before: the first process to map the half or the arena. */
	struct pid *pid;
	const struct cred *cred;	/* its; before: of the first to map anything */
	bool growing;	/* a task adds pages to the own arena */
	bool shared;	/* more than one process has mapped the half or the arena */
	bool named;	/* ATTACH was called: only @pid may map these two */
} ____cacheline_aligned_in_smp;

/* Two endpoints and their memory. */
struct evr_channel {
	refcount_t refs;	/* the two files; CREATE while it runs */
	/* Taken in ->mmap() and vm_close: no user copy and no sleep under it. */
	spinlock_t lock;
	u64 id;			/* its name in traces and fdinfo */
	struct evering_geometry geometry; /* never read back from STATUS */
	bool over;		/* under @lock: nobody can attach any more */
	struct evr_account account;
	struct evr_region region[EVERING_REGIONS];
	struct evr_endpoint end[2];
};

static inline unsigned int evr_end(const struct evr_endpoint *ep)
{
	return ep - ep->channel->end;
}

/* This end will not answer any more. */
static inline bool evr_gone(const struct evr_endpoint *ep)
{
	/* Acquire: the caller sees what this end wrote before it went. */
	return smp_load_acquire(&ep->state) >= EVERING_STATE_DETACHED;
}

/* An ioctl that takes a struct, which begins with its size and its flags. */
struct evr_ioctl {
	unsigned int cmd;
	u32 size;	/* of the struct as the module knows it, */
	u32 min_size;	/* and of its first version */
	u32 flags;	/* all flags that exist */
	/* @arg: the kernel's copy; @uarg: the caller's, for evr_ioctl_reply() */
	int (*execute)(struct file *file, void *arg, void __user *uarg);
};

/* main.c */
long evr_ioctl(struct file *file, const struct evr_ioctl *table, size_t nr,
	       unsigned int cmd, unsigned long arg);
int evr_ioctl_tail(const void __user *uarg, u32 size, size_t known);
int evr_ioctl_reply(void __user *uarg, const void *arg, size_t known);
struct file *evr_getfile(const char *name, const struct file_operations *fops,
			 void *private, u32 flags);
int evr_install(struct file **files, s32 *fds, int nr, u32 flags,
		void __user *uarg, const void *arg, size_t known);

/* channel.c */
struct evr_channel *evr_channel_create(const struct evering_create *create);
int evr_channel_grow(struct file *file, void *arg, void __user *uarg);
void evr_channel_put(struct evr_channel *channel);
void evr_channel_shrink(struct evr_channel *channel);

/* life.c */
int evr_endpoint_map(struct evr_endpoint *ep, struct vm_area_struct *vma,
		     bool writes);
void evr_endpoint_attach(struct evr_endpoint *ep, struct vm_area_struct *vma);
void evr_vm_open(struct vm_area_struct *vma);
void evr_vm_close(struct vm_area_struct *vma);
int evr_endpoint_flush(struct file *file, fl_owner_t id);
int evr_endpoint_release(struct inode *inode, struct file *file);
void evr_endpoint_occupy(struct evr_endpoint *ep, struct evering_port *port);
void evr_endpoint_close(struct evr_endpoint *ep);
void evr_channel_settle(struct evr_channel *channel, bool now);

/* endpoint.c */
extern const struct file_operations evr_endpoint_fops;

/* mmap.c */
int evr_vma_init(struct vm_area_struct *vma, unsigned long forbidden);
int evr_mmap(struct file *file, struct vm_area_struct *vma);

/* group.c */
int evr_group_create(struct file *file, void *arg, void __user *uarg);
void evr_group_mark(struct evr_group *group, u32 index, int flags);
int evr_group_look(struct evr_waiters *waiters, u32 bells);
int evr_group_leave(struct evr_endpoint *ep, const struct evr_group *from);

/* doorbell.c */
__poll_t evr_poll_wait(struct file *file, struct evr_waiters *waiters,
		       poll_table *table);
void evr_wake(struct evr_waiters *waiters, u32 bell, int flags);
void evr_tell(struct evr_endpoint *to, int flags);
u32 evr_ring(struct evr_endpoint *to, u32 bells, int flags);
u32 evr_hand_over(struct evr_endpoint *ep, u32 bells, bool may);
void evr_hang_up(struct evr_endpoint *to, __poll_t events);
u32 evr_rung(const struct evr_endpoint *ep, u32 bells);
int evr_sleep(struct evr_waiters *waiters, u32 bells,
	      int (*look)(struct evr_waiters *waiters, u32 bells),
	      const struct evering_enter *enter, bool nonblock);
int evr_enter_interrupted(struct evering_enter __user *uarg,
			  const struct evering_enter *enter, u32 rang, int ret);
long evr_enter(struct file *file, struct evering_enter __user *uarg);

/* port.c */
void evr_port_rung(struct evr_endpoint *to, bool here);

/* quota.c */
int evr_quota_charge(struct evr_account *account, s64 bytes, u64 most);
void evr_quota_orphan(struct evr_channel *channel);
void evr_quota_move(struct evr_channel *channel, const struct cred *cred);
void evr_quota_uncharge(struct evr_account *account);
void evr_quota_info(struct evering_info *info);

#endif /* EVERING_KMOD_H */
