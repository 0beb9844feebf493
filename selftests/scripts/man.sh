#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of the man pages in lib/man: that everything public has one, that they say
# what the headers and the programs say, and that what they show compiles and runs.
# TAP.
#
#	BUILD=dir		where evering and the library lie (build)
#	EVERING_SHORT=1		the programs in them only
#	CC=compiler		for these (cc)
#	CXX=compiler		for those in C++ (that of CC's kind)
#
# A program is what stands between a line `.\" PROGRAM name.c`, or name.cpp, and one
# `.\" END`; with RUNS behind the name it is one that succeeds by itself.  One that
# includes <evering_uring.h> is linked with liburing, and skipped without.
#
# Linted by mandoc, if it is there, and by groff.

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
# In the sources.
place=$top
cc=${CC:-cc}
case $cc in
*clang*) cxx=${CXX:-${cc/clang/clang++}} ;;
*) cxx=${CXX:-c++} ;;
esac
man=lib/man
headers=(lib/evering.h lib/evering_ring.h lib/evering_op.h lib/evering_group.h \
	lib/evering_server.h lib/evering_net.h lib/evering_uring.h)
[[ -e ${headers[0]} && -d $man ]] || skip_all 'no headers and man pages here'

# ------------------------------------------------------------------ machinery

# silent COMMAND...: it succeeds, and says nothing.
silent() {
	local output status
	output=$("$@" 2>&1)
	status=$?
	((!status)) && [[ ! $output ]] && return
	echo "$output"
	return $((status ? status : 1))
}

# text_check NAME COMMAND...: a check of what is the same in every build.
text_check() {
	if [[ $short ]]; then
		check "$1" skip 'is the same in every build'
	else
		check "$1" silent "${@:2}"
	fi
}

# has_liburing: whether what includes <evering_uring.h> compiles.
has_liburing() {
	"$cc" -x c -E -o /dev/null - <<<'#include <liburing.h>' 2>/dev/null
}

# Pages, and aliases: links to a page of the same section.  man(1) finds its way from
# them in the tree, as it would not from a .so request; `make install` writes one.
pages=() aliases=()
for file in "$man"/man[1-9]/*.[1-9]; do
	if [[ -L $file ]]; then
		aliases+=("$file")
	else
		pages+=("$file")
	fi
done

# The headers without comments, a declaration a line.
declarations() {
	awk '{ text = text $0 "\n" }
		END {
			gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, "", text)
			gsub(/\\\n/, " ", text)
			gsub(/\n#[^\n]*/, "", text)
			gsub(/[ \t\n]+/, " ", text)
			gsub(/[;{}]/, "&\n", text)
			print text
		}' "${headers[@]}"
}

functions() {
	declarations | grep -E '(EVERING_API|static inline) ' |
		grep -oE '\<evering_[a-z_]+\(' | sed 's/(//; /__/d' | sort -u
}

# names FILE: those of its NAME section.
names() {
	section NAME "$1" | sed -n 's/ \\- .*//; s/\\-/-/g; s/, */\n/g; 1p'
}

# page_of NAME: the page in section 3 that describes it, whatever its own name.
page_of() {
	local target file=$man/man3/$1.3
	[[ -e $file ]] || return
	target=$(readlink "$file")
	echo "$man/man3/${target:-$1.3}"
}

# section NAME FILE: the lines of a section.
section() {
	awk -v name="$1" '/^\.SH / { inside = $0 == ".SH " name; next } inside' "$2"
}

# What the macros of man(7) make of their lines, as plain text.
plain() {
	awk '
		function unquoted(s, glue,	out, c, i, quote, word) {
			for (i = 1; i <= length(s) + 1; i++) {
				c = substr(s, i, 1)
				if (c == "\"") {
					quote = !quote
					word = 1
				} else if (c == "" || (c == " " && !quote)) {
					if (word && i <= length(s))
						out = out glue
					word = 0
				} else {
					out = out c
					word = 1
				}
			}
			return out
		}
		/^\.(BI|BR|IB|IR|RB|RI) / { print unquoted(substr($0, 5), ""); next }
		/^\.[BI] / { print unquoted(substr($0, 4), " "); next }
		/^\./ { next }
		{ print }' |
		sed -e 's/\\-/-/g' -e 's/\\&//g' -e 's/\\(dq/"/g' -e 's/\\(ha/^/g' \
			-e 's/\\e/\\/g'
}

# ------------------------------------------------------------ what there is

functions_have_pages() {
	local name file count=0
	while read -r name; do
		((count++))
		file=$(page_of "$name")
		if [[ ! $file || ! -e $file ]]; then
			echo "$name() has no page"
		elif ! names "$file" | grep -qx "$name"; then
			echo "$file: no $name in its NAME"
		elif ! section SYNOPSIS "$file" | plain | grep -q "\<$name("; then
			echo "$file: no $name() in its SYNOPSIS"
		fi
	done < <(functions)
	((count >= 40)) || echo "only $count functions found in the headers"
}

symbols_have_pages() {
	local name library=$build/libevering.so
	[[ -e $library ]] || skip "no $library"
	need nm
	nm -D --defined-only "$library" | sed -n 's/@.*//; s/.* T \(evering_\)/\1/p' |
		grep -v '^evering__' |
		while read -r name; do
			[[ -e $man/man3/$name.3 ]] || echo "$name has no page"
		done
}

# Constants, and what has a struct or a callback type of its own.
constants_are_told_of() {
	local all name
	all=$(sed 's/\\-/-/g' "${pages[@]}")
	{
		sed -nE 's/^#define[ \t]+(EVERING_[A-Z_]+).*/\1/p' "${headers[@]}"
		sed -nE 's/^\t(EVERING_[A-Z_]+) = [0-9]+,$/\1/p' "${headers[@]}"
		declarations |
			sed -nE 's/^ *struct (evering_[a-z_]+) \{$/\1/p;
				s/.*typedef .*\(\*(evering_[a-z_]+)\).*/\1/p'
	} | grep -vE '_H$|^EVERING_(API|LIKELY|UNLIKELY|_.*)$|^evering_(_.*|tx|rx)$' | sort -u |
		while read -r name; do
			grep -q "\<$name\>" <<<"$all" || echo "no page tells of $name"
		done
}

aliases_lead_to_pages() {
	local file target name
	for file in "${aliases[@]}"; do
		target=${file%/*}/$(readlink "$file")
		name=${file##*/}
		name=${name%.*}
		if [[ $(readlink "$file") == */* || ! -f $target || -L $target ]]; then
			echo "$file: $target is no page beside it"
		elif ! names "$target" | grep -qx -e "$name"; then
			echo "$target: no $name in its NAME"
		fi
	done
	for file in "${pages[@]}"; do
		while read -r name; do
			[[ -e ${file%/*}/$name.${file##*.} ]] ||
				echo "$file: no page or alias for its $name"
		done < <(names "$file")
	done
}

sections_are_there() {
	local file name wanted
	for file in "${pages[@]}"; do
		wanted=(NAME SYNOPSIS DESCRIPTION HISTORY 'SEE ALSO')
		[[ $file == *.3 ]] && wanted+=(LIBRARY)
		if section SYNOPSIS "$file" | grep -q '("'; then
			wanted+=('RETURN VALUE' ATTRIBUTES)
		fi
		for name in "${wanted[@]}"; do
			grep -qx "\.SH $name" "$file" || echo "$file: no $name"
		done
	done
}

references_lead_to_pages() {
	local file name number
	for file in "${pages[@]}"; do
		while read -r name number; do
			[[ $name.$number == evering-guide.7 || -e $man/man$number/$name.$number ]] ||
				echo "$file: no page $name($number)"
		done < <(sed 's/\\-/-/g' "$file" |
			sed -nE 's/^\.BR (ev(ering|net)[a-z_.-]*) \(([1-9])\).*/\1 \3/p' |
			sort -u)
	done
}

# Those to pages of others, where the usual ones are installed.
others_exist() {
	local file name number
	need man
	for name in '2 poll' '3 malloc' '7 unix'; do
		# shellcheck disable=SC2086 # a section and a name
		man -w $name >/dev/null 2>&1 || skip 'no manpages-dev'
	done
	for file in "${pages[@]}"; do
		while read -r name number; do
			# Those come with liburing, and some only with a later one.
			[[ $name != io_uring* ]] ||
				man -w 3 io_uring_submit >/dev/null 2>&1 || continue
			man -w "$number" "$name" >/dev/null 2>&1 ||
				echo "$file: no page $name($number)"
		done < <(section 'SEE ALSO' "$file" | sed 's/\\-/-/g' |
			sed -nE '/^\.BR ev(ering|net)/d;
				s/^\.BR ([^ ]+) \(([1-9])\).*/\1 \2/p')
	done
}

# --------------------------------------------------- what the headers say

# Each prototype of a SYNOPSIS, after the header: a compiler sees what differs.
prototypes_are_right() {
	local file
	need "$cc"
	for file in "$man"/man3/*.3; do
		[[ " ${aliases[*]} " == *" $file "* ]] && continue
		functions | grep -qxf <(names "$file") || continue
		section SYNOPSIS "$file" | plain >"$tmp/synopsis.c"
		grep -q 'evering_uring\.h' "$tmp/synopsis.c" && ! has_liburing && continue
		"$cc" -x c -std=c11 -Wall -Werror -Iuapi -Ilib -fsyntax-only \
			"$tmp/synopsis.c" || echo "$file: see above"
	done
}

# Those of section 9, after a header whose kernel this stands in for; a page has what is
# exported.
ports_are_right() {
	local page=$man/man9/evering_port.9
	need "$cc"
	sed -n 's/^EXPORT_SYMBOL_GPL(\(.*\));/\1/p' kmod/port.c | sort |
		diff --label kmod/port.c --label "$page" -U0 - <(names "$page" | sort)
	mkdir -p "$tmp/kernel/linux"
	echo '#define BIT(n) (1u << (n))' >"$tmp/kernel/linux/bits.h"
	{
		printf '%s\n' '#include <stdbool.h>' '#include <stddef.h>' \
			'#include <linux/types.h>' 'typedef __u32 u32;' 'typedef __u64 u64;'
		section SYNOPSIS "$page" | plain
	} >"$tmp/ports.c"
	"$cc" -x c -std=c11 -Wall -Werror -I"$tmp/kernel" -Iuapi -Ikmod -fsyntax-only \
		"$tmp/ports.c" || echo "$page: see above"
}

# The errors that the comment before a declaration names are in the function's page.
errors_are_told_of() {
	local name error file
	awk '
		/^\/\*\*/ { comment = "" }
		/^\/\*\*/, /\*\// { comment = comment $0 "\n"; next }
		/^(EVERING_API|static inline)/ { declaration = "" ; open = 1 }
		open { declaration = declaration $0 }
		open && /\(/ {
			open = 0
			if (!match(declaration, /evering_[a-z_]+\(/))
				next
			name = substr(declaration, RSTART, RLENGTH - 1)
			text = comment
			while (match(text, /-E[A-Z0-9]+/)) {
				print name, substr(text, RSTART + 1, RLENGTH - 1)
				text = substr(text, RSTART + RLENGTH)
			}
		}' "${headers[@]}" | grep -v __ | sort -u >"$tmp/errors"
	while read -r name error; do
		file=$(page_of "$name")
		[[ ! $file ]] || grep -q "\\\\-$error\>" "$file" ||
			echo "$file: nothing about -$error, of $name()"
	done <"$tmp/errors"
	(($(wc -l <"$tmp/errors") >= 100)) ||
		echo 'hardly any errors found in the headers'
}

# structs: those in C text, each as one line without comments and needless blanks.
structs() {
	awk '{ text = text $0 "\n" }
		END {
			gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, "", text)
			gsub(/[ \t\n]+/, " ", text)
			while (match(text, /struct evering_[a-z_]+ \{[^}]*\};/)) {
				found = substr(text, RSTART, RLENGTH)
				text = substr(text, RSTART + RLENGTH)
				while (match(found, / [^a-zA-Z0-9_]|[^a-zA-Z0-9_] /)) {
					two = substr(found, RSTART, 2)
					gsub(/ /, "", two)
					found = substr(found, 1, RSTART - 1) two \
						substr(found, RSTART + 2)
				}
				print found
			}
		}' | sort -u
}

# Each that a program fills or reads is in a page, with the fields of its header.  Those of
# the fast path, of a table and of a watch are private.  <linux/evering_op.h> describes what
# operations put into the rings, which is the library's matter.
structs_are_shown() {
	local file
	for file in "${pages[@]}"; do
		plain <"$file" | structs
	done | sort -u >"$tmp/shown"
	cat "${headers[@]}" kmod/evering_port.h uapi/linux/evering{,_net}.h | structs |
		grep -vE '^struct evering_(_[a-z_]*|ops|tx|rx|uring)\{' >"$tmp/structs"
	comm -23 "$tmp/structs" "$tmp/shown" | sed 's/{.*//; s/^/no page shows, as it is, /'
	comm -13 "$tmp/structs" "$tmp/shown" | sed 's/{.*//; s/^/a page shows otherwise /'
	(($(wc -l <"$tmp/structs") >= 40)) || echo 'hardly any structs found in the headers'
}

# -------------------------------------------------- what the program says

# options: the long ones that the tags of a page, or a help text, name.
options() {
	grep -oE -e '--[a-z][a-z-]*' | sort -u
}

page_options() {
	awk '/^\.T[PQ]/ { getline; print }' "$1" | sed 's/\\-/-/g' | options
}

commands() {
	"$build/evering" --help |
		sed -nE '/^Commands:/,/^$/s/^  ([a-z]+) .*/\1/p'
}

commands_have_pages() {
	local name file
	[[ -x $build/evering ]] || skip "no $build/evering"
	while read -r name; do
		file=$man/man1/evering-$name.1
		if [[ ! -e $file ]]; then
			echo "'evering $name' has no page"
			continue
		fi
		grep -q "^\.BR evering\\\\-$name (1)" "$man/man1/evering.1" ||
			echo "evering.1: no evering-$name(1)"
		diff --label "$file" --label "evering $name --help" -U0 \
			<(page_options "$file") \
			<("$build/evering" "$name" --help | options)
	done < <(commands)
	diff --label evering.1 --label 'evering --help' -U0 \
		<(page_options "$man/man1/evering.1") \
		<("$build/evering" --help | options)
	for file in "$man"/man1/evering-*.1; do
		name=${file##*/evering-}
		commands | grep -qx "${name%.1}" || echo "$file: no such command"
	done
}

# ------------------------------------------------------------------- layout

# Who does something is named: the caller, the sender, the peer, a process.
subjects_are_named() {
	! grep -nwE '[Ww]hoever|[Ww]hom|([Ss]ome|[Aa]ny|[Nn]o)body' "${pages[@]}"
}

mandoc_likes() {
	need mandoc
	mandoc -Tlint -W warning "${pages[@]}"
}

groff_likes() {
	local file
	need groff
	for file in "${pages[@]}"; do
		groff -man -ww -z "$file" 2>&1 | sed "s|^|$file: |"
	done
}

# shown FILE...: `man -l` shows each of them, and says nothing on standard error.
shown() {
	LC_ALL=C.UTF-8 MANROFFOPT='' MANWIDTH=80 PAGER=cat man --warnings -l "$@" \
		2>"$tmp/said" >"$tmp/shown" || echo 'man fails'
	cat "$tmp/said"
	(($(grep -c '^NAME$' "$tmp/shown") == $#)) || echo "not each is shown of $*"
}

# Pages and aliases of the tree, by their bare names where they lie, and aliases from
# elsewhere: a .so request would lead nowhere from most places.
man_shows() {
	local folder
	need man
	for folder in "$man"/man[1-9]; do
		(cd "$folder" && shown ./*)
	done
	(cd / && shown "${aliases[@]/#/$top/}")
}

# ----------------------------------------------------------------- programs

# As $build/libevering.a was, or it does not link.
sanitize=()
list=$(sanitizers "$build/libevering.a")
[[ $list ]] && sanitize=("-fsanitize=$list" -fno-sanitize-recover=all)
# Its warning about fences, which only gcc has.
[[ $list == *thread* ]] && sanitize+=(-Wno-unknown-warning-option -Wno-tsan)

# extract FILE PROGRAM: as its reader sees it.
extract() {
	sed -n "/^\.\\\\\" PROGRAM $2\>/,/^\.\\\\\" END/p" "$1" | plain
}

programs() {
	sed -nE 's/^\.\\" PROGRAM ([a-z_]+\.(c|cpp))( RUNS)?$/\1\3/p' "$1"
}

compiles() {
	local compiler=("$cc") libraries=("$build/libevering.a") source=$tmp/$2
	[[ -e $build/libevering.a ]] || skip "no $build/libevering.a"
	[[ $2 == *.cpp ]] && compiler=("$cxx" -std=c++20)
	need "${compiler[0]}"
	extract "$1" "$2" >"$source"
	[[ -s $source ]] || echo 'nothing there'
	if grep -q '^#include <evering_uring\.h>' "$source"; then
		has_liburing || skip 'no liburing.h'
		libraries+=(-luring)
	fi
	"${compiler[@]}" -Wall -Wextra -Werror "${sanitize[@]}" -Iuapi -Ilib \
		-pthread -o "${source%.*}" "$source" "${libraries[@]}"
}

runs() {
	local output status
	[[ -x $tmp/$1 ]] || skip 'was not compiled'
	output=$(timeout -k 5 60 "$tmp/$1" 2>&1)
	status=$?
	((!status)) && return
	# Not in this kernel, or forbidden here.
	[[ $output == io_uring:* ]] && skip "$output"
	echo "status $status: $output"
	return 1
}

# The two of evering_listen(3) and evering_connect(3).
meet() {
	local pid socket=$tmp/socket
	[[ -x $tmp/listen && -x $tmp/connect ]] || skip 'were not compiled'
	timeout -k 5 60 "$tmp/listen" "$socket" >"$tmp/heard" 2>&1 &
	pid=$!
	soon test -S "$socket" || return
	timeout -k 5 60 "$tmp/connect" "$socket" one 'and two' || return
	wait "$pid" || echo "listen: status $?"
	printf 'one\nand two\n' | diff - "$tmp/heard"
}

# evering-guide(7), which is made of a page of another kind: it has the sections of that.
guide_is_a_page() {
	local page=$tmp/evering-guide.7
	[[ -r tools/doc/guide.md ]] || skip 'no sources'
	tools/doc/guide-man 0.1 >"$page" || return
	diff <(sed -n 's/^## //p' tools/doc/guide.md | tr '[:lower:]' '[:upper:]') \
		<(sed -n 's/^\.SH //p' "$page" |
			grep -vxE 'NAME|SYNOPSIS|DESCRIPTION|HISTORY|SEE ALSO')
	! command -v mandoc >/dev/null || mandoc -Tlint -W warning "$page"
	need groff
	# What does not fit a sheet of paper fits a terminal.
	groff -t -man -ww -z -Tutf8 "$page" 2>&1 | grep -v 'will not fit on one page$'
	return 0
}

# ---------------------------------------------------------------------- all

echo 'TAP version 13'
text_check 'every public function has a page' functions_have_pages
text_check 'every symbol of the library has a page' symbols_have_pages
text_check 'every constant and type is told of' constants_are_told_of
text_check 'aliases lead to pages, and names to both' aliases_lead_to_pages
text_check 'the usual sections are there' sections_are_there
text_check 'references lead to pages' references_lead_to_pages
text_check 'references to the pages of others lead to them' others_exist
text_check 'prototypes are those of the headers' prototypes_are_right
text_check 'prototypes of ports are those of kmod/evering_port.h' ports_are_right
text_check 'structs in the headers are in the pages' structs_are_shown
text_check 'errors in the headers are in the pages' errors_are_told_of
text_check 'commands and options are those of evering --help' commands_have_pages
text_check 'subjects are named' subjects_are_named
text_check 'mandoc has nothing to say' mandoc_likes
text_check 'groff has nothing to say' groff_likes
text_check 'man -l shows each page and alias of the tree' man_shows
for file in "${pages[@]}"; do
	while read -r program run; do
		check "${file##*/}: $program compiles" silent compiles "$file" "$program"
		[[ $run ]] && check "${file##*/}: $program runs" silent runs "${program%.*}"
	done < <(programs "$file")
done
check 'the programs of evering_listen(3) and evering_connect(3) meet' silent meet
text_check 'the guide is a page' guide_is_a_page
plan
