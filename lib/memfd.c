// SPDX-License-Identifier: MIT
/*
 * memfd.c: channels without the kernel module.
 *
 * Each region is a memfd of its own.  Its owner allocates it whole, maps it for
 * writing and then seals it: nobody can shrink or grow it or punch holes into it,
 * and nobody, the peer least of all, can map it for writing again
 * (F_SEAL_FUTURE_WRITE).  The peer checks the seals, the size, and that every page is
 * there before it maps anything, so no access can end in SIGBUS.
 *
 * Each endpoint has two doorbells, eventfds: one for the thread that receives and one
 * for the thread that sends, so that neither takes the other's ring.  The
 * connection that the two met over stays open; that it hangs up is how the death of
 * the peer is noticed.  A thread sleeps on an epoll set of both, edge-triggered:
 * it hears each ring once, and need not empty the eventfd.
 *
 * What only the module can do: a process that holds an endpoint and a fork of it look
 * like one until both are gone; a peer that makes its eventfd blocking and fills it
 * can keep who rings it waiting; and of arenas that both may write
 * (EVERING_SHARED_ARENA) either can free the pages, which are then others when they
 * are touched again, for there is no seal against that alone.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define SEALS_SIZE   (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define SEALS_OWN    (SEALS_SIZE | F_SEAL_FUTURE_WRITE)
#define SEALS_STATUS (SEALS_SIZE | F_SEAL_WRITE)

#define BELL_RX	     0
#define BELL_TX	     1

static unsigned int own_half(const struct endpoint *e)
{
	return EVERING_REGION_HALF(e->end);
}

static unsigned int own_arena(const struct endpoint *e)
{
	return EVERING_REGION_ARENA(e->end);
}

static int new_memfd(unsigned int region)
{
	static const char *const names[EVERING_REGIONS] = {
		"evering-status",  "evering-half-a",  "evering-half-b",
		"evering-arena-a", "evering-arena-b",
	};
	const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd;

	fd = memfd_create(names[region], flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(names[region], flags);
	return fd < 0 ? -errno : fd;
}

/*
 * Could @size bytes be had?  Allocating them is not held back by overcommit, and
 * might well end with the OOM killer instead of an error.
 */
static bool memory_there(size_t size)
{
	unsigned long long kib;
	struct sysinfo info;
	bool known = false;
	char line[128];
	FILE *file;

	if (size < (64u << 20)) /* not worth the question */
		return true;
	file = fopen("/proc/meminfo", "re");
	while (file && !known && fgets(line, sizeof(line), file))
		known = sscanf(line, "MemAvailable: %llu kB", &kib) == 1;
	if (file)
		fclose(file);
	if (known)
		return size / 1024 <= kib;
	return sysinfo(&info) || size / info.mem_unit <= info.totalram;
}

/* May a file be so large?  If not, the kernel would send SIGXFSZ. */
static bool file_may_be(size_t size)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_FSIZE, &limit) || size <= limit.rlim_cur;
}

/* Makes, maps and seals a region that this side writes. */
static int make_region(struct endpoint *e, unsigned int region)
{
	size_t size = region_size(&e->geometry, region);
	int fd, ret;

	if (!size)
		return 0;
	if (!file_may_be(size))
		return -EFBIG;
	if (!memory_there(size))
		return -ENOMEM;
	fd = new_memfd(region);
	if (fd < 0)
		return fd;
	e->memfd.region[region] = fd;
	if (ftruncate(fd, (off_t)size))
		return -errno;
	/* Every page now, or an error now: never a SIGBUS later. */
	do
		ret = fallocate(fd, 0, 0, (off_t)size);
	while (ret && errno == EINTR);
	if (ret)
		return errno == ENOSPC ? -ENOMEM : -errno;
	ret = endpoint_map(e, region, fd, 0, PROT_READ | PROT_WRITE);
	if (ret)
		return ret;
	if (fcntl(fd, F_ADD_SEALS,
		  endpoint_shares(e, region) ? SEALS_SIZE : SEALS_OWN))
		return -errno;
	return 0;
}

static int make_status(struct endpoint *e)
{
	const struct evering_status status = {
		.magic = EVERING_MAGIC,
		.abi = EVERING_ABI_VERSION,
		.size = sizeof(status),
		.geometry = e->geometry,
		.half_size = half_size(&e->geometry),
		.arena_there = { e->geometry.arena_size[0],
				 e->geometry.arena_size[1] },
		.end = {
			{ .state = EVERING_STATE_ATTACHED, .epoch = 1 },
			{ .state = EVERING_STATE_ATTACHED, .epoch = 1 },
		},
	};
	size_t size = region_size(&e->geometry, EVERING_REGION_STATUS);
	ssize_t written;
	int fd;

	if (!file_may_be(size))
		return -EFBIG;
	fd = new_memfd(EVERING_REGION_STATUS);
	if (fd < 0)
		return fd;
	e->memfd.region[EVERING_REGION_STATUS] = fd;
	if (ftruncate(fd, (off_t)size))
		return -errno;
	written = pwrite(fd, &status, sizeof(status), 0);
	if (written != sizeof(status))
		return written < 0 && errno != ENOSPC ? -errno : -ENOMEM;
	if (fcntl(fd, F_ADD_SEALS, SEALS_STATUS))
		return -errno;
	return endpoint_map(e, EVERING_REGION_STATUS, fd, 0, PROT_READ);
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

static int make_own(struct endpoint *e)
{
	int ret = make_region(e, own_half(e));

	return ret ? ret : make_region(e, own_arena(e));
}

static int memfd_make(struct endpoint *e)
{
	int ret = make_bells(e);

	if (!ret)
		ret = make_status(e);
	return ret ? ret : make_own(e);
}

/* The regions that @end makes, in the order in which they are offered. */
static unsigned int offered_regions(const struct endpoint *e, unsigned int end,
				    unsigned int regions[3])
{
	unsigned int count = 0;

	if (end == EVERING_A)
		regions[count++] = EVERING_REGION_STATUS;
	regions[count++] = EVERING_REGION_HALF(end);
	if (e->geometry.arena_size[end])
		regions[count++] = EVERING_REGION_ARENA(end);
	return count;
}

static unsigned int memfd_offer(struct endpoint *e, int fds[MAX_HELLO_FDS])
{
	unsigned int regions[3], count, i;

	count = offered_regions(e, e->end, regions);
	for (i = 0; i < count; i++)
		fds[i] = e->memfd.region[regions[i]];
	fds[count++] = e->memfd.bell[e->end][BELL_RX];
	fds[count++] = e->memfd.bell[e->end][BELL_TX];
	return count;
}

/*
 * A memfd of the peer's: is it sealed against everything that could hurt, is it as
 * large as it should be, and are all its pages there?
 */
static int check_memfd(const struct endpoint *e, unsigned int region, int fd)
{
	size_t size = region_size(&e->geometry, region);
	int need, seals;
	struct statfs fs;
	struct stat st;

	if (region == EVERING_REGION_STATUS)
		need = SEALS_STATUS;
	else if (endpoint_shares(e, region))
		need = SEALS_SIZE;
	else
		need = SEALS_OWN;

	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & need) != need)
		return -EPROTO;
	if (fstat(fd, &st) || fstatfs(fd, &fs))
		return -EPROTO;
	if (fs.f_type != TMPFS_MAGIC || st.st_size != (off_t)size)
		return -EPROTO;
	/*
	 * To the size that it has: takes away pages behind its end, which st_blocks
	 * would count for pages that are not there, and fails if it is not open for
	 * writing.
	 */
	if (ftruncate(fd, (off_t)size) || fstat(fd, &st) ||
	    (uint64_t)st.st_blocks * 512 < size)
		return -EPROTO;
	return 0;
}

/*
 * An eventfd of the peer's.  The rings are written to it with this process's
 * credentials, so it must not be a file for which these matter: eventfds share one
 * inode with other such anonymous files, and with nothing else.
 */
static int check_bell(const struct endpoint *e, int fd)
{
	struct stat own, st;

	if (fstat(e->memfd.bell[e->end][BELL_RX], &own) || fstat(fd, &st))
		return -EPROTO;
	if (st.st_dev != own.st_dev || st.st_ino != own.st_ino)
		return -EPROTO;
	return 0;
}

/* Takes what the peer offers; owns @fds. */
static int take_peers(struct endpoint *e, const int *fds, unsigned int count)
{
	unsigned int peer = !e->end;
	unsigned int regions[3], wanted, i;
	int ret = 0;

	wanted = offered_regions(e, peer, regions);
	if (count != wanted + 2) {
		close_fds(fds, count);
		return -EPROTO;
	}
	for (i = 0; i < wanted; i++)
		e->memfd.region[regions[i]] = fds[i];
	for (i = 0; i < 2; i++)
		e->memfd.bell[peer][i] = fds[wanted + i];

	for (i = 0; i < wanted && !ret; i++) {
		ret = check_memfd(e, regions[i], fds[i]);
		if (!ret)
			ret = endpoint_map(e, regions[i], fds[i], 0,
					   endpoint_shares(e, regions[i]) ?
						   PROT_READ | PROT_WRITE :
						   PROT_READ);
		/* It cannot be mapped so: not what belongs to a channel. */
		if (ret == -EACCES || ret == -EPERM)
			ret = -EPROTO;
	}
	for (i = 0; i < 2 && !ret; i++)
		ret = check_bell(e, e->memfd.bell[peer][i]);
	if (!ret && peer == EVERING_A)
		ret = endpoint_check_status(e);
	return ret;
}

/* Nothing is allocated for who does not bring what belongs to a channel. */
static int memfd_join(struct endpoint *e, const int *fds, unsigned int count)
{
	int ret = make_bells(e);

	if (ret) {
		close_fds(fds, count);
		return ret;
	}
	ret = take_peers(e, fds, count);
	return ret ? ret : make_own(e);
}

/* The mappings hold the memory from here on. */
static void memfd_met(struct endpoint *e)
{
	unsigned int i;

	for (i = 0; i < EVERING_REGIONS; i++) {
		if (e->memfd.region[i] >= 0)
			close(e->memfd.region[i]);
		e->memfd.region[i] = -1;
	}
}

static void memfd_destroy(struct endpoint *e)
{
	memfd_met(e);
	close_fds(e->memfd.bell[0], 2);
	close_fds(e->memfd.bell[1], 2);
	close_fds(&e->memfd.epoll, 1);
	close_fds(e->memfd.sleeper, 2);
}

/*
 * A full counter is as good as a ring, and a ring that nobody is left to hear is no
 * loss either: there is no error to tell of.
 */
static void bell_ring(int fd)
{
	const uint64_t one = 1;
	ssize_t ignored = write(fd, &one, sizeof(one));

	(void)ignored;
}

static unsigned int memfd_ring(struct endpoint *e, unsigned int what)
{
	const int *bell = e->memfd.bell[!e->end];

	if (what & EVERING_RX)
		bell_ring(bell[BELL_RX]);
	if (what & EVERING_TX)
		bell_ring(bell[BELL_TX]);
	return what;
}

static unsigned int memfd_bell(struct endpoint *e, struct evering_bell *bell)
{
	bell->fd = e->memfd.bell[!e->end][BELL_RX];
	bell->command = 0;
	return EVERING_RX;
}

/*
 * Forgets rings of a bell; says whether there was one.  RWF_NOWAIT because the peer
 * has the same open file, and could have made it blocking and emptied it.
 */
static bool bell_take(int fd)
{
	uint64_t rings;
	struct iovec iov = { &rings, sizeof(rings) };
	ssize_t ret;

	ret = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	if (ret < 0 && errno == EOPNOTSUPP) /* before Linux 5.8 */
		ret = read(fd, &rings, sizeof(rings));
	return ret == sizeof(rings);
}

static unsigned int memfd_drain(struct endpoint *e, unsigned int what)
{
	const int *bell = e->memfd.bell[e->end];
	unsigned int rung = 0;

	if ((what & EVERING_RX) && bell_take(bell[BELL_RX]))
		rung |= EVERING_RX;
	if ((what & EVERING_TX) && bell_take(bell[BELL_TX]))
		rung |= EVERING_TX;
	return rung;
}

/* An epoll set of the connection's end and some bells.  The descriptor, or -errno. */
static int new_set(const struct endpoint *e, unsigned int bells, uint32_t flags)
{
	struct epoll_event event = { .events = EPOLLRDHUP };
	int fd, error = 0;
	unsigned int i;

	fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (epoll_ctl(fd, EPOLL_CTL_ADD, e->sock, &event))
		error = -errno;
	for (i = BELL_RX; i <= BELL_TX && !error; i++) {
		event.events = EPOLLIN | flags;
		event.data.u32 = i == BELL_RX ? EVERING_RX : EVERING_TX;
		if ((bells & event.data.u32) &&
		    epoll_ctl(fd, EPOLL_CTL_ADD, e->memfd.bell[e->end][i],
			      &event))
			error = -errno;
	}
	if (error)
		close(fd);
	return error ? error : fd;
}

/*
 * A sleep on one bell.  Edge-triggered, what is written to an eventfd is heard once
 * and need not be read, which saves a system call in three.  -ENOSYS: not to be had.
 */
static int sleep_on_edge(struct endpoint *e, unsigned int what,
			 const struct timespec *left)
{
	struct role *role = what == EVERING_RX ? &e->rx : &e->tx;
	int *set = &e->memfd.sleeper[what == EVERING_RX ? BELL_RX : BELL_TX];
	struct epoll_event events[2];
	int n;

	if (*set < 0)
		*set = new_set(e, what, EPOLLET);
	if (*set < 0)
		return -ENOSYS;
	/* One that needs no newer kernel, and is known to sanitizers. */
	if (!left)
		n = epoll_wait(*set, events, 2, -1);
	else
		n = epoll_pwait2(*set, events, 2, left, NULL);
	if (n < 0)
		return -errno;
	if (n == 0)
		return -ETIMEDOUT;
	role->unread = true;
	while (n--)
		if (events[n].data.u32)
			return (int)what;
	return -EPIPE;
}

/* Where there is no epoll set to be had, and for both bells. */
static __attribute__((noinline)) int sleep_on_level(struct endpoint *e,
						    unsigned int what,
						    const struct timespec *left,
						    __u64 *syscalls)
{
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

	ret = ppoll(fds, ARRAY_SIZE(fds), left, NULL);
	if (ret < 0)
		return -errno;
	if (ret == 0)
		return -ETIMEDOUT;
	if ((fds[1].revents & POLLIN) && bell_take(bell[BELL_RX]))
		rung |= EVERING_RX;
	if ((fds[2].revents & POLLIN) && bell_take(bell[BELL_TX]))
		rung |= EVERING_TX;
	if (fds[1].revents || fds[2].revents)
		counter_add(syscalls, 1);
	if (fds[0].revents && !rung)
		return -EPIPE;
	return (int)rung;
}

static int memfd_sleep(struct endpoint *e, unsigned int what, unsigned int ring,
		       int64_t deadline, unsigned int *rang)
{
	__u64 *syscalls = what & EVERING_RX ? &e->half->counters.rx_syscalls :
					      &e->half->counters.tx_syscalls;
	const struct timespec *left;
	struct timespec storage;
	int ret = -ENOSYS;

	if (ring)
		*rang = memfd_ring(e, ring);
	counter_add(syscalls, ring ? 2 : 1);
	left = time_left(deadline, &storage);
	if (what != (EVERING_RX | EVERING_TX))
		ret = sleep_on_edge(e, what, left);
	return ret == -ENOSYS ? sleep_on_level(e, what, left, syscalls) : ret;
}

static bool memfd_gone(struct endpoint *e)
{
	struct pollfd fd = { .fd = e->sock, .events = POLLRDHUP };

	return poll(&fd, 1, 0) > 0;
}

static int memfd_fd(struct endpoint *e)
{
	int none = -1, fd;

	fd = __atomic_load_n(&e->memfd.epoll, __ATOMIC_ACQUIRE);
	if (fd >= 0)
		return fd;
	fd = new_set(e, EVERING_RX | EVERING_TX, 0);
	if (fd < 0)
		return fd;
	if (!__atomic_compare_exchange_n(&e->memfd.epoll, &none, fd, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		close(fd); /* another thread was faster */
		return none;
	}
	return fd;
}

/* An epoll set knows no other kind of ready. */
static short memfd_events(unsigned int what)
{
	(void)what;
	return POLLIN;
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
	.drain = memfd_drain,
	.gone = memfd_gone,
	.fd = memfd_fd,
	.events = memfd_events,
};
