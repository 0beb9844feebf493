// SPDX-License-Identifier: MIT
/*
 * cancel: what becomes of a request, and of the buffer lent with it, when the answer
 * comes late, is not wanted any more, or never comes.
 *
 * As long as the answer is due the peer may look at the buffer, whatever the asking
 * side has decided meanwhile.  So it is not free before the answer has come, or the
 * peer has gone, which the kernel tells.  Nothing leaks, and nothing is used twice.
 *
 * Run it, and read what it prints beside main().
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#define MS	((int64_t)1000000)
#define SECOND	(1000 * MS)

/* What the server can be asked for: all three would take it a minute. */
enum {
	JOB_STUBBORN = 1, /* once told, it is not done yet */
	JOB_POLITE = 2, /* once told, it answers */
	JOB_DEADLY = 3, /* the server dies of it */
};

static void check(int ret, const char *what, const char *remedy)
{
	if (ret >= 0)
		return;
	fflush(stdout);
	fprintf(stderr, "cancel: %s: %s; %s\n", what, strerror(-ret), remedy);
	/* _exit(): a forked child must not run what its parent has set up. */
	_exit(EXIT_FAILURE);
}

static void expect(bool holds, const char *what)
{
	if (holds)
		return;
	fflush(stdout);
	fprintf(stderr, "cancel: not so: %s; this is a bug: report it\n", what);
	_exit(EXIT_FAILURE);
}

/* -------------------------------------------------------------- the server */

/*
 * A job in pieces: between two of them it takes what arrives, and asks whether
 * anybody still waits for the answer.  A server that works in an event loop would be
 * told by the callback evering_ops_params.cancelled instead.
 */
static void work(struct evering_ops *ops, const struct evering_request *request)
{
	static const struct timespec late = { 0, 200 * MS };
	int32_t result = 0;
	int piece, ret = 0;

	if (request->opcode == JOB_DEADLY)
		_exit(EXIT_SUCCESS);
	for (piece = 0; piece < 6000 && ret != -EPIPE; piece++) {
		if (evering_op_cancelled(ops, request->id) == 1) {
			if (request->opcode == JOB_STUBBORN)
				nanosleep(&late, NULL);
			result = -ECANCELED;
			break;
		}
		ret = evering_ops_wait(ops, 10 * MS);
	}
	/* It has to be answered all the same: that is what ends the loan. */
	ret = evering_op_answer(ops, request->id, result, NULL, 0);
	if (ret != -EPIPE)
		check(ret, "answer", "did the client break the rules?");
}

static int serve(int fd)
{
	struct evering_request request;
	struct evering_ops *ops;
	struct evering *ev;
	int ret;

	ret = evering_accept_fd(fd, NULL, 5 * SECOND, &ev);
	check(ret, "server", "did the client fail?");
	check(evering_ops_open(ev, NULL, &ops), "server", "is memory short?");
	while (!(ret = evering_op_next(ops, &request, EVERING_WAIT_FOREVER)))
		work(ops, &request);
	evering_ops_close(ops);
	evering_close(ev);
	return ret == -EPIPE ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* -------------------------------------------------------------- the client */

struct client {
	struct evering *ev;
	struct evering_ops *ops;
	pid_t server;
};

/*
 * fork() comes before the channel: a forked process has none of its parent's.
 */
static void start(struct client *c)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	int fds[2];

	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) ?
		      -errno :
		      0,
	      "socketpair", "allow more descriptors with `ulimit -n`");
	fflush(stdout);
	c->server = fork();
	check(c->server < 0 ? -errno : 0, "fork",
	      "allow more processes with `ulimit -u`");
	if (!c->server) {
		close(fds[0]);
		_exit(serve(fds[1]));
	}
	close(fds[1]);
	check(evering_connect_fd(fds[0], &params, 5 * SECOND, &c->ev),
	      "connect", "is EVERING_BACKEND right, and is there memory?");
	check(evering_ops_open(c->ev, NULL, &c->ops), "open",
	      "is memory short?");
}

static void end(struct client *c)
{
	evering_ops_close(c->ops);
	evering_close(c->ev);
	waitpid(c->server, NULL, 0);
}

/* Asks for @job, lending a buffer that fills the arena: so it shows where it is. */
static uint64_t submit(struct client *c, uint32_t job, int64_t timeout_ns,
		       void **buf)
{
	struct evering_op op = { .opcode = job,
				 .flags = EVERING_LEND,
				 .timeout_ns = timeout_ns };
	struct evering_arena_state arena;
	uint64_t id;

	evering_get_arena(c->ev, EVERING_MINE, &arena);
	op.buf_len = arena.most;
	op.buf = evering_alloc(c->ev, op.buf_len, 0);
	expect(op.buf, "the arena is whole");
	memset(op.buf, 'x', op.buf_len);
	check(evering_op_submit(c->ops, &op, &id, 5 * SECOND), "submit",
	      "is the server there?");
	*buf = op.buf;
	return id;
}

static int32_t outcome(struct client *c, uint64_t id)
{
	struct evering_completion completion;

	check(evering_op_wait(c->ops, id, &completion, 30 * SECOND), "wait",
	      "is the server stopped?");
	printf("    outcome: %s\n", strerror(-completion.result));
	return completion.result;
}

/* The caller's again: it can be freed, which is done here. */
static void is_back(struct client *c, void *buf)
{
	expect(!evering_free(c->ev, buf), "the buffer is the caller's again");
	printf("    the buffer is ours again, and freed\n");
}

/* A time limit: the outcome comes in time, the buffer when the server is done. */
static void too_late(struct client *c)
{
	struct evering_ops_info info;
	uint64_t id;
	void *buf;
	int ret;

	printf("1. a request that may take 50 ms, and a server that is late\n");
	id = submit(c, JOB_STUBBORN, 50 * MS, &buf);
	expect(outcome(c, id) == -ETIMEDOUT, "it ran out of time");

	/*
	 * From here on the buffer is the library's, which frees it when it may:
	 * evering_free() is called only to show that it is refused.
	 */
	expect(evering_free(c->ev, buf) == -EBUSY, "the buffer is lent");
	expect(!evering_alloc(c->ev, 1, 0), "and the arena is full of it");
	printf("    the buffer is still lent: the server may be reading it\n");
	for (;;) {
		evering_ops_get_info(c->ops, &info);
		if (!info.abandoned)
			break;
		ret = evering_ops_wait(c->ops, 30 * SECOND);
		check(ret, "wait", "is the server stopped?");
	}
	buf = evering_alloc(c->ev, 1, 0);
	expect(buf && !evering_free(c->ev, buf), "the arena is whole again");
	printf("    the late answer has come: the buffer was freed with it\n");
}

/* A change of mind: the server is told, and may answer early. */
static void not_wanted(struct client *c)
{
	uint64_t id;
	void *buf;

	printf("2. a request that is cancelled, and a server that listens\n");
	id = submit(c, JOB_POLITE, 0, &buf);
	expect(evering_free(c->ev, buf) == -EBUSY, "the buffer is lent");
	check(evering_op_cancel(c->ops, id, EVERING_CANCEL_TELL), "cancel",
	      "report it");
	/*
	 * Without EVERING_CANCEL_DETACH the outcome waits for the answer, and so
	 * the buffer comes back with it.
	 */
	expect(outcome(c, id) == -ECANCELED, "it was cancelled");
	is_back(c, buf);
}

/* A death: the kernel tells, and everything comes back at once. */
static void never(struct client *c)
{
	uint64_t id;
	void *buf;

	printf("3. a request that the server dies of\n");
	id = submit(c, JOB_DEADLY, 0, &buf);
	expect(outcome(c, id) == -EPIPE, "the peer is gone");
	printf("    the server %s\n",
	       evering_peer(c->ev) == EVERING_PEER_DIED ? "died" : "closed");
	is_back(c, buf);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	static const char usage[] =
		"Usage: cancel\n"
		"\n"
		"Shows three requests that get no answer, or too late, and where the\n"
		"buffers lent with them are meanwhile.\n";
	struct client client;
	int option;

	option = getopt_long(argc, argv, "h", options, NULL);
	if (option == 'h') {
		fputs(usage, stdout);
		return EXIT_SUCCESS;
	}
	if (option != -1 || optind < argc) {
		fputs(usage, stderr);
		return 2;
	}

	setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
	start(&client);
	printf("over %s\n", evering_backend_name(client.ev));
	too_late(&client);
	not_wanted(&client);
	never(&client);
	end(&client);
	return EXIT_SUCCESS;
}
