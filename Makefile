# `make` lists what there is. Needs Python 3.11 or newer with venv, git, and make.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO := build/flight-delays

.DEFAULT_GOAL := help
.PHONY: help demo test bench docs lint format lock clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(STAMP)  ## Bake a project into build/, run its pipeline, release, promote, roll back, reproduce
	@rm -rf $(DEMO)
	@$(BIN)/cookiecutter --no-input --default-config --output-dir build .
	@$(MAKE) --no-print-directory -C $(DEMO) run
	@$(BIN)/python demo.py $(DEMO)

test: $(STAMP)  ## Run all tests: answers, files, hooks, lint, the machinery, and a baked project
	@$(BIN)/python -m pytest -n auto --dist loadgroup

bench: $(STAMP)  ## Measure the cost of the wiring, as ratios; about six minutes on a quiet machine
	@$(BIN)/python benchmarks/bench.py

docs: $(STAMP)  ## Build the docs as a site, in build/site, and check every link
	@$(BIN)/mkdocs build --strict --quiet && echo build/site/index.html

lint: $(STAMP)  ## Check the template's own Python; changes nothing
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

format: $(STAMP)  ## Format the template's own Python
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: $(STAMP)  ## Resolve requirements-dev.lock and the project's lock with every option; needs uv
	@$(BIN)/python lock.py --upgrade
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
		--quiet --output-file requirements-dev.lock

clean:  ## Remove build/, caches and .venv
	rm -rf build .venv .pytest_cache .ruff_cache .hypothesis tests/__pycache__

# Bytecode is compiled here once: some environments tell Python not to write it later.
$(STAMP): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed, and $(PYTHON) is older: try make $(MAKECMDGOALS) PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@command -v uv > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo 'Installing requirements-dev.lock into .venv ...'
	@PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install --quiet --python $(BIN)/python \
		--compile-bytecode --require-hashes -r requirements-dev.lock
	@touch $(STAMP)
