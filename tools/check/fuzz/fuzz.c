// SPDX-License-Identifier: MIT
/*
 * fuzz.c: what makes a wrong access, or a leak, visible.
 *
 * The library's memory is mapped, so AddressSanitizer knows nothing of its ends.
 * Therefore each mapping gets a page without access on both sides (the linker hands
 * its mmap() and munmap() to the functions here: --wrap).  The rest of the last page of
 * a half, behind which the arena may lie, is poisoned.  After a run no mapping and no
 * descriptor may be left.
 *
 * Its sleeps come here as well: a peer that does something right before each sleep
 * of the victim's has the worst of all timings, and has it every time.  So do its
 * rings, which are writes.
 */
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define HAVE_ASAN 1
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

#define PAGE 4096u
#define MAPPINGS 64

/* What the library rounds its addresses to: a hint that is moved by it is as good. */
#define HINT_ALIGN ((uintptr_t)2 << 20)

static struct mapping {
	unsigned char *at;
	size_t size;
	bool guarded[2]; /* in front, and behind */
} mappings[MAPPINGS];
static bool guarding;

/* Every so many runs the descriptors are counted, which takes a while. */
unsigned int fuzz_look_every = 16;

void *__real_mmap(void *at, size_t size, int prot, int flags, int fd,
		  off_t offset);
int __real_munmap(void *at, size_t size);
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd,
		  off_t offset);
int __wrap_munmap(void *at, size_t size);
int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *left,
		 const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *left,
		 const sigset_t *mask);

int __real_epoll_wait(int fd, struct epoll_event *events, int most, int ms);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int most, int ms);
int __real_epoll_pwait2(int fd, struct epoll_event *events, int most,
			const struct timespec *left, const sigset_t *mask);
int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int most,
			const struct timespec *left, const sigset_t *mask);
ssize_t __real_write(int fd, const void *from, size_t size);
ssize_t __wrap_write(int fd, const void *from, size_t size);

void fuzz_failed(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: must hold, and does not: %s\n", file, line,
		what);
	abort();
}

static size_t whole_pages(size_t size)
{
	return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static void *mmap_guard(void *at, size_t size, int flags)
{
	return __real_mmap(at, size, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags,
			   -1, 0);
}

/* At the place that the library has reserved, or would like. */
static void *map_there(struct mapping *m, unsigned char *at, size_t size,
		       int prot, int flags, int fd, off_t offset)
{
	size_t pages = whole_pages(size);
	unsigned char *map;

	/* It would lie next to another mapping, with no room for a page between them. */
	if (!(flags & MAP_FIXED))
		at -= HINT_ALIGN;
	map = __real_mmap(at, size, prot, flags, fd, offset);
	if (map == MAP_FAILED)
		return MAP_FAILED;
	m->guarded[0] = mmap_guard(map - PAGE, PAGE, MAP_FIXED_NOREPLACE) !=
			MAP_FAILED;
	m->guarded[1] = mmap_guard(map + pages, PAGE, MAP_FIXED_NOREPLACE) !=
			MAP_FAILED;
	return map;
}

static void *map_anywhere(struct mapping *m, size_t size, int prot, int flags,
			  int fd, off_t offset)
{
	size_t pages = whole_pages(size);
	unsigned char *all, *map;

	all = mmap_guard(NULL, pages + 2 * PAGE, 0);
	if (all == MAP_FAILED)
		return MAP_FAILED;
	map = __real_mmap(all + PAGE, size, prot, flags | MAP_FIXED, fd,
			  offset);
	if (map == MAP_FAILED)
		__real_munmap(all, pages + 2 * PAGE);
	m->guarded[0] = m->guarded[1] = true;
	return map;
}

void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd,
		  off_t offset)
{
	struct mapping *m = mappings;
	unsigned char *map;

	/* A reservation is not to be accessed, and becomes something else. */
	if (!guarding || (fd < 0 && prot == PROT_NONE))
		return __real_mmap(at, size, prot, flags, fd, offset);
	while (m < mappings + MAPPINGS && m->at)
		m++;
	MUST(m < mappings + MAPPINGS);
	map = at ? map_there(m, at, size, prot, flags, fd, offset) :
		   map_anywhere(m, size, prot, flags, fd, offset);
	if (map != MAP_FAILED) {
		m->at = map;
		m->size = size;
	}
	return map;
}

int __wrap_munmap(void *at, size_t size)
{
	unsigned char *map = at, *end = map + whole_pages(size);
	struct mapping *m;

	for (m = mappings; m < mappings + MAPPINGS; m++) {
		if (!map || m->at != map)
			continue;
		MUST(m->size == size);
		m->at = NULL;
		if (m->guarded[0])
			map -= PAGE;
		if (m->guarded[1])
			end += PAGE;
		return __real_munmap(map, (size_t)(end - map));
	}
	return __real_munmap(at, size);
}

static void (*before_sleep)(void *arg);
static void *before_sleep_arg;

void fuzz_before_sleep(void (*function)(void *arg), void *arg)
{
	before_sleep = function;
	before_sleep_arg = arg;
}

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *left,
		 const sigset_t *mask)
{
	if (before_sleep)
		before_sleep(before_sleep_arg);
	return __real_ppoll(fds, count, left, mask);
}

int __wrap_epoll_wait(int fd, struct epoll_event *events, int most, int ms)
{
	if (before_sleep)
		before_sleep(before_sleep_arg);
	return __real_epoll_wait(fd, events, most, ms);
}

int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int most,
			const struct timespec *left, const sigset_t *mask)
{
	if (before_sleep)
		before_sleep(before_sleep_arg);
	return __real_epoll_pwait2(fd, events, most, left, mask);
}

static void (*before_write)(void *arg, int fd);
static void *before_write_arg;

void fuzz_before_write(void (*function)(void *arg, int fd), void *arg)
{
	before_write = function;
	before_write_arg = arg;
}

ssize_t __wrap_write(int fd, const void *from, size_t size)
{
	if (before_write)
		before_write(before_write_arg, fd);
	return __real_write(fd, from, size);
}

/* Of the two halves that this endpoint maps, what lies behind the last slot. */
void fuzz_poison(struct evering *ev, bool poison)
{
	const struct endpoint *e = to_endpoint(ev);
	size_t used = EVERING_SLOTS_OFFSET +
		      (size_t)e->geometry.slot_size * e->geometry.entries;
	unsigned int end;

	for (end = 0; end < 2; end++) {
		unsigned int region = EVERING_REGION_HALF(end);
		unsigned char *slack = e->map[region];
		size_t size = e->map_size[region] - used;

		slack += used;
		if (poison)
			ASAN_POISON_MEMORY_REGION(slack, size);
		else
			ASAN_UNPOISON_MEMORY_REGION(slack, size);
	}
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	if (!dir)
		return -1;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

void fuzz_begin(struct fuzz_run *run)
{
	static unsigned int runs;

	run->fds = runs++ % fuzz_look_every ? -1 : count_fds();
	guarding = true;
}

void fuzz_end(struct fuzz_run *run)
{
	int i;

	guarding = false;
	before_sleep = NULL;
	before_write = NULL;
	for (i = 0; i < MAPPINGS; i++)
		MUST(!mappings[i].at);
	if (run->fds >= 0)
		MUST(count_fds() == run->fds);
}

/* A channel in one process, measuring what the input says.  0: there is one. */
int fuzz_pair(struct input *in, uint32_t min_slot, struct evering *ev[2])
{
	static const uint32_t arena[] = { 65536, 4096, 8192, 0 };
	struct evering_params params = EVERING_PARAMS_INIT;
	uint8_t first = in8(in), second = in8(in);

	params.backend = EVERING_BACKEND_MEMFD;
	params.slot_size = EVERING_MAX_SLOT >> first % 5;
	if (params.slot_size < min_slot)
		params.slot_size = min_slot;
	params.entries = EVERING_MIN_ENTRIES << (first >> 4) % 5;
	params.arena_size[0] = arena[second & 3];
	params.arena_size[1] = arena[second >> 2 & 3];
	params.policy = (second >> 4) % 3;
	params.spin_ns = 2 * MICROSECOND;
	if (second & 0x80)
		params.flags = EVERING_SHARED_ARENA;
	return evering_pair(&params, ev);
}
