// SPDX-License-Identifier: MIT
/*
 * fuzz_hello.c: meeting a stranger, who says hello or welcome with whatever bytes and
 * descriptors the input chooses, to evering_accept_fd(), evering_connect_fd() or a
 * listener.  What is taken for a channel is then used to its ends, while the stranger,
 * who still has its descriptors, tries to take the memory away.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz.h"
#include "../../../selftests/library/hello.h"

#define PAGE 4096u
#define MAX_FDS 60u
/* Of more there is nothing new to be seen. */
#define MAX_LANES 4u
#define MOST_MEMORY (1u << 18)

/**
 * struct stranger - what is sent, and by whom
 * @sock: its own end
 * @others: the end that the library has
 * @geometry: which the descriptors are made for
 * @lanes: how many channels they are for
 * @fd, @count: the descriptors
 * @honest: each is what it should be
 * @whole: what was said is as long as it should be
 */
struct stranger {
	int sock;
	int others;
	struct evering_geometry geometry;
	uint32_t lanes;
	int fd[MAX_FDS];
	unsigned int count;
	bool honest;
	bool whole;
};

/* ----------------------------------------------------------------- descriptors */

static size_t half_bytes(const struct evering_geometry *g)
{
	size_t size = EVERING_SLOTS_OFFSET + (size_t)g->slot_size * g->entries;

	size = (size + PAGE - 1) & ~(size_t)(PAGE - 1);
	return size < MOST_MEMORY ? size : MOST_MEMORY;
}

static size_t arena_bytes(uint64_t size)
{
	return size < MOST_MEMORY ? (size_t)size : MOST_MEMORY;
}

static int memory(size_t size, bool allocated, int seals)
{
	int fd =
		memfd_create("evering-forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) ||
	    (allocated && size && fallocate(fd, 0, 0, (off_t)size)) ||
	    fcntl(fd, F_ADD_SEALS, seals)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* As many pages as it has bytes, but behind its end instead of where they belong. */
static int memory_elsewhere(size_t size, int seals)
{
	int fd = memory(size, false, 0);

	if (fd >= 0 && (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)size,
				  (off_t)size + PAGE) ||
			fcntl(fd, F_ADD_SEALS, seals))) {
		close(fd);
		return -1;
	}
	return fd;
}

static int read_only(int fd)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	return again;
}

static int half_of(int fd[2])
{
	close(fd[1]);
	return fd[0];
}

/* Something else than it should be: of the size @size, if it has one. */
static int odd(struct stranger *s, struct input *in, size_t size, int seals)
{
	uint8_t what = in8(in);
	int pair[2];

	switch (what % 22) {
	case 0:
		return memory(size + PAGE, true, seals);
	case 1:
		return memory(size > PAGE ? size - PAGE : 0, true, seals);
	case 2:
		return memory(size - 1, true, seals);
	case 3:
		return memory(0, false, seals);
	case 4:
		return memory(size, false, seals);
	case 5:
		return memory(size, true, in8(in) & 31);
	case 6:
		return memory_elsewhere(size, seals);
	case 7:
		return read_only(memory(size, true, seals));
	case 8: /* huge pages, if there are any */
		return memfd_create("evering-huge", MFD_CLOEXEC |
							    MFD_ALLOW_SEALING |
							    MFD_HUGETLB);
	case 9:
		return eventfd(in8(in), EFD_CLOEXEC);
	case 10:
		return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	case 11:
		return epoll_create1(EPOLL_CLOEXEC);
	case 12:
		return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	case 13:
		return inotify_init1(IN_CLOEXEC);
	case 14:
		return pipe2(pair, O_CLOEXEC | O_NONBLOCK) ? -1 : half_of(pair);
	case 15:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 16:
		return open("/dev/zero", O_RDWR | O_CLOEXEC);
	case 17:
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case 18:
		return open("/dev/zero", O_PATH | O_CLOEXEC);
	case 19:
		return fcntl(s->sock, F_DUPFD_CLOEXEC, 0);
	case 20:
		return fcntl(s->others, F_DUPFD_CLOEXEC, 0);
	default: /* one of those that are there already, once more */
		return s->count ? fcntl(s->fd[in8(in) % s->count],
					F_DUPFD_CLOEXEC, 0) :
				  -1;
	}
}

static void add(struct stranger *s, int fd)
{
	if (fd < 0)
		s->honest = false;
	else if (s->count == MAX_FDS)
		close(fd);
	else
		s->fd[s->count++] = fd;
}

/* What belongs to an offer of @end's, with as many mistakes as the input makes. */
static void make_offer(struct stranger *s, struct input *in, unsigned int end)
{
	bool shared = s->geometry.flags & EVERING_SHARED_ARENA;
	size_t half = half_bytes(&s->geometry);
	size_t arena = arena_bytes(s->geometry.arena_size[end]);
	size_t behind = shared ? 0 : arena;
	uint8_t wrong = in8(in);
	unsigned int i;

	if (wrong & 0x1f)
		s->honest = false;
	if (wrong & 1)
		add(s, odd(s, in, half + behind, SEALS_OWN));
	else if (wrong & 2)
		add(s, memory(half + in8(in) % 4 * PAGE, true, SEALS_OWN));
	else if (wrong & 4)
		add(s, memory(half + arena, true, in8(in) & 31));
	else
		add(s, memory(half + behind, true, SEALS_OWN));
	if (wrong & 8)
		add(s, odd(s, in, arena, SEALS_SIZE));
	else if (shared && arena)
		add(s, memory(arena, true, SEALS_SIZE));
	add(s, wrong & 16 ? odd(s, in, PAGE, 0) :
			    eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	add(s, wrong & 32 ? odd(s, in, PAGE, 0) :
			    eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (wrong & 32)
		s->honest = false;
	if (wrong & 0x40) {
		add(s, odd(s, in, PAGE, SEALS_OWN));
		s->honest = false;
	}
	/* More than anybody can want, all of them good for something. */
	for (i = 0; (wrong & 0xc0) == 0xc0 && s->count && i < 12; i++)
		add(s, fcntl(s->fd[0], F_DUPFD_CLOEXEC, 0));
	if ((wrong & 0xc0) == 0x80 && s->count) {
		close(s->fd[--s->count]);
		s->honest = false;
	}
}

/* Of as many lanes as there are to be, and with the sockets of a welcome, @end being B. */
static void make_offers(struct stranger *s, struct input *in, unsigned int end)
{
	unsigned int i;
	int pair[2];

	for (i = 0; i < s->lanes; i++)
		make_offer(s, in, end);
	for (i = 1; i < s->lanes && end == EVERING_B; i++) {
		if (in8(in) & 1) {
			add(s, odd(s, in, PAGE, SEALS_OWN));
			s->honest = false;
			continue;
		}
		MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
				 pair));
		/* With something in it, which nobody looks at. */
		if (in8(in) & 1)
			send(pair[1], s, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		add(s, half_of(pair));
	}
}

static void make_geometry(struct stranger *s, struct input *in)
{
	struct evering_geometry *g = &s->geometry;
	uint8_t what = in8(in);

	*g = (struct evering_geometry){
		.slot_size = EVERING_MIN_SLOT << (what & 3),
		.entries = EVERING_MIN_ENTRIES << (what >> 2 & 3),
		.arena_size = { what & 16 ? 2 * PAGE : PAGE,
				what & 32 ? 0 : 2 * PAGE },
		.flags = what & 64 ? EVERING_SHARED_ARENA : 0,
	};
	if (!(what & 128))
		return;
	/* More than anybody has asked for, or what cannot be. */
	s->honest = false;
	switch (in8(in) % 4) {
	case 0:
		g->arena_size[EVERING_A] = 2 * MOST_MEMORY;
		break;
	case 1:
		g->arena_size[EVERING_B] = 2 * MOST_MEMORY;
		break;
	case 2:
		g->slot_size += 8;
		break;
	case 3:
		g->entries += 1;
		break;
	}
}

/* --------------------------------------------------------------------- packets */

static void say(struct stranger *s, const void *packet, size_t size,
		unsigned int fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)packet, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;
	ssize_t ignored;

	if (fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fds * sizeof(int));
		memcpy(CMSG_DATA(c), s->fd, fds * sizeof(int));
	}
	ignored = sendmsg(s->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)ignored;
}

/* As it should be but for what the input changes; true: nothing. */
static bool garble(struct input *in, unsigned char *packet, size_t *size,
		   size_t room)
{
	uint8_t changes = in8(in) & 7, at;
	bool right = true;

	/* Four bytes each, so that other numbers come of it. */
	for (; changes; changes--) {
		at = in8(in);
		if (at == 0xff)
			*size = in8(in) % (room + 1);
		else
			packet[at % *size] = in8(in);
		right = false;
		if (!*size)
			break;
	}
	return right;
}

static bool send_hello(struct stranger *s, struct input *in)
{
	unsigned char packet[sizeof(struct hello) + 64] = { 0 };
	size_t size = sizeof(struct hello);
	struct hello hello = {
		.magic = HELLO_MAGIC,
		.size = sizeof(hello),
		.abi = EVERING_ABI_VERSION,
		.backend = EVERING_BACKEND_MEMFD,
	};
	bool right;

	make_geometry(s, in);
	make_offers(s, in, EVERING_A);
	hello.geometry = s->geometry;
	hello.fds = s->count;
	hello.lanes = s->lanes;
	memcpy(packet, &hello, sizeof(hello));
	right = garble(in, packet, &size, sizeof(packet));
	s->whole = size == sizeof(hello);
	say(s, packet, size, s->count);
	return right && s->honest;
}

static bool say_welcome(struct stranger *s, struct input *in)
{
	unsigned char packet[sizeof(struct welcome) + 64] = { 0 };
	size_t size = sizeof(struct welcome);
	struct welcome welcome = {
		.magic = WELCOME_MAGIC,
		.size = sizeof(welcome),
		.abi_min = EVERING_ABI_VERSION,
		.abi_max = EVERING_ABI_VERSION,
	};
	bool right;

	make_offers(s, in, EVERING_B);
	welcome.fds = s->count;
	welcome.lanes = s->lanes;
	if (in8(in) & 1) {
		welcome.error = -in8(in);
		s->honest = false;
	}
	memcpy(packet, &welcome, sizeof(welcome));
	right = garble(in, packet, &size, sizeof(packet));
	s->whole = size == sizeof(welcome);
	say(s, packet, size, s->count);
	return right && s->honest;
}

/* ------------------------------------------------------------------- afterwards */

static uint64_t blocks_of(const struct stranger *s)
{
	uint64_t sum = 0;
	struct stat st;
	unsigned int i;

	for (i = 0; i < s->count; i++)
		if (!fstat(s->fd[i], &st))
			sum += (uint64_t)st.st_blocks;
	return sum;
}

/* It was offered, and taken: now the stranger wants it back. */
static void take_away(const struct stranger *s, struct input *in)
{
	uint8_t what = in8(in);
	const uint64_t many = UINT64_MAX - 1;
	unsigned int i;
	int flags, ret;

	for (i = 0; i < s->count; i++) {
		flags = fcntl(s->fd[i], F_GET_SEALS);
		if (flags >= 0) {
			ret = ftruncate(s->fd[i], 0);
			ret |= ftruncate(s->fd[i], 1 << 20);
			if (what & 1)
				ret |= fallocate(s->fd[i],
						 FALLOC_FL_PUNCH_HOLE |
							 FALLOC_FL_KEEP_SIZE,
						 0, 1 << 20);
		} else {
			/* Full, so that whoever rings finds it so. */
			flags = fcntl(s->fd[i], F_GETFL);
			fcntl(s->fd[i], F_SETFL, flags | O_NONBLOCK);
			ret = (int)write(s->fd[i], &many, sizeof(many));
		}
		(void)ret;
	}
	if (what & 2)
		shutdown(s->sock, SHUT_RDWR);
}

/* What is taken for a channel is one, and none that was not to be had. */
static void check_channel(const struct evering *ev)
{
	const struct endpoint *e = to_const_endpoint(ev);
	const struct evering_geometry *g = &e->geometry;
	struct stat own, st;
	unsigned int i;

	MUST(g->slot_size && !(g->slot_size & (g->slot_size - 1)));
	MUST(g->entries && !(g->entries & (g->entries - 1)));
	MUST(!memcmp(g, &e->half->geometry, sizeof(*g)));
	for (i = 0; i < 2; i++) {
		if (e->end == EVERING_B)
			MUST(g->arena_size[i] <= MOST_MEMORY);
		/* It is rung by a write, and not everything is to be written. */
		MUST(!fstat(e->memfd.bell[e->end][i], &own) &&
		     !fstat(e->memfd.bell[!e->end][i], &st));
		MUST(st.st_dev == own.st_dev && st.st_ino == own.st_ino);
	}
}

/* Each page, from end to end, through the library and as it has them mapped. */
static void use(struct evering *ev)
{
	const struct endpoint *e = to_endpoint(ev);
	unsigned char entry[EVERING_MAX_SLOT] = { 0 };
	struct evering_counters counters;
	size_t at, len = evering_payload(ev);
	const unsigned char *bytes;
	unsigned int region, i;
	struct pollfd fd;

	for (region = 0; region < EVERING_REGIONS; region++) {
		for (at = 0; at < e->map_size[region]; at += PAGE) {
			bytes = (unsigned char *)e->map[region] + at;
			/* Of its arena what the library says may be read. */
			if (region == EVERING_REGION_ARENA(!e->end))
				bytes = evering_peer_buffer(ev, at, PAGE);
			if (bytes)
				fuzz_touch(bytes, 1);
		}
	}
	evering_get_counters(ev, EVERING_PEERS, &counters);
	for (i = 0; i < 2 * e->geometry.entries; i++) {
		evering_send(ev, entry, len, EVERING_NOWAIT);
		evering_recv(ev, entry, len, EVERING_NOWAIT);
	}
	fd.fd = evering_fd(ev);
	fd.events = POLLIN;
	if (fd.fd >= 0 && evering_arm(ev, EVERING_RX | EVERING_TX) >= 0)
		poll(&fd, 1, 0);
	evering_wait(ev, EVERING_RX | EVERING_FLUSH, 20 * MICROSECOND);
	MUST(evering_peer(ev) >= 0);
}

static bool is_refusal(int ret)
{
	switch (ret) {
	case -EPROTO:
	case -EPROTONOSUPPORT:
	case -E2BIG:
	case -EINVAL:
	case -ECONNRESET:
	case -EAGAIN:
	case -ETIMEDOUT:
	case -EINTR: /* libFuzzer has an alarm of its own */
	/* Whose bytes the stranger may choose in a welcome. */
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -EDQUOT:
	case -ENODEV:
	case -EACCES:
	case -EPERM:
	case -EFBIG:
	case -ETOOMANYREFS:
		return true;
	default:
		return false;
	}
}

/* ------------------------------------------------------------------------- ways */

static void limits_of(struct evering_params *limits)
{
	const struct evering_params most = EVERING_LIMITS_INIT;

	*limits = most;
	limits->flags = EVERING_SHARED_ARENA;
	limits->arena_size[EVERING_MINE] = MOST_MEMORY;
	limits->arena_size[EVERING_PEERS] = MOST_MEMORY;
}

static int by_accept(struct stranger *s, struct input *in, struct evering **ev)
{
	struct evering_params limits;
	bool right;
	int ret;

	limits_of(&limits);
	right = send_hello(s, in);
	if (in8(in) & 1) {
		/* As good as gone: nothing is made for it. */
		shutdown(s->sock, SHUT_WR);
		right = false;
	}
	ret = evering_accept_fd(s->others, &limits, EVERING_NOWAIT, ev);
	MUST(!right || !ret);
	return ret;
}

/*
 * A name that no other process has, nor an earlier listener: one of those children that look at
 * strangers' descriptors may still be ending, and has the listener's as well.
 */
static int make_name(char *name, size_t room)
{
	static unsigned int runs;

	return snprintf(name, room, "@evering-fuzz-%d-%u", (int)getpid(),
			runs++);
}

/* A socket that listens at such a name, which is @name of @room bytes. */
static int listen_at_name(char *name, size_t room)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int n = make_name(name, room);
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path + 1, name + 1, (size_t)n - 1);
	MUST(!bind(sock, (struct sockaddr *)&address,
		   (socklen_t)offsetof(struct sockaddr_un, sun_path) +
			   (socklen_t)n));
	MUST(!listen(sock, 1));
	return sock;
}

/* The stranger accepts, and has its answer ready when it is looked for. */
static int by_connect_many(struct stranger *s, struct input *in,
			   const struct evering_params *params, bool *right,
			   struct evering **ev)
{
	struct evering_connecting *c;
	struct evering *lane[MAX_LANES];
	char name[64];
	int sock, ret;

	sock = listen_at_name(name, sizeof(name));
	ret = evering_connect_begin_many(name, params, MAX_LANES,
					 EVERING_WAIT_FOREVER, &c);
	if (ret) {
		*right = s->honest;
		close(sock);
		return ret;
	}
	MUST(evering_connecting_step_many(c, lane) == -EAGAIN);
	close(s->sock);
	s->sock = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
	MUST(s->sock >= 0);
	*right = say_welcome(s, in);
	ret = evering_connecting_step_many(c, lane);
	evering_connecting_close(c);
	close(sock);
	close(s->others);
	s->others = -1;
	if (ret < 0)
		return ret;
	/* Each is a channel, and all but the first are closed at once. */
	while (ret > 1) {
		check_channel(lane[--ret]);
		evering_close(lane[ret]);
	}
	*ev = lane[0];
	return 0;
}

static int by_connect(struct stranger *s, struct input *in, struct evering **ev)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	bool right;
	int ret;

	make_geometry(s, in);
	params.backend = EVERING_BACKEND_MEMFD;
	params.flags = s->geometry.flags;
	params.slot_size = s->geometry.slot_size;
	params.entries = s->geometry.entries;
	params.arena_size[EVERING_MINE] = s->geometry.arena_size[EVERING_A];
	params.arena_size[EVERING_PEERS] = s->geometry.arena_size[EVERING_B];
	if (s->lanes == 1) {
		right = say_welcome(s, in);
		ret = evering_connect_fd(s->others, &params, EVERING_NOWAIT,
					 ev);
	} else {
		ret = by_connect_many(s, in, &params, &right, ev);
	}
	MUST(!right || !ret);
	return ret;
}

/* Behind some who say nothing, or too much, or are gone. */
static int by_listener(struct stranger *s, struct input *in,
		       struct evering **ev)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct evering_listener *listener;
	struct evering_params limits;
	struct evering *lane;
	unsigned int n = in8(in) & 3, i;
	int crowd[3], error, ret;
	bool right;
	char name[64];
	socklen_t len;

	make_name(name, sizeof(name));
	MUST(!evering_listen(name, 0, &listener));
	memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
			  strlen(name));
	for (i = 0; i < n; i++) {
		crowd[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		MUST(!connect(crowd[i], (struct sockaddr *)&address, len));
		if (in8(in) & 1)
			shutdown(crowd[i], SHUT_WR);
		else
			send(crowd[i], name, in8(in) % sizeof(name),
			     MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	close(s->sock);
	s->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	MUST(!connect(s->sock, (struct sockaddr *)&address, len));
	right = send_hello(s, in);
	limits_of(&limits);
	ret = evering_accept(listener, &limits, EVERING_NOWAIT, ev);
	MUST(!ret || ret == -EAGAIN);
	for (i = 1; !ret && i < to_endpoint(*ev)->lanes; i++) {
		MUST(!evering_accept(listener, &limits, EVERING_NOWAIT, &lane));
		check_channel(lane);
		evering_close(lane);
	}
	MUST(!right || !ret);
	MUST(evering_listener_refused(listener, &error) <= n + 1);
	MUST(!error || is_refusal(error));
	for (i = 0; i < n; i++)
		close(crowd[i]);
	evering_listener_close(listener);
	return ret;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct stranger s = { .honest = true };
	struct evering *ev = NULL;
	struct fuzz_run run;
	int socks[2], ret;
	unsigned int i;
	uint64_t blocks;
	uint8_t way;
	bool shared;

	fuzz_begin(&run);
	MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
	s.sock = socks[0];
	s.others = socks[1];
	way = in8(&in);
	s.lanes = way >> 5 == 3 ? 2 + (way >> 2) % (MAX_LANES - 1) : 1;
	switch (way % 3) {
	case 0:
		ret = by_accept(&s, &in, &ev);
		break;
	case 1:
		ret = by_connect(&s, &in, &ev);
		break;
	default:
		ret = by_listener(&s, &in, &ev);
		close(s.others);
		s.others = -1;
	}
	MUST(!ret == !!ev);
	if (ev) {
		MUST(s.whole);
		check_channel(ev);
		shared = to_endpoint(ev)->geometry.flags & EVERING_SHARED_ARENA;
		take_away(&s, &in);
		blocks = blocks_of(&s);
		use(ev);
		/* Every page that is read was there: else it could be a SIGBUS. */
		MUST(shared || blocks_of(&s) == blocks);
		evering_close(ev);
	} else {
		MUST(is_refusal(ret));
		if (s.others >= 0)
			close(s.others);
	}
	close(s.sock);
	for (i = 0; i < s.count; i++)
		close(s.fd[i]);
	fuzz_end(&run);
	return 0;
}
