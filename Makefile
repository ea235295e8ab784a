# Everything a newcomer types. Each target builds .venv from pyproject.toml when it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-slow lint bench docs constraints clean

venv: .venv/.built

.venv/.built: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

demo: venv
	$(BIN)/cssm train demo

test: venv
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: venv
	$(BIN)/python -m pytest -m slow -n auto

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: venv
	$(BIN)/cssm bench --all

docs: venv
	$(BIN)/python docs/figures.py

constraints: venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python docs/constraints.py

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist
