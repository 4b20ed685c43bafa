# make demo   environment, build, and an explained photo and video in out/demo
# make test   environment, build, and every test
# make lint   formatting, style, types
# make cuda-check   compile the CUDA sources, warnings being errors, where nvcc is found (no GPU needed)
# make clean  remove what the above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CUDA_CHECK := 80 86 90 100
NATIVE := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo test lint cuda-check clean machine

demo: $(VENV)/.built
	$(BIN)/camfast demo -o out/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# One line a kernel and architecture: registers, spills, static shared memory. A spill is an error.
cuda-check: $(VENV)/.built
	@if ! command -v nvcc >/dev/null; then echo "nvcc is not on the PATH: the CUDA sources were not compiled"; exit 0; fi; \
	$(MAKE) --no-print-directory -j2 $(foreach s,$(wildcard csrc/cuda/*.cu),$(CUDA_CHECK:%=cuda-check/$(notdir $(basename $(s)))/%))

cuda-check/%:
	@nvcc -std=c++20 -O3 -Werror all-warnings -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020b000000000000 \
	  $$($(BIN)/python -c 'from torch.utils.cpp_extension import include_paths as p; print(*("-isystem " + i for i in p()))' 2>/dev/null) \
	  --expt-relaxed-constexpr -gencode arch=compute_$(@F),code=sm_$(@F) -Xptxas -v \
	  -c csrc/cuda/$(notdir $(@D)).cu -o /dev/null >$(VENV)/$(subst /,-,$@).log 2>&1 || { cat $(VENV)/$(subst /,-,$@).log; exit 1; }
	@c++filt <$(VENV)/$(subst /,-,$@).log | sed "s/c10:://g; s/camfast:://g" | awk -v arch=sm_$(@F) -v OFS='\t' ' \
	  /Compiling entry function/ { split($$0, quoted, "\047"); kernel = quoted[2]; sub(/^void /, "", kernel); sub(/\(.*/, "", kernel) } \
	  /bytes spill stores/ { spills = $$5 + $$9; spilled += spills > 0 } \
	  /Used [0-9]+ registers/ { smem = 0; if (match($$0, /[0-9]+ bytes smem/)) smem = substr($$0, RSTART) + 0; \
	    registers = $$0; sub(/.*Used /, "", registers); \
	    print arch, registers + 0 " registers", spills " bytes spilled", smem " bytes of static shared memory", kernel } \
	  END { exit spilled > 0 }'

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

$(VENV)/.test: $(VENV)/.built
	$(PIP) install --quiet --group test
	@touch $@

# After the tests' packages, so that types are checked against the same ones everywhere.
$(VENV)/.lint: $(VENV)/.test
	$(PIP) install --quiet --group lint
	@touch $@
