/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * evnet: /dev/evnet, network interfaces whose other end is a process.
 *
 * EVERING_IOC_NET makes an interface, and returns the process's end of a channel to it.  Each
 * entry, of either ring, stands for a packet: a struct evering_net_packet names the place in
 * the sender's arena where the packet begins, with its Ethernet header.  The receiver copies
 * the packet, or is done with it, before it releases the entry.
 */
#ifndef _UAPI_LINUX_EVERING_NET_H
#define _UAPI_LINUX_EVERING_NET_H

#include <linux/evering.h>

#define EVERING_NET_SLOT	32u	/* bytes of a slot */
#define EVERING_NET_NAME	16	/* bytes of a name, with its zero */
#define EVERING_NET_MAX_PACKET	(65535u + 14u)

/* evering_net_create.flags */
#define EVERING_NET_PERSIST \
	(1u << 0) /* the interface stays when the process has gone */
#define EVERING_NET_OFFLOAD \
	(1u << 1) /* packets may be without checksums, and unsegmented */
#define EVERING_NET_FLAGS	(EVERING_NET_PERSIST | EVERING_NET_OFFLOAD)

/*
 * On the device, with CAP_NET_ADMIN in the network namespace of the caller: makes the
 * interface.  If one of that name exists and has no process, the caller becomes its process.
 * -EPERM: no such capability, or @spin_us without CAP_SYS_NICE; -EINVAL: a flag, a size, or
 * the interface was made with other offloads; -EBUSY: the interface has a process; -EEXIST:
 * an interface of that name is of another kind; and the errors of CREATE.
 */
#define EVERING_IOC_NET		_IO(EVERING_IOC_MAGIC, 0x41)

/**
 * struct evering_net_create - EVERING_IOC_NET: an interface
 * @size: in: bytes of the caller's struct
 * @flags: in: EVERING_NET_*
 * @name: in: its name, a pattern such as "evnet%d", or ""; out: its name
 * @entries: in: slots of each ring; 0: 256
 * @spin_us: in: microseconds for which a thread of the module looks for packets from the
 *	process before it sleeps, up to 1000; 0: there is no thread, and the task that rings
 *	hands over what was sent
 * @arena_size: in: bytes of the module's arena, for packets to the process, and of the
 *	process's arena; 0: 1 MiB
 * @fd: out: the process's end
 * @ifindex: out: index of the interface
 * @reserved: 0
 */
struct evering_net_create {
	__u32 size;
	__u32 flags;
	char name[EVERING_NET_NAME];
	__u32 entries;
	__u32 spin_us;
	__aligned_u64 arena_size[2];
	__s32 fd;
	__u32 ifindex;
	__u32 reserved[2];
};

/**
 * struct evering_net_packet - an entry
 * @place: of the packet, in bytes from the start of the sender's arena
 * @len: bytes of the packet, 14..EVERING_NET_MAX_PACKET
 * @flags: VIRTIO_NET_HDR_F_*.  A process may set NEEDS_CSUM and DATA_VALID; a packet with
 *	another flag counts as an error
 * @gso_type: VIRTIO_NET_HDR_GSO_*
 * @hdr_len: bytes of the headers of a packet that is to be segmented
 * @gso_size: bytes of payload of each segment
 * @csum_start: where the checksum begins
 * @csum_offset: where the checksum goes, from @csum_start
 * @reserved: 0
 *
 * @flags to @csum_offset are those of struct virtio_net_hdr, little endian, and 0 without
 * EVERING_NET_OFFLOAD.  A packet whose values are invalid counts as an error.
 */
struct evering_net_packet {
	__aligned_u64 place;
	__u32 len;
	__u8 flags;
	__u8 gso_type;
	__u16 hdr_len;
	__u16 gso_size;
	__u16 csum_start;
	__u16 csum_offset;
	__u16 reserved;
};

EVERING_ASSERT(sizeof(struct evering_net_packet) == 24);

#endif /* _UAPI_LINUX_EVERING_NET_H */
