/* SPDX-License-Identifier: MIT */
/*
 * kv.h: the protocol of kv, and its client.
 */
#ifndef KV_H
#define KV_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <evering.h>

#define SECOND	    ((int64_t)1000000000)
#define PATIENCE    (30 * SECOND) /* how long a client waits for the server */
#define MAX_WORKERS 64u

/* opcode; a key is sent as its length, in a byte, and its bytes */
enum {
	KV_HELLO = 1, /* answer: struct hello */
	KV_GET = 2, /* key; answer: the value */
	KV_PUT = 3, /* key, and after it the value */
	KV_DELETE = 4, /* key */
};

#define KV_VERSION   2u
#define KV_SLOT	     128u /* bytes of a slot, for small values */
#define KV_DEPTH     32u /* requests of a client in flight, to each worker */
#define KV_ARENA     ((uint64_t)2 << 20)
#define KV_MAX_KEY   64u
#define KV_MAX_VALUE ((uint64_t)1 << 20)

struct hello {
	uint32_t version;
	uint32_t workers;
};

/* What the user can do about @error, or NULL. */
static inline const char *remedy(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "is `kv serve` running, with the same --socket?";
	case -EADDRINUSE:
		return "stop the server there, or choose another --socket";
	case -EACCES:
		return "choose a --socket that this user may use";
	case -ENAMETOOLONG:
		return "choose a --socket of at most 107 bytes";
	case -ETIMEDOUT:
		return "is the server stopped?";
	case -EPIPE:
	case -ESHUTDOWN:
	case -ECONNRESET:
		return "the other side is gone: start it again";
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return "does another program, or another version, listen there?";
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
		return "have fewer clients";
	case -E2BIG:
		return "a key has 1 to 64 bytes, a value at most 1 MiB";
	case -ENOSPC:
		return "the worker is full: start more, or delete something";
	case -EOWNERDEAD:
		return "the server died, and may have done it or not: look";
	case -EBUSY:
		return "another server has this file: stop it, or choose another";
	case -EBADMSG:
		return "the file is not one of kv, or of another --workers";
	default:
		return NULL;
	}
}

/* Prints @error, and what to do about it.  Returns EXIT_FAILURE. */
static inline int fail(const char *what, int error)
{
	const char *advice = remedy(error);

	fprintf(stderr, "kv: %s: %s%s%s\n", what, strerror(-error),
		advice ? "; " : "", advice ? advice : "");
	return EXIT_FAILURE;
}

/*
 * FNV-1a.  It is part of the protocol, because both sides have to agree which worker
 * has a key.
 */
static inline uint64_t hash_key(const char *key, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325;

	while (len--)
		hash = (hash ^ (unsigned char)*key++) * 0x100000001b3;
	return hash;
}

static inline unsigned int worker_of(uint64_t hash, unsigned int workers)
{
	return (unsigned int)((hash >> 32) % workers);
}

static inline char *socket_of(const char *path, unsigned int worker)
{
	char *name;

	if (asprintf(&name, "%s.%u", path, worker) < 0)
		exit(fail("memory", -ENOMEM));
	return name;
}

/* A channel and a table to each worker. */
struct kv {
	unsigned int workers;
	struct evering *ev[MAX_WORKERS];
	struct evering_ops *ops[MAX_WORKERS];
};

static inline void kv_close(struct kv *kv)
{
	unsigned int i;

	for (i = 0; i < MAX_WORKERS; i++) {
		evering_ops_close(kv->ops[i]);
		evering_close(kv->ev[i]);
	}
}

static inline int kv_connect(struct kv *kv, const char *path,
			     unsigned int worker)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_ops_params ops = EVERING_OPS_PARAMS_INIT;
	char *name = socket_of(path, worker);
	int ret;

	params.slot_size = KV_SLOT;
	params.entries = 2 * KV_DEPTH;
	params.arena_size[EVERING_MINE] = KV_ARENA;
	params.arena_size[EVERING_PEERS] = KV_ARENA;
	ops.depth = KV_DEPTH;
	ops.serve = 0;
	ops.flags = EVERING_REPLACEABLE;
	ret = evering_connect(name, &params, PATIENCE, &kv->ev[worker]);
	if (!ret)
		ret = evering_ops_open(kv->ev[worker], &ops, &kv->ops[worker]);
	/*
	 * If the worker goes away, its successor gets the requests that it has not
	 * answered.
	 */
	if (!ret)
		ret = evering_ops_follow(kv->ops[worker], name, PATIENCE);
	free(name);
	return ret;
}

/* Returns 0 or a negative errno. Call kv_close() in either case. */
static inline int kv_open(struct kv *kv, const char *path)
{
	struct evering_completion done = { 0 };
	struct hello hello;
	const struct iovec out = { &hello, sizeof(hello) };
	int ret;

	memset(kv, 0, sizeof(*kv));
	ret = kv_connect(kv, path, 0);
	/* The first worker says how many there are. */
	if (!ret)
		ret = evering_op_callv(kv->ops[0], KV_HELLO, NULL, 0, &out, 1,
				       &done, PATIENCE);
	if (ret || done.result)
		return ret ? ret : done.result;
	if (done.buf_len != sizeof(hello) || hello.version != KV_VERSION ||
	    !hello.workers || hello.workers > MAX_WORKERS)
		return -EPROTONOSUPPORT;
	for (kv->workers = 1; kv->workers < hello.workers && !ret;
	     kv->workers++)
		ret = kv_connect(kv, path, kv->workers);
	return ret;
}

/*
 * Sends one request and waits for the answer.  @value: *@len bytes to put, or the room
 * for a value to get.  Returns 0 or a negative errno.
 */
static inline int kv_call(struct kv *kv, uint32_t opcode, const char *key,
			  const void *value, uint64_t *len)
{
	unsigned char key_len = (unsigned char)strlen(key);
	const struct iovec in[] = {
		{ &key_len, 1 },
		{ (void *)(uintptr_t)key, key_len },
		{ (void *)(uintptr_t)value, *len },
	};
	struct evering_completion done;
	unsigned int worker;
	int ret;

	if (!*key || strlen(key) > KV_MAX_KEY || *len > KV_MAX_VALUE)
		return -E2BIG;
	worker = worker_of(hash_key(key, key_len), kv->workers);
	do {
		ret = evering_op_callv(kv->ops[worker], opcode, in,
				       opcode == KV_PUT ? 3 : 2, &in[2],
				       opcode == KV_GET ? 1 : 0, &done,
				       PATIENCE);
		ret = ret ? ret : done.result;
		/*
		 * To put or delete again could undo what other clients have put since.
		 */
	} while (ret == -EOWNERDEAD && opcode == KV_GET);
	*len = done.buf_len;
	return ret;
}

static const char usage[] =
	"Usage: kv [OPTION...] COMMAND\n"
	"\n"
	"  serve             until SIGINT or SIGTERM\n"
	"  put KEY VALUE\n"
	"  get KEY           prints the value\n"
	"  delete KEY\n"
	"  bench             clients that check every answer\n"
	"\n"
	"  --socket=PATH     PATH.0, PATH.1, ... (kv.socket); or @NAME\n"
	"  --file=PATH       serve: keep what is put in PATH.0, PATH.1, ...\n"
	"  --workers=N       serve: threads, 1..64 (one for each CPU)\n"
	"  --clients=N       bench: processes, 1..64 (2)\n"
	"  --keys=N          bench: of each client, 1..100000 (2000)\n"
	"  --size=BYTES      bench: the largest value, 1..1048576 (65536)\n"
	"  --rounds=N        bench: how often, 1..1000000 (1)\n";

/* A client with one request. */
static inline int command(const char *path, uint32_t opcode, const char *key,
			  const char *value)
{
	static char got[KV_MAX_VALUE];
	uint64_t len = value ? strlen(value) : sizeof(got);
	struct kv kv;
	int ret;

	ret = kv_open(&kv, path);
	if (ret)
		fail(path, ret);
	if (!ret) {
		ret = kv_call(&kv, opcode, key, value ? value : got, &len);
		if (ret == -ENOENT)
			fprintf(stderr, "kv: %s: no such key\n", key);
		else if (ret)
			fail(key, ret);
	}
	if (!ret && opcode == KV_GET) {
		fwrite(got, 1, len, stdout);
		putchar('\n');
	}
	kv_close(&kv);
	return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif /* KV_H */
