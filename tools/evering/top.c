// SPDX-License-Identifier: MIT
/*
 * evering top: the channels of this machine at work.
 *
 * A channel of the device is found by its descriptors, and described by fdinfo.  One
 * of memfds is found in /proc/PID/maps: each side's memory is a memfd that one process
 * maps for writing and the other for reading, so which process writes which memory says
 * which two talk to each other.  The processes have closed the descriptors by then, so
 * the half that such a mapping begins with is read with process_vm_readv(2), which takes
 * the rights of a debugger: one's own processes', or with root's rights all.
 *
 * Many channels with one sleeper are shown as one server: top_fold.c.
 *
 * Nothing that is read is trusted: it is copied, and checked as a copy; what is
 * wrong shows as unknown, or as a wrong number.  Nothing is mapped, so no process can
 * take memory away from under this program.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#include "json.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "top.h"
#include "util.h"

static const char *const state_names[END_STATES] = {
	"?", "awake", "asleep", "new", "detached", "closed", "gone",
};

/* A mapping of the memfd of a side: its half, and what is behind that. */
struct map {
	pid_t pid;
	unsigned int end;
	bool writable;
	bool taken; /* by a channel */
	bool measured; /* the geometry is known */
	struct evering_geometry geometry;
	uint64_t inode;
	uint64_t start;
	uint64_t len;
};

/* What fdinfo has of an endpoint of the device, by end, or of a group. */
struct fdinfo {
	pid_t pid; /* that has the descriptor */
	uint64_t channel; /* 0: of a group */
	uint64_t group[2]; /* of a group the first is its own */
	uint64_t members;
	unsigned int end;
	unsigned int state[2];
	struct evering_geometry geometry;
	uint64_t arena[2];
	struct evering_counters counters[2];
};

struct top_options {
	int64_t interval_ns;
	uint64_t count; /* 0: no end */
	bool batch;
	bool json;
	bool unfold;
};

struct top {
	struct top_options o;
	bool screen;
	bool colour;
	struct look look[2]; /* the present one and the one before */
};

void *list_add(struct list *list, size_t size)
{
	size_t room = list->room ? 2 * list->room : 16;
	void *items;

	if (list->count == list->room) {
		items = realloc(list->items, room * size);
		if (!items)
			return NULL;
		list->items = items;
		list->room = room;
	}
	return memset((char *)list->items + list->count++ * size, 0, size);
}

static void read_comm(pid_t pid, char comm[COMM_LEN + 1])
{
	char path[64], *c;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	file = fopen(path, "re");
	if (!file || !fgets(comm, COMM_LEN + 1, file))
		strcpy(comm, "?");
	if (file)
		fclose(file);
	comm[strcspn(comm, "\n")] = '\0';
	/* It may hold anything, and is for a terminal. */
	for (c = comm; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
}

/* An end that @pid has, and maybe others too. */
static void set_holder(struct end *end, pid_t pid)
{
	end->holders++;
	if (end->pid)
		return;
	end->pid = pid;
	read_comm(pid, end->comm);
}

/* The device ------------------------------------------------------------- */

static unsigned int state_of(const char *name)
{
	static const char *const names[] = { "new", "attached", "detached",
					     "closed" };
	unsigned int i;

	for (i = 0; i < 4; i++)
		if (!strcmp(name, names[i]))
			break;
	return i;
}

/* Takes one line of fdinfo. */
static void read_info_line(struct fdinfo *info, const char *line)
{
	static const char *const counters[] = {
		"tx_entries", "tx_rings", "tx_sleeps", "tx_syscalls",
		"rx_entries", "rx_rings", "rx_sleeps", "rx_syscalls",
	};
	unsigned long long a, b;
	char key[32], left[32], right[32];
	size_t i;
	int got;

	got = sscanf(line, "%31[^:]:\t%31s %31s", key, left, right);
	if (got < 2)
		return;
	a = strtoull(left, NULL, 0);
	b = got > 2 ? strtoull(right, NULL, 0) : 0;
	if (!strcmp(key, "channel")) {
		info->channel = a;
	} else if (!strcmp(key, "group")) {
		info->group[0] = a;
		info->group[1] = b;
	} else if (!strcmp(key, "members"))
		info->members = a;
	else if (!strcmp(key, "end"))
		info->end = *left == 'B';
	else if (!strcmp(key, "slot_size"))
		info->geometry.slot_size = (uint32_t)a;
	else if (!strcmp(key, "entries"))
		info->geometry.entries = (uint32_t)a;
	else if (!strcmp(key, "flags") && got == 2 && !strncmp(left, "0x", 2))
		info->geometry.flags = (uint32_t)a;
	else if (!strcmp(key, "arena_size")) {
		info->geometry.arena_size[0] = info->arena[0] = a;
		info->geometry.arena_size[1] = info->arena[1] = b;
	} else if (!strcmp(key, "arena_there")) {
		info->arena[0] = a;
		info->arena[1] = b;
	} else if (!strcmp(key, "state") && got == 3) {
		info->state[0] = state_of(left);
		info->state[1] = state_of(right);
	}
	for (i = 0; i < 8; i++) {
		if (strcmp(key, counters[i]) != 0)
			continue;
		((__u64 *)&info->counters[0])[i] = a;
		((__u64 *)&info->counters[1])[i] = b;
	}
}

static void set_device_end(struct channel *c, unsigned int i,
			   const struct fdinfo *info)
{
	static const enum end_state states[] = { NEW, AWAKE, DETACHED, CLOSED,
						 UNKNOWN };
	const struct evering_counters *own = &info->counters[i];
	const struct evering_counters *peer = &info->counters[!i];
	struct end *end = &c->end[i];

	end->state = states[info->state[i]];
	end->counted = true;
	end->group = info->group[i];
	end->arena = info->arena[i];
	/* Both lag behind, each at its own times. */
	end->sent = own->tx_entries > peer->rx_entries ? own->tx_entries :
							 peer->rx_entries;
	end->fill = end->sent - peer->rx_entries;
	if (end->fill > info->geometry.entries)
		end->fill = info->geometry.entries;
	end->rings = own->tx_rings + own->rx_rings;
	end->sleeps = own->tx_sleeps + own->rx_sleeps;
	end->syscalls = own->tx_syscalls + own->rx_syscalls;
}

static bool take_fdinfo(struct look *look, pid_t pid, const char *fd)
{
	struct fdinfo info = { .pid = pid }, *kept;
	char path[320], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file))
		read_info_line(&info, line);
	fclose(file);
	if (info.channel ? !info.geometry.entries : !info.group[0])
		return false;
	kept = list_add(&look->infos, sizeof(*kept));
	if (!kept)
		return false;
	*kept = info;
	return true;
}

/* All of a channel, A's before B's, and all of a group; each by process. */
static int by_file(const void *a, const void *b)
{
	const struct fdinfo *x = a, *y = b;

	if (x->channel != y->channel)
		return x->channel < y->channel ? -1 : 1;
	if (!x->channel && x->group[0] != y->group[0])
		return x->group[0] < y->group[0] ? -1 : 1;
	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static void take_endpoint(struct look *look, const struct fdinfo *info)
{
	struct channel *c = look->channels.items;

	if (look->channels.count)
		c += look->channels.count - 1;
	if (!look->channels.count || c->id != info->channel) {
		c = list_add(&look->channels, sizeof(*c));
		if (!c)
			return;
		c->device = true;
		c->id = info->channel;
		c->measured = true;
		c->geometry = info->geometry;
		set_device_end(c, 0, info);
		set_device_end(c, 1, info);
	}
	set_holder(&c->end[info->end], info->pid);
}

static void take_group(struct look *look, const struct fdinfo *info)
{
	struct group *group = look->groups.items;

	if (look->groups.count &&
	    group[look->groups.count - 1].id == info->group[0])
		return;
	group = list_add(&look->groups, sizeof(*group));
	if (!group)
		return;
	group->id = info->group[0];
	group->members = info->members;
	group->pid = info->pid;
	read_comm(info->pid, group->comm);
}

/* Makes channels and groups of what the descriptors said. */
static void pair_endpoints(struct look *look)
{
	const struct fdinfo *info = look->infos.items;
	size_t i;

	if (look->infos.count)
		qsort(look->infos.items, look->infos.count, sizeof(*info),
		      by_file);
	for (i = 0; i < look->infos.count; i++) {
		/* A copy of the same descriptor in one process is no second holder. */
		if (i && !by_file(&info[i - 1], &info[i]))
			continue;
		if (info[i].channel)
			take_endpoint(look, &info[i]);
		else
			take_group(look, &info[i]);
	}
}

/* A process that has ended meanwhile hides nothing. */
static bool vanished(void)
{
	return errno == ENOENT || errno == ESRCH;
}

/* Is it a descriptor of the device that @target of /proc/PID/fd is? */
static bool of_device(const char *target, size_t len)
{
	static const char *const names[] = { "anon_inode:[evering]",
					     "anon_inode:[evering-group]" };
	size_t i;

	for (i = 0; i < 2; i++)
		if (len == strlen(names[i]) && !memcmp(target, names[i], len))
			return true;
	return false;
}

/* Has @pid descriptors of the device?  -1: it may not be looked at. */
static int scan_fds(struct look *look, pid_t pid)
{
	char path[64], target[32];
	struct dirent *entry;
	int found = 0;
	ssize_t len;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return vanished() ? 0 : -1;
	while ((entry = readdir(dir))) {
		len = readlinkat(dirfd(dir), entry->d_name, target,
				 sizeof(target));
		if (len > 0 && of_device(target, (size_t)len) &&
		    take_fdinfo(look, pid, entry->d_name))
			found = 1;
	}
	closedir(dir);
	return found;
}

/* Memfds ----------------------------------------------------------------- */

static bool power_of_two(uint32_t n, uint32_t min, uint32_t max)
{
	return n >= min && n <= max && !(n & (n - 1));
}

/* @len bytes at @at of the mapping; false: not all of them, or not allowed. */
static bool read_map(const struct map *map, uint64_t at, void *to, size_t len)
{
	struct iovec local = { to, len };
	struct iovec remote = { (void *)(uintptr_t)(map->start + at), len };

	if (!map->len || at > map->len || len > map->len - at)
		return false;
	return process_vm_readv(map->pid, &local, 1, &remote, 1, 0) ==
	       (ssize_t)len;
}

/* What the half at the start of a mapping says of the channel, if that can be. */
static void read_geometry(struct map *map)
{
	struct evering_half half = { 0 };
	const struct evering_geometry *g = &half.geometry;

	map->measured = read_map(map, 0, &half, sizeof(half)) &&
			half.abi == EVERING_ABI_VERSION &&
			power_of_two(g->slot_size, EVERING_MIN_SLOT,
				     EVERING_MAX_SLOT) &&
			power_of_two(g->entries, EVERING_MIN_ENTRIES,
				     EVERING_MAX_ENTRIES) &&
			map->len >= EVERING_SLOTS_OFFSET +
					    (uint64_t)g->slot_size * g->entries;
	map->geometry = *g;
}

/* EVERING_A or EVERING_B; -1: not the memory of an endpoint. */
static int end_of(const char *name)
{
	size_t len = strcspn(name, " \n");

	if (len != 1 || (*name != 'a' && *name != 'b'))
		return -1;
	return *name == 'a' ? EVERING_A : EVERING_B;
}

/* The last mapping that was found goes on there, as mlock(2) and others divide it. */
static bool goes_on(const struct look *look, const struct map *map)
{
	struct map *last = look->maps.items;

	if (!look->maps.count)
		return false;
	last += look->maps.count - 1;
	if (last->pid != map->pid || last->inode != map->inode ||
	    last->writable != map->writable ||
	    last->start + last->len != map->start)
		return false;
	last->len += map->len;
	return true;
}

/* Takes one line of maps; 1 if it is of interest. */
static int take_map(struct look *look, pid_t pid, const char *line)
{
	static const char prefix[] = "/memfd:evering-";
	unsigned long long start, last, inode;
	struct map found = { .pid = pid }, *map;
	const char *name;
	char perms[8];
	int end;

	name = strstr(line, prefix);
	if (!name)
		return 0;
	end = end_of(name + strlen(prefix));
	if (end < 0 ||
	    sscanf(line, "%llx-%llx %7s %*x %*s %llu", &start, &last, perms,
		   &inode) != 4 ||
	    perms[0] != 'r' || last <= start)
		return 0;
	found.end = (unsigned int)end;
	found.writable = perms[1] == 'w';
	found.inode = inode;
	found.start = start;
	found.len = last - start;
	if (goes_on(look, &found))
		return 0;
	read_geometry(&found);
	map = list_add(&look->maps, sizeof(*map));
	if (!map)
		return 0;
	*map = found;
	return 1;
}

static int scan_maps(struct look *look, pid_t pid)
{
	char path[64], *line = NULL;
	size_t room = 0;
	int found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	file = fopen(path, "re");
	if (!file)
		return vanished() ? 0 : -1;
	while (getline(&line, &room, file) > 0)
		found |= take_map(look, pid, line);
	free(line);
	fclose(file);
	return found;
}

/*
 * How many entries from @released on are in the ring that lies in @half: the stamps
 * are there up to the last one and not beyond, so a binary search finds it.
 */
static uint32_t ring_fill(const struct map *half,
			  const struct evering_geometry *g, uint32_t released)
{
	uint32_t low = 0, high = g->entries, middle, n, stamp;

	while (low < high) {
		middle = (low + high) / 2;
		n = released + middle;
		if (!read_map(half,
			      EVERING_SLOTS_OFFSET +
				      (uint64_t)(n & (g->entries - 1)) *
					      g->slot_size +
				      g->slot_size - EVERING_STAMP_SIZE,
			      &stamp, sizeof(stamp)))
			return 0;
		/* Or of a later lap, if it was released meanwhile. */
		if ((int32_t)(stamp - (n + 1)) >= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* Which process maps whose memory how. */
struct duo {
	const struct map *writer[2]; /* of A's, of B's */
	const struct map *reader[2];
};

static pid_t pid_of(const struct map *map)
{
	return map ? map->pid : 0;
}

/* Is @b's half the other one of the channel that @a's half belongs to? */
static bool fits(const struct map *wa, const struct map *ra,
		 const struct map *wb, const struct map *rb)
{
	const struct map *a = wa ? wa : ra, *b = wb ? wb : rb;

	if (!a || !b)
		return false;
	if (a->measured && b->measured &&
	    memcmp(&a->geometry, &b->geometry, sizeof(a->geometry)) != 0)
		return false;
	/* An unseen process may be any. */
	if (wa && rb && pid_of(wa) != pid_of(rb))
		return false;
	if (ra && wb && pid_of(ra) != pid_of(wb))
		return false;
	return (wa && rb) || (ra && wb);
}

/* The first mapping of @inode, or where it would be: they are sorted. */
static size_t first_of(const struct look *look, uint64_t inode)
{
	const struct map *map = look->maps.items;
	size_t low = 0, high = look->maps.count, middle;

	while (low < high) {
		middle = (low + high) / 2;
		if (map[middle].inode < inode)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct map *mapping(const struct look *look, uint64_t inode,
				 unsigned int end, bool writable)
{
	const struct map *map = look->maps.items;
	size_t i;

	for (i = first_of(look, inode);
	     i < look->maps.count && map[i].inode == inode; i++)
		if (map[i].end == end && map[i].writable == writable)
			return &map[i];
	return NULL;
}

static void take(struct look *look, uint64_t inode)
{
	struct map *map = look->maps.items;
	size_t i;

	for (i = first_of(look, inode);
	     i < look->maps.count && map[i].inode == inode; i++)
		map[i].taken = true;
}

/*
 * The inode of B's memory that goes with this one of A's, or 0.  Where two processes have
 * several channels they were most likely made one after another: the nearest is the one.
 */
static uint64_t find_other(const struct look *look, struct duo *duo)
{
	const struct map *wa = duo->writer[0], *ra = duo->reader[0], *wb, *rb;
	const struct map *map = look->maps.items, *at;
	uint64_t inode = wa ? wa->inode : ra->inode;
	size_t above = first_of(look, inode), below = above;

	while (below || above < look->maps.count) {
		if (!below || (above < look->maps.count &&
			       distance(map[above].inode, inode) <
				       distance(map[below - 1].inode, inode)))
			at = &map[above++];
		else
			at = &map[--below];
		if (at->end != EVERING_B || at->taken)
			continue;
		wb = mapping(look, at->inode, EVERING_B, true);
		rb = mapping(look, at->inode, EVERING_B, false);
		if (!fits(wa, ra, wb, rb))
			continue;
		duo->writer[1] = wb;
		duo->reader[1] = rb;
		return at->inode;
	}
	return 0;
}

static enum end_state memfd_state(const struct look *look,
				  const struct evering_half *half, pid_t pid)
{
	if (half->closed)
		return CLOSED;
	/* It may be one of the processes that could not be looked into. */
	if (!pid)
		return look->hidden ? UNKNOWN : GONE;
	return (half->armed_rx | half->armed_tx) & EVERING_ARMED ? ASLEEP :
								   AWAKE;
}

/* Fills in what end @i sends; @half and @peer are copies of the control lines. */
static void set_memfd_end(const struct look *look, struct channel *c,
			  unsigned int i, const struct map *ring,
			  const struct evering_half *half,
			  const struct evering_half *peer)
{
	struct end *end = &c->end[i];
	uint32_t next, lag;

	end->state = memfd_state(look, half, end->pid);
	end->counted = true;
	end->arena = (uint64_t)half->grown * EVERING_ARENA_ALIGN;
	if (end->arena > c->geometry.arena_size[i])
		end->arena = c->geometry.arena_size[i];
	end->fill = ring_fill(ring, &c->geometry, peer->released);
	/* The counter lags behind by less than a ring, and the ring does not. */
	next = peer->released + (uint32_t)end->fill;
	lag = next - (uint32_t)half->counters.tx_entries;
	end->sent = half->counters.tx_entries +
		    (lag <= c->geometry.entries ? lag : 0);
	end->rings = half->counters.tx_rings + half->counters.rx_rings;
	end->sleeps = half->counters.tx_sleeps + half->counters.rx_sleeps;
	end->syscalls = half->counters.tx_syscalls + half->counters.rx_syscalls;
}

static void read_halves(struct look *look, struct channel *c,
			const struct duo *duo)
{
	struct evering_half copy[2];
	const struct map *from[2];
	unsigned int i;

	for (i = 0; i < 2; i++) {
		from[i] = duo->writer[i];
		if (!from[i] ||
		    !read_map(from[i], 0, &copy[i], sizeof(copy[i])))
			from[i] = duo->reader[i];
		if (!from[i] ||
		    !read_map(from[i], 0, &copy[i], sizeof(copy[i]))) {
			look->unread++;
			return;
		}
	}
	c->measured = from[0]->measured && from[1]->measured;
	c->geometry = from[0]->geometry;
	if (!c->measured)
		return;
	for (i = 0; i < 2; i++)
		set_memfd_end(look, c, i, from[i], &copy[i], &copy[!i]);
}

static void add_memfd_channel(struct look *look, const struct map *a)
{
	struct duo duo = { 0 };
	struct channel *c;
	uint64_t inode;
	unsigned int i;
	pid_t pid;

	duo.writer[0] = mapping(look, a->inode, EVERING_A, true);
	duo.reader[0] = mapping(look, a->inode, EVERING_A, false);
	inode = find_other(look, &duo);
	/* While two processes are meeting there is one memory only. */
	if (!inode)
		return;
	take(look, inode);
	c = list_add(&look->channels, sizeof(*c));
	if (!c)
		return;
	c->id = a->inode;
	for (i = 0; i < 2; i++) {
		pid = pid_of(duo.writer[i] ? duo.writer[i] : duo.reader[!i]);
		if (pid)
			set_holder(&c->end[i], pid);
		else
			strcpy(c->end[i].comm, "?");
		c->end[i].state = c->end[i].pid ? UNKNOWN :
				  look->hidden	? UNKNOWN :
						  GONE;
	}
	read_halves(look, c, &duo);
}

static int by_inode(const void *a, const void *b)
{
	const struct map *x = a, *y = b;

	return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static void pair_memfds(struct look *look)
{
	struct map *map = look->maps.items;
	uint64_t last = 0;
	size_t i;

	if (look->maps.count)
		qsort(map, look->maps.count, sizeof(*map), by_inode);
	for (i = 0; i < look->maps.count; i++) {
		if (map[i].end != EVERING_A || map[i].inode == last)
			continue;
		last = map[i].inode;
		add_memfd_channel(look, &map[i]);
	}
}

/* Looking ---------------------------------------------------------------- */

#define PF_KTHREAD 0x00200000ul

/*
 * May @pid, which cannot be looked into, have channels?  A thread of the kernel or a zombie
 * has no memory, and a process that has ended meanwhile hides nothing.
 */
static bool may_have_channels(pid_t pid)
{
	char path[64], line[512];
	unsigned long flags;
	const char *rest;
	char state;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (!read_line(path, line, sizeof(line)))
		return !vanished();
	/* A name may have blanks and parentheses in it. */
	rest = strrchr(line, ')');
	if (!rest ||
	    sscanf(rest, ") %c %*d %*d %*d %*d %*d %lu", &state, &flags) != 2)
		return true;
	return state != 'Z' && state != 'X' && !(flags & PF_KTHREAD);
}

static void look_at_process(struct look *look, pid_t pid)
{
	int maps = scan_maps(look, pid);
	int fds = scan_fds(look, pid);

	if (maps > 0 || fds > 0)
		look->processes++;
	else if ((maps < 0 || fds < 0) && may_have_channels(pid))
		look->hidden++;
}

/* Rates, since the look before. */
static void compare(struct channel *c, const struct channel *old,
		    double seconds)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		struct end *end = &c->end[i];
		const struct end *was = &old->end[i];
		double sent, rings;

		if (!end->counted || !was->counted || seconds <= 0)
			continue;
		/* Forwards: they are the processes' own words. */
		sent = end->sent > was->sent ? (double)(end->sent - was->sent) :
					       0;
		rings = end->rings > was->rings ?
				(double)(end->rings - was->rings) :
				0;
		end->sent_rate = sent / seconds;
		end->rings_rate = rings / seconds;
		end->sleeps_rate =
			end->sleeps > was->sleeps ?
				(double)(end->sleeps - was->sleeps) / seconds :
				0;
		end->quiet = sent > 0 && sent > rings ? 1 - rings / sent : 0;
	}
	c->rate = c->end[0].sent_rate + c->end[1].sent_rate;
}

static int by_rate(const void *a, const void *b)
{
	const struct channel *x = a, *y = b;

	if (x->rate != y->rate)
		return x->rate > y->rate ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int by_id(const void *a, const void *b)
{
	const struct channel *x = a, *y = b;

	if (x->device != y->device)
		return x->device < y->device ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Rates of all channels, which come to stand in the order of these. */
static void compare_all(struct look *look, struct look *old)
{
	struct channel *c = look->channels.items, *was;
	size_t i;

	if (!look->channels.count)
		return;
	if (old->channels.count)
		qsort(old->channels.items, old->channels.count, sizeof(*was),
		      by_id);
	for (i = 0; i < look->channels.count && old->channels.count; i++) {
		was = bsearch(&c[i], old->channels.items, old->channels.count,
			      sizeof(*was), by_id);
		if (was)
			compare(&c[i], was, (double)(look->at - old->at) / 1e9);
	}
	qsort(c, look->channels.count, sizeof(*c), by_rate);
}

static int take_look(struct top *t)
{
	struct look *look = &t->look[0], *old = &t->look[1], swap = *old;
	struct dirent *entry;
	DIR *proc;
	pid_t pid;

	*old = *look;
	*look = swap;
	look->channels.count = look->maps.count = 0;
	look->infos.count = look->groups.count = 0;
	look->processes = look->hidden = look->unread = 0;
	proc = opendir("/proc");
	if (!proc) {
		complain("/proc: %s (mount proc there)", strerror(errno));
		return -1;
	}
	look->at = clock_ns();
	while ((entry = readdir(proc))) {
		pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid > 0)
			look_at_process(look, pid);
	}
	closedir(proc);
	pair_endpoints(look);
	pair_memfds(look);
	compare_all(look, old);
	find_servers(look);
	return 0;
}

/* Showing ---------------------------------------------------------------- */

#define MAX_WIDTH 256

enum column {
	COLUMN_CHANNEL,
	COLUMN_END,
	COLUMN_PID,
	COLUMN_COMMAND,
	COLUMN_RING,
	COLUMN_ARENA,
	COLUMN_FILL,
	COLUMN_MESSAGES,
	COLUMN_BELLS,
	COLUMN_QUIET,
	COLUMN_SLEEPS,
	COLUMN_STATE,
	COLUMNS,
};

/* @rank: those of lower ones are shown first; the last is as wide as there is room for. */
static const struct {
	const char *head;
	int width;
	bool to_left;
	int rank;
} columns[COLUMNS] = {
	[COLUMN_CHANNEL] = { "CHANNEL", 10, true, 6 },
	[COLUMN_END] = { "E", 1, true, 0 },
	[COLUMN_PID] = { "PID", 7, false, 1 },
	[COLUMN_COMMAND] = { "COMMAND", 15, true, 2 },
	[COLUMN_RING] = { "RING", 9, false, 10 },
	[COLUMN_ARENA] = { "ARENA", 8, false, 11 },
	[COLUMN_FILL] = { "FILL", 5, false, 5 },
	[COLUMN_MESSAGES] = { "MESSAGES/S", 11, false, 3 },
	[COLUMN_BELLS] = { "BELLS/S", 9, false, 9 },
	[COLUMN_QUIET] = { "QUIET", 5, false, 8 },
	[COLUMN_SLEEPS] = { "SLEEPS/S", 9, false, 7 },
	[COLUMN_STATE] = { "STATE", 8, true, 4 },
};

/* Where lines go, how many there is room for, and which columns fit. */
struct page {
	const struct top *t;
	int width;
	int left;
	bool shown[COLUMNS];
	int id_width;
};

#define ID_LEN 24

static void format_id(char id[ID_LEN], const struct channel *c)
{
	snprintf(id, ID_LEN, "%c%llu", c->device ? 'd' : 'm',
		 (unsigned long long)c->id);
}

/* Those of the device may have twenty digits. */
static int widest_id(const struct look *look)
{
	const struct channel *c = look->channels.items;
	int widest = columns[COLUMN_CHANNEL].width, len;
	char id[ID_LEN];
	size_t i;

	for (i = 0; i < look->channels.count; i++) {
		format_id(id, &c[i]);
		len = (int)strlen(id);
		if (len > widest)
			widest = len;
	}
	return widest;
}

static int column_width(const struct page *page, int column)
{
	return column == COLUMN_CHANNEL ? page->id_width :
					  columns[column].width;
}

/* By rank, until one does not fit. */
static void choose_columns(struct page *page)
{
	int room = page->width + 1, rank, i;

	for (rank = 0; rank < COLUMNS; rank++) {
		for (i = 0; columns[i].rank != rank; i++)
			;
		room -= column_width(page, i) + 1;
		/* Without the first few a line says nothing. */
		if (room < 0 && rank > 3)
			return;
		page->shown[i] = true;
	}
}

/* What is longer than the terminal is wide is cut off there. */
static void put_line(struct page *page, const char *colour, const char *text)
{
	if (!page->left)
		return;
	if (page->left > 0)
		page->left--;
	fprintf(output, "%s%.*s%s%s%s", page->t->colour ? colour : "",
		page->width, text, page->t->colour && *colour ? "\033[0m" : "",
		page->t->screen ? "\033[K" : "",
		page->t->screen && !page->left ? "" : "\n");
}

/* The columns that a channel's end and a side of a server have in common. */
struct numbers {
	char arena[2 * FORMAT_LEN];
	char fill[16];
	char sent[FORMAT_LEN];
	char rings[FORMAT_LEN];
	char quiet[16];
	char sleeps[FORMAT_LEN];
};

/* @full: how full the ring is, 0..1; @known: the size of the arena is known. */
static void format_end(struct numbers *n, const struct end *end, double full,
		       bool known, uint64_t arena_size)
{
	char now[FORMAT_LEN], most[FORMAT_LEN];

	*n = (struct numbers){ "-", "-", "-", "-", "-", "-" };
	if (known) {
		format_plain(most, arena_size);
		format_plain(now, end->arena);
		if (end->counted && end->arena < arena_size)
			snprintf(n->arena, sizeof(n->arena), "%s/%s", now,
				 most);
		else
			snprintf(n->arena, sizeof(n->arena), "%s", most);
	}
	if (!end->counted)
		return;
	snprintf(n->fill, sizeof(n->fill), "%3.0f%%", 100.0 * full);
	format_count(n->sent, (uint64_t)(end->sent_rate + .5));
	format_count(n->rings, (uint64_t)(end->rings_rate + .5));
	format_count(n->sleeps, (uint64_t)(end->sleeps_rate + .5));
	if (end->sent_rate > 0)
		snprintf(n->quiet, sizeof(n->quiet), "%3.0f%%",
			 100 * end->quiet);
}

/* @text: by column */
static void put_row(struct page *page, const char *colour,
		    const char *const text[COLUMNS])
{
	char line[MAX_WIDTH + 1];
	size_t len = 0;
	int i, width;

	for (i = 0; i < COLUMNS && len < sizeof(line); i++) {
		if (!page->shown[i])
			continue;
		width = column_width(page, i);
		if (i == COLUMN_STATE)
			width = 0;
		len += (size_t)snprintf(line + len, sizeof(line) - len, "%s%*s",
					len ? " " : "",
					columns[i].to_left ? -width : width,
					text[i]);
	}
	put_line(page, colour, line);
}

static void put_numbers(struct page *page, const char *colour, const char *id,
			char letter, pid_t pid, const char *command,
			const char *ring, const struct numbers *n,
			const char *state)
{
	char number[16] = "-", end[2] = { letter, '\0' };
	const char *const text[COLUMNS] = {
		id,	 end,	  number,   command,  ring,	 n->arena,
		n->fill, n->sent, n->rings, n->quiet, n->sleeps, state,
	};

	if (pid)
		snprintf(number, sizeof(number), "%d", pid);
	put_row(page, colour, text);
}

static void put_end(struct page *page, const struct channel *c, unsigned int i)
{
	const struct end *end = &c->end[i];
	char id[ID_LEN] = "", ring[32] = "-";
	const char *colour = "";
	struct numbers n;
	double full = 0;

	if (!i)
		format_id(id, c);
	if (c->measured)
		snprintf(ring, sizeof(ring), "%ux%u", c->geometry.entries,
			 c->geometry.slot_size);
	if (end->counted)
		full = (double)end->fill / (double)c->geometry.entries;
	format_end(&n, end, full, c->measured, c->geometry.arena_size[i]);
	if (end->state >= DETACHED)
		colour = "\033[31m";
	else if (end->sent_rate > 0)
		colour = "\033[32m";
	put_numbers(page, colour, id, "AB"[i], end -> pid, end -> comm, ring,
		    &n, state_names[end->state]);
}

static void put_channel(struct page *page, const struct channel *c)
{
	put_end(page, c, 0);
	put_end(page, c, 1);
}

/* "3 awake, 997 asleep" */
static void format_states(char *buf, size_t size, const struct side *side)
{
	size_t len = 0, i;

	*buf = '\0';
	for (i = 0; i < END_STATES && len < size; i++)
		if (side->states[i])
			len += (size_t)snprintf(buf + len, size - len,
						"%s%zu %s", len ? ", " : "",
						side->states[i],
						state_names[i]);
}

/* The server's own ends, or its clients'. */
static void put_side(struct page *page, const struct server *server,
		     unsigned int i)
{
	const struct side *side = &server->side[i];
	char id[24] = "", clients[32], ring[32], states[160];
	const char *command = server->comm;
	pid_t pid = server->pid;
	struct numbers n;

	if (!i) {
		snprintf(id, sizeof(id), "%c%llu", server->group ? 'g' : 's',
			 server->group ? (unsigned long long)server->group :
					 (unsigned long long)pid);
	} else {
		pid = 0;
		snprintf(clients, sizeof(clients), "%zu process%s",
			 server->clients, server->clients == 1 ? "" : "es");
		command = clients;
	}
	snprintf(ring, sizeof(ring), "*%zu", server->channels);
	format_end(&n, &side->sum, side->fullest, side->sum.counted,
		   side->arena_size);
	format_states(states, sizeof(states), side);
	put_numbers(page, side->sum.sent_rate > 0 ? "\033[32m" : "", id,
		    "SC"[i], pid, command, ring, &n, states);
}

/* The server that is number @i, from 0 on. */
static void put_server(struct page *page, const struct look *look, size_t i)
{
	const struct server *server = look->servers.items;
	const struct channel *c = look->channels.items;
	size_t j;

	put_side(page, &server[i], 0);
	put_side(page, &server[i], 1);
	for (j = 0; page->t->o.unfold && j < look->channels.count; j++)
		if (c[j].server == i + 1)
			put_channel(page, &c[j]);
}

/* The busiest first, whether it is a server or a channel by itself. */
static void put_rows(struct page *page, const struct look *look)
{
	const struct server *server = look->servers.items;
	const struct channel *c = look->channels.items;
	size_t i, j = 0;

	for (i = 0; i < look->channels.count; i++) {
		if (c[i].server)
			continue;
		for (; j < look->servers.count && server[j].rate >= c[i].rate;
		     j++)
			put_server(page, look, j);
		put_channel(page, &c[i]);
	}
	for (; j < look->servers.count; j++)
		put_server(page, look, j);
}

static const char *plural(size_t n, const char *one, const char *many)
{
	return n == 1 ? one : many;
}

/* The sums, with as much about them as fits. */
static void put_sums(struct page *page, const struct look *look)
{
	const struct channel *c = look->channels.items;
	char now[32], channels[32], servers[32] = "", processes[32], rate[64];
	const char *const parts[] = { now, channels, servers, processes, rate };
	/* The last ones are the first that go. */
	static const int order[] = { 1, 4, 3, 2, 0 };
	size_t count = look->servers.count, len = 0, room = 0, i;
	char line[MAX_WIDTH + 1], number[FORMAT_LEN];
	time_t seconds = time(NULL);
	bool shown[5] = { false };
	struct tm local;
	double sum = 0;

	for (i = 0; i < look->channels.count; i++)
		sum += c[i].rate;
	strftime(now, sizeof(now), "evering top  %H:%M:%S  ",
		 localtime_r(&seconds, &local));
	snprintf(channels, sizeof(channels), "%zu channel%s, ",
		 look->channels.count, plural(look->channels.count, "", "s"));
	if (count)
		snprintf(servers, sizeof(servers), "%zu server%s, ", count,
			 plural(count, "", "s"));
	snprintf(processes, sizeof(processes), "%u process%s, ",
		 look->processes, plural(look->processes, "", "es"));
	snprintf(rate, sizeof(rate), "%s messages/s",
		 format_count(number, (uint64_t)(sum + .5)));
	for (i = 0; i < 5; i++) {
		room += strlen(parts[order[i]]);
		shown[order[i]] = i < 2 || room <= (size_t)page->width;
	}
	*line = '\0';
	for (i = 0; i < 5; i++)
		if (shown[i])
			len += (size_t)snprintf(line + len, sizeof(line) - len,
						"%s", parts[i]);
	put_line(page, "", line);
}

/* What there may be that is not shown, and what it takes to see it. */
static void put_unseen(struct page *page, const struct look *look)
{
	char hidden[48] = "", unread[48] = "", line[MAX_WIDTH + 1] = "";

	if (look->hidden)
		snprintf(hidden, sizeof(hidden), "%u process%s hidden",
			 look->hidden, plural(look->hidden, "", "es"));
	if (look->unread)
		snprintf(unread, sizeof(unread), "%u channel%s unread",
			 look->unread, plural(look->unread, "", "s"));
	if (*hidden || *unread)
		snprintf(line, sizeof(line), "%s%s%s: %s", hidden,
			 *hidden && *unread ? ", " : "", unread,
			 !geteuid() ? "that takes CAP_SYS_PTRACE" :
			 *hidden    ? "only root sees all" :
				      "see 'evering doctor'");
	put_line(page, "", line);
}

static void put_table(struct page *page, const struct look *look)
{
	const char *heads[COLUMNS];
	int i;

	for (i = 0; i < COLUMNS; i++)
		heads[i] = columns[i].head;
	put_sums(page, look);
	put_unseen(page, look);
	put_row(page, "\033[7m", heads);
	put_rows(page, look);
}

/* Of what is no screen: $COLUMNS, or as many as there are. */
static int batch_width(void)
{
	const char *wanted = getenv("COLUMNS");
	uint64_t width;

	if (!wanted || !parse_number(wanted, &width) || !width ||
	    width > MAX_WIDTH)
		return MAX_WIDTH;
	return (int)width;
}

static void show_table(const struct top *t)
{
	struct page page = { .t = t, .width = batch_width(), .left = -1 };

	if (t->screen) {
		screen_size(&page.left, &page.width);
		fputs("\033[H", output);
	}
	page.id_width = widest_id(&t->look[0]);
	choose_columns(&page);
	put_table(&page, &t->look[0]);
	fputs(t->screen ? "\033[J" : "\n", output);
}

static const char *json_state(size_t state)
{
	return state == UNKNOWN ? "unknown" : state_names[state];
}

static void put_json_numbers(struct json *j, const struct end *end)
{
	uint64_t quiet = end->sent > end->rings ? end->sent - end->rings : 0;

	if (!end->counted)
		return;
	json_number(j, "arena_now", end->arena);
	json_number(j, "sent", end->sent);
	json_number(j, "fill", end->fill);
	json_number(j, "rings", end->rings);
	json_number(j, "sleeps", end->sleeps);
	json_number(j, "system_calls", end->syscalls);
	json_number(j, "wakeups_suppressed", quiet);
	json_fixed(j, "messages_per_second", end->sent_rate, 3);
	json_fixed(j, "rings_per_second", end->rings_rate, 3);
	json_fixed(j, "sleeps_per_second", end->sleeps_rate, 3);
}

static void put_json_end(struct json *j, const char *key,
			 const struct channel *c, unsigned int i)
{
	const struct end *end = &c->end[i];

	json_open(j, key, '{');
	json_number(j, "pid", (uint64_t)end->pid);
	json_number(j, "holders", end->holders);
	json_text(j, "command", end->comm);
	json_text(j, "state", json_state(end->state));
	if (end->group)
		json_number(j, "group", end->group);
	if (c->measured)
		json_number(j, "arena", c->geometry.arena_size[i]);
	put_json_numbers(j, end);
	json_close(j, '}');
}

static void put_json_channels(struct json *j, const struct look *look)
{
	const struct channel *c = look->channels.items;
	size_t i;

	json_open(j, "channels", '[');
	for (i = 0; i < look->channels.count; i++) {
		json_open(j, NULL, '{');
		json_text(j, "backend", c[i].device ? "device" : "memfd");
		json_number(j, "id", c[i].id);
		/* The place in the list of servers. */
		if (c[i].server)
			json_number(j, "server", c[i].server - 1);
		if (c[i].measured) {
			json_number(j, "slot", c[i].geometry.slot_size);
			json_number(j, "ring", c[i].geometry.entries);
		}
		put_json_end(j, "a", &c[i], 0);
		put_json_end(j, "b", &c[i], 1);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_json_side(struct json *j, const char *key,
			  const struct side *side)
{
	size_t i;

	json_open(j, key, '{');
	json_open(j, "states", '{');
	for (i = 0; i < END_STATES; i++)
		if (side->states[i])
			json_number(j, json_state(i), side->states[i]);
	json_close(j, '}');
	json_number(j, "arena", side->arena_size);
	put_json_numbers(j, &side->sum);
	if (side->sum.counted)
		json_fixed(j, "fullest", side->fullest, 3);
	json_close(j, '}');
}

static void put_json_servers(struct json *j, const struct look *look)
{
	const struct server *server = look->servers.items;
	size_t i;

	json_open(j, "servers", '[');
	for (i = 0; i < look->servers.count; i++) {
		json_open(j, NULL, '{');
		json_text(j, "backend", server[i].device ? "device" : "memfd");
		if (server[i].group)
			json_number(j, "group", server[i].group);
		json_number(j, "pid", (uint64_t)server[i].pid);
		json_text(j, "command", server[i].comm);
		json_number(j, "channels", server[i].channels);
		json_number(j, "client_processes", server[i].clients);
		put_json_side(j, "own", &server[i].side[0]);
		put_json_side(j, "clients", &server[i].side[1]);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_json_groups(struct json *j, const struct look *look)
{
	const struct group *group = look->groups.items;
	size_t i;

	json_open(j, "groups", '[');
	for (i = 0; i < look->groups.count; i++) {
		json_open(j, NULL, '{');
		json_number(j, "id", group[i].id);
		json_number(j, "pid", (uint64_t)group[i].pid);
		json_text(j, "command", group[i].comm);
		json_number(j, "members", group[i].members);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void show_json(const struct look *look)
{
	struct json j = { .out = output };

	json_open(&j, NULL, '{');
	json_number(&j, "time", (uint64_t)time(NULL));
	json_number(&j, "processes", look->processes);
	json_number(&j, "hidden_processes", look->hidden);
	json_number(&j, "unread_channels", look->unread);
	put_json_channels(&j, look);
	put_json_servers(&j, look);
	put_json_groups(&j, look);
	json_close(&j, '}');
	json_end(&j);
}

/* The whole -------------------------------------------------------------- */

/* How long before the first table, so that it has rates. */
#define FIRST_NS 250000000ll

static void draw_again(void *context, char key)
{
	struct top *t = context;

	if (key == 'u')
		t->o.unfold = !t->o.unfold;
	show_table(t);
	flush_output();
}

static int watch(struct top *t)
{
	uint64_t shown = 0;

	if (take_look(t))
		return EXIT_FAILURE;
	if (!screen_rest(clock_ns() + (t->o.interval_ns < FIRST_NS ?
					       t->o.interval_ns :
					       FIRST_NS),
			 NULL, NULL))
		return EXIT_SUCCESS;
	for (;;) {
		if (take_look(t))
			return EXIT_FAILURE;
		if (t->o.json)
			show_json(&t->look[0]);
		else
			show_table(t);
		if (!flush_output())
			return EXIT_FAILURE;
		if (++shown == t->o.count)
			return EXIT_SUCCESS;
		if (!screen_rest(t->look[0].at + t->o.interval_ns, draw_again,
				 t))
			return EXIT_SUCCESS;
	}
}

static const struct option_spec options[] = {
	{ "interval", 'i', OPTION_SECONDS,
	  FIELD(struct top_options, interval_ns), SECOND / 100, 3600 * SECOND },
	{ "count", 'c', OPTION_NUMBER, FIELD(struct top_options, count),
	  .least = 1 },
	{ "batch", 'b', OPTION_FLAG, FIELD(struct top_options, batch) },
	{ "unfold", 'u', OPTION_FLAG, FIELD(struct top_options, unfold) },
	{ "json", 0, OPTION_FLAG, FIELD(struct top_options, json) },
	{ .name = NULL },
};

static const char help[] =
	"Usage: evering top [OPTIONS]\n"
	"\n"
	"Shows the channels of this machine at work, the busiest first: their processes\n"
	"and sizes, how full each ring is, messages, doorbells rung and sleeps a second,\n"
	"and which part of the messages needed no wake-up.  A terminal that is too\n"
	"narrow shows the most important columns.  Only root sees the channels of other\n"
	"users.\n"
	"\n"
	"Four channels or more of one group of the device, or of one process, are a\n"
	"server, whose clients are folded into two lines.  On a terminal, the key u\n"
	"unfolds or folds them, and q or Ctrl-C ends the program.\n"
	"\n"
	"  -i, --interval=SECONDS  time from one table to the next, 0.01..3600       [1]\n"
	"  -c, --count=N           tables to print, 1 or more                   [no end]\n"
	"  -b, --batch             print one table after another, as if standard output\n"
	"                          were no terminal\n"
	"  -u, --unfold            show the channels of each server, too\n"
	"      --json              print JSON, an object a line for each table\n"
	"  -h, --help              print this text\n"
	"\n"
	"The exit status is 0 at the end, also by SIGINT, 1 after an error, 2 if the\n"
	"command line is invalid, 128 + n after another signal n.\n";

static void free_look(struct look *look)
{
	free(look->channels.items);
	free(look->servers.items);
	free(look->groups.items);
	free(look->infos.items);
	free(look->maps.items);
	free(look->members.items);
}

int cmd_top(int argc, char **argv)
{
	struct top t = { .o.interval_ns = SECOND };
	int status;

	set_command("evering top");
	status = parse_options(options, help, &t.o, argc, argv);
	if (status >= 0)
		return status;
	t.screen = !t.o.batch && !t.o.json && is_terminal(output);
	t.colour = colour_wanted(output);
	catch_end_signals();
	if (t.screen)
		screen_open();
	status = watch(&t);
	screen_close();
	free_look(&t.look[0]);
	free_look(&t.look[1]);
	return end_status(status);
}
