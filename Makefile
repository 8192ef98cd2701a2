# Every target makes what it needs: `make test PYTHON=python3.13` tests another interpreter.
PYTHON ?= python3

tag := $(shell $(PYTHON) -c 'import sys; print("%s-%d.%d" % (sys.implementation.name, *sys.version_info[:2]))')
dev := .venv/dev-$(tag)
integration := .venv/integration-$(tag)
bench := .venv/bench-$(tag)

.DEFAULT_GOAL := help
.PHONY: help demo test integration bench bench-quick clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## play an order on a real bus; needs nothing installed
	$(PYTHON) -m eventbus demo

test: $(dev)/ready ## run the tests, in an environment of their own
	$(dev)/bin/python -m pytest

integration: $(integration)/ready ## run a small shop on FastAPI, SQLAlchemy and Celery; wants redis-server
	$(integration)/bin/python -m pytest tests/integration

bench: $(bench)/ready ## measure, beside the contenders; writes benchmarks/results
	$(bench)/bin/python benchmarks/run.py

bench-quick: $(bench)/ready ## see in a minute that the benchmarks work; leaves their results alone
	$(bench)/bin/python benchmarks/run.py --quick --results $(bench)/results

clean: ## remove the environments and whatever the other targets have left
	rm -rf .venv .pytest_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments, one per dependency group and interpreter. pip knows groups from 25.1 on.
.venv/%-$(tag)/ready: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip >=25.1'
	$(@D)/bin/python -m pip install --quiet --group $*
	touch $@
