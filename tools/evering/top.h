/* SPDX-License-Identifier: MIT */
/*
 * What `evering top` has seen at one look: channels, and the servers that they belong
 * to.  top.c looks and shows, top_fold.c finds the servers.
 */
#ifndef TOP_H
#define TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <evering.h>

#define COMM_LEN 16

enum end_state {
	UNKNOWN,
	AWAKE,
	ASLEEP, /* for entries, or for space */
	NEW,
	DETACHED,
	CLOSED,
	GONE,
	END_STATES,
};

/* What one end says of itself, and what its ring looks like. */
struct end {
	pid_t pid; /* 0: no process that can be seen */
	unsigned int holders; /* processes that have it */
	char comm[COMM_LEN + 1];
	enum end_state state;
	bool counted; /* the numbers below are there */
	uint64_t group; /* of the device that it is a member of, or 0 */
	uint64_t arena; /* bytes of it that have memory */
	uint64_t sent; /* entries */
	uint64_t fill; /* entries sent and not yet released */
	uint64_t rings;
	uint64_t sleeps;
	uint64_t syscalls;
	/* a second, since the last look */
	double sent_rate;
	double rings_rate;
	double sleeps_rate;
	double quiet; /* part of the entries for which no doorbell was rung */
};

struct channel {
	bool device;
	uint64_t id;
	bool measured; /* the geometry is known */
	struct evering_geometry geometry;
	struct end end[2];
	double rate;
	size_t server; /* the number of its server from 1 on; 0: none */
	unsigned int server_end; /* EVERING_A or EVERING_B */
	size_t crowd; /* ends beside that one: for top_fold.c alone */
};

/* One side of all channels of a server: the server's ends, or those of its clients. */
struct side {
	struct end sum; /* without pid, state and group */
	uint64_t arena_size;
	double fullest; /* 0..1: how full the fullest ring is */
	size_t states[END_STATES];
};

/*
 * Many channels with one sleeper, as it seems: of the device, those with an end in one
 * group; else those with an end in one process.
 */
struct server {
	bool device;
	uint64_t group; /* or 0 */
	pid_t pid; /* 0: no process that can be seen */
	char comm[COMM_LEN + 1];
	size_t channels;
	size_t clients; /* processes that can be seen */
	struct side side[2]; /* its own, the clients' */
	double rate;
	size_t first; /* of its members: for top_fold.c alone */
	size_t members;
};

/* A group of the device, by its file. */
struct group {
	uint64_t id;
	pid_t pid; /* the first that has it */
	uint64_t members;
	char comm[COMM_LEN + 1];
};

struct list {
	void *items;
	size_t count;
	size_t room;
};

struct look {
	int64_t at;
	struct list channels;
	struct list servers;
	struct list groups;
	struct list infos; /* of the device's endpoints */
	struct list maps; /* of memfds */
	struct list members; /* ends of channels: for top_fold.c alone */
	unsigned int processes; /* that have channels */
	unsigned int hidden; /* that may have some, and cannot be looked into */
	unsigned int unread; /* channels whose memory may not be read */
};

/* @size bytes more, zeroed; NULL: no memory, and whatever it was is left out. */
void *list_add(struct list *list, size_t size);

/* Finds the servers of the channels; the busiest is the first. */
void find_servers(struct look *look);

#endif /* TOP_H */
