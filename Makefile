# `make demo`: everything on a real CT. `make test`: every check that needs no GPU and no Vivado.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo

LOCK := requirements/lock.txt

.PHONY: demo test test-slow lint setup lock clean

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
	cp -rs $(CURDIR)/lmaunet/. $(CURDIR)/quant $(CURDIR)/export $(CURDIR)/cpu $(CURDIR)/trt $(CURDIR)/fpga $(LINKS)/
	$(BIN)/mypy
	cd build/package && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

setup: $(STAMP)

# One resolution for all extras: finn-plus pins brevitas, which excludes newer torch releases. It is written down, so
# that the same clone installs the same versions later.
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --no-compile --constraint $(LOCK) --editable
VENV_MADE = test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

# Everything, and so what the demo needs.
$(STAMP): pyproject.toml Makefile $(LOCK)
	$(VENV_MADE)
	$(INSTALL) ".[all,dev]"
	$(PIP) check
	touch $(DEMO_STAMP) $(STAMP)

# The demo's CT and targets without the tools of development; `make test` then installs only the rest.
$(DEMO_STAMP): pyproject.toml Makefile $(LOCK)
	$(VENV_MADE)
	$(INSTALL) ".[dicom,trt,fpga]"
	$(PIP) check
	touch $(DEMO_STAMP)

# Writes down the versions that are installed. To take newer ones: empty the file, `make clean`, `make test`, `make lock`.
lock:
	mkdir -p $(dir $(LOCK))
	echo '# The versions that `make setup` and `make demo` install, on Linux with Python 3.11; written by `make lock`.' > $(LOCK).new
	$(PIP) freeze --all --exclude-editable --exclude pip >> $(LOCK).new
	mv $(LOCK).new $(LOCK)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
