// SPDX-License-Identifier: MIT
/*
 * nng: a pair socket on each side, over its ipc transport, a Unix socket that threads
 * of the library serve; relay: over TCP.
 */
#include <stdlib.h>

#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>

#include "messages.h"

static void check(struct side *s, const char *what, int ret)
{
	if (ret)
		fail(s, "%s: %s", what, nng_strerror(ret));
}

static void nng_arm_open(struct side *s)
{
	const char *address = common_address(s, "abstract://");
	int most = (int)message_window(s->job);
	nng_socket *socket = malloc(sizeof(*socket));

	if (!socket)
		fail(s, "no memory");
	check(s, "nng_pair0_open", nng_pair0_open(socket));
	check(s, "nng_socket_set",
	      nng_socket_set_int(*socket, NNG_OPT_SENDBUF, most));
	check(s, "nng_socket_set",
	      nng_socket_set_int(*socket, NNG_OPT_RECVBUF, most));
	check(s, "nng_socket_set",
	      nng_socket_set_size(*socket, NNG_OPT_RECVMAXSZ, 0));
	if (s->server)
		check(s, "nng_listen", nng_listen(*socket, address, NULL, 0));
	meet_other(s);
	if (!s->server)
		check(s, "nng_dial", nng_dial(*socket, address, NULL, 0));
	s->state = socket;
}

static void nng_out(struct side *s, const void *buf, size_t len)
{
	nng_socket *socket = s->state;

	check(s, "nng_send", nng_send(*socket, (void *)buf, len, 0));
}

static void nng_in(struct side *s, uint32_t number)
{
	nng_socket *socket = s->state;
	nng_msg *msg;

	check(s, "nng_recvmsg", nng_recvmsg(*socket, &msg, 0));
	read_message(s, nng_msg_body(msg), nng_msg_len(msg), number);
	nng_msg_free(msg);
}

static void nng_work(struct side *s, uint64_t ops)
{
	carry_messages(s, ops, nng_out, nng_in);
}

static void nng_arm_close(struct side *s)
{
	nng_socket *socket = s->state;

	meet_other(s);
	nng_close(*socket);
	free(socket);
}

const struct arm nng_arm = {
	.name = "nng",
	.modes = WHOLE_OR_TCP(EVERING_BLOCK),
	.open = nng_arm_open,
	.work = nng_work,
	.close = nng_arm_close,
};
