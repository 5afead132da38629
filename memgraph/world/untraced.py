"""What torch.distributed does otherwise when it believes that it is traced, and what of it is no part of a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed._functional_collectives as funcol
from torch.distributed.tensor import _sharding_prop

from memgraph.virtual.patches import replaced
from memgraph.virtual.threads import Here


class Recording(Protocol):
    """Whoever writes the run down."""

    @property
    def here(self) -> Here:
        """What belongs to the thread that asks; what it does `inside` an op is not written down."""


@contextlib.contextmanager
def sharding_is_no_part(of: Recording) -> Iterator[None]:
    """DTensor runs each new op once on fake tensors of the global shape to learn what its result looks like, in
    whatever fake mode is active (`ShardingPropagator._propagate_tensor_meta_non_cached`): here that is the recorder."""
    owner = _sharding_prop.ShardingPropagator
    original = owner._propagate_tensor_meta_non_cached

    def aside(self: Any, *args: Any, **kwargs: Any) -> Any:
        here = of.here
        was, here.inside = here.inside, True
        try:
            return original(self, *args, **kwargs)
        finally:
            here.inside = was

    with replaced(owner, "_propagate_tensor_meta_non_cached", aside):
        yield


@contextlib.contextmanager
def nobody_traces() -> Iterator[None]:
    """torch.distributed takes any fake mode for tracing (`_are_we_tracing`): then functional collectives are waited for
    at once instead of at their first use, and caches are passed by. Only Dynamo traces."""
    original = funcol._are_we_tracing
    with contextlib.ExitStack() as stack:
        for module in _that_have(original):
            stack.enter_context(replaced(module, "_are_we_tracing", _compiling))
        yield


def _that_have(original: Callable[[], bool]) -> list[Any]:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("torch.distributed")]
    return [module for module in modules if vars(module).get("_are_we_tracing") is original]


def _compiling() -> bool:
    return torch.compiler.is_compiling()
