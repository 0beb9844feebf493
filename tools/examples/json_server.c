// SPDX-License-Identifier: MIT
/*
 * json_server: answers each request, a JSON text of any length, with a JSON text that
 * contains it.
 *
 *	json_server [SOCKET]		in one terminal
 *	json_client [SOCKET] <x.json	in another
 *
 * It serves one client at a time; kv.c and loop_epoll.c serve many.
 */
#include <stdio.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

static int answer(struct evering_ops *ops)
{
	struct iovec json[3] = { { "{\"asked\":", 9 }, { 0 }, { "}", 1 } };
	struct evering_request request;
	uint64_t len;
	int ret = evering_op_next(ops, &request, EVERING_WAIT_FOREVER);

	if (ret)
		return ret;
	json[1].iov_base = (void *)evering_request_bytes(&request, &len);
	json[1].iov_len = len;
	return evering_op_answerv(ops, request.id, 0, json, 3, SECOND);
}

int main(int argc, char **argv)
{
	struct evering_listener *listener;
	struct evering_ops *ops;
	struct evering *ev;
	int ret = evering_listen(argc > 1 ? argv[1] : "json", 0600, &listener);

	while (!ret) {
		ret = evering_accept(listener, NULL, EVERING_WAIT_FOREVER, &ev);
		if (ret)
			break;
		if (!evering_ops_open(ev, NULL, &ops))
			while (!answer(ops))
				;
		evering_close(ev);
	}
	fprintf(stderr, "json_server: %s\n", strerror(-ret));
	return 1;
}
