/* SPDX-License-Identifier: MIT */
/*
 * evering_net.h: a process as the other end of a network interface.  Includes
 * <evering.h>.
 *
 * The kernel module evnet makes the interface (evnet(4)).  The process receives the
 * frames that the stack sends, and the stack receives the frames that the process
 * sends, as if from a wire:
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
 * One thread at a time receives and releases: "the receiving thread" below.  One thread
 * at a time sends: "the sending thread".  They may be different threads.
 */
#ifndef EVERING_NET_H
#define EVERING_NET_H

#include <evering.h>

#ifdef __cplusplus
extern "C" {
#endif

struct evering_net;

/* evering_net_params.flags: the interface stays when this process has ended */
#define EVERING_NET_STAYS    (1u << 0)
/* and frames may have no checksums, and up to 64 KiB */
#define EVERING_NET_SEGMENTS (1u << 1)

/**
 * struct evering_net_params - how to make a network interface
 * @size: sizeof(struct evering_net_params)
 * @flags: EVERING_NET_*
 * @entries: frames that each direction has room for, a power of two, 4..65,536; 0: 256
 * @arena_size: bytes for the data of frames to this process, and of frames from it:
 *	multiples of 4096; 0: 1 MiB.  A frame may take half of them
 * @spin_us: how many microseconds a kernel thread looks for frames from this process
 *	before it sleeps, 0..1000; 0: there is no such thread, and evering_net_send()
 *	hands the frames over
 * @policy: how this process waits, as in evering_params.policy
 * @spin_ns: as in evering_params.spin_ns
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
 * struct evering_frame - an Ethernet frame, from its destination address to its end
 * @data: the bytes of the frame; those of a received frame are in memory that the
 *	kernel writes
 * @len: bytes at @data, 14..65,549
 * @flags: as in struct virtio_net_hdr
 * @gso_type: as in struct virtio_net_hdr
 * @hdr_len: as in struct virtio_net_hdr
 * @gso_size: as in struct virtio_net_hdr
 * @csum_start: as in struct virtio_net_hdr
 * @csum_offset: as in struct virtio_net_hdr
 *
 * The fields of struct virtio_net_hdr are in the machine's byte order, and 0 without
 * EVERING_NET_SEGMENTS.
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
 * @name: the interface's name, or a pattern such as "tap%d"; NULL: "evnet%d"
 * @params: how to make it; NULL: EVERING_NET_PARAMS_INIT
 * @net: out: the interface, for evering_net_close()
 *
 * The interface is in the network namespace of the calling thread, is down, and has a
 * random address.  It ends with this process, unless EVERING_NET_STAYS is set; then it
 * may also stay after -ENOMEM and -EDQUOT.
 *
 * Context: Any thread.
 * Return: 0; -ENODEV: there is no /dev/evnet; -EACCES: this user may not open it;
 * -EPERM: no CAP_NET_ADMIN, or spin_us without CAP_SYS_NICE; -EINVAL: @params or @name
 * is invalid, or the existing interface was made with another EVERING_NET_SEGMENTS;
 * -E2BIG: more entries or memory than allowed; -EBUSY: another process has the
 * interface; -EEXIST: an interface of that name is of another kind; -ENOMEM, -EDQUOT:
 * no memory, or a quota of the module; -EMFILE, -ENFILE: no descriptors; -EINTR: a
 * signal; -EPROTONOSUPPORT: the modules have another version.
 */
EVERING_API int evering_net_open(const char *name,
				 const struct evering_net_params *params,
				 struct evering_net **net);

/**
 * evering_net_close - close an interface
 * @net: from evering_net_open(); NULL: does nothing
 *
 * Frames that were sent reach the stack; frames that were not received are lost.
 *
 * Context: Alone: no other thread uses it.
 */
EVERING_API void evering_net_close(struct evering_net *net);

/**
 * evering_net_name - get the name of an interface
 * @net: interface
 *
 * Context: Any thread.
 * Return: the name that it was made with, valid until evering_net_close().
 */
EVERING_API const char *evering_net_name(const struct evering_net *net);

/**
 * evering_net_endpoint - get the endpoint of an interface
 * @net: interface
 *
 * For waits, groups, evering_fd() and evering_peer().  The caller must not send,
 * receive or release with it.
 *
 * Context: Any thread.
 * Return: the endpoint, valid until evering_net_close().
 */
EVERING_API struct evering *evering_net_endpoint(const struct evering_net *net);

/**
 * evering_net_recv - receive frames
 * @net: interface
 * @frames: out: the frames; room for @count
 * @count: how many frames at the most, 1..INT_MAX
 * @timeout_ns: how long to wait for the first of them, as for evering_recv()
 *
 * Returns only frames that no earlier call has returned.  The data of a frame stays
 * valid until the frame is released.
 *
 * Context: The receiving thread.
 * Return: how many, at least 1; -EAGAIN, -ETIMEDOUT: none; -ENOBUFS: all entries of the
 * ring are received and not released; -EPIPE: the interface is gone; -EPROTO: it broke
 * the rules; -EINTR: a signal; -EINVAL: @count is invalid.
 */
EVERING_API int evering_net_recv(struct evering_net *net,
				 struct evering_frame *frames,
				 unsigned int count, int64_t timeout_ns);

/**
 * evering_net_release - release frames
 * @net: interface
 * @count: how many of the frames that were received, from the oldest on
 *
 * Context: The receiving thread.
 */
EVERING_API void evering_net_release(struct evering_net *net,
				     unsigned int count);

/**
 * evering_net_send - send frames
 * @net: interface
 * @frames: the frames; copied
 * @count: how many frames, 1..INT_MAX
 * @timeout_ns: how long to wait for room for the first of them, as for evering_send()
 *
 * Makes one system call at the most.  A frame that is invalid, or is sent while the
 * interface is down, counts as an error or as dropped in the statistics of the
 * interface.
 *
 * Context: The sending thread.
 * Return: how many were sent, at least 1; -EAGAIN, -ETIMEDOUT: no room; -EMSGSIZE: the
 * first is longer than half of the arena; -EPIPE: the interface is gone; -EINTR: a
 * signal; -EINVAL: @count is invalid.
 */
EVERING_API int evering_net_send(struct evering_net *net,
				 const struct evering_frame *frames,
				 unsigned int count, int64_t timeout_ns);

#ifdef __cplusplus
}
#endif

#endif /* EVERING_NET_H */
