// SPDX-License-Identifier: MIT
/*
 * Medians and how sure they are.
 */
#include <math.h>
#include <stdlib.h>

#include "bench.h"

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/*
 * How many of the least, and of the greatest, of @n values can be left out so that
 * the rest still spans the median with 95 %: as many heads are thrown with n coins
 * in less than one case of 40.
 */
static uint32_t outside(uint32_t n)
{
	double p = pow(0.5, n), sum = p;
	uint32_t k = 0;

	while (sum <= 0.025) {
		k++;
		p *= (double)(n - k + 1) / k;
		sum += p;
	}
	return k;
}

struct summary summarize(const double *values, uint32_t count)
{
	static double sorted[MAX_ROUNDS];
	struct summary s = { 0, NAN, NAN, NAN, NAN };
	uint32_t i, k, n = 0;

	for (i = 0; i < count; i++)
		if (!isnan(values[i]))
			sorted[n++] = values[i];
	s.count = n;
	if (!n)
		return s;
	qsort(sorted, n, sizeof(*sorted), by_value);
	k = outside(n);
	/* The k-th from either end, k from 1; too few values: the ends. */
	k = k ? k - 1 : 0;
	s.median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
	s.low = sorted[k];
	s.high = sorted[n - 1 - k];
	s.least = sorted[0];
	return s;
}

struct summary summarize_ratio(const double *a, const double *b, uint32_t count)
{
	static double ratio[MAX_ROUNDS];
	uint32_t i;

	for (i = 0; i < count; i++)
		ratio[i] = a[i] / b[i];
	return summarize(ratio, count);
}
