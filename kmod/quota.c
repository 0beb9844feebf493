// SPDX-License-Identifier: GPL-2.0-only
/*
 * quota.c: how much shared memory, and how many channels, one user and all users
 * may hold.
 *
 * The pages are charged to the creator's memory cgroup as well, where there is
 * one; this is for machines without, since a channel's pages can be neither
 * swapped nor reclaimed.  The creator pays until the channel is gone, also for
 * what the peer keeps alive.
 */
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uidgid.h>

#include "evering_kmod.h"

/* Root may change each at any time. */
static unsigned int evr_max_channel_mib = 1024;
module_param_named(max_channel_mib, evr_max_channel_mib, uint, 0644);
MODULE_PARM_DESC(max_channel_mib, "Shared memory of one channel, MiB (default: 1024)");

static unsigned int evr_max_user_mib;
module_param_named(max_user_mib, evr_max_user_mib, uint, 0644);
MODULE_PARM_DESC(max_user_mib, "Shared memory of one user's channels, MiB (default: 0, a quarter of RAM)");

static unsigned int evr_max_total_mib;
module_param_named(max_total_mib, evr_max_total_mib, uint, 0644);
MODULE_PARM_DESC(max_total_mib, "Shared memory of all channels, MiB (default: 0, half of RAM)");

static unsigned int evr_max_user_channels = 4096;
module_param_named(max_user_channels, evr_max_user_channels, uint, 0644);
MODULE_PARM_DESC(max_user_channels, "Channels of one user (default: 4096)");

/* What one user holds; exists while that is not nothing. */
struct evr_user {
	struct hlist_node node;
	kuid_t uid;
	unsigned int channels;
	u64 bytes;
};

/*
 * evr_quota_lock protects the table, the users in it and the total.  A mutex, since
 * a user is allocated under it; never taken with mmap_lock or a channel's lock.
 */
static DEFINE_MUTEX(evr_quota_lock);
static DEFINE_HASHTABLE(evr_users, 6);
static u64 evr_total_bytes;

/* In bytes; 0 MiB stands for a share of RAM. */
static u64 evr_limit(unsigned int mib, unsigned int share)
{
	return mib ? (u64)mib << 20 : (u64)totalram_pages() / share << PAGE_SHIFT;
}

/* All limits, each read once. */
void evr_quota_info(struct evering_info *info)
{
	info->max_channel_bytes = (u64)READ_ONCE(evr_max_channel_mib) << 20;
	info->max_user_bytes = evr_limit(READ_ONCE(evr_max_user_mib), 4);
	info->max_total_bytes = evr_limit(READ_ONCE(evr_max_total_mib), 2);
	info->max_user_channels = READ_ONCE(evr_max_user_channels);
}

static struct evr_user *evr_user_get(kuid_t uid)
{
	struct evr_user *user;

	lockdep_assert_held(&evr_quota_lock);
	hash_for_each_possible(evr_users, user, node, __kuid_val(uid))
		if (uid_eq(user->uid, uid))
			return user;
	user = kzalloc(sizeof(*user), GFP_KERNEL_ACCOUNT);
	if (user) {
		user->uid = uid;
		hash_add(evr_users, &user->node, __kuid_val(uid));
	}
	return user;
}

static void evr_user_put(struct evr_user *user)
{
	lockdep_assert_held(&evr_quota_lock);
	if (user->channels)
		return;
	hash_del(&user->node);
	kfree(user);
}

/* No sum can overflow: no channel is larger than two EVERING_MAX_ARENA and a bit. */
static bool evr_user_fits(const struct evr_user *user, u64 bytes)
{
	struct evering_info limit;

	evr_quota_info(&limit);
	return user->channels < limit.max_user_channels &&
	       bytes <= limit.max_channel_bytes &&
	       user->bytes + bytes <= limit.max_user_bytes &&
	       evr_total_bytes + bytes <= limit.max_total_bytes;
}

/* Charges the caller, by its real uid, for @channel; once a channel. */
int evr_quota_charge(struct evr_channel *channel, u64 bytes)
{
	struct evr_user *user;
	int ret = -ENOMEM;

	mutex_lock(&evr_quota_lock);
	user = evr_user_get(current_uid());
	if (!user)
		goto out;
	ret = -EDQUOT;
	if (evr_user_fits(user, bytes)) {
		user->channels++;
		user->bytes += bytes;
		evr_total_bytes += bytes;
		channel->user = user;
		channel->bytes = bytes;
		ret = 0;
	}
	evr_user_put(user);
out:
	mutex_unlock(&evr_quota_lock);
	return ret;
}

/* Gives back what evr_quota_charge() took, if it did. */
void evr_quota_uncharge(struct evr_channel *channel)
{
	struct evr_user *user = channel->user;

	if (!user)
		return;
	mutex_lock(&evr_quota_lock);
	evr_total_bytes -= channel->bytes;
	user->bytes -= channel->bytes;
	user->channels--;
	evr_user_put(user);
	mutex_unlock(&evr_quota_lock);
}
