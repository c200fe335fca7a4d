# Two commands: `make run` builds the default runs and prints where the report is; `make test` runs the tests.
# Each makes its own environment in .venv first. Variables: PYTHON (>= 3.11), CORES, RUNS='[name, path.yaml]', TESTS.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
TESTS ?= tests
BIN := $(VENV)/bin
INSTALL := python -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/$(INSTALL) --constraint constraints.txt
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
CONFIG := $(if $(RUNS),--config 'runs=$(RUNS)')
PEERS := .venv-peers .venv-peers-jax

export PATH := $(CURDIR)/$(BIN):$(PATH)
# glibc gives large arrays back to the kernel after every operation unless told not to: 1.1 to 2 times slower
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 2147483647
export MALLOC_TOP_PAD_ := 67108864

.PHONY: help run smoke test slurm check lint soak peers docs clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || grep '##' Makefile

run: $(VENV)/.run  ## the default runs, from raw data to the report, whose path is printed last
	@$(SNAKEMAKE) $(CONFIG) --quiet host rules
	@printf '\nDone. Open this report in a browser:\n%s\n' "$(CURDIR)/results/index.html"

smoke: $(VENV)/.run  ## the same at a size of seconds
	@$(SNAKEMAKE) --config smoke=true $(if $(RUNS),'runs=$(RUNS)') --quiet host rules

test: $(VENV)/.test  ## all tests but the soak tests and those on a cluster
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not soak and not slurm" $(TESTS)

slurm: $(VENV)-slurm/.done  ## the tests on a real SLURM, started here for them: needs root, slurmctld and slurmd
	@OMP_NUM_THREADS=1 $(VENV)-slurm/bin/python -m pytest -m slurm $(TESTS)

check: lint  ## for every commit: style, types, workflow, fast laws
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not soak" tests/laws tests/test_layers.py

lint: $(VENV)/.test  ## style, types and workflow alone
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/snakefmt --check Snakefile workflows 2>/dev/null || { $(BIN)/snakefmt --diff Snakefile workflows; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/snakemake --lint
	@$(BIN)/snakemake --dry-run -- all_runs >/dev/null
	@echo "Style, types and workflow are clean."

soak: $(VENV)/.test  ## long tests: kill and resume, and benchmarks
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --timeout 3600 $(TESTS)

peers: $(VENV)/.test $(addsuffix /.done,$(PEERS))  ## environments of the libraries we compare with, and the comparison
	@$(BIN)/python benchmarks/overhead.py
	@$(BIN)/python benchmarks/parity.py
	@$(BIN)/python benchmarks/solvers.py
	@$(BIN)/python benchmarks/imaging.py

docs: $(VENV)/.docs  ## the documentation, in docs/_build/html
	@$(BIN)/sphinx-build -W --keep-going --quiet -b html docs docs/_build/html
	@echo "Open $(CURDIR)/docs/_build/html/index.html"

clean:  ## remove environments and caches; results stay
	rm -rf $(VENV) $(VENV)-slurm $(PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sciflow needs Python >= 3.11, $(PYTHON) is older. Use: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing torch (the largest part; minutes on a slow line)"
	@$(PIP) torch
	@echo "Installing sciflow and what the default runs need"
	@$(PIP) --editable ".[imaging]"
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Installing what the tests need"
	@$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo "Installing what the documentation needs"
	@$(PIP) --editable ".[docs]"
	@touch $@

# The executor plugin slows every start of Snakemake by two seconds: beside the environment of the tests, not in it.
$(VENV)-slurm/.done: constraints.txt | $(VENV)/.test
	@echo "Installing Snakemake's plugin for SLURM"
	@$(PYTHON) -m venv $(VENV)-slurm
	@folder() { "$$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	  echo "import site; site.addsitedir('$$(folder $(BIN)/python)')" >"$$(folder $(VENV)-slurm/bin/python)/tests.pth"
	@$(VENV)-slurm/bin/$(INSTALL) --constraint constraints.txt "snakemake-executor-plugin-slurm>=2"
	@touch $@

# Several peers pin versions that they do not need: those are listed whole and installed without dependencies.
.venv-peers/.done: benchmarks/peers.txt constraints.txt | $(BIN)/python
	@echo "Installing the peers that run on torch"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/$(INSTALL) --constraint constraints.txt torch numpy scipy Pillow PyYAML requests tqdm packaging
	@.venv-peers/bin/$(INSTALL) --no-deps -r $<
	@touch $@

.venv-peers-jax/.done: benchmarks/peers-jax.txt | $(BIN)/python
	@echo "Installing the peers that run on JAX"
	@$(PYTHON) -m venv .venv-peers-jax
	@.venv-peers-jax/bin/$(INSTALL) -r $<
	@touch $@
