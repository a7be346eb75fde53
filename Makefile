# make quickstart: from nothing to recommendations.   make test: everything CI checks; make test-all: what takes longer, too.
# Both make .venv and install the pinned versions first, once.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
JOBS ?= 2
MINICLUSTER ?= runs/minicluster

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-all lint docs minicluster minicluster-stop clean

help:
	@grep -E '^# make|^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1: /'

$(VENV)/.installed: constraints.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} found; trialign needs 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## the virtual environment .venv with the pinned versions

quickstart: install ## the built-in storefront, from raw logs to recommendations and a table
	$(BIN)/trialign pipeline experiment=quickstart run=$(RUN)

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint and all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

test-all: lint ## lint and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

docs: $(VENV)/.docs ## regenerate docs/configuration.md, and build the site into site/
	$(BIN)/python -m trialign.launch.settings > docs/configuration.md
	$(BIN)/python -m mkdocs build --strict --quiet

minicluster: install ## a Slurm of three virtual nodes on this machine (docs/cluster.md)
	@$(BIN)/python -m trialign.slurm.minicluster start $(MINICLUSTER)

minicluster-stop: ## end it
	@! test -f $(MINICLUSTER)/processes.json || $(BIN)/python -m trialign.slurm.minicluster stop $(MINICLUSTER)

clean: minicluster-stop ## remove runs and the virtual environment
	rm -rf $(VENV) runs
