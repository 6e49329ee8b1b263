# Everything runs in .venv, which `make install` builds and the other targets ask for.
#   make demo PYTHON=python3.12                                              another interpreter
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu" another build of torch
#   make reproduce-wmt14 PLAN=1                                              only list the steps
#   make reproduce-wmt14 SCALE=smoke ATTENTION="softmax rela-g" SEEDS="1 2"  tiny models; some variants; several seeds
#   make reproduce-wmt14 OPTIONS="training.max_updates=100000"               any other option or setting

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Each word quoted by itself: `torch>=2.6` must not redirect, `--index-url URL` must stay two words.
TORCH_WORDS := $(foreach word,$(TORCH),'$(word)')

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format docs bench gpu-check clean FORCE \
	reproduce-wmt14 reproduce-wmt14-en-fr reproduce-wmt18-en-fi reproduce-wmt18-zh-en reproduce-wmt16-ro-en reproduce-multi30k

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-23s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## Create .venv with the pinned dependencies and the package

$(INSTALLED): setup.cfg pyproject.toml scripts/constraints.txt $(VENV)/.torch-wanted
	@echo "== Installing $(TORCH) (the largest download) and nmt_rela into $(VENV)"
	$(BIN)/python -m pip install --disable-pip-version-check $(TORCH_WORDS)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint scripts/constraints.txt --editable '.[analysis,dev,export,huggingface]'
	@touch $@

# Rewritten only when TORCH changes, which makes the installation out of date.
$(VENV)/.torch-wanted: $(BIN)/pip FORCE
	@echo "$(TORCH)" | cmp -s - $@ || echo "$(TORCH)" > $@

$(BIN)/pip:
	@command -v $(PYTHON) > /dev/null \
	  || { echo "make: $(PYTHON) not found; name a Python 3.10 or newer: make install PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "make: $$($(PYTHON) --version 2>&1) is too old; name a Python 3.10 or newer: make install PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { echo "make: $(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (21, 3))' \
	  || $(BIN)/python -m pip install --disable-pip-version-check --upgrade pip
	@touch $@

FORCE:

demo: $(INSTALLED) ## Train a small rela-g model on the embedded corpus, translate, score and draw it
	@$(BIN)/nmt-demo

# One process per core; a file's tests stay in one process, as they use the same trained run.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test: $(INSTALLED) ## Run the fast test suite
	$(PYTEST)

test-all: $(INSTALLED) ## Run every test, the slow ones too
	$(PYTEST) -m "slow or not slow"

lint: $(INSTALLED) ## Check style, types, retired words and the files of the repository
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/tools/check_words.py
	$(BIN)/python scripts/tools/check_repository.py

format: $(INSTALLED) ## Rewrite the code in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## Generate docs/configuration.md from the schema, tables from docs/measurements
	$(BIN)/python scripts/tools/config_reference.py
	$(BIN)/python scripts/tools/gpu_tables.py
	$(BIN)/python scripts/tools/training_records.py
	$(BIN)/python scripts/tools/live_demo.py

bench: $(INSTALLED) ## Measure speed (scripts/benchmarks/bench_*.py)
	@set -e; for script in $(sort $(wildcard scripts/benchmarks/bench_*.py)); do echo "== $$script"; $(BIN)/python $$script; done

gpu-check: $(INSTALLED) ## Check and measure on a GPU what only a GPU shows, in nine minutes, into gpu-check/
	@$(BIN)/python scripts/gpu_check.py $(OPTIONS)

REPRODUCE = $(BIN)/nmt-reproduce $(@:reproduce-%=%) $(if $(PLAN),--plan) $(if $(SCALE),--scale $(SCALE)) \
  $(if $(ATTENTION),--attention "$(ATTENTION)") $(if $(SEEDS),--seeds "$(SEEDS)") $(OPTIONS)

reproduce-wmt14: $(INSTALLED) ## The paper's WMT14 English-German table: all five attentions, end to end
	@$(REPRODUCE)

reproduce-wmt14-en-fr: $(INSTALLED) ## The same for WMT14 English-French
	@$(REPRODUCE)

reproduce-wmt18-en-fi: $(INSTALLED) ## The same for WMT18 English-Finnish
	@$(REPRODUCE)

reproduce-wmt18-zh-en: $(INSTALLED) ## The same for WMT18 Chinese-English
	@$(REPRODUCE)

reproduce-wmt16-ro-en: $(INSTALLED) ## The same for WMT16 Romanian-English
	@$(REPRODUCE)

reproduce-multi30k: $(INSTALLED) ## The same for Multi30k English-German, a small model that a CPU can train
	@$(REPRODUCE)

clean: ## Remove caches and build leftovers; runs, data and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find nmt_rela scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
