// SPDX-License-Identifier: MIT
/*
 * Remedies.  An errno says little.  So after a failure these functions look at what may have
 * caused it, and advise what helps.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "remedy.h"
#include "util.h"

#define REMEDY_LEN 200

/* Advice for errors with one cause. */
static const char *plain_remedy(int error)
{
	static const struct {
		int error;
		const char *text;
	} remedies[] = {
		{ ENFILE, "the whole system's limit: raise "
			  "/proc/sys/fs/file-max" },
		{ ENODEV,
		  "/dev/evering is missing, or this user may not use it: "
		  "see 'evering doctor', or use --backend=memfd" },
		{ ENOSPC, "this user's limit of epoll watches: raise "
			  "/proc/sys/fs/epoll/max_user_watches" },
		{ ENOTDIR, "part of the path is not a folder" },
		{ EROFS, "use a path in a writable folder" },
		{ EPROTONOSUPPORT, "the two sides speak different versions of "
				   "the ABI: is one of them an older build?" },
		{ EPROTO, "the other side does not speak evering" },
		{ ECONNRESET, "the other side went away" },
		{ EPROTOTYPE,
		  "a program that does not use evering listens there" },
	};
	size_t i;

	for (i = 0; i < sizeof(remedies) / sizeof(*remedies); i++)
		if (remedies[i].error == error)
			return remedies[i].text;
	return "";
}

/* Descriptors are needed one by one: twice as many help for a while. */
static void descriptors_remedy(char *buf, size_t size)
{
	unsigned long long wanted;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	wanted = limit.rlim_cur < 32 ? 64 : 2 * limit.rlim_cur;
	if (wanted <= limit.rlim_max)
		snprintf(buf, size,
			 "the limit is %llu: raise it with 'ulimit -n %llu'",
			 (unsigned long long)limit.rlim_cur, wanted);
	else
		snprintf(
			buf, size,
			"the limit is %llu, and 'ulimit -n' raises it to %llu: only root "
			"can allow more",
			(unsigned long long)limit.rlim_cur,
			(unsigned long long)limit.rlim_max);
}

int memfd_error(void)
{
	int fd, err = 0;

	fd = memfd_create("evering-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE))
		err = errno;
	if (fd >= 0)
		close(fd);
	return err;
}

static void geometry_remedy(const struct attempt *a, char *buf, size_t size)
{
	char mine[FORMAT_LEN], peers[FORMAT_LEN];
	const struct evering_params *p = a->params;

	if (!p)
		return;
	snprintf(buf, size,
		 "slots of %u bytes, rings of %u, arenas of %s and %s",
		 p->slot_size, p->entries,
		 format_size(mine, p->arena_size[EVERING_MINE]),
		 format_size(peers, p->arena_size[EVERING_PEERS]));
}

static void invalid_remedy(const struct attempt *a, char *buf, size_t size)
{
	const char *wanted = getenv("EVERING_BACKEND");

	if (wanted && *wanted && strcmp(wanted, "memfd") != 0 &&
	    strcmp(wanted, "device") != 0 &&
	    (!a->params || a->params->backend == EVERING_BACKEND_AUTO))
		snprintf(buf, size,
			 "$EVERING_BACKEND is '%.40s': set it to memfd or "
			 "device, or unset it",
			 printable(wanted));
	else if (memfd_error())
		snprintf(
			buf, size,
			"memfds cannot be sealed here: that takes Linux 5.1 or "
			"later, and no sandbox that forbids it; see 'evering "
			"doctor'");
	else
		geometry_remedy(a, buf, size);
}

/* Sockets ----------------------------------------------------------------- */

static const char *kind_of(mode_t mode)
{
	return S_ISDIR(mode)  ? "a folder" :
	       S_ISREG(mode)  ? "a file" :
	       S_ISFIFO(mode) ? "a fifo" :
	       S_ISCHR(mode)  ? "a device" :
	       S_ISBLK(mode)  ? "a device" :
				"something else";
}

/* 0 if a process listens at @path, or the errno of a connection to it. */
static int try_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, err = 0;

	if (*path == '@')
		return 0;
	if (strlen(path) > sizeof(addr.sun_path))
		return ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	memcpy(addr.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) &&
	    errno != EAGAIN)
		err = errno;
	close(fd);
	return err;
}

/* Something exists already at the path of the new socket. */
static void in_use_remedy(const struct attempt *a, char *buf, size_t size)
{
	const char *other = a->place_option ? a->place_option : "path";
	int err = a->path ? try_connect(a->path) : 0;
	struct stat st;

	if (!a->path || *a->path == '@' || lstat(a->path, &st))
		snprintf(buf, size,
			 "another process listens there: use another %s",
			 other);
	else if (!S_ISSOCK(st.st_mode))
		snprintf(buf, size, "it is not a socket but %s: use another %s",
			 kind_of(st.st_mode), other);
	else if (err == ECONNREFUSED)
		snprintf(buf, size,
			 "a socket that user %u has left behind: have it "
			 "removed, or use another %s",
			 (unsigned int)st.st_uid, other);
	else if (err == EACCES)
		snprintf(buf, size,
			 "a socket of user %u, in use or left behind: have it "
			 "removed, or use another %s",
			 (unsigned int)st.st_uid, other);
	else
		snprintf(buf, size, "user %u listens there: use another %s",
			 (unsigned int)st.st_uid, other);
}

static void missing_remedy(const struct attempt *a, char *buf, size_t size)
{
	char folder[MAX_SOCKET_PATH + 1] = ".";
	const char *slash = a->path ? strrchr(a->path, '/') : NULL;

	if (slash && (size_t)(slash - a->path) < sizeof(folder))
		snprintf(folder, sizeof(folder), "%.*s",
			 (int)(slash - a->path + 1), a->path);
	if (access(folder, F_OK))
		snprintf(buf, size, "the folder is missing: use %s%s",
			 a->place_option ? "a " : "another ",
			 a->place_option ? a->place_option : "path");
	else
		snprintf(
			buf, size,
			"no process listens there: start the listening side first");
}

static void refused_remedy(const struct attempt *a, char *buf, size_t size)
{
	struct stat st;

	if (!a->path || *a->path == '@' || stat(a->path, &st))
		snprintf(
			buf, size,
			"no process listens there: start the listening side first");
	else if (!S_ISSOCK(st.st_mode))
		snprintf(buf, size,
			 "it is not a socket but %s: no process can listen "
			 "there",
			 kind_of(st.st_mode));
	else
		snprintf(
			buf, size,
			"no process listens there any more: start the listening "
			"side again");
}

static void denied_remedy(const struct attempt *a, char *buf, size_t size)
{
	const char *place = a->place_option ? a->place_option : "path";
	struct stat st;

	if (!a->listening && a->path && !stat(a->path, &st) &&
	    S_ISSOCK(st.st_mode) && st.st_uid != geteuid())
		snprintf(buf, size, "it is user %u's, with mode %04o",
			 (unsigned int)st.st_uid,
			 (unsigned int)st.st_mode & 07777);
	else
		snprintf(buf, size,
			 "use a %s in a folder that this user may %s", place,
			 a->listening ? "write to" : "use");
}

/* All of them ------------------------------------------------------------ */

void find_remedy(const struct attempt *a, int err, char *buf, size_t size)
{
	const char *arena = a->arena_option ? a->arena_option : "arena";
	char number[FORMAT_LEN];
	struct rlimit limit = { 0 };

	*buf = '\0';
	switch (-err) {
	case EMFILE:
		descriptors_remedy(buf, size);
		break;
	case EINVAL:
		invalid_remedy(a, buf, size);
		break;
	case E2BIG:
		geometry_remedy(a, buf, size);
		if (!a->arena_option)
			snprintf(buf, size,
				 "the listening side accepts no "
				 "channel of that size");
		break;
	case EDQUOT:
		snprintf(buf, size,
			 "a quota of the evering module: use a smaller %s, or "
			 "--backend=memfd, or raise it in "
			 "/sys/module/evering/parameters",
			 arena);
		break;
	case ENOMEM:
		if (a->arena_option && a->params)
			snprintf(buf, size, "use an %s smaller than %s", arena,
				 format_size(
					 number,
					 a->params->arena_size[EVERING_MINE]));
		else
			snprintf(buf, size,
				 "'evering doctor' shows what memory there is");
		break;
	case EFBIG:
		getrlimit(RLIMIT_FSIZE, &limit);
		snprintf(buf, size,
			 "the limit is %llu bytes: raise it with 'ulimit -f "
			 "unlimited'",
			 (unsigned long long)limit.rlim_cur);
		break;
	case ETIMEDOUT:
		if (a->timeout_ns)
			snprintf(buf, size,
				 "not within %g s: use a longer --timeout",
				 (double)a->timeout_ns / 1e9);
		else
			snprintf(buf, size,
				 "the other side did not come, or is busy");
		break;
	case EADDRINUSE:
		in_use_remedy(a, buf, size);
		break;
	case ENOENT:
		missing_remedy(a, buf, size);
		break;
	case ECONNREFUSED:
		refused_remedy(a, buf, size);
		break;
	case EACCES:
	case EPERM:
		denied_remedy(a, buf, size);
		break;
	case ENAMETOOLONG:
		snprintf(buf, size, "use a %s of at most %u bytes",
			 a->place_option ? a->place_option : "path",
			 MAX_SOCKET_PATH);
		break;
	default:
		snprintf(buf, size, "%s", plain_remedy(-err));
	}
}

void complain_of(const struct attempt *a, int err)
{
	char remedy[REMEDY_LEN];

	find_remedy(a, err, remedy, sizeof(remedy));
	complain("%s%s%s: %s%s%s%s", a->what, a->path ? " " : "",
		 a->path ? printable(a->path) : "", strerror(-err),
		 *remedy ? " (" : "", remedy, *remedy ? ")" : "");
}
