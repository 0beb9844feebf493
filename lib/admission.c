// SPDX-License-Identifier: MIT
/*
 * admission.c: who may meet a listener, and how much of it one user may have.
 *
 * The books of a listener outlive it: each channel that it accepted is in them until
 * it is closed, by whatever thread.
 */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

#define BUCKETS 64u

/* What one user has; exists while that is not nothing. */
struct account {
	struct account *next;
	uid_t uid;
	uint32_t channels;
	uint64_t bytes;
};

/**
 * struct ledger - the accounts of a listener's users, or of those that share a socket
 * @lock: protects all of it
 * @refs: the listeners of one socket, and each channel in it
 * @listeners: the listeners among @refs
 * @bucket: accounts, by user
 */
struct ledger {
	pthread_mutex_t lock;
	unsigned int refs;
	unsigned int listeners;
	struct account *bucket[BUCKETS];
};

struct ledger *ledger_new(void)
{
	struct ledger *ledger = calloc(1, sizeof(*ledger));

	if (ledger) {
		pthread_mutex_init(&ledger->lock, NULL);
		ledger->refs = ledger->listeners = 1;
	}
	return ledger;
}

/* For another listener on the same socket. */
struct ledger *ledger_get(struct ledger *ledger)
{
	pthread_mutex_lock(&ledger->lock);
	ledger->refs++;
	ledger->listeners++;
	pthread_mutex_unlock(&ledger->lock);
	return ledger;
}

static void put_and_unlock(struct ledger *ledger)
{
	bool last = !--ledger->refs;

	pthread_mutex_unlock(&ledger->lock);
	if (last)
		free(ledger);
}

void ledger_put(struct ledger *ledger)
{
	if (!ledger)
		return;
	pthread_mutex_lock(&ledger->lock);
	ledger->listeners--;
	put_and_unlock(ledger);
}

/*
 * The copy in a process that fork(2) has made, which nobody there uses, and whose lock
 * may have been taken at the time.  Its last listener frees it: the channels in it do
 * not look at it there.
 */
void ledger_forget(struct ledger *ledger)
{
	struct account *account, *next;
	unsigned int i;

	if (!ledger ||
	    __atomic_sub_fetch(&ledger->listeners, 1, __ATOMIC_ACQ_REL))
		return;
	for (i = 0; i < BUCKETS; i++)
		for (account = ledger->bucket[i]; account; account = next) {
			next = account->next;
			free(account);
		}
	free(ledger);
}

/* Where the account of @uid is linked, or would be. */
static struct account **find(struct ledger *ledger, uid_t uid)
{
	struct account **at = &ledger->bucket[uid % BUCKETS];

	while (*at && (*at)->uid != uid)
		at = &(*at)->next;
	return at;
}

/* This process's own user and root could take as much without asking. */
bool user_is_limited(uid_t uid)
{
	return uid && uid != geteuid();
}

static bool fits(const struct evering_admission *a,
		 const struct account *account, uint64_t bytes)
{
	return account->channels < a->user_channels && bytes <= a->user_bytes &&
	       account->bytes <= a->user_bytes - bytes;
}

/*
 * Enters a channel of @uid for which this side allocates @bytes; holds the ledger.  0;
 * -EDQUOT: that is more than the user may have; -ENOMEM.
 */
int ledger_charge(struct ledger *ledger, const struct evering_admission *a,
		  uid_t uid, uint64_t bytes)
{
	struct account **at, *account;
	int ret = 0;

	pthread_mutex_lock(&ledger->lock);
	at = find(ledger, uid);
	account = *at;
	if (!account) {
		account = calloc(1, sizeof(*account));
		if (!account) {
			ret = -ENOMEM;
			goto out;
		}
		account->uid = uid;
		*at = account;
	}
	if (user_is_limited(uid) && !fits(a, account, bytes)) {
		ret = -EDQUOT;
	} else {
		account->channels++;
		account->bytes += bytes;
		ledger->refs++;
	}
	if (!account->channels) {
		*at = account->next;
		free(account);
	}
out:
	pthread_mutex_unlock(&ledger->lock);
	return ret;
}

/* Strikes out what ledger_charge() entered. */
void ledger_uncharge(struct ledger *ledger, uid_t uid, uint64_t bytes)
{
	struct account **at, *account;

	pthread_mutex_lock(&ledger->lock);
	at = find(ledger, uid);
	account = *at;
	account->bytes -= bytes;
	if (!--account->channels) {
		*at = account->next;
		free(account);
	}
	put_and_unlock(ledger);
}

static const struct evering_admission default_admission =
	EVERING_ADMISSION_INIT;

/* A copy of the caller's, or what there is without.  0; -EINVAL, -E2BIG. */
int admission_read(const struct evering_admission *from,
		   struct evering_admission *admission)
{
	int ret;

	*admission = default_admission;
	if (!from)
		return 0;
	ret = read_sized(admission, sizeof(*admission), from);
	if (ret)
		return ret;
	return admission->flags ? -EINVAL : 0;
}
