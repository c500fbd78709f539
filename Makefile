# ebbtide: build, test, measure, install. `make help` lists what there is.

CARGO ?= cargo
INSTALL ?= install
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR := $(firstword $(subst ., ,$(VERSION)))
METADATA = $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null
TARGET = $(or $(shell $(METADATA) | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'),target)
RELEASE = $(TARGET)/release

REAL = libebbtide.so.$(VERSION)
SONAME = libebbtide.so.$(MAJOR)
DEST_LIB = $(DESTDIR)$(LIBDIR)
DEST_INCLUDE = $(DESTDIR)$(INCLUDEDIR)
INSTALLED = $(DEST_LIB)/$(REAL) $(DEST_LIB)/$(SONAME) $(DEST_LIB)/libebbtide.so \
	$(DEST_LIB)/libebbtide.a $(DEST_LIB)/pkgconfig/ebbtide.pc $(DEST_INCLUDE)/ebbtide.h

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

.PHONY: all header test setup format lint cargo-test bench demo policy mutants disassemble install \
	uninstall clean help

all: ## build the library: target/release/libebbtide.so and .a
	$(CARGO) build --release

header: ## write include/ebbtide.h anew from src/capi.rs
	EBBTIDE_BLESS=1 $(CARGO) test --test header

test: setup format lint cargo-test ## run everything that must pass
	@echo "== all tests passed"

setup: ## install what the tests need from the system, if anything is missing
	@echo "== what the tests need"
	@sh ffi-tests/setup.sh

format: setup
	@echo "== format"
	$(CARGO) fmt --all --check

lint: format
	@echo "== lint"
	$(CARGO) clippy --workspace --all-targets -- -D warnings

cargo-test: lint
	@echo "== tests: the library, then C, C++ and Lua programs on it"
	$(CARGO) test --workspace --no-fail-fast

bench: ## benchmarks of the library, then LuaJIT workloads against other allocators
	$(CARGO) bench --package ebbtide
	$(CARGO) run --release --package ebbtide-programs --bin programs

demo: ## a service on the built-in allocator and on ebbtide, side by side
	$(CARGO) run --release --package ebbtide-programs --bin demo

policy: ## play the policy against demand of many shapes
	$(CARGO) test --release --package ebbtide --lib policy_table -- --nocapture

mutants: ## break each invariant once; a test must see it (long)
	sh tests/mutants.sh

disassemble: ## show the machine code of the hot path
	$(CARGO) build --release
	objdump --disassemble=ebb_alloc --no-show-raw-insn "$(RELEASE)/libebbtide.so"

install: ## install what `make` built under PREFIX (/usr/local), below DESTDIR if set
	@test -f "$(RELEASE)/libebbtide.so" || $(MAKE) all
	$(INSTALL) -d "$(DEST_LIB)/pkgconfig" "$(DEST_INCLUDE)"
	$(INSTALL) -m 755 "$(RELEASE)/libebbtide.so" "$(DEST_LIB)/$(REAL)"
	ln -sf $(REAL) "$(DEST_LIB)/$(SONAME)"
	ln -sf $(SONAME) "$(DEST_LIB)/libebbtide.so"
	$(INSTALL) -m 644 "$(RELEASE)/libebbtide.a" "$(DEST_LIB)/libebbtide.a"
	$(INSTALL) -m 644 include/ebbtide.h "$(DEST_INCLUDE)/ebbtide.h"
	@echo "$$PKG_CONFIG_FILE" > "$(DEST_LIB)/pkgconfig/ebbtide.pc"

uninstall: ## remove what install put there
	rm -f $(foreach file,$(INSTALLED),"$(file)")

clean: ## remove everything that was built
	$(CARGO) clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 12
