# `make` lists what there is. Needs Python 3.11 or newer with venv, git, and make.

PYTHON ?= python3
BIN := .venv/bin
# For a bake and the docs; and, for tests and types, all packages of a project too, with every option.
STAMP := .venv/.installed
TESTED := .venv/.tested
# Airflow, which tests start, needs other versions of what they share.
AIRFLOW := build/airflow/.installed
DEMO := build/flight-delays

.DEFAULT_GOAL := help
.PHONY: help demo test test-machinery bench docs lint format lock clean
MACHINERY := <<cookiecutter.project_slug>>/vendor/lifecycle

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: $(STAMP)  ## Bake a project into build/, run its pipeline, release, promote, roll back, reproduce
	@rm -rf $(DEMO)
	@$(BIN)/cookiecutter --no-input --default-config --output-dir build .
	@$(MAKE) --no-print-directory -C $(DEMO) run
	@$(BIN)/python demo.py $(DEMO)

# Processes of tests find their code compiled, wherever it is and whatever the environment says; nothing is written
# beside it, where a bake would copy it.
test test-machinery: export PYTHONDONTWRITEBYTECODE :=
test test-machinery: export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache

test: $(TESTED) $(AIRFLOW)  ## Run all tests: answers, files, hooks, lint, the machinery, and a baked project
	@$(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

test-machinery: $(TESTED) $(AIRFLOW)  ## Run the machinery's tests on a fresh bake, or on your project: PROJECT=path
	@$(BIN)/python -m pytest -n auto --dist loadgroup tests/machinery $(if $(PROJECT),--project="$(PROJECT)")

bench: $(STAMP)  ## Measure the cost of the wiring, as ratios; about fifteen minutes on a quiet machine
	@$(BIN)/python benchmarks/bench.py

docs: $(STAMP)  ## Build the docs as a site, in build/site; check every link
	@$(BIN)/mkdocs build --strict --quiet && echo build/site/index.html

lint: $(TESTED)  ## Check format, lint and the machinery's types; changes nothing
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@cd '$(MACHINERY)' && ruff=$(CURDIR)/$(BIN)/ruff && $$ruff format --check . && $$ruff check . && $(CURDIR)/$(BIN)/mypy

format: $(STAMP)  ## Format all Python here
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .
	@cd '$(MACHINERY)' && $(CURDIR)/$(BIN)/ruff format . && $(CURDIR)/$(BIN)/ruff check --fix .

lock: $(STAMP)  ## Resolve again: requirements-dev.lock, and the project's lock with every option; needs uv
	@$(BIN)/python lock.py --upgrade

clean:  ## Remove everything made here: build/, caches and .venv
	rm -rf build .venv .pytest_cache .ruff_cache .hypothesis tests/__pycache__

# Bytecode is compiled here once: some environments tell Python not to write it later.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed, and $(PYTHON) is older: try make $(MAKECMDGOALS) PYTHON=python3.12")'
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@command -v uv > /dev/null || test -x $(BIN)/uv || \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@echo 'Installing $< into $(@D) ...'
	@PATH="$$PATH:$(CURDIR)/$(BIN):$(CURDIR)/$(@D)/bin" uv pip install --quiet --python $(@D)/bin/python \
		--compile-bytecode --require-hashes -r $<
	@touch $@
endef
$(STAMP): requirements-dev.lock
	$(install)
$(TESTED): requirements-test.lock
	$(install)
	@touch $(STAMP)
$(AIRFLOW): requirements-airflow.lock
	$(install)
