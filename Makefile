# Everything installs what it needs first (scripts/setup), and that is quick the second time.
# On a machine without make: scripts/setup demo

PYTHON ?= python3
BIN := .venv/bin
# Files of tests at a time: a guest or a compiler keeps one processor busy.
JOBS ?= 2

.PHONY: help venv test-venv demo test soak unit lint bench matrix clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a real security fix, from source to a running kernel, in QEMU"
	@echo "make test    every test, the ones that boot kernels included"
	@echo "make soak    the long tests, minutes each, which make test leaves out"
	@echo "make unit    the quick tests only (seconds, no network)"
	@echo "make lint    style, types, layers"
	@echo "make bench   measurements"
	@echo "make matrix  each kernel with each engine, in QEMU; writes docs/support.md (goes on where it was)"
	@echo "make venv    only what the others need: packages and .venv"

venv:
	@$(PYTHON) scripts/setup

test-venv:
	@$(PYTHON) scripts/setup --tests

demo: venv
	@$(BIN)/rebootless demo

test: test-venv
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder tests

soak: test-venv
	@$(BIN)/python -m pytest -m soak tests

unit: venv
	@$(BIN)/python -m pytest tests/lint tests/unit

lint: venv
	@$(BIN)/python -m pytest -q tests/lint

bench: venv
	@set -e; for b in $(wildcard bench/*.py); do echo "== $$b"; $(BIN)/python $$b; done

matrix: venv
	@$(BIN)/python scripts/matrix.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
