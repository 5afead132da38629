"""Columns of millions of numbers: read one at a time, and followed with numpy, which is imported where there are so
many and nowhere else. What is done here is also done in Python, a number at a time, by whoever calls."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

from memgraph.trace.decimals import decimals

MANY = 500_000
"""Numbers from which on it pays: numpy takes a tenth of a second to be imported."""
_SAFE = 2.0**62
"""Sums up to here fit their column, whatever rounding a float does."""


def taken_out(text: bytearray, key: str) -> list[array[int]] | None:
    """The columns of numbers that stand in a JSON text under a key, `"events":[[1,2],[3,4]]`; an empty list stays in
    their place. None, and the text as it is, where that is not certain: JSON's own reader decides then."""
    mark = f',"{key}":[['.encode()
    start = text.find(mark)
    if start < 0 or text.find(mark, start + 1) >= 0:
        return None
    columns = []
    at, more = start + len(mark), True
    while more:
        stop = text.find(b"]", at)
        more = text[stop + 1 : stop + 3] == b",["
        if stop < 0 or not (more or text[stop + 1 : stop + 2] == b"]"):
            return None
        with memoryview(text) as whole:
            columns.append(numbers_in(whole[at:stop]))
        at = stop + 3
    text[start + len(mark) - 1 : stop + 1] = b""
    return columns


def numbers_in(text: memoryview) -> array[int]:
    """`1,-2,3`, in one or four bytes each if they fit. What is not plainly that is for JSON's reader to judge.

    Raises:
        ValueError, TypeError, OverflowError: it is anything else.
    """
    values = decimals(text)
    if values is None:
        return _narrow(array("q", json.loads(b"[%b]" % bytes(text))))
    return as_column(values, None)


def _narrow(values: array[int]) -> array[int]:
    try:
        return array("i", values)
    except OverflowError:
        return values


def spans(
    actions: array[int], buffers: array[int], count: int, alloc: int, ends: Sequence[int]
) -> tuple[array[int], array[int]]:
    """As `TraceData.spans`."""
    import numpy as np

    acts, named = np.frombuffer(actions, np.int8), np.frombuffer(buffers, np.int64)
    start, stop = np.full(count, -1, np.int64), np.full(count, len(acts), np.int64)
    born, dead = np.flatnonzero(acts == alloc), np.flatnonzero(np.isin(acts, ends))
    start[named[born]] = born
    stop[named[dead]] = dead
    return as_column(start), as_column(stop)


def summed(actions: array[int], sizes: Any, signs: Sequence[int]) -> array[int] | None:
    """The running sum of sizes, each with its action's sign; None if it might not fit."""
    import numpy as np

    amounts = np.asarray(sizes, np.int64)
    largest = max(abs(float(amounts.max(initial=0))), abs(float(amounts.min(initial=0))))
    if largest * len(amounts) > _SAFE and float(np.abs(amounts.astype(np.float64)).sum()) > _SAFE:
        return None
    changes = np.multiply(amounts, np.asarray(signs, np.int8)[view(actions)])
    return as_column(np.cumsum(changes, out=changes))


def of_buffers(sizes: array[int], buffers: array[int]) -> Any:
    """The size of the buffer that each event names; 0 where it names none."""
    import numpy as np

    return np.append(view(sizes), 0)[view(buffers)]


def below(lower: array[int], upper: array[int], *, strictly: bool = False) -> bool:
    """Whether each number is at most the one beside it."""
    import numpy as np

    one, two = np.frombuffer(lower, np.int64), np.frombuffer(upper, np.int64)
    return bool((one < two).all() if strictly else (one <= two).all())


def within(values: array[int], low: int, high: int) -> bool:
    """Whether each is one of `low`, …, `high` - 1."""
    import numpy as np

    found = np.frombuffer(values, np.dtype(values.typecode))
    return not len(found) or (int(found.min()) >= low and int(found.max()) < high)


def waits_are_good(
    actions: array[int], buffers: array[int], lives: tuple[array[int], array[int]], asked: int, done: int
) -> bool:
    """Whether each buffer that waits does once and within its life, and its life ends by that and no other's does.

    Args:
        lives: starts and stops that are known to be good otherwise.
        asked, done: the actions with which a wait begins and ends.
    """
    import numpy as np

    acts, born, dead = view(actions), *map(view, lives)
    begins = np.flatnonzero(acts == asked)
    at = np.full(len(born), -1, np.int64)
    at[view(buffers)[begins]] = begins
    waits, ended = at >= 0, dead < len(acts)
    returned = np.append(acts, -1)[dead] == done
    once = int(np.count_nonzero(waits)) == len(begins)
    return once and bool((np.where(waits, (born < at) & (at < dead) & (returned | ~ended), ~returned)).all())


def named(actions: array[int], buffers: array[int], names: Sequence[bool]) -> tuple[array[int], int]:
    """The buffers of the events whose actions name one; and how many others name none, which they should."""
    import numpy as np

    picked, columns = np.asarray(names)[np.frombuffer(actions, np.int8)], np.frombuffer(buffers, np.int64)
    return as_column(columns[picked]), int((columns[~picked] == -1).sum())


def alive(start: array[int], stop: array[int], event: int) -> array[int]:
    """As `TraceData.live_at`."""
    born, dead = view(start), view(stop)
    return as_column(((born >= 0) & (born <= event) & (event < dead)).nonzero()[0])


def count(values: array[int], value: int) -> int:
    """How many are this one."""
    import numpy as np

    return int(np.count_nonzero(view(values) == value))


def total(values: array[int], rows: Sequence[int]) -> int:
    """The sum of those at some places, of which that of all is known to fit a column."""
    import numpy as np

    return int(view(values)[np.asarray(rows, np.int64)].sum(dtype=np.int64))


def between(values: array[int], low: int, high: int) -> list[int]:
    """The places of those that are one of `low`, …, `high` - 1."""
    found: list[int] = ((view(values) >= low) & (view(values) < high)).nonzero()[0].tolist()
    return found


def those(values: array[int], wanted: Sequence[int]) -> list[int]:
    """The places of those that are one of some."""
    import numpy as np

    found: list[int] = np.isin(view(values), wanted).nonzero()[0].tolist() if wanted else []
    return found


def highest(values: array[int], start: int = 0, stop: int | None = None) -> int:
    """The largest of a stretch; 0 of none."""
    part = view(values)[start:stop]
    return int(part.max()) if len(part) else 0


def distinct(values: array[int]) -> list[int]:
    """Each once, in order."""
    import numpy as np

    found: list[int] = np.unique(view(values)).tolist()
    return found


def ordered(places: array[int], nearest: Sequence[int], farthest: Sequence[int]) -> bool:
    """Whether each row reads only of rows before it: by the place that it has in a table, the nearest it reads is one
    before, and the farthest is there."""
    import numpy as np

    near, far = np.asarray(nearest, np.int64)[view(places)], np.asarray(farthest, np.int64)[view(places)]
    return bool((near >= 1).all() and (far <= np.arange(len(far))).all())


def as_code(values: array[int], code: str) -> array[int]:
    """The same numbers as a column of another kind, in which they fit."""
    return as_column(view(values), code)


def view(values: array[int]) -> Any:
    """A column as numpy sees it; do not change it."""
    import numpy as np

    return np.frombuffer(values, np.dtype(values.typecode))


def as_column(values: Any, code: str | None = "q") -> array[int]:
    """An array of numpy's numbers; without a code in one byte each if they are so already, in four if they fit.

    Raises:
        OverflowError: they do not fit what is asked for.
    """
    import numpy as np

    if code is None:
        code = "b" if values.dtype == np.int8 else "i" if _fits(values, np.dtype("i")) else "q"
    kind = np.dtype(code)
    if not _fits(values, kind):
        raise OverflowError("a number is too large for its column")
    found = array(code)
    found.frombytes(values.astype(kind, copy=False).data.cast("B"))
    return found


def _fits(values: Any, kind: Any) -> bool:
    """Whether each of some numbers is one of a kind's; asked of them only where their own kind has others."""
    import numpy as np

    own, kept = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.iinfo(np.int8), np.iinfo(kind)
    if (own.min >= kept.min and own.max <= kept.max) or not len(values):
        return True
    return int(values.min()) >= kept.min and int(values.max()) <= kept.max


def from_0_on(values: array[int]) -> array[int]:
    """1 for each that is not below 0, else 0."""
    return as_column(view(values) >= 0, "b")
