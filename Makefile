# Everything starts here: `make help` lists it. Any variable can be set on the command line or in the environment.

ARGS ?=
ONLY ?=
CARGO ?= cargo
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
BUF ?= npx --yes @bufbuild/buf@1.75.0
# Queries are checked against .sqlx, so that building needs no database.
SQLX_OFFLINE ?= true
export SQLX_OFFLINE

# The experiments whose tables are published.
EXPERIMENTS ?= $(filter-out deploy/lab/smoke.toml,$(wildcard deploy/lab/*.toml))
BINARY ?= $(CARGO) run --quiet --locked --

.DEFAULT_GOAL := help
.PHONY: help setup build demo lab lab-smoke serve test bench lint fmt doc proto-lint sqlx-prepare sqlx-check pretrain python bench-python clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Fetch libtorch, find or install Postgres, say what else is missing
	@deploy/scripts/setup

build: setup ## Build the service
	$(CARGO) build --locked --bin active-vlm

demo: build ## Play the whole loop on digit boards: five rounds against random (ARGS=... are passed on)
	@$(BINARY) lab demo $(ARGS)

lab: build ## Run every committed experiment that is missing, then write docs/evidence.md (hours; ARGS=... to run)
	@for experiment in $(EXPERIMENTS); do $(BINARY) lab run $$experiment $(ARGS) || exit 1; done
	@$(BINARY) lab report

lab-smoke: setup ## The laboratory in small: three arms, files, resumption, report (about a minute)
	$(CARGO) test --quiet --locked --test lab

serve: build ## Run the service with its own Postgres (ARGS="--config my.toml")
	@$(BINARY) serve $(ARGS)

test: setup python ## Run all tests, with a throwaway Postgres (ARGS=name for some of them)
	@TEST_PYTHON=$(CURDIR)/$(VENV)/bin/python CARGO="$(CARGO)" deploy/scripts/with-postgres deploy/scripts/test $(ARGS)

bench: setup bench-python ## Run the benchmarks (ONLY=name for one row); writes target/bench/results.json
	@deploy/scripts/with-postgres --durable $(CARGO) bench --quiet --locked --profile dev --bench bench -- $(ONLY)

lint: setup fmt doc proto-lint ## Formatting, clippy, documentation and proto, warnings being errors
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --check

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --no-deps --document-private-items --lib

proto-lint:
	@if command -v $(firstword $(BUF)) >/dev/null; then echo '$(BUF) lint'; $(BUF) lint; \
	elif [ -n "$(CI)" ]; then echo 'proto-lint: npx is missing: apt-get install npm' >&2; exit 1; \
	else echo 'proto-lint: SKIPPED, npx is missing (apt-get install npm)' >&2; fi

sqlx-prepare: setup ## Write .sqlx anew after a query or migration changed
	@deploy/scripts/sqlx-prepare

sqlx-check: setup
	@deploy/scripts/sqlx-prepare --check

pretrain: build ## Train the toy base model again from its seed, into models/toy-base
	@$(BINARY) lab pretrain $(ARGS)

python: $(VENV)/.done

# What the client in another language needs, at fixed versions.
$(VENV)/.done: tests/python/requirements.txt
	@deploy/scripts/python-venv $(PYTHON) $(VENV) $<
	@touch $@

bench-python: $(BENCH_VENV)/.done ## The environment of tests/bench/peers: what is benchmarked beside the service

$(BENCH_VENV)/.done: tests/bench/peers/requirements.txt deploy/scripts/bench-venv | setup
	@deploy/scripts/bench-venv $(PYTHON) $(BENCH_VENV) $<
	@touch $@

clean: ## Remove what was built (libtorch stays)
	rm -rf target $(VENV) $(BENCH_VENV) demo-out
