// SPDX-License-Identifier: MIT
/*
 * memory.c: finds out whether memory can be allocated without the OOM killer.
 *
 * Overcommit does not limit the pages of a memfd, and beyond the limit of a memory
 * cgroup their allocation ends with the OOM killer, not with an error.  So the library
 * looks first: at the system, and at each cgroup from this process's own up to the
 * root, version 1 or 2.  A cgroup has its limit left, less what it uses and could not
 * free; it could free page cache, and what fits into swap.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "internal.h"

/*
 * For fewer bytes it is not worth asking; but many small ones together count as a large
 * one.
 */
#define ASK_SYSTEM ((size_t)64 << 20)
#define ASK_CGROUPS ((size_t)256 << 10)

/*
 * The most memory that comes with the next ASK_CGROUPS bytes without asking: those
 * bytes, and their tables of operations.  The kernel's part is in groups_have().
 */
#define UNTIL_ASKED (ASK_CGROUPS + ((size_t)512 << 10))

#define UNLIMITED (UINT64_MAX / 2)

/**
 * struct version - the names that a version of cgroups has
 * @type: of its file system
 * @option: of the mount that has the memory controller; NULL: each has
 * @limit: the file of a group with its limit
 * @usage: the file with its usage
 * @swap_limit: the file with its limit of swap; NULL: there is none
 * @swap_usage: the file with its usage of swap; NULL: there is none
 * @active: the line of memory.stat for active page cache
 * @inactive: the line for inactive page cache
 */
struct version {
	const char *type;
	const char *option;
	const char *limit;
	const char *usage;
	const char *swap_limit;
	const char *swap_usage;
	const char *active;
	const char *inactive;
};

static const struct version versions[] = {
	{ "cgroup2", NULL, "memory.max", "memory.current", "memory.swap.max",
	  "memory.swap.current", "active_file ", "inactive_file " },
	{ "cgroup", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
	  NULL, NULL, "total_active_file ", "total_inactive_file " },
};

/* Reads a whole small file as a string; false: it cannot be read. */
static bool read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0, all = 0;

	if (fd < 0)
		return false;
	do {
		n = read(fd, text + all, size - 1 - (size_t)all);
		if (n > 0)
			all += n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	close(fd);
	text[all] = 0;
	return n == 0;
}

/* A number in a file of a group; @otherwise if there is none. */
static uint64_t group_number(const char *group, const char *name,
			     uint64_t otherwise)
{
	char path[PATH_MAX], text[64];
	uint64_t n;

	if (!name ||
	    snprintf(path, sizeof(path), "%s/%s", group, name) >=
		    (int)sizeof(path) ||
	    !read_text(path, text, sizeof(text)))
		return otherwise;
	if (text[0] < '0' || text[0] > '9') /* "max" */
		return UNLIMITED;
	n = strtoull(text, NULL, 10);
	return n < UNLIMITED ? n : UNLIMITED;
}

/* The line of memory.stat that begins with @name, in bytes. */
static uint64_t stat_number(const char *stat, const char *name)
{
	const char *at = stat;
	size_t len = strlen(name);

	while (at && strncmp(at, name, len) != 0) {
		at = strchr(at, '\n');
		at = at ? at + 1 : NULL;
	}
	return at ? strtoull(at + len, NULL, 10) : 0;
}

static uint64_t swap_left(const struct version *v, const char *group)
{
	uint64_t limit, usage, left;
	struct sysinfo info;

	if (sysinfo(&info))
		return 0;
	left = (uint64_t)info.freeswap * info.mem_unit;
	if (!left)
		return 0;
	limit = group_number(group, v->swap_limit, UNLIMITED);
	usage = group_number(group, v->swap_usage, 0);
	limit = usage < limit ? limit - usage : 0;
	return limit < left ? limit : left;
}

/* How many bytes @group could still take. */
static uint64_t group_left(const struct version *v, const char *group)
{
	uint64_t limit, usage, left;
	char path[PATH_MAX], stat[4096];

	limit = group_number(group, v->limit, UNLIMITED);
	/* Version 1 has a number beyond any memory for "no limit". */
	if (limit >= (uint64_t)1 << 60)
		return UNLIMITED;
	usage = group_number(group, v->usage, 0);
	left = usage < limit ? limit - usage : 0;
	left += swap_left(v, group);
	if (snprintf(path, sizeof(path), "%s/memory.stat", group) <
		    (int)sizeof(path) &&
	    read_text(path, stat, sizeof(stat)))
		left += stat_number(stat, v->active) +
			stat_number(stat, v->inactive);
	return left;
}

static bool has_option(const char *options, const char *option)
{
	size_t len = strlen(option);
	const char *at;

	for (at = options; (at = strstr(at, option)); at += len)
		if ((at == options || at[-1] == ',') &&
		    (at[len] == ',' || !at[len]))
			return true;
	return false;
}

/**
 * struct reader - a file of /proc, a line at a time
 * @fd: the file
 * @at: the first byte of @text that is still to be read
 * @end: the end of the bytes in @text
 * @text: what was read of the file
 */
struct reader {
	int fd;
	size_t at;
	size_t end;
	char text[2 * PATH_MAX];
};

/*
 * The next line without its newline.  Skips lines that are too long.  NULL: there is
 * none.
 */
static char *next_line(struct reader *r)
{
	char *line, *newline;
	ssize_t n;

	for (;;) {
		line = r->text + r->at;
		newline = memchr(line, '\n', r->end - r->at);
		if (newline) {
			*newline = 0;
			r->at = (size_t)(newline - r->text) + 1;
			return line;
		}
		if (r->at)
			memmove(r->text, line, r->end - r->at);
		r->end -= r->at;
		r->at = 0;
		if (r->end == sizeof(r->text))
			r->end = 0;
		do
			n = read(r->fd, r->text + r->end,
				 sizeof(r->text) - r->end);
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			return NULL;
		r->end += (size_t)n;
	}
}

static bool start_reading(struct reader *r, const char *path)
{
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	r->at = r->end = 0;
	return r->fd >= 0;
}

/* The path of this process's group, from /proc/self/cgroup. */
static bool own_group(const struct version *v, char *group, size_t size)
{
	char *line, *controllers, *path;
	struct reader r;
	bool found = false;

	if (!start_reading(&r, "/proc/self/cgroup"))
		return false;
	while (!found && (line = next_line(&r))) {
		controllers = strchr(line, ':');
		path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		*controllers++ = *path++ = 0;
		found = v->option ? has_option(controllers, v->option) :
				    !*controllers;
		if (found)
			snprintf(group, size, "%s", path);
	}
	close(r.fd);
	return found;
}

/* Where that group is mounted, and how much of the path is above the mount. */
static bool find_mount(const struct version *v, char *point, size_t size,
		       const char *group, size_t *above)
{
	char *line, *field[6], *at, *type, *options;
	struct reader r;
	bool found = false;
	unsigned int i;

	if (!start_reading(&r, "/proc/self/mountinfo"))
		return false;
	while (!found && (line = next_line(&r))) {
		at = line;
		for (i = 0; at && i < 6; i++)
			field[i] = strsep(&at, " ");
		type = at ? strstr(at, "- ") : NULL;
		if (i < 6 || !type)
			continue;
		type += 2;
		options = strchr(type, ' ');
		options = options ? strchr(options + 1, ' ') : NULL;
		if (!options || strncmp(type, v->type, strlen(v->type)) != 0 ||
		    type[strlen(v->type)] != ' ' ||
		    (v->option && !has_option(options + 1, v->option)))
			continue;
		found = true;
		snprintf(point, size, "%s", field[4]);
		/* A container may have mounted only a part of the hierarchy. */
		*above = strlen(field[3]);
		if (!strcmp(field[3], "/"))
			*above = 0;
		else if (strncmp(group, field[3], *above) != 0)
			*above = strlen(group);
	}
	close(r.fd);
	return found;
}

/*
 * How many bytes the strictest of this process's groups of this version could still
 * take.
 */
static uint64_t groups_left(const struct version *v)
{
	char group[PATH_MAX], path[2 * PATH_MAX];
	uint64_t least = UNLIMITED, left;
	size_t above, top;
	char *slash;

	if (!own_group(v, group, sizeof(group)) ||
	    !find_mount(v, path, PATH_MAX, group, &above))
		return UNLIMITED;
	top = strlen(path);
	snprintf(path + top, sizeof(path) - top, "%s", group + above);
	for (;;) {
		left = group_left(v, path);
		if (left < least)
			least = left;
		slash = strrchr(path + top, '/');
		if (!slash)
			return least;
		*slash = 0;
	}
}

static bool system_has(size_t size)
{
	struct sysinfo info;
	struct reader r;
	char *line;
	uint64_t kib = UNLIMITED;

	if (start_reading(&r, "/proc/meminfo")) {
		while (kib == UNLIMITED && (line = next_line(&r)))
			if (!strncmp(line, "MemAvailable:", 13))
				kib = strtoull(line + 13, NULL, 10);
		close(r.fd);
	}
	if (kib != UNLIMITED)
		return size / 1024 <= kib;
	return sysinfo(&info) || size / info.mem_unit <= info.totalram;
}

static bool groups_have(size_t size)
{
	/* With page tables, and what the kernel charges in advance on each CPU. */
	uint64_t need = (uint64_t)size + size / 128 + ((size_t)512 << 10);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(versions); i++)
		if (groups_left(&versions[i]) < need)
			return false;
	return true;
}

/* The most bytes that this process has taken without asking since it last asked. */
static uint64_t unasked;

/*
 * Whether @size bytes of shared memory can be allocated.  A size that is too small to
 * ask for is added to @unasked, and to *@counted for memory_back().
 */
bool memory_there(size_t size, uint64_t *counted)
{
	if (size >= ASK_CGROUPS)
		return (size < ASK_SYSTEM || system_has(size)) &&
		       groups_have(size);
	*counted += size;
	if (__atomic_add_fetch(&unasked, size, __ATOMIC_RELAXED) < ASK_CGROUPS)
		return true;
	if (!memory_for_more(size + UNTIL_ASKED))
		return false;
	__atomic_store_n(&unasked, 0, __ATOMIC_RELAXED);
	return true;
}

/* Subtracts bytes that memory_there() has counted, and that were freed. */
void memory_back(uint64_t counted)
{
	uint64_t old = __atomic_load_n(&unasked, __ATOMIC_RELAXED);

	while (!__atomic_compare_exchange_n(
		&unasked, &old, old > counted ? old - counted : 0, true,
		__ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/*
 * The same for a part of an arena that grows: any of many small ones may be the last.
 */
bool memory_for_more(size_t size)
{
	return system_has(size) && groups_have(size);
}

/* Whether a file may be so large.  If not, the kernel would send SIGXFSZ. */
bool file_may_be(size_t size)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_FSIZE, &limit) || size <= limit.rlim_cur;
}
