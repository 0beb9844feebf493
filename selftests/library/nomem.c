// SPDX-License-Identifier: MIT
/*
 * nomem.c: whatever the library asks of the system is refused, once: the first thing
 * it asks for, the second, and so on, until all has been had.  Each time the call
 * says what was missing, leaves nothing behind, and what there was before it is of
 * use as before: the same call succeeds when it is made again.
 *
 * Refused is only what a thread asks for between inject() and spare(), and only inside
 * of the library.
 */
#include "op.h"
#include "interpose.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#if SANITIZED && !SANITIZED_THREADS
#include <sanitizer/lsan_interface.h>
#endif

/* A sanitizer that is linked in whole, as clang's are, has malloc() here already. */
#if defined(__clang__) && SANITIZED
#define ALLOCATORS 0
#else
#define ALLOCATORS 1
#endif

/* More than any call asks for. */
#define MOST	   200

/* -------------------------------------------------------------------- refusals */

/**
 * struct injection - what a thread is refused
 * @on: it is in the library, under this
 * @count: how much it has asked for
 * @at: which of that is refused
 * @variety: with which of the errors that this call has
 * @name: what was refused; NULL: nothing yet
 * @error: with what errno
 */
struct injection {
	bool on;
	int count;
	int at;
	int variety;
	const char *name;
	int error;
};

static __thread struct injection injection;

static bool refused(const char *name, int one, int two, int three)
{
	const int errors[3] = { one, two, three };

	if (!injection.on || injection.count++ != injection.at)
		return false;
	injection.name = name;
	injection.error = errors[injection.variety % 3];
	errno = injection.error;
	return true;
}

#define REFUSED_FD(name) refused(name, EMFILE, ENFILE, ENOMEM)

#if ALLOCATORS
HIDDEN void *malloc(size_t size)
{
	return refused("malloc", ENOMEM, ENOMEM, ENOMEM) ? NULL :
							   REAL(malloc)(size);
}

HIDDEN void *calloc(size_t n, size_t size)
{
	return refused("calloc", ENOMEM, ENOMEM, ENOMEM) ?
		       NULL :
		       REAL(calloc)(n, size);
}

HIDDEN void *realloc(void *old, size_t size)
{
	return refused("realloc", ENOMEM, ENOMEM, ENOMEM) ?
		       NULL :
		       REAL(realloc)(old, size);
}

HIDDEN void *aligned_alloc(size_t align, size_t size)
{
	return refused("aligned_alloc", ENOMEM, ENOMEM, ENOMEM) ?
		       NULL :
		       REAL(aligned_alloc)(align, size);
}
#endif

/* EAGAIN: beyond RLIMIT_MEMLOCK, of a process that has called mlockall(2). */
HIDDEN void *mmap(void *at, size_t size, int prot, int flags, int fd,
		  off_t offset)
{
	return refused("mmap", ENOMEM, EAGAIN, ENOMEM) ?
		       MAP_FAILED :
		       REAL(mmap)(at, size, prot, flags, fd, offset);
}

/* EAGAIN is how it says that the kernel has no memory. */
HIDDEN int madvise(void *at, size_t size, int advice)
{
	return refused("madvise", ENOMEM, EAGAIN, ENOMEM) ?
		       -1 :
		       REAL(madvise)(at, size, advice);
}

HIDDEN void *mremap(void *old, size_t old_size, size_t size, int flags, ...)
{
	va_list args;
	void *to;

	va_start(args, flags);
	to = va_arg(args, void *);
	va_end(args);
	return refused("mremap", ENOMEM, ENOMEM, ENOMEM) ?
		       MAP_FAILED :
		       REAL(mremap)(old, old_size, size, flags, to);
}

HIDDEN int inotify_init1(int flags)
{
	return REFUSED_FD("inotify_init1") ? -1 : REAL(inotify_init1)(flags);
}

HIDDEN int memfd_create(const char *name, unsigned int flags)
{
	return REFUSED_FD("memfd_create") ? -1 :
					    REAL(memfd_create)(name, flags);
}

HIDDEN int ftruncate(int fd, off_t size)
{
	return refused("ftruncate", ENOMEM, ENOMEM, ENOMEM) ?
		       -1 :
		       REAL(ftruncate)(fd, size);
}

HIDDEN int fallocate(int fd, int mode, off_t offset, off_t size)
{
	return refused("fallocate", ENOMEM, ENOSPC, ENOMEM) ?
		       -1 :
		       REAL(fallocate)(fd, mode, offset, size);
}

HIDDEN ssize_t pwrite(int fd, const void *buf, size_t size, off_t offset)
{
	return refused("pwrite", ENOMEM, ENOSPC, ENOMEM) ?
		       -1 :
		       REAL(pwrite)(fd, buf, size, offset);
}

HIDDEN int eventfd(unsigned int count, int flags)
{
	return REFUSED_FD("eventfd") ? -1 : REAL(eventfd)(count, flags);
}

HIDDEN int timerfd_create(clockid_t clock, int flags)
{
	return REFUSED_FD("timerfd_create") ?
		       -1 :
		       REAL(timerfd_create)(clock, flags);
}

HIDDEN int epoll_create1(int flags)
{
	return REFUSED_FD("epoll_create1") ? -1 : REAL(epoll_create1)(flags);
}

/* ENOSPC: /proc/sys/fs/epoll/max_user_watches */
HIDDEN int epoll_ctl(int set, int op, int fd, struct epoll_event *event)
{
	if (op == EPOLL_CTL_ADD && refused("epoll_ctl", ENOMEM, ENOSPC, ENOMEM))
		return -1;
	return REAL(epoll_ctl)(set, op, fd, event);
}

HIDDEN int socket(int domain, int type, int protocol)
{
	return REFUSED_FD("socket") ? -1 : REAL(socket)(domain, type, protocol);
}

HIDDEN int socketpair(int domain, int type, int protocol, int sv[2])
{
	return REFUSED_FD("socketpair") ?
		       -1 :
		       REAL(socketpair)(domain, type, protocol, sv);
}

HIDDEN int bind(int fd, const struct sockaddr *address, socklen_t len)
{
	return refused("bind", ENOMEM, ENOMEM, ENOMEM) ?
		       -1 :
		       REAL(bind)(fd, address, len);
}

HIDDEN int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	return REFUSED_FD("accept4") ? -1 :
				       REAL(accept4)(fd, address, len, flags);
}

/* ETOOMANYREFS: more descriptors under way than RLIMIT_NOFILE. */
HIDDEN ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return refused("sendmsg", ENOMEM, ETOOMANYREFS, ENOBUFS) ?
		       -1 :
		       REAL(sendmsg)(fd, msg, flags);
}

HIDDEN int dup(int fd)
{
	return REFUSED_FD("dup") ? -1 : REAL(dup)(fd);
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
	return REFUSED_FD("open") ? -1 : REAL(open)(path, flags, mode);
}

HIDDEN int fcntl(int fd, int command, ...)
{
	va_list args;
	long arg;

	va_start(args, command);
	arg = va_arg(args, long);
	va_end(args);
	if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) &&
	    refused("fcntl", EMFILE, EMFILE, EMFILE))
		return -1;
	return REAL(fcntl)(fd, command, arg);
}

HIDDEN int ioctl(int fd, ioctl_command given, ...)
{
	const unsigned int command = (unsigned int)given;
	va_list args;
	void *arg;

	va_start(args, given);
	arg = va_arg(args, void *);
	va_end(args);
	if (command == EVERING_IOC_CREATE &&
	    refused("ioctl", ENOMEM, EMFILE, EDQUOT))
		return -1;
	return REAL(ioctl)(fd, given, arg);
}

/* ---------------------------------------------------------------- under refusal */

static void inject(int at, int variety)
{
	injection = (struct injection){ .at = at, .variety = variety };
}

static void spare(void)
{
	injection.at = -1;
}

/* The call is under the present injection; nothing around it is. */
#define UNDER(call) \
	({ \
		__typeof__(call) ret_; \
 \
		injection.on = true; \
		ret_ = (call); \
		injection.on = false; \
		ret_; \
	})

/*
 * May a call return @ret, of which something was refused?  What it was, unless that
 * was said in the words of files, or about memory that is only for now.
 */
static bool tells_it(int ret)
{
	const char *name = injection.name;

	if (!name)
		return false;
	if (!strcmp(name, "mmap") || !strcmp(name, "madvise") ||
	    !strcmp(name, "mremap") || !strcmp(name, "fallocate") ||
	    !strcmp(name, "pwrite"))
		return ret == -ENOMEM;
	/* The check of what the peer has brought. */
	if (!strcmp(name, "ftruncate") && ret == -EPROTO)
		return true;
	return ret == -injection.error;
}

static bool was(const char *name)
{
	return injection.name && !strcmp(injection.name, name);
}

/* Says so, and is what a function that failed at this line is to return. */
static int wrong(int line, int ret)
{
	printf("# line %d: %d, %s was refused with %d, at %d\n", line, ret,
	       injection.name ? injection.name : "nothing", injection.error,
	       injection.at);
	fflush(stdout);
	return line;
}

/*
 * @call returns @good, or says what was refused and does it when it is called again.
 */
#define STEP(good, call) \
	do { \
		const char *before_ = injection.name; \
		int got_ = UNDER(call); \
 \
		if (got_ != (good)) { \
			if (before_ || !tells_it(got_)) \
				return wrong(__LINE__, got_); \
			got_ = UNDER(call); \
			if (got_ != (good)) \
				return wrong(__LINE__, got_); \
		} \
	} while (0)

#define NEED(ok) \
	do { \
		if (!(ok)) \
			return wrong(__LINE__, 0); \
	} while (0)

struct weight {
	int fds, mappings;
	size_t heap;
};

static struct weight weigh(void)
{
	struct weight w = { .fds = count_fds(), .mappings = count_mappings() };

	/* Not where one sweep is all, and the first. */
	if (!SANITIZED && !getenv("EVERING_GUEST"))
		w.heap = heap_bytes();
	return w;
}

#define HEAP_SLACK 4000

#define EXPECT_SAME_WEIGHT(before) \
	do { \
		struct weight after_ = weigh(); \
 \
		EXPECT_EQ((before).fds, after_.fds); \
		EXPECT_EQ((before).mappings, after_.mappings); \
		EXPECT_LE(after_.heap, (before).heap + HEAP_SLACK); \
		EXPECT_EQ(0, lost_memory()); \
	} while (0)

static int lost_memory(void)
{
#if SANITIZED && !SANITIZED_THREADS
	return __lsan_do_recoverable_leak_check();
#else
	return 0;
#endif
}

FIXTURE(nomem)
{
	struct evering_params p;
	char path[64];
	int varieties;
};

BACKEND_VARIANTS(nomem);

FIXTURE_SETUP(nomem)
{
	const struct rlimit few = { 256, 256 };
	struct evering *ev[2];

	REQUIRE_BACKEND(variant->backend);
	/* So that they are soon counted. */
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &few));
	self->p = params_sized(variant->backend, 64, 16, 65536);
	self->varieties = getenv("EVERING_GUEST") ? 1 : 3;
	snprintf(self->path, sizeof(self->path), "/tmp/evering-nomem-%d",
		 getpid());
	/* What is asked for once, and goes without if it is refused. */
	ASSERT_EQ(0, evering_pair(&self->p, ev));
	close_pair(ev);
	weigh();
}

FIXTURE_TEARDOWN(nomem)
{
}

/*
 * Repeats @body, with @at and @variety, until nothing was refused any more.  It must
 * set @missed: there was nothing left to refuse.  Sets "before", once it has warmed up.
 */
#define SWEEP(at, variety, missed, body) \
	do { \
		struct weight w_; \
 \
		for (variety = 0; variety < self->varieties; variety++) { \
			missed = false; \
			for (at = 0; !missed; at++) { \
				w_ = weigh(); \
				/* malloc() has kept what it will by the 2nd. */ \
				if (at == 1 && variety < 2) \
					before = w_; \
				ASSERT_LT(at, MOST); \
				body; \
				ASSERT_EQ(w_.fds, count_fds()) \
				{ \
					TH_LOG("%s at %d", injection.name, \
					       at); \
				} \
				/* What was there for the first time may stay. */ \
				if (at) \
					ASSERT_EQ(w_.mappings, \
						  count_mappings()) \
					{ \
						TH_LOG("%s at %d", \
						       injection.name, at); \
					} \
			} \
		} \
	} while (0)

/* ----------------------------------------------------------------------- alone */

TEST_F(nomem, a_pair)
{
	int at, variety, ret, asked = 0;
	struct weight before = { 0 };
	struct evering *ev[2];
	bool missed;

	SWEEP(at, variety, missed, {
		inject(at, variety);
		ret = UNDER(evering_pair(&self->p, ev));
		missed = !injection.name;
		if (missed) {
			ASSERT_EQ(0, ret);
			asked = injection.count;
			close_pair(ev);
		} else {
			ASSERT_TRUE(tells_it(ret))
			{
				TH_LOG("%d: %s, %d", ret, injection.name,
				       injection.error);
			}
		}
	});
	EXPECT_LT(10, asked);
	EXPECT_SAME_WEIGHT(before);
	printf("# a pair asks for %d things\n", asked);
}

TEST_F(nomem, a_pair_of_every_kind)
{
	int at, variety, ret, kind;
	struct evering *ev[2];
	struct weight before = { 0 };
	bool missed;

	for (kind = 0; kind < 4; kind++) {
		self->p.flags = kind & 1 ? EVERING_SHARED_ARENA : 0;
		self->p.arena_size[0] = kind & 2 ? PAGE : 0;
		self->p.arena_size[1] = kind & 2 ? 0 : PAGE;
		SWEEP(at, variety, missed, {
			inject(at, variety);
			ret = UNDER(evering_pair(&self->p, ev));
			missed = !injection.name;
			ASSERT_TRUE(missed ? !ret : tells_it(ret));
			if (!ret)
				close_pair(ev);
		});
		EXPECT_SAME_WEIGHT(before);
	}
}

static int listen_once(const char *path, bool stale)
{
	struct evering_listener *l = NULL;
	int ret;

	unlink(path);
	if (stale)
		NEED(!leave_stale(path));
	ret = UNDER(evering_listen(path, 0600, &l));
	if (ret) {
		/* Whether it is stale could not be found out. */
		NEED(tells_it(ret) || (stale && ret == -EADDRINUSE &&
				       (was("socket") || was("bind"))));
		NEED(stale || access(path, F_OK));
		unlink(path);
		/* It can be had now. */
		ret = evering_listen(path, 0600, &l);
	} else {
		/* Goes without its lock. */
		NEED(!injection.name || was("open") || was("bind"));
	}
	NEED(!ret && !access(path, F_OK));
	evering_listener_close(l);
	NEED(access(path, F_OK));
	return 0;
}

TEST_F(nomem, listening)
{
	int at, variety, stale;
	struct weight before = { 0 };
	bool missed;

	for (stale = 0; stale < 2; stale++) {
		SWEEP(at, variety, missed, {
			inject(at, variety);
			ASSERT_EQ(0, listen_once(self->path, stale));
			missed = !injection.name;
		});
		EXPECT_SAME_WEIGHT(before);
	}
}

/* --------------------------------------------------------------------- meeting */

/**
 * struct client - who connects, in a thread of its own
 * @fd: over this socket; -1: to @path
 * @at, @variety: what it is refused; -1: nothing
 * @missed: out: nothing was left to refuse
 * @failed: out: line of what went wrong
 * @over: out: it is through
 */
struct client {
	const struct evering_params *p;
	const char *path;
	int fd;
	int at, variety;
	bool missed;
	int failed;
	bool over;
	struct evering *ev;
};

/* What the other side may have lacked, and how it may have gone away. */
static bool excusable(int ret)
{
	return ret == -EMFILE || ret == -ENFILE || ret == -ENOMEM ||
	       ret == -ETOOMANYREFS || ret == -ECONNRESET || ret == -EPROTO;
}

static int connects(struct client *c)
{
	int tries, ret;

	inject(c->at, c->variety);
	if (c->fd >= 0) {
		ret = UNDER(evering_connect_fd(c->fd, c->p, PLENTY, &c->ev));
		c->missed = !injection.name;
		if (ret) {
			NEED(c->missed ? c->at < 0 && excusable(ret) :
					 tells_it(ret));
			/* Still the caller's. */
			NEED(fcntl(c->fd, F_GETFD) >= 0);
			close(c->fd);
		} else {
			NEED(c->missed);
		}
		return 0;
	}
	ret = UNDER(evering_connect(c->path, c->p, PLENTY, &c->ev));
	c->missed = !injection.name;
	if (ret && c->at >= 0)
		NEED(tells_it(ret));
	if (c->at >= 0)
		NEED(!c->missed == !!ret);
	spare();
	/* Not, when it is tried again. */
	for (tries = 0; ret && tries < 100; tries++) {
		NEED(c->at >= 0 || excusable(ret));
		ret = evering_connect(c->path, c->p, PLENTY, &c->ev);
	}
	NEED(!ret);
	return 0;
}

static void *client_main(void *arg)
{
	struct client *c = arg;

	c->failed = connects(c);
	__atomic_store_n(&c->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static int exchange(struct evering *a, struct evering *b)
{
	uint32_t v = 7, w = 0;

	NEED(!evering_send(a, &v, 4, 0) && !evering_recv(b, &w, 4, PLENTY));
	NEED(w == 7);
	NEED(!evering_send(b, &v, 4, 0) && !evering_recv(a, &w, 4, PLENTY));
	return 0;
}

/* Over a listener, of which one side is refused something. */
static int meet_at(struct evering_listener *l, struct client *c, int at,
		   int variety, bool *missed)
{
	struct evering *ev = NULL, *next;
	pthread_t t;
	int ret;

	c->fd = -1;
	c->ev = NULL;
	c->over = false;
	NEED(!pthread_create(&t, NULL, client_main, c));
	inject(at, variety);
	ret = UNDER(evering_accept(l, NULL, PLENTY, &ev));
	*missed = !injection.name;
	if (ret) {
		NEED(tells_it(ret));
		spare();
		/* It waits still, or comes again. */
		ret = evering_accept(l, NULL, PLENTY, &ev);
	} else {
		/*
		 * Could not answer, not look at what it brought, or had no memory
		 * for what it asked for: that one was turned away, and came again.
		 */
		NEED(!injection.name || was("sendmsg") || was("ftruncate") ||
		     (injection.error != EMFILE && injection.error != ENFILE));
	}
	/* Who was accepted may yet have lacked something, and come again. */
	while (!__atomic_load_n(&c->over, __ATOMIC_ACQUIRE)) {
		if (evering_accept(l, NULL, MSEC, &next))
			continue;
		if (!ret)
			evering_close(ev);
		ev = next;
		ret = 0;
	}
	pthread_join(t, NULL);
	NEED(!ret);
	if (at < 0)
		*missed = c->missed;
	NEED(!c->failed);
	NEED(!exchange(ev, c->ev));
	evering_close(ev);
	evering_close(c->ev);
	return 0;
}

TEST_F(nomem, connecting)
{
	struct client c = { .p = &self->p, .path = self->path };
	struct evering_listener *l;
	struct weight before = { 0 };
	int at, variety;
	bool missed;

	ASSERT_EQ(0, evering_listen(self->path, 0600, &l));
	c.at = -1;
	ASSERT_EQ(0, meet_at(l, &c, -1, 0, &missed));
	SWEEP(at, variety, missed, {
		c.at = at;
		c.variety = variety;
		ASSERT_EQ(0, meet_at(l, &c, -1, 0, &missed));
	});
	EXPECT_SAME_WEIGHT(before);
	evering_listener_close(l);
}

#define LANES 3

/* A client that wishes for lanes, which is refused something at @at; or nothing: -1. */
struct many {
	const struct evering_params *p;
	const char *path;
	int at, variety;
	bool missed, over;
	int failed;
	struct evering *ev[LANES];
};

static int connects_many(struct many *m)
{
	int tries, ret;

	inject(m->at, m->variety);
	ret = UNDER(evering_connect_many(m->path, m->p, LANES, PLENTY, m->ev));
	m->missed = !injection.name;
	if (ret < 0 && m->at >= 0)
		NEED(tells_it(ret));
	if (m->at >= 0)
		NEED(!m->missed == (ret < 0));
	spare();
	for (tries = 0; ret < 0 && tries < 100; tries++) {
		NEED(m->at >= 0 || excusable(ret));
		ret = evering_connect_many(m->path, m->p, LANES, PLENTY, m->ev);
	}
	NEED(ret == LANES);
	return 0;
}

static void *many_main(void *arg)
{
	struct many *m = arg;

	m->failed = connects_many(m);
	__atomic_store_n(&m->over, true, __ATOMIC_RELEASE);
	return NULL;
}

/* All lanes of one meeting or none; closes what it had before. */
static int accept_many(struct evering_listener *l, struct evering *ev[LANES],
		       int64_t timeout)
{
	struct evering *next[LANES] = { NULL };
	int i, ret;

	ret = UNDER(evering_accept(l, NULL, timeout, &next[0]));
	if (ret)
		return ret;
	for (i = 1; i < LANES; i++)
		NEED(!UNDER(evering_accept(l, NULL, EVERING_NOWAIT, &next[i])));
	for (i = 0; i < LANES; i++) {
		evering_close(ev[i]);
		ev[i] = next[i];
	}
	return 0;
}

/* As meet_at(). */
static int meet_many(struct evering_listener *l, struct many *m, int at,
		     int variety, bool *missed)
{
	struct evering *ev[LANES] = { NULL };
	pthread_t t;
	int ret, i;

	m->over = false;
	NEED(!pthread_create(&t, NULL, many_main, m));
	inject(at, variety);
	ret = accept_many(l, ev, PLENTY);
	*missed = !injection.name;
	NEED(ret <= 0 && (!ret || tells_it(ret)));
	spare();
	/* It waits still, or comes again. */
	while (!__atomic_load_n(&m->over, __ATOMIC_ACQUIRE)) {
		ret = accept_many(l, ev, MSEC);
		NEED(ret <= 0);
	}
	while (!accept_many(l, ev, EVERING_NOWAIT))
		;
	pthread_join(t, NULL);
	if (at < 0)
		*missed = m->missed;
	NEED(!m->failed);
	for (i = 0; i < LANES; i++) {
		NEED(!exchange(ev[i], m->ev[i]));
		evering_close(ev[i]);
		evering_close(m->ev[i]);
	}
	return 0;
}

TEST_F(nomem, connecting_lanes)
{
	struct many m = { .p = &self->p, .path = self->path, .at = -1 };
	struct evering_listener *l;
	struct weight before = { 0 };
	int at, variety;
	bool missed;

	ASSERT_EQ(0, evering_listen(self->path, 0600, &l));
	ASSERT_EQ(0, meet_many(l, &m, -1, 0, &missed));
	SWEEP(at, variety, missed, {
		m.at = at;
		m.variety = variety;
		ASSERT_EQ(0, meet_many(l, &m, -1, 0, &missed));
	});
	EXPECT_SAME_WEIGHT(before);
	evering_listener_close(l);
}

/* ------------------------------------------------------------------- succeeding */

/* A survivor, which is refused something while it meets a successor. */
struct survivor {
	const char *path;
	struct side side;
	int at, variety;
	bool missed, over;
	int failed;
};

static int survives(struct survivor *s)
{
	int tries, ret;

	inject(s->at, s->variety);
	ret = UNDER(evering_replace(s->side.ev, s->path, 0, PLENTY));
	s->missed = !injection.name;
	if (ret)
		NEED(tells_it(ret));
	spare();
	/* Nothing has changed. */
	for (tries = 0; ret && tries < 100; tries++) {
		NEED(evering_peer(s->side.ev) == EVERING_PEER_CLOSED);
		ret = evering_replace(s->side.ev, s->path, 0, PLENTY);
	}
	NEED(!ret);
	return 0;
}

static void *survivor_main(void *arg)
{
	struct survivor *s = arg;

	s->failed = survives(s);
	__atomic_store_n(&s->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static int open_survivor(struct side *s, struct evering *ev)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	*s = (struct side){ .ev = ev };
	p.flags = EVERING_REPLACEABLE;
	return evering_ops_open(ev, &p, &s->ops);
}

/*
 * A peer that has given a buffer, and has begun one request and not seen two, goes, and has
 * a successor.
 */
static int succeed_once(struct evering_listener *l,
			const struct evering_params *p, struct survivor *s)
{
	struct outcome o[4] = { 0 };
	struct evering *ev[2], *next = NULL, *met;
	struct side pair[2], successor;
	struct evering_op op;
	pthread_t t;
	void *given;
	int i;

	NEED(!evering_pair(p, ev));
	NEED(!open_survivor(&pair[0], ev[0]));
	NEED(!side_open(&pair[1], ev[1], 4, 4, false));
	pump(pair);
	for (i = 0; i < 4; i++) {
		op = asks((uint32_t)i, &i, sizeof(i), &o[i]);
		if (i == 3)
			op = hands(EVERING_LEND, evering_alloc(ev[0], 4000, 0),
				   4000, &o[i]);
		NEED(!ask(&pair[0], &op, NULL));
		if (i < 2)
			pump(pair);
	}
	given = evering_alloc(ev[1], 4000, 0);
	NEED(pair[1].n_got == 2 && given);
	NEED(!evering_op_answer_buffer(pair[1].ops, pair[1].got[0].id, 0, given,
				       4000));
	while (evering_ops_poll(pair[0].ops) > 0)
		;
	NEED(o[0].times == 1 && o[0].buf);
	evering_close(ev[1]);

	s->side = pair[0];
	s->over = false;
	NEED(!pthread_create(&t, NULL, survivor_main, s));
	while (!__atomic_load_n(&s->over, __ATOMIC_ACQUIRE)) {
		if (evering_accept(l, NULL, MSEC, &met))
			continue;
		evering_close(next);
		next = met;
	}
	pthread_join(t, NULL);
	NEED(!s->failed && next);
	pair[0] = s->side;
	NEED(!side_open(&successor, next, 4, 4, false));
	pair[1] = successor;
	NEED(!evering_free(ev[0], o[0].buf));
	/* The callbacks of the other side's table are told where it was. */
	for (i = 0; i < 100; i++) {
		evering_ops_poll(pair[0].ops);
		evering_ops_poll(successor.ops);
	}
	NEED(successor.n_got == 2 && successor.got[1].buf_len == 4000);
	NEED(o[1].times == 1 && o[1].result == -EOWNERDEAD);
	for (i = 0; i < 2; i++)
		NEED(!evering_op_answer(successor.ops, successor.got[i].id,
					i + 5, NULL, 0));
	while (evering_ops_poll(pair[0].ops) > 0)
		;
	NEED(o[2].times == 1 && o[2].result == 5);
	NEED(o[3].times == 1 && o[3].result == 6);
	over = true;
	evering_close(next);
	evering_close(ev[0]);
	over = false;
	return 0;
}

TEST_F(nomem, replacing)
{
	struct survivor s = { .path = self->path, .at = -1 };
	struct evering_listener *l;
	struct weight before = { 0 };
	int at, variety;
	bool missed;

	ASSERT_EQ(0, evering_listen(self->path, 0600, &l));
	ASSERT_EQ(0, succeed_once(l, &self->p, &s));
	SWEEP(at, variety, missed, {
		s.at = at;
		s.variety = variety;
		ASSERT_EQ(0, succeed_once(l, &self->p, &s));
		missed = s.missed;
	});
	EXPECT_SAME_WEIGHT(before);
	evering_listener_close(l);
}

TEST_F(nomem, accepting_lanes)
{
	struct many m = { .p = &self->p, .path = self->path, .at = -1 };
	struct evering_listener *l;
	struct weight before = { 0 };
	int at, variety;
	bool missed;

	ASSERT_EQ(0, evering_listen(self->path, 0600, &l));
	ASSERT_EQ(0, meet_many(l, &m, -1, 0, &missed));
	SWEEP(at, variety, missed, {
		ASSERT_EQ(0, meet_many(l, &m, at, variety, &missed));
		missed = !injection.name;
	});
	EXPECT_SAME_WEIGHT(before);
	evering_listener_close(l);
}

TEST_F(nomem, accepting)
{
	struct client c = { .p = &self->p, .path = self->path, .at = -1 };
	struct evering_listener *l;
	struct weight before = { 0 };
	int at, variety;
	bool missed;

	ASSERT_EQ(0, evering_listen(self->path, 0600, &l));
	ASSERT_EQ(0, meet_at(l, &c, -1, 0, &missed));
	SWEEP(at, variety, missed, {
		ASSERT_EQ(0, meet_at(l, &c, at, variety, &missed));
		missed = !injection.name;
	});
	EXPECT_SAME_WEIGHT(before);
	evering_listener_close(l);
}

/* The same over a socketpair. */
static int meet_fd(struct client *c, int at, int variety)
{
	struct evering *ev = NULL;
	int sv[2], ret;
	pthread_t t;

	NEED(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	c->fd = sv[0];
	c->ev = NULL;
	NEED(!pthread_create(&t, NULL, client_main, c));
	inject(at, variety);
	ret = UNDER(evering_accept_fd(sv[1], NULL, PLENTY, &ev));
	if (ret) {
		NEED(injection.name ? tells_it(ret) : at < 0 && excusable(ret));
		NEED(fcntl(sv[1], F_GETFD) >= 0);
		close(sv[1]);
	} else {
		NEED(!injection.name);
	}
	pthread_join(t, NULL);
	NEED(!c->failed);
	if (!ret && c->ev)
		NEED(!exchange(ev, c->ev));
	evering_close(ev);
	evering_close(c->ev);
	return 0;
}

TEST_F(nomem, meeting_over_a_socket)
{
	struct client c = { .p = &self->p, .at = -1 };
	struct weight before = { 0 };
	int at, variety;
	bool missed;

	ASSERT_EQ(0, meet_fd(&c, -1, 0));
	SWEEP(at, variety, missed, {
		c.at = at;
		c.variety = variety;
		ASSERT_EQ(0, meet_fd(&c, -1, 0));
		missed = c.missed;
	});
	c.at = -1;
	SWEEP(at, variety, missed, {
		ASSERT_EQ(0, meet_fd(&c, at, variety));
		missed = !injection.name;
	});
	EXPECT_SAME_WEIGHT(before);
}

/* ------------------------------------------------------------------------- use */

static int to_zero(int ret)
{
	return ret > 0 ? 0 : ret;
}

/* Everything that waits, sleeps or polls; each may do without what it lacks. */
static int sends_and_sleeps(struct evering *ev[2])
{
	uint32_t v = 1;
	int i, n;

	STEP(0, evering_send(ev[0], &v, 4, 0));
	STEP(0, evering_recv(ev[1], &v, 4, 0));
	for (i = 0; i < 2; i++) {
		STEP(-ETIMEDOUT, evering_recv(ev[i], &v, 4, 20 * USEC));
		STEP(-ETIMEDOUT, evering_wait(ev[i], EVERING_RX, 20 * USEC));
	}
	for (n = 0; !evering_send(ev[0], &v, 4, 0); n++)
		;
	NEED(n == 16);
	STEP(-ETIMEDOUT, evering_send(ev[0], &v, 4, 20 * USEC));
	STEP(-ETIMEDOUT,
	     evering_wait(ev[0], EVERING_RX | EVERING_TX, 20 * USEC));
	while (n--)
		STEP(0, evering_recv(ev[1], &v, 4, PLENTY));
	for (i = 0; i < 2; i++) {
		STEP(0, to_zero(evering_fd(ev[i])));
		STEP(0, evering_arm(ev[i], EVERING_RX));
		evering_disarm(ev[i], EVERING_RX);
	}
	NEED(!exchange(ev[0], ev[1]));
	return 0;
}

/* Asks @a, whose answer is @how, with @buf. */
static int asks_once(struct side s[2], const struct evering_op *op,
		     struct outcome *o)
{
	unsigned int n = s[1].n_got;
	struct evering_request r;

	memset(o, 0, sizeof(*o));
	STEP(0, evering_op_submit(s[0].ops, op, NULL, PLENTY));
	injection.on = true;
	pump(s);
	injection.on = false;
	NEED(s[1].n_got == n + 1);
	r = s[1].got[n];
	if (r.flags & EVERING_GIVE)
		STEP(0, evering_free(s[1].ev, r.buf));
	STEP(0, evering_op_answer(s[1].ops, r.id, 5, NULL, 0));
	injection.on = true;
	pump(s);
	injection.on = false;
	NEED(o->times == 1);
	return 0;
}

static int operates(struct evering *ev[2], struct side s[2])
{
	struct evering_completion c;
	struct outcome o;
	struct evering_op op;
	uint64_t id;
	void *buf;
	int n, i;

	for (i = 0; i < 2; i++)
		STEP(0, side_open(&s[i], ev[i], 4, 4, false));
	/* Nothing is allocated from here on. */
	n = injection.count;
	pump(s);
	op = asks(1, "abc", 3, &o);
	NEED(!asks_once(s, &op, &o) && o.result == 5);

	buf = UNDER(evering_alloc(ev[0], 1000, 0));
	NEED(buf);
	op = hands(EVERING_LEND, buf, 1000, &o);
	NEED(!asks_once(s, &op, &o) && o.result == 5);
	NEED(!evering_free(ev[0], buf));

	buf = UNDER(evering_alloc(ev[0], 1000, 0));
	NEED(buf);
	op = hands(EVERING_GIVE, buf, 1000, &o);
	NEED(!asks_once(s, &op, &o) && o.result == 5);

	op = asks(2, NULL, 0, NULL);
	STEP(0, evering_op_submit(s[0].ops, &op, &id, PLENTY));
	STEP(0, evering_op_cancel(s[0].ops, id,
				  EVERING_CANCEL_DETACH | EVERING_CANCEL_TELL));
	STEP(0, evering_op_done(s[0].ops, id, &c));
	pump(s);
	STEP(0, evering_op_answer(s[1].ops, s[1].got[s[1].n_got - 1].id, 0,
				  NULL, 0));
	pump(s);
	op.timeout_ns = 20 * USEC;
	STEP(0, evering_op_submit(s[0].ops, &op, &id, PLENTY));
	/* But for who could not see the other's arena when the two met. */
	if (!SANITIZED)
		NEED(injection.count == n || was("madvise"));
	/* Sleeps, for which it may want something, or do without. */
	STEP(0, evering_op_wait(s[0].ops, id, &c, PLENTY));
	NEED(c.result == -ETIMEDOUT);
	pump(s);
	STEP(0, evering_op_answer(s[1].ops, s[1].got[s[1].n_got - 1].id, 0,
				  NULL, 0));
	pump(s);
	NEED(arena_whole(ev[0]) && arena_whole(ev[1]));
	return 0;
}

/* A whole life, and all of it under refusal, also its end. */
static int lives(const struct evering_params *p, struct side s[2])
{
	struct evering_params whole = *p;
	struct evering *ev[2];
	int i;

	whole.flags = EVERING_POPULATE;
	STEP(0, evering_pair(&whole, ev));
	NEED(!sends_and_sleeps(ev) && !operates(ev, s));
	injection.on = true;
	for (i = 0; i < 2; i++)
		evering_ops_close(s[i].ops);
	close_pair(ev);
	injection.on = false;
	return 0;
}

TEST_F(nomem, a_whole_life)
{
	static struct side s[2];
	struct weight before = { 0 };
	int at, variety, asked = 0;
	bool missed;

	SWEEP(at, variety, missed, {
		inject(at, variety);
		ASSERT_EQ(0, lives(&self->p, s))
		{
			TH_LOG("%s at %d", injection.name, at);
		}
		missed = !injection.name;
		asked = injection.count;
	});
	EXPECT_SAME_WEIGHT(before);
	printf("# a life asks for %d things\n", asked);
}

/*
 * Nothing is to be had any more, from some moment on, rather than once: the same, but
 * that what was there works on.
 */
TEST_F(nomem, what_is_there_works_without_any_more)
{
	struct evering *ev[2], *more[2];
	struct weight before = weigh();
	uint32_t v = 3;
	int i, n;

	ASSERT_EQ(0, evering_pair(&self->p, ev));
	for (i = 0; i < 3 * MOST; i++) {
		inject(0, i);
		ASSERT_GT(0, UNDER(evering_pair(&self->p, more)));
		inject(0, i);
		/* Its sleeper cannot be made: another way to sleep. */
		ASSERT_EQ(-ETIMEDOUT,
			  UNDER(evering_recv(ev[1], &v, 4, 10 * USEC)));
		inject(0, i);
		n = UNDER(evering_send(ev[0], &v, 4, 0));
		ASSERT_EQ(0, n);
		ASSERT_EQ(0, UNDER(evering_recv(ev[1], &v, 4, PLENTY)));
		ASSERT_EQ(0, injection.count);
		ASSERT_EQ(EVERING_PEER_ALIVE, UNDER(evering_peer(ev[0])));
	}
	close_pair(ev);
	EXPECT_SAME_WEIGHT(before);
}

TEST_HARNESS_MAIN
