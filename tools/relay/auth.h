/* SPDX-License-Identifier: MIT */
/*
 * auth.h: keys, and the proof that the other side has the same one.
 *
 * The proof is HMAC-SHA-256 (RFC 2104, FIPS 198-1) with the key, over a word that says whose
 * proof it is, both nonces, and all else that the two have said of themselves.  So neither
 * side's can be sent back to it, nor be used a second time.
 */
#ifndef RELAY_AUTH_H
#define RELAY_AUTH_H

#include <stdbool.h>

#include "wire.h"

#define KEY_LEAST	16u
#define KEY_MOST	128u
#define MAX_KEYS	64u

/**
 * struct key - a shared secret
 * @identity: what the caller calls itself; "" in a file with one key
 * @bytes, @len: of it
 */
struct key {
	char identity[WIRE_NAME];
	unsigned char bytes[KEY_MOST];
	unsigned int len;
};

/**
 * struct keys - what a file of keys has
 * @count: how many
 * @key: each
 */
struct keys {
	unsigned int count;
	struct key key[MAX_KEYS];
};

/*
 * Reads lines of "IDENTITY KEY" or "KEY", where KEY is printable text of 16 to 128 bytes.
 * Returns 0, or -1 having said why.  Others than the owner must not be able to read it.
 */
int keys_read(const char *path, struct keys *keys);
void keys_forget(struct keys *keys);
const struct key *key_of(const struct keys *keys, const char *identity);

/* Fills @nonce; false: the system has no random bytes. */
bool auth_nonce(unsigned char nonce[WIRE_NONCE]);

/*
 * The proof of the caller, or of the answerer, for the two greetings.  @key NULL: of those who
 * have none.  False: libcrypto cannot.
 */
bool auth_prove(const struct key *key, bool caller,
		const struct wire_greeting *hello,
		const struct wire_greeting *answer,
		unsigned char proof[WIRE_PROOF]);

/* In a time that does not depend on where they differ. */
bool auth_equal(const unsigned char a[WIRE_PROOF],
		const unsigned char b[WIRE_PROOF]);

#endif /* RELAY_AUTH_H */
