# One command sets everything up and runs the main job (`make demo`), one sets everything up and passes the tests
# (`make test`). torch is pinned, and installed first, so that the small CPU build is taken and no CUDA packages come along.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint test-torch test-field test-field-vision fuzz clean

demo: $(VENV)/.installed
	$(BIN)/memgraph analyze --seq 512

test: $(VENV)/.installed lint
	scripts/programs.sh
	$(BIN)/python -m pytest -n auto --dist worksteal
	$(BIN)/python scripts/check_docs.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check memgraph tests
	$(BIN)/mypy

# The property tests with twenty times the examples, others each time: make fuzz TIMES=100. Then as many whole examples
# as COUNTS says, over all processors, with what came of them counted.
TIMES ?= 20
COUNTS ?= nets=2000 files=20000 lines=5000 signals=500
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz.many $(COUNTS)
	MEMGRAPH_FUZZ=$(TIMES) $(BIN)/python -m pytest tests/render/test_words.py tests/trace/test_columns.py tests/gpu/allocator/test_config.py

# The tests against another torch, in an environment of its own: make test-torch TORCH=2.15.0
test-torch:
	$(MAKE) VENV=.venv-$(TORCH) TORCH=$(TORCH) .venv-$(TORCH)/.installed
	.venv-$(TORCH)/bin/python -m pytest -n auto --dist worksteal

# Scripts of the libraries that people train with, pinned, in an environment of its own; writes docs/works-with.md.
# FIELD="peft_lora qlora" runs these alone. Those with torchvision need it in the same build as torch: PyPI's is for CUDA.
test-field:
	$(MAKE) VENV=.venv-field .venv-field/.installed
	.venv-field/bin/pip install --quiet torch==$(TORCH) --requirement field/lock.txt
	.venv-field/bin/python -m field.run $(FIELD)

test-field-vision:
	$(MAKE) VENV=.venv-field-vision TORCH=2.14.1 .venv-field-vision/.installed
	.venv-field-vision/bin/pip install --quiet --requirement field/lock-vision.txt
	.venv-field-vision/bin/python -m field.run $(FIELD)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==$(TORCH)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
