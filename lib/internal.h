/* SPDX-License-Identifier: MIT */
/*
 * internal.h: what the parts of the library share and nobody else sees.
 *
 *	channel.c	making, checking and closing endpoints; questions about them
 *	meet.c		hello and welcome, pair: what two endpoints say to find each other
 *	connect.c	connect: the way to a listener, step by step
 *	listen.c	listen and accept: connections that have not said hello yet
 *	admission.c	who may, and how much of a listener one user may have
 *	stranger.c	packets and sockets of processes that are not trusted
 *	wait.c		credit, publishing, ringing, spinning and sleeping
 *	arena.c		the allocator
 *	grow.c		arenas that get their memory as it is used
 *	copy.c		payload that another CPU reads next
 *	book.c		memory for what arena.c and loan.c know of each granule
 *	ops.c		operations: the table, and what arrives for it
 *	ask.c		operations: submit, cancel, wait
 *	answer.c	operations: requests and their answers
 *	message.c	operations: posts, messages, and calls of any length
 *	loan.c		operations: buffers of the peer's, and their way home
 *	again.c		operations: what a successor is sent again
 *	replace.c	a successor takes the place of a peer that has gone
 *	memory.c	whether memory could be had
 *	group.c		many members under one sleeper
 *	device.c	backend: the kernel module
 *	memfd.c		backend: memfd, eventfd and a Unix socket
 *
 * Everything that is in shared memory is described in <linux/evering.h>.
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

/* The regions of the device are 1 TiB apart; with 32 bits each would be the first. */
_Static_assert(sizeof(off_t) == 8, "compile with -D_FILE_OFFSET_BITS=64");

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* The most descriptors that a channel has in a hello or a welcome. */
#define MAX_HELLO_FDS 7
/* The most that a packet carries: SCM_MAX_FD of the kernel. */
#define MAX_PACKET_FDS 253

_Static_assert(EVERING_MAX_LANES *MAX_HELLO_FDS <= MAX_PACKET_FDS,
	       "all lanes in one packet");

struct endpoint;
/*
 * Inlined into all callers, to whom @what, say, is a constant most of the time, so that
 * most of it is gone: who sleeps each time is to get there, and back, in few instructions.
 */
#ifndef FOLDED /* make coverage wants each branch once */
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
 * struct backend - what a channel can be made of
 * @name: as evering_backend_name() says it
 * @id: enum evering_backend_id; in the hello
 * @create: make the connecting side's part of a channel; -ENODEV: not on this
 *	machine; -ETIMEDOUT: not until @deadline
 * @join: take the descriptors of the other side's offer and make the accepting
 *	side's part; -ETIMEDOUT likewise
 * @complete: take the descriptors of the accepting side's offer
 * @offer: list the descriptors that the other side needs; still the endpoint's
 * @met: both sides have everything: let go of what was for the hello only
 * @destroy: undo any of the above, whatever has been done of it
 * @ring: wake the peer's doorbells; returns those that were rung
 * @bell: say how to ring the peer's EVERING_RX; returns it if it counts as rung from
 *	now on, else 0
 * @sleep: ring the peer's doorbells @ring, then sleep until one of the own ones of
 *	@what is rung (returns which, and forgets it), the peer goes (-EPIPE), the
 *	deadline comes (-ETIMEDOUT) or a signal does (-EINTR), of those that @mask
 *	lets in, unless it is NULL.  Which of @ring were rung is added to *@rang.
 * @socket: a death is noticed by a connection, which each channel has
 * @masks: a sleep with a mask costs no more than one without
 * @joint: a sleep rings at no cost of its own
 * @wake: ring the own doorbells; async-signal-safe
 * @drain: forget rings that nobody slept for; returns which there were
 * @gone: has the peer gone
 * @fd: for evering_fd()
 * @events: for evering_events()
 * @watch: add to the epoll set of a group what tells of the own doorbells and of the
 *	peer's death, edge-triggered: as @data, with those of EVERING_RX and EVERING_TX that
 *	are rung and whose ring this consumes.  0; -EMFILE, -ENOMEM, -ENOSPC
 * @unwatch: take out of it whatever of that is in it
 * @enrol: make it a member of the group file @file, which tells of the same at @index;
 *	NULL: there are none for this backend.  0; an errno: see EVERING_IOC_ADD
 * @leave: it is none any more
 * @grow: give the own arena memory, from where it has none, and tell the peer.  0;
 *	-ENOMEM, -EDQUOT: there is none for it
 * @grown: how far the peer says that its arena has memory, in bytes; nothing is checked
 * @see: make a part of the peer's arena safe to read that the peer says has memory.  0;
 *	-ENOMEM: not now; -EPROTO: it cannot be
 *
 * @join and @complete own the descriptors that they are given, also on error.
 * Everything else about a channel is the same for all backends.
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
 * @budget: ns to spin the next time
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
 * struct role - the sending or the receiving thread's private state off the fast
 *	path
 * @word: its armed word in the own half
 * @generation: what @word holds, without EVERING_ARMED
 * @armed: @word is; outside of a sleep: by evering_arm()
 * @exposed: this generation has been armed, so a ring of it may be under way, or waiting
 *	to be drained
 * @idle, @asked: calls with EVERING_NOWAIT that found nothing, and when one of them
 *	asked whether the peer still lives
 * @counted: entry number up to which the counters are brought up to date; the
 *	receiver's is also what it has published as released
 * @spin: see there
 *
 * The generation moves on only when a ring of it has been consumed.  So, if the
 * peer remembers this generation as rung, that ring is still to be consumed and
 * the next sleep will end at once: a wake-up cannot be lost to a generation that
 * comes round again.
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
 * struct book - records by number, in private memory that is opened as needed
 * @base: the record with the number 0
 * @size: bytes of all
 * @record: bytes of one
 * @count: how many there are
 * @shift: log2 of the records of a chunk
 * @open: a bit for each chunk
 * @own: the memory is mapped for it alone
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
 * struct arena - the allocator's bookkeeping, in private memory; see arena.c
 * @there: granules that have memory, from the first one on; see grow.c
 */
struct arena {
	unsigned char *base;
	uint32_t granules;
	uint32_t out; /* blocks that the peer has, or is to have */
	uint32_t there;
	struct book book;
	uint32_t first_level;
	uint32_t second_level[32];
	uint32_t head[32][32];
};

struct memfd_state {
	int memory[2]; /* memfds by endpoint: half, and arena; until met */
	int shared[2]; /* arenas of EVERING_SHARED_ARENA; until met */
	int bell[2][2]; /* eventfds by endpoint, then 0 for RX and 1 for TX */
	int role[2]; /* epoll sets of the connection and a bell, as bell[] */
	int both; /* an epoll set of these two; evering_fd() */
	uint64_t group; /* the group's set, plus one, and in the low half its data; or 0 */
	uint64_t asked; /* so much of the peer's arena there was memory for */
	uint64_t counted; /* of memory_there() */
};

struct device_state {
	int fd; /* the endpoint */
	int peers; /* the other one, until met */
};

/**
 * struct endpoint - what is behind a struct evering
 * @ev: the fast path's part, first so that one pointer serves
 * @block: what it was allocated as, less aligned
 * @backend: what the channel is made of
 * @geometry: a copy; never read from shared memory again
 * @end: EVERING_A or EVERING_B
 * @map, @map_size: the regions
 * @half: the own half
 * @peer: the peer's half: every word may change at any time
 * @tx, @rx: by role; only that role's thread touches it
 * @policy, @spin_ns: evering_set_policy()
 * @lazy: EVERING_FLUSH if the policy has EVERING_LAZY_RING: of each wait; else 0
 * @stay: it has EVERING_NO_HANDOVER
 * @populate: EVERING_POPULATE
 * @error: 0, or why the channel has ended; set once, by either thread
 * @woken: EVERING_RX and EVERING_TX: of evering_wake(), until a wait has found out
 * @space_rung: what of the peer's armed_tx the sending thread rang last
 * @sock: the connection; memfd: how the peer's death is noticed
 * @sealed: nothing more comes into @sock
 * @theirs: the peer has made @sock, and may have it, too
 * @set, @lane, @lanes: evering_get_lane()
 * @pid, @uid, @gid: the peer
 * @owner: fork_id() of the process that has made it
 * @ledger, @charged, @charged_uid: where it is entered, with how many bytes of whom;
 *	NULL: nowhere
 * @begin: bytes of the own arena that had memory from the start
 * @partial: arenas, by endpoint, that did not have all of it then
 * @refused: 0, or why the own arena did not grow when last tried
 * @peer_there: bytes of the peer's arena, from its start, that are safe to read; any
 *	thread
 * @ops: the table that is open, if there is one
 * @room: free slots that EVERING_TX means, less one; the table sets it
 * @member: what it is of a group, or NULL
 * @peers: how many peers it has had before the one that it has
 * @sent_before: entries that it had sent to all of these
 * @fenced: EVERING_REPLACE_FORCE has ended it, whether the peer lives or not
 * @replacing: evering_replace() takes what the peer had sent
 * @tabled: it had a table, which was closed: nobody knows what its entries were for
 * @relics: of the arenas of peers that have gone, what this side still has
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

/* Between two looks of one who spins: what a sibling thread of the CPU can use. */
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
 * enum pages - of a memfd that is to be mapped
 * @PAGES_MISSING: some may not be there
 * @PAGES_THERE: all are, and each is mapped when it is touched
 * @PAGES_MAPPED: all are, and they are mapped at once
 */
enum pages {
	PAGES_MISSING,
	PAGES_THERE,
	PAGES_MAPPED,
};

/* Of so little nobody asks whether there is memory for it (memory.c). */
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
 * struct cargo - the descriptors that a packet is to bring
 * @count: how many there are
 * @sockets: from this place on they are Unix sockets, and only there; MAX_PACKET_FDS:
 *	none is
 * @bytes: the most that all memfds among them are of
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
 * @mask: what the sleep is to let in; NULL: what is let in anyway
 * @blocked: this wait has blocked the others, and @own is to be restored
 * @own: the thread's mask before
 *
 * A handler that runs while a thread spins leaves no trace, and one that has set a flag
 * would be slept over.  So a spin that is not a short one blocks signals, and the sleep
 * lets them in again, in the same system call.
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

/* May record @n be read and written?  One that may not was never written. */
static inline bool book_has(const struct book *book, uint32_t n)
{
	uint32_t chunk = n >> book->shift;

	return book->open[chunk / 64] >> chunk % 64 & 1;
}

/* From now on it may: all of it is zero.  0; -ENOMEM. */
static inline int book_open(struct book *book, uint32_t n)
{
	return EVERING_LIKELY(book_has(book, n)) ? 0 : book__open(book, n);
}

/* memory.c */
bool memory_there(size_t size, uint64_t *counted);
void memory_back(uint64_t counted);
bool memory_for_more(size_t size);
bool file_may_be(size_t size);

/* arena.c: who has a block */
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

/* As peer_arena_grown(), and but a compare where it has been asked before. */
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
