#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of the selftests of the device as a suite of the kernel's kselftest: lib.mk builds
# and installs all of them, and in a guest run_kselftest.sh runs each.  TAP.
#
#	BUILD=dir	where `make selftests` has put ksft/install (build)

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
installed=$build/ksft/install
[[ -x $installed/run_kselftest.sh ]] || [[ ! $guest ]] || bail_out "no $installed"
[[ -x $installed/run_kselftest.sh ]] ||
	skip_all "no $installed: make -C selftests install, for which rsync is needed"
# Without the device each of them would only say that it is not there.
tests=()
[[ ! -c /dev/evering ]] || mapfile -t tests <"$installed/kselftest-list.txt"

all_are_listed() {
	local source
	[[ -e $top/selftests/device/dev_io.c ]] || skip 'no sources here'
	for source in "$top"/selftests/device/*.c; do
		source=${source##*/}
		says "drivers/evering:${source%.c}" "$installed/kselftest-list.txt" &&
			[[ -x $installed/drivers/evering/${source%.c} ]] || return
	done
}

needs_no_library() {
	need nm binutils
	[[ ! $guest ]] || skip 'programs have no symbols here'
	! nm "$installed"/drivers/evering/dev_* | grep -E ' [TtU] evering_'
}

# A kernel tree that is none.
refuses_what_is_no_kernel() {
	[[ -e $top/selftests/Makefile ]] || skip 'no sources here'
	need make
	exits 2 env -u MAKEFLAGS -u MAKELEVEL make -C "$top/selftests" BUILD="$PWD/build" KSFT="$PWD" all &&
		says 'lib.mk is missing' && [[ ! -e build ]]
}

# runs TEST: in a session of its own, as the runner's timeout(1) wants it.
runs() {
	"$installed/run_kselftest.sh" -o $((slow > 1 ? 600 : 120)) -t "$1" >out 2>&1
	if grep -q '^ok 1 selftests: ' out; then
		grep -qE '^# ok [0-9]+ [^#]*$' out || skip 'each of its cases was skipped'
		return
	fi
	grep -v '^# # *\(ok\|RUN\|OK\)' out
	return 1
}

echo 'TAP version 13'
check 'all of them are listed and there' all_are_listed
check 'none needs the library' needs_no_library
check 'a directory that is no kernel is refused' refuses_what_is_no_kernel
for test in "${tests[@]}"; do
	check "run_kselftest.sh -t $test" runs "$test"
done
plan
