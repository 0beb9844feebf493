// SPDX-License-Identifier: MIT
/*
 * evering-relay(1): channels to another machine.
 *
 * One thread has a group of all local channels, of the sockets where clients come in, and of
 * the descriptors of libfabric's queues.  Links are in link.c, what crosses in channel.c; this
 * is who calls whom, and when again.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "../evering/options.h"
#include "../evering/process.h"
#include "../evering/util.h"
#include "relay.h"

#define GREETING_NS	(5 * SECOND)
#define BACK_FIRST	(SECOND / 20)
#define BACK_MOST	(2 * SECOND)
/* Links that have not proven their key yet. */
#define MAX_STRANGERS	16u
/* After so many calls that came to nothing, one after the other, none is heard for so long. */
#define VAIN_CALLS	64u
#define PAUSE		(SECOND / 10)

static struct relay relay;
static volatile sig_atomic_t to_end, to_read, to_print;

static void on_signal(int sig)
{
	if (sig == SIGHUP)
		to_read = 1;
	else if (sig == SIGUSR1)
		to_print = 1;
	else
		to_end = sig;
	if (relay.group)
		evering_group_wake(relay.group);
}

static void catch_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGQUIT, SIGHUP,
				       SIGUSR1 };
	struct sigaction sa = { .sa_handler = on_signal,
				.sa_flags = SA_RESTART };
	size_t i;

	for (i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* ------------------------------------------------------------------------ words */

static const char *why_down(int error)
{
	switch (error) {
	case -ENETRESET:
		return "it was silent for longer than --keepalive: the way to it is lost";
	case -ECONNRESET:
		return "it has gone";
	case -ECONNREFUSED:
		return "nobody answers there: is a relay with --bind there?";
	case -EACCES:
		return "it has another key: give both the same --key, and --identity if it has several";
	case -EPROTONOSUPPORT:
		return "it is of another version: have both from the same release";
	case -EPROTO:
		return "it does not speak as a relay does";
	case -ETIMEDOUT:
		return "it does not answer";
	case -ENODEV:
		return "libfabric has no such --provider: fi_info(1) lists them";
	case -ENOENT:
		return "there is no such host";
	case -EADDRINUSE:
		return "the address is in use: another relay has it, or choose another --bind";
	case -EADDRNOTAVAIL:
		return "this machine has no such address";
	default:
		return strerror(-error);
	}
}

/* A peer that cannot be spoken with, however often it is called. */
static bool is_final(int error)
{
	return error == -EACCES || error == -EPROTONOSUPPORT ||
	       error == -ENODEV;
}

/* What has become possible, for people and for who started this. */
static void __attribute__((format(printf, 1, 2))) note(const char *fmt, ...)
{
	va_list args;

	if (relay.config.json)
		return;
	va_start(args, fmt);
	vfprintf(output, fmt, args);
	va_end(args);
	putc('\n', output);
	flush_output();
}

static void print_totals(void)
{
	const struct totals *t = &relay.totals;
	unsigned int i, up = 0;

	for (i = 0; i < relay.connections; i++)
		up += relay.connection[i]->link &&
		      relay.connection[i]->link->state == LINK_UP;
	fprintf(output,
		relay.config.json ?
			"{\"links\":%u,\"channels\":%u,\"entries_sent\":%llu,\"entries_received\":%llu,\"bytes_sent\":%llu,\"bytes_received\":%llu,\"opened\":%llu,\"died\":%llu,\"lost\":%llu,\"refused\":%llu}\n" :
			"%u links, %u channels; entries: %llu sent, %llu received; bytes in buffers: %llu sent, %llu received; channels: %llu opened, %llu died, %llu lost, %llu refused\n",
		up, relay.channels, (unsigned long long)t->entries[0],
		(unsigned long long)t->entries[1],
		(unsigned long long)t->bytes[0],
		(unsigned long long)t->bytes[1], (unsigned long long)t->opened,
		(unsigned long long)t->died, (unsigned long long)t->lost,
		(unsigned long long)t->refused);
	flush_output();
}

/* -------------------------------------------------------------------- entrances */

static void close_entrance(struct entrance *e)
{
	if (e->listener)
		evering_listener_close(e->listener);
	e->listener = NULL;
	e->asked = false;
}

static void open_entrance(struct entrance *e)
{
	int ret;

	ret = evering_listen(e->rule.path, 0, &e->listener);
	if (!ret)
		ret = evering_group_add_listener(relay.group, e->listener, e);
	if (!ret) {
		e->refused = 0;
		e->to->ever = true;
		note("clients at %s reach '%s' at %s:%s",
		     printable(e->rule.path), e->rule.name, e->to->host,
		     e->to->port);
		return;
	}
	close_entrance(e);
	e->asked = true;
	e->retry_at = clock_ns() + BACK_MOST;
	if (e->refused == ret)
		return;
	e->refused = ret;
	complain("cannot listen at %s: %s", printable(e->rule.path),
		 strerror(-ret));
	if (!e->to->ever)
		to_end = -1;
}

void entrance_told(struct connection *c, const char *name, int error)
{
	struct entrance *e;
	unsigned int i;

	for (i = 0; i < relay.entrances; i++) {
		e = relay.entrance[i];
		if (e->to != c || e->listener || strcmp(e->rule.name, name))
			continue;
		if (!error) {
			open_entrance(e);
			continue;
		}
		e->retry_at = clock_ns() + BACK_MOST;
		if (e->refused == error)
			continue;
		e->refused = error;
		complain(
			error == -EACCES ?
				"the relay at %s:%s does not serve '%s' to this --identity" :
				"the relay at %s:%s has no --serve for '%s'",
			printable(c->host), c->port, name);
		if (!c->ever)
			to_end = -1;
	}
}

/* Is it refused, and can be asked for again?  While the link is full its end is waited for. */
static bool may_ask(const struct entrance *e)
{
	const struct link *link = e->to->link;

	return e->refused && !e->listener && !e->blocked && link &&
	       link->state == LINK_UP;
}

/* Asks for the names of a link that is up. */
static void ask(struct connection *c)
{
	int64_t now = clock_ns();
	struct wire_record *record;
	struct entrance *e;
	unsigned int i;

	for (i = 0; i < relay.entrances; i++) {
		e = relay.entrance[i];
		if (e->to != c || e->listener ||
		    (e->asked && (!e->refused || now < e->retry_at)))
			continue;
		record = link_record(c->link, 0, WIRE_ASK, 0, WIRE_NAME);
		e->blocked = !record;
		if (!record)
			continue;
		memcpy(record + 1, e->rule.name, WIRE_NAME);
		e->asked = true;
		e->retry_at = INT64_MAX;
	}
}

static void accept_clients(struct entrance *e)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering *ev;
	int ret;

	limits.arena_size[EVERING_MINE] = relay.config.most_arena;
	limits.arena_size[EVERING_PEERS] = relay.config.most_arena;
	limits.entries = EVERING_MAX_ENTRIES;
	ret = evering_accept(e->listener, &limits, EVERING_NOWAIT, &ev);
	if (!ret)
		channel_begin(e->to, e->rule.name, ev);
}

const struct service_rule *service_of(const struct relay *r,
				      const struct connection *c,
				      const char *name, int *error)
{
	const struct service_rule *rule;
	unsigned int i, j;

	*error = -ENOENT;
	for (i = 0; i < r->config.services; i++) {
		rule = &r->config.service[i];
		if (strcmp(rule->name, name))
			continue;
		*error = 0;
		for (j = 0; j < rule->count; j++)
			if (!strcmp(rule->allowed[j], c->link->identity))
				return rule;
		if (!rule->count)
			return rule;
		*error = -EACCES;
	}
	return NULL;
}

/* ------------------------------------------------------------------ connections */

static void unwatch(struct connection *c)
{
	if (!c->watched)
		return;
	evering_group_remove_fd(relay.group, c->link->cq_fd);
	evering_group_remove_fd(relay.group, c->link->eq_fd);
	c->watched = false;
}

static int watch(struct connection *c)
{
	int ret;

	ret = evering_group_add_fd(relay.group, c->link->cq_fd, POLLIN, c);
	if (ret)
		return ret;
	c->events = SOURCE_EVENTS;
	c->told = true;
	ret = evering_group_add_fd(relay.group, c->link->eq_fd, POLLIN,
				   &c->events);
	if (ret) {
		evering_group_remove_fd(relay.group, c->link->cq_fd);
		return ret;
	}
	c->watched = true;
	return 0;
}

static struct connection *new_connection(void)
{
	struct connection *c;

	if (relay.connections == MAX_LINKS)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->source = SOURCE_LINK;
	c->relay = &relay;
	c->back_ns = BACK_FIRST;
	relay.connection[relay.connections++] = c;
	return c;
}

static void free_connection(struct connection *c)
{
	unsigned int i;

	for (i = 0; relay.connection[i] != c; i++)
		;
	relay.connection[i] = relay.connection[--relay.connections];
	free(c->channels);
	free(c);
}

/* Its link has ended. */
static void lose(struct connection *c)
{
	int error = c->link->error;
	unsigned int i;

	for (i = 0; i < relay.entrances; i++)
		if (relay.entrance[i]->to == c)
			close_entrance(relay.entrance[i]);
	channels_end(c, error == -ECONNRESET || error == -EPROTO ?
				EVERING_PEER_RELAY_DIED :
				EVERING_PEER_LOST);
	unwatch(c);
	link_close(c->link);
	c->link = NULL;
	c->retry_at = clock_ns() + c->back_ns;
	c->back_ns = c->back_ns < BACK_MOST / 2 ? 2 * c->back_ns : BACK_MOST;
	if (*c->host && !c->complained)
		complain("the relay at %s:%s: %s", printable(c->host), c->port,
			 why_down(error));
	else if (!*c->host && c->was_up)
		complain("a relay that called: %s", why_down(error));
	c->complained = true;
	c->was_up = false;
	if (*c->host && !c->ever && is_final(error))
		to_end = -1;
}

static void call(struct connection *c)
{
	int ret;

	ret = link_call(&relay.engine, c->host, c->port, &relay.settings,
			&c->link);
	if (!ret) {
		c->link->message = channel_message;
		c->link->context = c;
		ret = watch(c);
		if (!ret)
			return;
		link_close(c->link);
		c->link = NULL;
	}
	c->retry_at = clock_ns() + c->back_ns;
	c->back_ns = c->back_ns < BACK_MOST / 2 ? 2 * c->back_ns : BACK_MOST;
	if (!c->complained)
		complain("the relay at %s:%s: %s", printable(c->host), c->port,
			 why_down(ret));
	c->complained = true;
	if (!c->ever && is_final(ret))
		to_end = -1;
}

/* So many have not proven anything yet; the oldest of them makes room for one more. */
static void bound_strangers(void)
{
	struct connection *c, *oldest = NULL;
	unsigned int i, n = 0;

	for (i = 0; i < relay.connections; i++) {
		c = relay.connection[i];
		if (*c->host || !c->link || c->link->state == LINK_UP)
			continue;
		n++;
		if (!oldest || c->link->deadline < oldest->link->deadline)
			oldest = c;
	}
	if (n < MAX_STRANGERS && relay.connections < MAX_LINKS)
		return;
	if (!oldest)
		return;
	unwatch(oldest);
	link_close(oldest->link);
	free_connection(oldest);
}

static void answer(void)
{
	struct connection *c;
	struct link *link;
	unsigned int looks;
	int error;

	relay.vain_calls++;
	/* What is left then is told of again. */
	for (looks = 0; looks < VAIN_CALLS; looks++) {
		bound_strangers();
		link = engine_answer(&relay.engine, &relay.settings, &error);
		if (!link && !error && engine_idle(&relay.engine))
			break;
		if (!link)
			continue;
		relay.vain_calls = 0;
		c = new_connection();
		if (!c) {
			link_close(link);
			continue;
		}
		c->link = link;
		link->message = channel_message;
		link->context = c;
		if (watch(c)) {
			link_close(link);
			free_connection(c);
		}
	}
	if (relay.vain_calls < VAIN_CALLS)
		return;
	relay.vain_calls = 0;
	evering_group_remove_fd(relay.group, relay.engine.eq_fd);
	relay.paused_until = clock_ns() + PAUSE;
}

/* The end of the pause; returns when it is, or is to be tried again. */
static int64_t resume_calls(int64_t now)
{
	if (now < relay.paused_until)
		return relay.paused_until;
	relay.paused_until = 0;
	if (!evering_group_add_fd(relay.group, relay.engine.eq_fd, POLLIN,
				  &relay.engine_source))
		return INT64_MAX;
	relay.paused_until = now + PAUSE;
	return relay.paused_until;
}

/* What there is to do for a link; it may be there no more afterwards. */
static bool step(struct connection *c)
{
	bool did;

	if (!c->link)
		return false;
	did = link_step(c->link, c->told || c->link->state != LINK_UP);
	c->told = false;
	if (c->link->state == LINK_UP) {
		if (!c->was_up && *c->host && c->complained)
			complain("the relay at %s:%s: is there again",
				 printable(c->host), c->port);
		if (!c->was_up) {
			c->complained = false;
			c->back_ns = BACK_FIRST;
		}
		c->was_up = true;
		if (c->link->caller)
			ask(c);
		channels_unblock(c);
		link_flush(c->link);
	}
	if (c->link->state != LINK_DOWN)
		return did;
	lose(c);
	if (!*c->host)
		free_connection(c);
	return true;
}

/* All links, until none has anything to do; false: one has still. */
static bool step_all(void)
{
	bool idle = true;
	unsigned int i;

	/* From the last one, which takes the place of one that goes. */
	for (i = relay.connections; i > 0; i--)
		if (step(relay.connection[i - 1]))
			idle = false;
	return idle;
}

static bool all_idle(void)
{
	unsigned int i;

	for (i = 0; i < relay.connections; i++)
		if (relay.connection[i]->link &&
		    !link_idle(relay.connection[i]->link))
			return false;
	return true;
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Does an entrance lead there, still? */
static bool is_wanted(const struct connection *c)
{
	unsigned int i;

	for (i = 0; i < relay.entrances; i++)
		if (relay.entrance[i]->to == c)
			return true;
	return false;
}

/* What time has brought; returns when it brings something again. */
static int64_t pass_time(void)
{
	int64_t now = clock_ns(), next = INT64_MAX;
	struct connection *c;
	unsigned int i;

	/* From the last one, which takes the place of one that goes. */
	for (i = relay.connections; i > 0; i--) {
		c = relay.connection[i - 1];
		if (!c->link && !is_wanted(c)) {
			free_connection(c);
			continue;
		}
		if (!c->link && now >= c->retry_at)
			call(c);
		next = earlier(next,
			       c->link ? link_time(c->link, now) : c->retry_at);
	}
	if (relay.paused_until)
		next = earlier(next, resume_calls(now));
	for (i = 0; i < relay.entrances; i++)
		if (may_ask(relay.entrance[i]))
			next = earlier(next, relay.entrance[i]->retry_at);
	if (relay.config.stats_ns) {
		if (now >= relay.stats_at) {
			if (relay.stats_at)
				print_totals();
			relay.stats_at = now + relay.config.stats_ns;
		}
		next = earlier(next, relay.stats_at);
	}
	return next;
}

/* ---------------------------------------------------------------- configuration */

/* The connection to where @rule goes, which may be others' as well. */
static struct connection *connection_for(const struct entrance_rule *rule)
{
	struct connection *c;
	unsigned int i;

	for (i = 0; i < relay.connections; i++) {
		c = relay.connection[i];
		if (!strcmp(c->host, rule->host) &&
		    !strcmp(c->port, rule->port))
			return c;
	}
	c = new_connection();
	if (!c)
		return NULL;
	strcpy(c->host, rule->host);
	strcpy(c->port, rule->port);
	return c;
}

static bool same_rule(const struct entrance_rule *a,
		      const struct entrance_rule *b)
{
	return !strcmp(a->path, b->path) && !strcmp(a->host, b->host) &&
	       !strcmp(a->port, b->port) && !strcmp(a->name, b->name);
}

static bool is_ruled(const struct entrance *e)
{
	unsigned int i;

	for (i = 0; i < relay.config.entrances; i++)
		if (same_rule(&relay.config.entrance[i], &e->rule))
			return true;
	return false;
}

static bool is_there(const struct entrance_rule *rule)
{
	unsigned int i;

	for (i = 0; i < relay.entrances; i++)
		if (same_rule(&relay.entrance[i]->rule, rule))
			return true;
	return false;
}

/*
 * Has the entrances that the configuration has.  Those that it had already, channels and
 * links stay.
 */
static bool set_entrances(void)
{
	const struct entrance_rule *rule;
	struct entrance *e;
	unsigned int i;

	for (i = 0; i < relay.entrances;) {
		e = relay.entrance[i];
		if (is_ruled(e)) {
			i++;
			continue;
		}
		close_entrance(e);
		free(e);
		relay.entrance[i] = relay.entrance[--relay.entrances];
	}
	for (i = 0; i < relay.config.entrances; i++) {
		rule = &relay.config.entrance[i];
		if (is_there(rule))
			continue;
		e = calloc(1, sizeof(*e));
		if (!e) {
			complain("no memory for --listen=%s",
				 printable(rule->path));
			return false;
		}
		e->source = SOURCE_ENTRANCE;
		e->rule = *rule;
		e->to = connection_for(rule);
		if (!e->to) {
			complain("more than %u relays to call", MAX_LINKS);
			free(e);
			return false;
		}
		relay.entrance[relay.entrances++] = e;
	}
	return true;
}

static bool read_keys(const struct config *config, struct keys *keys)
{
	memset(keys, 0, sizeof(*keys));
	return !config->key_file || !keys_read(config->key_file, keys);
}

static void settle_config(void)
{
	relay.settings = (struct link_settings){
		.keys = &relay.keys,
		.identity = relay.config.identity,
		.keepalive_ns = relay.config.keepalive_ns,
		.greeting_ns = GREETING_NS,
	};
	relay.engine.provider = relay.config.provider;
}

static void read_again(int argc, char **argv)
{
	struct config config;
	struct keys keys;

	if (!config_again(&config, argc, argv))
		return;
	if (!read_keys(&config, &keys)) {
		config_free(&config);
		return;
	}
	/* Where others than this machine can call nobody may without one. */
	if (relay.listening && relay.keys.count && !keys.count) {
		complain("--key goes with a restart only");
		config_free(&config);
		return;
	}
	if (strcmp(config.host, relay.config.host) ||
	    strcmp(config.port, relay.config.port) ||
	    strcmp(config.provider, relay.config.provider) ||
	    !config.services != !relay.config.services)
		complain(
			"--bind, --provider, and whether there is a --serve, change with a restart only");
	keys_forget(&relay.keys);
	config_free(&relay.config);
	relay.config = config;
	relay.keys = keys;
	settle_config();
	set_entrances();
}

/* ------------------------------------------------------------------------- loop */

static void handle(const struct evering_group_event *event)
{
	enum source *source = event->context;
	struct connection *c;

	if (!event->what)
		return;
	switch (*source) {
	case SOURCE_CHANNEL:
		channel_event(event->context, event);
		break;
	case SOURCE_CONNECTING:
		channel_connecting(event->context);
		break;
	case SOURCE_ENTRANCE:
		accept_clients(event->context);
		break;
	case SOURCE_ENGINE:
		answer();
		break;
	case SOURCE_EVENTS:
		c = (struct connection *)(void *)((char *)source -
						  offsetof(struct connection,
							   events));
		c->told = true;
		break;
	case SOURCE_LINK:
		/* All are stepped anyway. */
		break;
	}
}

static int serve(int argc, char **argv)
{
	const struct evering_group_event *events;
	int64_t next, left;
	bool idle;
	int i, n;

	while (!to_end) {
		if (to_read) {
			to_read = 0;
			read_again(argc, argv);
		}
		if (to_print) {
			to_print = 0;
			print_totals();
		}
		/* Before a look at the clock: what has come says that a link is alive. */
		idle = step_all() && all_idle();
		next = pass_time();
		left = next == INT64_MAX ? EVERING_WAIT_FOREVER :
					   next - clock_ns();
		if (!idle || (left < 0 && next != INT64_MAX))
			left = EVERING_NOWAIT;
		n = evering_group_wait(relay.group, &events, left);
		for (i = 0; i < n; i++)
			handle(&events[i]);
		if (n < 0 && n != -EAGAIN && n != -ETIMEDOUT && n != -EINTR) {
			complain("cannot wait: %s", strerror(-n));
			return EXIT_FAILURE;
		}
	}
	return to_end < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int start(void)
{
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	bool open = !relay.keys.count;
	int ret;

	params.policy = EVERING_BLOCK;
	ret = evering_group_open(&params, &relay.group);
	if (ret) {
		complain("cannot make a group: %s", strerror(-ret));
		return ret;
	}
	if (relay.config.services) {
		ret = engine_listen(&relay.engine, relay.config.host,
				    relay.config.port, open);
		if (ret == -EACCES)
			complain(
				"--bind=%s:%s: others than this machine could call: needs a --key",
				printable(relay.config.host),
				relay.config.port);
		else if (ret)
			complain("--bind=%s:%s: %s",
				 printable(relay.config.host),
				 relay.config.port, why_down(ret));
		if (ret)
			return ret;
		relay.listening = true;
		note("other relays call %s:%s", relay.config.host,
		     relay.config.port);
		relay.engine_source = SOURCE_ENGINE;
		ret = evering_group_add_fd(relay.group, relay.engine.eq_fd,
					   POLLIN, &relay.engine_source);
		if (ret)
			return ret;
	}
	return set_entrances() ? 0 : -E2BIG;
}

/* All ends, and both sides are told. */
static void leave(void)
{
	struct connection *c;
	unsigned int i;

	while (relay.entrances) {
		close_entrance(relay.entrance[--relay.entrances]);
		free(relay.entrance[relay.entrances]);
	}
	for (i = relay.connections; i > 0; i--) {
		c = relay.connection[i - 1];
		if (c->link && c->link->state == LINK_UP) {
			channels_leave(c);
			link_flush(c->link);
			link_step(c->link, false);
		}
		if (c->link) {
			channels_end(c, EVERING_PEER_RELAY_DIED);
			unwatch(c);
			link_close(c->link);
		}
		free_connection(c);
	}
	if (relay.listening)
		evering_group_remove_fd(relay.group, relay.engine.eq_fd);
	engine_close(&relay.engine);
	evering_group_close(relay.group);
	keys_forget(&relay.keys);
	config_free(&relay.config);
}

int main(int argc, char **argv)
{
	int status;

	begin_process();
	set_command("evering relay");
	prctl(PR_SET_NAME, "evering-relay");
	status = config_read(&relay.config, argc, argv);
	if (status >= 0)
		return close_output(status);
	if (!read_keys(&relay.config, &relay.keys))
		return close_output(EXIT_FAILURE);
	settle_config();
	status = start() ? EXIT_FAILURE : -1;
	if (status < 0) {
		catch_signals();
		status = serve(argc, argv);
	}
	leave();
	return close_output(status);
}
