# `make demo` and `make test` do everything on a machine that has Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint bench site clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/dimat run --data.split by-class --overwrite true --out runs/demo
	@echo
	@echo "Its plots as a page:    $(BIN)/dimat report runs/demo --out report-of-demo"
	@echo "Against other methods:  $(BIN)/dimat compare configs/small/ring-by-class.yaml"
	@echo "All that dimat can do:  docs/running.md, $(BIN)/dimat --help"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three on two cores: some tests wait for processes. What Python compiles is kept, whatever the
# shell says: each of some fifty processes would compile it again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 3 --dist loadfile

# Ranks of these tests are forked from the test itself, which must not have run threads of others.
FORKED := tests/exchange/test_ranks.py tests/exchange/test_transports.py

test: lint
	$(PYTEST) $(FORKED)
	$(PYTEST) $(FORKED:%=--ignore=%)

test-all: lint
	$(BIN)/pip install --quiet --editable ".[dev,zoo]"
	$(PYTEST) -m "" $(FORKED)
	$(PYTEST) $(FORKED:%=--ignore=%) --no-loadscope-reorder -m ""  # one of minutes is not left to the end

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

site: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
