# `make` shows what there is. Every target first completes the environment; that takes
# a tenth of a second when nothing changed.

STACK ?= official
OPS ?= light
PYTHON ?= python3
PYTEST_ARGS ?=

VENV = .venv$(if $(filter-out official,$(STACK)),-$(STACK))$(if $(filter-out light,$(OPS)),-$(OPS))
RUN = $(VENV)/bin/python
# Tests run side by side, a process for each core (four are enough), each on one thread.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest --durations=10

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-detection test test-long test-faults test-ops
.PHONY: test-hugging-face test-memory test-gpu lint format docs docs-links clean

help:
	@echo 'make demo       train a student on digits, alone and with every method'
	@echo 'make demo-detection  the same with detectors: scenes of digits, COCO AP'
	@echo 'make setup      only make the environment, as every other target does first'
	@echo 'make test       lint, then the tests'
	@echo 'make test-long  the tests marked long'
	@echo 'make test-faults  kill trainings 120 times and compare where they end'
	@echo "make test-ops   our operators beside mmcv's compiled ones, which it compiles if need be"
	@echo "make test-hugging-face  teachers from folders of Hugging Face's, with its transformers"
	@echo 'make test-memory  2,000 iterations of every method, whose memory must not grow'
	@echo 'make test-gpu   every method's step and every operator on the accelerator, beside the CPU'
	@echo 'make lint       ruff, and mypy on the official stack'
	@echo "make format     let ruff rewrite the code, and the metafiles README's methods"
	@echo 'make docs       build the documentation in docs/_build, warnings being errors'
	@echo 'make docs-links  ask the web whether the addresses in it still exist'
	@echo 'make clean      remove results and caches, keep the environments'
	@echo
	@echo 'STACK=official|modern    which OpenMMLab stack (now $(STACK), in $(VENV))'
	@echo 'OPS=light|compiled       whose operators: ours over torchvision, or compiled mmcv (now $(OPS))'
	@echo 'PYTHON=python3.11        the Python to make the environment with'
	@echo "PYTEST_ARGS='-k dkd'     more arguments for pytest"
	@echo 'KD_PLUGINS_CACHE=DIR     where wheels of OPS=compiled are kept (~/.cache/kd_plugins)'

setup:
	@$(PYTHON) tools/dev/setup_env.py --stack "$(STACK)" --ops "$(OPS)"

demo: setup
	@$(RUN) tools/demo.py

demo-detection: setup
	@$(RUN) tools/demo_detection.py

test: lint
	@$(PYTEST) -n logical --maxprocesses 4 --dist worksteal -m 'not long' $(PYTEST_ARGS)

test-long: setup
	@$(PYTEST) -m long $(PYTEST_ARGS)

test-faults: setup
	@$(RUN) tests/faults/kill.py

# Compiled operators have an environment of their own.
test-ops: OPS = compiled
test-ops: setup
	@$(PYTEST) tests/operators_compiled/*.py $(PYTEST_ARGS)

# In a folder of its own: beside it every start of Python would take a quarter longer.
test-hugging-face: setup
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --target $(VENV)/hugging-face \
		--no-deps -r requirements/hugging-face-$(STACK).txt
	@PYTHONPATH=$(VENV)/hugging-face $(PYTEST) tests/hugging_face/*.py $(PYTEST_ARGS)

test-memory: setup
	@$(RUN) tests/faults/memory.py

test-gpu: setup
	@$(RUN) tests/gpu/every_method.py
	@$(PYTEST) tests/gpu/operators.py $(PYTEST_ARGS)

# Types are those of the official stack: newer torches annotate `Module.__getattr__` otherwise.
lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
ifeq ($(STACK),official)
	@$(RUN) -m mypy kd_plugins tools
endif

format: setup
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .
	@$(RUN) tools/dev/methods_table.py
	@$(RUN) tools/dev/citation.py

docs: setup
	@$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo 'open docs/_build/index.html'

docs-links: setup
	@$(RUN) -m sphinx -q -b linkcheck docs docs/_build/links

clean:
	rm -rf docs/_build docs/_generated work_dirs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find kd_plugins tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
