#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of `evering ping`, `pipe`, `cat`, `top` and `doctor`: what they do, what they
# say and how they exit when something goes wrong, and that they leave nothing behind.
# TAP.
#
#	BUILD=dir		where `evering` lies (build)
#	EVERING_BACKEND=name	on this one alone, instead of on each that is here
#	EVERING_SHORT=1		less of what is the same in every build
#	EVERING_GUEST=1		what kernel or backend have a part in
#	EVERING_SLOW=n		so many times as long where time is bounded

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
completion=$top/tools/packaging/completion/evering
evering=$bin/evering
cp "$build/evering" "$evering" || bail_out "no $build/evering"
# Where it is built, `evering relay` is tried, too.
[[ ! -e $build/evering-relay ]] || cp "$build/evering-relay" "$bin"
head -c 3000001 /dev/urandom >"$tmp/there"
head -c 2000003 /dev/urandom >"$tmp/back"

# ------------------------------------------------------------------ machinery

# run STATUS ARGUMENT...: evering ends with this status.
run() {
	exits "$1" "$evering" "${@:2}"
}

# start ARGUMENT...: evering in the background; its process is $pid.
start() {
	background "$evering" "$@"
}

# answerer PID: prints the child that answers its pings.
answerer() {
	child_of "$1" evering-pong
}

# has REGEX FILE
has() {
	grep -qE -- "$1" "$2" 2>/dev/null
}

# json FILE: every line is an object, if python3 is here to check it.
json() {
	if [[ ! -s $1 ]] || grep -qvE '^\{.*\}$' "$1"; then
		echo "no objects, one a line:"
		cat "$1"
		return 1
	fi
	command -v python3 >/dev/null || return 0
	python3 -c 'import json, sys
for line in sys.stdin: json.loads(line)' <"$1"
}

# ----------------------------------------------------------------------- ping

pings() {
	run 0 ping -c 3 -i 0.01 || return
	says 'PING pid ' out && says '56 bytes from pid ' out &&
		says ': seq=3 time=' out && says '3 answered, 0 lost (0 %)' out &&
		says 'p99.9 ' out && has '^ *[0-9.]+ [num]?s \.\. .* [1-3] #+$' out &&
		says 'adaptive (spins, then sleeps): ' out &&
		[[ $(grep -c ': seq=' out) == 3 && ! -s err ]]
}

ping_json() {
	run 0 ping -c 2 -i 0.01 --json && json out && says '"seq": 2,' out &&
		says '"sent": 2, "received": 2, "lost": 0,' out &&
		says '"histogram": [{"from_ns": ' out && [[ $(wc -l <out) == 3 ]]
}

ping_wakes() {
	run 0 ping -c 5 -i 0.05 -q --wait=block && has '^block .*: of 5 pings [1-5] woke the other side' out &&
		says 'Most of these times is what the kernel takes' out
}

ping_advises() {
	run 0 ping -c 5 -i 0.05 -q && says '--interval=0, or --wait=busy, avoids that' out
}

# Why it takes so long: with time in between both sides sleep, unless neither ever does.
ping_reason() {
	# On a busy machine a side may not come to sleep between two pings.
	soon ping_wakes && soon ping_advises &&
		run 0 ping -c 100 -i 0 -q --wait=busy && says 'busy (never sleeps): neither side slept' out &&
		run 0 ping -c 5 -i 0.05 -q --wait=block --json && has '"woke_peer": [1-5], "slept": [0-5],' out
}

# Around what fits into slots, and through the arenas.
ping_sizes() {
	local size
	for size in 4 12 13 60 252 253 65536 65537 1M; do
		run 0 ping -c 20 -i 0 -s $size --wait="$1" &&
			says '20 answered, 0 lost' out || return
	done
}

ping_deadline() {
	run 0 ping -i 0.01 -w 0.1 -q && says ' 0 lost' out && [[ ! -s err ]]
}

has_mode() {
	[[ -S $1 && $(stat -c %a "$1") == "$2" ]]
}

ping_two() {
	local server
	start ping --listen=here >heard 2>err
	server=$pid
	# The file is there a moment before it has its mode, and anybody may connect.
	soon has_mode here 600 || return
	soon run 0 ping --connect=here -c 2 -i 0.01 && says "from pid $server: seq=2" out &&
		run 0 ping --connect=here -c 100 -i 0 -s 100K || return
	kill -INT "$server"
	ended "$server" 0 && [[ ! -e here && $(grep -c 'has come' heard) == 2 ]]
}

# answered FILE: so many lines that tell of an answer.
answered() {
	[[ $(grep -c ': seq=' "$1") -ge $2 ]]
}

# One listening process answers several clients at a time, also beside one that is stopped.
# When it ends it reports each client that is left.
ping_crowd() {
	local server i pids=()
	start ping --listen=here --json >heard 2>err.listen
	server=$pid
	soon has_mode here 600 || return
	for i in 1 2 3 4; do
		start ping --connect=here -i 0.01 >out.$i 2>err.$i
		pids+=("$pid")
		soon answered out.$i 1 || return
	done
	kill -STOP "${pids[0]}"
	kill -KILL "${pids[1]}"
	wait "${pids[1]}" 2>/dev/null
	for i in 3 4; do
		soon answered out.$i $(($(grep -c ': seq=' out.$i) + 10)) || return
	done
	soon says '"event": "gone"' heard && json heard || return
	[[ $(grep -c '"event": "come"' heard) == 4 && $(grep -c '"event": "gone"' heard) == 1 ]] || return
	kill -TERM "$server"
	ended "$server" 143 && [[ $(grep -c '"event": "gone"' heard) == 4 && ! -s err.listen ]] || return
	for i in 3 4; do
		ended "${pids[i - 1]}" 1 && says 'has closed the channel' err.$i || return
	done
	kill -KILL "${pids[0]}"
	wait "${pids[0]}" 2>/dev/null
	[[ ! -e here ]]
}

# Clients beyond its descriptors are refused, or wait, until others go; the process and the
# clients that it has live on.
ping_full() {
	local server i pids=()
	local -x EVERING_BACKEND=memfd # which needs most of them
	(ulimit -n 28 && exec "$evering" ping --listen=here) >heard 2>err.listen &
	server=$!
	soon has_mode here 600 || return
	for i in {1..28}; do
		start ping --connect=here -i 0.01 >"out.$i" 2>"err.$i"
		pids+=("$pid")
		soon either "$pid" "out.$i" || return
		answered "out.$i" 1 || break
	done
	says 'cannot accept a client' err.listen && ((i > 2 && i < 28)) || return
	kill -INT "${pids[@]:1}" 2>/dev/null
	wait "${pids[@]:1}" 2>/dev/null
	soon run 0 ping --connect=here -c 1 || return
	soon answered out.1 $(($(grep -c ': seq=' out.1) + 10)) || return
	kill -INT "${pids[0]}"
	ended "${pids[0]}" 0 || return
	kill -INT "$server"
	ended "$server" 0
}

# The client has had an answer, or has ended, or the listening process has complained.
either() {
	answered "$2" 1 || ! kill -0 "$1" 2>/dev/null || [[ -s err.listen ]]
}

ping_interrupted() {
	start ping -i 0 -q --wait="$1" >out 2>err
	soon answerer "$pid" >/dev/null || return
	kill "-$2" "$pid"
	ended "$pid" "$3" || return
	# Before it has met its child there is nothing to sum up.
	[[ ! -s out ]] || says ' 0 lost' out
}

ping_answerer_dies() {
	local child
	start ping -i 0.01 >out 2>err
	soon has 'seq=2 ' out && child=$(answerer "$pid") || return
	kill -KILL "$child"
	ended "$pid" 1 && says "pid $child has died" && says 'answered' out
}

ping_answerer_stops() {
	local child
	start ping -i 0.05 >out 2>err
	soon has 'seq=2 ' out && child=$(answerer "$pid") || return
	kill -STOP "$child"
	soon has 'no answer yet' out || return
	kill -INT "$pid"
	ended "$pid" 1 && says 'is it stopped?' && says ' 1 lost' out
}

# ----------------------------------------------------------------------- pipe

# listen COMMAND ARGUMENT...: starts the listening side, its input being descriptor 0; sets
# $listener.
listen() {
	start "$1" --listen=here "${@:2}" 2>err.listen
	listener=$pid
	soon test -S here
}

both_ways() {
	listen pipe --wait="$1" <"$tmp/back" >there || return
	"$evering" pipe --connect=here --timeout=60 --wait="$1" --json <"$tmp/there" >back 2>err ||
		return
	ended "$listener" 0 && same "$tmp/there" there && same "$tmp/back" back &&
		[[ ! -e here && ! -s err.listen ]] && json err &&
		says '"sent_bytes": 3000001, "received_bytes": 2000003' &&
		says '"status": 0'
}

nothing() {
	listen pipe </dev/null >there || return
	run 0 pipe --connect=here --timeout=60 </dev/null && ended "$listener" 0 &&
		[[ ! -s there && ! -s out && ! -s err ]]
}

# The listening side answers when it has heard all.
half_close() {
	mkfifo answer
	# First, as opening a fifo waits for who opens the other end.
	{
		soon has '^last$' question
		tr '[:lower:]' '[:upper:]' <question
	} >answer &
	listen pipe <answer >question || return
	printf 'first\nlast\n' | timeout -k 5 60 "$evering" pipe --connect=here --timeout=60 >out || return
	printf 'FIRST\nLAST\n' | same - out
	wait
}

# Its input is another process's.
one_way() {
	printf 'untouched\n' >input
	exec 7<input
	listen cat <&7 >there || return
	"$evering" cat --connect=here --timeout=60 <"$tmp/there" >out || return
	ended "$listener" 0 && same "$tmp/there" there && [[ ! -s out ]] || return
	read -r line <&7
	[[ $line == untouched ]]
}

# Bytes as they come, not only at the end.
by_and_by() {
	mkfifo fifo
	listen pipe </dev/null >there || return
	"$evering" pipe --connect=here --timeout=60 <fifo &
	pid=$!
	exec 8>fifo
	echo one >&8
	soon has '^one$' there || return
	echo two >&8
	soon has '^two$' there || return
	exec 8>&-
	wait "$pid" && ended "$listener" 0
}

# Nobody reads: everything stands still, and uses no CPU; then it goes on.
backpressure() {
	local before sender
	mkfifo fifo
	exec 8<>fifo
	listen pipe </dev/null >fifo || return
	start pipe --connect=here --timeout=60 </dev/zero >out 2>err
	sender=$pid
	soon stands_still "$listener" "$sender" || return
	ticks "$listener" "$sender"
	before=$ticks
	sleep 1
	ticks "$listener" "$sender"
	if ((ticks - before > 5)); then
		echo "$((ticks - before)) ticks in a second"
		return 1
	fi
	# 2 MiB are more than can be under way.
	timeout -k 5 60 head -c 2097152 <&8 | wc -c >count
	[[ $(<count) == 2097152 ]] || return
	kill -KILL "$sender"
	cat <&8 >/dev/null &
	ended "$listener" 4
	kill "$!"
}

stands_still() {
	local was
	ticks "$@"
	was=$ticks
	sleep 0.3
	ticks "$@"
	((ticks > 0 || slow == 1)) && ((ticks == was))
}

disk_full() {
	[[ -w /dev/full ]] || skip 'no /dev/full'
	listen pipe </dev/null >/dev/full || return
	run 3 pipe --connect=here --timeout=60 </dev/zero && says 'closed the channel before' &&
		ended "$listener" 1 &&
		says 'standard output: No space left on device' err.listen
}

reader_goes() {
	mkfifo fifo
	exec 8<>fifo
	listen pipe </dev/null >fifo || return
	start pipe --connect=here --timeout=60 </dev/zero >out 2>err
	head -c 10 <&8 >/dev/null
	exec 8>&-
	ended "$listener" 141 && [[ ! -s err.listen ]] && ended "$pid" 3 &&
		says 'closed the channel before'
}

other_dies() {
	local input
	mkfifo fifo
	exec 8<>fifo
	# Waiting to read, and at work.
	for input in fifo /dev/zero; do
		listen pipe --wait="$1" <fifo >/dev/null || return
		start pipe --wait="$1" --connect=here --timeout=60 <$input >out 2>err
		soon test ! -e here || return
		kill -KILL "$listener"
		ended "$pid" 4 && says 'the other side died' || return
		wait "$listener" 2>/dev/null
	done
	return 0
}

no_input() {
	listen pipe </dev/null >there || return
	run 1 pipe --connect=here --timeout=60 </ && says 'standard input: Is a directory' &&
		ended "$listener" 3 && says 'could not read' err.listen
}

pipe_signal() {
	start pipe --listen=here </dev/null >out 2>err
	soon test -S here || return
	kill "-$1" "$pid"
	ended "$pid" "$2" && [[ ! -e here && ! -s err ]]
}

pipe_waits() {
	start pipe --connect=here --timeout=100 <"$tmp/there" >out 2>err
	listener=$pid
	start pipe --listen=here </dev/null >there 2>err.listen
	ended "$pid" 0 && ended "$listener" 0 && same "$tmp/there" there
}

nobody_comes() {
	run 1 pipe --listen=here --timeout=0.05 </dev/null && says 'no process connected to here' &&
		[[ ! -e here ]] && run 1 pipe --connect=here </dev/null &&
		says 'here' && says 'no process listens there'
}

# activate NAME COMMAND...: the way a service manager does, with a socket at `here` of that
# name.
activate() {
	if [[ $stand_in ]]; then
		# shellcheck disable=SC2016 # it is Perl
		background perl -MSocket -MPOSIX=dup2 -e '
			$^F = 3;
			my ($name, @command) = @ARGV;
			socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die;
			bind(S, sockaddr_un("here")) && listen(S, 8) or die;
			fileno(S) == 3 or dup2(fileno(S), 3) or die;
			@ENV{qw(LISTEN_PID LISTEN_FDS LISTEN_FDNAMES)} = ($$, 1, $name);
			exec(@command) or die' "$@"
	else
		background systemd-socket-activate --seqpacket -l "$PWD/here" --fdname="$1" "${@:2}"
	fi
	soon test -S here
}

# Its file is the manager's, and stays.
activated() {
	stand_in=$1
	[[ $1 ]] || need systemd-socket-activate
	activate door "$evering" pipe --listen=fd:door </dev/null >there 2>err.listen || return
	run 0 pipe --connect=here --timeout=60 <"$tmp/there" &&
		ended "$pid" 0 && same "$tmp/there" there && [[ -S here ]] || return
	rm here
	activate door "$evering" ping --listen=fd: >out.ping 2>err.listen || return
	soon run 0 ping --connect=here -c 1 || return
	kill -TERM "$pid"
	ended "$pid" 143 && [[ -S here ]] && rm here || return
	run 1 pipe --listen=fd: </dev/null && says 'no socket was passed to this process' &&
		run 1 pipe --listen=fd:x </dev/null && says 'no socket named x was passed'
}

# Who speaks something else is turned away, and the right one served.
strangers() {
	listen pipe </dev/null >there || return
	run 1 ping --connect=here -c 1 -s 100 && says 'cannot connect to here' || return
	[[ -S here ]] && "$evering" pipe --connect=here --timeout=60 <"$tmp/there" &&
		ended "$listener" 0 && same "$tmp/there" there || return

	start ping --listen=there.sock >heard 2>err
	soon test -S there.sock || return
	timeout -k 5 60 "$evering" pipe --connect=there.sock </dev/null 2>err.pipe
	case $? in
	1 | 3) ;;
	*) return 1 ;;
	esac
	soon run 0 ping --connect=there.sock -c 1 || return
	kill -TERM "$pid"
	ended "$pid" 143 && [[ ! -e there.sock ]]
}

few_descriptors() {
	local n status
	for n in 8 10 12 14 16 18; do
		(
			ulimit -n "$n"
			exec timeout -k 5 60 "$evering" "$@"
		) >out 2>err </dev/null
		status=$?
		((status == 0)) && continue
		((status == 1)) && says 'Too many open files' && says 'ulimit -n' || return
	done
	((status == 0))
}

# A keyboard's input ends with the other side's.
terminal_ends() {
	need_terminal
	# script(1) passes on an end of its own input: there must be none.
	mkfifo keys
	exec 8<>keys
	SHELL=/bin/sh script -qfc "'$evering' pipe --listen=here" typescript <keys >/dev/null 2>&1 &
	soon test -S here || return
	echo hello | timeout -k 5 60 "$evering" pipe --connect=here --timeout=60 >out || return
	soon nobody_left && says hello typescript
	exec 8>&-
	wait
}

# ------------------------------------------------------------------------ top

# A channel that is busy, or as $@ says; sets $pid and $child.
busy() {
	start ping -q -i 0 "$@" >out.ping 2>err.ping
	soon answerer "$pid" >child && child=$(<child)
}

# seen: top finds it in its first table.
seen() {
	run 0 top -c 1 -i 0.1 --json && has "\"pid\": $pid, .*\"pid\": $child, .*" out
}

# The objects of one channel, A's and B's, a line each.
line_of() {
	tr '{' '\n' <out | grep -A1 -F "\"pid\": $1," | head -n 2
}

top_json() {
	busy -s 100 || return
	soon seen || return
	soon rates_seen || return
	json out && line_of "$pid" >lines && says '"command": "evering"' lines &&
		says '"command": "evering-pong"' lines && has '"sent": [1-9]' lines &&
		has '"fill": [0-9]+, "rings": [0-9]+, "sleeps": [0-9]+' lines &&
		has '"slot": 128, "ring": 16' out && says "\"backend\": \"$1\"" out || return
	kill -INT "$pid"
	ended "$pid" 0
}

rates_seen() {
	seen && line_of "$pid" | grep -qE '"messages_per_second": [0-9]*[1-9]'
}

top_table() {
	busy || return
	soon seen || return
	run 0 top -b -c 2 -i 0.1 && [[ $(grep -c '^CHANNEL ' out) == 2 ]] &&
		has "^[dm][0-9]+ +A +$pid evering +16x64 " out &&
		has "^ +B +$child evering-pong +16x64 " out || return
	! grep -q $'\e' out || return
	kill -INT "$pid"
	ended "$pid" 0
}

# heads WIDTH TEXT: the columns that fit, whole, and so do the lines below them.
heads() {
	COLUMNS=$1 run 0 top -b -c 1 -i 0.1 && grep 'COMMAND ' out >heads || return
	[[ $(tr -s ' ' <heads) =~ ^$2$ ]] && ! grep -E "^.{$(($1 + 1))}" out &&
		has "^.*A +$pid evering .*(awake|asleep)\$" out && return
	cat out
	return 1
}

# A terminal that is narrow has the columns that matter most.
top_columns() {
	busy || return
	soon seen || return
	heads 120 'CHANNEL E PID COMMAND RING ARENA FILL MESSAGES/S BELLS/S QUIET SLEEPS/S STATE' &&
		heads 80 'CHANNEL E PID COMMAND FILL MESSAGES/S( QUIET)? SLEEPS/S STATE' &&
		heads 50 'E PID COMMAND MESSAGES/S STATE' || return
	kill -INT "$pid"
	ended "$pid" 0
}

# A user who may not look into others reads how many these are, without the kernel's threads and
# zombies.  Here they are a shell, which runs top, and what the shell has started.
top_hidden() {
	((EUID == 0)) || skip 'needs a PID namespace: be root'
	"${as_nobody[@]}" true 2>/dev/null || skip 'no setpriv(1)'
	unshare --pid --fork --mount-proc true 2>/dev/null || skip 'no namespaces'
	chmod 711 "$tmp"
	# shellcheck disable=SC2016 # the other shell's
	# One is a zombie: its parent, which was a shell when it started it, never waits for it.
	unshare --pid --fork --mount-proc bash -c '
		(bash -c "until grep -q sleep /proc/\$PPID/comm; do :; done" & exec sleep 300) &
		sleep 300 &
		until grep -qs "^State:.Z" /proc/[0-9]*/status; do sleep 0.01; done
		"$@" --json >out; "$@" -b >table; kill %1 %2' - \
		"${as_nobody[@]}" "$evering" top -c 1 -i 0.01
	has '"hidden_processes": 3,' out && has '^3 processes hidden: only root sees all$' table && return
	cat out table
	return 1
}

# Threads of the kernel hide nothing.
top_kernel_threads() {
	local hidden others
	((EUID == 0)) || skip 'needs another user: be root'
	"${as_nobody[@]}" true 2>/dev/null || skip 'no setpriv(1)'
	grep -qs '^2 (kthreadd)' /proc/2/stat || skip 'no threads of the kernel here'
	chmod 711 "$tmp"
	for ((i = 0; i < 10; i++)); do
		"${as_nobody[@]}" "$evering" top -c 1 -i 0.01 --json >out || return
		hidden=$(grep -oE '"hidden_processes": [0-9]+' out)
		others=$(grep -ls '^VmSize:' /proc/[0-9]*/status | wc -l)
		# Others come and go meanwhile.
		((${hidden##* } <= others)) && return
	done
	echo "$hidden, and $others processes"
	return 1
}

# The channels of two processes are told apart by which of them writes what.
top_many() {
	local i pids=()
	for i in 1 2 3 4; do
		start ping -q -i 100 >/dev/null 2>&1
		pids+=("$pid")
	done
	for pid in "${pids[@]}"; do
		soon answerer "$pid" >child || return
		child=$(<child)
		soon seen || return
	done
	kill -INT "${pids[@]}"
	wait
}

# crowd COUNT: so many ping a process that listens; sets $server and $pids.
crowd() {
	local i
	pids=()
	start ping --listen=here >heard 2>err.listen
	server=$pid
	soon has_mode here 600 || return
	for ((i = 0; i < $1; i++)); do
		start ping --connect=here -i 100 >out.$i 2>err.$i
		pids+=("$pid")
		soon answered out.$i 1 || return
	done
}

# folded TEXT: top has two lines for $server, with this for its clients.
folded() {
	run 0 top -b -c 1 -i 0.05 "${@:2}" && has "^[sg][0-9]+ +S +$server evering +\\*" out &&
		has "^ +C +- $1" out
}

unfolded() {
	has "^[dm][0-9]+ +A +$1 evering +16x64 " out && has "^ +B +$server evering +16x64 " out
}

# A process with many channels is a server, and its clients are folded.
top_folds() {
	local server pids pid
	crowd 5 || return
	soon folded '5 processes +\*5 ' || return
	! unfolded "${pids[0]}" && has ' [0-9]+ channels, [0-9]+ servers?, [0-9]+ processes, ' out || return
	soon folded '5 processes +\*5 ' --unfold || return
	for pid in "${pids[@]}"; do
		unfolded "$pid" || return
	done
	run 0 top -c 1 -i 0.05 --json && json out &&
		has "\"backend\": \"$1\", (\"group\": [0-9]+, )?\"pid\": $server, \"command\": \"evering\", \"channels\": 5, \"client_processes\": 5, " out &&
		has '"clients": \{"states": \{.*"sent": 5, ' out && says '"server": ' out || return
	# Too few of them are channels by themselves.
	kill -INT "${pids[0]}" "${pids[1]}"
	wait "${pids[0]}" "${pids[1]}"
	soon few_left "${pids[4]}" || return
	kill -INT "${pids[@]:2}" "$server"
	wait
}

few_left() {
	run 0 top -b -c 1 -i 0.05 && ! has "^[sg][0-9]+ +S +$server " out && unfolded "$1"
}

# The pinging side is stopped, so that it does not go; the answering side is killed.
top_gone() {
	busy -i 0.01 || return
	soon seen || return
	kill -STOP "$pid"
	kill -KILL "$child"
	soon sees_gone
	i=$?
	kill -KILL "$pid"
	wait "$pid" 2>/dev/null
	return $i
}

sees_gone() {
	run 0 top -c 1 -i 0.05 --json &&
		line_of "$pid" | tail -n 1 | grep -qE '"state": "(gone|unknown|closed|detached)"'
}

# Other users see their own channels.
top_unprivileged() {
	((EUID == 0)) || skip 'is what the other tests do'
	"${as_nobody[@]}" true 2>/dev/null || skip 'no setpriv(1)'
	[[ $1 != device || $(stat -c %a /dev/evering) == 666 ]] || skip 'not for all'
	chmod 711 "$tmp"
	"${as_nobody[@]}" "$evering" ping -q -i 0 >/dev/null 2>&1 &
	pid=$!
	soon answerer "$pid" >child || return
	child=$(<child)
	soon seen_as_nobody
	i=$?
	kill -TERM "$pid"
	wait "$pid" 2>/dev/null
	return $i
}

seen_as_nobody() {
	"${as_nobody[@]}" "$evering" top -c 1 -i 0.1 --json >out &&
		line_of "$pid" | grep -qE '"sent": [1-9]'
}

# A process that calls its memory as evering does, and takes it away.
top_hostile() {
	need python3
	python3 -c 'import os' -c 'os.memfd_create' 2>/dev/null || skip 'no python3'
	python3 - >ready <<-'END' &
		import mmap, os, struct, time
		keep = []
		# More slots than there is memory, and as many as there is.
		for slots in 65536, 64:
		    said = struct.pack("<IIIQQ", 4, 64, slots, 1 << 40, 0)
		    for shrink in True, False:
		        for name in "a", "b":
		            fd = os.memfd_create("evering-" + name)
		            os.ftruncate(fd, 8192)
		            os.pwrite(fd, b"\xff" * 8192, 0)
		            os.pwrite(fd, said, 396)
		            keep.append(mmap.mmap(fd, 8192))
		            keep.append(mmap.mmap(fd, 8192, prot=mmap.PROT_READ))
		            if shrink:
		                os.ftruncate(fd, 0)
		print("ready", flush=True)
		time.sleep(300)
	END
	pid=$!
	soon has ready ready
	run 0 top -c 1 -i 0.05 && run 0 top -c 1 -i 0.05 --json && json out
	i=$?
	has '"command": "python3?' out || i=1
	kill "$pid"
	wait "$pid" 2>/dev/null
	return $i
}

top_terminal() {
	need_terminal
	need_env
	mkfifo keys
	exec 8<>keys
	# A shell has what it starts in the background ignore SIGQUIT.
	SHELL=/bin/sh TERM=xterm env --default-signal=QUIT script -qfc "
		stty rows 10 cols 60 2>/dev/null; stty -g >before
		\"$evering\" top -i 0.1; echo \$? >status; stty -g >after" typescript <keys >/dev/null 2>&1 &
	soon has 'COMMAND ' typescript || return
	if [[ $1 == q ]]; then
		printf q >&8
	else
		kill "-$1" "$(ours)"
	fi
	soon test -s after || return
	exec 8>&-
	wait
	[[ $(<status) == "$2" ]] && same before after &&
		has $'\e\\[\\?1049h' typescript && has $'\e\\[\\?25h\e\\[\\?1049l' typescript
}

# By Ctrl-Z: the shell has the terminal as it was; afterwards the screen is back.
# The key u unfolds what is folded, and folds it again.
top_key() {
	local server pids
	need_terminal
	crowd 4 || return
	mkfifo keys
	exec 8<>keys
	SHELL=/bin/sh TERM=xterm script -qfc "
		stty rows 2000 cols 200 2>/dev/null; \"$evering\" top -i 0.1" typescript <keys >/dev/null 2>&1 &
	soon drawn_folded && printf u >&8 || return
	soon has "A +${pids[0]} evering" typescript && printf u >&8 || return
	soon drawn_folded || return
	printf q >&8
	exec 8>&-
	kill -INT "${pids[@]}" "$server"
	wait
}

# Of the next tables one is whole, and has the server and not its channels.
drawn_folded() {
	: >typescript
	soon drawn_twice && has "S +$server evering" typescript &&
		! has "A +${pids[0]} evering" typescript
}

drawn_twice() {
	[[ $(grep -ac 'CHANNEL ' typescript) -ge 2 ]]
}

# What fdinfo says of groups: two of five members each, in one process that has a channel
# in none as well.
top_group() {
	need perl
	[[ $(uname -m) == x86_64 ]] || skip 'the number of mmap(2)'
	perl - >ready <<-'END' &
		use Fcntl;
		sysopen(my $device, "/dev/evering", O_RDWR) or die;
		sub call {
		    my ($file, $number, $arg) = @_;
		    ioctl($file, 0xEB00 + $number, $arg) or die "$number: $!";
		    return $arg;
		}
		sub group {
		    open(my $group, "+<&=", (unpack "L2lL", call($device, 2, pack("L2lL", 16, 0, 0, 0)))[2]) or die;
		    return $group;
		}
		# Who is to be a member has mapped its half, and says that it speaks here.
		sub attach {
		    my ($fd, $end) = @_;
		    open(my $file, "+<&=", $fd) or die;
		    syscall(9, 0, 8192, 3, 1, $fd, 1 + $end << 40) > 0 or die "mmap: $!";
		    call($file, 0x14, pack("L4", 16, 0, 0, 0));
		    push @kept, $file;
		}
		sub channel {
		    my $create = pack("L4Q2L2l2L2Q2", 72, 0, 64, 64, (0) x 10);
		    return (unpack "L4Q2L2l2L2Q2", call($device, 1, $create))[8, 9];
		}
		my @groups = (group, group);
		for my $i (0 .. 9) {
		    my @fds = channel;
		    attach($fds[$i % 2], $i % 2);
		    call($groups[$i % 2], 0x20, pack("L2lL", 16, 0, $fds[$i % 2], $i));
		}
		channel;
		$| = 1;
		print "ready\n";
		sleep 300;
	END
	pid=$!
	soon has ready ready && run 0 top -c 1 -i 0.05 --json && json out &&
		counts 2 "\"id\": [0-9]+, \"pid\": $pid, \"command\": \"perl\", \"members\": 5" &&
		counts 2 "\"group\": [0-9]+, \"pid\": $pid, \"command\": \"perl\", \"channels\": 5," &&
		run 0 top -b -c 1 -i 0.05 && counts 2 "^g[0-9]+ +S +$pid perl +\\*5 " &&
		counts 1 "^d[0-9]+ +A +$pid perl "
	i=$?
	((!i)) || cat ready out
	kill "$pid"
	wait "$pid" 2>/dev/null
	return $i
}

# counts N REGEX: what matches it is so many times in out.
counts() {
	[[ $(grep -oE "$2" out | wc -l) == "$1" ]]
}

top_stopped() {
	local top
	need_terminal
	mkfifo keys
	exec 8<>keys
	# shellcheck disable=SC2016 # for the other shell
	SHELL=/bin/sh TERM=xterm EVERING=$evering script -qfc 'bash -ic "stty -g >before
		\$EVERING top -i 0.1; stty -g >stopped; fg; echo \$? >status; stty -g >after"' \
		typescript <keys >/dev/null 2>&1 &
	soon has 'CHANNEL ' typescript && top=$(ours) || return
	kill -TSTP "$top"
	soon test -s stopped || return
	soon continued "$top" || return
	printf q >&8
	soon test -s after || return
	exec 8>&-
	wait
	[[ $(<status) == 0 && $(grep -c '1049h' typescript) -ge 2 ]] && same before stopped &&
		same before after
}

continued() {
	grep -q '^State:.[SR]' "/proc/$1/status"
}

# colours COMMAND: on a terminal, unless one does not want them.
colours() {
	need_terminal
	SHELL=/bin/sh TERM=xterm script -qfc "$evering $1" typescript </dev/null >/dev/null 2>&1
	has $'\e\\[[37]' typescript || return
	SHELL=/bin/sh TERM=xterm NO_COLOR=1 script -qfc "$evering $1" typescript </dev/null \
		>/dev/null 2>&1
	! has $'\e\\[[37]' typescript
}

# --------------------------------------------------------------------- doctor

doctor() {
	"$evering" doctor >out 2>err
	case $? in
	0) ! grep -q '^bad ' out ;;
	1) grep -q '^bad ' out ;;
	*) false ;;
	esac && says 'kernel ' out && says ' module ' out && says 'descriptors ' out &&
		says ' backend ' out && [[ ! -s err ]]
}

doctor_json() {
	"$evering" doctor --json >out 2>err
	json out && says '{"check": "kernel", "result": "' out &&
		says '{"check": "backend", "result": "ok"' out
}

doctor_finds() {
	(
		ulimit -n 12
		exec "$evering" doctor
	) >out 2>err
	(($? == 1)) && has '^bad +descriptors ' out || return
	# What is advised works here: who has a right to goes beyond the hard limit.
	if (ulimit -n 12 && ulimit -n 1024) 2>/dev/null; then
		says '-> raise it: ulimit -n 1024' out || return
	else
		says '-> the hard limit is 12: root raises that' out || return
	fi
	EVERING_BACKEND=pigeon run 1 doctor && has '^bad +backend .*pigeon' out &&
		says '-> unset EVERING_BACKEND' out
}

# channels_with FDS RESULT: what so many descriptors are enough for, on memfd or the device.
channels_with() {
	(
		ulimit -Sn "$1"
		exec "$evering" doctor
	) >out 2>err
	has "^$2 in groups and servers, with [15] descriptors? and up to [46] mappings each" out
}

# An endpoint by itself takes more than one in a group: both are counted, and why is said.
doctor_channels() {
	channels_with 1064 'ok +channels +a process may have (200|1000)' || return
	[[ -e /dev/evering ]] || says 'or 142 by themselves, which take up to 7 when they have slept' out || return
	channels_with 163 'warn +channels +a process may have (19|99)' && says '-> raise it: ulimit -n ' out
}

# make_elsewhere: another machine as far as doctor can see; sets ${elsewhere[@]}.  What it
# opens of the places where modules and packages are comes from the folder elsewhere.
make_elsewhere() {
	[[ ! $(sanitizers "$evering") ]] || skip 'no preloading with a sanitizer'
	need cc
	cat >elsewhere.c <<-'END'
		#define _GNU_SOURCE
		#include <dlfcn.h>
		#include <fcntl.h>
		#include <stdio.h>
		#include <stdlib.h>
		#include <string.h>
		#include <unistd.h>

		static const char *moved(const char *path)
		{
			const char *const places[] = {
				"/etc/os-release", "/lib/modules", "/proc/modules",
				"/var/lib/dkms", "/var/lib/dpkg", "/sys/module/evering",
				"/sys/kernel/security", "/dev/evering", "/.dockerenv",
				"/run/", getenv("SOURCE"),
			};
			static char buf[4096];
			size_t i;

			for (i = 0; i < sizeof(places) / sizeof(*places); i++) {
				if (strncmp(path, places[i], strlen(places[i])))
					continue;
				snprintf(buf, sizeof(buf), "%s%s", getenv("ELSEWHERE"), path);
				return buf;
			}
			return path;
		}

		int access(const char *path, int mode)
		{
			return faccessat(AT_FDCWD, moved(path), mode, 0);
		}

		FILE *fopen(const char *path, const char *mode)
		{
			FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, "fopen");

			return next(moved(path), mode);
		}

		FILE *fopen64(const char *path, const char *mode) __attribute__((alias("fopen")));
	END
	cc -shared -fPIC -o elsewhere.so elsewhere.c || skip 'no shim'
	elsewhere=(env -u container ELSEWHERE="$PWD/elsewhere" SOURCE="$top" LD_PRELOAD="$PWD/elsewhere.so")
}

# put FILE [TEXT]: in the folder elsewhere.
put() {
	mkdir -p "elsewhere/$(dirname "$1")" && echo "${2:-}" >"elsewhere/$1"
}

# advises CHECK REGEX: what doctor has below this check.
advises() {
	"${elsewhere[@]}" "$evering" doctor >out 2>err
	grep -A1 -E "^[a-z]+ +$1 " out | tail -n 1 | grep -qE -- "$2" && return
	echo "$1: not $2"
	cat out err
	return 1
}

# What is advised can be done on the machine it is for: one after another is put there that
# makes a difference.
doctor_module() {
	local release
	release=$(uname -r)
	make_elsewhere
	mkdir elsewhere
	# No modules at all, so nothing to do, nor to warn of.
	advises module '^ok +headers ' && has '^ok +module +none: this kernel was built without modules' out &&
		! has '^warn +(module|headers)' out || return
	put /proc/modules
	advises module '-> for the backend .device.: make modules in' &&
		advises headers 'this kernel is none of the distribution' || return
	put /etc/os-release $'NAME=Some\nID=ubuntu\nID_LIKE=debian'
	advises headers 'this kernel is none of the distribution' || return
	put "/var/lib/dpkg/info/linux-image-$release.list"
	advises headers "-> (sudo |as root: )?apt install linux-headers-$release\$" || return
	put /etc/os-release $'NAME=Other\nID="almalinux"\nID_LIKE="rhel centos fedora"'
	put "/lib/modules/$release/modules.dep" 'kernel/fs/fuse.ko:'
	advises headers "-> (sudo |as root: )?dnf install kernel-devel-$release\$" || return
	put "$top/Kbuild"
	advises module "with the headers: make -C $top modules && .*insmod $top/evering.ko" || return
	put /var/lib/dpkg/info/evering-tools.list
	advises module '-> .*apt install evering-dkms' || return
	put /var/lib/dkms/evering/0.1/status
	advises module "-> install the headers, then .*dkms autoinstall -k $release" || return
	put "/lib/modules/$release/build/Makefile"
	advises module "-> (sudo |as root: )?dkms autoinstall -k $release, then .*modprobe evering\$" || return
	put "/lib/modules/$release/modules.dep" 'updates/dkms/evering.ko.xz:'
	advises module '-> (sudo |as root: )?modprobe evering$' || return
	put /sys/kernel/security/lockdown 'none [integrity] confidentiality'
	advises module 'modprobe evering; the kernel is locked down, .*mokutil' || return
	put /run/.containerenv
	advises module 'load it on the host, and give /dev/evering to the container'
}

# limited_by FOLDER FILE: a cgroup below a limited one, at FOLDER, and doctor in it.
limited_by() {
	local parent=$1/evering-$$ status
	mkdir "$parent" 2>/dev/null || return
	mkdir "$parent/child" && echo 48M >"$parent/$2" || return
	# It is moved by the shell that becomes it.
	# shellcheck disable=SC2016 # the other shell's
	exits 0 bash -c 'echo $$ >"$1/cgroup.procs"; exec "$2" doctor' - "$parent/child" "$evering" &&
		has "^warn +memory .*left of the 50.3 MB that cgroup .*/evering-$$ may have .$2." out &&
		says "raise $2" out && has '^ok +memory .* available' <("$evering" doctor)
	status=$?
	rmdir "$parent/child" "$parent"
	((!status)) || cat out
	return $status
}

doctor_cgroup() {
	local mount unified
	((EUID == 0)) || skip 'needs a cgroup: be root'
	unified=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
	# A guest has none mounted.
	if [[ $guest && ! $unified ]]; then
		unified=$tmp/unified
		mkdir "$unified"
		mount -t cgroup2 none "$unified" || skip 'no cgroup2'
	fi
	if grep -qsw memory "$unified/cgroup.controllers"; then
		echo +memory >"$unified/cgroup.subtree_control" || skip 'no memory controller to have'
		limited_by "$unified" memory.max
		return
	fi
	mount=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' /proc/mounts)
	[[ -w $mount ]] || skip 'no memory cgroup that may be written to'
	limited_by "$mount" memory.limit_in_bytes
}

# It says so of each call, and why; and all is well without a filter.
doctor_filtered() {
	local call error
	make_filter
	run 0 doctor && has '^ok +call +epoll_pwait2' out && has '^ok +call +preadv2' out || return
	for call in epoll_pwait2 preadv2; do
		for error in 'EPERM Operation not permitted' 'ENOSYS Function not implemented'; do
			"${filter[@]}" "${error%% *}" $call "$evering" doctor >out 2>err
			has "^warn +call +$call.2. is answered '${error#* }' by a seccomp filter" out &&
				says '-> have the seccomp filter allow it' out || return
		done
	done
}

doctor_limits() {
	# A sanitizer wants addresses without end.
	[[ ! $(sanitizers "$evering") ]] || skip 'no limits with a sanitizer'
	(
		ulimit -f 512 -v 4000000
		exec timeout -k 5 60 "$evering" doctor
	) >out 2>err
	(($? == 1)) && has '^bad +file size +RLIMIT_FSIZE ' out &&
		has '^warn +addresses +RLIMIT_AS ' out || return
	need_other_user
	(
		ulimit -l 64
		exec "${as_nobody[@]}" "$evering" doctor
	) >out 2>err
	has '^warn +locking +RLIMIT_MEMLOCK is 65.5 kB' out && says 'mlockall(2)' out
}

# A module of another version, as far as the program can see.
doctor_abi() {
	local abi
	[[ ! -e /dev/evering ]] || skip 'there is a module'
	[[ ! $(sanitizers "$evering") ]] || skip 'no preloading with a sanitizer'
	need cc
	cat >shim.c <<-'END'
		#define _GNU_SOURCE
		#include <dlfcn.h>
		#include <errno.h>
		#include <fcntl.h>
		#include <stdarg.h>
		#include <stdlib.h>
		#include <string.h>
		#include <linux/evering.h>

		int access(const char *path, int mode)
		{
			int (*next)(const char *, int) = dlsym(RTLD_NEXT, "access");

			return strcmp(path, "/dev/evering") ? next(path, mode) : 0;
		}

		int open(const char *path, int flags, ...)
		{
			int (*next)(const char *, int, int) = dlsym(RTLD_NEXT, "open");
			va_list args;
			int mode;

			va_start(args, flags);
			mode = va_arg(args, int);
			va_end(args);
			return next(strcmp(path, "/dev/evering") ? path : "/dev/null", flags, mode);
		}

		/* Where files may be large on 32 bits, too, open() is another. */
		int open64(const char *path, int flags, ...) __attribute__((alias("open")));

		int ioctl(int fd, unsigned long request, ...)
		{
			int (*next)(int, unsigned long, void *) = dlsym(RTLD_NEXT, "ioctl");
			struct evering_info *info;
			va_list args;

			va_start(args, request);
			info = va_arg(args, void *);
			va_end(args);
			if (request != EVERING_IOC_INFO)
				return next(fd, request, info);
			memset((char *)info + 4, 0, info->size - 4);
			info->abi = atoi(getenv("ABI"));
			return 0;
		}
	END
	cc -shared -fPIC -I"$top/uapi" -o shim.so shim.c || skip 'no shim'
	for abi in 0 77; do
		ABI=$abi LD_PRELOAD=$PWD/shim.so "$evering" doctor >out 2>err
		(($? == 1)) && has "^bad +device +the loaded module speaks ABI $abi, this library [0-9]+: AUTO uses memfd" out ||
			return
		grep -A1 'speaks ABI' out | says "$( ((abi)) && echo 'use the library' ||
			echo 'load the module')" /dev/stdin || return
	done
}

doctor_chooses() {
	run 0 doctor
	has "^ok +backend +$1[,;]" out || {
		cat out
		return 1
	}
}

# ------------------------------------------------------------- what is inherited

# Each may be started in any state: signals blocked or ignored, as process 1, in the
# background of a terminal, with descriptors that are closed, full or that nobody
# reads.  None of it may keep a command from ending.

# need_env: an env(1) that sets what is done with signals.
need_env() {
	env --block-signal=TERM --ignore-signal=PIPE true 2>/dev/null ||
		skip 'env(1) has no --block-signal'
}

# inheriting OPTION ARGUMENT...: evering in the background, with what this option of
# env(1) does to signals; its process is $pid.
inheriting() {
	env --default-signal=INT,HUP,TERM,QUIT "$1" "$evering" "${@:2}" <&0 7<&- 8<&- &
	pid=$!
}

# A fault of this kind was one of a thread that waits to be woken by a signal.
blocked_pipe() {
	local input
	need_env
	mkfifo fifo
	exec 8<>fifo
	for input in fifo /dev/zero; do
		listen pipe <fifo >/dev/null || return
		inheriting --block-signal pipe --connect=here --timeout=60 <$input >out 2>err
		soon test ! -e here || return
		kill -KILL "$listener"
		ended "$pid" 4 || return
		wait "$listener" 2>/dev/null
	done
	return 0
}

# ends_by SIGNAL STATUS: the background one does, once it is at work.
ends_by() {
	kill "-$1" "$pid"
	ended "$pid" "$2"
}

blocked_end() {
	local signal status
	need_env
	for signal in TERM:143 HUP:129 QUIT:131; do
		status=${signal#*:} signal=${signal%:*}
		inheriting --block-signal ping -i 0.01 >out 2>err
		soon has 'seq=2 ' out && ends_by "$signal" "$status" || return
		inheriting --block-signal top -b -i 0.05 >out 2>err
		soon has CHANNEL out && ends_by "$signal" "$status" || return
		inheriting --block-signal pipe --listen=here </dev/null >out 2>err
		soon test -S here && ends_by "$signal" "$status" && [[ ! -e here ]] || return
		inheriting --block-signal ping --listen=here >out 2>err
		soon test -S here && ends_by "$signal" "$status" && [[ ! -e here ]] || return
	done
}

# As nohup(1) wants it: what is ignored stays so.
ignored_end() {
	need_env
	inheriting --ignore-signal=HUP ping -i 0.01 >out 2>err
	soon has 'seq=2 ' out || return
	kill -HUP "$pid"
	: >out
	soon has 'seq=' out && ends_by TERM 143
}

# "${apart[@]}" COMMAND...: it is process 1 of a PID namespace.
need_process_1() {
	apart=(unshare --pid --fork --kill-child)
	((EUID == 0)) || apart+=(--user --map-root-user)
	"${apart[@]}" true 2>/dev/null || skip 'no new PID namespace here'
}

# process_1 ARGUMENT...: evering as process 1 of a PID namespace, in the background;
# $pid is its process, $outer the one that ends with its status.
process_1() {
	env --default-signal=INT,HUP,TERM,QUIT "${apart[@]}" "$evering" "$@" <&0 7<&- 8<&- &
	outer=$!
	soon child_of "$outer" evering >child && pid=$(<child)
}

# ended_1 SIGNAL STATUS
ended_1() {
	kill "-$1" "$pid"
	ended "$outer" "$2"
}

process_1_ends() {
	local signal status command
	need_env
	need_process_1
	mkfifo fifo
	exec 8<>fifo
	truncate -s 64G sparse
	for signal in TERM:143 INT:130 HUP:129 QUIT:131; do
		status=${signal#*:} signal=${signal%:*}
		for command in pipe cat; do
			# Connected, as what comes through says, and waiting for input.
			listen $command <fifo >there || return
			process_1 $command --connect=here --timeout=60 <fifo >out 2>err || return
			echo >&8
			soon test -s there -o -s out && [[ ! -e here ]] || return
			ended_1 "$signal" "$status" && ended "$listener" 4 || return
		done
		process_1 pipe --listen=here <fifo >out 2>err && soon test -S here &&
			ended_1 "$signal" "$status" && [[ ! -e here ]] || return
		process_1 top -b -i 0.05 >out 2>err && soon has CHANNEL out || return
		ended_1 "$signal" "$((status == 130 ? 0 : status))" || return
		process_1 ping -i 0.01 >out 2>err && soon has 'seq=2 ' out || return
		ended_1 "$signal" "$((status == 130 ? 0 : status))" || return
		process_1 ping --listen=here >out 2>err && soon test -S here || return
		ended_1 "$signal" "$((status == 130 ? 0 : status))" && [[ ! -e here ]] || return
		process_1 run --quiet sparse >out 2>err && soon child_of "$pid" evering-serve >child &&
			ended_1 "$signal" "$status" || return
	done
}

# on_terminal COMMAND: a shell runs it on a terminal of its own; what it prints is in
# typescript, the terminal's state before and after in two files.
on_terminal() {
	mkfifo keys
	exec 8<>keys
	SHELL=/bin/sh TERM=${2:-xterm} script -qfc "stty rows 10 cols 70 2>/dev/null
		stty -g >before; $1; echo \$? >status; stty -g >after" typescript \
		<keys >/dev/null 2>&1 &
	soon test -s after || return
	exec 8>&-
	wait
	same before after
}

# timeout(1) runs it in the background, where a change of the terminal stops it; and
# with tostop a word to it does.
background_group() {
	need_terminal
	on_terminal "timeout -k 20 2 '$evering' $1" && [[ $(<status) == 124 ]] || return
	rm keys after
	on_terminal "stty tostop; stty -g >before; timeout -k 20 2 '$evering' $1" &&
		[[ $(<status) == 124 ]]
}

# Comes to the foreground later, and has keys then.
later_foreground() {
	need_terminal
	mkfifo keys
	exec 8<>keys
	# shellcheck disable=SC2016 # for the other shell
	SHELL=/bin/sh TERM=xterm EVERING=$evering script -qfc \
		'bash -ic "\$EVERING top -i 0.1 & sleep 1; fg; echo \$? >status"; : >after' \
		typescript <keys >/dev/null 2>&1 &
	soon has 'CHANNEL ' typescript || return
	while [[ ! -e after ]]; do
		printf q >&8
		sleep 0.2
	done
	exec 8>&-
	wait
	[[ $(<status) == 0 ]]
}

dumb_terminal() {
	need_terminal
	on_terminal "'$evering' top -c 2 -i 0.05; '$evering' ping -c 2 -i 0.01; '$evering' doctor" \
		dumb || return
	says CHANNEL typescript && says 'seq=2' typescript && ! grep -q $'\e' typescript
}

# Nobody reads: each ends, whether SIGPIPE kills it or is ignored, as systemd has it.
nobody_reads() {
	local command how line status
	need_env
	for command in 'ping -i 0.01' 'ping -i 0' 'ping -i 0 -s 1M' 'ping -i 3600 -c 2' \
		'ping --json -i 0.01' 'top -b -i 0.05' 'top --json -i 0.05'; do
		for how in default ignore; do
			# shellcheck disable=SC2086 # words
			timeout -k 5 60 env --$how-signal=PIPE "$evering" $command 2>err > >(
				IFS= read -r line
			)
			status=$?
			case $how in
			default) ((status == 141 || status == 1)) ;;
			*) ((status == 1)) && says 'standard output: Broken pipe' ;;
			esac && continue
			echo "$command: $how: $status"
			return 1
		done
	done
}

# ends_without OUTPUT: what has no end by itself ends.
ends_without() {
	local command
	for command in 'ping -i 0.01' 'top -b -i 0.05' doctor; do
		if [[ $1 == closed ]]; then
			# shellcheck disable=SC2086 # words
			timeout -k 5 60 "$evering" $command >&- 2>err
		else
			[[ -w /dev/full ]] || skip 'no /dev/full'
			# shellcheck disable=SC2086 # words
			timeout -k 5 60 "$evering" $command >/dev/full 2>err
		fi
		(($? == 1)) && says "standard output: $2" || return
	done
	# And one that serves.
	start ping --listen=here >&- 2>err
	listener=$pid
	soon test -S here || return
	soon quiet_ping
	ended "$listener" 1 && says 'standard output: ' && [[ ! -e here ]]
}

quiet_ping() {
	"$evering" ping --connect=here -c 1 >ping.out 2>ping.err || [[ ! -e here ]]
}

closed_descriptors() {
	local status
	"$evering" ping -c 1 <&- >out 2>err && says '1 answered' out &&
		"$evering" ping -c 1 >out 2>&- && says '1 answered' out || return
	"$evering" ping -c 1 <&- >&- 2>&-
	(($? == 1)) || return
	listen pipe </dev/null >there || return
	timeout -k 5 60 "$evering" pipe --connect=here --timeout=60 <&- >out 2>err
	status=$?
	((status == 1)) && says 'standard input: Bad file descriptor' &&
		ended "$listener" 3 || return
	listen pipe </dev/null >&- || return
	run 3 pipe --connect=here --timeout=60 </dev/zero && ended "$listener" 1 &&
		says 'standard output: Bad file descriptor' err.listen
}

# Somebody has made it non-blocking: nothing is lost, and a signal ends what waits.
nonblocking_output() {
	need perl
	# shellcheck disable=SC2016 # perl's
	timeout -k 5 60 perl -MFcntl -e '
		pipe R, W or die;
		fcntl W, F_SETFL, O_WRONLY | O_NONBLOCK;
		if (!fork) { open STDOUT, ">&W"; close R; close W; exec @ARGV }
		close W;
		select undef, undef, undef, 0.5;
		while (<R>) { print }
		wait;
		exit $? >> 8' "$evering" ping -c 4000 -i 0.000001 >out 2>err || return
	[[ $(grep -c ': seq=' out) == 4000 && ! -s err ]] || return

	# shellcheck disable=SC2016 # perl's
	timeout -k 5 60 perl -MFcntl -e '
		pipe R, W or die;
		fcntl W, F_SETFL, O_WRONLY | O_NONBLOCK if shift;
		$pid = fork;
		if (!$pid) { open STDOUT, ">&W"; close R; close W; exec @ARGV }
		select undef, undef, undef, 0.5;
		kill TERM => $pid;
		waitpid $pid, 0;
		exit $? >> 8' "$1" "$evering" ping -i 0.000001 2>err
	(($? == 143))
}

# -------------------------------------------------------------------- who may come

need_other_user() {
	((EUID == 0)) || skip 'needs a second user: be root'
	"${as_nobody[@]}" true 2>/dev/null || skip 'no setpriv(1)'
	chmod 711 "$tmp"
	chmod 777 .
}

abstract_there() {
	grep -q " @$1\$" /proc/net/unix
}

# At an abstract name anybody may knock: what is read is for this user alone.
other_user_comes() {
	local command
	need_other_user
	for command in pipe cat; do
		start pipe --listen=@evering-$$ <"$tmp/there" >there 2>err.listen
		listener=$pid
		soon abstract_there evering-$$ || return
		for _ in 1 2 3; do
			"${as_nobody[@]}" timeout -k 5 60 "$evering" $command \
				--connect=@evering-$$ <"$tmp/back" >stolen 2>err
			case $? in
			1 | 3 | 4) ;;
			*) return 1 ;;
			esac
			[[ ! -s stolen ]] || return
		done
		"$evering" $command --connect=@evering-$$ <"$tmp/back" >got || return
		ended "$listener" 0 && same "$tmp/back" there &&
			says 'user 65534' err.listen && [[ $(wc -l <err.listen) == 1 ]] || return
		[[ $command == cat ]] || same "$tmp/there" got || return
	done
}

other_user_pings() {
	need_other_user
	start ping --listen=@evering-$$ >heard 2>err.listen
	listener=$pid
	soon abstract_there evering-$$ || return
	"${as_nobody[@]}" timeout -k 5 60 "$evering" ping -c 1 --connect=@evering-$$ >out 2>err
	(($? == 1)) && ! has ' seq=' out && run 0 ping -c 2 -i .01 --connect=@evering-$$ || return
	kill -INT "$listener"
	ended "$listener" 0 && says 'user 65534' err.listen && ! grep -q 'uid 65534' heard
}

# And whoever has taken the name before: what is sent is for this user, too.
other_user_listens() {
	need_other_user
	"${as_nobody[@]}" env --default-signal=INT,HUP,TERM "$evering" pipe \
		--listen=@evering-$$ >stolen 2>err.listen </dev/null &
	pid=$!
	soon abstract_there evering-$$ || return
	run 1 pipe --connect=@evering-$$ <"$tmp/there" && says 'another user listens' || return
	soon gone "$pid" && [[ ! -s stolen ]]
}

# ----------------------------------------------------------------------- remedies

# make_filter: "${filter[@]}" ERRNO CALL[:NUMBER:VALUE:MASK] COMMAND... has a seccomp
# filter answer this system call so, or only where this argument, masked, has this value.
make_filter() {
	need python3
	[[ $(uname -m) == x86_64 ]] || skip 'knows the system calls of x86-64 alone'
	[[ $(sanitizers "$evering") != *thread* ]] || skip 'not under TSan'
	filter=(python3 filter.py)
	cat >filter.py <<-'END'
		import ctypes, os, struct, sys
		numbers = {"preadv2": 327, "epoll_pwait2": 441, "fcntl": 72, "epoll_ctl": 233}
		errnos = {"EPERM": 1, "ENOSYS": 38, "ENOSPC": 28, "EINVAL": 22}
		call, *argument = sys.argv[2].split(":")
		load, alu_and, jeq, ret = 0x20, 0x54, 0x15, 0x06
		test = []
		if argument:
		    number, value, mask = (int(a, 0) for a in argument)
		    test = [(load, 0, 0, 16 + 8 * number), (alu_and, 0, 0, mask),
		            (jeq, 0, 1, value)]
		deny = [(ret, 0, 0, 0x50000 | errnos[sys.argv[1]])]
		code = [(load, 0, 0, 0), (jeq, 0, len(test) + 1, numbers[call]), *test, *deny,
		        (ret, 0, 0, 0x7fff0000)]
		code = b"".join(struct.pack("HBBI", *c) for c in code)
		text = ctypes.create_string_buffer(code)
		program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(text))
		libc = ctypes.CDLL(None, use_errno=True)
		libc.prctl(38, 1, 0, 0, 0)
		if libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0):
		    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
		os.execvp(sys.argv[3], sys.argv[3:])
	END
}

# suggested: the number that an error says after 'ulimit -n'.
suggested() {
	sed -nE "s/.*'ulimit -n ([0-9]+)'.*/\1/p" err
}

more_descriptors() {
	local n
	for n in 7 8; do
		(
			ulimit -Sn "$n"
			exec timeout -k 5 60 "$evering" ping -c 1
		) >out 2>err
		(($? == 1)) && (($(suggested) > n)) || return
	done
	# As many as there can be, and descriptors that somebody else has taken.
	(
		ulimit -n 100
		for ((n = 3; n < 98; n++)); do
			eval "exec $n</dev/null"
		done
		exec timeout -k 5 60 "$evering" ping -c 1
	) >out 2>err
	(($? == 1)) && says 'Too many open files' && says 'the limit is 100' && [[ ! $(suggested) ]]
}

# What is at a path where no process listens.
what_is_there() {
	mkdir folder
	echo file >file
	mkfifo fifo
	run 1 ping -c 1 --connect=folder && says 'it is not a socket but a folder' &&
		run 1 pipe --connect=file </dev/null && says 'it is not a socket but a file' &&
		run 1 pipe --connect=none/here </dev/null && says 'the folder is missing' &&
		run 1 pipe --connect=nobody </dev/null && says 'no process listens there' &&
		run 1 pipe --connect=@nobody-$$ </dev/null && says 'no process listens there' &&
		run 1 ping --listen=folder && says 'it is not a socket but a folder' &&
		run 1 ping --listen=fifo && says 'it is not a socket but a fifo' &&
		refuses '--connect=: must be a path' pipe --connect= &&
		refuses '--listen=@: must be a path' ping --listen=@ || return
	start ping --listen=here >heard 2>err.listen
	listener=$pid
	soon test -S here || return
	run 1 ping --listen=here && says "user $EUID listens there" || return
	kill -KILL "$listener"
	wait "$listener" 2>/dev/null
	run 1 ping -c 1 --connect=here && says 'no process listens there any more' || return
	need_other_user
	chmod 1777 .
	exits 1 "${as_nobody[@]}" "$evering" ping --listen=here && says 'user 0' &&
		says 'left behind' && says 'another path' || return
	rm here
}

no_sealing() {
	make_filter
	exits 1 "${filter[@]}" EINVAL fcntl:2:0x10:0x10 "$evering" ping -c 1 --backend=memfd &&
		says 'cannot be sealed' && ! grep -q EVERING_BACKEND err
}

no_watches() {
	make_filter
	exits 1 "${filter[@]}" ENOSPC epoll_ctl "$evering" ping --listen=here &&
		says max_user_watches
}

other_namespace() {
	need_process_1
	start ping --listen=here >heard 2>err.listen
	listener=$pid
	soon test -S here || return
	soon exits 0 "${apart[@]}" "$evering" ping -c 2 -i .01 --connect=here &&
		! grep -q 'pid 0' out && says 'PING another PID namespace' out || return
	exits 0 "${apart[@]}" "$evering" ping -c 2 -i .01 --json --connect=here &&
		json out && says '"pid": null' out || return
	kill -INT "$listener"
	ended "$listener" 0
}

# A summary there is, however it ends.
json_of_failure() {
	run 1 pipe --json --connect=nobody </dev/null && tail -n 1 err >last && json last &&
		says '"backend": null, "peer": null, "status": 1' last || return
	run 1 pipe --json --listen=here --timeout=0.05 </dev/null && tail -n 1 err >last &&
		json last && says '"status": 1' last
}

no_right_to_look() {
	((EUID == 0)) || skip 'is about root'
	setpriv --bounding-set=-sys_ptrace true 2>/dev/null || skip 'no setpriv(1)'
	exits 0 setpriv --bounding-set=-sys_ptrace "$evering" top -b -c 1 -i 0.05 &&
		! grep -q 'be root' out && says CAP_SYS_PTRACE out
}

numbers() {
	run 0 ping -c 2 -i .01 && run 0 ping -c 2 -i 0.01 -w .5 || return
	refuses '--count=99999999999999999999: must be 1..18446744073709551615' \
		ping --count=99999999999999999999 &&
		refuses '--interval=.: must be 0..3600 seconds' ping -i . &&
		refuses '--interval=3600.1: must be 0..3600 seconds' ping -i 3600.1 &&
		refuses '--size=17M: must be 4..16M' ping -s 17M &&
		refuses '--count=x: must be 1..' top -c x &&
		refuses '--timeout=86401: must be 0..86400 seconds' cat --listen=a --timeout=86401
}

# ------------------------------------------------------------------------ all

# refuses TEXT ARGUMENT...: status 2, and what is at fault and where to find help.
refuses() {
	run 2 "${@:2}" </dev/null && says "$1" && says '--help'
}

bad_options() {
	local command
	for command in ping pipe cat top doctor; do
		refuses "unknown option '--nonsense'" $command --nonsense &&
			refuses "unknown option '-Z'" $command -Z &&
			refuses '--json=1: takes no value' $command --json=1 &&
			refuses "'one' is one" $command --json one || return
	done
	refuses '--count=0' ping --count=0 && refuses '-c: needs a value' ping -c &&
		refuses '--interval=-1' ping -i -1 && refuses '--size=3' ping -s 3 &&
		refuses '--size=17M' ping -s 17M && refuses '--deadline=0' ping -w 0 &&
		refuses '--wait=lazy' ping --wait=lazy &&
		refuses '--backend=pigeon' ping --backend=pigeon &&
		refuses 'not both' ping --listen=a --connect=b &&
		refuses '--listen or --connect' pipe &&
		refuses '--listen or --connect' pipe --listen=a --connect=b &&
		refuses '--timeout=x' pipe --listen=a --timeout=x &&
		refuses '--wait=lazy' pipe --wait=lazy &&
		refuses '--backend=pigeon' cat --backend=pigeon &&
		refuses '--interval=0' top -i 0 && refuses '--count=0' top -c 0
}

helps() {
	local command
	for command in ping pipe cat top doctor; do
		run 0 $command --help && says 'Usage: evering ' out && says --json out &&
			says 'The exit status is 0' out && [[ ! -s err ]] || return
	done
}

# all_helps: the commands that the program lists, and the help of each in a file of its name.
all_helps() {
	local command
	run 0 --help || return
	commands=$(sed -nE '/^Commands:/,/^$/s/^  ([a-z]+) .*/\1/p' out)
	for command in $commands; do
		[[ $command == relay && ! -x $bin/evering-relay ]] && continue
		run 0 help "$command" && cp out "$command" || return
	done
}

# Every command is listed, and each help is aligned: one column for what options mean, lines
# that fit, values by default at the right edge.  A letter stands for one option everywhere.
help_aligned() {
	local commands command
	all_helps || return
	for command in run ping pipe cat top doctor bench relay; do
		[[ " ${commands//$'\n'/ } " == *" $command "* ]] || {
			echo "$command is not listed: $commands"
			return 1
		}
	done
	for command in *; do
		[[ $command != out && $command != err ]] || continue
		awk -v name="$command" '
			function bad(why) { print name ": " why ": " $0; failed = 1 }
			length > 79 { bad("too long") }
			/^ +-(.,|-)/ {
				if (!match($0, /^  (-[a-zA-Z], |    )--[a-z-]+([=[][^ ]*)?  +/))
					bad("no option")
				if (column && RLENGTH != column) bad("column " RLENGTH ", not " column)
				column = RLENGTH
				inside = 1
			}
			!NF || /^[A-Z]/ { inside = 0 }
			inside && !/^ +-/ && !/^ +\[.*\]$/ && match($0, /^ +/) && RLENGTH != column {
				bad("does not begin in column " column)
			}
			inside && /  \[[^]]*\]$/ && length != 79 { bad("a default not at the edge") }
			match($0, /^  -[a-zA-Z], --[a-z-]+/) {
				print substr($0, 3, RLENGTH - 2) >"letters." name
			}
			END { exit failed }' "$command" || return
	done
	cat letters.* | sort -u >letters
	[[ -s letters && ! $(cut -c 1-2 letters | uniq -d) && ! $(cut -c 5- letters | sort | uniq -d) ]] || {
		echo 'a letter with two meanings, or an option with two letters:'
		cat letters
		return 1
	}
}

bad_places() {
	local path
	printf -v path 'x%.0s' {1..200}
	run 1 ping --listen="$path" && says 'at most 107 bytes' &&
		run 1 pipe --connect="$path" </dev/null && says 'at most 107 bytes' &&
		run 1 ping --listen=none/here && says none/here && says 'folder is missing' &&
		echo file >file && run 1 pipe --listen=file </dev/null && says 'another path' &&
		[[ -f file ]] && run 1 ping --connect=nobody -c 1 && says nobody
}

no_device() {
	[[ ! -e /dev/evering ]] || skip 'there is one'
	run 1 ping -c 1 --backend=device && says /dev/evering && says 'evering doctor' || return
	EVERING_BACKEND=pigeon run 1 ping -c 1 && says EVERING_BACKEND
}

output_full() {
	local command
	[[ -w /dev/full ]] || skip 'no /dev/full'
	for command in 'ping -c 1' 'top -c 1 -i 0.05' doctor; do
		# shellcheck disable=SC2086 # words
		timeout -k 5 60 "$evering" $command >/dev/full 2>err
		(($? == 1)) && says 'No space left on device' || return
	done
}

# complete WORD...: what bash would offer for the last one.
complete_words() {
	COMP_WORDS=("$evering" "$@")
	COMP_CWORD=$#
	_evering "$evering"
	echo "${COMPREPLY[*]}"
}

completes() {
	[[ -e $completion ]] || skip "no $completion"
	# shellcheck source=/dev/null
	source "$completion"
	[[ $(complete_words p) == 'ping pipe' && $(complete_words help d) == doctor &&
	$(complete_words ping --wa) == '--wait=' &&
	$(complete_words ping --wait = b) == 'block busy' &&
	$(complete_words pipe --one) == --one-way &&
	$(complete_words top --i) == '--interval=' &&
	$(complete_words bench --modes = many-o) == many-one &&
	$(complete_words bench --modes = rtt,many-) == *'rtt,many-zipf rtt,many-flood' &&
	$(complete_words bench --channels = 1,100) == '1,100 1,1000 1,10000' ]]
}

# on BACKEND: what the backend has a part in.
on() {
	local policy
	export EVERING_BACKEND=$1

	check "$1: ping" pings
	check "$1: ping in JSON" ping_json
	check "$1: ping says why" ping_reason
	for policy in adaptive block busy; do
		[[ $guest && $policy != adaptive ]] && continue
		check "$1: pings of all sizes, $policy" ping_sizes $policy
		check "$1: ping interrupted, $policy" ping_interrupted $policy INT 0
		check "$1: pipe both ways, $policy" both_ways $policy
		check "$1: pipe, other side dies, $policy" other_dies $policy
	done
	check "$1: ping between two" ping_two
	check "$1: ping among several" ping_crowd
	check "$1: ping, the answering side dies" ping_answerer_dies
	check "$1: ping, the answering side is stopped" ping_answerer_stops
	check "$1: pipe of nothing" nothing
	check "$1: pipe, one answers when the other has ended" half_close
	check "$1: cat" one_way
	check "$1: pipe, bytes come as they go" by_and_by
	check "$1: pipe, no reader" backpressure
	check "$1: pipe and strangers" strangers
	check "$1: few descriptors" few_descriptors ping -c 1
	check "$1: top in JSON" top_json "$1"
	check "$1: top as a table" top_table
	check "$1: top, as many columns as fit" top_columns
	check "$1: top, several channels" top_many
	check "$1: top, a server" top_folds "$1"
	[[ $1 != device ]] || check "$1: top, a group" top_group
	check "$1: top, one end is gone" top_gone
	check "$1: top, as somebody" top_unprivileged "$1"
	check "$1: doctor chooses" doctor_chooses "$1"
	[[ ! $guest ]] || check "$1: doctor in a cgroup" doctor_cgroup
	unset EVERING_BACKEND
}

on_any() {
	check 'wrong options' bad_options
	check 'help' helps
	check 'help is aligned, and letters mean the same' help_aligned
	check 'wrong places' bad_places
	check 'no device' no_device
	check 'no space for what is printed' output_full
	check 'ping until a deadline' ping_deadline
	check 'ping, more than there is room for' ping_full
	check 'ping, SIGTERM' ping_interrupted adaptive TERM 143
	check 'pipe, disk full' disk_full
	check 'pipe, reader goes' reader_goes
	check 'pipe, no input' no_input
	check 'pipe, SIGINT while it listens' pipe_signal INT 130
	check 'pipe, SIGTERM while it listens' pipe_signal TERM 143
	check 'pipe waits for the listening side' pipe_waits
	check 'pipe, no other side comes' nobody_comes
	check 'a socket is passed by systemd' activated ''
	check 'a socket is passed by another' activated perl
	check 'pipe, a terminal ends with the other side' terminal_ends
	check 'top and a liar' top_hostile
	check 'top, how many are hidden' top_hidden
	check 'top, threads of the kernel' top_kernel_threads
	check 'top on a terminal, q' top_terminal q 0
	check 'top on a terminal, SIGHUP' top_terminal HUP 129
	check 'top on a terminal, SIGTERM' top_terminal TERM 143
	check 'top on a terminal, SIGQUIT' top_terminal QUIT 131
	check 'top on a terminal, u' top_key
	check 'top on a terminal, stopped and continued' top_stopped
	check 'colours of top' colours 'top -b -c 1 -i 0.05'
	check 'colours of doctor' colours doctor
	check 'doctor' doctor
	check 'doctor in JSON' doctor_json
	check 'doctor finds what is wrong' doctor_finds
	check 'doctor: how many channels' doctor_channels
	check 'doctor: how to get the module here' doctor_module
	check 'doctor in a cgroup' doctor_cgroup
	check 'doctor behind a seccomp filter' doctor_filtered
	check 'doctor and resource limits' doctor_limits
	check 'doctor and a module of another version' doctor_abi
	check 'completion' completes
	check 'another user comes to pipe' other_user_comes
	check 'another user comes to ping' other_user_pings
	check 'another user listens' other_user_listens
	check 'remedies: more descriptors than there are' more_descriptors
	check 'remedies: what is at a path' what_is_there
	check 'remedies: memfds that cannot be sealed' no_sealing
	check 'remedies: no epoll watches' no_watches
	check 'a process of another PID namespace' other_namespace
	check 'pipe fails, in JSON' json_of_failure
	check 'top, root without its rights' no_right_to_look
	check 'numbers' numbers
	check 'signals blocked, pipe whose other side dies' blocked_pipe
	check 'signals blocked, and sent' blocked_end
	check 'a signal ignored stays so' ignored_end
	check 'process 1 ends by signals' process_1_ends
	check 'in the background of a terminal, top' background_group 'top -i 0.1'
	if [[ ! $short ]]; then
		check 'in the background of a terminal, ping' background_group 'ping -i 0.1'
		check 'in the background of a terminal, ping in a line' \
			background_group 'ping -i 0'
	fi
	check 'in the background of a terminal, then in front' later_foreground
	check 'a dumb terminal' dumb_terminal
	check 'what is printed has no reader' nobody_reads
	check 'standard output closed' ends_without closed 'Bad file descriptor'
	check 'standard output full' ends_without full 'No space left on device'
	check 'closed descriptors' closed_descriptors
	check 'standard output that does not block' nonblocking_output 1
	check 'standard output without a reader, and a signal' nonblocking_output 0
}

echo 'TAP version 13'
# It has been run before a guest is started, and takes twenty times as long there.
if [[ ! $guest && (! $short || ${BUILD:-} != *tsan*) ]]; then
	on_any
else
	check 'what no backend has a part in' skip "is the same everywhere"
fi
for backend in "${backends[@]}"; do
	on "$backend"
done

plan
