// SPDX-License-Identifier: MIT
/*
 * dev_life.c: who keeps an endpoint of /dev/evering alive, and what its peer
 * sees when the last holder of the mapping and the last holder of the file go:
 * by munmap, close, exit, exec and SIGKILL, in every order, with the file in
 * another process, in flight in a socket or in an io_uring.  Who the peer is,
 * too, and what fdinfo says of both.
 */
#include "dev.h"

#include <linux/userfaultfd.h>
#include <sys/stat.h>
#include <sys/uio.h>

static const struct evering_geometry *const G = &small_geometry;

FIXTURE(life)
{
	int dev;
	int fd[2];
	/*
	 * Everything is about B, and A looks on.  A's half is not mapped, so
	 * that A is NEW: whoever waits for B must not mind.
	 */
	struct evering_status *status;
	int word[2]; /* a pipe, for children to say that they are there */
};

FIXTURE_SETUP(life)
{
	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	self->status =
		map_region(G, self->fd[0], EVERING_REGION_STATUS, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)self->status);
	ASSERT_EQ(0, pipe2(self->word, O_CLOEXEC));
}

FIXTURE_TEARDOWN(life)
{
}

static void *map_b(int fd)
{
	return map_region(G, fd, EVERING_REGION_HALF_B, PROT_READ | PROT_WRITE);
}

/* What poll() on A says of a B in each state. */
static short poll_of_state(uint32_t state)
{
	switch (state) {
	case EVERING_STATE_DETACHED:
		return POLLRDHUP;
	case EVERING_STATE_CLOSED:
		return POLLRDHUP | POLLHUP;
	default:
		return 0;
	}
}

#define EXPECT_B(what, n)                                        \
	do {                                                     \
		EXPECT_EQ(EVERING_STATE_##what,                  \
			  state_of(self->status, EVERING_B));    \
		EXPECT_EQ(n, epoch_of(self->status, EVERING_B)); \
		EXPECT_EQ(poll_of_state(EVERING_STATE_##what),   \
			  poll_now(self->fd[0], POLLRDHUP));     \
	} while (0)

TEST_F(life, every_state_is_seen)
{
	size_t len = half_size(G);
	void *p;

	EXPECT_B(NEW, 0);
	p = map_b(self->fd[1]);
	EXPECT_B(ATTACHED, 1);
	munmap(p, len);
	EXPECT_B(DETACHED, 1);
	/* That is final: what is mapped now attaches nothing. */
	p = map_b(self->fd[1]);
	EXPECT_B(DETACHED, 1);
	EXPECT_EQ(-ESTALE, dev_attach(self->fd[1]));
	close(self->fd[1]);
	EXPECT_B(DETACHED, 1);
	munmap(p, len);
	EXPECT_B(CLOSED, 1);
	EXPECT_EQ(EVERING_STATE_NEW, state_of(self->status, EVERING_A));
}

TEST_F(life, close_without_ever_mapping)
{
	close(self->fd[1]);
	EXPECT_B(CLOSED, 0);
}

TEST_F(life, a_detached_endpoint_closes)
{
	munmap(map_b(self->fd[1]), half_size(G));
	EXPECT_B(DETACHED, 1);
	close(self->fd[1]);
	EXPECT_B(CLOSED, 1);
}

TEST_F(life, the_last_of_many_descriptors_closes)
{
	int i, fds[20];

	for (i = 0; i < 20; i++)
		fds[i] = dup(self->fd[1]);
	close(self->fd[1]);
	for (i = 0; i < 20; i++) {
		EXPECT_B(NEW, 0);
		close(fds[i]);
	}
	EXPECT_B(CLOSED, 0);
}

TEST_F(life, dup2_over_an_endpoint_closes_it)
{
	ASSERT_EQ(self->fd[1], dup2(self->word[0], self->fd[1]));
	EXPECT_B(CLOSED, 0);
}

TEST_F(life, a_closed_peer_still_has_its_memory_for_us)
{
	char *p = map_region(G, self->fd[1], EVERING_REGION_ARENA_B,
			     PROT_READ | PROT_WRITE);
	char *q;

	ASSERT_NE(MAP_FAILED, (void *)p);
	strcpy(p, "last words");
	munmap(p, G->arena_size[1]);
	close(self->fd[1]);
	EXPECT_B(CLOSED, 0);
	q = map_region(G, self->fd[0], EVERING_REGION_ARENA_B, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)q);
	EXPECT_EQ(0, strcmp("last words", q));
}

/* ----------------------------------------------- four holders, in any order */

static int hold_fd(void *arg)
{
	int *word = arg;
	char c;

	/* Until the other end of the pipe says so. */
	return read(word[0], &c, 1) == 1 ? 0 : 1;
}

enum {
	DESCRIPTOR,
	DUPLICATE,
	MAPPING,
	CHILD,
	HOLDERS
};

TEST_F(life, four_holders_in_every_order)
{
	int order, i, left, slot[2], holder[HOLDERS], word[2], copy, ret;
	pid_t pid;
	void *p;

	for (order = 0; order < 24; order++) {
		unsigned int held = (1u << HOLDERS) - 1;

		/* Order number n of the 4! there are. */
		for (i = 0; i < HOLDERS; i++)
			holder[i] = i;
		for (i = 0, left = order; i < HOLDERS - 1; i++) {
			int pick = i + left % (HOLDERS - i);
			int t = holder[i];

			left /= HOLDERS - i;
			holder[i] = holder[pick];
			holder[pick] = t;
		}
		ASSERT_EQ(0, dev_pair(self->dev, G, slot));
		munmap(self->status, PAGE);
		close(self->fd[0]);
		self->fd[0] = slot[0];
		self->status = map_region(G, slot[0], EVERING_REGION_STATUS,
					  PROT_READ);
		ASSERT_NE(MAP_FAILED, (void *)self->status);
		ASSERT_EQ(0, pipe2(word, O_CLOEXEC));
		p = map_b(slot[1]);
		ASSERT_NE(MAP_FAILED, p);
		copy = dup(slot[1]);
		pid = spawn(hold_fd, word);
		for (i = 0; i < HOLDERS; i++) {
			EXPECT_TRUE(held);
			switch (holder[i]) {
			case DESCRIPTOR:
				close(slot[1]);
				break;
			case DUPLICATE:
				close(copy);
				break;
			case MAPPING:
				munmap(p, half_size(G));
				break;
			case CHILD:
				tell(word[1]);
				ret = reap(pid);
				EXPECT_EQ(0, ret);
				break;
			}
			held &= ~(1u << holder[i]);
			if (held & 1u << MAPPING)
				EXPECT_B(ATTACHED, 1);
			else if (held)
				EXPECT_B(DETACHED, 1);
			else
				EXPECT_B(CLOSED, 1);
		}
		close(word[0]);
		close(word[1]);
	}
}

/* --------------------------------------------------------------------- exec */

/* Becomes cat(1), which goes when its input ends. */
static int become_cat(void *arg)
{
	int *in = arg;

	dup2(in[0], 0);
	close(in[1]);
	execlp("cat", "cat", NULL);
	return 1;
}

TEST_F(life, exec_closes_by_default)
{
	int in[2];
	pid_t pid;

	ASSERT_EQ(0, pipe2(in, O_CLOEXEC));
	pid = spawn(become_cat, in);
	close(self->fd[1]);
	/* The child has it until it execs. */
	EXPECT_TRUE(poll_within(self->fd[0], POLLHUP));
	EXPECT_B(CLOSED, 0);
	close(in[1]);
	EXPECT_EQ(0, reap(pid));
}

TEST_F(life, exec_keeps_it_if_asked_to)
{
	struct evering_create c;
	int in[2], efd = eventfd(0, EFD_CLOEXEC);
	pid_t pid;

	ASSERT_EQ(0, dev_create(self->dev, EVERING_CREATE_KEEP_ON_EXEC, G, &c));
	ASSERT_EQ(0, fcntl(c.fd[0], F_SETFD, FD_CLOEXEC));
	ASSERT_EQ(0, dev_set_eventfd(c.fd[0], efd));
	ASSERT_EQ(0, pipe2(in, O_CLOEXEC));
	pid = spawn(become_cat, in);
	close(c.fd[1]);
	/* This one goes at exec: then the child is cat. */
	close(self->fd[1]);
	EXPECT_TRUE(poll_within(self->fd[0], POLLHUP));
	EXPECT_EQ(0, poll_now(c.fd[0], POLLRDHUP));
	EXPECT_EQ(0, signals_of(efd));
	close(in[1]);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(POLLRDHUP | POLLHUP, poll_now(c.fd[0], POLLRDHUP));
	EXPECT_EQ(1, signals_of(efd));
}

static int map_and_become_cat(void *arg)
{
	int *in = arg;

	if (map_b(in[2]) == MAP_FAILED)
		return 1;
	fcntl(in[2], F_SETFD, 0);
	tell(in[3]);
	return become_cat(arg);
}

/* Its mappings go with the old program, its file does not. */
TEST_F(life, exec_detaches)
{
	int in[4];
	pid_t pid;

	ASSERT_EQ(0, pipe2(in, O_CLOEXEC));
	in[2] = self->fd[1];
	in[3] = self->word[1];
	pid = spawn(map_and_become_cat, in);
	close(self->fd[1]);
	ASSERT_TRUE(told(self->word[0]));
	EXPECT_TRUE(poll_within(self->fd[0], POLLRDHUP));
	EXPECT_B(DETACHED, 1);
	close(in[1]);
	EXPECT_EQ(0, reap(pid));
	EXPECT_B(CLOSED, 1);
}

/* ----------------------------------------------------- passed on, in flight */

TEST_F(life, in_flight_it_lives)
{
	int sv[2], fd;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0, send_fd(sv[0], self->fd[1]));
	close(self->fd[1]);
	EXPECT_B(NEW, 0);
	close(sv[0]);
	EXPECT_B(NEW, 0);
	fd = recv_fd(sv[1]);
	ASSERT_GE(fd, 0);
	ASSERT_NE(MAP_FAILED, map_b(fd));
	EXPECT_B(ATTACHED, 1);
}

TEST_F(life, with_the_socket_that_it_is_in_it_goes)
{
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0, send_fd(sv[0], self->fd[1]));
	close(self->fd[1]);
	EXPECT_B(NEW, 0);
	close(sv[1]);
	EXPECT_TRUE(poll_within(self->fd[0], POLLHUP));
	EXPECT_B(CLOSED, 0);
}

/* Each in the other's socket, and both sockets in one another: garbage. */
TEST_F(life, in_a_cycle_of_sockets_it_is_collected)
{
	int sv[2], tv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv));
	ASSERT_EQ(0, send_fd(sv[0], self->fd[1]));
	ASSERT_EQ(0, send_fd(sv[0], sv[0]));
	ASSERT_EQ(0, send_fd(sv[0], sv[1]));
	close(sv[0]);
	close(sv[1]);
	close(self->fd[1]);
	/* The collector runs when another Unix socket goes. */
	EXPECT_TRUE(EVENTUALLY(!socketpair(AF_UNIX, SOCK_DGRAM, 0, tv) &&
			       !close(tv[0]) && !close(tv[1]) &&
			       state_of(self->status, EVERING_B) ==
				       EVERING_STATE_CLOSED));
	EXPECT_B(CLOSED, 0);
}

TEST_F(life, pidfd_getfd_is_one_more_holder)
{
	int copy, pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	copy = (int)syscall(SYS_pidfd_getfd, pidfd, self->fd[1], 0);
	if (copy < 0)
		SKIP(return, "no pidfd_getfd");
	close(self->fd[1]);
	EXPECT_B(NEW, 0);
	close(copy);
	EXPECT_B(CLOSED, 0);
}

/* ------------------------------------------------------------------ SIGKILL */

enum {
	ASLEEP,
	SPINNING,
	MAPPED_ONLY,
	FD_ONLY,
	IN_FLIGHT
};

FIXTURE(killed)
{
	int dev;
	int fd[2];
	struct side a;
	struct evering_status *status;
	int word[2];
	int how;
};

FIXTURE_VARIANT(killed)
{
	int how;
	bool attaches;
};

FIXTURE_VARIANT_ADD(killed, asleep){
	.how = ASLEEP,
	.attaches = true,
};

FIXTURE_VARIANT_ADD(killed, spinning){
	.how = SPINNING,
	.attaches = true,
};

FIXTURE_VARIANT_ADD(killed, with_the_mapping_only){
	.how = MAPPED_ONLY,
	.attaches = true,
};

FIXTURE_VARIANT_ADD(killed, with_the_descriptor_only){
	.how = FD_ONLY,
};

FIXTURE_VARIANT_ADD(killed, in_flight){
	.how = IN_FLIGHT,
};

FIXTURE_SETUP(killed)
{
	REQUIRE_DEVICE(self->dev);
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	ASSERT_EQ(0, side_map(&self->a, G, self->fd[0], EVERING_A));
	self->status =
		map_region(G, self->fd[0], EVERING_REGION_STATUS, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)self->status);
	ASSERT_EQ(0, pipe2(self->word, O_CLOEXEC));
	self->how = variant->how;
}

FIXTURE_TEARDOWN(killed)
{
}

typedef FIXTURE_DATA(killed) killed_data;

static int victim(void *arg)
{
	killed_data *self = arg;
	struct side b;
	int sv[2];

	close(self->fd[0]);
	if (self->how <= MAPPED_ONLY && side_map(&b, G, self->fd[1], EVERING_B))
		return 1;
	switch (self->how) {
	case ASLEEP:
		arm(b.own, RX);
		tell(self->word[1]);
		dev_enter(self->fd[1], 0, RX, EVERING_FOREVER);
		return 2;
	case SPINNING:
		tell(self->word[1]);
		for (;;)
			dev_ring(self->fd[1], RX | TX);
	case MAPPED_ONLY:
		close(self->fd[1]);
		break;
	case IN_FLIGHT:
		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, sv) ||
		    send_fd(sv[0], self->fd[1]))
			return 3;
		close(self->fd[1]);
		break;
	}
	tell(self->word[1]);
	await_death();
}

TEST_F(killed, the_peer_sees_it_in_status_and_poll)
{
	pid_t pid = spawn(victim, self);

	close(self->fd[1]);
	ASSERT_TRUE(told(self->word[0]));
	EXPECT_EQ(variant->attaches ? EVERING_STATE_ATTACHED :
				      EVERING_STATE_NEW,
		  state_of(self->status, EVERING_B));
	EXPECT_EQ(0, poll_now(self->fd[0], POLLRDHUP));
	kill(pid, SIGKILL);
	EXPECT_TRUE(poll_within(self->fd[0], POLLHUP | POLLRDHUP));
	EXPECT_EQ(EVERING_STATE_CLOSED, state_of(self->status, EVERING_B));
	EXPECT_EQ(variant->attaches, epoch_of(self->status, EVERING_B));
	kill_and_reap(pid);
}

static void *kill_when_asleep(void *arg)
{
	pid_t *pids = arg;

	if (falls_asleep(&pids[1]))
		kill(pids[0], SIGKILL);
	return NULL;
}

TEST_F(killed, the_peer_asleep_in_enter_is_woken)
{
	pid_t pids[2];
	pthread_t thread;

	pids[0] = spawn(victim, self);
	pids[1] = my_tid();
	close(self->fd[1]);
	ASSERT_TRUE(told(self->word[0]));
	arm(self->a.own, RX);
	/* A victim that spins rings us. */
	if (self->how != SPINNING) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, kill_when_asleep,
					    pids));
		EXPECT_EQ(-EPIPE, dev_wait(self->fd[0], RX));
		pthread_join(thread, NULL);
	} else {
		EXPECT_EQ(RX, dev_wait(self->fd[0], RX));
	}
	kill_and_reap(pids[0]);
	EXPECT_EQ(EVERING_STATE_CLOSED, state_of(self->status, EVERING_B));
	/* To ring one who has gone is no error. */
	EXPECT_EQ(0, dev_ring(self->fd[0], RX) & ~RX);
}

TEST_F(killed, another_holder_of_the_file_keeps_it_open)
{
	pid_t pid = spawn(victim, self);

	ASSERT_TRUE(told(self->word[0]));
	kill_and_reap(pid);
	EXPECT_EQ(variant->attaches ? EVERING_STATE_DETACHED :
				      EVERING_STATE_NEW,
		  state_of(self->status, EVERING_B));
	EXPECT_EQ(variant->attaches ? POLLRDHUP : 0,
		  poll_now(self->fd[0], POLLRDHUP));
	/* Nobody takes the place of one who has died, only of one who never came. */
	self->how = MAPPED_ONLY;
	pid = spawn(victim, self);
	ASSERT_TRUE(told(self->word[0]));
	EXPECT_EQ(variant->attaches ? EVERING_STATE_DETACHED :
				      EVERING_STATE_ATTACHED,
		  state_of(self->status, EVERING_B));
	EXPECT_EQ(1, epoch_of(self->status, EVERING_B));
	EXPECT_EQ(variant->attaches ? POLLRDHUP : 0,
		  poll_now(self->fd[0], POLLRDHUP));
	kill_and_reap(pid);
	EXPECT_EQ(EVERING_STATE_DETACHED, state_of(self->status, EVERING_B));
}

/* ------------------------------------------------------ held by an io_uring */

struct uring_child {
	int fd[2];
	int word[2];
	bool registers;
	bool closes_ring;
};

static int leave_it_to_uring(void *arg)
{
	struct uring_child *c = arg;
	struct uring u;
	struct side b;

	if (uring_open(&u))
		return 50;
	close(c->fd[0]);
	if (side_map(&b, G, c->fd[1], EVERING_B))
		return 1;
	arm(b.own, RX | TX);
	if (c->registers) {
		if (syscall(__NR_io_uring_register, u.fd, IORING_REGISTER_FILES,
			    &c->fd[1], 1))
			return 2;
	} else if (uring_poll(&u, c->fd[1], POLLIN, 0) != 1) {
		return 3;
	}
	side_unmap(&b);
	close(c->fd[1]);
	tell(c->word[1]);
	if (c->closes_ring) {
		char go;

		if (read(c->word[0], &go, 1) != 1)
			return 4;
		uring_close(&u);
	}
	await_death();
}

FIXTURE(held_by_uring)
{
	int dev;
	int fd[2];
	struct evering_status *status;
};

FIXTURE_VARIANT(held_by_uring)
{
	bool registers;
	bool closes_ring;
};

FIXTURE_VARIANT_ADD(held_by_uring, polled_and_killed){};

FIXTURE_VARIANT_ADD(held_by_uring, polled_and_ring_closed){
	.closes_ring = true,
};

FIXTURE_VARIANT_ADD(held_by_uring, registered_and_killed){
	.registers = true,
};

FIXTURE_VARIANT_ADD(held_by_uring, registered_and_ring_closed){
	.registers = true,
	.closes_ring = true,
};

FIXTURE_SETUP(held_by_uring)
{
	struct uring u;

	REQUIRE_DEVICE(self->dev);
	REQUIRE_URING(&u);
	uring_close(&u);
	ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
	self->status =
		map_region(G, self->fd[0], EVERING_REGION_STATUS, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)self->status);
}

FIXTURE_TEARDOWN(held_by_uring)
{
}

/* Released by a kernel thread, when the process may be long gone. */
TEST_F(held_by_uring, the_peer_sees_hup)
{
	struct uring_child c = {
		.registers = variant->registers,
		.closes_ring = variant->closes_ring,
	};
	int sv[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	memcpy(c.fd, self->fd, sizeof(c.fd));
	c.word[0] = sv[1];
	c.word[1] = sv[1];
	pid = spawn(leave_it_to_uring, &c);
	close(self->fd[1]);
	ASSERT_TRUE(told(sv[0]));
	/* Unmapped and closed, but the ring has it. */
	EXPECT_EQ(EVERING_STATE_DETACHED, state_of(self->status, EVERING_B));
	EXPECT_EQ(POLLRDHUP, poll_now(self->fd[0], POLLRDHUP));
	if (variant->closes_ring)
		tell(sv[0]);
	else
		kill_and_reap(pid);
	EXPECT_TRUE(poll_within(self->fd[0], POLLHUP));
	EXPECT_EQ(EVERING_STATE_CLOSED, state_of(self->status, EVERING_B));
	if (variant->closes_ring)
		kill_and_reap(pid);
}

/* ---------------------------------------------------------------- who it is */

TEST_F(life, nobody_is_there_before_it_has_attached)
{
	struct evering_peer_cred cred;
	void *p;

	EXPECT_EQ(-ENOTCONN, dev_attach(self->fd[1]));
	EXPECT_EQ(-ENOTCONN, dev_peer_cred(self->fd[0], &cred));
	/* The peer's half is not its own, nor is its STATUS. */
	p = map_region(G, self->fd[1], EVERING_REGION_HALF_A, PROT_READ);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-ENOTCONN, dev_attach(self->fd[1]));
	EXPECT_EQ(-ENOTCONN, dev_peer_cred(self->fd[1], &cred));
	/* To have mapped its half is not yet to give one's name for it. */
	p = map_b(self->fd[1]);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_B(ATTACHED, 1);
	EXPECT_EQ(-ENOTCONN, dev_peer_cred(self->fd[0], &cred));
	EXPECT_EQ(0, dev_attach(self->fd[1]));
	EXPECT_EQ(0, dev_attach(self->fd[1]));
	EXPECT_EQ(0, dev_peer_cred(self->fd[0], &cred));
	EXPECT_EQ(getpid(), cred.pid);
	EXPECT_EQ(geteuid(), cred.uid);
	EXPECT_EQ(getegid(), cred.gid);
	EXPECT_EQ(0, cred.flags);
	EXPECT_EQ(1, cred.epoch);
	EXPECT_EQ(sizeof(cred), cred.size);
	EXPECT_EQ(-ENOTCONN, dev_peer_cred(self->fd[1], &cred));
}

struct mapper {
	int fd;
	int word;
	uid_t uid;
	int region;
	int expect; /* of mapping */
	bool attaches;
	bool stays;
};

static int map_as(void *arg)
{
	struct mapper *m = arg;
	void *p;

	if (m->uid && (setresgid(m->uid + 1, m->uid + 1, m->uid + 1) ||
		       setresuid(m->uid, m->uid, m->uid)))
		return 1;
	p = map_region(G, m->fd, m->region, PROT_READ);
	if ((p == MAP_FAILED ? -errno : 0) != m->expect)
		return 2;
	if (m->attaches && dev_attach(m->fd))
		return 3;
	if (!m->stays)
		return 0;
	tell(m->word);
	await_death();
}

#define MAPPER(...)                                          \
	{                                                    \
		.fd = self->fd[1], .word = self->word[1],    \
		.region = EVERING_REGION_HALF_B, __VA_ARGS__ \
	}

/* PEER_CRED names the process that speaks, and no other can. */
TEST_F(life, the_process_that_attached_is_named_and_alone)
{
	struct mapper m = MAPPER(.attaches = true, .stays = true);
	struct mapper other = MAPPER(.expect = -EBUSY);
	struct evering_peer_cred cred;
	uint32_t uid = geteuid(), gid = getegid();
	pid_t pid;
	int pidfd;

	if (!uid) {
		m.uid = 4711;
		uid = 4711;
		gid = 4712;
	}
	pid = spawn(map_as, &m);
	ASSERT_TRUE(told(self->word[0]));
	ASSERT_EQ(0, dev_peer_cred(self->fd[0], &cred));
	EXPECT_EQ(pid, cred.pid);
	EXPECT_EQ(uid, cred.uid);
	EXPECT_EQ(gid, cred.gid);
	EXPECT_EQ(epoch_of(self->status, EVERING_B), cred.epoch);
	/* Still attached: so the pid was its, and the pidfd is. */
	pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
	ASSERT_GE(pidfd, 0);
	EXPECT_B(ATTACHED, 1);
	for (other.region = EVERING_REGION_HALF_B;
	     other.region < EVERING_REGIONS; other.region += 2)
		EXPECT_EQ(0, reap(spawn(map_as, &other)));
	EXPECT_EQ(-EBUSY, dev_attach(self->fd[1]));
	/* To look at what the peer writes, and at STATUS, is nobody's privilege. */
	other.expect = 0;
	for (other.region = 0; other.region < EVERING_REGIONS; other.region++)
		if (other.region != EVERING_REGION_HALF_B &&
		    other.region != EVERING_REGION_ARENA_B)
			EXPECT_EQ(0, reap(spawn(map_as, &other)));
	EXPECT_B(ATTACHED, 1);
	kill_and_reap(pid);
	EXPECT_EQ(POLLIN, poll_now(pidfd, POLLIN) & POLLIN);
	EXPECT_B(DETACHED, 1);
	/* Nor after it: what was said in its name was said by it. */
	other.expect = -ESTALE;
	for (other.region = EVERING_REGION_HALF_B;
	     other.region < EVERING_REGIONS; other.region += 2)
		EXPECT_EQ(0, reap(spawn(map_as, &other)));
	EXPECT_EQ(0, dev_peer_cred(self->fd[0], &cred));
	EXPECT_EQ(0, cred.pid);
	EXPECT_EQ(uid, cred.uid);
}

/* Who is given an endpoint where another has been does not lend it its name. */
TEST_F(life, nobody_attaches_where_another_could_have_written)
{
	struct mapper m = MAPPER(.stays = true);
	struct evering_peer_cred cred;
	pid_t pid;

	for (; m.region < EVERING_REGIONS; m.region += 2) {
		ASSERT_EQ(0, dev_pair(self->dev, G, self->fd));
		m.fd = self->fd[1];
		pid = spawn(map_as, &m);
		ASSERT_TRUE(told(self->word[0]));
		ASSERT_NE(MAP_FAILED, map_b(self->fd[1]));
		EXPECT_EQ(-EBUSY, dev_attach(self->fd[1]));
		kill_and_reap(pid);
		EXPECT_EQ(-EBUSY, dev_attach(self->fd[1]));
		EXPECT_EQ(-ENOTCONN, dev_peer_cred(self->fd[0], &cred));
	}
}

/* ------------------------------------------------------- whose, and its death */

TEST_F(life, it_is_the_process_that_attached_it_last)
{
	struct mapper m = MAPPER(.stays = true);
	pid_t first, second;

	first = spawn(map_as, &m);
	ASSERT_TRUE(told(self->word[0]));
	EXPECT_B(ATTACHED, 1);
	second = spawn(map_as, &m);
	ASSERT_TRUE(told(self->word[0]));
	EXPECT_B(ATTACHED, 2);
	/* Others come, map what they like, and go. */
	m.stays = false;
	for (m.region = 0; m.region < EVERING_REGIONS; m.region++)
		if (m.region != EVERING_REGION_HALF_B)
			EXPECT_EQ(0, reap(spawn(map_as, &m)));
	kill_and_reap(first);
	EXPECT_B(ATTACHED, 2);
	kill_and_reap(second);
	EXPECT_B(DETACHED, 2);
}

TEST_F(life, what_others_map_does_not_keep_it_attached)
{
	struct mapper m = MAPPER(.stays = true), other = MAPPER(.stays = true);
	pid_t pid, others[EVERING_REGIONS];
	int i = 0;

	pid = spawn(map_as, &m);
	ASSERT_TRUE(told(self->word[0]));
	for (other.region = 0; other.region < EVERING_REGIONS; other.region++) {
		if (other.region == EVERING_REGION_HALF_B)
			continue;
		others[i++] = spawn(map_as, &other);
		ASSERT_TRUE(told(self->word[0]));
	}
	kill_and_reap(pid);
	EXPECT_B(DETACHED, 1);
	while (i)
		kill_and_reap(others[--i]);
	EXPECT_B(DETACHED, 1);
}

static int map_twice_in_turn(void *arg)
{
	struct mapper *m = arg;
	void *p = map_b(m->fd);

	munmap(p, half_size(G));
	tell(m->word);
	await_death();
}

/* A sleeper who slept through a death hears of it, whatever came after. */
TEST_F(life, no_sleeper_misses_a_death)
{
	struct mapper m = MAPPER();
	struct side a;
	pid_t pid;

	ASSERT_EQ(0, side_map(&a, G, self->fd[0], EVERING_A));
	arm(a.own, RX);
	pid = spawn(map_twice_in_turn, &m);
	ASSERT_TRUE(told(self->word[0]));
	ASSERT_NE(MAP_FAILED, map_b(self->fd[1]));
	EXPECT_EQ(-EPIPE, dev_wait(self->fd[0], RX));
	EXPECT_B(DETACHED, 1);
	kill_and_reap(pid);
}

struct holder {
	pid_t pid;
	void *address;
	int word;
};

/* Copies from another process into memory that nobody provides. */
static int hold_memory(void *arg)
{
	struct holder *h = arg;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct iovec local = { .iov_len = PAGE };
	struct iovec remote = { .iov_base = h->address, .iov_len = PAGE };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	local.iov_base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range.start = (uintptr_t)local.iov_base;
	range.range.len = PAGE;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &range))
		return 50;
	tell(h->word);
	return process_vm_readv(h->pid, &local, 1, &remote, 1, 0) < 0;
}

static int map_and_touch(void *arg)
{
	struct holder *h = arg;

	memset(h->address, 1, PAGE);
	if (map_b(h->pid) == MAP_FAILED)
		return 1;
	tell(h->word);
	await_death();
}

/* The memory of the dead lives on as long as a third process reads it. */
TEST_F(life, its_memory_may_be_held_by_others)
{
	struct holder h = { .word = self->word[1] };
	pid_t pid, reader;
	int status;

	/* Where it is in the children, too. */
	h.address = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	h.pid = self->fd[1];
	pid = spawn(map_and_touch, &h);
	ASSERT_TRUE(told(self->word[0]));
	h.pid = pid;
	reader = spawn(hold_memory, &h);
	if (!told(self->word[0]) || !falls_asleep(&reader) ||
	    waitpid(reader, &status, WNOHANG)) {
		kill_and_reap(pid);
		SKIP(return, "no userfaultfd, or no process_vm_readv()");
	}
	kill_and_reap(pid);
	EXPECT_TRUE(poll_within(self->fd[0], POLLRDHUP));
	EXPECT_B(DETACHED, 1);
	EXPECT_EQ(0, waitpid(reader, &status, WNOHANG));
	kill_and_reap(reader);
	EXPECT_B(DETACHED, 1);
}

static void *leave_with_own_files(void *arg)
{
	return (void *)(long)syscall(SYS_unshare, CLONE_FILES);
}

/* A thread that ends closes its descriptors; its process lives. */
TEST_F(life, the_end_of_a_thread_is_none)
{
	pthread_t thread;
	void *ret;

	ASSERT_NE(MAP_FAILED, map_b(self->fd[1]));
	ASSERT_EQ(0, pthread_create(&thread, NULL, leave_with_own_files, NULL));
	pthread_join(thread, &ret);
	EXPECT_EQ(NULL, ret);
	EXPECT_B(ATTACHED, 1);
	close(dup(self->fd[1]));
	EXPECT_B(ATTACHED, 1);
}

/* ---------------------------------------------------- seen from a namespace */

static int ask_from_another_namespace(int fd)
{
	struct evering_peer_cred cred;

	if (dev_peer_cred(fd, &cred))
		return 1;
	return cred.pid == 0 && cred.uid == geteuid() ? 0 : 2;
}

TEST_F(life, from_another_pid_namespace_it_has_no_pid)
{
	pid_t pid;

	ASSERT_NE(MAP_FAILED, map_b(self->fd[1]));
	ASSERT_EQ(0, dev_attach(self->fd[1]));
	if (unshare(CLONE_NEWPID))
		SKIP(return, "no pid namespace: %s", strerror(errno));
	/* There is no parent to be seen from there, which spawn() looks for. */
	pid = fork();
	if (!pid)
		_exit(ask_from_another_namespace(self->fd[0]));
	EXPECT_EQ(0, reap(pid));
}

static int ask_from_user_namespace(void *arg)
{
	struct evering_peer_cred cred;

	if (unshare(CLONE_NEWUSER))
		return 50;
	if (dev_peer_cred(*(int *)arg, &cred))
		return 1;
	/* Nobody is mapped there, so everybody is nobody. */
	return cred.uid == 65534 && cred.gid == 65534 ? 0 : 2;
}

TEST_F(life, from_another_user_namespace_it_is_nobody)
{
	int ret;

	ASSERT_NE(MAP_FAILED, map_b(self->fd[1]));
	ASSERT_EQ(0, dev_attach(self->fd[1]));
	ret = reap(spawn(ask_from_user_namespace, &self->fd[0]));
	if (ret == 50)
		SKIP(return, "no user namespace");
	EXPECT_EQ(0, ret);
}

/* ------------------------------------------------------------------- fdinfo */

#define EXPECT_INFO(fd, key, value)                      \
	do {                                             \
		const char *_v = fdinfo(fd, key);        \
                                                         \
		EXPECT_STREQ(value, _v ? _v : "(none)"); \
	} while (0)

TEST_F(life, fdinfo_tells_geometry_states_and_counts)
{
	struct side a, b;
	char id[32];

	ASSERT_NE(NULL, fdinfo(self->fd[0], "channel"));
	snprintf(id, sizeof(id), "%.31s", fdinfo(self->fd[0], "channel"));
	EXPECT_INFO(self->fd[1], "channel", id);
	EXPECT_INFO(self->fd[0], "end", "A");
	EXPECT_INFO(self->fd[1], "end", "B");
	EXPECT_INFO(self->fd[0], "slot_size", "64");
	EXPECT_INFO(self->fd[0], "entries", "64");
	/* STATUS, two halves of two pages, two arenas. */
	EXPECT_INFO(self->fd[0], "bytes", "151552");
	EXPECT_INFO(self->fd[0], "arena_size", "65536\t65536");
	EXPECT_INFO(self->fd[1], "state", "new\tnew");
	ASSERT_EQ(0, side_map(&a, G, self->fd[0], EVERING_A));
	EXPECT_INFO(self->fd[1], "state", "attached\tnew");
	ASSERT_EQ(0, side_map(&b, G, self->fd[1], EVERING_B));
	EXPECT_INFO(self->fd[1], "epoch", "1\t1");
	arm(b.own, RX);
	EXPECT_EQ(RX, dev_ring(self->fd[0], RX));
	EXPECT_EQ(0, dev_ring(self->fd[0], RX));
	EXPECT_EQ(0, dev_ring(self->fd[0], TX));
	EXPECT_INFO(self->fd[0], "rings", "0\t3");
	EXPECT_INFO(self->fd[0], "wakes", "0\t1");
	a.own->counters.tx_entries = 123;
	b.own->counters.rx_syscalls = ~0ull;
	EXPECT_INFO(self->fd[1], "tx_entries", "123\t0");
	EXPECT_INFO(self->fd[0], "rx_syscalls", "0\t18446744073709551615");
	side_unmap(&b);
	EXPECT_INFO(self->fd[0], "state", "attached\tdetached");
	close(self->fd[1]);
	EXPECT_INFO(self->fd[0], "state", "attached\tclosed");
}

TEST_F(life, channels_have_numbers_of_their_own)
{
	char first[32];
	int fd[2];

	snprintf(first, sizeof(first), "%.31s", fdinfo(self->fd[0], "channel"));
	ASSERT_EQ(0, dev_pair(self->dev, G, fd));
	ASSERT_NE(NULL, fdinfo(fd[0], "channel"));
	EXPECT_STRNE(first, fdinfo(fd[0], "channel"));
}

TEST_HARNESS_MAIN
