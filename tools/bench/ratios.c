// SPDX-License-Identifier: MIT
/*
 * Ratios: how many times as long as evering others take, which is what a user asks for, and
 * the targets that evering has set itself, which its authors ask for.
 */
#include <math.h>

#include "../evering/options.h"
#include "../evering/process.h"
#include "bench.h"

#define QUEUES "ck_ring rte_ring boost-spsc moodycamel"
#define UNIX_SOCKETS                                                    \
	"uds-epoll uds-epoll-good uds-uring uds-uring-good uds-stream " \
	"uds-seqpacket"

/* Those that a user may have instead of evering, a column each. */
static const struct rival {
	const char *title;
	const char *arms;
} rivals[] = {
	{ "Unix socket", UNIX_SOCKETS },
	{ "shmipc", "shmipc" },
	{ "iceoryx2", "iceoryx2" },
	{ "ZeroMQ", "zeromq" },
	{ "nng", "nng" },
	{ "UCX", "ucx" },
	{ "libfabric", "libfabric" },
	{ "tokio", "tokio tokio-uring" },
	{ "monoio", "monoio" },
	{ "queue", QUEUES },
	{ "eventfd", "eventfd" },
};

#define RIVALS (sizeof(rivals) / sizeof(*rivals))

bool listed(const char *name, const char *list)
{
	size_t len = strlen(name), next;

	for (; *list; list += next + (list[next] == ' ')) {
		next = strcspn(list, " ");
		if (next == len && !memcmp(list, name, len))
			return true;
	}
	return false;
}

/* The fastest of @arms by its median, of those that wait by @policy or, POLICIES, in any way. */
static const struct cell *fastest(const struct group *g, const char *arms,
				  uint32_t policy)
{
	const struct cell *best = NULL;
	double least = INFINITY, median;
	uint32_t i;

	for (i = 0; i < g->count; i++) {
		if (!listed(g->cell[i]->arm, arms) ||
		    (g->cell[i]->policy != policy && policy != POLICIES))
			continue;
		median = summarize(g->cell[i]->ns, g->rounds).median;
		if (median < least) {
			least = median;
			best = g->cell[i];
		}
	}
	return best;
}

static bool has_rival(const struct results *r, size_t which)
{
	uint32_t i;

	for (i = 0; i < r->count; i++)
		if (fastest(r->group[i], rivals[which].arms, POLICIES))
			return true;
	return false;
}

/* "12.1", or "12.1*" beside a rival that waits in another way; "-": there is none. */
static char *format_ratio(char buf[FORMAT_LEN], const struct group *g,
			  const struct cell *own, const struct rival *rival,
			  bool *marked)
{
	const struct cell *other = fastest(g, rival->arms, own->policy);
	bool otherwise = !other;

	if (!other)
		other = fastest(g, rival->arms, POLICIES);
	if (!other)
		return strcpy(buf, "-");
	format_value(buf,
		     summarize_ratio(other->ns, own->ns, g->rounds).median);
	if (otherwise)
		strcat(buf, "*");
	*marked |= otherwise;
	return buf;
}

static bool has_any(const struct group *g, const bool shown[RIVALS])
{
	size_t i;

	for (i = 0; i < RIVALS; i++)
		if (shown[i] && fastest(g, rivals[i].arms, POLICIES))
			return true;
	return false;
}

static void print_ratio_row(const struct results *r, const struct group *g,
			    const struct cell *own, const bool shown[RIVALS],
			    bool *marked)
{
	char size[FORMAT_LEN], buf[FORMAT_LEN], work[2 * FORMAT_LEN];
	size_t i;

	snprintf(work, sizeof(work), "%s %s", mode_names[g->mode],
		 format_plain(size, g->size));
	fprintf(output, "  %-16s %-15s %-8s %9s", work, own->arm,
		policy_names[own->policy],
		format_ns(buf, summarize(own->ns, g->rounds).median,
			  r->icount));
	for (i = 0; i < RIVALS; i++)
		if (shown[i])
			fprintf(output, " %11s",
				format_ratio(buf, g, own, &rivals[i], marked));
	fputc('\n', output);
}

void print_ratios(const struct results *r)
{
	bool shown[RIVALS], any = false, marked = false;
	const struct group *g;
	const struct cell *c;
	uint32_t i, j;
	size_t k;

	for (k = 0; k < RIVALS; k++)
		any |= shown[k] = has_rival(r, k);
	if (!any)
		return;
	fprintf(output,
		"\nHow many times as long as evering others take:\n"
		"  %-16s %-15s %-8s %9s",
		"work", "evering", "wait", "median");
	for (k = 0; k < RIVALS; k++)
		if (shown[k])
			fprintf(output, " %11s", rivals[k].title);
	fputc('\n', output);
	for (i = 0; i < r->count; i++) {
		g = r->group[i];
		for (j = 0; j < g->count; j++) {
			c = g->cell[j];
			if (!listed(c->arm, "evering-device evering-memfd") ||
			    !summarize(c->ns, g->rounds).count ||
			    !has_any(g, shown))
				continue;
			print_ratio_row(r, g, c, shown, &marked);
		}
	}
	fprintf(output,
		"Each is the fastest of its kind that waits as evering does%s; medians of "
		"ratios\nwithin a round.\n",
		marked ? ", or (*) in another way" : "");
}

/* Targets ----------------------------------------------------------------- */

#define SOCKETS                                                    \
	"uds-epoll uds-epoll-good uds-uring uds-uring-good tokio " \
	"tokio-uring monoio"

/* What a meeting is measured against. */
#define DOORS "uds-stream uds-seqpacket"

#define PEERS SOCKETS " zeromq nng ucx libfabric shmipc iceoryx2"

/* The others, however they wait. */
#define ANY_WAIT POLICIES

/**
 * struct target - a ratio that evering is to reach, at each size from @least to
 *	@most
 * @against: names, of which the fastest counts; "": the floor; NULL: itself
 * @beside: the size at which those are; 0: the same
 * @own, @other: policies; @other may be ANY_WAIT
 * @of: what is compared; of instructions, the device's; of turns, those that a quiet
 *	channel waited, with one of each other channel
 * @arm: whose it is; NULL: of evering's
 * @less: an arm that is taken off both; NULL: none
 */
static const struct target {
	const char *what;
	enum mode mode;
	uint64_t least;
	uint64_t most;
	const char *against;
	uint32_t own;
	uint32_t other;
	double limit;
	enum {
		TIME,
		CPU,
		INSTRUCTIONS,
		TURNS
	} of;
	uint64_t beside;
	const char *arm;
	const char *less;
} targets[] = {
	{ "raw cache-line round trip", MODE_RTT, 64, 64, "", EVERING_BUSY,
	  EVERING_BUSY, 1.15, TIME, 0, NULL, NULL },
	{ "best queue", MODE_RTT, 64, 64, QUEUES, EVERING_BUSY, EVERING_BUSY,
	  0.75, TIME, 0, NULL, NULL },
	{ "bare eventfds", MODE_RTT, 64, 64, "eventfd", EVERING_BLOCK,
	  EVERING_BLOCK, 1.05, TIME, 0, NULL, NULL },
	{ "itself, busy", MODE_RTT, 64, 64, NULL, EVERING_ADAPTIVE,
	  EVERING_BUSY, 1.2, TIME, 0, NULL, NULL },
	{ "itself, block, CPU", MODE_LATE, 64, 64, NULL, EVERING_ADAPTIVE,
	  EVERING_BLOCK, 1.2, CPU, 0, NULL, NULL },
	{ "eventfd, instructions", MODE_RTT, 64, 64, "eventfd", EVERING_BLOCK,
	  EVERING_BLOCK, 0.85, INSTRUCTIONS, 0, NULL, NULL },
	{ "best queue", MODE_STREAM, 16, 16, QUEUES, EVERING_BUSY, EVERING_BUSY,
	  0.6, TIME, 0, NULL, NULL },
	{ "best queue", MODE_STREAM, 64, 64, QUEUES, EVERING_BUSY, EVERING_BUSY,
	  0.5, TIME, 0, NULL, NULL },
	{ "shmipc", MODE_ORIGINAL, 4, 16 << 10, "shmipc", EVERING_BUSY,
	  EVERING_BLOCK, 0.33, TIME, 0, NULL, NULL },
	{ "tokio", MODE_ORIGINAL, 4, 16 << 10, "tokio", EVERING_BUSY,
	  EVERING_BLOCK, 1.0 / 30, TIME, 0, NULL, NULL },
	{ "uds-epoll", MODE_ORIGINAL, 4, 16 << 10, "uds-epoll", EVERING_BUSY,
	  EVERING_BLOCK, 1.0 / 20, TIME, 0, NULL, NULL },
	{ "best Unix socket", MODE_ORIGINAL, 4, 16 << 10, SOCKETS, EVERING_BUSY,
	  EVERING_BLOCK, 1.0 / 10, TIME, 0, NULL, NULL },
	{ "shmipc", MODE_ORIGINAL, 64 << 10, 4 << 20, "shmipc", EVERING_BUSY,
	  EVERING_BLOCK, 0.5, TIME, 0, NULL, NULL },
	{ "shmipc", MODE_FAIR, 64 << 10, 4 << 20, "shmipc", EVERING_BUSY,
	  EVERING_BLOCK, 0.5, TIME, 0, NULL, NULL },
	{ "best Unix socket", MODE_FAIR, 64 << 10, 4 << 20, SOCKETS,
	  EVERING_BUSY, EVERING_BLOCK, 0.5, TIME, 0, NULL, NULL },
	{ "two bare memcpys", MODE_MESSAGE, 10000, 10000, "two-copies",
	  EVERING_BUSY, EVERING_BUSY, 2, TIME, 0, NULL, NULL },
	{ "best peer", MODE_MESSAGE, 4, 64 << 10, PEERS, EVERING_BUSY, ANY_WAIT,
	  0.5, TIME, 0, NULL, NULL },
	{ "best peer", MODE_REQUEST, 4, 64 << 10, PEERS, EVERING_BUSY, ANY_WAIT,
	  0.5, TIME, 0, NULL, NULL },
	{ "one copy and one read", MODE_MESSAGE, 256 << 10, 16 << 20,
	  "copy-and-read", EVERING_BUSY, EVERING_BUSY, 1.15, TIME, 0, NULL,
	  NULL },
	{ "bare eventfds", MODE_UNPINNED, 64, 64, "eventfd", EVERING_BLOCK,
	  EVERING_BLOCK, 1.05, TIME, 0, NULL, NULL },
	{ "best Unix socket", MODE_CONNECT, 4, 128, DOORS, EVERING_BLOCK,
	  EVERING_BLOCK, 5, TIME, 0, NULL, NULL },
	{ "itself, 1 channel, CPU", MODE_MANY_ONE, 1000, 1000, NULL,
	  EVERING_BLOCK, EVERING_BLOCK, 1.6, CPU, 1, NULL, NULL },
	{ "itself, 64 channels", MODE_MANY_SOME, 1000, 1000, NULL, EVERING_BUSY,
	  EVERING_BUSY, 1.2, TIME, 64, NULL, NULL },
	{ "a scan of all", MODE_MANY_ONE, 1000, MAX_CHANNELS, "scan",
	  EVERING_BUSY, EVERING_BUSY, 0.5, TIME, 0, NULL, NULL },
	{ "itself, 1000 channels", MODE_MANY_ONE, 2000, MAX_CHANNELS, NULL,
	  EVERING_BUSY, EVERING_BUSY, 1.2, TIME, 1000, NULL, NULL },
	{ "uds-epoll-good", MODE_MANY_ALL, 1000, 1000, "uds-epoll-good",
	  EVERING_BUSY, ANY_WAIT, 0.2, TIME, 0, NULL, NULL },
	{ "a turn of each other", MODE_MANY_FLOOD, 1000, 1000, NULL,
	  EVERING_BLOCK, EVERING_BLOCK, 1, TURNS, 0, NULL, NULL },
	{ "evering_recv, CPU", MODE_MANY_ONE, 1, 1, "no-group", EVERING_BLOCK,
	  EVERING_BLOCK, 1.05, CPU, 0, NULL, NULL },
	{ "evering_recv", MODE_MANY_ONE, 1, 1, "no-group", EVERING_BUSY,
	  EVERING_BUSY, 1.05, TIME, 0, NULL, NULL },
	{ "a read of as much", MODE_PORT, 64, 64, "echo-read", EVERING_BLOCK,
	  EVERING_BLOCK, 0.5, INSTRUCTIONS, 0, "echo-16", NULL },
	{ "a read of as much", MODE_PORT, 64, 64, "echo-read", EVERING_BLOCK,
	  EVERING_BLOCK, 0.5, INSTRUCTIONS, 0, "echo-op-16", NULL },
	{ "a process in its place", MODE_PORT, 64, 64, "enter", EVERING_BLOCK,
	  EVERING_BLOCK, 0.8, INSTRUCTIONS, 0, "echo-thread", NULL },
	{ "tun", MODE_EVNET_TO, 64, 1500, "tun", EVERING_BLOCK, EVERING_BLOCK,
	  0.5, INSTRUCTIONS, 0, "evnet", NULL },
	{ "tun", MODE_EVNET_FROM, 64, 1500, "tun", EVERING_BLOCK, EVERING_BLOCK,
	  0.5, INSTRUCTIONS, 0, "evnet", NULL },
	{ "tun, each less dummy", MODE_EVNET_FROM, 64, 1500, "tun",
	  EVERING_BLOCK, EVERING_BLOCK, 0.5, INSTRUCTIONS, 0, "evnet",
	  "dummy" },
};

/*
 * The most turns that were waited, of as many as there are other channels, and of what a call
 * of evering_group_wait() had returned when the quiet one asked: these are in turn already.
 */
static struct summary turns_of_each(const struct group *g, const struct cell *c)
{
	double most = (double)c->waited.max /
		      (double)(g->size - 1 + EVERING_GROUP_BATCH - 1);

	return (struct summary){ 1, most, most, most, most };
}

/* Of what both take beyond @base, in a round. */
static struct summary ratio_of_rests(const struct group *g,
				     const struct cell *own,
				     const struct cell *other,
				     const struct cell *base)
{
	double a[MAX_ROUNDS], b[MAX_ROUNDS];
	uint32_t i;

	for (i = 0; i < g->rounds; i++) {
		a[i] = own->ns[i] - base->ns[i];
		b[i] = other->ns[i] - base->ns[i];
	}
	return summarize_ratio(a, b, g->rounds);
}

static struct summary reached(const struct results *r, const struct group *g,
			      const struct target *t, const char *arm)
{
	static const struct summary none = { 0, NAN, NAN, NAN, NAN };
	const struct cell *own = find_cell(g, arm, t->own);
	const struct group *beside = g;
	const struct cell *other, *base;
	uint32_t rounds = g->rounds;

	if (!own)
		return none;
	if (t->of == TURNS)
		return own->waited.count ? turns_of_each(g, own) : none;
	if (t->beside)
		beside = find_group(r, t->mode, t->beside);
	if (!beside)
		return none;
	if (beside->rounds < rounds)
		rounds = beside->rounds;
	if (t->against && !*t->against)
		return summarize_ratio(own->ns, g->floor, g->rounds);
	other = t->against ? fastest(beside, t->against, t->other) :
			     find_cell(beside, arm, t->other);
	if (!other)
		return none;
	if (t->less) {
		base = find_cell(g, t->less, t->own);
		return base ? ratio_of_rests(g, own, other, base) : none;
	}
	if (t->of == CPU)
		return summarize_ratio(own->cpu, other->cpu, rounds);
	return summarize_ratio(own->ns, other->ns, rounds);
}

/* The worst of the sizes decides. */
static void print_target(const struct results *r, const struct target *t,
			 const char *arm)
{
	char what[80], least[FORMAT_LEN], most[FORMAT_LEN], at[FORMAT_LEN];
	struct summary s, worst = { 0, NAN, NAN, NAN, NAN };
	uint64_t where = 0;
	uint32_t i, met = 0, all = 0;
	const struct group *g;

	if ((t->of == INSTRUCTIONS) != r->icount)
		return;
	for (i = 0; i < r->count; i++) {
		g = r->group[i];
		if (g->mode != t->mode || g->size < t->least ||
		    g->size > t->most)
			continue;
		s = reached(r, g, t, arm);
		if (isnan(s.median))
			continue;
		all++;
		met += s.median <= t->limit;
		if (!(s.median <= worst.median)) {
			worst = s;
			where = g->size;
		}
	}
	if (!all)
		return;
	snprintf(what, sizeof(what), "%s %s%s%s, %s", mode_names[t->mode],
		 format_plain(least, t->least), t->most > t->least ? ".." : "",
		 t->most > t->least ? format_plain(most, t->most) : "",
		 policy_names[t->own]);
	fprintf(output,
		"  %-19s %-28s %-26s %6.3f  %7.3f [%.3f, %.3f] at %-5s %u of %u  %s\n",
		arm, what, t->what, t->limit, worst.median, worst.low,
		worst.high, format_plain(at, where), met, all,
		met == all ? "met" : "MISSED");
}

void print_targets(const struct results *r)
{
	size_t i;

	if (!r->count)
		return;
	fprintf(output,
		"\nTargets: ratios to another of the same round, median [95 %%], the "
		"worst size, sizes that meet it\n");
	fprintf(output, "  %-19s %-28s %-26s %6s\n", "arm", "work", "beside",
		"limit");
	for (i = 0; i < sizeof(targets) / sizeof(*targets); i++) {
		if (targets[i].arm) {
			print_target(r, &targets[i], targets[i].arm);
			continue;
		}
		print_target(r, &targets[i], "evering-device");
		/* Of connect alone, the channel without arenas. */
		print_target(r, &targets[i], "evering-device-ring");
		if (targets[i].of == INSTRUCTIONS)
			print_target(r, &targets[i], "enter");
		else
			print_target(r, &targets[i], "evering-memfd");
		print_target(r, &targets[i], "evering-memfd-ring");
	}
}
