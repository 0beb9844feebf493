// SPDX-License-Identifier: MIT
/*
 * perm.c: who may write where, and what a peer can do with what it may write.  The
 * first half tries the permission table of the regions on the real mappings; the
 * second plays a peer that writes garbage into its own half and sees that the
 * other side neither crashes nor believes it.
 */
#include "common.h"

#include <setjmp.h>

static sigjmp_buf fault_env;

static void on_fault(int sig)
{
	siglongjmp(fault_env, sig);
}

/* Stores a byte at @p, its old value.  Returns the signal that came, or 0. */
static int fault_of_write(const void *p)
{
	struct sigaction sa = { .sa_handler = on_fault }, segv, bus;
	volatile unsigned char *c = (volatile unsigned char *)(uintptr_t)p;
	unsigned char was;
	int sig;

	sigaction(SIGSEGV, &sa, &segv);
	sigaction(SIGBUS, &sa, &bus);
	sig = sigsetjmp(fault_env, 1);
	if (!sig) {
		was = *c;
		*c = was;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return sig;
}

static int fault_of_read(const void *p)
{
	struct sigaction sa = { .sa_handler = on_fault }, segv, bus;
	int sig;

	sigaction(SIGSEGV, &sa, &segv);
	sigaction(SIGBUS, &sa, &bus);
	sig = sigsetjmp(fault_env, 1);
	if (!sig)
		(void)*(const volatile unsigned char *)p;
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return sig;
}

/* errno of making the page of @p writable, 0 if that worked. */
static int raise_to(const void *p, int prot)
{
	long page = sysconf(_SC_PAGESIZE);
	void *start = (void *)((uintptr_t)p & ~(uintptr_t)(page - 1));

	return mprotect(start, (size_t)page, prot) ? errno : 0;
}

static int remove_page(const void *p)
{
	long page = sysconf(_SC_PAGESIZE);
	void *start = (void *)((uintptr_t)p & ~(uintptr_t)(page - 1));

	return madvise(start, (size_t)page, MADV_REMOVE) ? errno : 0;
}

FIXTURE(perm)
{
	struct evering *ev[2];
	struct evering *a, *b;
};

FIXTURE_VARIANT(perm)
{
	uint32_t backend;
	uint32_t flags;
};

FIXTURE_VARIANT_ADD(perm, memfd){
	.backend = EVERING_BACKEND_MEMFD,
};

FIXTURE_VARIANT_ADD(perm, memfd_shared_arena){
	.backend = EVERING_BACKEND_MEMFD,
	.flags = EVERING_SHARED_ARENA,
};

FIXTURE_VARIANT_ADD(perm, device){
	.backend = EVERING_BACKEND_DEVICE,
};

FIXTURE_VARIANT_ADD(perm, device_shared_arena){
	.backend = EVERING_BACKEND_DEVICE,
	.flags = EVERING_SHARED_ARENA,
};

FIXTURE_SETUP(perm)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 64, 256, 65536);
	p.flags = variant->flags;
	p.arena_begin = EVERING_WHOLE;
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
}

FIXTURE_TEARDOWN(perm)
{
	close_pair(self->ev);
}

TEST_F(perm, own_half_and_own_arena_can_be_written)
{
	uint64_t size;
	int i;

	for (i = 0; i < 2; i++) {
		unsigned char *arena = evering_arena(self->ev[i], &size);

		ASSERT_EQ(65536u, size);
		EXPECT_EQ(0, fault_of_write(own_half(self->ev[i])));
		EXPECT_EQ(0,
			  fault_of_write(self->ev[i]->tx.slots + 256 * 64 - 1));
		EXPECT_EQ(0, fault_of_write(arena));
		EXPECT_EQ(0, fault_of_write(arena + size - 1));
	}
}

TEST_F(perm, writing_the_peers_half_faults)
{
	int i;

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(SIGSEGV, fault_of_write(peer_half(self->ev[i])));
		EXPECT_EQ(SIGSEGV, fault_of_write(self->ev[i]->rx.slots));
		EXPECT_EQ(SIGSEGV,
			  fault_of_write(self->ev[i]->rx.slots + 256 * 64 - 1));
		EXPECT_EQ(SIGSEGV, fault_of_write(self->ev[i]->rx.armed));
		EXPECT_EQ(SIGSEGV, fault_of_write(self->ev[i]->tx.armed));
		EXPECT_EQ(0, fault_of_read(self->ev[i]->rx.slots));
	}
}

TEST_F(perm, writing_the_peers_arena_faults_unless_shared)
{
	const unsigned char *p;
	int i;

	for (i = 0; i < 2; i++) {
		p = evering_peer_buffer(self->ev[i], 0, 65536);
		ASSERT_NE(NULL, p);
		if (variant->flags & EVERING_SHARED_ARENA) {
			EXPECT_EQ(0, fault_of_write(p));
			EXPECT_EQ(0, fault_of_write(p + 65535));
			*(unsigned char *)(uintptr_t)(p + 17) = 0x5a;
			EXPECT_EQ(0x5a, ((unsigned char *)evering_arena(
						self->ev[!i], NULL))[17]);
		} else {
			EXPECT_EQ(SIGSEGV, fault_of_write(p));
			EXPECT_EQ(SIGSEGV, fault_of_write(p + 65535));
		}
		EXPECT_EQ(0, fault_of_read(p + 65535));
	}
}

TEST_F(perm, mprotect_raises_nothing)
{
	const int rw = PROT_READ | PROT_WRITE;
	int i;

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(EACCES, raise_to(peer_half(self->ev[i]), rw));
		EXPECT_EQ(EACCES, raise_to(self->ev[i]->rx.slots + 8192, rw));
		if (!(variant->flags & EVERING_SHARED_ARENA))
			EXPECT_EQ(EACCES, raise_to(evering_peer_buffer(
							   self->ev[i], 0, 1),
						   rw));
	}
}

TEST_F(perm, regions_are_shared_not_executable_and_nothing_else_is_writable)
{
	struct mapping m[64];
	int n = list_mappings(m, 64, true);
	bool memfd = variant->backend == EVERING_BACKEND_MEMFD, shares;
	int i, regions = 0, writable = 0;

	if (n < 0)
		SKIP(return, "no /proc");
	ASSERT_LE(n, 64);
	for (i = 0; i < n; i++) {
		if (!strstr(m[i].name, "evering"))
			continue;
		regions++;
		writable += m[i].write;
		EXPECT_FALSE(m[i].exec);
		EXPECT_TRUE(m[i].read);
	}
	/*
	 * Two endpoints; each writes its half and its arena, or both arenas.  On memfd a
	 * half and the arena behind it are one mapping, and nobody has STATUS.
	 */
	shares = variant->flags & EVERING_SHARED_ARENA;
	EXPECT_EQ(shares ? 6 : memfd ? 2 : 4, writable);
	EXPECT_EQ(!memfd ? 10 : shares ? 8 : 4, regions);
}

TEST_F(perm, status_cannot_be_written)
{
	struct mapping m[64];
	int n = list_mappings(m, 64, true);
	int i, seen = 0;

	if (n < 0)
		SKIP(return, "no /proc");
	for (i = 0; i < n && i < 64; i++) {
		const uint64_t *magic = (const uint64_t *)m[i].start;

		if (!m[i].read || !strstr(m[i].name, "evering") ||
		    *magic != EVERING_MAGIC)
			continue;
		seen++;
		EXPECT_EQ(SIGSEGV, fault_of_write(magic));
		EXPECT_EQ(EACCES, raise_to(magic, PROT_READ | PROT_WRITE));
	}
	if (!seen)
		SKIP(return, "there is no STATUS");
}

TEST_F(perm, holes_cannot_be_punched)
{
	unsigned char *arena = evering_arena(self->a, NULL);
	int i;

	for (i = 0; i < 2; i++) {
		EXPECT_NE(0, remove_page(own_half(self->ev[i])));
		EXPECT_NE(0, remove_page(peer_half(self->ev[i])));
		if (!(variant->flags & EVERING_SHARED_ARENA))
			EXPECT_NE(0, remove_page(
					     evering_arena(self->ev[i], NULL)));
	}
	/* Dropping one's own page table entries is nobody else's business. */
	arena[0] = 0x77;
	EXPECT_EQ(0, madvise(arena, PAGE, MADV_DONTNEED));
	EXPECT_EQ(0x77,
		  *(const unsigned char *)evering_peer_buffer(self->b, 0, 1));
	EXPECT_EQ(0x77, arena[0]);
}

TEST_F(perm, descriptors_that_are_left_give_no_other_way_in)
{
	struct mapping m[64];
	char path[64], name[128];
	int fd, i, n, opened;
	ssize_t len;

	/* Whatever the process still holds open is sealed for good. */
	for (fd = 0; fd < 256; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		len = readlink(path, name, sizeof(name) - 1);
		if (len < 0)
			continue;
		name[len] = 0;
		if (strncmp(name, "/memfd:", 7))
			continue;
		EXPECT_NE(0, ftruncate(fd, 0));
		EXPECT_NE(0, ftruncate(fd, 1 << 24));
		EXPECT_NE(0,
			  fallocate(fd,
				    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    0, 4096));
	}
	/* A mapping can be opened again through /proc: sealed all the same. */
	n = list_mappings(m, 64, true);
	for (i = 0; i < n && i < 64; i++) {
		const int rw = PROT_READ | PROT_WRITE;
		void *map;

		if (strncmp(m[i].name, "/memfd:evering", 14))
			continue;
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
			 m[i].start, m[i].end);
		opened = open(path, O_RDWR | O_CLOEXEC);
		if (opened < 0)
			continue;
		EXPECT_NE(0, ftruncate(opened, 0))
		{
			TH_LOG("shrunk %s", m[i].name);
		}
		EXPECT_NE(0, ftruncate(opened, 1 << 24))
		{
			TH_LOG("grew %s", m[i].name);
		}
		EXPECT_NE(0, fcntl(opened, F_ADD_SEALS, F_SEAL_WRITE));
		if (!(variant->flags & EVERING_SHARED_ARENA) ||
		    !strstr(m[i].name, "arena")) {
			EXPECT_NE(0, fallocate(opened,
					       FALLOC_FL_PUNCH_HOLE |
						       FALLOC_FL_KEEP_SIZE,
					       0, 4096))
			{
				TH_LOG("punched %s", m[i].name);
			}
			map = mmap(NULL, 4096, rw, MAP_SHARED, opened, 0);
			EXPECT_EQ(MAP_FAILED, map)
			{
				TH_LOG("mapped %s", m[i].name);
			}
			EXPECT_NE(1, pwrite(opened, "", 1, 0))
			{
				TH_LOG("wrote %s", m[i].name);
			}
		}
		close(opened);
	}
}

static int touches_fault(void *arg)
{
	struct evering **ev = arg;
	int i;

	for (i = 0; i < 2; i++)
		if (fault_of_read(ev[i]->tx.slots) != SIGSEGV ||
		    fault_of_read(ev[i]->rx.slots) != SIGSEGV ||
		    fault_of_read(ev[i]->tx.armed) != SIGSEGV ||
		    fault_of_read(evering_arena(ev[i], NULL)) != SIGSEGV ||
		    fault_of_read(evering_peer_buffer(ev[i], 0, 1)) != SIGSEGV)
			return 1;
	return 0;
}

TEST_F(perm, a_forked_child_has_none_of_the_memory)
{
	char c = 'c';
	pid_t pid;
	int i;

	/* Where it lies is known before, and asked of nobody in the child. */
	for (i = 0; i < 2; i++)
		evering_peer_buffer(self->ev[i], 0, 65536);
	pid = spawn(touches_fault, self->ev);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, evering_send(self->a, &c, 1, EVERING_NOWAIT));
	EXPECT_EQ(0, evering_recv(self->b, &c, 1, EVERING_NOWAIT));
}

/*
 * A hostile peer: B writes into its own half, which is its right, whatever it
 * likes.  A must go on or say -EPROTO.
 */
FIXTURE(hostile)
{
	struct evering *ev[2];
	struct evering *a, *b;
	struct evering_half *half;
};

BACKEND_VARIANTS(hostile);

FIXTURE_SETUP(hostile)
{
	struct evering_params p;

	REQUIRE_BACKEND(variant->backend);
	p = params_sized(variant->backend, 64, 16, 65536);
	ASSERT_EQ(0, evering_pair(&p, self->ev));
	self->a = self->ev[0];
	self->b = self->ev[1];
	self->half = own_half(self->b);
}

FIXTURE_TEARDOWN(hostile)
{
	close_pair(self->ev);
}

TEST_F(hostile, more_released_than_sent_ends_the_channel)
{
	uint32_t v = 0;

	EXPECT_EQ(16, send_until_full(self->a));
	evering_store_release(&self->half->released, 17);
	EXPECT_EQ(-EPROTO, evering_wait(self->a, EVERING_TX, EVERING_NOWAIT));
	EXPECT_EQ(-EPROTO, evering_wait(self->a, EVERING_TX, SEC));
	EXPECT_EQ(-EPROTO, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(-EPROTO, evering_send(self->a, &v, 4, SEC));
	EXPECT_EQ(-EPROTO, evering_send_bulk(self->a, &v, 4, 1, SEC));
	EXPECT_EQ(NULL, evering_reserve(self->a));
	EXPECT_EQ(-EPROTO, evering_arm(self->a, EVERING_TX));

	/* It stays ended, whatever the peer says now, for both directions. */
	evering_store_release(&self->half->released, 16);
	EXPECT_EQ(-EPROTO, evering_send(self->a, &v, 4, EVERING_NOWAIT));
	EXPECT_EQ(-EPROTO, evering_wait(self->a, EVERING_TX, SEC));
	EXPECT_EQ(-EPROTO, evering_wait(self->a, EVERING_RX, SEC));
	EXPECT_EQ(-EPROTO, evering_recv(self->a, &v, 4, SEC));
	EXPECT_EQ(NULL, evering_reserve(self->a));
}

TEST_F(hostile, no_released_value_lets_a_write_too_far)
{
	static const uint32_t garbage[] = {
		17, 100, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff
	};
	struct evering_params p = params_sized(variant->backend, 64, 16, 0);
	uint32_t v = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(garbage); i++) {
		close_pair(self->ev);
		ASSERT_EQ(0, evering_pair(&p, self->ev));
		EXPECT_EQ(16, send_until_full(self->ev[0]));
		evering_store_release(&own_half(self->ev[1])->released,
				      garbage[i]);
		EXPECT_EQ(NULL, evering_reserve_at(self->ev[0], 3));
		EXPECT_EQ(-EPROTO, evering_send(self->ev[0], &v, 4, SEC))
		{
			TH_LOG("released %#x", garbage[i]);
		}
		EXPECT_EQ(16u, self->ev[0]->tx.next);
	}
}

TEST_F(hostile, a_sleeper_for_space_is_not_left_asleep_by_nonsense)
{
	uint32_t v = 0;
	int64_t t;

	EXPECT_EQ(16, send_until_full(self->a));
	evering_store_release(&self->half->released, 12345);
	t = now_ns();
	EXPECT_EQ(-EPROTO, evering_send(self->a, &v, 4, PLENTY));
	EXPECT_LT(now_ns() - t, PLENTY / 2);
}

TEST_F(hostile, a_wrong_stamp_is_no_entry)
{
	static const uint32_t garbage[] = { 0,		2,	    16,
					    17,		0x7fffffff, 0x80000000,
					    0xfffffff0, 0xffffffff };
	uint32_t *stamp = (uint32_t *)(self->b->tx.slots + 60);
	uint32_t v;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(garbage); i++) {
		evering_store_release(stamp, garbage[i]);
		EXPECT_EQ(NULL, evering_peek(self->a));
		EXPECT_EQ(-EAGAIN, evering_recv(self->a, &v, 4, 0));
	}
	EXPECT_EQ(-ETIMEDOUT, evering_recv(self->a, &v, 4, MSEC));
	evering_store_release(stamp, 1);
	EXPECT_EQ(0, evering_recv(self->a, &v, 4, 0));
}

TEST_F(hostile, garbage_armed_words_cost_rings_and_nothing_else)
{
	uint64_t rng = random_seed();
	struct evering_counters c;
	uint32_t i, v;

	for (i = 0; i < 10000; i++) {
		v = (uint32_t)random_u64(&rng);
		__atomic_store_n(&self->half->armed_rx, v, __ATOMIC_RELAXED);
		v = (uint32_t)random_u64(&rng);
		__atomic_store_n(&self->half->armed_tx, v, __ATOMIC_RELAXED);
		ASSERT_EQ(0, evering_send(self->a, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_send(self->b, &i, 4, EVERING_NOWAIT));
		ASSERT_EQ(0, evering_recv(self->b, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
		ASSERT_EQ(0, evering_recv(self->a, &v, 4, EVERING_NOWAIT));
		ASSERT_EQ(i, v);
	}
	evering_get_counters(self->a, EVERING_MINE, &c);
	EXPECT_LE(c.tx_rings, 10000u);
	EXPECT_LE(c.rx_rings, 10000u);

	/* A generation is rung once, however often it is seen. */
	__atomic_store_n(&self->half->armed_rx, 0x1235u, __ATOMIC_RELAXED);
	evering_flush(self->a);
	evering_get_counters(self->a, EVERING_MINE, &c);
	v = (uint32_t)c.tx_syscalls;
	for (i = 0; i < 1000; i++)
		evering_flush(self->a);
	evering_get_counters(self->a, EVERING_MINE, &c);
	if (variant->backend == EVERING_BACKEND_MEMFD)
		EXPECT_EQ(v, (uint32_t)c.tx_syscalls);
}

/* What A may say while B writes garbage; anything else is a bug. */
static bool sane(int ret)
{
	return ret >= 0 || ret == -EAGAIN || ret == -ETIMEDOUT ||
	       ret == -EPROTO || ret == -EPIPE;
}

TEST_F(hostile, random_garbage_all_over_the_half_harms_nobody)
{
	struct evering_params p = params_sized(variant->backend, 32, 8, 4096);
	int rounds = short_run() ? 100 : 1000;
	uint64_t rng = random_seed();
	struct evering_counters c;
	char buf[8 * 28];
	int i, k, ret;

	while (rounds--) {
		close_pair(self->ev);
		ASSERT_EQ(0, evering_pair(&p, self->ev));
		for (i = 0; i < 60; i++) {
			uint32_t *word = (uint32_t *)own_half(self->ev[1]);

			k = (int)random_below(&rng, 6);
			if (k == 0) /* slots and all */
				word += random_below(&rng, 128 + 64);
			else if (k == 1)
				word = &own_half(self->ev[1])->armed_rx;
			else if (k == 2)
				word = &own_half(self->ev[1])->armed_tx;
			else if (k == 3)
				word = (uint32_t *)(self->ev[1]->tx.slots +
						    32 * random_below(&rng, 8) +
						    28);
			__atomic_store_n(word,
					 random_below(&rng, 2) ?
						 (uint32_t)random_u64(&rng) :
						 (uint32_t)random_below(&rng,
									20),
					 __ATOMIC_RELAXED);
			k = (int)random_below(&rng, 9);
			if (k == 0)
				ret = evering_send(self->ev[0], buf, 28, 0);
			else if (k == 1)
				ret = evering_recv(self->ev[0], buf, 28, 0);
			else if (k == 2)
				ret = evering_send_bulk(self->ev[0], buf, 28, 8,
							0);
			else if (k == 3)
				ret = evering_recv_bulk(self->ev[0], buf, 28, 8,
							0);
			else if (k == 4)
				ret = evering_wait(self->ev[0],
						   EVERING_RX | EVERING_TX,
						   USEC);
			else if (k == 5)
				ret = evering_arm(self->ev[0], EVERING_TX);
			else if (k == 6)
				ret = evering_arm(self->ev[0], EVERING_RX);
			else if (k == 7)
				ret = evering_wait(self->ev[0], EVERING_TX,
						   USEC);
			else
				ret = evering_peer(self->ev[0]);
			ASSERT_TRUE(sane(ret))
			{
				TH_LOG("call %d returned %d", k, ret);
			}
			/* Never beyond a ring from what was believed. */
			ASSERT_LE(self->ev[0]->tx.limit - self->ev[0]->tx.next,
				  8u);
			evering_get_counters(self->ev[0], EVERING_PEERS, &c);
		}
	}
}

TEST_F(hostile, offsets_outside_the_arena_are_no_buffers)
{
	uint64_t rng = random_seed();
	const unsigned char *base;
	uint64_t off, len;
	int i;

	evering_arena(self->b, NULL);
	base = evering_peer_buffer(self->a, 0, 65536);
	ASSERT_NE(NULL, base);
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, 0, 65537));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, 1, 65536));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, 65536, 1));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, UINT64_MAX, 1));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, UINT64_MAX, 2));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, 1, UINT64_MAX));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, UINT64_MAX - 4095, 4096));
	EXPECT_EQ(NULL, evering_peer_buffer(self->a, 1ull << 63, 1ull << 63));
	EXPECT_EQ(base + 65535, evering_peer_buffer(self->a, 65535, 1));
	for (i = 0; i < 100000; i++) {
		const unsigned char *p;

		off = random_u64(&rng) >> random_below(&rng, 64);
		len = random_u64(&rng) >> random_below(&rng, 64);
		if (!len)
			continue;
		p = evering_peer_buffer(self->a, off, len);
		ASSERT_EQ(off < 65536 && len <= 65536 - off ? base + off : NULL,
			  p);
	}
}

TEST_HARNESS_MAIN
