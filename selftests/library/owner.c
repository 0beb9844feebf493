// SPDX-License-Identifier: MIT
/*
 * owner.c: whose a channel is.  Programs that are executed do not keep it, children that
 * are forked can leave it without anybody noticing, and who has heard that the peer is
 * gone is not told anything else by the next call.
 */
#include <poll.h>

#include "stranger.h"

FIXTURE(owner)
{
	struct evering_params p;
	struct evering *ev[2];
	struct evering_ops *ops[2];
};

BACKEND_VARIANTS(owner);

FIXTURE_SETUP(owner)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 128, 16, 65536);
}

FIXTURE_TEARDOWN(owner)
{
	close_pair(self->ev);
	EXPECT_TRUE(no_children());
}

static bool talks(struct evering *a, struct evering *b)
{
	uint32_t v = 41, w = 0;

	return !evering_send(a, &v, 4, 0) && !evering_recv(b, &w, 4, PLENTY) &&
	       w == 41 && !evering_send(b, &v, 4, 0) &&
	       !evering_recv(a, &w, 4, PLENTY);
}

/* ----------------------------------------------------------------------- exec */

struct acceptor {
	int fd;
	struct evering *ev;
	int ret;
};

static void *accept_fd_main(void *arg)
{
	struct acceptor *a = arg;

	a->ret = evering_accept_fd(a->fd, NULL, PLENTY, &a->ev);
	return NULL;
}

TEST_F(owner, no_program_that_is_executed_inherits_anything)
{
	struct evering_listener *l;
	struct acceptor a;
	char path[64];
	bool before[256];
	pthread_t t;
	int sv[2], fd;

	for (fd = 0; fd < 256; fd++)
		before[fd] = fcntl(fd, F_GETFD) >= 0;
	/* The caller's own, made without. */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv));
	a.fd = sv[1];
	ASSERT_EQ(0, pthread_create(&t, NULL, accept_fd_main, &a));
	ASSERT_EQ(0, evering_connect_fd(sv[0], &self->p, PLENTY, &self->ev[0]));
	pthread_join(t, NULL);
	ASSERT_EQ(0, a.ret);
	self->ev[1] = a.ev;
	ASSERT_LE(0, evering_fd(self->ev[0]));
	ASSERT_LE(0, evering_fd(self->ev[1]));
	snprintf(path, sizeof(path), "@evering-owner-%d", getpid());
	ASSERT_EQ(0, evering_listen(path, 0, &l));
	for (fd = 0; fd < 256; fd++)
		if (!before[fd] && fcntl(fd, F_GETFD) >= 0)
			EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD))
			{
				TH_LOG("descriptor %d", fd);
			}
	evering_listener_close(l);
}

/* Meets, leaves a program behind, and dies. */
static int leaves_a_program(void *arg)
{
	int fd = *(int *)arg;
	struct evering *ev;
	pid_t pid;

	if (evering_accept_fd(fd, NULL, PLENTY, &ev))
		return 1;
	/* Only after it has replaced this one is the socket to be gone. */
	pid = vfork();
	if (!pid) {
		execlp("sleep", "sleep", "15", NULL);
		_exit(9);
	}
	return pid < 0 ? 2 : 0;
}

TEST_F(owner, what_a_dead_peer_has_executed_does_not_hide_its_death)
{
	int sv[2];
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv));
	ASSERT_EQ(0, fcntl(sv[0], F_SETFD, FD_CLOEXEC));
	pid = spawn(leaves_a_program, &sv[1]);
	close(sv[1]);
	ASSERT_EQ(0, evering_connect_fd(sv[0], &self->p, PLENTY, &self->ev[0]));
	EXPECT_EQ(0, reap(pid));
	EXPECT_TRUE(EVENTUALLY(evering_peer(self->ev[0]) == EVERING_PEER_DIED));
}

/* ----------------------------------------------------------------------- fork */

struct family {
	struct evering **ev;
	struct evering_ops **ops;
	struct evering_listener *l;
	bool exits;
};

static struct family *to_leave;

static void leave(void)
{
	struct family *f = to_leave;
	int i;

	for (i = 0; i < 2; i++) {
		evering_ops_close(f->ops[i]);
		evering_close(f->ev[i]);
	}
	evering_listener_close(f->l);
}

/* As a program with a channel in a static object, whose destructor exit() calls. */
static int leaves(void *arg)
{
	to_leave = arg;
	if (to_leave->exits)
		atexit(leave);
	else
		leave();
	/* Of what a sanitizer finds there is none of this process's own. */
	if (to_leave->exits && !SANITIZED)
		exit(0);
	if (to_leave->exits)
		leave();
	return 0;
}

TEST_F(owner, a_forked_child_leaves_and_nobody_notices)
{
	struct family f = { .ev = self->ev, .ops = self->ops };
	struct evering_request request;
	struct evering_completion c;
	struct evering_op op = { .opcode = 5 };
	struct pollfd pfd = { .events = POLLIN };
	char path[64];
	uint64_t id;
	void *buf;
	int i, lap;

	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	pfd.fd = evering_fd(self->ev[0]);
	ASSERT_LE(0, pfd.fd);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0,
			  evering_ops_open(self->ev[i], NULL, &self->ops[i]));
	for (i = 0; i < 2; i++)
		ASSERT_LE(0, evering_ops_poll(self->ops[i]));
	snprintf(path, sizeof(path), "@evering-owner-%d", getpid());
	ASSERT_EQ(0, evering_listen(path, 0, &f.l));
	/* In the middle of something. */
	buf = evering_alloc(self->ev[0], 4096, 0);
	op.flags = EVERING_LEND;
	op.buf = buf;
	op.buf_len = 4096;
	ASSERT_EQ(0, evering_op_submit(self->ops[0], &op, &id, 0));
	for (lap = 0; lap < 4; lap++) {
		f.exits = lap % 2;
		EXPECT_EQ(0, reap(spawn(leaves, &f)));
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->ev[0]));
		EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->ev[1]));
		EXPECT_LE(0, evering_ops_poll(self->ops[0]));
	}
	while (evering_ops_arm(self->ops[0], &pfd.events) > 0)
		ASSERT_LE(0, evering_ops_poll(self->ops[0]));
	ASSERT_EQ(0, evering_op_next(self->ops[1], &request, PLENTY));
	EXPECT_EQ(5, request.opcode);
	EXPECT_EQ(0, evering_op_answer(self->ops[1], request.id, 7, NULL, 0));
	evering_ops_flush(self->ops[1]);
	/* A loop that waits for it is told. */
	EXPECT_EQ(1, poll(&pfd, 1, 10000));
	ASSERT_EQ(0, evering_op_wait(self->ops[0], id, &c, PLENTY));
	EXPECT_EQ(7, c.result);
	EXPECT_EQ(0, evering_free(self->ev[0], buf));
	for (i = 0; i < 2; i++)
		evering_ops_close(self->ops[i]);
	EXPECT_EQ(0, serves(f.l, path, &self->p));
	evering_listener_close(f.l);
}

/* -------------------------------------------------------------- a peer that is gone */

TEST_F(owner, who_looks_without_waiting_learns_at_once_of_a_close)
{
	uint32_t v = 3;
	int lap;

	for (lap = 0; lap < 4; lap++) {
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));
		ASSERT_TRUE(talks(self->ev[0], self->ev[1]));
		/* It has just asked. */
		EXPECT_EQ(-EAGAIN, evering_recv(self->ev[0], &v, 4, 0));
		if (lap % 2)
			ASSERT_EQ(0, evering_send(self->ev[1], &v, 4, 0));
		evering_close(self->ev[1]);
		self->ev[1] = NULL;
		/* What it had sent before is still there. */
		if (lap % 2)
			EXPECT_EQ(0, evering_recv(self->ev[0], &v, 4, 0));
		EXPECT_EQ(-EPIPE,
			  lap < 2 ? evering_recv(self->ev[0], &v, 4, 0) :
				    evering_wait(self->ev[0], EVERING_RX, 0));
		EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->ev[0]));
		evering_close(self->ev[0]);
		self->ev[0] = NULL;
	}
}

static int dies(struct evering *ev, void *arg)
{
	uint32_t v = 8;

	if (evering_recv(ev, &v, 4, PLENTY) || evering_send(ev, &v, 4, 0))
		return 1;
	if (arg)
		evering_close(ev);
	return 0;
}

TEST_F(owner, who_has_heard_that_the_peer_is_gone_sends_nothing_more)
{
	const struct evering_params p[2] = { self->p, self->p };
	struct duo duo;
	uint32_t v = 3;
	int closes;

	for (closes = 0; closes < 2; closes++) {
		ASSERT_EQ(0, duo_start(&duo, false, p, dies,
				       closes ? &closes : NULL));
		ASSERT_EQ(0, evering_send(duo.ev, &v, 4, 0));
		EXPECT_EQ(0, reap(duo.pid));
		EXPECT_TRUE(
			EVENTUALLY(evering_peer(duo.ev) != EVERING_PEER_ALIVE));
		EXPECT_EQ(closes ? EVERING_PEER_CLOSED : EVERING_PEER_DIED,
			  evering_peer(duo.ev));
		EXPECT_EQ(-EPIPE, evering_send(duo.ev, &v, 4, 0));
		EXPECT_EQ(-EPIPE, evering_send(duo.ev, &v, 4, PLENTY));
		EXPECT_EQ(-EPIPE, evering_wait(duo.ev, EVERING_TX, 0));
		/* What came before is not lost by that. */
		EXPECT_EQ(0, evering_recv(duo.ev, &v, 4, 0));
		EXPECT_EQ(-EPIPE, evering_recv(duo.ev, &v, 4, 0));
		EXPECT_EQ(-EPIPE, evering_recv(duo.ev, &v, 4, PLENTY));
		evering_close(duo.ev);
	}
}

/* ------------------------------------------------------------------- structs */

TEST_F(owner, structs_of_other_versions_are_taken)
{
	struct {
		struct evering_params p;
		uint64_t more;
	} longer = { .p = self->p };
	struct {
		struct evering_ops_params p;
		uint64_t more;
	} more = { .p = EVERING_OPS_PARAMS_INIT };
	int i;

	/* An older one ends before, and what it does not have is as if not said. */
	self->p.size = offsetof(struct evering_params, spin_ns);
	self->p.spin_ns = 99999999;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	more.p.size -= (uint32_t)sizeof(void *);
	more.p.context = self;
	EXPECT_EQ(0, evering_ops_open(self->ev[0], &more.p, &self->ops[0]));
	evering_ops_close(self->ops[0]);
	close_pair(self->ev);
	self->p.size = 0;
	EXPECT_EQ(-EINVAL, evering_pair(&self->p, self->ev));
	/* A newer one asks for what there is, or for more. */
	for (i = 0; i < 2; i++) {
		longer.p.size = sizeof(longer);
		longer.more = (uint64_t)i;
		EXPECT_EQ(i ? -E2BIG : 0, evering_pair(&longer.p, self->ev));
	}
	more.p = (struct evering_ops_params)EVERING_OPS_PARAMS_INIT;
	more.p.size = sizeof(more);
	more.more = 1;
	EXPECT_EQ(-EINVAL,
		  evering_ops_open(self->ev[0], &more.p, &self->ops[0]));
	more.more = 0;
	EXPECT_EQ(0, evering_ops_open(self->ev[0], &more.p, &self->ops[0]));
	evering_ops_close(self->ops[0]);
}

TEST_HARNESS_MAIN
