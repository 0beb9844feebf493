// SPDX-License-Identifier: MIT
/*
 * copy.c: copies payload that another CPU reads next.
 */
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "internal.h"

/*
 * Payload of this size or more is written past the caches, because the reader would
 * only have to fetch it from them: see evering_ring.h.  Shorter payload is still in the
 * caches when it is read.  If it is written past them, one copy and one read take 1.7
 * to 15 times as long for 64 to 256 KiB, and 0.7 to 1.0 times for 1 MiB and more
 * (evering bench --modes=message).
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
	/*
	 * Such stores are not ordered with others: the peer could see the stamp first.
	 */
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
