// SPDX-License-Identifier: MIT
/*
 * privsep: a program in two processes.  The helper may open files and does nothing
 * else.  The worker does all the work, and may open nothing.
 *
 *	privsep /etc hostname		prints /etc/hostname
 *
 * The helper keeps its privileges, and opens files below one directory for reading.
 * The worker gives up all its privileges before it looks at any data.  An attacker that
 * takes the worker over has only a channel to the helper.  So the helper checks every
 * request.
 *
 * Contents come in buffers of the helper's arena.  The helper gives each to the worker,
 * which frees it.  They are not copied on their way.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <evering.h>

#define SECOND ((int64_t)1000000000)

/* ------------------------------------------------------------- the protocol */

enum {
	FILE_OPEN = 1, /* a path; answer: the file's number, >= 0 */
	FILE_READ = 2, /* struct chunk; answer: its bytes, in a buffer; or 0 */
	FILE_CLOSE = 3, /* the number; answer: the sum of all that was read */
};

#define MAX_PATH  200u /* what fits an entry of EVERING_MAX_SLOT */
#define MAX_FILES 16
#define CHUNK	  ((uint64_t)128 << 10)
#define ARENA	  ((uint64_t)1 << 20)

struct chunk {
	int32_t file;
	uint32_t reserved;
	uint64_t offset;
};

/* FNV-1a of everything that was read so far. */
#define SUM_START 0xcbf29ce484222325

static uint64_t sum_of(uint64_t sum, const unsigned char *bytes, uint64_t len)
{
	while (len--)
		sum = (sum ^ *bytes++) * 0x100000001b3;
	return sum;
}

static void complain(const char *what, int error, const char *advice)
{
	fflush(stdout);
	fprintf(stderr, "privsep: %s: %s%s%s\n", what, strerror(-error),
		advice ? "; " : "", advice ? advice : "");
}

/* --------------------------------------------- the helper, with privileges */

struct helper {
	struct evering_client *worker;
	int dir;
	int error; /* why the channel has ended */
	bool met;
	bool no_links;
	struct {
		bool open;
		int fd;
		uint64_t sum; /* of the bytes that were read */
	} files[MAX_FILES];
};

#define HOW_TO_OPEN (O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

/*
 * Opens one name after the other, and refuses symbolic links and "..", so that no path
 * leads out.  For kernels without openat2(2).  Returns a descriptor or a negative
 * errno.
 */
static int open_by_steps(int dir, char *path)
{
	int at = dir, next, error;
	char *name, *rest;

	if (*path == '/')
		return -EXDEV;
	for (name = strtok_r(path, "/", &rest); name; name = path) {
		path = strtok_r(NULL, "/", &rest);
		if (!strcmp(name, ".."))
			next = -1, errno = EXDEV;
		else
			next = openat(at, name,
				      HOW_TO_OPEN | O_NOFOLLOW |
					      (path ? O_DIRECTORY : 0));
		error = errno;
		if (at != dir)
			close(at);
		if (next < 0)
			return -error;
		at = next;
	}
	return at == dir ? -EISDIR : at;
}

/*
 * Opens @path below @dir and nowhere else.  The kernel ensures that, whatever the path
 * is and whatever other processes rename meanwhile.  Returns a descriptor or a negative
 * errno.
 */
static int open_below(struct helper *h, char *path)
{
	struct open_how how = { .flags = HOW_TO_OPEN,
				.resolve = RESOLVE_BENEATH |
					   RESOLVE_NO_MAGICLINKS };
	int tries = 10;
	long fd = -1;

	while (!h->no_links) {
		fd = syscall(SYS_openat2, h->dir, path, &how, sizeof(how));
		if (fd >= 0)
			return (int)fd;
		/* Something was renamed during the lookup. */
		if (errno == EAGAIN && tries--)
			continue;
		if (errno != ENOSYS && errno != EPERM)
			return -errno;
		complain("openat2", -errno,
			 "it takes Linux 5.6, and a sandbox that lets it pass: "
			 "going without, and without symbolic links");
		h->no_links = true;
	}
	return open_by_steps(h->dir, path);
}

/* Returns the number of the file, or a negative errno. */
static int handle_open(struct helper *h, const struct evering_request *request)
{
	char path[MAX_PATH + 1];
	struct stat st;
	int file, fd;

	/*
	 * The data is a copy that the worker cannot change, but it may not end in a 0.
	 */
	if (!request->len || request->len > MAX_PATH ||
	    memchr(request->data, 0, request->len))
		return -EINVAL;
	memcpy(path, request->data, request->len);
	path[request->len] = 0;

	for (file = 0; file < MAX_FILES && h->files[file].open; file++)
		;
	if (file == MAX_FILES)
		return -EMFILE;
	fd = open_below(h, path);
	if (fd < 0)
		return fd;
	/* Refuse devices and pipes, which might do anything when they are read. */
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EACCES;
	}
	h->files[file].open = true;
	h->files[file].fd = fd;
	h->files[file].sum = SUM_START;
	return file;
}

/* Whether it is the number of an open file. */
static bool is_file(const struct helper *h, int32_t file)
{
	return file >= 0 && file < MAX_FILES && h->files[file].open;
}

static int handle_read(struct helper *h, const struct evering_request *request)
{
	struct chunk chunk;
	ssize_t n;
	void *buf;
	int ret;

	if (request->len != sizeof(chunk))
		return -EINVAL;
	memcpy(&chunk, request->data, sizeof(chunk));
	if (!is_file(h, chunk.file) || chunk.offset > INT64_MAX - CHUNK)
		return -EINVAL;
	/* The worker has to free earlier buffers before it gets more. */
	buf = evering_alloc(h->worker->ev, CHUNK, 0);
	if (!buf)
		return -ENOBUFS;
	n = pread(h->files[chunk.file].fd, buf, CHUNK, (off_t)chunk.offset);
	ret = n < 0 ? -errno : (int)n;
	if (ret > 0) {
		h->files[chunk.file].sum =
			sum_of(h->files[chunk.file].sum, buf, (uint64_t)n);
		/* From here on the buffer belongs to the worker, which frees it. */
		if (!evering_op_answer_buffer(h->worker->ops, request->id, ret,
					      buf, (uint64_t)n))
			return 1;
		ret = -EIO;
	}
	evering_free(h->worker->ev, buf);
	return ret;
}

static void handle_close(struct helper *h,
			 const struct evering_request *request)
{
	int32_t file = -1;

	if (request->len == sizeof(file))
		memcpy(&file, request->data, sizeof(file));
	if (!is_file(h, file)) {
		evering_op_answer(h->worker->ops, request->id, -EINVAL, NULL,
				  0);
		return;
	}
	evering_op_answer(h->worker->ops, request->id, 0, &h->files[file].sum,
			  sizeof(h->files[file].sum));
	close(h->files[file].fd);
	h->files[file].open = false;
}

static void handle(struct evering_client *client,
		   const struct evering_request *request)
{
	struct helper *h = client->context;
	int ret = -EINVAL;

	h->worker = client;
	/* The worker has no buffers to send. A given one has to be freed. */
	if (request->buf) {
		evering_free(h->worker->ev, request->buf);
		goto answer;
	}
	switch (request->opcode) {
	case FILE_OPEN:
		ret = handle_open(h, request);
		break;
	case FILE_READ:
		ret = handle_read(h, request);
		if (ret > 0)
			return;
		break;
	case FILE_CLOSE:
		handle_close(h, request);
		return;
	}
answer:
	/* This fails only if the worker is gone, which is noticed elsewhere. */
	evering_op_answer(h->worker->ops, request->id, ret, NULL, 0);
}

static const char *help_remedy(int error)
{
	switch (error) {
	case -ENODEV:
		return "load evering.ko, or set EVERING_BACKEND=memfd";
	case -EINVAL:
		return "EVERING_BACKEND has to be device, memfd or not set";
	case -EMFILE:
		return "allow more descriptors with `ulimit -n`";
	case -ENOTDIR:
		return "DIR has to be a directory";
	case -ECONNRESET:
		return "the worker failed";
	default:
		return NULL;
	}
}

static void gone(struct evering_client *client, int why)
{
	struct helper *h = client->context;

	h->error = why == -EPIPE ? 0 : why;
	evering_server_stop(client->server, EVERING_NOWAIT);
}

/* Serves until the worker is gone. Returns 0 or a negative errno. */
static int help(struct helper *h, int fd)
{
	struct evering_server_params server_params = EVERING_SERVER_PARAMS_INIT;
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering_server *server = NULL;
	struct evering *ev;
	int ret;

	/* The helper makes the channel, so that it decides how much that costs. */
	params.slot_size = EVERING_MAX_SLOT;
	params.entries = 64;
	params.arena_size[EVERING_MINE] = ARENA;
	params.arena_size[EVERING_PEERS] = 0;
	ret = evering_connect_fd(fd, &params, 5 * SECOND, &ev);
	if (ret)
		return ret;
	h->met = true;
	server_params.request = handle;
	server_params.close = gone;
	server_params.context = h;
	ret = evering_server_open(NULL, &server_params, &server);
	if (!ret)
		ret = evering_server_add(server, ev, NULL);
	if (ret)
		evering_close(ev);
	while (ret >= 0 || ret == -EINTR)
		ret = evering_server_wait(server, EVERING_WAIT_FOREVER);
	evering_server_close(server);
	return ret == -ESHUTDOWN ? h->error : ret;
}

/* ------------------------------------------- the worker, with none of them */

#define NOBODY 65534

/* For root: become another user, in a directory that is empty and stays empty. */
static int leave_everything(void)
{
	char nowhere[] = "/tmp/privsep.XXXXXX";

	/* No file can be made in a directory that was removed. */
	if (!mkdtemp(nowhere) || chdir(nowhere) || rmdir(nowhere) ||
	    chroot("."))
		return -errno;
	/*
	 * The order matters: a process that is not root any more cannot do the first
	 * two.
	 */
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return -errno;
	/* Check that there is no way back. */
	return setuid(0) ? 0 : -EPERM;
}

static int drop_privileges(void)
{
	/* No set-user-ID program can return the privileges. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	/* No core file and no debugger either. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return -errno;
	if (!geteuid())
		return leave_everything();
	fprintf(stderr, "privsep: not root: the worker stays user %u\n",
		(unsigned int)getuid());
	return 0;
}

/* Sends a request without a buffer. Returns its result, or a negative errno. */
static int ask(struct evering_ops *ops, uint32_t opcode, const void *data,
	       size_t len, struct evering_completion *answer)
{
	struct evering_op op = { .opcode = opcode,
				 .data = data,
				 .len = (uint32_t)len };
	int ret = evering_op_call(ops, &op, answer, 30 * SECOND);

	return ret ? ret : answer->result;
}

/* Writes all contents of an open file. Returns 0 or a negative errno. */
static int print_contents(struct evering *ev, struct evering_ops *ops,
			  int32_t file, uint64_t *sum)
{
	static unsigned char bytes[CHUNK];
	struct evering_completion answer;
	struct chunk chunk = { .file = file };
	int ret;

	*sum = SUM_START;
	while ((ret = ask(ops, FILE_READ, &chunk, sizeof(chunk), &answer)) >
	       0) {
		if (!answer.buf || answer.buf_len > CHUNK)
			return -EPROTO;
		/*
		 * The helper could change the buffer at any time.  So the sum and the
		 * output are from one copy, not from two reads of the buffer.
		 */
		memcpy(bytes, answer.buf, answer.buf_len);
		evering_free(ev, answer.buf);
		*sum = sum_of(*sum, bytes, answer.buf_len);
		if (fwrite(bytes, 1, answer.buf_len, stdout) != answer.buf_len)
			return -errno;
		chunk.offset += answer.buf_len;
	}
	return ret;
}

static const char *file_remedy(int error)
{
	switch (error) {
	case -EXDEV:
	case -ELOOP:
		return "only what lies below DIR is opened";
	case -EACCES:
		return "it takes a regular file that the helper may read";
	case -EINVAL:
	case -EMSGSIZE:
		return "FILE has 1 to 200 bytes";
	case -EPIPE:
		return "the helper is gone";
	case -ETIMEDOUT:
		return "is the helper stopped?";
	case -EBADMSG:
		return "what came is not what was sent: report it";
	default:
		return NULL;
	}
}

/* Returns 0, or a negative errno that was printed. */
static int print_file(struct evering *ev, struct evering_ops *ops,
		      const char *path)
{
	struct evering_completion answer;
	uint64_t sum, their_sum;
	int32_t file;
	int ret;

	file = ask(ops, FILE_OPEN, path, strlen(path), &answer);
	if (file < 0) {
		complain(path, file, file_remedy(file));
		return file;
	}
	ret = print_contents(ev, ops, file, &sum);
	if (!ret)
		ret = ask(ops, FILE_CLOSE, &file, sizeof(file), &answer);
	if (!ret && answer.len != sizeof(their_sum))
		ret = -EPROTO;
	if (!ret) {
		memcpy(&their_sum, answer.data, sizeof(their_sum));
		if (sum != their_sum)
			ret = -EBADMSG;
	}
	if (ret)
		complain(path, ret, file_remedy(ret));
	return ret;
}

static int work(int fd, char **files)
{
	struct evering_ops *ops = NULL;
	struct evering *ev;
	int ret, failed = 0;

	ret = drop_privileges();
	if (ret) {
		complain("dropping privileges", ret,
			 "root in a container needs a user 65534, CAP_SETUID, "
			 "CAP_SETGID and CAP_SYS_CHROOT");
		return EXIT_FAILURE;
	}
	/* The channel comes after that, because to accept one takes no privileges. */
	ret = evering_accept_fd(fd, NULL, 5 * SECOND, &ev);
	if (!ret)
		ret = evering_ops_open(ev, NULL, &ops);
	if (ret) {
		/* If the helper is gone, it has printed why. */
		if (ret != -ECONNRESET)
			complain("worker", ret, "is the helper stopped?");
		return EXIT_FAILURE;
	}
	fprintf(stderr, "privsep: over %s, as user %u\n",
		evering_backend_name(ev), (unsigned int)getuid());
	for (; *files && ret != -EPIPE; files++) {
		ret = print_file(ev, ops, *files);
		failed |= ret != 0;
	}
	evering_ops_close(ops);
	evering_close(ev);
	if (fflush(stdout)) {
		complain("standard output", -errno, NULL);
		failed = 1;
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* -------------------------------------------------------------------- both */

static const char usage[] =
	"Usage: privsep [--no-links] DIR FILE...\n"
	"\n"
	"Prints files below DIR.  A process without privileges asks for them,\n"
	"and one that has them opens them.  With --no-links, or without\n"
	"openat2(2), no symbolic links are followed; else those that stay\n"
	"below DIR.\n";

int main(int argc, char **argv)
{
	struct helper helper = { .dir = -1 };
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "no-links", no_argument, NULL, 'n' },
		{ 0 }
	};
	int fds[2], ret, status = 0;
	pid_t worker;

	while ((ret = getopt_long(argc, argv, "+h", options, NULL)) == 'n')
		helper.no_links = true;
	argv += optind;
	if (ret != -1 || !argv[0] || !argv[1]) {
		fputs(usage, ret == 'h' ? stdout : stderr);
		return ret == 'h' ? EXIT_SUCCESS : 2;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		complain("socketpair", -errno,
			 "allow more descriptors with `ulimit -n`");
		return EXIT_FAILURE;
	}
	/*
	 * First the processes, then the channel, because a child has none of its
	 * parent's channels.
	 */
	worker = fork();
	if (worker < 0) {
		complain("fork", -errno,
			 "allow more processes with `ulimit -u`");
		return EXIT_FAILURE;
	}
	if (!worker) {
		close(fds[0]);
		_exit(work(fds[1], argv + 1));
	}
	close(fds[1]);
	/* Only now, so that the worker does not get this descriptor. */
	helper.dir = open(argv[0], O_PATH | O_DIRECTORY | O_CLOEXEC);
	ret = helper.dir < 0 ? -errno : help(&helper, fds[0]);
	if (ret)
		complain(helper.dir < 0 ? argv[0] : "helper", ret,
			 help_remedy(ret));
	/* A worker that has no channel yet must not wait for one. */
	if (!helper.met)
		close(fds[0]);
	if (waitpid(worker, &status, 0) < 0 || !WIFEXITED(status)) {
		fprintf(stderr, "privsep: the worker was killed by signal %d\n",
			WTERMSIG(status));
		return EXIT_FAILURE;
	}
	return ret ? EXIT_FAILURE : WEXITSTATUS(status);
}
