// SPDX-License-Identifier: MIT
/*
 * group.c: one thread waits for many members.
 *
 * A group learns of events in two ways.  One is an epoll set.  It contains what the
 * backends of endpoints add (struct backend, @watch), edge-triggered, so that nothing
 * has to be drained; the descriptors of listeners and plain descriptors,
 * level-triggered; and an eventfd for evering_group_wake().
 *
 * The other is the module's group file.  If the module has it, endpoints of the device
 * are in the file and not in the set.  In the file's page the kernel sets a bit for
 * each member whose doorbell is rung or whose peer goes away.  So the group looks at
 * the page in each sweep, without a system call, however many members are cold.  A
 * group without other members sleeps in a single call, which first rings the doorbells
 * that are owed.  A group with other members sleeps in the set, which then also
 * contains the file, level-triggered.  That makes each doorbell a little more
 * expensive, so the file is added only when it is needed.  If the module refuses an
 * endpoint (its quota, an index that is too high, another group), the endpoint is in
 * the set.
 *
 * Hot members are in a circular list, and the group looks at them in turns.  Other
 * members are armed and in no list, and the set or the page reports them. wait.c has
 * the functions that arm, disarm and look.  A member is always hot or armed: code
 * outside that disarms it, such as a wait of the caller on that channel, makes it hot.
 * When the group sleeps, all members are armed.
 *
 * If the doorbell of a hot member is rung, the set still reports it, and the generation
 * changes (see struct role).  So only a doorbell that the set has not reported yet can
 * be one that the peer remembers as rung, and the next look at the set finds it.  On
 * the device nothing is remembered: to ring is to clear a bit in the kernel.
 */
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ops.h"

#define BOTH ((unsigned int)(EVERING_RX | EVERING_TX))
#define BATCH ((unsigned int)EVERING_GROUP_BATCH)
/*
 * More than one call returns, so that events of busy doorbells are read faster than
 * members are served.
 */
#define HEAR_AT_ONCE 128

/*
 * A member becomes cold after this many looks that found nothing, if more than a few
 * are hot; a few cost less than the doorbells of their peers.  A doorbell costs as much
 * as SOON looks.  A member whose doorbell is rung sooner after it became cold is worth
 * more looks from then on; another one is worth fewer.
 */
#define EMPTY_LOOKS 64u
#define FEW_HOT 4u
#define SOON 256u
#define MORE_LOOKS 512u
#define FEWER_LOOKS 16u
/*
 * How many entries are taken before the set is looked at, so that a member whose
 * doorbell is rung waits only for turns of others, not until they are idle.  If no
 * member is cold the set reports only deaths, and if no operation has a time limit the
 * clock is not needed.
 */
#define WORK_PER_LOOK 128u
#define WORK_WITHOUT_COLD 4096u
/*
 * Sweeps of a spin between two looks at the clock and at the set; fewer if members are
 * cold, because of the set.  The others are as in wait.c.
 */
#define SWEEPS_PER_LOOK 16u
#define SWEEPS_WITH_COLD 4u
#define LOOKS_PER_QUESTION 256u
/* Rounds that are spent on a peer that rings for nothing, again and again. */
#define POLL_ROUNDS 4u

/*
 * The event data of the eventfd and of the group file in the set.  The data of a member
 * is its index and two bits.
 */
#define DATA_WAKE UINT64_MAX
#define DATA_FILE (UINT64_MAX - 1)
#define DATA_BITS 2u

/*
 * In the page, evering_group_wake() has one index, and a member has its own index plus
 * one.
 */
#define AT_WAKE 0u
#define AT_MEMBERS 1u

/**
 * struct member - a member of a group
 * @group: its group
 * @e: the endpoint, or NULL
 * @listener: the listener, if @e is NULL; or NULL
 * @fd: the plain descriptor, if both are NULL
 * @context: the pointer for its events
 * @index: in struct evering_group.members
 * @want: what to wait for in @e
 * @heard: what the set has reported of @listener or @fd
 * @empty: looks that found nothing since there was something
 * @patience: how many of these make it cold
 * @cooled: the sweep in which that last happened; 0: it became cold in another way
 * @seen: entries of @e received when it was last returned
 * @published: the same when the position was last published after a look that found
 *	nothing
 * @place: its place, plus 1, among the events that were returned last; 0: none
 * @enrolled: the group file reports it, and not the set
 * @hot: it is in the list of hot members
 * @gone: its peer is gone
 * @last: the entry after all that the peer can have sent before it was known to be
 *	@gone
 * @told: its end was returned, or none will be returned
 * @due: an operation of it has run out of time
 * @next: the next one in the list of hot members
 * @prev: the one before it
 * @owes: it owes its peer a doorbell
 * @owing: the next member that owes a doorbell, if @owes
 */
struct member {
	struct evering_group *group;
	struct endpoint *e;
	struct evering_listener *listener;
	int fd;
	void *context;
	uint32_t index;
	unsigned int want;
	uint32_t heard;
	uint32_t empty;
	uint32_t patience;
	uint32_t cooled;
	uint32_t seen;
	uint32_t published;
	uint32_t last;
	unsigned int place;
	bool enrolled;
	bool hot;
	bool gone;
	bool told;
	bool due;
	bool owes;
	struct member *next;
	struct member *prev;
	struct member *owing;
};

/**
 * struct evering_group - a group
 * @set: the epoll set
 * @bell: the eventfd of evering_group_wake(), in the set while there is no @file
 * @file: the group file, or -1; once opened it stays.  Any thread reads this
 * @page: the page of the file, or NULL
 * @polled: some thread sleeps in @set, so it contains @file
 * @woken: evering_group_wake() was called, and no wait has consumed it
 * @owner: fork_id() of the process that made it
 * @policy: as in struct endpoint
 * @spin_ns: as in struct endpoint
 * @spin: as in struct role
 * @members: the members by index; NULL: the place is free
 * @size: how many places there are
 * @used: no place is in use from this one on
 * @summaries: how many words of the page's summary can have bits of these
 * @vacant: how many places below @used are free
 * @first_vacant: none of them is below this
 * @in_set: members of the set
 * @watched: those of them that the set may still report
 * @hot: members in the list of hot members
 * @hot_watched: how many of them are @watched
 * @turn: the member of the list whose turn it is; NULL: the list is empty
 * @collects: doorbells for flushed entries are owed, whatever the policy of the member
 * @owing: the members that owe their peers a doorbell for entries
 * @rings: how many doorbells of @list the device has to ring before this call returns
 * @stay: one of these has EVERING_NO_HANDOVER
 * @work: entries that were taken since the set was last looked at
 * @sweeps: the number of the sweep; never 0
 * @due: the earliest time at which an operation may run out of time; INT64_MAX: never
 * @ready: how many of @events this call has found
 * @kept: the next call returns these
 * @reported: the members of @events
 * @events: what this call returns
 * @list: for group_file_enter()
 */
struct evering_group {
	int set;
	int bell;
	int file;
	struct evering_group_page *page;
	bool polled;
	unsigned int woken;
	uint64_t owner;
	unsigned int policy;
	uint32_t spin_ns;
	struct spin spin;
	struct member **members;
	uint32_t size;
	uint32_t used;
	uint32_t summaries;
	uint32_t vacant;
	uint32_t first_vacant;
	uint32_t in_set;
	uint32_t watched;
	uint32_t hot;
	uint32_t hot_watched;
	struct member *turn;
	bool collects;
	struct member *owing;
	unsigned int rings;
	bool stay;
	uint32_t work;
	uint32_t sweeps;
	int64_t due;
	unsigned int ready;
	bool kept;
	struct member *reported[EVERING_GROUP_BATCH];
	struct evering_group_event events[EVERING_GROUP_BATCH];
	struct evering_group_ring list[EVERING_MAX_GROUP_RINGS];
};

static bool is_own(const struct evering_group *g)
{
	return g->owner == fork_id();
}

/* Whether some member can be known to be ready only from the set. */
static bool any_cold(const struct evering_group *g)
{
	return g->watched > g->hot_watched;
}

/* Whether only the group file reports anything.  Deaths are reported in the set too. */
static bool file_tells_all(const struct evering_group *g)
{
	return g->page && !g->in_set;
}

/* -------------------------------------------------------------- hot and cold */

/* Puts it into the list, with its turn after all others. */
FOLDED void make_hot(struct member *m)
{
	struct evering_group *g = m->group;

	if (m->hot || m->told)
		return;
	m->hot = true;
	m->empty = 0;
	g->hot++;
	g->hot_watched += !m->enrolled;
	if (!g->turn) {
		m->next = m->prev = m;
		g->turn = m;
		return;
	}
	m->next = g->turn;
	m->prev = g->turn->prev;
	m->prev->next = m;
	m->next->prev = m;
}

FOLDED void make_cold(struct member *m)
{
	struct evering_group *g = m->group;

	if (!m->hot)
		return;
	m->hot = false;
	g->hot--;
	g->hot_watched -= !m->enrolled;
	if (g->turn == m)
		g->turn = m->next == m ? NULL : m->next;
	m->next->prev = m->prev;
	m->prev->next = m->next;
}

/*
 * The doorbell of @m was rung.  If it was cold its turn is next, because it has waited
 * and busy members have not.  That happens once in many rounds, because it has to
 * become cold first.
 */
FOLDED void make_next(struct member *m)
{
	struct evering_group *g = m->group;

	if (m->hot || m->told)
		return;
	if (m->cooled)
		m->patience = g->sweeps - m->cooled < SOON ? MORE_LOOKS :
							     FEWER_LOOKS;
	make_hot(m);
	g->turn = m;
}

/* Nothing more will be returned of it. */
static void make_told(struct member *m)
{
	if (m->told)
		return;
	make_cold(m);
	m->told = true;
	m->group->watched -= !m->enrolled;
}

/* Makes it hot: a wait on its channel has disarmed it, or it has something to do. */
void group_touched(struct endpoint *e)
{
	make_hot(e->member);
}

/* Whether a flush leaves the doorbell to the group, which will ring others as well. */
bool group_collects(const struct endpoint *e)
{
	return e->member->group->collects;
}

/*
 * Notes that a send under EVERING_LAZY_RING, or group_flush(), has found the peer
 * asleep.
 */
void group_owes(struct endpoint *e)
{
	struct member *m = e->member;

	if (m->owes)
		return;
	m->owes = true;
	m->owing = m->group->owing;
	m->group->owing = m;
}

/* Notes that an operation of it may take until @deadline. */
void group_due(struct endpoint *e, int64_t deadline)
{
	const struct member *m = e->member;

	if ((m->want & EVERING_RX) && deadline < m->group->due)
		m->group->due = deadline;
}

/* ops_flush() by the group, which rings all owed doorbells together. */
void group_flush(struct endpoint *e)
{
	struct evering_group *g = e->member->group;

	g->collects = g->page && e->backend->enrol;
	ops_flush(e->ops);
	g->collects = false;
}

/* Rings one by one: the program has closed a descriptor, or the file fails. */
static void ring_each(const struct evering_group_ring *ring, unsigned int n)
{
	for (; n; n--, ring++)
		ioctl(ring->fd, EVERING_IOC_RING, ring->bells);
}

/*
 * Rings the doorbells on the list, and sleeps in the same call until @deadline, if that
 * is not 0.  Returns as group_file_enter().
 */
FOLDED int enter(struct evering_group *g, int64_t deadline)
{
	int ret;

	ret = group_file_enter(g->file, g->list, &g->rings, g->stay, deadline);
	ring_each(g->list, g->rings);
	g->rings = 0;
	g->stay = false;
	return ret;
}

/*
 * Puts a doorbell on the list, if @e is an endpoint of the device and there is a group
 * file.
 */
bool group_rings(struct endpoint *e, unsigned int what)
{
	struct evering_group *g = e->member->group;
	struct evering_bell bell;

	if (!g->page || !e->backend->enrol)
		return false;
	if (g->rings == ARRAY_SIZE(g->list))
		enter(g, 0);
	e->backend->bell(e, &bell);
	g->list[g->rings].fd = bell.fd;
	g->list[g->rings].bells = what;
	g->rings++;
	g->stay |= e->stay;
	return true;
}

/* Puts the doorbells that members owe on the list, or rings them if there is none. */
FOLDED void collect_owed(struct evering_group *g)
{
	struct evering_bell bell;
	struct member *m;

	while ((m = g->owing)) {
		g->owing = m->owing;
		m->owes = false;
		if (!g->page || !m->e->backend->enrol)
			evering_flush(&m->e->ev);
		else if (evering_flush_begin(&m->e->ev, &bell))
			group_rings(m->e, EVERING_RX);
	}
}

static bool owes(const struct evering_group *g)
{
	return g->owing || g->rings;
}

static __attribute__((noinline)) void pay_owed(struct evering_group *g)
{
	collect_owed(g);
	if (g->rings)
		enter(g, 0);
}

/* ------------------------------------------------------------------ one member */

FOLDED void report(struct member *m, uint32_t what, int result)
{
	struct evering_group *g = m->group;
	struct evering_group_event *event = &g->events[g->ready];

	event->ev = m->e ? &m->e->ev : NULL;
	event->context = m->context;
	event->what = what;
	event->result = result;
	g->reported[g->ready] = m;
	m->place = ++g->ready;
	m->empty = 0;
}

FOLDED void report_ready(struct member *m, unsigned int what)
{
	struct endpoint *e = m->e;
	uint32_t at = e->ev.rx.next + e->ev.rx.ahead, taken = at - m->seen;

	m->seen = at;
	m->due = false;
	m->group->work += taken < WORK_PER_LOOK ? taken + 1 : WORK_PER_LOOK;
	/* A peer waits for room, while the caller takes other entries. */
	if (EVERING_UNLIKELY(evering_load_relaxed(e->ev.rx.armed) &
			     EVERING_ARMED))
		wait_publish(e);
	report(m, what, 0);
}

static void stop_watching(struct member *m);

/* From now on its peer wakes no thread. */
static void report_gone(struct member *m)
{
	int error = channel_end(m->e, -EPIPE);

	make_told(m);
	stop_watching(m);
	report(m, EVERING_GROUP_GONE, error);
}

/*
 * Entries after the one for which a table has ended are not taken; nor are entries of a
 * peer that was reported as gone.
 */
FOLDED bool has_entry(const struct member *m)
{
	struct endpoint *e = m->e;

	if (!evering_peek_at(&e->ev, e->ev.rx.ahead) ||
	    (e->ops && e->ops->error))
		return false;
	return EVERING_LIKELY(!m->gone) ||
	       (int32_t)(m->last - e->ev.rx.next) > 0;
}

FOLDED unsigned int ready_now(const struct member *m)
{
	struct endpoint *e = m->e;
	unsigned int is = 0;

	if ((m->want & EVERING_RX) &&
	    (has_entry(m) || m->due || (e->ops && ops_to_do(e->ops))))
		is |= EVERING_RX;
	if ((m->want & EVERING_TX) && evering_reserve_at(&e->ev, e->room))
		is |= EVERING_TX;
	return is;
}

/*
 * What the peer sent before it went was visible before that was known.  The acquire
 * makes it visible here.
 */
static void look_at_end(struct member *m)
{
	unsigned int is;

	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	is = ready_now(m) & EVERING_RX;
	if (is)
		report_ready(m, is);
	else
		report_gone(m);
}

/* Notes when the table of the endpoint has to be polled again. */
static void note_deadline(const struct member *m)
{
	const struct ops *ops = m->e->ops;

	if (ops && ops->heap_count)
		group_due(m->e, ops->pub.places[ops->heap[0]].deadline);
}

/*
 * After a look that found nothing: the first one, and then one in many, publishes,
 * because a member that is never armed has no other occasion.  The caller's own calls
 * may find out at any time that the channel has ended.
 */
static void look_empty(struct member *m)
{
	struct endpoint *e = m->e;

	m->empty++;
	if (m->empty % EMPTY_LOOKS == 1 && e->ops) {
		ops_settle(e->ops);
		group_flush(e);
		note_deadline(m);
	} else if (m->empty % EMPTY_LOOKS == 2 ||
		   (m->empty > 2 && e->ev.rx.next != m->published)) {
		m->published = e->ev.rx.next;
		if (channel_error(e))
			look_at_end(m);
		else
			wait_publish(e);
	}
}

/*
 * Arms it, which makes it cold.  If there is something to do after all it stays hot,
 * and that is returned.
 */
FOLDED void cool(struct member *m)
{
	struct endpoint *e = m->e;
	unsigned int is;
	int ret;

	if (!e) {
		make_cold(m);
		return;
	}
	if (e->ops && (m->want & EVERING_RX)) {
		ret = ops_arm_member(e->ops, m->want);
		note_deadline(m);
	} else {
		ret = wait_arm(e, m->want);
	}
	is = (unsigned int)ret;
	if (ret > 0)
		report_ready(m, is);
	else if (ret < 0)
		report_gone(m);
	else
		make_cold(m);
	m->cooled = 0;
}

static __attribute__((noinline)) void cool_idle(struct member *m)
{
	cool(m);
	m->cooled = m->group->sweeps;
}

FOLDED void look(struct member *m)
{
	unsigned int is;

	if (!m->e) {
		/* From now on the set reports it again. */
		make_cold(m);
		if (m->listener)
			report(m, EVERING_GROUP_ACCEPT, 0);
		else
			report(m, EVERING_GROUP_FD, (int)m->heard);
		m->group->work += WORK_PER_LOOK;
		return;
	}
	if (m->gone) {
		look_at_end(m);
		return;
	}
	is = ready_now(m);
	if (is) {
		/* A peer that broke the rules and continues to send has ended too. */
		if (EVERING_UNLIKELY(channel_error(m->e) == -EPROTO))
			report_gone(m);
		else
			report_ready(m, is);
		return;
	}
	look_empty(m);
	if (m->empty >= m->patience && m->group->hot > FEW_HOT)
		cool_idle(m);
}

/* ------------------------------------------------------------------- hearing */

/* Something has come for it: the doorbells @rung, or perhaps its peer is gone. */
FOLDED void hear_endpoint(struct member *m, unsigned int rung, bool gone)
{
	if (gone && !m->gone && m->e->backend->gone(m->e)) {
		m->gone = true;
		m->last = m->e->ev.rx.next + m->e->ev.rx.mask + 1;
	}
	wait_disarm(m->e, BOTH, rung);
	if (wait_woken(m->e))
		__atomic_store_n(&m->group->woken, 1, __ATOMIC_RELAXED);
	make_next(m);
}

/* Whether the module reports anything in the page. */
FOLDED bool page_tells(const struct evering_group *g)
{
	uint32_t i;

	if (g->page)
		for (i = 0; i < g->summaries; i++)
			if (EVERING_UNLIKELY(__atomic_load_n(
				    &g->page->summary[i], __ATOMIC_RELAXED)))
				return true;
	return false;
}

/*
 * Takes what the module reports in the page.  Returns how much.  The order is that of
 * <linux/evering.h>: each exchange sees everything before the bit that it takes, and a
 * bit that comes later is set in the summary again.
 */
static int hear_page(struct evering_group *g)
{
	struct evering_group_page *page = g->page;
	uint32_t i, word, index;
	uint64_t words, bits;
	struct member *m;
	int n = 0;

	for (i = 0; i < g->summaries; i++) {
		if (!__atomic_load_n(&page->summary[i], __ATOMIC_RELAXED))
			continue;
		words = __atomic_exchange_n(&page->summary[i], 0,
					    __ATOMIC_SEQ_CST);
		for (; words; words &= words - 1) {
			word = 64 * i + (uint32_t)__builtin_ctzll(words);
			if (word >= EVERING_GROUP_WORDS)
				continue;
			bits = __atomic_exchange_n(&page->ready[word], 0,
						   __ATOMIC_SEQ_CST);
			for (; bits; bits &= bits - 1, n++) {
				index = 64 * word +
					(uint32_t)__builtin_ctzll(bits) -
					AT_MEMBERS;
				/*
				 * The bit may be of an earlier member with this index.
				 */
				m = index < g->used ? g->members[index] : NULL;
				if (m && m->e)
					hear_endpoint(m, 0, true);
			}
		}
	}
	return n;
}

static void hear_event(struct evering_group *g, const struct epoll_event *event)
{
	uint64_t index = event->data.u64 >> DATA_BITS;
	unsigned int rung = (unsigned int)event->data.u64 & BOTH;
	struct member *m;

	if (event->data.u64 == DATA_WAKE || event->data.u64 == DATA_FILE)
		return;
	m = index < g->used ? g->members[index] : NULL;
	if (!m)
		return;
	if (!m->e) {
		m->heard = event->events;
		make_hot(m);
		return;
	}
	/* A doorbell does not end, but its descriptor reports an end if it is full. */
	hear_endpoint(m, rung,
		      !rung && (event->events &
				(EPOLLRDHUP | EPOLLHUP | EPOLLERR)));
}

/*
 * Makes members hot whose operations have run out of time, and finds when the next ones
 * do.
 */
static bool hear_due(struct evering_group *g)
{
	int64_t now, next = INT64_MAX, deadline;
	bool any = false;
	struct member *m;
	struct ops *ops;
	uint32_t i;

	now = now_ns();
	if (now < g->due)
		return false;
	for (i = 0; i < g->used; i++) {
		m = g->members[i];
		ops = m && m->e ? m->e->ops : NULL;
		if (!ops || !ops->heap_count || m->told ||
		    !(m->want & EVERING_RX))
			continue;
		deadline = ops->pub.places[ops->heap[0]].deadline;
		if (deadline > now) {
			if (deadline < next)
				next = deadline;
			continue;
		}
		m->due = any = true;
		wait_disarm(m->e, BOTH, 0);
		make_hot(m);
	}
	/*
	 * For members that are due, note_deadline() is called after they were dealt
	 * with.
	 */
	g->due = next;
	return any;
}

FOLDED bool hear_clock(struct evering_group *g)
{
	return EVERING_UNLIKELY(g->due != INT64_MAX) && hear_due(g);
}

/* Reads all that is reported, without waiting.  Returns how much. */
static int hear(struct evering_group *g)
{
	struct epoll_event events[HEAR_AT_ONCE];
	int n = 0, i;

	g->work = 0;
	if (!file_tells_all(g))
		n = epoll_wait(g->set, events, HEAR_AT_ONCE, 0);
	for (i = 0; i < n; i++)
		hear_event(g, &events[i]);
	if (n < 0)
		n = 0;
	if (page_tells(g))
		n += hear_page(g);
	return n + hear_clock(g);
}

/* Ends a sleep until @deadline, which has heard something if @any. */
FOLDED int end_sleep(struct evering_group *g, int64_t deadline, bool any)
{
	if (hear_clock(g) || any)
		return 0;
	return deadline != INT64_MAX && now_ns() >= deadline ? -ETIMEDOUT : 0;
}

/*
 * Rings the doorbells that are owed, and sleeps in the set.  Returns 0; -EINTR;
 * -ETIMEDOUT.
 */
static __attribute__((noinline)) int
sleep_in_set(struct evering_group *g, int64_t deadline, const sigset_t *mask)
{
	int64_t until = deadline < g->due ? deadline : g->due;
	struct epoll_event events[HEAR_AT_ONCE];
	const struct timespec *left;
	struct timespec storage;
	int n, i;

	g->work = 0;
	pay_owed(g);
	left = time_left(until, &storage);
	if (left)
		n = wait_precisely(g->set, events, HEAR_AT_ONCE, left, mask);
	else
		n = epoll_pwait(g->set, events, HEAR_AT_ONCE, -1, mask);
	if (n < 0)
		return -errno;
	for (i = 0; i < n; i++)
		hear_event(g, &events[i]);
	return end_sleep(g, deadline, n);
}

/* The same in one call, in the group file, for a group that has nothing else. */
FOLDED int sleep_in_file(struct evering_group *g, int64_t deadline)
{
	int64_t until = deadline < g->due ? deadline : g->due;
	struct pollfd fd = { .fd = g->file, .events = POLLIN };
	struct timespec left;
	int ret;

	g->work = 0;
	collect_owed(g);
	ret = enter(g, until);
	if (EVERING_UNLIKELY(ret == -EAGAIN)) {
		ret = ppoll(&fd, 1, time_left(until, &left), NULL);
		ret = ret < 0 ? -errno : 0;
	}
	if (ret && ret != -ETIMEDOUT)
		return ret;
	return end_sleep(g, deadline, !ret);
}

static bool was_woken(struct evering_group *g)
{
	if (EVERING_LIKELY(!__atomic_load_n(&g->woken, __ATOMIC_RELAXED)))
		return false;
	/*
	 * Stores that the caller of evering_group_wake() has made before are visible
	 * after this.
	 */
	__atomic_exchange_n(&g->woken, 0, __ATOMIC_ACQUIRE);
	return true;
}

/* -------------------------------------------------------------------- sweeps */

/*
 * Reads the page, and makes a round: each hot member has its turn, or as many as there
 * is room for.
 */
FOLDED unsigned int sweep_here(struct evering_group *g)
{
	uint32_t left;
	struct member *m;

	if (!++g->sweeps)
		g->sweeps = 1;
	if (page_tells(g))
		hear_page(g);
	left = g->hot;
	while (left-- && g->turn && g->ready < BATCH) {
		m = g->turn;
		g->turn = m->next;
		look(m);
	}
	return g->ready;
}

static __attribute__((noinline)) unsigned int sweep(struct evering_group *g)
{
	return sweep_here(g);
}

/* Arms all hot members, except those that are ready after all. */
FOLDED unsigned int arm_all(struct evering_group *g)
{
	uint32_t left = g->hot;
	struct member *m;

	while (left-- && g->turn && g->ready < BATCH) {
		m = g->turn;
		g->turn = m->next;
		cool(m);
	}
	return g->ready;
}

/* ------------------------------------------------------------------- waiting */

/*
 * Looks until something is ready (returns how much), the budget or the time has passed
 * (0), a signal came or the group was woken (-EINTR).
 */
static int spin_for(struct evering_group *g, int64_t budget, int64_t deadline,
		    struct signals *signals)
{
	unsigned int looks = 0, sweeps, i;
	int64_t until = 0, now;

	for (;;) {
		sweeps = any_cold(g) ? SWEEPS_WITH_COLD : SWEEPS_PER_LOOK;
		for (i = 0; i < sweeps && (g->hot || g->page); i++) {
			if (sweep(g))
				return (int)g->ready;
			if (EVERING_UNLIKELY(owes(g)))
				pay_owed(g);
			relax();
		}
		if (was_woken(g))
			return -EINTR;
		looks++;
		if ((any_cold(g) || looks % LOOKS_PER_QUESTION == 0 ||
		     g->due != INT64_MAX) &&
		    hear(g) && sweep(g))
			return (int)g->ready;
		if (looks == 8 && budget != INT64_MAX && !signals->mask)
			signals_block(signals);
		if (looks % LOOKS_PER_QUESTION == 0 && signals_came(signals))
			return -EINTR;
		if (budget == INT64_MAX && deadline == INT64_MAX)
			continue;
		now = now_ns();
		if (!until && __builtin_add_overflow(now, budget, &until))
			until = INT64_MAX;
		if (now >= until || now >= deadline)
			return 0;
	}
}

/* Sleeps until something is ready.  Returns how much; -EINTR; -ETIMEDOUT. */
static int sleep_until_ready(struct evering_group *g, int64_t deadline,
			     const sigset_t *mask)
{
	int ret;

	for (;;) {
		if (arm_all(g))
			return (int)g->ready;
		if (was_woken(g))
			return -EINTR;
		/*
		 * ENTER takes no signal mask.  If there is one, the file is in the set
		 * too.
		 */
		ret = file_tells_all(g) && !mask ?
			      sleep_in_file(g, deadline) :
			      sleep_in_set(g, deadline, mask);
		if (sweep_here(g))
			return (int)g->ready;
		/* Only an ignored signal, which was pending while it was blocked. */
		if (ret == -EINTR && mask && !signals_handled(mask))
			ret = 0;
		if (ret)
			return ret;
		/*
		 * A peer that rings for nothing, again and again, does not extend the
		 * wait.
		 */
		if (deadline != INT64_MAX && now_ns() >= deadline)
			return -ETIMEDOUT;
	}
}

static int wait_spinning(struct evering_group *g, int64_t deadline)
{
	struct signals signals = { 0 };
	int64_t budget = 0, start = 0, asleep = 0;
	int ret = 0;

	if (g->policy == EVERING_BUSY)
		budget = INT64_MAX;
	else if (!g->spin.hold)
		budget = g->spin.budget;
	if (g->policy == EVERING_ADAPTIVE)
		start = asleep = now_ns();
	if (budget) {
		pay_owed(g);
		ret = spin_for(g, budget, deadline, &signals);
		if (ret > 0) {
			spin_succeeded(&g->spin);
		} else if (!ret) {
			asleep = now_ns();
			if (asleep >= deadline)
				ret = -ETIMEDOUT;
		}
	}
	if (!ret && signals.blocked) {
		if (signals_came(&signals))
			ret = -EINTR;
		/*
		 * As for a wait on one endpoint of the device, which takes no mask
		 * either.
		 */
		if (file_tells_all(g))
			signals_restore(&signals);
	}
	if (!ret) {
		ret = sleep_until_ready(g, deadline, signals.mask);
		if (ret > 0)
			spin_adjust(&g->spin, g->spin_ns, start, asleep);
	}
	signals_restore(&signals);
	return ret;
}

/* How much work is done before a look that costs a system call or the clock. */
static uint32_t work_per_look(const struct evering_group *g)
{
	return any_cold(g) || g->due != INT64_MAX ? WORK_PER_LOOK :
						    WORK_WITHOUT_COLD;
}

/* Begins a call: what the last one returned was dealt with, or is returned again. */
FOLDED void begin(struct evering_group *g)
{
	unsigned int i;

	for (i = 0; i < g->ready; i++)
		if (g->reported[i])
			g->reported[i]->place = 0;
	g->ready = 0;
	g->kept = false;
	if (EVERING_UNLIKELY(g->work >= work_per_look(g)))
		hear(g);
}

/* Whether there are events left that evering_group_arm() has found. */
static bool take_kept(struct evering_group *g)
{
	unsigned int i;

	for (i = 0; g->kept && i < g->ready; i++)
		if (g->reported[i]) {
			g->kept = false;
			return true;
		}
	return false;
}

static int wait_for(struct evering_group *g, int64_t timeout_ns)
{
	int64_t deadline;

	begin(g);
	if (sweep_here(g))
		return (int)g->ready;
	if (timeout_ns == EVERING_NOWAIT) {
		hear(g);
		if (sweep(g))
			return (int)g->ready;
		return was_woken(g) ? -EINTR : -EAGAIN;
	}
	if (was_woken(g))
		return -EINTR;
	deadline = deadline_after(timeout_ns);
	return g->policy == EVERING_BLOCK ?
		       sleep_until_ready(g, deadline, NULL) :
		       wait_spinning(g, deadline);
}

int evering_group_wait(struct evering_group *g,
		       const struct evering_group_event **events,
		       int64_t timeout_ns)
{
	int ret;

	if (EVERING_UNLIKELY(timeout_ns < EVERING_WAIT_FOREVER || !is_own(g)))
		return -EINVAL;
	*events = g->events;
	if (EVERING_UNLIKELY(g->kept) && take_kept(g))
		return (int)g->ready;
	ret = wait_for(g, timeout_ns);
	/* Doorbells that no sleep has rung. */
	if (EVERING_UNLIKELY(owes(g)))
		pay_owed(g);
	return ret;
}

/*
 * Takes what is there, or arms all members, as evering_group_poll().  A peer that rings
 * all the time leaves an event in the set, which wakes a loop again.  The events of
 * others were read before, because the set reports in order.
 */
static int look_at_all(struct evering_group *g)
{
	uint32_t pieces = 1 + 4 * g->watched / HEAR_AT_ONCE, i;
	unsigned int rounds;
	int n;

	begin(g);
	for (rounds = 0; rounds < POLL_ROUNDS; rounds++) {
		if (sweep(g) || arm_all(g))
			return (int)g->ready;
		n = hear(g);
		for (i = 0; n >= HEAR_AT_ONCE && i < pieces; i++)
			n = hear(g);
		if (was_woken(g))
			return -EINTR;
		if (!n && !g->hot)
			return 0;
	}
	while (g->hot)
		if (sweep(g) || arm_all(g))
			return (int)g->ready;
	return 0;
}

static int poll_all(struct evering_group *g)
{
	int ret = look_at_all(g);

	if (owes(g))
		pay_owed(g);
	return ret;
}

int evering_group_poll(struct evering_group *g,
		       const struct evering_group_event **events)
{
	if (!is_own(g))
		return -EINVAL;
	*events = g->events;
	return take_kept(g) ? (int)g->ready : poll_all(g);
}

int evering_group_arm(struct evering_group *g)
{
	int ret;

	if (!is_own(g))
		return -EINVAL;
	if (!take_kept(g)) {
		ret = poll_all(g);
		if (ret <= 0)
			return ret;
	}
	g->kept = true;
	return 1;
}

int64_t evering_group_timeout(const struct evering_group *g)
{
	int64_t left;

	if (g->kept)
		return 0;
	if (g->due == INT64_MAX)
		return EVERING_WAIT_FOREVER;
	left = g->due - now_ns();
	return left > 0 ? left : 0;
}

/* Puts the file into the set, which then reports the file's members too. */
static int watch_file(struct evering_group *g, int file)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = DATA_FILE };

	return epoll_ctl(g->set, EPOLL_CTL_ADD, file, &event) ? -errno : 0;
}

/* From now on a sleep in the set hears everything. */
static int make_polled(struct evering_group *g)
{
	int ret = 0;

	if (!g->polled && g->page)
		ret = watch_file(g, g->file);
	g->polled |= !ret;
	return ret;
}

int evering_group_fd(struct evering_group *g)
{
	int ret = is_own(g) ? make_polled(g) : -EINVAL;

	return ret ? ret : g->set;
}

/*
 * Only what signal-safety(7) allows.  The word is stored before the doorbell is rung,
 * as in evering_wake().
 */
int evering_group_wake(struct evering_group *g)
{
	const uint64_t one = 1;
	int saved = errno, file;
	ssize_t ignored;

	if (!is_own(g))
		return -EINVAL;
	__atomic_store_n(&g->woken, 1, __ATOMIC_SEQ_CST);
	/* If the file is opened just now, the thread that does so sees the word. */
	file = __atomic_load_n(&g->file, __ATOMIC_SEQ_CST);
	if (file >= 0) {
		group_file_tell(file, AT_WAKE);
	} else {
		ignored = write(g->bell, &one, sizeof(one));
		(void)ignored;
	}
	errno = saved;
	return 0;
}

/* ------------------------------------------------------------ coming and going */

/* Makes room for one more in the table. */
static int grow_table(struct evering_group *g)
{
	uint32_t size = g->size ? 2 * g->size : 16;
	struct member **members;

	if (g->vacant || g->used < g->size)
		return 0;
	members = realloc(g->members, size * sizeof(*members));
	if (!members)
		return -ENOMEM;
	g->members = members;
	g->size = size;
	return 0;
}

static uint32_t take_index(struct evering_group *g)
{
	uint32_t i;

	if (!g->vacant) {
		i = g->used++;
		/* Never fewer: a bit may be of an earlier member. */
		if (i + AT_MEMBERS < EVERING_GROUP_MEMBERS)
			g->summaries = (i + AT_MEMBERS) / (64 * 64) + 1;
		return i;
	}
	for (i = g->first_vacant; g->members[i]; i++)
		;
	g->vacant--;
	g->first_vacant = i + 1;
	return i;
}

/* A member that is not watched yet, or NULL. */
static struct member *new_member(struct evering_group *g, void *context)
{
	struct member *m;

	if (grow_table(g))
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->group = g;
	m->fd = -1;
	m->patience = EMPTY_LOOKS;
	m->context = context;
	m->index = take_index(g);
	g->members[m->index] = m;
	g->in_set++;
	g->watched++;
	return m;
}

static uint64_t data_of(const struct member *m)
{
	return (uint64_t)m->index << DATA_BITS;
}

static void stop_watching(struct member *m)
{
	struct evering_group *g = m->group;
	int fd = m->fd;

	if (m->e) {
		if (m->enrolled)
			m->e->backend->leave(m->e, g->file);
		else
			m->e->backend->unwatch(m->e, g->set);
		wait_disarm(m->e, BOTH, 0);
		return;
	}
	if (m->listener)
		fd = evering_listener_fd(m->listener);
	if (fd >= 0)
		epoll_ctl(g->set, EPOLL_CTL_DEL, fd, NULL);
}

static void free_member(struct member *m)
{
	struct evering_group *g = m->group;
	struct member **at = &g->owing;

	make_told(m);
	g->in_set -= !m->enrolled;
	if (m->place) {
		g->events[m->place - 1].what = 0;
		g->events[m->place - 1].ev = NULL;
		g->reported[m->place - 1] = NULL;
	}
	while (*at && *at != m)
		at = &(*at)->owing;
	if (*at)
		*at = m->owing;
	g->members[m->index] = NULL;
	g->vacant++;
	if (m->index < g->first_vacant)
		g->first_vacant = m->index;
	if (m->e)
		m->e->member = NULL;
	else if (m->listener)
		*listener_member(m->listener) = NULL;
	free(m);
}

/*
 * Removes a member, also when it is closed.  In a process made by fork() the set
 * belongs to the parent.
 */
void group_forget(struct member *m)
{
	if (!m)
		return;
	if (is_own(m->group)) {
		if (m->owes)
			evering_flush(&m->e->ev);
		/*
		 * Its descriptor may be on the list, and soon belong to another file.
		 */
		if (m->group->rings)
			enter(m->group, 0);
		if (!m->told)
			stop_watching(m);
	}
	free_member(m);
}

/* Why something that has the membership @m cannot become a member of @g; 0: it can. */
static int check_new(const struct evering_group *g, const struct member *m)
{
	if (!is_own(g))
		return -EINVAL;
	if (!m)
		return 0;
	return m->group == g ? -EEXIST : -EBUSY;
}

static int check_old(const struct evering_group *g, const struct member *m)
{
	if (!is_own(g))
		return -EINVAL;
	return m && m->group == g ? 0 : -ENOENT;
}

/* Opens the group file, if possible.  From then on the eventfd is not used. */
static int open_file(struct evering_group *g)
{
	struct evering_group_page *page;
	int file, ret;

	if (g->page)
		return 0;
	file = group_file_open(&page);
	if (file < 0)
		return file;
	ret = g->polled ? watch_file(g, file) : 0;
	if (ret) {
		munmap(page, sizeof(*page));
		close(file);
		return ret;
	}
	g->page = page;
	__atomic_store_n(&g->file, file, __ATOMIC_SEQ_CST);
	epoll_ctl(g->set, EPOLL_CTL_DEL, g->bell, NULL);
	return 0;
}

/* @m is an endpoint: from now on the group file, or the set, reports it. */
static int watch_endpoint(struct member *m)
{
	struct evering_group *g = m->group;
	struct endpoint *e = m->e;
	int ret;

	if (e->backend->enrol &&
	    m->index < EVERING_GROUP_MEMBERS - AT_MEMBERS && !open_file(g) &&
	    !e->backend->enrol(e, g->file, m->index + AT_MEMBERS)) {
		m->enrolled = true;
		g->in_set--;
		g->watched--;
		return 0;
	}
	ret = make_polled(g);
	if (!ret)
		ret = e->backend->watch(e, g->set, data_of(m));
	if (ret)
		e->backend->unwatch(e, g->set);
	return ret;
}

int evering_group_add(struct evering_group *g, struct evering *ev,
		      unsigned int what, void *context)
{
	struct endpoint *e = to_endpoint(ev);
	struct member *m;
	int ret;

	ret = what & ~BOTH ? -EINVAL : check_new(g, e->member);
	if (ret)
		return ret;
	m = new_member(g, context);
	if (!m)
		return -ENOMEM;
	m->e = e;
	m->want = what;
	m->seen = ev->rx.next + ev->rx.ahead;
	ret = watch_endpoint(m);
	if (ret) {
		free_member(m);
		return ret;
	}
	e->member = m;
	/* Do not lose a doorbell for what evering_arm() has armed. */
	wait_disarm(e, BOTH, 0);
	/* From now on owed doorbells are noted. */
	if (e->lazy)
		evering_flush(ev);
	if (e->ops && ((struct ops *)e->ops)->heap_count)
		group_due(e, now_ns());
	make_hot(m);
	return 0;
}

/*
 * Removes an event that evering_group_arm() has found and that is not wanted any more.
 */
static void unwant(struct member *m)
{
	struct evering_group *g = m->group;
	struct evering_group_event *event = &g->events[m->place - 1];

	event->what &= m->want | EVERING_GROUP_GONE;
	if (event->what)
		return;
	event->ev = NULL;
	g->reported[m->place - 1] = NULL;
	m->place = 0;
}

/*
 * @s will replace @e, which may be a member; then @s becomes one too.  Returns 0; or as
 * evering_group_add().
 */
int group_welcome(struct endpoint *e, struct endpoint *s)
{
	const struct member *m = e->member;

	if (!m)
		return 0;
	return evering_group_add(m->group, &s->ev, m->want, m->context);
}

/* Gives the membership of @s to @e.  First the old membership of @e is removed. */
void group_replaced(struct endpoint *e, struct endpoint *s)
{
	struct member *m = s->member;

	if (!m)
		return;
	group_forget(e->member);
	m->e = e;
	e->member = m;
	s->member = NULL;
}

int evering_group_want(struct evering_group *g, struct evering *ev,
		       unsigned int what)
{
	struct member *m = to_endpoint(ev)->member;
	int ret;

	ret = what & ~BOTH ? -EINVAL : check_old(g, m);
	if (ret)
		return ret;
	if (m->want == what)
		return 0;
	m->want = what;
	if (m->place && g->kept)
		unwant(m);
	if (m->told)
		return 0;
	/* So that the peer does not ring for what is not wanted any more. */
	wait_disarm(m->e, BOTH, 0);
	note_deadline(m);
	make_hot(m);
	return 0;
}

int evering_group_remove(struct evering_group *g, struct evering *ev)
{
	struct member *m = to_endpoint(ev)->member;
	int ret = check_old(g, m);

	if (!ret)
		group_forget(m);
	return ret;
}

/* @m is a listener or a descriptor: watches it, or removes it if that fails. */
static int watch_fd(struct member *m, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.u64 = data_of(m) };
	int ret;

	ret = fd < 0 ? fd : make_polled(m->group);
	if (!ret && epoll_ctl(m->group->set, EPOLL_CTL_ADD, fd, &event))
		ret = -errno;
	if (ret)
		free_member(m);
	return ret;
}

int evering_group_add_listener(struct evering_group *g,
			       struct evering_listener *listener, void *context)
{
	struct member *m;
	int ret;

	ret = check_new(g, *listener_member(listener));
	if (ret)
		return ret;
	m = new_member(g, context);
	if (!m)
		return -ENOMEM;
	m->listener = listener;
	ret = watch_fd(m, evering_listener_fd(listener), EPOLLIN);
	if (!ret)
		*listener_member(listener) = m;
	return ret;
}

int evering_group_remove_listener(struct evering_group *g,
				  struct evering_listener *listener)
{
	struct member *m = *listener_member(listener);
	int ret = check_old(g, m);

	if (!ret)
		group_forget(m);
	return ret;
}

int evering_group_add_fd(struct evering_group *g, int fd, short events,
			 void *context)
{
	struct member *m;
	int ret;

	ret = check_new(g, NULL);
	if (ret)
		return ret;
	if (fd < 0)
		return -EBADF;
	if (fd == g->bell || fd == g->file)
		return -EINVAL;
	m = new_member(g, context);
	if (!m)
		return -ENOMEM;
	m->fd = fd;
	return watch_fd(m, fd, (uint32_t)(unsigned short)events);
}

int evering_group_remove_fd(struct evering_group *g, int fd)
{
	struct member *m;
	uint32_t i;

	if (!is_own(g))
		return -EINVAL;
	for (i = 0; i < g->used; i++) {
		m = g->members[i];
		if (!m || m->e || m->listener || m->fd != fd)
			continue;
		group_forget(m);
		return 0;
	}
	return -ENOENT;
}

/* -------------------------------------------------------- opening and closing */

static const struct evering_group_params default_params =
	EVERING_GROUP_PARAMS_INIT;

static int read_params(const struct evering_group_params *from,
		       struct evering_group_params *params)
{
	int ret;

	*params = default_params;
	if (!from)
		return 0;
	ret = read_sized(params, sizeof(*params), from);
	if (ret)
		return ret;
	if (params->flags || params->policy > EVERING_BUSY ||
	    params->spin_ns > 1000000)
		return -EINVAL;
	return 0;
}

int evering_group_open(const struct evering_group_params *from,
		       struct evering_group **ret)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET,
				     .data.u64 = DATA_WAKE };
	struct evering_group_params params;
	struct evering_group *g;
	int error;

	error = read_params(from, &params);
	if (error)
		return error;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->owner = fork_id();
	g->policy = params.policy;
	g->spin_ns = params.spin_ns;
	g->spin = (struct spin){ .budget = params.spin_ns, .next_hold = 8 };
	g->due = INT64_MAX;
	g->sweeps = 1;
	g->bell = g->file = -1;
	g->set = epoll_create1(EPOLL_CLOEXEC);
	if (g->set >= 0)
		g->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->bell < 0 || epoll_ctl(g->set, EPOLL_CTL_ADD, g->bell, &event)) {
		error = -errno;
		evering_group_close(g);
		return error;
	}
	*ret = g;
	return 0;
}

void evering_group_close(struct evering_group *g)
{
	uint32_t i;

	if (!g)
		return;
	for (i = 0; i < g->used; i++)
		group_forget(g->members[i]);
	/*
	 * A child process does not have the page, and perhaps something else at its
	 * address.
	 */
	if (g->page && is_own(g))
		munmap(g->page, sizeof(*g->page));
	close_fds(&g->file, 1);
	close_fds(&g->bell, 1);
	close_fds(&g->set, 1);
	free(g->members);
	free(g);
}
