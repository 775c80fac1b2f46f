# Targets a newcomer needs. Everything runs in .venv, which `install` makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# processes of the test run, one core each
TEST_WORKERS ?= 2
DEMO := results/work/demo

.PHONY: help install demo test test-quick test-thorough lint types smoke docs leaderboard leaderboard-check clean

help:
	@echo "make demo               install, run a small real comparison, print and write its leaderboard"
	@echo "make test-quick         about two minutes, for every change"
	@echo "make test-thorough      the contracts on every network for every method as well"
	@echo "make test               the test suite"
	@echo "make lint types         ruff and mypy"
	@echo "make smoke              every method for two epochs through the command line"
	@echo "make docs               the documentation site -> build/site (no network)"
	@echo "make leaderboard        results/records -> results/leaderboard"
	@echo "make leaderboard-check  fails when results/leaderboard is not what the records give"

install: $(VENV)/.installed

# --no-deps first would hide a wrong constraint; pip resolves everything under constraints.txt
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m peftbench -m method=linear,bitfit,lora,vpt_deep,full dataset=digits seed=0,1 train=short train.epochs=4 \
		runtime.results=$(DEMO)
	$(BIN)/python -m peftbench leaderboard --results $(DEMO)

# at each change: units, and the contracts of one method of each kind
test-quick: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) -m quick tests/unit tests/test_imports.py peftbench/contracts

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

test-thorough: install
	PEFTBENCH_THOROUGH=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

smoke: install
	$(BIN)/python scripts/smoke.py

docs: install
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build --quiet

leaderboard: install
	$(BIN)/python -m peftbench leaderboard --results results --suite packed --reliability

leaderboard-check: leaderboard
	git diff --exit-code -- results/leaderboard

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache $(DEMO)
