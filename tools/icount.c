// SPDX-License-Identifier: MIT
/*
 * icount: what a round trip between two processes costs, in guest instructions.
 *
 * For "tools/vm icount".  Under QEMU's -icount shift=0 each instruction takes one
 * nanosecond of the guest's time and the time stamp counter counts those, so that
 * rdtsc counts instructions, of user and of kernel mode, the same ones in every
 * run.  Anywhere else the figures are cycles and mean little.
 *
 * Two processes, pinned to one CPU, hand a word to and fro and sleep in between:
 * nobody spins, and each round trip has two sleeps and two wake-ups.  The median of
 * many batches is printed, so that timer ticks and other guests of the CPU do not
 * count.  Needs nothing but the C library and uapi/linux/evering.h; the ring is
 * written out here because its cost, not the library's, is to be seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include <linux/evering.h>

#define BATCHES	101
#define ROUNDS	100		/* round trips of a batch */
#define WARM_UP	2000		/* round trips before the first */
#define SETUPS	5		/* channels of a batch */

static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "icount: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, ": %s\n", strerror(errno));
	va_end(ap);
	exit(1);
}

static void *shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/*
 * A way to hand a word over.  @setup runs once, before the fork, and says whether
 * there is such a thing here.  @swap of side 0 gives a word and waits for the
 * answer; that of side 1 waits, and then answers at its next call: both sleep and
 * wake once a round trip.  @give gives, without waiting, to end the last one.
 */
struct way {
	const char *name;
	int (*setup)(void);
	void (*begin)(int side);
	void (*wait)(int side);
	void (*give)(int side);
	void (*swap)(int side); /* give and wait; NULL: one after the other */
};

/* sched_yield: the floor. Nothing is handed over but the CPU. */

static int yield_setup(void)
{
	return 0;
}

static void yield_swap(int side)
{
	(void)side;
	sched_yield();
}

static void yield_give(int side)
{
	(void)side;
}

/* eventfd, pipe and seqpacket: write to the peer's, read from one's own. */

static int rd[2], wr[2]; /* by side */
static size_t unit; /* bytes handed over */

static int eventfd_setup(void)
{
	rd[0] = wr[1] = eventfd(0, EFD_CLOEXEC);
	rd[1] = wr[0] = eventfd(0, EFD_CLOEXEC);
	if (rd[0] < 0 || rd[1] < 0)
		die("eventfd");
	unit = 8;
	return 0;
}

static int pipe_setup(void)
{
	int p[2];

	if (pipe(p))
		die("pipe");
	rd[0] = p[0];
	wr[1] = p[1];
	if (pipe(p))
		die("pipe");
	rd[1] = p[0];
	wr[0] = p[1];
	unit = 8;
	return 0;
}

static int seqpacket_setup(void)
{
	int s[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s))
		die("socketpair");
	rd[0] = wr[0] = s[0];
	rd[1] = wr[1] = s[1];
	unit = 8;
	return 0;
}

static void fd_wait(int side)
{
	uint64_t word;

	if (read(rd[side], &word, unit) != (ssize_t)unit)
		die("read");
}

static void fd_give(int side)
{
	uint64_t word = 1;

	if (write(wr[side], &word, unit) != (ssize_t)unit)
		die("write");
}

/* futex: a word each, taken by its owner. */

static _Atomic uint32_t *word[2];

static int futex_setup(void)
{
	char *p = shared(4096);

	word[0] = (void *)p;
	word[1] = (void *)(p + 128);
	return 0;
}

static void futex_wait(int side)
{
	while (!atomic_load_explicit(word[side], memory_order_acquire))
		syscall(SYS_futex, word[side], FUTEX_WAIT, 0, NULL, NULL, 0);
	atomic_store_explicit(word[side], 0, memory_order_relaxed);
}

static void futex_give(int side)
{
	atomic_store_explicit(word[!side], 1, memory_order_release);
	syscall(SYS_futex, word[!side], FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* evering: an entry in the ring, and the doorbell by ENTER or by RING and poll. */

#define SLOT	64u
#define ENTRIES	256u
#define ARENA	(1u << 20)
#define HALF	((EVERING_SLOTS_OFFSET + SLOT * ENTRIES + 4095) & ~4095u)

static const size_t region_size[EVERING_REGIONS] = { 4096, HALF, HALF, ARENA,
						     ARENA };

static int device = -1;
static int endpoint[2];

static struct side {
	struct evering_half *mine, *peers;
	uint32_t sent, received;
} side_of[2];

static int evering_create(int *fd)
{
	struct evering_create create = {
		.size = sizeof(create),
		.geometry = {
			.slot_size = SLOT,
			.entries = ENTRIES,
			.arena_size = { ARENA, ARENA },
		},
	};

	if (ioctl(device, EVERING_IOC_CREATE, &create))
		return -errno;
	fd[0] = create.fd[0];
	fd[1] = create.fd[1];
	return 0;
}

static void *evering_map(int fd, int end, int region)
{
	int prot = PROT_READ;
	void *p;

	if (region == EVERING_REGION_HALF(end) ||
	    region == EVERING_REGION_ARENA(end))
		prot |= PROT_WRITE;
	p = mmap(NULL, region_size[region], prot, MAP_SHARED, fd,
		 (off_t)EVERING_MMAP_OFFSET(region));
	if (p == MAP_FAILED)
		die("mmap of region %d", region);
	return p;
}

static int evering_setup(void)
{
	device = open("/dev/evering", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -1;
	if (evering_create(endpoint))
		die("CREATE");
	return 0;
}

/* Mappings do not survive the fork: each side makes its own. */
static void evering_begin(int end)
{
	struct side *side = &side_of[end];

	side->sent = side->received = 0;
	side->mine = evering_map(endpoint[end], end, EVERING_REGION_HALF(end));
	side->peers =
		evering_map(endpoint[end], end, EVERING_REGION_HALF(!end));
}

static void *slot(struct evering_half *half, uint32_t n)
{
	return (char *)half + EVERING_SLOTS_OFFSET +
	       (size_t)(n % ENTRIES) * SLOT;
}

static _Atomic uint32_t *stamp(struct evering_half *half, uint32_t n)
{
	return (void *)((char *)slot(half, n) + SLOT - EVERING_STAMP_SIZE);
}

static int arrived(struct side *side)
{
	return atomic_load_explicit(stamp(side->peers, side->received),
				    memory_order_acquire) == side->received + 1;
}

static void send_entry(struct side *side)
{
	*(uint64_t *)slot(side->mine, side->sent) = side->sent;
	atomic_store_explicit(stamp(side->mine, side->sent), side->sent + 1,
			      memory_order_release);
	side->sent++;
}

static void receive_entry(struct side *side)
{
	side->received++;
	atomic_store_explicit((_Atomic uint32_t *)&side->mine->released,
			      side->received, memory_order_release);
}

/* Announces a sleep; a new generation if the last one has been rung. */
static void arm(struct side *side)
{
	_Atomic uint32_t *armed = (_Atomic uint32_t *)&side->mine->armed_rx;
	uint32_t old = atomic_load_explicit(armed, memory_order_relaxed);

	if (!(old & EVERING_ARMED))
		atomic_store_explicit(armed,
				      old + EVERING_GENERATION + EVERING_ARMED,
				      memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
}

static int peer_sleeps(struct side *side)
{
	return atomic_load_explicit((_Atomic uint32_t *)&side->peers->armed_rx,
				    memory_order_relaxed) &
	       EVERING_ARMED;
}

static void enter(int end, uint32_t ring, uint32_t wait)
{
	struct evering_enter enter = {
		.size = sizeof(enter),
		.ring = ring,
		.wait = wait,
		.timeout = EVERING_FOREVER,
	};

	if (ioctl(endpoint[end], EVERING_IOC_ENTER, &enter) < 0)
		die("ENTER");
}

static void enter_wait(int end)
{
	struct side *side = &side_of[end];

	while (!arrived(side)) {
		arm(side);
		if (!arrived(side))
			enter(end, 0, EVERING_RX);
	}
	receive_entry(side);
}

static void enter_swap(int end)
{
	struct side *side = &side_of[end];

	send_entry(side);
	arm(side);
	enter(end, peer_sleeps(side) ? EVERING_RX : 0,
	      arrived(side) ? 0 : EVERING_RX);
	enter_wait(end);
}

static void ring_give(int end)
{
	struct side *side = &side_of[end];

	send_entry(side);
	atomic_thread_fence(memory_order_seq_cst);
	if (peer_sleeps(side) &&
	    ioctl(endpoint[end], EVERING_IOC_RING, EVERING_RX) < 0)
		die("RING");
}

static void poll_wait(int end)
{
	struct side *side = &side_of[end];
	struct pollfd pollfd = { .fd = endpoint[end], .events = POLLIN };

	while (!arrived(side)) {
		arm(side);
		if (!arrived(side) && poll(&pollfd, 1, -1) != 1)
			die("poll");
	}
	receive_entry(side);
}

/* clang-format off */
static const struct way ways[] = {
	{ "evering ENTER", evering_setup, evering_begin, enter_wait, ring_give,
	  enter_swap },
	{ "evering RING + poll", evering_setup, evering_begin, poll_wait,
	  ring_give, NULL },
	{ "eventfd write + read", eventfd_setup, NULL, fd_wait, fd_give, NULL },
	{ "futex wake + wait", futex_setup, NULL, futex_wait, futex_give,
	  NULL },
	{ "pipe write + read", pipe_setup, NULL, fd_wait, fd_give, NULL },
	{ "Unix seqpacket", seqpacket_setup, NULL, fd_wait, fd_give, NULL },
	{ "2 x sched_yield", yield_setup, NULL, yield_swap, yield_give,
	  yield_swap },
};
/* clang-format on */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median(uint64_t *sample)
{
	qsort(sample, BATCHES, sizeof(*sample), compare);
	return sample[BATCHES / 2];
}

static void swap(const struct way *way, int side)
{
	if (way->swap) {
		way->swap(side);
	} else {
		way->give(side);
		way->wait(side);
	}
}

static void answer(const struct way *way)
{
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (way->begin)
		way->begin(1);
	way->wait(1);
	for (i = 1; i < WARM_UP + BATCHES * ROUNDS; i++)
		swap(way, 1);
	way->give(1);
	_exit(0);
}

static void print(const char *name, uint64_t instructions)
{
	printf("%-44s %10llu\n", name, (unsigned long long)instructions);
	fflush(stdout);
}

static void round_trip(const struct way *way)
{
	uint64_t sample[BATCHES], start;
	int batch, i, status;
	pid_t pid;

	if (way->setup()) {
		printf("%-44s %10s\n", way->name, "no device");
		return;
	}
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		answer(way);
	if (way->begin)
		way->begin(0);
	for (i = 0; i < WARM_UP; i++)
		swap(way, 0);
	for (batch = 0; batch < BATCHES; batch++) {
		start = __rdtsc();
		for (i = 0; i < ROUNDS; i++)
			swap(way, 0);
		sample[batch] = (__rdtsc() - start) / ROUNDS;
	}
	if (waitpid(pid, &status, 0) != pid || status)
		die("%s: the peer failed", way->name);
	print(way->name, median(sample));
}

/* What a channel costs to make and to take apart. */

static int allocate; /* memfds whole, as the library's are */
static int populate; /* MAP_POPULATE, or 0 */

static void device_channel(void)
{
	void *p[EVERING_REGIONS];
	int fd[2], i;

	if (evering_create(fd))
		die("CREATE");
	for (i = 0; i < EVERING_REGIONS; i++) {
		int own = i == EVERING_REGION_HALF_A ||
			  i == EVERING_REGION_ARENA_A;

		p[i] = mmap(NULL, region_size[i],
			    PROT_READ | (own ? PROT_WRITE : 0),
			    MAP_SHARED | populate, fd[0],
			    (off_t)EVERING_MMAP_OFFSET(i));
		if (p[i] == MAP_FAILED)
			die("mmap of region %d", i);
	}
	for (i = 0; i < EVERING_REGIONS; i++)
		munmap(p[i], region_size[i]);
	close(fd[0]);
	close(fd[1]);
}

static void memfd_channel(void)
{
	int fd[EVERING_REGIONS], bell[2], i;
	void *p[EVERING_REGIONS];

	for (i = 0; i < EVERING_REGIONS; i++) {
		fd[i] = memfd_create("icount", MFD_CLOEXEC);
		if (fd[i] < 0 || ftruncate(fd[i], (off_t)region_size[i]))
			die("memfd_create");
		if (allocate && fallocate(fd[i], 0, 0, (off_t)region_size[i]))
			die("fallocate");
		p[i] = mmap(NULL, region_size[i], PROT_READ | PROT_WRITE,
			    MAP_SHARED | populate, fd[i], 0);
		if (p[i] == MAP_FAILED)
			die("mmap");
	}
	for (i = 0; i < 2; i++) {
		bell[i] = eventfd(0, EFD_CLOEXEC);
		if (bell[i] < 0)
			die("eventfd");
	}
	for (i = 0; i < EVERING_REGIONS; i++) {
		munmap(p[i], region_size[i]);
		close(fd[i]);
	}
	close(bell[0]);
	close(bell[1]);
}

static void lifetime(const char *name, void (*channel)(void), int whole,
		     int flags)
{
	uint64_t sample[BATCHES], start;
	int batch, i;

	if (channel == device_channel && device < 0) {
		printf("%-44s %10s\n", name, "no device");
		return;
	}
	allocate = whole;
	populate = flags;
	for (i = 0; i < SETUPS; i++)
		channel();
	for (batch = 0; batch < BATCHES; batch++) {
		start = __rdtsc();
		for (i = 0; i < SETUPS; i++)
			channel();
		sample[batch] = (__rdtsc() - start) / SETUPS;
	}
	print(name, median(sample));
}

int main(void)
{
	cpu_set_t cpu;
	size_t i;

	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		die("sched_setaffinity");

	printf("%-44s %10s\n", "round trip, two processes, one CPU", "instr.");
	for (i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		round_trip(&ways[i]);
	printf("\n%-44s %10s\n", "channel with two arenas of 1 MiB", "instr.");
	lifetime("evering CREATE, mmap x5, close", device_channel, 0, 0);
	lifetime("memfd_create x5, mmap x5, eventfd x2, close", memfd_channel,
		 0, 0);
	lifetime("the same, and fallocate x5", memfd_channel, 1, 0);
	lifetime("evering, all pages mapped", device_channel, 0, MAP_POPULATE);
	lifetime("memfd, all pages mapped", memfd_channel, 0, MAP_POPULATE);
	return 0;
}
