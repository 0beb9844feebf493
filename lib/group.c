// SPDX-License-Identifier: MIT
/*
 * group.c: many members under one sleeper.
 *
 * Two things tell of what happens.  One is an epoll set: of an endpoint it has what its
 * backend adds there (struct backend, @watch), edge-triggered, so that nothing is to be
 * emptied; of a listener its descriptor, and plain descriptors, level-triggered; and an
 * eventfd for evering_group_wake().
 *
 * The other is the module's group file.  Endpoints of the device are its members, where it
 * is to be had, and not the set's.  In its page the kernel sets a bit for each that is
 * rung, or whose peer goes.  So the group looks at the page in each sweep, without a system
 * call, and however many are cold; and if it has no other members it sleeps in one call,
 * which rings those that are owed a ring first.  If it has others it sleeps in the set, and
 * the file is there as well, level-triggered.  That costs whoever rings a little more, so it
 * is not there before somebody needs it.  Where the module refuses (its quota, an index
 * that is too high, another group) an endpoint is the set's.
 *
 * Members that are hot are in a ring, which is looked at in turns; others are armed and in
 * no list, and the set or the page tells of them.  What arms, disarms and looks is wait.c's.
 * A member is hot or armed, never neither: whoever disarms one from outside, which a wait of
 * the caller's on that channel does, makes it hot.  When the group sleeps all are armed.
 *
 * A ring that comes when its member is hot already is heard by the set all the same, and
 * moves the generation on (see struct role).  So a ring that the set has not told of yet is
 * the only one that the peer may remember as rung, and the next look at the set finds it.
 * On the device nothing is remembered: a ring is a bit that the kernel has cleared.
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
/* More than a call returns: those that ring all the time are heard faster than served. */
#define HEAR_AT_ONCE 128

/*
 * A member that was looked at so often in vain becomes cold, if more than so many are hot:
 * these few cost less than the rings of their peers.  A ring costs what SOON looks do: one
 * that was rung sooner than that after it had become cold is worth more looks from then on,
 * another one fewer.
 */
#define EMPTY_LOOKS 64u
#define FEW_HOT 4u
#define SOON 256u
#define MORE_LOOKS 512u
#define FEWER_LOOKS 16u
/*
 * Entries taken after which the set is looked at, so that a member that is rung waits for
 * a turn of others, not for their end.  Where none is cold nobody but the dead is in it, and
 * where no operation has a time limit nobody needs the clock.
 */
#define WORK_PER_LOOK 128u
#define WORK_WITHOUT_COLD 4096u
/*
 * Sweeps of a spin between two looks at the clock, and at the set, for whose sake they are
 * fewer if some are cold; and as in wait.c.
 */
#define SWEEPS_PER_LOOK 16u
#define SWEEPS_WITH_COLD 4u
#define LOOKS_PER_QUESTION 256u
/* Rounds that a peer which rings for nothing, again and again, is worth. */
#define POLL_ROUNDS 4u

/*
 * What the set says of the eventfd, and of the group file; of a member it says its index,
 * and two bits.
 */
#define DATA_WAKE UINT64_MAX
#define DATA_FILE (UINT64_MAX - 1)
#define DATA_BITS 2u

/* The page has evering_group_wake() at one index, and members at theirs plus one. */
#define AT_WAKE 0u
#define AT_MEMBERS 1u

/**
 * struct member - what a group knows of one
 * @group: whose
 * @e, @listener, @fd: what it is: the first of them that is not NULL
 * @context: of its events
 * @index: in struct evering_group.members
 * @want: what is of interest of @e
 * @heard: what the set says of @listener or @fd
 * @empty: looks in vain since there was something
 * @patience: after so many it becomes cold
 * @cooled: @sweeps of the group when that last happened; 0: it became cold otherwise
 * @seen: entries of @e received when it was last returned
 * @published: and when the peer was last told of that after a look in vain
 * @place: among the events that were returned last, plus 1; 0: it is not
 * @enrolled: the group file tells of it, and not the set
 * @hot: in the ring
 * @gone: the peer is
 * @last: the entry behind all that it can have sent before it was known to be @gone
 * @told: its end was, or there is none to be told of
 * @due: an operation of it has run out of time
 * @next, @prev: the ring
 * @owing: the next one that owes a ring, if @owes
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
 * struct evering_group
 * @set: the epoll set
 * @bell: the eventfd of evering_group_wake(), in the set as long as there is no @file
 * @file: the group file, or -1; once there it stays.  Any thread
 * @page: of it, or NULL
 * @polled: somebody sleeps in @set, so that @file is there as well
 * @woken: evering_group_wake() was called, until a wait has found out
 * @owner: fork_id() of the process that has made it
 * @policy, @spin_ns, @spin: as of an endpoint
 * @members, @size, @used: by index; NULL: free.  @used: none is in use from here on
 * @summaries: words of the page's summary that can say something of these
 * @vacant: how many below @used are free, none of them below @first_vacant
 * @in_set: members of the set
 * @watched: those of them that may still be told of
 * @hot: members in the ring
 * @hot_watched: how many of them are @watched
 * @turn: whose turn it is, in the ring; NULL: it is empty
 * @collects: what a member flushes is owed, whatever its policy
 * @owing: members whose peers are owed a ring for entries
 * @rings: how many of @list the device is to ring before this call returns
 * @stay: one of these has EVERING_NO_HANDOVER
 * @work: entries taken since the set was last looked at
 * @sweeps: how many there were; never 0
 * @due: when an operation runs out of time, perhaps; INT64_MAX: never
 * @ready: how many of @events were found in this call
 * @kept: the next call returns them
 * @reported, @events: the members and what there is to do for them
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

/* Does only the set know whether something has come for one? */
static bool any_cold(const struct evering_group *g)
{
	return g->watched > g->hot_watched;
}

/* Is there nothing to be told of but by the group file?  Also the dead fill the set. */
static bool file_tells_all(const struct evering_group *g)
{
	return g->page && !g->in_set;
}

/* -------------------------------------------------------------- hot and cold */

/* Its turn comes after all others'. */
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
 * It was rung.  If it was cold it is the next one: it has waited for that, and others that
 * are busy have not.  It gets there once in many rounds, as it has to become cold before.
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

/* Nothing more is to be said of it. */
static void make_told(struct member *m)
{
	if (m->told)
		return;
	make_cold(m);
	m->told = true;
	m->group->watched -= !m->enrolled;
}

/* A wait on its channel has disarmed it, or it has something to do. */
void group_touched(struct endpoint *e)
{
	make_hot(e->member);
}

/* Does a flush leave the ring to the group, which is about to ring others, too? */
bool group_collects(const struct endpoint *e)
{
	return e->member->group->collects;
}

/* A send under EVERING_LAZY_RING, or group_flush(), has found its peer asleep. */
void group_owes(struct endpoint *e)
{
	struct member *m = e->member;

	if (m->owes)
		return;
	m->owes = true;
	m->owing = m->group->owing;
	m->group->owing = m;
}

/* An operation of it may take until @deadline. */
void group_due(struct endpoint *e, int64_t deadline)
{
	const struct member *m = e->member;

	if ((m->want & EVERING_RX) && deadline < m->group->due)
		m->group->due = deadline;
}

/* ops_flush() by the group, which rings those that are owed a ring at once. */
void group_flush(struct endpoint *e)
{
	struct evering_group *g = e->member->group;

	g->collects = g->page && e->backend->enrol;
	ops_flush(e->ops);
	g->collects = false;
}

/* One by one: someone has closed a descriptor behind our back, or the file fails. */
static void ring_each(const struct evering_group_ring *ring, unsigned int n)
{
	for (; n; n--, ring++)
		ioctl(ring->fd, EVERING_IOC_RING, ring->bells);
}

/*
 * Rings those on the list, and sleeps until @deadline, if that is not 0, in the same call.
 * As group_file_enter().
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

/* Puts it on the list: of an endpoint of the device, if there is a group file. */
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

/* What members owe comes to the list, or is rung where there is none. */
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
	/* A peer that waits for space, while the caller takes other things. */
	if (EVERING_UNLIKELY(evering_load_relaxed(e->ev.rx.armed) &
			     EVERING_ARMED))
		wait_publish(e);
	report(m, what, 0);
}

static void stop_watching(struct member *m);

/* Nothing that its peer does from now on is to wake anybody. */
static void report_gone(struct member *m)
{
	int error = channel_end(m->e, -EPIPE);

	make_told(m);
	stop_watching(m);
	report(m, EVERING_GROUP_GONE, error);
}

/*
 * What is behind the entry for which a table has ended nobody takes; nor what a peer sends
 * that said it was gone.
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

/* What it sent before it went was there before that was known; acquire, so that it is. */
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

/* When the table beside it has to be asked again. */
static void note_deadline(const struct member *m)
{
	const struct ops *ops = m->e->ops;

	if (ops && ops->heap_count)
		group_due(m->e, ops->pub.places[ops->heap[0]].deadline);
}

/*
 * A look that has found nothing: the first, and then one of many, tells the peer what there
 * is to tell, as one that is never armed has no other time for it.  That the channel has
 * ended the caller's own calls may find out at any time.
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
 * Arms it, so that it is cold.  If there is something after all it stays hot, and that is
 * returned.
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
		/* The set tells of it again. */
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
		/* One that has broken the rules, and sends on, has ended all the same. */
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

/* Something has come for it: it was rung, those of @rung, or its peer has gone, perhaps. */
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

/* Does the module say anything in the page? */
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
 * Takes what the module says in the page; how much.  The order is that of
 * <linux/evering.h>: each exchange sees what was there before the bit that it takes, and a
 * bit that comes later is named in summary once more.
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
				/* Also of one that was here before it. */
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
	/* A bell has no end of its own, and may say so all the same if it is full. */
	hear_endpoint(m, rung,
		      !rung && (event->events &
				(EPOLLRDHUP | EPOLLHUP | EPOLLERR)));
}

/* Members whose operations have run out of time; and when the next ones do. */
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
	/* Of those that are due note_deadline() tells, when they were dealt with. */
	g->due = next;
	return any;
}

FOLDED bool hear_clock(struct evering_group *g)
{
	return EVERING_UNLIKELY(g->due != INT64_MAX) && hear_due(g);
}

/* What there is to be heard, at once.  How much that was. */
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

/* The end of a sleep, until @deadline at the most, that has heard something if @any. */
FOLDED int end_sleep(struct evering_group *g, int64_t deadline, bool any)
{
	if (hear_clock(g) || any)
		return 0;
	return deadline != INT64_MAX && now_ns() >= deadline ? -ETIMEDOUT : 0;
}

/* Rings those that are owed a ring, and sleeps in the set.  0; -EINTR; -ETIMEDOUT. */
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

/* The same in one call, in the group file, of a group that has nothing else. */
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
	/* What the caller of evering_group_wake() has stored before is seen after this. */
	__atomic_exchange_n(&g->woken, 0, __ATOMIC_ACQUIRE);
	return true;
}

/* -------------------------------------------------------------------- sweeps */

/*
 * What the page has to say; and a round: each of those that are hot has its turn, or as many
 * as there is room for.
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

/* Arms all that are hot, but those that are ready after all. */
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
 * Looks until something is ready (returns how much), the budget or the time given has
 * passed (0), a signal came or the group was woken (-EINTR).
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

/* Until something is ready: how much; -EINTR; -ETIMEDOUT. */
static int sleep_until_ready(struct evering_group *g, int64_t deadline,
			     const sigset_t *mask)
{
	int ret;

	for (;;) {
		if (arm_all(g))
			return (int)g->ready;
		if (was_woken(g))
			return -EINTR;
		/* ENTER takes no mask.  If there is one the file is in the set, too. */
		ret = file_tells_all(g) && !mask ?
			      sleep_in_file(g, deadline) :
			      sleep_in_set(g, deadline, mask);
		if (sweep_here(g))
			return (int)g->ready;
		/* Nothing but what is ignored, and was kept while it was blocked. */
		if (ret == -EINTR && mask && !signals_handled(mask))
			ret = 0;
		if (ret)
			return ret;
		/* A peer that rings for nothing, again and again, keeps nobody. */
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
		/* As a wait on one endpoint of the device, which takes no mask either. */
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

/* How much work is done before what costs a system call, or the clock, is looked at. */
static uint32_t work_per_look(const struct evering_group *g)
{
	return any_cold(g) || g->due != INT64_MAX ? WORK_PER_LOOK :
						    WORK_WITHOUT_COLD;
}

/* A new call: what the last one returned was dealt with, or is returned again. */
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

/* Are there any left of those that evering_group_arm() has found? */
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
	/* What a sleep has not paid. */
	if (EVERING_UNLIKELY(owes(g)))
		pay_owed(g);
	return ret;
}

/*
 * Takes what is there, or arms all: as evering_group_poll().  A peer that rings all the
 * time leaves a ring in the set, which wakes a loop again; others' were heard before, as
 * the set tells in order.
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

/* The file tells of its members in the set as well. */
static int watch_file(struct evering_group *g, int file)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = DATA_FILE };

	return epoll_ctl(g->set, EPOLL_CTL_ADD, file, &event) ? -errno : 0;
}

/* From now on whoever sleeps in the set hears all. */
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

/* Only what signal-safety(7) allows; the word before the ring, as evering_wake(). */
int evering_group_wake(struct evering_group *g)
{
	const uint64_t one = 1;
	int saved = errno, file;
	ssize_t ignored;

	if (!is_own(g))
		return -EINVAL;
	__atomic_store_n(&g->woken, 1, __ATOMIC_SEQ_CST);
	/* If it is opened just now, the thread that does so sees the word. */
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

/* Room for one more in the table. */
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
		/* Never fewer: a bit may be of one that was here before. */
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

/* A member that nothing watches yet, or NULL. */
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

/* It is closed, or removed.  The set of a process that has forked is the parent's. */
void group_forget(struct member *m)
{
	if (!m)
		return;
	if (is_own(m->group)) {
		if (m->owes)
			evering_flush(&m->e->ev);
		/* Its descriptor may be on the list, and another's soon. */
		if (m->group->rings)
			enter(m->group, 0);
		if (!m->told)
			stop_watching(m);
	}
	free_member(m);
}

/* Why what is a member already, @m, cannot become one of @g; 0 if it is none. */
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

/* The group file, if it is to be had.  From then on nobody rings the eventfd. */
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

/* @m of an endpoint: the group file, or the set, tells of it from now on. */
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
	/* A ring of what evering_arm() has armed is not to be forgotten. */
	wait_disarm(e, BOTH, 0);
	/* What is owed from now on is noted. */
	if (e->lazy)
		evering_flush(ev);
	if (e->ops && ((struct ops *)e->ops)->heap_count)
		group_due(e, now_ns());
	make_hot(m);
	return 0;
}

/* evering_group_arm() has found what is not wanted any more. */
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
 * @s is to take the place of @e, which may be a member: @s becomes one, too.  0; or as
 * evering_group_add().
 */
int group_welcome(struct endpoint *e, struct endpoint *s)
{
	const struct member *m = e->member;

	if (!m)
		return 0;
	return evering_group_add(m->group, &s->ev, m->want, m->context);
}

/* What @s is a member as, @e is from now on.  First @e, with all it has, is removed. */
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
	/* So that nobody rings for what is not wanted any more. */
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

/* @m of a listener or a descriptor: watches it; else it is no member. */
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
	/* A child does not have the page, and perhaps something else in its place. */
	if (g->page && is_own(g))
		munmap(g->page, sizeof(*g->page));
	close_fds(&g->file, 1);
	close_fds(&g->bell, 1);
	close_fds(&g->set, 1);
	free(g->members);
	free(g);
}
