/* SPDX-License-Identifier: MIT */
/*
 * base.h: what all selftests share, with the library and without it: clocks, seeded
 * randomness, helper processes, and the scales on which leaks are weighed.
 *
 * EVERING_SHORT=1 shortens what is long, for sanitizers and slow machines.
 * EVERING_SLOW=n allows n times as long where time is bounded.
 * EVERING_SEED=n replays the random choices of a run that printed n.
 */
#ifndef EVERING_SELFTESTS_BASE_H
#define EVERING_SELFTESTS_BASE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "kselftest_harness.h"

/* Seconds; the harness has 30, which a guest with a debug kernel may well need. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	120

#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

/* 4 KiB on most machines, and 16 or 64 on some of arm64. */
#define PAGE	((unsigned long)sysconf(_SC_PAGESIZE))

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

/* ---------------------------------------------------------- helper processes */

typedef int (*child_fn)(void *arg);

/*
 * Runs @fn in a process of its own, which dies with this one.
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

/* Room for the numbers of descriptors. */
#define FDS 1024

static inline void list_open(bool open[FDS])
{
	int fd;

	for (fd = 0; fd < FDS; fd++)
		open[fd] = fcntl(fd, F_GETFD) >= 0;
}

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

/* What malloc() has given out.  0 where libc does not count it: then nothing grows. */
static inline size_t heap_bytes(void)
{
#ifdef __GLIBC__
	return mallinfo2().uordblks;
#else
	return 0;
#endif
}

#endif /* EVERING_SELFTESTS_BASE_H */
