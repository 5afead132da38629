"""Where an op comes from: the module whose forward runs, the user's source line, the forward op behind a backward
one."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch.autograd import graph as autograd_graph
from torch.nn.modules import module as module_hooks
from torch.utils import checkpoint as torch_checkpoint

from memgraph.trace import Op
from memgraph.virtual.patches import replaced

_PACKAGE = Path(__file__).parent.parent
_INTERNAL = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, _PACKAGE, sysconfig.get_paths()["stdlib"])
)
_MODELS = f"{_PACKAGE / 'models'}{os.sep}"
RUNNER = str(_PACKAGE / "study" / "run.py")
"""Runs an `Options`: who asked for it stands above it on the stack, and is not where a step's ops come from."""


class Modules(threading.local):
    """Which module runs, by its path in the model. Autograd's threads, which recompute checkpoints, have their own
    stack."""

    def __init__(self) -> None:
        self.stack: list[str] = []

    @property
    def current(self) -> str:
        return self.stack[-1] if self.stack else ""


class ModulePaths:
    """Follows `Module.__call__` through global hooks, and names modules from the outermost one that is called.

    Args:
        entered: told of each outermost module when its forward starts.
    """

    def __init__(self, entered: Callable[[torch.nn.Module], None]) -> None:
        self.modules = Modules()
        self._names: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._entered = entered
        self._handles: list[Any] = []
        self._quick = contextlib.ExitStack()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow calls while open."""
        self._hook()
        try:
            yield
        finally:
            self._unhook()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """While open, no call is followed, and nobody who looks at modules' hooks sees ours."""
        hooked = bool(self._handles)
        self.follow(False)
        try:
            yield
        finally:
            self.follow(hooked)

    def follow(self, wanted: bool) -> None:
        """Follow calls from here on, or do not."""
        if not wanted:
            self._unhook()
        elif not self._handles:
            self._hook()

    def _hook(self) -> None:
        self._handles = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        self._quick = contextlib.ExitStack()
        self._quick.enter_context(replaced(torch.nn.Module, "_call_impl", self._called(torch.nn.Module._call_impl)))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._quick.close()

    def _called(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`Module._call_impl` (torch/nn/modules/module.py) goes a long way as soon as there are hooks; where ours are
        the only ones, this is all that they come to."""
        enter, leave = self._enter, self._leave

        def called(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if _is_hooked(module) or torch._C._get_tracing_state():
                return original(module, *args, **kwargs)
            enter(module, args)
            try:
                return module.forward(*args, **kwargs)
            finally:
                leave(module, args, None)

        return called

    def name(self, root: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
        """Give the module and all below it their paths; those that have one keep it.

        Returns:
            all of them, as `named_modules` has them.
        """
        modules = list(root.named_modules())
        for path, module in modules:
            if module not in self._names:
                self._names[module] = uncompiled(path)
        return modules

    def runs(self) -> bool:
        """Whether a module's forward runs in this thread."""
        return bool(self.modules.stack)

    def knows(self, module: torch.nn.Module) -> bool:
        """Whether it has a path."""
        return module in self._names

    def roots(self) -> list[torch.nn.Module]:
        """The modules that were called from outside any."""
        return [module for module, path in self._names.items() if not path]

    def by_id(self) -> dict[str, str]:
        """The paths, by the modules' `id` as text."""
        return {str(id(module)): path for module, path in self._names.items()}

    def _enter(self, module: torch.nn.Module, _args: Any) -> None:
        path = self._names.get(module)
        if path is None:
            self.name(module)
            path = self._names[module]
        if not self.modules.stack:
            self._entered(module)
        self.modules.stack.append(path)

    def _leave(self, _module: torch.nn.Module, _args: Any, _output: Any) -> None:
        if self.modules.stack:
            self.modules.stack.pop()


def _is_hooked(module: torch.nn.Module) -> bool:
    """Whether a module has hooks besides the two that follow all modules."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or len(module_hooks._global_forward_hooks) > 1
        or len(module_hooks._global_forward_pre_hooks) > 1
        or module_hooks._global_backward_hooks
        or module_hooks._global_backward_pre_hooks
    )


def uncompiled(path: str) -> str:
    """A path without the modules that `torch.compile` puts around others: `head` for `_orig_mod.head`."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


class Place(NamedTuple):
    """Where an op of generated code comes from, which the stack does not say."""

    name: str
    """What a buffer that is allocated there is filled by, or empty."""
    module: str
    source: str
    whole: bool = False
    """Whether the name is that of all ops there, and not of allocations alone."""


class SourceLines:
    """The innermost line that is neither torch's nor memgraph's own, as `folder/file.py:91`."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[int, str] | None] = {}
        """By the `id` of a function's code: what its lines are shown as, by the places of its instructions; None of
        code that is not the user's."""
        self._codes: list[CodeType] = []
        """Kept, so that no other code has its `id`."""
        self._texts: dict[tuple[str, int], str] = {}
        self.callers: dict[str, str] = {}
        """Of lines of installed libraries the one of the program itself from which it was first reached."""

    def current(self, depth: int = 2) -> str:
        """The user's line that is running now; empty in autograd's threads, and where a step of memgraph's own runs an
        op, as its optimizer does.

        Args:
            depth: frames that are not looked at, this function's own among them.
        """
        frame = sys._getframe(depth)
        known = self._lines
        while frame is not None:
            code = frame.f_code
            try:
                lines = known[id(code)]
            except KeyError:
                lines = self._met(code)
            if lines is not None:
                text = lines.get(frame.f_lasti)
                return text if text is not None else self._shown(frame, lines)
            frame = frame.f_back  # type: ignore[assignment]
        return ""

    def _met(self, code: CodeType) -> dict[int, str] | None:
        """Code that is seen for the first time. Above the one that runs steps nothing is looked for."""
        self._codes.append(code)
        users = code.co_filename == RUNNER or _display_name(code.co_filename)
        lines = self._lines[id(code)] = {} if users else None
        return lines

    def _shown(self, frame: FrameType, lines: dict[int, str]) -> str:
        filename = frame.f_code.co_filename
        text = "" if filename == RUNNER else self._text(_display_name(filename), frame.f_lineno)
        lines[frame.f_lasti] = text
        if _is_installed(filename) and text not in self.callers and (caller := self._caller(frame)):
            self.callers[text] = caller
        return text

    def _caller(self, frame: FrameType) -> str:
        """The innermost line above a library's that is the program's own; empty where memgraph calls the library."""
        above = frame.f_back
        while above is not None and (filename := above.f_code.co_filename) != RUNNER:
            file = _display_name(filename)
            if file and not _is_installed(filename):
                return self._text(file, above.f_lineno)
            above = above.f_back
        return ""

    def at(self, file: str, line: int) -> str:
        """A line of the user's, as it is shown."""
        return self._text(_display_name(file), line)

    def shown(self, frames: Iterable[tuple[str, int]]) -> str:
        """The first of these lines, given innermost first, that is the user's; empty if none is."""
        for filename, line in frames:
            if file := _display_name(filename):
                return self._text(file, line)
        return ""

    def _text(self, file: str, line: int) -> str:
        key = (file, line)
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = f"{file}:{line}"
        return text


@functools.lru_cache(maxsize=4096)
def _display_name(filename: str) -> str:
    """`folder/file.py`, or empty for torch, the standard library and memgraph (whose own models count as the
    user's)."""
    if filename.startswith("<") or (filename.startswith(_INTERNAL) and not filename.startswith(_MODELS)):
        return ""
    return "/".join(Path(filename).parts[-2:])


def _is_installed(filename: str) -> bool:
    return "site-packages" in filename or "dist-packages" in filename


def is_users(filename: str) -> bool:
    """Whether a file is neither torch's, nor the standard library's, nor memgraph's own."""
    return bool(_display_name(filename))


def recomputing() -> bool:
    """Whether a checkpoint runs a part of a forward again: its code stands between the op and the engine that runs the
    backward. No module need be running, for a checkpoint calls a `forward` by itself."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != autograd_graph.__file__:
        if frame.f_code.co_filename == torch_checkpoint.__file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class ForwardOps:
    """From an autograd node back to the op that made it, by autograd's sequence numbers.

    A node takes the next number just before its forward op is dispatched, so the op that first sees a number as the
    last one given is the node's (torch/csrc/autograd/function.h, `sequence_nr`). Each thread counts for itself
    (aten/src/ATen/SequenceNumber.cpp): where several made nodes, one number stands for several ops, and the one that
    looks like the node is taken.

    Args:
        ops: the run's ops, as they come.
    """

    def __init__(self, ops: Sequence[Op] = ()) -> None:
        self._all = ops
        self.ops: dict[int, int] = {}
        self._of_threads: list[dict[int, int]] = []
        self._here = threading.local()

    def made(self, op: int, started: bool = False) -> None:
        """Op number `op` is being dispatched outside the backward.

        Args:
            started: by a thread that the script started.
        """
        number = torch._C._autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        (self._own() if started else self.ops).setdefault(number, op)

    def of(self, node: Any) -> int:
        """The forward op of a node, -1 if it has none (an accumulation, the root)."""
        number = node._sequence_nr()
        if not self._of_threads:
            return self.ops.get(number, -1)
        found = [ops[number] for ops in (self.ops, *self._of_threads) if number in ops]
        return next((op for op in found if self._alike(op, node)), found[0] if found else -1)

    def _own(self) -> dict[int, int]:
        """The numbers of the thread that runs, which begin anew with each."""
        own: dict[int, int] | None = getattr(self._here, "ops", None)
        if own is None:
            own = self._here.ops = {}
            self._of_threads.append(own)
        return own

    def _alike(self, op: int, node: Any) -> bool:
        """Whether an op is called as the node is (`MmBackward0`, `aten.mm.default`) and made what it takes."""
        made = self._all[op]
        named = made.name.split(".")[1].replace("_", "").startswith(node.name().split("Backward")[0].lower())
        return named and [tuple(each.shape) for each in node._input_metadata[:1]] == [o.shape for o in made.outputs[:1]]
