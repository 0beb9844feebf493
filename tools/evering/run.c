// SPDX-License-Identifier: MIT
/*
 * evering run: sends every file of a directory through a channel to another
 * process, which answers with their SHA-256, and says how fast that went.
 *
 * The process that is called is the client.  It starts this same binary again as
 * the server ("evering serve", hidden), waits for it to listen, and connects:
 *
 *	client				server
 *	fork, exec		->	listen
 *				<-	"ready", on the control socket
 *	connect			<->	accept, stop listening
 *	requests		->	hash in place
 *				<-	answers
 *	close			->	-EPIPE: exit
 *	wait
 *
 * The control socket lives as long as both processes.  While the server still listens, the
 * end of the socket means that the client gave up.  While the client waits for the server to
 * end, it means that the server did.
 *
 * The client reads files straight into its arena and the server hashes them there,
 * so the channel copies nothing.  A file goes in chunks, one request each, and
 * files follow each other without mixing, so one hash context does.  Neither side
 * trusts the other: each field that arrives is checked on a copy.
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#include "hist.h"
#include "json.h"
#include "options.h"
#include "process.h"
#include "remedy.h"
#include "run.h"
#include "util.h"

#ifndef EVERING_SOURCE_DIR
#define EVERING_SOURCE_DIR "."
#endif

/* One request in flight, by tag. */
struct chunk {
	int64_t sent_ns;
	void *buf;
	char *path; /* of the file's last chunk, else NULL */
	uint32_t length;
	bool in_flight;
};

/* What a round trip is made of. */
enum part {
	QUEUE, /* behind other requests, and until the client looks for answers */
	HASH,
	WAKE, /* a process slept, and did not run yet */
	PARTS,
};

static const char *const part_names[PARTS] = { "queue", "hash", "wake" };

/* What there is to do, counted by a thread that only the progress bar needs. */
struct census {
	pthread_t thread;
	bool started;
	int cwd;
	const char *dir;
	atomic_bool stop;
	atomic_bool complete;
	atomic_ullong files;
	atomic_ullong bytes;
};

struct client {
	const struct options *o;
	struct evering *ev;
	struct evering_geometry geometry;
	unsigned int end;
	const char *backend;
	pid_t server;
	int control;

	struct chunk *chunks;
	uint32_t *free_tags;
	uint32_t free_count;
	int64_t flushed_ns;

	bool failed; /* said why, and cannot go on */
	uint64_t files;
	uint64_t bytes;
	uint64_t errors;
	uint64_t requests;
	int64_t start_ns;
	int64_t end_ns;
	struct evering_counters counters[2]; /* EVERING_MINE, EVERING_PEERS */
	struct rusage server_usage;
	struct hist latency;
	int64_t woken_ns; /* this side's last sleep ended */
	uint64_t part_ns[PARTS]; /* of the latencies of @parted requests */
	uint64_t parted;
	struct hist empty; /* round trips of empty requests */
	double empty_cpu[2]; /* seconds: what these took */

	bool progress;
	int64_t draw_ns;
	struct census census;
	bool by_line;
};

/*
 * How long the client waits before it looks around: at the progress, and at a
 * signal, which may come between looking for one and waiting.
 */
#define TICK_MS 100
#define TICK_NS (TICK_MS * 1000000)

/*
 * The client cannot go on; returns -1.  After a signal there is nothing to say, nor
 * where @what is NULL.
 */
static int give_up(struct client *c, const char *what, int err)
{
	if (what && !end_signal && !c->failed) {
		if (err)
			complain("%s: %s", what, strerror(err));
		else
			complain("%s", what);
	}
	c->failed = true;
	return -1;
}

static void file_error(struct client *c, const char *path, int err)
{
	complain("%s: %s", printable(path), strerror(err));
	c->errors++;
}

/* Sums ------------------------------------------------------------------- */

/* As sha256sum: a name with such bytes has them escaped, and the line begins so. */
static void put_path(const char *path)
{
	/* sha256sum takes "-" for its standard input. */
	if (!strcmp(path, "-"))
		fputs("./", output);
	for (; *path; path++) {
		if (*path == '\\')
			fputs("\\\\", output);
		else if (*path == '\n')
			fputs("\\n", output);
		else if (*path == '\r')
			fputs("\\r", output);
		else
			fputc(*path, output);
	}
}

static void put_sum(const struct client *c, const unsigned char *digest,
		    const char *path)
{
	size_t i;

	if (strpbrk(path, "\\\n\r"))
		fputc('\\', output);
	for (i = 0; i < DIGEST_LEN; i++)
		fprintf(output, "%02x", digest[i]);
	fputs("  ", output);
	put_path(path);
	fputc('\n', output);
	if (c->by_line)
		flush_output();
}

/* Progress --------------------------------------------------------------- */

#define PROGRESS_AFTER_NS 500000000

static void *take_census(void *arg)
{
	struct census *census = arg;
	char *dirs[] = { (char *)census->dir, NULL };
	FTSENT *entry;
	FTS *fts;

	/* A current directory of its own, since the other walk changes its. */
	if (unshare(CLONE_FS) || fchdir(census->cwd))
		return NULL;
	fts = fts_open(dirs, FTS_PHYSICAL | FTS_COMFOLLOW, NULL);
	if (!fts)
		return NULL;
	while (!census->stop && (entry = fts_read(fts))) {
		if (entry->fts_info != FTS_F)
			continue;
		census->files++;
		census->bytes += (unsigned long long)entry->fts_statp->st_size;
	}
	census->complete = !census->stop;
	fts_close(fts);
	return NULL;
}

static void start_census(struct census *census)
{
	sigset_t all, old;

	/* Signals are for the thread that waits. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	census->started =
		!pthread_create(&census->thread, NULL, take_census, census);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void end_census(struct census *census)
{
	census->stop = true;
	if (census->started)
		pthread_join(census->thread, NULL);
	census->started = false;
	if (census->cwd >= 0)
		close(census->cwd);
	census->cwd = -1;
}

static void show_progress(struct client *c, int64_t now)
{
	char files[FORMAT_LEN], bytes[FORMAT_LEN], rate[FORMAT_LEN];
	double seconds = (double)(now - c->start_ns) / 1e9;
	struct census *census = &c->census;
	double part = -1;
	char text[128];

	if (!census->started && census->cwd >= 0 && !census->stop) {
		start_census(census);
		census->stop = !census->started;
	}
	if (census->complete && census->bytes)
		part = (double)c->bytes / (double)census->bytes;
	snprintf(text, sizeof(text), "%s files  %s  %s/s",
		 format_count(files, c->files), format_bytes(bytes, c->bytes),
		 format_bytes(rate, (uint64_t)((double)c->bytes / seconds)));
	progress_draw(part, text);
	c->draw_ns = clock_ns() + TICK_NS;
}

static void progress(struct client *c, int64_t now)
{
	if (c->progress && now >= c->draw_ns)
		show_progress(c, now);
}

/* Channel ---------------------------------------------------------------- */

static int wrong_answer(struct client *c, const char *why)
{
	char what[80];

	snprintf(what, sizeof(what), "the server broke the protocol: %s", why);
	return give_up(c, what, 0);
}

/* How much of @from..@to a process slept that was woken at @woken. */
static int64_t asleep(int64_t from, int64_t to, int64_t woken)
{
	if (woken <= from)
		return 0;
	return (woken < to ? woken : to) - from;
}

/* Adds up what a round trip was made of.  Times in a wrong order are left out. */
static void part(struct client *c, const struct record *r, int64_t sent,
		 int64_t now)
{
	int64_t wake;

	if (r->taken_ns < sent || r->done_ns < r->taken_ns || now < r->done_ns)
		return;
	wake = asleep(sent, r->taken_ns, r->woken_ns) +
	       asleep(r->done_ns, now, c->woken_ns);
	c->part_ns[WAKE] += (uint64_t)wake;
	c->part_ns[HASH] += (uint64_t)(r->done_ns - r->taken_ns);
	c->part_ns[QUEUE] +=
		(uint64_t)(r->taken_ns - sent + (now - r->done_ns) - wake);
	c->parted++;
}

static int take_answer(struct client *c, const struct answer *answer,
		       int64_t now)
{
	const struct record *shared;
	struct record record;
	struct chunk *chunk;

	if (answer->tag >= c->o->depth || !c->chunks[answer->tag].in_flight)
		return wrong_answer(c, "an answer without a request");
	if (answer->result)
		return give_up(c, "the server refused a request",
			       answer->result < 0 && answer->result >= -4095 ?
				       -answer->result :
				       EPROTO);
	chunk = &c->chunks[answer->tag];
	shared = evering_peer_buffer(c->ev, (uint64_t)answer->place * UNIT,
				     sizeof(record));
	if (!shared)
		return wrong_answer(c, "a digest outside its arena");
	memcpy(&record, shared, sizeof(record));
	part(c, &record, chunk->sent_ns, now);
	if (chunk->path) {
		if (c->o->sums)
			put_sum(c, record.digest, chunk->path);
		c->files++;
		free(chunk->path);
	}
	hist_add(&c->latency, (uint64_t)(now - chunk->sent_ns));
	c->bytes += chunk->length;
	evering_free(c->ev, chunk->buf);
	*chunk = (struct chunk){ 0 };
	c->free_tags[c->free_count++] = answer->tag;
	return 0;
}

/* Takes the answers that are there; 0, or -1 if that was the end. */
static int take_answers(struct client *c)
{
	struct answer answer;
	const void *slot;
	int64_t now = 0;

	while ((slot = evering_peek(c->ev))) {
		memcpy(&answer, slot, sizeof(answer));
		evering_release(c->ev);
		if (!now)
			now = clock_ns();
		if (take_answer(c, &answer, now))
			return -1;
	}
	/* close_output() says why. */
	if (ferror(output))
		return give_up(c, NULL, 0);
	if (now)
		progress(c, now);
	return 0;
}

/* Waits for answers, or for one of @what besides, and takes the answers. */
static int wait_answers(struct client *c, unsigned int what)
{
	struct evering_counters before, after;
	int ret;

	if (end_signal)
		return -1;
	evering_get_counters(c->ev, EVERING_MINE, &before);
	ret = evering_wait(c->ev, what | EVERING_RX | EVERING_FLUSH, TICK_NS);
	evering_get_counters(c->ev, EVERING_MINE, &after);
	if (after.rx_sleeps + after.tx_sleeps !=
	    before.rx_sleeps + before.tx_sleeps)
		c->woken_ns = clock_ns();
	if (ret == -EINTR || ret == -ETIMEDOUT) {
		progress(c, clock_ns());
		return end_signal ? -1 : 0;
	}
	if (ret == -EPIPE)
		return give_up(c, "the server is gone", 0);
	if (ret < 0)
		return give_up(c, "the channel", -ret);
	return take_answers(c);
}

static bool take_tag(struct client *c, uint32_t *tag)
{
	while (!c->free_count)
		if (wait_answers(c, 0))
			return false;
	*tag = c->free_tags[--c->free_count];
	return true;
}

static uint32_t in_flight(const struct client *c)
{
	return c->o->depth - c->free_count;
}

/*
 * A buffer of *@size bytes, or fewer if not even an arena with nothing else in it
 * has that.  The caller has a tag of its own.
 */
static void *take_buffer(struct client *c, size_t *size)
{
	void *buf;

	for (;;) {
		buf = evering_alloc(c->ev, *size, UNIT);
		if (buf)
			return buf;
		if (in_flight(c) > 1) {
			if (wait_answers(c, 0))
				return NULL;
		} else if (*size > UNIT) {
			*size /= 2;
		} else {
			give_up(c, "no room in the arena", 0);
			return NULL;
		}
	}
}

static int send_request(struct client *c, uint32_t tag, uint32_t flags)
{
	struct chunk *chunk = &c->chunks[tag];
	struct request req = {
		.tag = tag | flags,
		.length = chunk->length,
	};
	void *slot;

	req.place = (uint32_t)(evering_offset(c->ev, chunk->buf) / UNIT);
	while (!(slot = evering_reserve(c->ev)))
		if (wait_answers(c, EVERING_TX))
			return -1;
	memcpy(slot, &req, sizeof(req));
	chunk->sent_ns = clock_ns();
	chunk->in_flight = true;
	evering_commit(c->ev);
	c->requests++;
	if (chunk->sent_ns - c->flushed_ns >= FLUSH_NS) {
		evering_flush(c->ev);
		c->flushed_ns = chunk->sent_ns;
	}
	return take_answers(c);
}

/* Files ------------------------------------------------------------------ */

struct file {
	const char *path;
	int fd;
	uint64_t size; /* as it was when opened */
	uint64_t done;
};

/*
 * Reads on into @buf until it is full or the file ends.  Returns the bytes, or a
 * negative errno.
 */
static ssize_t read_chunk(struct file *file, unsigned char *buf, size_t size,
			  bool *end)
{
	size_t got = 0;
	ssize_t n;

	*end = false;
	while (got < size) {
		n = read(file->fd, buf + got, size - got);
		if (n < 0 && errno == EINTR && !end_signal)
			continue;
		if (n < 0)
			return -errno;
		got += (size_t)n;
		file->done += (size_t)n;
		/*
		 * More was asked for, and it ends where it should: no need to
		 * read a nothing.  The size of a file in /proc or /sys means
		 * nothing; there the nothing is read.
		 */
		if (!n || (file->done == file->size && got < size)) {
			*end = true;
			break;
		}
	}
	return (ssize_t)got;
}

/* How much to ask for next: one more than is left, so that the end shows. */
static size_t next_size(const struct client *c, const struct file *file)
{
	uint64_t size = 4096;

	if (file->size > file->done)
		size = file->size - file->done + 1;
	return size < c->o->chunk ? size : c->o->chunk;
}

/* Sends the next chunk with @flags and more; 1: that was the last one. */
static int send_chunk(struct client *c, struct file *file, uint32_t flags)
{
	struct chunk *chunk;
	uint32_t tag;
	ssize_t got;
	size_t size;
	bool end;

	if (!take_tag(c, &tag))
		return -1;
	chunk = &c->chunks[tag];
	size = next_size(c, file);
	chunk->buf = take_buffer(c, &size);
	if (!chunk->buf)
		return -1;
	got = read_chunk(file, chunk->buf, size, &end);
	if (end_signal)
		return -1;
	if (got < 0) {
		file_error(c, file->path, (int)-got);
		flags |= REQUEST_ABORT;
	} else {
		chunk->length = (uint32_t)got;
		if (end) {
			flags |= REQUEST_LAST;
			chunk->path = strdup(file->path);
			if (!chunk->path)
				return give_up(c, "no memory", ENOMEM);
		}
	}
	if (send_request(c, tag, flags))
		return -1;
	return end || got < 0;
}

static int send_file(struct client *c, const char *open_path, const char *path,
		     bool follow)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY;
	struct file file = { .path = path };
	struct stat st;
	int ret = 0;

	/* It may have become something else since the walk looked at it. */
	flags |= O_NONBLOCK | (follow ? 0 : O_NOFOLLOW);
	do {
		file.fd = open(open_path, flags);
	} while (file.fd < 0 && errno == EINTR && !end_signal);
	if (end_signal) {
		ret = -1;
	} else if (file.fd < 0 || fstat(file.fd, &st)) {
		file_error(c, path, errno);
	} else if (S_ISREG(st.st_mode)) {
		file.size = (uint64_t)st.st_size;
		ret = send_chunk(c, &file, REQUEST_FIRST);
		while (!ret)
			ret = send_chunk(c, &file, 0);
	}
	if (file.fd >= 0)
		close(file.fd);
	return ret < 0 ? -1 : 0;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int send_entry(struct client *c, const FTSENT *entry)
{
	switch (entry->fts_info) {
	case FTS_F:
		return send_file(c, entry->fts_accpath, entry->fts_path,
				 entry->fts_level == FTS_ROOTLEVEL);
	case FTS_DNR:
	case FTS_ERR:
	case FTS_NS:
		file_error(c, entry->fts_path, entry->fts_errno);
		return 0;
	case FTS_DC:
		file_error(c, entry->fts_path, ELOOP);
		return 0;
	default:
		return 0;
	}
}

static void send_all(struct client *c)
{
	char *dirs[] = { (char *)c->o->dir, NULL };
	FTSENT *entry;
	FTS *fts;
	int err;

	fts = fts_open(dirs, FTS_PHYSICAL | FTS_COMFOLLOW, by_name);
	if (!fts) {
		give_up(c, c->o->dir, errno);
		return;
	}
	for (;;) {
		errno = 0;
		entry = fts_read(fts);
		err = errno;
		if (!entry || end_signal || send_entry(c, entry))
			break;
	}
	if (!entry && err)
		file_error(c, c->o->dir, err);
	while (!end_signal && !c->failed && in_flight(c))
		wait_answers(c, 0);
	fts_close(fts);
	if (!flush_output())
		give_up(c, NULL, 0);
}

/* Server process --------------------------------------------------------- */

#define SERVER_ARGS 9

/* The server's command line: what it needs of the client's, settled. */
static void server_args(const struct options *o, int control,
			char args[SERVER_ARGS][MAX_SOCKET_PATH + 16])
{
	const size_t size = sizeof(args[0]);
	int i = 0;

	snprintf(args[i++], size, "--control=%d", control);
	snprintf(args[i++], size, "--slot=%u", o->params.slot_size);
	snprintf(args[i++], size, "--ring=%u", o->params.entries);
	snprintf(args[i++], size, "--arena=%llu",
		 (unsigned long long)o->params.arena_size[EVERING_MINE]);
	snprintf(args[i++], size, "--depth=%u", o->depth);
	snprintf(args[i++], size, "--spin=%u", o->params.spin_ns);
	snprintf(args[i++], size, "--wait=%s", policy_names[o->params.policy]);
	snprintf(args[i++], size, "--timeout=%lld.%09lld",
		 (long long)o->timeout_ns / 1000000000,
		 (long long)o->timeout_ns % 1000000000);
	snprintf(args[i++], size, "--socket=%s", o->socket);
}

/* Becomes the server; returns if that fails. */
static void exec_server(const struct options *o, int control)
{
	char args[SERVER_ARGS][MAX_SOCKET_PATH + 16];
	char *argv[SERVER_ARGS + 3] = { (char *)"evering", (char *)"serve" };
	const char *self;
	int i;

	server_args(o, control, args);
	for (i = 0; i < SERVER_ARGS; i++)
		argv[2 + i] = args[i];

	/* The keyboard's signals are for the client, which passes the end on. */
	ignore_end_signals();
	/*
	 * The reader of the sums sees their end when the client ends, so the server
	 * has none of them.  Closed first: there may be no descriptor to spare.
	 */
	close(STDIN_FILENO);
	if (open("/dev/null", O_RDWR) != STDIN_FILENO ||
	    dup2(STDIN_FILENO, STDOUT_FILENO) < 0)
		return;
	fcntl(control, F_SETFD, 0);

	execv("/proc/self/exe", argv);
	/* No /proc: as the kernel was told when this process was made. */
	self = (const char *)getauxval(AT_EXECFN);
	if (self)
		execv(self, argv);
}

/* 0, or -1 having said why. */
static int spawn_server(struct client *c)
{
	int pair[2];
	int err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		explain(c->o, "cannot start the server", -errno);
		return -1;
	}
	c->server = fork();
	if (!c->server) {
		exec_server(c->o, pair[1]);
		complain("cannot start the server: %s", strerror(errno));
		_exit(EXIT_FAILURE);
	}
	err = errno;
	close(pair[1]);
	if (c->server < 0) {
		c->server = 0;
		close(pair[0]);
		complain("cannot start the server: %s", strerror(err));
		return -1;
	}
	c->control = pair[0];
	return 0;
}

/*
 * Waits for the server to say something (1) or to go (0); -1: neither in time, or
 * a signal.
 */
static int hear_server(struct client *c, int64_t deadline, bool signals)
{
	struct pollfd fd = { .fd = c->control, .events = POLLIN };
	char byte;
	int ret;

	do {
		ret = poll(&fd, 1, milliseconds_until(deadline, INT_MAX));
		if (signals && end_signal)
			return -1;
	} while (ret < 0 && errno == EINTR);
	if (ret <= 0)
		return -1;
	return recv(c->control, &byte, 1, 0) == 1;
}

/*
 * Tells the server to go if it has not met us, waits until it has, and says how if
 * it cannot have done so itself.
 */
static int reap_server(struct client *c)
{
	int64_t deadline = clock_ns() + c->o->timeout_ns;
	int status = 0;
	int heard;

	if (!c->server)
		return 0;
	shutdown(c->control, SHUT_WR);
	do {
		heard = hear_server(c, deadline, false);
	} while (heard > 0);
	if (heard < 0) {
		complain("the server does not end, and is killed");
		kill(c->server, SIGKILL);
	}
	close(c->control);
	while (wait4(c->server, &status, 0, &c->server_usage) < 0 &&
	       errno == EINTR)
		;
	c->server = 0;
	if (end_signal)
		return 0;
	if (WIFSIGNALED(status))
		complain("the server was killed by signal %d (%s)",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) && WEXITSTATUS(status) != EXIT_FAILURE)
		complain("the server ended with status %d",
			 WEXITSTATUS(status));
	return heard < 0 || status ? -1 : 0;
}

static int meet_server(struct client *c)
{
	int64_t deadline = clock_ns() + c->o->timeout_ns;
	pid_t pid;
	uid_t uid;
	gid_t gid;
	int ret;

	ret = hear_server(c, deadline, true);
	if (ret <= 0) {
		/* If it went it said why itself. */
		if (ret < 0 && !end_signal)
			explain(c->o, "the server did not get ready",
				-ETIMEDOUT);
		return -1;
	}
	ret = evering_connect(c->o->socket, &c->o->params, c->o->timeout_ns,
			      &c->ev);
	if (end_signal)
		return -1;
	if (ret) {
		explain_socket(c->o, "cannot make a channel at", false, ret);
		return -1;
	}
	if (evering_peer_cred(c->ev, &pid, &uid, &gid) || uid != geteuid() ||
	    (pid && pid != c->server)) {
		complain("a process other than the server answered at %s",
			 printable(c->o->socket));
		return -1;
	}
	c->end = (unsigned int)evering_get_geometry(c->ev, &c->geometry);
	c->backend = evering_backend_name(c->ev);
	return 0;
}

/* Summary ---------------------------------------------------------------- */

static double cpu_seconds(const struct rusage *usage)
{
	return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
	       (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) /
		       1e6;
}

struct summary {
	double seconds;
	double requests_rate;
	double gigabytes_rate;
	uint64_t messages;
	uint64_t syscalls[2];
	double syscalls_rate;
	uint64_t sleeps[2];
	double cpu[2];
};

static void summarize(const struct client *c, struct summary *s)
{
	struct rusage usage;
	int i;

	s->seconds = (double)(c->end_ns - c->start_ns) / 1e9;
	s->requests_rate = (double)c->latency.count / s->seconds;
	s->gigabytes_rate = (double)c->bytes / 1e9 / s->seconds;
	s->messages = c->requests + c->latency.count;
	for (i = 0; i < 2; i++) {
		s->syscalls[i] =
			c->counters[i].tx_syscalls + c->counters[i].rx_syscalls;
		s->sleeps[i] =
			c->counters[i].tx_sleeps + c->counters[i].rx_sleeps;
	}
	s->syscalls_rate = s->messages ?
				   (double)(s->syscalls[0] + s->syscalls[1]) /
					   (double)s->messages :
				   0;
	getrusage(RUSAGE_SELF, &usage);
	s->cpu[EVERING_MINE] = cpu_seconds(&usage);
	s->cpu[EVERING_PEERS] = cpu_seconds(&c->server_usage);
	for (i = 0; i < 2; i++) {
		s->cpu[i] -= c->empty_cpu[i];
		/* Two clocks, of which one may be coarser. */
		if (s->cpu[i] < 0)
			s->cpu[i] = 0;
	}
}

static double part_of_all(const struct client *c, enum part part)
{
	uint64_t all = c->part_ns[QUEUE] + c->part_ns[HASH] + c->part_ns[WAKE];

	return all ? (double)c->part_ns[part] / (double)all : 0;
}

static uint64_t part_mean(const struct client *c, enum part part)
{
	return c->parted ? c->part_ns[part] / c->parted : 0;
}

/* Where the time of a round trip goes, and how little of it is the channel's. */
static void print_parts(const struct client *c)
{
	char behind[80], a[FORMAT_LEN];
	const char *what[PARTS] = {
		[QUEUE] = behind,
		[HASH] = "SHA-256 of the data",
		[WAKE] = "until a process that slept runs again",
	};
	unsigned int i;

	if (c->o->depth > 1)
		snprintf(behind, sizeof(behind),
			 "behind up to %u other requests (--depth)",
			 c->o->depth - 1);
	else
		snprintf(behind, sizeof(behind),
			 "until the other process looks");
	for (i = 0; i < PARTS && c->parted; i++)
		fprintf(stderr, "  %-11s %s on average, %.0f %%: %s\n",
			part_names[i], format_time(a, part_mean(c, i)),
			100 * part_of_all(c, i), what[i]);
	if (c->empty.count)
		fprintf(stderr,
			"  %-11s p50 %s: an empty request and its answer, nothing else under way\n",
			"channel",
			format_time(a, hist_percentile(&c->empty, 50)));
}

static void print_summary(const struct client *c, const struct summary *s)
{
	const struct options *o = c->o;
	char a[FORMAT_LEN], b[FORMAT_LEN], d[FORMAT_LEN], e[FORMAT_LEN];

	fprintf(stderr, "%-13s %s, %s", "files", format_count(a, c->files),
		format_bytes(b, c->bytes));
	if (c->errors)
		fprintf(stderr, "; %s could not be read",
			format_count(a, c->errors));
	fputc('\n', stderr);
	fprintf(stderr, "%-13s %.3f s\n", "time", s->seconds);
	fprintf(stderr, "%-13s %s requests/s, %.3g GB/s\n", "rate",
		format_count(a, (uint64_t)s->requests_rate), s->gigabytes_rate);
	fprintf(stderr, "%-13s p50 %s, p99 %s, p99.9 %s, max %s\n",
		"round trip", format_time(a, hist_percentile(&c->latency, 50)),
		format_time(b, hist_percentile(&c->latency, 99)),
		format_time(d, hist_percentile(&c->latency, 99.9)),
		format_time(e, c->latency.max));
	print_parts(c);
	fprintf(stderr, "%-13s %s, %s", "channel", c->backend,
		policy_names[o->params.policy]);
	if (o->params.policy == EVERING_ADAPTIVE)
		fprintf(stderr, " (spins up to %s)",
			format_time(a, o->params.spin_ns));
	fprintf(stderr, ", slots of %u bytes, rings of %u\n",
		c->geometry.slot_size, c->geometry.entries);
	fprintf(stderr,
		"%-13s arena %s, chunks up to %s, %u request%s in flight\n",
		"load", format_size(a, c->geometry.arena_size[c->end]),
		format_size(b, o->chunk), o->depth, o->depth == 1 ? "" : "s");
	fprintf(stderr,
		"%-13s %.3g for each of %s messages (client %s, server %s)\n",
		"system calls", s->syscalls_rate, format_count(a, s->messages),
		format_count(b, s->syscalls[EVERING_MINE]),
		format_count(d, s->syscalls[EVERING_PEERS]));
	fprintf(stderr, "%-13s client %s, server %s\n", "sleeps",
		format_count(a, s->sleeps[EVERING_MINE]),
		format_count(b, s->sleeps[EVERING_PEERS]));
	fprintf(stderr, "%-13s client %.3f s, server %.3f s\n", "CPU",
		s->cpu[EVERING_MINE], s->cpu[EVERING_PEERS]);
}

/* An object with what each side has. */
static void put_sides(struct json *j, const uint64_t value[2])
{
	json_number(j, "client", value[EVERING_MINE]);
	json_number(j, "server", value[EVERING_PEERS]);
}

static void print_json(const struct client *c, const struct summary *s)
{
	const struct options *o = c->o;
	struct json j = { .out = stderr };
	unsigned int i;

	json_open(&j, NULL, '{');
	json_number(&j, "files", c->files);
	json_number(&j, "bytes", c->bytes);
	json_number(&j, "errors", c->errors);
	json_bool(&j, "interrupted", end_signal);
	json_fixed(&j, "seconds", s->seconds, 9);
	json_number(&j, "requests", c->requests);
	json_fixed(&j, "requests_per_second", s->requests_rate, 1);
	json_fixed(&j, "gigabytes_per_second", s->gigabytes_rate, 6);
	json_open(&j, "round_trip_ns", '{');
	json_number(&j, "p50", hist_percentile(&c->latency, 50));
	json_number(&j, "p99", hist_percentile(&c->latency, 99));
	json_number(&j, "p99.9", hist_percentile(&c->latency, 99.9));
	json_number(&j, "max", c->latency.max);
	json_close(&j, '}');
	json_open(&j, "parts_ns", '{');
	for (i = 0; i < PARTS; i++)
		json_number(&j, part_names[i], part_mean(c, i));
	json_close(&j, '}');
	json_number(&j, "empty_p50_ns", hist_percentile(&c->empty, 50));
	json_text(&j, "backend", c->backend);
	json_text(&j, "wait", policy_names[o->params.policy]);
	json_number(&j, "spin_ns", o->params.spin_ns);
	json_number(&j, "slot", c->geometry.slot_size);
	json_number(&j, "ring", c->geometry.entries);
	json_number(&j, "arena", c->geometry.arena_size[c->end]);
	json_number(&j, "chunk", o->chunk);
	json_number(&j, "depth", o->depth);
	json_number(&j, "messages", s->messages);
	json_open(&j, "system_calls", '{');
	put_sides(&j, s->syscalls);
	json_fixed(&j, "per_message", s->syscalls_rate, 6);
	json_close(&j, '}');
	json_open(&j, "sleeps", '{');
	put_sides(&j, s->sleeps);
	json_close(&j, '}');
	json_open(&j, "cpu_seconds", '{');
	json_fixed(&j, "client", s->cpu[EVERING_MINE], 6);
	json_fixed(&j, "server", s->cpu[EVERING_PEERS], 6);
	json_close(&j, '}');
	json_close(&j, '}');
	json_end(&j);
}

/* Empty requests --------------------------------------------------------- */

/* As many as take no more than a few milliseconds. */
#define EMPTY_TRIPS 2000u
#define EMPTY_NS 5000000

/* CPU time so far, of this process and of the server. */
static void cpu_so_far(const struct client *c, double seconds[2])
{
	struct timespec ts = { 0 };
	clockid_t clock;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	seconds[EVERING_MINE] = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
	ts = (struct timespec){ 0 };
	if (!clock_getcpuclockid(c->server, &clock))
		clock_gettime(clock, &ts);
	seconds[EVERING_PEERS] = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/*
 * Times requests without data, one after another: what the channel itself takes of a round
 * trip.  The files are through, and a failure here is none of theirs.
 */
static void time_empty(struct client *c)
{
	const struct request req = { .tag = REQUEST_FIRST | REQUEST_ABORT };
	int64_t start = clock_ns(), sent = start, now;
	double before[2];
	struct answer answer;
	unsigned int i;
	int side;

	cpu_so_far(c, before);
	for (i = 0; i < EMPTY_TRIPS && sent - start < EMPTY_NS; i++) {
		if (end_signal ||
		    evering_send(c->ev, &req, sizeof(req), TICK_NS) ||
		    evering_recv(c->ev, &answer, sizeof(answer), TICK_NS))
			break;
		now = clock_ns();
		hist_add(&c->empty, (uint64_t)(now - sent));
		sent = now;
	}
	cpu_so_far(c, c->empty_cpu);
	for (side = 0; side < 2; side++)
		c->empty_cpu[side] -= before[side];
}

/* The whole -------------------------------------------------------------- */

/* Sends what there is to send over a channel that is there. */
static void client_work(struct client *c)
{
	uint32_t depth = c->o->depth;
	uint32_t tag;

	c->chunks = calloc(depth, sizeof(*c->chunks));
	c->free_tags = calloc(depth, sizeof(*c->free_tags));
	if (!c->chunks || !c->free_tags) {
		give_up(c, "no memory", ENOMEM);
		return;
	}
	/* The lowest first, so that little is in flight in little memory. */
	for (tag = depth; tag > 0; tag--)
		c->free_tags[c->free_count++] = tag - 1;
	c->by_line = isatty(STDOUT_FILENO);
	c->progress = !c->o->quiet && progress_wanted();
	if (c->progress) {
		c->census.dir = c->o->dir;
		c->census.cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	}

	c->start_ns = clock_ns();
	c->draw_ns = c->start_ns + PROGRESS_AFTER_NS;
	send_all(c);
	c->end_ns = clock_ns();

	end_census(&c->census);
	progress_erase();
	evering_get_counters(c->ev, EVERING_MINE, &c->counters[EVERING_MINE]);
	evering_get_counters(c->ev, EVERING_PEERS, &c->counters[EVERING_PEERS]);
	if (!end_signal && !c->failed && !c->o->quiet)
		time_empty(c);
}

static void client_free(struct client *c)
{
	uint32_t i;

	for (i = 0; c->chunks && i < c->o->depth; i++)
		free(c->chunks[i].path);
	free(c->chunks);
	free(c->free_tags);
	free(c);
}

static int client_run(struct client *c)
{
	struct summary s;
	int ret;

	ret = spawn_server(c);
	if (!ret)
		ret = meet_server(c);
	if (!ret)
		client_work(c);
	evering_close(c->ev);
	if (reap_server(c))
		ret = -1;

	if (end_signal)
		complain("interrupted by signal %d (%s)", end_signal,
			 strsignal(end_signal));
	if (c->start_ns && !c->o->quiet) {
		summarize(c, &s);
		if (c->o->json)
			print_json(c, &s);
		else
			print_summary(c, &s);
	}
	if (end_signal)
		return 128 + end_signal;
	return ret || c->failed || c->errors ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const char *default_dir(void)
{
	struct stat st;

	if (!stat(EVERING_SOURCE_DIR, &st) && S_ISDIR(st.st_mode))
		return EVERING_SOURCE_DIR;
	return ".";
}

static int check_dir(const char *dir)
{
	const char *more = "";
	struct stat st;
	int err = 0;

	if (stat(dir, &st)) {
		err = errno;
	} else if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
		err = ENOTDIR;
		more = ", nor a regular file";
	}
	if (err)
		complain("%s: %s%s", *dir ? printable(dir) : "''",
			 strerror(err), more);
	return err;
}

/* An abstract name, which leaves no file behind, and which no other process can guess. */
static int default_socket(char *name, size_t size)
{
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
		complain("no random number: %s", strerror(errno));
		return -1;
	}
	snprintf(name, size, "@evering-run.%d.%016llx", (int)getpid(),
		 (unsigned long long)random);
	return 0;
}

int cmd_run(int argc, char **argv)
{
	char name[MAX_SOCKET_PATH + 1];
	struct client *c;
	struct options o;
	int status;

	set_command("evering run");
	status = run_options(&o, argc, argv);
	if (status >= 0)
		return status;
	if (o.control >= 0)
		return usage_error("unknown option '--control'");
	if (!o.dir)
		o.dir = default_dir();
	if (check_dir(o.dir))
		return EXIT_FAILURE;
	if (!o.socket) {
		if (default_socket(name, sizeof(name)))
			return EXIT_FAILURE;
		o.socket = name;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		complain("no memory: %s", strerror(ENOMEM));
		return EXIT_FAILURE;
	}
	c->o = &o;
	c->census.cwd = -1;
	catch_end_signals();
	signal(SIGPIPE, SIG_IGN);
	status = client_run(c);
	client_free(c);
	return status;
}
