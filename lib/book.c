// SPDX-License-Identifier: MIT
/*
 * book.c: a record for each granule of an arena, where most are never needed.
 *
 * Their memory is reserved whole and opened a chunk at a time, with the first record
 * that is written there.  Pages that nobody has touched would cost nothing either, but
 * for processes that have called mlockall(2): those get all that they may access, a
 * third of the arena for the allocator alone.
 *
 * A small book is opened whole: it is one mapping then, of which a process may have 65,530,
 * where one that is opened in parts is three.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define MAX_CHUNKS 1024u
#define SMALL_BOOK ((size_t)512 << 10)

/* What is known of it from its size. */
static void measure(struct book *b, uint32_t count, size_t record)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);

	/* A chunk of so many records is pages, whatever their size. */
	b->shift = (uint32_t)__builtin_ctz(page);
	while (count >> b->shift >= MAX_CHUNKS)
		b->shift++;
	b->record = record;
	b->count = count;
	b->size = ((size_t)(count >> b->shift) + 1) * (record << b->shift);
}

/* How much memory a book of @count records may be given; 0: it has its own, or none. */
size_t book_place(uint32_t count, size_t record)
{
	struct book b;

	if (!count)
		return 0;
	measure(&b, count, record);
	return b.size <= SMALL_BOOK ? b.size : 0;
}

/*
 * Nothing of it is open, unless it is small.
 * @place: zeroed memory, of book_place() bytes, which outlives it; NULL: it has its own
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

/* Makes the record with the number @n, of those there are, one that is open. */
int book__open(struct book *b, uint32_t n)
{
	uint32_t chunk = n >> b->shift;
	size_t size = b->record << b->shift;

	if (mprotect(b->base + chunk * size, size, PROT_READ | PROT_WRITE))
		return -ENOMEM;
	b->open[chunk / 64] |= (uint64_t)1 << chunk % 64;
	return 0;
}
