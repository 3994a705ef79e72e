# `make demo`: everything on a real CT. `make test`: every check that needs no GPU and no Vivado.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo

.PHONY: demo test test-slow lint setup clean

demo: $(DEMO_STAMP)
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
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
VENV_MADE = test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

# Everything, and so what the demo needs.
$(STAMP): pyproject.toml Makefile
	$(VENV_MADE)
	$(INSTALL) ".[all,dev]"
	$(BIN)/python -m pip check
	touch $(DEMO_STAMP) $(STAMP)

# The demo's CT and targets without the tools of development; `make test` then installs only the rest.
$(DEMO_STAMP): pyproject.toml Makefile
	$(VENV_MADE)
	$(INSTALL) ".[dicom,trt,fpga]"
	$(BIN)/python -m pip check
	touch $(DEMO_STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
