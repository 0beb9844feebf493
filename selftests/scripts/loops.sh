#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of the event loops' examples, tools/examples/loop_epoll.c and those of loops/,
# on each backend that is there: many channels on one thread, all answers right,
# nobody starved, clients and servers killed, nothing leaked, and no CPU used by who
# has nothing to do.  TAP.
#
#	BUILD=dir		where examples/ lies (build)
#	EVERING_BACKEND=name	on this one alone, instead of on each that is here
#	EVERING_SHORT=1		fewer requests, and 25 channels instead of a hundred
#	EVERING_GUEST=1		what the device has a part in, likewise
#	EVERING_SLOW=n		so many times as long where time is bounded

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
[[ -x $build/examples/loop_epoll ]] || bail_out "no $build/examples/loop_epoll"
limit=$((slow > 1 ? 300 : 120))
rounds=200
[[ $short || $guest ]] && rounds=40
channels=100
[[ ! $short && ! $guest ]] || channels=25
head -c 250000 /dev/urandom >"$tmp/file"

# ------------------------------------------------------------------ machinery

# run STATUS PROGRAM ARGUMENT...: an example ends with this status.
run() {
	exits "$1" "$bin/$2" "${@:3}"
}

# start NAME: it serves; what drives it is $client with $file, which is empty or the
# file.
start() {
	read -r program file <<<"$1"
	client=loop_epoll
	[[ $file ]] && client=$program
	: >served-err
	# shellcheck disable=SC2086 # there may be none
	serve "$program" serve $file
}

# finish SIGNAL STATUS: the server ends, so, and had nothing to complain of.
finish() {
	stop "$@" && [[ ! -s served-err ]] && return
	cat served-err
	return 1
}

# drive N ROUNDS [OPTION...]: that many channels, all answers right.
drive() {
	# shellcheck disable=SC2086 # there may be none
	run 0 "$client" --channels="$1" --rounds="$2" "${@:3}" drive $file &&
		says "$1 channels, $2 requests each, all right" out
}

# begin N OUT OPTION...: the same in the background, as $driver.
begin() {
	# shellcheck disable=SC2086 # there may be none
	"$bin/$client" --channels="$1" "${@:3}" drive $file >"$2" 2>"$2-err" &
	driver=$!
}

# descriptors PID: without the group file of the device, which comes with the first channel
# and stays.
descriptors() {
	local fds=("/proc/$1/fd"/*) fd n=0
	for fd in "${fds[@]}"; do
		[[ $(readlink "$fd") == anon_inode:\[evering-group\] ]] || n=$((n + 1))
	done
	echo "$n"
}

# descriptors_are PID N
descriptors_are() {
	(($(descriptors "$1") == $2))
}

descriptors_over() {
	(($(descriptors "$1") > $2)) && return
	echo 'the channels that are left are not there'
	return 1
}

children() {
	cat "/proc/$1/task/$1/children" 2>/dev/null
}

# has_four PID: it has started all of its processes.
has_four() {
	# shellcheck disable=SC2046 # a list
	set -- $(children "$1")
	(($# == 4))
}

# used PID: how often it has slept or been put aside, and the time it has used.
used() {
	grep ctxt_switches "/proc/$1/status"
	cut -d' ' -f 14,15 "/proc/$1/stat"
}

asleep() {
	grep -q '^State:.S' "/proc/$1/status"
}

# ---------------------------------------------------------------------- tests

# The last three want a library, or a compiler, that is not everywhere.
for name in loop_epoll loop_uring loop_uv worker; do
	[[ ! -x $build/examples/$name ]] || cp "$build/examples/$name" "$bin"
done

built() {
	[[ -x $bin/${1%% *} ]] || skip "${1%% *} is not built: what it needs is not here"
	[[ $1 != loop_uring* ]] || uring_works || skip 'no io_uring here'
}

# Whether the kernel lets it be: containers often do not.
uring_works() {
	: >served
	"$bin/loop_uring" --socket="@loops-try-$$" serve >tried 2>tried-err &
	local pid=$! status
	soon test -s tried -o -s tried-err
	kill "$pid" 2>/dev/null
	wait "$pid"
	status=$?
	[[ ! -s tried-err ]] && ((status == 0))
}

options() {
	built "$1"
	run 0 "$1" --help && says "Usage: $1" out && [[ ! -s err ]] &&
		run 2 "$1" --nonsense && says "Usage: $1" && [[ ! -s out ]] &&
		run 2 "$1" && run 2 "$1" nonsense && run 2 "$1" serve a b &&
		run 2 "$1" --channels=0 drive && says '--channels=0: must be 1..' &&
		run 2 "$1" --rounds=1x drive && says '--rounds=1x: must be' &&
		run 1 "$1" drive && says 'loop.socket: No such file' &&
		says 'is a server running' &&
		run 1 "$1" --socket=none/here serve && says 'No such file'
}

# Everything right, and nobody had more than two turns while others waited.
many() {
	local n
	built "$1"
	start "$1" && drive $channels $rounds && finish TERM 0 &&
		says "$channels channels, $((channels * rounds)) requests" served || return
	[[ $1 == worker ]] && return
	n=$(sed -nE 's/.*at most ([0-9]+) in a row$/\1/p' served)
	[[ $n ]] && ((n >= 1 && n <= 8)) && return
	echo "at most ${n:-?} in a row"
	return 1
}

# Its own client, and a socket without a file.
own_client() {
	built "$1"
	local socket="@loops-$$"
	start "$1 --socket=$socket" &&
		run 0 "$1" --socket="$socket" --channels=$channels --rounds=$rounds drive &&
		says "$channels channels, $rounds requests each, all right" out &&
		run 1 "$1" --socket="$socket" serve &&
		says 'Address already in use; stop the server' && finish INT 0
}

# With many channels that have had answers and want nothing: half a second without
# being put on a CPU even once.  What was under way before it, the listener's clock
# among others, ends.
idle() {
	built "$1"
	start "$1" && begin $channels held --rounds=5 --hold && soon grep -q right held &&
		soon still && soon asleep "$server" && kill_driver && finish TERM 0
}

still() {
	local before
	before=$(used "$server")
	sleep 0.5
	[[ $(used "$server") == "$before" ]]
}

# kill_driver: it and its children.
kill_driver() {
	# shellcheck disable=SC2046 # a list
	kill -KILL "$driver" $(children "$driver")
	wait "$driver"
	return 0
}

# Some that work without end, some that only hold; half of each are killed, and others
# go on; in the end the server has what it began with.
clients_killed() {
	local base hog hold
	built "$1"
	start "$1" && base=$(descriptors "$server") || return
	begin 40 hogs --rounds=0
	hog=$driver
	begin 40 holders --rounds=3 --hold
	hold=$driver
	soon grep -q right holders || return
	for driver in "$hog" "$hold"; do
		soon has_four "$driver" || return
		# shellcheck disable=SC2046 # a list
		set -- $(children "$driver")
		kill -KILL "$1" "$3" || return
	done
	drive $channels $rounds && descriptors_over "$server" "$base" || return
	for driver in "$hog" "$hold"; do
		kill_driver
	done
	soon descriptors_are "$server" "$base" && drive $channels $rounds &&
		soon descriptors_are "$server" "$base" && finish TERM 0
}

# ends_at_work NAME SIGNAL STATUS: the server does while it has much to do for all its
# channels, and its clients say so.
ends_at_work() {
	local base each
	built "$1"
	start "$1" && base=$(descriptors "$server") &&
		begin 4 four --rounds=1 --hold && soon grep -q right four || return
	each=$((($(descriptors "$server") - base) / 4))
	kill_driver
	soon descriptors_are "$server" "$base" && begin $channels hogs --rounds=0 &&
		soon descriptors_are "$server" $((base + channels * each)) &&
		finish "$2" "$3" || return
	wait "$driver"
	(($? == 1)) && says 'the server is gone' hogs-err &&
		says '4 of 4 processes failed' hogs-err || return
	[[ $2 != KILL ]] || rm loop.socket
}

# More than there are descriptors for: those get none, the others are served, and so are
# who come when there are some again.
too_many() {
	local base
	built "$1"
	(
		ulimit -n 64 || exit
		exec "$bin/$1" serve
	) >served 2>served-err &
	server=$! client=loop_epoll file=
	soon test -s served || return
	base=$(descriptors "$server")
	run 1 loop_epoll --channels=100 --processes=1 drive || return
	# The client may be told, and gone, before the server has said so.
	soon grep -q 'Too many open files; allow more' served-err &&
		soon descriptors_are "$server" "$base" || return
	: >served-err
	drive 3 5 && finish TERM 0
}

# What does not speak, speaks nonsense, or hangs up.
strangers() {
	local base
	built "$1"
	need python3
	start "$1" || return
	base=$(descriptors "$server")
	python3 - <<-'PY' || return
		import socket
		for text in (b"", b"hello", b"\0" * 100):
		    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
		    s.connect("loop.socket")
		    if text:
		        s.send(text)
		    s.close()
	PY
	drive $channels 5 && soon descriptors_are "$server" "$base" && finish TERM 0
}

# A file that has no whole number of blocks, and another at the client.
blocks() {
	built loop_uring
	head -c 5000 "$tmp/file" >short
	: >empty
	start 'loop_uring short' && drive 10 70 && finish TERM 0 || return
	start 'loop_uring empty' && drive 10 70 && finish TERM 0 || return
	start "loop_uring $tmp/file" &&
		run 1 loop_uring --channels=4 drive short &&
		says 'is it the same file' && finish TERM 0 || return
	run 1 loop_uring serve nowhere && says 'nowhere: No such file'
}

# The least that may be pinned is too little for so many arenas.
not_pinned() {
	built loop_uring
	((!EUID)) || skip 'not root'
	"${as_nobody[@]}" true 2>/dev/null || skip 'setpriv(1) cannot'
	chmod 755 "$tmp" "$bin" && chmod 777 . && chmod 644 "$tmp/file"
	"${as_nobody[@]}" test -x "$bin/loop_uring" ||
		skip 'the folder is not for everybody'
	[[ $EVERING_BACKEND != device ]] ||
		"${as_nobody[@]}" test -w /dev/evering ||
		skip '/dev/evering is not for everybody'
	ulimit -l 1024
	: >served
	: >served-err
	"${as_nobody[@]}" "$bin/loop_uring" serve "$tmp/file" >served 2>served-err &
	server=$! client=loop_uring file=$tmp/file
	soon test -s served -o -s served-err
	[[ -s served ]] || skip "no io_uring for everybody"
	drive $channels 40 && finish TERM 0
}

# Ends by a signal that was blocked when it was started.
blocked() {
	built "$1"
	env --block-signal=TERM true 2>/dev/null || skip 'env(1) has no --block-signal'
	: >served
	env --block-signal "$bin/$1" serve >served 2>served-err &
	server=$!
	soon test -s served && kill -TERM "$server" && ended "$server" 0
}

# ------------------------------------------------------------------------- all

# on BACKEND
on() {
	export EVERING_BACKEND=$1
	local name
	local names=(loop_epoll loop_uring "loop_uring $tmp/file" loop_uv worker)
	# What is the kernel's: the module's rings with io_uring beside them.
	[[ $guest ]] && names=("loop_uring $tmp/file")
	for name in "${names[@]}"; do
		local what="${name/$tmp\//}, $1"
		check "$what: many channels" many "$name"
		check "$what: idle" idle "$name"
		[[ $guest ]] || check "$what: clients killed" clients_killed "$name"
		[[ $guest ]] || check "$what: ended at work" ends_at_work "$name" TERM 0
		check "$what: killed" ends_at_work "$name" KILL 137
		[[ $name == *' '* || $guest ]] && continue
		check "$what: its own client" own_client "$name"
		check "$what: strangers" strangers "$name"
		check "$what: signals blocked" blocked "$name"
		check "$what: too many" too_many "$name"
	done
	check "loop_uring, $1: blocks" blocks
	check "loop_uring, $1: not pinned" not_pinned
}

echo 'TAP version 13'
if [[ ! $guest ]]; then
	for name in loop_epoll loop_uring loop_uv worker; do
		check "$name: options" options "$name"
	done
fi
for backend in "${backends[@]}"; do
	on "$backend"
done

plan
