# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# pip says this too, at length, and leaves an environment behind that stays wrong. One that is there already is asked itself.
CHECK = import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12)) or sys.exit("error: this is Python %d.%d, expected 3.11 or 3.12: $(AGAIN)" % v)
AGAIN = $(if $(wildcard $(VENV)),rm -rf $(VENV); )make demo PYTHON=python3.12

# Threads that wait for others give the core away instead of spinning: several processes share few cores here.
export OMP_WAIT_POLICY ?= PASSIVE

# Tests run in several processes, each file in one of them, where its fixtures are made once. Every process loads torch, so
# more than four would cost memory and save little. Tests with Ray, which often wait, follow in two processes with a Ray each.
# The order of files is that of tests/conftest.py.
# Some environments forbid Python to keep what it compiled: every process of every test would compile the project again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest
BY_FILE := --dist loadfile --no-loadscope-reorder
PARALLEL := --numprocesses logical --maxprocesses 4 $(BY_FILE)

# Other versions of what we depend on, each in a folder that goes before our environment on the path of a program that reads
# what we write. No torch of its own.
PEERS := build/peers
OLD := $(PEERS)/transformers-4.57.6

.PHONY: demo test quick peers check install clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -c '$(CHECK)'
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: install  ## built-in scenes -> MVC -> tiny LLaVA -> S-VCO -> evaluation -> a table and a page
	@$(BIN)/svco demo

test: install  ## everything; both parts run, also when the first fails
	@$(PYTEST) $(PARALLEL) -m "not ray"; without_ray=$$?; $(PYTEST) --numprocesses 2 $(BY_FILE) -m ray && exit $$without_ray

quick: install  ## no Ray, nothing slow; under a minute
	@$(PYTEST) $(PARALLEL) -m "not ray and not slow"

peers: install $(OLD)/.installed  ## our exports, read by transformers 4.57.6; about two minutes
	@SVCO_PEERS=$(PEERS) $(PYTEST) tests/peers

$(OLD)/.installed:
	@rm -rf $(OLD)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(OLD) \
	  transformers==4.57.6 tokenizers==0.22.2 huggingface_hub==0.36.2
	@touch $@

check: install  ## format, lint, types, who imports whom
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

clean:  ## what runs have made; the environment stays
	rm -rf build
