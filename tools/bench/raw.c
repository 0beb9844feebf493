// SPDX-License-Identifier: MIT
/*
 * The floors: what the machine itself takes.  For spinning sides a cache line
 * handed over and another handed back; for sleeping ones what the kernel has to wake
 * somebody with, bare: eventfds, pipes, futexes, Unix sockets, and where both sides
 * share a CPU the CPU alone, by sched_yield().  No payload, so the size does not
 * matter.  For original and fair what each side has to do even if bytes travelled by
 * themselves: look at what arrived, and write what it sends, once.
 *
 * unpinned: the same sleepers on any CPU; pipes and sockets carry all of a message.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

/* 128 bytes apart, for the prefetcher that takes neighbours along. */
struct lines {
	uint32_t there __attribute__((aligned(128)));
	uint32_t back __attribute__((aligned(128)));
	uint32_t number
		__attribute__((aligned(128))); /* private from here on */
};

#define MOST_FDS 4

void share_fds(struct side *s, int *fds, unsigned int count)
{
	char control[CMSG_SPACE(MOST_FDS * sizeof(int))] = { 0 };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = CMSG_SPACE(count * sizeof(int)),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	if (s->server) {
		if (recvmsg(s->sock, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
			fail(s, "the other side sends no descriptors");
		memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)),
		       count * sizeof(int));
		return;
	}
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	if (sendmsg(s->sock, &msg, 0) != 1)
		fail(s, "sendmsg: %m");
}

/* Cache lines, and futexes ------------------------------------------------- */

static void lines_open(struct side *s)
{
	int fd = -1;

	if (!s->server) {
		fd = memfd_create("lines", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, sizeof(struct lines)))
			fail(s, "memfd: %m");
	}
	share_fds(s, &fd, 1);
	s->state = mmap(NULL, sizeof(struct lines), PROT_READ | PROT_WRITE,
			MAP_SHARED, fd, 0);
	if (s->state == MAP_FAILED)
		fail(s, "mmap: %m");
	close(fd);
}

static void lines_close(struct side *s)
{
	munmap(s->state, sizeof(struct lines));
}

static void raw_work(struct side *s, uint64_t ops)
{
	struct lines *l = s->state;
	uint32_t *mine = s->server ? &l->back : &l->there;
	uint32_t *theirs = s->server ? &l->there : &l->back;
	uint32_t n = __atomic_load_n(mine, __ATOMIC_RELAXED);
	int64_t at = probe_start(s);

	for (s->done += ops; ops; ops--) {
		n++;
		if (!s->server)
			__atomic_store_n(mine, n, __ATOMIC_RELEASE);
		while (__atomic_load_n(theirs, __ATOMIC_ACQUIRE) != n)
			relax();
		if (s->server)
			__atomic_store_n(mine, n, __ATOMIC_RELEASE);
		at = probe_lap(s, at);
	}
}

const struct arm raw_arm = {
	.name = "cache-line",
	.modes = { [MODE_RTT] = ONLY(EVERING_BUSY) },
	.open = lines_open,
	.work = raw_work,
	.close = lines_close,
};

/* No transport ------------------------------------------------------------- */

struct alone {
	unsigned char *came;
	unsigned char *goes;
};

static void alone_open(struct side *s)
{
	struct alone *a = malloc(sizeof(*a));
	size_t size = s->job->size;

	if (a) {
		a->came = malloc(size);
		a->goes = malloc(size);
	}
	if (!a || !a->came || !a->goes)
		fail(s, "no memory");
	memset(a->came, s->server ? 'S' : 'R', size);
	memset(a->goes, 0, size);
	s->state = a;
}

static void alone_work(struct side *s, uint64_t ops)
{
	struct alone *a = s->state;
	char end;

	for (; ops; ops--) {
		check_payload(s, a->came);
		/* In the original the client has written it before. */
		if (s->server || s->job->mode == MODE_FAIR) {
			memcpy(a->goes, s->source, s->job->size);
			/* Somebody might read it. */
			__asm__ __volatile__("" : : "r"(a->goes) : "memory");
		}
	}
	/* Done when both are: the answering side has more to write. */
	if ((s->server ? write(s->sock, "", 1) : read(s->sock, &end, 1)) != 1)
		fail(s, "the other side does not end: %m");
}

static void alone_close(struct side *s)
{
	struct alone *a = s->state;

	free(a->came);
	free(a->goes);
	free(a);
}

const struct arm alone_arm = {
	.name = "no-transport",
	.modes = { ONLY(EVERING_BUSY), ONLY(EVERING_BUSY) },
	.opens_early = true,
	.open = alone_open,
	.work = alone_work,
	.close = alone_close,
};

/* Waiting and waking ------------------------------------------------------- */

enum word_variant {
	COUNT,
	BYTES,
	FUTEX,
	YIELD
};

/**
 * struct word - eventfds, pipes and sockets: what is written and read
 * @in, @out: where this side reads, and writes
 * @len: bytes, of which the first eight count: eight; in MODE_UNPINNED, where the arm
 *	can, as many as a message has
 */
struct word {
	int in;
	int out;
	size_t len;
	union {
		uint64_t count;
		unsigned char bytes[SLOT_MAX];
	} got, give;
};

static struct word *make_word(struct side *s, int in, int out)
{
	struct word *w = calloc(1, sizeof(*w));
	uint64_t size = s->job->size;

	if (!w)
		fail(s, "no memory");
	w->in = in;
	w->out = out;
	w->len = sizeof(w->give.count);
	if (s->job->mode == MODE_UNPINNED && s->arm->variant == BYTES)
		w->len = size < sizeof(w->give) ? size : sizeof(w->give);
	w->give.count = 1;
	return w;
}

static void take_word(struct side *s)
{
	struct word *w = s->state;

	s->syscalls++;
	if (read(w->in, &w->got, w->len) != (ssize_t)w->len)
		fail(s, "read: %m");
	if (w->got.count != 1)
		fail(s, "rung %llu times", (unsigned long long)w->got.count);
}

static void give_word(struct side *s)
{
	struct word *w = s->state;

	s->syscalls++;
	if (write(w->out, &w->give, w->len) != (ssize_t)w->len)
		fail(s, "write: %m");
}

static void take_futex(struct side *s)
{
	struct lines *l = s->state;
	uint32_t *theirs = s->server ? &l->there : &l->back;

	while (!__atomic_load_n(theirs, __ATOMIC_ACQUIRE)) {
		s->syscalls++;
		syscall(SYS_futex, theirs, FUTEX_WAIT, 0, NULL, NULL, 0);
	}
	__atomic_store_n(theirs, 0, __ATOMIC_RELAXED);
}

static void give_futex(struct side *s)
{
	struct lines *l = s->state;
	uint32_t *mine = s->server ? &l->back : &l->there;

	__atomic_store_n(mine, 1, __ATOMIC_RELEASE);
	s->syscalls++;
	if (syscall(SYS_futex, mine, FUTEX_WAKE, 1, NULL, NULL, 0) < 0)
		fail(s, "futex: %m");
}

static void yield(struct side *s)
{
	s->syscalls++;
	sched_yield();
}

static void nothing(struct side *s)
{
	(void)s;
}

static const struct {
	void (*take)(struct side *s);
	void (*give)(struct side *s);
} words[] = {
	[COUNT] = { take_word, give_word },
	[BYTES] = { take_word, give_word },
	[FUTEX] = { take_futex, give_futex },
	/* Nothing is handed over but the CPU. */
	[YIELD] = { yield, nothing },
};

static void word_work(struct side *s, uint64_t ops)
{
	void (*take)(struct side * s) = words[s->arm->variant].take;
	void (*give)(struct side * s) = words[s->arm->variant].give;
	int64_t at = probe_start(s);

	for (s->done += ops; ops; ops--) {
		if (!s->server)
			give(s);
		take(s);
		if (s->server)
			give(s);
		at = probe_lap(s, at);
	}
}

/* @fds: what the client reads and writes, what the server reads and writes. */
static void word_open(struct side *s, int fds[MOST_FDS])
{
	share_fds(s, fds, MOST_FDS);
	s->state = make_word(s, fds[2 * s->server], fds[2 * s->server + 1]);
}

static void eventfd_open(struct side *s)
{
	int fds[MOST_FDS] = { -1, -1, -1, -1 };

	if (!s->server) {
		fds[0] = fds[3] = eventfd(0, EFD_CLOEXEC);
		fds[1] = fds[2] = eventfd(0, EFD_CLOEXEC);
		if (fds[0] < 0 || fds[1] < 0)
			fail(s, "eventfd: %m");
	}
	word_open(s, fds);
}

static void pipe_open(struct side *s)
{
	int fds[MOST_FDS] = { -1, -1, -1, -1 };
	int there[2], back[2];

	if (!s->server) {
		if (pipe2(there, O_CLOEXEC) || pipe2(back, O_CLOEXEC))
			fail(s, "pipe: %m");
		fds[0] = back[0];
		fds[1] = there[1];
		fds[2] = there[0];
		fds[3] = back[1];
	}
	word_open(s, fds);
}

/* They meet over one; that serves. */
static void socket_open(struct side *s)
{
	s->state = make_word(s, s->sock, s->sock);
}

static void word_close(struct side *s)
{
	free(s->state);
}

#define ASLEEP                                                                 \
	{                                                                      \
		[MODE_RTT] = ONLY(EVERING_BLOCK)                               \
	}
#define ASLEEP_ANYWHERE                                                        \
	{                                                                      \
		[MODE_RTT] = ONLY(EVERING_BLOCK),                              \
		[MODE_UNPINNED] = ONLY(EVERING_BLOCK),                         \
	}

const struct arm eventfd_arm = {
	.name = "eventfd",
	.modes = ASLEEP_ANYWHERE,
	.variant = COUNT,
	.open = eventfd_open,
	.work = word_work,
	.close = word_close,
};

const struct arm pipe_arm = {
	.name = "pipe",
	.modes = ASLEEP_ANYWHERE,
	.variant = BYTES,
	.open = pipe_open,
	.work = word_work,
	.close = word_close,
};

const struct arm seqpacket_arm = {
	.name = "seqpacket",
	.modes = ASLEEP_ANYWHERE,
	.variant = BYTES,
	.open = socket_open,
	.work = word_work,
	.close = word_close,
};

const struct arm futex_arm = {
	.name = "futex",
	.modes = ASLEEP_ANYWHERE,
	.variant = FUTEX,
	.open = lines_open,
	.work = word_work,
	.close = lines_close,
};

const struct arm yield_arm = {
	.name = "sched_yield",
	.modes = ASLEEP,
	.one_cpu = true,
	.variant = YIELD,
	.open = nothing,
	.work = word_work,
	.close = nothing,
};
