/* SPDX-License-Identifier: MIT */
/*
 * peer.h: a kernel module as the peer of tests that do not care who it is: evering_echo,
 * which sends back each entry, or answers each operation with its opcode and its data.
 *
 * The variants "echo" are there only where /dev/evering_echo is.
 */
#ifndef EVERING_SELFTESTS_PEER_H
#define EVERING_SELFTESTS_PEER_H

#include "common.h"
#include "module.h"

#include <linux/evering_echo.h>
#include <sys/ioctl.h>

/* As BACKEND_VARIANTS(), and one whose peer is the module. */
#define PEER_VARIANTS(fixture)                                                 \
	FIXTURE_VARIANT(fixture)                                               \
	{                                                                      \
		uint32_t backend;                                              \
		bool echo;                                                     \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, memfd){                                   \
		.backend = EVERING_BACKEND_MEMFD,                              \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, device){                                  \
		.backend = EVERING_BACKEND_DEVICE,                             \
	};                                                                     \
	FIXTURE_VARIANT_ADD(fixture, echo)                                     \
	{                                                                      \
		.backend = EVERING_BACKEND_DEVICE, .echo = true,               \
	}

/*
 * A channel to the module, of which @params are as of one to a process; but it has an arena
 * of its own only for operations that bring buffers back, which these tests do not want.
 */
static inline int echo_open(const struct evering_params *params, uint32_t flags,
			    uint32_t spin_us, struct evering **ev)
{
	struct evering_params mine = EVERING_LIMITS_INIT;
	struct evering_echo arg = {
		.size = sizeof(arg),
		.flags = flags,
		.spin_us = spin_us,
		.geometry = {
			.slot_size = params->slot_size,
			.entries = params->entries,
			.arena_size = { params->arena_size[EVERING_PEERS],
					params->arena_size[EVERING_MINE] },
		},
	};
	int device = open("/dev/evering_echo", O_RDWR | O_CLOEXEC);
	int ret;

	if (device < 0)
		return -errno;
	if (flags & EVERING_ECHO_OPS)
		arg.geometry.arena_size[EVERING_A] = 0;
	ret = ioctl(device, EVERING_IOC_ECHO, &arg) ? -errno : 0;
	close(device);
	if (ret)
		return ret;
	mine.policy = params->policy;
	mine.spin_ns = params->spin_ns;
	mine.arena_begin = params->arena_begin;
	ret = evering_open_fd(arg.fd, &mine, ev);
	close(arg.fd);
	return ret;
}

static inline void choose_peers(void)
{
	if (backend_there(EVERING_BACKEND_DEVICE))
		module_load("evering_echo", "");
	if (!backend_there(EVERING_BACKEND_DEVICE) ||
	    access("/dev/evering_echo", R_OK | W_OK))
		drop_variants("echo");
}

#undef TEST_HARNESS_MAIN
#define TEST_HARNESS_MAIN                                                      \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		choose_variants();                                             \
		choose_peers();                                                \
		return test_harness_run(argc, argv);                           \
	}

#endif /* EVERING_SELFTESTS_PEER_H */
