// SPDX-License-Identifier: MIT
/*
 * The load of the modes of many channels: which channel is asked next; many.h.
 */
#include <math.h>

#include "many.h"

/* Draws of an order that is random. */
#define DRAWS 65536u
/* The k-th channel gets a share of 1/k^this: as YCSB (B. Cooper et al., SoCC '10) has it. */
#define ZIPF_POWER 0.99

static void *allocate(struct side *s, size_t count, size_t size)
{
	void *p = calloc(count, size);

	if (!p)
		fail(s, "no memory for %zu channels", count);
	return p;
}

/* Numbers below @count, in random order. */
static void permute(struct side *s, uint32_t *numbers, uint32_t count)
{
	uint32_t i, j;

	for (i = 0; i < count; i++) {
		j = (uint32_t)random_below(&s->random, i + 1);
		numbers[i] = numbers[j];
		numbers[j] = i;
	}
}

/* @c->order has all channels, in random order: the first of them is drawn most. */
static void draw_zipf(struct side *s, struct crowd *c)
{
	uint32_t n = c->channels, i, low, high, middle;
	double *sum = allocate(s, n, sizeof(*sum)), all = 0, at;
	uint32_t *rank = c->order;

	for (i = 0; i < n; i++)
		sum[i] = all += pow(i + 1, -ZIPF_POWER);
	c->order = allocate(s, DRAWS, sizeof(*c->order));
	c->length = DRAWS;
	for (i = 0; i < DRAWS; i++) {
		at = (double)(wyrand(&s->random) >> 11) * 0x1p-53 * all;
		for (low = 0, high = n - 1; low < high;) {
			middle = (low + high) / 2;
			if (sum[middle] < at)
				low = middle + 1;
			else
				high = middle;
		}
		c->order[i] = rank[low];
	}
	free(sum);
	free(rank);
}

static void draw_one(struct side *s, struct crowd *c)
{
	uint32_t i;

	free(c->order);
	c->order = allocate(s, DRAWS, sizeof(*c->order));
	c->length = DRAWS;
	for (i = 0; i < DRAWS; i++)
		c->order[i] = (uint32_t)random_below(&s->random, c->channels);
}

void crowd_open(struct side *s, struct crowd *c)
{
	c->channels = (uint32_t)s->job->size;
	c->number = allocate(s, c->channels, sizeof(*c->number));
	c->answer = allocate(s, c->channels, sizeof(*c->answer));
	c->asked = allocate(s, s->job->depth, sizeof(*c->asked));
	c->since = allocate(s, s->job->depth, sizeof(*c->since));
	c->order = allocate(s, c->channels, sizeof(*c->order));
	c->length = c->channels;
	permute(s, c->order, c->channels);
	if (s->job->mode == MODE_MANY_ONE)
		draw_one(s, c);
	else if (s->job->mode == MODE_MANY_ZIPF)
		draw_zipf(s, c);
	else if (s->job->mode == MODE_MANY_SOME)
		c->length = s->job->depth;
}

void crowd_leave(struct side *s)
{
	char byte = 0;

	/* Either may be the first, and looks at its channels until then. */
	if (write(s->sock, &byte, 1) != 1 || read(s->sock, &byte, 1) != 1)
		fail(s, "the other side is gone");
}

void crowd_close(struct crowd *c)
{
	free(c->number);
	free(c->answer);
	free(c->asked);
	free(c->since);
	free(c->order);
}
