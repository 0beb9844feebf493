/* SPDX-License-Identifier: MIT */
/*
 * dev_fuzz.h: the calls that dev_fuzz.c makes, and what may not come of each.
 *
 * A call makes its arguments of a few bytes; bytes of zero make valid ones.  It
 * returns what the system call did, or a negative errno; -ENOENT if there was
 * nothing to make it on.  What MUST be so is what evering.h or the module promise.
 */
#ifndef EVERING_SELFTESTS_DEV_FUZZ_H
#define EVERING_SELFTESTS_DEV_FUZZ_H

#include "dev.h"

#include <sys/time.h>

#include <sys/file.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define WORKERS 3
#define ARGS 6
#define SLOTS 12 /* descriptors of a worker, */
#define MAPS 12 /* and its mappings */
#define FIRST_FD 64 /* descriptors of programs begin here */
#define CLOSING 2 /* user_data of IORING_OP_CLOSE; others have 1 */
#define TICK (20 * MSEC) /* a worker sleeps no longer */

struct call {
	uint8_t op, who, arg[ARGS];
};

/* Of descriptors */
enum {
	NONE,
	DEVICE,
	END,
	EVENTFD,
	EPOLL,
	GROUP
};

/* A region of a group: all of it. */
#define GROUP_PAGE EVERING_REGIONS

#ifndef MAP_32BIT /* x86 alone has it */
#define MAP_32BIT 0
#endif

struct slot {
	int fd, kind, end;
	uint32_t channel; /* its number, here alone */
	bool sure; /* the kernel alone wrote what is told here */
	struct evering_geometry g;
};

struct map {
	char *p;
	size_t len;
	int prot;
	int region;
	bool dofork;
	struct slot of;
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
} me;

/* The first rule that was broken, for all to see. */
static struct verdict {
	uint32_t failed;
	char why[200];
} * verdict;

static void __attribute__((format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list ap;

	if (__atomic_exchange_n(&verdict->failed, 1, __ATOMIC_SEQ_CST))
		return;
	va_start(ap, format);
	vsnprintf(verdict->why, sizeof(verdict->why), format, ap);
	va_end(ap);
}

#define MUST(cond)                                                          \
	do {                                                                \
		if (!(cond))                                                \
			fail("%s: not so: %s (errno: %s)", __func__, #cond, \
			     strerror(errno));                              \
	} while (0)

/* ---------------------------------------------------------------- arguments */

struct args {
	const uint8_t *arg;
	unsigned int used;
	uint64_t state; /* for more than the bytes give */
	/* What the operation needs, as ops[] says: */
	struct slot *s;
	struct map *m;
	struct iovec part; /* of @m; whole pages, by default all */
	bool less; /* not all */
	/* The struct of an ioctl, and whether somebody else can write there. */
	void *placed;
	bool open;
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
	const uint64_t edges[] = {
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

/* What is below FIRST_FD belongs to the test: NULL then. */
static struct slot *keep(unsigned int at, struct slot new)
{
	struct slot *s = &me.slot[at % SLOTS];

	if (new.fd < FIRST_FD)
		return NULL;
	for (unsigned int i = 0; i < SLOTS && s->fd >= 0; i++)
		s = &me.slot[(at + i) % SLOTS];
	if (s->fd >= FIRST_FD)
		close(s->fd);
	*s = new;
	return s;
}

/* Where to create something: sometimes there is no descriptor for it. */
static struct rlimit few_descriptors(struct args *a)
{
	struct rlimit limit, less;

	getrlimit(RLIMIT_NOFILE, &limit);
	less = limit;
	if (rarely(a, 32))
		less.rlim_cur = FIRST_FD + pick(a, 4);
	setrlimit(RLIMIT_NOFILE, &less);
	return limit;
}

static bool keep_group(unsigned int at, int fd)
{
	return keep(at, (struct slot){ fd, GROUP, 0, 0, true, { 0 } });
}

static void keep_pair(unsigned int at, const int fd[2],
		      const struct evering_geometry *g)
{
	static uint32_t last;

	last += WORKERS;
	for (int i = 0; i < 2; i++) {
		struct slot new = { fd[i], END, i, last + me.id, true, *g };

		MUST(keep(at + i, new));
	}
}

/* Takes what another worker has sent, with what it knew of it. */
static bool receive(void)
{
	struct slot got = { 0 };
	int fd = recv_fd_with(me.inbox[me.id][0], &got, sizeof(got));

	got.fd = fd;
	return keep((unsigned int)fd, got);
}

/* Arenas in pages, until in_pages() has asked how large one is. */
static struct evering_geometry geometries[] = {
	{ 64, 64, { 1, 1 }, 0, 0 },
	{ 16, 4, { 0, 0 }, 0, 0 },
	{ 64, 256, { 2, 0 }, EVERING_SHARED_ARENA, 0 },
	{ 256, 64, { 0, 1 }, 0, 0 },
	{ 32, 128, { 0, 18 }, 0, 0 },
	{ 128, 8, { 2, 4 }, EVERING_SHARED_ARENA, 0 },
	{ 16, 4096, { 0, 0 }, 0, 0 },
	{ 64, 64, { EVERING_MAX_ARENA, EVERING_MAX_ARENA }, 0, 0 },
};

static void __attribute__((constructor)) in_pages(void)
{
	const uint64_t page = PAGE;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(geometries); i++) {
		if (geometries[i].arena_size[0] == EVERING_MAX_ARENA)
			continue;
		geometries[i].arena_size[0] *= page;
		geometries[i].arena_size[1] *= page;
	}
}

/* For calls that would be in vain otherwise. */
static bool make_channel(struct args *a, unsigned int at)
{
	const struct evering_geometry *g = &geometries[pick(a, 6)];
	int fd[2];

	if (dev_pair(me.dev, g, fd))
		return false;
	keep_pair(at, fd, g);
	return true;
}

static bool make_group(struct args *a, unsigned int at)
{
	int fd = dev_group(me.dev, pick(a, 4));

	return fd >= 0 && keep_group(at, fd);
}

static bool make_some(struct args *a, int kind, unsigned int at)
{
	if (kind == GROUP)
		return make_group(a, at);
	return kind == END && (receive() || make_channel(a, at));
}

/* A descriptor of @kind, or now and then of any; fd is -1 if there is none. */
static struct slot *some(struct args *a, int kind)
{
	static struct slot none;
	unsigned int first = pick(a, SLOTS);
	bool any = rarely(a, 32);

	for (int tries = 0; tries < 2; tries++) {
		for (unsigned int i = 0; i < SLOTS; i++) {
			struct slot *s = &me.slot[(first + i) % SLOTS];

			if (s->fd >= 0 && (any || s->kind == kind))
				return s;
		}
		if (!make_some(a, kind, first))
			break;
	}
	none = (struct slot){ .fd = -1 };
	return &none;
}

/* An endpoint of which it is known what it is to do. */
static bool sure_end(const struct slot *s)
{
	return s->kind == END && s->sure;
}

static bool sure_group(const struct slot *s)
{
	return s->kind == GROUP && s->sure;
}

static bool may_store(const struct map *m)
{
	return m->region == GROUP_PAGE ||
	       may_write(&m->of.g, m->of.end, m->region);
}

static void forget(struct map *m)
{
	MUST(!munmap(m->p, m->len));
	m->p = NULL;
}

static void keep_map(unsigned int at, const struct slot *s, int region,
		     int prot, char *p)
{
	struct map *m = &me.map[at % MAPS];

	for (int i = 0; i < MAPS && m->p; i++)
		m = &me.map[i];
	if (m->p)
		forget(m);
	*m = (struct map){
		.p = p,
		.len = region == GROUP_PAGE ? PAGE : region_size(&s->g, region),
		.prot = prot,
		.region = region,
		.of = *s,
	};
}

/* A mapping, made if there is none; NULL if that cannot be. */
static struct map *some_map(struct args *a)
{
	unsigned int first = pick(a, MAPS);

	for (int tries = 0; tries < 2; tries++) {
		const struct slot *s;
		int region, prot = PROT_READ;
		char *p;

		for (unsigned int i = 0; i < MAPS; i++)
			if (me.map[(first + i) % MAPS].p)
				return &me.map[(first + i) % MAPS];
		s = some(a, END);
		if (!sure_end(s))
			break;
		region = rarely(a, 2) ? (int)pick(a, EVERING_REGIONS) :
					EVERING_REGION_HALF(s->end);
		if (may_write(&s->g, s->end, region))
			prot |= PROT_WRITE;
		p = map_region(&s->g, s->fd, region, prot);
		if (p == MAP_FAILED)
			break;
		keep_map(first, s, region, prot, p);
	}
	return NULL;
}

static sigjmp_buf fault;
static volatile sig_atomic_t may_fault;

static void on_fault(int sig)
{
	if (may_fault)
		siglongjmp(fault, sig);
	fail("worker %d got signal %d", me.id, sig);
	_exit(96);
}

/* The signal that a load gets, or a store if @value is given; 0 for none. */
static int try_access(volatile void *p, const uint32_t *value)
{
	int sig = sigsetjmp(fault, 0);

	if (!sig) {
		may_fault = 1;
		if (value)
			*(volatile uint32_t *)p = *value;
		else
			(void)*(volatile uint32_t *)p;
	}
	may_fault = 0;
	return sig;
}

/* Whatever sleeps does so for @ns, and then TICK, at most. */
static void tick_in(int64_t ns)
{
	struct itimerval t = { .it_interval.tv_usec = TICK / USEC,
			       .it_value.tv_usec = ns / USEC };

	setitimer(ITIMER_REAL, &t, NULL);
}

/* ------------------------------------------------------------------- ioctls */

/*
 * Puts the struct of an ioctl somewhere: mostly where it can be read and written,
 * with zeros behind it.  Some of its words are changed on the way.
 */
static void *place(struct args *a, uint32_t *words, size_t len)
{
	const uint32_t page = PAGE;
	const uint32_t sizes[] = { 0, 4, 200, page, page + 1, ~0u };
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
		*words = rarely(a, 2) ? sizes[pick(a, ARRAY_SIZE(sizes))] :
					*words + pick(a, 10) - 1;
		break;
	}
	memset(me.page, 0, me.used);
	me.used = PAGE;
	switch (pick(a, 24)) {
	case 17: /* shared memory */
		m = some_map(a);
		if (!m || !(m->prot & PROT_WRITE))
			break;
		a->open = true;
		return memcpy(m->p + pick(a, 256) * 4, words, len);
	case 18: /* something behind it */
		me.page[len + pick(a, 64)] = 1;
		break;
	case 19:
		p += 1 + pick(a, 7);
		break;
	case 20:
		return (void *)(uintptr_t)odd(a);
	case 21: /* cannot be written */
		memcpy(me.page, words, len);
		return me.page_ro;
	case 22: /* a part cannot be read */
		p += PAGE - pick(a, (unsigned int)len);
		len = (size_t)(me.page + PAGE - p);
		break;
	case 23:
		p += PAGE - len;
		break;
	default:
		me.used = 256;
	}
	return memcpy(p, words, len);
}

/* @errnos: what evering.h has for this ioctl, beside what it has for all; then 0. */
static long do_ioctl(struct args *a, unsigned int cmd, void *arg, size_t len,
		     const int *errnos)
{
	int kind = cmd < EVERING_IOC_RING ? DEVICE :
		   cmd < EVERING_IOC_ADD  ? END :
					    GROUP;
	long ret;

	if (cmd == EVERING_IOC_ENTER && a->s->kind == GROUP)
		kind = GROUP;

	a->placed = place(a, arg, len);
	ret = dev_ioctl(a->s->fd, cmd, a->placed);
	if (ret >= 0 || !a->s->sure)
		return ret;
	if (a->s->kind != kind) {
		MUST(ret == -ENOTTY);
		return ret;
	}
	while (*errnos && ret != -*errnos)
		errnos++;
	MUST(*errnos || ret == -EINVAL || ret == -E2BIG || ret == -EFAULT);
	return ret;
}

static long call_info(struct args *a)
{
	struct evering_info info = { .size = sizeof(info) };

	return do_ioctl(a, EVERING_IOC_INFO, &info, sizeof(info), (int[]){ 0 });
}

static long call_peer_cred(struct args *a)
{
	struct evering_peer_cred cred = { .size = sizeof(cred) };

	return do_ioctl(a, EVERING_IOC_PEER_CRED, &cred, sizeof(cred),
			(int[]){ ENOTCONN, 0 });
}

static long call_attach(struct args *a)
{
	struct evering_attach attach = { .size = sizeof(attach) };

	return do_ioctl(a, EVERING_IOC_ATTACH, &attach, sizeof(attach),
			(int[]){ ENOTCONN, EBUSY, ESTALE, 0 });
}

/* All of it is there: see call_create(). */
static long call_grow(struct args *a)
{
	struct evering_grow grow = {
		.size = sizeof(grow),
		.there = rarely(a, 4) ? odd(a) : pick(a, 20) * PAGE,
	};

	return do_ioctl(a, EVERING_IOC_GROW, &grow, sizeof(grow),
			(int[]){ EBUSY, ESTALE, 0 });
}

static long call_set_eventfd(struct args *a)
{
	struct evering_set_eventfd set = { .size = sizeof(set), .fd = -1 };

	if (!rarely(a, 4))
		set.fd = rarely(a, 8) ? (int)odd(a) : some(a, EVENTFD)->fd;
	return do_ioctl(a, EVERING_IOC_SET_EVENTFD, &set, sizeof(set),
			(int[]){ EBADF, 0 });
}

static long call_create(struct args *a)
{
	static const uint32_t flags[] = { 0, 1, 2, 3, 4, 6, 8 };
	struct evering_create c = {
		.size = sizeof(c),
		.geometry = geometries[pick(a, ARRAY_SIZE(geometries))],
		.flags = flags[pick(a, ARRAY_SIZE(flags))],
	};
	unsigned int at = pick(a, SLOTS);
	struct rlimit limit;
	long ret;

	/* Of large blocks; most of its time goes into clearing them. */
	if (rarely(a, 64))
		c.geometry.arena_size[0] = (2 << 20) + PAGE;
	limit = few_descriptors(a);
	ret = do_ioctl(a, EVERING_IOC_CREATE, &c, sizeof(c),
		       (int[]){ EDQUOT, ENOMEM, EMFILE, ENFILE, 0 });
	setrlimit(RLIMIT_NOFILE, &limit);
	if (ret)
		return ret;
	memcpy(&c, a->placed, sizeof(c));
	/* What is not there is not touched: so it is all there before anybody can. */
	for (int i = 0; i < 2 && c.flags & EVERING_CREATE_GROW; i++) {
		ret = dev_grow(c.fd[i], c.geometry.arena_size[i]);
		if (!ret)
			continue;
		MUST(ret == -EDQUOT || ret == -ENOMEM || a->open);
		/* Another process may have written other numbers there. */
		if (!a->open) {
			close(c.fd[0]);
			close(c.fd[1]);
		}
		return ret;
	}
	/*
	 * Numbers that others may have written can be those of descriptors which
	 * this worker has already: closed by one, they are gone from the other.
	 */
	if (!a->open)
		keep_pair(at, c.fd, &c.geometry);
	return 0;
}

static long call_ring(struct args *a)
{
	unsigned long bells = rarely(a, 16) ? odd(a) : 1 + pick(a, 3);
	long ret = dev_ring(a->s->fd, bells);

	if (sure_end(a->s) && bells - 1 < 3)
		MUST(ret >= 0 && !(ret & ~(long)bells));
	else if (sure_end(a->s))
		MUST(ret == -EINVAL);
	else if (sure_group(a->s)) /* the argument is an index */
		MUST(ret == (bells < EVERING_GROUP_MEMBERS ? 0 : -EINVAL));
	return ret;
}

static long call_arm(struct args *a)
{
	for (int i = 0; i < MAPS; i++) {
		struct map *m = &me.map[i];

		if (m->p && m->prot & PROT_WRITE && m->of.end == a->s->end &&
		    m->region == EVERING_REGION_HALF(m->of.end)) {
			arm((struct evering_half *)m->p, 1 + pick(a, 3));
			return 0;
		}
	}
	return -ENOENT;
}

static long call_enter(struct args *a)
{
	struct evering_enter e = { .size = sizeof(e) };
	unsigned int time = pick(a, 16);
	uint32_t may;
	long ret;

	e.wait = pick(a, 4);
	e.ring = pick(a, 4);
	e.flags = pick(a, 8);
	if (time < 12)
		e.timeout = (uint64_t)now_ns() + (1000ull << time / 2);
	else
		e.timeout = time == 12 ? EVERING_FOREVER : odd(a);
	if (rarely(a, 2))
		call_arm(a);
	if (time >= 12)
		tick_in(200 * USEC);
	ret = do_ioctl(a, EVERING_IOC_ENTER, &e, sizeof(e),
		       (int[]){ EPIPE, ETIMEDOUT, EINTR, EAGAIN, EBUSY, 0 });
	may = e.wait | e.ring << 8;
	/* What it says that it had rung before. */
	if (e.flags & EVERING_ENTER_RUNG)
		may |= RANG_RX | RANG_TX;
	MUST(ret < 0 || a->open || !sure_end(a->s) || !(ret & ~may));
	return ret;
}

/* Any command, and no struct at all. */
static long call_ioctl(struct args *a)
{
	/* Ours; FIONBIO, FIOASYNC, TCGETS, FIONREAD, FIGETBSZ */
	static const uint16_t known[] = { 0xeb00, 0xeb01, 0xeb02, 0xeb10,
					  0xeb11, 0xeb12, 0xeb13, 0xeb20,
					  0xeb21, 0x5421, 0x5452, 0x5401,
					  0x541b, 2 };
	unsigned int cmd = known[pick(a, ARRAY_SIZE(known))];
	uint32_t junk[32];

	if (pick(a, 4) == 3)
		a->s = some(a, DEVICE);
	if (rarely(a, 2))
		cmd ^= 1u << pick(a, 32);
	for (size_t i = 0; i < ARRAY_SIZE(junk); i++)
		junk[i] = (uint32_t)odd(a);
	if (!rarely(a, 2))
		junk[0] = 16 + pick(a, 56);
	if (cmd == EVERING_IOC_ENTER)
		tick_in(200 * USEC);
	return dev_ioctl(a->s->fd, cmd, place(a, junk, sizeof(junk)));
}

/* ------------------------------------------------------------------- groups */

static long call_group(struct args *a)
{
	struct evering_group_create c = { .size = sizeof(c) };
	unsigned int at = pick(a, SLOTS);
	struct rlimit limit;
	long ret;

	c.flags = pick(a, 5);
	limit = few_descriptors(a);
	ret = do_ioctl(a, EVERING_IOC_GROUP, &c, sizeof(c),
		       (int[]){ EDQUOT, ENOMEM, EMFILE, ENFILE, 0 });
	setrlimit(RLIMIT_NOFILE, &limit);
	memcpy(&c, a->placed, ret ? 0 : sizeof(c));
	if (!ret && !a->open) /* as call_create() */
		MUST(keep_group(at, c.fd));
	return ret;
}

/* One that members have often, or any. */
static uint32_t some_index(struct args *a)
{
	return rarely(a, 4) ? (uint32_t)odd(a) : pick(a, 256);
}

static long call_add(struct args *a)
{
	struct evering_add add = { .size = sizeof(add) };

	add.fd = rarely(a, 32) ? (int)odd(a) : some(a, END)->fd;
	add.index = some_index(a);
	return do_ioctl(a, EVERING_IOC_ADD, &add, sizeof(add),
			(int[]){ EBADF, EEXIST, EBUSY, ESTALE, ENOTCONN, 0 });
}

static long call_remove(struct args *a)
{
	int fd = rarely(a, 32) ? (int)odd(a) : some(a, END)->fd;
	long ret = dev_remove(a->s->fd, fd);

	MUST(!sure_group(a->s) || !ret || ret == -EBADF || ret == -EINVAL ||
	     ret == -ENOENT);
	return ret;
}

static long call_group_enter(struct args *a)
{
	static struct evering_group_ring list[EVERING_MAX_GROUP_RINGS + 1];
	static const uint8_t counts[] = { 0, 1, 1, 2, 3, 8, 64, 65 };
	struct evering_group_enter e = { .size = sizeof(e) };
	unsigned int time = pick(a, 16), i;
	long ret;

	e.ring = counts[pick(a, ARRAY_SIZE(counts))];
	for (i = 0; i < e.ring; i++) {
		list[i].fd = i ? list[i - 1].fd : some(a, END)->fd;
		if (i && random_below(&a->state, 2))
			list[i].fd = some(a, END)->fd;
		list[i].bells = 1 + (uint32_t)random_below(&a->state, 3);
	}
	if (rarely(a, 32))
		list[pick(a, ARRAY_SIZE(list))].bells = (uint32_t)odd(a);
	e.rings = (uintptr_t)list;
	if (rarely(a, 16)) /* a part cannot be read */
		e.rings = (uintptr_t)me.page + PAGE - 8 * pick(a, 3);
	else if (rarely(a, 16))
		e.rings = odd(a);
	e.flags = rarely(a, 4) ? pick(a, 8) : 0;
	e.wait = !rarely(a, 2);
	if (time < 12)
		e.timeout = (uint64_t)now_ns() + (1000ull << time / 2);
	else
		e.timeout = time == 12 ? EVERING_FOREVER : odd(a);
	if (time >= 12)
		tick_in(200 * USEC);
	ret = do_ioctl(a, EVERING_IOC_ENTER, &e, sizeof(e),
		       (int[]){ ETIMEDOUT, EINTR, EAGAIN, EBUSY, EBADF,
				a->s->kind == END ? EPIPE : 0, 0 });
	if (ret >= 0 && !a->open && sure_group(a->s)) {
		MUST(ret <= 2 * (long)EVERING_MAX_GROUP_RINGS);
		MUST(e.flags & EVERING_ENTER_RUNG ? ret == (long)e.ring :
						    ret <= 2 * (long)e.ring);
	}
	return ret;
}

static long call_map_group(struct args *a)
{
	static const int prots[] = { 3, 3, 3, 1, 2, 0, 5, 4, 7 };
	int prot = prots[pick(a, ARRAY_SIZE(prots))], kind = MAP_SHARED;
	size_t len = PAGE;
	uint64_t offset = 0;
	bool granted;
	char *p;

	if (rarely(a, 16))
		kind = MAP_PRIVATE;
	if (rarely(a, 16))
		len = odd(a);
	if (rarely(a, 16))
		offset = odd(a);
	p = mmap(NULL, len, prot, kind, a->s->fd, (off_t)offset);
	if (!sure_group(a->s)) {
		if (p != MAP_FAILED)
			munmap(p, len);
		return p == MAP_FAILED ? -errno : 0;
	}
	granted = len && len <= PAGE && !offset && kind == MAP_SHARED &&
		  !(prot & PROT_EXEC);
	MUST(granted == (p != MAP_FAILED) || errno == ENOMEM);
	if (p == MAP_FAILED)
		return -errno;
	keep_map(pick(a, MAPS), a->s, GROUP_PAGE, prot, p);
	return 0;
}

/* Rings what nobody else has yet, in one of the ways that there are. */
static void ring_member(struct args *a, int group, const int fd[2],
			uint32_t bells, uint32_t armed)
{
	struct evering_group_ring list[2] = { { fd[0], bells },
					      { fd[0], bells } };
	const int n = (int)((armed & 1) + (armed >> 1));

	switch (pick(a, 4)) {
	case 0:
		MUST(dev_ring(fd[0], bells) == (int)armed);
		break;
	case 1:
		MUST(dev_enter(fd[0], bells, 0, 0) == (int)armed << 8);
		break;
	case 2: /* by its own process */
		MUST(dev_ring(fd[1], bells | EVERING_RING_SELF) == (int)armed);
		break;
	default: /* waiting, for what comes of it, if so */
		MUST(dev_group_enter(group, 0, list, 2, n > 0,
				     EVERING_FOREVER) == n);
	}
}

/*
 * A member whose bell was armed and is rung is looked at, once; so is a new one, and one
 * whose peer goes; and nothing else is.
 */
static void watch_member(struct args *a, int group, int fd[2],
			 struct evering_half *half,
			 struct evering_group_page *page)
{
	const uint32_t at =
		(uint32_t)random_below(&a->state, EVERING_GROUP_MEMBERS);
	uint32_t bells, set;
	int i;

	MUST(take_one(page) == -1);
	MUST(dev_add(group, fd[1], at) == -ENOTCONN);
	MUST(!dev_attach(fd[1]) && !dev_add(group, fd[1], at));
	MUST(take_one(page) == (int)at);
	for (i = 0; i < 3; i++) {
		bells = 1 + pick(a, 3);
		arm(half, pick(a, 4));
		set = armed(half) & bells;
		ring_member(a, group, fd, bells, set);
		if (set)
			MUST(poll_now(group, POLL_ALL) == POLLIN &&
			     !dev_group_enter(group, 0, NULL, 0, 1, 0));
		MUST(take_one(page) == (set ? (int)at : -1));
	}
	switch (pick(a, 4)) {
	case 1:
		MUST(!dev_remove(group, fd[1]));
		arm(half, RX);
		MUST(dev_ring(fd[0], RX) == RX);
		MUST(take_one(page) == -1);
		break;
	case 2:
		close(fd[0]);
		fd[0] = -1;
		MUST(take_one(page) == (int)at);
		break;
	case 3: /* it ends itself */
		munmap(half, half_size(&geometries[0]));
		MUST(dev_remove(group, fd[1]) == -ENOENT);
		MUST(dev_add(group, fd[1], at) == -ESTALE);
		MUST(take_one(page) == -1);
		break;
	}
}

static long call_member(struct args *a)
{
	const struct evering_geometry *g = &geometries[0];
	unsigned int at = pick(a, SLOTS), i;
	int group = dev_group(me.dev, 0), fd[2] = { -1, -1 };
	struct evering_group_page *page = MAP_FAILED;
	void *half = MAP_FAILED;

	if (group >= 0 && !dev_pair(me.dev, g, fd)) {
		page = map_group(group);
		half = map_region(g, fd[1], EVERING_REGION_HALF_B,
				  PROT_READ | PROT_WRITE);
	}
	if (page != MAP_FAILED && half != MAP_FAILED)
		watch_member(a, group, fd, half, page);
	if (half != MAP_FAILED)
		munmap(half, half_size(g));
	if (page != MAP_FAILED)
		munmap(page, PAGE);
	if (group >= FIRST_FD)
		keep_group(at, group);
	for (i = 0; i < 2; i++)
		if (fd[i] >= FIRST_FD)
			close(fd[i]);
	return page == MAP_FAILED || half == MAP_FAILED ? -ENOENT : 0;
}

/* ----------------------------------------------------------------- mappings */

static long call_mmap(struct args *a)
{
	/* 1 to read, 2 to write, 4 to execute */
	static const int prots[] = { 1, 3, 3, 2, 0, 5, 4, 7 };
	static const int kinds[] = { 0, MAP_POPULATE, MAP_LOCKED, MAP_32BIT,
				     MAP_NORESERVE };
	struct slot *s = a->s;
	int region = (int)pick(a, EVERING_REGIONS);
	int prot = prots[pick(a, ARRAY_SIZE(prots))];
	int kind = MAP_SHARED;
	unsigned int off = pick(a, 16);
	size_t right, len;
	uint64_t offset;
	bool granted;
	char *p;

	/* One side's mapping of what is its own is what most calls need. */
	if (region && prot & PROT_WRITE && !pick(a, 2))
		region = region < EVERING_REGION_ARENA_A ?
				 EVERING_REGION_HALF(s->end) :
				 EVERING_REGION_ARENA(s->end);
	len = region_size(&s->g, region);
	offset = EVERING_MMAP_OFFSET(region);
	if (rarely(a, 4))
		kind = (int)(1 + pick(a, 3)) | kinds[pick(a, 5)];
	if (off == 13)
		len = (size_t[]){
			len - 1, len + 1, len + PAGE, len - PAGE,
			0,	 2 * len, 1,	      odd(a)
		}[pick(a, 8)];
	else if (off == 14)
		offset += PAGE * (1ull << pick(a, 28));
	else if (off == 15)
		offset = odd(a);
	/* That may be another region's place. */
	if (offset < EVERING_MMAP_OFFSET(EVERING_REGIONS))
		region = (int)(offset >> EVERING_MMAP_SHIFT);
	right = region_size(&s->g, region);
	p = mmap(NULL, len, prot, kind, s->fd, (off_t)offset);
	if (!sure_end(s)) {
		if (p != MAP_FAILED)
			munmap(p, len);
		return p == MAP_FAILED ? -errno : 0;
	}
	granted = right && (len + PAGE - 1) / PAGE == right / PAGE &&
		  offset == EVERING_MMAP_OFFSET(region) &&
		  (kind & MAP_TYPE) != MAP_PRIVATE && !(prot & PROT_EXEC) &&
		  (!(prot & PROT_WRITE) || may_write(&s->g, s->end, region));
	if (p == MAP_FAILED) {
		/* Another process has it, or nobody can have it any more. */
		MUST(!granted || errno == ENOMEM || errno == EAGAIN ||
		     errno == EBUSY || errno == ESTALE);
		return -errno;
	}
	MUST(granted);
	keep_map(pick(a, MAPS), s, region, prot, p);
	return 0;
}

static long call_munmap(struct args *a)
{
	unsigned int how = pick(a, 8);
	struct map *m = a->m;
	void *p = a->part.iov_base;
	size_t len = a->part.iov_len;
	long ret;

	switch (how) {
	case 5: /* from the middle of a page */
		ret = or_errno(munmap((char *)p + 1, len));
		MUST(ret == -EINVAL);
		return ret;
	case 6: /* something else in its place */
		ret = or_errno(mmap(p, len, PROT_READ,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				    0) == p ?
				       0 :
				       -1);
		break;
	case 7: /* another region */
		ret = or_errno(syscall(SYS_remap_file_pages, m->p, m->len, 0,
				       EVERING_MMAP_OFFSET(pick(a, 6)) / PAGE,
				       0));
		forget(m);
		return ret;
	default:
		ret = or_errno(munmap(p, len));
	}
	MUST(!ret != a->less || ret == -ENOMEM);
	if (!ret)
		forget(m);
	return ret;
}

/* Only all of it may go elsewhere, and as it is; what stays is not touched. */
static long call_mremap(struct args *a)
{
	struct map *m = a->m;
	int usual = MREMAP_MAYMOVE | MREMAP_FIXED;
	int flags = rarely(a, 4) ? (int)pick(a, 8) : usual;
	size_t from = rarely(a, 8) ? 0 : a->part.iov_len, to = from ?: m->len;
	char *p, *place = mmap(NULL, m->len + PAGE, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool may;

	if (rarely(a, 4))
		to = pick(a, 2) ? to + PAGE : PAGE;
	may = to == from && !(flags & MREMAP_DONTUNMAP) &&
	      (from == m->len || !(flags & MREMAP_FIXED));
	p = mremap(a->part.iov_base, from, to, flags, place);
	if (p == MAP_FAILED) {
		MUST(!may || errno == ENOMEM || flags != usual);
		munmap(place, m->len + PAGE);
		return -errno;
	}
	MUST(may);
	if (p == place)
		munmap(place + m->len, PAGE);
	else
		munmap(place, m->len + PAGE);
	if (from == m->len)
		m->p = p;
	return 0;
}

static long call_mprotect(struct args *a)
{
	struct map *m = a->m;
	int prot = (int)pick(a, 8), ret;

	ret = (int)or_errno(mprotect(a->part.iov_base, a->part.iov_len, prot));
	if (!ret && prot != m->prot) {
		MUST(!a->less && !(prot & PROT_EXEC));
		MUST(may_store(m) || !(prot & PROT_WRITE));
		m->prot = prot;
	}
	return ret;
}

static long call_madvise(struct args *a)
{
	/* All that there are, up to MADV_COLLAPSE. */
	int advice = (int)pick(a, 30), ret;

	if (advice > 25)
		advice = MADV_DOFORK;
	ret = (int)or_errno(madvise(a->part.iov_base, a->part.iov_len, advice));
	if (!ret && (advice == MADV_DOFORK || advice == MADV_DONTFORK))
		a->m->dofork = advice == MADV_DOFORK;
	return ret;
}

/*
 * It tells what it always did, and of ends whose half is mapped here that somebody has
 * attached them.  Who has, and has gone, may be another.
 */
static void look_at_status(const struct map *status)
{
	const struct evering_status *s = (void *)status->p;

	MUST(s->magic == EVERING_MAGIC);
	MUST(!memcmp(&s->geometry, &status->of.g, sizeof(s->geometry)));
	for (int i = 0; i < MAPS; i++) {
		struct map *m = &me.map[i];

		if (m->p && m->of.channel == status->of.channel &&
		    m->region == EVERING_REGION_HALF(m->of.end))
			MUST(state_of(s, m->of.end) != EVERING_STATE_NEW);
	}
}

static long call_access(struct args *a)
{
	/* Words that mean something, and the first slot. */
	static const uint16_t places[] = {
		128, 132, 0, 256, 320, 384, 512, 4092
	};
	struct map *m = a->m;
	bool store = pick(a, 2);
	uint32_t value = (uint32_t)odd(a);
	size_t at = store ? places[pick(a, ARRAY_SIZE(places))] :
			    random_below(&a->state, m->len / 4) * 4;
	int sig;

	if (!(m->prot & (store ? PROT_READ | PROT_WRITE : PROT_READ)))
		return -ENOENT;
	sig = try_access(m->p + at, store ? &value : NULL);
	MUST(!sig == (!store || m->prot & PROT_WRITE));
	if (!store && m->region == EVERING_REGION_STATUS && !sig)
		look_at_status(m);
	return sig ? -EFAULT : 0;
}

/* --------------------------------------------------------------- descriptors */

static long call_open(struct args *a)
{
	static const int flags[] = { O_RDWR, O_RDONLY, O_WRONLY,
				     O_PATH, O_DIRECT, O_TRUNC };
	int fd, how = flags[pick(a, ARRAY_SIZE(flags))];
	char path[64] = "/dev/evering";

	/* An endpoint cannot be opened by its name in /proc. */
	if (rarely(a, 8))
		snprintf(path, sizeof(path), "/proc/self/fd/%d", a->s->fd);
	fd = open(path, how);
	if (fd < 0)
		return -errno;
	MUST(path[1] == 'd' || how == O_PATH ||
	     !(sure_end(a->s) || sure_group(a->s)));
	/* Not sure, since O_PATH is good for nothing. */
	keep(pick(a, SLOTS), (struct slot){ .fd = fd, .kind = DEVICE });
	return fd;
}

static long call_send(struct args *a)
{
	struct slot *s = rarely(a, 8) ? some(a, EVENTFD) : a->s;

	return send_fd_with(me.inbox[pick(a, WORKERS)][1], s->fd, s,
			    sizeof(*s));
}

static long call_receive(struct args *a)
{
	return receive() ? 0 : -EAGAIN;
}

/* Into a socket that nobody has but itself: found by the collector of garbage. */
static long call_lose(struct args *a)
{
	int sv[2];

	if (a->s->fd < 0 ||
	    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, sv))
		return -EBADF;
	send_fd(sv[0], a->s->fd);
	if (pick(a, 2))
		send_fd(sv[0], sv[1]);
	close(sv[0]);
	close(sv[1]);
	return 0;
}

static long call_close(struct args *a)
{
	int fd = a->s->fd;

	if (fd < FIRST_FD)
		return -EBADF;
	a->s->fd = -1;
	return or_errno(close(fd));
}

static long call_dup(struct args *a)
{
	struct slot new = *a->s, *to;

	if (pick(a, 2)) {
		new.fd = fcntl(new.fd, F_DUPFD_CLOEXEC, FIRST_FD);
		return keep(pick(a, SLOTS), new) ? new.fd : -errno;
	}
	to = some(a, END); /* in place of another */
	if (to->fd < FIRST_FD || dup2(new.fd, to->fd) < 0)
		return -EBADF;
	new.fd = to->fd;
	*to = new;
	return 0;
}

static long call_eventfd(struct args *a)
{
	struct slot s = { .kind = EVENTFD };

	s.fd = eventfd((unsigned int)odd(a), EFD_CLOEXEC | EFD_NONBLOCK);
	return keep(pick(a, SLOTS), s) ? s.fd : -errno;
}

static long call_fdinfo(struct args *a)
{
	const char *end =
		fdinfo(a->s->fd, a->s->kind == GROUP ? "members" : "end");

	MUST(!sure_end(a->s) || (end && *end == 'A' + a->s->end));
	MUST(!sure_group(a->s) || end);
	return end ? 0 : -EBADF;
}

static long call_poll(struct args *a)
{
	struct pollfd p[2] = {
		{ .fd = a->s->fd, .events = (short)(1 << pick(a, 14)) },
		{ .fd = some(a, END)->fd, .events = POLL_ALL },
	};
	struct timespec t = { 0, rarely(a, 4) ? 1000l << pick(a, 8) : 0 };

	return or_errno(ppoll(p, 1 + pick(a, 2), &t, NULL));
}

static long call_epoll(struct args *a)
{
	static const uint32_t flags[] = {
		0,	    EPOLLET,	EPOLLEXCLUSIVE, EPOLLONESHOT,
		EPOLLRDHUP, EPOLLWAKEUP
	};
	static const int ctls[] = { EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
				    EPOLL_CTL_MOD, 0 };
	struct epoll_event ev[4] = { { .events = EPOLLIN | EPOLLOUT } };
	struct slot *ep = some(a, EPOLL), new = { .kind = EPOLL };
	int ctl = ctls[pick(a, 5)];

	if (ep->kind != EPOLL || rarely(a, 16)) {
		new.fd = epoll_create1(EPOLL_CLOEXEC);
		ep = keep(pick(a, SLOTS), new);
		if (!ep)
			return -EMFILE;
	}
	ev->events |= flags[pick(a, ARRAY_SIZE(flags))];
	if (rarely(a, 4))
		ev->events = (uint32_t)odd(a);
	epoll_ctl(ep->fd, ctl, a->s->fd, ev);
	return or_errno(epoll_wait(ep->fd, ev, 4, 0));
}

/*
 * Submits @sqe; a close is waited for.  The kernel leaves that of a file with .flush
 * to a worker of its own, who would close the number when the next program has it.
 */
static long submit(const struct io_uring_sqe *sqe)
{
	struct io_uring_cqe cqe = { 0 };
	long ret = uring_submit(&me.uring, sqe);

	if (ret != 1) { /* it stays in the ring: no later call may submit it */
		uring_close(&me.uring);
		me.has_uring = false;
		return ret;
	}
	while (sqe->opcode == IORING_OP_CLOSE && cqe.user_data != CLOSING)
		if (!uring_reap(&me.uring, &cqe))
			syscall(__NR_io_uring_enter, me.uring.fd, 0, 1,
				IORING_ENTER_GETEVENTS, NULL, 0);
	return ret;
}

static long call_uring(struct args *a)
{
	/* Once and as often as it comes; 46 is IORING_OP_URING_CMD. */
	const unsigned int page = PAGE;
	const struct io_uring_sqe sqes[] = {
		{ .opcode = IORING_OP_POLL_ADD, .poll32_events = EPOLLIN },
		{ .opcode = IORING_OP_POLL_ADD, .poll32_events = 5, .len = 1 },
		{ .opcode = 46, .off = EVERING_IOC_RING },
		{ .opcode = IORING_OP_READ, .len = page },
		{ .opcode = IORING_OP_WRITE, .len = page },
		{ .opcode = IORING_OP_READ_FIXED, .len = page },
		{ .opcode = IORING_OP_WRITE_FIXED, .len = page },
		{ .opcode = IORING_OP_POLL_REMOVE, .addr = 1 },
		{ .opcode = IORING_OP_CLOSE },
	};
	unsigned int what = pick(a, 14);
	struct evering_uring_ring ring = { .bells = 1 + pick(a, 3) };
	void *arg[] = { &a->part, NULL, &a->s->fd, NULL };
	struct io_uring_sqe sqe;
	struct io_uring_cqe cqe;
	int ret = me.has_uring ? 0 : uring_open(&me.uring);

	if (ret)
		return ret;
	me.has_uring = what < 13;
	if (!me.has_uring) {
		uring_close(&me.uring);
		return 0;
	}
	uring_reap(&me.uring, &cqe);
	if (what >= ARRAY_SIZE(sqes)) { /* buffers, none, files, none */
		what = pick(a, 4);
		return or_errno(syscall(__NR_io_uring_register, me.uring.fd,
					what, arg[what], !(what & 1)));
	}
	sqe = sqes[what];
	sqe.user_data = 1;
	sqe.fd = a->s->fd;
	if (sqe.len == PAGE)
		sqe.addr = (uintptr_t)a->part.iov_base;
	if (sqe.opcode == IORING_OP_READ_FIXED ||
	    sqe.opcode == IORING_OP_WRITE_FIXED)
		sqe.fd = 0; /* /dev/zero */
	if (sqe.opcode == IORING_OP_CLOSE) {
		if (sqe.fd < FIRST_FD)
			return -EBADF;
		sqe.user_data = CLOSING;
		a->s->fd = -1;
	}
	if (sqe.off == EVERING_IOC_RING) { /* its struct is where addr3 is */
		if (rarely(a, 8))
			sqe.off = odd(a);
		if (rarely(a, 8))
			ring.bells = (uint32_t)odd(a);
		ring.reserved[pick(a, 3)] = rarely(a, 8);
		memcpy((char *)&sqe + 48, &ring, sizeof(ring));
	}
	return submit(&sqe);
}

/* Pages in a pipe, which keeps them when all else is gone. */
static long call_vmsplice(struct args *a)
{
	int p[2];
	long ret;

	if (pipe2(p, O_CLOEXEC | O_NONBLOCK))
		return -ENOENT;
	me.used = PAGE;
	ret = or_errno(vmsplice(p[1], &a->part, 1, SPLICE_F_NONBLOCK));
	if (pick(a, 2))
		forget(a->m);
	if (ret > 0 && read(p[0], me.page, PAGE) < 0)
		ret = -errno;
	close(p[1]);
	/* The other end stays, with what is in it, to the end of the program. */
	if (!rarely(a, 4))
		close(p[0]);
	return ret;
}

/*
 * Calls that endpoints and mappings have to bear and know nothing of.  Those of
 * which @never is set would give an endpoint contents.
 */
enum {
	A_FD = 1 << 24, /* an endpoint, sometimes the device */
	A_PART = 2 << 24, /* of a mapping; its length; both in an iovec */
	A_LEN = 3 << 24,
	A_VEC = 4 << 24,
	A_PAGE = 5 << 24, /* ours; in an iovec */
	A_PAGE_VEC = 6 << 24,
	AN_ODD = 7 << 24, /* number */
	BELOW = 8 << 24, /* and above zero */
};

static const struct plain {
	bool never;
	short nr;
	int arg[6];
} plain[] = {
	{ true, SYS_read, { A_FD, A_PAGE, 64 } },
	{ true, SYS_write, { A_FD, A_PAGE, 64 } },
	{ true, SYS_pread64, { A_FD, A_PAGE, 64, AN_ODD } },
	{ true, SYS_pwrite64, { A_FD, A_PAGE, 64, AN_ODD } },
	{ true, SYS_ftruncate, { A_FD, AN_ODD } },
	{ true, SYS_fallocate, { A_FD, BELOW | 4, 0, 4096 } },
	{ true, SYS_sendfile, { A_FD, A_FD, 0, 4096 } },
	{ true, SYS_copy_file_range, { A_FD, 0, A_FD, 0, 4096 } },
	{ false, SYS_fsync, { A_FD } },
	{ false, SYS_lseek, { A_FD, AN_ODD, BELOW | 5 } },
#ifdef SYS_fadvise64 /* arm has others, with their arguments in another order */
	{ false, SYS_fadvise64, { A_FD, 0, 0, BELOW | 6 } },
#endif
	{ false, SYS_readahead, { A_FD, 0, 4096 } },
	{ false, SYS_getdents64, { A_FD, A_PAGE, 512 } },
#ifdef SYS_sync_file_range
	{ false, SYS_sync_file_range, { A_FD, 0, 0, BELOW | 8 } },
#endif
	{ false, SYS_flock, { A_FD, LOCK_EX | LOCK_NB } },
	{ false, SYS_fcntl, { A_FD, F_SETFL, O_NONBLOCK } },
	{ false, SYS_fcntl, { A_FD, F_SETFL, 0 } },
	{ false, SYS_fcntl, { A_FD, F_SETFL, O_ASYNC } },
	{ false, SYS_fcntl, { A_FD, F_ADD_SEALS, BELOW | 16 } },
	{ false, SYS_fcntl, { A_FD, F_SETLEASE, F_RDLCK } },
	{ false, SYS_fcntl, { A_FD, F_SETPIPE_SZ, 65536 } },
	{ false, SYS_mlock, { A_PART, A_LEN } },
	{ false, SYS_munlock, { A_PART, A_LEN } },
	{ false, SYS_mlock2, { A_PART, A_LEN, 1 } },
	{ false, SYS_msync, { A_PART, A_LEN, BELOW | 8 } },
	{ false, SYS_mincore, { A_PART, A_LEN, A_PAGE } },
	/* MPOL_PREFERRED */
	{ false, SYS_mbind, { A_PART, A_LEN, 1, 0, 0, 3 } },
	/* As somebody else would, by way of an address that he may have. */
	{ false, SYS_process_vm_readv, { 0, A_PAGE_VEC, 1, A_VEC, 1 } },
	{ false, SYS_process_vm_writev, { 0, A_PAGE_VEC, 1, A_VEC, 1 } },
};

static long call_plain(struct args *a)
{
	const struct plain *call = &plain[pick(a, ARRAY_SIZE(plain))];
	struct iovec page = { me.page, 64 };
	const long given[] = {
		0,
		a->s->fd,
		(long)a->part.iov_base,
		(long)a->part.iov_len,
		(long)&a->part,
		(long)me.page,
		(long)&page,
		(long)odd(a),
	};
	long arg[6], ret;

	for (size_t i = 0; i < ARRAY_SIZE(arg); i++) {
		arg[i] = call->arg[i];
		if (arg[i] >= BELOW)
			arg[i] = pick(a, (unsigned int)(arg[i] - BELOW));
		else if (arg[i] >= A_FD)
			arg[i] = given[arg[i] / A_FD];
	}
	if (call->nr == SYS_process_vm_readv ||
	    call->nr == SYS_process_vm_writev)
		arg[0] = getpid();
	me.used = PAGE;
	ret = or_errno(syscall(call->nr, arg[0], arg[1], arg[2], arg[3], arg[4],
			       arg[5]));
	MUST(ret < 0 || !call->never || !(sure_end(a->s) || sure_group(a->s)));
	return ret;
}

/* ----------------------------------------------------------------- processes */

static void __attribute__((noreturn))
child(const struct slot *s, unsigned int what)
{
	switch (what) {
	case 1:
		dev_ring(s->fd, RX);
		dev_enter(s->fd, RX, TX, (uint64_t)now_ns());
		break;
	case 2: /* dies with a mapping */
		map_region(&s->g, s->fd, EVERING_REGION_HALF(s->end),
			   PROT_READ);
		kill(getpid(), SIGKILL);
		break;
	case 3: /* one that it seals: mseal(), since 6.10 */
		if (s->fd >= 0) {
			char *p = map_region(&s->g, s->fd, 0, PROT_READ);

			syscall(462, p, PAGE, 0);
			munmap(p, PAGE);
		}
		break;
	default: /* has what it was to have and nothing else */
		for (int i = 0; i < MAPS; i++) {
			struct map *m = &me.map[i];

			if (m->p && m->prot & PROT_READ)
				MUST(!try_access(m->p, NULL) == m->dofork);
		}
	}
	_exit(0);
}

static long call_fork(struct args *a)
{
	unsigned int what = pick(a, 6);
	pid_t pid = fork();

	if (!pid)
		child(a->s, what);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* What an operation needs, beside a descriptor of a kind; that it is no call. */
#define MAP 16
#define ACCESS 32

static const struct op {
	const char *name;
	long (*call)(struct args *a);
	unsigned int weight;
	int needs;
} ops[] = {
	{ "create", call_create, 10, DEVICE },
	{ "mmap", call_mmap, 40, END },
	{ "ring", call_ring, 40, END },
	{ "enter", call_enter, 30, END },
	{ "arm", call_arm, 30, END | ACCESS },
	{ "access", call_access, 70, MAP | ACCESS },
	{ "open", call_open, 3, END },
	{ "info", call_info, 10, DEVICE },
	{ "set_eventfd", call_set_eventfd, 10, END },
	{ "peer_cred", call_peer_cred, 12, END },
	{ "attach", call_attach, 2, END },
	{ "grow", call_grow, 2, END },
	{ "ioctl", call_ioctl, 12, END },
	{ "munmap", call_munmap, 16, MAP },
	{ "mremap", call_mremap, 8, MAP },
	{ "mprotect", call_mprotect, 12, MAP },
	{ "madvise", call_madvise, 20, MAP },
	{ "send", call_send, 8, END },
	{ "receive", call_receive, 6, NONE },
	{ "lose", call_lose, 2, END },
	{ "close", call_close, 12, END },
	{ "dup", call_dup, 6, END },
	{ "fdinfo", call_fdinfo, 2, END },
	{ "poll", call_poll, 12, END },
	{ "epoll", call_epoll, 12, END },
	{ "eventfd", call_eventfd, 4, NONE },
	{ "uring", call_uring, 6, END | MAP },
	{ "vmsplice", call_vmsplice, 4, MAP },
	{ "plain", call_plain, 28, END | MAP },
	{ "fork", call_fork, 1, END },
	{ "group", call_group, 8, DEVICE },
	{ "add", call_add, 24, GROUP },
	{ "remove", call_remove, 10, GROUP },
	{ "group_enter", call_group_enter, 24, GROUP },
	{ "member", call_member, 8, NONE },
	{ "map_group", call_map_group, 8, GROUP },
	{ "ring_group", call_ring, 8, GROUP },
	{ "poll_group", call_poll, 6, GROUP },
	{ "epoll_group", call_epoll, 6, GROUP },
	{ "send_group", call_send, 4, GROUP },
	{ "lose_group", call_lose, 1, GROUP },
	{ "close_group", call_close, 8, GROUP },
	{ "dup_group", call_dup, 3, GROUP },
	{ "fdinfo_group", call_fdinfo, 1, GROUP },
	{ "plain_group", call_plain, 6, GROUP | MAP },
	{ "uring_group", call_uring, 2, GROUP | MAP },
};

static long make_call(const struct call *c)
{
	const struct op *op = &ops[c->op];
	struct args a = { .arg = c->arg };
	size_t pages, first = 0, n;

	errno = 0;
	memcpy(&a.state, c, sizeof(a.state));
	if (op->needs & 15)
		a.s = some(&a, op->needs & 15);
	if (op->needs & MAP) {
		a.m = some_map(&a);
		if (!a.m)
			return -ENOENT;
		pages = n = a.m->len / PAGE;
		if (rarely(&a, 4)) {
			first = pick(&a, 256) % pages;
			n = 1 + pick(&a, 256) % (pages - first);
		}
		a.part = (struct iovec){ a.m->p + first * PAGE, n * PAGE };
		a.less = n < pages;
	}
	return op->call(&a);
}

#endif /* EVERING_SELFTESTS_DEV_FUZZ_H */
