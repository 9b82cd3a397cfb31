# Two commands matter: `make demo` and `make test`. Both create .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DOCS := .venv-docs

.PHONY: help install demo test sweep check docs format clean

help:
	@echo "make demo    the whole question on a small real language model (six to twelve minutes on 2 cores) -> demo/report.html"
	@echo "make test    the test suite"
	@echo "make sweep   the slow tests: processes killed at random moments, a Ray cluster that loses a machine, two ranks"
	@echo "make check   ruff, pyright and the architecture test"
	@echo "make docs    the documentation as a site -> site/index.html"
	@echo "Another Python, 3.11 to 3.13: make demo PYTHON=python3.12"

# Said before pip says it, which calls it a conflict of dependencies.
RIGHT_PYTHON = @$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	echo "saelab needs Python 3.11 or newer, up to 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12"; \
	exit 1; }

$(INSTALLED): pyproject.toml constraints.txt
	$(RIGHT_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lm,judge,ray,explore,dev]'
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(VENV)/bin/saelab demo

test: $(INSTALLED)
	$(PY) -m pytest -n 2 --dist loadfile

sweep: $(INSTALLED)
	$(PY) -m pytest -m sweep

check: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(PY) -m pytest -q tests/test_architecture.py

# The site needs no torch: the API is read, not imported. So it has a small environment of its own.
$(DOCS)/.installed: pyproject.toml constraints.txt
	$(RIGHT_PYTHON)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# Without the theme's notice of its own end (May 2027), so that what is printed is about these pages.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(DOCS) demo site
