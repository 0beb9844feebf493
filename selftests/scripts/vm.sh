#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of tools/check/vm: which end of a guest is whose fault.  The guest is a script that
# writes to the ports what QEMU would.  TAP.
#
#	EVERING_GUEST=1		nothing, for there are no guests in a guest

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
[[ ! $guest ]] || skip_all 'no guests in a guest'
[[ -x tools/check/vm && -e kmod/main.c ]] || skip_all 'no sources here'
for program in cpio make setpriv perl flock; do
	command -v "$program" >/dev/null || skip_all "no $program"
done

# A checkout with one test, a kernel that is none, and the programs that are asked for.
home=$tmp/checkout
cache=$tmp/cache/debian/6.12/6.12.0-0-none
mkdir -p "$home"/{build/selftests,selftests,lib/man/man7,kmod,uapi} "$tmp/fakes" \
	"$cache"/{boot,bin,usr/src/linux-headers-6.12.0-0-none}
cp -r tools "$home"
cp Kbuild "$home"
touch "$home/kmod/main.c" "$cache/boot/vmlinuz-6.12.0-0-none"
echo 6.12.0-0-none >"$cache/complete"
echo one >"$home/build/selftests/list"
printf '#!/bin/sh\n' | tee "$home/build/selftests/one" "$cache/bin/busybox" \
	"$tmp/fakes/modprobe" "$tmp/fakes/xz" >/dev/null
# shellcheck disable=SC2016 # make expands it
printf 'modules:\n\t@touch $(M)/evering.ko $(M)/evering_echo.ko $(M)/evnet.ko\n' \
	>"$cache/usr/src/linux-headers-6.12.0-0-none/Makefile"

# What a guest does is in the file $GUEST, a line for each time that it is started.
cat >"$tmp/fakes/qemu-system-x86_64" <<'END'
#!/bin/bash
log='' control='' out=''
for argument; do
	case $argument in
	file,id=log,path=*) log=${argument#*path=} ;;
	file,id=control,path=*) control=${argument#*path=} ;;
	file,id=out,path=*) out=${argument#*path=} out=${out%,append=on} ;;
	esac
done
how=$(sed -n 1p "$GUEST")
sed -i 1d "$GUEST"
echo '[    0.0] Command line: evering' >"$log"
case $how in
int3)
	echo '[    1.0] Oops: int3: 0000 [#1] PREEMPT SMP' >>"$log"
	;;
late)
	printf '%s\n' '[    4.0] evering: loading out-of-tree module taints kernel.' \
		'[    5.0] Oops: int3: 0000 [#1] PREEMPT SMP' >>"$log"
	;;
silent) ;;
well)
	printf '%s\n' up 'end 0' >"$control"
	printf '%s\n' '# vm: begin one' 'TAP version 13' 1..1 'ok 1 it' \
		'# vm: end one 0 0.1' >"$out"
	;;
esac
END
chmod +x "$tmp"/fakes/* "$home/build/selftests/one" "$cache/bin/busybox"

# guests HOW...: a test in a guest that ends so; the next if it is started again.
guests() {
	printf '%s\n' "$@" >"$tmp/guest"
	PATH=$tmp/fakes:$PATH GUEST=$tmp/guest EVERING_CACHE=$tmp/cache \
		"$home/tools/check/vm" test 6.12 >"$tmp/out" 2>&1
}

passes() {
	guests "$@" && [[ ! -s $tmp/guest ]] &&
		says '1 passed, 0 failed, 0 skipped' "$tmp/out" && return
	cat "$tmp/out"
	return 1
}

# fails LEFT HOW...: with so many guests that were not started.
fails() {
	if guests "${@:2}" || (($(wc -l <"$tmp/guest") != $1)); then
		cat "$tmp/out" "$tmp/guest"
		return 1
	fi
}

says_so() {
	passes int3 well && says 'started again' "$tmp/out"
}

# missing TEXT COMMAND...: the command says so in one line, ends with 4, and leaves nothing
# in the cache but locks.
missing() {
	local status=0
	EVERING_CACHE=$tmp/cache "${@:2}" >"$tmp/out" 2>&1 || status=$?
	((status == 4)) && says "$1" "$tmp/out" && (($(wc -l <"$tmp/out") == 1)) &&
		[[ ! $(find "$tmp/cache" -mindepth 1 -maxdepth 2 -newer "$tmp/guest" \
			! -name '.lock.*' ! -name debian) ]] && return
	echo "exit status $status"
	cat "$tmp/out"
	return 1
}

# without PROGRAM...: a PATH that has everything that is in the usual places but these.
without() {
	local dir=$tmp/path name
	rm -rf "$dir"
	mkdir "$dir"
	ln -s /usr/bin/* /usr/sbin/* "$dir" 2>/dev/null
	for name; do
		rm -f "$dir/$name"
	done
	echo "$dir"
}

no_compiler() {
	mkdir -p "$tmp/cache/debian/arm64/6.12.0-0-none"
	echo 6.12.0-0-none >"$tmp/cache/debian/arm64/6.12.0-0-none/complete"
	touch "$tmp/guest"
	cp "$tmp/fakes/qemu-system-x86_64" "$tmp/fakes/qemu-system-aarch64"
	missing 'no aarch64-linux-gnu-gcc here; apt-get install gcc-aarch64-linux-gnu' \
		env PATH="$tmp/fakes:$(without aarch64-linux-gnu-gcc)" \
		"$home/tools/check/vm" module arm64
}

# refuses TEXT RELEASE: make does, to build the module for such a kernel, or for none.
refuses() {
	local tree=$tmp/tree status=0
	rm -rf "$tree"
	mkdir -p "$tree/include/config"
	printf 'modules:\n\ttouch %s/built\n' "$tree" >"$tree/Makefile"
	[[ ! $2 ]] || echo "$2" >"$tree/include/config/kernel.release"
	env -u MAKEFLAGS -u MAKELEVEL make -s -C "$top" modules KDIR="$tree" >"$tmp/out" 2>&1 || status=$?
	((status)) && says "$1" "$tmp/out" && [[ ! -e $tree/built ]] && return
	cat "$tmp/out"
	return 1
}

no_cross_compiler() {
	! env -u MAKEFLAGS -u MAKELEVEL -u CC make -s -C "$top" library CROSS_COMPILE=m68k-none- BUILD="$tmp/m68k" >"$tmp/out" 2>&1 &&
		says 'no m68k-none-gcc here: apt-get install gcc-m68k-none' "$tmp/out" &&
		[[ ! -e $tmp/m68k ]] && return
	cat "$tmp/out"
	return 1
}

echo 'TAP version 13'
check 'a guest that ends well' passes well
check 'QEMU kills one at boot: it is started again, and that is said' says_so
check 'but once only' fails 1 int3 int3 well
check 'not when the module is there' fails 1 late well
check 'not for any other end' fails 1 silent well
check 'a kernel that is not here' missing 'Linux 7.3 is not here' \
	env PATH="$tmp/fakes:$PATH" "$home/tools/check/vm" have 7.3
check 'no compiler for a guest' no_compiler
check 'no compiler of another architecture' no_cross_compiler
check 'a kernel that is too old' refuses 'Linux 5.10.0-9-amd64 is too old' 5.10.0-9-amd64
check 'a folder that is no kernel' refuses 'is no kernel tree' ''
plan
