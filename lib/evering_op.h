/* SPDX-License-Identifier: MIT */
/*
 * evering_op.h: requests and answers over a channel.  Include <evering.h>.
 *
 * A table beside an endpoint follows each operation from its submission to its one
 * outcome.  Both sides of a channel open one, and both may ask and answer at once.
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
 * - Each operation that was submitted has exactly one outcome: the answer's result,
 *   -ECANCELED, -ETIMEDOUT, -EPIPE (the peer is gone; evering_peer() tells whether
 *   it closed or died), -EOWNERDEAD (the same, and it has a successor) or -EPROTO (it
 *   broke the rules).  EVERING_ABANDONED with it says
 *   that a buffer that was lent is not the caller's any more.
 * - Its resources stay with it until the peer can no longer use them, which is when
 *   the answer has come or the channel has ended, whoever may have lost interest
 *   before.
 * - No more are in flight than the peer has room for, and the way back always has
 *   room for the answers to those: evering_op_answer() never waits.
 *
 * Data and buffers
 *
 * A little data travels in the entry and is copied on arrival.  More goes in a
 * buffer of the arena, which is not copied:
 *
 * - Lent (EVERING_LEND): until the operation ends the peer may look at it, and the
 *   owner can neither free it nor lend it again.  With EVERING_SHARED_ARENA the peer
 *   may also write into it.
 * - Given (EVERING_GIVE, and buffers in answers): it is the receiver's from then
 *   on, who frees it, in its own time, with evering_free() as if it were its own, or
 *   gives it back.  Freed buffers go home with other entries, and in entries of
 *   their own if there are none.
 *
 * A buffer of the peer's that is not given or lent is no buffer: whatever arrives is
 * checked, and what cannot be ends the channel with -EPROTO.
 *
 * Posts and messages
 *
 * - A post (evering_op_post()) is a request that gets no answer.
 * - A message (evering_msg_send(), evering_msg_recv()) has any length up to that of the
 *   sender's arena.  One that fits travels in the entry.  A longer one is copied into
 *   one buffer of the arena, read there by the receiver, and the buffer comes home when
 *   the receiver has freed the message.
 * - Posts and messages are stored by the receiver until it has finished with them, so
 *   that one that nobody takes does not hold up the answers behind it.  The sender never
 *   has more under way than the receiver said that it stores: one more waits.
 * - What one side sends arrives in that order: messages among themselves, and posts
 *   among requests.
 *
 * Rules
 *
 * - One thread at a time uses a table, in callbacks too.  While it is open nobody
 *   sends, receives or waits on the endpoint by other means; the arena belongs to
 *   the same thread.
 * - Callbacks may wait, and poll; while they do, others are called.  When eight waits,
 *   or EVERING_OP_SPARE polls, are in each other the next fails with -EDEADLK.
 * - What was submitted or answered is seen by a peer that is awake at once, one that
 *   sleeps is woken by the next evering_ops_poll(), _wait(), _flush() or _arm(), or
 *   evering_op_ function that waits.  A message wakes it at once.
 * - Nothing is allocated after evering_ops_open(), but by evering_replace().
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

/* evering_request.flags, beside the above */
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
 * @id: which
 * @user, @ext: of its struct evering_op
 * @result: what the peer answered; or else -ECANCELED, -ETIMEDOUT, -EPIPE, -EOWNERDEAD,
 *	-EPROTO
 * @len: bytes at @data, which is not to be looked at beyond
 * @flags: EVERING_ANSWERED: @result is the peer's, who may have answered whatever
 *	this library says, too; else it is the library's.  EVERING_ABANDONED: the peer
 *	may still use the buffer that was lent, which is not the caller's any more: it
 *	is freed when the answer comes, or the peer goes.  Without that flag the buffer
 *	is the caller's again.  Where the peer has gone before it answered, one of two:
 *	EVERING_UNSEEN: it certainly did nothing for it, and whoever takes its place may;
 *	EVERING_BEGUN: it may have done it, in part or whole, or not
 * @data: what the answer carried, copied.  Like all of this it stays until the
 *	callback returns, or calls a function that polls or waits; if no callback
 *	is called, until the next call with this table.
 * @buf: the buffer that came with it; NULL: none.  If it was lent, the own one, with
 *	the answer in it; else the caller's, for evering_free().  If it lies in the
 *	peer's arena the peer can change it at any time, and it is not writable
 *	unless the channel has EVERING_SHARED_ARENA.
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
 * evering_done_fn - an operation has ended
 * @ops: table
 * @completion: how; until this returns
 *
 * May call anything but evering_ops_close(): submit anew, and even wait.
 */
typedef void (*evering_done_fn)(struct evering_ops *ops,
				const struct evering_completion *completion);

/**
 * struct evering_op - an operation to submit
 * @opcode: what to do; means nothing to the library
 * @flags: EVERING_LEND or EVERING_GIVE if there is a @buf, else 0.  EVERING_REISSUE, not
 *	with EVERING_GIVE: it may be begun twice: if the peer goes that may have begun it,
 *	its successor (evering_replace()) is asked for it, and told so by EVERING_AGAIN.  What
 *	is in a buffer that both write (EVERING_SHARED_ARENA) may have been changed
 * @data: to go in the entry; copied
 * @len: its bytes, 0..evering_ops_info.max_data, 16 fewer with a buffer
 * @reserved: 0
 * @buf: buffer: the start of one from evering_alloc(); or, to give back, of one
 *	that the peer has given.  Without either of @flags it is refused
 * @buf_len: its bytes that the peer is to see, 1..those allocated
 * @timeout_ns: how long it may take from submission, after which it is abandoned
 *	as if by EVERING_CANCEL_DETACH | EVERING_CANCEL_TELL, its outcome being
 *	-ETIMEDOUT, even if it was cancelled before; EVERING_WAIT_FOREVER, or 0, which a struct has that does not
 *	name it: as long as it takes
 * @done: called with the outcome; NULL: it is kept for evering_op_done() or one of
 *	the evering_op_wait functions
 * @user, @ext: kept until the end, and given back in the completion
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
 * struct evering_request - an operation of the peer's, to be answered; or a post
 * @id: for evering_op_answer*(); 0: a post, which cannot be answered
 * @opcode: what to do, as the peer says
 * @flags: EVERING_LEND or EVERING_GIVE if there is a @buf; EVERING_POST if it is a post;
 *	EVERING_AGAIN: a predecessor of this side may have begun it, or done it
 * @len: bytes at @data
 * @reserved: 0
 * @data: what the request carries, copied, aligned to 16 bytes; stays until it is
 *	answered.  A post's stays until the callback returns, or else until the next
 *	evering_op_next()
 * @buf: the buffer that came with it; NULL: none.  Lent: until it is answered, not
 *	to be written unless the channel has EVERING_SHARED_ARENA.  Given: the
 *	caller's, for evering_free().  The peer can write it at any time: copy what
 *	is to be checked, check the copy and use the copy.
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
 * evering_request_fn - a request has come
 * @ops: table
 * @request: until this returns, though its data and buffer stay as said there, or
 *	polls or waits
 * @context: of the table's parameters
 *
 * Answers it, now or later, unless it is a post.  May call anything but
 * evering_ops_close().
 */
typedef void (*evering_request_fn)(struct evering_ops *ops,
				   const struct evering_request *request,
				   void *context);

/**
 * evering_cancelled_fn - the peer does not need an answer any more
 * @ops: table
 * @id: of a request that is not answered yet.  It has still to be, soon and with
 *	whatever result, to give the peer its resources back.
 * @context: of the table's parameters
 */
typedef void (*evering_cancelled_fn)(struct evering_ops *ops, uint64_t id,
				     void *context);

/**
 * struct evering_msg - a message of the peer's
 * @data: its bytes, aligned to 16; in a copy, or in the peer's arena.  There the peer can
 *	change them at any time: copy what is to be checked, check the copy and use the
 *	copy.  Not to be written.  Stays until evering_msg_free()
 * @len: how many
 * @place, @reserved: private
 */
struct evering_msg {
	const void *data;
	uint64_t len;
	uint32_t place;
	uint32_t reserved;
};

/**
 * evering_message_fn - a message has come
 * @ops: table
 * @msg: copy it to keep it; it stays until evering_msg_free()
 * @context: of the table's parameters
 *
 * Frees the message, now or later.  May call anything but evering_ops_close().
 */
typedef void (*evering_message_fn)(struct evering_ops *ops,
				   const struct evering_msg *msg,
				   void *context);

#define EVERING_OPS_DEFAULT UINT32_MAX

/**
 * struct evering_ops_params - how to make a table
 * @size: sizeof(struct evering_ops_params)
 * @flags: 0; EVERING_REPLACEABLE: if the peer goes, operations in flight wait for its
 *	successor.  The functions that poll and wait return -EPIPE as without, until
 *	evering_replace() succeeds (or see evering_ops_follow()); operations can be cancelled meanwhile, and run out of
 *	time when somebody polls.  Then those that the peer had certainly not seen are sent
 *	to the successor, when that has opened its table, and so are posts and messages.
 *	One that it may have begun ends with -EOWNERDEAD and EVERING_BEGUN, unless it has
 *	EVERING_REISSUE; one that gives a buffer back to the peer with -EOWNERDEAD, and the
 *	buffer is gone, as is a post that does.  evering_op_call() and _callv() end with
 *	-EPIPE, unless evering_ops_follow() was called.  As many may be in flight as before:
 *	a successor whose table serves fewer ends the channel with -EPROTO, and so does one
 *	that stores no posts and messages if there are any for it.  Copies of what is sent again are allocated
 * @depth: the most operations in the table, 0..three quarters of the ring;
 *	EVERING_OPS_DEFAULT: half of it
 * @serve: the most requests of the peer's to hold unanswered, likewise
 * @request: called with each; NULL: they wait for evering_op_next()
 * @cancelled: called when the peer tells that it cancelled one; may be NULL
 * @context: for all of them
 * @store: the most posts and messages of the peer's to store, 0..the entries of the
 *	ring; EVERING_OPS_DEFAULT: half of them
 * @reserved: 0
 * @message: called with each message; NULL: they wait for evering_msg_recv()
 *
 * In flight are at most the lesser of @depth here and @serve at the peer.
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
 * struct evering_ops_info - how a table stands
 * @depth: most operations that may be in flight, as both sides agreed; 0: the peer
 *	has not opened its table yet
 * @serve: most requests of the peer's
 * @in_flight: operations without an outcome, prepared ones included
 * @abandoned: operations with an outcome, whose resources the peer may still use
 * @done: outcomes that nobody has taken yet
 * @held: requests that are not answered yet
 * @homebound: buffers of the peer's that were freed and are not on their way yet
 * @max_data: bytes of data that an entry takes without a buffer
 * @store: posts and messages of the peer's that this side stores
 * @credit: posts and messages that can be sent now, as far as is known
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
 * @ev: endpoint, whose slots are at least EVERING_OPS_MIN_SLOT, and over which
 *	nothing is under way
 * @params: NULL: EVERING_OPS_PARAMS_INIT
 * @ops: out: the table, for evering_ops_close()
 *
 * Tells the peer, and does not wait for it: operations can be prepared and submitted
 * as soon as the peer has opened its own.
 *
 * Context: The thread that has both roles.
 * Return: 0; -EINVAL: @params, or slots too small; -EBUSY: the endpoint has one;
 * -EAGAIN: the ring has no room; -ENOMEM.
 */
EVERING_API int evering_ops_open(struct evering *ev,
				 const struct evering_ops_params *params,
				 struct evering_ops **ops);

/**
 * evering_ops_close - end a table
 * @ops: table, or NULL
 *
 * Operations without an outcome end with -ECANCELED, by their callbacks if they have
 * one.  Buffers that the peer may still use stay locked until evering_close(), which
 * is all that is of use after this; it also closes a table that is open.
 */
EVERING_API void evering_ops_close(struct evering_ops *ops);

/**
 * evering_ops_endpoint - the endpoint beside which a table is
 * @ops: table
 *
 * For callbacks, which are given the table: to allocate and free, and to ask who the
 * peer is.
 *
 * Context: Any thread.
 * Return: the endpoint, which stays its opener's.
 */
static inline struct evering *
evering_ops_endpoint(const struct evering_ops *ops);

/**
 * evering_ops_poll - do what there is to do
 * @ops: table
 *
 * Takes what has arrived, calls callbacks, ends what took too long, sends home what
 * was freed and wakes a peer that sleeps.  Does not wait.
 *
 * Return: how much was done, 0 being nothing; -EPIPE: the peer is gone, everything has
 * its outcome, unless the table has EVERING_REPLACEABLE, and nothing more will come;
 * -EPROTO: the peer broke the rules, and the channel has ended likewise;
 * -EPROTONOSUPPORT: it speaks another version.
 */
EVERING_API int evering_ops_poll(struct evering_ops *ops);

/**
 * evering_ops_wait - wait until there was something to do, and do it
 * @ops: table
 * @timeout_ns: how long, at the most
 *
 * Waits as the endpoint's policy says.
 *
 * Return: as evering_ops_poll(), but at least 1; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT:
 * nothing in time; -EINTR; -EINVAL: @timeout_ns.
 */
EVERING_API int evering_ops_wait(struct evering_ops *ops, int64_t timeout_ns);

/**
 * evering_ops_flush - wake the peer, and send home what was freed
 * @ops: table
 *
 * For who goes on with something else for long.  A full fence and a load, and now
 * and then a system call.
 */
EVERING_API void evering_ops_flush(struct evering_ops *ops);

/**
 * evering_ops_arm - before a sleep in an event loop
 * @ops: table
 * @events: out: what to poll evering_fd() of the endpoint for
 *
 *	while ((n = evering_ops_poll(ops)) > 0 ||
 *	       (n == 0 && (n = evering_ops_arm(ops, &events)) > 0))
 *		;
 *
 * Then, unless @n is an error, sleep, for evering_ops_timeout() at the most.
 * Includes evering_ops_flush().
 *
 * If an operation was refused for want of room in the ring, room is told of, too.
 *
 * Return: 0: the descriptor will tell; 1: there is something to do already, or room, or
 * requests or messages wait that the caller is to take: it is told so as long as any do
 * if it has ever called evering_op_next() or evering_msg_recv(), else once of each; or
 * a negative errno as evering_ops_poll(); -EBUSY: the endpoint is a member of a group.
 */
EVERING_API int evering_ops_arm(struct evering_ops *ops, short *events);

/**
 * evering_ops_timeout - when does the next operation run out of time
 * @ops: table
 *
 * Return: nanoseconds from now, 0 if it has; EVERING_WAIT_FOREVER: none can.
 */
EVERING_API int64_t evering_ops_timeout(const struct evering_ops *ops);

/**
 * evering_ops_follow - go on with the successor of a peer that goes
 * @ops: table with EVERING_REPLACEABLE
 * @path: where the successor will listen, as for evering_connect(); NULL: do not
 * @patience_ns: how long one call waits for it, at the most: EVERING_WAIT_FOREVER, or
 *	nanoseconds, not 0
 *
 * From now on a function of this table that waits, with a @timeout_ns other than
 * EVERING_NOWAIT, does not return -EPIPE when the peer goes, but meets the successor, as
 * evering_replace() does, and waits on.  So whoever asks and waits need not know that a
 * server dies or is upgraded, but for what its operations end with.  What evering_replace()
 * says of other threads, and of the descriptor of evering_fd(), holds for each such wait.
 *
 * It ends with -EPIPE if none has come in @patience_ns since the peer went, or since the wait
 * began: the next one that waits goes on.  So it does, at once, in a callback, and if the
 * table still has something of the dead peer's that is to be finished with before.  A signal
 * ends it with -EINTR, and so does evering_wake(), within a second; else it ends with what
 * evering_replace() says, such as -EACCES for a successor of another user.
 * evering_ops_poll() returns -EPIPE as without this.
 *
 * Context: The thread of the table.
 * Return: 0; -EOPNOTSUPP: without EVERING_REPLACEABLE; -EINVAL: @path is empty, or
 * @patience_ns; -ENAMETOOLONG: @path.
 */
EVERING_API int evering_ops_follow(struct evering_ops *ops, const char *path,
				   int64_t patience_ns);

/**
 * evering_ops_get_info - how does the table stand
 * @ops: table
 * @info: out
 */
EVERING_API void evering_ops_get_info(const struct evering_ops *ops,
				      struct evering_ops_info *info);

/* ------------------------------------------------------------------- asking */

/**
 * evering_op_submit - ask the peer for something
 * @ops: table
 * @op: what; nothing of it is needed afterwards but the buffer
 * @id: out: the operation, until its outcome was taken; never 0; may be NULL
 * @timeout_ns: how long to wait until it can be sent; EVERING_NOWAIT to try.  The
 *	operation's own time begins when it is.
 *
 * Return: 0: it is under way, and will have an outcome; else nothing has happened:
 * -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: as many as may be are in flight, or the peer
 * has not opened its table; -EINVAL: @op is invalid, or its buffer is none; -EMSGSIZE:
 * too much data; -EBUSY: its buffer is lent; -ESTALE: its buffer was given away;
 * -EPIPE, -EPROTO, -EPROTONOSUPPORT: the channel has ended; -EINTR; -EDEADLK: too many
 * callbacks wait in each other.  To try takes nothing that has arrived.
 */
static inline int evering_op_submit(struct evering_ops *ops,
				    const struct evering_op *op, uint64_t *id,
				    int64_t timeout_ns);

/**
 * evering_op_submit_data - ask the peer for something that fits an entry
 * @ops: table
 * @opcode: what to do; means nothing to the library
 * @data: to go in the entry; copied
 * @len: its bytes, 0..evering_ops_info.max_data
 * @done: called with the outcome; not NULL
 * @user: given back in the completion
 * @timeout_ns: how long to wait until it can be sent; EVERING_NOWAIT to try
 *
 * evering_op_submit() for the commonest of operations, with nothing of it in memory.
 *
 * Return: as evering_op_submit(); -EINVAL: @done is NULL.
 */
static inline int evering_op_submit_data(struct evering_ops *ops,
					 uint32_t opcode, const void *data,
					 uint32_t len, evering_done_fn done,
					 void *user, int64_t timeout_ns);

/**
 * evering_op_prepare - make an operation without sending it
 * @ops: table
 * @op: as for evering_op_submit(); its buffer is lent or given from now on, and
 *	comes back if it is cancelled
 * @id: out: the operation
 *
 * Return: 0; or as evering_op_submit(), -EAGAIN meaning a full table, or that the peer
 * has not opened its own.
 */
EVERING_API int evering_op_prepare(struct evering_ops *ops,
				   const struct evering_op *op, uint64_t *id);

/**
 * evering_op_start - send an operation that was prepared
 * @ops: table
 * @id: from evering_op_prepare()
 * @timeout_ns: as for evering_op_submit()
 *
 * Return: 0: it is under way; else it stays prepared: -ENOENT: no such operation;
 * -EALREADY: it is not in that state; or as evering_op_submit().
 */
EVERING_API int evering_op_start(struct evering_ops *ops, uint64_t id,
				 int64_t timeout_ns);

/**
 * evering_op_cancel - lose interest in an operation
 * @ops: table
 * @id: from evering_op_submit() or evering_op_prepare()
 * @flags: EVERING_CANCEL_TELL: let the peer know, who may then answer early, or
 *	not.  EVERING_CANCEL_DETACH: do not wait for the answer.
 *
 * One that is only prepared is gone at once, without an outcome, and its buffer is
 * the caller's as before.
 *
 * One in flight ends with -ECANCELED when the answer comes, whatever that says; what
 * the answer carries is dropped, and the buffer that was lent is the caller's again.  If
 * its time runs out before, it ends with -ETIMEDOUT, as it would have without this.
 * With EVERING_CANCEL_DETACH its outcome is -ECANCELED at once (the callback is
 * called from here), and the buffer that was lent is no longer the caller's, which
 * EVERING_ABANDONED says: it is freed when the answer comes, or the peer goes.  One that was cancelled without can still be
 * detached.
 *
 * Return: 0; -EALREADY: it has its outcome, or was cancelled before; -ENOENT: there
 * never was such an operation; -EINVAL: @flags.
 */
EVERING_API int evering_op_cancel(struct evering_ops *ops, uint64_t id,
				  unsigned int flags);

/**
 * evering_op_done - has an operation ended, and how
 * @ops: table
 * @id: an operation without a callback
 * @completion: out: how
 *
 * Looks at what is in the table only; evering_ops_poll() brings it up to date.
 *
 * Return: 0: it has, and is forgotten with that; -EAGAIN: not yet; -ENOENT: no such
 * operation, or its outcome was taken before.
 */
EVERING_API int evering_op_done(struct evering_ops *ops, uint64_t id,
				struct evering_completion *completion);

/**
 * evering_op_wait - wait for an operation
 * @ops: table
 * @id: an operation without a callback
 * @completion: out: how it ended, be it with -EPIPE
 * @timeout_ns: how long; the operation goes on if that was not enough
 *
 * What else arrives meanwhile is done as by evering_ops_poll().
 *
 * Return: 0: it has ended, and is forgotten; -ENOENT; -EAGAIN (EVERING_NOWAIT),
 * -ETIMEDOUT: not yet; -EINTR; -EINVAL: @timeout_ns.
 */
EVERING_API int evering_op_wait(struct evering_ops *ops, uint64_t id,
				struct evering_completion *completion,
				int64_t timeout_ns);

/**
 * evering_op_wait_any - wait for whichever operation ends first
 * @ops: table
 * @completion: out: how it ended; the oldest outcome first
 * @timeout_ns: how long
 *
 * Of those without a callback.
 *
 * Return: 0; -ENOENT: there is none; or as evering_op_wait().
 */
EVERING_API int evering_op_wait_any(struct evering_ops *ops,
				    struct evering_completion *completion,
				    int64_t timeout_ns);

/**
 * evering_op_wait_all - wait until no operation is without an outcome
 * @ops: table
 * @timeout_ns: how long
 *
 * Outcomes of those without a callback are then still to be taken.
 *
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: not yet; -EINTR; -EINVAL:
 * @timeout_ns.  Prepared operations do not count.
 */
EVERING_API int evering_op_wait_all(struct evering_ops *ops,
				    int64_t timeout_ns);

/**
 * evering_op_call - submit an operation and wait for it
 * @ops: table
 * @op: what; its @done is not used
 * @completion: out: how it ended
 * @timeout_ns: for both
 *
 * If no answer comes in time, or a signal does, the operation is abandoned as by
 * EVERING_CANCEL_DETACH | EVERING_CANCEL_TELL, and that is its outcome.
 *
 * Return: 0: @completion says how it ended, be it with -ETIMEDOUT, -EINTR or -EPIPE;
 * else as evering_op_submit(), and then it was never sent.
 */
EVERING_API int evering_op_call(struct evering_ops *ops,
				const struct evering_op *op,
				struct evering_completion *completion,
				int64_t timeout_ns);

/**
 * evering_op_callv - ask the peer something of any length, and wait for the answer
 * @ops: table
 * @opcode: what to do; means nothing to the library
 * @in: what to ask; copied
 * @in_count: elements of @in, 0..1024
 * @out: where to copy the answer
 * @out_count: elements of @out, 0..1024
 * @completion: out: how it ended.  @completion->buf_len is the length of the answer,
 *	@completion->data and @completion->buf are NULL
 * @timeout_ns: for all of it
 *
 * What fits travels in the entry; more goes in one buffer that is lent to the peer, for
 * which it waits if the arena has no room.  evering_op_answerv() is its counterpart.
 *
 * Return: as evering_op_call(); -EMSGSIZE: @in is longer than the arena, and nothing
 * was sent; or the answer is longer than @out, which has its first bytes, and
 * EVERING_ANSWERED is among @completion->flags; -EINVAL: a count, the lengths overflow,
 * or @timeout_ns; -ENOMEM: as evering_msg_send().
 */
EVERING_API int evering_op_callv(struct evering_ops *ops, uint32_t opcode,
				 const struct iovec *in, int in_count,
				 const struct iovec *out, int out_count,
				 struct evering_completion *completion,
				 int64_t timeout_ns);

/**
 * evering_op_post - send a request that gets no answer
 * @ops: table
 * @op: what: @opcode, @flags, @data, @len, @buf and @buf_len as for
 *	evering_op_submit(), but that EVERING_LEND and EVERING_REISSUE are refused; the
 *	rest is 0
 * @timeout_ns: how long to wait until it can be sent; EVERING_NOWAIT to try
 *
 * It comes to the peer as a request with EVERING_POST.  Nobody is told whether the peer
 * has taken it.
 *
 * Return: 0: it is on its way; else nothing has happened: -EAGAIN (EVERING_NOWAIT),
 * -ETIMEDOUT: the peer stores no more of them, the ring has no room, or the peer has
 * not opened its table; -EINVAL: @op is invalid, or its buffer is none; and the rest of
 * evering_op_submit()'s.
 */
EVERING_API int evering_op_post(struct evering_ops *ops,
				const struct evering_op *op,
				int64_t timeout_ns);

/* ------------------------------------------------------------------ messages */

/**
 * evering_msg_send - send a message of any length
 * @ops: table
 * @iov: its pieces, in order; copied
 * @count: how many, 0..1024
 * @timeout_ns: how long to wait until the peer can store it, and the ring and the arena
 *	have room for it; EVERING_NOWAIT to try
 *
 * What else arrives meanwhile is done as by evering_ops_poll(); to try takes nothing that
 * has arrived, credit neither, so a caller that only tries has to poll.  A message that is
 * longer than evering_ops_info.max_data takes one buffer of the own arena, which comes
 * home when the receiver frees the message.  A success says that it is on its way, not
 * that the peer has received it.
 *
 * Return: 0; else nothing was sent: -EMSGSIZE: it is longer than the own arena; -EAGAIN
 * (EVERING_NOWAIT), -ETIMEDOUT: no room, or the peer has not opened its table; -ENOMEM:
 * the arena gets no more memory, and no buffer of it can come home; -EINTR; -EINVAL:
 * @count, a piece at NULL, lengths that overflow, or @timeout_ns; -EPIPE, -EPROTO,
 * -EPROTONOSUPPORT: the channel has ended; -EDEADLK: too many callbacks wait in each
 * other.
 */
static inline int evering_msg_send(struct evering_ops *ops,
				   const struct iovec *iov, int count,
				   int64_t timeout_ns);

/**
 * evering_msg_recv - receive a message
 * @ops: table, without a callback for messages
 * @msg: out: the message, for evering_msg_free()
 * @timeout_ns: how long to wait for it; EVERING_NOWAIT to try
 *
 * What else arrives meanwhile is done as by evering_ops_poll().  Messages that were sent
 * before the peer went can still be received.
 *
 * Return: 0; -EAGAIN (EVERING_NOWAIT), -ETIMEDOUT: none has come; -EPIPE: none, and the
 * peer is gone; -EPROTO, -EPROTONOSUPPORT: none, and the peer broke the rules; -EINTR;
 * -EINVAL: the table has a callback for them, or @timeout_ns; -EDEADLK: too many
 * callbacks wait in each other.
 */
static inline int evering_msg_recv(struct evering_ops *ops,
				   struct evering_msg *msg, int64_t timeout_ns);

/**
 * evering_msg_free - finish with a message
 * @ops: table
 * @msg: from evering_msg_recv(), or of evering_message_fn; its @data is not to be looked
 *	at any more
 *
 * Messages may be freed in any order.  The peer, which can then send another one, is told
 * when this side has finished with a quarter of what it stores, and before it sleeps.
 *
 * Return: 0; -EINVAL: it is none, or was freed before.
 */
static inline int evering_msg_free(struct evering_ops *ops,
				   const struct evering_msg *msg);

/* ---------------------------------------------------------------- answering */

/**
 * evering_op_next - the next request, for tables without a callback for them
 * @ops: table
 * @request: out: what to do
 * @timeout_ns: how long to wait for it
 *
 * What else arrives meanwhile is done as by evering_ops_poll().
 *
 * Return: 0; or as evering_ops_wait().
 */
EVERING_API int evering_op_next(struct evering_ops *ops,
				struct evering_request *request,
				int64_t timeout_ns);

/**
 * evering_op_answer - answer a request
 * @ops: table
 * @id: of the request, which ends with this
 * @result: means nothing to the library
 * @data: to go with it; copied
 * @len: its bytes, 0..evering_ops_info.max_data
 *
 * In any order, at any time.  Never waits.
 *
 * Return: 0; -ESTALE: answered before, or never asked; -EMSGSIZE: too much data;
 * -EINVAL: @len bytes at NULL; -EAGAIN: no room, which a peer that keeps the rules does
 * not let happen: nothing was sent, try later; -EPIPE, -EPROTO, -EPROTONOSUPPORT: the
 * channel has ended, and the request with it.
 */
static inline int evering_op_answer(struct evering_ops *ops, uint64_t id,
				    int32_t result, const void *data,
				    uint32_t len);

/**
 * evering_op_answer_buffer - answer a request with a buffer
 * @ops: table
 * @id: of the request, which ends with this
 * @result: means nothing to the library
 * @buf: the start of one from evering_alloc(), or evering_op_answer_alloc(), which is
 *	given to the peer; of one that the peer has given, which goes back; or of
 *	the one that it lent with this request, in which the answer has been written
 * @buf_len: its bytes that the peer is to see, 1..those there are
 *
 * Return: as evering_op_answer(); also -EINVAL: @buf is none of these, or shorter;
 * -EBUSY: it is lent; -ESTALE: it was given away.  On error @buf is as before.
 */
EVERING_API int evering_op_answer_buffer(struct evering_ops *ops, uint64_t id,
					 int32_t result, void *buf,
					 uint64_t buf_len);

/**
 * evering_op_answer_alloc - where to write the answer to a request
 * @ops: table
 * @id: of the request
 * @size: bytes
 *
 * The buffer that came lent with the request, if it may be written and is large
 * enough; else one from evering_alloc().  For evering_op_answer_buffer(), or, if
 * that is not to be, for evering_free(), which leaves one that was lent alone.
 *
 * Return: where; NULL: no such request, or no room.
 */
EVERING_API void *evering_op_answer_alloc(struct evering_ops *ops, uint64_t id,
					  uint64_t size);

/**
 * evering_op_answerv - answer a request with something of any length
 * @ops: table
 * @id: of the request, which ends with this
 * @result: means nothing to the library
 * @iov: the pieces of the answer, in order; copied
 * @count: how many, 0..1024
 * @timeout_ns: how long to wait until the arena has room for it, if it does not fit an
 *	entry; EVERING_NOWAIT to try
 *
 * Return: as evering_op_answer(); -EMSGSIZE: it is longer than the own arena, and than
 * a lent buffer that may be written; -ENOMEM: as evering_msg_send(); -EAGAIN,
 * -ETIMEDOUT: no room, and the request is still to be answered; -EINTR, -EDEADLK: as
 * evering_ops_wait(); -EINVAL: @count, a piece at NULL, lengths that overflow, or
 * @timeout_ns.
 */
EVERING_API int evering_op_answerv(struct evering_ops *ops, uint64_t id,
				   int32_t result, const struct iovec *iov,
				   int count, int64_t timeout_ns);

/**
 * evering_request_bytes - what a request brings, wherever that is
 * @request: from evering_op_callv(), or any that has data or a buffer, but not both
 * @len: out: how many bytes
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
 * evering_op_cancelled - has the peer told that it does not need the answer
 * @ops: table
 * @id: of a request
 *
 * Return: 1; 0; -ESTALE: answered before, or never asked.
 */
EVERING_API int evering_op_cancelled(const struct evering_ops *ops,
				     uint64_t id);

/* ------------------------------------------------------------ the fast path */

/*
 * Private, and in this header so that the fast path can be inlined; do not access
 * the members.  What is plain, that is, has a callback and no buffer, no timeout and no
 * @ext, goes through here; whatever is not is the library's.
 */

/**
 * struct evering__place - a place in the table
 * @c: of its operation: id, user and ext from submission on, the rest when it ends.
 *	While nothing is there @c.id is the last one's, and @c.flags and @c.ext what an
 *	answer wants them to be.
 * @expect: c.id while a plain operation is in flight, else 0, which is no id
 * @done: its callback
 * @next: the next free place; or, with @prev, the neighbours among those done
 * @state: OP_*, unless it is plain; 0: free or plain
 * @granule, @generation, @buf, @buf_len: of its buffer
 * @heap: where in the heap it is
 * @deadline: when it is abandoned; while it is prepared, how long it may take
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
 * struct evering__held - a request of the peer's
 * @r: as the user sees it
 * @plain: r.id while it is held and plain; 0: free; else what is no id of this index
 * @state: HELD_*, unless it is plain
 * @next: the next one for evering_op_next()
 */
struct evering__held {
	struct evering_request r;
	uint64_t plain;
	uint32_t state;
	uint32_t next;
} __attribute__((aligned(64)));

/**
 * struct evering__stored - a post or message of the peer's, until it is finished with
 * @data: where its data is copied to
 * @buf, @buf_len: the buffer that came with it, or NULL
 * @vacant: the next one that is free
 * @next: the next one that waits, by index
 * @name: its index, and above it how often it was used
 * @plain: @name of a message in the user's hands, without a buffer; else 0
 * @state: STORED_*, unless it is plain
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

/* The index in a name. */
#define EVERING__STORED_BITS 17u

/**
 * struct evering_ops - the part of a table that the fast path uses
 * @ev: its endpoint
 * @free: places to submit at; NULL: there is none
 * @places, @place_mask: by index, of which 0 is no operation's
 * @held, @held_mask: as @places
 * @in_flight: operations without an outcome, prepared ones included
 * @holding: requests that are not answered yet
 * @reserve: slots that a request leaves free; 2^30: not the fast path's
 * @answer_limit: bytes of data that an answer has fewer of than this; 0: not the fast
 *	path's
 * @max_data: bytes of data in an entry without a buffer
 * @flushed: entry number up to which a sleeping peer has been woken
 * @stored: posts and messages of the peer's, by index, of which 0 is none's
 * @vacant: places that are free, and were used before; NULL: there is none
 * @message_limit: bytes that a message has fewer of than this; 0: not the fast path's
 * @credit: posts and messages that the peer has room for
 * @received: posts and messages of the peer's, modulo 2^32
 * @tell_in: how many of them this side has still to finish with until it tells the peer
 * @stored_mask: of indices, of which 0 is no place's
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

/* Entry @n, of @type, for which there is room: two words, then the data. */
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
 * Copies the data of an entry to where there is room for all that an entry can
 * have.  Most have no more than fits the smallest slot.
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

/* As evering_op_submit() of what is plain, and true, if it need not wait. */
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
	/* So that only who comes here has to have it in memory. */
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

/* What fits an entry, and for which everybody has room. */
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
 * One that lies in the next entry, without a buffer or anything that goes home, while
 * none waits that came before it.  Each word is read once, and no more than a slot is
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
