#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of evering-relay(1) between two machines: two network namespaces, with a link between
# them that is the test's own.  Examples and whole suites that know nothing of relays run
# through them; the link is cut; and what is wrong is said in one sentence.  TAP.
#
#	BUILD=dir		where evering-relay and examples/ lie (build)
#	EVERING_SHORT=1		fewer requests, and fewer suites

# shellcheck source=selftests/scripts/relay_common.sh
. "$(dirname "$0")/relay_common.sh"

echoes() {
	relays && serve echo --socket=far/t serve &&
		exits 0 "$bin/echo" --socket=near/t ask one two &&
		[[ $(<out) == $'one\ntwo' ]] && ends
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

is_cut_at_work() {
	local keepalive=1
	relays && serves && starts_work --clients=1 && goes_on && is_cut && ends_work && ends
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
check 'a link that is cut' is_cut_at_work
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
