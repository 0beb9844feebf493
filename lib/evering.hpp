// SPDX-License-Identifier: MIT
/*
 * evering.hpp: channels in C++20.  It is a header only, over <evering.h>, for g++ 12
 * and later.  It works with and without exceptions.
 *
 * The names are in namespace evr, because ::evering is a struct of C.
 *
 *	channel, listener, buffer	own what they are named after; move only
 *	group				one thread waits for many channels; move only
 *	loop				coroutines on one thread, over epoll
 *	task<T>				a lazy coroutine that one other awaits
 *	async_channel			co_await receive() and send()
 *	operations			co_await call(), next(), send() and receive()
 *	message				what receive() has received
 *	descriptor, acceptor		co_await any descriptor, and a peer
 *	server				any number of clients, a coroutine for each request
 *
 * A worker that serves any number of channels, with a coroutine for each:
 *
 *	evr::task<> serve(evr::loop &loop, evr::channel channel)
 *	{
 *		evr::operations ops(loop, std::move(channel));
 *
 *		while (auto request = co_await ops.next())
 *			ops.reply(*request, 0, request->contents());
 *	}
 *
 *	evr::task<> work(evr::loop &loop, evr::listener &listener)
 *	{
 *		evr::acceptor acceptor(loop, listener);
 *
 *		while (auto channel = co_await acceptor.accept())
 *			loop.spawn(serve(loop, std::move(*channel)));
 *	}
 *
 *	loop.spawn(work(loop, listener));
 *	loop.run();
 *
 * With a coroutine for each request, a server has the channels, with the turns, limits
 * and times of struct evering_server_params:
 *
 *	evr::server server(loop, path, evr::server_params(),
 *			   [&](evr::exchange x) -> evr::task<> {
 *				   co_await loop.sleep_for(1s);
 *				   x.reply(0, x.contents());
 *			   });
 *
 *	loop.spawn(server.run());
 *	loop.run();
 *
 * Errors are negative errno values, as in C: an int, or in a result<T>. Times are those
 * of std::chrono; a time that is too long to count in nanoseconds is forever.  What is
 * sent is a span of bytes.
 *
 * Rules
 *
 * - Only the loop's thread uses what belongs to a loop.  Such an object lives no longer
 *   than the loop, and cannot be moved, so make it where it is used: in a coroutine.
 * - A buffer lives no longer than its channel, a message no longer than its operations.
 * - A process made by fork() uses none of its parent's objects, except listeners.
 *   Destructors that it runs, of static objects in exit() for instance, do not affect
 *   the parent.
 * - To destroy a coroutine that waits for an operation cancels and detaches the
 *   operation.
 * - No coroutine is resumed inside a callback of the library.  So a coroutine may do
 *   anything, even destroy its table.
 * - A coroutine that finds something each time it asks has to wait for its turn after
 *   some times, so that the others run.
 */
#ifndef EVERING_HPP
#define EVERING_HPP

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "evering.hpp takes C++20: compile with -std=c++20"
#endif

#include <algorithm>
#include <array>
#include <chrono>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <evering.h>

#pragma GCC diagnostic push
/* g++ 12 warns about code that it generates for a coroutine. */
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"

namespace evr
{

using std::chrono::nanoseconds;
using bytes = std::span<const std::byte>;
using writable_bytes = std::span<std::byte>;

inline constexpr nanoseconds nowait{ EVERING_NOWAIT };
inline constexpr nanoseconds forever{ EVERING_WAIT_FOREVER };

/*
 * How long to wait or to sleep: any duration of whole nanoseconds or a coarser unit.
 * nanoseconds::max(), or a duration that nanoseconds cannot count, is forever.
 */
class wait_time
{
    public:
	template <class Rep, class Period>
		requires std::is_convertible_v<
			std::chrono::duration<Rep, Period>, nanoseconds>
	constexpr wait_time(std::chrono::duration<Rep, Period> time) noexcept
	{
		using wide = std::common_type_t<
			std::chrono::duration<Rep, Period>,
			std::chrono::duration<std::int64_t, Period>>;
		constexpr wide most = std::chrono::duration_cast<wide>(
			nanoseconds::max());

		if (time < time.zero())
			ns_ = wide(time) < -most ?
				      nanoseconds::min().count() :
				      nanoseconds(time).count();
		else if (wide(time) <= most)
			ns_ = nanoseconds(time).count();
		if (ns_ == nanoseconds::max().count())
			ns_ = EVERING_WAIT_FOREVER;
	}
	/* The time for C: nanoseconds, or EVERING_WAIT_FOREVER. */
	constexpr std::int64_t count() const noexcept
	{
		return ns_;
	}

    private:
	std::int64_t ns_ = EVERING_WAIT_FOREVER;
};

template <class T>
concept plain = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>;

/* The bytes of a value, for data to be sent. */
template <plain T> bytes bytes_of(const T &value) noexcept
{
	return std::as_bytes(std::span<const T, 1>(&value, 1));
}

/* The value that is in some bytes, if their number is its size. */
template <plain T> std::optional<T> value_of(bytes from) noexcept
{
	T value;

	if (from.size() != sizeof(value))
		return std::nullopt;
	std::memcpy(static_cast<void *>(&value), from.data(), sizeof(value));
	return value;
}

/* A negative errno, which converts to a result. */
struct failure {
	int error;
};

/* A value, or a negative errno. */
template <class T> class [[nodiscard]] result
{
    public:
	result(T value) noexcept : value_(std::move(value))
	{
	}
	result(failure why) noexcept : error_(why.error)
	{
	}
	explicit operator bool() const noexcept
	{
		return value_.has_value();
	}
	/* 0: there is a value. */
	int error() const noexcept
	{
		return error_;
	}
	T &operator*() noexcept
	{
		return *value_;
	}
	T *operator->() noexcept
	{
		return &*value_;
	}
	/* The value, or std::system_error; without exceptions, or std::abort(). */
	T value() &&
	{
		if (!value_) {
#ifdef __cpp_exceptions
			throw std::system_error(-error_,
						std::generic_category());
#else
			std::abort();
#endif
		}
		return std::move(*value_);
	}

    private:
	std::optional<T> value_;
	int error_ = 0;
};

/* ---------------------------------------------------------------- channels */

/* How to make a channel; see struct evering_params. */
struct params : ::evering_params {
	params() noexcept : ::evering_params EVERING_PARAMS_INIT
	{
	}
};

/* The most that a peer may ask for; see struct evering_params. */
struct limits : ::evering_params {
	limits() noexcept : ::evering_params EVERING_LIMITS_INIT
	{
	}
};

/*
 * Which clients a listener admits, and how much each user may have; see struct
 * evering_admission.
 */
struct admission : ::evering_admission {
	admission() noexcept : ::evering_admission EVERING_ADMISSION_INIT
	{
	}
};

/*
 * A buffer of this side's arena, or one that the peer has given.  The destructor frees
 * it.
 */
class buffer
{
    public:
	buffer() noexcept = default;
	buffer(::evering *ev, void *at, std::size_t size) noexcept
		: ev_(ev), at_(static_cast<std::byte *>(at)), size_(size)
	{
	}
	buffer(buffer &&other) noexcept
		: ev_(other.ev_), at_(std::exchange(other.at_, nullptr)),
		  size_(std::exchange(other.size_, 0))
	{
	}
	buffer &operator=(buffer &&other) noexcept
	{
		if (this != &other) {
			reset();
			ev_ = other.ev_;
			size_ = std::exchange(other.size_, 0);
			at_ = std::exchange(other.at_, nullptr);
		}
		return *this;
	}
	~buffer()
	{
		reset();
	}
	explicit operator bool() const noexcept
	{
		return at_ != nullptr;
	}
	/*
	 * A buffer that the peer has given is writable only if the channel has a shared
	 * arena.
	 */
	writable_bytes span() const noexcept
	{
		return { at_, size_ };
	}
	std::size_t size() const noexcept
	{
		return size_;
	}
	void reset() noexcept
	{
		if (at_)
			(void)evering_free(ev_, at_);
		at_ = nullptr;
		size_ = 0;
	}
	/* From now on the buffer belongs to the caller, or to the peer. */
	void *release() noexcept
	{
		size_ = 0;
		return std::exchange(at_, nullptr);
	}

    private:
	::evering *ev_ = nullptr;
	std::byte *at_ = nullptr;
	std::size_t size_ = 0;
};

/* An endpoint.  The thread rules are those of <evering.h>. */
class channel
{
    public:
	channel() noexcept = default;
	explicit channel(::evering *ev) noexcept : ev_(ev)
	{
	}

	static result<channel> connect(const char *path,
				       const ::evering_params &wish = params(),
				       wait_time timeout = forever) noexcept
	{
		::evering *ev;
		int ret = evering_connect(path, &wish, timeout.count(), &ev);

		return made(ret, ev);
	}
	/*
	 * Several channels in one meeting, 1 to @count of them, such as one for each
	 * thread.
	 */
	static result<std::vector<channel>>
	connect_many(const char *path, unsigned int count,
		     const ::evering_params &wish = params(),
		     wait_time timeout = forever)
	{
		std::array<::evering *, EVERING_MAX_LANES> ev;
		std::vector<channel> lanes(std::min(count, EVERING_MAX_LANES));
		int ret = evering_connect_many(path, &wish, count,
					       timeout.count(), ev.data());

		if (ret < 0)
			return failure{ ret };
		own(lanes, ev.data(), static_cast<std::size_t>(ret));
		return lanes;
	}
	/*
	 * From now on the first @count of @ev belong to @lanes, which has room for
	 * them.
	 */
	static void own(std::vector<channel> &lanes, ::evering *const *ev,
			std::size_t count) noexcept
	{
		for (std::size_t i = 0; i < count; i++)
			lanes[i] = channel(ev[i]);
		lanes.erase(lanes.begin() + static_cast<std::ptrdiff_t>(count),
			    lanes.end());
	}
	/* If this succeeds, @fd belongs to the channel. */
	static result<channel>
	connect_fd(int fd, const ::evering_params &wish = params(),
		   wait_time timeout = forever) noexcept
	{
		::evering *ev;
		int ret = evering_connect_fd(fd, &wish, timeout.count(), &ev);

		return made(ret, ev);
	}
	static result<channel> accept_fd(int fd,
					 const ::evering_params &most = limits(),
					 wait_time timeout = forever) noexcept
	{
		::evering *ev;
		int ret = evering_accept_fd(fd, &most, timeout.count(), &ev);

		return made(ret, ev);
	}
	static result<std::pair<channel, channel>>
	pair(const ::evering_params &wish = params()) noexcept
	{
		::evering *ev[2];
		int ret = evering_pair(&wish, ev);

		if (ret)
			return failure{ ret };
		return std::pair(channel(ev[0]), channel(ev[1]));
	}

	explicit operator bool() const noexcept
	{
		return ev_ != nullptr;
	}
	::evering *get() const noexcept
	{
		return ev_.get();
	}
	::evering *release() noexcept
	{
		return ev_.release();
	}
	void close() noexcept
	{
		ev_.reset();
	}

	/* For a channel that was made alone, lanes is 1. */
	evering_lane lane() const noexcept
	{
		evering_lane one;

		evering_get_lane(get(), &one);
		return one;
	}
	/* Bytes of an entry. */
	std::size_t payload() const noexcept
	{
		return evering_payload(get());
	}
	int send(bytes entry, wait_time timeout = forever) noexcept
	{
		return evering_send(get(), entry.data(), entry.size(),
				    timeout.count());
	}
	int receive(writable_bytes entry, wait_time timeout = forever) noexcept
	{
		return evering_recv(get(), entry.data(), entry.size(),
				    timeout.count());
	}
	template <plain T>
	int send_value(const T &value, wait_time timeout = forever) noexcept
	{
		return send(bytes_of(value), timeout);
	}
	template <plain T>
	int receive_value(T &value, wait_time timeout = forever) noexcept
	{
		return receive(std::as_writable_bytes(std::span(&value, 1)),
			       timeout);
	}

	/* In place; a span of no bytes if there is no room, or no entry. */
	writable_bytes reserve(std::uint32_t k = 0) noexcept
	{
		void *slot = evering_reserve_at(get(), k);

		return { static_cast<std::byte *>(slot), slot ? payload() : 0 };
	}
	void commit(std::uint32_t count = 1) noexcept
	{
		evering_commit_many(get(), count);
	}
	void flush() noexcept
	{
		evering_flush(get());
	}
	bytes peek(std::uint32_t k = 0) noexcept
	{
		const void *slot = evering_peek_at(get(), k);

		return { static_cast<const std::byte *>(slot),
			 slot ? payload() : 0 };
	}
	/* Call this before acting on entries that were looked at: see fate(). */
	void take_up(std::uint32_t count = 1) noexcept
	{
		evering_begin(get(), count);
	}
	/* Releases entries, not the channel. */
	void consume(std::uint32_t count = 1) noexcept
	{
		evering_release_many(get(), count);
	}
	/* Call this before waiting for anything other than this channel. */
	void publish() noexcept
	{
		evering_publish(get());
	}

	int wait(unsigned int what, wait_time timeout = forever) noexcept
	{
		return evering_wait(get(), what, timeout.count());
	}
	/*
	 * During the wait the signals of @mask are blocked, instead of those of the
	 * thread.
	 */
	int wait(unsigned int what, wait_time timeout,
		 const sigset_t &mask) noexcept
	{
		return evering_pwait(get(), what, timeout.count(), &mask);
	}
	/* Ends such a wait, with -EINTR.  Any thread; async-signal-safe. */
	int wake(unsigned int what) noexcept
	{
		return evering_wake(get(), what);
	}
	/* EVERING_PEER_*. */
	int peer() const noexcept
	{
		return evering_peer(get());
	}
	/*
	 * What a peer that is gone did with the entries it was sent; no value: it is
	 * not gone.
	 */
	std::optional<evering_fate_info> fate() noexcept
	{
		evering_fate_info fate;

		if (evering_fate(get(), &fate))
			return std::nullopt;
		return fate;
	}
	/*
	 * Meets the successor of a peer that is gone, at @path.  Returns 0, or as
	 * evering_replace().  This side's arena and its buffers stay.
	 */
	int replace(const char *path, wait_time timeout = forever,
		    unsigned int flags = 0) noexcept
	{
		return evering_replace(get(), path, flags, timeout.count());
	}
	/* How many earlier peers the channel had. */
	std::uint32_t predecessors() const noexcept
	{
		return evering_predecessors(get());
	}
	/* Empty: no room, or @align is invalid. */
	buffer allocate(std::size_t size, std::size_t align = 0) noexcept
	{
		void *at = evering_alloc(get(), size, align);

		return at ? buffer(get(), at, size) : buffer();
	}
	/* How far an arena has grown; EVERING_MINE or EVERING_PEERS. */
	evering_arena_state arena(int whose = EVERING_MINE) const noexcept
	{
		evering_arena_state state;

		evering_get_arena(get(), whose, &state);
		return state;
	}

    private:
	struct closer {
		void operator()(::evering *ev) const noexcept
		{
			evering_close(ev);
		}
	};

	static result<channel> made(int ret, ::evering *ev) noexcept
	{
		if (ret)
			return failure{ ret };
		return channel(ev);
	}

	std::unique_ptr<::evering, closer> ev_;
};

class listener
{
    public:
	static result<listener> listen(const char *path,
				       mode_t mode = 0600) noexcept
	{
		::evering_listener *at;
		int ret = evering_listen(path, mode, &at);

		if (ret)
			return failure{ ret };
		return listener(at);
	}
	/* @fd listens already; on success it belongs to the listener. */
	static result<listener> adopt(int fd) noexcept
	{
		::evering_listener *at;
		int ret = evering_listen_fd(fd, &at);

		if (ret)
			return failure{ ret };
		return listener(at);
	}
	/*
	 * The socket of that name that a service manager has passed, or the first one.
	 */
	static result<listener> activated(const char *name = nullptr) noexcept
	{
		::evering_listener *at;
		int ret = evering_listen_activated(name, &at);

		if (ret)
			return failure{ ret };
		return listener(at);
	}
	/* Another listener at the same socket, for another thread. */
	result<listener> share() const noexcept
	{
		::evering_listener *at;
		int ret = evering_listener_share(get(), &at);

		if (ret)
			return failure{ ret };
		return listener(at);
	}
	::evering_listener *get() const noexcept
	{
		return at_.get();
	}
	/* Holds from now on.  Returns 0, or as evering_listener_admit(). */
	int admit(const ::evering_admission &rules) noexcept
	{
		return evering_listener_admit(get(), &rules);
	}
	result<channel> accept(const ::evering_params &most = limits(),
			       wait_time timeout = forever) noexcept
	{
		::evering *ev;
		int ret = evering_accept(get(), &most, timeout.count(), &ev);

		if (ret)
			return failure{ ret };
		return channel(ev);
	}

    private:
	struct closer {
		void operator()(::evering_listener *at) const noexcept
		{
			evering_listener_close(at);
		}
	};

	explicit listener(::evering_listener *at) noexcept : at_(at)
	{
	}

	std::unique_ptr<::evering_listener, closer> at_;
};

/* How a group waits; see struct evering_group_params. */
struct group_params : ::evering_group_params {
	group_params() noexcept
		: ::evering_group_params EVERING_GROUP_PARAMS_INIT
	{
	}
};

/*
 * One thread waits for many channels and listeners; see <evering_group.h>. A member
 * leaves when it is closed.  In a loop, use fd() when poll() has found nothing:
 * co_await descriptor(loop, group.fd()).readable().
 */
class group
{
    public:
	using events = std::span<const ::evering_group_event>;

	static result<group>
	open(const ::evering_group_params &how = group_params()) noexcept
	{
		::evering_group *at;
		int ret = evering_group_open(&how, &at);

		if (ret)
			return failure{ ret };
		return group(at);
	}
	::evering_group *get() const noexcept
	{
		return at_.get();
	}
	/* Returns 0 or a negative errno, as all functions that return an int. */
	int add(const channel &c, unsigned int what = EVERING_RX,
		void *context = nullptr) noexcept
	{
		return evering_group_add(get(), c.get(), what, context);
	}
	int add(const listener &l, void *context = nullptr) noexcept
	{
		return evering_group_add_listener(get(), l.get(), context);
	}
	int add(int fd, short poll_events, void *context = nullptr) noexcept
	{
		return evering_group_add_fd(get(), fd, poll_events, context);
	}
	int want(const channel &c, unsigned int what) noexcept
	{
		return evering_group_want(get(), c.get(), what);
	}
	int remove(const channel &c) noexcept
	{
		return evering_group_remove(get(), c.get());
	}
	int remove(const listener &l) noexcept
	{
		return evering_group_remove_listener(get(), l.get());
	}
	int remove(int fd) noexcept
	{
		return evering_group_remove_fd(get(), fd);
	}
	/*
	 * The members that have something to do, at least one; valid until the next
	 * call.
	 */
	result<events> wait(wait_time timeout = forever) noexcept
	{
		const ::evering_group_event *ready = nullptr;
		int n = evering_group_wait(get(), &ready, timeout.count());

		return found(n, ready);
	}
	/*
	 * The same in a loop.  If there are none: sleep until fd() is readable, for
	 * timeout().
	 */
	result<events> poll() noexcept
	{
		const ::evering_group_event *ready = nullptr;
		int n = evering_group_poll(get(), &ready);

		return found(n, ready);
	}
	/* forever: no operation has a time limit. */
	nanoseconds timeout() const noexcept
	{
		return nanoseconds(evering_group_timeout(get()));
	}
	int fd() noexcept
	{
		return evering_group_fd(get());
	}
	/* Ends a wait, with -EINTR.  Any thread; async-signal-safe. */
	int wake() noexcept
	{
		return evering_group_wake(get());
	}

    private:
	struct closer {
		void operator()(::evering_group *at) const noexcept
		{
			evering_group_close(at);
		}
	};

	explicit group(::evering_group *at) noexcept : at_(at)
	{
	}
	static result<events> found(int n,
				    const ::evering_group_event *ready) noexcept
	{
		if (n < 0)
			return failure{ n };
		return events(ready, static_cast<std::size_t>(n));
	}

	std::unique_ptr<::evering_group, closer> at_;
};

/* -------------------------------------------------------------- coroutines */

namespace detail
{

/* How often a coroutine may continue at once before it has to wait for its turn. */
inline constexpr unsigned int turn_length = 16;

/*
 * A member of a list that allocates nothing.  It leaves the list when it is destroyed.
 */
struct link {
	link *before = this;
	link *after = this;

	link() noexcept = default;
	link(const link &) = delete;
	link &operator=(const link &) = delete;
	~link()
	{
		unlink();
	}
	bool linked() const noexcept
	{
		return after != this;
	}
	void unlink() noexcept
	{
		before->after = after;
		after->before = before;
		before = after = this;
	}
	/* Appends this to the list of @head. */
	void append_to(link &head) noexcept
	{
		unlink();
		before = head.before;
		after = &head;
		before->after = this;
		head.before = this;
	}
	/* Takes all members of @other; this list is empty. */
	void take(link &other) noexcept
	{
		if (!other.linked())
			return;
		before = other.before;
		after = other.after;
		before->after = this;
		after->before = this;
		other.before = other.after = &other;
	}
};

/* A coroutine that waits. */
struct waiter : link {
	std::coroutine_handle<> handle;
};

struct promise_base {
	std::coroutine_handle<> parent;
	bool starting = false; /* its parent is on the stack, and continues by itself */
#ifdef __cpp_exceptions
	std::exception_ptr exception;
#endif

	struct final_awaiter {
		bool await_ready() const noexcept
		{
			return false;
		}
		template <class P>
		void await_suspend(std::coroutine_handle<P> ended) const noexcept
		{
			if (!ended.promise().starting)
				ended.promise().parent.resume();
		}
		void await_resume() const noexcept
		{
		}
	};

	std::suspend_always initial_suspend() const noexcept
	{
		return {};
	}
	final_awaiter final_suspend() const noexcept
	{
		return {};
	}
	void unhandled_exception() noexcept
	{
#ifdef __cpp_exceptions
		exception = std::current_exception();
#else
		std::abort();
#endif
	}
	void rethrow()
	{
#ifdef __cpp_exceptions
		if (exception)
			std::rethrow_exception(exception);
#endif
	}
};

} /* namespace detail */

/*
 * A coroutine that begins when it is awaited or spawned.  It is destroyed with this
 * object, at whatever point it is then.
 */
template <class T = void> class [[nodiscard]] task
{
    public:
	struct promise_type : detail::promise_base {
		std::optional<T> value;

		task get_return_object() noexcept
		{
			return task(handle::from_promise(*this));
		}
		template <class U> void return_value(U &&returned)
		{
			value.emplace(std::forward<U>(returned));
		}
		T take()
		{
			rethrow();
			return std::move(*value);
		}
	};
	using handle = std::coroutine_handle<promise_type>;

	task(task &&other) noexcept : h_(std::exchange(other.h_, nullptr))
	{
	}
	task &operator=(task &&other) noexcept
	{
		std::swap(h_, other.h_);
		return *this;
	}
	~task()
	{
		if (h_)
			h_.destroy();
	}
	bool await_ready() const noexcept
	{
		return false;
	}
	/*
	 * This does not use symmetric transfer. g++ makes that a jump only with
	 * optimization; without it, a coroutine that often awaits what never waits
	 * overflows the stack.
	 */
	bool await_suspend(std::coroutine_handle<> parent)
	{
		h_.promise().parent = parent;
		h_.promise().starting = true;
		h_.resume();
		h_.promise().starting = false;
		return !h_.done();
	}
	T await_resume()
	{
		return h_.promise().take();
	}

    private:
	explicit task(handle h) noexcept : h_(h)
	{
	}

	handle h_;
};

template <> struct task<void>::promise_type : detail::promise_base {
	task get_return_object() noexcept
	{
		return task(handle::from_promise(*this));
	}
	void return_void() const noexcept
	{
	}
	void take()
	{
		rethrow();
	}
};

namespace detail
{

/*
 * A coroutine that no other awaits.  It belongs to the loop, and is destroyed when it
 * ends.
 */
struct root {
	struct promise_type;
	/* A member of the list of all coroutines of a loop. */
	struct root_link : link {
		promise_type *promise;
	};
	struct promise_type {
		waiter first;
		root_link of_all;

		root get_return_object() noexcept
		{
			of_all.promise = this;
			return { this };
		}
		std::suspend_always initial_suspend() const noexcept
		{
			return {};
		}
		std::suspend_never final_suspend() const noexcept
		{
			return {};
		}
		void return_void() const noexcept
		{
		}
		/* There is no caller that could catch it. */
		void unhandled_exception() const noexcept
		{
			std::terminate();
		}
		std::coroutine_handle<> handle() noexcept
		{
			return std::coroutine_handle<
				promise_type>::from_promise(*this);
		}
	};

	promise_type *promise;

	static root run(task<> t)
	{
		co_await t;
	}
};

/* An object with a descriptor, which gets turns. */
struct source : link {
	struct hope : link {
		source &of;

		explicit hope(source &s) noexcept : of(s)
		{
		}
	};
	/* In a list while it waits for something that any coroutine may free. */
	hope hoping{ *this };

	virtual ~source() = default;
	/*
	 * Wakes the coroutines that can continue. false: it sleeps until the descriptor
	 * is ready.
	 */
	virtual bool turn() noexcept = 0;
	/* The time of its alarm has come; the alarm is removed. */
	virtual void rung() noexcept
	{
	}
};

inline struct iovec piece_of(bytes from) noexcept
{
	return { const_cast<std::byte *>(from.data()), from.size() };
}

/*
 * The length of data for an entry.  Any value beyond an entry is too much, so it is
 * clamped.
 */
inline std::uint32_t length_of(bytes data) noexcept
{
	return static_cast<std::uint32_t>(
		std::min(data.size(), std::size_t{ UINT32_MAX }));
}

/* Edge-triggered, for everything that may ever be armed: a single system call. */
inline std::uint32_t all_events(const ::evering *ev) noexcept
{
	return EPOLLET | static_cast<std::uint32_t>(evering_events(
				 ev, EVERING_RX | EVERING_TX));
}

inline std::int64_t now_ns() noexcept
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * std::int64_t{ 1000000000 } + now.tv_nsec;
}

inline constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();

/* The time @ns from now, or never. */
inline std::int64_t moment_after(std::int64_t ns) noexcept
{
	std::int64_t at;

	return __builtin_add_overflow(now_ns(), ns, &at) ? never : at;
}

/*
 * Whether this is the process that made the object.  A process made by fork() may have
 * the same pid in another namespace, so this uses a page that the kernel wipes there.
 */
class maker
{
    public:
	maker() noexcept
		: size_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
		  page_(mmap(nullptr, size_, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
	{
		if (page_ == MAP_FAILED)
			return;
		if (madvise(page_, size_, MADV_WIPEONFORK)) {
			unmap();
			return;
		}
		*static_cast<volatile char *>(page_) = 1;
	}
	maker(const maker &) = delete;
	maker &operator=(const maker &) = delete;
	~maker()
	{
		unmap();
	}
	bool is_this() const noexcept
	{
		return page_ == MAP_FAILED ?
			       pid_ == getpid() :
			       *static_cast<volatile char *>(page_);
	}

    private:
	void unmap() noexcept
	{
		if (page_ != MAP_FAILED)
			munmap(page_, size_);
		page_ = MAP_FAILED;
	}

	pid_t pid_ = getpid();
	std::size_t size_;
	void *page_;
};

} /* namespace detail */

/* Coroutines of one thread. */
class loop
{
    public:
	loop() noexcept : epoll_(epoll_create1(EPOLL_CLOEXEC))
	{
		if (epoll_ < 0)
			error_ = -errno;
	}
	loop(const loop &) = delete;
	loop &operator=(const loop &) = delete;
	/* Coroutines that have not ended are destroyed, the youngest first. */
	~loop()
	{
		while (roots_.linked())
			static_cast<detail::root::root_link *>(roots_.before)
				->promise->handle()
				.destroy();
		if (epoll_ >= 0)
			close(epoll_);
	}

	/* Begins a coroutine when the loop runs. */
	void spawn(task<> t)
	{
		detail::root r = detail::root::run(std::move(t));
		auto *promise = r.promise;

		promise->first.handle = promise->handle();
		promise->of_all.append_to(roots_);
		ready(promise->first);
	}

	/*
	 * Runs until all coroutines have ended or stop() is called, and returns 0; or a
	 * negative errno.
	 */
	int run()
	{
		stop_ = false;
		while (!error_ && !stop_ && roots_.linked()) {
			resume_ready();
			turn_sources();
			if (!stop_ && roots_.linked())
				sleep();
		}
		return error_;
	}
	/* Only the loop's thread calls this. */
	void stop() noexcept
	{
		stop_ = true;
	}

	/*
	 * co_await loop.sleep_for(1s); with forever, until the coroutine is destroyed
	 */
	auto sleep_for(wait_time time) noexcept
	{
		return sleeper(*this, time.count());
	}

	/* For the classes below: give a source a turn, or resume a coroutine. */
	void wake(detail::source &s) noexcept
	{
		if (!s.linked())
			s.append_to(awake_);
	}
	void ready(detail::waiter &w) noexcept
	{
		w.append_to(ready_);
	}
	/* The source gets a turn whenever coroutines have run, or no longer. */
	void hope(detail::source &s, bool more) noexcept
	{
		if (more)
			s.hoping.append_to(hopeful_);
		else
			s.hoping.unlink();
	}
	int watch(int op, int fd, std::uint32_t events,
		  detail::source *s) noexcept
	{
		struct epoll_event event = {};

		if (fd < 0)
			return fd;
		event.events = events;
		event.data.ptr = s;
		return epoll_ctl(epoll_, op, fd, &event) ? -errno : 0;
	}
	/*
	 * False in a process that fork() has made from the loop's process.  The epoll
	 * set and the channels belong to the parent, so destructors do not touch them
	 * there.
	 */
	bool is_ours() const noexcept
	{
		return maker_.is_this();
	}
	void unwatch(int fd) noexcept
	{
		(void)watch(EPOLL_CTL_DEL, fd, 0, nullptr);
	}
	/* A source or a coroutine, at some time. */
	struct alarm {
		detail::waiter *w;
		detail::source *s;
	};
	using alarms = std::multimap<std::int64_t, alarm>;
	alarms::iterator set_alarm(std::int64_t at, alarm what)
	{
		return alarms_.emplace(at, what);
	}
	alarms::iterator no_alarm() noexcept
	{
		return alarms_.end();
	}
	void unset_alarm(alarms::iterator &it) noexcept
	{
		if (it != alarms_.end())
			alarms_.erase(it);
		it = alarms_.end();
	}

    private:
	class sleeper : detail::waiter
	{
	    public:
		sleeper(loop &l, std::int64_t ns) noexcept
			: loop_(l), ns_(ns), it_(l.no_alarm())
		{
		}
		~sleeper()
		{
			if (!rung_)
				loop_.unset_alarm(it_);
		}
		bool await_ready() const noexcept
		{
			return ns_ <= 0 && ns_ != EVERING_WAIT_FOREVER;
		}
		void await_suspend(std::coroutine_handle<> h)
		{
			handle = h;
			if (ns_ == EVERING_WAIT_FOREVER)
				return;
			it_ = loop_.set_alarm(detail::moment_after(ns_),
					      { this, nullptr });
			rung_ = false;
		}
		/* The loop has removed the alarm when it resumes this. */
		void await_resume() noexcept
		{
			rung_ = true;
		}

	    private:
		friend class loop;
		loop &loop_;
		std::int64_t ns_;
		alarms::iterator it_;
		bool rung_ = true;
	};

	void resume_ready()
	{
		detail::link now;

		/*
		 * A coroutine that becomes ready meanwhile has its turn after the
		 * sources.
		 */
		now.take(ready_);
		if (!now.linked())
			return;
		while (now.linked()) {
			auto *w = static_cast<detail::waiter *>(now.after);

			w->unlink();
			w->handle.resume();
		}
		for (auto *at = hopeful_.after; at != &hopeful_; at = at->after)
			wake(static_cast<detail::source::hope *>(at)->of);
	}
	void turn_sources() noexcept
	{
		detail::link now;

		now.take(awake_);
		while (now.linked()) {
			auto &s = static_cast<detail::source &>(*now.after);

			s.unlink();
			if (s.turn())
				wake(s);
		}
	}
	/*
	 * Takes the alarms that are due.  Returns how long it is until the next one, in
	 * ms, or -1.
	 */
	int ring_alarms() noexcept
	{
		std::int64_t now, left;

		if (alarms_.empty())
			return -1;
		now = detail::now_ns();
		while (!alarms_.empty() && alarms_.begin()->first <= now) {
			alarm a = alarms_.begin()->second;

			if (a.w)
				static_cast<sleeper *>(a.w)->rung_ = true;
			alarms_.erase(alarms_.begin());
			if (a.w)
				ready(*a.w);
			else
				a.s->rung();
		}
		if (alarms_.empty())
			return -1;
		left = (alarms_.begin()->first - now - 1) / 1000000 + 1;
		return left > 3600000 ? 3600000 : static_cast<int>(left);
	}
	void sleep() noexcept
	{
		struct epoll_event events[64];
		int n, timeout = ring_alarms();

		if (ready_.linked() || awake_.linked())
			timeout = 0;
		n = epoll_wait(epoll_, events, 64, timeout);
		if (n < 0 && errno != EINTR)
			error_ = -errno;
		for (int i = 0; i < n; i++)
			wake(*static_cast<detail::source *>(
				events[i].data.ptr));
	}

	int epoll_;
	detail::maker maker_;
	int error_ = 0;
	bool stop_ = false;
	detail::link ready_;
	detail::link awake_;
	detail::link hopeful_;
	detail::link roots_;
	alarms alarms_;
};

/*
 * Any descriptor that epoll takes; it still belongs to the caller.  One coroutine at a
 * time waits.
 */
class descriptor : detail::source
{
    public:
	descriptor(loop &l, int fd) noexcept : loop_(l), fd_(fd)
	{
		error_ = l.watch(EPOLL_CTL_ADD, fd, EPOLLONESHOT, this);
	}
	descriptor(const descriptor &) = delete;
	descriptor &operator=(const descriptor &) = delete;
	~descriptor() override
	{
		if (!error_ && loop_.is_ours())
			loop_.unwatch(fd_);
	}

	/* co_await d.readable(): 0, or a negative errno. */
	auto readable() noexcept
	{
		return awaiter(*this);
	}

    private:
	class awaiter : detail::waiter
	{
	    public:
		explicit awaiter(descriptor &d) noexcept : d_(d)
		{
		}
		~awaiter()
		{
			if (d_.waiting_ == this)
				d_.waiting_ = nullptr;
		}
		bool await_ready() const noexcept
		{
			return d_.error_;
		}
		bool await_suspend(std::coroutine_handle<> h) noexcept
		{
			handle = h;
			error_ = d_.loop_.watch(EPOLL_CTL_MOD, d_.fd_,
						EPOLLIN | EPOLLONESHOT, &d_);
			if (error_)
				return false;
			d_.waiting_ = this;
			return true;
		}
		int await_resume() const noexcept
		{
			return d_.error_ ? d_.error_ : error_;
		}

	    private:
		friend class descriptor;
		descriptor &d_;
		int error_ = 0;
	};

	bool turn() noexcept override
	{
		if (waiting_)
			loop_.ready(*std::exchange(waiting_, nullptr));
		return false;
	}

	loop &loop_;
	int fd_;
	int error_;
	awaiter *waiting_ = nullptr;
};

/* A listener in a loop; the listener still belongs to the caller. */
class acceptor
{
    public:
	acceptor(loop &l, listener &from) noexcept
		: listener_(from), fd_(l, evering_listener_fd(from.get()))
	{
	}

	/* The next peer, or an error of evering_accept(). */
	task<result<channel>> accept(::evering_params most = limits())
	{
		for (;;) {
			result<channel> next = listener_.accept(most, nowait);
			int ret;

			if (next || (next.error() != -EAGAIN &&
				     next.error() != -EINTR))
				co_return next;
			ret = co_await fd_.readable();
			if (ret)
				co_return failure{ ret };
		}
	}

    private:
	listener &listener_;
	descriptor fd_;
};

namespace detail
{
struct end_connecting {
	void operator()(::evering_connecting *c) const noexcept
	{
		evering_connecting_close(c);
	}
};
using connecting = std::unique_ptr<::evering_connecting, end_connecting>;

/*
 * Takes all steps of @begun and closes it.  Returns 0 and the endpoint, or a negative
 * errno.
 */
inline task<int> connect(loop &l, ::evering_connecting *begun, ::evering **ev)
{
	connecting c(begun);
	int ret = evering_connecting_fd(begun);

	if (ret < 0)
		co_return ret;
	descriptor fd(l, ret);
	while ((ret = evering_connecting_step(begun, ev)) == -EAGAIN) {
		ret = co_await fd.readable();
		if (ret)
			break;
	}
	co_return ret;
}

/*
 * Takes an endpoint out of its loop while evering_replace() gives it another
 * descriptor.
 */
class unwatched
{
    public:
	unwatched(loop &l, ::evering *ev, source &s) noexcept
		: loop_(l), ev_(ev), source_(s)
	{
		loop_.unwatch(evering_fd(ev));
	}
	unwatched(const unwatched &) = delete;
	unwatched &operator=(const unwatched &) = delete;
	~unwatched()
	{
		(void)watch();
	}
	/* 0, or a negative errno. */
	int watch() noexcept
	{
		if (watched_ || !loop_.is_ours())
			return 0;
		watched_ = true;
		return loop_.watch(EPOLL_CTL_ADD, evering_fd(ev_),
				   all_events(ev_), &source_);
	}

    private:
	loop &loop_;
	::evering *ev_;
	source &source_;
	bool watched_ = false;
};

/*
 * evering_replace() in the loop of @s.  Sets @watch to 0, or to why the loop does not
 * watch the endpoint any more.
 */
inline task<int> replace(loop &l, ::evering *ev, source &s, const char *path,
			 wait_time timeout, unsigned int flags, int &watch)
{
	::evering_connecting *begun;
	unwatched meanwhile(l, ev, s);
	::evering *same;
	int ret = evering_replace_begin(ev, path, flags, timeout.count(),
					&begun);

	if (!ret)
		ret = co_await connect(l, begun, &same);
	watch = meanwhile.watch();
	co_return ret;
}
} // namespace detail

/*
 * channel::connect() in a loop: co_await evr::connect(loop, path).  With EVERING_AWAIT
 * in @wish this waits for a listener that is not there yet.
 */
inline task<result<channel>> connect(loop &l, const char *path,
				     ::evering_params wish = params(),
				     wait_time timeout = forever)
{
	::evering_connecting *begun;
	::evering *ev;
	int ret = evering_connect_begin(path, &wish, timeout.count(), &begun);

	if (!ret)
		ret = co_await detail::connect(l, begun, &ev);
	if (ret)
		co_return failure{ ret };
	co_return channel(ev);
}

/* channel::connect_many() in a loop. */
inline task<result<std::vector<channel>>>
connect_many(loop &l, const char *path, unsigned int count,
	     ::evering_params wish = params(), wait_time timeout = forever)
{
	std::array<::evering *, EVERING_MAX_LANES> ev;
	std::vector<channel> lanes(std::min(count, EVERING_MAX_LANES));
	::evering_connecting *begun;
	int ret = evering_connect_begin_many(path, &wish, count,
					     timeout.count(), &begun);

	if (ret)
		co_return failure{ ret };
	detail::connecting c(begun);
	ret = evering_connecting_fd(begun);
	if (ret < 0)
		co_return failure{ ret };
	descriptor fd(l, ret);
	while ((ret = evering_connecting_step_many(begun, ev.data())) ==
	       -EAGAIN) {
		int error = co_await fd.readable();

		if (error)
			co_return failure{ error };
	}
	if (ret < 0)
		co_return failure{ ret };
	channel::own(lanes, ev.data(), static_cast<std::size_t>(ret));
	co_return lanes;
}

/* A channel in a loop.  One coroutine may receive while another sends. */
class async_channel : detail::source
{
    public:
	async_channel(loop &l, channel c) noexcept
		: loop_(l), channel_(std::move(c))
	{
		::evering *ev = channel_.get();

		error_ = l.watch(EPOLL_CTL_ADD, evering_fd(ev),
				 detail::all_events(ev), this);
	}
	async_channel(const async_channel &) = delete;
	async_channel &operator=(const async_channel &) = delete;
	~async_channel() override
	{
		if (!error_ && loop_.is_ours())
			loop_.unwatch(evering_fd(channel_.get()));
	}
	/* For calls that look or allocate, not for calls that wait. */
	channel &get() noexcept
	{
		return channel_;
	}

	/*
	 * co_await c.receive(bytes), c.send(bytes): as evering_recv() and
	 * evering_send()
	 */
	auto receive(writable_bytes entry) noexcept
	{
		return receiver(*this, entry);
	}
	auto send(bytes entry) noexcept
	{
		return sender(*this, entry);
	}
	template <plain T> auto receive_value(T &value) noexcept
	{
		return receive(std::as_writable_bytes(std::span(&value, 1)));
	}
	/* @value has to exist until this was awaited. */
	template <plain T> auto send_value(const T &value) noexcept
	{
		return send(bytes_of(value));
	}
	/*
	 * channel::replace() in the loop, after receive() has returned -EPIPE.  @path
	 * has to exist until this was awaited.
	 */
	task<int> replace(const char *path, wait_time timeout = forever,
			  unsigned int flags = 0)
	{
		int watch = 0, ret = error_;

		if (!ret)
			ret = co_await detail::replace(loop_, channel_.get(),
						       *this, path, timeout,
						       flags, watch);
		if (watch)
			error_ = watch;
		loop_.wake(*this);
		co_return ret ? ret : watch;
	}

    private:
	/* What both directions share: try, wait, try again. */
	class awaiter : protected detail::waiter
	{
	    public:
		awaiter(async_channel &c, unsigned int what) noexcept
			: c_(c), what_(what)
		{
		}
		~awaiter()
		{
			if (c_.waiting_[what_ == EVERING_TX] == this)
				c_.waiting_[what_ == EVERING_TX] = nullptr;
		}
		void await_suspend(std::coroutine_handle<> h) noexcept
		{
			handle = h;
			c_.waiting_[what_ == EVERING_TX] = this;
			c_.loop_.wake(c_);
		}

	    protected:
		friend class async_channel;
		/* Whether to continue at once, with this result. */
		bool done(int ret) noexcept
		{
			ret_ = ret;
			return ret != -EAGAIN;
		}
		bool may_try() noexcept
		{
			unsigned int &turn = c_.turn_[what_ == EVERING_TX];

			if (c_.error_)
				return true;
			if (++turn < detail::turn_length)
				return true;
			turn = 0;
			return false;
		}

		async_channel &c_;
		unsigned int what_;
		int ret_ = -EAGAIN;
	};
	class receiver : public awaiter
	{
	    public:
		receiver(async_channel &c, writable_bytes entry) noexcept
			: awaiter(c, EVERING_RX), entry_(entry)
		{
		}
		bool await_ready() noexcept
		{
			return may_try() && done(attempt());
		}
		int await_resume() noexcept
		{
			return ret_ == -EAGAIN ? attempt() : ret_;
		}

	    private:
		int attempt() noexcept
		{
			return c_.error_ ? c_.error_ :
					   c_.channel_.receive(entry_, nowait);
		}
		writable_bytes entry_;
	};
	class sender : public awaiter
	{
	    public:
		sender(async_channel &c, bytes entry) noexcept
			: awaiter(c, EVERING_TX), entry_(entry)
		{
		}
		bool await_ready() noexcept
		{
			return may_try() && done(attempt());
		}
		int await_resume() noexcept
		{
			return ret_ == -EAGAIN ? attempt() : ret_;
		}

	    private:
		int attempt() noexcept
		{
			return c_.error_ ? c_.error_ :
					   c_.channel_.send(entry_, nowait);
		}
		bytes entry_;
	};

	void resume(bool tx) noexcept
	{
		turn_[tx] = 0;
		if (waiting_[tx])
			loop_.ready(*std::exchange(waiting_[tx], nullptr));
	}
	bool turn() noexcept override
	{
		unsigned int what = (waiting_[0] ? EVERING_RX : 0) |
				    (waiting_[1] ? EVERING_TX : 0);
		int ret;

		if (!what)
			return false;
		ret = evering_arm(channel_.get(), what);
		if (ret < 0 || (ret & EVERING_RX))
			resume(false);
		if (ret < 0 || (ret & EVERING_TX))
			resume(true);
		/* The other direction still has to be armed. */
		return ret > 0;
	}

	loop &loop_;
	channel channel_;
	int error_;
	unsigned int turn_[2] = {};
	awaiter *waiting_[2] = {}; /* to receive, to send */
};

/* -------------------------------------------------------------- operations */

class operations;

/*
 * A request of the peer.  Its data is valid until it is answered; that of a post, as
 * long as this object.
 */
class request
{
    public:
	explicit request(const ::evering_request &r) : r_(r)
	{
		auto *from = static_cast<const std::byte *>(r.data);

		if (is_post())
			own_.assign(from, from + r.len);
	}
	std::uint64_t id() const noexcept
	{
		return r_.id;
	}
	std::uint32_t opcode() const noexcept
	{
		return r_.opcode;
	}
	/* EVERING_LEND, EVERING_GIVE or 0, and EVERING_POST, EVERING_AGAIN. */
	std::uint32_t flags() const noexcept
	{
		return r_.flags;
	}
	/* A predecessor of this side may have begun or done it. */
	bool again() const noexcept
	{
		return r_.flags & EVERING_AGAIN;
	}
	/* A post gets no answer. */
	bool is_post() const noexcept
	{
		return r_.flags & EVERING_POST;
	}
	bytes data() const noexcept
	{
		if (is_post())
			return own_;
		return { static_cast<const std::byte *>(r_.data), r_.len };
	}
	/* Empty: there is no buffer. A given buffer still has to be freed. */
	bytes buf() const noexcept
	{
		return { static_cast<const std::byte *>(r_.buf),
			 static_cast<std::size_t>(r_.buf_len) };
	}
	/* The data or the buffer: what call() has sent, of any length. */
	bytes contents() const noexcept
	{
		return r_.buf ? buf() : data();
	}
	template <plain T> std::optional<T> as() const noexcept
	{
		return value_of<T>(data());
	}

    private:
	friend class operations;
	::evering_request r_;
	std::vector<std::byte> own_;
};

/* How an operation ended. */
class answer
{
    public:
	/*
	 * The peer's result, or -ECANCELED, -ETIMEDOUT, -EPIPE, -EOWNERDEAD, -EPROTO, …
	 */
	int result = -ECANCELED;
	/* The result is that of the peer. */
	bool answered = false;
	/*
	 * The buffer that came with the answer: this side's own, if it was lent and
	 * written.
	 */
	buffer buf;
	/* This side's buffer that was lent, if it is not in @buf. */
	buffer lent;
	/*
	 * The lent buffer does not return, because the peer may still use it.  It is
	 * freed when the late answer comes, or the peer goes away.
	 */
	bool abandoned = false;
	/*
	 * The peer is gone, and has certainly not begun the operation (unseen), or may
	 * have (begun).
	 */
	bool unseen = false;
	bool begun = false;
	/* The answer is longer than the room of into(), which has its beginning. */
	bool cut = false;

	explicit operator bool() const noexcept
	{
		return answered && result >= 0 && !cut;
	}
	bytes data() const noexcept
	{
		return { data_, len_ };
	}
	/*
	 * The answer, of any length: in @buf, in the span of into(), or else in data().
	 */
	bytes contents() const noexcept
	{
		if (into_.data())
			return into_;
		return buf ? bytes(buf.span()) : data();
	}
	template <plain T> std::optional<T> as() const noexcept
	{
		return value_of<T>(data());
	}

    private:
	friend class operations;
	std::size_t len_ = 0;
	std::byte data_[EVERING_MAX_SLOT];
	writable_bytes into_;
};

/* A message of the peer; move only.  The destructor frees it. */
class message
{
    public:
	message() noexcept = default;
	message(message &&other) noexcept
		: o_(std::exchange(other.o_, nullptr)),
		  msg_(std::exchange(other.msg_, {}))
	{
	}
	message &operator=(message &&other) noexcept
	{
		if (this != &other) {
			reset();
			o_ = std::exchange(other.o_, nullptr);
			msg_ = std::exchange(other.msg_, {});
		}
		return *this;
	}
	~message()
	{
		reset();
	}
	explicit operator bool() const noexcept
	{
		return o_ != nullptr;
	}
	/* A long message is in the peer's arena: copy what has to be checked. */
	bytes data() const noexcept
	{
		return { static_cast<const std::byte *>(msg_.data), size() };
	}
	std::size_t size() const noexcept
	{
		return static_cast<std::size_t>(msg_.len);
	}
	template <plain T> std::optional<T> as() const noexcept
	{
		return value_of<T>(data());
	}
	inline void reset() noexcept;

    private:
	friend class operations;
	message(operations &o, const ::evering_msg &msg) noexcept
		: o_(&o), msg_(msg)
	{
	}

	operations *o_ = nullptr;
	::evering_msg msg_ = {};
};

/*
 * A channel with a table of operations, in a loop.  One coroutine at a time takes
 * requests, and one takes messages.  Any number of coroutines submit operations.
 */
class operations : detail::source
{
	template <class T> class taker;
	class pending;
	class sender;
	template <std::size_t N> class message_sender;
	class post_sender;
	class replier;

    public:
	class asked;

	/* With EVERING_REPLACEABLE in @flags, calls outlive the peer: see replace(). */
	operations(loop &l, channel c, std::uint32_t depth = EVERING_OPS_DEFAULT,
		   std::uint32_t serve = EVERING_OPS_DEFAULT,
		   std::uint32_t store = EVERING_OPS_DEFAULT,
		   std::uint32_t flags = 0) noexcept
		: loop_(l), channel_(std::move(c)), alarm_(l.no_alarm())
	{
		::evering_ops_params wish = EVERING_OPS_PARAMS_INIT;
		::evering *ev = channel_.get();
		::evering_ops_info info;

		wish.flags = flags;
		wish.depth = depth;
		wish.serve = serve;
		wish.context = this;
		wish.store = store;
		wish.message = on_message;
		error_ = evering_ops_open(ev, &wish, &ops_);
		if (error_)
			return;
		evering_ops_get_info(ops_, &info);
		max_data_ = info.max_data;
		most_posts_ = info.store ? info.store : 1;
		error_ = l.watch(EPOLL_CTL_ADD, evering_fd(ev),
				 detail::all_events(ev), this);
		watched_ = !error_;
		l.wake(*this);
	}
	operations(const operations &) = delete;
	operations &operator=(const operations &) = delete;
	/* Calls in flight end with -ECANCELED. */
	~operations() override
	{
		closing_ = true;
		end(-ECANCELED);
		close(requests_);
		close(messages_);
		evering_ops_close(ops_);
		if (watched_ && loop_.is_ours())
			loop_.unwatch(evering_fd(channel_.get()));
		loop_.unset_alarm(alarm_);
	}

	/* 0, or why the channel has ended. */
	int error() const noexcept
	{
		return error_;
	}
	/* For allocation, and for questions about the peer. */
	channel &get() noexcept
	{
		return channel_;
	}
	::evering_ops *table() const noexcept
	{
		return ops_;
	}
	/*
	 * co_await ops.replace(path): 0, or as evering_replace().  For a table with
	 * EVERING_REPLACEABLE, after next() has returned -EPIPE.  Calls that were in
	 * flight continue afterwards; calls that are made meanwhile have the outcome
	 * -EPIPE.  Finish with all requests, posts and messages of the dead peer before
	 * this call.  @path has to exist until this was awaited.
	 */
	task<int> replace(const char *path, wait_time timeout = forever,
			  unsigned int flags = 0)
	{
		int watch = 0, ret = watched_ ? 0 : error_;

		if (!ret)
			ret = co_await detail::replace(loop_, channel_.get(),
						       *this, path, timeout,
						       flags, watch);
		if (!ret)
			error_ = 0;
		if (watch)
			end(watch);
		loop_.wake(*this);
		co_return ret ? ret : watch;
	}

	/*
	 * co_await ops.next(): result<request>; an error is the end of the channel.
	 * Posts come as requests.  Requests and posts that were sent before the end
	 * come before the error.
	 */
	auto next() noexcept
	{
		return taker<request>(*this, requests_);
	}
	/*
	 * As evering_op_answerv(), of any length.  -EAGAIN: the arena has no room for
	 * an answer that does not fit an entry.  -ESTALE: @r is a post, which gets no
	 * answer.
	 */
	int reply(const request &r, std::int32_t code, bytes data = {}) noexcept
	{
		loop_.wake(*this);
		if (data.size() > max_data_) {
			const struct iovec piece = detail::piece_of(data);

			return evering_op_answerv(ops_, r.id(), code, &piece, 1,
						  EVERING_NOWAIT);
		}
		return evering_op_answer(
			ops_, r.id(), code, data.data(),
			static_cast<std::uint32_t>(data.size()));
	}
	/*
	 * co_await ops.respond(request, code, data): the same, but it waits for room.
	 */
	auto respond(const request &r, std::int32_t code, bytes data) noexcept;
	/* As evering_op_answer_buffer().  After an error @b is as before. */
	int reply(const request &r, std::int32_t code, buffer &b,
		  std::size_t len) noexcept
	{
		int ret;

		loop_.wake(*this);
		ret = evering_op_answer_buffer(ops_, r.id(), code,
					       b.span().data(), len);
		if (!ret)
			b.release();
		return ret;
	}
	/* The buffer that was given with a request; empty: there was none. */
	buffer take(const request &r) noexcept
	{
		if (!(r.flags() & EVERING_GIVE))
			return {};
		return { channel_.get(),
			 const_cast<std::byte *>(r.buf().data()),
			 r.buf().size() };
	}
	/* Whether the peer has cancelled the request, and needs no answer. */
	bool cancelled(const request &r) const noexcept
	{
		return evering_op_cancelled(ops_, r.id()) == 1;
	}

	/*
	 * co_await ops.call(opcode, data): answer.  Also waits for room.  @data has to
	 * exist until this was awaited; data that does not fit an entry is copied into
	 * a buffer, which is lent.  Options: .timeout(t), .lend(buffer), .give(buffer),
	 * .into(span), .stop_by(token), .reissue().
	 */
	asked call(std::uint32_t opcode, bytes data = {}) noexcept;

	/*
	 * co_await ops.receive(): result<message>, in the order of sending.  Messages
	 * that were sent before the end of the channel come before its error.
	 */
	auto receive() noexcept
	{
		return taker<message>(*this, messages_);
	}
	/*
	 * co_await ops.send(pieces...): 0, or as evering_msg_send().  Sends one message
	 * of any length, in pieces that have to exist until this was awaited.
	 */
	template <std::convertible_to<bytes>... Piece>
	auto send(const Piece &...piece) noexcept
	{
		return message_sender<sizeof...(piece)>(*this, { piece... });
	}
	/*
	 * Sends at once, or returns -EAGAIN: there is no room, or other coroutines wait
	 * for it.
	 */
	template <std::convertible_to<bytes>... Piece>
	int try_send(const Piece &...piece) noexcept
	{
		return message_sender<sizeof...(piece)>(*this, { piece... })
			.at_once();
	}
	/* co_await ops.post(opcode, data): 0, or as evering_op_post() */
	auto post(std::uint32_t opcode, bytes data = {}) noexcept;
	/* @b is given with the post.  After an error it is as before. */
	auto post(std::uint32_t opcode, bytes data, buffer &b) noexcept;
	int try_post(std::uint32_t opcode, bytes data = {}) noexcept;
	int try_post(std::uint32_t opcode, bytes data, buffer &b) noexcept;

    private:
	friend class message;
	class call_awaiter;
	/* What waits to be taken, and the coroutine that will take it. */
	template <class T> struct inbox {
		std::deque<T> items;
		taker<T> *waiting = nullptr;
		unsigned int turn = 0;
	};
	template <class T> class taker : detail::waiter
	{
	    public:
		taker(operations &o, inbox<T> &from) noexcept
			: o_(&o), from_(from)
		{
		}
		~taker()
		{
			leave();
		}
		bool await_ready() noexcept
		{
			if (o_->error_)
				return true;
			return !from_.items.empty() &&
			       ++from_.turn < detail::turn_length;
		}
		void await_suspend(std::coroutine_handle<> h) noexcept
		{
			handle = h;
			from_.turn = 0;
			from_.waiting = this;
			o_->loop_.wake(*o_);
		}
		result<T> await_resume() noexcept
		{
			if (!o_)
				return failure{ gone_ };
			leave();
			if (from_.items.empty())
				o_->refill();
			if (from_.items.empty())
				return failure{ o_->error_ };
			T item = std::move(from_.items.front());

			from_.items.pop_front();
			o_->taken(item);
			return result<T>(std::move(item));
		}

	    private:
		friend class operations;
		void leave() noexcept
		{
			if (o_ && from_.waiting == this)
				from_.waiting = nullptr;
		}
		operations *o_;
		inbox<T> &from_;
		int gone_ = 0; /* the table's end, while this waited */
	};

	static void on_message(::evering_ops *, const ::evering_msg *msg,
			       void *context)
	{
		auto *o = static_cast<operations *>(context);

		/*
		 * Bounded: at most as many messages as the table stores are not freed.
		 */
		o->messages_.items.push_back(message(*o, *msg));
	}
	void finish(const ::evering_msg &msg) noexcept
	{
		if (closing_ || !loop_.is_ours())
			return;
		(void)evering_msg_free(ops_, &msg);
		loop_.wake(*this);
	}
	/*
	 * Takes the requests that have come.  Bounded: at most as many requests as the
	 * table serves are unanswered.  At most as many posts as it stores are taken
	 * before next() returns them; the sender of others waits.
	 */
	void refill() noexcept
	{
		::evering_request r;

		/* In another process, do not touch the table. */
		if (closing_ || !ops_)
			return;
		while (posts_ < most_posts_ &&
		       !evering_op_next(ops_, &r, EVERING_NOWAIT)) {
			/* No request can be answered any more. */
			if (error_ && !(r.flags & EVERING_POST)) {
				drop(r);
				continue;
			}
			requests_.items.emplace_back(r);
			posts_ += requests_.items.back().is_post();
		}
		more_ = posts_ >= most_posts_;
	}
	/* Ends a request that was not taken and cannot be answered. */
	void drop(const ::evering_request &r) noexcept
	{
		if (closing_)
			return;
		if (r.flags & EVERING_GIVE)
			(void)evering_free(channel_.get(), r.buf);
		(void)evering_op_answer(ops_, r.id, -EPIPE, nullptr, 0);
	}
	void taken(const request &r) noexcept
	{
		if (r.is_post() && posts_-- == most_posts_)
			loop_.wake(*this);
	}
	void taken(const message &) noexcept
	{
	}
	template <class T> void offer(inbox<T> &box, bool ended) noexcept
	{
		if (box.waiting && (ended || !box.items.empty()))
			loop_.ready(*box.waiting);
	}
	template <class T> void close(inbox<T> &box) noexcept
	{
		box.items.clear();
		if (!box.waiting)
			return;
		box.waiting->gone_ = error_;
		box.waiting->o_ = nullptr;
		loop_.ready(*box.waiting);
	}
	void submit_queued() noexcept;
	void end(int why) noexcept;
	bool turn() noexcept override
	{
		short events;
		int n;

		if (error_)
			return outlive();
		n = evering_ops_poll(ops_);
		if (n || more_)
			refill();
		if (n >= 0)
			submit_queued();
		/* The table does not arm while there are posts that are not taken. */
		if (n == 0 && posts_ < most_posts_)
			n = evering_ops_arm(ops_, &events);
		if (n < 0)
			end(n);
		offer(requests_, false);
		offer(messages_, false);
		if (n < 0)
			return outlive();
		if (!n)
			set_alarm();
		return n;
	}
	/* Operations that wait for a successor of the peer still run out of time. */
	bool outlive() noexcept
	{
		if (error_ == -EPIPE && watched_) {
			(void)evering_ops_poll(ops_);
			set_alarm();
		}
		return false;
	}
	void set_alarm() noexcept
	{
		std::int64_t left = evering_ops_timeout(ops_);

		loop_.unset_alarm(alarm_);
		/* Looks from time to time until next() takes some. */
		if (!error_ && posts_ >= most_posts_ &&
		    (left < 0 || left > look_again))
			left = look_again;
		if (left >= 0)
			alarm_ = loop_.set_alarm(detail::moment_after(left),
						 { nullptr, this });
	}
	void rung() noexcept override
	{
		alarm_ = loop_.no_alarm();
		loop_.wake(*this);
	}

	loop &loop_;
	channel channel_;
	::evering_ops *ops_ = nullptr;
	int error_ = 0;
	bool watched_ = false;
	bool closing_ = false;
	std::size_t max_data_ = 0;
	std::uint32_t posts_ = 0; /* posts in requests_ */
	std::uint32_t most_posts_ = 1;
	bool more_ = false; /* the library may have more for next() */
	inbox<request> requests_;
	inbox<message> messages_;
	/* What waits for room, by kind.  No kind delays another. */
	enum { calls, sends, replies, kinds };
	detail::link queued_[kinds];
	loop::alarms::iterator alarm_;
	static constexpr std::int64_t look_again = 1000000;
};

/* Something that is sent when there is room, after others of its kind. */
class operations::pending : protected detail::waiter
{
    public:
	pending(operations &o, std::size_t kind, bool large) noexcept
		: o_(&o), kind_(kind), large_(large)
	{
	}
	virtual ~pending() = default;

    protected:
	friend class operations;
	/* False: there is no room. */
	virtual bool submit() noexcept = 0;
	/* It was never sent. */
	virtual void refuse(int error) noexcept = 0;

	operations *o_;
	std::size_t kind_;
	/* It needs a buffer, which any coroutine may free. */
	bool large_;
};

/* Something that has ended when it was sent. */
class operations::sender : public operations::pending
{
    public:
	using pending::pending;

	/* As if it was awaited, but without waiting. */
	int at_once() noexcept
	{
		if (o_->error_)
			return o_->error_;
		if (o_->queued_[kind_].linked())
			return -EAGAIN;
		o_->loop_.wake(*o_);
		return attempt();
	}
	bool await_ready() noexcept
	{
		ret_ = at_once();
		return ret_ != -EAGAIN;
	}
	void await_suspend(std::coroutine_handle<> h) noexcept
	{
		handle = h;
		append_to(o_->queued_[kind_]);
		if (large_)
			o_->loop_.hope(*o_, true);
		o_->loop_.wake(*o_);
	}
	int await_resume() const noexcept
	{
		return ret_;
	}

    protected:
	/* 0, -EAGAIN, or another error. */
	virtual int attempt() noexcept = 0;
	void refuse(int error) noexcept override
	{
		ret_ = error;
		o_->loop_.ready(*this);
	}

    private:
	bool submit() noexcept override
	{
		ret_ = attempt();
		if (ret_ == -EAGAIN)
			return false;
		o_->loop_.ready(*this);
		return true;
	}

	int ret_ = -EAGAIN;
};

template <std::size_t N>
class operations::message_sender : public operations::sender
{
    public:
	message_sender(operations &o, const std::array<bytes, N> &pieces) noexcept
		: sender(o, sends, false)
	{
		std::size_t all = 0;

		for (std::size_t i = 0; i < N; i++) {
			pieces_[i] = detail::piece_of(pieces[i]);
			all += pieces[i].size();
		}
		large_ = all > o.max_data_;
	}

    private:
	int attempt() noexcept override
	{
		return evering_msg_send(this->o_->ops_, pieces_.data(), N,
					EVERING_NOWAIT);
	}

	std::array<struct iovec, N> pieces_;
};

class operations::post_sender : public operations::sender
{
    public:
	post_sender(operations &o, std::uint32_t opcode, bytes data,
		    buffer *b) noexcept
		: sender(o, sends, false), buf_(b)
	{
		op_.opcode = opcode;
		op_.data = data.data();
		op_.len = detail::length_of(data);
	}

    private:
	int attempt() noexcept override
	{
		int ret;

		if (buf_) {
			op_.flags = EVERING_GIVE;
			op_.buf = buf_->span().data();
			op_.buf_len = buf_->size();
		}
		ret = evering_op_post(o_->ops_, &op_, EVERING_NOWAIT);
		if (!ret && buf_)
			buf_->release();
		return ret;
	}

	::evering_op op_ = {};
	buffer *buf_;
};

class operations::replier : public operations::sender
{
    public:
	replier(operations &o, const request &r, std::int32_t code,
		bytes data) noexcept
		: sender(o, replies, data.size() > o.max_data_), id_(r.id()),
		  code_(code), piece_(detail::piece_of(data))
	{
	}

    private:
	int attempt() noexcept override
	{
		return evering_op_answerv(o_->ops_, id_, code_, &piece_, 1,
					  EVERING_NOWAIT);
	}
	/* The peer is gone, and its request ends. */
	void refuse(int error) noexcept override
	{
		if (!o_->closing_)
			(void)evering_op_answer(o_->ops_, id_, code_, nullptr,
						0);
		sender::refuse(error);
	}

	std::uint64_t id_;
	std::int32_t code_;
	struct iovec piece_;
};

inline auto operations::respond(const request &r, std::int32_t code,
				bytes data) noexcept
{
	return replier(*this, r, code, data);
}

inline auto operations::post(std::uint32_t opcode, bytes data) noexcept
{
	return post_sender(*this, opcode, data, nullptr);
}

inline auto operations::post(std::uint32_t opcode, bytes data,
			     buffer &b) noexcept
{
	return post_sender(*this, opcode, data, &b);
}

inline int operations::try_post(std::uint32_t opcode, bytes data) noexcept
{
	return post_sender(*this, opcode, data, nullptr).at_once();
}

inline int operations::try_post(std::uint32_t opcode, bytes data,
				buffer &b) noexcept
{
	return post_sender(*this, opcode, data, &b).at_once();
}

inline void message::reset() noexcept
{
	if (o_)
		o_->finish(msg_);
	o_ = nullptr;
	msg_ = {};
}

/* What operations::call() returns for co_await, with its options. */
class operations::asked
{
    public:
	asked(operations &o, std::uint32_t opcode, bytes data) noexcept : o_(&o)
	{
		op_.opcode = opcode;
		op_.data = data.data();
		op_.len = detail::length_of(data);
		size_ = data.size();
	}
	/*
	 * The time from when it was sent; then its outcome is -ETIMEDOUT. 0: at once.
	 */
	asked &&timeout(wait_time time) && noexcept
	{
		/*
		 * In C, 0 is the value of a struct that names no time, and means
		 * forever.
		 */
		op_.timeout_ns = time.count() ? time.count() : 1;
		return std::move(*this);
	}
	/* The buffer returns with the answer, unless that has abandoned set. */
	asked &&lend(buffer b) && noexcept
	{
		buf_ = std::move(b);
		op_.flags |= EVERING_LEND;
		return std::move(*this);
	}
	/* The buffer returns if the operation could not be sent. */
	asked &&give(buffer b) && noexcept
	{
		buf_ = std::move(b);
		op_.flags |= EVERING_GIVE;
		return std::move(*this);
	}
	/*
	 * The answer is copied to @to, which contents() then returns, and no buffer of
	 * the peer is kept.
	 */
	asked &&into(writable_bytes to) && noexcept
	{
		into_ = to;
		return std::move(*this);
	}
	/*
	 * When the loop's thread asks the token to stop, the call is cancelled and the
	 * peer informed.  The outcome, -ECANCELED, comes when the peer has answered.
	 */
	asked &&stop_by(std::stop_token token) && noexcept
	{
		token_ = std::move(token);
		return std::move(*this);
	}
	/*
	 * The operation may be begun twice: if a peer goes away that may have begun it,
	 * its successor gets it too.  Not with give().
	 */
	asked &&reissue() && noexcept
	{
		op_.flags |= EVERING_REISSUE;
		return std::move(*this);
	}
	/*
	 * The awaiter is another object, because g++ 12 copies an awaiter that a
	 * function returns by reference.
	 */
	call_awaiter operator co_await() && noexcept;

    private:
	friend class call_awaiter;
	operations *o_;
	::evering_op op_ = {};
	std::size_t size_ = 0;
	buffer buf_;
	std::optional<writable_bytes> into_;
	std::stop_token token_;
};

class operations::call_awaiter : public operations::pending
{
    public:
	/*
	 * Data that does not fit an entry goes into a buffer, if the call has no other
	 * buffer.
	 */
	explicit call_awaiter(asked &&what) noexcept
		: pending(*what.o_, calls,
			  !(what.op_.flags & (EVERING_LEND | EVERING_GIVE)) &&
				  what.size_ > what.o_->max_data_),
		  loop_(what.o_->loop_), op_(what.op_), size_(what.size_),
		  buf_(std::move(what.buf_)), into_(what.into_),
		  token_(std::move(what.token_))
	{
		op_.done = on_done;
		op_.user = this;
	}
	call_awaiter(const call_awaiter &) = delete;
	call_awaiter &operator=(const call_awaiter &) = delete;
	~call_awaiter() override
	{
		/*
		 * In another process the table may be gone without this object's
		 * knowledge.
		 */
		if (state_ != flying || !loop_.is_ours())
			return;
		state_ = orphan;
		(void)evering_op_cancel(o_->ops_, id_,
					EVERING_CANCEL_DETACH |
						EVERING_CANCEL_TELL);
		o_->loop_.wake(*o_);
	}

	bool await_ready() noexcept
	{
		int error = token_.stop_requested() ? -ECANCELED : o_->error_;

		if (error)
			refuse(error);
		return error;
	}
	void await_suspend(std::coroutine_handle<> h) noexcept
	{
		handle = h;
		if (!large_) {
			op_.buf = buf_.span().data();
			op_.buf_len = buf_.size();
		}
		state_ = queued;
		append_to(o_->queued_[calls]);
		o_->submit_queued();
		o_->loop_.wake(*o_);
		if (token_.stop_possible())
			on_stop_.emplace(token_, stopper{ this });
	}
	answer await_resume() noexcept
	{
		on_stop_.reset();
		return std::move(answer_);
	}

    private:
	friend class operations;
	enum { fresh, queued, flying, ended, orphan } state_ = fresh;

	struct stopper {
		call_awaiter *call;

		void operator()() const noexcept
		{
			call->stop();
		}
	};

	void stop() noexcept
	{
		if (state_ == queued) {
			refuse(-ECANCELED);
		} else if (state_ == flying) {
			(void)evering_op_cancel(o_->ops_, id_,
						EVERING_CANCEL_TELL);
			o_->loop_.wake(*o_);
		}
	}
	void refuse(int error) noexcept override
	{
		bool waits = state_ == queued;

		state_ = ended;
		answer_.result = error;
		if (o_->closing_)
			buf_.release();
		else if (large_)
			buf_.reset();
		else
			answer_.lent = std::move(buf_);
		if (waits)
			o_->loop_.ready(*this);
	}
	/* Copies what is to be lent into a buffer.  Returns 0, -EAGAIN or -EMSGSIZE. */
	int copy() noexcept
	{
		std::uint64_t most = 0;

		if (!large_ || buf_)
			return 0;
		(void)evering_arena(o_->channel_.get(), &most);
		if (size_ > most)
			return -EMSGSIZE;
		buf_ = o_->channel_.allocate(size_);
		if (!buf_)
			return -EAGAIN;
		std::memcpy(buf_.span().data(), op_.data, size_);
		op_.data = nullptr;
		op_.len = 0;
		op_.flags |= EVERING_LEND;
		op_.buf = buf_.span().data();
		op_.buf_len = size_;
		return 0;
	}
	bool submit() noexcept override
	{
		int ret = copy();

		if (!ret)
			ret = evering_op_submit(o_->ops_, &op_, &id_,
						EVERING_NOWAIT);
		if (ret == -EAGAIN)
			return false;
		unlink();
		if (ret) {
			refuse(ret);
			return true;
		}
		state_ = flying;
		buf_.release();
		return true;
	}
	static void on_done(::evering_ops *,
			    const ::evering_completion *completion)
	{
		static_cast<call_awaiter *>(completion->user)
			->complete(*completion);
	}
	void complete(const ::evering_completion &c) noexcept
	{
		::evering *ev = o_->channel_.get();
		/* No buffer returns from a table that is closed with its channel. */
		bool lost = o_->closing_ || (c.flags & EVERING_ABANDONED);

		if (state_ != flying)
			return;
		state_ = ended;
		answer_.result = c.result;
		answer_.answered = c.flags & EVERING_ANSWERED;
		answer_.abandoned = c.flags & EVERING_ABANDONED;
		answer_.unseen = c.flags & EVERING_UNSEEN;
		answer_.begun = c.flags & EVERING_BEGUN;
		answer_.len_ = c.len;
		if (c.len)
			std::memcpy(answer_.data_, c.data, c.len);
		if (c.buf)
			answer_.buf = buffer(ev, c.buf, c.buf_len);
		if ((op_.flags & EVERING_LEND) && c.buf != op_.buf && !lost)
			answer_.lent = buffer(ev, op_.buf, op_.buf_len);
		if (large_)
			answer_.lent.reset();
		if (into_)
			keep(*into_);
		o_->loop_.ready(*this);
	}
	void keep(writable_bytes to) noexcept
	{
		bytes all = answer_.contents();
		std::size_t n = std::min(all.size(), to.size());

		if (n)
			std::memcpy(to.data(), all.data(), n);
		answer_.cut = n < all.size();
		answer_.buf.reset();
		answer_.into_ = to.first(n);
	}

	loop &loop_;
	::evering_op op_;
	std::size_t size_;
	std::uint64_t id_ = 0;
	buffer buf_;
	std::optional<writable_bytes> into_;
	answer answer_;
	std::stop_token token_;
	std::optional<std::stop_callback<stopper>> on_stop_;
};

inline operations::call_awaiter
operations::asked::operator co_await() && noexcept
{
	return call_awaiter(std::move(*this));
}

inline operations::asked operations::call(std::uint32_t opcode,
					  bytes data) noexcept
{
	return asked(*this, opcode, data);
}

inline void operations::submit_queued() noexcept
{
	bool large = false;

	for (auto &list : queued_) {
		while (list.linked() &&
		       static_cast<pending *>(list.after)->submit())
			;
		large |= list.linked() &&
			static_cast<pending *>(list.after)->large_;
	}
	loop_.hope(*this, large);
}

inline void operations::end(int why) noexcept
{
	if (!error_)
		error_ = why;
	for (auto &list : queued_) {
		while (list.linked()) {
			auto *p = static_cast<pending *>(list.after);

			p->unlink();
			p->refuse(error_);
		}
	}
	loop_.hope(*this, false);
	std::erase_if(requests_.items, [this](const request &r) {
		if (!r.is_post())
			drop(r.r_);
		return !r.is_post();
	});
	refill();
	offer(requests_, true);
	offer(messages_, true);
}

/* ------------------------------------------------------------------ servers */

/* How to serve; see struct evering_server_params. */
struct server_params : ::evering_server_params {
	server_params() noexcept
	    : ::evering_server_params EVERING_SERVER_PARAMS_INIT
	{
	}
};

/*
 * A request of a client of a server, which is answered once; move only.  If it is
 * destroyed before, the answer is -ECANCELED.
 */
class exchange
{
    public:
	exchange(exchange &&) noexcept = default;
	exchange &operator=(exchange &&other) noexcept
	{
		if (this != &other) {
			end();
			state_ = std::move(other.state_);
		}
		return *this;
	}
	~exchange()
	{
		end();
	}

	/*
	 * It can get no answer any more: its time is up, or its client is gone.  Its
	 * data is then invalid.
	 */
	bool gone() const noexcept
	{
		return !state_ || !state_->client;
	}
	/* The client has cancelled it.  It still has to be answered. */
	bool cancelled() const noexcept
	{
		return gone() || state_->cancelled;
	}
	std::uint32_t opcode() const noexcept
	{
		return state_ ? state_->request.opcode : 0;
	}
	/* EVERING_LEND, EVERING_GIVE or 0, and EVERING_AGAIN. */
	std::uint32_t flags() const noexcept
	{
		return state_ ? state_->request.flags : 0;
	}
	/* A predecessor of this server may have begun or done it. */
	bool again() const noexcept
	{
		return flags() & EVERING_AGAIN;
	}
	/* What the client has sent, of any length; empty if this is gone(). */
	bytes contents() const noexcept
	{
		std::uint64_t len = 0;
		const void *at;

		if (gone())
			return {};
		at = evering_request_bytes(&state_->request, &len);
		return { static_cast<const std::byte *>(at),
			 static_cast<std::size_t>(len) };
	}
	template <plain T> std::optional<T> as() const noexcept
	{
		return value_of<T>(contents());
	}
	/*
	 * The client; nullptr if this is gone().  The server uses the user member of
	 * the client.
	 */
	::evering_client *client() const noexcept
	{
		return state_ ? state_->client : nullptr;
	}
	/*
	 * What the program keeps for the client: one T, made when first asked for, and
	 * destroyed when the client has ended. nullptr: this is gone(), there is no
	 * memory, or an object of another type is kept.
	 */
	template <std::default_initializable T> T *keep() const noexcept
	{
		static const char type = 0;
		record *of;

		if (gone())
			return nullptr;
		of = static_cast<record *>(state_->client->user);
		if (!of->kept) {
			of->kept = { new (std::nothrow) T(), [](void *kept) {
					    delete static_cast<T *>(kept);
				    } };
			of->type = &type;
		}
		return of->type == &type ? static_cast<T *>(of->kept.get()) :
					   nullptr;
	}
	/*
	 * As evering_op_answerv(), of any length.  -EAGAIN: the arena has no room for
	 * an answer that does not fit an entry.  -ESTALE: this is gone().
	 */
	int reply(std::int32_t code, bytes data = {}) noexcept
	{
		const struct iovec piece = detail::piece_of(data);
		int ret;

		if (gone())
			return -ESTALE;
		ret = evering_op_answerv(state_->client->ops,
					 state_->request.id, code, &piece,
					 data.empty() ? 0 : 1, EVERING_NOWAIT);
		if (ret != -EAGAIN && ret != -EMSGSIZE && ret != -ENOMEM)
			forget();
		return ret;
	}

    private:
	friend class server;
	/* In the list of its client. */
	struct state : detail::link {
		::evering_client *client;
		::evering_request request;
		bool cancelled = false;
	};
	/* What belongs to a client: its requests, and what the program keeps for it. */
	struct record : detail::link {
		std::unique_ptr<void, void (*)(void *)> kept{ nullptr, nullptr };
		const char *type = nullptr;
	};
	explicit exchange(std::unique_ptr<state> s) noexcept
	    : state_(std::move(s))
	{
	}
	/* Buffers that were given and not taken return to the client. */
	void forget() noexcept
	{
		if (state_->request.flags & EVERING_GIVE)
			evering_free(state_->client->ev, state_->request.buf);
		state_->client = nullptr;
		state_->unlink();
	}
	void end() noexcept
	{
		if (!gone()) {
			evering_op_answer(state_->client->ops,
					  state_->request.id, -ECANCELED,
					  nullptr, 0);
			forget();
		}
		state_.reset();
	}

	std::unique_ptr<state> state_;
};

/*
 * Serves many clients in a loop.  For each request, @handle makes a coroutine, which
 * may take any time while others run.  The program may set only the callback waiting in
 * @how; the other callbacks are used by the server.
 */
class server : detail::source
{
    public:
	template <std::invocable<exchange> Handle>
	server(loop &l, const char *path, ::evering_server_params how,
	       Handle handle)
	    : loop_(l), alarm_(l.no_alarm()),
	      handle_(std::make_shared<handler>(
			  [handle = std::move(handle)](exchange x) mutable {
				  return handle(std::move(x));
			  }))
	{
		how.open = on_open;
		how.request = on_request;
		how.cancelled = on_cancelled;
		how.close = on_close;
		how.message = nullptr;
		how.turn = nullptr;
		how.event = nullptr;
		how.context = this;
		error_ = evering_server_open(path, &how, &server_);
		if (error_)
			return;
		error_ = l.watch(EPOLL_CTL_ADD, evering_server_fd(server_),
				 EPOLLIN | EPOLLET, this);
		l.wake(*this);
	}
	server(const server &) = delete;
	server &operator=(const server &) = delete;
	/* Requests that are not answered yet are gone(). */
	~server() override
	{
		loop_.unset_alarm(alarm_);
		if (server_ && loop_.is_ours())
			loop_.unwatch(evering_server_fd(server_));
		else if (server_)
			forget_all();
		evering_server_close(server_);
	}

	/*
	 * 0; why the server could not be opened; or -ESHUTDOWN: it was stopped, and has
	 * ended.
	 */
	int error() const noexcept
	{
		return error_;
	}
	::evering_server *get() const noexcept
	{
		return server_;
	}
	/* As evering_server_stop(). co_await ended() returns when that is done. */
	int stop(wait_time time) noexcept
	{
		return evering_server_stop(server_, time.count());
	}
	/* co_await server.ended(): error(), when it is not 0 */
	auto ended() noexcept
	{
		return awaiter(*this);
	}
	/* loop.spawn(server.run()): the loop runs until the server has ended */
	task<> run()
	{
		co_await ended();
	}

    private:
	class awaiter : public detail::waiter
	{
	    public:
		explicit awaiter(server &s) noexcept : s_(s)
		{
		}
		bool await_ready() const noexcept
		{
			return s_.error_;
		}
		void await_suspend(std::coroutine_handle<> h) noexcept
		{
			handle = h;
			append_to(s_.waiting_);
		}
		int await_resume() const noexcept
		{
			return s_.error_;
		}

	    private:
		server &s_;
	};

	using handler = std::function<task<>(exchange)>;

	/* The captures of @handle live as long as its coroutines. */
	static task<> one(std::shared_ptr<handler> handle, exchange x)
	{
		co_await (*handle)(std::move(x));
	}
	static server &of(::evering_client *client) noexcept
	{
		return *static_cast<server *>(client->context);
	}
	static exchange::record &record_of(::evering_client *client) noexcept
	{
		return *static_cast<exchange::record *>(client->user);
	}
	static int on_open(::evering_client *client)
	{
		auto *record = new (std::nothrow) exchange::record;

		client->user = record;
		return record ? 0 : -ENOMEM;
	}
	static void on_request(::evering_client *client,
			       const ::evering_request *request)
	{
		std::unique_ptr<exchange::state> state;

		if (request->flags & EVERING_POST) {
			if (request->flags & EVERING_GIVE)
				evering_free(client->ev, request->buf);
			return;
		}
		state.reset(new (std::nothrow) exchange::state);
		if (!state) {
			evering_op_answer(client->ops, request->id, -ENOMEM,
					  nullptr, 0);
			return;
		}
		state->client = client;
		state->request = *request;
		state->append_to(record_of(client));
		of(client).loop_.spawn(one(of(client).handle_,
					   exchange(std::move(state))));
	}
	static void on_cancelled(::evering_client *client, std::uint64_t id,
				 int why)
	{
		detail::link &requests = record_of(client);

		for (auto *at = requests.after; at != &requests;
		     at = at->after) {
			auto *state = static_cast<exchange::state *>(at);

			if (state->request.id != id)
				continue;
			state->cancelled = true;
			if (why == -ECANCELED)
				return;
			if (state->request.flags & EVERING_GIVE)
				evering_free(client->ev, state->request.buf);
			state->client = nullptr;
			state->unlink();
			return;
		}
	}
	static void on_close(::evering_client *client, int)
	{
		delete &record_of(client);
	}
	/* In a process made by fork(), no callback is called. */
	void forget_all() noexcept
	{
		::evering_client *client = nullptr;

		while ((client = evering_client_next(server_, client))) {
			exchange::record &record = record_of(client);

			while (record.linked()) {
				auto *state = static_cast<exchange::state *>(
					record.after);

				state->client = nullptr;
				state->unlink();
			}
			delete &record;
		}
	}

	bool turn() noexcept override
	{
		std::int64_t left;
		int ret;

		if (error_)
			return false;
		ret = evering_server_poll(server_);
		loop_.unset_alarm(alarm_);
		if (ret > 0)
			return true;
		if (ret < 0) {
			error_ = ret;
			while (waiting_.linked())
				loop_.ready(static_cast<awaiter &>(
					*waiting_.after));
			return false;
		}
		left = evering_server_timeout(server_);
		if (left != EVERING_WAIT_FOREVER)
			alarm_ = loop_.set_alarm(detail::moment_after(left),
						 { nullptr, this });
		return false;
	}
	void rung() noexcept override
	{
		alarm_ = loop_.no_alarm();
		loop_.wake(*this);
	}

	loop &loop_;
	::evering_server *server_ = nullptr;
	int error_ = 0;
	loop::alarms::iterator alarm_;
	detail::link waiting_;
	std::shared_ptr<handler> handle_;
};

} /* namespace evr */

#pragma GCC diagnostic pop

#endif /* EVERING_HPP */
