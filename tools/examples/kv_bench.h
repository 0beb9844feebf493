/* SPDX-License-Identifier: MIT */
/*
 * kv_bench.h: many clients of kv at once, with the most requests in flight, which check
 * every answer.
 *
 * Each client has its own keys.  It puts them, gets them, replaces them, gets them,
 * deletes them, and looks that they are gone.
 */
#ifndef KV_BENCH_H
#define KV_BENCH_H

#include <sys/wait.h>
#include <time.h>

#include "kv.h"

static struct {
	unsigned int clients, keys, rounds;
	unsigned int size; /* of the largest value */
	struct kv kv;
	unsigned int client;
	unsigned int version; /* of the values */
	bool getting; /* values, that is */
	int32_t expected; /* result */
	int error; /* -EBADMSG: a value was another */
} bench = { .clients = 2, .keys = 2000, .rounds = 1, .size = 65536 };

/* Most values are small, one in eight is not. */
static uint64_t bench_len(uint64_t i)
{
	if (i % 8)
		return (i * 7 + bench.version) % 40;
	return 1 + (i * 999983 + bench.version) % bench.size;
}

static unsigned char bench_byte(uint64_t i, uint64_t j)
{
	return (unsigned char)(i + bench.client + bench.version + j * 31);
}

static void bench_done(struct evering_ops *ops,
		       const struct evering_completion *done)
{
	struct evering *ev = evering_ops_endpoint(ops);
	const unsigned char *got = done->buf ? done->buf : done->data;
	uint64_t len = done->buf ? done->buf_len : done->len, i;

	if (done->result != bench.expected)
		bench.error = done->result ? done->result : -EBADMSG;
	else if (bench.getting && len != bench_len(done->ext))
		bench.error = -EBADMSG;
	for (i = 0; bench.getting && !bench.error && i < len && !done->result;
	     i++)
		if (got[i] != bench_byte(done->ext, i))
			bench.error = -EBADMSG;
	/*
	 * A lent buffer belongs to this side again.  A given one returns to its owner
	 * with this.
	 */
	evering_free(ev, done->user);
	evering_free(ev, done->buf);
}

/*
 * Returns 0: the operation is in flight; -EAGAIN: no room in the arena; or another
 * errno.
 */
static int bench_submit(uint32_t opcode, uint64_t i, unsigned int *worker)
{
	unsigned char small[KV_SLOT], *bytes = small;
	/* It may be done twice, because no other client has these keys. */
	struct evering_op op = { .opcode = opcode,
				 .flags = EVERING_REISSUE,
				 .done = bench_done,
				 .ext = i };
	uint64_t len = opcode == KV_PUT ? bench_len(i) : 0, j;
	struct evering_ops_info info;
	struct evering_ops *ops;
	struct evering *ev;
	char key[32];
	int key_len, ret;

	key_len = snprintf(key, sizeof(key), "%u-%llu", bench.client,
			   (unsigned long long)i);
	*worker = worker_of(hash_key(key, (size_t)key_len), bench.kv.workers);
	ops = bench.kv.ops[*worker];
	ev = bench.kv.ev[*worker];
	evering_ops_get_info(ops, &info);
	if (1 + (uint64_t)key_len + len > info.max_data) {
		bytes = evering_alloc(ev, 1 + (uint64_t)key_len + len, 0);
		if (!bytes)
			return -EAGAIN;
		op.flags |= EVERING_LEND;
		op.buf = op.user = bytes;
		op.buf_len = 1 + (uint64_t)key_len + len;
	} else {
		op.data = small;
		op.len = (uint32_t)(1 + (uint64_t)key_len + len);
	}
	bytes[0] = (unsigned char)key_len;
	memcpy(bytes + 1, key, (size_t)key_len);
	for (j = 0; j < len; j++)
		bytes[1 + (uint64_t)key_len + j] = bench_byte(i, j);
	/* This waits while the most operations are in flight. */
	ret = evering_op_submit(ops, &op, NULL, PATIENCE);
	if (ret)
		evering_free(ev, op.buf);
	return ret;
}

/* Does @opcode to the key @i. */
static int bench_ask(uint32_t opcode, uint64_t i)
{
	unsigned int w;
	int ret;

	while ((ret = bench_submit(opcode, i, &w)) == -EAGAIN) {
		/* Operations in flight will make room. */
		ret = evering_ops_wait(bench.kv.ops[w], PATIENCE);
		if (ret < 0)
			break;
	}
	return ret;
}

static int bench_wait(void)
{
	unsigned int w;
	int ret = 0;

	for (w = 0; w < bench.kv.workers && !ret; w++)
		ret = evering_op_wait_all(bench.kv.ops[w], PATIENCE);
	return ret;
}

/* Does @opcode to all keys. Returns 0 or a negative errno. */
static int bench_pass(uint32_t opcode, int32_t expected)
{
	uint64_t i;
	int ret = 0;

	bench.getting = opcode == KV_GET && !expected;
	bench.expected = expected;
	for (i = 0; i < bench.keys && !ret; i++)
		ret = bench_ask(opcode, i);
	if (!ret)
		ret = bench_wait();
	return ret ? ret : bench.error;
}

static int bench_round(void)
{
	int ret = 0;

	for (bench.version = 0; bench.version < 2 && !ret; bench.version++) {
		ret = bench_pass(KV_PUT, 0);
		if (!ret)
			ret = bench_pass(KV_GET, 0);
	}
	if (!ret)
		ret = bench_pass(KV_DELETE, 0);
	return ret ? ret : bench_pass(KV_GET, -ENOENT);
}

static int bench_client(const char *path, unsigned int client)
{
	unsigned int left = bench.rounds;
	int ret;

	bench.client = client;
	ret = kv_open(&bench.kv, path);
	if (!ret && !client) {
		printf("over %s, to %u workers\n",
		       evering_backend_name(bench.kv.ev[0]), bench.kv.workers);
		fflush(stdout);
	}
	while (!ret && left--)
		ret = bench_round();
	kv_close(&bench.kv);
	return ret ? fail("bench", ret) : EXIT_SUCCESS;
}

static int64_t bench_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static int bench_all(const char *path)
{
	uint64_t requests =
		(uint64_t)bench.clients * bench.keys * bench.rounds * 6;
	int64_t start = bench_now(), took;
	int status, failed = 0;
	unsigned int i;
	pid_t pid;

	/*
	 * fork() comes before the channels, because a child has none of its parent's
	 * channels.
	 */
	for (i = 0; i < bench.clients; i++) {
		pid = fork();
		if (pid < 0)
			return fail("fork", -errno);
		if (!pid)
			_exit(bench_client(path, i));
	}
	for (i = 0; i < bench.clients; i++)
		failed += wait(&status) < 0 || status;
	took = bench_now() - start;
	if (failed) {
		fprintf(stderr, "kv: bench: %d of %u clients failed\n", failed,
			bench.clients);
		return EXIT_FAILURE;
	}
	printf("%u clients, %llu requests in %.2f s: %.0f a second, all right\n",
	       bench.clients, (unsigned long long)requests,
	       (double)took / (double)SECOND,
	       (double)requests * (double)SECOND / (double)took);
	return EXIT_SUCCESS;
}

#endif /* KV_BENCH_H */
