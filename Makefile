# Everything a newcomer types. Each target builds .venv from pyproject.toml when it is missing or out of date.

PYTHON ?= python3
# For the tests and the benchmark of cssm.torch (the CPU build where pip finds one); `make test TORCH=` leaves it out.
TORCH ?= torch==2.13.0 triton
BIN := .venv/bin

.PHONY: venv demo test test-slow lint bench docs constraints clean

venv: .venv/.built

.venv/.built: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

.venv/.torch: .venv/.built
	$(if $(TORCH),$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH))
	touch $@

demo: venv
	$(BIN)/cssm train demo

test: .venv/.torch
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: .venv/.torch
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow -n auto

lint: .venv/.torch
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.torch
	$(BIN)/cssm bench --all

docs: venv
	$(BIN)/python docs/figures.py

constraints: venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python docs/constraints.py

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist
