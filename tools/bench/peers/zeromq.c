// SPDX-License-Identifier: MIT
/*
 * ZeroMQ: a PAIR socket on each side, over its ipc transport, a Unix socket that a
 * thread of the library serves.
 */
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

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
	.modes = WHOLE(EVERING_BLOCK),
	.open = zeromq_open,
	.work = zeromq_work,
	.close = zeromq_close,
};
