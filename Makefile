# Two commands set everything up: `make demo` and `make test`. Both work on a bare machine with python3 >= 3.10.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCHED := $(VENV)/.bench
# Processes that run tests side by side: one for each core, four at most. `make test WORKERS=1` for another number.
WORKERS ?= auto

.PHONY: demo test test-fast bench lint clean help

help:
	@echo "make demo   install, then train and evaluate gddim_vp at quick scale (minutes on two CPU cores)"
	@echo "make test   install, then run every test, on up to four cores (WORKERS=1: on one)"
	@echo "make bench  install with diffusers, then measure what sampling and training cost (minutes; ratios with targets)"
	@echo "make lint   install, then ruff"
	@echo "make clean  remove the virtual environment and caches (run folders stay)"

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "diffexp needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m diffexp +experiment=gddim_vp +scale=quick

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m 'not slow'

$(BENCHED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	touch $@

bench: $(BENCHED)
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist *.egg-info
