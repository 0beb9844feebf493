#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Replays what the fuzzer has found worth keeping (tools/fuzz/corpus): programs of a
# peer that writes whatever it may.  Nothing is looked for here, so no libFuzzer is
# needed: the targets are built with a main() of their own, around the library that
# lies in BUILD, with the sanitizers and the coverage that it was built with.  TAP.
#
#	BUILD=dir	where libevering.a lies (build)
#	CC=compiler	(gcc)

set -u
export LC_ALL=C
build=${BUILD:-build}
export CC=${CC:-gcc}

if [[ ! -x tools/fuzz/run ]]; then
	echo "1..0 # SKIP no fuzzer and no corpus here"
	exit 4
fi
if ! command -v "$CC" >/dev/null; then
	echo "1..0 # SKIP no $CC; CC= names another compiler"
	exit 4
fi
export LIBRARY=$build/libevering.a
if [[ ! -e $LIBRARY ]]; then
	echo "Bail out! no $LIBRARY"
	exit 1
fi
tmp=$(mktemp -d) || exit
trap 'rm -rf "$tmp"' EXIT

symbols=$(nm -u "$LIBRARY" 2>/dev/null)
export SANITIZE=none CFLAGS='-O1 -g'
targets=(ring op hello race)
case $symbols in
*__asan_*) SANITIZE=address,undefined ;;
*__tsan_*)
	SANITIZE=thread
	# Its peer races with the victim: that is what it is for.
	targets=(ring op hello)
	;;
esac
[[ $symbols == *__gcov_* ]] && CFLAGS+=' --coverage'

BUILD=$tmp tools/fuzz/run --replay "${targets[@]}"
