# `make run` and `make test` need Python 3.11 or later and nothing else. They install into .venv, and again when a
# dependency changes: `make run` what serving needs, `make test` also what the tests need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVICE := $(VENV)/.service
INSTALLED := $(VENV)/.installed
export PATH := $(PATH):/usr/sbin

# A process for each CPU. The tests of a file share what it prepares, so they stay together. The order of the files is
# that of tests/conftest.py, the slowest first; xdist's own would begin with the file of the most tests.
IN_PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

# Tests start many processes. Each would compile all source files again without bytecode on the disk.
unexport PYTHONDONTWRITEBYTECODE

# Where the targets for a GPU run: on device GPU, with the Python of .venv, or, with nothing installed, with AMBIENT,
# whose packages may be of other versions, and warn.
GPU ?= cuda:0
AMBIENT ?=
GPU_NEEDS := $(if $(AMBIENT),,$(INSTALLED))
ON_GPU = PYTHONPATH=$(CURDIR)/client:$(CURDIR)/service$${PYTHONPATH:+:$$PYTHONPATH} $(or $(AMBIENT),$(BIN)/python)

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-all test-page test-cuda test-clients check lint format notebooks bench bench-cuda soak verify build clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SERVICE)  ## serve on 127.0.0.1:8000, or as WEIGHTWELL_* says
	@$(BIN)/python -m weightwell_service

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-fast: $(INSTALLED)  ## the tests for the inner loop: all but the slow files (tests/conftest.py)
	$(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow'

test-all: $(INSTALLED)  ## all tests with every case of them: `make test` leaves out cases that differ little
	$(BIN)/python -m pytest $(IN_PARALLEL) --exhaustive

test-page: tool-chromium $(INSTALLED)  ## the page, driven in a headless Chromium; `make test` skips it without one
	$(BIN)/python -m pytest tests/page --exhaustive

test-cuda: $(GPU_NEEDS)  ## what only a GPU can show; docs/cuda.md
	$(ON_GPU) -m pytest tests/cuda --gpu $(GPU) $(if $(AMBIENT),-W default)

test-clients: $(INSTALLED)  ## clients of the Hub and of S3, and Ray, in pinned versions, installed into .venv/clients
	$(BIN)/python -m pytest tests/clients

check: lint test  ## all that a commit has to pass

lint: $(INSTALLED)  ## format, style, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

notebooks: $(INSTALLED)  ## execute the notebooks of examples/, and write their outputs into them
	$(BIN)/python examples/notebooks/execute.py

bench: tool-curl tool-nginx $(INSTALLED)  ## speed, as ratios to torch and to nginx (minutes)
	$(BIN)/python -m benchmarks.generators
	$(BIN)/python -m benchmarks.orthogonal
	$(BIN)/python -m benchmarks.http
	$(BIN)/python -m benchmarks.requests
	$(BIN)/python -m benchmarks.local
	$(BIN)/python -m benchmarks.hub
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m benchmarks.proxies
	$(BIN)/python -m benchmarks.workers

bench-cuda: $(GPU_NEEDS)  ## speed on a GPU, as ratios to torch and to plain copies (minutes)
	$(ON_GPU) -m benchmarks.cuda --gpu $(GPU)

soak: tool-curl tool-nginx tool-haproxy $(INSTALLED)  ## what clients that misbehave and restarts cost, with goals (an hour)
	$(BIN)/python -m benchmarks.soak

verify: tool-dieharder $(INSTALLED)  ## the generator's exhaustive and statistical proof (an hour), and the theory's
	$(BIN)/python -m benchmarks.verify
	$(BIN)/python -m benchmarks.theory

build: $(INSTALLED)  ## the wheel and the source distribution, into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## forget all of it
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

PIP = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

# pip compiles the 17,000 source files of the packages in one process, which takes more than a minute; compileall uses
# all CPUs. Some packages have files for other versions of Python, which do not compile and are not imported.
COMPILED = $(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true

# --group needs pip 25.1.
$(VENV)/.pip:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# PyPI's torch for Linux is the build for CUDA, which is gigabytes. Without a GPU, and without a choice of an index in
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL), take the build for the CPU if its index can be reached.
CPU_TORCH := https://download.pytorch.org/whl/cpu
$(VENV)/.torch: $(VENV)/.pip constraints.txt
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && [ -z "$$PIP_INDEX_URL$$PIP_EXTRA_INDEX_URL" ]; \
	then $(PIP) --no-deps --retries 0 --timeout 10 --index-url $(CPU_TORCH) torch 2>/dev/null || true; fi
	@touch $@

$(SERVICE): pyproject.toml constraints.txt | $(VENV)/.torch
	@echo "Installing what the service needs into $(VENV); the first time takes minutes."
	@$(PIP) --editable '.[service]'
	@$(COMPILED)
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/.torch
	@echo "Installing what the service and its tests need into $(VENV); the first time takes minutes."
	@$(PIP) --editable '.[service,telemetry,numpy,torch,plots]' --group dev
	@$(COMPILED)
	@touch $(SERVICE) $@

tool-%:
	@command -v $* >/dev/null || { echo "$* is needed and not on the PATH; on Debian: apt-get install $*" >&2; exit 1; }
