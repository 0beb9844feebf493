// SPDX-License-Identifier: MIT
/*
 * memory.c: large channels where memory is short, locked, or had only between one signal
 * and the next.  Who asks for too much is told so, and nobody is killed for it.
 */
#include "cgroup.h"
#include "stranger.h"

#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define MIB ((uint64_t)1 << 20)

FIXTURE(memory)
{
	struct evering_params p;
	char top[128], group[160];
};

BACKEND_VARIANTS(memory);

#define LIMIT "50331648"

FIXTURE_SETUP(memory)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 4096);
	self->p.arena_begin = EVERING_WHOLE;
}

FIXTURE_TEARDOWN(memory)
{
	EXPECT_TRUE(groups_removed(self->top, self->group));
}

/* -------------------------------------------------------------- memory cgroups */

/**
 * struct member - a process in the group
 * @sock: to meet over
 * @size: bytes of arena that it is to have
 */
struct member {
	const char *group;
	struct evering_params p;
	int sock;
};

static int join_group(const struct member *m)
{
	return group_joined(m->group);
}

static int pairs(void *arg)
{
	struct member *m = arg;
	struct evering *ev[2];
	int ret;

	if (join_group(m))
		return 90;
	m->p.arena_size[0] = 60 * MIB;
	ret = evering_pair(&m->p, ev);
	if (ret != -ENOMEM)
		return 1;
	m->p.arena_size[1] = 60 * MIB;
	m->p.arena_size[0] = PAGE;
	if (evering_pair(&m->p, ev) != -ENOMEM)
		return 2;
	/* Each fits alone. */
	m->p.arena_size[0] = 30 * MIB;
	m->p.arena_size[1] = 30 * MIB;
	if (evering_pair(&m->p, ev) != -ENOMEM)
		return 3;
	m->p.arena_size[0] = 16 * MIB;
	m->p.arena_size[1] = 16 * MIB;
	if (evering_pair(&m->p, ev))
		return 4;
	memset(evering_arena(ev[0], NULL), 1, 16 * MIB);
	memset(evering_arena(ev[1], NULL), 1, 16 * MIB);
	close_pair(ev);
	return 0;
}

TEST_F(memory, beyond_a_groups_limit_nobody_is_killed)
{
	const char *why = make_groups(LIMIT, self->top, self->group);
	struct member m = { .group = self->group, .p = self->p };

	if (why)
		SKIP(return, "%s", why);
	if (SANITIZED_THREADS)
		SKIP(return, "a sanitizer keeps as much for what is written");
	EXPECT_EQ(0, reap(spawn(pairs, &m)));
}

static int accepts(void *arg)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct member *m = arg;
	struct evering *ev;
	int ret;

	if (join_group(m))
		return 90;
	limits.arena_size[EVERING_MINE] = 64 * MIB;
	limits.arena_begin = EVERING_WHOLE;
	ret = evering_accept_fd(m->sock, &limits, PLENTY, &ev);
	return ret == -ENOMEM ? 0 : ret ? 1 : 2;
}

static int connects(void *arg)
{
	struct member *m = arg;
	struct evering *ev;
	int ret;

	if (join_group(m))
		return 90;
	m->p.arena_size[EVERING_MINE] = 60 * MIB;
	m->p.arena_size[EVERING_PEERS] = PAGE;
	ret = evering_connect_fd(m->sock, &m->p, PLENTY, &ev);
	return ret == -ENOMEM ? 0 : ret ? 1 : 2;
}

TEST_F(memory, a_clients_wish_kills_no_server)
{
	const char *why = make_groups(LIMIT, self->top, self->group);
	struct member m = { .group = self->group, .p = self->p };
	struct evering *ev;
	int sv[2];
	pid_t pid;

	if (why)
		SKIP(return, "%s", why);
	if (variant->backend == EVERING_BACKEND_DEVICE)
		SKIP(return, "the client pays for all of it");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	m.sock = sv[1];
	pid = spawn(accepts, &m);
	self->p.arena_size[EVERING_PEERS] = 60 * MIB;
	EXPECT_EQ(-ENOMEM, evering_connect_fd(sv[0], &self->p, PLENTY, &ev));
	EXPECT_EQ(0, reap(pid));
	close(sv[0]);
	close(sv[1]);
}

TEST_F(memory, nor_does_his_own_a_client)
{
	const char *why = make_groups(LIMIT, self->top, self->group);
	struct member m = { .group = self->group, .p = self->p };
	int sv[2];

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	m.sock = sv[1];
	EXPECT_EQ(0, reap(spawn(connects, &m)));
	close(sv[0]);
	close(sv[1]);
}

/* More pairs than there is memory for, with their tables, but for who is killed. */
#define MANY 1500

/* Each is too small to be asked about. */
static int many_pairs(void *arg)
{
	static struct evering *ev[MANY][2];
	struct rlimit fds;
	struct evering_ops *ops;
	struct member *m = arg;
	int i, n, ret = 0;

	if (join_group(m))
		return 90;
	if (getrlimit(RLIMIT_NOFILE, &fds))
		return 91;
	fds.rlim_cur = fds.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &fds))
		return 91;
	m->p.arena_size[0] = m->p.arena_size[1] = 0;
	for (n = 0; n < MANY && !ret; n++) {
		ret = evering_pair(&m->p, ev[n]);
		for (i = 0; i < 2 && !ret; i++)
			ret = evering_ops_open(ev[n][i], NULL, &ops);
	}
	printf("# entries %u: pair %d: %s\n", m->p.entries, n, strerror(-ret));
	if (ret != -ENOMEM)
		return ret == -EMFILE ? 91 : 1;
	/* The last one is there if it was its table that there was no memory for. */
	for (i = 0; i < n; i++)
		close_pair(ev[i]);
	return evering_pair(&m->p, ev[0]) ? 2 : 0;
}

TEST_F(memory, that_is_full_of_little_kills_nobody)
{
	const char *why = make_groups(LIMIT, self->top, self->group);
	static const uint32_t entries[] = { 256, 1024, 2048 };
	struct member m = { .group = self->group, .p = self->p };
	size_t i;
	int ret;

	if (why)
		SKIP(return, "%s", why);
	if (variant->backend == EVERING_BACKEND_DEVICE)
		SKIP(return, "the module has quotas, and is told no");
	if (SANITIZED)
		SKIP(return, "a sanitizer's own memory is not asked about");
	for (i = 0; i < ARRAY_SIZE(entries); i++) {
		m.p.entries = entries[i];
		ret = reap_within(spawn(many_pairs, &m), 3 * PLENTY);
		if (ret == 91)
			SKIP(return, "it takes many descriptors");
		EXPECT_EQ(0, ret)
		{
			TH_LOG("%u entries", entries[i]);
		}
	}
}

/* What the kernel gives back when it is asked for more is as good as free. */
static int caches(void *arg)
{
	char path[] = "/tmp/evering-memory-XXXXXX";
	static char page[65536];
	struct member *m = arg;
	struct evering *ev[2];
	struct statfs fs;
	int fd, i, ret;

	if (join_group(m))
		return 90;
	fd = mkstemp(path);
	if (fd < 0)
		return 91;
	unlink(path);
	if (fstatfs(fd, &fs) || (uint32_t)fs.f_type == TMPFS_MAGIC ||
	    (uint32_t)fs.f_type == RAMFS_MAGIC)
		return 92;
	memset(page, 5, sizeof(page));
	for (i = 0; i < 44 * 16; i++)
		if (write(fd, page, sizeof(page)) != sizeof(page))
			return 91;
	if (fsync(fd))
		return 91;
	m->p.arena_size[0] = 20 * MIB;
	ret = evering_pair(&m->p, ev);
	if (ret)
		return 1;
	close_pair(ev);
	return 0;
}

TEST_F(memory, page_cache_is_as_good_as_free)
{
	const char *why = make_groups(LIMIT, self->top, self->group);
	struct member m = { .group = self->group, .p = self->p };
	int ret;

	if (why)
		SKIP(return, "%s", why);
	ret = reap_within(spawn(caches, &m), 3 * PLENTY);
	if (ret == 91)
		SKIP(return, "no file can be written in /tmp");
	if (ret == 92)
		SKIP(return, "/tmp is memory itself");
	EXPECT_EQ(0, ret);
}

/* ------------------------------------------------------------ periodic signals */

static volatile sig_atomic_t ticks;

static void on_tick(int sig)
{
	(void)sig;
	ticks++;
}

/* kB that a process could have; -1 if nobody says. */
static long available_kb(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	long kb = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

static void tick_every(int us)
{
	struct sigaction sa = { .sa_handler = on_tick };
	struct itimerval every = { { 0, us }, { 0, us } };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

static const int periods[] = { 1000, 10000 };

TEST_F(memory, signals_do_not_keep_it_from_being_had)
{
	uint64_t size = (in_guest() || short_run() ? 64 : 256) * MIB;
	struct evering *ev[2];
	unsigned int i;
	int ret;

	if (available_kb() < (long)(3 * size / 1024))
		SKIP(return, "there is too little memory");
	/* A tick that takes longer than its period leaves no time for anything. */
	for (i = slow(1) > 1 ? 1 : 0; i < ARRAY_SIZE(periods); i++) {
		self->p.arena_size[0] = size;
		self->p.arena_size[1] = PAGE;
		tick_every(periods[i]);
		ret = evering_pair(&self->p, ev);
		tick_every(0);
		EXPECT_EQ(0, ret)
		{
			TH_LOG("a tick every %d us", periods[i]);
		}
		if (!ret)
			close_pair(ev);
	}
}

TEST_F(memory, nor_past_the_deadline)
{
	uint64_t size = (in_guest() || short_run() ? 64 : 256) * MIB;
	struct evering *ev;
	unsigned int i, k;
	int64_t took;
	int sv[2], ret;

	if (available_kb() < (long)(3 * size / 1024))
		SKIP(return, "there is too little memory");
	for (i = 0; i < ARRAY_SIZE(periods); i++) {
		for (k = 0; k < 2; k++) {
			ASSERT_EQ(0, socketpair(AF_UNIX,
						SOCK_SEQPACKET | SOCK_CLOEXEC,
						0, sv));
			self->p.arena_size[0] = size;
			tick_every(periods[i]);
			took = now_ns();
			ret = evering_connect_fd(sv[0], &self->p,
						 k ? MSEC : 30 * MSEC, &ev);
			took = now_ns() - took;
			tick_every(0);
			/* It may have been had, and then nobody answered. */
			EXPECT_TRUE(ret == -ETIMEDOUT || ret == -EINTR);
			EXPECT_GT(slow(3 * SEC), took);
			close(sv[0]);
			close(sv[1]);
		}
	}
}

/* ------------------------------------------------------------------- mlockall */

TEST_F(memory, books_that_are_locked_are_small)
{
	struct evering_ops *ops[2];
	struct evering *ev[2];
	long before, books;
	int i;

	if (SANITIZED)
		SKIP(return, "a sanitizer's memory is too much to lock");
	if (available_kb() < 512 * 1024)
		SKIP(return, "there is too little memory");
	self->p.entries = 256;
	self->p.arena_size[0] = self->p.arena_size[1] = 64 * MIB;
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		SKIP(return, "not as much may be locked");
	before = status_kb("RssAnon:");
	if (before < 0)
		SKIP(return, "no /proc/self/status that says it");
	ASSERT_EQ(0, evering_pair(&self->p, ev));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, evering_ops_open(ev[i], NULL, &ops[i]));
	books = status_kb("RssAnon:") - before;
	printf("# books of two arenas of 64 MiB and two tables: %ld KiB\n",
	       books);
	EXPECT_GT(1024, books);
	close_pair(ev);
	munlockall();
}

TEST_HARNESS_MAIN
