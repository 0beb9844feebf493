// SPDX-License-Identifier: MIT
/*
 * worker: a server with many channels on one thread, with the coroutines of
 * <evering.hpp>.
 *
 *	worker serve				in one terminal
 *	worker drive				in another: 100 channels
 *
 * The server is add_up(), a coroutine for each request.  The client is drive_lane(),
 * four coroutines for each of a hundred channels, on one thread as well.  The requests
 * are those of drive.h: each adds up to five numbers to the total of its channel, and
 * is answered with the total.
 */
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include <getopt.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include <evering.hpp>

using namespace std::chrono_literals;

namespace
{

constexpr std::uint32_t request_sum = 1;
constexpr std::uint32_t depth = 32; // requests of a channel in flight

struct {
	const char *path = "loop.socket";
	unsigned int channels = 100;
	unsigned int rounds = 20;
} options;

unsigned long long requests; // of all channels

// What the user can do about the error.
const char *remedy(int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return "is a server running, with the same --socket?";
	case -EADDRINUSE:
		return "stop the server there, or choose another --socket";
	case -EACCES:
		return "choose a --socket that this user may use";
	case -ENAMETOOLONG:
		return "choose a --socket of at most 107 bytes";
	case -ETIMEDOUT:
		return "is the server stopped?";
	case -EPIPE:
	case -ESHUTDOWN:
	case -ECONNRESET:
		return "the server is gone: start it again";
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return "does another program listen there?";
	case -EBADMSG:
		return "an answer is wrong: report it";
	case -ENODEV:
		return "load evering.ko, or set EVERING_BACKEND=memfd";
	case -EINVAL:
		return "EVERING_BACKEND has to be device, memfd or not set";
	case -EMFILE:
	case -ENFILE:
		return "allow more descriptors with `ulimit -n`";
	case -EDQUOT:
		return "raise the quotas of evering.ko, or have fewer channels";
	case -ENOMEM:
		return "have fewer channels";
	default:
		return nullptr;
	}
}

int fail(const char *what, int error)
{
	const char *advice = remedy(error);

	std::fprintf(stderr, "worker: %s: %s%s%s\n", what,
		     std::strerror(-error), advice ? "; " : "",
		     advice ? advice : "");
	return EXIT_FAILURE;
}

// -------------------------------------------------------------- the server

// It has not to wait for anything; one that has, co_awaits it, while others run.
evr::task<> add_up(evr::exchange x)
{
	std::array<std::uint64_t, 5> numbers = {};
	auto *total = x.keep<std::uint64_t>();
	evr::bytes data = x.contents();

	requests++;
	if (!total || x.opcode() != request_sum || x.flags() ||
	    data.size() > sizeof(numbers) || data.size() % 8) {
		x.reply(-EINVAL);
		co_return;
	}
	if (!data.empty())
		std::memcpy(numbers.data(), data.data(), data.size());
	for (std::uint64_t number : numbers)
		*total += number;
	x.reply(0, evr::bytes_of(*total));
}

evr::task<> stop_by_signal(evr::loop &loop, evr::server &server, int signals)
{
	evr::descriptor descriptor(loop, signals);

	co_await descriptor.readable();
	server.stop(evr::nowait);
}

// Descriptors and memory come back when clients go.
void full(::evering_server *, int error)
{
	if (error)
		fail("accept", error);
}

int serve()
{
	evr::server_params params;
	evr::loop loop;
	::evering_server_info info;
	sigset_t set;
	int signals, ret;

	params.waiting = full;
	evr::server server(loop, options.path, params, add_up);
	if (server.error())
		return fail(options.path, server.error());
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, nullptr);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (signals < 0)
		return fail("start", -errno);
	loop.spawn(stop_by_signal(loop, server, signals));
	loop.spawn(server.run());
	std::printf("listening at %s\n", options.path);
	std::fflush(stdout);
	ret = loop.run();
	close(signals);
	if (ret || server.error() != -ESHUTDOWN)
		return fail("loop", ret ? ret : server.error());
	evering_server_get_info(server.get(), &info);
	std::printf("%llu channels, %llu requests\n",
		    static_cast<unsigned long long>(info.opened), requests);
	return EXIT_SUCCESS;
}

// -------------------------------------------------------------- the client

// A channel with several of drive_lane(), so that requests overlap.
struct connection {
	evr::operations ops;
	std::uint64_t total = 0;
	unsigned int left = options.rounds;

	connection(evr::loop &loop, evr::channel channel)
		: ops(loop, std::move(channel), depth, 0)
	{
	}
};

// The last one to end closes the channel.
evr::task<> drive_lane(std::shared_ptr<connection> c, int &error)
{
	while (c->left && !error) {
		std::uint64_t number = 1000003ull * c->left--;
		std::uint64_t want = c->total += number;
		auto answer = co_await c->ops.call(request_sum,
						   evr::bytes_of(number));

		if (!answer)
			error = answer.result;
		else if (answer.as<std::uint64_t>() != want)
			error = -EBADMSG;
	}
}

int drive()
{
	evr::params params;
	evr::loop loop;
	int error = 0;

	params.entries = 4 * depth;
	params.arena_size[EVERING_MINE] = 0;
	params.arena_size[EVERING_PEERS] = 0;
	for (unsigned int i = 0; i < options.channels; i++) {
		auto channel =
			evr::channel::connect(options.path, params, 60s);

		if (!channel)
			return fail(options.path, channel.error());
		auto c = std::make_shared<connection>(loop,
						      std::move(*channel));

		for (int lane = 0; lane < 4; lane++)
			loop.spawn(drive_lane(c, error));
	}
	if (int ret = loop.run(); ret)
		return fail("loop", ret);
	if (error)
		return fail("drive", error);
	std::printf("%u channels, %u requests each, all right\n",
		    options.channels, options.rounds);
	return EXIT_SUCCESS;
}

// ------------------------------------------------------------ command line

void usage(FILE *to)
{
	std::fputs(
		"Usage: worker [--socket=PATH] serve\n"
		"       worker [OPTION...] drive\n"
		"\n"
		"serve answers the requests of many channels, on one thread, until\n"
		"SIGINT or SIGTERM; drive makes the requests and checks the answers.\n"
		"\n"
		"  --socket=PATH    loop.socket; @NAME for the abstract name NAME\n"
		"  --channels=N     how many channels (100)\n"
		"  --rounds=N       requests on each channel (20)\n",
		to);
}

unsigned int number(const char *name, const char *text, unsigned int most)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = std::strtoul(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && value &&
	    value <= most)
		return static_cast<unsigned int>(value);
	std::fprintf(stderr, "worker: --%s=%s: must be 1..%u\n", name, text,
		     most);
	std::exit(2);
}

// A channel takes some descriptors on memfd, and 1024 are soon used up.
void more_descriptors()
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

} // namespace

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "socket", required_argument, nullptr, 's' },
		{ "channels", required_argument, nullptr, 'c' },
		{ "rounds", required_argument, nullptr, 'r' },
		{ "help", no_argument, nullptr, 'h' },
		{ nullptr, 0, nullptr, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "h", long_options, nullptr)) !=
	       -1) {
		switch (option) {
		case 's':
			options.path = optarg;
			break;
		case 'c':
			options.channels = number("channels", optarg, 10000);
			break;
		case 'r':
			options.rounds = number("rounds", optarg, 1000000000);
			break;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		default:
			usage(stderr);
			return 2;
		}
	}
	std::string what = optind + 1 == argc ? argv[optind] : "";

	more_descriptors();
	if (what == "serve")
		return serve();
	if (what == "drive")
		return drive();
	usage(stderr);
	return 2;
}
