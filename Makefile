# Every target makes what it needs: `make test PYTHON=python3.13` tests another interpreter.
PYTHON ?= python3

tag := $(shell $(PYTHON) -c 'import sys; print("%s-%d.%d" % (sys.implementation.name, *sys.version_info[:2]))')
dev := .venv/dev-$(tag)
integration := .venv/integration-$(tag)
bench := .venv/bench-$(tag)
lint := .venv/lint-$(tag)
typing := .venv/typing-$(tag)
proof := .venv/proof-$(tag)

# The oldest and the newest interpreter supported: on the path, or where pyenv keeps it.
find = $(or $(firstword $(foreach python,python$(1) $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python),\
	$(shell $(python) -c 'print("$(python)")' 2>/dev/null))),python$(1))
OLDEST = $(call find,3.11)
NEWEST = $(call find,3.13)

.DEFAULT_GOAL := help
.PHONY: help demo test check lint typing cover cover-run cover-report proof integration \
	bench bench-quick clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## play an order on a real bus; needs nothing installed
	$(PYTHON) -m eventbus demo

test: $(dev)/ready ## run the tests, in an environment of their own
	$(dev)/bin/python -m pytest

check: ## prove what the contract promises: all of the next four, in ten minutes
	$(MAKE) lint typing PYTHON=$(NEWEST)
	$(MAKE) cover
	$(MAKE) proof PYTHON=$(NEWEST)
	$(MAKE) proof PYTHON=$(OLDEST) proofs='test_stateful.py test_races.py'

lint: $(lint)/ready ## ruff: the rules chosen in pyproject.toml, and the format
	$(lint)/bin/ruff check
	$(lint)/bin/ruff format --check

typing: $(typing)/ready ## mypy and pyright, strict: the package, right uses and wrong ones
	$(typing)/bin/mypy
	$(typing)/bin/mypy --python-version 3.13
	$(typing)/bin/pyright
	$(typing)/bin/python -m pip install --quiet --force-reinstall --no-deps .
	PATH="$(CURDIR)/$(typing)/bin:$$PATH" pyright --verifytypes eventbus --ignoreexternal

cover: ## branches tested, on the oldest and the newest interpreter together: all
	rm -f .coverage*
	$(MAKE) cover-run PYTHON=$(OLDEST)
	$(MAKE) cover-run PYTHON=$(NEWEST)
	$(MAKE) cover-report PYTHON=$(NEWEST)

cover-run: $(proof)/ready
	$(proof)/bin/coverage run -m pytest

cover-report: $(proof)/ready
	$(proof)/bin/coverage combine --quiet
	$(proof)/bin/coverage report

proof: $(proof)/ready ## generated cases, races, soak, every way of installing
	$(proof)/bin/python -m pytest $(addprefix tests/proof/,$(or $(proofs),.))

integration: $(integration)/ready ## run a small shop on FastAPI, SQLAlchemy and Celery; wants redis-server
	$(integration)/bin/python -m pytest tests/integration

bench: $(bench)/ready ## measure, beside the contenders; writes benchmarks/results
	$(bench)/bin/python benchmarks/run.py

bench-quick: $(bench)/ready ## see in a minute that the benchmarks work; leaves their results alone
	$(bench)/bin/python benchmarks/run.py --quick --results $(bench)/results

clean: ## remove the environments and whatever the other targets have left
	rm -rf .venv .*_cache .hypothesis .coverage* build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments, one per dependency group and interpreter. pip knows groups from 25.1 on.
.venv/%-$(tag)/ready: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip >=25.1'
	$(@D)/bin/python -m pip install --quiet --group $*
	touch $@
