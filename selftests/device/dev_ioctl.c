// SPDX-License-Identifier: MIT
/*
 * dev_ioctl.c: the arguments of the ioctls of /dev/evering: every command with
 * every kind of wrong struct and pointer, which all end in the errno that the
 * header promises and change nothing; what right ones give back; and the same
 * from a 32-bit caller.  What the commands are for is tested elsewhere.
 */
#include "dev.h"

#include <sys/stat.h>

/* ------------------------------------------ all commands that take a struct */

union any_arg {
	struct {
		uint32_t size;
		uint32_t flags;
	};
	struct evering_info info;
	struct evering_create create;
	struct evering_enter enter;
	struct evering_set_eventfd set_eventfd;
	struct evering_peer_cred peer_cred;
	struct evering_attach attach;
	struct evering_grow grow;
	char bytes[3 * 65536]; /* pages, of whatever size */
};

FIXTURE(command)
{
	int dev;
	int fd[2];
	int target; /* what the command is for */
	union any_arg *arg; /* a right one, with nothing behind it */
	char *pages; /* three, of which the last is no memory */
	int fds; /* open, before the command */
	int next;
};

FIXTURE_VARIANT(command)
{
	unsigned int cmd;
	uint32_t size;
	uint32_t flags; /* those that exist */
	bool on_device;
	bool writes; /* into its argument */
};

FIXTURE_VARIANT_ADD(command, info){
	.cmd = EVERING_IOC_INFO,
	.size = sizeof(struct evering_info),
	.on_device = true,
	.writes = true,
};

FIXTURE_VARIANT_ADD(command, create){
	.cmd = EVERING_IOC_CREATE,
	.size = sizeof(struct evering_create),
	.flags = EVERING_CREATE_FLAGS,
	.on_device = true,
	.writes = true,
};

FIXTURE_VARIANT_ADD(command, enter){
	.cmd = EVERING_IOC_ENTER,
	.size = sizeof(struct evering_enter),
	.flags = EVERING_ENTER_FLAGS,
};

FIXTURE_VARIANT_ADD(command, set_eventfd){
	.cmd = EVERING_IOC_SET_EVENTFD,
	.size = sizeof(struct evering_set_eventfd),
};

FIXTURE_VARIANT_ADD(command, peer_cred){
	.cmd = EVERING_IOC_PEER_CRED,
	.size = sizeof(struct evering_peer_cred),
	.writes = true,
};

FIXTURE_VARIANT_ADD(command, attach){
	.cmd = EVERING_IOC_ATTACH,
	.size = sizeof(struct evering_attach),
	.writes = true,
};

FIXTURE_VARIANT_ADD(command, grow){
	.cmd = EVERING_IOC_GROW,
	.size = sizeof(struct evering_grow),
};

static void set_right(union any_arg *arg, unsigned int cmd, uint32_t size)
{
	memset(arg, 0, size);
	arg->size = size;
	switch (cmd) {
	case EVERING_IOC_CREATE:
		arg->create.geometry = least_geometry;
		break;
	case EVERING_IOC_SET_EVENTFD:
		arg->set_eventfd.fd = -1;
		break;
	}
}

FIXTURE_SETUP(command)
{
	void *half;

	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, &least_geometry, self->fd));
	/* For PEER_CRED there must be a peer, for ATTACH we must be one. */
	half = map_region(&least_geometry, self->fd[1], EVERING_REGION_HALF_B,
			  PROT_READ);
	ASSERT_NE(MAP_FAILED, half);
	ASSERT_EQ(0, dev_attach(self->fd[1]));
	half = map_region(&least_geometry, self->fd[0], EVERING_REGION_HALF_A,
			  PROT_READ);
	ASSERT_NE(MAP_FAILED, half);
	self->target = variant->on_device ? self->dev : self->fd[0];
	self->pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->pages);
	ASSERT_EQ(0, munmap(self->pages + 3 * PAGE, PAGE));
	self->arg = (union any_arg *)self->pages;
	set_right(self->arg, variant->cmd, variant->size);
	self->fds = count_fds();
	self->next = next_fd();
}

FIXTURE_TEARDOWN(command)
{
}

/* What CREATE made is of no use here. */
static int try(int fd, unsigned int cmd, void *arg)
{
	int ret = dev_ioctl(fd, cmd, arg);

	if (!ret && cmd == EVERING_IOC_CREATE) {
		struct evering_create create;

		memcpy(&create, arg, sizeof(create));
		close(create.fd[0]);
		close(create.fd[1]);
	}
	return ret;
}

#define TRY(p) try(self->target, variant->cmd, p)

/* A command that failed has made no descriptor. */
#define EXPECT_SAME_FDS()                          \
	do {                                       \
		EXPECT_EQ(self->fds, count_fds()); \
		EXPECT_EQ(self->next, next_fd());  \
	} while (0)

TEST_F(command, a_right_one_succeeds)
{
	EXPECT_EQ(0, TRY(self->arg));
	EXPECT_EQ(variant->size, self->arg->size);
	EXPECT_SAME_FDS();
}

TEST_F(command, a_short_size_is_refused)
{
	uint32_t size;

	for (size = 0; size < variant->size; size++) {
		self->arg->size = size;
		EXPECT_EQ(-EINVAL, TRY(self->arg));
	}
	EXPECT_SAME_FDS();
}

TEST_F(command, a_longer_one_with_a_zero_tail_succeeds)
{
	static const uint32_t more[] = { 1, 2, 3, 4, 7, 8, 64, 1000 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(more); i++) {
		set_right(self->arg, variant->cmd, variant->size);
		self->arg->size = variant->size + more[i];
		/* What follows is not part of it. */
		self->arg->bytes[self->arg->size] = 1;
		EXPECT_EQ(0, TRY(self->arg));
		EXPECT_EQ(variant->size + more[i], self->arg->size);
		EXPECT_EQ(1, self->arg->bytes[self->arg->size]);
		self->arg->bytes[self->arg->size] = 0;
	}
	set_right(self->arg, variant->cmd, variant->size);
	self->arg->size = PAGE;
	EXPECT_EQ(0, TRY(self->arg));
	EXPECT_SAME_FDS();
}

TEST_F(command, a_longer_one_with_something_in_its_tail_is_refused)
{
	uint32_t at;

	self->arg->size = variant->size + 24;
	for (at = variant->size; at < self->arg->size; at++) {
		self->arg->bytes[at] = 0x10;
		EXPECT_EQ(-E2BIG, TRY(self->arg));
		self->arg->bytes[at] = 0;
	}
	EXPECT_SAME_FDS();
}

TEST_F(command, a_size_that_no_struct_has_is_refused)
{
	const uint32_t page = PAGE;
	const uint32_t sizes[] = { page + 1,   2 * page,   16 * page,
				   0x7fffffff, 0x80000000, 0xffff0000,
				   0xffffffff };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		self->arg->size = sizes[i];
		EXPECT_EQ(-E2BIG, TRY(self->arg));
	}
	EXPECT_SAME_FDS();
}

TEST_F(command, unknown_flags_are_refused)
{
	uint32_t bit;

	for (bit = 0; bit < 32; bit++) {
		set_right(self->arg, variant->cmd, variant->size);
		self->arg->flags = 1u << bit;
		EXPECT_EQ(variant->flags & 1u << bit ? 0 : -EINVAL,
			  TRY(self->arg));
	}
	self->arg->flags = ~0u;
	EXPECT_EQ(-EINVAL, TRY(self->arg));
	EXPECT_SAME_FDS();
}

TEST_F(command, pointers_to_nothing_are_refused)
{
	const uint64_t nothing[] = {
		0,
		1,
		8,
		PAGE,
		0x7ffffffff000,
		0x7fffffffffff,
		0x800000000000,
		0xffff800000000000,
		0xffff888000000000,
		0xffffffff81000000,
		0xfffffffffffff000,
		0xfffffffffffffff8,
		~0ull,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(nothing); i++)
		EXPECT_EQ(-EFAULT, TRY((void *)(uintptr_t)nothing[i]));
	EXPECT_SAME_FDS();
}

TEST_F(command, memory_that_cannot_be_read_is_refused)
{
	ASSERT_EQ(0, mprotect(self->pages, PAGE, PROT_NONE));
	EXPECT_EQ(-EFAULT, TRY(self->pages));
	ASSERT_EQ(0, mprotect(self->pages, PAGE, PROT_READ));
	EXPECT_SAME_FDS();
}

/* Outputs have nowhere to go; commands without them do not mind. */
TEST_F(command, memory_that_cannot_be_written)
{
	int i;

	ASSERT_EQ(0, mprotect(self->pages, PAGE, PROT_READ));
	for (i = 0; i < 100; i++)
		EXPECT_EQ(variant->writes ? -EFAULT : 0, TRY(self->pages));
	EXPECT_SAME_FDS();
}

TEST_F(command, a_struct_may_end_where_memory_ends)
{
	char *p = self->pages + 3 * PAGE - variant->size;

	set_right((union any_arg *)p, variant->cmd, variant->size);
	EXPECT_EQ(0, TRY(p));
	/* Its tail, too, must be there to be zero. */
	set_right((union any_arg *)p, variant->cmd, variant->size);
	((union any_arg *)p)->size++;
	EXPECT_EQ(-EFAULT, TRY(p));
	EXPECT_SAME_FDS();
}

TEST_F(command, a_short_size_is_refused_wherever_memory_ends)
{
	char *end = self->pages + 3 * PAGE;
	uint32_t size;

	for (size = sizeof(size); size < variant->size; size++) {
		memset(end - size, 0, size);
		memcpy(end - size, &size, sizeof(size));
		EXPECT_EQ(-EINVAL, TRY(end - size));
	}
	EXPECT_SAME_FDS();
}

TEST_F(command, a_struct_that_runs_out_of_memory_is_refused)
{
	uint32_t there;

	for (there = 0; there < variant->size; there++) {
		char *p = self->pages + 3 * PAGE - there;
		union any_arg arg;

		set_right(&arg, variant->cmd, variant->size);
		memcpy(p, &arg, there);
		EXPECT_EQ(-EFAULT, TRY(p));
	}
	EXPECT_SAME_FDS();
}

/* The part that is written lies on a page that cannot be, the rest does not. */
TEST_F(command, a_struct_that_runs_into_read_only_memory)
{
	uint32_t there;

	if (!variant->writes)
		return;
	for (there = 1; there < variant->size; there++) {
		char *p = self->pages + PAGE - there;
		union any_arg arg;

		set_right(&arg, variant->cmd, variant->size);
		memcpy(p, &arg, variant->size);
		ASSERT_EQ(0, mprotect(self->pages + PAGE, PAGE, PROT_READ));
		EXPECT_EQ(-EFAULT, TRY(p));
		ASSERT_EQ(0, mprotect(self->pages + PAGE, PAGE,
				      PROT_READ | PROT_WRITE));
	}
	EXPECT_SAME_FDS();
}

TEST_F(command, alignment_does_not_matter)
{
	union any_arg arg;
	int by;

	for (by = 0; by < 16; by++) {
		char *p = self->pages + by;

		set_right(&arg, variant->cmd, variant->size);
		memcpy(p, &arg, variant->size);
		EXPECT_EQ(0, TRY(p));
		/* Across two pages. */
		p = self->pages + PAGE - 8 - by;
		memcpy(p, &arg, variant->size);
		EXPECT_EQ(0, TRY(p));
	}
	EXPECT_SAME_FDS();
}

struct flipper {
	uint32_t *size;
	uint32_t right;
	bool stop;
};

static void *flip_size(void *arg)
{
	const uint32_t sizes[] = { 0, PAGE, 2 * PAGE, ~0u };
	struct flipper *f = arg;
	unsigned int i = 0;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		__atomic_store_n(f->size, sizes[i++ % 4], __ATOMIC_RELAXED);
		__atomic_store_n(f->size, f->right, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* What was checked is what is used: nothing behind the struct is written. */
TEST_F(command, a_size_that_changes_meanwhile_does_no_harm)
{
	char *p = self->pages + 3 * PAGE - variant->size - 8;
	struct flipper f = { .size = (uint32_t *)p, .right = variant->size };
	pthread_t thread;
	int i, ret;

	set_right((union any_arg *)p, variant->cmd, variant->size);
	memset(p + variant->size, 0x77, 8);
	ASSERT_EQ(0, pthread_create(&thread, NULL, flip_size, &f));
	for (i = 0; i < 2000; i++) {
		ret = TRY(p);
		if (ret && ret != -EINVAL && ret != -E2BIG)
			EXPECT_EQ(-EFAULT, ret);
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	for (i = 0; i < 8; i++)
		EXPECT_EQ(0x77, p[variant->size + i]);
	EXPECT_SAME_FDS();
}

TEST_F(command, another_file_does_not_have_it)
{
	int other = variant->on_device ? self->fd[0] : self->dev;
	int sv[2], pipes[2];

	EXPECT_EQ(-ENOTTY, try(other, variant->cmd, self->arg));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	ASSERT_EQ(0, pipe(pipes));
	EXPECT_EQ(-ENOTTY, try(sv[0], variant->cmd, self->arg));
	EXPECT_EQ(-ENOTTY, try(pipes[0], variant->cmd, self->arg));
	EXPECT_EQ(-ENOTTY,
		  try(open("/dev/null", O_RDWR), variant->cmd, self->arg));
	EXPECT_EQ(-ENOTTY, try(open("/", O_RDONLY), variant->cmd, self->arg));
	EXPECT_EQ(-ENOTTY, try(eventfd(0, 0), variant->cmd, self->arg));
	EXPECT_EQ(-ENOTTY, try(memfd_create("m", 0), variant->cmd, self->arg));
	EXPECT_EQ(-EBADF,
		  try(open("/dev/evering", O_PATH), variant->cmd, self->arg));
	EXPECT_EQ(-EBADF, try(-1, variant->cmd, self->arg));
	EXPECT_EQ(-EBADF, try(4000, variant->cmd, self->arg));
}

/* --------------------------------------------------- what is special to one */

FIXTURE(device)
{
	int dev;
	int fd[2];
	struct side a, b;
};

FIXTURE_SETUP(device)
{
	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, self->fd));
	ASSERT_EQ(0, side_map(&self->a, &small_geometry, self->fd[0], 0));
	ASSERT_EQ(0, side_map(&self->b, &small_geometry, self->fd[1], 1));
}

FIXTURE_TEARDOWN(device)
{
}

TEST_F(device, everybody_may_open_it)
{
	struct stat st;

	ASSERT_EQ(0, stat("/dev/evering", &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(0666, st.st_mode & 0777);
}

TEST_F(device, unknown_commands_are_refused)
{
	static const unsigned int known[] = {
		EVERING_IOC_INFO,	 EVERING_IOC_CREATE,
		EVERING_IOC_RING,	 EVERING_IOC_ENTER,
		EVERING_IOC_SET_EVENTFD, EVERING_IOC_PEER_CRED,
		EVERING_IOC_ATTACH,	 EVERING_IOC_GROW,
		EVERING_IOC_GROUP,
	};
	char arg[4096] = { 0 };
	unsigned int nr, i;

	for (nr = 0; nr < 256; nr++) {
		unsigned int cmd = _IO(EVERING_IOC_MAGIC, nr);
		bool is_known = false;

		for (i = 0; i < ARRAY_SIZE(known); i++)
			is_known |= cmd == known[i];
		if (is_known)
			continue;
		EXPECT_EQ(-ENOTTY, dev_ioctl(self->dev, cmd, arg));
		EXPECT_EQ(-ENOTTY, dev_ioctl(self->fd[0], cmd, arg));
	}
	/* The number alone is not the command. */
	for (i = 0; i < ARRAY_SIZE(known); i++) {
		static const unsigned int others[] = {
			_IOC_READ << _IOC_DIRSHIFT, _IOC_WRITE << _IOC_DIRSHIFT,
			1 << _IOC_SIZESHIFT,	    56 << _IOC_SIZESHIFT,
			1 << _IOC_TYPESHIFT,
		};

		for (nr = 0; nr < ARRAY_SIZE(others); nr++) {
			unsigned int cmd = known[i] ^ others[nr];

			EXPECT_EQ(-ENOTTY, dev_ioctl(self->dev, cmd, arg));
			EXPECT_EQ(-ENOTTY, dev_ioctl(self->fd[0], cmd, arg));
		}
	}
}

TEST_F(device, the_device_itself_has_no_memory_and_no_contents)
{
	char c = 0;

	EXPECT_EQ(-ENODEV, try_map(PAGE, PROT_READ, MAP_SHARED, self->dev, 0));
	EXPECT_LT(read(self->dev, &c, 1), 0);
	EXPECT_LT(write(self->dev, &c, 1), 0);
}

static unsigned long long parameter(const char *name)
{
	char path[128];
	unsigned long long n = ~0ull;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/evering/parameters/%s", name);
	f = fopen(path, "re");
	if (f) {
		if (fscanf(f, "%llu", &n) != 1)
			n = ~0ull;
		fclose(f);
	}
	return n;
}

TEST_F(device, info_tells_abi_page_size_and_limits)
{
	struct evering_info info;
	unsigned long long n;

	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_EQ(sizeof(info), info.size);
	EXPECT_EQ(0, info.flags);
	EXPECT_EQ(EVERING_ABI_VERSION, info.abi);
	EXPECT_EQ(sysconf(_SC_PAGESIZE), info.page_size);
	EXPECT_EQ(EVERING_FEATURE_GROW | EVERING_FEATURE_GROUP, info.features);
	EXPECT_EQ(0, info.reserved);
	n = parameter("max_channel_mib");
	if (n != ~0ull)
		EXPECT_EQ(n << 20, info.max_channel_bytes);
	n = parameter("max_user_channels");
	if (n != ~0ull)
		EXPECT_EQ(n, info.max_user_channels);
	EXPECT_GT(info.max_user_bytes, 0);
	EXPECT_GE(info.max_total_bytes, 1);
}

static int create_with(int dev, uint32_t slot_size, uint32_t entries,
		       uint64_t arena_a, uint64_t arena_b)
{
	struct evering_geometry g = {
		.slot_size = slot_size,
		.entries = entries,
		.arena_size = { arena_a, arena_b },
	};
	int fd[2];
	int ret = dev_pair(dev, &g, fd);

	if (!ret) {
		close(fd[0]);
		close(fd[1]);
	}
	return ret;
}

TEST_F(device, geometries_that_cannot_be_are_refused)
{
	static const uint32_t bad_slots[] = { 0,  1,  4,  8,  15,
					      17, 24, 48, 96, 255 };
	static const uint32_t big_slots[] = { 257, 512, 4096, 1u << 31, ~0u };
	static const uint32_t bad_entries[] = { 0, 1, 2, 3, 5, 6, 1000, 65535 };
	static const uint32_t big_entries[] = { 65537, 1 << 17, 1u << 31, ~0u };
	static const uint64_t bad_arenas[] = {
		1, 64, 4095, 4097, 65536 + 512, EVERING_MAX_ARENA - 1
	};
	static const uint64_t big_arenas[] = {
		EVERING_MAX_ARENA + 1,
		EVERING_MAX_ARENA + 65536,
		1ull << 40,
		1ull << 63,
		~0ull << 12,
		~0ull,
	};
	int dev = self->dev, fds = count_fds();
	struct evering_geometry g;
	int fd[2], bit;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad_slots); i++)
		EXPECT_EQ(-EINVAL, create_with(dev, bad_slots[i], 64, 0, 0));
	for (i = 0; i < ARRAY_SIZE(big_slots); i++)
		EXPECT_EQ(-E2BIG, create_with(dev, big_slots[i], 64, 0, 0));
	for (i = 0; i < ARRAY_SIZE(bad_entries); i++)
		EXPECT_EQ(-EINVAL, create_with(dev, 64, bad_entries[i], 0, 0));
	for (i = 0; i < ARRAY_SIZE(big_entries); i++)
		EXPECT_EQ(-E2BIG, create_with(dev, 64, big_entries[i], 0, 0));
	for (i = 0; i < ARRAY_SIZE(bad_arenas); i++) {
		EXPECT_EQ(-EINVAL, create_with(dev, 64, 64, bad_arenas[i], 0));
		EXPECT_EQ(-EINVAL, create_with(dev, 64, 64, 0, bad_arenas[i]));
	}
	for (i = 0; i < ARRAY_SIZE(big_arenas); i++) {
		EXPECT_EQ(-E2BIG, create_with(dev, 64, 64, big_arenas[i], 0));
		EXPECT_EQ(-E2BIG, create_with(dev, 64, 64, 0, big_arenas[i]));
	}
	/* Possible, but far beyond any quota. */
	EXPECT_EQ(-EDQUOT, create_with(dev, 64, 64, EVERING_MAX_ARENA,
				       EVERING_MAX_ARENA));
	for (bit = 0; bit < 32; bit++) {
		g = least_geometry;
		g.flags = 1u << bit;
		if (!(g.flags & EVERING_GEOMETRY_FLAGS))
			EXPECT_EQ(-EINVAL, dev_pair(dev, &g, fd));
		g = least_geometry;
		g.reserved = 1u << bit;
		EXPECT_EQ(-EINVAL, dev_pair(dev, &g, fd));
	}
	EXPECT_EQ(fds, count_fds());
}

TEST_F(device, every_geometry_is_as_asked_for)
{
	static const uint32_t entries[] = { 4, 8, 64, 256, 65536 };
	struct evering_geometry g = { .arena_size = { PAGE, 0 } };
	struct evering_status *s;
	int fd[2], end;
	size_t i;
	void *p;

	for (g.slot_size = 16; g.slot_size <= 256; g.slot_size *= 2) {
		for (i = 0; i < ARRAY_SIZE(entries); i++) {
			g.entries = entries[i];
			ASSERT_EQ(0, dev_pair(self->dev, &g, fd));
			s = map_region(&g, fd[0], EVERING_REGION_STATUS,
				       PROT_READ);
			ASSERT_NE(MAP_FAILED, (void *)s);
			EXPECT_EQ(EVERING_MAGIC, s->magic);
			EXPECT_EQ(EVERING_ABI_VERSION, s->abi);
			EXPECT_EQ(sizeof(*s), s->size);
			EXPECT_EQ(0, memcmp(&g, &s->geometry, sizeof(g)));
			EXPECT_EQ(half_size(&g), s->half_size);
			for (end = 0; end < 2; end++) {
				EXPECT_EQ(EVERING_STATE_NEW, s->end[end].state);
				EXPECT_EQ(0, s->end[end].epoch);
				p = map_region(&g, fd[end],
					       EVERING_REGION_HALF(end),
					       PROT_READ | PROT_WRITE);
				ASSERT_NE(MAP_FAILED, p);
				EXPECT_EQ(0,
					  touch((char *)p + half_size(&g) - 1,
						true));
				munmap(p, half_size(&g));
			}
			munmap(s, PAGE);
			close(fd[0]);
			close(fd[1]);
		}
	}
}

TEST_F(device, create_gives_two_descriptors_and_leaves_the_rest)
{
	struct evering_create c;
	int i;

	ASSERT_EQ(0, dev_create(self->dev, 0, &small_geometry, &c));
	EXPECT_EQ(sizeof(c), c.size);
	EXPECT_EQ(0, c.flags);
	EXPECT_EQ(0, memcmp(&small_geometry, &c.geometry, sizeof(c.geometry)));
	EXPECT_NE(c.fd[0], c.fd[1]);
	for (i = 0; i < 2; i++) {
		EXPECT_GE(c.fd[i], 3);
		EXPECT_EQ(FD_CLOEXEC, fcntl(c.fd[i], F_GETFD));
		EXPECT_EQ(O_RDWR,
			  fcntl(c.fd[i], F_GETFL) & (O_ACCMODE | O_NONBLOCK));
		ASSERT_LE(c.arena_order[i], 4);
		EXPECT_LE(PAGE << c.arena_order[i], 65536);
	}
}

TEST_F(device, create_flags_are_those_of_the_descriptors)
{
	struct evering_create c;
	uint32_t flags;
	int i;

	for (flags = 0; flags <= EVERING_CREATE_FLAGS; flags++) {
		ASSERT_EQ(0, dev_create(self->dev, flags, &least_geometry, &c));
		for (i = 0; i < 2; i++) {
			EXPECT_EQ(flags & EVERING_CREATE_KEEP_ON_EXEC ?
					  0 :
					  FD_CLOEXEC,
				  fcntl(c.fd[i], F_GETFD));
			EXPECT_EQ(flags & EVERING_CREATE_NONBLOCK ? O_NONBLOCK :
								    0,
				  fcntl(c.fd[i], F_GETFL) & O_NONBLOCK);
			EXPECT_EQ(0, c.arena_order[i]);
			close(c.fd[i]);
		}
	}
}

TEST_F(device, an_arena_is_built_from_the_largest_blocks_there_are)
{
	const uint64_t sizes[] = { PAGE,    2 * PAGE,	      65536,  1 << 20,
				   2 << 20, (2 << 20) + PAGE, 8 << 20 };
	struct evering_geometry g = least_geometry;
	struct evering_create c;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		g.arena_size[0] = sizes[i];
		g.arena_size[1] = sizes[ARRAY_SIZE(sizes) - 1 - i];
		ASSERT_EQ(0, dev_create(self->dev, 0, &g, &c));
		EXPECT_LE(PAGE << c.arena_order[0], g.arena_size[0]);
		EXPECT_LE(PAGE << c.arena_order[1], g.arena_size[1]);
		EXPECT_LE(c.arena_order[0], 9);
		close(c.fd[0]);
		close(c.fd[1]);
	}
}

TEST_F(device, create_without_descriptors_left_makes_none)
{
	struct rlimit old, less;
	int fd[2], fds, left;

	/* Every number below 64 is taken. */
	do {
		fds = dup(0);
		ASSERT_GE(fds, 0);
	} while (fds < 64);
	close(fds);
	fds = count_fds();
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &old));
	less = old;
	for (left = 0; left < 2; left++) {
		less.rlim_cur = (rlim_t)(64 + left);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &less));
		EXPECT_EQ(-EMFILE, dev_pair(self->dev, &least_geometry, fd));
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &old));
		EXPECT_EQ(fds, count_fds());
		EXPECT_EQ(64, next_fd());
	}
	EXPECT_EQ(0, dev_pair(self->dev, &least_geometry, fd));
}

TEST_F(device, ring_takes_bells_and_nothing_else)
{
	int bit;

	EXPECT_EQ(-EINVAL, dev_ring(self->fd[0], 0));
	for (bit = 2; bit < 64; bit++) {
		EXPECT_EQ(-EINVAL, dev_ring(self->fd[0], 1ul << bit));
		if (1ul << bit == EVERING_RING_SELF)
			continue;
		EXPECT_EQ(-EINVAL, dev_ring(self->fd[0], 1ul << bit | RX | TX));
	}
	arm(self->b.own, RX | TX);
	EXPECT_EQ(-EINVAL, dev_ring(self->fd[0], 7));
	EXPECT_EQ(RX | TX, armed(self->b.own));
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(TX, armed(self->b.own));
	EXPECT_EQ(TX, dev_ring(self->fd[0], RX | TX));
	EXPECT_EQ(0, armed(self->b.own));
	EXPECT_EQ(-ENOTTY, dev_ring(self->dev, RX));
}

TEST_F(device, an_endpoint_can_ring_itself)
{
	arm(self->a.own, RX | TX);
	arm(self->b.own, RX | TX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], EVERING_RING_SELF | RX));
	EXPECT_EQ(TX, armed(self->a.own));
	EXPECT_EQ(TX, dev_ring(self->fd[0], EVERING_RING_SELF | RX | TX));
	EXPECT_EQ(0, armed(self->a.own));
	/* And nobody else. */
	EXPECT_EQ(RX | TX, armed(self->b.own));
}

TEST_F(device, enter_takes_bells_and_nothing_else)
{
	int bit;

	for (bit = 2; bit < 32; bit++) {
		arm(self->b.own, RX | TX);
		EXPECT_EQ(-EINVAL, dev_enter(self->fd[0], 1u << bit, 0, 0));
		EXPECT_EQ(-EINVAL, dev_enter(self->fd[0], 0, 1u << bit, 0));
		EXPECT_EQ(-EINVAL,
			  dev_enter(self->fd[0], RX | TX, 1u << bit | RX, 0));
		EXPECT_EQ(RX | TX, armed(self->b.own));
	}
	EXPECT_EQ(0, dev_enter(self->fd[0], 0, 0, 0));
	EXPECT_EQ(0, dev_enter(self->fd[0], 0, 0, EVERING_FOREVER));
}

TEST_F(device, a_wrong_eventfd_leaves_the_old_one)
{
	struct evering_set_eventfd set = { .size = sizeof(set) };
	int efd = eventfd(0, EFD_CLOEXEC), closed = dup(efd), pipes[2], bit;

	ASSERT_EQ(0, pipe(pipes));
	close(closed);
	ASSERT_EQ(0, dev_set_eventfd(self->fd[0], efd));
	EXPECT_EQ(-EBADF, dev_set_eventfd(self->fd[0], closed));
	EXPECT_EQ(-EBADF, dev_set_eventfd(self->fd[0], -2));
	EXPECT_EQ(-EBADF, dev_set_eventfd(self->fd[0], INT32_MAX));
	EXPECT_EQ(-EBADF, dev_set_eventfd(self->fd[0], INT32_MIN));
	EXPECT_EQ(-EINVAL, dev_set_eventfd(self->fd[0], pipes[0]));
	EXPECT_EQ(-EINVAL, dev_set_eventfd(self->fd[0], self->dev));
	EXPECT_EQ(-EINVAL, dev_set_eventfd(self->fd[0], self->fd[0]));
	EXPECT_EQ(-EINVAL, dev_set_eventfd(self->fd[0], self->fd[1]));
	for (bit = 0; bit < 32; bit++) {
		set.fd = -1;
		set.reserved = 1u << bit;
		EXPECT_EQ(-EINVAL, dev_ioctl(self->fd[0],
					     EVERING_IOC_SET_EVENTFD, &set));
	}
	arm(self->a.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[1], RX));
	EXPECT_EQ(1, signals_of(efd));
}

/* ---------------------------------------------------------- a 32-bit caller */

#ifdef __x86_64__
#define IA32_IOCTL 54

static long call32(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

static bool have_ia32(void)
{
	struct sigaction action = { .sa_handler = on_bad_access }, old;
	bool have = false;

	sigaction(SIGSEGV, &action, &old);
	/* getpid() */
	if (!sigsetjmp(access_failed, 1))
		have = call32(20, 0, 0, 0) == getpid();
	sigaction(SIGSEGV, &old, NULL);
	return have;
}

static int ioctl32(int fd, unsigned int cmd, const void *arg)
{
	return (int)call32(IA32_IOCTL, fd, (long)cmd, (long)arg);
}

FIXTURE(ia32)
{
	int dev;
	int fd[2];
	struct side a, b;
	union any_arg *low; /* where 32 bits reach */
};

FIXTURE_SETUP(ia32)
{
	REQUIRE_DEVICE(self->dev);
	if (!have_ia32())
		SKIP(return, "no 32-bit system calls");
	ASSERT_EQ(0, dev_pair(self->dev, &small_geometry, self->fd));
	ASSERT_EQ(0, side_map(&self->a, &small_geometry, self->fd[0], 0));
	ASSERT_EQ(0, side_map(&self->b, &small_geometry, self->fd[1], 1));
	self->low = mmap(NULL, sizeof(*self->low), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->low);
}

FIXTURE_TEARDOWN(ia32)
{
}

TEST_F(ia32, the_structs_are_the_same)
{
	struct evering_info info;
	union any_arg *low = self->low;
	int efd = eventfd(0, EFD_CLOEXEC);

	memset(low, 0, sizeof(low->info));
	low->size = sizeof(struct evering_info);
	EXPECT_EQ(0, ioctl32(self->dev, EVERING_IOC_INFO, low));
	ASSERT_EQ(0, dev_info(self->dev, &info));
	EXPECT_EQ(0, memcmp(&info, low, sizeof(info)));

	set_right(low, EVERING_IOC_CREATE, sizeof(low->create));
	low->create.geometry = small_geometry;
	EXPECT_EQ(0, ioctl32(self->dev, EVERING_IOC_CREATE, low));
	EXPECT_EQ(FD_CLOEXEC, fcntl(low->create.fd[0], F_GETFD));
	EXPECT_EQ(0,
		  try_map(PAGE, PROT_READ, MAP_SHARED, low->create.fd[0], 0));

	ASSERT_EQ(0, dev_attach(self->fd[1]));
	memset(low, POISON, sizeof(low->peer_cred));
	low->size = sizeof(struct evering_peer_cred);
	low->flags = 0;
	EXPECT_EQ(0, ioctl32(self->fd[0], EVERING_IOC_PEER_CRED, low));
	EXPECT_EQ(getpid(), low->peer_cred.pid);

	memset(low, 0, sizeof(low->set_eventfd));
	low->size = sizeof(struct evering_set_eventfd);
	low->set_eventfd.fd = efd;
	EXPECT_EQ(0, ioctl32(self->fd[1], EVERING_IOC_SET_EVENTFD, low));
	arm(self->b.own, RX);
	EXPECT_EQ(RX, ioctl32(self->fd[0], EVERING_IOC_RING, (void *)RX));
	EXPECT_EQ(1, signals_of(efd));
}

TEST_F(ia32, ring_and_enter)
{
	union any_arg *low = self->low;

	EXPECT_EQ(-EINVAL, ioctl32(self->fd[0], EVERING_IOC_RING, (void *)4));
	EXPECT_EQ(-EINVAL,
		  ioctl32(self->fd[0], EVERING_IOC_RING, (void *)0x80000001));
	arm(self->a.own, RX);
	arm(self->b.own, RX | TX);
	low->enter = (struct evering_enter){
		.size = sizeof(low->enter),
		.ring = RX | TX,
		.wait = RX,
		.timeout = (uint64_t)now_ns() + 2 * MSEC,
	};
	EXPECT_EQ(-ETIMEDOUT, ioctl32(self->fd[0], EVERING_IOC_ENTER, low));
	EXPECT_GE((uint64_t)now_ns(), low->enter.timeout);
	EXPECT_EQ(0, armed(self->b.own));
	arm(self->b.own, TX);
	EXPECT_EQ(RX, dev_ring(self->fd[1], RX));
	low->enter.timeout = EVERING_FOREVER;
	EXPECT_EQ(RX | RANG_TX, ioctl32(self->fd[0], EVERING_IOC_ENTER, low));
}

TEST_F(ia32, wrong_arguments)
{
	union any_arg *low = self->low;

	memset(low, 0, sizeof(low->info));
	EXPECT_EQ(-EINVAL, ioctl32(self->dev, EVERING_IOC_INFO, low));
	EXPECT_EQ(-EFAULT, ioctl32(self->dev, EVERING_IOC_INFO, NULL));
	EXPECT_EQ(-EFAULT, ioctl32(self->fd[0], EVERING_IOC_ENTER, NULL));
	EXPECT_EQ(-EFAULT,
		  ioctl32(self->fd[0], EVERING_IOC_ENTER, (void *)0xfffffff8));
	EXPECT_EQ(-ENOTTY, ioctl32(self->fd[0], EVERING_IOC_INFO, low));
	EXPECT_EQ(-ENOTTY, ioctl32(self->dev, EVERING_IOC_RING, (void *)RX));
	EXPECT_EQ(-ENOTTY,
		  ioctl32(self->dev, _IO(EVERING_IOC_MAGIC, 0x7f), low));
}
#endif

TEST_HARNESS_MAIN
