// SPDX-License-Identifier: MIT
/*
 * loop_epoll: a server with many channels on one thread, with epoll(7).
 *
 *	loop_epoll serve			in one terminal
 *	loop_epoll drive			in another: 100 channels
 *
 * A client is in one of two states:
 *
 *	armed	its evering_fd() tells when there is something to do
 *	queued	there may be something to do, and its turn will come
 *
 * In its turn a client has TURN requests answered at the most; if there may be more
 * it goes to the end of the queue, else it is armed.  So nobody waits for longer than
 * a turn of each of the others, and when nobody is queued the thread sleeps.
 *
 * loops/ has the same server with liburing and with libuv, and loops/drive.h the
 * client and the requests.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "loops/drive.h"

struct client {
	struct client *next, **at; /* of all */
	struct client *behind; /* in the queue */
	bool queued;
	struct evering *ev;
	struct evering_ops *ops;
	uint64_t total;
};

static struct {
	int epoll;
	struct evering_listener *listener;
	bool deaf; /* not listening: no descriptors or no memory for more */
	struct client *clients;
	struct client *head, **tail;
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

/* 0, or negative errno.  @data: NULL for the listener. */
static int watch(int op, int fd, uint32_t what, void *data)
{
	struct epoll_event event = { .events = what, .data.ptr = data };

	if (fd < 0)
		return fd;
	return epoll_ctl(server.epoll, op, fd, &event) ? -errno : 0;
}

static void listen_again(void)
{
	if (server.deaf &&
	    !watch(EPOLL_CTL_MOD, evering_listener_fd(server.listener), EPOLLIN,
		   NULL))
		server.deaf = false;
}

/* Not while it is queued. */
static void client_drop(struct client *c)
{
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	evering_ops_close(c->ops);
	evering_close(c->ev);
	free(c);
	/* Now there is room for another. */
	listen_again();
}

static void client_turn(struct client *c)
{
	struct evering_request request;
	unsigned int i;
	short events;
	int ret = 0;

	tally_turn(c, server.head != NULL);
	for (i = 0; i < TURN; i++) {
		ret = evering_op_next(c->ops, &request, EVERING_NOWAIT);
		if (ret)
			break;
		tally_request();
		server_answer(c->ops, &request, &c->total);
	}
	if (!ret) {
		/* It is not to sleep while what it waits for is there. */
		evering_ops_flush(c->ops);
		client_queue(c);
		return;
	}
	if (ret == -EAGAIN)
		ret = evering_ops_arm(c->ops, &events);
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
	c->ev = ev;
	ret = server_open(ev, &c->ops);
	if (ret)
		goto free;
	/*
	 * Edge-triggered, so that who is queued is not told of again and again, and
	 * for all that may ever be armed, so that this is the only system call.
	 */
	ret = watch(EPOLL_CTL_ADD, evering_fd(ev),
		    EPOLLET | (uint32_t)evering_events(ev,
						       EVERING_RX | EVERING_TX),
		    c);
	if (ret)
		goto free;
	c->at = &server.clients;
	c->next = server.clients;
	if (c->next)
		c->next->at = &c->next;
	server.clients = c;
	tally.channels++;
	client_queue(c);
	return 0;
free:
	evering_ops_close(c->ops);
	free(c);
close:
	evering_close(ev);
	return ret;
}

/* Takes one; epoll tells if there are more. */
static void client_accept(void)
{
	struct evering_params limits = server_limits();
	struct evering *ev;
	int ret;

	ret = evering_accept(server.listener, &limits, EVERING_NOWAIT, &ev);
	if (ret == -EAGAIN || ret == -EINTR)
		return;
	if (!ret)
		ret = client_add(ev);
	if (!ret)
		return;
	loop_fail("accept", ret);
	/* What is missing comes back when a client goes. */
	if (server.clients &&
	    !watch(EPOLL_CTL_MOD, evering_listener_fd(server.listener), 0,
		   NULL))
		server.deaf = true;
}

/* Until a signal comes.  0, or negative errno. */
static int server_run(void)
{
	struct epoll_event events[64];
	struct client *last, *c;
	int i, n;

	for (;;) {
		n = epoll_wait(server.epoll, events, 64, server.head ? 0 : -1);
		if (n < 0 && errno != EINTR)
			return -errno;
		for (i = 0; i < n; i++) {
			if (events[i].data.ptr == &server)
				return 0;
			if (events[i].data.ptr)
				client_queue(events[i].data.ptr);
			else
				client_accept();
		}
		/* A turn for each who is queued now; then epoll is asked again. */
		for (last = NULL, c = server.head; c; c = c->behind)
			last = c;
		while (last) {
			c = client_unqueue();
			if (c == last)
				last = NULL;
			client_turn(c);
		}
	}
}

static int serve(const char *path, const char *file)
{
	sigset_t set;
	int ret, signals;

	(void)file;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	server.tail = &server.head;
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	server.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (signals < 0 || server.epoll < 0)
		return loop_fail("start", -errno);
	ret = watch(EPOLL_CTL_ADD, signals, EPOLLIN, &server);
	if (!ret)
		ret = evering_listen(path, 0600, &server.listener);
	if (!ret)
		ret = watch(EPOLL_CTL_ADD, evering_listener_fd(server.listener),
			    EPOLLIN, NULL);
	if (!ret) {
		printf("listening at %s\n", path);
		fflush(stdout);
		ret = server_run();
	}
	while (server.head)
		client_unqueue();
	while (server.clients)
		client_drop(server.clients);
	evering_listener_close(server.listener);
	close(signals);
	close(server.epoll);
	if (ret)
		return loop_fail(path, ret);
	tally_print();
	return EXIT_SUCCESS;
}

LOOP_EXAMPLE("loop_epoll", false)
