#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of `evering bench`: every arm that is built does its work in every mode and
# finds it right, results can be read again, compared and drawn, and what makes no
# sense is named.  Nothing here looks at how long anything took.  TAP.
#
#	BUILD=dir		where `evering` lies (build), and bench/ with the peers
#	EVERING_SHORT=1		evering's own arms and the sockets only
#	EVERING_GUEST=1		what kernel or backend have a part in

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
((slow < 100)) || skip_all 'no clock is worth reading here'
evering=$build/evering
[[ -x $evering ]] || bail_out "no $evering"
limit=250

# bench STATUS ARGUMENT...: evering bench ends with this status.
bench() {
	exits "$1" "$evering" bench -q "${@:2}" </dev/null && return
	# First what did not work, and why: of the rest there may be much.
	grep -o '"mode".*"error":"[^"]\+"' out
	cat out
	return 1
}

# As little as there can be.
quick=(--rounds=1 --round=1 --timeout=60)

# valid FILE: as many operations as were asked for, in every row and no fewer rows
# than arms.
valid() {
	grep -q '^{"evering_bench":1,' "$1" || {
		echo 'no header'
		return 1
	}
	if grep -v '^{"evering_bench"' "$1" | grep -v '"void":0,'; then
		echo 'these are void'
		return 1
	fi
	[[ $(wc -l <"$1") -gt 1 ]]
}

# every MODE: every arm that has it.
every() {
	local arms
	bench 0 --list
	arms=$(awk -v mode=" $1" 'index($0, mode) && !/\(/ && !/^cache-line/ { print $1 }' out |
		paste -sd,)
	[[ $short ]] && arms=evering,uds
	[[ $guest ]] && arms='evering-device'
	[[ $arms ]] || return 0
	bench 0 "${quick[@]}" --modes="$1" --sizes=64 --arms="$arms" --json &&
		valid out
}

# Requests larger than a socket's buffer, and a number of them that the logical
# clients cannot share equally.
large() {
	bench 0 "${quick[@]}" --modes=original,fair --sizes=512K --depth=7 \
		--arms=evering,uds --json && valid out
}

# Messages of any length: in the entry, in a buffer, of more than a socket takes at once,
# and each byte of them is looked at.
lengths() {
	bench 0 "${quick[@]}" --modes=message,request --sizes=4,10000,1M \
		--arms=evering,two-copies,copy-and-read,uds --json && valid out
}

# Through two relays and two proxies, none of which is left.
relayed() {
	local arms=chain
	[[ -x ${evering%/*}/evering-relay ]] && arms+=,evering-relay
	bench 0 "${quick[@]}" --modes=relay --sizes=64,10000,1M --arms="$arms" --json &&
		valid out
}

# More channels than are active at a time; every answer is right.
crowd() {
	local arms=evering,scan,uds,tokio,shmipc,zeromq mode
	[[ $short ]] && arms=evering,scan,uds
	bench 0 --list || return
	# Those that are built.
	arms=$(awk -v wanted=",$arms" '!/\(/ && / many-one/ { split(wanted, list, ",")
		for (i in list) if (list[i] && index($1, list[i]) == 1) print $1 }' out | paste -sd,)
	bench 0 "${quick[@]}" --modes=many --channels=70 --arms="$arms" --json &&
		valid out && cp out crowd || return
	for mode in one 64 all zipf flood; do
		grep -q "\"mode\":\"many-$mode\",\"size\":70,\"arm\":\"evering-memfd\"" crowd && continue
		echo "no many-$mode"
		return 1
	done
	# Turns are counted there, and nowhere else.
	grep '"max_turns"' crowd | grep -v '"mode":"many-flood"' && return 1
	grep '"mode":"many-flood"' crowd | grep -v '"max_turns"' && return 1
	bench 0 --from=crowd --json && cp out again && bench 0 --from=again --json && cmp out again
}

# One channel, and fewer than are active at a time.
few() {
	local arms=evering-memfd,no-group,uds
	bench 0 --list || return
	[[ ! $short ]] && grep -q '^iceoryx2 .* many-one' out && arms+=,iceoryx2
	bench 0 "${quick[@]}" --modes=many --channels=1,3 --arms="$arms" --json &&
		valid out && grep -q '"size":1,"arm":"no-group"' out && ! grep -q '"size":3,"arm":"no-group"' out
}

# Of two numbers of channels each is compared with the one it is to be; asleep by CPU time.
crowd_targets() {
	need_crowd || return
	{
		head -n 1 crowd
		of_crowd many-one 1 block 9 1000
		of_crowd many-one 1000 block 1 1500
		of_crowd many-64 64 busy 100 1
		of_crowd many-64 1000 busy 130 1
	} >crowds
	bench 0 --from=crowds --targets && grep -qE '^  evering-memfd +many-one .* itself, 1 channel, CPU .* met$' out &&
		grep -qE '^  evering-memfd +many-64 .* itself, 64 channels .* MISSED$' out && return
	cat out
	return 1
}

need_crowd() {
	[[ -s crowd ]] || bench 0 "${quick[@]}" --modes=many-all --channels=3 --arms=evering-memfd \
		--output=crowd
}

# of_crowd MODE CHANNELS POLICY NS CPU: a row that says so.
of_crowd() {
	grep -m1 '"arm":"evering-memfd"' crowd |
		sed -E "s/\"mode\":\"[^\"]*\"/\"mode\":\"$1\"/; s/\"size\":[0-9]+/\"size\":$2/
			s/\"policy\":\"[^\"]*\"/\"policy\":\"$3\"/; s/\"ns\":\[[^]]*\]/\"ns\":[$4]/
			s/\"cpu_ns\":\[[^]]*\]/\"cpu_ns\":[$5]/"
}

# What the limits do not allow is said, with the remedy, and the others are measured.
crowd_limits() {
	(
		ulimit -n 300
		bench 1 "${quick[@]}" --modes=many-all --channels=100 --wait=busy \
			--arms=evering-memfd,uds-epoll-good --output=limited
	) && says 'needs 564 descriptors, may have 300: raise the hard limit' err || return
	grep '"arm":"evering-memfd"' limited | grep -q '"ops":0,"void":1,"error":"needs 564 descriptors' &&
		grep '"arm":"uds-epoll-good"' limited | grep -q '"void":0,' && return
	cat limited
	return 1
}

# What each of them needs is said where it is not there.
libraries() {
	local name
	bench 0 --list || return
	while read -r name package; do
		grep -q "^$name .*message request" out && continue
		# Without the program, or without this library.
		grep -qE "^$name .*(not built: needs $package|bench-programs)" out && continue
		echo "nothing about $name"
		return 1
	done <<-'END'
		zeromq libzmq3-dev
		nng libnng-dev
		ucx libucx-dev
		libfabric libfabric-dev
	END
}

# A program with none of the libraries says so of each.
no_libraries() {
	mkdir none
	cat >none/messages <<-'END'
		#!/bin/bash
		eval "exec 3<&$1 4>&$1"
		printf 'absent zeromq not built: needs libzmq3-dev\nready\n' >&4
		cat <&3 >/dev/null
	END
	chmod +x none/messages
	bench 0 --peers=none --list && grep -q '^zeromq .*not built: needs libzmq3-dev' out || return
	bench 1 --peers=none --arms=zeromq && says 'zeromq: not built: needs libzmq3-dev'
}

# Two sleepers that nobody pins: CPUs that are not there do no harm.
unpinned() {
	bench 0 "${quick[@]}" --modes=unpinned --arms=evering,eventfd,pipe,seqpacket,uds \
		--cpus=1000,1000 --json && valid out && ! grep -q '"floor_ns":\[[0-9]' out
}

# A client after another, with and without arenas; and every one of them is answered.
# What is not counted is not said to be none.
meetings() {
	bench 0 "${quick[@]}" --modes=connect --sizes=4,64,300K --arms=evering,uds --json &&
		valid out && cp out met || return
	[[ $(grep -c '"size":64,"arm":"evering-memfd-ring"' out) == 2 &&
	$(grep -c '"size":64,"arm":"uds-seqpacket"' out) == 1 &&
	$(grep -c '"size":307200,"arm":"evering-memfd"' out) == 2 ]] || {
		cut -c 1-80 out
		return 1
	}
	! grep '"arm":"evering' out | grep -v '"syscalls_per_op":null' || return
	# A limit of five: met by four, and missed by six, and by one arm of two.
	sed -E 's/"ns":\[[^]]*\]/"ns":[4]/; /"arm":"uds/s/"ns":\[4\]/"ns":[1]/' met |
		sed -E '/memfd-ring/!b; s/"ns":\[4\]/"ns":[6]/' >some
	bench 0 --from=some --targets && grep -qE '^  evering-memfd +connect .* met$' out &&
		grep -qE '^  evering-memfd-ring +connect .* MISSED$' out
}

listed() {
	local arm
	bench 0 --list || return
	for arm in evering-memfd evering-device uds-epoll uds-uring uds-stream uds-seqpacket ck_ring rte_ring \
		boost-spsc moodycamel shmipc tokio monoio iceoryx2 eventfd futex \
		no-transport zeromq nng ucx libfabric; do
		grep -q "^$arm " out && continue
		echo "nothing about $arm"
		return 1
	done
}

# What spins has no part in it, nor has a mode that is not asked for.
one_cpu() {
	bench 0 "${quick[@]}" --icount --arms=evering-memfd,eventfd,sched_yield \
		--output=counted && valid counted && grep -q '"icount":1' counted &&
		grep -q sched_yield counted && ! grep -q '"policy":"busy"' counted &&
		grep -q 'in guest instructions' out || return
	bench 2 --icount --modes=stream && says '--icount: of rtt, channel, port and evnet'
}

# running PID: it is no longer env(1).
running() {
	[[ $(<"/proc/$1/comm") == evering ]]
}

# What is ignored stays so, in the processes that are measured too.
ignores() {
	local status
	env --ignore-signal=HUP true 2>/dev/null || skip 'env(1) has no --ignore-signal'
	env --ignore-signal=HUP "$evering" bench -q --rounds=40 --round=5 --modes=rtt \
		--arms=evering-memfd --output=hung >out 2>err </dev/null &
	pid=$!
	soon running "$pid" || return
	while ! gone "$pid"; do
		# shellcheck disable=SC2046 # a list
		kill -HUP "$pid" $(below "$pid") 2>/dev/null
		sleep 0.05
	done
	wait "$pid"
	status=$?
	((status == 0)) && valid hung
}

json_parses() {
	need python3
	bench 0 "${quick[@]}" --modes=rtt --arms=evering-memfd --json || return
	python3 -c 'import json, sys
for line in sys.stdin: json.loads(line)' <out
}

# Whatever bytes the command line has.
json_of_bytes() {
	need python3
	bench 0 "${quick[@]}" --modes=rtt --arms=evering-memfd --output=$'odd\t"\\\xff\xc3\xa9' \
		--json || return
	python3 -c 'import json, sys
command = json.loads(sys.stdin.buffer.readline())["command"]
assert command.encode().endswith(b"odd\t\"\\\xef\xbf\xbd\xc3\xa9 --json"), command' <out || return
	# And as it was read.
	bench 0 --from=$'odd\t"\\\xff\xc3\xa9' && grep -qF $'odd\t"\\?\xc3\xa9 --json' out
}

reads_again() {
	bench 0 "${quick[@]}" --modes=rtt --arms=evering-memfd --output=first || return
	# What is derived from the numbers comes from rounded ones the second time.
	bench 0 --from=first --output=second || return
	bench 0 --from=second --json || return
	cmp out second
}

compares() {
	bench 0 "${quick[@]}" --modes=rtt --arms=evering-memfd --output=a || return
	# A thousand times as fast, with more rounds than chance needs.
	sed -E 's/"(ns|cpu_ns|syscalls|floor_ns)":\[[^]]*\]/"\1":[1,1,1,1,1,1,1,1]/g' a >b
	sed -E 's/"(ns|cpu_ns|syscalls|floor_ns)":\[[^]]*\]/"\1":[9,9,9,9,9,9,9,9]/g' a >c
	bench 0 --from=b --against=c || return
	grep -q 'evering-memfd .* faster$' out || cat out
	bench 0 --from=c --against=b && grep -q SLOWER out || return
	bench 0 --from=b --against=b && grep -q '^  0 changed beyond noise' out
}

draws() {
	need gnuplot
	bench 0 "${quick[@]}" --modes=fair,rtt,message,unpinned,connect --sizes=8,16,32,64,128 \
		--depth=3 --arms=evering-memfd,eventfd,two-copies,uds-stream --plot=plots &&
		bench 0 "${quick[@]}" --modes=many-all --channels=2,20 --arms=evering-memfd,scan,uds-epoll \
			--plot=crowds || return
	for name in crowds/many-all_all crowds/many-all_cpu; do
		[[ -s $name.svg && -s $name.png ]] || return
	done
	local name
	for name in fair_all fair_first_5 fair_mid_5 fair_last_5 fair_ratio rtt_64 \
		message_all message_ratio unpinned_64 connect_64; do
		[[ -s plots/$name.svg && -s plots/$name.png ]] && continue
		echo "no plots/$name"
		return 1
	done
}

# of_arm NAME POLICY FACTOR: the results in the file `one`, as of another arm.
of_arm() {
	awk -v arm="$1" -v policy="$2" -v factor="$3" 'NR > 1 {
		sub(/"arm":"[^"]*"/, "\"arm\":\"" arm "\"")
		sub(/"policy":"[^"]*"/, "\"policy\":\"" policy "\"")
		match($0, /"size":[0-9]+/)
		size = substr($0, RSTART + 7, RLENGTH - 7)
		gsub(/"ns":\[[^]]*\]/, sprintf("\"ns\":[%d]", factor * (100 + size / 4)))
		print
	}' one
}

# Ratios that users ask for: to what waits in the same way, and marked if there is no such.
# Targets are for those who ask.
ratios() {
	local arm
	bench 0 "${quick[@]}" --modes=request --sizes=64,1M --arms=evering-memfd --wait=busy --output=one || return
	{
		head -n 1 one
		of_arm evering-memfd busy 1
		of_arm evering-memfd block 10
		of_arm uds-epoll-good busy 5
		of_arm uds-uring-good busy 4
		of_arm uds-epoll-good block 30
		of_arm shmipc block 20
		of_arm iceoryx2 busy 2
	} >many
	bench 0 --from=many && says 'How many times as long as evering others take' out &&
		has_row 'request 64 evering-memfd busy 116 ns 4.00 20.0* 2.00' &&
		has_row 'request 64 evering-memfd block 1.16 us 3.00 2.00 0.20*' &&
		! grep -q 'MISSED\|met$\|Targets' out || return
	bench 0 --from=many --targets && says 'Targets' out || return
	# Of evering alone there is nothing to say.
	grep -v '"arm":"\(uds\|shm\|ice\)' many >alone
	bench 0 --from=alone && ! grep -q 'How many times' out
}

has_row() {
	tr -s ' ' <out | grep -qxF " $1" && return
	cat out
	return 1
}

# The picture of the README: three sizes, two ways to wait; what is not here is said to be so.
speed() {
	local time
	bench 0 "${quick[@]}" --speed --peers=empty --output=fast && valid fast &&
		says 'left out: shmipc: not built' err || return
	for time in 64 4096 1048576; do
		[[ $(grep -c "\"size\":$time,\"arm\":\"evering-[a-z]*\"" fast) -ge 2 &&
		$(grep -c "\"size\":$time,\"arm\":\"uds-epoll-good\"" fast) == 2 ]] || return
	done
	need gnuplot
	bench 0 --from=fast --plot=plots && [[ -s plots/speed.svg && -s plots/speed.png ]] &&
		says 'not measured, as it is not here: iceoryx2, spinning; shmipc, asleep' plots/speed.svg &&
		says 'Unix socket, spinning' plots/speed.svg && says '>1 MiB each way' plots/speed.svg &&
		labels_apart plots/speed.svg
}

# However many arms there are: eight curves at most, evering in front, axes that show
# small sizes beside large ones, names as they are, and no label over another.
draws_many() {
	local arm factor=2 curves last name
	need gnuplot
	bench 0 "${quick[@]}" --modes=fair,stream,rtt --depth=3 --arms=evering-memfd \
		--sizes=8,64,512,1K,4K,16K,32K,64K,256K,512K,1M,4M --wait=busy --output=one ||
		return
	{
		head -n 1 one
		of_arm evering-memfd busy 1
		of_arm evering-memfd adaptive 1.5
		of_arm evering-memfd block 50
		for arm in ck_ring rte_ring boost-spsc moodycamel uds-epoll uds-epoll-good \
			uds-uring uds-uring-good tokio tokio-uring monoio shmipc iceoryx2 \
			eventfd pipe futex no-transport someone_elses another_one; do
			of_arm "$arm" block $((factor++))
		done
	} >many
	bench 0 --from=many --plot=plots || return
	for name in fair_all fair_first_5 fair_mid_5 fair_last_5 fair_ratio stream_all \
		stream_ratio rtt_64; do
		[[ -s plots/$name.svg && -s plots/$name.png ]] || return
		awk -v output="set output '$name.svg'" '
			/^set terminal/ { terminal = $0 }
			$0 == output { inside = 1; print terminal; next }
			/^reset/ { inside = 0 }
			inside' plots/bench.gnuplot >part
		says noenhanced part && says 'set logscale xy' part || return
		curves=$(grep -c keyentry part)
		last=$(grep notitle part | tail -n 1)
		[[ $curves -le 8 && $curves == $(grep -c ' notitle' part) &&
		$(grep -m1 keyentry part) == *'"evering, busy"'* && $last == *'lw 4'* ]] && continue
		echo "$name: $curves curves"
		cat part
		return 1
	done
	says 'ck_ring' many && labels_apart plots/fair_all.svg && labels_apart plots/fair_first_5.svg
}

# labels_apart SVG: no two texts lie on each other, at eight pixels a character.
labels_apart() {
	need python3
	python3 - "$1" <<-'END'
		import re, sys
		boxes = []
		text = open(sys.argv[1]).read()
		for x, y, anchor, body in re.findall(
		    r'translate\(([\d.]+),([\d.]+)\)[^>]*text-anchor="(\w+)">\s*'
		    r'<text>(?:<tspan[^>]*>)?([^<]*)', text):
		    x, y, width = float(x), float(y), 8 * len(body.strip())
		    x -= {"start": 0, "middle": width / 2, "end": width}[anchor]
		    if width:
		        boxes.append((x, y - 12, x + width, y, body))
		if len(boxes) < 10:
		    sys.exit("%d texts: has gnuplot another way to write them?" % len(boxes))
		for i, a in enumerate(boxes):
		    for b in boxes[:i]:
		        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
		            sys.exit("'%s' lies on '%s'" % (a[4], b[4]))
	END
}

# bad ARGUMENT TEXT: status 2, and the error says TEXT.
bad() {
	bench 2 "$1" && says "$2"
}

no_file() {
	bench 1 --from=none && says 'none: No such file' || return
	echo '{}' >garbage
	bench 1 --from=garbage && says 'garbage:1: not a result'
}

no_arm() {
	bench 2 --arms=nonsense && says "--arms=nonsense: no such arm"
}

missing_peers() {
	mkdir empty
	bench 0 --peers=empty --list && grep -q '^shmipc .*not built' out || return
	bench 1 --peers=empty --arms=shmipc && says 'not built'
}

echo 'TAP version 13'
check 'every arm is listed, or why it is missing' listed
modes=(original fair rtt stream late channel message request unpinned connect)
[[ $guest ]] && modes=(rtt stream request connect)
for mode in "${modes[@]}"; do
	check "$mode: every arm does it right" every "$mode"
done
if [[ $guest ]]; then
	check 'what the device has no part in' skip EVERING_GUEST
	plan
	exit
fi
check 'meetings' meetings
check 'few channels' few
check 'requests larger than a socket buffer' large
check 'messages of any length' lengths
check 'sleepers on any CPU' unpinned
check 'through two relays' relayed
check 'many channels' crowd
check 'on one CPU, by its time stamp counter' one_cpu
check 'SIGHUP that is ignored' ignores
check 'the JSON is JSON' json_parses
check 'the JSON of any bytes' json_of_bytes
check 'results are read as they were written' reads_again
check 'two results are compared' compares
check 'two numbers of channels are compared' crowd_targets
check 'more channels than the limits allow' crowd_limits
check 'how many times as long others take' ratios
check 'the picture of speed' speed
check 'diagrams are drawn' draws
[[ $short ]] || check 'diagrams of many arms' draws_many
check 'bad modes are named' bad --modes=rtt,nothing '--modes=rtt,nothing'
check 'bad sizes are named' bad --sizes=4,5 '--sizes=4,5'
check 'bad numbers of channels are named' bad --channels=0 '--channels=0'
check 'bad policies are named' bad --wait=lazy '--wait=lazy'
check 'bad depths are named' bad --depth=201 '--depth=201'
check 'bad rounds are named' bad --rounds=9,5 '--rounds=9,5'
check 'bad CPUs are named' bad --cpus=1 '--cpus=1'
check 'unknown options are named' bad --wrong "'--wrong'"
check 'arguments are named' bad extra "'extra'"
check 'a file that is none is named' no_file
check 'an arm that is none is named' no_arm
check 'peers that are not built are said to be' missing_peers
check 'libraries that are missing are named' libraries
check 'a program without a library says so' no_libraries
plan
