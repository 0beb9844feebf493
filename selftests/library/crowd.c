// SPDX-License-Identifier: MIT
/*
 * crowd.c: a hostile crowd in one group, and one client that behaves.
 *
 * Some processes have many channels each to this one: they flood, ring for nothing, lie
 * in each word that they may write, break the rules of operations, are stopped and are
 * killed.  The one that behaves asks, and waits for its answer: it gets all of them, in
 * order, and each after no more than a turn of each of the others.  Turns are counted, so
 * no clock decides.  Those who break the rules are told of, and nobody else is; when all
 * are silent the group sleeps; and in the end nothing is left of them.
 *
 * EVERING_CROWD=n is a crowd of n channels (100): 999 are for a machine with time.
 */
#include "common.h"

#include <linux/evering_op.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 600

#define SLOT 64u
#define ENTRIES 16u
#define LEN 60u
#define SALT 0xc60dd
#define HELLO 0x4e110u
#define MOST 1024
#define CALLS 65536u /* a power of two */

/* What a client is. */
enum kind {
	BEHAVES,
	FLOODS, /* keeps its ring full */
	RINGS, /* for nothing */
	LIES_ARMED, /* asks for rings that it does not need */
	LIES_STAMPS, /* of entries that are not due */
	LIES_RELEASED, /* has released what it was never sent, and floods on */
	LIES_OPS, /* an entry that is none of a table's, and floods on */
	LIES_BUFFER, /* a request with a buffer that is nowhere, and floods on */
	STOPS, /* floods, and its process is stopped */
	DIES, /* floods, and its process is killed */
	KINDS,
};

/* Processes, and what the clients of each are, in turn. */
static const struct {
	enum kind kinds[4];
	unsigned int count;
} crew[] = {
	{ { BEHAVES }, 1 },
	{ { FLOODS, RINGS, LIES_ARMED, LIES_STAMPS }, 4 },
	{ { LIES_RELEASED, LIES_OPS, LIES_BUFFER }, 3 },
	{ { STOPS }, 1 },
	{ { DIES }, 1 },
};

#define CREW 5
#define STOPPED 3
#define KILLED 4

/**
 * struct common - what all processes share
 * @go: the crowd begins
 * @calls: how many calls for events the server has begun
 * @asked_at: and how many it had when a question had been asked for sure; 0: not known yet
 * @answered: of the one that behaves
 * @failed: line of what went wrong with a client
 */
struct common {
	bool go;
	uint32_t calls;
	uint32_t asked_at[65536];
	uint32_t answered;
	int failed;
};

static struct common *common;

/**
 * struct client - one, as it sees itself, or as the server sees it
 * @n: entries sent, or received
 * @ops: the server's
 * @error: the server's: what it was told that it has ended with
 */
struct client {
	struct evering *ev;
	enum kind kind;
	uint32_t n;
	struct evering_bell bell;
	struct evering_ops *ops;
	int error;
};

/* -------------------------------------------------------------------- clients */

struct process {
	char path[64];
	struct evering_params p;
	unsigned int which;
	unsigned int clients;
	uint32_t questions;
};

static int failed(int line)
{
	__atomic_store_n(&common->failed, line, __ATOMIC_RELEASE);
	return 1;
}

static int ask(struct client *c, uint32_t questions)
{
	uint32_t entry[LEN / 4], n;

	for (n = 0; n < questions; n++) {
		fill_entry(entry, LEN, n, SALT);
		if (evering_send(c->ev, entry, LEN, PLENTY))
			return failed(__LINE__);
		__atomic_store_n(&common->asked_at[n],
				 __atomic_load_n(&common->calls,
						 __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
		if (evering_recv(c->ev, entry, LEN, PLENTY) ||
		    !check_entry(entry, LEN, n, SALT))
			return failed(__LINE__);
		__atomic_store_n(&common->answered, n + 1, __ATOMIC_RELEASE);
	}
	return 0;
}

static void flood(struct client *c)
{
	uint32_t entry[LEN / 4];

	for (;;) {
		fill_entry(entry, LEN, c->n, SALT);
		if (evering_send(c->ev, entry, LEN, EVERING_NOWAIT))
			break;
		c->n++;
	}
	while (!evering_recv(c->ev, entry, LEN, EVERING_NOWAIT))
		;
}

static void ring(struct client *c)
{
	const uint64_t one = 1;
	ssize_t ignored;

	evering_flush_begin(c->ev, &c->bell);
	if (c->bell.command) {
		ioctl(c->bell.fd, c->bell.command, EVERING_RX | EVERING_TX);
	} else if (c->bell.fd >= 0) {
		ignored = write(c->bell.fd, &one, sizeof(one));
		(void)ignored;
	}
}

static void lie_in_stamps(struct client *c, uint64_t *seed)
{
	unsigned int i;

	for (i = 0; i < ENTRIES; i++)
		evering_store_release(
			(uint32_t *)(c->ev->tx.slots + SLOT * i + LEN),
			(uint32_t)random_below(seed, 64));
	evering_flush(c->ev);
}

/* An OPEN that is as it should be, and one that is not, or whose buffer is not. */
static void lie_in_operations(struct client *c)
{
	struct {
		struct evering_op_header h;
		unsigned char rest[LEN - sizeof(struct evering_op_header)];
	} e = { .h = { .type = EVERING_OP_OPEN,
		       .len = sizeof(struct evering_op_open),
		       .code = EVERING_OPS_VERSION } };
	const struct evering_op_open open = { 4, 4, 4, 0 };
	const struct evering_op_buffer nowhere = { .granule = 0xffffff,
						   .generation = 1,
						   .len_low = 100 };

	memcpy(e.rest, &open, sizeof(open));
	if (!c->n++) {
		evering_send(c->ev, &e, LEN, EVERING_NOWAIT);
		return;
	}
	memset(&e, 0, sizeof(e));
	if (c->kind == LIES_OPS) {
		e.h.type = 99;
	} else {
		e.h.type = EVERING_OP_REQUEST;
		e.h.flags = EVERING_OP_LENT;
		memcpy(e.rest + sizeof(e.rest) - sizeof(nowhere), &nowhere,
		       sizeof(nowhere));
	}
	while (!evering_send(c->ev, &e, LEN, EVERING_NOWAIT))
		;
}

static void act(struct client *c, uint64_t *seed)
{
	uint32_t any = (uint32_t)random_u64(seed) | EVERING_ARMED;

	switch (c->kind) {
	case RINGS:
		ring(c);
		break;
	case LIES_ARMED:
		evering_store_release(&own_half(c->ev)->armed_rx, any);
		evering_store_release(&own_half(c->ev)->armed_tx, any);
		flood(c);
		break;
	case LIES_STAMPS:
		lie_in_stamps(c, seed);
		break;
	case LIES_RELEASED:
		flood(c);
		evering_store_release(&own_half(c->ev)->released, any);
		break;
	case LIES_OPS:
	case LIES_BUFFER:
		lie_in_operations(c);
		break;
	default:
		flood(c);
	}
}

/* Says who it is. */
static int meet(const struct process *p, struct client *c)
{
	uint32_t entry[LEN / 4] = { HELLO, c->kind };

	c->bell.fd = -1;
	if (evering_connect(p->path, &p->p, PLENTY, &c->ev))
		return -1;
	return evering_send(c->ev, entry, LEN, EVERING_NOWAIT);
}

static void limit_of_descriptors(void)
{
	struct rlimit rl;

	if (!getrlimit(RLIMIT_NOFILE, &rl)) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
}

static int process_main(void *arg)
{
	static struct client clients[MOST];
	const struct process *p = arg;
	uint64_t seed = 1 + p->which;
	unsigned int i;

	for (i = 0; i < p->clients; i++) {
		clients[i].kind =
			crew[p->which].kinds[i % crew[p->which].count];
		if (meet(p, &clients[i]))
			return failed(__LINE__);
	}
	while (!__atomic_load_n(&common->go, __ATOMIC_ACQUIRE))
		sleep_ns(MSEC);
	if (!p->which) {
		if (ask(&clients[0], p->questions))
			return 1;
		await_death();
	}
	for (;;) {
		for (i = 0; i < p->clients; i++)
			act(&clients[i], &seed);
		sched_yield();
	}
}

/* --------------------------------------------------------------------- server */

FIXTURE(crowd)
{
	struct evering_group *g;
	struct evering_listener *listener;
	struct process process[CREW];
	pid_t pid[CREW];
	bool stopped[CREW];
	struct client *clients;
	unsigned int count, alive;
	int set;
	int fds, mappings;
	/* Events returned; those before a call; and of the present one. */
	uint64_t events;
	uint64_t *before;
	uint64_t worst;
	uint32_t gone[KINDS];
	int wrong;
};

FIXTURE_VARIANT(crowd)
{
	uint32_t backend;
	uint32_t policy;
	bool loop; /* in one of another */
};

FIXTURE_VARIANT_ADD(crowd, memfd_block){
	.backend = EVERING_BACKEND_MEMFD,
	.policy = EVERING_BLOCK,
};

FIXTURE_VARIANT_ADD(crowd, memfd_adaptive){
	.backend = EVERING_BACKEND_MEMFD,
	.policy = EVERING_ADAPTIVE,
};

FIXTURE_VARIANT_ADD(crowd, memfd_loop){
	.backend = EVERING_BACKEND_MEMFD,
	.loop = true,
};

FIXTURE_VARIANT_ADD(crowd, device_block){
	.backend = EVERING_BACKEND_DEVICE,
	.policy = EVERING_BLOCK,
};

FIXTURE_VARIANT_ADD(crowd, device_loop){
	.backend = EVERING_BACKEND_DEVICE,
	.loop = true,
};

static unsigned int crowd_size(void)
{
	const char *s = getenv("EVERING_CROWD");
	int n = s ? atoi(s) : short_run() || SANITIZED ? 40 : 100;

	return n < CREW ? CREW : n > MOST ? MOST : (unsigned int)n;
}

#define WRONG(self)                                                   \
	do {                                                          \
		if (!(self)->wrong)                                   \
			printf("# line %d is not so\n", __LINE__);    \
		(self)->wrong = __LINE__;                             \
	} while (0)

/* Whoever it is says so first. */
static int admit(FIXTURE_DATA(crowd) * self)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct client *c = &self->clients[self->count];
	uint32_t entry[LEN / 4];
	int ret;

	ret = evering_accept(self->listener, &limits, PLENTY, &c->ev);
	if (!ret)
		ret = evering_recv(c->ev, entry, LEN, PLENTY);
	if (!ret && (entry[0] != HELLO || entry[1] >= KINDS))
		ret = -EPROTO;
	if (ret)
		return ret;
	c->kind = entry[1];
	self->count++;
	if (c->kind == LIES_OPS || c->kind == LIES_BUFFER)
		ret = evering_ops_open(c->ev, NULL, &c->ops);
	return ret ? ret : evering_group_add(self->g, c->ev, EVERING_RX, c);
}

static int members(const FIXTURE_DATA(crowd) * self)
{
	return (int)self->alive;
}

/*
 * Turns of the others since it was asked.  It counts from the first call that began
 * after that: until such a call looks at the set there may be as many events as are
 * returned before the set is looked at, and as many of one call more.
 */
static void count_turns(FIXTURE_DATA(crowd) * self, uint32_t question,
			uint64_t now)
{
	uint32_t calls = common->calls, at;
	uint64_t turns;

	at = __atomic_load_n(&common->asked_at[question], __ATOMIC_ACQUIRE);
	if (!at || at >= calls || calls - at >= CALLS)
		return;
	turns = now - self->before[(at + 1) % CALLS];
	self->worst = max_of(self->worst, turns);
	if (turns > 2 * EVERING_GROUP_BATCH + (uint64_t)members(self))
		WRONG(self);
}

/* One entry, and an answer to it if there is room. */
static void serve(FIXTURE_DATA(crowd) * self, struct client *c, uint64_t now)
{
	uint32_t entry[LEN / 4];
	int ret;

	if (c->ops) {
		evering_ops_poll(c->ops);
		return;
	}
	if (evering_recv(c->ev, entry, LEN, EVERING_NOWAIT))
		return;
	switch (c->kind) {
	case BEHAVES:
		count_turns(self, c->n, now);
		/* fallthrough */
	case FLOODS:
	case STOPS:
	case DIES:
	case RINGS:
	case LIES_ARMED:
	case LIES_RELEASED:
		if (!check_entry(entry, LEN, c->n++, SALT))
			WRONG(self);
		break;
	default:
		break;
	}
	ret = evering_send(c->ev, entry, LEN, EVERING_NOWAIT);
	if (ret && c->kind == BEHAVES)
		WRONG(self);
}

static void bury(FIXTURE_DATA(crowd) * self, struct client *c, int result)
{
	c->error = result;
	if (c->ops && evering_ops_poll(c->ops) != result)
		WRONG(self);
	evering_close(c->ev);
	c->ev = NULL;
	c->ops = NULL;
	self->gone[c->kind]++;
	self->alive--;
}

static int next_events(FIXTURE_DATA(crowd) * self, bool loop,
		       const struct evering_group_event **events,
		       int64_t timeout_ns)
{
	uint32_t call = common->calls + 1;
	int64_t end = now_ns() + timeout_ns;
	struct epoll_event event;
	int n;

	self->before[call % CALLS] = self->events;
	__atomic_store_n(&common->calls, call, __ATOMIC_RELEASE);
	if (!loop)
		return evering_group_wait(self->g, events, timeout_ns);
	/* Those who ring for nothing end a sleep, too. */
	while (!(n = evering_group_poll(self->g, events)) && now_ns() < end)
		epoll_wait(self->set, &event, 1, (int)(timeout_ns / MSEC));
	return n ? n : -ETIMEDOUT;
}

/* One call, and what it returns is served.  As evering_group_wait(). */
static int turn(FIXTURE_DATA(crowd) * self, bool loop, int64_t timeout_ns)
{
	const struct evering_group_event *events;
	int n, i;

	n = next_events(self, loop, &events, timeout_ns);
	for (i = 0; i < n; i++) {
		struct client *c = events[i].context;

		switch (events[i].what) {
		case EVERING_GROUP_GONE:
			bury(self, c, events[i].result);
			break;
		case EVERING_RX:
			serve(self, c, self->events);
			break;
		default:
			WRONG(self);
		}
		self->events++;
	}
	return n;
}

static bool stop_process(FIXTURE_DATA(crowd) * self, unsigned int i)
{
	int status;

	if (!self->pid[i] || self->stopped[i])
		return true;
	self->stopped[i] = true;
	return !kill(self->pid[i], SIGSTOP) &&
	       waitpid(self->pid[i], &status, WUNTRACED) == self->pid[i] &&
	       WIFSTOPPED(status);
}

FIXTURE_SETUP(crowd)
{
	unsigned int n, i, all = crowd_size();
	struct evering_group_params params = EVERING_GROUP_PARAMS_INIT;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };

	REQUIRE_BACKEND(variant->backend);
	limit_of_descriptors();
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)common);
	self->clients = calloc(MOST, sizeof(*self->clients));
	self->before = calloc(CALLS, sizeof(*self->before));
	ASSERT_TRUE(self->clients && self->before);
	self->fds = count_fds();
	self->mappings = list_mappings(NULL, 0, true);
	params.policy = variant->policy;
	ASSERT_EQ(0, evering_group_open(&params, &self->g));
	self->set = epoll_create1(EPOLL_CLOEXEC);
	ASSERT_EQ(0, epoll_ctl(self->set, EPOLL_CTL_ADD,
			       evering_group_fd(self->g), &event));
	for (i = 0; i < CREW; i++) {
		struct process *p = &self->process[i];

		p->which = i;
		p->p = params_sized(variant->backend, SLOT, ENTRIES, 0);
		p->p.policy = EVERING_BLOCK;
		p->questions = short_run() || SANITIZED ? 100 : 1000;
		p->clients = !i ? 1 : i > 2 ? all / 10 : all * 2 / 5 - 1;
		snprintf(p->path, sizeof(p->path), "@evering-crowd-%d",
			 getpid());
	}
	ASSERT_EQ(0, evering_listen(self->process[0].path, 0, &self->listener));
	for (i = 0; i < CREW; i++) {
		self->pid[i] = spawn(process_main, &self->process[i]);
		ASSERT_LT(0, self->pid[i]);
		for (n = 0; n < self->process[i].clients; n++)
			ASSERT_EQ(0, admit(self))
			{
				TH_LOG("process %u, client %u, which failed in line %d",
				       i, n, common->failed);
			}
	}
	self->alive = self->count;
}

FIXTURE_TEARDOWN(crowd)
{
	int i;

	for (i = 0; i < CREW; i++)
		kill_and_reap(self->pid[i]);
}

/* What an idle second takes: sleeps that end, and time of the CPU. */
static void idle(struct rusage *used, int64_t *ns)
{
	getrusage(RUSAGE_THREAD, used);
	*ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

TEST_F(crowd, one_behaves)
{
	uint32_t questions = self->process[0].questions, answered = 0;
	struct rusage first, last;
	int64_t cpu_first, cpu_last, end = now_ns() + 10 * PLENTY;
	unsigned int i, quiet = 0;

	__atomic_store_n(&common->go, true, __ATOMIC_RELEASE);
	while (answered < questions) {
		ASSERT_LE(1, turn(self, variant->loop, PLENTY));
		ASSERT_EQ(0, self->wrong);
		ASSERT_EQ(0, common->failed);
		ASSERT_GT(end, now_ns());
		answered = __atomic_load_n(&common->answered, __ATOMIC_ACQUIRE);
		if (answered >= questions / 3 && self->pid[KILLED]) {
			kill_and_reap(self->pid[KILLED]);
			self->pid[KILLED] = 0;
		}
		if (answered >= questions / 2)
			ASSERT_TRUE(stop_process(self, STOPPED));
	}
	/* Those who lie were told of, and those who died; all of them, and nobody else. */
	while (self->alive >
	       1 + self->process[1].clients + self->process[STOPPED].clients) {
		ASSERT_LE(1, turn(self, variant->loop, PLENTY));
		ASSERT_GT(end, now_ns());
	}
	for (i = 0; i < self->count; i++) {
		const struct client *c = &self->clients[i];

		EXPECT_EQ(c->kind == DIES ? -EPIPE :
			  c->kind >= LIES_RELEASED && c->kind <= LIES_BUFFER ?
					    -EPROTO :
					    0,
			  c->error);
	}
	/* Nobody does anything: what there is is taken, and then all sleep. */
	for (i = 0; i < CREW; i++)
		ASSERT_TRUE(stop_process(self, i));
	while (quiet < 2) {
		int n = turn(self, variant->loop, 50 * MSEC);

		ASSERT_TRUE(n >= 1 || n == -ETIMEDOUT);
		ASSERT_GT(end, now_ns());
		quiet = n > 0 ? 0 : quiet + 1;
	}
	idle(&first, &cpu_first);
	EXPECT_EQ(-ETIMEDOUT, turn(self, variant->loop, SEC));
	idle(&last, &cpu_last);
	EXPECT_GE(8, last.ru_nvcsw - first.ru_nvcsw);
	EXPECT_GT(SEC / 4, cpu_last - cpu_first);
	/* And all go. */
	for (i = 0; i < CREW; i++) {
		kill_and_reap(self->pid[i]);
		self->pid[i] = 0;
	}
	while (self->alive)
		ASSERT_LE(1, turn(self, variant->loop, PLENTY));
	EXPECT_EQ(-ETIMEDOUT, turn(self, variant->loop, MSEC));
	EXPECT_EQ(0, self->wrong);
	evering_listener_close(self->listener);
	close(self->set);
	evering_group_close(self->g);
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_EQ(self->mappings, list_mappings(NULL, 0, true));
	printf("# %u clients, %llu events in %u calls; at most %llu between a question and its turn; idle: %ld sleeps, %lld us\n",
	       self->count, (unsigned long long)self->events, common->calls,
	       (unsigned long long)self->worst, last.ru_nvcsw - first.ru_nvcsw,
	       (long long)(cpu_last - cpu_first) / USEC);
}

TEST_HARNESS_MAIN
