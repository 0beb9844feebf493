/* SPDX-License-Identifier: MIT */
/*
 * link.h: the connection of two relays, by libfabric.  Who is at the other end, and records.
 *
 * Nothing here waits.  engine_ready() says whether the descriptors of all links may be slept
 * on, link_step() does what there is to do.
 */
#ifndef RELAY_LINK_H
#define RELAY_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rdma/fabric.h>

#include "auth.h"
#include "wire.h"

/* Messages under way, in each direction. */
#define LINK_MESSAGES 8u
/* Nanoseconds: the least that --keepalive takes. */
#define LEAST_KEEPALIVE 100000000ll

struct link;

/**
 * struct engine - libfabric, as far as links share it
 * @provider: its name, for fi_getinfo(3)
 * @fabric, @info: of what is listened at, or NULL
 * @pep, @eq, @eq_fd: likewise
 */
struct engine {
	const char *provider;
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_pep *pep;
	struct fid_eq *eq;
	int eq_fd;
};

enum link_state {
	LINK_CALLING, /* until the connection is there */
	LINK_GREETING, /* until both have proven the key */
	LINK_UP,
	LINK_DOWN,
};

/**
 * struct link_settings - what both kinds of links are told
 * @keys: of who may come, or the own; without any: none is asked for
 * @identity: the own
 * @keepalive_ns: after so long without a word the link is lost
 * @greeting_ns: how long a stranger has
 */
struct link_settings {
	const struct keys *keys;
	const char *identity;
	int64_t keepalive_ns;
	int64_t greeting_ns;
};

/**
 * struct buffer - a message, under way or not
 * @context: libfabric's, first
 * @busy: it has it
 * @len: bytes that mean something
 * @data: aligned to WIRE_ALIGN
 */
struct buffer {
	struct fi_context context;
	bool busy;
	size_t len;
	unsigned char *data;
};

/**
 * struct link
 * @state: see there; LINK_DOWN is for link_close()
 * @error: LINK_DOWN: why: -ENETRESET: no word for @keepalive_ns; -ECONNRESET: the other relay
 *	has gone; -EACCES: it has another key; -EPROTONOSUPPORT: it is of another version;
 *	-EPROTO: it broke the rules; or as its connection failed
 * @caller: this side has called
 * @identity: who called
 * @tail: the last record of the message that is being filled, or NULL
 * @heard, @said: when there was a word, last, in either direction
 * @looked, @late: link_step() was called, and when that was long overdue, last
 * @deadline: of the greeting
 * @message: is given each message of a link that is up; 0, or -EPROTO
 * @context: for it
 */
struct link {
	enum link_state state;
	int error;
	bool caller;
	const struct link_settings *settings;
	struct engine *engine;
	struct fi_info *info;
	struct fid_fabric *fabric;
	bool own_fabric;
	struct fid_domain *domain;
	struct fid_eq *eq;
	struct fid_cq *cq;
	struct fid_ep *ep;
	int eq_fd;
	int cq_fd;
	struct fid_mr *mr;
	unsigned char *memory;
	struct buffer in[LINK_MESSAGES];
	struct buffer out[LINK_MESSAGES];
	struct buffer *filling;
	struct wire_record *tail; /* the last record of it */
	struct wire_greeting hello;
	struct wire_greeting answer;
	enum wire_greeting_kind expected;
	char identity[WIRE_NAME];
	int64_t heard;
	int64_t said;
	int64_t looked;
	int64_t late;
	int64_t deadline;
	int64_t keepalive_ns;
	int64_t ping_ns;
	int (*message)(struct link *link, const unsigned char *data, size_t len,
		       void *context);
	void *context;
};

/*
 * Listens at @host and @port.  @loopback_only: refuses (-EACCES) what others than this
 * machine can reach.  0; -ENODEV: there is no such provider; -EADDRINUSE, -EADDRNOTAVAIL,
 * -ENOENT (no such host) and others, as libfabric has them.
 */
int engine_listen(struct engine *engine, const char *host, const char *port,
		  bool loopback_only);
/* Somebody calls: a link in LINK_CALLING, or NULL, and *@error 0 if nobody does. */
struct link *engine_answer(struct engine *engine,
			   const struct link_settings *settings, int *error);
/* May its descriptor be slept on? */
bool engine_idle(const struct engine *engine);
void engine_close(struct engine *engine);

int link_call(struct engine *engine, const char *host, const char *port,
	      const struct link_settings *settings, struct link **link);
/*
 * Does what there is to do; false: nothing.  Whether it is down @link->state says.  @events: its
 * event queue may have something, whose descriptor tells: each look at a queue takes system
 * calls.
 */
bool link_step(struct link *link, bool events);
/* May its descriptors be slept on?  False: link_step() first. */
bool link_idle(struct link *link);
/* What there is to do when time has passed; returns when the next time is. */
int64_t link_time(struct link *link, int64_t now);
void link_fail(struct link *link, int error);
void link_close(struct link *link);

/*
 * Room for a record with @len bytes behind it, which is filled in.  NULL: not now, and
 * link_step() will free some.  The record is sent by link_flush() at the latest.
 */
struct wire_record *link_record(struct link *link, uint32_t channel,
				enum wire_type type, uint32_t arg,
				uint32_t len);
/* How many bytes a record could have behind it in the message that is being filled. */
size_t link_room(const struct link *link);
/* Makes @record, which is the last, so many bytes longer; false: there is no room. */
bool link_extend(struct link *link, struct wire_record *record, uint32_t len);
void link_flush(struct link *link);

#endif /* RELAY_LINK_H */
