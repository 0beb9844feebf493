// SPDX-License-Identifier: MIT
/*
 * libfabric: messages between reliable datagram endpoints of its shm provider, into
 * buffers that are posted beforehand; both sides spin.
 */
#include <stdlib.h>
#include <string.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>

#include "messages.h"

struct fabric {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_av *av;
	struct fid_cq *sent, *received;
	struct fid_ep *ep;
	fi_addr_t other;
	unsigned char *body[MESSAGES_MOST];
	struct fi_context context[MESSAGES_MOST + 1]; /* the last: of sends */
	uint32_t first; /* received so far */
};

static void check(struct side *s, const char *what, ssize_t ret)
{
	if (ret)
		fail(s, "%s: %s", what, fi_strerror((int)-ret));
}

/* The next completion; both queues are moved on, as either may have to answer. */
static size_t complete(struct side *s, struct fid_cq *cq)
{
	struct fi_cq_msg_entry entry;
	struct fabric *f = s->state;
	ssize_t n;

	while ((n = fi_cq_read(cq, &entry, 1)) == -FI_EAGAIN)
		fi_cq_read(cq == f->sent ? f->received : f->sent, NULL, 0);
	if (n != 1)
		fail(s, "fi_cq_read: %s", fi_strerror((int)-n));
	return entry.len;
}

static void post(struct side *s, uint32_t at)
{
	struct fabric *f = s->state;

	check(s, "fi_recv",
	      fi_recv(f->ep, f->body[at], s->job->size, NULL, FI_ADDR_UNSPEC,
		      &f->context[at]));
}

static void find_provider(struct side *s)
{
	struct fi_info *hints = fi_allocinfo();
	struct fabric *f = s->state;

	if (!hints)
		fail(s, "no memory");
	hints->caps = FI_MSG;
	hints->mode = FI_CONTEXT;
	hints->ep_attr->type = FI_EP_RDM;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR;
	hints->domain_attr->threading = FI_THREAD_DOMAIN;
	hints->fabric_attr->prov_name = strdup("shm");
	check(s, "fi_getinfo: shm",
	      fi_getinfo(FI_VERSION(1, 14), NULL, NULL, 0, hints, &f->info));
	fi_freeinfo(hints);
}

static void meet_fabric(struct side *s)
{
	struct fabric *f = s->state;
	char own[256], others[256];
	size_t len = sizeof(own);

	check(s, "fi_getname", fi_getname(&f->ep->fid, own, &len));
	swap_bytes(s, own, len, others, sizeof(others));
	if (fi_av_insert(f->av, others, 1, &f->other, 0, NULL) != 1)
		fail(s, "fi_av_insert: the other side has no such address");
}

static void fabric_open(struct side *s)
{
	struct fi_cq_attr cq = { .format = FI_CQ_FORMAT_MSG };
	struct fi_av_attr av = { .type = FI_AV_UNSPEC };
	struct fabric *f = calloc(1, sizeof(*f));
	uint32_t i;

	if (!f)
		fail(s, "no memory");
	s->state = f;
	find_provider(s);
	check(s, "fi_fabric",
	      fi_fabric(f->info->fabric_attr, &f->fabric, NULL));
	check(s, "fi_domain", fi_domain(f->fabric, f->info, &f->domain, NULL));
	check(s, "fi_av_open", fi_av_open(f->domain, &av, &f->av, NULL));
	check(s, "fi_cq_open", fi_cq_open(f->domain, &cq, &f->sent, NULL));
	check(s, "fi_cq_open", fi_cq_open(f->domain, &cq, &f->received, NULL));
	check(s, "fi_endpoint", fi_endpoint(f->domain, f->info, &f->ep, NULL));
	check(s, "fi_ep_bind", fi_ep_bind(f->ep, &f->av->fid, 0));
	check(s, "fi_ep_bind", fi_ep_bind(f->ep, &f->sent->fid, FI_TRANSMIT));
	check(s, "fi_ep_bind", fi_ep_bind(f->ep, &f->received->fid, FI_RECV));
	check(s, "fi_enable", fi_enable(f->ep));
	meet_fabric(s);
	for (i = 0; i < message_window(s->job); i++) {
		f->body[i] = calloc(1, s->job->size);
		if (!f->body[i])
			fail(s, "no memory");
		post(s, i);
	}
}

static void fabric_out(struct side *s, const void *buf, size_t len)
{
	struct fabric *f = s->state;
	ssize_t ret;

	while ((ret = fi_send(f->ep, buf, len, NULL, f->other,
			      &f->context[MESSAGES_MOST])) == -FI_EAGAIN)
		fi_cq_read(f->received, NULL, 0);
	check(s, "fi_send", ret);
	complete(s, f->sent);
}

static void fabric_in(struct side *s, uint32_t number)
{
	struct fabric *f = s->state;
	uint32_t at = f->first++ % message_window(s->job);
	size_t len = complete(s, f->received);

	read_message(s, f->body[at], len, number);
	post(s, at);
}

static void fabric_work(struct side *s, uint64_t ops)
{
	carry_messages(s, ops, fabric_out, fabric_in);
}

static void fabric_close(struct side *s)
{
	struct fabric *f = s->state;
	uint32_t i;

	meet_other(s);
	fi_close(&f->ep->fid);
	fi_close(&f->received->fid);
	fi_close(&f->sent->fid);
	fi_close(&f->av->fid);
	fi_close(&f->domain->fid);
	fi_close(&f->fabric->fid);
	fi_freeinfo(f->info);
	for (i = 0; i < message_window(s->job); i++)
		free(f->body[i]);
	free(f);
}

const struct arm libfabric_arm = {
	.name = "libfabric",
	.modes = WHOLE(EVERING_BUSY),
	.open = fabric_open,
	.work = fabric_work,
	.close = fabric_close,
};
