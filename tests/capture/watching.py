"""The card that tests of captured runs run on, and what they read off the trace."""

from __future__ import annotations

import memgraph
from memgraph.capture.session import VirtualGpu
from memgraph.trace import Action, Role, Trace


def card(memory: int | None = None) -> VirtualGpu:
    """An RTX 3090; sizes in bytes."""
    return memgraph.virtual_gpu("rtx3090", memory=memory)


def check(trace: Trace) -> None:
    """The conservation laws, and that every buffer is freed after it is allocated."""
    trace.self_check()
    assert all(0 <= life.start < life.stop for life in trace.lives)


def short(op: str) -> str:
    """`addmm` for `aten.addmm.default`."""
    return op.split(".")[1] if "." in op else op


def maker(trace: Trace, buffer: int) -> str:
    """The short name of the op that made a buffer."""
    op = trace.buffers[buffer].op
    return short(trace.ops[op].name) if op >= 0 else ""


def story(trace: Trace, phase: str = "") -> list[str]:
    """The births and deaths of tensors' storages in order, `+addmm 320` and `-addmm 320`; workspaces are left out.

    Args:
        phase: only the events of phases with this name.
    """
    stretches = [range(p.start, p.stop) for p in trace.phases if phase in ("", p.name)]
    told = []
    for index, event in enumerate(trace.events):
        if event.action in (Action.ALLOC, Action.FREE) and any(index in stretch for stretch in stretches):
            buffer = trace.buffers[event.buffer]
            if buffer.role is Role.OUTPUT:
                sign = "+" if event.action is Action.ALLOC else "-"
                told.append(f"{sign}{maker(trace, event.buffer)} {buffer.size}")
    return told


def outputs_of(trace: Trace, op: str) -> list[int]:
    """The buffers that calls of an op have as outputs."""
    return [
        index for index, buffer in enumerate(trace.buffers) if buffer.role is Role.OUTPUT and maker(trace, index) == op
    ]


def the_output_of(trace: Trace, op: str) -> int:
    """The one buffer that the one call of an op has as output."""
    (buffer,) = outputs_of(trace, op)
    return buffer


def left(trace: Trace) -> list[str]:
    """What is still there at the end, tensors only, as in `story`."""
    return [
        f"{maker(trace, index)} {trace.buffers[index].size}"
        for index in trace.live_at(len(trace.events) - 1)
        if trace.buffers[index].role is Role.OUTPUT
    ]
