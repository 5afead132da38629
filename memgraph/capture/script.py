"""Somebody's script, unmodified, on a virtual GPU, as `python script.py` or `python -m module` would run it."""

from __future__ import annotations

import contextlib
import itertools
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from memgraph.capture.ended import Ended, OwnEnd
from memgraph.capture.session import VirtualGpu
from memgraph.capture.surroundings import leave, surroundings_kept
from memgraph.errors import UsageError
from memgraph.gpu.allocator.out_of_memory import OutOfMemory


def _nothing() -> None:
    pass


class StepsDone(OwnEnd):
    """Ends a script after as many optimizer steps as were asked for."""


def raise_out_of_memory(gpu: VirtualGpu) -> None:
    """From here on an allocation that does not fit raises `torch.cuda.OutOfMemoryError`, in PyTorch's words."""

    def refuse(error: OutOfMemory) -> None:
        gpu.saving = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        raise torch.cuda.OutOfMemoryError(error.message(gpu.spec.memory, gpu.spec.context)) from None

    gpu.ledger.refuse = refuse


def run_script(
    gpu: VirtualGpu, target: str, arguments: Sequence[str], *, module: bool, steps: int | None = None,
    goes_on: bool = False,
) -> Ended:  # fmt: skip
    """Run a script to its end, or to the end of optimizer step number `steps`.

    Args:
        gpu: an open virtual GPU.
        target: a file, or with `module` a module's name.
        arguments: the script's own.
        goes_on: where the card is full, as if it were larger; default is that the script is told, as by a real one.

    Raises:
        UsageError: there is no such file.
    """
    if not module and not Path(target).is_file():
        raise UsageError(f"there is no script {target}")
    if not goes_on:
        raise_out_of_memory(gpu)
    if steps is not None:
        gpu.updates.after_step = _stop_after(steps)
    with as_main(target, arguments, module):
        return ended(target, module, gpu.over)


def ended(target: str, module: bool, over: Callable[[], None] = _nothing) -> Ended:
    """Run it in this process, and say how it ended.

    Args:
        over: called when it has, and what it names is still there.
    """
    process = os.getpid()
    with surroundings_kept():
        how = _ran(target, module, over)
    if os.getpid() != process:
        leave(how)
    return how


def _ran(target: str, module: bool, over: Callable[[], None]) -> Ended:
    """The names of a script that ends by an exception are held by that."""
    try:
        if module:
            names = runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            names = runpy.run_path(target, run_name="__main__")
    except StepsDone:
        over()
        return Ended(0)
    except SystemExit as exit_:
        over()
        return _exit(exit_.code)
    except (KeyboardInterrupt, OwnEnd):
        raise
    except BaseException as error:  # Python shows these too
        over()
        return Ended(1, error=error)
    over()
    names.clear()
    return Ended(0)


def _exit(code: object) -> Ended:
    """`sys.exit()`, `sys.exit(3)` and `sys.exit("a text")` as python takes them."""
    if code is None:
        return Ended(0)
    return Ended(code) if isinstance(code, int) else Ended(1, str(code))


@contextlib.contextmanager
def as_main(target: str, arguments: Sequence[str], module: bool) -> Iterator[None]:
    """`sys.argv` and the head of `sys.path` as python sets them for a script."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [target, *arguments]
    sys.path.insert(0, str(Path.cwd() if module else Path(target).resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _stop_after(steps: int) -> Callable[[], None]:
    done = itertools.count(1)

    def stop() -> None:
        if next(done) >= steps:
            raise StepsDone

    return stop
