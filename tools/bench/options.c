// SPDX-License-Identifier: MIT
/*
 * The command line of evering bench.
 */
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "../evering/options.h"
#include "bench.h"

#define MS 1000000ll

static const char help[] =
	"Usage: evering bench [OPTIONS]\n"
	"\n"
	"Times evering beside other ways between two processes, in short rounds in a\n"
	"random order.  It prints medians, CPU time and system calls, and how many times\n"
	"as long the others take.\n"
	"\n"
	"What:\n"
	"      --modes=LIST        kinds of work, see below\n"
	"                                                [all but relay, port and evnet]\n"
	"      --arms=LIST         names, or beginnings of names, of what is to be timed\n"
	"                                                            [all that are here]\n"
	"      --sizes=LIST        bytes, 4..64M, multiples of 4; 8 or more in rtt,\n"
	"                          stream, late and unpinned            [the mode's own]\n"
	"      --channels=LIST     numbers of channels in many, 1..10000\n"
	"                                                             [1,10,64,100,1000]\n"
	"      --wait=LIST         of busy, adaptive, block, for arms with a choice\n"
	"                                                               [the mode's own]\n"
	"      --depth=N           requests in flight in original and fair, 1..200\n"
	"                                                                          [200]\n"
	"      --full              time every policy, and more sizes of rtt and stream\n"
	"      --speed             time what the picture of the README shows: message\n"
	"                          round trips of 64 bytes, 4K and 1M, spinning and\n"
	"                          asleep; with --plot, draw speed.svg\n"
	"      --icount            count instructions instead of time: rtt, channel,\n"
	"                          port and evnet on one CPU, by its time stamp counter,\n"
	"                          in a guest of QEMU with -icount shift=0; see\n"
	"                          tools/check/vm\n"
	"      --list              list the arms, and why others are missing here\n"
	"\n"
	"How long:\n"
	"      --rounds=MIN[,MAX]  1..501; after MIN rounds a group that has used its\n"
	"                          share of the budget is skipped                 [7,15]\n"
	"      --round=MS          time of an arm in a round, 1..10000; of original five\n"
	"                          times that, as its set-up counts                 [20]\n"
	"      --budget=SECONDS    time after which no round begins, MIN or not   [none]\n"
	"      --timeout=SECONDS   the most for an arm in a round, 1..3600          [60]\n"
	"\n"
	"Where:\n"
	"      --cpus=A,B          of the client and of the server       [the first two]\n"
	"      --peers=DIR         programs with more arms       [bench, beside evering]\n"
	"\n"
	"Results:\n"
	"      --output=FILE       write the results, JSON Lines\n"
	"      --json              print them in that form instead of as a table\n"
	"      --plot=DIR          draw them, SVG and PNG (needs gnuplot)\n"
	"      --from=FILE         read results from a file instead of measuring\n"
	"      --against=FILE      print what differs from that file by more than noise\n"
	"      --targets           print which of evering's own targets are met, too\n"
	"  -q, --quiet             print no progress\n"
	"  -h, --help              print this text\n"
	"\n"
	"Modes:\n"
	"  original  requests in flight between two threads, connecting and first touch\n"
	"            timed, as the Rust evering's benchmark has it\n"
	"  fair      the same between two processes, set-up not timed, every request\n"
	"            written anew\n"
	"  rtt       one message there and one back\n"
	"  stream    messages one way\n"
	"  late      rtt with answers that come later than any side spins\n"
	"  channel   one channel made and closed\n"
	"  message   messages of any length one way, a call for each, every byte read\n"
	"  request   such a message there and one back\n"
	"  unpinned  rtt of two sleepers on CPUs that the scheduler chooses\n"
	"  connect   connect, one message there and one back, close\n"
	"  many      requests over many channels into one server thread: from one at\n"
	"            random (-one), from 64 of them (-64), from all (-all), few of them\n"
	"            most often (-zipf), one quiet among flooders (-flood)\n"
	"  relay     between two machines, here over loopback: two relays (-rtt,\n"
	"            -stream)\n"
	"  port      to a kernel module that answers what it gets\n"
	"  evnet     frames to the kernel's network stack (-to) and from it (-from),\n"
	"            beside tun\n"
	"\n"
	"Lists are separated by commas; sizes may end in K or M.  The exit status is 0;\n"
	"1 if a run failed or an operation went wrong; 2 if the command line is invalid;\n"
	"128 + n after signal n.\n";

/* The next of a list, into @word; false at its end, or if it is too long. */
static bool next_word(const char **list, char word[NAME_LEN])
{
	size_t len = strcspn(*list, ",");

	if (!**list || len >= NAME_LEN)
		return false;
	memcpy(word, *list, len);
	word[len] = '\0';
	*list += len + ((*list)[len] == ',');
	return true;
}

/* Is it @word, or one of those that @word and a '-' begin? */
static bool goes_by(const char *name, const char *word)
{
	size_t len = strlen(word);

	return len && !strncmp(name, word, len) &&
	       (!name[len] || name[len] == '-');
}

/* A mask of the positions in @names; 0: something else is there. */
static uint32_t parse_mask(const char *text, const char *const *names,
			   uint32_t count)
{
	char word[NAME_LEN];
	uint32_t mask = 0, own, i;

	while (next_word(&text, word)) {
		own = 0;
		for (i = 0; i < count; i++)
			if (goes_by(names[i], word))
				own |= 1u << i;
		if (!own)
			return 0;
		mask |= own;
	}
	return *text ? 0 : mask;
}

static bool parse_sizes(struct bench_options *o, const char *text)
{
	char word[NAME_LEN];
	uint32_t count = 0, mode;
	uint64_t size;

	while (count < MAX_NAMES && next_word(&text, word)) {
		if (!parse_size(word, &size) || size < 4 || size > 64 << 20 ||
		    size % 4)
			return false;
		for (mode = 0; mode < MODES; mode++)
			if (!many_channels(mode))
				o->sizes[mode][count] = size;
		count++;
	}
	for (mode = 0; mode < MODES; mode++)
		if (!many_channels(mode))
			o->size_count[mode] = count;
	return count && !*text;
}

static void set_channels(struct bench_options *o, const uint64_t *channels,
			 uint32_t count)
{
	uint32_t mode;

	for (mode = 0; mode < MODES; mode++) {
		if (!many_channels(mode))
			continue;
		memcpy(o->sizes[mode], channels, count * sizeof(*channels));
		o->size_count[mode] = count;
	}
}

static bool parse_channels(struct bench_options *o, const char *text)
{
	uint64_t channels[MAX_NAMES];
	char word[NAME_LEN];
	uint32_t count = 0;

	while (count < MAX_NAMES && next_word(&text, word)) {
		if (!parse_number(word, &channels[count]) || !channels[count] ||
		    channels[count] > MAX_CHANNELS)
			return false;
		count++;
	}
	set_channels(o, channels, count);
	return count && !*text;
}

static bool parse_arms(struct bench_options *o, const char *text)
{
	/* The command line itself goes into the results. */
	char *own = strdup(text), *save, *name;

	for (name = own ? strtok_r(own, ",", &save) : NULL; name;
	     name = strtok_r(NULL, ",", &save)) {
		if (o->arm_count == MAX_NAMES)
			return false;
		o->arms[o->arm_count++] = name;
	}
	return o->arm_count;
}

static bool parse_pair(const char *text, uint64_t least, uint64_t most,
		       uint64_t pair[2])
{
	char word[NAME_LEN];
	unsigned int count = 0;

	while (count < 2 && next_word(&text, word)) {
		if (!parse_number(word, &pair[count]) || pair[count] < least ||
		    pair[count] > most)
			return false;
		count++;
	}
	if (count == 1)
		pair[1] = pair[0];
	return count && !*text && pair[0] <= pair[1];
}

static bool parse_cpus(struct bench_options *o, const char *text)
{
	char word[NAME_LEN];
	unsigned int count = 0;
	uint64_t cpu;

	while (count < 2 && next_word(&text, word)) {
		if (!parse_number(word, &cpu) || cpu > 65535)
			return false;
		o->cpu[count++] = (int)cpu;
	}
	return count == 2 && !*text;
}

/* What is said after it counts more. */
static const char *take_full(void *options, char *text)
{
	static const uint64_t rtt[] = { 16, 64, 256, 4096, 65536 };
	static const uint64_t stream[] = { 16, 32, 64, 128, 256, 4096, 65536 };
	struct bench_options *o = options;
	unsigned int i;

	(void)text;
	memcpy(o->sizes[MODE_RTT], rtt, sizeof(rtt));
	o->size_count[MODE_RTT] = sizeof(rtt) / sizeof(*rtt);
	memcpy(o->sizes[MODE_STREAM], stream, sizeof(stream));
	o->size_count[MODE_STREAM] = sizeof(stream) / sizeof(*stream);
	for (i = 0; i < MODES; i++)
		o->policies[i] = ANY_POLICY;
	o->min_rounds = 11;
	o->max_rounds = 41;
	return NULL;
}

/* What plot.c draws as speed.svg. */
static const char *take_speed(void *options, char *text)
{
	static const uint64_t sizes[] = { 64, 4 << 10, 1 << 20 };
	struct bench_options *o = options;

	(void)text;
	o->modes = ONLY(MODE_REQUEST);
	memcpy(o->sizes[MODE_REQUEST], sizes, sizeof(sizes));
	o->size_count[MODE_REQUEST] = sizeof(sizes) / sizeof(*sizes);
	o->policies[MODE_REQUEST] = ONLY(EVERING_BUSY) | ONLY(EVERING_BLOCK);
	o->arm_count = 0;
	o->arms[o->arm_count++] = "evering-device";
	o->arms[o->arm_count++] = "evering-memfd";
	o->arms[o->arm_count++] = "uds-epoll-good";
	o->arms[o->arm_count++] = "shmipc";
	o->arms[o->arm_count++] = "iceoryx2";
	o->speed = true;
	return NULL;
}

static const char *take_modes(void *options, char *text)
{
	struct bench_options *o = options;

	o->modes = parse_mask(text, mode_names, MODES);
	return o->modes ? NULL :
			  "of original, fair, rtt, stream, late, channel, "
			  "message, request, unpinned, connect, many, "
			  "many-one, many-64, many-all, many-zipf, many-flood, "
			  "relay, relay-rtt, relay-stream, port, "
			  "evnet, evnet-to, evnet-from";
}

static const char *take_policies(void *options, char *text)
{
	uint32_t mask = parse_mask(text, policy_names, POLICIES), i;
	struct bench_options *o = options;

	for (i = 0; i < MODES; i++)
		o->policies[i] = mask;
	return mask ? NULL : "of busy, adaptive, block";
}

static const char *take_arms(void *options, char *text)
{
	return parse_arms(options, text) ? NULL : "names, as --list has them";
}

static const char *take_sizes(void *options, char *text)
{
	return parse_sizes(options, text) ? NULL : "multiples of 4 in 4..64M";
}

static const char *take_channels(void *options, char *text)
{
	return parse_channels(options, text) ? NULL : "numbers in 1..10000";
}

static const char *take_rounds(void *options, char *text)
{
	struct bench_options *o = options;
	uint64_t pair[2] = { 0 };

	if (!parse_pair(text, 1, MAX_ROUNDS, pair))
		return "MIN[,MAX] in 1..501";
	o->min_rounds = (uint32_t)pair[0];
	o->max_rounds = (uint32_t)pair[1];
	return NULL;
}

static const char *take_round(void *options, char *text)
{
	struct bench_options *o = options;
	uint64_t n;

	if (!parse_number(text, &n) || !n || n > 10000)
		return "1..10000 milliseconds";
	o->round_ns = (int64_t)n * MS;
	return NULL;
}

static const char *take_cpus(void *options, char *text)
{
	return parse_cpus(options, text) ? NULL : "two numbers of CPUs";
}

#define BENCH(member) FIELD(struct bench_options, member)

static const struct option_spec specs[] = {
	{ "modes", 0, OPTION_CALL, .take = take_modes },
	{ "arms", 0, OPTION_CALL, .take = take_arms },
	{ "sizes", 0, OPTION_CALL, .take = take_sizes },
	{ "channels", 0, OPTION_CALL, .take = take_channels },
	{ "wait", 0, OPTION_CALL, .take = take_policies },
	{ "depth", 0, OPTION_NUMBER, BENCH(depth), 1, 200 },
	{ "full", 0, OPTION_FLAG, .take = take_full },
	{ "speed", 0, OPTION_FLAG, .take = take_speed },
	{ "rounds", 0, OPTION_CALL, .take = take_rounds },
	{ "round", 0, OPTION_CALL, .take = take_round },
	{ "budget", 0, OPTION_SECONDS, BENCH(budget_ns), .least = 1,
	  .want = "seconds" },
	{ "timeout", 0, OPTION_SECONDS, BENCH(timeout_ns), SECOND,
	  3600 * SECOND },
	{ "cpus", 0, OPTION_CALL, .take = take_cpus },
	{ "peers", 0, OPTION_TEXT, BENCH(peers) },
	{ "output", 0, OPTION_TEXT, BENCH(output) },
	{ "icount", 0, OPTION_FLAG, BENCH(icount) },
	{ "json", 0, OPTION_FLAG, BENCH(json) },
	{ "plot", 0, OPTION_TEXT, BENCH(plot) },
	{ "from", 0, OPTION_TEXT, BENCH(from) },
	{ "against", 0, OPTION_TEXT, BENCH(against) },
	{ "list", 0, OPTION_FLAG, BENCH(list) },
	{ "targets", 0, OPTION_FLAG, BENCH(targets) },
	{ "quiet", 'q', OPTION_FLAG, BENCH(quiet) },
	{ .name = NULL },
};

static void set_defaults(struct bench_options *o)
{
	static const uint64_t originals[] = {
		4,	  64,	    512,       1 << 10,	  4 << 10,    16 << 10,
		32 << 10, 64 << 10, 256 << 10, 512 << 10, 1024 << 10, 4096 << 10
	};
	static const uint64_t slots[] = { 16, 64 };
	static const uint64_t channels[] = { 1, 10, 64, 100, 1000 };
	static const uint64_t messages[] = { 4,		64,	 1 << 10,
					     4 << 10,	10000,	 64 << 10,
					     256 << 10, 1 << 20, 4 << 20,
					     16 << 20 };
	/* The last is unsegmented, and a stack takes no longer one. */
	static const uint64_t frames[] = { 64, 1500, 65000 };
	static const uint64_t relayed[] = { 64, 4 << 10, 64 << 10, 1 << 20 };
	unsigned int mode;

	*o = (struct bench_options){
		.policies = {
			[MODE_ORIGINAL] = ONLY(EVERING_BUSY),
			[MODE_FAIR] = ONLY(EVERING_BUSY) |
				      ONLY(EVERING_ADAPTIVE),
			[MODE_RTT] = ANY_POLICY,
			[MODE_STREAM] = ONLY(EVERING_BUSY) |
					ONLY(EVERING_ADAPTIVE),
			[MODE_LATE] = ANY_POLICY,
			[MODE_CHANNEL] = ANY_POLICY,
			[MODE_MESSAGE] = ONLY(EVERING_BUSY),
			[MODE_REQUEST] = ONLY(EVERING_BUSY) |
					 ONLY(EVERING_BLOCK),
			[MODE_UNPINNED] = ONLY(EVERING_BLOCK),
			[MODE_CONNECT] = ONLY(EVERING_BLOCK) |
					 ONLY(EVERING_ADAPTIVE),
			[MODE_MANY_ONE] = ANY_POLICY,
			[MODE_MANY_SOME] = ANY_POLICY,
			[MODE_MANY_ALL] = ANY_POLICY,
			[MODE_MANY_ZIPF] = ANY_POLICY,
			[MODE_MANY_FLOOD] = ANY_POLICY,
			[MODE_RELAY_RTT] = ONLY(EVERING_BLOCK) |
					   ONLY(EVERING_ADAPTIVE),
			[MODE_RELAY_STREAM] = ONLY(EVERING_BLOCK) |
					      ONLY(EVERING_ADAPTIVE),
			[MODE_PORT] = ONLY(EVERING_BLOCK),
			[MODE_EVNET_TO] = ONLY(EVERING_BLOCK),
			[MODE_EVNET_FROM] = ONLY(EVERING_BLOCK),
		},
		.depth = 200,
		.min_rounds = 7,
		.max_rounds = 15,
		.round_ns = 20 * MS,
		.timeout_ns = 60000 * MS,
		.cpu = { -1, -1 },
	};
	for (mode = 0; mode <= MODE_FAIR; mode++) {
		memcpy(o->sizes[mode], originals, sizeof(originals));
		o->size_count[mode] = sizeof(originals) / sizeof(*originals);
	}
	for (mode = MODE_MESSAGE; mode <= MODE_REQUEST; mode++) {
		memcpy(o->sizes[mode], messages, sizeof(messages));
		o->size_count[mode] = sizeof(messages) / sizeof(*messages);
	}
	for (mode = MODE_RELAY_RTT; mode <= MODE_RELAY_STREAM; mode++) {
		memcpy(o->sizes[mode], relayed, sizeof(relayed));
		o->size_count[mode] = sizeof(relayed) / sizeof(*relayed);
	}
	for (mode = MODE_EVNET_TO; mode <= MODE_EVNET_FROM; mode++) {
		memcpy(o->sizes[mode], frames, sizeof(frames));
		o->size_count[mode] = sizeof(frames) / sizeof(*frames);
	}
	o->sizes[MODE_PORT][0] = 64;
	o->size_count[MODE_PORT] = 1;
	o->sizes[MODE_RTT][0] = o->sizes[MODE_LATE][0] = 64;
	o->size_count[MODE_RTT] = o->size_count[MODE_LATE] = 1;
	o->sizes[MODE_UNPINNED][0] = 64;
	o->size_count[MODE_UNPINNED] = 1;
	/* What an entry of the default slot has room for. */
	o->sizes[MODE_CONNECT][0] = 32;
	o->size_count[MODE_CONNECT] = 1;
	set_channels(o, channels, sizeof(channels) / sizeof(*channels));
	o->sizes[MODE_CHANNEL][0] = 1 << 20;
	o->size_count[MODE_CHANNEL] = 1;
	memcpy(o->sizes[MODE_STREAM], slots, sizeof(slots));
	o->size_count[MODE_STREAM] = sizeof(slots) / sizeof(*slots);
}

/* What depends on more than one option, or on the machine. */
static int settle(struct bench_options *o)
{
	int cpus[2];
	unsigned int count = allowed_cpus(cpus, 2);
	uint32_t i;

	if (!o->modes) {
		o->modes = ((1u << MODES) - 1) & ~RELAY_MODES;
		/* These need modules, and make network interfaces. */
		if (!o->icount)
			o->modes &= ~KERNEL_MODES;
	}
	if (o->cpu[0] < 0 && count) {
		o->cpu[0] = cpus[0];
		o->cpu[1] = cpus[count - 1];
	}
	if (o->icount) {
		o->cpu[1] = o->cpu[0];
		o->modes &= ONLY(MODE_RTT) | ONLY(MODE_CHANNEL) | KERNEL_MODES;
		o->policies[MODE_RTT] = ONLY(EVERING_BLOCK);
		if (!o->modes)
			return usage_error("--icount: of rtt, channel, port "
					   "and evnet");
	}
	for (i = 0; i < o->size_count[MODE_RTT]; i++)
		if (o->sizes[MODE_RTT][i] < 8 &&
		    (o->modes & (ONLY(MODE_RTT) | ONLY(MODE_STREAM) |
				 ONLY(MODE_LATE) | ONLY(MODE_UNPINNED))))
			return usage_error(
				"--sizes: rtt, stream, late and unpinned need 8 "
				"bytes or more: choose --modes as well");
	return 0;
}

int bench_options(struct bench_options *o, int argc, char **argv)
{
	int status;

	set_defaults(o);
	status = parse_options(specs, help, o, argc, argv);
	if (status >= 0)
		return status;
	status = settle(o);
	return status ? status : -1;
}
