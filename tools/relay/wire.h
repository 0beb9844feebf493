/* SPDX-License-Identifier: MIT */
/*
 * wire.h: what two relays say to each other.
 *
 * A link is one connection of libfabric, and carries messages of at most WIRE_MESSAGE bytes.
 * The first three prove that both sides have the same key, and are all that is looked at of
 * who has not proven it:
 *
 *	caller					answerer
 *	HELLO, a nonce, an identity  -->
 *				     <--	PROOF over both nonces, with its own
 *	PROOF over both nonces       -->
 *				     <--	READY
 *
 * Every later one is a row of records: a struct wire_record and @len bytes, filled up to a
 * multiple of WIRE_ALIGN.
 *
 * How channels cross
 * ------------------
 * A channel is two channels, C - A and B - S, with a relay at the end of each.  The half of A
 * is a copy of that of S, and B's of C's: entry number n of the one ring is entry number n of
 * the other, payload lies at the same place in both arenas, and an entry is released in the
 * one ring when it was in the other.  From that follows the rest:
 *
 * - What S has not released fits into B's ring, because C could not have sent more.  So
 *   neither relay ever stores an entry, and one that is stopped, or slow, is a ring that is
 *   full, and nobody else's matter.
 * - What is passed on lies in C's ring until S has released it, so C can send it to a
 *   successor of S as it would on one machine.
 * - A begins what it passes on (evering_begin()) before it does, and when S has gone goes
 *   back to what S had begun.  If the way, or a relay, is lost instead, all that was passed on
 *   counts as begun.
 * - Who reads operations need not know of it: indices, generations, credit and the places of
 *   buffers mean the same on both sides.  Buffers alone are looked for in the entries, since
 *   what lies in them is to be there first.
 *
 * All is in the byte order of this machine, and a relay of another one is refused.
 */
#ifndef RELAY_WIRE_H
#define RELAY_WIRE_H

#include <stdint.h>

#include <evering.h>

#define WIRE_VERSION	1u
#define WIRE_MAGIC	0x79616c7276650100ull
#define WIRE_MESSAGE	65536u
#define WIRE_ALIGN	8u
#define WIRE_NONCE	32u
#define WIRE_PROOF	32u
#define WIRE_NAME	64u /* with the zero at its end */

enum wire_greeting_kind {
	WIRE_HELLO = 1,
	WIRE_ANSWER = 2,
	WIRE_PROVEN = 3,
	WIRE_READY = 4,
	WIRE_REFUSED = 5,
};

/**
 * struct wire_greeting - before there is trust
 * @magic: WIRE_MAGIC
 * @version: WIRE_VERSION
 * @kind: enum wire_greeting_kind
 * @abi, @ops: EVERING_ABI_VERSION, EVERING_OPS_VERSION
 * @keepalive_ms: after so long without a word the sender of this ends the link
 * @error: REFUSED: negative errno
 * @identity: HELLO: which key
 * @nonce: HELLO, ANSWER: of who sends it
 * @proof: ANSWER, PROVEN: see auth.h
 */
struct wire_greeting {
	uint64_t magic;
	uint16_t version;
	uint16_t kind;
	uint16_t abi;
	uint16_t ops;
	uint32_t keepalive_ms;
	int32_t error;
	char identity[WIRE_NAME];
	unsigned char nonce[WIRE_NONCE];
	unsigned char proof[WIRE_PROOF];
};

enum wire_type {
	WIRE_NOTHING = 1, /* to say that this side lives */
	WIRE_ASK, /* may the caller have the name that follows? */
	WIRE_TOLD, /* @arg: 0, or negative errno */
	WIRE_OPEN, /* a struct wire_open */
	WIRE_OPENED, /* @arg: 0, or negative errno */
	WIRE_DATA, /* an uint64_t, and what is in the sender's peer's arena there */
	WIRE_ENTRIES, /* @arg of them */
	WIRE_RELEASED, /* @arg: so many in all */
	WIRE_END, /* @arg: enum evering_peer_state; a struct wire_end */
	WIRE_SILENT, /* this side has heard nothing, and gives the link up */
};

/**
 * struct wire_record - how each record begins
 * @channel: its number, which the caller has chosen; 0: of the link
 * @type: enum wire_type
 * @reserved: 0
 * @len: bytes behind this
 * @arg: see enum wire_type
 */
struct wire_record {
	uint32_t channel;
	uint16_t type;
	uint16_t reserved;
	uint32_t len;
	uint32_t arg;
};

/**
 * struct wire_open - a channel is wished for
 * @name: of what is served
 * @geometry: as the client has made it, who is EVERING_A
 */
struct wire_open {
	char name[WIRE_NAME];
	struct evering_geometry geometry;
};

/**
 * struct wire_end - how far who has gone had come
 * @released, @begun: entries that it had released and taken up, modulo 2^32
 * @known: the two mean something
 * @reserved: 0
 */
struct wire_end {
	uint32_t released;
	uint32_t begun;
	uint32_t known;
	uint32_t reserved;
};

#endif /* RELAY_WIRE_H */
