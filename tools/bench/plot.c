// SPDX-License-Identifier: MIT
/*
 * Diagrams, drawn by gnuplot from a script that holds the data: each as SVG and PNG.
 *
 *	MODE_all, MODE_first_5, MODE_mid_5, MODE_last_5
 *		time of an operation by size, as the original draws it
 *	many-*_all, many-*_cpu
 *		time of an operation, and CPU time of both sides, by the number of channels
 *	MODE_ratio
 *		how many times evering's time the others take, by size
 *	speed
 *		round trips of messages of three sizes, spinning and asleep; for the README
 *	rtt_SIZE, unpinned_SIZE, connect_SIZE
 *		the distribution of round trips, or of meetings
 *
 * Both axes are logarithmic: what is compared lies three powers of ten apart.  A
 * diagram has eight curves at most: evering's own, in colour, and in grey the others by
 * family, where the fastest member at each size counts, which is the one to beat.  The
 * script stays beside the diagrams, to be changed; the results have every arm.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../evering/options.h"
#include "bench.h"

#define SCRIPT "bench.gnuplot"
#define MAX_CURVES 8u
#define ANY POLICIES /* any wait policy */

/* Of a picture of 800 pixels, within the axes; and the room that a label takes. */
#define PLOT_WIDTH 690.0
#define LABEL_WIDTH 46.0

/**
 * struct family - what one curve stands for
 * @title: if it has more than one member, or evering's own
 * @members: names of arms; "" for those of no family
 * @policy: of its members, or ANY
 * @unless: an arm that makes this curve one too many
 */
static const struct family {
	const char *title;
	const char *members;
	uint32_t policy;
	const char *unless;
} families[] = {
	{ "evering, busy", "evering-device", EVERING_BUSY, NULL },
	{ "evering, busy", "evering-memfd", EVERING_BUSY, "evering-device" },
	{ "evering, adaptive", "evering-device", EVERING_ADAPTIVE, NULL },
	{ "evering, adaptive", "evering-memfd", EVERING_ADAPTIVE,
	  "evering-device" },
	{ "evering, block", "evering-device", EVERING_BLOCK, NULL },
	{ "evering, block", "evering-memfd", EVERING_BLOCK, "evering-device" },
#define OTHERS 6 /* the first that is not evering's */
	{ "Unix sockets",
	  "uds-epoll uds-epoll-good uds-uring uds-uring-good uds-stream "
	  "uds-seqpacket",
	  ANY, NULL },
	{ "shmipc", "shmipc", ANY, NULL },
	{ "iceoryx2", "iceoryx2", ANY, NULL },
	{ "queues between threads", "ck_ring rte_ring boost-spsc moodycamel",
	  ANY, NULL },
	{ "the kernel's wake-ups", "eventfd futex pipe seqpacket sched_yield",
	  ANY, NULL },
	{ "payload, no transport", "no-transport", ANY, NULL },
	{ "tokio, monoio", "tokio tokio-uring monoio", ANY, NULL },
	{ "ZeroMQ, nng, UCX, libfabric", "zeromq nng ucx libfabric", ANY,
	  NULL },
	{ "copies, no library", "two-copies copy-and-read", ANY, NULL },
	{ "scan", "scan", ANY, NULL },
	/* What evering is made of, and what it is no use to compare with. */
	{ NULL,
	  "evering-device evering-memfd evering-device-loop "
	  "evering-memfd-loop evering-device-call evering-memfd-call "
	  "evering-device-ring evering-memfd-ring no-group enter "
	  "ring-poll device memfd memfd-whole "
	  "cache-line",
	  ANY, NULL },
	{ "others", "", ANY, NULL },
};

#define FAMILIES (sizeof(families) / sizeof(*families))

/* In colour and thick, then in grey; none needs its colour to be told apart. */
static const char *const own_styles[] = {
	"lc rgb '#a00020' lw 4 pt 7 ps 1.1 dt 1",
	"lc rgb '#e06000' lw 3 pt 6 ps 1.2 dt 1",
	"lc rgb '#b08000' lw 3 pt 2 ps 1.1 dt 2",
};
static const char *const other_styles[] = {
	"lc rgb '#303030' lw 1.5 pt 5 ps 0.9 dt 1",
	"lc rgb '#707070' lw 1.5 pt 9 ps 1.1 dt 1",
	"lc rgb '#303030' lw 1.5 pt 4 ps 0.9 dt 2",
	"lc rgb '#707070' lw 1.5 pt 8 ps 1.1 dt 2",
	"lc rgb '#303030' lw 1.5 pt 13 ps 1.1 dt 4",
	"lc rgb '#707070' lw 1.5 pt 12 ps 1.1 dt 4",
	"lc rgb '#303030' lw 1.5 pt 1 ps 0.9 dt 3",
	"lc rgb '#707070' lw 1.5 pt 3 ps 0.9 dt 3",
};

/* The groups of a mode, by size. */
struct column {
	const struct group *group[MAX_GROUPS];
	uint32_t count;
};

/* The families that a diagram shows. */
struct curves {
	const struct family *family[FAMILIES];
	uint32_t count;
};

static int by_size(const void *a, const void *b)
{
	const struct group *const *x = a, *const *y = b;

	return ((*x)->size > (*y)->size) - ((*x)->size < (*y)->size);
}

static void gather(const struct results *r, enum mode mode, struct column *c)
{
	uint32_t i;

	c->count = 0;
	for (i = 0; i < r->count; i++)
		if (r->group[i]->mode == mode && r->group[i]->rounds)
			c->group[c->count++] = r->group[i];
	qsort(c->group, c->count, sizeof(c->group[0]), by_size);
}

static bool own(const struct family *f)
{
	return f < families + OTHERS;
}

static bool named(const struct family *f, const char *arm)
{
	return listed(arm, f->members);
}

static bool belongs(const struct family *f, const struct cell *c)
{
	size_t i;

	if (f->policy != ANY && f->policy != c->policy)
		return false;
	if (*f->members)
		return named(f, c->arm);
	for (i = 0; i < FAMILIES; i++)
		if (named(&families[i], c->arm))
			return false;
	return true;
}

/* What ratios are to: evering, spinning. */
static const struct cell *reference(const struct group *g)
{
	const struct cell *ref = find_cell(g, "evering-device", EVERING_BUSY);

	return ref ? ref : find_cell(g, "evering-memfd", EVERING_BUSY);
}

/* What a diagram is of. */
enum measure {
	TIME,
	RATIO,
	CPU
};

/* The fastest member, NULL if there is none; its @measure in *@value. */
static const struct cell *fastest(const struct family *f, const struct group *g,
				  enum measure measure, double *value)
{
	const struct cell *ref = reference(g), *best = NULL, *c;
	double one = NAN;
	uint32_t i;

	*value = NAN;
	for (i = 0; i < g->count; i++) {
		c = g->cell[i];
		if (!belongs(f, c) ||
		    (f->unless && find_cell(g, f->unless, c->policy)))
			continue;
		if (measure == TIME)
			one = summarize(c->ns, g->rounds).median;
		else if (measure == CPU)
			one = summarize(c->cpu, g->rounds).median;
		else if (ref)
			one = summarize_ratio(c->ns, ref->ns, g->rounds).median;
		if (!(one > 0) || one >= *value)
			continue;
		*value = one;
		best = c;
	}
	return best;
}

/* Different arms of the family among those that were measured. */
static uint32_t members(const struct family *f, const struct group *g,
			const char **name)
{
	const char *seen[MAX_CELLS];
	uint32_t i, j, count = 0;

	for (i = 0; i < g->count; i++) {
		if (!belongs(f, g->cell[i]))
			continue;
		for (j = 0; j < count && strcmp(seen[j], g->cell[i]->arm); j++)
			;
		if (j == count)
			seen[count++] = g->cell[i]->arm;
	}
	*name = count ? seen[0] : "";
	return count;
}

static void choose_curves(const struct group *const *groups, uint32_t count,
			  struct curves *curves)
{
	double value;
	uint32_t i;
	size_t f;

	curves->count = 0;
	for (f = 0; f < FAMILIES && curves->count < MAX_CURVES; f++) {
		if (!families[f].title)
			continue;
		for (i = 0; i < count; i++)
			if (fastest(&families[f], groups[i], TIME, &value))
				break;
		if (i < count)
			curves->family[curves->count++] = &families[f];
	}
}

/* Axes ------------------------------------------------------------------- */

static void begin(FILE *out, const char *name, const char *format)
{
	fprintf(out, "reset\nset encoding utf8\nset terminal %s noenhanced\n",
		*format == 's' ?
			"svg size 800,520 dynamic background rgb 'white' font 'sans,14'" :
			"pngcairo size 800,520 font 'sans,11'");
	fprintf(out,
		"set output '%s.%s'\nset logscale xy\nset grid lc rgb '#d0d0d0' lt 1\n"
		"set key below maxcols 2 Left reverse samplen 4 width 2\n"
		"set tics nomirror\nset border 3\n",
		name, format);
}

/* "1 ns", "20 µs", or "5×". */
static void put_tic(FILE *out, double value, bool ratio, bool first)
{
	static const char *const units[] = { "ns", "µs", "ms", "s" };
	double scaled = value;
	size_t unit = 0;

	if (ratio) {
		fprintf(out, "%s'%g×' %g", first ? "" : ", ", value, value);
		return;
	}
	for (; scaled >= 999 && unit < 3; unit++)
		scaled /= 1000;
	fprintf(out, "%s'%g %s' %g", first ? "" : ", ", scaled, units[unit],
		value);
}

/* The y axis, for values from @least to @most: 1, 10, ..., or 1, 2, 5, 10, ... */
static void put_y_axis(FILE *out, double least, double most, bool ratio)
{
	static const double steps[] = { 1, 2, 5 };
	size_t few = most / least > 100 ? 1 : 3, i;
	bool first = true;
	double decade;

	least /= 1.3;
	most *= 1.3;
	fprintf(out, "set yrange [%g:%g]\nset ytics (", least, most);
	for (decade = pow(10, floor(log10(least))); decade <= most;
	     decade *= 10)
		for (i = 0; i < few; i++) {
			if (decade * steps[i] < least ||
			    decade * steps[i] > most)
				continue;
			put_tic(out, decade * steps[i], ratio, first);
			first = false;
		}
	fputs(")\n", out);
}

/* The sizes, each with a mark, and with a label where there is room for one. */
static void put_x_axis(FILE *out, const struct group *const *groups,
		       uint32_t count)
{
	double least = (double)groups[0]->size;
	double most = (double)groups[count - 1]->size;
	double doublings = log2(most / least), last = -INFINITY, at;
	char size[FORMAT_LEN];
	uint32_t i;

	fprintf(out, "set xrange [%g:%g]\nset xtics (", least / 1.15,
		most * 1.15);
	for (i = 0; i < count; i++) {
		at = log2((double)groups[i]->size / least) * PLOT_WIDTH /
		     (doublings > 0 ? doublings : 1);
		*size = '\0';
		if (at - last >= LABEL_WIDTH) {
			format_plain(size, groups[i]->size);
			last = at;
		}
		fprintf(out, "%s'%s' %llu", i ? ", " : "", size,
			(unsigned long long)groups[i]->size);
	}
	fputs(")\n", out);
}

/* Curves ----------------------------------------------------------------- */

static void put_title(FILE *out, const struct family *f, const struct group *g,
		      const struct cell *only)
{
	const char *name;
	uint32_t count = members(f, g, &name);

	if (own(f))
		fprintf(out, "\"%s\"", f->title);
	else if (count < 2)
		fprintf(out, "\"%s\"",
			strcmp(name, "no-transport") ? name : f->title);
	else if (only)
		fprintf(out, "\"%s: %s\"", f->title, only->arm);
	else
		fprintf(out, "\"%s, fastest of %u\"", f->title, count);
}

static const char *style(const struct curves *curves, uint32_t which)
{
	uint32_t i, owns = 0;

	for (i = 0; i < which; i++)
		owns += own(curves->family[i]);
	return own(curves->family[which]) ? own_styles[owns % 3] :
					    other_styles[(which - owns) % 8];
}

/* The key, in order; what is drawn by then has the first curve last, and in front. */
static void put_key(FILE *out, const struct curves *curves,
		    const struct group *g, const struct cell *const *cell)
{
	uint32_t i;

	for (i = 0; i < curves->count; i++) {
		fprintf(out, ", \\\n\tkeyentry with linespoints %s title ",
			style(curves, i));
		put_title(out, curves->family[i], g, cell ? cell[i] : NULL);
	}
	fputc('\n', out);
}

static void draw_sizes(FILE *out, const struct column *col, enum mode mode,
		       const char *part, uint32_t first, uint32_t count,
		       const char *format)
{
	const struct group *const *groups = col->group + first;
	double value, least = INFINITY, most = 0;
	enum measure measure = !strcmp(part, "ratio") ? RATIO :
			       !strcmp(part, "cpu")   ? CPU :
							TIME;
	struct curves curves;
	uint32_t i, j;
	char name[64];

	choose_curves(groups, count, &curves);
	if (!curves.count)
		return;
	snprintf(name, sizeof(name), "%s_%s", mode_names[mode], part);
	begin(out, name, format);
	fputs("$data << END\n", out);
	for (i = 0; i < count; i++) {
		fprintf(out, "%llu", (unsigned long long)groups[i]->size);
		for (j = 0; j < curves.count; j++) {
			if (!fastest(curves.family[j], groups[i], measure,
				     &value)) {
				fputs(" NaN", out);
				continue;
			}
			fprintf(out, " %.6g", value);
			least = value < least ? value : least;
			most = value > most ? value : most;
		}
		fputc('\n', out);
	}
	fputs("END\n", out);
	if (!most)
		return;
	put_x_axis(out, groups, count);
	put_y_axis(out, least, most, measure == RATIO);
	fprintf(out, "set title '%s: %s, by %s'\nplot ", mode_names[mode],
		measure == RATIO ?
			"time of an operation beside that of evering, busy" :
		measure == CPU ? "CPU time of an operation, both sides" :
				 "time of an operation",
		many_channels(mode) ? "channels" : "bytes");
	for (j = curves.count; j--;)
		fprintf(out, "$data using 1:%u with linespoints %s notitle%s",
			j + 2, style(&curves, j), j ? ", \\\n\t" : "");
	put_key(out, &curves, groups[0], NULL);
}

static void draw_mode(FILE *out, const struct results *r, enum mode mode,
		      const char *format)
{
	struct column col;
	uint32_t n;

	gather(r, mode, &col);
	n = col.count;
	if (!n)
		return;
	draw_sizes(out, &col, mode, "all", 0, n, format);
	if (many_channels(mode)) {
		draw_sizes(out, &col, mode, "cpu", 0, n, format);
		return;
	}
	draw_sizes(out, &col, mode, "ratio", 0, n, format);
	if (n < 5)
		return;
	draw_sizes(out, &col, mode, "first_5", 0, 5, format);
	draw_sizes(out, &col, mode, "mid_5", (n - 5) / 2, 5, format);
	draw_sizes(out, &col, mode, "last_5", n - 5, 5, format);
}

/* Speed ------------------------------------------------------------------ */

static const uint64_t speed_sizes[] = { 64, 4 << 10, 1 << 20 };

#define SPEED_SIZES (sizeof(speed_sizes) / sizeof(*speed_sizes))

/* The rows of each size; a second name is of the same thing on machines without the first. */
static const struct speed_row {
	const char *title;
	const char *arms[2];
	uint32_t policy;
} speed_rows[] = {
	{ "evering, spinning",
	  { "evering-device", "evering-memfd" },
	  EVERING_BUSY },
	{ "Unix socket, spinning", { "uds-epoll-good" }, EVERING_BUSY },
	{ "iceoryx2, spinning", { "iceoryx2" }, EVERING_BUSY },
	{ "evering, asleep",
	  { "evering-device", "evering-memfd" },
	  EVERING_BLOCK },
	{ "Unix socket, asleep", { "uds-epoll-good" }, EVERING_BLOCK },
	{ "shmipc, asleep", { "shmipc" }, EVERING_BLOCK },
};

#define SPEED_ROWS (sizeof(speed_rows) / sizeof(*speed_rows))

/* NAN: not measured. */
static double speed_of(const struct group *g, const struct speed_row *row)
{
	const struct cell *c = NULL;
	unsigned int i;

	for (i = 0; i < 2 && row->arms[i] && !c; i++)
		c = find_cell(g, row->arms[i], row->policy);
	return c ? summarize(c->ns, g->rounds).median : NAN;
}

static bool is_ours(size_t row)
{
	return !strncmp(speed_rows[row].title, "evering", 7);
}

/* A block with the dots of evering, or of the others: place and time, of each size. */
static void put_dots(FILE *out, const struct group *const *groups, bool ours,
		     double *least, double *most)
{
	double ns, at = 0;
	size_t size, row;

	fprintf(out, "$%s << END\n", ours ? "ours" : "others");
	for (size = 0; size < SPEED_SIZES; size++, at++) {
		for (row = 0; row < SPEED_ROWS; row++, at++) {
			ns = speed_of(groups[size], &speed_rows[row]);
			if (isnan(ns)) {
				/* No row, so no room for it. */
				at--;
				continue;
			}
			*least = ns < *least ? ns : *least;
			*most = ns > *most ? ns : *most;
			if (is_ours(row) == ours)
				fprintf(out, "%g %g\n", at, ns);
		}
	}
	fputs("END\n", out);
}

/* The names of the rows, and the time of each right of its dot; how many rows there are. */
static double put_names(FILE *out, const struct group *const *groups,
			const char *format)
{
	char time[FORMAT_LEN], size_name[FORMAT_LEN];
	double ns, at = 0;
	size_t size, row;
	const char *comma = "";

	fputs("set ytics (", out);
	for (size = 0; size < SPEED_SIZES; size++, at++)
		for (row = 0; row < SPEED_ROWS; row++) {
			if (isnan(speed_of(groups[size], &speed_rows[row])))
				continue;
			fprintf(out, "%s\"%s\" %g", comma,
				speed_rows[row].title, at++);
			comma = ", ";
		}
	fputs(")\n", out);
	at = 0;
	for (size = 0; size < SPEED_SIZES; size++, at++) {
		fprintf(out,
			"set label \"%s each way\" at graph 0, "
			"first %g offset 1,0 front font 'sans,%d'\n",
			format_size(size_name, speed_sizes[size]), at - 0.95,
			*format == 's' ? 15 : 12);
		for (row = 0; row < SPEED_ROWS; row++) {
			ns = speed_of(groups[size], &speed_rows[row]);
			if (isnan(ns))
				continue;
			format_ns(time, ns, false);
			if (strstr(time, " us"))
				strcpy(strstr(time, " us"), " µs");
			fprintf(out,
				"set label \"%s\" at %g, %g offset 1.4,0 front\n",
				time, ns, at++);
		}
	}
	return at - 1;
}

/* Rows that no size has. */
static void put_missing(FILE *out, const struct group *const *groups)
{
	const char *comma = "";
	size_t size, row;
	bool any = false;

	for (row = 0; row < SPEED_ROWS; row++) {
		for (size = 0; size < SPEED_SIZES; size++)
			if (!isnan(speed_of(groups[size], &speed_rows[row])))
				break;
		if (size < SPEED_SIZES)
			continue;
		fprintf(out, "%s%s",
			any ? comma :
			      "set label \"not measured, as it is not here: ",
			speed_rows[row].title);
		comma = "; ";
		any = true;
	}
	if (any)
		fputs("\" at screen 0.98, screen 0.03 right\nset bmargin 4\n",
		      out);
}

static void draw_speed(FILE *out, const struct results *r, const char *format)
{
	const struct group *groups[SPEED_SIZES];
	double least = INFINITY, most = 0, rows;
	size_t i;

	for (i = 0; i < SPEED_SIZES; i++) {
		groups[i] = find_group(r, MODE_REQUEST, speed_sizes[i]);
		if (!groups[i] || !groups[i]->rounds)
			return;
	}
	begin(out, "speed", format);
	put_dots(out, groups, false, &least, &most);
	put_dots(out, groups, true, &least, &most);
	if (!most)
		return;
	put_y_axis(out, least, most, false);
	/* The axis of the time is the other one here. */
	fprintf(out,
		"set xrange [%g:%g]\nset logscale x\nunset logscale y\n"
		"set xtics ('100 ns' 1e2, '1 µs' 1e3, '10 µs' 1e4, '100 µs' 1e5, "
		"'1 ms' 1e6, '10 ms' 1e7)\nunset key\n",
		pow(10, floor(log10(least))), most * 6);
	rows = put_names(out, groups, format);
	put_missing(out, groups);
	fprintf(out,
		"set yrange [%g:-1.6]\nset grid x noy\n"
		"set title 'A message to another process and one back: less time is better'\n"
		"plot $others using 2:1 with points lc rgb '#404040' pt 6 ps %g lw 2, "
		"\\\n\t$ours using 2:1 with points lc rgb '#a00020' pt 7 ps %g\n",
		rows, *format == 's' ? 0.9 : 1.3, *format == 's' ? 1.1 : 1.7);
}

/* How much of all took longer: half, a hundredth, ... */
static void put_distribution(FILE *out, const struct hist *h, uint32_t number,
			     double *least, double *most)
{
	uint64_t seen = 0;
	unsigned int i;
	double ns;

	fprintf(out, "$rtt%u << END\n", number);
	for (i = 0; i < HIST_BUCKETS && seen < h->count; i++) {
		if (!h->bucket[i])
			continue;
		ns = (double)hist_bucket_max(i);
		fprintf(out, "%.6g %.6g\n",
			(double)h->count / (double)(h->count - seen), ns);
		seen += h->bucket[i];
		*least = ns < *least ? ns : *least;
		*most = ns > *most ? ns : *most;
	}
	fputs("END\n", out);
}

static void draw_rtt(FILE *out, const struct group *g, const char *format)
{
	double value, least = INFINITY, most = 0;
	const struct cell *cell[MAX_CURVES];
	char name[64], size[FORMAT_LEN];
	struct curves curves;
	uint32_t i;

	choose_curves(&g, 1, &curves);
	snprintf(name, sizeof(name), "%s_%s", mode_names[g->mode],
		 format_plain(size, g->size));
	begin(out, name, format);
	for (i = 0; i < curves.count; i++) {
		cell[i] = fastest(curves.family[i], g, TIME, &value);
		put_distribution(out, &cell[i]->hist, i, &least, &most);
	}
	if (!most)
		return;
	put_y_axis(out, least, most, false);
	fprintf(out,
		"set title '%s of %s bytes, by percentile'\n"
		"set xtics ('0' 1, '50' 2, '90' 10, '99' 100, '99.9' 1000, "
		"'99.99' 10000, '99.999' 100000)\nset xrange [1:*]\nplot ",
		g->mode == MODE_CONNECT ? "meetings" : "round trips", size);
	for (i = curves.count; i--;)
		fprintf(out,
			"$rtt%u with linespoints pointinterval 9 %s notitle%s",
			i, style(&curves, i), i ? ", \\\n\t" : "");
	put_key(out, &curves, g, cell);
}

static bool has_rtts(const struct group *g)
{
	uint32_t i;

	for (i = 0; i < g->count; i++)
		if (g->cell[i]->hist.count)
			return true;
	return false;
}

static void write_script(FILE *out, const struct results *r)
{
	static const char *const formats[] = { "svg", "png" };
	uint32_t i, j, mode;

	fprintf(out, "# evering bench --plot: %s, %s\n", r->commit, r->date);
	for (i = 0; i < 2; i++) {
		draw_mode(out, r, MODE_ORIGINAL, formats[i]);
		draw_mode(out, r, MODE_FAIR, formats[i]);
		draw_mode(out, r, MODE_STREAM, formats[i]);
		draw_mode(out, r, MODE_MESSAGE, formats[i]);
		draw_mode(out, r, MODE_REQUEST, formats[i]);
		draw_speed(out, r, formats[i]);
		for (mode = 0; mode < MODES; mode++)
			if (many_channels(mode))
				draw_mode(out, r, (enum mode)mode, formats[i]);
		for (j = 0; j < r->count; j++)
			if (has_rtts(r->group[j]) &&
			    !many_channels(r->group[j]->mode))
				draw_rtt(out, r->group[j], formats[i]);
	}
	fputs("set output\n", out);
}

static int run_gnuplot(const char *dir)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		complain("fork: %m");
		return -1;
	}
	if (!pid) {
		if (chdir(dir))
			_exit(1);
		execlp("gnuplot", "gnuplot", SCRIPT, NULL);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		complain("no gnuplot: install gnuplot-nox, or use %s/" SCRIPT
			 " elsewhere",
			 printable(dir));
	else if (status)
		complain("gnuplot failed: see what it says above");
	return status ? -1 : 0;
}

int plot_results(const struct results *r, const char *dir)
{
	char path[4096];
	FILE *out;

	if (mkdir(dir, 0777) && errno != EEXIST) {
		complain("%s: %m", printable(dir));
		return -1;
	}
	snprintf(path, sizeof(path), "%s/" SCRIPT, dir);
	out = fopen(path, "we");
	if (!out) {
		complain("%s: %m", printable(path));
		return -1;
	}
	write_script(out, r);
	if (ferror(out) | fclose(out)) {
		complain("%s: %m", printable(path));
		return -1;
	}
	return run_gnuplot(dir);
}
