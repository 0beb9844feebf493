// SPDX-License-Identifier: MIT
/*
 * cancel: what happens to a request, and to the buffer lent with it, when the answer
 * comes late, is not wanted any more, or never comes.
 *
 * Until the answer comes the server may read the buffer, whatever the client has
 * decided meanwhile.  So the buffer is not free before the answer has come or the
 * server is gone, which the kernel reports.  No buffer leaks, and none is used twice.
 *
 * Run it, and read what it prints beside main().
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)
#define MS     ((int64_t)1000000)

/* What the client can ask for: each would take the server a minute. */
enum {
	JOB_STUBBORN = 1, /* when cancelled, the server still takes its time */
	JOB_POLITE = 2, /* when cancelled, the server answers */
	JOB_DEADLY = 3, /* the server dies */
};

static void check(int ret, const char *what, const char *remedy)
{
	if (ret >= 0)
		return;
	fflush(stdout);
	fprintf(stderr, "cancel: %s: %s; %s\n", what, strerror(-ret), remedy);
	/* _exit(), because a forked child must not run its parent's exit handlers. */
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

static void work(struct evering_client *client,
		 const struct evering_request *request)
{
	/* There is one request at a time, so only its opcode is kept. */
	client->user = (void *)(uintptr_t)request->opcode;
	if (request->opcode == JOB_DEADLY)
		_exit(EXIT_SUCCESS);
}

/* A cancelled request still has to be answered, because the answer ends the loan. */
static void on_cancelled(struct evering_client *client, uint64_t id, int why)
{
	static const struct timespec late = { 0, 200 * MS };

	if (client->user == (void *)JOB_STUBBORN)
		nanosleep(&late, NULL);
	evering_op_answer(client->ops, id, why, NULL, 0);
}

static void on_close(struct evering_client *client, int why)
{
	(void)why;
	evering_server_stop(client->server, EVERING_NOWAIT);
}

static int serve(int fd)
{
	struct evering_server_params params = EVERING_SERVER_PARAMS_INIT;
	struct evering_server *server;
	struct evering *ev;
	int ret;

	ret = evering_accept_fd(fd, NULL, 5 * SECOND, &ev);
	check(ret, "server", "did the client fail?");
	params.request = work;
	params.cancelled = on_cancelled;
	params.close = on_close;
	check(evering_server_open(NULL, &params, &server), "server",
	      "is memory short?");
	check(evering_server_add(server, ev, NULL), "server",
	      "is memory short?");
	do
		ret = evering_server_wait(server, EVERING_WAIT_FOREVER);
	while (ret >= 0 || ret == -EINTR);
	evering_server_close(server);
	return ret == -ESHUTDOWN ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* -------------------------------------------------------------- the client */

struct client {
	struct evering *ev;
	struct evering_ops *ops;
	pid_t server;
};

/*
 * fork() comes before the channel, because a child has none of its parent's channels.
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

/*
 * Asks for @job, and lends a buffer that fills the arena.  So evering_alloc() shows
 * whether the buffer is free.
 */
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

/* The buffer belongs to the caller again, so this can free it. */
static void is_back(struct client *c, void *buf)
{
	expect(!evering_free(c->ev, buf), "the buffer is the caller's again");
	printf("    the buffer is ours again, and freed\n");
}

/* A time limit: the outcome comes in time, the buffer when the server has finished. */
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
	 * From here on the buffer belongs to the library, which frees it when it may.
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

/* A cancellation: the server is informed, and may answer early. */
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
	 * Without EVERING_CANCEL_DETACH the outcome waits for the answer, so the buffer
	 * returns with it.
	 */
	expect(outcome(c, id) == -ECANCELED, "it was cancelled");
	is_back(c, buf);
}

/* A death: the kernel reports it, and everything returns at once. */
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
	static const char usage[] =
		"Usage: cancel\n"
		"\n"
		"Shows three requests that get no answer, or too late, and where the\n"
		"buffers lent with them are meanwhile.\n";
	struct client client;

	if (argc > 1) {
		bool help = argc == 2 && !strcmp(argv[1], "--help");

		fputs(usage, help ? stdout : stderr);
		return help ? EXIT_SUCCESS : 2;
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
