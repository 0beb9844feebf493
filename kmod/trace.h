/* SPDX-License-Identifier: GPL-2.0-only */
/* trace.h: tracepoints of evering, under events/evering/ of tracefs. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM evering

#if !defined(EVR_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define EVR_TRACE_H

#include <linux/tracepoint.h>
#include "evering_kmod.h"

/* perf does not know %c. */
#define evr_show_end(end)	__print_symbolic(end, { 0, "A" }, { 1, "B" })

TRACE_EVENT(evr_create,
	TP_PROTO(const struct evr_channel *channel), TP_ARGS(channel),
	TP_STRUCT__entry(
		__field(u64, channel)
		__field(u64, bytes)
		__field(u32, slot_size)
		__field(u32, entries)
	),
	TP_fast_assign(
		__entry->channel = channel->id;
		__entry->bytes = channel->account.bytes;
		__entry->slot_size = channel->geometry.slot_size;
		__entry->entries = channel->geometry.entries;
	),
	TP_printk("channel=%llu slot_size=%u entries=%u bytes=%llu", __entry->channel,
		  __entry->slot_size, __entry->entries, __entry->bytes)
);

/* evr_attach: an endpoint was attached; evr_detach: it was detached or closed. */
DECLARE_EVENT_CLASS(evr_state,
	TP_PROTO(const struct evr_endpoint *ep), TP_ARGS(ep),
	TP_STRUCT__entry(
		__field(u64, channel)
		__field(u32, end)
		__field(u32, state)
		__field(u32, epoch)
	),
	TP_fast_assign(
		__entry->channel = ep->channel->id;
		__entry->end = evr_end(ep);
		__entry->state = ep->state;
		__entry->epoch = ep->status->epoch;
	),
	TP_printk("channel=%llu end=%s state=%u epoch=%u", __entry->channel,
		  evr_show_end(__entry->end), __entry->state, __entry->epoch)
);

DEFINE_EVENT(evr_state, evr_attach,
	TP_PROTO(const struct evr_endpoint *ep), TP_ARGS(ep));
DEFINE_EVENT(evr_state, evr_detach,
	TP_PROTO(const struct evr_endpoint *ep), TP_ARGS(ep));

/*
 * evr_ring: endpoint @ep was rung for @bells, and @which of them were armed.
 * evr_wake: a sleep in ENTER on @ep for @bells ended, and @which of them are rung.
 */
DECLARE_EVENT_CLASS(evr_doorbell,
	TP_PROTO(const struct evr_endpoint *ep, u32 bells, u32 which),
	TP_ARGS(ep, bells, which),
	TP_STRUCT__entry(
		__field(u64, channel)
		__field(u32, end)
		__field(u32, bells)
		__field(u32, which)
	),
	TP_fast_assign(
		__entry->channel = ep->channel->id;
		__entry->end = evr_end(ep);
		__entry->bells = bells;
		__entry->which = which;
	),
	TP_printk("channel=%llu end=%s bells=%#x which=%#x", __entry->channel,
		  evr_show_end(__entry->end), __entry->bells, __entry->which)
);

DEFINE_EVENT(evr_doorbell, evr_ring,
	TP_PROTO(const struct evr_endpoint *ep, u32 bells, u32 which),
	TP_ARGS(ep, bells, which));
DEFINE_EVENT(evr_doorbell, evr_wake,
	TP_PROTO(const struct evr_endpoint *ep, u32 bells, u32 which),
	TP_ARGS(ep, bells, which));

/*
 * evr_add: @ep became a member; evr_remove: it is no member any more; evr_mark: it was rung
 * or lost its peer, and its bit was set.
 */
DECLARE_EVENT_CLASS(evr_member,
	TP_PROTO(const struct evr_group *group, const struct evr_endpoint *ep),
	TP_ARGS(group, ep),
	TP_STRUCT__entry(
		__field(u64, group)
		__field(u64, channel)
		__field(u32, end)
		__field(u32, index)
	),
	TP_fast_assign(
		__entry->group = group->id;
		__entry->channel = ep->channel->id;
		__entry->end = evr_end(ep);
		__entry->index = ep->index;
	),
	TP_printk("channel=%llu end=%s group=%llu index=%u", __entry->channel,
		  evr_show_end(__entry->end), __entry->group, __entry->index)
);

DEFINE_EVENT(evr_member, evr_add,
	TP_PROTO(const struct evr_group *group, const struct evr_endpoint *ep),
	TP_ARGS(group, ep));
DEFINE_EVENT(evr_member, evr_remove,
	TP_PROTO(const struct evr_group *group, const struct evr_endpoint *ep),
	TP_ARGS(group, ep));
DEFINE_EVENT(evr_member, evr_mark,
	TP_PROTO(const struct evr_group *group, const struct evr_endpoint *ep),
	TP_ARGS(group, ep));

#endif /* EVR_TRACE_H */

/* Found by -I, as the other headers of this directory. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
