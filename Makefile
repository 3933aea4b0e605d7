# `make balls` and `make test` need Python >= 3.11 and make, nothing else: each sets up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/balls-quick
PYTEST_ARGS ?=

.PHONY: help balls test lint slow equations clean
.DEFAULT_GOAL := help

help:
	@echo "make balls      the moving-balls experiment, small version, into $(OUT)"
	@echo "make test       every check: lint, types, layers, tests"
	@echo "make lint       the checks that run no test"
	@echo "make slow       the tests that train for minutes, and those of the kernels in Triton"
	@echo "make equations  rewrite docs/equations.md from the docstrings"
	@echo "make clean      remove .venv and caches (results in runs/ stay)"

# The stamp is written last, so that an interrupted installation starts over.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "recparam needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

balls: $(STAMP)
	$(BIN)/recparam balls --preset quick --out $(OUT)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/basedpyright --pythonpath $(BIN)/python --project tools/strict.json
	$(BIN)/lint-imports --no-cache

# Two processes, each of one thread: a file's tests stay together, for what they share.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# Triton is a gigabyte that `make test` does without; its interpreter needs no GPU.
$(VENV)/.slow: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,triton]'
	@touch $@

slow: $(VENV)/.slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

equations: $(STAMP)
	$(BIN)/python tools/equations.py --write

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
