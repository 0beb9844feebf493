// SPDX-License-Identifier: MIT
/*
 * fabric.c: a stand-in for libfabric; see fabric.h.  Most of its functions are inline, and call
 * through the tables here.  What is posted must stay as it is until it is completed.
 */
#include <arpa/inet.h>
#include <netinet/in.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>

#include "fabric.h"
#include "fuzz.h"

#define QUEUE	 64u
#define INJECTED 128u

/* A receive that was posted, or a message under way. */
struct posted {
	unsigned char *data;
	size_t len;
	void *context;
	unsigned char *copy;
};

/**
 * struct queue - an event queue
 * @eq: first
 * @event, @count: what has happened, the oldest first
 * @error: what fi_eq_readerr() tells next
 */
struct queue {
	struct fid_eq eq;
	uint32_t event[QUEUE];
	unsigned int count;
	int error;
};

static struct {
	bool local_mr;
	bool stalled;
	unsigned int open;
	struct queue *engine;
	struct queue *link;
	struct fid_ep *ep;
	struct posted in[QUEUE];
	unsigned int in_count;
	struct posted out[QUEUE];
	unsigned int out_count;
	struct fi_cq_msg_entry done[QUEUE];
	unsigned int done_count;
	int cq_error;
} fabric;

/* ------------------------------------------------------------------------ objects */

static int close_object(struct fid *fid)
{
	if (fabric.ep && fid == &fabric.ep->fid)
		fabric.ep = NULL;
	if (fabric.link && fid == &fabric.link->eq.fid)
		fabric.link = NULL;
	if (fabric.engine && fid == &fabric.engine->eq.fid)
		fabric.engine = NULL;
	MUST(fabric.open--);
	free(fid);
	return 0;
}

static int bind_object(struct fid *fid, struct fid *to, uint64_t flags)
{
	(void)fid;
	(void)to;
	(void)flags;
	return 0;
}

static int control(struct fid *fid, int command, void *arg)
{
	(void)fid;
	if (command == FI_GETWAIT)
		*(int *)arg = -1;
	return 0;
}

static struct fi_ops ops = {
	.size = sizeof(ops),
	.close = close_object,
	.bind = bind_object,
	.control = control,
};

/* Its first member is a struct fid. */
static void *new_object(size_t size)
{
	struct fid *fid = calloc(1, size);

	MUST(fid);
	fid->ops = &ops;
	fabric.open++;
	return fid;
}

/* -------------------------------------------------------------------------- queues */

static ssize_t read_event(struct fid_eq *eq, uint32_t *event, void *to,
			  size_t len, uint64_t flags)
{
	struct queue *q = (struct queue *)eq;
	struct fi_eq_cm_entry entry = { 0 };

	(void)flags;
	if (q->error)
		return -FI_EAVAIL;
	if (!q->count)
		return -FI_EAGAIN;
	MUST(len >= sizeof(entry));
	*event = q->event[0];
	memmove(q->event, q->event + 1, --q->count * sizeof(*q->event));
	if (*event == FI_CONNREQ)
		MUST(!fi_getinfo(0, NULL, NULL, 0, NULL, &entry.info));
	memcpy(to, &entry, sizeof(entry));
	return sizeof(entry);
}

static ssize_t read_event_error(struct fid_eq *eq, struct fi_eq_err_entry *to,
				uint64_t flags)
{
	struct queue *q = (struct queue *)eq;

	(void)flags;
	to->err = q->error;
	q->error = 0;
	return sizeof(*to);
}

static struct fi_ops_eq eq_ops = {
	.size = sizeof(eq_ops),
	.read = read_event,
	.readerr = read_event_error,
};

static void add_event(struct queue *q, uint32_t event)
{
	if (q && q->count < QUEUE)
		q->event[q->count++] = event;
}

static ssize_t read_done(struct fid_cq *cq, void *to, size_t count)
{
	(void)cq;
	if (count > fabric.done_count)
		count = fabric.done_count;
	if (!count)
		return fabric.cq_error ? -FI_EAVAIL : -FI_EAGAIN;
	memcpy(to, fabric.done, count * sizeof(*fabric.done));
	fabric.done_count -= (unsigned int)count;
	memmove(fabric.done, fabric.done + count,
		fabric.done_count * sizeof(*fabric.done));
	return (ssize_t)count;
}

static ssize_t read_done_error(struct fid_cq *cq, struct fi_cq_err_entry *to,
			       uint64_t flags)
{
	(void)cq;
	(void)flags;
	to->err = fabric.cq_error;
	fabric.cq_error = 0;
	return 1;
}

static struct fi_ops_cq cq_ops = {
	.size = sizeof(cq_ops),
	.read = read_done,
	.readerr = read_done_error,
};

static void add_done(void *context, size_t len)
{
	MUST(fabric.done_count < QUEUE);
	fabric.done[fabric.done_count++] = (struct fi_cq_msg_entry){
		.op_context = context,
		.len = len,
	};
}

/* ------------------------------------------------------------------------ messages */

static ssize_t post_recv(struct fid_ep *ep, void *data, size_t len, void *desc,
			 fi_addr_t from, void *context)
{
	(void)from;
	MUST(ep == fabric.ep && !desc == !fabric.local_mr);
	MUST(fabric.in_count < QUEUE);
	fabric.in[fabric.in_count++] = (struct posted){
		.data = data,
		.len = len,
		.context = context,
	};
	return 0;
}

static ssize_t post_send(struct fid_ep *ep, const void *data, size_t len,
			 void *desc, fi_addr_t to, void *context)
{
	struct posted *p = &fabric.out[fabric.out_count];

	(void)to;
	MUST(ep == fabric.ep && !desc == !fabric.local_mr);
	if (fabric.stalled)
		return -FI_EAGAIN;
	MUST(fabric.out_count < QUEUE && len);
	*p = (struct posted){
		.data = (unsigned char *)data,
		.len = len,
		.context = context,
		.copy = malloc(len),
	};
	MUST(p->copy);
	memcpy(p->copy, data, len);
	fabric.out_count++;
	return 0;
}

/* A short one, which is the sender's again at once. */
static ssize_t post_inject(struct fid_ep *ep, const void *data, size_t len,
			   fi_addr_t to)
{
	static char nothing;

	MUST(len <= INJECTED);
	return post_send(ep, data, len, fabric.local_mr ? &nothing : NULL, to,
			 NULL);
}

static struct fi_ops_msg msg_ops = {
	.size = sizeof(msg_ops),
	.recv = post_recv,
	.send = post_send,
	.inject = post_inject,
};

bool fabric_give(const void *data, size_t len)
{
	struct posted p = fabric.in[0];

	if (!fabric.ep || !fabric.in_count)
		return false;
	memmove(fabric.in, fabric.in + 1, --fabric.in_count * sizeof(p));
	if (len > p.len) {
		fabric.cq_error = FI_ETRUNC;
		return true;
	}
	if (len)
		memcpy(p.data, data, len);
	add_done(p.context, len);
	return true;
}

bool fabric_take(unsigned char *data, size_t room, size_t *len)
{
	struct posted p = fabric.out[0];

	if (!fabric.out_count)
		return false;
	memmove(fabric.out, fabric.out + 1, --fabric.out_count * sizeof(p));
	MUST(p.len <= room);
	/* Of a link that is closed nothing is there but what it has sent. */
	if (fabric.ep && p.context) {
		MUST(!memcmp(p.data, p.copy, p.len));
		add_done(p.context, p.len);
	}
	memcpy(data, p.copy, p.len);
	*len = p.len;
	free(p.copy);
	return true;
}

size_t fabric_posted(unsigned int *count)
{
	size_t most = 0;
	unsigned int i;

	for (i = 0; i < fabric.in_count; i++)
		if (most < fabric.in[i].len)
			most = fabric.in[i].len;
	*count = fabric.in_count;
	return most;
}

/* ------------------------------------------------------------------------- opening */

static int nothing_ep(struct fid_ep *ep, const void *param, size_t len)
{
	(void)param;
	(void)len;
	MUST(ep == fabric.ep);
	return 0;
}

static int do_connect(struct fid_ep *ep, const void *addr, const void *param,
		      size_t len)
{
	(void)addr;
	return nothing_ep(ep, param, len);
}

static int do_listen(struct fid_pep *pep)
{
	(void)pep;
	return 0;
}

static int do_reject(struct fid_pep *pep, fid_t handle, const void *param,
		     size_t len)
{
	(void)pep;
	(void)handle;
	(void)param;
	(void)len;
	return 0;
}

static int do_shutdown(struct fid_ep *ep, uint64_t flags)
{
	return nothing_ep(ep, NULL, flags);
}

/* There is no socket below, whose kernel could be asked. */
static int do_name(fid_t fid, void *addr, size_t *len)
{
	(void)fid;
	(void)addr;
	(void)len;
	return -FI_ENODATA;
}

static int do_peer(struct fid_ep *ep, void *addr, size_t *len)
{
	return do_name(&ep->fid, addr, len);
}

static struct fi_ops_cm cm_ops = {
	.size = sizeof(cm_ops),
	.connect = do_connect,
	.listen = do_listen,
	.accept = nothing_ep,
	.reject = do_reject,
	.getname = do_name,
	.getpeer = do_peer,
	.shutdown = do_shutdown,
};

static int open_cq(struct fid_domain *domain, struct fi_cq_attr *attr,
		   struct fid_cq **cq, void *context)
{
	(void)domain;
	(void)context;
	MUST(attr->format == FI_CQ_FORMAT_MSG);
	*cq = new_object(sizeof(**cq));
	(*cq)->ops = &cq_ops;
	return 0;
}

static int open_ep(struct fid_domain *domain, struct fi_info *info,
		   struct fid_ep **ep, void *context)
{
	(void)domain;
	(void)info;
	(void)context;
	*ep = new_object(sizeof(**ep));
	(*ep)->msg = &msg_ops;
	(*ep)->cm = &cm_ops;
	fabric.ep = *ep;
	return 0;
}

static struct fi_ops_domain domain_ops = {
	.size = sizeof(domain_ops),
	.cq_open = open_cq,
	.endpoint = open_ep,
};

static int register_memory(struct fid *fid, const void *at, size_t len,
			   uint64_t access, uint64_t offset, uint64_t key,
			   uint64_t flags, struct fid_mr **mr, void *context)
{
	(void)fid;
	(void)at;
	(void)len;
	(void)offset;
	(void)key;
	(void)flags;
	(void)context;
	/* Nothing that the other end could reach by itself. */
	MUST(access == (FI_SEND | FI_RECV));
	*mr = new_object(sizeof(**mr));
	(*mr)->mem_desc = *mr;
	return 0;
}

static struct fi_ops_mr mr_ops = {
	.size = sizeof(mr_ops),
	.reg = register_memory,
};

static int open_domain(struct fid_fabric *fid, struct fi_info *info,
		       struct fid_domain **domain, void *context)
{
	(void)fid;
	(void)info;
	(void)context;
	*domain = new_object(sizeof(**domain));
	(*domain)->ops = &domain_ops;
	(*domain)->mr = &mr_ops;
	return 0;
}

static int open_pep(struct fid_fabric *fid, struct fi_info *info,
		    struct fid_pep **pep, void *context)
{
	(void)fid;
	(void)info;
	(void)context;
	*pep = new_object(sizeof(**pep));
	(*pep)->cm = &cm_ops;
	return 0;
}

/* The engine's is opened before a passive endpoint, by who has no link yet. */
static int open_eq(struct fid_fabric *fid, struct fi_eq_attr *attr,
		   struct fid_eq **eq, void *context)
{
	struct queue *q = new_object(sizeof(*q));

	(void)fid;
	(void)context;
	q->eq.ops = &eq_ops;
	*eq = &q->eq;
	if (attr->size > 16)
		fabric.engine = q;
	else
		fabric.link = q;
	return 0;
}

static int try_wait(struct fid_fabric *fid, struct fid **fids, int count)
{
	(void)fid;
	(void)fids;
	(void)count;
	return FI_SUCCESS;
}

static struct fi_ops_fabric fabric_ops = {
	.size = sizeof(fabric_ops),
	.domain = open_domain,
	.passive_ep = open_pep,
	.eq_open = open_eq,
	.trywait = try_wait,
};

int fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **fid,
	      void *context)
{
	(void)attr;
	(void)context;
	*fid = new_object(sizeof(**fid));
	(*fid)->ops = &fabric_ops;
	return 0;
}

struct fi_info *fi_dupinfo(const struct fi_info *info)
{
	struct fi_info *made = calloc(1, sizeof(*made));

	MUST(made && !info);
	made->ep_attr = calloc(1, sizeof(*made->ep_attr));
	made->domain_attr = calloc(1, sizeof(*made->domain_attr));
	made->fabric_attr = calloc(1, sizeof(*made->fabric_attr));
	made->tx_attr = calloc(1, sizeof(*made->tx_attr));
	MUST(made->ep_attr && made->domain_attr && made->fabric_attr &&
	     made->tx_attr);
	made->tx_attr->inject_size = INJECTED;
	fabric.open++;
	return made;
}

void fi_freeinfo(struct fi_info *info)
{
	MUST(fabric.open--);
	free(info->src_addr);
	free(info->ep_attr);
	free(info->tx_attr);
	free(info->domain_attr);
	free(info->fabric_attr->prov_name);
	free(info->fabric_attr);
	free(info);
}

int fi_getinfo(uint32_t version, const char *node, const char *service,
	       uint64_t flags, const struct fi_info *hints,
	       struct fi_info **info)
{
	struct sockaddr_in *address = calloc(1, sizeof(*address));

	(void)version;
	(void)node;
	(void)service;
	(void)flags;
	(void)hints;
	MUST(address);
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*info = fi_allocinfo();
	(*info)->src_addr = address;
	if (fabric.local_mr)
		(*info)->domain_attr->mr_mode = FI_MR_LOCAL;
	return 0;
}

/* ------------------------------------------------------------------- the other end */

void fabric_begin(bool local_mr)
{
	memset(&fabric, 0, sizeof(fabric));
	fabric.local_mr = local_mr;
}

void fabric_end(void)
{
	MUST(!fabric.open);
	while (fabric.out_count)
		free(fabric.out[--fabric.out_count].copy);
}

void fabric_call(void)
{
	add_event(fabric.engine, FI_CONNREQ);
}

void fabric_event(uint32_t event)
{
	add_event(fabric.link, event);
}

void fabric_fail(bool events, int error)
{
	if (!events)
		fabric.cq_error = error;
	else if (fabric.link)
		fabric.link->error = error;
}

void fabric_stall(bool stall)
{
	fabric.stalled = stall;
}
