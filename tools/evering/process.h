/* SPDX-License-Identifier: MIT */
/*
 * What a process inherits, and what it owes its terminal: descriptors, signals,
 * standard output, and the line or the screen that changes.  Each of them may have
 * been left in any state by the process that started this one.  For one thread.
 */
#ifndef PROCESS_H
#define PROCESS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*
 * First of all in main(): descriptors 0 to 2 are taken, no signal is blocked,
 * children can be waited for, and a process that is number 1 of its PID namespace
 * ends by the end signals below as any other does.
 */
void begin_process(void);

/* Signals ---------------------------------------------------------------- */

/*
 * The end signals: SIGINT, SIGTERM, SIGHUP and SIGQUIT.  One that is ignored when the
 * program starts stays ignored, as nohup(1) wants it.
 *
 * end_signal: the one that has come since catch_end_signals(), or 0.
 */
extern volatile sig_atomic_t end_signal;
/* End signals end waiting calls with EINTR, and set end_signal. */
void catch_end_signals(void);
/*
 * End signals that are caught also call @wake, which is async-signal-safe: for a wait that
 * would not notice one that comes just before it.  NULL: no more.
 */
void wake_at_end(void (*wake)(void));
/* End signals end the process again; one that has come does so at once. */
void uncatch_end_signals(void);
/* End signals do nothing: for a child that ends with its parent. */
void ignore_end_signals(void);
/* Keeps end signals from coming but in a ppoll(2) that is given *@old. */
void block_end_signals(sigset_t *old);
/* @status, unless a signal other than SIGINT has come: then 128 and its number. */
int end_status(int status);

/* Standard output -------------------------------------------------------- */

/*
 * Standard output, buffered.  Its writes wait for a reader, even if it was made
 * non-blocking elsewhere, until an end signal comes; then only what can be written
 * without waiting is written.
 */
extern FILE *output;

/*
 * Writes what is buffered.  False: something is lost, now or before, and there is no
 * sense in printing more; close_output() will say why.
 */
bool flush_output(void);
/* The same, and also false if the readers of a pipe are gone; writes nothing. */
bool output_wanted(void);
/*
 * At the end: writes what is buffered, and complains about what is lost.  Returns
 * @status, or EXIT_FAILURE if that is 0 and something is lost.
 */
int close_output(int status);

/* The terminal ----------------------------------------------------------- */

/* If @file is a terminal that understands escapes. */
bool is_terminal(FILE *file);
/* If what is printed to @file may be coloured: such a terminal, and no $NO_COLOR. */
bool colour_wanted(FILE *file);
/* Columns of the terminal that @fd is; 80 if it is none. */
int terminal_width(int fd);

/* If a line that changes can be shown, on standard error. */
bool progress_wanted(void);
/*
 * Draws a bar and @text over what was drawn before.  @part is how much is done, of
 * 1; negative if that is not known.  In the background draws nothing.
 */
void progress_draw(double part, const char *text);
/* Takes the line away.  complain() calls it. */
void progress_erase(void);

/*
 * Another screen without a cursor on standard output, and keys from standard input,
 * at once and unseen, while this process is in the foreground.  screen_open() catches
 * the end signals too; screen_close() leaves the terminal as it was.
 */
void screen_open(void);
void screen_close(void);
/* Lines and columns; 24 and 80 if they are not known. */
void screen_size(int *lines, int *columns);
/*
 * Waits until @until on clock_ns(), with or without a screen.  Calls @draw, which may
 * be NULL, when the screen has to be drawn anew: for a key, or 0.  False: an end signal
 * has come, or the key q.
 */
bool screen_rest(int64_t until, void (*draw)(void *context, char key),
		 void *context);

#endif /* PROCESS_H */
