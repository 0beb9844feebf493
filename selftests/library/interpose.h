/* SPDX-License-Identifier: MIT */
/*
 * interpose.h: a test that takes the place of system calls.  The library is linked in,
 * so what a test defines by the name of a function of libc is what it calls: the
 * definition is HIDDEN, so that libc and sanitizers go on with their own, and passes
 * on what it does not answer itself to REAL().
 */
#ifndef EVERING_SELFTESTS_INTERPOSE_H
#define EVERING_SELFTESTS_INTERPOSE_H

#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* Types of arguments that differ between glibc and the standard, which musl follows. */
#ifdef __GLIBC__
typedef unsigned long ioctl_command;
typedef __rlimit_resource_t rlimit_resource;
#else
typedef int ioctl_command;
typedef int rlimit_resource;
#endif

/* Does open() have a third argument with these @flags? */
static inline bool takes_mode(int flags)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
}

/* The function of that name that there would be without the test's. */
static inline void *next_of(const char *name)
{
	void *symbol = dlsym(RTLD_NEXT, name);

	if (!symbol)
		abort();
	return symbol;
}

#define REAL(name) \
	({ \
		static __typeof__(name) *real_; \
		__typeof__(name) *it_ = \
			__atomic_load_n(&real_, __ATOMIC_RELAXED); \
 \
		if (!it_) { \
			it_ = (__typeof__(name) *)next_of(#name); \
			__atomic_store_n(&real_, it_, __ATOMIC_RELAXED); \
		} \
		it_; \
	})

#endif /* EVERING_SELFTESTS_INTERPOSE_H */
