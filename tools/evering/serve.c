// SPDX-License-Identifier: MIT
/*
 * The server of evering run: meets the client that started it, hashes what the
 * client sends, in place, and ends with the client.  run.c describes the whole.
 */
#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/evp.h>

#include <evering.h>

#include "run.h"
#include "util.h"

struct server {
	const struct options *o;
	struct evering *ev;
	struct record *records; /* one every UNIT bytes, in the own arena */
	uint32_t records_place;
	int64_t woken_ns;
	EVP_MD *sha256;
	EVP_MD_CTX *hash;
	bool in_file;
};

static struct record *record_of(const struct server *s, uint32_t tag)
{
	return (struct record *)((char *)s->records + (size_t)tag * UNIT);
}

/* 0, or what to answer before giving up. */
static int serve_request(struct server *s, const struct request *req)
{
	uint32_t flags = req->tag & ~REQUEST_TAG;
	uint32_t tag = req->tag & REQUEST_TAG;
	const void *data;

	if (flags & ~(REQUEST_FIRST | REQUEST_LAST | REQUEST_ABORT))
		return -EPROTO;
	if (tag >= s->o->depth || s->in_file == !!(flags & REQUEST_FIRST))
		return -EPROTO;
	record_of(s, tag)->woken_ns = s->woken_ns;
	record_of(s, tag)->taken_ns = clock_ns();
	if (flags & REQUEST_ABORT) {
		s->in_file = false;
		return 0;
	}
	data = evering_peer_buffer(s->ev, (uint64_t)req->place * UNIT,
				   req->length);
	if (!data)
		return -EPROTO;

	if ((flags & REQUEST_FIRST) &&
	    !EVP_DigestInit_ex(s->hash, s->sha256, NULL))
		return -ENOMEM;
	s->in_file = !(flags & REQUEST_LAST);
	if (!EVP_DigestUpdate(s->hash, data, req->length))
		return -EIO;
	if (flags & REQUEST_LAST &&
	    !EVP_DigestFinal_ex(s->hash, record_of(s, tag)->digest, NULL))
		return -EIO;
	return 0;
}

/* Waits for room if need be; 0 or a negative errno. */
static int send_answer(struct server *s, const struct answer *answer)
{
	void *slot;
	int ret;

	while (!(slot = evering_reserve(s->ev))) {
		ret = evering_wait(s->ev, EVERING_TX | EVERING_FLUSH,
				   EVERING_WAIT_FOREVER);
		if (ret < 0 && ret != -EINTR)
			return ret;
	}
	memcpy(slot, answer, sizeof(*answer));
	evering_commit(s->ev);
	return 0;
}

/* Waits for a request; 0 or a negative errno. */
static int await_request(struct server *s)
{
	struct evering_counters before, after;
	int ret;

	evering_get_counters(s->ev, EVERING_MINE, &before);
	ret = evering_wait(s->ev, EVERING_RX | EVERING_FLUSH,
			   EVERING_WAIT_FOREVER);
	evering_get_counters(s->ev, EVERING_MINE, &after);
	if (after.rx_sleeps != before.rx_sleeps)
		s->woken_ns = clock_ns();
	return ret < 0 && ret != -EINTR ? ret : 0;
}

/* Serves @req; 0 or a negative errno. */
static int answer_request(struct server *s, const struct request *req,
			  int64_t *now)
{
	struct answer answer = { .tag = req->tag & REQUEST_TAG };
	int ret;

	answer.result = serve_request(s, req);
	*now = clock_ns();
	if (!answer.result) {
		answer.place = s->records_place + answer.tag;
		record_of(s, answer.tag)->done_ns = *now;
	}
	ret = send_answer(s, &answer);
	if (ret < 0)
		return ret;
	if (answer.result < 0)
		evering_flush(s->ev);
	return answer.result;
}

/* Until the client goes; -EPIPE is the good end. */
static int serve_requests(struct server *s)
{
	int64_t flushed = 0, now;
	struct request req;
	const void *slot;
	int ret;

	for (;;) {
		slot = evering_peek(s->ev);
		if (!slot) {
			ret = await_request(s);
			if (ret)
				return ret;
			continue;
		}
		memcpy(&req, slot, sizeof(req));
		evering_release(s->ev);
		ret = answer_request(s, &req, &now);
		if (ret)
			return ret;
		if (now - flushed >= FLUSH_NS) {
			evering_flush(s->ev);
			flushed = now;
		}
	}
}

/* Is it the client that started this server?  Any process may connect to an abstract name. */
static bool is_client(const struct evering *ev, pid_t parent)
{
	pid_t pid;
	uid_t uid;
	gid_t gid;

	return !evering_peer_cred(ev, &pid, &uid, &gid) && uid == geteuid() &&
	       (!pid || pid == parent);
}

/* -ECANCELED: the client gave up. */
static int meet_client(struct server *s, struct evering_listener *listener,
		       pid_t parent)
{
	int64_t deadline = clock_ns() + s->o->timeout_ns;
	struct evering_params limits = s->o->params;
	struct pollfd fds[2] = {
		{ .fd = evering_listener_fd(listener), .events = POLLIN },
		{ .fd = s->o->control, .events = POLLIN },
	};
	int ret;

	limits.arena_size[EVERING_MINE] =
		s->o->params.arena_size[EVERING_PEERS];
	limits.arena_size[EVERING_PEERS] =
		s->o->params.arena_size[EVERING_MINE];
	for (;;) {
		ret = poll(fds, 2, milliseconds_until(deadline, INT_MAX));
		if (ret < 0 && errno != EINTR)
			return -errno;
		if (ret > 0 && fds[1].revents)
			return -ECANCELED;
		ret = evering_accept(listener, &limits, EVERING_NOWAIT, &s->ev);
		if (!ret && is_client(s->ev, parent))
			return 0;
		if (!ret)
			evering_close(s->ev);
		else if (ret != -EAGAIN && ret != -EINTR)
			return ret;
		s->ev = NULL;
		if (clock_ns() >= deadline)
			return -ETIMEDOUT;
	}
}

/* Listens, meets the client and stops listening. */
static int server_meet(struct server *s, pid_t parent)
{
	struct evering_listener *listener;
	int reason = 0;
	int ret;

	ret = evering_listen(s->o->socket, 0600, &listener);
	if (ret) {
		explain_socket(s->o, "cannot listen at", true, ret);
		return ret;
	}
	if (send(s->o->control, "r", 1, MSG_NOSIGNAL) != 1)
		ret = -ECANCELED;
	if (!ret)
		ret = meet_client(s, listener, parent);
	evering_listener_refused(listener, &reason);
	evering_listener_close(listener);
	/* The client that was turned away was told why, and says it. */
	if (!ret || ret == -ECANCELED || ret == reason)
		return ret;
	explain_socket(s->o, "no client came to", true, ret);
	if (reason)
		explain(s->o, "the last one was turned away", reason);
	return ret;
}

static int server_prepare(struct server *s)
{
	s->records = evering_alloc(s->ev, (size_t)s->o->depth * UNIT, UNIT);
	if (!s->records) {
		complain("server: no room for %u digests", s->o->depth);
		return -ENOMEM;
	}
	s->records_place = (uint32_t)(evering_offset(s->ev, s->records) / UNIT);
	s->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	s->hash = EVP_MD_CTX_new();
	if (!s->sha256 || !s->hash) {
		complain("server: libcrypto has no SHA-256");
		return -ENOSYS;
	}
	return 0;
}

static int serve(struct server *s)
{
	pid_t parent = getppid();
	int ret;

	ret = server_meet(s, parent);
	if (ret == -ECANCELED)
		return EXIT_SUCCESS;
	if (ret)
		return EXIT_FAILURE;
	/*
	 * From here on there is nothing to tidy up.  The channel reports a client's
	 * death; this is for a client that dies while this side hashes.
	 */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		return EXIT_FAILURE;

	if (server_prepare(s))
		return EXIT_FAILURE;
	ret = serve_requests(s);
	if (ret == -EPIPE)
		return EXIT_SUCCESS;
	complain("server: a request of the client: %s", strerror(-ret));
	return EXIT_FAILURE;
}

int cmd_serve(int argc, char **argv)
{
	struct options o;
	struct server s = { .o = &o };
	int status;

	set_command("evering run");
	prctl(PR_SET_NAME, "evering-serve");
	status = run_options(&o, argc, argv);
	if (status >= 0)
		return status;
	if (o.control < 0 || !o.socket) {
		complain("'serve' is started by 'evering run' only");
		return EXIT_USAGE;
	}
	fcntl(o.control, F_SETFD, FD_CLOEXEC);
	status = serve(&s);
	EVP_MD_CTX_free(s.hash);
	EVP_MD_free(s.sha256);
	evering_close(s.ev);
	return status;
}
