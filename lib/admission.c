// SPDX-License-Identifier: MIT
/*
 * admission.c: which clients may meet a listener, and how much one user may have.
 *
 * The ledger of a listener outlives it: each channel that it accepted is in it until
 * the channel is closed, by whatever thread.
 *
 * So is each welcome with descriptors that its client has not read yet.  Until then its
 * descriptors are under way, and the kernel allows a user no more of those than
 * RLIMIT_NOFILE.  A client that reads none would keep out all others, also after its
 * channels are closed, because its socket keeps the packet.  Therefore, when a channel
 * is closed, its socket with an unread welcome is kept, to see when that is read.  A
 * user with many of them is asked to connect again (-ETOOMANYREFS).
 */
#include <linux/sockios.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "internal.h"

#define BUCKETS 64u
/* A user may have one part in so many of RLIMIT_NOFILE under way. */
#define PART_UNREAD 8u

/* What one user has.  It exists only while the user has something. */
struct account {
	struct account *next;
	uid_t uid;
	uint32_t channels;
	uint64_t bytes;
};

/**
 * struct unread - a welcome that may not have been read yet
 * @next: the next one
 * @uid: the user
 * @fds: how many descriptors came with it
 * @sock: the channel's socket, over which it was sent
 * @kept: the channel has been closed, and @sock belongs to the ledger
 * @sealed: then, whether @sock was sealed
 */
struct unread {
	struct unread *next;
	uid_t uid;
	unsigned int fds;
	int sock;
	bool kept;
	bool sealed;
};

/**
 * struct ledger - the accounts of users, for one listener or for those that share a
 * socket
 * @lock: protects all of it
 * @refs: the number of listeners of the socket, and of channels in the ledger
 * @listeners: the number of listeners in @refs
 * @bucket: accounts, by user
 * @unread: welcomes, the newest first
 */
struct ledger {
	pthread_mutex_t lock;
	unsigned int refs;
	unsigned int listeners;
	struct account *bucket[BUCKETS];
	struct unread *unread;
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

/* Returns the ledger for another listener at the same socket. */
struct ledger *ledger_get(struct ledger *ledger)
{
	pthread_mutex_lock(&ledger->lock);
	ledger->refs++;
	ledger->listeners++;
	pthread_mutex_unlock(&ledger->lock);
	return ledger;
}

/* Whether the welcome was not read, and its client has not gone. */
static bool is_unread(const struct unread *u)
{
	int bytes;

	return !ioctl(u->sock, SIOCOUTQ, &bytes) && bytes > 0;
}

/*
 * Takes out the welcomes that have been read.  The caller holds the lock, and calls
 * unread_free() after it.
 */
static struct unread *unread_sweep(struct ledger *ledger)
{
	struct unread **at = &ledger->unread, *u, *read = NULL;

	while ((u = *at)) {
		if (is_unread(u)) {
			at = &u->next;
			continue;
		}
		*at = u->next;
		u->next = read;
		read = u;
	}
	return read;
}

static void unread_free(struct unread *u)
{
	struct unread *next;

	for (; u; u = next) {
		next = u->next;
		if (u->kept)
			socket_close_sealed(u->sock, u->sealed);
		free(u);
	}
}

static void put_and_unlock(struct ledger *ledger)
{
	bool last = !--ledger->refs;

	pthread_mutex_unlock(&ledger->lock);
	if (!last)
		return;
	unread_free(ledger->unread);
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
 * The copy in a process made by fork(2).  It is not used there, and its lock may have
 * been held during the fork.  The last listener frees it; the channels there do not
 * look at it.
 */
void ledger_forget(struct ledger *ledger)
{
	struct account *account, *next;
	struct unread *u, *next_unread;
	unsigned int i;

	if (!ledger ||
	    __atomic_sub_fetch(&ledger->listeners, 1, __ATOMIC_ACQ_REL))
		return;
	for (i = 0; i < BUCKETS; i++)
		for (account = ledger->bucket[i]; account; account = next) {
			next = account->next;
			free(account);
		}
	for (u = ledger->unread; u; u = next_unread) {
		next_unread = u->next;
		if (u->kept)
			sockets_leave(&u->sock, 1);
		free(u);
	}
	free(ledger);
}

/* The link to the account of @uid, or the place for it. */
static struct account **find(struct ledger *ledger, uid_t uid)
{
	struct account **at = &ledger->bucket[uid % BUCKETS];

	while (*at && (*at)->uid != uid)
		at = &(*at)->next;
	return at;
}

/* This process's own user and root could take as much without the listener. */
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
 * Enters a channel of @uid that costs this side @bytes, and takes a reference to the
 * ledger.  Returns 0; -EDQUOT: the user may not have so much; -ENOMEM.
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

/* Removes what ledger_charge() has entered. */
void ledger_uncharge(struct ledger *ledger, uid_t uid, uint64_t bytes)
{
	struct account **at, *account;
	struct unread *read;

	pthread_mutex_lock(&ledger->lock);
	at = find(ledger, uid);
	account = *at;
	account->bytes -= bytes;
	if (!--account->channels) {
		*at = account->next;
		free(account);
	}
	read = unread_sweep(ledger);
	put_and_unlock(ledger);
	unread_free(read);
}

/*
 * Whether @uid may be sent one more welcome.  Returns 0; -ETOOMANYREFS: not before it
 * reads others.
 */
int ledger_may_welcome(struct ledger *ledger, uid_t uid)
{
	struct unread *read, *u;
	struct rlimit limit;
	rlim_t fds = 0;

	pthread_mutex_lock(&ledger->lock);
	read = unread_sweep(ledger);
	for (u = ledger->unread; u; u = u->next)
		if (u->uid == uid)
			fds += u->fds;
	pthread_mutex_unlock(&ledger->lock);
	unread_free(read);
	if (!fds || getrlimit(RLIMIT_NOFILE, &limit))
		return 0;
	return fds < limit.rlim_cur / PART_UNREAD ? 0 : -ETOOMANYREFS;
}

/*
 * Enters a welcome with @fds descriptors that was sent over @sock, which stays open
 * until ledger_keeps().  If there is no memory, the welcome does not count.
 */
void ledger_welcomed(struct ledger *ledger, uid_t uid, int sock,
		     unsigned int fds)
{
	struct unread *u;

	if (!fds || !user_is_limited(uid))
		return;
	u = calloc(1, sizeof(*u));
	if (!u)
		return;
	u->uid = uid;
	u->fds = fds;
	u->sock = sock;
	pthread_mutex_lock(&ledger->lock);
	u->next = ledger->unread;
	ledger->unread = u;
	pthread_mutex_unlock(&ledger->lock);
}

/*
 * Called when the channel of @sock ends.  True: @sock has an unread welcome; it was
 * shut down and belongs to the ledger now.  False: the caller closes it.
 */
bool ledger_keeps(struct ledger *ledger, int sock, bool sealed)
{
	struct unread **at, *u;
	bool keeps;

	pthread_mutex_lock(&ledger->lock);
	for (at = &ledger->unread; *at && (*at)->sock != sock;)
		at = &(*at)->next;
	u = *at;
	keeps = u && is_unread(u);
	if (keeps) {
		shutdown(sock, SHUT_RDWR);
		u->kept = true;
		u->sealed = sealed;
	} else if (u) {
		*at = u->next;
		free(u);
	}
	pthread_mutex_unlock(&ledger->lock);
	return keeps;
}

static const struct evering_admission default_admission =
	EVERING_ADMISSION_INIT;

/* Copies the caller's rules, or the default.  Returns 0; -EINVAL, -E2BIG. */
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
