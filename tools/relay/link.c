// SPDX-License-Identifier: MIT
/*
 * link.c: the connection of two relays, by libfabric; see link.h, and wire.h for what is said.
 *
 * Each link has a domain and queues of its own.  Whoever is at its other end can reach no
 * memory but the buffers that were posted for it; and until it has proven the key that is one
 * of the size of a greeting.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>

#include "../evering/util.h"
#include "link.h"

#define API		FI_VERSION(1, 14)
/* At an event queue in one step. */
#define LOOKS		16u
#define ALL_MESSAGES	((size_t)2 * LINK_MESSAGES * WIRE_MESSAGE)

/* ---------------------------------------------------------------------- the engine */

static struct fi_info *hints_of(const struct engine *engine)
{
	struct fi_info *hints = fi_allocinfo();

	if (!hints)
		return NULL;
	hints->caps = FI_MSG;
	hints->mode = FI_CONTEXT;
	hints->ep_attr->type = FI_EP_MSG;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_ALLOCATED |
				      FI_MR_VIRT_ADDR | FI_MR_PROV_KEY;
	hints->domain_attr->threading = FI_THREAD_DOMAIN;
	hints->fabric_attr->prov_name = strdup(engine->provider);
	if (!hints->fabric_attr->prov_name) {
		fi_freeinfo(hints);
		return NULL;
	}
	return hints;
}

/* What is there for an address.  0; -ENODEV: no such provider; -ENOENT: no such address. */
static int look_up(const struct engine *engine, const char *host,
		   const char *port, uint64_t flags, struct fi_info **info)
{
	struct fi_info *hints = hints_of(engine), *any;
	int ret;

	if (!hints)
		return -ENOMEM;
	ret = fi_getinfo(API, host, port, flags, hints, info);
	if (ret == -FI_ENODATA) {
		ret = fi_getinfo(API, NULL, NULL, 0, hints, &any);
		if (!ret)
			fi_freeinfo(any);
		ret = ret ? -ENODEV : -ENOENT;
	}
	fi_freeinfo(hints);
	return ret;
}

static bool is_loopback(const struct fi_info *info)
{
	const struct sockaddr_in6 *six = info->src_addr;
	const struct sockaddr_in *four = info->src_addr;

	if (!info->src_addr)
		return false;
	if (four->sin_family == AF_INET)
		return ntohl(four->sin_addr.s_addr) >> 24 == 127;
	return six->sin6_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

static int queue_fd(struct fid *queue, int *fd)
{
	return fi_control(queue, FI_GETWAIT, fd);
}

int engine_listen(struct engine *engine, const char *host, const char *port,
		  bool loopback_only)
{
	struct fi_eq_attr eq = { .size = 64, .wait_obj = FI_WAIT_FD };
	int ret;

	engine->eq_fd = -1;
	ret = look_up(engine, host, port, FI_SOURCE, &engine->info);
	if (ret)
		return ret;
	if (loopback_only && !is_loopback(engine->info)) {
		engine_close(engine);
		return -EACCES;
	}
	ret = fi_fabric(engine->info->fabric_attr, &engine->fabric, NULL);
	if (!ret)
		ret = fi_eq_open(engine->fabric, &eq, &engine->eq, NULL);
	if (!ret)
		ret = queue_fd(&engine->eq->fid, &engine->eq_fd);
	if (!ret)
		ret = fi_passive_ep(engine->fabric, engine->info, &engine->pep,
				    NULL);
	if (!ret)
		ret = fi_pep_bind(engine->pep, &engine->eq->fid, 0);
	if (!ret)
		ret = fi_listen(engine->pep);
	if (ret)
		engine_close(engine);
	return ret;
}

bool engine_idle(const struct engine *engine)
{
	struct fid *fids[] = { &engine->eq->fid };

	return fi_trywait(engine->fabric, fids, 1) == FI_SUCCESS;
}

void engine_close(struct engine *engine)
{
	if (engine->pep)
		fi_close(&engine->pep->fid);
	if (engine->eq)
		fi_close(&engine->eq->fid);
	if (engine->fabric)
		fi_close(&engine->fabric->fid);
	if (engine->info)
		fi_freeinfo(engine->info);
	engine->pep = NULL;
	engine->eq = NULL;
	engine->fabric = NULL;
	engine->info = NULL;
	engine->eq_fd = -1;
}

/* ------------------------------------------------------------------------- opening */

/* libfabric's own numbers begin where errno's end. */
static int plain_error(int error)
{
	if (error < 0)
		error = -error;
	switch (error) {
	case FI_ECANCELED:
	case FI_ENOTCONN:
	case FI_ESHUTDOWN:
	case EPIPE:
	case FI_EIO:
	case 0:
		return -ECONNRESET;
	case FI_ETRUNC:
	case FI_ETOOSMALL:
		return -EPROTO;
	default:
		return error < 256 ? -error : -EIO;
	}
}

static void *buffer_desc(const struct link *link)
{
	return link->mr ? fi_mr_desc(link->mr) : NULL;
}

static int make_buffers(struct link *link)
{
	unsigned int i;
	int ret;

	link->memory = aligned_alloc(4096, ALL_MESSAGES);
	if (!link->memory)
		return -ENOMEM;
	for (i = 0; i < LINK_MESSAGES; i++) {
		link->in[i].data = link->memory + (size_t)i * WIRE_MESSAGE;
		link->out[i].data = link->memory +
				    (size_t)(LINK_MESSAGES + i) * WIRE_MESSAGE;
	}
	if (!(link->info->domain_attr->mr_mode & FI_MR_LOCAL))
		return 0;
	ret = fi_mr_reg(link->domain, link->memory, ALL_MESSAGES,
			FI_SEND | FI_RECV, 0, 0, 0, &link->mr, NULL);
	return ret;
}

/* One receive, of the size of a greeting, until there is trust. */
static int post_receive(struct link *link, struct buffer *buffer, size_t len)
{
	ssize_t ret = fi_recv(link->ep, buffer->data, len, buffer_desc(link),
			      FI_ADDR_UNSPEC, &buffer->context);

	buffer->busy = !ret;
	return ret ? plain_error((int)ret) : 0;
}

/* All that a connection is made of.  @link->info is there. */
static int make_endpoint(struct link *link)
{
	struct fi_eq_attr eq = { .size = 16, .wait_obj = FI_WAIT_FD };
	struct fi_cq_attr cq = { .size = 4 * LINK_MESSAGES,
				 .format = FI_CQ_FORMAT_MSG,
				 .wait_obj = FI_WAIT_FD };
	int ret = 0;

	if (!link->fabric) {
		link->own_fabric = true;
		ret = fi_fabric(link->info->fabric_attr, &link->fabric, NULL);
	}
	if (!ret)
		ret = fi_domain(link->fabric, link->info, &link->domain, NULL);
	if (!ret)
		ret = fi_eq_open(link->fabric, &eq, &link->eq, NULL);
	if (!ret)
		ret = queue_fd(&link->eq->fid, &link->eq_fd);
	if (!ret)
		ret = fi_cq_open(link->domain, &cq, &link->cq, NULL);
	if (!ret)
		ret = queue_fd(&link->cq->fid, &link->cq_fd);
	if (!ret)
		ret = fi_endpoint(link->domain, link->info, &link->ep, NULL);
	if (!ret)
		ret = fi_ep_bind(link->ep, &link->eq->fid, 0);
	if (!ret)
		ret = fi_ep_bind(link->ep, &link->cq->fid,
				 FI_TRANSMIT | FI_RECV);
	if (!ret)
		ret = fi_enable(link->ep);
	if (!ret)
		ret = make_buffers(link);
	if (!ret)
		ret = post_receive(link, &link->in[0],
				   sizeof(struct wire_greeting));
	return ret;
}

static struct link *new_link(struct engine *engine,
			     const struct link_settings *settings)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->engine = engine;
	link->settings = settings;
	link->eq_fd = link->cq_fd = -1;
	link->keepalive_ns = settings->keepalive_ns;
	link->ping_ns = settings->keepalive_ns / 3;
	link->heard = link->said = link->looked = clock_ns();
	link->late = link->looked - link->keepalive_ns;
	link->deadline = link->heard + settings->greeting_ns;
	return link;
}

int link_call(struct engine *engine, const char *host, const char *port,
	      const struct link_settings *settings, struct link **ret)
{
	struct link *link = new_link(engine, settings);
	int error;

	if (!link)
		return -ENOMEM;
	link->caller = true;
	error = look_up(engine, host, port, 0, &link->info);
	if (!error)
		error = make_endpoint(link);
	if (!error)
		error = fi_connect(link->ep, link->info->dest_addr, NULL, 0);
	if (error) {
		link_close(link);
		return error;
	}
	*ret = link;
	return 0;
}

struct link *engine_answer(struct engine *engine,
			   const struct link_settings *settings, int *error)
{
	struct fi_eq_cm_entry entry;
	struct fi_eq_err_entry lost = { 0 };
	struct link *link;
	uint32_t event;
	ssize_t n;

	*error = 0;
	n = fi_eq_read(engine->eq, &event, &entry, sizeof(entry), 0);
	if (n == -FI_EAVAIL)
		fi_eq_readerr(engine->eq, &lost, 0);
	if (n < (ssize_t)sizeof(entry) || event != FI_CONNREQ)
		return NULL;
	link = new_link(engine, settings);
	if (!link) {
		fi_reject(engine->pep, entry.info->handle, NULL, 0);
		fi_freeinfo(entry.info);
		*error = -ENOMEM;
		return NULL;
	}
	link->info = entry.info;
	link->fabric = engine->fabric;
	*error = make_endpoint(link);
	if (!*error)
		*error = fi_accept(link->ep, NULL, 0);
	if (*error) {
		link_close(link);
		return NULL;
	}
	return link;
}

void link_close(struct link *link)
{
	if (!link)
		return;
	if (link->ep) {
		fi_shutdown(link->ep, 0);
		fi_close(&link->ep->fid);
	}
	if (link->mr)
		fi_close(&link->mr->fid);
	if (link->cq)
		fi_close(&link->cq->fid);
	if (link->eq)
		fi_close(&link->eq->fid);
	if (link->domain)
		fi_close(&link->domain->fid);
	if (link->fabric && link->own_fabric)
		fi_close(&link->fabric->fid);
	if (link->info)
		fi_freeinfo(link->info);
	free(link->memory);
	free(link);
}

void link_fail(struct link *link, int error)
{
	if (link->state == LINK_DOWN)
		return;
	link->state = LINK_DOWN;
	link->error = error;
}

/* ------------------------------------------------------------------------- sending */

static struct buffer *free_buffer(struct link *link)
{
	unsigned int i;

	for (i = 0; i < LINK_MESSAGES; i++)
		if (!link->out[i].busy)
			return &link->out[i];
	return NULL;
}

/* Gives the engine a message; false: it has not taken it, and will some time. */
static bool post_send(struct link *link, struct buffer *buffer)
{
	bool inject = buffer->len <= link->info->tx_attr->inject_size;
	ssize_t ret;

	/* A short one is copied, and has no completion to wait for and to be woken by. */
	ret = inject ? fi_inject(link->ep, buffer->data, buffer->len,
				 FI_ADDR_UNSPEC) :
		       fi_send(link->ep, buffer->data, buffer->len,
			       buffer_desc(link), FI_ADDR_UNSPEC,
			       &buffer->context);
	if (ret == -FI_EAGAIN)
		return false;
	if (ret) {
		link_fail(link, plain_error((int)ret));
		return true;
	}
	buffer->busy = !inject;
	link->said = clock_ns();
	return true;
}

void link_flush(struct link *link)
{
	struct buffer *buffer = link->filling;

	if (link->state != LINK_UP || !buffer || !buffer->len)
		return;
	if (!post_send(link, buffer))
		return;
	link->filling = NULL;
	link->tail = NULL;
}

static size_t record_size(uint32_t len)
{
	return sizeof(struct wire_record) +
	       (((size_t)len + WIRE_ALIGN - 1) & ~(size_t)(WIRE_ALIGN - 1));
}

size_t link_room(const struct link *link)
{
	size_t used = link->filling ? link->filling->len : 0;

	used += sizeof(struct wire_record);
	return used < WIRE_MESSAGE ? WIRE_MESSAGE - used : 0;
}

static unsigned char *take_room(struct link *link, size_t size)
{
	unsigned char *at;

	if (link->filling && link->filling->len + size > WIRE_MESSAGE)
		link_flush(link);
	if (link->filling && link->filling->len + size > WIRE_MESSAGE)
		return NULL;
	if (!link->filling) {
		link->filling = free_buffer(link);
		if (!link->filling)
			return NULL;
		link->filling->len = 0;
	}
	at = link->filling->data + link->filling->len;
	link->filling->len += size;
	/* What fills it up is nothing of an older message. */
	memset(at + size - WIRE_ALIGN, 0, WIRE_ALIGN);
	return at;
}

struct wire_record *link_record(struct link *link, uint32_t channel,
				enum wire_type type, uint32_t arg, uint32_t len)
{
	size_t size = record_size(len);
	struct wire_record *record;

	if (link->state != LINK_UP)
		return NULL;
	record = (struct wire_record *)take_room(link, size);
	if (!record)
		return NULL;
	*record = (struct wire_record){
		.channel = channel,
		.type = (uint16_t)type,
		.len = len,
		.arg = arg,
	};
	link->tail = record;
	return record;
}

bool link_extend(struct link *link, struct wire_record *record, uint32_t len)
{
	size_t at = (size_t)((unsigned char *)record - link->filling->data);
	size_t end = at + record_size(record->len + len), old;

	if (end > WIRE_MESSAGE)
		return false;
	old = at + sizeof(*record) + record->len;
	memset(link->filling->data + old, 0, end - old);
	record->len += len;
	link->filling->len = end;
	return true;
}

/* ------------------------------------------------------------------------ greeting */

static int say(struct link *link, enum wire_greeting_kind kind, int error,
	       struct wire_greeting *greeting)
{
	struct buffer *buffer = free_buffer(link);

	greeting->magic = WIRE_MAGIC;
	greeting->version = WIRE_VERSION;
	greeting->kind = (uint16_t)kind;
	greeting->abi = EVERING_ABI_VERSION;
	greeting->ops = EVERING_OPS_VERSION;
	greeting->keepalive_ms =
		(uint32_t)(link->settings->keepalive_ns / 1000000);
	greeting->error = error;
	if (!buffer)
		return -ENOBUFS;
	memcpy(buffer->data, greeting, sizeof(*greeting));
	buffer->len = sizeof(*greeting);
	return post_send(link, buffer) ? 0 : -EAGAIN;
}

/* The connection is there. */
static int begin_greeting(struct link *link)
{
	link->state = LINK_GREETING;
	link->expected = link->caller ? WIRE_ANSWER : WIRE_HELLO;
	if (!link->caller)
		return 0;
	if (!auth_nonce(link->hello.nonce))
		return -EIO;
	strncpy(link->hello.identity, link->settings->identity, WIRE_NAME - 1);
	return say(link, WIRE_HELLO, 0, &link->hello);
}

/* The key of this link, or NULL; false: there are keys, and none of that name. */
static bool find_key(const struct link *link, const struct key **key)
{
	const struct keys *keys = link->settings->keys;

	*key = NULL;
	if (!keys || !keys->count)
		return true;
	*key = key_of(keys, link->hello.identity);
	/* The one key of a file without identities is for everybody, as is the caller's. */
	if (!*key && keys->count == 1 &&
	    (link->caller || !*keys->key[0].identity))
		*key = &keys->key[0];
	return *key;
}

static int refuse(struct link *link, int error)
{
	struct wire_greeting no = { 0 };

	say(link, WIRE_REFUSED, error, &no);
	return error;
}

/* Everything posted: from now on it is a link. */
static int become_up(struct link *link)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < LINK_MESSAGES && !ret; i++)
		ret = post_receive(link, &link->in[i], WIRE_MESSAGE);
	link->state = LINK_UP;
	return ret;
}

static int next_greeting(struct link *link, enum wire_greeting_kind kind)
{
	link->expected = kind;
	return post_receive(link, &link->in[0], sizeof(struct wire_greeting));
}

static int hear_hello(struct link *link, const struct wire_greeting *hello)
{
	const struct key *key;

	link->hello = *hello;
	link->hello.identity[WIRE_NAME - 1] = 0;
	if (!auth_nonce(link->answer.nonce))
		return -EIO;
	link->answer.magic = WIRE_MAGIC;
	link->answer.version = WIRE_VERSION;
	link->answer.kind = WIRE_ANSWER;
	link->answer.abi = EVERING_ABI_VERSION;
	link->answer.ops = EVERING_OPS_VERSION;
	link->answer.keepalive_ms =
		(uint32_t)(link->settings->keepalive_ns / 1000000);
	/* Who has no key is not told so before it has shown that it has none itself. */
	if (!find_key(link, &key)) {
		if (!auth_nonce(link->answer.proof))
			return -EIO;
	} else if (!auth_prove(key, false, &link->hello, &link->answer,
			       link->answer.proof)) {
		return -EIO;
	}
	/* What it calls itself says nothing; that it has this key will. */
	if (key)
		memcpy(link->identity, key->identity, WIRE_NAME);
	if (say(link, WIRE_ANSWER, 0, &link->answer))
		return -EIO;
	return next_greeting(link, WIRE_PROVEN);
}

static int hear_answer(struct link *link, const struct wire_greeting *answer)
{
	unsigned char proof[WIRE_PROOF];
	struct wire_greeting proven = { 0 };
	const struct key *key;

	link->answer = *answer;
	if (!find_key(link, &key))
		return -EACCES;
	if (!auth_prove(key, false, &link->hello, &link->answer, proof))
		return -EIO;
	if (!auth_equal(proof, answer->proof))
		return -EACCES;
	if (!auth_prove(key, true, &link->hello, &link->answer, proven.proof))
		return -EIO;
	if (say(link, WIRE_PROVEN, 0, &proven))
		return -EIO;
	return next_greeting(link, WIRE_READY);
}

static int hear_proven(struct link *link, const struct wire_greeting *proven)
{
	unsigned char proof[WIRE_PROOF];
	struct wire_greeting ready = { 0 };
	const struct key *key;
	int ret;

	if (!find_key(link, &key))
		return refuse(link, -EACCES);
	if (!auth_prove(key, true, &link->hello, &link->answer, proof))
		return -EIO;
	if (!auth_equal(proof, proven->proof))
		return refuse(link, -EACCES);
	ret = say(link, WIRE_READY, 0, &ready);
	return ret ? ret : become_up(link);
}

/* Each has a fixed size, and is all that is looked at of a stranger. */
static int hear_greeting(struct link *link, const unsigned char *data,
			 size_t len)
{
	struct wire_greeting greeting;
	int64_t theirs;

	if (len != sizeof(greeting))
		return -EPROTO;
	memcpy(&greeting, data, sizeof(greeting));
	if (greeting.magic != WIRE_MAGIC)
		return -EPROTO;
	if (greeting.version != WIRE_VERSION ||
	    greeting.abi != EVERING_ABI_VERSION ||
	    greeting.ops != EVERING_OPS_VERSION) {
		if (greeting.kind != WIRE_REFUSED)
			refuse(link, -EPROTONOSUPPORT);
		return -EPROTONOSUPPORT;
	}
	if (greeting.kind == WIRE_REFUSED && link->caller)
		return greeting.error == -EPROTONOSUPPORT ? -EPROTONOSUPPORT :
							    -EACCES;
	if (greeting.kind != link->expected)
		return -EPROTO;
	/*
	 * As often as the more impatient one of the two wants to hear; but none has this side
	 * speak more often than its own option could.
	 */
	theirs = (int64_t)greeting.keepalive_ms * 1000000;
	if (theirs < LEAST_KEEPALIVE)
		theirs = LEAST_KEEPALIVE;
	if (theirs < link->keepalive_ns)
		link->ping_ns = theirs / 3;
	switch (greeting.kind) {
	case WIRE_HELLO:
		return hear_hello(link, &greeting);
	case WIRE_ANSWER:
		return hear_answer(link, &greeting);
	case WIRE_PROVEN:
		return hear_proven(link, &greeting);
	case WIRE_READY:
		return become_up(link);
	default:
		return -EPROTO;
	}
}

/* ------------------------------------------------------------------------ stepping */

static struct buffer *buffer_of(void *context)
{
	return context; /* whose first member it is */
}

static bool is_incoming(const struct link *link, const struct buffer *buffer)
{
	return buffer >= link->in && buffer < link->in + LINK_MESSAGES;
}

static int take_message(struct link *link, struct buffer *buffer, size_t len)
{
	int ret;

	buffer->busy = false;
	link->heard = clock_ns();
	/* It can be seen before the event that says that the connection is there. */
	if (link->state == LINK_CALLING) {
		ret = begin_greeting(link);
		if (ret)
			return ret;
	}
	if (link->state == LINK_GREETING)
		return hear_greeting(link, buffer->data, len);
	ret = link->message(link, buffer->data, len, link->context);
	return ret ? ret : post_receive(link, buffer, WIRE_MESSAGE);
}

static bool read_events(struct link *link)
{
	struct fi_eq_err_entry failed = { 0 };
	struct fi_eq_cm_entry entry;
	uint32_t event;
	ssize_t n;
	int ret = 0;

	n = fi_eq_read(link->eq, &event, &entry, sizeof(entry), 0);
	if (n == -FI_EAGAIN)
		return false;
	if (n == -FI_EAVAIL) {
		fi_eq_readerr(link->eq, &failed, 0);
		link_fail(link, plain_error(failed.err));
	} else if (n < 0) {
		link_fail(link, plain_error((int)n));
	} else if (event == FI_CONNECTED && link->state == LINK_CALLING) {
		ret = begin_greeting(link);
		if (ret)
			link_fail(link, ret);
	} else if (event == FI_SHUTDOWN) {
		link_fail(link, -ECONNRESET);
	}
	return true;
}

static bool read_completions(struct link *link)
{
	struct fi_cq_err_entry failed = { 0 };
	struct fi_cq_msg_entry entry[2 * LINK_MESSAGES];
	struct buffer *buffer;
	ssize_t n, i;
	int ret = 0;

	n = fi_cq_read(link->cq, entry, 2 * LINK_MESSAGES);
	if (n == -FI_EAGAIN)
		return false;
	if (n == -FI_EAVAIL) {
		fi_cq_readerr(link->cq, &failed, 0);
		link_fail(link, plain_error(failed.err));
		return true;
	}
	if (n < 0) {
		link_fail(link, plain_error((int)n));
		return true;
	}
	for (i = 0; i < n && link->state != LINK_DOWN; i++) {
		buffer = buffer_of(entry[i].op_context);
		if (is_incoming(link, buffer)) {
			ret = take_message(link, buffer, entry[i].len);
		} else {
			buffer->busy = false;
		}
		if (ret)
			link_fail(link, ret);
	}
	return n > 0;
}

/* May the descriptor of this queue be slept on? */
static bool is_quiet(const struct link *link, struct fid *queue)
{
	return fi_trywait(link->fabric, &queue, 1) == FI_SUCCESS;
}

bool link_step(struct link *link, bool events)
{
	int64_t now = clock_ns();
	unsigned int looks;
	bool did;

	if (link->state == LINK_DOWN)
		return false;
	if (now - link->looked > 2 * link->ping_ns)
		link->late = now;
	link->looked = now;
	did = read_completions(link);
	/* What came before its end is read first. */
	if (events) {
		while (link->state != LINK_DOWN && read_completions(link))
			;
		/*
		 * Its descriptor stays ready until fi_trywait(3) finds nothing more, and what
		 * is left for the next time is told again.
		 */
		for (looks = 0;
		     looks < LOOKS && link->state != LINK_DOWN &&
		     (read_events(link) || !is_quiet(link, &link->eq->fid));
		     looks++)
			did = true;
	}
	/* This side was stopped for so long that the other may have given it up. */
	if (link->state == LINK_DOWN && link->error == -ECONNRESET &&
	    now - link->late < link->ping_ns)
		link->error = -ENETRESET;
	return did;
}

bool link_idle(struct link *link)
{
	return link->state == LINK_DOWN || is_quiet(link, &link->cq->fid);
}

/* Is it the socket of a connection between these addresses? */
static bool is_between(int fd, const struct sockaddr_storage *own,
		       const struct sockaddr_storage *theirs)
{
	struct sockaddr_storage name = { 0 };
	socklen_t len = sizeof(name);

	if (getsockname(fd, (struct sockaddr *)&name, &len) ||
	    memcmp(&name, own, sizeof(name)))
		return false;
	memset(&name, 0, sizeof(name));
	len = sizeof(name);
	return !getpeername(fd, (struct sockaddr *)&name, &len) &&
	       !memcmp(&name, theirs, sizeof(name));
}

/* The descriptor of the link's socket, which is libfabric's; -1: it has none. */
static int find_socket(struct link *link)
{
	struct sockaddr_storage own = { 0 }, theirs = { 0 };
	size_t own_len = sizeof(own), their_len = sizeof(theirs);
	struct dirent *entry;
	int fd, found = -1;
	DIR *dir;

	if (fi_getname(&link->ep->fid, &own, &own_len) ||
	    fi_getpeer(link->ep, &theirs, &their_len))
		return -1;
	dir = opendir("/proc/self/fd");
	if (!dir)
		return -1;
	while (found < 0 && (entry = readdir(dir))) {
		fd = atoi(entry->d_name);
		if (*entry->d_name != '.' && is_between(fd, &own, &theirs))
			found = fd;
	}
	closedir(dir);
	return found;
}

/*
 * A message is heard when all of it is there, which takes longer than --keepalive if the link
 * is slow.  That some has come the kernel says; libfabric does not.
 */
static void ask_kernel(struct link *link, int64_t now)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	int fd = find_socket(link);
	int64_t heard;

	if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return;
	heard = now - (int64_t)info.tcpi_last_data_recv * 1000000;
	if (heard > link->heard)
		link->heard = heard;
}

int64_t link_time(struct link *link, int64_t now)
{
	int64_t next;

	if (link->state == LINK_DOWN)
		return now;
	if (link->state != LINK_UP) {
		if (now >= link->deadline)
			link_fail(link, -ETIMEDOUT);
		return link->deadline;
	}
	if (now - link->heard >= link->keepalive_ns)
		ask_kernel(link, now);
	if (now - link->heard >= link->keepalive_ns) {
		/* It may live, and hear: then it is not to think that this relay has died. */
		if (link_record(link, 0, WIRE_SILENT, 0, 0))
			link_flush(link);
		link_fail(link, -ENETRESET);
		return now;
	}
	if (now - link->said >= link->ping_ns) {
		/* Without room there is more than enough under way. */
		if (link_record(link, 0, WIRE_NOTHING, 0, 0))
			link_flush(link);
		link->said = now;
	}
	next = link->said + link->ping_ns;
	return link->heard + link->keepalive_ns < next ?
		       link->heard + link->keepalive_ns :
		       next;
}
