// SPDX-License-Identifier: MIT
/*
 * json_client: sends its standard input, up to 1 MB, to json_server, and prints the
 * answer.
 */
#include <stdio.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

int main(int argc, char **argv)
{
	static char asked[1000000], json[1000000];
	struct iovec in = { asked, fread(asked, 1, sizeof(asked), stdin) };
	struct iovec out = { json, sizeof(json) };
	struct evering_completion answer;
	struct evering_ops *ops;
	struct evering *ev = NULL;
	int ret =
		evering_connect(argc > 1 ? argv[1] : "json", NULL, SECOND, &ev);

	if (!ret)
		ret = evering_ops_open(ev, NULL, &ops);
	if (!ret)
		ret = evering_op_callv(ops, 1, &in, 1, &out, 1, &answer,
				       SECOND);
	if (!ret)
		ret = answer.result;
	if (!ret)
		fwrite(json, 1, answer.buf_len, stdout);
	else
		fprintf(stderr, "json_client: %s\n", strerror(-ret));
	evering_close(ev);
	return ret != 0;
}
