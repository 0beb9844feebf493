// SPDX-License-Identifier: MIT
/*
 * UCX: tagged messages over its posix shared memory, unless the environment names
 * other transports (UCX_TLS), into buffers that are posted beforehand; both sides spin.
 */
#include <stdlib.h>

#include <ucp/api/ucp.h>

#include "messages.h"

#define TAG 1u

struct ucx {
	ucp_context_h context;
	ucp_worker_h worker;
	ucp_ep_h ep;
	unsigned char *body[MESSAGES_MOST];
	ucs_status_ptr_t posted[MESSAGES_MOST];
	uint32_t first; /* received so far */
};

static void check(struct side *s, const char *what, ucs_status_t status)
{
	if (status != UCS_OK)
		fail(s, "%s: %s", what, ucs_status_string(status));
}

static void post(struct side *s, uint32_t at)
{
	const ucp_request_param_t param = { 0 };
	struct ucx *u = s->state;

	u->posted[at] = ucp_tag_recv_nbx(u->worker, u->body[at], s->job->size,
					 TAG, (ucp_tag_t)-1, &param);
	if (UCS_PTR_IS_ERR(u->posted[at]))
		check(s, "ucp_tag_recv_nbx", UCS_PTR_STATUS(u->posted[at]));
}

static void connect_worker(struct side *s)
{
	struct ucx *u = s->state;
	ucp_ep_params_t params = { .field_mask =
					   UCP_EP_PARAM_FIELD_REMOTE_ADDRESS };
	unsigned char others[4096];
	ucp_address_t *own;
	size_t len;

	check(s, "ucp_worker_get_address",
	      ucp_worker_get_address(u->worker, &own, &len));
	swap_bytes(s, own, len, others, sizeof(others));
	ucp_worker_release_address(u->worker, own);
	params.address = (const ucp_address_t *)others;
	check(s, "ucp_ep_create", ucp_ep_create(u->worker, &params, &u->ep));
}

static void ucx_open(struct side *s)
{
	ucp_params_t params = { .field_mask = UCP_PARAM_FIELD_FEATURES,
				.features = UCP_FEATURE_TAG };
	ucp_worker_params_t single = {
		.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
		.thread_mode = UCS_THREAD_MODE_SINGLE,
	};
	struct ucx *u = calloc(1, sizeof(*u));
	ucp_config_t *config;
	uint32_t i;

	if (!u)
		fail(s, "no memory");
	s->state = u;
	setenv("UCX_TLS", "posix", 0);
	setenv("UCX_LOG_LEVEL", "error", 0);
	check(s, "ucp_config_read", ucp_config_read(NULL, NULL, &config));
	check(s, "ucp_init", ucp_init(&params, config, &u->context));
	ucp_config_release(config);
	check(s, "ucp_worker_create",
	      ucp_worker_create(u->context, &single, &u->worker));
	connect_worker(s);
	for (i = 0; i < message_window(s->job); i++) {
		u->body[i] = calloc(1, s->job->size);
		if (!u->body[i])
			fail(s, "no memory");
		post(s, i);
	}
}

static void ucx_out(struct side *s, const void *buf, size_t len)
{
	const ucp_request_param_t param = { 0 };
	struct ucx *u = s->state;
	ucs_status_ptr_t request =
		ucp_tag_send_nbx(u->ep, buf, len, TAG, &param);
	ucs_status_t status;

	if (!UCS_PTR_IS_PTR(request)) {
		check(s, "ucp_tag_send_nbx", UCS_PTR_STATUS(request));
		return;
	}
	while ((status = ucp_request_check_status(request)) == UCS_INPROGRESS)
		ucp_worker_progress(u->worker);
	check(s, "ucp_tag_send_nbx", status);
	ucp_request_free(request);
}

static void ucx_in(struct side *s, uint32_t number)
{
	struct ucx *u = s->state;
	uint32_t at = u->first++ % message_window(s->job);
	ucp_tag_recv_info_t info;
	ucs_status_t status;

	while ((status = ucp_tag_recv_request_test(u->posted[at], &info)) ==
	       UCS_INPROGRESS)
		ucp_worker_progress(u->worker);
	check(s, "ucp_tag_recv_nbx", status);
	ucp_request_free(u->posted[at]);
	read_message(s, u->body[at], info.length, number);
	post(s, at);
}

static void ucx_work(struct side *s, uint64_t ops)
{
	carry_messages(s, ops, ucx_out, ucx_in);
}

static void ucx_close(struct side *s)
{
	struct ucx *u = s->state;
	uint32_t i;

	meet_other(s);
	for (i = 0; i < message_window(s->job); i++) {
		ucp_request_cancel(u->worker, u->posted[i]);
		while (ucp_request_check_status(u->posted[i]) == UCS_INPROGRESS)
			ucp_worker_progress(u->worker);
		ucp_request_free(u->posted[i]);
		free(u->body[i]);
	}
	/* Takes its endpoint along. */
	ucp_worker_destroy(u->worker);
	ucp_cleanup(u->context);
	free(u);
}

const struct arm ucx_arm = {
	.name = "ucx",
	.modes = WHOLE(EVERING_BUSY),
	.open = ucx_open,
	.work = ucx_work,
	.close = ucx_close,
};
