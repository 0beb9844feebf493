// SPDX-License-Identifier: MIT
/*
 * loop_uring: a server with many channels on one thread, with liburing.
 *
 *	loop_uring serve FILE			in one terminal
 *	loop_uring drive FILE			in another: 100 channels
 *
 * The turns are those of loop_epoll.c.  What is different: each channel is watched by
 * one multishot poll, and so being woken costs no submission; and the blocks of FILE
 * are read straight into the arena of the channel that asks, a fixed buffer of the
 * ring, and given to its client.  With O_DIRECT, where the file system has it, nobody
 * copies a byte between the disk and the client's eyes.
 *
 * A client that goes leaves a poll and some reads behind in the kernel: its memory
 * stays until they have ended.
 */
#define _GNU_SOURCE
#include <sys/signalfd.h>

#include <evering_uring.h>

#include "drive.h"

#define MOST_CLIENTS 1024u /* places for arenas */

/* What the user_data of a completion points to begins with this; NULL: nothing. */
enum kind {
	LISTENER,
	SIGNALS,
	WATCH, /* of a struct client */
	READ, /* a struct read */
};

/* A block on its way from the file to the arena. */
struct read {
	enum kind kind;
	bool busy;
	struct client *client;
	uint64_t id; /* of the request */
	void *buf;
};

struct client {
	enum kind kind;
	struct client *next, **at; /* of all */
	struct client *behind; /* in the queue */
	bool queued;
	bool gone; /* and is freed when nothing refers to it */
	bool fixed; /* its arena is registered */
	unsigned int place; /* for that */
	struct evering *ev;
	struct evering_ops *ops;
	struct evering_uring watch;
	uint64_t total;
	struct read reads[DEPTH];
	unsigned int reading;
	struct evering_request waiting[DEPTH]; /* for room in the arena */
	unsigned int waiting_count;
};

static struct {
	struct io_uring ring;
	struct evering_listener *listener;
	enum kind listening, signalled; /* their events */
	bool deaf; /* not listening: no descriptors or no memory for more */
	bool stop;
	int signals;
	int file;
	struct client *clients;
	struct client *head, **tail;
	bool places[MOST_CLIENTS];
} server;

static void client_queue(struct client *c)
{
	if (c->queued)
		return;
	c->queued = true;
	c->behind = NULL;
	*server.tail = c;
	server.tail = &c->behind;
}

static struct client *client_unqueue(void)
{
	struct client *c = server.head;

	server.head = c->behind;
	if (!server.head)
		server.tail = &server.head;
	c->queued = false;
	return c;
}

/* Room for a submission; without any this server could not go on. */
static struct io_uring_sqe *submission(void)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&server.ring);

	while (!sqe) {
		io_uring_submit(&server.ring);
		sqe = io_uring_get_sqe(&server.ring);
	}
	return sqe;
}

/* Tells once: a poll of this kind looks before it waits. */
static void watch_once(int fd, enum kind *event)
{
	struct io_uring_sqe *sqe = submission();

	io_uring_prep_poll_add(sqe, fd, POLLIN);
	io_uring_sqe_set_data(sqe, event);
}

static void listen_again(void)
{
	server.deaf = server.stop;
	if (!server.stop)
		watch_once(evering_listener_fd(server.listener),
			   &server.listening);
}

/* ------------------------------------------------------------- the end of one */

static void client_free(struct client *c)
{
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	if (c->fixed)
		evering_uring_unregister_arena(&server.ring, c->place);
	if (c->place < MOST_CLIENTS)
		server.places[c->place] = false;
	evering_ops_close(c->ops);
	evering_close(c->ev);
	free(c);
	/* Now there is room for another. */
	if (server.deaf)
		listen_again();
}

/* Not while it is queued.  The last of its completions comes here, too. */
static void client_drop(struct client *c)
{
	int ret;

	c->gone = true;
	ret = evering_uring_stop(&server.ring, &c->watch);
	if (ret < 0)
		client_queue(c); /* to try again */
	else if (!ret && !c->reading)
		client_free(c);
}

/* ------------------------------------------------------------------- blocks */

/* False: there is no room. */
static bool read_block(struct client *c, const struct evering_request *request)
{
	struct io_uring_sqe *sqe;
	struct read *read = c->reads;
	uint64_t number;

	memcpy(&number, request->data, sizeof(number));
	/* No more than DEPTH are ever unanswered: the library sees to it. */
	while (read->busy)
		read++;
	read->buf = evering_alloc(c->ev, BLOCK, BLOCK);
	if (!read->buf)
		return false;
	read->kind = READ;
	read->busy = true;
	read->client = c;
	read->id = request->id;
	c->reading++;
	sqe = submission();
	if (c->fixed)
		io_uring_prep_read_fixed(sqe, server.file, read->buf,
					 (unsigned int)BLOCK, number * BLOCK,
					 (int)c->place);
	else
		io_uring_prep_read(sqe, server.file, read->buf,
				   (unsigned int)BLOCK, number * BLOCK);
	io_uring_sqe_set_data(sqe, read);
	return true;
}

static void read_done(struct read *read, int result)
{
	struct client *c = read->client;
	bool given = false;

	if (!c->gone && result > 0)
		given = !evering_op_answer_buffer(c->ops, read->id, 0,
						  read->buf, (uint64_t)result);
	else if (!c->gone)
		evering_op_answer(c->ops, read->id, result, NULL, 0);
	if (!given)
		evering_free(c->ev, read->buf);
	read->busy = false;
	c->reading--;
	if (!c->gone)
		client_queue(c); /* its turn ends with waking it */
	else if (!c->queued)
		client_drop(c);
}

static void handle(struct client *c, const struct evering_request *request)
{
	uint64_t number = UINT64_MAX;

	if (request->opcode == REQUEST_BLOCK && !request->flags &&
	    request->len == sizeof(number))
		memcpy(&number, request->data, sizeof(number));
	if (server.file < 0 || number > INT64_MAX / BLOCK)
		server_answer(c->ops, request, &c->total);
	else if (!read_block(c, request))
		c->waiting[c->waiting_count++] = *request;
}

static void retry_waiting(struct client *c)
{
	unsigned int i, count = c->waiting_count;

	c->waiting_count = 0;
	for (i = 0; i < count; i++)
		if (!read_block(c, &c->waiting[i]))
			c->waiting[c->waiting_count++] = c->waiting[i];
}

/* ----------------------------------------------------------------- a client */

static void client_turn(struct client *c)
{
	struct evering_request request;
	unsigned int i;
	short events;
	int ret = 0;

	if (c->gone) {
		client_drop(c);
		return;
	}
	tally_turn(c, server.head != NULL);
	for (i = 0; i < TURN; i++) {
		ret = evering_op_next(c->ops, &request, EVERING_NOWAIT);
		if (ret)
			break;
		tally_request();
		handle(c, &request);
	}
	/* What was given may have come home meanwhile. */
	retry_waiting(c);
	if (!ret) {
		/* It is not to sleep while what it waits for is there. */
		evering_ops_flush(c->ops);
		client_queue(c);
		return;
	}
	if (ret == -EAGAIN)
		ret = evering_ops_arm(c->ops, &events);
	if (ret == 0)
		ret = evering_uring_watch(&server.ring, &c->watch);
	if (ret > 0) {
		client_queue(c);
		return;
	}
	/* Gone, whether it closed the channel or was killed; the rest is news. */
	if (ret < 0 && ret != -EPIPE)
		loop_fail("client", ret);
	if (ret < 0)
		client_drop(c);
}

static int client_add(struct evering *ev)
{
	struct client *c = calloc(1, sizeof(*c));
	int ret = -ENOMEM;

	if (!c)
		goto close;
	c->kind = WATCH;
	c->ev = ev;
	ret = server_open(ev, &c->ops);
	if (ret)
		goto free;
	evering_uring_init(&c->watch, ev, EVERING_RX | EVERING_TX,
			   (uintptr_t)c);
	while (c->place < MOST_CLIENTS && server.places[c->place])
		c->place++;
	if (c->place < MOST_CLIENTS) {
		server.places[c->place] = true;
		/* If it may not pin so much, the kernel looks each page up. */
		c->fixed = server.file >= 0 &&
			   !evering_uring_register_arena(&server.ring, c->place,
							 ev);
	}
	c->at = &server.clients;
	c->next = server.clients;
	if (c->next)
		c->next->at = &c->next;
	server.clients = c;
	tally.channels++;
	client_queue(c);
	return 0;
free:
	free(c);
close:
	evering_close(ev);
	return ret;
}

static void client_accept(void)
{
	struct evering_params limits = server_limits();
	struct evering *ev;
	int ret;

	ret = evering_accept(server.listener, &limits, EVERING_NOWAIT, &ev);
	if (!ret)
		ret = client_add(ev);
	if (ret && ret != -EAGAIN && ret != -EINTR) {
		loop_fail("accept", ret);
		/* What is missing comes back when a client goes. */
		server.deaf = server.clients != NULL;
	}
	if (!server.deaf)
		listen_again();
}

/* ----------------------------------------------------------------- the loop */

static void server_stop(void)
{
	struct client *c, *next;

	server.stop = server.deaf = true;
	while (server.head)
		client_unqueue();
	for (c = server.clients; c; c = next) {
		next = c->next;
		client_drop(c);
	}
}

static int server_event(const struct io_uring_cqe *cqe)
{
	enum kind *event = io_uring_cqe_get_data(cqe);
	struct client *c;
	int ret;

	if (!event)
		return 0;
	switch (*event) {
	case SIGNALS:
		server_stop();
		break;
	case LISTENER:
		if (!server.stop)
			client_accept();
		break;
	case READ:
		read_done((struct read *)event, cqe->res);
		break;
	case WATCH:
		c = (struct client *)event;
		ret = evering_uring_event(&c->watch, cqe);
		if (ret < 0)
			return ret;
		if (!c->gone)
			client_queue(c);
		else if (!c->queued)
			client_drop(c);
		break;
	}
	return 0;
}

/* Until a signal has come and everybody has gone.  0, or negative errno. */
static int server_run(void)
{
	struct io_uring_cqe *cqe, *cqes[64];
	struct client *last, *c;
	unsigned int i, count;
	int ret;

	while (!server.stop || server.clients) {
		ret = evering_uring_wait(&server.ring,
					 server.head ? EVERING_NOWAIT :
						       EVERING_WAIT_FOREVER,
					 &cqe);
		/* -EBUSY: completions have to be taken first. */
		if (ret && ret != -EAGAIN && ret != -EINTR && ret != -EBUSY)
			return ret;
		count = io_uring_peek_batch_cqe(&server.ring, cqes, 64);
		for (i = 0; i < count; i++) {
			ret = server_event(cqes[i]);
			if (ret)
				return ret;
		}
		io_uring_cq_advance(&server.ring, count);
		/* A turn for each who is queued now; then the ring is asked. */
		for (last = NULL, c = server.head; c; c = c->behind)
			last = c;
		while (last) {
			c = client_unqueue();
			if (c == last)
				last = NULL;
			client_turn(c);
		}
	}
	return 0;
}

static int server_open_file(const char *file)
{
	server.file = -1;
	if (!file)
		return 0;
	server.file = open(file, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (server.file < 0 && errno == EINVAL)
		server.file = open(file, O_RDONLY | O_CLOEXEC);
	return server.file < 0 ? -errno : 0;
}

static int serve(const char *path, const char *file)
{
	sigset_t set;
	int ret;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	server.tail = &server.head;
	server.listening = LISTENER;
	server.signalled = SIGNALS;
	ret = server_open_file(file);
	if (ret) {
		fprintf(stderr, "%s: %s: %s; FILE has to be one to read\n",
			loop_name, file, strerror(-ret));
		return EXIT_FAILURE;
	}
	server.signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (server.signals < 0)
		return loop_fail("start", -errno);
	ret = io_uring_queue_init(512, &server.ring, IORING_SETUP_CLAMP);
	if (ret)
		return loop_fail("io_uring", ret);
	ret = io_uring_register_buffers_sparse(&server.ring, MOST_CLIENTS);
	if (ret)
		fprintf(stderr, "%s: no fixed buffers: %s; needs Linux 5.19\n",
			loop_name, strerror(-ret));
	ret = evering_listen(path, 0600, &server.listener);
	if (!ret) {
		watch_once(server.signals, &server.signalled);
		listen_again();
		printf("listening at %s\n", path);
		fflush(stdout);
		ret = server_run();
	}
	evering_listener_close(server.listener);
	io_uring_queue_exit(&server.ring);
	close(server.signals);
	if (server.file >= 0)
		close(server.file);
	if (ret)
		return loop_fail(path, ret);
	tally_print();
	return EXIT_SUCCESS;
}

LOOP_EXAMPLE("loop_uring", true)
