"""How long the ops of a step take on a real GPU, from PyTorch's profiler."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from memgraph.errors import MemgraphError

Shapes = tuple[tuple[int, ...], ...]
Row = tuple[str, Shapes, int, float]
"""An op's name, the shapes of its tensors, calls, and microseconds of the card in total."""
_ATEN = "aten::"


def time_last_step(run: Callable[[Callable[[str], None]], None], steps: int) -> list[Row]:
    """The card's time of the ops of a run's last step.

    Args:
        run: does all steps; tells what it is given of each phase when it begins, `input` at each step's start.
        steps: how many it does.

    Raises:
        MemgraphError: the profiler saw nothing of the card.
    """
    begun = 0
    profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True)
    with contextlib.ExitStack() as stack:

        def mark(phase: str) -> None:
            nonlocal begun
            begun += phase == "input"
            if phase == "input" and begun == steps:
                torch.cuda.synchronize()
                stack.enter_context(profiler)

        run(mark)
        torch.cuda.synchronize()
    found = rows(profiler.events() or ())
    if not any(microseconds for *_, microseconds in found):
        raise MemgraphError("PyTorch's profiler saw no kernel, so there are no times: is CUPTI there, or in use?")
    return found


def rows(events: Iterable[Any]) -> list[Row]:
    """By op and shapes, from the profiler's events (`torch.autograd.profiler_util.FunctionEvent`).

    Where some calls launched something and others of the same name and shapes did not, the others were no calls of the
    card: they worked on the host's memory. Calls without a shape are left out: nothing tells them apart.
    """
    calls: dict[tuple[str, Shapes], list[float]] = defaultdict(list)
    for event in events:
        if event.name.startswith(_ATEN) and (key := _key(event))[1] and not _hands_on(event):
            calls[key].append(_inclusive(event))
    return [(*key, len(launched := [us for us in all_ if us] or all_), round(sum(launched), 3))
            for key, all_ in calls.items()]  # fmt: skip


def _hands_on(event: Any) -> bool:
    """Whether it is autocast's: it casts, and calls the same op again, which then is the op's own event."""
    return any(child.name == event.name and _key(child)[1] == _key(event)[1] for child in event.cpu_children)


def _inclusive(event: Any) -> float:
    """Microseconds of an event's kernels and of those below it."""
    return sum(kernel.duration for kernel in event.kernels) + sum(map(_inclusive, event.cpu_children))


def _key(event: Any) -> tuple[str, Shapes]:
    return event.name.removeprefix(_ATEN), tuple(_flat(_shapes(event)))


def _shapes(event: Any) -> Any:
    """Lists of tensors are empty in `input_shapes`, and lists of optional ones, which indices are, in the other too
    (torch 2.13). No op of a trace matches such calls: it has the shapes."""
    structured = getattr(event, "structured_input_shapes", None)
    return event.input_shapes if structured is None else structured


def _flat(shapes: Any) -> Iterable[tuple[int, ...]]:
    """The shapes in a list of shapes and of lists of shapes; tensors without dimensions look as what is no tensor."""
    for shape in shapes or ():
        if shape and isinstance(shape[0], int):
            yield tuple(shape)
        elif shape:
            yield from _flat(shape)
