// SPDX-License-Identifier: MIT
/*
 * evering bench: evering beside other ways between two processes.
 *
 * bench.h describes what there is to measure, run.c how one run is done.  Here is the
 * method: every round goes through the groups in a random order, and in a group
 * through its cells in a random order, after a raw hand-over of cache lines, the
 * floor.  A value is only compared with those of the same round of its group.  How
 * many operations a run takes is found out beforehand, once, so that it lasts about
 * --round; that also warms up.  A run whose operations were not all found right by
 * both sides is void.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "../evering/options.h"
#include "../evering/process.h"
#include "bench.h"

#ifndef EVERING_SOURCE_DIR
#define EVERING_SOURCE_DIR "."
#endif

#define PEERS_DIR "bench"
#define FLOOR_TRIPS 2000u
#define PROBES 1000u
#define PILOTS 4u
/* Where setting up takes longer than what is timed: fewer, of operations of so long. */
#define MANY_PILOTS 2u
#define MANY_PILOT_NS 80000

/* Where setting up counts, a run is longer, as the original's were. */
#define ORIGINAL_FACTOR 5
#define ORIGINAL_TRIPS 2 /* of each client, at least */

/* Bytes of an operation of which 64 take longer than a round. */
#define LARGE (1u << 20)

static struct arm arms[MAX_ARMS];
static unsigned int arm_count;
static struct absent absent[MAX_PEER_ARMS + 8];
static unsigned int absents;
static uint64_t seed;

/* Arms ------------------------------------------------------------------- */

/* Once, though an arm may be twice in the table. */
static void note_absent(const char *name, const char *why)
{
	unsigned int i;

	for (i = 0; i < absents; i++)
		if (!strcmp(absent[i].name, name))
			return;
	snprintf(absent[absents].name, NAME_LEN, "%s", name);
	snprintf(absent[absents].why, sizeof(absent[absents].why), "%s", why);
	absents++;
}

static void take_arm(const struct arm *arm)
{
	const char *why = arm->missing ? arm->missing() : NULL;

	if (!why) {
		memcpy(&arms[arm_count++], arm, sizeof(*arm));
		return;
	}
	note_absent(arm->name, why);
}

static void take_uring(const struct arm *arm, const char *name)
{
	/* An undefined weak symbol. */
	if (arm)
		take_arm(arm);
	else
		note_absent(name, "not built: needs liburing's headers");
}

void find_beside(char path[PATH_LEN], const char *name)
{
	ssize_t len = readlink("/proc/self/exe", path, PATH_LEN / 2);

	path[len > 0 ? len : 0] = '\0';
	*(strrchr(path, '/') ? strrchr(path, '/') + 1 : path) = '\0';
	strcat(path, name);
}

static void find_arms(const struct bench_options *o)
{
	char dir[PATH_LEN];
	unsigned int missing = 0;

	take_arm(&raw_arm);
	take_arm(&evering_device_arm);
	take_arm(&evering_device_loop_arm);
	take_arm(&evering_device_call_arm);
	take_arm(&evering_device_ring_arm);
	take_arm(&evering_memfd_arm);
	take_arm(&evering_memfd_loop_arm);
	take_arm(&evering_memfd_call_arm);
	take_arm(&evering_memfd_ring_arm);
	take_arm(&alone_arm);
	take_arm(&eventfd_arm);
	take_arm(&pipe_arm);
	take_arm(&futex_arm);
	take_arm(&seqpacket_arm);
	take_arm(&yield_arm);
	take_arm(&enter_arm);
	take_arm(&ring_poll_arm);
	take_arm(&two_copies_arm);
	take_arm(&copy_and_read_arm);
	take_arm(&device_bare_arm);
	take_arm(&memfd_bare_arm);
	take_arm(&memfd_whole_arm);
	take_arm(&uds_stream_arm);
	take_arm(&uds_seqpacket_arm);
	take_arm(&epoll_original_arm);
	take_arm(&epoll_good_arm);
	take_uring(&uring_original_arm, "uds-uring");
	take_uring(&uring_good_arm, "uds-uring-good");
	take_arm(&many_device_arm);
	take_arm(&many_memfd_arm);
	take_arm(&many_loop_arm);
	take_arm(&many_alone_arm);
	take_arm(&many_scan_arm);
	take_arm(&many_epoll_arm);
	take_uring(&many_uring_arm, "uds-uring-good");
	take_arm(&evering_relay_arm);
	take_arm(&chain_arm);
	take_arm(&pingpong_arm);
	take_arm(&echo_read_arm);
	take_arm(&echo_arm);
	take_arm(&echo_16_arm);
	take_arm(&echo_op_arm);
	take_arm(&echo_op_16_arm);
	take_arm(&echo_thread_arm);
	take_arm(&echo_thread_op_arm);
	take_arm(&evnet_arm);
	take_arm(&tun_arm);
	take_arm(&dummy_arm);
	take_arm(&evnet_udp_arm);
	take_arm(&tun_udp_arm);
	take_arm(&dummy_udp_arm);

	find_beside(dir, PEERS_DIR);
	arm_count += peers_start(o->peers ? o->peers : dir, arms + arm_count,
				 MAX_ARMS - arm_count, absent + absents,
				 &missing);
	absents += missing;
}

/* Some are twice in the table, with different modes. */
static bool has_mode(const char *name, unsigned int mode)
{
	unsigned int i;

	for (i = 0; i < arm_count; i++)
		if (arms[i].modes[mode] && !strcmp(arms[i].name, name))
			return true;
	return false;
}

static bool is_again(unsigned int which)
{
	unsigned int i;

	for (i = 0; i < which; i++)
		if (!strcmp(arms[i].name, arms[which].name))
			return true;
	return false;
}

static int list_arms(void)
{
	unsigned int i, mode;

	for (i = 0; i < arm_count; i++) {
		if (is_again(i))
			continue;
		fprintf(output, "%-16s", arms[i].name);
		for (mode = 0; mode < MODES; mode++)
			if (has_mode(arms[i].name, mode))
				fprintf(output, " %s", mode_names[mode]);
		fputc('\n', output);
	}
	for (i = 0; i < absents; i++)
		fprintf(output, "%-16s (%s)\n", absent[i].name, absent[i].why);
	return EXIT_SUCCESS;
}

static bool arm_wanted(const struct bench_options *o, const char *name)
{
	uint32_t i;

	for (i = 0; i < o->arm_count; i++)
		if (!strncmp(name, o->arms[i], strlen(o->arms[i])))
			return true;
	return !o->arm_count;
}

/* Each name that was asked for has to be that of an arm. */
static int check_arms(const struct bench_options *o)
{
	uint32_t i, j;
	bool found;

	for (i = 0; i < o->arm_count; i++) {
		found = false;
		for (j = 0; j < arm_count; j++)
			found |= !strncmp(arms[j].name, o->arms[i],
					  strlen(o->arms[i]));
		/* A beginning of a name may stand for several that are absent. */
		for (j = 0; j < absents && !found; j++) {
			if (strncmp(absent[j].name, o->arms[i],
				    strlen(o->arms[i])))
				continue;
			complain("%s%s: %s",
				 o->speed ? "left out: " : "--arms=",
				 printable(o->arms[i]), absent[j].why);
			if (!o->speed)
				return EXIT_FAILURE;
			found = true;
		}
		if (!found)
			return usage_error("--arms=%s: no such arm: --list "
					   "names those that there are",
					   printable(o->arms[i]));
	}
	return 0;
}

/* Plan ------------------------------------------------------------------- */

static void plan_group(struct results *r, const struct bench_options *o,
		       enum mode mode, uint64_t size)
{
	struct group *g = add_group(r, mode, size);
	uint32_t i, policy, mask;
	struct cell *c;

	for (i = 0; g && i < arm_count; i++) {
		mask = arms[i].modes[mode];
		/* It is the floor, measured in each round anyway. */
		if (&arms[i] == arms || !arm_wanted(o, arms[i].name) ||
		    (arms[i].most && size > arms[i].most) ||
		    (arms[i].one_cpu && o->cpu[0] != o->cpu[1]))
			continue;
		if (mask & o->policies[mode])
			mask &= o->policies[mode];
		for (policy = 0; policy < POLICIES; policy++) {
			if (!(mask & ONLY(policy)))
				continue;
			if (policy == EVERING_BUSY && o->cpu[0] == o->cpu[1])
				continue;
			c = add_cell(g, arms[i].name, policy);
			if (c)
				c->how = &arms[i];
		}
	}
}

static void plan(struct results *r, const struct bench_options *o)
{
	uint32_t mode, i;

	r->cpu[0] = o->cpu[0];
	r->cpu[1] = o->cpu[1];
	r->depth = o->depth;
	r->icount = o->icount;
	for (mode = 0; mode < MODES; mode++)
		for (i = 0; i < o->size_count[mode]; i++)
			if (o->modes & (1u << mode))
				plan_group(r, o, mode, o->sizes[mode][i]);
}

/* Rounds ----------------------------------------------------------------- */

static uint32_t in_flight(const struct bench_options *o, const struct group *g)
{
	uint32_t channels = (uint32_t)g->size;

	switch (g->mode) {
	case MODE_ORIGINAL:
	case MODE_FAIR:
		return o->depth;
	case MODE_MANY_SOME:
		return channels < MANY_ACTIVE ? channels : MANY_ACTIVE;
	case MODE_MANY_ALL:
		return channels;
	case MODE_MANY_ZIPF:
		return MANY_DEALT;
	default:
		return 1;
	}
}

static struct job make_job(const struct bench_options *o, const struct group *g,
			   const struct cell *c, uint64_t ops)
{
	struct job job = {
		.mode = g->mode,
		.policy = c->policy,
		.size = g->size,
		.depth = in_flight(o, g),
		.ops = ops,
		.seed = wyrand(&seed) >> 1,
		.cpu = { o->cpu[0], o->cpu[1] },
		.icount = o->icount,
	};

	/* What the original truncates was never done, but timed: ask for none. */
	if (job.mode == MODE_ORIGINAL)
		job.ops = (ops + o->depth - 1) / o->depth * o->depth;
	else
		job.warm = ops / 8 > job.depth ? ops / 8 : job.depth;
	if (each_timed(job.mode) && !o->icount)
		job.probes = ops / 4 > PROBES ? PROBES : ops / 4 + 1;
	/* Each channel has been used, more or less, and each request had company. */
	if (many_channels(job.mode)) {
		if (job.warm < g->size && job.mode != MODE_MANY_FLOOD)
			job.warm = g->size;
		if (job.probes < 2 * job.depth)
			job.probes = 2 * job.depth;
	}
	return job;
}

static uint64_t clamp_ops(const struct bench_options *o, const struct group *g,
			  double ops)
{
	double least = 64;

	if (g->mode == MODE_ORIGINAL)
		least = o->depth * ORIGINAL_TRIPS;
	else if (g->mode == MODE_FAIR)
		least = o->depth;
	else if (many_channels(g->mode))
		least = in_flight(o, g) > least ? in_flight(o, g) : least;
	else if (g->mode == MODE_CHANNEL || g->mode == MODE_CONNECT ||
		 g->size >= LARGE)
		least = 4;
	if (!(ops > least))
		return (uint64_t)least;
	return ops > 1e9 ? 1000000000u : (uint64_t)ops;
}

/* What the channels of an arm need, and are not let have: *@why; and once aloud. */
static bool limits_forbid(const struct group *g, const struct cell *c,
			  char why[160])
{
	static bool told[2];
	struct many_limits limits;
	uint64_t need[2];

	if (!many_channels(g->mode))
		return false;
	many_limits(&limits);
	need[0] = g->size * (c->how->descriptors ? c->how->descriptors : 1) +
		  OTHER_DESCRIPTORS;
	need[1] = g->size * c->how->mappings + OTHER_MAPPINGS;
	if (need[0] > limits.descriptors) {
		snprintf(why, 160, "needs %llu descriptors, may have %llu",
			 (unsigned long long)need[0],
			 (unsigned long long)limits.descriptors);
		if (!told[0])
			complain("%s with %llu channels %s: raise the hard "
				 "limit, with 'ulimit -Hn %llu' as root or "
				 "LimitNOFILE= of systemd",
				 c->arm, (unsigned long long)g->size, why,
				 (unsigned long long)need[0]);
		told[0] = true;
		return true;
	}
	if (need[1] <= limits.mappings)
		return false;
	snprintf(why, 160, "needs %llu mappings, may have %llu",
		 (unsigned long long)need[1],
		 (unsigned long long)limits.mappings);
	if (!told[1])
		complain("%s with %llu channels %s: raise it with "
			 "'sysctl vm.max_map_count=%llu' as root",
			 c->arm, (unsigned long long)g->size, why,
			 (unsigned long long)need[1]);
	told[1] = true;
	return true;
}

/* How many operations take about --round. */
static int calibrate(const struct bench_options *o, const struct group *g,
		     struct cell *c)
{
	static struct outcome out;
	int64_t want =
		o->round_ns * (g->mode == MODE_ORIGINAL ? ORIGINAL_FACTOR : 1);
	bool many = many_channels(g->mode) && g->mode != MODE_MANY_FLOOD;
	uint64_t ops =
		clamp_ops(o, g, many ? (double)o->round_ns / MANY_PILOT_NS : 0);
	unsigned int pilots = many ? MANY_PILOTS : PILOTS, i;
	double factor;
	struct job job;
	int ret;

	if (limits_forbid(g, c, c->error))
		return -1;
	for (i = 0; i < pilots; i++) {
		job = make_job(o, g, c, ops);
		ret = run_job(c->how, &job, o->timeout_ns, &out);
		if (ret) {
			memcpy(c->error, out.error, sizeof(c->error));
			return ret;
		}
		c->ops = job.ops;
		factor = (double)want / (double)(out.ns > 0 ? out.ns : 1);
		if (factor < 1.5)
			break;
		ops = clamp_ops(o, g, (double)job.ops * fmin(factor, 50));
	}
	c->ops = clamp_ops(o, g, (double)c->ops * fmin(factor, 1.5));
	return 0;
}

/* Calibrates what is to be done from now on; cells that cannot are left out. */
static int calibrate_group(const struct bench_options *o, struct group *g)
{
	int64_t start = clock_ns();
	uint32_t i;

	for (i = 0; i < g->count; i++) {
		if (calibrate(o, g, g->cell[i]) == -EINTR)
			return -EINTR;
		if (!g->cell[i]->ops)
			g->cell[i]->voids++;
	}
	g->spent_ns += clock_ns() - start;
	return 0;
}

static double measure_floor(const struct bench_options *o,
			    const struct group *g)
{
	static struct outcome out;
	struct job job = {
		.mode = MODE_RTT,
		.policy = EVERING_BUSY,
		.size = 64,
		.depth = 1,
		.ops = FLOOR_TRIPS,
		.warm = FLOOR_TRIPS / 4,
		.cpu = { o->cpu[0], o->cpu[1] },
	};

	if (o->cpu[0] == o->cpu[1] || g->mode == MODE_CHANNEL ||
	    g->mode == MODE_UNPINNED || g->mode == MODE_CONNECT ||
	    many_channels(g->mode) || through_relay(g->mode) ||
	    with_kernel(g->mode) ||
	    run_job(&raw_arm, &job, o->timeout_ns, &out))
		return NAN;
	return (double)out.ns / FLOOR_TRIPS;
}

static int run_cell(const struct bench_options *o, const struct group *g,
		    struct cell *c)
{
	static struct outcome out;
	struct job job = make_job(o, g, c, c->ops);
	uint32_t at = g->rounds;
	int ret;

	c->ns[at] = c->cpu[at] = c->calls[at] = NAN;
	if (!c->ops)
		return 0;
	ret = run_job(c->how, &job, o->timeout_ns, &out);
	if (ret == -EINTR)
		return ret;
	if (!ret && (out.done[0] != job.ops || out.done[1] != job.ops)) {
		snprintf(out.error, sizeof(out.error),
			 "of %llu operations %llu and %llu were found right",
			 (unsigned long long)job.ops,
			 (unsigned long long)out.done[0],
			 (unsigned long long)out.done[1]);
		ret = -1;
	}
	if (ret) {
		c->voids++;
		memcpy(c->error, out.error, sizeof(c->error));
		return 0;
	}
	c->ns[at] = (double)out.ns / (double)job.ops;
	if (out.cpu_ns >= 0)
		c->cpu[at] = (double)out.cpu_ns / (double)job.ops;
	if (out.syscalls >= 0)
		c->calls[at] = (double)out.syscalls / (double)job.ops;
	hist_merge(&c->hist, &out.hist);
	hist_merge(&c->waited, &out.waited);
	return 0;
}

static void shuffle(uint32_t *order, uint32_t count)
{
	uint32_t i, j, t;

	for (i = 0; i < count; i++)
		order[i] = i;
	for (i = count; i > 1; i--) {
		j = (uint32_t)random_below(&seed, i);
		t = order[i - 1];
		order[i - 1] = order[j];
		order[j] = t;
	}
}

static int run_group(const struct bench_options *o, struct group *g)
{
	uint32_t order[MAX_CELLS], i;
	int64_t start = clock_ns();
	int ret;

	shuffle(order, g->count);
	g->floor[g->rounds] = measure_floor(o, g);
	for (i = 0; i < g->count; i++) {
		ret = run_cell(o, g, g->cell[order[i]]);
		if (ret || end_signal)
			return -EINTR;
	}
	g->rounds++;
	g->spent_ns += clock_ns() - start;
	return 0;
}

/* Whether a group takes part in one more round. */
static bool goes_on(const struct bench_options *o, const struct results *r,
		    const struct group *g, int64_t start)
{
	if (g->rounds >= o->max_rounds)
		return false;
	if (!o->budget_ns)
		return true;
	if (clock_ns() - start >= o->budget_ns)
		return false;
	return g->rounds < o->min_rounds ||
	       g->spent_ns < o->budget_ns / r->count;
}

static void show(const struct bench_options *o, const struct results *r,
		 const struct group *g, const char *doing)
{
	char text[96], size[FORMAT_LEN];
	uint32_t i, done = 0;

	if (o->quiet || !progress_wanted())
		return;
	for (i = 0; i < r->count; i++)
		done += r->group[i]->rounds;
	snprintf(text, sizeof(text), "%s %s, %s %u", mode_names[g->mode],
		 format_plain(size, g->size), doing, g->rounds + 1);
	progress_draw((double)done / (r->count * o->max_rounds), text);
}

static int run_all(const struct bench_options *o, struct results *r)
{
	uint32_t order[MAX_GROUPS], i;
	int64_t start = clock_ns();
	bool more = true;
	struct group *g;

	while (more) {
		more = false;
		shuffle(order, r->count);
		for (i = 0; i < r->count; i++) {
			g = r->group[order[i]];
			if (!goes_on(o, r, g, start))
				continue;
			more = true;
			show(o, r, g, "round");
			if (!g->rounds && calibrate_group(o, g))
				return -EINTR;
			if (run_group(o, g))
				return -EINTR;
		}
	}
	return 0;
}

/* What is said of the machine --------------------------------------------- */

/* The first line of what a command prints, or of a file; "" if there is none. */
static void first_line(char *to, size_t size, const char *command)
{
	FILE *in = popen(command, "r");

	*to = '\0';
	if (!in)
		return;
	if (fgets(to, (int)size, in))
		to[strcspn(to, "\n")] = '\0';
	pclose(in);
}

static void describe(struct results *r, int argc, char **argv)
{
	struct utsname uts;
	time_t now = time(NULL);
	char line[128], governor[32];
	size_t len = 0;
	int i;

	first_line(line, sizeof(line),
		   "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo");
	first_line(governor, sizeof(governor),
		   "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor "
		   "2>/dev/null");
	snprintf(r->machine, sizeof(r->machine), "%s, %ld CPUs%s%s",
		 *line ? line : "unknown CPU", sysconf(_SC_NPROCESSORS_ONLN),
		 *governor ? ", governor " : "", governor);
	uname(&uts);
	snprintf(r->kernel, sizeof(r->kernel), "%.40s %.40s", uts.release,
		 uts.machine);
	first_line(r->commit, sizeof(r->commit),
		   "git -C '" EVERING_SOURCE_DIR
		   "' describe --always --dirty --abbrev=12 2>/dev/null");
	strftime(r->date, sizeof(r->date), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	for (i = 0; i < argc && len < sizeof(r->command); i++)
		len += (size_t)snprintf(r->command + len,
					sizeof(r->command) - len, "%s%s",
					i ? " " : "evering ", argv[i]);
}

/* The command ------------------------------------------------------------- */

static int write_file(const struct results *r, const char *path)
{
	FILE *out = fopen(path, "we");

	if (!out) {
		complain("%s: %m", printable(path));
		return -1;
	}
	write_results(r, out);
	if (ferror(out) | fclose(out)) {
		complain("%s: %m", printable(path));
		return -1;
	}
	return 0;
}

static int report(const struct bench_options *o, const struct results *r,
		  const struct results *before)
{
	int ret = 0;

	if (o->output)
		ret |= write_file(r, o->output);
	if (o->json) {
		write_results(r, output);
	} else {
		print_table(r);
		print_ratios(r);
		if (o->targets)
			print_targets(r);
	}
	if (before)
		print_changes(before, r);
	if (o->plot)
		ret |= plot_results(r, o->plot);
	return ret;
}

static bool all_right(const struct results *r)
{
	bool right = true;
	uint32_t i, j;

	for (i = 0; i < r->count; i++)
		for (j = 0; j < r->group[i]->count; j++)
			right &= !r->group[i]->cell[j]->voids;
	return right;
}

static int measure(const struct bench_options *o, struct results *r, int argc,
		   char **argv)
{
	int status = check_arms(o);

	if (status)
		return status;
	plan(r, o);
	if (!r->count) {
		complain("nothing to measure: no such arm has such a mode");
		return EXIT_FAILURE;
	}
	if (o->cpu[0] == o->cpu[1] && !o->icount &&
	    o->modes != ONLY(MODE_UNPINNED))
		complain("one CPU: arms that spin are left out, and the floor");
	describe(r, argc, argv);
	if (run_all(o, r) && !end_signal)
		return EXIT_FAILURE;
	progress_erase();
	return 0;
}

static int bench(const struct bench_options *o, int argc, char **argv)
{
	static struct results results, before;
	int status = 0;

	if (o->against && read_results(&before, o->against))
		return EXIT_FAILURE;
	if (o->from) {
		if (read_results(&results, o->from))
			return EXIT_FAILURE;
	} else {
		if (o->modes & MANY_MODES)
			many_raise_limits();
		if (o->modes & EVNET_MODES)
			evnet_prepare();
		find_arms(o);
		if (o->list)
			return list_arms();
		status = measure(o, &results, argc, argv);
	}
	if (status)
		return status;
	if (report(o, &results, o->against ? &before : NULL))
		return EXIT_FAILURE;
	if (end_signal)
		return 128 + end_signal;
	return all_right(&results) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int cmd_bench(int argc, char **argv)
{
	static struct bench_options options;
	int status;

	set_command("evering bench");
	status = bench_options(&options, argc, argv);
	if (status >= 0)
		return status;
	catch_end_signals();
	signal(SIGPIPE, SIG_IGN);
	seed = (uint64_t)clock_ns() ^ ((uint64_t)getpid() << 32);
	status = bench(&options, argc, argv);
	peers_end();
	return status;
}
