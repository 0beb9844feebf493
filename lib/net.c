// SPDX-License-Identifier: MIT
/*
 * net.c: the other end of a network interface.
 *
 * This side's arena is a circular buffer of bytes, like the module's: frames lie in it
 * in the order of the entries.  When the module has released entries, the bytes up to
 * the end of the last one are free.
 */
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/evering_net.h>

#include "internal.h"
#include "evering_net.h"

#define ALIGN_TO 64u

/**
 * struct evering_net - a network interface
 * @ev: the endpoint
 * @name: its name
 * @received: entries that were received and are not released
 * @untold: bytes of frames that were released since this side last published because of
 *	them
 * @theirs: bytes of the module's arena
 * @arena: this side's arena
 * @size: bytes of @arena
 * @head: the position where the next frame may begin; positions only grow
 * @tail: the position up to which the module has released everything
 * @at: @head, in the arena
 * @sent: entries that were sent
 * @done: entries that the module has released
 * @mask: entries of the ring - 1
 * @ends: the position where the frame of each entry ends, by the entry's number
 */
struct evering_net {
	struct evering *ev;
	char name[EVERING_NET_NAME];
	uint32_t received;
	uint64_t untold;
	uint64_t theirs;
	unsigned char *arena;
	uint64_t size;
	uint64_t head;
	uint64_t tail;
	uint64_t at;
	uint32_t sent;
	uint32_t done;
	uint32_t mask;
	uint64_t ends[];
};

static int ask(const char *name, const struct evering_net_params *params,
	       struct evering_net_create *create)
{
	int device, ret = 0;

	*create = (struct evering_net_create){
		.size = sizeof(*create),
		.flags = (params->flags & EVERING_NET_STAYS ?
				  EVERING_NET_PERSIST :
				  0) |
			 (params->flags & EVERING_NET_SEGMENTS ?
				  EVERING_NET_OFFLOAD :
				  0),
		.entries = params->entries ? params->entries : 256,
		.spin_us = params->spin_us,
		.arena_size = { params->arena_size[0] ? params->arena_size[0] :
							1 << 20,
				params->arena_size[1] ? params->arena_size[1] :
							1 << 20 },
	};
	if (name && strlen(name) >= sizeof(create->name))
		return -EINVAL;
	snprintf(create->name, sizeof(create->name), "%s", name ? name : "");
	device = open("/dev/evnet", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return errno == ENOENT || errno == ENXIO ? -ENODEV : -errno;
	if (ioctl(device, EVERING_IOC_NET, create))
		ret = errno == ENOTTY ? -ENODEV : -errno;
	close(device);
	return ret;
}

int evering_net_open(const char *name, const struct evering_net_params *from,
		     struct evering_net **ret)
{
	struct evering_net_params params = EVERING_NET_PARAMS_INIT;
	struct evering_params endpoint = EVERING_LIMITS_INIT, checked;
	struct evering_net_create create;
	struct evering_net *net;
	int error = 0;

	if (from)
		error = read_sized(&params, sizeof(params), from);
	if (error)
		return error;
	if (params.flags & ~(EVERING_NET_STAYS | EVERING_NET_SEGMENTS))
		return -EINVAL;
	endpoint.policy = params.policy;
	endpoint.spin_ns = params.spin_ns;
	/* Check before an interface is made, because it might stay. */
	error = params_read(&endpoint, true, &checked);
	if (!error)
		error = ask(name, &params, &create);
	if (error)
		return error;
	error = -ENOMEM;
	net = calloc(1, sizeof(*net) + create.entries * sizeof(*net->ends));
	if (net)
		error = evering_open_fd(create.fd, &endpoint, &net->ev);
	close(create.fd);
	if (error) {
		free(net);
		return error;
	}
	memcpy(net->name, create.name, sizeof(net->name));
	net->mask = create.entries - 1;
	net->size = create.arena_size[EVERING_B];
	net->theirs = create.arena_size[EVERING_A];
	net->arena = evering_arena_part(net->ev, net->size);
	if (!net->arena) {
		evering_net_close(net);
		return -ENOMEM;
	}
	*ret = net;
	return 0;
}

void evering_net_close(struct evering_net *net)
{
	if (!net)
		return;
	evering_close(net->ev);
	free(net);
}

const char *evering_net_name(const struct evering_net *net)
{
	return net->name;
}

struct evering *evering_net_endpoint(const struct evering_net *net)
{
	return net->ev;
}

/* As evering_wait(), for conditions that may take several waits. */
static int wait_until(struct evering_net *net, unsigned int what,
		      int64_t timeout_ns, int64_t deadline)
{
	int64_t left = timeout_ns;
	int ret;

	if (timeout_ns > 0) {
		left = deadline - now_ns();
		left = left < 0 ? 0 : left;
	}
	ret = evering_wait(net->ev, what, left);
	return ret == -EAGAIN && timeout_ns > 0 ? -ETIMEDOUT : ret;
}

int evering_net_recv(struct evering_net *net, struct evering_frame *frames,
		     unsigned int count, int64_t timeout_ns)
{
	int64_t deadline = deadline_after(timeout_ns);
	const struct evering_net_packet *entry;
	struct evering_net_packet packet;
	unsigned int n = 0;
	int ret;

	if (count - 1 >= 0x7fffffffu)
		return -EINVAL;
	/* The caller holds all entries, so no more can come. */
	if (net->received > net->mask)
		return -ENOBUFS;
	evering_look_ahead(net->ev, net->received);
	while (!evering_peek_at(net->ev, net->received)) {
		ret = wait_until(net, EVERING_RX, timeout_ns, deadline);
		if (ret < 0)
			return ret;
	}
	while (n < count && net->received <= net->mask &&
	       (entry = evering_peek_at(net->ev, net->received))) {
		packet = *entry;
		frames[n] = (struct evering_frame){
			.data = evering_peer_buffer(net->ev, packet.place,
						    packet.len),
			.len = packet.len,
			.flags = packet.flags,
			.gso_type = packet.gso_type,
			.hdr_len = le16toh(packet.hdr_len),
			.gso_size = le16toh(packet.gso_size),
			.csum_start = le16toh(packet.csum_start),
			.csum_offset = le16toh(packet.csum_offset),
		};
		if (!frames[n].data)
			break;
		net->received++;
		n++;
	}
	evering_look_ahead(net->ev, net->received);
	return n ? (int)n : -EPROTO;
}

void evering_net_release(struct evering_net *net, unsigned int count)
{
	const struct evering_net_packet *entry;
	unsigned int i;

	if (count > net->received)
		count = net->received;
	for (i = 0; i < count; i++) {
		entry = evering_peek_at(net->ev, i);
		net->untold += entry->len;
	}
	net->received -= count;
	evering_release_many(net->ev, count);
	/*
	 * The ring publishes every quarter by itself; this publishes every quarter of
	 * the arena.
	 */
	if (net->untold >= net->theirs / 4) {
		net->untold = 0;
		evering_publish(net->ev);
	}
	evering_look_ahead(net->ev, net->received);
}

/*
 * The module has released all entries except those for which evering_room() counts no
 * room.
 */
static void reclaim(struct evering_net *net)
{
	uint32_t room = evering_room(net->ev);

	if (room == net->mask + 1 - (net->sent - net->done) || !room)
		return;
	net->done = net->sent - (net->mask + 1 - room);
	net->tail = net->ends[(net->done - 1) & net->mask];
}

/* The position of a free place for @len bytes; UINT64_MAX: there is none now. */
static uint64_t place_for(const struct evering_net *net, uint32_t len)
{
	/*
	 * Also if the last frame ended at the end of the arena, so that nothing is
	 * skipped.
	 */
	bool wraps = net->at + len > net->size;
	uint64_t skip = wraps ? net->size - net->at : 0;

	if (net->head + skip + len - net->tail > net->size)
		return UINT64_MAX;
	return wraps ? 0 : net->at;
}

static bool send_one(struct evering_net *net, const struct evering_frame *frame)
{
	uint64_t place = place_for(net, frame->len);
	struct evering_net_packet packet = {
		.len = frame->len,
		.flags = frame->flags,
		.gso_type = frame->gso_type,
		.hdr_len = htole16(frame->hdr_len),
		.gso_size = htole16(frame->gso_size),
		.csum_start = htole16(frame->csum_start),
		.csum_offset = htole16(frame->csum_offset),
	};
	void *entry = evering_reserve(net->ev);

	if (!entry || place == UINT64_MAX) {
		reclaim(net);
		place = place_for(net, frame->len);
		entry = evering_reserve(net->ev);
	}
	if (!entry || place == UINT64_MAX)
		return false;
	evering_copy(net->arena + place, frame->data, frame->len);
	packet.place = place;
	memcpy(entry, &packet, sizeof(packet));
	if (place != net->at)
		net->head += net->size - net->at;
	net->at = place + ((frame->len + ALIGN_TO - 1) & ~(ALIGN_TO - 1));
	net->head += net->at - place;
	net->ends[net->sent++ & net->mask] = net->head;
	evering_commit(net->ev);
	return true;
}

/*
 * Waits until the module has released one more entry; the sender may lack room in the
 * arena.
 */
static int await_release(struct evering_net *net, int64_t timeout_ns,
			 int64_t deadline)
{
	uint32_t room = evering_room(net->ev);
	int ret;

	if (room > net->mask) /* the whole ring, and so the whole arena */
		return 0;
	ret = evering_want_room(net->ev, room + 1);
	return ret ? ret : wait_until(net, EVERING_TX, timeout_ns, deadline);
}

int evering_net_send(struct evering_net *net,
		     const struct evering_frame *frames, unsigned int count,
		     int64_t timeout_ns)
{
	struct endpoint *e = to_endpoint(net->ev);
	int64_t deadline = deadline_after(timeout_ns);
	unsigned int n = 0;
	int ret;

	if (count - 1 >= 0x7fffffffu)
		return -EINVAL;
	if (e->backend->gone(e))
		return -EPIPE;
	if (frames->len > net->size / 2)
		return -EMSGSIZE;
	for (;;) {
		while (n < count && frames[n].len <= net->size / 2 &&
		       send_one(net, &frames[n]))
			n++;
		evering_flush(net->ev);
		if (n)
			return (int)n;
		ret = await_release(net, timeout_ns, deadline);
		if (ret < 0)
			return ret;
	}
}
