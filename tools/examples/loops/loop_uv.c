// SPDX-License-Identifier: MIT
/*
 * loop_uv: a server with many channels on one thread, with libuv.
 *
 *	loop_uv serve				in one terminal
 *	loop_uv drive				in another: 100 channels
 *
 * The turns are those of loop_epoll.c.  libuv has the queue: a client that may have
 * more to do when its turn ends has an idle handle, which brings it another turn
 * after those of all others, and one that is armed has not.  uv_poll is
 * level-triggered, and so told of a client again and again until that is armed; its
 * turns do nothing but what is to be done anyway.
 *
 * libuv makes the descriptor non-blocking.  On the device that is the endpoint itself,
 * and so nobody waits on it but the loop: every call here is EVERING_NOWAIT.
 */
#define _GNU_SOURCE
#include <uv.h>

#include "drive.h"

struct client {
	uv_poll_t poll;
	uv_idle_t idle;
	struct client *next, **at; /* of all */
	bool queued; /* its idle handle is started */
	unsigned int handles; /* that are not closed yet */
	struct evering *ev;
	struct evering_ops *ops;
	uint64_t total;
};

static struct {
	uv_loop_t loop;
	uv_signal_t term, interrupt;
	uv_poll_t listening;
	bool deaf; /* not listening: no descriptors or no memory for more */
	bool stop;
	struct evering_listener *listener;
	struct client *clients;
	unsigned int queued; /* clients that wait for their turn */
} server;

static void on_listener(uv_poll_t *poll, int status, int events);

/* libuv's errors are negative errno here. */
static void listen_again(void)
{
	if (server.deaf && !server.stop &&
	    !uv_poll_start(&server.listening, UV_READABLE, on_listener))
		server.deaf = false;
}

static void on_client_closed(uv_handle_t *handle)
{
	struct client *c = handle->data;

	if (!--c->handles)
		free(c);
}

/* The channel ends at once, the memory when libuv has done with it. */
static void client_drop(struct client *c)
{
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	server.queued -= c->queued;
	uv_close((uv_handle_t *)&c->poll, on_client_closed);
	uv_close((uv_handle_t *)&c->idle, on_client_closed);
	evering_ops_close(c->ops);
	evering_close(c->ev);
	/* Now there is room for another. */
	listen_again();
}

static void on_idle(uv_idle_t *idle);

static void client_queue(struct client *c, bool queued)
{
	if (queued == c->queued)
		return;
	c->queued = queued;
	if (queued) {
		server.queued++;
		uv_idle_start(&c->idle, on_idle);
	} else {
		server.queued--;
		uv_idle_stop(&c->idle);
	}
}

static void client_turn(struct client *c)
{
	struct evering_request request;
	unsigned int i;
	short events;
	int ret = 0;

	tally_turn(c, server.queued > c->queued);
	for (i = 0; i < TURN; i++) {
		ret = evering_op_next(c->ops, &request, EVERING_NOWAIT);
		if (ret)
			break;
		tally_request();
		server_answer(c->ops, &request, &c->total);
	}
	/* It is not to sleep while what it waits for is there. */
	if (!ret)
		evering_ops_flush(c->ops);
	if (ret == -EAGAIN)
		ret = evering_ops_arm(c->ops, &events);
	else if (!ret)
		ret = 1;
	/* Gone, whether it closed the channel or was killed; the rest is news. */
	if (ret < 0 && ret != -EPIPE)
		loop_fail("client", ret);
	if (ret < 0)
		client_drop(c);
	else
		client_queue(c, ret > 0);
}

static void on_idle(uv_idle_t *idle)
{
	client_turn(idle->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct client *c = poll->data;

	(void)status; /* an error is the peer's end, which the turn finds */
	(void)events;
	/* Who waits for a turn gets it from its idle handle. */
	if (!c->queued)
		client_turn(c);
}

/*
 * Nothing but EVERING_RX is ever armed by who only answers, which is POLLIN on either
 * backend.
 */
static int client_add(struct evering *ev)
{
	struct client *c = calloc(1, sizeof(*c));
	int fd, ret = -ENOMEM;

	if (!c)
		goto close;
	c->ev = ev;
	ret = server_open(ev, &c->ops);
	if (ret)
		goto free;
	fd = evering_fd(ev);
	ret = fd < 0 ? fd : uv_poll_init(&server.loop, &c->poll, fd);
	if (ret)
		goto free;
	uv_idle_init(&server.loop, &c->idle);
	c->poll.data = c;
	c->idle.data = c;
	c->handles = 2;
	c->at = &server.clients;
	c->next = server.clients;
	if (c->next)
		c->next->at = &c->next;
	server.clients = c;
	tally.channels++;
	ret = uv_poll_start(&c->poll, UV_READABLE | UV_DISCONNECT, on_poll);
	if (ret)
		client_drop(c);
	else
		client_queue(c, true);
	return ret;
free:
	evering_ops_close(c->ops);
	free(c);
close:
	evering_close(ev);
	return ret;
}

/* Takes one; libuv tells again if there are more. */
static void on_listener(uv_poll_t *poll, int status, int events)
{
	struct evering_params limits = server_limits();
	struct evering *ev;
	int ret;

	(void)status;
	(void)events;
	ret = evering_accept(server.listener, &limits, EVERING_NOWAIT, &ev);
	if (ret == -EAGAIN || ret == -EINTR)
		return;
	if (!ret)
		ret = client_add(ev);
	if (!ret)
		return;
	loop_fail("accept", ret);
	/* What is missing comes back when a client goes. */
	if (server.clients) {
		uv_poll_stop(poll);
		server.deaf = true;
	}
}

/* Everything is closed, and with that the loop has nothing more to do. */
static void on_signal(uv_signal_t *signal, int number)
{
	(void)signal;
	(void)number;
	if (server.stop)
		return;
	server.stop = true;
	while (server.clients)
		client_drop(server.clients);
	uv_close((uv_handle_t *)&server.listening, NULL);
	uv_close((uv_handle_t *)&server.term, NULL);
	uv_close((uv_handle_t *)&server.interrupt, NULL);
}

static int serve(const char *path, const char *file)
{
	sigset_t none;
	int ret;

	(void)file;
	/* libuv waits for signals that are not blocked, and they may be. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	ret = evering_listen(path, 0600, &server.listener);
	if (ret)
		return loop_fail(path, ret);
	ret = uv_loop_init(&server.loop);
	if (!ret)
		ret = uv_signal_init(&server.loop, &server.term);
	if (!ret)
		ret = uv_signal_init(&server.loop, &server.interrupt);
	if (!ret)
		ret = uv_signal_start(&server.term, on_signal, SIGTERM);
	if (!ret)
		ret = uv_signal_start(&server.interrupt, on_signal, SIGINT);
	if (!ret)
		ret = uv_poll_init(&server.loop, &server.listening,
				   evering_listener_fd(server.listener));
	if (!ret)
		ret = uv_poll_start(&server.listening, UV_READABLE,
				    on_listener);
	if (!ret) {
		printf("listening at %s\n", path);
		fflush(stdout);
		uv_run(&server.loop, UV_RUN_DEFAULT);
		ret = uv_loop_close(&server.loop);
	}
	evering_listener_close(server.listener);
	if (ret)
		return loop_fail("loop", ret);
	tally_print();
	return EXIT_SUCCESS;
}

LOOP_EXAMPLE("loop_uv", false)
