// SPDX-License-Identifier: MIT
/*
 * dev_io.c: arenas of /dev/evering as memory for I/O: files read into them and
 * written from them, with O_DIRECT where a file system has it, by
 * process_vm_readv, vmsplice and io_uring's fixed buffers.  What a process
 * cannot write, the kernel does not write for it; pages that I/O still holds
 * outlive the channel.  And RING as an io_uring command.
 */
#include "dev.h"

#include <sys/uio.h>

#define LEN ((size_t)1 << 20)

static const struct evering_geometry geometry = {
	.slot_size = 64,
	.entries = 64,
	.arena_size = { 1 << 20, 1 << 20 },
};

FIXTURE(io)
{
	int dev;
	int fd[2];
	char *own; /* A's arena, as A has it */
	char *theirs; /* the same, as B has it: read-only */
	char *expected;
	char *again;
};

FIXTURE_SETUP(io)
{
	uint64_t seed = 42;
	size_t i;

	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, &geometry, self->fd));
	self->own = map_region(&geometry, self->fd[0], EVERING_REGION_ARENA_A,
			       PROT_READ | PROT_WRITE);
	self->theirs = map_region(&geometry, self->fd[1],
				  EVERING_REGION_ARENA_A, PROT_READ);
	self->expected = mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->own);
	ASSERT_NE(MAP_FAILED, (void *)self->theirs);
	ASSERT_NE(MAP_FAILED, (void *)self->expected);
	self->again = self->expected + LEN;
	for (i = 0; i < LEN; i += 8)
		*(uint64_t *)(self->expected + i) = random_u64(&seed);
}

FIXTURE_TEARDOWN(io)
{
}

/*
 * A file without a name, or a negative errno; with O_DIRECT one that really
 * does.
 */
static int open_temporary(const char *dir, int flags)
{
	static __attribute__((aligned(65536))) char page[65536];
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/evering-XXXXXX", dir);
	fd = mkostemp(path, flags | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	if (pwrite(fd, page, sizeof(page), 0) != sizeof(page)) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

static int open_direct(void)
{
	static const char *const dirs[] = { "/var/tmp", "/tmp", ".", "/home",
					    "/mnt" };
	int fd = -ENOENT;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		fd = open_temporary(dirs[i], O_DIRECT);
		if (fd >= 0)
			break;
	}
	return fd;
}

#define REQUIRE_DIRECT(file)                                              \
	do {                                                              \
		(file) = open_direct();                                   \
		if ((file) < 0)                                           \
			SKIP(return, "no file system here has O_DIRECT"); \
	} while (0)

static bool write_expected(int file, const char *from)
{
	return pwrite(file, from, LEN, 0) == (ssize_t)LEN;
}

TEST_F(io, direct_read_into_an_arena)
{
	int file;

	REQUIRE_DIRECT(file);
	ASSERT_TRUE(write_expected(file, self->expected));
	ASSERT_EQ(LEN, pread(file, self->own, LEN, 0));
	EXPECT_EQ(0, memcmp(self->expected, self->theirs, LEN));
	/* Across its blocks, from the middle of one. */
	memset(self->own, 0, LEN);
	ASSERT_EQ(65536, pread(file, self->own + 36864, 65536, 4096));
	EXPECT_EQ(0,
		  memcmp(self->expected + 4096, self->theirs + 36864, 65536));
	EXPECT_EQ(0, self->theirs[36863]);
	EXPECT_EQ(0, self->theirs[36864 + 65536]);
}

TEST_F(io, direct_write_from_an_arena)
{
	int file;

	REQUIRE_DIRECT(file);
	memcpy(self->own, self->expected, LEN);
	/* Each side may send what it can read. */
	ASSERT_TRUE(write_expected(file, self->theirs));
	ASSERT_EQ(LEN, pread(file, self->again, LEN, 0));
	EXPECT_EQ(0, memcmp(self->expected, self->again, LEN));
	memset(self->again, 0, LEN);
	ASSERT_TRUE(write_expected(file, self->own));
	ASSERT_EQ(LEN, pread(file, self->again, LEN, 0));
	EXPECT_EQ(0, memcmp(self->expected, self->again, LEN));
}

TEST_F(io, direct_read_into_the_peers_arena_is_refused)
{
	int file;

	REQUIRE_DIRECT(file);
	ASSERT_TRUE(write_expected(file, self->expected));
	EXPECT_EQ(-EFAULT, or_errno(pread(file, self->theirs, LEN, 0)));
	EXPECT_EQ(0, self->own[0]);
	EXPECT_EQ(0, self->own[LEN - 1]);
}

TEST_F(io, buffered_read_and_write)
{
	int file = open_temporary("/tmp", 0);

	ASSERT_GE(file, 0);
	ASSERT_TRUE(write_expected(file, self->expected));
	EXPECT_EQ(-EFAULT, or_errno(pread(file, self->theirs, LEN, 0)));
	ASSERT_EQ(LEN, pread(file, self->own, LEN, 0));
	EXPECT_EQ(0, memcmp(self->expected, self->theirs, LEN));
	memset(self->again, 0, LEN);
	ASSERT_TRUE(write_expected(file, self->theirs));
	ASSERT_EQ(LEN, pread(file, self->again, LEN, 0));
	EXPECT_EQ(0, memcmp(self->expected, self->again, LEN));
}

/* -------------------------------------------------- other processes' memory */

struct reader {
	char *own, *theirs, *expected, *again;
};

/*
 * A child is another process: it has no mapping of its own, but may ask for
 * ours.
 */
static int read_parent(void *arg)
{
	struct reader *r = arg;
	struct iovec local = { r->again, LEN };
	struct iovec remote = { r->theirs, LEN };
	pid_t pid = getppid();
	ssize_t n;

	n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
	if (n < 0)
		return errno == EPERM || errno == ENOSYS ? 50 : 1;
	if (n != (ssize_t)LEN || memcmp(r->again, r->expected, LEN))
		return 2;
	memset(r->again, 0x99, LEN);
	if (process_vm_writev(pid, &local, 1, &remote, 1, 0) >= 0 ||
	    errno != EFAULT)
		return 3;
	remote.iov_base = r->own;
	if (process_vm_writev(pid, &local, 1, &remote, 1, 0) != (ssize_t)LEN)
		return 4;
	return 0;
}

TEST_F(io, process_vm_readv_and_writev)
{
	struct reader r = { self->own, self->theirs, self->expected,
			    self->again };
	int ret;

	memcpy(self->own, self->expected, LEN);
	ret = reap(spawn(read_parent, &r));
	if (ret == 50)
		SKIP(return, "process_vm_readv is not allowed");
	EXPECT_EQ(0, ret);
	EXPECT_EQ((char)0x99, self->theirs[0]);
	EXPECT_EQ((char)0x99, self->theirs[LEN - 1]);
}

/* ------------------------------------------------ pages that somebody holds */

/*
 * Into a pipe go the pages themselves; they are read when the channel is long
 * gone.
 */
TEST_F(io, vmspliced_pages_outlive_the_channel)
{
	struct iovec iov = { self->own + 4096, 8 * 4096 };
	int pipes[2];
	size_t i;

	ASSERT_EQ(0, pipe(pipes));
	memcpy(self->own, self->expected, LEN);
	ASSERT_EQ(8 * 4096, vmsplice(pipes[1], &iov, 1, 0));
	munmap(self->own, LEN);
	munmap(self->theirs, LEN);
	close(self->fd[0]);
	close(self->fd[1]);
	/* Whoever gets the memory next must not get these pages. */
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, dev_pair(self->dev, &geometry, self->fd));
		self->own = map_region(&geometry, self->fd[0],
				       EVERING_REGION_ARENA_A,
				       PROT_READ | PROT_WRITE);
		ASSERT_NE(MAP_FAILED, (void *)self->own);
		memset(self->own, 0x33, LEN);
	}
	for (i = 0; i < 8 * 4096;) {
		ssize_t n = read(pipes[0], self->again + i, 8 * 4096 - i);

		ASSERT_GT(n, 0);
		i += (size_t)n;
	}
	EXPECT_EQ(0, memcmp(self->expected + 4096, self->again, 8 * 4096));
}

static int register_buffer(struct uring *u, char *p, size_t len)
{
	struct iovec iov = { p, len };

	return (int)or_errno(syscall(__NR_io_uring_register, u->fd,
				     IORING_REGISTER_BUFFERS, &iov, 1));
}

static int fixed_io(struct uring *u, int opcode, int file, char *p, size_t len)
{
	struct io_uring_sqe sqe = {
		.opcode = (uint8_t)opcode,
		.fd = file,
		.addr = (uintptr_t)p,
		.len = (uint32_t)len,
	};
	struct io_uring_cqe cqe = { .res = -ETIMEDOUT };

	if (uring_submit(u, &sqe) != 1)
		return -EIO;
	if (!EVENTUALLY(uring_reap(u, &cqe)))
		return -ETIMEDOUT;
	return cqe.res;
}

TEST_F(io, uring_fixed_buffers)
{
	int file = open_direct(), ret;
	struct uring u;

	if (file < 0)
		file = open_temporary("/tmp", 0);
	ASSERT_GE(file, 0);
	REQUIRE_URING(&u);
	ret = register_buffer(&u, self->own, LEN);
	/* Linux before 6.5 takes no mappings of files but shmem's. */
	if (ret == -EOPNOTSUPP)
		SKIP(return, "this kernel registers no mappings of files");
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(write_expected(file, self->expected));
	ASSERT_EQ(LEN,
		  fixed_io(&u, IORING_OP_READ_FIXED, file, self->own, LEN));
	EXPECT_EQ(0, memcmp(self->expected, self->theirs, LEN));
	memset(self->own, 0x21, LEN);
	ASSERT_EQ(LEN,
		  fixed_io(&u, IORING_OP_WRITE_FIXED, file, self->own, LEN));
	ASSERT_EQ(LEN, pread(file, self->again, LEN, 0));
	EXPECT_EQ(0, memcmp(self->own, self->again, LEN));
	/* The ring keeps the pages when nobody else does. */
	munmap(self->own, LEN);
	munmap(self->theirs, LEN);
	close(self->fd[0]);
	close(self->fd[1]);
	memset(self->again, 0, LEN);
	ASSERT_EQ(LEN,
		  fixed_io(&u, IORING_OP_WRITE_FIXED, file, self->own, LEN));
	ASSERT_EQ(LEN, pread(file, self->again, LEN, 0));
	EXPECT_EQ(0x21, self->again[0]);
	EXPECT_EQ(0x21, self->again[LEN - 1]);
	uring_close(&u);
}

TEST_F(io, uring_registers_no_buffer_that_cannot_be_written)
{
	struct uring u;

	REQUIRE_URING(&u);
	EXPECT_LT(register_buffer(&u, self->theirs, LEN), 0);
	EXPECT_LT(register_buffer(&u,
				  map_region(&geometry, self->fd[0],
					     EVERING_REGION_STATUS, PROT_READ),
				  PAGE),
		  0);
	uring_close(&u);
}

/* Without registration it is the same as read(2) and write(2). */
TEST_F(io, uring_read_into_an_arena)
{
	int file = open_temporary("/tmp", 0);
	struct uring u;

	ASSERT_GE(file, 0);
	REQUIRE_URING(&u);
	ASSERT_TRUE(write_expected(file, self->expected));
	ASSERT_EQ(LEN, fixed_io(&u, IORING_OP_READ, file, self->own, LEN));
	EXPECT_EQ(0, memcmp(self->expected, self->theirs, LEN));
	EXPECT_EQ(-EFAULT,
		  fixed_io(&u, IORING_OP_READ, file, self->theirs, LEN));
	uring_close(&u);
}

/* The result of an io_uring command on @fd with what sqe->cmd begins with. */
static int uring_command(struct uring *u, int fd, uint32_t op,
			 const struct evering_uring_ring *ring)
{
	struct io_uring_sqe sqe = {
		.opcode = IORING_OP_URING_CMD,
		.fd = fd,
		.cmd_op = op,
	};
	struct io_uring_cqe cqe = { .res = -ETIMEDOUT };

	memcpy((char *)&sqe + offsetof(struct io_uring_sqe, cmd), ring,
	       sizeof(*ring));
	if (uring_submit(u, &sqe) != 1)
		return -EIO;
	if (!EVENTUALLY(uring_reap(u, &cqe)))
		return -ETIMEDOUT;
	return cqe.res;
}

/* Both in one call, so that one can be linked to the other. */
static int uring_submit_two(struct uring *u, const struct io_uring_sqe *first,
			    const struct io_uring_sqe *second)
{
	unsigned int tail = *u->sq_tail, i;

	for (i = 0; i < 2; i++, tail++) {
		u->sqes[tail & *u->sq_mask] = i ? *second : *first;
		u->sq_array[tail & *u->sq_mask] = tail & *u->sq_mask;
	}
	__atomic_store_n(u->sq_tail, tail, __ATOMIC_RELEASE);
	return (int)or_errno(
		syscall(__NR_io_uring_enter, u->fd, 2, 0, 0, NULL, 0));
}

TEST_F(io, uring_command_rings)
{
	static const struct evering_uring_ring rx = { .bells = EVERING_RX };
	static const struct evering_uring_ring both = { .bells = EVERING_RX |
								 EVERING_TX };
	struct evering_half *half;
	struct uring u;

	REQUIRE_URING(&u);
	half = map_region(&geometry, self->fd[1], EVERING_REGION_HALF_B,
			  PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, (void *)half);
	/* Nobody is armed. */
	EXPECT_EQ(0, uring_command(&u, self->fd[0], EVERING_IOC_RING, &both));
	half->armed_rx = half->armed_tx = EVERING_ARMED;
	EXPECT_EQ(0, poll_now(self->fd[1], POLLIN | POLLOUT));
	EXPECT_EQ(EVERING_RX,
		  uring_command(&u, self->fd[0], EVERING_IOC_RING, &rx));
	EXPECT_EQ(POLLIN, poll_now(self->fd[1], POLLIN | POLLOUT));
	EXPECT_EQ(EVERING_TX,
		  uring_command(&u, self->fd[0], EVERING_IOC_RING, &both));
	EXPECT_EQ(0, half->armed_rx | half->armed_tx);
	uring_close(&u);
}

/* Whatever it returns, a ring is a success for what is linked behind it. */
TEST_F(io, uring_command_goes_on_to_what_is_linked)
{
	struct io_uring_sqe ring = {
		.opcode = IORING_OP_URING_CMD,
		.fd = self->fd[0],
		.cmd_op = EVERING_IOC_RING,
		.flags = IOSQE_IO_LINK,
	};
	struct io_uring_sqe nop = { .opcode = IORING_OP_NOP, .user_data = 1 };
	static const struct evering_uring_ring bells[] = {
		{ .bells = EVERING_RX },
		{ .bells = EVERING_RX | EVERING_TX },
		{ .bells = 4 },
	};
	struct io_uring_cqe cqe;
	struct evering_half *half;
	struct uring u;
	unsigned int i;
	int armed, got, results[2];

	REQUIRE_URING(&u);
	half = map_region(&geometry, self->fd[1], EVERING_REGION_HALF_B,
			  PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, (void *)half);
	for (i = 0; i < ARRAY_SIZE(bells) * 2; i++) {
		armed = i & 1 ? EVERING_ARMED : 0;
		half->armed_rx = half->armed_tx = (uint32_t)armed;
		memcpy((char *)&ring + offsetof(struct io_uring_sqe, cmd),
		       &bells[i / 2], sizeof(bells[0]));
		ASSERT_EQ(2, uring_submit_two(&u, &ring, &nop));
		for (got = 0; got < 2; got++) {
			ASSERT_TRUE(EVENTUALLY(uring_reap(&u, &cqe)));
			results[cqe.user_data] = cqe.res;
		}
		if (bells[i / 2].bells > 3) {
			EXPECT_EQ(-EINVAL, results[0]);
			EXPECT_EQ(-ECANCELED, results[1]);
		} else {
			EXPECT_EQ(armed ? (int)bells[i / 2].bells : 0,
				  results[0]);
			EXPECT_EQ(0, results[1]);
		}
	}
	uring_close(&u);
}

TEST_F(io, uring_command_refuses_what_it_does_not_know)
{
	static const struct evering_uring_ring none, more = { .bells = 4 };
	struct evering_uring_ring ring = { .bells = EVERING_RX };
	struct evering_half *half;
	struct uring u;
	int i;

	REQUIRE_URING(&u);
	half = map_region(&geometry, self->fd[1], EVERING_REGION_HALF_B,
			  PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, (void *)half);
	half->armed_rx = EVERING_ARMED;
	EXPECT_EQ(-EINVAL,
		  uring_command(&u, self->fd[0], EVERING_IOC_RING, &none));
	EXPECT_EQ(-EINVAL,
		  uring_command(&u, self->fd[0], EVERING_IOC_RING, &more));
	EXPECT_EQ(-ENOTTY,
		  uring_command(&u, self->fd[0], EVERING_IOC_ENTER, &ring));
	for (i = 0; i < 3; i++) {
		ring.reserved[i] = 1u << (31 - i);
		EXPECT_EQ(-EINVAL, uring_command(&u, self->fd[0],
						 EVERING_IOC_RING, &ring));
		ring.reserved[i] = 0;
	}
	EXPECT_EQ(EVERING_ARMED, half->armed_rx);
	EXPECT_EQ(-EOPNOTSUPP,
		  uring_command(&u, self->dev, EVERING_IOC_RING, &ring));
	uring_close(&u);
}

/* Memory that is filled by somebody else's sendfile, a socket's or a pipe's. */
TEST_F(io, sockets_and_pipes)
{
	size_t half = 32768, i;
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	memcpy(self->own, self->expected, half);
	ASSERT_EQ((ssize_t)half, write(sv[0], self->theirs, half));
	for (i = 0; i < half;) {
		ssize_t n = read(sv[1], self->own + half + i, half - i);

		ASSERT_GT(n, 0);
		i += (size_t)n;
	}
	EXPECT_EQ(0, memcmp(self->expected, self->theirs + half, half));
}

TEST_HARNESS_MAIN
