// SPDX-License-Identifier: MIT
/*
 * ffi.c: the inline functions of the headers, for languages without a C compiler.
 *
 * libevering-ffi.so is libevering with these functions added, under the same names, as
 * liburing-ffi is to liburing.  A binding needs nothing else, and finds every function
 * of the manual pages in it.  A program in C does not need it.
 *
 * Here "static inline" is defined as nothing, so every inline function of
 * evering_ring.h and evering_op.h, now or later, is a function of this file.  The
 * system's headers come first, because for them it has to keep its meaning.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <linux/evering.h>

/* These functions have no other declaration, and need none. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define static __attribute__((visibility("default")))
#define inline

#include <evering.h>
