// SPDX-License-Identifier: MIT
/*
 * channel.c: makes and closes endpoints, and answers questions about them.
 *
 * meet.c has the meeting of two endpoints, the backends what they are made of.
 */
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define DOTTED(major, minor, patch) DOTTED_(major, minor, patch)
#define DOTTED_(major, minor, patch) #major "." #minor "." #patch

/* With this the allocator's alignments hold for pointers, and pages can be huge. */
#define ARENA_MAP_ALIGN ((size_t)EVERING_MEMFD_ALIGN)
#if defined(__x86_64__) || defined(__i386__)
#define LARGEST_PAGE 4096
#else
#define LARGEST_PAGE 65536
#endif

static const struct evering_params default_params = EVERING_PARAMS_INIT;
static const struct evering_params default_limits = EVERING_LIMITS_INIT;

/* In the order of preference. */
static const struct backend *const backends[] = {
	&device_backend,
	&memfd_backend,
};

void close_fds(const int *fds, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/*
 * Returns a number that is different in a process made by fork(2), also if the pid is
 * the same.  The kernel wipes @page in such a process, and 0 stands for "not asked
 * yet".
 */
uint64_t fork_id(void)
{
	static unsigned char page[LARGEST_PAGE]
		__attribute__((aligned(LARGEST_PAGE)));
	static uint64_t last;
	static int wiped; /* 1: it is; 0: not asked; -1: it cannot be */
	uint64_t *own = (uint64_t *)page, id, next;

	if (EVERING_UNLIKELY(!__atomic_load_n(&wiped, __ATOMIC_ACQUIRE)))
		__atomic_store_n(
			&wiped,
			madvise(page, sizeof(page), MADV_WIPEONFORK) ? -1 : 1,
			__ATOMIC_RELEASE);
	if (__atomic_load_n(&wiped, __ATOMIC_RELAXED) < 0)
		return (uint64_t)getpid();
	id = __atomic_load_n(own, __ATOMIC_RELAXED);
	if (id)
		return id;
	next = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
	if (__atomic_compare_exchange_n(own, &id, next, false, __ATOMIC_RELAXED,
					__ATOMIC_RELAXED))
		id = next;
	return id;
}

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

/* Returns 0; -EINVAL: it is invalid; -E2BIG: it is beyond the limits of the ABI. */
int geometry_check(const struct evering_geometry *geometry)
{
	unsigned int i;

	if (!power_of_two(geometry->slot_size) ||
	    geometry->slot_size < EVERING_MIN_SLOT ||
	    !power_of_two(geometry->entries) ||
	    geometry->entries < EVERING_MIN_ENTRIES)
		return -EINVAL;
	if ((geometry->flags & ~EVERING_GEOMETRY_FLAGS) || geometry->reserved)
		return -EINVAL;
	for (i = 0; i < 2; i++)
		if (geometry->arena_size[i] % EVERING_ARENA_ALIGN ||
		    geometry->arena_size[i] % page_size())
			return -EINVAL;
	if (geometry->slot_size > EVERING_MAX_SLOT ||
	    geometry->entries > EVERING_MAX_ENTRIES ||
	    geometry->arena_size[0] > EVERING_MAX_ARENA ||
	    geometry->arena_size[1] > EVERING_MAX_ARENA)
		return -E2BIG;
	return 0;
}

/*
 * Copies a struct that begins with its size over the defaults in @to.  The struct of an
 * older caller is shorter; what it lacks keeps the defaults.  The struct of a newer
 * caller is longer, and accepted if the part that is unknown here is zero.  No field
 * crosses a multiple of a pointer's size.  Returns 0; -EINVAL: the size is invalid;
 * -E2BIG: the unknown part is not zero.
 */
int read_sized(void *to, size_t size, const void *from)
{
	const unsigned char *bytes = from;
	uint32_t theirs, i;

	memcpy(&theirs, from, sizeof(theirs));
	if (theirs > 65536)
		return -E2BIG;
	if (theirs < 2 * sizeof(uint32_t) || theirs % sizeof(void *))
		return -EINVAL;
	for (i = (uint32_t)size; i < theirs; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(to, from, theirs < size ? theirs : size);
	return 0;
}

#define POLICY_FLAGS ((unsigned int)(EVERING_LAZY_RING | EVERING_NO_HANDOVER))

static bool policy_is(unsigned int policy, uint32_t spin_ns)
{
	return (policy & ~POLICY_FLAGS) <= EVERING_BUSY && spin_ns <= 1000000;
}

/* Copies and checks the caller's params, as this version knows them. */
int params_read(const struct evering_params *from, bool limits,
		struct evering_params *params)
{
	int ret;

	*params = limits ? default_limits : default_params;
	if (!from)
		return 0;
	ret = read_sized(params, sizeof(*params), from);
	if (ret)
		return ret;
	if ((params->lanes && !limits) ||
	    !policy_is(params->policy, params->spin_ns) ||
	    params->backend > EVERING_BACKEND_MEMFD)
		return -EINVAL;
	if (params->lanes > EVERING_MAX_LANES)
		return -E2BIG;
	if (params->flags & ~(EVERING_SHARED_ARENA | EVERING_POPULATE |
			      (limits ? 0 : EVERING_AWAIT)))
		return -EINVAL;
	return 0;
}

size_t half_size(const struct evering_geometry *geometry)
{
	size_t size = EVERING_SLOTS_OFFSET +
		      (size_t)geometry->slot_size * geometry->entries;

	return (size + page_size() - 1) & ~(page_size() - 1);
}

size_t region_size(const struct evering_geometry *geometry, unsigned int region)
{
	switch (region) {
	case EVERING_REGION_STATUS:
		return page_size();
	case EVERING_REGION_HALF_A:
	case EVERING_REGION_HALF_B:
		return half_size(geometry);
	default:
		return geometry->arena_size[region - EVERING_REGION_ARENA_A];
	}
}

const struct backend *backend_by_id(unsigned int id)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(backends); i++)
		if (backends[i]->id == id)
			return backends[i];
	return NULL;
}

/*
 * Returns @id, or what $EVERING_BACKEND selects for EVERING_BACKEND_AUTO; -EINVAL: it
 * names no backend.
 */
int backend_wanted(unsigned int id)
{
	const char *name = getenv("EVERING_BACKEND");
	unsigned int i;

	if (id != EVERING_BACKEND_AUTO || !name || !*name)
		return (int)id;
	for (i = 0; i < ARRAY_SIZE(backends); i++)
		if (!strcmp(name, backends[i]->name))
			return (int)backends[i]->id;
	return -EINVAL;
}

/*
 * The @nth backend that is suitable for @id, the best first; NULL: there are no more.
 */
const struct backend *backend_for(unsigned int id, unsigned int nth)
{
	if (id != EVERING_BACKEND_AUTO)
		return nth ? NULL : backend_by_id(id);
	return nth < ARRAY_SIZE(backends) ? backends[nth] : NULL;
}

static void policy_set(struct endpoint *e, unsigned int policy,
		       uint32_t spin_ns)
{
	e->policy = policy & ~POLICY_FLAGS;
	e->lazy = policy & EVERING_LAZY_RING ? EVERING_FLUSH : 0;
	e->stay = policy & EVERING_NO_HANDOVER;
	e->spin_ns = spin_ns;
	e->rx.spin = e->tx.spin =
		(struct spin){ .budget = spin_ns, .next_hold = 8 };
}

int endpoint_new(const struct backend *backend, unsigned int end,
		 const struct evering_geometry *geometry,
		 const struct evering_params *params, struct endpoint **ret)
{
	struct endpoint *e;
	unsigned int i;
	void *block;

	/* aligned_alloc(3) would waste some memory after each endpoint. */
	block = calloc(1, sizeof(*e) + _Alignof(struct endpoint));
	if (!block)
		return -ENOMEM;
	e = (struct endpoint *)(((uintptr_t)block + _Alignof(struct endpoint)) &
				~(uintptr_t)(_Alignof(struct endpoint) - 1));
	e->block = block;
	e->backend = backend;
	e->owner = fork_id();
	e->end = end;
	e->geometry = *geometry;
	policy_set(e, params->policy, params->spin_ns);
	e->populate = params->flags & EVERING_POPULATE;
	e->begin = geometry->arena_size[end];
	if (!e->populate && params->arena_begin < e->begin)
		e->begin = (params->arena_begin + page_size() - 1) &
			   ~(uint64_t)(page_size() - 1);
	e->sock = -1;
	for (i = 0; i < 2; i++) {
		e->memfd.memory[i] = e->memfd.shared[i] = -1;
		e->memfd.bell[i][0] = e->memfd.bell[i][1] = -1;
	}
	e->memfd.both = e->memfd.role[0] = e->memfd.role[1] = -1;
	e->device.fd = e->device.peers = -1;
	*ret = e;
	return 0;
}

/* Whether both sides write this region. */
bool endpoint_shares(const struct endpoint *e, unsigned int region)
{
	return (e->geometry.flags & EVERING_SHARED_ARENA) &&
	       region >= EVERING_REGION_ARENA_A;
}

/* There may be room for the next arena below this address; 0: not known. */
static uintptr_t room_below;

/*
 * Remembers the end of an arena that was unmapped.  The highest end counts, so that new
 * arenas take the places of old ones.
 */
static void leave_room(uintptr_t end)
{
	if (end > __atomic_load_n(&room_below, __ATOMIC_RELAXED))
		__atomic_store_n(&room_below, end, __ATOMIC_RELAXED);
}

/* The last address up to @end that is aligned @before bytes later. */
static uintptr_t align_down(uintptr_t end, size_t before, size_t align)
{
	return ((end + before) & ~(uintptr_t)(align - 1)) - before;
}

/*
 * Reserves @size bytes at an address that is aligned @before bytes later.  NULL: no
 * room.
 */
static void *reserve_aligned(size_t size, size_t before)
{
	unsigned char *all, *start;
	size_t skip;

	all = mmap(NULL, size + ARENA_MAP_ALIGN, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED)
		return NULL;
	start = (unsigned char *)align_down((uintptr_t)all + ARENA_MAP_ALIGN,
					    before, ARENA_MAP_ALIGN);
	skip = (size_t)(start - all);
	if (skip)
		munmap(all, skip);
	if (skip < ARENA_MAP_ALIGN)
		munmap(start + size, ARENA_MAP_ALIGN - skip);
	return start;
}

/*
 * Maps an arena and the @before bytes before it.  Tries first below the last arena,
 * which takes one call if that place is free; to reserve room takes three more.  This
 * side's arena @must be aligned; the peer's is aligned if that costs nothing.
 */
static void *map_arena(size_t size, size_t before, bool must, int prot,
		       int flags, int fd, off_t offset)
{
	uintptr_t below = __atomic_load_n(&room_below, __ATOMIC_RELAXED);
	size_t align = must || size - before >= ARENA_MAP_ALIGN ?
			       ARENA_MAP_ALIGN :
			       page_size();
	void *map, *at = NULL;

	if (below > size + align)
		at = (void *)align_down(below - size, before, align);
	if (at || !must) {
		map = mmap(at, size, prot, flags, fd, offset);
		if (map == MAP_FAILED || !must ||
		    align_down((uintptr_t)map, before, align) == (uintptr_t)map)
			goto out;
		munmap(map, size);
	}
	at = reserve_aligned(size, before);
	if (!at)
		return MAP_FAILED;
	map = mmap(at, size, prot, flags | MAP_FIXED, fd, offset);
	if (map == MAP_FAILED) {
		int error = errno;

		munmap(at, size);
		errno = error;
	}
out:
	if (map != MAP_FAILED)
		__atomic_store_n(&room_below, (uintptr_t)map, __ATOMIC_RELAXED);
	return map;
}

/*
 * mmap(2) returns EAGAIN beyond RLIMIT_MEMLOCK in a process that has called
 * mlockall(2).  madvise(2) returns it if the kernel has no memory.  In the library
 * -EAGAIN means that a hello has not come.
 */
static int map_error(void)
{
	return errno == EAGAIN ? -ENOMEM : -errno;
}

/* A child process needs no mapping, and must not be a second writer. */
static int keep_private(void *map, size_t size)
{
	if (madvise(map, size, MADV_DONTFORK) ||
	    madvise(map, size, MADV_DONTDUMP))
		return map_error();
	return 0;
}

int endpoint_map(struct endpoint *e, unsigned int region, int fd, off_t offset,
		 int prot)
{
	size_t size = region_size(&e->geometry, region);
	int flags = MAP_SHARED;
	void *map;

	if (!size)
		return 0;
	/* The rings are small and needed at once; arenas can be huge, or still grow. */
	if (region < EVERING_REGION_ARENA_A ||
	    (e->populate && !e->partial[region - EVERING_REGION_ARENA_A]))
		flags |= MAP_POPULATE;
	if (region == EVERING_REGION_ARENA(e->end))
		map = map_arena(size, 0, true, prot, flags, fd, offset);
	else
		map = mmap(NULL, size, prot, flags, fd, offset);
	if (map == MAP_FAILED)
		return map_error();
	e->map[region] = map;
	e->map_size[region] = size;
	return keep_private(map, size);
}

/*
 * endpoint_map_file - map a memfd: @region, and what follows it up to the region @last
 * @pages: which of its pages exist
 *
 * If pages are missing, nothing is populated, also not for a process that has called
 * mlockall(2), except a small region.  The kernel does not populate what may not be
 * accessed, and does not do so later either.
 */
int endpoint_map_file(struct endpoint *e, unsigned int region,
		      unsigned int last, int fd, off_t offset, int prot,
		      enum pages pages)
{
	size_t size = region_size(&e->geometry, region);
	size_t behind = last == region ? 0 : region_size(&e->geometry, last);
	bool at_once = pages != PAGES_MISSING || size + behind <= LITTLE;
	int first = at_once ? prot : PROT_NONE, error;
	int flags = MAP_SHARED | (pages == PAGES_MAPPED ? MAP_POPULATE : 0);
	unsigned char *map;

	if (last < EVERING_REGION_ARENA_A)
		map = mmap(NULL, size, first, flags, fd, offset);
	else
		map = map_arena(size + behind, behind ? size : 0,
				last == EVERING_REGION_ARENA(e->end), first,
				flags, fd, offset);
	if (map == MAP_FAILED)
		return map_error();
	e->map[region] = map;
	e->map_size[region] = size;
	if (behind) {
		e->map[last] = map + size;
		e->map_size[last] = behind;
	}
	error = keep_private(map, size + behind);
	if (!error && !at_once && mprotect(map, size + behind, prot))
		error = map_error();
	return error;
}

/**
 * struct range - mapped addresses
 * @at: where they begin
 * @size: bytes; 0: none
 */
struct range {
	unsigned char *at;
	size_t size;
};

static void unmap(struct range r)
{
	if (r.size)
		munmap(r.at, r.size);
}

/* The half of @end, with its arena if that follows it; otherwise unmaps the arena. */
static struct range range_of(struct endpoint *e, unsigned int end)
{
	unsigned int half = EVERING_REGION_HALF(end);
	unsigned int arena = EVERING_REGION_ARENA(end);
	struct range r = { e->map[half], e->map_size[half] };
	struct range behind = { e->map[arena], e->map_size[arena] };

	if (behind.size)
		leave_room((uintptr_t)behind.at + behind.size);
	if (r.size && r.at + r.size == behind.at)
		r.size += behind.size;
	else
		unmap(behind);
	return r;
}

/* Unmaps neighbouring regions with one call. */
static void unmap_regions(struct endpoint *e)
{
	const unsigned int status = EVERING_REGION_STATUS;
	struct range a = range_of(e, EVERING_A), b = range_of(e, EVERING_B);

	unmap((struct range){ e->map[status], e->map_size[status] });
	if (a.size && a.at + a.size == b.at) {
		a.size += b.size;
	} else if (b.size && b.at + b.size == a.at) {
		b.size += a.size;
		a = b;
	} else {
		unmap(b);
	}
	unmap(a);
}

/* Checks that the channel is what its maker has stated. */
int endpoint_check_status(const struct endpoint *e)
{
	const struct evering_status *status = e->map[EVERING_REGION_STATUS];

	/* No process can write these fields, so they do not change meanwhile. */
	if (status->magic != EVERING_MAGIC || status->size < sizeof(*status) ||
	    status->half_size != half_size(&e->geometry) ||
	    memcmp(&status->geometry, &e->geometry, sizeof(e->geometry)) != 0)
		return -EPROTO;
	if (status->abi != EVERING_ABI_VERSION)
		return -EPROTONOSUPPORT;
	return 0;
}

/*
 * Initializes the private state of the fast path and of the arena; everything is
 * mapped.
 */
int endpoint_ready(struct endpoint *e)
{
	unsigned int own = EVERING_REGION_HALF(e->end);
	unsigned int peer = EVERING_REGION_HALF(!e->end);
	unsigned int arena = EVERING_REGION_ARENA(e->end);
	uint32_t shift = (uint32_t)__builtin_ctz(e->geometry.slot_size);
	struct evering_tx *tx = &e->ev.tx;
	struct evering_rx *rx = &e->ev.rx;

	e->half = e->map[own];
	e->peer = e->map[peer];
	e->rx.word = &e->half->armed_rx;
	e->tx.word = &e->half->armed_tx;

	tx->slots = (unsigned char *)e->map[own] + EVERING_SLOTS_OFFSET;
	tx->armed = &e->peer->armed_rx;
	tx->limit = e->geometry.entries;
	tx->mask = e->geometry.entries - 1;
	tx->shift = shift;
	tx->payload = e->geometry.slot_size - EVERING_STAMP_SIZE;

	rx->slots = (const unsigned char *)e->map[peer] + EVERING_SLOTS_OFFSET;
	rx->armed = &e->peer->armed_tx;
	rx->begun = &e->half->begun;
	rx->publish_at = e->geometry.entries >> 2;
	rx->mask = tx->mask;
	rx->shift = shift;
	rx->payload = tx->payload;
	evering__begin(rx, 2 * EVERING_BEGUN_ALL);

	if (!e->partial[!e->end])
		e->peer_there = e->map_size[EVERING_REGION_ARENA(!e->end)];
	else if (e->populate)
		/*
		 * What the peer states now; if that is invalid, this is repeated later.
		 */
		peer_arena_see(e, e->backend->grown(e));
	return arena_init(&e->arena, e->map[arena], e->map_size[arena],
			  e->begin);
}

void endpoint_destroy(struct endpoint *e)
{
	bool own = e->owner == fork_id();

	arena_destroy(&e->arena);
	relics_destroy(e, own);
	/*
	 * A child process has none of these mappings, and perhaps others at their
	 * addresses.
	 */
	if (own)
		unmap_regions(e);
	e->backend->destroy(e);
	if (e->theirs)
		sockets_leave(&e->sock, 1);
	else if (!e->ledger || !own ||
		 !ledger_keeps(e->ledger, e->sock, e->sealed))
		socket_close_sealed(e->sock, e->sealed);
	if (e->ledger && own)
		ledger_uncharge(e->ledger, e->charged_uid, e->charged);
	free(e->block);
}

static void close_with(struct endpoint *e, uint32_t word)
{
	if (!e)
		return;
	group_forget(e->member);
	evering_ops_close((struct evering_ops *)e->ops);
	if (e->owner == fork_id()) {
		if (e->lazy)
			evering_flush(&e->ev);
		evering_store_release(&e->half->closed, word);
		/*
		 * While a child of this process has the connection, to close it does
		 * not wake a peer that sleeps.  So it is shut down for writing; this
		 * side can still read, so that socket_close_sealed() sees whether
		 * anything is in it.
		 */
		if (e->sock >= 0)
			shutdown(e->sock, SHUT_WR);
	}
	endpoint_destroy(e);
}

void evering_close(struct evering *ev)
{
	close_with(to_endpoint(ev), EVERING_CLOSED);
}

int evering_close_as(struct evering *ev, int how)
{
	if (how < EVERING_PEER_CLOSED || how > EVERING_PEER_RELAY_DIED)
		return -EINVAL;
	/* These are the same numbers as in evering_peer(). */
	close_with(to_endpoint(ev), (uint32_t)how);
	return 0;
}

void evering_relay(struct evering *ev)
{
	struct endpoint *e = to_endpoint(ev);

	__atomic_store_n(&e->half->relayed, 1, __ATOMIC_RELAXED);
}

int evering_set_policy(struct evering *ev, unsigned int policy,
		       uint32_t spin_ns)
{
	struct endpoint *e = to_endpoint(ev);

	if (!policy_is(policy, spin_ns))
		return -EINVAL;
	if (e->lazy)
		evering_flush(ev);
	policy_set(e, policy, spin_ns);
	return 0;
}

int evering_get_geometry(const struct evering *ev,
			 struct evering_geometry *geometry)
{
	const struct endpoint *e = to_const_endpoint(ev);

	*geometry = e->geometry;
	return (int)e->end;
}

int evering_peer_cred(const struct evering *ev, pid_t *pid, uid_t *uid,
		      gid_t *gid)
{
	const struct endpoint *e = to_const_endpoint(ev);

	*pid = e->pid;
	*uid = e->uid;
	*gid = e->gid;
	return 0;
}

void evering_get_lane(const struct evering *ev, struct evering_lane *lane)
{
	const struct endpoint *e = to_const_endpoint(ev);

	*lane = (struct evering_lane){ e->set, e->lane, e->lanes };
}

void evering_get_counters(const struct evering *ev, int whose,
			  struct evering_counters *counters)
{
	const struct endpoint *e = to_const_endpoint(ev);
	const struct evering_half *half = whose == EVERING_PEERS ? e->peer :
								   e->half;
	const __u64 *from = (const __u64 *)&half->counters;
	__u64 *to = (__u64 *)counters;
	size_t i;

	for (i = 0; i < sizeof(*counters) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

const char *evering_backend_name(const struct evering *ev)
{
	return to_const_endpoint(ev)->backend->name;
}

const char *evering_version(void)
{
	return DOTTED(EVERING_VERSION_MAJOR, EVERING_VERSION_MINOR,
		      EVERING_VERSION_PATCH);
}

void *evering_arena(const struct evering *ev, uint64_t *size)
{
	struct endpoint *e = to_endpoint((struct evering *)ev);
	unsigned int arena = EVERING_REGION_ARENA(e->end);

	if (size)
		*size = e->map_size[arena];
	return arena_grow(e, e->map_size[arena]) ? NULL : e->map[arena];
}

void *evering_arena_part(const struct evering *ev, uint64_t size)
{
	struct endpoint *e = to_endpoint((struct evering *)ev);
	unsigned int arena = EVERING_REGION_ARENA(e->end);

	if (size > e->map_size[arena] || arena_grow(e, size))
		return NULL;
	return e->map[arena];
}

uint64_t evering_offset(const struct evering *ev, const void *buf)
{
	const struct endpoint *e = to_const_endpoint(ev);

	return (uint64_t)((const unsigned char *)buf - e->arena.base);
}

const void *evering_peer_buffer(const struct evering *ev, uint64_t offset,
				uint64_t len)
{
	struct endpoint *e = to_endpoint((struct evering *)ev);
	unsigned int arena = EVERING_REGION_ARENA(!e->end);
	uint64_t size = e->map_size[arena];

	if (!size || offset > size || len > size - offset ||
	    peer_arena_see(e, offset + len))
		return NULL;
	return (const unsigned char *)e->map[arena] + offset;
}
