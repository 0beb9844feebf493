#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What the tests that are scripts have in common: each sources this, in the
# repository's folder.  A test is a function:
#
#	echo 'TAP version 13'
#	check 'its name' its_function argument...
#	plan
#
# From the environment:
#
#	BUILD=dir		where what is tested lies: $build, absolute
#	EVERING_BACKEND=name	${backends[@]} is this one, instead of each that is here
#	EVERING_SHORT=1		$short
#	EVERING_GUEST=1		$guest, and of the backends the device alone
#	EVERING_SLOW=n		$slow: so many times as long where time is bounded
#
# No test hangs on how long anything takes: whatever is waited for is a condition,
# and `soon` bounds the wait.  Starting a process is what takes longest in a guest:
# whatever runs often makes do with bash.

set -u
export LC_ALL=C

# shellcheck disable=SC2034 # for who sources this
{
	top=$PWD
	build=${BUILD:-build}
	[[ $build == /* ]] || build=$top/$build
	short=${EVERING_SHORT:-}
	guest=${EVERING_GUEST:-}
	slow=${EVERING_SLOW:-1}
	backends=(memfd)
	if [[ -c /dev/evering && -r /dev/evering && -w /dev/evering ]]; then
		backends+=(device)
		# A guest is there for the module: of memfd it runs what is in C.
		[[ $guest ]] && backends=(device)
	fi
	[[ ${EVERING_BACKEND:-} ]] && backends=("$EVERING_BACKEND")
	as_nobody=(setpriv --reuid=65534 --clear-groups)
	signals=$(env --default-signal=INT,HUP,TERM echo yes 2>/dev/null)
}
# Seconds within which what `soon` waits for comes, and what `exits` runs ends.
patience=$((slow > 1 ? 300 : 60))
limit=120
number=0
failed=0

tmp=$(mktemp -d) || exit
trap 'end_all; remove "$tmp"' EXIT
# What others leave when they are killed goes with it.
export TMPDIR=$tmp
# Copies of the programs that are tested, so that their processes can be told from
# everybody else's.
bin=$tmp/bin
mkdir "$bin"
# Where tests run: an empty folder, unless a script has it be another.
place=$tmp/work

# ------------------------------------------------------------------------- TAP

# check NAME FUNCTION [ARGUMENT...]: the function runs in a shell of its own, and
# passes by returning 0 and leaving nothing behind; what it prints explains a failure.
check() {
	local name=$1 output status
	shift
	mkdir "$tmp/work"
	output=$(trap end_all EXIT && exec 2>&1 && cd "$place" && "$@" && nothing_left)
	status=$?
	remove "$tmp/work"
	((number++))
	case $status in
	0) echo "ok $number $name" ;;
	4) echo "ok $number $name # SKIP ${output##*$'\n'}" ;;
	*)
		((failed++))
		echo "not ok $number $name"
		printf '%s\n' "${output:-status $status}" | sed 's/^/# /'
		;;
	esac
}

# plan: after the last test; what it returns is the script's status.
plan() {
	echo "1..$number"
	((!failed))
}

# skip WHY: ends the test that calls it.
skip() {
	echo "$1"
	exit 4
}

# need PROGRAM [PACKAGE]: or the test is skipped.
need() {
	command -v "$1" >/dev/null || skip "no $1${2:+: install $2}"
}

need_terminal() {
	command -v script >/dev/null || skip 'no script(1)'
	script -qec true /dev/null >/dev/null 2>&1 </dev/null ||
		skip 'no terminals here: is /dev/pts mounted?'
}

# sanitizers FILE: prints those that it was built with, as -fsanitize= takes them.
sanitizers() {
	local list=
	grep -qs __asan_init "$1" && list+=,address
	grep -qs __ubsan_ "$1" && list+=,undefined
	grep -qs __tsan_init "$1" && list+=,thread
	echo "${list#,}"
}

# skip_all WHY, bail_out WHY: end the script.
skip_all() {
	echo "1..0 # SKIP $1"
	exit 4
}

bail_out() {
	echo "Bail out! $1"
	exit 1
}

# ---------------------------------------------------------------------- what is said

# soon COMMAND...: the command succeeds within $patience seconds.
soon() {
	local end=$((SECONDS + patience))
	while ((SECONDS < end)); do
		"$@" && return
		sleep 0.02
	done
	echo "in vain: $*"
	return 1
}

# exits STATUS COMMAND...: it ends with this status; its standard output and error go
# to the files out and err.
exits() {
	local want=$1 status
	shift
	timeout -k 5 "$limit" "$@" >out 2>err
	status=$?
	((status == want)) && return
	echo "${1##*/} ${*:2}: status $status, not $want"
	cat err
	return 1
}

# says TEXT [FILE]: the error output, or this file, has it.
says() {
	local text='' file=${2:-err}
	IFS= read -rd '' text <"$file"
	[[ $text == *"$1"* ]] && return
	echo "nothing about '$1' in $file:"
	cat "$file"
	return 1
}

# same FILE FILE
same() {
	cmp "$1" "$2" && return
	diff "$1" "$2" | head -n 20
	return 1
}

# ----------------------------------------------------------------------- processes

# background COMMAND...: with the signals and the standard input that a shell takes
# from what it starts, but without the ends of fifos that a test holds as 7 and 8;
# its process is $pid.
background() {
	[[ $signals ]] || skip 'env(1) has no --default-signal'
	env --default-signal=INT,HUP,TERM "$@" <&0 7<&- 8<&- &
	pid=$!
}

# ended PID STATUS: it ends, so.
ended() {
	local status
	soon gone "$1" || return
	wait "$1"
	status=$?
	((status == $2)) && return
	echo "status $status, not $2"
	cat err* 2>/dev/null
	return 1
}

# serve PROGRAM ARGUMENT...: one of $bin in the background, until it says that it
# listens, into the file served; it is $server.
serve() {
	: >served
	"$bin/$1" "${@:2}" >served 2>>served-err &
	server=$!
	soon test -s served || {
		cat served-err
		return 1
	}
}

# stop SIGNAL STATUS: the server ends, so.
stop() {
	local status
	kill "-$1" "$server"
	wait "$server"
	status=$?
	((status == $2)) && return
	echo "SIG$1: status $status, not $2"
	cat served-err
	return 1
}

# stat_of PID: sets $stat to its line of proc(5)'s stat, less the number; fails if
# there is none.
stat_of() {
	stat=
	{ read -rd '' stat <"/proc/$1/stat" || [[ $stat ]]; } 2>/dev/null || return
	stat=${stat#* }
}

gone() {
	local stat
	stat_of "$1" || return 0
	[[ ${stat##*) } == Z* ]]
}

# child_of PID NAME: prints a child of it that has this name.
child_of() {
	local stat folder
	for folder in /proc/[0-9]*; do
		stat_of "${folder#/proc/}" || continue
		[[ $stat == "($2) "?" $1 "* ]] || continue
		echo "${folder#/proc/}"
		return
	done
	return 1
}

# ticks PID...: sets $ticks to the CPU time that they have used.
ticks() {
	local pid stat fields
	ticks=0
	for pid; do
		stat_of "$pid" || return
		read -ra fields <<<"${stat##*) }"
		ticks=$((ticks + fields[11] + fields[12]))
	done
}

# ours: prints the processes that run a program of $bin.
ours() {
	local exe program
	for exe in /proc/[0-9]*/exe; do
		for program in "$bin"/*; do
			[[ $exe -ef $program ]] || continue
			exe=${exe%/exe}
			echo "${exe#/proc/}"
			break
		done
	done
}

nobody_left() {
	[[ ! $(ours) ]]
}

# nothing_left: no process, and no socket.
nothing_left() {
	local file
	soon nobody_left || return
	for file in "$tmp"/work/*; do
		[[ -S $file ]] || continue
		echo "left behind: $file"
		return 1
	done
}

# below PID: prints what it has started, and what that has, and so on.
below() {
	local pid pids=()
	{ read -ra pids <"/proc/$1/task/$1/children"; } 2>/dev/null
	for pid in "${pids[@]}"; do
		echo "$pid"
		below "$pid"
	done
}

# end_all: what the shell that calls it has started, and then who is left of ours,
# whoever started them.
end_all() {
	local me=$BASHPID
	# shellcheck disable=SC2046 # lists
	{
		kill -KILL $(below "$me")
		kill -KILL $(ours)
	} 2>/dev/null
}

# remove FOLDER: whatever its modes are.
remove() {
	rm -rf "$1" 2>/dev/null && return
	chmod -R u+rwx "$1"
	rm -rf "$1"
}
