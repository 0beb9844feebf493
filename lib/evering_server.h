/* SPDX-License-Identifier: MIT */
/*
 * evering_server.h: serve many clients from one thread.  Include <evering.h>.
 *
 * A server is a listener, a group, and an endpoint with a table of operations for each
 * client.  The program works with callbacks:
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
 * The signal handler calls evering_server_stop(server, 5 * SECOND).  When the clients
 * have their answers, evering_server_wait() returns -ESHUTDOWN.
 *
 * The program answers a request in the callback or later, in the thread of the server,
 * with the functions of evering_op.h: evering_op_answer(client->ops, id, …).  A program
 * that answers later keeps the client and a copy of the struct evering_request.  The
 * request's data and buffer stay valid until it is answered, or until @cancelled is
 * called because the request ends.
 *
 * evering_op_answerv() sends an answer that does not fit an entry.  With EVERING_NOWAIT
 * it may return -EAGAIN: the arena has no room until the client has freed earlier
 * answers, and @turn is called when to try again.  With a time limit it waits for that,
 * and no other client is served meanwhile.  An answer that fits an entry always has
 * room, unless the client breaks the rules and sends requests before it has taken its
 * answers.  Then evering_op_answer() returns -EAGAIN, and the client is closed with
 * -EPROTO.
 *
 * Life of a client
 *
 *	admission -- @open --> requests, messages, posts -- end --> @close
 *
 * A client ends because it closes the channel or dies (-EPIPE), breaks the rules
 * (-EPROTO), speaks another version (-EPROTONOSUPPORT) or is silent for too long
 * (-ETIMEDOUT); because the server stops or is closed (-ESHUTDOWN); or because the
 * program calls evering_client_close().  In each case @cancelled is called for each
 * request that is not answered yet, and operations that the server has submitted to the
 * client get their outcome.  Then @close is called once, and after it no callback for
 * that client.
 *
 * Lanes (evering_connect_many()) are clients like others, each with its @open and its
 * @close.  evering_get_lane(client->ev) returns which lanes belong together.  All lanes
 * of a meeting belong to the server that has accepted the first one.
 *
 * Rules
 *
 * - One thread at a time uses a server and its clients: "the thread of the server"
 *   below.  Any thread may call evering_server_wake() and evering_server_stop().
 * - A callback may do anything except wait for, poll or close its own server.  It may
 *   answer any request of any client, close its own client or another, stop the server,
 *   and add members to the server's group.  It may also submit operations to the client
 *   and wait for them; no other client is served meanwhile.
 * - The endpoint and the table belong to the server.  The program neither closes them
 *   nor removes the endpoint from the group.
 * - After an operation or a post to a client, in the callback of another client, call
 *   evering_ops_flush(client->ops), because the client may sleep.  Answers and messages
 *   do not need it.
 * - A process made by fork() has none of its parent's servers: it may only close them.
 *   That calls no callback, and the clients do not notice.
 */
#ifndef EVERING_SERVER_H
#define EVERING_SERVER_H

#ifndef EVERING_H
#error "include <evering.h>"
#endif

struct evering_server;

/**
 * struct evering_client - a client of a server
 * @server: the server of the client
 * @ev: the endpoint, for example to allocate and for evering_peer_cred()
 * @ops: the table, for evering_op_answer() and the like; NULL in
 *	evering_server_params.close
 * @user: for the program; NULL at first
 * @context: evering_server_params.context
 *
 * The library makes it, and frees it after evering_server_params.close has returned, or
 * later: see evering_client_hold().
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
 * struct evering_server_params - how to serve clients
 * @size: sizeof(struct evering_server_params)
 * @flags: 0
 * @mode: permissions of the socket file, as for evering_listen()
 * @budget: entries (requests, messages, posts) that the server takes from a client in
 *	one turn, 1..65,536; then other clients have their turns
 * @clients: the most clients at a time, at least 1.  More clients wait to be accepted,
 *	or go to another server at the same socket.  Each lane counts as one client, and
 *	no more lanes are granted
 * @reserved: 0
 * @idle_ns: how long, in nanoseconds, a client may send nothing while none of its
 *	requests is kept.  Then it is closed with -ETIMEDOUT, after twice that time at
 *	the latest.  EVERING_WAIT_FOREVER or 0: no limit
 * @request_ns: how long, in nanoseconds, the program may keep a request.  Then
 *	@cancelled is called with -ETIMEDOUT.  EVERING_WAIT_FOREVER or 0: no limit
 * @limits: as for evering_accept(); NULL: EVERING_LIMITS_INIT.  Slots have at least
 *	EVERING_OPS_MIN_SLOT bytes
 * @ops: how to make each table; NULL: EVERING_OPS_PARAMS_INIT.  The callbacks and the
 *	context in it are NULL.  A client with a smaller ring gets a smaller table
 * @group: how to wait; NULL: EVERING_GROUP_PARAMS_INIT
 * @admission: which processes may connect, decided before anything is allocated for
 *	them, and how much a user may have; NULL: EVERING_ADMISSION_INIT
 * @open: called for a new client.  It returns 0, or a negative errno to turn the client
 *	away; then @close is not called, and an endpoint of evering_server_add() cannot
 *	be added again.  May be NULL
 * @request: called for a request, or a post (EVERING_POST in its flags).  NULL: the
 *	server answers requests with -EOPNOTSUPP, and drops posts
 * @message: called for a message, which the program frees with
 *	evering_msg_free(client->ops, msg), now or later.  NULL: the server drops
 *	messages
 * @cancelled: called for a request that the program keeps.  If its why is -ECANCELED,
 *	the client does not need the answer any more; the program still has to give one,
 *	with any result.  With any other why the request ends: when this returns, its
 *	data and a lent buffer are invalid.  Then why is -ETIMEDOUT (@request_ns), or
 *	the why of @close, or -ESHUTDOWN if that is 0 or -ECANCELED.  The program may
 *	answer here; if it does not, why is the answer.  So to answer with why is right
 *	in every case.  May be NULL
 * @close: called once when a client has ended, see above. client->ev is still valid,
 *	for evering_peer(); client->ops is NULL.  May be NULL
 * @turn: called at the end of a turn of a client in which something came, even if that
 *	was only returned buffers.  A program whose answer had no room in the arena may
 *	try again.  What comes while the program itself waits for the client
 *	(evering_op_call()) or polls its table is not a turn, so try again after that,
 *	too.  May be NULL
 * @waiting: called when the server stops accepting clients for now.  Its error is
 *	-EMFILE, -ENFILE, -ENOMEM or -ENOSPC: there are no descriptors, or no memory,
 *	for one more client, and the server tries again when a client ends, or after a
 *	second; -EUSERS: there are as many as @clients; 0: the server accepts clients
 *	again.  May be NULL
 * @event: called when a member that the program has added to evering_server_group() has
 *	something to do.  The event belongs to the group
 * @context: copied into struct evering_client
 *
 * Start from EVERING_SERVER_PARAMS_INIT.  The structs that are pointed to are not used
 * after evering_server_open().
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
 * struct evering_server_info - the state of a server
 * @clients: clients that there are now
 * @held: their requests that are not answered yet
 * @opened: clients that there have been, those of now included
 * @refused: connections that were turned away, by the listener or by
 *	evering_server_params.open
 * @waiting: 0, or why the server accepts no clients now, as in
 *	evering_server_params.waiting
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
 * evering_server_open - serve clients that connect to a Unix socket
 * @path: as for evering_listen(); NULL: no socket, see evering_server_add()
 * @params: how to serve; NULL: EVERING_SERVER_PARAMS_INIT
 * @server: out: the server, for evering_server_close()
 *
 * Context: Any thread.
 * Return: 0; -EINVAL: @params is invalid, or contradicts itself: tables larger than the
 * largest ring allows, slots too small for operations, rings too small for any client,
 * a request callback without room to serve, or a message callback without room to store
 * messages; -E2BIG: it is longer than this version knows; -EADDRINUSE: another process
 * listens at @path; or as evering_listen() and evering_group_open().
 */
EVERING_API int evering_server_open(const char *path,
				    const struct evering_server_params *params,
				    struct evering_server **server);

/**
 * evering_server_open_fd - serve clients that connect to a socket that listens already
 * @fd: as for evering_listen_fd(); on success it belongs to the server, on error still
 *	to the caller
 * @params: as for evering_server_open(); its mode is not used
 * @server: out: the server, for evering_server_close()
 *
 * For a socket that a service manager or a parent process passes, or that several
 * processes share.
 *
 * Context: Any thread.
 * Return: as evering_server_open() and evering_listen_fd().
 */
EVERING_API int
evering_server_open_fd(int fd, const struct evering_server_params *params,
		       struct evering_server **server);

/**
 * evering_server_share - another server at the same socket, for another thread
 * @server: from evering_server_open() or the like, and not stopped
 * @context: evering_server_params.context of @other
 * @other: out: the new server, for evering_server_close()
 *
 * The new server has the same parameters.  Each client goes to one of the servers,
 * which count together what a user has (evering_listener_share()).  With one server in
 * each of several threads a program needs no locks.  Each server is stopped and closed
 * by itself, in any order; clients come as long as there is one.
 *
 * Context: The thread of @server; then @other goes to a thread of its own.
 * Return: 0; -EINVAL: @server has no socket, or no longer; or as evering_group_open()
 * and evering_listener_share().
 */
EVERING_API int evering_server_share(struct evering_server *server,
				     void *context,
				     struct evering_server **other);

/**
 * evering_server_add - serve an existing endpoint
 * @server: server
 * @ev: endpoint, from evering_accept_fd() for instance, with no entries under way.  On
 *	success it belongs to the server, which closes it; on error still to the caller
 * @client: out: the client; may be NULL
 *
 * Calls evering_server_params.open.  The client counts in
 * evering_server_params.clients, but is accepted beyond that number; the limits are not
 * used.
 *
 * Context: The thread of the server, which has both roles of @ev.
 * Return: 0; -ESHUTDOWN: the server has stopped; -EINVAL: fork() has made this process,
 * or the slots are too small; -EBUSY: @ev has a table, or is in a group; -ENOMEM,
 * -ENOSPC: as evering_group_add(); or what evering_server_params.open returned.
 */
EVERING_API int evering_server_add(struct evering_server *server,
				   struct evering *ev,
				   struct evering_client **client);

/**
 * evering_server_wait - wait until there is work, and do it
 * @server: server
 * @timeout_ns: how long to wait at the most
 *
 * Takes the clients that have something to do in turn, and calls the callbacks.
 *
 * Context: The thread of the server.
 * Return: how much was done, at least 1; -EAGAIN: nothing, and @timeout_ns was
 * EVERING_NOWAIT; -ETIMEDOUT: nothing in time; -EINTR: a signal handler ran, as the
 * conventions of <evering.h> describe, or evering_server_wake() or
 * evering_server_stop() was called; -ESHUTDOWN: the server was stopped, and has no
 * clients any more; -EDEADLK: called from a callback; -EINVAL: @timeout_ns is invalid,
 * or fork() has made this process.
 */
EVERING_API int evering_server_wait(struct evering_server *server,
				    int64_t timeout_ns);

/**
 * evering_server_poll - do the work of a server, in an event loop
 * @server: server
 *
 *	while ((n = evering_server_poll(server)) > 0)
 *		;
 *
 * Then, unless n is an error, sleep until evering_server_fd() is readable, for
 * evering_server_timeout() at the most.
 *
 * Context: The thread of the server.
 * Return: how much was done; 0: nothing, and the descriptor becomes readable;
 * -ESHUTDOWN, -EDEADLK, -EINVAL: as evering_server_wait().
 */
EVERING_API int evering_server_poll(struct evering_server *server);

/**
 * evering_server_fd - a descriptor for an event loop
 * @server: server
 *
 * If evering_server_poll() has returned 0, the descriptor polls readable when that has
 * something to do.  It is always the same descriptor, and belongs to the server: see
 * evering_group_fd().
 *
 * Context: The thread of the server.
 * Return: the descriptor; -EINVAL: fork() has made this process; -ENOMEM, -ENOSPC: as
 * evering_group_fd().
 */
EVERING_API int evering_server_fd(struct evering_server *server);

/**
 * evering_server_timeout - get when there is something to do if no client sends
 * @server: server
 *
 * Context: The thread of the server.
 * Return: nanoseconds from now; 0: there is something to do now; EVERING_WAIT_FOREVER:
 * never.  The time may be too early.
 */
EVERING_API int64_t evering_server_timeout(const struct evering_server *server);

/**
 * evering_server_wake - end a wait in this process
 * @server: server
 *
 * If a thread is in evering_server_wait(), that ends with -EINTR.  If none is, the next
 * one that finds nothing to do ends so.  A loop that sleeps on evering_server_fd() is
 * woken as well.
 *
 * Context: Any thread; async-signal-safe.
 * Return: 0; -EINVAL: fork() has made this process.
 */
EVERING_API int evering_server_wake(struct evering_server *server);

/**
 * evering_server_stop - accept no new clients, and finish with the present ones
 * @server: server
 * @timeout_ns: how long requests that the program keeps may still take; EVERING_NOWAIT:
 *	no time; EVERING_WAIT_FOREVER: no limit
 *
 * This only begins to stop the server.  evering_server_wait() and evering_server_poll()
 * do the work:
 *
 * - The listener is closed, and its socket file is removed if the listener has made it.
 *   If servers share the socket, the last of them does that.
 * - A client with EVERING_REPLACEABLE is informed, if the program keeps requests of it,
 *   and from then on keeps new operations for the successor.  What it sends before it
 *   knows is served as usual.  What the server has not looked at when the client is
 *   closed goes to the successor, in order (evering_replace()).  A client that
 *   continues to send, for several full rings, is closed with -EPROTO.
 * - New requests of other clients are answered with -ESHUTDOWN, without a callback:
 *   they were not begun, and can be sent to another server.  Posts and messages of
 *   these clients are lost.
 * - A client is closed with -ESHUTDOWN as soon as the program keeps none of its
 *   requests.
 * - When the time is up, the other clients are closed too: requests that are kept end
 *   with -ESHUTDOWN (see evering_server_params.cancelled).
 *
 * Then they return -ESHUTDOWN, and the program calls evering_server_close().  Another
 * call of this function can only shorten the time.
 *
 * Context: Any thread; async-signal-safe; also in a callback.
 * Return: 0; -EINVAL: @timeout_ns is invalid, or fork() has made this process.
 */
EVERING_API int evering_server_stop(struct evering_server *server,
				    int64_t timeout_ns);

/**
 * evering_server_close - end a server at once
 * @server: server; NULL: does nothing
 *
 * Requests that are kept, and all clients, end with -ESHUTDOWN; their callbacks are
 * called.  Members that the program has added to the group live on.
 *
 * This waits for an evering_server_stop() or evering_server_wake() that is under way in
 * another thread; no new one may begin.  So before this call, remove a signal handler
 * that calls them, or block its signal.  If several threads may run the handler, let
 * one thread take the signal with sigwait() instead.
 *
 * Context: The thread of the server, not in a callback.
 */
EVERING_API void evering_server_close(struct evering_server *server);

/**
 * evering_server_group - get the group of the clients
 * @server: server
 *
 * For evering_group_add_fd(), evering_group_add() and evering_group_add_listener(),
 * whose events go to evering_server_params.event.  The program must not wait for, poll,
 * arm or close the group.
 *
 * Context: The thread of the server.
 * Return: the group, which belongs to the server.
 */
EVERING_API struct evering_group *
evering_server_group(struct evering_server *server);

/**
 * evering_server_listener - get the listener
 * @server: server
 *
 * For evering_listener_refused() and evering_listener_admit().  The program must not
 * close the listener or accept from it.
 *
 * Context: The thread of the server.
 * Return: the listener; NULL: the server has none, or no longer.
 */
EVERING_API struct evering_listener *
evering_server_listener(struct evering_server *server);

/**
 * evering_server_get_info - get the state of a server
 * @server: server
 * @info: out
 *
 * The time that this takes grows with the number of clients.
 *
 * Context: The thread of the server.
 */
EVERING_API void evering_server_get_info(const struct evering_server *server,
					 struct evering_server_info *info);

/**
 * evering_client_close - end a client
 * @client: client
 * @why: 0 or a negative errno, for evering_server_params.close.  Requests that are kept
 *	end with it, or with -ESHUTDOWN if it is 0 or -ECANCELED, so that none of them
 *	seems to be done
 *
 * From now on no callback is called for requests and messages of this client.  The
 * client ends when the callback returns from which this is called, or else in the next
 * evering_server_wait() or evering_server_poll(); evering_server_fd() becomes readable
 * for that.  Until then @client is valid.  A second call for a client does nothing.
 * The client still receives the answers that were sent to it.
 *
 * Context: The thread of the server.
 */
EVERING_API void evering_client_close(struct evering_client *client, int why);

/**
 * evering_client_hold - keep the memory of a client
 * @client: client
 *
 * For a program that lets another thread or the kernel read or write the arenas or a
 * lent buffer.  After the client has ended and evering_server_params.close was called,
 * its endpoint stays open and @client stays valid until evering_client_release().
 * client->ops is then NULL, which shows that there is nothing to answer any more.  The
 * program must not use the server or its group through such a client.  Holds are
 * counted.  Do not call this in an evering_server_params.open that turns the client
 * away.
 *
 * Context: The thread of the server.
 */
EVERING_API void evering_client_hold(struct evering_client *client);

/**
 * evering_client_release - end a hold
 * @client: a client that evering_client_hold() was called for
 *
 * Context: The thread of the server, also when the server is closed.
 */
EVERING_API void evering_client_release(struct evering_client *client);

/**
 * evering_client_next - go through the clients of a server
 * @server: server
 * @client: NULL: get the first client; else the one after this
 *
 * Leaves out clients that are about to end.  After a held client that has ended there
 * are no more.  The order is not defined.
 *
 * Context: The thread of the server.
 * Return: a client; NULL: there are no more.
 */
EVERING_API struct evering_client *
evering_client_next(const struct evering_server *server,
		    const struct evering_client *client);

#endif /* EVERING_SERVER_H */
