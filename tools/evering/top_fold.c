// SPDX-License-Identifier: MIT
/*
 * The servers among the channels of evering top.
 *
 * The device says which group an endpoint is in.  For
 * memfds, and for endpoints in no group, only the process itself knows.  There the process
 * stands for the group: one that has many endpoints is a server, and the processes at the
 * other ends are its clients.  A
 * client that has several channels at one server is no server for that: a channel counts
 * where there are more.
 */
#include <stdlib.h>
#include <string.h>

#include "top.h"

/* With fewer channels there is nothing to fold. */
#define LEAST_CHANNELS 4u

/* An end of a channel, and where it belongs: to a group, or else to a process. */
struct member {
	bool device;
	uint64_t group;
	pid_t pid; /* 0 with a group */
	pid_t peer; /* the process at the other end */
	size_t channel;
	unsigned int end;
};

static int compare_places(const struct member *a, const struct member *b)
{
	if (a->device != b->device)
		return a->device < b->device ? -1 : 1;
	if (a->group != b->group)
		return a->group < b->group ? -1 : 1;
	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

/* The ends of one place together, and there those with the same peer. */
static int by_place(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	int order = compare_places(x, y);

	if (order)
		return order;
	if (x->peer != y->peer)
		return x->peer < y->peer ? -1 : 1;
	if (x->channel != y->channel)
		return x->channel < y->channel ? -1 : 1;
	return x->end < y->end ? -1 : x->end > y->end;
}

static void add_members(struct look *look)
{
	struct channel *c = look->channels.items;
	struct member *m;
	unsigned int end;
	size_t i;

	for (i = 0; i < look->channels.count; i++) {
		c[i].server = c[i].crowd = 0;
		for (end = 0; end < 2; end++) {
			const struct end *own = &c[i].end[end];

			if (!own->pid && !own->group)
				continue;
			m = list_add(&look->members, sizeof(*m));
			if (!m)
				return;
			m->device = c[i].device;
			m->group = own->group;
			m->pid = own->group ? 0 : own->pid;
			m->peer = c[i].end[!end].pid;
			m->channel = i;
			m->end = end;
		}
	}
}

/* How many members from @first on belong to the same place. */
static size_t place_size(const struct look *look, size_t first)
{
	const struct member *m = look->members.items;
	size_t i = first;

	while (i < look->members.count && !compare_places(&m[first], &m[i]))
		i++;
	return i - first;
}

/* Each channel goes to the end that has more beside it; B, which was met, if in doubt. */
static void choose_end(struct look *look, const struct member *m, size_t crowd)
{
	struct channel *c = look->channels.items;

	c += m->channel;
	/* What the kernel says comes before what is guessed. */
	if (m->group && crowd >= LEAST_CHANNELS)
		crowd += SIZE_MAX / 2;
	if (crowd < c->crowd || (crowd == c->crowd && m->end == EVERING_A))
		return;
	c->crowd = crowd;
	c->server_end = m->end;
}

static bool chosen(const struct look *look, const struct member *m)
{
	const struct channel *c = look->channels.items;

	return c[m->channel].server_end == m->end;
}

static void add_side(struct side *side, const struct channel *c, unsigned int i)
{
	const struct end *end = &c->end[i];
	struct end *sum = &side->sum;
	double full;

	side->states[end->state]++;
	if (c->measured)
		side->arena_size += c->geometry.arena_size[i];
	if (!end->counted)
		return;
	sum->counted = true;
	sum->arena += end->arena;
	sum->sent += end->sent;
	sum->fill += end->fill;
	sum->rings += end->rings;
	sum->sleeps += end->sleeps;
	sum->syscalls += end->syscalls;
	sum->sent_rate += end->sent_rate;
	sum->rings_rate += end->rings_rate;
	sum->sleeps_rate += end->sleeps_rate;
	full = (double)end->fill / (double)c->geometry.entries;
	if (full > side->fullest)
		side->fullest = full;
}

static void set_quiet(struct end *sum)
{
	if (sum->sent_rate > 0 && sum->sent_rate > sum->rings_rate)
		sum->quiet = 1 - sum->rings_rate / sum->sent_rate;
}

static void add_channel(struct server *server, const struct channel *c)
{
	const struct end *own = &c->end[c->server_end];

	server->channels++;
	server->rate += c->rate;
	if (!server->pid && own->pid) {
		server->pid = own->pid;
		memcpy(server->comm, own->comm, sizeof(server->comm));
	}
	add_side(&server->side[0], c, c->server_end);
	add_side(&server->side[1], c, !c->server_end);
}

/* What belongs to one place.  Too few channels are no server. */
static void add_server(struct look *look, size_t first, size_t count)
{
	const struct channel *c = look->channels.items;
	const struct member *m = look->members.items;
	struct server *server;
	size_t channels = 0, i;
	pid_t last = 0;

	m += first;
	for (i = 0; i < count; i++)
		channels += chosen(look, &m[i]);
	if (channels < LEAST_CHANNELS)
		return;
	server = list_add(&look->servers, sizeof(*server));
	if (!server)
		return;
	server->first = first;
	server->members = count;
	server->device = m->device;
	server->group = m->group;
	strcpy(server->comm, "?");
	for (i = 0; i < count; i++) {
		if (!chosen(look, &m[i]))
			continue;
		add_channel(server, &c[m[i].channel]);
		/* Those with the same peer stand together. */
		if (m[i].peer && m[i].peer != last)
			server->clients++;
		last = m[i].peer;
	}
	set_quiet(&server->side[0].sum);
	set_quiet(&server->side[1].sum);
}

static int by_rate(const void *a, const void *b)
{
	const struct server *x = a, *y = b;

	if (x->rate != y->rate)
		return x->rate > y->rate ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

/* Tells each channel which server it belongs to. */
static void number_servers(struct look *look)
{
	const struct server *server = look->servers.items;
	const struct member *m = look->members.items;
	struct channel *c = look->channels.items;
	size_t i, j;

	for (i = 0; i < look->servers.count; i++)
		for (j = server[i].first;
		     j < server[i].first + server[i].members; j++)
			if (chosen(look, &m[j]))
				c[m[j].channel].server = i + 1;
}

void find_servers(struct look *look)
{
	const struct member *m;
	size_t i, j, size;

	look->servers.count = look->members.count = 0;
	add_members(look);
	if (!look->members.count)
		return;
	qsort(look->members.items, look->members.count, sizeof(*m), by_place);
	m = look->members.items;
	for (i = 0; i < look->members.count; i += size) {
		size = place_size(look, i);
		for (j = i; j < i + size; j++)
			choose_end(look, &m[j], size);
	}
	for (i = 0; i < look->members.count; i += size) {
		size = place_size(look, i);
		add_server(look, i, size);
	}
	if (look->servers.count)
		qsort(look->servers.items, look->servers.count,
		      sizeof(struct server), by_rate);
	number_servers(look);
}
