# Every target sets up what it needs: `make run` and `make test` work on a fresh machine with Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: run test check bench build format clean

run: $(INSTALLED)  ## serve on 127.0.0.1:8000
	$(BIN)/weightwell-service

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest

check: $(INSTALLED)  ## format, lint, types, architecture, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(INSTALLED)  ## the wheel and the source distribution, into dist/
	$(BIN)/python -m build --installer pip

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[service,numpy,torch]' --group dev
	touch $@
