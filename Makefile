# What to type. The work itself is done by the scripts in tools/.
#
#   make demo      one mTLS request from an nginx plugin, end to end
#   make test      every check there is; the last line counts them
#   make test-interop   the same servers, versions and faults as other people have; part of test
#   make valgrind  errors of memory and leaks under valgrind: what make test has of it, and more
#   make fuzz      30 seconds of hostile input for each parser; needs cargo-fuzz
#   make deny      licences, duplicates and origins of the dependencies; needs cargo-deny, no network
#   make bench PEER=/path/to/lua-resty-http   this library beside that one; see docs/performance.md
#   make bench-quick PEER=…   the same in less than 3 minutes; bench-instructions counts instructions
#   make bench-scale   10000 idle connections and 2000 requests in flight: memory and instructions
#   make soak      10 minutes of everything at a time, with faults; SECONDS=60 SEED=1 for another run
#   make install LUA_LIB_DIR=/usr/local/openresty/lualib BIN_DIR=/usr/local/bin
#   make install-dropin LUA_LIB_DIR=…   and require("resty.http") is this library
#   make install-dropin-ffi LUA_LIB_DIR=…   the same for APISIX's resty.ngx_http_ffi_client
#   make uninstall LUA_LIB_DIR=… BIN_DIR=…   removes what these have installed
#   make dist      an archive in build/ of what was built, for machines without cargo

# A shell that is not a login shell does not have cargo's own folder in its path.
export PATH := $(PATH):$(HOME)/.cargo/bin

LIBRARY := $(or $(CARGO_TARGET_DIR),target)/release/libresty_mtls_native.so
BUILT   := build/lualib/resty/mtls/native.so

.PHONY: all deps build fault-server test test-interop lint fuzz valgrind soak deny demo
.PHONY: bench bench-quick bench-instructions bench-scale install install-dropin install-dropin-ffi
.PHONY: clean dist uninstall

all: build

deps:
	@tools/install-deps

build:
	cargo build --release --locked
	@tools/put-file $(LIBRARY) $(BUILT) 755

# The peer of the specs of faults.
fault-server:
	cargo build --release --locked --example fault-server
	@tools/put-file $(dir $(LIBRARY))examples/fault-server build/fault-server 755

test:
	@tools/test

test-interop: deps build
	luajit /usr/bin/busted spec/interop

lint:
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	tools/lint-lua
	tools/check-translations

fuzz:
	@tools/fuzz

valgrind: deps build fault-server
	luajit /usr/bin/busted spec/valgrind_spec.lua
	@tools/valgrind-specs

deny:
	cargo deny --offline --locked check licenses bans sources

demo: deps build
	@luajit tools/demo.lua

# PEER_DEPS: checkouts of what the peer needs, with : between. BENCH: options of bench/options.lua.
PEERS = --peer="$(PEER)" --peer-deps="$(PEER_DEPS)"

bench: deps build
	@luajit bench/run.lua $(PEERS) $(BENCH)

bench-quick: deps build
	@luajit bench/run.lua $(PEERS) --rounds=2 --seconds=1 --large-seconds=2 --warm-up=0.3 \
	    --results=build/bench $(BENCH)

bench-instructions: deps build
	@luajit bench/instructions.lua $(PEERS) $(BENCH)

# BENCH: options of bench/scale.lua.
bench-scale: deps build
	@luajit bench/scale.lua $(BENCH)

# spec/soak_spec.lua is the same for a minute. SOAK: --sabotage=KIND puts a defect in, to see it found.
SECONDS ?= 600

soak: deps build fault-server
	@luajit soak/run.lua --seconds="$(SECONDS)" --seed="$(SEED)" $(SOAK)

# LUA_CLIB_DIR differs only for luarocks, which keeps native modules apart. BIN_DIR is for the command
# resty-mtls-check: LUA_LIB_DIR/bin unless given.
install:
	@tools/install $(BUILT) "$(LUA_LIB_DIR)" "$(LUA_CLIB_DIR)" "$(BIN_DIR)"

# On top of `install`: makes require("resty.http") this library, for all that uses LUA_LIB_DIR.
install-dropin:
	@tools/install-dropin "$(LUA_LIB_DIR)"

# Apart from it, because APISIX's own runtime has a module of that name.
install-dropin-ffi:
	@tools/install-dropin "$(LUA_LIB_DIR)" dropin-ffi

uninstall:
	@tools/uninstall "$(LUA_LIB_DIR)" "$(LUA_CLIB_DIR)" "$(BIN_DIR)"

dist:
	@tools/dist $(BUILT)

clean:
	rm -rf build target fuzz/target
