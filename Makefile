# Two commands matter: `make demo` and `make test`. Both create .venv and install what they need.
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test sweep check format clean

help:
	@echo "make demo    the whole question on a small real language model (six to twelve minutes on 2 cores) -> demo/report.html"
	@echo "make test    the test suite"
	@echo "make sweep   the slow tests: processes killed at random moments, a Ray cluster that loses a machine, two ranks"
	@echo "make check   ruff, pyright and the architecture test"

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lm,judge,ray,dev]'
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

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) demo
