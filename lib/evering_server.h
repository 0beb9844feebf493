/* SPDX-License-Identifier: MIT */
/*
 * evering_server.h: serve many clients from one thread.  Include <evering.h>.
 *
 * A server is a listener, a group, and for each client an endpoint with a table of
 * operations, behind callbacks:
 *
 *	static void answer(struct evering_client *client,
 *			   const struct evering_request *request)
 *	{
 *		evering_op_answer(client->ops, request->id, 0, request->data,
 *				  request->len);
 *	}
 *
 *	struct evering_server_params params = EVERING_SERVER_PARAMS_INIT;
 *
 *	params.request = answer;
 *	ret = evering_server_open("socket", &params, &server);
 *	signal(SIGTERM, stop);
 *	while (ret >= 0 || ret == -EINTR)
 *		ret = evering_server_wait(server, EVERING_WAIT_FOREVER);
 *	signal(SIGTERM, SIG_IGN);
 *	evering_server_close(server);
 *
 * and in the signal handler evering_server_stop(server, 5 * SECOND), after which
 * evering_server_wait() returns -ESHUTDOWN when the clients have their answers.
 *
 * A request is answered in the callback or later, from the thread of the server, by the
 * functions of evering_op.h: evering_op_answer(client->ops, id, …).  A program that
 * answers later keeps the client and a copy of the request, whose data and buffer stay
 * until it has answered, or @cancelled says that the request ends.
 *
 * What does not fit an entry, evering_op_answerv() answers with.  With EVERING_NOWAIT it
 * may return -EAGAIN: there is no room in the arena until the client has freed earlier
 * answers, and @turn tells when to try again.  With a time limit it waits for that, and
 * nobody else is served meanwhile.  What does fit has room, unless the client breaks the
 * rules by asking again before it has taken its answers: then evering_op_answer() returns
 * -EAGAIN, and the client is closed with -EPROTO.
 *
 * Life of a client
 *
 *	admission -- @open --> requests, messages, posts -- end --> @close
 *
 * The end is one of: the client goes or dies (-EPIPE), breaks the rules (-EPROTO), speaks
 * another version (-EPROTONOSUPPORT), is silent for too long (-ETIMEDOUT); the server
 * stops, or is closed (-ESHUTDOWN); the program calls evering_client_close().  Whichever it
 * is: @cancelled is called for each request that is not answered yet, operations that
 * the server itself has asked of the client get their outcome, and then @close is called,
 * once, and nothing else is called for that client any more.
 *
 * Lanes (evering_connect_many()) are clients like others, each with its @open and its
 * @close; evering_get_lane(client->ev) says which belong together.  All lanes of a meeting
 * are with the server that has accepted the first.
 *
 * Rules
 *
 * - One thread at a time uses a server and its clients, but for evering_server_wake() and
 *   evering_server_stop().
 * - A callback may do anything but wait for the server it belongs to, poll it or close it:
 *   answer any request of any client, close its own client or any other, stop the server,
 *   add members to its group, ask the client something itself, and even wait for that,
 *   while which nobody else is served.
 * - The endpoint and the table are the server's: a program does not close them, nor takes
 *   the endpoint out of the group.
 * - What is sent to a client other than the one whose callback is called (an operation, a
 *   post) is told to one that sleeps by evering_ops_flush(client->ops).  Answers and
 *   messages need none.
 * - A process made by fork() has none of its parent's servers: it may only close them,
 *   which calls no callback, and the clients do not notice.
 */
#ifndef EVERING_SERVER_H
#define EVERING_SERVER_H

#ifndef EVERING_H
#error "include <evering.h>"
#endif

struct evering_server;

/**
 * struct evering_client - a client of a server
 * @server: whose it is
 * @ev: the endpoint: to allocate, and to ask who the client is
 * @ops: the table, for evering_op_answer() and the like; NULL in
 *	evering_server_params.close
 * @user: the program's, NULL at first
 * @context: evering_server_params.context
 *
 * Made by the library, which frees it when evering_server_params.close has returned, or as
 * evering_client_hold() says.
 */
struct evering_client {
	struct evering_server *server;
	struct evering *ev;
	struct evering_ops *ops;
	void *user;
	void *context;
};

/* evering_server_params.budget of EVERING_SERVER_PARAMS_INIT */
#define EVERING_SERVER_BUDGET 64u

/**
 * struct evering_server_params - how to serve
 * @size: sizeof(struct evering_server_params)
 * @flags: 0
 * @mode: permissions of the socket file, as of evering_listen()
 * @budget: entries (requests, messages, posts) of a client that are taken in one turn,
 *	1..65,536; then others have theirs
 * @clients: the most clients at a time, 1..; those beyond wait at the door, or go to
 *	another server at the same socket.  Each lane is one, and no more are granted
 * @reserved: 0
 * @idle_ns: how long a client may send nothing, while no request of its is kept, until it
 *	is closed with -ETIMEDOUT, after twice that time at the latest;
 *	EVERING_WAIT_FOREVER, or 0: as long as it likes
 * @request_ns: how long a request may be kept; then @cancelled is called with -ETIMEDOUT;
 *	EVERING_WAIT_FOREVER, or 0: as long as it takes
 * @limits: as for evering_accept(); NULL: EVERING_LIMITS_INIT.  Slots are at least
 *	EVERING_OPS_MIN_SLOT
 * @ops: how to make each table; NULL: EVERING_OPS_PARAMS_INIT.  Its callbacks and its
 *	@context are NULL.  A client with a smaller ring gets a smaller table
 * @group: how to wait; NULL: EVERING_GROUP_PARAMS_INIT
 * @admission: who may come, which is asked before anything is allocated, and how much a
 *	user may have; NULL: EVERING_ADMISSION_INIT
 * @open: a client has come.  Returns 0, or negative: it is turned away, and @close is not
 *	called; the endpoint of evering_server_add() cannot be added again then.  May be NULL
 * @request: a request, or a post (EVERING_POST in its flags).  NULL: requests are answered
 *	with -EOPNOTSUPP, and posts forgotten
 * @message: a message, to be freed with evering_msg_free(client->ops, msg), now or later.
 *	NULL: they are forgotten
 * @cancelled: of a request that is kept.  @why is -ECANCELED: the client does not need the
 *	answer any more, but it has still to be given, whatever it says.  Any other @why:
 *	the request ends, and when this returns, neither its data nor a buffer that was lent
 *	with it is to be looked at any more: -ETIMEDOUT: @request_ns; or the @why of @close,
 *	for which -ESHUTDOWN stands if that is 0 or -ECANCELED.  It may be answered from
 *	here; if it is not, @why is the answer.  So answering with @why is right for each.
 *	May be NULL
 * @close: a client has ended, see above, which is told once.  client->ev is still there,
 *	for evering_peer(), client->ops is not.  May be NULL
 * @turn: the turn of a client ends in which something came, also if that was only that
 *	buffers have come home.  For a program whose answer had no room in the arena, which
 *	may try again.  What comes while the program itself waits for the client
 *	(evering_op_call()) or polls its table is no turn: try again after that, too.  May
 *	be NULL
 * @waiting: nobody is let in for now: -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: there are no
 *	descriptors, or no memory, for one more client, which is tried again when a client
 *	goes, or else each second; -EUSERS: there are as many as @clients; or, with 0, they
 *	are again.  May be NULL
 * @event: there is something to do for a member that the program has added to
 *	evering_server_group().  The event is the group's
 * @context: for struct evering_client
 *
 * Nothing of what the pointers point to is needed after evering_server_open().  Start from
 * EVERING_SERVER_PARAMS_INIT.
 */
struct evering_server_params {
	uint32_t size;
	uint32_t flags;
	uint32_t mode;
	uint32_t budget;
	uint32_t clients;
	uint32_t reserved;
	int64_t idle_ns;
	int64_t request_ns;
	const struct evering_params *limits;
	const struct evering_ops_params *ops;
	const struct evering_group_params *group;
	const struct evering_admission *admission;
	int (*open)(struct evering_client *client);
	void (*request)(struct evering_client *client,
			const struct evering_request *request);
	void (*message)(struct evering_client *client,
			const struct evering_msg *msg);
	void (*cancelled)(struct evering_client *client, uint64_t id, int why);
	void (*close)(struct evering_client *client, int why);
	void (*turn)(struct evering_client *client);
	void (*waiting)(struct evering_server *server, int error);
	void (*event)(struct evering_server *server,
		      const struct evering_group_event *event);
	void *context;
};

#define EVERING_SERVER_PARAMS_INIT                                   \
	{                                                            \
		sizeof(struct evering_server_params), 0, 0600,       \
			EVERING_SERVER_BUDGET, UINT32_MAX, 0,        \
			EVERING_WAIT_FOREVER, EVERING_WAIT_FOREVER,  \
			EVERING__NULL, EVERING__NULL, EVERING__NULL, \
			EVERING__NULL, EVERING__NULL, EVERING__NULL, \
			EVERING__NULL, EVERING__NULL, EVERING__NULL, \
			EVERING__NULL, EVERING__NULL, EVERING__NULL, \
			EVERING__NULL                                \
	}

/**
 * struct evering_server_info - how a server stands
 * @clients: clients that there are
 * @held: requests of theirs that are not answered yet
 * @opened: clients that there have been, those included
 * @refused: connections that were turned away, by the listener or by
 *	evering_server_params.open
 * @waiting: 0, or why nobody is let in, as evering_server_params.waiting
 * @stopping: 1: evering_server_stop() was called
 */
struct evering_server_info {
	uint64_t clients;
	uint64_t held;
	uint64_t opened;
	uint64_t refused;
	int32_t waiting;
	uint32_t stopping;
};

/**
 * evering_server_open - serve those who connect to a Unix socket
 * @path: as for evering_listen(); NULL: nobody connects, see evering_server_add()
 * @params: how; NULL: EVERING_SERVER_PARAMS_INIT
 * @server: out: for evering_server_close()
 *
 * Context: Any thread.
 * Return: 0; -EINVAL: @params is invalid, or contradicts itself: tables larger than the
 * largest ring allows, slots too small for operations, rings too small for anybody,
 * @request without room to serve, or @message without room to store any; -E2BIG; or as
 * evering_listen() and evering_group_open(); -EADDRINUSE: somebody listens at @path.
 */
EVERING_API int evering_server_open(const char *path,
				    const struct evering_server_params *params,
				    struct evering_server **server);

/**
 * evering_server_open_fd - serve those who connect to a socket that listens already
 * @fd: as for evering_listen_fd(): the server's on success, still the caller's on error
 * @params: as for evering_server_open(); @mode does not matter
 * @server: out: for evering_server_close()
 *
 * For a socket that a service manager or a parent passes, and for processes that share
 * one.
 *
 * Context: Any thread.
 * Return: as evering_server_open(), and as evering_listen_fd().
 */
EVERING_API int
evering_server_open_fd(int fd, const struct evering_server_params *params,
		       struct evering_server **server);

/**
 * evering_server_share - another server at the same socket, for another thread
 * @server: from evering_server_open() or the like, and not stopped
 * @context: evering_server_params.context of the other one
 * @other: out: for evering_server_close()
 *
 * With the same parameters.  Each client goes to one of them, and what a user may have, it
 * may have of all together (evering_listener_share()).  A thread a CPU, each with its
 * server, needs no locks.  Each is stopped and closed for itself, in any order; while there
 * is one, clients come to it.
 *
 * Context: The thread of @server; then @other goes to a thread of its own.
 * Return: 0; -EINVAL: @server has no socket, or not any more; or as
 * evering_group_open() and evering_listener_share().
 */
EVERING_API int evering_server_share(struct evering_server *server,
				     void *context,
				     struct evering_server **other);

/**
 * evering_server_add - serve an endpoint that is there already
 * @server: server
 * @ev: endpoint, of evering_accept_fd() for instance, over which nothing is under way: the
 *	server's on success, which closes it; still the caller's on error
 * @client: out: the client; may be NULL
 *
 * Calls evering_server_params.open.  It counts as a client, but is taken in addition to
 * evering_server_params.clients if need be, and @limits do not matter.
 *
 * Context: The thread of the server, which has both roles of @ev.
 * Return: 0; -ESHUTDOWN: the server has stopped; -EINVAL: a process that fork() has
 * made, or slots too small; what evering_server_params.open returned; -EBUSY: @ev has a
 * table, or is in a group; -ENOMEM, -ENOSPC: as evering_group_add().
 */
EVERING_API int evering_server_add(struct evering_server *server,
				   struct evering *ev,
				   struct evering_client **client);

/**
 * evering_server_wait - wait until there is something to do, and do it
 * @server: server
 * @timeout_ns: how long to wait, at the most
 *
 * Takes each client that there is something to do for in its turn, and calls the callbacks.
 *
 * Context: The thread of the server.
 * Return: how much was done, at least 1; -EAGAIN: nothing, and @timeout_ns was
 * EVERING_NOWAIT; -ETIMEDOUT: nothing in time; -EINTR: a signal handler ran, as the
 * conventions of <evering.h> say, or evering_server_wake() or _stop() was called;
 * -ESHUTDOWN: it was stopped, and there are no clients any more; -EDEADLK: called from
 * a callback; -EINVAL: @timeout_ns, or a process that fork() has made.
 */
EVERING_API int evering_server_wait(struct evering_server *server,
				    int64_t timeout_ns);

/**
 * evering_server_poll - do what there is to do, in an event loop
 * @server: server
 *
 *	while ((n = evering_server_poll(server)) > 0)
 *		;
 *
 * Then, unless @n is an error, sleep until evering_server_fd() is readable, for
 * evering_server_timeout() at the most.
 *
 * Context: The thread of the server.
 * Return: how much was done; 0: nothing, and the descriptor will tell; -ESHUTDOWN,
 * -EDEADLK, -EINVAL: as evering_server_wait().
 */
EVERING_API int evering_server_poll(struct evering_server *server);

/**
 * evering_server_fd - a descriptor for an event loop
 * @server: server
 *
 * Polls readable when evering_server_poll() has something to do, if that has returned 0
 * before.  It is always the same and belongs to the server: as evering_group_fd().
 *
 * Context: The thread of the server.
 * Return: the descriptor; -EINVAL: a process that fork() has made; -ENOMEM, -ENOSPC: as
 * evering_group_fd().
 */
EVERING_API int evering_server_fd(struct evering_server *server);

/**
 * evering_server_timeout - when is there something to do, if nobody sends anything
 * @server: server
 *
 * Context: The thread of the server.
 * Return: nanoseconds from now, 0 if there is already; EVERING_WAIT_FOREVER: never.  It
 * may be too early.
 */
EVERING_API int64_t evering_server_timeout(const struct evering_server *server);

/**
 * evering_server_wake - end a wait of this process
 * @server: server
 *
 * The evering_server_wait() that a thread is in ends with -EINTR; if there is none, the
 * next one does that finds nothing to do.  A loop that sleeps in evering_server_fd() is
 * woken as well.
 *
 * Context: Any thread; async-signal-safe.
 * Return: 0; -EINVAL: a process that fork() has made.
 */
EVERING_API int evering_server_wake(struct evering_server *server);

/**
 * evering_server_stop - let no new clients in, and end with those that there are
 * @server: server
 * @timeout_ns: how long requests that are kept may still take; EVERING_NOWAIT: not at all;
 *	EVERING_WAIT_FOREVER: as long as it takes
 *
 * What it begins, evering_server_wait() and evering_server_poll() do:
 *
 * - The listener is closed, and its socket file removed if it has made it; if servers
 *   share it, by the last of them.
 * - A client with EVERING_REPLACEABLE is told, if there is something kept of it, and keeps
 *   what is new for the successor from then on.  What it sends before it has heard of that is
 *   served as ever.  What is not looked at when it is closed goes to the successor, in order
 *   (evering_replace()).  One that goes on asking, for some rings full, is closed with
 *   -EPROTO.
 * - Other clients' new requests are answered with -ESHUTDOWN, and no callback is called for
 *   them: they were not begun, and can be sent to another server.  Their posts and messages
 *   are lost.
 * - A client is closed with -ESHUTDOWN as soon as none of its requests is kept.
 * - When the time is up the rest is: what is kept ends with -ESHUTDOWN (see
 *   evering_server_params.cancelled).
 *
 * Then they return -ESHUTDOWN, and all that is left to do is evering_server_close().  Called
 * again it can only shorten the time.
 *
 * Return: 0; -EINVAL: @timeout_ns, or a process that fork() has made.  Any thread;
 * async-signal-safe; also from a callback.
 */
EVERING_API int evering_server_stop(struct evering_server *server,
				    int64_t timeout_ns);

/**
 * evering_server_close - end a server at once
 * @server: server, or NULL
 *
 * What is kept ends with -ESHUTDOWN, and so do all clients, by their callbacks.
 * Members that the program has added to the group live on.  An evering_server_stop() or
 * evering_server_wake() that is under way in another thread is waited for; none may
 * begin.  So a signal handler that calls them is taken away before, or its signal
 * blocked; and where several threads may run it, one thread takes the signal with
 * sigwait() instead.
 *
 * Context: The thread of the server, not in a callback.
 */
EVERING_API void evering_server_close(struct evering_server *server);

/**
 * evering_server_group - the group in which the clients are
 * @server: server
 *
 * For evering_group_add_fd(), evering_group_add() and evering_group_add_listener(),
 * whose events go to evering_server_params.event.  Not to be waited for, polled, armed
 * or closed.
 *
 * Context: The thread of the server.
 */
EVERING_API struct evering_group *
evering_server_group(struct evering_server *server);

/**
 * evering_server_listener - the listener
 * @server: server
 *
 * For evering_listener_refused() and evering_listener_admit().  Not to be closed, nor
 * to accept from.
 *
 * Context: The thread of the server.
 * Return: NULL if it has none, or not any more.
 */
EVERING_API struct evering_listener *
evering_server_listener(struct evering_server *server);

/**
 * evering_server_get_info - how does the server stand
 * @server: server
 * @info: out
 *
 * Takes as long as there are clients.
 *
 * Context: The thread of the server.
 */
EVERING_API void evering_server_get_info(const struct evering_server *server,
					 struct evering_server_info *info);

/**
 * evering_client_close - end a client
 * @client: client
 * @why: 0 or a negative errno, for evering_server_params.close.  Requests that are kept end
 *	with it, or with -ESHUTDOWN if it is 0 or -ECANCELED: they are never answered as if
 *	they had been done
 *
 * From now on no request and no message of its is told of.  It ends when the callback
 * returns that this is called from, or else at the next evering_server_wait() or
 * evering_server_poll(), which evering_server_fd() tells; until then @client is valid.  One
 * that is to end already does not end twice.  What it was answered, it still receives.
 *
 * Context: The thread of the server.
 */
EVERING_API void evering_client_close(struct evering_client *client, int why);

/**
 * evering_client_hold - the memory of a client is still needed
 * @client: client
 *
 * For a program that has others read or write the arenas, or a buffer that was lent: a
 * thread, or the kernel.  When the client has ended, and @close was called, its endpoint
 * stays open and @client valid until evering_client_release(): client->ops is NULL then,
 * by which a program knows that there is nothing to answer any more.  Neither the server
 * nor its group are to be used through it.  Holds are counted.  Not in
 * evering_server_params.open if that is to turn it away.
 *
 * Context: The thread of the server.
 */
EVERING_API void evering_client_hold(struct evering_client *client);

/**
 * evering_client_release - it is not needed any more
 * @client: one that evering_client_hold() was called for
 *
 * Context: The thread of the server, also when the server is closed.
 */
EVERING_API void evering_client_release(struct evering_client *client);

/**
 * evering_client_next - all clients of a server, one after the other
 * @server: server
 * @client: NULL: the first; else the one after this
 *
 * Those that are to end are left out; after one that has ended, and is held, there are none.
 * In no particular order.
 *
 * Context: The thread of the server.
 * Return: a client; NULL: there are no more.
 */
EVERING_API struct evering_client *
evering_client_next(const struct evering_server *server,
		    const struct evering_client *client);

#endif /* EVERING_SERVER_H */
