/* SPDX-License-Identifier: MIT */
/*
 * Unix sockets: what is to be read and written next, for any way to do it.
 *
 * As the original has it (struct conn): a connection for each logical client; the
 * header, four bytes, and the body are written and read apart.
 *
 * As a programmer would who wants it fast (struct mux): one connection for all; frames
 * of a header with the client's number and the body, as many in a writev as are
 * due, and read into one large buffer, as many as have come.
 */
#ifndef UDS_H
#define UDS_H

#include <sys/uio.h>

#include "bench.h"

enum uds_variant {
	UDS_ORIGINAL,
	UDS_GOOD
};

/* A connection to or from the other side. */
int uds_connect(struct side *s, int flags);
int uds_accept(struct side *s, int flags);

/* In this order for the server; the client begins at WRITE_HEAD. */
enum phase {
	READ_HEAD,
	READ_BODY,
	WRITE_HEAD,
	WRITE_BODY,
	PHASES
};

/**
 * struct conn - one connection, as the original has it
 * @left: requests that the client is still to begin; the server does not know
 * @idle: the client has none left
 * @pos: bytes of the phase that are done
 */
struct conn {
	int fd;
	bool readable, writable;
	bool idle;
	enum phase phase;
	size_t pos;
	uint64_t left;
	uint32_t number;
	unsigned char head[HEADER];
	unsigned char *body;
};

void conn_init(struct side *s, struct conn *c, int fd);
/* Gives the client's connection so many requests. */
void conn_load(struct side *s, struct conn *c, uint64_t ops);
static inline bool conn_reads(const struct conn *c)
{
	return c->phase <= READ_BODY;
}
/* What is to be read to or written from. */
struct iovec conn_next(struct side *s, struct conn *c);
/* So much of that was; true if it ended an operation of this side. */
bool conn_done(struct side *s, struct conn *c, size_t bytes);

struct frame_head {
	uint32_t word; /* PING or PONG */
	uint32_t client;
};

/**
 * struct mux - the one connection
 * @in: what has come and is not yet taken, @in_len bytes of @in_size
 * @out: clients whose frames are to be written, a ring; the first is written up to
 *	@out_pos
 */
struct mux {
	int fd;
	unsigned char *in;
	size_t in_size;
	size_t in_len;
	uint32_t out[MAX_DEPTH];
	uint32_t out_first;
	uint32_t out_count;
	size_t out_pos;
	struct frame_head heads[MAX_DEPTH]; /* by place in @out */
	uint64_t left[MAX_DEPTH];
	uint32_t in_flight; /* the client's */
	uint64_t to_answer; /* the server's */
	uint32_t number;
};

#define MUX_IOVECS (2 * MAX_DEPTH)

void mux_init(struct side *s, struct mux *m, int fd);
void mux_load(struct side *s, struct mux *m, uint64_t ops);
bool mux_busy(const struct side *s, const struct mux *m);
/* What is to be written; 0: nothing. */
int mux_output(struct side *s, struct mux *m, struct iovec iov[MUX_IOVECS]);
void mux_sent(struct side *s, struct mux *m, size_t bytes);
/* Where to read to; never nothing. */
struct iovec mux_room(struct side *s, struct mux *m);
void mux_came(struct side *s, struct mux *m, size_t bytes);

#endif /* UDS_H */
