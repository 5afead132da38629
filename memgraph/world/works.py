"""What a collective leaves behind: a `Work` whose future holds its results, and the tensors that it holds until then.

ProcessGroupNCCL.cpp keeps the tensors of an asynchronous collective until somebody waits for it or the work is gone
(`stashed_for_allocator_safety_`); one that is not asynchronous runs on the caller's stream and keeps nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d_cpp
from torch._subclasses.fake_tensor import unset_fake_temporarily

from memgraph.virtual.patches import replaced

_HELD = "_memgraph_held"
_WAITS = ("wait", "synchronize", "block_current_stream")


def made(results: Sequence[Tensor], held: Sequence[Tensor] = ()) -> Any:
    """A finished `Work`, as operators return it. C++ waits for works without asking Python, so what is held hangs on a
    tensor of no size that the future holds beside the results, and goes with it.

    Args:
        results: what its future gives; DDP's reducer and its hooks take the first.
        held: what lives until somebody waits for it in Python, or nobody has the work any more.
    """
    value = list(results)
    if held:
        with unset_fake_temporarily():
            value.append(torch.empty(0))
        setattr(value[-1], _HELD, tuple(held))
    future: Any = torch.futures.Future()
    future.set_result(value)
    return c10d_cpp._create_work_from_future(future).boxed()  # type: ignore[attr-defined]


def hold(result: Tensor, held: Sequence[Tensor]) -> None:
    """Keep these until somebody waits for the result of a functional collective, or it is gone."""
    setattr(result.untyped_storage(), _HELD, tuple(held))


def waited_for(result: Tensor) -> None:
    """Somebody waits for the result of a functional collective."""
    _let_go(result.untyped_storage())


@contextlib.contextmanager
def works_are_waited_for() -> Iterator[None]:
    """While open, `Work.wait` lets go of what the work holds."""
    with contextlib.ExitStack() as stack:
        for name in _WAITS:
            if hasattr(c10d_cpp.Work, name):
                stack.enter_context(replaced(c10d_cpp.Work, name, _letting_go(getattr(c10d_cpp.Work, name))))
        yield


def _letting_go(original: Any) -> Any:
    def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
        future = work.get_future()
        value = future.value() if future is not None and future.done() else None
        if isinstance(value, list) and value:
            _let_go(value[-1])
        return original(work, *args, **kwargs)

    return wait


def _let_go(holder: Any) -> None:
    if hasattr(holder, _HELD):
        delattr(holder, _HELD)
