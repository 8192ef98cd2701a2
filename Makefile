# Every target makes what it needs: `make test PYTHON=python3.13` tests another interpreter.
PYTHON ?= python3

# What an interpreter is, `cpython-3.13t` if it is free-threaded; nothing if it does not run.
identify = $(shell $(1) -c 'import sys, sysconfig; print("%s-%d.%d" % (sys.implementation.name, \
	*sys.version_info[:2]) + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' 2>/dev/null)

tag := $(call identify,$(PYTHON))
dev := .venv/dev-$(tag)
integration := .venv/integration-$(tag)
bench := .venv/bench-$(tag)
lint := .venv/lint-$(tag)
typing := .venv/typing-$(tag)
proof := .venv/proof-$(tag)

# Interpreters supported, newest first: on the path, or where pyenv keeps them.
GIL := 3.15 3.14 3.13 3.12 3.11
SUPPORTED := $(GIL) 3.14t 3.13t
find = $(firstword $(foreach python,python$(1) python3 \
	$(wildcard $(HOME)/.pyenv/versions/$(1:t=).*/bin/python),\
	$(if $(filter cpython-$(1),$(call identify,$(python))),$(python))))
OLDEST = $(or $(call find,3.11),python3.11)
NEWEST = $(or $(firstword $(foreach version,$(GIL),$(call find,$(version)))),$(OLDEST))

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help interpreters demo test check lint typing cover cover-run cover-report proof \
	integration torture bench bench-quick clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

interpreters: ## list those supported, each with its command or as missing
	@$(foreach version,$(SUPPORTED),echo $(version) $(or $(call find,$(version)),missing);)

demo: ## play an order on a real bus; needs nothing installed
	$(PYTHON) -m eventbus demo

test: $(dev)/ready ## run the tests, in an environment of their own
	$(dev)/bin/python -m pytest

step = @printf '\n--- %s\n' '$(1)' # so that one sees how far it is

check: ## prove what the contract promises: all of the next four, in ten minutes
	$(call step,1 of 5: lint)
	@$(MAKE) lint PYTHON=$(NEWEST)
	$(call step,2 of 5: types)
	@$(MAKE) typing PYTHON=$(NEWEST)
	$(call step,3 of 5: the tests on $(OLDEST) and $(NEWEST), every branch)
	@$(MAKE) cover
	$(call step,4 of 5: proofs on $(NEWEST))
	@$(MAKE) proof PYTHON=$(NEWEST)
	$(call step,5 of 5: the quick ones on $(OLDEST))
	@$(MAKE) proof PYTHON=$(OLDEST) proofs='test_stateful.py test_races.py test_limits.py'

lint: $(lint)/ready ## ruff: the rules chosen in pyproject.toml, those of a host that chose none, the format
	$(lint)/bin/ruff check
	$(lint)/bin/ruff format --check
	$(lint)/bin/ruff check --isolated --line-length 88 --ignore E501 eventbus

typing: $(typing)/ready ## mypy and pyright, strict: the package, right uses and wrong ones
	$(typing)/bin/mypy
	$(typing)/bin/mypy --python-version $(lastword $(subst -, ,$(tag:t=)))
	$(typing)/bin/pyright
	$(typing)/bin/python -m pip install --quiet --force-reinstall --no-deps .
	PATH="$(CURDIR)/$(typing)/bin:$$PATH" pyright --verifytypes eventbus --ignoreexternal

# Of 3.11 alone not all is asked: there no task starts eagerly.
cover: ## branches tested, on the oldest and the newest interpreter together: all
	rm -f .coverage*
	$(MAKE) cover-run PYTHON=$(OLDEST)
	$(MAKE) cover-run PYTHON=$(NEWEST)
	$(MAKE) cover-report PYTHON=$(NEWEST) $(if $(filter $(OLDEST),$(NEWEST)),fail_under=0)

cover-run: $(proof)/ready
	$(proof)/bin/coverage run -m pytest

cover-report: $(proof)/ready
	$(proof)/bin/coverage combine --quiet
	$(proof)/bin/coverage report $(addprefix --fail-under=,$(fail_under))

proof: $(proof)/ready ## generated cases, races, soak, every way of installing
	$(proof)/bin/python -m pytest $(addprefix tests/proof/,$(or $(proofs),.))

integration: $(integration)/ready ## run a small shop on FastAPI, SQLAlchemy and Celery; wants redis-server, and postgresql
	$(integration)/bin/python -m pytest -p no:asyncio tests/integration

torture: $(integration)/ready ## kill its processes KILLS=20 times, DATABASE=sqlite or postgresql; SEED=1
	PYTHONPATH=. $(integration)/bin/python tests/integration/torture.py --kills $(or $(KILLS),20) \
		--database $(or $(DATABASE),sqlite) $(addprefix --seed ,$(SEED))

bench: $(bench)/ready ## measure, beside the contenders; writes benchmarks/results
	$(bench)/bin/python benchmarks/run.py

bench-quick: $(bench)/ready ## see in a minute that the benchmarks work; leaves their results alone
	$(bench)/bin/python benchmarks/run.py --quick --results $(bench)/results

clean: ## remove the environments and whatever the other targets have left
	rm -rf .venv .*_cache .hypothesis .coverage* build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments, one per dependency group and interpreter. pip knows groups from 25.1 on.
# Not all is built for free-threaded interpreters: what needs the second group is skipped there.
with-proof := $(if $(filter %t,$(tag)),,uvloop)
with-bench := $(if $(filter %t,$(tag)),,contenders)

.venv/%-$(tag)/ready: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip >=25.1'
	$(@D)/bin/python -m pip install --quiet $(addprefix --group ,$* $(with-$*))
	touch $@
