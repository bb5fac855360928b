# make demo       installs and compresses an image classifier, in a few minutes
# make demo-text  the same for a text classifier
# make demo-gan   the same for a generator that translates images
# make test       installs and runs the tests but the slow ones
# make lint       formatting, lint and types
PYTHON ?= python3
# Where the demos put their runs.
RUNS ?= runs
BIN := .venv/bin

.PHONY: demo demo-text demo-gan test lint format clean

.venv/installed: setup.cfg pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-text: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[text]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m experiments.cifar --config=experiments/configs/demo.py \
	  --workdir=$(RUNS)/demo

demo-text: .venv/installed-text
	$(BIN)/python -m experiments.amazon \
	  --config=experiments/configs/demo_text.py --workdir=$(RUNS)/demo-text

demo-gan: .venv/installed
	$(BIN)/python -m experiments.celeba \
	  --config=experiments/configs/demo_gan.py --workdir=$(RUNS)/demo-gan

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m 'not slow'

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
