// SPDX-License-Identifier: MIT
/*
 * One run of an arm.  The two sides are processes, made for the run, or threads of
 * one such process where the mode wants that; each is pinned to its CPU, but not in
 * MODE_UNPINNED.  They warm up, meet, and start their clocks:
 *
 *	client				server
 *	open			<->	open
 *	work(warm)		<->	work(warm)
 *	meet			<->	meet
 *	clocks			<->	clocks
 *	work(ops)		<->	work(ops)
 *	clocks			<->	clocks
 *	work(probes)		<->	work(probes)
 *	close				close
 *
 * In MODE_ORIGINAL they do not warm up, and open with the clock running unless that
 * is to make shared memory; the clock stops when the client has its last response.
 * A side whose arm has a helper waits for the other's end before its CPU clock stops, because
 * what it has sent may still be with the helper.
 * The harness sleeps meanwhile.  A run that fails or hangs takes only itself along.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../evering/process.h"
#include "many.h"

const char *const mode_names[MODES] = {
	"original",  "fair",	     "rtt",	 "stream",    "late",
	"channel",   "message",	     "request",	 "unpinned",  "connect",
	"many-one",  "many-64",	     "many-all", "many-zipf", "many-flood",
	"relay-rtt", "relay-stream", "port",	 "evnet-to",  "evnet-from"
};

static struct shared *shared;

unsigned int allowed_cpus(int *cpus, unsigned int most)
{
	unsigned int count = 0;
	cpu_set_t set;
	int cpu;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 0;
	for (cpu = 0; cpu < CPU_SETSIZE && count < most; cpu++)
		if (CPU_ISSET(cpu, &set))
			cpus[count++] = cpu;
	return count;
}

void fail(struct side *s, const char *fmt, ...)
{
	va_list args;

	if (!atomic_exchange(&s->shared->failed, true)) {
		va_start(args, fmt);
		vsnprintf(s->shared->error, sizeof(s->shared->error), fmt,
			  args);
		va_end(args);
	}
	_exit(EXIT_FAILURE);
}

static void pin(struct side *s)
{
	int cpu = s->job->cpu[s->server];
	cpu_set_t set;

	if (s->job->mode == MODE_UNPINNED || through_relay(s->job->mode))
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail(s, "CPU %d: %m", cpu);
}

/* Both sides come here before either goes on. */
static void meet(struct side *s)
{
	unsigned int all = atomic_fetch_add(&s->shared->met, 1) | 1;

	/* They may have to share a CPU. */
	while (atomic_load(&s->shared->met) <= all)
		sched_yield();
}

/* The clock of what is timed. */
static int64_t time_ns(const struct side *s)
{
#if defined(__x86_64__) || defined(__i386__)
	if (s->job->icount)
		return (int64_t)__builtin_ia32_rdtsc();
#else
	(void)s;
#endif
	return clock_ns();
}

/* With that of the helper, which runs on. */
static int64_t cpu_ns(const struct side *s)
{
	struct timespec helper = { 0 };
	struct rusage used;
	clockid_t clock;

	if (s->helper && !clock_getcpuclockid(s->helper, &clock))
		clock_gettime(clock, &helper);
	getrusage(RUSAGE_SELF, &used);
	return helper.tv_sec * 1000000000 + helper.tv_nsec +
	       (int64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) *
		       1000000000 +
	       (int64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000;
}

/* A child that ends with its parent. */
static pid_t fork_child(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	return 0;
}

bool start_helper(struct side *s)
{
	s->helper = fork_child();
	if (s->helper < 0)
		fail(s, "fork: %m");
	return !s->helper;
}

static void end_helper(struct side *s)
{
	if (!s->helper)
		return;
	kill(s->helper, SIGKILL);
	waitpid(s->helper, NULL, 0);
}

int listen_anywhere(struct side *s)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* No name: the kernel chooses an abstract one that is free. */
	s->address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	s->address_len = sizeof(s->address);
	if (fd < 0 ||
	    bind(fd, (struct sockaddr *)&s->address, sizeof(sa_family_t)) ||
	    listen(fd, MAX_DEPTH) ||
	    getsockname(fd, (struct sockaddr *)&s->address, &s->address_len))
		fail(s, "a listening socket: %m");
	return fd;
}

void wait_for_client(struct side *s)
{
	char none;

	/* It has nothing to say: its end closes. */
	while (read(s->sock, &none, sizeof(none)) > 0)
		;
}

unsigned int common_port(struct side *s, int *listener)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof(at);
	in_port_t port;
	int fd;

	if (!s->server) {
		if (read(s->sock, &port, sizeof(port)) != sizeof(port))
			fail(s, "the other side is gone");
		return ntohs(port);
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, len) ||
	    (listener && listen(fd, 1)) ||
	    getsockname(fd, (struct sockaddr *)&at, &len))
		fail(s, "a port: %m");
	if (listener)
		*listener = fd;
	else
		close(fd);
	port = at.sin_port;
	if (write(s->sock, &port, sizeof(port)) != sizeof(port))
		fail(s, "the other side is gone");
	return ntohs(port);
}

static void make_source(struct side *s)
{
	size_t size = s->job->size < 64 ? 64 : s->job->size;

	s->random = s->job->seed * 2 + s->server;
	s->source = malloc(size);
	if (!s->source)
		fail(s, "no memory for %zu bytes", size);
	memset(s->source, s->server ? 'R' : 'S', size);
}

static void count(struct side *s)
{
	if (s->arm->count)
		s->arm->count(s);
}

/* In a process of its own: the clock starts when everything is there. */
static void whole_side(struct side *s)
{
	struct figures *f = &s->shared->side[s->server];
	uint64_t syscalls;

	pin(s);
	make_source(s);
	s->arm->open(s);
	s->arm->work(s, s->job->warm);
	count(s);
	syscalls = s->syscalls;
	s->done = 0;
	meet(s);

	f->cpu_ns = -cpu_ns(s);
	f->begin_ns = time_ns(s);
	s->arm->work(s, s->job->ops);
	f->end_ns = s->told_ns ? f->begin_ns + s->told_ns : time_ns(s);
	if (s->helper)
		crowd_leave(s);
	f->cpu_ns = s->told_ns ? -1 : f->cpu_ns + cpu_ns(s);
	f->done = s->done;
	count(s);
	f->syscalls = s->syscalls - syscalls;

	if (s->job->probes) {
		meet(s);
		s->probe = !s->server;
		s->arm->work(s, s->job->probes);
	}
	s->arm->close(s);
	end_helper(s);
}

/* In a thread, of two: the client's clocks are those of both. */
static void *timed_side(void *arg)
{
	struct side *s = arg;
	struct figures *f = &s->shared->side[s->server];

	pin(s);
	make_source(s);
	if (s->arm->opens_early)
		s->arm->open(s);
	meet(s);
	if (!s->server) {
		f->cpu_ns = -cpu_ns(s);
		f->begin_ns = time_ns(s);
	}
	if (!s->arm->opens_early)
		s->arm->open(s);
	s->arm->work(s, s->job->ops);
	if (!s->server) {
		f->end_ns = time_ns(s);
		f->cpu_ns += cpu_ns(s);
	}
	count(s);
	f->done = s->done;
	f->syscalls = s->syscalls;
	s->arm->close(s);
	return NULL;
}

/* The server can be found before its process or thread is there. */
static void prepare(struct side sides[2])
{
	int socks[2], listener, i;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		fail(&sides[0], "socketpair: %m");
	listener = listen_anywhere(&sides[0]);
	for (i = 0; i < 2; i++) {
		sides[i].sock = socks[i];
		sides[i].listener = listener;
		sides[i].address = sides[0].address;
		sides[i].address_len = sides[0].address_len;
	}
}

/* The process whose threads are the two sides. */
static void run_threads(struct side sides[2])
{
	pthread_t server;

	prepare(sides);
	if (pthread_create(&server, NULL, timed_side, &sides[1]))
		fail(&sides[0], "no thread");
	timed_side(&sides[0]);
	pthread_join(server, NULL);
}

static pid_t start(struct side sides[2], int which)
{
	pid_t pid = fork_child();

	if (pid)
		return pid;
	uncatch_end_signals();
	if (sides[0].job->mode == MODE_ORIGINAL) {
		run_threads(sides);
		_exit(EXIT_SUCCESS);
	}
	close(sides[!which].sock);
	if (!which)
		close(sides[0].listener);
	whole_side(&sides[which]);
	_exit(EXIT_SUCCESS);
}

/* Waits for one process until @deadline; its status, or -1 if that has passed. */
static int reap(pid_t pid, int64_t deadline)
{
	struct pollfd ended = { .events = POLLIN };
	int status = -1;
	int64_t left;

	ended.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	while (ended.fd >= 0) {
		left = deadline - clock_ns();
		if (left <= 0 || end_signal)
			break;
		if (poll(&ended, 1, (int)(left / 1000000) + 1) > 0)
			break;
	}
	if (ended.fd >= 0)
		close(ended.fd);
	if (waitpid(pid, &status, WNOHANG) == pid)
		return status;
	return -1;
}

/*
 * Of two sides that wait for each other one may be gone: as soon as one has failed
 * the other is ended.
 */
static void reap_all(const pid_t *pids, int count, int64_t timeout_ns)
{
	int64_t deadline = clock_ns() + timeout_ns, slice;
	bool running[2] = { true, count == 2 };
	bool ill = false;
	int i, status;

	while (running[0] || running[1]) {
		for (i = 0; i < count; i++) {
			if (!running[i])
				continue;
			slice = clock_ns() + 50000000;
			status = reap(pids[i],
				      slice < deadline ? slice : deadline);
			if (status != -1) {
				running[i] = false;
				ill |= status != 0;
			}
		}
		if (clock_ns() >= deadline && !ill) {
			ill = true;
			snprintf(shared->error, sizeof(shared->error),
				 "hung: not done after %lld s",
				 (long long)(timeout_ns / 1000000000));
		}
		if (!ill && !end_signal)
			continue;
		for (i = 0; i < count; i++) {
			if (!running[i])
				continue;
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
			running[i] = false;
		}
		if (!*shared->error)
			snprintf(shared->error, sizeof(shared->error),
				 "died without a word");
	}
}

static void collect(const struct arm *arm, const struct job *job,
		    struct outcome *o)
{
	const struct figures *client = &shared->side[0];
	const struct figures *server = &shared->side[1];
	bool streams = one_way(job);

	o->ns = (streams ? server : client)->end_ns - client->begin_ns;
	o->cpu_ns = client->cpu_ns;
	if (job->mode != MODE_LATE)
		o->cpu_ns += server->cpu_ns;
	o->done[0] = streams ? job->ops : client->done;
	o->done[1] = server->done;
	o->syscalls = (int64_t)(client->syscalls + server->syscalls);
	if (arm->uncounted & (1u << job->mode))
		o->syscalls = -1;
	o->hist = shared->hist;
	o->waited = shared->waited;
	memcpy(o->error, shared->error, sizeof(o->error));
}

int run_job(const struct arm *arm, const struct job *job, int64_t timeout_ns,
	    struct outcome *outcome)
{
	struct side sides[2] = { 0 };
	pid_t pids[2] = { -1, -1 };
	int i, count = job->mode == MODE_ORIGINAL ? 1 : 2;

	memset(outcome, 0, sizeof(*outcome));
	if (arm->peer)
		return peer_run(arm->peer, arm->name, job, timeout_ns, outcome);
	if (!shared) {
		shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (shared == MAP_FAILED) {
			complain("no memory: %m");
			exit(EXIT_FAILURE);
		}
	}
	memset(shared, 0, sizeof(*shared));
	for (i = 0; i < 2; i++) {
		sides[i].job = job;
		sides[i].arm = arm;
		sides[i].shared = shared;
		sides[i].server = i;
	}
	if (count == 2)
		prepare(sides);
	fflush(NULL);
	for (i = 0; i < count; i++) {
		pids[i] = start(sides, i);
		if (pids[i] < 0) {
			snprintf(shared->error, sizeof(shared->error),
				 "fork: %m");
			if (i)
				kill(pids[0], SIGKILL);
			count = i;
		}
	}
	if (sides[0].listener) {
		close(sides[0].sock);
		close(sides[1].sock);
		close(sides[0].listener);
	}
	if (count)
		reap_all(pids, count, timeout_ns);
	collect(arm, job, outcome);
	if (end_signal)
		return -EINTR;
	return *outcome->error ? -1 : 0;
}
