/* SPDX-License-Identifier: MIT */
/*
 * internal.h: declarations that the files of the library share; they are not exported.
 *
 *	channel.c	makes, checks and closes endpoints, and answers questions about them
 *	meet.c		hello and welcome, the packets by which two endpoints meet; pairs
 *	connect.c	connects to a listener, step by step
 *	listen.c	listens and accepts; connections that have not said hello yet
 *	admission.c	which users may connect, and how much each may have
 *	stranger.c	packets and sockets of processes that are not trusted
 *	wait.c		credit, publishing, doorbells, spinning and sleeping
 *	arena.c		the allocator
 *	grow.c		arenas that get their memory as it is used
 *	copy.c		copies payload that another CPU reads next
 *	book.c		memory for the records of arena.c and loan.c about each granule
 *	ops.c		operations: the table, and what arrives for it
 *	ask.c		operations: submit, cancel, wait
 *	answer.c	operations: requests and their answers
 *	message.c	operations: posts, messages, and calls of any length
 *	loan.c		operations: buffers of the peer, and their return
 *	again.c		operations: what is sent to a successor again
 *	fate.c		what a peer that has gone did with the entries it was sent
 *	replace.c	a successor replaces a peer that has gone
 *	memory.c	finds out whether there is memory
 *	group.c		one thread waits for many members
 *	server.c	one thread serves many clients
 *	net.c		the other end of a network interface
 *	device.c	backend: the kernel module
 *	memfd.c		backend: memfd, eventfd and a Unix socket
 *
 * <linux/evering.h> describes everything that is in shared memory.
 */
#ifndef EVERING_INTERNAL_H
#define EVERING_INTERNAL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "evering.h"

/*
 * The regions of the device are 1 TiB apart; a 32-bit offset would always select the
 * first.
 */
_Static_assert(sizeof(off_t) == 8, "compile with -D_FILE_OFFSET_BITS=64");

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* The most descriptors that a hello or a welcome has for a channel. */
#define MAX_HELLO_FDS 7
/* The most descriptors that a packet can carry: SCM_MAX_FD of the kernel. */
#define MAX_PACKET_FDS 253

_Static_assert(EVERING_MAX_LANES *MAX_HELLO_FDS <= MAX_PACKET_FDS,
	       "all lanes in one packet");

struct endpoint;
/*
 * For functions that are inlined into all callers.  Most callers pass constants, @what
 * for instance, so most of the code disappears: a caller that sleeps each time should
 * get to sleep, and back, in few instructions.
 */
#ifndef FOLDED /* make coverage defines it, to count each branch once */
#define FOLDED static inline __attribute__((always_inline))
#endif

struct ledger;
struct member;
struct ops;
struct relic;
struct again;
struct epoll_event;
struct sockaddr_un;
struct timespec;
struct ucred;

/**
 * struct backend - the functions of one kind of channel
 * @name: as evering_backend_name() returns it
 * @id: enum evering_backend_id, which is sent in the hello
 * @create: make the connecting side's part of a channel.  Returns 0; -ENODEV: this
 *	machine has no such backend; -ETIMEDOUT: not before the deadline
 * @join: take the descriptors of the other side's offer and make the accepting side's
 *	part.  Returns 0; -ETIMEDOUT: not before the deadline
 * @complete: take the descriptors of the accepting side's offer
 * @offer: list the descriptors that the other side needs; they still belong to the
 *	endpoint
 * @met: release what only the hello needed, because both sides have everything
 * @destroy: undo the above, as far as it has been done
 * @ring: ring the peer's doorbells; returns those that were rung
 * @bell: describe how to ring the peer's EVERING_RX; returns EVERING_RX if it counts as
 *	rung from now on, else 0
 * @sleep: ring the peer's doorbells "ring", then sleep until one of this side's
 *	doorbells "what" is rung (it returns which, and clears them), the peer goes away
 *	(-EPIPE), the deadline passes (-ETIMEDOUT), or a signal comes that the mask does
 *	not block (-EINTR; NULL: the thread's mask).  Adds the doorbells that it rang to
 *	*rang
 * @socket: each channel has a connection, by which it notices the peer's death
 * @masks: a sleep with a mask costs no more than one without
 * @joint: a sleep rings doorbells in the same system call
 * @wake: ring this side's doorbells; async-signal-safe
 * @drain: clear doorbells that were rung without a sleeper; returns which
 * @gone: return whether the peer is gone
 * @fd: for evering_fd()
 * @events: for evering_events()
 * @watch: add to the epoll set of a group, edge-triggered, the descriptors of this
 *	side's doorbells and of the peer's death.  Their events have the given data,
 *	with EVERING_RX and EVERING_TX for doorbells that are rung, which this clears.
 *	Returns 0; -EMFILE, -ENOMEM, -ENOSPC
 * @unwatch: take these descriptors out of the set, if they are in it
 * @enrol: make the endpoint a member of a group file, which reports the same at the
 *	given index; NULL: the backend has no group files.  Returns 0, or an errno of
 *	EVERING_IOC_ADD
 * @leave: remove the endpoint from the group file
 * @grow: give this side's arena memory from the end of what it has, and publish that to
 *	the peer.  Returns 0; -ENOMEM, -EDQUOT: there is no memory for it
 * @grown: bytes of its arena that have memory, as the peer states; not checked
 * @see: make a part of the peer's arena safe to read, which has memory as the peer
 *	states.  Returns 0; -ENOMEM: not now; -EPROTO: it has no memory
 *
 * @join and @complete own the descriptors that they get, also on error.  Everything
 * else about a channel is the same for all backends.
 */
struct backend {
	const char *name;
	unsigned int id;
	int (*create)(struct endpoint *e, int64_t deadline);
	int (*join)(struct endpoint *e, const int *fds, unsigned int count,
		    int64_t deadline);
	int (*complete)(struct endpoint *e, const int *fds, unsigned int count);
	unsigned int (*offer)(struct endpoint *e, int fds[MAX_HELLO_FDS]);
	void (*met)(struct endpoint *e);
	void (*destroy)(struct endpoint *e);
	unsigned int (*ring)(struct endpoint *e, unsigned int what);
	unsigned int (*bell)(struct endpoint *e, struct evering_bell *bell);
	int (*sleep)(struct endpoint *e, unsigned int what, unsigned int ring,
		     int64_t deadline, const sigset_t *mask,
		     unsigned int *rang);
	bool socket;
	bool masks;
	bool joint;
	void (*wake)(struct endpoint *e, unsigned int what);
	unsigned int (*drain)(struct endpoint *e, unsigned int what);
	bool (*gone)(struct endpoint *e);
	int (*fd)(struct endpoint *e);
	short (*events)(unsigned int what);
	int (*watch)(struct endpoint *e, int set, uint64_t data);
	void (*unwatch)(struct endpoint *e, int set);
	int (*enrol)(struct endpoint *e, int file, uint32_t index);
	void (*leave)(struct endpoint *e, int file);
	int (*grow)(struct endpoint *e, uint64_t from, uint64_t to);
	uint64_t (*grown)(const struct endpoint *e);
	int (*see)(struct endpoint *e, uint64_t from, uint64_t to);
};

extern const struct backend device_backend;
extern const struct backend memfd_backend;

/**
 * struct spin - how long EVERING_ADAPTIVE spins before it sleeps
 * @budget: how long to spin the next time, in nanoseconds
 * @failed: spins of the full budget in a row that a short sleep followed
 * @hold: sleeps to let pass before spinning is tried again
 * @next_hold: what to set @hold to the next time
 */
struct spin {
	uint32_t budget;
	uint32_t failed;
	uint32_t hold;
	uint32_t next_hold;
};

/**
 * struct role - private state of the sending or the receiving thread, off the fast path
 * @word: the role's armed word, in this side's half
 * @generation: what @word holds, without EVERING_ARMED
 * @armed: @word is armed; outside of a sleep that is by evering_arm()
 * @exposed: this generation has been armed, so the doorbell may have been rung for it
 *	and not cleared yet
 * @idle: calls with EVERING_NOWAIT that found nothing
 * @asked: when one of them asked the kernel whether the peer is still alive
 * @counted: the entry number up to which the counters are up to date; the receiver has
 *	also published it as released
 * @spin: how long to spin, see struct spin
 *
 * The generation changes only when its doorbell, once rung, has been consumed.  So if
 * the peer remembers this generation as rung, the doorbell is still to be consumed, and
 * the next sleep ends at once.  No wake-up is lost when a generation number comes round
 * again.
 */
struct role {
	uint32_t *word;
	uint32_t generation;
	bool armed;
	bool exposed;
	uint32_t idle;
	long asked;
	uint32_t counted;
	struct spin spin;
} __attribute__((aligned(128)));

/**
 * struct book - numbered records in private memory, which is opened as needed
 * @base: the record with the number 0
 * @size: bytes of all records
 * @record: bytes of one record
 * @count: how many there are
 * @shift: log2 of the records of a chunk
 * @open: a bit for each chunk: its records may be used
 * @own: the book has mapped the memory itself
 */
struct book {
	unsigned char *base;
	size_t size;
	size_t record;
	uint32_t count;
	uint32_t shift;
	uint64_t open[16];
	bool own;
};

#define ARENA_GRANULE 64u

/**
 * struct arena - the allocator's data, in private memory; see arena.c
 * @base: the first byte of the arena
 * @granules: how many the arena has
 * @out: blocks that the peer has, or will get
 * @there: granules that have memory, from the first one on; see grow.c
 * @book: a record for each granule
 * @first_level: a bit for each class of sizes that has a free block
 * @second_level: the same for the ranges of each class
 * @head: the first free block of each range
 */
struct arena {
	unsigned char *base;
	uint32_t granules;
	uint32_t out;
	uint32_t there;
	struct book book;
	uint32_t first_level;
	uint32_t second_level[32];
	uint32_t head[32][32];
};

struct memfd_state {
	int memory[2]; /* memfds by endpoint: half, and arena; until met */
	int shared[2]; /* arenas of EVERING_SHARED_ARENA; until met */
	int bell[2][2]; /* eventfds by endpoint, then 0 for RX, 1 for TX */
	int role[2]; /* epoll sets of the connection and a doorbell, indexed as bell[] */
	int both; /* an epoll set of these two; evering_fd() */
	uint64_t group; /* the group's epoll set + 1, its data in the low half; or 0 */
	uint64_t asked; /* bytes of the peer's arena that memory was found for */
	uint64_t counted; /* of memory_there() */
};

struct device_state {
	int fd; /* the endpoint */
	int peers; /* the other one, until met */
};

/**
 * struct endpoint - the whole of an endpoint
 * @ev: the part for the fast path; first, so that one pointer serves for both
 * @block: the allocation that contains this struct, which has to be aligned
 * @backend: the functions for this kind of channel
 * @geometry: a copy; the one in shared memory is never read again
 * @end: EVERING_A or EVERING_B
 * @map: the regions, mapped
 * @map_size: bytes of each mapping
 * @half: this side's half
 * @peer: the peer's half, of which every word may change at any time
 * @tx: only the sending thread uses it
 * @rx: only the receiving thread uses it
 * @policy: of evering_set_policy()
 * @spin_ns: of evering_set_policy()
 * @lazy: EVERING_FLUSH, for each wait, if the policy has EVERING_LAZY_RING; else 0
 * @stay: the policy has EVERING_NO_HANDOVER
 * @populate: EVERING_POPULATE was set
 * @error: 0, or why the channel has ended; set once, by either thread
 * @woken: the roles of evering_wake(), EVERING_RX and EVERING_TX, until a wait has
 *	consumed it
 * @space_rung: the value of the peer's armed_tx for which the sending thread rang the
 *	doorbell last
 * @sock: the connection; on memfd it shows the peer's death
 * @sealed: no more packets can come into @sock
 * @theirs: the peer has made @sock, and may still have it
 * @set: of evering_get_lane()
 * @lane: of evering_get_lane()
 * @lanes: of evering_get_lane()
 * @pid: the peer's process
 * @uid: the peer's user
 * @gid: the peer's group
 * @owner: fork_id() of the process that made the endpoint
 * @ledger: the ledger that the endpoint is entered in, or NULL
 * @charged: bytes that it is entered with
 * @charged_uid: the user that it is entered for
 * @begin: bytes of this side's arena that had memory from the start
 * @partial: by endpoint: the arena did not have all of its memory from the start
 * @refused: 0, or the errno of the last attempt to grow this side's arena
 * @peer_there: bytes of the peer's arena, from its start, that are safe to read; any
 *	thread reads this
 * @arena: the allocator of this side's arena
 * @ops: the open table of operations, or NULL
 * @room: how many free slots EVERING_TX means, less one; a table sets it
 * @member: the endpoint's place in a group, or NULL
 * @peers: how many peers the endpoint had before the present one
 * @sent_before: entries that were sent to all of those
 * @fenced: EVERING_REPLACE_FORCE has ended the channel, whether or not the peer is
 *	alive
 * @replacing: evering_replace() is taking what the peer had sent
 * @tabled: the endpoint had a table, which was closed, so the meaning of its entries is
 *	unknown
 * @relics: buffers in the arenas of earlier peers that this side still has
 * @memfd: state of that backend
 * @device: state of that backend
 */
struct endpoint {
	struct evering ev;
	void *block;
	const struct backend *backend;
	struct evering_geometry geometry;
	unsigned int end;
	void *map[EVERING_REGIONS];
	size_t map_size[EVERING_REGIONS];
	struct evering_half *half;
	const struct evering_half *peer;
	struct role tx;
	struct role rx;
	unsigned int policy;
	unsigned int lazy;
	bool stay;
	uint32_t spin_ns;
	bool populate;
	int error;
	unsigned int woken;
	uint32_t space_rung;
	int sock;
	bool sealed;
	bool theirs;
	uint64_t set;
	uint32_t lane;
	uint32_t lanes;
	pid_t pid;
	uid_t uid;
	gid_t gid;
	uint64_t owner;
	struct ledger *ledger;
	uint64_t charged;
	uid_t charged_uid;
	uint64_t begin;
	bool partial[2];
	int refused;
	uint64_t peer_there;
	struct arena arena;
	struct ops *ops;
	uint32_t room;
	struct member *member;
	uint32_t peers;
	uint64_t sent_before;
	bool fenced;
	bool replacing;
	bool tabled;
	struct relic *relics;
	struct memfd_state memfd;
	struct device_state device;
};

/**
 * struct lanes - one side's endpoints of the channels that are made in one meeting
 * @count: how many there are
 * @e: the endpoints
 */
struct lanes {
	unsigned int count;
	struct endpoint *e[EVERING_MAX_LANES];
};

static inline struct endpoint *to_endpoint(struct evering *ev)
{
	return (struct endpoint *)ev;
}

static inline const struct endpoint *to_const_endpoint(const struct evering *ev)
{
	return (const struct endpoint *)ev;
}

static inline int channel_error(const struct endpoint *e)
{
	return __atomic_load_n(&e->error, __ATOMIC_RELAXED);
}

/* Only the owner of a counter writes it, so it need not be read atomically. */
static inline void counter_add(__u64 *counter, uint64_t value)
{
	__atomic_store_n(counter, *counter + value, __ATOMIC_RELAXED);
}

/*
 * The pause between two looks of a spinning thread, which the other hardware thread of
 * the CPU can use.
 */
static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("isb" ::: "memory");
#else
	__asm__ __volatile__("" ::: "memory");
#endif
}

/* channel.c */
int params_read(const struct evering_params *from, bool limits,
		struct evering_params *params);
int geometry_check(const struct evering_geometry *geometry);
size_t page_size(void);
size_t half_size(const struct evering_geometry *geometry);
size_t region_size(const struct evering_geometry *geometry,
		   unsigned int region);
int backend_wanted(unsigned int id);
const struct backend *backend_for(unsigned int id, unsigned int nth);
const struct backend *backend_by_id(unsigned int id);
int endpoint_new(const struct backend *backend, unsigned int end,
		 const struct evering_geometry *geometry,
		 const struct evering_params *params, struct endpoint **e);
bool endpoint_shares(const struct endpoint *e, unsigned int region);
int endpoint_map(struct endpoint *e, unsigned int region, int fd, off_t offset,
		 int prot);

/**
 * enum pages - the pages of a memfd that is about to be mapped
 * @PAGES_MISSING: some may be missing
 * @PAGES_THERE: all are there, and each is mapped when it is touched
 * @PAGES_MAPPED: all are there, and are mapped at once
 */
enum pages {
	PAGES_MISSING,
	PAGES_THERE,
	PAGES_MAPPED,
};

/* For so few bytes the library does not ask whether there is memory (memory.c). */
#define LITTLE ((size_t)256 << 10)

int endpoint_map_file(struct endpoint *e, unsigned int region,
		      unsigned int last, int fd, off_t offset, int prot,
		      enum pages pages);
int endpoint_check_status(const struct endpoint *e);
int endpoint_ready(struct endpoint *e);
void endpoint_destroy(struct endpoint *e);
void close_fds(const int *fds, unsigned int count);
int read_sized(void *to, size_t size, const void *from);
uint64_t fork_id(void);

/* fate.c */
uint32_t fate_unseen(const struct endpoint *e);

/* replace.c */
int survivor_check(struct endpoint *e, unsigned int flags);
void survivor_params(const struct endpoint *e, struct evering_params *params);
int survivor_take(struct endpoint *e, struct endpoint *s, struct again *again);
void survivor_start(struct endpoint *e, struct again *again);
int survivor_follow(struct endpoint *e, const char *path,
		    struct evering_connecting **meeting, int64_t until);
int relics_free(struct endpoint *e, const void *buf);
void relics_destroy(struct endpoint *e, bool own);

/* stranger.c */

/**
 * struct cargo - the descriptors that a packet should bring
 * @count: how many there are
 * @sockets: from this place on, and only there, they are Unix sockets; MAX_PACKET_FDS:
 *	none is
 * @bytes: the most bytes that all memfds among them have together
 */
struct cargo {
	unsigned int count;
	unsigned int sockets;
	uint64_t bytes;
};

int packet_send(int sock, const void *packet, size_t size, const int *fds,
		unsigned int count);
int packet_peek(int sock, void *packet, size_t size, size_t *len, bool *fds);
int packet_take_fds(int sock, int fds[MAX_PACKET_FDS],
		    const struct cargo *cargo);
void fds_leave(const int *fds, unsigned int count, unsigned int sockets);
bool socket_seal(int sock, bool own);
void socket_close(int sock);
void socket_close_sealed(int sock, bool sealed);
void socket_empty(int sock);
void sockets_leave(const int *socks, unsigned int count);
void children_settle(void);

/* admission.c */
struct ledger *ledger_new(void);
struct ledger *ledger_get(struct ledger *ledger);
void ledger_put(struct ledger *ledger);
void ledger_forget(struct ledger *ledger);
int ledger_charge(struct ledger *ledger,
		  const struct evering_admission *admission, uid_t uid,
		  uint64_t bytes);
bool user_is_limited(uid_t uid);
void ledger_uncharge(struct ledger *ledger, uid_t uid, uint64_t bytes);
int ledger_may_welcome(struct ledger *ledger, uid_t uid);
void ledger_welcomed(struct ledger *ledger, uid_t uid, int sock,
		     unsigned int fds);
bool ledger_keeps(struct ledger *ledger, int sock, bool sealed);
int admission_read(const struct evering_admission *from,
		   struct evering_admission *admission);

/* listen.c */
struct member **listener_member(struct evering_listener *listener);
bool listener_made_its_socket(const struct evering_listener *listener);
bool listener_has_lanes(const struct evering_listener *listener);
void listener_works(struct evering_listener *listener);
int listener_may_welcome(struct evering_listener *listener,
			 const struct ucred *who);
int listener_charge(struct evering_listener *listener, const struct ucred *who,
		    uint64_t bytes, struct ledger **ledger);

/* meet.c */
int make_address(const char *path, struct sockaddr_un *address, socklen_t *len);
int greet(int sock, const struct evering_params *limits,
	  struct evering_listener *listener, const struct ucred *who,
	  int64_t deadline, struct lanes *lanes, bool *own);
void refuse(int sock, int error);
int check_socket(int fd);
int lanes_make(struct lanes *lanes, unsigned int count,
	       const struct evering_params *params, int64_t deadline);
void lanes_destroy(struct lanes *lanes);
int say_hello(const struct lanes *lanes, int sock);
int take_welcome(struct lanes *lanes, int sock, bool own);

/* wait.c */

/**
 * struct signals - signals during a wait
 * @mask: the mask during the sleep; NULL: the thread's own mask
 * @blocked: this wait has blocked the signals, and has to restore @own
 * @own: the thread's mask before the wait
 *
 * A handler that runs while a thread spins leaves no trace.  The thread would then
 * sleep, although the handler may have set a flag that should end the wait.  So a spin
 * that is not short blocks signals, and the sleep unblocks them in its system call.
 */
struct signals {
	const sigset_t *mask;
	bool blocked;
	sigset_t own;
};

void signals_block(struct signals *s);
void signals_restore(struct signals *s);
bool signals_came(const struct signals *s);
bool signals_handled(const sigset_t *mask);
void spin_adjust(struct spin *spin, uint32_t spin_ns, int64_t start,
		 int64_t asleep);
void spin_succeeded(struct spin *spin);
unsigned int wait_ready(struct endpoint *e, unsigned int what);
void wait_publish(struct endpoint *e);
int wait_arm(struct endpoint *e, unsigned int what);
void wait_disarm(struct endpoint *e, unsigned int what, unsigned int rung);
bool wait_woken(struct endpoint *e);
int wait_look(struct endpoint *e);
int block_signals(sigset_t *old);
int wait_precisely(int set, struct epoll_event *events, int count,
		   const struct timespec *left, const sigset_t *mask);
int channel_end(struct endpoint *e, int error);
int64_t now_ns(void);
int64_t deadline_after(int64_t timeout_ns);
const struct timespec *time_left(int64_t deadline, struct timespec *left);

/* book.c */
size_t book_place(uint32_t count, size_t record);
int book_init(struct book *book, uint32_t count, size_t record, void *place);
void book_destroy(struct book *book);
int book__open(struct book *book, uint32_t n);

/*
 * Returns whether record @n may be read and written.  A record that may not was never
 * written.
 */
static inline bool book_has(const struct book *book, uint32_t n)
{
	uint32_t chunk = n >> book->shift;

	return book->open[chunk / 64] >> chunk % 64 & 1;
}

/* Makes record @n usable, filled with zeros if it was not.  Returns 0; -ENOMEM. */
static inline int book_open(struct book *book, uint32_t n)
{
	return EVERING_LIKELY(book_has(book, n)) ? 0 : book__open(book, n);
}

/* memory.c */
bool memory_there(size_t size, uint64_t *counted);
void memory_back(uint64_t counted);
bool memory_for_more(size_t size);
bool file_may_be(size_t size);

/* arena.c: which side has a block */
#define HOLD_OWN 0u
#define HOLD_LENT 1u
#define HOLD_GIVEN 2u

int arena_init(struct arena *arena, void *base, uint64_t size, uint64_t there);
void arena_destroy(struct arena *arena);
bool arena_has(const struct arena *arena, const void *buf);
int arena_hand_out(struct arena *arena, const void *buf, uint64_t len,
		   unsigned int hold, uint32_t *granule, uint32_t *generation);
void arena_give(struct arena *arena, uint32_t granule);
void *arena_take_back(struct arena *arena, uint32_t granule, bool release);
void *arena_come_home(struct arena *arena, uint32_t granule,
		      uint32_t generation, uint64_t len, bool release);
void arena_all_home(struct arena *arena);
bool arena_hold_back(struct arena *arena, uint32_t granule,
		     uint32_t generation);

/* grow.c */
uint64_t arena_there(const struct endpoint *e);
int arena_grow(struct endpoint *e, uint64_t need);
int peer_arena_grown(struct endpoint *e, uint64_t need);

static inline uint64_t peer_arena_there(const struct endpoint *e)
{
	return __atomic_load_n(&e->peer_there, __ATOMIC_RELAXED);
}

/* As peer_arena_grown(), but only a comparison if @need was found before. */
static inline int peer_arena_see(struct endpoint *e, uint64_t need)
{
	return EVERING_LIKELY(need <= peer_arena_there(e)) ?
		       0 :
		       peer_arena_grown(e, need);
}

/* device.c */
int group_file_open(struct evering_group_page **page);
int device_geometry(int fd, struct evering_geometry *geometry);
int group_file_enter(int file, const struct evering_group_ring *rings,
		     unsigned int *count, bool stay, int64_t deadline);
void group_file_tell(int file, uint32_t index);

/* group.c */
void group_touched(struct endpoint *e);
bool group_collects(const struct endpoint *e);
void group_owes(struct endpoint *e);
void group_flush(struct endpoint *e);
bool group_rings(struct endpoint *e, unsigned int what);
void group_due(struct endpoint *e, int64_t deadline);
void group_forget(struct member *member);
int group_welcome(struct endpoint *e, struct endpoint *s);
void group_replaced(struct endpoint *e, struct endpoint *s);

/* loan.c */
int ops_free(struct endpoint *e, void *buf);

#endif /* EVERING_INTERNAL_H */
