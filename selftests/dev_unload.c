// SPDX-License-Identifier: MIT
/*
 * dev_unload.c: taking evering.ko out of the kernel.  Refused as long as
 * anybody holds anything of it, whatever that is; possible as soon as nobody
 * does; a hundred times in a row.  It is put back as it was.
 *
 * EVERING_MODULE says where evering.ko is, if not where tools/vm puts it.
 */
#include "dev.h"

#include <sys/stat.h>
#include <sys/uio.h>

#define NAME	"evering"
#define ROUNDS	100

static char parameters[512];

static int module_file(void)
{
	const char *env = getenv("EVERING_MODULE");
	static const char *const places[] = { "/vm/evering.ko",
					      "/lib/evering.ko", "evering.ko" };
	size_t i;
	int fd;

	if (env)
		return open(env, O_RDONLY | O_CLOEXEC);
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		fd = open(places[i], O_RDONLY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

static int load(void)
{
	int fd = module_file(), ret;

	ret = (int)or_errno(syscall(SYS_finit_module, fd, parameters, 0));
	close(fd);
	return ret;
}

static int unload(void)
{
	return (int)or_errno(syscall(SYS_delete_module, NAME, O_NONBLOCK));
}

/* Who holds the module; -1: nobody says. */
static int holders(void)
{
	FILE *f = fopen("/sys/module/" NAME "/refcnt", "re");
	int n = -1;

	if (f) {
		if (fscanf(f, "%d", &n) != 1)
			n = -1;
		fclose(f);
	}
	return n;
}

/* What was in the middle of letting go may need a moment. */
static int unload_soon(void)
{
	int ret = -EAGAIN;

	EVENTUALLY((ret = unload()) != -EAGAIN);
	return ret;
}

/* "name=value name=value ...", as the module was loaded or set since. */
static void remember_parameters(void)
{
	static const char dir[] = "/sys/module/" NAME "/parameters";
	char path[512], value[64];
	size_t len = 0;
	struct dirent *e;
	FILE *f;
	DIR *d = opendir(dir);

	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fscanf(f, "%63s", value) == 1)
			len += (size_t)snprintf(parameters + len,
						sizeof(parameters) - len,
						"%s=%s ", e->d_name, value);
		fclose(f);
	}
	if (d)
		closedir(d);
}

FIXTURE(module)
{
	int dev;
	bool may;
};

FIXTURE_SETUP(module)
{
	int fd;

	REQUIRE_DEVICE(self->dev);
	REQUIRE_ROOT();
	if (access("/sys/module/" NAME "/refcnt", R_OK))
		SKIP(return, NAME " is no module that can be taken out");
	fd = module_file();
	if (fd < 0)
		SKIP(return, "no evering.ko; EVERING_MODULE says where it is");
	close(fd);
	remember_parameters();
	close(self->dev);
	/* Taking it out to see takes seconds in a kernel that is slow on purpose. */
	if (!EVENTUALLY(!holders()))
		SKIP(return, NAME " is in use");
	self->may = true;
	self->dev = dev_open();
	ASSERT_GE(self->dev, 0);
}

FIXTURE_TEARDOWN(module)
{
	/* Whatever went wrong, others want it. */
	if (self->may && access("/dev/evering", F_OK))
		load();
}

#define EXPECT_IN_USE()		EXPECT_EQ(-EAGAIN, unload())

#define EXPECT_UNLOADS()                                                       \
	do {                                                                   \
		EXPECT_EQ(0, unload_soon());                                   \
		EXPECT_EQ(-ENOENT, dev_open());                                \
		EXPECT_EQ(-ENOENT, unload());                                  \
		EXPECT_EQ(0, load());                                          \
		EXPECT_EQ(0, access("/dev/evering", F_OK));                    \
	} while (0)

TEST_F(module, an_open_device_holds_it)
{
	EXPECT_IN_USE();
	close(self->dev);
	EXPECT_UNLOADS();
}

TEST_F(module, an_endpoint_holds_it)
{
	int fd[2];

	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	close(self->dev);
	EXPECT_IN_USE();
	close(fd[0]);
	EXPECT_IN_USE();
	close(fd[1]);
	EXPECT_UNLOADS();
}

TEST_F(module, a_group_and_its_members_hold_it)
{
	struct evering_group_page *page;
	int fd[2], group;
	struct side a;

	group = dev_group(self->dev, 0);
	ASSERT_GE(group, 0);
	close(self->dev);
	EXPECT_IN_USE();
	page = map_group(group);
	ASSERT_NE(MAP_FAILED, (void *)page);
	close(group);
	EXPECT_IN_USE();
	munmap(page, PAGE);
	EXPECT_UNLOADS();

	/* Which outlives its file in a member of it. */
	self->dev = dev_open();
	group = dev_group(self->dev, 0);
	ASSERT_GE(group, 0);
	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	ASSERT_EQ(0, side_attach(&a, &small_geometry, fd[0], EVERING_A));
	ASSERT_EQ(0, dev_add(group, fd[0], 0));
	close(self->dev);
	close(group);
	close(fd[1]);
	close(fd[0]);
	EXPECT_IN_USE();
	side_unmap(&a);
	EXPECT_UNLOADS();
}

TEST_F(module, a_mapping_holds_it)
{
	int fd[2];
	void *p;

	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	p = map_region(&small_geometry, fd[0], EVERING_REGION_STATUS,
		       PROT_READ);
	ASSERT_NE(MAP_FAILED, p);
	close(self->dev);
	close(fd[0]);
	close(fd[1]);
	EXPECT_IN_USE();
	EXPECT_EQ(0, touch(p, false));
	munmap(p, PAGE);
	EXPECT_UNLOADS();
}

TEST_F(module, an_endpoint_in_flight_holds_it)
{
	int fd[2], sv[2];

	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sv));
	ASSERT_EQ(0, send_fd(sv[0], fd[0]));
	close(self->dev);
	close(fd[0]);
	close(fd[1]);
	EXPECT_IN_USE();
	close(sv[0]);
	close(sv[1]);
	EXPECT_UNLOADS();
}

TEST_F(module, an_io_uring_holds_it)
{
	struct uring u;
	int fd[2];

	REQUIRE_URING(&u);
	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	ASSERT_EQ(0, syscall(__NR_io_uring_register, u.fd,
			     IORING_REGISTER_FILES, &fd[0], 1));
	close(self->dev);
	close(fd[0]);
	close(fd[1]);
	EXPECT_IN_USE();
	uring_close(&u);
	EXPECT_UNLOADS();
}

static int sleep_in_enter(void *arg)
{
	struct side s;
	int fd = *(int *)arg;

	if (side_map(&s, &small_geometry, fd, EVERING_A))
		return 1;
	arm(s.own, RX);
	dev_enter(fd, 0, RX, EVERING_FOREVER);
	return 2;
}

TEST_F(module, a_process_asleep_in_it_holds_it)
{
	int fd[2];
	pid_t pid;

	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	pid = spawn(sleep_in_enter, &fd[0]);
	ASSERT_TRUE(falls_asleep(&pid));
	close(self->dev);
	close(fd[0]);
	close(fd[1]);
	EXPECT_IN_USE();
	kill_and_reap(pid);
	EXPECT_UNLOADS();
}

/* A page that I/O holds is a page, and no longer the module's. */
TEST_F(module, a_page_in_a_pipe_does_not_hold_it)
{
	char buf[16] = { 0 };
	struct iovec iov;
	int fd[2], pipes[2];
	char *p;

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, fd));
	p = map_region(&small_geometry, fd[0], EVERING_REGION_ARENA_A,
		       PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, (void *)p);
	strcpy(p, "left behind");
	iov.iov_base = p;
	iov.iov_len = sizeof(buf);
	ASSERT_EQ(sizeof(buf), vmsplice(pipes[1], &iov, 1, 0));
	munmap(p, 65536);
	close(fd[0]);
	close(fd[1]);
	close(self->dev);
	EXPECT_UNLOADS();
	EXPECT_EQ(sizeof(buf), read(pipes[0], buf, sizeof(buf)));
	EXPECT_STREQ("left behind", buf);
}

static int use(int dev)
{
	struct side a, b;
	int fd[2], efd = eventfd(0, EFD_CLOEXEC), ret;

	ret = dev_pair(dev, &small_geometry, fd);
	if (!ret)
		ret = side_map(&a, &small_geometry, fd[0], EVERING_A);
	if (!ret)
		ret = side_map(&b, &small_geometry, fd[1], EVERING_B);
	if (!ret)
		ret = dev_set_eventfd(fd[1], efd);
	if (ret)
		return ret;
	arm(b.own, RX);
	ret = dev_ring(fd[0], RX) == RX && signals_of(efd) == 1 ? 0 : -EIO;
	side_unmap(&a);
	side_unmap(&b);
	close(fd[0]);
	close(fd[1]);
	close(efd);
	return ret;
}

/*
 * A hundred times; a kernel that takes its time on purpose over each object
 * that goes (DEBUG_KOBJECT_RELEASE: up to four seconds) is let off after 12 seconds, but
 * not before the third.
 */
TEST_F_TIMEOUT(module, over_and_over, 120)
{
	int64_t end = now_ns() + 12 * SEC;
	struct stat st;
	int i;

	close(self->dev);
	for (i = 0; i < ROUNDS && (i < 3 || now_ns() < end); i++) {
		ASSERT_EQ(0, unload_soon());
		ASSERT_EQ(0, load());
		self->dev = dev_open();
		ASSERT_GE(self->dev, 0);
		ASSERT_EQ(0, use(self->dev));
		close(self->dev);
	}
	TH_LOG("%d times", i);
	ASSERT_EQ(0, stat("/dev/evering", &st));
	EXPECT_EQ(0666, st.st_mode & 0777);
}

/* While others open the device, use it and go. */
static int open_and_use(void *arg)
{
	int64_t end = now_ns() + SEC;
	int dev;

	(void)arg;
	while (now_ns() < end) {
		dev = dev_open();
		if (dev < 0)
			continue;
		if (use(dev))
			return 1;
		close(dev);
	}
	return 0;
}

TEST_F(module, while_others_come_and_go)
{
	int64_t end = now_ns() + SEC;
	pid_t pid[2];
	int i, ret, unloads = 0;

	close(self->dev);
	for (i = 0; i < 2; i++)
		pid[i] = spawn(open_and_use, NULL);
	while (now_ns() < end) {
		ret = unload();
		if (ret == -EAGAIN)
			continue;
		ASSERT_EQ(0, ret);
		unloads++;
		ASSERT_EQ(0, load());
	}
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, reap(pid[i]));
	TH_LOG("%d times", unloads);
}

TEST_HARNESS_MAIN
