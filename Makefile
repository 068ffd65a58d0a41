# make demo    set up, build the default recipe, ask the model three questions
# make test    set up, run the unit tests
# make lint    style, types, and who may import whom
#
# Needs Python 3.11 or newer, git and make. Choose the Python with PYTHON=python3.12, give pip what it needs with PIP_FLAGS=...
# (on Linux without a GPU, torch's CPU packages are a tenth of the size: name their index there).

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
DEMO := builds/demo

.PHONY: demo test test-slow lint format clean

demo: $(VENV)/.installed
	$(BIN)/dunwu build
	@echo
	@for question in "How many legs has the comet?" "Does the candle fit into the cupboard?" "凯特有11个苹果，送走9个，还剩几个苹果？"; do \
		echo "> $$question"; \
		$(BIN)/dunwu generate $(DEMO) "$$question" --temperature 0 || exit 1; \
	done
	@echo
	@echo "Talk to it:            $(BIN)/dunwu chat $(DEMO)"
	@echo "How it came about, and how often it is right: $(DEMO)/report.html"
	@echo "Build one of your own: $(BIN)/dunwu build FOLDER budget=30min"

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[data,serve]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[data,dev,tensorboard]'
	touch $@
