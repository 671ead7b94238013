# The commands of CONTRIBUTING are these; CI runs them too.
#
#   make demo    create the environment, install, run the main job on the embedded corpus
#   make test    create the environment, install, run the whole default suite
#   make browser install Chromium (Debian, as root), in which the report's page is tested
#
# pip takes the PyTorch build that it finds first. To choose another (a CPU build, an index of your own),
# pass pip's options for that one package:  make demo TORCH_ARGS="--index-url ..."

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
OUT ?= runs/demo

.PHONY: all demo browser test test-all check format docs bench clean

all: check test docs

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "nver needs Python 3.10 or newer; there is no '$(PYTHON)'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "nver needs Python 3.10 or newer; '$(PYTHON)' is older. Try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 1; }

# torch first and alone: constraints.txt pins the one build that everything else is then fitted to
$(VENV)/.torch: $(BIN)/python constraints.txt
	@echo "Installing PyTorch (this takes some minutes the first time) ..."
	@$(PIP) torch $(TORCH_ARGS)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "Installing nver ..."
	@$(PIP) -e .
	@touch $@

# who develops has what who installs has: one call of pip for both
$(VENV)/.developed: $(VENV)/.torch pyproject.toml requirements-dev.txt
	@echo "Installing nver, its extras and the development tools ..."
	@$(PIP) -e '.[all]' -r requirements-dev.txt
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/nver demo --out $(OUT)

test: $(VENV)/.developed $(if $(filter true,$(CI)),browser)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not network"

# The tests of the report's page run in Chromium, and are skipped where there is none.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && echo "Installing Chromium for the tests of the report's page ..." \
	    && timeout 300 apt-get -qq update >/dev/null \
	    && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq install -y --no-install-recommends chromium >/dev/null; } \
	  || echo "No Chromium: the tests of the report's page are skipped. On Debian, as root: apt-get install chromium"

test-all: $(VENV)/.developed
	$(BIN)/python -m pytest --hypothesis-profile search

check: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build

format: $(VENV)/.developed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.developed
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

bench: $(VENV)/.developed
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache
