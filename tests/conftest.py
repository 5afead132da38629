"""What the tests share: golden texts, the `gpu` marker, small traces made by hand, commands, a CUDA runtime that is
none."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memgraph.trace import Action, Buffer, Category, Event, Events, Op, Phase, Role, Trace
from tests.commands import Result, Run
from tests.cuda_runtime import compile_runtime

os.environ.setdefault("MEMGRAPH_CUDNN", "off")  # a CUDA build of torch brings cuDNN; what it says would be its own
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in a shell's background, where ^C is ignored by all below
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by `nohup`
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
GOLDEN = Path(__file__).with_name("golden")
MIB = 2**20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden with what the code says now")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` need a real one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _real_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU"))


def _real_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def collector_as_it_was() -> Iterator[None]:
    """A program under test may switch Python's collector off."""
    on = gc.isenabled()
    yield
    (gc.enable if on else gc.disable)()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text is what tests/golden/NAME holds; `--update-golden` makes it so."""
    update = bool(request.config.getoption("--update-golden"))

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8", newline="\n")
        assert path.exists(), f"there is no {path}: run pytest --update-golden once, and read what it wrote"
        assert text + "\n" == path.read_text(encoding="utf-8"), "changed on purpose? run pytest --update-golden"

    return check


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of `tests/cuda_runtime.py`."""
    return compile_runtime(tmp_path_factory.mktemp("cudart"))


class Tape:
    """Makes a trace by hand, an event a call. Blocks are rounded up to 512 bytes, addresses only rise."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.buffers: list[Buffer] = []
        self.events = Events()
        self._phases: list[tuple[str, int, int]] = []
        self._blocks: dict[int, tuple[int, int]] = {}
        self._address = 0

    def phase(self, name: str, step: int) -> None:
        """From here on it is this phase."""
        self._phases.append((name, step, len(self.events)))

    def op(self, name: str, module: str = "", source: str = "", forward: int = -1, **rest: Any) -> int:
        """An op runs from here on."""
        self.ops.append(Op(name, len(self._phases) - 1, module, source, forward=forward, **rest))
        return len(self.ops) - 1

    def segment(self, size: int) -> None:
        """The allocator takes this much from the card."""
        self.events.append(Event(Action.SEGMENT_ALLOC, -1, len(self.ops) - 1, 0, size))

    def alloc(self, size: int, category: Category, name: str = "", role: Role = Role.OUTPUT, **spec: Any) -> int:
        """The op that runs allocates a buffer of so many requested bytes."""
        buffer, block = len(self.buffers), -(-size // 512) * 512
        self.buffers.append(Buffer(size, len(self.ops) - 1, role, category, name, **spec))
        self._blocks[buffer] = (self._address, block)
        self.events.append(Event(Action.ALLOC, buffer, len(self.ops) - 1, self._address, block))
        self._address += block
        return buffer

    def free(self, buffer: int) -> None:
        """The buffer dies."""
        self.events.append(Event(Action.FREE, buffer, len(self.ops) - 1, *self._blocks[buffer]))

    def wait(self, buffer: int) -> None:
        """The buffer is freed, and its block waits for other streams."""
        self.events.append(Event(Action.FREE_REQUESTED, buffer, len(self.ops) - 1, *self._blocks[buffer]))

    def complete(self, buffer: int) -> None:
        """They are done."""
        self.events.append(Event(Action.FREE_COMPLETED, buffer, len(self.ops) - 1, *self._blocks[buffer]))

    def out_of_memory(self, size: int) -> None:
        """The card cannot serve a request."""
        self.events.append(Event(Action.OUT_OF_MEMORY, -1, len(self.ops) - 1, 0, size))

    def trace(self, **fields: Any) -> Trace:
        """What was recorded."""
        stops = [start for _, _, start in self._phases][1:] + [len(self.events)] * bool(self._phases)
        known: dict[str, Any] = {
            "origin": "predicted", "gpu": "rtx3090", "memory": 4 * MIB, "torch": "2.13.0+cpu", "settings": {},
            "ops": tuple(self.ops), "buffers": tuple(self.buffers), "events": self.events,
            "phases": tuple(Phase(*phase, stop) for phase, stop in zip(self._phases, stops, strict=True)),
        }  # fmt: skip
        return Trace(**known | fields)


@pytest.fixture
def tape() -> Tape:
    """An empty tape, for a trace of one's own."""
    return Tape()


@pytest.fixture
def toy() -> Trace:
    """One training step of a model with two equal blocks.

    | event | what                     | requested            | allocated             |
    |-------|--------------------------|----------------------|-----------------------|
    | 0     | segment of 2 MiB         | 0                    | 0                     |
    | 1     | weight, 1000             | 1000                 | 1024                  |
    | 2     | input, 100               | 1100                 | 1024 + 512 = 1536     |
    | 3     | activation of block 0    | 1100 + 600 = 1700    | 1536 + 1024 = 2560    |
    | 4     | activation of block 1    | 1700 + 600 = 2300    | 2560 + 1024 = 3584    |
    | 5     | temporary, 2000          | 4300, the peak       | 3584 + 2048 = 5632    |
    | 6     | it dies                  | 2300                 | 3584                  |
    | 7     | gradient, 1000           | 3300                 | 4608                  |
    | 8, 9  | the activations die      | 2700, 2100           | 3584, 2560            |
    | 10    | optimizer state, 1000    | 3100                 | 3584                  |
    | 11    | the gradient dies        | 2100                 | 2560                  |
    """
    tape = Tape()
    tape.phase("load", 0)
    tape.op("aten._to_copy.default", source="train.py:3")
    tape.segment(2 * MIB)
    tape.alloc(1000, Category.PARAMETER, "blocks.0.weight", shape=(250,), dtype="float32")
    tape.phase("input", 1)
    tape.op("aten._to_copy.default", source="train.py:7")
    tape.alloc(100, Category.INPUT, "input 0", shape=(25,), dtype="float32")
    tape.phase("forward", 1)
    first = tape.op("aten.mm.default", "blocks.0.mlp", "model.py:10")
    one = tape.alloc(600, Category.ACTIVATION, shape=(10, 15), dtype="float32")
    second = tape.op("aten.mm.default", "blocks.1.mlp", "model.py:10")
    two = tape.alloc(600, Category.ACTIVATION, shape=(10, 15), dtype="float32")
    tape.phase("backward", 1)
    tape.op("aten.mm.default", "blocks.1.mlp", "model.py:10", forward=second)
    scratch = tape.alloc(2000, Category.WORKSPACE, role=Role.TEMPORARY)
    tape.free(scratch)
    gradient = tape.alloc(1000, Category.GRADIENT, "gradient of blocks.0.weight", shape=(250,), dtype="float32")
    tape.free(two)
    tape.op("aten.mm.default", "blocks.0.mlp", "model.py:10", forward=first)
    tape.free(one)
    tape.phase("optimizer", 1)
    tape.op("aten._foreach_add.List", source="train.py:12")
    tape.alloc(1000, Category.OPTIMIZER, "exp_avg of blocks.0.weight", shape=(250,), dtype="float32")
    tape.free(gradient)
    return tape.trace()


@pytest.fixture
def empty() -> Trace:
    """A run that allocated nothing."""
    return Tape().trace()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    from memgraph.cli.main import main

    def invoke(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(end.value.code or 0), out, err)

    return invoke


@pytest.fixture
def saved(toy: Trace, tmp_path: Path) -> Path:
    """The toy trace in a file."""
    toy.save(tmp_path / "toy.memgraph")
    return tmp_path / "toy.memgraph"


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said before anything runs."""
    import memgraph.api

    def predict(*_: object) -> Trace:
        raise AssertionError("it ran")

    monkeypatch.setattr(memgraph.api, "predict", predict)
