// SPDX-License-Identifier: MIT
/*
 * ownership.c: who owns which buffer and which operation.
 *
 * In one process, both sides of a channel do random things, legal ones and misuse,
 * and a model predicts what each call returns, what each callback is told and what
 * each entry on the wire says.  It knows every buffer and every operation, and at
 * the end of each episode all of them have to be accounted for.
 *
 * In two processes, both sides do random things until one is killed.  The survivor
 * knows less, but has one outcome for each of its operations, has all its buffers
 * back and can still read what it was given.
 *
 * A failure prints the seed of its episode, with which EVERING_SEED repeats it at
 * once if it was one process, and what was done last.
 */
#include "common.h"

#include <setjmp.h>

#define GRANULE		64u
#define MAX_ARENA	(1u << 20)
#define MAX_GRANULES	(MAX_ARENA / GRANULE)
#define MAX_ENTRIES	256u
#define MAX_PLACES (MAX_ENTRIES / 4 * 3 + 1 + EVERING_OP_SPARE)
#define MAX_BUFS	192
#define MAX_NESTING	3
#define TRACED		50

#define HOUR		(3600 * SEC)
#define CHILD_FAILED	3

/* What a buffer takes of the data of an entry */
#define BUFFER_TAIL	((uint32_t)sizeof(struct evering_op_buffer))

/* ----------------------------------------------------------------- contents */

/*
 * What lies in the bytes of a buffer or an entry follows from a serial number.  Of
 * what is long, the beginning and some of the rest is written and looked at, always
 * at the same places, so that any first part can be checked.
 */
static size_t next_place(size_t i)
{
	return i < 128 ? i + 8 : (i / 1024 + 1) * 1024;
}

static uint64_t word_at(uint32_t serial, size_t i)
{
	return (serial + 1ull) * 0x9e3779b97f4a7c15ull ^
	       (i + 1) * 0xc2b2ae3d27d4eb4full;
}

static void fill(void *p, size_t len, uint32_t serial)
{
	unsigned char *to = p;
	uint64_t word;
	size_t i;

	for (i = 0; i < len; i = next_place(i)) {
		word = word_at(serial, i);
		memcpy(to + i, &word, len - i < 8 ? len - i : 8);
	}
}

static bool holds(const void *p, size_t len, uint32_t serial)
{
	const unsigned char *from = p;
	uint64_t word;
	size_t i;

	for (i = 0; i < len; i = next_place(i)) {
		word = word_at(serial, i);
		if (memcmp(from + i, &word, len - i < 8 ? len - i : 8))
			return false;
	}
	return true;
}

/* Half of the operations have none, and so may go the fast way. */
static uint64_t ext_of(uint64_t user)
{
	return user & 1 ? ~user : 0;
}

static size_t some_size(uint64_t *rng, size_t arena)
{
	switch (random_below(rng, 32)) {
	case 0:
		return arena;
	case 1:
		return 1 + random_below(rng, arena + 1);
	case 2 ... 5:
		return 1 + random_below(rng, 16384);
	case 6 ... 17:
		return 1 + random_below(rng, 1000);
	default:
		return 1 + random_below(rng, 128);
	}
}

/* ---------------------------------------------------------------- the model */

/* Where a buffer is. */
enum place {
	OWN,		/* its owner's */
	LENT,		/* in an operation, prepared or not yet answered */
	GIVING,		/* in a prepared operation, to be given */
	FLIGHT,		/* given, in the ring */
	THEIRS,		/* given, and there */
	RETURNING,	/* in a prepared operation of the peer's, to be given back */
	BACK,		/* given back, in the ring */
	HOMEBOUND,	/* freed by the peer */
	HOMING,		/* freed by the peer, in the ring */
};

/**
 * struct buf - a buffer
 * @live: there is one here
 * @hidden: whose it is has not been told yet
 * @borrowed: lent, and the peer has the request
 * @place: enum place
 * @good: bytes that hold @serial
 * @known: bytes that the peer was told of
 * @named, @generation: what it is called on the wire
 */
struct buf {
	bool live, hidden, borrowed, named;
	uint8_t place;
	uint32_t granule, size, serial, good, known, generation;
};

/* What goes with a request or an answer. */
enum kind {
	NOTHING,
	LEND,
	GIVE,
	RETURN,
	IN_PLACE
};

/**
 * struct op - an operation, or one to be
 * @live: its place in the table is taken
 * @sent: its answer has not come
 * @open: it has no outcome
 * @done: its outcome is to be taken
 * @asked: cancelled, and not detached
 * @tells, @told, @must_tell: how many cancels there may be on the wire, whether there
 *	was one, and whether there has to be one
 * @order: when it was sent, or when it had its outcome
 * @lent: its buffer, or -1
 * @result, @out_len, @out_serial, @out_buf, @out_buf_len: its outcome
 */
struct op {
	bool live, prepared, sent, open, done, asked, cb, tiny, huge;
	uint8_t kind;
	uint64_t id;
	uint32_t tells;
	bool told, must_tell;
	uint64_t order;
	uintptr_t user;
	uint32_t opcode, len, serial;
	int lent;
	const void *buf;
	uint64_t buf_len;

	int32_t result;
	uint32_t out_len, out_serial;
	void *out_buf;
	uint64_t out_buf_len;
};

/**
 * struct held - a request that is to be answered
 * @seen: the caller knows of it
 * @buf, @owner: what came with it
 */
struct held {
	bool live, seen, cancelled;
	uint8_t kind;
	uint64_t id;
	uint32_t opcode, len, serial;
	const void *data;
	struct buf *buf;
	int owner;
	uint64_t buf_len;
};

/**
 * struct entry - one in the ring, as far as the receiver has to know
 */
struct entry {
	uint8_t type, kind, homes;
	uint32_t code, len, serial, granule;
	uint64_t id, buf_len;
	uint32_t home[EVERING_OP_MAX_HOME];
};

/* Of whom a callback is due. */
enum call {
	NO_CALL,
	DONE_CALL,
	REQUEST_CALL,
	CANCELLED_CALL
};

/**
 * struct answering - the answer that is being sent
 */
struct answering {
	struct held *held;
	uint8_t kind;
	int32_t result;
	uint32_t len, serial;
	const void *buf;
	uint64_t buf_len;
};

/**
 * struct side - one of the two endpoints
 * @scanned, @arrived: entries of the peer's that were seen in the ring, and that
 *	the library has taken
 * @level: calls into the library, one in the other
 * @count: what the innermost of them has done
 * @limit: what was sent from then on, it does not expire: it has read the clock
 * @polls: how often it has looked at everything
 * @pending: the operation that is to be sent
 * @calling: an evering_op_call() is between its request and its end
 * @detaching: the operation whose outcome a cancel brings
 * @gone: the peer has left, and the endpoint knows
 * @ending, @end_level, @end_next: it is just telling everybody
 */
struct side {
	int me;
	struct evering *ev;
	struct evering_ops *ops;
	struct evering_ops_params params;
	unsigned char *base, *peer_base;
	size_t arena;

	struct buf bufs[MAX_BUFS];
	uint16_t at[MAX_GRANULES];
	uint32_t name[MAX_GRANULES];
	unsigned int live, homebound;
	void *old[16];

	struct op op[MAX_PLACES];
	uint64_t old_id[16], newest[MAX_PLACES];
	uint32_t untold, in_flight, abandoned, done, prepared, used, tinies,
		huges;

	struct held held[MAX_PLACES];
	uint32_t inbox[MAX_PLACES], inbox_first, inbox_count, holding;
	uint32_t inbox_told; /* how many there were at the last evering_ops_arm() */
	bool takes;	     /* has called evering_op_next() */
	uint64_t old_held[16];

	struct entry ring[MAX_ENTRIES];
	uint32_t scanned, arrived;
	bool opened, gone, ended, ending, closing;
	uint32_t depth, serve, end_next;

	int level, end_level;
	uint32_t count;
	uint64_t limit, polls;
	struct op *pending, *last_sent, *detaching;
	struct op due;
	struct held *due_held;
	struct answering *answering;
	bool calling, arming, refused;
	uint32_t called;
};

struct trace {
	uint64_t number, step;
	int side, nesting;
	const char *what;
	long arg[3];
	bool returned;
	long ret;
};

static struct world {
	uint64_t seed, rng, step, order, traced, acts;
	uint32_t serial, mask, payload, max_data;
	bool shared, calm, child;
	int nesting, mood;
	jmp_buf escape;
	struct trace trace[TRACED];
	struct side side[2];
} w;

static void print_trace(void)
{
	uint64_t n = w.traced > TRACED ? w.traced - TRACED : 0;
	const struct trace *t;

	for (; n < w.traced; n++) {
		t = &w.trace[n % TRACED];
		printf("# %6llu %c %*s%s(%#lx, %#lx, %#lx)",
		       (unsigned long long)t->step, 'A' + t->side,
		       2 * t->nesting, "", t->what, t->arg[0], t->arg[1],
		       t->arg[2]);
		if (t->returned)
			printf(" = %ld", t->ret);
		printf("\n");
	}
}

static __attribute__((noreturn, format(printf, 3, 4))) void
fail(int line, const char *what, const char *format, ...)
{
	va_list args;

	print_trace();
	printf("# line %d: %s", line, what);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n# EVERING_SEED=%#llx at step %llu\n",
	       (unsigned long long)w.seed, (unsigned long long)w.step);
	fflush(stdout);
	if (w.child)
		_exit(CHILD_FAILED);
	longjmp(w.escape, 1);
}

/* MUST(condition, ": format", values) */
#define MUST(condition, ...)                                                   \
	do {                                                                   \
		if (!(condition))                                              \
			fail(__LINE__, #condition, " " __VA_ARGS__);            \
	} while (0)

#define MUST_BE(value, expected)                                               \
	do {                                                                   \
		long long is_ = (long long)(value);                            \
		long long be_ = (long long)(expected);                         \
                                                                               \
		if (is_ != be_)                                                \
			fail(__LINE__, #value, " is %lld, not %lld", is_,      \
			     be_);                                             \
	} while (0)

static uint64_t below(uint64_t n)
{
	return random_below(&w.rng, n);
}

static bool one_in(uint64_t n)
{
	return below(n) == 0;
}

/* What is about to be done; returned() says how that ended. */
static uint64_t doing(const struct side *s, const char *what, uint64_t a,
		      uint64_t b, uint64_t c)
{
	w.trace[w.traced % TRACED] = (struct trace){
		.number = w.traced,
		.step = w.step,
		.side = s->me,
		.nesting = w.nesting,
		.what = what,
		.arg = { (long)a, (long)b, (long)c },
	};
	return w.traced++;
}

static void returned(uint64_t number, long ret)
{
	struct trace *t = &w.trace[number % TRACED];

	if (t->number != number)
		return;
	t->returned = true;
	t->ret = ret;
}

static struct side *other(const struct side *s)
{
	return &w.side[!s->me];
}

static uint32_t index_of(uint64_t id)
{
	return (uint32_t)id & ((1u << EVERING_OP_INDEX_BITS) - 1);
}

static struct side *side_of(const struct evering_ops *ops)
{
	return ops == w.side[0].ops ? &w.side[0] : &w.side[1];
}

/* ------------------------------------------------------------------- buffers */

static struct buf *buf_at(struct side *owner, uint32_t granule)
{
	struct buf *b;

	if (granule >= owner->arena / GRANULE || !owner->at[granule])
		return NULL;
	b = &owner->bufs[owner->at[granule] - 1];
	return b->granule == granule ? b : NULL;
}

/* Where @s sees it. */
static void *address(const struct side *s, int owner, uint32_t granule)
{
	return (owner == s->me ? s->base : s->peer_base) +
	       (size_t)granule * GRANULE;
}

static void *address_of(const struct side *s, int owner, const struct buf *b)
{
	return address(s, owner, b->granule);
}

/* The buffer that begins at @p, as @s sees it. */
static struct buf *buf_by_address(const struct side *s, const void *p,
				  int *owner)
{
	const unsigned char *base;
	uintptr_t offset;
	int i;

	for (i = 0; i < 2; i++) {
		base = i == s->me ? s->base : s->peer_base;
		offset = (uintptr_t)p - (uintptr_t)base;
		*owner = i;
		if (base && offset < w.side[i].arena)
			return offset % GRANULE ?
				       NULL :
				       buf_at(&w.side[i],
					      (uint32_t)(offset / GRANULE));
	}
	*owner = -1;
	return NULL;
}

static uint32_t granules(size_t size)
{
	return (uint32_t)((size + GRANULE - 1) / GRANULE);
}

/* The allocator may say no only if this does: a class of sizes is 1/32 wide. */
static bool surely_room(const struct side *s, size_t size, size_t align)
{
	uint64_t need =
		granules(size) + (align > GRANULE ? align / GRANULE - 1 : 0);
	uint32_t g, run = 0, longest = 0;

	if (need >= 32)
		need += (1u << (63 - __builtin_clzll(need) - 5)) - 1;
	for (g = 0; g < s->arena / GRANULE; g++) {
		run = s->at[g] ? 0 : run + 1;
		if (run > longest)
			longest = run;
	}
	return longest >= need;
}

/* The library says that @p is a new buffer: it must not be anybody's. */
static struct buf *adopt(struct side *s, unsigned char *p, size_t size,
			 size_t align)
{
	uint32_t granule, n = granules(size), g, i;
	uint64_t offset;
	struct buf *b;

	if (!p) {
		MUST(!size || size > s->arena || !surely_room(s, size, align));
		return NULL;
	}
	offset = (uint64_t)(p - s->base);
	MUST(size && size <= s->arena && offset <= s->arena - size);
	MUST_BE(offset % (align > GRANULE ? align : GRANULE), 0);
	granule = (uint32_t)(offset / GRANULE);
	for (i = 0; s->bufs[i].live; i++)
		MUST(i + 1 < MAX_BUFS);
	for (g = granule; g < granule + n; g++) {
		MUST(!s->at[g], ": %#x overlaps %#x in place %d", granule,
		     s->bufs[s->at[g] - 1].granule,
		     s->bufs[s->at[g] - 1].place);
		s->at[g] = (uint16_t)(i + 1);
	}
	b = &s->bufs[i];
	*b = (struct buf){ .live = true,
			   .place = OWN,
			   .granule = granule,
			   .size = (uint32_t)size,
			   .good = (uint32_t)size,
			   .serial = ++w.serial };
	s->live++;
	fill(p, size, b->serial);
	return b;
}

static void forget(struct side *s, struct buf *b)
{
	memset(&s->at[b->granule], 0, granules(b->size) * sizeof(s->at[0]));
	s->old[below(ARRAY_SIZE(s->old))] = address_of(s, s->me, b);
	b->live = false;
	s->live--;
}

static void check_contents(const struct side *s, int owner, const struct buf *b,
			   uint64_t len)
{
	if (len > b->good)
		len = b->good;
	MUST(holds(address_of(s, owner, b), len, b->serial),
	     ": buffer %#x of %c, %llu bytes", b->granule, 'A' + owner,
	     (unsigned long long)len);
}

/* A random buffer in @place that @s may know of; NULL: none. */
static struct buf *pick_buf(struct side *owner, enum place place)
{
	unsigned int i, at = (unsigned int)below(MAX_BUFS);
	struct buf *b;

	if (!owner->live)
		return NULL;
	for (i = 0; i < MAX_BUFS; i++) {
		b = &owner->bufs[(at + i) % MAX_BUFS];
		if (b->live && !b->hidden && b->place == place)
			return b;
	}
	return NULL;
}

/* Any place in either arena, and some that are in neither. */
static void *pick_address(struct side *s)
{
	struct side *o = one_in(2) ? s : other(s);
	unsigned int i, at = (unsigned int)below(MAX_BUFS);
	unsigned char *base = o == s ? s->base : s->peer_base;
	struct buf *b;
	void *p;
	static unsigned char nowhere[GRANULE] __attribute__((aligned(GRANULE)));

	switch (below(8)) {
	case 0:
		p = s->old[below(ARRAY_SIZE(s->old))];
		return p ? p : nowhere;
	case 1:
		return base ? base + below(o->arena) : nowhere;
	case 2:
		return base ? base + below(o->arena) / GRANULE * GRANULE :
			      nowhere;
	case 3:
		return base ? base + o->arena : nowhere;
	default:
		for (i = 0; i < MAX_BUFS; i++) {
			b = &o->bufs[(at + i) % MAX_BUFS];
			if (b->live && !b->hidden)
				return address_of(s, o->me, b);
		}
		return nowhere;
	}
}

/*
 * What is said when @s wants to lend (@kind LEND), to give, or to free (@len 0) what
 * is at @p.
 */
static int buf_error(struct side *s, const void *p, uint64_t len,
		     enum kind kind)
{
	int owner;
	struct buf *b = buf_by_address(s, p, &owner);

	if (!b)
		return -EINVAL;
	if (owner == s->me) {
		if (len > (uint64_t)granules(b->size) * GRANULE)
			return -EINVAL;
		switch (b->place) {
		case OWN:
			return 0;
		case LENT:
		case GIVING: /* it is with a prepared operation, and not gone */
			return -EBUSY;
		default:
			return -ESTALE;
		}
	}
	if (!s->ops || kind == LEND)
		return -EINVAL;
	if (b->place == LENT && b->borrowed)
		return -EBUSY;
	return b->place == THEIRS && len <= b->known ? 0 : -EINVAL;
}

/* ---------------------------------------------------------------- operations */

static bool has_place(const struct side *s)
{
	return s->opened && s->used < s->depth;
}

/* The endpoint knows that the peer has left, and the table has still to find out. */
static bool found_gone(const struct side *s)
{
	return s->gone && !s->ended && !evering_reserve(s->ev);
}

/* Of all slots, those that the peer has given back, as far as @s can know. */
static bool has_room(const struct side *s)
{
	uint32_t released = evering_load_acquire(&peer_half(s->ev)->released);

	return s->opened && !s->ended && !found_gone(s) &&
	       w.mask + 1 - (s->ev->tx.next - released) > s->serve;
}

/* There was no room for it: whoever sleeps in a loop is told of that. */
static void refused(struct side *s, int ret)
{
	if (ret == -EAGAIN && s->opened && !has_room(s))
		s->refused = true;
}

static void place_free(struct side *s, struct op *op)
{
	s->old_id[below(ARRAY_SIZE(s->old_id))] = op->id;
	op->live = false;
	s->used--;
}

/* @op has its outcome.  Returns whether a callback is due for that. */
static bool outcome(struct side *s, struct op *op, int32_t result)
{
	op->open = false;
	op->result = result;
	s->in_flight--;
	s->tinies -= op->tiny;
	s->huges -= op->huge;
	if (op->cb) {
		s->due = *op;
		if (!op->sent)
			place_free(s, op);
		return true;
	}
	op->done = true;
	op->order = ++w.order;
	s->done++;
	return false;
}

static bool abandon(struct side *s, struct op *op, int32_t result)
{
	s->abandoned++;
	return outcome(s, op, result);
}

/* The peer is done with @op; @e: its answer, or NULL.  As outcome(). */
static bool answered(struct side *s, struct op *op, const struct entry *e)
{
	struct side *o = other(s);
	bool wanted = op->open && !op->asked;
	struct buf *b = NULL;

	if (op->lent >= 0) {
		b = &s->bufs[op->lent];
		MUST_BE(b->place, LENT);
		b->borrowed = false;
		b->place = OWN;
		op->lent = -1;
		if (!op->open)
			forget(s, b);
	}
	op->sent = false;
	if (e) {
		op->out_len = e->len;
		op->out_serial = e->serial;
		op->out_buf_len = e->buf_len;
		op->out_buf = NULL;
		switch (e->kind) {
		case GIVE:
			b = buf_at(o, e->granule);
			MUST(b && b->place == FLIGHT);
			b->place = wanted ? THEIRS : HOMEBOUND;
			b->hidden = wanted;
			s->homebound += !wanted;
			op->out_buf = address_of(s, o->me, b);
			break;
		case RETURN:
			b = buf_at(s, e->granule);
			MUST(b && b->place == BACK);
			b->place = OWN;
			b->hidden = wanted;
			op->out_buf = address_of(s, s->me, b);
			if (!wanted)
				forget(s, b);
			break;
		case IN_PLACE:
			if (wanted) {
				b->hidden = true;
				op->out_buf = address_of(s, s->me, b);
			}
			break;
		}
	}
	if (wanted)
		return outcome(s, op, e ? (int32_t)e->code : -EPIPE);
	op->out_len = 0;
	op->out_buf = NULL;
	op->out_buf_len = 0;
	if (op->open)
		return outcome(s, op, -ECANCELED);
	s->abandoned--;
	if (!op->done)
		place_free(s, op);
	return false;
}

/* The first to run out of time, if it was sent before @before. */
static struct op *next_expired(struct side *s, uint64_t before,
			       const struct op *but)
{
	struct op *op, *first = NULL;
	uint32_t i;

	if (!s->tinies)
		return NULL;
	for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++) {
		op = &s->op[i];
		if (op->live && op->sent && op->open && op->tiny && op != but &&
		    op->order < before && (!first || op->order < first->order))
			first = op;
	}
	return first;
}

/* The peer is to know that @op needs no answer, if it does not already. */
static void tell(struct side *s, struct op *op)
{
	op->must_tell = !op->told;
	s->untold++;
}

static bool expire_one(struct side *s, struct op *op)
{
	tell(s, op);
	s->count++;
	return abandon(s, op, -ETIMEDOUT);
}

static void expire(struct side *s, uint64_t before, const struct op *but)
{
	struct op *op;

	while ((op = next_expired(s, before, but)))
		MUST(!expire_one(s, op), ": a callback was left out");
}

/* The peer has gone: those of the places before @end have their outcomes. */
static void end_until(struct side *s, uint32_t end)
{
	struct op *op;

	for (; s->end_next < end; s->end_next++) {
		op = &s->op[s->end_next];
		if (op->live && op->sent)
			MUST(!answered(s, op, NULL),
			     ": a callback was left out");
	}
}

static void end_begin(struct side *s)
{
	s->ended = true;
	s->ending = true;
	s->end_level = s->level;
	s->end_next = 0;
}

static void end_finish(struct side *s)
{
	struct buf *b;
	int i;

	end_until(s, s->depth + 1 + EVERING_OP_SPARE);
	s->ending = false;
	for (i = 0; i < MAX_BUFS; i++) {
		b = &s->bufs[i];
		if (b->live && b->place >= FLIGHT)
			forget(s, b);
	}
}

/* ------------------------------------------------------------------ the wire */

/*
 * A buffer of @owner's has been put on the wire, and @generation is how it is called
 * there.
 */
static void buf_sent(struct side *owner, const struct entry *e,
		     uint32_t generation, bool prepared)
{
	struct buf *b = buf_at(owner, e->granule);

	MUST(b, ": no buffer %#x is on the wire", e->granule);
	MUST(e->buf_len && e->buf_len <= granules(b->size) * GRANULE);
	/* It has one name, which none has had that was there before. */
	if (b->named) {
		MUST_BE(generation, b->generation);
	} else {
		MUST(generation + 1 != owner->name[b->granule]);
		owner->name[b->granule] = generation + 1;
		b->generation = generation;
		b->named = true;
	}
	switch (e->kind) {
	case LEND:
		MUST_BE(b->place, prepared ? LENT : OWN);
		b->place = LENT;
		break;
	case GIVE:
		MUST_BE(b->place, prepared ? GIVING : OWN);
		b->place = FLIGHT;
		break;
	default:
		MUST_BE(b->place, prepared ? RETURNING : THEIRS);
		MUST(e->buf_len <= b->known);
		b->place = BACK;
	}
}

static const uint8_t wire_kind[8] = {
	[EVERING_OP_LENT] = LEND,
	[EVERING_OP_GIVEN] = GIVE,
	[EVERING_OP_BACK] = RETURN,
	[EVERING_OP_IN_PLACE] = IN_PLACE,
};

static void request_sent(struct side *x, struct entry *e, uint32_t generation)
{
	struct op *from = x->pending, *op;
	uint32_t index = index_of(e->id);
	struct side *owner = from && from->kind == RETURN ? other(x) : x;
	bool prepared;

	MUST(from, ": a request that nobody asked for");
	MUST(index && index <= x->depth + EVERING_OP_SPARE);
	op = &x->op[index];
	prepared = from->prepared;
	if (prepared) {
		MUST(op == from);
		MUST_BE(e->id, op->id);
		op->prepared = false;
		x->prepared--;
	} else {
		MUST(!op->live && e->id > x->newest[index]);
		*op = *from;
		op->live = true;
		op->open = true;
		op->id = e->id;
		x->newest[index] = op->id;
		x->in_flight++;
		x->used++;
	}
	op->sent = true;
	op->order = ++w.order;
	x->tinies += op->tiny;
	x->huges += op->huge;
	x->pending = NULL;
	x->last_sent = op;
	if (x->calling)
		x->called = index;
	/* It may run out of time, and the peer be told, at any time. */
	op->tells = op->tiny || x->calling;

	MUST_BE(e->kind, op->kind);
	MUST_BE(e->code, op->opcode);
	MUST_BE(e->len, op->len);
	e->serial = op->serial;
	if (e->kind) {
		MUST(address(x, owner->me, e->granule) == op->buf);
		MUST_BE(e->buf_len, op->buf_len);
		buf_sent(owner, e, generation, prepared);
		if (e->kind == LEND)
			op->lent = (int)(buf_at(x, e->granule) - x->bufs);
	}
}

static void answer_sent(struct side *x, struct entry *e, uint32_t generation)
{
	struct answering *a = x->answering;

	MUST(a, ": an answer that nobody gave");
	x->answering = NULL;
	MUST_BE(e->id, a->held->id);
	MUST_BE(e->kind, a->kind);
	MUST_BE((int32_t)e->code, a->result);
	MUST_BE(e->len, a->len);
	e->serial = a->serial;
	if (e->kind) {
		MUST_BE(e->buf_len, a->buf_len);
		if (e->kind != IN_PLACE)
			buf_sent(e->kind == RETURN ? other(x) : x, e,
				 generation, false);
	}
}

/* @x has put entry @n on the wire. */
static void sent(struct side *x, uint32_t n, const unsigned char *slot,
		 struct entry *e)
{
	struct side *receiver = other(x);
	struct evering_op_header h;
	struct evering_op_buffer name = { 0 };
	uint32_t taken, end = w.payload;
	struct evering_op_home home;
	struct buf *b;
	unsigned int i;

	memcpy(&h, slot, sizeof(h));
	*e = (struct entry){
		.type = h.type,
		.kind = wire_kind[h.flags & EVERING_OP_BUFFER],
		.homes = h.flags >> EVERING_OP_HOME_SHIFT,
		.id = h.id,
		.code = h.code,
		.len = h.len,
	};
	if (h.flags & EVERING_OP_BUFFER) {
		end -= (uint32_t)sizeof(name);
		memcpy(&name, slot + end, sizeof(name));
		e->granule = name.granule;
		e->buf_len = (uint64_t)name.len_high << 32 | name.len_low;
	}
	for (i = 0; i < e->homes; i++) {
		end -= (uint32_t)sizeof(home);
		memcpy(&home, slot + end, sizeof(home));
		b = buf_at(receiver, home.granule);
		MUST(b && b->place == HOMEBOUND, ": %#x goes home",
		     home.granule);
		MUST_BE(home.generation, b->generation);
		b->place = HOMING;
		x->homebound--;
		e->home[i] = home.granule;
	}
	MUST(sizeof(h) + h.len <= end);

	/* Nothing but answers may take the room that answers may need. */
	taken = receiver->ev ? receiver->ev->rx.next : receiver->arrived;
	MUST(n - taken <= w.mask);
	if (h.type != EVERING_OP_ANSWER && h.type != EVERING_OP_OPEN)
		MUST(w.mask + 1 - (n - taken) > x->serve,
		     ": %u in the ring of %u, %u answers may be due", n - taken,
		     w.mask + 1, x->serve);

	switch (h.type) {
	case EVERING_OP_REQUEST:
		request_sent(x, e, name.generation);
		MUST(holds(slot + sizeof(h), h.len, e->serial));
		break;
	case EVERING_OP_ANSWER:
		answer_sent(x, e, name.generation);
		MUST(holds(slot + sizeof(h), h.len, e->serial));
		break;
	case EVERING_OP_CANCEL:
		i = index_of(h.id);
		MUST(i <= x->depth + EVERING_OP_SPARE && x->op[i].live &&
			     x->op[i].sent && x->op[i].id == h.id &&
			     x->op[i].tells,
		     ": cancel of %#llx", (unsigned long long)h.id);
		x->op[i].tells--;
		x->op[i].must_tell = false;
		x->op[i].told = true;
		break;
	case EVERING_OP_HOME:
		MUST(e->homes);
		break;
	default:
		MUST_BE(h.type, EVERING_OP_OPEN);
		MUST_BE(n, 0);
	}
}

/* Looks at what is new in the ring to @s, be it that its sender has gone. */
static void scan(struct side *s)
{
	struct side *x = other(s);
	const unsigned char *slot;

	for (;; s->scanned++) {
		if (x->ev) {
			if (s->scanned == x->ev->tx.next)
				return;
			slot = evering__tx_slot(&x->ev->tx, s->scanned);
		} else {
			if (!s->ev)
				return;
			slot = evering__rx_slot(&s->ev->rx, s->scanned);
			if (evering_load_acquire(
				    (const uint32_t *)(slot + w.payload)) !=
			    s->scanned + 1)
				return;
		}
		sent(x, s->scanned, slot, &s->ring[s->scanned & w.mask]);
	}
}

/* ------------------------------------------------------------------- arrivals */

static enum call request_arrived(struct side *s, const struct entry *e)
{
	struct side *x = other(s);
	uint32_t index = index_of(e->id);
	struct held *h = &s->held[index % MAX_PLACES];

	MUST(index <= s->serve + EVERING_OP_SPARE && !h->live);
	*h = (struct held){
		.live = true,
		.kind = e->kind,
		.id = e->id,
		.opcode = e->code,
		.len = e->len,
		.serial = e->serial,
		.owner = e->kind == RETURN ? s->me : x->me,
		.buf_len = e->buf_len,
	};
	s->holding++;
	if (e->kind) {
		h->buf = buf_at(&w.side[h->owner], e->granule);
		MUST(h->buf);
		switch (e->kind) {
		case LEND:
			MUST_BE(h->buf->place, LENT);
			h->buf->borrowed = true;
			break;
		case GIVE:
			MUST_BE(h->buf->place, FLIGHT);
			h->buf->place = THEIRS;
			h->buf->known = (uint32_t)e->buf_len;
			h->buf->hidden = true;
			break;
		default:
			MUST_BE(h->buf->place, BACK);
			h->buf->place = OWN;
			h->buf->hidden = true;
		}
	}
	s->due_held = h;
	if (s->params.request)
		return REQUEST_CALL;
	s->inbox[(s->inbox_first + s->inbox_count++) % MAX_PLACES] = index;
	return NO_CALL;
}

static enum call answer_arrived(struct side *s, const struct entry *e)
{
	struct op *op = &s->op[index_of(e->id) % MAX_PLACES];
	struct buf *b;

	MUST(op->live && op->sent && op->id == e->id);
	if (e->kind == GIVE) {
		b = buf_at(other(s), e->granule);
		MUST(b);
		b->known = (uint32_t)e->buf_len;
	}
	return answered(s, op, e) ? DONE_CALL : NO_CALL;
}

/* The library has taken @e.  Returns what callback is due for it. */
static enum call arrived(struct side *s, const struct entry *e)
{
	struct side *x = other(s);
	struct held *h;
	struct buf *b;
	unsigned int i;

	for (i = 0; i < e->homes; i++) {
		b = buf_at(s, e->home[i]);
		MUST(b && b->place == HOMING);
		forget(s, b);
	}
	switch (e->type) {
	case EVERING_OP_REQUEST:
		return request_arrived(s, e);
	case EVERING_OP_ANSWER:
		return answer_arrived(s, e);
	case EVERING_OP_CANCEL:
		h = &s->held[index_of(e->id) % MAX_PLACES];
		if (!h->live || h->id != e->id || h->cancelled)
			return NO_CALL;
		h->cancelled = true;
		s->due_held = h;
		return s->params.cancelled ? CANCELLED_CALL : NO_CALL;
	case EVERING_OP_OPEN:
		s->opened = true;
		s->depth = s->params.depth < x->params.serve ? s->params.depth :
							       x->params.serve;
		s->serve = s->params.serve < x->params.depth ? s->params.serve :
							       x->params.depth;
		return NO_CALL;
	default:
		return NO_CALL;
	}
}

/*
 * Follows what has happened on the wire since.  Only the last of what has arrived
 * can be what a callback is for, and only in that callback.
 */
static enum call catch_up(struct side *s)
{
	enum call call = NO_CALL;

	scan(s);
	while (s->arrived != s->ev->rx.next) {
		MUST(call == NO_CALL, ": a callback was left out");
		MUST(s->arrived != s->scanned);
		call = arrived(s, &s->ring[s->arrived++ & w.mask]);
		s->count++;
	}
	/* Whatever it sent, it sent after it had looked. */
	scan(other(s));
	return call;
}

/**
 * struct frame - what to go back to when a call into the library has returned
 */
struct frame {
	uint32_t count;
	uint64_t limit;
};

static struct frame enter(struct side *s)
{
	struct frame f = { s->count, s->limit };

	s->count = 0;
	s->limit = UINT64_MAX;
	s->level++;
	return f;
}

/*
 * @polled: it has looked at everything; @sends: and then has sent what was pending,
 * if it could.  Returns what it has done.
 */
static uint32_t leave(struct side *s, struct frame f, bool polled, bool sends)
{
	uint32_t count;

	MUST(catch_up(s) == NO_CALL, ": a callback was left out");
	s->polls += polled;
	if (polled && !s->ended) {
		expire(s, s->limit, sends && !s->pending ? s->last_sent : NULL);
		if (s->gone && !s->count)
			end_begin(s);
	}
	if (s->ending && s->end_level == s->level)
		end_finish(s);
	count = s->count;
	s->count = f.count;
	s->limit = f.limit;
	s->level--;
	return count;
}

/* ------------------------------------------------------------ what is told */

static void check_info(struct side *s)
{
	struct evering_ops_info info;

	if (!s->ops)
		return;
	evering_ops_get_info(s->ops, &info);
	MUST_BE(info.depth, s->depth);
	MUST_BE(info.serve, s->serve);
	MUST_BE(info.in_flight, s->in_flight);
	MUST_BE(info.abandoned, s->abandoned);
	MUST_BE(info.done, s->done);
	MUST_BE(info.held, s->holding);
	if (!s->ended)
		MUST_BE(info.homebound, s->homebound);
	MUST_BE(info.max_data, w.max_data);
}

/* @c is what the model says of @op; the caller knows of its buffer now. */
static void check_completion(struct side *s, const struct op *op,
			     const struct evering_completion *c)
{
	struct buf *b;
	int owner;

	MUST_BE(c->id, op->id);
	MUST_BE((uintptr_t)c->user, op->user);
	MUST_BE(c->ext, ext_of(op->user));
	MUST_BE(c->result, op->result);
	MUST_BE(c->len, op->out_len);
	MUST(holds(c->data, c->len, op->out_serial));
	MUST(c->buf == op->out_buf);
	MUST_BE(c->buf_len, op->out_buf_len);
	if (!c->buf)
		return;
	b = buf_by_address(s, c->buf, &owner);
	MUST(b && b->hidden);
	b->hidden = false;
	check_contents(s, owner, b, c->buf_len);
}

static void check_request(struct side *s, struct held *h,
			  const struct evering_request *r)
{
	MUST_BE(r->id, h->id);
	MUST(!h->seen);
	h->seen = true;
	h->data = r->data;
	MUST_BE(r->opcode, h->opcode);
	MUST_BE(r->len, h->len);
	MUST_BE(r->reserved, 0);
	MUST_BE((uintptr_t)r->data % 16, 0);
	MUST(holds(r->data, r->len, h->serial));
	MUST_BE(r->flags, h->kind == NOTHING ? 0 :
			  h->kind == LEND    ? EVERING_LEND :
					       EVERING_GIVE);
	if (!h->kind) {
		MUST(!r->buf && !r->buf_len);
		return;
	}
	MUST(r->buf == address_of(s, h->owner, h->buf),
	     ": %p, and not %#x of %c", r->buf, h->buf->granule,
	     'A' + h->owner);
	MUST_BE(r->buf_len, h->buf_len);
	h->buf->hidden = false;
	check_contents(s, h->owner, h->buf, h->buf_len);
}

static void act(struct side *s);
static void answer_unseen(struct side *s, struct held *h);

/* Callbacks do what they like, of either side. */
static void act_nested(struct side *s)
{
	check_info(s);
	if (w.calm || w.nesting == MAX_NESTING || !one_in(3))
		return;
	w.nesting++;
	if (one_in(4) && other(s)->ev && !other(s)->closing) {
		w.acts++;
		s = other(s);
	}
	act(s);
	w.nesting--;
}

static void on_done(struct evering_ops *ops, const struct evering_completion *c)
{
	struct side *s = side_of(ops);
	enum call call = catch_up(s);
	struct op *op = &s->op[index_of(c->id) % MAX_PLACES], due;
	struct evering_completion copy;
	bool called = true;
	uint64_t polls;

	doing(s, "  done", c->id, (uint64_t)c->result, c->len);
	MUST(index_of(c->id) <= s->depth + EVERING_OP_SPARE);
	if (call == NO_CALL) {
		MUST(op->live && op->open && op->id == c->id);
		if (s->closing) {
			MUST_BE(c->result, -ECANCELED);
			op->out_len = 0;
			called = abandon(s, op, -ECANCELED);
		} else if (s->detaching) {
			MUST(s->detaching == op);
			s->detaching = NULL;
			called = abandon(s, op, -ECANCELED);
		} else if (s->ending) {
			end_until(s, (uint32_t)(op - s->op));
			called = answered(s, op, NULL);
			s->end_next++;
		} else if (op->tiny && !s->arming) {
			if (s->limit == UINT64_MAX)
				s->limit = w.order + 1;
			MUST(op->order < s->limit);
			expire(s, op->order, NULL);
			called = expire_one(s, op);
		} else {
			MUST(s->gone && !s->count && !s->ended);
			end_begin(s);
			end_until(s, (uint32_t)(op - s->op));
			called = answered(s, op, NULL);
			s->end_next++;
		}
	} else {
		MUST_BE(call, DONE_CALL);
	}
	MUST(called);
	due = s->due;
	check_completion(s, &due, c);
	if (s->closing)
		return;
	polls = s->polls;
	copy = *c;
	act_nested(s);
	if (polls == s->polls)
		MUST(!memcmp(c, &copy, sizeof(copy)) &&
		     holds(c->data, c->len, due.out_serial));
}

static void on_request(struct evering_ops *ops, const struct evering_request *r,
		       void *context)
{
	struct side *s = context;

	MUST(s->ops == ops);
	MUST_BE(catch_up(s), REQUEST_CALL);
	doing(s, "  request", r->id, r->flags, r->len);
	check_request(s, s->due_held, r);
	act_nested(s);
}

static void on_cancelled(struct evering_ops *ops, uint64_t id, void *context)
{
	struct side *s = context;

	MUST(s->ops == ops);
	MUST_BE(catch_up(s), CANCELLED_CALL);
	doing(s, "  cancelled", id, 0, 0);
	MUST_BE(id, s->due_held->id);
	/* What is lent or is none need not have been seen. */
	if (!s->due_held->seen && one_in(2) &&
	    (s->due_held->kind == NOTHING || s->due_held->kind == LEND))
		answer_unseen(s, s->due_held);
	act_nested(s);
}

/* ----------------------------------------------------------------- both sides act */

static void act_alloc(struct side *s)
{
	size_t size = some_size(&w.rng, s->arena), align = 0;
	struct frame f;
	uint64_t t;
	void *p;

	if (s->live > MAX_BUFS - 16)
		return;
	if (one_in(8))
		align = (size_t)1 << below(13);
	t = doing(s, "alloc", size, align, 0);
	f = enter(s);
	p = evering_alloc(s->ev, size, align);
	leave(s, f, false, false);
	returned(t, p ? (long)(((unsigned char *)p - s->base) / GRANULE) : -1);
	adopt(s, p, size, align);
}

static void free_at(struct side *s, void *p)
{
	int owner, ret, expected = p ? buf_error(s, p, 0, GIVE) : 0;
	struct buf *b = buf_by_address(s, p, &owner);
	struct frame f;
	uint64_t t;

	if (b && b->hidden)
		return;
	t = doing(s, "free", owner < 0 ? 0 : (uint64_t)owner,
		  b ? b->granule : (uintptr_t)p, b ? b->place : 99);
	if (p && !expected)
		check_contents(s, owner, b,
			       owner == s->me ? b->size : b->known);
	f = enter(s);
	ret = evering_free(s->ev, p);
	leave(s, f, false, false);
	returned(t, ret);
	MUST_BE(ret, expected);
	if (!p || ret)
		return;
	if (owner == s->me) {
		forget(s, b);
	} else {
		b->place = HOMEBOUND;
		s->homebound += !s->ended;
	}
}

static void act_free(struct side *s)
{
	struct side *owner = one_in(2) ? s : other(s);
	struct buf *b = pick_buf(owner, owner == s ? OWN : THEIRS);
	void *p;

	if (one_in(6))
		p = one_in(16) ? NULL : pick_address(s);
	else if (b)
		p = address_of(s, owner->me, b);
	else
		return;
	free_at(s, p);
}

/**
 * struct attempt - an operation that is to be, and what stands in its way
 */
struct attempt {
	struct op model;
	struct evering_op op;
	unsigned char data[EVERING_MAX_SLOT];
	int error;
};

static void attempt_buffer(struct side *s, struct attempt *a)
{
	enum kind kind = (enum kind)(LEND + below(3));
	struct side *owner = kind == RETURN ? other(s) : s;
	struct buf *b = pick_buf(owner, kind == RETURN ? THEIRS : OWN);

	if (one_in(12)) {
		a->op.buf = pick_address(s);
		a->op.buf_len = 1 + below(2 * GRANULE);
	} else if (b) {
		a->op.buf = address_of(s, owner->me, b);
		a->op.buf_len = kind == RETURN ? b->known : b->size;
		if (one_in(2))
			a->op.buf_len = 1 + below(a->op.buf_len);
		if (one_in(64))
			a->op.buf_len += GRANULE;
		if (one_in(64))
			a->op.buf_len = 0;
	} else {
		return;
	}
	a->op.flags = kind == LEND ? EVERING_LEND : EVERING_GIVE;
	a->model.kind = (uint8_t)kind;
}

/* What cannot be, whatever else is the case. */
static void attempt_nonsense(struct attempt *a)
{
	switch (below(6)) {
	case 0:
		a->op.flags = EVERING_LEND | EVERING_GIVE;
		a->error = -EINVAL;
		break;
	case 1:
		a->op.flags |= 4u << below(30);
		/* Which is nonsense with a buffer that is given. */
		if (a->op.flags & EVERING_REISSUE)
			a->op.flags |= EVERING_GIVE;
		a->error = -EINVAL;
		break;
	case 2:
		a->op.reserved = 1;
		a->error = -EINVAL;
		break;
	case 3:
		a->op.timeout_ns = -2 - (int64_t)below(1000);
		a->error = -EINVAL;
		break;
	case 4:
		a->op.len = w.max_data + 1 - (a->op.flags ? BUFFER_TAIL : 0);
		a->error = -EMSGSIZE;
		break;
	default:
		a->op.data = NULL;
		a->op.len = 1;
		a->error = -EINVAL;
	}
}

static void attempt_make(struct side *s, struct attempt *a, bool call)
{
	uint32_t most = w.max_data;

	memset(&a->model, 0, sizeof(a->model));
	memset(&a->op, 0, sizeof(a->op));
	a->error = 0;
	if (one_in(2))
		attempt_buffer(s, a);
	if (a->op.flags)
		most -= BUFFER_TAIL;
	a->op.len = (uint32_t)below(most + 1);
	a->model.serial = ++w.serial;
	fill(a->data, a->op.len, a->model.serial);
	a->op.data = a->data;
	a->op.opcode = (uint32_t)random_u64(&w.rng);
	a->op.done = one_in(2) ? on_done : NULL;
	a->op.user = (void *)(uintptr_t)a->model.serial;
	a->op.ext = ext_of(a->model.serial);
	if (one_in(w.mood == 3 ? 3 : 8)) {
		a->op.timeout_ns = one_in(2) ? INT64_MAX : HOUR;
		a->model.huge = true;
	} else if (!call && !w.calm && one_in(w.mood == 3 ? 2 : 8)) {
		a->op.timeout_ns = 1;
		a->model.tiny = true;
	} else if (one_in(8)) {
		a->op.timeout_ns = EVERING_WAIT_FOREVER;
	}
	if (one_in(40))
		attempt_nonsense(a);
	a->model.cb = a->op.done && !call;
	a->model.user = a->model.serial;
	a->model.opcode = a->op.opcode;
	a->model.len = a->op.len;
	a->model.lent = -1;
	a->model.buf = a->op.buf;
	a->model.buf_len = a->op.buf_len;
}

static int attempt_error(struct side *s, const struct attempt *a)
{
	int owner;
	struct buf *b;

	if (!a->op.flags)
		return 0;
	b = buf_by_address(s, a->op.buf, &owner);
	if (!a->op.buf_len && owner == s->me)
		return -EINVAL;
	if (!a->op.buf_len && !(b && b->borrowed))
		return -EINVAL;
	return buf_error(s, a->op.buf, a->op.buf_len,
			 a->op.flags == EVERING_LEND ? LEND : GIVE);
}

/* Which arena the buffer is in may not be what was intended. */
static void attempt_kind(struct side *s, struct attempt *a)
{
	int owner;

	buf_by_address(s, a->op.buf, &owner);
	if (a->op.flags == EVERING_GIVE)
		a->model.kind = owner == s->me ? GIVE : RETURN;
}

/* Waits until what was to take no time at all has taken too long. */
static void let_expire(void)
{
	int64_t now = now_ns();

	while (now_ns() <= now + 1)
		;
}

static bool told_of(struct side *s, const void *p)
{
	int owner;
	struct buf *b = buf_by_address(s, p, &owner);

	return !b || !b->hidden;
}

static void act_submit(struct side *s)
{
	struct op *outer = s->pending;
	struct attempt a;
	bool can, waits;
	int ret, error;
	struct frame f;
	uint64_t id = 0, t;

	attempt_make(s, &a, false);
	if (a.op.flags && !told_of(s, a.op.buf))
		return;
	attempt_kind(s, &a);
	can = has_place(s) && has_room(s);
	error = s->ended ? -EPIPE :
		a.error	 ? a.error :
		!can	 ? -EAGAIN :
			   attempt_error(s, &a);
	/* What comes home while it waits for room is not to be taken. */
	waits = w.calm && !s->gone && error == -EAGAIN &&
		!attempt_error(s, &a) && one_in(200);
	s->pending = &a.model;
	t = doing(s, waits ? "submit_wait" : "submit", a.op.flags,
		  (uintptr_t)a.op.buf, a.op.len);
	f = enter(s);
	ret = evering_op_submit(s->ops, &a.op, one_in(16) ? NULL : &id,
				waits ? 5 * USEC : EVERING_NOWAIT);
	leave(s, f, waits, true);
	returned(t, ret);
	if (!waits)
		refused(s, ret);
	if (waits)
		MUST(ret == 0 ||
		     (ret == -ETIMEDOUT && !(has_place(s) && has_room(s))));
	else
		MUST_BE(ret, error);
	MUST((s->pending == NULL) == (ret == 0));
	if (!ret) {
		MUST(!id || id == s->last_sent->id);
		if (a.model.tiny)
			let_expire();
	}
	s->pending = outer;
}

static void act_prepare(struct side *s)
{
	struct attempt a;
	struct op *op;
	struct frame f;
	uint64_t id = 0, t;
	struct buf *b;
	int ret, error, owner;

	attempt_make(s, &a, false);
	if (a.op.flags && !told_of(s, a.op.buf))
		return;
	attempt_kind(s, &a);
	error = s->ended      ? -EPIPE :
		a.error	      ? a.error :
		!has_place(s) ? -EAGAIN :
				attempt_error(s, &a);
	t = doing(s, "prepare", a.op.flags, (uintptr_t)a.op.buf, a.op.len);
	f = enter(s);
	ret = evering_op_prepare(s->ops, &a.op, &id);
	leave(s, f, false, false);
	returned(t, ret ? ret : (long)id);
	MUST_BE(ret, error);
	if (ret)
		return;
	MUST(index_of(id) && index_of(id) <= s->depth + EVERING_OP_SPARE);
	op = &s->op[index_of(id)];
	MUST(!op->live && id > s->newest[index_of(id)]);
	*op = a.model;
	op->live = true;
	op->prepared = true;
	op->open = true;
	op->id = id;
	s->newest[index_of(id)] = id;
	s->prepared++;
	s->in_flight++;
	s->used++;
	if (!a.op.flags)
		return;
	b = buf_by_address(s, a.op.buf, &owner);
	b->place = op->kind == LEND ? LENT :
		   op->kind == GIVE ? GIVING :
				      RETURNING;
	if (op->kind == LEND)
		op->lent = (int)(b - s->bufs);
}

static struct op *pick_op(struct side *s, bool prepared)
{
	uint32_t i, at;
	struct op *op;

	if (!s->used)
		return NULL;
	at = (uint32_t)below(s->depth + 1 + EVERING_OP_SPARE);
	for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++) {
		op = &s->op[(at + i) % (s->depth + 1 + EVERING_OP_SPARE)];
		if (op->live && op->prepared >= prepared)
			return op;
	}
	return NULL;
}

/* Of an operation that is there, was there, or never was. */
static uint64_t pick_id(struct side *s, bool prepared)
{
	struct op *op = pick_op(s, prepared);

	switch (below(12)) {
	case 0:
		return s->old_id[below(ARRAY_SIZE(s->old_id))];
	case 1:
		op = pick_op(s, false);
		return op ? op->id : 0;
	case 2:
		return (op ? op->id : 0) + (5 << 16);
	case 3:
		return below(s->depth + 3);
	case 4:
		return one_in(2) ? random_u64(&w.rng) | 1ull << 63 :
				   (1ull << 16) + s->depth;
	default:
		return op ? op->id : 0;
	}
}

static struct op *op_of(struct side *s, uint64_t id)
{
	uint32_t index = index_of(id);

	if (index > s->depth + EVERING_OP_SPARE || !s->op[index].live ||
	    s->op[index].id != id)
		return NULL;
	return &s->op[index];
}

static void act_start(struct side *s)
{
	uint64_t id = pick_id(s, true), t;
	struct op *op = op_of(s, id), *outer = s->pending;
	struct frame f;
	int ret, error;

	error = !op	      ? -ENOENT :
		!op->prepared ? -EALREADY :
		s->ended      ? -EPIPE :
		!has_room(s)  ? -EAGAIN :
				0;
	s->pending = op && op->prepared ? op : NULL;
	t = doing(s, "start", id, 0, 0);
	f = enter(s);
	ret = evering_op_start(s->ops, id, EVERING_NOWAIT);
	leave(s, f, false, true);
	returned(t, ret);
	refused(s, ret);
	MUST_BE(ret, error);
	if (!ret) {
		MUST(!s->pending && op->sent);
		if (op->tiny)
			let_expire();
	}
	s->pending = outer;
}

static void unprepare(struct side *s, struct op *op)
{
	int owner;
	struct buf *b;

	if (op->kind) {
		b = buf_by_address(s, op->buf, &owner);
		MUST(b);
		b->place = owner == s->me ? OWN : THEIRS;
	}
	s->prepared--;
	s->in_flight--;
	place_free(s, op);
}

static bool was_there(const struct side *s, uint64_t id)
{
	return index_of(id) <= s->depth + EVERING_OP_SPARE &&
	       id >> EVERING_OP_INDEX_BITS && id <= s->newest[index_of(id)];
}

static void cancel(struct side *s, uint64_t id, unsigned int flags)
{
	struct op *op = op_of(s, id), *outer = s->detaching;
	bool detaches = false;
	struct frame f;
	int ret, error;
	uint64_t t;

	if (flags & ~(EVERING_CANCEL_TELL | EVERING_CANCEL_DETACH))
		error = -EINVAL;
	else if (!op)
		error = was_there(s, id) ? -EALREADY : -ENOENT;
	else if (op->prepared)
		error = 0;
	else if (!op->open || (op->asked && !(flags & EVERING_CANCEL_DETACH)))
		error = -EALREADY;
	else
		error = 0;
	detaches = !error && !op->prepared && (flags & EVERING_CANCEL_DETACH);
	if (!error && !op->prepared && (flags & EVERING_CANCEL_TELL)) {
		op->tells++;
		tell(s, op);
	}
	s->detaching = detaches ? op : NULL;
	t = doing(s, "cancel", id, flags, 0);
	f = enter(s);
	ret = evering_op_cancel(s->ops, id, flags);
	if (!ret && !error && op->prepared && op->id == id)
		unprepare(s, op);
	leave(s, f, false, false);
	returned(t, ret);
	MUST_BE(ret, error);
	if (!error && detaches) {
		if (s->detaching) {
			MUST(!op->cb, ": a callback was left out");
			abandon(s, op, -ECANCELED);
		}
	} else if (!error && op_of(s, id)) {
		op->asked = true;
	}
	s->detaching = outer;
}

static void act_cancel(struct side *s)
{
	cancel(s, pick_id(s, false),
	       one_in(32) ? 4u << below(30) : (unsigned int)below(4));
}

/* The caller has taken an outcome. */
static void taken(struct side *s, struct op *op,
		  const struct evering_completion *c)
{
	MUST(op->done);
	check_completion(s, op, c);
	op->done = false;
	s->done--;
	if (!op->sent)
		place_free(s, op);
}

static void act_poll(struct side *s)
{
	bool was_ended = s->ended, waits = one_in(8);
	uint64_t acts = w.acts, t;
	uint32_t count;
	struct frame f;
	int ret;

	t = doing(s, waits ? "wait" : "poll", 0, 0, 0);
	f = enter(s);
	ret = waits ? evering_ops_wait(s->ops, EVERING_NOWAIT) :
		      evering_ops_poll(s->ops);
	count = leave(s, f, !was_ended, false);
	returned(t, ret);
	MUST_BE(ret, s->ended	     ? -EPIPE :
		     waits && !count ? -EAGAIN :
				       (int)count);
	if (!s->ended && acts == w.acts)
		MUST(s->arrived == s->scanned || count > w.mask);
}

/* Whatever has waited for room is on its way, if there was room. */
static void check_flushed(struct side *s)
{
	struct op *op;
	uint32_t i;

	if (!has_room(s))
		return;
	MUST_BE(s->homebound, 0);
	for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++) {
		op = &s->op[i];
		/* Of too many at once some may be dropped. */
		MUST(!op->live || !op->sent || !op->must_tell ||
		     s->untold > s->params.depth);
		op->must_tell = false;
	}
	s->untold = 0;
}

static void act_flush(struct side *s)
{
	struct frame f;

	doing(s, "flush", 0, 0, 0);
	f = enter(s);
	evering_ops_flush(s->ops);
	leave(s, f, false, false);
	check_flushed(s);
}

static void act_arm(struct side *s)
{
	/* One that never takes requests is told once of each. */
	bool inbox = s->inbox_count &&
		     (s->takes || s->inbox_count != s->inbox_told);
	struct frame f;
	short events;
	uint64_t t;
	int ret, is;

	if (!s->ended)
		s->inbox_told = s->inbox_count;
	is = s->ended		      ? -EPIPE :
	     inbox		      ? 1 :
	     s->arrived != s->scanned ? 1 :
	     s->gone		      ? -EPIPE :
					0;
	t = doing(s, "arm", 0, 0, 0);
	f = enter(s);
	s->arming = true;
	ret = evering_ops_arm(s->ops, &events);
	s->arming = false;
	/* What went home first may have taken the room. */
	if (is != -EPIPE || !s->ended) {
		if (s->refused && !inbox && has_room(s)) {
			is = 1;
			s->refused = false;
		}
	}
	if (is == -EPIPE && !s->ended)
		end_begin(s);
	leave(s, f, false, false);
	returned(t, ret);
	MUST_BE(ret, is);
	MUST(events & (POLLIN | POLLOUT));
}

static void act_timeout(struct side *s)
{
	int64_t ns;

	doing(s, "timeout", 0, 0, 0);
	ns = evering_ops_timeout(s->ops);
	if (s->tinies)
		MUST_BE(ns, 0);
	else if (s->huges)
		MUST(ns > 0);
	else
		MUST_BE(ns, EVERING_WAIT_FOREVER);
}

static struct op *oldest_done(struct side *s)
{
	struct op *op, *first = NULL;
	uint32_t i;

	if (!s->done)
		return NULL;
	for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++) {
		op = &s->op[i];
		if (op->live && op->done &&
		    (!first || op->order < first->order))
			first = op;
	}
	return first;
}

static void act_done(struct side *s)
{
	struct evering_completion c;
	bool waits = one_in(2), polls;
	uint64_t id = pick_id(s, false), t;
	struct op *op = op_of(s, id);
	struct frame f;
	int ret;

	polls = waits && op && !op->cb && op->open;
	t = doing(s, waits ? "op_wait" : "op_done", id, 0, 0);
	f = enter(s);
	ret = waits ? evering_op_wait(s->ops, id, &c, EVERING_NOWAIT) :
		      evering_op_done(s->ops, id, &c);
	leave(s, f, polls && !s->ended, false);
	returned(t, ret);
	op = op_of(s, id);
	if (!op || op->cb || !(op->open || op->done)) {
		MUST_BE(ret, -ENOENT);
	} else if (op->done) {
		MUST_BE(ret, 0);
		taken(s, op, &c);
	} else {
		MUST_BE(ret, polls && s->ended ? -EPIPE : -EAGAIN);
	}
}

/* In flight, and without a callback. */
static bool waited_for(const struct side *s)
{
	uint32_t i;

	for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++)
		if (s->op[i].live && s->op[i].sent && s->op[i].open &&
		    !s->op[i].cb)
			return true;
	return false;
}

static int act_wait_any(struct side *s)
{
	bool polls = !s->done && waited_for(s);
	struct evering_completion c;
	struct frame f;
	uint64_t t;
	int ret;

	t = doing(s, "wait_any", 0, 0, 0);
	f = enter(s);
	ret = evering_op_wait_any(s->ops, &c, EVERING_NOWAIT);
	leave(s, f, polls && !s->ended, false);
	returned(t, ret);
	if (s->done) {
		MUST_BE(ret, 0);
		taken(s, oldest_done(s), &c);
	} else if (!polls) {
		MUST_BE(ret, -ENOENT);
	} else {
		MUST_BE(ret, s->ended ? -EPIPE : -EAGAIN);
	}
	return ret;
}

static void act_wait_all(struct side *s)
{
	bool polls = s->in_flight != s->prepared;
	struct frame f;
	uint64_t t;
	int ret;

	t = doing(s, "wait_all", 0, 0, 0);
	f = enter(s);
	ret = evering_op_wait_all(s->ops, EVERING_NOWAIT);
	leave(s, f, polls && !s->ended, false);
	returned(t, ret);
	MUST_BE(ret, s->in_flight == s->prepared ? 0 :
		     s->ended			 ? -EPIPE :
						   -EAGAIN);
}

static void act_call(struct side *s)
{
	struct op *outer = s->pending, *op;
	struct evering_completion c;
	struct attempt a;
	struct frame f;
	uint64_t t;
	int ret, error;

	attempt_make(s, &a, true);
	if (a.op.flags && !told_of(s, a.op.buf))
		return;
	attempt_kind(s, &a);
	error = s->ended		      ? -EPIPE :
		a.error			      ? a.error :
		!has_place(s) || !has_room(s) ? -EAGAIN :
						attempt_error(s, &a);
	s->pending = &a.model;
	s->calling = true;
	t = doing(s, "call", a.op.flags, (uintptr_t)a.op.buf, a.op.len);
	f = enter(s);
	ret = evering_op_call(s->ops, &a.op, &c, EVERING_NOWAIT);
	leave(s, f, !error, false);
	s->calling = false;
	returned(t, ret);
	refused(s, ret);
	if (error) {
		MUST_BE(ret, error);
		MUST(s->pending == &a.model);
	} else {
		MUST(!s->pending);
		op = &s->op[s->called];
		if (op->live && op->user == a.model.user &&
		    (op->open || op->done)) {
			if (op->open) {
				s->untold++;
				abandon(s, op, -ETIMEDOUT);
			}
			MUST_BE(ret, 0);
			taken(s, op, &c);
		} else {
			/* A callback has taken what was waited for here. */
			MUST_BE(ret, -ENOENT);
		}
	}
	s->pending = outer;
}

/* ---------------------------------------------------------------- and answer */

static struct held *pick_held(struct side *s)
{
	uint32_t i, at;
	struct held *h;

	if (!s->holding)
		return NULL;
	at = (uint32_t)below(s->serve + 1 + EVERING_OP_SPARE);
	for (i = 0; i < s->serve + 1 + EVERING_OP_SPARE; i++) {
		h = &s->held[(at + i) % (s->serve + 1 + EVERING_OP_SPARE)];
		if (h->live && h->seen)
			return h;
	}
	return NULL;
}

static void held_end(struct side *s, struct held *h)
{
	if (h->kind == LEND)
		h->buf->borrowed = false;
	s->old_held[below(ARRAY_SIZE(s->old_held))] = h->id;
	h->live = false;
	s->holding--;
}

static bool is_held(const struct side *s, uint64_t id)
{
	uint32_t index = index_of(id);

	return index < MAX_PLACES && s->held[index].live &&
	       s->held[index].id == id;
}

static uint64_t bad_held(struct side *s)
{
	switch (below(4)) {
	case 0:
		return below(s->serve + 1 + EVERING_OP_SPARE);
	case 1:
		return s->old_held[below(ARRAY_SIZE(s->old_held))] ^ 1ull << 40;
	case 2:
		return random_u64(&w.rng) | 1ull << 63;
	default:
		return s->old_held[below(ARRAY_SIZE(s->old_held))];
	}
}

static int32_t some_result(void)
{
	int32_t result = (int32_t)random_u64(&w.rng);

	/* Those that the library has are told by these from the peer's. */
	return result < 0 && result > -4096 ? -EIO : result;
}

static void answer_plain(struct side *s, uint64_t id, struct held *h)
{
	uint32_t len = (uint32_t)below(w.max_data + 1);
	unsigned char data[EVERING_MAX_SLOT];
	struct answering a;
	struct frame f;
	int ret, error;
	uint64_t t;

	if (one_in(64))
		len = w.max_data + 1;
	a = (struct answering){ .held = h,
				.result = some_result(),
				.len = len,
				.serial = ++w.serial };
	fill(data, len, a.serial);
	error = !h			  ? -ESTALE :
		len > w.max_data	  ? -EMSGSIZE :
		s->ended || found_gone(s) ? -EPIPE :
					    0;
	s->answering = &a;
	t = doing(s, "answer", id, len, 0);
	f = enter(s);
	ret = evering_op_answer(s->ops, id, a.result, data, len);
	leave(s, f, false, false);
	returned(t, ret);
	MUST_BE(ret, error);
	MUST((s->answering == NULL) == (ret == 0));
	s->answering = NULL;
	if (!ret || ret == -EPIPE)
		held_end(s, h);
}

static void answer_buffer(struct side *s, uint64_t id, struct held *h, void *p,
			  uint64_t len)
{
	struct answering a = {
		.held = h, .result = some_result(), .buf = p, .buf_len = len
	};
	struct frame f;
	int ret, error, owner;
	struct buf *b = buf_by_address(s, p, &owner);
	uint64_t t;

	if (b && b->hidden)
		return;
	if (!h) {
		error = -ESTALE;
	} else if (s->ended || found_gone(s)) {
		error = -EPIPE;
	} else if (h->kind == LEND && b == h->buf) {
		error = w.shared && len && len <= h->buf_len ? 0 : -EINVAL;
		a.kind = IN_PLACE;
	} else {
		error = len || (b && b->borrowed && owner != s->me) ?
				buf_error(s, p, len, GIVE) :
				-EINVAL;
		a.kind = owner == s->me ? GIVE : RETURN;
	}
	s->answering = &a;
	t = doing(s, "answer_buffer", id, (uintptr_t)p, len);
	f = enter(s);
	ret = evering_op_answer_buffer(s->ops, id, a.result, p, len);
	leave(s, f, false, false);
	returned(t, ret);
	MUST_BE(ret, error);
	MUST((s->answering == NULL) == (ret == 0));
	s->answering = NULL;
	if (!ret || ret == -EPIPE)
		held_end(s, h);
}

/* The answerer writes into what was lent. */
static void write_lent(struct side *s, struct held *h)
{
	if (!w.shared)
		return;
	h->buf->serial = ++w.serial;
	h->buf->good = (uint32_t)h->buf_len;
	fill(address_of(s, h->owner, h->buf), h->buf_len, h->buf->serial);
}

static void answer_alloc(struct side *s, uint64_t id, struct held *h)
{
	size_t size = some_size(&w.rng, s->arena);
	unsigned char *p;
	struct frame f;
	uint64_t t;

	if (s->live > MAX_BUFS - 16)
		return;
	t = doing(s, "answer_alloc", id, size, 0);
	f = enter(s);
	p = evering_op_answer_alloc(s->ops, id, size);
	leave(s, f, false, false);
	returned(t, p != NULL);
	if (!h) {
		MUST(!p);
		return;
	}
	if (w.shared && h->kind == LEND && size && size <= h->buf_len) {
		MUST(p == address_of(s, h->owner, h->buf));
		write_lent(s, h);
	} else if (!adopt(s, p, size, 0)) {
		return;
	}
	if (one_in(3))
		free_at(s, p);
	else
		answer_buffer(s, id, h, p, 1 + below(size));
}

static void answer(struct side *s, struct held *h)
{
	uint64_t id = h ? h->id : bad_held(s);
	struct side *owner = one_in(2) ? s : other(s);
	struct buf *b;

	if (!h && is_held(s, id))
		return;
	if (h) {
		MUST(holds(h->data, h->len, h->serial));
		if (h->kind == LEND)
			check_contents(s, h->owner, h->buf, h->buf_len);
		MUST_BE(evering_op_cancelled(s->ops, id), h->cancelled);
	} else {
		MUST_BE(evering_op_cancelled(s->ops, id), -ESTALE);
	}
	switch (below(12)) {
	case 0 ... 2:
		b = pick_buf(owner, owner == s ? OWN : THEIRS);
		if (b) {
			answer_buffer(s, id, h, address_of(s, owner->me, b),
				      1 + below(owner == s ? b->size :
							     b->known));
			return;
		}
		break;
	case 3 ... 4:
		if (!h || h->kind != LEND)
			break;
		write_lent(s, h);
		answer_buffer(s, id, h, address_of(s, h->owner, h->buf),
			      1 + below(h->buf_len + one_in(16)));
		return;
	case 5:
		answer_alloc(s, id, h);
		return;
	case 6:
		answer_buffer(s, id, h, pick_address(s), below(2 * GRANULE));
		return;
	}
	answer_plain(s, id, h);
}

/* One that is still in line, and then no more. */
static void answer_unseen(struct side *s, struct held *h)
{
	uint32_t index = (uint32_t)(h - s->held), i, n = s->inbox_count;

	answer_plain(s, h->id, h);
	if (h->live)
		return;
	s->inbox_count = 0;
	for (i = 0; i < n; i++)
		if (s->inbox[(s->inbox_first + i) % MAX_PLACES] != index)
			s->inbox[(s->inbox_first + s->inbox_count++) %
				 MAX_PLACES] =
				s->inbox[(s->inbox_first + i) % MAX_PLACES];
}

static void act_answer(struct side *s)
{
	struct held *h = pick_held(s);

	if (h && !one_in(20))
		answer(s, h);
	else if (one_in(4))
		answer(s, NULL);
}

static int act_next(struct side *s)
{
	bool polls = !s->inbox_count && !s->ended;
	struct evering_request r;
	struct frame f;
	uint64_t t;
	int ret;

	s->takes = true;
	t = doing(s, "next", 0, 0, 0);
	f = enter(s);
	ret = evering_op_next(s->ops, &r, EVERING_NOWAIT);
	leave(s, f, polls, false);
	returned(t, ret);
	if (!s->inbox_count) {
		MUST_BE(ret, s->ended ? -EPIPE : -EAGAIN);
		return ret;
	}
	MUST_BE(ret, 0);
	check_request(s, &s->held[s->inbox[s->inbox_first]], &r);
	s->inbox_first = (s->inbox_first + 1) % MAX_PLACES;
	s->inbox_count--;
	return 0;
}

/* ------------------------------------------------------------------ episodes */

static void open_table(struct side *s)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	uint32_t most = (w.mask + 1) / 4 * 3;
	struct evering_ops *ops;
	uint64_t t;

	p.depth = one_in(4) ? EVERING_OPS_DEFAULT :
		  one_in(4) ? most :
			      (uint32_t)below(most + 1);
	p.serve = one_in(4) ? EVERING_OPS_DEFAULT :
		  one_in(4) ? most :
			      (uint32_t)below(most + 1);
	p.request = one_in(2) ? on_request : NULL;
	p.cancelled = one_in(2) ? on_cancelled : NULL;
	p.context = s;
	t = doing(s, "open", p.depth, p.serve, p.request != NULL);
	if (one_in(4)) {
		p.depth += most + 1;
		if (p.depth > most)
			MUST_BE(evering_ops_open(s->ev, &p, &ops), -EINVAL);
		p.depth -= most + 1;
	}
	MUST_BE(evering_ops_open(s->ev, &p, &s->ops), 0);
	scan(other(s));
	returned(t, 0);
	MUST_BE(evering_ops_open(s->ev, &p, &ops), -EBUSY);
	s->params = p;
	if (p.depth == EVERING_OPS_DEFAULT)
		s->params.depth = (w.mask + 1) / 2;
	if (p.serve == EVERING_OPS_DEFAULT)
		s->params.serve = (w.mask + 1) / 2;
}

static void act(struct side *s)
{
	bool calling = s->calling;
	uint32_t called = s->called;
	uint64_t n;

	s->calling = false;
	w.step++;
	if (!s->ops) {
		if (one_in(4))
			open_table(s);
		else if (one_in(2))
			act_alloc(s);
		else
			act_free(s);
		return;
	}
	n = below(100);
	/* There are times in which few ask, and such in which most do. */
	if (n < 24) {
		if (w.mood != 1 || one_in(4))
			act_submit(s);
		else
			act_answer(s);
	} else if (n < 38) {
		if (w.mood != 2 || one_in(4))
			act_answer(s);
		else
			act_submit(s);
	} else if (n < 48) {
		act_poll(s);
	} else if (n < 54) {
		act_next(s);
	} else if (n < 63) {
		act_alloc(s);
	} else if (n < 73) {
		act_free(s);
	} else if (n < 77) {
		act_prepare(s);
	} else if (n < 82) {
		act_start(s);
	} else if (n < 87) {
		act_cancel(s);
	} else if (n < 91) {
		act_done(s);
	} else if (n < 94) {
		act_wait_any(s);
	} else {
		switch (n) {
		case 94:
			act_wait_all(s);
			break;
		case 95:
			act_call(s);
			break;
		case 96:
			act_timeout(s);
			break;
		case 97:
			act_arm(s);
			break;
		default:
			act_flush(s);
		}
	}
	check_info(s);
	s->calling = calling;
	s->called = called;
}

/* Answers, takes, frees and cancels all that it can. */
static void tidy(struct side *s)
{
	struct held *h;
	struct op *op;
	struct buf *b;

	if (!s->ops)
		open_table(s);
	while (act_next(s) == 0)
		;
	while ((h = pick_held(s)))
		answer(s, h);
	while (act_wait_any(s) == 0)
		;
	while (s->prepared) {
		op = pick_op(s, true);
		MUST(op && op->prepared);
		cancel(s, op->id, (unsigned int)below(4));
	}
	while ((b = pick_buf(s, OWN)))
		free_at(s, address_of(s, s->me, b));
	while ((b = pick_buf(other(s), THEIRS)))
		free_at(s, address_of(s, !s->me, b));
	act_flush(s);
	check_info(s);
}

static bool is_tidy(const struct side *s)
{
	return s->opened && !s->in_flight && !s->abandoned && !s->done &&
	       !s->holding && !s->homebound && !s->live;
}

/* All of the arena is there to be had at once. */
static void check_whole(struct side *s)
{
	void *p;

	MUST_BE(s->live, 0);
	if (!s->arena)
		return;
	p = evering_alloc(s->ev, s->arena, 0);
	MUST(p == s->base, ": not all of the arena is back");
	MUST_BE(evering_free(s->ev, p), 0);
}

/* Everything is answered and freed, and all goes home. */
static void drain(void)
{
	int i, rounds;

	w.calm = true;
	for (rounds = 0; !is_tidy(&w.side[0]) || !is_tidy(&w.side[1]);
	     rounds++) {
		MUST(rounds < 10000, ": it never ends");
		for (i = 0; i < 2; i++)
			tidy(&w.side[i]);
	}
	for (i = 0; i < 2; i++)
		check_whole(&w.side[i]);
	w.calm = false;
}

/* Closes the table, with what is in it; and then the endpoint. */
static void leave_channel(struct side *s)
{
	struct evering *ev = s->ev;
	struct buf *b;
	uint32_t i;

	s->closing = true;
	if (s->ops && one_in(2)) {
		doing(s, "ops_close", 0, 0, 0);
		evering_ops_close(s->ops);
		scan(other(s));
		for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++)
			if (s->op[i].live && s->op[i].prepared)
				unprepare(s, &s->op[i]);
			else
				MUST(!s->op[i].live || !s->op[i].open ||
				     !s->op[i].cb);
		s->ops = NULL;
		/* What the peer may still look at stays as it is. */
		for (i = 0; i < MAX_BUFS; i++) {
			b = &s->bufs[i];
			if (b->live && !b->hidden)
				free_at(s, address_of(s, s->me, b));
		}
	}
	doing(s, "close", 0, 0, 0);
	evering_close(ev);
	s->ev = NULL;
	s->ops = NULL;
	scan(other(s));
	for (i = 0; i < s->depth + 1 + EVERING_OP_SPARE; i++)
		if (s->op[i].live && !s->op[i].prepared)
			MUST(!s->op[i].open || !s->op[i].cb);
}

/* The other side has gone in good order. */
static void survive(struct side *s)
{
	uint64_t n;

	MUST_BE(evering_peer(s->ev), EVERING_PEER_CLOSED);
	s->gone = true;
	for (n = below(60); n; n--)
		act(s);
	if (!s->ops)
		open_table(s);
	while (!s->ended)
		act_poll(s);
	for (n = below(60); n; n--)
		act(s);
	w.calm = true;
	tidy(s);
	MUST_BE(s->holding, 0);
	MUST_BE(s->in_flight, 0);
	MUST_BE(s->done, 0);
	MUST_BE(s->abandoned, 0);
	check_whole(s);
	w.calm = false;
}

static void set_up(const struct evering_params *p, struct evering *ev[2])
{
	struct side *s;
	int i;

	w.mask = p->entries - 1;
	w.payload = p->slot_size - EVERING_STAMP_SIZE;
	w.max_data = w.payload - (uint32_t)sizeof(struct evering_op_header);
	w.shared = p->flags & EVERING_SHARED_ARENA;
	for (i = 0; i < 2; i++) {
		s = &w.side[i];
		s->me = i;
		s->ev = ev[i];
		s->arena = p->arena_size[i];
		s->base = evering_arena(ev[i], NULL);
		s->peer_base = (unsigned char *)(uintptr_t)evering_peer_buffer(
			ev[i], 0, 0);
		s->limit = UINT64_MAX;
	}
}

/* Slots, entries and arenas of any size, the small ones not less often. */
static struct evering_params some_params(uint32_t backend, uint64_t *rng)
{
	static const uint32_t pages[] = { 0, 1, 1, 2, 3, 16, 16, 64, 256 };
	struct evering_params p = params_on(backend);
	int i;

	p.flags = random_below(rng, 2) ? EVERING_SHARED_ARENA : 0;
	p.slot_size = EVERING_OPS_MIN_SLOT << random_below(rng, 3);
	p.entries = 4u << random_below(rng, 7);
	for (i = 0; i < 2; i++)
		p.arena_size[i] =
			PAGE * pages[random_below(rng, ARRAY_SIZE(pages))];
	return p;
}

/* Returns whether everything was as it should be. */
static bool episode(uint32_t backend, uint64_t seed)
{
	static struct evering *ev[2];
	struct evering_params p;
	uint64_t n, lean;
	struct side *s;

	memset(&w, 0, sizeof(w));
	w.seed = seed;
	w.rng = seed;
	p = some_params(backend, &w.rng);
	if (setjmp(w.escape))
		return false;
	MUST_BE(evering_pair(&p, ev), 0);
	set_up(&p, ev);

	lean = 5;
	for (n = 100 + below(4000); n; n--) {
		if (n % 128 == 0) {
			lean = 1 + below(9);
			w.mood = (int)below(4);
		}
		w.calm = n % 1024 < 128;
		s = &w.side[below(10) < lean];
		act(s);
	}
	w.calm = false;
	if (one_in(3)) {
		drain();
		close_pair(ev);
		return true;
	}
	s = &w.side[below(2)];
	leave_channel(other(s));
	survive(s);
	evering_close(s->ev);
	return true;
}

FIXTURE(ownership)
{
	uint64_t seed;
};

BACKEND_VARIANTS(ownership);

FIXTURE_SETUP(ownership)
{
	REQUIRE_BACKEND(variant->backend);
	self->seed = random_seed();
}

FIXTURE_TEARDOWN(ownership)
{
}

TEST_F_TIMEOUT(ownership, the_library_agrees_with_the_model, 300)
{
	uint64_t most = short_run() ? 100000 : 3000000;
	uint64_t steps = 0, episodes = 0, rng = self->seed, seed;

	for (seed = self->seed; steps < most; seed = random_u64(&rng)) {
		ASSERT_TRUE(episode(variant->backend, seed));
		steps += w.step;
		episodes++;
	}
	printf("# %llu steps in %llu episodes\n", (unsigned long long)steps,
	       (unsigned long long)episodes);
}

/* ------------------------------------------------------------- two processes */

/*
 * Each side knows what it has, and whatever it is sent says by its opcode or its
 * result what it holds.
 */

#define MAX_HAD		64
#define MAX_JOBS	MAX_PLACES
#define MAX_HEARD	32

/**
 * struct had - a buffer of either arena that is this side's
 * @good: bytes that hold @serial
 */
struct had {
	unsigned char *p;
	uint64_t len, good;
	uint32_t serial;
};

/**
 * struct job - an operation of this side's
 * @lent: with it
 * @detached: its buffer does not come back
 */
struct job {
	bool used, prepared, asked, detached, timed, cb;
	uint64_t id;
	uint32_t serial, flags;
	struct had lent;
};

static struct actor {
	struct evering *ev;
	struct evering_ops *ops;
	bool nested, next, ended;
	unsigned char *base;
	uint64_t arena;
	struct had had[MAX_HAD];
	unsigned int n_had;
	struct job jobs[MAX_JOBS];
	struct evering_request held[MAX_PLACES];
	unsigned int n_held, n_jobs;
	uint64_t submitted, outcomes, received;
	bool listens; /* has a callback for messages */
	bool tells;   /* sends one, whose number is taken */
	struct evering_msg heard[MAX_HEARD];
	uint32_t heard_serial[MAX_HEARD];
	unsigned int n_heard;
	uint32_t store, told_messages, heard_messages;
} me;

static uint32_t new_serial(void)
{
	return w.serial = (w.serial & 1u << 30) |
			  ((w.serial + 1) & ((1u << 30) - 1));
}

static bool in_own_arena(const void *p)
{
	return (uintptr_t)p - (uintptr_t)me.base < me.arena;
}

/* Now it is this side's, and was nobody else's. */
static void get(unsigned char *p, uint64_t len, uint64_t good, uint32_t serial)
{
	const struct job *job;
	unsigned int i;

	for (i = 0; i < me.n_had; i++)
		MUST(me.had[i].p != p);
	/* What was lent to the end of those, the library may have freed. */
	for (job = me.jobs; job < me.jobs + MAX_JOBS; job++)
		MUST(!job->used || job->detached || job->timed ||
		     job->lent.p != p);
	MUST(holds(p, good, serial));
	MUST(me.n_had < MAX_HAD);
	me.had[me.n_had++] = (struct had){ p, len, good, serial };
}

static void check_had(const struct had *had)
{
	MUST(holds(had->p, had->good, had->serial), ": %s arena, %llu bytes",
	     in_own_arena(had->p) ? "own" : "peer's",
	     (unsigned long long)had->good);
}

static struct had lose(unsigned int i)
{
	struct had had = me.had[i];

	check_had(&had);
	me.had[i] = me.had[--me.n_had];
	return had;
}

static bool could_get(void)
{
	return me.n_had + MAX_JOBS / 8 < MAX_HAD;
}

/* What was lent is this side's again, and is as it was unless it may be written. */
static void get_back(struct job *job)
{
	struct had lent = job->lent;

	if (!lent.p)
		return;
	job->lent.p = NULL;
	get(lent.p, lent.len, w.shared && !job->prepared ? 0 : lent.good,
	    lent.serial);
}

static void job_ended(const struct evering_completion *c)
{
	struct job *job = &me.jobs[(uintptr_t)c->user - 1];

	MUST((uintptr_t)c->user - 1 < MAX_JOBS);
	MUST(job->used && !job->prepared);
	MUST(c->id == job->id || !job->id);
	MUST_BE(c->ext, ext_of(job->serial));
	me.outcomes++;
	me.n_jobs--;
	switch (c->result) {
	case -ETIMEDOUT:
		MUST(job->timed);
		break;
	case -ECANCELED:
		MUST(job->detached || job->asked);
		if (!job->detached)
			get_back(job);
		break;
	case -EPIPE:
		MUST(!w.child);
		get_back(job);
		break;
	default:
		MUST(c->result >= 0 && !job->asked && !job->detached);
		MUST(holds(c->data, c->len, (uint32_t)c->result));
		if (c->buf && c->buf == job->lent.p) {
			MUST(w.shared);
			job->lent.serial = (uint32_t)c->result;
			job->lent.good = c->buf_len;
			MUST(holds(c->buf, c->buf_len, (uint32_t)c->result));
			job->used = false;
			get(c->buf, job->lent.len, c->buf_len,
			    (uint32_t)c->result);
			return;
		}
		get_back(job);
		job->used = false;
		if (c->buf)
			get(c->buf, c->buf_len, c->buf_len,
			    (uint32_t)c->result);
		return;
	}
	MUST(!c->buf && !c->len);
	job->used = false;
}

static void do_something(void);

static void job_done(struct evering_ops *ops,
		     const struct evering_completion *c)
{
	(void)ops;
	doing(&w.side[0], "  done", c->id, (uint64_t)c->result, c->len);
	job_ended(c);
	if (!me.nested && one_in(4)) {
		me.nested = true;
		do_something();
		me.nested = false;
	}
}

static void request_came(const struct evering_request *r)
{
	doing(&w.side[0], "  request", r->id, r->flags, r->len);
	MUST(me.n_held < MAX_PLACES);
	MUST(holds(r->data, r->len, r->opcode));
	MUST((r->flags & ~EVERING_POST) ? r->buf != NULL : !r->buf);
	if (r->buf) {
		MUST(holds(r->buf, r->buf_len, r->opcode));
		if (r->flags & EVERING_GIVE)
			get(r->buf, r->buf_len, r->buf_len, r->opcode);
	}
	me.received++;
	MUST(!r->id == !!(r->flags & EVERING_POST));
	if (r->id)
		me.held[me.n_held++] = *r;
}

static void on_came(struct evering_ops *ops, const struct evering_request *r,
		    void *context)
{
	(void)ops;
	(void)context;
	request_came(r);
	if (!me.nested && one_in(4)) {
		me.nested = true;
		do_something();
		me.nested = false;
	}
}

static bool ended(int ret)
{
	if (ret != -EPIPE)
		return false;
	MUST(!w.child);
	me.ended = true;
	return true;
}

static void do_submit(void)
{
	struct evering_op op = { 0 };
	unsigned char data[EVERING_MAX_SLOT];
	struct had had = { 0 };
	bool prepare = one_in(8), own;
	struct job *job;
	uint64_t t;
	unsigned int i;
	int ret;

	for (i = 0; me.jobs[i].used; i++)
		if (i + 1 == MAX_JOBS)
			return;
	job = &me.jobs[i];
	*job = (struct job){ .serial = new_serial() };
	op.len = (uint32_t)below(w.max_data - BUFFER_TAIL + 1);
	if (me.n_had && one_in(2)) {
		had = me.had[i = (unsigned int)below(me.n_had)];
		own = in_own_arena(had.p);
		if (had.good) {
			job->serial = had.serial;
			op.flags = own && one_in(2) ? EVERING_LEND :
						      EVERING_GIVE;
			op.buf = had.p;
			op.buf_len = 1 + below(had.good);
			lose(i);
		}
	}
	fill(data, op.len, job->serial);
	op.opcode = job->serial;
	op.data = data;
	job->cb = one_in(2);
	op.done = job->cb ? job_done : NULL;
	op.user = (void *)(uintptr_t)(job - me.jobs + 1);
	op.ext = ext_of(job->serial);
	if (one_in(6)) {
		op.timeout_ns = 1 + (int64_t)below(100 * USEC);
		job->timed = true;
	}
	job->flags = op.flags;
	job->used = true;
	job->prepared = prepare;
	if (op.flags == EVERING_LEND || (prepare && op.flags))
		job->lent = had;
	me.n_jobs++;
	t = doing(&w.side[0], prepare ? "prepare" : "submit", op.flags,
		  (uintptr_t)op.buf, op.len);
	if (prepare)
		ret = evering_op_prepare(me.ops, &op, &job->id);
	else
		ret = evering_op_submit(
			me.ops, &op, &job->id,
			me.nested || !one_in(8) ? EVERING_NOWAIT : 20 * USEC);
	returned(t, ret);
	if (!ret) {
		me.submitted += !prepare;
		return;
	}
	MUST(ret == -EAGAIN || ret == -ETIMEDOUT || ended(ret));
	job->used = false;
	me.n_jobs--;
	if (op.flags)
		get(had.p, had.len, had.good, had.serial);
}

static struct job *some_job(bool prepared)
{
	unsigned int i, at = (unsigned int)below(MAX_JOBS);
	struct job *job;

	for (i = 0; me.n_jobs && i < MAX_JOBS; i++) {
		job = &me.jobs[(at + i) % MAX_JOBS];
		if (job->used && job->id && job->prepared == prepared)
			return job;
	}
	return NULL;
}

static void do_start(void)
{
	struct job *job = some_job(true);
	struct had had;
	uint64_t t, id;
	int ret;

	if (!job)
		return;
	id = job->id;
	t = doing(&w.side[0], "start", id, 0, 0);
	had = job->lent;
	job->id = 0; /* callbacks leave it alone */
	job->prepared = false;
	if (job->flags == EVERING_GIVE)
		job->lent.p = NULL;
	ret = evering_op_start(me.ops, id, EVERING_NOWAIT);
	job->id = id;
	returned(t, ret);
	if (!ret) {
		me.submitted++;
		return;
	}
	MUST(ret == -EAGAIN || ended(ret));
	job->prepared = true;
	job->lent = had;
}

static void do_unprepare(struct job *job)
{
	doing(&w.side[0], "unprepare", job->id, 0, 0);
	MUST_BE(evering_op_cancel(me.ops, job->id, 0), 0);
	get_back(job);
	job->used = false;
	me.n_jobs--;
}

static void do_cancel(void)
{
	struct job *job = some_job(one_in(4));
	unsigned int flags = (unsigned int)below(4);
	bool was;
	uint64_t t;
	int ret;

	if (!job)
		return;
	if (job->prepared) {
		do_unprepare(job);
		return;
	}
	/* Who then has the buffer, the outcome would not tell. */
	if (job->timed)
		flags |= EVERING_CANCEL_DETACH;
	was = flags & EVERING_CANCEL_DETACH ? job->detached : job->asked;
	if (flags & EVERING_CANCEL_DETACH)
		job->detached = true;
	else
		job->asked = true;
	t = doing(&w.side[0], "cancel", job->id, flags, 0);
	ret = evering_op_cancel(me.ops, job->id, flags);
	returned(t, ret);
	if (!ret)
		return;
	MUST_BE(ret, -EALREADY);
	if (flags & EVERING_CANCEL_DETACH)
		job->detached = was;
	else
		job->asked = was;
}

static void do_take(void)
{
	struct job *job = some_job(false);
	struct evering_completion c;
	uint64_t t;
	int ret;

	if (!could_get())
		return;
	t = doing(&w.side[0], "take", job ? job->id : 0, 0, 0);
	if (job && one_in(2)) {
		ret = evering_op_done(me.ops, job->id, &c);
		MUST(ret == 0 || ret == (job->cb ? -ENOENT : -EAGAIN));
	} else {
		ret = evering_op_wait_any(me.ops, &c, EVERING_NOWAIT);
		MUST(ret == 0 || ret == -EAGAIN || ret == -ENOENT ||
		     ended(ret));
	}
	returned(t, ret);
	if (!ret)
		job_ended(&c);
}

static void do_answer(unsigned int i)
{
	struct evering_request r = me.held[i];
	unsigned char data[EVERING_MAX_SLOT];
	uint32_t serial = new_serial();
	uint32_t len = (uint32_t)below(w.max_data + 1);
	struct had had = { 0 };
	uint64_t t;
	int ret;

	MUST(holds(r.data, r.len, r.opcode));
	if (r.flags == EVERING_LEND)
		MUST(holds(r.buf, r.buf_len, r.opcode));
	me.held[i] = me.held[--me.n_held];
	t = doing(&w.side[0], "answer", r.id, 0, 0);
	if (w.shared && r.flags == EVERING_LEND && one_in(2)) {
		len = 1 + (uint32_t)below(r.buf_len);
		fill(r.buf, len, serial);
		ret = evering_op_answer_buffer(me.ops, r.id, (int)serial, r.buf,
					       len);
	} else if (me.n_had && one_in(3)) {
		had = me.had[i = (unsigned int)below(me.n_had)];
		if (had.good) {
			lose(i);
			ret = evering_op_answer_buffer(me.ops, r.id,
						       (int)had.serial, had.p,
						       1 + below(had.good));
			if (ret)
				get(had.p, had.len, had.good, had.serial);
		} else {
			ret = evering_op_answer(me.ops, r.id, (int)serial, NULL,
						0);
		}
	} else {
		fill(data, len, serial);
		ret = evering_op_answer(me.ops, r.id, (int)serial, data, len);
	}
	returned(t, ret);
	MUST(ret == 0 || ended(ret));
}

static void do_next(void)
{
	struct evering_request r;
	int ret;

	if (!me.next || !could_get())
		return;
	ret = evering_op_next(me.ops, &r, EVERING_NOWAIT);
	MUST(ret == 0 || ret == -EAGAIN || ended(ret));
	if (!ret)
		request_came(&r);
}

/* A post gives what is this side's, or nothing. */
static void do_post(void)
{
	struct evering_op op = { .opcode = new_serial() };
	unsigned char data[EVERING_MAX_SLOT];
	struct had had = { 0 };
	unsigned int i;
	uint64_t t;
	int ret;

	op.len = (uint32_t)below(w.max_data - BUFFER_TAIL + 1);
	if (me.n_had && one_in(2)) {
		had = me.had[i = (unsigned int)below(me.n_had)];
		if (had.good) {
			op.opcode = had.serial;
			op.flags = EVERING_GIVE;
			op.buf = had.p;
			op.buf_len = 1 + below(had.good);
			lose(i);
		}
	}
	fill(data, op.len, op.opcode);
	op.data = data;
	t = doing(&w.side[0], "post", op.flags, (uintptr_t)op.buf, op.len);
	ret = evering_op_post(me.ops, &op,
			      me.nested || !one_in(8) ? EVERING_NOWAIT :
							20 * USEC);
	returned(t, ret);
	if (!ret)
		return;
	MUST(ret == -EAGAIN || ret == -ETIMEDOUT || ended(ret));
	if (op.flags)
		get(had.p, had.len, had.good, had.serial);
}

/* What the @n-th message of a side holds. */
static uint32_t message_serial(bool of_child, uint32_t n)
{
	return n | 1u << 29 | (of_child ? 1u << 30 : 0);
}

static void do_tell(void)
{
	static unsigned char text[MAX_ARENA + 1];
	uint64_t len = some_size(&w.rng, me.arena), t;
	struct iovec iov[2];
	int count = 1, ret;

	if (me.tells)
		return;
	if (one_in(2))
		len = below(w.max_data + 1);
	else if (one_in(16))
		len = me.arena + 1;
	fill(text, len, message_serial(w.child, me.told_messages));
	iov[0] = (struct iovec){ text, len };
	if (one_in(3)) {
		count = 2;
		iov[0].iov_len = below(len + 1);
		iov[1].iov_base = text + iov[0].iov_len;
		iov[1].iov_len = len - iov[0].iov_len;
	}
	t = doing(&w.side[0], "tell", me.told_messages, len, 0);
	me.tells = true;
	ret = evering_msg_send(me.ops, iov, count,
			       me.nested || !one_in(8) ? EVERING_NOWAIT :
							 20 * USEC);
	me.tells = false;
	returned(t, ret);
	if (!ret)
		me.told_messages++;
	else
		MUST(ret == -EAGAIN || ret == -ETIMEDOUT || ended(ret) ||
		     (ret == -EMSGSIZE && len > me.arena));
}

/* In order, and none is missing. */
static void message_came(const struct evering_msg *msg)
{
	uint32_t serial = message_serial(!w.child, me.heard_messages++);
	unsigned int i;

	doing(&w.side[0], "  message", msg->place, msg->len, 0);
	MUST(me.n_heard < me.store);
	MUST(holds(msg->data, msg->len, serial));
	for (i = 0; i < me.n_heard; i++)
		MUST(me.heard[i].place != msg->place &&
		     me.heard[i].data != msg->data);
	for (i = 0; i < me.n_had; i++)
		MUST(me.had[i].p != msg->data);
	me.heard[me.n_heard] = *msg;
	me.heard_serial[me.n_heard++] = serial;
}

static void on_message(struct evering_ops *ops, const struct evering_msg *msg,
		       void *context)
{
	(void)ops;
	(void)context;
	message_came(msg);
	if (!me.nested && one_in(4)) {
		me.nested = true;
		do_something();
		me.nested = false;
	}
}

static void do_hear(void)
{
	struct evering_msg msg;
	int ret;

	if (me.listens || !could_get())
		return;
	ret = evering_msg_recv(me.ops, &msg, EVERING_NOWAIT);
	MUST(ret == 0 || ret == -EAGAIN || ended(ret));
	if (!ret)
		message_came(&msg);
}

static void do_msg_free(void)
{
	unsigned int i = (unsigned int)below(me.n_heard + 1);
	struct evering_msg msg;

	if (i == me.n_heard)
		return;
	msg = me.heard[i];
	MUST(holds(msg.data, msg.len, me.heard_serial[i]));
	me.n_heard--;
	me.heard[i] = me.heard[me.n_heard];
	me.heard_serial[i] = me.heard_serial[me.n_heard];
	doing(&w.side[0], "msg_free", msg.place, 0, 0);
	MUST_BE(evering_msg_free(me.ops, &msg), 0);
	MUST_BE(evering_msg_free(me.ops, &msg), -EINVAL);
}

static void do_alloc(void)
{
	uint64_t len = some_size(&w.rng, me.arena);
	uint32_t serial;
	void *p;

	if (me.n_had > MAX_HAD / 4)
		return;
	p = evering_alloc(me.ev, len, 0);
	if (!p)
		return;
	serial = new_serial();
	fill(p, len, serial);
	get(p, len, len, serial);
}

static void do_free(void)
{
	struct had had;
	uint64_t t;

	if (!me.n_had)
		return;
	had = lose((unsigned int)below(me.n_had));
	t = doing(&w.side[0], "free", (uintptr_t)had.p, in_own_arena(had.p), 0);
	MUST_BE(evering_free(me.ev, had.p), 0);
	returned(t, 0);
}

/* Whoever polls may have to take many buffers. */
static void do_poll(void)
{
	uint64_t t;
	int ret;

	while (!could_get() && me.n_had)
		do_free();
	t = doing(&w.side[0], "poll", 0, 0, 0);
	if (!me.nested && one_in(2))
		ret = evering_ops_wait(me.ops, (int64_t)below(50 * USEC));
	else
		ret = evering_ops_poll(me.ops);
	returned(t, ret);
	MUST(ret >= 0 || ret == -EAGAIN || ret == -ETIMEDOUT || ended(ret));
}

static void do_something(void)
{
	w.step++;
	switch (below(22)) {
	case 0 ... 3:
		do_submit();
		break;
	case 4 ... 6:
		if (me.n_held)
			do_answer((unsigned int)below(me.n_held));
		break;
	case 7:
		do_alloc();
		break;
	case 8:
		do_free();
		break;
	case 9:
		do_cancel();
		break;
	case 10:
		do_start();
		break;
	case 11 ... 12:
		do_take();
		break;
	case 13:
		do_next();
		break;
	case 14:
		if (one_in(4))
			evering_ops_flush(me.ops);
		break;
	case 15:
		do_post();
		break;
	case 16 ... 17:
		do_tell();
		break;
	case 18:
		do_hear();
		break;
	case 19 ... 20:
		do_msg_free();
		break;
	default:
		do_poll();
	}
}

static void begin(struct evering *ev)
{
	struct evering_ops_params p = EVERING_OPS_PARAMS_INIT;
	struct evering_geometry g;

	memset(&me, 0, sizeof(me));
	evering_get_geometry(ev, &g);
	w.max_data = (uint32_t)evering_payload(ev) -
		     (uint32_t)sizeof(struct evering_op_header);
	w.shared = g.flags & EVERING_SHARED_ARENA;
	me.ev = ev;
	me.base = evering_arena(ev, &me.arena);
	me.next = one_in(2);
	p.depth = 1 + (uint32_t)below(24);
	p.serve = 1 + (uint32_t)below(24);
	if (p.depth > g.entries / 4 * 3)
		p.depth = EVERING_OPS_DEFAULT;
	if (p.serve > g.entries / 4 * 3)
		p.serve = EVERING_OPS_DEFAULT;
	p.request = me.next ? NULL : on_came;
	me.listens = one_in(2);
	p.message = me.listens ? on_message : NULL;
	p.store = (uint32_t)below(
		(g.entries < MAX_HEARD ? g.entries : MAX_HEARD) + 1);
	me.store = p.store;
	MUST_BE(evering_ops_open(ev, &p, &me.ops), 0);
}

/* In steps: most die young. */
static uint64_t some_life(void)
{
	return below(one_in(4) ? 20000 : 2000);
}

/* The one that dies, perhaps by its own hand. */
static int victim(struct evering *ev, void *arg)
{
	uint64_t seed = *(uint64_t *)arg, steps;

	memset(&w, 0, sizeof(w));
	w.child = true;
	w.seed = seed;
	w.rng = ~seed;
	w.serial = 1u << 30;
	steps = one_in(2) ? some_life() : UINT64_MAX;
	begin(ev);
	while (w.step < steps)
		do_something();
	raise(SIGKILL);
	return CHILD_FAILED;
}

/* The peer is dead, and the table knows. */
static void account(void)
{
	struct evering_ops_info info;
	struct evering_completion c;
	struct evering_request r;
	struct evering_msg msg;
	unsigned int i;
	int ret;

	MUST_BE(evering_peer(me.ev), EVERING_PEER_DIED);
	while (me.next && !evering_op_next(me.ops, &r, EVERING_NOWAIT)) {
		while (!could_get() && me.n_had)
			do_free();
		request_came(&r);
	}
	while (!me.listens && !evering_msg_recv(me.ops, &msg, EVERING_NOWAIT))
		message_came(&msg);
	while (me.n_heard)
		do_msg_free();
	while (me.n_held)
		do_answer(me.n_held - 1);
	while (!(ret = evering_op_wait_any(me.ops, &c, EVERING_NOWAIT))) {
		while (!could_get() && me.n_had)
			do_free();
		job_ended(&c);
	}
	MUST(ret == -ENOENT);
	for (i = 0; i < MAX_JOBS; i++) {
		MUST(!me.jobs[i].used || me.jobs[i].prepared);
		while (!could_get() && me.n_had)
			do_free();
		if (me.jobs[i].used)
			do_unprepare(&me.jobs[i]);
	}
	MUST_BE(me.outcomes, me.submitted);
	evering_ops_get_info(me.ops, &info);
	MUST_BE(info.in_flight, 0);
	MUST_BE(info.abandoned, 0);
	MUST_BE(info.done, 0);
	MUST_BE(info.held, 0);
	MUST_BE(info.messages, 0);
	while (me.n_had)
		do_free();
	if (me.arena)
		MUST(evering_alloc(me.ev, me.arena, 0) == me.base,
		     ": not all of the arena is back");
}

/* One channel, one death.  Returns whether everything was accounted for. */
static bool death(uint32_t backend, uint64_t seed)
{
	static struct evering_params p[2];
	static struct duo duo;
	static uint64_t steps;
	int status;

	memset(&w, 0, sizeof(w));
	w.seed = seed;
	w.rng = seed;
	p[0] = some_params(backend, &w.rng);
	p[1] = p[0];
	p[0].policy = (uint32_t)below(2);
	p[1].policy = (uint32_t)below(2);
	p[1].arena_size[0] = p[0].arena_size[1];
	p[1].arena_size[1] = p[0].arena_size[0];
	duo.ev = NULL;
	if (setjmp(w.escape)) {
		if (duo.ev)
			kill_and_reap(duo.pid);
		return false;
	}
	MUST_BE(duo_start(&duo, one_in(2), p, victim, &seed), 0);
	begin(duo.ev);
	steps = some_life();
	while (w.step < steps && !me.ended)
		do_something();
	/* It may be anywhere, or dead already. */
	kill(duo.pid, SIGKILL);
	for (steps = w.step + below(200); w.step < steps;)
		do_something();
	status = reap(duo.pid);
	MUST_BE(status, 128 + SIGKILL);
	while (!me.ended)
		do_poll();
	account();
	evering_close(duo.ev);
	return true;
}

TEST_F_TIMEOUT(ownership, who_survives_has_all_that_is_its_own, 300)
{
	int rounds = short_run() ? 40 : 400, warm = 10, i;
	int fds = 0, mappings = 0;
	uint64_t rng = self->seed, steps = 0, outcomes = 0, messages = 0;

	for (i = 0; i < rounds; i++) {
		ASSERT_TRUE(death(variant->backend, random_u64(&rng)));
		steps += w.step;
		outcomes += me.outcomes;
		messages += me.heard_messages;
		if (i == warm) {
			fds = count_fds();
			mappings = count_mappings();
		} else if (i > warm && (i % 32 == 0 || i == rounds - 1)) {
			ASSERT_EQ(fds, count_fds());
			ASSERT_EQ(mappings, count_mappings());
		}
	}
	printf("# %llu steps, %llu outcomes and %llu messages on the side that survived\n",
	       (unsigned long long)steps, (unsigned long long)outcomes,
	       (unsigned long long)messages);
}

TEST_HARNESS_MAIN
