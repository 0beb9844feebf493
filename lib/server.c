// SPDX-License-Identifier: MIT
/*
 * server.c: serves many clients with callbacks, by a listener, a group, and a table of
 * operations for each client.
 *
 * listen.c decides which clients to accept, group.c finds which clients have something
 * to do, and answer.c keeps requests.  This file decides how long a turn is, what has
 * taken too long, and how a client ends.
 *
 * How a client ends
 *
 * To end a client, even from one of its own callbacks, is only to mark it and put it
 * into a list.  reap() empties that list when no table is on the stack: after each turn
 * of a client, and before a wait.  So no callback finds its memory freed, and there is
 * a single way in which clients end.
 *
 * What takes too long
 *
 * All requests have the same time limit, so kept requests are in a list by age.
 * Clients are in a list by when they last sent something.  The first in a list is the
 * next one due.  A client that had an answer since then is postponed when it is due.
 * answer.c calls @ended of struct ops when a request ends.
 *
 * A callback may take long.  So the clock is read when a time limit begins, and not
 * once for a whole turn.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "ops.h"

#define NEVER INT64_MAX
/* How long to wait for descriptors or memory, if no client ends meanwhile. */
#define PAUSE_NS 1000000000ll
#define MAX_BUDGET 65536u

/* A circular list in both directions, with a head. */
struct links {
	struct links *next;
	struct links *prev;
};

/**
 * struct kept - a request that is not answered yet, and has a time limit
 * @links: its links in struct evering_server.kept; the next is NULL if it is not there
 * @client: its client
 * @id: its number
 * @since: when it began
 */
struct kept {
	struct links links;
	struct client *client;
	uint64_t id;
	int64_t since;
};

/**
 * struct client - a client, with the part that the program does not see
 * @pub: the part for the program; first, so that one pointer serves for both
 * @links: its links in struct evering_server.clients
 * @dying: the next client that will end
 * @active: when it last sent something, or was postponed, if there is a time limit for
 *	that
 * @answered: when it last had an answer out of its turn, likewise
 * @kept: kept requests by index in the table; NULL: none was kept yet, or there is no
 *	time limit
 * @seen: how many entries were taken when @active was set
 * @late: how many requests, posts and messages it has sent since it was informed that
 *	the server will stop; or since the stop, if there was no room to inform it
 * @holds: holds of evering_client_hold(), plus 1 until it has ended
 * @turn: it has its turn, which ends with a flush
 * @closing: it will end
 * @why: why
 */
struct client {
	struct evering_client pub;
	struct links links;
	struct client *dying;
	int64_t active;
	int64_t answered;
	struct kept *kept;
	uint32_t seen;
	uint32_t late;
	unsigned int holds;
	bool turn;
	bool closing;
	int why;
};

/**
 * struct evering_server - a server
 * @params: the checked parameters; the structs that they pointed to are not kept there
 * @limits: what params.limits pointed to
 * @ops: what params.ops pointed to
 * @group_params: what params.group pointed to
 * @idle_ns: the time limit of clients; NEVER: none
 * @request_ns: the time limit of requests; NEVER: none
 * @owner: fork_id() of the process that has made it
 * @listener: NULL: there is none, or no longer
 * @group: contains @listener, unless @waiting, and the endpoints of all clients
 * @clients: all clients, those first that have been silent for longest
 * @count: how many there are
 * @kept: kept requests, the oldest first, if there is a time limit
 * @dying: the first client that will end
 * @last_dying: the last one
 * @spare: memory for the next client, so that none is accepted without memory for it
 * @opened: as in struct evering_server_info
 * @refused: as in struct evering_server_info
 * @waiting: 0, or why @listener is not in the group
 * @retry_at: when to try again, if no client ends before
 * @stop_at: 0: no stop; else evering_server_stop() was called, and this is when its
 *	time is up
 * @callers: how many threads are in evering_server_stop() and evering_server_wake()
 * @stopping: a turn has seen that
 * @turning: evering_server_wait() or the like is running
 * @callbacks: callbacks that are nested
 * @now: the time of the last look at what is due, if @timed
 * @timed: there are time limits
 */
struct evering_server {
	struct evering_server_params params;
	struct evering_params limits;
	struct evering_ops_params ops;
	struct evering_group_params group_params;
	int64_t idle_ns;
	int64_t request_ns;
	uint64_t owner;
	struct evering_listener *listener;
	struct evering_group *group;
	struct links clients;
	uint64_t count;
	struct links kept;
	struct client *dying;
	struct client **last_dying;
	struct client *spare;
	uint64_t opened;
	uint64_t refused;
	int waiting;
	int64_t retry_at;
	int64_t stop_at;
	unsigned int callers;
	bool stopping;
	bool turning;
	unsigned int callbacks;
	int64_t now;
	bool timed;
};

static void list_init(struct links *head)
{
	head->next = head->prev = head;
}

static void list_add(struct links *head, struct links *links)
{
	links->next = head;
	links->prev = head->prev;
	head->prev->next = links;
	head->prev = links;
}

static void list_remove(struct links *links)
{
	links->next->prev = links->prev;
	links->prev->next = links->next;
	links->next = NULL;
}

static struct client *client_at(const struct links *links)
{
	return (struct client *)((uintptr_t)links -
				 offsetof(struct client, links));
}

static struct kept *kept_at(const struct links *links)
{
	return (struct kept *)((uintptr_t)links - offsetof(struct kept, links));
}

static struct client *to_client(const struct evering_client *client)
{
	return (struct client *)(uintptr_t)client;
}

static bool is_own(const struct evering_server *s)
{
	return s->owner == fork_id();
}

/* Adds a time limit to a time, without overflow. */
static int64_t after(int64_t since, int64_t ns)
{
	return ns == NEVER ? NEVER : since + ns;
}

/* ------------------------------------------------------------ requests, kept */

static void forget_kept(struct client *c, uint32_t index)
{
	if (c->kept && c->kept[index].links.next)
		list_remove(&c->kept[index].links);
}

/* The server stops: a client that waits for no answer ends, others are informed. */
static void end_or_leave(struct client *c)
{
	struct ops *ops = to_ops(c->pub.ops);

	if (!ops->pub.holding)
		evering_client_close(&c->pub, -ESHUTDOWN);
	else if (ops->peer_outlives && ops_leave(ops))
		c->late = 0;
}

/* A request was answered, or can no longer be answered. */
static void request_ended(struct ops *ops, uint32_t index)
{
	struct client *c = ops->context;
	struct evering_server *s = c->pub.server;

	forget_kept(c, index);
	if (c->turn)
		return;
	/* Do not move it in the list: the program may be going through the list. */
	if (s->idle_ns != NEVER)
		c->answered = now_ns();
	/* The client may sleep, and its table may not be looked at for long. */
	if (s->turning)
		ops_flush(ops);
	else
		evering_ops_flush(&ops->pub);
	if (s->stopping)
		end_or_leave(c);
}

/* A callback has returned without an answer. */
static void keep(struct client *c, uint64_t id)
{
	struct evering_server *s = c->pub.server;
	struct ops *ops = to_ops(c->pub.ops);
	uint32_t index = (uint32_t)id & ops->pub.held_mask;
	struct kept *kept;

	if (!answer_keep(ops, id) || s->request_ns == NEVER)
		return;
	if (!c->kept)
		c->kept = calloc(ops->pub.held_mask + 1, sizeof(*c->kept));
	if (!c->kept) {
		evering_client_close(&c->pub, -ENOMEM);
		return;
	}
	kept = &c->kept[index];
	if (kept->links.next)
		return;
	*kept = (struct kept){ .client = c, .id = id, .since = now_ns() };
	list_add(&s->kept, &kept->links);
}

/* Ends with @why what the program has kept. */
static void end_request(struct client *c, uint64_t id, int why)
{
	struct evering_server *s = c->pub.server;
	struct ops *ops = to_ops(c->pub.ops);

	forget_kept(c, (uint32_t)id & ops->pub.held_mask);
	if (s->params.cancelled) {
		s->callbacks++;
		s->params.cancelled(&c->pub, id, why);
		s->callbacks--;
	}
	/* If the callback has not answered it. */
	evering_op_answer(&ops->pub, id, why, NULL, 0);
}

/* ------------------------------------------------- what the table of a client calls */

/* Answers without a callback. */
static void refuse_request(struct client *c,
			   const struct evering_request *request, int error)
{
	if (request->flags & EVERING_GIVE)
		evering_free(c->pub.ev, request->buf);
	if (request->id)
		evering_op_answer(c->pub.ops, request->id, error, NULL, 0);
}

/*
 * Whether the program gets no new entries of this client.  A client that was informed
 * that the server will stop sends nothing new once it knows, which is when it has taken
 * what was sent to it before.  A client that continues would keep the server from
 * stopping.
 */
static bool is_refused(struct client *c)
{
	const struct evering_server *s = c->pub.server;
	const struct ops *ops = to_ops(c->pub.ops);
	uint32_t rings;

	if (c->closing || !ops->peer_outlives)
		return true;
	/*
	 * Two full rings may be under way.  A client that was not informed may continue
	 * for long.
	 */
	rings = ops->leaves ? 4 : 1024;
	if (s->stopping && c->late++ > rings * (c->pub.ev->rx.mask + 1)) {
		evering_client_close(&c->pub, -EPROTO);
		return true;
	}
	return false;
}

static void on_request(struct evering_ops *table,
		       const struct evering_request *request, void *context)
{
	struct client *c = context;
	struct evering_server *s = c->pub.server;
	uint64_t id = request->id;

	if (EVERING_UNLIKELY(s->stopping || c->closing || !s->params.request) &&
	    (!s->params.request || is_refused(c))) {
		refuse_request(c, request,
			       s->params.request ? -ESHUTDOWN : -EOPNOTSUPP);
		return;
	}
	s->callbacks++;
	s->params.request(&c->pub, request);
	s->callbacks--;
	if (table->held[id & table->held_mask].plain)
		keep(c, id);
}

/*
 * The client takes no answers, and sends requests.  Its requests would be kept for
 * ever; they must not take places from others, or keep the server from stopping.
 */
static void on_no_room(struct ops *ops)
{
	struct client *c = ops->context;

	evering_client_close(&c->pub, -EPROTO);
}

static void on_message(struct evering_ops *table, const struct evering_msg *msg,
		       void *context)
{
	struct client *c = context;
	struct evering_server *s = c->pub.server;

	if ((s->stopping || c->closing || !s->params.message) &&
	    (!s->params.message || is_refused(c))) {
		evering_msg_free(table, msg);
		return;
	}
	s->callbacks++;
	s->params.message(&c->pub, msg);
	s->callbacks--;
}

static void on_cancelled(struct evering_ops *table, uint64_t id, void *context)
{
	struct client *c = context;
	struct evering_server *s = c->pub.server;

	(void)table;
	if (c->closing || !s->params.cancelled)
		return;
	s->callbacks++;
	s->params.cancelled(&c->pub, id, -ECANCELED);
	s->callbacks--;
}

/* ----------------------------------------------------------- clients come and go */

static void tell_waiting(struct evering_server *s, int error)
{
	s->waiting = error;
	if (!s->params.waiting)
		return;
	s->callbacks++;
	s->params.waiting(s, error);
	s->callbacks--;
}

/*
 * Whether one more client may be accepted.  Lanes that were granted always are: their
 * client uses them, and would wait for ever if one waited for another client to end.
 */
static bool has_room(const struct evering_server *s)
{
	return s->count < s->params.clients || listener_has_lanes(s->listener);
}

/* Accepts clients again, if that was suspended. */
static void accept_again(struct evering_server *s)
{
	if (!s->waiting || !s->listener || !has_room(s))
		return;
	if (evering_group_add_listener(s->group, s->listener, &s->listener))
		s->retry_at = now_ns() + PAUSE_NS;
	else
		tell_waiting(s, 0);
}

/*
 * Suspends accepting, because there is no room, so that the listener does not wake the
 * group for nothing.
 */
static void accept_later(struct evering_server *s, int error)
{
	s->retry_at = error == -EUSERS ? NEVER : now_ns() + PAUSE_NS;
	if (s->waiting)
		return;
	evering_group_remove_listener(s->group, s->listener);
	tell_waiting(s, error);
}

/*
 * The error that its requests end with.  It is always an error because they were not
 * done, and never -ECANCELED, after which they would still have to be answered.
 */
static int reason_of(int why)
{
	return why < 0 && why != -ECANCELED ? why : -ESHUTDOWN;
}

/*
 * Removes the client from all lists; its endpoint is not closed.  @quiet: the program
 * never saw it.
 */
static void end_client(struct client *c, bool quiet)
{
	struct evering_server *s = c->pub.server;
	uint32_t at = 1;
	uint64_t id;

	while ((id = answer_next_kept(to_ops(c->pub.ops), &at)))
		end_request(c, id, reason_of(c->why));
	s->callbacks++;
	evering_ops_close(c->pub.ops);
	c->pub.ops = NULL;
	if (!quiet && s->params.close)
		s->params.close(&c->pub, c->why);
	s->callbacks--;
	evering_group_remove(s->group, c->pub.ev);
	list_remove(&c->links);
	s->count--;
	free(c->kept);
}

void evering_client_hold(struct evering_client *client)
{
	to_client(client)->holds++;
}

void evering_client_release(struct evering_client *client)
{
	struct client *c = to_client(client);

	if (--c->holds)
		return;
	evering_close(c->pub.ev);
	free(c);
}

/* Ends the clients that are marked.  Returns how many. */
static int reap(struct evering_server *s)
{
	struct client *c;
	int n = 0;

	while ((c = s->dying)) {
		end_client(c, false);
		/* Other clients, or this one again, may have been added meanwhile. */
		s->dying = c->dying;
		if (!s->dying)
			s->last_dying = &s->dying;
		evering_client_release(&c->pub);
		n++;
	}
	if (n)
		accept_again(s);
	return n;
}

void evering_client_close(struct evering_client *client, int why)
{
	struct client *c = to_client(client);
	struct evering_server *s = c->pub.server;

	if (c->closing)
		return;
	c->closing = true;
	c->why = why;
	*s->last_dying = c;
	s->last_dying = &c->dying;
	/* Make the descriptor readable, so that the loop calls and it ends. */
	if (!s->turning)
		evering_group_wake(s->group);
}

/* The program turned @c away, and may have closed it too. */
static void forget_dying(struct client *c)
{
	struct evering_server *s = c->pub.server;
	struct client **at = &s->dying;

	while (*at && *at != c)
		at = &(*at)->dying;
	if (!*at)
		return;
	*at = c->dying;
	if (!*at)
		s->last_dying = at;
}

/* The ring of a client may be smaller than the largest one that is accepted. */
static void fit_table(struct evering_ops_params *params,
		      const struct evering *ev)
{
	uint32_t entries = ev->tx.mask + 1, most = entries - entries / 4;

	if (params->depth != EVERING_OPS_DEFAULT && params->depth > most)
		params->depth = most;
	if (params->serve != EVERING_OPS_DEFAULT && params->serve > most)
		params->serve = most;
	if (params->store != EVERING_OPS_DEFAULT && params->store > entries)
		params->store = entries;
}

/*
 * Makes @ev a client.  Returns 0; or a negative errno, and @ev still belongs to the
 * caller.
 */
static int add_client(struct evering_server *s, struct evering *ev,
		      struct client **ret)
{
	struct evering_ops_params params = s->ops;
	struct client *c;
	int error;

	if (!s->spare)
		s->spare = calloc(1, sizeof(*s->spare));
	c = s->spare;
	if (!c)
		return -ENOMEM;
	*c = (struct client){
		.pub = { .server = s, .ev = ev, .context = s->params.context },
		.active = s->idle_ns == NEVER ? 0 : now_ns(),
		.holds = 1,
	};
	params.request = on_request;
	params.message = on_message;
	params.cancelled = on_cancelled;
	params.context = c;
	fit_table(&params, ev);
	error = evering_group_add(s->group, ev, EVERING_RX, c);
	if (error)
		return error == -EEXIST ? -EBUSY : error;
	error = evering_ops_open(ev, &params, &c->pub.ops);
	if (error) {
		evering_group_remove(s->group, ev);
		return error;
	}
	to_ops(c->pub.ops)->ended = request_ended;
	to_ops(c->pub.ops)->no_room = on_no_room;
	s->spare = NULL;
	list_add(&s->clients, &c->links);
	s->count++;
	if (s->params.open) {
		s->callbacks++;
		error = s->params.open(&c->pub);
		s->callbacks--;
	}
	if (error) {
		c->why = error;
		c->closing = true;
		forget_dying(c);
		end_client(c, true);
		free(c);
		/* The callback may have added others until there was no room left. */
		accept_again(s);
		return error;
	}
	s->opened++;
	*ret = c;
	return 0;
}

int evering_server_add(struct evering_server *s, struct evering *ev,
		       struct evering_client **client)
{
	struct client *c;
	int ret;

	if (!is_own(s))
		return -EINVAL;
	if (s->stopping || to_endpoint(ev)->ops || to_endpoint(ev)->member)
		return s->stopping ? -ESHUTDOWN : -EBUSY;
	ret = add_client(s, ev, &c);
	if (s->listener && !has_room(s))
		accept_later(s, -EUSERS);
	if (!ret && client)
		*client = &c->pub;
	return ret;
}

/* The limits for the next client, so that no lane is granted without room for it. */
static struct evering_params limits_now(const struct evering_server *s)
{
	struct evering_params limits = s->limits;
	uint64_t room = s->params.clients - s->count;

	if (s->count < s->params.clients && room < limits.lanes)
		limits.lanes = (uint32_t)room;
	return limits;
}

/* Accepts one client at a time; clients have their turns in between. */
static void accept_one(struct evering_server *s)
{
	struct evering_params limits = limits_now(s);
	struct evering *ev;
	struct client *c;
	int ret = 0;

	if (!s->spare)
		s->spare = calloc(1, sizeof(*s->spare));
	if (!s->spare)
		ret = -ENOMEM;
	if (!ret)
		ret = evering_accept(s->listener, &limits, EVERING_NOWAIT, &ev);
	if (ret == -EAGAIN || ret == -EINTR)
		return;
	if (!ret) {
		ret = add_client(s, ev, &c);
		if (ret) {
			evering_close(ev);
			s->refused++;
		}
		if (!has_room(s))
			ret = -EUSERS;
		else if (ret != -ENOMEM && ret != -ENOSPC)
			return;
	}
	accept_later(s, ret);
}

struct evering_client *evering_client_next(const struct evering_server *s,
					   const struct evering_client *client)
{
	struct links *at = client ? to_client(client)->links.next :
				    s->clients.next;
	struct client *c;

	/* After a client that has ended and is held there is none. */
	for (; at && at != &s->clients; at = at->next) {
		c = client_at(at);
		if (!c->closing)
			return &c->pub;
	}
	return NULL;
}

/* ---------------------------------------------------------------------- a turn */

/* Takes at most @most entries of what it has sent. */
static void serve(struct client *c, uint32_t most)
{
	struct evering_server *s = c->pub.server;
	int ret;

	if (c->closing)
		return;
	c->turn = true;
	ret = ops_poll_some(to_ops(c->pub.ops), most);
	c->turn = false;
	if (ret < 0)
		evering_client_close(&c->pub, ret);
	else if (s->stopping)
		end_or_leave(c);
	if (ret > 0 && s->params.turn && !c->closing) {
		s->callbacks++;
		s->params.turn(&c->pub);
		s->callbacks--;
	}
	if (ret <= 0 || s->idle_ns == NEVER || s->stopping)
		return;
	c->active = now_ns();
	c->seen = c->pub.ev->rx.next;
	list_remove(&c->links);
	list_add(&s->clients, &c->links);
}

/* The client of @event, or NULL. */
static struct client *client_of(const struct evering_server *s,
				const struct evering_group_event *event)
{
	const struct ops *ops = event->ev ? to_endpoint(event->ev)->ops : NULL;
	struct client *c;

	if (!ops || ops->request != on_request)
		return NULL;
	c = ops->context;
	return c->pub.server == s ? c : NULL;
}

static void handle(struct evering_server *s,
		   const struct evering_group_event *event)
{
	struct client *c = client_of(s, event);

	if (c && (event->what & EVERING_GROUP_GONE)) {
		/* With that its operations get their outcome too. */
		serve(c, s->params.budget);
		evering_client_close(&c->pub, event->result);
	} else if (c) {
		serve(c, s->params.budget);
	} else if (event->context == &s->listener) {
		accept_one(s);
	} else if (s->params.event) {
		s->callbacks++;
		s->params.event(s, event);
		s->callbacks--;
	}
}

/* Gives each client that the group has returned its turn.  Returns how many. */
static int take_turns(struct evering_server *s,
		      const struct evering_group_event *events, int n)
{
	int i, done = 0;

	for (i = 0; i < n; i++) {
		/* A callback may have closed the client. */
		if (!events[i].what)
			continue;
		handle(s, &events[i]);
		done += 1 + reap(s);
	}
	return done;
}

/* -------------------------------------------------------------- what is due */

/* Whether the program itself has taken entries since the last call. */
static bool heard_since(struct client *c)
{
	uint32_t seen = c->seen;

	c->seen = c->pub.ev->rx.next;
	return c->seen != seen;
}

/*
 * Ends idle clients.  A client is not idle if it waits for an answer, has just had one,
 * or was not looked at because this process was stopped.
 */
static int end_idle(struct evering_server *s)
{
	struct client *c;
	bool heard;
	int n = 0;

	while (s->idle_ns != NEVER && s->clients.next != &s->clients) {
		c = client_at(s->clients.next);
		if (after(c->active, s->idle_ns) > s->now)
			break;
		c->active = s->now;
		heard = heard_since(c);
		list_remove(&c->links);
		list_add(&s->clients, &c->links);
		if (heard || c->closing || c->pub.ops->holding ||
		    after(c->answered, s->idle_ns) > s->now ||
		    evering_peek(c->pub.ev))
			continue;
		evering_client_close(&c->pub, -ETIMEDOUT);
		n++;
	}
	return n;
}

static int end_late(struct evering_server *s)
{
	struct kept *kept;
	int n = 0;

	while (s->kept.next != &s->kept) {
		kept = kept_at(s->kept.next);
		if (after(kept->since, s->request_ns) > s->now)
			break;
		end_request(kept->client, kept->id, -ETIMEDOUT);
		n++;
	}
	return n;
}

static int64_t stop_time(const struct evering_server *s)
{
	return __atomic_load_n(&s->stop_at, __ATOMIC_ACQUIRE);
}

/*
 * A client with EVERING_REPLACEABLE keeps new operations for the successor from now on.
 * If neither side has to answer anything, what it has already sent is not looked at,
 * and counts as unseen.  Other clients get an answer in any case.
 */
static void begin_leaving(struct client *c)
{
	struct ops *ops = to_ops(c->pub.ops);

	/* The first entry has the flag; the next poll reports what is wrong with it. */
	if (!ops->opened)
		ops_poll_some(ops, 1);
	if (!ops->error && (ops->peer_outlives || !ops->opened) &&
	    (ops->pub.holding || !ops->pub.in_flight))
		end_or_leave(c);
	else
		serve(c, UINT32_MAX);
}

static void begin_stop(struct evering_server *s)
{
	struct links *at, *next;

	s->stopping = true;
	if (s->listener)
		s->refused += evering_listener_refused(s->listener, NULL);
	evering_listener_close(s->listener);
	s->listener = NULL;
	s->waiting = 0;
	for (at = s->clients.next; at != &s->clients; at = next) {
		next = at->next;
		begin_leaving(client_at(at));
	}
}

static void close_all(struct evering_server *s)
{
	struct links *at;

	for (at = s->clients.next; at != &s->clients; at = at->next)
		evering_client_close(&client_at(at)->pub, -ESHUTDOWN);
}

/* Does the work that is due by time.  Returns how much. */
static int do_due(struct evering_server *s)
{
	int64_t stop_at = stop_time(s);
	int done = 0;

	if (stop_at)
		s->timed = true;
	if (s->timed || s->waiting)
		s->now = now_ns();
	if (stop_at && !s->stopping) {
		begin_stop(s);
		done++;
	}
	if (s->timed) {
		done += end_late(s);
		done += end_idle(s);
		if (stop_at && stop_at <= s->now)
			close_all(s);
	}
	if (s->waiting && s->retry_at <= s->now)
		accept_again(s);
	return done + reap(s);
}

/* When do_due() has to be called again; NEVER. */
static int64_t next_due(const struct evering_server *s)
{
	int64_t due = NEVER, at;

	if (s->waiting)
		due = s->retry_at;
	if (s->clients.next != &s->clients) {
		at = after(client_at(s->clients.next)->active, s->idle_ns);
		if (at < due)
			due = at;
	}
	if (s->kept.next != &s->kept) {
		at = after(kept_at(s->kept.next)->since, s->request_ns);
		if (at < due)
			due = at;
	}
	at = s->stopping ? stop_time(s) : NEVER;
	return at < due ? at : due;
}

/* Begins a call that callbacks, and a process made by fork(2), may not make. */
static int begin(struct evering_server *s)
{
	if (!is_own(s))
		return -EINVAL;
	if (s->turning || s->callbacks)
		return -EDEADLK;
	s->turning = true;
	return 0;
}

/* As evering_group_wait(), until @deadline or until something is due. */
static int wait_for_events(struct evering_server *s,
			   const struct evering_group_event **events,
			   int64_t timeout_ns, int64_t deadline)
{
	int64_t due = next_due(s), left;

	if (timeout_ns == EVERING_NOWAIT)
		return evering_group_wait(s->group, events, EVERING_NOWAIT);
	if (deadline < due)
		due = deadline;
	if (due == NEVER)
		return evering_group_wait(s->group, events,
					  EVERING_WAIT_FOREVER);
	left = due - now_ns();
	/*
	 * At least 1 ns: a server that always has something due must notice
	 * evering_group_wake() too.
	 */
	return evering_group_wait(s->group, events, left > 0 ? left : 1);
}

static int wait_and_serve(struct evering_server *s, int64_t timeout_ns)
{
	const struct evering_group_event *events;
	int64_t deadline = 0;
	int ret;

	for (;;) {
		ret = do_due(s);
		if (s->stopping && !s->count)
			return -ESHUTDOWN;
		if (ret)
			return ret;
		if (!deadline)
			deadline = timeout_ns > 0 ? deadline_after(timeout_ns) :
						    NEVER;
		ret = wait_for_events(s, &events, timeout_ns, deadline);
		if (ret > 0) {
			ret = take_turns(s, events, ret);
			if (ret)
				return ret;
		} else if (ret != -ETIMEDOUT && ret != -EAGAIN) {
			return ret;
		} else if (timeout_ns == EVERING_NOWAIT) {
			return -EAGAIN;
		} else if (deadline != NEVER && now_ns() >= deadline) {
			return -ETIMEDOUT;
		}
	}
}

int evering_server_wait(struct evering_server *s, int64_t timeout_ns)
{
	int ret = begin(s);

	if (ret)
		return ret;
	ret = timeout_ns < EVERING_WAIT_FOREVER ? -EINVAL :
						  wait_and_serve(s, timeout_ns);
	s->turning = false;
	return ret;
}

static int poll_and_serve(struct evering_server *s)
{
	const struct evering_group_event *events;
	int ret, done;

	done = do_due(s);
	if (s->stopping && !s->count)
		return -ESHUTDOWN;
	if (done)
		return done;
	ret = evering_group_poll(s->group, &events);
	/*
	 * Not all members are armed.  The thread that woke the server may also have
	 * stopped it.
	 */
	if (ret == -EINTR)
		return 1;
	if (ret <= 0)
		return ret;
	done = take_turns(s, events, ret);
	return done ? done : 1;
}

int evering_server_poll(struct evering_server *s)
{
	int ret = begin(s);

	if (ret)
		return ret;
	ret = poll_and_serve(s);
	s->turning = false;
	return ret;
}

int evering_server_fd(struct evering_server *s)
{
	return evering_group_fd(s->group);
}

int64_t evering_server_timeout(const struct evering_server *s)
{
	int64_t group = evering_group_timeout(s->group), due, left;

	if (s->dying || (stop_time(s) && (!s->stopping || !s->count)))
		return 0;
	due = next_due(s);
	if (due == NEVER)
		return group;
	left = due - now_ns();
	if (left < 0)
		left = 0;
	return group == EVERING_WAIT_FOREVER || left < group ? left : group;
}

/*
 * Counts this thread in @callers.  Without that, the thread of the server could notice
 * the stop and close the server before this thread has woken it.
 */
static int wake_in_use(struct evering_server *s)
{
	int ret = evering_group_wake(s->group);

	__atomic_sub_fetch(&s->callers, 1, __ATOMIC_RELEASE);
	return ret;
}

int evering_server_wake(struct evering_server *s)
{
	__atomic_add_fetch(&s->callers, 1, __ATOMIC_ACQUIRE);
	return wake_in_use(s);
}

/* Only what signal-safety(7) allows. */
int evering_server_stop(struct evering_server *s, int64_t timeout_ns)
{
	int64_t at, old = 0;

	if (timeout_ns < EVERING_WAIT_FOREVER || !is_own(s))
		return -EINVAL;
	/* First, because from here on evering_server_close() waits. */
	__atomic_add_fetch(&s->callers, 1, __ATOMIC_ACQUIRE);
	at = deadline_after(timeout_ns);
	while ((!old || at < old) &&
	       !__atomic_compare_exchange_n(&s->stop_at, &old, at, false,
					    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
	return wake_in_use(s);
}

struct evering_group *evering_server_group(struct evering_server *s)
{
	return s->group;
}

struct evering_listener *evering_server_listener(struct evering_server *s)
{
	return s->listener;
}

void evering_server_get_info(const struct evering_server *s,
			     struct evering_server_info *info)
{
	const struct links *at;

	*info = (struct evering_server_info){
		.clients = s->count,
		.opened = s->opened,
		.refused = s->refused,
		.waiting = s->waiting,
		.stopping = !!stop_time(s),
	};
	if (s->listener)
		info->refused += evering_listener_refused(s->listener, NULL);
	for (at = s->clients.next; at != &s->clients; at = at->next) {
		const struct client *c = client_at(at);

		if (c->pub.ops)
			info->held += c->pub.ops->holding;
	}
}

/* -------------------------------------------------------- opening and closing */

static const struct evering_server_params default_params =
	EVERING_SERVER_PARAMS_INIT;
static const struct evering_ops_params default_ops = EVERING_OPS_PARAMS_INIT;
static const struct evering_group_params default_group =
	EVERING_GROUP_PARAMS_INIT;

/*
 * Refuses a table for which the largest ring has no room, or that no answer would fit.
 */
static int check_table(const struct evering_server *s)
{
	const struct evering_ops_params *ops = &s->ops;
	uint32_t entries = s->limits.entries;
	uint32_t most = entries - entries / 4;

	if (ops->flags || ops->reserved || ops->request || ops->message ||
	    ops->cancelled || ops->context)
		return -EINVAL;
	if ((ops->depth != EVERING_OPS_DEFAULT && ops->depth > most) ||
	    (ops->serve != EVERING_OPS_DEFAULT && ops->serve > most) ||
	    (ops->store != EVERING_OPS_DEFAULT && ops->store > entries))
		return -EINVAL;
	if ((!ops->serve && s->params.request) ||
	    (!ops->store && s->params.message))
		return -EINVAL;
	/* No client could connect. */
	if (entries < EVERING_MIN_ENTRIES ||
	    s->limits.slot_size < EVERING_OPS_MIN_SLOT)
		return -EINVAL;
	return 0;
}

static int read_limit(int64_t ns, int64_t *limit)
{
	*limit = ns > 0 && ns < NEVER / 2 ? ns : NEVER;
	return ns < EVERING_WAIT_FOREVER ? -EINVAL : 0;
}

static int read_params(struct evering_server *s,
		       const struct evering_server_params *from)
{
	struct evering_admission admission;
	int ret = 0;

	s->params = default_params;
	if (from)
		ret = read_sized(&s->params, sizeof(s->params), from);
	if (!ret)
		ret = params_read(s->params.limits, true, &s->limits);
	if (!ret)
		ret = admission_read(s->params.admission, &admission);
	s->ops = default_ops;
	if (!ret && s->params.ops)
		ret = read_sized(&s->ops, sizeof(s->ops), s->params.ops);
	s->group_params = default_group;
	if (!ret && s->params.group)
		ret = read_sized(&s->group_params, sizeof(s->group_params),
				 s->params.group);
	if (!ret &&
	    (s->params.flags || s->params.reserved || !s->params.clients ||
	     !s->params.budget || s->params.budget > MAX_BUDGET))
		ret = -EINVAL;
	if (!ret)
		ret = read_limit(s->params.idle_ns, &s->idle_ns);
	if (!ret)
		ret = read_limit(s->params.request_ns, &s->request_ns);
	s->timed = s->idle_ns != NEVER || s->request_ns != NEVER;
	return ret ? ret : check_table(s);
}

static struct evering_server *new_server(void)
{
	struct evering_server *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->owner = fork_id();
	list_init(&s->clients);
	list_init(&s->kept);
	s->last_dying = &s->dying;
	return s;
}

/*
 * Opens a server at @path, or else at @fd, which it owns even if it fails; with NULL
 * and -1, at neither.  The socket comes last, so that other errors leave no trace
 * there.
 */
static int open_at(const char *path, int fd,
		   const struct evering_server_params *params,
		   struct evering_server **ret)
{
	const struct evering_admission *admission;
	struct evering_server *s = new_server();
	int error;

	if (!s) {
		close_fds(&fd, 1);
		return -ENOMEM;
	}
	error = read_params(s, params);
	if (!error)
		error = evering_group_open(&s->group_params, &s->group);
	if (!error && path)
		error = evering_listen(path, s->params.mode, &s->listener);
	if (!error && fd >= 0)
		error = evering_listen_fd(fd, &s->listener);
	admission = s->params.admission;
	if (!error && s->listener && admission)
		error = evering_listener_admit(s->listener, admission);
	if (!error && s->listener)
		error = evering_group_add_listener(s->group, s->listener,
						   &s->listener);
	if (error) {
		if (!s->listener)
			close_fds(&fd, 1);
		evering_server_close(s);
		return error;
	}
	s->params.limits = NULL;
	s->params.ops = NULL;
	s->params.group = NULL;
	s->params.admission = NULL;
	*ret = s;
	return 0;
}

int evering_server_open(const char *path,
			const struct evering_server_params *params,
			struct evering_server **server)
{
	return open_at(path, -1, params, server);
}

/*
 * The listener gets a copy, so that the descriptor still belongs to the caller if this
 * fails.
 */
int evering_server_open_fd(int fd, const struct evering_server_params *params,
			   struct evering_server **server)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0), ret;

	if (copy < 0)
		return -errno;
	ret = open_at(NULL, copy, params, server);
	if (!ret)
		close(fd);
	return ret;
}

int evering_server_share(struct evering_server *s, void *context,
			 struct evering_server **ret)
{
	struct evering_server *other;
	int error;

	if (!is_own(s) || !s->listener)
		return -EINVAL;
	other = new_server();
	if (!other)
		return -ENOMEM;
	other->params = s->params;
	other->params.context = context;
	other->limits = s->limits;
	other->ops = s->ops;
	other->group_params = s->group_params;
	other->idle_ns = s->idle_ns;
	other->request_ns = s->request_ns;
	other->timed = other->idle_ns != NEVER || other->request_ns != NEVER;
	error = evering_group_open(&other->group_params, &other->group);
	if (!error)
		error = evering_listener_share(s->listener, &other->listener);
	if (!error)
		error = evering_group_add_listener(
			other->group, other->listener, &other->listener);
	if (error) {
		evering_server_close(other);
		return error;
	}
	*ret = other;
	return 0;
}

/* In a process made by fork(2) no client is informed and no callback called. */
static void forget_clients(struct evering_server *s)
{
	struct links *at, *next;
	struct client *c;

	for (at = s->clients.next; at != &s->clients; at = next) {
		next = at->next;
		c = client_at(at);
		evering_ops_close(c->pub.ops);
		evering_close(c->pub.ev);
		free(c->kept);
		free(c);
	}
}

void evering_server_close(struct evering_server *s)
{
	if (!s)
		return;
	while (is_own(s) && __atomic_load_n(&s->callers, __ATOMIC_ACQUIRE))
		sched_yield();
	s->turning = true;
	s->stopping = true;
	evering_listener_close(s->listener);
	s->listener = NULL;
	if (is_own(s)) {
		close_all(s);
		reap(s);
	} else {
		forget_clients(s);
	}
	evering_group_close(s->group);
	free(s->spare);
	free(s);
}
