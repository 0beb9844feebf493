/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * evering_echo: /dev/evering_echo, a kernel module that sends back what a process sends.
 * It is the other end of a channel in tests, and for measuring the cost of a channel to a
 * module.
 */
#ifndef _UAPI_LINUX_EVERING_ECHO_H
#define _UAPI_LINUX_EVERING_ECHO_H

#include <linux/evering.h>

/* evering_echo.flags */
#define EVERING_ECHO_THREAD \
	(1u << 0) /* the module has a thread that answers, not the ringer */
#define EVERING_ECHO_OPS \
	(1u << 1) /* entries are operations: <linux/evering_op.h> */
#define EVERING_ECHO_FLAGS	(EVERING_ECHO_THREAD | EVERING_ECHO_OPS)

/* On the device: -EINVAL, -E2BIG, -ENOMEM, -EDQUOT, -EMFILE, -ENFILE as CREATE. */
#define EVERING_IOC_ECHO	_IO(EVERING_IOC_MAGIC, 0x40)

/**
 * struct evering_echo - EVERING_IOC_ECHO: a new channel to the module
 * @size: in: bytes of the caller's struct
 * @flags: in: EVERING_ECHO_*
 * @geometry: in: of the channel; arena_size[EVERING_A] is the module's own
 * @budget: in: the most entries that it takes in one pass; 0: 64
 * @spin_us: in: with a thread: microseconds for which it looks for more before it sleeps
 * @fd: out: the caller's end
 * @reserved: 0
 */
struct evering_echo {
	__u32 size;
	__u32 flags;
	struct evering_geometry geometry;
	__u32 budget;
	__u32 spin_us;
	__s32 fd;
	__u32 reserved;
};

#endif /* _UAPI_LINUX_EVERING_ECHO_H */
