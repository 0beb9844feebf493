// SPDX-License-Identifier: MIT
/*
 * relay.c: channels that cross two relays (evering-relay(1)), in a network of the test's own:
 * what arrives, what is told when either side, a relay or the way between them ends, and what
 * strangers at the port can do.
 */
#include "op.h"
#include "stranger.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define IN	  "@evering-relay-in"
#define OUT	  "@evering-relay-out"
#define PORT	  "7711"
#define KEEPALIVE (slow(1) > 1 ? "8" : "2")

enum {
	NEAR,
	FAR
};

FIXTURE(relay)
{
	uint32_t backend;
	char program[256];
	char dir[64];
	char key[96];
	pid_t pid[2];
	struct evering_listener *l;
	struct evering *c; /* the client */
	struct evering *s; /* the server */
	struct evering_params p;
};

BACKEND_VARIANTS(relay);

/* The interface of this network, which has nothing but itself. */
static int set_link(bool up)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret = -1;

	if (fd >= 0 && !ioctl(fd, SIOCGIFFLAGS, &ifr)) {
		ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP :
					     ifr.ifr_flags & ~IFF_UP);
		ret = ioctl(fd, SIOCSIFFLAGS, &ifr);
	}
	close(fd);
	return ret;
}

/* The log of a relay has @text. */
static bool logged(FIXTURE_DATA(relay) * self, int which, const char *text)
{
	char path[96], buf[8192];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%d", self->dir, which);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	return strstr(buf, text);
}

struct program {
	const char *path;
	const char *log;
	const char *args[16];
};

static int exec_main(void *arg)
{
	struct program *p = arg;
	int fd = open(p->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	dup2(fd, 1);
	dup2(fd, 2);
	execv(p->path, (char **)p->args);
	return 127;
}

static pid_t start_program(FIXTURE_DATA(relay) * self, int which,
			   struct program *p)
{
	char log[96];

	snprintf(log, sizeof(log), "%s/%d", self->dir, which);
	p->path = self->program;
	p->log = log;
	p->args[0] = "evering-relay";
	return spawn(exec_main, p);
}

static bool start_far(FIXTURE_DATA(relay) * self)
{
	char key[128], alive[32];
	struct program p = {
		.args = { NULL, "--bind=127.0.0.1:" PORT, "--serve=t=" OUT, key,
			  alive,
			  self->backend == EVERING_BACKEND_DEVICE ?
				  "--backend=device" :
				  "--backend=memfd" },
	};

	snprintf(key, sizeof(key), "--key=%s", self->key);
	snprintf(alive, sizeof(alive), "--keepalive=%s", KEEPALIVE);
	self->pid[FAR] = start_program(self, FAR, &p);
	return EVENTUALLY(logged(self, FAR, "other relays call"));
}

static bool start_near(FIXTURE_DATA(relay) * self)
{
	char key[128], alive[32];
	struct program p = {
		.args = { NULL, "--listen=" IN, "--to=127.0.0.1:" PORT "/t",
			  key, alive },
	};

	snprintf(key, sizeof(key), "--key=%s", self->key);
	snprintf(alive, sizeof(alive), "--keepalive=%s", KEEPALIVE);
	self->pid[NEAR] = start_program(self, NEAR, &p);
	return EVENTUALLY(logged(self, NEAR, "clients at"));
}

static void kill_relay(FIXTURE_DATA(relay) * self, int which)
{
	kill_and_reap(self->pid[which]);
	self->pid[which] = 0;
}

static struct evering_params limits_of(const struct evering_params *p)
{
	struct evering_params limits = EVERING_LIMITS_INIT;

	limits.arena_size[EVERING_MINE] = limits.arena_size[EVERING_PEERS] =
		64 << 20;
	limits.entries = EVERING_MAX_ENTRIES;
	limits.policy = p->policy;
	return limits;
}

/* A client and a server, both here. */
static int meet_here(FIXTURE_DATA(relay) * self, struct evering **c,
		     struct evering **s)
{
	struct evering_params limits = limits_of(&self->p), p = self->p;
	int ret;

	p.flags |= EVERING_AWAIT;
	ret = self->l ? 0 : evering_listen(OUT, 0, &self->l);
	if (!ret)
		ret = evering_connect(IN, &p, PLENTY, c);
	if (!ret)
		ret = evering_accept(self->l, &limits, PLENTY, s);
	return ret;
}

FIXTURE_SETUP(relay)
{
	ssize_t n;
	FILE *key;

	REQUIRE_BACKEND(variant->backend);
	self->backend = variant->backend;
	n = readlink("/proc/self/exe", self->program,
		     sizeof(self->program) - 32);
	ASSERT_LT(0, n);
	strcpy(strstr(self->program, "/selftests/"), "/evering-relay");
	if (access(self->program, X_OK)) {
		SKIP(return,
			   "no evering-relay: it was built without libfabric");
	}
	if (unshare(CLONE_NEWNET) || set_link(true)) {
		SKIP(return, "no network of its own: needs root");
	}
	strcpy(self->dir, "/tmp/evering-relay-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->key, sizeof(self->key), "%s/key", self->dir);
	umask(077);
	key = fopen(self->key, "we");
	ASSERT_NE(NULL, key);
	fputs("0123456789abcdef0123456789\n", key);
	fclose(key);
	self->p = params_sized(variant->backend, 64, 64, 1 << 20);
	ASSERT_TRUE(start_far(self));
	ASSERT_TRUE(start_near(self));
}

FIXTURE_TEARDOWN(relay)
{
	char path[96];
	int i;

	over = true;
	evering_close(self->c);
	evering_close(self->s);
	evering_listener_close(self->l);
	for (i = 0; i < 2; i++) {
		kill_and_reap(self->pid[i]);
		snprintf(path, sizeof(path), "%s/%d", self->dir, i);
		unlink(path);
	}
	unlink(self->key);
	rmdir(self->dir);
}

/* What @ev is told of its peer, once it is gone. */
static int end_of(struct evering *ev)
{
	return EVENTUALLY(evering_peer(ev) != EVERING_PEER_ALIVE) ?
		       evering_peer(ev) :
		       0;
}

/* Entry @n crosses from the one to the other. */
static bool passes(struct evering *from, struct evering *to, uint32_t n)
{
	uint32_t v = 0;

	return !evering_send(from, &n, sizeof(n), PLENTY) &&
	       !evering_recv(to, &v, sizeof(v), PLENTY) && v == n;
}

/* ------------------------------------------------------------------- what crosses */

TEST_F(relay, entries_cross_in_order_and_whole)
{
	struct evering *ends[2];
	unsigned char entry[EVERING_MAX_SLOT];
	uint32_t n, sent[2] = { 0 }, got[2] = { 0 }, total = 5000;
	int i, ret;

	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ends[0] = self->c;
	ends[1] = self->s;
	while (got[0] < total || got[1] < total) {
		for (i = 0; i < 2; i++) {
			for (n = 0; n < 20 && sent[i] < total; n++) {
				fill_entry(entry, 60, sent[i], (uint64_t)i);
				ret = evering_send(ends[i], entry, 60,
						   EVERING_NOWAIT);
				if (ret)
					break;
				sent[i]++;
			}
			while (!evering_recv(ends[!i], entry, 60,
					     EVERING_NOWAIT)) {
				ASSERT_TRUE(check_entry(entry, 60, got[i],
							(uint64_t)i));
				got[i]++;
			}
		}
		ASSERT_EQ(EVERING_PEER_ALIVE, evering_peer(self->c));
	}
	EXPECT_EQ(-EAGAIN, evering_recv(self->c, entry, 60, EVERING_NOWAIT));
}

TEST_F(relay, geometries_cross)
{
	static const uint32_t slots[] = { 16, 64, 256 };
	static const uint32_t entries[] = { 4, 4096 };
	struct evering *c, *s;
	unsigned int i, j;
	uint32_t n;

	for (i = 0; i < 3; i++) {
		for (j = 0; j < 2; j++) {
			self->p = params_sized(variant->backend, slots[i],
					       entries[j], j ? 0 : 4096);
			ASSERT_EQ(0, meet_here(self, &c, &s));
			for (n = 0; n < 50; n++) {
				ASSERT_TRUE(passes(c, s, n));
				ASSERT_TRUE(passes(s, c, ~n));
			}
			evering_close(c);
			EXPECT_EQ(EVERING_PEER_CLOSED, end_of(s));
			evering_close(s);
		}
	}
}

TEST_F(relay, buffers_and_messages_cross)
{
	static unsigned char data[200000];
	struct evering_completion done;
	struct evering_ops *c, *s;
	struct evering_request r;
	struct evering_op op = { .opcode = 3 };
	struct iovec iov = { .iov_base = data };
	struct evering_msg msg;
	uint64_t id, rng = 7;
	unsigned char *buf;
	size_t i;

	for (i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)random_u64(&rng);
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_EQ(0, evering_ops_open(self->c, NULL, &c));
	ASSERT_EQ(0, evering_ops_open(self->s, NULL, &s));
	for (i = 0; i < 20; i++) {
		buf = evering_alloc(self->c, sizeof(data), 0);
		ASSERT_NE(NULL, buf);
		memcpy(buf, data, sizeof(data));
		op.flags = i % 2 ? EVERING_LEND : EVERING_GIVE;
		op.buf = buf;
		op.buf_len = sizeof(data) - i;
		ASSERT_EQ(0, evering_op_submit(c, &op, &id, PLENTY));
		evering_ops_flush(c);
		ASSERT_EQ(0, evering_op_next(s, &r, PLENTY));
		EXPECT_EQ(sizeof(data) - i, r.buf_len);
		EXPECT_EQ(0, memcmp(r.buf, data, r.buf_len));
		if (r.flags & EVERING_GIVE) {
			EXPECT_EQ(0, evering_free(self->s, r.buf));
		}
		ASSERT_EQ(0, evering_op_answer(s, r.id, (int32_t)i, data, 5));
		evering_ops_flush(s);
		ASSERT_EQ(0, evering_op_wait(c, id, &done, PLENTY));
		EXPECT_EQ((int32_t)i, done.result);
		EXPECT_EQ(0, memcmp(done.data, data, 5));
		if (i % 2) {
			EXPECT_EQ(0, evering_free(self->c, buf));
		}
		/* And a message of any length comes back. */
		iov.iov_len = 9999 * i;
		ASSERT_EQ(0, evering_msg_send(s, &iov, 1, PLENTY));
		ASSERT_EQ(0, evering_msg_recv(c, &msg, PLENTY));
		EXPECT_EQ(9999 * i, msg.len);
		EXPECT_EQ(0, memcmp(msg.data, data, msg.len));
		evering_msg_free(c, &msg);
	}
}

/* ----------------------------------------------------------------------- the end */

TEST_F(relay, a_polite_end_is_one)
{
	uint32_t v = 5;

	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_TRUE(passes(self->c, self->s, 1));
	ASSERT_EQ(0, evering_send(self->s, &v, sizeof(v), 0));
	evering_close(self->s);
	self->s = NULL;
	EXPECT_EQ(EVERING_PEER_CLOSED, end_of(self->c));
	EXPECT_EQ(0, evering_recv(self->c, &v, sizeof(v), 0));
	EXPECT_EQ(5u, v);
	EXPECT_EQ(-EPIPE, evering_recv(self->c, &v, sizeof(v), PLENTY));
}

struct half_way {
	struct evering_params limits;
	uint32_t take; /* so many are received */
	uint32_t begin; /* and so many behind these begun */
	uint32_t *there;
};

/* A server that is to be killed with some done, some begun, and some unseen. */
static int half_way_main(void *arg)
{
	struct half_way *h = arg;
	struct evering_listener *l;
	struct evering *ev;
	uint32_t v;

	if (evering_listen(OUT, 0, &l) ||
	    evering_accept(l, &h->limits, PLENTY, &ev))
		return 1;
	for (; h->take; h->take--)
		if (evering_recv(ev, &v, sizeof(v), PLENTY))
			return 2;
	evering_send(ev, &v, sizeof(v), 0);
	if (!EVENTUALLY(!h->begin || evering_peek_at(ev, h->begin - 1)))
		return 3;
	evering_begin(ev, h->begin);
	__atomic_store_n(h->there, 1, __ATOMIC_RELEASE);
	await_death();
}

TEST_F(relay, a_death_is_one_and_its_verdict_exact)
{
	struct half_way h = { limits_of(&self->p), 0, 0, shared_memory(4096) };
	struct evering_params p = self->p;
	struct evering_fate_info fate;
	uint32_t n, v, lap;
	int64_t took;
	pid_t pid;

	ASSERT_NE(NULL, h.there);
	for (lap = 0; lap < 6; lap++) {
		h.take = 3 * lap + 1;
		h.begin = lap;
		*h.there = 0;
		pid = spawn(half_way_main, &h);
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, evering_connect(IN, &p, PLENTY, &self->c));
		for (n = 0; n < 30; n++)
			ASSERT_EQ(0, evering_send(self->c, &n, sizeof(n), 0));
		ASSERT_TRUE(
			EVENTUALLY(__atomic_load_n(h.there, __ATOMIC_ACQUIRE)));
		took = now_ns();
		kill_and_reap(pid);
		EXPECT_EQ(EVERING_PEER_DIED, end_of(self->c));
		printf("# told of the death after %lld us\n",
		       (long long)((now_ns() - took) / USEC));
		ASSERT_EQ(0, evering_fate(self->c, &fate));
		/* Of what it has received it had told a part only. */
		EXPECT_LE(lap, fate.begun);
		EXPECT_EQ(30 - (3 * lap + 1) - lap, fate.unseen);
		/* What it had sent is there. */
		EXPECT_EQ(0, evering_recv(self->c, &v, sizeof(v), 0));
		EXPECT_EQ(h.take - 1, v);
		evering_close(self->c);
		self->c = NULL;
	}
}

TEST_F(relay, a_clients_death_is_one)
{
	struct evering_params limits = limits_of(&self->p);
	struct evering_params p = self->p;
	uint32_t *sent = shared_memory(4096);
	uint32_t n, v;
	pid_t pid;

	ASSERT_NE(NULL, sent);
	ASSERT_EQ(0, evering_listen(OUT, 0, &self->l));
	pid = fork();
	if (!pid) {
		if (evering_connect(IN, &p, PLENTY, &self->c))
			_exit(1);
		for (n = 0; n < 50; n++)
			evering_send(self->c, &n, sizeof(n), PLENTY);
		__atomic_store_n(sent, 1, __ATOMIC_RELEASE);
		await_death();
	}
	ASSERT_EQ(0, evering_accept(self->l, &limits, PLENTY, &self->s));
	ASSERT_EQ(0, evering_recv(self->s, &v, sizeof(v), PLENTY));
	ASSERT_TRUE(EVENTUALLY(__atomic_load_n(sent, __ATOMIC_ACQUIRE)));
	kill_and_reap(pid);
	EXPECT_EQ(EVERING_PEER_DIED, end_of(self->s));
	/* All that it had sent comes first. */
	for (n = 1; n < 50; n++) {
		ASSERT_EQ(0, evering_recv(self->s, &v, sizeof(v), 0));
		ASSERT_EQ(n, v);
	}
	EXPECT_EQ(-EPIPE, evering_recv(self->s, &v, sizeof(v), PLENTY));
}

TEST_F(relay, a_relays_death_is_none_of_the_peers)
{
	struct evering_fate_info fate;
	int which;
	uint32_t n;

	for (which = NEAR; which <= FAR; which++) {
		ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
		ASSERT_TRUE(passes(self->c, self->s, 1));
		/* The last ones are passed on, and nobody will know what became of them. */
		for (n = 0; n < 5; n++) {
			ASSERT_EQ(0, evering_send(self->c, &n, sizeof(n), 0));
		}
		ASSERT_TRUE(EVENTUALLY(evering_peek_at(self->s, 4)));
		kill_relay(self, which);
		EXPECT_EQ(EVERING_PEER_RELAY_DIED, end_of(self->c));
		EXPECT_EQ(EVERING_PEER_RELAY_DIED, end_of(self->s));
		EXPECT_EQ(0, evering_fate(self->c, &fate));
		EXPECT_EQ(0u, fate.unseen);
		evering_close(self->c);
		evering_close(self->s);
		self->c = self->s = NULL;
		/* And the way is there again when the relay is. */
		if (which == NEAR) {
			ASSERT_TRUE(start_near(self));
		} else {
			ASSERT_TRUE(start_far(self));
		}
		ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
		EXPECT_TRUE(passes(self->c, self->s, 2));
		evering_close(self->c);
		evering_close(self->s);
		self->c = self->s = NULL;
	}
}

TEST_F(relay, a_lost_way_is_told_within_the_keepalive)
{
	struct evering_params p = self->p;
	int64_t took;

	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_TRUE(passes(self->c, self->s, 1));
	took = now_ns();
	ASSERT_EQ(0, set_link(false));
	EXPECT_EQ(EVERING_PEER_LOST, end_of(self->c));
	EXPECT_EQ(EVERING_PEER_LOST, end_of(self->s));
	took = now_ns() - took;
	EXPECT_GT(2 * atoi(KEEPALIVE) * SEC, took);
	evering_close(self->c);
	evering_close(self->s);
	self->c = self->s = NULL;
	/* Nobody is let in to wait for what is not there. */
	EXPECT_EQ(-ECONNREFUSED, evering_connect(IN, &p, PLENTY, &self->c));
	ASSERT_EQ(0, set_link(true));
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	EXPECT_TRUE(passes(self->c, self->s, 2));
}

TEST_F(relay, one_that_is_stopped_is_lost)
{
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_TRUE(passes(self->c, self->s, 1));
	kill(self->pid[FAR], SIGSTOP);
	EXPECT_EQ(EVERING_PEER_LOST, end_of(self->c));
	kill(self->pid[FAR], SIGCONT);
	/* That one finds the link cut. */
	EXPECT_LT(EVERING_PEER_DIED, end_of(self->s));
	evering_close(self->c);
	evering_close(self->s);
	self->c = self->s = NULL;
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	EXPECT_TRUE(passes(self->c, self->s, 2));
}

TEST_F(relay, to_stop_one_is_told)
{
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_TRUE(passes(self->c, self->s, 1));
	kill(self->pid[FAR], SIGTERM);
	EXPECT_EQ(EVERING_PEER_RELAY_DIED, end_of(self->c));
	EXPECT_EQ(EVERING_PEER_RELAY_DIED, end_of(self->s));
	EXPECT_EQ(0, reap(self->pid[FAR]));
	self->pid[FAR] = 0;
}

TEST_F(relay, a_server_that_is_not_there_is_a_death_and_nothing_was_begun)
{
	struct evering_params p = self->p;
	struct evering_fate_info fate;
	uint32_t n;

	p.flags |= EVERING_AWAIT;
	ASSERT_EQ(0, evering_connect(IN, &p, PLENTY, &self->c));
	for (n = 0; n < 5; n++)
		ASSERT_EQ(0, evering_send(self->c, &n, sizeof(n), 0));
	/* --patience is five seconds. */
	EXPECT_EQ(EVERING_PEER_DIED, end_of(self->c));
	EXPECT_EQ(0, evering_fate(self->c, &fate));
	EXPECT_EQ(5u, fate.unseen);
	EXPECT_EQ(0u, fate.begun);
}

/* -------------------------------------------------------------------- successors */

#define ASKED 100000u

/* In memory that outlives each server: how often each operation was begun. */
struct ledger_of_servers {
	uint32_t there;
	unsigned char begun[ASKED];
};

static void serve_one(struct evering_client *client,
		      const struct evering_request *request)
{
	struct ledger_of_servers *l = client->context;

	__atomic_add_fetch(&l->begun[request->opcode % ASKED], 1,
			   __ATOMIC_RELAXED);
	evering_op_answer(client->ops, request->id,
			  (int32_t)(request->opcode & 0xffff), NULL, 0);
}

static int serve_main(void *arg)
{
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;
	struct ledger_of_servers *l = arg;
	struct evering_server *server;

	p.request = serve_one;
	p.context = l;
	if (evering_server_open(OUT, &p, &server))
		return 1;
	__atomic_store_n(&l->there, 1, __ATOMIC_RELEASE);
	for (;;)
		evering_server_wait(server, EVERING_WAIT_FOREVER);
}

static pid_t start_server(struct ledger_of_servers *l)
{
	pid_t pid;

	l->there = 0;
	pid = spawn(serve_main, l);
	return EVENTUALLY(__atomic_load_n(&l->there, __ATOMIC_ACQUIRE)) ? pid :
									  -1;
}

/* What the client was told of each. */
struct answers {
	struct ledger_of_servers *l;
	uint32_t ended, answered, begun, wrong;
};

static void on_end(struct evering_ops *ops, const struct evering_completion *c)
{
	struct answers *a = c->user;
	unsigned int begun = a->l->begun[c->ext];

	(void)ops;
	if (over)
		return;
	a->ended++;
	if (c->flags & EVERING_ANSWERED) {
		a->answered++;
		a->wrong += begun != 1 ||
			    c->result != (int32_t)(c->ext & 0xffff);
	} else if (c->result == -EOWNERDEAD && (c->flags & EVERING_BEGUN)) {
		a->begun++;
		a->wrong += begun > 1;
	} else {
		a->wrong++;
		printf("# operation %u: %d, flags %x\n", (unsigned int)c->ext,
		       c->result, c->flags);
	}
}

TEST_F_TIMEOUT(relay, whoever_is_killed_each_operation_has_one_outcome, 600)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	const char *wanted = getenv("EVERING_KILLS");
	uint32_t kills = wanted ? (uint32_t)atoi(wanted) : short_run() ? 6 : 30;
	struct ledger_of_servers *l = shared_memory(sizeof(*l));
	struct evering_params wish = self->p;
	struct answers a = { .l = l };
	struct evering_op op = { .done = on_end, .user = &a };
	uint64_t rng = random_seed();
	struct evering_ops *ops;
	uint32_t n = 0, k, i;
	pid_t server;

	ASSERT_NE(NULL, l);
	server = start_server(l);
	ASSERT_LT(0, server);
	wish.flags |= EVERING_AWAIT;
	ASSERT_EQ(0, evering_connect(IN, &wish, PLENTY, &self->c));
	p.flags = EVERING_REPLACEABLE;
	ASSERT_EQ(0, evering_ops_open(self->c, &p, &ops));
	ASSERT_EQ(0, evering_ops_follow(ops, IN, 2 * PLENTY));
	for (k = 0; k <= kills && n < ASKED - 64; k++) {
		for (i = (uint32_t)random_below(&rng, 60) + 2; i > 0; i--) {
			op.opcode = n;
			op.ext = n++;
			ASSERT_EQ(0, evering_op_submit(ops, &op, NULL,
						       2 * PLENTY));
		}
		evering_ops_flush(ops);
		if (k == kills)
			break;
		spin_ns((int64_t)random_below(&rng, 300) * USEC);
		switch (random_below(&rng, 3)) {
		case 0:
			kill_and_reap(server);
			server = start_server(l);
			ASSERT_LT(0, server);
			break;
		case 1:
			kill_relay(self, NEAR);
			ASSERT_TRUE(start_near(self));
			break;
		default:
			kill_relay(self, FAR);
			ASSERT_TRUE(start_far(self));
		}
	}
	while (a.ended < n) {
		ASSERT_LT(0, evering_ops_wait(ops, 2 * PLENTY))
		{
			TH_LOG("%u of %u have ended", a.ended, n);
		}
	}
	printf("# %u kills: %u operations, %u answered, %u begun by who had gone\n",
	       k, n, a.answered, a.begun);
	EXPECT_EQ(0u, a.wrong);
	EXPECT_EQ(n, a.ended);
	kill_and_reap(server);
}

/* ----------------------------------------------------------------- back-pressure */

static int64_t ticks_of(pid_t pid)
{
	char path[64], text[512], *at;
	unsigned long user, kernel;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f || !fgets(text, sizeof(text), f))
		return -1;
	fclose(f);
	at = strrchr(text, ')');
	if (sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
		   &user, &kernel) != 2)
		return -1;
	return (int64_t)(user + kernel);
}

static long memory_kb(pid_t pid)
{
	char path[64], line[128];
	long kb = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

TEST_F(relay, a_full_ring_is_full_and_nobody_elses_matter)
{
	struct evering *c2, *s2;
	uint32_t n = 0, v, i;
	int64_t took, ticks[2];
	long before, after;
	int which;

	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_EQ(0, meet_here(self, &c2, &s2));
	ASSERT_TRUE(passes(c2, s2, 1));
	before = memory_kb(self->pid[NEAR]) + memory_kb(self->pid[FAR]);
	while (!evering_send(self->c, &n, sizeof(n), 200 * MSEC))
		n++;
	/* As many as between two on one machine, and nobody spins over it. */
	EXPECT_EQ(self->p.entries, n);
	for (which = 0; which < 2; which++)
		ticks[which] = ticks_of(self->pid[which]);
	EXPECT_EQ(-ETIMEDOUT, evering_send(self->c, &n, sizeof(n),
					   slow(1) > 1 ? 4 * SEC : SEC));
	for (which = 0; which < 2; which++) {
		EXPECT_GE(slow(4), ticks_of(self->pid[which]) - ticks[which]);
	}
	took = now_ns();
	for (i = 0; i < 200; i++) {
		ASSERT_TRUE(passes(c2, s2, i));
		ASSERT_TRUE(passes(s2, c2, i));
	}
	took = now_ns() - took;
	EXPECT_GT(slow(5 * SEC), took);
	after = memory_kb(self->pid[NEAR]) + memory_kb(self->pid[FAR]);
	EXPECT_GT(before + 1024, after);
	/* One that is taken makes room for one. */
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, evering_recv(self->s, &v, sizeof(v), 0));
		ASSERT_EQ(i, v);
		/* As who goes on to another channel has to. */
		evering_publish(self->s);
		ASSERT_EQ(0, evering_send(self->c, &n, sizeof(n), PLENTY));
		n++;
	}
	for (which = 0; which < 2; which++)
		EXPECT_EQ(EVERING_PEER_ALIVE,
			  evering_peer(which ? self->c : self->s));
	evering_close(c2);
	evering_close(s2);
}

/* ---------------------------------------------------------------------- strangers */

static int call_port(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)atoi(PORT)) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		close(fd);
		return -1;
	}
	return fd;
}

TEST_F(relay, strangers_at_the_port_harm_nobody)
{
	unsigned char noise[4096];
	uint64_t rng = random_seed();
	int fds[100], i, fd;
	size_t j;

	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	/* Some say nothing, and some say what they like. */
	for (i = 0; i < 100; i++) {
		fds[i] = call_port();
		ASSERT_LE(0, fds[i]);
		if (i % 2) {
			for (j = 0; j < sizeof(noise); j++)
				noise[j] = (unsigned char)random_u64(&rng);
			send(fds[i], noise, random_below(&rng, sizeof(noise)),
			     MSG_NOSIGNAL | MSG_DONTWAIT);
		}
		ASSERT_TRUE(passes(self->c, self->s, (uint32_t)i));
	}
	/* Another relay comes in all the same, and what was there goes on. */
	kill_relay(self, NEAR);
	evering_close(self->c);
	evering_close(self->s);
	self->c = self->s = NULL;
	ASSERT_TRUE(start_near(self));
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	EXPECT_TRUE(passes(self->c, self->s, 2));
	for (i = 0; i < 100; i++)
		close(fds[i]);
	fd = call_port();
	EXPECT_LE(0, fd);
	close(fd);
	EXPECT_TRUE(passes(self->s, self->c, 3));
}

/* ------------------------------------------------------------------ what is left */

static int fds_of(pid_t pid)
{
	char path[64];
	int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

TEST_F(relay, clients_that_come_and_go_leave_nothing)
{
	struct evering_params limits = limits_of(&self->p), p = self->p;
	int fds[2], i, which;
	pid_t pid;

	p.flags |= EVERING_AWAIT;
	/* A group of channels of the device has a file of its own, from the first one on. */
	ASSERT_EQ(0, meet_here(self, &self->c, &self->s));
	ASSERT_TRUE(passes(self->c, self->s, 1));
	evering_close(self->c);
	self->c = NULL;
	EXPECT_EQ(EVERING_PEER_CLOSED, end_of(self->s));
	evering_close(self->s);
	self->s = NULL;
	sleep_ns(100 * MSEC);
	for (which = 0; which < 2; which++)
		fds[which] = fds_of(self->pid[which]);
	for (i = 0; i < (short_run() ? 10 : 60); i++) {
		pid = fork();
		if (!pid) {
			if (evering_connect(IN, &p, PLENTY, &self->c))
				_exit(1);
			evering_send(self->c, &i, sizeof(i), 0);
			if (i % 3 == 0)
				await_death();
			if (i % 3 == 1)
				evering_close(self->c);
			_exit(0);
		}
		ASSERT_EQ(0,
			  evering_accept(self->l, &limits, PLENTY, &self->s));
		if (i % 3 == 0)
			kill_and_reap(pid);
		EXPECT_EQ(i % 3 == 1 ? EVERING_PEER_CLOSED : EVERING_PEER_DIED,
			  end_of(self->s));
		evering_close(self->s);
		self->s = NULL;
		if (i % 3) {
			EXPECT_EQ(0, reap(pid));
		}
	}
	for (which = 0; which < 2; which++) {
		EXPECT_TRUE(EVENTUALLY(fds_of(self->pid[which]) == fds[which]));
	}
}

#define MANY 50

TEST_F(relay, nobody_who_is_silent_costs_anything)
{
	struct evering *c[MANY], *s[MANY];
	int64_t ticks[2];
	int i;

	for (i = 0; i < MANY; i++) {
		ASSERT_EQ(0, meet_here(self, &c[i], &s[i]));
		ASSERT_TRUE(passes(c[i], s[i], (uint32_t)i));
	}
	sleep_ns(300 * MSEC);
	for (i = 0; i < 2; i++)
		ticks[i] = ticks_of(self->pid[i]);
	sleep_ns(2 * SEC);
	for (i = 0; i < 2; i++) {
		EXPECT_GE(slow(2), ticks_of(self->pid[i]) - ticks[i]);
	}
	for (i = 0; i < MANY; i++) {
		evering_close(c[i]);
		evering_close(s[i]);
	}
}

TEST_HARNESS_MAIN
