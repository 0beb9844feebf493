/* SPDX-License-Identifier: MIT */
/*
 * fabric.h: a stand-in for libfabric, for the relay's link.c: one link at a time, whose other
 * end is whatever calls these functions.
 */
#ifndef FUZZ_FABRIC_H
#define FUZZ_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* @local_mr: this provider wants buffers to be registered. */
void fabric_begin(bool local_mr);
/* All that was opened must be closed. */
void fabric_end(void);

/* Somebody calls: for engine_answer(). */
void fabric_call(void);
/* FI_CONNECTED or FI_SHUTDOWN for the link. */
void fabric_event(uint32_t event);
/* An errno of libfabric's, for the link: by its events, or by its completions. */
void fabric_fail(bool events, int error);

/* A message arrives; one that is too long is an error.  False: nothing was posted for it. */
bool fabric_give(const void *data, size_t len);
/* The largest receive that is posted, and how many there are. */
size_t fabric_posted(unsigned int *count);

/* Sends from now on: are refused for the time being. */
void fabric_stall(bool stall);
/* The oldest message under way arrives at the other end, in @data; false: there is none. */
bool fabric_take(unsigned char *data, size_t room, size_t *len);

#endif /* FUZZ_FABRIC_H */
