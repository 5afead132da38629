"""What Inductor's trials of a kernel's configurations take."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import torch

import memgraph
from memgraph.gpu.specs import find
from memgraph.virtual.inductor.tuning import first_launch, timer

MIB = 2**20
CACHE = 6 * MIB
"""The L2 cache of an RTX 3090, which a buffer flushes."""


def kernel(configs: int) -> Any:
    """As a `CachingAutotuner` whose one argument is written in place."""
    return SimpleNamespace(
        configs=[None] * configs, fn=SimpleNamespace(arg_names=["in_out"]), mutated_arg_names=["in_out"],
        optimize_mem=True,
    )  # fmt: skip


def trials(size: int, configs: int) -> list[int]:
    """What the trials allocate, in bytes, where nothing was higher before than what is alive."""
    run = first_launch(timer(find("rtx3090"), contextlib.nullcontext), lambda _: None)
    with memgraph.virtual_gpu("rtx3090") as gpu:
        argument = torch.empty(size, dtype=torch.uint8, device="cuda")
        run(kernel(configs), argument)
        trace = gpu.trace
    return [buffer.size for buffer in trace.buffers][1:]


def test_copies_that_would_raise_the_peak_are_made_once_the_flushing_buffer_raised_it() -> None:
    """At the first configuration the peak is what is alive, so its copies are on the host. Its 6 MiB buffer raises the
    peak by as much: 4 MiB of copies find room at the second, one before the buffer and one beside it."""
    assert trials(4 * MIB, configs=2) == [CACHE, 4 * MIB, CACHE, 4 * MIB]


def test_copies_larger_than_the_buffer_stay_on_the_host() -> None:
    assert trials(8 * MIB, configs=3) == [CACHE, CACHE, CACHE]
