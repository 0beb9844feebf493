#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Replays what the fuzzer has found worth keeping (tools/check/fuzz/corpus): programs of a
# peer that writes whatever it may.  Nothing is looked for here, so no libFuzzer is
# needed: the targets are built with a main() of their own, around the library that
# lies in BUILD, with the sanitizers and the coverage that it was built with.  TAP.
#
#	BUILD=dir	where libevering.a lies (build)
#	CC=compiler	(gcc)

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
export CC=${CC:-gcc}
export LIBRARY=$build/libevering.a
[[ -x tools/check/fuzz/run ]] || skip_all 'no fuzzer and no corpus here'
command -v "$CC" >/dev/null || skip_all "no $CC; CC= names another compiler"
[[ -e $LIBRARY ]] || bail_out "no $LIBRARY"

SANITIZE=$(sanitizers "$LIBRARY")
export SANITIZE=${SANITIZE:-none} CFLAGS='-O1 -g'
grep -q __gcov_ "$LIBRARY" && CFLAGS+=' --coverage'
targets=(ring op group hello race wire)
# Its peer races with the victim: that is what it is for.
[[ $SANITIZE == thread ]] && targets=(ring op group hello wire)

BUILD=$tmp tools/check/fuzz/run --replay "${targets[@]}"
