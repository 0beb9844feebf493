#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of what other languages use: <evering.hpp>, compiled without a warning, with
# exceptions and without, and run, under ASan and UBSan where the library is not built
# for another sanitizer; and libevering-ffi.so, which has every inline function, from
# Python.  TAP.
#
#	BUILD=dir		where libevering.a and libevering-ffi.so lie (build)
#	EVERING_BACKEND=name	on this one alone, instead of on each that is here
#	EVERING_SHORT=1		without exceptions it is only compiled
#	EVERING_GUEST=1		nothing, for there is no compiler
#	CC, CXX			the compilers (cc, g++)

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
[[ ! $guest ]] || skip_all 'no compiler in a guest'
[[ -r $build/libevering.a ]] || bail_out "no $build/libevering.a"
# In the sources.
place=$top
cc=${CC:-cc}
cxx=${CXX:-g++}
ffi=$build/libevering-ffi.so
# What the library was built with has to be linked in.
san=$(sanitizers "$build/libevering.a")
# Its warning about fences.
[[ $san == *thread* ]] && tsan=(-Wno-tsan) || tsan=()
# Where the library counts what is executed, so does the wrapper; without a sanitizer,
# whose branches are nobody's to test.
grep -qs __gcov_init "$build/libevering.a" && gcov=yes || gcov=

# compile NAME OPTION...: the tests of the wrapper.
compile() {
	local count=()
	need "$cxx" g++
	[[ $gcov ]] && count=(--coverage -fprofile-update=atomic
		-fprofile-filter-files='^lib/evering[.]hpp' -dumpdir "$build/obj/cxx-$1-")
	"$cxx" -std=c++20 -Wall -Wextra -Wpedantic -Werror -g -Iuapi -Ilib -pthread \
		"${tsan[@]}" "${count[@]}" "${@:2}" -o "$tmp/$1" \
		selftests/library/cxx/wrapper.cpp "$build/libevering.a"
}

# run PROGRAM TEST
run() {
	[[ -x $1 ]] || skip 'not built'
	timeout -k 5 90 "$1" "$2"
}

# -------------------------------------------------------------------------- ffi

# A name may be at the beginning of the line after its "static inline".
inline_functions() {
	grep -hoE '^(static inline [a-z].*[ *])?evering_[a-z]\w*\(' \
		lib/evering_ring.h lib/evering_op.h |
		grep -oE 'evering_[a-z]\w*\(' | tr -d '(' | sort -u
}

public_functions() {
	nm -D --defined-only "$1" | sed -nE 's/.* T (evering_[a-z]\w*).*/\1/p' |
		sort -u
}

# Whatever the headers declare is there, under a version, and nothing else is.
ffi_exports() {
	[[ -e $ffi ]] || skip "no $ffi"
	public_functions "$ffi" >"$tmp/has"
	grep -hoE '\<evering_[a-z]\w*\(' lib/evering{,_ring,_op,_group,_server,_net}.h | tr -d '(' |
		sort -u >"$tmp/want"
	comm -23 "$tmp/want" "$tmp/has" >"$tmp/missing"
	# The library itself has those that are not inline.
	[[ ! -e $build/libevering.so ]] ||
		inline_functions | sort -u - <(public_functions "$build/libevering.so") |
		comm -23 "$tmp/want" - >>"$tmp/missing"
	comm -13 "$tmp/want" "$tmp/has" >"$tmp/more"
	[[ $(inline_functions | wc -l) -ge 20 ]] || {
		echo 'the headers have changed: no inline functions found'
		return 1
	}
	[[ ! -s $tmp/missing && ! -s $tmp/more ]] || {
		echo 'missing:' && cat "$tmp/missing"
		echo 'too many:' && cat "$tmp/more"
		return 1
	}
	! nm -D --defined-only "$ffi" |
		grep -vE 'evering_[a-z].*@@EVERING_FFI_0\.1$| A EVERING_FFI_0\.1$'
}

ffi_python() {
	need python3 python3-minimal
	python3 -c 'import ctypes' 2>/dev/null ||
		skip 'no ctypes: install libpython3-stdlib'
	[[ -e $ffi ]] || skip "no $ffi"
	local preload=
	case $san in
	thread) skip 'not under TSan: the interpreter is not built for it' ;;
	address*) preload=$("$cc" -print-file-name=libasan.so) ;;
	esac
	# The interpreter itself never frees some of its memory.
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD=$preload \
		timeout -k 5 90 python3 selftests/library/cxx/ffi.py "$ffi"
}

# ------------------------------------------------------------------------- all

echo 'TAP version 13'
# -O0: what is compiled has many instantiations, and is to be fast to compile.
# Once is enough for what has no exceptions: it is natively.
[[ $san ]] || (compile plain -O0 -fno-exceptions) >"$tmp/plain.log" 2>&1 &
plain=$!
[[ $gcov ]] && checks= || checks=${san:-address,undefined}
(compile checked -O0 ${checks:+"-fsanitize=$checks"} -fno-sanitize-recover=all) \
	>"$tmp/checked.log" 2>&1
checked=$?
wait "$plain"
plain=$?

# built NAME STATUS: how that went.
built() {
	cat "$tmp/$1.log"
	return "$2"
}
[[ $san ]] ||
	check 'C++20 without exceptions compiles without a warning' built plain $plain
check 'C++20 with exceptions compiles without a warning' built checked $checked
check 'the libraries have every function, versioned' ffi_exports

for backend in "${backends[@]}"; do
	export EVERING_BACKEND=$backend
	for program in checked plain; do
		[[ -x $tmp/$program ]] || continue
		[[ $short && $program == plain ]] && continue
		for name in $("$tmp/$program"); do
			check "C++20: $name, $program, $backend" run "$tmp/$program" "$name"
		done
	done
	check "ffi: Python's ctypes, $backend" ffi_python
done

plan
