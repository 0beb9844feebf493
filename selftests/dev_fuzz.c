// SPDX-License-Identifier: MIT
/*
 * dev_fuzz.c: random calls on /dev/evering by several processes at once.
 *
 * A program is a list of calls, each of a worker: an operation and a few bytes, of
 * which the operation makes its arguments; bytes of zero make valid ones.  Workers
 * start a program with nothing but the device, run their calls side by side or by
 * turns, and let go of everything.  Some are killed meanwhile.
 *
 * What may not happen: a load from what mmap() granted faults; a mapping is granted,
 * changed or split that must not be; a call blocks; an errno comes that evering.h
 * does not know; a channel outlives all who hold it.  The kernel log is tools/vm's
 * to watch; an oops names the program as its Comm.
 *
 * Where the kernel tells by KCOV which code of the module a program went through,
 * programs that reach new code are kept, to be changed and spliced.
 *
 * EVERING_SEED=n makes the programs of a run again; with KCOV the order in which
 * they reach code has a part in it, too.  EVERING_CALLS=n is how many calls to
 * make, instead of as many as 30 seconds allow.  EVERING_PROGRAM=hex runs that
 * program alone, as often.
 */
#include "dev.h"

#include <grp.h>
#include <linux/futex.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define WORKERS 3
#define CALLS 160 /* of a program */
#define ARGS 6
#define SLOTS 12 /* descriptors of a worker, */
#define MAPS 12 /* and its mappings */
#define CORPUS 256
#define USER 61003 /* whom workers are if root starts them */
#define CHANNELS 24 /* that this user may have */
#define CONTROL_FD 60 /* of a worker: the director; */
#define KCOV_FD 61
#define FIRST_FD 64 /* those of programs begin here */
#define TICK (20 * MSEC) /* a worker sleeps no longer */
#define LONG_ENOUGH (30 * SEC) /* unless it is told how many calls to make */
#define COVER_WORDS (1ul << 16)
#define TEXT (1ul << 18) /* more than the module has */

/* Of linux/kcov.h */
#define KCOV_INIT_TRACE _IOR('c', 1, unsigned long)
#define KCOV_ENABLE _IO('c', 100)

struct call {
	uint8_t op, who, arg[ARGS];
};

struct program {
	uint8_t calls;
	uint8_t turns; /* one call at a time, in order */
	uint8_t victim; /* one more than who is killed, */
	uint8_t delay; /* and when */
	struct call call[CALLS];
};

/* Between the director and the workers. */
static struct shared {
	struct program program;
	uint32_t number;
	uint32_t turn; /* whose call is next */
	uint32_t dead; /* workers that will not take their turn */
	uint32_t failed;
	char why[200];
	uint64_t done[WORKERS];
	uint64_t count[WORKERS][64][2]; /* by operation: failed, succeeded */
	uint32_t fresh; /* the program reached new code */
	uint32_t nr_pcs;
	uint8_t pcs[TEXT], edges[TEXT];
} * shared;

enum {
	NONE,
	DEVICE,
	END,
	EVENTFD,
	EPOLL
};

struct slot {
	int fd;
	int kind;
	int end;
	bool sure; /* the kernel alone wrote what is told here */
	struct evering_geometry g;
};

struct map {
	char *p;
	size_t len;
	int prot;
	int region;
	int end;
	bool writable;
	bool dofork;
	struct evering_geometry g;
};

/* A worker's own. */
static struct {
	int id;
	int dev;
	int inbox[WORKERS][2];
	struct slot slot[SLOTS];
	struct map map[MAPS];
	char *page; /* for arguments; what follows it cannot be read */
	char *page_ro; /* the same */
	size_t used; /* bytes of it that may not be zero */
	struct uring uring;
	bool has_uring;
	uint64_t *cover;
	unsigned long text;
} me;

static sigjmp_buf fault;
static volatile sig_atomic_t may_fault;

static void __attribute__((format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list ap;

	if (__atomic_exchange_n(&shared->failed, 1, __ATOMIC_SEQ_CST))
		return;
	va_start(ap, format);
	vsnprintf(shared->why, sizeof(shared->why), format, ap);
	va_end(ap);
}

#define MUST(cond, ...)                    \
	do {                               \
		if (!(cond))               \
			fail(__VA_ARGS__); \
	} while (0)

/* ---------------------------------------------------------------- arguments */

struct args {
	const uint8_t *arg;
	unsigned int used;
	uint64_t state; /* for more than the bytes give */
	bool open; /* somebody else can write where the struct is */
};

static unsigned int pick(struct args *a, unsigned int n)
{
	if (a->used < ARGS)
		return a->arg[a->used++] % n;
	return (unsigned int)random_below(&a->state, n);
}

/* Once in @n; never if the byte is zero. */
static bool rarely(struct args *a, unsigned int n)
{
	return pick(a, n) == n - 1;
}

static uint64_t odd(struct args *a)
{
	static const uint64_t edges[] = {
		0,	    1,		2,	    3,
		7,	    PAGE - 1,	PAGE,	    PAGE + 1,
		1ull << 31, 1ull << 32, 1ull << 36, 1ull << 40,
		1ull << 62, 1ull << 63, ~0ull >> 1, ~0ull,
	};
	unsigned int n = pick(a, 2 * ARRAY_SIZE(edges));

	if (n < ARRAY_SIZE(edges))
		return edges[n];
	return random_u64(&a->state) >> random_below(&a->state, 64);
}

/* Takes what others have sent. */
static bool receive(void);

static struct slot *keep(unsigned int at, int fd, int kind)
{
	struct slot *s = &me.slot[at % SLOTS];

	/* What is below belongs to the test. */
	if (fd < FIRST_FD)
		return NULL;
	for (unsigned int i = 0; i < SLOTS && s->fd >= 0; i++)
		s = &me.slot[(at + i) % SLOTS];
	if (s->fd >= FIRST_FD)
		close(s->fd);
	*s = (struct slot){ .fd = fd, .kind = kind, .sure = true };
	return s;
}

static const struct evering_geometry geometries[] = {
	{ 64, 64, { 4096, 4096 }, 0, 0 },
	{ 16, 4, { 0, 0 }, 0, 0 },
	{ 64, 256, { 8192, 0 }, EVERING_SHARED_ARENA, 0 },
	{ 256, 64, { 0, 4096 }, 0, 0 },
	{ 32, 128, { 0, 65536 + 8192 }, 0, 0 },
	{ 128, 8, { 8192, 16384 }, EVERING_SHARED_ARENA, 0 },
	{ 16, 4096, { 0, 0 }, 0, 0 },
	{ 64, 64, { EVERING_MAX_ARENA, EVERING_MAX_ARENA }, 0, 0 },
};

static void keep_end(unsigned int at, int fd, int end, bool sure,
		     const struct evering_geometry *g)
{
	struct slot *s = keep(at, fd, END);

	MUST(s || !sure, "CREATE gave descriptor %d", fd);
	if (s)
		*s = (struct slot){ fd, END, end, sure, *g };
}

/* For calls that would be in vain otherwise. */
static bool make_channel(struct args *a, unsigned int at)
{
	const struct evering_geometry *g = &geometries[pick(a, 6)];
	int fd[2];

	if (dev_pair(me.dev, g, fd))
		return false;
	keep_end(at, fd[0], 0, true, g);
	keep_end(at + 1, fd[1], 1, true, g);
	return true;
}

/* A descriptor of @kind, or now and then of any; fd is -1 if there is none. */
static struct slot *some(struct args *a, int kind)
{
	static struct slot none;
	unsigned int i, first = pick(a, SLOTS);
	bool any = rarely(a, 32);

	for (int tries = 0; tries < 2; tries++) {
		for (i = 0; i < SLOTS; i++) {
			struct slot *s = &me.slot[(first + i) % SLOTS];

			if (s->fd >= 0 && (any || s->kind == kind))
				return s;
		}
		if (kind != END || !(receive() || make_channel(a, first)))
			break;
	}
	none = (struct slot){ .fd = -1 };
	return &none;
}

static void keep_map(unsigned int at, const struct slot *s, int region,
		     int prot, char *p)
{
	struct map *m = &me.map[at % MAPS];

	for (int i = 0; i < MAPS && m->p; i++)
		m = &me.map[i];
	if (m->p)
		MUST(!munmap(m->p, m->len), "munmap: %s", strerror(errno));
	*m = (struct map){ .p = p,
			   .len = region_size(&s->g, region),
			   .prot = prot,
			   .region = region,
			   .end = s->end,
			   .g = s->g,
			   .writable = may_write(&s->g, s->end, region) };
}

/* A mapping, made if there is none; NULL if that cannot be. */
static struct map *some_map(struct args *a)
{
	unsigned int i, first = pick(a, MAPS);

	for (int tries = 0; tries < 2; tries++) {
		const struct slot *s;
		int region, prot;
		char *p;

		for (i = 0; i < MAPS; i++)
			if (me.map[(first + i) % MAPS].p)
				return &me.map[(first + i) % MAPS];
		s = some(a, END);
		if (s->kind != END || !s->sure)
			break;
		region = rarely(a, 2) ? (int)pick(a, EVERING_REGIONS) :
					EVERING_REGION_HALF(s->end);
		prot = PROT_READ;
		if (may_write(&s->g, s->end, region))
			prot |= PROT_WRITE;
		p = map_region(&s->g, s->fd, region, prot);
		if (p == MAP_FAILED)
			break;
		keep_map(first, s, region, prot, p);
	}
	return NULL;
}

/* A part of a mapping in whole pages, by default all of it; true if it is less. */
static bool some_part(struct args *a, const struct map *m, char **p,
		      size_t *len)
{
	size_t pages = m->len / PAGE, first = 0, n = pages;

	if (rarely(a, 4)) {
		first = pick(a, 256) % pages;
		n = 1 + pick(a, 256) % (pages - first);
	}
	*p = m->p + first * PAGE;
	*len = n * PAGE;
	return n < pages;
}

static int try_access(volatile void *p, const uint32_t *store)
{
	int sig = sigsetjmp(fault, 0);

	if (!sig) {
		may_fault = 1;
		if (store)
			*(volatile uint32_t *)p = *store;
		else
			(void)*(volatile uint32_t *)p;
	}
	may_fault = 0;
	return sig;
}

static void on_fault(int sig)
{
	if (may_fault)
		siglongjmp(fault, sig);
	fail("worker %d got signal %d", me.id, sig);
	_exit(96);
}

static void on_alarm(int sig)
{
}

/* Whatever sleeps does so for @ns, and then TICK, at most. */
static void tick_in(int64_t ns)
{
	struct itimerval t = { .it_interval.tv_usec = TICK / USEC,
			       .it_value.tv_usec = ns / USEC };

	setitimer(ITIMER_REAL, &t, NULL);
}

/*
 * Puts the struct of an ioctl somewhere: mostly where it can be read and written,
 * with zeros behind it.  Some of its words are changed on the way.
 */
static void *place(struct args *a, void *from, size_t len)
{
	uint32_t *words = from;
	char *p = me.page;
	struct map *m;

	switch (pick(a, 24)) {
	case 21:
		words[pick(a, len / 4)] ^= 1u << pick(a, 32);
		break;
	case 22:
		words[pick(a, len / 4)] = (uint32_t)odd(a);
		break;
	case 23: /* its size */
		words[0] = (uint32_t[]){
			0,   4,	   words[0] - 1, words[0] + 1, words[0] + 8,
			200, PAGE, PAGE + 1,	 ~0u
		}[pick(a, 9)];
		break;
	}
	memset(me.page, 0, me.used);
	me.used = PAGE;
	switch (pick(a, 24)) {
	case 23:
		p = me.page + PAGE - len;
		break;
	case 22: /* a part cannot be read */
		p = me.page + PAGE - pick(a, (unsigned int)len);
		break;
	case 21: /* cannot be written */
		memcpy(me.page, from, len);
		return me.page_ro;
	case 20:
		return (void *)(uintptr_t)odd(a);
	case 19:
		p = me.page + 1 + pick(a, 7);
		break;
	case 18: /* something behind it */
		me.page[len + pick(a, 64)] = 1;
		break;
	case 17: /* shared memory */
		m = some_map(a);
		if (!m || !(m->prot & PROT_WRITE))
			break;
		p = m->p + pick(a, 256) * 4;
		a->open = true;
		memcpy(p, from, len);
		return p;
	}
	if (p + len > me.page + PAGE)
		len = (size_t)(me.page + PAGE - p);
	else if (p == me.page)
		me.used = 256;
	memcpy(p, from, len);
	return p;
}

/* What evering.h has for an ioctl. */
static long told_errno(const struct slot *s, const char *what, long ret)
{
	static const int known[] = {
		EINVAL, E2BIG,	EACCES,	   EFAULT, ENOTTY,
		EDQUOT, ENOMEM, EMFILE,	   EPIPE,  ENFILE,
		EINTR,	EAGAIN, ETIMEDOUT, EBADF,  ENOTCONN
	};
	size_t i;

	if (ret >= 0 || !s->sure || (s->kind != END && s->kind != DEVICE))
		return ret;
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (ret == -known[i])
			return ret;
	fail("%s: %s", what, strerror((int)-ret));
	return ret;
}

/* ------------------------------------------------------------------- ioctls */

static long call_open(struct args *a)
{
	static const int flags[] = { O_RDWR,
				     O_RDONLY,
				     O_WRONLY,
				     O_PATH,
				     O_RDWR | O_NONBLOCK,
				     O_RDWR | O_APPEND,
				     O_RDWR | O_DIRECT,
				     O_RDWR | O_TRUNC };
	struct slot *s;
	char path[64];
	int fd;

	/* An endpoint cannot be opened by its name in /proc. */
	if (rarely(a, 8)) {
		s = some(a, END);

		snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
		fd = open(path, O_RDWR | O_CLOEXEC);
		MUST(fd < 0 || s->kind != END || !s->sure,
		     "an endpoint was opened again");
	} else {
		fd = open("/dev/evering", flags[pick(a, ARRAY_SIZE(flags))]);
	}
	if (fd < 0)
		return -errno;
	s = keep(pick(a, SLOTS), fd, DEVICE);
	/* O_PATH is good for nothing. */
	if (s)
		s->sure = false;
	return fd;
}

static long call_info(struct args *a)
{
	struct evering_info info = { .size = sizeof(info) };
	struct slot *s = some(a, DEVICE);

	return told_errno(s, "INFO",
			  dev_ioctl(s->fd, EVERING_IOC_INFO,
				    place(a, &info, sizeof(info))));
}

static long call_create(struct args *a)
{
	struct evering_create c = { .size = sizeof(c) }, *p;
	struct rlimit limit, less;
	struct slot *dev;
	unsigned int at;
	bool few;
	long ret;
	c.geometry = geometries[pick(a, ARRAY_SIZE(geometries))];
	/* Of large blocks; most of its time goes into clearing them. */
	if (rarely(a, 64))
		c.geometry.arena_size[0] = (2 << 20) + 4096;

	at = pick(a, SLOTS);
	c.flags = (uint32_t[]){ 0, 0, 1, 2, 3, 4 }[pick(a, 6)];
	dev = some(a, DEVICE);
	p = place(a, &c, sizeof(c));
	few = rarely(a, 32);
	if (few) {
		getrlimit(RLIMIT_NOFILE, &limit);
		less = limit;
		less.rlim_cur = FIRST_FD + pick(a, 4);
		setrlimit(RLIMIT_NOFILE, &less);
	}
	ret = told_errno(dev, "CREATE",
			 dev_ioctl(dev->fd, EVERING_IOC_CREATE, p));
	if (few)
		setrlimit(RLIMIT_NOFILE, &limit);
	if (ret)
		return ret;
	memcpy(&c, p, sizeof(c));
	keep_end(at, c.fd[0], 0, !a->open, &c.geometry);
	keep_end(at + 1, c.fd[1], 1, !a->open, &c.geometry);
	return 0;
}

static long call_ring(struct args *a)
{
	struct slot *s = some(a, END);
	unsigned long bells = 1 + pick(a, 3);
	long ret;

	if (rarely(a, 16))
		bells = odd(a);
	ret = told_errno(s, "RING", dev_ring(s->fd, bells));
	MUST(s->kind != END || !s->sure ||
		     (bells - 1 < 3 ? ret >= 0 && !(ret & ~(long)bells) :
				      ret == -EINVAL),
	     "RING of %#lx returned %ld", bells, ret);
	return ret;
}

static long arm_own(struct args *a, const struct slot *s)
{
	for (int i = 0; i < MAPS; i++) {
		struct map *m = &me.map[i];

		if (m->p && m->prot & PROT_WRITE && m->end == s->end &&
		    m->region == EVERING_REGION_HALF(s->end)) {
			arm((struct evering_half *)m->p, 1 + pick(a, 3));
			return 0;
		}
	}
	return -ENOENT;
}

static long call_arm(struct args *a)
{
	return arm_own(a, some(a, END));
}

static long call_enter(struct args *a)
{
	struct evering_enter e = { .size = sizeof(e) };
	struct slot *s = some(a, END);
	unsigned int time = pick(a, 16);
	int64_t began = now_ns();
	uint32_t may;
	long ret;

	e.wait = pick(a, 4);
	e.ring = pick(a, 4);
	e.flags = pick(a, 2);
	if (time < 12)
		e.timeout = (uint64_t)began + (1000ull << time / 2);
	else
		e.timeout = time == 12 ? EVERING_FOREVER : odd(a);
	if (rarely(a, 2))
		arm_own(a, s);
	may = e.wait | e.ring << 8;
	if (time >= 12)
		tick_in(200 * USEC);
	ret = told_errno(s, "ENTER",
			 dev_ioctl(s->fd, EVERING_IOC_ENTER,
				   place(a, &e, sizeof(e))));
	may = e.wait | e.ring << 8;
	MUST(ret < 0 || a->open || s->kind != END || !s->sure || !(ret & ~may),
	     "ENTER for %#x returned %#lx", may, ret);
	return ret;
}

static long call_set_eventfd(struct args *a)
{
	struct evering_set_eventfd set = { .size = sizeof(set) };
	struct slot *s = some(a, END);

	set.fd = rarely(a, 4) ? -1 : some(a, EVENTFD)->fd;
	if (rarely(a, 16))
		set.fd = (int)odd(a);
	return told_errno(s, "SET_EVENTFD",
			  dev_ioctl(s->fd, EVERING_IOC_SET_EVENTFD,
				    place(a, &set, sizeof(set))));
}

static long call_peer_cred(struct args *a)
{
	struct evering_peer_cred cred = { .size = sizeof(cred) };
	struct slot *s = some(a, END);

	return told_errno(s, "PEER_CRED",
			  dev_ioctl(s->fd, EVERING_IOC_PEER_CRED,
				    place(a, &cred, sizeof(cred))));
}

static long call_ioctl(struct args *a)
{
	static const unsigned int known[] = {
		EVERING_IOC_INFO,
		EVERING_IOC_CREATE,
		EVERING_IOC_RING,
		EVERING_IOC_ENTER,
		EVERING_IOC_SET_EVENTFD,
		EVERING_IOC_PEER_CRED,
		/* FIONBIO, FIOASYNC, TCGETS, FIONREAD, FIGETBSZ */
		0x5421,
		0x5452,
		0x5401,
		0x541b,
		2,
	};
	uint32_t junk[32];
	struct slot *s = some(a, 1 + (int)pick(a, 2));
	unsigned int cmd = known[pick(a, ARRAY_SIZE(known))];
	size_t i;

	if (rarely(a, 2))
		cmd ^= 1u << pick(a, 32);
	for (i = 0; i < ARRAY_SIZE(junk); i++)
		junk[i] = (uint32_t)odd(a);
	if (!rarely(a, 2))
		junk[0] = 16 + pick(a, 56);
	if (cmd == EVERING_IOC_ENTER)
		tick_in(200 * USEC);
	return dev_ioctl(s->fd, cmd, place(a, junk, sizeof(junk)));
}

/* ----------------------------------------------------------------- mappings */

static long call_mmap(struct args *a)
{
	static const int prots[] = {
		PROT_READ,
		PROT_READ | PROT_WRITE,
		PROT_READ | PROT_WRITE,
		PROT_WRITE,
		PROT_NONE,
		PROT_READ | PROT_EXEC,
		PROT_EXEC,
		7,
	};
	static const int kinds[] = {
		MAP_SHARED,
		MAP_SHARED | MAP_POPULATE,
		MAP_SHARED_VALIDATE,
		MAP_SHARED | MAP_LOCKED,
		MAP_SHARED | MAP_NORESERVE,
		MAP_PRIVATE,
		MAP_PRIVATE | MAP_POPULATE,
		MAP_SHARED | MAP_32BIT,
	};
	struct slot *s = some(a, END);
	int region = (int)pick(a, EVERING_REGIONS), prot, kind;
	size_t right, len;
	uint64_t offset;
	bool granted;
	char *p;

	prot = prots[pick(a, ARRAY_SIZE(prots))];
	kind = kinds[rarely(a, 4) ? pick(a, ARRAY_SIZE(kinds)) : 0];
	right = len = region_size(&s->g, region);
	offset = EVERING_MMAP_OFFSET(region);
	switch (pick(a, 16)) {
	case 13:
		len = (size_t[]){
			len - 1, len + 1, len + PAGE, len - PAGE,
			0,	 2 * len, 1,	      odd(a)
		}[pick(a, 8)];
		break;
	case 14:
		offset += PAGE * (1ull << pick(a, 28));
		break;
	case 15:
		offset = odd(a);
		break;
	}
	/* One side's mapping of what is its own is what most calls need. */
	if (!pick(a, 3) && region && prot & PROT_WRITE)
		region = region < EVERING_REGION_ARENA_A ?
				 EVERING_REGION_HALF(s->end) :
				 EVERING_REGION_ARENA(s->end);
	if (offset < EVERING_MMAP_OFFSET(EVERING_REGIONS) &&
	    !(offset % (1ull << EVERING_MMAP_SHIFT)) && len == right) {
		offset = EVERING_MMAP_OFFSET(region);
		right = len = region_size(&s->g, region);
	}
	p = mmap(NULL, len, prot, kind, s->fd, (off_t)offset);
	if (s->kind != END || !s->sure) {
		if (p != MAP_FAILED)
			munmap(p, len);
		return p == MAP_FAILED ? -errno : 0;
	}
	granted = right && (len + PAGE - 1) / PAGE == right / PAGE &&
		  offset == EVERING_MMAP_OFFSET(region) &&
		  !(kind & MAP_PRIVATE && kind != MAP_SHARED_VALIDATE) &&
		  !(prot & PROT_EXEC) &&
		  (!(prot & PROT_WRITE) || may_write(&s->g, s->end, region));
	if (p == MAP_FAILED) {
		MUST(!granted || errno == ENOMEM || errno == EAGAIN,
		     "mmap of region %d, %zu bytes, prot %d: %s", region, len,
		     prot, strerror(errno));
		return -errno;
	}
	MUST(granted,
	     "mmap of region %d granted: end %d, %zu of %zu bytes, offset %#llx, prot %d, flags %#x",
	     region, s->end, len, right, (unsigned long long)offset, prot,
	     kind);
	keep_map(pick(a, MAPS), s, region, prot, p);
	return 0;
}

static void forget(struct map *m)
{
	MUST(!munmap(m->p, m->len), "munmap of a whole mapping: %s",
	     strerror(errno));
	m->p = NULL;
}

static long call_munmap(struct args *a)
{
	struct map *m = some_map(a);
	size_t len;
	char *p;

	if (!m)
		return -ENOENT;
	if (some_part(a, m, &p, &len)) {
		MUST(munmap(p, len), "a part was unmapped");
		return -EINVAL;
	}
	forget(m);
	return 0;
}

/* A page of another kind in place of one of ours. */
static long call_clobber(struct args *a)
{
	struct map *m = some_map(a);
	size_t len;
	char *p;

	if (!m)
		return -ENOENT;
	if (some_part(a, m, &p, &len) || m->len > PAGE) {
		p = mmap(m->p + PAGE * (pick(a, 256) % (m->len / PAGE)), PAGE,
			 PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
			 0);
		MUST(p == MAP_FAILED, "a part was mapped over");
		return -errno;
	}
	p = mmap(m->p, m->len, PROT_READ,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	forget(m);
	return p == MAP_FAILED ? -errno : 0;
}

static long call_mremap(struct args *a)
{
	struct map *m = some_map(a);
	unsigned int how = pick(a, 8);
	char *to, *p, *from;
	size_t len;

	if (!m)
		return -ENOENT;
	to = mmap(NULL, m->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (to == MAP_FAILED)
		return -errno;
	switch (how) {
	case 4:
		p = mremap(m->p, m->len, m->len + PAGE, MREMAP_MAYMOVE);
		break;
	case 5: /* a copy */
		p = mremap(m->p, 0, m->len, MREMAP_MAYMOVE);
		break;
	case 6: /* MREMAP_DONTUNMAP */
		p = mremap(m->p, m->len, m->len, MREMAP_MAYMOVE | 4);
		break;
	case 7:
		if (some_part(a, m, &from, &len)) {
			p = mremap(from, len, len,
				   MREMAP_MAYMOVE | MREMAP_FIXED, to);
		} else {
			p = MAP_FAILED;
			if (m->len > PAGE)
				p = mremap(m->p, m->len, PAGE, 0);
		}
		break;
	default:
		p = mremap(m->p, m->len, m->len, MREMAP_MAYMOVE | MREMAP_FIXED,
			   to);
		if (p == to) {
			m->p = to;
			return 0;
		}
		MUST(errno == ENOMEM, "mremap: %s", strerror(errno));
	}
	MUST(p == MAP_FAILED, "mremap did what it must not: %u", how);
	munmap(to, m->len);
	return -errno;
}

static long call_mprotect(struct args *a)
{
	struct map *m = some_map(a);
	int prot = (int)pick(a, 8), ret;
	size_t len;
	char *p;
	bool part;

	if (!m)
		return -ENOENT;
	part = some_part(a, m, &p, &len);
	ret = (int)or_errno(mprotect(p, len, prot));
	MUST(ret || prot == m->prot ||
		     (!part && !(prot & PROT_EXEC) &&
		      (m->writable || !(prot & PROT_WRITE))),
	     "mprotect to %d of region %d of end %d", prot, m->region, m->end);
	if (!ret)
		m->prot = prot;
	return ret;
}

static long call_madvise(struct args *a)
{
	static const int advices[] = {
		MADV_DONTNEED,
		MADV_REMOVE,
		MADV_FREE,
		MADV_PAGEOUT,
		MADV_COLD,
		MADV_HUGEPAGE,
		MADV_NOHUGEPAGE,
		MADV_DONTFORK,
		MADV_DOFORK,
		MADV_DOFORK,
		MADV_MERGEABLE,
		MADV_UNMERGEABLE,
		MADV_WILLNEED,
		MADV_RANDOM,
		MADV_NORMAL,
		MADV_DODUMP,
		MADV_DONTDUMP,
		MADV_WIPEONFORK,
		MADV_KEEPONFORK,
		/* POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED, COLLAPSE */
		22,
		23,
		24,
		25,
		26,
		99,
	};
	struct map *m = some_map(a);
	int advice = advices[pick(a, ARRAY_SIZE(advices))], ret;
	size_t len;
	char *p;

	if (!m)
		return -ENOENT;
	some_part(a, m, &p, &len);
	ret = (int)or_errno(madvise(p, len, advice));
	if (!ret && advice == MADV_DOFORK)
		m->dofork = true;
	if (!ret && advice == MADV_DONTFORK)
		m->dofork = false;
	return ret;
}

static long call_memory(struct args *a)
{
	struct map *m = some_map(a);
	unsigned char core[2048];
	struct iovec local, remote;
	size_t len;
	char *p;

	if (!m)
		return -ENOENT;
	some_part(a, m, &p, &len);
	switch (pick(a, 10)) {
	case 0:
		return or_errno(mlock(p, len));
	case 1:
		return or_errno(munlock(p, len));
	case 2:
		return or_errno(syscall(SYS_mlock2, p, len, 1));
	case 3:
		return or_errno(msync(p, len, (int)pick(a, 8)));
	case 4:
		return or_errno(
			len / PAGE > sizeof(core) ? -1 : mincore(p, len, core));
	case 5: /* another region at the same place, or the end of this one */
		len = or_errno(syscall(SYS_remap_file_pages, m->p, m->len, 0,
				       EVERING_MMAP_OFFSET(pick(a, 6)) / PAGE,
				       0));
		forget(m);
		return (long)len;
	case 6:
	case 7:
		/* Others' memory, by way of an address that they may have. */
		local = (struct iovec){ me.page, 64 };
		remote = (struct iovec){ p, 64 };
		return or_errno(syscall(pick(a, 2) ? SYS_process_vm_writev :
						     SYS_process_vm_readv,
					getpid(), &local, 1, &remote, 1, 0));
	case 8: /* mbind(), MPOL_PREFERRED */
		return or_errno(syscall(SYS_mbind, p, len, 1, NULL, 0, 3));
	default: /* an address below it, and one in the middle of a page */
		return or_errno(munmap(p + 1, len));
	}
}

static long call_load(struct args *a)
{
	struct map *m = some_map(a);
	int sig = 0;

	if (!m || !(m->prot & PROT_READ))
		return -ENOENT;
	for (int i = 0; i < 4 && !sig; i++) {
		size_t at = random_below(&a->state, m->len / 4) * 4;

		sig = try_access(m->p + at, NULL);
		MUST(!sig, "load from region %d of end %d, byte %zu: signal %d",
		     m->region, m->end, at, sig);
	}
	if (!sig && m->region == EVERING_REGION_STATUS) {
		const struct evering_status *s = (void *)m->p;

		MUST(s->magic == EVERING_MAGIC &&
			     !memcmp(&s->geometry, &m->g, sizeof(m->g)),
		     "STATUS is not as it was");
	}
	return sig ? -EFAULT : 0;
}

static long call_store(struct args *a)
{
	/* Words that mean something, and the first slot. */
	static const uint16_t places[] = {
		128, 132, 0, 256, 320, 384, 512, 4092
	};
	struct map *m = some_map(a);
	uint32_t value;
	int sig;

	if (!m || m->prot == PROT_NONE)
		return -ENOENT;
	value = (uint32_t)odd(a);
	sig = try_access(m->p + places[pick(a, ARRAY_SIZE(places))], &value);
	MUST(!sig == !!(m->prot & PROT_WRITE),
	     "store to region %d of end %d, prot %d: signal %d", m->region,
	     m->end, m->prot, sig);
	return sig ? -EFAULT : 0;
}

/* -------------------------------------------------- descriptors and processes */

static long send_slot(const struct slot *s, unsigned int to)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)s, .iov_len = sizeof(*s) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &s->fd, sizeof(int));
	return or_errno(sendmsg(me.inbox[to % WORKERS][1], &msg, MSG_DONTWAIT));
}

static bool receive(void)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct slot got, *s;
	struct iovec iov = { .iov_base = &got, .iov_len = sizeof(got) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(me.inbox[me.id][0], &msg, MSG_DONTWAIT) !=
	    (ssize_t)sizeof(got))
		return false;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg)
		return false;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));
	s = keep((unsigned int)fd, fd, got.kind);
	if (!s)
		return false;
	got.fd = fd;
	*s = got;
	return true;
}

static long call_send(struct args *a)
{
	return send_slot(some(a, rarely(a, 8) ? EVENTFD : END),
			 pick(a, WORKERS));
}

static long call_receive(struct args *a)
{
	return receive() ? 0 : -EAGAIN;
}

/* Into a socket that nobody has but itself: found by the collector of garbage. */
static long call_lose(struct args *a)
{
	struct slot *s = some(a, END);
	int sv[2];

	if (s->fd < 0 || socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, sv))
		return -EBADF;
	send_fd(sv[0], s->fd);
	if (pick(a, 2))
		send_fd(sv[0], sv[1]);
	close(sv[0]);
	close(sv[1]);
	return 0;
}

static long call_close(struct args *a)
{
	struct slot *s = some(a, END);
	int fd = s->fd;

	if (fd < FIRST_FD)
		return -EBADF;
	s->fd = -1;
	return or_errno(close(fd));
}

static long call_dup(struct args *a)
{
	struct slot *s = some(a, END), was = *s, *t;
	int fd;

	switch (pick(a, 4)) {
	case 0:
		fd = dup(was.fd);
		break;
	case 1:
		fd = fcntl(was.fd, F_DUPFD_CLOEXEC, FIRST_FD);
		break;
	default: /* in place of another */
		t = some(a, END);
		if (t->fd < FIRST_FD || dup2(was.fd, t->fd) < 0)
			return -EBADF;
		fd = t->fd;
		*t = was;
		t->fd = fd;
		return 0;
	}
	if (fd < 0)
		return -errno;
	t = keep(pick(a, SLOTS), fd, was.kind);
	if (!t)
		return -EMFILE;
	*t = was;
	t->fd = fd;
	return fd;
}

static long call_fcntl(struct args *a)
{
	struct slot *s = some(a, END);

	switch (pick(a, 6)) {
	case 0:
		return or_errno(
			fcntl(s->fd, F_SETFL, pick(a, 2) ? O_NONBLOCK : 0));
	case 1:
		return or_errno(fcntl(s->fd, F_SETFL, O_ASYNC));
	case 2:
		return or_errno(fcntl(s->fd, F_ADD_SEALS, F_SEAL_WRITE));
	case 3:
		return or_errno(fcntl(s->fd, F_SETLEASE, F_RDLCK));
	case 4:
		return or_errno(flock(s->fd, LOCK_EX | LOCK_NB));
	default:
		return or_errno(fcntl(s->fd, F_SETPIPE_SZ, 65536));
	}
}

/* What an endpoint has nothing to do with. */
static long call_file(struct args *a)
{
	struct slot *s = some(a, pick(a, 4) ? END : DEVICE);
	char *buf = me.page;
	long ret;

	me.used = PAGE;

	if (s->kind == EVENTFD)
		fcntl(s->fd, F_SETFL, O_NONBLOCK);
	switch (pick(a, 14)) {
	case 0:
		ret = read(s->fd, buf, 64);
		break;
	case 1:
		ret = write(s->fd, buf, 64);
		break;
	case 2:
		ret = pread(s->fd, buf, 64, (off_t)odd(a));
		break;
	case 3:
		ret = pwrite(s->fd, buf, 64, (off_t)odd(a));
		break;
	case 4:
		ret = ftruncate(s->fd, (off_t)odd(a));
		break;
	case 5:
		ret = fallocate(s->fd, (int)pick(a, 4), 0, 4096);
		break;
	case 6:
		ret = sendfile(s->fd, s->fd, NULL, 4096);
		break;
	case 7:
		return or_errno(fsync(s->fd));
	case 8:
		return or_errno(lseek(s->fd, (off_t)odd(a), (int)pick(a, 5)));
	case 9:
		return -posix_fadvise(s->fd, 0, 0, (int)pick(a, 6));
	case 10:
		return or_errno(readahead(s->fd, 0, 4096));
	case 11:
		return or_errno(syscall(SYS_getdents64, s->fd, buf, 512));
	case 12:
		return or_errno(sync_file_range(s->fd, 0, 0, pick(a, 8)));
	default: {
		char path[48];
		int fd;

		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", s->fd);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ret = fd < 0 ? -errno : or_errno(read(fd, buf, PAGE));
		close(fd);
		MUST(s->kind != END || !s->sure || ret > 100, "fdinfo: %ld",
		     ret);
		return ret;
	}
	}
	MUST(ret < 0 || !s->sure || s->kind != END, "an endpoint has contents");
	return or_errno(ret);
}

static long call_poll(struct args *a)
{
	struct pollfd p[2] = {
		{ .fd = some(a, END)->fd, .events = (short)(1 << pick(a, 14)) },
		{ .fd = some(a, END)->fd, .events = POLL_ALL },
	};
	struct timespec t = { 0, 1000l << pick(a, 10) };

	return or_errno(ppoll(p, 1 + pick(a, 2),
			      rarely(a, 4) ? &t : &(struct timespec){ 0, 0 },
			      NULL));
}

static long call_epoll(struct args *a)
{
	struct slot *ep = some(a, EPOLL), *s = some(a, END);
	struct epoll_event ev[4] = { { .events = EPOLLIN | EPOLLOUT } };

	if (ep->kind != EPOLL || rarely(a, 16)) {
		int fd = epoll_create1(EPOLL_CLOEXEC);

		ep = keep(pick(a, SLOTS), fd, EPOLL);
		if (!ep)
			return -EMFILE;
	}
	switch (pick(a, 6)) {
	case 3:
		return or_errno(epoll_ctl(ep->fd, EPOLL_CTL_DEL, s->fd, ev));
	case 4:
		ev->events = (uint32_t)odd(a);
		return or_errno(epoll_ctl(ep->fd, EPOLL_CTL_MOD, s->fd, ev));
	case 5:
		return or_errno(epoll_wait(ep->fd, ev, 4, (int)pick(a, 2)));
	default:
		ev->events |= (uint32_t[]){
			0,	    EPOLLET,	EPOLLEXCLUSIVE, EPOLLONESHOT,
			EPOLLRDHUP, EPOLLWAKEUP
		}[pick(a, 6)];
		epoll_ctl(ep->fd, EPOLL_CTL_ADD, s->fd, ev);
		return or_errno(epoll_wait(ep->fd, ev, 4, 0));
	}
}

static long call_eventfd(struct args *a)
{
	int fd = eventfd((unsigned int)odd(a),
			 EFD_CLOEXEC | EFD_NONBLOCK |
				 (rarely(a, 4) ? EFD_SEMAPHORE : 0));

	return keep(pick(a, SLOTS), fd, EVENTFD) ? fd : -EMFILE;
}

static long call_uring(struct args *a)
{
	struct slot *s = some(a, END);
	struct map *m = some_map(a);
	struct io_uring_sqe sqe = { .fd = s->fd, .user_data = 1 };
	struct evering_uring_ring ring = { 0 };
	struct io_uring_cqe cqe;
	struct iovec iov = { m ? m->p : me.page, m ? m->len : PAGE };

	if (!me.has_uring) {
		int ret = uring_open(&me.uring);

		if (ret)
			return ret;
		me.has_uring = true;
	}
	sqe.addr = (uint64_t)iov.iov_base;
	sqe.len = PAGE;
	switch (pick(a, 12)) {
	case 0:
	case 1:
		return uring_poll(&me.uring, s->fd, EPOLLIN | EPOLLOUT,
				  pick(a, 2) ? IORING_POLL_ADD_MULTI : 0);
	case 2:
		sqe = (struct io_uring_sqe){ .opcode = IORING_OP_POLL_REMOVE,
					     .addr = 0 };
		break;
	case 3:
		/* IORING_OP_URING_CMD; its struct is where addr3 is. */
		sqe = (struct io_uring_sqe){ .opcode = 46, .fd = s->fd };
		sqe.off = rarely(a, 8) ? odd(a) : EVERING_IOC_RING;
		ring.bells = rarely(a, 8) ? (uint32_t)odd(a) : 1 + pick(a, 3);
		ring.reserved[pick(a, 3)] = rarely(a, 8);
		memcpy((char *)&sqe + 48, &ring, sizeof(ring));
		break;
	case 4:
		return or_errno(syscall(__NR_io_uring_register, me.uring.fd,
					IORING_REGISTER_BUFFERS, &iov, 1));
	case 5:
		return or_errno(syscall(__NR_io_uring_register, me.uring.fd,
					IORING_UNREGISTER_BUFFERS, NULL, 0));
	case 6: /* standard input is /dev/null */
		sqe.opcode = pick(a, 2) ? IORING_OP_WRITE_FIXED :
					  IORING_OP_READ_FIXED;
		sqe.fd = 0;
		break;
	case 7:
		sqe.opcode = pick(a, 2) ? IORING_OP_WRITE : IORING_OP_READ;
		break;
	case 8:
		return or_errno(syscall(__NR_io_uring_register, me.uring.fd,
					IORING_REGISTER_FILES, &s->fd, 1));
	case 9:
		sqe = (struct io_uring_sqe){ .opcode = IORING_OP_CLOSE,
					     .fd = s->fd };
		if (s->fd < FIRST_FD)
			return -EBADF;
		s->fd = -1;
		break;
	case 10:
		return uring_reap(&me.uring, &cqe) ? cqe.res : -EAGAIN;
	default:
		uring_close(&me.uring);
		me.has_uring = false;
		return 0;
	}
	uring_reap(&me.uring, &cqe);
	return uring_submit(&me.uring, &sqe);
}

/* Pages in a pipe, which keeps them when all else is gone. */
static long call_vmsplice(struct args *a)
{
	struct map *m = some_map(a);
	struct iovec iov;
	int p[2];
	long ret;

	if (!m || pipe2(p, O_CLOEXEC | O_NONBLOCK))
		return -ENOENT;
	me.used = PAGE;
	some_part(a, m, (char **)&iov.iov_base, &iov.iov_len);
	ret = or_errno(vmsplice(p[1], &iov, 1, SPLICE_F_NONBLOCK));
	if (pick(a, 2))
		forget(m);
	if (ret > 0 && read(p[0], me.page, PAGE) < 0)
		ret = -errno;
	close(p[1]);
	/* The other end stays, with what is in it, to the end of the program. */
	if (!rarely(a, 4))
		close(p[0]);
	return ret;
}

static void __attribute__((noreturn)) child(struct args *a, unsigned int what)
{
	struct slot *s = some(a, END);
	int i;

	switch (what) {
	case 1:
		dev_ring(s->fd, RX);
		dev_enter(s->fd, RX, TX, (uint64_t)now_ns());
		break;
	case 2: /* dies with a mapping */
		if (s->fd >= 0)
			map_region(&s->g, s->fd, EVERING_REGION_HALF(s->end),
				   PROT_READ);
		kill(getpid(), SIGKILL);
		break;
	case 3: /* has what it was to have and nothing else */
		for (i = 0; i < MAPS; i++) {
			struct map *m = &me.map[i];

			if (!m->p || !(m->prot & PROT_READ))
				continue;
			MUST(!try_access(m->p, NULL) == m->dofork,
			     "region %d in a child, with DOFORK %d", m->region,
			     m->dofork);
		}
		break;
	case 4: /* one that it seals: mseal(), since 6.10 */
		if (s->fd >= 0) {
			char *p = map_region(&s->g, s->fd, 0, PROT_READ);

			syscall(462, p, PAGE, 0);
			munmap(p, PAGE);
		}
		break;
	}
	_exit(0);
}

static long call_fork(struct args *a)
{
	unsigned int what = pick(a, 5);
	pid_t pid = fork();

	if (!pid)
		child(a, what);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static const struct {
	const char *name;
	long (*call)(struct args *a);
	unsigned int weight;
} ops[] = {
	{ "create", call_create, 10 },
	{ "mmap", call_mmap, 40 },
	{ "ring", call_ring, 40 },
	{ "enter", call_enter, 30 },
	{ "arm", call_arm, 30 },
	{ "load", call_load, 32 },
	{ "store", call_store, 24 },
	{ "open", call_open, 3 },
	{ "info", call_info, 10 },
	{ "set_eventfd", call_set_eventfd, 10 },
	{ "peer_cred", call_peer_cred, 12 },
	{ "ioctl", call_ioctl, 12 },
	{ "munmap", call_munmap, 12 },
	{ "clobber", call_clobber, 4 },
	{ "mremap", call_mremap, 8 },
	{ "mprotect", call_mprotect, 12 },
	{ "madvise", call_madvise, 20 },
	{ "memory", call_memory, 10 },
	{ "send", call_send, 8 },
	{ "receive", call_receive, 6 },
	{ "lose", call_lose, 2 },
	{ "close", call_close, 12 },
	{ "dup", call_dup, 6 },
	{ "fcntl", call_fcntl, 6 },
	{ "file", call_file, 14 },
	{ "poll", call_poll, 12 },
	{ "epoll", call_epoll, 12 },
	{ "eventfd", call_eventfd, 4 },
	{ "uring", call_uring, 6 },
	{ "vmsplice", call_vmsplice, 4 },
	{ "fork", call_fork, 1 },

};

/* ------------------------------------------------------------------ a worker */

static void let_go(void)
{
	struct args a = { .arg = (uint8_t[ARGS]){ 0 }, .used = ARGS };
	int i;

	for (i = 0; i < MAPS; i++) {
		struct map *m = &me.map[i];
		int sig;

		if (!m->p)
			continue;
		if (m->prot & PROT_READ) {
			size_t at = random_below(&a.state, m->len / 4) * 4;

			sig = try_access(m->p + at, NULL);
			MUST(!sig,
			     "last load from region %d of end %d: signal %d",
			     m->region, m->end, sig);
		}
		forget(m);
	}
	if (me.has_uring)
		uring_close(&me.uring);
	me.has_uring = false;
	while (receive())
		;
	for (i = 0; i < SLOTS; i++)
		me.slot[i].fd = -1;
	close_range(FIRST_FD, ~0u, 0);
	me.slot[0] =
		(struct slot){ .fd = me.dev, .kind = DEVICE, .sure = true };
}

/* Notes what code the program reached. */
static void look_at_cover(void)
{
	uint64_t n = __atomic_load_n(&me.cover[0], __ATOMIC_RELAXED), prev = 0;

	for (uint64_t i = 1; i <= n && i < COVER_WORDS; i++) {
		uint64_t pc = me.cover[i] - me.text;

		if (pc >= TEXT)
			continue;
		if (!shared->pcs[pc]) {
			shared->pcs[pc] = 1;
			__atomic_add_fetch(&shared->nr_pcs, 1,
					   __ATOMIC_RELAXED);
			shared->fresh = 1;
		}
		prev = (prev * 31 + pc) % TEXT;
		if (!shared->edges[prev]) {
			shared->edges[prev] = 1;
			shared->fresh = 1;
		}
		prev = pc;
	}
}

/* Waits until the calls before the nth are done, or will never be. */
static void await_turn(const struct program *p, uint32_t n)
{
	const struct timespec soon = { 0, 2 * MSEC };
	uint32_t turn;

	while ((turn = __atomic_load_n(&shared->turn, __ATOMIC_ACQUIRE)) < n) {
		if (__atomic_load_n(&shared->dead, __ATOMIC_ACQUIRE) >>
			    p->call[turn].who &
		    1)
			__atomic_compare_exchange_n(&shared->turn, &turn,
						    turn + 1, false,
						    __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST);
		else
			syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn,
				&soon, NULL, 0);
	}
}

static void end_turn(const struct program *p, uint32_t n)
{
	__atomic_store_n(&shared->turn, n + 1, __ATOMIC_RELEASE);
	if (n + 1 < p->calls && p->call[n + 1].who != me.id)
		syscall(SYS_futex, &shared->turn, FUTEX_WAKE, WORKERS, NULL,
			NULL, 0);
}

static void run_program(const struct program *p)
{
	char name[16];
	uint32_t i;

	snprintf(name, sizeof(name), "fuzz-%u", shared->number);
	prctl(PR_SET_NAME, name);
	if (me.cover)
		__atomic_store_n(&me.cover[0], 0, __ATOMIC_RELAXED);
	for (i = 0; i < p->calls; i++) {
		const struct call *c = &p->call[i];
		struct args a = { .arg = c->arg };
		long ret;

		if (c->who != me.id)
			continue;
		if (p->turns)
			await_turn(p, i);
		memcpy(&a.state, c, sizeof(a.state));
		ret = ops[c->op].call(&a);
		shared->count[me.id][c->op][ret >= 0]++;
		shared->done[me.id]++;
		if (p->turns)
			end_turn(p, i);
	}
	let_go();
	if (me.cover)
		look_at_cover();
}

static void open_kcov(void)
{
	FILE *f = fopen("/sys/module/evering/sections/.text", "re");
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);

	if (fd >= 0 && f && fscanf(f, "%lx", &me.text) == 1 &&
	    dup2(fd, KCOV_FD) == KCOV_FD &&
	    !ioctl(KCOV_FD, KCOV_INIT_TRACE, COVER_WORDS)) {
		me.cover = mmap(NULL, COVER_WORDS * 8, PROT_READ | PROT_WRITE,
				MAP_SHARED, KCOV_FD, 0);
		if (me.cover == MAP_FAILED || ioctl(KCOV_FD, KCOV_ENABLE, 0))
			me.cover = NULL;
	}
	if (f)
		fclose(f);
	close(fd);
}

static int work(void *arg)
{
	struct sigaction segv = { .sa_handler = on_fault,
				  .sa_flags = SA_NODEFER };
	struct sigaction alarm = { .sa_handler = on_alarm };
	int fd;
	char c;

	dup2(*(int *)arg, CONTROL_FD);
	open_kcov();
	close_range(FIRST_FD, ~0u, 0);
	if (!geteuid() && (setgroups(0, NULL) || setresgid(USER, USER, USER) ||
			   setresuid(USER, USER, USER)))
		return 95;
	/* A change of user forgets both. */
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &segv, NULL);
	sigaction(SIGALRM, &alarm, NULL);
	signal(SIGIO, SIG_IGN);
	fd = memfd_create("arguments", MFD_CLOEXEC);
	if (ftruncate(fd, PAGE))
		return 94;
	me.page = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	me.page_ro = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (mmap(me.page, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 fd, 0) == MAP_FAILED)
		return 93;
	let_go();
	tick_in(TICK);
	for (;;) {
		ssize_t n = read(CONTROL_FD, &c, 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != 1)
			return 0;
		run_program(&shared->program);
		tell(CONTROL_FD);
	}
}

/* --------------------------------------------------------------- the director */

struct crew {
	pid_t pid[WORKERS];
	int control[WORKERS];
};

static bool hire(struct crew *crew, int id)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return false;
	me.id = id;
	crew->control[id] = sv[0];
	crew->pid[id] = spawn(work, &sv[1]);
	close(sv[1]);
	return crew->pid[id] > 0;
}

/* A worker is gone: by SIGKILL, or something is wrong. */
static void dismiss(struct crew *crew, int id)
{
	int status = reap(crew->pid[id]);

	__atomic_fetch_or(&shared->dead, 1u << id, __ATOMIC_SEQ_CST);
	close(crew->control[id]);
	crew->control[id] = -1;
	if (status != 128 + SIGKILL)
		fail("worker %d ended with %d", id, status);
}

static void hangs(const struct crew *crew, int id)
{
	char path[64], where[64] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/wchan", crew->pid[id]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, where, sizeof(where) - 1);
	where[n > 0 ? n : 0] = 0;
	close(fd);
	fail("worker %d hangs in %s, state %c", id, where,
	     task_state(crew->pid[id]));
	kill(crew->pid[id], SIGKILL);
}

/* Has the crew run shared->program, to its end. */
static void conduct(struct crew *crew)
{
	const struct program *p = &shared->program;
	struct pollfd polls[WORKERS];
	int64_t end = now_ns() + PLENTY;
	int i, left = WORKERS;

	shared->turn = shared->dead = shared->fresh = 0;
	for (i = 0; i < WORKERS; i++) {
		if (crew->control[i] < 0 && !hire(crew, i))
			return fail("fork: %s", strerror(errno));
		polls[i] = (struct pollfd){ crew->control[i], POLLIN, 0 };
	}
	for (i = 0; i < WORKERS; i++)
		tell(crew->control[i]);
	if (p->victim) {
		sleep_ns(p->delay * 100 * USEC);
		kill(crew->pid[p->victim - 1], SIGKILL);
	}
	while (left) {
		poll(polls, WORKERS, 1000);
		for (i = 0; i < WORKERS; i++) {
			char c;

			if (polls[i].fd >= 0 && polls[i].revents) {
				if (read(polls[i].fd, &c, 1) != 1)
					dismiss(crew, i);
				polls[i].fd = -1;
				left--;
			} else if (polls[i].fd >= 0 && now_ns() > end) {
				hangs(crew, i);
			}
		}
	}
	/* The victim may have been done already. */
	if (p->victim && crew->control[p->victim - 1] >= 0)
		dismiss(crew, p->victim - 1);
}

static uint8_t wheel[512];
static size_t wheel_size;

static void random_call(struct call *c, uint64_t *rng)
{
	uint64_t r = random_u64(rng);

	c->op = wheel[r % wheel_size];
	c->who = (r >> 16) % WORKERS;
	for (int i = 0; i < ARGS; i++)
		c->arg[i] = r >> (24 + i) & 1 ? (uint8_t)random_u64(rng) : 0;
}

static void mutate(struct program *p, const struct program *other,
		   uint64_t *rng)
{
	unsigned int at = (unsigned int)random_below(rng, p->calls);
	struct call *c = &p->call[at];
	unsigned int n;

	switch (random_below(rng, 7)) {
	case 0:
	case 1:
		c->arg[random_below(rng, ARGS)] = (uint8_t)random_u64(rng);
		break;
	case 2:
		random_call(c, rng);
		break;
	case 3:
		c->who = (uint8_t)random_below(rng, WORKERS);
		break;
	case 4: /* another in between */
		if (p->calls == CALLS)
			break;
		memmove(c + 1, c, (p->calls++ - at) * sizeof(*c));
		random_call(c, rng);
		break;
	case 5:
		if (p->calls > 1)
			memmove(c, c + 1, (--p->calls - at) * sizeof(*c));
		break;
	case 6: /* one's beginning, the other's end */
		n = other->calls > at ? other->calls - at : 0;
		memcpy(c, &other->call[at], n * sizeof(*c));
		p->calls = (uint8_t)max_of(at + n, 1);
		break;
	}
}

/* The program of that number, by the seed and what is in the corpus. */
static void make_program(struct program *p, uint64_t seed, uint32_t number,
			 const struct program *corpus, size_t nr)
{
	uint64_t rng = seed + number * 0x2545f4914f6cdd1dull;
	unsigned int i;

	memset(p, 0, sizeof(*p));
	if (nr && random_below(&rng, 3)) {
		*p = corpus[random_below(&rng, nr)];
		for (i = 0; i <= random_below(&rng, 4); i++)
			mutate(p, &corpus[random_below(&rng, nr)], &rng);
	} else {
		p->calls = (uint8_t)(CALLS / 2 +
				     random_below(&rng, CALLS / 2 + 1));
		for (i = 0; i < p->calls; i++)
			random_call(&p->call[i], &rng);
		p->call[0].op = 0; /* create */
	}
	p->turns = !random_below(&rng, 8);
	p->victim = (uint8_t)(random_below(&rng, 24) ?
				      0 :
				      1 + random_below(&rng, WORKERS));
	p->delay = (uint8_t)random_u64(&rng);
}

static bool parse_program(struct program *p, const char *hex)
{
	uint8_t *bytes = (uint8_t *)p;
	size_t n = 0;
	unsigned int byte;

	while (n < sizeof(*p) && sscanf(hex + 2 * n, "%2x", &byte) == 1)
		bytes[n++] = (uint8_t)byte;
	if (n < 4 || p->calls > CALLS || n != 4 + p->calls * sizeof(p->call[0]))
		return false;
	for (n = 0; n < p->calls; n++)
		if (p->call[n].op >= ARRAY_SIZE(ops) ||
		    p->call[n].who >= WORKERS)
			return false;
	return p->victim <= WORKERS;
}

static void print_program(const struct program *p)
{
	const uint8_t *bytes = (const uint8_t *)p;
	size_t i;

	for (i = 0; i < p->calls; i++) {
		const struct call *c = &p->call[i];

		printf("#   %u %s %02x %02x %02x %02x %02x %02x\n", c->who,
		       ops[c->op].name, c->arg[0], c->arg[1], c->arg[2],
		       c->arg[3], c->arg[4], c->arg[5]);
	}
	printf("# EVERING_PROGRAM=");
	for (i = 0; i < 4 + p->calls * sizeof(p->call[0]); i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

static uint64_t calls_made(void)
{
	uint64_t n = 0;

	for (int i = 0; i < WORKERS; i++)
		n += shared->done[i];
	return n;
}

static void print_counts(uint32_t programs, size_t kept, int64_t ns)
{
	printf("# %llu calls in %u programs, %.1f s, ok/failed:",
	       (unsigned long long)calls_made(), programs, (double)ns / SEC);
	for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
		uint64_t n[2] = { 0, 0 };

		for (int i = 0; i < WORKERS; i++) {
			n[0] += shared->count[i][op][0];
			n[1] += shared->count[i][op][1];
		}
		printf(" %s %llu/%llu", ops[op].name, (unsigned long long)n[1],
		       (unsigned long long)n[0]);
	}
	if (shared->nr_pcs)
		printf("; coverage: %u places, %zu programs kept\n",
		       shared->nr_pcs, kept);
	else
		printf("; coverage: the kernel does not tell\n");
	fflush(stdout);
}

#define PARAMETER "/sys/module/evering/parameters/max_user_channels"
#define MIB_PARAMETER "/sys/module/evering/parameters/max_user_mib"
#define REFERENCES "/sys/module/evering/refcnt"

static long read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	long n = -1;

	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

static void write_number(const char *path, long n)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", n);
	write_text(path, text);
}

/* As the user of the workers: all its channels can be had, so nobody has one. */
static int have_all(void *arg)
{
	int fd[2], i;

	if (setresgid(USER, USER, USER) || setresuid(USER, USER, USER))
		return 1;
	for (i = 0; i < CHANNELS; i++)
		if (dev_pair(me.dev, &least_geometry, fd))
			return 2;
	return dev_pair(me.dev, &least_geometry, fd) == -EDQUOT ? 0 : 3;
}

static bool nothing_left(long references)
{
	int sv[2];

	/* Closing one collects what is in sockets that nobody has. */
	if (!socketpair(AF_UNIX, SOCK_DGRAM, 0, sv)) {
		close(sv[0]);
		close(sv[1]);
	}
	return read_number(REFERENCES) == references &&
	       (geteuid() || !reap(spawn(have_all, NULL)));
}

FIXTURE(fuzz)
{
	int dev;
	long channels, mib;
};

FIXTURE_SETUP(fuzz)
{
	REQUIRE_DEVICE(self->dev);
	self->channels = read_number(PARAMETER);
	self->mib = read_number(MIB_PARAMETER);
}

FIXTURE_TEARDOWN_PARENT(fuzz)
{
	if (self->channels >= 0) {
		write_number(PARAMETER, self->channels);
		write_number(MIB_PARAMETER, self->mib);
	}
}

TEST_F_TIMEOUT(fuzz, whatever_is_called_no_rule_is_broken, 36000)
{
	static struct program corpus[CORPUS];
	const char *hex = getenv("EVERING_PROGRAM");
	const char *calls = getenv("EVERING_CALLS");
	uint64_t wanted = calls ? strtoull(calls, NULL, 0) : UINT64_MAX;
	struct crew crew = { .control = { -1, -1, -1 } };
	uint64_t seed = random_seed(), rng = seed;
	int64_t began = now_ns(), said = began;
	int64_t end = calls ? INT64_MAX : began + LONG_ENOUGH;
	struct slot in_flight;
	uint32_t number = 0;
	size_t kept = 0, i;
	long references;
	int fd;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)shared);
	references = read_number(REFERENCES);
	me.dev = self->dev;
	for (i = 0; i < WORKERS; i++)
		ASSERT_EQ(0,
			  socketpair(AF_UNIX, SOCK_SEQPACKET, 0, me.inbox[i]));
	/* Only what programs open gets a higher number. */
	do
		fd = dup(0);
	while (fd >= 0 && fd < FIRST_FD);
	close(fd);
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		for (unsigned int n = 0; n < ops[i].weight; n++)
			wheel[wheel_size++] = (uint8_t)i;
	if (!geteuid()) {
		write_number(PARAMETER, CHANNELS);
		write_number(MIB_PARAMETER, 64);
	}
	if (hex)
		ASSERT_TRUE(parse_program(&corpus[0], hex));
	while (calls_made() < wanted && !shared->failed && now_ns() < end) {
		shared->number = ++number;
		if (hex)
			shared->program = corpus[0];
		else
			make_program(&shared->program, seed, number, corpus,
				     kept);
		conduct(&crew);
		if (shared->fresh && !hex) {
			i = kept < CORPUS ? kept++ : random_below(&rng, CORPUS);
			corpus[i] = shared->program;
		}
		if (now_ns() > said + 10 * SEC) {
			said = now_ns();
			printf("# program %u\n", number);
			fflush(stdout);
		}
	}
	print_counts(number, kept, now_ns() - began);
	if (shared->failed) {
		printf("# program %u of EVERING_SEED=%#llx: %s\n", number,
		       (unsigned long long)seed, shared->why);
		print_program(&shared->program);
		fflush(stdout);
	}
	EXPECT_STREQ("", shared->why);
	for (i = 0; i < WORKERS; i++) {
		close(crew.control[i]);
		if (crew.control[i] >= 0)
			EXPECT_EQ(0, reap(crew.pid[i]));
		while (recv(me.inbox[i][0], &in_flight, sizeof(in_flight),
			    MSG_DONTWAIT) > 0)
			;
	}
	EXPECT_TRUE(EVENTUALLY(nothing_left(references)))
	TH_LOG("references %ld, before %ld; quota %d", read_number(REFERENCES),
	       references, geteuid() ? 0 : reap(spawn(have_all, NULL)));
}

TEST_HARNESS_MAIN
