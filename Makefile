# make demo   environment, build, and an explained photo and video in out/demo
# make test   environment, build, and every test
# make lint   formatting, style, types
# make cuda-check   compile the CUDA sources where nvcc is found (no GPU needed); warnings and spills are errors
# make runner build/runner/camfast-run: exported explainers from C++, against the LibTorch inside the installed torch
# make bench  time everything against PyTorch and the peers, three hours; writes benchmarks/results,
#             and the tables and the picture of README
# make gallery  draw one sheet of every plot: docs/gallery.jpg
# make clean  remove what the above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CUDA_CHECK := 80 86 90 100
# Tests run in as many processes as there are cores, four at most, with one thread each.
WORKERS := $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores : 4)))
NATIVE := setup.py pyproject.toml $(shell find csrc -path csrc/runner -prune -o -type f -print)

.PHONY: demo test lint cuda-check runner bench gallery clean machine

demo: $(VENV)/.built
	$(BIN)/camfast demo -o out/demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

cuda-check: $(VENV)/.built
	.ci/cuda-check $(BIN)/python $(CUDA_CHECK)

runner: $(VENV)/.torch
	$(PIP) install --quiet "cmake>=3.18"
	$(BIN)/cmake -S csrc/runner -B build/runner -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DTORCH_FOLDER="$$($(BIN)/python -c 'import torch; print(torch.__path__[0])')"
	$(BIN)/cmake --build build/runner

bench: $(VENV)/.test runner
	$(BIN)/python benchmarks/bench_op.py --json benchmarks/results/op-cpu.json
	$(BIN)/python benchmarks/bench_engine.py --seconds 2 --json benchmarks/results/engine-cpu.json
	$(BIN)/python benchmarks/bench_video.py --json benchmarks/results/video-cpu.json
	$(BIN)/python benchmarks/bench_precision.py --json benchmarks/results/precision-cpu.json
	$(BIN)/python benchmarks/bench_methods.py --json benchmarks/results/methods-cpu.json
	$(BIN)/python benchmarks/bench_compat.py --json benchmarks/results/compat-cpu.json
	$(BIN)/python benchmarks/bench_deploy.py --json benchmarks/results/deploy-cpu.json
	$(BIN)/python benchmarks/bench_deploy.py --json benchmarks/results/deploy-cpu.json
	$(BIN)/python benchmarks/tables.py

gallery: $(VENV)/.built
	$(BIN)/python docs/draw_gallery.py

clean:
	rm -rf $(VENV) build out *.egg-info camfast/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

# What the machine lacks is said here, before anything is downloaded.
machine:
	@if ! command -v $(PYTHON) >/dev/null; then \
	  echo "camfast: Python 3.10 or newer is missing. Run: apt install python3 python3-venv python3-dev g++" >&2; exit 1; fi; \
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
	  echo "camfast: $$($(PYTHON) --version) is too old; 3.10 or newer is needed. Name it: make PYTHON=python3.12 ..." >&2; exit 1; fi; \
	packages=""; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || packages="$$packages python3-venv"; \
	$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
	  || packages="$$packages python3-dev"; \
	command -v $(CXX) >/dev/null || packages="$$packages g++"; \
	if [ -n "$$packages" ]; then echo "camfast: this machine lacks some packages. Run: apt install$$packages" >&2; exit 1; fi

# The environment, with what a build without isolation needs.
$(VENV)/.torch: | machine
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet "torch>=2.11" torchvision "setuptools>=77" "pybind11>=2.13" ninja
	@touch $@

# Compiled again when a native source or the build itself changes.
$(VENV)/.built: $(VENV)/.torch $(NATIVE)
	PYTHONWARNINGS=ignore $(PIP) install --quiet --no-build-isolation --editable ".[demo]"
	$(BIN)/python -c 'import camfast; print(camfast.backends())'
	@touch $@

# visflow uses grad-cam, and stands for others that do; what it pins is older than need be.
$(VENV)/.test: $(VENV)/.built
	$(PIP) install --quiet --group test
	$(PIP) install --quiet --no-deps --ignore-requires-python visflow==1.0.5
	@touch $@

# After the tests' packages, so that types are checked against the same ones everywhere.
$(VENV)/.lint: $(VENV)/.test
	$(PIP) install --quiet --group lint
	@touch $@
