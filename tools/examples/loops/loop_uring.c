// SPDX-License-Identifier: MIT
/*
 * loop_uring: a server with many channels on one thread, with liburing.
 *
 *	loop_uring serve FILE			in one terminal
 *	loop_uring drive FILE			in another: 100 channels
 *
 * For the io_uring a server is one descriptor to poll.  The blocks of FILE are read
 * straight into the arena of the channel that asks, which is a fixed buffer of the
 * io_uring, and are given to the client.  With O_DIRECT, if the file system has it, no
 * byte is copied between the disk and the client.
 *
 * A client that ends may leave reads in the kernel, so its memory is held until they
 * have ended.
 */
#define _GNU_SOURCE
#include <sys/signalfd.h>

#include <evering_uring.h>

#include "drive.h"

#define MOST_CLIENTS 1024u /* places for arenas */

/*
 * A block on its way from the file to the arena.  Its address is the user_data of its
 * completion.
 */
struct read {
	struct client *client;
	uint64_t id; /* the request's number; 0: there is none */
	void *buf;
};

struct client {
	struct evering_client *pub;
	unsigned int reading;
	uint64_t total;
	bool fixed; /* its arena is registered */
	unsigned int place; /* the place of the arena in the io_uring */
	struct read reads[DEPTH];
	struct evering_request waiting[DEPTH]; /* for room in the arena */
	unsigned int waiting_count;
};

static struct io_uring ring;
static struct evering_server *server;
static int file = -1;
static bool places[MOST_CLIENTS];
static unsigned int clients; /* including those that still read */
static int signals;

/* ------------------------------------------------------------------- blocks */

static struct io_uring_sqe *submission(void)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring)))
		io_uring_submit(&ring);
	return sqe;
}

/* Returns false if there is no room. */
static bool read_block(struct client *c, const struct evering_request *request)
{
	void *buf = evering_alloc(c->pub->ev, BLOCK, BLOCK);
	struct read *read = c->reads;
	struct io_uring_sqe *sqe;
	uint64_t number;

	if (!buf)
		return false;
	/* The library ensures that at most DEPTH are unanswered. */
	while (read->id)
		read++;
	*read = (struct read){ c, request->id, buf };
	memcpy(&number, request->data, sizeof(number));
	c->reading++;
	sqe = submission();
	io_uring_prep_rw(c->fixed ? IORING_OP_READ_FIXED : IORING_OP_READ, sqe,
			 file, buf, (unsigned int)BLOCK, number * BLOCK);
	io_uring_sqe_set_data(sqe, read);
	sqe->buf_index = (__u16)(c->fixed ? c->place : 0);
	return true;
}

/* There may be room again: a read has found nothing, or a given buffer has returned. */
static void read_waiting(struct client *c)
{
	unsigned int i, count = c->waiting_count;

	c->waiting_count = 0;
	for (i = 0; i < count; i++)
		if (!read_block(c, &c->waiting[i]))
			c->waiting[c->waiting_count++] = c->waiting[i];
}

/* Frees a client when it and its reads have ended. */
static void forget(struct client *c)
{
	if (c->pub->ops || c->reading)
		return;
	if (c->fixed) {
		evering_uring_unregister_arena(&ring, c->place);
		places[c->place] = false;
	}
	evering_client_release(c->pub);
	free(c);
	clients--;
}

static void read_done(struct read *read, int result)
{
	struct client *c = read->client;
	struct evering_ops *ops = c->pub->ops;
	bool given = false;

	if (ops && result > 0)
		given = !evering_op_answer_buffer(ops, read->id, 0, read->buf,
						  (uint64_t)result);
	else if (ops)
		evering_op_answer(ops, read->id, result, NULL, 0);
	if (!given)
		evering_free(c->pub->ev, read->buf);
	read->id = 0;
	c->reading--;
	if (ops && !given)
		read_waiting(c);
	forget(c);
}

/* ----------------------------------------------------------------- callbacks */

static int opened(struct evering_client *client)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->pub = client;
	client->user = c;
	evering_client_hold(client);
	clients++;
	while (c->place < MOST_CLIENTS && places[c->place])
		c->place++;
	/* If the process may not pin so much, the kernel looks up each page. */
	c->fixed = file >= 0 && c->place < MOST_CLIENTS &&
		   !evering_uring_register_arena(&ring, c->place, client->ev);
	if (c->fixed)
		places[c->place] = true;
	tally.channels++;
	return 0;
}

static void asked(struct evering_client *client,
		  const struct evering_request *request)
{
	struct client *c = client->user;
	uint64_t number = UINT64_MAX;

	tally_request(client);
	if (request->opcode == REQUEST_BLOCK && !request->flags &&
	    request->len == sizeof(number))
		memcpy(&number, request->data, sizeof(number));
	if (file < 0 || number > INT64_MAX / BLOCK)
		server_answer(client->ops, request, &c->total);
	else if (!read_block(c, request))
		c->waiting[c->waiting_count++] = *request;
}

static void turned(struct evering_client *client)
{
	read_waiting(client->user);
}

static void lost(struct evering_client *client, int why)
{
	if (why != -EPIPE && why != -ESHUTDOWN)
		loop_fail("client", why);
	forget(client->user);
}

/* ----------------------------------------------------------------- the loop */

static void watch(int fd, void *data)
{
	struct io_uring_sqe *sqe = submission();

	io_uring_prep_poll_add(sqe, fd, POLLIN);
	io_uring_sqe_set_data(sqe, data);
}

static void completed(const struct io_uring_cqe *cqe)
{
	void *data = io_uring_cqe_get_data(cqe);

	if (data == &signals)
		evering_server_stop(server, EVERING_NOWAIT);
	else if (data == &server)
		watch(evering_server_fd(server), &server);
	else if (data)
		read_done(data, cqe->res);
}

/*
 * Serves until a signal has come and the clients are gone.  Returns -ESHUTDOWN, or
 * another errno.
 */
static int server_run(void)
{
	struct io_uring_cqe *cqe, *cqes[64];
	int64_t timeout = EVERING_WAIT_FOREVER;
	unsigned int i, count;
	int ret, more;

	watch(signals, &signals);
	watch(evering_server_fd(server), &server);
	for (;;) {
		tally_round();
		more = evering_server_poll(server);
		if (more < 0 && (more != -ESHUTDOWN || !clients))
			return more;
		if (more >= 0)
			timeout = more ? EVERING_NOWAIT :
					 evering_server_timeout(server);
		ret = evering_uring_wait(&ring, timeout, &cqe);
		/* -EBUSY: completions have to be taken first. */
		if (ret && ret != -EAGAIN && ret != -ETIMEDOUT &&
		    ret != -EINTR && ret != -EBUSY)
			return ret;
		count = io_uring_peek_batch_cqe(&ring, cqes, 64);
		for (i = 0; i < count; i++)
			completed(cqes[i]);
		io_uring_cq_advance(&ring, count);
	}
}

static int open_file(const char *path)
{
	if (!path)
		return 0;
	file = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (file < 0 && errno == EINVAL)
		file = open(path, O_RDONLY | O_CLOEXEC);
	return file < 0 ? -errno : 0;
}

static int serve(const char *path, const char *blocks)
{
	struct evering_server_params params = server_params();
	sigset_t set;
	int ret;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	ret = open_file(blocks);
	if (ret) {
		fprintf(stderr, "%s: %s: %s; FILE has to be one to read\n",
			loop_name, blocks, strerror(-ret));
		return EXIT_FAILURE;
	}
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (signals < 0)
		return loop_fail("start", -errno);
	ret = io_uring_queue_init(512, &ring, IORING_SETUP_CLAMP);
	if (ret)
		return loop_fail("io_uring", ret);
	ret = io_uring_register_buffers_sparse(&ring, MOST_CLIENTS);
	if (ret)
		fprintf(stderr, "%s: no fixed buffers: %s; needs Linux 5.19\n",
			loop_name, strerror(-ret));
	params.open = opened;
	params.request = asked;
	params.turn = turned;
	params.close = lost;
	ret = server_open(path, &params, &server);
	if (!ret) {
		printf("listening at %s\n", path);
		fflush(stdout);
		ret = server_run();
	}
	evering_server_close(server);
	io_uring_queue_exit(&ring);
	close(signals);
	if (file >= 0)
		close(file);
	if (ret != -ESHUTDOWN)
		return loop_fail(path, ret);
	tally_print();
	return EXIT_SUCCESS;
}

LOOP_EXAMPLE("loop_uring", true)
