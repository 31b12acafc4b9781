# make demo    install into .venv, then immunise, attack, score and report the built-in model
# make test    install the test tools as well, then lint, type check and run every test
# make faults  every fault trial: kills, full disks, damaged files, spoilt input (docs/faults.md; about an hour)
# make test-integrations  install lm-eval and Inspect beside that, then run the tests that need them
# make lint    the lint and type check alone
# make search-defenses   choose every defence's hyper-parameters on dev (hours; resumes); SET="booster sam" for some
# make bench-defenses    measure them over three seeds (hours; resumes); SET="immunize.steps=96" changes the recipe
# make bench-distil    noise_and_distil against its teacher at equal distance from the base (an hour; resumes)
# make bench-recipes     run every paper recipe on the built-in model, at SCALE=0.001 of its size (half an hour; resumes)
# make bench       time and memory of the engine as ratios (docs/engine.md; 20 minutes); SECTIONS="steps growth" for some
# make bench-check hold a quick run against those ratios: 1 if one is a regression (2 minutes)
# make bench-generation  time an evaluation's answers against one prompt at a time (docs/generation.md; minutes)
# make bench-plan  hold the capacity plan against measurement (docs/plan.md; minutes)
# make clean   remove .venv and caches; results in runs/ stay
#
# PYTHON=python3.12   the interpreter to build .venv with (3.11 or newer)
# TORCH_INDEX=URL     the package index to take torch from (a CPU build, another CUDA version)

PYTHON ?= python3
SCALE ?= 0.001
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
BOTH := $(VENV)/integrations
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: help demo test faults test-integrations lint search-defenses bench bench-check bench-defenses bench-distil bench-recipes bench-generation bench-plan clean

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

demo: $(VENV)/stamp-demo
	$(BIN)/boostershot run quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations=15

faults: $(VENV)/stamp-test
	$(BIN)/python -m pytest tests/faults tests/pipeline/test_ray.py -m "faults or not faults" --timeout=1800

test-integrations: $(VENV)/stamp-integrations
	$(BOTH)/bin/python -m pytest tests/integrations

lint: $(VENV)/stamp-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --pythonpath $(BIN)/python

search-defenses: $(VENV)/stamp-demo
	$(BIN)/python bench/defenses.py search $(SET)

bench-defenses: $(VENV)/stamp-demo
	$(BIN)/python bench/defenses.py table $(SET)

bench: $(VENV)/stamp-demo
	PYTHONPATH=bench $(BIN)/python -m engine $(SECTIONS)

bench-check: $(VENV)/stamp-demo
	PYTHONPATH=bench $(BIN)/python -m engine check

bench-generation: $(VENV)/stamp-demo
	$(BIN)/python bench/generation.py

bench-plan: $(VENV)/stamp-demo
	$(BIN)/python bench/plan.py

bench-distil: $(VENV)/stamp-demo
	$(BIN)/python bench/noise_and_distil.py $(SET)

bench-recipes: $(VENV)/stamp-demo
	$(BIN)/python bench/recipes.py $(SCALE) $(SET)

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so an interrupted installation is done again and a finished one is not.
# Each check below is a sentence for what would otherwise be a page of pip's output. A .venv that works already,
# made by hand say, is kept; half of one is not.
$(VENV)/stamp-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo '$(PYTHON) has no venv module; install it (Debian: apt install python3-venv)' >&2; exit 1; }
	@$(PYTHON) -c 'import os, shutil, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h")); \
	  assert shutil.which((os.environ.get("CC") or s.get_config_var("CC")).split()[0])' 2>/dev/null || \
	  { echo 'a C compiler and the headers of $(PYTHON) are needed to build pycosat (Debian: apt install gcc python3-dev)' >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { echo 'Making $(VENV)'; $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

# torch comes first and alone, because it may come from another index than the rest.
$(VENV)/stamp-demo: requirements.lock requirements-data.lock pyproject.toml | $(VENV)/stamp-python
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' requirements.lock)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps -r requirements-data.lock
	$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/stamp-test: requirements-test.lock $(VENV)/stamp-demo
	$(PIP) install -r requirements-test.lock
	@touch $@

# lm-eval and Inspect want older versions of two packages that requirements.lock pins, so they lie before them, not there.
$(VENV)/stamp-integrations: requirements-integrations.lock $(VENV)/stamp-test
	$(BIN)/python -m venv --clear $(BOTH)
	$(BOTH)/bin/python -m pip --disable-pip-version-check --no-input install --no-deps -r requirements-integrations.lock
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib")); print("$(CURDIR)/src")' > \
	  $$($(BOTH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth
	@touch $@
