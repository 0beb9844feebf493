#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of evering-relay(1) between two machines: two network namespaces, with a link between
# them that is the test's own.  Examples and whole suites that know nothing of relays run
# through them; the link is cut; and what is wrong is said in one sentence.  TAP.
#
#	BUILD=dir		where evering-relay and examples/ lie (build)
#	EVERING_SHORT=1		fewer requests, and fewer suites

# shellcheck source=selftests/common.sh
. "$(dirname "$0")/common.sh"
echo 'TAP version 13'
[[ -x $build/evering-relay ]] || skip_all 'no evering-relay: it was built without libfabric'
((EUID == 0)) || skip_all 'network namespaces of its own need root'
command -v ip >/dev/null || skip_all 'no ip: install iproute2'
cp "$build/evering-relay" "$build"/examples/{echo,kv} "$bin" || bail_out "no $build/examples"
unshare -n true || skip_all 'no network namespaces here'
export EVERING_BACKEND=${backends[-1]}

# machine NAME: a network of its own, which ends with the test; it is $machine.
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
		on "$near" ip link set relay0 up && on "$far" ip link set relay0 up
}

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

# relays ARGUMENT...: of the far one; both are there, for what is at far/t and near/t.  A
# machine that is busy is not to count as lost, but where that is what is tested.
relays() {
	local alive=--keepalive=${keepalive:-30}
	key '' && machines && mkdir near far &&
		relay far-log "$far" --bind=10.77.0.2:7711 --key=key "$alive" \
			--serve=t=far/t --serve=kv=far/kv.0 "$@" && far_relay=$pid &&
		relay near-log "$near" --key=key "$alive" \
			--listen=near/t --to=10.77.0.2:7711/t \
			--listen=near/kv.0 --to=10.77.0.2:7711/kv && near_relay=$pid
}

echoes() {
	relays && serve echo --socket=far/t serve &&
		exits 0 "$bin/echo" --socket=near/t ask one two &&
		[[ $(<out) == $'one\ntwo' ]] && ends
}

# Both relays, and the server if there is one, end when they are told to.
ends() {
	local pids=("$near_relay" "$far_relay")
	# shellcheck disable=SC2086 # or none
	kill "${pids[@]}" $server && ended "${pids[0]}" 0 && ended "${pids[1]}" 0 &&
		kill "$near" "$far" && soon nobody_left
}

stores() {
	local size=65536
	relays && serve kv --socket=far/kv --workers=1 serve &&
		exits 0 "$bin/kv" --socket=near/kv put a hello &&
		exits 0 "$bin/kv" --socket=far/kv get a && [[ $(<out) == hello ]] &&
		exits 0 "$bin/kv" --socket=near/kv --keys=$((${#short} ? 100 : 1000)) \
			--size="$size" bench && says 'all right' out &&
		exits 0 "$bin/kv" --socket=near/kv --keys=20 --size=1048576 bench &&
		says 'all right' out && ends
}

# The client of kv follows its server: also to the one that is there when the link is again.
is_cut() {
	local keepalive=1
	relays && serve kv --socket=far/kv --workers=1 serve || return
	"$bin/kv" --socket=near/kv --clients=1 --keys=50 --rounds=1000000 bench >work 2>work-err &
	local bench=$!
	soon grep -q '^over' work && sleep 0.3 &&
		on "$near" ip link set relay0 down && soon grep -q 'silent for longer' near-log-err &&
		! gone "$bench" && on "$near" ip link set relay0 up &&
		soon grep -q 'is there again' near-log-err && soon moves && kill "$bench" && ends
}

# moves: entries cross, as the relay says.
moves() {
	local before
	kill -USR1 "$near_relay" || return
	sleep 0.2
	before=$(tail -n 1 near-log)
	kill -USR1 "$near_relay"
	sleep 0.2
	[[ $(tail -n 1 near-log) != "$before" ]]
}

# suite NAME ARGUMENT...: a test of the library as it is, but that its two processes meet
# through relays.
suite() {
	relays --serve=suite=@suite &&
		relay more "$near" --key=key --keepalive=30 --listen=near/suite --to=10.77.0.2:7711/suite || return
	local more=$pid
	# Its server listens at an abstract name, which each network has its own of.
	EVERING_SHORT=1 EVERING_RELAY_IN=near/suite EVERING_RELAY_OUT=@suite \
		on "$far" timeout 300 "$build/selftests/$1" "${@:2}" >log 2>&1 || {
		grep -A 12 'not ok\|FAIL' log | head -n 60
		return 1
	}
	server=$more
	ends
}

# counts: as JSON.
counts() {
	relays --json --stats=0.1 && serve echo --socket=far/t serve &&
		exits 0 "$bin/echo" --socket=near/t ask one &&
		soon grep -q '{"links":1,"channels":0,"entries_sent":[1-9]' far-log && ends
}

# -------------------------------------------------------------------- what is wrong

# refuses STATUS TEXT ARGUMENT...: a relay ends so, and says why.
refuses() {
	local status=$1 text=$2
	shift 2
	exits "$status" "$bin/evering-relay" "$@" && says "$text" &&
		(($(wc -l <err) <= 2))
}

command_line() {
	refuses 2 'nothing to do' && refuses 2 'needs a --to' --listen=a &&
		refuses 2 '--to=h:1/n: must be behind a --listen' --to=h:1/n &&
		refuses 2 'HOST:PORT/NAME' --listen=a --to=h:1 &&
		refuses 2 'HOST:PORT/NAME' --listen=a --to=h:70000/n &&
		refuses 2 'NAME=PATH' --serve=n && refuses 2 'NAME=PATH' --serve=n=p, &&
		refuses 2 'of a name that no other' --serve=n=p --serve=n=q &&
		refuses 2 'needs a --serve' --bind=127.0.0.1:1 --listen=a --to=h:1/n &&
		refuses 1 'cannot read none' --config=none &&
		exits 0 "$bin/evering-relay" --help && says 'Usage: evering relay' out
}

keys() {
	refuses 1 'needs a --key' --bind=0.0.0.0:7711 --serve=t=far/t &&
		refuses 1 'No such file' --key=none --serve=t=far/t &&
		echo short >key && chmod 600 key && refuses 1 'line 1: a key has' --key=key --serve=t=t &&
		echo '0123456789abcdef' >key && chmod 644 key &&
		refuses 1 'chmod 600' --key=key --serve=t=t && : >key && chmod 600 key &&
		refuses 1 'has no key' --key=key --serve=t=t
}

# Everything that ends a relay that calls, if it never could.
calls_in_vain() {
	relays && key 2 && cd near || return
	local call=(nsenter -t "$near" -n "$bin/evering-relay" --listen=x --to=10.77.0.2:7711/t)
	local to=(nsenter -t "$near" -n "$bin/evering-relay" --key=../key --listen=x)
	exits 1 "${call[@]}" && says 'another key' &&
		exits 1 "${call[@]}" --key=../key2 && says 'another key' &&
		exits 1 "${to[@]}" --to=10.77.0.2:7711/none && says "no --serve for 'none'" &&
		exits 1 "${to[@]}" --to=10.77.0.2:7711/t --provider=nonsense && says 'no such --provider' &&
		exits 1 nsenter -t "$far" -n "$bin/evering-relay" --key=../key \
			--bind=10.77.0.2:7711 --serve=t=t && says 'address is in use' &&
		exits 1 nsenter -t "$far" -n "$bin/evering-relay" --key=../key \
			--bind=10.99.0.2:7711 --serve=t=t && says '--bind=10.99.0.2:7711' && cd .. &&
		server=
	ends
}

# Who may have what is said by identity.
permissions() {
	machines && mkdir near far && printf 'alice 0123456789abcdefa\nbob 0123456789abcdefb\n' >keys &&
		echo 'alice 0123456789abcdefa' >alice && echo 'bob 0123456789abcdefb' >bob &&
		echo 'carol 0123456789abcdefa' >carol && chmod 600 keys alice bob carol &&
		relay far-log "$far" --bind=10.77.0.2:7711 --key=keys --serve=t=far/t,alice || return
	far_relay=$pid
	local call=(nsenter -t "$near" -n "$bin/evering-relay" --listen=near/x --to=10.77.0.2:7711/t)
	exits 1 "${call[@]}" --key=bob --identity=bob && says 'not serve' &&
		exits 1 "${call[@]}" --key=bob --identity=alice && says 'another key' &&
		exits 1 "${call[@]}" --key=carol --identity=carol && says 'another key' &&
		relay near-log "$near" --key=alice --identity=alice --listen=near/t \
			--to=10.77.0.2:7711/t && near_relay=$pid && serve echo --socket=far/t serve &&
		exits 0 "$bin/echo" --socket=near/t ask one && ends
}

# A file says the same, and is read again; channels that are there stay.
configuration() {
	key '' && machines && mkdir near far &&
		printf '# far\nbind=10.77.0.2:7711\n key=key\nserve=t=far/t\n\n' >far.conf &&
		printf 'key=key\nlisten=near/t\nto=10.77.0.2:7711/t\n' >near.conf &&
		relay far-log "$far" --config=far.conf && far_relay=$pid &&
		relay near-log "$near" --config=near.conf && near_relay=$pid &&
		serve echo --socket=far/t serve && exits 0 "$bin/echo" --socket=near/t ask one &&
		printf 'listen=near/u\nto=10.77.0.2:7711/t\n' >>near.conf && kill -HUP "$near_relay" &&
		soon test -S near/u && exits 0 "$bin/echo" --socket=near/u ask two &&
		soon test -S near/t && exits 0 "$bin/echo" --socket=near/t ask two &&
		echo nonsense >>near.conf && kill -HUP "$near_relay" &&
		soon grep -q "unknown option '--nonsense'" near-log-err &&
		exits 0 "$bin/echo" --socket=near/u ask three && ends
}

check 'echo through relays' echoes
check 'kv through relays' stores
check 'a link that is cut' is_cut
check 'numbers' counts
check 'op_duo, unchanged' suite op_duo
check 'message, unchanged' suite message
[[ $short ]] || check 'space, unchanged' suite space
check 'command lines' command_line
check 'keys' keys
check 'called in vain' calls_in_vain
check 'permissions' permissions
check 'configuration' configuration
plan
