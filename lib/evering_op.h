/* SPDX-License-Identifier: MIT */
/*
 * evering_op.h: requests and answers over a channel.  Include <evering.h>.
 *
 * A table of operations belongs to an endpoint.  It follows each operation from its
 * submission to its single outcome.  Both sides of a channel open a table, and both may
 * ask and answer at the same time.
 *
 *	client					server
 *
 *	evering_op_submit()	  request	evering_op_next(), or a callback
 *	   ... other work ...			   ... later, in any order ...
 *	callback, or		  answer	evering_op_answer()
 *	evering_op_wait()
 *
 * Life of an operation
 *
 *	prepared -- start --> in flight -- answer, or the peer's end --> ended
 *	    |                  |  |
 *	    |                  |  +-- cancel --> in flight, asked to end --> ended
 *	    |                  +-- cancel and detach, timeout --> abandoned --> gone
 *	    +-- cancel --> gone, and nothing has happened
 *
 * - Each operation that was submitted has exactly one outcome: the result of the
 *   answer, -ECANCELED, -ETIMEDOUT, -EPIPE (the peer is gone; evering_peer() returns
 *   whether it closed or died), -EOWNERDEAD (the peer is gone and has a successor) or
 *   -EPROTO (the peer broke the rules).  EVERING_ABANDONED with an outcome means that a
 *   lent buffer does not belong to the caller any more.
 * - An operation keeps its resources until the peer can no longer use them: until the
 *   answer has come or the channel has ended, also if the caller has abandoned it
 *   before.
 * - There are never more operations in flight than the peer has room for, and the ring
 *   back always has room for their answers.  So evering_op_answer() never waits.
 *
 * Data and buffers
 *
 * A little data travels in the entry and is copied on arrival.  More data travels in a
 * buffer of the arena, which is not copied:
 *
 * - Lent (EVERING_LEND): until the operation ends, the peer may read the buffer, and
 *   the owner can neither free it nor lend it again.  With EVERING_SHARED_ARENA the
 *   peer may also write into it.
 * - Given (EVERING_GIVE, and buffers in answers): from then on the buffer belongs to
 *   the receiver, which frees it at any time with evering_free(), like a buffer of its
 *   own, or gives it back.  Freed buffers return to their owner with other entries, or
 *   in entries of their own if there are no others.
 *
 * The library checks everything that arrives.  A buffer that the peer has neither lent
 * nor given is invalid, and whatever is invalid ends the channel with -EPROTO.
 *
 * Posts and messages
 *
 * - A post (evering_op_post()) is a request that gets no answer.
 * - A message (evering_msg_send(), evering_msg_recv()) has any length up to that of the
 *   sender's arena.  A short message travels in the entry.  A longer one is copied into
 *   one buffer of the arena, where the receiver reads it.  The buffer returns when the
 *   receiver has freed the message.
 * - The receiver stores posts and messages until it has finished with them, so one that
 *   is not taken does not delay the answers behind it.  The sender never has more under
 *   way than the receiver has stated that it stores; one more waits.
 * - What one side sends arrives in order: messages in the order of messages, and posts
 *   and requests in their common order.
 *
 * Rules
 *
 * - One thread at a time uses a table, also in callbacks.  This is the Context: of
 *   every function below that states none.  While the table is open, no thread sends,
 *   receives or waits on the endpoint by other functions, and the arena belongs to the
 *   same thread.
 * - Callbacks may wait and poll; other callbacks are called meanwhile.  When eight
 *   waits, or EVERING_OP_SPARE polls, are nested, the next one fails with -EDEADLK.
 * - A peer that is awake sees at once what was submitted or answered.  A peer that
 *   sleeps is woken by the next evering_ops_poll(), _wait(), _flush() or _arm(), or
 *   evering_op_ function that waits.  A message wakes it at once.
 * - After evering_ops_open() only evering_replace() allocates memory.
 */
#ifndef EVERING_OP_H
#define EVERING_OP_H

#include <sys/uio.h>

#ifndef EVERING_H
#error "include <evering.h>"
#endif

struct evering_ops;

/* evering_op.flags */
#define EVERING_LEND (1u << 0)
#define EVERING_GIVE (1u << 1)
#define EVERING_REISSUE (1u << 4)

/* evering_request.flags, with the above */
#define EVERING_POST (1u << 2)
#define EVERING_AGAIN (1u << 3)

/* evering_ops_params.flags */
#define EVERING_REPLACEABLE (1u << 0)

/* evering_completion.flags */
#define EVERING_ANSWERED (1u << 0)
#define EVERING_ABANDONED (1u << 1)
#define EVERING_UNSEEN (1u << 2)
#define EVERING_BEGUN (1u << 3)

/* evering_op_cancel() */
#define EVERING_CANCEL_TELL (1u << 0)
#define EVERING_CANCEL_DETACH (1u << 1)

/**
 * struct evering_completion - how an operation ended
 * @id: the operation
 * @user: from its struct evering_op
 * @ext: from its struct evering_op
 * @result: the result of the peer's answer; without an answer -ECANCELED, -ETIMEDOUT,
 *	-EPIPE, -EOWNERDEAD or -EPROTO
 * @len: bytes at @data; there may be none beyond them
 * @flags: EVERING_ANSWERED: @result is the peer's answer, which may equal an errno of
 *	this library; without this flag @result is the library's.  EVERING_ABANDONED:
 *	the peer may still use the lent buffer, which does not belong to the caller any
 *	more; it is freed when the answer comes or the peer goes away.  Without this
 *	flag the buffer belongs to the caller again.  If the peer went away before it
 *	answered, one of two more is set.  EVERING_UNSEEN: the peer has certainly not
 *	begun the operation, so a successor may do it.  EVERING_BEGUN: the peer may have
 *	done it, wholly, in part, or not at all
 * @data: a copy of the data of the answer.  It is valid, like this whole struct, until
 *	the callback returns or calls a function that polls or waits; without a
 *	callback, until the next call with this table
 * @buf: the buffer that came with the answer; NULL: none.  It is either the caller's
 *	own buffer that was lent, with the answer in it, or one that belongs to the
 *	caller now, for evering_free().  In the peer's arena the peer can change it at
 *	any time, and this side can write it only with EVERING_SHARED_ARENA
 * @buf_len: bytes at @buf
 */
struct evering_completion {
	uint64_t id;
	void *user;
	uint64_t ext;
	int32_t result;
	uint16_t len;
	uint16_t flags;
	const void *data;
	void *buf;
	uint64_t buf_len;
};

/**
 * typedef evering_done_fn - called when an operation has ended
 * @ops: table
 * @completion: how it ended; valid until this returns
 *
 * May call any function except evering_ops_close(): it may submit operations and wait.
 */
typedef void (*evering_done_fn)(struct evering_ops *ops,
				const struct evering_completion *completion);

/**
 * struct evering_op - an operation to submit
 * @opcode: what to do; the library does not interpret it
 * @flags: EVERING_LEND or EVERING_GIVE if there is a @buf, else 0.  EVERING_REISSUE,
 *	not with EVERING_GIVE: the operation may be begun twice.  If a peer goes away
 *	that may have begun it, its successor (evering_replace()) gets the request
 *	again, with EVERING_AGAIN.  The dead peer may have changed the contents of a
 *	lent buffer that both sides can write (EVERING_SHARED_ARENA)
 * @data: data for the entry; it is copied
 * @len: bytes of @data, 0..evering_ops_info.max_data, 16 fewer with a buffer
 * @reserved: 0
 * @buf: the start of a buffer from evering_alloc(), or of a buffer that the peer has
 *	given, to give it back; NULL: none.  It needs EVERING_LEND or EVERING_GIVE
 * @buf_len: bytes of @buf that the peer sees, from 1 to those allocated
 * @timeout_ns: how long the operation may take from its submission, in nanoseconds.
 *	Then it is abandoned as by EVERING_CANCEL_DETACH | EVERING_CANCEL_TELL with the
 *	outcome -ETIMEDOUT, even if it was cancelled before.  EVERING_WAIT_FOREVER or 0:
 *	no limit
 * @done: called with the outcome; NULL: the table keeps the outcome for
 *	evering_op_done() or one of the evering_op_wait functions
 * @user: returned in the completion
 * @ext: returned in the completion
 */
struct evering_op {
	uint32_t opcode;
	uint32_t flags;
	const void *data;
	uint32_t len;
	uint32_t reserved;
	void *buf;
	uint64_t buf_len;
	int64_t timeout_ns;
	evering_done_fn done;
	void *user;
	uint64_t ext;
};

/**
 * struct evering_request - an operation of the peer, to be answered; or a post
 * @id: for evering_op_answer*(); 0: a post, which cannot be answered
 * @opcode: what to do, as the peer states
 * @flags: EVERING_LEND or EVERING_GIVE if there is a @buf; EVERING_POST: it is a post;
 *	EVERING_AGAIN: a predecessor of this side may have begun or done it
 * @len: bytes at @data
 * @reserved: 0
 * @data: a copy of the data of the request, aligned to 16 bytes.  It is valid until the
 *	request is answered; for a post, until the callback returns or until the next
 *	evering_op_next()
 * @buf: the buffer that came with the request; NULL: none.  A lent buffer is valid
 *	until the request is answered; this side can write it only with
 *	EVERING_SHARED_ARENA.  A given buffer belongs to the caller, for evering_free().
 *	The peer can write either at any time: copy what has to be checked, check the
 *	copy, and use the copy
 * @buf_len: bytes at @buf
 */
struct evering_request {
	uint64_t id;
	uint32_t opcode;
	uint32_t flags;
	uint32_t len;
	uint32_t reserved;
	const void *data;
	void *buf;
	uint64_t buf_len;
};

/**
 * typedef evering_request_fn - called for a request
 * @ops: table
 * @request: the request.  The struct is valid until this returns, polls or waits; its
 *	data and buffer as described there
 * @context: from the table's parameters
 *
 * Answers the request, now or later, unless it is a post.  May call any function except
 * evering_ops_close().
 */
typedef void (*evering_request_fn)(struct evering_ops *ops,
				   const struct evering_request *request,
				   void *context);

/**
 * typedef evering_cancelled_fn - called when the peer needs no answer any more
 * @ops: table
 * @id: a request that is not answered yet.  It still has to be answered, soon and with
 *	any result, to give the peer its resources back
 * @context: from the table's parameters
 */
typedef void (*evering_cancelled_fn)(struct evering_ops *ops, uint64_t id,
				     void *context);

/**
 * struct evering_msg - a message from the peer
 * @data: the bytes, aligned to 16, in a copy or in the peer's arena, valid until
 *	evering_msg_free().  They must not be written.  In its arena the peer can change
 *	them at any time: copy what has to be checked, check the copy, and use the copy
 * @len: bytes at @data
 * @place: private
 * @reserved: private
 */
struct evering_msg {
	const void *data;
	uint64_t len;
	uint32_t place;
	uint32_t reserved;
};

/**
 * typedef evering_message_fn - called for a message
 * @ops: table
 * @msg: the message, valid until evering_msg_free().  The struct is valid until this
 *	returns: copy it to keep it
 * @context: from the table's parameters
 *
 * Frees the message, now or later.  May call any function except evering_ops_close().
 */
typedef void (*evering_message_fn)(struct evering_ops *ops,
				   const struct evering_msg *msg,
				   void *context);

#define EVERING_OPS_DEFAULT UINT32_MAX

/**
 * struct evering_ops_params - how to make a table
 * @size: sizeof(struct evering_ops_params)
 * @flags: 0; EVERING_REPLACEABLE: if the peer goes away, operations in flight wait for
 *	its successor, as described below
 * @depth: the most operations in the table, 0..three quarters of the ring's entries;
 *	EVERING_OPS_DEFAULT: half of them
 * @serve: the most requests of the peer that this side holds unanswered, with the range
 *	of @depth
 * @request: called for each request; NULL: requests wait for evering_op_next()
 * @cancelled: called when the peer states that it has cancelled a request; may be NULL
 * @context: for all callbacks
 * @store: the most posts and messages of the peer that this side stores, from 0 to the
 *	entries of the ring; EVERING_OPS_DEFAULT: half of them
 * @reserved: 0
 * @message: called for each message; NULL: messages wait for evering_msg_recv()
 *
 * At most the lesser of @depth here and @serve at the peer are in flight.
 *
 * With EVERING_REPLACEABLE, the functions that poll and wait return -EPIPE as without
 * it, until evering_replace() succeeds (but see evering_ops_follow()).  Meanwhile
 * operations can be cancelled, and they run out of time when the table is polled.
 * After evering_replace():
 *
 * - Operations that the peer had certainly not seen are sent to the successor when it has
 *   opened its table.  So are posts and messages that it had not seen.
 * - An operation that the peer may have begun ends with -EOWNERDEAD and EVERING_BEGUN,
 *   unless it has EVERING_REISSUE.
 * - An operation that gives a buffer back to the peer ends with -EOWNERDEAD, and the
 *   buffer is gone.  A post that does so is dropped with its buffer.
 *
 * evering_op_call() and evering_op_callv() end with -EPIPE, unless evering_ops_follow()
 * was called.  The number of operations that may be in flight stays the same.  A
 * successor whose table serves fewer ends the channel with -EPROTO; so does one that
 * stores no posts and messages, if there are any for it.  Copies of what is sent again
 * are allocated.
 */
struct evering_ops_params {
	uint32_t size;
	uint32_t flags;
	uint32_t depth;
	uint32_t serve;
	evering_request_fn request;
	evering_cancelled_fn cancelled;
	void *context;
	uint32_t store;
	uint32_t reserved;
	evering_message_fn message;
};

#define EVERING_OPS_PARAMS_INIT                                                \
	{                                                                      \
		sizeof(struct evering_ops_params), 0, EVERING_OPS_DEFAULT,     \
			EVERING_OPS_DEFAULT, EVERING__NULL, EVERING__NULL,     \
			EVERING__NULL, EVERING_OPS_DEFAULT, 0, EVERING__NULL   \
	}

/**
 * struct evering_ops_info - the state of a table
 * @depth: the most operations that may be in flight, as both sides agreed; 0: the peer
 *	has not opened its table yet
 * @serve: the most requests of the peer that this side holds
 * @in_flight: operations without an outcome, prepared ones included
 * @abandoned: operations with an outcome whose resources the peer may still use
 * @done: outcomes that the caller has not taken yet
 * @held: requests that are not answered yet
 * @homebound: buffers of the peer that were freed here and are not on their way back
 *	yet
 * @max_data: bytes of data in an entry without a buffer
 * @store: posts and messages of the peer that this side can store
 * @credit: posts and messages that can be sent now, as far as this side knows
 * @messages: messages that wait for evering_msg_recv()
 * @reserved: 0
 */
struct evering_ops_info {
	uint32_t depth;
	uint32_t serve;
	uint32_t in_flight;
	uint32_t abandoned;
	uint32_t done;
	uint32_t held;
	uint32_t homebound;
	uint32_t max_data;
	uint32_t store;
	uint32_t credit;
	uint32_t messages;
	uint32_t reserved;
};

/* ---------------------------------------------------------------- the table */

/**
 * evering_ops_open - make the table of an endpoint
 * @ev: endpoint, with slots of at least EVERING_OPS_MIN_SLOT bytes, and no entries
 *	under way
 * @params: NULL: EVERING_OPS_PARAMS_INIT
 * @ops: out: the table, for evering_ops_close()
 *
 * Informs the peer, and does not wait for it.  Operations can be prepared and submitted
 * as soon as the peer has opened its table.
 *
 * Context: The thread that has both roles.
 * Return: 0; -EINVAL: @params is invalid, or the slots are too small; -EBUSY: the
 * endpoint has a table; -EAGAIN: the ring has no room; -ENOMEM: no memory.
 */
EVERING_API int evering_ops_open(struct evering *ev,
				 const struct evering_ops_params *params,
				 struct evering_ops **ops);

/**
 * evering_ops_close - end a table
 * @ops: table; NULL: does nothing
 *
 * Operations without an outcome end with -ECANCELED; their callbacks are called.
 * Buffers that the peer may still use stay locked until evering_close(), the only
 * useful call after this one.  evering_close() also closes an open table.
 */
EVERING_API void evering_ops_close(struct evering_ops *ops);

/**
 * evering_ops_endpoint - get the endpoint of a table
 * @ops: table
 *
 * For callbacks, which get the table as an argument: to allocate, to free, and to
 * identify the peer.
 *
 * Context: Any thread.
 * Return: the endpoint, which still belongs to the caller that opened it.
 */
static inline struct evering *
evering_ops_endpoint(const struct evering_ops *ops);

/**
 * evering_ops_poll - do the work of a table
 * @ops: table
 *
 * Takes what has arrived, calls callbacks, ends operations that took too long, returns
 * freed buffers and wakes a peer that sleeps.  Does not wait.
 *
 * Return: how much was done, 0: nothing; -EPIPE: the peer is gone, and nothing more
 * will come; every operation has its outcome, unless the table has EVERING_REPLACEABLE;
 * -EPROTO: the peer broke the rules, and the channel has ended in the same way;
 * -EPROTONOSUPPORT: the peer speaks another version.
 */
EVERING_API int evering_ops_poll(struct evering_ops *ops);

/**
 * evering_ops_wait - wait until there is work, and do it
 * @ops: table
 * @timeout_ns: how long to wait at the most
 *
 * Waits by the endpoint's policy.
 *
 * Return: as evering_ops_poll(), but at least 1; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT:
 * nothing in time; -EINTR: a signal; -EINVAL: @timeout_ns is invalid.
 */
EVERING_API int evering_ops_wait(struct evering_ops *ops, int64_t timeout_ns);

/**
 * evering_ops_flush - wake the peer, and return what was freed
 * @ops: table
 *
 * For a caller that does something else for a long time.  It costs a full fence, a
 * load, and sometimes a system call.
 */
EVERING_API void evering_ops_flush(struct evering_ops *ops);

/**
 * evering_ops_arm - prepare for a sleep in an event loop
 * @ops: table
 * @events: out: the events to poll evering_fd() of the endpoint for
 *
 *	while ((n = evering_ops_poll(ops)) > 0 ||
 *	       (n == 0 && (n = evering_ops_arm(ops, &events)) > 0))
 *		;
 *
 * Then, unless n is an error, sleep for evering_ops_timeout() at the most.  This
 * function includes evering_ops_flush().
 *
 * If an operation was refused because the ring had no room, the descriptor also becomes
 * ready for room.
 *
 * Return: 0: the descriptor becomes ready when there is work; 1: there is work or room
 * already, or the caller has requests or messages to take; or a negative errno as
 * evering_ops_poll(); -EBUSY: the endpoint is a member of a group.  For requests and
 * messages that wait, this returns 1 each time if the caller has ever called
 * evering_op_next() or evering_msg_recv(), else once for each of them.
 */
EVERING_API int evering_ops_arm(struct evering_ops *ops, short *events);

/**
 * evering_ops_timeout - get when the next operation runs out of time
 * @ops: table
 *
 * Return: nanoseconds from now; 0: one has run out; EVERING_WAIT_FOREVER: no operation
 * has a time limit.
 */
EVERING_API int64_t evering_ops_timeout(const struct evering_ops *ops);

/**
 * evering_ops_follow - continue with the successor of a peer that goes away
 * @ops: table with EVERING_REPLACEABLE
 * @path: where the successor will listen, as for evering_connect(); NULL: stop
 *	following
 * @patience_ns: how long one call waits for a successor at the most, in nanoseconds,
 *	not 0; or EVERING_WAIT_FOREVER
 *
 * From now on, a function of this table that waits, with a @timeout_ns other than
 * EVERING_NOWAIT, does not return -EPIPE when the peer goes away.  It meets the
 * successor, as evering_replace() does, and continues to wait.  So a caller that
 * submits and waits notices the death or upgrade of a server only in the outcomes of
 * its operations.  The rules of evering_replace() for other threads, and for the
 * descriptor of evering_fd(), hold for each such wait.
 *
 * Such a wait ends with -EPIPE if no successor has come @patience_ns after the peer
 * went away, or after the wait began; the next wait tries again.  It ends with -EPIPE
 * at once in a callback, and if the table still has something of the dead peer that has
 * to be finished with first.  A signal ends it with -EINTR, and so does evering_wake(),
 * within a second.  Otherwise it ends with an error of evering_replace(), such as
 * -EACCES for a successor of another user.  evering_ops_poll() returns -EPIPE as
 * without this function.
 *
 * Context: The thread of the table.
 * Return: 0; -EOPNOTSUPP: the table has no EVERING_REPLACEABLE; -EINVAL: @path is
 * empty, or @patience_ns is invalid; -ENAMETOOLONG: @path has over 107 bytes.
 */
EVERING_API int evering_ops_follow(struct evering_ops *ops, const char *path,
				   int64_t patience_ns);

/**
 * evering_ops_get_info - get the state of a table
 * @ops: table
 * @info: out
 */
EVERING_API void evering_ops_get_info(const struct evering_ops *ops,
				      struct evering_ops_info *info);

/* ------------------------------------------------------------------- asking */

/**
 * evering_op_submit - submit an operation
 * @ops: table
 * @op: the operation; afterwards only its buffer is still in use
 * @id: out: the operation's number, never 0, valid until its outcome is taken; may be
 *	NULL
 * @timeout_ns: how long to wait until it can be sent; EVERING_NOWAIT: only try.  The
 *	operation's own time begins when it is sent
 *
 * Return: 0: it is in flight, and will have an outcome; -EAGAIN (EVERING_NOWAIT),
 * -ETIMEDOUT: the most operations are in flight, or the peer has not opened its table;
 * -EINVAL: @op or its buffer is invalid; -EMSGSIZE: too much data; -EBUSY: its buffer
 * is lent; -ESTALE: its buffer was given away; -EPIPE, -EPROTO, -EPROTONOSUPPORT: the
 * channel has ended; -EINTR: a signal; -EDEADLK: too many waits are nested in
 * callbacks.  After an error nothing has happened.  With EVERING_NOWAIT nothing that
 * has arrived is taken.
 */
static inline int evering_op_submit(struct evering_ops *ops,
				    const struct evering_op *op, uint64_t *id,
				    int64_t timeout_ns);

/**
 * evering_op_submit_data - submit an operation that fits an entry
 * @ops: table
 * @opcode: what to do; the library does not interpret it
 * @data: data for the entry; it is copied
 * @len: bytes of @data, 0..evering_ops_info.max_data
 * @done: called with the outcome; must not be NULL
 * @user: returned in the completion
 * @timeout_ns: how long to wait until it can be sent; EVERING_NOWAIT: only try
 *
 * evering_op_submit() for the most common operations, without a struct in memory.
 *
 * Return: as evering_op_submit(); -EINVAL: @done is NULL.
 */
static inline int evering_op_submit_data(struct evering_ops *ops,
					 uint32_t opcode, const void *data,
					 uint32_t len, evering_done_fn done,
					 void *user, int64_t timeout_ns);

/**
 * evering_op_prepare - prepare an operation without sending it
 * @ops: table
 * @op: as for evering_op_submit(); its buffer is lent or given from now on, and returns
 *	if the operation is cancelled
 * @id: out: the operation's number, never 0
 *
 * Return: 0; -EAGAIN: the table is full, or the peer has not opened its table; or as
 * evering_op_submit().
 */
EVERING_API int evering_op_prepare(struct evering_ops *ops,
				   const struct evering_op *op, uint64_t *id);

/**
 * evering_op_start - send an operation that was prepared
 * @ops: table
 * @id: from evering_op_prepare()
 * @timeout_ns: as for evering_op_submit()
 *
 * Return: 0: it is in flight; -ENOENT: no such operation; -EALREADY: it is not a
 * prepared operation; or as evering_op_submit().  After an error it stays prepared.
 */
EVERING_API int evering_op_start(struct evering_ops *ops, uint64_t id,
				 int64_t timeout_ns);

/**
 * evering_op_cancel - cancel an operation
 * @ops: table
 * @id: from evering_op_submit() or evering_op_prepare()
 * @flags: EVERING_CANCEL_TELL: inform the peer, which may then answer early.
 *	EVERING_CANCEL_DETACH: do not wait for the answer
 *
 * An operation that is only prepared is gone at once, without an outcome, and its
 * buffer belongs to the caller as before.
 *
 * An operation in flight ends with -ECANCELED when the answer comes, whatever the
 * answer is.  What the answer carries is dropped, and a lent buffer belongs to the
 * caller again.  If its time runs out before, it ends with -ETIMEDOUT, as without this
 * call.
 *
 * With EVERING_CANCEL_DETACH its outcome is -ECANCELED at once; the callback is called
 * from here.  A lent buffer does not belong to the caller any more, which
 * EVERING_ABANDONED states; it is freed when the answer comes or the peer goes away.
 * An operation that was cancelled without this flag can still be detached.
 *
 * Return: 0; -EALREADY: it has its outcome, or was cancelled before; -ENOENT: there
 * never was such an operation; -EINVAL: @flags is invalid.
 */
EVERING_API int evering_op_cancel(struct evering_ops *ops, uint64_t id,
				  unsigned int flags);

/**
 * evering_op_done - take the outcome of an operation if there is one
 * @ops: table
 * @id: an operation without a callback
 * @completion: out: the outcome
 *
 * Looks only at the table, which evering_ops_poll() brings up to date.
 *
 * Return: 0: it has ended, and the table forgets it; -EAGAIN: not yet; -ENOENT: no such
 * operation, or its outcome was taken before.
 */
EVERING_API int evering_op_done(struct evering_ops *ops, uint64_t id,
				struct evering_completion *completion);

/**
 * evering_op_wait - wait for an operation
 * @ops: table
 * @id: an operation without a callback
 * @completion: out: the outcome, which may be -EPIPE
 * @timeout_ns: how long to wait; the operation continues after a timeout
 *
 * Meanwhile other work is done as by evering_ops_poll().
 *
 * Return: 0: it has ended, and the table forgets it; -ENOENT: no such operation;
 * -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: not yet; -EINTR: a signal; -EINVAL: @timeout_ns
 * is invalid.
 */
EVERING_API int evering_op_wait(struct evering_ops *ops, uint64_t id,
				struct evering_completion *completion,
				int64_t timeout_ns);

/**
 * evering_op_wait_any - wait for the operation that ends first
 * @ops: table
 * @completion: out: the outcome; the oldest one first
 * @timeout_ns: how long to wait
 *
 * Operations with a callback do not count.
 *
 * Return: 0; -ENOENT: there is no operation; or as evering_op_wait().
 */
EVERING_API int evering_op_wait_any(struct evering_ops *ops,
				    struct evering_completion *completion,
				    int64_t timeout_ns);

/**
 * evering_op_wait_all - wait until every operation has an outcome
 * @ops: table
 * @timeout_ns: how long to wait
 *
 * The outcomes of operations without a callback still have to be taken afterwards.
 * Prepared operations do not count.
 *
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: not yet; -EINTR: a signal; -EINVAL:
 * @timeout_ns is invalid.
 */
EVERING_API int evering_op_wait_all(struct evering_ops *ops,
				    int64_t timeout_ns);

/**
 * evering_op_call - submit an operation and wait for it
 * @ops: table
 * @op: the operation; its @done is not used
 * @completion: out: the outcome
 * @timeout_ns: time for both
 *
 * If no answer comes in time, or a signal comes, the operation is abandoned as by
 * EVERING_CANCEL_DETACH | EVERING_CANCEL_TELL, with the outcome -ETIMEDOUT or -EINTR.
 *
 * Return: 0: @completion has the outcome, which may be -ETIMEDOUT, -EINTR or -EPIPE;
 * else as evering_op_submit(), and the operation was never sent.
 */
EVERING_API int evering_op_call(struct evering_ops *ops,
				const struct evering_op *op,
				struct evering_completion *completion,
				int64_t timeout_ns);

/**
 * evering_op_callv - submit a request of any length and wait for the answer
 * @ops: table
 * @opcode: what to do; the library does not interpret it
 * @in: the pieces of the request, in order; copied
 * @in_count: elements of @in, 0..1024
 * @out: where to copy the answer, in order
 * @out_count: elements of @out, 0..1024
 * @completion: out: the outcome.  Its buf_len is the length of the answer; its data and
 *	buf are NULL
 * @timeout_ns: time for the whole call
 *
 * A request that fits travels in the entry.  A longer one travels in one buffer, lent
 * to the peer; this call waits for it if the arena has no room.  The peer answers with
 * evering_op_answerv().
 *
 * Return: as evering_op_call(); -EMSGSIZE: @in is longer than the arena, and nothing
 * was sent; or the answer is longer than @out, which has its first bytes, and the flags
 * of @completion have EVERING_ANSWERED; -EINVAL: a count or @timeout_ns is invalid, or
 * the lengths overflow; -ENOMEM: as evering_msg_send().
 */
EVERING_API int evering_op_callv(struct evering_ops *ops, uint32_t opcode,
				 const struct iovec *in, int in_count,
				 const struct iovec *out, int out_count,
				 struct evering_completion *completion,
				 int64_t timeout_ns);

/**
 * evering_op_post - send a request that gets no answer
 * @ops: table
 * @op: the request: opcode, flags, data, len, buf and buf_len as for
 *	evering_op_submit(), except that EVERING_LEND and EVERING_REISSUE are refused;
 *	the rest is 0
 * @timeout_ns: how long to wait until it can be sent; EVERING_NOWAIT: only try
 *
 * The peer gets it as a request with EVERING_POST.  The sender does not learn whether
 * the peer has taken it.
 *
 * Return: 0: it is on its way; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: the peer stores no
 * more posts, the ring has no room, or the peer has not opened its table; -EINVAL: @op
 * or its buffer is invalid; or as evering_op_submit().  After an error nothing has
 * happened.
 */
EVERING_API int evering_op_post(struct evering_ops *ops,
				const struct evering_op *op,
				int64_t timeout_ns);

/* ------------------------------------------------------------------ messages */

/**
 * evering_msg_send - send a message of any length
 * @ops: table
 * @iov: the pieces of the message, in order; copied
 * @count: elements of @iov, 0..1024
 * @timeout_ns: how long to wait until the peer can store it, and the ring and
 *	the arena have room for it; EVERING_NOWAIT: only try
 *
 * Meanwhile other work is done as by evering_ops_poll().  EVERING_NOWAIT takes nothing
 * that has arrived, credit included, so a caller that only tries has to poll.  A
 * message longer than evering_ops_info.max_data takes one buffer of this side's arena,
 * which returns when the receiver frees the message.  Success means that the message is
 * on its way, not that the peer has received it.
 *
 * Return: 0; -EMSGSIZE: the message is longer than this side's arena; -EAGAIN
 * (EVERING_NOWAIT), -ETIMEDOUT: no room, or the peer has not opened its table; -ENOMEM:
 * the arena gets no more memory, and no buffer of it can return; -EINTR: a signal;
 * -EINVAL: @count or @timeout_ns is invalid, a piece is NULL, or the lengths overflow;
 * -EPIPE, -EPROTO, -EPROTONOSUPPORT: the channel has ended; -EDEADLK: too many waits
 * are nested in callbacks.  After an error nothing was sent.
 */
static inline int evering_msg_send(struct evering_ops *ops,
				   const struct iovec *iov, int count,
				   int64_t timeout_ns);

/**
 * evering_msg_recv - receive a message
 * @ops: table, without a callback for messages
 * @msg: out: the message, for evering_msg_free()
 * @timeout_ns: how long to wait for it; EVERING_NOWAIT: only try
 *
 * Meanwhile other work is done as by evering_ops_poll().  Messages that were sent
 * before the peer went away can still be received.
 *
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: none has come; -EPIPE: none, and the
 * peer is gone; -EPROTO, -EPROTONOSUPPORT: none, and the peer broke the rules or speaks
 * another version; -EINTR: a signal; -EINVAL: the table has a callback for messages, or
 * @timeout_ns is invalid; -EDEADLK: too many waits are nested in callbacks.
 */
static inline int evering_msg_recv(struct evering_ops *ops,
				   struct evering_msg *msg, int64_t timeout_ns);

/**
 * evering_msg_free - finish with a message
 * @ops: table
 * @msg: from evering_msg_recv() or evering_message_fn; its data is invalid afterwards
 *
 * Messages may be freed in any order.  Each lets the peer send another one.  This side
 * informs the peer when it has finished with a quarter of what it stores, and before it
 * sleeps.
 *
 * Return: 0; -EINVAL: @msg is not a message, or was freed before.
 */
static inline int evering_msg_free(struct evering_ops *ops,
				   const struct evering_msg *msg);

/* ---------------------------------------------------------------- answering */

/**
 * evering_op_next - take the next request, in a table without a callback
 * @ops: table
 * @request: out: the request
 * @timeout_ns: how long to wait for it
 *
 * Meanwhile other work is done as by evering_ops_poll().
 *
 * Return: 0; or as evering_ops_wait().
 */
EVERING_API int evering_op_next(struct evering_ops *ops,
				struct evering_request *request,
				int64_t timeout_ns);

/**
 * evering_op_answer - answer a request
 * @ops: table
 * @id: the request's number; the request ends with this
 * @result: for the peer; the library does not interpret it
 * @data: data for the entry; it is copied
 * @len: bytes of @data, 0..evering_ops_info.max_data
 *
 * Requests may be answered in any order, at any time.  This never waits.
 *
 * Return: 0; -ESTALE: the request was answered before, or never asked; -EMSGSIZE: too
 * much data; -EINVAL: @data is NULL and @len is not 0; -EAGAIN: no room, and nothing
 * was sent, so try later (a peer that keeps the rules always leaves room); -EPIPE,
 * -EPROTO, -EPROTONOSUPPORT: the channel has ended, and the request with it.
 */
static inline int evering_op_answer(struct evering_ops *ops, uint64_t id,
				    int32_t result, const void *data,
				    uint32_t len);

/**
 * evering_op_answer_buffer - answer a request with a buffer
 * @ops: table
 * @id: the request's number; the request ends with this
 * @result: for the peer; the library does not interpret it
 * @buf: the start of a buffer: from evering_alloc() or evering_op_answer_alloc(), which
 *	is given to the peer; that the peer has given, which returns to it; or that the
 *	peer lent with this request, with the answer in it
 * @buf_len: bytes of @buf that the peer sees, from 1 to those of the buffer
 *
 * Return: as evering_op_answer(); -EINVAL: @buf is none of these, or shorter than
 * @buf_len; -EBUSY: it is lent; -ESTALE: it was given away.  After an error @buf is as
 * before.
 */
EVERING_API int evering_op_answer_buffer(struct evering_ops *ops, uint64_t id,
					 int32_t result, void *buf,
					 uint64_t buf_len);

/**
 * evering_op_answer_alloc - get a buffer for the answer to a request
 * @ops: table
 * @id: of the request
 * @size: bytes
 *
 * This is the buffer that was lent with the request, if this side can write it and it
 * is large enough; else one from evering_alloc().  Pass it to
 * evering_op_answer_buffer(), or else to evering_free(), which does nothing to a lent
 * buffer.
 *
 * Return: the buffer; NULL: no such request, or no room.
 */
EVERING_API void *evering_op_answer_alloc(struct evering_ops *ops, uint64_t id,
					  uint64_t size);

/**
 * evering_op_answerv - answer a request with data of any length
 * @ops: table
 * @id: the request's number; the request ends with this
 * @result: for the peer; the library does not interpret it
 * @iov: the pieces of the answer, in order; copied
 * @count: elements of @iov, 0..1024
 * @timeout_ns: how long to wait until the arena has room for an answer that does not
 *	fit an entry; EVERING_NOWAIT: only try
 *
 * Return: as evering_op_answer(); -EMSGSIZE: the answer is longer than this side's
 * arena, and than a lent buffer that this side can write; -ENOMEM: as
 * evering_msg_send(); -EAGAIN, -ETIMEDOUT: no room, and the request still has to be
 * answered; -EINTR, -EDEADLK: as evering_ops_wait(); -EINVAL: @count or @timeout_ns is
 * invalid, a piece is NULL, or the lengths overflow.
 */
EVERING_API int evering_op_answerv(struct evering_ops *ops, uint64_t id,
				   int32_t result, const struct iovec *iov,
				   int count, int64_t timeout_ns);

/**
 * evering_request_bytes - get the bytes of a request, in the entry or in a buffer
 * @request: a request from evering_op_callv(), or any other that has data or a buffer
 *	but not both
 * @len: out: the number of bytes
 *
 * Context: Any thread.
 * Return: its buffer, or else its data.
 */
static inline const void *
evering_request_bytes(const struct evering_request *request, uint64_t *len)
{
	*len = request->buf ? request->buf_len : request->len;
	return request->buf ? request->buf : request->data;
}

/**
 * evering_op_cancelled - find whether the peer still needs the answer
 * @ops: table
 * @id: of a request
 *
 * Return: 1: the peer has cancelled it; 0: not; -ESTALE: it was answered before, or
 * never asked.
 */
EVERING_API int evering_op_cancelled(const struct evering_ops *ops,
				     uint64_t id);

/* ------------------------------------------------------------ the fast path */

/*
 * Private, and in this header so that the fast path can be inlined; callers do not
 * access the members.  A "plain" operation has a callback, and no buffer, no timeout
 * and no ext.  Plain operations are handled here, all others in the library.
 */

/**
 * struct evering__place - a place in the table
 * @c: the completion of its operation: id, user and ext are set at submission, the rest
 *	when it ends.  While the place is free, its id is the last operation's, and its
 *	flags and ext are what an answer needs them to be
 * @expect: c.id while a plain operation is in flight, else 0, which is never an id
 * @done: the operation's callback
 * @next: the next free place; or the next one in the list of those that have ended
 * @prev: the one before it in that list
 * @state: OP_* (ops.h), unless it is plain; 0: free or plain
 * @granule: first granule of its buffer in the arena
 * @generation: the arena's number for that use of the granule
 * @buf: its buffer, or NULL
 * @buf_len: bytes of @buf
 * @heap: its index in the heap of deadlines
 * @deadline: when the operation is abandoned; while it is prepared, how long it may
 *	take
 */
struct evering__place {
	struct evering_completion c;
	uint64_t expect;
	evering_done_fn done;
	struct evering__place *next;
	struct evering__place *prev;
	uint32_t state;
	uint32_t granule;
	uint32_t generation;
	uint32_t heap;
	void *buf;
	uint64_t buf_len;
	int64_t deadline;
} __attribute__((aligned(128)));

/**
 * struct evering__held - a request of the peer
 * @r: the request as the user sees it
 * @plain: r.id while it is held and plain; 0: free; else a value that is no id of this
 *	index
 * @state: HELD_* (ops.h), unless it is plain
 * @next: the next request for evering_op_next()
 */
struct evering__held {
	struct evering_request r;
	uint64_t plain;
	uint32_t state;
	uint32_t next;
} __attribute__((aligned(64)));

/**
 * struct evering__stored - a post or message of the peer that this side stores
 * @data: where its data is copied to
 * @buf: the buffer that came with it, or NULL
 * @buf_len: bytes of @buf
 * @vacant: the next free place
 * @next: the index of the next one that waits
 * @name: its index, and in the bits above it how often the place was used
 * @plain: @name of a message without a buffer that the user has; else 0
 * @state: STORED_* (ops.h), unless it is plain
 * @len: bytes of data
 * @opcode: of a post
 */
struct evering__stored {
	unsigned char *data;
	struct evering__stored *vacant;
	void *buf;
	uint64_t buf_len;
	uint32_t next;
	uint32_t name;
	uint32_t plain;
	uint32_t state;
	uint32_t len;
	uint32_t opcode;
} __attribute__((aligned(64)));

/* How many bits of a name are the index. */
#define EVERING__STORED_BITS 17u

/**
 * struct evering_ops - the part of a table that the fast path uses
 * @ev: its endpoint
 * @free: the first free place for a submission; NULL: there is none
 * @places: the places of operations, by index; index 0 is not used
 * @held: the requests of the peer, by index; index 0 is not used
 * @place_mask: the mask of an index in @places
 * @held_mask: the mask of an index in @held
 * @in_flight: operations without an outcome, prepared ones included
 * @holding: requests that are not answered yet
 * @reserve: slots that a request leaves free; 2^30: the fast path takes no requests
 * @answer_limit: an answer on the fast path has fewer bytes of data than this; 0: it
 *	takes no answers
 * @max_data: bytes of data in an entry without a buffer
 * @flushed: the entry number up to which a sleeping peer has been woken
 * @stored: posts and messages of the peer, by index; index 0 is not used
 * @vacant: the first free place that was used before; NULL: there is none
 * @message_limit: a message on the fast path has fewer bytes than this; 0: it takes no
 *	messages
 * @credit: posts and messages that the peer has room for
 * @received: posts and messages that have come from the peer, modulo 2^32
 * @tell_in: how many of them this side still has to finish with before it informs the
 *	peer
 * @stored_mask: the mask of an index in @stored
 * @reserved: 0
 */
struct evering_ops {
	struct evering *ev;
	struct evering__place *free;
	struct evering__place *places;
	struct evering__held *held;
	uint32_t place_mask;
	uint32_t held_mask;
	uint32_t reserve;
	uint32_t answer_limit;
	uint32_t max_data;
	uint32_t in_flight;
	uint32_t holding;
	uint32_t flushed;
	struct evering__stored *stored;
	struct evering__stored *vacant;
	uint32_t message_limit;
	uint32_t credit;
	uint32_t received;
	uint32_t tell_in;
	uint32_t stored_mask;
	uint32_t reserved;
};

EVERING_API int evering__op_submit(struct evering_ops *ops,
				   const struct evering_op *op, uint64_t *id,
				   int64_t timeout_ns);
EVERING_API int evering__op_submit_data(struct evering_ops *ops,
					uint32_t opcode, const void *data,
					uint32_t len, evering_done_fn done,
					void *user, int64_t timeout_ns);
EVERING_API int evering__op_answer(struct evering_ops *ops, uint64_t id,
				   int32_t result, const void *data,
				   uint32_t len);
EVERING_API int evering__msg_send(struct evering_ops *ops,
				  const struct iovec *iov, int count,
				  int64_t timeout_ns);
EVERING_API int evering__msg_recv(struct evering_ops *ops,
				  struct evering_msg *msg, int64_t timeout_ns);
EVERING_API int evering__msg_free(struct evering_ops *ops,
				  const struct evering_msg *msg);
EVERING_API int evering__msg_tell(struct evering_ops *ops);

/* Sends entry @n, of @type: two words, then the data.  There is room for it. */
static inline void evering__op_send(struct evering_tx *tx, uint32_t n,
				    uint64_t id, uint32_t type, uint32_t code,
				    const void *data, uint32_t len)
{
	unsigned char *slot = evering__tx_slot(tx, n);
	uint64_t *words = (uint64_t *)slot;

	words[0] = id;
	words[1] = (uint64_t)code << 32 | len << 16 | type;
	evering__copy(slot + sizeof(struct evering_op_header), data, len);
	evering__stamp(tx, slot, n);
}

/*
 * Copies the data of an entry.  @to has room for the data of the largest entry, so this
 * may copy more than @len.  Most entries have no more data than fits the smallest slot.
 */
static inline void evering__copy_data(void *to, const void *from, uint32_t len)
{
	unsigned char *target = (unsigned char *)to;
	const unsigned char *source = (const unsigned char *)from;
	uint32_t i;

	__builtin_memcpy(target, source, 16);
	__builtin_memcpy(target + 16, source + 16, 16);
	__builtin_memcpy(target + 32, source + 32, 16);
	for (i = 48; EVERING_UNLIKELY(i < len); i += 16)
		__builtin_memcpy(target + i, source + i, 16);
}

static inline struct evering *
evering_ops_endpoint(const struct evering_ops *ops)
{
	return ops->ev;
}

/* Submits a plain operation if it need not wait.  Returns whether it did. */
static inline int evering__op_try(struct evering_ops *ops, uint32_t opcode,
				  const void *data, uint32_t len,
				  evering_done_fn done, void *user,
				  uint64_t *id)
{
	struct evering_tx *tx = &ops->ev->tx;
	struct evering__place *place = ops->free;
	uint32_t n = tx->next;
	uint64_t new_id;

	if (EVERING_UNLIKELY(len > ops->max_data || !place) ||
	    EVERING_UNLIKELY(!data && len) ||
	    EVERING_UNLIKELY(evering__full(tx, n, ops->reserve)))
		return 0;
	ops->free = place->next;
	ops->in_flight++;
	new_id = place->c.id + ((uint64_t)1 << EVERING_OP_INDEX_BITS);
	place->c.id = new_id;
	place->expect = new_id;
	place->c.user = user;
	place->done = done;
	if (id)
		*id = new_id;
	evering__op_send(tx, n, new_id, EVERING_OP_REQUEST, opcode, data, len);
	return 1;
}

static inline int evering_op_submit(struct evering_ops *ops,
				    const struct evering_op *op, uint64_t *id,
				    int64_t timeout_ns)
{
	struct evering_op copy;

	if (EVERING_LIKELY(!(op->flags | op->reserved)) &&
	    EVERING_LIKELY(!op->buf && op->done) &&
	    EVERING_LIKELY(!op->timeout_ns && !op->ext) &&
	    EVERING_LIKELY(evering__op_try(ops, op->opcode, op->data, op->len,
					   op->done, op->user, id)))
		return 0;
	/* A copy, so that only callers that get here need the struct in memory. */
	copy = *op;
	return evering__op_submit(ops, &copy, id, timeout_ns);
}

static inline int evering_op_submit_data(struct evering_ops *ops,
					 uint32_t opcode, const void *data,
					 uint32_t len, evering_done_fn done,
					 void *user, int64_t timeout_ns)
{
	if (EVERING_LIKELY(done != NULL) &&
	    EVERING_LIKELY(
		    evering__op_try(ops, opcode, data, len, done, user, NULL)))
		return 0;
	return evering__op_submit_data(ops, opcode, data, len, done, user,
				       timeout_ns);
}

static inline int evering_op_answer(struct evering_ops *ops, uint64_t id,
				    int32_t result, const void *data,
				    uint32_t len)
{
	struct evering_tx *tx = &ops->ev->tx;
	struct evering__held *held = &ops->held[id & ops->held_mask];
	uint32_t n = tx->next;

	if (EVERING_UNLIKELY(held->plain != id) ||
	    EVERING_UNLIKELY(evering__full(tx, n, 0)) ||
	    EVERING_UNLIKELY(len >= ops->answer_limit || (!data && len)))
		return evering__op_answer(ops, id, result, data, len);
	held->plain = 0;
	ops->holding--;
	evering__op_send(tx, n, id, EVERING_OP_ANSWER, (uint32_t)result, data,
			 len);
	return 0;
}

/* Takes a message that fits an entry, if the ring and the peer have room for it. */
static inline int evering_msg_send(struct evering_ops *ops,
				   const struct iovec *iov, int count,
				   int64_t timeout_ns)
{
	struct evering_tx *tx = &ops->ev->tx;
	uint32_t n = tx->next;

	if (count != 1 || !iov)
		return evering__msg_send(ops, iov, count, timeout_ns);
	if (EVERING_UNLIKELY(iov->iov_len > ops->max_data) ||
	    EVERING_UNLIKELY(!iov->iov_base || !ops->credit) ||
	    EVERING_UNLIKELY(evering__full(tx, n, ops->reserve)))
		return evering__msg_send(ops, iov, count, timeout_ns);
	ops->credit--;
	ops->flushed = n + 1;
	evering__op_send(tx, n, 0, EVERING_OP_MESSAGE, 0, iov->iov_base,
			 (uint32_t)iov->iov_len);
	return evering__flush(ops->ev);
}

/*
 * Takes a message in the next entry, without a buffer and without buffers that return,
 * if no earlier message waits.  Each word is read once, and no more than a slot is
 * copied.
 */
static inline int evering_msg_recv(struct evering_ops *ops,
				   struct evering_msg *msg, int64_t timeout_ns)
{
	struct evering_rx *rx = &ops->ev->rx;
	uint32_t payload = rx->payload, n = rx->next, len;
	const unsigned char *slot = evering__rx_slot(rx, n);
	struct evering__stored *stored = ops->vacant;

	if (EVERING_UNLIKELY(
		    evering_load_acquire((const uint32_t *)(slot + payload)) !=
		    n + 1)) /* [A] */
		return evering__msg_recv(ops, msg, timeout_ns);
	len = evering_load_relaxed((const uint32_t *)slot + 2);
	/* Type and flags, and below them the length. */
	len = (len << 16 | len >> 16) - (EVERING_OP_MESSAGE << 16);
	if (EVERING_UNLIKELY(len >= ops->message_limit || !stored))
		return evering__msg_recv(ops, msg, timeout_ns);
	ops->vacant = stored->vacant;
	stored->plain = stored->name;
	ops->received++;
	msg->data = stored->data;
	msg->len = len;
	msg->place = stored->plain;
	evering__copy_data(stored->data,
			   slot + sizeof(struct evering_op_header), len);
	evering__begin(rx, n + 1);
	return evering__released(ops->ev, n + 1);
}

static inline int evering_msg_free(struct evering_ops *ops,
				   const struct evering_msg *msg)
{
	uint32_t name = msg->place;
	struct evering__stored *stored = &ops->stored[name & ops->stored_mask];

	if (EVERING_UNLIKELY(stored->plain != name))
		return evering__msg_free(ops, msg);
	stored->plain = 0;
	stored->name = name + (1u << EVERING__STORED_BITS);
	stored->vacant = ops->vacant;
	ops->vacant = stored;
	if (EVERING_UNLIKELY(!--ops->tell_in))
		return evering__msg_tell(ops);
	return 0;
}

#endif /* EVERING_OP_H */
