// SPDX-License-Identifier: MIT
/*
 * The command line of evering run, and how it says what went wrong: both are about
 * what the options allow.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <evering.h>

#include "process.h"
#include "run.h"
#include "util.h"

#define DEFAULT_DEPTH 64u
#define DEFAULT_ARENA (4u << 20)
#define DEFAULT_CHUNK (256u << 10)
#define MAX_CHUNK (1u << 30)

static const char *const backend_names[] = { "auto", "device", "memfd" };
const char *const policy_names[] = { "adaptive", "block", "busy" };

enum {
	OPT_BACKEND = 256,
	OPT_WAIT,
	OPT_SPIN,
	OPT_SLOT,
	OPT_RING,
	OPT_ARENA,
	OPT_DEPTH,
	OPT_CHUNK,
	OPT_SOCKET,
	OPT_TIMEOUT,
	OPT_SUMS,
	OPT_JSON,
	OPT_CONTROL,
};

static const struct option long_options[] = {
	{ "backend", required_argument, NULL, OPT_BACKEND },
	{ "wait", required_argument, NULL, OPT_WAIT },
	{ "spin", required_argument, NULL, OPT_SPIN },
	{ "slot", required_argument, NULL, OPT_SLOT },
	{ "ring", required_argument, NULL, OPT_RING },
	{ "arena", required_argument, NULL, OPT_ARENA },
	{ "depth", required_argument, NULL, OPT_DEPTH },
	{ "chunk", required_argument, NULL, OPT_CHUNK },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "sums", no_argument, NULL, OPT_SUMS },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "control", required_argument, NULL, OPT_CONTROL },
	{ NULL, 0, NULL, 0 },
};

static void print_help(void)
{
	fputs("Usage: evering run [OPTIONS] [DIR]\n"
	      "\n"
	      "Starts a second process, sends it every regular file below DIR through a\n"
	      "channel, gets their SHA-256 back, and prints how fast that went.  DIR may be\n"
	      "a file; without it, evering's own source is sent.\n"
	      "\n"
	      "Output:\n"
	      "  --sums            print the sums, for `sha256sum -c` to check\n"
	      "  --json            print the summary, on standard error, as a JSON object\n"
	      "  -q, --quiet       no summary and no progress, errors only\n"
	      "\n"
	      "Channel:\n"
	      "  --backend=NAME    auto, memfd or device                             [auto]\n"
	      "  --wait=POLICY     adaptive: spin, then sleep; block: sleep at once;\n"
	      "                    busy: never sleep                             [adaptive]\n"
	      "  --spin=NS         the longest that adaptive spins, 0..1000000      [50000]\n"
	      "  --slot=BYTES      16, 32, 64, 128 or 256                              [64]\n"
	      "  --ring=ENTRIES    slots of each ring, a power of two, 4..65536       [256]\n"
	      "  --arena=SIZE      memory for contents in flight, 4K..64G              [4M]\n"
	      "  --socket=PATH     where the two processes meet, @NAME for an abstract\n"
	      "                    socket                              [an abstract socket]\n"
	      "  --timeout=SECONDS how long they may take to, 0.001..3600              [10]\n"
	      "\n"
	      "Load:\n"
	      "  --depth=N         requests in flight, 1..ENTRIES                      [64]\n"
	      "  --chunk=SIZE      bytes of a request at the most, 64..1G\n"
	      "                                       [256K, or an eighth of the arena]\n"
	      "\n"
	      "  -h, --help        this\n"
	      "\n"
	      "Sizes may end in K, M or G.  Exits with 0 if all files were sent, 1 if\n"
	      "something went wrong, 2 if the command line makes no sense, 128 + n after\n"
	      "signal n.\n",
	      output);
}

static int bad_value(int opt, const char *value, const char *range)
{
	const struct option *o = long_options;

	while (o->val != opt)
		o++;
	return usage_error("--%s=%s: must be %s", o->name, printable(value),
			   range);
}

static bool parse_name(const char *text, const char *const *names,
		       uint32_t count, uint32_t *value)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		if (!strcmp(text, names[i])) {
			*value = i;
			return true;
		}
	}
	return false;
}

static bool in_range(const char *text, uint64_t min, uint64_t max, uint64_t *n)
{
	return parse_size(text, n) && *n >= min && *n <= max;
}

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

static uint64_t arena_unit(void)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return page > EVERING_ARENA_ALIGN ? page : EVERING_ARENA_ALIGN;
}

/* Takes one option; 0 or EXIT_USAGE. */
static int parse_option(struct options *o, int opt, const char *text)
{
	char range[80];
	uint64_t n;

	switch (opt) {
	case OPT_BACKEND:
		if (parse_name(text, backend_names, 3, &o->params.backend))
			return 0;
		return bad_value(opt, text, "auto, memfd or device");
	case OPT_WAIT:
		if (parse_name(text, policy_names, 3, &o->params.policy))
			return 0;
		return bad_value(opt, text, "adaptive, block or busy");
	case OPT_SPIN:
		if (!parse_number(text, &n) || n > 1000000)
			return bad_value(opt, text, "0..1000000 nanoseconds");
		o->params.spin_ns = (uint32_t)n;
		return 0;
	case OPT_SLOT:
		if (!in_range(text, EVERING_MIN_SLOT, EVERING_MAX_SLOT, &n) ||
		    !power_of_two(n))
			return bad_value(opt, text, "16, 32, 64, 128 or 256");
		o->params.slot_size = (uint32_t)n;
		return 0;
	case OPT_RING:
		if (!in_range(text, EVERING_MIN_ENTRIES, EVERING_MAX_ENTRIES,
			      &n) ||
		    !power_of_two(n))
			return bad_value(opt, text,
					 "a power of two in 4..65536");
		o->params.entries = (uint32_t)n;
		return 0;
	case OPT_ARENA:
		if (in_range(text, 1, EVERING_MAX_ARENA, &n) &&
		    n % arena_unit() == 0) {
			o->params.arena_size[EVERING_MINE] = n;
			return 0;
		}
		snprintf(range, sizeof(range),
			 "a multiple of %u, up to 64G (may end in K, M or G)",
			 (unsigned int)arena_unit());
		return bad_value(opt, text, range);
	case OPT_DEPTH:
		if (!parse_number(text, &n) || !n || n > EVERING_MAX_ENTRIES)
			return bad_value(opt, text,
					 "1..65536, and no more than --ring");
		o->depth = (uint32_t)n;
		return 0;
	case OPT_CHUNK:
		if (in_range(text, UNIT, MAX_CHUNK, &o->chunk))
			return 0;
		return bad_value(opt, text, "64..1G, and no more than --arena");
	case OPT_SOCKET:
		if (*text && strcmp(text, "@") &&
		    strlen(text) <= MAX_SOCKET_PATH) {
			o->socket = text;
			return 0;
		}
		return bad_value(opt, text, "a path of 1..107 bytes");
	case OPT_TIMEOUT:
		if (parse_seconds(text, &o->timeout_ns) &&
		    o->timeout_ns >= 1000000 &&
		    o->timeout_ns <= 3600 * 1000000000ll)
			return 0;
		return bad_value(opt, text, "0.001..3600 seconds");
	case OPT_CONTROL:
		if (!parse_number(text, &n) || n > INT_MAX)
			return bad_value(opt, text, "a descriptor");
		o->control = (int)n;
		return 0;
	case OPT_SUMS:
		o->sums = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	default:
		o->quiet = true;
		return 0;
	}
}

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

int parse_options(struct options *o, int argc, char **argv, int *status)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	int opt;

	*o = (struct options){
		.params = params,
		.timeout_ns = 10 * 1000000000ll,
		.control = -1,
	};
	o->params.arena_size[EVERING_MINE] = DEFAULT_ARENA;

	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, ":qh", long_options, NULL)) !=
	       -1) {
		*status = EXIT_USAGE;
		if (opt == '?' && optopt && optopt < 256) {
			usage_error("unknown option '-%c'", optopt);
		} else if (opt == '?' && optopt) {
			usage_error("%s: takes no value",
				    printable(argv[optind - 1]));
		} else if (opt == '?') {
			usage_error("unknown option '%s'",
				    printable(argv[optind - 1]));
		} else if (opt == ':') {
			usage_error("%s: needs a value",
				    printable(argv[optind - 1]));
		} else if (opt == 'h') {
			print_help();
			*status = EXIT_SUCCESS;
		} else {
			*status = parse_option(o, opt, optarg);
			if (!*status)
				continue;
		}
		return -1;
	}
	if (argc - optind > 1) {
		*status = usage_error("one DIR only: '%s' is one too many",
				      printable(argv[optind + 1]));
		return -1;
	}
	o->dir = argv[optind];
	*status = settle_options(o);
	return *status ? -1 : 0;
}

/* What to do about errors of the library, where that hangs on nothing. */
static const struct remedy {
	int error;
	const char *text;
} remedies[] = {
	{ EDQUOT, "a quota of the evering module: use a smaller --arena, or "
		  "--backend=memfd" },
	{ ENFILE, "the whole system's limit: raise /proc/sys/fs/file-max" },
	{ ENODEV, "/dev/evering is not there: load the evering module, or use "
		  "--backend=memfd" },
	{ EADDRINUSE, "somebody listens there, or it is not a socket: use "
		      "another --socket" },
	{ ENOENT, "use a --socket in a directory that is there" },
	{ ENOTDIR, "use a --socket in a directory" },
	{ EACCES, "use a --socket in a directory that you can write to" },
	{ EPERM, "use a --socket in a directory that you can write to" },
	{ EROFS, "use a --socket in a directory that you can write to" },
	{ EPROTONOSUPPORT, "the two sides speak different versions of the ABI: "
			   "is one of them an older build?" },
	{ EPROTO, "what came back does not speak evering" },
};

static void find_remedy(const struct options *o, int error, char *buf,
			size_t size)
{
	char a[FORMAT_LEN], b[FORMAT_LEN];
	struct rlimit limit = { 0 };
	size_t i;

	switch (error) {
	case EINVAL:
		if (o->params.backend == EVERING_BACKEND_AUTO &&
		    getenv("EVERING_BACKEND")) {
			snprintf(buf, size,
				 "is $EVERING_BACKEND memfd or device?");
			return;
		}
		/* fallthrough */
	case E2BIG:
		snprintf(buf, size,
			 "slots of %u bytes, rings of %u, arenas of %s and %s",
			 o->params.slot_size, o->params.entries,
			 format_size(a, o->params.arena_size[EVERING_MINE]),
			 format_size(b, o->params.arena_size[EVERING_PEERS]));
		return;
	case ENOMEM:
		snprintf(buf, size, "use an --arena smaller than %s",
			 format_size(a, o->params.arena_size[EVERING_MINE]));
		return;
	case EFBIG:
		getrlimit(RLIMIT_FSIZE, &limit);
		snprintf(buf, size,
			 "the limit is %llu bytes: raise it with 'ulimit -f'",
			 (unsigned long long)limit.rlim_cur);
		return;
	case EMFILE:
		getrlimit(RLIMIT_NOFILE, &limit);
		snprintf(buf, size,
			 "the limit is %llu: raise it with 'ulimit -n 64'",
			 (unsigned long long)limit.rlim_cur);
		return;
	case ENAMETOOLONG:
		snprintf(buf, size, "use a --socket of at most %u bytes",
			 MAX_SOCKET_PATH);
		return;
	case ETIMEDOUT:
		snprintf(buf, size, "not within %g s: use a longer --timeout",
			 (double)o->timeout_ns / 1e9);
		return;
	}
	*buf = '\0';
	for (i = 0; i < sizeof(remedies) / sizeof(*remedies); i++)
		if (remedies[i].error == error)
			snprintf(buf, size, "%s", remedies[i].text);
}

void explain(const struct options *o, const char *what, int err)
{
	char remedy[160];

	find_remedy(o, -err, remedy, sizeof(remedy));
	if (*remedy)
		complain("%s: %s (%s)", what, strerror(-err), remedy);
	else
		complain("%s: %s", what, strerror(-err));
}

void explain_socket(const struct options *o, const char *what, int err)
{
	char at[2 * MAX_SOCKET_PATH + 64];

	snprintf(at, sizeof(at), "%s %s", what, printable(o->socket));
	explain(o, at, err);
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
