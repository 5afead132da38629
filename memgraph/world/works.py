"""What a collective leaves behind: a `Work` whose future holds its results, and what waiting for it does.

One that is asynchronous keeps its tensors until somebody waits (`nccl.py`); one that is not runs on the caller's stream
and keeps nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d_cpp
from torch._subclasses.fake_tensor import unset_fake_temporarily

from memgraph.virtual.patches import replaced

_HELD = "_memgraph_held"
_WAITED = "_memgraph_waited"
_WAITS = ("wait", "synchronize", "block_current_stream")


def made(results: Sequence[Tensor], waited: Callable[[], None] | None = None) -> Any:
    """A finished `Work`, as operators return it; see `work_of`."""
    return work_of(results, waited).boxed()


def work_of(results: Sequence[Tensor], waited: Callable[[], None] | None = None) -> Any:
    """A finished `Work`. C++ waits for works without asking Python, so what waiting does hangs
    on a tensor of no size that the future holds beside the results, and goes with it.

    Args:
        results: what its future gives; DDP's reducer and its hooks take the first.
        waited: called when somebody waits for it in Python.
    """
    value = list(results)
    if waited is not None:
        with unset_fake_temporarily():
            value.append(torch.empty(0))
        setattr(value[-1], _WAITED, waited)
    future: Any = torch.futures.Future()
    future.set_result(value)
    return c10d_cpp._create_work_from_future(future)  # type: ignore[attr-defined]


def hold(result: Tensor, held: Sequence[Tensor]) -> None:
    """Keep these until somebody waits for the result of a functional collective, or it is gone."""
    setattr(result.untyped_storage(), _HELD, tuple(held))


def waited_for(result: Tensor) -> None:
    """Somebody waits for the result of a functional collective."""
    storage = result.untyped_storage()
    if hasattr(storage, _HELD):
        delattr(storage, _HELD)


@contextlib.contextmanager
def works_are_waited_for(state: Callable[[str], None]) -> Iterator[None]:
    """While open, `Work.wait` does what waiting does; and a message of any rank has come from one.

    Args:
        state: told what is assumed.
    """

    def source(_work: Any) -> int:
        sender = 0 if dist.get_rank() else 1
        state(f"a message of any rank is taken to come from rank {sender}")
        return sender

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(c10d_cpp.Work, "_source_rank", source))
        for name in _WAITS:
            if hasattr(c10d_cpp.Work, name):
                stack.enter_context(replaced(c10d_cpp.Work, name, _letting_go(getattr(c10d_cpp.Work, name))))
        yield


def _letting_go(original: Any) -> Any:
    def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
        future = work.get_future()
        value = future.value() if future is not None and future.done() else None
        if isinstance(value, list) and value and (waited := vars(value[-1]).get(_WAITED)):
            waited()
        return original(work, *args, **kwargs)

    return wait
