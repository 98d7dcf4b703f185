# Needs Python 3.11 and nothing else; every target sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PY)
REQUIREMENTS := $(wildcard requirements/*)
DEMO := configs/irnet_shapes.yaml
# Tests run in a shuffled order that this number gives: no test may need what another one leaves.
ORDER ?= 1
DEMO_OUTPUT := output/irnet_shapes

.DEFAULT_GOAL := help
.PHONY: help env demo test lint benchmark clean

help:  ## Show the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.ready  ## Create .venv with pinned packages, detectron2 and wsis

$(VENV)/.ready: $(REQUIREMENTS) setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(None if v >= (3, 11) else "WSIS needs Python 3.11 or later; this is %d.%d. Try: make PYTHON=python3.11 env" % v)'
	@echo "Setting up $(VENV) (about a minute)"
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(UV) -r requirements/wsis.txt -r requirements/dev.txt
	DIST_EXTRA_CONFIG="$(CURDIR)/requirements/detectron2.cfg" \
	$(UV) --no-cache --no-deps --no-build-isolation --require-hashes -r requirements/detectron2.txt
	$(UV) --no-deps --no-build-isolation --editable .
	@touch $@

demo: env  ## From image tags to an evaluated Mask R-CNN on generated pictures, with a report
	$(PY) datasets/make_shapes.py
	$(PY) train_net.py --config-file $(DEMO)
	$(PY) tools/report.py $(DEMO_OUTPUT) --if-changed

test: lint  ## Lint and run every test (another order: make test ORDER=2)
	$(PY) -m pytest -q -n 2 --dist worksteal --randomly-seed=$(ORDER) -m "not slow"

lint: env  ## Check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmark: env  ## Speed of the hot kernels, as ratios
	$(PY) tools/benchmark.py

clean:  ## Remove .venv and caches; output/ and datasets/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info projects/WSIS/*.egg-info
