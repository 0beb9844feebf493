// SPDX-License-Identifier: MIT
/*
 * The floors: what the machine itself takes.  For spinning sides a cache line
 * handed over and another handed back, for sleeping ones two bare eventfds, written
 * and read.  No payload, so the size does not matter.
 */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

/* 128 bytes apart, for the prefetcher that takes neighbours along. */
struct lines {
	uint32_t there __attribute__((aligned(128)));
	uint32_t back __attribute__((aligned(128)));
	uint32_t number
		__attribute__((aligned(128))); /* private from here on */
};

/* The client makes @count descriptors, and the server gets them. */
static void share_fds(struct side *s, int *fds, unsigned int count)
{
	char control[CMSG_SPACE(2 * sizeof(int))] = { 0 };
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

static void raw_open(struct side *s)
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

static void raw_close(struct side *s)
{
	munmap(s->state, sizeof(struct lines));
}

const struct arm raw_arm = {
	.name = "cache-line",
	.modes = { [MODE_RTT] = ONLY(EVERING_BUSY) },
	.open = raw_open,
	.work = raw_work,
	.close = raw_close,
};

struct bells {
	int fd[2]; /* of the client, of the server */
};

static void eventfd_open(struct side *s)
{
	struct bells *b = malloc(sizeof(*b));

	if (!b)
		fail(s, "no memory");
	if (!s->server) {
		b->fd[0] = eventfd(0, EFD_CLOEXEC);
		b->fd[1] = eventfd(0, EFD_CLOEXEC);
		if (b->fd[0] < 0 || b->fd[1] < 0)
			fail(s, "eventfd: %m");
	}
	share_fds(s, b->fd, 2);
	s->state = b;
}

static void ring(struct side *s, int fd)
{
	uint64_t one = 1;

	s->syscalls++;
	if (write(fd, &one, sizeof(one)) != sizeof(one))
		fail(s, "write: %m");
}

static void eventfd_work(struct side *s, uint64_t ops)
{
	struct bells *b = s->state;
	int64_t at = probe_start(s);
	uint64_t rings;

	for (; ops; ops--) {
		if (!s->server)
			ring(s, b->fd[1]);
		s->syscalls++;
		if (read(b->fd[s->server], &rings, sizeof(rings)) !=
			    sizeof(rings) ||
		    rings != 1)
			fail(s, "read: %m");
		if (s->server)
			ring(s, b->fd[0]);
		s->done++;
		at = probe_lap(s, at);
	}
}

static void eventfd_close(struct side *s)
{
	free(s->state);
}

const struct arm eventfd_arm = {
	.name = "eventfd",
	.modes = { [MODE_RTT] = ONLY(EVERING_BLOCK) },
	.open = eventfd_open,
	.work = eventfd_work,
	.close = eventfd_close,
};
