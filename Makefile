# make help lists the targets. Needs Python 3.10 or later with pip, and make; nothing else.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Threads that wait sleep instead of spinning: 4 % slower on an idle machine, 1.5 times faster on
# one whose cores are busy with something else.
DEMO_ENV := OMP_WAIT_POLICY=passive

# Two pytest workers with one thread each; a thread pool per worker would fight over the cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= 2

.NOTPARALLEL:
.PHONY: help demo test docs figures api clean

help:
	@echo 'make demo   simulate galaxies, train, attack, retrain, report: runs/demo/report.md'
	@echo 'make test   lint, format, types, unit tests and the examples in the docstrings'
	@echo 'make docs   build the documentation: docs/_build/html/index.html'
	@echo 'make figures  the figures of the documentation anew, from runs/demo'
	@echo 'make api    rewrite tests/public_api.txt after a deliberate change of public names'
	@echo 'make clean  remove the virtual environment, caches and built documentation (keeps runs/)'
	@echo 'Variables: PYTHON=python3.12, VENV=.venv, ARGS="..." for the demo, WORKERS=2 for the tests'

demo: $(VENV)/demo.stamp
	$(DEMO_ENV) $(PY) -m advphotoz demo $(ARGS)

test: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(TEST_ENV) $(PY) -m pytest -n $(WORKERS) --doctest-modules src tests

docs: $(VENV)/docs.stamp
	$(PY) -m sphinx -E -W --keep-going -q -b html docs docs/_build/html
	@echo 'Open docs/_build/html/index.html'

figures: $(VENV)/demo.stamp
	$(PY) docs/figures.py $(ARGS)

api: $(VENV)/test.stamp
	$(PY) tests/test_structure.py

# A stamp is written only after its installation succeeded, so an interrupted one is done again.
$(VENV)/created.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 10) and \
		"advphotoz needs Python 3.10 or later, this is " + v + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/demo.stamp: EXTRAS := demo
$(VENV)/test.stamp: EXTRAS := demo,io,lightning,dev
$(VENV)/docs.stamp: EXTRAS := docs
$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/docs.stamp: $(VENV)/created.stamp pyproject.toml constraints.txt
	@echo 'Installing advphotoz[$(EXTRAS)] into $(VENV), which takes a few minutes the first time ...'
	$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) docs/_build build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
