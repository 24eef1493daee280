# Everything works in .venv inside the clone; both main targets set it up themselves.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test slow test-verl lint types bench clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the headline comparison on the shipped tiny model, under ten minutes on two cores
	$(BIN)/dopr compare --config configs/demo.yaml

test: setup  ## the fast suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" -q

slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow -q

# verl pins its own versions, so it gets an environment of its own, with this package on the path.
.venv-verl/ready: constraints-verl.txt
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet --quiet --constraint constraints-verl.txt torch==2.13.0
	.venv-verl/bin/python -m pip install --quiet --quiet --constraint constraints-verl.txt \
		verl==0.9.1 ray TransferQueue cachetools uvicorn fastapi pytest pytest-timeout
	@touch $@

test-verl: .venv-verl/ready  ## the adapter in verl itself, trained on the CPU: about a quarter of an hour
	PYTHONPATH=src .venv-verl/bin/python -m pytest tests/with_verl -q -p no:cacheprovider

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/ledger_speed.py
	$(BIN)/python benchmarks/replay_speed.py
	$(BIN)/python benchmarks/driver_overhead.py

clean:
	rm -rf .venv .venv-verl runs build dist *.egg-info
