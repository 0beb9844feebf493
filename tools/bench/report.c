// SPDX-License-Identifier: MIT
/*
 * What people read: a table for each group, and what is different from an earlier result.
 */
#include <math.h>

#include "../evering/options.h"
#include "../evering/process.h"
#include "bench.h"

char *format_ns(char buf[FORMAT_LEN], double ns, bool icount)
{
	if (isnan(ns))
		snprintf(buf, FORMAT_LEN, "-");
	else if (icount)
		snprintf(buf, FORMAT_LEN, "%.0f", ns);
	else if (ns < 99.95)
		snprintf(buf, FORMAT_LEN, "%.1f ns", ns);
	else
		format_time(buf, (uint64_t)(ns + 0.5));
	return buf;
}

char *format_value(char buf[FORMAT_LEN], double value)
{
	if (isnan(value))
		snprintf(buf, FORMAT_LEN, "-");
	else
		snprintf(buf, FORMAT_LEN,
			 value < 9.995 ? "%.2f" :
			 value < 99.95 ? "%.1f" :
					 "%.0f",
			 value);
	return buf;
}

/* Tables ------------------------------------------------------------------ */

/* What others of a mode are compared with, if not with evering; NULL: with that. */
static const char *beside_what(enum mode mode)
{
	if (through_relay(mode))
		return "chain";
	if (mode == MODE_PORT)
		return "echo-read";
	return mode == MODE_EVNET_TO || mode == MODE_EVNET_FROM ? "tun" : NULL;
}

/*
 * What the others of a group are compared with: evering, waiting the same way; behind relays
 * the chain; where the kernel is the other side, what has a system call for each.
 */
static const struct cell *reference(const struct group *g, uint32_t policy)
{
	static const char *const names[] = { "evering-device",
					     "evering-memfd" };
	const struct cell *c = NULL;
	size_t i;

	if (beside_what(g->mode))
		return find_cell(g, beside_what(g->mode), EVERING_BLOCK);
	if (g->mode < MODE_RTT || g->mode == MODE_STREAM ||
	    g->mode == MODE_MESSAGE)
		policy = EVERING_BUSY;
	for (i = 0; i < 2 && !c; i++)
		c = find_cell(g, names[i], policy);
	/* A file may have evering in one way only. */
	for (i = 0; i < 2 && !c && g->mode == MODE_REQUEST; i++)
		c = find_cell(g, names[i], EVERING_BUSY);
	return c;
}

static const char *title(enum mode mode)
{
	static const char *const titles[] = {
		"requests in flight, two threads, connecting and first touch timed",
		"requests in flight, two processes, requests written anew",
		"one message there and one back",
		"messages one way",
		"one message there, and one back when no side spins any more; CPU of the client",
		"a channel with two arenas made and closed",
		"messages one way, a call for each, every byte read",
		"such a message there and one back",
		"one message there and one back, asleep, on any CPU",
		"connect, one message there and one back, close",
		"channels, a request and its answer at a time, on one at random",
		"channels, a request and its answer, in flight on the same 64",
		"channels, a request and its answer, in flight on each",
		"channels, a request and its answer, 8 in flight, few channels have most",
		"channels, a request of a quiet one, while the others flood",
		"one message there and one back through two relays, on any CPU",
		"messages one way through two relays, on any CPU",
		"bytes to a kernel module, and back from it",
		"frames from a process to the stack, in batches of 32",
		"frames from the stack to a process, in batches of 32",
	};

	return titles[mode];
}

static void print_head(const struct results *r, const struct group *g)
{
	char size[FORMAT_LEN], floor[FORMAT_LEN], beside[FORMAT_LEN];
	const char *what = beside_what(g->mode);

	fprintf(output, "\n%s %s: ", mode_names[g->mode],
		format_plain(size, g->size));
	if (g->mode < MODE_RTT)
		fprintf(output, "%u ", r->depth);
	fprintf(output, "%s; %u rounds", title(g->mode), g->rounds);
	if (r->icount)
		fprintf(output, "; in guest instructions\n");
	else
		fprintf(output, "; raw cache-line round trip %s\n",
			format_ns(floor, summarize(g->floor, g->rounds).median,
				  false));
	snprintf(beside, sizeof(beside), "x %s", what ? what : "evering");
	fprintf(output, "  %-19s %-8s %9s %21s %9s %8s %9s %9s %8s", "arm",
		"wait", "median", "95 %", "least", "x floor", beside,
		"CPU s/Mop", "calls/op");
	if (g->mode == MODE_EVNET_FROM)
		fprintf(output, " %10s", "less dummy");
	if (each_timed(g->mode) && !r->icount)
		fprintf(output, " %9s %9s %9s %9s", "p50", "p99", "p99.9",
			"max");
	if (g->mode == MODE_MANY_FLOOD)
		fprintf(output, " %9s %9s %9s", "turns p50", "p99", "max");
	fputc('\n', output);
}

static void print_percentiles(const struct hist *h)
{
	char buf[FORMAT_LEN];

	fprintf(output, " %9s", format_time(buf, hist_percentile(h, 50)));
	fprintf(output, " %9s", format_time(buf, hist_percentile(h, 99)));
	fprintf(output, " %9s", format_time(buf, hist_percentile(h, 99.9)));
	fprintf(output, " %9s", format_time(buf, h->max));
}

/* In a round: what an arm takes beyond @base. */
static struct summary summarize_rest(const struct group *g,
				     const struct cell *c,
				     const struct cell *base)
{
	double rest[MAX_ROUNDS];
	uint32_t i;

	for (i = 0; i < g->rounds; i++)
		rest[i] = c->ns[i] - base->ns[i];
	return summarize(rest, g->rounds);
}

/* What the stack takes to send is in each of these. */
static void print_rest(const struct results *r, const struct group *g,
		       const struct cell *c)
{
	const struct cell *base = find_cell(
		g, strstr(c->arm, "-udp") ? "dummy-udp" : "dummy", c->policy);
	char buf[FORMAT_LEN];

	fprintf(output, " %10s",
		base && base != c ?
			format_ns(buf, summarize_rest(g, c, base).median,
				  r->icount) :
			"-");
}

static void print_row(const struct results *r, const struct group *g,
		      const struct cell *c)
{
	const struct cell *ref = reference(g, c->policy);
	struct summary ns = summarize(c->ns, g->rounds);
	char a[FORMAT_LEN], b[FORMAT_LEN];
	double ratio = NAN, cpu;

	fprintf(output, "  %-19s %-8s", c->arm, policy_names[c->policy]);
	if (!ns.count) {
		fprintf(output, " %s%s\n",
			*c->error ? "void: " : "not measured", c->error);
		return;
	}
	fprintf(output, " %9s", format_ns(a, ns.median, r->icount));
	fprintf(output, " %10s..%-9s", format_ns(a, ns.low, r->icount),
		format_ns(b, ns.high, r->icount));
	fprintf(output, " %9s", format_ns(a, ns.least, r->icount));
	fprintf(output, " %8s",
		format_value(
			a, summarize_ratio(c->ns, g->floor, g->rounds).median));
	if (ref && ref != c)
		ratio = summarize_ratio(c->ns, ref->ns, g->rounds).median;
	fprintf(output, " %9s", format_value(a, ratio));
	cpu = summarize(c->cpu, g->rounds).median / 1e3;
	if (isnan(cpu))
		fprintf(output, " %9s", "-");
	else
		fprintf(output, " %9.3f", cpu);
	fprintf(output, " %8s",
		format_value(a, summarize(c->calls, g->rounds).median));
	if (g->mode == MODE_EVNET_FROM)
		print_rest(r, g, c);
	if (c->hist.count)
		print_percentiles(&c->hist);
	if (c->waited.count)
		fprintf(output, " %9llu %9llu %9llu",
			(unsigned long long)hist_percentile(&c->waited, 50),
			(unsigned long long)hist_percentile(&c->waited, 99),
			(unsigned long long)c->waited.max);
	if (c->voids)
		fprintf(output, "  (%u void: %s)", c->voids, c->error);
	fputc('\n', output);
}

void print_table(const struct results *r)
{
	const struct group *g;
	uint32_t i, j;

	fprintf(output, "%s; Linux %s; evering %s\n", r->machine, r->kernel,
		r->commit);
	fprintf(output, "CPU %d and %d; %s; %s\n", r->cpu[0], r->cpu[1],
		r->date, r->command);
	for (i = 0; i < r->count; i++) {
		g = r->group[i];
		print_head(r, g);
		for (j = 0; j < g->count; j++)
			print_row(r, g, g->cell[j]);
	}
	fprintf(output,
		"\nmedian and 95 %%: of rounds, %s of an operation; x floor, x evering, "
		"x chain,\nx echo-read, x tun: medians of ratios within a round; CPU: of both sides, and of "
		"their relays; calls: system\ncalls of both sides, counted where they are "
		"made.\n",
		r->icount ? "instructions" : "time");
}

/* Two results -------------------------------------------------------------- */

/*
 * Different beyond noise: the intervals of the medians do not touch.  A file that
 * was measured when the machine as a whole was faster shows that in its floor.
 */
static bool apart(const struct summary *a, const struct summary *b)
{
	return a->count && b->count && (a->low > b->high || a->high < b->low);
}

static void print_change(const struct group *g, const struct cell *c,
			 const struct summary *before,
			 const struct summary *now, bool icount)
{
	char size[FORMAT_LEN], a[FORMAT_LEN], b[FORMAT_LEN];

	fprintf(output, "  %-9s %-5s %-19s %-8s %10s -> %-10s %6.3f  %s\n",
		mode_names[g->mode], format_plain(size, g->size), c->arm,
		policy_names[c->policy], format_ns(a, before->median, icount),
		format_ns(b, now->median, icount), now->median / before->median,
		now->median < before->median ? "faster" : "SLOWER");
}

static void print_floors(const struct results *before,
			 const struct results *now)
{
	double was[MAX_GROUPS], is[MAX_GROUPS];
	struct summary a, b;
	uint32_t i, n = 0;
	struct group *g;

	for (i = 0; i < now->count; i++) {
		g = find_group(before, now->group[i]->mode,
			       now->group[i]->size);
		if (!g)
			continue;
		was[n] = summarize(g->floor, g->rounds).median;
		is[n++] = summarize(now->group[i]->floor, now->group[i]->rounds)
				  .median;
	}
	a = summarize(was, n);
	b = summarize(is, n);
	if (a.count && b.count)
		fprintf(output,
			"  the raw cache-line round trip: %.3f of what it was%s\n",
			b.median / a.median,
			fabs(b.median / a.median - 1) > 0.1 ?
				": the machine was another, or busy" :
				"");
}

void print_changes(const struct results *before, const struct results *now)
{
	uint32_t i, j, same = 0, changed = 0, alone = 0;
	const struct cell *c, *old;
	const struct group *g, *h;
	struct summary a, b;

	fprintf(output, "\nAgainst %s, evering %s, %s:\n", before->date,
		before->commit, before->machine);
	print_floors(before, now);
	for (i = 0; i < now->count; i++) {
		g = now->group[i];
		h = find_group(before, g->mode, g->size);
		for (j = 0; j < g->count; j++) {
			c = g->cell[j];
			old = h ? find_cell(h, c->arm, c->policy) : NULL;
			if (!old) {
				alone++;
				continue;
			}
			a = summarize(old->ns, h->rounds);
			b = summarize(c->ns, g->rounds);
			if (apart(&a, &b)) {
				print_change(g, c, &a, &b, now->icount);
				changed++;
			} else {
				same++;
			}
		}
	}
	fprintf(output,
		"  %u changed beyond noise, %u did not, %u are in one file only\n",
		changed, same, alone);
}
