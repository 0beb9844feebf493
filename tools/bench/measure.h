/* SPDX-License-Identifier: MIT */
/*
 * What the two programs that only measure, speed and alloc, have in common.
 */
#ifndef MEASURE_H
#define MEASURE_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static inline int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts the values. */
static inline double median(double *values, unsigned int count)
{
	qsort(values, count, sizeof(*values), by_value);
	return values[count / 2];
}

/* The value of an option of @program, 1..@most; or exits with status 2. */
static inline unsigned int number(const char *program, const char *option,
				  const char *text, unsigned int most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || !value || value > most) {
		fprintf(stderr, "%s: --%s=%s: must be 1..%u\n", program, option,
			text, most);
		exit(2);
	}
	return (unsigned int)value;
}

#endif /* MEASURE_H */
