// SPDX-License-Identifier: MIT
/*
 * Memory and its limits.  A page of a memfd, or of the device, counts for the memory
 * cgroup of the process that makes it, and for all of that cgroup's ancestors, so the
 * strictest of these counts.  Of version 2 and of version 1, either of which may be
 * mounted anywhere; a process in a container sees them from its own root on.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"

/* The same two questions, as each version of cgroups answers them. */
static const struct version {
	const char *type; /* of the file system */
	const char *limits[2]; /* of a cgroup's files, as are those below */
	const char *usage;
	const char *cached[2]; /* keys of memory.stat: what can be given back */
} versions[] = {
	{ "cgroup2",
	  { "/memory.max", "/memory.high" },
	  "/memory.current",
	  { "inactive_file", "active_file" } },
	{ "cgroup",
	  { "/memory.limit_in_bytes", NULL },
	  "/memory.usage_in_bytes",
	  { "total_inactive_file", "total_active_file" } },
};

bool read_line(const char *path, char *line, int size)
{
	FILE *file = fopen(path, "re");
	bool got;

	if (!file)
		return false;
	got = fgets(line, size, file);
	fclose(file);
	if (got)
		line[strcspn(line, "\n")] = '\0';
	return got;
}

/* False: the path is longer than there can be one. */
static bool join(char path[PATH_MAX], const char *folder, const char *name)
{
	return snprintf(path, PATH_MAX, "%s%s", folder, name) < PATH_MAX;
}

static bool read_bytes(const char *folder, const char *name, uint64_t *value)
{
	char path[PATH_MAX], line[64], *end;

	if (!join(path, folder, name) || !read_line(path, line, sizeof(line)))
		return false;
	*value = strtoull(line, &end, 10);
	/* "max": no limit; and version 1 has a number that no machine has. */
	return end != line && *value < UINT64_MAX / 4;
}

/* What is used, and could not be given back at once. */
static uint64_t read_usage(const char *folder, const struct version *v)
{
	unsigned long long bytes;
	char path[PATH_MAX], line[128], key[64];
	uint64_t used = 0;
	FILE *stat;

	if (!read_bytes(folder, v->usage, &used))
		return 0;
	if (!join(path, folder, "/memory.stat"))
		return used;
	stat = fopen(path, "re");
	while (stat && fgets(line, sizeof(line), stat)) {
		if (sscanf(line, "%63s %llu", key, &bytes) != 2 ||
		    (strcmp(key, v->cached[0]) && strcmp(key, v->cached[1])))
			continue;
		used -= bytes < used ? bytes : used;
	}
	if (stat)
		fclose(stat);
	return used;
}

/* Takes the limits of the cgroup at @folder, called @cgroup, if they are stricter. */
static void take_limits(struct memory *m, const struct version *v,
			const char *folder, const char *cgroup)
{
	uint64_t limit, used, left;
	int i;

	for (i = 0; i < 2 && v->limits[i]; i++) {
		if (!read_bytes(folder, v->limits[i], &limit))
			continue;
		used = read_usage(folder, v);
		left = used < limit ? limit - used : 0;
		if (left >= m->left)
			continue;
		m->left = left;
		m->limit = limit;
		m->file = v->limits[i] + 1;
		snprintf(m->cgroup, sizeof(m->cgroup), "%.255s",
			 *cgroup ? cgroup : "/");
	}
}

/* The cgroup @path, and its ancestors, below the mount point @mount. */
static void climb(struct memory *m, const struct version *v, const char *mount,
		  char *path)
{
	char folder[PATH_MAX], *slash;

	for (;;) {
		if (join(folder, mount, path))
			take_limits(m, v, folder, path);
		slash = strrchr(path, '/');
		if (!slash)
			return;
		*slash = '\0';
	}
}

/* The process's cgroup of that version, as /proc/self/cgroup has it, into @path. */
static bool find_cgroup(const struct version *v, char path[PATH_MAX])
{
	char line[PATH_MAX + 64], controllers[64];
	FILE *file = fopen("/proc/self/cgroup", "re");
	bool found = false;
	int at;

	while (file && !found && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		at = 0;
		if (v == &versions[0]) {
			found = !strncmp(line, "0::/", 4);
			at = 3;
		} else if (sscanf(line, "%*u:%63[^:]:%n", controllers, &at) ==
				   1 &&
			   at) {
			found = strstr(controllers, "memory");
		}
		if (found)
			snprintf(path, PATH_MAX, "%.*s", PATH_MAX - 1,
				 line + at);
	}
	if (file)
		fclose(file);
	/* The root is "/", a child of it "/child". */
	if (found && !strcmp(path, "/"))
		*path = '\0';
	return found;
}

/* A field of mountinfo has blanks and the like as "\040". */
static void decode(char *text)
{
	unsigned int code;
	char *to = text;

	for (; *text; text++) {
		if (sscanf(text, "\\%3o", &code) == 1) {
			*to++ = (char)code;
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = '\0';
}

/* Looks at one line of mountinfo: is that version's memory controller there? */
static void look_at_mount(struct memory *m, const struct version *v, char *line,
			  const char *path)
{
	char root[PATH_MAX], mount[PATH_MAX], type[32], options[256];
	char below[PATH_MAX];
	const char *rest = strstr(line, " - ");
	size_t len;

	if (!rest ||
	    sscanf(line, "%*s %*s %*s %4095s %4095s", root, mount) != 2 ||
	    sscanf(rest, " - %31s %*s %255s", type, options) != 2 ||
	    strcmp(type, v->type) != 0 ||
	    (v != &versions[0] && !strstr(options, "memory")))
		return;
	decode(root);
	decode(mount);
	/* What is mounted may be a part: what lies above it is out of sight. */
	len = strcmp(root, "/") ? strlen(root) : 0;
	if (strncmp(path, root, len) != 0 || !strncmp(path, "/..", 3))
		*below = '\0';
	else
		snprintf(below, sizeof(below), "%s", path + len);
	climb(m, v, mount, below);
}

static void find_limits(struct memory *m, const struct version *v)
{
	char path[PATH_MAX], *line = NULL;
	size_t room = 0;
	FILE *mounts;

	if (!find_cgroup(v, path))
		return;
	mounts = fopen("/proc/self/mountinfo", "re");
	while (mounts && getline(&line, &room, mounts) > 0)
		look_at_mount(m, v, line, path);
	free(line);
	if (mounts)
		fclose(mounts);
}

bool find_memory(struct memory *memory)
{
	unsigned long long kib = 0;
	bool known = false;
	char line[128];
	FILE *file;
	size_t i;

	*memory = (struct memory){ .left = UINT64_MAX, .file = "" };
	file = fopen("/proc/meminfo", "re");
	while (file && !known && fgets(line, sizeof(line), file))
		known = sscanf(line, "MemAvailable: %llu kB", &kib) == 1;
	if (file)
		fclose(file);
	memory->available = (uint64_t)kib * 1024;
	for (i = 0; i < sizeof(versions) / sizeof(*versions); i++)
		find_limits(memory, &versions[i]);
	return known;
}
