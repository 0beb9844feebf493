/* SPDX-License-Identifier: MIT */
/*
 * fuzz.h: what the fuzzing targets share.
 *
 *	fuzz.c		bounds and leaks: guard pages round every mapping, descriptors
 *	peer.c		the hostile peer: whatever it may write, it writes
 *	ring_side.c	the victim, with the rings
 *	op_side.c	the victim, with operations
 *	fabric.c	a stand-in for libfabric, of the target wire
 *	fuzz_*.c	the targets, each a LLVMFuzzerTestOneInput()
 *	replay.c	main() for a target without libFuzzer
 *
 * An input is a program: a byte says what is done, the bytes behind it with what.
 * Where it ends everything is 0, and nothing more is done.
 */
#ifndef EVERING_FUZZ_H
#define EVERING_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MICROSECOND 1000ll
#define SECOND 1000000000ll

struct input {
	const uint8_t *at;
	const uint8_t *end;
};

static inline bool in_more(const struct input *in)
{
	return in->at < in->end;
}

static inline uint8_t in8(struct input *in)
{
	return in_more(in) ? *in->at++ : 0;
}

static inline uint16_t in16(struct input *in)
{
	uint16_t low = in8(in);

	return (uint16_t)(low | in8(in) << 8);
}

static inline uint32_t in32(struct input *in)
{
	uint32_t low = in16(in);

	return low | (uint32_t)in16(in) << 16;
}

static inline uint64_t in64(struct input *in)
{
	uint64_t low = in32(in);

	return low | (uint64_t)in32(in) << 32;
}

/* 0..@n - 1 */
static inline uint32_t in_below(struct input *in, uint32_t n)
{
	return in8(in) % n;
}

static inline void in_bytes(struct input *in, void *to, size_t len)
{
	uint8_t *bytes = to;

	while (len--)
		*bytes++ = in8(in);
}

/* fuzz.c */
struct fuzz_run {
	int fds;
};

extern unsigned int fuzz_look_every;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

__attribute__((noreturn)) void fuzz_failed(const char *what, const char *file,
					   int line);
void fuzz_begin(struct fuzz_run *run);
void fuzz_end(struct fuzz_run *run);
void fuzz_poison(struct evering *ev, bool poison);
void fuzz_before_sleep(void (*function)(void *arg), void *arg);
void fuzz_before_write(void (*function)(void *arg, int fd), void *arg);
int fuzz_pair(struct input *in, uint32_t min_slot, struct evering *ev[2]);

/* What must hold whatever the peer does. */
#define MUST(condition)                                              \
	do {                                                         \
		if (!(condition))                                    \
			fuzz_failed(#condition, __FILE__, __LINE__); \
	} while (0)

/* Reads both ends of what the library says can be read. */
static inline void fuzz_touch(const void *at, uint64_t len)
{
	const volatile unsigned char *bytes = at;

	if (len)
		(void)(bytes[0] + bytes[len - 1]);
}

/* peer.c */
#define PEER_SEEN 16u

/**
 * struct peer - the hostile peer
 * @ev: its endpoint, whose own functions it does not use; NULL: it has gone
 * @victim: oracle: the other endpoint, of which nothing is changed
 * @next: number of its next entry
 * @seen: number of the next of the victim's entries that it looks at
 * @heads, @names, @n_heads: those that it has seen
 * @asked: id of its last request
 * @tells: posts and messages that it has put into the ring
 * @told: of the victim's, how many it has seen
 * @finished: how many of them it has said to be finished with
 * @store: how many of them it stores, as it has said
 * @vague: it has written entries other than one after the other: nothing is known of
 *	what the victim finds
 * @rings: rings the victim's doorbells before each of its sleeps
 * @blocks: has made these so that who reads them waits
 * @opened: its first entry may have been an OPEN
 * @fatal, @fatal_at: the entry of this number must end the channel
 * @rung_rx, @rung_tx, @rung_tx_times: what its words held when it was rung last
 * @sleeps: how many of them there were in the victim's present step
 */
struct peer {
	struct endpoint *ev;
	const struct endpoint *victim;
	uint32_t next;
	uint32_t seen;
	struct evering_op_header heads[PEER_SEEN];
	struct evering_op_buffer names[PEER_SEEN];
	uint32_t n_heads;
	uint64_t asked;
	uint32_t tells;
	uint32_t told;
	uint32_t finished;
	uint32_t store;
	bool vague;
	bool rings;
	bool blocks;
	bool opened;
	bool fatal;
	uint32_t fatal_at;
	uint32_t rung_rx;
	uint32_t rung_tx;
	unsigned int rung_tx_times;
	unsigned int sleeps;
};

void peer_init(struct peer *p, struct evering *ev, struct evering *victim);
void peer_ring_step(struct peer *p, struct input *in);
void peer_op_step(struct peer *p, struct input *in);
void peer_open(struct peer *p, uint32_t depth, uint32_t serve, uint32_t store);
void peer_leave(struct peer *p);
void peer_ring(const struct peer *p);
void peer_before_sleep(void *arg);
void peer_before_write(void *arg, int fd);
void peer_check(const struct peer *p);

/* ring_side.c */
struct ring_side {
	struct evering *ev;
	const struct endpoint *e;
	bool alone; /* the peer does nothing while this side does something */
	uint32_t seen;
	uint32_t reserved;
	unsigned int waits;
	void *buf[8];
	uint64_t buf_len[8];
};

void ring_side_init(struct ring_side *s, struct evering *ev, bool alone);
void ring_side_step(struct ring_side *s, struct input *in);
void ring_side_end(struct ring_side *s);

/* op_side.c */
struct op_side;

struct op_side *op_side_open(struct evering *ev, struct input *in);
void op_side_step(struct op_side *s, struct input *in);
int op_side_wait(struct op_side *s, int64_t timeout_ns);
void op_side_end(struct op_side *s);

#endif /* EVERING_FUZZ_H */
