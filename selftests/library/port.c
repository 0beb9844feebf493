// SPDX-License-Identifier: MIT
/*
 * port.c: channels whose other end is a kernel module: evering_echo, which answers each entry
 * with itself, in the task that rings or in a thread of its own.
 *
 * Skipped where /dev/evering_echo is not.
 */
#include "common.h"
#include "module.h"
#include <linux/evering_echo.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

FIXTURE(port)
{
	struct evering_echo arg;
	int device;
	struct evering *ev;
};

FIXTURE_VARIANT(port)
{
	uint32_t flags;
	uint32_t spin_us;
	uint32_t budget;
};

FIXTURE_VARIANT_ADD(port, ringer){};
FIXTURE_VARIANT_ADD(port, ringer_one_by_one){
	.budget = 1,
};
FIXTURE_VARIANT_ADD(port, thread){
	.flags = EVERING_ECHO_THREAD,
};
FIXTURE_VARIANT_ADD(port, thread_spins){
	.flags = EVERING_ECHO_THREAD,
	.spin_us = 1000,
};

static int open_port(int device, struct evering_echo *arg, struct evering **ev)
{
	struct evering_params params = EVERING_LIMITS_INIT;
	int ret;

	if (ioctl(device, EVERING_IOC_ECHO, arg))
		return -errno;
	params.policy = EVERING_BLOCK;
	ret = evering_open_fd(arg->fd, &params, ev);
	close(arg->fd);
	return ret;
}

FIXTURE_SETUP(port)
{
	self->ev = NULL;
	module_load("evering_echo", "");
	self->device = open("/dev/evering_echo", O_RDWR | O_CLOEXEC);
	/* A guest has the module, if nothing is wrong. */
	if (self->device < 0 && !getenv("EVERING_GUEST"))
		SKIP(return, "no /dev/evering_echo");
	ASSERT_LE(0, self->device);
	self->arg = (struct evering_echo){
		.size = sizeof(self->arg),
		.flags = variant->flags,
		.spin_us = variant->spin_us,
		.budget = variant->budget,
		.geometry = {
			.slot_size = 64,
			.entries = 64,
			.arena_size = { 131072, 65536 },
		},
	};
	ASSERT_EQ(0, open_port(self->device, &self->arg, &self->ev));
}

FIXTURE_TEARDOWN(port)
{
	evering_close(self->ev);
	close(self->device);
}

TEST_F(port, answers_what_was_sent)
{
	uint32_t n, back;

	for (n = 1; n <= 1000; n++) {
		ASSERT_EQ(0, evering_send(self->ev, &n, sizeof(n), PLENTY));
		ASSERT_EQ(0,
			  evering_recv(self->ev, &back, sizeof(back), PLENTY));
		ASSERT_EQ(n, back);
	}
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(self->ev));
}

/*
 * While both sides spin, on a CPU each, an entry and its answer take no system call.  Either may
 * lose its CPU for longer than the thread spins: then it is rung, and the next ones are counted.
 */
TEST_F(port, takes_no_system_call_while_both_spin)
{
	struct evering_counters before, after;
	/* A CPU of a guest may stand still for longer than the thread spins. */
	const uint32_t many = slow(1) > 1 ? 10 : 100;
	int64_t until = now_ns() + PLENTY;
	uint64_t least = UINT64_MAX, calls;
	unsigned int tries;
	uint32_t n, back;

	if (!variant->spin_us || sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "nobody spins, or there is one CPU");
	ASSERT_EQ(0, evering_set_policy(self->ev, EVERING_BUSY, 0));
	for (tries = 0; least && now_ns() < until; tries++) {
		evering_get_counters(self->ev, EVERING_MINE, &before);
		for (n = 0; n < many; n++) {
			ASSERT_EQ(0, evering_send(self->ev, &n, sizeof(n),
						  PLENTY));
			ASSERT_EQ(0, evering_recv(self->ev, &back, sizeof(back),
						  PLENTY));
			ASSERT_EQ(n, back);
		}
		evering_get_counters(self->ev, EVERING_MINE, &after);
		calls = after.tx_syscalls - before.tx_syscalls +
			after.rx_syscalls - before.rx_syscalls;
		least = calls < least ? calls : least;
	}
	TH_LOG("%u times %u entries, of which the last took %llu system calls",
	       tries, many, (unsigned long long)least);
	EXPECT_EQ(0, least);
}

/* More than both rings hold: it waits for room, and goes on when there is some. */
TEST_F(port, waits_for_room)
{
	uint32_t sent = 0, n, back;
	int ret;

	while (!(ret = evering_send(self->ev, &sent, sizeof(sent),
				    sent < 128 ? PLENTY : 100 * MSEC)))
		sent++;
	ASSERT_EQ(-ETIMEDOUT, ret);
	EXPECT_EQ(128, sent);
	for (n = 0; n < sent; n++) {
		ASSERT_EQ(0,
			  evering_recv(self->ev, &back, sizeof(back), PLENTY));
		ASSERT_EQ(n, back);
	}
	ASSERT_EQ(0, evering_send(self->ev, &sent, sizeof(sent), PLENTY));
	ASSERT_EQ(0, evering_recv(self->ev, &back, sizeof(back), PLENTY));
	EXPECT_EQ(sent, back);
}

/* In ticks, of all CPUs, in the kernel. */
static unsigned long long busy(void)
{
	unsigned long long user = 0, nice = 0, system = 0;
	FILE *f = fopen("/proc/stat", "re");

	if (!f || fscanf(f, "cpu %llu %llu %llu", &user, &nice, &system) != 3)
		system = 0;
	if (f)
		fclose(f);
	return system;
}

/* A module that waits for room does nothing else meanwhile. */
TEST_F(port, who_waits_for_room_costs_nothing)
{
	unsigned long long before, spent, least = 1000;
	uint32_t n = 0;
	int i;

	while (!evering_send(self->ev, &n, sizeof(n),
			     n < 128 ? PLENTY : 100 * MSEC))
		n++;
	/* Others are counted as well: once it is next to nothing. */
	for (i = 0; i < 20 && least >= 10; i++) {
		before = busy();
		sleep(1);
		spent = busy() - before;
		least = spent < least ? spent : least;
	}
	EXPECT_GT(10, least);
}

struct flood {
	struct evering *ev;
	uint32_t many;
	int ret;
};

static void *send_all(void *arg)
{
	struct flood *f = arg;
	uint32_t n;

	for (n = 0; n < f->many && !f->ret; n++)
		f->ret = evering_send(f->ev, &n, sizeof(n), PLENTY);
	return NULL;
}

TEST_F(port, a_stream_comes_back_whole)
{
	struct flood f = { .ev = self->ev,
			   .many = short_run() ? 20000 : 1000000 };
	uint32_t n, back;
	pthread_t t;

	ASSERT_EQ(0, pthread_create(&t, NULL, send_all, &f));
	for (n = 0; n < f.many; n++) {
		ASSERT_EQ(0,
			  evering_recv(self->ev, &back, sizeof(back), PLENTY));
		ASSERT_EQ(n, back);
	}
	pthread_join(t, NULL);
	EXPECT_EQ(0, f.ret);
}

static int die_at_work(void *arg)
{
	struct evering_echo echo = *(struct evering_echo *)arg;
	struct evering *ev;
	uint32_t n = 0;
	int device = open("/dev/evering_echo", O_RDWR | O_CLOEXEC);

	if (open_port(device, &echo, &ev))
		return 1;
	for (;; n++) {
		evering_send(ev, &n, sizeof(n), EVERING_NOWAIT);
		if (n == 1000)
			kill(getppid(), SIGUSR1);
	}
}

/* Whoever is killed leaves nothing of it behind: there is room for as many as before. */
TEST_F(port, the_process_dies_at_work)
{
	int i, many = short_run() || slow(1) > 1 ? 10 : 100;
	struct timespec patience = { PLENTY / SEC, 0 };
	sigset_t at_work;
	pid_t pid;

	sigemptyset(&at_work);
	sigaddset(&at_work, SIGUSR1);
	sigprocmask(SIG_BLOCK, &at_work, NULL);
	for (i = 0; i < many; i++) {
		pid = spawn(die_at_work, &self->arg);
		ASSERT_EQ(SIGUSR1, sigtimedwait(&at_work, NULL, &patience));
		usleep(1000 * (unsigned int)(i % 10));
		kill(pid, SIGKILL);
		ASSERT_EQ(128 + SIGKILL, reap(pid));
	}
}

static const size_t lengths[] = { 0, 1, 28, 44, 45, 1000, 5000, 60000 };

struct table {
	struct evering *ev;
	struct evering_ops *ops;
	unsigned char there[60000], back[60000];
};

static int table_open(struct table *t, int device,
		      const struct evering_echo *like)
{
	struct evering_echo arg = *like;
	size_t i;
	int ret;

	arg.flags |= EVERING_ECHO_OPS;
	ret = open_port(device, &arg, &t->ev);
	if (!ret)
		ret = evering_ops_open(t->ev, NULL, &t->ops);
	for (i = 0; i < sizeof(t->there); i++)
		t->there[i] = (unsigned char)(i * 7);
	return ret;
}

TEST_F(port, answers_requests_of_any_length)
{
	static struct table t;
	struct evering_completion c;
	struct iovec in, out;
	size_t i, k;

	ASSERT_EQ(0, table_open(&t, self->device, &self->arg));
	for (k = 0; k < 50; k++) {
		i = k % ARRAY_SIZE(lengths);
		memset(t.back, 0, sizeof(t.back));
		in = (struct iovec){ t.there, lengths[i] };
		out = (struct iovec){ t.back, sizeof(t.back) };
		ASSERT_EQ(0, evering_op_callv(t.ops, 1, &in, 1, &out, 1, &c,
					      PLENTY));
		ASSERT_EQ(1, c.result);
		ASSERT_EQ(lengths[i], c.buf_len);
		ASSERT_EQ(0, memcmp(t.there, t.back, lengths[i]));
	}
	evering_close(t.ev);
}

TEST_F(port, sends_messages_back)
{
	static struct table t;
	struct evering_msg msg;
	struct iovec piece;
	size_t i, k;

	ASSERT_EQ(0, table_open(&t, self->device, &self->arg));
	for (k = 0; k < 200; k++) {
		i = k % ARRAY_SIZE(lengths);
		piece = (struct iovec){ t.there, lengths[i] };
		ASSERT_EQ(0, evering_msg_send(t.ops, &piece, 1, PLENTY));
		ASSERT_EQ(0, evering_msg_recv(t.ops, &msg, PLENTY));
		ASSERT_EQ(lengths[i], msg.len);
		ASSERT_EQ(0, memcmp(t.there, msg.data, msg.len));
		ASSERT_EQ(0, evering_msg_free(t.ops, &msg));
	}
	evering_close(t.ev);
}

/* As many as it stores, before one is looked at. */
TEST_F(port, keeps_posts_until_they_are_taken)
{
	static struct table t;
	struct evering_op op = { .opcode = 7 };
	struct evering_request request;
	uint32_t n, sent = 0;
	int ret;

	ASSERT_EQ(0, table_open(&t, self->device, &self->arg));
	op.data = &sent;
	op.len = sizeof(sent);
	while (sent < 1000) {
		ret = evering_op_post(t.ops, &op,
				      sent < 64 ? PLENTY : 200 * MSEC);
		if (ret)
			break;
		sent++;
	}
	ASSERT_EQ(-ETIMEDOUT, ret);
	EXPECT_GE(sent, 64);
	for (n = 0; n < sent; n++) {
		ASSERT_EQ(0, evering_op_next(t.ops, &request, PLENTY));
		ASSERT_EQ(7, request.opcode);
		ASSERT_EQ(0, memcmp(request.data, &n, sizeof(n)));
	}
	evering_close(t.ev);
}

TEST_F(port, nonsense_ends_the_channel)
{
	struct evering_echo arg = self->arg;
	unsigned char entry[60];
	struct evering *ev;

	arg.flags |= EVERING_ECHO_OPS;
	memset(entry, 0x5a, sizeof(entry));
	ASSERT_EQ(0, open_port(self->device, &arg, &ev));
	ASSERT_EQ(0, evering_send(ev, entry, sizeof(entry), PLENTY));
	EXPECT_EQ(-EPIPE, evering_recv(ev, entry, sizeof(entry), PLENTY));
	evering_close(ev);
	/* And much of it, of one who dies at once. */
	ASSERT_EQ(0, open_port(self->device, &arg, &ev));
	while (!evering_send(ev, entry, sizeof(entry), EVERING_NOWAIT))
		;
	evering_close(ev);
}

TEST_F(port, impossible_ones_are_refused)
{
	struct evering_echo arg = self->arg;
	struct evering *ev;

	arg.geometry.slot_size = 65;
	EXPECT_EQ(-EINVAL, open_port(self->device, &arg, &ev));
	arg.geometry.slot_size = 512;
	EXPECT_EQ(-E2BIG, open_port(self->device, &arg, &ev));
	arg = self->arg;
	arg.flags = 1u << 31;
	EXPECT_EQ(-EINVAL, open_port(self->device, &arg, &ev));
	arg = self->arg;
	arg.reserved = 1;
	EXPECT_EQ(-EINVAL, open_port(self->device, &arg, &ev));
	arg = self->arg;
	arg.size = sizeof(arg) - 1;
	EXPECT_EQ(-EINVAL, open_port(self->device, &arg, &ev));
	EXPECT_EQ(-1, ioctl(self->device, 0, NULL));
	EXPECT_EQ(ENOTTY, errno);
}

TEST_HARNESS_MAIN
