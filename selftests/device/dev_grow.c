// SPDX-License-Identifier: MIT
/*
 * dev_grow.c: arenas of the device that get their pages later: what GROW and CREATE
 * take and refuse, who pays, what a page is that is not there yet, and the end of a
 * channel while somebody grows it.
 */
#include "dev.h"

#include <grp.h>

#define ARENA (256 * PAGE)
#define MIB (1ul << 20)

static struct evering_geometry geometry = {
	.slot_size = 64,
	.entries = 64,
};

FIXTURE(dev_grow)
{
	int dev;
	int fd[2];
	const struct evering_status *status;
};

/* A channel whose arenas begin with @a and @b. */
static int make(int dev, uint64_t a, uint64_t b, int fd[2])
{
	struct evering_create c = {
		.size = sizeof(c),
		.flags = EVERING_CREATE_GROW,
		.geometry = geometry,
		.arena_begin = { a, b },
	};
	int ret = dev_ioctl(dev, EVERING_IOC_CREATE, &c);

	fd[0] = ret ? -1 : c.fd[0];
	fd[1] = ret ? -1 : c.fd[1];
	return ret;
}

/* A number of fdinfo; ~0: none. */
static unsigned long long shown(int fd, const char *key, int column)
{
	unsigned long long n[2] = { ~0ull, ~0ull };
	char path[64], line[256];
	size_t len = strlen(key);
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':')
			sscanf(line + len + 1, "%llu %llu", &n[0], &n[1]);
	if (f)
		fclose(f);
	return n[column];
}

static sigjmp_buf fault_env;

static void on_fault(int sig)
{
	siglongjmp(fault_env, sig);
}

/* The signal that reading, or writing what was read, at @p brings; 0: none. */
static int fault_of(unsigned char *p, bool write)
{
	struct sigaction sa = { .sa_handler = on_fault }, bus, segv;
	volatile unsigned char *byte = p;
	int sig;

	sigaction(SIGBUS, &sa, &bus);
	sigaction(SIGSEGV, &sa, &segv);
	sig = sigsetjmp(fault_env, 1);
	if (!sig && write)
		*byte |= 0;
	else if (!sig)
		(void)*byte;
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return sig;
}

FIXTURE_SETUP(dev_grow)
{
	REQUIRE_DEVICE(self->dev);
	geometry.arena_size[0] = ARENA;
	geometry.arena_size[1] = ARENA;
	ASSERT_EQ(0, make(self->dev, 4 * PAGE, 0, self->fd));
	self->status = map_region(&geometry, self->fd[0], EVERING_REGION_STATUS,
				  PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)self->status);
}

FIXTURE_TEARDOWN(dev_grow)
{
	close(self->fd[0]);
	close(self->fd[1]);
	close(self->dev);
}

TEST_F(dev_grow, begins_as_it_was_told)
{
	EXPECT_EQ(4 * PAGE, self->status->arena_there[0]);
	EXPECT_EQ(0u, self->status->arena_there[1]);
	EXPECT_EQ(ARENA, self->status->geometry.arena_size[0]);
	EXPECT_EQ(4 * PAGE, shown(self->fd[1], "arena_there", 0));
	EXPECT_EQ(0u, shown(self->fd[1], "arena_there", 1));
	EXPECT_EQ(ARENA, shown(self->fd[1], "arena_size", 1));
	/* The halves, STATUS, four pages, and pointers to the rest. */
	EXPECT_EQ(2 * half_size(&geometry) + 5 * PAGE +
			  (2 * 256 - 4) * sizeof(void *),
		  shown(self->fd[0], "bytes", 0));
}

TEST_F(dev_grow, without_the_flag_all_is_there)
{
	const struct evering_status *status;
	int fd[2];

	ASSERT_EQ(0, dev_pair(self->dev, &geometry, fd));
	status = map_region(&geometry, fd[0], EVERING_REGION_STATUS, PROT_READ);
	EXPECT_EQ(ARENA, status->arena_there[0]);
	EXPECT_EQ(ARENA, status->arena_there[1]);
	EXPECT_EQ(2 * ARENA + PAGE + 2 * half_size(&geometry),
		  shown(fd[0], "bytes", 0));
	close(fd[0]);
	close(fd[1]);
}

TEST_F(dev_grow, a_wrong_beginning_is_refused)
{
	int fd[2];

	EXPECT_EQ(-EINVAL, make(self->dev, 1, 0, fd));
	EXPECT_EQ(-EINVAL, make(self->dev, 0, PAGE / 2, fd));
	EXPECT_EQ(-EINVAL, make(self->dev, ARENA + PAGE, 0, fd));
	EXPECT_EQ(-EINVAL, make(self->dev, 0, ARENA + PAGE, fd));
	EXPECT_EQ(-EINVAL, make(self->dev, UINT64_MAX - PAGE + 1, 0, fd));
}

TEST_F(dev_grow, only_the_own_arena_and_only_to_its_end)
{
	EXPECT_EQ(-EINVAL, dev_grow(self->fd[0], 4 * PAGE + 1));
	EXPECT_EQ(-EINVAL, dev_grow(self->fd[0], ARENA + PAGE));
	EXPECT_EQ(-EINVAL, dev_grow(self->fd[0], UINT64_MAX));
	EXPECT_EQ(4 * PAGE, self->status->arena_there[0]);
	EXPECT_EQ(0, dev_grow(self->fd[0], 8 * PAGE));
	EXPECT_EQ(8 * PAGE, self->status->arena_there[0]);
	EXPECT_EQ(0u, self->status->arena_there[1]);
	/* Never back. */
	EXPECT_EQ(0, dev_grow(self->fd[0], 0));
	EXPECT_EQ(0, dev_grow(self->fd[0], 4 * PAGE));
	EXPECT_EQ(8 * PAGE, self->status->arena_there[0]);
	EXPECT_EQ(0, dev_grow(self->fd[1], ARENA));
	EXPECT_EQ(ARENA, self->status->arena_there[1]);
	EXPECT_EQ(8 * PAGE, self->status->arena_there[0]);
	EXPECT_EQ(-ENOTTY, dev_grow(self->dev, PAGE));
}

static int grows(void *fd)
{
	return -dev_grow(*(int *)fd, 8 * PAGE);
}

/* Who only has a copy of the descriptor does not make the owner pay. */
TEST_F(dev_grow, only_by_who_has_the_endpoint)
{
	ASSERT_NE(MAP_FAILED,
		  map_region(&geometry, self->fd[0], EVERING_REGION_HALF_A,
			     PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, dev_attach(self->fd[0]));
	EXPECT_EQ(EBUSY, reap(spawn(grows, &self->fd[0])));
	EXPECT_EQ(4 * PAGE, self->status->arena_there[0]);
	EXPECT_EQ(0, dev_grow(self->fd[0], 8 * PAGE));
	EXPECT_EQ(8 * PAGE, self->status->arena_there[0]);
}

TEST_F(dev_grow, what_is_not_there_is_sigbus_and_what_has_come_is_zero)
{
	unsigned char *own, *seen;
	size_t i, n;

	own = map_region(&geometry, self->fd[0], EVERING_REGION_ARENA_A,
			 PROT_READ | PROT_WRITE);
	seen = map_region(&geometry, self->fd[1], EVERING_REGION_ARENA_A,
			  PROT_READ);
	ASSERT_NE(MAP_FAILED, own);
	ASSERT_NE(MAP_FAILED, seen);
	for (n = 4; n<256; n = n * 3 / 2> 256 ? 256 : n * 3 / 2) {
		EXPECT_EQ(0, fault_of(own + (n - 1) * PAGE, true));
		EXPECT_EQ(0, fault_of(seen + (n - 1) * PAGE, false));
		EXPECT_EQ(SIGBUS, fault_of(own + n * PAGE, true));
		EXPECT_EQ(SIGBUS, fault_of(own + ARENA - 1, false));
		EXPECT_EQ(SIGBUS, fault_of(seen + n * PAGE, false));
		ASSERT_EQ(0,
			  dev_grow(self->fd[0],
				   (n * 3 / 2 > 256 ? 256 : n * 3 / 2) * PAGE));
		for (i = n * PAGE; i < (n + 1) * PAGE; i++)
			ASSERT_EQ(0, seen[i]);
		own[n * PAGE] = (unsigned char)n;
		EXPECT_EQ((unsigned char)n, seen[n * PAGE]);
	}
}

TEST_F(dev_grow, the_payer_pays_for_it)
{
	unsigned long long before = shown(self->fd[0], "bytes", 0);

	ASSERT_EQ(0, dev_grow(self->fd[1], 10 * PAGE));
	EXPECT_EQ(before + 10 * PAGE, shown(self->fd[0], "bytes", 0));
	ASSERT_EQ(0, dev_grow(self->fd[1], 10 * PAGE));
	EXPECT_EQ(before + 10 * PAGE, shown(self->fd[0], "bytes", 0));
}

#define USER_MIB "/sys/module/evering/parameters/max_user_mib"
#define USER 61017

struct payer {
	int dev;
	int status;
};

static int is_refused(void *arg)
{
	struct payer *p = arg;
	const struct evering_status *status;
	uint64_t there, more;
	int fd[2], other[2];

	drop_resource();
	if (setgroups(0, NULL) || setresgid(USER, USER, USER) ||
	    setresuid(USER, USER, USER))
		return 90;
	if (make(p->dev, 0, 0, fd) || make(p->dev, 0, 0, other))
		return 1;
	status = map_region(&geometry, fd[0], EVERING_REGION_STATUS, PROT_READ);
	/* Of 1 MiB the user has a bit less than that left. */
	if (dev_grow(fd[0], ARENA) != -EDQUOT || status->arena_there[0])
		return 2;
	for (there = 0; there < ARENA; there += PAGE)
		if (dev_grow(fd[0], there + PAGE))
			break;
	if (there < ARENA - 16 * PAGE || there >= ARENA)
		return 3;
	if (status->arena_there[0] != there)
		return 4;
	/* Either end is refused, and who shares the purse. */
	if (dev_grow(fd[1], PAGE) != -EDQUOT ||
	    dev_grow(other[0], PAGE) != -EDQUOT)
		return 5;
	/* What is over is no longer paid for. */
	munmap((void *)(uintptr_t)status, PAGE);
	close(fd[0]);
	close(fd[1]);
	more = there;
	return dev_grow(other[0], more) ? 6 : 0;
}

TEST_F(dev_grow, a_quota_refuses_it_and_nothing_has_changed)
{
	struct payer p = { .dev = self->dev };
	int i;

	REQUIRE_ROOT();
	if (write_text(USER_MIB, "1"))
		SKIP(return, "the quota cannot be set");
	/* Again and again only if all is given back. */
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, reap(spawn(is_refused, &p)));
	write_text(USER_MIB, "0");
}

/* The two ends, and two threads of one, at once. */
struct grower {
	pthread_t t;
	int fd;
	int wrong;
};

static void *grower_main(void *arg)
{
	struct grower *g = arg;
	uint64_t there;
	int ret;

	for (there = PAGE; there <= ARENA; there += PAGE) {
		do
			ret = dev_grow(g->fd, there);
		while (ret == -EBUSY);
		g->wrong += ret != 0;
	}
	return NULL;
}

TEST_F(dev_grow, all_at_once)
{
	unsigned long long bytes = shown(self->fd[0], "bytes", 0);
	struct grower g[4];
	int i;

	for (i = 0; i < 4; i++) {
		g[i] = (struct grower){ .fd = self->fd[i & 1] };
		ASSERT_EQ(0, pthread_create(&g[i].t, NULL, grower_main, &g[i]));
	}
	for (i = 0; i < 4; i++) {
		pthread_join(g[i].t, NULL);
		EXPECT_EQ(0, g[i].wrong);
	}
	EXPECT_EQ(ARENA, self->status->arena_there[0]);
	EXPECT_EQ(ARENA, self->status->arena_there[1]);
	EXPECT_EQ(bytes + (2 * 256 - 4) * PAGE, shown(self->fd[0], "bytes", 0));
}

/*
 * A channel that its payer's need takes away, but not while somebody grows it: of 40 MiB
 * it has 32, and another one wants 16.
 */
#define LARGE (32 * MIB)

struct orphan {
	int fd;
	uint32_t done;
	int ret;
};

static void *grows_orphan(void *arg)
{
	struct orphan *o = arg;

	o->ret = dev_grow(o->fd, LARGE);
	__atomic_store_n(&o->done, 1, __ATOMIC_RELEASE);
	return NULL;
}

static int make_large(int dev, uint64_t begin, int fd[2])
{
	struct evering_create c = {
		.size = sizeof(c),
		.flags = EVERING_CREATE_GROW,
		.geometry = geometry,
		.arena_begin = { begin, 0 },
	};
	int ret;

	c.geometry.arena_size[0] = LARGE;
	ret = dev_ioctl(dev, EVERING_IOC_CREATE, &c);
	fd[0] = ret ? -1 : c.fd[0];
	fd[1] = ret ? -1 : c.fd[1];
	return ret;
}

/* 0; 1: it was over before the other one came; else what was wrong. */
static int orphan_once(int dev)
{
	struct orphan o = { 0 };
	int fd[2], more[2], ret;
	uint32_t done;
	pthread_t t;

	if (make_large(dev, 0, fd))
		return 3;
	close(fd[1]);
	o.fd = fd[0];
	if (pthread_create(&t, NULL, grows_orphan, &o))
		return 4;
	while (shown(fd[0], "bytes", 0) < LARGE &&
	       !__atomic_load_n(&o.done, __ATOMIC_ACQUIRE))
		;
	ret = make_large(dev, 16 * MIB, more);
	done = __atomic_load_n(&o.done, __ATOMIC_ACQUIRE);
	pthread_join(t, NULL);
	if (!ret) {
		close(more[0]);
		close(more[1]);
	}
	if (!done && (ret != -EDQUOT || o.ret))
		return 5;
	/* Now it is one again, and goes. */
	if (ret && (make_large(dev, 16 * MIB, more) ||
		    dev_grow(fd[0], LARGE) != -ESTALE))
		return 6;
	if (ret) {
		close(more[0]);
		close(more[1]);
	}
	close(fd[0]);
	return done;
}

static int orphans(void *arg)
{
	int ret = 1, i;

	drop_resource();
	if (setgroups(0, NULL) || setresgid(USER, USER, USER) ||
	    setresuid(USER, USER, USER))
		return 90;
	for (i = 0; i < 100 && ret == 1; i++)
		ret = orphan_once(*(int *)arg);
	return ret;
}

TEST_F(dev_grow, an_orphan_that_grows)
{
	int ret;

	REQUIRE_ROOT();
	if (write_text(USER_MIB, "40"))
		SKIP(return, "the quota cannot be set");
	ret = reap(spawn(orphans, &self->dev));
	write_text(USER_MIB, "0");
	if (ret == 1)
		SKIP(return, "it was never seen growing");
	EXPECT_EQ(0, ret);
}

TEST_F(dev_grow, who_is_killed_leaves_a_channel_that_can_go)
{
	int i, fd[2];
	pid_t pid;

	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, make(self->dev, 0, 0, fd));
		pid = fork();
		if (!pid)
			for (;;) {
				dev_grow(fd[0], ARENA);
				dev_grow(fd[1], ARENA);
			}
		sleep_ns(i * 20 * USEC);
		kill_and_reap(pid);
		EXPECT_EQ(0, dev_grow(fd[0], ARENA));
		close(fd[0]);
		close(fd[1]);
	}
}

TEST_HARNESS_MAIN
