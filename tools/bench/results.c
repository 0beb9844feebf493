// SPDX-License-Identifier: MIT
/*
 * Results as JSON Lines: the first line says what measured them, each of the others
 * is a cell: what it took in every round, in "ns", "cpu_ns", "syscalls" and, the same
 * for all cells of a group, "floor_ns", with null for a round that is void; and, for
 * who reads no arrays, what these come to.  Of what is written here all but that
 * is read again.  If the first line says "icount":1, nanoseconds are instructions.
 */
#include <math.h>
#include <stdlib.h>

#include "../evering/json.h"
#include "../evering/options.h"
#include "bench.h"

struct group *find_group(const struct results *r, enum mode mode, uint64_t size)
{
	uint32_t i;

	for (i = 0; i < r->count; i++)
		if (r->group[i]->mode == mode && r->group[i]->size == size)
			return r->group[i];
	return NULL;
}

struct group *add_group(struct results *r, enum mode mode, uint64_t size)
{
	struct group *g = find_group(r, mode, size);

	if (g)
		return g;
	if (r->count == MAX_GROUPS)
		return NULL;
	g = calloc(1, sizeof(*g));
	if (!g) {
		complain("no memory");
		exit(EXIT_FAILURE);
	}
	g->mode = mode;
	g->size = size;
	r->group[r->count++] = g;
	return g;
}

struct cell *find_cell(const struct group *g, const char *arm, uint32_t policy)
{
	uint32_t i;

	for (i = 0; i < g->count; i++)
		if (!strcmp(g->cell[i]->arm, arm) &&
		    g->cell[i]->policy == policy)
			return g->cell[i];
	return NULL;
}

struct cell *add_cell(struct group *g, const char *arm, uint32_t policy)
{
	struct cell *c;

	if (g->count == MAX_CELLS)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c) {
		complain("no memory");
		exit(EXIT_FAILURE);
	}
	snprintf(c->arm, sizeof(c->arm), "%s", arm);
	c->policy = policy;
	g->cell[g->count++] = c;
	return c;
}

/* Writing ---------------------------------------------------------------- */

static void put_array(struct json *j, const char *key, const double *values,
		      uint32_t count)
{
	uint32_t i;

	json_open(j, key, '[');
	for (i = 0; i < count; i++)
		json_real(j, NULL, values[i]);
	json_close(j, ']');
}

static void put_buckets(struct json *j, const char *key, const struct hist *h)
{
	unsigned int i;

	json_open(j, key, '[');
	for (i = 0; i < HIST_BUCKETS; i++) {
		if (!h->bucket[i])
			continue;
		json_open(j, NULL, '[');
		json_number(j, NULL, hist_bucket_max(i));
		json_number(j, NULL, h->bucket[i]);
		json_close(j, ']');
	}
	json_close(j, ']');
}

static void put_hist(struct json *j, const struct hist *h)
{
	json_number(j, "p50_ns", hist_percentile(h, 50));
	json_number(j, "p99_ns", hist_percentile(h, 99));
	json_number(j, "p999_ns", hist_percentile(h, 99.9));
	json_number(j, "max_ns", h->max);
	put_buckets(j, "hist", h);
}

/* Turns of others that a quiet channel waited. */
static void put_waited(struct json *j, const struct hist *h)
{
	json_number(j, "p50_turns", hist_percentile(h, 50));
	json_number(j, "p99_turns", hist_percentile(h, 99));
	json_number(j, "max_turns", h->max);
	put_buckets(j, "turns", h);
}

static void put_cell(struct json *j, const struct group *g,
		     const struct cell *c)
{
	struct summary ns = summarize(c->ns, g->rounds);

	json_open(j, NULL, '{');
	json_text(j, "mode", mode_names[g->mode]);
	json_number(j, "size", g->size);
	json_text(j, "arm", c->arm);
	json_text(j, "policy", policy_names[c->policy]);
	json_number(j, "ops", c->ops);
	json_number(j, "void", c->voids);
	json_text(j, "error", c->error);
	json_real(j, "ns_median", ns.median);
	json_real(j, "ns_low", ns.low);
	json_real(j, "ns_high", ns.high);
	json_real(j, "ns_least", ns.least);
	json_real(j, "floor_ratio",
		  summarize_ratio(c->ns, g->floor, g->rounds).median);
	json_real(j, "cpu_s_per_million",
		  summarize(c->cpu, g->rounds).median / 1e3);
	json_real(j, "syscalls_per_op", summarize(c->calls, g->rounds).median);
	if (c->hist.count)
		put_hist(j, &c->hist);
	if (c->waited.count)
		put_waited(j, &c->waited);
	put_array(j, "ns", c->ns, g->rounds);
	put_array(j, "cpu_ns", c->cpu, g->rounds);
	put_array(j, "syscalls", c->calls, g->rounds);
	put_array(j, "floor_ns", g->floor, g->rounds);
	json_close(j, '}');
	json_end(j);
}

void write_results(const struct results *r, FILE *out)
{
	const double cpus[2] = { r->cpu[0], r->cpu[1] };
	struct json j = { .out = out, .compact = true };
	uint32_t i, k;

	json_open(&j, NULL, '{');
	json_number(&j, "evering_bench", 1);
	json_text(&j, "machine", r->machine);
	json_text(&j, "kernel", r->kernel);
	json_text(&j, "commit", r->commit);
	json_text(&j, "command", r->command);
	json_text(&j, "date", r->date);
	put_array(&j, "cpus", cpus, 2);
	json_number(&j, "depth", r->depth);
	json_number(&j, "icount", r->icount);
	json_close(&j, '}');
	json_end(&j);
	for (i = 0; i < r->count; i++)
		for (k = 0; k < r->group[i]->count; k++)
			put_cell(&j, r->group[i], r->group[i]->cell[k]);
}

/* Reading ---------------------------------------------------------------- */

/*
 * What follows "@key": in @line, or NULL.  Keys are those that are written above,
 * and inside of a text each quote has a backslash, so that none looks like one.
 */
static const char *value_of(const char *line, const char *key)
{
	char quoted[40];
	const char *at;

	snprintf(quoted, sizeof(quoted), "\"%s\":", key);
	at = strstr(line, quoted);
	return at ? at + strlen(quoted) : NULL;
}

static void get_text(const char *line, const char *key, char *to, size_t size)
{
	const char *at = value_of(line, key);
	unsigned int code;
	size_t n = 0;

	if (at && *at == '"')
		for (at++; *at && *at != '"' && n + 1 < size; at++) {
			/* A control character; what was no text stays '?'. */
			if (sscanf(at, "\\u%4x", &code) == 1) {
				to[n++] = code < 0x80 ? (char)code : '?';
				at += 5;
				continue;
			}
			if (*at == '\\' && at[1])
				at++;
			to[n++] = *at;
		}
	to[n] = '\0';
}

static uint64_t get_number(const char *line, const char *key)
{
	const char *at = value_of(line, key);

	return at ? strtoull(at, NULL, 10) : 0;
}

/* How many there were. */
static uint32_t get_array(const char *line, const char *key, double *values)
{
	const char *at = value_of(line, key);
	uint32_t count = 0;
	char *end;

	if (!at || *at++ != '[')
		return 0;
	while (*at && *at != ']' && count < MAX_ROUNDS) {
		if (!strncmp(at, "null", 4)) {
			values[count++] = NAN;
			at += 4;
		} else {
			values[count++] = strtod(at, &end);
			if (end == at)
				return 0;
			at = end;
		}
		at += *at == ',';
	}
	return count;
}

static void get_hist(const char *line, const char *key, const char *max,
		     struct hist *h)
{
	const char *at = value_of(line, key);
	unsigned long long value, count;
	int len;

	h->max = get_number(line, max);
	for (at = at ? at + 1 : "";
	     sscanf(at, "[%llu,%llu]%n", &value, &count, &len) == 2;
	     at += at[len] == ',' ? len + 1 : len) {
		h->bucket[hist_bucket(value)] += count;
		h->count += count;
	}
}

static bool find_name(const char *line, const char *key,
		      const char *const *names, uint32_t count, uint32_t *which)
{
	char name[NAME_LEN];

	get_text(line, key, name, sizeof(name));
	for (*which = 0; *which < count; ++*which)
		if (!strcmp(name, names[*which]))
			return true;
	return false;
}

static bool read_cell(struct results *r, const char *line)
{
	uint32_t mode, policy, rounds;
	char arm[NAME_LEN];
	struct group *g;
	struct cell *c;

	if (!find_name(line, "mode", mode_names, MODES, &mode) ||
	    !find_name(line, "policy", policy_names, POLICIES, &policy))
		return false;
	get_text(line, "arm", arm, sizeof(arm));
	g = add_group(r, (enum mode)mode, get_number(line, "size"));
	c = g && *arm ? add_cell(g, arm, policy) : NULL;
	if (!c)
		return false;
	rounds = get_array(line, "ns", c->ns);
	if (get_array(line, "cpu_ns", c->cpu) != rounds ||
	    get_array(line, "syscalls", c->calls) != rounds ||
	    get_array(line, "floor_ns", g->floor) != rounds ||
	    (g->rounds && g->rounds != rounds))
		return false;
	g->rounds = rounds;
	c->ops = get_number(line, "ops");
	c->voids = (uint32_t)get_number(line, "void");
	get_text(line, "error", c->error, sizeof(c->error));
	if (value_of(line, "hist"))
		get_hist(line, "hist", "max_ns", &c->hist);
	if (value_of(line, "turns"))
		get_hist(line, "turns", "max_turns", &c->waited);
	return true;
}

static bool read_header(struct results *r, const char *line)
{
	double cpus[MAX_ROUNDS] = { 0 };

	if (get_number(line, "evering_bench") != 1)
		return false;
	get_text(line, "machine", r->machine, sizeof(r->machine));
	get_text(line, "kernel", r->kernel, sizeof(r->kernel));
	get_text(line, "commit", r->commit, sizeof(r->commit));
	get_text(line, "command", r->command, sizeof(r->command));
	get_text(line, "date", r->date, sizeof(r->date));
	get_array(line, "cpus", cpus);
	r->cpu[0] = (int)cpus[0];
	r->cpu[1] = (int)cpus[1];
	r->depth = (uint32_t)get_number(line, "depth");
	r->icount = get_number(line, "icount");
	return true;
}

int read_results(struct results *r, const char *path)
{
	unsigned int number = 0;
	char *line = NULL;
	size_t size = 0;
	bool good = true;
	FILE *in = fopen(path, "re");

	if (!in) {
		complain("%s: %m", printable(path));
		return -1;
	}
	while (good && getline(&line, &size, in) > 0) {
		number++;
		good = number == 1 ? read_header(r, line) : read_cell(r, line);
	}
	if (!good || !number)
		complain("%s:%u: not a result of evering bench --output",
			 printable(path), number ? number : 1);
	free(line);
	fclose(in);
	return good && number ? 0 : -1;
}
