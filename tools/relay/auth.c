// SPDX-License-Identifier: MIT
/*
 * auth.c: keys, and the proof that the other side has the same one; see auth.h.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "../evering/util.h"
#include "auth.h"

static int bad_line(const char *path, unsigned int line, const char *why)
{
	complain("%s, line %u: %s", printable(path), line, why);
	return -1;
}

/* One line, whose end was cut off. */
static int take_line(const char *path, unsigned int number, char *line,
		     struct keys *keys)
{
	struct key *key = &keys->key[keys->count];
	char *word = line + strspn(line, " \t"), *second;
	size_t len;

	if (!*word || *word == '#')
		return 0;
	if (keys->count == MAX_KEYS)
		return bad_line(path, number, "more than 64 keys");
	len = strcspn(word, " \t");
	second = word + len + strspn(word + len, " \t");
	if (*second) {
		if (len >= sizeof(key->identity))
			return bad_line(path, number,
					"an identity has at most 63 bytes");
		memcpy(key->identity, word, len);
		word = second;
		len = strcspn(word, " \t");
	}
	if (word[len + strspn(word + len, " \t")])
		return bad_line(path, number,
				"must be KEY, or IDENTITY and KEY");
	if (len < KEY_LEAST || len > KEY_MOST)
		return bad_line(
			path, number,
			"a key has 16 to 128 bytes, as of 'openssl rand -hex 32'");
	if (key_of(keys, key->identity))
		return bad_line(path, number, "the same identity twice");
	memcpy(key->bytes, word, len);
	key->len = (unsigned int)len;
	keys->count++;
	return 0;
}

static int take_lines(const char *path, char *text, struct keys *keys)
{
	unsigned int number = 0;
	char *line, *end;

	for (line = text; *line; line = end) {
		end = line + strcspn(line, "\n");
		if (*end)
			*end++ = 0;
		if (take_line(path, ++number, line, keys))
			return -1;
	}
	if (keys->count)
		return 0;
	complain("%s: has no key: put one there with 'openssl rand -hex 32'",
		 printable(path));
	return -1;
}

int keys_read(const char *path, struct keys *keys)
{
	char text[16384];
	struct stat st;
	size_t have = 0;
	ssize_t got = 1;
	int fd, ret = -1;

	memset(keys, 0, sizeof(*keys));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st)) {
		complain("cannot read the key in %s: %s", printable(path),
			 strerror(errno));
		goto out;
	}
	if (!S_ISREG(st.st_mode)) {
		complain("%s: a key must be in a file", printable(path));
		goto out;
	}
	if (st.st_mode & 077) {
		complain(
			"%s: others than its owner may read this key: chmod 600 it",
			printable(path));
		goto out;
	}
	while (got > 0 && have < sizeof(text) - 1) {
		got = read(fd, text + have, sizeof(text) - 1 - have);
		have += got > 0 ? (size_t)got : 0;
	}
	if (got < 0)
		complain("cannot read the key in %s: %s", printable(path),
			 strerror(errno));
	else if (have == sizeof(text) - 1)
		complain("%s: too long for a file of keys", printable(path));
	else {
		text[have] = 0;
		ret = take_lines(path, text, keys);
	}
	OPENSSL_cleanse(text, sizeof(text));
out:
	if (fd >= 0)
		close(fd);
	if (ret)
		keys_forget(keys);
	return ret;
}

void keys_forget(struct keys *keys)
{
	OPENSSL_cleanse(keys, sizeof(*keys));
}

const struct key *key_of(const struct keys *keys, const char *identity)
{
	unsigned int i;

	for (i = 0; i < keys->count; i++)
		if (!strncmp(keys->key[i].identity, identity, WIRE_NAME))
			return &keys->key[i];
	return NULL;
}

bool auth_nonce(unsigned char nonce[WIRE_NONCE])
{
	return RAND_bytes(nonce, WIRE_NONCE) == 1;
}

/* What is the same for both, but for whose it is.  No proof is in it. */
struct said {
	char whose[16];
	struct wire_greeting hello;
	struct wire_greeting answer;
};

bool auth_prove(const struct key *key, bool caller,
		const struct wire_greeting *hello,
		const struct wire_greeting *answer,
		unsigned char proof[WIRE_PROOF])
{
	struct said said = { .hello = *hello, .answer = *answer };
	static const unsigned char none[] = "evering-relay without a key";
	size_t len = 0;

	strcpy(said.whose, caller ? "the caller's" : "the answerer's");
	memset(said.hello.proof, 0, sizeof(said.hello.proof));
	memset(said.answer.proof, 0, sizeof(said.answer.proof));
	return EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL,
			 key ? key->bytes : none,
			 key ? key->len : sizeof(none) - 1,
			 (const unsigned char *)&said, sizeof(said), proof,
			 WIRE_PROOF, &len) &&
	       len == WIRE_PROOF;
}

bool auth_equal(const unsigned char a[WIRE_PROOF],
		const unsigned char b[WIRE_PROOF])
{
	return !CRYPTO_memcmp(a, b, WIRE_PROOF);
}
