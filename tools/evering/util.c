// SPDX-License-Identifier: MIT
/*
 * Helpers of evering(1); util.h says what each is for.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "process.h"
#include "util.h"

static const char *command = "evering";

void set_command(const char *name)
{
	command = name;
}

static void vcomplain(const char *fmt, va_list args)
{
	progress_erase();
	/* One write for one line: the server complains in the same place. */
	flockfile(stderr);
	fprintf(stderr, "%s: ", command);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	fflush(stderr);
	funlockfile(stderr);
}

void complain(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vcomplain(fmt, args);
	va_end(args);
}

int usage_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vcomplain(fmt, args);
	va_end(args);
	fprintf(stderr, "Try '%s --help'.\n", command);
	return EXIT_USAGE;
}

const char *printable(const char *text)
{
	static char *shown;
	const unsigned char *in;
	char *out;
	bool plain = true;

	for (in = (const unsigned char *)text; *in; in++)
		plain &= *in >= ' ' && *in != 0x7f;
	if (plain)
		return text;

	free(shown);
	shown = malloc(4 * strlen(text) + sizeof("$''"));
	if (!shown)
		return "(no memory to show the name)";
	out = stpcpy(shown, "$'");
	for (in = (const unsigned char *)text; *in; in++) {
		if (*in == '\n')
			out = stpcpy(out, "\\n");
		else if (*in == '\t')
			out = stpcpy(out, "\\t");
		else if (*in == '\r')
			out = stpcpy(out, "\\r");
		else if (*in < ' ' || *in == 0x7f)
			out += sprintf(out, "\\%03o", *in);
		else if (*in == '\'' || *in == '\\')
			out += sprintf(out, "\\%c", *in);
		else
			*out++ = (char)*in;
	}
	strcpy(out, "'");
	return shown;
}

/* Reads digits, and nothing else: no sign, no space, no 0x. */
static const char *digits(const char *text, uint64_t *value)
{
	uint64_t n = 0;

	if (*text < '0' || *text > '9')
		return NULL;
	for (; *text >= '0' && *text <= '9'; text++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			return NULL;
	*value = n;
	return text;
}

bool parse_number(const char *text, uint64_t *value)
{
	text = digits(text, value);
	return text && !*text;
}

bool parse_size(const char *text, uint64_t *value)
{
	static const char units[] = "KMG";
	const char *unit;
	unsigned int shift = 0;

	text = digits(text, value);
	if (!text)
		return false;
	if (*text) {
		unit = strchr(units, *text & ~0x20);
		if (!unit || !*unit || text[1])
			return false;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (*value > UINT64_MAX >> shift)
		return false;
	*value <<= shift;
	return true;
}

bool parse_seconds(const char *text, int64_t *ns)
{
	int64_t unit = 1000000000;
	uint64_t whole = 0;

	if (*text != '.')
		text = digits(text, &whole);
	if (!text || whole > INT64_MAX / 1000000000 - 1)
		return false;
	*ns = (int64_t)whole * 1000000000;
	if (*text != '.')
		return !*text;
	for (text++; *text >= '0' && *text <= '9'; text++) {
		unit /= 10;
		*ns += (*text - '0') * unit;
	}
	return !*text && text[-1] != '.';
}

int64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

char *format_count(char buf[FORMAT_LEN], uint64_t n)
{
	char plain[FORMAT_LEN];
	char *out = buf;
	int i, len;

	len = snprintf(plain, sizeof(plain), "%llu", (unsigned long long)n);
	for (i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			*out++ = ',';
		*out++ = plain[i];
	}
	*out = '\0';
	return buf;
}

/* Three figures that count. */
static char *format_scaled(char buf[FORMAT_LEN], double value, const char *unit)
{
	int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;

	snprintf(buf, FORMAT_LEN, "%.*f %s", decimals, value, unit);
	return buf;
}

char *format_bytes(char buf[FORMAT_LEN], uint64_t n)
{
	static const char *const units[] = {
		"kB", "MB", "GB", "TB", "PB", "EB"
	};
	double value = (double)n / 1000;
	size_t i = 0;

	if (n < 1000) {
		snprintf(buf, FORMAT_LEN, "%u B", (unsigned int)n);
		return buf;
	}
	for (; value >= 999.5 && i < 5; i++)
		value /= 1000;
	return format_scaled(buf, value, units[i]);
}

char *format_size(char buf[FORMAT_LEN], uint64_t n)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB" };
	size_t i = 0;

	for (; n && n % 1024 == 0 && i < 3; i++)
		n /= 1024;
	snprintf(buf, FORMAT_LEN, "%llu %s", (unsigned long long)n, units[i]);
	return buf;
}

char *format_plain(char buf[FORMAT_LEN], uint64_t n)
{
	static const char units[] = { 0, 'K', 'M', 'G' };
	size_t i = 0;

	for (; n && n % 1024 == 0 && i < 3; i++)
		n /= 1024;
	snprintf(buf, FORMAT_LEN, "%llu%.1s", (unsigned long long)n, &units[i]);
	return buf;
}

char *format_time(char buf[FORMAT_LEN], uint64_t ns)
{
	if (ns < 1000) {
		snprintf(buf, FORMAT_LEN, "%u ns", (unsigned int)ns);
		return buf;
	}
	if (ns < 999500)
		return format_scaled(buf, (double)ns / 1e3, "us");
	if (ns < 999500000)
		return format_scaled(buf, (double)ns / 1e6, "ms");
	return format_scaled(buf, (double)ns / 1e9, "s");
}
