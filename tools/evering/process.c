// SPDX-License-Identifier: MIT
/*
 * What a process inherits, and what it owes its terminal; process.h says what each
 * function is for.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "process.h"
#include "util.h"

/* Signals ---------------------------------------------------------------- */

volatile sig_atomic_t end_signal;

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

static void (*volatile wake_waiter)(void);

static void note_end_signal(int sig)
{
	void (*wake)(void) = wake_waiter;

	end_signal = sig;
	if (wake)
		wake();
	/*
	 * From here on the terminal is put in order and the last word is said.  A
	 * process in the background would be stopped there, and never end: timeout(1)
	 * puts itself, and what it runs, into the background.
	 */
	signal(SIGTTOU, SIG_IGN);
}

static void end_process(int sig)
{
	_exit(128 + sig);
}

static void set_end_handler(void (*handler)(int))
{
	struct sigaction act = { .sa_handler = handler };
	struct sigaction old;
	size_t i;

	/* Without SA_RESTART: a call that waits is to end. */
	for (i = 0; i < sizeof(end_signals) / sizeof(*end_signals); i++)
		if (!sigaction(end_signals[i], NULL, &old) &&
		    old.sa_handler != SIG_IGN)
			sigaction(end_signals[i], &act, NULL);
}

void catch_end_signals(void)
{
	set_end_handler(note_end_signal);
}

void wake_at_end(void (*wake)(void))
{
	wake_waiter = wake;
}

void uncatch_end_signals(void)
{
	/* The kernel keeps signals without a handler from process 1. */
	set_end_handler(getpid() == 1 ? end_process : SIG_DFL);
	if (end_signal)
		raise(end_signal);
}

void ignore_end_signals(void)
{
	set_end_handler(SIG_IGN);
}

void block_end_signals(sigset_t *old)
{
	sigset_t set;
	size_t i;

	sigemptyset(&set);
	for (i = 0; i < sizeof(end_signals) / sizeof(*end_signals); i++)
		sigaddset(&set, end_signals[i]);
	sigprocmask(SIG_BLOCK, &set, old);
}

static void let_end_signals_in(sigset_t *set)
{
	size_t i;

	for (i = 0; i < sizeof(end_signals) / sizeof(*end_signals); i++)
		sigdelset(set, end_signals[i]);
}

int end_status(int status)
{
	return end_signal && end_signal != SIGINT ? 128 + end_signal : status;
}

/* Standard output -------------------------------------------------------- */

FILE *output;
static int output_error; /* errno of what made something be lost, or 0 */

/*
 * As much as can be written without waiting longer than until an end signal: 0, or
 * -1 and errno.  A pipe that poll(2) finds writable takes PIPE_BUF bytes at once.
 */
static ssize_t write_part(const char *from, size_t len)
{
	struct pollfd writable = { .fd = STDOUT_FILENO, .events = POLLOUT };
	const struct timespec none = { 0 };
	sigset_t old, waiting;
	ssize_t n;

	/* The caller may have blocked them already. */
	block_end_signals(&old);
	waiting = old;
	let_end_signals_in(&waiting);
	n = ppoll(&writable, 1, end_signal ? &none : NULL, &waiting);
	if (!n)
		errno = ETIME;
	if (n > 0) {
		/* A terminal may stop a process here that has to hear of its end. */
		sigprocmask(SIG_SETMASK, &waiting, NULL);
		n = write(STDOUT_FILENO, from, len < PIPE_BUF ? len : PIPE_BUF);
	}
	if (n <= 0)
		n = -errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	return n;
}

static ssize_t write_output(void *cookie, const char *from, size_t len)
{
	size_t done = 0;
	ssize_t n;

	(void)cookie;
	while (done < len) {
		n = write_part(from + done, len - done);
		if (n > 0) {
			done += (size_t)n;
		} else if (n != -EINTR && n != -EAGAIN) {
			output_error = (int)-n;
			return 0;
		}
	}
	return (ssize_t)len;
}

static void open_output(void)
{
	const cookie_io_functions_t functions = { .write = write_output };

	output = fopencookie(NULL, "w", functions);
	if (!output) {
		perror("evering");
		exit(EXIT_FAILURE);
	}
}

bool flush_output(void)
{
	return !fflush(output) && !output_error;
}

bool output_wanted(void)
{
	struct pollfd readers = { .fd = STDOUT_FILENO };

	if (!output_error && poll(&readers, 1, 0) == 1 &&
	    readers.revents & (POLLERR | POLLHUP))
		output_error = EPIPE;
	return !output_error;
}

int close_output(int status)
{
	if (flush_output())
		return status;
	complain("standard output: %s", output_error == ETIME ?
						"it has no reader" :
						strerror(output_error));
	return status ? status : EXIT_FAILURE;
}

/* At the beginning ------------------------------------------------------- */

/*
 * A program that is started with 0, 1 or 2 closed would print into the next file
 * that it opens: shared memory, here.  What O_PATH opens fails with EBADF, as a
 * closed descriptor does, and needs no /dev.
 */
static void fill_standard_fds(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/", O_PATH) < 0)
			_exit(EXIT_FAILURE);
}

void begin_process(void)
{
	sigset_t none;

	fill_standard_fds();
	/* Before signals are let in: one may be waiting. */
	uncatch_end_signals();
	/* Ignored, it has the kernel take away the status of a child. */
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* A message is one write, so that two processes do not mix theirs. */
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
	open_output();
}

/* The terminal ----------------------------------------------------------- */

static bool terminal_at(int fd)
{
	const char *term = getenv("TERM");

	return isatty(fd) && term && *term && strcmp(term, "dumb") != 0;
}

static int fd_of(FILE *file)
{
	return file == output ? STDOUT_FILENO : fileno(file);
}

bool is_terminal(FILE *file)
{
	return terminal_at(fd_of(file));
}

bool colour_wanted(FILE *file)
{
	const char *off = getenv("NO_COLOR");

	return is_terminal(file) && !(off && *off);
}

/*
 * If this process may use the terminal @fd: a background process is stopped when it
 * reads from it, or changes how it is set.
 */
static bool in_foreground(int fd)
{
	pid_t group = tcgetpgrp(fd);

	/* -1: it is not this process's controlling terminal. */
	return group < 0 || group == getpgrp();
}

int terminal_width(int fd)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) || !size.ws_col)
		return 80;
	return size.ws_col;
}

/* A line that changes ---------------------------------------------------- */

static bool progress_shown;

bool progress_wanted(void)
{
	return terminal_at(STDERR_FILENO);
}

void progress_draw(double part, const char *text)
{
	/* The last column stays free: some terminals wrap once it is used. */
	int width = terminal_width(STDERR_FILENO) - 1;
	int bar = width - (int)strlen(text) - (int)strlen("[] 100%  ");
	int full, i;

	if (!in_foreground(STDERR_FILENO))
		return;
	fputc('\r', stderr);
	if (part >= 0 && bar >= 8) {
		if (part > 1)
			part = 1;
		if (bar > 40)
			bar = 40;
		full = (int)(part * bar);
		fputc('[', stderr);
		for (i = 0; i < bar; i++)
			fputc(i < full ? '=' : i == full ? '>' : ' ', stderr);
		fprintf(stderr, "] %3d%%  ", (int)(part * 100));
		width -= bar + (int)strlen("[] 100%  ");
	}
	fprintf(stderr, "%.*s\033[K", width, text);
	fflush(stderr);
	progress_shown = true;
}

void progress_erase(void)
{
	if (!progress_shown)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress_shown = false;
}

/* A screen --------------------------------------------------------------- */

static struct {
	bool open;
	bool keys; /* standard input is set to give them at once */
	struct termios saved;
} screen;

static volatile sig_atomic_t stop_asked;

static void note_screen_signal(int sig)
{
	if (sig == SIGTSTP)
		stop_asked = 1;
}

/* To be stopped in good order, and to draw anew when the size has changed. */
static void catch_screen_signals(void)
{
	struct sigaction act = { .sa_handler = note_screen_signal };
	struct sigaction old;

	if (!sigaction(SIGTSTP, NULL, &old) && old.sa_handler != SIG_IGN)
		sigaction(SIGTSTP, &act, NULL);
	sigaction(SIGWINCH, &act, NULL);
}

/* Keys can be had only in the foreground, where a shell may put us later. */
static void take_keys(void)
{
	struct termios raw;

	if (screen.keys || !isatty(STDIN_FILENO) ||
	    !in_foreground(STDIN_FILENO) ||
	    tcgetattr(STDIN_FILENO, &screen.saved))
		return;
	raw = screen.saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	screen.keys = !tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static void enter_screen(void)
{
	fputs("\033[?1049h\033[?25l", output);
	flush_output();
	take_keys();
}

static void leave_screen(void)
{
	fputs("\033[?25h\033[?1049l", output);
	flush_output();
	if (screen.keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &screen.saved);
	screen.keys = false;
}

void screen_open(void)
{
	catch_end_signals();
	catch_screen_signals();
	screen.open = true;
	enter_screen();
}

void screen_close(void)
{
	if (screen.open)
		leave_screen();
	screen.open = false;
}

void screen_size(int *lines, int *columns)
{
	struct winsize size;

	*lines = 24;
	*columns = 80;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col ||
	    !size.ws_row)
		return;
	*lines = size.ws_row;
	*columns = size.ws_col;
}

/* Stops as others do, with the terminal as it was. */
static void stop_here(void)
{
	stop_asked = 0;
	leave_screen();
	signal(SIGTSTP, SIG_DFL);
	raise(SIGTSTP);
	catch_screen_signals();
	enter_screen();
}

/* A key, if one came: false to leave. */
static bool handle_key(void (*draw)(void *context, char key), void *context)
{
	char key;

	if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q')
		return false;
	if (draw)
		draw(context, key);
	return true;
}

bool screen_rest(int64_t until, void (*draw)(void *context, char key),
		 void *context)
{
	struct pollfd key = { .events = POLLIN };
	struct timespec timeout;
	bool go_on = true;
	sigset_t old;
	int64_t left;
	int ret;

	/* The signals that end it come in ppoll() and nowhere else: none is missed. */
	block_end_signals(&old);
	while (go_on && !end_signal && (left = until - clock_ns()) > 0) {
		if (screen.open)
			take_keys();
		key.fd = screen.keys && in_foreground(STDIN_FILENO) ?
				 STDIN_FILENO :
				 -1;
		timeout.tv_sec = left / 1000000000;
		timeout.tv_nsec = left % 1000000000;
		ret = ppoll(&key, 1, &timeout, &old);
		if (ret > 0)
			go_on = handle_key(draw, context);
		if (stop_asked)
			stop_here();
		/* Resized, or back from a stop. */
		if (ret < 0 && screen.open && draw && !end_signal)
			draw(context, 0);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	return go_on && !end_signal;
}
