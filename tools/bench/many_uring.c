// SPDX-License-Identifier: MIT
/*
 * Arms: many Unix sockets with io_uring under one server thread; many.h describes the load.
 *
 * uds-uring-good: registered files on both sides.  The server has a receive of each socket
 * that goes on by itself (multishot), into buffers that the kernel picks from a ring, and
 * submits all answers that are due in the call that waits.  So does the client, with the
 * sends that are due and the receive that it waits for.  busy: completions are looked at
 * without waiting.
 */
#include <errno.h>
#include <sys/socket.h>

#include <liburing.h>

#include "many.h"
#include "uds.h"

#define ENTRIES 1024u
/* The server's ring of buffers, each for what a channel has in flight at the most. */
#define BUFFERS 1024u
#define BUFFER_SIZE (MANY_ENTRIES * MANY_MESSAGE)
#define BUFFER_GROUP 1

/* Of user_data: an answer is sent, from that buffer; else a request has come, of a channel. */
#define SENT (1ull << 32)

/**
 * struct lines - the sockets of a side
 * @buffers, @ring: the server's, to receive into, and answers are sent from them
 * @out, @next: the client's, what is sent, a ring of as many as it has in flight
 */
struct lines {
	struct crowd crowd;
	struct io_uring uring;
	struct io_uring_buf_ring *ring;
	unsigned char *buffers;
	unsigned char (*out)[MANY_SLOT];
	uint32_t next;
};

static bool busy(const struct side *s)
{
	return s->job->policy == EVERING_BUSY;
}

static void start_ring(struct side *s, struct lines *l)
{
	struct io_uring_params params = { .flags = IORING_SETUP_CQSIZE };
	int ret = -EINVAL;

	/* A completion of each channel, at the worst, and of its answer. */
	params.cq_entries = 4096;
	while (params.cq_entries < 4 * l->crowd.channels)
		params.cq_entries *= 2;
		/* Who does not wait is told that there is something to be worked off. */
#ifdef IORING_SETUP_DEFER_TASKRUN
	params.flags |= IORING_SETUP_SINGLE_ISSUER |
			IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
	ret = io_uring_queue_init_params(ENTRIES, &l->uring, &params);
	params.flags = IORING_SETUP_CQSIZE;
#endif
	if (ret == -EINVAL)
		ret = io_uring_queue_init_params(ENTRIES, &l->uring, &params);
	if (ret)
		fail(s, "io_uring_setup: %s", strerror(-ret));
}

static void give_buffer(struct lines *l, unsigned int id)
{
	io_uring_buf_ring_add(l->ring, l->buffers + id * BUFFER_SIZE,
			      BUFFER_SIZE, (unsigned short)id,
			      io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(l->ring, 1);
}

/* A ring of @count buffers, or NULL and *@ret. */
static struct io_uring_buf_ring *make_ring(struct io_uring *uring,
					   unsigned int count, int *ret)
{
	size_t size = whole_pages(count * sizeof(struct io_uring_buf));
	struct io_uring_buf_reg reg = { .ring_entries = count,
					.bgid = BUFFER_GROUP };
	struct io_uring_buf_ring *ring =
		aligned_alloc((size_t)sysconf(_SC_PAGESIZE), size);

	*ret = -ENOMEM;
	if (!ring)
		return NULL;
	memset(ring, 0, size);
	reg.ring_addr = (uintptr_t)ring;
	*ret = io_uring_register_buf_ring(uring, &reg, 0);
	if (!*ret)
		return ring;
	free(ring);
	return NULL;
}

static void make_buffers(struct side *s, struct lines *l)
{
	unsigned int i;
	int ret;

	l->buffers = aligned_alloc(64, BUFFERS * BUFFER_SIZE);
	l->ring = make_ring(&l->uring, BUFFERS, &ret);
	if (!l->buffers || !l->ring)
		fail(s, "a ring of buffers: %s", strerror(-ret));
	for (i = 0; i < BUFFERS; i++)
		give_buffer(l, i);
}

static struct io_uring_sqe *take_sqe(struct side *s, struct lines *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->uring);

	if (sqe)
		return sqe;
	s->syscalls++;
	io_uring_submit(&l->uring);
	sqe = io_uring_get_sqe(&l->uring);
	if (!sqe)
		fail(s, "the submission queue is full");
	return sqe;
}

static void listen_to(struct side *s, struct lines *l, uint32_t which)
{
	struct io_uring_sqe *sqe = take_sqe(s, l);

	io_uring_prep_recv_multishot(sqe, (int)which, NULL, 0, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT);
	sqe->buf_group = BUFFER_GROUP;
	io_uring_sqe_set_data64(sqe, which);
}

static void lines_open(struct side *s)
{
	struct lines *l = calloc(1, sizeof(*l));
	uint32_t i;
	int *fds, ret;

	if (!l)
		fail(s, "no memory");
	s->state = l;
	crowd_open(s, &l->crowd);
	l->out = aligned_alloc(MANY_SLOT, s->job->depth * sizeof(*l->out));
	fds = calloc(l->crowd.channels, sizeof(*fds));
	if (!l->out || !fds)
		fail(s, "no memory");
	start_ring(s, l);
	for (i = 0; i < l->crowd.channels; i++)
		fds[i] = s->server ? uds_accept(s, 0) : uds_connect(s, 0);
	ret = io_uring_register_files(&l->uring, fds, l->crowd.channels);
	if (ret)
		fail(s, "io_uring_register: %s", strerror(-ret));
	for (i = 0; i < l->crowd.channels; i++)
		close(fds[i]);
	free(fds);
	if (!s->server)
		return;
	make_buffers(s, l);
	for (i = 0; i < l->crowd.channels; i++)
		listen_to(s, l, i);
}

/* Submits what there is, and has a completion. */
static void submit_and_wait(struct side *s, struct lines *l)
{
	struct io_uring_cqe *cqe;
	int ret;

	if (!busy(s)) {
		s->syscalls++;
		ret = io_uring_submit_and_wait(&l->uring, 1);
	} else {
		if (io_uring_sq_ready(&l->uring))
			s->syscalls++;
		ret = io_uring_submit(&l->uring);
		while (ret >= 0 && io_uring_peek_cqe(&l->uring, &cqe))
			relax();
	}
	if (ret < 0 && ret != -EINTR)
		fail(s, "io_uring_enter: %s", strerror(-ret));
}

/* The client -------------------------------------------------------------- */

static void out(struct side *s, uint32_t which)
{
	struct lines *l = s->state;
	struct io_uring_sqe *sqe = take_sqe(s, l);
	unsigned char *buf = l->out[l->next];

	l->next = l->next + 1 < s->job->depth ? l->next + 1 : 0;
	many_write(&l->crowd, buf, which);
	io_uring_prep_send(sqe, (int)which, buf, MANY_MESSAGE, MSG_NOSIGNAL);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS);
	io_uring_sqe_set_data64(sqe, SENT);
}

static void in(struct side *s, uint32_t which)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct lines *l = s->state;
	struct io_uring_sqe *sqe = take_sqe(s, l);
	struct io_uring_cqe *cqe;
	int got;

	io_uring_prep_recv(sqe, (int)which, buf, sizeof(buf), 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, which);
	do
		submit_and_wait(s, l);
	while (io_uring_peek_cqe(&l->uring, &cqe));
	got = cqe->res;
	/* A send has a completion if it has failed, and comes first then. */
	if (cqe->user_data == SENT)
		fail(s, "send: %s", strerror(-got));
	io_uring_cqe_seen(&l->uring, cqe);
	if (got != sizeof(buf))
		fail(s, "recv: %s",
		     got < 0 ? strerror(-got) : "a part of a message");
	many_answered(s, &l->crowd, buf, which);
}

/* The server -------------------------------------------------------------- */

/* What has come of a channel, in a buffer: is answered from there. */
static uint32_t turn(struct side *s, struct lines *l, uint32_t which,
		     unsigned int id, int len)
{
	unsigned char *buf = l->buffers + id * BUFFER_SIZE, *at;
	struct io_uring_sqe *sqe;
	uint32_t answered = 0;

	if (len <= 0 || len % (int)MANY_MESSAGE)
		fail(s, "recv: %s",
		     len < 0 ? strerror(-len) : "a channel has ended");
	for (at = buf; at < buf + len; at += MANY_MESSAGE) {
		many_serves(s, &l->crowd, at, which);
		many_write(&l->crowd, at, which);
		answered++;
	}
	sqe = take_sqe(s, l);
	io_uring_prep_send(sqe, (int)which, buf, (size_t)len, MSG_NOSIGNAL);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, SENT | id);
	return answered;
}

/* How many requests that was; the answers are submitted later. */
static uint32_t complete(struct side *s, struct lines *l,
			 const struct io_uring_cqe *cqe)
{
	uint32_t which = (uint32_t)cqe->user_data, answered = 0;

	if (cqe->user_data & SENT) {
		if (cqe->res <= 0)
			fail(s, "send: %s", strerror(-cqe->res));
		give_buffer(l, which);
		return 0;
	}
	/* No buffer was free: those that are being sent are soon. */
	if (cqe->res != -ENOBUFS)
		answered = turn(s, l, which,
				cqe->flags >> IORING_CQE_BUFFER_SHIFT,
				cqe->res);
	if (!(cqe->flags & IORING_CQE_F_MORE))
		listen_to(s, l, which);
	return answered;
}

static void serve(struct side *s, struct lines *l, uint64_t ops)
{
	struct io_uring_cqe *cqe;
	unsigned int head, seen;

	while (ops) {
		submit_and_wait(s, l);
		seen = 0;
		io_uring_for_each_cqe(&l->uring, head, cqe)
		{
			ops -= complete(s, l, cqe);
			seen++;
		}
		io_uring_cq_advance(&l->uring, seen);
	}
	if (io_uring_sq_ready(&l->uring)) {
		s->syscalls++;
		io_uring_submit(&l->uring);
	}
}

static void lines_work(struct side *s, uint64_t ops)
{
	struct lines *l = s->state;

	if (s->server)
		serve(s, l, ops);
	else
		many_ask(s, &l->crowd, ops, out, in);
}

static void lines_close(struct side *s)
{
	struct lines *l = s->state;

	crowd_leave(s);
	io_uring_queue_exit(&l->uring);
	free(l->ring);
	free(l->buffers);
	free(l->out);
	crowd_close(&l->crowd);
	free(l);
}

static const char *many_uring_missing(void)
{
	struct io_uring ring;
	struct io_uring_buf_ring *buffers;
	int ret;

	if (io_uring_queue_init(2, &ring, 0))
		return "the kernel refuses io_uring: "
		       "see /proc/sys/kernel/io_uring_disabled";
	buffers = make_ring(&ring, 2, &ret);
	io_uring_queue_exit(&ring);
	free(buffers);
	return ret ? "this kernel's io_uring has no buffer rings" : NULL;
}

const struct arm many_uring_arm = {
	.name = "uds-uring-good",
	.modes = {
		[MODE_MANY_ONE] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_SOME] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_ALL] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
		[MODE_MANY_ZIPF] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),
	},
	.missing = many_uring_missing,
	.open = lines_open,
	.work = lines_work,
	.close = lines_close,
};
