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
printf 'modules:\n\t@touch $(M)/evering.ko\n' \
	>"$cache/usr/src/linux-headers-6.12.0-0-none/Makefile"

# What a guest does is in the file $GUEST, a line for each time that it is started.
cat >"$tmp/fakes/qemu-system-x86_64" <<'END'
#!/bin/bash
ports=() out=
for argument; do
	case $argument in
	file:*) ports+=("${argument#file:}") ;;
	file,id=out,path=*) out=${argument#*path=} out=${out%,append=on} ;;
	esac
done
how=$(sed -n 1p "$GUEST")
sed -i 1d "$GUEST"
echo '[    0.0] Command line: evering' >"${ports[0]}"
case $how in
int3)
	echo '[    1.0] Oops: int3: 0000 [#1] PREEMPT SMP' >>"${ports[0]}"
	;;
late)
	printf '%s\n' '[    4.0] evering: loading out-of-tree module taints kernel.' \
		'[    5.0] Oops: int3: 0000 [#1] PREEMPT SMP' >>"${ports[0]}"
	;;
silent) ;;
well)
	printf '%s\n' up 'end 0' >"${ports[1]}"
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

echo 'TAP version 13'
check 'a guest that ends well' passes well
check 'QEMU kills one at boot: it is started again, and that is said' says_so
check 'but once only' fails 1 int3 int3 well
check 'not when the module is there' fails 1 late well
check 'not for any other end' fails 1 silent well
plan
