// SPDX-License-Identifier: MIT
/*
 * stranger.c: descriptors that block whoever closes them, looks at them or asks of them:
 * a socket that lingers, and a file of a file system whose server is silent.  A stranger
 * sends them in every packet that there is, and in more.  No call may take longer for
 * it, and nothing may be left of it but the count of who was refused.
 */
#include "stranger.h"

#include <dirent.h>
#include <linux/fuse.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* How long they block, and what a call may take beyond its own time. */
#define BLOCKS slow(30 * SEC)
#define SLACK slow(8 * SEC)
#define TIMEOUT (100 * MSEC)

/* ------------------------------------------------------- descriptors that block */

/* Without a route to itself, as in a guest, a machine has no TCP. */
static bool loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool up;

	if (fd < 0)
		return false;
	up = !ioctl(fd, SIOCGIFFLAGS, &r);
	if (up && !(r.ifr_flags & IFF_UP)) {
		r.ifr_flags |= IFF_UP;
		up = !ioctl(fd, SIOCSIFFLAGS, &r);
	}
	close(fd);
	return up;
}

/*
 * A socket whose last close waits until all is sent, which nobody receives: as long as
 * this process, that has the other end, lives.
 */
static int lingering(void)
{
	const struct linger linger = { 1, (int)(BLOCKS / SEC) };
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);
	static char junk[65536];

	if (l < 0 || s < 0 || bind(l, (struct sockaddr *)&a, len) ||
	    listen(l, 1) || getsockname(l, (struct sockaddr *)&a, &len) ||
	    connect(s, (struct sockaddr *)&a, len) ||
	    accept4(l, NULL, NULL, SOCK_CLOEXEC) < 0)
		return -1;
	fcntl(s, F_SETFL, O_NONBLOCK);
	while (write(s, junk, sizeof(junk)) > 0)
		;
	fcntl(s, F_SETFL, 0);
	setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	return s;
}

/**
 * struct silence - a file system with one file, whose server can fall silent
 * @dir, @file: where it is mounted, and its file
 * @background: requests that may be unanswered before nobody can ask for more
 * @pid: the server, with which it ends
 * @fd: /dev/fuse
 * @silent: in shared memory: nothing is answered any more
 */
struct silence {
	char dir[64];
	char file[80];
	uint16_t background;
	pid_t pid;
	int fd;
	uint32_t *silent; /* shared with the server */
};

#define FILE_INODE 2

static void set_attr(struct fuse_attr *attr, uint64_t inode)
{
	attr->ino = inode;
	attr->mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0777 : S_IFREG | 0666;
	attr->nlink = 1;
	attr->size = inode == FUSE_ROOT_ID ? 0 : 4096;
	attr->blksize = 4096;
}

/* Fills in the answer to a request; its size, or a negative errno. */
static int silence_answer(const struct silence *s,
			  const struct fuse_in_header *in, void *out)
{
	const struct fuse_init_in *init_in = (const void *)(in + 1);
	struct fuse_init_out *init = out;
	struct fuse_entry_out *entry = out;
	struct fuse_attr_out *attr = out;

	switch (in->opcode) {
	case FUSE_INIT:
		init->major = FUSE_KERNEL_VERSION;
		init->minor = init_in->minor < FUSE_KERNEL_MINOR_VERSION ?
				      init_in->minor :
				      FUSE_KERNEL_MINOR_VERSION;
		init->max_write = 4096;
		/* How many may be unanswered before others wait to be asked. */
		init->max_background = s->background;
		init->congestion_threshold = s->background;
		return sizeof(*init);
	case FUSE_LOOKUP:
		entry->nodeid = FILE_INODE;
		entry->entry_valid = 3600;
		/* Attributes are asked for each time. */
		set_attr(&entry->attr, FILE_INODE);
		return sizeof(*entry);
	case FUSE_GETATTR:
		attr->attr_valid = in->nodeid == FUSE_ROOT_ID ? 3600 : 0;
		set_attr(&attr->attr, in->nodeid);
		return sizeof(*attr);
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		return sizeof(struct fuse_open_out);
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		return 0;
	}
	return -ENOSYS;
}

static int silence_main(void *arg)
{
	struct silence *s = arg;
	static union {
		struct fuse_in_header in;
		char bytes[65536];
	} request;
	struct {
		struct fuse_out_header header;
		char body[256] __attribute__((aligned(8)));
	} answer;
	int ret;

	for (;;) {
		if (read(s->fd, &request, sizeof(request)) < 0) {
			if (errno == EINTR || errno == ENOENT)
				continue;
			return 0;
		}
		if (__atomic_load_n(s->silent, __ATOMIC_ACQUIRE) ||
		    request.in.opcode == FUSE_FORGET ||
		    request.in.opcode == FUSE_BATCH_FORGET ||
		    request.in.opcode == FUSE_INTERRUPT)
			continue;
		memset(&answer, 0, sizeof(answer));
		ret = silence_answer(s, &request.in, answer.body);
		answer.header.unique = request.in.unique;
		answer.header.error = ret < 0 ? ret : 0;
		answer.header.len =
			(uint32_t)(sizeof(answer.header) +
				   (ret > 0 ? (unsigned int)ret : 0));
		if (write(s->fd, &answer, answer.header.len) < 0 &&
		    errno != ENOENT)
			return 1;
	}
}

/* 0, or a negative errno. */
static int silence_start(struct silence *s, uint16_t background)
{
	char options[128];
	int ret;

	s->background = background;
	s->silent = shared_memory(4096);
	if (!s->silent)
		return -ENOMEM;
	/* A mount of one's own, that ends with this process. */
	if (unshare(CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	strcpy(s->dir, "/tmp/evering-stranger-XXXXXX");
	if (!mkdtemp(s->dir))
		return -errno;
	snprintf(s->file, sizeof(s->file), "%s/file", s->dir);
	s->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->fd < 0) {
		ret = -errno;
		rmdir(s->dir);
		return ret;
	}
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40777,user_id=0,group_id=0,allow_other",
		 s->fd);
	ret = mount("evering-silence", s->dir, "fuse", MS_NOSUID | MS_NODEV,
		    options) ?
		      -errno :
		      0;
	if (!ret) {
		s->pid = spawn(silence_main, s);
		ret = s->pid < 0 ? -EAGAIN : 0;
	}
	close(s->fd);
	if (ret)
		rmdir(s->dir);
	return ret;
}

static void silence_end(struct silence *s)
{
	/* Whoever waits for it goes on, with an error. */
	kill_and_reap(s->pid);
	s->pid = 0;
	umount2(s->dir, MNT_DETACH);
	rmdir(s->dir);
}

/* --------------------------------------------------------------------- packets */

enum shape {
	JUNK, /* no hello, with one */
	NOTHING, /* no bytes, with one */
	LATER, /* no hello, and then another with one */
	MANY, /* no hello, with as many as a packet takes */
	OTHER_ABI, /* another version's, with them */
	REFUSED, /* beyond the limits, or an error, with one */
	WRONG, /* right, but for what the descriptors are */
	LAST_WRONG, /* right, but for the last descriptor */
	TOO_FEW, /* right, but for all descriptors but one */
	TWO, /* right, and then another with one */
	GONE, /* no hello, with one, and its sender gone */
	SHAPES,
	/* Such a one may be met: right, then one of no bytes, then another with one. */
	BEHIND_NOTHING
};

/**
 * struct script - what a stranger is to do
 * @kind: of descriptor
 * @silence: for DEAD_FILE
 * @sock: over what; -1: dial @path
 * @shape: what to send
 * @pause: wait before that until it is told to go on
 * @p: of the hello
 * @sent: in shared memory: SENT and the like
 */
enum kind {
	LINGERING,
	DEAD_FILE
};

enum pause {
	NO_PAUSE,
	BEFORE_IT_DIALS,
	BEFORE_IT_SENDS
};

#define SENT 1u
#define FAILED 2u
#define CONNECTED 3u
#define GO_ON 4u

struct script {
	enum kind kind;
	struct silence *silence;
	const char *path;
	int sock;
	enum shape shape;
	enum pause pause;
	struct evering_params p;
	uint32_t *sent;
};

static int open_file(const struct silence *s)
{
	int fd;

	__atomic_store_n(s->silent, 0, __ATOMIC_RELEASE);
	fd = open(s->file, O_RDWR | O_CLOEXEC);
	__atomic_store_n(s->silent, 1, __ATOMIC_RELEASE);
	return fd;
}

/* One that blocks from now on. */
static int blocking_fd(const struct script *s)
{
	return s->kind == LINGERING ? lingering() : open_file(s->silence);
}

static void *close_main(void *fd)
{
	close((int)(intptr_t)fd);
	return NULL;
}

/*
 * Leaves the last close of a socket to who has received it, or has it waiting.  If
 * nobody has, this thread lingers.  Each close of a file blocks, the last or not.
 */
static int let_go(const struct script *s, int fd)
{
	pthread_t t;

	if (s->kind != LINGERING)
		return 0;
	if (pthread_create(&t, NULL, close_main, (void *)(intptr_t)fd))
		return -EAGAIN;
	pthread_detach(t);
	return EVENTUALLY(fcntl(fd, F_GETFD) < 0) ? 0 : -EBUSY;
}

/* Sends @packet, @right with @fds, in a shape that it should not have. */
static int send_shape(const struct script *s, int sock, void *packet,
		      size_t size, uint32_t *abi, int32_t *error,
		      const int *fds, int n, int bad)
{
	int many[MAX_FDS], i, ret;

	for (i = 0; i < MAX_FDS; i++)
		many[i] = i < n - 1 && s->shape == LAST_WRONG ? fds[i] : bad;
	/* Where none belong to it, one is wrong. */
	if (s->shape == WRONG || s->shape == LAST_WRONG)
		n = max_of(n, 1);
	switch (s->shape) {
	case JUNK:
	case GONE:
		return raw_send(sock, "junk", 4, &bad, 1);
	case NOTHING:
		return raw_send(sock, "", 0, &bad, 1);
	case LATER:
		ret = raw_send(sock, "junk", 4, NULL, 0);
		return ret ? ret : raw_send(sock, "junk", 4, &bad, 1);
	case MANY:
		return raw_send(sock, "junk", 4, many, MAX_FDS);
	case OTHER_ABI:
		*abi += 1;
		return raw_send(sock, packet, size, many, n);
	case REFUSED:
		*error = -E2BIG;
		return raw_send(sock, packet, size, &bad, 1);
	case WRONG:
	case LAST_WRONG:
		return raw_send(sock, packet, size, many, n);
	case TOO_FEW:
		return raw_send(sock, packet, size, many, 1);
	default:
		ret = raw_send(sock, packet, size, fds, n);
		if (!ret && s->shape == BEHIND_NOTHING)
			ret = raw_send(sock, "", 0, NULL, 0);
		return ret ? ret : raw_send(sock, "junk", 4, &bad, 1);
	}
}

static int tell(const struct script *s, int ret, int bad)
{
	if (!ret)
		ret = let_go(s, bad);
	__atomic_store_n(s->sent, ret ? FAILED : SENT, __ATOMIC_RELEASE);
	if (ret)
		return 1;
	await_death();
}

/* Says that it is there, and waits to be told to go on. */
static void pause_until_told(const struct script *s)
{
	__atomic_store_n(s->sent, CONNECTED, __ATOMIC_RELEASE);
	while (__atomic_load_n(s->sent, __ATOMIC_ACQUIRE) != GO_ON)
		sleep_ns(MSEC);
}

/* A client that is none.  Lives on, so that what it sent goes on blocking. */
static int hello_main(void *arg)
{
	struct script *s = arg;
	int fds[MAX_FDS], n = 0, bad, sock = s->sock;
	struct hello hello;

	if (become_nobody())
		return tell(s, 1, -1);
	bad = blocking_fd(s);
	if (s->pause == BEFORE_IT_DIALS)
		pause_until_told(s);
	if (sock < 0)
		sock = raw_socket(s->path, 0, false);
	if (s->pause == BEFORE_IT_SENDS)
		pause_until_told(s);
	if (bad < 0 || sock < 0 || genuine_hello(&s->p, &hello, fds, &n) ||
	    send_shape(s, sock, &hello, sizeof(hello), &hello.abi,
		       (int32_t *)&hello.geometry.entries, fds, n, bad))
		return tell(s, 1, -1);
	if (s->shape == GONE)
		close(sock);
	return tell(s, 0, bad);
}

/* A server that is none. */
static int welcome_main(void *arg)
{
	struct script *s = arg;
	int theirs[MAX_FDS], fds[MAX_FDS], count, n = 0, bad, sock = s->sock;
	struct welcome welcome;
	struct evering *ev;
	struct hello hello;

	if (become_nobody())
		return tell(s, 1, -1);
	if (sock < 0) {
		sock = raw_socket(s->path, 0, true);
		__atomic_store_n(s->sent, CONNECTED, __ATOMIC_RELEASE);
		sock = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
	}
	if (sock < 0 ||
	    raw_recv(sock, &hello, sizeof(hello), theirs, &count) !=
		    sizeof(hello) ||
	    genuine_welcome(&hello, theirs, count, &welcome, fds, &n, &ev))
		return tell(s, 1, -1);
	bad = blocking_fd(s);
	if (bad < 0 || send_shape(s, sock, &welcome, sizeof(welcome),
				  &welcome.size, &welcome.error, fds, n, bad))
		return tell(s, 1, -1);
	if (s->shape == GONE) {
		close(sock);
		close(s->sock);
	}
	return tell(s, 0, bad);
}

FIXTURE(stranger)
{
	struct script script;
	struct silence silence;
	struct evering_listener *listener;
	pid_t pids[64];
	unsigned int count;
	char path[64];
	int fds;
};

FIXTURE_VARIANT(stranger)
{
	enum kind kind;
	uint32_t backend;
};

FIXTURE_VARIANT_ADD(stranger, lingering_memfd){
	.kind = LINGERING,
	.backend = EVERING_BACKEND_MEMFD,
};
FIXTURE_VARIANT_ADD(stranger, lingering_device){
	.kind = LINGERING,
	.backend = EVERING_BACKEND_DEVICE,
};
FIXTURE_VARIANT_ADD(stranger, fuse_memfd){
	.kind = DEAD_FILE,
	.backend = EVERING_BACKEND_MEMFD,
};
FIXTURE_VARIANT_ADD(stranger, fuse_device){
	.kind = DEAD_FILE,
	.backend = EVERING_BACKEND_DEVICE,
};

FIXTURE_SETUP(stranger)
{
	struct script *s = &self->script;

	REQUIRE_BACKEND(variant->backend);
	if (variant->kind == LINGERING && !loopback_up())
		SKIP(return, "there is no loopback interface");
	if (variant->kind == DEAD_FILE && geteuid())
		SKIP(return, "to mount takes root");
	if (variant->kind == DEAD_FILE && access("/dev/fuse", R_OK | W_OK))
		SKIP(return, "there is no /dev/fuse");
	snprintf(self->path, sizeof(self->path), "@evering-stranger-%d",
		 getpid());
	s->kind = variant->kind;
	s->path = self->path;
	s->sock = -1;
	s->p = params_sized(variant->backend, 64, 16, 65536);
	s->sent = shared_memory(4096);
	ASSERT_NE(NULL, s->sent);
	if (variant->kind == DEAD_FILE) {
		ASSERT_EQ(0, silence_start(&self->silence, UINT16_MAX));
		s->silence = &self->silence;
	}
	self->fds = count_fds();
}

FIXTURE_TEARDOWN(stranger)
{
	unsigned int i;

	if (self->silence.pid)
		silence_end(&self->silence);
	for (i = 0; i < self->count; i++)
		kill_and_reap(self->pids[i]);
	evering_listener_close(self->listener);
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_TRUE(no_children());
}

/*
 * Starts a stranger.  It has copies of what this process has open, so connections are
 * made before they are accepted.
 */
static bool stranger_comes(FIXTURE_DATA(stranger) * self, child_fn fn,
			   enum shape shape, int sock)
{
	self->script.shape = shape;
	self->script.sock = sock;
	/* One that came before may yet say how it ended. */
	self->script.sent += 2;
	__atomic_store_n(self->script.sent, 0, __ATOMIC_RELEASE);
	self->pids[self->count] = spawn(fn, &self->script);
	return self->pids[self->count++] > 0;
}

static uint32_t progress(FIXTURE_DATA(stranger) * self)
{
	return __atomic_load_n(self->script.sent, __ATOMIC_ACQUIRE);
}

/* Has it sent, or is it there to send? */
static bool is_there(FIXTURE_DATA(stranger) * self)
{
	return EVENTUALLY(progress(self)) && progress(self) != FAILED;
}

static bool goes_on(FIXTURE_DATA(stranger) * self)
{
	__atomic_store_n(self->script.sent, GO_ON, __ATOMIC_RELEASE);
	return EVENTUALLY(progress(self) < CONNECTED) && progress(self) == SENT;
}

TEST_F(stranger, a_hello_keeps_no_listener)
{
	uint64_t refused = 0;
	struct evering *ev;
	int64_t took;
	int shape, error;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	for (shape = 0; shape < SHAPES; shape++) {
		ASSERT_TRUE(stranger_comes(self, hello_main, shape, -1));
		ASSERT_TRUE(is_there(self))
		{
			TH_LOG("shape %d", shape);
		}
		took = now_ns();
		EXPECT_EQ(-ETIMEDOUT,
			  evering_accept(self->listener, NULL, TIMEOUT, &ev))
		{
			TH_LOG("shape %d", shape);
		}
		took = now_ns() - took;
		EXPECT_GT(TIMEOUT + SLACK, took)
		{
			TH_LOG("shape %d", shape);
		}
		EXPECT_EQ(++refused,
			  evering_listener_refused(self->listener, &error))
		{
			TH_LOG("shape %d", shape);
		}
		EXPECT_EQ(shape == OTHER_ABI ? -EPROTONOSUPPORT :
			  shape == REFUSED   ? -EINVAL :
			  shape == NOTHING   ? error :
					       -EPROTO,
			  error)
		{
			TH_LOG("shape %d", shape);
		}
	}
	EXPECT_EQ(0, serves(self->listener, self->path, &self->script.p));
}

TEST_F(stranger, a_hello_keeps_nobody_who_closes_the_listener)
{
	struct evering *ev;
	int64_t took;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	self->script.pause = BEFORE_IT_SENDS;
	ASSERT_TRUE(stranger_comes(self, hello_main, JUNK, -1));
	ASSERT_TRUE(is_there(self));
	EXPECT_EQ(-EAGAIN,
		  evering_accept(self->listener, NULL, EVERING_NOWAIT, &ev));
	ASSERT_TRUE(goes_on(self));
	took = now_ns();
	evering_listener_close(self->listener);
	self->listener = NULL;
	EXPECT_GT(SLACK, now_ns() - took);
}

TEST_F(stranger, nor_does_one_that_was_never_accepted)
{
	int64_t took;

	self->script.pause = BEFORE_IT_DIALS;
	ASSERT_TRUE(stranger_comes(self, hello_main, JUNK, -1));
	ASSERT_TRUE(is_there(self));
	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	ASSERT_TRUE(goes_on(self));
	took = now_ns();
	evering_listener_close(self->listener);
	self->listener = NULL;
	EXPECT_GT(SLACK, now_ns() - took);
}

/*
 * A worker that was forked has copies of the connections that its server had then, and
 * may be the last who has them.
 */
struct worker {
	struct evering_listener *listener;
	uint32_t *word;
};

static int worker_main(void *arg)
{
	struct worker *w = arg;
	struct evering *ev;
	int64_t took;

	while (!__atomic_load_n(w->word, __ATOMIC_ACQUIRE))
		sleep_ns(MSEC);
	took = now_ns();
	if (evering_accept(w->listener, NULL, TIMEOUT, &ev) != -ETIMEDOUT)
		return 1;
	evering_listener_close(w->listener);
	return now_ns() - took > TIMEOUT + SLACK ? 2 : 0;
}

TEST_F(stranger, a_hello_keeps_no_worker_that_inherited_it)
{
	struct worker w = { .word = self->script.sent };
	struct evering *ev;
	pid_t pid;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	w.listener = self->listener;
	self->script.pause = BEFORE_IT_SENDS;
	ASSERT_TRUE(stranger_comes(self, hello_main, JUNK, -1));
	ASSERT_TRUE(is_there(self));
	EXPECT_EQ(-EAGAIN,
		  evering_accept(self->listener, NULL, EVERING_NOWAIT, &ev));
	pid = spawn(worker_main, &w);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(goes_on(self));
	EXPECT_EQ(-ETIMEDOUT,
		  evering_accept(self->listener, NULL, TIMEOUT, &ev));
	EXPECT_EQ(1, evering_listener_refused(self->listener, NULL));
	__atomic_store_n(w.word, 1, __ATOMIC_RELEASE);
	EXPECT_EQ(0, reap_within(pid, 2 * (TIMEOUT + SLACK) + PLENTY));
}

TEST_F(stranger, a_welcome_keeps_no_client)
{
	struct evering *ev;
	int64_t took;
	int shape, ret;

	for (shape = 0; shape < SHAPES; shape++) {
		snprintf(self->path, sizeof(self->path),
			 "@evering-stranger-%d-%d", getpid(), shape);
		ASSERT_TRUE(stranger_comes(self, welcome_main, shape, -1));
		ASSERT_TRUE(is_there(self));
		took = now_ns();
		ret = evering_connect(self->path, &self->script.p,
				      slow(2 * SEC), &ev);
		took = now_ns() - took;
		/* A second packet may come too late to be seen, or not at all. */
		if (!ret && shape == TWO)
			evering_close(ev);
		else
			EXPECT_GT(0, ret)
			{
				TH_LOG("shape %d", shape);
			}
		EXPECT_NE(-ETIMEDOUT, ret)
		{
			TH_LOG("shape %d", shape);
		}
		EXPECT_GT(slow(2 * SEC) + SLACK, took)
		{
			TH_LOG("shape %d", shape);
		}
		EXPECT_EQ(self->fds, count_fds());
	}
}

/* A packet of no bytes looks like the end of the connection, behind which nothing is. */
TEST_F(stranger, nothing_is_hidden_behind_an_empty_packet)
{
	struct evering_connecting *c;
	struct evering *ev;
	int64_t took;
	int ret;

	ASSERT_EQ(0, evering_listen(self->path, 0, &self->listener));
	ASSERT_TRUE(stranger_comes(self, hello_main, BEHIND_NOTHING, -1));
	ASSERT_TRUE(is_there(self));
	took = now_ns();
	ret = evering_accept(self->listener, NULL, TIMEOUT, &ev);
	if (!ret)
		evering_close(ev);
	EXPECT_GT(TIMEOUT + SLACK, now_ns() - took);
	/* The first one has a copy of the listener, too. */
	snprintf(self->path, sizeof(self->path), "@evering-stranger-%d-%d",
		 getpid(), BEHIND_NOTHING);
	ASSERT_TRUE(stranger_comes(self, welcome_main, BEHIND_NOTHING, -1));
	ASSERT_TRUE(is_there(self));
	ASSERT_EQ(0, evering_connect_begin(self->path, &self->script.p, PLENTY,
					   &c));
	EXPECT_EQ(-EAGAIN, evering_connecting_step(c, &ev));
	ASSERT_TRUE(EVENTUALLY(progress(self) == SENT));
	took = now_ns();
	ret = evering_connecting_step(c, &ev);
	if (!ret)
		evering_close(ev);
	evering_connecting_close(c);
	EXPECT_GT(SLACK, now_ns() - took);
}

/* The socket is still the caller's, who closes it without a thought. */
TEST_F(stranger, a_socket_of_ones_own_can_be_closed)
{
	struct evering *ev;
	int shape, side, sv[2], ret;
	int64_t took;

	for (side = 0; side < 2; side++) {
		for (shape = 0; shape < SHAPES; shape++) {
			ASSERT_EQ(0, socketpair(AF_UNIX,
						SOCK_SEQPACKET | SOCK_CLOEXEC,
						0, sv));
			ASSERT_TRUE(stranger_comes(
				self, side ? welcome_main : hello_main, shape,
				sv[1]));
			close(sv[1]);
			if (!side)
				ASSERT_TRUE(is_there(self));
			took = now_ns();
			ret = side ? evering_connect_fd(sv[0], &self->script.p,
							PLENTY, &ev) :
				     evering_accept_fd(sv[0], NULL, TIMEOUT,
						       &ev);
			if (!ret && side && shape == TWO)
				evering_close(ev);
			else
				EXPECT_GT(0, ret)
				{
					TH_LOG("side %d shape %d", side, shape);
				}
			if (ret)
				close(sv[0]);
			took = now_ns() - took;
			EXPECT_GT(TIMEOUT + SLACK, took)
			{
				TH_LOG("side %d shape %d", side, shape);
			}
			EXPECT_EQ(self->fds, count_fds());
		}
	}
}

/*
 * Sends more than a socket takes, if it takes anything, with a descriptor in each
 * packet.  Returns the bytes that lie there.
 */
static uint32_t pile_up(int sock, int fd)
{
	int i, queued = 0;

	fcntl(sock, F_SETFL, O_NONBLOCK);
	for (i = 0; i < 2000; i++)
		if (raw_send(sock, "a packet for the pile", 21, &fd, 1))
			break;
	ioctl(sock, SIOCOUTQ, &queued);
	return (uint32_t)queued;
}

/* A peer, that was accepted as one, and keeps a copy of the socket. */
static int met_main(void *arg)
{
	struct script *s = arg;
	int copy = dup(s->sock), bad;
	struct evering *ev;

	if (become_nobody())
		return tell(s, 1, -1);
	if (copy < 0 || evering_connect_fd(s->sock, &s->p, PLENTY, &ev))
		return tell(s, 1, -1);
	bad = blocking_fd(s);
	s->sent[1] = pile_up(copy, bad);
	return tell(s, 0, bad);
}

TEST_F(stranger, nothing_piles_up_on_a_met_socket)
{
	struct evering *ev;
	int64_t took;
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_TRUE(stranger_comes(self, met_main, TWO, sv[1]));
	close(sv[1]);
	ASSERT_EQ(0, evering_accept_fd(sv[0], NULL, PLENTY, &ev));
	ASSERT_TRUE(is_there(self));
	EXPECT_EQ(0, self->script.sent[1]);
	EXPECT_EQ(EVERING_PEER_ALIVE, evering_peer(ev));
	took = now_ns();
	evering_close(ev);
	EXPECT_GT(SLACK, now_ns() - took);
}

/* As above, of who connects: here what is sent may be faster than the welcome. */
static int accepted_main(void *arg)
{
	struct script *s = arg;
	int copy = dup(s->sock), bad;
	struct evering *ev;

	if (become_nobody())
		return tell(s, 1, -1);
	if (copy < 0 || evering_accept_fd(s->sock, NULL, PLENTY, &ev))
		return tell(s, 1, -1);
	bad = blocking_fd(s);
	pause_until_told(s);
	s->sent[1] = pile_up(copy, bad);
	return tell(s, 0, bad);
}

TEST_F(stranger, nothing_piles_up_on_the_socket_of_who_connected)
{
	struct evering *ev;
	int64_t took;
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	ASSERT_TRUE(stranger_comes(self, accepted_main, TWO, sv[1]));
	close(sv[1]);
	ASSERT_EQ(0, evering_connect_fd(sv[0], &self->script.p, PLENTY, &ev));
	ASSERT_TRUE(is_there(self));
	EXPECT_TRUE(goes_on(self));
	EXPECT_EQ(0, self->script.sent[1]);
	took = now_ns();
	evering_close(ev);
	EXPECT_GT(SLACK, now_ns() - took);
}

/*
 * A process that has files of its own there.  They are none of a stranger's, and to meet
 * somebody is not to close them.
 */
FIXTURE(own_file)
{
	struct silence silence;
	struct evering_params p;
	int fd;
};

BACKEND_VARIANTS(own_file);

FIXTURE_SETUP(own_file)
{
	REQUIRE_BACKEND(variant->backend);
	if (geteuid())
		SKIP(return, "to mount takes root");
	if (access("/dev/fuse", R_OK | W_OK))
		SKIP(return, "there is no /dev/fuse");
	ASSERT_EQ(0, silence_start(&self->silence, 1));
	self->p = params_sized(variant->backend, 64, 16, 65536);
	self->fd = open_file(&self->silence);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(own_file)
{
	silence_end(&self->silence);
	close(self->fd);
	EXPECT_TRUE(no_children());
}

static int meets_main(void *arg)
{
	const struct evering_params *p = arg;
	struct evering_listener *l;
	char path[64];
	int i, ret;

	snprintf(path, sizeof(path), "@evering-own-%d", getpid());
	if (evering_listen(path, 0, &l))
		return 1;
	for (i = 0; i < 20; i++) {
		ret = serves(l, path, p);
		if (ret)
			return 2;
	}
	/* Not by an exit, which closes that file. */
	kill(getpid(), SIGSTOP);
	return 0;
}

TEST_F(own_file, keeps_nobody_from_meeting)
{
	int64_t end = now_ns() + SLACK + PLENTY;
	pid_t pid = spawn(meets_main, &self->p);
	int status = 0;
	pid_t ret;

	ASSERT_LT(0, pid);
	do {
		ret = waitpid(pid, &status, WUNTRACED | WNOHANG);
		sleep_ns(MSEC);
	} while (!ret && now_ns() < end);
	EXPECT_EQ(pid, ret);
	EXPECT_TRUE(WIFSTOPPED(status));
	__atomic_store_n(self->silence.silent, 2, __ATOMIC_RELEASE);
	kill(pid, SIGKILL);
	/* It cannot end before its file can. */
	kill_and_reap(self->silence.pid);
	self->silence.pid = 0;
	waitpid(pid, NULL, 0);
}

TEST_HARNESS_MAIN
