/* SPDX-License-Identifier: MIT */
/*
 * example.h: what examples have in common and none of them is about: what they say when
 * something fails, and their command lines.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

static const char *example_name;

/* What a reader of @error can do about it. */
static const char *remedy(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "is `%s serve` running, with the same --socket?";
	case -EADDRINUSE:
		return "stop who listens there, or choose another --socket";
	case -EACCES:
		return "choose a --socket that this user may use";
	case -ENAMETOOLONG:
		return "choose a --socket of at most 107 bytes";
	case -ETIMEDOUT:
		return "is the server stopped?";
	case -EPIPE:
	case -ESHUTDOWN:
	case -ECONNRESET:
		return "the other side is gone: start it again";
	case -EMSGSIZE:
		return "a TEXT has to fit an entry, which is 236 bytes";
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return "is it something else, or another version, that listens there?";
	case -EBADMSG:
		return "what came is not what was sent: report it";
	case -ENODEV:
		return "load evering.ko, or set EVERING_BACKEND=memfd";
	case -EINVAL:
		return "EVERING_BACKEND has to be device, memfd or not set";
	case -EMFILE:
	case -ENFILE:
		return "allow more descriptors with `ulimit -n`";
	case -EDQUOT:
		return "raise the quotas of evering.ko, or have fewer clients";
	case -ENOMEM:
		return "have fewer clients";
	default:
		return NULL;
	}
}

/* @advice: NULL: what there is for @error.  EXIT_FAILURE. */
static inline int fail_with(const char *what, int error, const char *advice)
{
	fprintf(stderr, "%s: %s: %s", example_name, what, strerror(-error));
	if (advice || remedy(error)) {
		fputs("; ", stderr);
		fprintf(stderr, advice ? "%s" : remedy(error),
			advice ? advice : example_name);
	}
	fputc('\n', stderr);
	return EXIT_FAILURE;
}

static inline int fail(const char *what, int error)
{
	return fail_with(what, error, NULL);
}

/* Descriptors and memory come back when clients go. */
static inline void say_waiting(struct evering_server *server, int error)
{
	(void)server;
	if (error)
		fail("accept", error);
}

static struct evering_server *example_server;

static inline void example_stop(int signal)
{
	(void)signal;
	evering_server_stop(example_server, SECOND);
}

/*
 * SIGINT and SIGTERM stop it, which may have been blocked when this was started.  Says
 * that it is ready.
 */
static inline void begin_serving(struct evering_server *server,
				 const char *where, const char *path)
{
	sigset_t none;

	example_server = server;
	signal(SIGINT, example_stop);
	signal(SIGTERM, example_stop);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	printf("%s %s\n", where, path);
	fflush(stdout);
}

/* Instead of evering_server_close(): from then on there is nothing for a signal to stop. */
static inline void end_serving(struct evering_server *server)
{
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	evering_server_close(server);
}

/**
 * struct setting - an option of the command line
 * @name: --NAME=...
 * @text: where a text goes; or else
 * @number, @most: where a number goes, which is 1..@most
 * @flag: or else what is set by the option alone
 */
struct setting {
	const char *name;
	const char **text;
	unsigned int *number;
	unsigned int most;
	bool *flag;
};

static inline unsigned int number_of(const struct setting *s, const char *text)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && value &&
	    value <= s->most)
		return (unsigned int)value;
	fprintf(stderr, "%s: --%s=%s: must be 1..%u\n", example_name, s->name,
		text, s->most);
	exit(2);
}

/* Takes the options away: what is left are the arguments.  @settings end with { 0 }. */
static inline char **read_options(int argc, char **argv, const char *usage,
				  const struct setting *settings)
{
	struct option options[16] = { { "help", no_argument, NULL, 'h' } };
	const char *slash = strrchr(argv[0], '/');
	int at, i;

	example_name = slash ? slash + 1 : argv[0];
	for (i = 0; settings[i].name; i++) {
		options[i + 1].name = settings[i].name;
		options[i + 1].has_arg = settings[i].flag ? no_argument :
							    required_argument;
	}
	while ((i = getopt_long(argc, argv, "+h", options, &at)) != -1) {
		if (i) {
			fputs(usage, i == 'h' ? stdout : stderr);
			exit(i == 'h' ? EXIT_SUCCESS : 2);
		}
		if (settings[at - 1].flag)
			*settings[at - 1].flag = true;
		else if (settings[at - 1].text)
			*settings[at - 1].text = optarg;
		else
			*settings[at - 1].number =
				number_of(&settings[at - 1], optarg);
	}
	return argv + optind;
}

static inline int bad_usage(const char *usage)
{
	fputs(usage, stderr);
	return 2;
}

#endif /* EXAMPLE_H */
