// SPDX-License-Identifier: MIT
/*
 * grow.c: arenas that get their memory as it is used: no more of it than that, step by
 * step to the end, and an error where there is none.  A peer that says it has grown and
 * has not, or names a place where it has not, hurts nobody but itself.
 */
#include "op.h"
#include "cgroup.h"
#include "interpose.h"

#include <sys/mman.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define ARENA (4 * MIB)

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* ---------------------------------------------------------------- between us and libc */

/**
 * struct kernel - one that is short of memory, old, or the last thing that is seen
 * @advice: what is refused: an advice of madvise(2); 0: none
 * @error: and how
 * @refused: how often it was
 * @asked: calls with an advice to populate
 * @bytes: and for how much
 * @kill_at: the call of those before which this process is killed; 0: none
 * @questions: how often it was asked how much memory there is
 * @files: memfds that were made, kept open to look at
 */
static struct {
	int advice;
	int error;
	int refused;
	int asked;
	uint64_t bytes;
	int kill_at;
	int questions;
	bool keep;
	int files[16];
	int n_files;
} kernel;

HIDDEN int madvise(void *at, size_t size, int advice)
{
	if (advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE) {
		kernel.asked++;
		kernel.bytes += size;
		if (kernel.asked == kernel.kill_at)
			kill(getpid(), SIGKILL);
		if (kernel.advice == advice || kernel.advice < 0) {
			kernel.refused++;
			errno = kernel.error;
			return -1;
		}
	}
	return REAL(madvise)(at, size, advice);
}

HIDDEN int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list args;

	if (takes_mode(flags)) {
		va_start(args, flags);
		mode = va_arg(args, mode_t);
		va_end(args);
	}
	kernel.questions += !strcmp(path, "/proc/meminfo");
	return REAL(open)(path, flags, mode);
}

HIDDEN int memfd_create(const char *name, unsigned int flags)
{
	int fd = REAL(memfd_create)(name, flags);

	if (fd >= 0 && kernel.keep && kernel.n_files < 16)
		kernel.files[kernel.n_files++] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return fd;
}

/* Bytes that the memfds of all channels since have; they are let go. */
static uint64_t file_bytes(void)
{
	uint64_t bytes = 0;
	struct stat st;

	while (kernel.n_files) {
		if (!fstat(kernel.files[--kernel.n_files], &st))
			bytes += (uint64_t)st.st_blocks * 512;
		close(kernel.files[kernel.n_files]);
	}
	kernel.keep = false;
	return bytes;
}

/* ------------------------------------------------------------------------- fixture */

FIXTURE(grow)
{
	struct evering_params p;
	struct evering *ev[2];
	char top[128], group[160];
};

BACKEND_VARIANTS(grow);

FIXTURE_SETUP(grow)
{
	REQUIRE_BACKEND(variant->backend);
	memset(&kernel, 0, sizeof(kernel));
	self->p = params_sized(variant->backend, 64, 64, ARENA);
}

FIXTURE_TEARDOWN(grow)
{
	memset(&kernel, 0, sizeof(kernel));
	close_pair(self->ev);
	EXPECT_TRUE(groups_removed(self->top, self->group));
}

static struct evering_arena_state state_of(const struct evering *ev, int whose)
{
	struct evering_arena_state state;

	evering_get_arena(ev, whose, &state);
	return state;
}

static uint64_t grown(const struct evering *ev)
{
	return state_of(ev, EVERING_MINE).now;
}

#define MAKE(begin_)                                                           \
	do {                                                                   \
		self->p.arena_begin = (begin_);                                \
		ASSERT_EQ(0, evering_pair(&self->p, self->ev));                \
	} while (0)

/* Kernels before 5.14, and modules that cannot, have all of it at once. */
#define NEEDS_GROWTH()                                                         \
	do {                                                                   \
		if (state_of(self->ev[0], EVERING_MINE).begin ==               \
		    state_of(self->ev[0], EVERING_MINE).most)                  \
			SKIP(return, "arenas do not grow here");               \
	} while (0)

#define MEMFD_ONLY(why)                                                        \
	do {                                                                   \
		if (variant->backend != EVERING_BACKEND_MEMFD)                 \
			SKIP(return, why);                                     \
	} while (0)

/* -------------------------------------------------------------------- begin and most */

TEST_F(grow, what_is_there_at_first_is_what_was_asked_for)
{
	const uint64_t begin[] = { 0,	    1,	   PAGE,      65536,
				   1 << 20, ARENA, ARENA + 1, EVERING_WHOLE };
	struct evering_arena_state mine, peers;
	uint64_t want, page = (uint64_t)getpagesize();
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(begin); i++) {
		MAKE(begin[i]);
		mine = state_of(self->ev[0], EVERING_MINE);
		peers = state_of(self->ev[1], EVERING_PEERS);
		want = begin[i] > ARENA ? ARENA : (begin[i] + page - 1) & -page;
		if (mine.begin != mine.most || begin[i] >= ARENA)
			EXPECT_EQ(want, mine.begin);
		EXPECT_EQ(mine.begin, mine.now);
		EXPECT_EQ(mine.now, peers.now);
		EXPECT_EQ(ARENA, mine.most);
		EXPECT_EQ(ARENA, peers.most);
		EXPECT_EQ(0u, peers.begin);
		EXPECT_EQ(0, mine.refused);
		close_pair(self->ev);
	}
}

TEST_F(grow, populate_means_all_of_it)
{
	self->p.flags = EVERING_POPULATE;
	MAKE(PAGE);
	EXPECT_EQ(ARENA, state_of(self->ev[0], EVERING_MINE).begin);
	EXPECT_EQ(ARENA, grown(self->ev[0]));
}

TEST_F(grow, params_of_an_earlier_version_begin_as_the_default)
{
	self->p.size = offsetof(struct evering_params, arena_begin);
	MAKE(EVERING_WHOLE);
	NEEDS_GROWTH();
	EXPECT_EQ(EVERING_ARENA_BEGIN,
		  state_of(self->ev[0], EVERING_MINE).begin);
}

TEST_F(grow, each_side_begins_as_it_likes)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct evering_arena_state a, b;
	int sv[2], ret;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	limits.arena_size[EVERING_MINE] = ARENA;
	limits.arena_begin = 2 * MIB;
	self->p.arena_begin = 65536;
	pid = fork();
	if (!pid) {
		ret = evering_connect_fd(sv[0], &self->p, PLENTY, &self->ev[0]);
		if (!ret) {
			evering_recv(self->ev[0], &a, 1, PLENTY);
			evering_close(self->ev[0]);
		}
		_exit(ret ? 1 : 0);
	}
	close(sv[0]);
	ASSERT_EQ(0, evering_accept_fd(sv[1], &limits, PLENTY, &self->ev[1]));
	b = state_of(self->ev[1], EVERING_MINE);
	a = state_of(self->ev[1], EVERING_PEERS);
	EXPECT_EQ(0, evering_send(self->ev[1], "", 1, PLENTY));
	EXPECT_EQ(0, reap(pid));
	if (b.begin == b.most)
		SKIP(return, "arenas do not grow here");
	EXPECT_EQ(2 * MIB, b.now);
	EXPECT_EQ(65536u, a.now);
}

/* -------------------------------------------------------------------------- growing */

TEST_F(grow, step_by_step_to_the_end_and_no_step_too_early)
{
	unsigned char *p;
	const unsigned char *seen;
	uint64_t out, now, before;
	unsigned int steps = 0;
	void *first;

	MAKE(0);
	NEEDS_GROWTH();
	first = evering_alloc(self->ev[0], 4096, 0);
	ASSERT_NE(NULL, first);
	before = grown(self->ev[0]);
	memset(first, 1, 4096);
	for (out = 4096; out < ARENA; out += 4096) {
		p = evering_alloc(self->ev[0], 4096, 0);
		ASSERT_NE(NULL, p);
		memset(p, (int)(out >> 12), 4096);
		now = grown(self->ev[0]);
		ASSERT_GE(now, out + 4096);
		/* Half as much again as was needed, or 64 KiB. */
		ASSERT_LE(now, out + 4096 +
				       (out / 2 > 65536 ? out / 2 : 65536) +
				       65536);
		ASSERT_EQ(now, state_of(self->ev[1], EVERING_PEERS).now);
		steps += now != before;
		before = now;
		seen = evering_peer_buffer(
			self->ev[1], evering_offset(self->ev[0], p), 4096);
		ASSERT_NE(NULL, seen);
		ASSERT_EQ((unsigned char)(out >> 12), seen[4095]);
	}
	EXPECT_LE(steps, 16u);
	EXPECT_EQ(ARENA, grown(self->ev[0]));
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], 64, 0));
	EXPECT_EQ(0, state_of(self->ev[0], EVERING_MINE).refused);
	/* What is free again keeps its memory. */
	EXPECT_EQ(0, evering_free(self->ev[0], first));
	EXPECT_EQ(ARENA, grown(self->ev[0]));
}

TEST_F(grow, what_is_free_again_is_used_before_it_grows)
{
	uint64_t now;
	void *p;
	int i;

	MAKE(65536);
	NEEDS_GROWTH();
	p = evering_alloc(self->ev[0], 60000, 0);
	ASSERT_NE(NULL, p);
	now = grown(self->ev[0]);
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0, evering_free(self->ev[0], p));
		p = evering_alloc(self->ev[0], (size_t)(60000 - i), 0);
		ASSERT_NE(NULL, p);
	}
	EXPECT_EQ(now, grown(self->ev[0]));
}

TEST_F(grow, all_of_it_at_once)
{
	unsigned char *p;
	uint64_t size;

	MAKE(0);
	p = evering_alloc(self->ev[0], ARENA, 2 << 20);
	ASSERT_NE(NULL, p);
	memset(p, 7, ARENA);
	EXPECT_EQ(7, *((const unsigned char *)evering_peer_buffer(self->ev[1],
								  0, ARENA) +
		       ARENA - 1));
	/* Who wants a pointer to all of it has all of it. */
	p = evering_arena(self->ev[1], &size);
	ASSERT_NE(NULL, p);
	EXPECT_EQ(ARENA, size);
	EXPECT_EQ(ARENA, grown(self->ev[1]));
	memset(p, 8, ARENA);
}

TEST_F(grow, the_peer_populates_each_part_once)
{
	unsigned char *p;
	int asked, i;

	MEMFD_ONLY("what the module has is there");
	MAKE(0);
	NEEDS_GROWTH();
	p = evering_alloc(self->ev[0], 4096, 0);
	ASSERT_NE(NULL, p);
	kernel.asked = 0;
	for (i = 0; i < 100; i++)
		ASSERT_NE(NULL, evering_peer_buffer(self->ev[1],
						    (uint64_t)i * 64, 64));
	EXPECT_EQ(1, kernel.asked);
	/* Beyond that nobody has asked it to look. */
	asked = kernel.asked;
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[1], MIB, 64));
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[1], ARENA, 1));
	EXPECT_EQ(asked, kernel.asked);
}

TEST_F(grow, the_peer_populates_what_it_needs_and_1_mib_more)
{
	MEMFD_ONLY("what the module has is there");
	MAKE(0);
	NEEDS_GROWTH();
	ASSERT_NE(NULL, evering_alloc(self->ev[0], 3 * MIB, 0));
	kernel.bytes = 0;
	ASSERT_NE(NULL, evering_peer_buffer(self->ev[1], 0, 64));
	EXPECT_EQ(MIB + (uint64_t)getpagesize(), kernel.bytes);
	ASSERT_NE(NULL, evering_peer_buffer(self->ev[1], 0, MIB));
	EXPECT_EQ(MIB + (uint64_t)getpagesize(), kernel.bytes);
	ASSERT_NE(NULL, evering_peer_buffer(self->ev[1], 0, 3 * MIB));
	EXPECT_LE(3 * MIB, kernel.bytes);
	EXPECT_GE(grown(self->ev[0]), kernel.bytes);
}

/* However it grows: the peer decides how often. */
TEST_F(grow, whether_there_is_memory_is_asked_once_for_each_mib)
{
	uint64_t at;

	MEMFD_ONLY("what the module has is there");
	MAKE(0);
	NEEDS_GROWTH();
	kernel.questions = 0;
	for (at = 4096; at <= ARENA; at += 4096) {
		evering_store_release(&own_half(self->ev[0])->grown,
				      (uint32_t)(at / EVERING_ARENA_ALIGN));
		ASSERT_NE(NULL,
			  evering_peer_buffer(self->ev[1], at - 4096, 4096));
	}
	EXPECT_LT(0, kernel.questions);
	EXPECT_GE((int)(ARENA / MIB), kernel.questions);
}

TEST_F(grow, who_populates_has_seen_what_there_is_when_the_two_have_met)
{
	MEMFD_ONLY("what the module has is there");
	self->p.flags = EVERING_POPULATE;
	MAKE(0);
	kernel.asked = 0;
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[0], 0, ARENA));
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[1], 0, ARENA));
	EXPECT_EQ(0, kernel.asked);
}

TEST_F(grow, both_may_write_a_shared_arena_that_grows)
{
	unsigned char *p, *q;

	self->p.flags = EVERING_SHARED_ARENA;
	MAKE(0);
	p = evering_alloc(self->ev[0], MIB, 0);
	ASSERT_NE(NULL, p);
	q = (unsigned char *)(uintptr_t)evering_peer_buffer(self->ev[1], 0,
							    MIB);
	ASSERT_NE(NULL, q);
	memset(q, 9, MIB);
	EXPECT_EQ(9, p[MIB - 1]);
}

/* ------------------------------------------------------------------------- refusals */

TEST_F(grow, refused_is_as_if_it_were_full)
{
	struct evering_arena_state state;
	void *p, *q, *r;

	MEMFD_ONLY("the kernel's word is its own");
	MAKE(65536);
	NEEDS_GROWTH();
	p = evering_alloc(self->ev[0], 49152, 0);
	ASSERT_NE(NULL, p);
	kernel.advice = MADV_POPULATE_WRITE;
	kernel.error = ENOMEM;
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], 16448, 0));
	EXPECT_EQ(2, kernel.refused); /* a step, then what is needed */
	state = state_of(self->ev[0], EVERING_MINE);
	EXPECT_EQ(-ENOMEM, state.refused);
	EXPECT_EQ(65536u, state.now);
	EXPECT_EQ(65536u, state_of(self->ev[1], EVERING_PEERS).now);
	/* Nor what would be the very block that is free. */
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], ARENA - 49152, 0));
	/* What there is can be had. */
	q = evering_alloc(self->ev[0], 16384, 0);
	EXPECT_NE(NULL, q);
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], 1, 0));
	EXPECT_EQ(NULL, evering_arena(self->ev[0], NULL));
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_NE(NULL, p = evering_alloc(self->ev[0], 49152, 0));
	/* And more, when there is memory again. */
	kernel.advice = 0;
	r = evering_alloc(self->ev[0], MIB, 0);
	EXPECT_NE(NULL, r);
	EXPECT_EQ(0, state_of(self->ev[0], EVERING_MINE).refused);
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_EQ(0, evering_free(self->ev[0], q));
	EXPECT_EQ(0, evering_free(self->ev[0], r));
	EXPECT_TRUE(arena_whole(self->ev[0]));
}

/* The allocator would rather have it from the part that has none. */
TEST_F(grow, what_there_is_can_be_had_when_more_is_refused)
{
	void *p, *q;

	MEMFD_ONLY("the kernel's word is its own");
	MAKE(65536);
	NEEDS_GROWTH();
	p = evering_alloc(self->ev[0], 40 * 1024 + 64, 0);
	q = evering_alloc(self->ev[0], 64, 0);
	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, q);
	ASSERT_EQ(0, evering_free(self->ev[0], p));
	kernel.advice = MADV_POPULATE_WRITE;
	kernel.error = EFAULT;
	EXPECT_EQ(p, evering_alloc(self->ev[0], 40 * 1024 + 64, 0));
}

/* Nor is a block that is larger than what is asked for hidden by the part without. */
TEST_F(grow, a_part_of_what_there_is_can_be_had_when_more_is_refused)
{
	void *p, *q, *r;

	MEMFD_ONLY("the kernel's word is its own");
	self->p.arena_size[0] = MIB;
	MAKE(576 * KIB);
	NEEDS_GROWTH();
	p = evering_alloc(self->ev[0], 520 * KIB, 0);
	q = evering_alloc(self->ev[0], 10 * KIB, 0);
	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, q);
	ASSERT_EQ(576 * KIB, grown(self->ev[0]));
	ASSERT_EQ(0, evering_free(self->ev[0], p));
	kernel.advice = MADV_POPULATE_WRITE;
	kernel.error = ENOMEM;
	p = evering_alloc(self->ev[0], 300 * KIB, 0);
	EXPECT_NE(NULL, p);
	r = evering_alloc(self->ev[0], 100 * KIB, 64 * KIB);
	EXPECT_NE(NULL, r);
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], 300 * KIB, 0));
	kernel.advice = 0;
	EXPECT_EQ(0, evering_free(self->ev[0], p));
	EXPECT_EQ(0, evering_free(self->ev[0], q));
	EXPECT_EQ(0, evering_free(self->ev[0], r));
	EXPECT_TRUE(arena_whole(self->ev[0]));
}

TEST_F(grow, a_step_that_is_refused_may_be_a_smaller_one)
{
	void *p;

	MEMFD_ONLY("the kernel's word is its own");
	MAKE(0);
	NEEDS_GROWTH();
	kernel.advice = MADV_POPULATE_WRITE;
	kernel.error = ENOMEM;
	EXPECT_EQ(NULL, evering_alloc(self->ev[0], 64, 0));
	EXPECT_EQ(0u, grown(self->ev[0]));
	kernel.advice = 0;
	p = evering_alloc(self->ev[0], 64, 0);
	EXPECT_NE(NULL, p);
}

TEST_F(grow, before_linux_5_14_all_is_there_at_once)
{
	unsigned char *p;

	MEMFD_ONLY("the module does without");
	kernel.advice = -1;
	kernel.error = EINVAL;
	kernel.keep = true;
	MAKE(PAGE);
	EXPECT_EQ(ARENA, state_of(self->ev[0], EVERING_MINE).begin);
	EXPECT_EQ(ARENA, state_of(self->ev[1], EVERING_PEERS).now);
	EXPECT_LE(2 * ARENA, file_bytes());
	p = evering_alloc(self->ev[0], ARENA, 0);
	ASSERT_NE(NULL, p);
	memset(p, 3, ARENA);
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[1], 0, ARENA));
	/* A process is told so once. */
	EXPECT_EQ(1, kernel.refused);
}

/* What is mapped after mlockall(2) has all the pages that may be accessed then. */
TEST_F(grow, what_will_be_locked_is_not_there_at_once_either)
{
	unsigned char *p;

	MEMFD_ONLY("the device's mappings have no pages before they grow");
	if (SANITIZED)
		SKIP(return, "a sanitizer's memory is too much to lock");
	if (mlockall(MCL_FUTURE))
		SKIP(return, "not as much may be locked");
	kernel.keep = true;
	MAKE(0);
	EXPECT_GT(ARENA, file_bytes());
	p = evering_alloc(self->ev[0], ARENA, 0);
	ASSERT_NE(NULL, p);
	memset(p, 3, ARENA);
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[1], 0, ARENA));
	munlockall();
}

static int fills(void *arg)
{
	struct evering_params *p = arg;
	struct evering_arena_state state;
	struct evering *ev[2];
	unsigned char *buf;
	uint64_t out = 0;

	p->arena_size[0] = p->arena_size[1] = 64 * MIB;
	p->arena_begin = 0;
	if (evering_pair(p, ev))
		return 1;
	if (state_of(ev[0], EVERING_MINE).now)
		return 77;
	while ((buf = evering_alloc(ev[0], 65536, 0))) {
		memset(buf, 1, 65536);
		out += 65536;
	}
	state = state_of(ev[0], EVERING_MINE);
	if (state.refused != -ENOMEM)
		return 2;
	/* Of 48 MiB; what it does not have is the process's, and its page tables'. */
	if (out < 32 * MIB || out > 48 * MIB)
		return 3;
	buf = (unsigned char *)(uintptr_t)evering_peer_buffer(ev[1], 0, out);
	/* To see it takes no memory but is not known to; both is right. */
	if (buf && buf[out - 1] != 1)
		return 4;
	close_pair(ev);
	return 0;
}

/**
 * struct member - a process in a group
 */
struct member {
	const char *group;
	struct evering_params *p;
	int (*fn)(void *arg);
};

static int in_group(void *arg)
{
	struct member *m = arg;

	return group_joined(m->group) ? 90 : m->fn(m->p);
}

#define IN_GROUP(limit, fn)                                                    \
	do {                                                                   \
		const char *why = make_groups(limit, self->top, self->group);  \
		struct member m_ = { self->group, &self->p, fn };              \
		int ret_;                                                      \
                                                                               \
		if (why)                                                       \
			SKIP(return, "%s", why);                               \
		if (SANITIZED)                                                 \
			SKIP(return, "a sanitizer takes memory of its own");   \
		ret_ = reap_within(spawn(in_group, &m_), 4 * PLENTY);          \
		if (ret_ == 77)                                                \
			SKIP(return, "arenas do not grow here");               \
		EXPECT_EQ(0, ret_);                                            \
	} while (0)

TEST_F(grow, to_a_groups_limit_and_nobody_is_killed)
{
	IN_GROUP("50331648", fills);
}

/* The peer says that it has grown, and has not: all that it says is read. */
static int believes(void *arg)
{
	struct evering_params *p = arg;
	const unsigned char *buf;
	struct evering *ev[2];
	uint64_t at;

	p->arena_size[0] = p->arena_size[1] = 64 * MIB;
	p->arena_begin = 0;
	if (evering_pair(p, ev))
		return 1;
	if (state_of(ev[0], EVERING_MINE).now)
		return 77;
	own_half(ev[1])->grown = 64 * MIB / EVERING_ARENA_ALIGN;
	/* It would be this process that dies. */
	if (evering_peer_buffer(ev[0], 0, 64 * MIB))
		return 2;
	for (at = 0; at < 64 * MIB; at += MIB) {
		buf = evering_peer_buffer(ev[0], at, MIB);
		if (!buf)
			break;
		if (buf[0] || buf[MIB - 1])
			return 3;
	}
	if (at < 24 * MIB || at > 48 * MIB)
		return 4;
	close_pair(ev);
	return 0;
}

TEST_F(grow, nor_by_a_liar)
{
	MEMFD_ONLY("the module says how far it is");
	IN_GROUP("50331648", believes);
}

/* -------------------------------------------------------------------- hostile peers */

static void say(struct evering *ev, uint64_t bytes)
{
	evering_store_release(&own_half(ev)->grown,
			      (uint32_t)(bytes / EVERING_ARENA_ALIGN));
}

TEST_F(grow, marks_that_cannot_be)
{
	MEMFD_ONLY("the module says how far it is");
	MAKE(65536);
	NEEDS_GROWTH();
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[0], 0, 65536));
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], 65536, 1));
	/* Beyond the end. */
	say(self->ev[1], ARENA + PAGE);
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], 65536, 1));
	own_half(self->ev[1])->grown = UINT32_MAX;
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], 65536, 1));
	EXPECT_EQ(ARENA, state_of(self->ev[0], EVERING_PEERS).now);
	/* Back, which changes nothing for what was seen. */
	say(self->ev[1], 0);
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], 65536, 1));
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[0], 0, 65536));
	/* Up, without having grown: pages are there all the same. */
	kernel.bytes = 0;
	say(self->ev[1], ARENA);
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[0], ARENA - 1, 1));
	EXPECT_EQ(0, *(const char *)evering_peer_buffer(self->ev[0], ARENA - 1,
							1));
	EXPECT_EQ(ARENA - 65536, kernel.bytes);
	/* Never more than was agreed. */
	say(self->ev[1], 2 * ARENA);
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], ARENA, 1));
	EXPECT_EQ(ARENA - 65536, kernel.bytes);
}

TEST_F(grow, what_cannot_be_seen_now_can_be_later)
{
	unsigned char *p;

	MEMFD_ONLY("what the module has is there");
	MAKE(0);
	NEEDS_GROWTH();
	p = evering_alloc(self->ev[1], 4096, 0);
	ASSERT_NE(NULL, p);
	kernel.advice = MADV_POPULATE_READ;
	kernel.error = EFAULT;
	EXPECT_EQ(NULL, evering_peer_buffer(self->ev[0], 0, 4096));
	EXPECT_EQ(2, kernel.refused);
	kernel.advice = 0;
	EXPECT_NE(NULL, evering_peer_buffer(self->ev[0], 0, 4096));
}

/* A request with a buffer at @granule, from a peer that lays its entries by hand. */
static int rival_lends(struct evering *ev, uint32_t granule, uint64_t len)
{
	const uint32_t first = 1 | 1 << EVERING_OP_INDEX_BITS;
	struct {
		struct evering_op_header h;
		unsigned char rest[44];
	} e = { .h = { .type = EVERING_OP_OPEN,
		       .len = sizeof(struct evering_op_open),
		       .code = EVERING_OPS_VERSION } };
	const struct evering_op_open open = { 8, 8, 8, 0 };
	const struct evering_op_buffer b = { granule, 0, (uint32_t)len,
					     (uint32_t)(len >> 32) };
	int ret;

	memcpy(e.rest, &open, sizeof(open));
	ret = evering_send(ev, &e, 60, EVERING_NOWAIT);
	if (ret)
		return ret;
	memset(&e, 0, sizeof(e));
	e.h.id = first;
	e.h.type = EVERING_OP_REQUEST;
	e.h.flags = EVERING_OP_LENT;
	e.h.code = 1;
	memcpy(e.rest + sizeof(e.rest) - sizeof(b), &b, sizeof(b));
	return evering_send(ev, &e, 60, EVERING_NOWAIT);
}

static int polled(struct side *s)
{
	int ret;

	do
		ret = evering_ops_poll(s->ops);
	while (ret > 0);
	return ret;
}

TEST_F(grow, a_table_ends_with_who_names_a_place_that_is_not_there)
{
	static const struct {
		uint32_t granule;
		uint64_t len;
		int ret;
	} t[] = {
		{ 0, 65536, 0 },
		{ 1024, 1, -EPROTO },
		{ 0, 65537, -EPROTO },
		{ ARENA / 64 - 1, 64, -EPROTO },
	};
	struct side s;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(t); i++) {
		MAKE(65536);
		NEEDS_GROWTH();
		ASSERT_EQ(0, side_open(&s, self->ev[0], 8, 8, false));
		ASSERT_EQ(0, rival_lends(self->ev[1], t[i].granule, t[i].len));
		EXPECT_EQ(t[i].ret, polled(&s))
		{
			TH_LOG("case %u", i);
		}
		EXPECT_EQ(t[i].ret ? 0u : 1u, s.n_got);
		if (!t[i].ret) {
			volatile const unsigned char *p = s.got[0].buf;

			EXPECT_EQ(0, p[t[i].len - 1]);
		}
		close_pair(self->ev);
	}
}

TEST_F(grow, a_table_ends_with_a_mark_that_cannot_be)
{
	struct side s;

	MEMFD_ONLY("the module says how far it is");
	MAKE(0);
	NEEDS_GROWTH();
	ASSERT_EQ(0, side_open(&s, self->ev[0], 8, 8, false));
	say(self->ev[1], 2 * ARENA);
	ASSERT_EQ(0, rival_lends(self->ev[1], 0, 64));
	EXPECT_EQ(-EPROTO, polled(&s));
}

TEST_F(grow, operations_carry_buffers_as_it_grows)
{
	struct side s[2];
	struct outcome o[32];
	struct evering_op op;
	unsigned char *buf;
	unsigned int i;

	MAKE(0);
	memset(o, 0, sizeof(o));
	ASSERT_EQ(0, sides_open(s, self->ev, 32, 32));
	for (i = 0; i < 32; i++) {
		buf = evering_alloc(self->ev[0], 100000, 0);
		ASSERT_NE(NULL, buf);
		memset(buf, (int)i + 1, 100000);
		op = hands(EVERING_GIVE, buf, 100000, &o[i]);
		ASSERT_EQ(0, ask(&s[0], &op, NULL));
		pump(s);
		ASSERT_EQ(i + 1, s[1].n_got);
		ASSERT_EQ(i + 1, ((unsigned char *)s[1].got[i].buf)[99999]);
		ASSERT_EQ(0, evering_op_answer(s[1].ops, s[1].got[i].id, 0,
					       NULL, 0));
		ASSERT_EQ(0, evering_free(self->ev[1], s[1].got[i].buf));
		pump(s);
		ASSERT_EQ(1u, o[i].times);
	}
	EXPECT_TRUE(arena_whole(self->ev[0]));
}

/* ----------------------------------------------------------------------------- death */

struct victim {
	struct evering_params p;
	int sock;
	int kill_at;
};

/* Grows as it sends, until it is killed. */
static int grows_and_dies(void *arg)
{
	struct victim *v = arg;
	struct evering *ev;
	unsigned char *buf;
	uint64_t at;

	if (evering_connect_fd(v->sock, &v->p, PLENTY, &ev))
		return 1;
	kernel.asked = 0;
	kernel.kill_at = v->kill_at;
	while ((buf = evering_alloc(ev, 65536, 0))) {
		memset(buf, 5, 65536);
		at = evering_offset(ev, buf);
		if (evering_send(ev, &at, sizeof(at), PLENTY))
			return 2;
	}
	return 3;
}

TEST_F(grow, who_dies_as_it_grows_leaves_what_it_named)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	struct victim v = { .p = self->p };
	const unsigned char *p;
	int sv[2], ret;
	uint64_t at, n;
	pid_t pid;

	MEMFD_ONLY("a call of the module's has ended, or has not begun");
	limits.arena_size[EVERING_MINE] = ARENA;
	v.p.arena_begin = 0;
	for (v.kill_at = 1; v.kill_at <= 6; v.kill_at++) {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
					0, sv));
		v.sock = sv[0];
		pid = spawn(grows_and_dies, &v);
		close(sv[0]);
		ASSERT_EQ(0, evering_accept_fd(sv[1], &limits, PLENTY,
					       &self->ev[0]));
		for (n = 0; !(ret = evering_recv(self->ev[0], &at, sizeof(at),
						 PLENTY));
		     n++) {
			p = evering_peer_buffer(self->ev[0], at, 65536);
			ASSERT_NE(NULL, p);
			ASSERT_EQ(5, p[65535]);
		}
		EXPECT_EQ(-EPIPE, ret);
		EXPECT_EQ(v.kill_at > 1, n > 0);
		EXPECT_EQ(128 + SIGKILL, reap(pid));
		evering_close(self->ev[0]);
		self->ev[0] = NULL;
	}
}

/* ------------------------------------------------------------------------- what it costs */

TEST_F(grow, an_idle_default_channel_has_files_of_less_than_64_kib_a_side)
{
	uint64_t bytes;

	MEMFD_ONLY("the module has no files");
	kernel.keep = true;
	self->p = params_on(variant->backend);
	ASSERT_EQ(0, evering_pair(&self->p, self->ev));
	NEEDS_GROWTH();
	bytes = file_bytes();
	printf("# memfds of a default channel: %llu bytes\n",
	       (unsigned long long)bytes);
	EXPECT_GE(2 * 64 * KIB, bytes);
}

#define CHANNELS 128

static long group_usage(const char *top)
{
	static const char *const names[] = { "memory.current",
					     "memory.usage_in_bytes" };
	char path[192], text[32] = "";
	unsigned int i;
	int fd = -1;

	for (i = 0; fd < 0 && i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", top, names[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	close(fd);
	return atol(text);
}

static char costs_group[160];

static int costs(void *arg)
{
	static struct evering *ev[CHANNELS][2];
	struct evering_params p =
		params_on(((struct evering_params *)arg)->backend);
	long before, after;
	int i;

	/* The first one has what is the process's. */
	if (evering_pair(&p, ev[0]))
		return 1;
	if (state_of(ev[0][0], EVERING_MINE).begin ==
	    state_of(ev[0][0], EVERING_MINE).most)
		return 77;
	before = group_usage(costs_group);
	for (i = 1; i < CHANNELS; i++)
		if (evering_pair(&p, ev[i]))
			return 2;
	after = group_usage(costs_group);
	if (before < 0 || after < 0)
		return 91;
	printf("# an idle default channel: %ld bytes a side, all told\n",
	       (after - before) / (CHANNELS - 1) / 2);
	fflush(stdout);
	return (after - before) / (CHANNELS - 1) / 2 <= 64 * 1024 ? 0 : 3;
}

TEST_F(grow, an_idle_default_channel_costs_64_kib_a_side_at_most)
{
	struct rlimit files = { 4096, 4096 };

	setrlimit(RLIMIT_NOFILE, &files);
	self->p.backend = variant->backend;
	strcpy(costs_group, "");
	{
		const char *why =
			make_groups("268435456", self->top, self->group);
		struct member m = { self->group, &self->p, costs };
		int ret;

		if (why)
			SKIP(return, "%s", why);
		if (SANITIZED)
			SKIP(return, "a sanitizer takes memory of its own");
		strcpy(costs_group, self->group);
		ret = reap_within(spawn(in_group, &m), 4 * PLENTY);
		if (ret == 77)
			SKIP(return, "arenas do not grow here");
		EXPECT_EQ(0, ret);
	}
}

TEST_HARNESS_MAIN
