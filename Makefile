# ebbtide: build, test, measure, install. `make help` lists what there is.

CARGO ?= cargo
INSTALL ?= install
PREFIX ?= /usr/local
# Folders are compared by their names, so each has one name: no slash at the end.
override PREFIX := $(abspath $(PREFIX))
LIBDIR ?= $(PREFIX)/lib
BINDIR ?= $(PREFIX)/bin
INCLUDEDIR ?= $(PREFIX)/include
# Where LuaJIT looks for modules in Lua and in C. For OpenResty both are its lualib folder.
LUA_LIB_DIR ?= $(PREFIX)/share/lua/5.1
LUA_CMODULE_DIR ?= $(PREFIX)/lib/lua/5.1

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR := $(firstword $(subst ., ,$(VERSION)))
METADATA = $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null
TARGET = $(or $(shell $(METADATA) | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'),target)
RELEASE = $(TARGET)/release
# Results of benches: JSON, and the pictures that benches/plot.py draws of it. Absolute, for cargo
# runs each bench in its own folder.
BENCH = $(abspath $(TARGET))/bench
PROGRAMS = $(CARGO) run --release --package ebbtide-programs --bin

# SANITIZERS=1: for AddressSanitizer and valgrind, in a folder of its own.
ifneq ($(SANITIZERS),)
TARGET := $(abspath $(TARGET:/sanitizers=))/sanitizers
export CARGO_TARGET_DIR := $(TARGET)
FEATURES = --features sanitizers
endif

# $(call put,MODE,SOURCE,FILE) and $(call link,TARGET,FILE): a new file that takes the old one's place
# at once. A program that has the old one loaded keeps it, and one that starts finds either of them.
put = $(INSTALL) -m $(1) "$(2)" "$(3).new" && mv -f "$(3).new" "$(3)"
link = ln -sf "$(1)" "$(2).new" && mv -f "$(2).new" "$(2)"

REAL = libebbtide.so.$(VERSION)
SONAME = libebbtide.so.$(MAJOR)
DEST_LIB = $(DESTDIR)$(LIBDIR)
DEST_BIN = $(DESTDIR)$(BINDIR)
DEST_INCLUDE = $(DESTDIR)$(INCLUDEDIR)
INSTALLED = $(DEST_LIB)/$(REAL) $(DEST_LIB)/$(SONAME) $(DEST_LIB)/libebbtide.so \
	$(DEST_LIB)/libebbtide.a $(DEST_LIB)/pkgconfig/ebbtide.pc $(DEST_INCLUDE)/ebbtide.h \
	$(DEST_LIB)/libebbtide_preload.so $(DEST_BIN)/ebbtide $(INSTALLED_LUA)
INSTALLED_LUA = $(DESTDIR)$(LUA_LIB_DIR)/ebbtide.lua $(DESTDIR)$(LUA_LIB_DIR)/resty/ebbtide.lua \
	$(DESTDIR)$(LUA_CMODULE_DIR)/ebbtide.so
# The folders that uninstall removes where they are empty, the deepest first. Folders of the system
# stay: below /usr all of them, below /usr/local and ~/.local those that are there anyway.
LUA_FOLDERS = $(LUA_LIB_DIR)/resty $(LUA_LIB_DIR) $(LUA_CMODULE_DIR) \
	$(filter %/lua,$(patsubst %/,%,$(dir $(LUA_LIB_DIR) $(LUA_CMODULE_DIR)))) $(LIBDIR)/pkgconfig
PREFIX_FOLDERS = $(LIBDIR) $(BINDIR) $(INCLUDEDIR) $(PREFIX)/lib $(PREFIX)/share $(PREFIX)
SYSTEM = $(if $(DESTDIR),,$(filter / /usr,$(PREFIX)))
SHARED = $(if $(DESTDIR),,$(filter /usr/local $(HOME)/.local,$(PREFIX)))
FOLDERS = $(if $(SYSTEM),,$(LUA_FOLDERS) $(if $(SHARED),,$(PREFIX_FOLDERS)))

define PKG_CONFIG_FILE
prefix=$(PREFIX)
libdir=$(LIBDIR)
includedir=$(INCLUDEDIR)

Name: ebbtide
Description: The memory allocator for LuaJIT that gives memory back
Version: $(VERSION)
Libs: -L$${libdir} -lebbtide
Libs.private: -lpthread -ldl -lm
Cflags: -I$${includedir}
endef
export PKG_CONFIG_FILE

# The source of LuaJIT that `make luajit` builds: a folder with LuaJIT's Makefile. By default the one
# that the tests use, which cargo fetches.
VENDORED = $(shell $(CARGO) metadata --format-version 1 2>/dev/null | \
	tr '"' '\n' | sed -n 's|^\(/.*/luajit-src-[^/]*\)/Cargo.toml$$|\1|p')
LUAJIT ?= $(VENDORED)/luajit2
LUAJIT_BUILD ?= $(TARGET)/luajit
# What OpenResty tells LuaJIT's own Makefile, at build time as when it installs: 5.2's features, symbols,
# and the folder that LuaJIT is to be installed in, for package.path.
LUAJIT_XCFLAGS ?= -DLUAJIT_ENABLE_LUA52COMPAT -DLUAJIT_ENABLE_GC64
OPENRESTY_FLAGS = TARGET_STRIP=@: CCDEBUG=-g XCFLAGS="$(LUAJIT_XCFLAGS)" PREFIX="$(PREFIX)"
# And beside: luaL_newstate makes VMs on heaps of the library inside.
LUAJIT_FLAGS = $(OPENRESTY_FLAGS) \
	TARGET_LDFLAGS=-Wl,--wrap=lua_newstate TARGET_SHLDFLAGS=-Wl,--wrap=lua_newstate \
	TARGET_LIBS="$(abspath $(RELEASE))/libebbtide.a -lgcc_s -lpthread -ldl"

# A job for each processor, unless make was told of jobs.
JOBS = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j "$$(nproc)")

# Both drivers are of a workspace of their own, and build the library with its assertions on, so in a
# folder of their own. What guides one of them is a pass of the compiler.
FUZZ_TARGET = $(abspath $(TARGET))/fuzz
FUZZ = CARGO_TARGET_DIR="$(FUZZ_TARGET)" $(CARGO)
FUZZ_FLAGS = --release --manifest-path fuzz/Cargo.toml
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
COVERAGE = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
SECONDS ?= 60
MINUTES ?= 60

NGINX_MODULE = ngx_http_ebbtide_module.so
NGINX_MODULES ?= $(or $(shell nginx -V 2>&1 | tr ' ' '\n' | sed -n 's/^--modules-path=//p'),\
	/usr/lib/nginx/modules)

.PHONY: all header test test-long test-full setup format lint cargo-test bench bench-breathing bench-background bench-figures bench-checked bench-nginx \
	soak-nginx demo \
	policy mutants soak fuzz fuzz-build luajit nginx install-nginx uninstall-nginx disassemble \
	install install-lua install-lua-scripts uninstall uninstall-lua clean help

all: ## build the library, the preload library and the command, in target/release; SANITIZERS=1
	$(CARGO) build --release --package ebbtide $(FEATURES)
	$(CARGO) build --profile preload --package ebbtide-preload
	@for file in libebbtide_preload.so ebbtide; do \
		cmp -s "$(TARGET)/preload/$$file" "$(RELEASE)/$$file" || \
		{ $(call put,755,$(TARGET)/preload/$$file,$(RELEASE)/$$file); } || exit; done
	@test "$$(readlink "$(RELEASE)/$(SONAME)")" = libebbtide.so || \
		{ $(call link,libebbtide.so,$(RELEASE)/$(SONAME)); }

header: ## write include/ebbtide.h anew from src/capi.rs, and the nginx module's page as C
	EBBTIDE_BLESS=1 $(CARGO) test --test header

# Two tiers: `make test` has what is fast and finds most, `make test-long` the rest. These packages
# are all of the second one, for each compiles Lua runtimes of its own.
LATER = ebbtide-mlua ebbtide-other-runtimes
NOW = --workspace $(LATER:%=--exclude %)
ALL_LATER = $(LATER:%=--package %)
# Most tests wait most of the time, so more of them run at once than there are processors.
cargo-test test-long test-full: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

test: setup format lint cargo-test ## run what is fast and finds most (six minutes on two cores)
	@echo "== all tests passed"

setup: ## install what the tests need from the system, if anything is missing
	@echo "== what the tests need"
	@sh ffi-tests/setup.sh

format: setup
	@echo "== format"
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path benches/peers/Cargo.toml --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

lint: format
	@echo "== lint"
	$(CARGO) clippy $(NOW) --all-targets -- -D warnings

.PHONY: lint-long
lint-long: setup
	@echo "== lint of what only long tests build"
	$(CARGO) clippy $(ALL_LATER) --all-targets -- -D warnings
	$(CARGO) clippy --package ebbtide --features sanitizers -- -D warnings
	$(FUZZ) clippy $(FUZZ_FLAGS) --bin random -- -D warnings

cargo-test: lint
	@echo "== tests: the library, then C, C++ and Lua programs on it, and nginx beside them"
	$(CARGO) test $(NOW) --no-run
	$(MAKE) --no-print-directory all
	sh tests/side_by_side.sh \
		"$(CARGO) test $(NOW) --no-fail-fast --lib --bins --test '[!n]*'" \
		"$(CARGO) test $(NOW) --no-fail-fast --test 'n*'"

# Tests of the second tier are ignored by cargo test, and stand in modules called long; those in
# modules called full take longer still. With the packages of `make test`, so that nothing is built
# again, and the others before them, so that the summary of the last suite closes the run.
LATER_TESTS = $(CARGO) test $(ALL_LATER) --no-fail-fast
LONG_TESTS = $(CARGO) test $(NOW) --no-fail-fast --test '*' -- --ignored

test-long: setup lint-long ## run the tests that take minutes, after make test (25 minutes)
	@echo "== long tests: endurance, every way to run a program, every build of nginx, the memory rule"
	$(CARGO) test --package ebbtide --doc
	$(LATER_TESTS)
	$(LONG_TESTS) long::

test-full: setup ## run these and the tests that take longer, before a release (an hour)
	@echo "== long and longer tests"
	$(LATER_TESTS)
	$(LONG_TESTS) long:: full::

# jemalloc's thread-local data need more room than the loader keeps for libraries that come late.
HEAP_BENCH = env GLIBC_TUNABLES=glibc.rtld.optional_static_tls=8192 \
	BENCH_PEERS="$(abspath $(TARGET))/peers" $(if $(QUICK),BENCH_QUICK=1)
# What a bench measures, for the documents: commit and day. With uncommitted changes: `-dirty`.
MEASURED = { git describe --always --abbrev=7 --dirty --exclude '*' 2> /dev/null || echo unknown; date -u +%F; } | xargs echo
BENCH_FLAGS = $(if $(QUICK),--quick) $(if $(CHECK),--check)

bench: ## allocators against each other (20 minutes; QUICK=1 for 3); CHECK=1 fails on a missed figure
	mkdir -p "$(BENCH)"
	@$(MEASURED) > "$(BENCH)/bench.measured"
	sh benches/peers/build.sh "$(TARGET)/peers"
	$(HEAP_BENCH) $(CARGO) bench --package ebbtide --bench heap
	status=0; \
	$(PROGRAMS) scale -- $(BENCH_FLAGS) --json "$(BENCH)/scale.json" || status=1; \
	$(PROGRAMS) programs -- --peers --rounds 6 $(BENCH_FLAGS) \
		--json "$(BENCH)/programs.json" --markdown "$(BENCH)/programs.md" || status=1; \
	exit $$status

BACKGROUND_PROGRAMS = strings closures growth binary-trees k-nucleotide lru-cache string-builders cjson grow8m

# What each of them prints, also for the documents. Without tee's status in place of the bench's.
bench-breathing: ## what breathing, budgets and the doors cost (eight minutes)
	mkdir -p "$(BENCH)"
	@$(MEASURED) > "$(BENCH)/bench-breathing.measured"
	$(CARGO) bench --package ebbtide --bench pauses > "$(BENCH)/pauses.txt"
	@cat "$(BENCH)/pauses.txt"
	$(CARGO) bench --package ebbtide --bench breathing > "$(BENCH)/breathing.txt"
	@cat "$(BENCH)/breathing.txt"
	$(CARGO) run --release --package ebbtide-programs --bin doors > "$(BENCH)/doors.txt"
	@cat "$(BENCH)/doors.txt"

bench-figures: ## write figures and pictures of the last `make bench`, `make bench-breathing` and `make demo` into the documents
	python3 benches/figures.py "$(abspath $(TARGET))"
	cp "$(BENCH)/speed.svg" "$(BENCH)/scale-size.svg" "$(BENCH)/scale-vms.svg" benches
	@if test -f "$(TARGET)/demo/breathing.svg"; then cp "$(TARGET)/demo/breathing.svg" benches; \
	else echo "benches/breathing.svg stays as it is: make demo was not run"; fi

# The programs that hold much, and so have something due while they run.
bench-background: ## speed with the background thread against without (four minutes)
	$(CARGO) bench --package ebbtide --bench breathing -- --background
	$(PROGRAMS) programs -- --rounds 7 --allocators ebbtide,no-thread \
		$(foreach name,$(BACKGROUND_PROGRAMS),--only $(name))

bench-checked: ## what EBBTIDE_CHECKED=on and sample cost (three minutes); CHECK=1 fails on a missed figure
	$(PROGRAMS) programs -- --rounds 7 --allocators ebbtide,checked,sampled $(if $(CHECK),--check) \
		$(foreach name,tables strings closures json growth string-builders,--only $(name))

bench-nginx: nginx ## nginx with the module against stock nginx (three minutes)
	$(CARGO) run --release --package ebbtide-programs --bin nginx -- \
		--module "$(TARGET)/nginx/$(NGINX_MODULE)" --json "$(TARGET)/nginx/breathing.json" --check

soak-nginx: nginx ## nginx with the module under changing load for ten minutes; MINUTES=n
	$(CARGO) run --release --package ebbtide-programs --bin nginx -- \
		--module "$(TARGET)/nginx/$(NGINX_MODULE)" --soak $(or $(MINUTES),10) --check

demo: ## a service on the built-in allocator and on ebbtide, side by side
	$(CARGO) run --release --package ebbtide-programs --bin demo

policy: ## play the policy against demand of many shapes
	$(CARGO) test --release --package ebbtide --lib policy_table -- --nocapture

mutants: ## break each invariant once; a test must see it (long)
	sh tests/mutants.sh

soak: ## many VMs made, forked and closed by several threads for an hour; MINUTES=60
	MINUTES=$(MINUTES) $(CARGO) test --package ebbtide-ffi-tests --test soak -- --nocapture --ignored

fuzz-build: ## build the driver of random programs, in target/fuzz
	$(FUZZ) build $(FUZZ_FLAGS) --bin random

fuzz: fuzz-build ## programs of calls against a model, random and guided by coverage; SECONDS=60
	RUSTFLAGS="$(COVERAGE)" $(FUZZ) build --target-dir "$(TARGET)/guided" --target "$(HOST)" \
		$(FUZZ_FLAGS) --features guided --bin guided
	"$(FUZZ_TARGET)/release/random" fuzz/corpus
	ulimit -v 4194304 && "$(FUZZ_TARGET)/release/random" fuzz/corpus
	"$(FUZZ_TARGET)/release/random" --seconds $$(($(SECONDS) / 2)) --seed $$(date +%s)
	mkdir -p "$(TARGET)/corpus"
	"$(TARGET)/guided/$(HOST)/release/guided" -max_total_time=$$(($(SECONDS) - $(SECONDS) / 2)) \
		-max_len=4096 -print_final_stats=1 -artifact_prefix="$(TARGET)/" \
		"$(TARGET)/corpus" fuzz/corpus

luajit: all ## build a luajit with the library inside, to be installed under PREFIX; LUAJIT=folder of a source
	@test -f "$(LUAJIT)/src/lj_state.c" || { echo "LUAJIT=$(LUAJIT): no LuaJIT source"; exit 1; }
	rm -rf "$(LUAJIT_BUILD)"
	cp -r "$(LUAJIT)" "$(LUAJIT_BUILD)"
	@test ! -f "$(VENDORED)/luajit_relver.txt" -o -e "$(LUAJIT_BUILD)/.relver" || \
		cp "$(VENDORED)/luajit_relver.txt" "$(LUAJIT_BUILD)/.relver"
	$(MAKE) $(JOBS) -C "$(LUAJIT_BUILD)/src" $(LUAJIT_FLAGS)
	@echo "luajit with ebbtide inside: $(LUAJIT_BUILD)/src/luajit"
	@test ! -d "$(LUAJIT_BUILD)/etc" || \
		echo "to install it: make -C $(LUAJIT_BUILD) install PREFIX=$(PREFIX)"

nginx: all ## build the nginx module for the nginx that is installed, in target/nginx
	@sh nginx/build.sh "$(RELEASE)/libebbtide.a" "$(TARGET)/nginx"

install-nginx: ## install the nginx module where that nginx loads modules from, and its line of configuration
	@test -f "$(TARGET)/nginx/$(NGINX_MODULE)" || $(MAKE) nginx
	@sh nginx/install.sh "$(TARGET)/nginx/$(NGINX_MODULE)" "$(NGINX_MODULES)"

uninstall-nginx: ## remove what install-nginx put there
	@sh nginx/install.sh --remove "$(NGINX_MODULE)" "$(NGINX_MODULES)"

disassemble: ## show the machine code of the hot path
	$(CARGO) build --release
	objdump --disassemble=ebb_alloc --no-show-raw-insn "$(RELEASE)/libebbtide.so"

install: install-lua-scripts ## install what `make` built under PREFIX (/usr/local), below DESTDIR if set
	@test -f "$(RELEASE)/libebbtide.so" -a -f "$(RELEASE)/libebbtide_preload.so" || $(MAKE) all
	$(INSTALL) -d "$(DEST_LIB)/pkgconfig" "$(DEST_INCLUDE)" "$(DEST_BIN)"
	$(call put,755,$(RELEASE)/libebbtide.so,$(DEST_LIB)/$(REAL))
	$(call link,$(REAL),$(DEST_LIB)/$(SONAME))
	$(call link,$(SONAME),$(DEST_LIB)/libebbtide.so)
	$(call put,644,$(RELEASE)/libebbtide.a,$(DEST_LIB)/libebbtide.a)
	$(call put,755,$(RELEASE)/libebbtide_preload.so,$(DEST_LIB)/libebbtide_preload.so)
	$(call put,755,$(RELEASE)/ebbtide,$(DEST_BIN)/ebbtide)
	$(call put,644,include/ebbtide.h,$(DEST_INCLUDE)/ebbtide.h)
	@echo "$$PKG_CONFIG_FILE" > "$(DEST_LIB)/pkgconfig/ebbtide.pc"
	ln -sfr "$(DEST_LIB)/$(SONAME)" "$(DESTDIR)$(LUA_CMODULE_DIR)/ebbtide.so.new"
	mv -f "$(DESTDIR)$(LUA_CMODULE_DIR)/ebbtide.so.new" "$(DESTDIR)$(LUA_CMODULE_DIR)/ebbtide.so"

install-lua: install-lua-scripts ## install the Lua module alone, with a library of its own
	@test -f "$(RELEASE)/libebbtide.so" || $(MAKE) all
	$(call put,755,$(RELEASE)/libebbtide.so,$(DESTDIR)$(LUA_CMODULE_DIR)/ebbtide.so)

install-lua-scripts:
	$(INSTALL) -d "$(DESTDIR)$(LUA_LIB_DIR)/resty" "$(DESTDIR)$(LUA_CMODULE_DIR)"
	$(call put,644,lua/ebbtide.lua,$(DESTDIR)$(LUA_LIB_DIR)/ebbtide.lua)
	$(call put,644,lua/resty/ebbtide.lua,$(DESTDIR)$(LUA_LIB_DIR)/resty/ebbtide.lua)

uninstall-lua: ## remove what install-lua put there, and nothing else; with its variables
	rm -f $(foreach file,$(INSTALLED_LUA),"$(file)")
	@for folder in $(foreach folder,$(if $(SYSTEM),,$(filter-out $(LIBDIR)/pkgconfig,$(LUA_FOLDERS))),"$(DESTDIR)$(folder)"); do \
		rmdir "$$folder" 2>/dev/null || true; done

uninstall: ## remove what install put there
	rm -f $(foreach file,$(INSTALLED),"$(file)")
	@for folder in $(foreach folder,$(FOLDERS),"$(DESTDIR)$(folder)"); do \
		rmdir "$$folder" 2>/dev/null || true; done
	@test -z "$(DESTDIR)" || \
		{ cd "$(DESTDIR)" 2>/dev/null && rmdir -p ".$(PREFIX)" 2>/dev/null; } || true
	@test ! -f "$(DESTDIR)$(NGINX_MODULES)/$(NGINX_MODULE)" || \
		echo "nginx's module is left: make uninstall-nginx removes it"

clean: ## remove everything that was built
	$(CARGO) clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 12
