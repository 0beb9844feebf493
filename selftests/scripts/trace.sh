#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of evering-tracing(7): that it tells of every tracepoint and field, and that
# the lines that it has to copy print what they promise.  TAP.
#
#	BUILD=dir		where `evering` lies (build)
#	EVERING_BACKEND=memfd	only what needs no module
#
# Such a line is what stands between a line `.\" RUN PROGRAM name` and one `.\" END`.
# It runs around pings, in place of its `sleep 10` or as its `-c`, so that it sees all
# of them: nothing here hangs on how long anything takes.
#
# They look at the whole machine.  What else is at work there is no failure, and what
# they change in tracefs is changed back.

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
page=$top/lib/man/man7/evering-tracing.7
source=$top/kmod/trace.h
events=/sys/kernel/tracing/events/evering
[[ -e $page ]] || skip_all "no $page here"
evering=$bin/evering
cp "$build/evering" "$evering" || bail_out "no $build/evering"

# ------------------------------------------------------------------ machinery

# needs PROGRAM: what every such line needs, and this program.
needs() {
	[[ ${EVERING_BACKEND:-device} == device ]] || skip 'only the device is traced'
	[[ -c /dev/evering ]] || skip 'no /dev/evering: is evering.ko loaded?'
	[[ -r $events/evr_ring/format ]] ||
		skip "cannot read $events: tracefs, and root, are needed"
	case $1 in
	tracefs)
		[[ -w $events/evr_ring/trigger && -e $events/evr_ring/hist ]] ||
			skip 'no CONFIG_HIST_TRIGGERS in this kernel'
		;;
	bpftrace)
		command -v bpftrace >/dev/null || skip 'no bpftrace here'
		[[ -e /sys/kernel/btf/vmlinux ]] || skip 'no BTF in this kernel'
		;;
	*) command -v "$1" >/dev/null || skip "no $1 here" ;;
	esac
}

# ---------------------------------------------------------------- what is said

# Every event and field of kmod/trace.h has its place in the page.
tells_of_all() {
	local name count=0
	[[ -e $source ]] || skip "no $source here"
	while read -r name; do
		((count++))
		grep -qxE "\.(B|I) $name ?" "$page" || echo "nothing about $name"
	done < <(sed -nE -e 's/^TRACE_EVENT\((\w+),$/\1/p' \
		-e 's/^DEFINE_EVENT\(\w+, (\w+),$/\1/p' \
		-e 's/^.*__field\(\w+, (\w+)\)$/\1/p' "$source" | sort -u) >wrong
	cat wrong
	[[ ! -s wrong ]] && ((count >= 12))
}

# ------------------------------------------------------------- what is to copy

# lines PROGRAM NAME: as who reads the page would type them.
lines() {
	sed -n "/^\.\\\\\" RUN $1 $2\$/,/^\.\\\\\" END/p" "$page" |
		sed -e '/^\./d' -e "s/\\\\(aq/'/g" -e 's/\\-/-/g' -e 's/\\e/\\/g'
}

# What the lines are to see: pings, whose sides sleep every time.
cat >"$tmp/pings" <<-END
	#!/bin/bash
	exec timeout -k 5 120 $evering ping -q -i 0 -c 200 --wait=block >/dev/null
END
# Or who answers them is killed, and the other notices.
cat >"$tmp/death" <<-END
	#!/bin/bash
	coproc timeout -k 5 120 $evering ping -i 0.05
	exec {out}<&"\${COPROC[0]}"
	read -r -u "\$out" line
	read -r -u "\$out" line
	for dir in /proc/[0-9]*; do
		[[ \$dir/exe -ef $evering && \$(<"\$dir/comm") == evering-pong ]] &&
			kill -KILL "\${dir#/proc/}"
	done
	cat <&"\$out" >/dev/null
	wait
END
chmod +x "$tmp/pings" "$tmp/death"

# prints PROGRAM NAME REGEX [LOAD]: the lines print such a line.
prints() {
	local load=$tmp/${4:-pings} status
	needs "$1"
	lines "$1" "$2" >script
	if [[ ! -s script ]]; then
		echo "no lines '$2' for $1 in $page"
		return 1
	fi
	sed -i "s|sleep 10\$|$load|" script
	# The last line ends its only command.  What it starts must be no script.
	[[ $1 != bpftrace ]] || sed -i "\$s|\$| -c '$BASH $load'|" script
	grep -q "$load" script || return
	EVERING_BACKEND=device timeout -k 5 240 bash -e script >out 2>err
	status=$?
	((!status)) && grep -qE -- "$3" out err && return
	echo "status $status, and no line like $3 from:"
	cat script out err
	return 1
}

# What they print, a line of it.
us='evering(-pong)?'
declare -A prints=(
	['bpftrace created']='^evering \([0-9]+\): channel [1-9][0-9]*, [1-9][0-9]* slots of [1-9][0-9]* bytes, [1-9][0-9]* KiB$'
	['bpftrace rings']='^@\[[1-9][0-9]*, [01]\]: [1-9]'
	['bpftrace latency']='^\[[0-9]+[KM]?, [0-9]+[KMG]?\) +[1-9][0-9]* \|@'
	['bpftrace who']="^@rings\[$us, $us\]: [1-9]"
	['bpftrace asleep']="^@ns\[$us, [0-9]+\]: count [1-9][0-9]*, average [1-9][0-9]*, total [1-9]"
	['bpftrace deaths']='^evering-pong \([0-9]+\) left channel [1-9][0-9]*: signal 9, exit status 0$'
	['bpftrace needless']="^@\[$us, 1\]: [1-9]"
	['bpftrace why']="^@\[$us, 1\]: [1-9]"
	['perf count']='^ +[1-9][0-9,]* +evering:evr_ring'
	['perf script']="^ *$us .* evering:evr_ring: channel=[1-9][0-9]* end=[AB] bells=0x1 which=0x1$"
	['tracefs rings']='^\{ channel: +[1-9][0-9]*, end: +[01], which: +1 \} hitcount: +[1-9]'
	['tracefs wakes']="^\{ common_pid: $us +\[ *[0-9]+\], which: +1 \} hitcount: +[1-9]"
	['tracefs latency']='^\{ ns: ~ 2\^[0-9]+ +\} hitcount: +[1-9]'
)

each_is_tested() {
	diff <(printf '%s\n' "${!prints[@]}" | sort) \
		<(sed -n 's/^\.\\" RUN //p' "$page" | sort)
}

echo 'TAP version 13'
check 'the page tells of every tracepoint and field' tells_of_all
check 'the page has what is tested' each_is_tested
while read -r what; do
	load=pings
	[[ $what != *deaths ]] || load=death
	# shellcheck disable=SC2086 # two words
	check "${what/ /: }" prints $what "${prints[$what]}" $load
done < <(printf '%s\n' "${!prints[@]}" | sort)

plan
