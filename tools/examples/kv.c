// SPDX-License-Identifier: MIT
/*
 * kv: a key-value store with a thread for each CPU, and without locks.
 *
 *	kv serve			in one terminal
 *	kv put KEY VALUE		in another; then get KEY, delete KEY
 *	kv bench			many clients at once, every answer checked
 *
 * The hash of a key selects its worker.  Each worker has a table and a server of its
 * own, at SOCKET.0, SOCKET.1, …, which no other thread uses.  A client has a channel to
 * each worker, and asks the one that has the key.
 *
 * Small values travel in the entry.  A larger value that is put is lent until the
 * server has copied it.  A larger value that is got is given, in the server's arena,
 * and returns when the client frees it.  An answer for which there is no room waits
 * until some have returned.
 *
 * With --file, a server may be killed at any moment, and its clients notice only a
 * pause.  The next server finds in the files what was put, and the clients' library
 * sends it the requests that the dead server had not answered (kv.h).
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "kv_bench.h"
#include "kv_log.h"

#define TABLE_MAX ((uint64_t)256 << 20) /* bytes that a worker keeps */
#define BUCKETS	  65536u

struct item {
	struct item *next;
	uint64_t hash;
	uint64_t len; /* of the value */
	uint32_t key_len;
	char bytes[]; /* the key, then the value */
};

struct worker {
	pthread_t thread;
	unsigned int index, count;
	int cpu;
	struct evering_server *server;
	struct item *buckets[BUCKETS];
	uint64_t bytes;
	uint64_t requests;
	struct kv_log log;
} __attribute__((aligned(128))); /* no two in the same cache line */

/* Requests of a client that wait for room in the arena. */
struct waiting {
	struct evering_request requests[KV_DEPTH];
	unsigned int count;
};

/* -------------------------------------------------------------------- the table */

/* The link to the item with this key, or the place for it. */
static struct item **find(struct worker *w, uint64_t hash, const char *key,
			  uint32_t key_len)
{
	struct item **at = &w->buckets[hash % BUCKETS];

	while (*at && ((*at)->hash != hash || (*at)->key_len != key_len ||
		       memcmp((*at)->bytes, key, key_len)))
		at = &(*at)->next;
	return at;
}

static void delete (struct worker *w, struct item **at)
{
	struct item *item = *at;

	*at = item->next;
	w->bytes -= sizeof(*item) + item->key_len + item->len;
	free(item);
}

/* Returns 0; -E2BIG, -ENOSPC. */
static int put(struct worker *w, struct item **at, uint64_t hash,
	       const char *key, uint32_t key_len, const void *value,
	       uint64_t len)
{
	uint64_t size = sizeof(struct item) + key_len + len;
	struct item *item;
	int ret;

	if (len > KV_MAX_VALUE)
		return -E2BIG;
	item = w->bytes + size > TABLE_MAX ? NULL : malloc(size);
	if (!item)
		return -ENOSPC;
	*item = (struct item){ NULL, hash, len, key_len };
	memcpy(item->bytes, key, key_len);
	if (len)
		memcpy(item->bytes + key_len, value, len);
	/* From the copy, which the client cannot change. */
	ret = log_append(&w->log, KV_PUT, item->bytes, key_len,
			 item->bytes + key_len, len);
	if (ret) {
		free(item);
		return ret;
	}
	if (*at)
		delete (w, at);
	item->next = *at;
	*at = item;
	w->bytes += size;
	return 0;
}

/* Does again what a predecessor has done. */
static int redo(void *context, uint32_t opcode, const char *key,
		uint32_t key_len, const void *value, uint64_t len)
{
	uint64_t hash = hash_key(key, key_len);
	struct worker *w = context;
	struct item **at = find(w, hash, key, key_len);

	if (opcode == KV_PUT)
		return put(w, at, hash, key, key_len, value, len);
	if (opcode != KV_DELETE)
		return -EBADMSG;
	if (*at)
		delete (w, at);
	return 0;
}

/* Writes all items into a new file. */
static int compact(struct worker *w)
{
	struct kv_log new = { 0 };
	struct item *item;
	unsigned int i;
	int ret = log_begin(&w->log, &new);

	if (!ret)
		ret = log_hello(&new, w->count);
	for (i = 0; i < BUCKETS && !ret; i++)
		for (item = w->buckets[i]; item && !ret; item = item->next)
			ret = log_append(&new, KV_PUT, item->bytes,
					 item->key_len,
					 item->bytes + item->key_len,
					 item->len);
	if (!ret)
		ret = log_replace(&w->log, &new);
	log_drop(&new);
	return ret;
}

/* Opens the file of the worker, if there is one, and takes what is in it. */
static int restore(struct worker *w, const char *file)
{
	struct kv_log log;
	int ret;

	ret = log_open(&log, file ? socket_of(file, w->index) : NULL);
	if (!ret && file)
		ret = log_lock(&log);
	/* Until here nothing is written, because it is in the file already. */
	if (!ret && file)
		ret = log_replay(&log, w->count, redo, w);
	if (ret) {
		log_close(&log);
		return ret;
	}
	w->log = log;
	return file ? compact(w) : 0;
}

/* --------------------------------------------------------------------- a worker */

static int forget(struct worker *w, struct item **at)
{
	int ret = log_append(&w->log, KV_DELETE, (*at)->bytes, (*at)->key_len,
			     NULL, 0);

	if (!ret)
		delete (w, at);
	return ret;
}

/* Does what a request asks for. Its answer, of any length, is at @answer. */
static int perform(struct worker *w, const struct evering_request *request,
		   struct iovec *answer)
{
	static _Thread_local struct hello hello;
	uint64_t len, hash;
	const char *bytes = evering_request_bytes(request, &len);
	unsigned char head[KV_MAX_KEY + 1];
	const char *key = (const char *)head + 1;
	struct item **at;

	hello = (struct hello){ KV_VERSION, w->count };
	*answer = (struct iovec){ &hello, 0 };
	if (request->opcode == KV_HELLO) {
		answer->iov_len = sizeof(hello);
		return 0;
	}
	/*
	 * The client can change a lent buffer at any time, so check a copy.  A value
	 * that it changes meanwhile may be a mixture, which is the client's own fault.
	 */
	memcpy(head, bytes, len < sizeof(head) ? len : sizeof(head));
	if (!len || !head[0] || head[0] > KV_MAX_KEY || head[0] >= len)
		return -EINVAL;
	bytes += 1 + head[0];
	len -= 1u + head[0];
	hash = hash_key(key, head[0]);
	if (worker_of(hash, w->count) != w->index)
		return -EINVAL;
	at = find(w, hash, key, head[0]);
	if (log_is_long(&w->log, w->bytes))
		compact(w);
	if (request->opcode == KV_PUT)
		return put(w, at, hash, key, head[0], bytes, len);
	/* A predecessor may have deleted it, and died before the answer. */
	if (!*at)
		return request->opcode == KV_DELETE &&
				       request->flags & EVERING_AGAIN ?
			       0 :
			       -ENOENT;
	if (request->opcode == KV_GET)
		*answer = (struct iovec){ (*at)->bytes + (*at)->key_len,
					  (*at)->len };
	else if (request->opcode == KV_DELETE)
		return forget(w, at);
	else
		return -EINVAL;
	return 0;
}

/* Returns false if the answer has to wait. */
static bool handle(struct evering_client *client,
		   const struct evering_request *request)
{
	struct iovec answer;
	int result = -EINVAL;

	/* No request gives a buffer, so do not keep it. */
	if (request->flags & EVERING_GIVE) {
		evering_free(client->ev, request->buf);
		answer.iov_len = 0;
	} else {
		result = perform(client->context, request, &answer);
	}
	return evering_op_answerv(client->ops, request->id, result, &answer,
				  answer.iov_len ? 1 : 0,
				  EVERING_NOWAIT) != -EAGAIN;
}

static void on_request(struct evering_client *client,
		       const struct evering_request *request)
{
	struct waiting *waiting = client->user;

	((struct worker *)client->context)->requests++;
	/* The library ensures that at most KV_DEPTH are unanswered. */
	if (!handle(client, request))
		waiting->requests[waiting->count++] = *request;
}

/* Buffers may have returned. */
static void on_turn(struct evering_client *client)
{
	struct waiting *waiting = client->user;
	unsigned int i, count = waiting->count;

	waiting->count = 0;
	for (i = 0; i < count; i++)
		if (!handle(client, &waiting->requests[i]))
			waiting->requests[waiting->count++] =
				waiting->requests[i];
}

static int on_open(struct evering_client *client)
{
	client->user = calloc(1, sizeof(struct waiting));
	return client->user ? 0 : -ENOMEM;
}

/* A client that has closed the channel or was killed is normal; report the rest. */
static void on_close(struct evering_client *client, int why)
{
	free(client->user);
	if (why != -EPIPE && why != -ESHUTDOWN)
		fail("client", why);
}

/* The server goes on when clients free descriptors and memory. */
static void say_waiting(struct evering_server *server, int error)
{
	(void)server;
	if (error)
		fail("accept", error);
}

/* As the mode of the socket file. A name that begins with @ has no mode. */
static int allow(pid_t pid, uid_t uid, gid_t gid, void *context)
{
	(void)pid;
	(void)gid;
	(void)context;
	return !uid || uid == geteuid() ? 0 : -EACCES;
}

static int worker_open(struct worker *w, const char *path)
{
	struct evering_server_params params = EVERING_SERVER_PARAMS_INIT;
	struct evering_admission admission = EVERING_ADMISSION_INIT;
	struct evering_ops_params ops = EVERING_OPS_PARAMS_INIT;
	struct evering_params limits = EVERING_LIMITS_INIT;

	limits.arena_size[EVERING_MINE] = KV_ARENA;
	ops.depth = 0;
	ops.serve = KV_DEPTH;
	admission.allow = allow;
	params.limits = &limits;
	params.ops = &ops;
	params.admission = &admission;
	params.open = on_open;
	params.request = on_request;
	params.turn = on_turn;
	params.close = on_close;
	params.waiting = say_waiting;
	params.context = w;
	return evering_server_open(path, &params, &w->server);
}

/* Serves until it is stopped. */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	cpu_set_t one;
	unsigned int i;
	int ret;

	CPU_ZERO(&one);
	CPU_SET((size_t)w->cpu, &one);
	pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
	do
		ret = evering_server_wait(w->server, EVERING_WAIT_FOREVER);
	while (ret >= 0 || ret == -EINTR);
	if (ret != -ESHUTDOWN)
		fail("wait", ret);
	/* main() closes the server, because it also stops one that has failed here. */
	for (i = 0; i < BUCKETS; i++)
		while (w->buckets[i])
			delete (w, &w->buckets[i]);
	log_close(&w->log);
	return NULL;
}

/* The CPU for the worker @index. */
static int cpu_of(const cpu_set_t *allowed, unsigned int index)
{
	unsigned int nth = index % (unsigned int)CPU_COUNT(allowed);
	int cpu;

	for (cpu = 0; !CPU_ISSET((size_t)cpu, allowed) || nth--; cpu++)
		;
	return cpu;
}

static int serve(const char *path, const char *file, unsigned int count)
{
	static struct worker workers[MAX_WORKERS];
	unsigned int i, started;
	uint64_t requests = 0;
	cpu_set_t allowed;
	int signal, ret = 0;
	sigset_t set;

	/* Before there are threads, because they inherit the mask. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return fail("start", -errno);
	if (!count)
		count = (unsigned int)CPU_COUNT(&allowed);
	if (count > MAX_WORKERS)
		count = MAX_WORKERS;
	for (i = 0; i < count && !ret; i++) {
		char *name = socket_of(path, i);

		workers[i].index = i;
		workers[i].count = count;
		workers[i].cpu = cpu_of(&allowed, i);
		ret = restore(&workers[i], file);
		if (ret)
			fail(file, ret);
		else if ((ret = worker_open(&workers[i], name)))
			fail(name, ret);
		free(name);
	}
	for (started = 0; started < count && !ret; started++) {
		ret = -pthread_create(&workers[started].thread, NULL,
				      worker_main, &workers[started]);
		if (ret)
			fail("worker", ret);
	}
	started -= ret && started;
	if (!ret) {
		printf("%u workers at %s.0 and so on\n", count, path);
		fflush(stdout);
		sigwait(&set, &signal);
	}
	for (i = 0; i < started; i++)
		evering_server_stop(workers[i].server, SECOND);
	for (i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		requests += workers[i].requests;
	}
	for (i = 0; i < count; i++)
		evering_server_close(workers[i].server);
	if (!ret)
		printf("%llu requests\n", (unsigned long long)requests);
	return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ----------------------------------------------------------- the command line */

/**
 * struct setting - an option of the command line
 * @name: --NAME=...
 * @text: where to store a text; or
 * @number: where to store a number, 1..@most; or
 * @most: the most that it may be
 * @flag: or what the option sets without a value
 */
struct setting {
	const char *name;
	const char **text;
	unsigned int *number;
	unsigned int most;
	bool *flag;
};

static unsigned int number_of(const struct setting *s, const char *text)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && value &&
	    value <= s->most)
		return (unsigned int)value;
	fprintf(stderr, "kv: --%s=%s: must be 1..%u\n", s->name, text, s->most);
	exit(2);
}

/*
 * Reads the options, and returns the arguments after them.  @settings ends with { 0 }.
 */
static char **read_options(int argc, char **argv,
			   const struct setting *settings)
{
	struct option options[16] = { { "help", no_argument, NULL, 'h' } };
	int at, i;

	for (i = 0; settings[i].name; i++) {
		options[i + 1].name = settings[i].name;
		options[i + 1].has_arg = settings[i].flag ? no_argument :
							    required_argument;
	}
	while ((i = getopt_long(argc, argv, "+h", options, &at)) != -1) {
		if (i) {
			fputs(usage, i == 'h' ? stdout : stderr);
			exit(i == 'h' ? EXIT_SUCCESS : 2);
		}
		if (settings[at - 1].flag)
			*settings[at - 1].flag = true;
		else if (settings[at - 1].text)
			*settings[at - 1].text = optarg;
		else
			*settings[at - 1].number =
				number_of(&settings[at - 1], optarg);
	}
	return argv + optind;
}

int main(int argc, char **argv)
{
	unsigned int workers = 0;
	const char *path = "kv.socket", *file = NULL;
	const struct setting settings[] = {
		{ "socket", .text = &path },
		{ "file", .text = &file },
		{ "workers", .number = &workers, .most = MAX_WORKERS },
		{ "clients", .number = &bench.clients, .most = 64 },
		{ "keys", .number = &bench.keys, .most = 100000 },
		{ "size", .number = &bench.size, .most = KV_MAX_VALUE },
		{ "rounds", .number = &bench.rounds, .most = 1000000 },
		{ 0 }
	};

	argv = read_options(argc, argv, settings);
	for (argc = 0; argv[argc]; argc++)
		;
	if (argc == 1 && !strcmp(argv[0], "serve"))
		return serve(path, file, workers);
	if (argc == 3 && !strcmp(argv[0], "put"))
		return command(path, KV_PUT, argv[1], argv[2]);
	if (argc == 2 && !strcmp(argv[0], "get"))
		return command(path, KV_GET, argv[1], NULL);
	if (argc == 2 && !strcmp(argv[0], "delete"))
		return command(path, KV_DELETE, argv[1], NULL);
	if (argc == 1 && !strcmp(argv[0], "bench"))
		return bench_all(path);
	fputs(usage, stderr);
	return 2;
}
