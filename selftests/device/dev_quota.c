// SPDX-License-Identifier: MIT
/*
 * dev_quota.c: how much shared memory, and how many channels, /dev/evering lets
 * a user have: each limit of the module has its EDQUOT, a memory cgroup its
 * ENOMEM; the creator pays, with the owners of his namespaces, and after him whoever
 * keeps the other end; and whatever way a channel ends or fails to begin, everything is given back.
 *
 * It changes the parameters of the module, so only root can run it.  The users
 * that it plays are nobody else's.
 */
#include "dev.h"

#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define PARAMETERS "/sys/module/evering/parameters/"
#define USER 61001
#define OTHER 61002
#define MIB (1ull << 20)

static const char *const names[] = { "max_channel_mib", "max_user_mib",
				     "max_total_mib", "max_user_channels" };

enum {
	CHANNEL_MIB,
	USER_MIB,
	TOTAL_MIB,
	USER_CHANNELS,
	LIMITS
};

static int set_limit(int limit, unsigned int value)
{
	char path[128], text[16];
	int fd, len, ret;

	snprintf(path, sizeof(path), PARAMETERS "%s", names[limit]);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	len = snprintf(text, sizeof(text), "%u", value);
	ret = write(fd, text, (size_t)len) == len ? 0 : -errno;
	close(fd);
	return ret;
}

static int get_limit(int limit, unsigned int *value)
{
	char path[128];
	int ret = -ENOENT;
	FILE *f;

	snprintf(path, sizeof(path), PARAMETERS "%s", names[limit]);
	f = fopen(path, "re");
	if (f) {
		ret = fscanf(f, "%u", value) == 1 ? 0 : -EIO;
		fclose(f);
	}
	return ret;
}

FIXTURE(quota)
{
	int dev;
	unsigned int before[LIMITS];
	bool known;
};

FIXTURE_SETUP(quota)
{
	int i;

	REQUIRE_DEVICE(self->dev);
	REQUIRE_ROOT();
	for (i = 0; i < LIMITS; i++)
		if (get_limit(i, &self->before[i]))
			SKIP(return, "no parameters of the module");
	self->known = true;
}

/* In the parent, which is still root, and there however the test ended. */
FIXTURE_TEARDOWN_PARENT(quota)
{
	int i;

	for (i = 0; self->known && i < LIMITS; i++)
		set_limit(i, self->before[i]);
}

static void become(uid_t uid)
{
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) ||
	    setresuid(uid, uid, uid))
		_exit(90);
}

/* A channel of exactly so many bytes, three pages at least. */
static int create_bytes(int dev, uint64_t bytes, int fd[2])
{
	struct evering_geometry g = least_geometry;

	g.arena_size[0] = bytes - 3 * PAGE;
	return dev_pair(dev, &g, fd);
}

static int create_least(int dev, int fd[2])
{
	return dev_pair(dev, &least_geometry, fd);
}

static void close_both(int fd[2])
{
	close(fd[0]);
	close(fd[1]);
}

struct child {
	int dev;
	uid_t uid;
	int count;
	int expect;
	int sock;
	int how;
};

/*
 * As user @uid: @count channels can be had, and one more gives @expect (0: is
 * not tried).  Returns 0 if so, and their quota is back with its exit.
 */
static int have_exactly(void *arg)
{
	struct child *c = arg;
	int fd[2], i, ret;

	become(c->uid);
	for (i = 0; i < c->count; i++) {
		ret = create_least(c->dev, fd);
		if (ret)
			return 1;
	}
	if (!c->expect)
		return 0;
	return create_least(c->dev, fd) == c->expect ? 0 : 2;
}

/* User @uid, who may have @count channels, has none now. */
#define EXPECT_GIVEN_BACK(_uid, _count)                       \
	do {                                                  \
		struct child _c = { .dev = self->dev,         \
				    .uid = _uid,              \
				    .count = _count,          \
				    .expect = -EDQUOT };      \
		EXPECT_EQ(0, reap(spawn(have_exactly, &_c))); \
	} while (0)

/* ------------------------------------------------------------------- limits */

TEST_F(quota, of_one_channel)
{
	struct evering_info info;
	int fd[2];

	ASSERT_EQ(0, set_limit(CHANNEL_MIB, 1));
	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_EQ(MIB, info.max_channel_bytes);
	EXPECT_EQ(-EDQUOT, create_bytes(self->dev, MIB + PAGE, fd));
	EXPECT_EQ(-EDQUOT, create_bytes(self->dev, 100 * MIB, fd));
	EXPECT_EQ(0, create_bytes(self->dev, MIB, fd));
	EXPECT_EQ(0, create_bytes(self->dev, MIB, fd));
	ASSERT_EQ(0, set_limit(CHANNEL_MIB, 0));
	EXPECT_EQ(-EDQUOT, create_least(self->dev, fd));
}

static int fill_user_quota(void *arg)
{
	struct child *c = arg;
	int one[2], two[2], more[2];

	become(c->uid);
	if (create_bytes(c->dev, MIB, one) || create_bytes(c->dev, MIB, two))
		return 1;
	if (create_least(c->dev, more) != -EDQUOT)
		return 2;
	close_both(one);
	if (create_bytes(c->dev, MIB + PAGE, one) != -EDQUOT)
		return 3;
	if (create_bytes(c->dev, MIB - 3 * PAGE, one) ||
	    create_least(c->dev, more) || create_least(c->dev, more) != -EDQUOT)
		return 4;
	return 0;
}

TEST_F(quota, of_one_user)
{
	struct child c = { .dev = self->dev, .uid = USER };
	struct evering_info info;
	int i;

	ASSERT_EQ(0, set_limit(USER_MIB, 2));
	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_EQ(2 * MIB, info.max_user_bytes);
	/* The second time only if all of the first was given back. */
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, reap(spawn(fill_user_quota, &c)));
}

TEST_F(quota, of_one_user_in_channels)
{
	struct evering_info info;
	int i;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 10));
	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_EQ(10, info.max_user_channels);
	for (i = 0; i < 3; i++)
		EXPECT_GIVEN_BACK(USER, 10);
	ASSERT_EQ(0, set_limit(USER_CHANNELS, 0));
	EXPECT_GIVEN_BACK(USER, 0);
}

static int hold(void *arg)
{
	struct child *c = arg;
	int fd[2];
	int ret;

	become(c->uid);
	ret = create_bytes(c->dev, MIB, fd);
	if (ret != c->expect)
		return 1;
	tell(c->sock);
	await_death();
}

TEST_F(quota, of_the_machine)
{
	struct child c = { .dev = self->dev };
	struct evering_info info;
	int word[2], fd[2], i;
	pid_t pid[3];

	/* Nobody else may hold anything for this. */
	ASSERT_EQ(0, set_limit(TOTAL_MIB, 3));
	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_EQ(3 * MIB, info.max_total_bytes);
	if (create_bytes(self->dev, 3 * MIB, fd))
		SKIP(return, "others have channels");
	close_both(fd);
	ASSERT_EQ(0, pipe2(word, O_CLOEXEC));
	c.sock = word[1];
	for (i = 0; i < 3; i++) {
		c.uid = (uid_t)(USER + i);
		pid[i] = spawn(hold, &c);
		ASSERT_TRUE(told(word[0]));
	}
	/* Three users have it all, and a fourth gets nothing, */
	c.uid = USER + 3;
	c.count = 0;
	c.expect = -EDQUOT;
	EXPECT_EQ(0, reap(spawn(have_exactly, &c)));
	/* but whoever looks after the machine, */
	EXPECT_EQ(0, create_least(self->dev, fd));
	close_both(fd);
	/* which is by a capability, not by name. */
	drop_resource();
	EXPECT_EQ(-EDQUOT, create_least(self->dev, fd));
	kill_and_reap(pid[1]);
	EXPECT_EQ(0, create_bytes(self->dev, MIB, fd));
	EXPECT_EQ(-EDQUOT, create_bytes(self->dev, 3 * PAGE, fd));
	kill_and_reap(pid[0]);
	kill_and_reap(pid[2]);
}

TEST_F(quota, nought_is_a_share_of_memory)
{
	struct evering_info info;
	uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * PAGE;

	ASSERT_EQ(0, set_limit(USER_MIB, 0));
	ASSERT_EQ(0, set_limit(TOTAL_MIB, 0));
	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_LE(info.max_user_bytes, ram / 4);
	EXPECT_GE(info.max_user_bytes, ram / 5);
	EXPECT_LE(info.max_total_bytes, ram / 2);
	EXPECT_GE(info.max_total_bytes, ram / 3);
}

TEST_F(quota, a_limit_below_what_is_held_takes_nothing_away)
{
	struct side a;
	int fd[2], more[2];

	drop_resource();
	ASSERT_EQ(0, create_bytes(self->dev, 2 * MIB, fd));
	ASSERT_EQ(0, set_limit(CHANNEL_MIB, 1));
	ASSERT_EQ(0, set_limit(USER_MIB, 1));
	ASSERT_EQ(0, set_limit(TOTAL_MIB, 1));
	ASSERT_EQ(0, set_limit(USER_CHANNELS, 0));
	ASSERT_EQ(0, side_map(&a, &least_geometry, fd[0], EVERING_A));
	EXPECT_EQ(0, touch(a.own, true));
	EXPECT_EQ(-EDQUOT, create_least(self->dev, more));
	ASSERT_EQ(0, set_limit(USER_CHANNELS, 100));
	EXPECT_EQ(-EDQUOT, create_least(self->dev, more));
	side_unmap(&a);
	close_both(fd);
	EXPECT_EQ(0, create_least(self->dev, more));
}

TEST_F(quota, the_largest_limits_do_not_overflow)
{
	int fd[2], i;

	for (i = 0; i < LIMITS; i++)
		ASSERT_EQ(0, set_limit(i, UINT32_MAX));
	EXPECT_EQ(0, create_bytes(self->dev, MIB, fd));
}

TEST_F(quota, only_root_sets_limits)
{
	struct stat st;
	char path[128];
	int i;

	for (i = 0; i < LIMITS; i++) {
		snprintf(path, sizeof(path), PARAMETERS "%s", names[i]);
		ASSERT_EQ(0, stat(path, &st));
		EXPECT_EQ(0644, st.st_mode & 0777);
	}
}

/* ----------------------------------------------------------------- who pays */

TEST_F(quota, users_do_not_share)
{
	struct child c = { .dev = self->dev, .uid = USER, .expect = 0 };
	int word[2];
	pid_t pid;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	ASSERT_EQ(0, pipe2(word, O_CLOEXEC));
	c.sock = word[1];
	pid = spawn(hold, &c);
	ASSERT_TRUE(told(word[0]));
	EXPECT_GIVEN_BACK(USER, 0);
	EXPECT_GIVEN_BACK(OTHER, 1);
	kill_and_reap(pid);
	EXPECT_GIVEN_BACK(USER, 1);
}

/* More than the table of users has lists, so that some are in the same. */
#define MANY_USERS 65

static int be_many_users(void *arg)
{
	struct child *c = arg;
	int fd[2], i;

	drop_resource();
	for (i = 0; i < MANY_USERS; i++) {
		/* The real user counts; the effective one may change it again. */
		if (setresuid(USER + (uid_t)i, 0, 0))
			return 1;
		if (create_least(c->dev, fd))
			return 2;
		if (create_least(c->dev, fd) != -EDQUOT)
			return 3;
	}
	return 0;
}

TEST_F(quota, many_users_do_not_share)
{
	struct child c = { .dev = self->dev };
	int i;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	/* The second time tells whether each has had its own back. */
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, reap(spawn(be_many_users, &c)));
}

static int create_and_send(void *arg)
{
	struct child *c = arg;
	int fd[2];

	become(c->uid);
	if (create_least(c->dev, fd))
		return 1;
	return send_fd(c->sock, fd[c->how]) ? 2 : 0;
}

/* What the creator left to others, and they never attached, is his to give up. */
TEST_F(quota, what_nobody_attached_is_given_up_for_a_new_one)
{
	struct child c = { .dev = self->dev, .uid = USER };
	int sv[2], fd, region;
	char *p;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	c.sock = sv[1];
	for (c.how = 0; c.how < 2; c.how++) {
		/* As long as nothing else is wanted it waits to be attached. */
		EXPECT_EQ(0, reap(spawn(create_and_send, &c)));
		fd = recv_fd(sv[0]);
		ASSERT_GE(fd, 0);
		p = map_region(&least_geometry, fd, EVERING_REGION_STATUS,
			       PROT_READ);
		ASSERT_NE(MAP_FAILED, (void *)p);
		munmap(p, PAGE);
		/* Hoarded, in flight or not, it takes nothing from its creator. */
		EXPECT_EQ(0, reap(spawn(create_and_send, &c)));
		EXPECT_GIVEN_BACK(USER, 1);
		for (region = 0; region < EVERING_REGION_ARENA_A; region++)
			EXPECT_EQ(-ESTALE,
				  try_map(PAGE, PROT_READ, MAP_SHARED, fd,
					  EVERING_MMAP_OFFSET(region)));
		close(fd);
		fd = recv_fd(sv[0]);
		ASSERT_GE(fd, 0);
		for (region = 0; region < EVERING_REGION_ARENA_A; region++)
			EXPECT_EQ(-ESTALE,
				  try_map(PAGE, PROT_READ, MAP_SHARED, fd,
					  EVERING_MMAP_OFFSET(region)));
		/* What is left still does as it is told. */
		EXPECT_EQ(POLLRDHUP | POLLHUP, poll_now(fd, POLLRDHUP));
		EXPECT_EQ(0, dev_ring(fd, RX | TX));
		EXPECT_EQ(RX, dev_enter(fd, 0, RX, EVERING_FOREVER));
		EXPECT_NE(NULL, fdinfo(fd, "state"));
		close(fd);
		EXPECT_GIVEN_BACK(USER, 1);
	}
}

struct keeper {
	struct child c;
	int word[2];
	bool closes;
};

static int keep(void *arg)
{
	struct keeper *k = arg;
	int fd[2], more[2];

	become(k->c.uid);
	fd[1] = recv_fd(k->c.sock);
	if (fd[1] < 0 ||
	    map_region(&least_geometry, fd[1], EVERING_REGION_HALF(!k->c.how),
		       PROT_READ) == MAP_FAILED)
		return 1;
	tell(k->word[1]);
	/* The creator goes; then it is ours, beyond our quota if need be. */
	if (!poll_within(fd[1], POLLHUP))
		return 2;
	if (create_least(k->c.dev, more) != -EDQUOT)
		return 3;
	tell(k->word[1]);
	await_death();
}

static int create_and_go(void *arg)
{
	struct keeper *k = arg;
	int fd[2];

	become(USER);
	if (create_least(k->c.dev, fd) || create_least(k->c.dev, fd) != -EDQUOT)
		return 1;
	return 0;
}

static int create_send_and_wait(void *arg)
{
	struct keeper *k = arg;
	int fd[2];

	become(USER);
	if (create_least(k->c.dev, fd) || send_fd(k->c.sock, fd[!k->c.how]) ||
	    !told(k->word[0]))
		return 1;
	return 0;
}

TEST_F(quota, whoever_keeps_the_other_end_pays_when_the_creator_has_gone)
{
	struct keeper k = { .c = { .dev = self->dev, .uid = OTHER } };
	pid_t pid, creator;
	int sv[2];

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	for (k.c.how = 0; k.c.how < 2; k.c.how++) {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
					0, sv));
		ASSERT_EQ(0, pipe2(k.word, O_CLOEXEC));
		k.c.sock = sv[0];
		pid = spawn(keep, &k);
		k.c.sock = sv[1];
		creator = spawn(create_send_and_wait, &k);
		EXPECT_EQ(0, reap(creator));
		ASSERT_TRUE(told(k.word[0]));
		EXPECT_EQ(0, reap(spawn(create_and_go, &k)));
		kill_and_reap(pid);
		EXPECT_GIVEN_BACK(OTHER, 1);
		close_both(sv);
		close_both(k.word);
	}
}

struct subuser {
	struct child c;
	int word[2], go[2];
	uid_t inner;
};

/* USER in a user namespace that he made, as one of his subordinate uids. */
static int be_subuser(void *arg)
{
	struct subuser *s = arg;
	int fd[2], n = 0;

	prctl(PR_SET_DUMPABLE, 1);
	become(USER);
	prctl(PR_SET_DUMPABLE, 1);
	if (unshare(CLONE_NEWUSER))
		return 50;
	tell(s->word[1]);
	if (!told(s->go[0]) || setresgid(1, 1, 1) ||
	    setresuid(s->inner, s->inner, s->inner))
		return 1;
	while (!create_least(s->c.dev, fd))
		n++;
	if (n != s->c.count)
		return 10 + n;
	tell(s->word[1]);
	await_death();
}

static bool map_ids(pid_t pid, const char *file)
{
	static const char text[] = "0 61001 1\n1 300000 65535\n";
	char path[64];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	done = write(fd, text, sizeof(text) - 1) == sizeof(text) - 1;
	close(fd);
	return done;
}

/* Subordinate uids have what their owner has, and not each as much again. */
TEST_F(quota, the_owner_of_a_user_namespace_pays_too)
{
	struct subuser s = { .c = { .dev = self->dev, .count = 3 } };
	pid_t pid[2];
	int i, ret;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 3));
	ASSERT_EQ(0, pipe2(s.word, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(s.go, O_CLOEXEC));
	for (i = 0; i < 2; i++) {
		s.inner = (uid_t)i + 1;
		s.c.count = i ? 0 : 3;
		pid[i] = spawn(be_subuser, &s);
		if (!told(s.word[0])) {
			ret = reap(pid[i]);
			if (ret == 50)
				SKIP(return, "no user namespace");
			EXPECT_EQ(0, ret);
		}
		ASSERT_TRUE(map_ids(pid[i], "uid_map"));
		ASSERT_TRUE(map_ids(pid[i], "gid_map"));
		tell(s.go[1]);
		EXPECT_TRUE(told(s.word[0]));
	}
	EXPECT_GIVEN_BACK(USER, 0);
	EXPECT_GIVEN_BACK(OTHER, 3);
	kill_and_reap(pid[0]);
	EXPECT_GIVEN_BACK(USER, 3);
	kill_and_reap(pid[1]);
}

static int limit_locked_memory(void *arg)
{
	struct rlimit none = { 0, 0 };
	struct child *c = arg;
	int fd[2];

	become(c->uid);
	return setrlimit(RLIMIT_MEMLOCK, &none) ||
	       create_bytes(c->dev, MIB, fd);
}

TEST_F(quota, rlimit_memlock_does_not_matter)
{
	struct child c = { .dev = self->dev, .uid = USER };

	EXPECT_EQ(0, reap(spawn(limit_locked_memory, &c)));
}

static int change_user_and_close(void *arg)
{
	struct child *c = arg;
	int fd[2];

	/* The real user counts; the effective one may change it again. */
	drop_resource();
	if (setresuid(USER, 0, 0))
		return 1;
	if (create_least(c->dev, fd))
		return 2;
	if (setresuid(OTHER, 0, 0))
		return 3;
	/* The quota of the user who closes is not touched. */
	close_both(fd);
	if (create_least(c->dev, fd))
		return 4;
	return create_least(c->dev, fd) == -EDQUOT ? 0 : 5;
}

TEST_F(quota, who_closes_does_not_matter)
{
	struct child c = { .dev = self->dev };

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	EXPECT_EQ(0, reap(spawn(change_user_and_close, &c)));
	EXPECT_GIVEN_BACK(USER, 1);
	EXPECT_GIVEN_BACK(OTHER, 1);
}

/* --------------------------------------------------------------- given back */

#define QUOTA 4

/*
 * Each fails, or ends, in its own way, and more often than the quota has room.
 */
static int fail_in_every_way(void *arg)
{
	struct child *c = arg;
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct evering_create create = { .size = sizeof(create),
					 .geometry = least_geometry };
	struct rlimit limit = { 0, 0 };
	struct evering_geometry g;
	int fd[2], i;
	void *p = NULL;

	become(c->uid);
	for (i = 0; i < 3 * QUOTA; i++) {
		g = least_geometry;
		g.entries = 3;
		if (dev_pair(c->dev, &g, fd) != -EINVAL)
			return 1;
		if (create_bytes(c->dev, 1ull << 36, fd) != -EDQUOT)
			return 2;
	}
	memcpy(page, &create, sizeof(create));
	mprotect(page, PAGE, PROT_READ);
	for (i = 0; i < 3 * QUOTA; i++)
		if (dev_ioctl(c->dev, EVERING_IOC_CREATE, page) != -EFAULT)
			return 3;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (i = 0; i < 3 * QUOTA; i++)
		if (create_least(c->dev, fd) != -EMFILE)
			return 4;
	limit.rlim_cur = 100;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (i = 0; i < 3 * QUOTA; i++) {
		if (create_least(c->dev, fd))
			return 5;
		if (i & 1) {
			p = map_region(&least_geometry, fd[0],
				       EVERING_REGION_HALF_A, PROT_READ);
			if (p == MAP_FAILED)
				return 6;
		}
		close(fd[!(i & 2)]);
		close(fd[!!(i & 2)]);
		if (i & 1)
			munmap(p, PAGE);
	}
	return 0;
}

TEST_F(quota, whatever_fails_or_ends_gives_back)
{
	struct child c = { .dev = self->dev, .uid = USER };

	ASSERT_EQ(0, set_limit(USER_CHANNELS, QUOTA));
	EXPECT_EQ(0, reap(spawn(fail_in_every_way, &c)));
	EXPECT_GIVEN_BACK(USER, QUOTA);
}

static int fill_with_groups(void *arg)
{
	struct child *c = arg;
	int group[QUOTA], fd[2], i;
	struct side a, b;

	become(c->uid);
	for (i = 0; i < QUOTA; i++) {
		group[i] = dev_group(c->dev, 0);
		if (group[i] < 0)
			return 1;
	}
	if (dev_group(c->dev, 0) != -EDQUOT ||
	    create_least(c->dev, fd) != -EDQUOT)
		return 2;
	close(group[0]);
	if (create_least(c->dev, fd) || dev_group(c->dev, 0) != -EDQUOT)
		return 3;
	/* What has a member is there, and paid for, as long as that is. */
	if (side_attach(&a, &least_geometry, fd[0], EVERING_A) ||
	    side_attach(&b, &least_geometry, fd[1], EVERING_B) ||
	    dev_add(group[1], fd[0], 0) || dev_add(group[1], fd[1], 0))
		return 4;
	close(group[1]);
	if (dev_group(c->dev, 0) != -EDQUOT)
		return 5;
	side_unmap(&a);
	if (dev_group(c->dev, 0) != -EDQUOT)
		return 6;
	side_unmap(&b); /* and with it the last member is none any more */
	if (dev_group(c->dev, 0) < 0)
		return 7;
	return dev_group(c->dev, 0) == -EDQUOT ? 0 : 8;
}

TEST_F(quota, a_group_counts_as_a_channel)
{
	struct child c = { .dev = self->dev, .uid = USER };
	int i;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, QUOTA));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, reap(spawn(fill_with_groups, &c)));
	EXPECT_GIVEN_BACK(USER, QUOTA);
	/* And is as large as a page. */
	ASSERT_EQ(0, set_limit(CHANNEL_MIB, 0));
	EXPECT_EQ(-EDQUOT, dev_group(self->dev, 0));
}

struct member {
	struct child c;
	int fd; /* of a channel that is another's */
};

static int serve_in_group(void *arg)
{
	struct member *m = arg;
	int group;

	become(m->c.uid);
	group = dev_group(m->c.dev, 0);
	if (group < 0 || map_group(group) == MAP_FAILED ||
	    map_region(&least_geometry, m->fd, EVERING_REGION_HALF_B,
		       PROT_READ) == MAP_FAILED ||
	    dev_attach(m->fd) || dev_add(group, m->fd, 0))
		return 1;
	tell(m->c.sock);
	await_death();
}

/* A stranger who keeps what he gave to a server does not keep the server's group. */
TEST_F(quota, a_group_is_given_back_whoever_keeps_its_members)
{
	struct member m = { .c = { .dev = self->dev, .uid = USER } };
	int fd[2], word[2];
	pid_t pid;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	ASSERT_EQ(0, create_least(self->dev, fd));
	ASSERT_EQ(0, pipe2(word, O_CLOEXEC));
	m.c.sock = word[1];
	m.fd = fd[1];
	pid = spawn(serve_in_group, &m);
	ASSERT_TRUE(told(word[0]));
	kill_and_reap(pid);
	EXPECT_GIVEN_BACK(USER, 1);
	EXPECT_EQ(POLLRDHUP, poll_now(fd[0], POLLRDHUP));
}

enum {
	BY_EXIT,
	BY_KILL,
	BY_KILL_IN_FLIGHT,
	BY_KILL_MAPPED,
	WAYS
};

static int hold_quota(void *arg)
{
	struct child *c = arg;
	int fd[2], sv[2], i;

	become(c->uid);
	for (i = 0; i < QUOTA; i++) {
		if (create_least(c->dev, fd))
			return 1;
		if (c->how == BY_KILL_IN_FLIGHT) {
			if (socketpair(AF_UNIX, SOCK_DGRAM, 0, sv) ||
			    send_fd(sv[0], fd[0]) || send_fd(sv[0], fd[1]))
				return 2;
			close_both(fd);
		} else if (c->how == BY_KILL_MAPPED) {
			if (map_region(&least_geometry, fd[0], 1, PROT_READ) ==
			    MAP_FAILED)
				return 3;
			close_both(fd);
		}
	}
	if (create_least(c->dev, fd) != -EDQUOT)
		return 4;
	tell(c->sock);
	if (c->how == BY_EXIT)
		return 0;
	await_death();
}

TEST_F(quota, a_process_that_ends_gives_back)
{
	struct child c = { .dev = self->dev, .uid = USER };
	int word[2];
	pid_t pid;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, QUOTA));
	ASSERT_EQ(0, pipe2(word, O_CLOEXEC));
	c.sock = word[1];
	for (c.how = 0; c.how < WAYS; c.how++) {
		pid = spawn(hold_quota, &c);
		ASSERT_TRUE(told(word[0]));
		if (c.how != BY_EXIT)
			kill(pid, SIGKILL);
		EXPECT_EQ(c.how == BY_EXIT ? 0 : 128 + SIGKILL, reap(pid));
		EXPECT_GIVEN_BACK(USER, QUOTA);
	}
}

static int create_large(void *arg)
{
	struct child *c = arg;
	struct evering_info info;
	int fd[2], ret;

	if (dev_info(c->dev, &info))
		return 1;
	info.max_user_bytes = info.max_user_bytes / 2 & ~(PAGE - 1);
	do /* not while the other has its own */
		ret = create_bytes(c->dev, info.max_user_bytes, fd);
	while (ret == -EDQUOT);
	if (ret)
		return 2;
	tell(c->sock);
	await_death();
}

/* It counts from the moment that it is begun, and until nothing is left of it. */
TEST_F(quota, who_is_killed_while_creating_does_not_finish_it)
{
	struct child c = { .dev = self->dev };
	int word[2], tries, fd[2];
	pid_t pid;

	drop_resource();
	ASSERT_EQ(0, set_limit(USER_CHANNELS, 1));
	ASSERT_EQ(0, pipe2(word, O_CLOEXEC));
	c.sock = word[1];
	for (tries = 0; tries < 5; tries++) {
		pid = spawn(create_large, &c);
		EXPECT_TRUE(EVENTUALLY(create_least(self->dev, fd) == -EDQUOT ||
				       (close_both(fd), false)));
		kill_and_reap(pid);
		ASSERT_EQ(0, create_least(self->dev, fd));
		close_both(fd);
		/* Or it was faster. */
		if (poll_now(word[0], POLLIN) != POLLIN)
			break;
		ASSERT_TRUE(told(word[0]));
	}
	EXPECT_GT(5, tries);
}

static int create_and_close_for_a_while(void *arg)
{
	struct child *c = arg;
	int fd[2], i, ret;

	become(c->uid);
	for (i = 0; i < c->count; i++) {
		ret = create_least(c->dev, fd);
		if (ret && ret != -EDQUOT)
			return 1;
		if (!ret)
			close_both(fd);
	}
	return 0;
}

TEST_F(quota, many_processes_at_once_lose_nothing)
{
	struct child c = { .dev = self->dev,
			   .uid = USER,
			   .count = short_run() ? 50 : 300 };
	pid_t pid[4];
	int i;

	ASSERT_EQ(0, set_limit(USER_CHANNELS, 2));
	for (i = 0; i < 4; i++)
		pid[i] = spawn(create_and_close_for_a_while, &c);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, reap(pid[i]));
	EXPECT_GIVEN_BACK(USER, 2);
}

/* ------------------------------------------------------------ memory cgroup */

#define CGROUP "/sys/fs/cgroup/evering-quota"

static long long cgroup_bytes(void)
{
	long long n = -1;
	FILE *f = fopen(CGROUP "/memory.current", "re");

	if (!f)
		return -1;
	if (fscanf(f, "%lld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static int live_in_cgroup(void *arg)
{
	struct child *c = arg;
	long long before, during;
	int fd[2], i;

	if (write_text(CGROUP "/cgroup.procs", "0"))
		return 50;
	if (create_least(c->dev, fd))
		return 1;
	before = cgroup_bytes();
	for (i = 0; i < 5; i++) {
		if (create_bytes(c->dev, 64 * MIB, fd) != -ENOMEM)
			return 2;
	}
	/* A little is kept for the next charge, here and below. */
	if (!EVENTUALLY(cgroup_bytes() < before + (long long)(2 * MIB)))
		return 6;
	if (create_bytes(c->dev, 16 * MIB, fd))
		return 3;
	during = cgroup_bytes();
	if (during - before < (long long)(15 * MIB))
		return 4;
	close_both(fd);
	if (!EVENTUALLY(cgroup_bytes() < before + (long long)(2 * MIB)))
		return 5;
	/* Groups have a page each. */
	before = cgroup_bytes();
	for (i = 0; i < 900; i++)
		if (dev_group(c->dev, 0) < 0)
			return 7;
	during = cgroup_bytes();
	return during - before < (long long)(3 * MIB) ? 8 : 0;
}

TEST_F(quota, the_memory_cgroup_is_charged_and_its_limit_is_enomem)
{
	struct child c = { .dev = self->dev };
	int ret;

	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup: %s", strerror(errno));
	if (cgroup_bytes() < 0 ||
	    write_text(CGROUP "/memory.max", "33554432")) {
		rmdir(CGROUP);
		SKIP(return, "no memory controller for cgroups");
	}
	ret = reap(spawn(live_in_cgroup, &c));
	EXPECT_TRUE(EVENTUALLY(!rmdir(CGROUP)));
	if (ret == 50)
		SKIP(return, "cannot enter a cgroup");
	EXPECT_EQ(0, ret);
}

TEST_HARNESS_MAIN
