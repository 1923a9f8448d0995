# Every target stands alone on a fresh machine: it makes the environment it needs, inside the project.
#
#   make demo TORCH="torch==2.13.0 --index-url <the CPU builds' index>"   another build of torch
#   make test PYTHON=python3.12                                           another interpreter
#   make bench DATA=path/to/folder      where cifar10.zip and banking77_*.csv are
#   make test JOBS=4                    tests in so many processes; by default as many as there are cores

PYTHON ?= python3
TORCH ?= torch==2.13.0
DATA ?= ../shared/data
JOBS ?= auto

VENV := .venv
BASE := .venv-base
STUDY := .venv-study
# From arrays to answers: tests that need no extra. Where one test of a file does, it is skipped and says so.
CORE := $(addprefix tests/, test_features.py test_store.py test_shards.py test_validation.py test_readers.py \
	test_files.py test_parts.py test_redundancy.py test_results.py test_measuring.py test_mitigation.py \
	test_moments.py sources/test_selection.py scores/test_contract.py whole/test_archive.py)
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: setup demo test lint bench probes intervals throughput study docs clean

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	$(VENV)/bin/critmass demo --out critmass-demo

test: $(VENV)/.dev $(BASE)/.base
	$(BASE)/bin/python -m pytest tests/whole/base_install.py $(CORE)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/bench.py --data $(DATA)

probes: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/probes.py --data $(DATA)

throughput: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/extraction.py --data $(DATA)

intervals: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/intervals.py

# Its own environment: PyPI's torchvision does not load beside a CPU build of torch, and nothing here needs it.
study: $(STUDY)/.study
	$(STUDY)/bin/critmass study run studies/local.yaml --data $(DATA)
	$(STUDY)/bin/python benchmarks/results.py studies/local.yaml

docs: $(VENV)/.dev
	$(VENV)/bin/critmass demo --out critmass-demo
	cp critmass-demo/curve.svg docs/images/curve.svg
	$(VENV)/bin/python -m pytest tests/whole/test_docs.py

clean:
	rm -rf $(VENV) $(BASE) $(STUDY) critmass-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Torch first, alone: so that nothing else chooses a build of it.
$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -e ".[dev]"
	touch $(VENV)/.demo $@

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -e ".[demo]"
	touch $@

$(STUDY)/.study: pyproject.toml
	$(PYTHON) -m venv $(STUDY)
	$(STUDY)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	$(STUDY)/bin/python -m pip install $(PIP_FLAGS) -e ".[report,weights]"
	touch $@

# Only what `pip install critmass` brings, and what tests are written with, to prove that arrays need no more.
$(BASE)/.base: pyproject.toml
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip install $(PIP_FLAGS) -e . pytest hypothesis
	touch $@
