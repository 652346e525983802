# Busbar's commands. `make run` and `make test` do their own set-up.
#
#   make run       build everything and watch this machine at http://127.0.0.1:8080
#   make test      the whole proof, from format to browser
#   make test-servers  tests with servers that start slowly: Cassandra, ClickHouse, Elasticsearch, HBase, MySQL 8, Kafka with three brokers
#   make check     the quick half of it: format, lints, unit tests of the light crates
#   make bench     the table of docs/PERFORMANCE.md, measured here
#   make web       the console alone
#   make release   target/release/busbar
#   make advisories  known faults in what it is built of; needs the network

SHELL := /bin/bash
CARGO ?= cargo
NPM ?= npm

# The binary lies wherever cargo builds; the environment may name another folder.
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.PHONY: run test test-servers check bench web release setup-run setup-test advisories fuzz soak kafka-kills clean-data

run: setup-run web
	@python3 scripts/build.py
	$(TARGET)/release/busbar run examples/host-watch

test: setup-test
	python3 scripts/test.py

# No part of `make test`: each server takes half a minute to start, and fetching it longer.
test-servers: setup-test
	python3 scripts/test.py servers

check: setup-run
	python3 scripts/test.py format lints unit

bench: release
	$(TARGET)/release/busbar bench

release: setup-run web
	@python3 scripts/build.py

web: web/dist/index.html

# Rebuilt when a source is newer than the page that was built from it.
web/dist/index.html: web/package-lock.json $(shell find web/src web/index.html web/vite.config.ts web/public -type f 2>/dev/null)
	cd web && $(NPM) ci --no-audit --no-fund --loglevel=error
	cd web && $(NPM) run build --silent
	@touch $@

setup-run:
	@scripts/setup run

setup-test:
	@scripts/setup test

# The advisory database is fetched over the network, so this stands outside `make test`.
advisories:
	@scripts/setup advisories
	PATH="$${BUSBAR_TOOLS:-$${XDG_CACHE_HOME:-$$HOME/.cache}/busbar/tools}/bin:$$PATH" $(CARGO) deny check advisories

# Long runs, by hand. SECONDS_EACH=3600 make fuzz; ROUNDS=5000 make soak.
fuzz:
	python3 scripts/test.py fuzz --seconds $${SECONDS_EACH:-600}

# Kills of a Kafka broker in the middle of transactions. ROUNDS=8 make kafka-kills
kafka-kills: setup-test
	BUSBAR_KAFKA_BROKER_KILLS=$${ROUNDS:-8} $(CARGO) test --release --locked -p busbar-connect --test conformance kafka_kills -- --nocapture

soak:
	BUSBAR_CRASH_ROUNDS=$${ROUNDS:-5000} $(CARGO) test --release --locked -p busbar --test crash -- --nocapture
