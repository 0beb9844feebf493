/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * evering: shared-memory channels between two processes.
 *
 * This header is the whole contract between the two endpoints of a channel, and
 * between each of them and the kernel: the layout of the shared memory, the mmap
 * offsets and the ioctls of /dev/evering.  Nothing else describes shared memory.
 *
 * A channel joins two equal endpoints, A and B.  It has five regions:
 *
 *	STATUS	 one page, read-only to both: geometry, state of each endpoint
 *	HALF_A	 A's control lines and the slots of the ring A -> B; only A writes
 *	HALF_B	 B's control lines and the slots of the ring B -> A; only B writes
 *	ARENA_A	 payload of A; only A writes (both, if EVERING_SHARED_ARENA)
 *	ARENA_B	 payload of B; likewise
 *
 * A ring has one producer and one consumer.  Entry number n, a free-running u32
 * from 0, is in slot n mod entries.  The last four bytes of a slot are its stamp.
 * The entry is there when the stamp, loaded with acquire order, equals n + 1.  The
 * producer writes the entry, then stores the stamp with release order.  Before
 * that the stamp was n + 1 - entries, or zero.  Neither can be mistaken for n + 1,
 * so a stamp never has to be cleared.  The consumer writes into no slot: it
 * publishes in its own half how many entries it is done with
 * (evering_half.released).
 *
 * On the device each region is mapped on its own.  Without the device (memfd)
 * there is no STATUS.  Each endpoint makes one memfd for its half and, behind
 * that, its arena:
 *
 *	arena at	the half's size in whole pages; an arena of
 *			EVERING_MEMFD_ALIGN bytes or more is at the next multiple
 *			of that
 *	half at		such a place that it ends where the arena begins; nobody
 *			maps what lies before
 *	size		up to the end of the arena
 *
 * So one mapping has both.  With EVERING_SHARED_ARENA, which needs other seals, the
 * arena is a memfd of its own, and starts at 0.
 *
 * Change log
 *	1	first version
 *	2	an endpoint that was detached stays so, and belongs to the process that
 *		attached it last; ATTACH, and PEER_CRED describes only that process;
 *		EVERING_ENTER_RUNG; EVERING_RING_SELF; POLLOUT and POLLERR; who pays
 *		when an end closes; EVERING_OP_SPARE;
 *		evering_half.begun, evering_status.arena_there and .token;
 *		operations are in <linux/evering_op.h>
 *	3	EVERING_ENTER_NO_HANDOVER; EVERING_IOC_GROW, EVERING_CREATE_GROW,
 *		evering_half.grown; posts, messages and credit: EVERING_OPS_VERSION 2
 *	4	groups: EVERING_IOC_GROUP, ADD, REMOVE, and ENTER and RING on a group;
 *		memfd: one file for half and arena, and no STATUS;
 *		evering_half.abi and .geometry; the library's hello asks for lanes
 *	5	evering_half.begun has a meaning; the library's hello names
 *		predecessors
 *	6	evering_half.closed says how, and .relayed: for relays
 */
#ifndef _UAPI_LINUX_EVERING_H
#define _UAPI_LINUX_EVERING_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define EVERING_ABI_VERSION	6

/*
 * Errors.  Every ioctl returns one of these, negated, and so does every function
 * of the library that passes one on.  A call that fails has had no effect, except
 * that an ENTER that fails to wait may have rung, and that an ENTER on a group that
 * fails at an entry of its list has rung the entries before it.
 *
 *	EINVAL		an unknown flag, a reserved field that is not zero, an
 *			invalid geometry, a size below the first version's
 *	E2BIG		the caller's struct is longer than the kernel knows and its
 *			tail is not zero, or is longer than a page; a geometry,
 *			or a list of ENTER on a group, beyond EVERING_MAX_*
 *	EACCES		mmap for writing of what this side may not write, or for
 *			executing (for which newer kernels return EPERM)
 *	EFAULT		a pointer that cannot be read or written
 *	ENOTTY		an ioctl or an io_uring command that this file does not have
 *	EDQUOT		a quota of the module: channel, user or machine
 *	ENOMEM		no memory, or the memory cgroup's limit
 *	EMFILE, ENFILE	no descriptor left in the process, in the system
 *	EPIPE		the peer is gone, and so will never answer
 *	EPROTO		the peer broke the rules of this header (library only)
 *	ETIMEDOUT	the time given to ENTER has passed
 *	EINTR		a signal came, and its handler does not restart calls, or
 *			EVERING_ENTER_NO_RESTART
 *	EAGAIN		O_NONBLOCK, and ENTER would have to wait
 *	ENOTCONN	PEER_CRED before the peer has called ATTACH; ATTACH before the
 *			half is mapped; ADD before ATTACH
 *	EBUSY		ATTACH, mmap: another process has, or had, the endpoint; ENTER:
 *			as many threads and pollers wait there as one ring wakes; GROW:
 *			another thread grows the same arena; ADD: the endpoint is in
 *			another group, or another process has it
 *	ESTALE		ATTACH, ADD: the endpoint was detached; mmap of what this side
 *			may write: the same, if ATTACH was called before; mmap, GROW:
 *			the channel was given up
 *	EBADF		SET_EVENTFD, ADD, REMOVE, ENTER on a group: not an open
 *			descriptor
 *	EEXIST		ADD: the endpoint is in this group already
 *	ENOENT		REMOVE: the endpoint is not in this group
 *	EOPNOTSUPP	an io_uring command on a ring with IORING_SETUP_IOPOLL
 */

/* The two endpoints.  Also the index of everything that exists once for each. */
#define EVERING_A		0
#define EVERING_B		1

/* The regions.  Each is mapped on an endpoint: whole, and MAP_SHARED. */
#define EVERING_REGION_STATUS	0
#define EVERING_REGION_HALF_A	1
#define EVERING_REGION_HALF_B	2
#define EVERING_REGION_ARENA_A	3
#define EVERING_REGION_ARENA_B	4
#define EVERING_REGIONS		5

#define EVERING_REGION_HALF(end)	(EVERING_REGION_HALF_A + (end))
#define EVERING_REGION_ARENA(end)	(EVERING_REGION_ARENA_A + (end))
#define EVERING_MMAP_SHIFT		40
#define EVERING_MMAP_OFFSET(region)	((__u64)(region) << EVERING_MMAP_SHIFT)

/* Limits of the layout; the module's quotas may be tighter. */
#define EVERING_MIN_SLOT	16u	/* bytes; a power of two */
#define EVERING_MAX_SLOT	256u
#define EVERING_MIN_ENTRIES	4u	/* slots of a ring; a power of two */
#define EVERING_MAX_ENTRIES	65536u
#define EVERING_MAX_ARENA	(1ull << 36)	/* bytes */
#define EVERING_ARENA_ALIGN	4096u	/* arenas are multiples of it */
#define EVERING_STAMP_SIZE	4u	/* bytes at the end of each slot */
#define EVERING_MEMFD_ALIGN	(2u << 20) /* bytes; of large arenas in a memfd */

/* evering_geometry.flags */
#define EVERING_SHARED_ARENA	(1u << 0) /* both endpoints write both arenas */
#define EVERING_GEOMETRY_FLAGS	EVERING_SHARED_ARENA

/**
 * struct evering_geometry - the sizes of a channel; fixed for its life
 * @slot_size: bytes of a slot, EVERING_MIN_SLOT..EVERING_MAX_SLOT, power of two
 * @entries: slots of each ring, EVERING_MIN_ENTRIES..EVERING_MAX_ENTRIES, power
 *	of two
 * @arena_size: bytes of ARENA_A and of ARENA_B, 0..EVERING_MAX_ARENA, multiples
 *	of EVERING_ARENA_ALIGN and of the page size; 0 for no arena
 * @flags: EVERING_SHARED_ARENA
 * @reserved: 0
 */
struct evering_geometry {
	__u32 slot_size;
	__u32 entries;
	__aligned_u64 arena_size[2];
	__u32 flags;
	__u32 reserved;
};

/* evering_endpoint_status.state */
#define EVERING_STATE_NEW	0	/* exists, its half never mapped yet */
#define EVERING_STATE_ATTACHED	1	/* a process has mapped its half, and lives */
#define EVERING_STATE_DETACHED	2	/* it has died, or unmapped all: final */
#define EVERING_STATE_CLOSED	3	/* the last file descriptor is gone, too */

/**
 * struct evering_endpoint_status - an endpoint as the kernel sees it
 * @state: EVERING_STATE_*
 * @epoch: how often the endpoint was attached; wraps.  Each time another process
 *	mapped the half, while the endpoint was not detached
 * @pad: a line of its own, so that a spinning peer is not disturbed
 */
struct evering_endpoint_status {
	__u32 state;
	__u32 epoch;
	__u32 pad[30];
};

#define EVERING_MAGIC	0x676e697265766501ull /* "\001evering" in memory */

/**
 * struct evering_status - the STATUS region
 * @magic: EVERING_MAGIC
 * @abi: version of this header that the channel was created with
 * @size: bytes of this struct that have a meaning
 * @geometry: as created
 * @half_size: bytes to map for HALF_A and for HALF_B
 * @arena_there: bytes of each arena that have memory, from its start
 * @token: 0; for what a process shows that takes the place of one that died
 * @reserved: 0
 * @end: the endpoints, by EVERING_A and EVERING_B
 *
 * Only the kernel writes it.  An endpoint copies the geometry when it maps the
 * channel, and never looks at it again.
 */
struct evering_status {
	__aligned_u64 magic;
	__u32 abi;
	__u32 size;
	struct evering_geometry geometry;
	__aligned_u64 half_size;
	__aligned_u64 arena_there[2];
	__aligned_u64 token[2];
	__u32 reserved[10];
	struct evering_endpoint_status end[2];
};

/* evering_half.armed_rx and .armed_tx: a generation above one bit. */
#define EVERING_ARMED		1u
#define EVERING_GENERATION	2u	/* what to add for the next generation */

/**
 * struct evering_counters - for tools to show; no program may trust them
 * @tx_entries: entries committed, when last updated
 * @tx_rings: doorbells rung for entries
 * @tx_sleeps: how often the sender slept for space
 * @tx_syscalls: system calls made to ring and to sleep, as the sender
 * @rx_entries: entries released, when last updated
 * @rx_rings: doorbells rung for space
 * @rx_sleeps: how often the receiver slept for entries
 * @rx_syscalls: system calls made to ring and to sleep, as the receiver
 * @reserved: 0
 *
 * They are updated off the fast path: when credit is refreshed, when @released is
 * published, and before a sleep.  The thread that sends writes the tx_ fields, the
 * thread that receives the rx_ fields.
 */
struct evering_counters {
	__aligned_u64 tx_entries;
	__aligned_u64 tx_rings;
	__aligned_u64 tx_sleeps;
	__aligned_u64 tx_syscalls;
	__aligned_u64 rx_entries;
	__aligned_u64 rx_rings;
	__aligned_u64 rx_sleeps;
	__aligned_u64 rx_syscalls;
	__aligned_u64 reserved[8];
};

/**
 * struct evering_half - control lines at the start of HALF_A and of HALF_B
 * @released: entries of the *peer's* ring that the owner is done with, modulo
 *	2^32.  Written by the owner's receiving thread, read by the peer's
 *	sending thread when its credit has run out.
 * @pad0: to the next line
 * @armed_rx: EVERING_ARMED: "wake my receiving thread when there is an entry".
 *	Stored by that thread alone; the kernel clears the bit when it wakes it.
 *	Read by the peer's sending thread at each flush.
 * @armed_tx: EVERING_ARMED: "wake my sending thread when there is space".
 *	Stored by that thread alone; the kernel clears the bit when it wakes it.
 *	Read by the peer's receiving thread at each release.
 * @pad1: to the next line
 * @counters: see there
 * @closed: EVERING_CLOSED_*, not zero once the owner has closed the channel in good
 *	order.  It distinguishes a polite end from a death; nothing depends on it
 * @begun: entries of the *peer's* ring that the owner has taken up, modulo 2^32.  The
 *	owner may have acted on every entry before this one, and has acted on none from
 *	this one on.  Stored by the owner's receiving thread before it acts; read by the
 *	peer when the owner is gone.  A value behind @released means the same as
 *	@released.  A value EVERING_BEGUN_ALL or more entries away from @released means
 *	that the owner looks at entries without taking them up, and may have acted on any
 * @grown: memfd: how much of the owner's arena has memory, from its start, in units of
 *	EVERING_ARENA_ALIGN; it never decreases.  The thread that allocates there stores
 *	it with release order, after it got the memory and before an entry names a place
 *	in it.  The peer reads it when an entry names a place that it has not seen before
 * @abi: memfd: version of this header, for tools to show; no program may trust it.
 *	The device has it in STATUS
 * @geometry: memfd: what the two sides have agreed on; otherwise as @abi
 * @relayed: not zero: the owner is a relay: it passes on what a process elsewhere sends,
 *	and receives for it.  If the owner goes without a word, the state of that process
 *	is unknown
 * @pad2: up to EVERING_SLOTS_OFFSET
 *
 * Lines are 128 bytes apart because the adjacent-line prefetcher pairs them.
 *
 * The generation above EVERING_ARMED goes up when the owner has consumed a ring of the
 * doorbell in the present generation, and only then.  So a producer that remembers the
 * generation that it rang last knows whether a wake-up is already on its way, however
 * often the counter wraps.  It rings a generation at most once.  In the half of a kernel
 * module the generation goes up each time that the module arms.
 */
struct evering_half {
	__u32 released;
	__u32 pad0[31];
	__u32 armed_rx;
	__u32 armed_tx;
	__u32 pad1[30];
	struct evering_counters counters;
	__u32 closed;
	__u32 begun;
	__u32 grown;
	__u32 abi;
	struct evering_geometry geometry;
	__u32 relayed;
	__u32 pad2[19];
};

/*
 * evering_half.closed: why.  The owner of the half has closed it; or the owner is a relay,
 * and the process that it passes on for has died (DIED), cannot be reached (LOST), or was
 * served by another relay that is gone (RELAY).  Any other value but 0 means the first.
 */
#define EVERING_CLOSED		1u
#define EVERING_CLOSED_DIED	2u
#define EVERING_CLOSED_LOST	3u
#define EVERING_CLOSED_RELAY	4u

/* Entries: see evering_half.begun.  Far more than a ring has. */
#define EVERING_BEGUN_ALL	(1u << 30)

/* Slots begin here in a half. */
#define EVERING_SLOTS_OFFSET	512u

/* Doorbells: of the receiving and of the sending thread of an endpoint. */
#define EVERING_RX		(1u << 0)
#define EVERING_TX		(1u << 1)

/*
 * ioctls.  A struct begins with its size as the caller knows it.  A longer struct is
 * accepted if the part that the kernel does not know is zero, a shorter one if it has
 * the fields of the first version.
 *
 * That is why the numbers are made by _IO().  _IOWR() would put a size into the number,
 * and a struct that grows would be another command to a kernel that could do without
 * the new fields.
 */
#define EVERING_IOC_MAGIC	0xEB

/* On /dev/evering */
#define EVERING_IOC_INFO	_IO(EVERING_IOC_MAGIC, 0x00)
#define EVERING_IOC_CREATE	_IO(EVERING_IOC_MAGIC, 0x01)
#define EVERING_IOC_GROUP	_IO(EVERING_IOC_MAGIC, 0x02)
/* On an endpoint; RING and ENTER on a group as well */
#define EVERING_IOC_RING	_IO(EVERING_IOC_MAGIC, 0x10)
#define EVERING_IOC_ENTER	_IO(EVERING_IOC_MAGIC, 0x11)
#define EVERING_IOC_SET_EVENTFD	_IO(EVERING_IOC_MAGIC, 0x12)
#define EVERING_IOC_PEER_CRED	_IO(EVERING_IOC_MAGIC, 0x13)
#define EVERING_IOC_ATTACH	_IO(EVERING_IOC_MAGIC, 0x14)
#define EVERING_IOC_GROW	_IO(EVERING_IOC_MAGIC, 0x15)
/* On a group */
#define EVERING_IOC_ADD		_IO(EVERING_IOC_MAGIC, 0x20)
#define EVERING_IOC_REMOVE	_IO(EVERING_IOC_MAGIC, 0x21)

/* evering_info.features */
#define EVERING_FEATURE_GROW	(1ull << 0) /* CREATE_GROW, GROW */
#define EVERING_FEATURE_GROUP	(1ull << 1) /* GROUP, and what a group has */

/**
 * struct evering_info - EVERING_IOC_INFO: what this kernel offers
 * @size: in: bytes of the caller's struct
 * @flags: in: 0
 * @abi: out: EVERING_ABI_VERSION of the kernel
 * @page_size: out: bytes; regions are mapped in whole pages
 * @features: out: EVERING_FEATURE_*
 * @max_channel_bytes: out: quota of one channel, in bytes of shared memory
 * @max_user_bytes: out: quota of one user
 * @max_total_bytes: out: quota of the machine
 * @max_user_channels: out: quota of one user, in channels and groups together
 * @reserved: out: 0
 */
struct evering_info {
	__u32 size;
	__u32 flags;
	__u32 abi;
	__u32 page_size;
	__aligned_u64 features;
	__aligned_u64 max_channel_bytes;
	__aligned_u64 max_user_bytes;
	__aligned_u64 max_total_bytes;
	__u32 max_user_channels;
	__u32 reserved;
};

/* evering_create.flags */
#define EVERING_CREATE_KEEP_ON_EXEC (1u << 0) /* without O_CLOEXEC */
#define EVERING_CREATE_NONBLOCK	(1u << 1)	/* with O_NONBLOCK */
#define EVERING_CREATE_GROW	(1u << 2)	/* arenas begin with @arena_begin */
#define EVERING_CREATE_FLAGS \
	(EVERING_CREATE_KEEP_ON_EXEC | EVERING_CREATE_NONBLOCK | \
	 EVERING_CREATE_GROW)

/**
 * struct evering_create - EVERING_IOC_CREATE: a new channel
 * @size: in: bytes of the caller's struct
 * @flags: in: EVERING_CREATE_*
 * @geometry: in: see there
 * @fd: out: the endpoints A and B.  Each is memory, doorbell and liveness in one
 *	descriptor and may be passed on.  The caller pays for the channel.  When one
 *	end is closed, the user who has attached the other end pays.  A channel that
 *	has one end closed, and that nobody maps, is given up when its payer needs the
 *	quota for another one: -ESTALE.
 * @arena_order: out: log2 of the pages of the largest block that ARENA_A and
 *	ARENA_B were built from
 * @arena_begin: in: bytes of ARENA_A and ARENA_B that have memory from the start, whole
 *	pages, up to arena_size.  Without EVERING_CREATE_GROW all bytes have
 *	memory.  With it, each page that may come later costs the payer a pointer.
 */
struct evering_create {
	__u32 size;
	__u32 flags;
	struct evering_geometry geometry;
	__s32 fd[2];
	__u32 arena_order[2];
	__aligned_u64 arena_begin[2];
};

/*
 * EVERING_IOC_RING: wake the peer.  The argument itself is EVERING_RX (there is an
 * entry: clear EVERING_ARMED in the peer's armed_rx), EVERING_TX (there is space:
 * armed_tx) or both.  It returns those of them that were armed, and so were rung.
 *
 * RING is also an io_uring command, so that one io_uring_enter(2) rings many channels:
 * IORING_OP_URING_CMD on an endpoint, cmd_op EVERING_IOC_RING, and in sqe->cmd a
 * struct evering_uring_ring.  The result in res is the same.  It does not work on a ring
 * with IORING_SETUP_IOPOLL (-EOPNOTSUPP).
 */

/*
 * Beside EVERING_RX or EVERING_TX: ring the own endpoint.  With it a thread wakes a
 * sleeper of its own process.
 */
#define EVERING_RING_SELF	(1u << 16)

/**
 * struct evering_uring_ring - EVERING_IOC_RING as an io_uring command
 * @bells: the argument of the ioctl
 * @reserved: 0
 */
struct evering_uring_ring {
	__u32 bells;
	__u32 reserved[3];
};

/*
 * evering_enter.flags
 *	NO_RESTART	any signal handler that runs ends the wait with -EINTR, as it
 *			does poll(2)'s, and not only one without SA_RESTART
 *	RUNG		set by the kernel when a signal interrupts a call that has
 *			rung: @ring was rung, and holds EVERING_RANG_* now.  So the
 *			call rings once, restarted or not.
 *	NO_HANDOVER	the scheduler chooses where the thread runs that @ring wakes.
 *			Without it, a call that rings and then waits lets that thread
 *			run on its own CPU, if the kernel can and nothing else wants
 *			that CPU.  A thread whose affinity does not allow it, or which
 *			is realtime, is never moved.
 */
#define EVERING_ENTER_NO_RESTART (1u << 0)
#define EVERING_ENTER_RUNG	(1u << 1)
#define EVERING_ENTER_NO_HANDOVER (1u << 2)
#define EVERING_ENTER_FLAGS \
	(EVERING_ENTER_NO_RESTART | EVERING_ENTER_RUNG | \
	 EVERING_ENTER_NO_HANDOVER)

/* evering_enter.timeout: wait as long as it takes */
#define EVERING_FOREVER		(~0ull)

/**
 * struct evering_enter - EVERING_IOC_ENTER: ring and wait in one call
 * @size: in: bytes of the caller's struct
 * @flags: in: EVERING_ENTER_*
 * @ring: in: doorbells of the peer to ring first, as for RING; 0 for none
 * @wait: in: own doorbells to wait for, EVERING_RX, EVERING_TX or both; 0 not to
 *	wait.  A doorbell counts as rung when EVERING_ARMED is clear in its word.
 * @timeout: in: CLOCK_MONOTONIC in ns, absolute; EVERING_FOREVER
 *
 * Returns the doorbells of @wait that are rung, with EVERING_RANG_RX and _TX for
 * those of @ring that were armed.  If none of @wait is rung: -EPIPE if the peer is
 * gone, -ETIMEDOUT if the time has passed, -EBUSY if too many wait already.
 * A ring is paid once, also by a call that a signal interrupts: see
 * EVERING_ENTER_RUNG.  The struct has to be writable for that.  If it is not, such a
 * call ends with -EINTR instead of being restarted.
 */
struct evering_enter {
	__u32 size;
	__u32 flags;
	__u32 ring;
	__u32 wait;
	__aligned_u64 timeout;
};

#define EVERING_RANG_RX		(EVERING_RX << 8)
#define EVERING_RANG_TX		(EVERING_TX << 8)

/**
 * struct evering_set_eventfd - EVERING_IOC_SET_EVENTFD: also signal an eventfd
 * @size: in: bytes of the caller's struct
 * @flags: in: 0
 * @fd: in: an eventfd, signalled whenever this endpoint is rung and when its peer
 *	goes; -1 for none
 * @reserved: in: 0
 */
struct evering_set_eventfd {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 reserved;
};

/**
 * struct evering_peer_cred - EVERING_IOC_PEER_CRED: the process at the other endpoint
 * @size: in: bytes of the caller's struct
 * @flags: in: 0
 * @pid: out: the process that has called ATTACH there, in the caller's pid namespace; 0
 *	if that process is gone, or is not visible from there
 * @uid: out: the effective user that it had when it mapped the half, in the caller's user
 *	namespace
 * @gid: out: the effective group, likewise
 * @epoch: out: of the other endpoint
 *
 * For a pidfd: pidfd_open(2) @pid, then look at STATUS.  If the other endpoint is still
 * ATTACHED, in that epoch, the process had not been reaped, and the pidfd refers to it.
 */
struct evering_peer_cred {
	__u32 size;
	__u32 flags;
	__s32 pid;
	__u32 uid;
	__u32 gid;
	__u32 epoch;
};

/**
 * struct evering_attach - EVERING_IOC_ATTACH: the calling process speaks here
 * @size: in: bytes of the caller's struct
 * @flags: in: 0
 * @epoch: out: of this endpoint
 * @reserved: in: 0
 *
 * The process that has mapped this endpoint's half gives the endpoint its name: the peer
 * reads that by PEER_CRED.  So no other process may write there.  -EBUSY if another
 * process has ever mapped the half or the arena; a process that maps them from now on
 * gets -EBUSY, too.  -ENOTCONN before the half is mapped, -ESTALE after the endpoint was
 * detached.
 */
struct evering_attach {
	__u32 size;
	__u32 flags;
	__u32 epoch;
	__u32 reserved;
};

/**
 * struct evering_grow - EVERING_IOC_GROW: memory for more of the own arena
 * @size: in: bytes of the caller's struct
 * @flags: in: 0
 * @there: in: bytes of this endpoint's arena that are to have memory, from its start,
 *	whole pages.  A value below the present one changes nothing.
 *
 * The payer of the channel pays for it, and so does the memory cgroup of the caller.
 * evering_status.arena_there shows the result to both sides.  Access to a page that has
 * no memory yet is SIGBUS.
 *
 * -EINVAL beyond the arena's size.  One call at a time.
 */
struct evering_grow {
	__u32 size;
	__u32 flags;
	__aligned_u64 there;
};

/*
 * Groups: many endpoints under one sleeper.
 *
 * A group is a file of its own, with one page, which its owner maps.  Endpoints are its
 * members; an endpoint is in at most one group.  A member has a bit in that page, at an
 * index that the owner chooses.  The kernel sets the bit
 *
 *	whenever the member is rung: an armed doorbell is cleared;
 *	when the member's peer goes (DETACHED, CLOSED);
 *	at ADD, once: the owner looks at a new member.
 *
 * and then wakes the sleepers and pollers of the group.  The member's own sleepers,
 * pollers and eventfd are woken as without a group.  Only the owner clears bits.  It
 * takes whole words:
 *
 *	for each word w of summary[]	s = exchange(&summary[w], 0)
 *	  for each bit i of s		m = exchange(&ready[64 * w + i], 0)
 *	    for each bit j of m		look at the member 64 * (64 * w + i) + j
 *
 * The exchange is at least an acquire and a full barrier towards later loads of the ring
 * (a sequentially consistent one).  A bit says "look", and no more.  It may be stale (of
 * a member that was removed, or that had its index before), and the look may find
 * nothing.  A set bit of summary[] may lead to an empty word.
 *
 * No wake-up is lost: a member is rung once each time that its owner arms it.  So the
 * owner arms a member, looks into its ring once more, and then need not look at it before
 * its bit is set.  ENTER sleeps, and poll(2) is silent, while all of summary[] is 0.
 * The kernel trusts nothing that it reads there: what the owner writes can wake, or not
 * wake, the owner alone.
 *
 * A group does not hold its members.  A member is removed by REMOVE; when the endpoint is
 * detached or its last descriptor is closed; or when the group is closed, which means all
 * its descriptors and the mappings of its page.  A member that is passed on to another
 * process without REMOVE stays a member.
 */

/* The number of indices of a group. */
#define EVERING_GROUP_MEMBERS	31744u
#define EVERING_GROUP_WORDS	(EVERING_GROUP_MEMBERS / 64u)

/**
 * struct evering_group_page - what a group's owner maps
 * @summary: bit i of word w: something may be in ready[64 * w + i]
 * @pad: a line of its own
 * @ready: bit j of word i: look at the member with the index 64 * i + j
 *
 * mmap(2) of one page, offset 0, MAP_SHARED; not for executing, and not inherited by
 * children.  Since the owner chooses the indices, an owner with few members reads only
 * the words of @summary that theirs are in.
 */
struct evering_group_page {
	__aligned_u64 summary[8];
	__aligned_u64 pad[8];
	__aligned_u64 ready[496];
};

/* evering_group_create.flags: two of CREATE's */
#define EVERING_GROUP_KEEP_ON_EXEC (1u << 0)	/* without O_CLOEXEC */
#define EVERING_GROUP_NONBLOCK	(1u << 1)	/* with O_NONBLOCK */
#define EVERING_GROUP_FLAGS \
	(EVERING_GROUP_KEEP_ON_EXEC | EVERING_GROUP_NONBLOCK)

/**
 * struct evering_group_create - EVERING_IOC_GROUP: a new group, on /dev/evering
 * @size: in: bytes of the caller's struct
 * @flags: in: EVERING_GROUP_*
 * @fd: out: the group
 * @reserved: in: 0
 *
 * It counts as a channel of the caller's, of one page.
 */
struct evering_group_create {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 reserved;
};

/**
 * struct evering_add - EVERING_IOC_ADD: an endpoint becomes a member of this group
 * @size: in: bytes of the caller's struct
 * @flags: in: 0
 * @fd: in: the endpoint
 * @index: in: below EVERING_GROUP_MEMBERS.  Two members may have the same index; the
 *	owner looks at both when the bit is set.
 *
 * The bit is set at once, whether there is something to see or not.  An endpoint whose
 * peer has gone becomes a member all the same.  -EEXIST if it is in this group, whatever
 * the index; -EBUSY if it is in another group, or another process has called ATTACH on
 * it; -ENOTCONN if no process has; -ESTALE if it was detached itself.  -EBADF: not an
 * open descriptor; -EINVAL: it is no endpoint, or the index is too large.
 */
struct evering_add {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 index;
};

/*
 * EVERING_IOC_REMOVE: an endpoint is no member any more.  The argument itself is its
 * descriptor.  Returns 0; from then on the kernel does not set the bit, but the bit may
 * be set from before.  -ENOENT: not a member of this group; -EBADF, -EINVAL as for ADD.
 *
 * EVERING_IOC_RING on a group: the argument itself is an index.  The bit there is set as
 * if a member had been rung.  Returns 0; -EINVAL: the index is too large.  With an index
 * that no member has, another thread or a signal handler wakes the owner.
 */

/* The most entries in the list of ENTER on a group. */
#define EVERING_MAX_GROUP_RINGS	64u

/**
 * struct evering_group_ring - one of the peers that ENTER on a group rings
 * @fd: an endpoint, whose peer is to be rung: a member of the group or not
 * @bells: EVERING_RX, EVERING_TX or both
 */
struct evering_group_ring {
	__s32 fd;
	__u32 bells;
};

/**
 * struct evering_group_enter - EVERING_IOC_ENTER on a group: ring many, then wait
 * @size: in: bytes of the caller's struct
 * @flags: in: EVERING_ENTER_*
 * @ring: in: number of @rings, at most EVERING_MAX_GROUP_RINGS; 0 for none
 * @wait: in: 1 to wait until a bit of evering_group_page.summary is set, 0 not to
 * @timeout: in: CLOCK_MONOTONIC in ns, absolute; EVERING_FOREVER
 * @rings: in: address of @ring structs evering_group_ring; not looked at if @ring is 0
 *
 * Returns how many of the doorbells that it rang were armed.  -ETIMEDOUT if no bit is set
 * and the time has passed, -EAGAIN with O_NONBLOCK, -EBUSY if too many wait already.
 * -EFAULT: the list cannot be read; -EINVAL: an entry of it names a nonexistent doorbell,
 * or none; nobody was rung then.  -EBADF, or -EINVAL for a descriptor that is no endpoint:
 * the peers before it were rung.  A ring is paid once, as for ENTER on an endpoint: with
 * EVERING_ENTER_RUNG in @flags, @ring is what the call will return.
 *
 * A call that rings one peer and then waits lets that peer run on its own CPU, as ENTER
 * on an endpoint does.
 */
struct evering_group_enter {
	__u32 size;
	__u32 flags;
	__u32 ring;
	__u32 wait;
	__aligned_u64 timeout;
	__aligned_u64 rings;
};

/*
 * Both sides must have been compiled from the same layout, to the byte: in C, in C++ and
 * in the kernel, on 32 and on 64 bits.
 */
#ifdef __cplusplus
#define EVERING_ASSERT(cond)	static_assert(cond, #cond)
#else
#define EVERING_ASSERT(cond)	_Static_assert(cond, #cond)
#endif
#define EVERING_AT(type, member, offset) \
	EVERING_ASSERT(__builtin_offsetof(struct type, member) == (offset))

EVERING_ASSERT(sizeof(struct evering_geometry) == 32);
EVERING_AT(evering_geometry, arena_size, 8);
EVERING_AT(evering_geometry, flags, 24);
EVERING_ASSERT(sizeof(struct evering_endpoint_status) == 128);
EVERING_ASSERT(sizeof(struct evering_status) == 384);
EVERING_AT(evering_status, geometry, 16);
EVERING_AT(evering_status, half_size, 48);
EVERING_AT(evering_status, end, 128);
EVERING_ASSERT(sizeof(struct evering_counters) == 128);
EVERING_ASSERT(sizeof(struct evering_half) == EVERING_SLOTS_OFFSET);
EVERING_AT(evering_half, armed_rx, 128);
EVERING_AT(evering_half, armed_tx, 132);
EVERING_AT(evering_half, counters, 256);
EVERING_AT(evering_half, closed, 384);
EVERING_AT(evering_half, begun, 388);
EVERING_AT(evering_half, grown, 392);
EVERING_AT(evering_half, abi, 396);
EVERING_AT(evering_half, geometry, 400);
EVERING_AT(evering_status, arena_there, 56);
EVERING_AT(evering_status, token, 72);
EVERING_ASSERT(sizeof(struct evering_info) == 56);
EVERING_AT(evering_info, features, 16);
EVERING_ASSERT(sizeof(struct evering_create) == 72);
EVERING_AT(evering_create, fd, 40);
EVERING_AT(evering_create, arena_begin, 56);
EVERING_ASSERT(sizeof(struct evering_grow) == 16);
EVERING_ASSERT(sizeof(struct evering_enter) == 24);
EVERING_AT(evering_enter, timeout, 16);
EVERING_ASSERT(sizeof(struct evering_set_eventfd) == 16);
EVERING_ASSERT(sizeof(struct evering_peer_cred) == 24);
EVERING_ASSERT(sizeof(struct evering_attach) == 16);
EVERING_ASSERT(sizeof(struct evering_group_create) == 16);
EVERING_ASSERT(sizeof(struct evering_add) == 16);
EVERING_ASSERT(sizeof(struct evering_group_ring) == 8);
EVERING_ASSERT(sizeof(struct evering_group_enter) == 32);
EVERING_AT(evering_group_enter, timeout, 16);
EVERING_AT(evering_group_enter, rings, 24);
EVERING_ASSERT(sizeof(struct evering_group_page) == 4096);
EVERING_AT(evering_group_page, ready, 128);
EVERING_ASSERT(EVERING_GROUP_WORDS == 496);
EVERING_ASSERT((EVERING_MAX_ARENA >> EVERING_MMAP_SHIFT) == 0);
/* An old stamp must not look like the one waited for: rings are short. */
EVERING_ASSERT(EVERING_MAX_ENTRIES <= 1u << 31);

#endif /* _UAPI_LINUX_EVERING_H */
