// SPDX-License-Identifier: MIT
/*
 * Arms: what a channel is made of, made and taken apart without the library: what
 * the kernel itself takes.  One process has both ends; the halves have as many bytes
 * as the library's, and each end maps all five regions.
 *
 * device: CREATE, whose pages are there at once.  memfd: a file for each region and
 * four eventfds, pages when they are touched, which they are not; memfd-whole: with
 * all pages allocated, as the library has it so that nothing ends in SIGBUS.
 */
#include <fcntl.h>
#include <linux/evering.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#define SLOT 64u

static size_t region_size(const struct job *job, unsigned int region)
{
	if (region == EVERING_REGION_STATUS)
		return whole_pages(1);
	if (region >= EVERING_REGION_ARENA_A)
		return whole_pages(job->size);
	return whole_pages(EVERING_SLOTS_OFFSET + (size_t)SLOT * RING_ENTRIES);
}

static bool owns(unsigned int end, unsigned int region)
{
	return region == EVERING_REGION_HALF(end) ||
	       region == EVERING_REGION_ARENA(end);
}

static void *map(struct side *s, unsigned int end, unsigned int region, int fd,
		 off_t at)
{
	void *p = mmap(NULL, region_size(s->job, region),
		       PROT_READ | (owns(end, region) ? PROT_WRITE : 0),
		       MAP_SHARED, fd, at);

	if (p == MAP_FAILED)
		fail(s, "mmap of region %u: %m", region);
	return p;
}

static void unmap(struct side *s, void *maps[2][EVERING_REGIONS])
{
	unsigned int end, region;

	for (end = 0; end < 2; end++)
		for (region = 0; region < EVERING_REGIONS; region++)
			munmap(maps[end][region], region_size(s->job, region));
}

static void device_channel(struct side *s)
{
	struct evering_create create = {
		.size = sizeof(create),
		.geometry = {
			.slot_size = SLOT,
			.entries = RING_ENTRIES,
			.arena_size = { whole_pages(s->job->size),
					whole_pages(s->job->size) },
		},
	};
	void *maps[2][EVERING_REGIONS];
	unsigned int end, region;
	int fd = open("/dev/evering", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, EVERING_IOC_CREATE, &create))
		fail(s, "CREATE: %m");
	close(fd);
	for (end = 0; end < 2; end++)
		for (region = 0; region < EVERING_REGIONS; region++)
			maps[end][region] =
				map(s, end, region, create.fd[end],
				    (off_t)EVERING_MMAP_OFFSET(region));
	unmap(s, maps);
	close(create.fd[0]);
	close(create.fd[1]);
}

static void memfd_channel(struct side *s, bool whole)
{
	void *maps[2][EVERING_REGIONS];
	unsigned int end, region;
	int bells[4], fd, i;

	for (region = 0; region < EVERING_REGIONS; region++) {
		off_t size = (off_t)region_size(s->job, region);

		fd = memfd_create("bench", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, size) ||
		    (whole && fallocate(fd, 0, 0, size)))
			fail(s, "memfd: %m");
		for (end = 0; end < 2; end++)
			maps[end][region] = map(s, end, region, fd, 0);
		close(fd);
	}
	for (i = 0; i < 4; i++) {
		bells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (bells[i] < 0)
			fail(s, "eventfd: %m");
	}
	unmap(s, maps);
	for (i = 0; i < 4; i++)
		close(bells[i]);
}

enum variant {
	DEVICE,
	MEMFD,
	MEMFD_WHOLE
};

static void work(struct side *s, uint64_t ops)
{
	for (s->done += ops; ops && !s->server; ops--) {
		if (s->arm->variant == DEVICE)
			device_channel(s);
		else
			memfd_channel(s, s->arm->variant == MEMFD_WHOLE);
	}
}

static void nothing(struct side *s)
{
	(void)s;
}

#define CHANNELS                                                               \
	{                                                                      \
		[MODE_CHANNEL] = ONLY(EVERING_BLOCK)                           \
	}

const struct arm device_bare_arm = {
	.name = "device",
	.modes = CHANNELS,
	.variant = DEVICE,
	.missing = device_missing,
	.open = nothing,
	.work = work,
	.close = nothing,
};

const struct arm memfd_bare_arm = {
	.name = "memfd",
	.modes = CHANNELS,
	.variant = MEMFD,
	.open = nothing,
	.work = work,
	.close = nothing,
};

const struct arm memfd_whole_arm = {
	.name = "memfd-whole",
	.modes = CHANNELS,
	.variant = MEMFD_WHOLE,
	.open = nothing,
	.work = work,
	.close = nothing,
};
