// SPDX-License-Identifier: MIT
/*
 * Helpers of evering(1); util.h says what each is for.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

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
	uint64_t whole;

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

static bool parse_word(const char *text, const char *const *words,
		       uint32_t count, uint32_t *value)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		if (!strcmp(text, words[i])) {
			*value = i;
			return true;
		}
	}
	return false;
}

bool parse_backend(const char *text, uint32_t *backend)
{
	static const char *const words[] = { "auto", "device", "memfd" };

	return parse_word(text, words, 3, backend);
}

bool parse_policy(const char *text, uint32_t *policy)
{
	static const char *const words[] = { "adaptive", "block", "busy" };

	return parse_word(text, words, 3, policy);
}

int wrong_option(int opt, char **argv)
{
	const char *word = argv[optind - 1];
	const char *last = printable(word);

	/* optopt is a letter, or what a long option stands for, or 0. */
	if (!strncmp(word, "--", 2) || !optopt || optopt > 255)
		return opt == ':' ? usage_error("%s: needs a value", last) :
		       optopt	  ? usage_error("%s: takes no value", last) :
				    usage_error("unknown option '%s'", last);
	if (opt == ':')
		return usage_error("-%c: needs a value", optopt);
	return usage_error("unknown option '-%c'", optopt);
}

void find_remedy_for(int err, char *buf, size_t size)
{
	static const struct {
		int error;
		const char *text;
	} remedies[] = {
		{ EDQUOT, "a quota of the evering module: raise it in "
			  "/sys/module/evering/parameters, or use the backend "
			  "memfd" },
		{ ENFILE, "the whole system's limit: raise "
			  "/proc/sys/fs/file-max" },
		{ ENODEV, "/dev/evering is not there, or not for this user: "
			  "'evering doctor' tells, or use the backend memfd" },
		{ EINVAL, "is $EVERING_BACKEND memfd or device?" },
		{ E2BIG, "the listening side accepts no channel as large" },
		{ EADDRINUSE, "somebody listens there, or it is no socket: "
			      "use another path" },
		{ ENOENT, "nobody listens there, or the folder is missing" },
		{ ECONNREFUSED, "nobody listens there: start the listening "
				"side first" },
		{ ENOTDIR, "part of the path is no folder" },
		{ EACCES, "use a path that this user may use" },
		{ EPERM, "use a path that this user may use" },
		{ EROFS, "use a path in a folder that can be written to" },
		{ ENAMETOOLONG, "use a path of at most 107 bytes" },
		{ ENOMEM, "'evering doctor' tells what memory there is" },
		{ EFBIG, "raise the limit with 'ulimit -f unlimited'" },
		{ ETIMEDOUT, "the other side did not come, or is busy" },
		{ EPROTONOSUPPORT, "the sides speak different versions of the "
				   "ABI: is one of them an older build?" },
		{ EPROTO, "what came back does not speak evering" },
		{ ECONNRESET, "the other side went away" },
	};
	struct rlimit limit;
	size_t i;

	*buf = '\0';
	if (err == -EMFILE && !getrlimit(RLIMIT_NOFILE, &limit)) {
		snprintf(buf, size,
			 "the limit is %llu: raise it with 'ulimit -n 64'",
			 (unsigned long long)limit.rlim_cur);
		return;
	}
	for (i = 0; i < sizeof(remedies) / sizeof(*remedies); i++)
		if (remedies[i].error == -err)
			snprintf(buf, size, "%s", remedies[i].text);
}

void complain_error(const char *what, const char *path, int err)
{
	char remedy[160];

	find_remedy_for(err, remedy, sizeof(remedy));
	complain("%s%s%s: %s%s%s%s", what, path ? " " : "",
		 path ? printable(path) : "", strerror(-err),
		 *remedy ? " (" : "", remedy, *remedy ? ")" : "");
}

void print_json_string(FILE *out, const char *text)
{
	const unsigned char *c;

	/* Bytes, not characters: a name need not be UTF-8, JSON must. */
	putc('"', out);
	for (c = (const unsigned char *)text; *c; c++) {
		if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else if (*c < ' ' || *c >= 0x7f)
			fprintf(out, "\\u%04x", *c);
		else
			putc(*c, out);
	}
	putc('"', out);
}
