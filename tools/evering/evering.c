// SPDX-License-Identifier: MIT
/*
 * evering(1): one program, with a command for each thing that people want to do with
 * channels.  This file finds the command; each command has a file of its own.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <evering.h>

#include "process.h"
#include "util.h"

/*
 * The relay is a program of its own, so that the other commands need no libfabric.  It is
 * looked for beside this program, and then in $PATH.
 */
static int cmd_relay(int argc, char **argv)
{
	static const char name[] = "evering-relay";
	char path[PATH_MAX];
	char *slash;
	ssize_t len;

	(void)argc;
	set_command("evering relay");
	len = readlink("/proc/self/exe", path, sizeof(path) - sizeof(name));
	path[len > 0 ? len : 0] = 0;
	slash = strrchr(path, '/');
	if (slash) {
		strcpy(slash + 1, name);
		execv(path, argv);
	}
	execvp(name, argv);
	complain("cannot run %s: %s; is it installed? It needs libfabric", name,
		 strerror(errno));
	return EXIT_FAILURE;
}

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary; /* NULL: for other commands to call */
} commands[] = {
	{ "run", cmd_run, "hash a directory in another process, and time it" },
	{ "ping", cmd_ping, "time round trips to another process" },
	{ "pipe", cmd_pipe,
	  "send standard input to another process, and receive" },
	{ "cat", cmd_cat, "send standard input to another process, one way" },
	{ "top", cmd_top, "show the channels of this machine at work" },
	{ "doctor", cmd_doctor,
	  "check what this machine offers, and what it lacks" },
	{ "bench", cmd_bench, "time channels beside other ways, and compare" },
	{ "relay", cmd_relay, "connect channels to another machine" },
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
	      "       evering help [COMMAND]\n"
	      "       evering --help | --version\n"
	      "\n"
	      "Channels between processes, in shared memory.  'evering run' shows one at\n"
	      "work; 'evering doctor' checks this machine.\n"
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
		print_help(output);
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
		fprintf(output, "evering %s\n", evering_version());
		return EXIT_SUCCESS;
	}
	if (argv[1][0] == '-')
		return usage_error("unknown option '%s'", printable(argv[1]));
	cmd = find_command(argv[1]);
	if (!cmd)
		return unknown_command(argv[1]);
	return cmd->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	begin_process();
	return close_output(dispatch(argc, argv));
}
