// SPDX-License-Identifier: MIT
/*
 * evering pipe: standard input through a channel to another process, and what that
 * one sends to standard output.
 *
 * Each side's arena is cut into as many chunks as a ring has entries, and entry n
 * stands for chunk n modulo that.  So the side that may write the entry may fill the
 * chunk, and the side that releases the entry gives the chunk back: the ring's own
 * flow control is all that is needed.  Bytes are read straight into the arena and
 * written straight from the peer's.
 *
 * Two threads, as the library's rule has it: one reads and sends, the first receives
 * and writes, so that neither direction waits for the other.
 *
 *	HELLO	the first entry: both are `evering pipe`, of this version
 *	DATA	a chunk
 *	END	standard input has ended, or ABORT: it cannot be read any further
 *	DONE	after END: everything that the peer sent is written
 *
 * A side that has sent and received DONE knows that all is well on both.  If one
 * closes the channel earlier, or dies, the other says so.
 */
#include <errno.h>
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

#include "json.h"
#include "meet.h"
#include "options.h"
#include "process.h"
#include "remedy.h"
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
	const struct attempt attempt = { .what = "the channel" };

	/* This side's fault, and it has said so. */
	if (r->sender_status)
		return r->sender_status;
	if (err != -EPIPE) {
		complain_of(&attempt, err);
		return EXIT_FAILURE;
	}
	if (evering_peer(r->ev) != EVERING_PEER_CLOSED) {
		complain(
			"the other side died, or is lost, before everything was delivered");
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
 * Waits for input as well as for the end of the channel: a side that sends nothing
 * still has to learn that the other is gone.  That is the receiving thread's to
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
			poll(&input, 1,
			     -1); /* another process made it non-blocking */
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
		return broken("a chunk of an invalid length");
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
	static const char *const peers[] = { "alive", "closed", "died", "lost",
					     "relay died" };
	struct json j = { .out = stderr };
	double seconds = 0;

	if (r->start_ns)
		seconds = (double)(clock_ns() - r->start_ns) / 1e9;
	json_open(&j, NULL, '{');
	json_number(&j, "sent_bytes", r->sent);
	json_number(&j, "received_bytes", r->received);
	json_fixed(&j, "seconds", seconds, 9);
	/* null: they have not met. */
	json_text(&j, "backend", r->ev ? evering_backend_name(r->ev) : NULL);
	json_text(&j, "peer", r->ev ? peers[evering_peer(r->ev)] : NULL);
	json_number(&j, "status", (uint64_t)status);
	json_close(&j, '}');
	json_end(&j);
}

static int meet_listening(const struct pipe_options *o, struct evering **ev)
{
	const struct evering_params limits = {
		.size = sizeof(limits),
		.slot_size = EVERING_MIN_SLOT,
		.entries = 4096,
		.arena_size = { 1 << 30, 1 << 30 },
		.policy = o->params.policy,
		.spin_ns = EVERING_SPIN_NS,
	};
	const struct attempt came = {
		.what = "no process connected to",
		.path = o->listen,
		.listening = true,
	};
	const struct attempt refused = { .what = "the last one was refused" };
	struct evering_listener *listener;
	int reason, ret;

	ret = meet_listen(o->listen, &listener);
	if (ret)
		return ret;
	ret = meet_accept(
		listener, &limits,
		o->timeout_ns < 0 ? INT64_MAX : clock_ns() + o->timeout_ns, ev);
	if (ret && ret != -EINTR) {
		complain_of(&came, ret);
		if (evering_listener_refused(listener, &reason))
			complain_of(&refused, reason);
	}
	evering_listener_close(listener);
	return ret;
}

static int meet_connecting(const struct pipe_options *o, struct evering **ev)
{
	const struct attempt attempt = {
		.what = "cannot connect to",
		.path = o->connect,
		.params = &o->params,
	};
	const struct timespec tick = { .tv_nsec = 10000000 };
	int64_t deadline = clock_ns() + (o->timeout_ns < 0 ? 0 : o->timeout_ns);
	int ret;

	for (;;) {
		ret = meet_connect(o->connect, &o->params, 10 * SECOND, ev);
		if ((ret != -ENOENT && ret != -ECONNREFUSED) || end_signal ||
		    clock_ns() >= deadline)
			break;
		nanosleep(&tick, NULL);
	}
	if (ret && ret != -EPERM && !end_signal)
		complain_of(&attempt, ret);
	return ret;
}

#define PIPE(member) FIELD(struct pipe_options, member)

static const struct option_spec options[] = {
	{ "listen", 'l', OPTION_PLACE, PIPE(listen) },
	{ "connect", 0, OPTION_PLACE, PIPE(connect) },
	{ "one-way", 0, OPTION_FLAG, PIPE(one_way) },
	{ "timeout", 0, OPTION_SECONDS, PIPE(timeout_ns),
	  .most = 86400 * SECOND },
	{ "wait", 0, OPTION_POLICY, PIPE(params.policy) },
	{ "backend", 0, OPTION_BACKEND, PIPE(params.backend) },
	{ "json", 0, OPTION_FLAG, PIPE(json) },
	{ .name = NULL },
};

static const char help[] =
	"Usage: evering pipe --listen=PATH | --connect=PATH [OPTIONS]\n"
	"       evering cat  --listen=PATH | --connect=PATH [OPTIONS]\n"
	"\n"
	"Sends standard input through a channel to another `evering pipe`, and prints\n"
	"what that one sends.  One of the two listens, the other connects:\n"
	"\n"
	"  evering pipe --listen=/tmp/x | tar x\n"
	"  tar c . | evering pipe --connect=/tmp/x\n"
	"\n"
	"Each ends when both inputs have ended and everything is written.  If one's\n"
	"input is a terminal, it ends with the other's.  `evering cat` is `evering pipe\n"
	"--one-way`.\n"
	"\n"
	"  -l, --listen=PATH      wait for the other side at this Unix socket, @NAME for\n"
	"                         an abstract one, fd:[NAME] for one that systemd passes\n"
	"      --connect=PATH     connect to the other side, which listens at this\n"
	"                         socket\n"
	"      --one-way          send only from the connecting to the listening side\n"
	"      --timeout=SECONDS  how long to wait for the other side, 0..86400\n"
	"                                               [--listen: no end; --connect: 0]\n"
	"      --wait=POLICY      adaptive: spin, then sleep; block: sleep at once;\n"
	"                         busy: never sleep                           [adaptive]\n"
	"      --backend=NAME     auto, memfd or device; the connecting side chooses\n"
	"                                                                         [auto]\n"
	"      --json             print a summary, on standard error, as a JSON object\n"
	"  -h, --help             print this text\n"
	"\n"
	"The exit status is 0 if everything was delivered both ways, 1 after an error on\n"
	"this side, 2 if the command line is invalid, 3 if the other side gave up, 4 if\n"
	"it died, 141 if standard output has no reader, 128 + n after signal n.\n";

/* Meets the other side and speaks with it; the status to exit with. */
static int pipe_through(struct relay *r)
{
	const struct pipe_options *o = r->o;
	int ret;

	/* Until the socket's file is gone a signal must not end the process. */
	catch_end_signals();
	ret = o->listen ? meet_listening(o, &r->ev) :
			  meet_connecting(o, &r->ev);
	if (end_signal)
		return 128 + end_signal;
	if (ret)
		return EXIT_FAILURE;
	uncatch_end_signals();
	return relay(r);
}

static int pipe_command(struct pipe_options *o, int argc, char **argv)
{
	struct relay r = { .o = o };
	int status;

	status = parse_options(options, help, o, argc, argv);
	if (status >= 0)
		return status;
	if (!o->listen == !o->connect)
		return usage_error("give either --listen or --connect");
	o->params.slot_size = EVERING_MIN_SLOT;
	o->params.entries = CHUNKS;
	o->params.arena_size[EVERING_MINE] = CHUNKS * CHUNK;
	o->params.arena_size[EVERING_PEERS] = o->one_way ? 0 : CHUNKS * CHUNK;
	status = pipe_through(&r);
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
