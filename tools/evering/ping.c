// SPDX-License-Identifier: MIT
/*
 * evering ping: how long a message takes to another process and back, for people,
 * as ping(8) does for machines.
 *
 * The other process is a child that answers, or, with --connect, an
 * `evering ping --listen`, which answers many clients at a time: its channels are in a
 * group.  A ping that fits into an entry is sent as an entry.  A larger one lies in the
 * arena, the other side copies it into its own arena, and the entry says where it is.
 *
 * A channel loses nothing and keeps the order, so one ping at a time is under way.  A ping
 * that has no answer at the end is lost because the other side is dead or stopped.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#include "hist.h"
#include "json.h"
#include "meet.h"
#include "options.h"
#include "process.h"
#include "remedy.h"
#include "util.h"

#define MIN_SIZE 4u
#define MAX_SIZE (16u << 20)
#define MAX_INLINE (EVERING_MAX_SLOT - EVERING_STAMP_SIZE)
#define ENTRIES 16u
#define PAGE (64u << 10) /* of any machine; arenas are multiples of it */

/* What an entry begins with, and is, where the data lies in the arena. */
struct header {
	uint32_t seq;
	uint32_t len;
	uint64_t offset;
};

/*
 * A signal may come before a wait, which then does not end; so waits are no longer
 * than this.
 */
#define TICK_NS 100000000ll

/* How long an answer may still take when everything else is over. */
#define GRACE_NS 1000000000ll

struct ping_options {
	struct evering_params params;
	const char *listen;
	const char *connect;
	uint64_t count; /* 0: no end */
	int64_t interval_ns;
	int64_t deadline_ns; /* 0: none */
	uint32_t size;
	bool json;
	bool quiet;
};

struct pinger {
	const struct ping_options *o;
	struct evering *ev;
	pid_t child;
	int child_sock;
	pid_t pid; /* that answers; 0: of another PID namespace */
	char peer[32]; /* the same for people */
	unsigned char *
		data; /* what is sent; in the arena if the entry cannot hold it */
	uint64_t offset;
	bool progress;
	bool wanted; /* what is printed has a reader */
	int64_t look_ns;

	int64_t start_ns;
	int64_t end_ns;
	uint64_t sent;
	uint64_t woke_peer; /* pings that had to ring the peer's doorbell */
	uint64_t slept; /* pings for whose answer this side slept */
	uint64_t min;
	struct hist hist;
};

static bool in_arena(uint32_t size)
{
	return size > MAX_INLINE;
}

/* Answering -------------------------------------------------------------- */

/* Copies what the peer's arena holds; 0, or -EPROTO: it does not. */
static int answer_from_arena(struct evering *ev, struct header *header,
			     unsigned char *own, uint64_t own_size)
{
	const void *data;

	if (header->len > own_size)
		return -EPROTO;
	data = evering_peer_buffer(ev, header->offset, header->len);
	if (!data)
		return -EPROTO;
	memcpy(own, data, header->len);
	header->offset = 0;
	return 0;
}

/*
 * Takes a ping and answers it, if one comes in time.  0, or as evering_recv(), or -EPROTO:
 * it is no pinger.
 */
static int answer_one(struct evering *ev, int64_t timeout_ns)
{
	unsigned char entry[MAX_INLINE];
	size_t len = evering_payload(ev);
	uint64_t own_size;
	unsigned char *own = evering_arena(ev, &own_size);
	struct header header;
	int ret;

	ret = evering_recv(ev, entry, len, timeout_ns);
	if (ret)
		return ret;
	if (own) {
		memcpy(&header, entry, sizeof(header));
		ret = answer_from_arena(ev, &header, own, own_size);
		memcpy(entry, &header, sizeof(header));
	}
	if (!ret)
		ret = evering_send(ev, entry, len, EVERING_NOWAIT);
	/* One answer for each ping: there is room. */
	return ret == -EAGAIN ? -EPROTO : ret;
}

/* Answers until the peer goes (-EPIPE), or a signal comes (-EINTR). */
static int answer(struct evering *ev)
{
	int ret;

	while (!end_signal) {
		ret = answer_one(ev, TICK_NS);
		if (ret && ret != -EINTR && ret != -ETIMEDOUT)
			return ret;
	}
	return -EINTR;
}

static void set_limits(const struct ping_options *o,
		       struct evering_params *limits)
{
	*limits = (struct evering_params)EVERING_LIMITS_INIT;
	/* Entries that a header fits into. */
	limits->arena_size[0] = limits->arena_size[1] = MAX_SIZE;
	/* One thread that sends and then waits, on either side. */
	limits->policy = o->params.policy | EVERING_LAZY_RING;
}

/* The child: answers its parent, and ends with it. */
static int child_main(const struct ping_options *o, int sock, pid_t parent)
{
	struct evering_params limits;
	struct evering *ev;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "evering-pong");
	if (getppid() != parent)
		return EXIT_FAILURE;
	/* The keyboard's signals are for the parent, whose end ends this. */
	ignore_end_signals();
	set_limits(o, &limits);
	ret = evering_accept_fd(sock, &limits, 10 * SECOND, &ev);
	if (ret)
		return EXIT_FAILURE; /* the parent was told why */
	ret = answer(ev);
	evering_close(ev);
	return ret == -EPIPE ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A process as people call it; @pid is 0 for one of another PID namespace. */
static const char *name_process(char buf[32], pid_t pid)
{
	if (pid)
		snprintf(buf, 32, "pid %d", pid);
	else
		snprintf(buf, 32, "another PID namespace");
	return buf;
}

static void put_pid(struct json *j, pid_t pid)
{
	if (pid)
		json_number(j, "pid", (uint64_t)pid);
	else
		json_null(j, "pid");
}

static void say_peer(const struct ping_options *o, struct evering *ev,
		     int ended)
{
	struct json j = { .out = output };
	char name[32];
	pid_t pid = 0;
	uid_t uid = 0;
	gid_t gid = 0;

	evering_peer_cred(ev, &pid, &uid, &gid);
	if (o->quiet)
		return;
	name_process(name, pid);
	if (o->json) {
		json_open(&j, NULL, '{');
		json_text(&j, "event", ended ? "gone" : "come");
		put_pid(&j, pid);
		json_number(&j, "uid", uid);
		json_text(&j, "backend", evering_backend_name(ev));
		json_close(&j, '}');
		json_end(&j);
	} else if (ended == -EPIPE || ended == -EINTR) {
		fprintf(output, "%s has gone\n", name);
	} else if (ended) {
		fprintf(output, "%s is dropped: %s\n", name, strerror(-ended));
	} else {
		fprintf(output, "%s, uid %u, has come; %s\n", name, uid,
			evering_backend_name(ev));
	}
	flush_output();
}

/* A peer of `evering ping --listen`. */
struct client {
	struct evering *ev;
	struct client *next;
	struct client **link; /* what points here */
};

struct server {
	const struct ping_options *o;
	struct evering_params limits;
	struct evering_listener *listener;
	struct evering_group *group;
	struct client *clients;
	bool full; /* the listener is no member until a client goes */
	bool told; /* that it was full */
};

static struct evering_group *serving;

static void wake_server(void)
{
	evering_group_wake(serving);
}

/* Complains; returns @ret. */
static int cannot_take(const struct server *s, int ret)
{
	const struct attempt attempt = {
		.what = "cannot accept a client at",
		.path = s->o->listen,
		.listening = true,
	};

	complain_of(&attempt, ret);
	return ret;
}

static int let_in(struct server *s, struct evering *ev)
{
	struct client *client = calloc(1, sizeof(*client));
	int ret;

	ret = client ? evering_group_add(s->group, ev, EVERING_RX, client) :
		       -ENOMEM;
	if (ret) {
		free(client);
		evering_close(ev);
		return ret;
	}
	client->ev = ev;
	client->next = s->clients;
	client->link = &s->clients;
	if (client->next)
		client->next->link = &client->next;
	s->clients = client;
	say_peer(s->o, ev, 0);
	return 0;
}

/* Accepts a client, if one is waiting.  Those beyond the limits are let in later. */
static int take_peer(struct server *s)
{
	struct evering *ev;
	int ret = meet_take(s->listener, &s->limits, &ev);

	if (!ret)
		ret = let_in(s, ev);
	if (ret == -EAGAIN || ret == -EINTR || !ret)
		return 0;
	/* Once: it must not fill a disk. */
	if (!s->told)
		cannot_take(s, ret);
	s->told = true;
	if (!s->clients || evering_group_remove_listener(s->group, s->listener))
		return ret;
	s->full = true;
	return 0;
}

static int let_go(struct server *s, struct client *client, int why)
{
	say_peer(s->o, client->ev, why);
	evering_close(client->ev);
	*client->link = client->next;
	if (client->next)
		client->next->link = client->link;
	free(client);
	if (!s->full)
		return 0;
	s->full = false;
	return evering_group_add_listener(s->group, s->listener, NULL);
}

/* One ping of each that has sent some, so that all have their turns. */
static int handle(struct server *s, const struct evering_group_event *event)
{
	int ret = 0;

	if (event->what & EVERING_GROUP_ACCEPT)
		return take_peer(s);
	if (event->what & EVERING_RX)
		ret = answer_one(event->ev, EVERING_NOWAIT);
	if (ret == -EAGAIN)
		ret = 0;
	if (!ret && event->what & EVERING_GROUP_GONE)
		ret = event->result;
	return ret ? let_go(s, event->context, ret) : 0;
}

/* Without peers no policy keeps a CPU busy.  0, or -EINTR: the wake-up is used up. */
static int await_first(struct server *s)
{
	struct pollfd fd = { .fd = evering_group_fd(s->group),
			     .events = POLLIN };
	int ret = evering_group_arm(s->group);

	if (fd.fd >= 0 && !ret)
		poll(&fd, 1, -1);
	return ret == -EINTR ? ret : 0;
}

static int serve_turn(struct server *s)
{
	const struct evering_group_event *events;
	int n, i, ret = 0;

	if (!s->clients && await_first(s))
		return 0;
	n = evering_group_wait(s->group, &events, EVERING_WAIT_FOREVER);
	for (i = 0; i < n && !ret; i++)
		ret = handle(s, &events[i]);
	if (n < 0 && n != -EINTR)
		ret = cannot_take(s, n);
	return ret;
}

static int open_group(struct server *s)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	int ret;

	params.policy = s->o->params.policy;
	ret = evering_group_open(&params, &s->group);
	if (!ret)
		ret = evering_group_add_listener(s->group, s->listener, NULL);
	if (ret)
		cannot_take(s, ret);
	return ret;
}

/* Answers all that come, until a signal. */
static int serve(const struct ping_options *o)
{
	struct server s = { .o = o };
	int ret;

	catch_end_signals();
	set_limits(o, &s.limits);
	if (meet_listen(o->listen, &s.listener))
		return EXIT_FAILURE;
	ret = open_group(&s);
	if (!ret) {
		serving = s.group;
		wake_at_end(wake_server);
	}
	while (!ret && !end_signal && !ferror(output))
		ret = serve_turn(&s);
	while (s.clients)
		let_go(&s, s.clients, -EINTR);
	wake_at_end(NULL);
	evering_group_close(s.group);
	evering_listener_close(s.listener);
	return end_status(end_signal ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Meeting ---------------------------------------------------------------- */

static int start_child(struct pinger *p)
{
	const struct attempt attempt = {
		.what = "cannot start a process that answers",
	};
	pid_t parent = getpid();
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		complain_of(&attempt, -errno);
		return -1;
	}
	flush_output();
	p->child = fork();
	if (!p->child) {
		close(pair[0]);
		_exit(child_main(p->o, pair[1], parent));
	}
	err = errno;
	close(pair[1]);
	if (p->child < 0) {
		complain("%s: %s", attempt.what, strerror(err));
		p->child = 0;
		close(pair[0]);
		return -1;
	}
	p->child_sock = pair[0];
	return 0;
}

static int meet(struct pinger *p)
{
	const struct ping_options *o = p->o;
	const struct attempt attempt = {
		.what = o->connect ? "cannot connect to" :
				     "cannot make a channel",
		.path = o->connect,
		.params = &o->params,
	};
	struct evering_params params = o->params;
	int64_t timeout = 10 * SECOND;
	int ret;

	params.policy |= EVERING_LAZY_RING;
	if (o->connect) {
		ret = evering_connect(o->connect, &params, timeout, &p->ev);
	} else {
		if (start_child(p))
			return -1;
		ret = evering_connect_fd(p->child_sock, &params, timeout,
					 &p->ev);
		if (ret)
			close(p->child_sock);
	}
	if (ret && !end_signal)
		complain_of(&attempt, ret);
	if (ret)
		return -1;
	/* Over a socketpair the peer is the process that made it. */
	p->pid = p->child ? p->child : pid_of_peer(p->ev);
	name_process(p->peer, p->pid);
	return 0;
}

/* A child that no longer answers, since it is stopped for example, does not keep us. */
static void reap_child(struct pinger *p)
{
	int status;

	if (!p->child)
		return;
	kill(p->child, SIGKILL);
	while (waitpid(p->child, &status, 0) < 0 && errno == EINTR)
		;
}

/* Pinging ---------------------------------------------------------------- */

static void fill(unsigned char *data, uint32_t size)
{
	uint32_t i;

	for (i = 0; i < size; i++)
		data[i] = (unsigned char)i;
}

static int prepare(struct pinger *p)
{
	uint32_t size = p->o->size;

	if (in_arena(size)) {
		p->data = evering_alloc(p->ev, size, 0);
		if (p->data)
			p->offset = evering_offset(p->ev, p->data);
	} else {
		p->data = malloc(size);
	}
	if (!p->data) {
		complain("no memory for %u bytes: use a smaller --size", size);
		return -1;
	}
	fill(p->data, size);
	return 0;
}

static int send_ping(struct pinger *p, uint32_t seq)
{
	struct header header = { seq, p->o->size, p->offset };

	memcpy(p->data, &seq, sizeof(seq));
	if (in_arena(p->o->size))
		return evering_send(p->ev, &header, sizeof(header), TICK_NS);
	return evering_send(p->ev, p->data, p->o->size, TICK_NS);
}

/* What has come is what was sent, or -EPROTO. */
static int check_answer(struct pinger *p, const unsigned char *entry)
{
	const void *data = entry;
	struct header header;

	if (in_arena(p->o->size)) {
		memcpy(&header, entry, sizeof(header));
		data = evering_peer_buffer(p->ev, header.offset, p->o->size);
		if (!data || header.len != p->o->size)
			return -EPROTO;
	}
	return memcmp(data, p->data, p->o->size) ? -EPROTO : 0;
}

static int64_t part_of(int64_t until, int64_t now)
{
	if (until <= now)
		return EVERING_NOWAIT;
	return until - now < TICK_NS ? until - now : TICK_NS;
}

/* A line that changes, where each ping has none of its own. */
static void show_progress(struct pinger *p)
{
	char count[FORMAT_LEN], p50[FORMAT_LEN], text[96];
	double part = -1;

	if (p->o->count)
		part = (double)p->hist.count / (double)p->o->count;
	snprintf(text, sizeof(text), "%s round trips, half within %s",
		 format_count(count, p->hist.count),
		 format_time(p50, hist_percentile(&p->hist, 50)));
	progress_draw(part, text);
}

/* Now and then: pings that print no lines would not notice a reader that has gone. */
static void look_around(struct pinger *p, int64_t now)
{
	if (now < p->look_ns)
		return;
	p->look_ns = now + TICK_NS;
	p->wanted = output_wanted() && !ferror(output);
	if (p->progress)
		show_progress(p);
}

static void say_answer(struct pinger *p, uint32_t seq, int64_t took)
{
	struct json j = { .out = output };
	char time[FORMAT_LEN];

	if (p->o->quiet || !p->o->interval_ns)
		return;
	if (p->o->json) {
		json_open(&j, NULL, '{');
		json_number(&j, "seq", seq);
		json_number(&j, "bytes", p->o->size);
		put_pid(&j, p->pid);
		json_number(&j, "ns", (uint64_t)took);
		json_close(&j, '}');
		json_end(&j);
	} else {
		fprintf(output, "%u bytes from %s: seq=%u time=%s\n",
			p->o->size, p->peer, seq,
			format_time(time, (uint64_t)took));
	}
	p->wanted = flush_output();
}

static void say_late(struct pinger *p, uint32_t seq)
{
	struct json j = { .out = output };

	if (p->o->quiet || !p->o->interval_ns)
		return;
	if (p->o->json) {
		json_open(&j, NULL, '{');
		json_number(&j, "seq", seq);
		put_pid(&j, p->pid);
		json_bool(&j, "late", true);
		json_close(&j, '}');
		json_end(&j);
	} else {
		fprintf(output, "no answer yet from %s: seq=%u\n", p->peer,
			seq);
	}
	p->wanted = flush_output();
}

static void count_answer(struct pinger *p, int64_t took)
{
	if (!p->hist.count || (uint64_t)took < p->min)
		p->min = (uint64_t)took;
	hist_add(&p->hist, (uint64_t)took);
}

/* Has the time come to leave an answer waiting?  After a signal it has a grace. */
static bool enough(const struct pinger *p, int64_t now, int64_t *grace)
{
	bool over =
		end_signal || !p->wanted ||
		(p->o->deadline_ns && now >= p->start_ns + p->o->deadline_ns);

	if (!over)
		return false;
	if (!*grace)
		*grace = now + GRACE_NS;
	return now >= *grace;
}

/*
 * Waits for the answer, and says at every interval that there is none.  0;
 * -ETIMEDOUT: the time for all is over; or another negative errno.
 */
static int await_answer(struct pinger *p, uint32_t seq, int64_t sent,
			unsigned char *entry)
{
	int64_t now = sent, late = sent + p->o->interval_ns, grace = 0;
	size_t len = evering_payload(p->ev);
	int ret;

	for (;;) {
		ret = evering_recv(p->ev, entry, len, TICK_NS);
		if (ret != -ETIMEDOUT && ret != -EINTR)
			return ret;
		now = clock_ns();
		if (enough(p, now, &grace))
			return -ETIMEDOUT;
		if (now >= late) {
			say_late(p, seq);
			late += p->o->interval_ns;
		}
		look_around(p, now);
	}
}

static int ping_once(struct pinger *p, uint32_t seq)
{
	unsigned char entry[MAX_INLINE];
	struct evering_counters before, after;
	int64_t sent, took;
	int ret;

	evering_get_counters(p->ev, EVERING_MINE, &before);
	sent = clock_ns();
	ret = send_ping(p, seq);
	if (ret)
		return ret;
	p->sent++;
	ret = await_answer(p, seq, sent, entry);
	if (ret)
		return ret;
	took = clock_ns() - sent;
	if (check_answer(p, entry))
		return -EPROTO;
	count_answer(p, took);
	evering_get_counters(p->ev, EVERING_MINE, &after);
	p->woke_peer += after.tx_rings != before.tx_rings;
	p->slept += after.rx_sleeps != before.rx_sleeps;
	say_answer(p, seq, took);
	look_around(p, sent + took);
	return 0;
}

/* Until @until, a signal, or something that should not come: 0 or an error. */
static int rest(struct pinger *p, int64_t until)
{
	int64_t now;
	int ret;

	while (!end_signal && p->wanted && (now = clock_ns()) < until) {
		look_around(p, now);
		ret = evering_wait(p->ev, EVERING_RX, part_of(until, now));
		if (ret > 0)
			return -EPROTO;
		if (ret < 0 && ret != -ETIMEDOUT && ret != -EINTR)
			return ret;
	}
	return 0;
}

static bool more(const struct pinger *p, int64_t now)
{
	if (end_signal || !p->wanted || (p->o->count && p->sent >= p->o->count))
		return false;
	return !p->o->deadline_ns || now < p->start_ns + p->o->deadline_ns;
}

/* 0 or a negative errno. */
static int ping_all(struct pinger *p)
{
	int64_t next = p->start_ns, end;
	uint32_t seq = 1;
	int ret;

	end = p->o->deadline_ns ? p->start_ns + p->o->deadline_ns : INT64_MAX;
	for (; more(p, next); seq++) {
		ret = ping_once(p, seq);
		if (ret)
			return ret;
		next = clock_ns();
		if (!p->o->interval_ns || !more(p, next))
			continue;
		next = p->start_ns + (int64_t)seq * p->o->interval_ns;
		ret = rest(p, next < end ? next : end);
		if (ret)
			return ret;
	}
	return 0;
}

/* Summary ---------------------------------------------------------------- */

/* As engineers number series (R10), so that rows look equally wide to the eye. */
static const unsigned int fine_steps[] = { 100, 125, 160, 200, 250,
					   315, 400, 500, 630, 800 };
static const unsigned int coarse_steps[] = { 100, 200, 500 };

#define MAX_ROWS 24u
#define ALL_ROWS 256u

struct row {
	uint64_t from;
	uint64_t to;
	uint64_t count;
};

/* Rows of a series that cover @min..@max; their number, 0 if there are too many. */
static unsigned int make_rows(struct row rows[ALL_ROWS], uint64_t min,
			      uint64_t max, const unsigned int *steps,
			      unsigned int step_count)
{
	uint64_t decade = 1, from = 0, to;
	unsigned int count = 0, i;

	for (;; decade *= 10) {
		for (i = 0; i < step_count; i++) {
			to = steps[i] * decade;
			if (to > min && count == MAX_ROWS)
				return 0;
			if (to > min)
				rows[count++] = (struct row){ from, to, 0 };
			if (to > max)
				return count;
			from = to;
		}
		/* 30 years. */
		if (decade > UINT64_MAX / 100000)
			return 0;
	}
}

static unsigned int fill_rows(const struct pinger *p, struct row rows[ALL_ROWS])
{
	unsigned int count, i, row = 0;
	uint64_t value;

	count = make_rows(rows, p->min, p->hist.max, fine_steps, 10);
	if (!count)
		count = make_rows(rows, p->min, p->hist.max, coarse_steps, 3);
	for (i = 0; count && i < HIST_BUCKETS; i++) {
		if (!p->hist.bucket[i])
			continue;
		value = hist_bucket_max(i);
		while (row + 1 < count && value >= rows[row].to)
			row++;
		rows[row].count += p->hist.bucket[i];
	}
	return count;
}

static void print_histogram(const struct pinger *p)
{
	const char *on = colour_wanted(output) ? "\033[32m" : "";
	const char *off = *on ? "\033[0m" : "";
	char from[FORMAT_LEN], to[FORMAT_LEN], number[FORMAT_LEN];
	int width = terminal_width(STDOUT_FILENO), full;
	struct row rows[ALL_ROWS];
	unsigned int count, i;
	uint64_t most = 1;

	width = (width < 60 ? 80 : width) - 40;
	count = fill_rows(p, rows);
	for (i = 0; i < count; i++)
		if (rows[i].count > most)
			most = rows[i].count;
	for (i = 0; i < count; i++) {
		full = (int)((double)rows[i].count / (double)most * width);
		if (rows[i].count && !full)
			full = 1;
		fprintf(output, "%8s .. %-8s %12s %s",
			format_time(from, rows[i].from),
			format_time(to, rows[i].to),
			format_count(number, rows[i].count), on);
		while (full--)
			fputc('#', output);
		fprintf(output, "%s\n", off);
	}
}

/* What the policy did to the times above. */
static void print_reason(const struct pinger *p)
{
	static const char *const policies[] = {
		"adaptive (spins, then sleeps)",
		"block (sleeps at once)",
		"busy (never sleeps)",
	};
	char a[FORMAT_LEN], b[FORMAT_LEN], c[FORMAT_LEN];

	fprintf(output, "%s: ", policies[p->o->params.policy]);
	if (!p->woke_peer && !p->slept) {
		fprintf(output,
			"neither side slept, so no time above has a wake-up in it\n");
		return;
	}
	fprintf(output,
		"of %s pings %s woke the other side, and %s answers woke this one\n",
		format_count(a, p->hist.count), format_count(b, p->woke_peer),
		format_count(c, p->slept));
	if (2 * (p->woke_peer + p->slept) > p->hist.count)
		fprintf(output,
			"Most of these times is what the kernel takes to wake a process; "
			"%s avoids that.\n",
			p->o->params.policy == EVERING_ADAPTIVE &&
					p->o->interval_ns ?
				"--interval=0, or --wait=busy," :
				"--wait=busy");
}

static void print_summary(const struct pinger *p)
{
	const struct hist *h = &p->hist;
	char a[FORMAT_LEN], b[FORMAT_LEN], c[FORMAT_LEN], d[FORMAT_LEN],
		e[FORMAT_LEN], f[FORMAT_LEN];
	uint64_t lost = p->sent - h->count;

	fprintf(output, "%s--- %s, %s, %s ---\n", p->o->interval_ns ? "\n" : "",
		p->peer, evering_backend_name(p->ev),
		policy_names[p->o->params.policy]);
	fprintf(output,
		"%s pings of %u bytes, %s answered, %s lost (%.3g %%), %.3f s\n",
		format_count(a, p->sent), p->o->size, format_count(b, h->count),
		format_count(c, lost),
		p->sent ? 100.0 * (double)lost / (double)p->sent : 0,
		(double)(p->end_ns - p->start_ns) / 1e9);
	if (!h->count)
		return;
	fprintf(output,
		"round trip min/avg/max %s / %s / %s, p50 %s, p99 %s, p99.9 %s\n",
		format_time(a, p->min), format_time(b, h->sum / h->count),
		format_time(c, h->max), format_time(d, hist_percentile(h, 50)),
		format_time(e, hist_percentile(h, 99)),
		format_time(f, hist_percentile(h, 99.9)));
	print_histogram(p);
	print_reason(p);
}

static void put_histogram(struct json *j, const struct pinger *p)
{
	struct row rows[ALL_ROWS];
	unsigned int count = 0, i;

	json_open(j, "histogram", '[');
	if (p->hist.count)
		count = fill_rows(p, rows);
	for (i = 0; i < count; i++) {
		json_open(j, NULL, '{');
		json_number(j, "from_ns", rows[i].from);
		json_number(j, "to_ns", rows[i].to);
		json_number(j, "count", rows[i].count);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void print_json_summary(const struct pinger *p)
{
	const struct hist *h = &p->hist;
	struct json j = { .out = output };

	json_open(&j, NULL, '{');
	put_pid(&j, p->pid);
	json_text(&j, "backend", evering_backend_name(p->ev));
	json_text(&j, "policy", policy_names[p->o->params.policy]);
	json_number(&j, "bytes", p->o->size);
	json_fixed(&j, "seconds", (double)(p->end_ns - p->start_ns) / 1e9, 9);
	json_number(&j, "sent", p->sent);
	json_number(&j, "received", h->count);
	json_number(&j, "lost", p->sent - h->count);
	json_number(&j, "min_ns", p->min);
	json_number(&j, "avg_ns", h->count ? h->sum / h->count : 0);
	json_number(&j, "max_ns", h->max);
	json_number(&j, "p50_ns", hist_percentile(h, 50));
	json_number(&j, "p99_ns", hist_percentile(h, 99));
	json_number(&j, "p99.9_ns", hist_percentile(h, 99.9));
	json_number(&j, "woke_peer", p->woke_peer);
	json_number(&j, "slept", p->slept);
	put_histogram(&j, p);
	json_close(&j, '}');
	json_end(&j);
}

/* The whole -------------------------------------------------------------- */

static int end_of(struct pinger *p, int err)
{
	const struct attempt attempt = { .what = "the channel" };

	if (err == -EPIPE)
		complain("%s %s", p->peer,
			 evering_peer(p->ev) == EVERING_PEER_CLOSED ?
				 "has closed the channel" :
			 evering_peer(p->ev) == EVERING_PEER_DIED ?
				 "has died" :
				 "is lost, or the relay to it");
	else if (err == -ETIMEDOUT)
		complain("%s does not answer: is it stopped?", p->peer);
	else if (err == -EPROTO)
		complain("%s gave a wrong answer: is it 'evering ping'?",
			 p->peer);
	else if (err)
		complain_of(&attempt, err);
	return end_status(err || p->hist.count < p->sent ? EXIT_FAILURE :
							   EXIT_SUCCESS);
}

static int ping(struct pinger *p)
{
	int ret;

	if (meet(p))
		return end_status(end_signal ? EXIT_SUCCESS : EXIT_FAILURE);
	if (prepare(p))
		return EXIT_FAILURE;
	if (!p->o->quiet && !p->o->json)
		fprintf(output, "PING %s: %u bytes, %s, %s\n", p->peer,
			p->o->size, evering_backend_name(p->ev),
			policy_names[p->o->params.policy]);
	flush_output();
	p->progress = !p->o->quiet && !p->o->interval_ns && progress_wanted();
	p->start_ns = clock_ns();
	p->look_ns = p->start_ns + TICK_NS;
	p->wanted = true;
	ret = ping_all(p);
	p->end_ns = clock_ns();
	progress_erase();
	if (p->o->json)
		print_json_summary(p);
	else
		print_summary(p);
	flush_output();
	return end_of(p, ret);
}

#define PING(member) FIELD(struct ping_options, member)

static const struct option_spec options[] = {
	{ "count", 'c', OPTION_NUMBER, PING(count), .least = 1 },
	{ "interval", 'i', OPTION_SECONDS, PING(interval_ns),
	  .most = 3600 * SECOND },
	{ "size", 's', OPTION_SIZE, PING(size), MIN_SIZE, MAX_SIZE },
	{ "deadline", 'w', OPTION_SECONDS, PING(deadline_ns), SECOND / 1000,
	  86400 * SECOND },
	{ "listen", 'l', OPTION_PLACE, PING(listen) },
	{ "connect", 0, OPTION_PLACE, PING(connect) },
	{ "wait", 0, OPTION_POLICY, PING(params.policy) },
	{ "backend", 0, OPTION_BACKEND, PING(params.backend) },
	{ "json", 0, OPTION_FLAG, PING(json) },
	{ "quiet", 'q', OPTION_FLAG, PING(quiet) },
	{ .name = NULL },
};

static const char help[] =
	"Usage: evering ping [OPTIONS]\n"
	"       evering ping --listen=PATH [OPTIONS]\n"
	"       evering ping --connect=PATH [OPTIONS]\n"
	"\n"
	"Sends messages to another process, which sends them back, and prints how long\n"
	"each took.  At the end, or when interrupted, it prints a summary: a histogram,\n"
	"and what the wait policy has to do with the times.  The other process is a\n"
	"child, or an `evering ping --listen`, which answers every client until it is\n"
	"interrupted.\n"
	"\n"
	"  -c, --count=N           pings to send, 1 or more                     [no end]\n"
	"  -i, --interval=SECONDS  time from one ping to the next, 0..3600; 0: none, and\n"
	"                          no line for each ping                             [1]\n"
	"  -s, --size=BYTES        length of a message, 4..16M; more than 252 bytes go\n"
	"                          through the arenas                               [56]\n"
	"  -w, --deadline=SECONDS  end after this time, 0.001..86400            [no end]\n"
	"  -l, --listen=PATH       answer pings at this Unix socket, @NAME for an\n"
	"                          abstract one, fd:[NAME] for one that systemd passes\n"
	"      --connect=PATH      ping the process that listens at this socket\n"
	"      --wait=POLICY       adaptive: spin, then sleep; block: sleep at once;\n"
	"                          busy: never sleep                          [adaptive]\n"
	"      --backend=NAME      auto, memfd or device                          [auto]\n"
	"      --json              print JSON, an object a line\n"
	"  -q, --quiet             print the summary only\n"
	"  -h, --help              print this text\n"
	"\n"
	"The exit status is 0 if every ping was answered, 1 if one was not or after an\n"
	"error, 2 if the command line is invalid, 128 + n after signal n.  SIGINT is the\n"
	"usual way to end it, and no failure.\n";

/* The least slot that does, and arenas if none does. */
static void settle(struct ping_options *o)
{
	uint32_t slot = EVERING_MIN_SLOT;
	uint64_t arena = 0;

	if (in_arena(o->size)) {
		slot = 32;
		arena = (o->size + PAGE - 1) / PAGE * PAGE;
	}
	while (!arena && slot - EVERING_STAMP_SIZE < o->size)
		slot *= 2;
	o->params.slot_size = slot;
	o->params.entries = ENTRIES;
	o->params.arena_size[EVERING_MINE] = arena;
	o->params.arena_size[EVERING_PEERS] = arena;
}

int cmd_ping(int argc, char **argv)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct ping_options o = {
		.params = params,
		.interval_ns = SECOND,
		.size = 56,
	};
	struct pinger *p;
	int status;

	set_command("evering ping");
	status = parse_options(options, help, &o, argc, argv);
	if (status >= 0)
		return status;
	if (o.listen && o.connect)
		return usage_error("either --listen or --connect, not both");
	settle(&o);
	if (o.listen)
		return serve(&o);
	p = calloc(1, sizeof(*p));
	if (!p) {
		complain("no memory");
		return EXIT_FAILURE;
	}
	p->o = &o;
	catch_end_signals();
	status = ping(p);
	if (!in_arena(o.size))
		free(p->data);
	evering_close(p->ev);
	reap_child(p);
	free(p);
	return status;
}
