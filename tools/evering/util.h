/* SPDX-License-Identifier: MIT */
/*
 * What the commands of evering(1) have in common: messages, the parsing of
 * option values, time, and numbers for people to read.  For one thread, but for
 * clock_ns().
 */
#ifndef UTIL_H
#define UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The commands: exit statuses are theirs to return. */
int cmd_bench(int argc, char **argv);
int cmd_cat(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_ping(int argc, char **argv);
int cmd_pipe(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_top(int argc, char **argv);

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
 * in K, M or G, powers of 1024; seconds may have a fraction, and may begin with it.
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
 *	format_plain	64K		the same as options take them
 *	format_time	12.3 us
 */
#define FORMAT_LEN 32
char *format_count(char buf[FORMAT_LEN], uint64_t n);
char *format_bytes(char buf[FORMAT_LEN], uint64_t n);
char *format_size(char buf[FORMAT_LEN], uint64_t n);
char *format_plain(char buf[FORMAT_LEN], uint64_t n);
char *format_time(char buf[FORMAT_LEN], uint64_t ns);

#endif /* UTIL_H */
