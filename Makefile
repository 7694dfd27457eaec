# corecast: `make demo` shows it, `make test` checks all of it, `make help` lists the rest.
#
# Every target does its own set-up: what is missing is installed with apt-get
# when run as root, and named otherwise.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr/local
DESTDIR ?=
INCLUDEDIR ?= $(PREFIX)/include
LIBDIR ?= $(PREFIX)/lib

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
STAGE := $(TARGET)/stage
HOST := x86_64-unknown-linux-gnu
NIGHTLY := $(if $(shell $(CARGO) +nightly --version 2>/dev/null),nightly,stable)
export CARGO_TARGET_DIR := $(TARGET)

VERSION := $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version *= *"\(.*\)"/\1/p' Cargo.toml)
# Before 1.0 every minor version may break the ABI, so it is part of the SONAME.
SONAME := libcorecast.so.$(word 1,$(subst ., ,$(VERSION))).$(word 2,$(subst ., ,$(VERSION)))

# Built without optimisation, which halves the wait. 0.9.100 is the newest that builds with
# the declared minimum Rust version.
NEXTEST_VERSION := 0.9.100
TOOLS := $(TARGET)/tools
export PATH := $(TOOLS)/bin:$(PATH)

# No commas in what is said: they part the arguments of call.
say = @printf '\n==> %s\n' $(1)

.PHONY: help
help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	    while IFS='|' read -r name text; do printf '%-20s %s\n' "$$name" "$$text"; done
	@echo
	@echo '  make demo ARGS="--workers 8 --port 9000"'
	@echo '  make install PREFIX=/usr DESTDIR=/tmp/package'

# ------------------------------------------------------------------ the demo

.PHONY: demo
demo: tools-build ## run the prefork chat server (ARGS="--workers N --port P")
	$(CARGO) run --release --bin corecast -- demo $(ARGS)

# ----------------------------------------------------------------- the tests

# In this order: what fails fastest comes first. One make per phase keeps the
# order under `make -j` too.
PHASES := check-format check-lints check-units check-docs check-models check-sanitizers check-c check-cluster check-ruby check-uwsgi check-crash check-benches check-costs check-peers check-python check-browser check-fuzz

.PHONY: test
test: ## run everything that CI runs
	@for phase in $(PHASES); do $(MAKE) --no-print-directory $$phase; done
	@printf '\n==> all of it passed: %s\n' "$(PHASES)"

.PHONY: check-format
check-format: tools-lints ## rustfmt leaves the sources unchanged
	$(call say,'format: rustfmt --check')
	$(CARGO) fmt --all --check

.PHONY: check-lints
check-lints: tools-lints ## clippy has nothing to say
	$(call say,'lints: clippy with warnings denied')
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The crash harness runs optimised, in check-crash; its controls need what a release build lacks.
.PHONY: check-units
check-units: tools-build tools-nextest ## unit and integration tests; the demo over HTTP; the C header
	$(call say,'tests: unit + integration + demo over HTTP + C header')
	$(CARGO) nextest run --workspace -E 'not binary(crash) or test(/^controls/)'

.PHONY: check-docs
check-docs: tools-build ## examples in the documentation; no broken link in it
	$(call say,'tests: examples in the documentation')
	$(CARGO) test -p corecast --doc
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

# A target directory of its own: --cfg loom changes every crate. The models are unit tests of
# the library, in tests/loom; nextest fails if it finds none.
.PHONY: check-models
check-models: tools-build tools-nextest ## loom models of the lock-free parts
	$(call say,'models: loom')
	CARGO_TARGET_DIR=$(TARGET)/loom RUSTFLAGS='--cfg loom' \
	    $(CARGO) nextest run --release --no-default-features -p corecast --lib loom_

.PHONY: check-c
check-c: tools-c ## C programs against an installed tree, plain and under valgrind
	$(call say,'C: install into $(STAGE) and run tests/c')
	rm -rf $(STAGE)
	$(MAKE) --no-print-directory install PREFIX=$(STAGE) DESTDIR=
	$(PYTHON) tests/c/run.py --prefix $(STAGE) --build $(TARGET)/c

.PHONY: check-cluster
check-cluster: tools-build tools-node library ## a Node cluster under `corecast run`
	$(call say,'Node: a cluster whose workers come by socket')
	$(CARGO) build --release --bin corecast
	$(PYTHON) tests/cluster/run.py --corecast $(TARGET)/release/corecast \
	    --library $(TARGET)/release/libcorecast.so --build $(TARGET)/cluster

# PyPI's uWSGI is built once, into the build folder.
.PHONY: check-uwsgi
check-uwsgi: tools-uwsgi ## the uWSGI plugin in servers of Debian and of PyPI
	$(call say,'uWSGI: build bindings/uwsgi for two versions and run its tests')
	$(MAKE) --no-print-directory install PREFIX=$(TARGET)/uwsgi/stage DESTDIR=
	$(PYTHON) bindings/uwsgi/tests/run.py --prefix $(TARGET)/uwsgi/stage --build $(TARGET)/uwsgi

.PHONY: check-ruby
check-ruby: tools-build tools-ruby library ## the Ruby binding under a Puma cluster
	$(call say,'Ruby: a chat across the workers of a Puma cluster')
	$(PYTHON) bindings/ruby/tests/run.py --library $(TARGET)/release/libcorecast.so

# Optimised, as users have it: the calls have a thirtieth of the instructions then, and all of them
# are gone through. `make crash` goes on where this stops.
.PHONY: check-crash
check-crash: tools-build tools-nextest ## workers die at every instruction of every call
	$(call say,'crash: workers die at every instruction of every call')
	$(CARGO) nextest run --release -p corecast --test crash --success-output immediate

.PHONY: check-benches
check-benches: tools-build ## every bench runs once, as a test
	$(call say,'benches: each once as a test')
	$(CARGO) test --release -p corecast --bench '*' -- --test

.PHONY: check-costs
check-costs: tools-build tools-costs ## instructions per operation are not above their baselines
	$(call say,'costs: instructions per operation against benches/instructions.json')
	$(CARGO) test --release -p corecast --bench instructions -- --check

.PHONY: accept-costs
accept-costs: tools-build tools-costs ## make the present instructions per operation the baselines
	$(CARGO) test --release -p corecast --bench instructions -- --accept

# The crate of its own that measures the peers as well, here without them.
.PHONY: check-peers
check-peers: tools-lints ## the comparison with other systems works (corecast and the bare floors only)
	$(call say,'peers: the bench of its own crate once as a test')
	$(CARGO) fmt --check --manifest-path benches/peers/Cargo.toml
	$(CARGO) clippy --quiet --locked --release --no-default-features --manifest-path benches/peers/Cargo.toml -- -D warnings
	$(CARGO) test --quiet --locked --release --no-default-features --manifest-path benches/peers/Cargo.toml
	$(CARGO) run --quiet --locked --release --no-default-features --manifest-path benches/peers/Cargo.toml -- --check

# The Python package, built as a wheel and installed into an environment of its own.
VENV := $(TARGET)/python/venv

.PHONY: check-python
check-python: tools-python ## the Python package: lints, types, its tests under real servers
	$(call say,'Python: ruff + mypy')
	cd bindings/python && $(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy
	$(call say,'Python: rustfmt + clippy')
	cd bindings/python && $(CARGO) fmt --check && \
	    PYO3_PYTHON=$(VENV)/bin/python CARGO_TARGET_DIR=$(TARGET)/python/build $(CARGO) clippy --locked --release -- -D warnings
	$(MAKE) --no-print-directory wheel
	$(call say,'Python: pytest')
	cd bindings/python && $(VENV)/bin/python -m pytest -q

.PHONY: wheel
wheel: tools-python ## build the Python package and install it into its own environment
	$(call say,'Python: wheel')
	rm -rf $(TARGET)/python/wheels
	cd bindings/python && CARGO_TARGET_DIR=$(TARGET)/python/build \
	    $(VENV)/bin/maturin build --release --locked --quiet --interpreter $(VENV)/bin/python --out $(TARGET)/python/wheels
	$(VENV)/bin/pip install --quiet --force-reinstall --no-deps $(TARGET)/python/wheels/*.whl

# After check-python, whose environment has the package and the browser's driver.
.PHONY: check-browser
check-browser: tools-python tools-uwsgi tools-build library ## chats in two browser windows: the demo, uWSGI, Django
	@$(VENV)/bin/python -c 'import corecast' 2>/dev/null || \
	    $(MAKE) --no-print-directory wheel
	$(call say,'browser: chats in two windows on two workers')
	$(MAKE) --no-print-directory install PREFIX=$(TARGET)/uwsgi/stage DESTDIR=
	PKG_CONFIG_PATH=$(TARGET)/uwsgi/stage/lib/pkgconfig $(MAKE) --no-print-directory -C bindings/uwsgi \
	    UWSGI=/usr/bin/uwsgi PYTHON=/usr/bin/python3 BUILD=$(TARGET)/uwsgi/debian
	$(CARGO) build --release --bin corecast
	$(VENV)/bin/ruff format --check --config bindings/python/pyproject.toml tests/browser
	$(VENV)/bin/ruff check --config bindings/python/pyproject.toml tests/browser
	CORECAST=$(TARGET)/release/corecast CORECAST_ARTEFACTS=$(TARGET)/artefacts \
	    CORECAST_UWSGI_PLUGIN=$(TARGET)/uwsgi/debian/corecast_plugin.so \
	    $(VENV)/bin/python -m pytest -q -c bindings/python/pyproject.toml --rootdir tests/browser tests/browser

# Crates of their own, so a target directory of their own; tests/fuzz/run.py knows the flags.
.PHONY: check-fuzz
check-fuzz: tools-fuzz ## fuzz the router against memory that changes under it, a minute
	$(call say,'fuzz: a router among hostile workers')
	$(PYTHON) tests/fuzz/run.py --target-dir $(TARGET)/fuzz --seconds 25

.PHONY: fuzz
fuzz: tools-fuzz ## the same for longer (SECONDS=600 for each target); with ASan if there is a nightly
	$(PYTHON) tests/fuzz/run.py --target-dir $(TARGET)/fuzz-$(NIGHTLY) --verbose \
	    --seconds $(or $(SECONDS),600) $(if $(filter nightly,$(NIGHTLY)),--address)

.PHONY: soak
soak: tools-build ## churn for a chosen time (SECONDS=600), with progress
	CORECAST_SOAK=$(or $(SECONDS),600) $(CARGO) test --release -p corecast --test soak -- --nocapture

# The sanitizers need a nightly toolchain. One test at a time: the test harness comes without
# instrumentation, and its own threads would look like races. Left out of what `make test` runs: tests
# of one thread that take most of the time, and that `make sanitize` has.
SANITIZED := --target $(HOST) -p corecast --no-default-features --lib --test api --test overflow -- --test-threads=1
ALONE := --skip router::sharing --skip directory::tests::it_behaves --skip subscriptions::tests::the_index

.PHONY: check-sanitizers
check-sanitizers: ## threaded tests under AddressSanitizer and ThreadSanitizer, if there is a nightly toolchain
	@$(MAKE) --no-print-directory sanitize SKIPPED='$(ALONE)'

.PHONY: sanitize
sanitize: tools-build ## the same with all tests of the library
ifeq ($(NIGHTLY),nightly)
	$(call say,'sanitizers: AddressSanitizer')
	CARGO_TARGET_DIR=$(TARGET)/address RUSTFLAGS='-Zsanitizer=address' ASAN_OPTIONS=detect_leaks=0 \
	    $(CARGO) +nightly test $(SANITIZED) $(SKIPPED)
	$(call say,'sanitizers: ThreadSanitizer')
	CARGO_TARGET_DIR=$(TARGET)/thread \
	    RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer' \
	    TSAN_OPTIONS='halt_on_error=1 suppressions=$(CURDIR)/tests/tsan.supp' \
	    $(CARGO) +nightly test $(SANITIZED) $(SKIPPED)
else
	$(call say,'sanitizers: skipped. There is no nightly toolchain (rustup toolchain install nightly)')
endif

# --------------------------------------------------------------------- crash

POINTS ?= 10000000
KILLS ?= 1000000
STOPS ?= 10000
MASTERS ?= 2000000
WORKERS ?= $(shell nproc)
SEED ?= $(shell date +%s)

.PHONY: crash
crash: tools-build ## the long run (POINTS=, KILLS=, STOPS=, MASTERS=, WORKERS=, SEED=)
	CORECAST_CRASH_POINTS=$(POINTS) CORECAST_CRASH_KILLS=$(KILLS) \
	CORECAST_CRASH_STOPS=$(STOPS) CORECAST_CRASH_MASTERS=$(MASTERS) \
	CORECAST_CRASH_WORKERS=$(WORKERS) CORECAST_CRASH_SEED=$(SEED) \
	    $(CARGO) test --release -p corecast --test crash -- --nocapture --exact a_long_run_of_random_situations

# ------------------------------------------------------------ bench, header

.PHONY: bench
bench: tools-peers ## measure corecast beside other systems (ARGS="--quick"; ARGS=--help lists the choices)
	$(CARGO) build --locked --release --manifest-path benches/peers/Cargo.toml
	failed=0; \
	$(TARGET)/release/peers --json $(TARGET)/bench/findings.json --report $(TARGET)/bench $(ARGS) || failed=$$?; \
	test $$failed -ge 128 || $(MAKE) --no-print-directory bench-layers LAYERS="$(if $(findstring --quick,$(ARGS)),--quick)"; \
	exit $$failed

.PHONY: bench-layers
bench-layers: tools-peers tools-python wheel ## measure the Django layer beside channels_redis (LAYERS=--quick)
	$(VENV)/bin/pip install --quiet -r bindings/python/bench/requirements.txt
	mkdir -p $(TARGET)/bench
	PATH="$$PATH:/usr/sbin" $(VENV)/bin/python bindings/python/bench/layers.py --json $(TARGET)/bench/layers.json $(LAYERS)

.PHONY: bench-parts
bench-parts: tools-build ## measure corecast alone: single operations, and the prefork matrix
	$(CARGO) bench -p corecast --bench '*'

.PHONY: header
header: tools-build ## generate include/corecast.h from ffi/src
	CORECAST_WRITE_HEADER=1 $(CARGO) test -p corecast-ffi --test header

# ------------------------------------------------------------------- install

.PHONY: library
library: tools-build ## build libcorecast.so and libcorecast.a
	$(CARGO) build --release -p corecast-ffi

.PHONY: install
install: library ## install the C library (PREFIX, LIBDIR, INCLUDEDIR, DESTDIR)
	install -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 include/corecast.h $(DESTDIR)$(INCLUDEDIR)/
	install -m 644 $(TARGET)/release/libcorecast.a $(DESTDIR)$(LIBDIR)/
	install -m 755 $(TARGET)/release/libcorecast.so $(DESTDIR)$(LIBDIR)/libcorecast.so.$(VERSION)
	ln -sf libcorecast.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libcorecast.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' \
	    -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' -e 's|@VERSION@|$(VERSION)|' \
	    ffi/corecast.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/corecast.pc

.PHONY: uninstall
uninstall: ## remove what `make install` put there
	rm -f $(DESTDIR)$(INCLUDEDIR)/corecast.h $(DESTDIR)$(LIBDIR)/pkgconfig/corecast.pc \
	    $(DESTDIR)$(LIBDIR)/libcorecast.a $(DESTDIR)$(LIBDIR)/libcorecast.so \
	    $(DESTDIR)$(LIBDIR)/$(SONAME) $(DESTDIR)$(LIBDIR)/libcorecast.so.$(VERSION)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(TARGET)

# --------------------------------------------------------------------- tools

# $(call need,COMMANDS,PACKAGES): the commands are there, or the packages get
# installed, or the user is told.
define need
	@missing=; for tool in $(1); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> installing$$missing with apt-get: $(2)"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	else \
	    echo "missing:$$missing. Install them and try again; on Debian or Ubuntu:" >&2; \
	    echo "    sudo apt-get install $(2)" >&2; exit 1; \
	fi
endef

.PHONY: tools-python
tools-python: tools-lints
	$(call need,chromium chromedriver,chromium chromium-driver)
	$(call need,curl,curl)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    [ "$$(id -u)" = 0 ] && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; }
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	@cmp -s bindings/python/tests/requirements.txt $(VENV)/installed || { \
	    echo '==> installing bindings/python/tests/requirements.txt into $(VENV)'; \
	    $(VENV)/bin/pip install --quiet -r bindings/python/tests/requirements.txt && \
	    cp bindings/python/tests/requirements.txt $(VENV)/installed; }

.PHONY: tools-node
tools-node:
	$(call need,node npm,nodejs npm)

.PHONY: tools-build tools-lints tools-c tools-costs tools-nextest tools-peers tools-fuzz
tools-build:
	@command -v $(CARGO) >/dev/null || { \
	    echo 'missing: $(CARGO). Install a Rust toolchain first (rustup.rs)' >&2; exit 1; }
	$(call need,cc,gcc libc6-dev)

tools-lints: tools-build
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
	    rustup component add rustfmt clippy || { \
	    echo 'missing: rustfmt, clippy. Install them with your Rust toolchain' >&2; exit 1; }

tools-c: tools-build
	$(call need,gcc g++ pkg-config valgrind $(PYTHON),gcc g++ libc6-dev libc6-dbg pkg-config valgrind python3)

# The plugins are no commands: what dpkg says about their packages counts.
UWSGI_PACKAGES := uwsgi-core uwsgi-dev uwsgi-plugin-python3 uwsgi-plugin-gevent-python3 \
    uwsgi-plugin-greenlet-python3 python3-gevent python3-greenlet python3-dev python3-venv

.PHONY: tools-uwsgi
tools-uwsgi: tools-build
	$(call need,$(PYTHON) pkg-config nm,python3 pkg-config binutils)
	@dpkg-query -W $(UWSGI_PACKAGES) >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> installing uWSGI with apt-get: $(UWSGI_PACKAGES)"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq >/dev/null && \
	    apt-get install -y -qq --no-install-recommends $(UWSGI_PACKAGES) >/dev/null; \
	else \
	    echo "missing: uWSGI. Install it and try again; on Debian or Ubuntu:" >&2; \
	    echo "    sudo apt-get install $(UWSGI_PACKAGES)" >&2; exit 1; \
	fi

.PHONY: tools-ruby
tools-ruby:
	$(call need,ruby puma $(PYTHON),ruby puma python3)

tools-costs:
	$(call need,valgrind,valgrind)

# Debian starts the servers when it installs them; the bench starts its own.
tools-peers: tools-build
	@export PATH="$$PATH:/usr/sbin"; missing=; \
	for tool in pkg-config redis-server nats-server; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	pkg-config --exists libzmq 2>/dev/null || missing="$$missing libzmq"; \
	[ -z "$$missing" ] && exit 0; \
	packages='pkg-config libzmq3-dev redis-server nats-server'; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> installing$$missing with apt-get: $$packages"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends $$packages >/dev/null; \
	else \
	    echo "missing:$$missing. Install them and try again; on Debian or Ubuntu:" >&2; \
	    echo "    sudo apt-get install $$packages" >&2; exit 1; \
	fi

tools-fuzz: tools-build
	$(call need,g++ $(PYTHON),g++ python3)

tools-nextest: tools-build
	@command -v cargo-nextest >/dev/null || { \
	    echo '==> installing cargo-nextest $(NEXTEST_VERSION) into $(TOOLS)'; \
	    $(CARGO) install --locked --debug --quiet cargo-nextest --version $(NEXTEST_VERSION) --root $(TOOLS); }
