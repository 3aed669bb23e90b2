# Every target works on a fresh machine: the first one called makes .venv and installs into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINES := $(VENV)/.installed-engines
# Tests and the demo start several processes: keep each from using all cores.
WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-engines test-all lint format types smoke reproduce benchmark clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Make .venv and install kanzoo with its development tools, once

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

$(ENGINES): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,ray,slurm]"
	touch $@

demo: $(STAMP) ## Compare KANs with their MLP twins on real digits: a verdict table and a report
	$(BIN)/python scripts/compare.py study=demo

test: $(STAMP) ## Fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not engines" -n $(WORKERS) --dist worksteal

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not engines" -n $(WORKERS) --dist worksteal --durations=20

# They wait most of the time; a file has a cluster of its own.
CLUSTERS := -m engines -n 2 --dist loadfile $(wildcard tests/test_engine_*.py)

# Daemons of clusters may be slow to start on a busy machine: what failed is tried once more.
test-engines: $(ENGINES) ## Tests on real Ray and SLURM clusters, started where they can be
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(CLUSTERS) || \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(CLUSTERS) --last-failed

test-all: test test-slow ## All tests but those of clusters

lint: $(STAMP) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Rewrite files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## Check types
	$(BIN)/mypy

smoke: $(STAMP) ## Two steps of every architecture as MLP and as KAN
	$(BIN)/python scripts/compare.py study=smoke overwrite=true
	$(BIN)/python scripts/compare.py study=smoke_dense overwrite=true
	$(BIN)/python scripts/compare.py study=smoke_graph overwrite=true

reproduce: $(STAMP) ## Repeat published figures on real data (hours; goes on where it was)
	$(BIN)/python scripts/reproduce.py

benchmark: $(STAMP) ## Time layers against the dense limit
	$(BIN)/python scripts/benchmark.py layers

clean: ## Remove .venv, caches and build products; runs/ and data/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
