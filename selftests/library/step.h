/* SPDX-License-Identifier: MIT */
/*
 * step.h: each instruction that a process takes, and how another process is led to
 * one of them.
 *
 * With the trap flag set an instruction ends in a SIGTRAP, whose handler notes down
 * which is next.  To be led to one of those, a process that does the same again puts
 * a breakpoint there, in its own copy of the code, and passes it as often as the
 * first one did: puts the instruction back, steps, and puts the breakpoint there
 * again.
 *
 * So nobody is debugged, and all that the kernel has to do with it is a signal.
 * Hardware breakpoints would be perf events, for which the kernel patches its own
 * code while it runs; QEMU's translator has been seen to execute the old half of it.
 *
 * Not noted are the instruction after a system call, which the kernel returns to
 * and the flag counts from; and those that read a clock, which are the kernel's own
 * and may not have a breakpoint.
 *
 * On x86-64 alone.  On arm64 a process has no trap flag: it steps only under a debugger,
 * and each step clears the exclusive monitor, so that a loop of load and store exclusive
 * never ends.  Elsewhere kill.c kills after random times, and lanes.c skips what steps.
 */
#ifndef EVERING_SELFTESTS_STEP_H
#define EVERING_SELFTESTS_STEP_H

#include "common.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

/* TSan's own code is not to be interrupted anywhere. */
#if defined(__x86_64__) && !SANITIZED_THREADS
#define STEPS 1
#else
#define STEPS 0
#endif

/* A sanitizer takes many times as many, and none of them is more interesting. */
#define MAX_STEPS (SANITIZED ? 4000u : 150000u)

/* In memory that both processes share. */
struct steps {
	bool over; /* no more of them */
	bool arrived;
	size_t n;
	uintptr_t at[MAX_STEPS];
};

#if STEPS
#define TRAP_FLAG 0x100
#define BREAKPOINT 0xcc

#define VDSO_SIZE 16384u

static struct {
	struct steps *steps;
	pid_t pid;
	uintptr_t vdso;
	unsigned char *at; /* the breakpoint; NULL: note down */
	unsigned char code;
	size_t passes;
} step;

/*
 * Is this the process that steps, or a child that shares its memory?  Without calling
 * anything.
 */
static inline bool step_own(void)
{
	long pid;

	__asm__ __volatile__("syscall"
			     : "=a"(pid)
			     : "0"(SYS_getpid)
			     : "rcx", "r11", "memory");
	return pid == step.pid;
}

/* It calls nothing, because there may be a breakpoint in anything. */
static __attribute__((no_sanitize("address"), no_sanitize("undefined"))) void
step_trapped(int sig, siginfo_t *info, void *context)
{
	greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
	uintptr_t at = (uintptr_t)reg[REG_RIP];
	struct steps *steps = step.steps;

	(void)sig;
	/*
	 * A breakpoint's trap is the kernel's own.  Any other is a step's, whatever it is
	 * called: a virtual CPU may say TRAP_BRKPT, now and then.
	 */
	if (info->si_code == SI_KERNEL) {
		/* A child goes on: who looks would be led to it, and kill the other. */
		while (!step.passes && step_own())
			__atomic_store_n(&steps->arrived, true,
					 __ATOMIC_RELEASE);
		if (step_own())
			step.passes--;
		*step.at = step.code;
		reg[REG_RIP] = (greg_t)step.at;
		reg[REG_EFL] |= TRAP_FLAG;
	} else if (step.at) {
		*step.at = BREAKPOINT;
		reg[REG_EFL] &= ~TRAP_FLAG;
	} else if (steps->over || steps->n == MAX_STEPS || !step_own()) {
		/* To step on, with nothing to note, takes seconds of a busy CPU. */
		reg[REG_EFL] &= ~TRAP_FLAG;
	} else if (at - step.vdso >= VDSO_SIZE) {
		steps->at[steps->n++] = at;
	}
}

static inline int step_by(struct steps *steps)
{
	const struct sigaction action = { .sa_sigaction = step_trapped,
					  .sa_flags = SA_SIGINFO };

	step.steps = steps;
	step.pid = getpid();
	step.vdso = getauxval(AT_SYSINFO_EHDR);
	return sigaction(SIGTRAP, &action, NULL) ? -errno : 0;
}

/* Notes down what this process does from here on, until it sets @steps->over. */
static inline int steps_note(struct steps *steps)
{
	int ret = step_by(steps);

	if (!ret)
		__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() |
					       TRAP_FLAG);
	return ret;
}

/*
 * It goes no further than to the step with the number @point: there it sets
 * @steps->arrived, and does so for ever.
 */
static inline int steps_lead(struct steps *steps, size_t point)
{
	uintptr_t at = steps->at[point];
	int ret = step_by(steps);
	size_t i;

	for (i = 0; i < point; i++)
		step.passes += steps->at[i] == at;
	if (mprotect((void *)(at & ~(uintptr_t)(PAGE - 1)), PAGE,
		     PROT_READ | PROT_WRITE | PROT_EXEC))
		return -errno;
	step.at = (unsigned char *)at;
	step.code = *step.at;
	*step.at = BREAKPOINT;
	return ret;
}
#else
static inline int steps_note(struct steps *steps)
{
	(void)steps;
	return -ENOTSUP;
}

static inline int steps_lead(struct steps *steps, size_t point)
{
	(void)steps;
	(void)point;
	return -ENOTSUP;
}
#endif

#endif /* EVERING_SELFTESTS_STEP_H */
