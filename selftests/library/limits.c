// SPDX-License-Identifier: MIT
/*
 * limits.c: what happens when the process or the machine has no more to give:
 * descriptors, address space, /proc.  Each call either works or says which of them
 * it was, leaves nothing behind, and works again once there is more.
 */
#include "common.h"

#include <sys/mount.h>
#include <sys/sysmacros.h>

FIXTURE(limits)
{
	struct evering_params p;
	struct rlimit nofile;
	char path[64];
};

BACKEND_VARIANTS(limits);

FIXTURE_SETUP(limits)
{
	REQUIRE_BACKEND(variant->backend);
	self->p = params_sized(variant->backend, 64, 16, 65536);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &self->nofile));
	snprintf(self->path, sizeof(self->path), "@evering-limits-%d",
		 getpid());
}

FIXTURE_TEARDOWN(limits)
{
}

/*
 * Leaves @spare descriptors that can still be opened; -1: as many as at first.  New
 * ones take the lowest free number, so what counts is how many are free below the
 * limit.
 */
static int leave_fds(FIXTURE_DATA(limits) * self, int spare)
{
	struct rlimit rl = self->nofile;
	int fd;

	if (spare >= 0) {
		for (fd = 0; fd < 4096; fd++)
			if (fcntl(fd, F_GETFD) < 0 && !spare--)
				break;
		rl.rlim_cur = (rlim_t)fd;
	}
	return setrlimit(RLIMIT_NOFILE, &rl);
}

/* The most that any one of the calls may need. */
#define ENOUGH	40

TEST_F(limits, pairs_for_want_of_descriptors_fail_cleanly)
{
	int fds = count_fds(), spare, ret, failed = 0;
	struct evering *ev[2];

	for (spare = 0; spare <= ENOUGH; spare++) {
		ASSERT_EQ(0, leave_fds(self, spare));
		ret = evering_pair(&self->p, ev);
		leave_fds(self, -1);
		if (!ret)
			close_pair(ev);
		else
			ASSERT_EQ(-EMFILE, ret)
			{
				TH_LOG("%d spare", spare);
			}
		ASSERT_EQ(fds, count_fds())
		{
			TH_LOG("%d spare: %d", spare, ret);
		}
		/* More never hurts. */
		ASSERT_FALSE(ret && failed < spare);
		failed += ret != 0;
	}
	EXPECT_EQ(0, ret);
	printf("# a pair takes %d descriptors while it is made\n", failed);
}

TEST_F(limits, a_descriptor_for_polling_may_not_be_there)
{
	struct evering *ev[2];
	uint32_t v = 1;
	int fds;

	ASSERT_EQ(0, evering_pair(&self->p, ev));
	fds = count_fds();
	ASSERT_EQ(0, leave_fds(self, 0));
	/* The device's endpoint is a descriptor already. */
	EXPECT_EQ(variant->backend == EVERING_BACKEND_MEMFD ? -EMFILE : 0,
		  evering_fd(ev[0]) < 0 ? evering_fd(ev[0]) : 0);
	EXPECT_EQ(fds, count_fds());
	/* What needs no new one goes on. */
	EXPECT_EQ(0, evering_send(ev[0], &v, 4, 0));
	EXPECT_EQ(0, evering_recv(ev[1], &v, 4, PLENTY));
	EXPECT_EQ(-ETIMEDOUT, evering_recv(ev[1], &v, 4, MSEC));
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(ev[0]));
	leave_fds(self, -1);
	EXPECT_LE(0, evering_fd(ev[0]));
	close_pair(ev);
}

static void *wait_main(void *ev)
{
	return (void *)(intptr_t)evering_wait(ev, EVERING_RX, PLENTY);
}

TEST_F(limits, a_wake_needs_no_descriptor)
{
	struct evering *ev[2];
	void *ret = NULL;
	pthread_t t;
	int i;

	ASSERT_EQ(0, evering_pair(&self->p, ev));
	ASSERT_EQ(0, evering_set_policy(ev[0], EVERING_BLOCK, 0));
	ASSERT_EQ(0, leave_fds(self, 0));
	/* Again when there is one. */
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_create(&t, NULL, wait_main, ev[0]));
		ASSERT_TRUE(peer_is_armed(ev[1], EVERING_RX));
		EXPECT_EQ(0, evering_wake(ev[0], EVERING_RX));
		ASSERT_EQ(0, pthread_join(t, &ret));
		EXPECT_EQ(-EINTR, (intptr_t)ret);
		/* A sleep that ends for a look is no shorter for that. */
		EXPECT_EQ(-ETIMEDOUT,
			  evering_wait(ev[0], EVERING_RX, 25 * MSEC));
		if (i)
			leave_fds(self, -1);
	}
	close_pair(ev);
}

/* Accepts, or connects, for ever, in a process with descriptors to spare. */
static int accept_for_ever(void *arg)
{
	struct evering_listener *l;
	struct evering *ev;

	if (evering_listen(arg, 0, &l))
		return 1;
	for (;;)
		if (!evering_accept(l, NULL, EVERING_WAIT_FOREVER, &ev))
			evering_close(ev);
}

static int connect_for_ever(void *arg)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_AUTO, 64, 16, 65536);
	struct evering *ev;

	for (;;) {
		if (!evering_connect(arg, &p, PLENTY, &ev))
			evering_close(ev);
		else
			sleep_ns(MSEC);
	}
	return 0;
}

TEST_F(limits, connecting_for_want_of_descriptors_fails_cleanly)
{
	int fds = count_fds(), spare, ret = -1, failed = 0;
	pid_t pid = spawn(accept_for_ever, self->path);
	int64_t end = now_ns() + PLENTY;
	struct evering *ev;

	while ((ret = evering_connect(self->path, &self->p, PLENTY, &ev)) &&
	       now_ns() < end)
		sleep_ns(MSEC);
	ASSERT_EQ(0, ret);
	evering_close(ev);
	for (spare = 0; spare <= ENOUGH; spare++) {
		ASSERT_EQ(0, leave_fds(self, spare));
		ret = evering_connect(self->path, &self->p, PLENTY, &ev);
		leave_fds(self, -1);
		if (!ret)
			evering_close(ev);
		else
			ASSERT_EQ(-EMFILE, ret)
			{
				TH_LOG("%d spare", spare);
			}
		ASSERT_EQ(fds, count_fds())
		{
			TH_LOG("%d spare: %d", spare, ret);
		}
		failed += ret != 0;
	}
	EXPECT_EQ(0, ret);
	printf("# connecting takes %d descriptors\n", failed);
	kill_and_reap(pid);
}

TEST_F(limits, accepting_for_want_of_descriptors_fails_cleanly)
{
	int fds, spare, ret = -1, failed = 0;
	struct evering_listener *l;
	struct evering *ev;
	pid_t pid;

	setenv("EVERING_BACKEND",
	       variant->backend == EVERING_BACKEND_DEVICE ? "device" : "memfd",
	       1);
	ASSERT_EQ(0, evering_listen(self->path, 0, &l));
	fds = count_fds();
	pid = spawn(connect_for_ever, self->path);
	for (spare = 0; spare <= ENOUGH; spare++) {
		ASSERT_EQ(0, leave_fds(self, spare));
		ret = evering_accept(l, NULL, PLENTY, &ev);
		leave_fds(self, -1);
		if (!ret)
			evering_close(ev);
		else
			ASSERT_EQ(-EMFILE, ret)
			{
				TH_LOG("%d spare", spare);
			}
		failed += ret != 0;
	}
	EXPECT_EQ(0, ret);
	printf("# accepting takes %d descriptors\n", failed);
	/* The listener is as good as ever. */
	for (spare = 0; spare < 20; spare++) {
		ASSERT_EQ(0, evering_accept(l, NULL, PLENTY, &ev));
		evering_close(ev);
	}
	kill_and_reap(pid);
	/* Who waits in line keeps a descriptor each, for a second at most. */
	sleep_ns(1200 * MSEC);
	while (evering_accept(l, NULL, 10 * MSEC, &ev) != -ETIMEDOUT)
		;
	EXPECT_EQ(fds, count_fds());
	evering_listener_close(l);
}

TEST_F(limits, accepting_on_a_socketpair_for_want_of_descriptors_fails_cleanly)
{
	int fds, spare, ret = -1, failed = 0, sv[2];
	struct evering *a, *b;

	/* The hello comes from a child, whose connect times out or is refused. */
	for (spare = 0; spare <= ENOUGH; spare++) {
		pid_t pid;

		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
					0, sv));
		pid = fork();
		if (!pid) {
			close(sv[1]);
			ret = evering_connect_fd(sv[0], &self->p, PLENTY, &a);
			_exit(ret ? -ret : 0);
		}
		close(sv[0]);
		fds = count_fds();
		ASSERT_EQ(0, leave_fds(self, spare));
		ret = evering_accept_fd(sv[1], NULL, PLENTY, &b);
		leave_fds(self, -1);
		/* The other side hears why, not that it spoke badly. */
		ASSERT_EQ(-ret, reap(pid))
		{
			TH_LOG("%d spare", spare);
		}
		if (!ret) {
			evering_close(b);
			ASSERT_EQ(fds - 1, count_fds());
			continue;
		}
		failed++;
		ASSERT_EQ(-EMFILE, ret)
		{
			TH_LOG("%d spare", spare);
		}
		ASSERT_EQ(fds, count_fds());
		close(sv[1]);
	}
	EXPECT_EQ(0, ret);
	printf("# accepting on a socket takes %d descriptors\n", failed);
}

TEST_F(limits, listening_for_want_of_descriptors_fails_cleanly)
{
	char path[] = "/tmp/evering-limits-XXXXXX";
	int fds, spare, ret = -1;
	struct evering_listener *l;

	ASSERT_LE(0, close(mkstemp(path)));
	ASSERT_EQ(0, unlink(path));
	fds = count_fds();
	for (spare = 0; spare <= 10; spare++) {
		ASSERT_EQ(0, leave_fds(self, spare));
		ret = evering_listen(path, 0600, &l);
		leave_fds(self, -1);
		if (!ret)
			evering_listener_close(l);
		else
			ASSERT_EQ(-EMFILE, ret);
		ASSERT_EQ(fds, count_fds());
		ASSERT_NE(0, access(path, F_OK));
	}
	EXPECT_EQ(0, ret);
}

TEST_F(limits, pairs_for_want_of_address_space_fail_cleanly)
{
	struct rlimit rl, old;
	struct evering *ev[2];
	int fds = count_fds(), mappings, ret = -1, failed = 0;
	long kb, vm, step = short_run() ? 180 : 60;

	if (SANITIZED)
		SKIP(return, "a sanitizer needs all of the address space");
	vm = status_kb("VmSize:");
	if (vm < 0)
		SKIP(return, "no /proc");
	self->p.arena_size[0] = 1 << 20;
	self->p.arena_size[1] = 1 << 20;
	ASSERT_EQ(0, evering_pair(&self->p, ev));
	close_pair(ev);
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &old));
	mappings = count_mappings();
	rl = old;
	vm = status_kb("VmSize:");
	for (kb = 0; kb <= 8192; kb += kb < 64 ? 4 : step) {
		rl.rlim_cur = (rlim_t)(vm + kb) * 1024;
		ASSERT_EQ(0, setrlimit(RLIMIT_AS, &rl));
		ret = evering_pair(&self->p, ev);
		setrlimit(RLIMIT_AS, &old);
		if (!ret)
			close_pair(ev);
		else
			ASSERT_EQ(-ENOMEM, ret)
			{
				TH_LOG("%ld kB spare", kb);
			}
		ASSERT_EQ(fds, count_fds());
		ASSERT_EQ(mappings, count_mappings())
		{
			TH_LOG("%ld kB spare", kb);
		}
		failed += ret != 0;
	}
	EXPECT_EQ(0, ret);
	EXPECT_LT(10, failed);
}

TEST_F(limits, an_arena_larger_than_the_address_space_is_refused)
{
	struct rlimit rl, old;
	struct evering *ev[2];
	int fds = count_fds();
	long vm;

	if (SANITIZED)
		SKIP(return, "a sanitizer needs all of the address space");
	vm = status_kb("VmSize:");
	if (vm < 0)
		SKIP(return, "no /proc");
	/* Small enough that nothing is hurt if it is made before it is mapped. */
	self->p.arena_size[EVERING_MINE] = 128 << 20;
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &old));
	rl = old;
	rl.rlim_cur = (rlim_t)(vm + (64 << 10)) * 1024;
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &rl));
	EXPECT_EQ(-ENOMEM, evering_pair(&self->p, ev));
	self->p.arena_size[EVERING_MINE] = PAGE;
	self->p.arena_size[EVERING_PEERS] = 128 << 20;
	EXPECT_EQ(-ENOMEM, evering_pair(&self->p, ev));
	self->p.arena_size[EVERING_PEERS] = PAGE;
	EXPECT_EQ(0, evering_pair(&self->p, ev));
	setrlimit(RLIMIT_AS, &old);
	close_pair(ev);
	EXPECT_EQ(fds, count_fds());
}

TEST_F(limits, an_arena_beyond_the_abi_is_refused)
{
	struct evering *ev[2];
	int fds = count_fds();

	self->p.arena_size[0] = EVERING_MAX_ARENA + PAGE;
	EXPECT_EQ(-E2BIG, evering_pair(&self->p, ev));
	self->p.arena_size[0] = 1ull << 62;
	EXPECT_EQ(-E2BIG, evering_pair(&self->p, ev));
	EXPECT_EQ(fds, count_fds());
}

TEST_F(limits, a_file_size_limit_is_an_error_and_no_signal)
{
	struct rlimit rl, old;
	struct evering *ev[2];
	int fds = count_fds(), ret;

	/* ulimit -f counts for memfds too, and the kernel would send SIGXFSZ. */
	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &old));
	rl = old;
	rl.rlim_cur = 32768;
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &rl));
	ret = evering_pair(&self->p, ev);
	setrlimit(RLIMIT_FSIZE, &old);
	if (!ret)
		close_pair(ev);
	EXPECT_EQ(variant->backend == EVERING_BACKEND_MEMFD ? -EFBIG : 0, ret);
	EXPECT_EQ(fds, count_fds());
}

/* In a mount namespace without /proc; 77: not permitted. */
static int without_proc(void *arg)
{
	FIXTURE_DATA(limits) *self = arg;
	struct evering_listener *l;
	struct evering *ev[2];
	uint32_t v = 1;
	pid_t pid;
	int ret;

	if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return 77;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/proc", "tmpfs", 0, NULL))
		return 77;
	if (!access("/proc/self", F_OK))
		return 77;
	if (evering_pair(&self->p, ev))
		return 1;
	if (evering_send(ev[0], &v, 4, 0) || evering_recv(ev[1], &v, 4, 0) ||
	    evering_fd(ev[0]) < 0 || evering_peer(ev[0]) != EVERING_PEER_ALIVE)
		return 2;
	close_pair(ev);
	if (evering_listen(self->path, 0, &l))
		return 3;
	pid = spawn(connect_for_ever, self->path);
	ret = evering_accept(l, NULL, PLENTY, &ev[0]);
	kill_and_reap(pid);
	if (ret)
		return 4;
	if (evering_recv(ev[0], &v, 4, PLENTY) != -EPIPE)
		return 5;
	evering_close(ev[0]);
	evering_listener_close(l);
	return 0;
}

TEST_F(limits, no_proc_is_needed)
{
	int ret;

	setenv("EVERING_BACKEND",
	       variant->backend == EVERING_BACKEND_DEVICE ? "device" : "memfd",
	       1);
	ret = reap(spawn(without_proc, self));
	if (ret == 77)
		SKIP(return, "no mount namespace is permitted");
	EXPECT_EQ(0, ret);
}

TEST_HARNESS_MAIN
