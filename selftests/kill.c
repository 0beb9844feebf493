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
 * of its arena; and a new peer at the same socket, which is the next victim.
 *
 * EVERING_KILLS=n kills n in all on each backend (default 1500).  Full run:
 *
 *	EVERING_KILLS=10000 build/selftests/kill
 */
#include "stories.h"

#include <malloc.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#ifdef __x86_64__
#include <sys/user.h>
#endif

#define MAX_STEPS   (SANITIZED ? 4000u : 20000u)
/* To list one takes an emulated CPU milliseconds. */
#define SLOW_STEPS  100u
/* As in death.c: a sanitizer's memory takes its time to be taken down. */
#define BOUND	    slow((SANITIZED ? 200 : 10) * MSEC)

/* ---------------------------------------------------------------- the survivor */

struct asked {
	unsigned int how;
	void *buf;
	unsigned int times;
};

static struct survivor {
	const struct story *story;
	uint32_t backend;
	uint64_t rng;
	struct evering_params p;
	char dir[64];
	char path[2][96];
	struct evering_listener *listener;
	bool stepped;
	size_t point;

	pid_t pid;
	int stat_fd;
	bool reaped;
	struct evering *ev;
	struct evering_ops *ops;
	struct asked asked[MOST];
	unsigned int n_asked, outcomes, answered;
	struct evering_request held[MOST];
	unsigned int n_held, requests;
	void *gifts[MOST];
	unsigned int n_gifts;
	uint32_t received;
	unsigned int acted;

	uintptr_t *trace;
	size_t steps;
	unsigned int reached; /* of its steps, as they were listed */
	int64_t takes;
	jmp_buf escape;
} s;

/**
 * struct story - what the victim does, and what the survivor has to do with it
 * @ready: the victim, before it begins
 * @run: the victim
 * @before: the survivor, when the victim is ready
 * @act: the survivor, when the victim sleeps; false: it will for ever
 * @meets: there is no channel before
 * @ops: there is a table: the survivor's, and, unless @opens, the victim's
 * @serves: the survivor answers at once, else it keeps requests
 * @how: what comes with them
 */
struct story {
	void (*ready)(void);
	void (*run)(void);
	void (*before)(void);
	bool (*act)(void);
	bool meets, ops, opens, serves, offsets, gives;
	unsigned int how;
	uint32_t flags;
};

#define FELL(...) \
	do { \
		printf("# line %d, %s %zu of %zu: ", __LINE__, \
		       s.stepped ? "instruction" : "us", s.point, \
		       s.stepped ? s.steps : (size_t)(s.takes / USEC)); \
		printf(__VA_ARGS__); \
		printf("\n"); \
		longjmp(s.escape, 1); \
	} while (0)

#define MUST(ok) \
	do { \
		if (!(ok)) \
			FELL("not so: %s", #ok); \
	} while (0)

#define MUST_BE(seen, expected) \
	do { \
		long long seen_ = (seen), expected_ = (expected); \
 \
		if (seen_ != expected_) \
			FELL("%s is %lld, not %lld", #seen, seen_, expected_); \
	} while (0)

#define MUST_BE_AMONG(seen, low, high) \
	do { \
		long long seen_ = (seen), low_ = (low), high_ = (high); \
 \
		if (seen_ < low_ || seen_ > high_) \
			FELL("%s is %lld, not %lld..%lld", #seen, seen_, low_, \
			     high_); \
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

/* One each, the victim's or the end's; what is the survivor's is free again. */
static void outcome(struct evering_ops *ops, const struct evering_completion *c)
{
	struct asked *a = c->user;
	unsigned int i = (unsigned int)(a - s.asked);

	(void)ops;
	MUST_BE(++a->times, 1);
	s.outcomes++;
	if (c->flags & EVERING_ANSWERED) {
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
		MUST_BE(c->result, -EPIPE);
		MUST(!c->buf);
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
	int i;

	(void)context;
	MUST_BE(r->opcode, s.requests);
	MUST(s.requests++ < MOST);
	MUST_BE(r->len, DATA);
	MUST(check_entry(r->data, DATA, r->opcode, SALT));
	if (r->buf) {
		MUST_BE(r->buf_len, BUFFER);
		MUST(intact(r->buf, BUFFER));
	}
	if (r->flags == EVERING_GIVE)
		s.gifts[s.n_gifts++] = r->buf;
	for (i = 0; i < MOST; i++)
		if (r->buf && s.asked[i].buf == r->buf)
			s.asked[i].buf = NULL; /* it came back */
	if (!s.story->serves) {
		s.held[s.n_held++] = *r;
		return;
	}
	if (!s.story->gives) {
		MUST_BE(evering_op_answer(ops, r->id, ANSWER + (int)r->opcode,
					  NULL, 0),
			0);
		return;
	}
	buf = evering_alloc(s.ev, BUFFER, 0);
	MUST(buf);
	fill_entry(buf, BUFFER, 3000, SALT_BUFFER);
	MUST_BE(evering_op_answer_buffer(ops, r->id, ANSWER + (int)r->opcode,
					 buf, BUFFER),
		0);
}

/* ----------------------------------------------------- when the victim sleeps */

static bool act_send(void)
{
	uint32_t entry[LEN / 4];

	fill_entry(entry, LEN, s.acted, SALT);
	MUST_BE(evering_send(s.ev, entry, LEN, EVERING_NOWAIT), 0);
	return s.acted++ < 2;
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

static bool act_accept(void)
{
	int ret;

	if (!s.ev) {
		ret = evering_accept(s.listener, NULL, EVERING_NOWAIT, &s.ev);
		MUST(!ret || ret == -EAGAIN);
	}
	return true;
}

static struct caller {
	pthread_t thread;
	bool there;
	struct evering *ev;
	int ret;
} caller;

static void *caller_main(void *arg)
{
	(void)arg;
	caller.ret = evering_connect(s.path[1], &s.p, PLENTY, &caller.ev);
	return NULL;
}

static bool act_connect(void)
{
	if (!caller.there) {
		caller.ev = NULL;
		MUST(!pthread_create(&caller.thread, NULL, caller_main, NULL));
		caller.there = true;
	}
	return true;
}

/* ----------------------------------------------------------- a victim is born */

static void stop_here(bool stepped)
{
	if (stepped)
		raise(SIGSTOP);
}

static int meet_survivor(int k)
{
	if (k)
		return evering_connect(s.path[0], &s.p, PLENTY, &v.ev);
	/* The socket file that this one leaves is replaced by the next one. */
	if (evering_listen(s.path[1], 0600, &v.listener))
		return -1;
	return evering_accept(v.listener, NULL, PLENTY, &v.ev);
}

static int victim_main(void *arg)
{
	int k = *(int *)arg;

	v.p = s.p;
	v.path = s.path[s.story->run == story_listen];
	if (!s.story->meets) {
		NEED(!meet_survivor(k));
		victim_prepares(s.story->ops && !s.story->opens);
		if (s.story->ready)
			s.story->ready();
	}
	if (s.stepped && ptrace(PTRACE_TRACEME, 0, NULL, NULL)) {
		tell(&notes->refused);
		return 0;
	}
	tell(&notes->ready);
	stop_here(s.stepped);
	while (!s.stepped && !look(&notes->go))
		sched_yield();
	IN_ORDER();
	tell(&notes->running);
	s.story->run();
	tell(&notes->over);
	stop_here(s.stepped);
	await_death();
}

/* ----------------------------------------------------------- and led to its end */

/* It sleeps in a system call; neither runs, nor is stopped. */
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

enum {
	STOPPED,
	ASLEEP,
	DEAD
};

/* Until the victim stops, meanwhile doing what it waits for. */
static int await_stop(void)
{
	int64_t end = now_ns() + PLENTY;
	int status, i;

	for (;;) {
		/* The harness sees to it that this ends. */
		if (!s.story->act) {
			MUST_BE(waitpid(s.pid, &status, 0), s.pid);
			break;
		}
		for (i = 0; i < 50; i++) {
			if (waitpid(s.pid, &status, WNOHANG) == s.pid)
				goto stopped;
			sched_yield();
		}
		if (sleeps() && !s.story->act())
			return ASLEEP;
		if (now_ns() > end)
			FELL("the victim neither stops nor goes on");
	}
stopped:
	if (WIFSTOPPED(status))
		return STOPPED;
	s.reaped = true;
	return DEAD;
}

static uintptr_t where_it_is(void)
{
#ifdef __x86_64__
	return (uintptr_t)ptrace(PTRACE_PEEKUSER, s.pid,
				 offsetof(struct user_regs_struct, rip), NULL);
#else
	return 0;
#endif
}

static bool break_at(uintptr_t ip)
{
#ifdef __x86_64__
	/* Execution of one byte: the lowest bit alone. */
	return !ptrace(PTRACE_POKEUSER, s.pid,
		       offsetof(struct user, u_debugreg[0]), ip) &&
	       !ptrace(PTRACE_POKEUSER, s.pid,
		       offsetof(struct user, u_debugreg[7]), 1);
#else
	(void)ip;
	return false;
#endif
}

/* One instruction, or one system call. */
static int step(void)
{
	MUST_BE(ptrace(PTRACE_SINGLESTEP, s.pid, NULL, NULL), 0);
	return await_stop();
}

/* Steps through the story, @most at the most, and lists it in s.trace. */
static void list_steps(size_t most)
{
	for (s.steps = 0; s.steps < most && !look(&notes->over);) {
		if (step() != STOPPED)
			break;
		if (notes->failed)
			break;
		if (look(&notes->running))
			s.trace[s.steps++] = where_it_is();
	}
}

/*
 * To the instruction that s.trace has at @point.  Not everything may be quite as
 * when it was listed; then the story's end is the victim's.
 */
static void run_to(size_t point)
{
	size_t i, before = 0;
	int ret = STOPPED;

	for (i = 0; i < point; i++)
		before += s.trace[i] == s.trace[point];
	if (before > 100 || !break_at(s.trace[point])) {
		for (i = 0; i <= point && ret == STOPPED;) {
			ret = step();
			i += look(&notes->running);
		}
		s.reached += where_it_is() == s.trace[point];
		return;
	}
	for (;;) {
		MUST_BE(ptrace(PTRACE_CONT, s.pid, NULL, NULL), 0);
		if (await_stop() != STOPPED || look(&notes->over))
			return;
		if (where_it_is() == s.trace[point] && !before--) {
			s.reached++;
			return;
		}
	}
}

/* Lets it run, and doing what it waits for, until @ns have passed. */
static void run_for(int64_t ns)
{
	int64_t start = now_ns();
	bool asleep = false;

	tell(&notes->go);
	while (!look(&notes->running) && now_ns() - start < PLENTY)
		;
	start = now_ns();
	while (now_ns() - start < ns) {
		if (s.story->act && !asleep && sleeps())
			asleep = !s.story->act();
	}
}

/* To see how long it takes, when nothing else comes in between. */
static void run_to_the_end(void)
{
	int64_t start = now_ns(), end = start + PLENTY;

	tell(&notes->go);
	while (!look(&notes->over)) {
		if (s.story->act && sleeps() && !s.story->act())
			break;
		if (now_ns() > end || notes->failed)
			break;
	}
	if (!s.takes || now_ns() - start < s.takes)
		s.takes = now_ns() - start;
}

/* ------------------------------------------------------------ what is left then */

static int drain(void)
{
	uint32_t entry[LEN / 4];
	int ret;

	if (s.ops) {
		do
			ret = evering_ops_wait(s.ops, PLENTY);
		while (ret > 0);
		return ret;
	}
	while (!(ret = evering_recv(s.ev, entry, LEN, PLENTY)))
		take_entry(entry);
	return ret;
}

/* All that was given, lent and held, of which nothing may be lost now. */
static void settle_table(void)
{
	struct evering_ops_info info;
	unsigned int i;

	for (i = 0; i < s.n_held; i++) {
		if (s.held[i].buf)
			MUST(intact(s.held[i].buf, BUFFER));
		MUST_BE(evering_op_answer(s.ops, s.held[i].id, 0, NULL, 0),
			-EPIPE);
	}
	for (i = 0; i < s.n_gifts; i++) {
		MUST(intact(s.gifts[i], BUFFER));
		MUST_BE(evering_free(s.ev, s.gifts[i]), 0);
	}
	MUST_BE(s.outcomes, s.n_asked);
	MUST_BE_AMONG(s.answered, notes->did[ANSWERED], notes->began[ANSWERED]);
	MUST_BE_AMONG(s.requests, notes->did[ASKED], notes->began[ASKED]);
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

static void settle(void)
{
	int peer;

	peer = evering_peer(s.ev);
	if (notes->did[CLOSED])
		MUST_BE(peer, EVERING_PEER_CLOSED);
	else if (!notes->began[CLOSED])
		MUST_BE(peer, EVERING_PEER_DIED);
	else
		MUST(peer == EVERING_PEER_DIED || peer == EVERING_PEER_CLOSED);
	if (s.story->ops)
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

	if (caller.there) {
		pthread_join(caller.thread, NULL);
		caller.there = false;
		MUST(!caller.ret || caller.ret == -ECONNRESET ||
		     caller.ret == -ECONNREFUSED);
		if (!caller.ret)
			s.ev = caller.ev;
	}
	/* What it has left behind is in nobody's way. */
	MUST_BE(evering_listen(s.path[1], 0600, &l), 0);
	MUST(is_there(s.path[1]));
	evering_listener_close(l);
	MUST(!is_there(s.path[1]));
}

static void settle_accept(void)
{
	uint64_t refused = evering_listener_refused(s.listener, NULL);
	int error, ret = 0;

	/* Its last words are still to be heard. */
	while (!s.ev) {
		ret = evering_accept(s.listener, NULL, EVERING_NOWAIT, &s.ev);
		if (ret)
			break;
	}
	MUST(!ret || ret == -EAGAIN);
	if (evering_listener_refused(s.listener, &error) != refused)
		MUST_BE(error, -ECONNRESET);
}

/* ------------------------------------------------------------ one of many deaths */

struct delays {
	int64_t *told; /* from the kill, who slept */
	int64_t *died; /* from the kill, the victim */
	int64_t *knew; /* from the end of the victim, who saw it */
	size_t n_told, n_died;
};

static void meet_victim(int k)
{
	int64_t end = now_ns() + PLENTY;
	int ret;

	if (k) {
		MUST_BE(evering_accept(s.listener, NULL, PLENTY, &s.ev), 0);
	} else {
		while ((ret = evering_connect(s.path[1], &s.p, PLENTY,
					      &s.ev)) &&
		       now_ns() < end) {
			MUST(ret == -ENOENT || ret == -ECONNREFUSED);
			sleep_ns(50 * USEC);
		}
		MUST_BE(ret, 0);
	}
	if (s.story->ops) {
		struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;

		p.request = requested;
		MUST_BE(evering_ops_open(s.ev, &p, &s.ops), 0);
		while (!s.story->opens && !info_of(s.ops).depth)
			MUST(evering_ops_wait(s.ops, PLENTY) > 0);
	}
}

/* @k: odd or even, for what is to be done one way or the other. */
static void bear(int k, bool stepped)
{
	char path[64];
	int status;

	memset(notes, 0, sizeof(*notes));
	memset(s.asked, 0, sizeof(s.asked));
	s.n_asked = s.outcomes = s.answered = 0;
	s.n_held = s.requests = s.n_gifts = s.received = s.acted = 0;
	s.stepped = stepped;
	s.reaped = false;
	s.pid = spawn(victim_main, &k);
	MUST(s.pid > 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", s.pid);
	s.stat_fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(s.stat_fd >= 0);
	if (!s.story->meets)
		meet_victim(k);
	if (stepped) {
		MUST_BE(waitpid(s.pid, &status, 0), s.pid);
		if (look(&notes->refused))
			return;
		MUST(WIFSTOPPED(status));
	} else {
		while (!look(&notes->ready) && !notes->failed)
			sched_yield();
	}
	if (s.story->before && !notes->failed)
		s.story->before();
}

static void reap_victim(void)
{
	int status = SIGKILL;

	if (!s.reaped)
		MUST_BE(waitpid(s.pid, &status, 0), s.pid);
	s.pid = 0;
	MUST_BE(status, SIGKILL);
}

static void bury(int k, struct delays *d)
{
	bool armed = s.story->before == before_ring ||
		     s.story->before == before_release;
	int64_t start;
	struct pollfd fd;

	start = now_ns();
	MUST_BE(kill(s.pid, SIGKILL), 0);
	close(s.stat_fd);
	if (notes->failed)
		FELL("the victim failed in line %d with %d", notes->failed,
		     notes->error);
	if (s.story->meets) {
		reap_victim();
		if (s.story->run == story_listen)
			settle_call();
		else
			settle_accept();
		if (s.ev) {
			MUST_BE(drain(), -EPIPE);
			settle();
		} else {
			MUST(!notes->did[MET]);
		}
		return;
	}
	if (k & 2) {
		reap_victim();
		if (d)
			d->died[d->n_died] = now_ns() - start;
		start = now_ns();
		MUST(evering_peer(s.ev) != EVERING_PEER_ALIVE);
		if (d)
			d->knew[d->n_died++] = now_ns() - start;
		MUST_BE(drain(), -EPIPE);
	} else {
		if (armed) { /* told by the descriptor */
			fd.fd = evering_fd(s.ev);
			fd.events = evering_events(
				s.ev, s.story->before == before_ring ?
					      EVERING_RX :
					      EVERING_TX);
			MUST_BE(poll(&fd, 1, (int)(PLENTY / MSEC)), 1);
		}
		MUST_BE(drain(), -EPIPE);
		if (d)
			d->told[d->n_told++] = now_ns() - start;
		reap_victim();
	}
	settle();
}

/* --------------------------------------------------------------- and all of them */

FIXTURE(kill)
{
	bool made;
};

BACKEND_VARIANTS(kill);

FIXTURE_SETUP(kill)
{
	const char *tmp = getenv("TMPDIR");

	REQUIRE_BACKEND(variant->backend);
	/*
	 * A hardware breakpoint has the kernel patch its own code, and QEMU's
	 * translator has been seen to run the old half of it (an Oops: int3).
	 */
	if (getenv("EVERING_GUEST"))
		SKIP(return, "breakpoints are not for emulated CPUs");
	memset(&s, 0, sizeof(s));
	s.backend = variant->backend;
	s.p = params_sized(variant->backend, SLOT, ENTRIES, ARENA);
	notes = mmap(NULL, sizeof(*notes), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)notes);
	s.trace = malloc(MAX_STEPS * sizeof(*s.trace));
	ASSERT_NE(NULL, s.trace);
	snprintf(s.dir, sizeof(s.dir), "%.40s/evering-kill-XXXXXX",
		 tmp && *tmp ? tmp : "/tmp");
	ASSERT_NE(NULL, mkdtemp(s.dir));
	self->made = true;
	snprintf(s.path[0], sizeof(s.path[0]), "%s/survivor", s.dir);
	snprintf(s.path[1], sizeof(s.path[1]), "%s/victim", s.dir);
	ASSERT_EQ(0, evering_listen(s.path[0], 0600, &s.listener));
}

FIXTURE_TEARDOWN(kill)
{
	if (!self->made)
		return;
	kill_and_reap(s.pid);
	evering_listener_close(s.listener);
	unlink(s.path[0]);
	unlink(s.path[1]);
	rmdir(s.dir);
	free(s.trace);
}

#define STORIES	32

/* For each story. */
static int how_many(void)
{
	const char *n = getenv("EVERING_KILLS");

	if (n && atoi(n) > 0)
		return (atoi(n) + STORIES - 1) / STORIES;
	if (slow(1) > 1)
		return 3;
	if (SANITIZED)
		return 6;
	return short_run() ? 12 : 1500 / STORIES;
}

/* Kept from the device's quota by channels that should not be there any more? */
static bool quota_is_left(void)
{
	static const char path[] =
		"/sys/module/evering/parameters/max_user_channels";
	struct evering *ev[2];
	char before[16] = "";
	int fd, ret;

	if (s.backend != EVERING_BACKEND_DEVICE)
		return true;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) /* only root's to change */
		return true;
	if (read(fd, before, sizeof(before) - 1) <= 0 ||
	    pwrite(fd, "1", 1, 0) != 1) {
		close(fd);
		return true;
	}
	ret = evering_pair(&s.p, ev);
	if (!ret)
		close_pair(ev);
	if (pwrite(fd, before, strlen(before), 0) < 0)
		ret = -errno;
	close(fd);
	return !ret;
}

static void nothing_is_left(void)
{
	struct evering_listener *l;

	MUST_BE(waitpid(-1, NULL, WNOHANG), -1);
	if (is_there(s.path[1])) {
		MUST_BE(evering_listen(s.path[1], 0600, &l), 0);
		evering_listener_close(l);
	}
	evering_listener_close(s.listener);
	s.listener = NULL;
	MUST_BE(rmdir(s.dir), 0);
	MUST(quota_is_left());
}

struct weight {
	int fds, mappings;
	size_t heap;
};

static struct weight weigh(void)
{
	struct weight w = { count_fds(), count_mappings(), 0 };

	if (!SANITIZED)
		w.heap = mallinfo2().uordblks;
	return w;
}

/* As leak.c: what malloc() keeps for itself. */
#define HEAP_SLACK 4000

static void print_delays(const struct delays *d)
{
	int64_t told, died, knew;

	if (!d->n_told || !d->n_died)
		return;
	told = median_of(d->told, d->n_told);
	died = median_of(d->died, d->n_died);
	knew = median_of(d->knew, d->n_died);
	printf("# dead after %lld us, told after %lld, known %lld after its end\n",
	       (long long)(died / USEC), (long long)(told / USEC),
	       (long long)(knew / USEC));
	/* Of a guest there are too few for a median to mean anything. */
	if (slow(1) > 1)
		return;
	MUST(knew < BOUND);
	/*
	 * To die and to be told take a turn of a CPU each, which may have much else
	 * to do: death.c asks again, and is strict.
	 */
	MUST(told - died < 20 * BOUND);
}

enum {
	FINE,
	BAD,
	REFUSED
};

/* The story to its end, before and after all that is cut short. */
static void live(int k)
{
	bear(k, false);
	if (!notes->failed)
		run_to_the_end();
	bury(k, NULL);
	MUST(notes->over || s.story->act == act_not);
}

static int kill_many(int count, struct delays *d)
{
	size_t stepped, phase, at = 0;
	struct weight before, after;
	int i, k;

	live(0);
	live(1);
	bear(1, true);
	if (look(&notes->refused))
		return REFUSED;
	list_steps(slow(1) > 1 && !getenv("EVERING_KILLS") ? SLOW_STEPS :
							     MAX_STEPS);
	bury(1, NULL);
	MUST(s.steps);

	stepped = (size_t)count - ((size_t)count + 3) / 4;
	if (stepped > s.steps)
		stepped = s.steps;
	phase = random_below(&s.rng, s.steps);
	before = weigh();
	for (i = 0; i < count; i++) {
		k = (int)random_below(&s.rng, 4);
		if (at < stepped &&
		    (i % 4 != 3 || count - i <= (int)(stepped - at))) {
			s.point = (at++ * s.steps + phase) / stepped;
			bear(k, true);
			run_to(s.point);
		} else {
			s.point = random_below(&s.rng,
					       (uint64_t)(s.takes / USEC) + 2);
			bear(k, false);
			run_for((int64_t)(s.point * USEC));
		}
		bury(k, d);
	}
	live(1);
	live(0);
	after = weigh();
	MUST_BE(after.fds, before.fds);
	MUST_BE(after.mappings, before.mappings);
	MUST(after.heap <= before.heap + HEAP_SLACK);
	/* Else breakpoints do not work here, or nothing is as it was listed. */
	if (stepped > 2)
		MUST(s.reached);
	printf("# kills: %d, %u at some of %zu instructions, %u elsewhere, %u at some time\n",
	       count, s.reached, s.steps, (unsigned int)stepped - s.reached,
	       (unsigned int)count - (unsigned int)stepped);
	print_delays(d);
	nothing_is_left();
	return FINE;
}

static int kill_all(int count, struct delays *d)
{
	return setjmp(s.escape) ? BAD : kill_many(count, d);
}

static int tell_story(const struct story *story)
{
	int count = how_many(), ret;
	struct delays d = { 0 };

	s.story = story;
	s.p.flags = story->flags;
	s.rng = random_seed();
	d.told = calloc((size_t)count, 3 * sizeof(*d.told));
	if (!d.told)
		return BAD;
	d.died = d.told + count;
	d.knew = d.died + count;
	ret = kill_all(count, &d);
	free(d.told);
	return ret;
}

/* A test of each, with what of struct story is not zero. */
#define STORY(name, what, ...)                                                 \
	static const struct story name##_ = { .run = story_##what,             \
					      ##__VA_ARGS__ };                 \
	TEST_F_TIMEOUT(kill, name, 600)                                        \
	{                                                                      \
		int ret = tell_story(&name##_);                                \
                                                                               \
		if (ret == REFUSED)                                            \
			SKIP(return, "ptrace is not allowed");                 \
		ASSERT_EQ(FINE, ret);                                          \
	}

STORY(sends, send)
STORY(sends_many, send_bulk)
STORY(commits, commit)
STORY(rings, send, .before = before_ring)
STORY(receives, receive, .before = before_receive)
STORY(releases_to_a_sleeper, release, .before = before_release)
STORY(sleeps_and_is_rung, sleep, .act = act_send)
STORY(sleeps_and_is_not_rung, sleep_for_ever, .act = act_not)
STORY(arms_and_polls, arm, .act = act_send)
STORY(waits_for_space, wait_for_space, .ready = fill_ring, .act = act_receive)
STORY(allocates, allocate, .offsets = true)
STORY(closes, close)

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
STORY(cancels, cancel, .ops = true)
STORY(answers, answer, .ops = true, .before = before_answer)
STORY(answers_what_was_lent, answer, .ops = true, .before = before_answer_lent)
STORY(answers_and_gives, answer_and_give, .ops = true, .before = before_answer)
STORY(answers_in_place, answer_in_place, .ops = true,
      .before = before_answer_lent, .flags = EVERING_SHARED_ARENA)
STORY(gives_back, give_back, .ops = true, .before = before_answer_given)
STORY(answers_in_a_loop, loop, .ops = true, .act = act_ask)
STORY(opens_its_table, open_table, .ops = true, .opens = true)
STORY(closes_its_table, close_table, .ops = true, .before = before_answer_lent)
STORY(connects, connect, .meets = true, .act = act_accept)
STORY(listens, listen, .meets = true, .act = act_connect)

/*
 * Names that are looked up when they are first needed would make for thousands of
 * instructions of the dynamic linker's: it is to do that now.
 */
static __attribute__((constructor)) void bind_now(int argc, char **argv)
{
	(void)argc;
	if (getenv("LD_BIND_NOW") || setenv("LD_BIND_NOW", "1", 1))
		return;
	execv("/proc/self/exe", argv);
}

TEST_HARNESS_MAIN
