"""Graphs that Dynamo splits at the buckets of DistributedDataParallel (`DDPOptimizer`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.patches import put


@contextlib.contextmanager
def parts_are_tried_on_stand_ins() -> Iterator[None]:
    """`SubmodCompiler` runs each part once on stand-ins of the real inputs, in Dynamo's fake mode, and keeps what comes
    out with its autograd graph. It leaves those as they are that are fake already (`run_node`,
    torch/_dynamo/backends/distributed.py, torch 2.11 to 2.15): on the virtual GPU all inputs are, and that graph would
    keep the module's own parameters for as long as the compiled code lives."""
    owner = import_module("torch._dynamo.backends.distributed").SubmodCompiler
    stand_in = import_module("torch._dynamo.utils").to_fake_tensor
    original = owner.run

    def run(self: Any, *inputs: Any, **kwargs: Any) -> Any:
        return original(self, *(stand_in(each, self.fake_mode) if _is_real(each, self) else each for each in inputs),
                        **kwargs)  # fmt: skip

    with put(owner, "run", run):
        yield


def _is_real(given: Any, compiler: Any) -> bool:
    """A tensor of the run, none of the compiler's own."""
    return isinstance(given, FakeTensor) and given.fake_mode is not compiler.fake_mode
