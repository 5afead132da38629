"""Marks in a recording: which phase, and which op of which module, ran when something was allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from memgraph.capture.hook_log import HookRun
from memgraph.trace import Action, Events, Op, Phase


class Marks:
    """Numbers what is marked, and says later what the numbers meant.

    Args:
        write: puts a number into the recording.
    """

    def __init__(self, write: Callable[[int], object]) -> None:
        self._write = write
        self._phases: list[tuple[int, str, int]] = []
        self._ops: list[tuple[int, Op]] = []
        self._next = 0
        self._step = 0

    def phase(self, name: str) -> None:
        """A phase begins; `input` begins the next step."""
        if name == "input":
            self._step += 1
        self._phases.append((self._number(), name, self._step))

    def op(self, name: str, module: str) -> None:
        """An op begins."""
        self._ops.append((self._number(), Op(name, len(self._phases) - 1, module)))

    def _number(self) -> int:
        self._next += 1
        self._write(self._next)
        return self._next

    def placed(self, run: HookRun) -> tuple[tuple[Op, ...], tuple[Phase, ...], HookRun]:
        """Ops, phases, and the run with the op that made each buffer and ran at each event."""
        starts = [run.marks.get(number, 0) for number, _, _ in self._phases]
        stops = [*starts[1:], len(run.events)]
        if starts:
            starts[0] = 0
        phases = tuple(
            Phase(name, step, start, stop)
            for (_, name, step), start, stop in zip(self._phases, starts, stops, strict=True)
        )
        return tuple(op for _, op in self._ops), phases, self._with_ops(run)

    def _with_ops(self, run: HookRun) -> HookRun:
        places = [run.marks.get(number, 0) for number, _ in self._ops]
        buffers, events, at = list(run.buffers), Events(), -1
        for position, event in enumerate(run.events):
            while at + 1 < len(places) and places[at + 1] <= position:
                at += 1
            events.append(event._replace(op=at))
            if event.action is Action.ALLOC:
                buffers[event.buffer] = buffers[event.buffer]._replace(op=at)
        return HookRun(tuple(buffers), events, run.marks)


class OpsMarked(TorchDispatchMode):
    """Marks each ATen call with the module whose forward runs. It costs some microseconds a call, and holds nothing."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._marks = marks
        self._modules: list[str] = []
        self._names: dict[nn.Module, str] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> OpsMarked:
        self._handles = [register_module_forward_pre_hook(self._in), register_module_forward_hook(self._out)]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._marks.op(str(func), self._modules[-1] if self._modules else "")
        return func(*args, **(kwargs or {}))

    def _in(self, module: nn.Module, _args: object) -> None:
        if not self._modules:
            self._names = {inner: name for name, inner in module.named_modules()}
        self._modules.append(self._names.get(module, ""))

    def _out(self, _module: nn.Module, _args: object, _output: object) -> None:
        if self._modules:
            self._modules.pop()
