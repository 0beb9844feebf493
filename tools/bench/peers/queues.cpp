// SPDX-License-Identifier: MIT
/*
 * Arms of evering bench: queues between two threads of one process, which spin:
 * ck_ring, DPDK's rte_ring, boost::lockfree::spsc_queue and moodycamel's
 * ReaderWriterQueue, those of them whose headers are there.  ../peer.c describes the
 * protocol.
 *
 * An element is as large as the size says, aligned as its user would have it, and
 * holds the same words as evering's messages; each is pushed and popped alone, and
 * the consumer may see it at once.  All have room for RING_ENTRIES elements, and
 * neither side makes a system call.
 */
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<ck_ring.h>)
#define HAVE_CK 1
/* It returns false for a null pointer, which is C. */
#include <ck_stdbool.h>
#define false 0
extern "C" {
#include <ck_ring.h>
}
#undef false
#endif
#if __has_include(<rte_ring.h>)
#define HAVE_RTE 1
#include <rte_ring.h>
#endif
#if __has_include(<boost/lockfree/spsc_queue.hpp>)
#define HAVE_BOOST 1
#include <boost/lockfree/spsc_queue.hpp>
#endif
#if __has_include(<readerwriterqueue/readerwriterqueue.h>)
#define HAVE_MOODYCAMEL 1
#include <readerwriterqueue/readerwriterqueue.h>
#endif

#include "../../evering/hist.h"

namespace
{

constexpr unsigned int RING_ENTRIES = 256;
/* As in ../bench.h */
constexpr unsigned int BUSY = 1u << 2;

struct job {
	char arm[32];
	char mode[32];
	bool stream;
	unsigned int policy, depth;
	unsigned long long size, ops, warm, probes, seed;
	int cpu[2];
};

template <unsigned int SIZE>
struct alignas(SIZE < 64 ? SIZE : 64) element {
	uint32_t word[SIZE / 4];
};

/* Queues ------------------------------------------------------------------ */

#ifdef HAVE_CK
/* Elements in the ring, as CK_RING_PROTOTYPE makes it. */
template <class E> class ck_queue {
	ck_ring_t ring;
	/* One slot always stays free. */
	std::unique_ptr<E[]> slots{ new E[2 * RING_ENTRIES] };

    public:
	static constexpr const char *name = "ck_ring";

	ck_queue()
	{
		ck_ring_init(&ring, 2 * RING_ENTRIES);
	}
	bool push(const E &e)
	{
		return _ck_ring_enqueue_sp(&ring, slots.get(), &e, sizeof(E),
					   nullptr);
	}
	bool pop(E &e)
	{
		return _ck_ring_dequeue_sc(&ring, slots.get(), &e, sizeof(E));
	}
};
#endif

#ifdef HAVE_RTE
template <class E> class rte_queue {
	struct memory {
		struct rte_ring ring;
		E slots[RING_ENTRIES];
	};
	struct memory *m;

    public:
	static constexpr const char *name = "rte_ring";

	/* As rte_ring_init() has it, which wants DPDK's environment linked in. */
	rte_queue()
	{
		m = static_cast<struct memory *>(
			std::aligned_alloc(128, sizeof(struct memory) / 128 *
							128 +
							128));
		if (!m)
			abort();
		memset(static_cast<void *>(m), 0, sizeof(*m));
		m->ring.size = RING_ENTRIES;
		m->ring.mask = RING_ENTRIES - 1;
		m->ring.capacity = RING_ENTRIES - 1;
		m->ring.prod.sync_type = RTE_RING_SYNC_ST;
		m->ring.cons.sync_type = RTE_RING_SYNC_ST;
	}
	~rte_queue()
	{
		free(m);
	}
	rte_queue(const rte_queue &) = delete;
	rte_queue &operator=(const rte_queue &) = delete;
	bool push(const E &e)
	{
		return !rte_ring_sp_enqueue_elem(&m->ring, const_cast<E *>(&e),
						 sizeof(E));
	}
	bool pop(E &e)
	{
		return !rte_ring_sc_dequeue_elem(&m->ring, &e, sizeof(E));
	}
};
#endif

#ifdef HAVE_BOOST
template <class E> class boost_queue {
	boost::lockfree::spsc_queue<E, boost::lockfree::capacity<RING_ENTRIES>>
		queue;

    public:
	static constexpr const char *name = "boost-spsc";

	bool push(const E &e)
	{
		return queue.push(e);
	}
	bool pop(E &e)
	{
		return queue.pop(e);
	}
};
#endif

#ifdef HAVE_MOODYCAMEL
template <class E> class moodycamel_queue {
	moodycamel::ReaderWriterQueue<E> queue{ RING_ENTRIES };

    public:
	static constexpr const char *name = "moodycamel";

	bool push(const E &e)
	{
		return queue.try_enqueue(e);
	}
	bool pop(E &e)
	{
		return queue.try_dequeue(e);
	}
};
#endif

/* A run ------------------------------------------------------------------- */

int64_t now_ns()
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

int64_t cpu_ns()
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return (int64_t(used.ru_utime.tv_sec) + used.ru_stime.tv_sec) *
		       1000000000 +
	       (int64_t(used.ru_utime.tv_usec) + used.ru_stime.tv_usec) * 1000;
}

inline void relax()
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

template <class Q, class E> class run {
	const struct job &job;
	Q there, back;
	std::atomic<unsigned int> met{ 0 };
	uint32_t number[2] = { 0, 0 };
	uint64_t wrong[2] = { 0, 0 };
	/* All of an element but what is the stamp in evering's slot. */
	static constexpr size_t WORDS = sizeof(E) / 4 - 1;

	void meet()
	{
		unsigned int all = met.fetch_add(1) | 1;

		while (met.load() <= all)
			relax();
	}
	void send(Q &queue, uint32_t n)
	{
		E e;

		for (size_t i = 0; i < WORDS; i++)
			e.word[i] = n;
		while (!queue.push(e))
			relax();
	}
	void receive(Q &queue, uint32_t n, uint64_t &bad)
	{
		uint32_t different = 0;
		E e;

		while (!queue.pop(e))
			relax();
		for (size_t i = 0; i < WORDS; i++)
			different |= e.word[i] ^ n;
		bad += different != 0;
	}
	void work(bool server, uint64_t ops, bool probe)
	{
		uint32_t n = number[server];
		int64_t at = probe ? now_ns() : 0, then;

		for (; ops; ops--) {
			n++;
			if (!server)
				send(there, n);
			if (server)
				receive(there, n, wrong[1]);
			if (job.stream)
				continue;
			if (server)
				send(back, n);
			else
				receive(back, n, wrong[0]);
			if (probe) {
				then = now_ns();
				hist_add(hist.get(), uint64_t(then - at));
				at = then;
			}
		}
		number[server] = n;
	}
	void side(bool server)
	{
		pin(job.cpu[server]);
		work(server, job.warm, false);
		wrong[server] = 0;
		meet();
		if (!server) {
			cpu = -cpu_ns();
			begin = now_ns();
		}
		work(server, job.ops, false);
		if (server == job.stream)
			end = now_ns();
		meet();
		if (!server)
			cpu += cpu_ns();
		meet();
		work(server, job.probes, !server);
	}

    public:
	std::unique_ptr<struct hist> hist{ new struct hist() };
	int64_t begin = 0, end = 0, cpu = 0;

	explicit run(const struct job &j) : job(j)
	{
		std::thread server([this] { side(true); });
		std::thread client([this] { side(false); });

		client.join();
		server.join();
	}
	unsigned long long right(bool server) const
	{
		return job.ops - wrong[server];
	}
};

/* The protocol ------------------------------------------------------------ */

FILE *control;

template <class Q, class E> void run_queue(const struct job &job)
{
	auto r = std::make_unique<run<Q, E>>(job);

	fprintf(control, "done %lld %lld %llu %llu 0 %llu",
		static_cast<long long>(r->end - r->begin),
		static_cast<long long>(r->cpu), r->right(false),
		r->right(true), static_cast<unsigned long long>(r->hist->max));
	for (unsigned int i = 0; i < HIST_BUCKETS; i++)
		if (r->hist->bucket[i])
			fprintf(control, " %u:%llu", i,
				static_cast<unsigned long long>(
					r->hist->bucket[i]));
	fputc('\n', control);
}

/* False: this is not the queue, or no size of its elements. */
template <template <class> class Q> bool run_if(const struct job &job)
{
	if (strcmp(job.arm, Q<element<16>>::name))
		return false;
	switch (job.size) {
	case 16:
		run_queue<Q<element<16>>, element<16>>(job);
		return true;
	case 32:
		run_queue<Q<element<32>>, element<32>>(job);
		return true;
	case 64:
		run_queue<Q<element<64>>, element<64>>(job);
		return true;
	case 128:
		run_queue<Q<element<128>>, element<128>>(job);
		return true;
	case 256:
		run_queue<Q<element<256>>, element<256>>(job);
		return true;
	default:
		fprintf(control,
			"error its elements have 16, 32, 64, 128 or 256 bytes\n");
		return true;
	}
}

void run_job(const struct job &job)
{
#ifdef HAVE_CK
	if (run_if<ck_queue>(job))
		return;
#endif
#ifdef HAVE_RTE
	if (run_if<rte_queue>(job))
		return;
#endif
#ifdef HAVE_BOOST
	if (run_if<boost_queue>(job))
		return;
#endif
#ifdef HAVE_MOODYCAMEL
	if (run_if<moodycamel_queue>(job))
		return;
#endif
	fprintf(control, "error no such arm\n");
}

void introduce(const char *name, bool have, const char *package)
{
	if (have)
		fprintf(control, "arm %s 256 0 0 %u %u 0 0\n", name, BUSY, BUSY);
	else
		fprintf(control, "absent %s not built: needs %s\n", name,
			package);
}

#ifndef HAVE_CK
#define HAVE_CK 0
#endif
#ifndef HAVE_RTE
#define HAVE_RTE 0
#endif
#ifndef HAVE_BOOST
#define HAVE_BOOST 0
#endif
#ifndef HAVE_MOODYCAMEL
#define HAVE_MOODYCAMEL 0
#endif

} // namespace

int main(int argc, char **argv)
{
	struct job job;
	char line[512];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	FILE *orders = argc == 2 ? fdopen(atoi(argv[1]), "r") : nullptr;
	control = orders ? fdopen(dup(atoi(argv[1])), "w") : nullptr;
	if (!control) {
		fprintf(stderr, "queues: for evering bench to start\n");
		return 2;
	}
	introduce("ck_ring", HAVE_CK, "libck-dev");
	introduce("rte_ring", HAVE_RTE, "libdpdk-dev");
	introduce("boost-spsc", HAVE_BOOST, "libboost-dev");
	introduce("moodycamel", HAVE_MOODYCAMEL, "libreaderwriterqueue-dev");
	fprintf(control, "ready\n");
	fflush(control);
	while (fgets(line, sizeof(line), orders)) {
		if (sscanf(line,
			   "run %31s %31s %llu %u %u %llu %llu %llu %llu %d %d",
			   job.arm, job.mode, &job.size, &job.policy,
			   &job.depth, &job.ops, &job.warm, &job.probes,
			   &job.seed, &job.cpu[0], &job.cpu[1]) != 11) {
			fprintf(control, "error not understood\n");
		} else {
			job.stream = !strcmp(job.mode, "stream");
			run_job(job);
		}
		fflush(control);
	}
	return 0;
}
