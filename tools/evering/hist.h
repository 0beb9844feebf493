/* SPDX-License-Identifier: MIT */
/*
 * A histogram of latencies, log-linear: values below 2^HIST_BITS each have their
 * own bucket, and every power of two above is cut into 2^HIST_BITS equal ones.  So
 * nothing is ever out of range, adding is a shift and an increment, and a
 * percentile is at most 1/2^HIST_BITS (1.6 %) too high.
 * (The layout of HdrHistogram, G. Tene, hdrhistogram.org.)
 */
#ifndef HIST_H
#define HIST_H

#include <stdint.h>

#define HIST_BITS 6
#define HIST_BUCKETS ((64 - HIST_BITS + 1) << HIST_BITS)

/* All zero is empty. */
struct hist {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint64_t bucket[HIST_BUCKETS];
};

static inline unsigned int hist_bucket(uint64_t value)
{
	unsigned int shift;

	if (value < 1u << HIST_BITS)
		return (unsigned int)value;
	shift = 63 - HIST_BITS - (unsigned int)__builtin_clzll(value);
	/* The top bit of value >> shift is the one that + 1 below stands for. */
	return (shift << HIST_BITS) + (unsigned int)(value >> shift);
}

/* The largest value that falls into bucket @i. */
static inline uint64_t hist_bucket_max(unsigned int i)
{
	unsigned int shift = i >> HIST_BITS;
	uint64_t top = (i & ((1u << HIST_BITS) - 1)) + 1;

	if (!shift)
		return i;
	/* Wraps to 2^64 - 1 for the last bucket, which is right. */
	return ((top + (1u << HIST_BITS)) << (shift - 1)) - 1;
}

static inline void hist_add(struct hist *h, uint64_t value)
{
	h->count++;
	h->sum += value;
	if (value > h->max)
		h->max = value;
	h->bucket[hist_bucket(value)]++;
}

static inline void hist_merge(struct hist *into, const struct hist *from)
{
	unsigned int i;

	into->count += from->count;
	into->sum += from->sum;
	if (from->max > into->max)
		into->max = from->max;
	for (i = 0; i < HIST_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
}

/*
 * The least value that @percent of all values do not exceed, 0 < @percent <= 100,
 * as exactly as the buckets know; 0 if there are none.
 */
static inline uint64_t hist_percentile(const struct hist *h, double percent)
{
	double exact = (double)h->count * percent / 100;
	uint64_t rank = (uint64_t)exact;
	uint64_t seen = 0;
	unsigned int i;

	if ((double)rank < exact || !rank)
		rank++;
	for (i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= rank)
			break;
	}
	if (i == HIST_BUCKETS || hist_bucket_max(i) > h->max)
		return h->max;
	return hist_bucket_max(i);
}

#endif /* HIST_H */
