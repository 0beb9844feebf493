// SPDX-License-Identifier: MIT
/*
 * loop_epoll: a server with many channels on one thread, in an epoll(7) loop that also
 * does other things: here, it waits for signals.
 *
 *	loop_epoll serve			in one terminal
 *	loop_epoll drive			in another: 100 channels
 *
 * For the loop a server is one descriptor.  When evering_server_poll() has returned 0,
 * the descriptor becomes readable when there is something to do again.
 *
 * loops/ has the same server with liburing and with libuv. loops/drive.h has the client
 * and the requests.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "loops/drive.h"

/* Returns 0 or a negative errno. */
static int watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

/*
 * Serves until a signal has come and the clients are gone.  Returns -ESHUTDOWN, or
 * another errno.
 */
static int server_run(struct evering_server *server, int epoll, int signals)
{
	struct epoll_event event;
	int timeout, ret;

	for (;;) {
		tally_round();
		ret = evering_server_poll(server);
		if (ret < 0)
			return ret;
		timeout = ret ? 0 :
				milliseconds(evering_server_timeout(server));
		ret = epoll_wait(epoll, &event, 1, timeout);
		if (ret < 0 && errno != EINTR)
			return -errno;
		if (ret > 0 && event.data.fd == signals)
			evering_server_stop(server, EVERING_NOWAIT);
	}
}

static int serve(const char *path, const char *file)
{
	struct evering_server_params params = server_params();
	struct evering_server *server = NULL;
	int ret, signals, epoll;
	sigset_t set;

	(void)file;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (signals < 0 || epoll < 0)
		return loop_fail("start", -errno);
	ret = server_open(path, &params, &server);
	if (!ret)
		ret = watch(epoll, signals);
	if (!ret)
		ret = watch(epoll, evering_server_fd(server));
	if (!ret) {
		printf("listening at %s\n", path);
		fflush(stdout);
		ret = server_run(server, epoll, signals);
	}
	evering_server_close(server);
	close(signals);
	close(epoll);
	if (ret != -ESHUTDOWN)
		return loop_fail(path, ret);
	tally_print();
	return EXIT_SUCCESS;
}

LOOP_EXAMPLE("loop_epoll", false)
