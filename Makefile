# make run     the relay in the foreground, from this checkout; nothing else to install by hand
# make test    all tests (fetches the Debian packages they talk to, when it is root and they are missing)
# make check   what CI runs: lint, types, import floors, tests
# make bench   relaymta and Postfix side by side, about four minutes; make bench-full takes longer
# make crash, make soak   proofs that take minutes: kill -9 under load; memory over many messages
# make wheel, make sdist, make clean

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test check lint types floors packages bench bench-full crash soak coverage wheel sdist clean

VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= etc/relaymta/quickstart.toml
# Extra arguments for pytest or the benchmark: make test ARGS="tests/smtp -x"
ARGS ?=

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# The environment is made anew from setup.cfg whenever that file changes. `run` needs fewer packages than `test`.
$(VENV)/.for-run: setup.cfg .ci/venv
	@.ci/venv $(VENV) .
	@touch $@

$(VENV)/.for-test: setup.cfg .ci/venv
	@.ci/venv $(VENV) '.[test]'
	@touch $(VENV)/.for-run $@

packages:
	@.ci/packages

# A start reads bytecode then, also where Python is told not to write any (PYTHONDONTWRITEBYTECODE).
COMPILE = @$(BIN)/python -m compileall -q relaymta twisted/plugins

run: $(VENV)/.for-run
	$(COMPILE)
	@mkdir -p var
	@echo "relaymta: starting with $(CONFIG); Ctrl-C drains and stops."
	@echo "relaymta: next, in a second terminal:  $(BIN)/relaymta sink"
	@echo "relaymta: and in a third:              $(BIN)/relaymta send --to you@example.org"
	@exec $(BIN)/twistd --nodaemon --pidfile= relaymta -c $(CONFIG)

# Files are the unit of distribution: a file's tests share a worker and its fixtures.
test: $(VENV)/.for-test packages
	$(COMPILE)
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(VENV)/.for-test
	$(BIN)/ruff check .

types: $(VENV)/.for-test
	$(BIN)/mypy
	$(BIN)/mypy bench

floors: $(VENV)/.for-test
	@$(BIN)/lint-imports --no-logo

check: lint types floors
	@$(MAKE) --no-print-directory test

coverage: $(VENV)/.for-test packages
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

bench: $(VENV)/.for-run packages
	$(COMPILE)
	@$(BIN)/python -m bench.run $(ARGS)

bench-full: $(VENV)/.for-run packages
	$(COMPILE)
	@$(BIN)/python -m bench.run --full $(ARGS)

crash: $(VENV)/.for-test packages
	$(COMPILE)
	@$(BIN)/python -m pytest -m crash $(ARGS)

soak: $(VENV)/.for-test packages
	$(COMPILE)
	@$(BIN)/python -m pytest -m soak $(ARGS)

wheel: $(VENV)/.for-test
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

sdist: $(VENV)/.for-test
	@$(BIN)/python -c 'from setuptools import build_meta; print("dist/" + build_meta.build_sdist("dist"))' | tail -n 1

# The spool under var/ is mail: it stays.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f .coverage .coverage.* twisted/plugins/dropin.cache
	find relaymta tests bench twisted -name __pycache__ -type d -prune -exec rm -rf {} +
