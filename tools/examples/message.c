// SPDX-License-Identifier: MIT
/*
 * message: one process sends messages of any length, another receives them.
 *
 *	message receive			in one terminal
 *	message send TEXT...		in another
 *
 * Both meet at the socket "messages".  The receiver ends when its sender is gone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

static int receive(void)
{
	struct evering_listener *listener;
	struct evering_ops *ops;
	struct evering_msg msg;
	struct evering *ev;
	int ret;

	ret = evering_listen("messages", 0600, &listener);
	if (ret)
		return ret;
	ret = evering_accept(listener, NULL, EVERING_WAIT_FOREVER, &ev);
	evering_listener_close(listener);
	if (ret)
		return ret;
	ret = evering_ops_open(ev, NULL, &ops);
	while (!ret) {
		ret = evering_msg_recv(ops, &msg, EVERING_WAIT_FOREVER);
		if (ret)
			break;
		/* In place: in a copy of the entry, or in the sender's arena. */
		fwrite(msg.data, 1, msg.len, stdout);
		putchar('\n');
		ret = evering_msg_free(ops, &msg);
	}
	evering_close(ev);
	return ret == -EPIPE ? 0 : ret;
}

static int send_all(char **texts)
{
	struct evering_ops *ops;
	struct evering *ev;
	struct iovec iov;
	int ret;

	ret = evering_connect("messages", NULL, 5 * SECOND, &ev);
	if (ret)
		return ret;
	ret = evering_ops_open(ev, NULL, &ops);
	for (; !ret && *texts; texts++) {
		iov.iov_base = *texts;
		iov.iov_len = strlen(*texts);
		ret = evering_msg_send(ops, &iov, 1, 5 * SECOND);
	}
	/* The peer receives what was sent, although the sender is gone. */
	evering_close(ev);
	return ret;
}

int main(int argc, char **argv)
{
	int ret;

	if (argc == 2 && !strcmp(argv[1], "receive")) {
		ret = receive();
	} else if (argc > 2 && !strcmp(argv[1], "send")) {
		ret = send_all(argv + 2);
	} else {
		fputs("Usage: message receive\n       message send TEXT...\n",
		      stderr);
		return 2;
	}
	if (ret)
		fprintf(stderr, "message: %s\n", strerror(-ret));
	return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}
