/* SPDX-License-Identifier: MIT */
/*
 * drive.h: what the examples of event loops share: the requests, the command line, and
 * the client, which drives a server over many channels and checks every answer.  So the
 * file of a server shows only its event loop.  Numbers are uint64_t.  A server is one
 * file, which has
 *
 *	static int serve(const char *path, const char *file);
 *
 * and ends with LOOP_EXAMPLE(name, takes_file).
 *
 * A channel has a running total.  SUM adds up to five numbers to it and answers with
 * it.  So an answer shows whether every earlier request has arrived, once and in order.
 * BLOCK answers with a block of the server's file.
 */
#ifndef LOOPS_DRIVE_H
#define LOOPS_DRIVE_H

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)
#define PATIENCE (60 * SECOND) /* how long the client waits for the server */
#define TURN 4u /* requests of one channel in a turn */

enum {
	REQUEST_SUM =
		1, /* up to NUMBERS uint64_t; answer: the total, uint64_t */
	REQUEST_BLOCK =
		2, /* its number, uint64_t; answer: a buffer, or nothing */
};

#define NUMBERS 5u
#define DEPTH 32u /* requests of a channel in flight */
#define BLOCK ((uint64_t)4096)
#define ARENA ((uint64_t)65536) /* bytes, on the server's side of a channel */

static const char *loop_name;

/* ---------------------------------------------------------------- messages */

/* What the user can do about @error, or NULL. */
static const char *loop_remedy(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "is a server running, with the same --socket?";
	case -EADDRINUSE:
		return "stop the server there, or choose another --socket";
	case -EACCES:
		return "choose a --socket that this user may use";
	case -ENAMETOOLONG:
		return "choose a --socket of at most 107 bytes";
	case -ETIMEDOUT:
		return "is the server stopped?";
	case -EPIPE:
	case -ESHUTDOWN:
	case -ECONNRESET:
		return "the server is gone: start it again";
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return "does another program listen there?";
	case -EBADMSG:
		return "an answer is wrong: is it the same file? Else report it";
	case -ENODEV:
		return "load evering.ko, or set EVERING_BACKEND=memfd";
	case -EINVAL:
		return "EVERING_BACKEND has to be device, memfd or not set";
	case -ENOSYS:
	case -EPERM:
		return "this takes io_uring: see kernel.io_uring_disabled";
	case -EMFILE:
	case -ENFILE:
		return "allow more descriptors with `ulimit -n`";
	case -EDQUOT:
		return "raise the quotas of evering.ko, or have fewer channels";
	case -ENOMEM:
		return "have fewer channels, or raise `ulimit -l`";
	default:
		return NULL;
	}
}

static int loop_fail(const char *what, int error)
{
	const char *advice = loop_remedy(error);

	fprintf(stderr, "%s: %s: %s%s%s\n", loop_name, what, strerror(-error),
		advice ? "; " : "", advice ? advice : "");
	return EXIT_FAILURE;
}

/* On memfd a channel takes some descriptors, and 1024 are soon used up. */
static void more_descriptors(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* -------------------------------------------------------------- the server */

/*
 * What a server prints when it ends.  @longest measures fairness: the most requests
 * that one channel had answered while others waited for their turn.  In a round with a
 * single channel no other one waits.
 */
static struct {
	uint64_t requests;
	unsigned int channels;
	const void *last;
	unsigned int in_round; /* channels */
	unsigned int row;
	unsigned int longest;
} tally;

/* A round of the server begins. */
static void tally_round(void)
{
	if (tally.in_round < 2)
		tally.row = 0;
	tally.in_round = 0;
	tally.last = NULL;
}

static void tally_request(const void *who)
{
	static const void *before;

	tally.in_round += who != tally.last;
	tally.last = who;
	if (who != before)
		tally.row = 0;
	before = who;
	tally.requests++;
	if (++tally.row > tally.longest)
		tally.longest = tally.row;
}

static void tally_print(void)
{
	printf("%u channels, %llu requests, at most %u in a row\n",
	       tally.channels, (unsigned long long)tally.requests,
	       tally.longest);
}

/* Answers every request except REQUEST_BLOCK. */
static void server_answer(struct evering_ops *ops,
			  const struct evering_request *request,
			  uint64_t *total)
{
	uint64_t numbers[NUMBERS];
	unsigned int i;

	/* A client may send anything, so check everything. */
	if (request->flags == EVERING_GIVE)
		evering_free(evering_ops_endpoint(ops), request->buf);
	if (request->opcode != REQUEST_SUM || request->flags ||
	    request->len > sizeof(numbers) || request->len % sizeof(*numbers)) {
		evering_op_answer(ops, request->id, -EINVAL, NULL, 0);
		return;
	}
	if (request->len)
		memcpy(numbers, request->data, request->len);
	for (i = 0; i < request->len / sizeof(*numbers); i++)
		*total += numbers[i];
	/* This fails only if the client is gone, which is noticed elsewhere. */
	evering_op_answer(ops, request->id, 0, total, sizeof(*total));
}

static int server_opened(struct evering_client *client)
{
	client->user = calloc(1, sizeof(uint64_t));
	if (!client->user)
		return -ENOMEM;
	tally.channels++;
	return 0;
}

static void server_asked(struct evering_client *client,
			 const struct evering_request *request)
{
	tally_request(client);
	server_answer(client->ops, request, client->user);
}

/* A client that has closed the channel or was killed is normal; report the rest. */
static void server_lost(struct evering_client *client, int why)
{
	free(client->user);
	if (why != -EPIPE && why != -ESHUTDOWN)
		loop_fail("client", why);
}

/* The server goes on when a client ends and frees what is missing. */
static void server_full(struct evering_server *server, int error)
{
	(void)server;
	if (error)
		loop_fail("accept", error);
}

/*
 * The server, which is the same in all examples; they differ in the loop that runs it.
 */
static int server_open(const char *path, struct evering_server_params *params,
		       struct evering_server **server)
{
	struct evering_ops_params ops = EVERING_OPS_PARAMS_INIT;
	struct evering_params limits = EVERING_LIMITS_INIT;
	int ret;

	limits.entries = 256;
	limits.arena_size[EVERING_MINE] = ARENA;
	limits.arena_size[EVERING_PEERS] = 0;
	ops.depth = 0;
	ops.serve = DEPTH;
	params->limits = &limits;
	params->ops = &ops;
	params->budget = TURN;
	params->waiting = server_full;
	ret = evering_server_open(path, params, server);
	params->limits = NULL;
	params->ops = NULL;
	return ret;
}

static struct evering_server_params server_params(void)
{
	struct evering_server_params params = EVERING_SERVER_PARAMS_INIT;

	params.open = server_opened;
	params.request = server_asked;
	params.close = server_lost;
	return params;
}

/* A time for poll(2) and the like, rounded up. */
static inline int milliseconds(int64_t ns)
{
	if (ns < 0 || ns > 1000 * SECOND)
		return ns < 0 ? -1 : 1000000;
	return (int)((ns + 999999) / 1000000);
}

/* -------------------------------------------------------------- the client */

static struct {
	const char *path;
	const char *file;
	unsigned int channels;
	unsigned int processes;
	unsigned int rounds;
	bool hold;
} drive = { NULL, NULL, 100, 4, 20, false };

struct drive_channel {
	struct evering *ev;
	struct evering_ops *ops;
	uint64_t total; /* what the server should answer to the last request */
	unsigned int number;
	unsigned int sent;
	unsigned int ended;
	int error;
	int file;
};

/* Compares a block of the file with what the server has sent. */
static int drive_check_block(const struct drive_channel *c, uint64_t number,
			     const void *got, uint64_t len)
{
	char want[BLOCK];
	ssize_t n;

	n = pread(c->file, want, sizeof(want), (off_t)(number * BLOCK));
	if (n < 0)
		return -errno;
	if (len != (uint64_t)n || (n && memcmp(got, want, (size_t)n)))
		return -EBADMSG;
	return 0;
}

static void drive_done(struct evering_ops *ops,
		       const struct evering_completion *done)
{
	struct drive_channel *c = done->user;
	uint64_t total = 0;
	int error = 0;

	c->ended++;
	if (done->len == sizeof(total))
		memcpy(&total, done->data, sizeof(total));
	if (done->result < 0)
		error = done->result;
	else if (c->file >= 0)
		error = drive_check_block(c, done->ext, done->buf,
					  done->buf ? done->buf_len : 0);
	else if (total != done->ext)
		error = -EBADMSG;
	/* A given buffer returns with later requests. */
	if (done->buf)
		evering_free(evering_ops_endpoint(ops), done->buf);
	if (!c->error)
		c->error = error;
}

static int drive_submit(struct drive_channel *c)
{
	uint64_t numbers[NUMBERS] = { 0 };
	struct evering_op op = { .opcode = REQUEST_SUM, .data = numbers };
	unsigned int i, count = c->sent % (NUMBERS + 1);
	int ret;

	if (c->file >= 0) {
		op.opcode = REQUEST_BLOCK;
		numbers[0] = op.ext = (c->number * 7 + c->sent) % 64;
		count = 1;
	} else {
		for (i = 0; i < count; i++)
			numbers[i] = c->number * 1000003ull + c->sent + i;
		op.ext = c->total;
		for (i = 0; i < count; i++)
			op.ext += numbers[i];
	}
	op.len = count * (uint32_t)sizeof(*numbers);
	op.user = c;
	op.done = drive_done;
	ret = evering_op_submit(c->ops, &op, NULL, EVERING_NOWAIT);
	if (ret)
		return ret;
	c->total = op.ext;
	c->sent++;
	return 0;
}

static bool drive_finished(const struct drive_channel *c)
{
	return drive.rounds && c->ended == drive.rounds;
}

/*
 * Returns 0: it is armed, or finished; 1: there is more to do at once; or a negative
 * errno.
 */
static int drive_turn(struct drive_channel *c, struct pollfd *fd)
{
	int ret = 0;

	fd->fd = -1;
	if (drive_finished(c))
		return 0;
	while (!ret && (!drive.rounds || c->sent < drive.rounds))
		ret = drive_submit(c);
	if (ret && ret != -EAGAIN)
		return ret;
	ret = evering_ops_poll(c->ops);
	if (c->error)
		return c->error;
	if (!ret && !drive_finished(c)) {
		ret = evering_ops_arm(c->ops, &fd->events);
		fd->fd = evering_fd(c->ev);
		if (!ret && fd->fd < 0)
			return fd->fd;
	}
	return ret < 0 ? ret : ret > 0;
}

static int drive_run(struct drive_channel *c, struct pollfd *fds,
		     unsigned int count)
{
	bool more, finished = false;
	unsigned int i;
	int ret;

	while (!finished) {
		more = false;
		finished = true;
		for (i = 0; i < count; i++) {
			ret = drive_turn(&c[i], &fds[i]);
			if (ret < 0)
				return ret;
			more |= ret;
			finished &= drive_finished(&c[i]);
		}
		if (more || finished)
			continue;
		ret = poll(fds, count, (int)(PATIENCE / 1000000));
		if (ret <= 0 && (ret == 0 || errno != EINTR))
			return ret ? -errno : -ETIMEDOUT;
	}
	return 0;
}

static int drive_connect(struct drive_channel *c)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_ops_params ops_params = EVERING_OPS_PARAMS_INIT;
	int ret;

	params.entries = 4 * DEPTH;
	params.arena_size[EVERING_MINE] = 0;
	params.arena_size[EVERING_PEERS] = ARENA;
	ops_params.depth = DEPTH;
	ops_params.serve = 0;
	ret = evering_connect(drive.path, &params, PATIENCE, &c->ev);
	return ret ? ret : evering_ops_open(c->ev, &ops_params, &c->ops);
}

/* The work of one process: its share of the channels, all on this thread. */
static int drive_process(unsigned int process, int report)
{
	struct drive_channel *c = calloc(drive.channels, sizeof(*c));
	struct pollfd *fds = calloc(drive.channels, sizeof(*fds));
	unsigned int i, count = 0;
	int file = -1, ret = c && fds ? 0 : -ENOMEM;

	if (!ret && drive.file) {
		file = open(drive.file, O_RDONLY | O_CLOEXEC);
		if (file < 0) {
			ret = loop_fail(drive.file, -errno);
			goto free;
		}
	}
	for (i = process; i < drive.channels && !ret; i += drive.processes) {
		c[count].number = i;
		c[count].file = file;
		ret = drive_connect(&c[count++]);
	}
	if (!ret)
		ret = drive_run(c, fds, count);
	if (ret)
		loop_fail(drive.path, ret);
	else if (write(report, "", 1) != 1)
		ret = -errno;
	while (drive.hold && !ret)
		pause();
	for (i = 0; i < count; i++) {
		evering_ops_close(c[i].ops);
		evering_close(c[i].ev);
	}
	if (file >= 0)
		close(file);
free:
	free(fds);
	free(c);
	return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int drive_all(void)
{
	unsigned int i, right = 0;
	int report[2], status, failed = 0;
	char byte;

	if (drive.processes > drive.channels)
		drive.processes = drive.channels;
	if (pipe2(report, O_CLOEXEC))
		return loop_fail("pipe", -errno);
	/*
	 * fork() comes before the channels, because a child has none of its parent's
	 * channels.
	 */
	for (i = 0; i < drive.processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return loop_fail("fork", -errno);
		if (!pid) {
			close(report[0]);
			/* exit(3), so that a sanitizer sees leaks. */
			exit(drive_process(i, report[1]));
		}
	}
	close(report[1]);
	while (read(report[0], &byte, 1) == 1)
		if (++right == drive.processes)
			break;
	close(report[0]);
	if (right == drive.processes) {
		printf("%u channels, %u requests each, all right\n",
		       drive.channels, drive.rounds);
		fflush(stdout);
	}
	for (i = 0; i < drive.processes; i++)
		failed += wait(&status) < 0 || status;
	if (!failed)
		return EXIT_SUCCESS;
	fprintf(stderr, "%s: drive: %d of %u processes failed\n", loop_name,
		failed, drive.processes);
	return EXIT_FAILURE;
}

/* ------------------------------------------------------------ command line */

static void loop_usage(FILE *to, bool takes_file)
{
	fprintf(to, "Usage: %s [--socket=PATH] serve%s\n", loop_name,
		takes_file ? " [FILE]" : "");
	fprintf(to, "       %s [OPTION...] drive%s\n", loop_name,
		takes_file ? " [FILE]" : "");
	fputs("\n"
	      "serve answers the requests of many channels, on one thread, until\n"
	      "SIGINT or SIGTERM; drive makes the requests and checks the answers.\n",
	      to);
	if (takes_file)
		fputs("With FILE these are its blocks, else sums.\n", to);
	fputs("\n"
	      "  --socket=PATH    loop.socket; @NAME for the abstract name NAME\n"
	      "  --channels=N     how many channels (100)\n"
	      "  --processes=N    over how many processes they are spread (4)\n"
	      "  --rounds=N       requests on each channel (20); 0: without end\n"
	      "  --hold           keep the channels after the last answer\n",
	      to);
}

static unsigned int loop_number(const char *name, const char *text,
				unsigned int least, unsigned int most)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && value >= least &&
	    value <= most)
		return (unsigned int)value;
	fprintf(stderr, "%s: --%s=%s: must be %u..%u\n", loop_name, name, text,
		least, most);
	exit(2);
}

static int loop_main(int argc, char **argv, bool takes_file,
		     int (*serve)(const char *path, const char *file))
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "channels", required_argument, NULL, 'c' },
		{ "processes", required_argument, NULL, 'p' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "hold", no_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	drive.path = "loop.socket";
	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 's':
			drive.path = optarg;
			break;
		case 'c':
			drive.channels =
				loop_number("channels", optarg, 1, 10000);
			break;
		case 'p':
			drive.processes =
				loop_number("processes", optarg, 1, 1000);
			break;
		case 'r':
			drive.rounds =
				loop_number("rounds", optarg, 0, 1000000000);
			break;
		case 'o':
			drive.hold = true;
			break;
		case 'h':
			loop_usage(stdout, takes_file);
			return EXIT_SUCCESS;
		default:
			loop_usage(stderr, takes_file);
			return 2;
		}
	}
	argc -= optind;
	argv += optind;
	if (argc < 1 || argc > (takes_file ? 2 : 1) ||
	    (strcmp(argv[0], "serve") && strcmp(argv[0], "drive"))) {
		loop_usage(stderr, takes_file);
		return 2;
	}
	more_descriptors();
	drive.file = argc > 1 ? argv[1] : NULL;
	if (!strcmp(argv[0], "drive"))
		return drive_all();
	return serve(drive.path, drive.file);
}

#define LOOP_EXAMPLE(name, takes_file)                           \
	int main(int argc, char **argv)                          \
	{                                                        \
		loop_name = name;                                \
		return loop_main(argc, argv, takes_file, serve); \
	}

#endif /* LOOPS_DRIVE_H */
