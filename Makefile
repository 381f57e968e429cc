# make run      set up everything, start Muster, answer one question, serve (ARGS=--once: stop then; GEMMA=1: fetch Gemma's
#               weights as well, for the expert gemma-base, which experts.toml has to switch on)
# make test     the whole test suite; needs no GPU and no Docker
# make check    the one gate: format, lint, types, import contracts, tests
# make faults   the fault suite in full
# make lock     compile locks/ anew (maintainers)
# make clean    remove the environment and caches; data in .muster stays

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS ?=
export PYTHONUTF8 := 1
BIN := .venv/bin
RUN := $(BIN)/python -m

.PHONY: run test check faults lock clean setup-tests

run:
	@$(PYTHON) setup/environment.py --weights $(if $(GEMMA),--gemma) $(ARGS)
	@exec $(BIN)/muster up --demo $(ARGS)

setup-tests:
	@$(PYTHON) setup/environment.py --tests --weights

test: setup-tests
	$(RUN) pytest $(ARGS)

check: setup-tests
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(BIN)/lint-imports
	$(RUN) pytest $(ARGS)

faults: setup-tests
	MUSTER_FAULTS=full $(RUN) pytest tests/faults $(ARGS)

lock: setup-tests
	$(PYTHON) -m setup.locks

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
