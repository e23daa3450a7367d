# Two commands do everything on a fresh machine: `make search` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
TARGET ?= jetson-orin
BUDGET ?= 20ms
MODEL  ?=
DATA   ?=

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export PIP_NO_WARN_SCRIPT_LOCATION = 1

.PHONY: search test test-all setup lint format wheel clean help

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(READY) ## Create .venv and install the tested versions

# torch first and by its exact version: a range would pull another build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable '.[dev]'
	@touch $@

search: $(READY) ## Set up, then search the best model for TARGET within BUDGET (MODEL= and DATA= for your own)
	$(BIN)/nas search --target '$(TARGET)' --budget '$(BUDGET)' $(if $(MODEL),--model '$(MODEL)') $(if $(DATA),--data '$(DATA)')

test: lint ## Set up, then ruff, mypy and the fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

test-all: lint ## The slow tests too
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 20 -m ''

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY) ## Build the wheel, default model included
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what was built
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
