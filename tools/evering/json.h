/* SPDX-License-Identifier: MIT */
/*
 * JSON, written as it comes: objects and arrays are opened and closed, and whatever
 * is put in between gets its comma.  @key is NULL in an array, and outermost.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/**
 * struct json - a writer
 * @out: what it writes to
 * @compact: without blanks, for what is read by programs alone
 * @more: something stands before, in the same object or array
 */
struct json {
	FILE *out;
	bool compact;
	bool more;
};

void json_open(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *j, char bracket);
/* Ends a line after an outermost object. */
void json_end(struct json *j);

/* @text may hold any bytes; what is not UTF-8 is replaced.  NULL is null. */
void json_text(struct json *j, const char *key, const char *text);
void json_number(struct json *j, const char *key, uint64_t value);
void json_bool(struct json *j, const char *key, bool value);
void json_null(struct json *j, const char *key);
/* With so many decimals, or with six significant digits.  NAN is null. */
void json_fixed(struct json *j, const char *key, double value, int decimals);
void json_real(struct json *j, const char *key, double value);

#endif /* JSON_H */
