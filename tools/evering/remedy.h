/* SPDX-License-Identifier: MIT */
/*
 * What can be done about a call of the library that failed.
 */
#ifndef REMEDY_H
#define REMEDY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <evering.h>

#define MAX_SOCKET_PATH 107u

/**
 * struct attempt - a call, as far as its failure is explained by it
 * @what: for people: "cannot listen at"
 * @path: of the socket, or NULL
 * @listening: at @path, not connecting
 * @params: what was asked for, or NULL
 * @timeout_ns: how long the call was to take, or 0
 * @place_option, @arena_option: what the command calls these; NULL: it has no such
 *	option
 */
struct attempt {
	const char *what;
	const char *path;
	bool listening;
	const struct evering_params *params;
	int64_t timeout_ns;
	const char *place_option;
	const char *arena_option;
};

/* What can be done about the negative errno @err; "" if nothing is known. */
void find_remedy(const struct attempt *a, int err, char *buf, size_t size);

/* Complains that it has failed, with the remedy. */
void complain_of(const struct attempt *a, int err);

/* 0, or the errno of a memfd that cannot be sealed as the library seals it. */
int memfd_error(void);

#endif /* REMEDY_H */
