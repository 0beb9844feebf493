// SPDX-License-Identifier: MIT
/*
 * dev_mmap.c: what a process can and cannot do to the regions of /dev/evering
 * with mmap, mprotect, mremap, munmap, madvise and fork: every row of the table
 * in the kernel notes.  Whatever is refused leaves the mapping as it was, and
 * no detour detaches an endpoint whose half is still mapped.
 */
#include "dev.h"

#include <sys/personality.h>

#include <linux/futex.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define RW (PROT_READ | PROT_WRITE)

static const struct evering_geometry shared_geometry = {
	.slot_size = 64,
	.entries = 64,
	.arena_size = { 65536, 65536 },
	.flags = EVERING_SHARED_ARENA,
};

/* Large enough for a block of 2 MiB, with an odd rest, and one of a page: in pages. */
static struct evering_geometry large_geometry = {
	.slot_size = 64,
	.entries = 64,
	.arena_size = { 5, 1 },
};

static void __attribute__((constructor)) in_pages(void)
{
	const uint64_t page = PAGE;

	large_geometry.arena_size[0] = (4 << 20) + 5 * page;
	large_geometry.arena_size[1] = page;
}

FIXTURE(regions)
{
	const struct evering_geometry *g;
	int dev;
	int fd[2];
	/* Mapped by B, so that A's states are not disturbed. */
	struct evering_status *status;
};

FIXTURE_VARIANT(regions)
{
	const struct evering_geometry *g;
};

FIXTURE_VARIANT_ADD(regions, own_arenas){
	.g = &small_geometry,
};

FIXTURE_VARIANT_ADD(regions, shared_arenas){
	.g = &shared_geometry,
};

FIXTURE_VARIANT_ADD(regions, large_arena){
	.g = &large_geometry,
};

#define FRESH_CHANNEL()                                                      \
	do {                                                                 \
		ASSERT_EQ(0, dev_pair(self->dev, self->g, self->fd));        \
		self->status = map_region(self->g, self->fd[1],              \
					  EVERING_REGION_STATUS, PROT_READ); \
		ASSERT_NE(MAP_FAILED, (void *)self->status);                 \
	} while (0)

FIXTURE_SETUP(regions)
{
	REQUIRE_DEVICE(self->dev);
	self->g = variant->g;
	FRESH_CHANNEL();
}

FIXTURE_TEARDOWN(regions)
{
}

/* Own half of A, as most of the table is about one mapping. */
#define MAP_A_HALF(p)                                                         \
	do {                                                                  \
		(p) = map_region(self->g, self->fd[0], EVERING_REGION_HALF_A, \
				 RW);                                         \
		ASSERT_NE(MAP_FAILED, (void *)(p));                           \
	} while (0)

#define EXPECT_A(what) \
	EXPECT_EQ(EVERING_STATE_##what, state_of(self->status, EVERING_A))

/* Fills every page of a region with what is_filled() wants to see. */
static void fill(void *p, size_t len, uint32_t salt)
{
	size_t i;

	for (i = 0; i < len; i += PAGE)
		*(uint32_t *)((char *)p + i + 1024) = (uint32_t)i ^ salt;
}

static bool is_filled(const void *p, size_t len, uint32_t salt)
{
	size_t i;

	for (i = 0; i < len; i += PAGE)
		if (*(volatile uint32_t *)((char *)p + i + 1024) !=
		    ((uint32_t)i ^ salt))
			return false;
	return true;
}

/* ------------------------------------------------------------------- rights */

TEST_F(regions, each_maps_with_the_rights_of_its_side)
{
	int end, region, prot;

	for (end = 0; end < 2; end++) {
		for (region = 0; region < EVERING_REGIONS; region++) {
			size_t len = region_size(self->g, region);
			uint64_t at = EVERING_MMAP_OFFSET(region);

			for (prot = 0; prot < 8; prot++) {
				int ret = try_map(len, prot, MAP_SHARED,
						  self->fd[end], at);
				bool refused = prot & PROT_EXEC;

				if (prot & PROT_WRITE &&
				    !may_write(self->g, end, region))
					refused = true;
				if (!refused) {
					EXPECT_EQ(0, ret);
				} else if (prot & PROT_EXEC) {
					EXPECT_TRUE(is_no_exec(ret));
				} else {
					EXPECT_EQ(-EACCES, ret);
				}
			}
		}
	}
}

TEST_F(regions, private_mappings_are_refused)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		size_t len = region_size(self->g, region);
		uint64_t at = EVERING_MMAP_OFFSET(region);

		EXPECT_EQ(-EINVAL, try_map(len, PROT_READ, MAP_PRIVATE,
					   self->fd[0], at));
		EXPECT_EQ(-EINVAL,
			  try_map(len, RW, MAP_PRIVATE, self->fd[0], at));
	}
	EXPECT_A(NEW);
}

TEST_F(regions, wrong_lengths_are_refused)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		size_t len = region_size(self->g, region);
		uint64_t at = EVERING_MMAP_OFFSET(region);
		int fd = self->fd[0];

		EXPECT_EQ(-EINVAL,
			  try_map(len + PAGE, PROT_READ, MAP_SHARED, fd, at));
		EXPECT_EQ(-EINVAL,
			  try_map(len + 1, PROT_READ, MAP_SHARED, fd, at));
		EXPECT_EQ(-EINVAL,
			  try_map(2 * len, PROT_READ, MAP_SHARED, fd, at));
		EXPECT_EQ(-EINVAL, try_map(0, PROT_READ, MAP_SHARED, fd, at));
		if (len > PAGE)
			EXPECT_EQ(-EINVAL, try_map(len - PAGE, PROT_READ,
						   MAP_SHARED, fd, at));
		/* mmap() rounds up to pages before anybody looks. */
		EXPECT_EQ(0, try_map(len - 1, PROT_READ, MAP_SHARED, fd, at));
	}
	EXPECT_EQ(EVERING_STATE_DETACHED, state_of(self->status, EVERING_A));
}

TEST_F(regions, wrong_offsets_are_refused)
{
	static const uint64_t cookies[] = {
		5, 6, 7, 8, 255, 1 << 10, 1 << 22, (1 << 23) - 1
	};
	const uint64_t step = EVERING_MMAP_OFFSET(1);
	int region, fd = self->fd[0];
	size_t i, len;

	for (region = 0; region < EVERING_REGIONS; region++) {
		uint64_t at = EVERING_MMAP_OFFSET(region);

		len = region_size(self->g, region);
		EXPECT_EQ(-EINVAL,
			  try_map(len, PROT_READ, MAP_SHARED, fd, at + PAGE));
		EXPECT_EQ(-EINVAL,
			  try_map(len, PROT_READ, MAP_SHARED, fd, at + len));
		EXPECT_EQ(-EINVAL, try_map(len, PROT_READ, MAP_SHARED, fd,
					   at + step - PAGE));
		EXPECT_EQ(-EINVAL, try_map(len, PROT_READ, MAP_SHARED, fd,
					   at + step / 2));
	}
	for (i = 0; i < ARRAY_SIZE(cookies); i++) {
		int ret = try_map(PAGE, PROT_READ, MAP_SHARED, fd,
				  cookies[i] << EVERING_MMAP_SHIFT);

		/* Beyond what mmap() takes for any file it says EOVERFLOW. */
		if (ret != -EOVERFLOW)
			EXPECT_EQ(-EINVAL, ret);
	}
	EXPECT_A(NEW);
}

TEST_F(regions, an_arena_that_is_not_there_cannot_be_mapped)
{
	int fd[2], region;

	ASSERT_EQ(0, dev_pair(self->dev, &least_geometry, fd));
	for (region = EVERING_REGION_ARENA_A; region < EVERING_REGIONS;
	     region++)
		EXPECT_EQ(-EINVAL, try_map(PAGE, PROT_READ, MAP_SHARED, fd[0],
					   EVERING_MMAP_OFFSET(region)));
}

TEST_F(regions, what_is_not_ones_own_cannot_be_written)
{
	int end, region;

	for (end = 0; end < 2; end++) {
		for (region = 0; region < EVERING_REGIONS; region++) {
			size_t len = region_size(self->g, region);
			bool own = may_write(self->g, end, region);
			char *p = map_region(self->g, self->fd[end], region,
					     own ? RW : PROT_READ);

			ASSERT_NE(MAP_FAILED, (void *)p);
			EXPECT_EQ(0, touch(p, false));
			EXPECT_EQ(0, touch(p + len - 1, false));
			EXPECT_EQ(own ? 0 : SIGSEGV, touch(p, true));
			EXPECT_EQ(own ? 0 : SIGSEGV, touch(p + len - 1, true));
			munmap(p, len);
		}
	}
}

/* Not even by the detour that debuggers take. */
TEST_F(regions, proc_mem_does_not_write_what_is_not_ones_own)
{
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	int region;

	if (mem < 0)
		SKIP(return, "no /proc/self/mem");
	for (region = 0; region < EVERING_REGIONS; region++) {
		bool own = may_write(self->g, EVERING_A, region);
		char *p = map_region(self->g, self->fd[0], region,
				     own ? RW : PROT_READ);
		char before = p[100];

		ASSERT_NE(MAP_FAILED, (void *)p);
		EXPECT_EQ(own ? 1 : -1,
			  pwrite(mem, "Z", 1, (off_t)(uintptr_t)p + 100));
		EXPECT_EQ(own ? 'Z' : before, p[100]);
		munmap(p, region_size(self->g, region));
	}
	close(mem);
}

TEST_F(regions, mprotect_gives_nothing_that_mmap_refused)
{
	int end, region;

	for (end = 0; end < 2; end++) {
		for (region = 0; region < EVERING_REGIONS; region++) {
			size_t len = region_size(self->g, region);
			bool own = may_write(self->g, end, region);
			char *p = map_region(self->g, self->fd[end], region,
					     PROT_READ);

			ASSERT_NE(MAP_FAILED, (void *)p);
			EXPECT_EQ(own ? 0 : -EACCES,
				  or_errno(mprotect(p, len, RW)));
			EXPECT_EQ(own ? 0 : SIGSEGV, touch(p, true));
			EXPECT_EQ(-EACCES,
				  or_errno(mprotect(p, len,
						    PROT_READ | PROT_EXEC)));
			EXPECT_EQ(-EACCES,
				  or_errno(mprotect(p, len, RW | PROT_EXEC)));
			EXPECT_EQ(0, mprotect(p, len, PROT_NONE));
			EXPECT_EQ(SIGSEGV, touch(p, false));
			EXPECT_EQ(0, mprotect(p, len, PROT_READ));
			EXPECT_EQ(0, touch(p, false));
			munmap(p, len);
		}
	}
}

TEST_F(regions, the_kernel_lists_them_as_meant)
{
	char line[512], want[32];
	bool found = false, flags = false;
	char *p;
	FILE *f;

	p = map_region(self->g, self->fd[0], EVERING_REGION_HALF_B, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)p);
	f = fopen("/proc/self/smaps", "re");
	if (!f)
		SKIP(return, "no smaps");
	snprintf(want, sizeof(want), "%lx-", (unsigned long)p);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, want, strlen(want)))
			found = true;
		if (!found || strncmp(line, "VmFlags:", 8))
			continue;
		flags = true;
		EXPECT_NE(NULL, strstr(line, " sh")); /* shared */
		EXPECT_NE(NULL, strstr(line, " de")); /* not expanded */
		EXPECT_NE(NULL, strstr(line, " dc")); /* not copied by fork */
		EXPECT_NE(NULL, strstr(line, " dd")); /* not in core dumps */
		EXPECT_EQ(NULL, strstr(line, " mw")); /* may be written */
		EXPECT_EQ(NULL, strstr(line, " me")); /* may be executed */
		break;
	}
	EXPECT_TRUE(flags);
	fclose(f);
}

/* ----------------------------------------------------------------- contents */

TEST_F(regions, both_sides_see_the_same_memory_and_it_begins_as_zeroes)
{
	int region;
	size_t i;

	for (region = EVERING_REGION_HALF_A; region < EVERING_REGIONS;
	     region++) {
		int owner = region == EVERING_REGION_HALF_B ||
			    region == EVERING_REGION_ARENA_B;
		size_t len = region_size(self->g, region);
		char *w = map_region(self->g, self->fd[owner], region, RW);
		char *r = map_region(self->g, self->fd[!owner], region,
				     PROT_READ);

		ASSERT_NE(MAP_FAILED, (void *)w);
		ASSERT_NE(MAP_FAILED, (void *)r);
		for (i = 0; i < len; i += 8)
			ASSERT_EQ(0, *(uint64_t *)(r + i));
		fill(w, len, (uint32_t)region);
		EXPECT_TRUE(is_filled(r, len, (uint32_t)region));
		if (self->g->flags & EVERING_SHARED_ARENA &&
		    region >= EVERING_REGION_ARENA_A) {
			ASSERT_EQ(0, mprotect(r, len, RW));
			fill(r, len, 77);
			EXPECT_TRUE(is_filled(w, len, 77));
		}
		munmap(w, len);
		munmap(r, len);
	}
}

TEST_F(regions, dontneed_then_touch_brings_the_same_page_back)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		size_t len = region_size(self->g, region);
		bool own = may_write(self->g, EVERING_A, region);
		char *p = map_region(self->g, self->fd[0], region,
				     own ? RW : PROT_READ);
		uint64_t first;

		ASSERT_NE(MAP_FAILED, (void *)p);
		if (own)
			fill(p, len, 5);
		first = *(uint64_t *)p;
		ASSERT_EQ(0, madvise(p, len, MADV_DONTNEED));
		EXPECT_EQ(0, touch(p + len - 1, false));
		EXPECT_EQ(0, touch(p, own));
		EXPECT_EQ(first, *(uint64_t *)p);
		if (own)
			EXPECT_TRUE(is_filled(p, len, 5));
		/* A part, which splits nothing, amid pages that stay. */
		ASSERT_EQ(0, madvise(p + len - PAGE, PAGE, MADV_DONTNEED));
		if (own)
			EXPECT_TRUE(is_filled(p, len, 5));
		munmap(p, len);
	}
}

struct toucher {
	char *p;
	size_t len;
	bool stop;
	uint64_t bad;
};

static void *touch_all(void *arg)
{
	struct toucher *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED))
		if (!is_filled(t->p, t->len, 9))
			t->bad++;
	return NULL;
}

/*
 * Faults on the same pages at the same time: some find others' work half done.
 */
TEST_F(regions, threads_may_fault_and_drop_at_the_same_time)
{
	struct toucher t = { .len = self->g->arena_size[0] };
	pthread_t thread[2];
	size_t at = 0;
	int i;

	t.p = map_region(self->g, self->fd[0], EVERING_REGION_ARENA_A, RW);
	ASSERT_NE(MAP_FAILED, (void *)t.p);
	fill(t.p, t.len, 9);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, touch_all, &t));
	for (i = 0; i < 300; i++) {
		EXPECT_EQ(0, madvise(t.p + at, PAGE * (size_t)(1 + i % 7),
				     MADV_DONTNEED));
		at = (at + 5 * PAGE) % (t.len - 8 * PAGE);
		if (i % 10 == 0)
			EXPECT_EQ(0, madvise(t.p, t.len, MADV_DONTNEED));
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, t.bad);
}

TEST_F(regions, no_advice_harms_the_contents)
{
	static const int advice[] = {
		MADV_NORMAL,	 MADV_RANDOM,	MADV_SEQUENTIAL,
		MADV_WILLNEED,	 MADV_FREE,	MADV_REMOVE,
		MADV_MERGEABLE,	 MADV_HUGEPAGE, MADV_NOHUGEPAGE,
		MADV_COLD,	 MADV_PAGEOUT,	MADV_POPULATE_READ,
		MADV_WIPEONFORK, MADV_DONTDUMP, MADV_DODUMP,
		MADV_DONTFORK,
	};
	size_t len = self->g->arena_size[0], i;
	char *p = map_region(self->g, self->fd[0], EVERING_REGION_ARENA_A, RW);

	ASSERT_NE(MAP_FAILED, (void *)p);
	fill(p, len, 3);
	for (i = 0; i < ARRAY_SIZE(advice); i++) {
		madvise(p, len, advice[i]);
		EXPECT_TRUE(is_filled(p, len, 3));
	}
	EXPECT_LT(madvise(p, len, MADV_REMOVE), 0);
	EXPECT_LT(madvise(p, len, MADV_FREE), 0);
	EXPECT_LT(madvise(p, len, MADV_DODUMP), 0);
}

TEST_F(regions, an_endpoint_is_no_file_to_read_write_or_cut)
{
	char *p, c = 0;

	MAP_A_HALF(p);
	fill(p, half_size(self->g), 1);
	EXPECT_LT(read(self->fd[0], &c, 1), 0);
	EXPECT_LT(write(self->fd[0], &c, 1), 0);
	EXPECT_LT(pread(self->fd[0], &c, 1, 0), 0);
	EXPECT_LT(pwrite(self->fd[0], &c, 1, 0), 0);
	EXPECT_LT(ftruncate(self->fd[0], 0), 0);
	EXPECT_LT(fallocate(self->fd[0],
			    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			    PAGE),
		  0);
	EXPECT_TRUE(is_filled(p, half_size(self->g), 1));
}

/* A second file would be a second life of the same endpoint. */
TEST_F(regions, an_endpoint_cannot_be_opened_again)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd[0]);
	EXPECT_LT(open(path, O_RDWR), 0);
	EXPECT_LT(open(path, O_RDONLY), 0);
}

TEST_F(regions, mlock_works)
{
	size_t len = half_size(self->g);
	char *p;

	MAP_A_HALF(p);
	fill(p, len, 2);
	ASSERT_EQ(0, mlock(p, len));
	EXPECT_TRUE(is_filled(p, len, 2));
	EXPECT_EQ(0, munlock(p, len));
	EXPECT_TRUE(is_filled(p, len, 2));
	EXPECT_EQ(0, munmap(p, len));
	EXPECT_EQ(0, try_map(len, RW, MAP_SHARED | MAP_LOCKED | MAP_POPULATE,
			     self->fd[0],
			     EVERING_MMAP_OFFSET(EVERING_REGION_HALF_A)));
}

/*
 * The doorbell is the descriptor: a futex other processes can see is not to be
 * had.
 */
TEST_F(regions, a_shared_futex_is_refused_and_a_private_one_works)
{
	struct timespec soon = { 0, MSEC };
	uint32_t *p;

	MAP_A_HALF(p);
	EXPECT_EQ(-EFAULT, or_errno(syscall(SYS_futex, p + 200, FUTEX_WAIT, 0,
					    &soon, NULL, 0)));
	EXPECT_EQ(-EFAULT, or_errno(syscall(SYS_futex, p + 200, FUTEX_WAKE, 1,
					    NULL, NULL, 0)));
	EXPECT_EQ(-EAGAIN,
		  or_errno(syscall(SYS_futex, p + 200, FUTEX_WAIT_PRIVATE, 1,
				   &soon, NULL, 0)));
	EXPECT_EQ(-ETIMEDOUT,
		  or_errno(syscall(SYS_futex, p + 200, FUTEX_WAIT_PRIVATE, 0,
				   &soon, NULL, 0)));
}

/* ----------------------------------------------------- whole, or not at all */

TEST_F(regions, no_part_is_unmapped_or_protected_differently)
{
	size_t len = half_size(self->g);
	char *p;

	ASSERT_GE(len, 2 * PAGE);
	MAP_A_HALF(p);
	fill(p, len, 4);
	EXPECT_EQ(-EINVAL, or_errno(munmap(p, PAGE)));
	EXPECT_EQ(-EINVAL, or_errno(munmap(p + PAGE, len - PAGE)));
	EXPECT_EQ(-EINVAL, or_errno(mprotect(p, PAGE, PROT_READ)));
	EXPECT_EQ(-EINVAL, or_errno(mprotect(p + PAGE, PAGE, PROT_NONE)));
	EXPECT_EQ(MAP_FAILED, mremap(p, len, len - PAGE, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-EINVAL, or_errno(madvise(p, PAGE, MADV_DOFORK)));
	/* A fixed mapping over a part unmaps that part first. */
	EXPECT_EQ(MAP_FAILED,
		  mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		       0));
	EXPECT_TRUE(is_filled(p, len, 4));
	EXPECT_EQ(0, touch(p, true));
	EXPECT_EQ(0, touch(p + len - 1, true));
	EXPECT_A(ATTACHED);
	EXPECT_EQ(1, epoch_of(self->status, EVERING_A));
	EXPECT_EQ(0, munmap(p, len));
	EXPECT_A(DETACHED);
}

TEST_F(regions, mremap_neither_grows_nor_copies)
{
	size_t len = half_size(self->g);
	char *p;

	MAP_A_HALF(p);
	fill(p, len, 4);
	EXPECT_EQ(MAP_FAILED, mremap(p, len, len + PAGE, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(MAP_FAILED, mremap(p, len, 8 * len, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(MAP_FAILED, mremap(p, 0, len, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(MAP_FAILED,
		  mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_TRUE(is_filled(p, len, 4));
	EXPECT_A(ATTACHED);
	EXPECT_EQ(0, munmap(p, len));
	EXPECT_A(DETACHED);
}

TEST_F(regions, mremap_moves_and_it_still_works)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		size_t len = region_size(self->g, region);
		bool own = may_write(self->g, EVERING_A, region);
		char *to = mmap(NULL, len, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		char *p = map_region(self->g, self->fd[0], region,
				     own ? RW : PROT_READ);

		ASSERT_NE(MAP_FAILED, (void *)to);
		ASSERT_NE(MAP_FAILED, (void *)p);
		/* The last page alone has been touched; others fault later. */
		EXPECT_EQ(0, touch(p + len - 1, own));
		ASSERT_EQ(to, mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED,
				     to));
		EXPECT_EQ(SIGSEGV, touch(p, false));
		if (own) {
			fill(to, len, 6);
			EXPECT_TRUE(is_filled(to, len, 6));
		}
		EXPECT_EQ(own ? 0 : SIGSEGV, touch(to, true));
		EXPECT_EQ(0, madvise(to, len, MADV_DONTNEED));
		EXPECT_EQ(0, touch(to, false));
		if (own)
			EXPECT_TRUE(is_filled(to, len, 6));
		EXPECT_EQ(own ? 0 : -EACCES, or_errno(mprotect(to, len, RW)));
		if (region == EVERING_REGION_HALF_A) {
			EXPECT_A(ATTACHED);
			EXPECT_EQ(1, epoch_of(self->status, EVERING_A));
			EXPECT_EQ(0, poll_now(self->fd[1], POLLRDHUP));
		}
		EXPECT_EQ(0, munmap(to, len));
		if (region == EVERING_REGION_HALF_A) {
			EXPECT_A(DETACHED);
			EXPECT_EQ(POLLRDHUP, poll_now(self->fd[1], POLLRDHUP));
		}
	}
}

TEST_F(regions, neighbours_do_not_merge)
{
	const int region = EVERING_REGION_STATUS;
	char *at = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	int i;

	ASSERT_NE(MAP_FAILED, (void *)at);
	for (i = 0; i < 3; i++)
		ASSERT_EQ(at + (size_t)i * PAGE,
			  mmap(at + (size_t)i * PAGE, PAGE, PROT_READ,
			       MAP_SHARED | MAP_FIXED, self->fd[0],
			       (off_t)EVERING_MMAP_OFFSET(region)));
	EXPECT_EQ(0, munmap(at + PAGE, PAGE));
	EXPECT_EQ(0, touch(at, false));
	EXPECT_EQ(SIGSEGV, touch(at + PAGE, false));
	EXPECT_EQ(0, touch(at + 2 * PAGE, false));
	EXPECT_EQ(0, munmap(at, 3 * PAGE));
}

/* --------------------------------------------------- faults and permissions */

/* What that personality adds to each PROT_READ is not given, and nothing is refused. */
TEST_F(regions, read_implies_exec_maps_without_exec)
{
	int old = personality(0xffffffff), region;
	char *p;

	ASSERT_NE(-1, personality((unsigned long)old | READ_IMPLIES_EXEC));
	for (region = 0; region < EVERING_REGIONS; region++) {
		size_t len = region_size(self->g, region);

		p = map_region(self->g, self->fd[0], region, PROT_READ);
		ASSERT_NE(MAP_FAILED, (void *)p);
		EXPECT_EQ(0, touch(p, false));
		personality((unsigned long)old);
		EXPECT_EQ(-1, mprotect(p, len, PROT_READ | PROT_EXEC));
		EXPECT_EQ(EACCES, errno);
		EXPECT_TRUE(is_no_exec(try_map(len, PROT_READ | PROT_EXEC,
					       MAP_SHARED, self->fd[0],
					       EVERING_MMAP_OFFSET(region))));
		personality((unsigned long)old | READ_IMPLIES_EXEC);
	}
	personality((unsigned long)old);
}

/* Memory that failed is told to whoever touches it, instead of being mapped again. */
TEST_F(regions, failed_memory_is_sigbus)
{
	char *p, *q;

	p = map_region(self->g, self->fd[0], EVERING_REGION_ARENA_A, RW);
	q = map_region(self->g, self->fd[1], EVERING_REGION_ARENA_A, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)p);
	ASSERT_NE(MAP_FAILED, (void *)q);
	ASSERT_EQ(0, touch(p + PAGE, true));
	/* Of no use where memory cannot fail; it calls itself busy, but is marked. */
	if (madvise(p + PAGE, PAGE, MADV_HWPOISON) && errno == EINVAL)
		SKIP(return, "this kernel does not know failed memory");
	EXPECT_EQ(0, madvise(p, self->g->arena_size[0], MADV_DONTNEED));
	EXPECT_EQ(SIGBUS, touch(p + PAGE, false));
	EXPECT_EQ(SIGBUS, touch(q + PAGE, false));
	EXPECT_EQ(0, touch(p, true));
	EXPECT_EQ(0, touch(p + 2 * PAGE, true));
	EXPECT_EQ(0, touch(q, false));
}

/* ----------------------------------------------------------------- counting */

TEST_F(regions, the_last_mapping_of_any_region_detaches)
{
	char *p[EVERING_REGIONS];
	int region, last;
	uint32_t round;

	for (round = 0; round < EVERING_REGIONS; round++) {
		FRESH_CHANNEL();
		for (region = 0; region < EVERING_REGIONS; region++) {
			p[region] = map_region(self->g, self->fd[0], region,
					       PROT_READ);
			ASSERT_NE(MAP_FAILED, (void *)p[region]);
		}
		EXPECT_A(ATTACHED);
		EXPECT_EQ(1, epoch_of(self->status, EVERING_A));
		last = (int)round;
		for (region = 0; region < EVERING_REGIONS; region++)
			if (region != last)
				munmap(p[region], region_size(self->g, region));
		EXPECT_A(ATTACHED);
		EXPECT_EQ(0, poll_now(self->fd[1], POLLRDHUP));
		munmap(p[last], region_size(self->g, last));
		EXPECT_A(DETACHED);
		EXPECT_EQ(POLLRDHUP, poll_now(self->fd[1], POLLRDHUP));
	}
}

TEST_F(regions, only_the_own_half_attaches)
{
	char *p[EVERING_REGIONS];
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		if (region == EVERING_REGION_HALF_A)
			continue;
		p[region] = map_region(self->g, self->fd[0], region, PROT_READ);
		ASSERT_NE(MAP_FAILED, (void *)p[region]);
	}
	EXPECT_A(NEW);
	EXPECT_EQ(0, epoch_of(self->status, EVERING_A));
	for (region = 0; region < EVERING_REGIONS; region++)
		if (region != EVERING_REGION_HALF_A)
			munmap(p[region], region_size(self->g, region));
	EXPECT_A(NEW);
	EXPECT_EQ(0, poll_now(self->fd[1], POLLRDHUP));
}

TEST_F(regions, mapping_twice_is_one_attachment)
{
	size_t len = half_size(self->g);
	char *p, *q;

	MAP_A_HALF(p);
	MAP_A_HALF(q);
	EXPECT_EQ(1, epoch_of(self->status, EVERING_A));
	munmap(p, len);
	EXPECT_A(ATTACHED);
	munmap(q, len);
	EXPECT_A(DETACHED);
	/* That is final: what is mapped now is only looked at. */
	MAP_A_HALF(p);
	EXPECT_A(DETACHED);
	EXPECT_EQ(1, epoch_of(self->status, EVERING_A));
	EXPECT_EQ(POLLRDHUP, poll_now(self->fd[1], POLLRDHUP));
}

TEST_F(regions, what_could_not_be_mapped_is_not_counted)
{
	struct rlimit old, none = { 0, 0 };
	size_t len = half_size(self->g);

	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &old));
	none.rlim_max = old.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &none));
	EXPECT_EQ(-ENOMEM, try_map(len, RW, MAP_SHARED, self->fd[0],
				   EVERING_MMAP_OFFSET(1)));
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &old));
	EXPECT_A(NEW);
	EXPECT_EQ(-EACCES, try_map(len, RW, MAP_SHARED, self->fd[0],
				   EVERING_MMAP_OFFSET(2)));
	EXPECT_EQ(0, try_map(len, RW, MAP_SHARED, self->fd[0],
			     EVERING_MMAP_OFFSET(1)));
	EXPECT_A(DETACHED);
}

TEST_F(regions, closing_the_descriptor_leaves_the_mapping)
{
	size_t len = half_size(self->g);
	char *p;

	MAP_A_HALF(p);
	close(self->fd[0]);
	EXPECT_EQ(0, touch(p, true));
	EXPECT_EQ(0, touch(p + len - 1, true));
	EXPECT_A(ATTACHED);
	EXPECT_EQ(0, poll_now(self->fd[1], POLLRDHUP));
	ASSERT_EQ(0, madvise(p, len, MADV_DONTNEED));
	EXPECT_EQ(0, touch(p, true));
	munmap(p, len);
	EXPECT_A(CLOSED);
	EXPECT_EQ(POLLRDHUP | POLLHUP, poll_now(self->fd[1], POLLRDHUP));
}

TEST_F(regions, they_outlive_both_descriptors_and_the_device)
{
	size_t len = self->g->arena_size[0];
	char *p = map_region(self->g, self->fd[0], EVERING_REGION_ARENA_A, RW);

	ASSERT_NE(MAP_FAILED, (void *)p);
	close(self->dev);
	close(self->fd[0]);
	close(self->fd[1]);
	munmap(self->status, PAGE);
	fill(p, len, 8);
	ASSERT_EQ(0, madvise(p, len, MADV_DONTNEED));
	EXPECT_TRUE(is_filled(p, len, 8));
}

/* ---------------------------------------------------------------- processes */

struct fork_child {
	const struct evering_geometry *g;
	char **p;
	int fd;
};

static int touch_inherited(void *arg)
{
	struct fork_child *c = arg;
	int region;
	char *p;

	for (region = 0; region < EVERING_REGIONS; region++)
		if (touch(c->p[region], false) != SIGSEGV)
			return 1 + region;
	/* The descriptor is inherited, and with it the right to map. */
	p = map_region(c->g, c->fd, EVERING_REGION_HALF_A, RW);
	if (p == MAP_FAILED)
		return 20;
	return touch(p, true) ? 21 : 0;
}

TEST_F(regions, a_child_has_no_mapping_but_may_map)
{
	char *p[EVERING_REGIONS];
	struct fork_child c = { .g = self->g, .p = p, .fd = self->fd[0] };
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		p[region] = map_region(self->g, self->fd[0], region, PROT_READ);
		ASSERT_NE(MAP_FAILED, (void *)p[region]);
		ASSERT_EQ(0, touch(p[region], false));
	}
	EXPECT_EQ(0, reap(spawn(touch_inherited, &c)));
	/* It came, attached and went: the endpoint was its own, and is gone. */
	EXPECT_A(DETACHED);
	EXPECT_EQ(2, epoch_of(self->status, EVERING_A));
	EXPECT_EQ(POLLRDHUP, poll_now(self->fd[1], POLLRDHUP));
	for (region = 0; region < EVERING_REGIONS; region++)
		EXPECT_EQ(0, touch(p[region], false));
}

struct dofork_child {
	char *p;
	size_t len;
	int word[2];
	bool unmaps;
};

static int hold_copy(void *arg)
{
	struct dofork_child *c = arg;

	if (touch(c->p, true) || touch(c->p + c->len - 1, true))
		return 1;
	*(c->p + 2000) = 'c';
	if (c->unmaps && munmap(c->p, c->len))
		return 2;
	tell(c->word[1]);
	await_death();
}

TEST_F(regions, madv_dofork_gives_a_child_a_mapping_that_counts)
{
	struct dofork_child c = { .len = half_size(self->g) };
	pid_t pid;

	MAP_A_HALF(c.p);
	ASSERT_EQ(0, pipe2(c.word, O_CLOEXEC));
	if (madvise(c.p, c.len, MADV_DOFORK))
		SKIP(return, "this kernel refuses MADV_DOFORK");

	/* The child's goes first. */
	c.unmaps = true;
	pid = spawn(hold_copy, &c);
	ASSERT_TRUE(told(c.word[0]));
	EXPECT_EQ('c', c.p[2000]);
	EXPECT_A(ATTACHED);
	EXPECT_EQ(0, poll_now(self->fd[1], POLLRDHUP));
	kill_and_reap(pid);
	EXPECT_A(ATTACHED);

	/* The parent's goes first; then the child is killed. */
	c.unmaps = false;
	pid = spawn(hold_copy, &c);
	ASSERT_TRUE(told(c.word[0]));
	EXPECT_EQ(0, munmap(c.p, c.len));
	EXPECT_A(ATTACHED);
	EXPECT_EQ(0, poll_now(self->fd[1], POLLRDHUP));
	EXPECT_EQ(1, epoch_of(self->status, EVERING_A));
	kill_and_reap(pid);
	EXPECT_A(DETACHED);
	EXPECT_EQ(POLLRDHUP, poll_now(self->fd[1], POLLRDHUP));
}

struct victim {
	const struct evering_geometry *g;
	int fd[2];
	int word[2];
};

static int map_and_hold(void *arg)
{
	struct victim *v = arg;
	char *p = map_region(v->g, v->fd[0], EVERING_REGION_HALF_A, RW);

	if (p == MAP_FAILED || touch(p, true))
		return 1;
	close(v->fd[1]);
	tell(v->word[1]);
	await_death();
}

/*
 * Twice signalled: the mapping went, then the file, in this order or not at
 * all.
 */
TEST_F(regions, sigkill_detaches_before_it_closes)
{
	struct victim v = { .g = self->g };
	int efd = eventfd(0, EFD_CLOEXEC);
	pid_t pid;

	memcpy(v.fd, self->fd, sizeof(v.fd));
	ASSERT_EQ(0, pipe2(v.word, O_CLOEXEC));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	pid = spawn(map_and_hold, &v);
	ASSERT_TRUE(told(v.word[0]));
	close(self->fd[0]);
	EXPECT_A(ATTACHED);
	EXPECT_EQ(0, signals_of(efd));
	kill_and_reap(pid);
	EXPECT_A(CLOSED);
	EXPECT_EQ(2, signals_of(efd));
}

TEST_F(regions, sigkill_detaches_though_another_holds_the_file)
{
	struct victim v = { .g = self->g };
	pid_t pid;

	memcpy(v.fd, self->fd, sizeof(v.fd));
	ASSERT_EQ(0, pipe2(v.word, O_CLOEXEC));
	pid = spawn(map_and_hold, &v);
	ASSERT_TRUE(told(v.word[0]));
	kill_and_reap(pid);
	EXPECT_A(DETACHED);
	EXPECT_EQ(POLLRDHUP, poll_now(self->fd[1], POLLRDHUP));
	close(self->fd[0]);
	EXPECT_A(CLOSED);
}

TEST_HARNESS_MAIN
