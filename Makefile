# Every target sets up what it needs in .venv; nothing else has to be installed but Python 3.11, 3.12 or 3.13. Of
# sixteen thousand modules few are ever imported, so each is compiled when it first is, not when it is installed.
PYTHON ?= python3
PY := .venv/bin/python
# A worker for each core; tests that share what they trained stay together. One thread for each: the models of the
# tests are too small to share.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo claims test check portable gpu bench report explore lint clean

# Two models trained on a language whose best reader is known, then those of text that are shipped.
demo: .venv/ready
	$(PY) -m experiments.extend experiment=demo
	for base in $(wildcard experiments/bases/*-nano); do \
		$(PY) -m experiments.extend experiment=demo_text checkpoint=$$base || exit 1; done

# All claims at the smallest scale that decides, but those that take text or learn tasks, over this machine's cores; the
# plan is printed first. Killed anywhere, the same goes on.
claims: .venv/ready
	$(PY) -m experiments.reproduce claim=all scale=pico launcher=joblib

test: .venv/ready-dev
	$(PYTEST)

# For the daily loop: lint, and the tests that take under half a second each, a quarter of those that go by hundreds.
# About a minute on two cores.
check: lint
	$(PYTEST) -m "not slow"

# What is computed, once more with the plainest kernels of torch and its libraries: as on other processors.
portable: .venv/ready-dev
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE DNNL_MAX_CPU_ISA=SSE41 $(PYTEST) \
		tests/test_extensions*.py tests/test_gpt*.py tests/test_laws*.py tests/test_loss*.py tests/test_passkey*.py \
		tests/test_perplexity*.py tests/test_positions*.py tests/test_switch*.py

# On a machine with a GPU: what is to be the same there as on its CPU.
gpu: .venv/ready-dev
	$(PY) -m pytest -m gpu

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
	$(PY) -m mypy

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --no-compile --requirement requirements.txt
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt requirements-peers.txt
	$(PY) -m pip install --quiet --no-compile --requirement requirements-dev.txt
	$(PY) -m pip install --quiet --no-compile --no-deps --requirement requirements-peers.txt
	touch $@

clean:
	rm -rf .venv .cache
