# Everything a newcomer or a CI needs. Each target first makes the environment, if it is missing or out of date.
#   make demo        the whole product on the miniature, from prompts to a report (runs/demo/)
#   make test        every test: in two processes, and then in one those that start Ray
#   make test-fast   the tests without Ray
#   make campaign    the long tests, of minutes each
#   make full-size   the papers' 159,040 images on the miniature, about two hours (docs/results/full_size.md)
#   make docs        the documentation as pages (docs/_build/), every warning an error
#   make chaos       the whole pipeline on four nodes while things are killed, half an hour at most
#   make lint types format benchmarks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread per process: two torch threads on two busy cores wait for each other.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo test test-fast campaign chaos docs lint types format benchmarks full-size env
.DEFAULT_GOAL := demo

demo: env
	HF_HUB_OFFLINE=1 $(BIN)/valign demo

test: env
	$(BIN)/python -m pytest -n 2 --maxschedchunk 1 -m "not ray and not gpu and not campaign and not chaos"
	$(BIN)/python -m pytest -m "ray and not gpu and not campaign and not chaos"

test-fast: env
	$(BIN)/python -m pytest -m "not ray and not slow and not gpu and not campaign and not chaos"

campaign: env
	$(BIN)/python -m pytest -m campaign

chaos: env
	$(BIN)/python -m pytest -m chaos -s

docs: env
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: env
	@set -e; for script in $$(ls benchmarks/*.py | grep -v full_size); do echo "== $$script"; $(BIN)/python $$script; done

# Killed, it goes on where it was.
full-size: env
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/full_size.py

env: $(READY)

# torch and torchvision are resolved in this one command: installed one after the other they may not fit.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
