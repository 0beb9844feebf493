// SPDX-License-Identifier: MIT
/*
 * dev_unload.c: taking evering.ko out of the kernel.  Refused as long as
 * anybody holds anything of it, whatever that is; possible as soon as nobody
 * does; a hundred times in a row.  It is put back as it was.  So it is with modules that
 * have ports, which go whoever has a channel to them.
 *
 * EVERING_MODULE says where evering.ko is, if not where tools/check/vm puts it.  Modules that have
 * ports are taken out first, and not put back.
 */
#include "../device/dev.h"
#include "peer.h"

#include <linux/evering_net.h>
#include <net/if.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define NAME	"evering"
#define ROUNDS	100

static char parameters[512];

static int load(void)
{
	return module_load(NAME, parameters);
}

static int unload(void)
{
	return module_unload(NAME);
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
	EVENTUALLY(module_unload("evering_echo") != -EAGAIN);
	EVENTUALLY(module_unload("evnet") != -EAGAIN);
	fd = module_file(NAME);
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
	struct uring u = { .fd = -1 };
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

/* ------------------------------------------------- modules that have ports */

static const char *const consumers[] = { "evering_echo", "evnet" };

/* Either is loaded, or there is nothing to test. */
#define REQUIRE_CONSUMERS()                                            \
	do {                                                           \
		for (size_t i_ = 0; i_ < ARRAY_SIZE(consumers); i_++)  \
			if (module_load(consumers[i_], ""))            \
				SKIP(return, "no modules with ports"); \
	} while (0)

TEST_F(module, one_with_ports_holds_it)
{
	size_t i;

	close(self->dev);
	REQUIRE_CONSUMERS();
	for (i = 0; i < ARRAY_SIZE(consumers); i++) {
		EXPECT_IN_USE();
		EXPECT_EQ(0, module_unload(consumers[i]));
	}
	EXPECT_UNLOADS();
}

/* One that has ports is held by its open device, and not by a channel, which ends with it. */
TEST_F(module, a_channel_does_not_hold_one_with_ports)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_DEVICE, 64, 16, 4096);
	struct evering *ev;
	uint32_t n = 1;
	int device;

	close(self->dev);
	REQUIRE_CONSUMERS();
	device = open("/dev/evering_echo", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, device);
	EXPECT_EQ(-EAGAIN, module_unload("evering_echo"));
	close(device);
	ASSERT_EQ(0, echo_open(&p, 0, 0, &ev));
	ASSERT_EQ(0, evering_send(ev, &n, sizeof(n), PLENTY));
	EXPECT_EQ(0, module_unload("evering_echo"));
	/* What was sent is received first. */
	EXPECT_EQ(0, evering_recv(ev, &n, sizeof(n), PLENTY));
	EXPECT_EQ(-EPIPE, evering_recv(ev, &n, sizeof(n), PLENTY));
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(ev));
	EXPECT_EQ(0, module_unload("evnet"));
	EXPECT_IN_USE();
	evering_close(ev);
	EXPECT_UNLOADS();
}

struct user {
	int kind; /* with a thread of the module's, if odd; an interface, if more than 1 */
	uint32_t *done;
};

#define USERS 4

static int net_open(uint32_t spin_us, struct evering **ev)
{
	struct evering_net_create arg = { .size = sizeof(arg),
					  .spin_us = spin_us };
	struct evering_params params = EVERING_LIMITS_INIT;
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int device = open("/dev/evnet", O_RDWR | O_CLOEXEC);
	struct ifreq ifr = { .ifr_flags = IFF_UP };
	int ret;

	ret = unshare(CLONE_NEWNET) || ioctl(device, EVERING_IOC_NET, &arg) ?
		      -errno :
		      0;
	close(device);
	if (ret)
		return ret;
	close(control);
	control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	memcpy(ifr.ifr_name, arg.name, sizeof(ifr.ifr_name));
	ret = ioctl(control, SIOCSIFFLAGS, &ifr) ? -errno : 0;
	close(control);
	params.policy = EVERING_BLOCK;
	if (!ret)
		ret = evering_open_fd(arg.fd, &params, ev);
	close(arg.fd);
	return ret;
}

/* As fast as it can, until the module goes. */
static int use_port(void *arg)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_DEVICE, 64, 16, 4096);
	struct evering_net_packet packet = { .len = 60 };
	const struct user *user = arg;
	struct evering *ev;
	uint32_t entry[15] = { 0 };
	int ret;

	if (user->kind < 2) {
		if (echo_open(&p, user->kind & 1 ? EVERING_ECHO_THREAD : 0, 0,
			      &ev))
			return 1;
		do {
			ret = evering_send(ev, entry, sizeof(entry), PLENTY);
			if (!ret)
				ret = evering_recv(ev, entry, sizeof(entry),
						   PLENTY);
			__atomic_add_fetch(user->done, 1, __ATOMIC_RELAXED);
		} while (!ret);
	} else {
		if (net_open(user->kind & 1 ? 50 : 0, &ev))
			return 2;
		packet.place = evering_offset(ev, evering_alloc(ev, 64, 64));
		do {
			ret = evering_send(ev, &packet, sizeof(packet), PLENTY);
			while (!evering_recv(ev, entry, evering_payload(ev),
					     EVERING_NOWAIT))
				;
			__atomic_add_fetch(user->done, 1, __ATOMIC_RELAXED);
		} while (!ret);
	}
	evering_close(ev);
	return ret == -EPIPE ? 0 : 3;
}

static bool all_at_work(const uint32_t *done)
{
	for (int i = 0; i < USERS; i++)
		if (__atomic_load_n(&done[i], __ATOMIC_RELAXED) < 20)
			return false;
	return true;
}

struct victim {
	pid_t pid;
	int64_t when;
};

static int kill_in_time(void *arg)
{
	const struct victim *v = arg;

	sleep_ns(v->when);
	kill(v->pid, SIGKILL);
	return 0;
}

/*
 * The modules are taken out in every order, while four processes send, of which one is killed
 * at any time: evering.ko not before the others, and those at once.  For a kernel that takes
 * its time, see above.
 */
TEST_F_TIMEOUT(module, in_every_order_under_load, 120)
{
	static const uint8_t orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 },
					      { 1, 0, 2 }, { 1, 2, 0 },
					      { 2, 0, 1 }, { 2, 1, 0 } };
	uint64_t rng = random_seed(), first;
	int64_t end = now_ns() + 10 * SEC;
	struct user user[USERS];
	struct victim victim;
	int i, k, ret, dead, gone;
	pid_t pid[USERS], killer;
	uint32_t *done;

	close(self->dev);
	done = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)done);
	first = random_below(&rng, 6);
	for (i = 0; i < 12 && (i < 2 || now_ns() < end); i++) {
		const uint8_t *order = orders[(first + (uint64_t)i) % 6];

		REQUIRE_CONSUMERS();
		memset(done, 0, PAGE);
		for (k = 0; k < USERS; k++) {
			user[k] = (struct user){ k, &done[k] };
			pid[k] = spawn(use_port, &user[k]);
		}
		ASSERT_TRUE(EVENTUALLY(all_at_work(done)));
		dead = (int)random_below(&rng, USERS);
		victim = (struct victim){ pid[dead], (int64_t)random_below(
							     &rng, 40 * MSEC) };
		killer = spawn(kill_in_time, &victim);
		for (k = 0, gone = 0; k < 3; k++) {
			/* The last one is for after its users have gone. */
			if (order[k] == 2) {
				if (gone < 2)
					EXPECT_IN_USE();
				continue;
			}
			ret = module_unload(consumers[order[k]]);
			EXPECT_EQ(0, ret)
			{
				TH_LOG("%s", consumers[order[k]]);
			}
			gone++;
		}
		EXPECT_EQ(0, reap(killer));
		for (k = 0; k < USERS; k++) {
			ret = reap(pid[k]);
			EXPECT_TRUE(!ret || (k == dead && ret == 128 + SIGKILL))
			{
				TH_LOG("user %d ended with %d", k, ret);
			}
		}
		EXPECT_EQ(0, unload_soon());
		ASSERT_EQ(0, load());
	}
	TH_LOG("%d times", i);
	munmap(done, PAGE);
}

TEST_HARNESS_MAIN
