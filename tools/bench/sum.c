// SPDX-License-Identifier: MIT
/*
 * Reading every byte of a message, as fast as memcpy(3) reads: with what the CPU has,
 * not what the compiler may take for granted.
 */
#include "message.h"

/* What a library has received may begin at any byte. */
typedef uint32_t loose_word __attribute__((aligned(1), may_alias));
typedef uint32_t loose_words
	__attribute__((vector_size(32), aligned(1), may_alias));

static inline __attribute__((always_inline)) uint32_t sum(const void *buf,
							  size_t len)
{
	const char *at = buf, *end = at + len;
	loose_words wide[4] = { 0 };
	uint32_t all = 0;
	unsigned int i;

	for (; end - at >= 128; at += 128)
		for (i = 0; i < 4; i++)
			wide[i] += *(const loose_words *)(at + 32 * i);
	for (; at < end; at += 4)
		all += *(const loose_word *)at;
	wide[0] += wide[1] + wide[2] + wide[3];
	for (i = 0; i < 8; i++)
		all += wide[0][i];
	return all;
}

#ifdef __x86_64__
static __attribute__((target("avx2"))) uint32_t sum_avx2(const void *buf,
							 size_t len)
{
	return sum(buf, len);
}
#endif

uint32_t sum_words(const void *buf, size_t len)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return sum_avx2(buf, len);
#endif
	return sum(buf, len);
}
