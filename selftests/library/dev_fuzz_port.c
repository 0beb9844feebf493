// SPDX-License-Identifier: MIT
/*
 * dev_fuzz_port.c: random calls on evering_echo.ko and evnet.ko, and random writes into what a
 * process may write of its channels to them, while they serve.
 *
 * Workers open channels, map them, and then call and write: mostly what is almost right, so
 * that it gets somewhere.  Each is killed at any time, in whatever it does, and another one
 * begins.  What may not happen: a worker ends in any other way, or not at all; a channel, a
 * reference to the modules or an interface outlives all who had it; the modules serve nobody
 * any more.  The kernel log is tools/check/vm's to watch.
 *
 * EVERING_CALLS=n is how many calls and writes to make, EVERING_SECONDS=n for how long, instead
 * of 5 seconds.  EVERING_SEED=n begins with the same numbers, but kills come when they come.
 */
#include "../device/dev.h"
#include "peer.h"

#include <linux/evering_net.h>
#include <linux/evering_op.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/wait.h>

#define WORKERS 3
#define SLOTS 6 /* channels of a worker */
#define TICK (10 * MSEC) /* whatever sleeps does not sleep longer */
#define PARAMETERS "/sys/module/evering/parameters/"
#define CHANNELS 24 /* that this user may have */

enum {
	OPEN_ECHO,
	OPEN_NET,
	CLOSE,
	CONTROL,
	ATTACH,
	GROW,
	RING,
	ENTER,
	NOISE,
	MAP,
	WRITE_WORD,
	WRITE_ENTRY,
	WRITE_MANY,
	WRITE_CONTROL,
	WRITE_ARENA,
	TO_STACK,
	READ,
	WHATS
};

static const char *const names[WHATS] = {
	"echo",	   "net",
	"close",   "control",
	"attach",  "grow",
	"ring",	   "enter",
	"noise",   "map",
	"word",	   "entry",
	"entries", "words of control",
	"arena",   "packet",
	"read",
};

static struct shared {
	uint64_t count[WORKERS][WHATS];
	uint64_t good[WORKERS][WHATS]; /* of those */
	uint64_t writes[WORKERS]; /* beyond one each */
} * shared;

struct channel {
	int fd;
	bool net;
	struct evering_geometry g;
	struct evering_half *half; /* or NULL */
	unsigned char *arena;	   /* or NULL */
	size_t there;		   /* of it */
	uint32_t next;
};

static struct worker {
	int id;
	uint64_t rng;
	int echo, net, efd, packets, control;
	struct channel channel[SLOTS];
} me;

static uint32_t below(uint32_t n)
{
	return (uint32_t)random_below(&me.rng, n);
}

static uint64_t odd(void)
{
	return below(2) ? random_u64(&me.rng) >> below(64) :
			  (1ull << below(64)) - below(3);
}

/* Some words become others, now and then. */
static void spoil(void *what, size_t len)
{
	uint32_t *words = what;

	while (below(6) == 0)
		words[below((uint32_t)(len / 4))] = (uint32_t)odd();
}

static void let_go(struct channel *c)
{
	if (c->half)
		munmap(c->half, half_size(&c->g));
	if (c->arena)
		munmap(c->arena, c->g.arena_size[EVERING_B]);
	if (c->fd >= 0)
		close(c->fd);
	*c = (struct channel){ .fd = -1 };
}

static long map(struct channel *c)
{
	void *p;

	if (c->fd < 0)
		return -1;
	if (!c->half) {
		p = map_region(&c->g, c->fd, EVERING_REGION_HALF(EVERING_B),
			       PROT_READ | PROT_WRITE);
		c->half = p == MAP_FAILED ? NULL : p;
	}
	if (!c->arena && c->g.arena_size[EVERING_B]) {
		p = map_region(&c->g, c->fd, EVERING_REGION_ARENA_B,
			       PROT_READ | PROT_WRITE);
		c->arena = p == MAP_FAILED ? NULL : p;
	}
	return c->half ? 0 : -1;
}

/* As an owner begins, mostly. */
static void begin(struct channel *c)
{
	uint64_t there = c->g.arena_size[EVERING_B];

	if (below(16) == 0)
		return;
	map(c);
	if (there && !dev_grow(c->fd, there))
		c->there = there;
	dev_attach(c->fd);
}

static long open_echo(struct channel *c)
{
	struct evering_echo arg = {
		.size = sizeof(arg),
		.flags = below(4),
		.geometry = {
			.slot_size = 16u << below(5),
			.entries = 4u << below(6),
			.arena_size = { below(5) * 2 * PAGE, below(5) * PAGE },
		},
		.budget = below(2) ? 0 : below(8),
		.spin_us = below(2) ? 0 : below(100),
	};

	let_go(c);
	spoil(&arg, sizeof(arg));
	if (ioctl(me.echo, EVERING_IOC_ECHO, &arg))
		return -1;
	*c = (struct channel){ .fd = arg.fd, .g = arg.geometry };
	begin(c);
	return 0;
}

static long open_net(struct channel *c)
{
	struct evering_net_create arg = {
		.size = sizeof(arg),
		.flags = below(4),
		.entries = below(2) ? 0 : 4u << below(8),
		.spin_us = below(2) ? 0 : below(100),
		.arena_size = { below(5) * 4 * PAGE, below(5) * 4 * PAGE },
	};
	struct ifreq ifr = { .ifr_flags = IFF_UP };

	let_go(c);
	/* Those that stay are few. */
	if (below(2))
		snprintf(arg.name, sizeof(arg.name), "n%u", below(4));
	else
		arg.flags &= ~EVERING_NET_PERSIST;
	spoil(&arg, sizeof(arg));
	if (ioctl(me.net, EVERING_IOC_NET, &arg))
		return -1;
	*c = (struct channel){ .fd = arg.fd, .net = true };
	c->g = (struct evering_geometry){
		.slot_size = EVERING_NET_SLOT,
		.entries = arg.entries ? arg.entries : 256,
		.arena_size = { arg.arena_size[0] ? arg.arena_size[0] : 1 << 20,
				arg.arena_size[1] ? arg.arena_size[1] :
						    1 << 20 },
	};
	begin(c);
	memcpy(ifr.ifr_name, arg.name, sizeof(ifr.ifr_name));
	if (below(8))
		ioctl(me.control, SIOCSIFFLAGS, &ifr);
	return 0;
}

/* Something that is no request for a channel, to one of the devices. */
static long control(void)
{
	uint32_t words[64] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = below(3) ? 0 : (uint32_t)odd();
	return ioctl(below(2) ? me.echo : me.net,
		     _IO(EVERING_IOC_MAGIC, below(0x50)),
		     below(8) ? (uintptr_t)words : (uintptr_t)odd());
}

/* Any call of an endpoint, and none that the kernel could take for another descriptor's. */
static long noise(const struct channel *c)
{
	uint32_t words[64] = { below(2) ? 8 * below(12) : (uint32_t)odd() };

	for (size_t i = 1; i < ARRAY_SIZE(words); i++)
		words[i] = below(3) ? 0 : (uint32_t)odd();
	return ioctl(c->fd, _IO(EVERING_IOC_MAGIC, below(0x30)),
		     below(8) ? (uintptr_t)words : (uintptr_t)odd());
}

/* Something between noise and what the module takes. */
static void fill(const struct channel *c, unsigned char *entry, size_t len)
{
	struct evering_net_packet packet = {
		.place = below((uint32_t)c->there + 1),
		.len = below(4) ? 14 + below(1600) : below(66000),
		.flags = (uint8_t)below(4),
		.gso_type = (uint8_t)(below(2) ? 0 : below(8)),
		.hdr_len = (uint16_t)below(100),
		.gso_size = (uint16_t)below(2000),
		.csum_start = (uint16_t)below(100),
		.csum_offset = (uint16_t)below(100),
	};
	struct evering_op_header header = {
		.id = below(2) ? below(100) : odd(),
		.type = (uint8_t)(1 + below(8)),
		.flags = (uint8_t)(below(2) ?
					   0 :
					   below(6) +
						   (below(4)
						    << EVERING_OP_HOME_SHIFT)),
		.len = (uint16_t)below((uint32_t)len),
		.code = below(4) ? below(40) : (uint32_t)odd(),
	};
	struct evering_op_open open = { below(16), below(16), below(16), 0 };
	struct evering_op_buffer buffer = { below(64), below(4), below(5000),
					    0 };

	for (size_t i = 0; i < len; i += 4)
		*(uint32_t *)(entry + i) = (uint32_t)random_u64(&me.rng);
	if (below(16) == 0)
		return;
	if (c->net) {
		memcpy(entry, &packet, sizeof(packet));
		return;
	}
	if (len < sizeof(header) + sizeof(buffer))
		return;
	if (!c->next) {
		header = (struct evering_op_header){
			.type = EVERING_OP_OPEN,
			.len = sizeof(open),
			.code = EVERING_OPS_VERSION
		};
		memcpy(entry + sizeof(header), &open, sizeof(open));
	}
	memcpy(entry + len - sizeof(buffer), &buffer, sizeof(buffer));
	memcpy(entry, &header, sizeof(header));
}

static void write_entry(struct channel *c)
{
	size_t len = c->g.slot_size - EVERING_STAMP_SIZE;
	unsigned char *slot =
		(unsigned char *)c->half + EVERING_SLOTS_OFFSET +
		(size_t)(c->next & (c->g.entries - 1)) * c->g.slot_size;
	unsigned char entry[EVERING_MAX_SLOT];

	fill(c, entry, len);
	memcpy(slot, entry, len);
	evering_store_release((uint32_t *)(slot + len), ++c->next);
}

static long write_control(struct channel *c)
{
	uint32_t value = below(2) ? c->next + below(8) - 4 : (uint32_t)odd();

	switch (below(4)) {
	case 0:
		evering_store_release(&c->half->released, value);
		break;
	case 1:
		evering_store_release(&c->half->armed_rx,
				      value | EVERING_ARMED);
		break;
	case 2:
		evering_store_release(&c->half->armed_tx,
				      value | EVERING_ARMED);
		break;
	default:
		evering_store_release((uint32_t *)c->half +
					      below(EVERING_SLOTS_OFFSET / 4),
				      value);
	}
	return 0;
}

static long to_stack(void)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET,
				 .sll_protocol = htons(ETH_P_IP),
				 .sll_ifindex = (int)(1 + below(12)) };
	static unsigned char frame[1514];

	memset(frame, 0xff, 12);
	return send(me.packets, frame, 14 + below(1500), MSG_DONTWAIT) < 0 &&
			       sendto(me.packets, frame, 14 + below(1500),
				      MSG_DONTWAIT, (struct sockaddr *)&a,
				      sizeof(a)) < 0 ?
		       -1 :
		       0;
}

static long act(struct channel *c, unsigned int what)
{
	char bytes[100];
	uint32_t n;
	uint64_t size;

	if (what >= WRITE_WORD && what < TO_STACK && !c->half)
		return -1;
	switch (what) {
	case OPEN_ECHO:
		return open_echo(c);
	case OPEN_NET:
		return open_net(c);
	case CLOSE:
		if (below(16) == 0)
			let_go(c);
		return 0;
	case CONTROL:
		return control();
	case ATTACH:
		return dev_attach(c->fd);
	case GROW:
		size = below(2) ? odd() : below(20) * PAGE;
		n = (uint32_t)(dev_grow(c->fd, size) == 0);
		if (n && size > c->there)
			c->there = size;
		return n ? 0 : -1;
	case RING:
		return dev_ring(c->fd, below(2) ? RX : odd());
	case ENTER:
		return dev_enter(c->fd, below(4), below(4),
				 below(4) ? 0 :
					    (uint64_t)now_ns() + below(100000));
	case NOISE:
		return noise(c);
	case MAP:
		return map(c);
	case WRITE_WORD:
		n = 1 + below(32);
		shared->writes[me.id] += n - 1;
		while (n--)
			evering_store_release(
				(uint32_t *)c->half +
					below((uint32_t)half_size(&c->g) / 4),
				(uint32_t)odd());
		return 0;
	case WRITE_MANY:
		n = 1 + below(2 * c->g.entries);
		shared->writes[me.id] += n - 1;
		while (n--)
			write_entry(c);
		return dev_ring(c->fd, RX);
	case WRITE_ENTRY:
		write_entry(c);
		return dev_ring(c->fd, RX);
	case WRITE_CONTROL:
		return write_control(c);
	case WRITE_ARENA:
		if (!c->arena || c->there < PAGE)
			return -1;
		size = below((uint32_t)c->there - 64);
		memset(c->arena + size, (int)odd(), 64);
		return 0;
	case TO_STACK:
		return to_stack();
	case READ:
		return read(below(2) ? me.echo : c->fd, bytes,
			    below(sizeof(bytes)));
	}
	return -1;
}

static void on_alarm(int sig)
{
	(void)sig;
}

struct order {
	int id;
	uint64_t seed;
};

static int work(void *arg)
{
	/* Half of all is what the modules serve for. */
	static const uint8_t often[] = { WRITE_ENTRY, WRITE_MANY, WRITE_CONTROL,
					 RING, ENTER };
	struct itimerval t = { { 0, TICK / USEC }, { 0, TICK / USEC } };
	const struct order *order = arg;
	struct sigaction alarm = { .sa_handler = on_alarm };
	unsigned int what, i;

	me = (struct worker){ .id = order->id, .rng = order->seed };
	for (i = 0; i < SLOTS; i++)
		me.channel[i].fd = -1;
	drop_resource();
	me.echo = open("/dev/evering_echo", O_RDWR | O_CLOEXEC);
	me.net = open("/dev/evnet", O_RDWR | O_CLOEXEC);
	me.efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	me.control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	me.packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC,
			    0); /* not in every kernel */
	if (me.echo < 0 || me.net < 0)
		return 92;
	sigaction(SIGALRM, &alarm, NULL);
	signal(SIGIO, SIG_IGN);
	setitimer(ITIMER_REAL, &t, NULL);
	for (;;) {
		struct channel *c = &me.channel[below(SLOTS)];

		what = below(2) ? often[below(sizeof(often))] : below(WHATS);
		if (c->fd < 0)
			what = below(2) ? OPEN_ECHO : OPEN_NET;
		else if (what <= OPEN_NET && below(8))
			what = WRITE_ENTRY;
		if (act(c, what) >= 0)
			shared->good[order->id][what]++;
		shared->count[order->id][what]++;
	}
}

static uint64_t count_all(void)
{
	uint64_t all = 0;

	for (int i = 0; i < WORKERS; i++) {
		all += __atomic_load_n(&shared->writes[i], __ATOMIC_RELAXED);
		for (int k = 0; k < WHATS; k++)
			all += __atomic_load_n(&shared->count[i][k],
					       __ATOMIC_RELAXED);
	}
	return all;
}

static const char *const limits[] = {
	PARAMETERS "max_user_channels",
	PARAMETERS "max_user_mib",
};

FIXTURE(fuzz_port)
{
	long was[ARRAY_SIZE(limits)];
	bool set;
};

FIXTURE_SETUP(fuzz_port)
{
	REQUIRE_BACKEND(EVERING_BACKEND_DEVICE);
	REQUIRE_ROOT();
	if (module_load("evering_echo", "") || module_load("evnet", ""))
		SKIP(return, "no evering_echo.ko and evnet.ko to load");
	/* A clean start, of which the end is told apart. */
	ASSERT_TRUE(EVENTUALLY(!module_unload("evering_echo")));
	ASSERT_TRUE(EVENTUALLY(!module_unload("evnet")));
	ASSERT_EQ(0, module_load("evering_echo", ""));
	ASSERT_EQ(0, module_load("evnet", ""));
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		self->was[i] = read_number(limits[i]);
	self->set = true;
	write_number(limits[0], CHANNELS);
	write_number(limits[1], 64);
}

FIXTURE_TEARDOWN_PARENT(fuzz_port)
{
	for (size_t i = 0; self->set && i < ARRAY_SIZE(limits); i++)
		write_number(limits[i], self->was[i]);
}

/* One killed channel more that this user does not get back is one too many. */
static bool quota_is_back(void)
{
	struct evering_params p =
		params_sized(EVERING_BACKEND_DEVICE, 64, 64, 4096);
	struct evering *ev;
	int ret;

	write_number(limits[0], 1);
	ret = echo_open(&p, 0, 0, &ev);
	if (!ret)
		evering_close(ev);
	write_number(limits[0], CHANNELS);
	return !ret;
}

TEST_F_TIMEOUT(fuzz_port, whatever_is_called_and_written_ends, 36000)
{
	const char *calls = getenv("EVERING_CALLS");
	const char *seconds = getenv("EVERING_SECONDS");
	uint64_t wanted = calls ? strtoull(calls, NULL, 0) : UINT64_MAX;
	uint64_t seed = random_seed(), rng = seed, good, all;
	int64_t began = now_ns(),
		end = began + (seconds ? atol(seconds) : 5) * SEC, said = began;
	/* Long enough for some calls. */
	const int64_t life = slow(1) >= 100 ? 3 * SEC : 600 * MSEC;
	struct order order[WORKERS];
	uint32_t kills = 0;
	pid_t pid[WORKERS];
	int i, status;

	if (calls && !seconds)
		end = INT64_MAX;
	if (unshare(CLONE_NEWNET))
		SKIP(return, "no network namespace");
	drop_resource();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)shared);
	for (i = 0; i < WORKERS; i++) {
		order[i] = (struct order){ i, random_u64(&rng) };
		pid[i] = spawn(work, &order[i]);
		ASSERT_LT(0, pid[i]);
	}
	while (now_ns() < end && count_all() < wanted) {
		sleep_ns((int64_t)random_below(&rng, (uint64_t)life));
		i = (int)random_below(&rng, WORKERS);
		kill(pid[i], SIGKILL);
		status = reap_within(pid[i], PLENTY);
		ASSERT_EQ(128 + SIGKILL, status);
		kills++;
		order[i].seed = random_u64(&rng);
		pid[i] = spawn(work, &order[i]);
		ASSERT_LT(0, pid[i]);
		if (now_ns() > said + 10 * SEC) {
			said = now_ns();
			printf("# %llu calls and writes\n",
			       (unsigned long long)count_all());
			fflush(stdout);
		}
	}
	for (i = 0; i < WORKERS; i++) {
		kill(pid[i], SIGKILL);
		EXPECT_EQ(128 + SIGKILL, reap_within(pid[i], PLENTY));
	}
	printf("# %llu calls and writes, %u kills, %.1f s; good/all:",
	       (unsigned long long)count_all(), kills,
	       (double)(now_ns() - began) / SEC);
	for (int k = 0; k < WHATS; k++) {
		for (good = all = 0, i = 0; i < WORKERS; i++) {
			good += shared->good[i][k];
			all += shared->count[i][k];
		}
		printf(" %s %llu/%llu", names[k], (unsigned long long)good,
		       (unsigned long long)all);
		/* What never gets anywhere tests nothing. */
		if (all >= 200 && k != TO_STACK && k != CONTROL && k != NOISE)
			EXPECT_LT(0, good)
			{
				TH_LOG("no %s", names[k]);
			}
	}
	printf("\n");
	EXPECT_TRUE(EVENTUALLY(quota_is_back()));
	EXPECT_TRUE(EVENTUALLY(!module_unload("evnet")));
	EXPECT_TRUE(EVENTUALLY(!module_unload("evering_echo")));
	EXPECT_TRUE(EVENTUALLY(!read_number("/sys/module/evering/refcnt")));
}

TEST_HARNESS_MAIN
