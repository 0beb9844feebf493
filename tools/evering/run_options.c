// SPDX-License-Identifier: MIT
/*
 * The command line of evering run, and its error messages: both depend on what the options
 * allow.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <evering.h>

#include "options.h"
#include "remedy.h"
#include "run.h"
#include "util.h"

#define DEFAULT_DEPTH 64u
#define DEFAULT_ARENA (4u << 20)
#define DEFAULT_CHUNK (256u << 10)
#define MAX_CHUNK (1u << 30)

static const char help[] =
	"Usage: evering run [OPTIONS] [DIR]\n"
	"\n"
	"Starts a second process, sends it every regular file below DIR through a\n"
	"channel, receives their SHA-256, and prints how long that took and why.  DIR\n"
	"may be a file; the default is evering's own source.\n"
	"\n"
	"Output:\n"
	"      --sums             print the sums, for `sha256sum -c` to check\n"
	"      --json             print the summary, on standard error, as a JSON object\n"
	"  -q, --quiet            print errors only: no summary and no progress\n"
	"\n"
	"Channel:\n"
	"      --backend=NAME     auto, memfd or device                           [auto]\n"
	"      --wait=POLICY      adaptive: spin, then sleep; block: sleep at once;\n"
	"                         busy: never sleep                           [adaptive]\n"
	"      --spin=NS          the longest that adaptive spins, 0..1000000    [50000]\n"
	"      --slot=BYTES       16, 32, 64, 128 or 256                            [64]\n"
	"      --ring=ENTRIES     slots of each ring, a power of two, 4..65536     [256]\n"
	"      --arena=SIZE       memory for contents in flight, 4K..64G            [4M]\n"
	"      --socket=PATH      Unix socket at which the two processes meet, @NAME for\n"
	"                         an abstract one                      [an abstract one]\n"
	"      --timeout=SECONDS  how long the meeting may take, 0.001..3600        [10]\n"
	"\n"
	"Load:\n"
	"      --depth=N          requests in flight, 1..ENTRIES                    [64]\n"
	"      --chunk=SIZE       the most bytes of a request, 64..1G\n"
	"                                              [256K, or an eighth of the arena]\n"
	"\n"
	"  -h, --help             print this text\n"
	"\n"
	"Sizes may end in K, M or G.  The exit status is 0 if all files were sent, 1\n"
	"after an error, 2 if the command line is invalid, 128 + n after signal n.\n";

static uint64_t arena_unit(void)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return page > EVERING_ARENA_ALIGN ? page : EVERING_ARENA_ALIGN;
}

static const char *take_arena(void *options, char *text)
{
	static char want[80];
	struct options *o = options;
	uint64_t n;

	if (parse_size(text, &n) && n && n <= EVERING_MAX_ARENA &&
	    n % arena_unit() == 0) {
		o->params.arena_size[EVERING_MINE] = n;
		return NULL;
	}
	snprintf(want, sizeof(want),
		 "a multiple of %u, up to 64G (may end in K, M or G)",
		 (unsigned int)arena_unit());
	return want;
}

#define RUN(member) FIELD(struct options, member)

static const struct option_spec specs[] = {
	{ "backend", 0, OPTION_BACKEND, RUN(params.backend) },
	{ "wait", 0, OPTION_POLICY, RUN(params.policy) },
	{ "spin", 0, OPTION_NUMBER, RUN(params.spin_ns), .most = 1000000,
	  .want = "0..1000000 nanoseconds" },
	{ "slot", 0, OPTION_POWER, RUN(params.slot_size), EVERING_MIN_SLOT,
	  EVERING_MAX_SLOT, .want = "16, 32, 64, 128 or 256" },
	{ "ring", 0, OPTION_POWER, RUN(params.entries), EVERING_MIN_ENTRIES,
	  EVERING_MAX_ENTRIES, .want = "a power of two in 4..65536" },
	{ "arena", 0, OPTION_CALL, .take = take_arena },
	{ "depth", 0, OPTION_NUMBER, RUN(depth), 1, EVERING_MAX_ENTRIES,
	  .want = "1..65536, and no more than --ring" },
	{ "chunk", 0, OPTION_SIZE, RUN(chunk), UNIT, MAX_CHUNK,
	  .want = "64..1G, and no more than --arena" },
	{ "socket", 0, OPTION_PLACE, RUN(socket), .most = MAX_SOCKET_PATH,
	  .want = "a path of 1..107 bytes, or @NAME" },
	{ "timeout", 0, OPTION_SECONDS, RUN(timeout_ns), SECOND / 1000,
	  3600 * SECOND },
	{ "sums", 0, OPTION_FLAG, RUN(sums) },
	{ "json", 0, OPTION_FLAG, RUN(json) },
	{ "quiet", 'q', OPTION_FLAG, RUN(quiet) },
	{ "control", 0, OPTION_NUMBER, RUN(control), .most = INT_MAX,
	  .want = "a descriptor" },
	{ "DIR", 0, OPTION_ARGUMENT, RUN(dir) },
	{ .name = NULL },
};

/* What depends on more than one option. */
static int settle_options(struct options *o)
{
	uint64_t arena = o->params.arena_size[EVERING_MINE];
	uint64_t unit = arena_unit();

	if (!o->depth)
		o->depth = o->params.entries < DEFAULT_DEPTH ?
				   o->params.entries :
				   DEFAULT_DEPTH;
	if (o->depth > o->params.entries)
		return usage_error("--depth=%u: must be 1..%u, as --ring=%u",
				   o->depth, o->params.entries,
				   o->params.entries);
	/* A few chunks should fit, so that both sides have work. */
	if (!o->chunk)
		o->chunk = arena / 8 < DEFAULT_CHUNK ? arena / 8 :
						       DEFAULT_CHUNK;
	if (o->chunk > arena)
		return usage_error("--chunk=%llu: must be 64..%llu, as --arena",
				   (unsigned long long)o->chunk,
				   (unsigned long long)arena);
	/* The server's arena holds a digest for every tag. */
	o->params.arena_size[EVERING_PEERS] =
		((uint64_t)o->depth * UNIT + unit - 1) / unit * unit;
	return 0;
}

int run_options(struct options *o, int argc, char **argv)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	int status;

	*o = (struct options){
		.params = params,
		.timeout_ns = 10 * SECOND,
		.control = -1,
	};
	o->params.arena_size[EVERING_MINE] = DEFAULT_ARENA;
	status = parse_options(specs, help, o, argc, argv);
	if (status >= 0)
		return status;
	status = settle_options(o);
	return status ? status : -1;
}

static void explain_attempt(const struct options *o, struct attempt attempt,
			    int err)
{
	attempt.params = &o->params;
	attempt.timeout_ns = o->timeout_ns;
	attempt.place_option = "--socket";
	attempt.arena_option = "--arena";
	complain_of(&attempt, err);
}

void explain(const struct options *o, const char *what, int err)
{
	explain_attempt(o, (struct attempt){ .what = what }, err);
}

void explain_socket(const struct options *o, const char *what, bool listening,
		    int err)
{
	explain_attempt(o,
			(struct attempt){ .what = what,
					  .path = o->socket,
					  .listening = listening },
			err);
}

int milliseconds_until(int64_t deadline, int most)
{
	int64_t left = deadline - clock_ns();

	if (left <= 0)
		return 0;
	if (left > most * 1000000ll)
		return most;
	return (int)((left + 999999) / 1000000);
}
