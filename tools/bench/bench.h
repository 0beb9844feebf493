/* SPDX-License-Identifier: MIT */
/*
 * evering bench: what its parts share.
 *
 *	main.c		the command: plan, rounds, what is printed
 *	options.c	its command line
 *	run.c		one run of an arm: its two sides, pinned, and their figures
 *	evering.c	arms: evering on each backend
 *	raw.c		arms: a cache line handed over, and what wakes sleepers, bare
 *	message.c	arms: the floors of messages of any length
 *	connect.c	arms: meetings, of evering and of Unix sockets
 *	sum.c		reading every byte of a message
 *	crowd.c		many channels: which is asked next
 *	many.c		arms: many channels of evering under one server thread
 *	many_uds.c	arms: many Unix sockets, with epoll
 *	many_uring.c	arms: many Unix sockets, with io_uring; as uring.c
 *	relay.c		between the two sides of an arm: relays, or proxies
 *	channel.c	arms: memory and doorbells of a channel, without the library
 *	enter.c		arms: the module's doorbell, without the library
 *	port.c		arms: a kernel module as the other side
 *	evnet.c		arms: frames between a process and the kernel's stack
 *	uds.c		Unix sockets, what is to be read and written next
 *	epoll.c		arms: Unix sockets with epoll
 *	uring.c		arms: Unix sockets with io_uring; built where liburing is
 *	peer.c		arms of other programs, which peers/ holds
 *	stats.c		medians, their intervals, ratios within a round
 *	results.c	JSON Lines, written and read
 *	report.c	the table, and the comparison of two files
 *	ratios.c	the ratios that users ask for, and evering's own targets
 *	plot.c		gnuplot
 *
 * An arm is one way to get bytes from one side to the other.  A cell is an arm
 * under a wait policy in one mode at one size; all cells of a mode and a size are
 * a group, which is run through in a random order in every round, so that what the
 * machine does meanwhile happens to all of them.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <evering.h>

#include "../evering/hist.h"
#include "../evering/util.h"

/*
 * MODE_ORIGINAL: requests and responses of @size bytes, @depth of them in flight,
 *	as the Rust evering's ipc-benchmark has it: two threads of one process; the
 *	clock runs while connections, streams and buffers are made and written for
 *	the first time, but not while listeners, sessions and shared memory are;
 *	what is sent through shared memory by reference is written once
 * MODE_FAIR: the same work by two processes, set-up outside the clock, and every
 *	request written anew by every arm
 * MODE_RTT: one message there and one back
 * MODE_STREAM: messages one way
 * MODE_LATE: MODE_RTT with a server that takes LATE_NS for each answer, longer than
 *	any side spins; the CPU time is the client's alone
 * MODE_CHANNEL: a channel with two arenas of @size bytes made and closed, by the
 *	client
 * MODE_MESSAGE: messages of exactly @size bytes one way, a call for each; the receiver
 *	reads every byte once
 * MODE_REQUEST: such a message there, and one of the same length back
 * MODE_UNPINNED: MODE_RTT between two sleepers on whatever CPUs the scheduler
 *	chooses
 * MODE_CONNECT: the client connects, sends a message of exactly @size bytes, has an
 *	answer of the same length, and closes; the next time anew
 * MODE_MANY_*: @size channels between one client and one server thread, requests of 60
 *	bytes and answers of the same length; many.h.  ONE: one request in flight, on a
 *	channel drawn at random; SOME: one on each of the same 64; ALL: one on each; ZIPF: 8,
 *	of which few channels get most; FLOOD: one of one quiet channel, while the others send
 *	as much as they can
 * MODE_RELAY_*: as between two machines, over loopback: messages of exactly @size bytes, of
 *	which the receiver reads every byte once; relay.c.  RTT: one there and one of the same
 *	length back; STREAM: one way.  Nobody is pinned
 * MODE_PORT: @size bytes to a kernel module, and back from it, all by the client; port.c
 * MODE_EVNET_*: Ethernet frames of @size bytes between a process and the kernel's stack, all by
 *	the client; evnet.c.  TO: to the stack; FROM: from it
 */
enum mode {
	MODE_ORIGINAL,
	MODE_FAIR,
	MODE_RTT,
	MODE_STREAM,
	MODE_LATE,
	MODE_CHANNEL,
	MODE_MESSAGE,
	MODE_REQUEST,
	MODE_UNPINNED,
	MODE_CONNECT,
	MODE_MANY_ONE,
	MODE_MANY_SOME,
	MODE_MANY_ALL,
	MODE_MANY_ZIPF,
	MODE_MANY_FLOOD,
	MODE_RELAY_RTT,
	MODE_RELAY_STREAM,
	MODE_PORT,
	MODE_EVNET_TO,
	MODE_EVNET_FROM,
	MODES
};
#define MANY_MODES                                                             \
	(1u << MODE_MANY_ONE | 1u << MODE_MANY_SOME | 1u << MODE_MANY_ALL |    \
	 1u << MODE_MANY_ZIPF | 1u << MODE_MANY_FLOOD)
#define RELAY_MODES (1u << MODE_RELAY_RTT | 1u << MODE_RELAY_STREAM)
/* The other side is the kernel. */
#define EVNET_MODES  (1u << MODE_EVNET_TO | 1u << MODE_EVNET_FROM)
#define KERNEL_MODES (1u << MODE_PORT | EVNET_MODES)
#define MAX_CHANNELS 10000u
#define MANY_ACTIVE 64u /* MODE_MANY_SOME */
#define MANY_DEALT  8u /* MODE_MANY_ZIPF */
extern const char *const mode_names[MODES];

#define LATE_NS 200000

#define POLICIES 3 /* enum evering_policy; policy_names in ../options.h */
#define ANY_POLICY ((1u << POLICIES) - 1)
#define ONLY(policy) (1u << (policy))

#define RING_ENTRIES 256u /* of every ring and queue */
#define MAX_DEPTH 256u
#define HEADER 4u /* bytes: PING or PONG, big-endian */
#define PING 1u
#define PONG 2u

/*
 * A message for rtt, late and stream: up to SLOT_MAX a size is that of a slot or of a
 * queue's element, of which the last four bytes are evering's stamp and padding
 * elsewhere.
 */
#define SLOT_MAX 256u

/**
 * struct job - what one run of an arm is to do
 * @mode, @policy, @size: the cell
 * @depth: logical clients, each with one request in flight; of MODE_MANY_*: requests in
 *	flight
 * @ops: how many operations
 * @warm: operations before the clock starts; not in MODE_ORIGINAL
 * @probes: each_timed(): operations after that, each timed alone
 * @seed: for the bytes that are checked
 * @cpu: of the client (or producer) and of the server (or consumer)
 * @icount: the clock is the time stamp counter, see bench_options
 */
struct job {
	enum mode mode;
	uint32_t policy;
	uint64_t size;
	uint32_t depth;
	uint64_t ops;
	uint64_t warm;
	uint64_t probes;
	uint64_t seed;
	int cpu[2];
	bool icount;
};

/**
 * struct outcome - what came of it
 * @ns: time of all operations
 * @cpu_ns: CPU time of both sides in it, or of the client; negative: not known
 * @done: operations that the client, and the server, did and found right
 * @syscalls: of both sides; negative: not counted
 * @hist: of the probes
 * @waited: MODE_MANY_FLOOD: turns of others that the quiet channel waited
 * @error: why it failed, or empty
 */
struct outcome {
	int64_t ns;
	int64_t cpu_ns;
	uint64_t done[2];
	int64_t syscalls;
	struct hist hist;
	struct hist waited;
	char error[160];
};

/* What one side of a run leaves for the harness. */
struct figures {
	int64_t begin_ns;
	int64_t end_ns;
	int64_t cpu_ns;
	uint64_t done;
	uint64_t syscalls;
};

/* In memory that both sides and the harness share. */
struct shared {
	atomic_uint met; /* sides that came to meet(), in all */
	struct figures side[2];
	struct hist hist;
	struct hist waited;
	/* MODE_MANY_FLOOD, the server's: turns of others, and how many it was then */
	atomic_ullong turns __attribute__((aligned(128)));
	atomic_ullong turn_of_quiet;
	atomic_bool failed __attribute__((aligned(128)));
	char error[160];
};

struct arm;
#define NAME_LEN 32u

/**
 * struct side - one side of a run
 * @server: the one that answers, or consumes
 * @sock: an end of a socketpair(2) of SOCK_SEQPACKET, to meet over
 * @listener: the server's, for arms that connect by name
 * @address: and that name
 * @random: state of wyrand(), as a thread of its own would have it
 * @source: @size bytes to send, 'S' or 'R', in private memory
 * @number: of the last message, MODE_MESSAGE, MODE_REQUEST, MODE_CONNECT and MODE_RELAY_*
 * @probe: time each operation, into the histogram
 * @done: operations found right
 * @syscalls: made by the arm; it counts them where it makes them
 * @helper: a process of this side's, whose CPU time counts as well; 0: none
 * @told_ns: how long it took, if a program that the arm has started says so; 0: else
 * @state: the arm's
 */
struct side {
	const struct job *job;
	const struct arm *arm;
	struct shared *shared;
	bool server;
	int sock;
	int listener;
	struct sockaddr_un address;
	socklen_t address_len;
	uint64_t random;
	unsigned char *source;
	uint32_t number;
	bool probe;
	uint64_t done;
	uint64_t syscalls;
	pid_t helper;
	int64_t told_ns;
	void *state;
};

/**
 * struct arm - one way to get bytes from one side to the other
 * @name: as users name it
 * @modes: by mode, for which policies; 0: not at all
 * @most: the largest size, 0: any
 * @variant: for arms that share functions
 * @uncounted: mask of modes whose system calls it cannot count
 * @descriptors, @mappings: MODE_MANY_*: of each channel, in one process; 0: one, and none
 * @opens_early: in MODE_ORIGINAL @open comes before the clock
 * @one_cpu: only where both sides share a CPU
 * @missing: why it cannot run here, or NULL; may be NULL itself
 * @open: set this side up, and meet the other
 * @work: do so many operations; may be called again
 * @count: bring @syscalls up to date; may be NULL
 * @close: take down
 *
 * Each is called in a process or thread of the side's own and does not return on
 * errors but calls fail().
 */
struct arm {
	const char *name;
	uint32_t modes[MODES];
	uint64_t most;
	int variant;
	uint32_t uncounted;
	uint32_t descriptors;
	uint32_t mappings;
	bool opens_early;
	bool one_cpu;
	const char *(*missing)(void);
	void (*open)(struct side *s);
	void (*work)(struct side *s, uint64_t ops);
	void (*count)(struct side *s);
	void (*close)(struct side *s);
	struct peer *peer; /* the program that has it, or NULL */
};

extern const struct arm evering_device_arm, evering_device_loop_arm;
extern const struct arm evering_memfd_arm, evering_memfd_loop_arm;
extern const struct arm evering_device_call_arm, evering_memfd_call_arm;
extern const struct arm raw_arm, alone_arm, eventfd_arm, pipe_arm, futex_arm;
extern const struct arm seqpacket_arm, yield_arm;
extern const struct arm enter_arm, ring_poll_arm;
extern const struct arm two_copies_arm, copy_and_read_arm;
extern const struct arm device_bare_arm, memfd_bare_arm, memfd_whole_arm;
extern const struct arm evering_device_ring_arm, evering_memfd_ring_arm;
extern const struct arm uds_stream_arm, uds_seqpacket_arm;
extern const struct arm epoll_original_arm, epoll_good_arm;
/* Of the same names as those that have the other modes. */
extern const struct arm many_device_arm, many_memfd_arm, many_loop_arm;
extern const struct arm many_alone_arm, many_scan_arm, many_epoll_arm;
extern const struct arm evering_relay_arm, chain_arm, pingpong_arm;
extern const struct arm echo_read_arm, echo_arm, echo_16_arm, echo_op_arm;
extern const struct arm echo_op_16_arm, echo_thread_arm, echo_thread_op_arm;
extern const struct arm evnet_arm, tun_arm, dummy_arm;
extern const struct arm evnet_udp_arm, tun_udp_arm, dummy_udp_arm;
/*
 * relay.c: a process of this side's between the two sides.  relay_begin() is evering-relay;
 * @name is where the server is to listen already, or where the client connects.
 * chain_begin() is a proxy, to which the client's @address is changed.
 */
void relay_begin(struct side *s, char name[NAME_LEN]);
void chain_begin(struct side *s);
/* NULL, or why there is no evering-relay. */
const char *relay_missing(void);
/* connect.c: MODE_CONNECT of the arms that have other modes in evering.c. */
void meet_open(struct side *s);
void meet_work(struct side *s, uint64_t ops);
void meet_close(struct side *s);
/* A unique abstract name; returns @name. */
const char *own_name(const struct side *s, char name[NAME_LEN]);
/* The client goes on when the server listens. */
void wait_for_server(struct side *s);
/* The server, which has nothing to do, goes when the client has gone. */
void wait_for_client(struct side *s);
/* The client has made @count descriptors, up to four, and the server gets them. */
void share_fds(struct side *s, int *fds, unsigned int count);
/* NULL, or why the device is not usable here. */
const char *device_missing(void);
/* evnet.c: once, before any run of MODE_EVNET_*. */
void evnet_prepare(void);
/* Not linked where there is no liburing. */
extern const struct arm uring_original_arm __attribute__((weak));
extern const struct arm uring_good_arm __attribute__((weak));
extern const struct arm many_uring_arm __attribute__((weak));

/* What is measured ------------------------------------------------------- */

#define MAX_ARMS 96u
#define MAX_CELLS 48u /* of a group */
#define MAX_GROUPS 96u
#define MAX_ROUNDS 501u

/**
 * struct cell - an arm under a policy in a group, and what it took
 * @how: the arm; NULL for one that was read from a file, or is absent
 * @ops: of a run
 * @ns, @cpu, @calls: of an operation, by round: nanoseconds, nanoseconds of CPU
 *	time, system calls; NAN: void
 * @hist: of all probes
 * @waited: as of struct outcome
 * @voids: runs that failed, or whose operations were not all found right
 * @error: what the last of them said, or why there were none
 */
struct cell {
	char arm[NAME_LEN];
	uint32_t policy;
	const struct arm *how;
	uint64_t ops;
	double ns[MAX_ROUNDS];
	double cpu[MAX_ROUNDS];
	double calls[MAX_ROUNDS];
	struct hist hist;
	struct hist waited;
	uint32_t voids;
	char error[160];
};

/**
 * struct group - the cells of a mode and a size, or a number of channels
 * @floor: ns of a raw cache-line round trip, by round
 * @spent_ns: how long all that took, setting up included
 */
struct group {
	enum mode mode;
	uint64_t size;
	uint32_t count;
	struct cell *cell[MAX_CELLS];
	uint32_t rounds;
	double floor[MAX_ROUNDS];
	int64_t spent_ns;
};

/**
 * struct results - of one command, measured or read from a file
 * @machine, @kernel, @commit, @command, @date: for people
 * @icount: its nanoseconds are instructions
 */
struct results {
	char machine[256];
	char kernel[96];
	char commit[64];
	char command[256];
	char date[32];
	int cpu[2];
	uint32_t depth;
	bool icount;
	uint32_t count;
	struct group *group[MAX_GROUPS];
};

/* options.c -------------------------------------------------------------- */

#define MAX_NAMES 48u

/**
 * struct bench_options - the command line
 * @modes: mask
 * @policies: by mode, masks; of arms that have none of them all are taken
 * @arms: names, or beginnings of names; none: all
 * @sizes: by mode; none: the mode's own
 * @budget_ns: how long all may take, 0: as long as it takes
 * @speed: what is drawn as speed.svg; arms that are not here are left out
 * @targets: also print_targets()
 * @icount: both sides share a CPU, and nanoseconds are read from the time stamp
 *	counter, which counts instructions where QEMU runs with -icount shift=0
 */
struct bench_options {
	uint32_t modes;
	uint32_t policies[MODES];
	const char *arms[MAX_NAMES];
	uint32_t arm_count;
	uint64_t sizes[MODES][MAX_NAMES];
	uint32_t size_count[MODES];
	uint32_t depth;
	uint32_t min_rounds;
	uint32_t max_rounds;
	int64_t round_ns;
	int64_t budget_ns;
	int64_t timeout_ns;
	int cpu[2];
	const char *peers;
	const char *output;
	const char *plot;
	const char *from;
	const char *against;
	bool json;
	bool list;
	bool quiet;
	bool icount;
	bool speed;
	bool targets;
};

/* Returns -1, or the status to exit with. */
int bench_options(struct bench_options *o, int argc, char **argv);

/* stats.c ---------------------------------------------------------------- */

/**
 * struct summary - of some values, without those that are NAN
 * @median, @least
 * @low, @high: order statistics between which the median of what was sampled lies
 *	with a probability of 95 %, by the binomial distribution; with fewer than six
 *	values the least and the greatest, which is less sure
 */
struct summary {
	uint32_t count;
	double median;
	double low;
	double high;
	double least;
};

struct summary summarize(const double *values, uint32_t count);
/* Of a[i] / b[i]: what happened in the same round. */
struct summary summarize_ratio(const double *a, const double *b,
			       uint32_t count);

/* results.c -------------------------------------------------------------- */

struct group *add_group(struct results *r, enum mode mode, uint64_t size);
struct cell *add_cell(struct group *g, const char *arm, uint32_t policy);
struct cell *find_cell(const struct group *g, const char *arm, uint32_t policy);
struct group *find_group(const struct results *r, enum mode mode,
			 uint64_t size);
void write_results(const struct results *r, FILE *out);
/* 0, or -1 having said why. */
int read_results(struct results *r, const char *path);

/* report.c --------------------------------------------------------------- */

/* Nanoseconds of an operation: tenths matter where there are few; or instructions. */
char *format_ns(char buf[FORMAT_LEN], double ns, bool icount);
/* Three digits; "-" for NAN. */
char *format_value(char buf[FORMAT_LEN], double value);
void print_table(const struct results *r);
void print_changes(const struct results *before, const struct results *now);

/* ratios.c --------------------------------------------------------------- */

/* If @name is one of the words of @list. */
bool listed(const char *name, const char *list);
/* How many times as long others take. */
void print_ratios(const struct results *r);
/* Which of evering's own targets are met. */
void print_targets(const struct results *r);

/* plot.c ----------------------------------------------------------------- */

/* Draws into @dir; 0, or -1 having said why. */
int plot_results(const struct results *r, const char *dir);

/* main.c ----------------------------------------------------------------- */

#define PATH_LEN 4096u
/* Where @name is if it is beside this program. */
void find_beside(char path[PATH_LEN], const char *name);

/* run.c ------------------------------------------------------------------ */

/* Ends this side, and with it the run: says why, unless the other has. */
void fail(struct side *s, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 2, 3)));

/*
 * Runs @job and gives up after @timeout_ns; 0, or -1 with outcome->error set, or
 * -EINTR after a signal.
 */
int run_job(const struct arm *arm, const struct job *job, int64_t timeout_ns,
	    struct outcome *outcome);

/* Forks @s->helper, which ends with this side at the latest; true in the helper. */
bool start_helper(struct side *s);
/* A listening Unix socket, whose name the kernel chooses: @s->address. */
int listen_anywhere(struct side *s);
/*
 * A port of the loopback interface, which both sides are told.  *@listener: the server's
 * socket that listens there; NULL: the port is free, for the time being.
 */
unsigned int common_port(struct side *s, int *listener);

/* The CPUs this process may use; how many there are. */
unsigned int allowed_cpus(int *cpus, unsigned int most);

/* many.c ----------------------------------------------------------------- */

/* What a process may have. */
struct many_limits {
	uint64_t descriptors;
	uint64_t mappings;
};
void many_limits(struct many_limits *limits);
/* As many descriptors as the hard limit allows, for this process and its children. */
void many_raise_limits(void);

/* What a side needs beside its channels. */
#define OTHER_DESCRIPTORS 64u
#define OTHER_MAPPINGS 256u

/* peer.c ----------------------------------------------------------------- */

/*
 * The arms of the programs in @dir, which are started; those that are not there
 * have a row each in @absent, which says why.  peers_end() ends them.
 */
#define MAX_PEER_ARMS 24u
struct absent {
	char name[NAME_LEN];
	char why[128];
};
unsigned int peers_start(const char *dir, struct arm *arms, unsigned int most,
			 struct absent *absent, unsigned int *absents);
void peers_end(void);
int peer_run(struct peer *peer, const char *arm, const struct job *job,
	     int64_t timeout_ns, struct outcome *outcome);

/* What is done to messages; inline, being part of what is timed ------------- */

static inline size_t whole_pages(size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (bytes + page - 1) / page * page;
}

/* MODE_RELAY_*: relay.c */
static inline bool through_relay(enum mode mode)
{
	return RELAY_MODES >> mode & 1;
}

/* MODE_MESSAGE, MODE_REQUEST or MODE_RELAY_*: message.h */
static inline bool whole_messages(const struct job *job)
{
	return job->mode == MODE_MESSAGE || job->mode == MODE_REQUEST ||
	       through_relay(job->mode);
}

/* Nothing comes back. */
static inline bool one_way(const struct job *job)
{
	return job->mode == MODE_STREAM || job->mode == MODE_MESSAGE ||
	       job->mode == MODE_RELAY_STREAM;
}

/* MODE_PORT and MODE_EVNET_*: port.c, evnet.c */
static inline bool with_kernel(enum mode mode)
{
	return KERNEL_MODES >> mode & 1;
}

/* MODE_MANY_*: many.h */
static inline bool many_channels(enum mode mode)
{
	return MANY_MODES >> mode & 1;
}

/* Each operation is timed alone as well, but not where instructions are counted. */
static inline bool each_timed(enum mode mode)
{
	return many_channels(mode) || mode == MODE_RTT ||
	       mode == MODE_UNPINNED || mode == MODE_CONNECT;
}

/* Bytes that a message has; not of original, fair and connect. */
static inline size_t message_size(const struct job *job)
{
	return job->size <= SLOT_MAX && !whole_messages(job) ? job->size - 4 :
							       job->size;
}

static inline uint64_t message_ops(const struct job *job, uint64_t ops,
				   uint32_t client)
{
	uint64_t each = ops / job->depth;

	/* The original truncates; here the planner asks for a multiple. */
	return each + (client < ops % job->depth);
}

/* W. Yi, D. Yao, Y. Wang: wyhash; what the fastrand crate draws from. */
static inline uint64_t wyrand(uint64_t *state)
{
	__uint128_t t;

	*state += 0x2d358dccaa6c78a5u;
	t = (__uint128_t)*state * (*state ^ 0x8bb84b93962eacc9u);
	return (uint64_t)(t >> 64) ^ (uint64_t)t;
}

/* 0..@n - 1 without bias (D. Lemire). */
static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	__uint128_t t = (__uint128_t)wyrand(state) * n;

	if ((uint64_t)t < n)
		while ((uint64_t)t < -n % n)
			t = (__uint128_t)wyrand(state) * n;
	return (uint64_t)(t >> 64);
}

/* original and fair: as the original looks at what arrived. */
static inline void check_payload(struct side *s, const unsigned char *buf)
{
	uint64_t size = s->job->size;
	unsigned char want = s->server ? 'S' : 'R';
	uint64_t draws = size < 32 ? size : 32;
	volatile const unsigned char *at = buf;

	for (; draws; draws--)
		if (at[random_below(&s->random, size)] != want)
			fail(s, "a byte of the payload is wrong");
	s->done++;
}

/*
 * rtt, late and stream: every word of a short message, the ends of a long one.  A word
 * at a time this takes longer than the message does, for each arm alike; so four of
 * them are one load.
 */
typedef uint32_t four_words
	__attribute__((vector_size(16), aligned(4), may_alias));

static inline void write_words(uint32_t *word, size_t len, uint32_t number)
{
	size_t words = len / sizeof(*word), i;
	const four_words value = { number, number, number, number };

#pragma GCC unroll 16
	for (i = 0; i + 4 <= words; i += 4)
		*(four_words *)(word + i) = value;
	if (words % 4 && words > 4)
		*(four_words *)(word + words - 4) = value;
	else
		for (; i < words; i++)
			word[i] = number;
}

static inline uint32_t wrong_words(const uint32_t *word, size_t len,
				   uint32_t number)
{
	size_t words = len / sizeof(*word), i;
	four_words wrong = { 0 };

#pragma GCC unroll 16
	for (i = 0; i + 4 <= words; i += 4)
		wrong |= *(const four_words *)(word + i) ^ number;
	if (words % 4 && words > 4)
		wrong |= *(const four_words *)(word + words - 4) ^ number;
	else
		for (; i < words; i++)
			wrong[0] |= word[i] ^ number;
	return wrong[0] | wrong[1] | wrong[2] | wrong[3];
}

static inline void write_message(const struct side *s, void *buf, size_t len,
				 uint32_t number)
{
	uint32_t *word = (uint32_t *)buf;

	if (len <= SLOT_MAX) {
		write_words(word, len, number);
		return;
	}
	/* A sender from private memory has nothing to copy. */
	if (buf != s->source)
		memcpy(buf, s->source, len);
	word[0] = number;
	word[len / sizeof(*word) - 1] = number;
}

static inline void check_message(struct side *s, const void *buf, size_t len,
				 uint32_t number)
{
	const uint32_t *word = (const uint32_t *)buf;
	uint32_t wrong;

	if (len > SLOT_MAX)
		wrong = (word[0] ^ number) |
			(word[len / sizeof(*word) - 1] ^ number);
	else
		wrong = wrong_words(word, len, number);
	if (wrong)
		fail(s, "message %u is not what was sent", number);
	s->done++;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* Around an operation of rtt: one reading of the clock each. */
static inline int64_t probe_start(const struct side *s)
{
	return s->probe ? clock_ns() : 0;
}

static inline int64_t probe_lap(struct side *s, int64_t since)
{
	int64_t now;

	if (!s->probe)
		return 0;
	now = clock_ns();
	hist_add(&s->shared->hist, (uint64_t)(now - since));
	return now;
}

#endif /* BENCH_H */
