# One command sets everything up and runs the main job (`make demo`), one sets everything up and passes the tests
# (`make test`). torch is pinned, and installed first, so that the small CPU build is taken and no CUDA packages come along.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint test-torch fuzz clean

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

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==$(TORCH)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
