// SPDX-License-Identifier: MIT
/*
 * syscalls.c: what the system may say, and hardly ever does, or on no machine at hand:
 * calls that are interrupted at once, that find nothing where there was something, or
 * that cannot fail and fail.  The test says it in the system's stead.  That memory and
 * descriptors run out is nomem.c's.
 */
#include "common.h"
#include "interpose.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* -------------------------------------------------------------------- replies */

/**
 * struct reply - what a call returns without being made
 * @name: of the call; NULL: no reply
 * @skip: how many of them are made before
 * @times: how many return this, then
 * @ret: what they return
 * @error: their errno
 */
struct reply {
	const char *name;
	int skip;
	int times;
	long ret;
	int error;
};

/* What a thread is told, and only while it is in the library UNDER() that. */
static __thread struct reply replies[2];
static __thread bool inside;

static const struct reply *reply_to(const char *name)
{
	struct reply *r;
	size_t i;

	for (i = 0; inside && i < ARRAY_SIZE(replies); i++) {
		r = &replies[i];
		if (!r->name || strcmp(r->name, name))
			continue;
		if (!r->times || r->skip-- > 0)
			return NULL;
		r->skip = 0;
		r->times--;
		errno = r->error;
		return r;
	}
	return NULL;
}

#define REPLY_OR(name, call)                             \
	({                                               \
		const struct reply *r_ = reply_to(name); \
                                                         \
		r_ ? (__typeof__(call))r_->ret : (call); \
	})

static void set_reply(struct reply r)
{
	replies[0] = r;
	replies[1] = (struct reply){ 0 };
}

static void set_replies(struct reply r, struct reply more)
{
	replies[0] = r;
	replies[1] = more;
}

/* Has all been said? */
static bool replied(void)
{
	return !replies[0].times && !replies[1].times;
}

#define UNDER(call)                    \
	({                             \
		__typeof__(call) ret_; \
                                       \
		inside = true;         \
		ret_ = (call);         \
		inside = false;        \
		ret_;                  \
	})

HIDDEN ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return REPLY_OR("sendmsg", REAL(sendmsg)(fd, msg, flags));
}

HIDDEN ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	return REPLY_OR("recvmsg", REAL(recvmsg)(fd, msg, flags));
}

HIDDEN int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	return REPLY_OR("accept4", REAL(accept4)(fd, address, len, flags));
}

HIDDEN int listen(int fd, int backlog)
{
	return REPLY_OR("listen", REAL(listen)(fd, backlog));
}

HIDDEN int chmod(const char *path, mode_t mode)
{
	return REPLY_OR("chmod", REAL(chmod)(path, mode));
}

HIDDEN int epoll_wait(int set, struct epoll_event *events, int n, int ms)
{
	return REPLY_OR("epoll_wait", REAL(epoll_wait)(set, events, n, ms));
}

/* If it has no errno: the same, of another file system. */
HIDDEN int fstat(int fd, struct stat *st)
{
	const struct reply *r = reply_to("fstat");
	int ret;

	if (r && r->error)
		return (int)r->ret;
	ret = REAL(fstat)(fd, st);
	if (r)
		st->st_dev++;
	return ret;
}

/**
 * struct lockers - calls that take the lock of a file's inode, of a thread that is UNDER
 * @made: files that it has made, by inode
 * @count: how many
 * @own: calls with one of those
 * @others: with another one
 */
static __thread struct {
	ino_t made[16];
	unsigned int count;
	int own;
	int others;
} lockers;

static void takes_lock(int fd)
{
	unsigned int i;
	struct stat st;

	if (!inside || REAL(fstat)(fd, &st))
		return;
	for (i = 0; i < lockers.count && i < ARRAY_SIZE(lockers.made); i++)
		if (lockers.made[i] == st.st_ino) {
			lockers.own++;
			return;
		}
	lockers.others++;
}

HIDDEN int memfd_create(const char *name, unsigned int flags)
{
	int fd = REAL(memfd_create)(name, flags);
	struct stat st;

	if (inside && fd >= 0 && lockers.count < ARRAY_SIZE(lockers.made) &&
	    !REAL(fstat)(fd, &st))
		lockers.made[lockers.count++] = st.st_ino;
	return fd;
}

HIDDEN int ftruncate(int fd, off_t size)
{
	takes_lock(fd);
	return REAL(ftruncate)(fd, size);
}

HIDDEN off_t lseek(int fd, off_t offset, int whence)
{
	takes_lock(fd);
	return REAL(lseek)(fd, offset, whence);
}

HIDDEN int fallocate(int fd, int mode, off_t offset, off_t size)
{
	takes_lock(fd);
	return REPLY_OR("fallocate", REAL(fallocate)(fd, mode, offset, size));
}

HIDDEN int madvise(void *at, size_t size, int advice)
{
	const char *name = advice == MADV_POPULATE_READ	 ? "populate_read" :
			   advice == MADV_POPULATE_WRITE ? "populate_write" :
							   "madvise";

	return REPLY_OR(name, REAL(madvise)(at, size, advice));
}

HIDDEN ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset,
		       int flags)
{
	return REPLY_OR("preadv2", REAL(preadv2)(fd, iov, n, offset, flags));
}

HIDDEN int getrlimit(rlimit_resource resource, struct rlimit *limit)
{
	return REPLY_OR("getrlimit", REAL(getrlimit)(resource, limit));
}

HIDDEN void *mmap(void *at, size_t size, int prot, int flags, int fd,
		  off_t offset)
{
	return REPLY_OR("mmap", REAL(mmap)(at, size, prot, flags, fd, offset));
}

HIDDEN int eventfd(unsigned int count, int flags)
{
	return REPLY_OR("eventfd", REAL(eventfd)(count, flags));
}

HIDDEN long sysconf(int name)
{
	return REPLY_OR("sysconf", REAL(sysconf)(name));
}

/* What /proc/meminfo holds; NULL: there is no such file. */
static const char *meminfo;

static int open_meminfo(void)
{
	int ends[2];

	if (!meminfo) {
		errno = ENOENT;
		return -1;
	}
	if (pipe2(ends, O_CLOEXEC) ||
	    write(ends[1], meminfo, strlen(meminfo)) < 0)
		abort();
	close(ends[1]);
	return ends[0];
}

HIDDEN int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list args;

	if (takes_mode(flags)) {
		va_start(args, flags);
		mode = va_arg(args, mode_t);
		va_end(args);
	}
	if (inside && !strcmp(path, "/proc/meminfo"))
		return open_meminfo();
	return REPLY_OR("open", REAL(open)(path, flags, mode));
}

HIDDEN int fcntl(int fd, int command, ...)
{
	va_list args;
	long arg;

	va_start(args, command);
	arg = va_arg(args, long);
	va_end(args);
	if (command != F_ADD_SEALS)
		return REAL(fcntl)(fd, command, arg);
	return REPLY_OR("fcntl", REAL(fcntl)(fd, command, arg));
}

/* If it has no errno: a file of the same number, on another device. */
HIDDEN int lstat(const char *path, struct stat *st)
{
	const struct reply *r = reply_to("lstat");
	int ret;

	if (r && r->error)
		return (int)r->ret;
	ret = REAL(lstat)(path, st);
	if (r)
		st->st_dev++;
	return ret;
}

/* Of which sysinfo(2) says that there are so many bytes; 0: it fails. */
static unsigned long ram;

HIDDEN int sysinfo(struct sysinfo *info)
{
	if (!inside)
		return REAL(sysinfo)(info);
	memset(info, 0, sizeof(*info));
	info->totalram = ram;
	info->mem_unit = 1;
	errno = EPERM;
	return ram ? 0 : -1;
}

/* What another thread does when this one makes its epoll set. */
static __thread struct evering *rival;
static int rivals_fd;

HIDDEN int epoll_create1(int flags)
{
	struct evering *ev = rival;

	rival = NULL;
	if (ev)
		rivals_fd = evering_fd(ev);
	return REAL(epoll_create1)(flags);
}

/* ---------------------------------------------------------------------- meeting */

FIXTURE(syscalls)
{
	struct evering_params p;
	struct evering_listener *listener;
	struct evering *ev[2];
	char dir[64], path[108];
	int fds;
};

BACKEND_VARIANTS(syscalls);

FIXTURE_SETUP(syscalls)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 65536);
	strcpy(self->dir, "/tmp/evering-syscalls-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->path, sizeof(self->path), "%s/socket", self->dir);
	self->fds = count_fds();
}

FIXTURE_TEARDOWN(syscalls)
{
	close_pair(self->ev);
	evering_listener_close(self->listener);
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_EQ(0, rmdir(self->dir));
}

enum how {
	CONNECTS,
	CONNECTS_FD,
	ACCEPTS,
	ACCEPTS_FD,
	HOWS
};

/* One of two who meet. */
struct side {
	enum how how;
	const struct evering_params *p;
	const char *path;
	struct evering_listener *l;
	int fd;
	struct evering *ev;
	int ret;
};

static void *side_main(void *arg)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct side *s = arg;

	limits.flags = s->p->flags;
	switch (s->how) {
	case CONNECTS:
		s->ret = evering_connect(s->path, s->p, PLENTY, &s->ev);
		break;
	case CONNECTS_FD:
		s->ret = evering_connect_fd(s->fd, s->p, PLENTY, &s->ev);
		break;
	case ACCEPTS:
		s->ret = evering_accept(s->l, &limits, PLENTY, &s->ev);
		break;
	default:
		s->ret = evering_accept_fd(s->fd, &limits, PLENTY, &s->ev);
	}
	return NULL;
}

/* This side under the present replies.  0 if both have met and talk. */
static int meets(enum how how, struct evering_listener *l, const char *path,
		 const struct evering_params *p)
{
	struct side side[2];
	uint32_t v = 41, w = 0;
	int sv[2], i, ret;
	pthread_t t;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -errno;
	for (i = 0; i < 2; i++)
		side[i] = (struct side){ .how = i ? how ^ ACCEPTS : how,
					 .p = p,
					 .path = path,
					 .l = l,
					 .fd = sv[i] };
	if (how == CONNECTS || how == ACCEPTS) {
		close(sv[0]);
		close(sv[1]);
	}
	if (pthread_create(&t, NULL, side_main, &side[1]))
		return -EAGAIN;
	UNDER(side_main(&side[0]));
	pthread_join(t, NULL);
	ret = side[0].ret ? side[0].ret : side[1].ret;
	if (!ret && (evering_send(side[0].ev, &v, 4, 0) ||
		     evering_recv(side[1].ev, &w, 4, PLENTY) || v != w))
		ret = -EBADMSG;
	for (i = 0; i < 2; i++) {
		evering_close(side[i].ev);
		/* It is the endpoint's if there is one. */
		if (side[i].how & CONNECTS_FD && side[i].ret)
			close(side[i].fd);
	}
	return ret;
}

TEST_F(syscalls, who_is_interrupted_while_meeting_goes_on)
{
	static const struct reply reply[] = {
		{ "sendmsg", 0, 1, -1, EINTR },
		{ "recvmsg", 0, 1, -1, EINTR },
		/* It was there when somebody looked. */
		{ "recvmsg", 0, 1, -1, EAGAIN },
		/* The end, of a side that has sent and closed since the queue was empty. */
		{ "recvmsg", 0, 1, 0, 0 },
	};
	enum how how;
	size_t i;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (how = 0; how < HOWS; how++)
		for (i = 0; i < ARRAY_SIZE(reply); i++) {
			set_reply(reply[i]);
			EXPECT_EQ(0, meets(how, self->listener, self->path,
					   &self->p))
			{
				TH_LOG("how %d, reply %zu", how, i);
			}
			EXPECT_TRUE(replied());
		}
}

/* Whose partner has brought it, and is told nothing but that. */
TEST_F(syscalls, what_may_not_be_mapped_belongs_to_no_channel)
{
	static const int errors[] = { EACCES, EPERM };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		set_reply((struct reply){ "mmap", 0, 1, -1, errors[i] });
		EXPECT_EQ(-EPROTO, meets(ACCEPTS_FD, NULL, NULL, &self->p))
		{
			TH_LOG("error %d", errors[i]);
		}
		EXPECT_TRUE(replied());
	}
}

TEST_F(syscalls, a_listener_goes_on_where_nobody_is_there_after_all)
{
	static const struct reply reply[] = {
		{ "accept4", 0, 1, -1, EAGAIN },
		{ "accept4", 0, 1, -1, ECONNABORTED },
		{ "accept4", 0, 1, -1, EINTR },
		{ "epoll_wait", 0, 2, 0, 0 },
	};
	size_t i;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (i = 0; i < ARRAY_SIZE(reply); i++) {
		set_reply(reply[i]);
		EXPECT_EQ(0,
			  meets(ACCEPTS, self->listener, self->path, &self->p))
		{
			TH_LOG("reply %zu", i);
		}
		EXPECT_TRUE(replied());
	}
}

TEST_F(syscalls, who_cannot_listen_leaves_no_file)
{
	static const struct reply reply[] = {
		{ "lstat", 0, 1, -1, ENOENT },
		{ "chmod", 0, 1, -1, EPERM },
		{ "listen", 0, 1, -1, EOPNOTSUPP },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(reply); i++) {
		set_reply(reply[i]);
		EXPECT_EQ(-reply[i].error,
			  UNDER(evering_listen(self->path, 0600,
					       &self->listener)));
		EXPECT_TRUE(replied());
		EXPECT_NE(0, access(self->path, F_OK))
		{
			TH_LOG("reply %zu", i);
		}
		unlink(self->path);
	}
}

TEST_F(syscalls, what_cannot_be_looked_at_is_in_use)
{
	ASSERT_EQ(0, leave_stale(self->path));
	set_reply((struct reply){ "lstat", 0, 1, -1, ENOENT });
	EXPECT_EQ(-EADDRINUSE,
		  UNDER(evering_listen(self->path, 0, &self->listener)));
	EXPECT_TRUE(replied());
	EXPECT_EQ(0, access(self->path, F_OK));
	EXPECT_EQ(0, evering_listen(self->path, 0, &self->listener));
}

#define NEEDS_POPULATE()                                                    \
	do {                                                                \
		if (madvise(NULL, 0, MADV_POPULATE_READ) && errno == EINVAL) \
			SKIP(return, "Linux before 5.14 has no other way"); \
	} while (0)

/*
 * A write(2) of the other side's into its memfd may hold the lock of the inode for as long
 * as a file system of its own likes.
 */
TEST_F(syscalls, nobody_waits_for_the_lock_of_the_others_memory)
{
	static const unsigned int flags[] = { 0, EVERING_POPULATE,
					      EVERING_SHARED_ARENA };
	enum how how;
	size_t i;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "the device has no files");
	NEEDS_POPULATE();
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	set_reply((struct reply){ 0 });
	for (i = 0; i < ARRAY_SIZE(flags); i++)
		for (how = 0; how < HOWS; how++) {
			self->p.flags = flags[i];
			memset(&lockers, 0, sizeof(lockers));
			EXPECT_EQ(0, meets(how, self->listener, self->path,
					   &self->p));
			EXPECT_LT(0, lockers.own);
			EXPECT_EQ(0, lockers.others)
			{
				TH_LOG("how %d, flags %x", how, flags[i]);
			}
		}
}

static int close_listener(struct evering_listener *l)
{
	evering_listener_close(l);
	return 0;
}

TEST_F(syscalls, a_file_on_another_device_is_anothers)
{
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	set_reply((struct reply){ "lstat", 0, 1, 0, 0 });
	UNDER(close_listener(self->listener));
	self->listener = NULL;
	EXPECT_TRUE(replied());
	EXPECT_EQ(0, unlink(self->path));
}

/* ----------------------------------------------------------------------- making */

#define NEEDS_MEMFD()                                                    \
	do {                                                             \
		if (variant->backend != EVERING_BACKEND_MEMFD)           \
			SKIP(return, "what memfd channels are made of"); \
	} while (0)

/* @name is to fail with @error once, each time another; returns what was said. */
static int sweep(const struct evering_params *p, const char *name, int error,
		 int *times)
{
	struct evering *ev[2];
	int ret = 0, last = 0;

	for (*times = 0; *times < 100; ++*times) {
		set_reply((struct reply){ name, *times, 1, -1, error });
		ret = UNDER(evering_pair(p, ev));
		if (!replied())
			break;
		if (*times && ret != last)
			return 1;
		last = ret;
	}
	if (ret)
		return 2;
	close_pair(ev);
	return last;
}

TEST_F(syscalls, what_cannot_be_looked_at_belongs_to_no_channel)
{
	int times;

	EXPECT_EQ(-EPROTO, sweep(&self->p, "fstat", ENOMEM, &times));
	EXPECT_LT(1, times);
}

TEST_F(syscalls, memory_of_another_file_system_is_refused)
{
	NEEDS_MEMFD();
	set_reply((struct reply){ "fstat", 0, 1, 0, 0 });
	EXPECT_EQ(-EPROTO, UNDER(evering_pair(&self->p, self->ev)));
	EXPECT_TRUE(replied());
}

TEST_F(syscalls, what_cannot_be_sealed_is_not_shared)
{
	int times;

	NEEDS_MEMFD();
	EXPECT_EQ(-EPERM, sweep(&self->p, "fcntl", EPERM, &times));
	EXPECT_EQ(2, times);
	self->p.flags = EVERING_SHARED_ARENA;
	EXPECT_EQ(-EPERM, sweep(&self->p, "fcntl", EPERM, &times));
	EXPECT_EQ(4, times);
}

TEST_F(syscalls, who_is_interrupted_while_allocating_goes_on)
{
	NEEDS_MEMFD();
	/* Before Linux 5.14 */
	set_replies((struct reply){ "populate_read", 0, 1, -1, EINVAL },
		    (struct reply){ "fallocate", 0, 3, -1, EINTR });
	EXPECT_EQ(0, UNDER(evering_pair(&self->p, self->ev)));
	EXPECT_TRUE(replied());
}

TEST_F(syscalls, who_is_interrupted_while_populating_goes_on)
{
	NEEDS_MEMFD();
	NEEDS_POPULATE();
	set_replies((struct reply){ "populate_write", 0, 3, -1, EINTR },
		    (struct reply){ "populate_read", 1, 3, -1, EINTR });
	EXPECT_EQ(0, UNDER(evering_pair(&self->p, self->ev)));
	EXPECT_TRUE(replied());
}

TEST_F(syscalls, a_limit_that_is_not_told_is_none)
{
	NEEDS_MEMFD();
	set_reply((struct reply){ "getrlimit", 0, 1, -1, EPERM });
	EXPECT_EQ(0, UNDER(evering_pair(&self->p, self->ev)));
	EXPECT_TRUE(replied());
}

/* Is so much tried to be allocated, on a machine such as this? */
static bool is_tried(struct evering_params *p, const char *available,
		     unsigned long bytes)
{
	struct evering *ev[2];

	meminfo = available;
	ram = bytes;
	set_reply((struct reply){ "populate_write", 0, 1, -1, ENOMEM });
	if (UNDER(evering_pair(p, ev)) != -ENOMEM)
		abort();
	return replied();
}

TEST_F(syscalls, more_than_there_is_is_not_tried)
{
	static const char few[] = "MemTotal: 9 kB\nMemAvailable: 65535 kB\n";
	static const char enough[] = "MemAvailable:   65536 kB\n";
	/* Before Linux 3.14 */
	static const char old[] = "MemTotal: 9 kB\nMemFree: 9 kB\n";
	const unsigned long size = 64ul << 20, half = PAGE;

	NEEDS_MEMFD();
	NEEDS_POPULATE();
	self->p.arena_size[EVERING_MINE] = size - half;
	self->p.arena_begin = EVERING_WHOLE;
	EXPECT_FALSE(is_tried(&self->p, few, ULONG_MAX));
	EXPECT_TRUE(is_tried(&self->p, enough, 1));
	EXPECT_FALSE(is_tried(&self->p, old, size - 1));
	EXPECT_TRUE(is_tried(&self->p, old, size));
	/* Without /proc */
	EXPECT_FALSE(is_tried(&self->p, NULL, size - 1));
	EXPECT_TRUE(is_tried(&self->p, NULL, size));
	EXPECT_TRUE(is_tried(&self->p, NULL, 0));
	/* Little is not worth a question. */
	self->p.arena_size[EVERING_MINE] = size - half - PAGE;
	EXPECT_TRUE(is_tried(&self->p, few, 1));
}

TEST_F(syscalls, an_arena_has_whole_pages)
{
	struct evering_params p = self->p;

	p.arena_size[EVERING_MINE] = PAGE;
	set_reply((struct reply){ "sysconf", 0, 1000, 2 * PAGE, 0 });
	EXPECT_EQ(-EINVAL, UNDER(evering_pair(&p, self->ev)));
	EXPECT_EQ(0, evering_pair(&p, self->ev));
}

/* Under its name there is another one. */
TEST_F(syscalls, a_device_that_is_none_is_not_there)
{
	struct evering_params p = params_on(EVERING_BACKEND_DEVICE);
	int fd = REAL(open)("/dev/null", O_RDWR | O_CLOEXEC);

	set_reply((struct reply){ "open", 0, 1, fd, 0 });
	EXPECT_EQ(-ENODEV, UNDER(evering_pair(&p, self->ev)));
	EXPECT_TRUE(replied());
}

TEST_F(syscalls, where_there_is_no_backend_there_is_no_channel)
{
	struct evering_params p = params_on(EVERING_BACKEND_AUTO);

	unsetenv("EVERING_BACKEND");
	set_replies((struct reply){ "open", 0, 1, -1, ENOENT },
		    (struct reply){ "eventfd", 0, 1, -1, ENODEV });
	EXPECT_EQ(-ENODEV, UNDER(evering_pair(&p, self->ev)));
	EXPECT_TRUE(replied());
}

/* --------------------------------------------------------------------- sleeping */

/* Sends one, or takes one, when the other side sleeps for that. */
struct waker {
	struct evering *ev;
	unsigned int what;
	int ret;
};

static void *waker_main(void *arg)
{
	struct waker *w = arg;
	uint32_t v = 5;

	w->ret = peer_is_armed(w->ev, w->what) ? 0 : -ETIMEDOUT;
	if (!w->ret && w->what == EVERING_RX)
		w->ret = evering_send(w->ev, &v, sizeof(v), EVERING_NOWAIT);
	else if (!w->ret)
		w->ret = evering_recv(w->ev, &v, sizeof(v), EVERING_NOWAIT);
	return NULL;
}

/* The peer has the same eventfd, and may have read it: a ring is heard all the same. */
TEST_F(syscalls, a_ring_that_is_taken_back_is_one)
{
	static const unsigned int what[] = { EVERING_RX, EVERING_TX };
	struct waker w;
	uint32_t v = 0;
	pthread_t t;
	size_t i;

	NEEDS_MEMFD();
	for (i = 0; i < ARRAY_SIZE(what); i++) {
		close_pair(self->ev);
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));
		while (!evering_send(self->ev[0], &v, sizeof(v),
				     EVERING_NOWAIT))
			;
		w = (struct waker){ self->ev[1], what[i], 1 };
		ASSERT_EQ(0, pthread_create(&t, NULL, waker_main, &w));
		EXPECT_EQ((int)what[i],
			  evering_wait(self->ev[0], EVERING_RX | EVERING_TX,
				       PLENTY));
		pthread_join(t, NULL);
		EXPECT_EQ(0, w.ret);
		EXPECT_EQ(0,
			  what[i] == EVERING_RX ?
				  evering_recv(self->ev[0], &v, sizeof(v), 0) :
				  evering_send(self->ev[0], &v, sizeof(v), 0));
		EXPECT_EQ(-ETIMEDOUT,
			  evering_wait(self->ev[0], EVERING_RX | EVERING_TX,
				       MSEC));
	}
}

TEST_F(syscalls, two_threads_that_ask_for_the_descriptor_have_the_same)
{
	int fd;

	NEEDS_MEMFD();
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	rival = self->ev[0];
	rivals_fd = -1;
	fd = evering_fd(self->ev[0]);
	EXPECT_LE(0, fd);
	EXPECT_EQ(rivals_fd, fd);
	EXPECT_EQ(fd, evering_fd(self->ev[0]));
	EXPECT_LE(0, fcntl(fd, F_GETFD));
}

TEST_HARNESS_MAIN
