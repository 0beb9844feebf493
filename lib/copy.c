// SPDX-License-Identifier: MIT
/*
 * copy.c: copying payload that another CPU reads next.
 */
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "internal.h"

/*
 * From here on it is written past the caches, from which the reader would only have to
 * fetch it: see evering_ring.h.  What is shorter is still in them when it is read: one
 * copy and one read of 64 to 256 KiB take 1.7 to 15 times as long if it is written past
 * them, of 1 MiB and more 0.7 to 1.0 (evering bench --modes=message).
 */
#define STREAM_MIN ((size_t)1 << 20)

#ifdef __SSE2__
static void stream(unsigned char *to, const unsigned char *from, size_t len)
{
	size_t head = -(uintptr_t)to & 15, i;

	memcpy(to, from, head);
	to += head;
	from += head;
	len -= head;
	for (i = 0; i + 64 <= len; i += 64) {
		const __m128i *source = (const __m128i *)(from + i);
		__m128i a = _mm_loadu_si128(source);
		__m128i b = _mm_loadu_si128(source + 1);
		__m128i c = _mm_loadu_si128(source + 2);
		__m128i d = _mm_loadu_si128(source + 3);
		__m128i *target = (__m128i *)(to + i);

		_mm_stream_si128(target, a);
		_mm_stream_si128(target + 1, b);
		_mm_stream_si128(target + 2, c);
		_mm_stream_si128(target + 3, d);
	}
	memcpy(to + i, from + i, len - i);
	/* Such stores are ordered with no others: the stamp could be seen before. */
	_mm_sfence();
}
#endif

void *evering_copy(void *to, const void *from, size_t len)
{
#ifdef __SSE2__
	if (len >= STREAM_MIN) {
		stream(to, from, len);
		return to;
	}
#endif
	evering__copy(to, from, len);
	return to;
}
