// SPDX-License-Identifier: GPL-2.0-only
/*
 * mmap.c: which endpoint may map which region and how, and how pages get there.
 *
 * A region is mapped whole and stays whole: it can be moved and unmapped but not
 * split, grown or copied.  So there is one vma for each mapping, and when their count
 * drops to zero the endpoint's process has gone, however it went.
 */
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sizes.h>

#include "evering_kmod.h"

/* A fault maps this many pages, aligned, as faults on files do by default. */
#define EVR_FAULT_AROUND	max(1UL, SZ_64K / PAGE_SIZE)

#define EVR_REGION_SHIFT	(EVERING_MMAP_SHIFT - PAGE_SHIFT)

/* From VM_WRITE to VM_MAYWRITE and so on. */
#define EVR_MAY_SHIFT		ilog2(VM_MAYWRITE / VM_WRITE)

static int evr_vm_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

static struct evr_region *evr_vma_region(const struct vm_area_struct *vma)
{
	struct evr_endpoint *ep = vma->vm_file->private_data;

	return &ep->channel->region[vma->vm_pgoff >> EVR_REGION_SHIFT];
}

/* Maps the page at @index and those around it. */
static int evr_insert(struct vm_area_struct *vma, unsigned long index)
{
	struct evr_region *region = evr_vma_region(vma);
	unsigned long first = round_down(index, EVR_FAULT_AROUND);
	unsigned long nr = min(EVR_FAULT_AROUND,
			       smp_load_acquire(&region->there) - first); /* fill */
	unsigned long i;

	/* Failed memory is not mapped: the caller goes page by page then. */
	for (i = first; i < first + nr; i++)
		if (PageHWPoison(region->pages[i]))
			return -EHWPOISON;
	return vm_insert_pages(vma, vma->vm_start + first * PAGE_SIZE,
			       &region->pages[first], &nr);
}

static vm_fault_t evr_vm_fault(struct vm_fault *vmf)
{
	struct evr_region *region = evr_vma_region(vmf->vma);
	unsigned long index = vmf->pgoff - vmf->vma->vm_pgoff;
	int ret;

	/* Acquire: as in evr_insert().  It only goes up while anybody maps the region. */
	if (index >= smp_load_acquire(&region->there))
		return VM_FAULT_SIGBUS;
	ret = evr_insert(vmf->vma, index);
	if (!ret)
		return VM_FAULT_NOPAGE;
	if (ret == -ENOMEM)
		return VM_FAULT_OOM;
	if (PageHWPoison(region->pages[index]))
		return VM_FAULT_HWPOISON;
	/* Some pages are mapped already: return one, and let the core map it. */
	vmf->page = region->pages[index];
	get_page(vmf->page);
	return 0;
}

/*
 * Does nothing: evr_vm_fault() maps what is around a page.  But the kernel takes no
 * mmap_lock for faults of a mapping that has this function.
 */
static vm_fault_t evr_vm_map_pages(struct vm_fault *vmf, pgoff_t first,
				   pgoff_t last)
{
	return 0;
}

static const struct vm_operations_struct evr_vm_ops = {
	.open = evr_vm_open,
	.close = evr_vm_close,
	.may_split = evr_vm_may_split,
	.fault = evr_vm_fault,
	.map_pages = evr_vm_map_pages,
};

static bool evr_may_write(const struct evr_endpoint *ep, unsigned int region)
{
	if (region >= EVERING_REGION_ARENA_A &&
	    ep->channel->geometry.flags & EVERING_SHARED_ARENA)
		return true;
	return region == EVERING_REGION_HALF(evr_end(ep)) ||
	       region == EVERING_REGION_ARENA(evr_end(ep));
}

/* Prepares a mapping of our pages.  It cannot be made executable later. */
int evr_vma_init(struct vm_area_struct *vma, unsigned long forbidden)
{
	/* READ_IMPLIES_EXEC adds what the caller has not asked for; it is removed. */
	if (current->personality & READ_IMPLIES_EXEC)
		evr_vm_flags_mod(vma, 0, VM_EXEC);
	if (vma->vm_flags & forbidden)
		return -EACCES;
	/* VM_MIXEDMAP: vm_insert_pages() in a fault could not set it any more. */
	evr_vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP |
			 VM_MIXEDMAP, forbidden << EVR_MAY_SHIFT);
	vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);
	return 0;
}

int evr_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct evr_endpoint *ep = file->private_data;
	unsigned long index = vma->vm_pgoff >> EVR_REGION_SHIFT;
	unsigned long forbidden = VM_EXEC;
	struct evr_region *region;
	bool writes;
	int ret;

	if (index >= EVERING_REGIONS ||
	    vma->vm_pgoff != EVERING_MMAP_OFFSET(index) >> PAGE_SHIFT)
		return -EINVAL;
	index = array_index_nospec(index, EVERING_REGIONS);
	region = &ep->channel->region[index];
	if (READ_ONCE(ep->channel->over))
		return -ESTALE;
	if (vma_pages(vma) != region->max || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	writes = evr_may_write(ep, index);
	if (!writes)
		forbidden |= VM_WRITE;
	ret = evr_vma_init(vma, forbidden) ?: evr_endpoint_map(ep, vma, writes);
	if (ret)
		return ret;
	vma->vm_ops = &evr_vm_ops;
	/* Every process touches these at once.  An arena is mapped by faults. */
	if (index < EVERING_REGION_ARENA_A)
		ret = evr_insert(vma, 0);
	if (ret && ret != -EHWPOISON) { /* an access to such a page is SIGBUS */
		evr_vm_close(vma);
		return ret;
	}
	if (index == EVERING_REGION_HALF(evr_end(ep)))
		evr_endpoint_attach(ep, vma);
	return 0;
}
