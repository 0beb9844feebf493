#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of programs of 32 bits: the library, compiled for i386, does what it does in 64,
# and programs of both kinds meet and understand each other, on each backend that is
# here.  TAP.
#
#	BUILD=dir		where m32/ lies (build), if a compiler for it was there
#	EVERING_BACKEND=name	on this one alone

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
m32=$build/m32
[[ -x $m32/examples/kv ]] ||
	skip_all "no programs of 32 bits in $m32: install gcc-12-multilib"
"$m32/examples/kv" --help >/dev/null 2>&1 ||
	skip_all 'this kernel runs no programs of 32 bits'
for name in echo kv; do
	cp "$build/examples/$name" "$bin/${name}64"
	cp "$m32/examples/$name" "$bin/${name}32"
done

# A test in C, as it is.
as_in_64() {
	"$m32/selftests/$1" >out 2>&1 && return
	cat out
	return 1
}

# echoes SERVER CLIENT: what fits into an entry.
echoes() {
	serve "echo$1" serve &&
		exits 0 "$bin/echo$2" ask one 'and two' &&
		says 'and two' out &&
		stop TERM 0
}

# values SERVER CLIENT: what goes through the arenas, by its offset.
values() {
	local value
	printf -v value '%0100000d' 7
	serve "kv$1" --workers=1 serve &&
		exits 0 "$bin/kv$2" put key "$value" &&
		exits 0 "$bin/kv$2" get key &&
		[[ $(<out) == "$value" ]] &&
		stop TERM 0
}

# ------------------------------------------------------------------------- all

echo 'TAP version 13'
for backend in "${backends[@]}"; do
	export EVERING_BACKEND=$backend
	for name in abi geometry; do
		check "$name of 32 bits, $backend" as_in_64 "$name"
	done
	for pair in '32 32' '32 64' '64 32'; do
		read -r server client <<<"$pair"
		check "echo: $server bits serve $client, $backend" echoes "$server" "$client"
		check "kv: $server bits serve $client, $backend" values "$server" "$client"
	done
done
plan
