/* SPDX-License-Identifier: MIT */
/*
 * message, request and relay: what every arm does to a message.  The sender has it in private
 * memory, write_message() in bench.h; the receiver gets it where its system puts it,
 * and reads every byte there, once.
 */
#ifndef MESSAGE_H
#define MESSAGE_H

#include "bench.h"

/*
 * Messages that may be on their way one way: so many bytes, which a cache holds, but
 * no fewer than two messages, one to be written while the other is read.
 */
#define MESSAGE_WINDOW (512u << 10)
#define MESSAGES_LEAST 2u
#define MESSAGES_MOST 16u

static inline uint32_t message_window(const struct job *job)
{
	uint64_t n = MESSAGE_WINDOW / job->size;

	if (!one_way(job))
		return 1;
	if (n < MESSAGES_LEAST)
		return MESSAGES_LEAST;
	return n < MESSAGES_MOST ? (uint32_t)n : MESSAGES_MOST;
}

/* sum.c: of all words, modulo 2^32; @buf may have any address. */
uint32_t sum_words(const void *buf, size_t len);

/* What write_message() made: its sum is known. */
static inline void read_message(struct side *s, const void *buf, size_t len,
				uint32_t number)
{
	size_t words = s->job->size / sizeof(uint32_t);
	uint32_t fill = s->server ? 0x53535353 : 0x52525252; /* 'S', 'R' */
	uint32_t want = (uint32_t)words * number;

	if (words > SLOT_MAX / sizeof(uint32_t))
		want = 2 * number + (uint32_t)(words - 2) * fill;
	if (len != s->job->size)
		fail(s, "message %u has %zu bytes", number, len);
	if (sum_words(buf, len) != want)
		fail(s, "message %u is not what was sent", number);
	s->done++;
}

/*
 * All operations of a side.  @out sends a message of so many bytes, which it may
 * not look at after it has returned; @in takes one and reads it.
 */
static inline __attribute__((always_inline)) void
carry_messages(struct side *s, uint64_t ops,
	       void (*out)(struct side *s, const void *buf, size_t len),
	       void (*in)(struct side *s, uint32_t number))
{
	bool both = !one_way(s->job);
	size_t len = s->job->size;

	for (; ops; ops--) {
		s->number++;
		if (s->server)
			in(s, s->number);
		if (both || !s->server) {
			write_message(s, s->source, len, s->number);
			out(s, s->source, len);
		}
		if (both && !s->server)
			in(s, s->number);
	}
}

#endif /* MESSAGE_H */
