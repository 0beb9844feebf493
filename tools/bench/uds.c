// SPDX-License-Identifier: MIT
/*
 * Unix sockets: what is to be read and written next; uds.h describes the two ways.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "uds.h"

/* Read at once at the most; a larger frame goes in pieces of it. */
#define IN_SIZE ((size_t)256 << 10)

int uds_connect(struct side *s, int flags)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	/* The server listens with room for all, so this does not wait. */
	if (fd < 0 ||
	    connect(fd, (struct sockaddr *)&s->address, s->address_len))
		fail(s, "connect: %m");
	return fd;
}

int uds_accept(struct side *s, int flags)
{
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | flags);

	if (fd < 0)
		fail(s, "accept: %m");
	return fd;
}

static size_t body_size(const struct job *job)
{
	return job->mode < MODE_RTT ? job->size : message_size(job);
}

/* What arrived is right, or this does not return. */
static void check_body(struct side *s, const unsigned char *body,
		       uint32_t number)
{
	if (s->job->mode < MODE_RTT)
		check_payload(s, body);
	else
		check_message(s, body, message_size(s->job), number);
}

/* The originals send the same bytes each time; rtt numbers its messages. */
static void prepare_body(struct side *s, uint32_t number)
{
	if (s->job->mode >= MODE_RTT)
		write_message(s, s->source, message_size(s->job), number);
}

/* One connection for each client ------------------------------------------- */

static void put_head(struct conn *c, uint32_t word)
{
	word = htonl(word);
	memcpy(c->head, &word, sizeof(word));
}

static void begin_message(struct side *s, struct conn *c)
{
	put_head(c, s->server ? PONG : PING);
	if (!s->server)
		c->number++;
	prepare_body(s, c->number);
	c->phase = WRITE_HEAD;
}

void conn_init(struct side *s, struct conn *c, int fd)
{
	*c = (struct conn){ .fd = fd, .writable = true, .readable = true };
	c->body = malloc(s->job->size);
	if (!c->body)
		fail(s, "no memory for a body");
	c->phase = READ_HEAD;
	c->idle = !s->server;
}

void conn_load(struct side *s, struct conn *c, uint64_t ops)
{
	c->left = ops;
	c->idle = !ops;
	if (ops)
		begin_message(s, c);
}

struct iovec conn_next(struct side *s, struct conn *c)
{
	bool head = c->phase == READ_HEAD || c->phase == WRITE_HEAD;
	unsigned char *at = head		   ? c->head :
			    c->phase == WRITE_BODY ? s->source :
						     c->body;
	size_t size = head ? HEADER : body_size(s->job);

	return (struct iovec){ at + c->pos, size - c->pos };
}

static void check_head(struct side *s, const struct conn *c)
{
	uint32_t word;

	memcpy(&word, c->head, sizeof(word));
	if (ntohl(word) != (s->server ? PING : PONG))
		fail(s, "a header that was not sent");
}

bool conn_done(struct side *s, struct conn *c, size_t bytes)
{
	if (bytes < conn_next(s, c).iov_len) {
		c->pos += bytes;
		return false;
	}
	c->pos = 0;
	switch (c->phase) {
	case READ_HEAD:
		check_head(s, c);
		c->phase = READ_BODY;
		return false;
	case READ_BODY:
		if (s->server)
			c->number++;
		check_body(s, c->body, c->number);
		if (s->server) {
			begin_message(s, c);
			return false;
		}
		c->idle = !--c->left;
		if (!c->idle)
			begin_message(s, c);
		return true;
	case WRITE_HEAD:
		c->phase = WRITE_BODY;
		return false;
	default:
		c->phase = READ_HEAD;
		return s->server;
	}
}

/* One connection for all --------------------------------------------------- */

static size_t frame_size(const struct job *job)
{
	return sizeof(struct frame_head) + body_size(job);
}

void mux_init(struct side *s, struct mux *m, int fd)
{
	int room = 4 << 20; /* as much of it as the system lets us have */

	memset(m, 0, sizeof(*m));
	m->fd = fd;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	m->in_size = frame_size(s->job);
	if (m->in_size < IN_SIZE)
		m->in_size = IN_SIZE;
	m->in = malloc(m->in_size);
	if (!m->in)
		fail(s, "no memory for %zu bytes", m->in_size);
}

static void mux_put(struct side *s, struct mux *m, uint32_t client)
{
	uint32_t at = (m->out_first + m->out_count++) % MAX_DEPTH;

	m->out[at] = client;
	m->heads[at] =
		(struct frame_head){ htonl(s->server ? PONG : PING), client };
	if (s->job->mode >= MODE_RTT) {
		if (!s->server)
			m->number++;
		prepare_body(s, m->number);
	}
}

void mux_load(struct side *s, struct mux *m, uint64_t ops)
{
	uint32_t i;

	m->to_answer = ops;
	if (s->server)
		return;
	for (i = 0; i < s->job->depth; i++) {
		m->left[i] = message_ops(s->job, ops, i);
		if (m->left[i]) {
			m->in_flight++;
			mux_put(s, m, i);
		}
	}
}

bool mux_busy(const struct side *s, const struct mux *m)
{
	return s->server ? m->to_answer || m->out_count : m->in_flight;
}

int mux_output(struct side *s, struct mux *m, struct iovec iov[MUX_IOVECS])
{
	size_t skip = m->out_pos, body = body_size(s->job);
	int count = 0;
	uint32_t i, at;

	for (i = 0; i < m->out_count; i++) {
		at = (m->out_first + i) % MAX_DEPTH;
		if (skip < sizeof(m->heads[at])) {
			iov[count].iov_base = (char *)&m->heads[at] + skip;
			iov[count++].iov_len = sizeof(m->heads[at]) - skip;
			skip = 0;
		} else {
			skip -= sizeof(m->heads[at]);
		}
		iov[count].iov_base = s->source + skip;
		iov[count++].iov_len = body - skip;
		skip = 0;
	}
	return count;
}

void mux_sent(struct side *s, struct mux *m, size_t bytes)
{
	size_t frame = frame_size(s->job);

	m->out_pos += bytes;
	while (m->out_count && m->out_pos >= frame) {
		m->out_pos -= frame;
		m->out_first = (m->out_first + 1) % MAX_DEPTH;
		m->out_count--;
		if (s->server)
			m->to_answer--;
	}
}

struct iovec mux_room(struct side *s, struct mux *m)
{
	size_t frame = frame_size(s->job), want = m->in_size;

	/* A large body goes to its place at once, and nothing is moved. */
	if (frame > IN_SIZE / 4)
		want = frame;
	return (struct iovec){ m->in + m->in_len, want - m->in_len };
}

static void mux_take(struct side *s, struct mux *m, const unsigned char *frame)
{
	struct frame_head head;

	memcpy(&head, frame, sizeof(head));
	if (ntohl(head.word) != (s->server ? PING : PONG) ||
	    head.client >= s->job->depth)
		fail(s, "a header that was not sent");
	if (s->server && s->job->mode >= MODE_RTT)
		m->number++;
	check_body(s, frame + sizeof(head), m->number);
	if (s->server) {
		mux_put(s, m, head.client);
		return;
	}
	if (!m->left[head.client])
		fail(s, "a response without a request");
	if (--m->left[head.client])
		mux_put(s, m, head.client);
	else
		m->in_flight--;
}

void mux_came(struct side *s, struct mux *m, size_t bytes)
{
	size_t frame = frame_size(s->job), at = 0;

	m->in_len += bytes;
	for (; m->in_len - at >= frame; at += frame)
		mux_take(s, m, m->in + at);
	m->in_len -= at;
	if (at && m->in_len)
		memmove(m->in, m->in + at, m->in_len);
}
