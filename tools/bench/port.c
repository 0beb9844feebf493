// SPDX-License-Identifier: MIT
/*
 * Arms: a kernel module as the other side, which sends back what it is sent, of the mode
 * port.  The client does all of it; the server of the run has nothing to do.
 *
 *	echo-read	a read(2) of so many bytes of the same device, which is what a
 *			driver costs that has a system call for each
 *	echo, -16	entries, answered in the task that rings: one at a time, and 16
 *	echo-op, -16	likewise operations, with so many bytes as data
 *	echo-thread	entries, answered by a thread of the port's own: both sides sleep
 *	echo-thread-op	likewise operations
 *
 * An operation has a slot of twice the size, beside an entry's: its header is 16 bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/evering_echo.h>

#include "bench.h"

#include <evering_op.h>

#define DEVICE "/dev/evering_echo"
#define WAIT EVERING_WAIT_FOREVER
#define ARENA (64u << 10)
#define MOST 64u /* what the device's read(2) has */
#define MOST_SLOT 128u

/* struct arm.variant: how many at a time, and */
#define BATCH 0xff
#define OPERATIONS 0x100
#define THREAD 0x200
#define READ 0x400

struct port {
	int device;
	struct evering *ev;
	struct evering_ops *ops;
	unsigned int in_flight; /* operations */
	uint64_t reads;
};

static const char *echo_missing(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return errno == EACCES ? "may not open " DEVICE :
					 "no " DEVICE ": load evering_echo";
	close(fd);
	return NULL;
}

static void port_open(struct side *s)
{
	struct evering_params params = EVERING_LIMITS_INIT;
	struct evering_echo echo = {
		.size = sizeof(echo),
		.flags = (s->arm->variant & THREAD ? EVERING_ECHO_THREAD : 0) |
			 (s->arm->variant & OPERATIONS ? EVERING_ECHO_OPS : 0),
		.geometry = {
			.slot_size = s->arm->variant & OPERATIONS ?
					     MOST_SLOT :
					     (uint32_t)s->job->size,
			.entries = RING_ENTRIES,
			.arena_size = { ARENA, ARENA },
		},
	};
	struct port *p;
	int ret;

	if (s->server)
		return;
	p = calloc(1, sizeof(*p));
	if (!p)
		fail(s, "no memory");
	s->state = p;
	p->device = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (p->device < 0)
		fail(s, DEVICE ": %m");
	if (s->arm->variant & READ)
		return;
	if (ioctl(p->device, EVERING_IOC_ECHO, &echo))
		fail(s, "ECHO: %m");
	params.policy = s->job->policy;
	ret = evering_open_fd(echo.fd, &params, &p->ev);
	close(echo.fd);
	if (!ret && s->arm->variant & OPERATIONS)
		ret = evering_ops_open(p->ev, NULL, &p->ops);
	if (ret)
		fail(s, "a channel: %s", strerror(-ret));
}

static void read_one(struct side *s)
{
	static char bytes[MOST];
	struct port *p = s->state;

	p->reads++;
	if (read(p->device, bytes, s->job->size) != (ssize_t)s->job->size)
		fail(s, "read: %m");
	s->done++;
}

/* The port answers in here, unless it has a thread. */
static void wait_for_answer(struct side *s)
{
	struct port *p = s->state;
	int ret = p->ops ?
			  evering_ops_wait(p->ops, WAIT) :
			  evering_wait(p->ev, EVERING_RX | EVERING_FLUSH, WAIT);

	if (ret < 0)
		fail(s, "wait: %s", strerror(-ret));
}

static void exchange(struct side *s, unsigned int count)
{
	size_t len = message_size(s->job);
	struct port *p = s->state;
	const void *answer;
	unsigned int i;
	void *slot;

	for (i = 0; i < count; i++) {
		slot = evering_reserve_at(p->ev, i);
		if (!slot)
			fail(s, "no room");
		write_message(s, slot, len, s->number + i);
	}
	evering_commit_many(p->ev, count);
	if (!(s->arm->variant & THREAD))
		evering_flush(p->ev);
	for (i = 0; i < count; i++) {
		while (!(answer = evering_peek_at(p->ev, i)))
			wait_for_answer(s);
		check_message(s, answer, len, s->number++);
	}
	evering_release_many(p->ev, count);
}

static void answered(struct evering_ops *ops,
		     const struct evering_completion *c)
{
	struct side *s = c->user;
	struct port *p = s->state;

	(void)ops;
	if (c->result || c->len != s->job->size)
		fail(s, "an answer of %d, %u bytes", c->result, c->len);
	check_message(s, c->data, c->len, s->number++);
	p->in_flight--;
}

static void operate(struct side *s, unsigned int count)
{
	size_t len = s->job->size;
	/* The compiler thinks of longer ones, too. */
	uint32_t data[SLOT_MAX / 4 + 1];
	struct port *p = s->state;
	unsigned int i;
	int ret;

	for (i = 0; i < count; i++) {
		write_message(s, data, len, s->number + i);
		ret = evering_op_submit_data(p->ops, 1, data, (uint32_t)len,
					     answered, s, WAIT);
		if (ret)
			fail(s, "submit: %s", strerror(-ret));
	}
	p->in_flight = count;
	if (!(s->arm->variant & THREAD)) {
		evering_ops_flush(p->ops);
		evering_ops_poll(p->ops);
	}
	while (p->in_flight)
		wait_for_answer(s);
}

static void port_work(struct side *s, uint64_t ops)
{
	unsigned int batch = s->arm->variant & BATCH, count;

	if (s->server) {
		s->done += ops;
		return;
	}
	for (; ops; ops -= count) {
		count = ops < batch ? (unsigned int)ops : batch;
		if (s->arm->variant & READ)
			read_one(s);
		else if (s->arm->variant & OPERATIONS)
			operate(s, count);
		else
			exchange(s, count);
	}
}

static void port_count(struct side *s)
{
	struct evering_counters counters;
	struct port *p = s->state;

	if (!p)
		return;
	s->syscalls = p->reads;
	if (!p->ev)
		return;
	evering_get_counters(p->ev, EVERING_MINE, &counters);
	s->syscalls += counters.tx_syscalls + counters.rx_syscalls;
}

static void port_close(struct side *s)
{
	struct port *p = s->state;

	if (s->server) {
		wait_for_client(s);
		return;
	}
	evering_ops_close(p->ops);
	evering_close(p->ev);
	close(p->device);
	free(p);
}

#define PORT_ARM(id, text, how)                                 \
	const struct arm id = {                                 \
		.name = text,                                   \
		.modes = { [MODE_PORT] = ONLY(EVERING_BLOCK) }, \
		.most = MOST,                                   \
		.variant = how,                                 \
		.missing = echo_missing,                        \
		.open = port_open,                              \
		.work = port_work,                              \
		.count = port_count,                            \
		.close = port_close,                            \
	}

PORT_ARM(echo_read_arm, "echo-read", 1 | READ);
PORT_ARM(echo_arm, "echo", 1);
PORT_ARM(echo_16_arm, "echo-16", 16);
PORT_ARM(echo_op_arm, "echo-op", 1 | OPERATIONS);
PORT_ARM(echo_op_16_arm, "echo-op-16", 16 | OPERATIONS);
PORT_ARM(echo_thread_arm, "echo-thread", 1 | THREAD);
PORT_ARM(echo_thread_op_arm, "echo-thread-op", 1 | OPERATIONS | THREAD);
