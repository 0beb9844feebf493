// SPDX-License-Identifier: MIT
/*
 * device.c: the backend of the evering kernel module.
 *
 * An endpoint is a single descriptor, for its memory, doorbells and liveness.  The
 * kernel allocates the regions and lets each side map only its own regions for writing.
 * So the library only checks that the descriptor is an endpoint.  The kernel clears
 * EVERING_ARMED of a sleeper that it wakes, and keeps the state of each endpoint in
 * STATUS, where a load reads it.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#define DEVICE "/dev/evering"

/*
 * Whether no process has attached this endpoint yet.  If a stranger could offer a
 * descriptor twice, this side would have two channels in the same memory, which would
 * corrupt each other.
 */
static bool is_new(const struct endpoint *e)
{
	const struct evering_status *status = e->map[EVERING_REGION_STATUS];

	return evering_load_acquire(&status->end[e->end].state) ==
	       EVERING_STATE_NEW;
}

static int map_all(struct endpoint *e)
{
	unsigned int region, own = e->end;
	int ret = 0, prot;

	for (region = 0; region < EVERING_REGIONS && !ret; region++) {
		prot = PROT_READ;
		if (region == EVERING_REGION_HALF(own) ||
		    region == EVERING_REGION_ARENA(own) ||
		    endpoint_shares(e, region))
			prot |= PROT_WRITE;
		ret = endpoint_map(e, region, e->device.fd,
				   (off_t)EVERING_MMAP_OFFSET(region), prot);
		if (!ret && region == EVERING_REGION_STATUS && !is_new(e))
			ret = -EPROTO;
	}
	return ret;
}

/* There is no module, or this user may not use it. */
static int open_error(int error)
{
	switch (error) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
	case EACCES:
	case EPERM:
		return -ENODEV;
	default:
		return -error;
	}
}

/*
 * Checks the version of the module.  Sets *@features to EVERING_FEATURE_*, the
 * functions that the module has beyond the first version.
 */
static int check_abi(int device, uint64_t *features)
{
	struct evering_info info = { .size = sizeof(info) };

	if (ioctl(device, EVERING_IOC_INFO, &info))
		/* The file is not the module's device. */
		return errno == ENOTTY ? -ENODEV : -errno;
	*features = info.features;
	return info.abi == EVERING_ABI_VERSION ? 0 : -EPROTONOSUPPORT;
}

/* How many bytes of an arena have memory.  The kernel's number is trusted. */
static uint64_t there(const struct endpoint *e, unsigned int end)
{
	const struct evering_status *status = e->map[EVERING_REGION_STATUS];

	return __atomic_load_n(&status->arena_there[end], __ATOMIC_ACQUIRE);
}

static int grow_to(struct endpoint *e, uint64_t bytes)
{
	struct evering_grow grow = { .size = sizeof(grow), .there = bytes };

	return ioctl(e->device.fd, EVERING_IOC_GROW, &grow) ? -errno : 0;
}

/*
 * Attaches the endpoint, after its regions are mapped.  From now on no other process
 * can be this endpoint.  If another process has attached it before, there is no
 * channel.
 */
static int attach(struct endpoint *e)
{
	struct evering_attach attach = { .size = sizeof(attach) };

	return ioctl(e->device.fd, EVERING_IOC_ATTACH, &attach) ? -errno : 0;
}

static int device_make(struct endpoint *e, int64_t deadline)
{
	struct evering_create create = {
		.size = sizeof(create),
		.geometry = e->geometry,
	};
	uint64_t features = 0;
	int fd, ret;

	(void)deadline;
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return open_error(errno);
	ret = check_abi(fd, &features);
	if (features & EVERING_FEATURE_GROW) {
		/* Nothing of the other side's arena, which has its own arena_begin. */
		create.flags = EVERING_CREATE_GROW;
		create.arena_begin[EVERING_A] = e->begin;
	}
	if (!ret && ioctl(fd, EVERING_IOC_CREATE, &create))
		ret = -errno;
	close(fd);
	if (ret)
		return ret;
	e->device.fd = create.fd[EVERING_A];
	e->device.peers = create.fd[EVERING_B];
	ret = map_all(e);
	e->partial[!e->end] = true;
	e->begin = ret ? 0 : there(e, e->end);
	return ret ? ret : attach(e);
}

static unsigned int device_offer(struct endpoint *e, int fds[MAX_HELLO_FDS])
{
	/* The accepting side offers nothing. */
	if (e->device.peers < 0)
		return 0;
	fds[0] = e->device.peers;
	return 1;
}

/*
 * Checks a stranger's descriptor.  A file on the file system of anonymous inodes is
 * neither a socket nor on FUSE, and among those only endpoints of evering have this
 * ioctl.
 */
static int check_endpoint(int fd)
{
	struct evering_peer_cred cred = { .size = sizeof(cred) };
	struct stat st, anonymous;
	int event, ret = -EPROTO;

	event = eventfd(0, EFD_CLOEXEC);
	if (event < 0)
		return -errno;
	if (!fstat(fd, &st) && !fstat(event, &anonymous) &&
	    st.st_dev == anonymous.st_dev &&
	    (!ioctl(fd, EVERING_IOC_PEER_CRED, &cred) || errno == ENOTCONN))
		ret = 0;
	close(event);
	return ret;
}

/*
 * The geometry of the channel of the endpoint @fd; -EPROTO: it is not an endpoint, or
 * of another version.
 */
int device_geometry(int fd, struct evering_geometry *geometry)
{
	const struct evering_status *status;
	void *map;
	int ret;

	if (fcntl(fd, F_GETFD) < 0)
		return -errno;
	ret = check_endpoint(fd);
	if (ret)
		return ret;
	map = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, fd,
		   (off_t)EVERING_MMAP_OFFSET(EVERING_REGION_STATUS));
	if (map == MAP_FAILED)
		return errno == ESTALE ? -EPROTO : -errno;
	status = map;
	*geometry = status->geometry;
	munmap(map, page_size());
	return 0;
}

static int device_join(struct endpoint *e, const int *fds, unsigned int count,
		       int64_t deadline)
{
	int ret;

	(void)deadline;

	if (count != 1) {
		close_fds(fds, count);
		return -EPROTO;
	}
	e->device.fd = fds[0];
	ret = check_endpoint(fds[0]);
	if (ret)
		return ret;
	/* The wrong endpoint, or another geometry, cannot be mapped. */
	ret = map_all(e);
	if (!ret)
		ret = endpoint_check_status(e);
	/*
	 * Older modules give an arena all of its memory at once.  Newer ones refuse a
	 * number beyond its size.
	 */
	if (!ret && e->begin && grow_to(e, e->begin) && errno != ENOTTY)
		ret = -errno;
	if (!ret) {
		e->partial[!e->end] = true;
		e->begin = there(e, e->end);
	}
	if (!ret)
		ret = attach(e);
	switch (ret) {
	case -EINVAL:
	case -EACCES:
	case -EPERM:
	case -EBUSY: /* another process has attached it, */
	case -ESTALE: /* or it can be attached no more */
		return -EPROTO;
	default:
		return ret;
	}
}

/*
 * If the kernel states that a part has memory, it has.  Under EVERING_POPULATE it is
 * mapped as well.
 */
static int device_see(struct endpoint *e, uint64_t from, uint64_t to)
{
	unsigned char *map = e->map[EVERING_REGION_ARENA(!e->end)];

	if (e->populate)
		madvise(map + from, to - from, MADV_POPULATE_READ);
	return 0;
}

/* A peer that says welcome has mapped its half, even if it has gone since. */
static int device_complete(struct endpoint *e, const int *fds,
			   unsigned int count)
{
	const struct evering_status *status = e->map[EVERING_REGION_STATUS];

	close_fds(fds, count);
	if (count || evering_load_acquire(&status->end[!e->end].state) ==
			     EVERING_STATE_NEW)
		return -EPROTO;
	/* The peer has grown its arena since this side mapped it. */
	if (there(e, !e->end))
		device_see(e, 0, there(e, !e->end));
	return endpoint_check_status(e);
}

/* The socket of the meeting is not needed any more: the kernel reports a death. */
static void device_met(struct endpoint *e)
{
	close_fds(&e->device.peers, 1);
	socket_close_sealed(e->sock, e->sealed);
	e->device.peers = e->sock = -1;
}

static void device_destroy(struct endpoint *e)
{
	close_fds(&e->device.peers, 1);
	close_fds(&e->device.fd, 1);
}

static unsigned int device_ring(struct endpoint *e, unsigned int what)
{
	int ret = ioctl(e->device.fd, EVERING_IOC_RING, what);

	return ret < 0 ? 0 : (unsigned int)ret;
}

/* It counts as rung if it was armed when it was rung, and the ring has cleared that. */
static unsigned int device_bell(struct endpoint *e, struct evering_bell *bell)
{
	bell->fd = e->device.fd;
	bell->command = EVERING_IOC_RING;
	return 0;
}

/* A role that is not armed polls ready, so do not poll for it. */
static short device_events(unsigned int what)
{
	return (short)((what & EVERING_RX ? POLLIN : 0) |
		       (what & EVERING_TX ? POLLOUT : 0));
}

/*
 * For sleeps in which ENTER cannot be used.  ENTER takes no signal mask, and does not
 * wait if the descriptor was made non-blocking, as libuv does with descriptors that it
 * polls.
 */
static int sleep_in_poll(struct endpoint *e, unsigned int what,
			 int64_t deadline, const sigset_t *mask)
{
	struct pollfd fd = { .fd = e->device.fd,
			     .events = device_events(what) };
	struct timespec left;
	int ret;

	fd.events |= POLLRDHUP;
	ret = ppoll(&fd, 1, time_left(deadline, &left), mask);
	if (ret < 0)
		return -errno;
	if (ret == 0)
		return -ETIMEDOUT;
	/*
	 * A doorbell that was rung is not armed any more, which the disarming code
	 * sees.
	 */
	return fd.revents & (POLLRDHUP | POLLHUP) ? -EPIPE : 0;
}

static int device_sleep(struct endpoint *e, unsigned int what,
			unsigned int ring, int64_t deadline,
			const sigset_t *mask, unsigned int *rang)
{
	struct evering_enter enter = {
		.size = sizeof(enter),
		.flags = EVERING_ENTER_NO_RESTART |
			 (e->stay ? EVERING_ENTER_NO_HANDOVER : 0),
		.ring = ring,
		.wait = what,
		.timeout = deadline == INT64_MAX ? EVERING_FOREVER :
						   (uint64_t)deadline,
	};
	int ret;

	counter_add(what & EVERING_RX ? &e->half->counters.rx_syscalls :
					&e->half->counters.tx_syscalls,
		    mask && ring ? 2 : 1);
	if (mask) {
		if (ring)
			*rang = device_ring(e, ring);
		return sleep_in_poll(e, what, deadline, mask);
	}
	ret = ioctl(e->device.fd, EVERING_IOC_ENTER, &enter);
	if (ret < 0 && errno == EAGAIN)
		return sleep_in_poll(e, what, deadline, NULL);
	if (ret < 0) {
		ret = -errno;
		if (enter.flags & EVERING_ENTER_RUNG)
			*rang = enter.ring / EVERING_RANG_RX;
		return ret;
	}
	*rang = (unsigned int)ret / EVERING_RANG_RX;
	return ret & (EVERING_RX | EVERING_TX);
}

static void device_wake(struct endpoint *e, unsigned int what)
{
	ioctl(e->device.fd, EVERING_IOC_RING, what | EVERING_RING_SELF);
}

/* To ring is to clear EVERING_ARMED, which the disarming code sees. */
static unsigned int device_drain(struct endpoint *e, unsigned int what)
{
	(void)e;
	(void)what;
	return 0;
}

static bool device_gone(struct endpoint *e)
{
	const struct evering_status *status = e->map[EVERING_REGION_STATUS];

	return evering_load_acquire(&status->end[!e->end].state) >=
	       EVERING_STATE_DETACHED;
}

static int device_fd(struct endpoint *e)
{
	return e->device.fd;
}

/* A role that is not armed polls ready, so only the edge matters. */
static int device_watch(struct endpoint *e, int set, uint64_t data)
{
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.u64 = data,
	};

	return epoll_ctl(set, EPOLL_CTL_ADD, e->device.fd, &event) ? -errno : 0;
}

static void device_unwatch(struct endpoint *e, int set)
{
	epoll_ctl(set, EPOLL_CTL_DEL, e->device.fd, NULL);
}

static int device_enrol(struct endpoint *e, int file, uint32_t index)
{
	struct evering_add add = {
		.size = sizeof(add),
		.fd = e->device.fd,
		.index = index,
	};

	return ioctl(file, EVERING_IOC_ADD, &add) ? -errno : 0;
}

static void device_leave(struct endpoint *e, int file)
{
	ioctl(file, EVERING_IOC_REMOVE, e->device.fd);
}

/*
 * Opens a group file of the module.  Returns it, and its page in *@page; -ENODEV: this
 * user may not use the module, or there is none; -EPROTONOSUPPORT: the module has
 * another version, or no groups; -EDQUOT and others: not now.
 */
int group_file_open(struct evering_group_page **page)
{
	struct evering_group_create create = { .size = sizeof(create) };
	uint64_t features = 0;
	void *map;
	int fd, ret;

	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return open_error(errno);
	ret = check_abi(fd, &features);
	if (!ret && !(features & EVERING_FEATURE_GROUP))
		ret = -EPROTONOSUPPORT;
	if (!ret && ioctl(fd, EVERING_IOC_GROUP, &create))
		ret = -errno;
	close(fd);
	if (ret)
		return ret;
	map = mmap(NULL, sizeof(**page), PROT_READ | PROT_WRITE, MAP_SHARED,
		   create.fd, 0);
	if (map == MAP_FAILED) {
		ret = -errno;
		close(create.fd);
		return ret;
	}
	*page = map;
	return create.fd;
}

/*
 * Rings the peers of *@count endpoints, at most EVERING_MAX_GROUP_RINGS.  Then, if
 * @deadline is not 0, sleeps until a bit of the page is set.  Sets *@count to 0 if all
 * peers were rung.  Returns 0; -ETIMEDOUT; -EINTR; -EAGAIN: it does not wait, because
 * the file was made non-blocking, or too many threads wait there.
 */
int group_file_enter(int file, const struct evering_group_ring *rings,
		     unsigned int *count, bool stay, int64_t deadline)
{
	struct evering_group_enter enter = {
		.size = sizeof(enter),
		.flags = EVERING_ENTER_NO_RESTART |
			 (stay ? EVERING_ENTER_NO_HANDOVER : 0),
		.ring = *count,
		.wait = deadline != 0,
		.timeout = deadline == INT64_MAX ? EVERING_FOREVER :
						   (uint64_t)deadline,
		.rings = (uint64_t)(uintptr_t)rings,
	};

	if (ioctl(file, EVERING_IOC_ENTER, &enter) >= 0) {
		*count = 0;
		return 0;
	}
	switch (errno) {
	case EINTR:
		if (enter.flags & EVERING_ENTER_RUNG)
			*count = 0;
		return -EINTR;
	case EBUSY:
		errno = EAGAIN;
		/* fallthrough */
	case EAGAIN:
	case ETIMEDOUT:
		/* These errors are from the wait. */
		*count = 0;
		/* fallthrough */
	default:
		return -errno;
	}
}

/* Sets the bit at @index; async-signal-safe. */
void group_file_tell(int file, uint32_t index)
{
	ioctl(file, EVERING_IOC_RING, index);
}

/*
 * The kernel kills no process for pages of the device, but it would give away the last
 * page.  The process would then be killed for the next page that it touches itself.  So
 * ask first.
 */
static int device_grow(struct endpoint *e, uint64_t from, uint64_t to)
{
	int ret;

	if (!memory_for_more(to - from))
		return -ENOMEM;
	ret = grow_to(e, to);
	/*
	 * Another process or thread is growing the arena, or has ended the channel.
	 * Neither is allowed.
	 */
	return ret == -EBUSY || ret == -ESTALE ? -ENOMEM : ret;
}

static uint64_t device_grown(const struct endpoint *e)
{
	return there(e, !e->end);
}

const struct backend device_backend = {
	.name = "device",
	.id = EVERING_BACKEND_DEVICE,
	.create = device_make,
	.join = device_join,
	.complete = device_complete,
	.offer = device_offer,
	.met = device_met,
	.destroy = device_destroy,
	.ring = device_ring,
	.bell = device_bell,
	.sleep = device_sleep,
	.joint = true,
	.wake = device_wake,
	.drain = device_drain,
	.gone = device_gone,
	.fd = device_fd,
	.events = device_events,
	.watch = device_watch,
	.unwatch = device_unwatch,
	.enrol = device_enrol,
	.leave = device_leave,
	.grow = device_grow,
	.grown = device_grown,
	.see = device_see,
};
