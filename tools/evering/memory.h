/* SPDX-License-Identifier: MIT */
/*
 * How much memory this process may still take, and what forbids more.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct memory - what is left, in bytes
 * @available: of the machine, as /proc/meminfo has it
 * @left: below the strictest limit of a memory cgroup; UINT64_MAX: there is none
 * @limit: that limit
 * @file: the name of it: "memory.max", "memory.high" or "memory.limit_in_bytes"
 * @cgroup: the path of its cgroup, which may be an ancestor of the process's own
 */
struct memory {
	uint64_t available;
	uint64_t left;
	uint64_t limit;
	const char *file;
	char cgroup[256];
};

/* False: /proc/meminfo is not readable.  A cgroup that is not visible has no limit. */
bool find_memory(struct memory *memory);

/* The first line of a small file, without its end; false if there is none. */
bool read_line(const char *path, char *line, int size);

#endif /* MEMORY_H */
