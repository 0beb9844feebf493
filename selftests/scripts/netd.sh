#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of tools/examples/netd.c, on network interfaces of evnet(4): pings that a process
# answers, and two namespaces that it joins.  TAP.
#
#	BUILD=dir		where examples/ lies (build)
#
# In a guest, where evnet.ko is: EVERING_MODULE says where evering.ko lies, and that beside it.

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
echo 'TAP version 13'
((EUID == 0)) || skip_all 'network interfaces need root'
[[ -c /dev/evnet ]] || insmod "$(dirname "${EVERING_MODULE-/vm/evering.ko}")/evnet.ko" 2>/dev/null
[[ -c /dev/evnet ]] || skip_all 'no /dev/evnet'
command -v ip >/dev/null || skip_all 'no ip: install iproute2'
command -v busybox >/dev/null || skip_all 'no busybox'
unshare -n true || skip_all 'no network namespaces here'
cp "$build/examples/netd" "$bin" || bail_out "no $build/examples/netd"

# on MACHINE COMMAND...
on() {
	local machine=$1
	shift
	nsenter -t "$machine" -n "$@"
}

# machine: a network of its own, which ends with the test; it is $machine.
machine() {
	unshare -n sleep 1000 &
	machine=$!
	soon differs "$machine"
}

differs() {
	! [[ /proc/$1/ns/net -ef /proc/self/ns/net ]]
}

# starts ARGUMENT...: netd, in $machine, until it says what its interfaces are called.
starts() {
	: >names
	nsenter -t "$machine" -n "$bin/netd" "$@" >names 2>names-err &
	server=$!
	soon test -s names || {
		cat names-err
		return 1
	}
}

# up MACHINE IF ADDRESS
up() {
	on "$1" ip address add "$3/24" dev "$2" && on "$1" ip link set "$2" up
}

pings() {
	on "$1" busybox ping -c "$3" -w $((slow > 1 ? 90 : 20)) -q "$2" >out 2>err &&
		grep -q "$3 packets received" out
}

answers() {
	machine && starts ping tap0 10.9.9.2 && up "$machine" tap0 10.9.9.1 &&
		pings "$machine" 10.9.9.2 5 && ! pings "$machine" 10.9.9.3 1 &&
		kill -TERM "$server" && ended "$server" 0 &&
		soon gone_in "$machine" tap0 && kill "$machine"
}

gone_in() {
	! on "$1" ip link show "$2" >/dev/null 2>&1
}

# Both ends are made in one namespace; then one moves.
joins() {
	local near far
	machine && near=$machine && machine && far=$machine && machine=$near &&
		starts bridge near far && soon counts_two && on "$near" ip link set far netns "$far" &&
		up "$near" near 10.9.8.1 && up "$far" far 10.9.8.2 && pings "$near" 10.9.8.2 5 &&
		carries "$near" "$far" && kill -KILL "$server" && ended "$server" 137 &&
		soon gone_in "$near" near && soon gone_in "$far" far && kill "$near" "$far"
}

counts_two() {
	(($(wc -l <names) == 2))
}

# carries FROM TO: TCP both ways, and UDP; and a file, which comes as it is.
carries() {
	local server how
	for how in '-n 4M' '-R -n 4M' '-u -b 2M -l 1000 -n 200K'; do
		command -v iperf3 >/dev/null || break
		nsenter -t "$2" -n iperf3 -s -1 -p 7001 >served 2>&1 &
		server=$!
		# shellcheck disable=SC2086 # options
		if ! { soon listens "$2" && on "$1" timeout "$limit" iperf3 -c 10.9.8.2 \
			-p 7001 $how >out 2>err &&
			soon gone "$server"; }; then
			cat out err served
			return 1
		fi
	done
	mkdir files && head -c 1000000 /dev/urandom >files/file
	nsenter -t "$2" -n busybox httpd -f -p 7001 -h files &
	server=$!
	soon listens "$2" && on "$1" timeout "$limit" busybox wget -q -O copy http://10.9.8.2:7001/file &&
		kill "$server" && cmp files/file copy
}

# Port 7001.
listens() {
	cat "/proc/$1/net/tcp" "/proc/$1/net/tcp6" 2>/dev/null | grep -q ':1B59 .* 0A '
}

refuses() {
	exits 2 "$bin/netd" && says usage && exits 1 "$bin/netd" ping x 1.2.3 && says 'Invalid argument' &&
		exits 1 "$bin/netd" ping lo 10.0.0.1 && says 'lo: File exists'
}

check 'pings are answered' answers
check 'two namespaces are joined' joins
check 'what cannot be is refused' refuses
plan
