# 'make' lists the commands. Everything runs in .venv, which is made from requirements.lock when it is needed.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro ui preview test test-all bench lint lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

repro: $(READY) ## bring the sample if data/ is missing, run what has changed, show the result
	@test -e data || dvc checkout --quiet data.dvc 2>/dev/null || python -m stages.get_data digits
	@if dvc status --quiet; then \
		cat artifacts/evaluate/summary.txt; echo "Nothing has changed since then: this is the same result."; \
	else dvc repro; fi

PORT ?= 5000
ui: $(READY) ## open the MLflow UI with all runs on http://127.0.0.1:5000 (PORT=… for another port)
	@python -m thaw.tracking ui --port $(PORT)

test: $(READY) ## the fast tests, at most 10 minutes on 2 cores
	python -m pytest -m "not slow" --cov --cov-fail-under=90

test-all: $(READY) ## all tests
	python -m pytest --cov --cov-fail-under=90

WEIGHTS ?= imagenet
bench: $(READY) ## measure speed side by side and write docs/benchmarks.md (FLOWERS=folder of the flower photos)
	@python -m benchmarks.speed --flowers "$(FLOWERS)" --weights "$(WEIGHTS)"

preview: $(READY) ## show augmented images: artifacts/preview.png (AUGMENT=strong for another option)
	@python -m stages.preview $(if $(AUGMENT),augment=$(AUGMENT))

lint: $(READY) ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

lock: ## pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file requirements.lock

clean: ## delete what can be computed again: caches and the pipeline's outputs, not the data, not the runs
	rm -rf .cache artifacts multirun

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: expected Python 3.11 to 3.13, found $$($(PYTHON) --version); set PYTHON=python3.12, say" >&2; exit 1; }
	@echo "Installing the pinned packages into $(VENV): a minute or two, once."
	@$(PYTHON) -m venv $(VENV)
	@# The lock is complete, so nothing is resolved: pip before 23.3 would ask for the newest coverage[toml], which is not in it.
	@python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $@
