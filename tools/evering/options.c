// SPDX-License-Identifier: MIT
/*
 * Command lines; options.h says what the functions are for.  The words are found by
 * getopt_long(3), the rest is done here.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <evering.h>

#include "options.h"
#include "process.h"
#include "util.h"

#define MAX_OPTIONS 32
#define LONG_OPTION 256 /* the first's value; letters are below */

const char *const backend_names[] = { "auto", "device", "memfd", NULL };
const char *const policy_names[] = { "adaptive", "block", "busy", NULL };

static bool parse_word(const char *text, const char *const *words,
		       uint64_t *value)
{
	for (*value = 0; words[*value]; ++*value)
		if (!strcmp(text, words[*value]))
			return true;
	return false;
}

static void store(const struct option_spec *spec, void *options, uint64_t value)
{
	char *field = (char *)options + spec->offset;

	if (spec->width == sizeof(uint32_t))
		*(uint32_t *)field = (uint32_t)value;
	else
		*(uint64_t *)field = value;
}

static void store_text(const struct option_spec *spec, void *options,
		       const char *text)
{
	*(const char **)((char *)options + spec->offset) = text;
}

/* What a value must be that is none, into @buf. */
static const char *wanted(const struct option_spec *spec, char buf[80])
{
	char a[FORMAT_LEN], b[FORMAT_LEN];
	uint64_t most = spec->most ? spec->most : UINT64_MAX;

	if (spec->want)
		return spec->want;
	switch (spec->kind) {
	case OPTION_PLACE:
		return "a path, or @NAME";
	case OPTION_BACKEND:
		return "auto, memfd or device";
	case OPTION_POLICY:
		return "adaptive, block or busy";
	case OPTION_SECONDS:
		snprintf(buf, 80, "%.10g..%.10g seconds",
			 (double)spec->least / SECOND, (double)most / SECOND);
		break;
	case OPTION_NUMBER:
		snprintf(buf, 80, "%llu..%llu", (unsigned long long)spec->least,
			 (unsigned long long)most);
		break;
	default:
		snprintf(buf, 80, "%s%s..%s",
			 spec->kind == OPTION_POWER ? "a power of two in " : "",
			 format_plain(a, spec->least), format_plain(b, most));
	}
	return buf;
}

/* Reads a value that is a number; false: it is none, or out of range. */
static bool parse_value(const struct option_spec *spec, const char *text,
			uint64_t *value)
{
	int64_t ns = 0;
	bool good;

	switch (spec->kind) {
	case OPTION_BACKEND:
		return parse_word(text, backend_names, value);
	case OPTION_POLICY:
		return parse_word(text, policy_names, value);
	case OPTION_NUMBER:
		good = parse_number(text, value);
		break;
	case OPTION_SECONDS:
		good = parse_seconds(text, &ns);
		*value = (uint64_t)ns;
		break;
	default:
		good = parse_size(text, value);
	}
	if (spec->kind == OPTION_POWER && good)
		good = *value && !(*value & (*value - 1));
	return good && *value >= spec->least &&
	       (!spec->most || *value <= spec->most);
}

/* A path that may name a socket: "@" alone has the kernel choose a name. */
static bool is_place(const struct option_spec *spec, const char *text)
{
	return *text && strcmp(text, "@") != 0 &&
	       (!spec->most || strlen(text) <= spec->most);
}

/* Takes one option; 0 or EXIT_USAGE. */
static int take_option(const struct option_spec *spec, void *options,
		       char *text)
{
	const char *want = NULL;
	char buf[80];
	uint64_t value = 0;

	switch (spec->kind) {
	case OPTION_FLAG:
		if (spec->take)
			spec->take(options, NULL);
		else
			*(bool *)((char *)options + spec->offset) = true;
		break;
	case OPTION_CALL:
		want = spec->take(options, text);
		break;
	case OPTION_PLACE:
		if (!is_place(spec, text))
			want = wanted(spec, buf);
		/* fallthrough */
	case OPTION_TEXT:
		store_text(spec, options, text);
		break;
	default:
		if (parse_value(spec, text, &value))
			store(spec, options, value);
		else
			want = wanted(spec, buf);
	}
	if (!want)
		return 0;
	return usage_error("--%s=%s: must be %s", spec->name, printable(text),
			   want);
}

/* What getopt_long() has returned '?' or ':' for. */
static int wrong_option(int opt, char **argv)
{
	const char *last = printable(argv[optind - 1]);

	/* optopt is a letter, or what a long option stands for, or 0. */
	if (optopt && optopt < LONG_OPTION && opt == ':')
		return usage_error("-%c: needs a value", optopt);
	if (optopt && optopt < LONG_OPTION)
		return usage_error("unknown option '-%c'", optopt);
	if (opt == ':')
		return usage_error("%s: needs a value", last);
	if (optopt)
		return usage_error("%s: takes no value", last);
	return usage_error("unknown option '%s'", last);
}

/* The rest of the line, which has one argument if @spec is there, or none. */
static int take_arguments(const struct option_spec *spec, void *options,
			  int argc, char **argv)
{
	if (optind < argc && !spec)
		return usage_error("'%s' is one argument too many",
				   printable(argv[optind]));
	if (argc - optind > 1)
		return usage_error("one %s only: '%s' is one too many",
				   spec->name, printable(argv[optind + 1]));
	if (optind < argc)
		store_text(spec, options, argv[optind]);
	return -1;
}

/* What getopt_long() wants to know of the options. */
struct words {
	struct option options[MAX_OPTIONS + 2];
	char letters[2 * MAX_OPTIONS + 4];
	const struct option_spec *argument;
};

static void make_words(const struct option_spec *specs, struct words *w)
{
	char *letter = stpcpy(w->letters, ":h");
	struct option *o = w->options;
	int i;

	*o++ = (struct option){ "help", no_argument, NULL, 'h' };
	for (i = 0; i < MAX_OPTIONS && specs[i].name; i++) {
		bool value = specs[i].kind != OPTION_FLAG;

		if (specs[i].kind == OPTION_ARGUMENT) {
			w->argument = &specs[i];
			continue;
		}
		*o++ = (struct option){ specs[i].name,
					value ? required_argument : no_argument,
					NULL, LONG_OPTION + i };
		if (specs[i].letter)
			*letter++ = specs[i].letter;
		if (specs[i].letter && value)
			*letter++ = ':';
	}
}

static const struct option_spec *spec_of(const struct option_spec *specs,
					 int opt)
{
	if (opt >= LONG_OPTION)
		return &specs[opt - LONG_OPTION];
	while (specs->letter != opt)
		specs++;
	return specs;
}

int parse_options(const struct option_spec *specs, const char *help,
		  void *options, int argc, char **argv)
{
	struct words words = { 0 };
	int opt, status;

	make_words(specs, &words);
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, words.letters, words.options,
				  NULL)) != -1) {
		if (opt == '?' || opt == ':')
			return wrong_option(opt, argv);
		if (opt == 'h') {
			fputs(help, output);
			return EXIT_SUCCESS;
		}
		status = take_option(spec_of(specs, opt), options, optarg);
		if (status)
			return status;
	}
	return take_arguments(words.argument, options, argc, argv);
}
