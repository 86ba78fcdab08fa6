# Every target sets up what it needs in .venv; nothing else has to be installed but Python 3.11 or 3.12.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo claims test bench report explore lint clean

demo: .venv/ready
	$(PY) -m experiments.extend experiment=demo

# Every claim at the smallest scale that decides, over this machine's cores; the plan is printed first. Killed anywhere,
# the same goes on.
claims: .venv/ready
	$(PY) -m experiments.reproduce claim=all scale=pico launcher=joblib

# One thread: the models of the tests are too small to share.
test: .venv/ready-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest

# Wants the machine to itself.
bench: .venv/ready-dev
	$(PY) -m experiments.benchmark

# What is in experiments/results/claims, as a page and as a table.
report: .venv/ready
	$(PY) -m experiments.report readme=experiments/reproduce/README.md

# The explorable page of positions, one file.
explore: .venv/ready
	$(PY) -m experiments.explore

lint: .venv/ready-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt requirements-peers.txt
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	$(PY) -m pip install --quiet --no-deps --requirement requirements-peers.txt
	touch $@

clean:
	rm -rf .venv .cache
