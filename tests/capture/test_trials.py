"""What `torch.backends.cudnn.benchmark` takes: at the first call of each convolution the largest workspace of all its
kernels that there is room for, which is given back with all that is cached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import memgraph
from memgraph.capture.ledger import Ledger
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.cudnn import choice
from memgraph.gpu.cudnn.choice import Settings, Trials
from memgraph.gpu.cudnn.question import Config, Convolution
from memgraph.gpu.rules import convolution
from memgraph.gpu.spec import GpuSpec
from memgraph.gpu.specs import find
from memgraph.trace import Action, Role, Trace
from tests.gpu.cudnn.test_with_driver import weight

MIB = 2**20
SMALL, LARGE = 3 * MIB, 40 * MIB
H200 = find("h200")


class Library:
    """Proposes a kernel that takes little, and then one that takes much."""

    def __init__(self, *refused: int) -> None:
        self.refused = refused

    def configs(
        self, asked: Convolution, gpu: GpuSpec, without: tuple[int, ...] = (), most: int = 1
    ) -> tuple[Config, ...]:
        both = Config(50, (), (0,), SMALL, self.refused if most > 1 else ()), Config(68, (), (0,), LARGE)
        return both[:most]


def trying(allowed: bool) -> contextlib.AbstractContextManager[None]:
    """The setting, also where torch's own test utilities have forbidden to set it for good."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=allowed)


@pytest.fixture(autouse=True)
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (choice, convolution):
        monkeypatch.setattr(module, "asker", Library)
    with trying(True):
        yield


def convolved(*, memory: int = 1024 * MIB, side: int = 18) -> Trace:
    """Twice, with gradients of the weight alone."""
    with memgraph.virtual_gpu("h200", memory=memory) as gpu:
        layer = nn.Conv2d(24, 40, 3, padding=1, bias=False, device="cuda")
        images = torch.empty(2, 24, side, side, device="cuda")
        for _ in range(2):
            layer(images).sum().backward()
    return gpu.trace


def workspaces(trace: Trace) -> list[int]:
    return [buffer.size for buffer in trace.buffers if buffer.role is Role.TEMPORARY and buffer.size >= SMALL]


def test_each_direction_is_tried_once() -> None:
    trace = convolved()
    assert workspaces(trace) == [LARGE, SMALL, LARGE, SMALL, SMALL, SMALL]


def test_all_that_is_cached_is_given_back() -> None:
    """The segment of the trial, whole and free, before the kernel's own workspace has one of 20 MiB."""
    events = [event for event in convolved().events if event.action in (Action.SEGMENT_ALLOC, Action.SEGMENT_FREE)]
    large = [(event.action, event.size // MIB) for event in events if event.size > 2 * MIB]
    taken, back = (Action.SEGMENT_ALLOC, 40), (Action.SEGMENT_FREE, 40)
    own = (Action.SEGMENT_ALLOC, 20)
    assert large[:5] == [taken, back, own, taken, (Action.SEGMENT_FREE, 20)]
    assert large[5:] == [back, own]


def test_kernels_that_take_more_than_there_is_are_not_tried() -> None:
    trace = convolved(memory=30 * MIB, side=20)
    assert workspaces(trace) == [SMALL] * 6
    assert not any(event.action is Action.OUT_OF_MEMORY for event in trace.events)


def test_without_it_nothing_is_tried() -> None:
    with trying(False):
        assert workspaces(convolved(side=22)) == [SMALL] * 4


def test_where_the_allocator_says_no_it_is_half_of_that() -> None:
    """The card has 45 MiB left, and a limit of 30 MiB, of which `cacheInfo` knows nothing."""
    allocator = Allocator(45 * MIB)
    allocator.set_limit(30 * MIB)
    ledger = Ledger(allocator)
    ledger.try_out([LARGE, SMALL, 100 * MIB])
    assert list(ledger.sizes) == [LARGE // 2]
    assert allocator.reserved == 0


def test_a_cached_block_is_room_too() -> None:
    allocator = Allocator(100 * MIB)
    ledger = Ledger(allocator)
    ledger.free(ledger.allocate(80 * MIB))
    assert allocator.room == 80 * MIB
    ledger.try_out([70 * MIB])
    assert list(ledger.sizes) == [80 * MIB, 70 * MIB]


def test_kernels_that_the_library_left_out_are_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's, engine 17: 4 x 22 x 22 tiles of 36 places, and one of which nothing is known."""
    library: Any = Library(17, 99)
    monkeypatch.setattr(choice, "asker", lambda: library)
    sizes = Trials(weight(4, 64, 64, 85), H200, Settings(benchmark=True)).sizes()
    assert sizes == (36 * 4 * (64 * 64 + 4 * 22 * 22 * 128), SMALL, LARGE)


def test_the_thread_of_the_backward_tries_for_itself() -> None:
    """The gradient of a transposed convolution's input is the convolution that it undoes."""
    with memgraph.virtual_gpu("h200") as gpu:
        images, results = (torch.empty(2, channels, 24, 24, device="cuda") for channels in (24, 40))
        kernels = torch.empty(40, 24, 3, 3, device="cuda")
        for _ in range(2):
            torch.conv2d(images, kernels, padding=1)
        torch.conv_transpose2d(results.requires_grad_(), kernels, padding=1).sum().backward()
    assert workspaces(gpu.trace) == [LARGE, SMALL, SMALL] + [LARGE, SMALL] * 2


def test_a_setting_that_changes_is_asked_anew() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        images, kernels = torch.empty(2, 24, 26, 26, device="cuda"), torch.empty(40, 24, 3, 3, device="cuda")
        for allowed in (False, True, False):
            with trying(allowed):
                torch.conv2d(images, kernels)
    assert workspaces(gpu.trace) == [SMALL, LARGE, SMALL, SMALL]
