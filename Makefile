# Short names for what CONTRIBUTING.md describes.
VENV ?= .venv
BIN = $(VENV)/bin
PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
SANITIZERS = address,undefined

.PHONY: help install build test cpp-test lint format asan tsan cuda gpu-check bench ci clean

help:
	@echo "make install | build | test | cpp-test | lint | format | asan | tsan | cuda | gpu-check | bench | ci | clean"

$(BIN)/python:
	python3 -m venv $(VENV)

install: $(BIN)/python  ## editable, with everything for tests and lint
	$(BIN)/pip install -c constraints.txt -e ".[test,train,lint]"

build:  ## after an edit in csrc/: seconds
	$(BIN)/python setup.py -q build_ext --inplace

test: build
	$(BIN)/python -m pytest -q

cpp-test:
	$(BIN)/python setup.py -q cpp_tests

lint:
	.ci/lint $(VENV)

format:
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .
	find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

asan:  ## C++ tests and the fuzz test under AddressSanitizer and UndefinedBehaviorSanitizer
	python3 -m venv .venv-asan
	DENSECRF_SANITIZE=$(SANITIZERS) .venv-asan/bin/pip install -q -c constraints.txt ".[test]"
	.ci/sanitize .venv-asan

tsan:  ## C++ tests under ThreadSanitizer
	DENSECRF_SANITIZE=thread $(BIN)/python setup.py -q cpp_tests

cuda:  ## the CUDA half on a machine without a GPU
	.ci/cuda $(VENV)

gpu-check:  ## all that only a GPU shows; PYTHON: one with torch for CUDA
	$(PYTHON) -m benchmarks gpu_check

bench:
	$(BIN)/pip install -q -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks compare_pydensecrf

ci:
	.ci/run

clean:
	rm -rf build dist *.egg-info densecrf/_C.*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
