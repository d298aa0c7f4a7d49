# Everything a developer runs. Each target makes the environment that it needs; a second run finds it ready.
#
#   make demo [SOURCE=dir] [DEMO_ARGS=…]    make test [TEST_ARGS=…]    make bench [PEERS=dbos]    make bench-soak [RUNS=n]    make prove    make PYTHON=/path/to/python …

# An interpreter named here makes the environment; otherwise `.ci/pythons` chooses one.
PYTHON ?=
SOURCE ?=
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
PEERS ?=
RUNS ?= 1000000
NAME ?=
CASES ?=
SEEDS ?= 2000
PROOF_ARGS ?=
CONFORMANCE_ARGS ?=
SAMPLE ?= 250
SEED ?= 1
MODULE ?=
MUTANTS_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# Stamps: an environment is as new as pyproject.toml, which names everything that is installed in it.
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed
MUTANTS := $(VENV)/.mutants-installed
BROWSER := $(VENV)/.browser-installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint types layers format bench bench-soak prove proof sim images conformance mutants browser screenshots clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(CORE)  ## index the standard library (or SOURCE=dir) durably, with two SIGKILLs on the way
	@$(BIN)/python examples/index_source.py $(if $(SOURCE),--source "$(SOURCE)") $(DEMO_ARGS)

test: $(DEV)  ## run the test suite on one Python
	$(BIN)/python -m pytest $(TEST_ARGS)

test-all:  ## run the test suite on every Python >= 3.11 found
	@set -eu; list=$$(.ci/pythons); \
	echo "$$list" | while read -r version path; do \
	    echo "== Python $$version ($$path)"; \
	    $(MAKE) --no-print-directory VENV=.venvs/$$version PYTHON="$$path" test </dev/null; \
	done

check: lint types layers  ## run every static check: style, types, layers

lint: $(DEV)  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV)  ## check types with mypy and pyright, both strict
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(DEV)  ## check that imports go down only
	$(BIN)/python -m pytest -n 0 -q tests/project/test_layers.py

format: $(DEV)  ## format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(CORE)  ## measure, print a table, write bench/results/*.json (PEERS="dbos dura kairo-sdk unhinged": beside them)
	$(BIN)/python -m bench $(addprefix --peer ,$(PEERS)) $(BENCH_ARGS)

bench-soak: $(CORE)  ## park a million runs, enqueue a million jobs (RUNS=n)
	$(BIN)/python -m bench W4 backlog --runs $(RUNS) $(BENCH_ARGS)

prove: $(CORE)  ## break the engine's world in every way that proof/ knows, and count what is lost
	$(BIN)/python -m proof ci $(PROOF_ARGS)

proof: $(CORE)  ## run one of these harnesses at any size: NAME=images [CASES=n]
	$(BIN)/python -m proof $(NAME) $(addprefix --cases ,$(CASES)) $(PROOF_ARGS)

sim:  ## live simulated worlds: [SEEDS=n]
	$(MAKE) --no-print-directory proof NAME=sim CASES=$(SEEDS)

images:  ## run crash images: [CASES=n]
	$(MAKE) --no-print-directory proof NAME=images

conformance: $(DEV)  ## run CPython's and anyio's own tests of asyncio code as workflows (CONFORMANCE_ARGS=--write: into the docs)
	$(BIN)/python -m conformance $(CONFORMANCE_ARGS)

mutants: $(MUTANTS)  ## change the code that decides, and count what no test notices: [SAMPLE=n, 0: all] [SEED=n] [MODULE=retry]
	$(BIN)/python -m mutants --sample $(SAMPLE) --seed $(SEED) $(addprefix --module ,$(MODULE)) $(MUTANTS_ARGS)

browser: $(BROWSER)  ## show the web UI to Chromium (Debian's, or CHROMIUM=path): every page, every act, attacks, accessibility
	$(BIN)/python -m pytest browser $(TEST_ARGS)

screenshots: $(BROWSER)  ## take the pictures of the documentation, with Chromium
	$(BIN)/python -m browser.screenshots

clean:  ## remove environments, caches and results
	rm -rf .venv .venvs build dist bench/results proof/results mutants/results conformance/.cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@set -eu; python="$(PYTHON)"; \
	if [ -z "$$python" ]; then list=$$(.ci/pythons); python=$$(echo "$$list" | sed -n '1s/^[^ ]* //p'); fi; \
	echo "Making the environment $(VENV) with $$python"; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Stepwell needs Python 3.11 or newer: " + sys.version)'; \
	"$$python" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

# Order-only: the interpreter's link keeps the date of the interpreter, and must not outdate the stamps.
$(CORE): pyproject.toml | $(VENV)/bin/python
	@echo "Installing stepwell into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) --editable .
	@$(BIN)/python -m compileall -q src  # as pip does for what it copies
	@touch $@

$(DEV): pyproject.toml | $(CORE)
	@echo "Installing what tests and checks need into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(MUTANTS): pyproject.toml | $(DEV)
	@echo "Installing what makes mutants into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev,mutants]'
	@touch $@

$(BROWSER): pyproject.toml | $(DEV)
	@echo "Installing what drives a browser into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev,browser]'
	@touch $@
