/* SPDX-License-Identifier: MIT */
/*
 * evering_net.h: be the other end of a network interface.  Includes <evering.h>.
 *
 * The kernel module evnet makes the interface (evnet(4)); what the stack sends comes to this
 * process, and what this process sends comes to the stack as if from a wire:
 *
 *	struct evering_frame frame;
 *
 *	ret = evering_net_open("tap%d", NULL, &net);
 *	while (!ret) {
 *		ret = evering_net_recv(net, &frame, 1, EVERING_WAIT_FOREVER);
 *		if (ret < 0)
 *			break;
 *		look_at(frame.data, frame.len);
 *		evering_net_release(net, 1);
 *		ret = 0;
 *	}
 *	evering_net_close(net);
 *
 * One thread at a time receives and releases, and one sends; they may be two.
 */
#ifndef EVERING_NET_H
#define EVERING_NET_H

#include <evering.h>

#ifdef __cplusplus
extern "C" {
#endif

struct evering_net;

/* evering_net_params.flags: the interface stays when this process has gone; */
#define EVERING_NET_STAYS    (1u << 0)
/* frames may be without checksums, and of up to 64 KiB. */
#define EVERING_NET_SEGMENTS (1u << 1)

/**
 * struct evering_net_params - what an interface is to be; start from EVERING_NET_PARAMS_INIT
 * @size: sizeof(struct evering_net_params)
 * @flags: EVERING_NET_*
 * @entries: frames that each direction has room for, a power of two, 4..65536; 0: 256
 * @arena_size: bytes for the data of those to this process, and of those from it: multiples
 *	of 4096; 0: 1 MiB.  A frame may have half of it
 * @spin_us: for how many microseconds a thread of the kernel looks for frames of this process
 *	before it sleeps, 0..1000; 0: there is no such thread, and sending hands them over
 * @policy, @spin_ns: how this process waits, as in evering_params
 */
struct evering_net_params {
	uint32_t size;
	uint32_t flags;
	uint32_t entries;
	uint32_t spin_us;
	uint64_t arena_size[2];
	uint32_t policy;
	uint32_t spin_ns;
};

#define EVERING_NET_PARAMS_INIT                                          \
	{                                                                \
		sizeof(struct evering_net_params), 0, 0, 0, { 0, 0 },    \
			EVERING_ADAPTIVE, EVERING_SPIN_NS                \
	}

/**
 * struct evering_frame - an Ethernet frame, from its destination address on
 * @data: its bytes; when received, in memory that the kernel writes
 * @len: how many, 14..65549
 * @flags, @gso_type, @hdr_len, @gso_size, @csum_start, @csum_offset: as in struct
 *	virtio_net_hdr, of the machine's byte order; 0 without EVERING_NET_SEGMENTS
 */
struct evering_frame {
	const void *data;
	uint32_t len;
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

/**
 * evering_net_open - make a network interface, or take over one that has no process
 * @name: its name, or a pattern as "tap%d"; NULL: "evnet%d"
 * @params: what it is to be; NULL for the defaults
 * @net: the interface
 *
 * In the network namespace of the calling thread; the interface is down, and has a random
 * address.  It ends when this process does, unless EVERING_NET_STAYS: then it may stay after
 * -ENOMEM and -EDQUOT, too.
 *
 * Context: Any thread.
 * Return: 0; -ENODEV: no /dev/evnet; -EACCES: it is not for this user; -EPERM: no
 * CAP_NET_ADMIN, or @spin_us without CAP_SYS_NICE; -EINVAL: @params, or no such name
 * can be, or one that is there was made with another EVERING_NET_SEGMENTS; -E2BIG: more
 * entries or memory than there may be; -EBUSY: another process has it; -EEXIST: one of
 * that name is of another kind; -ENOMEM, -EDQUOT, -EMFILE, -ENFILE; -EINTR;
 * -EPROTONOSUPPORT: modules of another version.
 */
EVERING_API int evering_net_open(const char *name,
				 const struct evering_net_params *params,
				 struct evering_net **net);

/**
 * evering_net_close - leave an interface
 * @net: from evering_net_open(), or NULL
 *
 * Frames that were sent are with the stack, or will be; frames that were not received
 * are gone.
 *
 * Context: Alone: no other thread uses it.
 */
EVERING_API void evering_net_close(struct evering_net *net);

/**
 * evering_net_name - what it is called
 * @net: interface
 *
 * Context: Any thread.
 * Return: the name that it was made with, until evering_net_close().
 */
EVERING_API const char *evering_net_name(const struct evering_net *net);

/**
 * evering_net_endpoint - what frames come by
 * @net: interface
 *
 * For waits, groups, evering_fd() and evering_peer(); nothing is to be sent, received or
 * released by it.
 *
 * Context: Any thread.
 * Return: the endpoint, until evering_net_close().
 */
EVERING_API struct evering *evering_net_endpoint(const struct evering_net *net);

/**
 * evering_net_recv - receive frames
 * @net: interface
 * @frames: out: where they are
 * @count: how many at most, 1..INT_MAX
 * @timeout_ns: how long to wait for the first of them, as evering_recv()
 *
 * Of those that were received before and are not released, it returns none again.  Each stays
 * where it is until it is released.
 *
 * Return: how many, at least 1; -EAGAIN, -ETIMEDOUT: none; -ENOBUFS: as many as the
 * ring has are received and not released; -EPIPE: the interface is gone; -EPROTO;
 * -EINTR; -EINVAL: @count.  The thread that receives.
 */
EVERING_API int evering_net_recv(struct evering_net *net,
				 struct evering_frame *frames,
				 unsigned int count, int64_t timeout_ns);

/**
 * evering_net_release - be done with frames
 * @net: interface
 * @count: how many of those that were received, from the oldest on
 *
 * The thread that receives.
 */
EVERING_API void evering_net_release(struct evering_net *net,
				     unsigned int count);

/**
 * evering_net_send - send frames
 * @net: interface
 * @frames: what; copied
 * @count: how many, 1..INT_MAX
 * @timeout_ns: how long to wait for room for the first of them
 *
 * One system call at most for all of them.  What is no frame, or sent while the interface is
 * down, the interface counts as an error or as dropped.
 *
 * Return: how many were sent, at least 1; -EAGAIN, -ETIMEDOUT: no room; -EMSGSIZE: the
 * first is longer than half the arena; -EPIPE: the interface is gone; -EINTR; -EINVAL:
 * @count.  The thread that sends.
 */
EVERING_API int evering_net_send(struct evering_net *net,
				 const struct evering_frame *frames,
				 unsigned int count, int64_t timeout_ns);

#ifdef __cplusplus
}
#endif

#endif /* EVERING_NET_H */
