// SPDX-License-Identifier: MIT
/*
 * Diagrams, drawn by gnuplot from a script that holds the data: each as SVG and PNG.
 *
 *	MODE_all, MODE_first_5, MODE_mid_5, MODE_last_5
 *		time of an operation by size, as the original draws it
 *	MODE_ratio
 *		how many times evering's time the others take, by size
 *	rtt_SIZE
 *		the distribution of round trips
 *
 * The script stays beside them, to be changed by whom it does not please.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../options.h"
#include "bench.h"

#define SCRIPT "bench.gnuplot"

/* The groups of a mode, by size. */
struct column {
	const struct group *group[MAX_GROUPS];
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

static bool drawn(const struct group *g, const struct cell *c)
{
	return summarize(c->ns, g->rounds).count > 0;
}

/* The arm, and how it waits where another cell of the group waits otherwise. */
static void label(FILE *out, const struct group *g, const struct cell *c)
{
	uint32_t i, cells = 0;

	for (i = 0; i < g->count; i++)
		cells += !strcmp(g->cell[i]->arm, c->arm);
	if (cells > 1)
		fprintf(out, "\"%s, %s\"", c->arm, policy_names[c->policy]);
	else
		fprintf(out, "\"%s\"", c->arm);
}

static void begin(FILE *out, const char *name, const char *format)
{
	fprintf(out, "set terminal %s\n",
		*format == 's' ?
			"svg size 1000,500 dynamic background rgb 'white'" :
			"pngcairo size 1000,500");
	fprintf(out, "set output '%s.%s'\n", name, format);
}

/* One line of data for each size: its name, and @value of each cell. */
static void put_data(FILE *out, const struct column *col, uint32_t first,
		     uint32_t count, bool ratios, double scale)
{
	const struct group *g, *names = col->group[first];
	const struct cell *c, *ref;
	char size[FORMAT_LEN];
	double value;
	uint32_t i, j;

	fputs("$data << END\n", out);
	for (i = first; i < first + count; i++) {
		g = col->group[i];
		fprintf(out, "\"%s\"", format_plain(size, g->size));
		ref = find_cell(g, "evering-device", EVERING_BUSY);
		if (!ref)
			ref = find_cell(g, "evering-memfd", EVERING_BUSY);
		for (j = 0; j < names->count; j++) {
			c = find_cell(g, names->cell[j]->arm,
				      names->cell[j]->policy);
			value = NAN;
			if (c && !ratios)
				value = summarize(c->ns, g->rounds).median /
					scale;
			else if (c && ref)
				value = summarize_ratio(c->ns, ref->ns,
							g->rounds)
						.median;
			if (isnan(value))
				fputs(" NaN", out);
			else
				fprintf(out, " %.6g", value);
		}
		fputc('\n', out);
	}
	fputs("END\n", out);
}

static void put_lines(FILE *out, const struct group *names)
{
	const char *comma = "plot ";
	uint32_t i;

	for (i = 0; i < names->count; i++) {
		if (!drawn(names, names->cell[i]))
			continue;
		fprintf(out,
			"%s$data using 0:%u:xtic(1) with linespoints dt %u title ",
			comma, i + 2, 1 + i / 8);
		label(out, names, names->cell[i]);
		comma = ", \\\n\t";
	}
	fputs("\n", out);
}

static void draw_sizes(FILE *out, const struct column *col, enum mode mode,
		       const char *part, uint32_t first, uint32_t count,
		       const char *format)
{
	bool ratios = !strcmp(part, "ratio");
	bool ns = !strcmp(part, "first_5");
	char name[64];

	snprintf(name, sizeof(name), "%s_%s", mode_names[mode], part);
	begin(out, name, format);
	fprintf(out,
		"set title '%s: %s'\nset xlabel 'bytes'\nset ylabel '%s'\n"
		"set key outside right\nset grid\n%s\nset xrange [*:*]\n"
		"set yrange [%s:*]\n",
		mode_names[mode],
		ratios ? "time beside evering, spinning" :
			 "time of an operation",
		ratios ? "ratio" :
		ns     ? "ns" :
			 "us",
		ratios ? "set logscale y" : "unset logscale",
		ratios ? "*" : "0");
	put_data(out, col, first, count, ratios, ns ? 1 : 1e3);
	put_lines(out, col->group[first]);
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
	draw_sizes(out, &col, mode, "ratio", 0, n, format);
	if (n < 5)
		return;
	draw_sizes(out, &col, mode, "first_5", 0, 5, format);
	draw_sizes(out, &col, mode, "mid_5", (n - 5) / 2, 5, format);
	draw_sizes(out, &col, mode, "last_5", n - 5, 5, format);
}

/* How much of all took longer: half, a hundredth, ... */
static void put_distribution(FILE *out, const struct hist *h, uint32_t number)
{
	uint64_t seen = 0;
	unsigned int i;

	fprintf(out, "$rtt%u << END\n", number);
	for (i = 0; i < HIST_BUCKETS && seen < h->count; i++) {
		if (!h->bucket[i])
			continue;
		fprintf(out, "%.6g %.6g\n",
			(double)h->count / (double)(h->count - seen),
			(double)hist_bucket_max(i) / 1e3);
		seen += h->bucket[i];
	}
	fputs("END\n", out);
}

static void draw_rtt(FILE *out, const struct group *g, const char *format)
{
	char name[64], size[FORMAT_LEN];
	const char *comma = "plot ";
	uint32_t i;

	for (i = 0; i < g->count; i++)
		put_distribution(out, &g->cell[i]->hist, i);
	snprintf(name, sizeof(name), "rtt_%s", format_plain(size, g->size));
	begin(out, name, format);
	fprintf(out,
		"set title 'round trips of %s bytes'\nset ylabel 'us'\n"
		"set xlabel 'percentile'\nset logscale xy\n"
		"set xtics ('0' 1, '50' 2, '90' 10, '99' 100, '99.9' 1000, "
		"'99.99' 10000, '99.999' 100000)\n"
		"set key outside right\nset grid\nset xrange [1:*]\n"
		"set yrange [*:*]\n",
		size);
	for (i = 0; i < g->count; i++) {
		if (!g->cell[i]->hist.count)
			continue;
		fprintf(out, "%s$rtt%u with steps lw 2 dt %u title ", comma, i,
			1 + i / 8);
		label(out, g, g->cell[i]);
		comma = ", \\\n\t";
	}
	fputs("\nset xtics autofreq\n", out);
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
	uint32_t i, j;

	fprintf(out, "# evering bench --plot: %s, %s\n", r->commit, r->date);
	fputs("set encoding utf8\n", out);
	for (i = 0; i < 2; i++) {
		draw_mode(out, r, MODE_ORIGINAL, formats[i]);
		draw_mode(out, r, MODE_FAIR, formats[i]);
		draw_mode(out, r, MODE_STREAM, formats[i]);
		for (j = 0; j < r->count; j++)
			if (has_rtts(r->group[j]))
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
