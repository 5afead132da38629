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
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

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
def works_are_waited_for(
    state: Callable[[str], None], record: Callable[[Tensor, torch.Stream], None]
) -> Iterator[None]:
    """While open, `Work.wait` does what waiting does; and a message of any rank has come from one.

    Args:
        state: told what is assumed.
        record: told of a tensor that is used on another stream.
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
        stack.enter_context(replaced(torch._C.Future, "then", _on_another_stream(torch._C.Future.then, record)))
        yield


def _on_another_stream(original: Any, record: Callable[[Tensor, torch.Stream], None]) -> Any:
    """What is chained to a future of the card, as hooks of DDP do, runs on a stream of the pool each time, and uses its
    value there (`invokeCallback` of ATen/core/ivalue_inl.h). Products have workspaces of their own there. Futures that
    Python makes know no device unless they are told, and run it where they are."""

    def then(future: Any, callback: Callable[[Any], Any]) -> Any:
        def called(done: Any) -> Any:
            tensors = [] if isinstance(future, torch.futures.Future) else list(_of_the_card(done.value()))
            if not tensors:
                return callback(done)
            outer, own = torch.cuda.current_stream(), torch.cuda.Stream()
            own.wait_stream(outer)
            for tensor in tensors:
                record(tensor, own)
            with torch.cuda.stream(own):
                result = callback(done)
            outer.wait_stream(own)  # who takes the result waits for it
            return result

        return original(future, called)

    return then


def _of_the_card(value: Any) -> Iterator[Tensor]:
    for tensor in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(tensor, FakeTensor) and tensor.device.type == "cuda":
            yield tensor


def _letting_go(original: Any) -> Any:
    def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
        future = work.get_future()
        value = future.value() if future is not None and future.done() else None
        if isinstance(value, list) and value and (waited := vars(value[-1]).get(_WAITED)):
            waited()
        return original(work, *args, **kwargs)

    return wait
