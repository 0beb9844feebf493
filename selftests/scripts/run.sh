#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of `evering run`: that it sends every file and gets the right sums in every
# geometry, and what it says and leaves behind when something goes wrong.  TAP.
#
#	BUILD=dir		where `evering` lies (build)
#	EVERING_BACKEND=name	on this one alone, instead of on each that is here
#	EVERING_SHORT=1		fewer geometries and files
#	EVERING_GUEST=1		what kernel or backend have a part in
#	EVERING_SLOW=n		so many times as long where time is bounded

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
evering=$bin/evering
cp "$build/evering" "$evering" || bail_out "no $build/evering"
tree=$tmp/tree
big=$tmp/sparse

# ------------------------------------------------------------------ machinery

# run STATUS ARGUMENT...: evering run ends with this status; command_line: evering.
run() {
	exits "$1" "$evering" run "${@:2}"
}

command_line() {
	exits "$1" "$evering" "${@:2}"
}

# used PID TICKS: it has used that much.
used() {
	local ticks
	ticks "$1" && ((ticks >= $2))
}

# has_open PID FILE
has_open() {
	local fd
	for fd in "/proc/$1/fd"/*; do
		[[ ! $fd -ef $2 ]] || return 0
	done
	return 1
}

# start ARGUMENT...: evering run in the background; its process is $client.
start() {
	# shellcheck disable=SC2086 # none, or an option
	background env ${inherited:-} "$evering" run "$@"
	client=$pid
}

# client_ended STATUS: it does, so, and nobody is left.
client_ended() {
	ended "$client" "$1" && soon nobody_left
}

# serving: prints the server that the client has started and exec'ed.
serving() {
	child_of "$client" evering-serve
}

# hold DIR ARGUMENT...: starts a client and holds it half-way, waiting to write
# sums that have no reader.  It has read the names of DIR and opened not all files.
hold() {
	local byte
	mkfifo fifo
	exec 9<>fifo
	start --sums "$@" >fifo 2>err
	IFS= read -rd '' -N 1 -t 60 -u 9 byte || {
		echo "no sums: $byte"
		cat err
		return 1
	}
	soon serving >server
}

let_go() {
	cat <&9 >sums &
}

# many DIR: enough files that their sums fill any pipe.
many() {
	local part dir i
	printf -v part 'x%.0s' {1..200}
	dir=$1/$part/$part/$part
	mkdir -p "$dir"
	for ((i = 1000; i < 1600; i++)); do
		echo "$i" >"$dir/$i"
	done
	echo "$dir"
}

# listen PATH [stale]: until its process, which it prints, is killed; or
# leaving the socket file behind.
listen() {
	perl -MSocket -e '
		socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die;
		bind(S, sockaddr_un($ARGV[0])) or die;
		listen(S, 8) or die;
		exit if $ARGV[1] eq "stale";
		print "$$\n";
		close STDOUT;
		sleep 300;' "$1" "${2:-}"
}

# ----------------------------------------------------------------- what is sent

make_tree() {
	mkdir -p "$tree"/nested/a/b/c "$tree/.hidden dir" "$tree/empty dir"
	: >"$tree/empty"
	printf x >"$tree/one"
	head -c 65536 /dev/urandom >"$tree/chunk"
	head -c 65537 /dev/urandom >"$tree/chunk+1"
	head -c 65535 /dev/urandom >"$tree/chunk-1"
	head -c 262144 /dev/urandom >"$tree/default chunk"
	head -c 262145 /dev/urandom >"$tree/default chunk + 1"
	echo 1 >"$tree/with space"
	echo 2 >"$tree/"$'new\nline'
	echo 3 >"$tree/back\\slash"
	echo 4 >"$tree/-dash"
	echo 5 >"$tree/-"
	echo 6 >"$tree/"$'\xff\xfe not UTF-8'
	echo 7 >"$tree/"$'carriage\rreturn'
	echo 8 >"$tree/"$'tab\tand \e[31mescape'
	echo 9 >"$tree/.hidden"
	echo 10 >"$tree/.hidden dir/.file"
	echo 11 >"$tree/nested/a/b/c/deep"
	echo 12 >"$tree/nested/a/b/file"
	ln -s one "$tree/link to a file"
	ln -s nested "$tree/link to a folder"
	ln -s nowhere "$tree/link to nothing"
	ln -s .. "$tree/nested/up"
	mkfifo "$tree/fifo"
	listen "$tree/socket" stale
	(cd "$tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum --) \
		>"$tmp/expected"
	head -c 5000000 /dev/urandom >"$tmp/large"
	truncate -s 64G "$big"
}

# sums ARGUMENT...: those of the tree are right.
sums() {
	cd "$tree" || return
	timeout -k 5 120 "$evering" run --sums --quiet "$@" . >"$tmp/work/out" \
		2>"$tmp/work/err" || {
		echo "status $?"
		cat "$tmp/work/err"
		return 1
	}
	cd "$tmp/work" || return
	sort out >sorted
	sort "$tmp/expected" >wanted
	same sorted wanted || return
	[[ ! -s err ]]
}

sha256sum_reads() {
	run 0 --sums --quiet "$tree" && sha256sum -c --quiet out
}

order() {
	run 0 --sums "$tree" && mv out first && run 0 --sums "$tree" &&
		same first out
}

one_file() {
	run 0 --sums "$tree/one" || return
	sha256sum "$tree/one" >wanted
	same wanted out
}

larger_than_arena() {
	sha256sum "$tmp/large" >wanted
	run 0 --sums "$@" "$tmp/large" && same wanted out
}

file_called_dash() {
	echo dash >-
	run 0 --sums -- - && sha256sum -c --quiet out </dev/null
}

through_link() {
	ln -s "$tree" link
	ln -s "$tree/one" file
	run 0 --sums link && sha256sum -c --quiet out &&
		[[ $(grep -c '' out) == $(grep -c '' "$tmp/expected") ]] &&
		run 0 --sums file && sha256sum -c --quiet out
}

empty_dir() {
	mkdir none
	run 0 --sums none && [[ ! -s out ]] && says '0, 0 B'
}

# Files whose size says nothing of what can be read.
size_unknown() {
	run 0 --sums /proc/version && sha256sum -c --quiet out
}

beyond_path_max() {
	perl -e 'for ("deep", ("y" x 200) x 25) { mkdir $_ or die; chdir $_ or die }
		open F, ">file" or die; print F "deep\n"' || return
	run 0 --sums deep || return
	[[ $(cut -c 1-64 out) == $(echo deep | sha256sum | cut -c 1-64) ]] &&
		(($(wc -c <out) > 5000))
}

itself() {
	[[ ! $short ]] || skip EVERING_SHORT
	timeout -k 5 120 "$evering" run >out 2>err
	(($? <= 1)) || return
	# Files may come and go while it is being built elsewhere.
	! grep '^evering run: ' err | grep -v ': No such file or directory$' &&
		says 'files ' && says 'channel '
}

# ------------------------------------------------------------------- the summary

summary() {
	run 0 "$tree" || return
	[[ ! -s out ]] || return
	local line
	for line in "files         $(wc -l <"$tmp/expected"), " 'time ' 'rate ' \
		'round trip    p50 ' '  queue       ' '  hash        ' '  wake        ' \
		'  channel     p50 ' "channel       $EVERING_BACKEND, " 'load ' 'system calls ' \
		'sleeps ' 'CPU '; do
		says "$line" || return
	done
}

# The parts of a round trip add up to all of it, and without a sleeper none is a wake-up.
parts() {
	run 0 --wait=busy --depth=1 "$tree" && says 'until the other process looks' &&
		says '  wake        0 ns on average, 0 %' && says '1 request in flight' || return
	run 0 --wait=block "$tree" && says 'behind up to 63 other requests (--depth)' || return
	awk '/^  (queue|hash|wake) / { sub(/.* average, /, ""); all += $1 }
		END { exit all < 98 || all > 102 }' err
}

json() {
	run 0 --json --slot=32 --ring=8 --arena=64K --wait=block "$tree" || return
	local part bytes
	bytes=$(find "$tree" -type f -printf '%s\n' |
		awk '{ n += $1 } END { print n }')
	for part in "\"files\": $(wc -l <"$tmp/expected"), " \
		"\"bytes\": $bytes, " "\"backend\": \"$EVERING_BACKEND\", " '"errors": 0, ' '"interrupted": false, ' \
		'"wait": "block", ' '"slot": 32, ' '"ring": 8, ' \
		'"arena": 65536, ' '"chunk": 8192, ' '"depth": 8, ' '"parts_ns": {"queue": ' \
		'"empty_p50_ns": '; do
		says "$part" || return
	done
	(($(wc -l <err) == 1)) || return
	if command -v python3 >/dev/null; then
		python3 -m json.tool err >/dev/null
	fi
}

quiet() {
	run 0 --quiet "$tree" && [[ ! -s out && ! -s err ]]
}

# -------------------------------------------------------------------- bad usage

usage_errors() {
	local line bad=0
	local values=(--backend=pipe --backend= --wait=never --spin=-1
		--spin=1000001 --spin=1K --slot=0 --slot=8 --slot=17 --slot=512
		--slot=64x --slot= --slot=-64 --slot=+64 --slot=0x40 '--slot= 64'
		--ring=2 --ring=5 --ring=131072 --ring=18446744073709551616
		--arena=0 --arena=100 --arena=4097 --arena=128G
		--arena=99999999999G --arena=M --arena=1KK --depth=0 --depth=65537
		--depth=257 --depth=-1 --chunk=63 --chunk=2G --chunk=-64
		--socket= --socket=@ "--socket=$(printf 'a%.0s' {1..108})"
		--timeout=0 --timeout=-1 --timeout=1.
		--timeout=3601 --timeout=nan --timeout=1e3)
	for line in "${values[@]}"; do
		run 2 "$line" "$tree" && [[ ! -s out ]] && says "evering run: $line: must be " ||
			bad=1
	done
	for line in --no-such -x --slot --sums=yes --control=3; do
		run 2 "$line" && says "${line%%=*}" || bad=1
	done
	run 2 "$tree" "$tree" && says 'one DIR' || bad=1
	run 2 --ring=4 --depth=5 "$tree" && says --ring=4 || bad=1
	run 2 --chunk=5M "$tree" && says 64..4194304 || bad=1
	return $bad
}

commands() {
	command_line 0 --help && grep -q '^  run ' out && [[ ! -s err ]] &&
		command_line 0 help && grep -q '^  run ' out &&
		command_line 0 --version && grep -qE '^evering [0-9.]+$' out &&
		command_line 0 help run && grep -q -- '--arena' out && mv out first &&
		command_line 0 run --help && same first out &&
		command_line 2 && says 'Usage: ' &&
		command_line 2 nonsense && says "unknown command 'nonsense'" &&
		command_line 2 --nonsense && says "unknown option '--nonsense'" &&
		command_line 2 help nonsense && says "unknown command 'nonsense'" &&
		command_line 2 serve && says "evering run"
}

bad_dirs() {
	run 1 "$tmp/none" && says "$tmp/none: No such file or directory" &&
		run 1 '' && says "'': No such file or directory" &&
		run 1 "$tree/fifo" && says "fifo: Not a directory, nor a regular file" &&
		run 1 "$tree/one/x" && says 'Not a directory'
}

# ------------------------------------------------------- files that cannot be read

# Root reads what it may not, so it goes without that.
unprivileged() {
	if ((EUID)); then
		"$@"
	else
		setpriv --bounding-set=-dac_override,-dac_read_search \
			--inh-caps=-all "$@"
	fi
}

unreadable() {
	mkdir -p dir/closed dir/open
	echo 1 >dir/a
	echo 2 >dir/b
	echo 3 >dir/closed/c
	echo 4 >dir/open/d
	chmod 000 dir/a dir/closed
	unprivileged true || skip 'setpriv(1) cannot'
	! unprivileged cat dir/a 2>/dev/null || skip 'everything can be read here'
	unprivileged "$evering" run --sums dir >out 2>err
	(($? == 1)) && says 'evering run: dir/a: Permission denied' &&
		says 'evering run: dir/closed: Permission denied' &&
		says '2 could not be read' &&
		[[ $(cut -c 67- out) == $'dir/b\ndir/open/d' ]]
}

vanished() {
	local dir
	dir=$(many names)
	hold names || return
	rm "$dir/1599"
	let_go
	client_ended 1 && says 'evering run: names/' &&
		says '/1599: No such file or directory' && says '599, '
}

# In the middle: some of it is sent already.
failing() {
	command -v "${CC:-cc}" >/dev/null || skip 'no compiler'
	cat >fail.c <<-'END'
		#define _GNU_SOURCE
		#include <errno.h>
		#include <sys/stat.h>
		#include <sys/syscall.h>
		#include <unistd.h>
		ssize_t read(int fd, void *buf, size_t size)
		{
			struct stat st;

			if (!fstat(fd, &st) && st.st_size == 777777 &&
			    lseek(fd, 0, SEEK_CUR) > 0) {
				errno = EIO;
				return -1;
			}
			return syscall(SYS_read, fd, buf, size);
		}
	END
	"${CC:-cc}" -shared -fPIC -o fail.so fail.c || skip 'no compiler'
	mkdir dir
	echo 1 >dir/a
	head -c 777777 /dev/urandom >dir/b
	echo 3 >dir/c
	LD_PRELOAD=$PWD/fail.so ASAN_OPTIONS=verify_asan_link_order=0 \
		"$evering" run --sums dir >out 2>err
	(($? == 1)) && says 'evering run: dir/b: Input/output error' &&
		[[ $(cut -c 67- out) == $'dir/a\ndir/c' ]] && sha256sum -c --quiet out
}

# At once: nothing of it is sent yet.
unreadable_at_once() {
	run 1 --sums /proc/self/mem && says '/proc/self/mem: Input/output error' &&
		[[ ! -s out ]]
}

# ------------------------------------------------------------------- the socket

socket_path() {
	run 0 --socket=here "$tree" && [[ ! -e here ]] &&
		run 0 --socket="@run-sh-$$" "$tree"
}

longest_path() {
	local path
	path=$(printf 'a%.0s' {1..107})
	run 0 --socket="$path" "$tree" && [[ ! -e $path ]]
}

no_such_dir() {
	run 1 --socket=none/here "$tree" &&
		says 'none/here: No such file or directory' && says --socket
}

in_use() {
	listen "$PWD/here" >listening &
	local status
	soon test -s listening
	run 1 --socket=here "$tree" && says 'here: Address already in use' &&
		says 'another --socket' && [[ -S here ]]
	status=$?
	kill "$(<listening)"
	rm here
	return $status
}

not_a_socket() {
	echo precious >here
	run 1 --socket=here "$tree" && says 'here: Address already in use' &&
		[[ $(cat here) == precious ]]
}

stale() {
	listen here stale
	[[ -S here ]] && run 0 --socket=here "$tree" && [[ ! -e here ]]
}

# While they work there is nothing left to connect to.
closed_when_met() {
	many names >/dev/null
	hold --socket=here names || return
	[[ ! -e here ]] || return
	let_go
	client_ended 0
}

# meet CODE ARGUMENT...: starts a server by hand, and runs some perl in the place of
# the client once it listens at `here`: $pid is the server, A the control socket.
meet() {
	perl -MSocket -e '
		$^F = 255;
		socketpair(A, B, AF_UNIX, SOCK_SEQPACKET, 0) or die;
		$code = shift;
		$pid = fork;
		if (!$pid) {
			close A;
			exec shift, "serve", "--control=" . fileno(B),
				"--socket=here", @ARGV;
		}
		close B;
		defined recv(A, $ready, 1, 0) && $ready eq "r" && -S "here" or die;
		eval $code;
		die $@ if $@;
		waitpid $pid, 0;
		exit $? >> 8;' "$1" "$evering" "${@:2}" 2>err
}

client_killed_early() {
	# shellcheck disable=SC2016
	meet 'kill KILL => $$'
	soon nobody_left && [[ ! -e here ]]
}

client_gives_up() {
	meet 'close A' && [[ ! -e here && ! -s err ]]
}

client_never_comes() {
	meet 1 --timeout=0.1
	(($? == 1)) && says 'no client came to here: ' && says '--timeout' &&
		[[ ! -e here ]]
}

# Is turned away, and the server goes on waiting.
stranger() {
	# shellcheck disable=SC2016
	meet 'socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die;
		connect(S, sockaddr_un("here")) or die;
		send(S, "good day", 0) or die;
		recv(S, $answer, 4096, 0);
		recv(S, $answer, 4096, 0);
		length $answer and die;
		-S "here" or die;
		close A' && [[ ! -e here && ! -s err ]]
}

# ----------------------------------------------------------------------- ends

# busy: a client and a server in the middle of a large file.
busy() {
	local ticks
	start --socket=here "$@" "$big" >out 2>err
	soon serving >server && soon has_open "$client" "$big" &&
		ticks "$(<server)" && soon used "$(<server)" $((ticks + 5))
}

server_killed_waiting() {
	many names >/dev/null
	hold names || return
	kill -KILL "$(<server)"
	let_go
	client_ended 1 && says 'the server is gone' && says 'killed by signal 9'
}

server_killed_busy() {
	busy --wait="$1" || return
	kill -KILL "$(<server)"
	client_ended 1 && says 'the server is gone' && says 'killed by signal 9'
}

# With SIGCHLD ignored the kernel would take the server's status away.
server_killed_unseen() {
	local inherited=--ignore-signal=CHLD
	env $inherited true 2>/dev/null || skip 'env(1) has no --ignore-signal'
	busy --wait=block || return
	kill -KILL "$(<server)"
	client_ended 1 && says 'the server is gone' && says 'killed by signal 9'
}

client_killed_waiting() {
	many names >/dev/null
	hold names || return
	kill -KILL "$client"
	soon gone "$(<server)" && client_ended 137
}

client_killed_busy() {
	busy --wait="$1" || return
	kill -KILL "$client"
	soon gone "$(<server)" && client_ended 137 && [[ ! -e here ]]
}

signal_busy() {
	busy --wait="$2" || return
	kill "-$1" "$client"
	client_ended "$3" && says interrupted && says 'files  ' && says 'round trip' &&
		[[ ! -e here ]]
}

# To both, as a terminal and timeout(1) do.
signal_to_both() {
	busy || return
	kill "-$1" "$client" "$(<server)"
	client_ended "$2" && says interrupted && ! grep -q 'server' <(grep '^evering' err)
}

# Waiting to write to a full pipe.
signal_held() {
	many names >/dev/null
	hold names || return
	kill -INT "$client"
	client_ended 130 && says interrupted
}

stopped_server() {
	# It must have been long enough to meet.
	local timeout=0.5
	((slow > 1)) && timeout=$((slow / 10 + 1))
	busy --timeout=$timeout || return
	kill -STOP "$(<server)"
	kill -INT "$client"
	client_ended 130 && says 'is killed'
}

ignored_signal() {
	many names >/dev/null
	mkfifo fifo
	exec 9<>fifo
	(
		trap '' INT
		exec "$evering" run --sums names >fifo 2>err
	) &
	client=$!
	IFS= read -rd '' -N 1 -t 60 -u 9 _ || return
	kill -INT "$client"
	let_go
	client_ended 0
}

# -------------------------------------------------------------- standard output

full() {
	[[ -w /dev/full ]] || skip 'no /dev/full'
	"$evering" run --sums "$tree" >/dev/full 2>err
	(($? == 1)) && says 'standard output: No space left on device' &&
		soon nobody_left
	"$evering" --help >/dev/full 2>err
	(($? == 1)) && says 'standard output: No space left on device'
}

closed_pipe() {
	many names >/dev/null
	mkfifo fifo
	# Opened for writing while there is a reader, who then goes.
	exec 8<>fifo
	exec 9>fifo 8>&-
	"$evering" run --sums names >&9 2>err
	(($? == 1)) && says 'standard output: Broken pipe' && soon nobody_left
}

closed_stdout() {
	"$evering" run --sums "$tree" >&- 2>err
	(($? == 1)) && says 'standard output: Bad file descriptor' || return
	"$evering" run --sums "$tree" <&- >out 2>&- && sha256sum -c --quiet out
}

# ----------------------------------------------------------------- scarce things

few_descriptors() {
	local n status
	for n in 4 5 6 7 8 10 12 14 16 20 24; do
		(
			ulimit -n "$n"
			exec timeout -k 5 60 "$evering" run --sums "$tree/one"
		) >out 2>err 9>&-
		status=$?
		((status == 0)) && continue
		# What the loader, or a sanitizer, has to say is its own.
		((n < 8)) && ! grep -q '^evering run: ' err && continue
		if ((status != 1)) || ! says 'Too many open files'; then
			echo "status $status with $n descriptors"
			return 1
		fi
		says "ulimit -n" || return
	done
	((status == 0)) && soon nobody_left
}

little_memory() {
	[[ ! $(sanitizers "$evering") ]] || skip 'a sanitizer needs it'
	# Less than any quota of the module, so that it is memory that lacks.
	(
		ulimit -v 65536
		exec "$evering" run --arena=96M "$tree"
	) >out 2>err
	(($? == 1)) && says 'Cannot allocate memory' &&
		says 'an --arena smaller than 96 MiB' && soon nobody_left
}

quota() {
	[[ $EVERING_BACKEND == device ]] || skip 'memfd has none'
	run 1 --arena=64G "$tree" && says 'Disk quota exceeded' &&
		says 'a smaller --arena' && soon nobody_left
}

without_proc() {
	[[ ! $(sanitizers "$evering") ]] || skip 'a sanitizer needs /proc'
	unshare --mount true 2>/dev/null || skip 'no mount namespaces'
	# shellcheck disable=SC2016
	unshare --mount --propagation private sh -c \
		'mount -t tmpfs none /proc && [ ! -e /proc/self ]' 2>/dev/null ||
		skip 'cannot mount'
	# shellcheck disable=SC2016
	unshare --mount --propagation private sh -c 'mount -t tmpfs none /proc &&
		exec "$@"' sh "$evering" run --sums "$tree" >out 2>err || return
	sha256sum -c --quiet out
}

no_device() {
	[[ ! -e /dev/evering ]] || skip 'there is one'
	run 1 --backend=device "$tree" && says /dev/evering &&
		says --backend=memfd && soon nobody_left
}

bad_environment() {
	EVERING_BACKEND=pigeon run 1 "$tree" && says EVERING_BACKEND &&
		soon nobody_left
}

# -------------------------------------------------------------------- progress

has_progress() {
	grep -qE '[0-9.]+ .?B/s' typescript
}

# The file is too large to be done, and its size is known soon.
has_percentage() {
	grep -qE '\[=*> *\] +[0-9]+%' typescript
}

progress() {
	need_terminal
	local pid
	SHELL=/bin/sh TERM=xterm script -qfc "stty cols 100 2>/dev/null
		echo \$\$ >pid; exec '$evering' run $1 '$big'" typescript \
		</dev/null >/dev/null 2>&1 &
	pid=$!
	soon test -s pid
	client=$(<pid)
	if [[ $1 == --quiet ]]; then
		soon serving >server && soon used "$(<server)" 100
	else
		soon has_progress && soon has_percentage
	fi || {
		kill "$client"
		return 1
	}
	kill "$client"
	wait "$pid"
	soon nobody_left || return
	if [[ $1 == --quiet ]]; then
		! has_progress && grep -q interrupted typescript
	else
		grep -q $'\r\e\[Kevering run: interrupted' typescript
	fi
}

# ------------------------------------------------------------------------- all

# on BACKEND: what the backend has a part in.
on() {
	local policy slot
	export EVERING_BACKEND=$1

	for policy in block adaptive busy; do
		for slot in 16 32 64 128 256; do
			[[ $short && $slot != 16 && $slot != 256 ]] && continue
			check "$1: slots of $slot bytes, $policy" sums \
				--slot=$slot --wait=$policy
		done
		if [[ ! $guest ]]; then
			check "$1: small ring, $policy" sums --ring=4 \
				--wait=$policy
			check "$1: small arena, $policy" sums --arena=4096 \
				--wait=$policy
		fi
		check "$1: small all, $policy" sums --slot=16 --ring=4 \
			--arena=4096 --wait=$policy
		check "$1: larger than the arena, $policy" larger_than_arena \
			--wait=$policy
	done
	check "$1: much larger than the arena" larger_than_arena --arena=64K
	check "$1: large ring, full" sums --ring=65536 --depth=65536 \
		--arena=64M --chunk=1K
	check "$1: no spinning" sums --wait=adaptive --spin=0
	check "$1: summary" summary
	check "$1: parts of a round trip" parts
	check "$1: summary in JSON" json

	check "$1: server killed while it waits" server_killed_waiting
	check "$1: client killed while it waits" client_killed_waiting
	for policy in block adaptive busy; do
		check "$1: server killed at work, $policy" server_killed_busy \
			$policy
		check "$1: client killed at work, $policy" client_killed_busy \
			$policy
		check "$1: SIGINT, $policy" signal_busy INT $policy 130
	done
	check "$1: SIGINT to both" signal_to_both INT 130
	check "$1: SIGINT while the output has no reader" signal_held
	check "$1: a server that does not react" stopped_server

	check "$1: closed standard descriptors" closed_stdout
	check "$1: few descriptors" few_descriptors
	check "$1: little memory" little_memory
	check "$1: quota" quota
	check "$1: no /proc" without_proc
	unset EVERING_BACKEND
}

# What it has none in: on whichever it chooses by itself.
on_any() {
	check 'the sums are right' sums
	check 'sha256sum reads the sums' sha256sum_reads
	check 'the same order every time' order
	check 'chunk as large as a file' sums --chunk=65536
	check 'chunk as large as the arena' sums --chunk=64K --arena=64K
	check 'chunk as large as the smallest arena' sums --chunk=4096 \
		--arena=4096
	check 'one in flight' sums --depth=1
	check 'one file' one_file
	check "a file called '-'" file_called_dash
	check 'through a symbolic link' through_link
	check 'an empty folder' empty_dir
	check 'a file of unknown size' size_unknown
	check 'deeper than PATH_MAX' beyond_path_max
	check 'itself' itself

	check 'quiet' quiet
	check 'progress on a terminal' progress ''
	check 'no progress when quiet' progress --quiet

	check 'wrong options' usage_errors
	check 'commands' commands
	check 'wrong folders' bad_dirs

	check 'files and folders that may not be read' unreadable
	check 'a file that vanishes' vanished
	check 'a file that fails in the middle' failing
	check 'a file that fails at once' unreadable_at_once

	check 'socket at a path' socket_path
	check 'socket at the longest path' longest_path
	check 'socket in a folder that is not there' no_such_dir
	check 'socket in use' in_use
	check 'socket where a file is' not_a_socket
	check 'stale socket' stale
	check 'socket is gone once they have met' closed_when_met

	check 'client killed before they meet' client_killed_early
	check 'client gives up before they meet' client_gives_up
	check 'client never comes' client_never_comes
	check 'a stranger comes' stranger

	check SIGTERM signal_busy TERM adaptive 143
	check SIGHUP signal_busy HUP adaptive 129
	check 'SIGTERM to both' signal_to_both TERM 143
	check 'SIGINT that is ignored' ignored_signal
	check 'SIGCHLD that is ignored' server_killed_unseen

	check 'no space for the sums' full
	check 'the sums have no reader' closed_pipe

	check 'no device' no_device
	check 'EVERING_BACKEND that is none' bad_environment
}

echo 'TAP version 13'
make_tree
# It has been run before a guest is started, and takes twenty times as long there.
if [[ $guest ]]; then
	check 'what no backend has a part in' skip EVERING_GUEST
else
	on_any
fi
for backend in "${backends[@]}"; do
	on "$backend"
done

plan
