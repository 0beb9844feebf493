/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * evering: operations: what the entries hold if the two sides exchange requests and
 * answers.  Neither the device nor the rings depend on it.  It is a contract between the
 * two endpoints, for the library (evering_op.h) and for any program that talks to it.
 *
 * An entry is a struct evering_op_header with @len bytes of data behind it.  At the very
 * end, before the stamp and from there backwards, are: a struct evering_op_buffer, if the
 * entry brings one; then a struct evering_op_home for each buffer that goes home.
 *
 * Change log, by EVERING_OPS_VERSION
 *	1	first version
 *	2	POST, MESSAGE; evering_op_open.store and .reserved; HOME's @code
 *	3	EVERING_OP_AGAIN
 *	4	LEAVE; evering_op_open.flags, which was .reserved: EVERING_OP_OUTLIVES
 */
#ifndef _UAPI_LINUX_EVERING_OP_H
#define _UAPI_LINUX_EVERING_OP_H

#include <linux/evering.h>

#define EVERING_OPS_VERSION	4u
#define EVERING_OPS_MIN_SLOT	64u
#define EVERING_OP_GRANULE	64u	/* buffers begin at multiples of it */
#define EVERING_OP_INDEX_BITS	16
#define EVERING_OP_SPARE	32u	/* indices beyond those that may be in flight */

/* evering_op_header.type */
#define EVERING_OP_OPEN		1u	/* the first: data is evering_op_open */
#define EVERING_OP_REQUEST	2u
#define EVERING_OP_ANSWER	3u
#define EVERING_OP_CANCEL	4u	/* the answer to @id is not needed any more */
#define EVERING_OP_HOME		5u	/* buffers that go home, and credit */
#define EVERING_OP_POST		6u	/* a request that gets no answer */
#define EVERING_OP_MESSAGE	7u
#define EVERING_OP_LEAVE	8u	/* new requests are for a successor */

/* evering_op_header.flags: what the buffer is, and how many go home */
#define EVERING_OP_BUFFER	0x07u
#define EVERING_OP_LENT		1u	/* sender's, until the request is answered */
#define EVERING_OP_GIVEN	2u	/* sender's arena, the receiver's from now on */
#define EVERING_OP_BACK		3u	/* receiver's arena, and its own again */
#define EVERING_OP_IN_PLACE	4u	/* the answer is in the buffer that was lent */
#define EVERING_OP_AGAIN	0x08u	/* REQUEST: a predecessor may have begun it */
#define EVERING_OP_HOME_SHIFT	4
#define EVERING_OP_MAX_HOME	15u

/* evering_op_open.flags: this side outlives its peer, and may be sent a LEAVE */
#define EVERING_OP_OUTLIVES	1u

/**
 * struct evering_op_header - the beginning of each entry
 * @id: POST, MESSAGE, HOME, LEAVE: 0, not looked at.  Otherwise the operation: the low
 *	EVERING_OP_INDEX_BITS are the asking side's index, from 1 to EVERING_OP_SPARE more
 *	than may be in flight; above them is a generation, so that no two operations have
 *	the same @id
 * @type: EVERING_OP_OPEN to EVERING_OP_LEAVE
 * @flags: EVERING_OP_BUFFER and above
 * @len: bytes of data
 * @code: OPEN: EVERING_OPS_VERSION; REQUEST, POST: the opcode; ANSWER: the result;
 *	MESSAGE: 0, not looked at; HOME: how many of the receiver's posts and messages
 *	the sender has finished with since it opened its table, modulo 2^32
 */
struct evering_op_header {
	__aligned_u64 id;
	__u8 type;
	__u8 flags;
	__u16 len;
	__u32 code;
};

/**
 * struct evering_op_buffer - a buffer that comes with an entry
 * @granule: where the buffer begins in its arena, in units of EVERING_OP_GRANULE
 * @generation: which of all buffers that ever began there
 * @len_low: bytes of it that hold data, the low 32 bits
 * @len_high: the high 32 bits
 */
struct evering_op_buffer {
	__u32 granule;
	__u32 generation;
	__u32 len_low;
	__u32 len_high;
};

/**
 * struct evering_op_home - a buffer that goes home: its owner may use it again
 * @granule: as in struct evering_op_buffer
 * @generation: likewise
 */
struct evering_op_home {
	__u32 granule;
	__u32 generation;
};

/**
 * struct evering_op_open - what a side is ready for
 * @depth: the most requests that it wants in flight
 * @serve: the most requests of the peer that it can hold.  The number in flight never
 *	exceeds the lesser of one side's @depth and the other side's @serve.
 * @store: the most posts and messages of the peer that it stores.  The peer never has more
 *	than that many sent and not finished with, which HOME entries count.
 * @flags: EVERING_OP_OUTLIVES
 */
struct evering_op_open {
	__u32 depth;
	__u32 serve;
	__u32 store;
	__u32 flags;
};

/* As in <linux/evering.h>: the same to the byte, whatever compiles it. */
EVERING_ASSERT(sizeof(struct evering_op_header) == 16);
EVERING_AT(evering_op_header, len, 10);
EVERING_AT(evering_op_header, code, 12);
EVERING_ASSERT(sizeof(struct evering_op_buffer) == 16);
EVERING_ASSERT(sizeof(struct evering_op_home) == 8);
EVERING_ASSERT(sizeof(struct evering_op_open) == 16);
EVERING_ASSERT(EVERING_MAX_ENTRIES <= 1u << EVERING_OP_INDEX_BITS);
EVERING_ASSERT(EVERING_MAX_ARENA / EVERING_OP_GRANULE <= 1u << 30);

#endif /* _UAPI_LINUX_EVERING_OP_H */
