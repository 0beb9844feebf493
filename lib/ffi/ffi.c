// SPDX-License-Identifier: MIT
/*
 * ffi.c: the inline functions of the headers, for languages that have no C compiler.
 *
 * libevering-ffi.so is libevering with these added, under the same names, as
 * liburing-ffi is to liburing: who binds to it needs nothing else, and finds every
 * function that the manual pages tell of.  A program in C has no use for it.
 *
 * Here "static inline" is made to mean nothing, and so whatever is inline in
 * evering_ring.h and evering_op.h, now or later, is a function of this file.  The
 * system's own headers come first, for whom it has to mean what it does.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <linux/evering.h>

/* There is no other declaration of them, and there is to be none. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define static __attribute__((visibility("default")))
#define inline

#include <evering.h>
