// SPDX-License-Identifier: MIT
/*
 * Tests of <evering.hpp>.  `wrapper` lists them, `wrapper NAME` runs one: 0 says that
 * it passed.  cxx.sh builds and runs this.
 *
 * Nothing depends on how long anything takes; whoever hangs is ended by SIGALRM.
 */
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <vector>

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <evering.hpp>

using namespace std::chrono_literals;

namespace
{

#define CHECK(what)                                                            \
	do {                                                                   \
		if (!(what)) {                                                 \
			std::printf("line %d: %s\n", __LINE__, #what);         \
			std::exit(1);                                          \
		}                                                              \
	} while (0)

using u64 = std::uint64_t;

struct ends {
	evr::channel a, b;
};

ends make_pair(unsigned int entries = 256, u64 arena = 65536,
	       unsigned int flags = 0)
{
	evr::params wish;

	wish.flags = flags;
	wish.entries = entries;
	wish.arena_size[0] = wish.arena_size[1] = arena;
	auto made = evr::channel::pair(wish);

	CHECK(made);
	return { std::move(made->first), std::move(made->second) };
}

int descriptors()
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Nothing is allocated in the arena, or locked. */
bool arena_whole(evr::channel &c)
{
	u64 size;

	return evering_arena(c.get(), &size) && c.allocate(size, 64);
}

// ----------------------------------------------------------------- no loop

void owners()
{
	auto [a, b] = make_pair();
	evr::channel c = std::move(a);
	u64 value = 7, got = 0;

	CHECK(!a && c);
	CHECK(c.send_value(value) == 0 && b.receive_value(got) == 0);
	CHECK(got == 7);
	c = std::move(b); // closes what c was
	CHECK(!b && c.peer() == EVERING_PEER_CLOSED);
	CHECK(c.receive_value(got) == -EPIPE);
	::evering *raw = c.release();
	CHECK(!c && raw);
	evr::channel again(raw);
	CHECK(again.get() == raw);
	again.close();
	CHECK(!again);
}

void buffers()
{
	auto [a, b] = make_pair();
	evr::buffer x = a.allocate(32768), y = a.allocate(16384);

	CHECK(x && y && x.size() == 32768 && x.span().size() == 32768);
	CHECK(a.arena().most == 65536 && a.arena().now >= 49152);
	CHECK(b.arena(EVERING_PEERS).most == 65536 && !a.arena().refused);
	CHECK(!a.allocate(65536));
	void *at = x.span().data();
	evr::buffer z = std::move(x);
	CHECK(!x && z.span().data() == at && x.span().empty());
	z = std::move(y); // frees what z was
	CHECK(z.size() == 16384 && !y);
	x = a.allocate(32768);
	CHECK(x);
	void *raw = x.release();
	CHECK(!x && evering_free(a.get(), raw) == 0);
	evr::buffer &same = z;
	z = std::move(same);
	CHECK(z.size() == 16384);
	z.reset();
	z.reset();
	CHECK(!z && arena_whole(a) && arena_whole(b));
	CHECK(!a.allocate(1, 3));
}

void in_place()
{
	auto [a, b] = make_pair(4);
	int i;

	for (i = 0; !a.reserve(i).empty(); i++)
		std::memset(a.reserve(i).data(), i, a.payload());
	CHECK(i == 4);
	a.commit(4);
	a.flush();
	CHECK(a.reserve().empty());
	CHECK(a.send(a.peek(), evr::nowait) == -EAGAIN);
	for (i = 0; !b.peek(i).empty() && i < 4; i++)
		CHECK(b.peek(i)[b.payload() - 1] == std::byte(i));
	CHECK(i == 4);
	b.take_up(4);
	b.consume(4);
	CHECK(b.peek().empty() && !a.reserve().empty());
	CHECK(b.wait(EVERING_RX, 1ms) == -ETIMEDOUT);
	CHECK(a.wait(EVERING_TX, evr::nowait) == EVERING_TX);

	CHECK(!a.reserve(2).empty());
	a.commit(3);
	b.take_up();
	CHECK(!a.fate());
	b.close();
	CHECK(a.fate() && a.fate()->begun == 1 && a.fate()->unseen == 2);
}

void results()
{
	auto none = evr::channel::connect("/nowhere/at/all");

	CHECK(!none && none.error() == -ENOENT);
	auto l = evr::listener::listen("");
	CHECK(!l && l.error() == -EINVAL);
	evr::params wish;
	wish.slot_size = 17;
	CHECK(evr::channel::pair(wish).error() == -EINVAL);
#ifdef __cpp_exceptions
	try {
		(void)std::move(none).value();
		CHECK(false);
	} catch (const std::system_error &error) {
		CHECK(error.code().value() == ENOENT);
	}
#endif
	evr::result<u64> seven(7);
	CHECK(seven && seven.error() == 0 && std::move(seven).value() == 7);
	CHECK(evr::value_of<u64>(evr::bytes()) == std::nullopt);
	CHECK(evr::value_of<u64>(evr::bytes_of(u64{ 5 })) == 5u);
}

// ------------------------------------------------------------------- tasks

evr::task<int> add(int a, int b)
{
	co_return a + b;
}

evr::task<int> add_many(int n)
{
	int sum = 0;

	for (int i = 0; i < n; i++)
		sum = co_await add(sum, i);
	co_return sum;
}

void tasks()
{
	evr::loop loop;
	int got = 0;

	// Deep enough that whoever resumes by recursion runs out of stack.
	loop.spawn([](int &to) -> evr::task<> {
		to = co_await add_many(50000);
	}(got));
	CHECK(got == 0); // lazy
	CHECK(loop.run() == 0);
	CHECK(got == 1249975000);
	auto never = add(1, 2); // is destroyed without having begun
	auto other = add(3, 4);
	never = std::move(other);
}

#ifdef __cpp_exceptions
evr::task<int> throws()
{
	throw 5;
	co_return 0;
}

void exceptions()
{
	evr::loop loop;
	int caught = 0;

	loop.spawn([](int &to) -> evr::task<> {
		try {
			co_await throws();
		} catch (int n) {
			to = n;
		}
	}(caught));
	CHECK(loop.run() == 0 && caught == 5);
}
#endif

/* Says that it is destroyed. */
struct witness {
	int &n;
	~witness()
	{
		n++;
	}
};

void loop_destroyed()
{
	auto [a, b] = make_pair();
	auto [c, d] = make_pair();
	auto [e, f] = make_pair();
	auto [g, h] = make_pair();
	int gone = 0;
	{
		evr::loop loop;

		loop.spawn([](evr::loop &l, evr::channel ch,
			      int &n) -> evr::task<> {
			witness w{ n };
			evr::async_channel async(l, std::move(ch));
			u64 value;

			co_await async.receive_value(value);
			CHECK(false);
		}(loop, std::move(a), gone));
		loop.spawn([](evr::loop &l, evr::channel ch,
			      int &n) -> evr::task<> {
			witness w{ n };
			evr::operations ops(l, std::move(ch));
			(void)co_await ops.next();
			CHECK(false);
		}(loop, std::move(c), gone));
		loop.spawn([](evr::loop &l, evr::channel ch,
			      int &n) -> evr::task<> {
			witness w{ n };
			evr::operations ops(l, std::move(ch));
			(void)co_await ops.receive();
			CHECK(false);
		}(loop, std::move(e), gone));
		// The peer has no table, and so no room.
		loop.spawn([](evr::loop &l, evr::channel ch,
			      int &n) -> evr::task<> {
			witness w{ n };
			evr::operations ops(l, std::move(ch));
			std::vector<std::byte> data(5000);

			(void)co_await ops.send(data);
			CHECK(false);
		}(loop, std::move(g), gone));
		loop.spawn([](evr::loop &l, int &n) -> evr::task<> {
			witness w{ n };
			co_await l.sleep_for(1h);
			CHECK(false);
		}(loop, gone));
		loop.spawn([](evr::loop &l) -> evr::task<> {
			co_await l.sleep_for(1ms);
			l.stop();
		}(loop));
		CHECK(loop.run() == 0 && gone == 0);
	}
	CHECK(gone == 5);
	CHECK(f.peer() == EVERING_PEER_CLOSED &&
	      h.peer() == EVERING_PEER_CLOSED);
	CHECK(b.peer() == EVERING_PEER_CLOSED &&
	      d.peer() == EVERING_PEER_CLOSED);
}

/*
 * Whose time is over before another's comes before it.  When each sleep began is known only
 * to lie between its coroutine's beginning and the next one's, and between those a machine
 * may stand still.
 */
void sleeps()
{
	using clock = std::chrono::steady_clock;
	static constexpr std::size_t count = 4;
	static constexpr int ms[count] = { 30, 0, 20, 10 };
	evr::loop loop;
	std::vector<clock::time_point> begun;
	std::vector<std::size_t> order;
	auto sleeper = [](evr::loop &l, std::vector<clock::time_point> &at,
			  std::vector<std::size_t> &o,
			  std::size_t i) -> evr::task<> {
		at.push_back(clock::now());
		/* The last one only says when the one before it had begun. */
		if (i == count)
			co_return;
		co_await l.sleep_for(ms[i] * 1ms);
		o.push_back(i);
	};

	for (std::size_t i = 0; i <= count; i++)
		loop.spawn(sleeper(loop, begun, order, i));
	CHECK(loop.run() == 0);
	CHECK(order.size() == count && begun.size() == count + 1);
	for (std::size_t i = 1; i < order.size(); i++) {
		std::size_t first = order[i - 1], then = order[i];

		CHECK(begun[then + 1] + ms[then] * 1ms >=
		      begun[first] + ms[first] * 1ms);
	}
}

/* What cannot be counted is for ever, and so is what says so. */
void times()
{
	using std::chrono::hours, std::chrono::seconds;
	using odd = std::chrono::duration<u64, std::milli>;
	using small = std::chrono::duration<std::int32_t>;
	using evr::nanoseconds, evr::wait_time;
	auto count = [](wait_time t) { return t.count(); };

	CHECK(count(20ms) == 20000000 && count(0s) == 0);
	CHECK(count(nanoseconds::max() - 1ns) == INT64_MAX - 1);
	CHECK(count(small(7)) == 7000000000 && count(odd(5)) == 5000000);
	CHECK(count(small::max()) == seconds(INT32_MAX) / 1ns);
	for (std::int64_t t :
	     { count(nanoseconds::max()), count(seconds::max()),
	       count(hours::max()), count(odd::max()), count(evr::forever) })
		CHECK(t == EVERING_WAIT_FOREVER);
	// What is not a time is refused as C refuses it.
	CHECK(count(-5s) == -5000000000);
	CHECK(count(hours::min()) == INT64_MIN);
	CHECK(count(nanoseconds::min()) == INT64_MIN);
	auto [a, b] = make_pair();
	CHECK(a.wait(EVERING_RX, -2ns) == -EINVAL);
	CHECK(a.wait(EVERING_RX, hours::min()) == -EINVAL);
}

/*
 * A call and a sleep of all lengths that mean for ever are under way when their loop
 * has had a turn, and asleep: the CPU is not theirs.
 */
void endless()
{
	auto [a, b] = make_pair(256);
	evr::loop loop;
	int ended = 0, held = 0;
	auto sleeper = [](evr::loop &l, evr::wait_time t,
			  int &n) -> evr::task<> {
		co_await l.sleep_for(t);
		n++;
	};
	auto caller = [](evr::operations &o, evr::wait_time t,
			 int &n) -> evr::task<> {
		auto got = co_await o.call(1).timeout(t);

		CHECK(got.result == -EPIPE);
		n += 100;
	};
	auto keeper = [](evr::loop &l, evr::channel c, int &n) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		for (; n < 5; n++)
			CHECK(co_await ops.next());
		co_await l.sleep_for(100ms);
		l.stop();
		co_await l.sleep_for(20ms);
	};
	struct timespec before, after;
	const evr::wait_time all[] = { evr::nanoseconds::max(),
				       evr::nanoseconds::max() - 1ns,
				       std::chrono::hours::max(), evr::forever,
				       std::chrono::years(290) };

	for (auto t : all)
		loop.spawn(sleeper(loop, t, ended));
	loop.spawn(keeper(loop, std::move(a), held));
	evr::operations ops(loop, std::move(b));
	for (auto t : all)
		loop.spawn(caller(ops, t, ended));
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	CHECK(loop.run() == 0 && held == 5 && ended == 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	CHECK((after.tv_sec - before.tv_sec) * 1000 +
		      (after.tv_nsec - before.tv_nsec) / 1000000 <
	      50);
	// The peer goes, and with it the calls.
	loop.spawn([](evr::loop &l, int &n) -> evr::task<> {
		while (n < 500)
			co_await l.sleep_for(1ms);
		l.stop();
	}(loop, ended));
	CHECK(loop.run() == 0 && ended == 500);
}

void on_alarm(int)
{
}

/* Which wakes the loop, and nobody in it. */
void signals()
{
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } };
	struct itimerval off = {};
	struct sigaction sa = {};
	evr::loop loop;

	sa.sa_handler = on_alarm;
	CHECK(!sigaction(SIGALRM, &sa, nullptr));
	CHECK(!setitimer(ITIMER_REAL, &every, nullptr));
	loop.spawn([](evr::loop &l) -> evr::task<> {
		co_await l.sleep_for(50ms);
	}(loop));
	CHECK(loop.run() == 0);
	CHECK(!setitimer(ITIMER_REAL, &off, nullptr));
	signal(SIGALRM, SIG_DFL);
}

/* Nobody runs in a loop without its descriptor, and all are destroyed with it. */
void broken_loops()
{
	struct rlimit limit, none;
	int gone = 0;
	auto waits = [](evr::loop &l, int fd, int &n) -> evr::task<> {
		witness w{ n };

		if (fd >= 0)
			close(fd);
		co_await l.sleep_for(2h);
		CHECK(false);
	};

	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = 0;
	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	{
		evr::loop loop;

		loop.spawn(waits(loop, -1, gone));
		CHECK(loop.run() == -EMFILE);
		CHECK(loop.run() == -EMFILE);
	}
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	CHECK(gone == 0); // it had not begun
	int fd = dup(0); // where the loop's will be
	close(fd);
	{
		evr::loop loop;

		loop.spawn(waits(loop, fd, gone));
		CHECK(loop.run() == -EBADF);
	}
	CHECK(gone == 1);
}

/* What epoll does not take is an error for who waits for it, not for the loop. */
void unwatched()
{
	auto [a, b] = make_pair();
	auto [c, d] = make_pair();
	auto [e, f] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel one, evr::channel two,
		      evr::channel three, bool &dd) -> evr::task<> {
		int fd = eventfd(1, EFD_CLOEXEC);
		evr::descriptor first(l, fd), again(l, fd);

		CHECK(co_await again.readable() == -EEXIST);
		CHECK(co_await first.readable() == 0);
		close(fd);
		CHECK(co_await first.readable() == -EBADF);

		evr::descriptor before(l, evering_fd(one.get()));
		evr::async_channel async(l, std::move(one));
		u64 value = 1;
		CHECK(co_await async.send_value(value) == -EEXIST);
		for (u64 i = 0; i < 2 * evr::detail::turn_length; i++)
			CHECK(co_await async.receive_value(value) == -EEXIST);

		// Nor one for which there is no descriptor; the device's has it.
		struct rlimit limit, none;
		CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
		none = limit;
		none.rlim_cur = 0;
		CHECK(!setrlimit(RLIMIT_NOFILE, &none));
		bool is_one = !std::strcmp(
			evering_backend_name(three.get()), "device");
		evr::async_channel alone(l, std::move(three));
		CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
		CHECK(co_await alone.send_value(value) ==
		      (is_one ? 0 : -EMFILE));

		evr::descriptor other(l, evering_fd(two.get()));
		evr::operations ops(l, std::move(two));
		CHECK(ops.error() == -EEXIST);
		auto r = co_await ops.next();
		CHECK(!r && r.error() == -EEXIST);
		auto got = co_await ops.call(0);
		CHECK(!got && got.result == -EEXIST && !got.answered);
		co_await l.sleep_for(1ms); // nothing comes of it
		dd = true;
	}(loop, std::move(a), std::move(c), std::move(e), done));
	CHECK(loop.run() == 0 && done);
	evr::params wish;
	wish.slot_size = EVERING_OPS_MIN_SLOT / 2;
	auto small = evr::channel::pair(wish);
	CHECK(small);
	evr::operations ops(loop, std::move(small->first));
	CHECK(ops.error() == -EINVAL);
}

/* An event for who does not wait any more, or not now. */
void events_for_nobody()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel c, evr::channel &peer,
		      bool &dd) -> evr::task<> {
		int fd = eventfd(0, EFD_CLOEXEC);
		evr::descriptor d(l, fd);
		evr::async_channel async(l, std::move(c));
		{
			evr::loop inner; // has who waits

			inner.spawn([](evr::descriptor &on,
				       evr::loop &i) -> evr::task<> {
				i.stop();
				co_await on.readable();
				CHECK(false);
			}(d, inner));
			CHECK(inner.run() == 0);
		}
		CHECK(!eventfd_write(fd, 1));
		peer.close();
		co_await l.sleep_for(5ms);
		CHECK(co_await d.readable() == 0);
		close(fd);
		dd = true;
	}(loop, std::move(a), b, done));
	CHECK(loop.run() == 0 && done);
}

// ---------------------------------------------------------------- entries

evr::task<> send_many(evr::loop &l, evr::channel c, u64 n)
{
	evr::async_channel async(l, std::move(c));

	for (u64 i = 0; i < n; i++)
		CHECK(co_await async.send_value(i) == 0);
}

evr::task<> receive_many(evr::loop &l, evr::channel c, u64 &n)
{
	evr::async_channel async(l, std::move(c));
	u64 got;
	int ret;

	while ((ret = co_await async.receive_value(got)) == 0)
		CHECK(got == n++);
	CHECK(ret == -EPIPE);
}

/* What was released is the peer's at once, if it is published. */
void publishes()
{
	auto [a, b] = make_pair(256);
	u64 value = 0;

	while (a.send_value(value, evr::nowait) == 0)
		;
	CHECK(b.receive_value(value) == 0);
	CHECK(a.reserve().empty());
	b.publish();
	CHECK(!a.reserve().empty());
}

/* A wait ends for a signal that came before it, and for a wake. */
void wakes()
{
	auto [a, b] = make_pair();
	struct sigaction sa = {};
	sigset_t usr1, old;

	CHECK(a.wake(EVERING_RX) == 0 && a.wake(0) == -EINVAL);
	CHECK(a.wait(EVERING_RX) == -EINTR);
	CHECK(a.wait(EVERING_RX, 1ms) == -ETIMEDOUT);
	sa.sa_handler = on_alarm;
	CHECK(!sigaction(SIGUSR1, &sa, nullptr));
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	CHECK(!pthread_sigmask(SIG_BLOCK, &usr1, &old));
	CHECK(!raise(SIGUSR1));
	CHECK(a.wait(EVERING_RX, 1ms) == -ETIMEDOUT);
	CHECK(a.wait(EVERING_RX, evr::forever, old) == -EINTR);
	CHECK(!pthread_sigmask(SIG_SETMASK, &old, nullptr));
}

/* Who is not let in is told so, and whoever comes next has a channel. */
void admits()
{
	char name[64];

	std::snprintf(name, sizeof(name), "@cxx-admits-%d", getpid());
	auto listener = evr::listener::listen(name);
	CHECK(listener);
	evr::admission rules;
	CHECK(listener->admit(rules) == 0);
	rules.allow = [](pid_t, uid_t, gid_t, void *n) {
		return ++*static_cast<int *>(n) == 1 ? -EACCES : 0;
	};
	int asked = 0;
	rules.context = &asked;
	CHECK(listener->admit(rules) == 0);
	pid_t pid = fork();
	if (!pid) {
		alarm(60);
		auto first = evr::channel::connect(name);
		auto second = evr::channel::connect(name);
		_exit(first.error() == -EACCES && second ? 0 : 1);
	}
	auto c = listener->accept();
	int status = -1;
	CHECK(c && asked == 2);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	rules.flags = 1;
	CHECK(listener->admit(rules) == -EINVAL);
}

/* A channel a thread, of which the listener grants fewer than are wished for. */
void lanes()
{
	char name[64];

	std::snprintf(name, sizeof(name), "@cxx-lanes-%d", getpid());
	auto listener = evr::listener::listen(name);
	CHECK(listener);
	CHECK(evr::channel::connect_many(name, 0).error() == -EINVAL);
	CHECK(evr::channel::connect_many(name, ~0u).error() == -E2BIG);
	pid_t pid = fork();
	if (!pid) {
		alarm(60);
		auto mine = evr::channel::connect_many(name, 4);
		if (!mine || mine->size() != 3)
			_exit(1);
		for (auto &c : *mine)
			if (c.send_value(c.lane().lane) ||
			    c.lane().lanes != 3)
				_exit(2);
		evr::loop loop;
		std::size_t got = 0;
		loop.spawn([](evr::loop &l, const char *at,
			      std::size_t &n) -> evr::task<> {
			auto more = co_await evr::connect_many(l, at, 5);
			n = more ? more->size() : 0;
			auto none = co_await evr::connect_many(l, at, 0);
			n = none ? 0 : n;
		}(loop, name, got));
		if (loop.run() || got != 3)
			_exit(3);
		_exit(0);
	}
	auto most = evr::limits();
	most.lanes = 3;
	std::vector<evr::channel> theirs;
	for (unsigned int i = 0; i < 6; i++) {
		auto c = listener->accept(most);
		CHECK(c && c->lane().lane == i % 3 && c->lane().lanes == 3);
		std::uint32_t lane = 9;
		if (i < 3)
			CHECK(c->receive_value(lane) == 0 && lane == i);
		theirs.push_back(std::move(*c));
	}
	CHECK(theirs[0].lane().set == theirs[2].lane().set &&
	      theirs[0].lane().set != theirs[3].lane().set);
	int status = -1;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* What each has, of those that a group has found ready. */
u64 take_all(evr::group::events events, std::vector<ends> &pairs)
{
	u64 sum = 0;
	u64 value;

	for (const auto &event : events) {
		auto i = static_cast<ends *>(event.context) - pairs.data();
		CHECK(event.what == EVERING_RX);
		CHECK(event.ev == pairs[i].b.get());
		while (!pairs[i].b.receive_value(value, evr::nowait))
			sum += value;
	}
	return sum;
}

/* Many channels under one sleeper, and in a loop; who is closed is no member any more. */
void groups()
{
	std::vector<ends> pairs;
	auto g = evr::group::open();
	int fds[2];

	CHECK(g);
	for (int i = 0; i < 8; i++)
		pairs.push_back(make_pair());
	for (auto &p : pairs)
		CHECK(g->add(p.b, EVERING_RX, &p) == 0);
	CHECK(g->add(pairs[0].b) == -EEXIST);
	CHECK(g->wait(evr::nowait).error() == -EAGAIN);
	CHECK(g->wait(1ms).error() == -ETIMEDOUT);
	for (u64 i = 0; i < 8; i++)
		CHECK(pairs[i].a.send_value(1 + i) == 0);
	/* Those that are hot may come before the others. */
	u64 sum = 0;
	while (sum < 36) {
		auto some = g->wait();
		CHECK(some && !some->empty());
		sum += take_all(*some, pairs);
	}
	CHECK(sum == 36);
	CHECK(g->wake() == 0 && g->wait().error() == -EINTR);

	CHECK(g->want(pairs[1].b, 0) == 0 && g->remove(pairs[2].b) == 0);
	CHECK(g->remove(pairs[2].b) == -ENOENT);
	pairs[3].b.close();
	for (u64 i : { 1, 2, 4 })
		CHECK(pairs[i].a.send_value(i) == 0);
	auto ready = g->wait();
	CHECK(ready && ready->size() == 1 && take_all(*ready, pairs) == 4);

	auto l = evr::listener::listen("@cxx-groups");
	CHECK(l && g->add(*l) == 0 && g->remove(*l) == 0);
	CHECK(pipe(fds) == 0 && g->add(fds[0], POLLIN, fds) == 0);
	CHECK(write(fds[1], "x", 1) == 1);
	ready = g->wait();
	CHECK(ready && ready->size() == 1 &&
	      (*ready)[0].what == EVERING_GROUP_FD &&
	      (*ready)[0].context == fds && (*ready)[0].result == POLLIN);
	CHECK(g->remove(fds[0]) == 0);
	close(fds[0]);
	close(fds[1]);

	evr::loop loop;
	sum = 0;
	loop.spawn([](evr::loop &at, evr::group &of, std::vector<ends> &p,
		      u64 &s) -> evr::task<> {
		evr::descriptor sleep(at, of.fd());
		while (s < 100) {
			auto found = of.poll();
			CHECK(found && of.timeout() == evr::forever);
			s += take_all(*found, p);
			if (found->empty())
				CHECK(co_await sleep.readable() == 0);
		}
	}(loop, *g, pairs, sum));
	loop.spawn([](evr::loop &at, std::vector<ends> &p) -> evr::task<> {
		for (int i = 0; i < 100; i++) {
			CHECK(p[4 + i % 4].a.send_value(u64(1)) == 0);
			co_await at.sleep_for(100us);
		}
	}(loop, pairs));
	CHECK(loop.run() == 0 && sum == 100);
}

/* Over a ring of four, so that both wait for each other all the time. */
void receive()
{
	for (unsigned int entries : { 4u, 256u }) {
		auto [a, b] = make_pair(entries);
		evr::loop loop;
		u64 n = 0;

		loop.spawn(receive_many(loop, std::move(b), n));
		loop.spawn(send_many(loop, std::move(a), 5000));
		CHECK(loop.run() == 0);
		CHECK(n == 5000);
	}
}

evr::task<> echo_entries(evr::loop &l, evr::channel c)
{
	evr::async_channel async(l, std::move(c));
	u64 got;

	while (co_await async.receive_value(got) == 0)
		if (co_await async.send_value(++got))
			break;
}

/* One coroutine waits to receive while another waits to send. */
void both_ways()
{
	auto [a, b] = make_pair(4);
	evr::loop loop;
	u64 got = 0;

	loop.spawn(echo_entries(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, u64 &n) -> evr::task<> {
		evr::async_channel async(l, std::move(c));

		l.spawn([](evr::async_channel &to) -> evr::task<> {
			for (u64 i = 0; i < 1000; i++)
				CHECK(co_await to.send_value(i) == 0);
		}(async));
		for (u64 value; n < 1000; n++) {
			CHECK(co_await async.receive_value(value) == 0);
			CHECK(value == n + 1);
		}
	}(loop, std::move(a), got));
	CHECK(loop.run() == 0 && got == 1000);
}

/* Who has much to receive has it in turns with who else has. */
void turns()
{
	auto [a, b] = make_pair();
	auto [c, d] = make_pair();
	std::vector<int> order;
	evr::loop loop;
	auto reader = [](evr::loop &l, evr::channel ch, std::vector<int> &o,
			 int who) -> evr::task<> {
		evr::async_channel async(l, std::move(ch));

		for (u64 value, i = 0; i < 256; i++) {
			CHECK(co_await async.receive_value(value) == 0);
			o.push_back(who);
		}
	};

	for (u64 i = 0; i < 256; i++)
		CHECK(a.send_value(i) == 0 && c.send_value(i) == 0);
	loop.spawn(reader(loop, std::move(b), order, 1));
	loop.spawn(reader(loop, std::move(d), order, 2));
	CHECK(loop.run() == 0);
	CHECK(order.size() == 512);
	for (unsigned int i = 0, row = 0; i < 512; i++) {
		row = i && order[i] == order[i - 1] ? row + 1 : 1;
		CHECK(row <= 2 * evr::detail::turn_length);
	}
}

void idle()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	struct timespec cpu;

	loop.spawn(echo_entries(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel &c) -> evr::task<> {
		co_await l.sleep_for(300ms);
		c.close();
	}(loop, a));
	CHECK(loop.run() == 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	CHECK(cpu.tv_sec == 0 && cpu.tv_nsec < 150000000);
}

// -------------------------------------------------------------- operations

enum { ECHO = 1, HOLD, GIVE_BACK, WRITE, KEEP, FAIL, IN_PLACE };

/* Answers; what is to be held until the peer cancels it, or for ever. */
evr::task<> answer_all(evr::loop &l, evr::channel c, int *held = nullptr)
{
	evr::operations ops(l, std::move(c));
	std::vector<evr::request> holding;

	while (auto r = co_await ops.next()) {
		switch (r->opcode()) {
		case ECHO:
			CHECK(ops.reply(*r, 3, r->data()) == 0);
			break;
		case HOLD:
			if (held)
				++*held;
			// Polls, for there is nobody who tells of it.
			while (!ops.cancelled(*r) && !ops.error())
				co_await l.sleep_for(1ms);
			if (!ops.error())
				CHECK(ops.reply(*r, 0) == 0);
			break;
		case KEEP:
			if (held)
				++*held;
			holding.push_back(*r);
			break;
		case GIVE_BACK: {
			evr::buffer b = ops.take(*r);
			std::size_t size = b.size();

			CHECK(b);
			CHECK(ops.reply(*r, 0, b, size) == 0 && !b);
			break;
		}
		case WRITE: {
			evr::buffer b = ops.get().allocate(r->buf().size());

			CHECK(b && r->flags() == EVERING_LEND);
			std::memcpy(b.span().data(), r->buf().data(),
				    b.size());
			// More than it is; it is still ours, then.
			CHECK(ops.reply(*r, 0, b, 65536) == -EINVAL && b);
			CHECK(ops.reply(*r, 0, b, r->buf().size()) == 0);
			break;
		}
		case FAIL:
			CHECK(ops.reply(*r, *r->as<int>()) == 0);
			break;
		case IN_PLACE: {
			auto *at = const_cast<std::byte *>(r->buf().data());
			evr::buffer b(ops.get().get(), at, r->buf().size());

			at[0] = std::byte(7);
			CHECK(ops.reply(*r, 0, b, 10) == 0 && !b);
			break;
		}
		}
		if (holding.size() == 2) { // late answers
			for (const auto &h : holding)
				CHECK(ops.reply(h, 0) == 0);
			holding.clear();
		}
	}
	CHECK(ops.error() == -EPIPE);
}

void calls()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		for (u64 i = 0; i < 300; i++) {
			auto got = co_await ops.call(ECHO, evr::bytes_of(i));
			CHECK(got && got.result == 3 && got.as<u64>() == i);
			CHECK(!got.buf && !got.lent);
			CHECK(!got.as<int>());
		}
		std::array<std::byte, 300> large = {};
		std::vector<std::byte> larger(65537);
		auto no = co_await ops.call(ECHO, larger);
		CHECK(!no && no.result == -EMSGSIZE && !no.answered);
		CHECK(!no.lent && arena_whole(ops.get()));

		evr::buffer buf = ops.get().allocate(5000);
		std::memset(buf.span().data(), 9, 5000);
		auto wrote = co_await ops.call(WRITE).lend(std::move(buf));
		CHECK(wrote && !buf && wrote.lent.size() == 5000);
		CHECK(wrote.buf.size() == 5000 &&
		      wrote.buf.span()[4999] == std::byte(9));
		auto back = co_await ops.call(GIVE_BACK).give(
			std::move(wrote.lent));
		CHECK(back && back.buf.size() == 5000 && !back.lent);
		back.buf.reset();
		wrote.buf.reset();
		CHECK(arena_whole(ops.get()));
		// What could not be sent is still the caller's.
		buf = ops.get().allocate(100);
		auto refused = co_await ops.call(ECHO, large).give(
			std::move(buf));
		CHECK(refused.result == -EMSGSIZE && refused.lent);
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

/* The peer's own words, whatever the library may mean by them. */
void failures()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		for (int why : { -EPIPE, -ECANCELED, -ETIMEDOUT, -5 }) {
			evr::buffer buf = ops.get().allocate(65536);
			auto got = co_await ops.call(FAIL, evr::bytes_of(why))
					   .lend(std::move(buf));
			CHECK(!got && got.answered && got.result == why);
			CHECK(got.lent.size() == 65536 && !got.buf);
		}
		CHECK(arena_whole(ops.get()));
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

void answers_in_place()
{
	auto [a, b] = make_pair(256, 65536, EVERING_SHARED_ARENA);
	evr::loop loop;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		evr::buffer buf = ops.get().allocate(65536);
		std::byte *at = buf.span().data();

		{
			auto got = co_await ops.call(IN_PLACE).lend(
				std::move(buf));
			CHECK(got && got.buf.size() == 10 && !got.lent);
			CHECK(got.buf.span().data() == at &&
			      at[0] == std::byte(7));
		}
		CHECK(arena_whole(ops.get()));
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

/* More calls than may be in flight wait for room, and go in order. */
void room()
{
	auto [a, b] = make_pair(8);
	evr::loop loop;
	std::vector<u64> order;

	loop.spawn(answer_all(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c,
		      std::vector<u64> &o) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		auto one = [](evr::operations &to, std::vector<u64> &oo,
			      u64 i) -> evr::task<> {
			auto got = co_await to.call(ECHO, evr::bytes_of(i));
			CHECK(got.as<u64>() == i);
			oo.push_back(i);
		};

		for (u64 i = 0; i < 100; i++)
			l.spawn(one(ops, o, i));
		while (o.size() < 100)
			co_await l.sleep_for(1ms);
	}(loop, std::move(a), order));
	CHECK(loop.run() == 0 && order.size() == 100);
	for (u64 i = 0; i < 100; i++)
		CHECK(order[i] == i);
}

void cancel()
{
	auto [a, b] = make_pair(8);
	evr::loop loop;
	int held = 0;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b), &held));
	loop.spawn([](evr::loop &l, evr::channel c, int &h,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c), 1);
		std::stop_source before, flying, waiting;

		// Never sent.
		before.request_stop();
		auto first = co_await ops.call(HOLD).stop_by(
			before.get_token());
		CHECK(first.result == -ECANCELED && !first.answered);
		CHECK(h == 0);

		// In flight, and behind it another that waits for room.
		l.spawn([](evr::loop &ll, std::stop_source f,
			   std::stop_source w, int &hh) -> evr::task<> {
			while (!hh)
				co_await ll.sleep_for(1ms);
			w.request_stop();
			co_await ll.sleep_for(5ms);
			f.request_stop();
		}(l, flying, waiting, h));
		l.spawn([](evr::operations &o, std::stop_source w,
			   int &hh) -> evr::task<> {
			auto second = co_await o.call(ECHO).stop_by(
				w.get_token());
			CHECK(second.result == -ECANCELED && hh == 1);
			hh = 100;
		}(ops, waiting, h));
		evr::buffer buf = ops.get().allocate(65536);
		auto third = co_await ops.call(HOLD)
				     .lend(std::move(buf))
				     .stop_by(flying.get_token());
		CHECK(third.result == -ECANCELED && h == 100);
		CHECK(third.lent.size() == 65536);
		// Too late to matter.
		flying.request_stop();
		auto last = co_await ops.call(ECHO);
		CHECK(last);
		d = true;
	}(loop, std::move(a), held, done));
	CHECK(loop.run() == 0 && done);
}

/* It has its answer, and has not gone on yet. */
void cancel_too_late()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int ended = 0;

	loop.spawn(answer_all(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, int &e) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		std::stop_source stop;

		l.spawn([](evr::operations &o, std::stop_source s,
			   int &ee) -> evr::task<> {
			CHECK(co_await o.call(ECHO));
			CHECK(ee == 0); // the first of both
			s.request_stop();
			ee++;
		}(ops, stop, e));
		l.spawn([](evr::operations &o, std::stop_source s,
			   int &ee) -> evr::task<> {
			auto got = co_await o.call(ECHO).stop_by(
				s.get_token());
			CHECK(got && got.result == 3 && ee == 1);
			ee++;
		}(ops, stop, e));
		while (e < 2)
			co_await l.sleep_for(1ms);
	}(loop, std::move(a), ended));
	CHECK(loop.run() == 0 && ended == 2);
}

void timeout()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int held = 0;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b), &held));
	loop.spawn([](evr::loop &l, evr::channel c, int &h,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		evr::buffer buf = ops.get().allocate(65536);
		auto late = co_await ops.call(KEEP)
				    .lend(std::move(buf))
				    .timeout(20ms);

		CHECK(late.result == -ETIMEDOUT && !late.answered);
		CHECK(!late.lent && h == 1);
		CHECK(!arena_whole(ops.get())); // it is still lent
		// The second that it keeps makes it answer both.
		auto kept = co_await ops.call(KEEP).timeout(1h);
		CHECK(kept && arena_whole(ops.get()));
		d = true;
	}(loop, std::move(a), held, done));
	CHECK(loop.run() == 0 && done);
}

/*
 * However an operation ends while the peer may use its buffer, nobody has it back, and
 * with the late answer it is free, once.
 */
void abandoned()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int held = 0;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b), &held));
	loop.spawn([](evr::loop &l, evr::channel c, int &h,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		std::stop_source stop;
		evr::buffer buf = ops.get().allocate(65536);

		l.spawn([](evr::loop &ll, std::stop_source s,
			   int &hh) -> evr::task<> {
			while (!hh)
				co_await ll.sleep_for(1ms);
			s.request_stop();
		}(l, stop, h));
		auto late = co_await ops.call(KEEP)
				    .lend(std::move(buf))
				    .timeout(50ms)
				    .stop_by(stop.get_token());
		CHECK(late.result == -ETIMEDOUT && !late.answered);
		CHECK(late.abandoned && !late.lent && !late.buf);
		// No time at all is not for ever.
		auto none = co_await ops.call(KEEP).timeout(0ns);
		CHECK(none.result == -ETIMEDOUT && !none.abandoned);
		while (!arena_whole(ops.get()))
			co_await l.sleep_for(1ms);
		evr::buffer next = ops.get().allocate(65536);
		CHECK(next);
		auto echo = co_await ops.call(ECHO).lend(std::move(next));
		CHECK(echo && !echo.abandoned && echo.lent.size() == 65536);
		d = true;
	}(loop, std::move(a), held, done));
	CHECK(loop.run() == 0 && done);
}

/* A coroutine that is destroyed while its call is under way. */
void destroyed()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int held = 0;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b), &held));
	loop.spawn([](evr::loop &l, evr::channel c, int &h,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		auto first = co_await ops.call(ECHO);
		CHECK(first);
		{
			evr::loop inner; // has the coroutine, not the table

			inner.spawn([](evr::operations &o, evr::loop &i)
					    -> evr::task<> {
				i.stop();
				evr::buffer buf = o.get().allocate(65536);
				(void)co_await o.call(KEEP).lend(
					std::move(buf));
				CHECK(false);
			}(ops, inner));
			inner.run();
		}
		while (!h)
			co_await l.sleep_for(1ms);
		CHECK(!arena_whole(ops.get()));
		auto kept = co_await ops.call(KEEP);
		CHECK(kept && arena_whole(ops.get()));
		d = true;
	}(loop, std::move(a), held, done));
	CHECK(loop.run() == 0 && done);
}

/* A table that is destroyed while others wait for it. */
void table_destroyed()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int held = 0, ended = 0;

	loop.spawn(answer_all(loop, std::move(b), &held));
	loop.spawn([](evr::loop &l, evr::channel c, int &h,
		      int &e) -> evr::task<> {
		auto ops = std::make_unique<evr::operations>(
			l, std::move(c), 1);
		auto asks = [](evr::operations &o, int &ee) -> evr::task<> {
			evr::buffer buf = o.get().allocate(64);
			auto got = co_await o.call(KEEP).lend(std::move(buf));
			CHECK(got.result == -ECANCELED && !got.answered);
			ee++;
		};

		for (int i = 0; i < 3; i++)
			l.spawn(asks(*ops, e));
		l.spawn([](evr::operations &o, int &ee) -> evr::task<> {
			auto r = co_await o.next();
			CHECK(!r && r.error() == -ECANCELED);
			ee++;
		}(*ops, e));
		l.spawn([](evr::operations &o, int &ee) -> evr::task<> {
			auto m = co_await o.receive();
			CHECK(!m && m.error() == -ECANCELED);
			ee++;
		}(*ops, e));
		l.spawn([](evr::operations &o, int &ee) -> evr::task<> {
			// The calls have some of the arena.
			std::vector<std::byte> data(65536);
			CHECK(co_await o.send(data) == -ECANCELED);
			ee++;
		}(*ops, e));
		while (!h)
			co_await l.sleep_for(1ms);
	}(loop, std::move(a), held, ended));
	CHECK(loop.run() == 0 && ended == 6);
}

// ----------------------------------------------------------------- messages

using text = std::vector<std::byte>;

/* What message @n of so many bytes has. */
text text_of(u64 n, std::size_t size)
{
	text t(size);

	for (std::size_t i = 0; i < size; i++)
		t[i] = std::byte(n * 31 + i + (i >> 8) * 7);
	return t;
}

bool same(evr::bytes a, const text &b)
{
	return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

/* Short and long ones by turns, to the bytes of an arena. */
constexpr std::size_t lengths[] = { 0,	  8,	236, 237,   1,	  10000,
				    43,	  44,	1000, 100,  299,  65536,
				    3000, 45,	7,   65535 };

evr::task<> send_lengths(evr::loop &l, evr::channel c, u64 n)
{
	evr::operations ops(l, std::move(c));
	std::vector<std::byte> large(65537);

	for (u64 i = 0; i < n; i++) {
		text t = text_of(i, lengths[i % std::size(lengths)]);

		CHECK(co_await ops.send(t) == 0);
		if (i % 50 == 0)
			CHECK(co_await ops.send(large) == -EMSGSIZE);
	}
	// Until the peer has them, and goes.
	CHECK((co_await ops.receive()).error() == -EPIPE);
	CHECK(co_await ops.send(large) == -EPIPE);
	CHECK(ops.try_send(large) == -EPIPE && arena_whole(ops.get()));
}

evr::task<> receive_lengths(evr::loop &l, evr::channel c, u64 n)
{
	evr::operations ops(l, std::move(c));

	for (u64 i = 0; i < n; i++) {
		auto m = co_await ops.receive();
		text t = text_of(i, lengths[i % std::size(lengths)]);

		CHECK(m && *m && m->size() == t.size() && same(m->data(), t));
		if (m->size() == 8)
			CHECK(m->as<u64>() && !m->as<int>());
		// All that owns is none, or the other one.
		evr::message other = std::move(*m);
		CHECK(!*m && m->data().empty() && other.size() == t.size());
		*m = std::move(other);
		CHECK(*m && !other);
		if (i % 3 == 0)
			m->reset();
	}
	CHECK(ops.error() == 0);
}

void messages()
{
	for (unsigned int entries : { 4u, 256u }) {
		auto [a, b] = make_pair(entries);
		evr::loop loop;

		loop.spawn(receive_lengths(loop, std::move(b), 320));
		loop.spawn(send_lengths(loop, std::move(a), 320));
		CHECK(loop.run() == 0);
	}
}

/* In pieces, at once, and in the order in which they were sent, whoever sends them. */
void message_order()
{
	auto [a, b] = make_pair(16);
	evr::loop loop;
	u64 got = 0;
	bool go = false;

	loop.spawn([](evr::loop &l, evr::channel c, bool &g) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		auto sends = [](evr::operations &o, u64 n) -> evr::task<> {
			text t = text_of(n, n % 2 ? 30000 : 3);

			CHECK(co_await o.send(evr::bytes_of(n), t) == 0);
		};
		u64 n = 0;

		while (ops.try_send(evr::bytes_of(n), text_of(n, 3)) != 0)
			co_await l.sleep_for(1ms);
		for (n = 1; n < 50; n++)
			l.spawn(sends(ops, n));
		co_await l.sleep_for(1ms);
		// Nobody goes before those who wait.
		CHECK(ops.try_send() == -EAGAIN);
		g = true;
		CHECK(!co_await ops.receive());
	}(loop, std::move(a), go));
	loop.spawn([](evr::loop &l, evr::channel c, u64 &n,
		      bool &g) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		while (!g)
			co_await l.sleep_for(1ms);
		for (; n < 50; n++) {
			auto m = co_await ops.receive();
			text t = text_of(n, n % 2 ? 30000 : 3);

			CHECK(m && m->size() == 8 + t.size());
			CHECK(evr::value_of<u64>(m->data().first(8)) == n);
			CHECK(same(m->data().subspan(8), t));
		}
	}(loop, std::move(b), got, go));
	CHECK(loop.run() == 0 && got == 50);
}

/*
 * What makes room for a message: the peer that frees one, and a coroutine of this side
 * that frees a buffer, of which nothing else tells.
 */
void message_room()
{
	auto [a, b] = make_pair(256);
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel c) -> evr::task<> {
		evr::operations ops(l, std::move(c), 0, 0, 2);
		std::vector<evr::message> kept;

		for (int i = 0; i < 2; i++) {
			auto m = co_await ops.receive();
			CHECK(m && m->size() == 8);
			kept.push_back(std::move(*m));
		}
		CHECK(co_await ops.send() == 0); // they are all here
		co_await l.sleep_for(10ms);
		kept.pop_back();
		auto m = co_await ops.receive();
		CHECK(m && m->size() == 8);
		kept.clear();
		auto large = co_await ops.receive();
		CHECK(large && large->size() == 65536);
		large->reset();
		CHECK((co_await ops.receive()).error() == -EPIPE);
	}(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		std::vector<std::byte> data(65536);
		u64 value = 7;

		for (int i = 0; i < 2; i++)
			CHECK(co_await ops.send(evr::bytes_of(value)) == 0);
		CHECK(co_await ops.receive());
		CHECK(ops.try_send(evr::bytes_of(value)) == -EAGAIN);
		CHECK(co_await ops.send(evr::bytes_of(value)) == 0);

		l.spawn([](evr::loop &ll, evr::buffer buf) -> evr::task<> {
			co_await ll.sleep_for(20ms);
			buf.reset();
		}(l, ops.get().allocate(64)));
		CHECK(co_await ops.send(data) == 0);
		while (!arena_whole(ops.get()))
			co_await l.sleep_for(1ms);
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

/* Many to receive have turns with who else has something to do, and nobody spins. */
void message_turns()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	struct timespec cpu;
	unsigned int row = 0;

	loop.spawn([](evr::loop &l, evr::channel c) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		for (u64 i = 0; i < 100; i++)
			CHECK(co_await ops.send(evr::bytes_of(i)) == 0);
		CHECK(!co_await ops.receive());
	}(loop, std::move(a)));
	loop.spawn([](evr::loop &l, evr::channel c,
		      unsigned int &r) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		// They wait for their turn; this side sleeps, all the same.
		co_await l.sleep_for(300ms);
		l.spawn([](evr::loop &ll, unsigned int &rr) -> evr::task<> {
			for (int i = 0; i < 20; i++) {
				CHECK(rr <= 2 * evr::detail::turn_length);
				rr = 0;
				co_await ll.sleep_for(1ns);
			}
		}(l, r));
		for (u64 i = 0; i < 100; i++, r++) {
			auto m = co_await ops.receive();
			CHECK(m && m->as<u64>() == i);
		}
	}(loop, std::move(b), row));
	CHECK(loop.run() == 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	CHECK(cpu.tv_sec == 0 && cpu.tv_nsec < 150000000);
}

void posts()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel c) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		std::vector<evr::request> kept;

		for (u64 i = 0; i < 300; i++) {
			auto r = co_await ops.next();
			CHECK(r && r->opcode() == i);
			CHECK(r->is_post() == (i % 3 != 0));
			CHECK(r->as<u64>() == i);
			if (r->is_post())
				CHECK(ops.reply(*r, 0) == -ESTALE);
			else
				CHECK(ops.reply(*r, 0) == 0);
			kept.push_back(*r);
			// Those of a post are its own.
			for (const auto &k : kept)
				if (k.is_post())
					CHECK(k.as<u64>() == k.opcode());
		}
		auto r = co_await ops.next();
		CHECK(r && r->flags() == (EVERING_POST | EVERING_GIVE));
		CHECK(r->as<u64>() == 5u && r->contents().size() == 1000);
		evr::buffer given = ops.take(*r);
		CHECK(same(given.span(), text_of(1, 1000)));
		given.reset();
		CHECK(!co_await ops.next());
	}(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		std::array<std::byte, 300> large = {};

		for (u64 i = 0; i < 300; i++) {
			auto opcode = static_cast<std::uint32_t>(i);
			evr::bytes data = evr::bytes_of(i);

			if (i % 3 == 0)
				CHECK(co_await ops.call(opcode, data));
			else
				CHECK(co_await ops.post(opcode, data) == 0);
		}
		evr::buffer buf = ops.get().allocate(1000);
		text t = text_of(1, 1000);
		std::memcpy(buf.span().data(), t.data(), 1000);
		CHECK(ops.try_post(1, large) == -EMSGSIZE);
		CHECK(ops.try_post(1, large, buf) == -EMSGSIZE && buf);
		CHECK(co_await ops.post(1, large, buf) == -EMSGSIZE && buf);
		CHECK(co_await ops.post(1, evr::bytes_of(u64{ 5 }), buf) == 0);
		CHECK(!buf);
		while (!arena_whole(ops.get()))
			co_await l.sleep_for(1ms);
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

/*
 * Posts that nobody takes: the peer can send no more of them than this side keeps, its
 * other words come through, and this side sleeps.
 */
void posts_untaken(u64 all)
{
	auto [a, b] = make_pair(64);
	evr::loop loop;
	struct timespec cpu;
	u64 posted = 0, taken = 0;

	loop.spawn([](evr::loop &l, evr::channel c, u64 &n, u64 &got,
		      u64 most) -> evr::task<> {
		evr::operations ops(l, std::move(c), 8, 8, 16);

		// Meanwhile they come, all that can.
		auto first = co_await ops.call(ECHO, evr::bytes_of(u64{ 1 }));
		CHECK(first.as<u64>() == 1u);
		co_await l.sleep_for(300ms);
		CHECK(n >= 16 && n <= 32);
		auto again = co_await ops.call(ECHO, evr::bytes_of(u64{ 2 }));
		CHECK(again.as<u64>() == 2u && n <= 32);
		CHECK(co_await ops.receive());
		for (; got < most; got++) {
			auto r = co_await ops.next();
			CHECK(r && r->is_post() && r->as<u64>() == got);
		}
	}(loop, std::move(a), posted, taken, all));
	loop.spawn([](evr::loop &l, evr::channel c, u64 &n,
		      u64 most) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		l.spawn([](evr::operations &o, u64 &nn,
			   u64 m) -> evr::task<> {
			CHECK(co_await o.send() == 0);
			for (; nn < m; nn++)
				CHECK(co_await o.post(3, evr::bytes_of(nn)) ==
				      0);
		}(ops, n, most));
		while (auto r = co_await ops.next())
			CHECK(ops.reply(*r, 0, r->data()) == 0);
	}(loop, std::move(b), posted, all));
	CHECK(loop.run() == 0 && posted == all && taken == all);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	CHECK(cpu.tv_sec == 0 && cpu.tv_nsec < 300000000);
}

void posts_untaken()
{
	posts_untaken(24); // and then nothing else comes
	posts_untaken(200);
}

/* Calls and answers of any length, owned, and into what the caller has. */
void call_lengths()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel c) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		text large(65537);

		for (u64 i = 0;; i++) {
			auto r = co_await ops.next();
			if (!r)
				break;
			std::size_t want = r->opcode();
			text t = text_of(want, want);

			CHECK(r->buf().empty() != r->data().empty() ||
			      r->contents().empty());
			CHECK(ops.reply(*r, 1, large) == -EMSGSIZE);
			if (i % 2)
				CHECK(co_await ops.respond(*r, 3, t) == 0);
			else
				while (ops.reply(*r, 3, t) == -EAGAIN)
					co_await l.sleep_for(1ms);
			CHECK(co_await ops.respond(*r, 3, t) == -ESTALE);
		}
		CHECK(arena_whole(ops.get()));
	}(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		text room(65536);

		for (std::size_t in : lengths)
			for (std::size_t out : lengths) {
				auto opcode = static_cast<std::uint32_t>(out);
				text t = text_of(in, in);
				text want = text_of(out, out);
				auto got = co_await ops.call(opcode, t);

				CHECK(got && got.result == 3 && !got.lent);
				CHECK(same(got.contents(), want));
				got.buf.reset();
				auto there = co_await ops.call(opcode, t).into(
					room);
				CHECK(there && !there.buf && !there.lent);
				CHECK(there.contents().size() == out);
				CHECK(same(std::span(room).first(out), want));
				if (!out)
					continue;
				auto cut = co_await ops.call(opcode, t).into(
					std::span(room).first(out - 1));
				CHECK(!cut && cut.cut && cut.result == 3);
				CHECK(cut.answered && !cut.buf);
				CHECK(cut.contents().size() == out - 1);
			}
		CHECK(arena_whole(ops.get()));
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

/* A long call that waits for the arena, or has no answer in time. */
void call_without_room()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int held = 0;
	bool done = false;

	loop.spawn(answer_all(loop, std::move(b), &held));
	loop.spawn([](evr::loop &l, evr::channel c, int &h,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		evr::buffer all = ops.get().allocate(65536);
		text t = text_of(1, 65536);
		std::stop_source stop;

		l.spawn([](evr::loop &ll, std::stop_source s,
			   evr::buffer &buf) -> evr::task<> {
			co_await ll.sleep_for(5ms);
			s.request_stop();
			co_await ll.sleep_for(5ms);
			buf.reset();
		}(l, stop, all));
		auto never = co_await ops.call(KEEP, t).stop_by(
			stop.get_token());
		CHECK(never.result == -ECANCELED && !never.lent && h == 0);
		auto late = co_await ops.call(KEEP, t).timeout(20ms);
		CHECK(late.result == -ETIMEDOUT && late.abandoned);
		CHECK(h == 1 && !ops.get().allocate(1));
		// With the second that it keeps, it answers both.
		CHECK(co_await ops.call(KEEP));
		CHECK(arena_whole(ops.get()));
		d = true;
	}(loop, std::move(a), held, done));
	CHECK(loop.run() == 0 && done);
}

/* Its answer waits for a message that this side has still to free. */
void response_waits()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel c) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		text t = text_of(2, 65536);

		CHECK(co_await ops.send(t) == 0);
		auto r = co_await ops.next();
		CHECK(r && ops.reply(*r, 0, t) == -EAGAIN);
		CHECK(co_await ops.respond(*r, 9, t) == 0);
		CHECK(!co_await ops.next());
	}(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		auto m = co_await ops.receive();

		CHECK(m);
		l.spawn([](evr::loop &ll, evr::message &mm) -> evr::task<> {
			co_await ll.sleep_for(10ms);
			mm.reset();
		}(l, *m));
		auto got = co_await ops.call(1);
		CHECK(got.result == 9 && !*m);
		CHECK(same(got.contents(), text_of(2, 65536)));
		d = true;
	}(loop, std::move(a), done));
	CHECK(loop.run() == 0 && done);
}

/* A message or a request has come, and the table goes before they are taken. */
void table_destroyed_before()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	int ended = 0;

	loop.spawn([](evr::loop &l, evr::channel c) -> evr::task<> {
		evr::operations ops(l, std::move(c));

		CHECK(co_await ops.receive());
		// All three find what they wait for in one turn.
		CHECK(co_await ops.send() == 0 && co_await ops.post(1) == 0);
		(void)co_await ops.receive();
	}(loop, std::move(b)));
	loop.spawn([](evr::loop &l, evr::channel c, int &e) -> evr::task<> {
		auto ops = std::make_unique<evr::operations>(l, std::move(c));
		auto receives = [](evr::operations &o, int &ee) -> evr::task<> {
			auto m = co_await o.receive();
			CHECK(!m && m.error() == -ECANCELED);
			ee++;
		};
		auto takes = [](std::unique_ptr<evr::operations> &o,
				int &ee) -> evr::task<> {
			auto r = co_await o->next();
			CHECK(r && r->is_post());
			o.reset();
			ee++;
		};

		l.spawn(takes(ops, e));
		l.spawn(receives(*ops, e));
		CHECK(co_await ops->send() == 0);
		while (e < 2)
			co_await l.sleep_for(1ms);
	}(loop, std::move(a), ended));
	CHECK(loop.run() == 0 && ended == 2);
}

// ------------------------------------------------------------------- death

/* The other side of @fd, a process of its own, which is to be killed. */
template <class F> pid_t other_side(int fd[2], F &&f)
{
	pid_t pid;

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd));
	pid = fork();
	CHECK(pid >= 0);
	if (pid) {
		close(fd[1]);
		return pid;
	}
	close(fd[0]);
	alarm(60);
	auto c = evr::channel::accept_fd(fd[1]);
	CHECK(c);
	f(std::move(*c));
	for (;;)
		pause();
}

void kill_it(pid_t pid)
{
	CHECK(!kill(pid, SIGKILL) && waitpid(pid, nullptr, 0) == pid);
}

void death_receive()
{
	int fd[2];
	pid_t pid = other_side(fd, [](evr::channel c) {
		(void)c.send_value(u64{ 1 });
		(void)c.release();
	});
	auto c = evr::channel::connect_fd(fd[0]);
	evr::loop loop;
	bool done = false;

	CHECK(c);
	loop.spawn([](evr::loop &l, evr::channel ch, pid_t p,
		      bool &d) -> evr::task<> {
		evr::async_channel async(l, std::move(ch));
		u64 value = 0;

		CHECK(co_await async.receive_value(value) == 0 && value == 1);
		l.spawn([](evr::loop &ll, pid_t pp) -> evr::task<> {
			co_await ll.sleep_for(5ms);
			kill_it(pp);
		}(l, p));
		CHECK(co_await async.receive_value(value) == -EPIPE);
		CHECK(co_await async.receive_value(value) == -EPIPE);
		CHECK(async.get().peer() == EVERING_PEER_DIED);
		d = true;
	}(loop, std::move(*c), pid, done));
	CHECK(loop.run() == 0 && done);
}

void death_call()
{
	int fd[2];
	pid_t pid = other_side(fd, [](evr::channel c) {
		evr::loop loop;

		loop.spawn(answer_all(loop, std::move(c)));
		loop.run();
	});
	auto c = evr::channel::connect_fd(fd[0]);
	evr::loop loop;
	int ended = 0;

	CHECK(c);
	loop.spawn([](evr::loop &l, evr::channel ch, pid_t p,
		      int &e) -> evr::task<> {
		evr::operations ops(l, std::move(ch));
		auto asks = [](evr::operations &o, int &ee) -> evr::task<> {
			evr::buffer buf = o.get().allocate(64);
			auto got = co_await o.call(KEEP).lend(std::move(buf));
			CHECK(got.result == -EPIPE && !got.answered);
			CHECK(got.lent);
			ee++;
		};
		auto first = co_await ops.call(ECHO);

		CHECK(first);
		l.spawn(asks(ops, e));
		co_await l.sleep_for(5ms);
		kill_it(p);
		auto r = co_await ops.next();
		CHECK(!r && r.error() == -EPIPE && ops.error() == -EPIPE);
		auto last = co_await ops.call(ECHO);
		CHECK(last.result == -EPIPE);
		while (!e)
			co_await l.sleep_for(1ms);
		CHECK(arena_whole(ops.get()));
	}(loop, std::move(*c), pid, ended));
	CHECK(loop.run() == 0 && ended == 1);
}

/* What was sent before is received, and then the end is told. */
void death_message()
{
	int fd[2], sent[2];
	CHECK(pipe(sent) == 0);
	pid_t pid = other_side(fd, [&sent](evr::channel c) {
		evr::loop loop;

		loop.spawn([](evr::loop &l, evr::channel ch,
			      int told) -> evr::task<> {
			evr::operations ops(l, std::move(ch));

			// Nobody can answer it any more, when it is looked at.
			l.spawn([](evr::operations &o) -> evr::task<> {
				(void)co_await o.call(ECHO);
			}(ops));
			co_await l.sleep_for(1ms);
			for (u64 i = 0; i < 3; i++) {
				CHECK(co_await ops.post(
					      1, evr::bytes_of(i)) == 0);
				CHECK(co_await ops.send(text_of(
					      i, i * 4000)) == 0);
			}
			CHECK(write(told, "", 1) == 1);
			co_await l.sleep_for(evr::forever);
		}(loop, std::move(c), sent[1]));
		loop.run();
	});
	auto c = evr::channel::connect_fd(fd[0]);
	evr::loop loop;
	bool done = false;

	CHECK(c);
	loop.spawn([](evr::loop &l, evr::channel ch, pid_t p, int told,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(ch));
		auto first = co_await ops.receive();

		CHECK(first && first->size() == 0);
		l.spawn([](evr::loop &ll, pid_t pp, int t) -> evr::task<> {
			char byte;

			co_await ll.sleep_for(20ms);
			CHECK(read(t, &byte, 1) == 1);
			kill_it(pp);
		}(l, p, told));
		// Until it has gone, and all that it sent is here.
		auto got = co_await ops.call(1);
		CHECK(got.result == -EPIPE && ops.error() == -EPIPE);
		CHECK(co_await ops.send() == -EPIPE);
		CHECK(ops.try_send() == -EPIPE);
		CHECK(co_await ops.post(1) == -EPIPE);
		for (u64 i = 0; i < 3; i++) {
			auto r = co_await ops.next();
			CHECK(r && r->is_post() && r->as<u64>() == i);
		}
		CHECK((co_await ops.next()).error() == -EPIPE);
		for (u64 i = 1; i < 3; i++) {
			auto m = co_await ops.receive();
			CHECK(m && same(m->data(), text_of(i, i * 4000)));
		}
		CHECK((co_await ops.receive()).error() == -EPIPE);
		CHECK(arena_whole(ops.get()));
		d = true;
	}(loop, std::move(*c), pid, sent[0], done));
	CHECK(loop.run() == 0 && done);
	close(sent[0]);
	close(sent[1]);
}

/* One that waits for what will not come any more. */
void death_while_waiting()
{
	int fd[2];
	pid_t pid = other_side(fd, [](evr::channel c) {
		evr::loop loop;

		loop.spawn([](evr::loop &l, evr::channel ch) -> evr::task<> {
			evr::operations ops(l, std::move(ch), 1, 1, 1);

			CHECK(co_await ops.send() == 0);
			co_await l.sleep_for(evr::forever);
		}(loop, std::move(c)));
		loop.run();
	});
	auto c = evr::channel::connect_fd(fd[0]);
	evr::loop loop;
	int ended = 0;

	CHECK(c);
	loop.spawn([](evr::loop &l, evr::channel ch, pid_t p,
		      int &e) -> evr::task<> {
		evr::operations ops(l, std::move(ch));
		auto receives = [](evr::operations &o, int &n) -> evr::task<> {
			CHECK((co_await o.receive()).error() == -EPIPE);
			n++;
		};
		auto sends = [](evr::operations &o, int &n,
				std::size_t size) -> evr::task<> {
			text t(size);

			CHECK(co_await o.send(t) == -EPIPE);
			n++;
		};
		auto posts = [](evr::operations &o, int &n) -> evr::task<> {
			evr::buffer buf = o.get().allocate(64);

			CHECK(co_await o.post(1, {}, buf) == -EPIPE && buf);
			n++;
		};

		CHECK(co_await ops.receive());
		// All the peer stores; those that follow wait.
		CHECK(co_await ops.send() == 0);
		l.spawn(receives(ops, e));
		l.spawn(sends(ops, e, 8));
		l.spawn(sends(ops, e, 5000));
		l.spawn(posts(ops, e));
		co_await l.sleep_for(5ms);
		CHECK(e == 0);
		kill_it(p);
		while (e < 4)
			co_await l.sleep_for(1ms);
		CHECK(arena_whole(ops.get()));
	}(loop, std::move(*c), pid, ended));
	CHECK(loop.run() == 0 && ended == 4);
}

/* What no table sends. */
void nonsense()
{
	auto [a, b] = make_pair();
	evr::loop loop;
	bool done = false;

	loop.spawn([](evr::loop &l, evr::channel c, evr::channel &peer,
		      bool &d) -> evr::task<> {
		evr::operations ops(l, std::move(c));
		std::array<std::byte, 40> entry;

		entry.fill(std::byte(0xa5));
		CHECK(peer.send(entry) == 0);
		auto r = co_await ops.next();
		CHECK(!r && r.error() == -EPROTO && ops.error() == -EPROTO);
		d = true;
	}(loop, std::move(a), b, done));
	CHECK(loop.run() == 0 && done);
}

/* The worker of the header's first comment, and its clients. */
evr::task<> serve(evr::loop &loop, evr::channel channel)
{
	evr::operations ops(loop, std::move(channel));

	while (auto request = co_await ops.next())
		ops.reply(*request, 0, request->contents());
}

evr::task<> work(evr::loop &loop, evr::listener &listener)
{
	evr::acceptor acceptor(loop, listener);

	while (auto channel = co_await acceptor.accept())
		loop.spawn(serve(loop, std::move(*channel)));
}

void worker()
{
	char name[64];

	std::snprintf(name, sizeof(name), "@cxx-%d", getpid());
	auto listener = evr::listener::listen(name);
	CHECK(listener);
	pid_t pid = fork();
	if (!pid) {
		alarm(60);
		for (u64 i = 0; i < 20; i++) {
			auto c = evr::channel::connect(name);
			evr::loop loop;

			CHECK(c);
			loop.spawn([](evr::loop &l, evr::channel ch,
				      u64 n) -> evr::task<> {
				evr::operations ops(l, std::move(ch));
				auto got = co_await ops.call(
					0, evr::bytes_of(n));
				CHECK(got.as<u64>() == n);
			}(loop, std::move(*c), i));
			CHECK(loop.run() == 0);
		}
		_exit(0);
	}
	evr::loop loop;
	int status = -1;

	loop.spawn(work(loop, *listener));
	loop.spawn([](evr::loop &l, pid_t p, int &s) -> evr::task<> {
		while (waitpid(p, &s, WNOHANG) == 0)
			co_await l.sleep_for(1ms);
		l.stop();
	}(loop, pid, status));
	CHECK(loop.run() == 0 && status == 0);
}

/* Asks what it is told, and waits for the answer: the child of the tests of servers. */
pid_t ask_server(const char *name, u64 times, std::uint32_t opcode)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	alarm(60);
	evr::params wish;
	evr::loop loop;

	wish.flags = EVERING_AWAIT;
	auto c = evr::channel::connect(name, wish);
	CHECK(c);
	loop.spawn([](evr::loop &l, evr::channel ch, u64 n,
		      std::uint32_t code) -> evr::task<> {
		evr::operations ops(l, std::move(ch));

		for (u64 i = 0; i < n; i++) {
			std::vector<std::byte> data(i * 700, std::byte(i));
			auto got = co_await ops.call(code, data);
			evr::bytes came = got.contents();

			/* Those that get none are asked with other codes. */
			CHECK(code != 1 ||
			      (got && std::equal(came.begin(), came.end(),
						 data.begin(), data.end())));
		}
	}(loop, std::move(*c), times, opcode));
	CHECK(loop.run() == 0);
	_exit(0);
}

/* What is kept of a client: how many requests it has had. */
struct kept {
	static inline int alive = 0;
	u64 n = 0;

	kept()
	{
		alive++;
	}
	~kept()
	{
		alive--;
	}
};

/* A coroutine a request, of several clients at once; and the end, in order. */
void server()
{
	char name[64];
	evr::loop loop;
	unsigned int asked = 0;
	int status[3] = { -1, -1, -1 }, ended = 0;
	pid_t pids[3];

	std::snprintf(name, sizeof(name), "@cxx-server-%d", getpid());
	for (pid_t &pid : pids)
		pid = ask_server(name, 10, 1);
	evr::server s(loop, name, evr::server_params(),
		      [&](evr::exchange x) -> evr::task<> {
			      CHECK(x.opcode() == 1 && !x.cancelled());
			      auto *mine = x.keep<kept>();
			      CHECK(mine && mine == x.keep<kept>());
			      CHECK(mine->n++ * 700 == x.contents().size());
			      CHECK(!x.keep<int>() && kept::alive <= 3);
			      co_await loop.sleep_for(1ms);
			      CHECK(x.reply(0, x.contents()) == 0);
			      CHECK(x.gone() && x.reply(0) == -ESTALE);
			      CHECK(!x.keep<kept>());
			      asked++;
		      });
	CHECK(s.error() == 0);
	loop.spawn([](evr::loop &l, evr::server &of, pid_t *p,
		      int *st) -> evr::task<> {
		for (int i = 0; i < 3; i++)
			while (waitpid(p[i], &st[i], WNOHANG) == 0)
				co_await l.sleep_for(1ms);
		CHECK(of.stop(1s) == 0);
	}(loop, s, pids, status));
	loop.spawn([](evr::server &of, int &e) -> evr::task<> {
		e = co_await of.ended();
	}(s, ended));
	CHECK(loop.run() == 0 && ended == -ESHUTDOWN);
	CHECK(!status[0] && !status[1] && !status[2] && asked == 30);
	CHECK(kept::alive == 0);
	/* What it was, it stays; and a name in use is an error. */
	evr::server one(loop, name, evr::server_params(),
			[](evr::exchange) -> evr::task<> { co_return; });
	evr::server two(loop, name, evr::server_params(),
			[](evr::exchange) -> evr::task<> { co_return; });
	CHECK(!one.error() && two.error() == -EADDRINUSE);
}

/* The client dies, the time runs out, or the server goes, before it is answered. */
void server_gone()
{
	char name[64];
	evr::server_params how;
	std::optional<evr::exchange> kept;
	unsigned int late = 0;
	pid_t pid;

	std::snprintf(name, sizeof(name), "@cxx-gone-%d", getpid());
	pid = ask_server(name, 1, 2);
	{
		evr::loop loop;
		evr::server s(loop, name, how,
			      [&](evr::exchange x) -> evr::task<> {
				      CHECK(!x.gone());
				      if (!kept)
					      kill(pid, SIGKILL);
				      kept = std::move(x);
				      while (!kept->gone())
					      co_await loop.sleep_for(1ms);
				      CHECK(kept->reply(0) == -ESTALE);
				      CHECK(kept->contents().empty());
				      CHECK(!kept->client());
				      loop.stop();
			      });
		loop.spawn(s.run());
		CHECK(loop.run() == 0 && kept && kept->gone());
		CHECK(waitpid(pid, nullptr, 0) == pid);
	}
	kept.reset();
	how.request_ns = 10000000;
	pid = ask_server(name, 2, 3);
	{
		evr::loop loop;
		evr::server s(loop, name, how,
			      [&](evr::exchange x) -> evr::task<> {
				      while (!x.gone())
					      co_await loop.sleep_for(1ms);
				      late++;
				      loop.stop();
			      });
		loop.spawn(s.run());
		CHECK(loop.run() == 0 && late == 1);
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, nullptr, 0) == pid);
	}
	pid = ask_server(name, 1, 4);
	{
		evr::loop loop;
		evr::server s(loop, name, evr::server_params(),
			      [&](evr::exchange x) -> evr::task<> {
				      kept = std::move(x);
				      loop.stop();
				      co_return;
			      });
		loop.spawn(s.run());
		CHECK(loop.run() == 0 && kept && !kept->gone());
	}
	CHECK(kept->gone());
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, nullptr, 0) == pid);
}

/* A client that comes before its server, both in one loop. */
void comes_later()
{
	char name[64];
	evr::loop loop;
	bool done = false;

	std::snprintf(name, sizeof(name), "@cxx-later-%d", getpid());
	loop.spawn([](evr::loop &l, const char *at, bool &d) -> evr::task<> {
		auto none = co_await evr::connect(l, at);
		CHECK(!none && none.error() == -ECONNREFUSED);
		auto wish = evr::params();
		wish.flags = EVERING_AWAIT;
		none = co_await evr::connect(l, at, wish, 1ms);
		CHECK(!none && none.error() == -ETIMEDOUT);
		none = co_await evr::connect(l, at, wish, evr::nowait);
		CHECK(!none && none.error() == -EINVAL);
		auto c = co_await evr::connect(l, at, wish);
		CHECK(c);
		evr::operations ops(l, std::move(*c));
		auto got = co_await ops.call(0, evr::bytes_of(u64{ 7 }));
		CHECK(got.as<u64>() == 7);
		d = true;
		l.stop();
	}(loop, name, done));
	loop.spawn([](evr::loop &l, const char *at) -> evr::task<> {
		co_await l.sleep_for(20ms);
		auto made = evr::listener::listen(at);
		CHECK(made);
		auto shared = made->share();
		CHECK(shared);
		CHECK(!evr::listener::adopt(-1));
		CHECK(evr::listener::activated().error() == -ENOENT);
		co_await work(l, *shared);
	}(loop, name));
	CHECK(loop.run() == 0 && done);
}

/*
 * All there is of everything, in static objects, each in the midst of something, in a
 * process that forks children which do nothing but exit().
 */
struct busy {
	int fd = eventfd(0, EFD_CLOEXEC);
	evr::channel plain, plain_peer;
	evr::buffer buffer;
	evr::result<evr::listener> listener;
	evr::loop loop;
	evr::channel other; // of the async_channel
	evr::message kept; // short or long
	int received = 0, readable = 0, answered = 0, held = 0, got = 0,
	    wanted = 1;

	explicit busy(const char *path) : listener(evr::listener::listen(path))
	{
		auto [a, b] = make_pair();

		plain = std::move(a);
		plain_peer = std::move(b);
		buffer = plain.allocate(100);
		CHECK(listener && buffer);
	}
	~busy()
	{
		close(fd);
	}
};

evr::task<> busy_receive(busy &x, evr::channel c)
{
	evr::async_channel async(x.loop, std::move(c));

	for (u64 value; co_await async.receive_value(value) == 0;)
		x.received++;
}

evr::task<> busy_descriptor(busy &x)
{
	evr::descriptor d(x.loop, x.fd);

	while (co_await d.readable() == 0) {
		eventfd_t n;

		CHECK(!eventfd_read(x.fd, &n));
		x.readable++;
	}
}

evr::task<> busy_call(busy &x, evr::operations *&ops)
{
	evr::buffer buf = ops->get().allocate(1000);
	auto got = co_await ops->call(KEEP).lend(std::move(buf));

	CHECK(got && got.lent.size() == 1000);
	x.answered++;
}

/* What is destroyed before those that wait for it. */
evr::task<> busy_table(busy &x, evr::channel c, evr::operations *&to)
{
	evr::operations ops(x.loop, std::move(c));

	to = &ops;
	(void)co_await ops.next();
	CHECK(false);
}

/* Keeps the last one that it has received. */
evr::task<> busy_messages(busy &x, evr::channel c)
{
	// So few stored that the peer is told of each that is freed.
	evr::operations ops(x.loop, std::move(c), 8, 8, 4);

	x.loop.spawn([](evr::operations &o) -> evr::task<> {
		// The peer stores one, and takes none.
		CHECK(co_await o.send() == 0);
		(void)co_await o.send();
		CHECK(false);
	}(ops));
	while (auto m = co_await ops.receive()) {
		x.kept = std::move(*m);
		x.got++;
	}
}

/* As many as are wanted: long ones, of all its arena, and short ones by turns. */
evr::task<> busy_send(busy &x, evr::channel c)
{
	evr::operations ops(x.loop, std::move(c), 0, 0, 1);

	for (int sent = 0;;) {
		if (sent < x.wanted) {
			text t = text_of(1, sent % 2 ? 3 : 65536);

			CHECK(co_await ops.send(t) == 0);
			sent++;
		}
		co_await x.loop.sleep_for(1ms);
	}
}

void only_exits()
{
	pid_t pid = fork();
	int status = -1;

	CHECK(pid >= 0);
	if (!pid)
		std::exit(0);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* Goes on until @done, for which the peers of the loop's do what is to be done. */
template <class F> void run_until(busy &x, F done)
{
	x.loop.spawn([](busy &xx, F &d) -> evr::task<> {
		while (!d())
			co_await xx.loop.sleep_for(1ms);
		xx.loop.stop();
	}(x, done));
	CHECK(x.loop.run() == 0);
}

void forks(const char *path)
{
	static busy x(path);
	static evr::operations *ops;
	auto [a, b] = make_pair();
	auto [c, d] = make_pair();
	auto [e, f] = make_pair();
	u64 value = 1;

	x.loop.spawn(busy_messages(x, std::move(e)));
	x.loop.spawn(busy_send(x, std::move(f)));
	x.other = std::move(b);
	x.loop.spawn(busy_receive(x, std::move(a)));
	x.loop.spawn(busy_descriptor(x));
	x.loop.spawn(answer_all(x.loop, std::move(d), &x.held));
	// Older than the table that it has a call with.
	auto later = [](busy &xx, evr::operations *&o) -> evr::task<> {
		while (!o)
			co_await xx.loop.sleep_for(1ms);
		co_await busy_call(xx, o);
	};
	x.loop.spawn(later(x, ops));
	x.loop.spawn(busy_table(x, std::move(c), ops));
	run_until(x, [] { return x.held == 1 && x.got == 1; });
	only_exits();

	// Nothing of it has touched the parent's.
	CHECK(x.plain_peer.peer() == EVERING_PEER_ALIVE);
	CHECK(x.plain.send_value(value) == 0);
	CHECK(x.plain_peer.receive_value(value, 10s) == 0);
	CHECK(access(path, F_OK) == 0);
	CHECK(x.other.send_value(value) == 0 && !eventfd_write(x.fd, 1));
	run_until(x, [] { return x.received == 1 && x.readable == 1; });
	// Younger than the table; with it, both are answered.
	x.loop.spawn(busy_call(x, ops));
	run_until(x, [] { return x.answered == 2; });
	CHECK(same(x.kept.data(), text_of(1, 65536)));
	// Its sender has room when it is freed, and for the short one at once.
	x.kept.reset();
	x.wanted = 4;
	run_until(x, [] { return x.got == 4; });
	CHECK(same(x.kept.data(), text_of(1, 3)));
	x.loop.spawn(busy_call(x, ops));
	run_until(x, [] { return x.held == 3; });
	only_exits();
	CHECK(x.other.send_value(value) == 0);
	x.loop.spawn(busy_call(x, ops));
	run_until(x, [] { return x.answered == 4 && x.received == 2; });
}

void fork_exits()
{
	char path[64];
	int status = -1;

	std::snprintf(path, sizeof(path), "/tmp/cxx-forks-%d", getpid());
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		alarm(60);
		forks(path);
		std::exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(access(path, F_OK));
}

// -------------------------------------------------------------- successors

/* A process that accepts who has had a peer before, and sends back what it receives. */
pid_t echo_at(const char *name)
{
	pid_t pid = fork();
	u64 value;

	CHECK(pid >= 0);
	if (pid)
		return pid;
	alarm(60);
	{
		auto l = evr::listener::listen(name);
		CHECK(l);
		auto c = l->accept();
		CHECK(c && c->predecessors() == 1);
		while (!c->receive_value(value))
			CHECK(c->send_value(value) == 0);
	}
	_exit(0);
}

void replaces()
{
	char name[64];
	u64 got = 0;
	int status;

	std::snprintf(name, sizeof(name), "@cxx-replaces-%d", getpid());
	pid_t pid = echo_at(name);
	auto [a, b] = make_pair();
	evr::buffer kept = a.allocate(64);

	CHECK(kept);
	std::memset(kept.span().data(), 7, 64);
	CHECK(a.send_value(u64{ 1 }) == 0 && a.send_value(u64{ 2 }) == 0);
	CHECK(b.receive_value(got) == 0 && got == 1);
	CHECK(a.replace(name) == -EBUSY && a.predecessors() == 0);
	b.close();
	CHECK(a.replace(name, evr::nowait, 1u << 31) == -EINVAL);
	CHECK(a.replace("@cxx-nobody", evr::nowait) == -EAGAIN);
	CHECK(a.replace(name, 10s) == 0 && a.predecessors() == 1);
	CHECK(a.receive_value(got, 10s) == 0 && got == 2);
	CHECK(kept.span()[63] == std::byte(7));
	kept.reset();
	CHECK(arena_whole(a));
	a.close();
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

struct survivor {
	evr::loop loop;
	char name[64];
	evr::answer begun, reissued, unseen, late;
	unsigned int asked = 0, ended = 0, served = 0, agains = 0;

	explicit survivor(const char *what)
	{
		std::snprintf(name, sizeof(name), "@cxx-%s-%d", what, getpid());
	}
};

evr::task<> ask_as(survivor &s, evr::operations::asked asks, evr::answer &got)
{
	s.asked++;
	got = co_await std::move(asks);
	s.ended++;
}

/* Answers all. */
evr::task<> succeed(survivor &s, evr::listener &listener)
{
	auto c = co_await evr::acceptor(s.loop, listener).accept();

	CHECK(c && c->predecessors() == 1);
	evr::operations ops(s.loop, std::move(*c));
	while (auto r = co_await ops.next()) {
		s.served++;
		s.agains += r->again();
		CHECK(ops.reply(*r, 9) == 0);
	}
	CHECK(ops.error() == -EPIPE);
}

/* The first server: takes up three requests, asks itself for something, and goes. */
evr::task<> die(survivor &s, evr::operations &ops, evr::channel c)
{
	const unsigned int flags = EVERING_LEND | EVERING_AGAIN;
	evr::operations::asked begun = ops.call(KEEP);
	evr::operations::asked late = ops.call(KEEP).timeout(20ms);
	evr::operations::asked lent = ops.call(KEEP).reissue().lend(
		ops.get().allocate(64));
	::evering_request r;
	::evering_ops *table;
	::evering_op op = {};

	CHECK(evering_ops_open(c.get(), nullptr, &table) == 0);
	s.loop.spawn(ask_as(s, std::move(begun), s.begun));
	s.loop.spawn(ask_as(s, std::move(lent), s.reissued));
	s.loop.spawn(ask_as(s, std::move(late), s.late));
	for (int n = 0; n < 3;) {
		if (evering_op_next(table, &r, EVERING_NOWAIT) == 0) {
			CHECK(!(r.flags & flags & ~EVERING_LEND));
			n++;
		} else {
			co_await s.loop.sleep_for(1ms);
		}
	}
	evr::buffer given = c.allocate(64);
	op.flags = EVERING_GIVE;
	op.buf = given.release();
	op.buf_len = 64;
	CHECK(evering_op_submit(table, &op, nullptr, EVERING_NOWAIT) == 0);
	s.loop.spawn(ask_as(s, ops.call(KEEP), s.unseen));
	while (s.asked < 4)
		co_await s.loop.sleep_for(1ms);
}

evr::task<> survive(survivor &s, evr::listener &listener)
{
	auto [a, b] = make_pair();
	evr::operations ops(s.loop, std::move(a), 8, 8, 8, EVERING_REPLACEABLE);

	CHECK(!ops.error());
	CHECK(co_await ops.replace(s.name, 1ms) == -EBUSY);
	co_await die(s, ops, std::move(b));
	while (!ops.error())
		co_await s.loop.sleep_for(1ms);
	// The one that the dead had asked for nobody has taken.
	auto none = co_await ops.next();
	CHECK(!none && none.error() == -EPIPE);
	auto refused = co_await ops.call(ECHO).lend(ops.get().allocate(64));
	CHECK(refused.result == -EPIPE && refused.lent);
	refused.lent.reset();
	// Nobody else runs out of time, and nobody else has an outcome.
	while (!s.ended)
		co_await s.loop.sleep_for(1ms);
	CHECK(s.ended == 1 && s.late.result == -ETIMEDOUT);
	CHECK(co_await ops.replace("@cxx-nobody", 1ms) == -ETIMEDOUT);
	CHECK(co_await ops.replace(s.name, evr::nowait) == -EINVAL);
	CHECK(ops.error() == -EPIPE);

	s.loop.spawn(succeed(s, listener));
	CHECK(co_await ops.replace(s.name, 10s) == 0);
	CHECK(!ops.error() && ops.get().predecessors() == 1);
	while (s.ended < 4)
		co_await s.loop.sleep_for(1ms);
	CHECK(s.begun.result == -EOWNERDEAD && s.begun.begun);
	CHECK(s.reissued && s.reissued.result == 9);
	CHECK(s.unseen && s.unseen.result == 9);
	CHECK(s.served == 2 && s.agains == 1);
	// What is lent comes back; what is given cannot be begun twice.
	CHECK(s.reissued.lent && s.reissued.lent.size() == 64);
	s.reissued.lent.reset();
	auto wrong = co_await ops.call(KEEP).reissue().give(
		ops.get().allocate(64));
	CHECK(wrong.result == -EINVAL && wrong.lent);
	wrong.lent.reset();
	// What does not fit an entry is lent as well.
	std::vector<std::byte> much(1000);
	auto last = co_await ops.call(KEEP, much).reissue();
	CHECK(last && last.result == 9 && s.served == 3);
	CHECK(arena_whole(ops.get()));
}

/* Calls of coroutines outlive their server. */
void successors()
{
	survivor s("successors");
	auto listener = evr::listener::listen(s.name);

	CHECK(listener);
	s.loop.spawn(survive(s, *listener));
	CHECK(s.loop.run() == 0 && s.ended == 4);
}

/* And so does a channel in a loop; one that waits for a successor can be destroyed. */
void async_successors()
{
	survivor s("async-successors");
	auto listener = evr::listener::listen(s.name);
	bool waits = false;

	CHECK(listener);
	s.loop.spawn([](survivor &ss, evr::listener &l, bool &w) -> evr::task<> {
		auto [a, b] = make_pair();
		evr::async_channel c(ss.loop, std::move(a));
		auto echo = [](survivor &sss, evr::listener &ll) -> evr::task<> {
			auto met = co_await evr::acceptor(sss.loop, ll).accept();
			CHECK(met);
			evr::async_channel d(sss.loop, std::move(*met));
			u64 v = 0;
			while (co_await d.receive_value(v) == 0)
				CHECK(co_await d.send_value(v) == 0);
		};
		u64 got = 0;

		for (u64 i = 0; i < 3; i++) {
			b.close();
			CHECK(co_await c.receive_value(got) == -EPIPE);
			ss.loop.spawn(echo(ss, l));
			CHECK(co_await c.replace(ss.name, 10s) == 0);
			CHECK(co_await c.send_value(i) == 0);
			CHECK(co_await c.receive_value(got) == 0 && got == i);
			CHECK(c.get().predecessors() == i + 1);
			// Of whom this does not know that it goes.
			CHECK(co_await c.replace("@cxx-nobody", 1ms,
						 EVERING_REPLACE_FORCE) ==
			      -ETIMEDOUT);
		}
		w = true;
		co_await c.replace("@cxx-nobody");
		CHECK(!"destroyed");
	}(s, *listener, waits));
	s.loop.spawn([](evr::loop &l, bool &w) -> evr::task<> {
		while (!w)
			co_await l.sleep_for(1ms);
		co_await l.sleep_for(1ms);
		l.stop();
	}(s.loop, waits));
	CHECK(s.loop.run() == 0 && waits);
}

const struct {
	const char *name;
	void (*run)();
} tests[] = {
	{ "owners", owners },
	{ "buffers", buffers },
	{ "in-place", in_place },
	{ "results", results },
	{ "tasks", tasks },
#ifdef __cpp_exceptions
	{ "exceptions", exceptions },
#endif
	{ "loop-destroyed", loop_destroyed },
	{ "sleeps", sleeps },
	{ "times", times },
	{ "endless", endless },
	{ "signals", signals },
	{ "broken-loops", broken_loops },
	{ "unwatched", unwatched },
	{ "events-for-nobody", events_for_nobody },
	{ "publishes", publishes },
	{ "wakes", wakes },
	{ "admits", admits },
	{ "lanes", lanes },
	{ "groups", groups },
	{ "receive", receive },
	{ "both-ways", both_ways },
	{ "turns", turns },
	{ "idle", idle },
	{ "calls", calls },
	{ "failures", failures },
	{ "answers-in-place", answers_in_place },
	{ "room", room },
	{ "cancel", cancel },
	{ "cancel-too-late", cancel_too_late },
	{ "timeout", timeout },
	{ "abandoned", abandoned },
	{ "destroyed", destroyed },
	{ "table-destroyed", table_destroyed },
	{ "messages", messages },
	{ "message-order", message_order },
	{ "message-room", message_room },
	{ "message-turns", message_turns },
	{ "posts", posts },
	{ "posts-untaken", posts_untaken },
	{ "call-lengths", call_lengths },
	{ "call-without-room", call_without_room },
	{ "response-waits", response_waits },
	{ "table-destroyed-before", table_destroyed_before },
	{ "death-receive", death_receive },
	{ "death-call", death_call },
	{ "death-message", death_message },
	{ "death-while-waiting", death_while_waiting },
	{ "nonsense", nonsense },
	{ "worker", worker },
	{ "server", server },
	{ "server-gone", server_gone },
	{ "comes_later", comes_later },
	{ "replaces", replaces },
	{ "successors", successors },
	{ "async-successors", async_successors },
	{ "fork-exits", fork_exits },
};

} // namespace

int main(int argc, char **argv)
{
	std::setvbuf(stdout, nullptr, _IOLBF, 0);
	for (const auto &test : tests) {
		if (argc < 2) {
			std::puts(test.name);
			continue;
		}
		if (std::strcmp(argv[1], test.name))
			continue;
		int before = descriptors();

		alarm(60);
		test.run();
		CHECK(descriptors() == before);
		return 0;
	}
	return argc < 2 ? 0 : 2;
}
