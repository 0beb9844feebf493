// SPDX-License-Identifier: MIT
/*
 * book.c: a record for each granule of an arena; most are never needed.
 *
 * The address range is reserved as a whole, and opened in chunks: when a first record
 * is written in a chunk.  Untouched pages would cost nothing either, except in a
 * process that has called mlockall(2).  Such a process gets all memory that it may
 * access, which is a third of the arena for the allocator alone.
 *
 * A small book is opened as a whole.  It is then one mapping, of the 65,530 that a
 * process may have; a book that is opened in parts takes three.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define MAX_CHUNKS 1024u
#define SMALL_BOOK ((size_t)512 << 10)

/* Sets what follows from the size of a book. */
static void measure(struct book *b, uint32_t count, size_t record)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);

	/*
	 * A chunk of so many records is a whole number of pages, whatever the size of a
	 * record.
	 */
	b->shift = (uint32_t)__builtin_ctz(page);
	while (count >> b->shift >= MAX_CHUNKS)
		b->shift++;
	b->record = record;
	b->count = count;
	b->size = ((size_t)(count >> b->shift) + 1) * (record << b->shift);
}

/*
 * How many bytes the caller provides for a book of @count records; 0: the book maps its
 * own, or needs none.
 */
size_t book_place(uint32_t count, size_t record)
{
	struct book b;

	if (!count)
		return 0;
	measure(&b, count, record);
	return b.size <= SMALL_BOOK ? b.size : 0;
}

/*
 * Initializes a book.  No part of it is open, unless it is small.
 * @place: zeroed memory of book_place() bytes, which outlives the book; NULL: it maps
 *	its own
 *
 * 0; -ENOMEM.
 */
int book_init(struct book *b, uint32_t count, size_t record, void *place)
{
	int prot = PROT_NONE;
	void *base = place;

	if (!count)
		return 0;
	measure(b, count, record);
	if (b->size <= SMALL_BOOK) {
		prot = PROT_READ | PROT_WRITE;
		memset(b->open, 0xff, sizeof(b->open));
	}
	if (!place) {
		base = mmap(NULL, b->size, prot,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (base == MAP_FAILED)
			return -ENOMEM;
		b->own = true;
	}
	b->base = base;
	return 0;
}

void book_destroy(struct book *b)
{
	if (b->own)
		munmap(b->base, b->size);
}

/* Opens the chunk of record @n. */
int book__open(struct book *b, uint32_t n)
{
	uint32_t chunk = n >> b->shift;
	size_t size = b->record << b->shift;

	if (mprotect(b->base + chunk * size, size, PROT_READ | PROT_WRITE))
		return -ENOMEM;
	b->open[chunk / 64] |= (uint64_t)1 << chunk % 64;
	return 0;
}
