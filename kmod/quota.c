// SPDX-License-Identifier: GPL-2.0-only
/*
 * quota.c: how much shared memory, and how many channels, one user and all users
 * may hold.
 *
 * The pages are charged to the creator's memory cgroup as well, if there is one.  The
 * quotas are for machines without memory cgroups, since a channel's pages can be
 * neither swapped nor reclaimed.
 *
 * The creator's real user pays, and so does the owner of each user namespace that this
 * user is in: subordinate uids do not give a user more.  When one end is closed, the user
 * who has attached the other end pays from then on, even beyond the quota, which then has
 * no room for new channels.  If no user has attached it, the creator goes on paying.  A
 * channel with one end closed, that nobody maps, is given up when its payer needs the quota
 * for another one.
 *
 * A channel that was given up is not counted any more, and keeps three pages until its
 * last descriptor is closed.  If these pages were counted, a user who hoards descriptors
 * would use up the quota of the users who gave them.  So they are bounded as other open
 * files are: by RLIMIT_NOFILE, file-max and the memory cgroup, which they stay charged to.
 *
 * A process with CAP_SYS_RESOURCE is counted, but refused only a channel that exceeds the
 * limit for one channel.  A group counts as a channel of one page.
 *
 * RLIMIT_MEMLOCK plays no part.  Its default of 8 MiB would be three channels.  Memory
 * cgroups and the quota are the bound, as memory cgroups are for BPF's maps.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/hash.h>
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>

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
MODULE_PARM_DESC(max_user_channels, "Channels and groups of one user (default: 4096)");

/*
 * What a user of a namespace is charged for, with all charges in the namespaces below that
 * this user owns.  It exists while there is a charge.
 */
struct evr_user {
	struct hlist_node node;
	struct user_namespace *ns;
	kuid_t uid;
	unsigned int channels;
	u64 bytes;
};

/*
 * evr_quota_lock protects the table, the users in it, the total, and the payer of each
 * channel.  Nothing sleeps under it: a user who has to wait would make all users wait.
 */
static DEFINE_SPINLOCK(evr_quota_lock);
static DEFINE_HASHTABLE(evr_users, 6);
static u64 evr_total_bytes;
/* Channels that have one end closed and that nobody maps. */
static LIST_HEAD(evr_orphans);

/* One of those who pay: a user, then the owner of the user's namespace, and so on. */
struct evr_payer {
	struct user_namespace *ns;	/* NULL: there is no further payer */
	kuid_t uid;
};

static struct evr_payer evr_first_payer(const struct cred *cred)
{
	return (struct evr_payer){ cred->user_ns, cred->uid };
}

static struct evr_payer evr_next_payer(struct evr_payer payer)
{
	return (struct evr_payer){ payer.ns->parent, payer.ns->owner };
}

/* A limit in bytes; 0 MiB stands for a 1/@share of RAM. */
static u64 evr_limit(unsigned int mib, unsigned int share)
{
	return mib ? (u64)mib << 20 : (u64)totalram_pages() / share << PAGE_SHIFT;
}

/* Stores all limits; each parameter is read once. */
void evr_quota_info(struct evering_info *info)
{
	info->max_channel_bytes = (u64)READ_ONCE(evr_max_channel_mib) << 20;
	info->max_user_bytes = evr_limit(READ_ONCE(evr_max_user_mib), 4);
	info->max_total_bytes = evr_limit(READ_ONCE(evr_max_total_mib), 2);
	info->max_user_channels = READ_ONCE(evr_max_user_channels);
}

static struct evr_user *evr_user_get(struct evr_payer payer, gfp_t account)
{
	u32 key = hash_ptr(payer.ns, 32) ^ __kuid_val(payer.uid);
	struct evr_user *user;

	hash_for_each_possible(evr_users, user, node, key)
		if (user->ns == payer.ns && uid_eq(user->uid, payer.uid))
			return user;
	user = kzalloc(sizeof(*user), GFP_NOWAIT | __GFP_NOWARN | account);
	if (user) {
		user->ns = get_user_ns(payer.ns);
		user->uid = payer.uid;
		hash_add(evr_users, &user->node, key);
	}
	return user;
}

static void evr_user_put(struct evr_user *user)
{
	if (user->channels)
		return;
	hash_del(&user->node);
	put_user_ns(user->ns);
	kfree(user);
}

/* No sum can overflow: a channel is little larger than two EVERING_MAX_ARENA. */
static bool evr_user_fits(const struct evr_user *user, u64 bytes,
			  unsigned int channels)
{
	struct evering_info limit;

	evr_quota_info(&limit);
	return (!channels || user->channels < limit.max_user_channels) &&
	       user->bytes + bytes <= limit.max_user_bytes &&
	       evr_total_bytes + bytes <= limit.max_total_bytes;
}

/* Takes back the charge of each payer before @end; all of them are in the table. */
static void evr_uncharge(const struct cred *cred, u64 bytes,
			 unsigned int channels, const struct user_namespace *end)
{
	struct evr_payer payer;
	struct evr_user *user;

	lockdep_assert_held(&evr_quota_lock);
	for (payer = evr_first_payer(cred); payer.ns != end;
	     payer = evr_next_payer(payer)) {
		user = evr_user_get(payer, 0);
		user->bytes -= bytes;
		user->channels -= channels;
		evr_user_put(user);
	}
}

static int evr_charge(const struct cred *cred, u64 bytes, unsigned int channels,
		      bool limited)
{
	struct evr_payer payer;
	struct evr_user *user;

	lockdep_assert_held(&evr_quota_lock);
	for (payer = evr_first_payer(cred); payer.ns;
	     payer = evr_next_payer(payer)) {
		user = evr_user_get(payer, limited ? __GFP_ACCOUNT : 0);
		if (user && (!limited || evr_user_fits(user, bytes, channels))) {
			user->bytes += bytes;
			user->channels += channels;
			continue;
		}
		evr_uncharge(cred, bytes, channels, payer.ns);
		if (!user)
			return -ENOMEM;
		evr_user_put(user);
		return -EDQUOT;
	}
	return 0;
}

/* The channel has become an orphan, or looked like one; see evr_channel_settle(). */
void evr_quota_orphan(struct evr_channel *channel)
{
	spin_lock(&evr_quota_lock);
	if (channel->account.payer && list_empty(&channel->account.orphan))
		list_add_tail(&channel->account.orphan, &evr_orphans);
	spin_unlock(&evr_quota_lock);
}

/* Gives up the oldest orphan that @cred's user pays for; false if there is none. */
static bool evr_quota_reclaim(const struct cred *cred)
{
	struct evr_channel *at, *found = NULL;

	spin_lock(&evr_quota_lock);
	list_for_each_entry(at, &evr_orphans, account.orphan)
		if (at->account.payer->user_ns == cred->user_ns &&
		    uid_eq(at->account.payer->uid, cred->uid) &&
		    refcount_inc_not_zero(&at->refs)) {
			found = at;
			list_del_init(&at->account.orphan);
			break;
		}
	spin_unlock(&evr_quota_lock);
	if (!found)
		return false;
	evr_channel_settle(found, true);
	evr_channel_put(found);
	return true;
}

/* Does the caller pay?  A capability to exceed a quota does not extend to other users. */
static bool evr_pays(const struct cred *payer)
{
	return payer->user_ns == current_user_ns() &&
	       uid_eq(payer->uid, current_uid());
}

/*
 * Charges the payer of @account for @bytes more, or for less if that is negative.  Without a
 * payer the caller becomes it, by its real uid.  The account may come to @most bytes.
 */
int evr_quota_charge(struct evr_account *account, s64 bytes, u64 most)
{
	const struct cred *payer;
	bool limited = bytes > 0, again;
	int ret;

	if (most > (u64)READ_ONCE(evr_max_channel_mib) << 20)
		return -EDQUOT;
	do {
		spin_lock(&evr_quota_lock);
		payer = get_cred(account->payer ?: current_cred());
		ret = evr_charge(payer, bytes, !account->payer, limited);
		if (!ret) {
			evr_total_bytes += bytes;
			account->bytes += bytes;
			if (!account->payer)
				account->payer = get_cred(payer);
		}
		spin_unlock(&evr_quota_lock);
		again = ret == -EDQUOT && evr_quota_reclaim(payer);
		if (ret == -EDQUOT && !again && limited &&
		    evr_pays(payer) && capable(CAP_SYS_RESOURCE)) {
			limited = false;
			again = true;
		}
		put_cred(payer);
	} while (again);
	return ret;
}

/* @cred's user pays for @channel from now on, within the quota or beyond. */
void evr_quota_move(struct evr_channel *channel, const struct cred *cred)
{
	struct evr_account *account = &channel->account;

	spin_lock(&evr_quota_lock);
	if (account->payer && !evr_charge(cred, account->bytes, 1, false)) {
		evr_uncharge(account->payer, account->bytes, 1, NULL);
		put_cred(account->payer);
		account->payer = get_cred(cred);
	}
	spin_unlock(&evr_quota_lock);
}

/* Takes back what evr_quota_charge() has charged, if anything. */
void evr_quota_uncharge(struct evr_account *account)
{
	spin_lock(&evr_quota_lock);
	list_del_init(&account->orphan);
	if (account->payer) {
		evr_uncharge(account->payer, account->bytes, 1, NULL);
		evr_total_bytes -= account->bytes;
		put_cred(account->payer);
		account->payer = NULL;
		account->bytes = 0;
	}
	spin_unlock(&evr_quota_lock);
}
