#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tests of `make install` and `make uninstall`: that everything is where it belongs,
# that programs can be built against it and run, and that nothing stays; and of `make
# dist`: that a release is the same for everybody.  TAP.
#
#	BUILD=dir		where evering and the library lie (build)
#	CC=compiler		for the programs (cc)
#
# Needs no root, installs below a temporary folder only, and builds nothing in BUILD.

# shellcheck source=selftests/scripts/common.sh
. "$(dirname "$0")/common.sh"
# In the sources.
place=$top
cc=${CC:-cc}
cxx=${CXX:-c++}
# Nothing of a make above, nor of what it was told, has a say in this one.
unset BUILD KDIR PREFIX DESTDIR BINDIR LIBDIR INCLUDEDIR MANDIR COMPLETION \
	UDEVRULES MODULESLOAD MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES \
	PKG_CONFIG_PATH PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR LD_LIBRARY_PATH

[[ -e Makefile && -d lib/man ]] || skip_all 'no Makefile and sources here'
[[ -e $build/libevering.so ]] || skip_all "no library in $build"
[[ ! $(sanitizers "$build/libevering.so") ]] ||
	skip_all 'nobody installs a library with a sanitizer'
command -v make >/dev/null || skip_all 'no make'
version=$(make -s version)

# ------------------------------------------------------------------ machinery

# make_ TARGET DESTDIR [NAME=VALUE...]: what was built is installed as it is, whatever
# happens to the sources meanwhile.
make_() {
	make -s -o library -o tools BUILD="$build" DESTDIR="$2" "$1" "${@:3}"
}

# Files and links below a folder, sorted; a folder only if there is nothing in it.
files() {
	(cd "$1" && find . ! -type d -o -type d -empty | sed 's|^\./||' | sort)
}

# expected PREFIX LIBDIR: what belongs below DESTDIR, sorted.
expected() {
	local prefix=${1#/} libdir=${2#/} file
	{
		echo "$prefix/bin/evering"
		# Without libfabric there is none.
		[[ ! -e $build/evering-relay ]] || echo "$prefix/bin/evering-relay"
		for file in lib/evering*.h lib/evering.hpp; do
			echo "$prefix/include/${file##*/}"
		done
		for file in uapi/linux/*.h; do
			echo "$prefix/include/linux/${file##*/}"
		done
		printf "$libdir/%s\n" libevering.a \
			libevering{,-ffi}.so{,.0,".$version"} pkgconfig/evering{,-ffi}.pc
		for file in lib/man/man[1-9]/*; do
			echo "$prefix/share/man/${file#lib/man/}"
		done
		echo "$prefix/share/man/man7/evering-guide.7"
		echo "$prefix/share/bash-completion/completions/evering"
		echo "$prefix/lib/udev/rules.d/60-evering.rules"
		echo "$prefix/lib/modules-load.d/evering.conf"
	} | sort
}

# ------------------------------------------------------------------ what is there

installs() {
	make_ install "$tmp/usr" PREFIX=/usr && expected /usr /usr/lib >"$tmp/want" &&
		files "$tmp/usr" | diff "$tmp/want" -
}

installs_elsewhere() {
	make_ install "$tmp/local" && expected /usr/local /usr/local/lib >"$tmp/want" &&
		files "$tmp/local" | diff "$tmp/want" - || return
	make_ install "$tmp/multi" PREFIX=/usr LIBDIR=/usr/lib/some-linux-gnu &&
		expected /usr /usr/lib/some-linux-gnu >"$tmp/want" &&
		files "$tmp/multi" | diff "$tmp/want" - &&
		grep -qxF "libdir=\${prefix}/lib/some-linux-gnu" \
			"$tmp/multi/usr/lib/some-linux-gnu/pkgconfig/evering.pc"
}

installs_again() {
	(cd "$tmp/usr" && find . -type f -exec sha256sum {} + | sort) >"$tmp/before"
	make_ install "$tmp/usr" PREFIX=/usr &&
		(cd "$tmp/usr" && find . -type f -exec sha256sum {} + | sort) |
		diff "$tmp/before" -
}

# As of a user who has a folder "My Programs".
blanks() {
	make_ install "$tmp/a b/c  d" PREFIX=/usr && expected /usr /usr/lib >"$tmp/want" &&
		files "$tmp/a b/c  d" | diff "$tmp/want" - || return
	make_ uninstall "$tmp/a b/c  d" PREFIX=/usr || return
	[[ $(ls "$tmp/a b") == 'c  d' && ! -e $tmp/a ]] || return
	[[ ! $(find "$tmp/a b" ! -type d) ]]
}

# For everybody, whoever installs it with whatever umask.
modes() {
	local wrong
	(umask 077 && make_ install "$tmp/umask" PREFIX=/usr) || return
	wrong=$(cd "$tmp/umask" && find usr \( -type d ! -perm 755 -o -type f ! -perm 644 \
		! -name evering ! -name evering-relay ! -name "libevering*.so.$version" \) -printf '%m %p\n' \
		-o -type f \( -path 'usr/bin/evering*' -o -name 'libevering*.so.*' \) \
		! -perm 755 -printf '%m %p\n')
	[[ ! $wrong ]] && return
	echo "$wrong"
	return 1
}

# A page that is only another name says which page it is, from the folder above.
pages() {
	local file other
	for file in "$tmp"/usr/usr/share/man/man[1-9]/*; do
		other=$(sed -n 's/^\.so //p' "$file")
		[[ ! $other || -s $tmp/usr/usr/share/man/$other ]] && continue
		echo "$file: no $other"
		return 1
	done
	need man
	man -l "$tmp/usr/usr/share/man/man3/evering_pair.3" >"$tmp/page" &&
		grep -q evering_pair "$tmp/page"
}

program() {
	local bin=$tmp/usr/usr/bin/evering
	[[ $("$bin" --version) == *"$version"* ]] || return
	EVERING_BACKEND=memfd "$bin" run --sums "$tmp/usr/usr/include" >"$tmp/sums" &&
		sha256sum -c --quiet "$tmp/sums"
}

# ------------------------------------------------------------- building against it

# C and C++ both take it.
cat >"$tmp/program.c" <<'END'
#include <stdio.h>
#include <evering.h>

int main(void)
{
	struct evering_params params = EVERING_PARAMS_INIT;
	struct evering *ev[2];
	char text[5];
	int ret;

	params.backend = EVERING_BACKEND_MEMFD;
	ret = evering_pair(&params, ev);
	if (ret) {
		fprintf(stderr, "evering_pair: %s\n", strerror(-ret));
		return 1;
	}
	ret = evering_send(ev[0], "hello", 5, EVERING_NOWAIT);
	if (!ret)
		ret = evering_recv(ev[1], text, 5, EVERING_NOWAIT);
	evering_close(ev[0]);
	evering_close(ev[1]);
	if (ret) {
		fprintf(stderr, "%s\n", strerror(-ret));
		return 1;
	}
	printf("%.5s %s\n", text, evering_version());
	return 0;
}
END

# pkg LIBDIR ARGUMENT...: pkg-config, which knows of what is there alone.
pkg() {
	PKG_CONFIG_LIBDIR=$1/pkgconfig pkg-config "${@:2}" evering
}

# sysroot ARGUMENT...: of what was installed for /usr and lies elsewhere.
sysroot() {
	PKG_CONFIG_SYSROOT_DIR=$tmp/usr pkg "$tmp/usr/usr/lib" "$@"
}

says_hello() {
	local said
	said=$("$@") && [[ $said == "hello $version" ]] && return
	echo "$* says '$said'"
	return 1
}

# compile COMPILER OUTPUT FLAGS...: as a stranger to these sources would.
compile() {
	"$1" -Wall -Wextra -Werror -o "$2" "${@:3}"
}

# needs FILE: the libraries that it names.
needs() {
	readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}

pc_version() {
	need pkg-config
	[[ $(sysroot --modversion) == "$version" ]] && sysroot --validate
}

shared() {
	local flags
	need pkg-config
	need "$cc"
	read -ra flags < <(sysroot --cflags --libs)
	compile "$cc" "$tmp/shared" -std=c11 -pedantic "$tmp/program.c" "${flags[@]}" ||
		return
	needs "$tmp/shared" | grep -qx libevering.so.0 || {
		echo "it does not ask for libevering.so.0"
		return 1
	}
	says_hello env LD_LIBRARY_PATH="$tmp/usr/usr/lib" "$tmp/shared"
}

cplusplus() {
	local flags
	need pkg-config
	need "$cxx"
	read -ra flags < <(sysroot --cflags --libs)
	compile "$cxx" "$tmp/cplusplus" -x c++ "$tmp/program.c" -x none "${flags[@]}" &&
		says_hello env LD_LIBRARY_PATH="$tmp/usr/usr/lib" "$tmp/cplusplus"
}

static() {
	local flags
	need pkg-config
	need "$cc"
	read -ra flags < <(sysroot --static --cflags --libs)
	compile "$cc" "$tmp/static" -static "$tmp/program.c" "${flags[@]}" || return
	[[ ! $(needs "$tmp/static") ]] && says_hello "$tmp/static"
}

# A tree that was moved as a whole after it had been installed.
moved() {
	local flags
	need pkg-config
	need "$cc"
	make_ install "$tmp/stage" PREFIX=/opt/evering &&
		mv "$tmp/stage/opt/evering" "$tmp/moved" &&
		rm -r "$tmp/stage" || return
	read -ra flags < <(pkg "$tmp/moved/lib" --define-prefix --cflags --libs)
	compile "$cc" "$tmp/elsewhere" "$tmp/program.c" "${flags[@]}" &&
		says_hello env LD_LIBRARY_PATH="$tmp/moved/lib" "$tmp/elsewhere"
}

# ------------------------------------------------------------------------ removing

uninstalls() {
	make_ uninstall "$tmp/usr" PREFIX=/usr &&
		make_ uninstall "$tmp/local" &&
		make_ uninstall "$tmp/multi" PREFIX=/usr LIBDIR=/usr/lib/some-linux-gnu ||
		return
	[[ ! $(find "$tmp"/{usr,local,multi} ! -type d) ]] && return
	find "$tmp"/{usr,local,multi} ! -type d
	return 1
}

# What others put beside it stays.
leaves_others() {
	local others=(usr/include/linux/other.h usr/lib/libevering.so.1
		usr/share/man/man3/other.3 usr/bin/evering-other)
	make_ install "$tmp/shared-with" PREFIX=/usr || return
	(cd "$tmp/shared-with" && touch "${others[@]}") &&
		make_ uninstall "$tmp/shared-with" PREFIX=/usr || return
	(cd "$tmp/shared-with" && find . ! -type d | sed 's|^\./||' | sort) |
		diff <(printf '%s\n' "${others[@]}" | sort) -
}

# ------------------------------------------------------------------------- releasing

# The same archive for everybody, of what is committed.
dist() {
	local name
	need git
	[[ -e .git ]] || skip 'no clone'
	git -c safe.directory="$PWD" rev-parse -q --verify HEAD >/dev/null || skip 'no commit'
	(umask 077 && TZ=Asia/Tokyo tools/packaging/dist "$tmp/one" 2>/dev/null) >/dev/null &&
		GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=tar.umask GIT_CONFIG_VALUE_0=0077 \
			tools/packaging/dist "$tmp/two" >"$tmp/said" 2>/dev/null || return
	name=$(<"$tmp/said")
	cmp "$tmp/one/${name##*/}" "$name" && tar -xzf "$name" -C "$tmp" || return
	name=$tmp/$(basename "$name" .tar.gz)
	git -c safe.directory="$PWD" ls-tree -r --name-only HEAD | LC_ALL=C sort |
		diff - <(cd "$name" && find . ! -type d | sed 's|^\./||' | LC_ALL=C sort) || return
	[[ ${name##*/} == "evering-$(make -sC "$name" version)" ]] || return
	# Its packages are dated by it.
	grep -qx "time $(git -c safe.directory="$PWD" log -1 --format=%ct)" \
		"$name/tools/packaging/released"
}

# Of a release there is none to make.
dist_elsewhere() {
	mkdir -p "$tmp/no-clone/tools/packaging" &&
		cp tools/packaging/dist "$tmp/no-clone/tools/packaging" || return
	! "$tmp/no-clone/tools/packaging/dist" >"$tmp/said" 2>&1 &&
		[[ $(<"$tmp/said") == *'not a clone'* && ! -e $tmp/no-clone/build ]]
}

# ------------------------------------------------------------------------------ all

echo 'TAP version 13'
check 'install: everything, and nothing else' installs
check 'install: PREFIX and LIBDIR' installs_elsewhere
check 'install: twice' installs_again
check 'install: DESTDIR with blanks' blanks
check 'install: modes do not hang on umask' modes
check 'man pages' pages
check 'evering runs' program
check 'pkg-config: version' pc_version
check 'a program with the shared library' shared
check 'a program in C++' cplusplus
check 'a program with the static library' static
check 'pkg-config: a tree that was moved' moved
check 'uninstall leaves nothing' uninstalls
check 'uninstall leaves what is not ours' leaves_others
check 'dist: the same archive, with all that is committed' dist
check 'dist: not without git' dist_elsewhere
plan
