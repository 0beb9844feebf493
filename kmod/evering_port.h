/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * evering_port.h: a kernel module as one end of a channel.
 *
 * The other end is a process with an ordinary endpoint.  It gets a descriptor from the
 * module (evering_port_file()), and maps it.  From there on memory, protocol, doorbells and
 * deaths are those of any channel.  <linux/evering.h> describes the shared memory.
 *
 * A port is always A, and the process B.  The process may write its own half and its own
 * arena at any time: the module copies what it receives, then checks the copy, then uses the
 * copy.  Nothing that the process does is an error of the module, or makes more work than
 * its ringers pay for: a task that rings serves what the ring holds, and work that nobody
 * rings for gets an eighth of each tick.
 *
 * Contexts: "in serve" is inside evering_port_ops.serve alone.  "The sender" is one context
 * at a time: serve, or the holder of the module's own lock.
 */
#ifndef EVERING_PORT_H
#define EVERING_PORT_H

#include <linux/bits.h>
#include <linux/evering.h>
#include <linux/types.h>

struct evering_port;
struct file;

/* evering_port_params.flags */
#define EVERING_PORT_THREAD	BIT(0) /* the port has a thread, in which serve runs */

#define EVERING_PORT_MAX_SPIN	1000u	/* microseconds */

/**
 * struct evering_port_params - properties of a new port
 * @geometry: as for EVERING_IOC_CREATE; arena_size[EVERING_A] is the port's own
 * @flags: EVERING_PORT_*
 * @budget: the most entries for serve in one pass; 0: 64; in work items it is less
 * @spin_us: with a thread: microseconds for which it looks for more before it sleeps, up to
 *	EVERING_PORT_MAX_SPIN; no process is charged for that CPU time
 * @name: with a thread: its name
 */
struct evering_port_params {
	struct evering_geometry geometry;
	u32 flags;
	u32 budget;
	u32 spin_us;
	const char *name;
};

/**
 * struct evering_port_ops - what a module does at its port
 * @serve: take what is there, and send what is to be sent: evering_port_peek(), _release(),
 *	_reserve(), _commit().  Returns how many entries it took or sent, up to @budget.  Less
 *	than @budget means that there is nothing more to do now, and the port sleeps until
 *	the process rings or evering_port_kick() is called.  Never runs twice at once for a
 *	port.  May sleep.  With EVERING_PORT_THREAD it runs in that thread.  Otherwise it runs
 *	in a work queue or in the task that rings.  That may be any task with a descriptor of
 *	the process's end, and serve runs with its credentials and signals.
 * @gone: the process has gone: no entry comes after those that are there, and nobody takes
 *	any.  Called once, after the last serve that found the process alive, in the same
 *	context; NULL if the module does not need it.
 */
struct evering_port_ops {
	unsigned int (*serve)(struct evering_port *port, unsigned int budget);
	void (*gone)(struct evering_port *port);
};

struct evering_port *evering_port_create(const struct evering_port_params *params,
					 const struct evering_port_ops *ops,
					 void *private);
void evering_port_destroy(struct evering_port *port);
struct file *evering_port_file(struct evering_port *port, u32 flags);
void *evering_port_private(const struct evering_port *port);
void evering_port_kick(struct evering_port *port);
bool evering_port_alive(const struct evering_port *port);

void *evering_port_reserve(struct evering_port *port, u32 k);
void evering_port_commit(struct evering_port *port, u32 count);
void evering_port_flush(struct evering_port *port);
void evering_port_want_room(struct evering_port *port, u32 released);
u32 evering_port_released(const struct evering_port *port);
const void *evering_port_peek(struct evering_port *port, u32 k);
void evering_port_release(struct evering_port *port, u32 count);

void *evering_port_own(struct evering_port *port, u64 offset, size_t *len);
const void *evering_port_theirs(struct evering_port *port, u64 offset, size_t *len);
int evering_port_copy_out(struct evering_port *port, u64 offset, const void *from,
			  size_t len);
int evering_port_copy_in(struct evering_port *port, void *to, u64 offset, size_t len);

#endif /* EVERING_PORT_H */
