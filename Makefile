# `make` lists the targets. Needs Python 3.11 to 3.13 with pip, and nothing else; uses uv where it is on PATH.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

HOST ?= 127.0.0.1
PORT ?= 8000
# DEVICE=gpu serves with TensorFlow for NVIDIA GPUs, from a separate environment.
DEVICE ?= cpu
# ENGINE=ray serves with replicas in a Ray cluster on this machine, from a separate environment.
ENGINE ?= local
# The interpreter for the environment: the first suitable one, unless PYTHON is set.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

ifeq ($(DEVICE),gpu)
VENV ?= .venv-gpu
LOCK := requirements/gpu.txt
else ifeq ($(ENGINE),ray)
VENV ?= .venv-ray
LOCK := requirements/ray.txt
else
VENV ?= .venv
LOCK := requirements/serve.txt
endif
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL = $(UV) pip install --python $(BIN)/python --require-hashes
else
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-input --require-hashes
endif

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: HOST, PORT, PYTHON, DEVICE=cpu|gpu, ENGINE=local|ray, VENV; the service's own: docs/configuration.md"

# --- environment: a stamp file per lock file, so that nothing is installed twice ---

# A stamp file here too: an environment whose creation was interrupted has python but no pip.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 was found on PATH. Install one, or set it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c '' 2>/dev/null || { echo "$(PYTHON) does not run as a Python interpreter. Set another one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$(PYTHON) is Python $$($(PYTHON) -c 'import platform; print(platform.python_version())'); 3.11 to 3.13 is needed. Set another one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "[setup] creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@touch $@

$(VENV)/.serve: $(LOCK) | $(VENV)/.made
	@echo "[setup] installing $(LOCK) (several hundred megabytes; takes minutes the first time)"
	@$(INSTALL) -r $(LOCK)
	@touch $@
	@echo "[setup] $(VENV) is ready to serve"

$(VENV)/.dev: requirements/dev.txt $(LOCK) | $(VENV)/.made
	@echo "[setup] installing requirements/dev.txt (several hundred megabytes; takes minutes the first time)"
	@$(INSTALL) -r requirements/dev.txt $(if $(filter ray,$(ENGINE)),-r $(LOCK))
	@touch $(VENV)/.serve $@
	@echo "[setup] $(VENV) is ready to test"

.PHONY: setup
setup: $(VENV)/.dev ## create the environment for working on this repository

# --- serve ---

# Networks on a CPU are 5 % faster with huge pages (docs/operations.md).
HUGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: serve
serve: $(VENV)/.serve ## install what is missing, load the models, serve on HOST:PORT
	@echo "[serve] starting on http://$(HOST):$(PORT)/"
	@$(HUGE_PAGES) RESTORE_HOST=$(HOST) RESTORE_PORT=$(PORT) RESTORE_ENGINE=$(ENGINE) exec $(BIN)/python -m app

# --- test ---

PYTEST = $(BIN)/python -m pytest
# A process a core, at most four: each imports TensorFlow and starts services of its own. ARGS=-n0 uses one.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: test
test: $(VENV)/.dev ## all tests but the slow ones; needs no network and no GPU
	@$(PYTEST) $(PARALLEL) -m "not slow and not ray" $(ARGS)

.PHONY: unit
unit: $(VENV)/.dev ## tests in a minute: without TensorFlow, data packs and long runs of a service
	@$(PYTEST) $(PARALLEL) -m "not tf and not integration and not slow and not data and not chromium and not ray" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/.dev ## all tests, the image, and the README's steps in a fresh clone
	@RESTORE_FUZZ=5000 $(PYTEST) -m "not ray" --timeout 3600 $(ARGS)
	@$(MAKE) test-ray
	@if docker info >/dev/null 2>&1 || podman info >/dev/null 2>&1; then $(MAKE) test-image; \
	else echo "[image] skipped: neither Docker nor Podman runs here"; fi
	@tests/e2e/newcomer.sh

.PHONY: test-image
test-image: ## build the image and try it (needs Docker or Podman)
	@python3 -m scripts.try_image $(ARGS)

.PHONY: test-ray
test-ray: ## tests with two Ray nodes on this machine
	@$(MAKE) ENGINE=ray .test-ray

.test-ray: $(VENV)/.dev
	@$(PYTEST) -m ray $(ARGS)

# --- check ---

.PHONY: check
check: $(VENV)/.dev ## format, lint, types, import contracts, spelling
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell
	@echo "[check] all clean"

.PHONY: fmt
fmt: $(VENV)/.dev ## format, and apply the linter's fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# --- measure, document, lock ---

.PHONY: bench
bench: $(VENV)/.dev ## compare the service with a bare loop, and measure peak memory
	@$(HUGE_PAGES) $(BIN)/python -m benchmarks.serve
	@$(HUGE_PAGES) $(BIN)/python -m benchmarks.memory

.PHONY: soak
soak: $(VENV)/.dev ## soak test: ten thousand requests of all kinds
	@$(HUGE_PAGES) $(BIN)/python -m benchmarks.soak $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev ## write the generated pages
	@$(BIN)/python -m scripts.models_page

COMPILE = env -u PIP_FIND_LINKS -u UV_INDEX_URL $(UV) pip compile --no-config --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links $(UPGRADE) pyproject.toml

.PHONY: locks
locks: ## write requirements/*.txt from pyproject.toml (needs uv)
	@test -n "$(UV)" || { echo "make locks needs uv on PATH"; exit 1; }
	@$(COMPILE) --extra cpu --extra heif --extra litert -o requirements/serve.txt
	@$(COMPILE) --extra cpu --extra dev --extra heif --extra litert --extra train -c requirements/serve.txt -o requirements/dev.txt
	@$(COMPILE) --extra gpu --extra heif --extra train -c requirements/serve.txt -o requirements/gpu.txt
	@$(COMPILE) --extra cpu --extra heif --extra litert --extra ray -c requirements/dev.txt -o requirements/ray.txt

.PHONY: clean
clean: ## remove environments and caches
	@rm -rf .venv .venv-gpu .venv-ray .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build
