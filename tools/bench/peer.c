// SPDX-License-Identifier: MIT
/*
 * Arms of other programs: those in peers/, which are in other languages or need
 * other libraries.  Each is started once and does a run when it is told to, so that
 * its runs lie between those of the arms in here.  Lines, over a socket whose
 * number is its only argument:
 *
 *	program		arm NAME MOST ORIGINAL FAIR RTT STREAM MESSAGE REQUEST MANY [RELAY]
 *				an arm, its largest size (0: any), and for each
 *				mode the policies, as a mask of enum evering_policy;
 *				MANY: for MODE_MANY_*, but FLOOD; RELAY: MODE_RELAY_*
 *			absent NAME WHY
 *			ready
 *	harness		run NAME MODE SIZE POLICY DEPTH OPS WARM PROBES SEED CPU CPU
 *				the mode by its name
 *	program		done NS CPU_NS CLIENT SERVER SYSCALLS MAX [BUCKET:COUNT...]
 *				as in struct outcome; the histogram as hist.h has it
 *			error WHY
 *
 * The program ends when the socket does, and is ended if it takes too long.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../evering/process.h"
#include "bench.h"

#define START_NS 10000000000ll

struct peer {
	const char *program;
	const char *arms; /* for when it is not there */
	const char *remedy;
	char path[4096];
	pid_t pid;
	int control;
	char *line; /* what came and is not yet taken */
	size_t len, size;
};

static struct peer peers[] = {
	{ .program = "queues",
	  .arms = "ck_ring rte_ring boost-spsc moodycamel",
	  .remedy = "not built: needs g++" },
	{ .program = "messages",
	  .arms = "zeromq nng ucx libfabric",
	  .remedy = "not built: see make bench-programs" },
	{ .program = "rust-peers",
	  .arms = "shmipc tokio tokio-uring monoio iceoryx2",
	  .remedy = "not built: needs cargo, 1.89 or later" },
};

#define PEERS (sizeof(peers) / sizeof(*peers))

static void stop(struct peer *p)
{
	if (p->control >= 0)
		close(p->control);
	p->control = -1;
	if (p->pid > 0) {
		/* It leads a process group; its sides are in that, too. */
		kill(-p->pid, SIGKILL);
		waitpid(p->pid, NULL, 0);
	}
	p->pid = -1;
	p->len = 0;
}

static int launch(struct peer *p)
{
	pid_t parent = getpid();
	char number[16];
	int socks[2];

	p->pid = -1;
	p->control = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		return -errno;
	fflush(NULL);
	p->pid = fork();
	if (p->pid < 0) {
		close(socks[0]);
		close(socks[1]);
		return -errno;
	}
	if (!p->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(EXIT_FAILURE);
		setpgid(0, 0);
		signal(SIGPIPE, SIG_DFL);
		dup2(STDERR_FILENO, STDOUT_FILENO);
		snprintf(number, sizeof(number), "%d", dup(socks[1]));
		execl(p->path, p->path, number, NULL);
		_exit(127);
	}
	setpgid(p->pid, p->pid);
	close(socks[1]);
	p->control = socks[0];
	return 0;
}

/* More of what the program says; 0, -ETIMEDOUT, -EINTR, or -EPIPE: it is gone. */
static int take(struct peer *p, int64_t deadline)
{
	struct pollfd ready = { .fd = p->control, .events = POLLIN };
	int64_t left = deadline - clock_ns();
	ssize_t n;

	if (left <= 0)
		return -ETIMEDOUT;
	if (end_signal)
		return -EINTR;
	if (poll(&ready, 1,
		 left < 200000000 ? (int)(left / 1000000) + 1 : 200) < 1)
		return 0;
	if (p->len + 4096 > p->size) {
		p->size = p->size * 2 + 8192;
		p->line = realloc(p->line, p->size);
		if (!p->line) {
			complain("no memory");
			exit(EXIT_FAILURE);
		}
	}
	n = read(p->control, p->line + p->len, 4096);
	if (n <= 0)
		return -EPIPE;
	p->len += (size_t)n;
	return 0;
}

/* The next line into *@line, without its end; to be freed. */
static int next_line(struct peer *p, int64_t deadline, char **line)
{
	char *end;
	int ret;

	while (!p->len || !(end = memchr(p->line, '\n', p->len))) {
		ret = take(p, deadline);
		if (ret)
			return ret;
	}
	*line = strndup(p->line, (size_t)(end - p->line));
	p->len -= (size_t)(end + 1 - p->line);
	memmove(p->line, end + 1, p->len);
	return *line ? 0 : -ENOMEM;
}

static void note_absent(struct absent *a, const char *name, size_t len,
			const char *why)
{
	snprintf(a->name, sizeof(a->name), "%.*s", (int)len, name);
	snprintf(a->why, sizeof(a->why), "%s", why);
}

static unsigned int all_absent(const struct peer *p, const char *why,
			       struct absent *absent)
{
	const char *name = p->arms;
	unsigned int count = 0;
	size_t len;

	for (; *name; name += len + (name[len] == ' ')) {
		len = strcspn(name, " ");
		note_absent(&absent[count++], name, len, why);
	}
	return count;
}

/* What a program says of itself: 0 when it is ready. */
static int introduce(struct peer *p, struct arm *arms, unsigned int most,
		     unsigned int *count, struct absent *absent,
		     unsigned int *absents)
{
	int64_t deadline = clock_ns() + START_NS;
	unsigned long long top;
	unsigned int many, relay = 0;
	struct arm arm;
	char name[NAME_LEN], *line;
	int ret, why;

	for (;;) {
		ret = next_line(p, deadline, &line);
		if (ret)
			return ret;
		memset(&arm, 0, sizeof(arm));
		if (!strcmp(line, "ready")) {
			free(line);
			return 0;
		}
		if (sscanf(line, "arm %31s %llu %u %u %u %u %u %u %u %u", name,
			   &top, &arm.modes[MODE_ORIGINAL],
			   &arm.modes[MODE_FAIR], &arm.modes[MODE_RTT],
			   &arm.modes[MODE_STREAM], &arm.modes[MODE_MESSAGE],
			   &arm.modes[MODE_REQUEST], &many, &relay) >= 9 &&
		    *count < most) {
			arm.modes[MODE_MANY_ONE] = many;
			arm.modes[MODE_MANY_SOME] = many;
			arm.modes[MODE_MANY_ALL] = many;
			arm.modes[MODE_MANY_ZIPF] = many;
			arm.modes[MODE_RELAY_RTT] = relay;
			arm.modes[MODE_RELAY_STREAM] = relay;
			arm.name = strdup(name);
			arm.most = top;
			arm.peer = p;
			if (arm.name)
				memcpy(&arms[(*count)++], &arm, sizeof(arm));
		} else if (sscanf(line, "absent %31s %n", name, &why) == 1 &&
			   *absents < MAX_PEER_ARMS) {
			note_absent(&absent[(*absents)++], name, strlen(name),
				    line + why);
		}
		free(line);
	}
}

unsigned int peers_start(const char *dir, struct arm *arms, unsigned int most,
			 struct absent *absent, unsigned int *absents)
{
	unsigned int count = 0, before;
	struct peer *p;
	size_t i;

	*absents = 0;
	for (i = 0; i < PEERS; i++) {
		p = &peers[i];
		p->pid = p->control = -1;
		before = count;
		snprintf(p->path, sizeof(p->path), "%s/%s", dir, p->program);
		if (access(p->path, X_OK)) {
			*absents += all_absent(p, p->remedy, absent + *absents);
			continue;
		}
		if (!launch(p) &&
		    !introduce(p, arms, most, &count, absent, absents))
			continue;
		stop(p);
		count = before;
		*absents += all_absent(p, "does not start", absent + *absents);
	}
	return count;
}

void peers_end(void)
{
	size_t i;

	for (i = 0; i < PEERS; i++) {
		if (peers[i].pid > 0)
			stop(&peers[i]);
		free(peers[i].line);
		peers[i].line = NULL;
		peers[i].size = 0;
	}
}

/* Fields after "done"; false: not what the protocol says. */
static bool parse_outcome(const char *line, struct outcome *o)
{
	long long ns, cpu, syscalls;
	unsigned long long client, server, max, n;
	unsigned int bucket;
	int at = 0, len;

	if (sscanf(line, "done %lld %lld %llu %llu %lld %llu%n", &ns, &cpu,
		   &client, &server, &syscalls, &max, &at) != 6)
		return false;
	o->ns = ns;
	o->cpu_ns = cpu;
	o->done[0] = client;
	o->done[1] = server;
	o->syscalls = syscalls;
	o->hist.max = max;
	while (sscanf(line + at, " %u:%llu%n", &bucket, &n, &len) == 2) {
		if (bucket >= HIST_BUCKETS)
			return false;
		o->hist.bucket[bucket] += n;
		o->hist.count += n;
		at += len;
	}
	return !line[at];
}

static int exchange(struct peer *p, const char *arm, const struct job *job,
		    int64_t deadline, struct outcome *o)
{
	struct pollfd unused = { .fd = p->control, .events = POLLOUT };
	char text[256], *line;
	int len, ret;

	len = snprintf(text, sizeof(text),
		       "run %s %s %llu %u %u %llu %llu %llu %llu %d %d\n", arm,
		       mode_names[job->mode], (unsigned long long)job->size,
		       job->policy, job->depth, (unsigned long long)job->ops,
		       (unsigned long long)job->warm,
		       (unsigned long long)job->probes,
		       (unsigned long long)job->seed, job->cpu[0], job->cpu[1]);
	if (poll(&unused, 1, 1000) != 1 || write(p->control, text, len) != len)
		return -EPIPE;
	ret = next_line(p, deadline, &line);
	if (ret)
		return ret;
	if (!parse_outcome(line, o))
		snprintf(o->error, sizeof(o->error), "%s",
			 strncmp(line, "error ", 6) ? "broke the protocol" :
						      line + 6);
	free(line);
	return 0;
}

int peer_run(struct peer *p, const char *arm, const struct job *job,
	     int64_t timeout_ns, struct outcome *o)
{
	struct arm again[MAX_PEER_ARMS];
	struct absent absent[MAX_PEER_ARMS];
	unsigned int count = 0, absents = 0;
	int ret = 0;

	if (p->pid < 0)
		ret = launch(p);
	/* What it says is known. */
	if (!ret && !p->len && p->line == NULL)
		ret = introduce(p, again, 0, &count, absent, &absents);
	if (!ret)
		ret = exchange(p, arm, job, clock_ns() + timeout_ns, o);
	if (ret == -EINTR || end_signal)
		return -EINTR;
	if (ret) {
		stop(p);
		free(p->line);
		p->line = NULL;
		p->size = 0;
		snprintf(o->error, sizeof(o->error), "%s",
			 ret == -ETIMEDOUT ? "hung: took too long" :
					     "died without a word");
	}
	return *o->error ? -1 : 0;
}
