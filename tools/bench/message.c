// SPDX-License-Identifier: MIT
/*
 * Arms: what messages of any length take at the least, without a system in between.
 * Places in shared memory, as many as message_window() says, are handed to and fro by
 * two words that each side spins on.  The sender copies a message into a place; what
 * the receiver does is the arm's:
 *
 * two-copies: it copies the message out, which reads every byte, too.
 * copy-and-read: it reads the message where it is.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "message.h"

/* One direction; 128 bytes apart, for the prefetcher that takes neighbours along. */
struct words {
	uint32_t sent __attribute__((aligned(128)));
	uint32_t taken __attribute__((aligned(128)));
};

struct floor {
	struct words *words; /* there, and back */
	unsigned char *places[2];
	unsigned char *memory;
	unsigned char *sink; /* private */
	uint32_t number[2]; /* sent, and received */
};

enum variant {
	TWO_COPIES,
	COPY_AND_READ
};

static size_t places_size(const struct job *job)
{
	return whole_pages(job->size) * message_window(job);
}

static size_t memory_size(const struct job *job)
{
	return whole_pages(2 * sizeof(struct words)) + 2 * places_size(job);
}

static void floor_open(struct side *s)
{
	struct floor *f = calloc(1, sizeof(*f));
	size_t size = memory_size(s->job);
	int fd = -1;

	if (f)
		f->sink = malloc(s->job->size);
	if (!f || !f->sink)
		fail(s, "no memory");
	memset(f->sink, 0, s->job->size);
	if (!s->server) {
		fd = memfd_create("floor", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)size))
			fail(s, "memfd: %m");
	}
	share_fds(s, &fd, 1);
	f->memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_POPULATE, fd, 0);
	if (f->memory == MAP_FAILED)
		fail(s, "mmap: %m");
	close(fd);
	f->words = (struct words *)f->memory;
	f->places[0] = f->memory + whole_pages(2 * sizeof(struct words));
	f->places[1] = f->places[0] + places_size(s->job);
	s->state = f;
}

static unsigned char *place(struct side *s, unsigned int way, uint32_t number)
{
	struct floor *f = s->state;

	return f->places[way] +
	       whole_pages(s->job->size) * (number % message_window(s->job));
}

static void floor_out(struct side *s, const void *buf, size_t len)
{
	struct floor *f = s->state;
	unsigned int way = s->server;
	struct words *w = &f->words[way];
	uint32_t n = f->number[0]++;

	while (n - __atomic_load_n(&w->taken, __ATOMIC_ACQUIRE) >=
	       message_window(s->job))
		relax();
	memcpy(place(s, way, n), buf, len);
	__atomic_store_n(&w->sent, n + 1, __ATOMIC_RELEASE);
}

static void floor_in(struct side *s, uint32_t number)
{
	struct floor *f = s->state;
	unsigned int way = !s->server;
	struct words *w = &f->words[way];
	uint32_t n = f->number[1]++;

	while (__atomic_load_n(&w->sent, __ATOMIC_ACQUIRE) == n)
		relax();
	if (s->arm->variant == TWO_COPIES) {
		memcpy(f->sink, place(s, way, n), s->job->size);
		check_message(s, f->sink, s->job->size, number);
	} else {
		read_message(s, place(s, way, n), s->job->size, number);
	}
	__atomic_store_n(&w->taken, n + 1, __ATOMIC_RELEASE);
}

static void floor_work(struct side *s, uint64_t ops)
{
	carry_messages(s, ops, floor_out, floor_in);
}

static void floor_close(struct side *s)
{
	struct floor *f = s->state;

	munmap(f->memory, memory_size(s->job));
	free(f->sink);
	free(f);
}

#define WHOLE                                                                  \
	{                                                                      \
		[MODE_MESSAGE] = ONLY(EVERING_BUSY), [MODE_REQUEST] = ONLY(    \
							     EVERING_BUSY)     \
	}

const struct arm two_copies_arm = {
	.name = "two-copies",
	.modes = WHOLE,
	.variant = TWO_COPIES,
	.open = floor_open,
	.work = floor_work,
	.close = floor_close,
};

const struct arm copy_and_read_arm = {
	.name = "copy-and-read",
	.modes = WHOLE,
	.variant = COPY_AND_READ,
	.open = floor_open,
	.work = floor_work,
	.close = floor_close,
};
