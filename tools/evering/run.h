/* SPDX-License-Identifier: MIT */
/*
 * What the client (run.c) and the server (serve.c) of `evering run` share: the
 * messages between them, and the options, which the server gets on its command
 * line as the client did (run_options.c).
 */
#ifndef RUN_H
#define RUN_H

#include <stdbool.h>
#include <stdint.h>

#include <evering.h>

/*
 * A tag names a request until its answer has come; there are as many as requests
 * may be in flight.  Buffers are named by their offset in units of 64 bytes, the
 * least alignment of evering_alloc().  Both messages fit into the least slot.
 */
#define REQUEST_FIRST (1u << 31) /* of a file */
#define REQUEST_LAST (1u << 30) /* the answer brings the digest */
#define REQUEST_ABORT (1u << 29) /* forget the file: reading it failed */
#define REQUEST_TAG 0x00ffffffu

#define UNIT 64u
#define DIGEST_LEN 32u

struct request {
	uint32_t tag; /* and REQUEST_* */
	uint32_t place; /* of the data, in the client's arena */
	uint32_t length; /* bytes, may be 0 */
};

struct answer {
	uint32_t tag;
	int32_t result; /* 0 or a negative errno */
	uint32_t place; /* of the record, in the server's arena */
};

/*
 * The server has one for each tag.  It is the server's word: the client checks it.  An
 * empty request, REQUEST_FIRST | REQUEST_ABORT without data, has a record too.
 */
struct record {
	unsigned char digest[DIGEST_LEN]; /* after REQUEST_LAST */
	/* on clock_ns(), which both processes share */
	int64_t woken_ns; /* the server's last sleep ended */
	int64_t taken_ns; /* it took the request out of the ring */
	int64_t done_ns; /* it had hashed the data */
};

_Static_assert(sizeof(struct request) <= EVERING_MIN_SLOT - EVERING_STAMP_SIZE,
	       "fits into every slot");
_Static_assert(sizeof(struct answer) <= EVERING_MIN_SLOT - EVERING_STAMP_SIZE,
	       "fits into every slot");
_Static_assert(sizeof(struct record) <= UNIT, "has a unit");
_Static_assert(EVERING_MAX_ENTRIES <= REQUEST_TAG, "a tag for each entry");

/*
 * A sleeping peer is woken at the latest when it has slept this long after the
 * first entry that it does not know of: one wake-up then serves many small files,
 * and no large one waits.
 */
#define FLUSH_NS 50000

/* Of the client; the server gets what it needs on its command line. */
struct options {
	struct evering_params params;
	uint32_t depth;
	uint64_t chunk;
	const char *socket;
	int64_t timeout_ns;
	int control; /* serve only */
	bool sums;
	bool json;
	bool quiet;
	const char *dir;
};

/* Returns -1, or the status to exit with. */
int run_options(struct options *o, int argc, char **argv);

/*
 * Says what a call of the library failed at, and what can be done about it;
 * explain_socket() adds where: at the socket that it listens at or connects to.
 */
void explain(const struct options *o, const char *what, int err);
void explain_socket(const struct options *o, const char *what, bool listening,
		    int err);

/* For poll(2): until @deadline on clock_ns(), rounded up, 0..@most. */
int milliseconds_until(int64_t deadline, int most);

#endif /* RUN_H */
