# make demo: from nothing to ranked anomaly costs.  make setup: the environment alone.
# make test: lint, and the tests of ten minutes.  make test-all: every test, with torch; what CI runs.
# make test-long: kills, mutations and away times at full length, an hour.
# make lint, make types, make coverage: one check alone.  make train: what training a detector needs as well (torch).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := demo
.PHONY: demo pictures setup train lint types test test-all test-long coverage lock clean

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
DEMO := demo
# Megabytes that the environment, its download cache and a demo take, with some air.
NEEDED_MB := 3000
# And torch with its CUDA libraries, which it does not import without.
TRAIN_NEEDED_MB := 8000
# What client and workers of a run import. Their bytecode is written once: where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, each process of each start would compile it all again, for two seconds.
IMPORTED := import jobs.anomaly_cost, jobs.migrate, kafka, pyflink.fn_execution.beam.beam_sdk_worker_main
# Two at a time; tests/conftest.py says what runs beside what.
PYTEST := $(PY) -m pytest --numprocesses 2

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "setup: Python 3.11 is needed and '$(PYTHON)' was not found; install it or call make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and f"setup: Python 3.11 is needed (apache-flink 2.2 has no wheels for others), {sys.executable} is {v[0]}.{v[1]}")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "setup: $(PYTHON) lacks the venv module; install it (Debian: apt-get install python3.11-venv)" >&2; exit 1; }
	@free=$$(df -Pm . | awk 'NR == 2 { print $$4 }'); [ "$$free" -ge $(NEEDED_MB) ] || { echo "setup: $(NEEDED_MB) MB of disk are needed, $$free MB are free in $$PWD" >&2; exit 1; }
	@echo "setup: creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "setup: installing $$(grep -c '==' requirements.lock) packages (about 0.5 GB to download when none is cached)"
	@$(PY) -m pip --disable-pip-version-check install --quiet uv==0.13.9 || { echo "setup: pip could not install uv, see above" >&2; exit 1; }
	@$(PY) -m uv pip install --quiet --python $(PY) --requirements requirements.lock || { command -v cc >/dev/null || echo "setup: no C compiler was found; a package above had to be compiled (Debian: apt-get install gcc)" >&2; echo "setup: a package could not be installed, see above" >&2; exit 1; }
	@PYTHONDONTWRITEBYTECODE= $(PY) -c '$(IMPORTED)'
	@touch $@

train: $(VENV)/.installed-train

$(VENV)/.installed-train: $(VENV)/.installed requirements-train.lock
	@free=$$(df -Pm . | awk 'NR == 2 { print $$4 }'); [ "$$free" -ge $(TRAIN_NEEDED_MB) ] || { echo "train: $(TRAIN_NEEDED_MB) MB of disk are needed, $$free MB are free in $$PWD" >&2; exit 1; }
	@echo "train: installing torch (about 2 GB to download when it is not cached)"
	@$(PY) -m uv pip install --quiet --python $(PY) --no-deps --requirements requirements-train.lock || { echo "train: torch could not be installed, see above" >&2; exit 1; }
	@touch $@

demo: setup
	@rm -rf $(DEMO)
	@$(PY) -m simulator --output $(DEMO)/world --seed 7 --services 20 --days 0.5 --requests-per-day 20000
	@$(PY) -m jobs.anomaly_cost --input $(DEMO)/world --output $(DEMO)/tables
	@$(PY) -m jobs.report --tables $(DEMO)/tables --input $(DEMO)/world --html $(DEMO)/report.html

# The report's pictures in docs/, of the demo.
pictures:
	@[ -f $(DEMO)/report.html ] || $(MAKE) --no-print-directory demo
	@$(PY) -m tests.pictures $(DEMO)/report.html docs

# What has to pass before the tests.
CHECKS := lint types

lint: setup
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: setup
	@$(PY) -m mypy

test: setup $(CHECKS)
	@$(PYTEST) -m "not slow"

test-all: train $(CHECKS)
	@$(PYTEST) --durations 40 --durations-min 20

test-long: setup
	@ANOMALY_COST_LONG=1 $(PYTEST) -m long

# Of the mathematics, by the tests of `make test` that start no engine.
coverage: setup
	@$(PYTEST) -m "not slow and not minicluster" --cov --cov-report term

lock:
	@$(PY) -m uv pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements.in --output-file requirements.lock
	@$(PY) -m uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --constraint requirements.lock --override requirements-train.override requirements-train.in --output-file requirements-train.lock

clean:
	@rm -rf $(VENV) $(DEMO) build
