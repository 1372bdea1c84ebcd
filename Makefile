# make demo: install, train on the embedded corpus, evaluate, name the report.
# make test: install, then linters, types and all tests.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check docs clean

demo: .venv/demo.stamp
	$(BIN)/harken demo --out runs/demo --overwrite

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy

docs: .venv/dev.stamp
	$(BIN)/python -c "from harken.recipe_help import reference; print(reference(), end='')" > docs/recipe.md

.venv/pip.stamp:
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'harken needs Python 3.11 or newer'"
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo.stamp: .venv/pip.stamp pyproject.toml constraints.txt
	$(INSTALL) -e '.[report]'
	touch $@

.venv/dev.stamp: .venv/pip.stamp pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $@ .venv/demo.stamp

clean:
	rm -rf .venv runs
