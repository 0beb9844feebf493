// SPDX-License-Identifier: MIT
/*
 * What is between the two sides of MODE_RELAY_*, as if each were on a machine of its own:
 *
 *	client <-channel->     evering-relay <-TCP-> evering-relay <-channel->     server
 *	client <-Unix socket-> proxy         <-TCP-> proxy         <-Unix socket-> server
 *
 * The sides are those of evering.c and of epoll.c.  A proxy is what one would write without
 * evering: edge-triggered epoll, non-blocking sockets, TCP_NODELAY; it reads as much as there
 * is and writes it at once.
 *
 * fi_pingpong: libfabric's own program, over its tcp provider, between two processes that
 * spin and no others: what the relays' transport takes alone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "uds.h"

#define SERVICE "bench"
#define PROXY_BYTES ((size_t)256 << 10)
#define PAUSE_NS 2000000
#define START_NS 10000000000ll
#define PINGPONG "/usr/bin/fi_pingpong"

static void rest(void)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };

	nanosleep(&pause, NULL);
}

static void be_quiet(void)
{
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
}

static int tcp_connect(unsigned int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	at.sin_port = htons((in_port_t)port);
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || !connect(fd, (struct sockaddr *)&at, sizeof(at)))
		return fd;
	close(fd);
	return -1;
}

/* Relays ------------------------------------------------------------------ */

const char *relay_missing(void)
{
	char path[PATH_LEN];

	find_beside(path, "evering-relay");
	return access(path, X_OK) ? "not built: needs libfabric-dev" : NULL;
}

/* Until it listens. */
static void wait_for_relay(struct side *s, unsigned int port)
{
	int64_t deadline = clock_ns() + START_NS;
	int fd;

	while ((fd = tcp_connect(port)) < 0) {
		if (clock_ns() > deadline ||
		    waitpid(s->helper, NULL, WNOHANG) == s->helper)
			fail(s, "evering-relay does not start");
		rest();
	}
	close(fd);
}

void relay_begin(struct side *s, char name[NAME_LEN])
{
	char path[PATH_LEN], here[64], there[64];
	unsigned int port = common_port(s, NULL);

	own_name(s, name);
	if (s->server) {
		snprintf(here, sizeof(here), "--bind=127.0.0.1:%u", port);
		snprintf(there, sizeof(there), "--serve=" SERVICE "=%s", name);
	} else {
		wait_for_server(s);
		strcat(name, "-in");
		snprintf(here, sizeof(here), "--listen=%s", name);
		snprintf(there, sizeof(there), "--to=127.0.0.1:%u/" SERVICE,
			 port);
	}
	find_beside(path, "evering-relay");
	if (start_helper(s)) {
		/* One of them is the first to go, which the other one would say. */
		be_quiet();
		execl(path, path, here, there, NULL);
		_exit(EXIT_FAILURE);
	}
	if (!s->server)
		return;
	wait_for_relay(s, port);
	wait_for_server(s);
}

/* Proxies ----------------------------------------------------------------- */

/**
 * struct way - one direction of a proxy
 * @begin, @end: what of @buf was read and is not yet written
 * @readable: there may be more
 */
struct way {
	int from, to;
	size_t begin, end;
	bool readable;
	unsigned char *buf;
};

/* Until one end or the other has to be waited for; false: one is gone. */
static bool pass(struct way *w)
{
	ssize_t n;

	for (;;) {
		if (w->begin < w->end) {
			n = send(w->to, w->buf + w->begin, w->end - w->begin,
				 MSG_NOSIGNAL);
			if (n < 0)
				return errno == EAGAIN;
			w->begin += (size_t)n;
			continue;
		}
		if (!w->readable)
			return true;
		n = recv(w->from, w->buf, PROXY_BYTES, 0);
		if (n < 0 && errno == EAGAIN)
			n = -1;
		else if (n <= 0)
			return false;
		/* A short read leaves nothing; an event since then is reported. */
		w->readable = n == (ssize_t)PROXY_BYTES;
		w->begin = 0;
		w->end = n < 0 ? 0 : (size_t)n;
	}
}

/* Between @fd[0] and @fd[1]; ends as a process. */
static void proxy(struct side *s, const int fd[2])
{
	struct epoll_event events[2], event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
	};
	int epoll = epoll_create1(EPOLL_CLOEXEC), i, n;
	struct way ways[2];
	bool both = true;

	for (i = 0; i < 2; i++) {
		ways[i] = (struct way){ .from = fd[i],
					.to = fd[!i],
					.readable = true,
					.buf = malloc(PROXY_BYTES) };
		event.data.u32 = (uint32_t)i;
		if (!ways[i].buf || fcntl(fd[i], F_SETFL, O_NONBLOCK) ||
		    epoll_ctl(epoll, EPOLL_CTL_ADD, fd[i], &event))
			fail(s, "a proxy: %m");
	}
	while (both) {
		n = epoll_wait(epoll, events, 2, -1);
		for (; n > 0 && both; n--) {
			i = (int)events[n - 1].data.u32;
			if (events[n - 1].events & ~EPOLLOUT)
				ways[i].readable = true;
			both = pass(&ways[i]) && pass(&ways[!i]);
		}
	}
	_exit(EXIT_SUCCESS);
}

void chain_begin(struct side *s)
{
	int listener, fd[2], one = 1;
	unsigned int port = common_port(s, s->server ? &listener : NULL);

	if (!s->server)
		listener = listen_anywhere(s);
	if (start_helper(s)) {
		if (s->server) {
			fd[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
			fd[1] = uds_connect(s, 0);
		} else {
			fd[0] = tcp_connect(port);
			fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		}
		if (fd[0] < 0 || fd[1] < 0 ||
		    setsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one,
			       sizeof(one)))
			fail(s, "a proxy: %m");
		proxy(s, fd);
	}
	close(listener);
}

/* fi_pingpong ------------------------------------------------------------- */

static const char *pingpong_missing(void)
{
	return access(PINGPONG, X_OK) ? "not installed: libfabric-bin" : NULL;
}

/* Runs it, and reads the table that it prints; us per half of a round trip, 0: failed. */
static double pingpong(struct side *s, uint64_t ops, unsigned int port)
{
	char text[3][24], line[256];
	int out[2], status;
	double half = 0;
	FILE *in;

	snprintf(text[0], 24, "%llu", (unsigned long long)ops);
	snprintf(text[1], 24, "%llu", (unsigned long long)s->job->size);
	snprintf(text[2], 24, "%u", port);
	if (pipe2(out, O_CLOEXEC))
		fail(s, "pipe: %m");
	if (start_helper(s)) {
		dup2(out[1], STDOUT_FILENO);
		be_quiet();
		execl(PINGPONG, PINGPONG, "-p", "tcp", "-e", "msg", "-I",
		      text[0], "-S", text[1], s->server ? "-B" : "-P", text[2],
		      s->server ? NULL : "127.0.0.1", NULL);
		_exit(EXIT_FAILURE);
	}
	close(out[1]);
	in = fdopen(out[0], "r");
	while (in && fgets(line, sizeof(line), in))
		sscanf(line, "%*s %*s %*s %*s %*s %*s %lf", &half);
	if (in)
		fclose(in);
	waitpid(s->helper, &status, 0);
	s->helper = 0;
	return status ? 0 : half;
}

static void pingpong_work(struct side *s, uint64_t ops)
{
	int64_t deadline = clock_ns() + START_NS;
	unsigned int port;
	double half;

	/* It warms up itself. */
	if (!s->state) {
		s->state = s;
		return;
	}
	port = common_port(s, NULL);
	/* The client's ends at once if the server's does not listen yet. */
	while (!(half = pingpong(s, ops, port))) {
		if (s->server || clock_ns() > deadline)
			fail(s, "fi_pingpong fails");
		rest();
	}
	s->told_ns = (int64_t)(2e3 * half * (double)ops);
	s->done += ops;
}

static void pingpong_nothing(struct side *s)
{
	(void)s;
}

const struct arm pingpong_arm = {
	.name = "fi_pingpong",
	.modes = { [MODE_RELAY_RTT] = ONLY(EVERING_BUSY) },
	.uncounted = RELAY_MODES,
	.missing = pingpong_missing,
	.open = pingpong_nothing,
	.work = pingpong_work,
	.close = pingpong_nothing,
};
