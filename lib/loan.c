// SPDX-License-Identifier: MIT
/*
 * loan.c: buffers of the peer's arena that this side has, and their return.
 *
 * The peer's allocator is private to the peer.  This file records the buffers that the
 * peer has lent or given, by the granule at which each starts.  So nothing else is
 * accepted as a buffer, and no buffer is given or returned twice.
 */
#include "ops.h"

static unsigned int loan_hold(const struct loan *loan)
{
	return loan->hold & LOAN_MASK;
}

/* The loan that starts at @buf; NULL: there never was one. */
static struct loan *loan_at(const struct ops *ops, const void *buf)
{
	const struct endpoint *e = ops_endpoint(ops);
	unsigned char *base = e->map[EVERING_REGION_ARENA(!e->end)];
	uint64_t offset = (uint64_t)((uintptr_t)buf - (uintptr_t)base);

	if (offset % EVERING_OP_GRANULE ||
	    offset / EVERING_OP_GRANULE >= ops->loan_count ||
	    !book_has(&ops->loans, (uint32_t)(offset / EVERING_OP_GRANULE)))
		return NULL;
	return loan_of(ops, (uint32_t)(offset / EVERING_OP_GRANULE));
}

static void *loan_address(const struct ops *ops, uint32_t granule)
{
	const struct endpoint *e = ops_endpoint(ops);
	unsigned char *base = e->map[EVERING_REGION_ARENA(!e->end)];

	return base + (size_t)granule * EVERING_OP_GRANULE;
}

/* Records a buffer of the peer's arena that arrives. */
static int loan_start(struct ops *ops, struct arrival *arrival,
		      unsigned int hold)
{
	uint32_t granule = arrival->name.granule;
	uint64_t size = (uint64_t)ops->loan_count * EVERING_OP_GRANULE;
	uint64_t offset = (uint64_t)granule * EVERING_OP_GRANULE;
	struct loan *loan;
	int ret;

	if (granule >= ops->loan_count || !arrival->buf_len ||
	    arrival->buf_len > size - offset)
		return -EPROTO;
	ret = peer_arena_see(ops_endpoint(ops), offset + arrival->buf_len);
	if (ret)
		return ret;
	if (book_open(&ops->loans, granule))
		return -ENOMEM;
	loan = loan_of(ops, granule);
	if (loan_hold(loan) != LOAN_NONE)
		return -EPROTO;
	loan->hold = arrival->name.generation << LOAN_BITS | hold;
	loan->len = arrival->buf_len;
	arrival->buf = loan_address(ops, granule);
	return 0;
}

/*
 * Takes the buffer of an entry and sets arrival->buf.  The code for the type of entry
 * checks which kind of buffer may come with it.  Returns 0; -EPROTO: the buffer is
 * invalid; -ENOMEM: no memory to record or to map it.
 */
int loan_arrived(struct ops *ops, struct arrival *arrival)
{
	const struct evering_op_buffer *name = &arrival->name;

	arrival->buf_len = (uint64_t)name->len_high << 32 | name->len_low;
	switch (arrival->header.flags & EVERING_OP_BUFFER) {
	case EVERING_OP_LENT:
		return loan_start(ops, arrival, LOAN_LENT);
	case EVERING_OP_GIVEN:
		return loan_start(ops, arrival, LOAN_GIVEN);
	case EVERING_OP_BACK:
		if (!arrival->buf_len)
			return -EPROTO;
		arrival->buf = arena_come_home(&ops_endpoint(ops)->arena,
					       name->granule, name->generation,
					       arrival->buf_len, false);
		return arrival->buf ? 0 : -EPROTO;
	case EVERING_OP_IN_PLACE:
		/* The request has its address. */
		return 0;
	default:
		return -EPROTO;
	}
}

/* Ends a loan: the request that it was lent with is answered, or it was given back. */
void loan_end(struct ops *ops, const void *buf)
{
	loan_at(ops, buf)->hold = LOAN_NONE;
}

/*
 * Prepares to give a buffer back with an entry.  Sets *@granule and *@generation, by
 * which the entry names it.  Returns 0; -EINVAL: @buf is not the start of a buffer that
 * this side was given, or is not known to be so long; -EBUSY: it is only lent.
 */
int loan_give_back(struct ops *ops, const void *buf, uint64_t len,
		   uint32_t *granule, uint32_t *generation)
{
	struct loan *loan = loan_at(ops, buf);

	if (loan && loan_hold(loan) == LOAN_LENT)
		return -EBUSY;
	if (!loan || loan_hold(loan) != LOAN_GIVEN || !len || len > loan->len)
		return -EINVAL;
	*granule = (uint32_t)(loan - loan_of(ops, 0));
	*generation = loan->hold >> LOAN_BITS;
	/* Until it is sent, the peer must not use it. */
	loan->hold |= LOAN_HOMEBOUND;
	return 0;
}

/*
 * Gives @buf to the peer; it is in this side's arena, or was given by the peer.  Sets
 * the @flags of the entry that it goes with, and its @name.  Returns 0; or an error of
 * evering_op_submit() for a buffer.
 */
int loan_give(struct ops *ops, void *buf, uint64_t len, uint8_t *flags,
	      struct evering_op_buffer *name)
{
	struct arena *arena = &ops_endpoint(ops)->arena;
	int ret;

	name->len_low = (uint32_t)len;
	name->len_high = (uint32_t)(len >> 32);
	if (arena_has(arena, buf)) {
		*flags = EVERING_OP_GIVEN;
		return arena_hand_out(arena, buf, len, HOLD_GIVEN,
				      &name->granule, &name->generation);
	}
	*flags = EVERING_OP_BACK;
	ret = loan_give_back(ops, buf, len, &name->granule, &name->generation);
	if (!ret)
		loan_end(ops, buf);
	return ret;
}

/* The buffer is not given back after all. */
void loan_keep(struct ops *ops, uint32_t granule, uint32_t generation)
{
	loan_of(ops, granule)->hold = generation << LOAN_BITS | LOAN_GIVEN;
}

/* Forgets the buffers that wait to be returned, because the peer is gone. */
void loan_forget(struct ops *ops)
{
	struct fifo *homebound = &ops->homebound;
	struct loan *loan;

	for (; homebound->count; homebound->count--) {
		loan = loan_of(ops, homebound->head);
		homebound->head = loan->next;
		loan->hold = LOAN_NONE;
	}
}

/* evering_free() of a buffer that is not in this side's arena. */
int ops_free(struct endpoint *e, void *buf)
{
	struct ops *ops = e->ops;
	struct loan *loan;
	uint32_t granule;

	loan = ops ? loan_at(ops, buf) : NULL;
	if (loan && loan_hold(loan) == LOAN_LENT)
		return -EBUSY;
	if (!loan || loan_hold(loan) != LOAN_GIVEN)
		return relics_free(e, buf);
	/* There is no peer to return it to. */
	if (ops->error) {
		loan->hold = LOAN_NONE;
		return 0;
	}
	granule = (uint32_t)(loan - loan_of(ops, 0));
	loan->hold |= LOAN_HOMEBOUND;
	if (ops->homebound.count++)
		loan_of(ops, ops->homebound.tail)->next = granule;
	else
		ops->homebound.head = granule;
	ops->homebound.tail = granule;
	ops_update(ops);
	/* A cold member has to look, to return the buffer. */
	if (e->member)
		group_touched(e);
	return 0;
}

/*
 * The next buffer from granule @from on that was given to this side; NONE: there is
 * none.
 */
uint32_t loan_next_given(const struct ops *ops, uint32_t from)
{
	for (; from < ops->loan_count; from++)
		if (book_has(&ops->loans, from) &&
		    loan_hold(loan_of(ops, from)) == LOAN_GIVEN)
			return from;
	return NONE;
}

uint32_t loan_count_given(const struct ops *ops)
{
	uint32_t count = 0, at = loan_next_given(ops, 0);

	for (; at != NONE; at = loan_next_given(ops, at + 1))
		count++;
	return count;
}

/* Starts with another arena of a peer, of which this side has nothing. */
void loan_renew(struct ops *ops)
{
	uint32_t i;

	for (i = 0; i < ops->loan_count; i++)
		if (book_has(&ops->loans, i))
			loan_of(ops, i)->hold = LOAN_NONE;
}

/*
 * Returns buffers, as many as there is room for in the bytes from @from to @to of an
 * entry, beginning at the end.  Returns how many.
 */
unsigned int loan_attach(struct ops *ops, unsigned char *slot, uint32_t from,
			 uint32_t to)
{
	struct fifo *homebound = &ops->homebound;
	unsigned int count = 0;
	struct evering_op_home home;
	struct loan *loan;

	while (homebound->count && count < EVERING_OP_MAX_HOME &&
	       to - from >= sizeof(home)) {
		loan = loan_of(ops, homebound->head);
		home.granule = homebound->head;
		home.generation = loan->hold >> LOAN_BITS;
		to -= (uint32_t)sizeof(home);
		memcpy(slot + to, &home, sizeof(home));
		homebound->head = loan->next;
		homebound->count--;
		loan->hold = LOAN_NONE;
		count++;
	}
	ops_update(ops);
	return count;
}

/* Takes @count returned buffers of this side's arena.  Returns 0; -EPROTO. */
int loan_come_home(struct ops *ops, const unsigned char *slot, uint32_t from,
		   uint32_t to, unsigned int count)
{
	struct arena *arena = &ops_endpoint(ops)->arena;
	struct evering_op_home home;

	if (count * sizeof(home) > to - from)
		return -EPROTO;
	while (count--) {
		to -= (uint32_t)sizeof(home);
		memcpy(&home, slot + to, sizeof(home));
		if (!arena_come_home(arena, home.granule, home.generation, 0,
				     true))
			return -EPROTO;
	}
	return 0;
}
