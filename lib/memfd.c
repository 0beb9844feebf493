// SPDX-License-Identifier: MIT
/*
 * memfd.c: the backend without the kernel module.
 *
 * Each side has one memfd, for its half and its arena.  Its owner maps it for writing,
 * allocates it and then seals it.  After that no process can shrink it, grow it or
 * punch holes into it, and no process can map it for writing again
 * (F_SEAL_FUTURE_WRITE).  The peer checks the seals and the size, maps it and populates
 * the half for reading, so no access can end in SIGBUS.  For a stranger's memfd the
 * peer makes no call that takes the lock of the inode, such as ftruncate(2) and
 * SEEK_HOLE: a write(2) of the stranger that reads from its own file system can hold
 * that lock for any time.
 *
 * The arena may have holes.  Its owner fills them when it needs to (grow.c), with
 * MADV_POPULATE_WRITE of its own mapping, which works under all seals and needs no
 * descriptor.  A process that reads a hole fills it too and pays for it, and is killed
 * by SIGBUS or the OOM killer if there is no memory.  So when the owner states that the
 * arena has grown, the peer populates the new part for reading, once, before it looks
 * at anything there.  Before that it finds out whether there is memory, because the
 * owner's statement may be false.  So a peer can make this side pay for its arena, as
 * large as was agreed, and for no more.
 *
 * Before Linux 5.14, which has neither call, a memfd is allocated as a whole, and
 * ftruncate(2) is used to find out whether all pages are there.
 *
 * Each endpoint has two doorbells, which are eventfds: one for the receiving thread and
 * one for the sending thread, so that neither takes the other's wake-up.  The
 * connection of the meeting stays open; when it hangs up, the peer is dead.  A thread
 * sleeps on an epoll set of a doorbell and the connection, edge-triggered.  So it gets
 * each wake-up once, and need not empty the eventfd.
 *
 * Three things work better with the module.  Here, a process that has an endpoint and
 * its forked child count as one until both are gone, or one closes.  A peer that makes
 * its eventfd blocking and fills it can delay a side that rings it; it cannot delay
 * evering_wake(), and it can delay a group only if it is faster than the group's look.
 * And with EVERING_SHARED_ARENA either side can free pages of the arenas, which are
 * then empty at the next touch, because there is no seal against that alone.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

#define SEALS_SIZE (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define SEALS_OWN (SEALS_SIZE | F_SEAL_FUTURE_WRITE)

/* The most bytes that one call allocates, and the least while signals keep coming. */
#define MAX_PIECE ((uint64_t)4 << 20)
#define MIN_PIECE ((uint64_t)64 << 10)
/*
 * For how many bytes of the peer's arena one question finds out whether there is
 * memory.
 */
#define ASK_FOR	  ((uint64_t)1 << 20)

#define BELL_RX 0
#define BELL_TX 1

/* How often a sleep without an epoll set looks for evering_wake(). */
#define LOOK_NS 10000000

static unsigned int own_arena(const struct endpoint *e)
{
	return EVERING_REGION_ARENA(e->end);
}

/* Whether the arena of @end is a memfd of its own. */
static bool is_apart(const struct endpoint *e, unsigned int end)
{
	return (e->geometry.flags & EVERING_SHARED_ARENA) &&
	       e->geometry.arena_size[end];
}

/**
 * struct layout - offsets in the memfd of a side, in bytes
 * @half: the end of the half, and the start of the arena
 * @end: the end of the memfd
 */
struct layout {
	uint64_t half;
	uint64_t end;
};

static struct layout layout_of(const struct endpoint *e, unsigned int end)
{
	uint64_t half = half_size(&e->geometry), at = half;
	uint64_t arena = is_apart(e, end) ? 0 : e->geometry.arena_size[end];

	if (arena >= EVERING_MEMFD_ALIGN)
		at = (half + EVERING_MEMFD_ALIGN - 1) &
		     ~(uint64_t)(EVERING_MEMFD_ALIGN - 1);
	return (struct layout){ .half = at - half, .end = at + arena };
}

static int new_memfd(const char *name)
{
	const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd;

	fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(name, flags);
	return fd < 0 ? -errno : fd;
}

/*
 * Allocates all pages of a memfd from @at on, in pieces.  A signal undoes the whole
 * call that it interrupts (in Linux 6.1), and has to leave time for the smallest piece.
 */
static int allocate(int fd, uint64_t at, uint64_t size, int64_t deadline)
{
	uint64_t piece = MAX_PIECE;

	while (at < size) {
		if (piece > size - at)
			piece = size - at;
		if (!fallocate(fd, 0, (off_t)at, (off_t)piece)) {
			at += piece;
			if (piece < MAX_PIECE)
				piece *= 2;
		} else if (errno != EINTR) {
			return errno == ENOSPC ? -ENOMEM : -errno;
		} else if (piece > MIN_PIECE) {
			piece /= 2;
		}
		if (deadline != INT64_MAX && at < size && now_ns() >= deadline)
			return -ETIMEDOUT;
	}
	return 0;
}

/*
 * Populates a mapping from @at to @end, in pieces.  Returns 0; -ENOMEM; -ETIMEDOUT;
 * -EINVAL: this kernel does not have @advice.
 */
static int populate(unsigned char *at, unsigned char *end, int advice,
		    int64_t deadline)
{
	size_t piece;

	do {
		piece = (size_t)(end - at);
		if (piece > MAX_PIECE)
			piece = MAX_PIECE;
		if (!madvise(at, piece, advice))
			at += piece;
		else if (errno != EINTR)
			return errno == EINVAL ? -EINVAL : -ENOMEM;
		if (deadline != INT64_MAX && at < end && now_ns() >= deadline)
			return -ETIMEDOUT;
	} while (at < end);
	return 0;
}

/*
 * Whether the kernel has MADV_POPULATE_READ.  This asks once, for no pages.  Returns 1,
 * 0; -ENOMEM.
 */
static int kernel_populates(void)
{
	static unsigned char nowhere[1];
	static int known; /* 0: not asked yet; 1: it has; -1: it has not */
	uintptr_t page = (uintptr_t)nowhere & ~(uintptr_t)(page_size() - 1);
	int is = __atomic_load_n(&known, __ATOMIC_RELAXED);

	if (is)
		return is > 0;
	if (!madvise((void *)page, 0, MADV_POPULATE_READ))
		is = 1;
	else if (errno == EINVAL)
		is = -1;
	else
		return -ENOMEM;
	__atomic_store_n(&known, is, __ATOMIC_RELAXED);
	return is > 0;
}

/* Publishes to the peer how much of this side's arena has memory. */
static void publish_grown(struct endpoint *e, uint64_t there)
{
	struct evering_half *half = e->map[EVERING_REGION_HALF(e->end)];

	evering_store_release(&half->grown,
			      (uint32_t)(there / EVERING_ARENA_ALIGN));
}

/* Makes a memfd of @size bytes that can be mapped.  The caller closes *@fd. */
static int size_memfd(int *fd, const char *name, uint64_t size)
{
	if (!file_may_be(size))
		return -EFBIG;
	*fd = new_memfd(name);
	if (*fd < 0)
		return *fd;
	return ftruncate(*fd, (off_t)size) ? -errno : 0;
}

/*
 * Whether this side's whole arena gets memory, but is mapped only when it is touched.
 * Then it is only allocated, which takes a quarter of the time.  For a small arena, one
 * call that also maps it is cheaper.
 */
static bool allocates_ahead(const struct endpoint *e)
{
	return !e->populate && e->begin > LITTLE &&
	       e->begin == e->geometry.arena_size[e->end];
}

/*
 * Maps @region, and what follows it up to @last, of this side's memfd, with memory for
 * its first @there bytes.  Every page gets memory now, or there is an error now; there
 * is never a SIGBUS later.
 */
static int fill_memfd(struct endpoint *e, unsigned int region,
		      unsigned int last, int fd, struct layout at,
		      uint64_t there, int64_t deadline)
{
	const int prot = PROT_READ | PROT_WRITE;
	int populates = kernel_populates(), ret = 0;
	enum pages pages = PAGES_MISSING;
	uint64_t from = at.half;
	unsigned char *map;

	if (populates < 0)
		return populates;
	if (!populates) {
		/*
		 * Including what is before the half, because the peer counts it
		 * (check_pages()).
		 */
		there = at.end;
		from = 0;
		pages = PAGES_MAPPED;
	} else if (last == own_arena(e) && allocates_ahead(e)) {
		pages = PAGES_THERE;
	}
	if (!memory_there(there, &e->memfd.counted))
		return -ENOMEM;
	if (pages != PAGES_MISSING)
		ret = allocate(fd, from, at.end, deadline);
	if (!ret)
		ret = endpoint_map_file(e, region, last, fd, (off_t)at.half,
					prot, pages);
	/* The rings are small and needed at once. */
	if (pages == PAGES_THERE)
		there = region == last ? 0 : e->map_size[region];
	if (ret || !populates || !there)
		return ret;
	map = e->map[region];
	return populate(map, map + there, MADV_POPULATE_WRITE, deadline);
}

/* Makes this side's memory, and seals it when this side has mapped it. */
static int make_memory(struct endpoint *e, int64_t deadline)
{
	static const char *const names[] = { "evering-a", "evering-b" };
	unsigned int region = EVERING_REGION_HALF(e->end), last = own_arena(e);
	struct layout at = layout_of(e, e->end);
	int *fd = &e->memfd.memory[e->end], ret;
	uint64_t there = half_size(&e->geometry) + e->begin;
	struct evering_half *half;

	if (is_apart(e, e->end) || !e->geometry.arena_size[e->end]) {
		last = region;
		there = half_size(&e->geometry);
	}
	ret = size_memfd(fd, names[e->end], at.end);
	if (!ret)
		ret = fill_memfd(e, region, last, *fd, at, there, deadline);
	if (ret)
		return ret;
	half = e->map[region];
	half->abi = EVERING_ABI_VERSION;
	half->geometry = e->geometry;
	return fcntl(*fd, F_ADD_SEALS, SEALS_OWN) ? -errno : 0;
}

/* Makes this side's arena, if both sides write it. */
static int make_shared(struct endpoint *e, int64_t deadline)
{
	static const char *const names[] = { "evering-arena-a",
					     "evering-arena-b" };
	const struct layout at = { 0, e->geometry.arena_size[e->end] };
	int *fd = &e->memfd.shared[e->end], ret;

	if (!is_apart(e, e->end))
		return 0;
	ret = size_memfd(fd, names[e->end], at.end);
	if (!ret)
		ret = fill_memfd(e, own_arena(e), own_arena(e), *fd, at,
				 e->begin, deadline);
	if (ret)
		return ret;
	return fcntl(*fd, F_ADD_SEALS, SEALS_SIZE) ? -errno : 0;
}

static int make_bells(struct endpoint *e)
{
	int *bell = e->memfd.bell[e->end];
	unsigned int i;

	for (i = 0; i < 2; i++) {
		bell[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (bell[i] < 0)
			return -errno;
	}
	return 0;
}

static int make_own(struct endpoint *e, int64_t deadline)
{
	int ret;

	if (!kernel_populates())
		e->begin = e->geometry.arena_size[e->end];
	e->partial[e->end] = e->begin < e->geometry.arena_size[e->end];
	ret = make_memory(e, deadline);
	if (!ret)
		ret = make_shared(e, deadline);
	if (!ret)
		publish_grown(e, e->begin);
	return ret;
}

static int memfd_make(struct endpoint *e, int64_t deadline)
{
	int ret = make_bells(e);

	return ret ? ret : make_own(e, deadline);
}

/* How many memfds @end has. */
static unsigned int count_memfds(const struct endpoint *e, unsigned int end)
{
	return is_apart(e, end) ? 2 : 1;
}

static unsigned int memfd_offer(struct endpoint *e, int fds[MAX_HELLO_FDS])
{
	unsigned int count = 0;

	fds[count++] = e->memfd.memory[e->end];
	if (is_apart(e, e->end))
		fds[count++] = e->memfd.shared[e->end];
	fds[count++] = e->memfd.bell[e->end][BELL_RX];
	fds[count++] = e->memfd.bell[e->end][BELL_TX];
	return count;
}

/*
 * Checks that a file with seals, which has @st, is on the file system of memfds and not
 * on hugetlbfs.  The kernel has one such file system; its device number is found once.
 * Returns 0; -EPROTO; -EMFILE, -ENFILE, -ENOMEM: the number cannot be found.
 */
static int check_file_system(const struct stat *st)
{
	static dev_t known;
	dev_t dev = __atomic_load_n(&known, __ATOMIC_RELAXED);
	struct stat own;
	int fd;

	if (!dev) {
		fd = new_memfd("evering");
		if (fd < 0)
			return fd;
		if (!fstat(fd, &own))
			dev = own.st_dev;
		close(fd);
		__atomic_store_n(&known, dev, __ATOMIC_RELAXED);
	}
	return st->st_dev == dev ? 0 : -EPROTO;
}

/*
 * Checks that all pages are there, on kernels without MADV_POPULATE_READ.  ftruncate(2)
 * to the present size removes pages beyond the end, which st_blocks would count instead
 * of missing pages.  It fails if the file is not open for writing.
 */
static int check_pages(int fd, size_t size)
{
	struct stat st;

	if (ftruncate(fd, (off_t)size) || fstat(fd, &st) ||
	    (uint64_t)st.st_blocks * 512 < size)
		return -EPROTO;
	return 0;
}

/*
 * Checks that a memfd of the peer has the seals @need against all that could do harm,
 * and the right size.
 */
static int check_memfd(int fd, int need, uint64_t size)
{
	struct stat st;
	int seals;

	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & need) != need)
		return -EPROTO;
	if (fstat(fd, &st) || st.st_size != (off_t)size)
		return -EPROTO;
	return check_file_system(&st);
}

/* Maps what was checked.  If that fails, it does not belong to a channel. */
static int map_peers(struct endpoint *e, unsigned int region, unsigned int last,
		     int fd, off_t offset, int prot, bool all)
{
	int ret = endpoint_map_file(e, region, last, fd, offset, prot,
				    all ? PAGES_MAPPED : PAGES_MISSING);

	return ret == -EACCES || ret == -EPERM ? -EPROTO : ret;
}

/*
 * Checks the peer's half and the arena after it, and maps them, with all pages of the
 * half.  This side pays for pages that are missing.
 */
static int take_memory(struct endpoint *e, int fd, bool populates)
{
	unsigned int region = EVERING_REGION_HALF(!e->end), last = region;
	struct layout at = layout_of(e, !e->end);
	size_t half = half_size(&e->geometry);
	unsigned char *map;
	int ret;

	if (!is_apart(e, !e->end) && e->geometry.arena_size[!e->end])
		last = EVERING_REGION_ARENA(!e->end);
	ret = check_memfd(fd, SEALS_OWN, at.end);
	if (!ret && !populates)
		ret = check_pages(fd, at.end);
	else if (!ret && !memory_there(half, &e->memfd.counted))
		ret = -ENOMEM;
	if (!ret)
		ret = map_peers(e, region, last, fd, (off_t)at.half, PROT_READ,
				!populates);
	if (ret || !populates)
		return ret;
	map = e->map[region];
	return populate(map, map + half, MADV_POPULATE_READ, INT64_MAX);
}

/* The same for an arena that both sides write. */
static int take_shared(struct endpoint *e, int fd, bool populates)
{
	unsigned int region = EVERING_REGION_ARENA(!e->end);
	uint64_t size = e->geometry.arena_size[!e->end];
	int ret = check_memfd(fd, SEALS_SIZE, size);

	if (!ret && !populates)
		ret = check_pages(fd, size);
	return ret ? ret :
		     map_peers(e, region, region, fd, 0, PROT_READ | PROT_WRITE,
			       !populates);
}

/* Takes what the peer offers.  Takes ownership of @fds. */
static int take_peers(struct endpoint *e, const int *fds, unsigned int count)
{
	unsigned int peer = !e->end, memfds = count_memfds(e, peer), i;
	int populates, ret;

	if (count != memfds + 2) {
		close_fds(fds, count);
		return -EPROTO;
	}
	e->memfd.memory[peer] = fds[0];
	if (memfds > 1)
		e->memfd.shared[peer] = fds[1];
	for (i = 0; i < 2; i++)
		e->memfd.bell[peer][i] = fds[memfds + i];

	populates = kernel_populates();
	ret = populates < 0 ? populates : 0;
	/* Its arena gets pages later, and memory is looked for then. */
	e->partial[peer] = populates && e->geometry.arena_size[peer];
	if (!ret)
		ret = take_memory(e, fds[0], populates);
	if (!ret && memfds > 1)
		ret = take_shared(e, fds[1], populates);
	/*
	 * Doorbells are written with this process's credentials, so the file must not
	 * be one for which these matter.  Files that packet_take_fds() accepts, apart
	 * from memfds, are eventfds and endpoints, and endpoints cannot be written.
	 */
	for (i = 0; i < 2 && !ret; i++)
		if (fcntl(e->memfd.bell[peer][i], F_GET_SEALS) >= 0)
			ret = -EPROTO;
	return ret;
}

/* Nothing is allocated for a client that does not send what belongs to a channel. */
static int memfd_join(struct endpoint *e, const int *fds, unsigned int count,
		      int64_t deadline)
{
	int ret = make_bells(e);

	if (ret) {
		close_fds(fds, count);
		return ret;
	}
	ret = take_peers(e, fds, count);
	return ret ? ret : make_own(e, deadline);
}

/* From here on the mappings keep the memory. */
static void memfd_met(struct endpoint *e)
{
	unsigned int i;

	close_fds(e->memfd.memory, 2);
	close_fds(e->memfd.shared, 2);
	for (i = 0; i < 2; i++)
		e->memfd.memory[i] = e->memfd.shared[i] = -1;
}

static void memfd_destroy(struct endpoint *e)
{
	bool own = e->owner == fork_id();
	unsigned int i;

	memory_back(e->memfd.counted);
	memfd_met(e);
	close_fds(e->memfd.bell[0], 2);
	close_fds(e->memfd.bell[1], 2);
	/*
	 * A descriptor that is closed leaves the loops that it was added to, unless a
	 * child has a copy for a moment (stranger.c).  So the set is emptied, and
	 * reports nothing.  In a process made by fork(2) the set belongs to the parent,
	 * which still waits on it.
	 */
	for (i = BELL_RX; own && i <= BELL_TX && e->memfd.both >= 0; i++)
		epoll_ctl(e->memfd.both, EPOLL_CTL_DEL, e->memfd.role[i], NULL);
	close_fds(&e->memfd.both, 1);
	close_fds(e->memfd.role, 2);
}

/*
 * Rings a doorbell.  A full counter is as good as a rung doorbell, and a peer that is
 * gone needs none, so there is no error to return.
 */
static void bell_ring(int fd)
{
	const uint64_t one = 1;
	ssize_t ignored = write(fd, &one, sizeof(one));

	(void)ignored;
}

static unsigned int memfd_bell(struct endpoint *e, struct evering_bell *bell)
{
	bell->fd = e->memfd.bell[!e->end][BELL_RX];
	bell->command = 0;
	return EVERING_RX;
}

static unsigned int role_of(unsigned int bell)
{
	return bell == BELL_RX ? EVERING_RX : EVERING_TX;
}

/* Makes this side's @bell ready in an epoll set, with @data. */
static void make_heard(int set, int bell, uint64_t data)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET,
				     .data.u64 = data };

	epoll_ctl(set, EPOLL_CTL_MOD, bell, &event);
}

/*
 * The peer has the same open files.  It can make writes to them block, and can fill
 * them, after which a write is no event any more.  So this writes nothing.  It makes
 * each set that contains this side's doorbells look at them again, for what an eventfd
 * always is: readable, writable, or both.  If there is no set, no thread sleeps in one,
 * and a thread that makes one finds out whether this was called (wake_late()).
 * epoll_ctl(2) is only a system call, and as safe in a signal handler as those that
 * signal-safety(7) lists.
 *
 * The group may remove the endpoint and add it again meanwhile, with other data.
 */
static void memfd_wake(struct endpoint *e, unsigned int what)
{
	const int *bell = e->memfd.bell[e->end];
	uint64_t group;
	unsigned int i;
	int set;

	for (i = BELL_RX; i <= BELL_TX; i++) {
		if (!(what & role_of(i)))
			continue;
		do {
			group = __atomic_load_n(&e->memfd.group,
						__ATOMIC_SEQ_CST);
			if (group)
				make_heard((int)(group >> 32) - 1, bell[i],
					   (uint32_t)group | role_of(i));
		} while (group !=
			 __atomic_load_n(&e->memfd.group, __ATOMIC_SEQ_CST));
		set = __atomic_load_n(&e->memfd.role[i], __ATOMIC_SEQ_CST);
		if (set >= 0)
			make_heard(set, bell[i], role_of(i));
	}
}

/*
 * Whether a write to the doorbell would wait until it is emptied.  An honest peer's
 * never does that.
 */
static bool bell_is_full(int fd)
{
	struct pollfd bell = { .fd = fd, .events = POLLOUT };

	return poll(&bell, 1, 0) >= 0 && !(bell.revents & POLLOUT);
}

/*
 * A peer that fills its doorbell delays the side that rings it.  In a group it would
 * delay all other members too, so the group looks first, and reports the end of the
 * channel like a death.  A peer that fills it between the look and the write still
 * causes a wait.
 */
static unsigned int memfd_ring(struct endpoint *e, unsigned int what)
{
	const int *bell = e->memfd.bell[!e->end];
	unsigned int i;

	for (i = BELL_RX; i <= BELL_TX; i++) {
		if (!(what & role_of(i)))
			continue;
		if (EVERING_UNLIKELY(e->member) && bell_is_full(bell[i])) {
			channel_end(e, -EPROTO);
			memfd_wake(e, EVERING_RX);
		} else {
			bell_ring(bell[i]);
		}
	}
	return what;
}

/* There is a set now.  Repeats an evering_wake() that came when there was none. */
static void wake_late(struct endpoint *e)
{
	unsigned int woken;

	evering_full_fence(); /* the store of the set, then the look at the word */
	woken = __atomic_load_n(&e->woken, __ATOMIC_RELAXED);
	if (woken)
		memfd_wake(e, woken);
}

/* A descriptor that an epoll set watches for @events, and reports with @data. */
struct watched {
	int fd;
	uint32_t events;
	uint64_t data;
};

static int new_set(const struct watched *watched, unsigned int count)
{
	struct epoll_event event;
	int set, error;

	set = epoll_create1(EPOLL_CLOEXEC);
	if (set < 0)
		return -errno;
	while (count--) {
		event.events = watched[count].events;
		event.data.u64 = watched[count].data;
		if (epoll_ctl(set, EPOLL_CTL_ADD, watched[count].fd, &event)) {
			error = -errno;
			close(set);
			return error;
		}
	}
	return set;
}

/* Stores @set in *@at, unless another thread was faster.  Returns what is there now. */
static int publish_set(int *at, int set)
{
	int none = -1;

	if (set < 0 ||
	    __atomic_compare_exchange_n(at, &none, set, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return set;
	close(set);
	return none;
}

/*
 * The set of a role, made at the first use: the role's doorbell and the end of the
 * connection.  It is edge-triggered, so each wake-up is reported once and the eventfd
 * need not be emptied.  That saves a system call, and one that the peer could make
 * block.
 */
static int role_set(struct endpoint *e, unsigned int bell)
{
	const struct watched watched[] = {
		{ e->sock, EPOLLRDHUP, 0 },
		{ e->memfd.bell[e->end][bell], EPOLLIN | EPOLLET,
		  role_of(bell) },
	};
	int set = __atomic_load_n(&e->memfd.role[bell], __ATOMIC_ACQUIRE);

	if (set >= 0)
		return set;
	set = publish_set(&e->memfd.role[bell],
			  new_set(watched, ARRAY_SIZE(watched)));
	if (set >= 0)
		wake_late(e);
	return set;
}

/*
 * A set of the sets of both roles, so that each role still gets, and consumes, its own
 * events.
 */
static int both_set(struct endpoint *e)
{
	struct watched watched[2];
	unsigned int i;
	int set = __atomic_load_n(&e->memfd.both, __ATOMIC_ACQUIRE);

	if (set >= 0)
		return set;
	for (i = BELL_RX; i <= BELL_TX; i++) {
		set = role_set(e, i);
		if (set < 0)
			return set;
		watched[i] = (struct watched){ set, EPOLLIN, i };
	}
	return publish_set(&e->memfd.both,
			   new_set(watched, ARRAY_SIZE(watched)));
}

/* Takes the events of a role's set; *@gone: the peer is gone. */
static unsigned int hear(int set, bool *gone)
{
	struct epoll_event events[2];
	unsigned int rung = 0;
	int n;

	for (n = epoll_wait(set, events, 2, 0); n > 0; n--) {
		rung |= (unsigned int)events[n - 1].data.u64;
		*gone |= !events[n - 1].data.u64;
	}
	return rung;
}

static unsigned int memfd_drain(struct endpoint *e, unsigned int what)
{
	unsigned int rung = 0, i;
	bool gone = false;
	int set;

	for (i = BELL_RX; i <= BELL_TX; i++) {
		set = __atomic_load_n(&e->memfd.role[i], __ATOMIC_ACQUIRE);
		/* Without a set nothing was read, and the event is still to come. */
		if (set >= 0 && (what & role_of(i)))
			rung |= hear(set, &gone);
	}
	return rung;
}

/*
 * epoll_pwait2(2) of Linux 5.11, by its number, because not all C libraries have it.
 * Filters that do not know the system call return various errors.
 */
int wait_precisely(int set, struct epoll_event *events, int count,
		   const struct timespec *left, const sigset_t *mask)
{
#ifdef SYS_epoll_pwait2
	const struct {
		int64_t seconds;
		int64_t nanoseconds;
	} timeout = { left->tv_sec, left->tv_nsec };
	static bool refused;
	struct pollfd fd = { .fd = set, .events = POLLIN };
	int n;

	if (!__atomic_load_n(&refused, __ATOMIC_RELAXED)) {
		n = (int)syscall(SYS_epoll_pwait2, set, events, count, &timeout,
				 mask, (size_t)_NSIG / 8);
		if (n >= 0 || errno == EINTR)
			return n;
		__atomic_store_n(&refused, true, __ATOMIC_RELAXED);
	}
#else
	struct pollfd fd = { .fd = set, .events = POLLIN };
	int n;
#endif
	n = ppoll(&fd, 1, left, mask);
	return n > 0 ? epoll_wait(set, events, count, 0) : n;
}

/* Sleeps on the set of one role. */
static int sleep_on_set(int set, unsigned int what, const struct timespec *left,
			const sigset_t *mask)
{
	struct epoll_event events[2];
	int n;

	if (left)
		n = wait_precisely(set, events, 2, left, mask);
	else
		n = epoll_pwait(set, events, 2, -1, mask);
	if (n < 0)
		return -errno;
	if (n == 0)
		return left ? -ETIMEDOUT : 0;
	while (n--)
		if (events[n].data.u64)
			return (int)what;
	return -EPIPE;
}

/* Sleeps in both roles. */
static int sleep_on_both(struct endpoint *e, int set,
			 const struct timespec *left, const sigset_t *mask)
{
	struct pollfd fd = { .fd = set, .events = POLLIN };
	bool gone = false;
	unsigned int rung;
	int ret;

	ret = ppoll(&fd, 1, left, mask);
	if (ret < 0)
		return -errno;
	if (ret == 0)
		return -ETIMEDOUT;
	rung = hear(e->memfd.role[BELL_RX], &gone) |
	       hear(e->memfd.role[BELL_TX], &gone);
	return rung || !gone ? (int)rung : -EPIPE;
}

/*
 * Empties a doorbell.  Returns whether it was rung.  The peer has the same open file
 * and could make the read block, so this uses RWF_NOWAIT if the kernel has that.
 */
static bool bell_take(int fd)
{
	uint64_t rings;
	struct iovec iov = { &rings, sizeof(rings) };
	long ret = -1;

	errno = ENOSYS;
#ifdef SYS_preadv2
	ret = syscall(SYS_preadv2, fd, &iov, 1, -1l, -1l, RWF_NOWAIT);
#endif
	if (ret < 0 && errno != EAGAIN && errno != EINTR) {
		fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
		ret = read(fd, iov.iov_base, iov.iov_len);
	}
	return ret == sizeof(rings);
}

/*
 * Sleeps without an epoll set, if none can be made.  evering_wake() cannot end such a
 * sleep, so it ends from time to time, to look, and to try again to make a set.
 */
static __attribute__((noinline)) int sleep_on_bells(struct endpoint *e,
						    unsigned int what,
						    const struct timespec *left,
						    const sigset_t *mask)
{
	static const struct timespec look = { 0, LOOK_NS };
	bool looks = !left || left->tv_sec || left->tv_nsec > LOOK_NS;
	const int *bell = e->memfd.bell[e->end];
	struct pollfd fds[3] = {
		{ .fd = e->sock, .events = POLLRDHUP },
		{ .fd = what & EVERING_RX ? bell[BELL_RX] : -1,
		  .events = POLLIN },
		{ .fd = what & EVERING_TX ? bell[BELL_TX] : -1,
		  .events = POLLIN },
	};
	unsigned int rung = 0;
	int ret;

	ret = ppoll(fds, ARRAY_SIZE(fds), looks ? &look : left, mask);
	if (ret < 0)
		return -errno;
	if (ret == 0)
		return looks ? 0 : -ETIMEDOUT;
	if ((fds[1].revents & POLLIN) && bell_take(bell[BELL_RX]))
		rung |= EVERING_RX;
	if ((fds[2].revents & POLLIN) && bell_take(bell[BELL_TX]))
		rung |= EVERING_TX;
	if (fds[0].revents && !rung)
		return -EPIPE;
	return (int)rung;
}

static int memfd_sleep(struct endpoint *e, unsigned int what, unsigned int ring,
		       int64_t deadline, const sigset_t *mask,
		       unsigned int *rang)
{
	__u64 *syscalls = what & EVERING_RX ? &e->half->counters.rx_syscalls :
					      &e->half->counters.tx_syscalls;
	const struct timespec *left;
	struct timespec storage;
	int set;

	if (ring)
		*rang = memfd_ring(e, ring);
	counter_add(syscalls, ring ? 2 : 1);
	left = time_left(deadline, &storage);
	if (what == (EVERING_RX | EVERING_TX)) {
		set = both_set(e);
		if (set >= 0)
			return sleep_on_both(e, set, left, mask);
	} else {
		set = role_set(e, what == EVERING_RX ? BELL_RX : BELL_TX);
		if (set >= 0)
			return sleep_on_set(set, what, left, mask);
	}
	return sleep_on_bells(e, what, left, mask);
}

static bool memfd_gone(struct endpoint *e)
{
	struct pollfd fd = { .fd = e->sock, .events = POLLRDHUP };

	return poll(&fd, 1, 0) > 0;
}

/* An epoll set has no other event. */
static short memfd_events(unsigned int what)
{
	(void)what;
	return POLLIN;
}

/* Adds the doorbells and the socket themselves, because a set in a set is slower. */
static int memfd_watch(struct endpoint *e, int set, uint64_t data)
{
	const int *bell = e->memfd.bell[e->end];
	const struct {
		int fd;
		uint32_t events;
		uint64_t data;
	} watched[] = {
		{ e->sock, EPOLLRDHUP | EPOLLET, data },
		{ bell[BELL_RX], EPOLLIN | EPOLLET, data | EVERING_RX },
		{ bell[BELL_TX], EPOLLIN | EPOLLET, data | EVERING_TX },
	};
	struct epoll_event event;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(watched); i++) {
		event.events = watched[i].events;
		event.data.u64 = watched[i].data;
		if (epoll_ctl(set, EPOLL_CTL_ADD, watched[i].fd, &event))
			return -errno;
	}
	/* A group has few enough members for @data to fit in 32 bits. */
	__atomic_store_n(&e->memfd.group, (uint64_t)(set + 1) << 32 | data,
			 __ATOMIC_SEQ_CST);
	wake_late(e);
	return 0;
}

static void memfd_unwatch(struct endpoint *e, int set)
{
	const int *bell = e->memfd.bell[e->end];

	__atomic_store_n(&e->memfd.group, 0, __ATOMIC_SEQ_CST);
	epoll_ctl(set, EPOLL_CTL_DEL, e->sock, NULL);
	epoll_ctl(set, EPOLL_CTL_DEL, bell[BELL_RX], NULL);
	epoll_ctl(set, EPOLL_CTL_DEL, bell[BELL_TX], NULL);
}

static int memfd_grow(struct endpoint *e, uint64_t from, uint64_t to)
{
	unsigned char *map = e->map[own_arena(e)];
	int ret;

	if (!memory_for_more(to - from))
		return -ENOMEM;
	ret = populate(map + from, map + to, MADV_POPULATE_WRITE, INT64_MAX);
	if (ret)
		return -ENOMEM;
	publish_grown(e, to);
	return 0;
}

static uint64_t memfd_grown(const struct endpoint *e)
{
	if (!e->partial[!e->end])
		return e->geometry.arena_size[!e->end];
	return (uint64_t)evering_load_acquire(&e->peer->grown) *
	       EVERING_ARENA_ALIGN;
}

/* A peer that grows arenas has a kernel that can do so, and it is the same kernel. */
static int memfd_see(struct endpoint *e, uint64_t from, uint64_t to)
{
	unsigned char *map = e->map[EVERING_REGION_ARENA(!e->end)];
	uint64_t ask = to - from;
	int ret;

	/*
	 * A question costs some reads of files, and a peer that grows page by page must
	 * not decide how many.  So ask for more at once, if there is so much.
	 */
	if (to > __atomic_load_n(&e->memfd.asked, __ATOMIC_RELAXED)) {
		if (ask < ASK_FOR && memory_for_more(ASK_FOR))
			ask = ASK_FOR;
		else if (!memory_for_more(ask))
			return -ENOMEM;
		__atomic_store_n(&e->memfd.asked, from + ask, __ATOMIC_RELAXED);
	}
	ret = populate(map + from, map + to, MADV_POPULATE_READ, INT64_MAX);
	return ret == -EINVAL ? -EPROTO : ret;
}

const struct backend memfd_backend = {
	.name = "memfd",
	.id = EVERING_BACKEND_MEMFD,
	.create = memfd_make,
	.join = memfd_join,
	.complete = take_peers,
	.offer = memfd_offer,
	.met = memfd_met,
	.destroy = memfd_destroy,
	.ring = memfd_ring,
	.bell = memfd_bell,
	.sleep = memfd_sleep,
	.socket = true,
	.masks = true,
	.wake = memfd_wake,
	.drain = memfd_drain,
	.gone = memfd_gone,
	.fd = both_set,
	.events = memfd_events,
	.watch = memfd_watch,
	.unwatch = memfd_unwatch,
	.grow = memfd_grow,
	.grown = memfd_grown,
	.see = memfd_see,
};
