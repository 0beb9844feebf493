/* SPDX-License-Identifier: MIT */
/*
 * common.h: what the selftests share: channels on the backend that a variant
 * names, helper processes, clocks, seeded randomness, and the scales on which
 * leaks are weighed.  What a topic alone needs is in its own file.
 *
 * EVERING_SHORT=1 shortens what is long, for sanitizers and slow machines.
 * EVERING_SLOW=n allows n times as long where time is bounded.
 * EVERING_BACKEND=name leaves out the variants on another.
 * EVERING_SEED=n replays the random choices of a run that printed n.
 */
#ifndef EVERING_SELFTESTS_COMMON_H
#define EVERING_SELFTESTS_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "kselftest_harness.h"

/* Seconds; the harness has 30, which a guest with a debug kernel may well need. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include <evering.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#if __has_feature(thread_sanitizer)
#define SANITIZED_THREADS 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifdef __SANITIZE_THREAD__
#define SANITIZED_THREADS 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif
#ifndef SANITIZED_THREADS
#define SANITIZED_THREADS 0
#endif

#define USEC	1000ll
#define MSEC	(1000 * USEC)
#define SEC	(1000 * MSEC)

#define max_of(a, b)	((a) > (b) ? (a) : (b))

static inline bool short_run(void)
{
	const char *s = getenv("EVERING_SHORT");

	return s && *s && strcmp(s, "0");
}

/*
 * How many times slower than a machine this one is: EVERING_SLOW=n, for guests of
 * an emulated CPU.  Bounds on what things may take are multiplied by it.
 */
static inline int64_t slow(int64_t ns)
{
	const char *s = getenv("EVERING_SLOW");
	long n = s ? atol(s) : 0;

	return n > 1 ? ns * n : ns;
}

/*
 * What a wait that should end at once is given.  Generous, because the machine
 * is shared: running into it is a failure, never a slow success.
 */
static inline int64_t plenty(void)
{
	return slow(10 * SEC) > 60 * SEC ? 60 * SEC : slow(10 * SEC);
}

#define PLENTY	plenty()

/* ------------------------------------------------------------------- clocks */

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * SEC + ts.tv_nsec;
}

static inline int64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static inline void sleep_ns(int64_t ns)
{
	struct timespec ts = { ns / SEC, ns % SEC };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static inline void spin_ns(int64_t ns)
{
	int64_t end = now_ns() + ns;

	while (now_ns() < end)
		;
}

static inline int compare_i64(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static inline int64_t median_of(int64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare_i64);
	return v[n / 2];
}

/* --------------------------------------------------------------- randomness */

/* splitmix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014). */
static inline uint64_t random_u64(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	return random_u64(state) % n;
}

static inline uint64_t random_seed(void)
{
	const char *s = getenv("EVERING_SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) :
			    (uint64_t)now_ns() ^ (uint64_t)getpid() << 40;

	printf("# EVERING_SEED=%#llx\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

/* ------------------------------------------------------ channels, by backend */

static inline bool backend_there(uint32_t backend)
{
	const char *name = getenv("EVERING_BACKEND");
	int fd;

	if (name && *name &&
	    strcmp(name,
		   backend == EVERING_BACKEND_DEVICE ? "device" : "memfd"))
		return false;
	if (backend != EVERING_BACKEND_DEVICE)
		return true;
	fd = open("/dev/evering", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/*
 * A fixture with one variant for each backend.  Its setup begins with
 * REQUIRE_BACKEND(), so that the same test runs wherever the module is loaded.
 */
#define BACKEND_VARIANTS(fixture)                                              \
	FIXTURE_VARIANT(fixture)                                               \
	{                                                                      \
		uint32_t backend;                                              \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, memfd){                                   \
		.backend = EVERING_BACKEND_MEMFD,                              \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, device) \
	{ \
		.backend = EVERING_BACKEND_DEVICE,                             \
	}

#define REQUIRE_BACKEND(id)                                                    \
	do {                                                                   \
		if (!backend_there(id))                                        \
			SKIP(return, "this backend is not there");             \
	} while (0)

/*
 * Takes out the variants that have @part in their names; a fixture that is left without
 * any has no tests.
 */
static inline void drop_variants(const char *part)
{
	struct __fixture_variant_metadata **v;
	struct __fixture_metadata *f;

	for (f = __fixture_list; f; f = f->next) {
		if (!f->variant)
			continue;
		for (v = &f->variant; *v;)
			if (strstr((*v)->name, part))
				*v = (*v)->next;
			else
				v = &(*v)->next;
		if (!f->variant)
			f->tests = NULL;
	}
}

/*
 * Where EVERING_BACKEND names one backend, the other's variants are taken out instead of
 * skipped: each that is skipped is a process, which takes two seconds in a debug kernel.
 * There (EVERING_SLOW=100) one policy is enough as well: how the library waits is nothing
 * to the kernel.
 */
static inline void choose_variants(void)
{
	const char *name = getenv("EVERING_BACKEND");

	if (name && *name)
		drop_variants(strcmp(name, "device") ? "device" : "memfd");
	if (slow(1) >= 100)
		drop_variants("_adaptive");
}

#undef TEST_HARNESS_MAIN
#define TEST_HARNESS_MAIN                                                      \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		choose_variants();                                             \
		return test_harness_run(argc, argv);                           \
	}

/* A path for a listener of this process. */
static inline void socket_file(char *path, size_t size)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(path, size, "%.40s/evering-%d", tmp && *tmp ? tmp : "/tmp",
		 getpid());
}

static inline struct evering_params params_on(uint32_t backend)
{
	struct evering_params p = EVERING_PARAMS_INIT;

	p.backend = backend;
	p.policy = EVERING_BLOCK;
	return p;
}

static inline struct evering_params params_sized(uint32_t backend,
						 uint32_t slot_size,
						 uint32_t entries,
						 uint64_t arena_size)
{
	struct evering_params p = params_on(backend);

	p.slot_size = slot_size;
	p.entries = entries;
	p.arena_size[0] = arena_size;
	p.arena_size[1] = arena_size;
	return p;
}

static inline void close_pair(struct evering *ev[2])
{
	evering_close(ev[0]);
	evering_close(ev[1]);
	ev[0] = NULL;
	ev[1] = NULL;
}

/*
 * The two halves as @ev has them mapped: the control lines lie before slot 0.
 * For tests that look at shared words, or play a peer that writes what it likes.
 */
static inline struct evering_half *own_half(const struct evering *ev)
{
	return (struct evering_half *)(ev->tx.slots - EVERING_SLOTS_OFFSET);
}

static inline const struct evering_half *peer_half(const struct evering *ev)
{
	return (const struct evering_half *)(ev->rx.slots -
					     EVERING_SLOTS_OFFSET);
}

/*
 * As if @n entries had gone from @a to @b already.  The private counters are
 * members of the visible structs, the shared ones are in @b's half, and
 * the slots hold the stamps of the lap before.
 */
static inline void start_at(struct evering *a, struct evering *b, uint32_t n)
{
	uint32_t k;

	for (k = n - a->tx.mask - 1; k != n; k++)
		evering_store_release((uint32_t *)(evering__tx_slot(&a->tx, k) +
						   a->tx.payload),
				      k + 1);
	a->tx.next = n;
	a->tx.limit = n;
	b->rx.publish_at = n + (b->rx.publish_at - b->rx.next);
	b->rx.next = n;
	evering_store_release(&own_half(b)->released, n);
	evering_store_release(&own_half(b)->begun, n);
}

static inline uint64_t sleeps_of(const struct evering *ev)
{
	struct evering_counters mine, peers;

	evering_get_counters(ev, EVERING_MINE, &mine);
	evering_get_counters(ev, EVERING_PEERS, &peers);
	return mine.rx_sleeps + mine.tx_sleeps + peers.rx_sleeps +
	       peers.tx_sleeps;
}

/* Room for the numbers of descriptors. */
#define FDS 1024

static inline void list_open(bool open[FDS])
{
	int fd;

	for (fd = 0; fd < FDS; fd++)
		open[fd] = fcntl(fd, F_GETFD) >= 0;
}

/*
 * What a peer can do with the doorbells of memfd, for it has the same open files: fills
 * them, so that a ring is no event any more, and makes them such that writing blocks.
 * Those that were opened since @others were listed; how many descriptors.
 */
static inline int fill_bells(const bool others[FDS], bool block)
{
	const uint64_t full = UINT64_MAX - 1;
	char path[64], target[64];
	int fd, count = 0;
	ssize_t n;

	for (fd = 0; fd < FDS; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = 0;
		if (others[fd] || !strstr(target, "[eventfd]"))
			continue;
		fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
		/* It may hold some rings already. */
		while (write(fd, &full, sizeof(full)) < 0) {
			uint64_t rings;

			if (read(fd, &rings, sizeof(rings)) < 0)
				return -1;
		}
		if (block)
			fcntl(fd, F_SETFL, O_RDWR);
		count++;
	}
	return count;
}

/* Waits until the peer of @ev has armed for @what; false after PLENTY. */
static inline bool peer_is_armed(const struct evering *ev, unsigned int what)
{
	const uint32_t *word = what == EVERING_RX ? ev->tx.armed : ev->rx.armed;
	int64_t end = now_ns() + PLENTY;

	while (!(evering_load_acquire(word) & EVERING_ARMED)) {
		if (now_ns() > end)
			return false;
		sleep_ns(20 * USEC);
	}
	return true;
}

/* ---------------------------------------------------------- helper processes */

typedef int (*child_fn)(void *arg);

/*
 * Runs @fn in a process of its own, which dies with this one.  Channels that
 * exist already are not the child's: fork before making one.
 */
static inline pid_t spawn(child_fn fn, void *arg)
{
	pid_t parent = getpid();
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(99);
	_exit(fn(arg));
}

/* How a child ended: its exit status, 128 + signal, or -1 if it did not. */
static inline int reap_within(pid_t pid, int64_t ns)
{
	int64_t end = now_ns() + ns;
	int status;
	pid_t ret;

	for (;;) {
		ret = waitpid(pid, &status, WNOHANG);
		if (ret == pid)
			break;
		if (ret < 0 || now_ns() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -1;
		}
		sleep_ns(200 * USEC);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline int reap(pid_t pid)
{
	return reap_within(pid, PLENTY);
}

/* For a child that has nothing more to do but to be killed. */
static inline __attribute__((noreturn)) void await_death(void)
{
	for (;;)
		pause();
}

static inline void kill_and_reap(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static inline int handle(int sig, void (*handler)(int))
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };

	return sigaction(sig, &sa, NULL);
}

/* Of this process, but for what no handler can be taken away from. */
static inline void handle_nothing(void)
{
	struct sigaction sa;
	int i;

	for (i = 1; i <= SIGRTMAX; i++)
		if (!sigaction(i, NULL, &sa) && sa.sa_handler != SIG_IGN &&
		    sa.sa_handler != SIG_DFL)
			handle(i, SIG_DFL);
}

/*
 * A child that sends @sig to this process all the time, until it is killed.  A timer does
 * not do: some kernels keep back what is ignored.
 */
static inline pid_t send_signals(int sig)
{
	const pid_t to = getpid();
	pid_t child = fork();

	while (!child && getppid() == to) {
		kill(to, sig);
		usleep(20);
	}
	if (!child)
		_exit(0);
	return child;
}

/*
 * Waits for what another task is about to do.  True as soon as @cond is, false
 * if it is not after PLENTY.
 */
#define EVENTUALLY(cond)                                                       \
	({                                                                     \
		int64_t _until = now_ns() + PLENTY;                            \
		bool _met;                                                     \
                                                                               \
		while (!(_met = (cond)) && now_ns() < _until)                  \
			sleep_ns(100 * USEC);                                  \
		_met;                                                          \
	})

/*
 * A channel with a child process.  The child is forked before the channel exists
 * and runs @fn with its endpoint; what @fn returns is its exit status.  It leaves
 * without evering_close() unless @fn calls it.
 */
struct duo {
	struct evering *ev;	/* this side */
	pid_t pid;		/* the other */
};

typedef int (*peer_fn)(struct evering *ev, void *arg);

struct duo_child {
	int fd, other_fd;
	bool connects;
	const struct evering_params *params;
	peer_fn fn;
	void *arg;
};

/* A socket that nobody listens at any more. */
static inline int leave_stale(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int ret;

	strcpy(address.sun_path, path);
	ret = bind(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	return ret;
}

/*
 * With $EVERING_RELAY_IN and $EVERING_RELAY_OUT the two meet through relays: relay.sh runs
 * suites so, unchanged.
 */
static inline int meet_over(int fd, bool connects,
			    const struct evering_params *params,
			    struct evering **ev)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	const char *in = getenv("EVERING_RELAY_IN");
	struct evering_listener *l;
	int ret;

	if (connects && !in)
		return evering_connect_fd(fd, params, PLENTY, ev);
	if (connects)
		return evering_connect(in, params, PLENTY, ev);
	limits.flags = EVERING_SHARED_ARENA;
	limits.policy = params->policy;
	limits.spin_ns = params->spin_ns;
	limits.entries = EVERING_MAX_ENTRIES;
	limits.arena_size[EVERING_PEERS] = 64 << 20;
	limits.arena_begin = params->arena_begin;
	if (!in)
		return evering_accept_fd(fd, &limits, PLENTY, ev);
	/* This is the server behind the relays, who may still know the last one. */
	if (!EVENTUALLY((ret = evering_listen(getenv("EVERING_RELAY_OUT"), 0,
					      &l)) != -EADDRINUSE) ||
	    ret)
		return ret;
	ret = evering_accept(l, &limits, PLENTY, ev);
	evering_listener_close(l);
	return ret;
}

static inline int duo_child_main(void *arg)
{
	struct duo_child *c = arg;
	struct evering *ev;

	close(c->other_fd);
	if (meet_over(c->fd, c->connects, c->params, &ev))
		return 98;
	return c->fn(ev, c->arg);
}

/* @params[0] is this side's, [1] the child's.  Returns 0 or a negative errno. */
static inline int duo_start(struct duo *duo, bool child_connects,
			    const struct evering_params params[2], peer_fn fn,
			    void *arg)
{
	struct duo_child c = { .connects = child_connects,
			       .params = &params[1],
			       .fn = fn,
			       .arg = arg };
	int sv[2];
	int ret;

	duo->ev = NULL;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -errno;
	c.fd = sv[1];
	c.other_fd = sv[0];
	duo->pid = spawn(duo_child_main, &c);
	close(sv[1]);
	if (duo->pid < 0) {
		close(sv[0]);
		return -EAGAIN;
	}
	ret = meet_over(sv[0], !child_connects, &params[0], &duo->ev);
	if (ret) {
		close(sv[0]);
		kill_and_reap(duo->pid);
	}
	return ret;
}

static inline pid_t my_tid(void)
{
	return gettid();
}

/* The letter in /proc/PID/stat of any task; 0 if it is gone. */
static inline char task_state(pid_t tid)
{
	char path[64], line[512];
	char *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, line, sizeof(line) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	line[n] = 0;
	end = strrchr(line, ')');
	return end && end[1] ? end[2] : 0;
}

/*
 * A task whose only sleep is the one that the test means.  It may be seen so
 * when it is about to sleep, and again for a moment when it has been woken: it
 * cannot miss what comes now, but need not have seen what came before.
 */
static inline bool is_asleep(const pid_t *tid)
{
	pid_t pid = __atomic_load_n(tid, __ATOMIC_ACQUIRE);

	return pid > 0 && task_state(pid) == 'S';
}

static inline bool falls_asleep(const pid_t *tid)
{
	return EVENTUALLY(is_asleep(tid));
}

/* One write(2) of @text, as files of proc, sysfs and cgroups want it. */
static inline int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* Files of proc and sysfs that are one number; -1: it cannot be read. */
static inline long read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	long n = -1;

	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

static inline void write_number(const char *path, long n)
{
	char number[24];

	snprintf(number, sizeof(number), "%ld", n);
	write_text(path, number);
}

/* ------------------------------------------------------------------- scales */

/* Open descriptors, without /proc. */
static inline int count_fds(void)
{
	struct rlimit rl;
	int n = 0;
	int fd, end = 4096;

	if (!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_max < 4096)
		end = (int)rl.rlim_max;
	for (fd = 0; fd < end; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

struct mapping {
	unsigned long start, end;
	bool read, write, exec, shared;
	unsigned long long inode;
	char name[96];
};

/*
 * Up to @max of the process's mappings, shared ones alone if @shared, and without
 * the heap, which malloc() weighs better.  Returns how many there are, -1 without
 * /proc.
 */
static inline int list_mappings(struct mapping *m, int max, bool shared)
{
	FILE *f = fopen("/proc/self/maps", "re");
	struct mapping one;
	char line[512], perms[8];
	int n = 0;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		one.name[0] = 0;
		if (sscanf(line, "%lx-%lx %7s %*s %*s %llu %95[^\n]",
			   &one.start, &one.end, perms, &one.inode,
			   one.name) < 4)
			continue;
		one.read = perms[0] == 'r';
		one.write = perms[1] == 'w';
		one.exec = perms[2] == 'x';
		one.shared = perms[3] == 's';
		if ((shared && !one.shared) || !strcmp(one.name, "[heap]"))
			continue;
		if (n < max)
			m[n] = one;
		n++;
	}
	fclose(f);
	return n;
}

/* A sanitizer maps memory of its own when it likes: then shared ones only. */
static inline int count_mappings(void)
{
	return list_mappings(NULL, 0, SANITIZED);
}

/* kB of "VmSize:", "VmRSS:", … of this process; -1 without /proc. */
static inline long status_kb(const char *key)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kb = -1;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			kb = atol(line + strlen(key));
	fclose(f);
	return kb;
}

/* ------------------------------------------------------------- entry contents */

/*
 * Fills @len bytes with what entry @n of stream @salt holds; check_entry() says
 * whether they still are that.  The first four bytes are @n.
 */
static inline void fill_entry(void *entry, size_t len, uint32_t n,
			      uint32_t salt)
{
	uint32_t *w = entry;
	size_t i;

	w[0] = n;
	for (i = 1; i < len / 4; i++)
		w[i] = (n + (uint32_t)i) * 0x9e3779b1u ^ salt;
}

static inline bool check_entry(const void *entry, size_t len, uint32_t n,
			       uint32_t salt)
{
	const uint32_t *w = entry;
	size_t i;

	if (w[0] != n)
		return false;
	for (i = 1; i < len / 4; i++)
		if (w[i] != ((n + (uint32_t)i) * 0x9e3779b1u ^ salt))
			return false;
	return true;
}

/* Sends until there is no room; returns how many. */
static inline int send_until_full(struct evering *ev)
{
	int n = 0;

	while (evering_send(ev, &n, 4, EVERING_NOWAIT) == 0)
		n++;
	return n;
}

#endif /* EVERING_SELFTESTS_COMMON_H */
