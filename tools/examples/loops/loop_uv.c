// SPDX-License-Identifier: MIT
/*
 * loop_uv: a server with many channels on one thread, with libuv.
 *
 *	loop_uv serve				in one terminal
 *	loop_uv drive				in another: 100 channels
 *
 * For libuv a server is one descriptor, a timer, and an idle handle.  The idle handle
 * runs while there is more to do, so that the other handles of the loop get their turns
 * in between.
 */
#define _GNU_SOURCE
#include <uv.h>

#include "drive.h"

static struct {
	uv_loop_t loop;
	uv_signal_t term, interrupt;
	uv_poll_t poll;
	uv_timer_t timer;
	uv_idle_t idle;
	struct evering_server *server;
} uv;

static void turn(void);

static void on_idle(uv_idle_t *idle)
{
	(void)idle;
	turn();
}

static void on_timer(uv_timer_t *timer)
{
	(void)timer;
	turn();
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	(void)poll;
	(void)status;
	(void)events;
	turn();
}

static void on_signal(uv_signal_t *signal, int number)
{
	(void)signal;
	(void)number;
	evering_server_stop(uv.server, EVERING_NOWAIT);
}

static void turn(void)
{
	int64_t timeout;
	int ret;

	tally_round();
	ret = evering_server_poll(uv.server);
	if (ret < 0) {
		uv_stop(&uv.loop);
	} else if (ret) {
		uv_idle_start(&uv.idle, on_idle);
	} else {
		uv_idle_stop(&uv.idle);
		timeout = evering_server_timeout(uv.server);
		if (timeout == EVERING_WAIT_FOREVER)
			uv_timer_stop(&uv.timer);
		else
			uv_timer_start(&uv.timer, on_timer,
				       (uint64_t)milliseconds(timeout), 0);
	}
}

static void close_handle(uv_handle_t *handle, void *arg)
{
	(void)arg;
	uv_close(handle, NULL);
}

static int serve(const char *path, const char *file)
{
	struct evering_server_params params = server_params();
	sigset_t none;
	int ret;

	(void)file;
	/* libuv waits only for signals that are not blocked, and these may be. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	ret = server_open(path, &params, &uv.server);
	if (ret)
		return loop_fail(path, ret);
	/* libuv's errors are negative errno here. */
	ret = uv_loop_init(&uv.loop);
	if (!ret)
		ret = uv_poll_init(&uv.loop, &uv.poll,
				   evering_server_fd(uv.server));
	if (ret)
		return loop_fail("loop", ret);
	uv_timer_init(&uv.loop, &uv.timer);
	uv_idle_init(&uv.loop, &uv.idle);
	uv_signal_init(&uv.loop, &uv.term);
	uv_signal_init(&uv.loop, &uv.interrupt);
	uv_signal_start(&uv.term, on_signal, SIGTERM);
	uv_signal_start(&uv.interrupt, on_signal, SIGINT);
	uv_poll_start(&uv.poll, UV_READABLE, on_poll);
	uv_idle_start(&uv.idle, on_idle);
	printf("listening at %s\n", path);
	fflush(stdout);
	uv_run(&uv.loop, UV_RUN_DEFAULT);
	uv_walk(&uv.loop, close_handle, NULL);
	uv_run(&uv.loop, UV_RUN_DEFAULT);
	uv_loop_close(&uv.loop);
	evering_server_close(uv.server);
	tally_print();
	return EXIT_SUCCESS;
}

LOOP_EXAMPLE("loop_uv", false)
