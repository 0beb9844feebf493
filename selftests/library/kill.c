// SPDX-License-Identifier: MIT
/*
 * kill.c: SIGKILL at every step.  A victim acts a short story: sends, sleeps, lends,
 * answers, closes.  Its instructions are listed once, by stepping through them; then
 * it acts the story again and again, and is killed before another of them each time,
 * to which a breakpoint has led; and at random moments, which, unlike
 * instructions, also lie inside of system calls.
 *
 * The victim keeps a log, in memory that outlives it, of what it has begun and what
 * it has done.  So the survivor knows what it has to find: all that was done, perhaps
 * what was begun, whole, and nothing else; an outcome for each operation, once; all
 * of its arena; and a new peer at the same place, which is the next victim.  Or, every
 * second time, a successor, which is sent what the victim had not seen and nothing else.  Of
 * the dead nothing is left, be it in the file system, in the module or in memory.
 *
 * EVERING_KILLS=n kills n on each backend (default 1500), and goes on until it has
 * killed before each instruction that any of the stories takes.  Full run:
 *
 *	EVERING_KILLS=10000 build/selftests/kill
 *	EVERING_KILLS=10000 EVERING_BACKEND=device EVERING_VM_TIMEOUT=7200 \
 *	EVERING_VM_TEST_TIMEOUT=7200 tools/check/vm test 6.12 -- kill
 *
 * Nobody else may use the device meanwhile.
 */
#include "step.h"
#include "stories.h"

#include <elf.h>
#include <setjmp.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* As in death.c: a sanitizer's memory takes its time to be taken down. */
#define BOUND slow((SANITIZED ? 200 : 10) * MSEC)

/**
 * struct story - what the victim does, and what the survivor has to do with it
 * @ready: the victim, before it begins
 * @run: the victim
 * @before: the survivor, when the victim is ready
 * @act: the survivor, when the victim sleeps; false: it will for ever
 * @meets: there is no channel before
 * @socket: but a connected socket
 * @calls: the survivor connects
 * @passed: at a socket at which it listens, too
 * @lanes: as many channels are made in one meeting; 0: one
 * @ops: there is a table: the survivor's, and, unless @opens, the victim's
 * @inbox: whose requests wait for evering_op_next()
 * @serves: the survivor answers at once, else it keeps requests
 * @gives: with a buffer
 * @any_length: requests have their buffer instead of data
 * @store: messages and posts that the survivor stores; 0: as many as it does otherwise
 * @offsets: entries say where buffers are
 * @flags: of the channel
 */
struct story {
	void (*ready)(void);
	void (*run)(void);
	void (*before)(void);
	bool (*act)(void);
	bool meets, socket, calls, passed, ops, opens, inbox, serves, gives,
		offsets;
	bool any_length;
	unsigned int lanes;
	uint32_t store;
	uint32_t flags;
};

struct asked {
	unsigned int how;
	void *buf;
	unsigned int times;
};

/* How far a victim is to come. */
enum way {
	TO_THE_END,
	LISTED, /* the same, step by step */
	LED, /* to s.point */
};

/* The survivor. */
static struct {
	const struct story *story;
	uint32_t backend;
	uint64_t rng;
	struct evering_params p;
	const char *path[2];
	int sock[2];
	struct evering_listener *listener;

	pid_t pid;
	int stat_fd;
	enum way way;
	size_t point; /* number of a step, or microseconds */
	struct evering *ev;
	struct evering_ops *ops;
	/* Those that meet have these, in the order in which the victim ends them. */
	struct evering *lane[LANES];
	unsigned int n_lanes;
	struct asked asked[MOST];
	unsigned int n_asked, outcomes, answered;
	struct evering_request held[MOST];
	unsigned int n_held, requests;
	void *gifts[MOST];
	unsigned int n_gifts;
	struct evering_msg kept[MOST];
	unsigned int messages, n_freed;
	/* Whether the victim has a successor, and who that is. */
	bool succeeds;
	struct evering *heir;
	struct evering_ops *heirs_ops;
	unsigned int taken_over, inherited;
	uint32_t received;
	unsigned int acted;

	struct steps *steps;
	int64_t takes;
	int module_users;
	bool limited; /* to 1 MiB, and to the channels of one meeting, at a time */
	jmp_buf escape;
} s;

/* ---------------------------------------------------------------- the survivor */

#define FELL(...)                                                             \
	do {                                                                  \
		printf("# line %d, %s %zu of %zu: ", __LINE__,                \
		       s.way == LED ? "instruction" : "us", s.point,          \
		       s.way == LED ? s.steps->n : (size_t)(s.takes / USEC)); \
		printf(__VA_ARGS__);                                          \
		printf("\n");                                                 \
		longjmp(s.escape, 1);                                         \
	} while (0)

#define MUST(ok)                                 \
	do {                                     \
		if (!(ok))                       \
			FELL("not so: %s", #ok); \
	} while (0)

#define MUST_BE(seen, expected)                                                \
	do {                                                                   \
		long long seen_ = (seen), expected_ = (expected);              \
                                                                               \
		if (seen_ != expected_)                                        \
			FELL("%s is %lld, not %lld", #seen, seen_, expected_); \
	} while (0)

#define MUST_BE_AMONG(seen, low, high)                                         \
	do {                                                                   \
		long long seen_ = (seen), low_ = (low), high_ = (high);        \
                                                                               \
		if (seen_ < low_ || seen_ > high_)                             \
			FELL("%s is %lld, not %lld..%lld", #seen, seen_, low_, \
			     high_);                                           \
	} while (0)

/* Sends entry after entry. */
static void before_send(uint32_t count)
{
	uint32_t entry[LEN / 4], n;

	for (n = 0; n < count; n++) {
		fill_entry(entry, LEN, n, SALT);
		MUST_BE(evering_send(s.ev, entry, LEN, EVERING_NOWAIT), 0);
	}
}

static void before_receive(void)
{
	before_send(6);
}

static void before_release(void)
{
	before_send(ENTRIES);
	MUST_BE(evering_arm(s.ev, EVERING_TX), 0);
}

static void before_ring(void)
{
	MUST_BE(evering_arm(s.ev, EVERING_RX), 0);
}

/* The survivor asleep meanwhile: in a thread, that nobody may leave by longjmp(). */
static struct sleeper {
	pthread_t thread;
	bool there;
	uint32_t entries[MOST][LEN / 4];
	uint32_t n;
	int64_t told;
	int ret;
} sleeper;

static void *sleeper_main(void *arg)
{
	(void)arg;
	while (sleeper.n < MOST) {
		sleeper.ret = evering_recv(s.ev, sleeper.entries[sleeper.n],
					   LEN, PLENTY);
		if (sleeper.ret)
			break;
		sleeper.n++;
	}
	sleeper.told = now_ns();
	return NULL;
}

static void before_ring_asleep(void)
{
	const uint32_t *armed = &own_half(s.ev)->armed_rx;

	sleeper.n = 0;
	MUST(!pthread_create(&sleeper.thread, NULL, sleeper_main, NULL));
	sleeper.there = true;
	while (!(evering_load_acquire(armed) & EVERING_ARMED))
		sched_yield();
}

/* The same in a group, of which it is a member all the time, or comes and goes. */
static void *group_main(void *arg)
{
	const struct evering_group_event *events;
	bool moves = arg != NULL;
	struct evering_group *g;
	int n;

	sleeper.ret = evering_group_open(NULL, &g);
	if (sleeper.ret)
		return NULL;
	sleeper.ret = evering_group_add(g, s.ev, EVERING_RX, NULL);
	while (!sleeper.ret) {
		n = moves ? evering_group_poll(g, &events) :
			    evering_group_wait(g, &events, PLENTY);
		if (n < 0)
			sleeper.ret = n;
		else if (n && events[0].what == EVERING_GROUP_GONE)
			sleeper.ret = events[0].result;
		else if (n && sleeper.n < MOST)
			sleeper.n += !evering_recv(s.ev,
						   sleeper.entries[sleeper.n],
						   LEN, EVERING_NOWAIT);
		if (!moves || sleeper.ret)
			continue;
		sleeper.ret = evering_group_remove(g, s.ev);
		sched_yield();
		if (!sleeper.ret)
			sleeper.ret =
				evering_group_add(g, s.ev, EVERING_RX, NULL);
	}
	sleeper.told = now_ns();
	evering_group_close(g);
	return NULL;
}

static void before_group(void)
{
	const uint32_t *armed = &own_half(s.ev)->armed_rx;

	sleeper.n = 0;
	MUST(!pthread_create(&sleeper.thread, NULL, group_main, NULL));
	sleeper.there = true;
	while (!(evering_load_acquire(armed) & EVERING_ARMED))
		sched_yield();
}

static void before_moves(void)
{
	sleeper.n = 0;
	MUST(!pthread_create(&sleeper.thread, NULL, group_main, &sleeper));
	sleeper.there = true;
}

/* One each, the victim's or the end's; what is the survivor's is free again. */
static void outcome(struct evering_ops *ops, const struct evering_completion *c)
{
	struct asked *a = c->user;
	unsigned int i = (unsigned int)(a - s.asked);
	bool unseen;

	(void)ops;
	MUST_BE(++a->times, 1);
	s.outcomes++;
	if (c->flags & EVERING_ANSWERED) {
		/* Which the victim cannot have seen. */
		if (s.heir)
			MUST(i >= notes->did[TAKEN]);
		else
			s.answered++;
		MUST_BE(c->result, ANSWER + (int)i);
		MUST(!c->len ||
		     (c->len == DATA && check_entry(c->data, DATA, i, SALT)));
		if (c->buf) {
			MUST_BE(c->buf_len, BUFFER);
			MUST(intact(c->buf, BUFFER));
			if (c->buf != a->buf)
				MUST_BE(evering_free(s.ev, c->buf), 0);
		}
	} else {
		MUST_BE(c->result, s.succeeds ? -EOWNERDEAD : -EPIPE);
		MUST(!c->buf);
		unseen = c->flags & EVERING_UNSEEN;
		MUST(!unseen || !s.succeeds || a->how == EVERING_GIVE);
		MUST_BE(!unseen, !!(c->flags & EVERING_BEGUN));
		/* It calls back as soon as it has taken a request up, or later. */
		MUST(!unseen || i >= notes->did[TAKEN]);
		MUST(unseen || s.story->inbox || i <= notes->did[TAKEN]);
	}
	if (a->buf && (a->how == EVERING_LEND || c->buf == a->buf)) {
		MUST_BE(evering_free(s.ev, a->buf), 0);
		a->buf = NULL;
	}
}

static void ask_victim(unsigned int how, unsigned int count)
{
	uint32_t data[DATA / 4];
	struct evering_op op;
	struct asked *a;

	while (count--) {
		a = &s.asked[s.n_asked];
		fill_entry(data, DATA, s.n_asked, SALT);
		a->how = how;
		if (how) {
			a->buf = evering_alloc(s.ev, BUFFER, 0);
			MUST(a->buf);
			fill_entry(a->buf, BUFFER, s.n_asked, SALT_BUFFER);
		}
		op = hands(how, a->buf, how ? BUFFER : 0, NULL);
		op.opcode = s.n_asked++;
		op.data = data;
		op.len = DATA;
		op.done = outcome;
		op.user = a;
		MUST_BE(evering_op_submit(s.ops, &op, NULL, EVERING_NOWAIT), 0);
	}
	evering_ops_flush(s.ops);
}

static void before_answer(void)
{
	ask_victim(0, 3);
}

static void before_answer_lent(void)
{
	ask_victim(EVERING_LEND, 3);
}

static void before_answer_given(void)
{
	ask_victim(EVERING_GIVE, 4);
}

static void requested(struct evering_ops *ops, const struct evering_request *r,
		      void *context)
{
	void *buf;
	int i, ret;

	(void)context;
	MUST_BE(r->opcode, s.requests);
	MUST(s.requests++ < MOST);
	if (!s.story->any_length || !r->buf) {
		MUST_BE(r->len, DATA);
		MUST(check_entry(r->data, DATA, r->opcode, SALT));
	}
	if (r->buf) {
		MUST_BE(r->buf_len, BUFFER);
		MUST(intact(r->buf, BUFFER));
	}
	if (r->flags & EVERING_GIVE)
		s.gifts[s.n_gifts++] = r->buf;
	for (i = 0; i < MOST; i++)
		if (r->buf && s.asked[i].buf == r->buf)
			s.asked[i].buf = NULL; /* it came back */
	if (r->flags & EVERING_POST)
		return;
	if (!s.story->serves) {
		s.held[s.n_held++] = *r;
		return;
	}
	if (!s.story->gives) {
		ret = evering_op_answer(ops, r->id, ANSWER + (int)r->opcode,
					NULL, 0);
		MUST(!ret || ret == -EPIPE); /* if it is known to be dead */
		return;
	}
	buf = evering_alloc(s.ev, BUFFER, 0);
	MUST(buf);
	fill_entry(buf, BUFFER, 3000, SALT_BUFFER);
	ret = evering_op_answer_buffer(ops, r->id, ANSWER + (int)r->opcode, buf,
				       BUFFER);
	MUST(!ret || ret == -EPIPE);
	if (ret)
		MUST_BE(evering_free(s.ev, buf), 0);
}

/* In order, and whole.  It is kept: until the victim needs its credit, or has died. */
static void messaged(struct evering_ops *ops, const struct evering_msg *msg,
		     void *context)
{
	(void)ops;
	(void)context;
	MUST(s.messages < MOST);
	MUST(is_message(msg, s.messages));
	s.kept[s.messages++] = *msg;
}

static void free_message(void)
{
	struct evering_msg *msg = &s.kept[s.n_freed];

	MUST(is_message(msg, s.n_freed++));
	MUST_BE(evering_msg_free(s.ops, msg), 0);
	MUST_BE(evering_msg_free(s.ops, msg), -EINVAL);
}

static void send_message_to_victim(uint32_t n)
{
	uint32_t text[BUFFER / 4];
	const struct iovec iov = { text, message_len(n) };

	fill_entry(text, BUFFER, n, SALT_BUFFER);
	MUST_BE(evering_msg_send(s.ops, &iov, 1, EVERING_NOWAIT), 0);
}

static void before_receive_messages(void)
{
	uint32_t n;

	for (n = 0; n < 4; n++)
		send_message_to_victim(n);
}

static void before_take_posts(void)
{
	uint32_t data[DATA / 4], n;
	struct evering_op op;

	for (n = 0; n < 4; n++) {
		fill_entry(data, DATA, n, SALT);
		op = hands(EVERING_GIVE, evering_alloc(s.ev, BUFFER, 0), BUFFER,
			   NULL);
		MUST(op.buf);
		fill_entry(op.buf, BUFFER, n, SALT_BUFFER);
		op.opcode = n;
		op.data = data;
		op.len = DATA;
		MUST_BE(evering_op_post(s.ops, &op, EVERING_NOWAIT), 0);
	}
	evering_ops_flush(s.ops);
}

/* ----------------------------------------------------- when the victim sleeps */

/*
 * As much as the victim waits for.  It may sleep once more, and not for an entry: a
 * socket that it closes takes it a moment.
 */
static bool act_send(void)
{
	uint32_t entry[LEN / 4];

	if (s.acted == 2)
		return true;
	fill_entry(entry, LEN, s.acted++, SALT);
	MUST_BE(evering_send(s.ev, entry, LEN, EVERING_NOWAIT), 0);
	return true;
}

static bool act_not(void)
{
	return false;
}

static void take_entry(const uint32_t *entry)
{
	struct where where;

	if (s.story->offsets) {
		memcpy(&where, entry, sizeof(where));
		MUST_BE(where.len, BUFFER);
		entry = evering_peer_buffer(s.ev, where.offset, where.len);
		MUST(entry && intact(entry, BUFFER));
	} else {
		MUST(check_entry(entry, LEN, s.received, SALT));
	}
	s.received++;
}

static bool act_receive(void)
{
	uint32_t entry[LEN / 4];
	int i;

	for (i = 0; i < ENTRIES / 2; i++) {
		if (evering_recv(s.ev, entry, LEN, EVERING_NOWAIT))
			break;
		take_entry(entry);
	}
	return true;
}

static bool act_serve(void)
{
	MUST(evering_ops_poll(s.ops) >= 0);
	return true;
}

static bool act_ask(void)
{
	if (!s.acted++)
		ask_victim(0, 1);
	return true;
}

static bool act_tell(void)
{
	if (s.acted++)
		return true;
	send_message_to_victim(4);
	send_message_to_victim(6);
	return true;
}

static bool act_free(void)
{
	MUST(evering_ops_poll(s.ops) >= 0);
	if (s.n_freed < s.messages)
		free_message();
	/* So that the victim knows of it. */
	MUST(evering_ops_poll(s.ops) >= 0);
	return true;
}

static unsigned int lanes_of(const struct story *story)
{
	return story->lanes ? story->lanes : 1;
}

/* Whoever is there; false: nobody. */
static bool accept_one(void)
{
	int ret;

	if (s.n_lanes == lanes_of(s.story))
		return false;
	ret = evering_accept(s.listener, NULL, EVERING_NOWAIT,
			     &s.lane[s.n_lanes]);
	MUST(!ret || ret == -EAGAIN);
	s.n_lanes += !ret;
	return !ret;
}

static bool act_accept(void)
{
	accept_one();
	return true;
}

/* The survivor, too, when the other side has to be there for it. */
static struct caller {
	pthread_t thread;
	bool there;
	bool done;
	struct evering *ev[LANES];
	int ret;
} caller;

static void *caller_main(void *arg)
{
	(void)arg;
	if (s.story->run == story_connect_fd)
		caller.ret =
			evering_accept_fd(s.sock[0], NULL, PLENTY, caller.ev);
	else if (s.story->run == story_accept_fd)
		caller.ret =
			evering_connect_fd(s.sock[0], &s.p, PLENTY, caller.ev);
	else
		caller.ret = evering_connect_many(
			s.path[1], &s.p, lanes_of(s.story), PLENTY, caller.ev);
	tell(&caller.done);
	return NULL;
}

static bool act_call(void)
{
	if (!caller.there) {
		caller.done = false;
		MUST(!pthread_create(&caller.thread, NULL, caller_main, NULL));
		caller.there = true;
	}
	return true;
}

/* All lanes, of which the victim ends the last one first, or none. */
static void called(void)
{
	unsigned int i, n = lanes_of(s.story);
	int ret;

	pthread_join(caller.thread, NULL);
	caller.there = false;
	ret = caller.ret;
	if (ret == -ECONNRESET || ret == -ECONNREFUSED)
		return;
	MUST_BE(ret, s.story->socket ? 0 : (int)n);
	for (i = 0; i < n; i++)
		s.lane[i] = caller.ev[n - 1 - i];
	s.n_lanes = n;
}

static void open_table(void)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

	p.request = requested;
	p.message = messaged;
	if (s.succeeds)
		p.flags = EVERING_REPLACEABLE;
	if (s.story->store)
		p.store = s.story->store;
	MUST_BE(evering_ops_open(s.ev, &p, &s.ops), 0);
}

/*
 * Asks a server, as soon as that has a table.  To look at a buffer for the first time
 * takes many instructions, which one such story is enough for.
 */
static bool act_be_served(void)
{
	int ret = evering_ops_poll(s.ops);

	/* In the end it sleeps when it has closed. */
	MUST(ret >= 0 || (ret == -EPIPE && notes->began[CLOSED]));
	if (info_of(s.ops).depth && !s.acted++)
		ask_victim(s.story->calls ? 0 : EVERING_LEND, ASKS);
	return true;
}

static bool act_accept_and_serve(void)
{
	int ret;

	if (accept_one()) {
		s.ev = s.lane[0];
		open_table();
	}
	ret = s.ops ? evering_ops_poll(s.ops) : 0;
	MUST(ret >= 0 || (ret == -EPIPE && notes->began[CLOSED]));
	return true;
}

static bool act_call_server(void)
{
	if (s.ops)
		return act_be_served();
	if (!caller.there || !look(&caller.done))
		return act_call();
	/* Else, if there was nobody, it calls again. */
	called();
	if (s.n_lanes) {
		s.ev = s.lane[0];
		open_table();
	}
	return true;
}

/* ----------------------------------------------------------- a victim is born */

/* Stories may share arenas. */
static const struct evering_params *limits_of_story(void)
{
	static struct evering_params limits = EVERING_LIMITS_INIT;

	limits.flags = s.p.flags;
	return &limits;
}

/* Where the victim listened: a child of its, which dies with it, may do so a moment. */
static int listen_again(struct evering_listener **l)
{
	int64_t end = now_ns() + PLENTY;
	int ret;

	do
		ret = evering_listen(s.path[1], 0600, l);
	while (ret == -EADDRINUSE && now_ns() < end);
	return ret;
}

static int meet_survivor(int k)
{
	if (k)
		return evering_connect(s.path[0], &s.p, PLENTY, &v.ev);
	/* The socket file that this one leaves is replaced by the next one. */
	if (listen_again(&v.listener))
		return -1;
	return evering_accept(v.listener, limits_of_story(), PLENTY, &v.ev);
}

static int victim_main(void *arg)
{
	int k = *(int *)arg;

	v.p = s.p;
	v.has_inbox = s.story->inbox;
	v.path = s.path[s.story->calls];
	v.sock = s.sock[1];
	victim_writes();
	if (!s.story->meets) {
		NEED(!meet_survivor(k & 1));
		victim_prepares(s.story->ops && !s.story->opens);
		if (s.story->ready)
			s.story->ready();
	}
	tell(&notes->ready);
	while (!look(&notes->go))
		sched_yield();
	if (s.way == LISTED)
		NEED(!steps_note(s.steps));
	else if (s.way == LED)
		NEED(!steps_lead(s.steps, s.point));
	tell(&notes->running);
	s.story->run();
	tell(&s.steps->over);
	tell(&notes->over);
	await_death();
}

static void meet_victim(int k)
{
	int64_t end = now_ns() + PLENTY;
	int ret;

	if (k) {
		MUST_BE(evering_accept(s.listener, limits_of_story(), PLENTY,
				       &s.ev),
			0);
	} else {
		while ((ret = evering_connect(s.path[1], &s.p, PLENTY,
					      &s.ev)) &&
		       now_ns() < end) {
			/* Or a child of the one before listens there, and dies. */
			MUST(ret == -ENOENT || ret == -ECONNREFUSED ||
			     ret == -ECONNRESET);
			sleep_ns(50 * USEC);
		}
		MUST_BE(ret, 0);
	}
	if (s.story->ops) {
		open_table();
		while (!s.story->opens && !info_of(s.ops).depth)
			MUST(evering_ops_wait(s.ops, PLENTY) > 0);
	}
}

/* As a service manager does: the server is one of those that have it. */
static void pass_socket(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	snprintf(name.sun_path, sizeof(name.sun_path), "%s", s.path[1]);
	s.sock[1] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	MUST(s.sock[1] >= 0);
	MUST(!bind(s.sock[1], (struct sockaddr *)&name, sizeof(name)));
	MUST(!listen(s.sock[1], 8));
	s.sock[0] = fcntl(s.sock[1], F_DUPFD_CLOEXEC, 0);
	MUST(s.sock[0] >= 0);
}

/* @k: odd or even, for what is to be done one way or the other. */
static void bear(int k, enum way way)
{
	char path[64];

	memset(notes, 0, sizeof(*notes));
	s.steps->over = s.steps->arrived = false;
	if (way == LISTED)
		s.steps->n = 0;
	memset(s.asked, 0, sizeof(s.asked));
	s.n_asked = s.outcomes = s.answered = 0;
	s.n_held = s.requests = s.n_gifts = s.received = s.acted = 0;
	s.messages = s.n_freed = s.n_lanes = 0;
	s.succeeds = !s.story->meets && random_below(&s.rng, 2);
	s.taken_over = s.inherited = 0;
	s.way = way;
	if (s.story->socket)
		MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
				 s.sock));
	if (s.story->passed)
		pass_socket();
	s.pid = spawn(victim_main, &k);
	MUST(s.pid > 0);
	if (s.story->socket || s.story->passed)
		close(s.sock[1]);
	snprintf(path, sizeof(path), "/proc/%d/stat", s.pid);
	s.stat_fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(s.stat_fd >= 0);
	if (!s.story->meets)
		meet_victim(k & 1);
	while (!look(&notes->ready) && !notes->failed)
		sched_yield();
	if (s.story->before && !notes->failed)
		s.story->before();
	tell(&notes->go);
}

/* ---------------------------------------------------------- and led to its end */

/* It sleeps in a system call. */
static bool sleeps(void)
{
	char stat[512], *state;
	ssize_t n = pread(s.stat_fd, stat, sizeof(stat) - 1, 0);

	if (n <= 0)
		return false;
	stat[n] = 0;
	state = strrchr(stat, ')');
	return state && state[1] && state[2] == 'S';
}

/* Does what the victim waits for; false: its story goes on no further. */
static bool goes_on(void)
{
	if (look(&notes->over) || notes->failed)
		return false;
	if (s.story->act && sleeps())
		return s.story->act();
	/* A victim that steps takes its time, and wants the CPU. */
	if (s.way == TO_THE_END)
		sched_yield();
	else
		sleep_ns(slow(20 * USEC));
	return true;
}

/* To the end of its story, or where it is to be led. */
static void follow(void)
{
	int64_t start = now_ns(), took = 0;

	while (!look(&s.steps->arrived) && goes_on()) {
		took = now_ns() - start;
		if (took > PLENTY)
			FELL("the victim does not go on");
	}
	if (s.way == TO_THE_END && (!s.takes || took < s.takes))
		s.takes = took;
}

/* For @ns, unless it ends before. */
static void follow_for(int64_t ns)
{
	int64_t start = now_ns();
	bool on = true;

	while (!look(&notes->running) && !notes->failed &&
	       now_ns() - start < PLENTY)
		;
	start = now_ns();
	while (now_ns() - start < ns)
		on = on && goes_on();
}

/* ------------------------------------------------------------ what is left then */

static int drain(void)
{
	uint32_t entry[LEN / 4];
	int ret;

	if (s.ops) {
		do
			ret = evering_ops_wait(s.ops, PLENTY);
		while (ret > 0 || ret == -EINTR);
		return ret;
	}
	while (!(ret = evering_recv(s.ev, entry, LEN, PLENTY)) || ret == -EINTR)
		if (!ret)
			take_entry(entry);
	return ret;
}

/* What only the victim could have back. */
static void finish_held(void)
{
	unsigned int i;

	for (i = 0; i < s.n_held; i++) {
		if (s.held[i].buf)
			MUST(intact(s.held[i].buf, BUFFER));
		MUST_BE(evering_op_answer(s.ops, s.held[i].id, 0, NULL, 0),
			-EPIPE);
	}
	s.n_held = 0;
	while (s.n_freed < s.messages)
		free_message();
}

/* All that was given, lent and held, of which nothing may be lost now. */
static void settle_table(void)
{
	struct evering_ops_info info;
	unsigned int i;

	finish_held();
	for (i = 0; i < s.n_gifts; i++) {
		MUST(intact(s.gifts[i], BUFFER));
		MUST_BE(evering_free(s.ev, s.gifts[i]), 0);
	}
	MUST_BE(s.outcomes, s.n_asked);
	MUST_BE_AMONG(s.answered, notes->did[ANSWERED], notes->began[ANSWERED]);
	MUST_BE_AMONG(s.requests, notes->did[ASKED], notes->began[ASKED]);
	MUST_BE_AMONG(s.messages, notes->did[TOLD], notes->began[TOLD]);
	evering_ops_get_info(s.ops, &info);
	MUST_BE(info.in_flight, 0);
	MUST_BE(info.abandoned, 0);
	MUST_BE(info.done, 0);
	MUST_BE(info.held, 0);
	MUST_BE(info.homebound, 0);
	MUST_BE(evering_ops_poll(s.ops), -EPIPE);
	evering_ops_close(s.ops);
	s.ops = NULL;
}

static void settle_ring(void)
{
	uint32_t entry[LEN / 4] = { 0 };
	int i, ret = 0;

	/* Whoever has just been met may have been killed before it did anything. */
	MUST_BE_AMONG(s.received, notes->did[SENT], notes->began[SENT]);
	MUST_BE(evering_wait(s.ev, EVERING_RX, PLENTY), -EPIPE);
	MUST_BE(evering_arm(s.ev, EVERING_RX), -EPIPE);
	for (i = 0; i <= ENTRIES && !ret; i++)
		ret = evering_send(s.ev, entry, LEN, PLENTY);
	MUST_BE(ret, -EPIPE);
}

/*
 * Nothing is unseen that the victim has acted on, nor begun what it can not have taken up.
 * Before it has received once, nobody knows that it only acts on what it receives.
 */
static void check_fate(void)
{
	uint32_t sent = s.ev->tx.next, taken;
	struct evering_fate_info fate;

	MUST_BE(evering_fate(s.ev, &fate), 0);
	taken = sent - fate.unseen;
	MUST(fate.unseen + fate.begun <= sent);
	if (s.ops || s.n_lanes)
		MUST(taken >= notes->did[TAKEN]);
	else if (taken != sent || notes->did[TAKEN])
		MUST_BE_AMONG(taken, notes->did[TAKEN], notes->began[TAKEN]);
}

/* The successor is asked, in order, for what the victim has not seen. */
static void inherit_request(struct evering_ops *ops,
			    const struct evering_request *r, void *context)
{
	(void)context;
	MUST_BE(r->flags & EVERING_AGAIN, 0);
	if (s.taken_over)
		MUST(r->opcode > s.inherited);
	s.inherited = r->opcode;
	s.taken_over++;
	MUST(r->opcode >= notes->did[TAKEN]);
	MUST(check_entry(r->data, DATA, r->opcode, SALT));
	if (r->buf)
		MUST(intact(r->buf, BUFFER));
	if (r->flags & EVERING_GIVE)
		MUST_BE(evering_free(ops->ev, r->buf), 0);
	if (!(r->flags & EVERING_POST))
		MUST_BE(evering_op_answer(ops, r->id, ANSWER + (int)r->opcode,
					  NULL, 0),
			0);
}

static void inherit_message(struct evering_ops *ops,
			    const struct evering_msg *msg, void *context)
{
	unsigned int n = s.inherited;

	(void)context;
	while (n < MOST && !is_message(msg, n))
		n++;
	MUST(n < MOST);
	s.taken_over++;
	s.inherited = n + 1;
	MUST_BE(evering_msg_free(ops, msg), 0);
}

/* Survivor and successor, of which neither waits for the other. */
static void meet_heir(void)
{
	struct evering_connecting *c;
	struct evering *same = NULL;
	int64_t end = now_ns() + PLENTY;
	int ret, accepted;

	MUST_BE(evering_replace_begin(s.ev, s.path[0], 0, PLENTY, &c), 0);
	do {
		ret = evering_connecting_step(c, &same);
		accepted = s.heir ?
				   0 :
				   evering_accept(s.listener, limits_of_story(),
						  EVERING_NOWAIT, &s.heir);
		MUST(!accepted || accepted == -EAGAIN);
	} while (ret == -EAGAIN && now_ns() < end);
	evering_connecting_close(c);
	MUST_BE(ret, 0);
	MUST(same == s.ev && s.heir);
	MUST_BE(evering_predecessors(s.heir), 1);
}

/* Of the last @unseen entries, how many a successor is to have. */
static unsigned int heirs_share(uint32_t unseen)
{
	const struct evering_tx *tx = &s.ev->tx;
	struct evering_op_header h;
	unsigned int n = 0;

	for (; unseen; unseen--) {
		memcpy(&h, evering__tx_slot(tx, tx->next - unseen), sizeof(h));
		n += h.type == EVERING_OP_REQUEST ||
		     h.type == EVERING_OP_POST || h.type == EVERING_OP_MESSAGE;
	}
	return n;
}

static void serve_heir(void)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	int idle;

	p.request = inherit_request;
	p.message = inherit_message;
	MUST_BE(evering_ops_open(s.heir, &p, &s.heirs_ops), 0);
	for (idle = 0; idle < 2; idle++)
		if (evering_ops_poll(s.ops) > 0 ||
		    evering_ops_poll(s.heirs_ops) > 0)
			idle = -1;
	MUST_BE(s.outcomes, s.n_asked);
}

/* Those that were sent last. */
static void receive_as_heir(uint32_t unseen)
{
	uint32_t entry[LEN / 4], sent = s.acted, i;

	if (s.story->before == before_receive)
		sent = 6;
	else if (s.story->before == before_release)
		sent = ENTRIES;
	for (i = 0; i < unseen; i++) {
		MUST_BE(evering_recv(s.heir, entry, LEN, EVERING_NOWAIT), 0);
		MUST(check_entry(entry, LEN, sent - unseen + i, SALT));
	}
	MUST(!evering_peek(s.heir));
}

/* A successor comes, takes over what there is, and goes as well. */
static void succeed(void)
{
	struct evering_fate_info fate;
	unsigned int share = 0;

	MUST_BE(evering_fate(s.ev, &fate), 0);
	if (s.ops) {
		finish_held();
		share = heirs_share(fate.unseen);
	}
	meet_heir();
	if (s.ops)
		serve_heir();
	else
		receive_as_heir(fate.unseen);
	MUST_BE(s.taken_over, share);
	evering_close(s.heir);
	s.heir = NULL;
	MUST_BE(drain(), -EPIPE);
}

/* @n: channels that the victim ends before this one. */
static void settle(unsigned int n)
{
	int peer;

	peer = evering_peer(s.ev);
	if (notes->did[CLOSED] > n)
		MUST_BE(peer, EVERING_PEER_CLOSED);
	else if (notes->did[STANDS])
		MUST(peer == EVERING_PEER_RELAY_DIED ||
		     (notes->began[CLOSED] > n && peer == EVERING_PEER_CLOSED));
	else if (notes->began[STANDS])
		MUST(peer == EVERING_PEER_RELAY_DIED ||
		     peer == EVERING_PEER_DIED);
	else if (notes->began[CLOSED] <= n)
		MUST_BE(peer, EVERING_PEER_DIED);
	else
		MUST(peer == EVERING_PEER_DIED || peer == EVERING_PEER_CLOSED);
	check_fate();
	if (s.succeeds)
		succeed();
	if (s.ops)
		settle_table();
	else
		settle_ring();
	MUST(arena_whole(s.ev));
	evering_close(s.ev);
	s.ev = NULL;
}

static bool is_there(const char *path)
{
	return !access(path, F_OK);
}

/* Who was called may have lived to answer, or not. */
static void settle_call(void)
{
	struct evering_listener *l;

	if (caller.there)
		called();
	if (s.story->socket) {
		if (!s.n_lanes)
			close(s.sock[0]);
		return;
	}
	/* What it has left behind is in nobody's way. */
	MUST_BE(listen_again(&l), 0);
	MUST(is_there(s.path[1]));
	evering_listener_close(l);
	MUST(!is_there(s.path[1]));
}

/* Whom this one has let in until the call ended, if it was not the victim. */
static struct evering *let_in(struct evering_listener *l)
{
	struct evering *ev = NULL;
	int ret;

	while (!look(&caller.done)) {
		ret = ev ? 0 : evering_accept(l, NULL, EVERING_NOWAIT, &ev);
		MUST(!ret || ret == -EAGAIN);
		sched_yield();
	}
	return ev;
}

/* Another server has the socket, too: who was not let in yet is not lost. */
static void settle_passed(struct evering_listener *l)
{
	struct evering *ev;

	if (!caller.there)
		return;
	ev = let_in(l);
	called();
	if (!ev)
		return;
	MUST_BE(s.n_lanes, 1);
	MUST(!notes->did[MET]);
	evering_close(ev);
	evering_close(s.lane[0]);
	s.n_lanes = 0;
}

/* And it goes on. */
static void serve_next(struct evering_listener *l)
{
	struct evering *ev;

	act_call();
	ev = let_in(l);
	pthread_join(caller.thread, NULL);
	caller.there = false;
	MUST_BE(caller.ret, 1);
	evering_close(ev);
	evering_close(caller.ev[0]);
	evering_listener_close(l);
	MUST(!unlink(s.path[1]));
}

static void settle_accept(void)
{
	uint64_t refused = evering_listener_refused(s.listener, NULL);
	int error;

	/* Its last words are still to be heard. */
	while (accept_one())
		;
	MUST(!s.n_lanes || s.n_lanes == lanes_of(s.story));
	if (evering_listener_refused(s.listener, &error) != refused)
		MUST_BE(error, -ECONNRESET);
}

/* Whoever was met, or nearly. */
static void settle_meeting(void)
{
	struct evering_listener *l = NULL;
	unsigned int i;

	if (s.story->passed) {
		MUST_BE(evering_listen_fd(s.sock[0], &l), 0);
		settle_passed(l);
	} else if (s.story->calls) {
		settle_call();
	} else {
		settle_accept();
	}
	MUST(s.n_lanes || !notes->did[MET]);
	/* All that came over any, before what came over all is counted. */
	for (i = 0; i < s.n_lanes; i++) {
		s.ev = s.lane[i];
		if (s.story->ops && !s.ops)
			open_table();
		MUST_BE(drain(), -EPIPE);
	}
	for (i = 0; i < s.n_lanes; i++) {
		s.ev = s.lane[i];
		settle(i);
	}
	if (l)
		serve_next(l);
}

/* ------------------------------------------------------------ one of many deaths */

/*
 * From the kill until the survivor, who slept, is told; from the kill until the
 * victim is dead, and from then until a survivor who has to look knows it.
 */
static struct delays {
	size_t n;
	int64_t ns[1024];
} told, died, knew;

static void note_delay(struct delays *d, int64_t ns)
{
	if (d->n < sizeof(d->ns) / sizeof(d->ns[0]))
		d->ns[d->n++] = ns;
}

static int64_t median_delay(struct delays *d)
{
	return d->n ? median_of(d->ns, d->n) : 0;
}

static void reap_victim(void)
{
	int status;

	MUST_BE(waitpid(s.pid, &status, 0), s.pid);
	s.pid = 0;
	MUST_BE(status, SIGKILL);
}

static void wake_sleeper(void)
{
	uint32_t i;

	pthread_join(sleeper.thread, NULL);
	sleeper.there = false;
	MUST_BE(sleeper.ret, -EPIPE);
	for (i = 0; i < sleeper.n; i++)
		take_entry(sleeper.entries[i]);
}

/* Told by the descriptor, of what was armed before. */
static void poll_armed(unsigned int what)
{
	struct pollfd fd = { .fd = evering_fd(s.ev),
			     .events = evering_events(s.ev, what) };

	MUST_BE(poll(&fd, 1, (int)(PLENTY / MSEC)), 1);
}

/* The victim is dead since @start, or is about to be. */
static void mourn(int k, int64_t start)
{
	int64_t end;

	if (sleeper.there) {
		wake_sleeper();
		note_delay(&told, max_of(sleeper.told - start, 0));
		reap_victim();
		return;
	}
	if (k & 2) {
		reap_victim();
		end = now_ns();
		note_delay(&died, end - start);
		/* Whether that was in time the median says: see all_in_time(). */
		MUST(EVENTUALLY(evering_peer(s.ev) != EVERING_PEER_ALIVE));
		note_delay(&knew, now_ns() - end);
		MUST_BE(drain(), -EPIPE);
		return;
	}
	if (s.story->before == before_ring)
		poll_armed(EVERING_RX);
	else if (s.story->before == before_release)
		poll_armed(EVERING_TX);
	MUST_BE(drain(), -EPIPE);
	note_delay(&told, now_ns() - start);
	reap_victim();
}

/* Channels, by the module's count: each endpoint's file is one. */
static int module_users(void)
{
	char users[16] = "";
	int fd;

	if (s.backend != EVERING_BACKEND_DEVICE)
		return 0;
	fd = open("/sys/module/evering/refcnt", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	MUST(read(fd, users, sizeof(users) - 1) > 0);
	close(fd);
	return atoi(users);
}

static void bury(int k)
{
	int64_t start = now_ns();

	MUST_BE(kill(s.pid, SIGKILL), 0);
	close(s.stat_fd);
	if (notes->failed)
		FELL("the victim failed in line %d with %d", notes->failed,
		     notes->error);
	if (s.story->meets) {
		reap_victim();
		settle_meeting();
	} else {
		mourn(k, start);
		settle(0);
	}
	/* A child that closes for the victim what others gave it ends a moment later. */
	if (!EVENTUALLY(module_users() == s.module_users))
		MUST_BE(module_users(), s.module_users);
}

/* ------------------------------------------------------------ before each place */

/* An instruction that stories take; who was to be killed before it, and who was. */
struct place {
	uintptr_t at;
	unsigned int tries, kills;
};

#define PLACES (1u << 16)
#define STORIES 67

/* What the tests on a backend, each a process of its own, know of each other. */
struct tally {
	unsigned int stories, kills;
	long long charged; /* at first */
	struct place place[PLACES];
};

static struct tally *tallies, *tally;

/* Where that is, or would be. */
static struct place *place_of(uintptr_t at)
{
	size_t i = (uint64_t)at * 0x9e3779b97f4a7c15u >> 48;

	while (tally->place[i].at && tally->place[i].at != at)
		i = (i + 1) % PLACES;
	return &tally->place[i];
}

/* How much a place has had; nobody need come there, if once in three times. */
static unsigned int share_of(size_t point)
{
	const struct place *place = place_of(s.steps->at[point]);

	return place->kills ? 3 + place->tries : place->tries;
}

#define SPARED(point) (share_of(point) < 3)

/* One of the steps with the least. */
static size_t next_point(void)
{
	size_t i = random_below(&s.rng, s.steps->n), best = i, n;

	for (n = 1; n < s.steps->n && share_of(best); n++) {
		i = (i + 1) % s.steps->n;
		if (share_of(i) < share_of(best))
			best = i;
	}
	return best;
}

/* The story to its end. */
static void live(int k, enum way way)
{
	bear(k, way);
	follow();
	bury(k);
	MUST(notes->over || s.story->act == act_not);
}

/* False: it did not come there. */
static bool kill_at(size_t point)
{
	struct place *place = place_of(s.steps->at[point]);
	int k = (int)random_below(&s.rng, 4);

	s.point = point;
	place->tries++;
	bear(k, LED);
	follow();
	if (look(&s.steps->arrived))
		place->kills++;
	bury(k);
	return look(&s.steps->arrived);
}

static void kill_at_some_time(void)
{
	int k = (int)random_below(&s.rng, 4);

	s.point = random_below(&s.rng, (uint64_t)(s.takes / USEC) + 2);
	bear(k, TO_THE_END);
	follow_for((int64_t)s.point * USEC);
	bury(k);
}

/*
 * So many in a row do not come where they are led to if breakpoints do not work here,
 * or nothing is as it was listed; some do not because the other side was faster.
 */
#define ASTRAY 20

/* At least @count, and if @all before each place that was spared so far. */
static void kill_many(int count, bool all)
{
	int i, led = 0, arrived = 0;
	size_t point = 0;

	for (i = 0;; i++) {
		if (STEPS)
			point = next_point();
		if (i >= count && !(STEPS && all && SPARED(point)) &&
		    (!led || arrived || led >= ASTRAY))
			break;
		if (!STEPS || i % 4 == 2) {
			kill_at_some_time();
			continue;
		}
		led++;
		arrived += kill_at(point);
	}
	tally->kills += (unsigned int)i;
	printf("# kills: %d, %d at some of %zu steps, %d elsewhere, %d at some time\n",
	       i, arrived, s.steps->n, led - arrived, i - led);
	MUST(!led || arrived);
}

/*
 * A death and the news of it take a turn of a CPU each, which may have much else to
 * do: then what counts is the difference, and some more deaths are tried.  Code that
 * is late is late every time.
 */
static bool in_time(void)
{
	int64_t t = median_delay(&told), d = median_delay(&died);
	int64_t k = median_delay(&knew);

	if (told.n)
		printf("# told after %lld us, %lld at most; dead after %lld; known %lld later\n",
		       (long long)(t / USEC),
		       (long long)(told.ns[told.n - 1] / USEC),
		       (long long)(d / USEC), (long long)(k / USEC));
	return k < BOUND && (t < BOUND || (d && t - d < BOUND));
}

static void all_in_time(void)
{
	int i, round = 0;

	while (!in_time()) {
		MUST(round++ < 5);
		told.n = died.n = knew.n = 0;
		for (i = 0; i < 20; i++)
			kill_at_some_time();
	}
}

/* --------------------------------------------------- and nothing is left of them */

struct weight {
	int fds, mappings;
	size_t heap;
};

static struct weight weigh(void)
{
	struct weight w = { count_fds(), count_mappings(), 0 };

	if (!SANITIZED)
		w.heap = heap_bytes();
	return w;
}

/* As leak.c: what malloc() keeps for itself. */
#define HEAP_SLACK 4000

/* The quota, to the byte. */
static void quota_is_left(void)
{
	struct evering_params p = s.p;
	struct evering *ev[2];

	if (!s.limited)
		return;
	p.arena_size[0] = (1 << 20) - 3 * PAGE - p.arena_size[1];
	MUST_BE(evering_pair(&p, ev), 0);
	close_pair(ev);
}

/*
 * What this test's memory cgroup is charged for, be it user space's or the kernel's;
 * in a guest, where there is nobody else in it.  -1: there is none.
 */
static long long charged(void)
{
	char group[128], path[192];
	long long bytes = -1;
	FILE *f;

	f = getenv("EVERING_GUEST") ? fopen("/proc/self/cgroup", "re") : NULL;
	if (!f || fscanf(f, "0::%127s", group) != 1)
		group[0] = 0;
	if (f)
		fclose(f);
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.current", group);
	f = group[0] ? fopen(path, "re") : NULL;
	if (f && fscanf(f, "%lld", &bytes) != 1)
		bytes = -1;
	if (f)
		fclose(f);
	return bytes;
}

/*
 * A CPU keeps a little for its next charge.  A channel takes 140 KiB, and even the
 * shortest run has had hundreds in the end.
 */
#define CHARGE_SLACK (8 << 20)

static void memory_is_left(void)
{
	long long bytes = charged();

	if (bytes < 0)
		return;
	if (!tally->charged)
		tally->charged = bytes;
	printf("# memory: %lld KiB more than at first\n",
	       (bytes - tally->charged) / 1024);
	MUST(bytes < tally->charged + CHARGE_SLACK);
}

static void nothing_is_left(const struct weight *before)
{
	struct weight after = weigh();
	struct evering_listener *l;

	MUST_BE(after.fds, before->fds);
	MUST_BE(after.mappings, before->mappings);
	MUST(after.heap <= before->heap + HEAP_SLACK);
	MUST_BE(waitpid(-1, NULL, WNOHANG), -1);
	if (is_there(s.path[1])) {
		MUST_BE(listen_again(&l), 0);
		evering_listener_close(l);
	}
	evering_listener_close(s.listener);
	MUST(!is_there(s.path[0]) && !is_there(s.path[1]));
	quota_is_left();
	memory_is_left();
}

/* --------------------------------------------------------------- and all of them */

/* So that one that is left is missing to the next. */
static const char *const limits[] = {
	"/sys/module/evering/parameters/max_user_channels",
	"/sys/module/evering/parameters/max_total_mib",
};

#define LIMITS 2

FIXTURE(kill)
{
	char dir[64];
	char path[2][96];
	bool limited;
	char limit[LIMITS][16];
};

BACKEND_VARIANTS(kill);

/* Only root can. */
static bool set_limits(char before[LIMITS][16])
{
	int i, fd;

	for (i = 0; i < LIMITS; i++) {
		fd = open(limits[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, before[i], 15) <= 0 ||
		    write_text(limits[i], "1"))
			return false;
		close(fd);
	}
	return true;
}

static void *shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

FIXTURE_SETUP(kill)
{
	const char *tmp = getenv("TMPDIR");
	int i;

	REQUIRE_BACKEND(variant->backend);
	/* What is killed without the module needs no guest for that. */
	if (getenv("EVERING_GUEST") &&
	    variant->backend != EVERING_BACKEND_DEVICE)
		SKIP(return, "EVERING_GUEST");
	memset(&s, 0, sizeof(s));
	s.backend = variant->backend;
	s.p = params_sized(variant->backend, SLOT, ENTRIES, ARENA);
	tally = &tallies[s.backend == EVERING_BACKEND_DEVICE];
	notes = shared_memory(sizeof(*notes));
	s.steps = shared_memory(sizeof(*s.steps));
	ASSERT_TRUE(notes && s.steps);
	s.module_users = module_users();
	if (s.backend == EVERING_BACKEND_DEVICE)
		self->limited = s.limited = set_limits(self->limit);
	snprintf(self->dir, sizeof(self->dir), "%.40s/evering-kill-XXXXXX",
		 tmp && *tmp ? tmp : "/tmp");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	for (i = 0; i < 2; i++) {
		snprintf(self->path[i], sizeof(self->path[i]), "%s/%s",
			 self->dir, i ? "victim" : "survivor");
		s.path[i] = self->path[i];
	}
	ASSERT_EQ(0, evering_listen(s.path[0], 0600, &s.listener));
}

/* In the parent, which is there however the test ended. */
FIXTURE_TEARDOWN_PARENT(kill)
{
	int i;

	for (i = 0; self->limited && i < LIMITS; i++)
		write_text(limits[i], self->limit[i]);
	for (i = 0; i < 2; i++)
		unlink(self->path[i]);
	rmdir(self->dir);
}

/* For each story. */
static int how_many(void)
{
	const char *n = getenv("EVERING_KILLS");

	if (n && atoi(n) > 0)
		return (atoi(n) + STORIES - 1) / STORIES;
	if (slow(1) > 1)
		return 1;
	if (SANITIZED)
		return 6;
	return short_run() ? 12 : 1500 / STORIES;
}

static void limit_channels(unsigned int channels)
{
	char number[16];

	snprintf(number, sizeof(number), "%u", channels);
	MUST(!s.limited || !write_text(limits[0], number));
}

static bool tell_story(const struct story *story)
{
	struct weight before;
	size_t i;

	s.story = story;
	s.p.flags = story->flags;
	s.rng = random_seed();
	if (setjmp(s.escape))
		return false;
	limit_channels(lanes_of(story));
	/* A process in which there once was a thread goes other ways in libc. */
	live(0, TO_THE_END);
	live(1, STEPS ? LISTED : TO_THE_END);
	for (i = 0; i < s.steps->n; i++)
		place_of(s.steps->at[i])->at = s.steps->at[i];
	told.n = died.n = knew.n = 0;
	before = weigh();
	kill_many(how_many(), getenv("EVERING_KILLS"));
	all_in_time();
	nothing_is_left(&before);
	tally->stories++;
	return true;
}

/* A test of each, with what of struct story is not zero. */
#define STORY(name, what, ...)                                     \
	static const struct story name##_ = { .run = story_##what, \
					      ##__VA_ARGS__ };     \
	TEST_F_TIMEOUT(kill, name, 1200)                           \
	{                                                          \
		ASSERT_TRUE(tell_story(&name##_));                 \
	}

STORY(sends, send)
STORY(sends_many, send_bulk)
STORY(commits, commit)
STORY(rings, send, .before = before_ring)
STORY(rings_a_sleeper, commit, .before = before_ring_asleep)
STORY(rings_by_itself, ring, .before = before_ring_asleep)
STORY(receives, receive, .before = before_receive)
STORY(releases_to_a_sleeper, release, .before = before_release)
STORY(sleeps_and_is_rung, sleep, .act = act_send)
STORY(spins_and_sleeps, sleep, .ready = be_adaptive, .act = act_send)
STORY(sleeps_for_many, sleep_for_many, .act = act_send)
STORY(sleeps_and_is_not_rung, sleep_for_ever, .act = act_not)
STORY(arms_and_polls, arm, .act = act_send)
STORY(waits_for_space, wait_for_space, .ready = fill_ring, .act = act_receive)
STORY(waits_for_more_space, wait_for_more_space, .ready = fill_ring,
      .act = act_receive)
STORY(allocates, allocate, .offsets = true)
STORY(closes, close)
STORY(stands_in, stand_in, .before = before_receive)

STORY(sleeps_in_a_group, group, .act = act_send)
STORY(spins_in_a_group, group_spins, .act = act_send)
STORY(loops_over_a_group, group_loop, .ready = listen_aside, .act = act_send)
STORY(sends_to_a_group, commit, .before = before_group)
STORY(closes_to_a_group, close, .before = before_group)
STORY(sends_to_one_that_comes_and_goes, send, .before = before_moves)

STORY(submits, submit, .ops = true)
STORY(submits_and_is_answered, submit, .ops = true, .serves = true)
STORY(lends, lend, .ops = true)
STORY(lends_and_is_answered, lend, .ops = true, .serves = true)
STORY(gives, give, .ops = true)
STORY(calls, call, .ops = true, .serves = true, .act = act_serve)
STORY(calls_and_is_given, call, .ops = true, .serves = true, .gives = true,
      .act = act_serve)
STORY(calls_and_lends, call_and_lend, .ops = true, .serves = true,
      .act = act_serve)
STORY(calls_and_gives, call_and_give, .ops = true, .serves = true,
      .act = act_serve)
STORY(waits, wait, .ops = true, .serves = true, .act = act_serve)
STORY(cancels, cancel, .ops = true)
STORY(answers, answer, .ops = true, .before = before_answer)
STORY(answers_what_was_lent, answer, .ops = true, .before = before_answer_lent)
STORY(answers_and_gives, answer_and_give, .ops = true, .before = before_answer)
STORY(answers_in_place, answer_in_place, .ops = true,
      .before = before_answer_lent, .flags = EVERING_SHARED_ARENA)
STORY(gives_back, give_back, .ops = true, .before = before_answer_given)
STORY(answers_in_a_loop, loop, .ops = true, .act = act_ask)
STORY(answers_from_its_inbox, next, .ops = true, .inbox = true, .act = act_ask)
STORY(opens_its_table, open_table, .ops = true, .opens = true)
STORY(closes_its_table, close_table, .ops = true, .before = before_answer_lent)
STORY(sends_messages, send_messages, .ops = true)
STORY(waits_for_credit, wait_for_credit, .ops = true, .ready = use_credit,
      .act = act_free, .store = 5)
STORY(receives_messages, receive_messages, .ops = true,
      .before = before_receive_messages)
STORY(receives_at_once, receive_inline, .ops = true,
      .before = before_receive_messages, .act = act_tell)
STORY(leaves_messages, leave_messages, .ops = true,
      .before = before_receive_messages)
STORY(posts, post, .ops = true)
STORY(takes_posts, take_posts, .ops = true, .inbox = true,
      .before = before_take_posts)
STORY(calls_with_any_length, call_any_length, .ops = true, .serves = true,
      .gives = true, .any_length = true, .act = act_serve)
STORY(answers_with_any_length, answer_any_length, .ops = true,
      .before = before_answer)
STORY(connects, connect, .meets = true, .act = act_accept)
STORY(connects_in_steps, connect_in_steps, .meets = true, .act = act_accept)
STORY(listens, listen, .meets = true, .calls = true, .act = act_call)
STORY(connects_over_a_socket, connect_fd, .meets = true, .socket = true,
      .calls = true, .act = act_call)
STORY(accepts_over_a_socket, accept_fd, .meets = true, .socket = true,
      .calls = true, .act = act_call)
STORY(makes_a_pair, pair, .meets = true)
STORY(connects_with_lanes, connect_lanes, .meets = true, .lanes = LANES,
      .act = act_accept)
STORY(survives, replace, .meets = true, .act = act_accept)
STORY(survives_with_a_table, replace_in_steps, .meets = true, .ops = true,
      .serves = true, .act = act_accept_and_serve)
STORY(follows, follow, .meets = true, .ops = true, .serves = true,
      .act = act_accept_and_serve)
STORY(serves, serve, .ops = true, .opens = true, .act = act_be_served)
STORY(serves_in_a_loop, serve_in_loop, .meets = true, .calls = true,
      .ops = true, .act = act_call_server)
STORY(serves_at_a_socket_of_others, serve_at_socket, .meets = true,
      .calls = true, .passed = true, .ops = true, .act = act_call_server)
STORY(takes_lanes, take_lanes, .meets = true, .calls = true, .lanes = LANES,
      .act = act_call)

/* ------------------------------------------------- what the stories do not reach */

/*
 * They change nothing that another process, or the next victim, could see, but that a
 * socket which is there anyway does not block.
 */
static const char *const harmless[] = {
	"evering_arena",
	"evering_backend_name",
	"evering_get_arena",
	"evering_get_counters",
	"evering_get_geometry",
	"evering_listen_activated",
	"evering_peer_buffer",
	"evering_peer_cred",
	"evering_predecessors",
	"evering_set_policy",
	"evering_version",
	"evering__op_submit_data", /* hands on to another */
	"evering_copy",
};

/*
 * Their peer is the kernel: who is killed in them, and when, is up to dev_unload and
 * dev_fuzz_port, where there is one.
 */
static const char *const with_the_kernel[] = {
	"evering_net_close", "evering_net_endpoint", "evering_net_name",
	"evering_net_open",  "evering_net_recv",     "evering_net_release",
	"evering_net_send",  "evering_open_fd",
};

static bool is_among(const char *name, const char *const *names, size_t count)
{
	while (count--)
		if (!strcmp(name, names[count]))
			return true;
	return false;
}

/* This program, with its symbols. */
static const char *own_file(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *file;

	if (fd < 0 || fstat(fd, &st))
		return NULL;
	file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return file == MAP_FAILED ? NULL : file;
}

/* How many of the library's functions no story has called. */
static int not_called(const char *file)
{
	const Elf64_Ehdr *elf = (const Elf64_Ehdr *)file;
	const Elf64_Shdr *section = (const Elf64_Shdr *)(file + elf->e_shoff);
	uintptr_t moved = getauxval(AT_ENTRY) - elf->e_entry;
	const Elf64_Shdr *table = section;
	const char *names, *name;
	const Elf64_Sym *symbol;
	int missing = 0;
	size_t i;

	while (table->sh_type != SHT_SYMTAB)
		table++;
	names = file + section[table->sh_link].sh_offset;
	symbol = (const Elf64_Sym *)(file + table->sh_offset);
	for (i = 0; i < table->sh_size / sizeof(*symbol); i++) {
		name = names + symbol[i].st_name;
		if (strncmp(name, "evering_", 8) ||
		    symbol[i].st_info != ELF64_ST_INFO(STB_GLOBAL, STT_FUNC) ||
		    is_among(name, harmless, ARRAY_SIZE(harmless)) ||
		    is_among(name, with_the_kernel,
			     ARRAY_SIZE(with_the_kernel)) ||
		    place_of(moved + symbol[i].st_value)->at)
			continue;
		printf("# in no story: %s\n", name);
		missing++;
	}
	return missing;
}

TEST_F(kill, every_function_is_in_a_story)
{
	unsigned int places = 0, spared = 0, i;

	for (i = 0; i < PLACES; i++) {
		places += tally->place[i].at != 0;
		spared += tally->place[i].at && !tally->place[i].kills;
	}
	printf("# %u kills, before %u of %u instructions, and in between\n",
	       tally->kills, places - spared, places);
	if (!STEPS || SANITIZED || tally->stories < STORIES)
		SKIP(return, "not all stories were told, or not to the end");
	ASSERT_NE(NULL, own_file());
	EXPECT_EQ(0, not_called(own_file()));
}

/*
 * Names that are looked up when they are first needed would make for thousands of
 * instructions of the dynamic linker's: it is to do that now.
 */
static __attribute__((constructor)) void prepare(int argc, char **argv)
{
	(void)argc;
	tallies = shared_memory(2 * sizeof(*tallies));
	if (getenv("LD_BIND_NOW") || setenv("LD_BIND_NOW", "1", 1))
		return;
	/* What malloc(3) keeps for each thread counts as in use: see weigh(). */
	setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 0);
	execv("/proc/self/exe", argv);
}

TEST_HARNESS_MAIN
