# `make demo`: everything on a real CT. `make test`: every check that needs no GPU and no Vivado.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint setup clean

demo: setup
	$(BIN)/lmaunet-deploy demo

test: setup lint
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

# mypy and import-linter know no package-dir: they read links to the sources, laid out as installed.
LINKS := build/package/lmaunet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(LINKS) && mkdir -p $(LINKS)
	cp -rs $(CURDIR)/lmaunet/. $(CURDIR)/quant $(CURDIR)/export $(CURDIR)/trt $(CURDIR)/fpga $(LINKS)/
	$(BIN)/mypy
	cd build/package && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

setup: $(STAMP)

# One resolution for all extras: finn-plus pins brevitas, which excludes newer torch releases.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[openvino,trt,fpga,dev]"
	$(BIN)/python -m pip check
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
