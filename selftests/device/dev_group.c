// SPDX-License-Identifier: MIT
/*
 * dev_group.c: groups of /dev/evering: how one is made, mapped and refused; when a
 * member's bit is set and when not; who is woken; that members come and go, and files
 * are closed in any order; and that no wake-up is lost while members are added and
 * removed and others ring them.
 */
#include "dev.h"

#include <sys/resource.h>
#include <sys/wait.h>

static const struct evering_geometry *const G = &least_geometry;

FIXTURE(group)
{
	int dev;
	int fd[2];
	struct side a, b; /* B is a member, A rings */
	int group;
	struct evering_group_page *page;
};

FIXTURE_SETUP(group)
{
	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	ASSERT_EQ(0, side_attach(&self->a, G, self->fd[0], EVERING_A));
	ASSERT_EQ(0, side_attach(&self->b, G, self->fd[1], EVERING_B));
	self->group = dev_group(self->dev, 0);
	ASSERT_GE(self->group, 0);
	self->page = map_group(self->group);
	ASSERT_NE(MAP_FAILED, (void *)self->page);
}

FIXTURE_TEARDOWN(group)
{
}

/* A member that has been looked at. */
static int add_quiet(FIXTURE_DATA(group) * self, uint32_t index)
{
	int ret = dev_add(self->group, self->fd[1], index);

	if (!ret && take_one(self->page) != (int)index)
		return -1;
	return ret;
}

static uint64_t in(int64_t ns)
{
	return (uint64_t)(now_ns() + ns);
}

/* ------------------------------------------------------------ making, mapping */

TEST_F(group, flags_of_a_new_one)
{
	int keep = dev_group(self->dev, EVERING_GROUP_KEEP_ON_EXEC);
	int nonblock = dev_group(self->dev, EVERING_GROUP_NONBLOCK);

	ASSERT_GE(keep, 0);
	ASSERT_GE(nonblock, 0);
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->group, F_GETFD));
	EXPECT_EQ(0, fcntl(keep, F_GETFD));
	EXPECT_EQ(FD_CLOEXEC, fcntl(nonblock, F_GETFD));
	EXPECT_EQ(0, fcntl(self->group, F_GETFL) & O_NONBLOCK);
	EXPECT_EQ(O_NONBLOCK, fcntl(nonblock, F_GETFL) & O_NONBLOCK);
	EXPECT_EQ(-EINVAL, dev_group(self->dev, EVERING_GROUP_FLAGS + 1));
}

TEST_F(group, what_a_new_one_refuses)
{
	struct evering_group_create create = { .size = sizeof(create),
					       .reserved = 1 };
	int next = next_fd();
	char *p;

	EXPECT_EQ(-EINVAL, dev_ioctl(self->dev, EVERING_IOC_GROUP, &create));
	create.reserved = 0;
	create.size = sizeof(create) - 1;
	EXPECT_EQ(-EINVAL, dev_ioctl(self->dev, EVERING_IOC_GROUP, &create));
	EXPECT_EQ(-EFAULT, dev_ioctl(self->dev, EVERING_IOC_GROUP, NULL));
	/* Readable, but the descriptor cannot be told. */
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)p);
	create.size = sizeof(create);
	memcpy(p, &create, sizeof(create));
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ));
	EXPECT_EQ(-EFAULT, dev_ioctl(self->dev, EVERING_IOC_GROUP, p));
	EXPECT_EQ(next, next_fd());
}

static int no_descriptor_left(void *arg)
{
	struct rlimit limit;
	int dev = *(int *)arg;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = (rlim_t)next_fd();
	if (setrlimit(RLIMIT_NOFILE, &limit))
		return 1;
	return dev_group(dev, 0) == -EMFILE ? 0 : 2;
}

TEST_F(group, no_descriptor_left)
{
	EXPECT_EQ(0, reap(spawn(no_descriptor_left, &self->dev)));
}

TEST_F(group, which_files_have_which_ioctls)
{
	struct evering_peer_cred cred;

	EXPECT_EQ(-ENOTTY, dev_group(self->fd[0], 0));
	EXPECT_EQ(-ENOTTY, dev_group(self->group, 0));
	EXPECT_EQ(-ENOTTY, dev_add(self->fd[0], self->fd[1], 0));
	EXPECT_EQ(-ENOTTY, dev_add(self->dev, self->fd[1], 0));
	EXPECT_EQ(-ENOTTY, dev_remove(self->fd[0], self->fd[1]));
	EXPECT_EQ(-ENOTTY, dev_remove(self->dev, self->fd[1]));
	EXPECT_EQ(-ENOTTY, dev_peer_cred(self->group, &cred));
	EXPECT_EQ(-ENOTTY, dev_attach(self->group));
}

static int map_as(int group, size_t len, int prot, int flags, uint64_t offset)
{
	return try_map(len, prot, flags, group, offset);
}

TEST_F(group, how_its_page_is_mapped)
{
	const int rw = PROT_READ | PROT_WRITE;
	int fd = self->group;

	EXPECT_EQ(0, map_as(fd, PAGE, rw, MAP_SHARED, 0));
	EXPECT_EQ(0, map_as(fd, PAGE, PROT_READ, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, map_as(fd, PAGE, rw, MAP_PRIVATE, 0));
	EXPECT_EQ(-EINVAL, map_as(fd, 2 * PAGE, rw, MAP_SHARED, 0));
	EXPECT_EQ(-EINVAL, map_as(fd, PAGE, rw, MAP_SHARED, PAGE));
	EXPECT_EQ(-EINVAL,
		  map_as(fd, PAGE, rw, MAP_SHARED, EVERING_MMAP_OFFSET(1)));
	EXPECT_TRUE(is_no_exec(
		map_as(fd, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, 0)));
	EXPECT_EQ(-1, mprotect(self->page, PAGE, PROT_READ | PROT_EXEC));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(MAP_FAILED,
		  mremap(self->page, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
	/* It is ours to write. */
	EXPECT_EQ(0, touch(self->page, true));
}

static int touches_page(void *arg)
{
	return touch(arg, false);
}

TEST_F(group, a_child_has_the_file_and_not_the_mapping)
{
	ASSERT_EQ(0, dev_ring(self->group, 7));
	EXPECT_EQ(SIGSEGV, reap(spawn(touches_page, self->page)));
	EXPECT_EQ(7, take_one(self->page));
}

TEST_F(group, its_page_survives_whatever_is_advised_and_its_descriptor)
{
	void *moved;

	ASSERT_EQ(0, add_quiet(self, 5));
	ASSERT_EQ(0, dev_ring(self->group, 70));
	madvise(self->page, PAGE, MADV_DONTNEED);
	EXPECT_EQ(70, take_one(self->page));
	moved = mremap(self->page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		       mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0));
	ASSERT_NE(MAP_FAILED, moved);
	self->page = moved;
	/* The mapping holds the file. */
	close(self->group);
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(5, take_one(self->page));
}

/* ------------------------------------------------------------- who is a member */

TEST_F(group, whom_add_and_remove_refuse)
{
	int other = dev_group(self->dev, 0);
	int efd = eventfd(0, 0);
	int closed = next_fd();
	struct evering_add add = { .size = sizeof(add), .fd = self->fd[1] };

	ASSERT_GE(other, 0);
	ASSERT_GE(efd, 0);
	EXPECT_EQ(-EBADF, dev_add(self->group, -1, 0));
	EXPECT_EQ(-EBADF, dev_add(self->group, closed, 0));
	EXPECT_EQ(-EINVAL, dev_add(self->group, efd, 0));
	EXPECT_EQ(-EINVAL, dev_add(self->group, self->dev, 0));
	EXPECT_EQ(-EINVAL, dev_add(self->group, other, 0));
	EXPECT_EQ(-EINVAL, dev_add(self->group, self->group, 0));
	EXPECT_EQ(-EINVAL,
		  dev_add(self->group, self->fd[1], EVERING_GROUP_MEMBERS));
	EXPECT_EQ(-EINVAL, dev_add(self->group, self->fd[1], ~0u));
	add.flags = 1;
	EXPECT_EQ(-EINVAL, dev_ioctl(self->group, EVERING_IOC_ADD, &add));
	EXPECT_EQ(-EBADF, dev_remove(self->group, -1));
	EXPECT_EQ(-EBADF, dev_remove(self->group, closed));
	EXPECT_EQ(-EINVAL, dev_remove(self->group, efd));
	EXPECT_EQ(-EINVAL, dev_remove(self->group, self->group));
	EXPECT_EQ(-ENOENT, dev_remove(self->group, self->fd[1]));
	/* Whatever is refused sets no bit. */
	EXPECT_EQ(-1, take_one(self->page));

	EXPECT_EQ(0, dev_add(self->group, self->fd[1], 3));
	EXPECT_EQ(-EEXIST, dev_add(self->group, self->fd[1], 3));
	EXPECT_EQ(-EEXIST, dev_add(self->group, self->fd[1], 4));
	EXPECT_EQ(-EBUSY, dev_add(other, self->fd[1], 3));
	EXPECT_EQ(-ENOENT, dev_remove(other, self->fd[1]));
#if __SIZEOF_LONG__ > 4
	/* All bits of the argument count. */
	EXPECT_EQ(-1, ioctl(self->group, EVERING_IOC_REMOVE,
			    (1ul << 32) + (unsigned long)self->fd[1]));
	EXPECT_EQ(EBADF, errno);
#endif
	EXPECT_EQ(3, take_one(self->page));
	EXPECT_EQ(0, dev_remove(self->group, self->fd[1]));
	EXPECT_EQ(-ENOENT, dev_remove(self->group, self->fd[1]));
	EXPECT_EQ(0, dev_add(other, self->fd[1], 4));
	/* The other end is an endpoint like this one. */
	EXPECT_EQ(0, dev_add(other, self->fd[0], 4));
	EXPECT_EQ(-EBUSY, dev_add(self->group, self->fd[0], 4));
}

static int adds_it(void *arg)
{
	const int *fd = arg;

	return -dev_add(fd[0], fd[1], 9);
}

TEST_F(group, one_that_another_process_has)
{
	int pair[2], fd[2] = { self->group };
	struct side b;

	ASSERT_EQ(0, dev_pair(self->dev, G, pair));
	fd[1] = pair[1];
	/* Nobody has said whose it is: who knows when that is over? */
	EXPECT_EQ(-ENOTCONN, dev_add(self->group, fd[1], 9));
	ASSERT_EQ(0, side_map(&b, G, fd[1], EVERING_B));
	EXPECT_EQ(-ENOTCONN, dev_add(self->group, fd[1], 9));
	EXPECT_EQ(ENOTCONN, reap(spawn(adds_it, fd)));
	EXPECT_EQ(-1, take_one(self->page));
	ASSERT_EQ(0, dev_attach(fd[1]));
	EXPECT_EQ(EBUSY, reap(spawn(adds_it, fd)));
	EXPECT_EQ(0, dev_add(self->group, fd[1], 9));
	EXPECT_EQ(EEXIST, reap(spawn(adds_it, fd)));
}

TEST_F(group, fdinfo_counts_its_members)
{
	char id[64];

	snprintf(id, sizeof(id), "%.63s", fdinfo(self->group, "group"));
	EXPECT_GT(atoll(id), 0);
	EXPECT_STREQ("0", fdinfo(self->group, "members"));
	EXPECT_EQ(PAGE, strtoul(fdinfo(self->group, "bytes"), NULL, 10));
	ASSERT_EQ(0, dev_add(self->group, self->fd[1], 3));
	ASSERT_EQ(0, dev_add(self->group, self->fd[0], 3));
	EXPECT_STREQ("2", fdinfo(self->group, "members"));
	EXPECT_EQ(NULL, fdinfo(self->group, "channel"));
	ASSERT_EQ(0, dev_remove(self->group, self->fd[0]));
	EXPECT_STREQ("1", fdinfo(self->group, "members"));
	close(self->fd[1]);
	side_unmap(&self->b);
	EXPECT_STREQ("0", fdinfo(self->group, "members"));
	EXPECT_STREQ(id, fdinfo(self->group, "group"));
}

/* A member's two columns, A and B: 0 for an endpoint that is in no group. */
TEST_F(group, fdinfo_of_a_member_names_its_group)
{
	char id[64], a_only[80], b_only[80], both[140];

	snprintf(id, sizeof(id), "%.63s", fdinfo(self->group, "group"));
	snprintf(a_only, sizeof(a_only), "%s\t0", id);
	snprintf(b_only, sizeof(b_only), "0\t%s", id);
	snprintf(both, sizeof(both), "%s\t%s", id, id);
	EXPECT_STREQ("0\t0", fdinfo(self->fd[0], "group"));
	ASSERT_EQ(0, dev_add(self->group, self->fd[1], 3));
	EXPECT_STREQ(b_only, fdinfo(self->fd[0], "group"));
	EXPECT_STREQ(b_only, fdinfo(self->fd[1], "group"));
	ASSERT_EQ(0, dev_add(self->group, self->fd[0], 4));
	EXPECT_STREQ(both, fdinfo(self->fd[0], "group"));
	ASSERT_EQ(0, dev_remove(self->group, self->fd[1]));
	EXPECT_STREQ(a_only, fdinfo(self->fd[1], "group"));
	ASSERT_EQ(0, dev_remove(self->group, self->fd[0]));
	EXPECT_STREQ("0\t0", fdinfo(self->fd[1], "group"));
	close(self->fd[0]);
	side_unmap(&self->a);
	EXPECT_STREQ("0\t0", fdinfo(self->fd[1], "group"));
}

/* ----------------------------------------------------------- when a bit is set */

TEST_F(group, a_new_member_is_looked_at)
{
	arm(self->b.own, RX | TX);
	ASSERT_EQ(0, dev_add(self->group, self->fd[1], 100));
	EXPECT_EQ(100, take_one(self->page));
	EXPECT_EQ(RX | TX, armed(self->b.own));
	EXPECT_EQ(-1, take_one(self->page));
}

TEST_F(group, a_ring_of_what_is_armed_sets_it)
{
	ASSERT_EQ(0, add_quiet(self, 11));
	/* Who is not armed does not want to be told. */
	EXPECT_EQ(0, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(-1, take_one(self->page));
	arm(self->b.own, RX);
	EXPECT_EQ(0, dev_ring(self->fd[0], TX));
	EXPECT_EQ(-1, take_one(self->page));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(11, take_one(self->page));
	EXPECT_EQ(0, dev_ring(self->fd[0], RX));
	EXPECT_EQ(-1, take_one(self->page));
	arm(self->b.own, TX);
	EXPECT_EQ(TX, dev_ring(self->fd[0], TX));
	EXPECT_EQ(11, take_one(self->page));
	/* However it is rung: by ENTER, by another thread of its own process. */
	arm(self->b.own, RX);
	EXPECT_EQ(RANG_RX, dev_enter(self->fd[0], RX, 0, 0));
	EXPECT_EQ(11, take_one(self->page));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[1], RX | EVERING_RING_SELF));
	EXPECT_EQ(11, take_one(self->page));
	/* The peer is no member. */
	arm(self->a.own, RX | TX);
	EXPECT_EQ(RX | TX, dev_ring(self->fd[1], RX | TX));
	EXPECT_EQ(-1, take_one(self->page));
	/* Nor this one any more. */
	ASSERT_EQ(0, dev_remove(self->group, self->fd[1]));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(-1, take_one(self->page));
}

TEST_F(group, every_index_has_its_place)
{
	static const uint32_t edges[] = {
		0,    1,     63,
		64,   4095,  4096,
		8191, 10000, EVERING_GROUP_MEMBERS - 1,
	};
	uint32_t i, at;

	for (i = 0; i < ARRAY_SIZE(edges); i++) {
		at = edges[i];
		ASSERT_EQ(0, dev_add(self->group, self->fd[1], at));
		EXPECT_EQ(1ull << at / 64 % 64,
			  self->page->summary[at / 64 / 64]);
		EXPECT_EQ(1ull << at % 64, self->page->ready[at / 64]);
		EXPECT_EQ((int)at, take_one(self->page));
		ASSERT_EQ(0, dev_ring(self->group, at));
		EXPECT_EQ((int)at, take_one(self->page));
		ASSERT_EQ(0, dev_remove(self->group, self->fd[1]));
	}
	EXPECT_EQ(-EINVAL, dev_ring(self->group, EVERING_GROUP_MEMBERS));
	EXPECT_EQ(-EINVAL, dev_ring(self->group, ~0ul));
	for (at = 0; at < EVERING_GROUP_MEMBERS; at += 61)
		ASSERT_EQ(0, dev_ring(self->group, at));
	for (at = 0; at < EVERING_GROUP_MEMBERS; at += 61)
		EXPECT_EQ(1, self->page->ready[at / 64] >> at % 64 & 1);
	for (i = 0; i < ARRAY_SIZE(self->page->pad); i++)
		EXPECT_EQ(0, self->page->pad[i]);
}

TEST_F(group, a_member_whose_peer_detaches_and_closes)
{
	ASSERT_EQ(0, add_quiet(self, 12));
	arm(self->b.own, RX);
	side_unmap(&self->a);
	EXPECT_EQ(12, take_one(self->page));
	close(self->fd[0]);
	EXPECT_EQ(12, take_one(self->page));
	EXPECT_EQ(-1, take_one(self->page));
	/* One that has gone already can be a member, and is looked at. */
	ASSERT_EQ(0, dev_remove(self->group, self->fd[1]));
	ASSERT_EQ(0, dev_add(self->group, self->fd[1], 13));
	EXPECT_EQ(13, take_one(self->page));
}

static int dies_attached(void *arg)
{
	struct side a;

	if (side_map(&a, G, *(int *)arg, EVERING_A))
		return 1;
	kill(getpid(), SIGKILL);
	return 2;
}

TEST_F(group, a_member_whose_peer_dies)
{
	struct side b;
	int i;

	for (i = 0; i < 5; i++) {
		int fd[2];

		ASSERT_EQ(0, dev_pair(self->dev, G, fd));
		ASSERT_EQ(0, side_attach(&b, G, fd[1], EVERING_B));
		ASSERT_EQ(0, dev_add(self->group, fd[1], 14));
		EXPECT_EQ(14, take_one(self->page));
		EXPECT_EQ(128 + SIGKILL, reap(spawn(dies_attached, &fd[0])));
		EXPECT_EQ(14, take_one(self->page));
		side_unmap(&b);
		close(fd[1]);
		/* Nobody looks at a closed one any more. */
		close(fd[0]);
		EXPECT_EQ(-1, take_one(self->page));
	}
	EXPECT_STREQ("0", fdinfo(self->group, "members"));
}

TEST_F(group, one_that_is_closed_is_no_member_and_one_that_is_passed_on_is)
{
	int copy = dup(self->fd[1]);

	ASSERT_EQ(0, add_quiet(self, 15));
	ASSERT_EQ(0, dev_add(self->group, self->fd[0], 16));
	EXPECT_EQ(16, take_one(self->page));
	close(self->fd[1]);
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(15, take_one(self->page));
	EXPECT_STREQ("2", fdinfo(self->group, "members"));
	close(copy);
	EXPECT_STREQ("2", fdinfo(self->group, "members"));
	side_unmap(&self->b); /* the last that holds its file */
	EXPECT_STREQ("1", fdinfo(self->group, "members"));
	EXPECT_EQ(16, take_one(self->page));
}

TEST_F(group, its_end_frees_its_members)
{
	int other = dev_group(self->dev, 0);
	struct evering_group_page *page = map_group(other);

	ASSERT_NE(MAP_FAILED, (void *)page);
	ASSERT_EQ(0, add_quiet(self, 17));
	close(self->group);
	/* The mapping holds its file. */
	EXPECT_EQ(-EBUSY, dev_add(other, self->fd[1], 18));
	munmap(self->page, PAGE);
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(-ENOENT, dev_remove(other, self->fd[1]));
	EXPECT_EQ(0, dev_add(other, self->fd[1], 18));
	EXPECT_EQ(18, take_one(page));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(18, take_one(page));
	EXPECT_STREQ("1", fdinfo(other, "members"));
}

static int attaches_adds_and_dies(void *arg)
{
	FIXTURE_DATA(group) *self = arg;
	struct side b;

	if (side_map(&b, G, self->fd[1], EVERING_B) ||
	    dev_attach(self->fd[1]) || dev_add(self->group, self->fd[1], 19) ||
	    strcmp("1", fdinfo(self->group, "members")))
		return 1;
	kill(getpid(), SIGKILL);
	return 2;
}

/* Whoever keeps a descriptor of an endpoint that is over does not keep its group. */
TEST_F(group, one_that_is_detached_is_no_member)
{
	struct side b;
	int fd[2];

	/* The peer's holder, say, who passed it on and has a copy of the descriptor. */
	ASSERT_EQ(0, dev_pair(self->dev, G, fd));
	self->fd[1] = fd[1];
	EXPECT_EQ(128 + SIGKILL, reap(spawn(attaches_adds_and_dies, self)));
	EXPECT_STREQ("0", fdinfo(self->group, "members"));
	EXPECT_EQ(-ENOENT, dev_remove(self->group, fd[1]));
	EXPECT_EQ(19, take_one(self->page));
	EXPECT_EQ(-ESTALE, dev_add(self->group, fd[1], 19));
	EXPECT_EQ(-1, take_one(self->page));
	/* The other end is not over. */
	ASSERT_EQ(0, side_attach(&b, G, fd[0], EVERING_A));
	EXPECT_EQ(0, dev_add(self->group, fd[0], 20));
	EXPECT_EQ(20, take_one(self->page));

	/* It unmaps the last of what it had. */
	ASSERT_EQ(0, dev_pair(self->dev, G, fd));
	ASSERT_EQ(0, side_attach(&b, G, fd[1], EVERING_B));
	ASSERT_EQ(0, dev_add(self->group, fd[1], 21));
	EXPECT_STREQ("2", fdinfo(self->group, "members"));
	side_unmap(&b);
	EXPECT_STREQ("1", fdinfo(self->group, "members"));
	EXPECT_EQ(-ESTALE, dev_add(self->group, fd[1], 21));
}

/* Closing a socket has those collected that nobody has. */
static bool hung_up(int fd)
{
	int sv[2];

	if (!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv)) {
		close(sv[0]);
		close(sv[1]);
	}
	return poll_now(fd, POLLHUP) == POLLHUP;
}

/* In a socket that nobody has but itself, with its group. */
TEST_F(group, a_member_that_is_lost_in_flight)
{
	int sv[2], other = dev_group(self->dev, 0);

	ASSERT_GE(other, 0);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0, dev_add(self->group, self->fd[0], 1));
	ASSERT_EQ(0, dev_add(other, self->fd[1], 1));
	ASSERT_EQ(0, send_fd(sv[0], self->fd[0]));
	ASSERT_EQ(0, send_fd(sv[0], other));
	ASSERT_EQ(0, send_fd(sv[0], sv[1]));
	side_unmap(&self->a);
	close(self->fd[0]);
	close(other);
	EXPECT_EQ(1, take_one(self->page)); /* of ADD */
	EXPECT_EQ(0, poll_now(self->fd[1], POLLHUP));
	close(sv[0]);
	close(sv[1]);
	EXPECT_TRUE(EVENTUALLY(hung_up(self->fd[1])));
	EXPECT_TRUE(EVENTUALLY(!strcmp("0", fdinfo(self->group, "members"))));
	EXPECT_TRUE(EVENTUALLY(!dev_add(self->group, self->fd[1], 2)));
}

/* -------------------------------------------------------------- ENTER, waiting */

/* A thread in ENTER on a group. */
struct sleeper {
	int group;
	uint32_t flags, n, wait;
	const struct evering_group_ring *rings;
	int ret;
	pid_t tid;
	bool done;
	pthread_t thread;
};

static void *sleep_in_thread(void *arg)
{
	struct sleeper *s = arg;
	int64_t until = now_ns() + PLENTY;

	__atomic_store_n(&s->tid, my_tid(), __ATOMIC_RELEASE);
	s->ret = dev_group_enter(s->group, s->flags, s->rings, s->n, 1,
				 (uint64_t)until);
	if (now_ns() >= until)
		s->ret = TOO_LATE;
	__atomic_store_n(&s->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool is_done(const struct sleeper *s)
{
	return __atomic_load_n(&s->done, __ATOMIC_ACQUIRE);
}

static bool start(struct sleeper *s, int group)
{
	s->group = group;
	s->tid = 0;
	s->done = false;
	if (pthread_create(&s->thread, NULL, sleep_in_thread, s))
		return false;
	return EVENTUALLY(is_done(s) || is_asleep(&s->tid)) && !is_done(s);
}

static int result(struct sleeper *s)
{
	pthread_join(s->thread, NULL);
	return s->ret;
}

TEST_F(group, a_wait_for_what_is_there_and_for_what_is_not)
{
	int flags = fcntl(self->group, F_GETFL);
	uint64_t until = in(5 * MSEC);

	ASSERT_EQ(0, dev_add(self->group, self->fd[1], 20));
	/* Waiting takes no bit. */
	EXPECT_EQ(0, dev_group_enter(self->group, 0, NULL, 0, 1, 0));
	EXPECT_EQ(0, dev_group_wait(self->group));
	EXPECT_EQ(20, take_one(self->page));
	EXPECT_EQ(-ETIMEDOUT,
		  dev_group_enter(self->group, 0, NULL, 0, 1, until));
	EXPECT_GE((uint64_t)now_ns(), until);
	EXPECT_EQ(-ETIMEDOUT, dev_group_enter(self->group, 0, NULL, 0, 1, 0));
	EXPECT_EQ(0, dev_group_enter(self->group, 0, NULL, 0, 0, 0));
	ASSERT_EQ(0, fcntl(self->group, F_SETFL, flags | O_NONBLOCK));
	EXPECT_EQ(-EAGAIN,
		  dev_group_enter(self->group, 0, NULL, 0, 1, EVERING_FOREVER));
	ASSERT_EQ(0, dev_ring(self->group, 1));
	EXPECT_EQ(0,
		  dev_group_enter(self->group, 0, NULL, 0, 1, EVERING_FOREVER));
	/* Any bit of the summary, as its owner may write there. */
	EXPECT_EQ(1, take_one(self->page));
	self->page->summary[7] = 1ull << 63;
	EXPECT_EQ(0, dev_group_enter(self->group, 0, NULL, 0, 1, 0));
	self->page->summary[7] = 0;
	self->page->ready[0] = 1;
	EXPECT_EQ(-EAGAIN, dev_group_enter(self->group, 0, NULL, 0, 1, 0));
}

TEST_F(group, what_wakes_a_sleeper)
{
	struct sleeper s = { 0 };
	int i;

	for (i = 0; i < 10; i++) {
		ASSERT_TRUE(start(&s, self->group));
		ASSERT_EQ(0, dev_add(self->group, self->fd[1], 21));
		EXPECT_EQ(0, result(&s));
		EXPECT_EQ(21, take_one(self->page));

		arm(self->b.own, RX);
		ASSERT_TRUE(start(&s, self->group));
		EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
		EXPECT_EQ(0, result(&s));
		EXPECT_EQ(21, take_one(self->page));

		ASSERT_TRUE(start(&s, self->group));
		EXPECT_EQ(0, dev_ring(self->group, 22));
		EXPECT_EQ(0, result(&s));
		EXPECT_EQ(22, take_one(self->page));
		ASSERT_EQ(0, dev_remove(self->group, self->fd[1]));
	}
	ASSERT_EQ(0, add_quiet(self, 21));
	ASSERT_TRUE(start(&s, self->group));
	side_unmap(&self->a);
	EXPECT_EQ(0, result(&s));
	EXPECT_EQ(21, take_one(self->page));
}

/* What an endpoint is woken by on its own it is woken by in a group, too. */
TEST_F(group, the_members_own_sleeper_poller_and_eventfd)
{
	struct sleeper s = { 0 };
	int efd = eventfd(0, EFD_NONBLOCK);
	pid_t pid;

	ASSERT_EQ(0, add_quiet(self, 23));
	ASSERT_EQ(0, dev_set_eventfd(self->fd[1], efd));
	arm(self->b.own, RX);
	ASSERT_TRUE(start(&s, self->group));
	pid = fork();
	if (!pid)
		_exit(dev_wait(self->fd[1], RX) != RX);
	ASSERT_TRUE(falls_asleep(&pid));
	EXPECT_EQ(0, poll_now(self->fd[1], POLLIN));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, result(&s));
	EXPECT_EQ(POLLIN, poll_now(self->fd[1], POLLIN));
	EXPECT_EQ(1, signals_of(efd));
	EXPECT_EQ(23, take_one(self->page));
}

TEST_F(group, several_threads_in_one)
{
	struct sleeper s[8] = { 0 };
	size_t i;

	ASSERT_EQ(0, add_quiet(self, 24));
	arm(self->b.own, RX);
	for (i = 0; i < ARRAY_SIZE(s); i++)
		ASSERT_TRUE(start(&s[i], self->group));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	for (i = 0; i < ARRAY_SIZE(s); i++)
		EXPECT_EQ(0, result(&s[i]));
	EXPECT_EQ(24, take_one(self->page));
}

TEST_F(group, a_crowd)
{
	static struct sleeper s[65];
	size_t i;

	/* The first has the sleeper's place, 64 more wait in the queue. */
	for (i = 0; i < ARRAY_SIZE(s); i++)
		ASSERT_TRUE(start(&s[i], self->group));
	EXPECT_EQ(-EBUSY,
		  dev_group_enter(self->group, 0, NULL, 0, 1, EVERING_FOREVER));
	EXPECT_EQ(POLLERR, poll_now_waiting(self->group, POLLIN));
	EXPECT_EQ(0, dev_ring(self->group, 0));
	for (i = 0; i < ARRAY_SIZE(s); i++)
		EXPECT_EQ(0, result(&s[i]));
	EXPECT_EQ(0, take_one(self->page));
	EXPECT_EQ(0, poll_now(self->group, POLLIN));
}

/* As at an endpoint: dev_poll. */
TEST_F(group, one_that_came_to_a_crowd_hears_when_that_has_gone)
{
	int ep[64], late;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(ep); i++)
		ep[i] = epoll_on(self->group, EPOLLIN);
	late = epoll_on(self->group, EPOLLIN);
	EXPECT_EQ(EPOLLERR, epoll_now(late));
	for (i = 0; i < ARRAY_SIZE(ep); i++)
		close(ep[i]);
	EXPECT_EQ(0, poll_now(self->group, POLLIN));
	EXPECT_EQ(0, poll_now_waiting(self->group, POLLIN));
	EXPECT_EQ(0, epoll_now(late));
	EXPECT_EQ(0, dev_ring(self->group, 7));
	EXPECT_EQ(EPOLLIN, epoll_now(late));
}

static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
	(void)sig;
	handled++;
}

static void handle_usr1(int flags)
{
	struct sigaction action = { .sa_handler = on_signal,
				    .sa_flags = flags };

	handled = 0;
	sigaction(SIGUSR1, &action, NULL);
}

TEST_F(group, signals)
{
	struct evering_group_ring ring = { self->fd[1], RX };
	struct sleeper s = { 0 };
	int i;

	handle_usr1(0);
	ASSERT_TRUE(start(&s, self->group));
	pthread_kill(s.thread, SIGUSR1);
	EXPECT_EQ(-EINTR, result(&s));
	handle_usr1(SA_RESTART);
	s.flags = EVERING_ENTER_NO_RESTART;
	ASSERT_TRUE(start(&s, self->group));
	pthread_kill(s.thread, SIGUSR1);
	EXPECT_EQ(-EINTR, result(&s));

	/* It rings once, however often it is restarted, and does not forget it. */
	handle_usr1(SA_RESTART);
	s.flags = 0;
	s.rings = &ring;
	s.n = 1;
	arm(self->a.own, RX);
	ASSERT_TRUE(start(&s, self->group));
	EXPECT_EQ(0, armed(self->a.own));
	for (i = 1; i <= 10; i++) {
		arm(self->a.own, RX);
		pthread_kill(s.thread, SIGUSR1);
		ASSERT_TRUE(EVENTUALLY(handled == i));
		ASSERT_TRUE(falls_asleep(&s.tid));
		EXPECT_EQ(RX, armed(self->a.own));
	}
	EXPECT_EQ(0, dev_ring(self->group, 1));
	EXPECT_EQ(1, result(&s));
}

static int sleeps_for_ever(void *arg)
{
	dev_group_enter(*(int *)arg, 0, NULL, 0, 1, EVERING_FOREVER);
	return 1;
}

TEST_F(group, a_sleeper_that_is_killed)
{
	pid_t pid = spawn(sleeps_for_ever, &self->group);

	ASSERT_TRUE(falls_asleep(&pid));
	kill(pid, SIGKILL);
	EXPECT_EQ(128 + SIGKILL, reap(pid));
	/* It has left its place. */
	EXPECT_EQ(0, dev_ring(self->group, 3));
	EXPECT_EQ(0, dev_group_wait(self->group));
}

/* --------------------------------------------------------------- ENTER, ringing */

TEST_F(group, a_list_of_peers)
{
	enum {
		N = EVERING_MAX_GROUP_RINGS
	};
	struct evering_group_ring ring[N + 1];
	struct side a[N], b;
	int fd[N][2], i;

	for (i = 0; i < N; i++) {
		ASSERT_EQ(0, dev_pair(self->dev, G, fd[i]));
		ASSERT_EQ(0, side_map(&a[i], G, fd[i][0], EVERING_A));
		arm(a[i].own, RX | TX);
		ring[i].fd = fd[i][1];
		ring[i].bells = i % 3 ? (uint32_t)i % 3 : RX | TX;
		/* A member or not, that does not matter. */
		if (i % 2) {
			ASSERT_EQ(0, side_attach(&b, G, fd[i][1], EVERING_B));
			ASSERT_EQ(0, dev_add(self->group, fd[i][1], 30 + i));
		}
	}
	ring[N] = ring[0];
	EXPECT_EQ(-E2BIG, dev_group_enter(self->group, 0, ring, N + 1, 0, 0));
	EXPECT_EQ(-E2BIG, dev_group_enter(self->group, 0, ring, ~0u, 0, 0));
	EXPECT_EQ(RX | TX, armed(a[0].own));
	/* 22 have both bells. */
	EXPECT_EQ(N + 22, dev_group_enter(self->group, 0, ring, N, 0, 0));
	for (i = 0; i < N; i++)
		EXPECT_EQ((RX | TX) & ~ring[i].bells, armed(a[i].own));
	EXPECT_EQ(0, dev_group_enter(self->group, 0, ring, N, 1, 0));
	arm(a[1].own, RX);
	arm(a[2].own, TX);
	EXPECT_EQ(2, dev_group_enter(self->group, 0, ring, N, 1, 0));
	/* One and the same is rung once. */
	for (i = 0; i < N; i++)
		ring[i] = ring[1];
	arm(a[1].own, RX);
	EXPECT_EQ(1, dev_group_enter(self->group, 0, ring, N, 0, 0));
}

TEST_F(group, lists_that_are_refused)
{
	struct evering_group_ring ring[3] = {
		{ self->fd[1], RX },
		{ self->fd[1], TX },
		{ self->fd[1], RX },
	};
	struct evering_group_enter enter = { .size = sizeof(enter) };
	const uint32_t bad[] = { 0, 4, 8, EVERING_RING_SELF | RX, ~0u };
	size_t i;

	arm(self->a.own, RX | TX);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ring[2].bells = bad[i];
		EXPECT_EQ(-EINVAL,
			  dev_group_enter(self->group, 0, ring, 3, 0, 0));
	}
	ring[2].bells = RX;
	EXPECT_EQ(-EFAULT, dev_group_enter(self->group, 0, NULL, 3, 0, 0));
	EXPECT_EQ(-EFAULT,
		  dev_group_enter(self->group, 0, (void *)~7ul, 1, 0, 0));
	EXPECT_EQ(-EINVAL, dev_group_enter(self->group, 0, ring, 3, 2, 0));
	EXPECT_EQ(-EINVAL, dev_group_enter(self->group, EVERING_ENTER_FLAGS + 1,
					   ring, 3, 0, 0));
	enter.size = sizeof(enter) - 1;
	EXPECT_EQ(-EINVAL, dev_ioctl(self->group, EVERING_IOC_ENTER, &enter));
	EXPECT_EQ(-EFAULT, dev_ioctl(self->group, EVERING_IOC_ENTER, NULL));
	/* Nobody was rung so far; now those before the one that is wrong are. */
	EXPECT_EQ(RX | TX, armed(self->a.own));
	ring[1].fd = -1;
	EXPECT_EQ(-EBADF,
		  dev_group_enter(self->group, 0, ring, 3, 1, EVERING_FOREVER));
	EXPECT_EQ(TX, armed(self->a.own));
	ring[0].fd = self->group;
	EXPECT_EQ(-EINVAL,
		  dev_group_enter(self->group, 0, ring, 3, 1, EVERING_FOREVER));
	EXPECT_EQ(TX, armed(self->a.own));
	/* As if it had been interrupted. */
	EXPECT_EQ(5, dev_group_enter(self->group, EVERING_ENTER_RUNG, ring, 5,
				     0, 0));
	EXPECT_EQ(-EINVAL,
		  dev_group_enter(self->group, EVERING_ENTER_RUNG, ring,
				  2 * EVERING_MAX_GROUP_RINGS + 1, 0, 0));
	EXPECT_EQ(-EINVAL, dev_group_enter(self->group, EVERING_ENTER_RUNG,
					   ring, ~0u, 0, 0));
	EXPECT_EQ(TX, armed(self->a.own));
}

/* ------------------------------------------------------------------------- poll */

TEST_F(group, poll_tells_while_a_bit_is_set)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET }, got;
	int ep = epoll_create1(EPOLL_CLOEXEC);

	ASSERT_EQ(0, epoll_ctl(ep, EPOLL_CTL_ADD, self->group, &ev));
	EXPECT_EQ(0, epoll_wait(ep, &got, 1, 0));
	EXPECT_EQ(0, poll_now(self->group, POLL_ALL));
	ASSERT_EQ(0, dev_add(self->group, self->fd[1], 40));
	EXPECT_EQ(POLLIN, poll_now(self->group, POLL_ALL));
	EXPECT_EQ(1, epoll_wait(ep, &got, 1, 0));
	EXPECT_EQ(0, epoll_wait(ep, &got, 1, 0));
	EXPECT_EQ(40, take_one(self->page));
	EXPECT_EQ(0, poll_now(self->group, POLL_ALL));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(1, epoll_wait(ep, &got, 1, 0));
	EXPECT_EQ(POLLIN, poll_now(self->group, POLL_ALL));
	EXPECT_EQ(40, take_one(self->page));
	side_unmap(&self->a);
	EXPECT_EQ(1, epoll_wait(ep, &got, 1, 0));
	/* A group does not hang up. */
	EXPECT_EQ(POLLIN, poll_now(self->group, POLL_ALL));
}

static int polls(void *arg)
{
	return poll_within(*(int *)arg, POLLIN) ? 0 : 1;
}

TEST_F(group, poll_sleeps_until_a_member_is_rung)
{
	pid_t pid;

	ASSERT_EQ(0, add_quiet(self, 41));
	arm(self->b.own, RX);
	pid = spawn(polls, &self->group);
	ASSERT_TRUE(falls_asleep(&pid));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(0, reap(pid));
}

/* ------------------------------------------------------------------------ races */

/*
 * One owner; ringers, each of which sends a message through a random channel of its own
 * and waits until the owner has it; and one who removes members and adds them again.
 * A wake-up that is lost is a message that nobody takes.
 */
#define CHANNELS 80
#define RINGERS 2

struct crowd {
	int fd[CHANNELS][2];
	struct side a[CHANNELS], b[CHANNELS];
	int group;
	struct evering_group_page *page;
	uint32_t taken[CHANNELS];
	uint32_t rounds;
	bool polls; /* the owner sleeps in poll(2) */
	bool over;
	int error;
};

struct ringer {
	struct crowd *c;
	unsigned int who;
	pthread_t thread;
};

static uint32_t *word_of(struct evering_half *half)
{
	return (uint32_t *)((unsigned char *)half + EVERING_SLOTS_OFFSET);
}

static bool is_over(const struct crowd *c)
{
	return __atomic_load_n(&c->over, __ATOMIC_RELAXED);
}

static void give_up(struct crowd *c, int error)
{
	__atomic_store_n(&c->error, error, __ATOMIC_RELAXED);
	__atomic_store_n(&c->over, true, __ATOMIC_RELAXED);
}

static void *ring_many(void *arg)
{
	struct ringer *r = arg;
	struct crowd *c = r->c;
	uint32_t sent[CHANNELS] = { 0 };
	uint64_t seed = 1 + r->who;
	int64_t until;
	uint32_t i;

	for (i = 0; i < c->rounds && !is_over(c); i++) {
		unsigned int at =
			(unsigned int)random_below(&seed, CHANNELS / RINGERS) *
				RINGERS +
			r->who;

		__atomic_store_n(word_of(c->a[at].own), ++sent[at],
				 __ATOMIC_RELEASE);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (armed(c->a[at].peer) & RX)
			dev_ring(c->fd[at][0], RX);
		until = now_ns() + PLENTY;
		while (__atomic_load_n(&c->taken[at], __ATOMIC_ACQUIRE) !=
		       sent[at]) {
			sched_yield();
			if (is_over(c))
				return NULL;
			if (now_ns() > until)
				give_up(c, TOO_LATE);
		}
	}
	return NULL;
}

static void *come_and_go(void *arg)
{
	struct crowd *c = arg;
	uint64_t seed = 99;
	unsigned int at;
	int ret;

	while (!is_over(c)) {
		at = (unsigned int)random_below(&seed, CHANNELS);
		ret = dev_remove(c->group, c->fd[at][1]);
		if (!ret)
			ret = dev_add(c->group, c->fd[at][1],
				      (uint32_t)random_below(&seed, 3) *
						      CHANNELS +
					      at);
		if (ret)
			give_up(c, ret);
		sched_yield();
	}
	return NULL;
}

static void look_at(struct crowd *c, unsigned int at)
{
	uint32_t n;

	do {
		n = __atomic_load_n(word_of(c->b[at].peer), __ATOMIC_ACQUIRE);
		__atomic_store_n(&c->taken[at], n, __ATOMIC_RELEASE);
		arm(c->b[at].own, RX);
	} while (__atomic_load_n(word_of(c->b[at].peer), __ATOMIC_SEQ_CST) !=
		 n);
}

static void *own_group(void *arg)
{
	uint64_t ready[EVERING_GROUP_WORDS];
	struct crowd *c = arg;
	unsigned int i;
	int ret = 0;

	while (!is_over(c)) {
		take_ready(c->page, ready);
		for (i = 0; i < 3 * CHANNELS; i++)
			if (ready[i / 64] >> i % 64 & 1)
				look_at(c, i % CHANNELS);
		if (c->polls)
			ret = poll_within(c->group, POLLIN) ? 0 : TOO_LATE;
		else
			ret = dev_group_wait(c->group);
		if (ret)
			give_up(c, ret);
	}
	return NULL;
}

static void race(struct __test_metadata *_metadata, FIXTURE_DATA(group) * self,
		 bool polls, bool churn)
{
	struct ringer ringer[RINGERS];
	pthread_t owner, mover;
	struct crowd *c = calloc(1, sizeof(*c));
	unsigned int i;

	ASSERT_NE(NULL, c);
	c->group = self->group;
	c->page = self->page;
	c->polls = polls;
	c->rounds = short_run() ? 3000 : 30000;
	for (i = 0; i < CHANNELS; i++) {
		ASSERT_EQ(0, dev_pair(self->dev, G, c->fd[i]));
		ASSERT_EQ(0, side_map(&c->a[i], G, c->fd[i][0], EVERING_A));
		ASSERT_EQ(0, side_attach(&c->b[i], G, c->fd[i][1], EVERING_B));
		ASSERT_EQ(0, dev_add(self->group, c->fd[i][1], i));
	}
	ASSERT_EQ(0, pthread_create(&owner, NULL, own_group, c));
	if (churn)
		ASSERT_EQ(0, pthread_create(&mover, NULL, come_and_go, c));
	for (i = 0; i < RINGERS; i++) {
		ringer[i] = (struct ringer){ .c = c, .who = i };
		ASSERT_EQ(0, pthread_create(&ringer[i].thread, NULL, ring_many,
					    &ringer[i]));
	}
	for (i = 0; i < RINGERS; i++)
		pthread_join(ringer[i].thread, NULL);
	__atomic_store_n(&c->over, true, __ATOMIC_RELAXED);
	if (churn)
		pthread_join(mover, NULL);
	dev_ring(self->group, EVERING_GROUP_MEMBERS - 1);
	pthread_join(owner, NULL);
	EXPECT_EQ(0, c->error);
	free(c);
}

TEST_F_TIMEOUT(group, no_wake_up_is_lost, 300)
{
	race(_metadata, self, false, false);
}

TEST_F_TIMEOUT(group, no_wake_up_of_a_poller_is_lost, 300)
{
	race(_metadata, self, true, false);
}

TEST_F_TIMEOUT(group, members_come_and_go_while_others_ring, 300)
{
	race(_metadata, self, false, true);
}

/* Files of both ends and of groups are closed while they are rung, added, removed. */
struct closer {
	int dev;
	int *group; /* the other's */
	int fd[2];
	bool over;
};

static void *ring_and_ring(void *arg)
{
	struct closer *c = arg;

	while (!__atomic_load_n(&c->over, __ATOMIC_RELAXED)) {
		dev_ring(c->fd[0], RX | TX);
		dev_enter(c->fd[0], RX, 0, 0);
		dev_add(*c->group, c->fd[1], 1);
		dev_remove(*c->group, c->fd[1]);
		dev_group_enter(*c->group, 0,
				&(struct evering_group_ring){ c->fd[0], RX }, 1,
				1, 0);
	}
	return NULL;
}

TEST_F_TIMEOUT(group, files_are_closed_in_any_order_while_they_are_used, 300)
{
	int rounds = short_run() ? 300 : 3000, i, order;
	int group = -1;
	struct closer c = { .dev = self->dev, .group = &group };
	pthread_t thread;
	struct side b;

	for (i = 0; i < rounds; i++) {
		group = dev_group(self->dev, 0);
		ASSERT_GE(group, 0);
		ASSERT_EQ(0, dev_pair(self->dev, G, c.fd));
		ASSERT_EQ(0, side_attach(&b, G, c.fd[1], EVERING_B));
		c.over = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, ring_and_ring, &c));
		dev_add(group, c.fd[1], 0);
		arm(b.own, RX | TX);
		for (order = 0; order < 3; order++) {
			arm(b.own, RX | TX);
			switch ((i + order) % 3) {
			case 0:
				close(c.fd[0]);
				break;
			case 1:
				side_unmap(&b);
				close(c.fd[1]);
				side_map(&b, G, self->fd[1], EVERING_B);
				break;
			case 2:
				close(group);
				break;
			}
		}
		__atomic_store_n(&c.over, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		side_unmap(&b);
	}
}

/* ------------------------------------------------------------------------- many */

TEST_F_TIMEOUT(group, ten_thousand_members, 600)
{
	const uint32_t n = short_run() ? 1000 : 10000;
	struct rlimit limit = { 2 * n + 64, 2 * n + 64 };
	uint64_t ready[EVERING_GROUP_WORDS];
	struct side *b = calloc(n, sizeof(*b));
	int(*fd)[2] = calloc(n, sizeof(*fd));
	uint32_t i;
	int ret;

	ASSERT_TRUE(b && fd);
	if (setrlimit(RLIMIT_NOFILE, &limit))
		SKIP(return, "no limit of so many descriptors");
	for (i = 0; i < n; i++) {
		ret = dev_pair(self->dev, G, fd[i]);
		if (ret == -ENOMEM || ret == -EDQUOT)
			SKIP(return, "no memory for more than %u", i);
		ASSERT_EQ(0, ret);
		ASSERT_EQ(0, side_attach(&b[i], G, fd[i][1], EVERING_B));
		ASSERT_EQ(0, dev_add(self->group, fd[i][1], i));
		arm(b[i].own, RX);
	}
	EXPECT_EQ(n, take_ready(self->page, ready));
	EXPECT_EQ(-ETIMEDOUT, dev_group_enter(self->group, 0, NULL, 0, 1, 0));
	for (i = 0; i < n; i += 97) {
		ASSERT_EQ(RX, dev_ring(fd[i][0], RX));
		EXPECT_EQ(0, dev_group_wait(self->group));
		ASSERT_EQ((int)i, take_one(self->page));
	}
	for (i = 0; i < n; i++)
		close(fd[i][0]);
	EXPECT_EQ(n, take_ready(self->page, ready));
	free(b);
	free(fd);
}

TEST_HARNESS_MAIN
