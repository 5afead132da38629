"""The model against torch's own caching allocators, 2.11 to 2.15, asked without a GPU: call by call.

`tests/data/allocator_of_torch.json.gz`, made by `benchmarks/torch_allocator/record.py`.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from typing import Any, NamedTuple

import pytest

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from tests import DATA

RECORDED = DATA / "allocator_of_torch.json.gz"
VERSIONS = ((2, 11), (2, 12), (2, 13), (2, 14), (2, 15))


class Answer(NamedTuple):
    """What one call did. Bytes."""

    address: int
    """-1 for a refusal, 0 for a call that asks for nothing."""
    allocated: int
    reserved: int
    num_ooms: int
    num_alloc_retries: int


@functools.cache
def recorded() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(gzip.decompress(RECORDED.read_bytes()))["runs"]
    return runs


def name(run: dict[str, Any]) -> str:
    return f"{run['settings'] or 'defaults'} {run['fraction'] or ''} {run['capacity'] // 2**20}"


def did(run: dict[str, Any], torch: tuple[int, int]) -> tuple[list[Answer], str]:
    """What that torch did, and its last refusal."""
    version = ".".join(map(str, torch))
    columns, refusal = next(value for key, value in run["did"].items() if version in key.split())
    return [Answer(*row) for row in zip(*columns, strict=True)], refusal


def replay(run: dict[str, Any], torch: tuple[int, int]) -> tuple[list[Answer], str]:
    """What the model does."""
    capacity = run["capacity"]
    allocator = Allocator(capacity, AllocatorConfig.parse(run["settings"]), torch=torch)
    if run["fraction"] is not None and run["fraction"] < 1:  # all of it is no limit
        allocator.set_limit(int(run["fraction"] * capacity))
    blocks: list[Block | None] = []
    answers, refusal = [], ""
    for call in re.findall(r"a \d+ \d+|f \d+|e", run["calls"]):
        address = 0
        action, *numbers = call.split()
        if action == "a":
            try:
                blocks.append(allocator.malloc(*map(int, numbers)))
                address = blocks[-1].address
            except OutOfMemory as error:
                blocks.append(None)
                address, refusal = -1, error.message(capacity, 0)
        elif action == "e":
            allocator.empty_cache()
        elif (block := blocks[int(numbers[0])]) is not None:
            allocator.free(block)
        answers.append(
            Answer(
                address, allocator.allocated, allocator.reserved, allocator.num_ooms, allocator.num_alloc_retries
            )
        )  # fmt: skip
    return answers, refusal


@pytest.mark.parametrize("torch", VERSIONS, ids=lambda torch: ".".join(map(str, torch)))
@pytest.mark.parametrize("run", recorded(), ids=name)
def test_every_call_does_what_it_does_in_torch(run: dict[str, Any], torch: tuple[int, int]) -> None:
    expected, refusal = did(run, torch)
    answers, message = replay(run, torch)
    assert len(expected) == 250
    for number, (own, torch_own) in enumerate(zip(answers, expected, strict=True)):
        assert own == torch_own, f"call {number}"
    assert without_process(message) == without_process(refusal)


def without_process(message: str) -> str:
    """The recorded process is said to use 1.50 GiB whatever it does."""
    return re.sub(r"this process has [\d.]+ .iB", "this process has", message)


def test_the_recording_says_something() -> None:
    """The settings make a difference, the versions too, and memory does run out."""
    ends = {(name(run), tuple(answer)) for run in recorded() for answer in did(run, (2, 15))[0][-1:]}
    assert len(ends) == len(recorded()) == 28
    assert sum(did(run, (2, 15))[0][-1].num_ooms > 0 for run in recorded()) >= 9
    assert sum(did(run, (2, 11)) != did(run, (2, 12)) for run in recorded()) >= 5
    assert sum(did(run, (2, 12)) != did(run, (2, 13)) for run in recorded()) >= 3
