/* SPDX-License-Identifier: MIT */
/*
 * common.h: what the selftests of the library share, beside base.h: channels on the backend
 * that a variant names, a peer in another process, and what entries hold.
 *
 * EVERING_BACKEND=name leaves out the variants on the other backend.
 */
#ifndef EVERING_SELFTESTS_COMMON_H
#define EVERING_SELFTESTS_COMMON_H

#include "base.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <evering.h>

/* ------------------------------------------------------ channels, by backend */

static inline bool backend_there(uint32_t backend)
{
	const char *name = getenv("EVERING_BACKEND");
	int fd;

	if (name && *name &&
	    strcmp(name,
		   backend == EVERING_BACKEND_DEVICE ? "device" : "memfd"))
		return false;
	if (backend != EVERING_BACKEND_DEVICE)
		return true;
	fd = open("/dev/evering", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/*
 * A fixture with one variant for each backend.  Its setup begins with
 * REQUIRE_BACKEND(), so that the same test runs wherever the module is loaded.
 */
#define BACKEND_VARIANTS(fixture)                                              \
	FIXTURE_VARIANT(fixture)                                               \
	{                                                                      \
		uint32_t backend;                                              \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, memfd){                                   \
		.backend = EVERING_BACKEND_MEMFD,                              \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, device) \
	{ \
		.backend = EVERING_BACKEND_DEVICE,                             \
	}

#define REQUIRE_BACKEND(id)                                                    \
	do {                                                                   \
		if (!backend_there(id))                                        \
			SKIP(return, "this backend is not there");             \
	} while (0)

/*
 * Takes out the variants that have @part in their names; a fixture that is left without
 * any has no tests.
 */
static inline void drop_variants(const char *part)
{
	struct __fixture_variant_metadata **v;
	struct __fixture_metadata *f;

	for (f = __fixture_list; f; f = f->next) {
		if (!f->variant)
			continue;
		for (v = &f->variant; *v;)
			if (strstr((*v)->name, part))
				*v = (*v)->next;
			else
				v = &(*v)->next;
		if (!f->variant)
			f->tests = NULL;
	}
}

/*
 * Where EVERING_BACKEND names one backend, the other's variants are taken out instead of
 * skipped: each that is skipped is a process, which takes two seconds in a debug kernel.
 * There (EVERING_SLOW=100) one policy is enough as well: how the library waits is nothing
 * to the kernel.
 */
static inline void choose_variants(void)
{
	const char *name = getenv("EVERING_BACKEND");

	if (name && *name)
		drop_variants(strcmp(name, "device") ? "device" : "memfd");
	if (slow(1) >= 100)
		drop_variants("_adaptive");
}

#undef TEST_HARNESS_MAIN
#define TEST_HARNESS_MAIN                                                      \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		choose_variants();                                             \
		return test_harness_run(argc, argv);                           \
	}

/* A path for a listener of this process. */
static inline void socket_file(char *path, size_t size)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(path, size, "%.40s/evering-%d", tmp && *tmp ? tmp : "/tmp",
		 getpid());
}

static inline struct evering_params params_on(uint32_t backend)
{
	struct evering_params p = EVERING_PARAMS_INIT;

	p.backend = backend;
	p.policy = EVERING_BLOCK;
	return p;
}

/* @arena_size is rounded up to whole pages. */
static inline struct evering_params params_sized(uint32_t backend,
						 uint32_t slot_size,
						 uint32_t entries,
						 uint64_t arena_size)
{
	struct evering_params p = params_on(backend);

	p.slot_size = slot_size;
	p.entries = entries;
	arena_size = (arena_size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	p.arena_size[0] = arena_size;
	p.arena_size[1] = arena_size;
	return p;
}

static inline void close_pair(struct evering *ev[2])
{
	evering_close(ev[0]);
	evering_close(ev[1]);
	ev[0] = NULL;
	ev[1] = NULL;
}

/*
 * The two halves as @ev has them mapped: the control lines lie before slot 0.
 * For tests that look at shared words, or play a peer that writes what it likes.
 */
static inline struct evering_half *own_half(const struct evering *ev)
{
	return (struct evering_half *)(ev->tx.slots - EVERING_SLOTS_OFFSET);
}

static inline const struct evering_half *peer_half(const struct evering *ev)
{
	return (const struct evering_half *)(ev->rx.slots -
					     EVERING_SLOTS_OFFSET);
}

/*
 * As if @n entries had gone from @a to @b already.  The private counters are
 * members of the visible structs, the shared ones are in @b's half, and
 * the slots hold the stamps of the lap before.
 */
static inline void start_at(struct evering *a, struct evering *b, uint32_t n)
{
	uint32_t k;

	for (k = n - a->tx.mask - 1; k != n; k++)
		evering_store_release((uint32_t *)(evering__tx_slot(&a->tx, k) +
						   a->tx.payload),
				      k + 1);
	a->tx.next = n;
	a->tx.limit = n;
	b->rx.publish_at = n + (b->rx.publish_at - b->rx.next);
	b->rx.next = n;
	evering_store_release(&own_half(b)->released, n);
	evering_store_release(&own_half(b)->begun, n);
}

static inline uint64_t sleeps_of(const struct evering *ev)
{
	struct evering_counters mine, peers;

	evering_get_counters(ev, EVERING_MINE, &mine);
	evering_get_counters(ev, EVERING_PEERS, &peers);
	return mine.rx_sleeps + mine.tx_sleeps + peers.rx_sleeps +
	       peers.tx_sleeps;
}

/*
 * What a peer can do with the doorbells of memfd, for it has the same open files: fills
 * them, so that a ring is no event any more, and makes them such that writing blocks.
 * Those that were opened since @others were listed; how many descriptors.
 */
static inline int fill_bells(const bool others[FDS], bool block)
{
	const uint64_t full = UINT64_MAX - 1;
	char path[64], target[64];
	int fd, count = 0;
	ssize_t n;

	for (fd = 0; fd < FDS; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = 0;
		if (others[fd] || !strstr(target, "[eventfd]"))
			continue;
		fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
		/* It may hold some rings already. */
		while (write(fd, &full, sizeof(full)) < 0) {
			uint64_t rings;

			if (read(fd, &rings, sizeof(rings)) < 0)
				return -1;
		}
		if (block)
			fcntl(fd, F_SETFL, O_RDWR);
		count++;
	}
	return count;
}

/* Waits until the peer of @ev has armed for @what; false after PLENTY. */
static inline bool peer_is_armed(const struct evering *ev, unsigned int what)
{
	const uint32_t *word = what == EVERING_RX ? ev->tx.armed : ev->rx.armed;
	int64_t end = now_ns() + PLENTY;

	while (!(evering_load_acquire(word) & EVERING_ARMED)) {
		if (now_ns() > end)
			return false;
		sleep_ns(20 * USEC);
	}
	return true;
}

/* --------------------------------------------------------- a peer that is a child */

/*
 * A channel with a child process.  The child is forked before the channel exists
 * and runs @fn with its endpoint; what @fn returns is its exit status.  It leaves
 * without evering_close() unless @fn calls it.
 */
struct duo {
	struct evering *ev;	/* this side */
	pid_t pid;		/* the other */
};

typedef int (*peer_fn)(struct evering *ev, void *arg);

struct duo_child {
	int fd, other_fd;
	bool connects;
	const struct evering_params *params;
	peer_fn fn;
	void *arg;
};

/* A socket that nobody listens at any more. */
static inline int leave_stale(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int ret;

	strcpy(address.sun_path, path);
	ret = bind(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	return ret;
}

/*
 * With $EVERING_RELAY_IN and $EVERING_RELAY_OUT the two meet through relays: relay.sh runs
 * suites so, unchanged.
 */
static inline int meet_over(int fd, bool connects,
			    const struct evering_params *params,
			    struct evering **ev)
{
	struct evering_params limits = EVERING_LIMITS_INIT;
	const char *in = getenv("EVERING_RELAY_IN");
	struct evering_listener *l;
	int ret;

	if (connects && !in)
		return evering_connect_fd(fd, params, PLENTY, ev);
	if (connects)
		return evering_connect(in, params, PLENTY, ev);
	limits.flags = EVERING_SHARED_ARENA;
	limits.policy = params->policy;
	limits.spin_ns = params->spin_ns;
	limits.entries = EVERING_MAX_ENTRIES;
	limits.arena_size[EVERING_PEERS] = 64 << 20;
	limits.arena_begin = params->arena_begin;
	if (!in)
		return evering_accept_fd(fd, &limits, PLENTY, ev);
	/* This is the server behind the relays, who may still know the last one. */
	if (!EVENTUALLY((ret = evering_listen(getenv("EVERING_RELAY_OUT"), 0,
					      &l)) != -EADDRINUSE) ||
	    ret)
		return ret;
	ret = evering_accept(l, &limits, PLENTY, ev);
	evering_listener_close(l);
	return ret;
}

static inline int duo_child_main(void *arg)
{
	struct duo_child *c = arg;
	struct evering *ev;

	close(c->other_fd);
	if (meet_over(c->fd, c->connects, c->params, &ev))
		return 98;
	return c->fn(ev, c->arg);
}

/* @params[0] is this side's, [1] the child's.  Returns 0 or a negative errno. */
static inline int duo_start(struct duo *duo, bool child_connects,
			    const struct evering_params params[2], peer_fn fn,
			    void *arg)
{
	struct duo_child c = { .connects = child_connects,
			       .params = &params[1],
			       .fn = fn,
			       .arg = arg };
	int sv[2];
	int ret;

	duo->ev = NULL;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -errno;
	c.fd = sv[1];
	c.other_fd = sv[0];
	duo->pid = spawn(duo_child_main, &c);
	close(sv[1]);
	if (duo->pid < 0) {
		close(sv[0]);
		return -EAGAIN;
	}
	ret = meet_over(sv[0], !child_connects, &params[0], &duo->ev);
	if (ret) {
		close(sv[0]);
		kill_and_reap(duo->pid);
	}
	return ret;
}

/* ------------------------------------------------------------- entry contents */

/*
 * Fills @len bytes with what entry @n of stream @salt holds; check_entry() says
 * whether they still are that.  The first four bytes are @n.
 */
static inline void fill_entry(void *entry, size_t len, uint32_t n,
			      uint32_t salt)
{
	uint32_t *w = entry;
	size_t i;

	w[0] = n;
	for (i = 1; i < len / 4; i++)
		w[i] = (n + (uint32_t)i) * 0x9e3779b1u ^ salt;
}

static inline bool check_entry(const void *entry, size_t len, uint32_t n,
			       uint32_t salt)
{
	const uint32_t *w = entry;
	size_t i;

	if (w[0] != n)
		return false;
	for (i = 1; i < len / 4; i++)
		if (w[i] != ((n + (uint32_t)i) * 0x9e3779b1u ^ salt))
			return false;
	return true;
}

/* Sends until there is no room; returns how many. */
static inline int send_until_full(struct evering *ev)
{
	int n = 0;

	while (evering_send(ev, &n, 4, EVERING_NOWAIT) == 0)
		n++;
	return n;
}

#endif /* EVERING_SELFTESTS_COMMON_H */
