// SPDX-License-Identifier: MIT
/*
 * ZeroMQ: a PAIR socket on each side, over its ipc transport, a Unix socket that a
 * thread of the library serves; relay: over TCP.
 *
 * Many channels: a DEALER socket for each on the client's side, and one ROUTER socket on
 * the server's, which says with each request whose it is.  A client's name is its number.
 */
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "../many.h"
#include "messages.h"

struct zeromq {
	void *context;
	void *socket;
};

static void check(struct side *s, const char *what, bool good)
{
	if (!good)
		fail(s, "%s: %s", what, zmq_strerror(zmq_errno()));
}

static void zeromq_open(struct side *s)
{
	struct zeromq *z = malloc(sizeof(*z));
	const char *address = common_address(s, "ipc://@");
	int most = (int)message_window(s->job);

	if (!z)
		fail(s, "no memory");
	z->context = zmq_ctx_new();
	check(s, "zmq_ctx_new", z->context);
	z->socket = zmq_socket(z->context, ZMQ_PAIR);
	check(s, "zmq_socket", z->socket);
	zmq_setsockopt(z->socket, ZMQ_SNDHWM, &most, sizeof(most));
	zmq_setsockopt(z->socket, ZMQ_RCVHWM, &most, sizeof(most));
	if (s->server)
		check(s, "zmq_bind", !zmq_bind(z->socket, address));
	else
		check(s, "zmq_connect", !zmq_connect(z->socket, address));
	s->state = z;
}

static void zeromq_out(struct side *s, const void *buf, size_t len)
{
	struct zeromq *z = s->state;

	check(s, "zmq_send", zmq_send(z->socket, buf, len, 0) == (int)len);
}

static void zeromq_in(struct side *s, uint32_t number)
{
	struct zeromq *z = s->state;
	zmq_msg_t msg;

	zmq_msg_init(&msg);
	check(s, "zmq_msg_recv", zmq_msg_recv(&msg, z->socket, 0) >= 0);
	read_message(s, zmq_msg_data(&msg), zmq_msg_size(&msg), number);
	zmq_msg_close(&msg);
}

static void zeromq_work(struct side *s, uint64_t ops)
{
	carry_messages(s, ops, zeromq_out, zeromq_in);
}

static void zeromq_close(struct side *s)
{
	struct zeromq *z = s->state;

	meet_other(s);
	zmq_close(z->socket);
	zmq_ctx_term(z->context);
	free(z);
}

const struct arm zeromq_arm = {
	.name = "zeromq",
	.modes = WHOLE_OR_TCP(EVERING_BLOCK),
	.open = zeromq_open,
	.work = zeromq_work,
	.close = zeromq_close,
};

/* Many channels ------------------------------------------------------------ */

/* The library's own, beside those of the program. */
#define OTHER_SOCKETS 16
/* Of a client's name. */
#define NAME_BYTES 3

struct post {
	struct crowd crowd;
	void *context;
	void *router; /* the server's */
	void **dealer; /* the client's */
};

static void *post_socket(struct side *s, struct post *p, int type)
{
	void *socket = zmq_socket(p->context, type);
	int linger = 0;

	check(s, "zmq_socket", socket);
	zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
	return socket;
}

static void post_connect(struct side *s, struct post *p)
{
	const char *address = common_address(s, "ipc://@");
	uint32_t i;

	p->dealer = calloc(p->crowd.channels, sizeof(*p->dealer));
	if (!p->dealer)
		fail(s, "no memory");
	for (i = 0; i < p->crowd.channels; i++) {
		/* Its first byte must not be zero. */
		const unsigned char name[NAME_BYTES] = {
			1, (unsigned char)i, (unsigned char)(i >> 8)
		};

		p->dealer[i] = post_socket(s, p, ZMQ_DEALER);
		zmq_setsockopt(p->dealer[i], ZMQ_ROUTING_ID, name,
			       sizeof(name));
		check(s, "zmq_connect", !zmq_connect(p->dealer[i], address));
	}
}

static void post_open(struct side *s)
{
	struct post *p = calloc(1, sizeof(*p));
	int most;

	if (!p)
		fail(s, "no memory");
	s->state = p;
	crowd_open(s, &p->crowd);
	p->context = zmq_ctx_new();
	check(s, "zmq_ctx_new", p->context);
	most = (int)p->crowd.channels + OTHER_SOCKETS;
	check(s, "ZMQ_MAX_SOCKETS",
	      !zmq_ctx_set(p->context, ZMQ_MAX_SOCKETS, most));
	if (!s->server) {
		meet_other(s);
		post_connect(s, p);
		return;
	}
	p->router = post_socket(s, p, ZMQ_ROUTER);
	check(s, "zmq_bind",
	      !zmq_bind(p->router, common_address(s, "ipc://@")));
	meet_other(s);
}

static void post_out(struct side *s, uint32_t which)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct post *p = s->state;

	many_write(&p->crowd, buf, which);
	check(s, "zmq_send",
	      zmq_send(p->dealer[which], buf, sizeof(buf), 0) == sizeof(buf));
}

static void post_in(struct side *s, uint32_t which)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	struct post *p = s->state;

	check(s, "zmq_recv",
	      zmq_recv(p->dealer[which], buf, sizeof(buf), 0) == sizeof(buf));
	many_answered(s, &p->crowd, buf, which);
}

static void post_serve(struct side *s, struct post *p, uint64_t ops)
{
	unsigned char buf[MANY_MESSAGE] __attribute__((aligned(16)));
	unsigned char name[NAME_BYTES];
	uint32_t which;

	for (; ops; ops--) {
		check(s, "zmq_recv",
		      zmq_recv(p->router, name, sizeof(name), 0) ==
			      sizeof(name));
		which = name[1] | (uint32_t)name[2] << 8;
		check(s, "zmq_recv",
		      zmq_recv(p->router, buf, sizeof(buf), 0) == sizeof(buf));
		if (which >= p->crowd.channels)
			fail(s, "an unknown client");
		many_serves(s, &p->crowd, buf, which);
		check(s, "zmq_send",
		      zmq_send(p->router, name, sizeof(name), ZMQ_SNDMORE) ==
			      sizeof(name));
		check(s, "zmq_send",
		      zmq_send(p->router, buf, sizeof(buf), 0) == sizeof(buf));
	}
}

static void post_work(struct side *s, uint64_t ops)
{
	struct post *p = s->state;

	if (s->server)
		post_serve(s, p, ops);
	else
		many_ask(s, &p->crowd, ops, post_out, post_in);
}

static void post_close(struct side *s)
{
	struct post *p = s->state;
	uint32_t i;

	meet_other(s);
	if (p->router)
		zmq_close(p->router);
	for (i = 0; p->dealer && i < p->crowd.channels; i++)
		zmq_close(p->dealer[i]);
	zmq_ctx_term(p->context);
	free(p->dealer);
	crowd_close(&p->crowd);
	free(p);
}

const struct arm zeromq_router_arm = {
	.name = "zeromq",
	.modes = {
		[MODE_MANY_ONE] = ONLY(EVERING_BLOCK),
		[MODE_MANY_SOME] = ONLY(EVERING_BLOCK),
		[MODE_MANY_ALL] = ONLY(EVERING_BLOCK),
		[MODE_MANY_ZIPF] = ONLY(EVERING_BLOCK),
	},
	.open = post_open,
	.work = post_work,
	.close = post_close,
};
