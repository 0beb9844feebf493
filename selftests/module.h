/* SPDX-License-Identifier: MIT */
/*
 * module.h: kernel modules of this project, where a test loads them itself.
 *
 * EVERING_MODULE says where evering.ko is, if not where tools/check/vm puts it; the others lie
 * beside it.
 */
#ifndef MODULE_H
#define MODULE_H

#include <sys/syscall.h>
#include "base.h"

static inline int module_file(const char *name)
{
	static const char *const places[] = { "/vm", "/lib", "." };
	const char *env = getenv("EVERING_MODULE"), *slash;
	char path[512];
	size_t i;
	int fd;

	if (env) {
		slash = strrchr(env, '/');
		snprintf(path, sizeof(path), "%.*s%s.ko",
			 slash ? (int)(slash + 1 - env) : 0, env, name);
		return open(path, O_RDONLY | O_CLOEXEC);
	}
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%s/%s.ko", places[i], name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

/* Returns 0, also if it is there already, or a negative errno. */
static inline int module_load(const char *name, const char *parameters)
{
	int fd = module_file(name), ret = 0;

	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, parameters, 0) && errno != EEXIST)
		ret = -errno;
	close(fd);
	return ret;
}

/* Returns 0; -EAGAIN: somebody holds it; or another negative errno. */
static inline int module_unload(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

#endif /* MODULE_H */
