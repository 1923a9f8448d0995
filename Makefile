# Every target stands alone on a fresh machine: it makes the environment it needs, inside the project.
#
#   make demo TORCH="torch==2.13.0 --index-url <the CPU builds' index>"   another build of torch
#   make test PYTHON=python3.12                                           another interpreter
#   make bench DATA=path/to/folder      where cifar10.zip and its kin are (studies/local.yaml lists them)
#   make test JOBS=4                    tests in so many processes; by default as many as there are cores

PYTHON ?= python3
TORCH ?= torch==2.13.0
DATA ?= ../shared/data
JOBS ?= auto

VENV := .venv
BASE := .venv-base
CLAIMS := .venv-claims
DIST := .venv-dist
# From arrays to answers: tests that need no extra. Where one test of a file does, it is skipped and says so.
CORE := $(addprefix tests/, features/ parts/test_parts.py curves/test_redundancy.py curves/test_cells.py \
	curves/test_measure.py deploy/test_choose.py linalg/test_moments.py io/test_files.py \
	sources/test_selection.py scores/test_contract.py whole/test_archive.py)
# Memory that glibc gives back after each batch of a network, it fetches again page by page, which can take half the time.
KEEP_MEMORY := MALLOC_TOP_PAD_=268435456 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=4294967296
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: setup demo test lint bench bench-gpu probes diffusion intervals throughput study docs attacks toys dist dist-toy clean

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	$(VENV)/bin/critmass demo --out critmass-demo

test: $(VENV)/.dev $(BASE)/.base
	$(BASE)/bin/python -m pytest -n $(JOBS) tests/whole/base_install.py $(CORE)
	$(KEEP_MEMORY) $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# What is measured and written into the repository; docs/measured.json says on which source.
bench: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/bench.py --data $(DATA)

bench-gpu: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/gpu.py --device cuda

probes: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/probes.py --data $(DATA)

throughput: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/extraction.py --data $(DATA)

diffusion: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/diffusion.py --data $(DATA)

intervals: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/intervals.py

study: $(CLAIMS)/.claims
	$(KEEP_MEMORY) $(CLAIMS)/bin/python benchmarks/results.py --data $(DATA)

docs: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/figure.py

attacks: $(CLAIMS)/.claims
	$(CLAIMS)/bin/python benchmarks/attacks.py

# All of these on a handful of rows, into a folder that is thrown away: to know that they run.
toys: $(CLAIMS)/.claims
	set -e; for each in bench probes diffusion extraction intervals results figure attacks; do \
		$(KEEP_MEMORY) $(CLAIMS)/bin/python benchmarks/$$each.py --toy; \
	done
	$(CLAIMS)/bin/python benchmarks/gpu.py --toy --device torch:cpu

# Wheel and sdist, and the wheel alone in an empty environment: arrays first, then the demo with its extra.
dist: $(DIST)/.build
	.ci/dist $(DIST) "$(TORCH)"

dist-toy: $(DIST)/.build
	.ci/dist $(DIST) "$(TORCH)" --toy

clean:
	rm -rf $(VENV) $(BASE) $(CLAIMS) $(DIST) dist critmass-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

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

# Its own environment: PyPI's torchvision does not load beside a CPU build of torch, and nothing here needs it.
$(CLAIMS)/.claims: pyproject.toml
	$(PYTHON) -m venv $(CLAIMS)
	$(CLAIMS)/bin/python -m pip install $(PIP_FLAGS) $(TORCH)
	$(CLAIMS)/bin/python -m pip install $(PIP_FLAGS) -e ".[sklearn,weights]"
	touch $@

$(DIST)/.build:
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install $(PIP_FLAGS) build twine
	touch $@

# Only what `pip install critmass` brings, and what tests are written with, to prove that arrays need no more.
$(BASE)/.base: pyproject.toml
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip install $(PIP_FLAGS) -e . pytest pytest-xdist hypothesis
	touch $@
