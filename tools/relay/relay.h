/* SPDX-License-Identifier: MIT */
/*
 * relay.h: the parts of evering-relay(1): what it was told (config.c), the channels that it
 * passes on (channel.c), and the loop over all of it (main.c).
 */
#ifndef RELAY_RELAY_H
#define RELAY_RELAY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <evering.h>

#include "auth.h"
#include "link.h"
#include "wire.h"

#define MAX_RULES	64u
#define MAX_LINKS	64u
#define MAX_ALLOWED	16u
/* Names that a relay may have asked for, also before and after a SIGHUP. */
#define MAX_ASKED	(2 * MAX_RULES)
#define HOST_LEN	256u
#define MAX_WORDS	512u

/**
 * struct entrance - where clients of this machine come in
 * @path: where they connect
 * @host, @port: of the relay that is called
 * @name: what is asked for there
 */
struct entrance_rule {
	char path[108];
	char host[HOST_LEN];
	char port[16];
	char name[WIRE_NAME];
};

/**
 * struct service_rule - a server of this machine that others may reach
 * @name: as they call it
 * @path: where it listens
 * @allowed, @count: the identities that may; none: all that have a key
 */
struct service_rule {
	char name[WIRE_NAME];
	char path[108];
	char allowed[MAX_ALLOWED][WIRE_NAME];
	unsigned int count;
};

/**
 * struct config - what a relay was told
 */
struct config {
	struct entrance_rule entrance[MAX_RULES];
	unsigned int entrances;
	struct service_rule service[MAX_RULES];
	unsigned int services;
	bool half; /* a --listen that no --to has followed */
	const char *file;
	const char *bind;
	char host[HOST_LEN];
	char port[16];
	const char *key_file;
	const char *identity;
	const char *provider;
	int64_t keepalive_ns;
	int64_t patience_ns;
	int64_t stats_ns;
	uint32_t most_channels;
	uint64_t most_arena;
	uint32_t backend;
	bool json;
	char *word[MAX_WORDS]; /* of the file */
	unsigned int words;
};

/* Reads the command line, and the file that it names.  -1, or the status to exit with. */
int config_read(struct config *config, int argc, char **argv);
/* Reads the file again, beside @argv.  False: it is no good, which was said. */
bool config_again(struct config *config, int argc, char **argv);
void config_free(struct config *config);

/* What a group's event is of: the first member of each. */
enum source {
	SOURCE_CHANNEL,
	SOURCE_CONNECTING,
	SOURCE_ENTRANCE,
	SOURCE_LINK,
	SOURCE_EVENTS,
	SOURCE_ENGINE,
};

struct relay;
struct connection;

/**
 * struct entrance - an entrance that is there
 * @source: SOURCE_ENTRANCE
 * @rule: see there
 * @to: the connection to the other relay, while there is one
 * @listener: while the other relay serves the name; NULL: else
 * @asked: it was asked for it
 * @blocked: it could not be, there was no room in a message
 * @refused: why it does not, said once
 * @retry_at: when to ask again
 */
struct entrance {
	enum source source;
	struct entrance_rule rule;
	struct connection *to;
	struct evering_listener *listener;
	bool asked;
	bool blocked;
	int refused;
	int64_t retry_at;
};

/**
 * struct connection - a link, and the channels over it
 * @source: SOURCE_LINK
 * @link: NULL: it is to be called at @retry_at
 * @host, @port: whom this side calls; "": it was called
 * @watched: the link's descriptors are in the group
 * @channels: by number; those that @link.caller has made begin at 1
 * @count: room in @channels
 * @used: of it
 * @blocked: some channels wait for room in a message
 * @next: which of them is first the next time
 * @name, @asked: so many names are asked for and not answered
 * @back_ns: how long to wait before it is called again
 * @complained: its trouble was told
 * @ever: it was up once
 */
struct connection {
	enum source source;
	struct relay *relay;
	struct link *link;
	char host[HOST_LEN];
	char port[16];
	bool watched;
	enum source
		events; /* SOURCE_EVENTS: context of the event queue's descriptor */
	bool told; /* that descriptor is ready */
	bool was_up;
	struct channel **channels;
	uint32_t count;
	uint32_t used;
	bool blocked;
	uint32_t next;
	char name[MAX_ASKED][WIRE_NAME];
	unsigned int asked;
	int64_t retry_at;
	int64_t back_ns;
	bool complained;
	bool ever;
};

/**
 * struct channel - one side of a channel that crosses
 * @source: SOURCE_CHANNEL, or SOURCE_CONNECTING while the server is being reached
 * @number: over the link
 * @ev: this side; NULL: it is over here
 * @connecting, @connecting_fd: SOURCE_CONNECTING
 * @patience: until when to wait for the server
 * @geometry, @entries, @payload: of it
 * @name: of the service
 * @open: the other relay has it, too
 * @say_open, @say_opened, @say_end: what is to be said when there is room for it
 * @opened: for @say_opened: 0 or an errno
 * @verdict, @end: for @say_end
 * @ended, @over: this side has said that it is over, the other one has
 * @gone: the local peer has gone; what it had sent may still be there
 * @failed: it has broken the rules
 * @blocked: there was no room in a message
 * @filled: its ring was full, and the group tells when it is not
 * @ahead: entries that were passed on and not released
 * @released: of the local peer's entries, in all
 * @delivered, @reported: entries of the other side's that were put in the ring, and how many
 *	of them it was told to be released
 * @operations: the local peer has a table
 * @held: an entry that was taken, whose buffer is under way: from @at to @until
 */
struct channel {
	enum source source;
	uint32_t number;
	struct connection *connection;
	struct evering *ev;
	struct evering_connecting *connecting;
	int connecting_fd;
	int64_t patience;
	struct evering_geometry geometry;
	uint32_t entries;
	uint32_t payload;
	char name[WIRE_NAME];
	bool open;
	bool say_open;
	bool say_opened;
	bool say_end;
	int opened;
	int verdict;
	struct wire_end end;
	bool ended;
	bool over;
	bool gone;
	bool failed;
	bool blocked;
	bool filled;
	uint32_t ahead;
	uint32_t released;
	uint32_t delivered;
	uint32_t reported;
	bool operations;
	bool held;
	uint64_t at;
	uint64_t until;
	unsigned char entry[EVERING_MAX_SLOT];
};

struct totals {
	uint64_t entries[2]; /* sent over links, received from them */
	uint64_t bytes[2]; /* of buffers */
	uint64_t opened;
	uint64_t died;
	uint64_t lost;
	uint64_t refused;
};

/**
 * struct relay - all of it
 */
struct relay {
	struct config config;
	struct keys keys;
	struct link_settings settings;
	struct engine engine;
	enum source engine_source;
	bool listening;
	unsigned int vain_calls; /* since somebody called */
	int64_t paused_until; /* nobody who calls is heard until then, or 0 */
	struct evering_group *group;
	struct entrance
		*entrance[MAX_RULES]; /* a group knows them by their address */
	unsigned int entrances;
	struct connection *connection[MAX_LINKS];
	unsigned int connections;
	uint32_t channels;
	struct totals totals;
	int64_t stats_at;
};

/* channel.c */

/* A client has come in. */
void channel_begin(struct connection *c, const char *name, struct evering *ev);
/* What the group has to say of it. */
void channel_event(struct channel *ch, const struct evering_group_event *event);
void channel_connecting(struct channel *ch);
/* A message of the other relay's: 0, or -EPROTO. */
int channel_message(struct link *link, const unsigned char *data, size_t len,
		    void *context);
/* Those that waited for room in a message. */
void channels_unblock(struct connection *c);
/* The link is gone: all end, for @how. */
void channels_end(struct connection *c, int how);
/* The relay is about to end. */
void channels_leave(struct connection *c);

/* main.c */
void entrance_told(struct connection *c, const char *name, int error);
const struct service_rule *service_of(const struct relay *relay,
				      const struct connection *c,
				      const char *name, int *error);

#endif /* RELAY_RELAY_H */
