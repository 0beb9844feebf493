# SPDX-License-Identifier: MIT
#
# The way in: `make run`, `make test`, `make help`.
#
# Whatever is made lies in $(BUILD), except for the module, which Kbuild leaves
# at the top.  The targets that run something set up their own prerequisites
# (tools/setup); the others only build, and need no more than a compiler and
# OpenSSL's headers.
#
#	ARGS=...	for what `make run`, speed, alloc, bench, icount, model and
#			fuzz run
#	TESTS=...	names of the selftests to run instead of all
#	BUILD=dir	where to build instead of build
#	CFLAGS=...	instead of -O2 -g; TEST_CFLAGS=... more of them, for the selftests
#	CXXFLAGS=...	more of them, for C++
#	KDIR=dir	headers of the kernel that the module is for
#	CROSS_COMPILE=...	what compilers of another architecture begin with, as
#			aarch64-linux-gnu-; SYSROOT=dir where its libraries are
#	PREFIX=dir	where to install instead of /usr/local; DESTDIR=dir before it
#	SOURCEDIR=dir	what `evering run` sends if not told, instead of here
#	SANITIZE=...	for -fsanitize=; with another BUILD
#	VM_TESTS=...	as TESTS, in guests alone
#	V=1		show whole commands
#	WERROR=1	a warning is an error

# Of the headers, which are not there where DKMS builds the module alone.
VERSION := $(shell awk '$$2 ~ /^EVERING_VERSION_(MAJOR|MINOR|PATCH)$$/ \
	{ printf "%s%s", dot, $$3; dot = "." }' $(wildcard lib/evering.h) /dev/null)
SONAME := libevering.so.0
FFI_SONAME := libevering-ffi.so.0

BUILD ?= build
KSELFTEST_DIR ?= build/kselftest
KDIR ?= /lib/modules/$(shell uname -r)/build
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
COMPLETION ?= $(PREFIX)/share/bash-completion/completions
UDEVRULES ?= $(PREFIX)/lib/udev/rules.d
MODULESLOAD ?= $(PREFIX)/lib/modules-load.d
SOURCEDIR ?= $(CURDIR)
CFLAGS ?= -O2 -g
OBJCOPY ?= $(CROSS_COMPILE)objcopy
ifeq ($(origin CC),default)
CC := $(CROSS_COMPILE)gcc
endif
ifneq ($(CROSS_COMPILE),)
AR := $(CROSS_COMPILE)ar
CXX := $(CROSS_COMPILE)g++
ifeq ($(shell command -v $(firstword $(CC))),)
$(error no $(firstword $(CC)) here: apt-get install gcc-$(CROSS_COMPILE:%-=%))
endif
endif
# Where headers of other libraries are, if they are.
include_dir := $(if $(CROSS_COMPILE),$(SYSROOT:%=%/usr/include),/usr/include)

MAKEFLAGS += --no-print-directory -r
.DELETE_ON_ERROR:

# gcc's TSan knows no fences, says so at each, and needs none of evering's.
sanitize := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all \
	-fno-omit-frame-pointer $(if $(findstring thread,$(SANITIZE)), \
	$(if $(findstring clang,$(CC)),,-Wno-tsan)))

# A file's offset has 64 bits everywhere: the device's regions are 1 TiB apart.
flags := -std=gnu11 -D_GNU_SOURCE= -D_FILE_OFFSET_BITS=64 -Iuapi -Ilib -Wall -Wextra \
	-Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wvla \
	$(if $(WERROR),-Werror) -fvisibility=hidden -pthread $(sanitize)
sysroot := $(SYSROOT:%=--sysroot=%)
compile = $(CC) $(sysroot) $(CPPFLAGS) $(flags) $(CFLAGS) -MMD -MP
link = $(CC) $(sysroot) -pthread $(sanitize) $(CFLAGS) $(LDFLAGS)

obj := $(BUILD)/obj
static := $(BUILD)/libevering.a
shared := $(BUILD)/libevering.so.$(VERSION)
ffi := $(BUILD)/libevering-ffi.so.$(VERSION)
lib_objs := $(patsubst %.c,$(obj)/%.o,$(wildcard lib/*.c))
# One program, with its bench, but for these.
alone := tools/bench/speed.c tools/bench/alloc.c
# Without liburing's headers the bench does without; the library is linked in, so
# that who runs evering need not have it.
have_uring := $(wildcard $(include_dir)/liburing.h)
alone += $(if $(have_uring),,tools/bench/uring.c tools/bench/many_uring.c)
tool_objs := $(patsubst %.c,$(obj)/%.o, \
	$(filter-out $(alone),$(wildcard tools/evering/*.c tools/bench/*.c)))
# Without libfabric's headers there is no relay.
have_fabric := $(wildcard $(include_dir)/rdma/fabric.h)
relay_objs := $(patsubst %.c,$(obj)/%.o,$(wildcard tools/relay/*.c)) \
	$(addprefix $(obj)/tools/evering/,options.o process.o util.o)
programs := $(BUILD)/evering $(if $(have_fabric),$(BUILD)/evering-relay) $(BUILD)/speed \
	$(BUILD)/alloc
example_programs := $(patsubst tools/examples/%.c,$(BUILD)/examples/%, \
	$(wildcard tools/examples/*.c))
# Examples that want more than the library, each where there is what it wants.
loop_programs := $(addprefix $(BUILD)/examples/,$(if $(have_uring),loop_uring) \
	$(if $(wildcard $(include_dir)/uv.h),loop_uv) \
	$(if $(shell command -v $(CXX)),worker))
# Those of the device need the module and no library, the others the library.
device_tests := $(basename $(notdir $(wildcard selftests/device/*.c)))
test_names := $(device_tests) $(basename $(notdir $(filter-out $(if $(have_uring),, \
	selftests/library/uring.c),$(wildcard selftests/library/*.c))))
test_programs := $(addprefix $(BUILD)/selftests/,$(test_names))
headers := $(notdir $(wildcard lib/evering*.h lib/evering*.hpp))
kernel_headers := $(notdir $(wildcard uapi/linux/*.h))
man_pages := $(patsubst lib/man/%,%,$(wildcard lib/man/man[1-9]/*))
test_scripts := $(filter-out common.sh relay_common.sh,$(notdir $(wildcard selftests/scripts/*.sh)))

ifeq ($(V),1)
say = @:
else
Q := @
say = @echo '  $1'
endif

comma := ,

# For a sub-make: all CPUs, unless this make was told how many jobs to run.
jobs = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: all
all: library tools module-if-possible ## build everything that can be built here (the default)
	@echo 'built: $(BUILD)/evering, $(static), $(shared)'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' \
		Makefile
	@echo
	@sed -n 's/^#\t/  /p' Makefile | expand -t8

# The guide, as a manual page.
guide_page := $(BUILD)/man/man7/evering-guide.7

.PHONY: guide
guide: $(guide_page) ## make evering-guide(7) of tools/doc/guide.md
	@:

$(guide_page): tools/doc/guide.md tools/doc/guide-man lib/man/man7/evering.7
	@mkdir -p $(@D)
	$(call say,MAN $@)
	$(Q)tools/doc/guide-man $(VERSION) >$@

# ------------------------------------------------------------------- building

.PHONY: library
library: $(static) $(BUILD)/libevering.so $(BUILD)/libevering-ffi.so ## build the library, static and shared
	@:

.PHONY: tools
tools: $(programs) ## build evering and the other programs
	@:

$(lib_objs) $(obj)/lib/ffi/ffi.o $(tool_objs) $(obj)/tools/bench/speed.o \
		$(obj)/tools/bench/alloc.o $(filter $(obj)/tools/relay/%,$(relay_objs)): \
		$(obj)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(compile) $(extra) -c -o $@ $<

$(lib_objs) $(obj)/lib/ffi/ffi.o: private extra = -fPIC -fno-semantic-interposition \
	$(if $(is_clang),-fno-lto)
$(tool_objs): private extra := -DEVERING_SOURCE_DIR="\"$(SOURCEDIR)\""

# With -flto what an object defines is known when the compiler has made code of all of
# them: gcc does so where the static library is put together.  clang cannot, and makes
# its objects without.
lto := $(filter -flto%,$(CFLAGS) $(LDFLAGS))
is_clang := $(if $(lto),$(findstring clang,$(shell $(CC) --version)))
relink := $(CC) $(CFLAGS) -r -nostdlib -Wl,--force-group-allocation \
	$(if $(lto),$(if $(is_clang),-fno-lto,-flinker-output=nolto-rel))

# One object whose hidden symbols are local, so that the static library takes no names
# from the programs that link it but its own, evering_*.  Of what the compiler itself
# puts there once for a whole program, as on i386, it has its own copy.
$(static): $(lib_objs)
	@mkdir -p $(@D)
	$(call say,AR $@)
	$(Q)$(relink) -o $(obj)/libevering.o $^
	$(Q)$(OBJCOPY) --localize-hidden $(obj)/libevering.o
	$(Q)rm -f $@ && $(AR) rcs $@ $(obj)/libevering.o

# shared_library SONAME MAP OPTIONS: of the objects among what the target needs.
shared_library = $(link) -shared -Wl,-soname,$1 -Wl,--as-needed \
	$(if $(sanitize),,-Wl,-z,defs) -Wl,--version-script=$2 \
	-Wl,--no-undefined-version $3 -o $@ \
	$(filter %.o,$^)

$(shared): $(lib_objs) lib/evering.map
	@mkdir -p $(@D)
	$(call say,LD $@)
	$(Q)$(call shared_library,$(SONAME),lib/evering.map)

# As the other, and what is inline in C; calls from one of its functions to another
# stay in it, whatever else is in the program.
$(ffi): $(lib_objs) $(obj)/lib/ffi/ffi.o lib/ffi/evering-ffi.map
	@mkdir -p $(@D)
	$(call say,LD $@)
	$(Q)$(call shared_library,$(FFI_SONAME),lib/ffi/evering-ffi.map,-Wl$(comma)-Bsymbolic)

$(BUILD)/libevering.so $(BUILD)/libevering-ffi.so: $(BUILD)/%.so: \
		$(BUILD)/%.so.$(VERSION)
	$(Q)ln -sf $(<F) $@.$(basename $(basename $(VERSION)))
	$(Q)ln -sf $(@F).$(basename $(basename $(VERSION))) $@

$(BUILD)/evering: $(tool_objs) $(static)
	$(call say,LD $@)
	$(Q)$(link) -o $@ $^ -lcrypto -lm $(if $(have_uring),-l:liburing.a)

$(BUILD)/evering-relay: $(relay_objs) $(static)
	$(call say,LD $@)
	$(Q)$(link) -o $@ $^ -lfabric -lcrypto

$(BUILD)/speed $(BUILD)/alloc: $(BUILD)/%: $(obj)/tools/bench/%.o $(static)
	$(call say,LD $@)
	$(Q)$(link) -o $@ $^

# As their readers would build them: C11, and nothing but the library.
$(example_programs): $(BUILD)/examples/%: tools/examples/%.c $(static) Makefile
	@mkdir -p $(@D) $(obj)/tools/examples
	$(call say,CC $<)
	$(Q)$(compile) -std=c11 -pedantic -MF $(obj)/tools/examples/$*.d \
		$(LDFLAGS) -o $@ $< $(static)

$(BUILD)/examples/loop_uring $(BUILD)/examples/loop_uv: $(BUILD)/examples/%: \
		tools/examples/loops/%.c $(static) Makefile
	@mkdir -p $(@D) $(obj)/tools/examples
	$(call say,CC $<)
	$(Q)$(compile) -std=c11 -pedantic -MF $(obj)/tools/examples/$*.d \
		$(LDFLAGS) -o $@ $< $(static) $(libs)

$(BUILD)/examples/loop_uring: private libs := -l:liburing.a
$(BUILD)/examples/loop_uv: private libs := -luv

$(BUILD)/examples/worker: tools/examples/loops/worker.cpp $(static) Makefile
	@mkdir -p $(@D) $(obj)/tools/examples
	$(call say,CXX $<)
	$(Q)$(CXX) $(CPPFLAGS) -std=c++20 -Iuapi -Ilib -Wall -Wextra \
		$(if $(WERROR),-Werror) -pthread $(sanitize) $(CFLAGS) $(CXXFLAGS) \
		-MMD -MP -MF $(obj)/tools/examples/worker.d $(LDFLAGS) -o $@ $< \
		$(static)

.PHONY: examples
examples: $(example_programs) $(loop_programs) ## build the examples of tools/examples
	@:

# What the bench compares with beside sockets, each where there is what it needs;
# what is missing is missing from the results, which say so.
peers := tools/bench/peers
peer_headers := $(wildcard $(addprefix /usr/include/,ck_ring.h dpdk/rte_ring.h \
	boost/lockfree/spsc_queue.hpp readerwriterqueue/readerwriterqueue.h))
dpdk_flags := $(if $(wildcard /usr/include/dpdk/rte_ring.h),$(addprefix \
	-isystem ,/usr/include/dpdk $(wildcard /usr/include/*-linux-gnu*/dpdk)) \
	-include rte_config.h $(if $(wildcard /usr/include/x86_64*),-march=corei7))

.PHONY: bench-programs
bench-programs: $(BUILD)/evering
	@if command -v $(CXX) >/dev/null; then $(MAKE) $(BUILD)/bench/queues; \
		else echo '$(BUILD)/bench/queues: not built: no $(CXX)'; fi
	@$(MAKE) $(BUILD)/bench/messages
	@if command -v cargo >/dev/null; then $(MAKE) $(BUILD)/bench/rust-peers || \
		echo '$(BUILD)/bench/rust-peers: not built: see above'; \
		else echo '$(BUILD)/bench/rust-peers: not built: no cargo'; fi

# Libraries that carry messages: name of the arm, header, what to link.
message_arms := zeromq:zmq.h:-lzmq nng:nng/nng.h:-lnng \
	ucx:ucp/api/ucp.h:-lucp,-lucs libfabric:rdma/fabric.h:-lfabric
message_have := $(foreach arm,$(message_arms),$(if $(wildcard \
	/usr/include/$(word 2,$(subst :, ,$(arm)))),$(arm)))
message_sources := messages $(foreach arm,$(message_have),$(firstword \
	$(subst :, ,$(arm))))
message_libs := $(subst $(comma), ,$(foreach arm,$(message_have),$(lastword \
	$(subst :, ,$(arm)))))
message_objs := $(patsubst %,$(obj)/$(peers)/%.o,$(message_sources)) \
	$(addprefix $(obj)/tools/,bench/run.o bench/sum.o bench/crowd.o bench/peer.o \
	evering/process.o evering/util.o)

$(obj)/$(peers)/%.o: $(peers)/%.c Makefile
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(compile) -c -o $@ $<

$(BUILD)/bench/messages: $(message_objs) $(BUILD)/bench/headers
	$(call say,LD $@)
	$(Q)$(link) -o $@ $(message_objs) $(message_libs) -lm

# Those headers that are there, so that one that comes later is noticed.
$(BUILD)/bench/headers: .FORCE
	@mkdir -p $(@D)
	@echo '$(peer_headers) $(message_have)' | cmp -s - $@ || \
		echo '$(peer_headers) $(message_have)' >$@

.PHONY: .FORCE
.FORCE:

$(BUILD)/bench/queues: $(peers)/queues.cpp tools/evering/hist.h $(BUILD)/bench/headers
	$(call say,CXX $<)
	$(Q)$(CXX) -std=c++17 -O2 -g -Wall -Wextra $(if $(WERROR),-Werror) \
		$(dpdk_flags) -pthread -o $@ $<

$(BUILD)/bench/rust-peers: $(wildcard $(peers)/src/*.rs) $(peers)/Cargo.toml \
		$(peers)/Cargo.lock
	$(call say,CARGO $(peers))
	@mkdir -p $(@D)
	$(Q)cargo build $(if $(V),,--quiet) --release --locked \
		--manifest-path $(peers)/Cargo.toml --target-dir $(BUILD)/bench/cargo
	$(Q)cp $(BUILD)/bench/cargo/release/rust-peers $@

$(BUILD)/selftests/uring: private libs := -l:liburing.a

# The kernel's test harness is a system header, so that its warnings are not ours;
# but what its macros define has no prototype, and parameters that nobody uses.
compile_test = $(Q)mkdir -p $(@D) $(obj)/$(<D); $(compile) $(TEST_CFLAGS) -Iselftests \
	-MF $(obj)/$(<D)/$*.d -isystem $(KSELFTEST_DIR) -Wno-missing-prototypes \
	-Wno-unused-parameter $(LDFLAGS) -o $@ $<

$(device_tests:%=$(BUILD)/selftests/%): $(BUILD)/selftests/%: selftests/device/%.c Makefile \
		$(KSELFTEST_DIR)/kselftest_harness.h
	$(call say,CC $<)
	$(compile_test)

$(filter-out $(device_tests:%=$(BUILD)/selftests/%),$(test_programs)): $(BUILD)/selftests/%: \
		selftests/library/%.c $(static) Makefile $(KSELFTEST_DIR)/kselftest_harness.h
	$(call say,CC $<)
	$(compile_test) $(static) $(libs)

$(KSELFTEST_DIR)/kselftest_harness.h:
	@echo >&2 '$@ is missing: run `tools/setup test`, or' \
		'say where it is with KSELFTEST_DIR='
	@exit 1

# Programs of 32 bits, which meet those of 64 in m32.sh: the compiler that makes the
# others has to know how, and Debian's to be told where the kernel's headers are.  gcc's
# alone: clang warns of loads of a 64-bit counter, which has the alignment of 32 there.
m32_programs := $(addprefix $(BUILD)/m32/,examples/echo examples/kv selftests/abi \
	selftests/geometry)
ifeq ($(SANITIZE)$(M32)$(CROSS_COMPILE)$(findstring coverage,$(CFLAGS))$(findstring clang,$(CC)),)
have_m32 := $(wildcard $(shell $(CC) -m32 -print-libgcc-file-name 2>/dev/null))
endif

.PHONY: m32
m32: ## build programs of 32 bits, for a test
	$(Q)$(MAKE) M32=1 BUILD=$(BUILD)/m32 CC='$(CC) -m32' have_uring= \
		CPPFLAGS='$(CPPFLAGS) -idirafter /usr/include/$(shell $(CC) -print-multiarch)' \
		$(m32_programs)

# What has little to do with how the library was compiled, and what no machine without the
# module runs: not under sanitizers; and not under TSan what has no threads of its own, of
# which alone it has something to say.
native_only := bench.sh kselftest.sh loops.sh m32.sh man.sh relay.sh relay_net.sh vm.sh \
	$(if $(wildcard /dev/evering),,$(device_tests) dev_fuzz_port dev_unload evnet port)
no_threads = cxx.sh install.sh $(basename $(notdir $(shell grep -L -e pthread_create \
	-e evering_connect_many $(wildcard selftests/*/*.c))))
sanitized_out = $(if $(SANITIZE),$(native_only) $(if $(findstring thread,$(SANITIZE)),$(no_threads)))

# named_tests NAMES: what is built of them; scripts want everything.
named_tests = $(if $(filter %.sh,$1),selftests) test-list library \
	$(addprefix $(BUILD)/selftests/,$(filter-out %.sh,$1))

ksft := $(BUILD)/ksft/stamp
# Compiled as programs usually are here.
plain := $(if $(SANITIZE)$(M32)$(CROSS_COMPILE)$(findstring coverage,$(CFLAGS))$(findstring \
	clang,$(CC)),,1)

.PHONY: selftests
selftests: test-list library tools examples $(filter-out $(addprefix $(BUILD)/selftests/, \
	$(sanitized_out)),$(test_programs)) $(if $(have_m32),m32) $(if $(plain),$(ksft)) ## build the selftests without running them

# Those of the device once more, by the kernel's rules, for kselftest.sh: as old as the
# tests, or not there.
$(ksft): $(wildcard selftests/device/*) selftests/base.h selftests/module.h selftests/Makefile \
		$(wildcard uapi/linux/*.h)
	$(Q)rm -rf $(BUILD)/ksft
	$(Q)! command -v rsync >/dev/null || ! [ -e $(KSELFTEST_DIR)/lib.mk ] || \
		$(MAKE) -s -C selftests install BUILD=$(abspath $(BUILD)) \
			KSELFTEST_DIR=$(abspath $(KSELFTEST_DIR)) >/dev/null
	@mkdir -p $(@D)
	@touch $@

.PHONY: test-list
test-list:
	@mkdir -p $(BUILD)/selftests
	@printf '%s\n' $(sort $(filter-out $(sanitized_out),$(test_names) $(test_scripts))) \
		>$(BUILD)/selftests/list

# Why the module cannot be built, in a sentence, or nothing if it can.
kernel_release = $(shell cat '$(KDIR)/include/config/kernel.release' 2>/dev/null)
too_old := 0.% 1.% 2.% 3.% 4.% 5.% 6.0 6.0.% 6.0-% 6.0+%
no_module = $(strip $(if $(wildcard kmod/*.c),,kmod/ holds no source) \
	$(if $(wildcard $(KDIR)/Makefile),$(if $(kernel_release), \
		$(if $(filter $(too_old),$(kernel_release)),Linux $(kernel_release) is too \
			old: evering needs 6.1 or later), \
		$(KDIR) is no kernel tree that modules can be built for), \
	no kernel headers in $(KDIR) (KDIR= names another place)))

.PHONY: modules module-if-possible
modules: ## build evering.ko, evnet.ko and evering_echo.ko for the running kernel, or for KDIR=
ifneq ($(no_module),)
	@echo >&2 'evering.ko: not built: $(no_module)'
	@exit 1
else
	$(Q)$(MAKE) -C $(KDIR) M=$(CURDIR) modules
endif

module-if-possible:
ifeq ($(no_module),)
	$(Q)$(MAKE) modules
else
	@$(MAKE) modules 2>&1 | head -n 1
endif

# -------------------------------------------------------------------- running

.PHONY: run
run: ## exchange a real directory between two processes (ARGS= for `evering run`)
	@tools/setup run
	@$(MAKE) $(jobs) $(BUILD)/evering
	@$(BUILD)/evering run $(ARGS)

.PHONY: speed
speed: ## measure, and print the figures (ARGS= for build/speed)
	@tools/setup run speed
	@$(MAKE) $(jobs) $(BUILD)/speed
	@$(BUILD)/speed $(ARGS)

bench_out := $(BUILD)/bench

.PHONY: bench
bench: ## time evering beside other systems, under 10 minutes (ARGS= for `evering bench`)
	@tools/setup run bench
	@$(MAKE) $(jobs) $(BUILD)/evering
	@$(MAKE) $(jobs) bench-programs
	@$(BUILD)/evering bench --rounds=3,15 --budget=480 --channels=1,16 --output=$(bench_out)/results.jsonl \
		--plot=$(bench_out)/plots $(ARGS) >$(bench_out)/results.txt; \
		status=$$?; cat $(bench_out)/results.txt; exit $$status

.PHONY: bench-full
bench-full: ## the same with every policy and size, for some hours
	@tools/setup run bench
	@$(MAKE) $(jobs) $(BUILD)/evering
	@$(MAKE) $(jobs) bench-programs
	@$(BUILD)/evering bench --full --output=$(bench_out)/full.jsonl \
		--plot=$(bench_out)/full-plots $(ARGS) >$(bench_out)/full.txt; \
		status=$$?; cat $(bench_out)/full.txt; exit $$status

.PHONY: bench-relay
bench-relay: ## time channels through two relays beside sockets through two proxies (ARGS= for `evering bench`)
	@tools/setup run bench
	@$(MAKE) $(jobs) $(filter %/evering %/evering-relay,$(programs)) $(BUILD)/bench/messages
	@$(BUILD)/evering bench --modes=relay --rounds=7,15 --round=50 --budget=300 \
		--output=$(bench_out)/relay.jsonl $(ARGS)

# picture FROM NAME TITLE: into tools/doc, with its license, its title, no trailing blanks.
picture = sed -e '1a <!-- SPDX-License-Identifier: MIT. Drawn by make pictures. -->' \
	-e 's/ *$$//' -e 's|<title>Gnuplot</title>|<title>$3</title>|' $1 >tools/doc/$2

.PHONY: pictures
pictures: ## measure anew, and draw tools/doc/speed.svg and fair.svg (ARGS= for `evering bench`)
	@tools/setup run bench
	@$(MAKE) $(jobs) $(BUILD)/evering bench-programs
	@$(BUILD)/evering bench --speed --rounds=41 --round=5 --plot=$(bench_out)/speed $(ARGS)
	@$(BUILD)/evering bench --modes=fair --rounds=5 --round=10 --plot=$(bench_out)/fair $(ARGS)
	$(call picture,$(bench_out)/speed/speed.svg,speed.svg,a message to another process and one back)
	$(call picture,$(bench_out)/fair/fair_all.svg,fair.svg,fair: time of an operation$(comma) by bytes)

.PHONY: alloc
alloc: ## measure a buffer's cost beside malloc's and mimalloc's (ARGS= for build/alloc)
	@tools/setup run alloc
	@$(MAKE) $(jobs) $(BUILD)/alloc
	@$(BUILD)/alloc $(ARGS)

# Optimised less, which takes half as long to compile, with lines for their reports; the
# tests themselves not at all, which takes half of that again.
asan := BUILD=$(BUILD)/asan SANITIZE=address,undefined CFLAGS='-O1 -g1' TEST_CFLAGS=-O0
tsan := BUILD=$(BUILD)/tsan SANITIZE=thread CFLAGS='-O1 -g1' TEST_CFLAGS=-O0
VM_TESTS ?= $(TESTS)
vm_tests = $(if $(VM_TESTS),-- $(VM_TESTS))

# What several targets passed and failed, in one sum.  No shell is in between here,
# nor below: it would keep signals to itself.
sum_up = @tools/check/sum-up $(MAKE)

.PHONY: test
test: ## run the selftests: natively, under ASan and UBSan, under TSan, in guests
	@tools/setup run test vm $(if $(CI),reach)
	$(sum_up) test-here test-vm test-reach-part

# Tests wait a good deal: all three at once.
.PHONY: test-here
test-here: ## run the selftests natively, under ASan and UBSan, and under TSan
	@tools/setup run test
	@tools/check/sum-up --together $(MAKE) test-native test-asan test-tsan

.PHONY: test-native
test-native: ## run the selftests natively
	@tools/setup run test
	@$(MAKE) $(jobs) $(if $(CI),WERROR=1) selftests
	@$(if $(CI),EVERING_SOAK=$${EVERING_SOAK:-30} )tools/check/run-selftests $(BUILD)/selftests

.PHONY: test-asan
test-asan: ## run the selftests under ASan and UBSan
	@tools/setup run test
	@$(MAKE) $(jobs) $(asan) selftests
	@tools/check/run-selftests $(BUILD)/asan/selftests

.PHONY: test-tsan
test-tsan: ## run the selftests under TSan
	@tools/setup run test
	@$(MAKE) $(jobs) $(tsan) selftests
	@tools/check/run-selftests $(BUILD)/tsan/selftests

# Scripts test programs rather than kernels: in guests one kernel is enough for each.
# kselftest.sh runs dev_*, which 6.12 so need not run once more.  kill steps through
# programs, each step a trap, and does so on memfd without a guest.
elsewhere_6.12 := bench.sh relay relay.sh run.sh tools.sh vm.sh listener stranger memory \
	$(if $(wildcard $(BUILD)/ksft/install/run_kselftest.sh),$(device_tests))
elsewhere_6.1 := kill kselftest.sh netd.sh relay relay.sh relay_net.sh examples.sh loops.sh \
	trace.sh m32.sh vm.sh signals
# memfd is not in the module, and tested without a guest: here only where kernels differ in
# what it is made of; not if one backend was asked for.
backends_6.1 := $(if $(filter undefined,$(origin EVERING_BACKEND)),$(foreach test,adopt connect \
	limits listener meet memory pressure seccomp stranger syscalls,$(test)=))
backends_7.3 := $(backends_6.1) $(if $(backends_6.1),$(foreach test,death doorbell poll ring wait, \
	$(test)=))
# The debug kernels look at the module while it is used in every way, and take ten times
# as long: what calls more of the library than of the module is left to the others, and so
# are the arguments that dev_ioctl tries one by one.
elsewhere_debug := dev_ioctl $(filter-out dev_% crowd death doorbell evnet group_file grow poll \
	port pressure soak uring wait,$(test_names) $(test_scripts))
# KCSAN, which CI has no time for, has the rest of them that several tasks run.
elsewhere_kcsan := $(filter-out group lanes leak op_duo owner replace ring server, \
	$(elsewhere_debug))
guest_tests = $(or $(vm_tests),-- $(filter-out $(elsewhere_$1), \
	$(sort $(test_names) $(test_scripts))))

# A guest keeps little more than one CPU busy: both at once.
.PHONY: test-vm test-vm-6.12 test-vm-6.1
test-vm: ## run the selftests in guests of 6.12 and 6.1 (VM_TESTS=names)
	@tools/setup run test vm
	@$(MAKE) $(jobs) selftests
	@tools/check/sum-up --together $(MAKE) guest-6.12 guest-6.1

test-vm-6.12 test-vm-6.1: test-vm-%:
	@tools/setup run test vm
	@$(MAKE) $(jobs) selftests
	@$(MAKE) guest-$*

.PHONY: guest-6.12 guest-6.1
guest-6.12 guest-6.1: export EVERING_BACKEND ?= device
guest-6.1: export EVERING_BACKENDS ?= $(backends_6.1)
guest-7.3 guest-arm64: export EVERING_BACKENDS ?= $(backends_7.3)
guest-6.12 guest-6.1: guest-%:
	@tools/check/vm test $* $(call guest_tests,$*)

# Kernels and machines that users have and this Debian has not: what their guests want
# comes from other suites and architectures.  `make test` runs a part of the suite there,
# a minute or so of what is most about the kernel and the processor, in CI always, and
# elsewhere where `make test-reach` has been: newcomers need fetch nothing.
reach := 7.3 rt arm64
reach_part := $(filter $(test_names),abi death dev_enter dev_grow dev_life dev_mmap dev_poll op \
	port ring uring wait)
# Of scripts those stay that are about the kernel.
elsewhere_7.3 := kill $(filter-out m32.sh netd.sh trace.sh,$(test_scripts)) relay
elsewhere_rt := $(elsewhere_7.3) listener memory stranger
elsewhere_arm64 := $(filter-out kill,$(elsewhere_7.3)) m32.sh

.PHONY: test-reach test-reach-part
test-reach: ## run the selftests in guests of 7.3, of 6.12 with PREEMPT_RT and of arm64
	@tools/setup run test vm reach
	@$(MAKE) $(jobs) selftests
	@REACH=1 tools/check/sum-up --together $(MAKE) $(reach:%=guest-%)

test-reach-part:
	@$(MAKE) $(jobs) $(call named_tests,$(or $(VM_TESTS),$(reach_part)))
	@VM_TESTS='$(or $(VM_TESTS),$(reach_part))' EVERING_BACKENDS='ring= wait=' \
		tools/check/sum-up --together $(MAKE) $(reach:%=guest-%)

# For CI, beside the tests: what they wait for is mostly somebody else's network.
.PHONY: reach-kernels
reach-kernels: $(reach:%=reach-kernel-%)
	@echo '0 passed, 0 failed, 0 skipped'
.PHONY: $(reach:%=reach-kernel-%)
$(reach:%=reach-kernel-%): reach-kernel-%:
	@-nice tools/check/vm fetch $*

# build_arm64 TARGETS: for its guests, with the libraries that they have.
build_arm64 = sysroot=$$(tools/check/vm sysroot arm64) && \
	$(MAKE) $(jobs) $(if $(CI),WERROR=1) BUILD=$(BUILD)/arm64 SYSROOT="$$sysroot" \
		CROSS_COMPILE=aarch64-linux-gnu- $(patsubst $(BUILD)/%,$(BUILD)/arm64/%,$1)

.PHONY: guest-7.3 guest-rt guest-arm64
guest-7.3 guest-rt guest-arm64: export EVERING_BACKEND ?= device
guest-7.3 guest-rt guest-arm64: guest-%:
	@why=$$(tools/check/vm $(if $(CI)$(REACH),fetch,have) $* 2>&1); case $$? in \
	0) ;; \
	4) echo "ok 1 guest-$* # SKIP $$(echo "$$why" | tail -n 1)"; \
		echo '0 passed, 0 failed, 1 skipped'; exit ;; \
	*) echo "not ok 1 guest-$*: $$why"; exit 1 ;; \
	esac; \
	$(if $(filter arm64,$*),$(call build_arm64,$(if $(VM_TESTS),$(call \
		named_tests,$(VM_TESTS)),selftests)) &&) \
	exec tools/check/vm test $* $(call guest_tests,$*)

# One test, while one works at it: `make guest TESTS=ring` takes 15 to 30 seconds.
KERNEL ?= 6.12
BACKEND ?= device
guest_needs = $(if $(TESTS),$(call named_tests,$(TESTS)),selftests)
.PHONY: guest
guest: ## run TESTS= in one guest, in seconds (KERNEL=6.1|6.12|7.3|rt|arm64|debug, BACKEND=memfd)
	@tools/setup run test vm $(if $(filter debug kcsan,$(KERNEL)),debug) \
		$(if $(filter arm64,$(KERNEL)),reach)
	@$(if $(filter arm64,$(KERNEL)),$(call build_arm64,$(guest_needs)),$(MAKE) $(jobs) \
		$(guest_needs))
	@EVERING_BACKEND=$(BACKEND) tools/check/vm test $(KERNEL) $(vm_tests)

.PHONY: test-debug
test-debug: ## run the selftests in guests with KASAN, lockdep and fault injection
	@tools/setup run test vm debug
	@$(MAKE) $(jobs) selftests
	@tools/check/vm debug-kernel
	@tools/check/sum-up --together $(MAKE) guest-debug-1 guest-debug-2

# One of them alone leaves half a CPU idle, and most of the other while modules are
# taken out, which that kernel draws out: a new test goes to the first of the two.
second_debug := $(filter death dev_failnth dev_group dev_life dev_unload doorbell pressure, \
	$(test_names))
debug_tests_1 = $(filter-out $(second_debug),$(filter-out --,$(call guest_tests,debug)))
debug_tests_2 = $(filter $(second_debug),$(filter-out --,$(call guest_tests,debug)))

.PHONY: guest-debug-1 guest-debug-2
guest-debug-1 guest-debug-2: export EVERING_BACKEND ?= device
guest-debug-1 guest-debug-2: guest-debug-%:
	@$(if $(debug_tests_$*),EVERING_VM_PART=$* tools/check/vm test debug -- $(debug_tests_$*), \
		echo '0 passed, 0 failed, 0 skipped')

# With nothing but what the CPUs have left over: for CI, beside the tests.
.PHONY: debug-kernel
debug-kernel: ## build the kernel of test-debug
	@tools/setup run vm debug
	@tools/check/vm debug-kernel >/dev/null
	@echo '0 passed, 0 failed, 0 skipped'

.PHONY: test-beside
test-beside: ## make test, and beside it what the other tests and it wait for
	@tools/check/sum-up --together $(MAKE) test debug-kernel $(if $(CI),reach-kernels)

.PHONY: test-kcsan
test-kcsan: ## run the selftests in a guest whose kernel finds data races (KCSAN)
	@tools/setup run test vm debug
	@$(MAKE) $(jobs) selftests
	@tools/check/vm debug-kernel kcsan
	@tools/check/vm test kcsan $(call guest_tests,kcsan)

.PHONY: coverage
coverage: ## branches of lib/ and kmod/ that the tests take (TESTS=, VM_TESTS=names)
	@tools/setup run test vm debug coverage
	@tools/check/coverage

.PHONY: soak
soak: ## everything at once, checked to the byte, for an hour (EVERING_SOAK=seconds)
	@tools/setup run test
	@$(MAKE) $(jobs) $(BUILD)/selftests/soak $(BUILD)/selftests/replace
	@EVERING_SOAK=$${EVERING_SOAK:-3600} $(BUILD)/selftests/soak
	@EVERING_SOAK=$${EVERING_SOAK:-600} $(BUILD)/selftests/replace \
		-t servers_are_killed_at_work

.PHONY: model
model: ## check models of the protocol with spin, and that they can fail (ARGS=--full)
	@tools/setup run model
	@tools/check/model/check $(ARGS)

.PHONY: fuzz
fuzz: ## fuzz the receiving paths with a hostile peer, until Ctrl-C (ARGS=--seconds=N)
	@tools/setup run fuzz
	@BUILD=$(BUILD) tools/check/fuzz/run $(ARGS)

.PHONY: test-fuzz
test-fuzz: ## the same for two minutes in all
	@tools/setup run fuzz
	@BUILD=$(BUILD) tools/check/fuzz/run --total=120

# A million system calls in guests of both kernels at once; then, for minutes, where
# KCOV leads.
.PHONY: fuzz-device fuzz-kernels
fuzz-device: ## fuzz the device in guests: a million calls, then led by KCOV in the debug kernel
	@tools/setup run test vm debug
	@$(MAKE) $(jobs) selftests
	@tools/check/vm debug-kernel >/dev/null
	@tools/check/sum-up $(MAKE) fuzz-kernels fuzz-debug

fuzz-kernels: ## the million calls alone (CI: 200,000)
	@tools/setup run test vm
	@$(MAKE) $(jobs) selftests
	@tools/check/sum-up --together $(MAKE) fuzz-6.12 fuzz-6.1

.PHONY: fuzz-6.12 fuzz-6.1 fuzz-debug
fuzz-6.12 fuzz-6.1: export EVERING_CALLS ?= $(if $(CI),100000,500000)
fuzz-debug: export EVERING_SECONDS ?= 150
fuzz-6.12 fuzz-6.1 fuzz-debug: export EVERING_VM_TEST_TIMEOUT ?= 1500
fuzz-6.12 fuzz-6.1 fuzz-debug: fuzz-%:
	@tools/check/vm test $* -- dev_fuzz dev_fuzz_port
	@sed -n 's/^# \([0-9]* \(system calls\|calls and\).*\); .*/$*: \1/p' build/vm/$*/tap

.PHONY: vm
vm: ## a shell in a guest with the module loaded
	@tools/setup run test vm
	@$(MAKE) $(jobs) selftests
	@tools/check/vm shell 6.12

.PHONY: icount
icount: ## evering bench in a guest, counting instructions (ARGS=)
	@tools/setup run vm
	@$(MAKE) $(jobs) tools
	@tools/check/vm icount 6.12 $(ARGS)

.PHONY: verify
verify: ## model and lint, both at once
	@tools/setup run model test vm lint abi
	@tools/check/sum-up --together $(MAKE) model lint

.PHONY: abi
abi: ## compare with the ABI that lib/evering.abi has (ARGS=--renew: write it there)
	@tools/setup run abi
	@tools/check/abi $(ARGS)

.PHONY: lint
lint: ## check style, headers, scripts and warnings
	@tools/setup run test vm lint abi
	@tools/check/lint

.PHONY: in-tree
in-tree: ## write a patch series for a kernel's own tree (KERNEL=dir; BRANCH=name; CHECK=1 builds and checks it)
	@tools/in-tree/write --branch=$(or $(BRANCH),evering) \
		'$(if $(filter file,$(origin KERNEL)),,$(KERNEL))' $(BUILD)/in-tree
	$(if $(CHECK),@tools/setup debug lint && \
		tools/in-tree/check '$(KERNEL)' $(BUILD)/in-tree)

# ----------------------------------------------------------------- installing

# So that pkg-config follows when the prefix as a whole has moved.
below_prefix = $(patsubst $(PREFIX)/%,$${prefix}/%,$1)

# to PATH: where it goes, for the shell; DESTDIR may have blanks in it.
to = "$(DESTDIR)$1"

.PHONY: version
version: ## print the version, which is that of lib/evering.h
	@echo '$(VERSION)'

.PHONY: install
install: library tools guide ## install all but the module, which DKMS or `make modules` brings
	install -d $(foreach dir,$(BINDIR) $(LIBDIR)/pkgconfig \
		$(INCLUDEDIR)/linux,$(call to,$(dir)))
	install -m 644 $(addprefix lib/,$(headers)) $(call to,$(INCLUDEDIR))
	install -m 644 $(addprefix uapi/linux/,$(kernel_headers)) \
		$(call to,$(INCLUDEDIR)/linux)
	install -m 644 $(static) $(call to,$(LIBDIR))
	install -m 755 $(shared) $(ffi) $(call to,$(LIBDIR))
	ln -sf $(notdir $(shared)) $(call to,$(LIBDIR)/$(SONAME))
	ln -sf $(SONAME) $(call to,$(LIBDIR)/libevering.so)
	ln -sf $(notdir $(ffi)) $(call to,$(LIBDIR)/$(FFI_SONAME))
	ln -sf $(FFI_SONAME) $(call to,$(LIBDIR)/libevering-ffi.so)
	for name in evering evering-ffi; do sed -e "s|@NAME@|$$name|" \
		-e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@LIBDIR@|$(call below_prefix,$(LIBDIR))|' \
		-e 's|@INCLUDEDIR@|$(call below_prefix,$(INCLUDEDIR))|' \
		lib/evering.pc.in | install -m 644 /dev/stdin \
		$(call to,$(LIBDIR)/pkgconfig/$$name.pc) || exit; done
	install -m 755 $(BUILD)/evering $(if $(have_fabric),$(BUILD)/evering-relay) \
		$(call to,$(BINDIR))
	install -D -m 644 $(guide_page) $(call to,$(MANDIR)/man7/evering-guide.7)
	install -D -m 644 tools/packaging/completion/evering $(call to,$(COMPLETION)/evering)
	install -D -m 644 tools/packaging/60-evering.rules \
		$(call to,$(UDEVRULES)/60-evering.rules)
	install -D -m 644 tools/packaging/evering.conf \
		$(call to,$(MODULESLOAD)/evering.conf)
	@# An alias, a link in the tree, becomes a .so request, which a compressed page suits.
	for page in $(man_pages); do \
		if target=$$(readlink lib/man/$$page); then \
			printf '.\\" SPDX-License-Identifier: MIT\n.so %s\n' \
				"$${page%/*}/$$target"; \
		else \
			cat lib/man/$$page; \
		fi | install -D -m 644 /dev/stdin $(call to,$(MANDIR)/$$page) || exit; \
	done
	$(if $(DESTDIR),,-PATH=$$PATH:/sbin ldconfig)

.PHONY: uninstall
uninstall: ## remove what `make install` put there
	rm -f $(foreach file,$(BINDIR)/evering $(BINDIR)/evering-relay \
		$(addprefix $(LIBDIR)/,libevering.a libevering.so $(SONAME) \
			$(notdir $(shared)) libevering-ffi.so $(FFI_SONAME) \
			$(notdir $(ffi)) pkgconfig/evering.pc \
			pkgconfig/evering-ffi.pc) \
		$(addprefix $(INCLUDEDIR)/,$(headers) \
			$(addprefix linux/,$(kernel_headers))) \
		$(addprefix $(MANDIR)/,$(man_pages) man7/evering-guide.7) \
		$(COMPLETION)/evering \
		$(UDEVRULES)/60-evering.rules $(MODULESLOAD)/evering.conf, \
		$(call to,$(file)))
	$(if $(DESTDIR),,-PATH=$$PATH:/sbin ldconfig)

.PHONY: dist
dist: ## make the release of the last commit, an archive in build/dist (needs git)
	@tools/packaging/dist $(BUILD)/dist

.PHONY: deb
deb: ## build Debian packages into build/deb, and have lintian look at them
	@tools/setup run deb
	@tools/packaging/deb $(BUILD)/deb

.PHONY: test-deb
test-deb: ## build, install, use and remove the packages in chroots of Debian 12 (as root)
	@tools/setup test-deb
	@tools/packaging/test

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(BUILD) .tmp_versions
	rm -f *.o *.ko *.mod *.mod.c .*.cmd .*.d .*.o Module.symvers modules.order \
		$(foreach dir,kmod kmod/*,$(addprefix $(dir)/,*.o *.o.d .*.cmd .*.d))

-include $(lib_objs:.o=.d) $(obj)/lib/ffi/ffi.d $(tool_objs:.o=.d) $(obj)/tools/bench/speed.d \
	$(relay_objs:.o=.d) \
	$(obj)/tools/bench/alloc.d $(message_objs:.o=.d) \
	$(patsubst $(BUILD)/examples/%,$(obj)/tools/examples/%.d, \
		$(example_programs) $(loop_programs)) \
	$(wildcard $(obj)/selftests/*/*.d) $(message_objs:.o=.d)
