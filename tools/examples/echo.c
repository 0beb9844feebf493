// SPDX-License-Identifier: MIT
/*
 * echo: the smallest pair that there is.  One process asks, another answers.
 *
 *	echo serve			in one terminal
 *	echo ask hello 'and again'	in another
 *
 * The server has one client at a time, and what goes in an entry goes no further:
 * kv.c serves many at once, and sends what is larger in buffers.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

static const char *path = "echo.socket";
static volatile sig_atomic_t stop;

static void on_signal(int signal)
{
	(void)signal;
	stop = 1;
}

/* What who sees @error can do about it. */
static const char *remedy(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "is `echo serve` running, with the same --socket?";
	case -EADDRINUSE:
		return "stop who listens there, or choose another --socket";
	case -EACCES:
		return "choose a --socket that this user may use";
	case -ENAMETOOLONG:
		return "choose a --socket of at most 107 bytes";
	case -EMSGSIZE:
		return "a TEXT has to fit an entry, which is 236 bytes";
	case -ETIMEDOUT:
		return "the server has another client, or is stopped";
	case -EPIPE:
		return "the other side is gone: start it again";
	case -EPROTO:
		return "the other side does not speak evering";
	case -ENODEV:
		return "load evering.ko, or set EVERING_BACKEND=memfd";
	case -EINVAL:
		return "EVERING_BACKEND has to be device, memfd or not set";
	case -EMFILE:
		return "allow more descriptors with `ulimit -n`";
	default:
		return NULL;
	}
}

static int fail(const char *what, int error)
{
	const char *advice = remedy(error);

	fprintf(stderr, "echo: %s: %s%s%s\n", what, strerror(-error),
		advice ? "; " : "", advice ? advice : "");
	return EXIT_FAILURE;
}

/* -------------------------------------------------------------- the server */

static int answer(struct evering_ops *ops)
{
	struct evering_request request;
	int ret;

	ret = evering_op_next(ops, &request, SECOND);
	if (!ret)
		ret = evering_op_answer(ops, request.id, 0, request.data,
					request.len);
	return ret;
}

/* Until the client has gone, which is no error. */
static int serve_client(struct evering *ev)
{
	struct evering_ops *ops;
	int ret;

	ret = evering_ops_open(ev, NULL, &ops);
	if (ret)
		return ret;
	do {
		/*
		 * A signal ends a sleep, but not the spinning before it: that is
		 * why this waits for a second at a time.
		 */
		ret = answer(ops);
	} while (!stop && (!ret || ret == -ETIMEDOUT || ret == -EINTR));
	evering_ops_close(ops);
	return ret == -EPIPE || stop ? 0 : ret;
}

static int serve(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct evering_listener *listener;
	struct evering *ev;
	sigset_t none;
	int ret;

	/* Else the socket file would stay behind. */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	/* They may have been blocked when this was started. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);

	ret = evering_listen(path, 0600, &listener);
	if (ret)
		return fail(path, ret);
	printf("listening at %s\n", path);
	fflush(stdout);
	while (!stop) {
		ret = evering_accept(listener, NULL, SECOND, &ev);
		if (ret == -ETIMEDOUT || ret == -EINTR)
			continue;
		if (ret)
			break;
		printf("a client, over %s\n", evering_backend_name(ev));
		fflush(stdout);
		ret = serve_client(ev);
		evering_close(ev);
		/* What a client does wrong is no reason to go. */
		if (ret)
			fail("client", ret);
	}
	evering_listener_close(listener);
	return stop ? EXIT_SUCCESS : fail("accept", ret);
}

/* -------------------------------------------------------------- the client */

/*
 * What evering_op_call() returns says whether it could be asked; the result is the
 * server's, or says why there is no answer.
 */
static int ask(struct evering_ops *ops, const char *text)
{
	struct evering_op op = { .data = text, .len = (uint32_t)strlen(text) };
	struct evering_completion echo;
	int ret;

	ret = evering_op_call(ops, &op, &echo, 5 * SECOND);
	if (!ret)
		ret = echo.result;
	if (!ret)
		printf("%.*s\n", (int)echo.len,
		       echo.len ? (const char *)echo.data : "");
	return ret;
}

static int ask_all(char **texts)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_ops *ops = NULL;
	struct evering *ev;
	int ret;

	/* Whoever connects chooses: the largest slots, and no arenas. */
	params.slot_size = EVERING_MAX_SLOT;
	params.arena_size[EVERING_MINE] = 0;
	params.arena_size[EVERING_PEERS] = 0;
	ret = evering_connect(path, &params, 5 * SECOND, &ev);
	if (ret)
		return fail(path, ret);
	fprintf(stderr, "echo: over %s\n", evering_backend_name(ev));
	ret = evering_ops_open(ev, NULL, &ops);
	while (!ret && *texts)
		ret = ask(ops, *texts++);
	evering_ops_close(ops);
	evering_close(ev);
	if (!ret && fflush(stdout))
		ret = -errno;
	return ret ? fail("ask", ret) : EXIT_SUCCESS;
}

/* -------------------------------------------------------------------- both */

static void usage(FILE *to)
{
	fputs("Usage: echo [--socket=PATH] serve\n"
	      "       echo [--socket=PATH] ask TEXT...\n"
	      "\n"
	      "serve answers each request with what came with it, until SIGINT or\n"
	      "SIGTERM; ask prints the answers.  PATH is echo.socket, or @NAME for\n"
	      "the abstract name NAME.\n",
	      to);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 's':
			path = optarg;
			break;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		default:
			usage(stderr);
			return 2;
		}
	}
	argc -= optind;
	argv += optind;
	if (argc == 1 && !strcmp(argv[0], "serve"))
		return serve();
	if (argc > 1 && !strcmp(argv[0], "ask"))
		return ask_all(argv + 1);
	usage(stderr);
	return 2;
}
