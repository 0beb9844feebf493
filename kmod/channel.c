// SPDX-License-Identifier: GPL-2.0-only
/*
 * channel.c: a channel from its making to its end: geometry, pages, and the states
 * of its endpoints.
 *
 * Quotas are quota.c's, mapping the pages is mmap.c's, waking whoever waits for a
 * state is doorbell.c's.
 */
#include <linux/eventpoll.h>
#include <linux/log2.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "evering_kmod.h"
#include "trace.h"

/* Blocks of 2 MiB, then of 64 KiB, then single pages. */
#define EVR_LARGE_ORDER		ilog2(SZ_2M / PAGE_SIZE)
#define EVR_MEDIUM_ORDER	min(4, EVR_LARGE_ORDER)

static int evr_check_geometry(const struct evering_geometry *g)
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
	    arenas % EVERING_ARENA_ALIGN || arenas % PAGE_SIZE)
		return -EINVAL;
	return 0;
}

static u64 evr_half_size(const struct evering_geometry *g)
{
	return PAGE_ALIGN(EVERING_SLOTS_OFFSET + g->slot_size * g->entries);
}

/*
 * Adds a zeroed block of at most @want pages and 2^@order; lowers @order if it must.
 * No page is worth the OOM killer, which would not find who holds these.
 *
 * Blocks lie together but are no compound pages: madvise(MADV_PAGEOUT) takes any
 * that it meets in a mapping for a huge page and would split it.
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

static int evr_region_alloc(struct evr_region *region, u64 size)
{
	unsigned int order = EVR_LARGE_ORDER;
	unsigned long nr = size >> PAGE_SHIFT;
	int ret;

	if (!nr)
		return 0;
	region->pages = kvmalloc_array(nr, sizeof(*region->pages),
				       GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!region->pages)
		return -ENOMEM;
	while (region->nr < nr) {
		/* Up to 64 GiB: let others run, and let it be killed. */
		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
		ret = evr_region_add(region, nr - region->nr, &order);
		if (ret)
			return ret;
	}
	return 0;
}

static void evr_region_free(struct evr_region *region)
{
	unsigned long i;

	for (i = 0; i < region->nr; i++) {
		/* Somebody may still do I/O on it, and frees it when done. */
		put_page(region->pages[i]);
		cond_resched();
	}
	kvfree(region->pages);
}

/* The only way that a channel goes, whole or half made. */
static void evr_channel_free(struct evr_channel *channel)
{
	int i;

	for (i = 0; i < EVERING_REGIONS; i++)
		evr_region_free(&channel->region[i]);
	for (i = 0; i < 2; i++) {
		struct evr_endpoint *ep = &channel->end[i];

		if (ep->eventfd)
			eventfd_ctx_put(ep->eventfd);
		put_pid(ep->pid);
		put_cred(ep->cred);
	}
	evr_quota_uncharge(channel);
	kfree(channel);
}

void evr_channel_put(struct evr_channel *channel)
{
	if (refcount_dec_and_test(&channel->refs))
		evr_channel_free(channel);
}

static int evr_channel_alloc(struct evr_channel *channel)
{
	const struct evering_geometry *g = &channel->geometry;
	u64 half = evr_half_size(g);
	u64 size[EVERING_REGIONS] = { PAGE_SIZE, half, half, g->arena_size[0],
				      g->arena_size[1] };
	int i, ret;

	ret = evr_quota_charge(channel, PAGE_SIZE + 2 * half +
			       g->arena_size[0] + g->arena_size[1]);
	for (i = 0; !ret && i < EVERING_REGIONS; i++)
		ret = evr_region_alloc(&channel->region[i], size[i]);
	return ret;
}

/* The kernel's mapping of a region's first page, which is all that it touches. */
static void *evr_region_address(struct evr_channel *channel, int region)
{
	return page_address(channel->region[region].pages[0]);
}

static void evr_channel_init(struct evr_channel *channel)
{
	static atomic64_t evr_last_id;
	struct evering_status *status;
	int i;

	channel->id = atomic64_inc_return(&evr_last_id);
	status = evr_region_address(channel, EVERING_REGION_STATUS);
	status->magic = EVERING_MAGIC;
	status->abi = EVERING_ABI_VERSION;
	status->size = sizeof(*status);
	status->geometry = channel->geometry;
	status->half_size = evr_half_size(&channel->geometry);
	for (i = 0; i < 2; i++) {
		struct evr_endpoint *ep = &channel->end[i];

		ep->channel = channel;
		ep->peer = &channel->end[!i];
		ep->status = &status->end[i];
		ep->half = evr_region_address(channel, EVERING_REGION_HALF(i));
		init_waitqueue_head(&ep->wait);
	}
}

/* Makes a channel, charged to the caller, with all its pages and one reference. */
struct evr_channel *evr_channel_create(const struct evering_geometry *geometry)
{
	struct evr_channel *channel;
	int ret;

	ret = evr_check_geometry(geometry);
	if (ret)
		return ERR_PTR(ret);
	channel = kzalloc(sizeof(*channel), GFP_KERNEL_ACCOUNT);
	if (!channel)
		return ERR_PTR(-ENOMEM);
	refcount_set(&channel->refs, 1);
	spin_lock_init(&channel->lock);
	channel->geometry = *geometry;
	ret = evr_channel_alloc(channel);
	if (ret) {
		evr_channel_put(channel);
		return ERR_PTR(ret);
	}
	evr_channel_init(channel);
	trace_evr_create(channel);
	return channel;
}

/*
 * Release pairs with the acquire of whoever reads STATUS: who sees a state sees its
 * epoch, and whatever the endpoint had written when it left it.
 */
static void evr_set_state(struct evr_endpoint *ep, u32 state)
{
	lockdep_assert_held(&ep->channel->lock);
	WRITE_ONCE(ep->state, state);
	smp_store_release(&ep->status->state, state); /* as told above */
}

/* Leaves a state in which it could answer, and signals the peer's eventfd. */
static void evr_leave(struct evr_endpoint *ep, u32 state)
{
	evr_set_state(ep, state);
	if (ep->peer->eventfd)
		evr_eventfd_signal(ep->peer->eventfd);
	trace_evr_detach(ep);
}

/*
 * A region was mapped through @ep: its own half, by the current process, if
 * @attach; else any, perhaps because the mapping was copied or moved.
 */
void evr_endpoint_mapped(struct evr_endpoint *ep, bool attach)
{
	spin_lock(&ep->channel->lock);
	ep->vmas++;
	if (attach && ep->state != EVERING_STATE_ATTACHED) {
		if (!ep->pid) {
			ep->pid = get_pid(task_tgid(current));
			ep->cred = get_current_cred();
		}
		WRITE_ONCE(ep->status->epoch, ep->status->epoch + 1);
		evr_set_state(ep, EVERING_STATE_ATTACHED);
		trace_evr_attach(ep);
	}
	spin_unlock(&ep->channel->lock);
}

/* A mapping is gone; perhaps the last, perhaps after its process. */
void evr_endpoint_unmapped(struct evr_endpoint *ep)
{
	bool detached = false;

	spin_lock(&ep->channel->lock);
	if (!--ep->vmas && ep->state == EVERING_STATE_ATTACHED) {
		evr_leave(ep, EVERING_STATE_DETACHED);
		detached = true;
	}
	spin_unlock(&ep->channel->lock);
	if (detached)
		evr_hang_up(ep->peer, EPOLLIN | EPOLLRDNORM | EPOLLRDHUP);
}

/* Its file is gone, and so are its mappings, which held the file. */
void evr_endpoint_close(struct evr_endpoint *ep)
{
	spin_lock(&ep->channel->lock);
	evr_leave(ep, EVERING_STATE_CLOSED);
	spin_unlock(&ep->channel->lock);
	evr_hang_up(ep->peer,
		    EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | EPOLLHUP);
}
