// SPDX-License-Identifier: MIT
/*
 * evering doctor: checks what this machine offers that channels need, and prints what to do
 * about what is missing.  It changes nothing, and tries what can be tried rather than look
 * up what is said about it.  What it advises can be done where it runs: module.c finds out
 * how the module is to be had here.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <evering.h>

#include "json.h"
#include "memory.h"
#include "module.h"
#include "options.h"
#include "process.h"
#include "remedy.h"
#include "util.h"

#define DEVICE "/dev/evering"

/* The same on all machines, but later than some headers. */
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum verdict {
	OK,
	WARN,
	BAD,
};

struct doctor {
	bool json;
	bool colour;
	bool module; /* is there */
	bool device; /* can be used */
	unsigned int user_channels; /* the device's quota of one user */
	unsigned int warnings;
	unsigned int bad;
	struct utsname kernel;
};

#define INDENT 19

/* @text after what is in the line already, and on a terminal in lines that fit. */
static void put_text(const char *first, const char *text)
{
	int width = is_terminal(output) ? terminal_width(STDOUT_FILENO) : 0;
	int room = width - INDENT - (int)strlen(first), end;

	fputs(first, output);
	while (width > 2 * INDENT && (int)strlen(text) > room) {
		for (end = room; end > 0 && text[end] != ' '; end--)
			;
		if (!end)
			break;
		fprintf(output, "%.*s\n%*s", end, text,
			INDENT + (int)strlen(first), "");
		text += end + 1;
	}
	fprintf(output, "%s\n", text);
}

/* One check; @remedy is NULL if there is nothing to do. */
static void report(struct doctor *d, enum verdict verdict, const char *check,
		   const char *remedy, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

static void report(struct doctor *d, enum verdict verdict, const char *check,
		   const char *remedy, const char *fmt, ...)
{
	static const char *const words[] = { "ok", "warn", "bad" };
	static const char *const colours[] = { "\033[32m", "\033[33m",
					       "\033[31m" };
	struct json j = { .out = output };
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	d->warnings += verdict == WARN;
	d->bad += verdict == BAD;
	if (d->json) {
		json_open(&j, NULL, '{');
		json_text(&j, "check", check);
		json_text(&j, "result", words[verdict]);
		json_text(&j, "text", text);
		json_text(&j, "remedy", remedy);
		json_close(&j, '}');
		json_end(&j);
		return;
	}
	fprintf(output, "%s%-4s%s  %-12s ", d->colour ? colours[verdict] : "",
		words[verdict], d->colour ? "\033[0m" : "", check);
	put_text("", text);
	if (!remedy)
		return;
	fprintf(output, "%*s", INDENT, "");
	put_text("-> ", remedy);
}

static void check_kernel(struct doctor *d)
{
	unsigned int major = 0, minor = 0;
	const char *remedy = NULL;
	enum verdict verdict = OK;

	sscanf(d->kernel.release, "%u.%u", &major, &minor);
	if (major < 5 || (major == 5 && minor < 1)) {
		verdict = BAD;
		remedy = "use Linux 5.1 or later: memfds cannot be sealed "
			 "against later writers before that";
	} else if (major < 6 || (major == 6 && minor < 1)) {
		verdict = WARN;
		remedy = "the module needs Linux 6.1 or later; the backend "
			 "memfd works";
	}
	report(d, verdict, "kernel", remedy, "Linux %s %s", d->kernel.release,
	       d->kernel.machine);
}

static void check_module(struct doctor *d)
{
	char version[64], found[ADVICE_LEN], advice[ADVICE_LEN];

	d->module = !access("/sys/module/evering", F_OK) ||
		    !access(DEVICE, F_OK);
	if (!d->module) {
		find_module(d->kernel.release, found, advice);
		/* What cannot be changed is nothing to warn of. */
		report(d, *advice ? WARN : OK, "module",
		       *advice ? advice : NULL, "%s", found);
		return;
	}
	if (!read_line("/sys/module/evering/version", version, sizeof(version)))
		*version = '\0';
	report(d, OK, "module", NULL, "evering.ko is loaded%s%s",
	       *version ? ", version " : "", version);
}

/* Needed to build the module, so only if it is not there. */
static void check_headers(struct doctor *d)
{
	char advice[ADVICE_LEN] = "";

	if (have_headers(d->kernel.release)) {
		report(d, OK, "headers", NULL, "/lib/modules/%s/build",
		       d->kernel.release);
		return;
	}
	if (!d->module)
		headers_advice(d->kernel.release, advice);
	report(d, *advice ? WARN : OK, "headers", *advice ? advice : NULL,
	       "no kernel headers at /lib/modules/%s/build%s",
	       d->kernel.release, *advice ? "" : "; none are needed");
}

static void check_info(struct doctor *d, int fd)
{
	struct evering_info info = { .size = sizeof(info) };
	char a[FORMAT_LEN], b[FORMAT_LEN], c[FORMAT_LEN];

	if (ioctl(fd, EVERING_IOC_INFO, &info)) {
		report(d, BAD, "device",
		       "as root, remove the file and load the module again",
		       DEVICE " is not evering's: %s", strerror(errno));
		return;
	}
	if (info.abi != EVERING_ABI_VERSION) {
		report(d, BAD, "device",
		       info.abi < EVERING_ABI_VERSION ?
			       "load the module that belongs to this library: "
			       "update evering-dkms, or make modules; then, as root, "
			       "rmmod evering and load the new one" :
			       "use the library that belongs to this module, or "
			       "a later one",
		       "the loaded module speaks ABI %u, this library %u: AUTO "
		       "uses memfd",
		       info.abi, EVERING_ABI_VERSION);
		return;
	}
	d->device = true;
	d->user_channels = info.max_user_channels;
	report(d, OK, "device", NULL, DEVICE ", version %u of the ABI%s%s",
	       info.abi,
	       info.features & EVERING_FEATURE_GROW ? ", arenas grow" : "",
	       info.features & EVERING_FEATURE_GROUP ?
		       ", groups sleep in one file" :
		       "");
	report(d, info.max_channel_bytes >> 22 ? OK : WARN, "quota",
	       info.max_channel_bytes >> 22 ?
		       NULL :
		       "as root: echo 1024 "
		       ">/sys/module/evering/parameters/max_channel_mib",
	       "%s a channel, %s and %u channels a user, %s in all",
	       format_size(a, info.max_channel_bytes),
	       format_bytes(b, info.max_user_bytes), info.max_user_channels,
	       format_bytes(c, info.max_total_bytes));
}

static void check_device(struct doctor *d)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	char remedy[ADVICE_LEN];
	struct stat st;

	if (fd >= 0) {
		check_info(d, fd);
		close(fd);
	} else if (errno == ENOENT && !d->module) {
		report(d, OK, "device", NULL,
		       "no " DEVICE ", as there is no module");
	} else if (errno == EACCES || errno == EPERM) {
		if (stat(DEVICE, &st))
			st.st_mode = 0;
		snprintf(remedy, sizeof(remedy),
			 "%schmod 666 " DEVICE ", and the same in the udev "
			 "rule 60-evering.rules; a container has to allow it",
			 as_root());
		report(d, BAD, "device", remedy,
		       DEVICE " has mode %04o, and user %u may not use it",
		       (unsigned int)st.st_mode & 07777,
		       (unsigned int)geteuid());
	} else {
		report(d, BAD, "device",
		       "mount devtmpfs at /dev, or make the device by hand: see "
		       "/sys/class/misc/evering/dev",
		       DEVICE ": %s", strerror(errno));
	}
}

static void check_memfd(struct doctor *d)
{
	int err = memfd_error();

	if (err)
		report(d, BAD, "memfd",
		       "use Linux 5.1 or later, outside of a sandbox that "
		       "forbids memfd_create(2)",
		       "no memfd that can be sealed: %s", strerror(err));
	else
		report(d, OK, "memfd", NULL, "memfds can be sealed");
}

/* What /proc/self/status says of @key, "CapEff:", into @value; "" if nothing. */
static void read_status(const char *key, char *value, size_t size)
{
	char line[256], name[32], text[32];
	FILE *file = fopen("/proc/self/status", "re");

	*value = '\0';
	while (file && !*value && fgets(line, sizeof(line), file))
		if (sscanf(line, "%31s %31s", name, text) == 2 &&
		    !strcmp(name, key))
			snprintf(value, size, "%s", text);
	if (file)
		fclose(file);
}

/* If bit @capability is in the effective set. */
static bool capable(unsigned int capability)
{
	char set[32];

	read_status("CapEff:", set, sizeof(set));
	return strtoull(set, NULL, 16) >> capability & 1;
}

/* How this process gets @wanted descriptors. */
static void descriptors_advice(rlim_t wanted, char *advice)
{
	unsigned long long n = wanted;
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	if (wanted <= limit.rlim_max || capable(CAP_SYS_RESOURCE))
		snprintf(
			advice, ADVICE_LEN,
			"raise it: ulimit -n %llu, or LimitNOFILE=%llu of the service",
			n, n);
	else
		snprintf(
			advice, ADVICE_LEN,
			"the hard limit is %llu: root raises that, in "
			"/etc/security/limits.conf or by LimitNOFILE=%llu of the service",
			(unsigned long long)limit.rlim_max, n);
}

static void check_descriptors(struct doctor *d)
{
	char advice[ADVICE_LEN];
	struct rlimit limit;
	enum verdict verdict;

	getrlimit(RLIMIT_NOFILE, &limit);
	verdict = limit.rlim_cur < 16 ? BAD : limit.rlim_cur < 256 ? WARN : OK;
	descriptors_advice(1024, advice);
	report(d, verdict, "descriptors", verdict == OK ? NULL : advice,
	       "RLIMIT_NOFILE is %llu", (unsigned long long)limit.rlim_cur);
}

/* The only number in a file of /proc/sys; 0: not to be had. */
static unsigned long long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned long long n = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%llu", &n) != 1)
		n = 0;
	fclose(file);
	return n;
}

/* What a process has open and mapped beside its channels. */
#define BESIDE 64u

/* How many things of @each fit into @limit; a limit of 0 is none. */
static unsigned long long fit(unsigned long long limit, unsigned int each)
{
	if (!limit)
		return ULLONG_MAX;
	return limit > BESIDE ? (limit - BESIDE) / each : 0;
}

static unsigned long long least(unsigned long long a, unsigned long long b)
{
	return a < b ? a : b;
}

/*
 * How many channels a process may have: what an endpoint takes is what selftests/library/clients.c
 * finds, of mappings the most.  On memfd an endpoint has five descriptors.  One that is in a
 * group or a server sleeps in an epoll set of the group's; one that sleeps by itself has a set
 * of its own, for each direction that it has slept in.
 */
static void check_channels(struct doctor *d)
{
	unsigned int grouped = d->device ? 1 : 5, alone = d->device ? 1 : 7;
	unsigned int mappings = d->device ? 6 : 4;
	unsigned long long maps = read_number("/proc/sys/vm/max_map_count");
	unsigned long long by_maps = fit(maps, mappings), most;
	char advice[ADVICE_LEN], quota[64] = "", beside[128] = "";
	struct rlimit limit;
	bool few;

	getrlimit(RLIMIT_NOFILE, &limit);
	most = least(fit(limit.rlim_cur, grouped), by_maps);
	few = most < 100;
	if (fit(limit.rlim_cur, grouped) <= by_maps)
		descriptors_advice(1024 * grouped, advice);
	else
		snprintf(advice, sizeof(advice),
			 "%ssysctl vm.max_map_count=65530", as_root());
	if (d->device && d->user_channels) {
		most = least(most, d->user_channels);
		snprintf(quota, sizeof(quota), ", and a user %u",
			 d->user_channels);
	} else {
		snprintf(
			beside, sizeof(beside),
			", or %llu by themselves, which take up to %u when they "
			"have slept",
			least(fit(limit.rlim_cur, alone), by_maps), alone);
	}
	report(d, few ? WARN : OK, "channels", few ? advice : NULL,
	       "a process may have %llu in groups and servers, with %u descriptor%s and "
	       "up to %u mappings each (vm.max_map_count is %llu)%s%s",
	       most, grouped, grouped == 1 ? "" : "s", mappings, maps, beside,
	       quota);
}

static void check_file_size(struct doctor *d)
{
	char size[FORMAT_LEN];
	struct rlimit limit;

	getrlimit(RLIMIT_FSIZE, &limit);
	if (limit.rlim_cur == RLIM_INFINITY)
		return;
	report(d, limit.rlim_cur < (1u << 20) ? BAD : WARN, "file size",
	       "raise it: ulimit -f unlimited",
	       "RLIMIT_FSIZE is %s: no memfd, of a half and an arena, may be "
	       "larger",
	       format_bytes(size, limit.rlim_cur));
}

static void check_address_space(struct doctor *d)
{
	char size[FORMAT_LEN];
	struct rlimit limit;

	getrlimit(RLIMIT_AS, &limit);
	if (limit.rlim_cur != RLIM_INFINITY)
		report(d, WARN, "addresses", "raise it: ulimit -v unlimited",
		       "RLIMIT_AS leaves %s for all mappings",
		       format_bytes(size, limit.rlim_cur));
}

/* What a program that locks all that it maps may map: little, for most users. */
static void check_locking(struct doctor *d)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	uint64_t needed = params.arena_size[0] + params.arena_size[1] +
			  2 * EVERING_SLOTS_OFFSET +
			  2 * params.entries * params.slot_size;
	char size[FORMAT_LEN], channel[FORMAT_LEN];
	struct rlimit limit;

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY || capable(CAP_IPC_LOCK))
		return;
	report(d, limit.rlim_cur < needed ? WARN : OK, "locking",
	       limit.rlim_cur < needed ?
		       "for a program that calls mlockall(2): ulimit -l, or "
		       "LimitMEMLOCK= of the service" :
		       NULL,
	       "RLIMIT_MEMLOCK is %s; a channel of the usual size maps %s, all of "
	       "it locked after mlockall(2)",
	       format_bytes(size, limit.rlim_cur),
	       format_bytes(channel, needed));
}

#define LITTLE_MEMORY (64u << 20)

static void check_memory(struct doctor *d)
{
	char available[FORMAT_LEN], left[FORMAT_LEN], limit[FORMAT_LEN];
	char remedy[400] = "use small arenas, or free some";
	struct memory m;
	uint64_t least;

	if (!find_memory(&m)) {
		report(d, WARN, "memory", "mount proc at /proc",
		       "/proc/meminfo is not readable");
		return;
	}
	least = m.left < m.available ? m.left : m.available;
	format_bytes(available, m.available);
	if (m.left < m.available) {
		snprintf(remedy, sizeof(remedy),
			 "use small arenas, or raise %s of that cgroup",
			 m.file);
		report(d, least < LITTLE_MEMORY ? WARN : OK, "memory",
		       least < LITTLE_MEMORY ? remedy : NULL,
		       "%s left of the %s that cgroup %s may have (%s); %s "
		       "available",
		       format_bytes(left, m.left), format_bytes(limit, m.limit),
		       printable(m.cgroup), m.file, available);
		return;
	}
	report(d, least < LITTLE_MEMORY ? WARN : OK, "memory",
	       least < LITTLE_MEMORY ? remedy : NULL, "%s available%s",
	       available,
	       m.left < UINT64_MAX ? ", and no cgroup allows less" : "");
}

/* A system call that came later than some filters, tried so that it does nothing. */
static void check_call(struct doctor *d, const char *name, long ret,
		       const char *without)
{
	char remedy[160], line[32] = "";
	int err = ret < 0 ? errno : 0;

	/* The call exists if it gets as far as looking at descriptor -1. */
	if (err == EBADF) {
		report(d, OK, "call", NULL, "%s is there", name);
		return;
	}
	read_status("Seccomp:", line, sizeof(line));
	if (*line == '2')
		snprintf(
			remedy, sizeof(remedy),
			"have the seccomp filter allow it, or update what made "
			"that: the container's runtime, libseccomp");
	else
		snprintf(remedy, sizeof(remedy), "use a later kernel");
	report(d, WARN, "call", remedy, "%s is answered '%s'%s: %s", name,
	       strerror(err), *line == '2' ? " by a seccomp filter" : "",
	       without);
}

static void check_calls(struct doctor *d)
{
	struct epoll_event event;
	struct iovec iov = { &event, sizeof(event) };

	check_call(d, "epoll_pwait2(2)",
		   syscall(SYS_epoll_pwait2, -1, &event, 1, NULL, NULL, 0),
		   "waits with a time limit go another way, on memfd");
	check_call(d, "preadv2(2)",
		   syscall(SYS_preadv2, -1, &iov, 1, 0L, 0L, 0),
		   "doorbells are read another way, on memfd");
}

static void check_cpus(struct doctor *d)
{
	cpu_set_t set;
	int count = 0;

	if (!sched_getaffinity(0, sizeof(set), &set))
		count = CPU_COUNT(&set);
	if (!count)
		count = (int)sysconf(_SC_NPROCESSORS_ONLN);
	report(d, count < 2 ? WARN : OK, "CPUs",
	       count < 2 ?
		       "only one of two processes runs at a time: wait with "
		       "the policy 'block', never with 'busy'" :
		       NULL,
	       "%d for this process", count);
}

static void check_ptrace(struct doctor *d)
{
	char scope[16];

	if (!read_line("/proc/sys/kernel/yama/ptrace_scope", scope,
		       sizeof(scope)) ||
	    !strcmp(scope, "0"))
		return;
	if (geteuid())
		report(d, WARN, "ptrace",
		       "to see them all, run 'evering top' as root, or set "
		       "kernel.yama.ptrace_scope to 0",
		       "kernel.yama.ptrace_scope is %s: 'evering top' sees no "
		       "counters of memfd channels",
		       scope);
}

/* A channel that is really made, and used. */
static int try_backend(uint32_t backend, const char **name)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering *ev[2];
	char word[5] = "";
	int ret;

	params.backend = backend;
	ret = evering_pair(&params, ev);
	if (ret)
		return ret;
	*name = !strcmp(evering_backend_name(ev[0]), "device") ? "device" :
								 "memfd";
	ret = evering_send(ev[0], "ping", 5, 1000000000);
	if (!ret)
		ret = evering_recv(ev[1], word, 5, 1000000000);
	if (!ret && strcmp(word, "ping") != 0)
		ret = -EPROTO;
	evering_close(ev[0]);
	evering_close(ev[1]);
	return ret;
}

static void check_backend(struct doctor *d)
{
	const struct attempt attempt = { .what = "a channel" };
	const char *wanted = getenv("EVERING_BACKEND");
	const char *name = "";
	char remedy[200];
	int ret;

	if (wanted && *wanted && strcmp(wanted, "memfd") != 0 &&
	    strcmp(wanted, "device") != 0) {
		report(d, BAD, "backend",
		       "unset EVERING_BACKEND, or set it to memfd or device",
		       "$EVERING_BACKEND is '%s'", printable(wanted));
		return;
	}
	ret = try_backend(EVERING_BACKEND_AUTO, &name);
	if (ret) {
		find_remedy(&attempt, ret, remedy, sizeof(remedy));
		report(d, BAD, "backend", *remedy ? remedy : NULL,
		       "no channel can be made: %s", strerror(-ret));
	} else {
		report(d, OK, "backend", NULL,
		       "%s%s; a channel was made, and works", name,
		       wanted && *wanted ? ", as $EVERING_BACKEND says" : "");
	}
	/* The other one may be asked for, too. */
	if (d->device && strcmp(name, "device") != 0 &&
	    (ret = try_backend(EVERING_BACKEND_DEVICE, &name))) {
		find_remedy(&attempt, ret, remedy, sizeof(remedy));
		report(d, BAD, "device", *remedy ? remedy : NULL,
		       "no channel can be made of it: %s", strerror(-ret));
	}
}

static void summarize(const struct doctor *d)
{
	if (d->json)
		return;
	if (d->bad)
		fprintf(output, "\n%u bad, %u to know about\n", d->bad,
			d->warnings);
	else if (d->warnings)
		fprintf(output, "\nchannels work; %u to know about\n",
			d->warnings);
	else
		fprintf(output, "\nall is well\n");
}

static const struct option_spec options[] = {
	{ "json", 0, OPTION_FLAG, FIELD(struct doctor, json) },
	{ .name = NULL },
};

static const char help[] =
	"Usage: evering doctor [OPTIONS]\n"
	"\n"
	"Checks what this machine offers that channels need.  Each check prints a line:\n"
	"ok, warn or bad, and below it what to do about what is missing.  It changes\n"
	"nothing.\n"
	"\n"
	"      --json  print JSON, an object a line: check, result, text, remedy\n"
	"  -h, --help  print this text\n"
	"\n"
	"The exit status is 0 if nothing is bad, 1 if something is, 2 if the command\n"
	"line is invalid.\n";

int cmd_doctor(int argc, char **argv)
{
	struct doctor d = { .colour = colour_wanted(output) };
	int status;

	set_command("evering doctor");
	status = parse_options(options, help, &d, argc, argv);
	if (status >= 0)
		return status;
	uname(&d.kernel);
	check_kernel(&d);
	check_module(&d);
	check_headers(&d);
	check_device(&d);
	check_memfd(&d);
	check_descriptors(&d);
	check_channels(&d);
	check_file_size(&d);
	check_address_space(&d);
	check_locking(&d);
	check_memory(&d);
	check_calls(&d);
	check_cpus(&d);
	check_ptrace(&d);
	check_backend(&d);
	summarize(&d);
	return d.bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
