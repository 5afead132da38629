"""Constants that Inductor computes on the device while it compiles: here on the host, where there are values."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorConverter
from torch.utils._python_dispatch import TorchDispatchMode

from memgraph.virtual.inductor.watcher import Watcher
from memgraph.virtual.patches import replaced

_CPU = torch.device("cpu")


class _OnHost(TorchDispatchMode):
    """What is asked of the device is computed on the CPU; the watcher is told of each result."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watcher = watcher

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        moved = [_CPU if isinstance(arg, torch.device) else arg for arg in args]
        named = {name: _CPU if isinstance(arg, torch.device) else arg for name, arg in (kwargs or {}).items()}
        result = func(*moved, **named)
        if isinstance(result, torch.Tensor):
            self._watcher.constant(result)
        return result


@contextlib.contextmanager
def constants_are_computed_on_the_host(watcher: Watcher) -> Iterator[None]:
    """Inductor folds constants by computing them, one element each, on the device (`UniformValueConstantFolder` of
    fx_passes/joint_graph.py); and it traces its patterns there, for which any device will do."""
    joint = import_module("torch._inductor.fx_passes.joint_graph")
    folder = joint.UniformValueConstantFolder
    initialise, deduce, patterns = folder.__init__, folder._deduce_value, joint.lazy_init

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        with _OnHost(watcher):
            initialise(self, *args, **kwargs)

    def deduce_value(self: Any, node: Any) -> Any:
        with _OnHost(watcher):
            return deduce(self, node)

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(folder, "__init__", init))
        stack.enter_context(replaced(folder, "_deduce_value", deduce_value))
        once = functools.cache(lambda: _initialise_patterns(patterns, watcher))
        stack.enter_context(replaced(joint, "lazy_init", lambda *_: once()))
        yield


_PATTERN_CONSTANTS: list[int] = []
"""Bytes of each constant in the patterns, found when this process first traced them."""


def _initialise_patterns(patterns: Callable[..., Any], watcher: Watcher) -> None:
    """Trace the patterns once in a process, as for the CPU; a fresh process on the card makes their constants there:
    `torch.tensor(2.0, device=device)` (fx_passes/fuse_attention.py) makes a real one, and FakeTensor keeps its value in
    a copy (`may_turn_const` in FakeTensorMode)."""
    with _constants_counted():
        patterns(_CPU)
    made = [torch.empty(size, dtype=torch.uint8) for size in _PATTERN_CONSTANTS for _ in range(2)]
    for tensor in made:
        watcher.constant(tensor)


@contextlib.contextmanager
def _constants_counted() -> Iterator[None]:
    convert = FakeTensorConverter.from_real_tensor

    def counted(
        self: Any, mode: Any, tensor: torch.Tensor, make_constant: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        if make_constant:
            _PATTERN_CONSTANTS.append(tensor.untyped_storage().nbytes())
        return convert(self, mode, tensor, make_constant, *args, **kwargs)

    with replaced(FakeTensorConverter, "from_real_tensor", counted):
        yield
