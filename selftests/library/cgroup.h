/* SPDX-License-Identifier: MIT */
/*
 * cgroup.h: groups of processes that may have so much memory and no more.
 */
#ifndef EVERING_SELFTESTS_CGROUP_H
#define EVERING_SELFTESTS_CGROUP_H

#include "common.h"

#include <sys/stat.h>

static inline bool in_guest(void)
{
	return getenv("EVERING_GUEST");
}

/*
 * A group that may have @limit bytes, and one in it that has no limit of its own.  Version 1
 * where it is mounted, else version 2, of which only a guest's root is ours.  NULL, or
 * why not.
 */
static inline const char *make_groups(const char *limit, char top[128],
				      char group[160])
{
	bool v1 = !access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK);
	char path[192];

	if (geteuid())
		return "to make a group takes root";
	if (!v1 && !in_guest())
		return "no memory cgroups of version 1; of version 2 only in a guest";
	if (!v1)
		write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	snprintf(top, 128, "/sys/fs/cgroup/%severing-memory-%d",
		 v1 ? "memory/" : "", getpid());
	if (mkdir(top, 0755))
		return "no group can be made";
	snprintf(path, sizeof(path), "%s/%s", top,
		 v1 ? "memory.limit_in_bytes" : "memory.max");
	if (write_text(path, limit))
		return "no memory controller for cgroups";
	if (!v1) {
		snprintf(path, sizeof(path), "%s/cgroup.subtree_control", top);
		write_text(path, "+memory");
		snprintf(path, sizeof(path), "%s/memory.swap.max", top);
		write_text(path, "0");
	}
	snprintf(group, 160, "%s/in", top);
	return mkdir(group, 0755) ? "no group can be made" : NULL;
}

/* The calling process is in @group from now on.  0, or an error. */
static inline int group_joined(const char *group)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	return write_text(path, "0");
}

/* Nobody is in them any more. */
static inline bool groups_removed(const char *top, const char *group)
{
	return (!group[0] || EVENTUALLY(!rmdir(group) || errno == ENOENT)) &&
	       (!top[0] || EVENTUALLY(!rmdir(top) || errno == ENOENT));
}

#endif /* EVERING_SELFTESTS_CGROUP_H */
