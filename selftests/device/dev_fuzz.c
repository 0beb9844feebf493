// SPDX-License-Identifier: MIT
/*
 * dev_fuzz.c: random calls on /dev/evering by several processes at once.
 *
 * A program is a list of calls, each of a worker: an operation and a few bytes, of
 * which dev_fuzz.h makes its arguments.  Workers start a program with nothing but
 * the device, run their calls side by side or by turns, and let go of everything.
 * Some are killed meanwhile.
 *
 * What may not happen: a load from what mmap() granted faults; a mapping is granted,
 * changed or split that must not be; a call blocks; an errno comes that evering.h
 * does not know; a descriptor is lost; a channel, its quota or its memory outlives
 * all who hold it.  The kernel log is tools/check/vm's to watch; an oops names the program
 * as its Comm.
 *
 * Where the kernel tells by KCOV which code of the module a program went through,
 * programs that reach new code are kept, to be changed and spliced.
 *
 * A program that broke a rule is made shorter, as long as it still does, and
 * printed: EVERING_PROGRAM=hex runs it alone, until it fails.  EVERING_SEED=n makes
 * the programs of a run again; not where KCOV leads, since the order in which they
 * reach code has a part in it: there each is in the kernel log before it runs.
 * EVERING_CALLS=n is how many system calls to make, EVERING_SECONDS=n for how long,
 * instead of 10 seconds, or 30 where KCOV leads.
 */
#include "dev_fuzz.h"

#include <grp.h>
#include <linux/futex.h>
#include <sys/stat.h>

#define CALLS 250 /* of a program; more of them have less to wait for */
#define CORPUS 256
#define AUDIT 64 /* programs, until it is seen whether they left anything */
#define USER 61003 /* whom workers are if root starts them */
#define CHANNELS 24 /* that this user may have */
#define CONTROL_FD 60 /* of a worker: the director; */
#define KCOV_FD 61
#define COVER_WORDS (1ul << 16)
#define TEXT (1ul << 18) /* more than the module has */
#define MODULE "/sys/module/evering/"
#define CGROUP "/sys/fs/cgroup/evering-fuzz"

#define KCOV "/sys/kernel/debug/kcov"

/* Of linux/kcov.h */
#define KCOV_INIT_TRACE _IOR('c', 1, unsigned long)
#define KCOV_ENABLE _IO('c', 100)

struct program {
	uint8_t calls;
	uint8_t turns; /* one call at a time, in order; nobody is killed then */
	uint8_t victim; /* one more than who is, */
	uint8_t at; /* and when: at this call */
	struct call call[CALLS];
};

/* Between the director and the workers. */
static struct shared {
	struct verdict verdict;
	struct program program;
	uint32_t number;
	uint32_t turn; /* whose call is next */
	pid_t pid[WORKERS];
	uint64_t count[WORKERS][ARRAY_SIZE(ops)][2]; /* failed, succeeded */
	uint32_t fresh; /* the program reached new code */
	uint32_t nr_pcs;
	uint8_t pcs[TEXT], edges[TEXT];
} * shared;

/* ------------------------------------------------------------------ a worker */

static uint64_t *cover;
static unsigned long text;

static void let_go(void)
{
	uint64_t rng = shared->number;

	for (int i = 0; i < MAPS; i++) {
		struct map *m = &me.map[i];
		size_t at = random_below(&rng, CALLS) * PAGE;
		int sig = 0;

		if (!m->p)
			continue;
		if (m->prot & PROT_READ)
			sig = try_access(m->p + at % m->len, NULL);
		MUST(!sig);
		forget(m);
	}
	if (me.has_uring)
		uring_close(&me.uring);
	me.has_uring = false;
	while (receive())
		;
	for (int i = 0; i < SLOTS; i++)
		me.slot[i].fd = -1;
	syscall(SYS_close_range, FIRST_FD, ~0u, 0);
	me.slot[0] =
		(struct slot){ .fd = me.dev, .kind = DEVICE, .sure = true };
	/* A descriptor that was reserved and forgotten cannot be closed. */
	MUST(next_fd() == FIRST_FD);
}

/* Notes what code the program reached. */
static void look_at_cover(void)
{
	uint64_t n = __atomic_load_n(&cover[0], __ATOMIC_RELAXED), prev = 0;

	for (uint64_t i = 1; i <= n && i < COVER_WORDS; i++) {
		uint64_t pc = cover[i] - text;

		if (pc >= TEXT)
			continue;
		if (!shared->pcs[pc]) {
			shared->pcs[pc] = 1;
			__atomic_add_fetch(&shared->nr_pcs, 1,
					   __ATOMIC_RELAXED);
			shared->fresh = 1;
		}
		prev = (prev * 31 + pc) % TEXT;
		if (!shared->edges[prev]) {
			shared->edges[prev] = 1;
			shared->fresh = 1;
		}
		prev = pc;
	}
}

/* Waits until the calls before the nth are done, or will never be. */
static void await_turn(uint32_t n)
{
	const struct timespec soon = { 0, 2 * MSEC };
	uint32_t turn;

	while ((turn = __atomic_load_n(&shared->turn, __ATOMIC_ACQUIRE)) < n &&
	       !__atomic_load_n(&verdict->failed, __ATOMIC_RELAXED))
		syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn, &soon, NULL,
			0);
}

static void end_turn(const struct program *p, uint32_t n)
{
	__atomic_store_n(&shared->turn, n + 1, __ATOMIC_RELEASE);
	if (n + 1 < p->calls && p->call[n + 1].who != me.id)
		syscall(SYS_futex, &shared->turn, FUTEX_WAKE, WORKERS, NULL,
			NULL, 0);
}

static void run_program(const struct program *p)
{
	char name[16];

	snprintf(name, sizeof(name), "fuzz-%u", shared->number);
	prctl(PR_SET_NAME, name);
	if (cover)
		__atomic_store_n(&cover[0], 0, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < p->calls; i++) {
		const struct call *c = &p->call[i];
		long ret;

		if (i == p->at && p->victim && me.id == p->victim % WORKERS)
			kill(shared->pid[p->victim - 1], SIGKILL);
		if (c->who != me.id)
			continue;
		if (p->turns)
			await_turn(i);
		ret = make_call(c);
		shared->count[me.id][c->op][ret >= 0] += ret != -ENOENT;
		if (p->turns)
			end_turn(p, i);
	}
	let_go();
	if (cover)
		look_at_cover();
}

static void open_kcov(void)
{
	FILE *f = fopen(MODULE "sections/.text", "re");
	int fd = open(KCOV, O_RDWR | O_CLOEXEC);

	if (fd >= 0 && f && fscanf(f, "%lx", &text) == 1 &&
	    dup2(fd, KCOV_FD) == KCOV_FD &&
	    !ioctl(KCOV_FD, KCOV_INIT_TRACE, COVER_WORDS)) {
		cover = mmap(NULL, COVER_WORDS * 8, PROT_READ | PROT_WRITE,
			     MAP_SHARED, KCOV_FD, 0);
		if (cover == MAP_FAILED || ioctl(KCOV_FD, KCOV_ENABLE, 0))
			cover = NULL;
	}
	if (f)
		fclose(f);
	close(fd);
}

static void on_alarm(int sig)
{
}

static int work(void *arg)
{
	struct sigaction segv = { .sa_handler = on_fault,
				  .sa_flags = SA_NODEFER };
	struct sigaction alarm = { .sa_handler = on_alarm };
	int fd;
	char c;

	dup2(*(int *)arg, CONTROL_FD);
	dup2(open("/dev/zero", O_RDWR | O_CLOEXEC), 0);
	open_kcov();
	syscall(SYS_close_range, FIRST_FD, ~0u, 0);
	if (!geteuid())
		write_text(CGROUP "/cgroup.procs", "0");
	if (!geteuid() && (setgroups(0, NULL) || setresgid(USER, USER, USER) ||
			   setresuid(USER, USER, USER)))
		return 95;
	/* A change of user forgets both. */
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &segv, NULL);
	sigaction(SIGALRM, &alarm, NULL);
	signal(SIGIO, SIG_IGN);
	fd = memfd_create("arguments", MFD_CLOEXEC);
	if (ftruncate(fd, PAGE))
		return 94;
	me.page = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	me.page_ro = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (mmap(me.page, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 fd, 0) == MAP_FAILED)
		return 93;
	let_go();
	tick_in(TICK);
	for (;;) {
		ssize_t n = read(CONTROL_FD, &c, 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != 1)
			return 0;
		run_program(&shared->program);
		tell(CONTROL_FD);
	}
}

/* --------------------------------------------------------------- the director */

static int control[WORKERS] = { -1, -1, -1 };
static int64_t patience; /* with a program, and with what it leaves */

static bool hire(int id)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return false;
	me.id = id;
	control[id] = sv[0];
	shared->pid[id] = spawn(work, &sv[1]);
	close(sv[1]);
	return shared->pid[id] > 0;
}

/* A worker is gone: by SIGKILL, or something is wrong. */
static void dismiss(int id)
{
	int status = reap(shared->pid[id]);

	close(control[id]);
	control[id] = -1;
	if (status != 128 + SIGKILL)
		fail("worker %d ended with %d", id, status);
}

static void hangs(int id)
{
	char path[64], where[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/wchan", shared->pid[id]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (read(fd, where, sizeof(where) - 1) < 0)
		where[0] = '?';
	close(fd);
	fail("worker %d hangs in %s, state %c", id, where,
	     task_state(shared->pid[id]));
	kill(shared->pid[id], SIGKILL);
}

/* Has the crew run a program, to its end; true if no rule was broken. */
static bool conduct(const struct program *p)
{
	struct pollfd polls[WORKERS];
	int64_t end = now_ns() + patience;
	int i, left = WORKERS;
	struct slot lost;

	shared->program = *p;
	shared->turn = shared->fresh = 0;
	shared->verdict.failed = 0;
	for (i = 0; i < WORKERS; i++) {
		if (control[i] < 0 && !hire(i)) {
			fail("fork: %s", strerror(errno));
			return false;
		}
		polls[i] = (struct pollfd){ control[i], POLLIN, 0 };
	}
	/* Who is killed at once may be dead by now. */
	for (i = 0; i < WORKERS; i++)
		send(control[i], "x", 1, MSG_NOSIGNAL);
	while (left) {
		poll(polls, WORKERS, 1000);
		for (i = 0; i < WORKERS; i++) {
			char c;

			if (polls[i].fd >= 0 && polls[i].revents) {
				if (read(polls[i].fd, &c, 1) != 1)
					dismiss(i);
				polls[i].fd = -1;
				left--;
			} else if (polls[i].fd >= 0 && now_ns() > end) {
				hangs(i);
			}
		}
	}
	/* The victim may have been done already. */
	if (p->victim && control[p->victim - 1] >= 0) {
		kill(shared->pid[p->victim - 1], SIGKILL);
		dismiss(p->victim - 1);
	}
	for (i = 0; i < WORKERS; i++)
		while (recv(me.inbox[i][0], &lost, sizeof(lost), 0) > 0)
			;
	return !shared->verdict.failed;
}

/* --------------------------------------------------------- what may be left over */

static const char *const limits[] = {
	MODULE "parameters/max_user_channels",
	MODULE "parameters/max_user_mib",
	MODULE "parameters/max_total_mib",
};

static void set_limits(long channels, long mib, long total_mib)
{
	write_number(limits[0], channels);
	write_number(limits[1], mib);
	write_number(limits[2], total_mib);
}

static long total_mib; /* as it was */
static long references; /* to the module, without workers */
static bool alone; /* nobody else has channels */
static long lost; /* channels that the user will not get back */

/*
 * Whether the user could have one channel, of all the memory that there may be, and
 * no second one.  Where some were lost, one more than those.
 */
static bool quota_is_back(void)
{
	struct evering_geometry g = least_geometry;
	int fd[4] = { -1, -1, -1, -1 };
	bool ok;

	if (geteuid() || !alone)
		return true;
	g.arena_size[0] = (1 << 20) - PAGE - 2 * half_size(&g);
	if (lost)
		set_limits(lost + 1, 64, total_mib);
	else
		set_limits(1, 1, 1);
	ok = !setreuid(USER, (uid_t)-1) && !dev_pair(me.dev, &g, fd) &&
	     dev_pair(me.dev, &least_geometry, fd + 2) == -EDQUOT;
	for (int i = 0; i < 4; i++)
		close(fd[i]);
	if (setreuid(0, (uid_t)-1))
		ok = false;
	set_limits(CHANNELS + lost, 64, total_mib);
	return ok;
}

/* Of what workers were charged for; -1 if no cgroup tells. */
static long memory_left(void)
{
	return read_number(CGROUP "/memory.current");
}

static bool nothing_left(void)
{
	int64_t end = now_ns() + patience / 4;
	int sv[2];

	/* Closing one collects what is in sockets that nobody has. */
	if (!socketpair(AF_UNIX, SOCK_DGRAM, 0, sv)) {
		close(sv[0]);
		close(sv[1]);
	}
	for (;;) {
		long now = read_number(MODULE "refcnt");
		bool back = quota_is_back();

		if (now <= references && back)
			return true;
		if (now_ns() > end) {
			fail("left over: %ld references to the module%s",
			     now - references, back ? "" : ", quota");
			return false;
		}
		sleep_ns(MSEC);
	}
}

/* What was found to be left is no news any more. */
static void put_up_with_it(void)
{
	references = read_number(MODULE "refcnt");
	while (lost < 16 * CHANNELS && !quota_is_back())
		lost++;
}

/* ------------------------------------------------------------------- programs */

static uint8_t wheel[1024];
static size_t wheel_size;

static void random_call(struct call *c, uint64_t *rng)
{
	uint64_t r = random_u64(rng);

	c->op = wheel[r % wheel_size];
	c->who = (r >> 16) % WORKERS;
	for (int i = 0; i < ARGS; i++)
		c->arg[i] = r >> (24 + i) & 1 ? (uint8_t)random_u64(rng) : 0;
}

/* Puts @n calls where @p has @less of them, or as many as fit. */
static void splice_calls(struct program *p, unsigned int at, unsigned int less,
			 const struct call *c, unsigned int n)
{
	unsigned int rest = p->calls - at - less;

	if (at + n + rest > CALLS)
		return;
	memmove(&p->call[at + n], &p->call[at + less], rest * sizeof(*c));
	memcpy(&p->call[at], c, n * sizeof(*c));
	p->calls = (uint8_t)(at + n + rest);
}

static void mutate(struct program *p, const struct program *other,
		   uint64_t *rng)
{
	unsigned int at = (unsigned int)random_below(rng, p->calls);
	struct call new;

	random_call(&new, rng);
	switch (random_below(rng, 7)) {
	case 0: /* another in between, or in its place */
	case 1:
		splice_calls(p, at, random_below(rng, 2), &new, 1);
		break;
	case 2:
		if (p->calls > 1)
			splice_calls(p, at, 1, &new, 0);
		break;
	case 3: /* one's beginning, the other's end */
		if (other->calls > at)
			splice_calls(p, at, p->calls - at, &other->call[at],
				     other->calls - at);
		break;
	case 4:
		p->call[at].who = new.who;
		break;
	default:
		p->call[at].arg[random_below(rng, ARGS)] =
			(uint8_t)random_u64(rng);
	}
}

/* The program of that number, by the seed and what is in the corpus. */
static void make_program(struct program *p, uint64_t seed, uint32_t number,
			 const struct program *corpus, size_t nr)
{
	uint64_t rng = seed + number * 0x2545f4914f6cdd1dull;
	/* Where it is seen what each reaches, more of them are better. */
	unsigned int i, most = nr ? CALLS / 2 : CALLS;

	memset(p, 0, sizeof(*p));
	if (nr && random_below(&rng, 3)) {
		*p = corpus[random_below(&rng, nr)];
		for (i = 0; i <= random_below(&rng, 4); i++)
			mutate(p, &corpus[random_below(&rng, nr)], &rng);
	} else {
		p->calls = (uint8_t)(most / 2 + random_below(&rng, most / 2));
		for (i = 0; i < p->calls; i++)
			random_call(&p->call[i], &rng);
		p->call[0].op = 0; /* create */
	}
	i = (unsigned int)random_below(&rng, 16 * WORKERS);
	p->turns = i == 0;
	p->victim = i > 0 && i <= WORKERS ? (uint8_t)i : 0;
	p->at = (uint8_t)random_below(&rng, p->calls);
}

static size_t program_size(const struct program *p)
{
	return offsetof(struct program, call) + p->calls * sizeof(p->call[0]);
}

static bool parse_program(struct program *p, const char *hex)
{
	uint8_t *bytes = (uint8_t *)p;
	unsigned int byte;
	size_t n = 0;

	while (n < sizeof(*p) && sscanf(hex + 2 * n, "%2x", &byte) == 1)
		bytes[n++] = (uint8_t)byte;
	if (n < sizeof(p->call[0]) || p->calls > CALLS || n != program_size(p))
		return false;
	for (n = 0; n < p->calls; n++)
		if (p->call[n].op >= ARRAY_SIZE(ops) ||
		    p->call[n].who >= WORKERS)
			return false;
	return p->victim <= WORKERS;
}

static const char *program_hex(const struct program *p)
{
	static char hex[2 * sizeof(*p) + 1];

	for (size_t i = 0; i < program_size(p); i++)
		snprintf(hex + 2 * i, 3, "%02x", ((const uint8_t *)p)[i]);
	return hex;
}

/* Where an oops is looked for, since the seed alone does not make it again. */
static void log_program(uint32_t number, const struct program *p)
{
	const char *hex = program_hex(p);
	char line[960];

	for (; *hex; hex += strnlen(hex, 900)) {
		snprintf(line, sizeof(line), "<6>vm: fuzz-%u %.900s", number,
			 hex);
		write_text("/dev/kmsg", line);
	}
}

/* ------------------------------------------------------------ what went wrong */

/* Whether @p, alone, breaks a rule; it has some tries, since workers race. */
static bool breaks(const struct program *p, int tries)
{
	while (tries--) {
		if (!conduct(p) || !nothing_left()) {
			put_up_with_it();
			return true;
		}
	}
	return false;
}

/* Which of the last programs it was that left something. */
static struct program *culprit(struct program *past, uint32_t n)
{
	while (n--)
		if (breaks(&past[n], 1))
			return &past[n];
	return NULL;
}

static void print_program(const struct program *p)
{
	for (size_t i = 0; i < p->calls; i++) {
		const struct call *c = &p->call[i];

		printf("#   %u %s %02x %02x %02x %02x %02x %02x\n", c->who,
		       ops[c->op].name, c->arg[0], c->arg[1], c->arg[2],
		       c->arg[3], c->arg[4], c->arg[5]);
	}
	printf("# EVERING_PROGRAM=%s\n", program_hex(p));
	fflush(stdout);
}

/*
 * Leaves out of @p what it does not need to break a rule, and prints it.  What takes
 * a race is tried three times as often as it took to see it once.
 */
static void shorten(struct program *p, int64_t until)
{
	struct program less = *p;
	int tries = 1;

	less.turns = 1;
	less.victim = 0;
	if (breaks(&less, 4))
		*p = less;
	else
		while (tries < 32 && !breaks(p, tries))
			tries *= 2;
	for (unsigned int n = p->calls / 2; n && tries < 32; n /= 2) {
		unsigned int at = 0;

		while (at + n <= p->calls && n < p->calls && now_ns() < until) {
			less = *p;
			splice_calls(&less, at, n, less.call, 0);
			if (breaks(&less, p->turns ? 1 : 3 * tries))
				*p = less;
			else
				at += n;
		}
	}
	if (tries == 32)
		printf("# it does not do so again\n");
	print_program(p);
}

/* Counts calls that failed, and that did not; returns how many there were in all. */
static uint64_t count_calls(bool print)
{
	uint64_t all = 0;

	for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
		uint64_t n[2] = { 0, 0 };

		for (int i = 0; i < 2 * WORKERS; i++)
			n[i % 2] += shared->count[i / 2][op][i % 2];
		if (print)
			printf(" %s %llu/%llu", ops[op].name,
			       (unsigned long long)n[1],
			       (unsigned long long)n[0]);
		if (!(ops[op].needs & ACCESS))
			all += n[0] + n[1];
	}
	return all;
}

/* What is common to all programs; 0, or a negative errno. */
static int prepare(int dev, long was_mib)
{
	int fd;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	verdict = &shared->verdict;
	patience = PLENTY;
	references = read_number(MODULE "refcnt");
	alone = references == 1;
	total_mib = was_mib;
	if (!geteuid())
		set_limits(CHANNELS, 64, total_mib);
	me.dev = dev;
	for (int i = 0; i < WORKERS; i++)
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0,
			       me.inbox[i]))
			return -errno;
	/* Only what programs open gets a higher number. */
	do
		fd = dup(0);
	while (fd >= 0 && fd < FIRST_FD);
	close(fd);
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		for (unsigned int n = 0; n < ops[i].weight; n++)
			wheel[wheel_size++] = (uint8_t)i;
	return 0;
}

FIXTURE(fuzz)
{
	int dev;
	long was[ARRAY_SIZE(limits)];
};

FIXTURE_SETUP(fuzz)
{
	REQUIRE_DEVICE(self->dev);
	drop_resource();
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		self->was[i] = read_number(limits[i]);
	if (!geteuid())
		mkdir(CGROUP, 0755);
}

FIXTURE_TEARDOWN_PARENT(fuzz)
{
	if (geteuid() || self->was[0] <= 0)
		return;
	set_limits(self->was[0], self->was[1], self->was[2]);
	rmdir(CGROUP);
}

TEST_F_TIMEOUT(fuzz, whatever_is_called_no_rule_is_broken, 36000)
{
	static struct program corpus[CORPUS], past[AUDIT];
	const char *hex = getenv("EVERING_PROGRAM");
	const char *calls = getenv("EVERING_CALLS");
	const char *seconds = getenv("EVERING_SECONDS");
	uint64_t wanted = calls ? strtoull(calls, NULL, 0) : UINT64_MAX;
	uint64_t seed = random_seed(), rng = seed;
	int64_t began = now_ns(), said = began;
	int64_t end = began + (access(KCOV, F_OK) ? 10 : 30) * SEC;
	uint32_t number = 0, audit = hex ? 1 : AUDIT;
	struct program *p = NULL;
	bool ok = true, seen = true;
	size_t kept = 0;

	if (seconds)
		end = began + atol(seconds) * SEC;
	else if (calls)
		end = INT64_MAX;
	ASSERT_EQ(0, prepare(self->dev, self->was[2]));
	if (hex)
		ASSERT_TRUE(parse_program(past, hex));
	while (ok && now_ns() < end && count_calls(false) < wanted) {
		p = &past[number++ % audit];
		if (!hex)
			make_program(p, seed, number, corpus, kept);
		if (kept && !geteuid())
			log_program(number, p);
		shared->number = number;
		ok = conduct(p);
		if (shared->fresh)
			corpus[kept < CORPUS ? kept++ :
					       random_below(&rng, CORPUS)] = *p;
		if (ok && !(number % audit))
			ok = seen = nothing_left();
		if (now_ns() > said + 10 * SEC) {
			said = now_ns();
			printf("# program %u, %llu calls\n", number,
			       (unsigned long long)count_calls(false));
			fflush(stdout);
		}
	}
	if (ok)
		ok = seen = nothing_left();
	printf("# %llu system calls in %u programs, %.1f s",
	       (unsigned long long)count_calls(false), number,
	       (double)(now_ns() - began) / SEC);
	if (shared->nr_pcs)
		printf(", %u places reached, %zu programs kept", shared->nr_pcs,
		       kept);
	printf("; ok/failed:");
	count_calls(true);
	printf("\n");
	if (!ok) {
		char why[sizeof(verdict->why)];

		strcpy(why, verdict->why);
		printf("# program %u of EVERING_SEED=%#llx: %s\n", number,
		       (unsigned long long)seed, why);
		fflush(stdout);
		patience /= 10;
		put_up_with_it();
		if (!seen)
			p = culprit(past, number < audit ? number : audit);
		if (p)
			shorten(p, now_ns() + 12 * patience);
		else
			printf("# none of the last %u does so alone\n", audit);
		EXPECT_STREQ("", why);
	}
	for (int i = 0; i < WORKERS; i++) {
		close(control[i]);
		if (control[i] >= 0)
			EXPECT_EQ(0, reap(shared->pid[i]));
	}
	EXPECT_TRUE(EVENTUALLY(memory_left() < 2 << 20))
	TH_LOG("%ld bytes", memory_left());
}

TEST_HARNESS_MAIN
