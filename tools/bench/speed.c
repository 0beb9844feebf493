// SPDX-License-Identifier: MIT
/*
 * speed: the few figures that the rings must keep.
 *
 * Round trips of evering, spinning, between two processes on two CPUs, beside the
 * least that the machine can do, a cache line handed there and another handed
 * back, in the same rounds: the machine may be shared, so only the ratio within a
 * round says anything.  Instructions of a message on each side, counted by
 * callgrind.  CPU time of endpoints that wait for nothing.
 *
 * The benchmark proper compares with other systems; this one only guards.
 */
#include <err.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "evering.h"
#include "measure.h"

#define ENTRY 60u /* bytes: all of a 64-byte slot */
#define DATA (ENTRY - (uint32_t)sizeof(struct evering_op_header))
#define WIDE 64u /* bytes of an entry and of a message, in slots of 128 */
#define MAX_ROUNDS 1001u
#define COUNT_LOTS 1000u
#define RATIO_LIMIT 1.3
#define IR_LIMIT 30.0
#define ASK_LIMIT 40.0
#define SERVE_LIMIT 25.0
#define MESSAGE_LIMIT 25.0
#define IDLE_LIMIT 10.0

static unsigned int rounds = 501;
static unsigned int trips = 2000;
static unsigned int idle_seconds = 10;

/* Two lines, each written by one side alone; 128 bytes apart for the prefetcher. */
struct lines {
	uint32_t there __attribute__((aligned(128)));
	uint32_t back __attribute__((aligned(128)));
};

static double now_s(void)
{
	return now_ns() * 1e-9;
}

static void check(int ret, const char *what)
{
	if (ret < 0)
		errx(1, "%s: %s", what, strerror(-ret));
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* A spinning side whose peer has died would spin for ever. */
static void die_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		exit(1);
}

static void pin(unsigned int which)
{
	static cpu_set_t allowed;
	static bool known;
	unsigned int cpu, seen = 0;
	cpu_set_t one;

	if (!known && sched_getaffinity(0, sizeof(allowed), &allowed))
		err(1, "sched_getaffinity");
	known = true;
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || seen++ != which)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one))
			err(1, "sched_setaffinity: CPU %u", cpu);
		return;
	}
	errx(1, "spinning needs two CPUs, and this process may use one only");
}

static void raw_answer(struct lines *lines, uint32_t *n)
{
	unsigned int i;

	for (i = 0; i < trips; i++) {
		++*n;
		while (__atomic_load_n(&lines->there, __ATOMIC_ACQUIRE) != *n)
			relax();
		__atomic_store_n(&lines->back, *n, __ATOMIC_RELEASE);
	}
}

static double raw_ask(struct lines *lines, uint32_t *n)
{
	double start = now_s();
	unsigned int i;

	for (i = 0; i < trips; i++) {
		++*n;
		__atomic_store_n(&lines->there, *n, __ATOMIC_RELEASE);
		while (__atomic_load_n(&lines->back, __ATOMIC_ACQUIRE) != *n)
			relax();
	}
	return (now_s() - start) / trips * 1e9;
}

static void evering_answer(struct evering *ev)
{
	unsigned char entry[ENTRY];
	unsigned int i;

	for (i = 0; i < trips; i++) {
		check(evering_recv(ev, entry, ENTRY, EVERING_WAIT_FOREVER),
		      "evering_recv");
		check(evering_send(ev, entry, ENTRY, EVERING_WAIT_FOREVER),
		      "evering_send");
	}
}

static double evering_ask(struct evering *ev)
{
	unsigned char entry[ENTRY] = { 0 };
	double start = now_s();
	unsigned int i;

	for (i = 0; i < trips; i++) {
		memcpy(entry, &i, sizeof(i));
		check(evering_send(ev, entry, ENTRY, EVERING_WAIT_FOREVER),
		      "evering_send");
		check(evering_recv(ev, entry, ENTRY, EVERING_WAIT_FOREVER),
		      "evering_recv");
		if (memcmp(entry, &i, sizeof(i)) != 0)
			errx(1, "answer %u is another's", i);
	}
	return (now_s() - start) / trips * 1e9;
}

static void row(const char *name, double *values, const char *unit)
{
	double middle = median(values, rounds);

	printf("  %-28s median %8.2f %s, least %8.2f %s\n", name, middle, unit,
	       values[0], unit);
}

static bool round_trips(void)
{
	static double raw[MAX_ROUNDS], ours[MAX_ROUNDS], ratio[MAX_ROUNDS];
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_params limits = EVERING_LIMITS_INIT;
	pid_t parent = getpid(), child;
	struct lines *lines;
	struct evering *ev;
	int socks[2], status;
	uint32_t n = 0;
	unsigned int i;

	lines = mmap(NULL, sizeof(*lines), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (lines == MAP_FAILED)
		err(1, "mmap");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		err(1, "socketpair");
	params.policy = limits.policy = EVERING_BUSY;

	child = fork();
	if (child < 0)
		err(1, "fork");
	if (!child) {
		die_with_parent(parent);
		pin(1);
		close(socks[0]);
		check(evering_accept_fd(socks[1], &limits, 5000000000, &ev),
		      "evering_accept_fd");
		/* One more than is measured: the first warms up. */
		for (i = 0; i <= rounds; i++) {
			raw_answer(lines, &n);
			evering_answer(ev);
		}
		evering_close(ev);
		_exit(0);
	}
	pin(0);
	close(socks[1]);
	check(evering_connect_fd(socks[0], &params, 5000000000, &ev),
	      "evering_connect_fd");
	raw_ask(lines, &n);
	evering_ask(ev);
	for (i = 0; i < rounds; i++) {
		raw[i] = raw_ask(lines, &n);
		ours[i] = evering_ask(ev);
		ratio[i] = ours[i] / raw[i];
	}
	printf("round trip of %u bytes, busy, two processes, %s, %u rounds of %u:\n",
	       ENTRY, evering_backend_name(ev), rounds, trips);
	evering_close(ev);
	if (waitpid(child, &status, 0) < 0 || status)
		errx(1, "the answering process failed");
	munmap(lines, sizeof(*lines));

	row("two cache-line hand-overs", raw, "ns");
	row("evering", ours, "ns");
	row("ratio within a round", ratio, "× ");
	printf("  target: median at most %.2f\n", RATIO_LIMIT);
	return median(ratio, rounds) <= RATIO_LIMIT;
}

/*
 * What callgrind counts: a batch of messages that fits the ring, so neither side waits.
 * Unrolled, because the loop is not what is asked for; a quarter of it is counted.
 */
__attribute__((noinline)) void count_send(struct evering *ev, const void *entry,
					  unsigned int lot);
__attribute__((noinline)) void count_recv(struct evering *ev, void *entry,
					  unsigned int lot);

void count_send(struct evering *ev, const void *entry, unsigned int lot)
{
#pragma GCC unroll 4
	for (; lot; lot--)
		if (evering_send(ev, entry, ENTRY, EVERING_NOWAIT))
			abort();
}

void count_recv(struct evering *ev, void *entry, unsigned int lot)
{
#pragma GCC unroll 4
	for (; lot; lot--)
		if (evering_recv(ev, entry, ENTRY, EVERING_NOWAIT))
			abort();
}

/* As many operations as fit the table, with all the data that fits an entry. */
__attribute__((noinline)) void count_ask(struct evering_ops *ops,
					 const void *data, uint64_t *done,
					 unsigned int lot);
__attribute__((noinline)) void count_serve(struct evering_ops *ops);
__attribute__((noinline)) void count_take(struct evering_ops *ops);

static void count_done(struct evering_ops *ops,
		       const struct evering_completion *completion)
{
	(void)ops;
	++*(uint64_t *)completion->user;
}

void count_ask(struct evering_ops *ops, const void *data, uint64_t *done,
	       unsigned int lot)
{
#pragma GCC unroll 4
	for (; lot; lot--)
		if (evering_op_submit_data(ops, 1, data, DATA, count_done, done,
					   EVERING_NOWAIT))
			abort();
}

void count_serve(struct evering_ops *ops)
{
	if (evering_ops_poll(ops) <= 0)
		abort();
}

void count_take(struct evering_ops *ops)
{
	if (evering_ops_poll(ops) <= 0)
		abort();
}

static void count_request(struct evering_ops *ops,
			  const struct evering_request *request, void *context)
{
	(void)context;
	if (evering_op_answer(ops, request->id, 0, request->data, DATA))
		abort();
}

static void count_ops(struct evering *ev[2], unsigned int lot)
{
	struct evering_ops_params params = EVERING_OPS_PARAMS_INIT;
	unsigned char data[DATA] = { 0 };
	uint64_t done = 0;
	struct evering_ops *ops[2];
	unsigned int i;

	params.request = count_request;
	for (i = 0; i < 2; i++) {
		params.depth = i ? 0 : lot;
		params.serve = i ? lot : 0;
		check(evering_ops_open(ev[i], &params, &ops[i]),
		      "evering_ops_open");
	}
	for (i = 0; i < 2; i++)
		if (evering_ops_poll(ops[i]) != 1)
			abort();
	for (i = 0; i < COUNT_LOTS; i++) {
		count_ask(ops[0], data, &done, lot);
		count_serve(ops[1]);
		count_take(ops[0]);
	}
	if (done != (uint64_t)COUNT_LOTS * lot)
		abort();
}

/* Messages, beside entries of the same length in the same slots. */
__attribute__((noinline)) void
count_wide_send(struct evering *ev, const void *entry, unsigned int lot);
__attribute__((noinline)) void count_wide_recv(struct evering *ev, void *entry,
					       unsigned int lot);
__attribute__((noinline)) void
count_msg_send(struct evering_ops *ops, const void *data, unsigned int lot);
__attribute__((noinline)) void count_msg_recv(struct evering_ops *ops,
					      unsigned int lot);

void count_wide_send(struct evering *ev, const void *entry, unsigned int lot)
{
#pragma GCC unroll 4
	for (; lot; lot--)
		if (evering_send(ev, entry, WIDE, EVERING_NOWAIT))
			abort();
}

void count_wide_recv(struct evering *ev, void *entry, unsigned int lot)
{
#pragma GCC unroll 4
	for (; lot; lot--)
		if (evering_recv(ev, entry, WIDE, EVERING_NOWAIT))
			abort();
}

void count_msg_send(struct evering_ops *ops, const void *data, unsigned int lot)
{
#pragma GCC unroll 4
	for (; lot; lot--) {
		struct iovec iov = { (void *)(uintptr_t)data, WIDE };

		if (evering_msg_send(ops, &iov, 1, EVERING_NOWAIT))
			abort();
	}
}

void count_msg_recv(struct evering_ops *ops, unsigned int lot)
{
	struct evering_msg msg;

#pragma GCC unroll 4
	for (; lot; lot--)
		if (evering_msg_recv(ops, &msg, EVERING_NOWAIT) ||
		    evering_msg_free(ops, &msg))
			abort();
}

static void count_messages(unsigned int lot)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	unsigned char bytes[WIDE] = { 0 };
	struct evering_ops *ops[2];
	struct evering *ev[2];
	unsigned int i;

	params.backend = EVERING_BACKEND_MEMFD;
	params.slot_size = 128;
	check(evering_pair(&params, ev), "evering_pair");
	for (i = 0; i < COUNT_LOTS; i++) {
		count_wide_send(ev[0], bytes, lot);
		count_wide_recv(ev[1], bytes, lot);
	}
	for (i = 0; i < 2; i++)
		check(evering_ops_open(ev[i], NULL, &ops[i]),
		      "evering_ops_open");
	for (i = 0; i < 2; i++)
		if (evering_ops_poll(ops[i]) != 1)
			abort();
	for (i = 0; i < COUNT_LOTS; i++) {
		count_msg_send(ops[0], bytes, lot);
		count_msg_recv(ops[1], lot);
		/* Credit comes back. */
		if (evering_ops_poll(ops[0]) <= 0)
			abort();
	}
	evering_close(ev[0]);
	evering_close(ev[1]);
}

static void count(void)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	unsigned char entry[ENTRY] = { 0 };
	struct evering *ev[2];
	unsigned int i;

	params.backend = EVERING_BACKEND_MEMFD;
	check(evering_pair(&params, ev), "evering_pair");
	for (i = 0; i < COUNT_LOTS; i++) {
		count_send(ev[0], entry, params.entries);
		count_recv(ev[1], entry, params.entries);
	}
	/* The ring of the answers has never been used: what it costs is the same. */
	count_ops(ev, params.entries / 2);
	evering_close(ev[0]);
	evering_close(ev[1]);
	count_messages(params.entries / 4);
}

/* Instructions of @function for each of @lot messages; < 0: no valgrind. */
static double counted(const char *self, const char *function, unsigned int lot)
{
	char command[4096], line[512];
	double total = -1;
	FILE *out;

	snprintf(command, sizeof(command),
		 "valgrind --tool=callgrind --callgrind-out-file=/dev/null "
		 "--toggle-collect=%s '%s' --count 2>&1",
		 function, self);
	out = popen(command, "r");
	if (!out)
		err(1, "popen");
	while (fgets(line, sizeof(line), out)) {
		const char *at = strstr(line, "Collected : ");

		if (at)
			total = atof(at + strlen("Collected : "));
	}
	pclose(out);
	return total / COUNT_LOTS / lot;
}

static bool instructions(const char *self)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	unsigned int entries = params.entries;
	double sends = counted(self, "count_send", entries);
	double recvs = counted(self, "count_recv", entries);
	double asks = counted(self, "count_ask", entries / 2);
	double serves = counted(self, "count_serve", entries / 2);
	double takes = counted(self, "count_take", entries / 2);
	double wide_sends = counted(self, "count_wide_send", entries / 2);
	double wide_recvs = counted(self, "count_wide_recv", entries / 2);
	double msg_sends = counted(self, "count_msg_send", entries / 2);
	double msg_recvs = counted(self, "count_msg_recv", entries / 2);
	double client = asks + takes - sends - recvs;
	double server = serves - sends - recvs;

	if (sends < 0 || recvs < 0 || asks < 0 || serves < 0 || takes < 0) {
		printf("instructions a message: not counted, valgrind is missing\n");
		return true;
	}
	printf("instructions a message of %u bytes, callgrind:\n", ENTRY);
	printf("  send %.2f, receive %.2f\n", sends, recvs);
	printf("  target: at most %.0f each\n", IR_LIMIT);
	printf("instructions an operation, callbacks included:\n");
	printf("  submit %.2f and complete %.2f: %.2f more than send and receive\n",
	       asks, takes, client);
	printf("  target: at most %.0f more\n", ASK_LIMIT);
	printf("  serve %.2f: %.2f more than receive and send\n", serves,
	       server);
	printf("  target: at most %.0f more\n", SERVE_LIMIT);
	printf("instructions a message of %u bytes (evering_msg_*), slots of 128:\n",
	       WIDE);
	printf("  send %.2f: %.2f more than an entry's %.2f\n", msg_sends,
	       msg_sends - wide_sends, wide_sends);
	printf("  receive and free %.2f: %.2f more than an entry's %.2f\n",
	       msg_recvs, msg_recvs - wide_recvs, wide_recvs);
	printf("  target: at most %.0f more on each side\n", MESSAGE_LIMIT);
	/* What operations are to reach is told, but missed it is no failure. */
	return sends <= IR_LIMIT && recvs <= IR_LIMIT;
}

static double cpu_ms(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e3 +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-3;
}

/* CPU time in ms of waiting for an entry that does not come. */
static double idle_for(struct evering *ev, unsigned int policy)
{
	double before;
	int ret;

	check(evering_set_policy(ev, policy, EVERING_SPIN_NS),
	      "evering_set_policy");
	before = cpu_ms();
	ret = evering_wait(ev, EVERING_RX, (int64_t)idle_seconds * 1000000000);
	if (ret != -ETIMEDOUT)
		errx(1, "evering_wait: %s", strerror(-ret));
	return cpu_ms() - before;
}

/* Both policies at once, each at one end of the same channel. */
static bool idle(void)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	pid_t parent = getpid(), child;
	double adaptive, block = -1;
	struct evering *ev;
	int socks[2], out[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) ||
	    pipe(out))
		err(1, "socketpair");
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (!child) {
		die_with_parent(parent);
		close(socks[0]);
		check(evering_accept_fd(socks[1], NULL, 5000000000, &ev),
		      "evering_accept_fd");
		block = idle_for(ev, EVERING_BLOCK);
		/* The other end waits as long, and must not be told before. */
		if (write(out[1], &block, sizeof(block)) != sizeof(block))
			_exit(1);
		pause();
		_exit(0);
	}
	close(socks[1]);
	check(evering_connect_fd(socks[0], &params, 5000000000, &ev),
	      "evering_connect_fd");
	adaptive = idle_for(ev, EVERING_ADAPTIVE);
	if (read(out[0], &block, sizeof(block)) != sizeof(block))
		errx(1, "the other end failed");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	evering_close(ev);
	close(out[0]);
	close(out[1]);

	printf("CPU time of waiting %u s for nothing:\n", idle_seconds);
	printf("  adaptive %.2f ms, block %.2f ms\n", adaptive, block);
	printf("  target: less than %.0f ms\n", IDLE_LIMIT);
	return adaptive < IDLE_LIMIT && block < IDLE_LIMIT;
}

static void usage(FILE *to)
{
	fprintf(to,
		"usage: speed [--rounds=N] [--trips=N] [--idle=SECONDS]\n"
		"Measures the round trip, the instructions of a message and idling.\n"
		"Exits 0 if all targets are met, 1 if not, 2 on wrong usage.\n");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "trips", required_argument, NULL, 't' },
		{ "idle", required_argument, NULL, 'i' },
		{ "count", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	bool met = true;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'r':
			rounds = number("speed", "rounds", optarg, MAX_ROUNDS);
			break;
		case 't':
			trips = number("speed", "trips", optarg, 100000000);
			break;
		case 'i':
			idle_seconds = number("speed", "idle", optarg, 3600);
			break;
		case 'c':
			count();
			return 0;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind < argc) {
		usage(stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	met = instructions(argv[0]) && met;
	met = idle() && met;
	/* Last: it pins this process to one CPU. */
	met = round_trips() && met;
	return met ? 0 : 1;
}
