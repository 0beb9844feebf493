// SPDX-License-Identifier: MIT
/*
 * evering(1): one program, a command each for what people want to do with
 * channels.  This file finds the command; the commands have their own.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <evering.h>

#include "util.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary; /* NULL: not for people to call */
} commands[] = {
	{ "run", cmd_run, "hash a directory in another process, and time it" },
	{ "bench", cmd_bench, "time channels beside other ways, and compare" },
	{ "ping", cmd_ping, "time round trips to another process" },
	{ "pipe", cmd_pipe, "standard input to another process, and back" },
	{ "top", cmd_top, "show the channels of this machine at work" },
	{ "doctor", cmd_doctor, "say what this machine offers, and lacks" },
	{ "cat", cmd_cat, NULL }, /* pipe --one-way */
	{ "serve", cmd_serve, NULL },
};

static const struct command *find_command(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static int unknown_command(const char *name)
{
	return usage_error("unknown command '%s'", printable(name));
}

static void print_help(FILE *out)
{
	size_t i;

	fputs("Usage: evering COMMAND [OPTIONS] [ARGUMENTS]\n"
	      "       evering help COMMAND\n"
	      "       evering --help | --version\n"
	      "\n"
	      "Channels between processes, in shared memory.\n"
	      "\n"
	      "Commands:\n",
	      out);
	for (i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (commands[i].summary)
			fprintf(out, "  %-10s %s\n", commands[i].name,
				commands[i].summary);
}

static int help(int argc, char **argv)
{
	char help_option[] = "--help";
	char *args[] = { NULL, help_option, NULL };
	const struct command *cmd;

	if (argc > 2)
		return usage_error("help takes one command");
	if (argc < 2) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	cmd = find_command(argv[1]);
	if (!cmd || !cmd->summary)
		return unknown_command(argv[1]);
	args[0] = argv[1];
	return cmd->run(2, args);
}

static int dispatch(int argc, char **argv)
{
	const struct command *cmd;

	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "help"))
		return help(argc - 1, argv + 1);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help(1, argv);
	if (!strcmp(argv[1], "--version")) {
		printf("evering %s\n", evering_version());
		return EXIT_SUCCESS;
	}
	if (argv[1][0] == '-')
		return usage_error("unknown option '%s'", printable(argv[1]));
	cmd = find_command(argv[1]);
	if (!cmd)
		return unknown_command(argv[1]);
	return cmd->run(argc - 1, argv + 1);
}

/*
 * Whoever starts a program with 0, 1 or 2 closed would have it print into the next
 * file that it opens: shared memory, here.  Opened the wrong way round, they fail
 * with EBADF as a closed descriptor should.
 */
static void fill_standard_fds(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0)
			_exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
	int status;

	fill_standard_fds();
	/* A message is one write, so that two processes do not mix theirs. */
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	status = dispatch(argc, argv);
	if (fflush(stdout) || ferror(stdout)) {
		complain("standard output: %m");
		return status ? status : EXIT_FAILURE;
	}
	return status;
}
