#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of evering-relay(1) over a link that is slow, loses packets or has them overtake each
# other, by tc-netem(8), and through a tunnel of WireGuard.  Nothing is lost and nothing is
# doubled: kv checks every answer, and whole suites run through it.  That the link was as bad
# as it should have been is asked of the kernel, or follows from the time that it took.  TAP.
#
#	BUILD=dir		where evering-relay and examples/ lie (build)
#
# In a guest: few kernels of build machines have netem.

# shellcheck disable=SC2119 # relays have no arguments here
# shellcheck source=selftests/scripts/relay_common.sh
. "$(dirname "$0")/relay_common.sh"
has_netem=$(unshare -n tc qdisc add dev lo root netem delay 1ms 2>/dev/null && echo yes)
has_wireguard=$(unshare -n ip link add wg0 type wireguard 2>/dev/null && echo yes)

# ----------------------------------------------------------------- what was done

need_netem() {
	need tc iproute2
	[[ $has_netem ]] || skip 'no sch_netem in this kernel'
}

# becomes ARGUMENT...: so does the link, from now on.
becomes() {
	network=("$@")
	echo "a link with $*:"
	worsen
}

# counted MACHINE: sets $sent (bytes), $dropped and $overtook (packets) to what netem has
# passed on, lost, and sent before those that came before them.
counted() {
	local text
	text=$(on "$1" tc -s qdisc show dev relay0)
	[[ $text =~ netem.*Sent\ ([0-9]+)\ bytes.*dropped\ ([0-9]+),.*requeues\ ([0-9]+)\) ]] || {
		echo "not counted: $text"
		return 1
	}
	sent=${BASH_REMATCH[1]} dropped=${BASH_REMATCH[2]} overtook=${BASH_REMATCH[3]}
}

# milliseconds COMMAND...: sets $took to how many it takes.
milliseconds() {
	local began=$EPOCHREALTIME ended
	"$@" || return
	ended=$EPOCHREALTIME
	took=$(((${ended/./} - ${began/./}) / 1000))
}

at_least() {
	(($2 >= $3)) && return
	echo "$1: $2, not $3 or more"
	return 1
}

# ------------------------------------------------------------------ what crosses

asks() {
	exits 0 "$bin/echo" --socket=near/t ask one two && [[ $(<out) == $'one\ntwo' ]]
}

stores() {
	exits 0 "$bin/kv" --socket=near/kv --clients=2 --keys=20 --size=40000 bench &&
		says 'all right' out
}

# One after the other, because to start a relay takes longest in a guest: libfabric reads all
# of /proc/kallsyms.
bad_links() {
	need_netem
	relays && serves && is_late && loses && overtakes && is_narrow && holds_back && ends
}

# There and back takes twice 15 ms, at least.
is_late() {
	becomes delay 20ms 5ms &&
		milliseconds asks && at_least milliseconds "$took" 30 &&
		stores && counted "$near" && at_least bytes "$sent" 40000
}

# Until it has lost some in both directions: each time hundreds are sent.
loses() {
	becomes delay 2ms loss 5% && asks && soon loses_some
}

loses_some() {
	stores && counted "$near" && ((dropped)) && counted "$far" && ((dropped))
}

overtakes() {
	becomes delay 10ms reorder 25% 50% && asks && soon overtakes_some
}

overtakes_some() {
	stores && counted "$near" && ((overtook)) && counted "$far" && ((overtook))
}

# 2 Mbit a second are 250 bytes a millisecond.
is_narrow() {
	becomes rate 2mbit && asks && counted "$near" || return
	local before=$sent
	milliseconds stores && counted "$near" && at_least bytes $((sent - before)) 40000 &&
		at_least milliseconds "$took" $(((sent - before) / 250))
}

# A relay stores nothing: what a link does not carry stays in the rings and arenas of those
# who sent it.  Six clients have up to 600 KB under way each, which the link takes four seconds
# for.
holds_back() {
	becomes rate 8mbit && memory "$near_relay" && local near_before=$private &&
		memory "$far_relay" && local far_before=$private &&
		starts_work --clients=6 --keys=9 --size=1048576 &&
		counted "$near" && soon carries $((sent + 2000000)) && ! gone "$work" &&
		bounded "$near_relay" "$near_before" && bounded "$far_relay" "$far_before" && ends_work
}

# memory PID: sets $private and $peak to what it has, and has had at most, in KiB; what it
# shares with clients and servers is in the second alone.
memory() {
	local text
	text=$(<"/proc/$1/status")
	[[ $text =~ VmHWM:[[:space:]]*([0-9]+) ]] && peak=${BASH_REMATCH[1]} &&
		[[ $text =~ RssAnon:[[:space:]]*([0-9]+) ]] && private=${BASH_REMATCH[1]}
}

carries() {
	counted "$near" && ((sent >= $1))
}

# bounded PID BEFORE: there are six channels more, with two arenas of 2 MiB each that are
# shared.
bounded() {
	memory "$1"
	echo "$private KiB of its own, $2 before; $peak at most"
	at_least 'room for private memory, KiB' $(($2 + 1024)) "$private" &&
		at_least 'room for all memory, KiB' 49152 "$peak"
}

# runs NAME ARGUMENT...: a suite.
runs() {
	need_netem
	network=(delay 3ms 1ms loss 2% reorder 10% 50%)
	suite "$@"
}

# ------------------------------------------------------------------ what goes wrong

# The client of kv follows, and gets right answers, when the link was cut, and whichever of the
# relays is another one.
is_lost() {
	local keepalive=3
	need_netem
	network=(delay 20ms 5ms)
	relays && serves && starts_work --clients=1 && goes_on && is_cut &&
		becomes delay 2ms loss 5% && goes_on &&
		kill -KILL "$near_relay" && soon gone "$near_relay" && near_starts && goes_on &&
		kill -KILL "$far_relay" && soon gone "$far_relay" && far_starts && goes_on &&
		ends_work && stores && counted "$near" && at_least dropped "$dropped" 1 &&
		crawls && ends
}

# A message of 64 KiB takes five seconds, and is not taken for silence.  The last one, because
# the kernel remembers how late such a link is, and what it loses on the next one is late, too.
crawls() {
	local long before
	printf -v long '%070000d' 0
	before=$(silences)
	becomes rate 100kbit && milliseconds puts "$long" && at_least milliseconds "$took" 5000 &&
		exits 0 "$bin/kv" --socket=far/kv get long && [[ $(<out) == "$long" ]] &&
		(($(silences) == before)) && return
	cat near-log-err far-log-err
	return 1
}

puts() {
	"$bin/kv" --socket=near/kv put long "$1"
}

silences() {
	cat near-log-err far-log-err | grep -c 'silent for longer'
}

# ---------------------------------------------------------------------- a tunnel

# tunnel: the commands are those of evering-relay(1).
tunnel() {
	local side
	for side in near far; do
		(cd "$side" && umask 077 && wg genkey >wg.key && wg pubkey <wg.key >wg.pub) || return
	done
	(umask 077 && cat >far/wg0.conf) <<-END
		[Interface]
		Address = 10.9.0.2/24
		ListenPort = 51820
		PrivateKey = $(<far/wg.key)

		[Peer]
		PublicKey = $(<near/wg.pub)
		AllowedIPs = 10.9.0.1/32
	END
	(umask 077 && cat >near/wg0.conf) <<-END
		[Interface]
		Address = 10.9.0.1/24
		PrivateKey = $(<near/wg.key)

		[Peer]
		PublicKey = $(<far/wg.pub)
		AllowedIPs = 10.9.0.2/32
		Endpoint = 10.77.0.2:51820
	END
	(cd far && on "$far" wg-quick up ./wg0.conf) && (cd near && on "$near" wg-quick up ./wg0.conf)
}

# transferred MACHINE: sets $came and $went to the bytes that it has had through the tunnel.
transferred() {
	read -r _ came went < <(on "$1" wg show wg0 transfer)
}

tunnels() {
	local meeting=10.9.0.2
	need wg wireguard-tools
	need wg-quick wireguard-tools
	[[ $has_wireguard ]] || skip 'no wireguard in this kernel'
	key '' && machines && mkdir near far && tunnel && far_starts && near_starts && serves &&
		through_tunnel || return
	[[ ! $has_netem ]] || {
		becomes delay 2ms loss 5% && through_tunnel && counted "$near" &&
			at_least dropped "$dropped" 1 || return
	}
	ends
}

through_tunnel() {
	transferred "$near" || return
	local came_before=$came went_before=$went
	asks && stores && transferred "$near" &&
		at_least 'bytes to the near one' $((came - came_before)) 40000 &&
		at_least 'bytes from the near one' $((went - went_before)) 40000
}

check 'late, lossy, overtaking and narrow links' bad_links
check 'message, unchanged, over a bad link' runs message
check 'a link that is cut, relays that are killed' is_lost
check 'a tunnel of WireGuard' tunnels
plan
