#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of the examples of tools/examples, on each backend that is there: that they
# do what they say, say what is wrong and what to do about it, and leave nothing
# behind, whoever is killed.  TAP.
#
#	BUILD=dir		where examples/ lies (build)
#	EVERING_SHORT=1		fewer requests
#	EVERING_GUEST=1		what kernel or backend have a part in
#	EVERING_SLOW=100	of that, a few

# All that are here, whatever is asked for.
unset EVERING_BACKEND
# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
cp "$build"/examples/* "$bin" || bail_out "no $build/examples"
# For who is not root.
chmod 755 "$tmp" "$bin"

# ------------------------------------------------------------------ machinery

# try NAME FUNCTION [ARGUMENT...]: a check on $EVERING_BACKEND.
try() {
	check "$1, $EVERING_BACKEND" "${@:2}"
}

# run STATUS PROGRAM ARGUMENT...: an example ends with this status.
run() {
	exits "$1" "$bin/$2" "${@:3}"
}

# prints TEXT: the standard output has it.
prints() {
	says "$1" out
}

# stopped PID: it has taken SIGSTOP.
stopped() {
	grep -q '^State:.T' "/proc/$1/status"
}

# clients: processes of kv but for the server, one to a line.
clients() {
	local pid
	for pid in $(ours); do
		((pid == server)) || echo "$pid"
	done
}

clients_are() {
	(($(clients | wc -l) == $1))
}

# endless N: so many clients at work, until they are killed; $bench is their parent.
endless() {
	"$bin/kv" --clients="$1" --keys=100 --rounds=1000000 bench >out 2>err &
	bench=$!
	soon grep -qs '^over' out
}

# descriptors PID N: it has so many at most.
descriptors() {
	local fds=("/proc/$1/fd"/*)
	((${#fds[@]} <= $2))
}

# -------------------------------------------------------------------- all of them

options() {
	local program
	for program in echo kv cancel privsep; do
		run 0 "$program" --help && prints "Usage: $program" &&
			[[ ! -s err ]] || return
		run 2 "$program" --nonsense && says "Usage: $program" &&
			[[ ! -s out ]] || return
	done
	for program in echo kv privsep; do
		run 2 "$program" && says "Usage: $program" || return
	done
	run 2 cancel nonsense && run 2 echo ask && run 2 echo nonsense &&
		run 2 echo serve now && run 2 kv get && run 2 kv put a &&
		run 2 kv put a b c && run 2 kv nonsense && run 2 privsep . &&
		run 2 kv --workers=0 serve && says '--workers=0: must be 1..64' &&
		run 2 kv --clients=65 bench && says '--clients=65: must be 1..64' &&
		run 2 kv --keys=-1 bench && says '--keys=-1: must be' &&
		run 2 kv --keys=1x bench && says '--keys=1x: must be' &&
		run 2 kv --rounds= bench && says '--rounds=: must be'
}

no_server() {
	run 1 echo ask hello && says 'echo.socket: No such file' &&
		says "is \`echo serve\` running" &&
		run 1 kv get a && says 'kv.socket: No such file' &&
		says "is \`kv serve\` running" &&
		run 1 kv --clients=2 bench && says '2 of 2 clients failed'
}

no_backend() {
	local EVERING_BACKEND=pigeon
	run 1 cancel && says EVERING_BACKEND &&
		run 1 privsep . x && says EVERING_BACKEND
}

no_device() {
	[[ ! -e /dev/evering ]] || skip 'there is one'
	local EVERING_BACKEND=device
	run 1 cancel && run 1 privsep . x && says 'load evering.ko' &&
		says EVERING_BACKEND=memfd
}

# --------------------------------------------------------------------------- echo

echoes() {
	serve echo serve || return
	run 0 echo ask hello '' 'and again' && says "over $EVERING_BACKEND" || return
	printf 'hello\n\nand again\n' | cmp - out || return
	local most
	most=$(printf 'x%.0s' {1..236})
	run 0 echo ask "$most" && [[ $(<out) == "$most" ]] &&
		run 1 echo ask "x$most" && says 'Message too long; a TEXT has to' &&
		run 0 echo ask 'still there' && stop TERM 0
}

# Ends by a signal that was blocked when it was started.
echo_blocked() {
	env --block-signal=TERM true 2>/dev/null || skip 'env(1) has no --block-signal'
	: >served
	env --block-signal "$bin/echo" serve >served 2>served-err &
	server=$!
	soon test -s served && run 0 echo ask hello && kill -TERM "$server" && ended "$server" 0
}

echo_socket() {
	serve echo --socket="@examples-$$" serve || return
	run 0 echo --socket="@examples-$$" ask hello && prints hello &&
		run 1 echo --socket="@examples-$$" serve &&
		says 'Address already in use; stop the server' && stop INT 0 &&
		run 1 echo --socket=none/here serve && says 'No such file'
}

echo_server_killed() {
	serve echo serve && stop KILL 137 || return
	[[ -S echo.socket ]] || return
	run 1 echo ask hello && says "Connection refused; is \`echo serve\` running" &&
		serve echo serve && run 0 echo ask hello && prints hello && stop TERM 0
}

# Before they meet there is nothing to see of a client, so it is stopped at once, or
# has done its work: either way the server goes on with the next.
echo_client_killed() {
	local i pid
	serve echo serve || return
	for i in 1 2 3; do
		"$bin/echo" ask hello >/dev/null 2>&1 &
		pid=$!
		kill -STOP "$pid"
		kill -KILL "$pid"
		wait "$pid"
	done
	run 0 echo ask hello && prints hello && stop TERM 0
}

# --------------------------------------------------------------- json and message

# Some 10 kB, what is longest, and what is too long for the client.
json_texts() {
	local n
	"$bin/json_server" 2>served-err &
	server=$!
	soon test -S json || return
	for n in 3 10000 999980; do
		printf '["%s"]' "$(head -c "$n" /dev/zero | tr '\0' x)" >asked
		printf '{"asked":%s}' "$(<asked)" >want
		run 0 json_client <asked && cmp want out || return
	done
	head -c 999995 /dev/zero | tr '\0' 7 >asked
	run 1 json_client <asked && says 'json_client: Message too long' &&
		run 1 json_client other <<<'[]' &&
		says 'json_client: No such file' && run 0 json_client <<<'[]' &&
		prints '{"asked":[]' && stop TERM 143 && rm json && [[ ! -s served-err ]]
}

# As they were sent, the long one and the empty one too.
message_texts() {
	local long
	long=$(head -c 10000 /dev/zero | tr '\0' x)
	run 2 message && says 'Usage: message' && run 2 message send &&
		run 1 message send a && says 'message: No such file' || return
	"$bin/message" receive >received 2>&1 &
	server=$!
	soon test -S messages && run 0 message send hello "$long" '' bye &&
		ended "$server" 0 &&
		printf '%s\n' hello "$long" '' bye | cmp - received
}

# ------------------------------------------------------------------------- cancel

cancels() {
	run 0 cancel && prints "over $EVERING_BACKEND" &&
		prints 'outcome: Connection timed out' &&
		prints 'the late answer has come' &&
		prints 'outcome: Operation canceled' &&
		prints 'outcome: Broken pipe' && prints 'the server died' &&
		[[ ! -s err ]] && (($(grep -c 'ours again' out) == 2))
}

cancel_killed() {
	"$bin/cancel" >out &
	local pid=$!
	soon grep -q 'that is late' out
	kill -KILL "$pid"
	wait "$pid"
	# What is left of it notices.
	soon nobody_left
}

# ------------------------------------------------------------------------ privsep

files() {
	mkdir -p dir/sub
	head -c 700000 /dev/urandom >dir/large
	head -c 131072 /dev/urandom >dir/chunk
	: >dir/empty
	echo secret >secret
	echo small >dir/small
	echo deep >dir/sub/deep
	ln -s small dir/inside
	ln -s ../secret dir/outside
	ln -s "$PWD/secret" dir/absolute
	ln -s / dir/root
	ln -s self dir/self
	mkfifo dir/fifo
	chmod 755 . dir dir/sub
}

contents() {
	files
	run 0 privsep "$@" dir large empty chunk small sub/deep ./sub/../small &&
		says "over $EVERING_BACKEND" || return
	cat dir/{large,empty,chunk,small,sub/deep,small} | cmp - out
}

# The same, but ".." is never followed there.
contents_by_steps() {
	files
	run 0 privsep --no-links dir large empty chunk small sub/deep .//sub/./deep ||
		return
	cat dir/{large,empty,chunk,small,sub/deep,sub/deep} | cmp - out
}

refusals() {
	local file path
	files
	path=$(pwd -P)
	for file in ../secret sub/../../secret "$path/secret" /etc/passwd outside \
		absolute "root$path/secret" .. sub/../..; do
		run 1 privsep "$@" dir "$file" || return
		[[ ! -s out ]] && says "privsep: $file: " || return
		grep -qE 'Invalid cross-device link|symbolic links|Not a dir' err && continue
		echo "$file: not refused for what it is:"
		cat err
		return 1
	done
	for file in . sub fifo none self '' "$(printf 'a%.0s' {1..201})" sub/ \
		small/x; do
		run 1 privsep "$@" dir "$file" && [[ ! -s out ]] &&
			says "privsep: $file: " || return
	done
	# What is refused keeps nobody from the rest.
	run 1 privsep "$@" dir small ../secret small && says ../secret &&
		printf 'small\nsmall\n' | cmp - out
}

links() {
	files
	run 0 privsep dir inside && printf 'small\n' | cmp - out &&
		run 1 privsep --no-links dir inside && says 'symbolic links' &&
		[[ ! -s out ]]
}

# The worker is another user, and so could not have read this.
privileges() {
	((!EUID)) || skip 'not root'
	"${as_nobody[@]}" true 2>/dev/null || skip 'setpriv(1) cannot'
	files
	chmod 600 dir/small
	! "${as_nobody[@]}" cat dir/small 2>/dev/null ||
		skip 'everything can be read here'
	run 0 privsep dir small && says 'as user 65534' &&
		printf 'small\n' | cmp - out || return
	! compgen -G '/tmp/privsep.*'
}

unprivileged() {
	local as=()
	((EUID)) || as=("${as_nobody[@]}" --regid=65534)
	"${as[@]}" true 2>/dev/null || skip 'setpriv(1) cannot'
	"${as[@]}" test -x "$bin/privsep" || skip 'the folder is not for everybody'
	[[ $EVERING_BACKEND != device ]] || "${as[@]}" test -w /dev/evering ||
		skip '/dev/evering is not for everybody'
	files
	"${as[@]}" timeout -k 5 120 "$bin/privsep" dir small >out 2>err &&
		says 'not root: the worker stays user' && printf 'small\n' | cmp - out
}

bad_dirs() {
	files
	run 1 privsep none x && says 'privsep: none: No such file' &&
		run 1 privsep dir/small x && says 'Not a directory; DIR has to be' &&
		[[ ! -s out ]]
}

# half_way: privsep, held because nobody reads what it prints: $privsep is the
# helper, $worker the other.
half_way() {
	local byte pid
	files
	mkfifo fifo
	exec 9<>fifo
	"$bin/privsep" dir large >fifo 2>err 9>&- &
	privsep=$!
	IFS= LC_ALL=C read -rd '' -N 1 -t 60 -u 9 byte || [[ $byte ]] || return
	for pid in $(ours); do
		((pid == privsep)) || worker=$pid
	done
	[[ ${worker:-} ]]
}

worker_killed() {
	half_way && kill -KILL "$worker" || return
	wait "$privsep"
	(($? == 1)) && says 'the worker was killed by signal 9'
}

helper_killed() {
	half_way && kill -KILL "$privsep" || return
	wait "$privsep"
	# It writes on, and finds nobody to ask.
	cat <&9 >/dev/null &
	local reader=$!
	soon nobody_left
	kill "$reader"
	says 'large: Broken pipe; the helper is gone'
}

no_openat2() {
	command -v "${CC:-cc}" >/dev/null || skip 'no compiler'
	files
	cat >without.c <<-'END'
		#include <errno.h>
		#include <linux/filter.h>
		#include <linux/seccomp.h>
		#include <stddef.h>
		#include <sys/prctl.h>
		#include <sys/syscall.h>
		#include <unistd.h>
		int main(int argc, char **argv)
		{
			struct sock_filter code[] = {
				BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					 offsetof(struct seccomp_data, nr)),
				BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
				BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
				BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
			};
			struct sock_fprog prog = { 4, code };

			if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
			    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
				return 99;
			(void)argc;
			execv(argv[1], argv + 1);
			return 98;
		}
	END
	"${CC:-cc}" -o without without.c 2>/dev/null || skip 'no compiler'
	./without "$(type -P true)" || skip 'no seccomp'
	./without "$bin/privsep" dir small ../secret inside >out 2>err
	(($? == 1)) && says 'openat2: Function not implemented; it takes Linux 5.6' &&
		says 'privsep: ../secret: Invalid cross-device link' &&
		says 'privsep: inside: Too many levels' && printf 'small\n' | cmp - out
}

# ----------------------------------------------------------------------------- kv

keys=500
[[ $short ]] && keys=60

kv_commands() {
	local value
	serve kv --workers=3 serve && grep -q '^3 workers' served || return
	value=$(printf '0123456789%.0s' {1..9000})
	run 0 kv put a 1 && run 0 kv get a && [[ $(<out) == 1 ]] &&
		run 0 kv put a 2 && run 0 kv get a && [[ $(<out) == 2 ]] &&
		run 0 kv put empty '' && run 0 kv get empty && [[ ! $(<out) ]] &&
		run 0 kv put large "$value" && run 0 kv get large &&
		[[ $(<out) == "$value" ]] &&
		run 0 kv delete a && run 1 kv get a && says 'a: no such key' &&
		run 1 kv delete a && says 'a: no such key' &&
		run 1 kv put '' x && says 'a key has 1 to 64 bytes' &&
		run 1 kv put "$(printf 'k%.0s' {1..65})" x && says 'a key has 1 to' &&
		run 0 kv put "$(printf 'k%.0s' {1..64})" x &&
		run 0 kv get "$(printf 'k%.0s' {1..64})" && [[ $(<out) == x ]] || return
	# Every length around what fits the entry.
	local i
	for ((i = 90; i < 130; i++)); do
		[[ $short ]] && ((i % 6)) && continue
		run 0 kv put k "${value:0:i}" && run 0 kv get k &&
			[[ $(<out) == "${value:0:i}" ]] || return
	done
	stop TERM 0 && grep -q 'requests$' served
}

# An abstract name has no mode: the server says whom it takes.
kv_admission() {
	local name=@kv-$$
	((!EUID)) || skip 'not root'
	"${as_nobody[@]}" true 2>/dev/null || skip 'setpriv(1) cannot'
	"${as_nobody[@]}" test -x "$bin/kv" || skip 'the folder is not for everybody'
	serve kv --socket="$name" --workers=1 serve &&
		run 0 kv --socket="$name" put a 1 || return
	! EVERING_BACKEND=memfd "${as_nobody[@]}" timeout -k 5 120 "$bin/kv" \
		--socket="$name" get a >out 2>err &&
		says 'Permission denied' && [[ ! -s out ]] &&
		run 0 kv --socket="$name" get a && [[ $(<out) == 1 ]] && stop TERM 0
}

kv_bench() {
	serve kv --workers="$1" serve && run 0 kv --clients="$2" --keys=$keys bench &&
		prints "over $EVERING_BACKEND, to $1 workers" &&
		prints "$(($2 * keys * 6)) requests" && prints 'all right' &&
		stop "$3" 0 && [[ ! -s served-err ]]
}

# More large values at once than the arenas hold: both sides have to wait for room.
kv_large() {
	serve kv --workers="$1" serve &&
		run 0 kv --clients=2 --keys=$((keys / 2)) --size=1048576 bench &&
		prints 'all right' && stop TERM 0 && [[ ! -s served-err ]]
}

# 300 MB are too much for one worker.
kv_full() {
	[[ ! $short ]] || skip 'takes long'
	serve kv --workers=1 serve &&
		run 1 kv --clients=1 --keys=5000 --size=1048576 bench &&
		says 'No space left on device; the worker is full' &&
		run 0 kv get 0-1 && stop TERM 0 && [[ ! -s served-err ]]
}

# Each on a CPU of its own, as far as there are such, and no thread on two.
kv_pinned() {
	serve kv serve && soon workers_are_pinned && stop TERM 0
}

# Each does it for itself, when it begins to run.
workers_are_pinned() {
	local task allowed=0
	for task in /proc/"$server"/task/*; do
		[[ ${task##*/} == "$server" ]] && continue
		grep -qE '^Cpus_allowed_list:.[0-9]+$' "$task/status" && ((allowed++))
	done
	((allowed == $(nproc))) || grep -q '^64 workers' served
}

kv_clients_killed() {
	local i fds pids
	serve kv --workers=2 serve && run 0 kv put kept value || return
	fds=("/proc/$server/fd"/*)
	for i in 1 2 3; do
		rm -f out
		endless 3 || return
		mapfile -t pids < <(clients)
		kill -KILL "${pids[@]}"
		wait "$bench"
		soon clients_are 0 || return
	done
	# What they had is given back, and everybody else is served.
	soon descriptors "$server" ${#fds[@]} &&
		run 0 kv --clients=2 --keys=20 bench && prints 'all right' &&
		run 0 kv get kept && [[ $(<out) == value ]] && stop TERM 0 &&
		[[ ! -s served-err ]]
}

# What is put is in files: those of clients that are at work are others by and by.
kept_is_not() {
	[[ $(stat -c "%s %y" kept.*) != "$1" ]]
}

has_put() {
	grep -qa "$1-[0-9]" kept.*
}

# It ends, by this signal and with this status, again and again, while two clients work:
# each time another one takes its place, no answer is wrong, and none is missed.
kv_server_comes_back() {
	local i pids
	serve kv --file=kept --workers=2 serve && run 0 kv put kept value &&
		endless 2 && soon has_put 0 && soon has_put 1 || return
	for i in {1..6}; do
		stop "$1" "$2" && serve kv --file=kept --workers=2 serve || return
		soon kept_is_not "$(stat -c "%s %y" kept.*)" && continue
		cat out err
		return 1
	done
	kill -0 "$bench" || {
		cat out err
		return 1
	}
	mapfile -t pids < <(clients)
	kill -KILL "${pids[@]}"
	wait "$bench"
	run 0 kv --clients=2 --keys=20 bench && prints 'all right' &&
		run 0 kv get kept && [[ $(<out) == value ]] && stop TERM 0 &&
		[[ ! -s served-err ]]
}

# The file of one that was killed while it wrote, and of one with much to forget.
kv_file() {
	local i
	serve kv --file=kept --workers=1 serve || return
	for i in {1..3}; do
		run 0 kv put k "$i" && run 0 kv put gone x && run 0 kv delete gone || return
	done
	stop KILL 137 || return
	printf 'torn' >>kept.0
	serve kv --file=kept --workers=1 serve && run 0 kv get k && [[ $(<out) == 3 ]] &&
		run 1 kv get gone && run 0 kv put after 1 && stop KILL 137 || return
	# One record each is left of what was before.
	serve kv --file=kept --workers=1 serve && run 0 kv get after && [[ $(<out) == 1 ]] &&
		(($(stat -c %s kept.0) < 100)) && stop TERM 0 || return
	run 1 kv --file=none/x serve && says 'none/x' || return
	# Who has it is not disturbed, and where keys belong is not forgotten.
	serve kv --file=kept --workers=1 serve && run 0 kv put k 4 || return
	run 1 kv --socket=@other-$$ --file=kept --workers=1 serve &&
		says 'another server has this file' && run 0 kv put k 5 && stop KILL 137 || return
	run 1 kv --file=kept --workers=2 serve && says 'another --workers' || return
	serve kv --file=kept --workers=1 serve && run 0 kv get k && [[ $(<out) == 5 ]] && stop TERM 0
}

kv_server_stopped() {
	serve kv serve || return
	kill -STOP "$server"
	soon stopped "$server" || return
	"$bin/kv" get a >out 2>err &
	local client=$!
	kill -CONT "$server"
	wait "$client"
	(($? == 1)) && says 'a: no such key' && stop TERM 0
}

kv_in_use() {
	serve kv serve && run 1 kv serve &&
		says 'kv.socket.0: Address already in use; stop the server' &&
		run 0 kv put a 1 && stop TERM 0 && run 1 kv --socket=none/x serve &&
		says 'none/x.0: No such file'
}

# A stranger, and one who asks for what there is not.
kv_strangers() {
	serve kv --workers=1 serve || return
	perl -MSocket -e '
		for (1 .. 5) {
			socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die;
			connect(S, sockaddr_un("kv.socket.0")) or die;
			send(S, "good day", 0) or die;
		}' || return
	run 0 kv put a 1 && run 0 kv get a && [[ $(<out) == 1 ]] && stop TERM 0
}

# ---------------------------------------------------------------- README and pages

# blocks PAGE: its blocks of code become files: that behind a line "`NAME`:" has this
# name, the others that of their line and language.
blocks() {
	[[ -r $top/$1 && -r $top/lib/evering.h ]] || skip 'no sources'
	awk '/^`[a-z]+\.[a-z]+`:$/ { name = substr($0, 2, length($0) - 3); next }
		/^```./ { file = name ? name : sprintf("line%d.%s", FNR, substr($0, 4)); next }
		/^```$/ { file = "" }
		file { print >file }
		/./ { name = "" }' "$top/$1"
}

# Every block of C and C++ compiles as it stands.
snippets() {
	local file count=0
	blocks "$1"
	for file in *.c *.cpp; do
		[[ -e $file ]] || continue
		((++count))
		if grep -q evering_uring.h "$file" && ! has_header liburing.h; then
			continue
		fi
		compiles "$file" && continue
		echo "$1: $file"
		return 1
	done
	((count)) || skip 'has no code'
}

# compiles FILE: or there is no compiler for it.
compiles() {
	local compiler=("${CC:-cc}" -std=gnu11)
	[[ $1 == *.cpp ]] && compiler=(c++ -std=c++20)
	command -v "${compiler[0]}" >/dev/null || return 0
	"${compiler[@]}" -Wall -Wextra -Werror -fsyntax-only "-I$top/lib" "-I$top/uapi" "$1"
}

# can_link: whether a program can be linked with the library as a page says.
can_link() {
	need gcc
	[[ -e $build/libevering.a ]] || skip "no $build/libevering.a"
	[[ ! $(sanitizers "$build/libevering.a") ]] || skip 'the library has sanitizers'
	! grep -qs __gcov_init "$build/libevering.a" || skip 'the library counts what it executes'
}

# What it says to type makes a server and a client of it, which exchange 10 kB, and are
# short.
readme_runs() {
	local lines
	can_link
	blocks README.md
	lines=$(cat server.c client.c | grep -c .) || return
	((lines <= 60)) || {
		echo "$lines lines"
		return 1
	}
	ln -s "$top/lib" "$top/uapi" .
	[[ -e build ]] || ln -s "$build" build
	{
		sed -n '/^    gcc -Ilib/,/^$/s/^    //p' "$top/README.md"
		# The server is what was started last.
		echo 'kill $!; wait $! 2>/dev/null; rm demo.socket'
	} >commands
	grep -q '^\./server &$' commands || return
	bash commands >out 2>err
	[[ $(<out) == 9893 ]] && grep -q 'request of 9,893 bytes' "$top/README.md" && return
	cat out err
	return 1
}

# The guide shows what this program of its prints.
guide_sizes() {
	local file
	can_link
	blocks tools/doc/guide.md
	file=$(grep -l 'halves ' line*.c) || return
	gcc -I"$top/lib" -I"$top/uapi" -o sizes "$file" "$build/libevering.a" -pthread &&
		EVERING_BACKEND=memfd ./sizes >out || return
	sed -n '/^    slot  /,/^$/s/^    //p' "$top/tools/doc/guide.md" | diff - out
}

# Its program in Python runs.
guide_python() {
	local file library=$build/libevering-ffi.so.0
	need python3
	[[ -e $library ]] || skip "no $library"
	[[ ! $(sanitizers "$library") ]] || skip 'the library has sanitizers'
	blocks tools/doc/guide.md
	for file in line*.py*; do
		mv "$file" program.py
	done
	[[ $(EVERING_FFI=$library EVERING_BACKEND=memfd python3 program.py) == ping ]]
}

# It lists the system calls of a server and of a client, for those who filter them.  The
# C library has some of its own when a program starts.
guide_calls() {
	local call section own=' access arch_prctl brk execve getrandom pread64 rseq set_robust_list
		set_tid_address sigaltstack '
	local tracer server
	[[ ! $(sanitizers "$bin/echo") ]] || skip 'the program has sanitizers'
	! grep -qs __gcov_init "$bin/echo" || skip 'the program counts what it executes'
	need strace
	strace -o /dev/null true 2>/dev/null || skip 'strace(1) cannot'
	section=$(awk '/^### / { inside = $0 == "### System calls" } inside' \
		"$top/tools/doc/guide.md")
	strace -fqq -o calls-server "$bin/echo" serve >served 2>&1 &
	tracer=$!
	soon test -s served && strace -fqq -o calls-client "$bin/echo" ask hello || return
	server=$(sed -n '1s/ .*//p' calls-server)
	kill -TERM "${server:?}" && soon gone "$tracer" || return
	sed -nE 's/^[0-9]+ +([a-z_0-9]+)\(.*/\1/p' calls-server calls-client | sort -u >calls
	(($(wc -l <calls) > 20)) || return
	while read -r call; do
		[[ $own == *[[:space:]]"$call"[[:space:]]* || $call == exit_group || $call == exit ||
			$call == rt_sig* || $section == *"\`$call\`"* ]] || echo "$call"
	done <calls >missing
	[[ ! -s missing ]] && return
	echo "not in the guide: $(paste -sd ' ' missing)"
	return 1
}

has_header() {
	"${CC:-cc}" -x c -E -o /dev/null - <<<"#include <$1>" 2>/dev/null
}

# ------------------------------------------------------------------------- all

# What the backend has no part in, nor the kernel: in guests it is not run again.
on_any() {
	export EVERING_BACKEND=memfd
	try 'wrong options' options
	try 'no server' no_server
	try 'no such backend' no_backend
	try 'no device' no_device
	try 'privsep: contents without links' contents_by_steps
	try 'privsep: what is outside is refused' refusals
	try 'privsep: what is outside is refused, without links' refusals --no-links
	try 'privsep: links inside' links
	try 'privsep: a kernel without openat2' no_openat2
	try 'privsep: wrong folders' bad_dirs
	try 'kv: put, get, delete' kv_commands
	try 'kv: full' kv_full
	try 'kv: strangers at an abstract name' kv_admission
	try 'README: what it says to type' readme_runs
	local page
	for page in README.md tools/doc/guide.md; do
		try "$page: its code compiles" snippets "$page"
	done
	try 'guide: the sizes that it shows' guide_sizes
	try 'guide: Python' guide_python
	try 'guide: system calls' guide_calls
}

# on BACKEND
on() {
	export EVERING_BACKEND=$1
	try 'echo: texts come back' echoes
	try 'echo: other sockets' echo_socket
	try 'echo: signals blocked' echo_blocked
	try 'echo: server killed' echo_server_killed
	try 'echo: clients killed' echo_client_killed

	try 'json: texts of any length' json_texts
	try 'message: texts of any length' message_texts

	try 'cancel: late, unwanted, never' cancels
	try 'cancel: killed' cancel_killed

	try 'privsep: contents' contents
	try 'privsep: the worker has no privileges' privileges
	try 'privsep: without privileges' unprivileged
	try 'privsep: worker killed' worker_killed
	try 'privsep: helper killed' helper_killed

	try 'kv: one worker, one client' kv_bench 1 1 TERM
	try 'kv: one worker, four clients' kv_bench 1 4 INT
	try 'kv: four workers, two clients' kv_bench 4 2 TERM
	try 'kv: large values, one worker' kv_large 1
	try 'kv: large values, two workers' kv_large 2
	try 'kv: pinned' kv_pinned
	try 'kv: clients killed' kv_clients_killed
	try 'kv: server killed' kv_server_comes_back KILL 137
	try 'kv: server terminated at work' kv_server_comes_back TERM 0
	try 'kv: file' kv_file
	try 'kv: server stopped for a while' kv_server_stopped
	try 'kv: socket in use' kv_in_use
	try 'kv: strangers' kv_strangers
}

# on_slow BACKEND: a few, for a debug kernel, which takes five times as long again.
on_slow() {
	export EVERING_BACKEND=$1
	try 'echo: texts come back' echoes
	try 'cancel: late, unwanted, never' cancels
	try 'privsep: worker killed' worker_killed
	try 'kv: four workers, two clients' kv_bench 4 2 TERM
	try 'kv: large values, two workers' kv_large 2
	try 'kv: clients killed' kv_clients_killed
	try 'kv: server killed' kv_server_comes_back KILL 137
}

echo 'TAP version 13'
if [[ $guest ]]; then
	EVERING_BACKEND=any try 'what no backend has a part in' skip EVERING_GUEST
else
	on_any
fi
for backend in "${backends[@]}"; do
	if ((slow >= 100)); then
		on_slow "$backend"
	else
		on "$backend"
	fi
done

plan
