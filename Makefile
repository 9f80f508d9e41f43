# Needs Python 3.11 or newer (with venv) and nothing else: every target makes .venv first, if it is not there.
#
#   make demo     fine-tune a real language model through the REST API, from nothing
#   make test     formatting, lint, types and all tests
#   make lint     the first three of those
#   make pairs    train every technique with every method, on tiny models
#   make clients  every version of every client that is known to work, unmodified
#   make soak     hours of random faults, while invariants are checked
#   make bench    the benchmarks of this machine's speed
#   make relations  what each paper claims, measured small (an hour)
#   make clean    remove .venv and every cache
#
# Variables: PYTHON   the interpreter that makes .venv (else the newest of 3.11 to 3.13 on the PATH, else python3)
#            PIP_ARGS passed to pip. PyPI's torch for Linux brings CUDA, about 3 GB. A machine without a GPU can do
#                     without: PIP_ARGS="--extra-index-url URL" with the URL of PyTorch's own CPU index.
#            JOBS     how many processes run the tests
#            ARGS     passed to pytest, to the demo, or to the relations

PYTHON ?=
PIP_ARGS ?=
JOBS ?= 3
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
RIGHT_PYTHON := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo test lint pairs clients soak bench relations clean install constraints
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py $(ARGS)

# A process takes whole files, so that what is costly to set up for one is set up once. One thread for each: as many
# processes as cores, each with as many threads, would only be in each other's way.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not clients and not soak and not pairs" $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

PAIRS := tests/worker/engine/test_pairs.py tests/worker/engine/publish/test_clean_environment.py tests/worker/engine/publish/test_published.py
PAIRS += tests/worker/engine/publish/test_bottleneck_files.py tests/end_to_end/test_every_method.py

pairs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" $(PAIRS) $(ARGS)

clients: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "clients or not soak" tests/end_to_end/clients tests/end_to_end/test_document.py $(ARGS)

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak --timeout=0 -s $(ARGS)

bench: $(INSTALLED)
	@set -e; for benchmark in benchmarks/*.py; do echo "== $$benchmark"; PYTHONPATH=. $(BIN)/python $$benchmark; done

relations: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.relations $(ARGS)

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

install: $(INSTALLED)

# The stamp is newer than both files once what they name is installed: a second run has nothing to do.
$(INSTALLED): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(RIGHT_PYTHON)' 2>/dev/null; then \
	  for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if $$python -c '$(RIGHT_PYTHON)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Attune needs Python 3.11 or newer, with its venv module (on Debian: apt install python3-venv)." >&2; \
	    echo "None was found. Name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making .venv with $$found"; \
	  $$found -m venv .venv; \
	fi
	@echo "Installing Attune and all it needs into .venv (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[worker,dev]'
	@touch $@

# After a change of pyproject.toml: what a fresh environment gets today becomes what everyone gets.
constraints: $(INSTALLED)
	$(BIN)/python -m venv --clear .cache/pin
	.cache/pin/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[worker,dev]'
	sed '/^# Generated/q' constraints.txt > .cache/pin/constraints.txt
	.cache/pin/bin/python -m pip freeze --exclude-editable | sed '/^setuptools==/d; /^async-timeout==/d; s/+cpu$$//' >> .cache/pin/constraints.txt
	mv .cache/pin/constraints.txt constraints.txt
