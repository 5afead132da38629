"""Which answer to a condition lets a script go on: the one after which it does not raise.

Read from the bytecode of the function that asks, which says it of an `assert`, of `if not valid.all(): raise …` over
several lines, and of checks inside torch's own files, such as those of `torch.distributions` (Python 3.11 to 3.13).
"""

from __future__ import annotations

import dis
import functools
import linecache
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

_TORCH = Path(torch.__file__).parent
_BETWEEN = (
    str(Path(__file__).parents[2]),
    *(str(_TORCH / part) for part in ("_subclasses", "_ops.py", "_library", "overrides.py", "utils/_device.py")),
    str(_TORCH / "_prims_common"),
)
"""Files whose frames stand between a condition and the mode that answers it."""
_IN_BETWEEN = frozenset({"CACHE", "PRECALL", "CALL", "NOP", "TO_BOOL", "EXTENDED_ARG", "RESUME", "COPY", "NOT_TAKEN"})
"""Instructions between the asking call and the jump that its answer decides, and that keep the answer."""
_GOING_ON = ("RETURN", "YIELD", "FOR_ITER", "JUMP_BACKWARD", "SEND")
"""Instructions after which a function goes on, or is done."""
_FAR = 400
"""Instructions read ahead for a `raise`."""


_GO_ON = {"GenerationMixin._beam_search": True}
"""Functions whose condition has an answer of its own. transformers, generation/utils.py: whether there are unfinished
beams, which is known to be False at the length that was asked for."""
_LBFGS = str(_TORCH / "optim" / "lbfgs.py")
_WELL = ("ys > 1e-10", "abs(gtd_new) <= -c2 * gtd")
"""Of its conditions, those that hold where it works: the step says something of the curvature and is remembered, and a
line search is content with its first point. The others would end it."""


def slices() -> bool:
    """Whether the number that is asked for is where a slice begins or ends."""
    frame = _asking()
    return frame is not None and dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("BINARY_S")


def counts() -> bool:
    """Whether one is added to the number that is asked for, as to the largest of indices to say of how many they are:
    `int(index.max()) + 1`."""
    frame = _asking()
    return frame is not None and _adds_one(frame.f_code, frame.f_lasti)


@functools.lru_cache(maxsize=1024)
def _adds_one(code: CodeType, offset: int) -> bool:
    steps = (step for step in dis.get_instructions(code) if step.offset > offset and step.opname not in _IN_BETWEEN)
    one, plus = next(steps, None), next(steps, None)
    return one is not None and plus is not None and one.argval == 1 and plus.argrepr == "+"


def goes_on(usual: bool) -> bool:
    """The answer after which the asking code does not raise, or the usual one if both or none does."""
    frame = _asking()
    while frame is not None and _hands_on(frame.f_code, frame.f_lasti):  # `return bool(valid.all())`: its caller asks
        frame = frame.f_back
    if frame is None:
        return usual
    if frame.f_code.co_qualname in _GO_ON:
        return _GO_ON[frame.f_code.co_qualname]
    if frame.f_code.co_filename == _LBFGS:
        return any(well in linecache.getline(_LBFGS, frame.f_lineno) for well in _WELL)
    raising = tuple(_raises_after(frame.f_code, frame.f_lasti, answer) for answer in (False, True))
    return usual if raising[0] == raising[1] else raising[0]


def minimises() -> bool:
    """Whether a loss is asked for by an optimizer that is done once it falls no more (torch/optim/lbfgs.py)."""
    frame = _asking()
    return frame is not None and frame.f_code.co_filename == _LBFGS


def place() -> tuple[CodeType, int] | None:
    """The line that asks, be it of a library: its loop asks several questions for one line of the program. (Not the
    instruction: the condition of one loop is compiled twice.)"""
    frame = _asking()
    return None if frame is None else (frame.f_code, frame.f_lineno)


def _asking() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back
    return frame


@functools.lru_cache(maxsize=1024)
def _hands_on(code: CodeType, offset: int) -> bool:
    """Whether the answer is returned as it is, so that the caller goes by it, as `_all_true_or_runtime_assert` of
    torch 2.15's distributions does; or is one of a generator's, of which the caller asks for `all` or `any`."""
    after = (step.opname for step in dis.get_instructions(code) if step.offset > offset)
    last = "YIELD_VALUE" if code.co_name == "<genexpr>" else "RETURN_VALUE"
    return next((name for name in after if name not in _IN_BETWEEN), "") == last


@functools.lru_cache(maxsize=1024)
def _raises_after(code: CodeType, offset: int, answer: bool) -> bool:
    """Whether the code raises for certain once the call or the jump at `offset` has this answer."""
    instructions = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    places = {step.offset: place for place, step in enumerate(instructions)}
    # a frame that waits for another function of Python stands at the end of its call (ceval.c of Python 3.11)
    place = max((place for at, place in places.items() if at <= offset), default=len(instructions))
    first = True
    while place < len(instructions):
        step = instructions[place]
        if "IF_TRUE" in step.opname or "IF_FALSE" in step.opname:
            jumps = answer is ("IF_TRUE" in step.opname)
            keeps = step.opname.endswith("OR_POP")  # `a and b`: the answer is that of the whole, and is asked for again
            place = places[step.argval] if jumps else place + 1
            if not (jumps and keeps):
                return _leads_to_raise(instructions, places, place)
        elif step.opname == "UNARY_NOT":
            answer, place = not answer, place + 1
        elif first or step.opname in _IN_BETWEEN:
            place += 1
        else:
            return False
        first = False
    return False


def _leads_to_raise(instructions: list[dis.Instruction], places: dict[int, int], place: int) -> bool:
    """Whether every way from here ends in a `raise`, whatever its message is made of."""
    ahead, seen = [place], set[int]()
    while ahead:
        place = ahead.pop()
        if place in seen:
            continue
        seen.add(place)
        if place >= len(instructions) or len(seen) > _FAR:
            return False
        step = instructions[place]
        if step.opname in ("RAISE_VARARGS", "RERAISE"):
            continue
        if step.opname.startswith(_GOING_ON):
            return False
        if "_IF_" in step.opname or step.opname == "JUMP_FORWARD":
            ahead.append(places[step.argval])
        if step.opname != "JUMP_FORWARD":
            ahead.append(place + 1)
    return True
