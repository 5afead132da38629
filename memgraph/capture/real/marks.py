"""Marks in a recording: which phase, and which op of which module, ran when something was allocated."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from memgraph.capture.provenance import ForwardOps, ModulePaths, SourceLines
from memgraph.capture.script import StepsDone
from memgraph.virtual.patches import replaced

Line = Mapping[str, Any]


class Marks:
    """Says what a mark means, once, and marks it, each time. What is said is written at once, so a crash loses none.

    Args:
        say: writes a line of text.
        mark: puts a line's number into the recording.
    """

    def __init__(self, say: Callable[[Line], None], mark: Callable[[int], object]) -> None:
        self._say, self._mark = say, mark
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._count = 0
        self._step = 0
        self._lock = threading.Lock()

    def phase(self, name: str) -> None:
        """A phase begins; `input` begins the next step."""
        if name == "input":
            self._step += 1
        self._mark(self._said({"phase": name, "step": self._step}))

    def op(self, name: str, module: str, source: str) -> int:
        """An op begins. The number of what is said of it."""
        number = self._numbers.get((name, module, source))
        if number is None:
            number = self._numbers[name, module, source] = self._said({"op": name, "module": module, "source": source})
        self._mark(number)
        return number

    def _said(self, line: Line) -> int:
        with self._lock:  # autograd has threads of its own
            self._say(line)
            self._count += 1
            return self._count


class OpsMarked(TorchDispatchMode):
    """Marks each ATen call with its module and the user's line; in a backward, with those of the forward op that it
    differentiates. It costs some microseconds a call, and holds nothing."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._marks = marks
        self._paths = ModulePaths(lambda _: None)
        self._forwards = ForwardOps()
        self._sources = SourceLines()
        self._places: dict[int, tuple[str, str]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> OpsMarked:
        self._stack.enter_context(self._paths.following())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        node = torch._C._current_autograd_node()
        place = self._here() if node is None else self._places.get(self._forwards.of(node)) or self._here()
        number = self._marks.op(str(func), *place)
        if node is None:
            self._places[number] = place
            self._forwards.made(number)
        return func(*args, **(kwargs or {}))

    def _here(self) -> tuple[str, str]:
        return self._paths.modules.current, self._sources.current()


class StepsMarked:
    """Marks the phases of a script by what it does: `load` until a model is first called, then for each step `input`,
    `forward`, `backward`, `update` and `optimizer`.

    Args:
        mark: told of each phase.
        steps: end the script after so many optimizer steps.
    """

    def __init__(self, mark: Callable[[str], None], steps: int | None) -> None:
        self._mark, self._steps = mark, steps
        self._done = 0
        self._name = "load"
        self._busy = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow a script while open."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(ModulePaths(self._called).following())
            stack.enter_context(self._backward_told())
            for register, told in (
                (register_optimizer_step_pre_hook, self._stepping),
                (register_optimizer_step_post_hook, self._stepped),
            ):
                stack.callback(register(told).remove)
            yield

    def _set(self, name: str) -> None:
        if name != self._name and os.getpid() == self._process:  # a worker that was forked off may not touch the card
            self._name = name
            self._mark(name)

    def _called(self, _module: object) -> None:
        """A model is called; not one that a checkpoint calls again in a backward, nor one of an optimizer."""
        if self._busy:
            return
        if self._name == "load":
            self._set("input")
        self._set("forward")

    @contextlib.contextmanager
    def _backward_told(self) -> Iterator[None]:
        """`Tensor.backward` of torch 2.11 to 2.15 calls this by its module's name (torch/_tensor.py)."""
        original = torch.autograd.backward

        @functools.wraps(original)
        def backward(*args: Any, **kwargs: Any) -> Any:
            self._set("backward")
            self._busy = True
            try:
                return original(*args, **kwargs)
            finally:
                self._busy = False
                self._set("update")

        with replaced(torch.autograd, "backward", backward):
            yield

    def _stepping(self, *_: Any) -> None:
        self._set("optimizer")
        self._busy = True

    def _stepped(self, *_: Any) -> None:
        self._busy = False
        self._done += 1
        if self._done == self._steps:
            raise StepsDone
        self._set("input")
