// SPDX-License-Identifier: MIT
/*
 * echo: the smallest server and client.  The server answers each request with its text.
 *
 *	echo serve			in one terminal
 *	echo ask hello 'and again'	in another
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

static const char usage[] = "Usage: echo [--socket=PATH] serve\n"
			    "       echo [--socket=PATH] ask TEXT...\n";
static const char *path = "echo.socket";
static struct evering_server *server;

static int fail(const char *what, int error)
{
	const char *advice = "";

	if (error == -ENOENT || error == -ECONNREFUSED)
		advice = "; is `echo serve` running, with the same --socket?";
	else if (error == -EADDRINUSE)
		advice = "; stop the server there, or choose another --socket";
	else if (error == -EMSGSIZE)
		advice = "; a TEXT has to fit an entry, which has 236 bytes";
	fprintf(stderr, "echo: %s: %s%s\n", what, strerror(-error), advice);
	return EXIT_FAILURE;
}

/* ---------------------------------------------------------------- the server */

static void answer(struct evering_client *client,
		   const struct evering_request *request)
{
	evering_op_answer(client->ops, request->id, 0, request->data,
			  request->len);
}

static void stop(int signal)
{
	(void)signal;
	evering_server_stop(server, SECOND);
}

static int serve(void)
{
	struct evering_server_params params = EVERING_SERVER_PARAMS_INIT;
	sigset_t none;
	int ret;

	params.request = answer;
	ret = evering_server_open(path, &params, &server);
	if (ret)
		return fail(path, ret);
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	/* The program that started this one may have blocked them. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	printf("listening at %s\n", path);
	fflush(stdout);
	do
		ret = evering_server_wait(server, EVERING_WAIT_FOREVER);
	while (ret >= 0 || ret == -EINTR);
	/* From here on there is no server for a signal to stop. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	evering_server_close(server);
	return ret == -ESHUTDOWN ? EXIT_SUCCESS : fail("wait", ret);
}

/* ---------------------------------------------------------------- the client */

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
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "socket", required_argument, NULL, 's' },
		{ 0 }
	};
	int option;

	while ((option = getopt_long(argc, argv, "+h", options, NULL)) == 's')
		path = optarg;
	argv += optind;
	if (option == -1 && argv[0] && !strcmp(argv[0], "serve") && !argv[1])
		return serve();
	if (option == -1 && argv[0] && !strcmp(argv[0], "ask") && argv[1])
		return ask_all(argv + 1);
	fputs(usage, option == 'h' ? stdout : stderr);
	return option == 'h' ? EXIT_SUCCESS : 2;
}
