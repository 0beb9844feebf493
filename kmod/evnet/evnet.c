// SPDX-License-Identifier: GPL-2.0-only
/*
 * evnet: network interfaces whose other end is a process.  See uapi/linux/evering_net.h.
 *
 * To the process: the stack hands over a packet; evnet_xmit() copies it into the module's
 * arena and commits an entry, under the lock of the transmit queue.  Packets lie in the arena
 * in the order of the entries, from its start to its end and then from its start again.  So
 * the arena is free up to the end of the last packet that the process has released.  Without
 * room for the largest packet the queue is stopped; evnet_serve() wakes it.
 *
 * From the process: evnet_serve() copies packets out of the process's arena into buffers of the
 * stack and hands over a list of them, in the task that rings or in a thread.
 *
 * An interface has a way to its process (struct evnet_way), which has the port.  The way holds
 * the interface until the way has ended.  evnet_uninit() cuts the two apart, whatever ends the
 * interface: the end of its process, ip link del, the namespace, rmmod.
 */
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/if_vlan.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/rtnetlink.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>
#include <linux/virtio_net.h>
#include <linux/evering_net.h>
#include <net/net_namespace.h>
#include <net/rtnetlink.h>

#include "evering_port.h"

#define EVNET_ENTRIES	256
#define EVNET_ARENA	SZ_1M
#define EVNET_ALIGN	64u
/* Bytes that are handed to the stack in one list. */
#define EVNET_LIST	SZ_512K
/* After so long without room packets are dropped: they hold the memory of their senders. */
#define EVNET_PATIENCE	(5 * HZ)
#define EVNET_OFFLOADS	(NETIF_F_HW_CSUM | NETIF_F_SG | NETIF_F_FRAGLIST | NETIF_F_TSO | \
			 NETIF_F_TSO6 | NETIF_F_TSO_ECN)

/*
 * The way to one process.  A work item ends it when its process has gone or its interface was
 * cut from it, whichever comes first.  That happens outside RTNL: nobody may wait under RTNL for
 * what a process can delay.
 */
struct evnet_way {
	struct net_device *dev;	/* with a reference, once the interface has the way */
	struct evering_port *port;
	struct work_struct end;
	unsigned long ending;	/* bit 0: @end was queued */
	refcount_t refs;	/* of its memory: the interface, and the call that makes it */
	bool cut;		/* from its interface; under RTNL */
	struct timer_list patience;
	bool offload;
	u32 mask;		/* entries - 1 */
	u64 size;		/* of the module's arena */
	/* Under the lock of the transmit queue; positions in the arena only go up. */
	bool stalled;		/* the process has not made room for EVNET_PATIENCE */
	u64 head;		/* where the next packet may begin, */
	u64 at;			/* which is there in the arena */
	u64 tail;		/* the process has released the arena up to here */
	u32 sent;		/* entries that were sent, */
	u32 done;		/* and that the process has released */
	u64 ends[];		/* where the packet of each entry ends */
};

struct evnet {
	u32 most;	/* bytes of a packet: half of the module's arena */
	struct evnet_way __rcu *way;	/* NULL: there is no process; written under RTNL */
	bool persists;
	bool offload;
	u64 tx_packets, tx_bytes, tx_dropped;
	u64 rx_packets, rx_bytes, rx_dropped, rx_errors;
};

/* Ends interfaces whose process has gone. */
static struct workqueue_struct *evnet_wq;

/* ------------------------------------------------------------------- to the process */

/* Frees what the process has released; a count beyond what was sent is ignored. */
static void evnet_reclaim(struct evnet_way *way, u32 released)
{
	if (released - way->done > way->sent - way->done || released == way->done)
		return;
	way->done = released;
	way->tail = way->ends[(released - 1) & way->mask];
}

/* A place for @len contiguous bytes, or -1; *@end: where they end, rounded up. */
static s64 evnet_place(const struct evnet_way *way, u32 len, u64 *end)
{
	bool wraps = way->at + len > way->size;

	*end = way->head + (wraps ? way->size - way->at : 0) + ALIGN(len, EVNET_ALIGN);
	if (*end - way->tail > way->size)
		return -1;
	return wraps ? 0 : way->at;
}

/* *@released: the process's count before the look that found no room. */
static bool evnet_has_room(struct evnet_way *way, u32 len, u32 *released)
{
	u64 end;

	if (evering_port_reserve(way->port, 0) && evnet_place(way, len, &end) >= 0)
		return true;
	*released = evering_port_released(way->port);
	evnet_reclaim(way, *released);
	return evering_port_reserve(way->port, 0) && evnet_place(way, len, &end) >= 0;
}

/*
 * The longest packet that is taken.  Half of the arena always fits once the process has released
 * everything.
 */
static u32 evnet_longest(const struct net_device *dev, const struct evnet_way *way)
{
	u32 longest = dev->features & NETIF_F_ALL_TSO ? EVERING_NET_MAX_PACKET :
							dev->mtu + VLAN_ETH_HLEN;

	return min_t(u64, longest, way->size / 2);
}

static int evnet_copy(struct evnet_way *way, const struct sk_buff *skb, u64 place)
{
	u32 at = 0;

	while (at < skb->len) {
		size_t n = skb->len - at;
		void *to = evering_port_own(way->port, place + at, &n);

		if (!to || skb_copy_bits(skb, at, to, n))
			return -EFAULT;
		at += n;
	}
	return 0;
}

static bool evnet_send(struct evnet_way *way, const struct sk_buff *skb)
{
	struct evering_net_packet *packet;
	struct virtio_net_hdr header;
	s64 place;
	u64 end;

	if (virtio_net_hdr_from_skb(skb, &header, true, false, 0))
		return false;
	place = evnet_place(way, skb->len, &end);
	if (place < 0 || evnet_copy(way, skb, place))
		return false;
	packet = evering_port_reserve(way->port, 0);
	*packet = (struct evering_net_packet){
		.place = place,
		.len = skb->len,
		.flags = header.flags,
		.gso_type = header.gso_type,
		.hdr_len = (__force u16)header.hdr_len,
		.gso_size = (__force u16)header.gso_size,
		.csum_start = (__force u16)header.csum_start,
		.csum_offset = (__force u16)header.csum_offset,
	};
	way->head = end;
	way->at = place + ALIGN(skb->len, EVNET_ALIGN);
	way->ends[way->sent++ & way->mask] = end;
	evering_port_commit(way->port, 1);
	return true;
}

/* Does the interface still have that way?  Under the lock of the transmit queue. */
static bool evnet_has(const struct net_device *dev, const struct evnet_way *way)
{
	const struct evnet *net = netdev_priv(dev);

	return rcu_access_pointer(net->way) == way;
}

/* Stops the queue; serve looks again when the process has released something. */
static void evnet_stop(struct net_device *dev, struct evnet_way *way, u32 released)
{
	netif_stop_queue(dev);
	mod_timer(&way->patience, jiffies + EVNET_PATIENCE);
	evering_port_want_room(way->port, released);
	evering_port_kick(way->port);
}

/*
 * Packets that wait hold the memory of other sockets, and may block them.  So they do not wait
 * for a process that has stopped taking packets.
 */
static void evnet_patience(struct timer_list *timer)
{
	struct evnet_way *way = evr_timer_container_of(way, timer, patience);
	struct netdev_queue *queue = netdev_get_tx_queue(way->dev, 0);

	__netif_tx_lock(queue, smp_processor_id());
	/* Not if the queue was woken or stopped anew meanwhile, or has another way. */
	if (netif_tx_queue_stopped(queue) && !timer_pending(timer) && evnet_has(way->dev, way)) {
		way->stalled = true;
		netif_tx_wake_queue(queue);
	}
	__netif_tx_unlock(queue);
}

static netdev_tx_t evnet_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct evnet *net = netdev_priv(dev);
	struct evnet_way *way = rcu_dereference_bh(net->way);
	bool more = netdev_xmit_more();
	u32 released;

	if (!way || skb->len > evnet_longest(dev, way))
		goto drop;
	if (!evnet_has_room(way, skb->len, &released)) {
		if (way->stalled)
			goto drop;
		evering_port_flush(way->port);
		evnet_stop(dev, way, released);
		return NETDEV_TX_BUSY;
	}
	way->stalled = false;
	skb_tx_timestamp(skb);
	if (!evnet_send(way, skb))
		goto drop;
	WRITE_ONCE(net->tx_packets, net->tx_packets + 1);
	WRITE_ONCE(net->tx_bytes, net->tx_bytes + skb->len);
	dev_consume_skb_any(skb);
	if (!evnet_has_room(way, evnet_longest(dev, way), &released)) {
		evnet_stop(dev, way, released);
		more = false;
	}
	if (!more)
		evering_port_flush(way->port);
	return NETDEV_TX_OK;
drop:
	WRITE_ONCE(net->tx_dropped, net->tx_dropped + 1);
	dev_kfree_skb_any(skb);
	if (way)
		evering_port_flush(way->port);
	return NETDEV_TX_OK;
}

/* ----------------------------------------------------------------- from the process */

/* A buffer of the stack for @len bytes; a long one is in pages. */
static struct sk_buff *evnet_alloc(struct net_device *dev, u32 len)
{
	u32 linear = len <= SKB_WITH_OVERHEAD(PAGE_SIZE) - NET_SKB_PAD ? len : 256;
	struct sk_buff *skb;
	int error;

	skb = alloc_skb_with_frags(NET_SKB_PAD + NET_IP_ALIGN + linear, len - linear,
				   PAGE_ALLOC_COSTLY_ORDER, &error, GFP_KERNEL);
	if (!skb)
		return NULL;
	skb_reserve(skb, NET_SKB_PAD + NET_IP_ALIGN);
	skb_put(skb, linear);
	skb->data_len = len - linear;
	skb->len = len;
	skb->dev = dev;
	return skb;
}

/* Does the packet ask only for what the process may ask for?  The stack checks the rest. */
static bool evnet_may_offload(const struct evnet_way *way,
			      const struct evering_net_packet *packet)
{
	if (way->offload)
		return !(packet->flags & ~(VIRTIO_NET_HDR_F_NEEDS_CSUM |
					   VIRTIO_NET_HDR_F_DATA_VALID));
	return !(packet->flags | packet->gso_type | packet->hdr_len | packet->gso_size |
		 packet->csum_start | packet->csum_offset);
}

/* The packet that an entry names, of which @packet is a copy; NULL: it is invalid. */
static struct sk_buff *evnet_receive(struct evnet_way *way,
				     const struct evering_net_packet *packet)
{
	const struct virtio_net_hdr header = {
		.flags = packet->flags,
		.gso_type = packet->gso_type,
		.hdr_len = (__force __virtio16)packet->hdr_len,
		.gso_size = (__force __virtio16)packet->gso_size,
		.csum_start = (__force __virtio16)packet->csum_start,
		.csum_offset = (__force __virtio16)packet->csum_offset,
	};
	struct sk_buff *skb;
	u32 at = 0;

	if (packet->len < ETH_HLEN || packet->len > EVERING_NET_MAX_PACKET ||
	    packet->reserved || !evnet_may_offload(way, packet))
		return NULL;
	skb = evnet_alloc(way->dev, packet->len);
	if (!skb)
		return NULL;
	while (at < packet->len) {
		size_t n = packet->len - at;
		const void *from = evering_port_theirs(way->port, packet->place + at, &n);

		if (!from || packet->place + at < at || skb_store_bits(skb, at, from, n))
			goto free;
		at += n;
	}
	if (virtio_net_hdr_to_skb(skb, &header, true))
		goto free;
	skb->protocol = eth_type_trans(skb, way->dev);
	skb_reset_network_header(skb);
	/* Segments are counted from TCP's header; other packets do not need it. */
	if (packet->gso_type)
		skb_probe_transport_header(skb);
	return skb;
free:
	kfree_skb(skb);
	return NULL;
}

/* The queue was stopped for want of room: wakes it if there is some. */
static void evnet_wake(struct net_device *dev, struct evnet_way *way)
{
	struct netdev_queue *queue = netdev_get_tx_queue(dev, 0);
	u32 released;

	__netif_tx_lock_bh(queue);
	if (!evnet_has(dev, way))
		goto unlock;
	if (evnet_has_room(way, evnet_longest(dev, way), &released)) {
		evr_timer_delete(&way->patience);
		netif_tx_wake_queue(queue);
	} else {
		evering_port_want_room(way->port, released);
	}
unlock:
	__netif_tx_unlock_bh(queue);
}

/* Hands over the packets that have come, unless the interface was taken down meanwhile. */
static void evnet_deliver(struct evnet_way *way, struct list_head *packets, u32 count,
			  u64 bytes)
{
	struct evnet *net = netdev_priv(way->dev);
	struct sk_buff *skb, *next;

	if (list_empty(packets))
		return;
	local_bh_disable();
	if (netif_running(way->dev)) {
		WRITE_ONCE(net->rx_packets, net->rx_packets + count);
		WRITE_ONCE(net->rx_bytes, net->rx_bytes + bytes);
		netif_receive_skb_list(packets);
	} else {
		WRITE_ONCE(net->rx_dropped, net->rx_dropped + count);
		list_for_each_entry_safe(skb, next, packets, list) {
			skb_list_del_init(skb);
			kfree_skb(skb);
		}
	}
	local_bh_enable();
}

static unsigned int evnet_serve(struct evering_port *port, unsigned int budget)
{
	struct evnet_way *way = evering_port_private(port);
	struct evnet *net = netdev_priv(way->dev);
	struct evering_net_packet packet;
	unsigned int done = 0, count = 0;
	LIST_HEAD(packets);
	struct sk_buff *skb;
	const void *from;
	u64 bytes = 0;

	while (done < budget && (from = evering_port_peek(port, 0))) {
		/* The process may write there at any time: the copy is checked. */
		memcpy(&packet, from, sizeof(packet));
		barrier();
		skb = evnet_receive(way, &packet);
		evering_port_release(port, 1);
		done++;
		if (skb) {
			list_add_tail(&skb->list, &packets);
			count++;
			bytes += packet.len;
		} else {
			WRITE_ONCE(net->rx_errors, net->rx_errors + 1);
		}
		/* Long packets are handed over in short lists: softirqs wait for each list. */
		if (bytes >= EVNET_LIST) {
			evnet_deliver(way, &packets, count, bytes);
			INIT_LIST_HEAD(&packets);
			count = 0;
			bytes = 0;
			cond_resched();
		}
	}
	evnet_deliver(way, &packets, count, bytes);
	if (netif_running(way->dev) && netif_queue_stopped(way->dev))
		evnet_wake(way->dev, way);
	return done;
}

/* ------------------------------------------------------------------------ life */

static void evnet_way_put(struct evnet_way *way)
{
	if (refcount_dec_and_test(&way->refs))
		kvfree(way);
}

static void evnet_way_free(struct evnet_way *way)
{
	/* Waits until no task serves, and for a grace period, after which none sends. */
	if (way->port)
		evering_port_destroy(way->port);
	evr_timer_delete_sync(&way->patience);
	evnet_way_put(way);
}

static void evnet_way_end(struct evnet_way *way)
{
	if (!test_and_set_bit(0, &way->ending))
		queue_work(evnet_wq, &way->end);
}

/* Cuts an interface from its way, if it has one; with @from only if it is that one. */
static void evnet_cut(struct net_device *dev, const struct evnet_way *from)
{
	struct netdev_queue *queue = netdev_get_tx_queue(dev, 0);
	struct evnet *net = netdev_priv(dev);
	struct evnet_way *way = rtnl_dereference(net->way);

	if (!way || (from && way != from))
		return;
	/* From here on no task sends by the way, or stops or wakes the queue for it. */
	__netif_tx_lock_bh(queue);
	RCU_INIT_POINTER(net->way, NULL);
	__netif_tx_unlock_bh(queue);
	way->cut = true;
	netif_carrier_off(dev);
	evnet_way_end(way);
}

static void evnet_end_work(struct work_struct *work)
{
	struct evnet_way *way = container_of(work, struct evnet_way, end);
	struct net_device *dev = way->dev;
	struct evnet *net = netdev_priv(dev);
	struct net *ns;

	rtnl_lock();
	evnet_cut(dev, way);
	rtnl_unlock();
	evnet_way_free(way);
	rtnl_lock();
	/* A namespace that ends removes its interfaces itself; else it is held meanwhile. */
	ns = maybe_get_net(dev_net(dev));
	/* Not if another process has the interface by now, or it ends already. */
	if (ns && !READ_ONCE(net->persists) && !rtnl_dereference(net->way) &&
	    dev->reg_state == NETREG_REGISTERED)
		unregister_netdevice(dev);
	/* A task that ends an interface waits for this at rtnl_unlock(). */
	dev_put(dev);
	rtnl_unlock();
	if (ns)
		put_net(ns);
}

static void evnet_gone(struct evering_port *port)
{
	evnet_way_end(evering_port_private(port));
}

static const struct evering_port_ops evnet_ops = {
	.serve = evnet_serve,
	.gone = evnet_gone,
};

static int evnet_up(struct net_device *dev)
{
	netif_start_queue(dev);
	return 0;
}

static int evnet_down(struct net_device *dev)
{
	struct evnet *net = netdev_priv(dev);
	struct evnet_way *way = rtnl_dereference(net->way);

	netif_stop_queue(dev);
	if (way)
		evr_timer_delete(&way->patience);
	return 0;
}

/* The stack segments what is too long for the process. */
static netdev_features_t evnet_features_check(struct sk_buff *skb, struct net_device *dev,
					      netdev_features_t features)
{
	const struct evnet *net = netdev_priv(dev);

	/* Some callers hold no RCU read lock, so the way is not looked at. */
	if (skb->len > READ_ONCE(net->most))
		features &= ~NETIF_F_GSO_MASK;
	return vlan_features_check(skb, features);
}

/* The interface ends. */
static void evnet_uninit(struct net_device *dev)
{
	evnet_cut(dev, NULL);
}

static void evnet_stats(struct net_device *dev, struct rtnl_link_stats64 *stats)
{
	const struct evnet *net = netdev_priv(dev);

	stats->tx_packets = READ_ONCE(net->tx_packets);
	stats->tx_bytes = READ_ONCE(net->tx_bytes);
	stats->tx_dropped = READ_ONCE(net->tx_dropped);
	stats->rx_packets = READ_ONCE(net->rx_packets);
	stats->rx_bytes = READ_ONCE(net->rx_bytes);
	stats->rx_dropped = READ_ONCE(net->rx_dropped);
	stats->rx_errors = READ_ONCE(net->rx_errors);
}

static const struct net_device_ops evnet_netdev_ops = {
	.ndo_uninit = evnet_uninit,
	.ndo_open = evnet_up,
	.ndo_stop = evnet_down,
	.ndo_start_xmit = evnet_xmit,
	.ndo_features_check = evnet_features_check,
	.ndo_get_stats64 = evnet_stats,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

static void evnet_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, "evnet", sizeof(info->driver));
}

static const struct ethtool_ops evnet_ethtool_ops = {
	.get_drvinfo = evnet_get_drvinfo,
	.get_link = ethtool_op_get_link,
};

static void evnet_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &evnet_netdev_ops;
	dev->ethtool_ops = &evnet_ethtool_ops;
	dev->needs_free_netdev = true;
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	/* A doorbell may wake a task, which is not allowed where printk() is called. */
	dev->priv_flags |= IFF_DISABLE_NETPOLL;
	dev->min_mtu = ETH_MIN_MTU;
	dev->max_mtu = ETH_MAX_MTU - ETH_HLEN;
	eth_hw_addr_random(dev);
}

/* `ip link add` cannot make an interface: it would have no process. */
static int evnet_newlink_refused(struct nlattr *tb[], struct nlattr *data[],
				 struct netlink_ext_ack *extack)
{
	NL_SET_ERR_MSG(extack, "interfaces of this kind are made by the process behind them");
	return -EOPNOTSUPP;
}

static struct rtnl_link_ops evnet_link_ops = {
	.kind = "evnet",
	.priv_size = sizeof(struct evnet),
	.setup = evnet_setup,
	.validate = evnet_newlink_refused,
};

/* A way that no interface has yet.  Call it outside RTNL: it allocates memory. */
static struct evnet_way *evnet_way_new(const struct evering_net_create *arg)
{
	const struct evering_port_params params = {
		.geometry = {
			.slot_size = EVERING_NET_SLOT,
			.entries = arg->entries ?: EVNET_ENTRIES,
			.arena_size = { arg->arena_size[0] ?: EVNET_ARENA,
					arg->arena_size[1] ?: EVNET_ARENA },
		},
		.flags = arg->spin_us ? EVERING_PORT_THREAD : 0,
		.spin_us = arg->spin_us,
		.name = "evnet",
	};
	struct evering_port *port;
	struct evnet_way *way;

	if (params.geometry.entries > EVERING_MAX_ENTRIES)
		return ERR_PTR(-E2BIG);
	way = kvzalloc(struct_size(way, ends, params.geometry.entries), GFP_KERNEL_ACCOUNT);
	if (!way)
		return ERR_PTR(-ENOMEM);
	way->mask = params.geometry.entries - 1;
	way->size = params.geometry.arena_size[EVERING_A];
	way->offload = arg->flags & EVERING_NET_OFFLOAD;
	refcount_set(&way->refs, 1);
	INIT_WORK(&way->end, evnet_end_work);
	timer_setup(&way->patience, evnet_patience, 0);
	port = evering_port_create(&params, &evnet_ops, way);
	if (IS_ERR(port)) {
		evnet_way_free(way);
		return ERR_CAST(port);
	}
	way->port = port;
	return way;
}

/* The interface that @arg names, registered, without a way; *@made: it was made just now. */
static struct net_device *evnet_find(struct net *ns, const struct evering_net_create *arg,
				     bool *made)
{
	struct net_device *dev = __dev_get_by_name(ns, arg->name);
	bool offload = arg->flags & EVERING_NET_OFFLOAD;
	struct evnet *net;
	int ret;

	if (dev) {
		if (dev->rtnl_link_ops != &evnet_link_ops)
			return ERR_PTR(-EEXIST);
		net = netdev_priv(dev);
		if (rtnl_dereference(net->way))
			return ERR_PTR(-EBUSY);
		return net->offload == offload ? dev : ERR_PTR(-EINVAL);
	}
	dev = alloc_netdev(sizeof(struct evnet), *arg->name ? arg->name : "evnet%d",
			   NET_NAME_USER, evnet_setup);
	if (!dev)
		return ERR_PTR(-ENOMEM);
	net = netdev_priv(dev);
	net->offload = offload;
	dev_net_set(dev, ns);
	dev->rtnl_link_ops = &evnet_link_ops;
	if (offload) {
		dev->hw_features = EVNET_OFFLOADS;
		dev->features = EVNET_OFFLOADS;
	}
	netif_carrier_off(dev);
	ret = register_netdevice(dev);
	if (ret) {
		free_netdev(dev);
		return ERR_PTR(ret);
	}
	*made = true;
	return dev;
}

/*
 * Gives the way to the interface that @arg names, which is made if there is none.  Returns the
 * process's file.  *@made: the interface was made just now, and the caller has a reference to
 * @way.
 */
static struct file *evnet_make(struct net *ns, struct evering_net_create *arg,
			       struct evnet_way *way, bool *made)
{
	struct net_device *dev;
	struct evnet *net;
	struct file *file;

	ASSERT_RTNL();
	*made = false;
	dev = evnet_find(ns, arg, made);
	if (IS_ERR(dev))
		return ERR_CAST(dev);
	net = netdev_priv(dev);
	/* From here on serve may run. */
	way->dev = dev;
	file = evering_port_file(way->port, 0);
	if (IS_ERR(file)) {
		if (*made)
			unregister_netdevice(dev);
		*made = false;
		return file;
	}
	dev_hold(dev);
	WRITE_ONCE(net->most, min_t(u64, way->size / 2, U32_MAX));
	rcu_assign_pointer(net->way, way);
	netif_carrier_on(dev);
	/* Its last process may have left it stopped. */
	if (netif_running(dev))
		netif_wake_queue(dev);
	strscpy(arg->name, dev->name, sizeof(arg->name));
	arg->ifindex = dev->ifindex;
	if (*made)
		refcount_inc(&way->refs);
	return file;
}

/* The interface is to stay when its process goes: the caller knows its name now. */
static void evnet_keep(struct evnet_way *way)
{
	struct evnet *net;

	rtnl_lock();
	/* The way holds the interface until it is cut from it. */
	if (!way->cut) {
		net = netdev_priv(way->dev);
		WRITE_ONCE(net->persists, true);
	}
	rtnl_unlock();
}

static long evnet_ioctl(struct file *device, unsigned int cmd, unsigned long uarg)
{
	struct net *net = current->nsproxy->net_ns;
	struct evering_net_create arg;
	struct evnet_way *way;
	struct file *file;
	bool made, told;
	u32 size;

	if (cmd != EVERING_IOC_NET)
		return -ENOTTY;
	if (get_user(size, (u32 __user *)uarg))
		return -EFAULT;
	if (size < sizeof(arg))
		return -EINVAL;
	if (size > sizeof(arg))
		return -E2BIG;
	if (copy_from_user(&arg, (void __user *)uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.flags & ~EVERING_NET_FLAGS || arg.reserved[0] || arg.reserved[1] ||
	    strnlen(arg.name, sizeof(arg.name)) == sizeof(arg.name))
		return -EINVAL;
	/* No process is charged for a thread that spins. */
	if (!ns_capable(net->user_ns, CAP_NET_ADMIN) ||
	    (arg.spin_us && !capable(CAP_SYS_NICE)))
		return -EPERM;
	arg.fd = get_unused_fd_flags(O_CLOEXEC);
	if (arg.fd < 0)
		return arg.fd;
	way = evnet_way_new(&arg);
	file = ERR_CAST(way);
	if (!IS_ERR(way)) {
		rtnl_lock();
		file = evnet_make(net, &arg, way, &made);
		rtnl_unlock();
	}
	if (IS_ERR(file)) {
		if (!IS_ERR(way))
			evnet_way_free(way);
		put_unused_fd(arg.fd);
		return PTR_ERR(file);
	}
	/* If this fails, fput() below ends the interface as if its process had gone. */
	told = !copy_to_user((void __user *)uarg, &arg, sizeof(arg));
	if (made) {
		if (told && arg.flags & EVERING_NET_PERSIST)
			evnet_keep(way);
		evnet_way_put(way);
	}
	if (!told) {
		put_unused_fd(arg.fd);
		fput(file);
		return -EFAULT;
	}
	fd_install(arg.fd, file);
	return 0;
}

static const struct file_operations evnet_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = evnet_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice evnet_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "evnet",
	.fops = &evnet_fops,
	.mode = 0666,
};

static int __init evnet_init(void)
{
	int ret;

	evnet_wq = alloc_workqueue("evnet", WQ_UNBOUND, 0);
	if (!evnet_wq)
		return -ENOMEM;
	ret = rtnl_link_register(&evnet_link_ops);
	if (ret)
		goto no_link;
	ret = misc_register(&evnet_device);
	if (ret)
		goto no_device;
	return 0;
no_device:
	rtnl_link_unregister(&evnet_link_ops);
no_link:
	destroy_workqueue(evnet_wq);
	return ret;
}

static void __exit evnet_exit(void)
{
	misc_deregister(&evnet_device);
	rtnl_link_unregister(&evnet_link_ops);
	destroy_workqueue(evnet_wq);
}

module_init(evnet_init);
module_exit(evnet_exit);
MODULE_DESCRIPTION("evering: network interfaces whose other end is a process");
MODULE_LICENSE("GPL");
