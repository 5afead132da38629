"""Columns of millions of numbers: read one at a time, and followed with numpy, which is imported where there are so
many and nowhere else. What is done here is also done in Python, a number at a time, by whoever calls."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

MANY = 500_000
"""Numbers from which on it pays: numpy takes a tenth of a second to be imported."""
_SAFE = 2.0**62
"""Sums up to here fit their column, whatever rounding a float does."""


def taken_out(text: bytearray, key: str) -> list[array[int]] | None:
    """The columns of numbers that stand in a JSON text under a key, `"events":[[1,2],[3,4]]`; an empty list stays in
    their place. None, and the text as it is, where that is not certain: JSON's own reader decides then."""
    mark = f',"{key}":[['.encode()
    start = text.find(mark)
    end = text.find(b"]]", start)
    if start < 0 or end < 0 or text.find(mark, start + 1) >= 0:
        return None
    columns = []
    at = start + len(mark)
    while at < end:
        stop = text.find(b"]", at)
        columns.append(_numbers(bytes(text[at:stop])))
        at = stop + 3  # past `],[`
    text[start + len(mark) - 1 : end + 1] = b""
    return columns


def _numbers(text: bytes) -> array[int]:
    """`1,-2,3`, in four bytes each if they fit. A list of Python's numbers is there for one column at a time.

    Raises:
        ValueError, TypeError, OverflowError: it is anything else.
    """
    numbers = json.loads(b"[%b]" % text)
    try:
        return array("i", numbers)
    except OverflowError:
        return array("q", numbers)


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
    return _column(start), _column(stop)


def summed(actions: array[int], sizes: Any, signs: Sequence[int]) -> array[int] | None:
    """The running sum of sizes, each with its action's sign; None if it might not fit."""
    import numpy as np

    amounts = np.asarray(sizes, np.int64)
    if float(np.abs(amounts.astype(np.float64)).sum()) > _SAFE:
        return None
    return _column(np.cumsum(amounts * np.asarray(signs, np.int64)[np.frombuffer(actions, np.int8)]))


def of_buffers(sizes: array[int], buffers: array[int]) -> Any:
    """The size of the buffer that each event names; 0 where it names none."""
    import numpy as np

    return np.append(np.frombuffer(sizes, np.int64), 0)[np.frombuffer(buffers, np.int64)]


def below(lower: array[int], upper: array[int], *, strictly: bool = False) -> bool:
    """Whether each number is at most the one beside it."""
    import numpy as np

    one, two = np.frombuffer(lower, np.int64), np.frombuffer(upper, np.int64)
    return bool((one < two).all() if strictly else (one <= two).all())


def within(values: array[int], low: int, high: int) -> bool:
    """Whether each is one of `low`, …, `high` - 1."""
    import numpy as np

    found = np.frombuffer(values, np.dtype(values.typecode))
    return not len(found) or bool(found.min() >= low and found.max() < high)


def named(actions: array[int], buffers: array[int], names: Sequence[bool]) -> tuple[array[int], int]:
    """The buffers of the events whose actions name one; and how many others name none, which they should."""
    import numpy as np

    picked, columns = np.asarray(names)[np.frombuffer(actions, np.int8)], np.frombuffer(buffers, np.int64)
    return _column(columns[picked]), int((columns[~picked] == -1).sum())


def _column(values: Any) -> array[int]:
    found = array("q")
    found.frombytes(values.tobytes())
    return found
