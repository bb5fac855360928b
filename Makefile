# make demo       installs and compresses an image classifier, in a few minutes
# make demo-text  the same for a text classifier
# make test       installs and runs the tests
# make lint       formatting, lint and types
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-text test lint format clean

.venv/installed: setup.cfg pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m experiments.cifar --config=experiments/configs/demo.py \
	  --workdir=runs/demo

demo-text: .venv/installed
	$(BIN)/python -m experiments.amazon \
	  --config=experiments/configs/demo_text.py --workdir=runs/demo-text

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
