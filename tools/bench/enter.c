// SPDX-License-Identifier: MIT
/*
 * Arms: what the module takes to wake and to sleep, bare: an entry in a ring that is
 * written out here, and its doorbell by ENTER, or by RING and poll(2).  What the library
 * adds to that is the difference to evering-device and evering-device-loop.
 */
#include <fcntl.h>
#include <linux/evering.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#define SLOT 64u
#define HALF (EVERING_SLOTS_OFFSET + SLOT * RING_ENTRIES)

struct bare {
	int fd;
	struct evering_half *mine;
	const struct evering_half *peers;
	uint32_t sent, received;
};

static void bare_open(struct side *s)
{
	struct evering_create create = {
		.size = sizeof(create),
		.geometry = { .slot_size = SLOT, .entries = RING_ENTRIES },
	};
	struct bare *b = calloc(1, sizeof(*b));
	unsigned int end = s->server, i;
	void *half[2];
	int device;

	if (!b)
		fail(s, "no memory");
	s->state = b;
	if (!s->server) {
		device = open("/dev/evering", O_RDWR | O_CLOEXEC);
		if (device < 0 || ioctl(device, EVERING_IOC_CREATE, &create))
			fail(s, "CREATE: %m");
		close(device);
	}
	share_fds(s, create.fd, 2);
	b->fd = create.fd[end];
	close(create.fd[!end]);
	for (i = 0; i < 2; i++) {
		half[i] = mmap(
			NULL, whole_pages(HALF),
			PROT_READ | (i == end ? PROT_WRITE : 0),
			MAP_SHARED | MAP_POPULATE, b->fd,
			(off_t)EVERING_MMAP_OFFSET(EVERING_REGION_HALF(i)));
		if (half[i] == MAP_FAILED)
			fail(s, "mmap: %m");
	}
	b->mine = half[end];
	b->peers = half[!end];
}

static char *slot(const struct evering_half *half, uint32_t n)
{
	return (char *)half + EVERING_SLOTS_OFFSET +
	       (size_t)(n % RING_ENTRIES) * SLOT;
}

static uint32_t *stamp(const struct evering_half *half, uint32_t n)
{
	return (uint32_t *)(slot(half, n) + SLOT - EVERING_STAMP_SIZE);
}

static bool arrived(const struct bare *b)
{
	return evering_load_acquire(stamp(b->peers, b->received)) ==
	       b->received + 1;
}

static void send_entry(struct bare *b)
{
	memcpy(slot(b->mine, b->sent), &b->sent, sizeof(b->sent));
	evering_store_release(stamp(b->mine, b->sent), b->sent + 1);
	b->sent++;
}

/* Announces a sleep, of a new generation if the last one was rung. */
static void arm(struct bare *b)
{
	uint32_t old = evering_load_relaxed(&b->mine->armed_rx);

	if (!(old & EVERING_ARMED))
		__atomic_store_n(&b->mine->armed_rx,
				 old + EVERING_GENERATION + EVERING_ARMED,
				 __ATOMIC_RELAXED);
	evering_full_fence();
}

static bool peer_sleeps(const struct bare *b)
{
	return evering_load_relaxed(&b->peers->armed_rx) & EVERING_ARMED;
}

static void enter(struct side *s, uint32_t ring)
{
	struct bare *b = s->state;
	struct evering_enter e = {
		.size = sizeof(e),
		.ring = ring,
		.wait = EVERING_RX,
		.timeout = EVERING_FOREVER,
	};

	s->syscalls++;
	if (ioctl(b->fd, EVERING_IOC_ENTER, &e) < 0)
		fail(s, "ENTER: %m");
}

static void ring(struct side *s)
{
	struct bare *b = s->state;

	evering_full_fence();
	if (!peer_sleeps(b))
		return;
	s->syscalls++;
	if (ioctl(b->fd, EVERING_IOC_RING, EVERING_RX) < 0)
		fail(s, "RING: %m");
}

static void poll_bare(struct side *s)
{
	struct bare *b = s->state;
	struct pollfd fd = { .fd = b->fd, .events = POLLIN };

	s->syscalls++;
	if (poll(&fd, 1, -1) != 1)
		fail(s, "poll: %m");
}

enum variant {
	ENTER,
	RING_POLL
};

/* Waits for an entry; if @owes the peer is still to be woken for the last one. */
static void receive(struct side *s, bool owes)
{
	struct bare *b = s->state;

	while (!arrived(b)) {
		arm(b);
		if (arrived(b))
			break;
		if (s->arm->variant == RING_POLL)
			poll_bare(s);
		else
			enter(s, owes && peer_sleeps(b) ? EVERING_RX : 0);
		owes = false;
	}
	b->received++;
	evering_store_release(&b->mine->released, b->received);
}

static void send_one(struct side *s)
{
	send_entry(s->state);
	if (s->arm->variant == RING_POLL)
		ring(s);
}

static void work(struct side *s, uint64_t ops)
{
	bool enters = s->arm->variant == ENTER;
	int64_t at = probe_start(s);
	uint64_t i;

	for (i = 0; i < ops; i++) {
		if (s->server)
			receive(s, enters && i);
		send_one(s);
		if (!s->server)
			receive(s, enters);
		at = probe_lap(s, at);
	}
	ring(s);
	s->done += ops;
}

static void bare_close(struct side *s)
{
	struct bare *b = s->state;

	close(b->fd);
	free(b);
}

#define ASLEEP                                                                 \
	{                                                                      \
		[MODE_RTT] = ONLY(EVERING_BLOCK)                               \
	}

const struct arm enter_arm = {
	.name = "enter",
	/* port: beside a module that is woken, and wakes */
	.modes = { [MODE_RTT] = ONLY(EVERING_BLOCK),
		   [MODE_PORT] = ONLY(EVERING_BLOCK) },
	.variant = ENTER,
	.missing = device_missing,
	.open = bare_open,
	.work = work,
	.close = bare_close,
};

const struct arm ring_poll_arm = {
	.name = "ring-poll",
	.modes = ASLEEP,
	.variant = RING_POLL,
	.missing = device_missing,
	.open = bare_open,
	.work = work,
	.close = bare_close,
};
