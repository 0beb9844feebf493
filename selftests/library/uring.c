// SPDX-License-Identifier: MIT
/*
 * uring.c: <evering_uring.h>, channels in a loop of liburing: a watch from its first
 * event to its last, many peers woken by one system call, and the arena as a fixed
 * buffer.
 */
#include "common.h"

#include <pthread.h>
#include <sys/epoll.h>

/* How large an arena is said to be, instead of as large as it is. */
static uint64_t said_size;

static void *said_arena(const struct evering *ev, uint64_t *size)
{
	void *arena = evering_arena(ev, size);

	if (said_size)
		*size = said_size;
	return arena;
}

#define evering_arena said_arena
#include <evering_uring.h>
#undef evering_arena

#define MANY 100
#define TAG 77

FIXTURE(uring)
{
	struct io_uring ring;
	bool there;
	struct evering_params p;
	struct evering *ev[MANY][2];
	struct evering *from[MANY];
};

BACKEND_VARIANTS(uring);

FIXTURE_SETUP(uring)
{
	int ret;

	REQUIRE_BACKEND(variant->backend);
	ret = io_uring_queue_init(256, &self->ring, 0);
	if (ret)
		SKIP(return, "no io_uring: %s", strerror(-ret));
	self->there = true;
	self->p = params_sized(variant->backend, 64, 16, 1 << 16);
	ASSERT_EQ(0, evering_pair(&self->p, self->ev[0]));
}

FIXTURE_TEARDOWN(uring)
{
	int i;

	for (i = 0; i < MANY; i++)
		close_pair(self->ev[i]);
	if (self->there)
		io_uring_queue_exit(&self->ring);
}

/* The next completion, as @watch takes it; -ETIMEDOUT if none comes. */
static int next_event(struct io_uring *ring, struct evering_uring *watch,
		      int64_t timeout_ns)
{
	struct io_uring_cqe *cqe;
	int ret = evering_uring_wait(ring, timeout_ns, &cqe);

	if (ret)
		return ret;
	ret = cqe->user_data == TAG ? evering_uring_event(watch, cqe) :
				      -EBADMSG;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

/* 0: nothing refers to the watch any more. */
static int stop(struct io_uring *ring, struct evering_uring *watch)
{
	int ret;

	do
		ret = evering_uring_stop(ring, watch);
	while (ret == 1 && (ret = next_event(ring, watch, PLENTY)) == 1);
	return ret;
}

TEST_F(uring, a_watch_tells_of_each_entry_and_is_submitted_once)
{
	struct evering *a = self->ev[0][0], *b = self->ev[0][1];
	struct evering_uring watch;
	uint32_t v, i;

	evering_uring_init(&watch, b, EVERING_RX, TAG);
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0,
			  evering_uring_arm(&self->ring, &watch, EVERING_RX));
		/* The first time: that it is there, before anybody rings. */
		if (!i) {
			ASSERT_EQ(1, io_uring_submit(&self->ring));
			ASSERT_EQ(-EAGAIN, next_event(&self->ring, &watch,
						      EVERING_NOWAIT));
		}
		ASSERT_EQ(0, io_uring_sq_ready(&self->ring));
		ASSERT_EQ(0, evering_send(a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(1, next_event(&self->ring, &watch, PLENTY));
		ASSERT_EQ(0, evering_recv(b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
	}
	EXPECT_EQ(0, stop(&self->ring, &watch));
	EXPECT_EQ(-ESHUTDOWN,
		  evering_uring_arm(&self->ring, &watch, EVERING_RX));
}

static int group_of_four(FIXTURE_DATA(uring) * self, struct evering_group **g)
{
	int i, ret = evering_group_open(NULL, g);

	for (i = 0; i < 4 && !ret; i++) {
		if (i)
			ret = evering_pair(&self->p, self->ev[i]);
		if (!ret)
			ret = evering_group_add(*g, self->ev[i][1], EVERING_RX,
						NULL);
	}
	return ret;
}

/* A group in the loop: a poll for each sleep, or one for all. */
TEST_F(uring, a_group_is_polled)
{
	const struct evering_group_event *events;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct evering_group *g;
	uint32_t i, v;
	int n, many;

	ASSERT_EQ(0, group_of_four(self, &g));
	for (many = 0; many < 2; many++) {
		for (i = 0; i < 1000; i++) {
			ASSERT_EQ(0, evering_group_poll(g, &events));
			if (!many || !i) {
				sqe = io_uring_get_sqe(&self->ring);
				io_uring_prep_poll_add(sqe, evering_group_fd(g),
						       POLLIN);
				if (many)
					sqe->len = IORING_POLL_ADD_MULTI;
				sqe->user_data = TAG;
				ASSERT_EQ(1, io_uring_submit(&self->ring));
			}
			ASSERT_EQ(0, evering_send(self->ev[i % 4][0], &i, 4,
						  EVERING_NOWAIT));
			/* One for all may tell of what was there before. */
			do {
				ASSERT_EQ(0, evering_uring_wait(&self->ring,
								PLENTY, &cqe));
				if (many && cqe->res == -EINVAL)
					SKIP(goto out, "no such poll here");
				ASSERT_LT(0, cqe->res);
				ASSERT_EQ(many,
					  !!(cqe->flags & IORING_CQE_F_MORE));
				io_uring_cqe_seen(&self->ring, cqe);
				n = evering_group_poll(g, &events);
			} while (!n && many);
			ASSERT_EQ(1, n);
			ASSERT_EQ(self->ev[i % 4][1], events[0].ev);
			ASSERT_EQ(0, evering_recv(events[0].ev, &v, 4,
						  EVERING_NOWAIT));
			ASSERT_EQ(i, v);
		}
	}
out:
	evering_group_close(g);
}

/* As a watch: what comes, and what was there and not dealt with, is told of each time. */
TEST_F(uring, a_watch_of_a_group_tells_of_each_entry)
{
	const struct evering_group_event *events;
	struct evering_uring watch;
	struct evering_group *g;
	int pipes[2];
	uint32_t i, v;

	ASSERT_EQ(0, group_of_four(self, &g));
	evering_uring_init_group(&watch, g, TAG);
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0, evering_group_poll(g, &events));
		ASSERT_EQ(0, evering_uring_watch(&self->ring, &watch));
		ASSERT_EQ(0, evering_uring_watch(&self->ring, &watch));
		ASSERT_EQ(1, io_uring_submit(&self->ring));
		ASSERT_EQ(0, evering_send(self->ev[i % 4][0], &i, 4,
					  EVERING_NOWAIT));
		ASSERT_EQ(1, next_event(&self->ring, &watch, PLENTY));
		ASSERT_EQ(1, evering_group_poll(g, &events));
		ASSERT_EQ(self->ev[i % 4][1], events[0].ev);
		ASSERT_EQ(0, evering_recv(events[0].ev, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
	}
	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC));
	ASSERT_EQ(0, evering_group_add_fd(g, pipes[0], POLLIN, NULL));
	ASSERT_EQ(1, write(pipes[1], "x", 1));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, evering_uring_watch(&self->ring, &watch));
		ASSERT_EQ(1, next_event(&self->ring, &watch, PLENTY));
		ASSERT_EQ(1, evering_group_poll(g, &events));
		ASSERT_EQ((uint32_t)EVERING_GROUP_FD, events[0].what);
	}
	ASSERT_EQ(0, evering_group_remove_fd(g, pipes[0]));
	close(pipes[0]);
	close(pipes[1]);
	ASSERT_EQ(0, evering_group_poll(g, &events));
	ASSERT_EQ(0, evering_uring_watch(&self->ring, &watch));
	EXPECT_EQ(0, stop(&self->ring, &watch));
	EXPECT_EQ(-ESHUTDOWN, evering_uring_watch(&self->ring, &watch));
	evering_group_close(g);
}

TEST_F(uring, what_is_there_is_not_waited_for)
{
	struct evering_uring watch;
	uint32_t v = 1;

	evering_uring_init(&watch, self->ev[0][1], EVERING_RX, TAG);
	ASSERT_EQ(0, evering_send(self->ev[0][0], &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(EVERING_RX,
		  evering_uring_arm(&self->ring, &watch, EVERING_RX));
	EXPECT_EQ(0, io_uring_sq_ready(&self->ring));
	EXPECT_EQ(0, evering_uring_stop(&self->ring, &watch));
}

TEST_F(uring, the_end_is_told_and_a_watch_ends_with_its_last_completion)
{
	struct evering_uring watch;
	struct io_uring_cqe *cqe;

	evering_uring_init(&watch, self->ev[0][1], EVERING_RX, TAG);
	ASSERT_EQ(0, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	ASSERT_EQ(-ETIMEDOUT, next_event(&self->ring, &watch, MSEC));
	evering_close(self->ev[0][0]);
	self->ev[0][0] = NULL;
	ASSERT_EQ(1, next_event(&self->ring, &watch, PLENTY));
	EXPECT_EQ(-EPIPE, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	EXPECT_EQ(0, stop(&self->ring, &watch));
	/* And it stays so. */
	EXPECT_EQ(0, evering_uring_stop(&self->ring, &watch));
	EXPECT_EQ(-EAGAIN,
		  evering_uring_wait(&self->ring, EVERING_NOWAIT, &cqe));
}

static void *ring_again_and_again(void *arg)
{
	struct evering *const *pair = arg;
	uint32_t v = 0;

	/* The other end is armed all the time, and so rung each time. */
	while (!evering_send(pair[0], &v, 4, EVERING_WAIT_FOREVER) && !v)
		;
	return NULL;
}

/* The kernel does not remove a poll that is about to tell of something. */
TEST_F(uring, a_watch_can_be_stopped_while_events_come)
{
	struct evering *b = self->ev[0][1];
	struct evering_uring watch;
	pthread_t thread;
	uint32_t v, i, j;

	ASSERT_EQ(0, pthread_create(&thread, NULL, ring_again_and_again,
				    self->ev[0]));
	for (i = 0; i < 3000; i++) {
		evering_uring_init(&watch, b, EVERING_RX, TAG);
		for (j = 0; j < i % 4; j++) {
			while (!evering_recv(b, &v, 4, EVERING_NOWAIT))
				;
			if (!evering_uring_arm(&self->ring, &watch, EVERING_RX))
				io_uring_submit(&self->ring);
		}
		ASSERT_EQ(0, stop(&self->ring, &watch));
		ASSERT_EQ(0, io_uring_cq_ready(&self->ring));
	}
	evering_close(b);
	self->ev[0][1] = NULL;
	pthread_join(thread, NULL);
}

/* The kernel may end one at any time, and does not know multishot before 5.13. */
TEST_F(uring, a_watch_that_the_kernel_ends_is_begun_anew)
{
	struct io_uring_cqe cqe = { .user_data = TAG };
	struct evering_uring watch;

	evering_uring_init(&watch, self->ev[0][1], EVERING_RX, TAG);
	ASSERT_EQ(0, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	cqe.res = -ECANCELED;
	EXPECT_EQ(1, evering_uring_event(&watch, &cqe));
	ASSERT_EQ(0, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	cqe.res = -EINVAL;
	EXPECT_EQ(-EINVAL, evering_uring_event(&watch, &cqe));
	ASSERT_EQ(0, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
}

static void fill_queue(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;

	while ((sqe = io_uring_get_sqe(ring)))
		io_uring_prep_nop(sqe);
}

/* From now on, or no more, the kernel takes no submissions. */
static void break_ring(struct io_uring *ring, bool broken)
{
	ring->enter_ring_fd = broken ? -1 : ring->ring_fd;
}

static void drop_completions(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;

	io_uring_submit(ring);
	while (!io_uring_peek_cqe(ring, &cqe))
		io_uring_cqe_seen(ring, cqe);
}

TEST_F(uring, where_the_kernel_takes_nothing_a_watch_says_so)
{
	struct evering *b = self->ev[0][1];
	struct evering_uring watch;
	struct io_uring_cqe *cqe;

	evering_uring_init(&watch, b, EVERING_RX, TAG);
	fill_queue(&self->ring);
	break_ring(&self->ring, true);
	EXPECT_EQ(-EBADF, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	/* Then nothing is armed. */
	EXPECT_EQ(0u, own_half(b)->armed_rx & EVERING_ARMED);
	EXPECT_EQ(-EBADF,
		  evering_uring_wait(&self->ring, EVERING_NOWAIT, &cqe));
	EXPECT_EQ(-EBADF, evering_uring_wait(&self->ring, MSEC, &cqe));
	EXPECT_EQ(-EBADF,
		  evering_uring_wait(&self->ring, EVERING_WAIT_FOREVER, &cqe));
	break_ring(&self->ring, false);
	drop_completions(&self->ring);
	/* It goes on where it was, as soon as it can. */
	EXPECT_EQ(0, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	ASSERT_EQ(1, io_uring_submit(&self->ring));
	fill_queue(&self->ring);
	break_ring(&self->ring, true);
	EXPECT_EQ(-EBADF, evering_uring_stop(&self->ring, &watch));
	break_ring(&self->ring, false);
	drop_completions(&self->ring);
	EXPECT_EQ(0, stop(&self->ring, &watch));
}

TEST_F(uring, without_a_descriptor_there_is_no_watch)
{
	struct evering *b = self->ev[0][1];
	struct evering_uring watch;
	struct rlimit limit;

	if (variant->backend != EVERING_BACKEND_MEMFD)
		SKIP(return, "the device's endpoint is one");
	evering_uring_init(&watch, b, EVERING_RX, TAG);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = 0;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_EQ(-EMFILE, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	EXPECT_EQ(0u, own_half(b)->armed_rx & EVERING_ARMED);
	limit.rlim_cur = limit.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_EQ(0, evering_uring_arm(&self->ring, &watch, EVERING_RX));
	EXPECT_EQ(0, stop(&self->ring, &watch));
}

TEST_F(uring, a_wait_ends_in_time)
{
	struct io_uring_cqe *cqe;
	int64_t t = now_ns();

	/* With nothing to submit, too. */
	EXPECT_EQ(-ETIMEDOUT, evering_uring_wait(&self->ring, 5 * MSEC, &cqe));
	EXPECT_LE(5 * MSEC, now_ns() - t);
}

static void on_signal(int sig)
{
	(void)sig;
}

TEST_F(uring, a_signal_handler_ends_a_wait)
{
	static const int64_t timeout[] = { EVERING_WAIT_FOREVER, 60 * SEC };
	struct itimerval every = { { 0, 30000 }, { 0, 30000 } };
	struct itimerval off = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = on_signal };
	struct evering_uring watch;
	struct io_uring_cqe *cqe;
	size_t i;

	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));
	for (i = 0; i < ARRAY_SIZE(timeout); i++) {
		setitimer(ITIMER_REAL, &every, NULL);
		evering_uring_init(&watch, self->ev[0][1], EVERING_RX, TAG);
		ASSERT_EQ(0,
			  evering_uring_arm(&self->ring, &watch, EVERING_RX));
		/* Of that the kernel says only that it has been submitted. */
		EXPECT_EQ(-EINTR,
			  evering_uring_wait(&self->ring, timeout[i], &cqe));
		EXPECT_EQ(-EINTR,
			  evering_uring_wait(&self->ring, timeout[i], &cqe));
		setitimer(ITIMER_REAL, &off, NULL);
		EXPECT_EQ(0, stop(&self->ring, &watch));
	}
}

TEST_F(uring, bad_times_are_refused)
{
	struct io_uring_cqe *cqe;

	EXPECT_EQ(-EINVAL, evering_uring_wait(&self->ring, -2, &cqe));
	EXPECT_EQ(-EINVAL, evering_uring_wait(&self->ring, INT64_MIN, &cqe));
	EXPECT_EQ(-EAGAIN,
		  evering_uring_wait(&self->ring, EVERING_NOWAIT, &cqe));
}

static void put(struct evering *ev, uint32_t v)
{
	void *slot = evering_reserve(ev);

	if (!slot)
		_exit(90);
	memcpy(slot, &v, sizeof(v));
	evering_commit(ev);
}

/* How many of the receivers' descriptors an epoll set says to be ready. */
static int ready_of(int set)
{
	struct epoll_event events[MANY];

	return epoll_wait(set, events, MANY, 0);
}

/* Every second of them sleeps. */
TEST_F(uring, many_peers_are_woken_by_one_flush)
{
	uint32_t round, i, v;
	int set = epoll_create1(EPOLL_CLOEXEC);
	struct io_uring_cqe *cqe;
	struct rlimit limit;

	ASSERT_LE(0, set);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	for (i = 0; i < MANY; i++) {
		struct epoll_event e = { .events = EPOLLIN };

		if (i) {
			int ret = evering_pair(&self->p, self->ev[i]);

			if (ret == -EMFILE)
				SKIP(return, "not enough descriptors");
			ASSERT_EQ(0, ret);
		}
		self->from[i] = self->ev[i][0];
		if (i % 2)
			ASSERT_EQ(0, epoll_ctl(set, EPOLL_CTL_ADD,
					       evering_fd(self->ev[i][1]), &e));
	}
	for (round = 0; round < 20; round++) {
		for (i = 1; i < MANY; i += 2)
			ASSERT_EQ(0, evering_arm(self->ev[i][1], EVERING_RX));
		ASSERT_EQ(0, ready_of(set));
		for (i = 0; i < MANY; i++)
			put(self->from[i], round * MANY + i);
		ASSERT_EQ(0, ready_of(set));
		ASSERT_EQ(MANY / 2,
			  evering_uring_flush_many(&self->ring, self->from,
						   MANY, TAG));
		ASSERT_EQ(MANY / 2, ready_of(set));
		/* Nobody sleeps who has not been rung. */
		ASSERT_EQ(0, evering_uring_flush_many(&self->ring, self->from,
						      MANY, TAG));
		/* Linux 6.1 completes commands that were to be silent. */
		while (!io_uring_peek_cqe(&self->ring, &cqe)) {
			ASSERT_LE(0, cqe->res);
			ASSERT_EQ(TAG, cqe->user_data);
			io_uring_cqe_seen(&self->ring, cqe);
		}
		for (i = 0; i < MANY; i++) {
			ASSERT_EQ(0, evering_recv(self->ev[i][1], &v, 4,
						  EVERING_NOWAIT));
			ASSERT_EQ(round * MANY + i, v);
		}
	}
	close(set);
}

/* More of them than the ring has room for submissions. */
TEST_F(uring, a_small_ring_wakes_as_many)
{
	struct io_uring small;
	uint32_t i;

	ASSERT_EQ(0, io_uring_queue_init(4, &small, 0));
	for (i = 0; i < 16; i++) {
		if (i)
			ASSERT_EQ(0, evering_pair(&self->p, self->ev[i]));
		self->from[i] = self->ev[i][0];
		ASSERT_EQ(0, evering_arm(self->ev[i][1], EVERING_RX));
		put(self->from[i], i);
	}
	EXPECT_EQ(16, evering_uring_flush_many(&small, self->from, 16, 0));
	for (i = 0; i < 16; i++) {
		struct pollfd fd = { .fd = evering_fd(self->ev[i][1]),
				     .events = POLLIN };

		EXPECT_EQ(1, poll(&fd, 1, 0));
	}
	io_uring_queue_exit(&small);
}

/* Where the kernel takes nothing they are rung one by one, or with what it takes next. */
TEST_F(uring, a_broken_ring_leaves_nobody_asleep)
{
	struct pollfd fd[8];
	uint32_t i, full;

	for (i = 1; i < 8; i++)
		ASSERT_EQ(0, evering_pair(&self->p, self->ev[i]));
	for (full = 0; full < 2; full++) {
		for (i = 0; i < 8; i++) {
			self->from[i] = self->ev[i][0];
			ASSERT_EQ(0, evering_arm(self->ev[i][1], EVERING_RX));
			put(self->from[i], i);
			fd[i] = (struct pollfd){ .fd = evering_fd(
							 self->ev[i][1]),
						 .events = POLLIN };
		}
		ASSERT_EQ(0, poll(fd, 8, 0));
		if (full)
			fill_queue(&self->ring);
		break_ring(&self->ring, true);
		EXPECT_EQ(full ? 8 : -EBADF,
			  evering_uring_flush_many(&self->ring, self->from, 8,
						   TAG));
		EXPECT_EQ(full ? 8 : 0, poll(fd, 8, 0));
		break_ring(&self->ring, false);
		drop_completions(&self->ring);
		EXPECT_EQ(8, poll(fd, 8, 0));
		for (i = 0; i < 8; i++) {
			evering_disarm(self->ev[i][1], EVERING_RX);
			ASSERT_EQ(0, evering_recv(self->ev[i][1], NULL, 0,
						  EVERING_NOWAIT));
		}
	}
}

/* Before Linux 5.17 the kernel keeps nothing to itself. */
TEST_F(uring, completions_of_rings_that_cannot_be_silent_mean_nothing)
{
	struct io_uring_cqe *cqe;
	int i;

	self->ring.features &= ~IORING_FEAT_CQE_SKIP;
	/* What nobody listens to is still to be heard, and not rung again. */
	ASSERT_LE(0, evering_fd(self->ev[0][1]));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, evering_arm(self->ev[0][1], EVERING_RX));
		put(self->ev[0][0], 1);
		EXPECT_EQ(1, evering_uring_flush_many(&self->ring, self->ev[0],
						      1, TAG));
		ASSERT_EQ(0, evering_uring_wait(&self->ring, PLENTY, &cqe));
		EXPECT_EQ(TAG, cqe->user_data);
		EXPECT_LE(0, cqe->res);
		io_uring_cqe_seen(&self->ring, cqe);
		evering_disarm(self->ev[0][1], EVERING_RX);
		EXPECT_EQ(0, evering_recv(self->ev[0][1], NULL, 0,
					  EVERING_NOWAIT));
	}
}

TEST_F(uring, no_arena_and_one_too_large_are_no_fixed_buffers)
{
	struct evering *a = self->ev[0][0];

	said_size = EVERING_URING_MAX_BUFFER + 4096;
	EXPECT_EQ(-E2BIG, evering_uring_register_arena(&self->ring, 0, a));
	said_size = 0;
	self->p.arena_size[EVERING_MINE] = 0;
	ASSERT_EQ(0, evering_pair(&self->p, self->ev[1]));
	EXPECT_EQ(-ENODATA,
		  evering_uring_register_arena(&self->ring, 0, self->ev[1][0]));
}

/* A file's bytes appear in the peer's view of the arena. */
TEST_F(uring, an_arena_is_a_fixed_buffer)
{
	struct evering *a = self->ev[0][0], *b = self->ev[0][1];
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char text[4096], *buf;
	const char *seen;
	int fd, ret;

	memset(text, 'e', sizeof(text));
	fd = memfd_create("evering-test", MFD_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ((ssize_t)sizeof(text), write(fd, text, sizeof(text)));
	EXPECT_EQ(-ENXIO, evering_uring_register_arena(&self->ring, 3, a));
	ret = io_uring_register_buffers_sparse(&self->ring, 8);
	if (ret)
		SKIP(return, "no sparse tables before Linux 5.19");
	EXPECT_EQ(-EINVAL, evering_uring_register_arena(&self->ring, 8, a));
	ret = evering_uring_register_arena(&self->ring, 3, a);
	/* Linux before 6.5 takes no mappings of files but shmem's. */
	if (ret == -EOPNOTSUPP)
		SKIP(return, "this kernel registers no mappings of files");
	ASSERT_EQ(0, ret);
	buf = evering_alloc(a, sizeof(text), 0);
	ASSERT_NE(NULL, buf);
	sqe = io_uring_get_sqe(&self->ring);
	io_uring_prep_read_fixed(sqe, fd, buf, sizeof(text), 0, 3);
	ASSERT_EQ(0, evering_uring_wait(&self->ring, PLENTY, &cqe));
	EXPECT_EQ((int)sizeof(text), cqe->res);
	io_uring_cqe_seen(&self->ring, cqe);
	seen = evering_peer_buffer(b, evering_offset(a, buf), sizeof(text));
	ASSERT_NE(NULL, seen);
	EXPECT_EQ(0, memcmp(text, seen, sizeof(text)));
	EXPECT_EQ(0, evering_uring_unregister_arena(&self->ring, 3));
	evering_free(a, buf);
	close(fd);
}

TEST_HARNESS_MAIN
