// SPDX-License-Identifier: MIT
/*
 * evering pipe: standard input through a channel to another process, and what that
 * one sends to standard output.
 *
 * Each side's arena is cut into as many chunks as a ring has entries, and entry n
 * stands for chunk n modulo that.  So whoever may write the entry may fill the chunk,
 * and whoever releases the entry gives the chunk back: the ring's own flow control is
 * all that is needed.  Bytes are read straight into the arena and written straight
 * from the peer's.
 *
 * Two threads, as the library's rule has it: one reads and sends, the first receives
 * and writes, so that neither direction waits for the other.
 *
 *	HELLO	the first entry: both are `evering pipe`, of this version
 *	DATA	a chunk
 *	END	standard input has ended, or ABORT: it cannot be read any further
 *	DONE	after END: everything that the peer sent is written
 *
 * Who has sent and received DONE knows that all is well on both sides.  Who closes
 * the channel earlier, or dies, leaves the other to say so.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#include "process.h"
#include "util.h"

/* Little enough for the second-level cache of most machines. */
#define CHUNKS 16u
#define CHUNK (64u << 10)
#define MAX_CHUNK (16u << 20)

#define HELLO_MAGIC 0x01707665u /* "evp", version 1 */

enum entry_type {
	HELLO = 1,
	DATA,
	END,
	ABORT,
	DONE,
};

struct entry {
	uint32_t type;
	uint32_t len; /* DATA: bytes; HELLO: HELLO_MAGIC */
};

_Static_assert(sizeof(struct entry) <= EVERING_MIN_SLOT - EVERING_STAMP_SIZE,
	       "fits into every slot");

enum {
	EXIT_CLOSED = 3, /* the other side closed the channel too early */
	EXIT_DIED = 4,
};

/* How long it takes to notice what a signal or the other thread has said. */
#define TICK_NS 50000000

struct pipe_options {
	struct evering_params params;
	const char *listen;
	const char *connect;
	int64_t timeout_ns; /* negative: without end */
	bool one_way;
	bool json;
};

struct relay {
	const struct pipe_options *o;
	struct evering *ev;
	unsigned char *arena; /* of this side's chunks; NULL: there are none */
	uint32_t chunk; /* bytes of each */
	uint32_t peer_chunk;
	uint32_t entries;

	pthread_t sender;
	atomic_bool finish; /* sender: as if standard input had ended */
	atomic_bool stop; /* sender: leave at once */
	sem_t delivered; /* all that the peer sent is written, or stop */
	atomic_int
		sender_status; /* not 0: input was cut off, and the peer told */
	int64_t start_ns;
	uint64_t sent;
	uint64_t received;
};

static int failed(const char *what, int err)
{
	complain("%s: %s", what, strerror(err));
	return EXIT_FAILURE;
}

/* The channel has ended before its work was done. */
static int channel_failed(struct relay *r, int err)
{
	/* This side's fault, and it has said so. */
	if (r->sender_status)
		return r->sender_status;
	if (err != -EPIPE) {
		complain_error("the channel", NULL, err);
		return EXIT_FAILURE;
	}
	if (evering_peer(r->ev) == EVERING_PEER_DIED) {
		complain("the other side died before everything was delivered");
		return EXIT_DIED;
	}
	complain(
		"the other side closed the channel before everything was delivered");
	return EXIT_CLOSED;
}

/* Sending ---------------------------------------------------------------- */

/* Waits for room for an entry; 0 or a negative errno, -ECANCELED: to stop. */
static int wait_room(struct relay *r)
{
	int ret;

	while (!evering_reserve(r->ev)) {
		if (r->stop)
			return -ECANCELED;
		ret = evering_wait(r->ev, EVERING_TX, EVERING_WAIT_FOREVER);
		if (ret < 0 && ret != -EINTR)
			return ret;
	}
	return 0;
}

static int send_entry(struct relay *r, uint32_t type, uint32_t len)
{
	const struct entry entry = { .type = type, .len = len };
	int ret = wait_room(r);

	if (ret)
		return ret;
	memcpy(evering_reserve(r->ev), &entry, sizeof(entry));
	evering_commit(r->ev);
	evering_flush(r->ev);
	return 0;
}

/*
 * Waits for input as well as for the end of the channel: who sends nothing still
 * has to learn that there is nobody to send to.  That is the receiving thread's to
 * notice, which then stops this one.
 */
static ssize_t read_input(struct relay *r, unsigned char *to)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	ssize_t n;

	while (!r->stop && !r->finish) {
		n = read(STDIN_FILENO, to, r->chunk);
		if (n >= 0)
			return n;
		if (errno == EAGAIN)
			poll(&input, 1, -1); /* somebody made it so */
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* Standard input, to its end. */
static int send_input(struct relay *r)
{
	uint32_t n = 1; /* 0 was HELLO */
	ssize_t got;
	int ret;

	for (;; n++) {
		ret = wait_room(r);
		if (ret)
			return ret;
		got = read_input(r, r->arena + (size_t)(n % r->entries) *
						       r->chunk);
		if (got <= 0)
			break;
		ret = send_entry(r, DATA, (uint32_t)got);
		if (ret)
			return ret;
		r->sent += (uint64_t)got;
	}
	if (got < 0) {
		r->sender_status = failed("standard input", (int)-got);
		return send_entry(r, ABORT, 0);
	}
	return send_entry(r, END, 0);
}

static void *send_all(void *arg)
{
	struct relay *r = arg;
	int ret;

	ret = send_entry(r, HELLO, HELLO_MAGIC);
	if (!ret && r->arena)
		ret = send_input(r);
	else if (!ret)
		ret = send_entry(r, END, 0);
	while (!ret && sem_wait(&r->delivered) && !r->stop)
		;
	if (!ret && !r->stop)
		send_entry(r, DONE, 0);
	/* Where the channel has ended the receiving thread says so. */
	return NULL;
}

static void wake_up(int sig)
{
	(void)sig;
}

/*
 * Gets the sender out of whatever it waits in.  A signal may come before it waits, so
 * more than one may be needed.
 */
static void join_sender(struct relay *r)
{
	struct timespec until;

	sem_post(&r->delivered);
	for (;;) {
		pthread_kill(r->sender, SIGUSR1);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 10000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		if (!pthread_timedjoin_np(r->sender, NULL, &until))
			return;
	}
}

/* Receiving -------------------------------------------------------------- */

static int write_output(const unsigned char *from, size_t len)
{
	struct pollfd writable = { .fd = STDOUT_FILENO, .events = POLLOUT };
	ssize_t n;

	while (len) {
		n = write(STDOUT_FILENO, from, len);
		if (n >= 0) {
			from += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			poll(&writable, 1, -1);
		} else if (errno != EINTR) {
			return errno;
		}
	}
	return 0;
}

static int broken(const char *why)
{
	complain("the other side broke the protocol: %s; is it 'evering pipe'?",
		 why);
	return EXIT_FAILURE;
}

/* Number @n; status, or -1 to go on. */
static int take_data(struct relay *r, uint32_t n, uint32_t len)
{
	const void *data;
	int err;

	if (!len || len > r->peer_chunk)
		return broken("a chunk of an impossible length");
	data = evering_peer_buffer(
		r->ev, (uint64_t)(n % r->entries) * r->peer_chunk, len);
	if (!data)
		return broken("a chunk outside its arena");
	err = write_output(data, len);
	if (err == EPIPE)
		return 128 + SIGPIPE; /* as any command in its place: quietly */
	if (err)
		return failed("standard output", err);
	r->received += len;
	return -1;
}

/* Takes one entry; *@last is the type of the one before. */
static int take_entry(struct relay *r, uint32_t n, const struct entry *entry,
		      uint32_t *last)
{
	uint32_t before = *last;

	*last = entry->type;
	if (!n)
		return entry->type == HELLO && entry->len == HELLO_MAGIC ?
			       -1 :
			       broken("no hello");
	if (entry->type == DONE && before == END)
		return EXIT_SUCCESS;
	if (before == END || before == ABORT)
		return broken("more after the end");
	switch (entry->type) {
	case DATA:
		return take_data(r, n, entry->len);
	case ABORT:
		complain("the other side could not read its standard input");
		return EXIT_CLOSED;
	case END:
		/* Nobody would think of ending a keyboard's input by hand. */
		if (isatty(STDIN_FILENO)) {
			r->finish = true;
			pthread_kill(r->sender, SIGUSR1);
		}
		sem_post(&r->delivered);
		return -1;
	}
	return broken("an unknown entry");
}

/*
 * Waits for an entry.  A sender that is to finish may have been about to read when it
 * was told to: it is told at every tick.
 */
static int wait_entry(struct relay *r)
{
	int ret;

	for (;;) {
		ret = evering_wait(r->ev, EVERING_RX,
				   r->finish ? TICK_NS : EVERING_WAIT_FOREVER);
		if (ret == -ETIMEDOUT)
			pthread_kill(r->sender, SIGUSR1);
		else if (ret != -EINTR)
			return ret;
	}
}

/* Until the peer is done; the status that it is to be told of. */
static int receive_all(struct relay *r)
{
	uint32_t last = 0, n;
	struct entry entry;
	const void *slot;
	int ret;

	for (n = 0;; n++) {
		while (!(slot = evering_peek(r->ev))) {
			ret = wait_entry(r);
			if (ret < 0)
				return channel_failed(r, ret);
		}
		memcpy(&entry, slot, sizeof(entry));
		ret = take_entry(r, n, &entry, &last);
		if (ret >= 0)
			return ret;
		evering_release(r->ev);
	}
}

/* The whole -------------------------------------------------------------- */

static int settle(struct relay *r)
{
	struct evering_geometry geometry;
	unsigned int end;
	uint64_t mine, peers;

	end = (unsigned int)evering_get_geometry(r->ev, &geometry);
	r->entries = geometry.entries;
	mine = geometry.arena_size[end] / r->entries;
	peers = geometry.arena_size[!end] / r->entries;
	if (mine > MAX_CHUNK || peers > MAX_CHUNK)
		return broken("chunks of more than 16 MiB");
	r->chunk = (uint32_t)mine;
	r->peer_chunk = (uint32_t)peers;
	if (mine && !(r->o->one_way && r->o->listen))
		r->arena = evering_arena(r->ev, NULL);
	return 0;
}

static int relay(struct relay *r)
{
	struct sigaction act = { .sa_handler = wake_up };
	int status, err;

	status = settle(r);
	if (status)
		return status;
	/* From here on signals do what they do: the peer is told by the kernel. */
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGUSR1, &act, NULL);
	sem_init(&r->delivered, 0, 0);
	r->start_ns = clock_ns();
	err = pthread_create(&r->sender, NULL, send_all, r);
	if (err)
		return failed("no thread", err);
	status = receive_all(r);
	/* After DONE of the peer's there is ours left to be sent, and nothing else. */
	if (status)
		r->stop = true;
	join_sender(r);
	sem_destroy(&r->delivered);
	return status;
}

static void print_summary(const struct relay *r, int status)
{
	static const char *const peers[] = { "alive", "closed", "died" };

	fprintf(stderr,
		"{\"sent_bytes\": %llu, \"received_bytes\": %llu, \"seconds\": %.9f, \"backend\": \"%s\", \"peer\": \"%s\", \"status\": %d}\n",
		(unsigned long long)r->sent, (unsigned long long)r->received,
		r->start_ns ? (double)(clock_ns() - r->start_ns) / 1e9 : 0,
		evering_backend_name(r->ev), peers[evering_peer(r->ev)],
		status);
}

/* Signals come while it waits, and at no other time. */
static int wait_for_peer(const struct pipe_options *o,
			 struct evering_listener *listener, struct evering **ev)
{
	const struct evering_params limits = {
		.size = sizeof(limits),
		.slot_size = EVERING_MIN_SLOT,
		.entries = 4096,
		.arena_size = { 1 << 30, 1 << 30 },
		.policy = o->params.policy,
		.spin_ns = EVERING_SPIN_NS,
	};
	struct pollfd fd = { .fd = evering_listener_fd(listener),
			     .events = POLLIN };
	int64_t left, deadline = clock_ns() + o->timeout_ns;
	struct timespec timeout;
	sigset_t old;
	int ret = -EAGAIN;

	block_end_signals(&old);
	while (!end_signal && (ret == -EAGAIN || ret == -EINTR)) {
		left = deadline - clock_ns();
		if (left <= 0)
			left = 0;
		timeout.tv_sec = left / 1000000000;
		timeout.tv_nsec = left % 1000000000;
		if (!ppoll(&fd, 1, o->timeout_ns < 0 ? NULL : &timeout, &old)) {
			ret = -ETIMEDOUT;
			break;
		}
		ret = evering_accept(listener, &limits, EVERING_NOWAIT, ev);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	return end_signal ? -EINTR : ret;
}

static int meet_listening(const struct pipe_options *o, struct evering **ev)
{
	struct evering_listener *listener;
	int reason, ret;

	ret = evering_listen(o->listen, 0600, &listener);
	if (ret) {
		complain_error("cannot listen at", o->listen, ret);
		return ret;
	}
	ret = wait_for_peer(o, listener, ev);
	if (ret && ret != -EINTR) {
		complain_error("nobody came to", o->listen, ret);
		if (evering_listener_refused(listener, &reason))
			complain_error("the last one was turned away", NULL,
				       reason);
	}
	evering_listener_close(listener);
	return ret;
}

static int meet_connecting(const struct pipe_options *o, struct evering **ev)
{
	const struct timespec tick = { .tv_nsec = 10000000 };
	int64_t deadline = clock_ns() + (o->timeout_ns < 0 ? 0 : o->timeout_ns);
	int64_t hello = 10000000000;
	int ret;

	for (;;) {
		ret = evering_connect(o->connect, &o->params, hello, ev);
		if ((ret != -ENOENT && ret != -ECONNREFUSED) || end_signal ||
		    clock_ns() >= deadline)
			break;
		nanosleep(&tick, NULL);
	}
	if (ret && !end_signal)
		complain_error("cannot connect to", o->connect, ret);
	return ret;
}

enum {
	OPT_BACKEND = 256,
	OPT_POLICY,
	OPT_ONE_WAY,
	OPT_TIMEOUT,
	OPT_JSON,
};

static const struct option long_options[] = {
	{ "listen", required_argument, NULL, 'l' },
	{ "connect", required_argument, NULL, 'c' },
	{ "one-way", no_argument, NULL, OPT_ONE_WAY },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "wait", required_argument, NULL, OPT_POLICY },
	{ "backend", required_argument, NULL, OPT_BACKEND },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static void print_help(void)
{
	fputs("Usage: evering pipe --listen=PATH | --connect=PATH [OPTIONS]\n"
	      "       evering cat  --listen=PATH | --connect=PATH [OPTIONS]\n"
	      "\n"
	      "Sends standard input through a channel to another `evering pipe`, and prints\n"
	      "what that one sends.  One of the two listens, the other connects:\n"
	      "\n"
	      "  evering pipe --listen=/tmp/x | tar x\n"
	      "  tar c . | evering pipe --connect=/tmp/x\n"
	      "\n"
	      "Each ends when both inputs have ended and everything is written.  An input\n"
	      "that is a terminal ends with the other side's.\n"
	      "\n"
	      "  -l, --listen=PATH   wait for the other side at this Unix socket, @NAME for\n"
	      "                      an abstract one\n"
	      "  -c, --connect=PATH  meet the other side, which listens there\n"
	      "  --one-way           from who connects to who listens only, as `cat` does\n"
	      "  --timeout=SECONDS   how long to wait for the other side, 0..86400\n"
	      "                                   [listening: for ever, connecting: 0]\n"
	      "  --wait=POLICY     how to wait: adaptive, block or busy       [adaptive]\n"
	      "  --backend=NAME      auto, memfd or device; who connects chooses    [auto]\n"
	      "  --json              print a summary, on standard error, as a JSON object\n"
	      "  -h, --help          this\n"
	      "\n"
	      "Exits with 0 if everything was delivered both ways, 1 if something went wrong\n"
	      "on this side, 2 if the command line makes no sense, 3 if the other side gave\n"
	      "up, 4 if it died, 141 if nobody reads standard output, 128 + n after signal n.\n",
	      output);
}

/* 0, or a status: EXIT_USAGE. */
static int parse_option(struct pipe_options *o, int opt, const char *text)
{
	switch (opt) {
	case 'l':
		o->listen = text;
		return 0;
	case 'c':
		o->connect = text;
		return 0;
	case OPT_ONE_WAY:
		o->one_way = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case OPT_TIMEOUT:
		if (parse_seconds(text, &o->timeout_ns) &&
		    o->timeout_ns <= 86400 * 1000000000ll)
			return 0;
		return usage_error("--timeout=%s: must be 0..86400 seconds",
				   printable(text));
	case OPT_POLICY:
		if (parse_policy(text, &o->params.policy))
			return 0;
		return usage_error("--wait=%s: must be adaptive, block or busy",
				   printable(text));
	default:
		if (parse_backend(text, &o->params.backend))
			return 0;
		return usage_error(
			"--backend=%s: must be auto, memfd or device",
			printable(text));
	}
}

/* 0: go on; else exit with *@status. */
static int parse_command_line(struct pipe_options *o, int argc, char **argv,
			      int *status)
{
	int opt;

	opterr = 0;
	optind = 1;
	*status = EXIT_USAGE;
	while ((opt = getopt_long(argc, argv, ":l:c:h", long_options, NULL)) !=
	       -1) {
		if (opt == '?' || opt == ':') {
			wrong_option(opt, argv);
			return -1;
		}
		if (opt == 'h') {
			print_help();
			*status = EXIT_SUCCESS;
			return -1;
		}
		if (parse_option(o, opt, optarg))
			return -1;
	}
	if (optind < argc)
		usage_error("'%s' is one argument too many",
			    printable(argv[optind]));
	else if (!o->listen == !o->connect)
		usage_error("either --listen or --connect says where to meet");
	else
		return 0;
	return -1;
}

static int pipe_command(struct pipe_options *o, int argc, char **argv)
{
	struct relay r = { .o = o };
	int status, ret;

	if (parse_command_line(o, argc, argv, &status))
		return status;
	o->params.slot_size = EVERING_MIN_SLOT;
	o->params.entries = CHUNKS;
	o->params.arena_size[EVERING_MINE] = CHUNKS * CHUNK;
	o->params.arena_size[EVERING_PEERS] = o->one_way ? 0 : CHUNKS * CHUNK;
	/* Until the socket's file is gone nobody may just die. */
	catch_end_signals();
	ret = o->listen ? meet_listening(o, &r.ev) : meet_connecting(o, &r.ev);
	if (end_signal) {
		evering_close(r.ev);
		return 128 + end_signal;
	}
	if (ret)
		return EXIT_FAILURE;
	uncatch_end_signals();
	status = relay(&r);
	if (o->json)
		print_summary(&r, status);
	evering_close(r.ev);
	return status;
}

int cmd_pipe(int argc, char **argv)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct pipe_options o = { .params = params, .timeout_ns = -1 };

	set_command("evering pipe");
	return pipe_command(&o, argc, argv);
}

int cmd_cat(int argc, char **argv)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct pipe_options o = {
		.params = params,
		.timeout_ns = -1,
		.one_way = true,
	};

	set_command("evering cat");
	return pipe_command(&o, argc, argv);
}
