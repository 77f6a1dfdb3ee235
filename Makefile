# make demo   set everything up and run the whole pipeline on real text
# make test   set everything up and run the tests
# make chaos  kill every stage at random, 100 times, and write docs/reliability.md's table
# make performance   write docs/performance.md from benchmarks/results/
# make study  compare the objectives on real text and write docs/study.md (hours; resumable, STUDY_ARGS=--quick: minutes)
# make reference   write docs/recipe.md and recipe.schema.json from pipeline/recipe/
# make check  format, lint, types, import rules
#
# PYTHON=python3.12 chooses the interpreter. TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch without CUDA.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=

STUDY_ARGS ?=

.PHONY: demo test test-fast chaos performance study reference slurm check format clean

demo: $(VENV)/.demo
	$(BIN)/miniend demo

test: $(VENV)/.dev slurm
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# Kills every stage at random moments and compares what comes of it: CHAOS_KILLS=100, CHAOS_SEED=… to repeat one.
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.faults.chaos docs/reliability.md

performance: $(VENV)/.dev
	$(BIN)/python benchmarks/performance.py docs/performance.md

study: $(VENV)/.dev
	$(BIN)/python -m benchmarks.study $(STUDY_ARGS)

reference: $(VENV)/.dev
	$(BIN)/python -m pipeline.recipe.reference docs/recipe.md recipe.schema.json

# A real Slurm for tests/slurm, where it can be installed (root on Debian or Ubuntu); elsewhere these tests are skipped and say so.
# Their cluster has its own configuration, key and ports; nothing under /etc is used.
slurm:
	@PATH="$$PATH:/usr/sbin"; \
	for program in slurmctld slurmd munged sbatch shellcheck; do command -v $$program >/dev/null || missing=1; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing Slurm for tests/slurm"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install --yes --no-install-recommends slurm-wlm munge shellcheck; } >/dev/null 2>&1 \
	  || echo "warning: slurm-wlm, munge and shellcheck could not be installed"; \
	fi

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs .cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "error: Python 3.10 to 3.13 is needed, $(PYTHON) is another: set PYTHON=python3.12, say"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: no venv module: apt-get install python3-venv"; exit 1; }

# torch goes first: DeepSpeed's setup looks for it.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@
