// SPDX-License-Identifier: MIT
/*
 * Arms: Unix sockets with io_uring, in the two ways of uds.h.
 *
 * original: as tokio-uring does it: each connection has one operation at a time;
 * headers are read into registered buffers, all else is a plain READ or WRITE; what
 * all connections have to do is submitted together when there is nothing else left.
 *
 * good: one connection, a registered file, one READ_FIXED into a large registered
 * buffer and one WRITEV of all frames that are due, submitted in the same call that
 * waits.
 *
 * Where the policy is busy the completion queue is looked at without sleeping.
 *
 * stream: original writes and reads header and body apart, one operation at a time;
 * good has up to 64 messages in a WRITE_FIXED, and writes those of the next while
 * the kernel copies the last, and reads as many as have come with READ_FIXED.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <liburing.h>

#include "uds.h"

#define ENTRIES 256u
#define BATCH 64u /* messages of a stream in a write */

enum {
	TAG_READ = 1,
	TAG_WRITE = 2
};

struct ring {
	struct io_uring uring;
	uint32_t count;
	uint64_t done;
	struct conn conns[MAX_DEPTH];
	struct mux mux;
	struct iovec out[MUX_IOVECS]; /* until the write is complete */
	bool reading, writing;
	unsigned char *batch[2]; /* stream; the second is good's alone */
	size_t have; /* bytes read that are still to be looked at */
	uint32_t number;
};

static bool good(const struct side *s)
{
	return s->arm->variant == UDS_GOOD;
}

static void start_ring(struct side *s, struct ring *r)
{
	unsigned int flags = 0;
	int ret = -EINVAL;

	/* Completions are then worked off in io_uring_enter() alone: no help there. */
#ifdef IORING_SETUP_DEFER_TASKRUN
	if (good(s) && s->job->policy != EVERING_BUSY)
		flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
#endif
	if (flags)
		ret = io_uring_queue_init(ENTRIES, &r->uring, flags);
	if (ret == -EINVAL)
		ret = io_uring_queue_init(ENTRIES, &r->uring, 0);
	if (ret)
		fail(s, "io_uring_setup: %s", strerror(-ret));
}

static void register_heads(struct side *s, struct ring *r)
{
	struct iovec heads[MAX_DEPTH];
	uint32_t i;
	int ret;

	for (i = 0; i < r->count; i++)
		heads[i] = (struct iovec){ r->conns[i].head, HEADER };
	ret = io_uring_register_buffers(&r->uring, heads, r->count);
	if (ret)
		fail(s, "io_uring_register (buffers): %s", strerror(-ret));
}

static void register_mux(struct side *s, struct ring *r)
{
	struct iovec in = { r->mux.in, r->mux.in_size };
	int ret = io_uring_register_buffers(&r->uring, &in, 1);

	if (!ret)
		ret = io_uring_register_files(&r->uring, &r->mux.fd, 1);
	if (ret)
		fail(s, "io_uring_register: %s%s", strerror(-ret),
		     ret == -ENOMEM ? " (raise it with 'ulimit -l')" : "");
}

static size_t frame_size(const struct side *s)
{
	return HEADER + message_size(s->job);
}

/* Large messages go one by one. */
static uint32_t batch_most(const struct side *s)
{
	return frame_size(s) > 4096 ? 1 : BATCH;
}

static void register_stream(struct side *s, struct ring *r, int fd)
{
	size_t size = batch_most(s) * frame_size(s);
	struct iovec batches[2];
	int i, ret;

	for (i = 0; i < 2; i++) {
		r->batch[i] = malloc(size);
		if (!r->batch[i])
			fail(s, "no memory for %zu bytes", size);
		batches[i] = (struct iovec){ r->batch[i], size };
	}
	ret = io_uring_register_buffers(&r->uring, batches, 2);
	if (!ret)
		ret = io_uring_register_files(&r->uring, &fd, 1);
	if (ret)
		fail(s, "io_uring_register: %s%s", strerror(-ret),
		     ret == -ENOMEM ? " (raise it with 'ulimit -l')" : "");
	close(fd);
}

static void uring_open(struct side *s)
{
	struct ring *r = calloc(1, sizeof(*r));
	uint32_t i;
	int fd;

	if (!r)
		fail(s, "no memory");
	s->state = r;
	start_ring(s, r);
	if (s->job->mode == MODE_STREAM) {
		fd = s->server ? uds_accept(s, 0) : uds_connect(s, 0);
		register_stream(s, r, fd);
		return;
	}
	r->count = good(s) ? 1 : s->job->depth;
	for (i = 0; i < r->count; i++) {
		fd = s->server ? uds_accept(s, 0) : uds_connect(s, 0);
		if (good(s))
			mux_init(s, &r->mux, fd);
		else
			conn_init(s, &r->conns[i], fd);
	}
	if (good(s))
		register_mux(s, r);
	else
		register_heads(s, r);
}

static struct io_uring_sqe *take_sqe(struct side *s, struct ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (!sqe)
		fail(s, "the submission queue is full");
	return sqe;
}

static void submit_and_wait(struct side *s, struct ring *r)
{
	struct io_uring_cqe *cqe;
	int ret;

	if (s->job->policy != EVERING_BUSY) {
		s->syscalls++;
		ret = io_uring_submit_and_wait(&r->uring, 1);
	} else {
		if (io_uring_sq_ready(&r->uring))
			s->syscalls++;
		ret = io_uring_submit(&r->uring);
		while (ret >= 0 && io_uring_peek_cqe(&r->uring, &cqe))
			relax();
	}
	if (ret < 0 && ret != -EINTR)
		fail(s, "io_uring_enter: %s", strerror(-ret));
}

static void conn_submit(struct side *s, struct ring *r, struct conn *c)
{
	struct io_uring_sqe *sqe = take_sqe(s, r);
	struct iovec at = conn_next(s, c);

	if (c->phase == READ_HEAD)
		io_uring_prep_read_fixed(sqe, c->fd, at.iov_base,
					 (unsigned int)at.iov_len, 0,
					 (int)(c - r->conns));
	else if (conn_reads(c))
		io_uring_prep_read(sqe, c->fd, at.iov_base,
				   (unsigned int)at.iov_len, 0);
	else
		io_uring_prep_write(sqe, c->fd, at.iov_base,
				    (unsigned int)at.iov_len, 0);
	io_uring_sqe_set_data(sqe, c);
}

static size_t result(struct side *s, const struct io_uring_cqe *cqe)
{
	if (cqe->res <= 0)
		fail(s, "a socket: %s",
		     cqe->res ? strerror(-cqe->res) : "the other side is gone");
	return (size_t)cqe->res;
}

/*
 * The server has a read under way on each connection when this returns, which the
 * next call goes on with.
 */
static void conns_work(struct side *s, uint64_t ops)
{
	struct ring *r = s->state;
	int64_t at = probe_start(s);
	struct io_uring_cqe *cqe;
	struct conn *c;
	uint64_t done = 0;
	unsigned int head, seen;
	uint32_t i;

	for (i = 0; i < r->count; i++) {
		c = &r->conns[i];
		if (!s->server)
			conn_load(s, c, message_ops(s->job, ops, i));
		if (!c->idle && !(s->server && r->reading))
			conn_submit(s, r, c);
	}
	r->reading = true;
	while (done < ops) {
		submit_and_wait(s, r);
		seen = 0;
		io_uring_for_each_cqe(&r->uring, head, cqe)
		{
			seen++;
			c = io_uring_cqe_get_data(cqe);
			if (conn_done(s, c, result(s, cqe))) {
				done++;
				at = probe_lap(s, at);
			}
			if (!c->idle)
				conn_submit(s, r, c);
			/* What comes now is for the next call, or the end. */
			if (done == ops)
				break;
		}
		io_uring_cq_advance(&r->uring, seen);
	}
	/* Else what was last prepared would wait for the next call. */
	if (io_uring_sq_ready(&r->uring))
		s->syscalls++;
	io_uring_submit(&r->uring);
}

static void mux_submit(struct side *s, struct ring *r)
{
	struct io_uring_sqe *sqe;
	struct iovec room;
	int count = 0;

	if (!r->writing)
		count = mux_output(s, &r->mux, r->out);
	if (count) {
		sqe = take_sqe(s, r);
		io_uring_prep_writev(sqe, 0, r->out, (unsigned int)count, 0);
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
		io_uring_sqe_set_data64(sqe, TAG_WRITE);
		r->writing = true;
	}
	if (!r->reading) {
		sqe = take_sqe(s, r);
		room = mux_room(s, &r->mux);
		io_uring_prep_read_fixed(sqe, 0, room.iov_base,
					 (unsigned int)room.iov_len, 0, 0);
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
		io_uring_sqe_set_data64(sqe, TAG_READ);
		r->reading = true;
	}
}

static void mux_work(struct side *s, uint64_t ops)
{
	struct ring *r = s->state;
	int64_t at = probe_start(s);
	struct io_uring_cqe *cqe;
	unsigned int head, seen;

	mux_load(s, &r->mux, ops);
	while (mux_busy(s, &r->mux)) {
		mux_submit(s, r);
		submit_and_wait(s, r);
		seen = 0;
		io_uring_for_each_cqe(&r->uring, head, cqe)
		{
			if (!mux_busy(s, &r->mux))
				break;
			seen++;
			if (io_uring_cqe_get_data64(cqe) == TAG_WRITE) {
				r->writing = false;
				mux_sent(s, &r->mux, result(s, cqe));
			} else {
				r->reading = false;
				mux_came(s, &r->mux, result(s, cqe));
			}
		}
		io_uring_cq_advance(&r->uring, seen);
	}
	if (s->probe)
		probe_lap(s, at);
}

/* Begins to read or write @len bytes at @pos of a batch. */
static void stream_begin(struct side *s, struct ring *r, unsigned int which,
			 size_t pos, size_t len)
{
	struct io_uring_sqe *sqe = take_sqe(s, r);
	unsigned char *at = r->batch[which] + pos;
	bool fixed = good(s);

	if (s->server && fixed)
		io_uring_prep_read_fixed(sqe, 0, at, (unsigned int)len, 0,
					 (int)which);
	else if (s->server)
		io_uring_prep_read(sqe, 0, at, (unsigned int)len, 0);
	else if (fixed)
		io_uring_prep_write_fixed(sqe, 0, at, (unsigned int)len, 0,
					  (int)which);
	else
		io_uring_prep_write(sqe, 0, at, (unsigned int)len, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}

/* Waits for what was begun; how many bytes that were. */
static size_t stream_end(struct side *s, struct ring *r)
{
	struct io_uring_cqe *cqe;
	size_t n;

	while (io_uring_peek_cqe(&r->uring, &cqe))
		submit_and_wait(s, r);
	n = result(s, cqe);
	io_uring_cqe_seen(&r->uring, cqe);
	return n;
}

/* All of a part of the first batch, however many operations that takes. */
static void stream_all(struct side *s, struct ring *r, size_t pos, size_t len)
{
	size_t n;

	for (; len; pos += n, len -= n) {
		stream_begin(s, r, 0, pos, len);
		n = stream_end(s, r);
	}
}

static void stream_apart(struct side *s, struct ring *r, uint64_t ops)
{
	unsigned char *head = r->batch[0], *body = head + HEADER;
	size_t len = message_size(s->job);

	for (; ops; ops--, r->number++) {
		if (!s->server) {
			memcpy(head, &r->number, HEADER);
			write_message(s, body, len, r->number);
		}
		stream_all(s, r, 0, HEADER);
		stream_all(s, r, HEADER, len);
		if (s->server)
			check_message(s, body, len, r->number);
	}
}

static size_t fill_batch(struct side *s, unsigned char *at, uint32_t number,
			 uint64_t count)
{
	size_t frame = frame_size(s);
	uint64_t i;

	for (i = 0; i < count; i++, at += frame) {
		memset(at, 0, HEADER);
		write_message(s, at + HEADER, frame - HEADER,
			      number + (uint32_t)i);
	}
	return frame * count;
}

static void stream_out(struct side *s, struct ring *r, uint64_t ops)
{
	unsigned int which = 0;
	size_t left = 0, pos = 0, len;
	uint64_t count;

	while (ops || left) {
		count = ops < batch_most(s) ? ops : batch_most(s);
		len = fill_batch(s, r->batch[which], r->number, count);
		r->number += (uint32_t)count;
		ops -= count;
		/* What is written in between is out of order: one at a time. */
		while (left) {
			size_t n = stream_end(s, r);

			left -= n;
			pos += n;
			if (left)
				stream_begin(s, r, !which, pos, left);
		}
		left = len;
		pos = 0;
		if (left)
			stream_begin(s, r, which, 0, left);
		/* The kernel copies as far as there is room, and goes on alone. */
		io_uring_submit(&r->uring);
		s->syscalls++;
		which = !which;
	}
}

static void stream_in(struct side *s, struct ring *r, uint64_t ops)
{
	size_t frame = frame_size(s), most = batch_most(s) * frame, at;

	while (ops) {
		stream_begin(s, r, 0, r->have, most - r->have);
		r->have += stream_end(s, r);
		for (at = 0; ops && r->have - at >= frame; at += frame, ops--)
			check_message(s, r->batch[0] + at + HEADER,
				      frame - HEADER, r->number++);
		r->have -= at;
		memmove(r->batch[0], r->batch[0] + at, r->have);
	}
}

static void stream_work(struct side *s, uint64_t ops)
{
	struct ring *r = s->state;

	if (!good(s))
		stream_apart(s, r, ops);
	else if (s->server)
		stream_in(s, r, ops);
	else
		stream_out(s, r, ops);
}

/* Depth 1: a call of mux_work() for each, so that each can be timed. */
static void uring_work(struct side *s, uint64_t ops)
{
	if (s->job->mode == MODE_STREAM) {
		stream_work(s, ops);
		return;
	}
	if (!good(s)) {
		conns_work(s, ops);
		return;
	}
	if (!s->probe) {
		mux_work(s, ops);
		return;
	}
	while (ops--)
		mux_work(s, 1);
}

static void uring_close(struct side *s)
{
	struct ring *r = s->state;
	uint32_t i;

	io_uring_queue_exit(&r->uring);
	for (i = 0; i < r->count; i++) {
		if (r->conns[i].body)
			close(r->conns[i].fd);
		free(r->conns[i].body);
	}
	if (r->mux.in)
		close(r->mux.fd);
	free(r->mux.in);
	free(r->batch[0]);
	free(r->batch[1]);
	free(r);
}

static const char *uring_missing(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0))
		return "the kernel refuses io_uring: "
		       "see /proc/sys/kernel/io_uring_disabled";
	io_uring_queue_exit(&ring);
	return NULL;
}

#define URING_MODES                                                            \
	{                                                                      \
		[MODE_ORIGINAL] = ONLY(EVERING_BLOCK),                         \
		[MODE_FAIR] = ONLY(EVERING_BLOCK),                             \
		[MODE_RTT] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),         \
		[MODE_STREAM] = ONLY(EVERING_BLOCK) | ONLY(EVERING_BUSY),      \
	}

const struct arm uring_original_arm = {
	.name = "uds-uring",
	.modes = URING_MODES,
	.variant = UDS_ORIGINAL,
	.missing = uring_missing,
	.open = uring_open,
	.work = uring_work,
	.close = uring_close,
};

const struct arm uring_good_arm = {
	.name = "uds-uring-good",
	.modes = URING_MODES,
	.variant = UDS_GOOD,
	.missing = uring_missing,
	.open = uring_open,
	.work = uring_work,
	.close = uring_close,
};
