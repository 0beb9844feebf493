// SPDX-License-Identifier: MIT
/*
 * kv: a key-value store, a thread to a CPU, and no lock.
 *
 *	kv serve			in one terminal
 *	kv put KEY VALUE		in another; then get KEY, delete KEY
 *	kv bench			many clients at once, every answer checked
 *
 * A key belongs to one worker, which its hash tells, and each worker has a table of
 * its own that nobody else touches.  A client has a channel to each worker, and so
 * asks who knows: requests never go from worker to worker.
 *
 *	main thread: listeners, one for each worker, SOCKET.0, SOCKET.1, …
 *	    |	the endpoints of those who come, through a pipe
 *	worker: one epoll set: the pipe, and evering_fd() of each client
 *
 * Small values travel in the entry.  A larger one that is put is lent for as long as
 * it takes to copy it; one that is got is given, in the server's arena, and goes home
 * when the client frees it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#define SECOND		((int64_t)1000000000)
#define PATIENCE	(30 * SECOND) /* of a client with the server */
#define MAX_WORKERS	64u
#define MAX_CLIENTS	64u /* of bench */

/* ------------------------------------------------------------- the protocol */

/* opcode; a key is sent as its length, in a byte, and its bytes */
enum {
	KV_HELLO = 1, /* answer: struct hello */
	KV_GET = 2, /* key; answer: the value, as data or as a buffer */
	KV_PUT = 3, /* key, and the value: after it, or lent */
	KV_DELETE = 4, /* key */
};

#define KV_VERSION	1u
#define KV_SLOT		128u /* bytes of an entry: what is small fits it */
#define KV_DEPTH	32u /* requests of a client in flight, to each worker */
#define KV_ARENA	((uint64_t)2 << 20)
#define KV_MAX_KEY	64u
#define KV_MAX_VALUE	((uint64_t)1 << 20)

struct hello {
	uint32_t version;
	uint32_t workers;
};

/* FNV-1a.  Part of the protocol: both sides have to agree where a key belongs. */
static uint64_t hash_key(const char *key, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325;

	while (len--)
		hash = (hash ^ (unsigned char)*key++) * 0x100000001b3;
	return hash;
}

static unsigned int worker_of(uint64_t hash, unsigned int workers)
{
	return (unsigned int)((hash >> 32) % workers);
}

/* ---------------------------------------------------------------- messages */

/* What who sees @error can do about it. */
static const char *remedy(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "is `kv serve` running, with the same --socket?";
	case -EADDRINUSE:
		return "stop who listens there, or choose another --socket";
	case -EACCES:
		return "choose a --socket that this user may use";
	case -ENAMETOOLONG:
		return "choose a shorter --socket";
	case -ETIMEDOUT:
		return "is the server stopped?";
	case -EPIPE:
		return "the server is gone: start it again";
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return "is it another version that listens there?";
	case -E2BIG:
		return "a key has 1 to 64 bytes, a value at most 1 MiB";
	case -EBADMSG:
		return "a value is not what was put there: report it";
	case -ENOSPC:
		return "the worker is full: start more, or delete something";
	case -ENODEV:
		return "load evering.ko, or set EVERING_BACKEND=memfd";
	case -EINVAL:
		return "EVERING_BACKEND has to be device, memfd or not set";
	case -EMFILE:
	case -ENFILE:
		return "allow more descriptors with `ulimit -n`";
	case -EDQUOT:
		return "raise the quotas of evering.ko, or have fewer clients";
	case -ENOMEM:
		return "have fewer clients, or fewer --workers";
	default:
		return NULL;
	}
}

static int fail(const char *what, int error)
{
	const char *advice = remedy(error);

	fprintf(stderr, "kv: %s: %s%s%s\n", what, strerror(-error),
		advice ? "; " : "", advice ? advice : "");
	return EXIT_FAILURE;
}

static void *no_null(void *p)
{
	if (p)
		return p;
	fail("memory", -ENOMEM);
	exit(EXIT_FAILURE);
}

/* --------------------------------------------------------- a worker's table */

#define TABLE_MAX ((uint64_t)256 << 20) /* bytes that a worker keeps */

struct item {
	struct item *next;
	uint64_t hash;
	uint64_t len; /* of the value */
	uint32_t key_len;
	char bytes[]; /* the key, then the value */
};

struct table {
	struct item **buckets;
	size_t size; /* a power of two */
	size_t count;
	uint64_t bytes;
};

/* Where the item with this key hangs, or would. */
static struct item **table_find(const struct table *t, uint64_t hash,
				const char *key, uint32_t key_len)
{
	struct item **at = &t->buckets[hash & (t->size - 1)];

	while (*at && ((*at)->hash != hash || (*at)->key_len != key_len ||
		       memcmp((*at)->bytes, key, key_len)))
		at = &(*at)->next;
	return at;
}

static void table_delete(struct table *t, struct item **at)
{
	struct item *item = *at;

	*at = item->next;
	t->bytes -= sizeof(*item) + item->key_len + item->len;
	t->count--;
	free(item);
}

static void table_grow(struct table *t)
{
	struct table old = *t;
	struct item *item;
	size_t i, j;

	t->size = old.size ? 2 * old.size : 1024;
	t->buckets = no_null(calloc(t->size, sizeof(struct item *)));
	for (i = 0; i < old.size; i++)
		while ((item = old.buckets[i])) {
			old.buckets[i] = item->next;
			j = item->hash & (t->size - 1);
			item->next = t->buckets[j];
			t->buckets[j] = item;
		}
	free(old.buckets);
}

/* 0; -ENOSPC. */
static int table_put(struct table *t, uint64_t hash, const char *key,
		     uint32_t key_len, const void *value, uint64_t len)
{
	struct item *item, **at;

	if (t->bytes + sizeof(*item) + key_len + len > TABLE_MAX)
		return -ENOSPC;
	item = malloc(sizeof(*item) + key_len + len);
	if (!item)
		return -ENOSPC;
	item->hash = hash;
	item->len = len;
	item->key_len = key_len;
	memcpy(item->bytes, key, key_len);
	if (len)
		memcpy(item->bytes + key_len, value, len);

	at = table_find(t, hash, key, key_len);
	if (*at)
		table_delete(t, at);
	if (t->count == t->size)
		table_grow(t);
	at = &t->buckets[hash & (t->size - 1)];
	item->next = *at;
	*at = item;
	t->count++;
	t->bytes += sizeof(*item) + key_len + len;
	return 0;
}

static void table_free(struct table *t)
{
	size_t i;

	for (i = 0; i < t->size; i++)
		while (t->buckets[i])
			table_delete(t, &t->buckets[i]);
	free(t->buckets);
}

/* ----------------------------------------------------------------- a worker */

struct worker {
	pthread_t thread;
	unsigned int index;
	unsigned int workers;
	int pipe[2]; /* endpoints to serve; NULL: the end */
	int epoll;
	struct table table;
	struct client *clients;
	uint64_t requests;
} __attribute__((aligned(128))); /* no two in the same cache line */

/* What a worker knows of a client. */
struct client {
	struct client *next, **at;
	struct worker *worker;
	struct evering *ev;
	struct evering_ops *ops;
	short events; /* what epoll looks for */
	bool awake; /* not armed: there may be something to do */
	struct evering_request waiting[KV_DEPTH]; /* for room in the arena */
	unsigned int waiting_count;
};

/* The hash of the key that a request begins with; false: there is none. */
static bool read_key(const struct evering_request *request, const char **key,
		     uint32_t *key_len, uint64_t *hash)
{
	/* The library has copied it: the client cannot change it any more. */
	const unsigned char *data = request->data;

	if (!request->len || !data[0] || data[0] > KV_MAX_KEY ||
	    data[0] >= request->len)
		return false;
	*key = (const char *)data + 1;
	*key_len = data[0];
	*hash = hash_key(*key, *key_len);
	return true;
}

/* Answers with @item; false: there is no room, try again when there is. */
static bool answer_value(struct client *c, uint64_t id, const struct item *item)
{
	const char *value = item->bytes + item->key_len;
	struct evering_ops_info info;
	void *buf;

	evering_ops_get_info(c->ops, &info);
	if (item->len <= info.max_data) {
		evering_op_answer(c->ops, id, 0, value, (uint32_t)item->len);
		return true;
	}
	buf = evering_alloc(c->ev, item->len, 0);
	if (!buf)
		return false;
	memcpy(buf, value, item->len);
	/* It is the client's from here on, unless that is gone. */
	if (evering_op_answer_buffer(c->ops, id, 0, buf, item->len))
		evering_free(c->ev, buf);
	return true;
}

static int put(struct worker *w, const struct evering_request *request,
	       const char *key, uint32_t key_len, uint64_t hash)
{
	const char *value = key + key_len;
	uint64_t len = request->len - 1 - key_len;

	/*
	 * What is lent can change while it is copied, so what is stored may be a
	 * mixture; but that is the client's own, and nothing here depends on it.
	 */
	if (request->buf) {
		value = request->buf;
		len = request->buf_len;
	}
	if (len > KV_MAX_VALUE)
		return -E2BIG;
	return table_put(&w->table, hash, key, key_len, value, len);
}

/* False: it has to wait. */
static bool handle(struct client *c, const struct evering_request *request)
{
	struct worker *w = c->worker;
	struct hello hello = { KV_VERSION, w->workers };
	int32_t result = 0;
	struct item **at;
	const char *key;
	uint32_t key_len;
	uint64_t hash;

	if (request->opcode == KV_HELLO) {
		evering_op_answer(c->ops, request->id, 0, &hello,
				  sizeof(hello));
		return true;
	}
	/* Whatever a client may send: check all of it. */
	if (!read_key(request, &key, &key_len, &hash) ||
	    worker_of(hash, w->workers) != w->index ||
	    request->flags == EVERING_GIVE) {
		result = -EINVAL;
		/* Nobody is to keep what it did not ask for. */
		if (request->flags == EVERING_GIVE)
			evering_free(c->ev, request->buf);
		goto answer;
	}
	at = table_find(&w->table, hash, key, key_len);
	switch (request->opcode) {
	case KV_GET:
		if (*at)
			return answer_value(c, request->id, *at);
		result = -ENOENT;
		break;
	case KV_PUT:
		result = put(w, request, key, key_len, hash);
		break;
	case KV_DELETE:
		if (*at)
			table_delete(&w->table, at);
		else
			result = -ENOENT;
		break;
	default:
		result = -EINVAL;
		break;
	}
answer:
	/* It can fail only if the client is gone, which shows elsewhere. */
	evering_op_answer(c->ops, request->id, result, NULL, 0);
	return true;
}

/*
 * A request has come.  If its answer does not fit the arena, because the client has
 * not freed earlier ones yet, it waits: an answer may be given at any time.
 */
static void on_request(struct evering_ops *ops,
		       const struct evering_request *request, void *context)
{
	struct client *c = context;

	(void)ops;
	c->worker->requests++;
	/* No more than KV_DEPTH are ever unanswered: the library sees to it. */
	if (!handle(c, request))
		c->waiting[c->waiting_count++] = *request;
}

static void retry_waiting(struct client *c)
{
	unsigned int i, count = c->waiting_count;

	c->waiting_count = 0;
	for (i = 0; i < count; i++)
		if (!handle(c, &c->waiting[i]))
			c->waiting[c->waiting_count++] = c->waiting[i];
}

static void client_drop(struct client *c)
{
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	/* Not left to the close: another thread may be making a child. */
	epoll_ctl(c->worker->epoll, EPOLL_CTL_DEL, evering_fd(c->ev), NULL);
	evering_ops_close(c->ops);
	evering_close(c->ev);
	free(c);
}

/* Serves a client for a while: until it is armed, or others are due. */
static void client_run(struct client *c)
{
	struct epoll_event event = { .data.ptr = c };
	int round, ret = 1;
	short events;

	for (round = 0; round < 16 && ret > 0; round++) {
		ret = evering_ops_poll(c->ops);
		if (ret > 0 && c->waiting_count)
			retry_waiting(c);
		if (ret == 0)
			ret = evering_ops_arm(c->ops, &events);
	}
	if (ret > 0)
		return;
	c->awake = false;
	if (!ret && events != c->events) {
		event.events = (uint32_t)events;
		c->events = events;
		ret = epoll_ctl(c->worker->epoll, EPOLL_CTL_MOD,
				evering_fd(c->ev), &event) ?
			      -errno :
			      0;
	}
	/* Gone, whether it closed the channel or was killed; the rest is news. */
	if (ret && ret != -EPIPE)
		fail("client", ret);
	if (ret)
		client_drop(c);
}

static int client_add(struct worker *w, struct evering *ev)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	struct epoll_event event = { 0 };
	struct client *c = calloc(1, sizeof(*c));
	int ret = -ENOMEM;

	if (!c)
		goto close;
	c->worker = w;
	c->ev = ev;
	c->awake = true;
	params.depth = 0;
	params.serve = KV_DEPTH;
	params.request = on_request;
	params.context = c;
	ret = evering_ops_open(ev, &params, &c->ops);
	if (ret)
		goto free;
	event.data.ptr = c;
	ret = evering_fd(ev);
	if (ret >= 0 && epoll_ctl(w->epoll, EPOLL_CTL_ADD, ret, &event))
		ret = -errno;
	if (ret < 0)
		goto free;
	c->at = &w->clients;
	c->next = w->clients;
	if (c->next)
		c->next->at = &c->next;
	w->clients = c;
	return 0;
free:
	evering_ops_close(c->ops);
	free(c);
close:
	evering_close(ev);
	return ret;
}

/* Takes what the main thread has sent; false: nothing more will come. */
static bool client_next(struct worker *w)
{
	struct evering *ev;
	int ret;

	if (read(w->pipe[0], &ev, sizeof(ev)) != sizeof(ev))
		return true;
	if (!ev)
		return false;
	ret = client_add(w, ev);
	if (ret)
		fail("client", ret);
	return true;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct client *c, *next;
	struct epoll_event events[64];
	bool busy = true, more = true;
	int i, n;

	while (more) {
		/* Whoever is not awake is armed, so this misses nobody. */
		n = epoll_wait(w->epoll, events, 64, busy ? 0 : -1);
		for (i = 0; i < n; i++) {
			c = events[i].data.ptr;
			if (c)
				c->awake = true;
			else
				more = client_next(w);
		}
		busy = false;
		for (c = w->clients; c; c = next) {
			next = c->next;
			if (!c->awake)
				continue;
			busy = true;
			client_run(c);
		}
	}
	while (w->clients)
		client_drop(w->clients);
	table_free(&w->table);
	return NULL;
}

/* 0, or negative errno. */
static int worker_start(struct worker *w, const cpu_set_t *allowed)
{
	unsigned int nth = w->index % (unsigned int)CPU_COUNT(allowed);
	struct epoll_event event = { .events = EPOLLIN };
	pthread_attr_t attr;
	cpu_set_t one;
	size_t cpu;
	int ret;

	table_grow(&w->table);
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (w->epoll < 0 || pipe2(w->pipe, O_CLOEXEC) ||
	    epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->pipe[0], &event))
		return -errno;
	for (cpu = 0; !CPU_ISSET(cpu, allowed) || nth--; cpu++)
		;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(one), &one);
	ret = pthread_create(&w->thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	return -ret;
}

/* -------------------------------------------------------------- the server */

static char *socket_of(const char *path, unsigned int worker)
{
	char *name;

	if (asprintf(&name, "%s.%u", path, worker) < 0)
		name = NULL;
	return no_null(name);
}

/* Sends each who comes to @listener to worker @w. */
static void meet(struct evering_listener *listener, const struct worker *w)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	const struct timespec while_ = { 0, 100000000 };
	struct evering *ev;
	int ret;

	/* Whoever connects chooses, up to this. */
	limits.flags = 0;
	limits.entries = 256;
	limits.arena_size[EVERING_MINE] = KV_ARENA;
	limits.arena_size[EVERING_PEERS] = KV_ARENA;
	while (!(ret = evering_accept(listener, &limits, EVERING_NOWAIT, &ev)))
		if (write(w->pipe[1], &ev, sizeof(ev)) != sizeof(ev))
			evering_close(ev);
	if (ret == -EAGAIN || ret == -EINTR)
		return;
	/* Descriptors and memory come back when clients go. */
	fail("accept", ret);
	nanosleep(&while_, NULL);
}

/* The mode of the socket file says the same, but a name that begins with @ has none. */
static int allow(pid_t pid, uid_t uid, gid_t gid, void *context)
{
	(void)pid;
	(void)gid;
	(void)context;
	return !uid || uid == geteuid() ? 0 : -EACCES;
}

static int listen_at(const char *name, struct evering_listener **listener)
{
	struct evering_admission admission = EVERING_ADMISSION_INIT;
	int ret;

	admission.allow = allow;
	ret = evering_listen(name, 0600, listener);
	return ret ? ret : evering_listener_admit(*listener, &admission);
}

static int serve(const char *path, unsigned int workers)
{
	struct evering_listener *listeners[MAX_WORKERS] = { NULL };
	static struct worker w[MAX_WORKERS];
	struct evering *end = NULL;
	struct epoll_event event = { .events = EPOLLIN };
	int epoll, signals, ret = 0;
	unsigned int i, started = 0;
	uint64_t requests = 0;
	cpu_set_t allowed;
	sigset_t set;
	char *name;

	/* Before there are threads, who inherit it: signals are read below. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	event.data.u32 = MAX_WORKERS;
	if (signals < 0 || epoll < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, signals, &event) ||
	    sched_getaffinity(0, sizeof(allowed), &allowed))
		return fail("start", -errno);
	if (!workers)
		workers = (unsigned int)CPU_COUNT(&allowed);
	if (workers > MAX_WORKERS)
		workers = MAX_WORKERS;

	for (i = 0; i < workers && !ret; i++) {
		name = socket_of(path, i);
		ret = listen_at(name, &listeners[i]);
		event.data.u32 = i;
		if (!ret &&
		    epoll_ctl(epoll, EPOLL_CTL_ADD,
			      evering_listener_fd(listeners[i]), &event))
			ret = -errno;
		if (ret)
			fail(name, ret);
		free(name);
	}
	for (i = 0; i < workers && !ret; i++) {
		w[i].index = i;
		w[i].workers = workers;
		ret = worker_start(&w[i], &allowed);
		if (ret)
			fail("worker", ret);
		else
			started++;
	}
	if (!ret) {
		printf("%u workers at %s.0 and so on\n", workers, path);
		fflush(stdout);
	}
	while (!ret) {
		if (epoll_wait(epoll, &event, 1, -1) < 1)
			continue;
		if (event.data.u32 == MAX_WORKERS)
			break;
		meet(listeners[event.data.u32], &w[event.data.u32]);
	}

	/* Nobody new comes; then each worker closes what it has, and ends. */
	for (i = 0; i < workers; i++)
		evering_listener_close(listeners[i]);
	for (i = 0; i < started; i++) {
		if (write(w[i].pipe[1], &end, sizeof(end)) != sizeof(end))
			exit(fail("stop", -errno));
		pthread_join(w[i].thread, NULL);
		requests += w[i].requests;
	}
	if (!ret)
		printf("%llu requests\n", (unsigned long long)requests);
	return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* -------------------------------------------------------------- the client */

/* A channel and a table to each worker. */
struct kv {
	unsigned int workers;
	struct evering *ev[MAX_WORKERS];
	struct evering_ops *ops[MAX_WORKERS];
};

static void kv_close(struct kv *kv)
{
	unsigned int i;

	for (i = 0; i < MAX_WORKERS; i++) {
		evering_ops_close(kv->ops[i]);
		evering_close(kv->ev[i]);
	}
}

static int kv_connect(struct kv *kv, const char *path, unsigned int worker)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_ops_params ops_params = EVERING_OPS_PARAMS_INIT;
	char *name = socket_of(path, worker);
	int ret;

	params.slot_size = KV_SLOT;
	params.entries = 2 * KV_DEPTH;
	params.arena_size[EVERING_MINE] = KV_ARENA;
	params.arena_size[EVERING_PEERS] = KV_ARENA;
	ops_params.depth = KV_DEPTH;
	ops_params.serve = 0;
	ret = evering_connect(name, &params, PATIENCE, &kv->ev[worker]);
	free(name);
	return ret ? ret :
		     evering_ops_open(kv->ev[worker], &ops_params,
				      &kv->ops[worker]);
}

/* 0, or negative errno; kv_close() in either case. */
static int kv_open(struct kv *kv, const char *path)
{
	const struct evering_op op = { .opcode = KV_HELLO };
	struct evering_completion answer;
	struct hello hello;
	unsigned int i;
	int ret;

	memset(kv, 0, sizeof(*kv));
	ret = kv_connect(kv, path, 0);
	if (ret)
		return ret;
	/* The first worker says how many there are. */
	ret = evering_op_call(kv->ops[0], &op, &answer, PATIENCE);
	if (ret || answer.result)
		return ret ? ret : answer.result;
	if (answer.len != sizeof(hello))
		return -EPROTO;
	memcpy(&hello, answer.data, sizeof(hello));
	if (hello.version != KV_VERSION || !hello.workers ||
	    hello.workers > MAX_WORKERS)
		return -EPROTONOSUPPORT;
	kv->workers = hello.workers;
	for (i = 1; i < kv->workers; i++) {
		ret = kv_connect(kv, path, i);
		if (ret)
			return ret;
	}
	return 0;
}

/* An operation, and what it needs until it was submitted. */
struct call {
	struct evering_op op;
	unsigned int worker;
	unsigned char data[KV_SLOT];
};

/*
 * Prepares a request: 0, and @call->op is ready; -EAGAIN: no room in the arena until
 * an earlier one has ended; -E2BIG.  A value that does not fit the entry goes to a
 * buffer, call->op.buf, which is to be freed when the operation has ended.
 */
static int kv_call(struct kv *kv, struct call *call, uint32_t opcode,
		   const char *key, const void *value, uint64_t len)
{
	size_t key_len = strlen(key);
	struct evering_ops_info info;

	if (!key_len || key_len > KV_MAX_KEY || len > KV_MAX_VALUE)
		return -E2BIG;
	call->worker = worker_of(hash_key(key, key_len), kv->workers);
	call->op = (struct evering_op){ .opcode = opcode,
					.data = call->data,
					.len = (uint32_t)(1 + key_len) };
	call->data[0] = (unsigned char)key_len;
	memcpy(call->data + 1, key, key_len);
	if (!len)
		return 0;
	evering_ops_get_info(kv->ops[call->worker], &info);
	if (call->op.len + len <= info.max_data) {
		memcpy(call->data + call->op.len, value, len);
		call->op.len += (uint32_t)len;
		return 0;
	}
	call->op.buf = evering_alloc(kv->ev[call->worker], len, 0);
	if (!call->op.buf)
		return -EAGAIN;
	memcpy(call->op.buf, value, len);
	call->op.flags = EVERING_LEND;
	call->op.buf_len = len;
	return 0;
}

/* The commands: one request, and the end. */
static int one(const char *path, uint32_t opcode, const char *key,
	       const char *value)
{
	struct evering_completion answer = { 0 };
	const void *got;
	struct call call;
	struct kv kv;
	uint64_t len;
	int ret;

	ret = kv_open(&kv, path);
	if (ret) {
		fail(path, ret);
		goto out;
	}
	ret = kv_call(&kv, &call, opcode, key, value,
		      value ? strlen(value) : 0);
	if (!ret)
		ret = evering_op_call(kv.ops[call.worker], &call.op, &answer,
				      PATIENCE);
	if (!ret)
		ret = answer.result;
	if (ret == -ENOENT && answer.id)
		fprintf(stderr, "kv: %s: no such key\n", key);
	else if (ret)
		fail(key, ret);
	if (!ret && opcode == KV_GET) {
		got = answer.buf ? answer.buf : answer.data;
		len = answer.buf ? answer.buf_len : answer.len;
		if (len)
			fwrite(got, 1, len, stdout);
		putchar('\n');
	}
	/* Closing the channel frees what came, and what was lent. */
out:
	kv_close(&kv);
	return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --------------------------------------------------------------- the bench */

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

/*
 * A client of many: @keys keys of its own, put, got, replaced, got, deleted and not
 * found any more, with as many requests in flight as may be.
 */
static struct bench {
	struct kv kv;
	unsigned int client;
	unsigned int size; /* of the largest value */
	unsigned int version; /* of the values */
	bool getting; /* values, that is */
	int32_t expected; /* result */
	int error; /* -EBADMSG: a value was another */
} bench;

/* Most values are small, one in eight is not. */
static uint64_t bench_len(uint64_t i)
{
	if (i % 8)
		return (i * 7 + bench.version) % 40;
	return 1 + (i * 999983 + bench.version) % bench.size;
}

static void bench_value(unsigned char *value, uint64_t i, uint64_t len)
{
	uint64_t j;

	for (j = 0; j < len; j++)
		value[j] = (unsigned char)(i + bench.client + bench.version +
					   j * 31);
}

static void bench_done(struct evering_ops *ops,
		       const struct evering_completion *done)
{
	static unsigned char value[KV_MAX_VALUE];
	uint64_t i = done->ext >> 8, len = bench_len(i);
	struct evering *ev = bench.kv.ev[done->ext & 0xff];
	const void *got = done->buf ? done->buf : done->data;
	uint64_t got_len = done->buf ? done->buf_len : done->len;

	(void)ops;
	if (done->result != bench.expected) {
		bench.error = done->result ? done->result : -EBADMSG;
	} else if (bench.getting) {
		bench_value(value, i, len);
		if (got_len != len || (len && memcmp(got, value, len)))
			bench.error = -EBADMSG;
	}
	/* What was lent is ours again; what was given goes home with this. */
	evering_free(ev, done->user);
	evering_free(ev, done->buf);
}

/* Does @opcode to all keys.  0, or negative errno. */
static int bench_pass(uint32_t opcode, unsigned int keys, int32_t expected)
{
	static unsigned char value[KV_MAX_VALUE];
	struct kv *kv = &bench.kv;
	struct call call;
	uint64_t i, len;
	unsigned int w;
	char key[32];
	int ret;

	bench.getting = opcode == KV_GET && !expected;
	bench.expected = expected;
	for (i = 0; i < keys; i++) {
		len = opcode == KV_PUT ? bench_len(i) : 0;
		bench_value(value, i, len);
		snprintf(key, sizeof(key), "%u-%llu", bench.client,
			 (unsigned long long)i);
		while ((ret = kv_call(kv, &call, opcode, key, value, len)) ==
		       -EAGAIN) {
			/* Those that are under way will make room. */
			ret = evering_ops_wait(kv->ops[call.worker], PATIENCE);
			if (ret < 0)
				return ret;
		}
		if (ret)
			return ret;
		call.op.done = bench_done;
		call.op.user = call.op.buf;
		call.op.ext = i << 8 | call.worker;
		/* Waits while as many are in flight as may be. */
		ret = evering_op_submit(kv->ops[call.worker], &call.op, NULL,
					PATIENCE);
		if (ret)
			return ret;
	}
	for (w = 0; w < kv->workers; w++) {
		ret = evering_op_wait_all(kv->ops[w], PATIENCE);
		if (ret)
			return ret;
	}
	return bench.error;
}

static int bench_round(unsigned int keys)
{
	int ret = 0;

	for (bench.version = 0; bench.version < 2 && !ret; bench.version++) {
		ret = bench_pass(KV_PUT, keys, 0);
		if (!ret)
			ret = bench_pass(KV_GET, keys, 0);
	}
	if (!ret)
		ret = bench_pass(KV_DELETE, keys, 0);
	if (!ret)
		ret = bench_pass(KV_GET, keys, -ENOENT);
	return ret;
}

static int bench_client(const char *path, unsigned int client,
			unsigned int keys, unsigned int rounds)
{
	int ret;

	bench.client = client;
	ret = kv_open(&bench.kv, path);
	if (!ret && !client) {
		printf("over %s, to %u workers\n",
		       evering_backend_name(bench.kv.ev[0]), bench.kv.workers);
		fflush(stdout);
	}
	while (!ret && rounds--)
		ret = bench_round(keys);
	kv_close(&bench.kv);
	if (ret)
		return fail("bench", ret);
	return EXIT_SUCCESS;
}

static int bench_all(const char *path, unsigned int clients, unsigned int keys,
		     unsigned int rounds)
{
	uint64_t requests = (uint64_t)clients * keys * rounds * 6;
	int64_t start = now_ns(), took;
	int status, failed = 0;
	unsigned int i;
	pid_t pid;

	/* fork() comes before the channels: a child has none of its parent's. */
	for (i = 0; i < clients; i++) {
		pid = fork();
		if (pid < 0)
			return fail("fork", -errno);
		if (!pid) {
			_exit(bench_client(path, i, keys, rounds));
		}
	}
	for (i = 0; i < clients; i++)
		failed += wait(&status) < 0 || status;
	took = now_ns() - start;
	if (failed) {
		fprintf(stderr, "kv: bench: %d of %u clients failed\n", failed,
			clients);
		return EXIT_FAILURE;
	}
	printf("%u clients, %llu requests in %.2f s: %.0f a second, all right\n",
	       clients, (unsigned long long)requests,
	       (double)took / (double)SECOND,
	       (double)requests * (double)SECOND / (double)took);
	return EXIT_SUCCESS;
}

/* ------------------------------------------------------------ command line */

static void usage(FILE *to)
{
	fputs("Usage: kv [OPTION...] COMMAND\n"
	      "\n"
	      "  serve             until SIGINT or SIGTERM\n"
	      "  put KEY VALUE\n"
	      "  get KEY           prints the value\n"
	      "  delete KEY\n"
	      "  bench             clients that check every answer\n"
	      "\n"
	      "  --socket=PATH     PATH.0, PATH.1, ... (kv.socket); or @NAME\n"
	      "  --workers=N       serve: threads, 1..64 (one for each CPU)\n"
	      "  --clients=N       bench: processes, 1..64 (2)\n"
	      "  --keys=N          bench: of each client, 1..100000 (2000)\n"
	      "  --size=BYTES      bench: the largest value, 1..1048576 (65536)\n"
	      "  --rounds=N        bench: how often, 1..1000000 (1)\n",
	      to);
}

static unsigned int number(const char *option, const char *text,
			   unsigned int most)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || !value ||
	    value > most) {
		fprintf(stderr, "kv: --%s=%s: must be 1..%u\n", option, text,
			most);
		exit(2);
	}
	return (unsigned int)value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "workers", required_argument, NULL, 'w' },
		{ "clients", required_argument, NULL, 'c' },
		{ "keys", required_argument, NULL, 'k' },
		{ "size", required_argument, NULL, 'b' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	unsigned int workers = 0, clients = 2, keys = 2000, rounds = 1;
	const char *path = "kv.socket";
	int option;

	bench.size = 65536;
	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 's':
			path = optarg;
			break;
		case 'w':
			workers = number("workers", optarg, MAX_WORKERS);
			break;
		case 'c':
			clients = number("clients", optarg, MAX_CLIENTS);
			break;
		case 'k':
			keys = number("keys", optarg, 100000);
			break;
		case 'b':
			bench.size = number("size", optarg, KV_MAX_VALUE);
			break;
		case 'r':
			rounds = number("rounds", optarg, 1000000);
			break;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		default:
			usage(stderr);
			return 2;
		}
	}
	argc -= optind;
	argv += optind;
	if (argc == 1 && !strcmp(argv[0], "serve"))
		return serve(path, workers);
	if (argc == 3 && !strcmp(argv[0], "put"))
		return one(path, KV_PUT, argv[1], argv[2]);
	if (argc == 2 && !strcmp(argv[0], "get"))
		return one(path, KV_GET, argv[1], NULL);
	if (argc == 2 && !strcmp(argv[0], "delete"))
		return one(path, KV_DELETE, argv[1], NULL);
	if (argc == 1 && !strcmp(argv[0], "bench"))
		return bench_all(path, clients, keys, rounds);
	usage(stderr);
	return 2;
}
