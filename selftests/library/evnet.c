// SPDX-License-Identifier: MIT
/*
 * evnet.c: network interfaces whose other end is a process: what the stack sends comes in the
 * ring, what is put in the ring comes to the stack, nothing is dropped without a count, and
 * the interface ends with its process, or the other way round.
 *
 * Skipped where /dev/evnet is not.  Each test has a network namespace of its own.
 */
#include "common.h"
#include "module.h"
#include <evering_net.h>
#include <linux/evering_net.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#ifndef ETH_P_802_EX1
#define ETH_P_802_EX1 0x88B5
#endif

FIXTURE(evnet)
{
	int device, control;
	struct evering_net_create arg;
	struct evering *ev;
	unsigned char *mine;
};

FIXTURE_VARIANT(evnet)
{
	uint32_t spin_us;
};

FIXTURE_VARIANT_ADD(evnet, ringer){};
FIXTURE_VARIANT_ADD(evnet, thread){
	.spin_us = 100,
};

#define MINE 262144

static int net_open(int device, struct evering_net_create *arg,
		    struct evering **ev)
{
	struct evering_params params = EVERING_LIMITS_INIT;
	int ret;

	if (ioctl(device, EVERING_IOC_NET, arg))
		return -errno;
	params.policy = EVERING_BLOCK;
	ret = evering_open_fd(arg->fd, &params, ev);
	close(arg->fd);
	return ret;
}

static int flags_of(int control, const char *name)
{
	struct ifreq ifr = { 0 };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	return ioctl(control, SIOCGIFFLAGS, &ifr) ?
		       -errno :
		       (unsigned short)ifr.ifr_flags;
}

static int set_up(int control, const char *name)
{
	struct ifreq ifr = { 0 };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	ifr.ifr_flags = IFF_UP | IFF_NOARP;
	return ioctl(control, SIOCSIFFLAGS, &ifr) ? -errno : 0;
}

/* As ip link del. */
static int link_del(unsigned int ifindex)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg info;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
			    .nlmsg_type = RTM_DELLINK,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.info = { .ifi_index = (int)ifindex },
	};
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		char rest[256];
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int ret = -1;

	if (fd >= 0 && send(fd, &request, sizeof(request), 0) > 0 &&
	    recv(fd, &answer, sizeof(answer), 0) > 0 &&
	    answer.header.nlmsg_type == NLMSG_ERROR)
		ret = answer.error.error;
	close(fd);
	return ret;
}

/* A socket of the stack's side, for packets of a type that nobody else sends. */
static int packet_socket(uint32_t ifindex)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET,
				 .sll_protocol = htons(ETH_P_802_EX1),
				 .sll_ifindex = (int)ifindex };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC,
			htons(ETH_P_802_EX1));

	if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		return -1;
	}
	return fd;
}

#define NEEDS_SOCKET(fd)                                                       \
	do {                                                                   \
		if ((fd) < 0 && errno == EAFNOSUPPORT)                         \
			SKIP(return, "no packet sockets in this kernel");      \
		ASSERT_LE(0, fd);                                              \
	} while (0)

static size_t make_frame(unsigned char *frame, uint32_t n, size_t len)
{
	memset(frame, 0xff, 6);
	memset(frame + 6, 2, 6);
	frame[12] = ETH_P_802_EX1 >> 8;
	frame[13] = ETH_P_802_EX1 & 0xff;
	memset(frame + 14, (int)n, len - 14);
	memcpy(frame + 14, &n, sizeof(n));
	return len;
}

FIXTURE_SETUP(evnet)
{
	self->ev = NULL;
	module_load("evnet", "");
	self->device = open("/dev/evnet", O_RDWR | O_CLOEXEC);
	/* A guest has the module, if nothing is wrong. */
	if (self->device < 0 && !getenv("EVERING_GUEST"))
		SKIP(return, "no /dev/evnet");
	ASSERT_LE(0, self->device);
	if (unshare(CLONE_NEWNET))
		SKIP(return, "no network namespace");
	self->control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ASSERT_LE(0, self->control);
	self->arg = (struct evering_net_create){ .size = sizeof(self->arg),
						 .spin_us = variant->spin_us };
	ASSERT_EQ(0, net_open(self->device, &self->arg, &self->ev));
	ASSERT_EQ(0, set_up(self->control, self->arg.name));
	self->mine = evering_alloc(self->ev, MINE, 64);
	ASSERT_NE(NULL, self->mine);
}

FIXTURE_TEARDOWN(evnet)
{
	evering_close(self->ev);
	close(self->device);
	close(self->control);
}

/* Sends a frame to the stack. */
static int to_stack(struct evering *ev, unsigned char *at, size_t len)
{
	struct evering_net_packet packet = { .place = evering_offset(ev, at),
					     .len = (uint32_t)len };

	return evering_send(ev, &packet, sizeof(packet), PLENTY);
}

/* Of the type that tests send: others, that the stack sends by itself, are passed over. */
static int from_stack(struct evering *ev, unsigned char *frame, size_t size,
		      int64_t timeout)
{
	const struct evering_net_packet *entry;
	struct evering_net_packet packet;
	const unsigned char *data;
	bool ours;
	int ret;

	for (;;) {
		ret = evering_wait(ev, EVERING_RX, timeout);
		if (ret < 0)
			return ret;
		entry = evering_peek(ev);
		if (!entry)
			continue;
		packet = *entry;
		data = evering_peer_buffer(ev, packet.place, packet.len);
		if (!data || packet.len < 14)
			return -EPROTO;
		ours = data[12] == ETH_P_802_EX1 >> 8 &&
		       data[13] == (ETH_P_802_EX1 & 0xff);
		if (ours && packet.len <= size)
			memcpy(frame, data, packet.len);
		evering_release(ev);
		if (ours)
			return packet.len <= size ? (int)packet.len : -EPROTO;
	}
}

struct stats {
	uint64_t rx_packets, rx_errors, rx_dropped, tx_packets, tx_dropped;
};

/* Of this namespace: sysfs is of the one that it was mounted in. */
static int stats_of(const char *name, struct stats *s)
{
	char line[512], *at;
	FILE *f = fopen("/proc/thread-self/net/dev", "re");

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		unsigned long long v[16] = { 0 };
		int i;

		at = strchr(line, ':');
		if (!at || !strstr(line, name))
			continue;
		at++;
		for (i = 0; i < 16; i++)
			v[i] = strtoull(at, &at, 10);
		*s = (struct stats){ v[1], v[2], v[3], v[9], v[11] };
		fclose(f);
		return 0;
	}
	fclose(f);
	return -ENOENT;
}

TEST_F(evnet, is_an_interface_with_a_carrier)
{
	int64_t until = now_ns() + PLENTY;
	int flags;

	/* The kernel's link watch says so, a little later. */
	do
		flags = flags_of(self->control, self->arg.name);
	while (!(flags & IFF_RUNNING) && now_ns() < until);
	EXPECT_EQ(0, strncmp(self->arg.name, "evnet", 5));
	EXPECT_EQ(self->arg.ifindex, if_nametoindex(self->arg.name));
	EXPECT_EQ(IFF_UP | IFF_RUNNING, flags & (IFF_UP | IFF_RUNNING));
}

TEST_F(evnet, what_the_stack_sends_comes_in_order)
{
	static unsigned char frame[1514], back[1514];
	int fd = packet_socket(self->arg.ifindex), ret;
	uint32_t n, many = 2000;
	size_t len;

	NEEDS_SOCKET(fd);
	for (n = 0; n < many; n++) {
		len = make_frame(frame, n, 60 + n % 1455);
		ASSERT_EQ((ssize_t)len, send(fd, frame, len, 0));
		ret = from_stack(self->ev, back, sizeof(back), PLENTY);
		ASSERT_EQ((int)len, ret);
		ASSERT_EQ(0, memcmp(frame, back, len));
	}
	close(fd);
}

/* Short ones, that end where the arena does. */
TEST_F(evnet, the_arena_is_gone_round)
{
	struct evering_net_create arg = { .size = sizeof(arg),
					  .arena_size = { 65536, 65536 },
					  .spin_us = variant->spin_us };
	static unsigned char frame[64], back[64];
	struct evering *ev;
	uint32_t n;
	int fd;

	ASSERT_EQ(0, net_open(self->device, &arg, &ev));
	ASSERT_EQ(0, set_up(self->control, arg.name));
	fd = packet_socket(arg.ifindex);
	NEEDS_SOCKET(fd);
	for (n = 0; n < 2100; n++) {
		make_frame(frame, n, sizeof(frame));
		ASSERT_EQ((ssize_t)sizeof(frame),
			  send(fd, frame, sizeof(frame), 0));
		ASSERT_EQ((int)sizeof(back),
			  from_stack(ev, back, sizeof(back), PLENTY));
		ASSERT_EQ(0, memcmp(frame, back, sizeof(back)));
	}
	close(fd);
	evering_close(ev);
}

/* The same both ways by <evering_net.h>, and what that says of an interface that is gone. */
TEST_F(evnet, the_library_goes_round_it_too)
{
	struct evering_net_params params = EVERING_NET_PARAMS_INIT;
	unsigned char frame[64], back[64];
	struct evering_frame out = { .data = frame, .len = sizeof(frame) }, in;
	struct evering_net *net;
	struct ifreq ifr = { 0 };
	bool ours;
	uint32_t n;
	int fd;

	params.arena_size[0] = params.arena_size[1] = 65536;
	params.spin_us = variant->spin_us;
	params.size = 4;
	ASSERT_EQ(-EINVAL, evering_net_open("round", &params, &net));
	params.size = sizeof(params);
	params.flags = EVERING_NET_STAYS;
	params.spin_ns = 2000000;
	ASSERT_EQ(-EINVAL, evering_net_open("round", &params, &net));
	ASSERT_EQ(0, if_nametoindex("round"));
	params.flags = 0;
	params.spin_ns = 0;
	ASSERT_EQ(0, evering_net_open("round", &params, &net));
	ASSERT_EQ(0, set_up(self->control, "round"));
	fd = packet_socket(if_nametoindex("round"));
	NEEDS_SOCKET(fd);
	for (n = 0; n < 2100; n++) {
		make_frame(frame, n, sizeof(frame));
		ASSERT_EQ(1, evering_net_send(net, &out, 1, PLENTY));
		ASSERT_EQ((ssize_t)sizeof(back),
			  recv(fd, back, sizeof(back), 0));
		ASSERT_EQ(0, memcmp(frame, back, sizeof(back)));
		ASSERT_EQ((ssize_t)sizeof(frame),
			  send(fd, frame, sizeof(frame), 0));
		do {
			ASSERT_EQ(1, evering_net_recv(net, &in, 1, PLENTY));
			ours = in.len == sizeof(frame) &&
			       !memcmp(frame, in.data, sizeof(frame));
			evering_net_release(net, 1);
		} while (!ours);
	}
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "round");
	close(fd);
	ASSERT_EQ(0, link_del(if_nametoindex("round")));
	EXPECT_TRUE(
		EVENTUALLY(evering_net_send(net, &out, 1, PLENTY) == -EPIPE));
	do
		n = (uint32_t)evering_net_recv(net, &in, 1, PLENTY);
	while (n == 1);
	EXPECT_EQ(-EPIPE, (int)n);
	evering_net_close(net);
}

/* Half of the arena is the longest there is, however long the interface would have them. */
TEST_F(evnet, a_small_arena_does_not_stop_it)
{
	struct evering_net_create arg = { .size = sizeof(arg),
					  .arena_size = { 2 * PAGE, 2 * PAGE },
					  .spin_us = variant->spin_us };
	static unsigned char frame[1514], back[1514];
	struct evering *ev;
	uint32_t n;
	int fd;

	ASSERT_EQ(0, net_open(self->device, &arg, &ev));
	ASSERT_EQ(0, set_up(self->control, arg.name));
	fd = packet_socket(arg.ifindex);
	NEEDS_SOCKET(fd);
	for (n = 0; n < 200; n++) {
		size_t len = make_frame(frame, n, 60 + n * 97 % 1455);

		ASSERT_EQ((ssize_t)len, send(fd, frame, len, 0));
		ASSERT_EQ((int)len, from_stack(ev, back, sizeof(back), PLENTY));
		ASSERT_EQ(0, memcmp(frame, back, len));
	}
	close(fd);
	evering_close(ev);
}

/* Nobody's packets wait for a process that has stopped to look. */
TEST_F(evnet, a_process_that_never_looks_is_given_up)
{
	static unsigned char frame[1514];
	int fd = packet_socket(self->arg.ifindex);
	int64_t until = now_ns() + PLENTY;
	struct stats s = { 0 };
	uint32_t n = 0;
	int ret;

	NEEDS_SOCKET(fd);
	do {
		make_frame(frame, n++, sizeof(frame));
		send(fd, frame, sizeof(frame), MSG_DONTWAIT);
		ASSERT_EQ(0, stats_of(self->arg.name, &s));
	} while (!s.tx_dropped && now_ns() < until);
	EXPECT_LT(0, s.tx_dropped);
	/* And is served again when it does. */
	while (from_stack(self->ev, frame, sizeof(frame), 300 * MSEC) > 0)
		;
	make_frame(frame, 7, 100);
	ASSERT_EQ(100, send(fd, frame, 100, 0));
	/* Behind those that a CPU which stood still had not come to. */
	do
		ret = from_stack(self->ev, frame, sizeof(frame), PLENTY);
	while (ret == (int)sizeof(frame));
	EXPECT_EQ(100, ret);
	close(fd);
}

TEST_F(evnet, what_the_process_sends_comes_in_order)
{
	static unsigned char back[1514];
	int fd = packet_socket(self->arg.ifindex);
	uint32_t n, many = 2000;
	unsigned char *at;
	size_t len;

	NEEDS_SOCKET(fd);
	for (n = 0; n < many; n++) {
		at = self->mine + n % 128 * 2048;
		len = make_frame(at, n, 60 + n % 1455);
		ASSERT_EQ(0, to_stack(self->ev, at, len));
		ASSERT_EQ((ssize_t)len, recv(fd, back, sizeof(back), 0));
		ASSERT_EQ(0, memcmp(at, back, len));
	}
	close(fd);
}

/* Nothing is lost when the process does not take any: the sender is told to wait. */
TEST_F(evnet, a_process_that_sleeps_stops_the_queue)
{
	static unsigned char frame[1514], back[1514];
	int fd = packet_socket(self->arg.ifindex), small = 4096;
	int64_t until = now_ns() + PLENTY;
	struct stats before, after;
	uint32_t n, sent = 0;

	NEEDS_SOCKET(fd);
	ASSERT_EQ(0,
		  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)));
	ASSERT_EQ(0, stats_of(self->arg.name, &before));
	/* Until it neither goes to the ring nor waits in front of it. */
	while (sent < 100000) {
		make_frame(frame, sent, sizeof(frame));
		if (send(fd, frame, sizeof(frame), MSG_DONTWAIT) >= 0)
			sent++;
		/* Somebody else who sends may have the queue, and stand still. */
		else if (sent > 200 || now_ns() > until)
			break;
	}
	ASSERT_TRUE(errno == EAGAIN || errno == ENOBUFS);
	ASSERT_LT(200, sent);
	for (n = 0; n < sent; n++) {
		ASSERT_EQ((int)sizeof(back),
			  from_stack(self->ev, back, sizeof(back), PLENTY));
		make_frame(frame, n, sizeof(frame));
		ASSERT_EQ(0, memcmp(frame, back, sizeof(back)));
	}
	ASSERT_EQ(0, stats_of(self->arg.name, &after));
	EXPECT_EQ(before.tx_dropped, after.tx_dropped);
	EXPECT_LE(sent, after.tx_packets - before.tx_packets);
	/* And it goes on. */
	make_frame(frame, 7, 100);
	ASSERT_EQ(100, send(fd, frame, 100, 0));
	EXPECT_EQ(100, from_stack(self->ev, back, sizeof(back), PLENTY));
	close(fd);
}

TEST_F(evnet, lies_are_counted_and_hurt_nobody)
{
	struct evering_net_packet lie[] = {
		{ .place = 0, .len = 13 },
		{ .place = 0, .len = 0 },
		{ .place = 0, .len = EVERING_NET_MAX_PACKET + 1 },
		{ .place = 0, .len = UINT32_MAX },
		{ .place = 1 << 20, .len = 60 },
		{ .place = (1 << 20) - 30, .len = 60 },
		{ .place = UINT64_MAX - 30, .len = 60 },
		{ .place = UINT64_MAX, .len = 60 },
		{ .place = 0, .len = 60, .reserved = 1 },
		{ .place = 0, .len = 60, .gso_type = 77, .gso_size = 9 },
		{ .place = 0, .len = 60, .flags = 1, .csum_start = 6000 },
		{ .place = 0,
		  .len = 60,
		  .flags = 1,
		  .csum_start = 40,
		  .csum_offset = 60000 },
		{ .place = 0, .len = 60, .gso_type = 1, .gso_size = 0 },
	};
	unsigned char back[100];
	struct stats before, after;
	unsigned int i;
	int fd = packet_socket(self->arg.ifindex);
	int64_t until = now_ns() + PLENTY;

	NEEDS_SOCKET(fd);
	ASSERT_EQ(0, stats_of(self->arg.name, &before));
	for (i = 0; i < ARRAY_SIZE(lie); i++)
		ASSERT_EQ(0, evering_send(self->ev, &lie[i], sizeof(lie[i]),
					  PLENTY));
	do {
		ASSERT_EQ(0, stats_of(self->arg.name, &after));
	} while (after.rx_errors - before.rx_errors < ARRAY_SIZE(lie) &&
		 now_ns() < until);
	EXPECT_EQ(ARRAY_SIZE(lie), after.rx_errors - before.rx_errors);
	make_frame(self->mine, 1, 60);
	ASSERT_EQ(0, to_stack(self->ev, self->mine, 60));
	EXPECT_EQ(60, recv(fd, back, sizeof(back), 0));
	close(fd);
}

static bool is_gone(const char *name)
{
	int64_t until = now_ns() + PLENTY;

	while (if_nametoindex(name))
		if (now_ns() > until)
			return false;
	return true;
}

TEST_F(evnet, ends_with_its_process)
{
	evering_close(self->ev);
	self->ev = NULL;
	EXPECT_TRUE(is_gone(self->arg.name));
}

static int die_at_once(void *arg)
{
	struct evering_net_create net = *(struct evering_net_create *)arg;
	struct evering *ev;
	int device = open("/dev/evnet", O_RDWR | O_CLOEXEC);
	int ret = 0;

	/* It may not know yet that the last one has gone. */
	if (!EVENTUALLY((ret = net_open(device, &net, &ev)) != -EBUSY) || ret)
		return 1;
	kill(getpid(), SIGKILL);
	return 0;
}

TEST_F(evnet, a_persistent_one_waits_for_the_next)
{
	struct evering_net_create arg = { .size = sizeof(arg),
					  .flags = EVERING_NET_PERSIST,
					  .name = "stays",
					  .spin_us = variant->spin_us };
	struct evering *ev;
	int i, ret = 0;

	for (i = 0; i < 5; i++) {
		int64_t until = now_ns() + PLENTY;

		ASSERT_EQ(128 + SIGKILL, reap(spawn(die_at_once, &arg)));
		ASSERT_EQ(0, set_up(self->control, "stays"));
		/* Its carrier goes with the process. */
		while (flags_of(self->control, "stays") & IFF_RUNNING) {
			ASSERT_GT(until, now_ns());
		}
	}
	ASSERT_TRUE(EVENTUALLY((ret = net_open(self->device, &arg, &ev)) !=
			       -EBUSY));
	ASSERT_EQ(0, ret);
	EXPECT_EQ(-EBUSY, net_open(self->device, &arg, &self->ev));
	evering_close(ev);
}

TEST_F(evnet, impossible_ones_are_refused)
{
	struct evering_net_create arg = { .size = sizeof(arg) };
	struct evering *ev;

	arg.flags = 1u << 31;
	EXPECT_EQ(-EINVAL, net_open(self->device, &arg, &ev));
	arg.flags = 0;
	memset(arg.name, 'x', sizeof(arg.name));
	EXPECT_EQ(-EINVAL, net_open(self->device, &arg, &ev));
	strcpy(arg.name, "lo");
	EXPECT_EQ(-EEXIST, net_open(self->device, &arg, &ev));
	strcpy(arg.name, "a/b");
	EXPECT_EQ(-EINVAL, net_open(self->device, &arg, &ev));
	arg.name[0] = 0;
	arg.entries = 3;
	EXPECT_EQ(-EINVAL, net_open(self->device, &arg, &ev));
	arg.entries = 1u << 20;
	EXPECT_EQ(-E2BIG, net_open(self->device, &arg, &ev));
	arg.entries = 0;
	arg.arena_size[0] = 100;
	EXPECT_EQ(-EINVAL, net_open(self->device, &arg, &ev));
	arg.arena_size[0] = 0;
	arg.reserved[1] = 1;
	EXPECT_EQ(-EINVAL, net_open(self->device, &arg, &ev));
}

/* Not even one that was to stay: nobody knows what it is called. */
TEST_F(evnet, a_call_that_cannot_answer_leaves_nothing)
{
	struct evering_net_create *arg =
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, arg);
	*arg = (struct evering_net_create){ .size = sizeof(*arg),
					    .flags = EVERING_NET_PERSIST,
					    .name = "unheard" };
	ASSERT_EQ(0, mprotect(arg, PAGE, PROT_READ));
	EXPECT_EQ(-1, ioctl(self->device, EVERING_IOC_NET, arg));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_TRUE(EVENTUALLY(!if_nametoindex("unheard")));
	munmap(arg, PAGE);
}

TEST_HARNESS_MAIN
