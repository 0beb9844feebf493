// SPDX-License-Identifier: MIT
/*
 * Arms: Ethernet frames between a process and the kernel's stack, of the modes evnet-to (to the
 * stack) and evnet-from (from it), in batches of 32.  The client is both the process
 * behind the interface and the stack's user, in a network namespace of the bench's own; the
 * server of the run has nothing to do.
 *
 *	evnet, tun	frames of an unused Ethernet type, to the stack; from it
 *			those of a packet socket.  evnet by evering_net_send() and _recv(), tun by
 *			a write(2) or read(2) each
 *	-udp		the whole way, of datagrams: from or to a UDP socket
 *	dummy, -udp	what the stack takes to send, if the interface does nothing: what
 *			evnet-from has beyond that is the interface's, and the process's
 *
 * Frames longer than an interface's MTU are unsegmented TCP without checksum, which all kinds of
 * interface are told that they may be.
 *
 * All interfaces have the machine's default queueing discipline.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "bench.h"

#include <evering_net.h>

#define BATCH 32u
#define LEAST 64u
#define PLAIN_MOST 1514u /* of frames that need no offload */
#define UDP_MOST 1500u
#define GSO_SEGMENT 1448u
#define ARENA (4u << 20) /* a batch of the longest, and one more */
/* A quarter of it is released before the sender is told, which has to fit the arena too. */
#define LONG_ENTRIES 64u
#define BUFFER (8 << 20)
#define HEADERS 42u /* Ethernet, IPv4, UDP */
#define NOBODYS 0x88b5 /* for local experiments: IEEE 802 */
#define PORT 9

enum variant {
	EVNET,
	TUN,
	DUMMY,
	UDP = 4 /* beside */
};

struct packet {
	struct virtio_net_hdr header;
	unsigned char frame[65536];
} __attribute__((packed));

struct net {
	struct evering_net *ev;
	char name[IFNAMSIZ];
	int control;
	int tun;
	int sock; /* the stack's user */
	uint16_t type; /* what frames have */
	uint64_t delivered; /* to the stack */
	uint64_t calls; /* but those of evering */
	struct evering_frame frames[BATCH];
	struct iovec iov[BATCH];
	struct mmsghdr batch[BATCH];
	struct packet out; /* by the process, or by a packet socket */
	struct packet in;
};

static unsigned int kind(const struct side *s)
{
	return s->arm->variant & (UDP - 1);
}

static bool udp(const struct side *s)
{
	return s->arm->variant & UDP;
}

static bool to_stack(const struct side *s)
{
	return s->job->mode == MODE_EVNET_TO;
}

static bool segments(const struct side *s)
{
	return s->job->size > PLAIN_MOST;
}

/* Is there the file, and may this process have a namespace? */
static const char *missing(const char *file, const char *why)
{
	int fd;

	if (geteuid())
		return "needs root: it makes network interfaces";
	if (!file)
		return NULL;
	fd = open(file, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return why;
	close(fd);
	return NULL;
}

static const char *evnet_missing(void)
{
	return missing("/dev/evnet", "no /dev/evnet: load evnet");
}

static const char *tun_missing(void)
{
	return missing("/dev/net/tun", "no /dev/net/tun: load tun");
}

static const char *dummy_missing(void)
{
	return missing(NULL, NULL);
}

/*
 * A network namespace, of all runs: to end one takes a while, in which others would be
 * measured.  And the machine's default queueing discipline.
 */
static int space = -1;
static char qdisc[16];

/* The interface ---------------------------------------------------------- */

struct request {
	struct nlmsghdr head;
	union {
		struct ifinfomsg link;
		struct tcmsg qdisc;
	};
	char attributes[96];
};

static struct rtattr *attribute(struct request *r, unsigned short type,
				const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)((char *)r + r->head.nlmsg_len);

	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(a), data, len);
	r->head.nlmsg_len += RTA_ALIGN(a->rta_len);
	return a;
}

static void ask(struct side *s, struct request *r, const char *what)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} answer = { .error.error = -EPROTO };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	r->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
	if (fd < 0 || send(fd, r, r->head.nlmsg_len, 0) < 0 ||
	    recv(fd, &answer, sizeof(answer), MSG_TRUNC) < 0)
		fail(s, "%s: %m", what);
	if (answer.error.error)
		fail(s, "%s: %s", what, strerror(-answer.error.error));
	close(fd);
}

static void make_dummy(struct side *s, struct net *n)
{
	struct request r = {
		.head = { .nlmsg_len = NLMSG_LENGTH(sizeof(r.link)),
			  .nlmsg_type = RTM_NEWLINK },
	};
	struct rtattr *info;

	strcpy(n->name, "dummy0");
	attribute(&r, IFLA_IFNAME, n->name, strlen(n->name) + 1);
	info = attribute(&r, IFLA_LINKINFO, NULL, 0);
	attribute(&r, IFLA_INFO_KIND, "dummy", strlen("dummy") + 1);
	info->rta_len =
		(unsigned short)((char *)&r + r.head.nlmsg_len - (char *)info);
	ask(s, &r, "a dummy interface");
}

static void end_dummy(struct side *s, const struct net *n)
{
	struct request r = {
		.head = { .nlmsg_len = NLMSG_LENGTH(sizeof(r.link)),
			  .nlmsg_type = RTM_DELLINK },
		.link = { .ifi_index = (int)if_nametoindex(n->name) },
	};

	ask(s, &r, "the end of a dummy interface");
}

/* What the others have by themselves. */
static void give_queue(struct side *s, struct net *n)
{
	struct request r = {
		.head = { .nlmsg_len = NLMSG_LENGTH(sizeof(r.qdisc)),
			  .nlmsg_type = RTM_NEWQDISC },
		.qdisc = { .tcm_ifindex = (int)if_nametoindex(n->name),
			   .tcm_parent = TC_H_ROOT },
	};
	struct ifreq ifr = { .ifr_qlen = 1000 };

	strcpy(ifr.ifr_name, n->name);
	if (ioctl(n->control, SIOCSIFTXQLEN, &ifr))
		fail(s, "the length of a queue: %m");
	attribute(&r, TCA_KIND, qdisc, strlen(qdisc) + 1);
	ask(s, &r, "a queueing discipline");
}

static void make_tun(struct side *s, struct net *n)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	unsigned long offload = segments(s) ?
					TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 |
						TUN_F_TSO_ECN :
					0;

	n->tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (n->tun < 0 || ioctl(n->tun, TUNSETIFF, &ifr) ||
	    ioctl(n->tun, TUNSETOFFLOAD, offload))
		fail(s, "/dev/net/tun: %m");
	memcpy(n->name, ifr.ifr_name, IFNAMSIZ);
}

static void make_evnet(struct side *s, struct net *n)
{
	struct evering_net_params params = EVERING_NET_PARAMS_INIT;
	int ret;

	params.flags = segments(s) ? EVERING_NET_SEGMENTS : 0;
	params.entries = segments(s) ? LONG_ENTRIES : RING_ENTRIES;
	params.arena_size[0] = params.arena_size[1] = ARENA;
	params.policy = s->job->policy;
	ret = evering_net_open(NULL, &params, &n->ev);
	if (ret)
		fail(s, "evering_net_open: %s", strerror(-ret));
	snprintf(n->name, IFNAMSIZ, "%s", evering_net_name(n->ev));
}

static void set_address(struct side *s, struct net *n, unsigned long what,
			const char *text)
{
	struct ifreq ifr = { 0 };
	struct sockaddr_in *in = (struct sockaddr_in *)&ifr.ifr_addr;

	strcpy(ifr.ifr_name, n->name);
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = inet_addr(text);
	if (ioctl(n->control, what, &ifr))
		fail(s, "address of %s: %m", n->name);
}

static void bring_up(struct side *s, struct net *n)
{
	struct ifreq ifr = { .ifr_flags = IFF_UP | IFF_NOARP };

	strcpy(ifr.ifr_name, n->name);
	if (ioctl(n->control, SIOCSIFFLAGS, &ifr))
		fail(s, "%s: %m", n->name);
	if (!udp(s))
		return;
	set_address(s, n, SIOCSIFADDR, "10.0.0.1");
	set_address(s, n, SIOCSIFNETMASK, "255.255.255.0");
}

static void get_mac(struct side *s, struct net *n, unsigned char *mac)
{
	struct ifreq ifr = { 0 };

	strcpy(ifr.ifr_name, n->name);
	if (ioctl(n->control, SIOCGIFHWADDR, &ifr))
		fail(s, "%s: %m", n->name);
	memcpy(mac, ifr.ifr_hwaddr.sa_data, ETH_ALEN);
}

/* Frames ----------------------------------------------------------------- */

static void put16(unsigned char *at, unsigned int value)
{
	at[0] = (unsigned char)(value >> 8);
	at[1] = (unsigned char)value;
}

static void put_ip(unsigned char *ip, size_t len, unsigned char protocol)
{
	static const unsigned char addresses[8] = { 10, 0, 0, 2, 10, 0, 0, 1 };
	uint32_t sum = 0;
	unsigned int i;

	memset(ip, 0, 20);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned int)len);
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, addresses, 8);
	for (i = 0; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~(sum + (sum >> 16)) & 0xffff);
}

static void make_frame(struct side *s, struct net *n)
{
	size_t len = s->job->size;
	unsigned char *frame = n->out.frame, *ip = frame + ETH_HLEN;

	memset(frame, 1, len);
	if (udp(s))
		get_mac(s, n, frame);
	else
		memset(frame, 0xff, ETH_ALEN);
	n->type = udp(s) || (segments(s) && !to_stack(s)) ? ETHERTYPE_IP :
							    NOBODYS;
	put16(frame + 12, n->type);
	if (udp(s)) {
		put_ip(ip, len - ETH_HLEN, IPPROTO_UDP);
		put16(ip + 20, PORT);
		put16(ip + 22, PORT);
		put16(ip + 24, (unsigned int)(len - HEADERS + 8));
		put16(ip + 26, 0); /* no checksum */
	} else if (segments(s)) {
		put_ip(ip, len - ETH_HLEN, IPPROTO_TCP);
		ip[20 + 12] = 5 << 4; /* length of TCP's header */
		n->out.header = (struct virtio_net_hdr){
			.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
			.hdr_len = ETH_HLEN + 20 + 20,
			.gso_size = GSO_SEGMENT,
			.csum_start = ETH_HLEN + 20,
			.csum_offset = 16,
		};
	}
}

/* What a call sends or receives of the stack's user. */
static void prepare_batch(struct side *s, struct net *n)
{
	const struct virtio_net_hdr h = n->out.header;
	unsigned char *from = n->out.frame;
	size_t len = s->job->size;
	unsigned int i;

	if (udp(s)) {
		from = to_stack(s) ? n->in.frame : from + HEADERS;
		len -= HEADERS;
	} else if (segments(s)) {
		from = (unsigned char *)&n->out;
		len += sizeof(n->out.header);
	}
	for (i = 0; i < BATCH; i++) {
		n->frames[i] = (struct evering_frame){
			.data = n->out.frame,
			.len = (uint32_t)s->job->size,
			.flags = h.flags,
			.gso_type = h.gso_type,
			.hdr_len = h.hdr_len,
			.gso_size = h.gso_size,
			.csum_start = h.csum_start,
			.csum_offset = h.csum_offset,
		};
		n->iov[i] = (struct iovec){ from, len };
		n->batch[i].msg_hdr.msg_iov = &n->iov[i];
		n->batch[i].msg_hdr.msg_iovlen = 1;
	}
}

static void open_udp(struct side *s, struct net *n)
{
	struct sockaddr_in own = { .sin_family = AF_INET,
				   .sin_port = htons(PORT),
				   .sin_addr.s_addr = inet_addr("10.0.0.1") };
	struct sockaddr_in peer = own;

	peer.sin_addr.s_addr = inet_addr("10.0.0.2");
	n->sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (n->sock < 0 || bind(n->sock, (void *)&own, sizeof(own)) ||
	    connect(n->sock, (void *)&peer, sizeof(peer)))
		fail(s, "a UDP socket: %m");
}

static void open_packet(struct side *s, struct net *n)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(n->type),
				  .sll_ifindex = (int)if_nametoindex(n->name) };
	int one = 1;

	/* Of protocol 0, so that it receives nothing. */
	n->sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (n->sock < 0 ||
	    (segments(s) && setsockopt(n->sock, SOL_PACKET, PACKET_VNET_HDR,
				       &one, sizeof(one))) ||
	    bind(n->sock, (void *)&to, sizeof(to)))
		fail(s, "a packet socket: %m");
}

static void open_socket(struct side *s, struct net *n)
{
	int size = BUFFER;

	if (udp(s))
		open_udp(s, n);
	else if (!to_stack(s))
		open_packet(s, n);
	else
		return;
	if (setsockopt(n->sock, SOL_SOCKET, SO_SNDBUFFORCE, &size,
		       sizeof(size)) ||
	    setsockopt(n->sock, SOL_SOCKET, SO_RCVBUFFORCE, &size,
		       sizeof(size)))
		fail(s, "a socket's buffers: %m");
}

/* What the stack would say of itself on new interfaces. */
static void silence(void)
{
	int fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6",
		      O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "1", 1) < 0)
		complain("disable_ipv6: %m");
	close(fd);
}

void evnet_prepare(void)
{
	int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	/* Not to be seen from another namespace. */
	FILE *f = fopen("/proc/sys/net/core/default_qdisc", "re");

	if (!f || fscanf(f, "%15s", qdisc) != 1)
		strcpy(qdisc, "pfifo_fast");
	if (f)
		fclose(f);
	if (own < 0)
		return;
	if (!unshare(CLONE_NEWNET)) {
		silence();
		space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		if (setns(own, CLONE_NEWNET)) {
			complain("the own network namespace: %m");
			exit(EXIT_FAILURE);
		}
	}
	close(own);
}

static void net_open(struct side *s)
{
	struct net *n;

	if (s->server)
		return;
	if (s->job->size < LEAST)
		fail(s, "frames have %u bytes or more", LEAST);
	n = calloc(1, sizeof(*n));
	if (!n)
		fail(s, "no memory");
	s->state = n;
	n->tun = n->sock = -1;
	if (setns(space, CLONE_NEWNET))
		fail(s, "a network namespace: %m");
	n->control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (n->control < 0)
		fail(s, "socket: %m");
	if (kind(s) == EVNET)
		make_evnet(s, n);
	else if (kind(s) == TUN)
		make_tun(s, n);
	else
		make_dummy(s, n);
	bring_up(s, n);
	if (kind(s) == DUMMY)
		give_queue(s, n);
	make_frame(s, n);
	prepare_batch(s, n);
	open_socket(s, n);
}

/* To the stack ------------------------------------------------------------ */

static void give(struct side *s, struct net *n, unsigned int count)
{
	ssize_t len = (ssize_t)(sizeof(n->out.header) + s->job->size);
	unsigned int i;

	n->delivered += count;
	if (kind(s) == EVNET) {
		if (evering_net_send(n->ev, n->frames, count, 0) != (int)count)
			fail(s, "no room for %u frames", count);
		return;
	}
	for (i = 0; i < count; i++) {
		n->calls++;
		if (write(n->tun, &n->out, (size_t)len) != len)
			fail(s, "write: %m");
	}
}

static void deliver(struct side *s, unsigned int count)
{
	struct net *n = s->state;

	give(s, n, count);
	if (udp(s)) {
		n->calls++;
		if (recvmmsg(n->sock, n->batch, count, MSG_DONTWAIT, NULL) !=
		    (int)count)
			fail(s, "datagrams are missing: %m");
	}
	s->done += count;
}

/* From the stack ---------------------------------------------------------- */

static bool own(const struct side *s, const struct net *n,
		const unsigned char *frame, size_t len)
{
	return len == s->job->size && frame[12] == n->type >> 8 &&
	       frame[13] == (n->type & 0xff);
}

/* The stack may say something of its own. */
static void take_evnet(struct side *s, struct net *n, unsigned int count)
{
	int got, i;

	while (count) {
		got = evering_net_recv(n->ev, n->frames, count, 0);
		if (got < 0)
			fail(s, "frames are missing: %s", strerror(-got));
		for (i = 0; i < got; i++)
			count -= own(s, n, n->frames[i].data, n->frames[i].len);
		evering_net_release(n->ev, (unsigned int)got);
	}
}

static void take_tun(struct side *s, struct net *n, unsigned int count)
{
	ssize_t len;

	while (count) {
		n->calls++;
		len = read(n->tun, &n->in, sizeof(n->in));
		if (len < (ssize_t)sizeof(n->in.header))
			fail(s, "frames are missing: %m");
		count -= own(s, n, n->in.frame,
			     (size_t)len - sizeof(n->in.header));
	}
}

static void collect(struct side *s, unsigned int count)
{
	struct net *n = s->state;

	n->calls++;
	if (sendmmsg(n->sock, n->batch, count, 0) != (int)count)
		fail(s, "send: %m");
	if (kind(s) == EVNET)
		take_evnet(s, n, count);
	else if (kind(s) == TUN)
		take_tun(s, n, count);
	s->done += count;
}

static void net_work(struct side *s, uint64_t ops)
{
	unsigned int count;

	if (s->server) {
		s->done += ops;
		return;
	}
	for (; ops; ops -= count) {
		count = ops < BATCH ? (unsigned int)ops : BATCH;
		if (to_stack(s))
			deliver(s, count);
		else
			collect(s, count);
	}
}

static void net_count(struct side *s)
{
	struct evering_counters counters;
	struct net *n = s->state;

	if (!n)
		return;
	s->syscalls = n->calls;
	if (!n->ev)
		return;
	evering_get_counters(evering_net_endpoint(n->ev), EVERING_MINE,
			     &counters);
	s->syscalls += counters.tx_syscalls + counters.rx_syscalls;
}

/* Whether the stack has had what was sent to it; this namespace's /proc says so. */
static void check_delivered(struct side *s, const struct net *n)
{
	unsigned long long packets = 0;
	char line[512], *at;
	FILE *f = fopen("/proc/thread-self/net/dev", "re");

	while (f && fgets(line, sizeof(line), f)) {
		at = strchr(line, ':');
		if (at && strstr(line, n->name))
			sscanf(at + 1, "%*u %llu", &packets);
	}
	if (f)
		fclose(f);
	if (packets != n->delivered)
		fail(s, "of %llu frames %llu came to the stack",
		     (unsigned long long)n->delivered, packets);
}

static void net_close(struct side *s)
{
	struct net *n = s->state;

	if (s->server) {
		wait_for_client(s);
		return;
	}
	if (to_stack(s))
		check_delivered(s, n);
	if (kind(s) == DUMMY)
		end_dummy(s, n);
	evering_net_close(n->ev);
	close(n->tun);
	close(n->sock);
	close(n->control);
	/* Its end takes no time of another run, nor its address any frames. */
	while (if_nametoindex(n->name))
		usleep(1000);
	free(n);
}

#define BOTH_WAYS                                        \
	{                                                \
		[MODE_EVNET_TO] = ONLY(EVERING_BLOCK),   \
		[MODE_EVNET_FROM] = ONLY(EVERING_BLOCK), \
	}
#define FROM_ALONE                                       \
	{                                                \
		[MODE_EVNET_FROM] = ONLY(EVERING_BLOCK), \
	}

#define NET_ARM(id, text, how, ways, longest, why) \
	const struct arm id = {                    \
		.name = text,                      \
		.modes = ways,                     \
		.most = longest,                   \
		.variant = how,                    \
		.missing = why,                    \
		.open = net_open,                  \
		.work = net_work,                  \
		.count = net_count,                \
		.close = net_close,                \
	}

NET_ARM(evnet_arm, "evnet", EVNET, BOTH_WAYS, 65500, evnet_missing);
NET_ARM(tun_arm, "tun", TUN, BOTH_WAYS, 65500, tun_missing);
NET_ARM(dummy_arm, "dummy", DUMMY, FROM_ALONE, 65500, dummy_missing);
NET_ARM(evnet_udp_arm, "evnet-udp", EVNET | UDP, BOTH_WAYS, UDP_MOST,
	evnet_missing);
NET_ARM(tun_udp_arm, "tun-udp", TUN | UDP, BOTH_WAYS, UDP_MOST, tun_missing);
NET_ARM(dummy_udp_arm, "dummy-udp", DUMMY | UDP, FROM_ALONE, UDP_MOST,
	dummy_missing);
