// SPDX-License-Identifier: MIT
/*
 * leak.c: nothing is left behind: no descriptor, no mapping, no heap, however a
 * channel begins and ends.  Each test does something once to warm up, weighs the
 * process, does it many times over, and weighs it again.
 */
#include "common.h"

#if SANITIZED && !SANITIZED_THREADS
#include <sanitizer/lsan_interface.h>
#endif

/*
 * What malloc() may keep for itself from round to round; 16 bytes lost in each would
 * be more.
 */
#define HEAP_SLACK	4000

struct weight {
	int fds, mappings;
	size_t heap;
	long vm_kb;
};

static struct weight weigh(void)
{
	struct weight w = { .fds = count_fds(), .mappings = count_mappings() };

	if (!SANITIZED) {
		w.heap = heap_bytes();
		w.vm_kb = status_kb("VmSize:");
	}
	return w;
}

/* One that is a pointer kept nowhere, which only a sanitizer sees. */
static int lost_memory(void)
{
#if SANITIZED && !SANITIZED_THREADS
	return __lsan_do_recoverable_leak_check();
#else
	return 0;
#endif
}

#define EXPECT_SAME_WEIGHT(before)                                             \
	do {                                                                   \
		struct weight after = weigh();                                 \
                                                                               \
		EXPECT_EQ((before).fds, after.fds);                            \
		EXPECT_EQ((before).mappings, after.mappings);                  \
		EXPECT_LE(after.heap, (before).heap + HEAP_SLACK);             \
		EXPECT_EQ((before).vm_kb, after.vm_kb);                        \
		EXPECT_EQ(0, lost_memory());                                   \
	} while (0)

FIXTURE(leak)
{
	struct evering_params p;
	int many;
};

BACKEND_VARIANTS(leak);

FIXTURE_SETUP(leak)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 65536);
	self->many = short_run() ? 50 : 1000;
	count_mappings(); /* stdio's buffer */
	weigh();
}

FIXTURE_TEARDOWN(leak)
{
}

/* A whole life: entries, buffers left allocated, a descriptor, sleeps. */
static int live(struct evering *ev[2], int i)
{
	uint32_t v = 1;

	if (evering_send(ev[0], &v, 4, 0) || evering_recv(ev[1], &v, 4, 0))
		return 1;
	evering_alloc(ev[i & 1], 1000, 0);
	if ((i & 2) && evering_fd(ev[0]) < 0)
		return 2;
	if ((i & 4) && evering_fd(ev[1]) < 0)
		return 3;
	if ((i & 8) && evering_arm(ev[1], EVERING_RX))
		return 4;
	if ((i & 16) && evering_recv(ev[1], &v, 4, USEC) != -ETIMEDOUT)
		return 5;
	return 0;
}

static int pair_once(const struct evering_params *p, int i)
{
	struct evering *ev[2];
	int ret = evering_pair(p, ev);

	if (ret)
		return ret;
	ret = live(ev, i);
	/* Either may be the first to go. */
	evering_close(ev[i & 1]);
	evering_close(ev[!(i & 1)]);
	return ret;
}

TEST_F(leak, pairs_leave_nothing)
{
	struct weight before;
	int i;

	for (i = 0; i < 32; i++)
		ASSERT_EQ(0, pair_once(&self->p, i));
	before = weigh();
	for (i = 0; i < self->many; i++)
		ASSERT_EQ(0, pair_once(&self->p, i));
	EXPECT_SAME_WEIGHT(before);
}

TEST_F(leak, pairs_of_every_kind_leave_nothing)
{
	struct evering_params p = self->p;
	struct weight before;
	int i, k;

	before = weigh();
	for (k = 0; k < 2; k++) {
		for (i = 0; i < 32; i++) {
			p.flags = i & 1 ? EVERING_SHARED_ARENA : 0;
			p.arena_size[0] = i & 2 ? PAGE : 0;
			p.arena_size[1] = i & 4 ? 1 << 20 : 0;
			p.slot_size = i & 8 ? 16 : 256;
			p.entries = i & 16 ? 4 : 4096;
			ASSERT_EQ(0, pair_once(&p, 0));
		}
		if (!k)
			before = weigh();
	}
	EXPECT_SAME_WEIGHT(before);
}

TEST_F(leak, refused_pairs_leave_nothing)
{
	struct evering_params p;
	struct evering *ev[2];
	struct weight before;
	int i;

	ASSERT_EQ(0, pair_once(&self->p, 0));
	before = weigh();
	for (i = 0; i < 100; i++) {
		p = self->p;
		p.slot_size = 3;
		ASSERT_EQ(-EINVAL, evering_pair(&p, ev));
		p = self->p;
		p.entries = 1 << 30;
		ASSERT_EQ(-E2BIG, evering_pair(&p, ev));
	}
	EXPECT_SAME_WEIGHT(before);
}

static int echo_one(struct evering *ev, void *arg)
{
	int how = *(int *)arg;
	uint32_t v;

	if (evering_recv(ev, &v, 4, PLENTY) || evering_send(ev, &v, 4, 0))
		return 1;
	if (how == 0)
		return 0;
	if (how == 1)
		evering_close(ev);
	if (how == 2)
		raise(SIGKILL);
	await_death();
}

TEST_F(leak, partners_that_leave_in_any_way_leave_nothing)
{
	struct evering_params p[2] = { self->p, self->p };
	int many = short_run() ? 12 : 300;
	struct weight before;
	struct duo duo;
	int i, how;
	uint32_t v;

	before = weigh();
	for (i = 0; i < many; i++) {
		if (i == 8)
			before = weigh();
		how = i % 4;
		v = (uint32_t)i;
		ASSERT_EQ(0, duo_start(&duo, i & 1, p, echo_one, &how));
		ASSERT_EQ(0, evering_send(duo.ev, &v, 4, 0));
		ASSERT_EQ(0, evering_recv(duo.ev, &v, 4, PLENTY));
		if (how != 3)
			ASSERT_EQ(-EPIPE, evering_recv(duo.ev, &v, 4, PLENTY));
		evering_close(duo.ev);
		kill_and_reap(duo.pid);
	}
	EXPECT_SAME_WEIGHT(before);
}

static int exit_at_once(void *arg)
{
	(void)arg;
	return 0;
}

TEST_F(leak, a_forked_child_takes_and_leaves_nothing)
{
	struct evering *ev[2];
	struct weight before;
	uint32_t v = 1;
	int i;

	ASSERT_EQ(0, evering_pair(&self->p, ev));
	ASSERT_EQ(0, live(ev, 0));
	before = weigh();
	for (i = 0; i < 50; i++)
		ASSERT_EQ(0, reap(spawn(exit_at_once, NULL)));
	EXPECT_SAME_WEIGHT(before);
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(ev[0]));
	EXPECT_EQ(0, evering_send(ev[0], &v, 4, 0));
	EXPECT_EQ(0, evering_recv(ev[1], &v, 4, 0));
	close_pair(ev);
}

struct client {
	const char *path;
	const struct evering_params *p;
	struct evering *ev;
	int ret;
};

static void *client_main(void *arg)
{
	struct client *c = arg;

	c->ret = evering_connect(c->path, c->p, PLENTY, &c->ev);
	return NULL;
}

TEST_F(leak, meeting_at_a_socket_leaves_nothing)
{
	int many = short_run() ? 20 : 300;
	struct evering_listener *l;
	struct evering *ev[2];
	struct client c;
	struct weight before;
	char path[64];
	pthread_t t;
	int i;

	snprintf(path, sizeof(path), "@evering-leak-%d", getpid());
	c = (struct client){ .path = path, .p = &self->p };
	before = weigh();
	for (i = 0; i < many; i++) {
		if (i == 10)
			before = weigh();
		ASSERT_EQ(0, evering_listen(path, 0, &l));
		ASSERT_EQ(0, pthread_create(&t, NULL, client_main, &c));
		ASSERT_EQ(0, evering_accept(l, NULL, PLENTY, &ev[1]));
		pthread_join(t, NULL);
		ASSERT_EQ(0, c.ret);
		ev[0] = c.ev;
		if (i & 1)
			evering_listener_close(l);
		ASSERT_EQ(0, live(ev, i));
		evering_close(ev[i & 1]);
		evering_close(ev[!(i & 1)]);
		if (!(i & 1))
			evering_listener_close(l);
	}
	EXPECT_SAME_WEIGHT(before);
}

TEST_F(leak, failed_meetings_leave_nothing)
{
	int many = short_run() ? 20 : 200;
	struct evering_params beyond = EVERING_LIMITS_INIT;
	struct evering_listener *l = NULL, *l2;
	char path[64], garbage[64];
	struct weight before;
	struct evering *ev;
	struct client c;
	pthread_t t;
	uint64_t n;
	int i, sv[2];

	memset(garbage, 0x5a, sizeof(garbage));
	beyond.slot_size = 16;
	snprintf(path, sizeof(path), "@evering-leak-%d", getpid());
	c = (struct client){ .path = path, .p = &self->p };
	before = weigh();
	for (i = 0; i < many; i++) {
		if (i == 10)
			before = weigh();
		/* Nobody there. */
		ASSERT_EQ(-ECONNREFUSED,
			  evering_connect(path, &self->p, SEC, &ev));
		ASSERT_EQ(0, evering_listen(path, 0, &l));
		ASSERT_EQ(-EADDRINUSE, evering_listen(path, 0, &l2));
		/* Nobody accepts. */
		ASSERT_EQ(-ETIMEDOUT,
			  evering_connect(path, &self->p, 10 * USEC, &ev));
		/* Wishes for too much. */
		ASSERT_EQ(0, pthread_create(&t, NULL, client_main, &c));
		n = evering_listener_refused(l, NULL);
		while (evering_listener_refused(l, NULL) == n)
			ASSERT_EQ(-ETIMEDOUT,
				  evering_accept(l, &beyond, 2 * MSEC, &ev));
		/* It was this one, or the impatient one before it. */
		evering_listener_close(l);
		pthread_join(t, NULL);
		ASSERT_TRUE(c.ret == -E2BIG || c.ret == -ECONNRESET ||
			    c.ret == -ECONNREFUSED);

		/* Hung up on, and talked nonsense to. */
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
					0, sv));
		ASSERT_EQ((ssize_t)sizeof(garbage),
			  send(sv[0], garbage, sizeof(garbage), 0));
		ASSERT_EQ((ssize_t)sizeof(garbage),
			  send(sv[1], garbage, sizeof(garbage), 0));
		ASSERT_EQ(-EPROTO, evering_accept_fd(sv[0], NULL, SEC, &ev));
		ASSERT_EQ(-EPROTO,
			  evering_connect_fd(sv[1], &self->p, SEC, &ev));
		close(sv[0]);
		ASSERT_EQ(-ECONNRESET,
			  evering_connect_fd(sv[1], &self->p, SEC, &ev));
		close(sv[1]);
	}
	EXPECT_SAME_WEIGHT(before);
}

TEST_F(leak, listeners_closed_with_strangers_waiting_leave_nothing)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct evering_listener *l;
	struct weight before;
	struct evering *ev;
	socklen_t len;
	char path[64];
	int fd[8], i, k;

	snprintf(path, sizeof(path), "@evering-leak-%d", getpid());
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
			  strlen(path));
	memcpy(a.sun_path + 1, path + 1, strlen(path) - 1);
	before = weigh();
	for (i = 0; i < 20; i++) {
		if (i == 5)
			before = weigh();
		ASSERT_EQ(0, evering_listen(path, 0, &l));
		for (k = 0; k < 8; k++) {
			fd[k] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
				       0);
			ASSERT_EQ(0,
				  connect(fd[k], (struct sockaddr *)&a, len));
			if (k < 4) /* a stranger's descriptors, never taken */
				evering_accept(l, NULL, EVERING_NOWAIT, &ev);
		}
		evering_listener_close(l);
		for (k = 0; k < 8; k++)
			close(fd[k]);
	}
	EXPECT_SAME_WEIGHT(before);
}

TEST_F(leak, memory_of_the_regions_is_given_back)
{
	struct evering_params p = self->p;
	int i, many = short_run() ? 16 : 64;
	long before, after;

	/* So many times 16 MiB: would be seen in what the machine has left. */
	p.arena_size[0] = 8 << 20;
	p.arena_size[1] = 8 << 20;
	ASSERT_EQ(0, pair_once(&p, 0));
	before = status_kb("VmRSS:");
	for (i = 0; i < many; i++)
		ASSERT_EQ(0, pair_once(&p, i));
	after = status_kb("VmRSS:");
	if (before < 0)
		SKIP(return, "no /proc");
	EXPECT_LT(after - before, many * 512);
}

TEST_HARNESS_MAIN
