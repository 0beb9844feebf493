// SPDX-License-Identifier: MIT
/*
 * netd: a process behind network interfaces.
 *
 *	netd ping IF ADDRESS		answer ARP and pings to an IPv4 address on interface IF
 *	netd bridge IF IF		pass frames on between two interfaces
 *
 * netd makes each IF (evnet(4)), which takes CAP_NET_ADMIN.  It ends with the process.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <evering.h>
#include <evering_net.h>

#define BATCH 32

static struct evering_net *net[2];
static struct evering_group *group;

static void stop(int sig)
{
	(void)sig;
	evering_group_wake(group);
}

static int fail(const char *what, int error)
{
	fprintf(stderr, "netd: %s: %s\n", what, strerror(-error));
	return EXIT_FAILURE;
}

/* ------------------------------------------------------------------------- ping */

static void swap(unsigned char *a, unsigned char *b, size_t len)
{
	while (len--) {
		unsigned char c = a[len];

		a[len] = b[len];
		b[len] = c;
	}
}

/* RFC 1071. */
static uint16_t checksum(const unsigned char *data, size_t len)
{
	uint32_t sum = 0;

	for (; len > 1; data += 2, len -= 2)
		sum += (uint32_t)data[0] << 8 | data[1];
	if (len)
		sum += (uint32_t)data[0] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Turns a request into its answer; false: the frame is not such a request. */
static int answer(unsigned char *f, size_t len, const unsigned char own[4])
{
	static const unsigned char mac[6] = { 2, 0, 0, 0, 0, 1 };
	unsigned char *arp = f + 14, *ip = f + 14, *icmp;
	size_t header, total;
	uint16_t sum;

	if (len >= 42 && f[12] == 8 && f[13] == 6) {
		/* A request, for Ethernet and IPv4, for this address. */
		if (memcmp(arp, "\0\1\10\0\6\4\0\1", 8) ||
		    memcmp(arp + 24, own, 4))
			return 0;
		arp[7] = 2;
		swap(arp + 8, arp + 18, 10);
		memcpy(arp + 8, mac, 6);
	} else if (len >= 42 && f[12] == 8 && f[13] == 0) {
		header = (ip[0] & 15) * 4u;
		total = (size_t)ip[2] << 8 | ip[3];
		icmp = ip + header;
		if (ip[0] >> 4 != 4 || header < 20 || total < header + 8 ||
		    total > len - 14 || ip[9] != 1 || memcmp(ip + 16, own, 4) ||
		    icmp[0] != 8 || (ip[6] & 0x3f) || ip[7])
			return 0;
		icmp[0] = icmp[2] = icmp[3] = 0;
		sum = checksum(icmp, total - header);
		icmp[2] = (unsigned char)(sum >> 8);
		icmp[3] = (unsigned char)sum;
		swap(ip + 12, ip + 16, 4);
	} else {
		return 0;
	}
	swap(f, f + 6, 6);
	memcpy(f + 6, mac, 6);
	return 1;
}

static int ping(unsigned int at, const struct evering_frame *frames,
		unsigned int count, const unsigned char own[4])
{
	static unsigned char copy[2048];
	struct evering_frame out = { .data = copy };
	unsigned int i;
	int ret = 0;

	for (i = 0; i < count && ret >= 0; i++) {
		out.len = frames[i].len;
		if (out.len > sizeof(copy))
			continue;
		/* The kernel can change the frame, so check and use a copy. */
		memcpy(copy, frames[i].data, out.len);
		if (answer(copy, out.len, own))
			ret = evering_net_send(net[at], &out, 1,
					       EVERING_NOWAIT);
		if (ret == -EAGAIN) /* dropped, as on a busy wire */
			ret = 0;
	}
	return ret < 0 ? ret : 0;
}

/* ------------------------------------------------------------------------- main */

/* Passes the frames of interface @at to the other one, or answers them. */
static int serve(unsigned int at, const unsigned char *own)
{
	struct evering_frame frames[BATCH];
	int n, ret;

	n = evering_net_recv(net[at], frames, BATCH, EVERING_NOWAIT);
	if (n < 0)
		return n == -EAGAIN ? 0 : n;
	if (own)
		ret = ping(at, frames, (unsigned int)n, own);
	else
		ret = evering_net_send(net[!at], frames, (unsigned int)n,
				       EVERING_NOWAIT);
	evering_net_release(net[at], (unsigned int)n);
	return ret == -EAGAIN ? 0 : ret;
}

int main(int argc, char **argv)
{
	unsigned char own[4], *address = NULL;
	const struct evering_group_event *events;
	int i, n, ret, count;

	if (argc != 4 ||
	    (strcmp(argv[1], "ping") && strcmp(argv[1], "bridge"))) {
		fprintf(stderr,
			"usage: netd ping IF ADDRESS | netd bridge IF IF\n");
		return 2;
	}
	count = strcmp(argv[1], "ping") ? 2 : 1;
	if (count == 1 && inet_pton(AF_INET, argv[3], address = own) != 1)
		return fail(argv[3], -EINVAL);
	ret = evering_group_open(NULL, &group);
	if (ret)
		return fail("group", ret);
	for (i = 0; i < count; i++) {
		ret = evering_net_open(argv[2 + i], NULL, &net[i]);
		if (!ret)
			ret = evering_group_add(group,
						evering_net_endpoint(net[i]),
						EVERING_RX, &net[i]);
		if (ret)
			return fail(argv[2 + i], ret);
		printf("%s\n", evering_net_name(net[i]));
	}
	fflush(stdout);
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	while ((n = evering_group_wait(group, &events, EVERING_WAIT_FOREVER)) >
	       0)
		for (i = 0; i < n; i++) {
			ret = serve(events[i].context == &net[1], address);
			if (ret < 0)
				return fail("interface", ret);
		}
	evering_group_close(group);
	evering_net_close(net[0]);
	evering_net_close(net[1]);
	return n == 0 || n == -EINTR ? EXIT_SUCCESS : fail("wait", n);
}
