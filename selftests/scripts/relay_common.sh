#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What the tests of evering-relay(1) that are scripts have in common, beside common.sh:
# two machines, which are network namespaces, with a link between them that is the test's
# own; a relay on each; and what crosses them.
#
#	network=(ARGUMENT...)	what tc-netem(8) does to each direction of the link
#	keepalive=SECONDS	of both relays (30)
#	meeting=ADDRESS		where they meet (10.77.0.2)

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
echo 'TAP version 13'
[[ -x $build/evering-relay ]] || skip_all 'no evering-relay: it was built without libfabric'
((EUID == 0)) || skip_all 'network namespaces of its own need root'
command -v ip >/dev/null || skip_all 'no ip: install iproute2'
cp "$build/evering-relay" "$build"/examples/{echo,kv} "$bin" || bail_out "no $build/examples"
unshare -n true || skip_all 'no network namespaces here'
export EVERING_BACKEND=${backends[-1]}
network=()

# --------------------------------------------------------------------- machines

# machine: a network of its own, which ends with the test; it is $machine.
machine() {
	unshare -n sleep 1000 &
	machine=$!
	soon differs "$machine" && on "$machine" ip link set lo up
}

differs() {
	! [[ /proc/$1/ns/net -ef /proc/self/ns/net ]]
}

# on MACHINE COMMAND...
on() {
	local machine=$1
	shift
	nsenter -t "$machine" -n "$@"
}

machines() {
	machine && near=$machine && machine && far=$machine &&
		on "$near" ip link add relay0 type veth peer name relay0 netns "$far" &&
		on "$near" ip address add 10.77.0.1/24 dev relay0 &&
		on "$far" ip address add 10.77.0.2/24 dev relay0 &&
		worsen && on "$near" ip link set relay0 up && on "$far" ip link set relay0 up
}

# worsen: as $network says.  A packet is one of a wire, and not 64 KiB that the kernel has
# not cut yet: so it is lost, or late, alone.
worsen() {
	local side
	((${#network[@]})) || return 0
	for side in "$near" "$far"; do
		on "$side" ip link set relay0 gso_max_segs 1 &&
			on "$side" tc qdisc replace dev relay0 root netem limit 10000 \
				"${network[@]}" || return
	done
}

# ----------------------------------------------------------------------- relays

key() {
	echo "0123456789abcdef$1" >"key$1"
	chmod 600 "key$1"
}

# relay NAME MACHINE ARGUMENT...: until it says that it can be used; it is $pid.
relay() {
	local name=$1 where=$2
	shift 2
	: >"$name"
	nsenter -t "$where" -n "$bin/evering-relay" "$@" >"$name" 2>"$name-err" &
	pid=$!
	soon test -s "$name" || {
		cat "$name-err"
		return 1
	}
}

# relays ARGUMENT...: of the far one; both are there, for what is at far/t and near/t.
relays() {
	key '' && machines && mkdir near far && far_starts "$@" && near_starts
}

# A machine that is busy is not to count as lost, but where that is what is tested.
far_starts() {
	relay far-log "$far" --bind="${meeting:-10.77.0.2}:7711" --key=key \
		"--keepalive=${keepalive:-30}" --serve=t=far/t --serve=kv=far/kv.0 "$@" &&
		far_relay=$pid
}

near_starts() {
	local to=${meeting:-10.77.0.2}:7711
	relay near-log "$near" --key=key "--keepalive=${keepalive:-30}" --listen=near/t --to="$to/t" \
		--listen=near/kv.0 --to="$to/kv" "$@" && near_relay=$pid
}

# Both relays, and the server if there is one, end when they are told to.
ends() {
	local pids=("$near_relay" "$far_relay")
	# shellcheck disable=SC2086 # or none
	kill "${pids[@]}" $server && ended "${pids[0]}" 0 && ended "${pids[1]}" 0 &&
		kill "$near" "$far" && soon nobody_left
}

# received: sets $received to how many entries have come from far, as the near relay says.
received() {
	local lines
	lines=$(grep -c 'bytes in buffers' near-log)
	kill -USR1 "$near_relay" && soon said_more "$lines" || return
	received=$(grep 'bytes in buffers' near-log | tail -n 1)
	[[ $received =~ ([0-9]+)\ received ]] && received=${BASH_REMATCH[1]}
}

said_more() {
	(($(grep -c 'bytes in buffers' near-log) > $1))
}

# moves: entries cross, from now on.
moves() {
	local before
	received && before=$received && soon received_more "$before"
}

received_more() {
	received && ((received > $1))
}

# ----------------------------------------------------------------- what crosses

# suite NAME ARGUMENT...: a test of the library as it is, but that its two processes meet
# through relays.
suite() {
	[[ -x $build/selftests/$1 ]] || skip "no $build/selftests/$1"
	key '' && machines && mkdir near far && far_starts --serve=suite=@suite &&
		near_starts --listen=near/suite --to=10.77.0.2:7711/suite || return
	# Its server listens at an abstract name, which each network has its own of.
	EVERING_SHORT=1 EVERING_RELAY_IN=near/suite EVERING_RELAY_OUT=@suite \
		on "$far" timeout 300 "$build/selftests/$1" "${@:2}" >log 2>&1 || {
		grep -A 12 'not ok\|FAIL' log | head -n 60
		return 1
	}
	server=
	ends
}

# serves: echo and kv.
serves() {
	local echo
	serve echo --socket=far/t serve && echo=$server && serve kv --socket=far/kv --workers=1 serve &&
		server="$server $echo"
}

# starts_work OPTION...: clients of kv that follow their server, until they are killed; they
# are below $work.
starts_work() {
	"$bin/kv" --socket=near/kv --keys=50 --rounds=1000000 "$@" bench >work 2>work-err &
	work=$!
	soon grep -q '^over' work || {
		cat work-err
		return 1
	}
}

# goes_on: and every answer was right.
goes_on() {
	soon moves && ! gone "$work" && return
	cat work-err near-log-err far-log-err
	return 1
}

# ends_work: it, and the clients that it has forked.
ends_work() {
	# shellcheck disable=SC2046 # a list
	kill $(below "$work") "$work"
}

# is_cut: and was for longer than the relays' --keepalive.  The client of kv follows its
# server: also to the one that is there when the link is again.
is_cut() {
	on "$near" ip link set relay0 down && soon grep -q 'silent for longer' near-log-err &&
		! gone "$work" && on "$near" ip link set relay0 up &&
		soon grep -q 'is there again' near-log-err && goes_on
}
