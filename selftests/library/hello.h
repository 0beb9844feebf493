/* SPDX-License-Identifier: MIT */
/*
 * hello.h: the hello and the welcome as lib/meet.c has them, where they are private, and
 * the seals of memfds, for those who forge them.  Written here a second time, so that
 * what goes over the socket does not change unnoticed.
 */
#ifndef EVERING_SELFTESTS_HELLO_H
#define EVERING_SELFTESTS_HELLO_H

#include <fcntl.h>
#include <linux/evering.h>
#include <stdint.h>

#define HELLO_MAGIC 0x6f6c6c6568766501ull
#define WELCOME_MAGIC 0x6d6f636c65777601ull

struct hello {
	uint64_t magic;
	uint32_t size;
	uint32_t abi;
	uint32_t backend;
	uint32_t fds;
	struct evering_geometry geometry;
	uint32_t lanes;
	uint32_t peers;
};

struct welcome {
	uint64_t magic;
	uint32_t size;
	int32_t error;
	uint32_t abi_min;
	uint32_t abi_max;
	uint32_t fds;
	uint32_t lanes;
};

#define SEALS_SIZE (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define SEALS_OWN (SEALS_SIZE | F_SEAL_FUTURE_WRITE)

#endif /* EVERING_SELFTESTS_HELLO_H */
