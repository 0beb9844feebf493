// SPDX-License-Identifier: MIT
/*
 * server.c: many clients behind callbacks: which are called, in which order, and nothing
 * after the end; whoever closes whom where; turns, counted; time limits; a graceful stop;
 * clients that are killed; no descriptors left; a server a thread.
 *
 * Where nothing else is said both sides are in one thread, and what a client does and what
 * the server does alternates, so that nothing depends on time.
 */
#include "common.h"

#include <sys/eventfd.h>

#define CLIENTS 4
/* How long to look for what must not come. */
#define QUIET (20 * MSEC)

/* What a client asks for. */
enum {
	ECHO = 1,
	KEEP,
	POST
};

/* Where a callback may be. */
enum at {
	AT_OPEN,
	AT_REQUEST,
	AT_MESSAGE,
	AT_CANCELLED,
	AT_CLOSE,
	AT_EVENT,
	AT_DONE,
	ATS
};

/* What the server was told of one client. */
struct track {
	struct evering_client *client;
	unsigned int requests, posts, messages, cancelled, closed;
	int why; /* of @cancelled */
	int end; /* of @closed */
	uint64_t kept[64];
	unsigned int n_kept;
	unsigned int first; /* when its first request came, of all requests */
};

static struct track tracks[64];
static unsigned int n_tracks, n_requests;
/* Callbacks for a client that has ended already. */
static unsigned int late;
/* What is to be done once, at one place, and has been. */
static struct {
	enum at at;
	void (*act)(struct evering_client *client);
	bool done;
} plan = { .at = ATS };
static struct evering_server *the_server;
static int open_result;
/* Answers to what is cancelled, or does not. */
static bool answers_cancelled;

static void act(enum at at, struct evering_client *client)
{
	if (plan.at != at || plan.done)
		return;
	plan.done = true;
	plan.act(client);
}

static struct track *track_of(struct evering_client *client)
{
	struct track *t = client->user;

	if (!t || t->closed) {
		late++;
		return &tracks[ARRAY_SIZE(tracks) - 1];
	}
	return t;
}

static int on_open(struct evering_client *client)
{
	struct track *t = &tracks[n_tracks++];

	t->client = client;
	client->user = t;
	act(AT_OPEN, client);
	return open_result;
}

static void on_request(struct evering_client *client,
		       const struct evering_request *request)
{
	struct track *t = track_of(client);

	n_requests++;
	if (!t->first)
		t->first = n_requests;
	if (request->flags & EVERING_POST)
		t->posts++;
	else
		t->requests++;
	if (request->opcode == KEEP)
		t->kept[t->n_kept++ % ARRAY_SIZE(t->kept)] = request->id;
	else if (request->opcode == ECHO)
		evering_op_answer(client->ops, request->id, 0, request->data,
				  request->len);
	act(AT_REQUEST, client);
}

static void on_message(struct evering_client *client,
		       const struct evering_msg *msg)
{
	track_of(client)->messages++;
	evering_msg_free(client->ops, msg);
	act(AT_MESSAGE, client);
}

static void on_cancelled(struct evering_client *client, uint64_t id, int why)
{
	struct track *t = track_of(client);

	t->cancelled++;
	t->why = why;
	if (answers_cancelled)
		evering_op_answer(client->ops, id, why, "bye", 3);
	act(AT_CANCELLED, client);
}

static void on_close(struct evering_client *client, int why)
{
	struct track *t = track_of(client);

	if (client->ops || evering_peer(client->ev) < 0)
		late++;
	act(AT_CLOSE, client);
	t->closed++;
	t->end = why;
}

static void on_event(struct evering_server *server,
		     const struct evering_group_event *event)
{
	uint64_t value;

	if (event->what != EVERING_GROUP_FD ||
	    read(*(int *)event->context, &value, 8) != 8)
		late++;
	act(AT_EVENT, evering_client_next(server, NULL));
}

static int waits;

static void on_waiting(struct evering_server *server, int error)
{
	(void)server;
	waits = error;
}

static unsigned int turns;

static void on_turn(struct evering_client *client)
{
	track_of(client);
	turns++;
}

static struct evering_server_params server_params(void)
{
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;

	p.open = on_open;
	p.request = on_request;
	p.message = on_message;
	p.cancelled = on_cancelled;
	p.close = on_close;
	p.event = on_event;
	p.waiting = on_waiting;
	p.turn = on_turn;
	return p;
}

/* A client, whose other side is in this thread, too. */
struct side {
	struct evering *ev;
	struct evering_ops *ops;
	unsigned int answers, failed;
	int32_t result;
	uint32_t len;
};

FIXTURE(server)
{
	struct evering_params p;
	struct evering_server_params sp;
	struct evering_server *s;
	struct side c[CLIENTS];
	int fds;
};

BACKEND_VARIANTS(server);

FIXTURE_SETUP(server)
{
	REQUIRE_BACKEND(variant->backend);
	self->fds = count_fds();
	self->p = params_sized(variant->backend, 64, 64, 65536);
	self->sp = server_params();
}

static bool ended_once(const struct track *t)
{
	return t->closed == 1;
}

FIXTURE_TEARDOWN(server)
{
	unsigned int i;

	evering_server_close(self->s);
	for (i = 0; i < CLIENTS; i++) {
		evering_ops_close(self->c[i].ops);
		evering_close(self->c[i].ev);
	}
	/* Each that was opened, and not turned away, ended once. */
	for (i = 0; i < n_tracks && !open_result; i++)
		EXPECT_TRUE(ended_once(&tracks[i]));
	EXPECT_EQ(0, late);
	EXPECT_EQ(self->fds, count_fds());
}

static void on_done(struct evering_ops *ops, const struct evering_completion *c)
{
	struct side *side = c->user;

	(void)ops;
	side->answers++;
	side->result = c->result;
	side->len = c->len;
	if (c->result || !(c->flags & EVERING_ANSWERED))
		side->failed++;
}

/* A client of @server, without a listener. */
static int add(struct evering_server *server, const struct evering_params *p,
	       struct side *side)
{
	struct evering *ev[2];
	int ret;

	ret = evering_pair(p, ev);
	if (ret)
		return ret;
	memset(side, 0, sizeof(*side));
	ret = evering_server_add(server, ev[1], NULL);
	if (ret)
		evering_close(ev[1]);
	side->ev = ev[0];
	return ret ? ret : evering_ops_open(ev[0], NULL, &side->ops);
}

static int submit(struct side *side, uint32_t opcode, uint64_t *id)
{
	struct evering_op op = { .opcode = opcode,
				 .data = "hello",
				 .len = 5,
				 .done = on_done,
				 .user = side };

	int ret = evering_op_submit(side->ops, &op, id, EVERING_NOWAIT);

	evering_ops_flush(side->ops);
	return ret;
}

static int post(struct side *side)
{
	const struct evering_op op = { .opcode = POST, .data = "x", .len = 1 };

	return evering_op_post(side->ops, &op, EVERING_NOWAIT);
}

static int message(struct side *side)
{
	return evering_msg_send(side->ops, &(struct iovec){ "abc", 3 }, 1,
				EVERING_NOWAIT);
}

/* Until neither side has anything more to do; what the server returned last. */
static int pump(struct evering_server *s, struct side *c, unsigned int count)
{
	unsigned int i, idle;
	int ret = 0;

	for (idle = 0; idle < 3; idle++) {
		ret = evering_server_poll(s);
		if (ret > 0)
			idle = 0;
		for (i = 0; i < count; i++)
			if (c[i].ops && evering_ops_poll(c[i].ops) > 0)
				idle = 0;
	}
	return ret;
}

static void drop(struct side *side)
{
	evering_ops_close(side->ops);
	evering_close(side->ev);
	side->ops = NULL;
	side->ev = NULL;
}

#define START(n)                                                              \
	do {                                                                  \
		int i_;                                                       \
                                                                              \
		ASSERT_EQ(0, evering_server_open(NULL, &self->sp, &self->s)); \
		the_server = self->s;                                         \
		for (i_ = 0; i_ < (int)(n); i_++)                             \
			ASSERT_EQ(0, add(self->s, &self->p, &self->c[i_]));   \
		ASSERT_EQ(0, pump(self->s, self->c, n));                      \
	} while (0)

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

/* ------------------------------------------------------------------ bad input */

TEST_F(server, parameters_are_checked)
{
	struct evering_ops_params ops = EVERING_OPS_PARAMS_INIT;
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering_group_params group = EVERING_GROUP_PARAMS_INIT;
	struct evering_admission admission = EVERING_ADMISSION_INIT;
	struct evering_server_params p, good = self->sp;
	struct {
		struct evering_server_params p;
		uint64_t more;
	} longer = { good, 1 };
	struct evering_server *s;
	int i;

	longer.p.size = sizeof(longer);
	EXPECT_EQ(-E2BIG, evering_server_open(NULL, &longer.p, &s));
	for (i = 0; i < 21; i++) {
		p = good;
		ops = (struct evering_ops_params)EVERING_OPS_PARAMS_INIT;
		limits = (struct evering_params)EVERING_LIMITS_INIT;
		limits.entries = 64;
		p.ops = &ops;
		p.limits = &limits;
		p.group = &group;
		p.admission = &admission;
		switch (i) {
		case 0:
			p.flags = 1;
			break;
		case 1:
			p.reserved = 1;
			break;
		case 2:
			p.budget = 0;
			break;
		case 3:
			p.budget = 65537;
			break;
		case 4:
			p.clients = 0;
			break;
		case 5:
			p.idle_ns = -2;
			break;
		case 6:
			p.request_ns = -2;
			break;
		case 7:
			ops.depth = 49;
			break;
		case 8:
			ops.serve = 49;
			break;
		case 9:
			ops.store = 65;
			break;
		case 10:
			ops.serve = 0;
			break;
		case 11:
			ops.store = 0;
			break;
		case 12:
			ops.context = &p;
			break;
		case 13:
			limits.slot_size = EVERING_MIN_SLOT;
			break;
		case 14:
			limits.backend = 7;
			break;
		case 15:
			ops.flags = 1;
			break;
		case 16:
			group.policy = EVERING_BUSY + 1;
			break;
		case 17:
			group.policy = EVERING_BLOCK;
			admission.flags = 1;
			break;
		case 18:
			admission.flags = 0;
			p.size = 4;
			break;
		case 19:
			limits.entries = EVERING_MIN_ENTRIES - 1;
			break;
		default:
			ops.depth = 48;
			ops.serve = 48;
			ops.store = 64;
			break;
		}
		s = NULL;
		EXPECT_EQ(i < 20 ? -EINVAL : 0,
			  evering_server_open(NULL, &p, &s))
		{
			TH_LOG("%d", i);
		}
		evering_server_close(s);
	}
	evering_server_close(NULL);
	ASSERT_EQ(0, evering_server_open(NULL, NULL, &s));
	EXPECT_EQ(-EINVAL, evering_server_wait(s, -2));
	EXPECT_EQ(-EINVAL, evering_server_stop(s, -2));
	EXPECT_EQ(-EINVAL, evering_server_share(s, NULL, &s));
	evering_server_close(s);
	EXPECT_EQ(self->fds, count_fds());
}

TEST_F(server, sockets_are_checked)
{
	struct evering_server *other;
	int fds[2], n;
	char path[64];

	snprintf(path, sizeof(path), "/tmp/evering-server-%d", getpid());
	ASSERT_EQ(0, evering_server_open(path, &self->sp, &self->s));
	n = count_fds();
	EXPECT_EQ(-EADDRINUSE, evering_server_open(path, NULL, &other));
	EXPECT_EQ(-EINVAL, evering_server_open("", NULL, &other));
	EXPECT_EQ(-ENOENT, evering_server_open("/tmp/none/such", NULL, &other));
	EXPECT_EQ(-EBADF, evering_server_open_fd(-1, NULL, &other));
	ASSERT_EQ(0, pipe(fds));
	EXPECT_EQ(-ENOTSOCK, evering_server_open_fd(fds[0], NULL, &other));
	/* Still the caller's. */
	EXPECT_EQ(0, close(fds[0]));
	EXPECT_EQ(0, close(fds[1]));
	EXPECT_EQ(n, count_fds());
	evering_server_close(self->s);
	self->s = NULL;
	EXPECT_EQ(-1, access(path, F_OK));
}

/* --------------------------------------------------------------------- serving */

TEST_F(server, requests_posts_and_messages_are_told_of)
{
	struct evering_server_info info;
	uint64_t id;

	START(2);
	EXPECT_EQ(0, submit(&self->c[0], ECHO, NULL));
	EXPECT_EQ(0, submit(&self->c[1], KEEP, &id));
	EXPECT_EQ(0, post(&self->c[0]));
	EXPECT_EQ(0, message(&self->c[0]));
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, tracks[0].requests);
	EXPECT_EQ(1, tracks[0].posts);
	EXPECT_EQ(1, tracks[0].messages);
	EXPECT_EQ(1, self->c[0].answers);
	EXPECT_EQ(5, self->c[0].len);
	EXPECT_EQ(0, self->c[1].answers);
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(2, info.clients);
	EXPECT_EQ(2, info.opened);
	EXPECT_EQ(1, info.held);
	EXPECT_EQ(0, info.stopping);
	/* Cancelled, it has still to be answered. */
	EXPECT_EQ(0,
		  evering_op_cancel(self->c[1].ops, id, EVERING_CANCEL_TELL));
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, tracks[1].cancelled);
	EXPECT_EQ(-ECANCELED, tracks[1].why);
	EXPECT_EQ(0, self->c[1].answers);
	EXPECT_EQ(0, evering_op_answer(tracks[1].client->ops, tracks[1].kept[0],
				       0, NULL, 0));
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, self->c[1].answers);
	/* It goes. */
	drop(&self->c[0]);
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, tracks[0].closed);
	EXPECT_EQ(-EPIPE, tracks[0].end);
	EXPECT_EQ(0, tracks[1].closed);
	EXPECT_EQ(tracks[1].client, evering_client_next(self->s, NULL));
	EXPECT_EQ(NULL, evering_client_next(self->s, tracks[1].client));
}

/* What nobody asks for is answered, and given buffers go home. */
TEST_F(server, callbacks_may_be_left_out)
{
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;
	struct evering_op op = { .flags = EVERING_GIVE,
				 .buf_len = 60000,
				 .done = on_done,
				 .user = &self->c[0] };
	int i;

	self->sp = p;
	START(1);
	/* More than are stored. */
	for (i = 0; i < 40; i++) {
		op.buf = evering_alloc(self->c[0].ev, op.buf_len, 0);
		ASSERT_NE(NULL, op.buf);
		ASSERT_EQ(0, evering_op_submit(self->c[0].ops, &op, NULL,
					       EVERING_NOWAIT));
		EXPECT_EQ(0, pump(self->s, self->c, 1));
		EXPECT_EQ((unsigned int)i + 1, self->c[0].answers);
		EXPECT_EQ(-EOPNOTSUPP, self->c[0].result);
		EXPECT_EQ(0, post(&self->c[0]));
		EXPECT_EQ(0, message(&self->c[0]));
		EXPECT_EQ(0, pump(self->s, self->c, 1));
	}
}

TEST_F(server, a_client_may_be_turned_away)
{
	START(0);
	open_result = -EACCES;
	EXPECT_EQ(-EACCES, add(self->s, &self->p, &self->c[0]));
	EXPECT_EQ(1, n_tracks);
	EXPECT_EQ(0, tracks[0].closed);
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->c[0].ev));
	EXPECT_EQ(NULL, evering_client_next(self->s, NULL));
}

static void close_and_turn_away(struct evering_client *client)
{
	evering_client_close(client, -EIO);
	open_result = -EACCES;
}

TEST_F(server, a_client_is_closed_and_turned_away)
{
	plan.at = AT_OPEN;
	plan.act = close_and_turn_away;
	START(0);
	EXPECT_EQ(-EACCES, add(self->s, &self->p, &self->c[0]));
	EXPECT_EQ(0, pump(self->s, self->c, 0));
	EXPECT_EQ(0, tracks[0].closed);
}

static void ask(struct evering_client *client)
{
	struct evering_op op = { .opcode = 9,
				 .done = on_done,
				 .user = client->context };

	evering_op_submit(client->ops, &op, NULL, EVERING_NOWAIT);
}

/* An operation of the server's own has its outcome before the end is told. */
TEST_F(server, the_server_asks_too)
{
	struct side asked = { 0 };

	self->sp.context = &asked;
	plan.at = AT_REQUEST;
	plan.act = ask;
	START(1);
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(0, asked.answers);
	drop(&self->c[0]);
	EXPECT_EQ(0, pump(self->s, self->c, 0));
	EXPECT_EQ(1, asked.answers);
	EXPECT_EQ(-EPIPE, asked.result);
	EXPECT_EQ(1, tracks[0].closed);
}

static int nested[4];

static void call_the_server(struct evering_client *client)
{
	nested[0] = evering_server_wait(client->server, EVERING_NOWAIT);
	nested[1] = evering_server_poll(client->server);
}

TEST_F(server, a_callback_does_not_wait_for_its_server)
{
	plan.at = AT_REQUEST;
	plan.act = call_the_server;
	START(1);
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(-EDEADLK, nested[0]);
	EXPECT_EQ(-EDEADLK, nested[1]);
}

/* Nothing is looked at but the member itself; and it does not spin. */
TEST_F(server, plain_descriptors_are_told_of)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint64_t one = 1;

	ASSERT_LE(0, fd);
	START(1);
	ASSERT_EQ(0, evering_group_add_fd(evering_server_group(self->s), fd,
					  POLLIN, &fd));
	EXPECT_EQ(0, evering_server_poll(self->s));
	EXPECT_FALSE(readable(evering_server_fd(self->s)));
	ASSERT_EQ(8, write(fd, &one, 8));
	EXPECT_TRUE(readable(evering_server_fd(self->s)));
	EXPECT_LT(0, evering_server_wait(self->s, PLENTY));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(0,
		  evering_group_remove_fd(evering_server_group(self->s), fd));
	close(fd);
}

/*
 * A client that sleeps is woken by an answer that comes when nobody looks at its table: from
 * outside of the server, and in the turn of another.
 */
static void answer_the_other(struct evering_client *client)
{
	(void)client;
	evering_op_answer(tracks[0].client->ops, tracks[0].kept[0], 0, NULL, 0);
}

TEST_F(server, a_late_answer_wakes_its_client)
{
	short events;
	int i;

	plan.act = answer_the_other;
	START(2);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
		tracks[0].n_kept = 0;
		ASSERT_EQ(0, pump(self->s, self->c, 2));
		ASSERT_EQ(0, evering_ops_arm(self->c[0].ops, &events));
		ASSERT_FALSE(readable(evering_fd(self->c[0].ev)));
		if (i) {
			plan.at = AT_REQUEST;
			ASSERT_EQ(0, submit(&self->c[1], ECHO, NULL));
			ASSERT_LT(0, evering_server_wait(self->s, PLENTY));
		} else {
			answer_the_other(NULL);
		}
		EXPECT_TRUE(readable(evering_fd(self->c[0].ev)));
		EXPECT_EQ(0, pump(self->s, self->c, 2));
		EXPECT_EQ((unsigned int)i + 1, self->c[0].answers);
	}
}

/* A buffer that was given comes home with nothing else: the program may try again. */
static void answer_with_all(struct evering_client *client)
{
	struct track *t = client->user;
	void *buf = evering_alloc(client->ev, 65536, 0);

	if (!buf || !t->n_kept) {
		evering_free(client->ev, buf);
		return;
	}
	if (evering_op_answer_buffer(client->ops, t->kept[--t->n_kept], 0, buf,
				     65536))
		late++;
}

static void *given[2];

static void take_given(struct evering_ops *ops,
		       const struct evering_completion *c)
{
	(void)ops;
	given[given[0] != NULL] = c->buf;
}

TEST_F(server, a_turn_is_told_of_when_buffers_come_home)
{
	struct evering_op op = { .opcode = KEEP, .done = take_given };
	int i;

	self->sp.turn = answer_with_all;
	START(1);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, evering_op_submit(self->c[0].ops, &op, NULL,
					       EVERING_NOWAIT));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	ASSERT_NE(NULL, given[0]);
	EXPECT_EQ(NULL, given[1]);
	EXPECT_EQ(0, evering_free(self->c[0].ev, given[0]));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_NE(NULL, given[1]);
}

/* What a client has given, and in a callback is freed at once or later. */
static struct {
	void *buf;
	struct evering_msg msg[8];
	unsigned int n;
} gifts;

static void free_gift(struct evering_client *client,
		      const struct evering_request *request)
{
	if (request->flags & EVERING_GIVE)
		late += !!evering_free(client->ev, request->buf);
	else
		on_request(client, request);
}

static void keep_gift(struct evering_client *client,
		      const struct evering_request *request)
{
	(void)client;
	gifts.buf = request->buf;
}

static void keep_message(struct evering_client *client,
			 const struct evering_msg *msg)
{
	(void)client;
	gifts.msg[gifts.n++ % ARRAY_SIZE(gifts.msg)] = *msg;
}

/* All of its arena; it does not hear of the end but by the arena's being free again. */
static int give_all(struct side *side)
{
	struct evering_op op = { .flags = EVERING_GIVE, .buf_len = 60000 };
	int ret;

	op.buf = evering_alloc(side->ev, op.buf_len, 0);
	if (!op.buf)
		return -ENOMEM;
	ret = evering_op_post(side->ops, &op, EVERING_NOWAIT);
	evering_ops_flush(side->ops);
	return ret;
}

static bool has_all(struct side *side)
{
	void *buf;

	evering_ops_poll(side->ops);
	buf = evering_alloc(side->ev, 60000, 0);
	evering_free(side->ev, buf);
	return buf;
}

/* Nobody is armed who never sleeps: what is to go home goes all the same. */
static void gift_goes_home(struct __test_metadata *_metadata,
			   FIXTURE_DATA(server) * self, int64_t timeout,
			   bool flood)
{
	int64_t end;

	self->sp.request = free_gift;
	START(2);
	ASSERT_EQ(0, give_all(&self->c[0]));
	for (end = now_ns() + PLENTY; !has_all(&self->c[0]);) {
		ASSERT_GT(end, now_ns());
		if (flood)
			ASSERT_EQ(0, post(&self->c[1]));
		ASSERT_LE(-ETIMEDOUT, evering_server_wait(self->s, timeout));
		evering_ops_poll(self->c[1].ops);
	}
}

TEST_F(server, what_was_given_goes_home_from_one_that_never_sleeps)
{
	struct evering_group_params gp = EVERING_GROUP_PARAMS_INIT;

	gp.policy = EVERING_BUSY;
	self->sp.group = &gp;
	gift_goes_home(_metadata, self, MSEC, false);
}

TEST_F(server, what_was_given_goes_home_from_one_that_only_looks)
{
	gift_goes_home(_metadata, self, EVERING_NOWAIT, false);
}

TEST_F(server, what_was_given_goes_home_beside_a_flood)
{
	gift_goes_home(_metadata, self, MSEC, true);
}

/* Out of the turn of a client that is cold: it is not forgotten until that sends again. */
TEST_F(server, what_is_freed_late_goes_home)
{
	struct evering_ops_params op = EVERING_OPS_PARAMS_INIT;
	short events;
	unsigned int i;

	op.store = ARRAY_SIZE(gifts.msg);
	self->sp.ops = &op;
	self->sp.request = keep_gift;
	self->sp.message = keep_message;
	START(1);
	ASSERT_EQ(0, give_all(&self->c[0]));
	ASSERT_EQ(0, pump(self->s, self->c, 1));
	while (!message(&self->c[0]))
		ASSERT_EQ(0, pump(self->s, self->c, 1));
	ASSERT_NE(0, gifts.n);
	for (i = 0; i < 2; i++) {
		/* Both sides sleep. */
		ASSERT_EQ(-ETIMEDOUT, evering_server_wait(self->s, MSEC));
		ASSERT_EQ(0, evering_ops_arm(self->c[0].ops, &events));
		ASSERT_FALSE(readable(evering_fd(self->c[0].ev)));
		EXPECT_EQ(0, i ? evering_free(tracks[0].client->ev, gifts.buf) :
				 evering_msg_free(tracks[0].client->ops,
						  &gifts.msg[0]));
		ASSERT_EQ(-ETIMEDOUT, evering_server_wait(self->s, MSEC));
		EXPECT_TRUE(readable(evering_fd(self->c[0].ev)));
		evering_ops_poll(self->c[0].ops);
	}
	EXPECT_EQ(0, message(&self->c[0]));
	EXPECT_TRUE(has_all(&self->c[0]));
}

/* Somebody still reads what it has lent, or writes into the own arena. */
TEST_F(server, a_client_that_is_held_keeps_its_memory)
{
	struct evering_client *client;
	char *buf;

	START(1);
	client = tracks[0].client;
	buf = evering_alloc(client->ev, 1000, 0);
	ASSERT_NE(NULL, buf);
	evering_client_hold(client);
	evering_client_hold(client);
	evering_client_release(client);
	drop(&self->c[0]);
	EXPECT_EQ(0, pump(self->s, self->c, 0));
	EXPECT_EQ(1, tracks[0].closed);
	EXPECT_EQ(NULL, evering_client_next(self->s, NULL));
	EXPECT_EQ(NULL, client->ops);
	EXPECT_EQ(NULL, evering_client_next(self->s, client));
	memset(buf, 'x', 1000);
	evering_server_close(self->s);
	self->s = NULL;
	memset(buf, 'y', 1000);
	evering_client_release(client);
}

/* -------------------------------------------------- who closes whom, and where */

static void close_own(struct evering_client *client)
{
	if (client)
		evering_client_close(client, -EIO);
}

static void close_all(struct evering_client *client)
{
	struct evering_client *c = NULL;

	(void)client;
	while ((c = evering_client_next(the_server, c)))
		evering_client_close(c, -EIO);
}

static void close_others(struct evering_client *client)
{
	struct evering_client *c = NULL;

	while ((c = evering_client_next(the_server, c)))
		if (c != client) {
			evering_client_close(c, -EIO);
			evering_client_close(c, -EPERM);
		}
}

static void stop_now(struct evering_client *client)
{
	(void)client;
	evering_server_stop(the_server, EVERING_NOWAIT);
}

static void stop_later(struct evering_client *client)
{
	(void)client;
	evering_server_stop(the_server, EVERING_WAIT_FOREVER);
}

static void own_done(struct evering_ops *ops,
		     const struct evering_completion *c)
{
	(void)ops;
	act(AT_DONE, c->user);
}

static void ask_each(struct evering_server *s)
{
	struct evering_client *client = NULL;
	struct evering_op op = { .opcode = 9, .done = own_done };

	while ((client = evering_client_next(s, client))) {
		op.user = client;
		evering_op_submit(client->ops, &op, NULL, EVERING_NOWAIT);
	}
}

/* Whatever there is to be told of: all of it. */
static int everything(struct evering_server *s, struct side *c,
		      const struct evering_params *p, int fd)
{
	uint64_t id[3] = { 0 }, one = 1;
	struct evering_request request;
	int i, ret;

	ask_each(s);
	for (i = 0; i < 3; i++) {
		submit(&c[i], KEEP, &id[i]);
		message(&c[i]);
		submit(&c[i], ECHO, NULL);
		post(&c[i]);
	}
	ret = pump(s, c, 3);
	for (i = 0; i < 3 && ret >= 0; i++) {
		if (!evering_op_next(c[i].ops, &request, EVERING_NOWAIT))
			evering_op_answer(c[i].ops, request.id, 0, NULL, 0);
		evering_op_cancel(c[i].ops, id[i], EVERING_CANCEL_TELL);
	}
	if (ret >= 0 && write(fd, &one, 8) == 8)
		ret = pump(s, c, 3);
	if (ret >= 0) {
		ret = add(s, p, &c[3]);
		if (!ret)
			drop(&c[3]);
		ret = pump(s, c, 3);
	}
	drop(&c[1]);
	return ret < 0 ? ret : pump(s, c, 3);
}

/* In a process for each, as the notes are global. */
static int closing_main(void *arg)
{
	const struct evering_params *p = arg;
	struct evering_server_params sp = server_params();
	struct evering_server *s;
	struct side c[CLIENTS] = { 0 };
	unsigned int i;
	int fds = count_fds(), fd, ret;

	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (evering_server_open(NULL, &sp, &s))
		return 1;
	the_server = s;
	evering_group_add_fd(evering_server_group(s), fd, POLLIN, &fd);
	/* The one that is opened last is the one that may be closed. */
	for (i = 0; i < 3; i++)
		if (add(s, p, &c[i]))
			return 2;
	ret = pump(s, c, 3);
	if (ret >= 0)
		ret = everything(s, c, p, fd);
	if (!plan.done)
		return 3;
	if (plan.act == stop_now && ret != -ESHUTDOWN)
		return 4;
	if (plan.act == stop_later && ret != -ESHUTDOWN) {
		/* What is still kept. */
		evering_server_stop(s, EVERING_NOWAIT);
		if (evering_server_wait(s, PLENTY) != -ESHUTDOWN &&
		    evering_server_wait(s, PLENTY) != -ESHUTDOWN)
			return 5;
	}
	evering_group_remove_fd(evering_server_group(s), fd);
	close(fd);
	evering_server_close(s);
	for (i = 0; i < CLIENTS; i++)
		drop(&c[i]);
	for (i = 0; i < n_tracks; i++)
		if (tracks[i].closed != 1)
			return 6;
	if (late)
		return 7;
	return count_fds() == fds ? 0 : 8;
}

static int all_places(void (*how)(struct evering_client *client),
		      const struct evering_params *p)
{
	int at, ret = 0;

	for (at = 0; at < ATS && !ret; at++) {
		plan.at = (enum at)at;
		plan.act = how;
		ret = reap(spawn(closing_main, (void *)(uintptr_t)p));
		if (ret)
			ret += 100 * at;
	}
	return ret;
}

TEST_F(server, any_callback_closes_its_client)
{
	EXPECT_EQ(0, all_places(close_own, &self->p));
}

TEST_F(server, any_callback_closes_the_others)
{
	EXPECT_EQ(0, all_places(close_others, &self->p));
}

TEST_F(server, any_callback_closes_all)
{
	EXPECT_EQ(0, all_places(close_all, &self->p));
}

TEST_F(server, any_callback_stops_it_at_once)
{
	EXPECT_EQ(0, all_places(stop_now, &self->p));
}

TEST_F(server, any_callback_stops_it)
{
	EXPECT_EQ(0, all_places(stop_later, &self->p));
}

/* What comes after that, in the same turn, is not told of. */
TEST_F(server, a_client_that_is_to_end_is_not_heard)
{
	int i;

	plan.at = AT_REQUEST;
	plan.act = close_own;
	START(1);
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	ASSERT_EQ(0, message(&self->c[0]));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(1, tracks[0].requests);
	EXPECT_EQ(0, tracks[0].messages);
	EXPECT_EQ(1, tracks[0].closed);
	EXPECT_EQ(3, self->c[0].answers);
	EXPECT_EQ(-ESHUTDOWN, self->c[0].result);
}

/* Outside of callbacks it ends with the next call, which the descriptor tells. */
TEST_F(server, a_client_is_closed_from_outside)
{
	START(2);
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	ASSERT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_FALSE(readable(evering_server_fd(self->s)));
	EXPECT_NE(0, evering_server_timeout(self->s));
	evering_client_close(tracks[0].client, -EIO);
	evering_client_close(tracks[0].client, -EPERM);
	EXPECT_EQ(0, tracks[0].closed);
	EXPECT_TRUE(readable(evering_server_fd(self->s)));
	EXPECT_EQ(0, evering_server_timeout(self->s));
	EXPECT_EQ(tracks[1].client, evering_client_next(self->s, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, tracks[0].closed);
	EXPECT_EQ(-EIO, tracks[0].end);
	EXPECT_EQ(1, tracks[0].cancelled);
	EXPECT_EQ(-EIO, tracks[0].why);
	/* The client has an answer, not only an end. */
	EXPECT_EQ(1, self->c[0].answers);
	EXPECT_EQ(-EIO, self->c[0].result);
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->c[0].ops));
}

/* What was not done is not answered as if it had been, nor as if it might go on. */
TEST_F(server, a_client_is_closed_without_an_error)
{
	static const int whys[] = { 0, -ECANCELED };
	unsigned int i;

	START(2);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, submit(&self->c[i], KEEP, NULL));
		ASSERT_EQ(0, pump(self->s, self->c, 2));
		evering_client_close(tracks[i].client, whys[i]);
		EXPECT_EQ(0, pump(self->s, self->c, 2));
		EXPECT_EQ(whys[i], tracks[i].end);
		EXPECT_EQ(-ESHUTDOWN, tracks[i].why);
		EXPECT_EQ(1, self->c[i].answers);
		EXPECT_EQ(-ESHUTDOWN, self->c[i].result);
	}
}

/* ------------------------------------------------------------------------ turns */

/* One that has much waiting delays another by its budget, and no more. */
TEST_F(server, a_flooder_has_its_turn_and_no_more)
{
	unsigned int i, lap;

	self->p.entries = 256;
	self->sp.budget = 8;
	START(2);
	for (lap = 0; lap < 10; lap++) {
		unsigned int before = tracks[0].requests, n = 0;

		tracks[0].first = tracks[1].first = 0;
		n_requests = 0;
		for (i = 0; i < 100; i++)
			n += !submit(&self->c[0], ECHO, NULL);
		EXPECT_EQ(100, n);
		ASSERT_EQ(0, submit(&self->c[1], ECHO, NULL));
		ASSERT_EQ(0, pump(self->s, self->c, 2));
		EXPECT_EQ(before + 100, tracks[0].requests);
		/* One before, if that one was the first. */
		EXPECT_GE(9, tracks[1].first);
		EXPECT_LE(1, tracks[1].first);
	}
}

/* ------------------------------------------------------------------ time limits */

TEST_F(server, a_request_that_is_kept_for_too_long_ends)
{
	int64_t start;
	int ret, answers;

	self->sp.request_ns = 20 * MSEC;
	for (answers = 0; answers < 2; answers++) {
		answers_cancelled = answers;
		START(1);
		start = now_ns();
		ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
		/* Answered in time, it is none that is due. */
		ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
		ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
		do
			ret = evering_server_wait(self->s, PLENTY);
		while (ret > 0 && tracks[n_tracks - 1].cancelled < 2);
		EXPECT_LT(0, ret);
		EXPECT_LE(20 * MSEC, now_ns() - start);
		EXPECT_EQ(-ETIMEDOUT, tracks[n_tracks - 1].why);
		EXPECT_EQ(0, pump(self->s, self->c, 1));
		EXPECT_EQ(3, self->c[0].answers);
		EXPECT_EQ(-ETIMEDOUT, self->c[0].result);
		EXPECT_EQ(answers ? 3 : 0, self->c[0].len);
		EXPECT_EQ(EVERING_WAIT_FOREVER,
			  evering_server_timeout(self->s));
		EXPECT_EQ(-ESTALE,
			  evering_op_answer(tracks[n_tracks - 1].client->ops,
					    tracks[n_tracks - 1].kept[0], 0,
					    NULL, 0));
		drop(&self->c[0]);
		evering_server_close(self->s);
		self->s = NULL;
	}
}

static void answer_the_second(struct evering_client *client)
{
	const struct track *t = client->user;

	evering_op_answer(client->ops, t->kept[1], 0, NULL, 0);
}

TEST_F(server, a_request_that_was_answered_is_not_late)
{
	int ret;

	self->sp.request_ns = 20 * MSEC;
	plan.at = AT_CANCELLED;
	plan.act = answer_the_second;
	START(1);
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	do
		ret = evering_server_wait(self->s, PLENTY);
	while (ret > 0 && !plan.done);
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(2, self->c[0].answers);
	EXPECT_EQ(1, tracks[0].cancelled);
	EXPECT_EQ(EVERING_WAIT_FOREVER, evering_server_timeout(self->s));
}

TEST_F(server, an_idle_client_ends_and_one_that_waits_does_not)
{
	int64_t left;
	int ret;

	self->sp.idle_ns = 30 * MSEC;
	START(0);
	/* What it has sent counts, though nobody has listened for so long. */
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[0]));
	ASSERT_LT(0, evering_ops_poll(self->c[0].ops));
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	sleep_ns(self->sp.idle_ns);
	while (!tracks[0].n_kept)
		ASSERT_LT(0, evering_server_wait(self->s, PLENTY));
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[1]));
	left = evering_server_timeout(self->s);
	EXPECT_LE(0, left);
	EXPECT_GE(30 * MSEC, left);
	do
		ret = evering_server_wait(self->s, PLENTY);
	while (ret > 0 && !tracks[1].closed);
	EXPECT_EQ(1, tracks[1].closed);
	EXPECT_EQ(-ETIMEDOUT, tracks[1].end);
	EXPECT_EQ(0, tracks[0].closed);
	EXPECT_EQ(0, evering_op_answer(tracks[0].client->ops, tracks[0].kept[0],
				       0, NULL, 0));
	do
		ret = evering_server_wait(self->s, PLENTY);
	while (ret > 0 && !tracks[0].closed);
	EXPECT_EQ(1, tracks[0].closed);
	EXPECT_EQ(-ETIMEDOUT, tracks[0].end);
}

/*
 * In these two a limit of @LIMIT is not to end what began after @since.  On a machine that
 * stands still for so long it may.
 */
#define LIMIT (200 * MSEC)
#define NOT_YET(count, since) \
	EXPECT_TRUE((count) == 0 || now_ns() - (since) >= LIMIT)

/* One that waits for long for its answer is not idle when it has it. */
TEST_F(server, a_client_that_was_answered_late_is_not_idle)
{
	int64_t since;

	self->sp.idle_ns = LIMIT;
	START(1);
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	while (!tracks[0].n_kept)
		ASSERT_LT(0, evering_server_wait(self->s, PLENTY));
	sleep_ns(LIMIT);
	since = now_ns();
	EXPECT_EQ(0, evering_op_answer(tracks[0].client->ops, tracks[0].kept[0],
				       0, NULL, 0));
	evering_server_poll(self->s);
	NOT_YET(tracks[0].closed, since);
}

static void take_answer(struct evering_ops *ops,
			const struct evering_completion *c)
{
	(void)ops;
	(void)c;
}

/* Nor one whose answers the program has taken by itself, out of its turn. */
TEST_F(server, a_client_that_was_listened_to_elsewhere_is_not_idle)
{
	struct evering_op op = { .opcode = ECHO, .done = take_answer };
	struct evering_request request;
	int64_t since;

	self->sp.idle_ns = LIMIT;
	START(1);
	sleep_ns(LIMIT / 2);
	ASSERT_EQ(0, evering_op_submit(tracks[0].client->ops, &op, NULL,
				       EVERING_NOWAIT));
	evering_ops_flush(tracks[0].client->ops);
	ASSERT_EQ(0, evering_op_next(self->c[0].ops, &request, PLENTY));
	ASSERT_EQ(0, evering_op_answer(self->c[0].ops, request.id, 0, NULL, 0));
	evering_ops_flush(self->c[0].ops);
	since = now_ns();
	EXPECT_LT(0, evering_ops_poll(tracks[0].client->ops));
	sleep_ns(LIMIT / 2);
	evering_server_poll(self->s);
	NOT_YET(tracks[0].closed, since);
}

static int64_t dawdled;

static void dawdle(struct evering_client *client)
{
	(void)client;
	sleep_ns(LIMIT);
	dawdled = now_ns();
}

/* Nobody else's time runs while a callback is busy. */
TEST_F(server, a_slow_callback_makes_nobody_idle_or_late)
{
	self->sp.idle_ns = self->sp.request_ns = LIMIT;
	plan.at = AT_REQUEST;
	plan.act = dawdle;
	START(1);
	/* What is kept after it, in the same turn. */
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	while (!tracks[0].n_kept)
		ASSERT_LE(0, evering_server_poll(self->s));
	evering_server_poll(self->s);
	NOT_YET(tracks[0].cancelled, dawdled);
	evering_op_answer(tracks[0].client->ops, tracks[0].kept[0], 0, NULL, 0);
	/* A client that had to wait for it. */
	plan.done = false;
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	while (!plan.done)
		ASSERT_LE(0, evering_server_poll(self->s));
	evering_server_poll(self->s);
	NOT_YET(tracks[0].closed, dawdled);
}

TEST_F(server, time_limits_have_no_edges)
{
	static const int64_t long_ones[] = { INT64_MAX, INT64_MAX / 2,
					     INT64_MAX / 2 - 1 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(long_ones); i++) {
		self->sp.idle_ns = self->sp.request_ns = long_ones[i];
		START(1);
		ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
		EXPECT_EQ(0, pump(self->s, self->c, 1));
		EXPECT_EQ(0, tracks[i].cancelled);
		EXPECT_EQ(-ETIMEDOUT, evering_server_wait(self->s, QUIET));
		EXPECT_TRUE(evering_server_timeout(self->s) ==
				    EVERING_WAIT_FOREVER ||
			    evering_server_timeout(self->s) > INT64_MAX / 4);
		drop(&self->c[0]);
		evering_server_close(self->s);
		self->s = NULL;
	}
	self->sp.idle_ns = EVERING_WAIT_FOREVER;
	self->sp.request_ns = 1;
	START(1);
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(1, tracks[i].cancelled);
	EXPECT_EQ(-ETIMEDOUT, self->c[0].result);
}

/* Not even when it has something to look at all the time. */
TEST_F(server, it_is_woken_when_a_limit_is_over_at_once)
{
	self->sp.idle_ns = 1;
	ASSERT_EQ(0, evering_server_open(NULL, &self->sp, &self->s));
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[0]));
	ASSERT_LT(0, evering_ops_poll(self->c[0].ops));
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	while (!tracks[0].n_kept)
		ASSERT_LE(0, evering_server_poll(self->s));
	EXPECT_EQ(-ETIMEDOUT, evering_server_wait(self->s, QUIET));
	EXPECT_EQ(0, tracks[0].closed);
	ASSERT_EQ(0, evering_server_wake(self->s));
	EXPECT_EQ(-EINTR, evering_server_wait(self->s, EVERING_WAIT_FOREVER));
}

/* ------------------------------------------------------------------------- stop */

TEST_F(server, a_stop_waits_for_what_is_kept)
{
	struct evering_server_info info;

	START(3);
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	ASSERT_EQ(0, pump(self->s, self->c, 3));
	ASSERT_EQ(0, evering_server_stop(self->s, EVERING_WAIT_FOREVER));
	EXPECT_TRUE(readable(evering_server_fd(self->s)));
	/* What nobody has looked at yet is told so; what was begun goes on. */
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	ASSERT_EQ(0, submit(&self->c[1], ECHO, NULL));
	ASSERT_EQ(0, pump(self->s, self->c, 3));
	EXPECT_EQ(1, tracks[0].requests);
	EXPECT_EQ(0, tracks[1].requests);
	EXPECT_EQ(1, self->c[0].answers);
	EXPECT_EQ(-ESHUTDOWN, self->c[0].result);
	EXPECT_EQ(1, self->c[1].answers);
	EXPECT_EQ(-ESHUTDOWN, self->c[1].result);
	/* Who has nothing to wait for has been let go. */
	EXPECT_EQ(0, tracks[0].closed);
	EXPECT_EQ(1, tracks[1].closed);
	EXPECT_EQ(-ESHUTDOWN, tracks[1].end);
	EXPECT_EQ(1, tracks[2].closed);
	EXPECT_EQ(-EPIPE, evering_ops_poll(self->c[2].ops));
	EXPECT_EQ(EVERING_PEER_CLOSED, evering_peer(self->c[2].ev));
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(1, info.clients);
	EXPECT_EQ(1, info.stopping);
	EXPECT_EQ(-ESHUTDOWN, add(self->s, &self->p, &self->c[3]));
	EXPECT_EQ(0, evering_op_answer(tracks[0].client->ops, tracks[0].kept[0],
				       7, NULL, 0));
	EXPECT_TRUE(readable(evering_server_fd(self->s)));
	EXPECT_EQ(-ESHUTDOWN, pump(self->s, self->c, 3));
	EXPECT_EQ(2, self->c[0].answers);
	EXPECT_EQ(7, self->c[0].result);
	EXPECT_EQ(-ESHUTDOWN, tracks[0].end);
	EXPECT_EQ(-ESHUTDOWN, evering_server_wait(self->s, PLENTY));
}

TEST_F(server, a_stop_has_an_end)
{
	int ret;

	START(2);
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL));
	ASSERT_EQ(0, pump(self->s, self->c, 2));
	ASSERT_EQ(0, evering_server_stop(self->s, EVERING_WAIT_FOREVER));
	/* The shorter time holds. */
	ASSERT_EQ(0, evering_server_stop(self->s, 20 * MSEC));
	ASSERT_EQ(0, evering_server_stop(self->s, EVERING_WAIT_FOREVER));
	do
		ret = evering_server_wait(self->s, PLENTY);
	while (ret > 0 || ret == -EINTR);
	EXPECT_EQ(-ESHUTDOWN, ret);
	EXPECT_EQ(1, tracks[0].cancelled);
	EXPECT_EQ(-ESHUTDOWN, tracks[0].why);
	EXPECT_EQ(1, tracks[0].closed);
	pump(self->s, self->c, 2);
	EXPECT_EQ(1, self->c[0].answers);
	EXPECT_EQ(-ESHUTDOWN, self->c[0].result);
}

static void stop_on_signal(int sig)
{
	(void)sig;
	evering_server_stop(the_server, EVERING_NOWAIT);
}

TEST_F(server, a_signal_handler_stops_it)
{
	struct sigaction action = { .sa_handler = stop_on_signal };
	int ret;

	START(1);
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, raise(SIGUSR1));
	do
		ret = evering_server_wait(self->s, PLENTY);
	while (ret > 0 || ret == -EINTR);
	EXPECT_EQ(-ESHUTDOWN, ret);
}

TEST_F(server, a_look_tells_of_a_wake_too)
{
	START(0);
	EXPECT_EQ(0, evering_server_wake(self->s));
	EXPECT_EQ(-EINTR, evering_server_wait(self->s, EVERING_NOWAIT));
	EXPECT_EQ(-EAGAIN, evering_server_wait(self->s, EVERING_NOWAIT));
}

TEST_F(server, it_is_woken)
{
	START(1);
	EXPECT_EQ(0, evering_server_wake(self->s));
	EXPECT_EQ(-EINTR, evering_server_wait(self->s, PLENTY));
	EXPECT_EQ(-EAGAIN, evering_server_wait(self->s, EVERING_NOWAIT));
	EXPECT_EQ(-ETIMEDOUT, evering_server_wait(self->s, QUIET));
	EXPECT_EQ(0, evering_server_wake(self->s));
	EXPECT_TRUE(readable(evering_server_fd(self->s)));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_FALSE(readable(evering_server_fd(self->s)));
}

/* ---------------------------------------------------------------------- at a socket */

/* Asks @count times, and says whether each was answered. */
static int ask_over(const char *path, uint32_t backend, unsigned int count)
{
	struct evering_params p = params_sized(backend, 64, 64, 4096);
	const struct evering_op op = { .opcode = ECHO, .data = "hi", .len = 2 };
	struct evering_completion c;
	struct evering_ops *ops = NULL;
	struct evering *ev = NULL;
	int ret;

	p.flags |= EVERING_AWAIT;
	ret = evering_connect(path, &p, PLENTY, &ev);
	if (!ret)
		ret = evering_ops_open(ev, NULL, &ops);
	while (!ret && count--) {
		ret = evering_op_call(ops, &op, &c, PLENTY);
		if (!ret)
			ret = c.result ? c.result : c.len == 2 ? 0 : -EBADMSG;
	}
	evering_ops_close(ops);
	evering_close(ev);
	return ret;
}

struct asking {
	char path[64];
	uint32_t backend;
	unsigned int count;
	int gate[2]; /* it begins when somebody writes there */
};

static int ask_main(void *arg)
{
	const struct asking *a = arg;
	char byte;

	if (a->gate[0] >= 0 && read(a->gate[0], &byte, 1) != 1)
		return 2;
	return ask_over(a->path, a->backend, a->count) ? 1 : 0;
}

#define LISTEN()                                                         \
	do {                                                             \
		snprintf(asking.path, sizeof(asking.path),               \
			 "@evering-server-%d", getpid());                \
		asking.backend = variant->backend;                       \
		asking.count = 1;                                        \
		asking.gate[0] = -1;                                     \
		ASSERT_EQ(0, evering_server_open(asking.path, &self->sp, \
						 &self->s));             \
		the_server = self->s;                                    \
	} while (0)

/* Serves until @count clients have ended. */
static int serve_until_closed(struct evering_server *s, unsigned int count)
{
	unsigned int i, closed;
	int ret;

	do {
		ret = evering_server_wait(s, PLENTY);
		for (i = closed = 0; i < n_tracks; i++)
			closed += tracks[i].closed;
	} while ((ret > 0 || ret == -EINTR) && closed < count);
	return ret > 0 ? 0 : ret;
}

TEST_F(server, clients_come_and_go)
{
	struct asking asking;
	struct evering_server_info info;
	int i;

	LISTEN();
	EXPECT_NE(NULL, evering_server_listener(self->s));
	for (i = 1; i <= 3; i++) {
		pid_t pid = spawn(ask_main, &asking);

		EXPECT_EQ(0, serve_until_closed(self->s, (unsigned int)i));
		EXPECT_EQ(0, reap(pid));
		EXPECT_EQ(-EPIPE, tracks[i - 1].end);
	}
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(3, info.opened);
	EXPECT_EQ(0, info.clients);
	EXPECT_EQ(0, info.waiting);
	EXPECT_EQ(0, evering_server_stop(self->s, SEC));
	while (evering_server_wait(self->s, PLENTY) == -EINTR)
		;
	EXPECT_EQ(-ESHUTDOWN, evering_server_wait(self->s, PLENTY));
	EXPECT_EQ(NULL, evering_server_listener(self->s));
	EXPECT_EQ(-ECONNREFUSED, ({
		struct evering *ev;
		evering_connect(asking.path, &self->p, PLENTY, &ev);
	}));
}

static int nobody(pid_t pid, uid_t uid, gid_t gid, void *context)
{
	(void)pid;
	(void)uid;
	(void)gid;
	++*(int *)context;
	return -EACCES;
}

TEST_F(server, admission_comes_first)
{
	struct evering_admission admission = EVERING_ADMISSION_INIT;
	struct evering_server_info info;
	struct asking asking;
	int asked = 0;
	pid_t pid;

	admission.allow = nobody;
	admission.context = &asked;
	self->sp.admission = &admission;
	LISTEN();
	pid = spawn(ask_main, &asking);
	while (!asked)
		ASSERT_LT(0, evering_server_wait(self->s, PLENTY));
	EXPECT_EQ(1, reap(pid));
	EXPECT_EQ(0, n_tracks);
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(1, info.refused);
	/* Nor is that forgotten with the listener. */
	EXPECT_EQ(0, evering_server_stop(self->s, EVERING_NOWAIT));
	while (evering_server_wait(self->s, PLENTY) != -ESHUTDOWN)
		;
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(1, info.refused);
}

/*
 * Children that begin when they are told: one that is made later would have a copy of each
 * channel of this process, and nobody would see this side of it go.
 */
static int spawn_gated(struct asking *asking, pid_t *pids, int count)
{
	if (pipe2(asking->gate, O_CLOEXEC))
		return -errno;
	while (count--)
		*pids++ = spawn(ask_main, asking);
	return 0;
}

static bool begin_one(const struct asking *asking)
{
	return write(asking->gate[1], "x", 1) == 1;
}

/* One that adds another to the server, and is turned away itself. */
static struct evering *extra;

static int add_extra(struct evering_client *client)
{
	struct evering *ev = extra;

	on_open(client);
	if (!ev)
		return 0;
	extra = NULL;
	late += !!evering_server_add(client->server, ev, NULL);
	/* Nobody was told of its end. */
	tracks[0].closed = 1;
	return -EACCES;
}

TEST_F(server, room_that_one_leaves_who_was_turned_away_is_room)
{
	struct evering_server_info info;
	struct asking asking;
	struct evering *ev[2];

	self->sp.clients = 2;
	self->sp.open = add_extra;
	LISTEN();
	ASSERT_EQ(0, evering_pair(&self->p, ev));
	self->c[0].ev = ev[0];
	extra = ev[1];
	EXPECT_EQ(-EACCES, add(self->s, &self->p, &self->c[1]));
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(1, info.clients);
	EXPECT_EQ(0, info.waiting);
}

/* No more than so many: the next one is met when one goes. */
TEST_F(server, no_more_clients_than_there_may_be)
{
	struct evering_server_info info;
	struct asking asking;
	pid_t pids[2] = { 0 };
	int lap;

	self->sp.clients = 1;
	LISTEN();
	ASSERT_EQ(0, spawn_gated(&asking, pids, 2));
	for (lap = 0; lap < 2; lap++) {
		ASSERT_EQ(0, add(self->s, &self->p, &self->c[0]));
		evering_server_get_info(self->s, &info);
		EXPECT_EQ(-EUSERS, info.waiting);
		EXPECT_EQ(-EUSERS, waits);
		ASSERT_EQ(0, pump(self->s, self->c, 1));
		ASSERT_TRUE(begin_one(&asking));
		EXPECT_EQ(-ETIMEDOUT, evering_server_wait(self->s, QUIET));
		EXPECT_EQ(2 * (unsigned int)lap + 1, n_tracks);
		drop(&self->c[0]);
		EXPECT_EQ(0, serve_until_closed(self->s,
						2 * (unsigned int)lap + 2));
		evering_server_get_info(self->s, &info);
		EXPECT_EQ(0, info.waiting);
	}
	EXPECT_EQ(0, reap(pids[0]));
	EXPECT_EQ(0, reap(pids[1]));
	close(asking.gate[0]);
	close(asking.gate[1]);
}

/* Connects with lanes, both sides taking steps in turns.  How many there are. */
static int connect_lanes(struct evering_server *s, const char *path,
			 const struct evering_params *p, unsigned int count,
			 struct evering **ev)
{
	struct evering_connecting *c;
	int64_t end = now_ns() + PLENTY;
	int ret;

	ret = evering_connect_begin_many(path, p, count, PLENTY, &c);
	if (ret)
		return ret;
	do {
		ret = evering_connecting_step_many(c, ev);
		if (ret == -EAGAIN && evering_server_wait(s, MSEC) == -EINVAL)
			ret = -EINVAL;
	} while (ret == -EAGAIN && now_ns() < end);
	evering_connecting_close(c);
	return ret;
}

/* Asks over each of @count lanes.  How many are answered. */
static unsigned int ask_lanes(struct evering_server *s, struct side *c,
			      struct evering **ev, unsigned int count)
{
	unsigned int i, answered = 0;

	for (i = 0; i < count; i++) {
		c[i] = (struct side){ .ev = ev[i] };
		evering_ops_open(ev[i], NULL, &c[i].ops);
	}
	/* What each side says first. */
	pump(s, c, count);
	for (i = 0; i < count; i++)
		submit(&c[i], ECHO, NULL);
	pump(s, c, count);
	for (i = 0; i < count; i++)
		answered += c[i].answers;
	return answered;
}

/* As many lanes as there may still be clients, so that each is served. */
TEST_F(server, no_more_lanes_than_there_may_be_clients)
{
	struct evering_server_info info;
	struct evering *ev[CLIENTS];
	struct asking asking;

	self->sp.clients = 3;
	LISTEN();
	ASSERT_EQ(3, connect_lanes(self->s, asking.path, &self->p, 4, ev));
	EXPECT_EQ(3, ask_lanes(self->s, self->c, ev, 3));
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(3, info.clients);
	EXPECT_EQ(-EUSERS, info.waiting);
	drop(&self->c[2]);
	drop(&self->c[1]);
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(0, waits);
	ASSERT_EQ(2, connect_lanes(self->s, asking.path, &self->p, 4, ev));
	EXPECT_EQ(2, ask_lanes(self->s, self->c + 1, ev, 2));
}

/* Lanes that were welcomed are served, though others have come in between. */
TEST_F(server, all_lanes_that_were_welcomed_are_served)
{
	struct evering_server_info info;
	struct evering *ev[CLIENTS];
	struct asking asking;

	self->sp.clients = 3;
	LISTEN();
	ASSERT_EQ(3, connect_lanes(self->s, asking.path, &self->p, 3, ev));
	/* They are accepted one in each turn, and so not all of them have been. */
	ASSERT_GT(3, n_tracks);
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[3]));
	EXPECT_EQ(3, ask_lanes(self->s, self->c, ev, 3));
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(-EUSERS, info.waiting);
}

/* ------------------------------------------------------------- no descriptors */

static int leave_no_fds(struct rlimit *old)
{
	struct rlimit none;

	if (getrlimit(RLIMIT_NOFILE, old))
		return -errno;
	none = *old;
	none.rlim_cur = 3;
	return setrlimit(RLIMIT_NOFILE, &none) ? -errno : 0;
}

TEST_F(server, without_descriptors_it_goes_on_and_accepts_again)
{
	struct evering_server_info info = { 0 };
	struct asking asking;
	struct rlimit limit;
	pid_t pids[2] = { 0 };
	int lap, ret;

	LISTEN();
	ASSERT_EQ(0, spawn_gated(&asking, pids, 2));
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[0]));
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[1]));
	ASSERT_EQ(0, pump(self->s, self->c, 2));
	for (lap = 0; lap < 2; lap++) {
		ASSERT_TRUE(begin_one(&asking));
		ASSERT_EQ(0, leave_no_fds(&limit));
		do {
			ret = evering_server_wait(self->s, PLENTY);
			evering_server_get_info(self->s, &info);
		} while (ret > 0 && !info.waiting);
		/* It neither accepts nor spins, and those that are there are served. */
		EXPECT_EQ(-EMFILE, info.waiting);
		EXPECT_EQ(-EMFILE, waits);
		EXPECT_EQ(0, pump(self->s, self->c, 2));
		EXPECT_FALSE(readable(evering_server_fd(self->s)));
		EXPECT_LT(0, evering_server_timeout(self->s));
		ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
		EXPECT_EQ(0, pump(self->s, self->c, 2));
		EXPECT_EQ((unsigned int)lap + 1, self->c[0].answers);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		/* When a client goes, at once; and when none does, after a while. */
		if (!lap) {
			drop(&self->c[1]);
			while (!tracks[1].closed)
				ASSERT_LT(0,
					  evering_server_wait(self->s, PLENTY));
			evering_server_get_info(self->s, &info);
			EXPECT_EQ(0, info.waiting);
		}
		EXPECT_EQ(0, serve_until_closed(self->s, lap ? 3 : 2));
		evering_server_get_info(self->s, &info);
		EXPECT_EQ(0, info.waiting);
		EXPECT_EQ(0, waits);
	}
	EXPECT_EQ(0, reap(pids[0]));
	EXPECT_EQ(0, reap(pids[1]));
	close(asking.gate[0]);
	close(asking.gate[1]);
}

/* ------------------------------------------------------------------------ deaths */

static int die_main(void *arg)
{
	const struct asking *a = arg;
	struct evering_params p = params_sized(a->backend, 64, 64, 4096);
	struct evering_op op = { .opcode = KEEP };
	struct evering_completion c;
	struct evering_ops *ops;
	struct evering *ev;

	if (evering_connect(a->path, &p, PLENTY, &ev) ||
	    evering_ops_open(ev, NULL, &ops))
		return 1;
	while (!evering_op_submit(ops, &op, NULL, PLENTY)) {
		op.opcode = op.opcode == KEEP ? ECHO : KEEP;
		if (op.opcode == KEEP)
			evering_op_wait_any(ops, &c, PLENTY);
	}
	return 2;
}

TEST_F(server, clients_are_killed_at_work)
{
	struct evering_server_info info;
	struct asking asking;
	unsigned int lap, i;
	pid_t pids[3];
	int ret = 1;

	LISTEN();
	for (lap = 0; lap < (short_run() ? 3 : 10); lap++) {
		for (i = 0; i < 3; i++)
			pids[i] = spawn(die_main, &asking);
		while (ret > 0 &&
		       (n_tracks < 3 * (lap + 1) || !tracks[3 * lap].n_kept ||
			!tracks[3 * lap + 1].n_kept))
			ret = evering_server_wait(self->s, PLENTY);
		EXPECT_LT(0, ret);
		for (i = 0; i < 3; i++)
			kill(pids[i], SIGKILL);
		EXPECT_EQ(0, serve_until_closed(self->s, 3 * (lap + 1)));
		for (i = 0; i < 3; i++) {
			EXPECT_EQ(128 + SIGKILL, reap(pids[i]));
			EXPECT_EQ(-EPIPE, tracks[3 * lap + i].end);
			/* What was kept has ended. */
			EXPECT_EQ(tracks[3 * lap + i].n_kept,
				  tracks[3 * lap + i].cancelled);
		}
	}
	evering_server_get_info(self->s, &info);
	EXPECT_EQ(0, info.clients);
	EXPECT_EQ(0, info.held);
}

/* It has broken the rules: an entry that nobody could have sent. */
TEST_F(server, a_liar_ends_alone)
{
	uint32_t lie[3] = { 0, 0, 0xffffffff };

	START(2);
	ASSERT_EQ(0, evering_send(self->c[0].ev, lie, sizeof(lie),
				  EVERING_NOWAIT));
	ASSERT_EQ(0, submit(&self->c[1], ECHO, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, tracks[0].closed);
	EXPECT_EQ(-EPROTO, tracks[0].end);
	EXPECT_EQ(1, self->c[1].answers);
	EXPECT_EQ(0, tracks[1].closed);
}

/* Sends an entry of its own making; what is in it is whole. */
static int put(struct side *side, unsigned int type, uint64_t id, uint32_t code,
	       const void *data, uint32_t len)
{
	struct {
		struct evering_op_header h;
		unsigned char rest[32];
	} entry = { .h = { .id = id,
			   .type = (uint8_t)type,
			   .len = (uint16_t)len,
			   .code = code } };

	if (len)
		memcpy(entry.rest, data, len);
	return evering_send(side->ev, &entry, sizeof(entry), EVERING_NOWAIT);
}

/*
 * It never takes an answer, and asks again under the same id.  When there is no room for an
 * answer its requests, though nobody means to keep them, cannot end.
 */
static void ask_without_end(struct __test_metadata *_metadata,
			    FIXTURE_DATA(server) * self, bool stops)
{
	const struct evering_op_open open = { 8, 0, 0, 0 };
	struct evering *ev[2];
	unsigned int i;
	int ret = 0;

	START(1);
	ASSERT_EQ(0, evering_pair(&self->p, ev));
	ASSERT_EQ(0, evering_server_add(self->s, ev[1], NULL));
	self->c[1].ev = ev[0];
	ASSERT_EQ(0, put(&self->c[1], EVERING_OP_OPEN, 0, EVERING_OPS_VERSION,
			 &open, sizeof(open)));
	if (stops) {
		put(&self->c[1], EVERING_OP_REQUEST, 2, KEEP, NULL, 0);
		ASSERT_EQ(0, pump(self->s, self->c, 1));
		evering_server_stop(self->s, EVERING_WAIT_FOREVER);
	}
	/* The server has said one thing already, so there is no room for the last answer. */
	for (i = 0; i < self->p.entries && ret >= 0; i++) {
		put(&self->c[1], EVERING_OP_REQUEST, 1, ECHO, NULL, 0);
		ret = pump(self->s, self->c, 1);
	}
	EXPECT_EQ(stops ? -ESHUTDOWN : 0, ret);
	EXPECT_EQ(1, tracks[1].closed);
	EXPECT_EQ(-EPROTO, tracks[1].end);
}

TEST_F(server, one_that_takes_no_answers_ends)
{
	ask_without_end(_metadata, self, false);
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 1));
	EXPECT_EQ(1, self->c[0].answers);
}

TEST_F(server, one_that_takes_no_answers_stops_no_stop)
{
	ask_without_end(_metadata, self, true);
}

/* ---------------------------------------------------------------- fork, threads */

TEST_F(server, a_forked_child_may_only_close_it)
{
	struct evering_server *other;
	struct asking asking;
	pid_t pid;

	LISTEN();
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[0]));
	ASSERT_EQ(0, add(self->s, &self->p, &self->c[1]));
	ASSERT_EQ(0, submit(&self->c[0], KEEP, NULL) == -EAGAIN ? 0 : -1);
	ASSERT_EQ(0, pump(self->s, self->c, 2));
	evering_client_close(tracks[1].client, -EIO);
	fflush(NULL);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int bad = 0;

		bad += evering_server_wait(self->s, 0) != -EINVAL;
		bad += evering_server_poll(self->s) != -EINVAL;
		bad += evering_server_fd(self->s) != -EINVAL;
		bad += evering_server_wake(self->s) != -EINVAL;
		bad += evering_server_stop(self->s, 0) != -EINVAL;
		bad += evering_server_share(self->s, NULL, &other) != -EINVAL;
		bad += evering_server_add(self->s, self->c[0].ev, NULL) !=
		       -EINVAL;
		evering_server_close(self->s);
		_exit(bad + (int)(tracks[0].closed + tracks[1].closed));
	}
	EXPECT_EQ(0, reap(pid));
	/* The parent's is as it was. */
	ASSERT_EQ(0, submit(&self->c[0], ECHO, NULL));
	EXPECT_EQ(0, pump(self->s, self->c, 2));
	EXPECT_EQ(1, self->c[0].answers);
	EXPECT_EQ(1, tracks[1].closed);
	pid = spawn(ask_main, &asking);
	EXPECT_EQ(0, serve_until_closed(self->s, 2));
	EXPECT_EQ(0, reap(pid));
}

#define THREADS 3

struct core {
	struct evering_server *s;
	pthread_t thread;
	unsigned int requests, opened, closed;
	int ret;
};

static int core_open(struct evering_client *client)
{
	struct core *core = client->context;

	core->opened++;
	return core->s == client->server ? 0 : -EXDEV;
}

static void core_request(struct evering_client *client,
			 const struct evering_request *request)
{
	((struct core *)client->context)->requests++;
	evering_op_answer(client->ops, request->id, 0, request->data,
			  request->len);
}

static void core_close(struct evering_client *client, int why)
{
	(void)why;
	((struct core *)client->context)->closed++;
}

static void *core_main(void *arg)
{
	struct core *core = arg;

	do
		core->ret = evering_server_wait(core->s, EVERING_WAIT_FOREVER);
	while (core->ret >= 0 || core->ret == -EINTR);
	evering_server_close(core->s);
	return NULL;
}

static void *ask_thread(void *arg)
{
	return (void *)(intptr_t)ask_main(arg);
}

/* Of two at one socket one stops, which of them whatever: clients come to the other. */
TEST_F(server, one_of_two_at_a_socket_stops)
{
	struct evering_server *s[2];
	struct asking asking = { .backend = variant->backend,
				 .count = 1,
				 .gate = { -1, -1 } };
	unsigned int i;
	pid_t pid;

	snprintf(asking.path, sizeof(asking.path), "/tmp/evering-server-%d",
		 getpid());
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0,
			  evering_server_open(asking.path, &self->sp, &s[0]));
		ASSERT_EQ(0, evering_server_share(s[0], NULL, &s[1]));
		ASSERT_EQ(0, evering_server_stop(s[i], EVERING_NOWAIT));
		while (evering_server_wait(s[i], PLENTY) != -ESHUTDOWN)
			;
		EXPECT_EQ(-EINVAL, evering_server_share(s[i], NULL, &self->s));
		EXPECT_EQ(0, access(asking.path, F_OK));
		pid = spawn(ask_main, &asking);
		EXPECT_EQ(0, serve_until_closed(s[!i], i + 1));
		EXPECT_EQ(0, reap(pid));
		evering_server_close(s[i]);
		EXPECT_EQ(0, access(asking.path, F_OK));
		evering_server_close(s[!i]);
		EXPECT_EQ(-1, access(asking.path, F_OK));
	}
}

TEST_F(server, a_server_a_thread_on_one_socket)
{
	struct evering_server_params p = EVERING_SERVER_PARAMS_INIT;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct core cores[THREADS] = { 0 };
	unsigned int opened = 0, requests = 0, i;
	pthread_t clients[8];
	struct asking asking;
	void *failed;
	int sock;

	snprintf(asking.path, sizeof(asking.path), "@evering-server-%d",
		 getpid());
	asking.backend = variant->backend;
	asking.count = 50;
	asking.gate[0] = -1;
	p.open = core_open;
	p.request = core_request;
	p.close = core_close;
	p.context = &cores[0];
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ASSERT_LE(0, sock);
	memcpy(address.sun_path + 1, asking.path + 1, strlen(asking.path) - 1);
	ASSERT_EQ(0, bind(sock, (struct sockaddr *)&address,
			  (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
				      strlen(asking.path))));
	ASSERT_EQ(0, listen(sock, 64));
	ASSERT_EQ(0, evering_server_open_fd(sock, &p, &cores[0].s));
	for (i = 1; i < THREADS; i++)
		ASSERT_EQ(0, evering_server_share(cores[0].s, &cores[i],
						  &cores[i].s));
	for (i = 0; i < THREADS; i++)
		ASSERT_EQ(0, pthread_create(&cores[i].thread, NULL, core_main,
					    &cores[i]));
	for (i = 0; i < ARRAY_SIZE(clients); i++)
		ASSERT_EQ(0, pthread_create(&clients[i], NULL, ask_thread,
					    &asking));
	for (i = 0; i < ARRAY_SIZE(clients); i++) {
		ASSERT_EQ(0, pthread_join(clients[i], &failed));
		EXPECT_EQ(NULL, failed);
	}
	for (i = 0; i < THREADS; i++) {
		EXPECT_EQ(0, evering_server_stop(cores[i].s, PLENTY));
		ASSERT_EQ(0, pthread_join(cores[i].thread, NULL));
		EXPECT_EQ(-ESHUTDOWN, cores[i].ret);
		EXPECT_EQ(cores[i].opened, cores[i].closed);
		opened += cores[i].opened;
		requests += cores[i].requests;
	}
	EXPECT_EQ(ARRAY_SIZE(clients), opened);
	EXPECT_EQ(ARRAY_SIZE(clients) * asking.count, requests);
}

TEST_HARNESS_MAIN
