// SPDX-License-Identifier: MIT
/*
 * meet.c: the packets by which two endpoints meet.
 *
 * Each side sends one packet over a Unix socket of type SOCK_SEQPACKET.  The connecting
 * side makes the channel and says hello, with the descriptors of its part.  The
 * accepting side checks them, makes its own part and says welcome, with its
 * descriptors, or says why not.  Neither side trusts the other: a packet is accepted
 * only if it has exactly the right length and number of descriptors, and after it the
 * socket accepts no other.
 *
 * Lanes, the channels of one meeting, have the same geometry and come in the same two
 * packets: the descriptors of lane 0, then those of lane 1, and so on.  So no meeting
 * is ever half done: either the packet is there or it is not.  The connecting side
 * makes as many lanes as it asks for.  The accepting side makes its part of the first
 * ones, as many as it grants; the connecting side closes the others.
 *
 * On memfd a side notices the peer's death by a connection.  Each lane has its own, so
 * that it is a channel like others.  Lane 0 has the connection of the meeting.  For
 * each other lane the accepting side makes a pair of sockets, and sends one of them
 * after the descriptors of all lanes.  A common connection would show only the end of a
 * process; evering_close() of a lane would need another way, in which a peer that does
 * not listen could delay it.  The accepting side makes the pairs because a socket from
 * a stranger is a risk (stranger.c).  So the risk is with the connecting side, which
 * has chosen its server, and not with the accepting side, which meets every client.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define HELLO_MAGIC 0x6f6c6c6568766501ull /* "\001evhello" in memory */
#define WELCOME_MAGIC 0x6d6f636c65777601ull /* "\001vwelcom" in memory */

/**
 * struct hello - the packet of the connecting side
 * @magic: HELLO_MAGIC
 * @size: bytes of this struct; that of another version may be longer or shorter
 * @abi: version that the channel was made with
 * @backend: enum evering_backend_id
 * @fds: how many descriptors come with it, the same number for each lane
 * @geometry: of each channel
 * @lanes: how many channels the connecting side asks for, 1..EVERING_MAX_LANES
 * @peers: how many earlier peers the connecting side had, as it states
 *
 * Everything before @backend is the same in every version and is checked first.  So
 * another version gets the right error, whatever else has changed.
 */
struct hello {
	uint64_t magic;
	uint32_t size;
	uint32_t abi;
	uint32_t backend;
	uint32_t fds;
	struct evering_geometry geometry;
	uint32_t lanes;
	uint32_t peers;
};

/**
 * struct welcome - the packet of the accepting side
 * @magic: WELCOME_MAGIC
 * @size: bytes of this struct
 * @error: 0, or the negative errno for evering_connect() to return; -ERESTART: it
 *	should connect again
 * @abi_min: the oldest version that the accepting side speaks
 * @abi_max: the newest one
 * @fds: how many descriptors come with it
 * @lanes: how many channels are granted, 1..hello.lanes; 0 with an @error
 *
 * Everything before @abi_min is the same in every version.
 */
struct welcome {
	uint64_t magic;
	uint32_t size;
	int32_t error;
	uint32_t abi_min;
	uint32_t abi_max;
	uint32_t fds;
	uint32_t lanes;
};

/* The bytes of both packets that are checked first. */
#define FROZEN_SIZE 16u

_Static_assert(offsetof(struct hello, backend) == FROZEN_SIZE, "frozen");
_Static_assert(offsetof(struct welcome, abi_min) == FROZEN_SIZE, "frozen");

static int wait_readable(int fd, int64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct timespec left;
	int ret;

	ret = ppoll(&pfd, 1, time_left(deadline, &left), NULL);
	if (ret < 0)
		return -errno;
	return ret ? 0 : -ETIMEDOUT;
}

/* Checks that no packet comes after the one that was taken.  Returns 0; -EPROTO. */
static int check_silence(int sock)
{
	bool fds = false;
	size_t len;
	char byte;
	int ret;

	ret = packet_peek(sock, &byte, 1, &len, &fds);
	return ret == -EAGAIN || ret == -ECONNRESET ? 0 : -EPROTO;
}

/* @who: SO_PEERCRED of @sock; NULL: read it here. */
static void peer_credentials(struct endpoint *e, int sock,
			     const struct ucred *who)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (!who && getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return;
	if (!who)
		who = &cred;
	e->pid = who->pid;
	e->uid = who->uid;
	e->gid = who->gid;
}

/* ----------------------------------------------------------------------- lanes */

void lanes_destroy(struct lanes *lanes)
{
	while (lanes->count)
		endpoint_destroy(lanes->e[--lanes->count]);
}

/*
 * Lists the descriptors that the other side needs for all lanes.  Returns their number.
 */
static unsigned int lanes_offer(const struct lanes *lanes,
				int fds[MAX_PACKET_FDS])
{
	unsigned int i, n = 0;

	for (i = 0; i < lanes->count; i++)
		n += lanes->e[i]->backend->offer(lanes->e[i], fds + n);
	return n;
}

/* A number that no other set of this process has. */
static uint64_t next_set(void)
{
	static uint64_t last;

	return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

/*
 * Both sides have everything that they need for @lanes, which met over @sock.  From now
 * on @sock belongs to lane 0.
 */
static void lanes_met(struct lanes *lanes, int sock, bool sealed,
		      const struct ucred *who)
{
	uint64_t set = next_set();
	struct endpoint *e;
	unsigned int i;

	for (i = lanes->count; i--;) {
		e = lanes->e[i];
		e->set = set;
		e->lane = i;
		e->lanes = lanes->count;
		peer_credentials(e, sock, who);
		if (!i) {
			e->sock = sock;
			e->sealed = sealed;
		}
		e->backend->met(e);
	}
}

/* -------------------------------------------------------------- accepting side */

static int check_limits(const struct evering_geometry *geometry,
			const struct evering_params *limits)
{
	int ret = geometry_check(geometry);

	if (ret)
		return ret;
	if (geometry->slot_size > limits->slot_size ||
	    geometry->entries > limits->entries ||
	    geometry->arena_size[EVERING_A] >
		    limits->arena_size[EVERING_PEERS] ||
	    geometry->arena_size[EVERING_B] >
		    limits->arena_size[EVERING_MINE] ||
	    (geometry->flags & ~limits->flags))
		return -E2BIG;
	return 0;
}

/* Checks the bytes of a hello.  Returns 0 if this version can answer it. */
static int judge_hello(const struct hello *hello, size_t len, bool fds)
{
	if (len < FROZEN_SIZE || hello->magic != HELLO_MAGIC)
		return -EPROTO;
	if (hello->abi != EVERING_ABI_VERSION)
		return -EPROTONOSUPPORT;
	if (len != sizeof(*hello) || hello->size != len ||
	    !backend_by_id(hello->backend) || !hello->lanes)
		return -EPROTO;
	if (hello->lanes > EVERING_MAX_LANES)
		return -E2BIG;
	if (hello->fds > MAX_HELLO_FDS * hello->lanes ||
	    hello->fds % hello->lanes || (hello->fds && !fds))
		return -EPROTO;
	return 0;
}

/* Makes this side's part of a lane that @hello offers.  Takes ownership of @fds. */
static int join(const struct hello *hello, const int *fds, unsigned int count,
		const struct evering_params *limits, int64_t deadline,
		struct endpoint **ret)
{
	const struct backend *backend = backend_by_id(hello->backend);
	struct endpoint *e;
	int error;

	error = endpoint_new(backend, EVERING_B, &hello->geometry, limits, &e);
	if (error) {
		close_fds(fds, count);
		return error;
	}
	e->peers = hello->peers;
	error = backend->join(e, fds, count, deadline);
	if (!error)
		error = endpoint_ready(e);
	if (error) {
		endpoint_destroy(e);
		return error;
	}
	*ret = e;
	return 0;
}

/*
 * The same for the first @granted lanes, all or none.  Takes ownership of all
 * descriptors.
 */
static int join_all(const struct hello *hello, const int *fds,
		    unsigned int granted, const struct evering_params *limits,
		    int64_t deadline, struct lanes *lanes)
{
	unsigned int each = hello->fds / hello->lanes, used = 0;
	int ret = 0;

	lanes->count = 0;
	while (lanes->count < granted && !ret) {
		ret = join(hello, fds + used, each, limits, deadline,
			   &lanes->e[lanes->count]);
		used += each;
		lanes->count += !ret;
	}
	close_fds(fds + used, hello->fds - used);
	if (ret)
		lanes_destroy(lanes);
	return ret;
}

/* The most bytes that the memfds of the side @end have for @lanes lanes. */
static uint64_t memfds_of(const struct evering_geometry *g, unsigned int end,
			  unsigned int lanes)
{
	return lanes *
	       (half_size(g) + EVERING_MEMFD_ALIGN + g->arena_size[end]);
}

/*
 * Receives the descriptors of a packet that was peeked at; they have to match @cargo.
 */
static int take_fds(int sock, const struct cargo *cargo,
		    int fds[MAX_PACKET_FDS])
{
	int ret = packet_take_fds(sock, fds, cargo);

	if (ret || !check_silence(sock))
		return ret;
	fds_leave(fds, cargo->count, cargo->sockets);
	return -EPROTO;
}

/*
 * The most that a lane can cost this side, not what it costs at first.  So no admitted
 * channel is refused memory because of another one, and an arena can grow without a
 * question.  On memfd this includes the other side's half and arena: this side pays for
 * their pages if the other side falsely states that they exist (memfd.c).  On the
 * device it is this side's arena alone, because each side pays for the arena that it
 * grows.
 */
static uint64_t cost_of(const struct hello *hello)
{
	const struct evering_geometry *g = &hello->geometry;

	return hello->backend == EVERING_BACKEND_MEMFD ?
		       2 * half_size(g) + g->arena_size[EVERING_A] +
			       g->arena_size[EVERING_B] :
		       g->arena_size[EVERING_B];
}

/*
 * Returns how many lanes @who gets: as many as it asks for and as the limits and its
 * user's account allow.  Each is entered in the ledger, if there is one.  Or returns
 * why it gets none.
 */
static int grant(const struct hello *hello, const struct evering_params *limits,
		 struct evering_listener *listener, const struct ucred *who,
		 struct ledger **ledger)
{
	unsigned int granted = 0, most = limits->lanes ? limits->lanes : 1;
	int ret;

	/* evering_accept_fd() could not return a second one. */
	if (!listener)
		return 1;
	if (most > hello->lanes)
		most = hello->lanes;
	do
		ret = listener_charge(listener, who, cost_of(hello), ledger);
	while (!ret && ++granted < most);
	return granted ? (int)granted : ret;
}

/*
 * Whether the client has gone after its hello.  If so, nothing is made for it, so that
 * it cannot cause work for free.
 */
static bool has_gone(int sock)
{
	struct pollfd pfd = { .fd = sock, .events = POLLRDHUP };

	return poll(&pfd, 1, 0) == 1;
}

/* As greet(), for a valid hello, if @who may have what it asks for. */
static int admit(int sock, const struct hello *hello,
		 const struct evering_params *limits,
		 struct evering_listener *listener, const struct ucred *who,
		 int64_t deadline, struct lanes *lanes)
{
	const struct cargo cargo = { hello->fds, MAX_PACKET_FDS,
				     memfds_of(&hello->geometry, EVERING_A,
					       hello->lanes) };
	struct ledger *ledger = NULL;
	int fds[MAX_PACKET_FDS];
	int ret, granted, i;

	ret = check_limits(&hello->geometry, limits);
	if (!ret && has_gone(sock))
		ret = -ECONNRESET;
	if (!ret && listener)
		ret = listener_may_welcome(listener, who);
	if (ret)
		return ret;
	granted = grant(hello, limits, listener, who, &ledger);
	if (granted < 0)
		return granted;
	ret = take_fds(sock, &cargo, fds);
	if (!ret)
		ret = join_all(hello, fds, (unsigned int)granted, limits,
			       deadline, lanes);
	for (i = 0; ledger && i < granted; i++) {
		if (ret) {
			ledger_uncharge(ledger, who->uid, cost_of(hello));
			continue;
		}
		lanes->e[i]->ledger = ledger;
		lanes->e[i]->charged = cost_of(hello);
		lanes->e[i]->charged_uid = who->uid;
	}
	return ret;
}

/*
 * Sends a client, with or without a hello, why it is turned away.  A client that is
 * gone does not get it.
 */
void refuse(int sock, int error)
{
	const struct welcome welcome = {
		.magic = WELCOME_MAGIC,
		.size = sizeof(welcome),
		.error = error,
		.abi_min = EVERING_ABI_VERSION,
		.abi_max = EVERING_ABI_VERSION,
	};

	packet_send(sock, &welcome, sizeof(welcome), NULL, 0);
}

/*
 * Makes a connection for each lane except lane 0; the other ends are in @theirs.
 * Nothing can be sent to this side from the beginning.  Returns how many, or a negative
 * errno.
 */
static int connect_lanes(struct lanes *lanes, int theirs[EVERING_MAX_LANES])
{
	int socks[2], error, n = 0;
	unsigned int i;

	for (i = 1; i < lanes->count && lanes->e[i]->backend->socket; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
			       socks)) {
			error = -errno;
			close_fds(theirs, (unsigned int)n);
			return error;
		}
		lanes->e[i]->sock = socks[0];
		lanes->e[i]->sealed = socket_seal(socks[0], true);
		theirs[n++] = socks[1];
	}
	return n;
}

static int say_welcome(int sock, struct lanes *lanes)
{
	struct welcome welcome = {
		.magic = WELCOME_MAGIC,
		.size = sizeof(welcome),
		.abi_min = EVERING_ABI_VERSION,
		.abi_max = EVERING_ABI_VERSION,
		.lanes = lanes->count,
	};
	struct ledger *ledger = lanes->e[0]->ledger;
	int fds[MAX_PACKET_FDS], ret, n;
	unsigned int offered;

	offered = lanes_offer(lanes, fds);
	n = connect_lanes(lanes, fds + offered);
	if (n < 0)
		return n;
	welcome.fds = offered + (unsigned int)n;
	ret = packet_send(sock, &welcome, sizeof(welcome), fds, welcome.fds);
	close_fds(fds + offered, (unsigned int)n);
	if (!ret && ledger)
		ledger_welcomed(ledger, lanes->e[0]->charged_uid, sock,
				welcome.fds);
	return ret;
}

/*
 * greet - receive a hello and answer it
 *
 * @listener: the listener whose admission holds for @who; NULL: there is none
 * @deadline: when the time for this side's part ends
 *
 * @lanes: out
 * @own: out: the reason for an error is that this side has no descriptors left.  Many
 *	lanes take many; not to have those is no error of this side
 *
 * On success @sock belongs to the first endpoint, else still to the caller.  Returns 0;
 * -EAGAIN: no hello yet; or why @who was turned away.
 */
int greet(int sock, const struct evering_params *limits,
	  struct evering_listener *listener, const struct ucred *who,
	  int64_t deadline, struct lanes *lanes, bool *own)
{
	struct hello hello;
	bool fds = false, sealed;
	size_t len;
	int ret;

	ret = packet_peek(sock, &hello, sizeof(hello), &len, &fds);
	if (ret)
		return ret;
	if (fds && listener)
		listener_works(listener);
	sealed = socket_seal(sock,
			     listener && listener_made_its_socket(listener));
	ret = judge_hello(&hello, len, fds);
	if (!ret)
		ret = admit(sock, &hello, limits, listener, who, deadline,
			    lanes);
	if (!ret) {
		ret = say_welcome(sock, lanes);
		if (ret)
			lanes_destroy(lanes);
	}
	if (ret) {
		*own = (ret == -EMFILE || ret == -ENFILE) && hello.lanes == 1;
		refuse(sock, ret);
		return ret;
	}
	lanes_met(lanes, sock, sealed, who);
	return 0;
}

/* -------------------------------------------------------------- connecting side */

/*
 * Returns 0; -EBADF, -ENOTSOCK; -EPROTOTYPE: it is not a Unix socket of type
 * SOCK_SEQPACKET.
 */
int check_socket(int fd)
{
	socklen_t len = sizeof(int);
	int type, domain;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return -errno;
	len = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
		return -errno;
	return type == SOCK_SEQPACKET && domain == AF_UNIX ? 0 : -EPROTOTYPE;
}

static void geometry_of(const struct evering_params *params,
			struct evering_geometry *geometry)
{
	*geometry = (struct evering_geometry){
		.slot_size = params->slot_size,
		.entries = params->entries,
		.arena_size = { params->arena_size[EVERING_MINE],
				params->arena_size[EVERING_PEERS] },
		.flags = params->flags & EVERING_SHARED_ARENA,
	};
}

/* Makes an endpoint A with its part of the channel; there is no peer yet. */
static int make_channel(const struct evering_params *params, int64_t deadline,
			struct endpoint **ret)
{
	struct evering_geometry geometry;
	const struct backend *backend;
	struct endpoint *e;
	unsigned int nth;
	int error, id;

	geometry_of(params, &geometry);
	error = geometry_check(&geometry);
	if (error)
		return error;
	id = backend_wanted(params->backend);
	if (id < 0)
		return id;
	error = -ENODEV;
	/*
	 * Try the next backend if this one does not exist, or belongs to another
	 * version.
	 */
	for (nth = 0; error == -ENODEV || error == -EPROTONOSUPPORT; nth++) {
		backend = backend_for((unsigned int)id, nth);
		if (!backend)
			break;
		error = endpoint_new(backend, EVERING_A, &geometry, params, &e);
		if (error)
			break;
		error = backend->create(e, deadline);
		if (error)
			endpoint_destroy(e);
		else
			*ret = e;
	}
	return error;
}

/* Makes @count of them, all of the same backend; or none, and returns why. */
int lanes_make(struct lanes *lanes, unsigned int count,
	       const struct evering_params *from, int64_t deadline)
{
	struct evering_params params = *from;
	int ret = 0;

	lanes->count = 0;
	while (lanes->count < count && !ret) {
		ret = make_channel(&params, deadline, &lanes->e[lanes->count]);
		lanes->count += !ret;
		if (!ret)
			params.backend = lanes->e[0]->backend->id;
	}
	if (ret)
		lanes_destroy(lanes);
	return ret;
}

/* Only errno values that a welcome may have; a stranger may send any value. */
static int welcome_error(int32_t error)
{
	switch (error) {
	case -EPROTONOSUPPORT:
	case -E2BIG:
	case -EINVAL:
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -EDQUOT:
	case -ENODEV:
	case -EACCES:
	case -EPERM:
	case -EFBIG:
	case -ETIMEDOUT:
	case -ETOOMANYREFS:
	case -ERESTART:
		return error;
	default:
		return -EPROTO;
	}
}

/* How many sockets come with @count lanes. */
static unsigned int sockets_of(const struct lanes *lanes, uint32_t count)
{
	return lanes->e[0]->backend->socket ? count - 1 : 0;
}

/* Checks the bytes of a welcome.  Returns 0, or why this version does not accept it. */
static int judge_welcome(const struct lanes *lanes,
			 const struct welcome *welcome, size_t len, bool fds)
{
	uint32_t count = welcome->lanes;

	if (len < FROZEN_SIZE || welcome->magic != WELCOME_MAGIC)
		return -EPROTO;
	if (welcome->error)
		return len == sizeof(*welcome) && welcome->fds ?
			       -EPROTO :
			       welcome_error(welcome->error);
	if (len != sizeof(*welcome) || welcome->size != len || !count ||
	    count > lanes->count || welcome->fds > MAX_HELLO_FDS * count ||
	    welcome->fds < sockets_of(lanes, count) ||
	    (welcome->fds - sockets_of(lanes, count)) % count ||
	    (welcome->fds && !fds))
		return -EPROTO;
	return 0;
}

int say_hello(const struct lanes *lanes, int sock)
{
	struct hello hello = {
		.magic = HELLO_MAGIC,
		.size = sizeof(hello),
		.abi = EVERING_ABI_VERSION,
		.backend = lanes->e[0]->backend->id,
		.geometry = lanes->e[0]->geometry,
		.lanes = lanes->count,
		.peers = lanes->e[0]->peers,
	};
	int fds[MAX_PACKET_FDS], ret;

	hello.fds = lanes_offer(lanes, fds);
	ret = packet_send(sock, &hello, sizeof(hello), fds, hello.fds);
	/*
	 * The listener may have turned this side away before that, and sent the reason.
	 */
	return ret == -ECONNRESET ? 0 : ret;
}

/*
 * Takes what the accepting side offers for the first @granted lanes.  Takes ownership
 * of @fds.
 */
static int complete_all(struct lanes *lanes, unsigned int granted,
			const int *fds, unsigned int count)
{
	unsigned int sockets = sockets_of(lanes, granted), i;
	unsigned int used = 0, each = (count - sockets) / granted;
	struct endpoint *e;
	int ret = 0;

	for (i = 0; i < sockets; i++) {
		lanes->e[1 + i]->sock = fds[count - sockets + i];
		lanes->e[1 + i]->theirs = true;
	}
	for (i = 0; i < granted && !ret; i++) {
		e = lanes->e[i];
		ret = e->backend->complete(e, fds + used, each);
		used += each;
		if (!ret)
			ret = endpoint_ready(e);
	}
	close_fds(fds + used, count - sockets - used);
	return ret;
}

/*
 * take_welcome - receive the answer to say_hello()
 *
 * @own: @sock is a socket that this library has made
 *
 * Returns 0: @lanes are complete, as many as were granted, and @sock belongs to the
 * first; -EAGAIN: no answer yet; -ERESTART: the listener serves another client, so
 * connect again; or why there will be no channel.
 */
int take_welcome(struct lanes *lanes, int sock, bool own)
{
	int fds[MAX_PACKET_FDS], ret;
	struct welcome welcome;
	bool brings = false, sealed;
	struct cargo cargo;
	unsigned int n;
	size_t len;

	ret = packet_peek(sock, &welcome, sizeof(welcome), &len, &brings);
	if (ret)
		return ret;
	sealed = socket_seal(sock, own);
	ret = judge_welcome(lanes, &welcome, len, brings);
	if (!ret) {
		n = sockets_of(lanes, welcome.lanes);
		cargo = (struct cargo){
			welcome.fds,
			n ? welcome.fds - n : MAX_PACKET_FDS,
			memfds_of(&lanes->e[0]->geometry, EVERING_B,
				  welcome.lanes),
		};
		ret = take_fds(sock, &cargo, fds);
	}
	if (!ret)
		ret = complete_all(lanes, welcome.lanes, fds, welcome.fds);
	if (ret)
		return ret;
	while (lanes->count > welcome.lanes)
		endpoint_destroy(lanes->e[--lanes->count]);
	lanes_met(lanes, sock, sealed, NULL);
	return 0;
}

/* A caller that does not wait gets -EAGAIN instead of -ETIMEDOUT. */
static int too_late(int ret, int64_t timeout_ns)
{
	return ret == -ETIMEDOUT && !timeout_ns ? -EAGAIN : ret;
}

/*
 * From now on the caller's socket belongs to the endpoint.  A program that this process
 * executes must not keep it, and with it the channel.
 */
static void own_socket(int fd)
{
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int evering_connect_fd(int fd, const struct evering_params *from,
		       int64_t timeout_ns, struct evering **ev)
{
	int64_t deadline = deadline_after(timeout_ns);
	struct evering_params params;
	struct lanes lanes;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, false, &params);
	if (!ret)
		ret = check_socket(fd);
	if (!ret)
		ret = lanes_make(&lanes, 1, &params,
				 timeout_ns ? deadline : INT64_MAX);
	if (ret)
		return ret;
	own_socket(fd);
	ret = say_hello(&lanes, fd);
	while (!ret) {
		ret = wait_readable(fd, deadline);
		if (!ret)
			ret = take_welcome(&lanes, fd, false);
		if (ret != -EAGAIN)
			break;
		ret = 0;
	}
	/* There is no listener to connect to again. */
	if (ret == -ERESTART)
		ret = -EPROTO;
	if (ret) {
		lanes_destroy(&lanes);
		socket_empty(fd);
		return too_late(ret, timeout_ns);
	}
	*ev = &lanes.e[0]->ev;
	return 0;
}

int evering_accept_fd(int fd, const struct evering_params *from,
		      int64_t timeout_ns, struct evering **ev)
{
	int64_t deadline = deadline_after(timeout_ns);
	struct evering_params limits;
	struct lanes lanes;
	bool own = false;
	int ret;

	if (timeout_ns < EVERING_WAIT_FOREVER)
		return -EINVAL;
	ret = params_read(from, true, &limits);
	if (!ret)
		ret = check_socket(fd);
	if (ret)
		return ret;
	do {
		ret = wait_readable(fd, deadline);
		if (ret)
			return too_late(ret, timeout_ns);
		ret = greet(fd, &limits, NULL, NULL,
			    timeout_ns ? deadline : INT64_MAX, &lanes, &own);
	} while (ret == -EAGAIN);
	if (ret) {
		socket_empty(fd);
		return ret;
	}
	own_socket(fd);
	*ev = &lanes.e[0]->ev;
	return 0;
}

/* ------------------------------------------------------------------ addresses */

int make_address(const char *path, struct sockaddr_un *address, socklen_t *len)
{
	size_t length = strlen(path);

	if (!length || (path[0] == '@' && length == 1))
		return -EINVAL;
	if (length >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, length);
	if (path[0] == '@') {
		address->sun_path[0] = 0;
		*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
				   length);
	} else {
		*len = sizeof(*address);
	}
	return 0;
}

/* ------------------------------------------------------------------------ pair */

/* Copies of the descriptors that @from offers, which @to will own. */
static int offer_copies(struct endpoint *from, int fds[MAX_HELLO_FDS],
			unsigned int *count)
{
	int theirs[MAX_HELLO_FDS], error;
	unsigned int i;

	*count = from->backend->offer(from, theirs);
	for (i = 0; i < *count; i++) {
		fds[i] = fcntl(theirs[i], F_DUPFD_CLOEXEC, 0);
		if (fds[i] < 0) {
			error = -errno;
			close_fds(fds, i);
			return error;
		}
	}
	return 0;
}

static int pair_up(struct endpoint *a, struct endpoint *b)
{
	int fds[MAX_HELLO_FDS], socks[2], ret;
	unsigned int count;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		return -errno;
	a->sock = socks[0];
	b->sock = socks[1];
	peer_credentials(a, a->sock, NULL);
	peer_credentials(b, b->sock, NULL);
	a->set = next_set();
	b->set = next_set();
	a->lanes = b->lanes = 1;
	ret = offer_copies(a, fds, &count);
	if (!ret)
		ret = b->backend->join(b, fds, count, INT64_MAX);
	if (!ret)
		ret = offer_copies(b, fds, &count);
	if (!ret)
		ret = a->backend->complete(a, fds, count);
	if (!ret)
		ret = endpoint_ready(a);
	if (!ret)
		ret = endpoint_ready(b);
	if (ret)
		return ret;
	a->backend->met(a);
	b->backend->met(b);
	return 0;
}

int evering_pair(const struct evering_params *from, struct evering *ev[2])
{
	struct evering_params params;
	struct endpoint *a, *b;
	int ret;

	ret = params_read(from, false, &params);
	if (!ret)
		ret = make_channel(&params, INT64_MAX, &a);
	if (ret)
		return ret;
	ret = endpoint_new(a->backend, EVERING_B, &a->geometry, &params, &b);
	if (!ret) {
		ret = pair_up(a, b);
		if (ret)
			endpoint_destroy(b);
	}
	if (ret) {
		endpoint_destroy(a);
		return ret;
	}
	ev[EVERING_A] = &a->ev;
	ev[EVERING_B] = &b->ev;
	return 0;
}

/*
 * The module's endpoint is there from the start, with a fixed geometry.  The kernel
 * states what a meeting would have agreed on.
 */
int evering_open_fd(int fd, const struct evering_params *from,
		    struct evering **ev)
{
	const struct backend *backend = backend_by_id(EVERING_BACKEND_DEVICE);
	struct evering_geometry geometry;
	struct evering_params params;
	struct endpoint *e;
	int ret;

	ret = params_read(from, true, &params);
	if (!ret)
		ret = device_geometry(fd, &geometry);
	if (!ret)
		ret = endpoint_new(backend, EVERING_B, &geometry, &params, &e);
	if (ret)
		return ret;
	e->set = next_set();
	e->lanes = 1;
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	ret = fd < 0 ? -errno : backend->join(e, &fd, 1, INT64_MAX);
	if (!ret)
		ret = backend->complete(e, NULL, 0);
	if (!ret)
		ret = endpoint_ready(e);
	if (ret) {
		endpoint_destroy(e);
		return ret;
	}
	backend->met(e);
	*ev = &e->ev;
	return 0;
}
