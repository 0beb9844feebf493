// SPDX-License-Identifier: MIT
/*
 * echo: the smallest pair.  One process asks, another answers all that ask.
 *	echo serve	in one terminal; in another: echo ask hello 'and again'
 */
#include "example.h"

static const char usage[] = "Usage: echo [--socket=PATH] serve\n"
			    "       echo [--socket=PATH] ask TEXT...\n";
static const char *path = "echo.socket";

static void answer(struct evering_client *client,
		   const struct evering_request *request)
{
	evering_op_answer(client->ops, request->id, 0, request->data,
			  request->len);
}

static int serve(void)
{
	struct evering_server_params params = EVERING_SERVER_PARAMS_INIT;
	struct evering_server *server;
	int ret;

	params.request = answer;
	ret = evering_server_open(path, &params, &server);
	if (ret)
		return fail(path, ret);
	begin_serving(server, "listening at", path);
	do
		ret = evering_server_wait(server, EVERING_WAIT_FOREVER);
	while (ret >= 0 || ret == -EINTR);
	end_serving(server);
	return ret == -ESHUTDOWN ? EXIT_SUCCESS : fail("wait", ret);
}

static int ask(struct evering_ops *ops, const char *text)
{
	struct evering_op op = { .data = text, .len = (uint32_t)strlen(text) };
	struct evering_completion echo;
	int ret = evering_op_call(ops, &op, &echo, 5 * SECOND);

	if (ret || echo.result)
		return ret ? ret : echo.result;
	printf("%.*s\n", (int)echo.len, (const char *)echo.data);
	return fflush(stdout) ? -errno : 0;
}

static int ask_all(char **texts)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_ops *ops = NULL;
	struct evering *ev;
	int ret;

	params.slot_size = EVERING_MAX_SLOT;
	ret = evering_connect(path, &params, 5 * SECOND, &ev);
	if (ret)
		return fail(path, ret);
	fprintf(stderr, "echo: over %s\n", evering_backend_name(ev));
	ret = evering_ops_open(ev, NULL, &ops);
	while (!ret && *texts)
		ret = ask(ops, *texts++);
	evering_ops_close(ops);
	evering_close(ev);
	return ret ? fail("ask", ret) : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	const struct setting settings[] = { { "socket", .text = &path },
					    { 0 } };

	argv = read_options(argc, argv, usage, settings);
	if (argv[0] && !strcmp(argv[0], "serve") && !argv[1])
		return serve();
	if (argv[0] && !strcmp(argv[0], "ask") && argv[1])
		return ask_all(argv + 1);
	return bad_usage(usage);
}
