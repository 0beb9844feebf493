// SPDX-License-Identifier: GPL-2.0-only
/*
 * evering_echo: sends back what a process sends.  See uapi/linux/evering_echo.h.
 *
 * Without operations each entry comes back as it is.  With operations a request is answered
 * with its opcode and its own data, and posts and messages come back as such.  Buffers come
 * back as copies in the own arena, if there is one, and go home with the answer.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <linux/evering_echo.h>
#include <linux/evering_op.h>

#include "evering_port.h"

/* Posts and messages that wait to be sent back; a power of two. */
#define ECHO_STORE	32

/* The copy of an entry with an operation; as long as the longest slot. */
struct echo_entry {
	struct evering_op_header header;
	u8 rest[EVERING_MAX_SLOT - EVERING_STAMP_SIZE - sizeof(struct evering_op_header)];
};

/*
 * Entries that wait to be sent back, in order, and half of the own arena, for one buffer at a
 * time.  Answers have a line of their own, since they may wait only until the process takes
 * answers.
 */
struct echo_line {
	struct echo_entry *entries;
	u32 mask;
	u32 head, tail;
	u32 granule;		/* where the buffer is, */
	u32 generation;		/* and its generation */
	bool out;		/* the process has the buffer */
};

struct echo {
	struct evering_port *port;
	struct list_head link;	/* in echoes; empty: another task ends it */
	struct work_struct end;
	bool ending;		/* @end was queued */
	u64 half;		/* bytes of half of the own arena */
	u32 payload;		/* of an entry */

	/* For operations.  Posts include messages. */
	bool opened;		/* OPEN has come */
	struct echo_line answers;
	struct echo_line posts;
	u32 finished;		/* posts of the process that are finished with, */
	u32 told;		/* and how many of them it knows of */
	u32 sent;		/* posts that were sent back, */
	u32 may_send;		/* and how many may be */
	u32 store;		/* posts that the process stores at a time */
	struct echo_entry spare;
};

static DEFINE_MUTEX(echoes_lock);
static LIST_HEAD(echoes);
/* Ends each echo whose process has gone; it is empty before the module goes. */
static struct workqueue_struct *echo_wq;

/* ---------------------------------------------------------------------------- raw */

/* Entries that are published together: the process need not wait for a whole pass. */
#define ECHO_BATCH	16

/*
 * A place for the entry after the next @k; NULL: serve is called when there is one.  The
 * count of released entries is read before the second look for room.
 */
static void *echo_place(struct evering_port *port, u32 k)
{
	void *to = evering_port_reserve(port, k);
	u32 released;

	if (to)
		return to;
	released = evering_port_released(port);
	to = evering_port_reserve(port, k);
	if (!to)
		evering_port_want_room(port, released);
	return to;
}

static void *echo_next(struct evering_port *port)
{
	return echo_place(port, 0);
}

static void echo_publish(struct evering_port *port, unsigned int count)
{
	evering_port_commit(port, count);
	evering_port_release(port, count);
}

static unsigned int echo_serve(struct evering_port *port, unsigned int budget)
{
	struct echo *echo = evering_port_private(port);
	unsigned int done, held = 0;
	const void *from;
	void *to;

	for (done = 0; done < budget; done++) {
		from = evering_port_peek(port, held);
		to = from ? echo_place(port, held) : NULL;
		if (!to)
			break;
		memcpy(to, from, echo->payload);
		if (++held < ECHO_BATCH)
			continue;
		echo_publish(port, held);
		held = 0;
	}
	if (held)
		echo_publish(port, held);
	evering_port_flush(port);
	return done;
}

/* --------------------------------------------------------------------- operations */

static u32 echo_homes(const struct evering_op_header *header)
{
	return header->flags >> EVERING_OP_HOME_SHIFT;
}

/* Bytes at the end of an entry, behind its data. */
static u32 echo_tail(const struct evering_op_header *header)
{
	u32 buffer = header->flags & EVERING_OP_BUFFER ? sizeof(struct evering_op_buffer) : 0;

	return buffer + echo_homes(header) * sizeof(struct evering_op_home);
}

static struct evering_op_buffer *echo_buffer(const struct echo *echo,
					     struct echo_entry *entry)
{
	return (void *)entry + echo->payload - sizeof(struct evering_op_buffer);
}

/* The buffer of a line has come home; false: it is the buffer of neither line. */
static bool echo_home(struct echo *echo, u32 granule, u32 generation)
{
	struct echo_line *line = granule == echo->posts.granule ? &echo->posts : &echo->answers;

	if (!line->out || granule != line->granule || generation != line->generation)
		return false;
	line->out = false;
	return true;
}

/* Takes the buffers that the entry brings home; false: one of them is not ours. */
static bool echo_homes_come(struct echo *echo, struct echo_entry *entry)
{
	u32 n, at = echo->payload - (echo_tail(&entry->header) -
				     echo_homes(&entry->header) *
				     sizeof(struct evering_op_home));
	struct evering_op_home home;

	for (n = 0; n < echo_homes(&entry->header); n++) {
		at -= sizeof(home);
		memcpy(&home, (void *)entry + at, sizeof(home));
		if (!echo_home(echo, home.granule, home.generation))
			return false;
	}
	return true;
}

static bool echo_answer_open(struct echo *echo, const struct echo_entry *entry)
{
	struct evering_op_open open;
	struct evering_op_header *to;

	if (entry->header.type != EVERING_OP_OPEN || entry->header.len < sizeof(open) ||
	    entry->header.code != EVERING_OPS_VERSION)
		return false;
	memcpy(&open, entry->rest, sizeof(open));
	echo->store = min(open.store, 1u << 16);
	echo->may_send = echo->store;
	echo->opened = true;
	/* The ring is empty. */
	to = echo_next(echo->port);
	if (!to)
		return false;
	*to = (struct evering_op_header){
		.type = EVERING_OP_OPEN,
		.len = sizeof(open),
		.code = EVERING_OPS_VERSION,
	};
	open = (struct evering_op_open){ .serve = echo->answers.mask + 1,
					 .store = ECHO_STORE };
	memcpy(to + 1, &open, sizeof(open));
	evering_port_commit(echo->port, 1);
	return true;
}

/* Where the next entry is copied to.  Most are requests, which then wait in that place. */
static struct echo_entry *echo_copy_to(struct echo *echo)
{
	struct echo_line *line = &echo->answers;

	if (line->head - line->tail > line->mask)
		return &echo->spare;
	return &line->entries[line->head & line->mask];
}

/* Takes an entry that was copied; false: the process has broken the rules. */
static bool echo_take(struct echo *echo, struct echo_entry *entry)
{
	const struct evering_op_header *header = &entry->header;
	struct echo_line *line = &echo->posts;

	if (sizeof(*header) + header->len + echo_tail(header) > echo->payload)
		return false;
	if (!echo->opened)
		return echo_answer_open(echo, entry);
	if (!echo_homes_come(echo, entry))
		return false;
	switch (header->type) {
	case EVERING_OP_REQUEST:
		/* The process has sent more than it may. */
		if (entry == &echo->spare)
			return false;
		echo->answers.head++;
		return true;
	case EVERING_OP_POST:
	case EVERING_OP_MESSAGE:
		/* The same. */
		if (line->head - line->tail > line->mask)
			return false;
		memcpy(&line->entries[line->head++ & line->mask], entry, echo->payload);
		return true;
	case EVERING_OP_HOME:
		/* How many posts the process has finished with since it began. */
		if (echo->sent - header->code > echo->store)
			return false;
		echo->may_send = header->code + echo->store;
		return true;
	case EVERING_OP_CANCEL: /* the answer was sent, or will be */
	case EVERING_OP_LEAVE:
		return true;
	default:
		return false;
	}
}

/*
 * Copies a buffer of the process into the buffer of the line; false: the process has no
 * memory there.
 */
static bool echo_copy(struct echo *echo, const struct echo_line *line,
		      const struct evering_op_buffer *buffer, u64 len)
{
	u64 from = (u64)buffer->granule * EVERING_OP_GRANULE, at = 0;

	while (at < len) {
		size_t n = len - at;
		const void *theirs = evering_port_theirs(echo->port, from + at, &n);

		if (!theirs ||
		    evering_port_copy_out(echo->port, (u64)line->granule * EVERING_OP_GRANULE + at,
					  theirs, n))
			return false;
		at += n;
		cond_resched();
	}
	return true;
}

/* Is there an entry in the line, and can the oldest one be sent back now? */
static bool echo_may_send(const struct echo *echo, const struct echo_line *line)
{
	const struct echo_entry *entry = &line->entries[line->tail & line->mask];

	if (line->head == line->tail ||
	    (line == &echo->posts && (s32)(echo->may_send - echo->sent) <= 0))
		return false;
	return !line->out || !(entry->header.flags & EVERING_OP_BUFFER);
}

/*
 * Sends the oldest entry back, with a copy of its buffer, which is given.  A buffer that was
 * given goes home with it, a buffer that was lent goes home with the answer, and a buffer
 * that comes back is home.  False: the process has broken the rules.
 */
static bool echo_send(struct echo *echo, struct echo_line *line, struct evering_op_header *to)
{
	struct echo_entry *entry = &line->entries[line->tail++ & line->mask];
	const u8 brought = entry->header.flags & EVERING_OP_BUFFER;
	struct evering_op_buffer buffer;
	struct evering_op_home home;
	void *end = (void *)to + echo->payload;
	u64 len;

	*to = (struct evering_op_header){
		.id = entry->header.id,
		.type = entry->header.type,
		.len = entry->header.len,
		.code = entry->header.code,
	};
	if (to->type == EVERING_OP_REQUEST) {
		to->type = EVERING_OP_ANSWER;
	} else {
		echo->sent++;
		echo->finished++;
	}
	if (brought) {
		memcpy(&buffer, echo_buffer(echo, entry), sizeof(buffer));
		home = (struct evering_op_home){ buffer.granule, buffer.generation };
		len = buffer.len_low | (u64)buffer.len_high << 32;
	}
	if (brought == EVERING_OP_BACK) {
		if (!echo_home(echo, buffer.granule, buffer.generation))
			return false;
	} else if (brought) {
		if (brought > EVERING_OP_GIVEN)
			return false;
		len = min(len, echo->half);
		if (!echo_copy(echo, line, &buffer, len))
			return false;
		if (echo->half) {
			/* A generation has 30 bits beside a granule. */
			line->generation = (line->generation + 1) & (U32_MAX >> 2);
			buffer = (struct evering_op_buffer){
				line->granule, line->generation, (u32)len, len >> 32
			};
			end -= sizeof(buffer);
			memcpy(end, &buffer, sizeof(buffer));
			to->flags |= EVERING_OP_GIVEN;
			line->out = true;
		}
		if (brought == EVERING_OP_GIVEN) {
			end -= sizeof(home);
			memcpy(end, &home, sizeof(home));
			to->flags |= 1 << EVERING_OP_HOME_SHIFT;
		}
		/* What is at the end takes the place of data. */
		to->len = min_t(u16, to->len, end - (void *)(to + 1));
	}
	memcpy(to + 1, entry->rest, to->len);
	evering_port_commit(echo->port, 1);
	return true;
}

/* Sends back what can be sent of a line; false: the process has broken the rules. */
static bool echo_send_line(struct echo *echo, struct echo_line *line)
{
	struct evering_op_header *to;

	while (echo_may_send(echo, line)) {
		to = echo_next(echo->port);
		if (!to)
			break;
		if (!echo_send(echo, line, to))
			return false;
	}
	return true;
}

/* Sends the number of posts that are finished with, if it has changed. */
static void echo_tell(struct echo *echo)
{
	struct evering_op_header *to;

	if (echo->finished == echo->told)
		return;
	to = echo_next(echo->port);
	if (!to)
		return;
	echo->told = echo->finished;
	*to = (struct evering_op_header){ .type = EVERING_OP_HOME, .code = echo->told };
	evering_port_commit(echo->port, 1);
}

/* Has the echo ended, once: its process has broken the rules, or has gone. */
static void echo_ends(struct echo *echo)
{
	if (!echo->ending)
		queue_work(echo_wq, &echo->end);
	echo->ending = true;
}

/* Takes what has come, then sends back what can be sent; neither waits for the other. */
static unsigned int echo_serve_ops(struct evering_port *port, unsigned int budget)
{
	struct echo *echo = evering_port_private(port);
	struct echo_entry *entry;
	unsigned int done = 0;
	const void *from;
	bool right = true;

	while (done < budget && right && !echo->ending && (from = evering_port_peek(port, 0))) {
		/* The process may write there at any time: the copy is checked. */
		entry = echo_copy_to(echo);
		memcpy(entry, from, echo->payload);
		barrier();
		evering_port_release(port, 1);
		right = echo_take(echo, entry);
		done++;
	}
	if (echo->ending)
		return 0;
	if (right && echo_send_line(echo, &echo->answers) &&
	    echo_send_line(echo, &echo->posts)) {
		echo_tell(echo);
	} else {
		echo_ends(echo);
		done = 0;
	}
	evering_port_flush(port);
	return done;
}

/* ------------------------------------------------------------------------ life */

static void echo_free(struct echo *echo)
{
	kvfree(echo->answers.entries);
	kfree(echo);
}

static void echo_end(struct work_struct *work)
{
	struct echo *echo = container_of(work, struct echo, end);
	bool mine;

	mutex_lock(&echoes_lock);
	mine = !list_empty(&echo->link);
	list_del_init(&echo->link);
	mutex_unlock(&echoes_lock);
	if (!mine) /* echo_exit() ends it, and waits for this item */
		return;
	evering_port_destroy(echo->port);
	echo_free(echo);
}

static void echo_gone(struct evering_port *port)
{
	echo_ends(evering_port_private(port));
}

static const struct evering_port_ops echo_raw = {
	.serve = echo_serve,
	.gone = echo_gone,
};

static const struct evering_port_ops echo_ops = {
	.serve = echo_serve_ops,
	.gone = echo_gone,
};

/* Memory for operations.  evering_port_create() refuses an invalid geometry later. */
static int echo_prepare(struct echo *echo, const struct evering_geometry *geometry)
{
	u32 serve = geometry->entries / 2;

	if (geometry->slot_size < EVERING_OPS_MIN_SLOT || !is_power_of_2(geometry->entries) ||
	    geometry->entries < EVERING_MIN_ENTRIES)
		return -EINVAL;
	echo->answers.entries = kvcalloc(serve + ECHO_STORE, sizeof(struct echo_entry),
					 GFP_KERNEL_ACCOUNT);
	if (!echo->answers.entries)
		return -ENOMEM;
	echo->answers.mask = serve - 1;
	echo->posts.entries = echo->answers.entries + serve;
	echo->posts.mask = ECHO_STORE - 1;
	echo->posts.granule = echo->half / EVERING_OP_GRANULE;
	return 0;
}

static int echo_open(struct evering_echo *arg, void __user *uarg)
{
	const struct evering_port_params params = {
		.geometry = arg->geometry,
		.flags = arg->flags & EVERING_ECHO_THREAD ? EVERING_PORT_THREAD : 0,
		.budget = min(arg->budget, 4096u),
		.spin_us = arg->spin_us,
		.name = "evering_echo",
	};
	bool ops = arg->flags & EVERING_ECHO_OPS;
	struct file *file;
	struct echo *echo;
	int ret;

	arg->fd = get_unused_fd_flags(O_CLOEXEC);
	if (arg->fd < 0)
		return arg->fd;
	echo = kzalloc(sizeof(*echo), GFP_KERNEL_ACCOUNT);
	ret = -ENOMEM;
	if (!echo)
		goto no_echo;
	INIT_WORK(&echo->end, echo_end);
	INIT_LIST_HEAD(&echo->link);
	echo->payload = arg->geometry.slot_size - EVERING_STAMP_SIZE;
	echo->half = arg->geometry.arena_size[EVERING_A] / 2;
	if (arg->geometry.entries > EVERING_MAX_ENTRIES)
		ret = -E2BIG;
	else
		ret = ops ? echo_prepare(echo, &arg->geometry) : 0;
	if (ret)
		goto no_port;
	echo->port = evering_port_create(&params, ops ? &echo_ops : &echo_raw, echo);
	ret = PTR_ERR_OR_ZERO(echo->port);
	if (ret)
		goto no_port;
	file = evering_port_file(echo->port, 0);
	ret = PTR_ERR_OR_ZERO(file);
	if (!ret && copy_to_user(uarg, arg, sizeof(*arg))) {
		fput(file);
		ret = -EFAULT;
	}
	if (ret)
		goto no_file;
	mutex_lock(&echoes_lock);
	list_add(&echo->link, &echoes);
	mutex_unlock(&echoes_lock);
	fd_install(arg->fd, file);
	return 0;
no_file:
	evering_port_destroy(echo->port);
	/* echo_gone() may have queued it, although there was no process yet. */
	cancel_work_sync(&echo->end);
no_port:
	echo_free(echo);
no_echo:
	put_unused_fd(arg->fd);
	return ret;
}

static long echo_ioctl(struct file *file, unsigned int cmd, unsigned long uarg)
{
	struct evering_echo arg;
	u32 size;

	if (cmd != EVERING_IOC_ECHO)
		return -ENOTTY;
	if (get_user(size, (u32 __user *)uarg))
		return -EFAULT;
	if (size < sizeof(arg))
		return -EINVAL;
	if (size > sizeof(arg))
		return -E2BIG;
	if (copy_from_user(&arg, (void __user *)uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.flags & ~EVERING_ECHO_FLAGS || arg.reserved)
		return -EINVAL;
	return echo_open(&arg, (void __user *)uarg);
}

/* For comparison: a driver with a system call for each message, of 64 bytes. */
static ssize_t echo_read(struct file *file, char __user *to, size_t len, loff_t *at)
{
	static const char bytes[64];

	len = min(len, sizeof(bytes));
	return copy_to_user(to, bytes, len) ? -EFAULT : len;
}

static const struct file_operations echo_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = echo_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = echo_read,
	.llseek = noop_llseek,
};

static struct miscdevice echo_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "evering_echo",
	.fops = &echo_fops,
	.mode = 0600,
};

static int __init echo_init(void)
{
	int ret;

	echo_wq = alloc_workqueue("evering_echo", WQ_UNBOUND, 0);
	if (!echo_wq)
		return -ENOMEM;
	ret = misc_register(&echo_device);
	if (ret)
		destroy_workqueue(echo_wq);
	return ret;
}

static void __exit echo_exit(void)
{
	struct echo *echo;

	misc_deregister(&echo_device);
	for (;;) {
		mutex_lock(&echoes_lock);
		echo = list_first_entry_or_null(&echoes, struct echo, link);
		if (echo)
			list_del_init(&echo->link);
		mutex_unlock(&echoes_lock);
		if (!echo)
			break;
		evering_port_destroy(echo->port);
		cancel_work_sync(&echo->end);
		echo_free(echo);
	}
	destroy_workqueue(echo_wq);
}

module_init(echo_init);
module_exit(echo_exit);
MODULE_DESCRIPTION("evering: sends back what a process sends");
MODULE_LICENSE("GPL");
