# Sets up .venv and runs the daily jobs. `make` lists them. You need only Python 3.11 or newer, pip and make.
#
# To use another interpreter:   make PYTHON=python3.12 test      (after `make distclean`, if .venv exists already)
# To give more arguments:       make test PYTEST_ARGS='-k resume -x'     make train TRAIN_ARGS='--epochs=20'
#
# To add a job: let it depend on $(DEMO) if it only runs the program, or on $(DEV) if it needs the developer's tools.
# Write its help after '##', and name it in .PHONY.

PYTHON ?= python3
PYTEST_ARGS ?=
TRAIN_ARGS ?=

RESULTS := benchmarks/results
CIFAR_SHAPED := benchmarks.images:cifar_shaped

VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/installed-demo
DEV := $(VENV)/installed-dev

.DEFAULT_GOAL := help
.NOTPARALLEL:  # Two jobs of `make -j` must not install into .venv at the same time.
.PHONY: help train test test-slow faults faults-long parity benchmark peers gpu browser lint format typecheck clean distclean

help:  ## List the jobs.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

train: $(DEMO)  ## Train the default model on the embedded dataset. Run again, it goes on, or says that it is finished.
	$(BIN)/loopwright train $(TRAIN_ARGS)

test: $(DEV)  ## Run the tests.
	$(BIN)/pytest -n 2 --dist=worksteal $(PYTEST_ARGS)

test-slow: $(DEV)  ## Run the tests that are too slow for every day, such as every model with every optimizer.
	$(BIN)/pytest -n 2 -m slow $(PYTEST_ARGS)

faults: $(DEV)  ## Kill, starve and damage real runs, and print a table of what they survived.
	@command -v strace >/dev/null || apt-get install -y -q strace || echo 'strace is missing: the tests that need it say so'
	FAULTS=full $(BIN)/pytest tests/faults -n 2 -m '' $(PYTEST_ARGS)

faults-long: $(DEV)  ## Do the same as `make faults`, with 200 kills at random moments.
	@command -v strace >/dev/null || apt-get install -y -q strace || echo 'strace is missing: the tests that need it say so'
	FAULTS=long $(BIN)/pytest tests/faults -n 2 -m '' $(PYTEST_ARGS)

parity: $(DEV)  ## Certify that the loop and model.fit reach the same weights: 200 steps of each of four models.
	@for model in mlp cnn cnn_subclass resnet20; do $(BIN)/loopwright parity --model=$$model || exit 1; done

# This needs a quiet machine. Laps have fewer steps where a step takes long.
benchmark: $(DEV)  ## Measure everything in docs/performance.md again, and write the page. Peers need `make peers` first.
	$(BIN)/loopwright benchmark --model=mlp --batch_size=32,128 --train_steps=300 --output=$(RESULTS)/mlp
	$(BIN)/loopwright benchmark --model=cnn --batch_size=32,128 --dataset=$(CIFAR_SHAPED) \
	  --train_steps=50 --repeats=7 --output=$(RESULTS)/cnn
	$(BIN)/python benchmarks/precisions.py --output=$(RESULTS)/cnn
	$(BIN)/python benchmarks/peers.py --model=cnn --dataset=$(CIFAR_SHAPED) --steps=20 --output=$(RESULTS)/cnn
	$(BIN)/python benchmarks/tables.py

peers: $(DEV)  ## Set up Orbit and PyTorch in separate environments, and measure them.
	$(PYTHON) -m venv .venv-orbit
	.venv-orbit/bin/python -m pip install --quiet --requirement benchmarks/peers/orbit.txt
	.venv-orbit/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers/orbit-itself.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --requirement benchmarks/peers/torch.txt
	$(BIN)/python benchmarks/peers.py --model=cnn --dataset=$(CIFAR_SHAPED) --steps=20 --output=$(RESULTS)/cnn
	$(BIN)/python benchmarks/peers.py --model=mlp --dataset=mnist_5k --steps=500 --laps=60 --output=$(RESULTS)/mlp
	$(BIN)/python benchmarks/tables.py

gpu: $(DEV)  ## Run parity and the benchmark in every precision on a GPU, and put the results into benchmarks/results/gpu.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gpu]'
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/tables.py

browser: $(DEV)  ## Run the tests that look at TensorBoard and the report in Chromium. As root on Debian, install Chromium first.
	@{ command -v chromium && command -v chromedriver; } > /dev/null || [ "$$(id -u)" != 0 ] || \
	  { apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver; }
	$(BIN)/pytest tests/browser $(PYTEST_ARGS)

lint: $(DEV)  ## Check the code's style.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(DEV)  ## Put the code into the project's style.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

typecheck: $(DEV)  ## Check the types. A link gives mypy a folder named loopwright (see BUILD.md).
	@mkdir -p .typecheck && ln -sfn .. .typecheck/loopwright
	MYPYPATH=.typecheck $(BIN)/mypy -p loopwright.trainer -p loopwright.data -p loopwright.models -p loopwright.flags

clean:  ## Delete caches and built files. Keep .venv and runs/.
	rm -rf build dist *.egg-info .typecheck .mypy_cache .pytest_cache .ruff_cache .hypothesis

distclean: clean  ## Also delete .venv and the environments of the peers. Keep runs/.
	rm -rf $(VENV) .venv-orbit .venv-torch

# The set-up. The files installed-* mark a finished install, so that it is repeated only when its inputs change.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO): setup.py pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(DEV): setup.py pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(DEMO) $@
