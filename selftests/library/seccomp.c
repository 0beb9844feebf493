// SPDX-License-Identifier: MIT
/*
 * seccomp.c: filters of system calls that do not know those the library would like to
 * have, and say so in various ways.  Whatever they say, everything works: a sandbox is
 * no reason to fail, to spin, or to believe a stranger.
 */
#include "stranger.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

/* What a filter refuses: all calls of a number, or those with this third argument. */
struct forbidden {
	const char *name;
	long number;
	uint32_t argument;
};

static const struct forbidden forbidden[] = {
	{ "nothing", -1, 0 },
	{ "epoll_pwait2", SYS_epoll_pwait2, 0 },
	{ "preadv2", SYS_preadv2, 0 },
	{ "clone", SYS_clone, 0 },
	{ "close_range", SYS_close_range, 0 },
	{ "statx", SYS_statx, 0 },
	{ "prlimit64", SYS_prlimit64, 0 },
	{ "setsockopt(SO_ATTACH_FILTER)", SYS_setsockopt, SO_ATTACH_FILTER },
	{ "setsockopt(SO_PASSCRED)", SYS_setsockopt, SO_PASSCRED },
};

static const int errors[] = { EPERM, ENOSYS, EACCES };

static int forbid(const struct forbidden *f, int error)
{
	/* The low half of the third argument, on a little-endian machine. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)f->number, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, f->argument, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JA | BPF_K, f->argument ? 1 : 0, 0, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(code), code };

	if (f->number < 0)
		return 0;
	/* Where any argument is meant: straight to the refusal. */
	if (!f->argument)
		code[1] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)f->number, 3, 4);
	else
		code[4] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
						       SECCOMP_RET_ALLOW);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return -errno;
	return 0;
}

/* What a process ends with: the line that fails, of those after this one. */
enum {
	FIRST_LINE = __LINE__
};
#define CHECK(cond)                                   \
	do {                                          \
		if (!(cond))                          \
			return __LINE__ - FIRST_LINE; \
	} while (0)

static int waits(const struct evering_params *p)
{
	const struct evering_group_event *events;
	struct pollfd fd = { .events = 0 };
	struct evering_group *g;
	struct evering *ev[2];
	uint32_t v = 3;
	int i, wakeups = 0;

	CHECK(!evering_pair(p, ev));
	CHECK(evering_recv(ev[0], &v, 4, 5 * MSEC) == -ETIMEDOUT);
	CHECK(evering_wait(ev[0], EVERING_RX | EVERING_FLUSH, 5 * MSEC) ==
	      -ETIMEDOUT);
	CHECK(!evering_send(ev[1], &v, 4, 0));
	CHECK(!evering_recv(ev[0], &v, 4, PLENTY));
	while (!evering_send(ev[0], &v, 4, 0))
		;
	CHECK(evering_wait(ev[0], EVERING_RX | EVERING_TX, 5 * MSEC) ==
	      -ETIMEDOUT);
	/* An idle loop, after a ring that it heard. */
	fd.fd = evering_fd(ev[0]);
	fd.events = evering_events(ev[0], EVERING_RX);
	CHECK(!evering_arm(ev[0], EVERING_RX));
	CHECK(!evering_send(ev[1], &v, 4, 0));
	CHECK(poll(&fd, 1, (int)(PLENTY / MSEC)) == 1);
	while (!evering_recv(ev[0], &v, 4, 0))
		;
	for (i = 0; i < 10; i++) {
		CHECK(!evering_arm(ev[0], EVERING_RX));
		wakeups += poll(&fd, 1, 2) > 0;
	}
	CHECK(wakeups < 3);
	/* And a group. */
	CHECK(!evering_group_open(NULL, &g));
	CHECK(!evering_group_add(g, ev[0], EVERING_RX, NULL));
	CHECK(evering_group_wait(g, &events, 5 * MSEC) == -ETIMEDOUT);
	CHECK(!evering_send(ev[1], &v, 4, 0));
	CHECK(evering_group_wait(g, &events, PLENTY) == 1);
	CHECK(!evering_recv(ev[0], &v, 4, 0));
	evering_group_close(g);
	evering_close(ev[1]);
	CHECK(evering_recv(ev[0], &v, 4, PLENTY) == -EPIPE);
	evering_close(ev[0]);
	return 0;
}

/**
 * struct sandbox - a server in a filter
 * @filter: which; and what it says
 * @clients: they connect when they are told: one that is right, one that is not
 * @shared: with them: @go, and what a call of the server's has returned
 */
struct sandbox {
	const struct forbidden *filter;
	int error;
	struct evering_params p;
	char path[64];
	struct {
		uint32_t go;
		int ret;
	} * shared;
	int fds;
};

static int client_process(void *arg)
{
	struct sandbox *s = arg;
	struct evering *ev;
	uint32_t v = 9;
	int null, sock;

	while (!__atomic_load_n(&s->shared->go, __ATOMIC_ACQUIRE))
		sleep_ns(MSEC);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sock = raw_socket(s->path, 0, false);
	if (null < 0 || sock < 0 || raw_send(sock, "junk", 4, &null, 1))
		return 1;
	if (evering_connect(s->path, &s->p, PLENTY, &ev))
		return 2;
	if (evering_send(ev, &v, 4, 0) || evering_recv(ev, &v, 4, PLENTY))
		return 3;
	evering_close(ev);
	return 0;
}

static int sandbox_main(void *arg)
{
	struct sandbox *s = arg;
	struct evering_listener *l;
	struct evering *ev, *none;
	uint32_t v;
	int ret;

	if (forbid(s->filter, s->error))
		return 250;
	ret = waits(&s->p);
	if (ret)
		return ret;
	CHECK(!evering_listen(s->path, 0, &l));
	__atomic_store_n(&s->shared->go, 1, __ATOMIC_RELEASE);
	CHECK(!evering_accept(l, NULL, PLENTY, &ev));
	s->shared->ret = evering_recv(ev, &v, 4, PLENTY);
	CHECK(!s->shared->ret);
	CHECK(!evering_send(ev, &v, 4, 0));
	/* The one that is right may be served first, if both were there at once. */
	CHECK(EVENTUALLY(evering_listener_refused(l, &ret) ||
			 evering_accept(l, NULL, MSEC, &none) != -ETIMEDOUT));
	CHECK(evering_listener_refused(l, &ret) == 1);
	CHECK(ret == -EPROTO);
	CHECK(evering_recv(ev, &v, 4, PLENTY) == -EPIPE);
	evering_close(ev);
	evering_listener_close(l);
	CHECK(count_fds() == s->fds);
	return 0;
}

FIXTURE(seccomp)
{
	struct sandbox s;
};

BACKEND_VARIANTS(seccomp);

FIXTURE_SETUP(seccomp)
{
	REQUIRE_BACKEND(variant->backend);
	self->s.p = params_sized(variant->backend, 64, 16, 65536);
	snprintf(self->s.path, sizeof(self->s.path), "@evering-seccomp-%d",
		 getpid());
	self->s.shared = shared_memory(4096);
	ASSERT_NE(NULL, self->s.shared);
	self->s.fds = count_fds();
}

FIXTURE_TEARDOWN(seccomp)
{
	EXPECT_TRUE(no_children());
}

TEST_F(seccomp, whatever_a_filter_refuses_everything_works)
{
	unsigned int i, k;
	pid_t client, pid;
	int ret;

	for (i = 0; i < ARRAY_SIZE(forbidden); i++)
		for (k = 0; k < ARRAY_SIZE(errors); k++) {
			self->s.filter = &forbidden[i];
			self->s.error = errors[k];
			self->s.shared->go = 0;
			client = spawn(client_process, &self->s);
			pid = spawn(sandbox_main, &self->s);
			ret = reap_within(pid, 6 * PLENTY);
			if (ret == 250) {
				kill_and_reap(client);
				SKIP(return, "there are no filters");
			}
			EXPECT_EQ(0, ret)
			{
				TH_LOG("%s: %s: line %d, recv %d, client %d",
				       forbidden[i].name, strerror(errors[k]),
				       ret + FIRST_LINE, self->s.shared->ret,
				       reap_within(client, SEC));
			}
			if (!ret) {
				EXPECT_EQ(0, reap(client));
			}
			if (forbidden[i].number < 0)
				break;
		}
}

TEST_HARNESS_MAIN
