PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow gpu-proof lint bundle clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## create .venv with everything that demo and tests need

$(READY): pyproject.toml
	@echo "== Setting up $(VENV) (once; torch is the large part)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[cpu,export,dev]'
	@touch $(READY)

demo: $(READY) ## the whole line on the embedded data: distill, export, bench, report
	@echo "== dhox demo"
	$(BIN)/dhox demo --overwrite

test: $(READY) ## the test suite (under 12 minutes on 2 cores)
	@echo "== Tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
	@if nvidia-smi -L >/dev/null 2>&1; then $(BIN)/python -m pytest -m gpu; fi

test-slow: $(READY) ## stop points, kills, many processes, more students and variants, fresh environments
	@echo "== Slow tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

gpu-proof: ## what only a GPU can show, in at most 9 minutes (rehearse: make gpu-proof ARGS=--cpu)
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) benchmarks/gpu_proof.py $(ARGS)

lint: $(READY) ## ruff, hadolint and mypy
	@echo "== ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== hadolint"
	$(BIN)/hadolint --failure-threshold style docker/*.Dockerfile
	@echo "== mypy, over the package as a wheel lays it out"
	@rm -rf build/lint build/lib
	@$(BIN)/python -m pip install --quiet --no-deps --target build/lint .
	@cd build/lint && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
		-p dhox | tee ../mypy.txt
	@test $$(sed -n "s/.*found in \([0-9]*\) source files/\1/p" build/mypy.txt) -ge $$(find src/dhox distill export bench -name "*.py" | wc -l)
	@echo "== mypy, what the benchmarks call"
	@cd benchmarks && MYPYPATH=../build/lint:../tests ../$(BIN)/python -m mypy --config-file ../pyproject.toml \
		--cache-dir ../.mypy_cache --explicit-package-bases --disable-error-code misc --disable-error-code operator \
		--disable-error-code union-attr --disable-error-code assignment --disable-error-code var-annotated --no-warn-unused-ignores .

bundle: $(READY) ## dhox and its wheels for a machine without a network: TARGET= [PYTHON_VERSION= PART_MB= EXTRAS= HAVE=]
	@$(BIN)/python scripts/make_bundle.py $(TARGET) $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION)) \
		$(if $(PART_MB),--part-mb $(PART_MB)) $(if $(EXTRAS),--extras '$(EXTRAS)') $(if $(HAVE),--have '$(HAVE)')

clean: ## remove .venv, build products and the demo's output
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
	rm -rf demo-data runs/demo runs/demo-labels-only runs/cache
