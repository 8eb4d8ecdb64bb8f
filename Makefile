PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin

# One thread for each of the test processes: more would only wait for each other.
export OMP_NUM_THREADS := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: setup demo test tests lint docs bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable ".[dev,docs,demo]"
	@touch $@

demo: setup
	$(BIN)/ommatid demo

# Linters keep one core busy, so the tests begin beside them.
test: setup
	$(MAKE) --no-print-directory --jobs 2 lint tests

tests: setup
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: setup
	$(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/pytest benchmarks --benchmark-only --benchmark-sort=name

clean:
	rm -rf .venv build dist site demo
