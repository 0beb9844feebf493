// SPDX-License-Identifier: MIT
/*
 * dev_failnth.c: every allocation and every copy that the kernel makes on the
 * way from CREATE to the last close fails once, the first, the second and so
 * on, until a run meets no failure.  Whatever call that was ends in success or
 * in a clean errno, later ones work, and nothing is leaked: not a descriptor,
 * not a channel of the quota.  (Memory itself is kmemleak's to watch.)
 *
 * The failures are those of /proc/thread-self/fail-nth, which kernels for
 * debugging have; see Documentation/fault-injection/fault-injection.rst.
 */
#include "dev.h"
#include "module.h"

/* A kernel tree may have the driver without the modules that use it. */
#if __has_include("linux/evering_echo.h") && \
		  __has_include("linux/evering_net.h")
#include <linux/evering_echo.h>
#include <linux/evering_net.h>
#include <linux/evering_op.h>
#define AT_MODULES
#endif

#define DEBUGFS "/sys/kernel/debug"
#define LIMIT_FILE "/sys/module/evering/parameters/max_user_channels"
#define MOST 5000 /* injection points there cannot be */

/*
 * The kernel leaves allocations that may wait alone unless told otherwise, and
 * tells the log about each failure, where it would look like trouble.
 */
static const struct {
	const char *path, *value;
} settings[] = {
	{ DEBUGFS "/failslab/ignore-gfp-wait", "N" },
	{ DEBUGFS "/failslab/verbose", "0" },
	{ DEBUGFS "/fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUGFS "/fail_page_alloc/ignore-gfp-highmem", "N" },
	{ DEBUGFS "/fail_page_alloc/min-order", "0" },
	{ DEBUGFS "/fail_page_alloc/verbose", "0" },
	{ DEBUGFS "/fail_usercopy/verbose", "0" },
	{ DEBUGFS "/fail_futex/verbose", "0" },
};

FIXTURE(fail_nth)
{
	int dev;
	int ctl; /* fail-nth of this thread */
	char old[ARRAY_SIZE(settings)][16];
	unsigned int limit;
	int efd;
	int epoll;
	int module; /* the device of one that has ports */
	int fds;
	int next;
	char failed[160]; /* the first call that did, and with what */
};

FIXTURE_SETUP(fail_nth)
{
	size_t i;
	FILE *f;

	REQUIRE_DEVICE(self->dev);
	REQUIRE_ROOT();
	drop_resource(); /* with which no quota would tell of a leak */
	self->ctl = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (self->ctl < 0)
		SKIP(return, "no fail-nth: not a kernel for debugging");
	f = fopen(LIMIT_FILE, "re");
	ASSERT_NE(NULL, f);
	ASSERT_EQ(1, fscanf(f, "%u", &self->limit));
	fclose(f);
	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		f = fopen(settings[i].path, "re");
		if (!f || fscanf(f, "%15s", self->old[i]) != 1 ||
		    write_text(settings[i].path, settings[i].value))
			TH_LOG("cannot set %s", settings[i].path);
		if (f)
			fclose(f);
	}
	self->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	self->epoll = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_GE(self->efd, 0);
	ASSERT_GE(self->epoll, 0);
	self->fds = count_fds();
	self->next = next_fd();
}

FIXTURE_TEARDOWN(fail_nth)
{
	char text[16];
	size_t i;

	snprintf(text, sizeof(text), "%u", self->limit);
	write_text(LIMIT_FILE, text);
	for (i = 0; i < ARRAY_SIZE(settings); i++)
		if (self->old[i][0])
			write_text(settings[i].path, self->old[i]);
	/* Others count who holds evering.ko. */
	if (self->module > 0) {
		close(self->module);
		EVENTUALLY(module_unload("evering_echo") != -EAGAIN);
		EVENTUALLY(module_unload("evnet") != -EAGAIN);
	}
}

typedef FIXTURE_DATA(fail_nth) nth_data;

/* The nth opportunity from now is to fail; 0: none. */
static bool inject(nth_data *self, int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	return pwrite(self->ctl, text, (size_t)len, 0) == len;
}

/*
 * How many opportunities are left to pass before one fails; 0: one has failed.
 */
static int left(nth_data *self)
{
	char text[16] = { 0 };

	if (pread(self->ctl, text, sizeof(text) - 1, 0) <= 0)
		return -1;
	return atoi(text);
}

/* What an injected failure may look like from outside. */
static bool is_clean(int ret)
{
	return ret >= 0 || ret == -ENOMEM || ret == -EFAULT;
}

/*
 * Runs one call.  False if it failed; then the run goes no further.  One that
 * fails in another way than an injected failure may is remembered as such.
 */
static bool step(nth_data *self, const char *what, int ret, bool *bad)
{
	if (ret >= 0)
		return true;
	if (!self->failed[0])
		snprintf(self->failed, sizeof(self->failed), "%.100s: %s", what,
			 strerror(-ret));
	if (!is_clean(ret))
		*bad = true;
	return false;
}

#define STEP(what) step(self, #what, (int)(what), &bad)

static int map_all(const struct evering_geometry *g, int fd, int end, void **p)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		if (!region_size(g, region))
			continue;
		p[region] = map_region(g, fd, region,
				       may_write(g, end, region) ?
					       PROT_READ | PROT_WRITE :
					       PROT_READ);
		if (p[region] == MAP_FAILED)
			return -errno;
	}
	return 0;
}

static void unmap_all(const struct evering_geometry *g, void **p)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++)
		if (p[region] != MAP_FAILED)
			munmap(p[region], region_size(g, region));
}

/* Faults every page in without a fault: those would not return an errno. */
static int populate(const struct evering_geometry *g, void **p, int end)
{
	int region;

	for (region = 0; region < EVERING_REGIONS; region++) {
		/* MADV_POPULATE_WRITE or MADV_POPULATE_READ */
		int advice = may_write(g, end, region) ? 23 : 22;
		size_t len = region_size(g, region);

		if (len && madvise(p[region], len, advice))
			return -errno;
	}
	return 0;
}

static int add_to_epoll(int ep, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };

	return (int)or_errno(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

static int read_fdinfo(int fd)
{
	char path[64], text[2048];
	int info, ret;

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return -errno;
	ret = (int)or_errno(read(info, text, sizeof(text)));
	close(info);
	return ret;
}

static int must_time_out(int ret)
{
	return ret == -ETIMEDOUT ? 0 : ret;
}

/*
 * Everything there is to be done with a group; its members are both ends of a channel.
 */
static bool live_in_group(nth_data *self, const struct evering_geometry *g)
{
	struct evering_group_page *page = MAP_FAILED;
	void *half[2] = { MAP_FAILED, MAP_FAILED };
	struct evering_group_ring rings[2] = { { .bells = RX },
					       { .bells = RX | TX } };
	bool bad = false;
	int fd[2], group, i;

	group = dev_group(self->dev, 0);
	if (!STEP(group))
		return !bad;
	if (!STEP(dev_pair(self->dev, g, fd)))
		goto out_group;
	for (i = 0; i < 2; i++) {
		rings[i].fd = fd[i];
		half[i] = map_region(g, fd[i], EVERING_REGION_HALF(i),
				     PROT_READ | PROT_WRITE);
		if (!STEP(half[i] == MAP_FAILED ? -errno : 0) ||
		    !STEP(dev_attach(fd[i])))
			goto out;
	}
	page = map_group(group);
	if (!STEP(page == MAP_FAILED ? -errno : 0) ||
	    !STEP(or_errno(madvise(page, PAGE, 23))) || /* as populate() */
	    !STEP(dev_add(group, fd[1], 100)) ||
	    !STEP(add_to_epoll(self->epoll, group)) ||
	    !STEP(dev_group_enter(group, 0, rings, 2, 1, 0)) ||
	    !STEP(dev_ring(group, 7)) || !STEP(poll_now(group, POLLIN)) ||
	    !STEP(read_fdinfo(group)) || !STEP(dev_remove(group, fd[1])))
		goto out;
	STEP(dev_add(group, fd[0], 5)); /* and is when the group goes */
out:
	if (page != MAP_FAILED)
		munmap(page, PAGE);
out_group:
	close(group);
	for (i = 0; i < 2; i++)
		if (half[i] != MAP_FAILED)
			munmap(half[i], half_size(g));
	for (i = 0; i < 2; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	return !bad;
}

/*
 * Everything there is to be done with a channel.  False if a call went wrong.
 */
static bool live(nth_data *self, const struct evering_geometry *g)
{
	void *a[EVERING_REGIONS], *b[EVERING_REGIONS];
	struct evering_peer_cred cred;
	struct evering_create create;
	struct evering_info info;
	struct evering_half *half;
	bool bad = false;
	int fd[2], i;

	for (i = 0; i < EVERING_REGIONS; i++)
		a[i] = b[i] = MAP_FAILED;
	if (!STEP(dev_info(self->dev, &info)) ||
	    !STEP(dev_create(self->dev, EVERING_CREATE_GROW, g, &create)))
		return !bad;
	memcpy(fd, create.fd, sizeof(fd));
	if (!STEP(dev_grow(fd[0], g->arena_size[0] / 2 / PAGE * PAGE)) ||
	    !STEP(dev_grow(fd[0], g->arena_size[0])) ||
	    !STEP(dev_grow(fd[1], g->arena_size[1])))
		goto out;
	if (!STEP(map_all(g, fd[0], EVERING_A, a)) ||
	    !STEP(map_all(g, fd[1], EVERING_B, b)) ||
	    !STEP(populate(g, a, EVERING_A)) ||
	    !STEP(populate(g, b, EVERING_B)) || !STEP(dev_attach(fd[1])) ||
	    !STEP(dev_peer_cred(fd[0], &cred)) ||
	    !STEP(dev_set_eventfd(fd[1], self->efd)) ||
	    !STEP(add_to_epoll(self->epoll, fd[1])))
		goto out;
	half = b[EVERING_REGION_HALF_B];
	arm(half, RX | TX);
	if (!STEP(dev_ring(fd[0], RX)) || !STEP(dev_enter(fd[0], TX, RX, 0)) ||
	    !STEP(poll_now(fd[1], POLLIN)) || !STEP(read_fdinfo(fd[0])))
		goto out;
	arm(half, RX);
	if (!STEP(must_time_out(dev_enter(fd[1], RX, RX,
					  (uint64_t)now_ns() + 10 * USEC))) ||
	    !STEP(or_errno(madvise(a[EVERING_REGION_ARENA_A], g->arena_size[0],
				   MADV_DONTNEED))) ||
	    !STEP(populate(g, a, EVERING_A)))
		goto out;
	STEP(dev_set_eventfd(fd[1], -1));
out:
	unmap_all(g, a);
	unmap_all(g, b);
	close(fd[0]);
	close(fd[1]);
	return !bad;
}

#ifdef AT_MODULES
/* A process's end of a channel to a module: an entry that it takes, and all there is to call. */
static bool live_at_port(nth_data *self, const struct evering_geometry *g,
			 int fd, const void *entry, size_t len)
{
	void *half = MAP_FAILED, *arena = MAP_FAILED;
	bool bad = false;

	half = map_region(g, fd, EVERING_REGION_HALF_B, PROT_READ | PROT_WRITE);
	if (!STEP(half == MAP_FAILED ? -errno : 0) ||
	    !STEP(or_errno(
		    madvise(half, half_size(g), 23))) || /* as populate() */
	    !STEP(dev_grow(fd, g->arena_size[EVERING_B])))
		goto out;
	arena = map_region(g, fd, EVERING_REGION_ARENA_B,
			   PROT_READ | PROT_WRITE);
	if (!STEP(arena == MAP_FAILED ? -errno : 0) || !STEP(dev_attach(fd)) ||
	    !STEP(dev_set_eventfd(fd, self->efd)) ||
	    !STEP(add_to_epoll(self->epoll, fd)))
		goto out;
	memcpy((char *)half + EVERING_SLOTS_OFFSET, entry, len);
	__atomic_store_n((uint32_t *)((char *)half + EVERING_SLOTS_OFFSET +
				      g->slot_size - EVERING_STAMP_SIZE),
			 1, __ATOMIC_RELEASE);
	if (!STEP(dev_ring(fd, RX)) || !STEP(poll_now(fd, POLLIN)) ||
	    !STEP(read_fdinfo(fd)))
		goto out;
	STEP(must_time_out(
		dev_enter(fd, 0, RX, (uint64_t)now_ns() + 10 * USEC)));
out:
	if (half != MAP_FAILED)
		munmap(half, half_size(g));
	if (arena != MAP_FAILED)
		munmap(arena, g->arena_size[EVERING_B]);
	close(fd);
	return !bad;
}

static bool live_with_echo(nth_data *self, const struct evering_geometry *g,
			   uint32_t flags)
{
	struct evering_echo arg = { .size = sizeof(arg),
				    .flags = flags,
				    .geometry = *g };
	const struct {
		struct evering_op_header header;
		struct evering_op_open open;
	} hello = {
		{ .type = EVERING_OP_OPEN,
		  .len = sizeof(hello.open),
		  .code = EVERING_OPS_VERSION },
		{ .depth = 2, .serve = 2, .store = 2 },
	};
	bool bad = false;

	if (!STEP(dev_ioctl(self->module, EVERING_IOC_ECHO, &arg)))
		return !bad;
	return live_at_port(self, g, arg.fd, &hello, sizeof(hello));
}

static bool live_with_ringer(nth_data *self, const struct evering_geometry *g)
{
	return live_with_echo(self, g, EVERING_ECHO_OPS);
}

static bool live_with_thread(nth_data *self, const struct evering_geometry *g)
{
	return live_with_echo(self, g, EVERING_ECHO_THREAD);
}

static bool live_with_interface(nth_data *self,
				const struct evering_geometry *g)
{
	struct evering_net_create arg = {
		.size = sizeof(arg),
		.flags = EVERING_NET_PERSIST,
		.name = "stays",
		.entries = g->entries,
		.arena_size = { g->arena_size[0], g->arena_size[1] },
	};
	const struct evering_net_packet packet = { .place = 0, .len = 2000 };
	bool bad = false;

	if (!STEP(dev_ioctl(self->module, EVERING_IOC_NET, &arg)))
		return !bad;
	return live_at_port(self, g, arg.fd, &packet, sizeof(packet));
}

#endif /* AT_MODULES */

/* 0: one channel and one group of this user's can be had, so that nothing is leaked. */
static int leaked(nth_data *self, const struct evering_geometry *g)
{
	int fd[2], group, ret = dev_pair(self->dev, g, fd);

	if (ret)
		return ret;
	group = dev_group(self->dev, 0);
	if (group >= 0)
		close(group);
	close(fd[0]);
	close(fd[1]);
	return group < 0 ? group : 0;
}

/* What a module has is back when it has seen that the process has gone. */
static void sweep(struct __test_metadata *_metadata, nth_data *self,
		  bool (*life)(nth_data *self,
			       const struct evering_geometry *g),
		  const struct evering_geometry *g)
{
	int64_t end = now_ns() + 500 * SEC;
	bool clean, hit = true;
	int n, ret, failures = 0;

	ASSERT_EQ(0, write_text(LIMIT_FILE, "2"));
	ret = leaked(self, g);
	if (ret == -EDQUOT)
		SKIP(return, "root has channels elsewhere");
	ASSERT_EQ(0, ret);
	/*
	 * Whatever this process touches in a run is there: it must not fault.
	 */
	self->failed[0] = 0;
	ASSERT_TRUE(life(self, g));
	ASSERT_STREQ("", self->failed);
	ASSERT_TRUE(EVENTUALLY(!leaked(self, g)));
	ASSERT_EQ(0, mlockall(MCL_CURRENT));

	for (n = 1; hit && n < MOST && now_ns() < end; n++) {
		self->failed[0] = 0;
		ASSERT_TRUE(inject(self, n));
		clean = life(self, g);
		hit = !left(self);
		/* What the run left over may hit left(), or this. */
		ASSERT_TRUE(inject(self, 0) || inject(self, 0));
		if (self->failed[0])
			failures++;
		EXPECT_TRUE(clean)
		TH_LOG("injection %d: %s", n, self->failed);
		/* A failure that nobody injected. */
		EXPECT_TRUE(hit || !self->failed[0])
		TH_LOG("injection %d: %s", n, self->failed);
		ASSERT_EQ(self->fds, count_fds());
		ASSERT_EQ(self->next, next_fd());
		ASSERT_TRUE(EVENTUALLY(!leaked(self, g)))
		TH_LOG("after injection %d: %s", n, self->failed);
	}
	TH_LOG("%d injections, %d calls that failed", n - 2, failures);
	EXPECT_FALSE(hit);
	EXPECT_GE(failures, 10);
	munlockall();
}

TEST_F_TIMEOUT(fail_nth, every_failure_is_clean, 300)
{
	const struct evering_geometry g = {
		.slot_size = 64,
		.entries = 64,
		.arena_size = { 4 * PAGE, 2 * PAGE },
	};

	sweep(_metadata, self, live, &g);
}

TEST_F_TIMEOUT(fail_nth, every_failure_is_clean_in_a_group, 300)
{
	sweep(_metadata, self, live_in_group, &least_geometry);
}

/* With blocks of several sizes, of which each falls back to a smaller one. */
TEST_F_TIMEOUT(fail_nth, every_failure_is_clean_with_a_large_arena, 300)
{
	const struct evering_geometry g = {
		.slot_size = 16,
		.entries = 4,
		.arena_size = { (2 << 20) + 65536 + PAGE, 0 },
		.flags = EVERING_SHARED_ARENA,
	};

	sweep(_metadata, self, live, &g);
}

/* ----------------------------------------------------------------- at a module */

#ifdef AT_MODULES
/* With an arena of one page, which has no smaller block to fall back to. */
static void sweep_at_module(struct __test_metadata *_metadata, nth_data *self,
			    bool (*life)(nth_data *,
					 const struct evering_geometry *),
			    uint32_t slot_size)
{
	const struct evering_geometry g = {
		.slot_size = slot_size,
		.entries = 4,
		.arena_size = { 2 * PAGE, PAGE },
	};

	sweep(_metadata, self, life, &g);
}

static int open_module(nth_data *self, const char *name, const char *path)
{
	module_load(name, "");
	self->module = open(path, O_RDWR | O_CLOEXEC);
	self->fds = count_fds();
	self->next = next_fd();
	return self->module;
}

TEST_F_TIMEOUT(fail_nth, every_failure_is_clean_at_a_port, 600)
{
	if (open_module(self, "evering_echo", "/dev/evering_echo") < 0)
		SKIP(return, "no /dev/evering_echo");
	sweep_at_module(_metadata, self, live_with_ringer,
			EVERING_OPS_MIN_SLOT);
}

TEST_F_TIMEOUT(fail_nth, every_failure_is_clean_at_a_port_with_a_thread, 600)
{
	if (open_module(self, "evering_echo", "/dev/evering_echo") < 0)
		SKIP(return, "no /dev/evering_echo");
	sweep_at_module(_metadata, self, live_with_thread,
			EVERING_OPS_MIN_SLOT);
}

/*
 * One that is there already, and has no process.  To make one is for the most part the kernel's
 * own register_netdevice(), where failures are not always clean: with DEBUG_KOBJECT_RELEASE
 * the queues' kobjects are still waiting to be released when their memory is freed.
 */
TEST_F_TIMEOUT(fail_nth, every_failure_is_clean_at_an_interface, 600)
{
	if (open_module(self, "evnet", "/dev/evnet") < 0)
		SKIP(return, "no /dev/evnet");
	if (unshare(CLONE_NEWNET))
		SKIP(return, "no network namespace");
	sweep_at_module(_metadata, self, live_with_interface, EVERING_NET_SLOT);
}
#endif /* AT_MODULES */

TEST_HARNESS_MAIN
