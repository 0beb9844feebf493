// SPDX-License-Identifier: MIT
/*
 * Arms of evering bench: libraries that carry messages of any length, ZeroMQ, nng, UCX
 * and libfabric, those of them whose headers are there.  ../peer.c describes the protocol;
 * a run is done as ../run.c does its own, by two processes that are made for it.
 *
 * Each arm sends with one call from private memory, and reads the message where its
 * library puts it.  A library is first used in these processes, so that forking is
 * safe, and one that crashes takes nothing along.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "messages.h"

/* The harness has a limit of its own, and ends this program then. */
#define NEVER_NS 3600000000000ll

/* @many: the arm that has the modes of many channels, or NULL. */
static const struct library {
	const struct arm *arm;
	const struct arm *many;
	const char *name;
	const char *package;
} libraries[] = {
	{ &zeromq_arm, &zeromq_router_arm, "zeromq", "libzmq3-dev" },
	{ &nng_arm, NULL, "nng", "libnng-dev" },
	{ &ucx_arm, NULL, "ucx", "libucx-dev" },
	{ &libfabric_arm, NULL, "libfabric", "libfabric-dev" },
};

#define LIBRARIES (sizeof(libraries) / sizeof(*libraries))

static FILE *control;

static void introduce(const struct library *l)
{
	if (l->arm)
		fprintf(control, "arm %s 0 0 0 0 0 %u %u %u %u\n", l->name,
			l->arm->modes[MODE_MESSAGE],
			l->arm->modes[MODE_REQUEST],
			l->many ? l->many->modes[MODE_MANY_ONE] : 0,
			l->arm->modes[MODE_RELAY_RTT]);
	else
		fprintf(control, "absent %s not built: needs %s\n", l->name,
			l->package);
}

static void print_outcome(const struct outcome *o)
{
	unsigned int i;

	fprintf(control, "done %lld %lld %llu %llu -1 %llu", (long long)o->ns,
		(long long)o->cpu_ns, (unsigned long long)o->done[0],
		(unsigned long long)o->done[1],
		(unsigned long long)o->hist.max);
	for (i = 0; i < HIST_BUCKETS; i++)
		if (o->hist.bucket[i])
			fprintf(control, " %u:%llu", i,
				(unsigned long long)o->hist.bucket[i]);
	fputc('\n', control);
}

/* "run NAME MODE ..."; NULL: this program has none such. */
static const struct arm *parse_job(const char *line, struct job *job)
{
	unsigned long long size, ops, warm, probes, seed;
	char name[NAME_LEN], mode[NAME_LEN];
	const struct arm *arm;
	unsigned int i, m;

	if (sscanf(line, "run %31s %31s %llu %u %u %llu %llu %llu %llu %d %d",
		   name, mode, &size, &job->policy, &job->depth, &ops, &warm,
		   &probes, &seed, &job->cpu[0], &job->cpu[1]) != 11)
		return NULL;
	job->size = size;
	job->ops = ops;
	job->warm = warm;
	job->probes = probes;
	job->seed = seed;
	for (m = 0; m < MODES && strcmp(mode, mode_names[m]); m++)
		;
	job->mode = (enum mode)m;
	for (i = 0; i < LIBRARIES && strcmp(name, libraries[i].name); i++)
		;
	if (i == LIBRARIES || m == MODES)
		return NULL;
	arm = many_channels(job->mode) ? libraries[i].many : libraries[i].arm;
	if (!arm || !arm->modes[m] ||
	    (!many_channels(job->mode) && (size < 4 || size % 4)))
		return NULL;
	return arm;
}

static void obey(const char *line)
{
	static struct outcome outcome;
	struct job job = { 0 };
	const struct arm *arm = parse_job(line, &job);

	if (!arm)
		fprintf(control, "error not understood\n");
	else if (run_job(arm, &job, NEVER_NS, &outcome))
		fprintf(control, "error %s\n", outcome.error);
	else
		print_outcome(&outcome);
}

int main(int argc, char **argv)
{
	FILE *orders = argc == 2 ? fdopen(atoi(argv[1]), "r") : NULL;
	char line[512];
	size_t i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	control = orders ? fdopen(dup(fileno(orders)), "w") : NULL;
	if (!control) {
		fprintf(stderr, "messages: for evering bench to start\n");
		return EXIT_USAGE;
	}
	set_command("messages");
	for (i = 0; i < LIBRARIES; i++)
		introduce(&libraries[i]);
	fprintf(control, "ready\n");
	fflush(control);
	while (fgets(line, sizeof(line), orders)) {
		obey(line);
		fflush(control);
	}
	return EXIT_SUCCESS;
}
