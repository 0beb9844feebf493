/* SPDX-License-Identifier: MIT */
/*
 * What the commands of evering(1) have in common: messages, the parsing of
 * option values, time, numbers for people to read, and the line of progress on a
 * terminal.  For one thread, but for clock_ns().
 */
#ifndef UTIL_H
#define UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The commands: exit statuses are theirs to return. */
int cmd_bench(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);

enum {
	EXIT_USAGE = 2,
};

/* What messages begin with: "evering run". */
void set_command(const char *name);

/*
 * Prints one line, "evering run: ...", on standard error.  usage_error() adds
 * where to find help and returns EXIT_USAGE.
 */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * @text as it may be shown on a terminal: control characters, which a file name
 * may hold, are written as a shell would take them, $'like\nthis'.  What it returns
 * is valid until the next call.
 */
const char *printable(const char *text);

/*
 * Parse all of @text; false if it is anything else, or too large.  A size may end
 * in K, M or G, powers of 1024; seconds may have a fraction.
 */
bool parse_number(const char *text, uint64_t *value);
bool parse_size(const char *text, uint64_t *value);
bool parse_seconds(const char *text, int64_t *ns);

int64_t clock_ns(void); /* CLOCK_MONOTONIC */

/*
 * Numbers for people.  Each writes into @buf and returns it.
 *	format_count	1,234,567
 *	format_bytes	1.23 MB		powers of 1000, for amounts
 *	format_size	64 KiB		powers of 1024 without rounding, for settings
 *	format_time	12.3 us
 */
#define FORMAT_LEN 32
char *format_count(char buf[FORMAT_LEN], uint64_t n);
char *format_bytes(char buf[FORMAT_LEN], uint64_t n);
char *format_size(char buf[FORMAT_LEN], uint64_t n);
char *format_time(char buf[FORMAT_LEN], uint64_t ns);

/* If there is somebody to look at a line that changes. */
bool progress_wanted(void);
/*
 * Draws a bar and @text over what was drawn before.  @part is how much is done, of
 * 1; negative if that is not known.
 */
void progress_draw(double part, const char *text);
/* Takes the line away.  complain() calls it. */
void progress_erase(void);

#endif /* UTIL_H */
