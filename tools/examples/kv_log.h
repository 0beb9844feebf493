/* SPDX-License-Identifier: MIT */
/*
 * kv_log.h: a file of what a worker of kv has done, so that its successor can do it
 * again.
 *
 * One write(2) appends a record before the request is answered.  What the kernel has
 * accepted survives the process, but not a crash of the machine.  A worker that is
 * killed in the middle of a write leaves a record that is too short, which its
 * successor cuts off.  When the file has become twice as long as necessary, it is
 * written anew, under another name first.
 *
 * The first record has the number of workers, which decides which file has which keys.
 * No other server uses the file while its lock is held.  The lock is a file of its own,
 * which stays.
 */
#ifndef KV_LOG_H
#define KV_LOG_H

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "kv.h"

struct kv_log {
	char *path; /* NULL: there is none */
	int fd;
	int lock;
	uint64_t size;
	uint64_t tried; /* its size when it was last due to be written anew */
};

/* Then the key, and the value. */
struct record {
	uint32_t opcode; /* KV_PUT, KV_DELETE; KV_HELLO: the first */
	uint32_t key_len;
	uint64_t len; /* of the first record: the number of workers, with nothing after it */
};

static inline uint64_t record_size(uint64_t key_len, uint64_t len)
{
	return sizeof(struct record) + key_len + len;
}

static inline int log_write(struct kv_log *log, const struct iovec *iov,
			    int count, uint64_t size)
{
	ssize_t written;

	if (!log->path)
		return 0;
	written = writev(log->fd, iov, count);
	if (written == (ssize_t)size) {
		log->size += (uint64_t)written;
		return 0;
	}
	if (written >= 0)
		errno = ENOSPC;
	written = -errno;
	if (ftruncate(log->fd, (off_t)log->size))
		exit(fail(log->path, -errno));
	return (int)written;
}

/* Returns 0; -ENOSPC and others: nothing was appended. */
static inline int log_append(struct kv_log *log, uint32_t opcode,
			     const char *key, uint32_t key_len,
			     const void *value, uint64_t len)
{
	struct record record = { opcode, key_len, len };
	const struct iovec iov[] = {
		{ &record, sizeof(record) },
		{ (void *)(uintptr_t)key, key_len },
		{ (void *)(uintptr_t)value, len },
	};

	return log_write(log, iov, 3, record_size(key_len, len));
}

static inline int log_hello(struct kv_log *log, unsigned int workers)
{
	struct record record = { KV_HELLO, 0, workers };
	const struct iovec iov = { &record, sizeof(record) };

	return log_write(log, &iov, 1, sizeof(record));
}

/* @done: called for each record; its arguments are invalid afterwards. */
static inline int log_replay(struct kv_log *log, unsigned int workers,
			     int (*done)(void *context, uint32_t opcode,
					 const char *key, uint32_t key_len,
					 const void *value, uint64_t len),
			     void *context)
{
	const char *map, *at, *end;
	struct record record;
	struct stat st;
	int ret = 0;

	if (fstat(log->fd, &st))
		return -errno;
	if (st.st_size < (off_t)sizeof(record))
		return ftruncate(log->fd, 0) ? -errno : log_hello(log, workers);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, log->fd,
		   0);
	if (map == MAP_FAILED)
		return -errno;
	end = map + st.st_size;
	memcpy(&record, map, sizeof(record));
	if (record.opcode != KV_HELLO || record.key_len ||
	    record.len != workers)
		ret = -EBADMSG;
	for (at = map + sizeof(record);
	     (size_t)(end - at) >= sizeof(record) && !ret;) {
		memcpy(&record, at, sizeof(record));
		if (record.key_len > KV_MAX_KEY || record.len > KV_MAX_VALUE ||
		    record_size(record.key_len, record.len) >
			    (uint64_t)(end - at))
			break;
		at += sizeof(record);
		ret = done(context, record.opcode, at, record.key_len,
			   at + record.key_len, record.len);
		at += record.key_len + record.len;
	}
	log->size = (uint64_t)(at - map);
	munmap((void *)(uintptr_t)map, (size_t)st.st_size);
	if (!ret && ftruncate(log->fd, (off_t)log->size))
		ret = -errno;
	return ret;
}

/* Opens the file @path; NULL: no file. */
static inline int log_open(struct kv_log *log, char *path)
{
	*log = (struct kv_log){ path, -1, -1, 0, 0 };
	if (!path)
		return 0;
	log->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	return log->fd < 0 ? -errno : 0;
}

/* Returns 0; -EBUSY: another server has the file; and others. */
static inline int log_lock(struct kv_log *log)
{
	char *path;

	if (asprintf(&path, "%s.lock", log->path) < 0)
		return -ENOMEM;
	log->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	free(path);
	if (log->lock < 0)
		return -errno;
	if (!flock(log->lock, LOCK_EX | LOCK_NB))
		return 0;
	return errno == EWOULDBLOCK ? -EBUSY : -errno;
}

static inline void log_close(struct kv_log *log)
{
	if (log->path) {
		close(log->fd);
		close(log->lock);
	}
	free(log->path);
	log->path = NULL;
}

/*
 * Whether the file is so much longer than @live bytes that it should be written anew.
 * If that fails, it is not tried again at each request.
 */
static inline bool log_is_long(struct kv_log *log, uint64_t live)
{
	if (!log->path || log->size < 2 * live + (1 << 20) ||
	    log->size < log->tried + (1 << 20))
		return false;
	log->tried = log->size;
	return true;
}

/* Begins another file, which will replace this one: see log_replace(). */
static inline int log_begin(const struct kv_log *log, struct kv_log *new)
{
	char *path;

	if (asprintf(&path, "%s.new", log->path) < 0)
		return -ENOMEM;
	unlink(path);
	return log_open(new, path);
}

static inline int log_replace(struct kv_log *log, struct kv_log *new)
{
	if (rename(new->path, log->path))
		return -errno;
	close(log->fd);
	log->fd = new->fd;
	log->size = log->tried = new->size;
	free(new->path);
	new->path = NULL;
	return 0;
}

/* Removes a file that was not completed. */
static inline void log_drop(struct kv_log *new)
{
	if (new->path)
		unlink(new->path);
	log_close(new);
}

#endif /* KV_LOG_H */
