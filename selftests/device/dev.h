/* SPDX-License-Identifier: MIT */
/*
 * dev.h: what the selftests of /dev/evering share: a wrapper for each ioctl of
 * uapi/linux/evering.h, which hands over poison where the kernel is to write;
 * regions mapped by hand; what an endpoint looks like from the other side; just
 * enough io_uring by raw system calls.  The library is not used here.
 *
 * Wrappers return what the call does, or a negative errno.
 */
#ifndef EVERING_SELFTESTS_DEV_H
#define EVERING_SELFTESTS_DEV_H

#include "base.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/capability.h>
#include <linux/evering.h>
#include <linux/io_uring.h>

#define POISON 0xcc
#define POISON_FD ((int)0xcccccccc)

/*
 * No errnos, so that they fit no test: a failed call wrote into its argument;
 */
#define TOUCHED (-99999)
/* a sleep ended only because its time was up. */
#define TOO_LATE (-99998)

/* Bells. */
#define RX EVERING_RX
#define TX EVERING_TX
#define RANG_RX EVERING_RANG_RX
#define RANG_TX EVERING_RANG_TX

static inline long or_errno(long ret)
{
	return ret < 0 ? -errno : ret;
}

static inline int dev_open(void)
{
	return (int)or_errno(open("/dev/evering", O_RDWR | O_CLOEXEC));
}

/* First thing in a setup: opens the device, or skips. */
#define REQUIRE_DEVICE(fd)                                             \
	do {                                                           \
		(fd) = dev_open();                                     \
		if ((fd) < 0)                                          \
			SKIP(return, "/dev/evering cannot be opened"); \
	} while (0)

#define REQUIRE_ROOT()                                         \
	do {                                                   \
		if (geteuid())                                 \
			SKIP(return, "only root can do this"); \
	} while (0)

/* ------------------------------------------------------------------- ioctls */

static inline int dev_ioctl(int fd, unsigned int cmd, void *arg)
{
	return (int)or_errno(ioctl(fd, cmd, arg));
}

static inline int dev_info(int dev, struct evering_info *info)
{
	memset(info, POISON, sizeof(*info));
	info->size = sizeof(*info);
	info->flags = 0;
	return dev_ioctl(dev, EVERING_IOC_INFO, info);
}

static inline int dev_create(int dev, uint32_t flags,
			     const struct evering_geometry *geometry,
			     struct evering_create *create)
{
	int ret;

	memset(create, POISON, sizeof(*create));
	create->size = sizeof(*create);
	create->flags = flags;
	create->geometry = *geometry;
	if (flags & EVERING_CREATE_GROW)
		memset(create->arena_begin, 0, sizeof(create->arena_begin));
	ret = dev_ioctl(dev, EVERING_IOC_CREATE, create);
	if (ret && (create->fd[0] != POISON_FD || create->fd[1] != POISON_FD))
		return TOUCHED;
	return ret;
}

static inline int dev_pair(int dev, const struct evering_geometry *geometry,
			   int fd[2])
{
	struct evering_create create;
	int ret = dev_create(dev, 0, geometry, &create);

	fd[0] = ret ? -1 : create.fd[0];
	fd[1] = ret ? -1 : create.fd[1];
	return ret;
}

static inline int dev_ring(int fd, unsigned long bells)
{
	return (int)or_errno(ioctl(fd, EVERING_IOC_RING, bells));
}

static inline int dev_enter_flags(int fd, uint32_t flags, uint32_t ring,
				  uint32_t wait, uint64_t timeout)
{
	struct evering_enter enter = {
		.size = sizeof(enter),
		.flags = flags,
		.ring = ring,
		.wait = wait,
		.timeout = timeout,
	};

	return dev_ioctl(fd, EVERING_IOC_ENTER, &enter);
}

static inline int dev_enter(int fd, uint32_t ring, uint32_t wait,
			    uint64_t timeout)
{
	return dev_enter_flags(fd, 0, ring, wait, timeout);
}

/*
 * ENTER as most tests want it: whoever waits in vain fails, and does not hang.
 * A call that nobody woke looks once more when its time is up, and may then
 * find what it waited for: that is no success.
 */
static inline int dev_ring_and_wait(int fd, uint32_t ring, uint32_t wait)
{
	int64_t until = now_ns() + PLENTY;
	int ret = dev_enter(fd, ring, wait, (uint64_t)until);

	return now_ns() < until ? ret : TOO_LATE;
}

static inline int dev_wait(int fd, uint32_t wait)
{
	return dev_ring_and_wait(fd, 0, wait);
}

static inline int dev_set_eventfd(int fd, int efd)
{
	struct evering_set_eventfd set = { .size = sizeof(set), .fd = efd };

	return dev_ioctl(fd, EVERING_IOC_SET_EVENTFD, &set);
}

static inline int dev_peer_cred(int fd, struct evering_peer_cred *cred)
{
	memset(cred, POISON, sizeof(*cred));
	cred->size = sizeof(*cred);
	cred->flags = 0;
	return dev_ioctl(fd, EVERING_IOC_PEER_CRED, cred);
}

static inline int dev_attach(int fd)
{
	struct evering_attach attach = { .size = sizeof(attach) };

	return dev_ioctl(fd, EVERING_IOC_ATTACH, &attach);
}

static inline int dev_grow(int fd, uint64_t there)
{
	struct evering_grow grow = { .size = sizeof(grow), .there = there };

	return dev_ioctl(fd, EVERING_IOC_GROW, &grow);
}

/* A new group, or a negative errno. */
static inline int dev_group(int dev, uint32_t flags)
{
	struct evering_group_create create;
	int ret;

	memset(&create, POISON, sizeof(create));
	create.size = sizeof(create);
	create.flags = flags;
	create.reserved = 0;
	ret = dev_ioctl(dev, EVERING_IOC_GROUP, &create);
	if (ret && create.fd != POISON_FD)
		return TOUCHED;
	return ret ? ret : create.fd;
}

static inline int dev_add(int group, int fd, uint32_t index)
{
	struct evering_add add = { .size = sizeof(add),
				   .fd = fd,
				   .index = index };

	return dev_ioctl(group, EVERING_IOC_ADD, &add);
}

static inline int dev_remove(int group, int fd)
{
	return (int)or_errno(
		ioctl(group, EVERING_IOC_REMOVE, (unsigned long)fd));
}

static inline int dev_group_enter(int group, uint32_t flags,
				  const struct evering_group_ring *rings,
				  uint32_t n, uint32_t wait, uint64_t timeout)
{
	struct evering_group_enter enter = {
		.size = sizeof(enter),
		.flags = flags,
		.ring = n,
		.wait = wait,
		.timeout = timeout,
		.rings = (uintptr_t)rings,
	};

	return dev_ioctl(group, EVERING_IOC_ENTER, &enter);
}

/* As dev_ring_and_wait(). */
static inline int dev_group_wait(int group)
{
	int64_t until = now_ns() + PLENTY;
	int ret = dev_group_enter(group, 0, NULL, 0, 1, (uint64_t)until);

	return now_ns() < until ? ret : TOO_LATE;
}

/* No quota is refused to whoever has CAP_SYS_RESOURCE. */
static inline void drop_resource(void)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		_exit(91);
	data[CAP_TO_INDEX(CAP_SYS_RESOURCE)].effective &=
		~CAP_TO_MASK(CAP_SYS_RESOURCE);
	if (syscall(SYS_capset, &header, data))
		_exit(92);
}

/* ------------------------------------------------------------------ regions */

/* Two pages a half, so that there is something to split. */
static const struct evering_geometry small_geometry = {
	.slot_size = 64,
	.entries = 64,
	.arena_size = { 65536, 65536 },
};

/* The least that there can be: three pages. */
static const struct evering_geometry least_geometry = {
	.slot_size = EVERING_MIN_SLOT,
	.entries = EVERING_MIN_ENTRIES,
};

static inline size_t half_size(const struct evering_geometry *g)
{
	return (EVERING_SLOTS_OFFSET + (size_t)g->slot_size * g->entries +
		PAGE - 1) /
	       PAGE * PAGE;
}

static inline size_t region_size(const struct evering_geometry *g, int region)
{
	if (region == EVERING_REGION_STATUS)
		return PAGE;
	if (region < EVERING_REGION_ARENA_A)
		return half_size(g);
	return g->arena_size[region - EVERING_REGION_ARENA_A];
}

static inline bool may_write(const struct evering_geometry *g, int end,
			     int region)
{
	return region == EVERING_REGION_HALF(end) ||
	       region == EVERING_REGION_ARENA(end) ||
	       (region >= EVERING_REGION_ARENA_A &&
		g->flags & EVERING_SHARED_ARENA);
}

/* MAP_FAILED is -1, which no test takes for an address. */
static inline void *map_region(const struct evering_geometry *g, int fd,
			       int region, int prot)
{
	return mmap(NULL, region_size(g, region), prot, MAP_SHARED, fd,
		    (off_t)EVERING_MMAP_OFFSET(region));
}

/* Maps and tells only how that went: 0 or a negative errno. */
static inline int try_map(size_t len, int prot, int flags, int fd,
			  uint64_t offset)
{
	void *p = mmap(NULL, len, prot, flags, fd, (off_t)offset);

	if (p == MAP_FAILED)
		return -errno;
	munmap(p, len);
	return 0;
}

/* The module's word, or that of newer kernels for all anonymous inodes. */
static inline bool is_no_exec(int ret)
{
	return ret == -EACCES || ret == -EPERM;
}

static inline struct evering_group_page *map_group(int group)
{
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, group, 0);
}

/* Takes the bits that a group's owner would find, into @ready; returns how many. */
static inline unsigned int take_ready(struct evering_group_page *page,
				      uint64_t ready[EVERING_GROUP_WORDS])
{
	unsigned int n = 0, w, i;
	uint64_t summary;

	memset(ready, 0, EVERING_GROUP_WORDS * sizeof(*ready));
	for (w = 0; w < ARRAY_SIZE(page->summary); w++) {
		summary = __atomic_exchange_n(&page->summary[w], 0,
					      __ATOMIC_SEQ_CST);
		for (; summary; summary &= summary - 1) {
			i = 64 * w + (unsigned int)__builtin_ctzll(summary);
			if (i >= EVERING_GROUP_WORDS)
				continue;
			ready[i] = __atomic_exchange_n(&page->ready[i], 0,
						       __ATOMIC_SEQ_CST);
			n += (unsigned int)__builtin_popcountll(ready[i]);
		}
	}
	return n;
}

/* The only one that is ready, which is taken; -1: none, -2: several. */
static inline int take_one(struct evering_group_page *page)
{
	uint64_t ready[EVERING_GROUP_WORDS];
	unsigned int n = take_ready(page, ready), i;

	for (i = 0; n == 1 && i < EVERING_GROUP_WORDS; i++)
		if (ready[i])
			return (int)(64 * i) + __builtin_ctzll(ready[i]);
	return n ? -2 : -1;
}

/* An endpoint with what a process needs of it to sleep and to ring. */
struct side {
	int fd;
	int end;
	struct evering_half *own;
	struct evering_half *peer; /* read-only */
	size_t half;
};

static inline int side_map(struct side *s, const struct evering_geometry *g,
			   int fd, int end)
{
	s->fd = fd;
	s->end = end;
	s->half = half_size(g);
	s->own = map_region(g, fd, EVERING_REGION_HALF(end),
			    PROT_READ | PROT_WRITE);
	if (s->own == MAP_FAILED)
		return -errno;
	s->peer = map_region(g, fd, EVERING_REGION_HALF(!end), PROT_READ);
	return s->peer == MAP_FAILED ? -errno : 0;
}

/* As who can be a member of a group. */
static inline int side_attach(struct side *s, const struct evering_geometry *g,
			      int fd, int end)
{
	int ret = side_map(s, g, fd, end);

	return ret ? ret : dev_attach(fd);
}

static inline void side_unmap(struct side *s)
{
	munmap(s->own, s->half);
	munmap(s->peer, s->half);
}

static inline uint32_t *armed_word(struct evering_half *half, uint32_t bell)
{
	return bell == RX ? &half->armed_rx : &half->armed_tx;
}

/* What a sleeper does before it looks at its ring the last time. */
static inline void arm(struct evering_half *half, uint32_t bells)
{
	if (bells & RX)
		__atomic_fetch_or(&half->armed_rx, EVERING_ARMED,
				  __ATOMIC_SEQ_CST);
	if (bells & TX)
		__atomic_fetch_or(&half->armed_tx, EVERING_ARMED,
				  __ATOMIC_SEQ_CST);
}

static inline uint32_t armed(const struct evering_half *half)
{
	uint32_t rx = __atomic_load_n(&half->armed_rx, __ATOMIC_SEQ_CST);
	uint32_t tx = __atomic_load_n(&half->armed_tx, __ATOMIC_SEQ_CST);

	return (rx & EVERING_ARMED ? RX : 0) | (tx & EVERING_ARMED ? TX : 0);
}

static inline uint32_t state_of(const struct evering_status *status, int end)
{
	return __atomic_load_n(&status->end[end].state, __ATOMIC_ACQUIRE);
}

static inline uint32_t epoch_of(const struct evering_status *status, int end)
{
	return __atomic_load_n(&status->end[end].epoch, __ATOMIC_RELAXED);
}

/* -------------------------------------------------------------- observation */

/* What poll() says now, of @events and of what is always told. */
static inline int poll_now(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, 0) < 0 ? -errno : p.revents;
}

/* With a timeout of nought poll() would not wait, and so be none of those who do. */
static inline int poll_now_waiting(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, 1) < 0 ? -errno : p.revents;
}

static inline int epoll_on(int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.u32 = 1 };
	int ep = epoll_create1(EPOLL_CLOEXEC);

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
		return -errno;
	return ep;
}

/* What epoll has to say; 0 for nothing. */
static inline uint32_t epoll_now(int ep)
{
	struct epoll_event ev;

	return epoll_wait(ep, &ev, 1, 0) == 1 ? ev.events : 0;
}

#define POLL_ALL (POLLIN | POLLOUT | POLLRDHUP)

/* Waits until poll() reports all of @events. */
static inline bool poll_within(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	int64_t until = now_ns() + PLENTY;

	while (now_ns() < until) {
		if (poll(&p, 1, 100) < 0 && errno != EINTR)
			return false;
		if ((p.revents & events) == events)
			return true;
	}
	return false;
}

/* How often a task has gone to sleep by itself; -1 if it is gone. */
static inline long sleeps_of_task(pid_t tid)
{
	char path[64], line[256];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "voluntary_ctxt_switches:", 24))
			n = atol(line + 24);
	fclose(f);
	return n;
}

/* A value of fdinfo, as the kernel prints it, or NULL; valid until the next. */
static inline char *fdinfo(int fd, const char *key)
{
	static char line[256];
	size_t len = strlen(key);
	char path[64];
	char *value = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	if (!f)
		return NULL;
	while (!value && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, len) || strncmp(line + len, ":\t", 2))
			continue;
		line[strcspn(line, "\n")] = 0;
		value = line + len + 2;
	}
	fclose(f);
	return value;
}

/* Of an eventfd: how often it was signalled since the last time. */
static inline uint64_t signals_of(int efd)
{
	uint64_t n = 0;

	if (poll_now(efd, POLLIN) != POLLIN)
		return 0;
	return read(efd, &n, sizeof(n)) == sizeof(n) ? n : ~0ull;
}

/* ------------------------------------------------------------- bad accesses */

static sigjmp_buf access_failed;

static inline void on_bad_access(int sig)
{
	siglongjmp(access_failed, sig);
}

/*
 * The signal that touching @p gets, 0 for none.  A write writes what is there.
 * Of the main thread only.
 */
static inline int touch(volatile void *p, bool write)
{
	struct sigaction action = { .sa_handler = on_bad_access };
	struct sigaction segv, bus;
	volatile char *c = p;
	int sig;

	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	sig = sigsetjmp(access_failed, 1);
	if (!sig) {
		char byte = *c;

		if (write)
			*c = byte;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return sig;
}

/* -------------------------------------------------------------- passing fds */

/* A descriptor, and beside it some bytes; 0 or a negative errno. */
static inline int send_fd_with(int sock, int fd, const void *data, size_t len)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	memset(&control, 0, sizeof(control));
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	return sendmsg(sock, &msg, 0) == (ssize_t)len ? 0 : -errno;
}

static inline int send_fd(int sock, int fd)
{
	return send_fd_with(sock, fd, "x", 1);
}

static inline int recv_fd_with(int sock, void *data, size_t len)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = data, .iov_len = len };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != (ssize_t)len)
		return -errno;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -EBADMSG;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));
	return fd;
}

static inline int recv_fd(int sock)
{
	char c;

	return recv_fd_with(sock, &c, 1);
}

/*
 * The number that the next descriptor gets.  Unlike a count of open ones it
 * tells if one was reserved and never used.
 */
static inline int next_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

/* A word between processes: one byte of a pipe or socket. */
static inline void tell(int fd)
{
	if (write(fd, "x", 1) != 1)
		_exit(97);
}

static inline bool told(int fd)
{
	char c;

	return poll_within(fd, POLLIN) && read(fd, &c, 1) == 1;
}

/* ----------------------------------------------------------------- io_uring */

struct uring {
	int fd;
	char *rings;
	size_t rings_len, sqes_len;
	unsigned int *sq_tail, *sq_mask, *sq_array;
	unsigned int *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

/* Kernels 5.4 and later: one mapping for both rings. */
static inline int uring_open(struct uring *u)
{
	struct io_uring_params p = { 0 };
	size_t sq, cq;

	u->fd = (int)syscall(__NR_io_uring_setup, 16, &p);
	if (u->fd < 0)
		return -errno;
	if (!(p.features & IORING_FEAT_SINGLE_MMAP)) {
		close(u->fd);
		return -ENOSYS;
	}
	sq = p.sq_off.array + p.sq_entries * sizeof(unsigned int);
	cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	u->rings_len = max_of(sq, cq);
	u->sqes_len = p.sq_entries * sizeof(struct io_uring_sqe);
	u->rings = mmap(NULL, u->rings_len, PROT_READ | PROT_WRITE, MAP_SHARED,
			u->fd, IORING_OFF_SQ_RING);
	u->sqes = mmap(NULL, u->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED,
		       u->fd, IORING_OFF_SQES);
	if (u->rings == MAP_FAILED || (void *)u->sqes == MAP_FAILED) {
		close(u->fd);
		return -ENOMEM;
	}
	u->sq_tail = (unsigned int *)(u->rings + p.sq_off.tail);
	u->sq_mask = (unsigned int *)(u->rings + p.sq_off.ring_mask);
	u->sq_array = (unsigned int *)(u->rings + p.sq_off.array);
	u->cq_head = (unsigned int *)(u->rings + p.cq_off.head);
	u->cq_tail = (unsigned int *)(u->rings + p.cq_off.tail);
	u->cq_mask = (unsigned int *)(u->rings + p.cq_off.ring_mask);
	u->cqes = (struct io_uring_cqe *)(u->rings + p.cq_off.cqes);
	return 0;
}

static inline void uring_close(struct uring *u)
{
	munmap(u->rings, u->rings_len);
	munmap(u->sqes, u->sqes_len);
	close(u->fd);
}

#define REQUIRE_URING(u)                                                  \
	do {                                                              \
		int _ret = uring_open(u);                                 \
                                                                          \
		if (_ret)                                                 \
			SKIP(return, "no io_uring: %s", strerror(-_ret)); \
	} while (0)

static inline int uring_submit(struct uring *u, const struct io_uring_sqe *sqe)
{
	unsigned int tail = *u->sq_tail;

	u->sqes[tail & *u->sq_mask] = *sqe;
	u->sq_array[tail & *u->sq_mask] = tail & *u->sq_mask;
	__atomic_store_n(u->sq_tail, tail + 1, __ATOMIC_RELEASE);
	return (int)or_errno(
		syscall(__NR_io_uring_enter, u->fd, 1, 0, 0, NULL, 0));
}

/* Takes a completion if there is one. */
static inline bool uring_reap(struct uring *u, struct io_uring_cqe *cqe)
{
	unsigned int head = *u->cq_head;

	syscall(__NR_io_uring_enter, u->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL,
		0);
	if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	*cqe = u->cqes[head & *u->cq_mask];
	__atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}

static inline int uring_poll(struct uring *u, int fd, uint32_t events,
			     uint32_t flags)
{
	struct io_uring_sqe sqe = {
		.opcode = IORING_OP_POLL_ADD,
		.fd = fd,
		.len = flags,
		.poll32_events = events,
	};

	return uring_submit(u, &sqe);
}

#endif /* EVERING_SELFTESTS_DEV_H */
