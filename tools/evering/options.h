/* SPDX-License-Identifier: MIT */
/*
 * Command lines: a table says which options a command has, where their values go and
 * what these may be, and one function reads them all.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#define SECOND 1000000000ll

enum option_kind {
	OPTION_FLAG, /* bool, or what @take does: no value */
	OPTION_TEXT, /* const char *: anything */
	OPTION_PLACE, /* const char *: of a Unix socket, at most @most bytes */
	OPTION_NUMBER, /* uint32_t or uint64_t, as all below but seconds */
	OPTION_SIZE, /* may end in K, M or G, powers of 1024 */
	OPTION_POWER, /* a size that is a power of two */
	OPTION_SECONDS, /* int64_t: nanoseconds */
	OPTION_BACKEND, /* uint32_t: enum evering_backend */
	OPTION_POLICY, /* uint32_t: enum evering_policy */
	OPTION_CALL, /* what @take makes of it */
	OPTION_ARGUMENT, /* const char *: what is no option; @name is for messages */
};

/**
 * struct option_spec - one option
 * @name: without "--"; NULL ends a table
 * @letter: for one "-", or 0
 * @kind: how a value is read
 * @offset, @width: of the field that it goes to; see FIELD()
 * @least, @most: what it may be; @most of 0: no limit
 * @want: what it must be, for people; NULL: as @kind, @least and @most have it
 * @take: takes @text, which stays valid, into @options; returns NULL, or what it
 *	must be
 */
struct option_spec {
	const char *name;
	char letter;
	enum option_kind kind;
	size_t offset;
	size_t width;
	uint64_t least;
	uint64_t most;
	const char *want;
	const char *(*take)(void *options, char *text);
};

#define FIELD(type, member) \
	.offset = offsetof(type, member), .width = sizeof(((type *)0)->member)

/* The words for values of OPTION_BACKEND and OPTION_POLICY. */
extern const char *const backend_names[];
extern const char *const policy_names[];

/*
 * Reads a command line into @options, which holds the defaults.  --help, -h, prints
 * @help.  Returns -1, or the status to exit with, having said why.
 */
int parse_options(const struct option_spec *specs, const char *help,
		  void *options, int argc, char **argv);

#endif /* OPTIONS_H */
