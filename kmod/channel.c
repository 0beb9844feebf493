// SPDX-License-Identifier: GPL-2.0-only
/*
 * channel.c: a channel from its creation to its end: geometry and pages.
 *
 * quota.c has the quotas, mmap.c maps the pages, life.c has the states of the endpoints.
 *
 * Why the pages are the module's own, and neither shmem's nor huge
 * ----------------------------------------------------------------
 *
 * All pages are there when CREATE returns or, if an arena grows, when GROW returns.  So no
 * access can fail later, and no message is slower because a page is missing.  A fault that
 * allocates would be less code, but it can only kill where GROW returns an errno.  An idle
 * channel of the library's default sizes, with arenas of 1 MiB, costs its memory cgroup
 * 44,362 bytes a side (measured with Linux 6.12), and without GROW more than 1 MiB.
 *
 * The pages come in blocks, and follow the memory policy of the caller; they cannot be
 * swapped or migrated.  A shmem file for each arena was considered.  Once its pages are
 * mapped a message costs the same.  But:
 *
 *	Time.  All pages of two arenas of 1 MiB at once cost 2,980,000 guest
 *	instructions with shmem, and 860,000 with these pages (counted with Linux 6.12).
 *	Only lazy allocation costs less, 262,000, and an access to such an arena may end
 *	in SIGBUS.
 *	Trust.  The mapping would be shmem's: MADV_REMOVE by one side would take pages
 *	from under the other side, which would get SIGBUS if there is no memory to fill
 *	the hole.  F_SEAL_* cannot be set from here (memfd_fcntl() is not exported).
 *	Quota.  Such a mapping holds the shmem file and not ours: memory would live on,
 *	uncounted, after both endpoints are closed.
 *
 * vm_operations of our own above a shmem file would avoid all that.  But then reverse
 * mapping does not find the pages in our mappings, and they cannot be migrated or swapped
 * either.  A huge page table entry (->huge_fault) needs vmf_insert_folio_pmd() and compound
 * pages; vmf_insert_pfn_pmd() makes memory that O_DIRECT cannot use.  So a fault maps
 * 64 KiB, and takes no mmap_lock where the kernel has a lock for each vma (->map_pages,
 * mmap.c).
 *
 * A page whose memory has failed is not mapped from then on, and an access to it is SIGBUS.
 * Where it was mapped before, it stays mapped, since nothing finds that mapping.  The
 * machine check that the next access raises kills the process.
 */
#include <linux/log2.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "evering_kmod.h"
#include "trace.h"

/* Blocks of 2 MiB, then of 64 KiB, then single pages. */
#define EVR_LARGE_ORDER		ilog2(SZ_2M / PAGE_SIZE)
#define EVR_MEDIUM_ORDER	min(4, EVR_LARGE_ORDER)
/* So many pages are freed before other tasks may run. */
#define EVR_BATCH		64
/* A channel's id has 48 bits: short enough to read, long enough not to collide. */
#define EVR_ID_SHIFT		16

static int evr_check_geometry(const struct evering_geometry *g, const u64 begin[2])
{
	u64 arenas = g->arena_size[EVERING_A] | g->arena_size[EVERING_B];

	if (g->flags & ~EVERING_GEOMETRY_FLAGS || g->reserved)
		return -EINVAL;
	if (g->slot_size > EVERING_MAX_SLOT ||
	    g->entries > EVERING_MAX_ENTRIES ||
	    g->arena_size[EVERING_A] > EVERING_MAX_ARENA ||
	    g->arena_size[EVERING_B] > EVERING_MAX_ARENA)
		return -E2BIG;
	if (g->slot_size < EVERING_MIN_SLOT || !is_power_of_2(g->slot_size) ||
	    g->entries < EVERING_MIN_ENTRIES || !is_power_of_2(g->entries) ||
	    arenas % EVERING_ARENA_ALIGN || arenas % PAGE_SIZE ||
	    (begin[0] | begin[1]) % PAGE_SIZE ||
	    begin[0] > g->arena_size[0] || begin[1] > g->arena_size[1])
		return -EINVAL;
	return 0;
}

static u64 evr_half_size(const struct evering_geometry *g)
{
	return PAGE_ALIGN(EVERING_SLOTS_OFFSET + g->slot_size * g->entries);
}

/*
 * Adds a zeroed block of at most @want pages and 2^@order pages; lowers @order if there is
 * none of that size.  The OOM killer is never invoked: it would not find the process that
 * holds these pages.
 *
 * The pages of a block are contiguous but not compound.  madvise(MADV_PAGEOUT) takes a
 * compound page in a mapping for a huge page, and would split it.
 */
static int evr_region_add(struct evr_region *region, unsigned long want,
			  unsigned int *order)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
	unsigned int fits = min_t(unsigned int, *order, ilog2(want));
	struct page *page;
	unsigned long i;

	page = alloc_pages(gfp | (fits ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL),
			   fits);
	if (!page) {
		*order = fits > EVR_MEDIUM_ORDER ? EVR_MEDIUM_ORDER : 0;
		return fits ? 0 : -ENOMEM;
	}
	if (fits)
		split_page(page, fits);
	region->order = max(region->order, fits);
	for (i = 0; i < 1UL << fits; i++)
		region->pages[region->nr++] = page + i;
	return 0;
}

/* Allocates pages up to @nr.  On error some may be allocated, but none can be mapped. */
static int evr_region_fill(struct evr_region *region, unsigned long nr)
{
	unsigned int order = EVR_LARGE_ORDER;
	int ret;

	while (region->nr < nr) {
		/* Up to 64 GiB: let other tasks run, and let this one be killed. */
		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
		ret = evr_region_add(region, nr - region->nr, &order);
		if (ret)
			return ret;
	}
	smp_store_release(&region->there, nr); /* a fault that sees @nr sees the pages */
	return 0;
}

static int evr_region_alloc(struct evr_region *region, u64 size, u64 begin)
{
	if (!size)
		return 0;
	region->max = size >> PAGE_SHIFT;
	region->pages = kvmalloc_array(region->max, sizeof(*region->pages),
				       EVR_GFP);
	return region->pages ? evr_region_fill(region, begin >> PAGE_SHIFT) :
			       -ENOMEM;
}

/* Frees all pages but the first @keep. */
static void evr_region_shrink(struct evr_region *region, unsigned long keep)
{
	while (region->nr > keep) {
		/* A page that is still used for I/O is freed when that is done. */
		put_page(region->pages[--region->nr]);
		if (!(region->nr % EVR_BATCH))
			cond_resched();
	}
}

/*
 * Frees what is useless once nobody can map it any more.  The first page of each half stays:
 * system calls on the endpoint that is left look at it.
 */
void evr_channel_shrink(struct evr_channel *channel)
{
	struct evr_region *region;
	int i;

	for (i = EVERING_REGION_HALF_A; i < EVERING_REGIONS; i++) {
		region = &channel->region[i];
		evr_region_shrink(region, i < EVERING_REGION_ARENA_A);
		if (region->nr)
			continue;
		/* From here on nobody pays for the pointers either. */
		WRITE_ONCE(region->there, 0);
		kvfree(region->pages);
		region->pages = NULL;
	}
	evr_quota_uncharge(&channel->account);
}

/* Every channel ends here, also one that was made in part only. */
static void evr_channel_free(struct evr_channel *channel)
{
	int i;

	for (i = 0; i < EVERING_REGIONS; i++) {
		evr_region_shrink(&channel->region[i], 0);
		kvfree(channel->region[i].pages);
	}
	for (i = 0; i < 2; i++) {
		struct evr_endpoint *ep = &channel->end[i];

		if (ep->eventfd)
			eventfd_ctx_put(ep->eventfd);
		put_pid(ep->pid);
		put_cred(ep->cred);
	}
	evr_quota_uncharge(&channel->account);
	kfree(channel);
}

void evr_channel_put(struct evr_channel *channel)
{
	if (refcount_dec_and_test(&channel->refs))
		evr_channel_free(channel);
}

static int evr_channel_alloc(struct evr_channel *channel, const u64 begin[2])
{
	const struct evering_geometry *g = &channel->geometry;
	u64 half = evr_half_size(g);
	u64 size[EVERING_REGIONS] = { PAGE_SIZE, half, half, g->arena_size[0],
				      g->arena_size[1] };
	u64 there[EVERING_REGIONS] = { PAGE_SIZE, half, half, begin[0], begin[1] };
	u64 later = size[3] - begin[0] + size[4] - begin[1];
	u64 most = PAGE_SIZE + 2 * half + size[3] + size[4];
	int i, ret;

	/* Pages that come later are charged then; the pointers to them are charged now. */
	ret = evr_quota_charge(&channel->account, most - later + (later >> PAGE_SHIFT) *
			       sizeof(struct page *), most);
	for (i = 0; !ret && i < EVERING_REGIONS; i++)
		ret = evr_region_alloc(&channel->region[i], size[i], there[i]);
	return ret;
}

/* The kernel's mapping of a region's first page; it touches no other. */
static void *evr_region_address(struct evr_channel *channel, int region)
{
	return page_address(channel->region[region].pages[0]);
}

static void evr_channel_init(struct evr_channel *channel)
{
	struct evering_status *status;
	int i;

	/* A counter would reveal how many channels other users make. */
	channel->id = get_random_u64() >> EVR_ID_SHIFT;
	status = evr_region_address(channel, EVERING_REGION_STATUS);
	status->magic = EVERING_MAGIC;
	status->abi = EVERING_ABI_VERSION;
	status->size = sizeof(*status);
	status->geometry = channel->geometry;
	status->half_size = evr_half_size(&channel->geometry);
	for (i = 0; i < 2; i++) {
		struct evr_endpoint *ep = &channel->end[i];

		status->arena_there[i] = (u64)channel->region[EVERING_REGION_ARENA(i)]
						 .there << PAGE_SHIFT;
		ep->channel = channel;
		ep->peer = &channel->end[!i];
		ep->status = &status->end[i];
		ep->half = evr_region_address(channel, EVERING_REGION_HALF(i));
		init_waitqueue_head(&ep->waiters.queue);
		INIT_LIST_HEAD(&ep->waiters.line);
		INIT_LIST_HEAD(&ep->maps);
	}
}

/* Makes a channel, charged to the caller, with its pages and one reference. */
struct evr_channel *evr_channel_create(const struct evering_create *create)
{
	struct evr_channel *channel;
	int ret;

	ret = evr_check_geometry(&create->geometry, create->arena_begin);
	if (ret)
		return ERR_PTR(ret);
	channel = kzalloc(sizeof(*channel), EVR_GFP);
	if (!channel)
		return ERR_PTR(-ENOMEM);
	refcount_set(&channel->refs, 1);
	spin_lock_init(&channel->lock);
	INIT_LIST_HEAD(&channel->account.orphan);
	channel->geometry = create->geometry;
	ret = evr_channel_alloc(channel, create->arena_begin);
	if (ret) {
		evr_channel_put(channel);
		return ERR_PTR(ret);
	}
	evr_channel_init(channel);
	trace_evr_create(channel);
	return channel;
}

/* EVERING_IOC_GROW.  While it runs the channel is no orphan whose pages could go. */
int evr_channel_grow(struct file *file, void *arg, void __user *uarg)
{
	u64 size = ((const struct evering_grow *)arg)->there;
	struct evr_endpoint *ep = file->private_data;
	struct evr_channel *channel = ep->channel;
	unsigned int end = evr_end(ep);
	struct evr_region *region = &channel->region[EVERING_REGION_ARENA(end)];
	struct evering_status *status =
		evr_region_address(channel, EVERING_REGION_STATUS);
	unsigned long had;
	int ret = 0;

	if (size % PAGE_SIZE || size > channel->geometry.arena_size[end])
		return -EINVAL;
	spin_lock_bh(&channel->lock);
	if (channel->over)
		ret = -ESTALE;
	else if (ep->growing || (ep->named && ep->pid != task_tgid(current)))
		ret = -EBUSY;
	else
		ep->growing = true;
	spin_unlock_bh(&channel->lock);
	if (ret)
		return ret;
	had = region->nr;
	size = max(size, (u64)had << PAGE_SHIFT) - ((u64)had << PAGE_SHIFT);
	ret = evr_quota_charge(&channel->account, size, 0);
	if (!ret) {
		ret = evr_region_fill(region, had + (size >> PAGE_SHIFT));
		if (ret) {
			evr_region_shrink(region, had);
			evr_quota_charge(&channel->account, -size, 0);
		}
		/* Release: a process that reads this and then faults finds the pages. */
		smp_store_release(&status->arena_there[end],
				  (u64)region->nr << PAGE_SHIFT);
	}
	spin_lock_bh(&channel->lock); /* the next caller sees the pages */
	ep->growing = false;
	spin_unlock_bh(&channel->lock);
	evr_channel_settle(channel, false);
	return ret;
}
