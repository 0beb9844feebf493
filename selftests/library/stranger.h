/* SPDX-License-Identifier: MIT */
/*
 * stranger.h: for tests of what strangers do at the door: sockets to send packets over,
 * and genuine descriptors to send something else with.
 */
#ifndef EVERING_SELFTESTS_STRANGER_H
#define EVERING_SELFTESTS_STRANGER_H

#include "common.h"
#include "hello.h"

#include <sys/mman.h>

/* The most descriptors that a packet takes (SCM_MAX_FD). */
#define MAX_FDS 253

#define NOBODY 65534u

static inline int raw_socket(const char *path, int flags, bool listens)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	socklen_t len = offsetof(struct sockaddr_un, sun_path) +
			(socklen_t)strlen(path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
	int error;

	memcpy(a.sun_path, path, strlen(path));
	if (path[0] == '@')
		a.sun_path[0] = 0;
	else
		len++;
	if (fd >= 0 &&
	    !(listens ? bind(fd, (struct sockaddr *)&a, len) || listen(fd, 8) :
			connect(fd, (struct sockaddr *)&a, len)))
		return fd;
	error = errno;
	if (fd >= 0)
		close(fd);
	return -error;
}

/* 0, or a negative errno.  Waits while the other side's queue is full. */
static inline int raw_send(int sock, const void *data, size_t len,
			   const int *fds, int n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;

	if (n) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)n * sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -errno;
}

/* A packet: its bytes, and its descriptors in @fds, *@n of them.  Or a negative errno. */
static inline ssize_t raw_recv(int sock, void *data, size_t size,
			       int fds[MAX_FDS], int *n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control;
	struct iovec iov = { data, size };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	ssize_t ret = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);

	*n = 0;
	if (ret < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		*n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (size_t)*n * sizeof(int));
	}
	return ret;
}

static inline void close_all(const int *fds, int n)
{
	while (n--)
		close(fds[n]);
}

/* A hello as the library says it, with its descriptors; 0, or a negative errno. */
static inline int genuine_hello(const struct evering_params *p,
				struct hello *hello, int fds[MAX_FDS], int *n)
{
	struct evering *ev;
	int sv[2], ret;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -errno;
	/* It goes away, as nobody answers at once; what it said stays. */
	ret = evering_connect_fd(sv[0], p, EVERING_NOWAIT, &ev);
	if (ret == -EAGAIN)
		ret = raw_recv(sv[1], hello, sizeof(*hello), fds, n) ==
				      sizeof(*hello) ?
			      0 :
			      -EPROTO;
	close(sv[0]);
	close(sv[1]);
	return ret;
}

/* The welcome to a genuine hello; its endpoint, which must stay, in @ev. */
static inline int genuine_welcome(const struct hello *hello, const int *theirs,
				  int count, struct welcome *welcome,
				  int fds[MAX_FDS], int *n, struct evering **ev)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	int sv[2], ret;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -errno;
	ret = raw_send(sv[1], hello, sizeof(*hello), theirs, count);
	if (!ret)
		ret = evering_accept_fd(sv[0], &limits, PLENTY, ev);
	if (ret)
		close(sv[0]);
	else if (raw_recv(sv[1], welcome, sizeof(*welcome), fds, n) !=
		 sizeof(*welcome))
		ret = -EPROTO;
	close(sv[1]);
	return ret;
}

/* Root goes on as somebody else; PR_SET_PDEATHSIG does not outlast that. */
static inline int become_nobody(void)
{
	if (!geteuid() && (setresgid(NOBODY, NOBODY, NOBODY) ||
			   setresuid(NOBODY, NOBODY, NOBODY)))
		return -errno;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

/* Zeroed memory that children share. */
static inline void *shared_memory(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* A client in a thread of its own. */
struct client {
	const char *path;
	const struct evering_params *params;
	struct evering *ev;
	int ret;
	pthread_t t;
};

static inline void *client_main(void *arg)
{
	struct client *c = arg;

	c->ret = evering_connect(c->path, c->params, PLENTY, &c->ev);
	return NULL;
}

/* Meets at @path, and nothing is left of it.  0, or why not. */
static inline int serves(struct evering_listener *l, const char *path,
			 const struct evering_params *params)
{
	struct client c = { .path = path, .params = params, .ret = 1 };
	uint32_t v = 41, w = 0;
	struct evering *ev;
	int ret;

	if (pthread_create(&c.t, NULL, client_main, &c))
		return -EAGAIN;
	ret = evering_accept(l, NULL, PLENTY, &ev);
	pthread_join(c.t, NULL);
	if (!ret && !c.ret)
		ret = evering_send(c.ev, &v, 4, 0);
	if (!ret && !c.ret)
		ret = evering_recv(ev, &w, 4, PLENTY);
	if (!ret && !c.ret && w != v)
		ret = -EBADMSG;
	if (!c.ret)
		evering_close(c.ev);
	if (!ret)
		evering_close(ev);
	return ret ? ret : c.ret;
}

/* Nobody is left to be waited for, the library's own children included. */
static inline bool no_children(void)
{
	return EVENTUALLY(waitpid(-1, NULL, __WALL | WNOHANG) < 0 &&
			  errno == ECHILD);
}

#endif /* EVERING_SELFTESTS_STRANGER_H */
