"""^C while Python runs inside of a callback from C: there an exception is printed and lost, or ends the process.

A storage's death calls a weak reference's callback, whose exceptions Python ignores; and C++ asks a fake tensor for its
device, and which rule a subclass has for an op (`find_torch_dispatch_rule`), where an exception aborts: both seen.
An interrupt that falls there is kept, and raised at the next op.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, Protocol

from torch._library.simple_registry import find_torch_dispatch_rule

_ASKED_BY_C = find_torch_dispatch_rule.__code__


class Interruptible(Protocol):
    """Whoever raises what was kept."""

    interrupted: bool


@contextlib.contextmanager
def interrupts_kept(target: Interruptible, died: CodeType, asked: CodeType, device: object) -> Iterator[None]:
    """While open, ^C inside of a callback is kept for `target`; anywhere else it is raised at once, as ever.

    Args:
        died: the code of the weak references' callback.
        asked: the code that answers C++, which is asking for a device if its `func` is `device`.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # somebody else's handler, or a thread that gets no signals
        return

    def handle(number: int, frame: FrameType | None) -> Any:
        if _in_a_callback(frame, died, asked, device):
            target.interrupted = True
        else:
            signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_a_callback(frame: FrameType | None, died: CodeType, asked: CodeType, device: object) -> bool:
    while frame is not None:
        if frame.f_code in (died, _ASKED_BY_C) or (frame.f_code is asked and frame.f_locals.get("func") is device):
            return True
        frame = frame.f_back
    return False
