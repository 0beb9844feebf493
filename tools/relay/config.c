// SPDX-License-Identifier: MIT
/*
 * config.c: what a relay was told: a command line, and a file of the same options, one a line,
 * without the dashes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../evering/options.h"
#include "../evering/process.h"
#include "../evering/util.h"
#include "relay.h"

static const char help[] =
	"Usage: evering relay --listen=PATH --to=HOST:PORT/NAME...\n"
	"       evering relay --bind=HOST:PORT --serve=NAME=PATH...\n"
	"\n"
	"Connects channels to another machine, with a relay on each of the two.  A\n"
	"client connects to PATH as to a server on its own machine; the relay at HOST\n"
	"connects to the server.\n"
	"\n"
	"  -l, --listen=PATH        a Unix socket for clients; the --to behind it is\n"
	"                           where they get\n"
	"      --to=HOST:PORT/NAME  the relay to call, and the server to ask it for\n"
	"      --serve=NAME=PATH    a server here that other relays may ask for by NAME;\n"
	"                           NAME=PATH,ID,... is for these identities only\n"
	"      --bind=HOST:PORT     where other relays call             [127.0.0.1:7711]\n"
	"      --key=FILE           the secret of both sides: a line \"KEY\", or lines \"ID\n"
	"                           KEY\"; without one only this machine may call\n"
	"      --identity=ID        the key that this side calls with\n"
	"      --keepalive=SECONDS  a link that is silent for so long is lost        [3]\n"
	"      --patience=SECONDS   how long to wait for a server that does not listen\n"
	"                                                                            [5]\n"
	"      --channels=N         the most channels                             [1024]\n"
	"      --arena=SIZE         the most of each arena of a channel            [64M]\n"
	"      --backend=NAME       auto, memfd or device                         [auto]\n"
	"      --provider=NAME      provider of libfabric                          [tcp]\n"
	"      --config=FILE        options, one a line, without the dashes; SIGHUP has\n"
	"                           the file read again\n"
	"      --stats=SECONDS      print numbers so often; SIGUSR1: at once\n"
	"      --json               print the numbers as JSON, an object a line\n"
	"  -h, --help               print this text\n";

/* "HOST:PORT", where HOST may be "[ADDRESS]".  False: it is none. */
static bool split_address(const char *text, size_t len, char host[HOST_LEN],
			  char port[16])
{
	const char *colon = memrchr(text, ':', len), *end;
	size_t digits;
	uint64_t number;

	if (!colon || colon == text)
		return false;
	digits = len - (size_t)(colon + 1 - text);
	end = colon;
	if (*text == '[' && colon[-1] == ']') {
		text++;
		end--;
	}
	if (end == text || (size_t)(end - text) >= HOST_LEN || !digits ||
	    digits >= 16)
		return false;
	memcpy(host, text, (size_t)(end - text));
	host[end - text] = 0;
	memcpy(port, colon + 1, digits);
	port[digits] = 0;
	return parse_number(port, &number) && number && number < 65536;
}

static const char *take_listen(void *options, char *text)
{
	struct config *c = options;
	struct entrance_rule *rule = &c->entrance[c->entrances];

	if (c->half)
		return "behind the --to of the --listen before it";
	if (c->entrances == MAX_RULES)
		return "one of at most 64";
	if (!*text || strlen(text) >= sizeof(rule->path))
		return "a path of at most 107 bytes, or @NAME";
	strcpy(rule->path, text);
	c->half = true;
	return NULL;
}

static const char *take_to(void *options, char *text)
{
	static const char want[] = "HOST:PORT/NAME, NAME of at most 63 bytes";
	struct config *c = options;
	struct entrance_rule *rule = &c->entrance[c->entrances];
	const char *slash = strchr(text, '/');

	if (!c->half)
		return "behind a --listen";
	if (!slash || !slash[1] || strlen(slash + 1) >= WIRE_NAME ||
	    !split_address(text, (size_t)(slash - text), rule->host,
			   rule->port))
		return want;
	strcpy(rule->name, slash + 1);
	c->half = false;
	c->entrances++;
	return NULL;
}

static const char *take_serve(void *options, char *text)
{
	static const char want[] = "NAME=PATH or NAME=PATH,ID,...";
	struct config *c = options;
	struct service_rule *rule = &c->service[c->services];
	char *path = strchr(text, '='), *id, *next;
	unsigned int i;

	if (c->services == MAX_RULES)
		return "one of at most 64";
	if (!path || path == text || (size_t)(path - text) >= WIRE_NAME)
		return want;
	memset(rule, 0, sizeof(*rule));
	memcpy(rule->name, text, (size_t)(path - text));
	path++;
	id = strchr(path, ',');
	if (!id)
		id = path + strlen(path);
	if (id == path || (size_t)(id - path) >= sizeof(rule->path))
		return want;
	memcpy(rule->path, path, (size_t)(id - path));
	for (; *id; id = next) {
		id++;
		next = id + strcspn(id, ",");
		if (next == id || next - id >= WIRE_NAME ||
		    rule->count == MAX_ALLOWED)
			return want;
		memcpy(rule->allowed[rule->count++], id, (size_t)(next - id));
	}
	for (i = 0; i < c->services; i++)
		if (!strcmp(c->service[i].name, rule->name))
			return "of a name that no other --serve has";
	c->services++;
	return NULL;
}

static const char *take_bind(void *options, char *text)
{
	struct config *c = options;

	if (!split_address(text, strlen(text), c->host, c->port))
		return "HOST:PORT";
	c->bind = text;
	return NULL;
}

static const struct option_spec specs[] = {
	{ "listen", 'l', OPTION_CALL, .take = take_listen },
	{ "to", 0, OPTION_CALL, .take = take_to },
	{ "serve", 0, OPTION_CALL, .take = take_serve },
	{ "bind", 0, OPTION_CALL, .take = take_bind },
	{ "key", 0, OPTION_TEXT, FIELD(struct config, key_file) },
	{ "identity", 0, OPTION_TEXT, FIELD(struct config, identity) },
	{ "keepalive", 0, OPTION_SECONDS, FIELD(struct config, keepalive_ns),
	  .least = LEAST_KEEPALIVE, .most = 3600 * SECOND },
	{ "patience", 0, OPTION_SECONDS, FIELD(struct config, patience_ns),
	  .least = SECOND / 1000, .most = 3600 * SECOND },
	{ "channels", 0, OPTION_NUMBER, FIELD(struct config, most_channels),
	  .least = 1, .most = 65536 },
	{ "arena", 0, OPTION_SIZE, FIELD(struct config, most_arena),
	  .most = EVERING_MAX_ARENA },
	{ "backend", 0, OPTION_BACKEND, FIELD(struct config, backend) },
	{ "provider", 0, OPTION_TEXT, FIELD(struct config, provider) },
	{ "config", 0, OPTION_TEXT, FIELD(struct config, file) },
	{ "stats", 0, OPTION_SECONDS, FIELD(struct config, stats_ns),
	  .least = SECOND / 100, .most = 86400 * SECOND },
	{ "json", 0, OPTION_FLAG, FIELD(struct config, json) },
	{ 0 },
};

static void set_defaults(struct config *c)
{
	memset(c, 0, sizeof(*c));
	strcpy(c->host, "127.0.0.1");
	strcpy(c->port, "7711");
	c->identity = "";
	c->provider = "tcp";
	c->keepalive_ns = 3 * SECOND;
	c->patience_ns = 5 * SECOND;
	c->most_channels = 1024;
	c->most_arena = (uint64_t)64 << 20;
}

/* A line as an argument, or NULL.  Arguments stay: what was parsed points into them. */
static char *argument_of(char *line)
{
	char *end, *word = NULL;

	line += strspn(line, " \t");
	end = line + strlen(line);
	while (end > line && strchr(" \t\r\n", end[-1]))
		*--end = 0;
	if (!*line || *line == '#')
		return NULL;
	if (asprintf(&word, "--%s", line) < 0)
		return NULL;
	return word;
}

static int read_file(struct config *c, const char *path)
{
	char *args[MAX_WORDS + 2] = { NULL }, *line = NULL, *word;
	static char program[] = "evering relay";
	FILE *file = fopen(path, "re");
	size_t size = 0;
	int status;

	if (!file) {
		complain("cannot read %s: %s", printable(path),
			 strerror(errno));
		return EXIT_FAILURE;
	}
	while (c->words < MAX_WORDS && getline(&line, &size, file) >= 0) {
		word = argument_of(line);
		if (word)
			c->word[c->words++] = word;
	}
	free(line);
	status = ferror(file) || c->words == MAX_WORDS ? EXIT_FAILURE : -1;
	fclose(file);
	if (status >= 0) {
		complain(c->words == MAX_WORDS ? "%s has too many lines" :
						 "cannot read %s",
			 printable(path));
		return status;
	}
	c->file = NULL;
	/* A copy, whose order getopt_long(3) may change. */
	args[0] = program;
	memcpy(args + 1, c->word, c->words * sizeof(*args));
	status = parse_options(specs, help, c, (int)c->words + 1, args);
	if (status < 0 && c->file)
		status = usage_error("%s: 'config' has no place in it",
				     printable(path));
	else if (status >= 0)
		complain("in %s", printable(path));
	c->file = path;
	return status;
}

int config_read(struct config *c, int argc, char **argv)
{
	int status;

	set_defaults(c);
	status = parse_options(specs, help, c, argc, argv);
	if (status < 0 && c->file)
		status = read_file(c, c->file);
	if (status >= 0)
		return status;
	if (c->half)
		return usage_error("--listen=%s: needs a --to behind it",
				   printable(c->entrance[c->entrances].path));
	if (!c->entrances && !c->services)
		return usage_error(
			"nothing to do: needs --listen and --to, or --serve");
	if (c->bind && !c->services)
		return usage_error("--bind=%s: needs a --serve",
				   printable(c->bind));
	if (strlen(c->identity) >= WIRE_NAME)
		return usage_error("--identity: at most 63 bytes");
	return -1;
}

void config_free(struct config *c)
{
	while (c->words)
		free(c->word[--c->words]);
}

bool config_again(struct config *c, int argc, char **argv)
{
	if (config_read(c, argc, argv) < 0)
		return true;
	config_free(c);
	return false;
}
