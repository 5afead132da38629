"""Columns of millions of numbers: read one at a time, and followed with numpy, which is imported where there are so
many and nowhere else. What is done here is also done in Python, a number at a time, by whoever calls."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

MANY = 500_000
"""Numbers from which on it pays: numpy takes a tenth of a second to be imported."""
_PART = 2**20
"""Bytes of text that are made numbers at once."""
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
    """`1,-2,3`, in four bytes each if they fit. What is not plainly that is for JSON's reader to judge.

    Raises:
        ValueError, TypeError, OverflowError: it is anything else.
    """
    import numpy as np

    parts = []
    at = 0
    while at <= len(text):
        stop = bytes(text[at + _PART : at + _PART + 32]).find(b",")
        end = at + _PART + stop if stop >= 0 else len(text)
        parts.append(_decimals(bytes(text[at:end])))
        at = end + 1
    if any(part is None for part in parts):
        return _narrow(array("q", json.loads(b"[%b]" % bytes(text))))
    return _column(np.concatenate(parts), None)


def _narrow(values: array[int]) -> array[int]:
    try:
        return array("i", values)
    except OverflowError:
        return values


def _decimals(text: bytes) -> Any:
    """Eight digits at a time: a number's last eight bytes are one word, whose neighbours are joined to pairs, the pairs
    to fours, the fours to eight. None where anything but numbers of sixteen digits at most stands there."""
    import numpy as np

    padded = b"0" * 15 + b"," + text + b","
    letters = np.frombuffer(padded, np.uint8)
    commas = np.flatnonzero(letters == ord(","))
    first, ends = commas[:-1] + 1, commas[1:]
    minus = letters[first] == ord("-")
    first = first + minus
    lengths = ends - first
    digits = np.count_nonzero((letters >= ord("0")) & (letters <= ord("9"))) - 15
    plain = digits + len(commas) + np.count_nonzero(minus) == len(letters) - 15
    if not plain or lengths.min() < 1 or lengths.max() > 16 or ((letters[first] == ord("0")) & (lengths > 1)).any():
        return None
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    values = _eight(words[ends - 8], np.minimum(lengths, 8))
    if (long := np.flatnonzero(lengths > 8)).size:
        values[long] += 10**8 * _eight(words[ends[long] - 16], lengths[long] - 8)
    np.negative(values, out=values, where=minus)
    return values


def _eight(words: Any, lengths: Any) -> Any:
    """What the last `lengths` digits of each eight say."""
    import numpy as np

    words &= np.array([0x0F0F0F0F0F0F0F0F << 8 * (8 - length) & 2**64 - 1 for length in range(9)], np.uint64)[lengths]
    for factor, shift, mask in ((10, 8, 0x00FF00FF00FF00FF), (100, 16, 0x0000FFFF0000FFFF), (10**4, 32, 2**32 - 1)):
        words = (words * np.uint64(factor) + (words >> np.uint64(shift))) & np.uint64(mask)
    return words.astype(np.int64)


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

    return np.append(_view(sizes), 0)[_view(buffers)]


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


def named(actions: array[int], buffers: array[int], names: Sequence[bool]) -> tuple[array[int], int]:
    """The buffers of the events whose actions name one; and how many others name none, which they should."""
    import numpy as np

    picked, columns = np.asarray(names)[np.frombuffer(actions, np.int8)], np.frombuffer(buffers, np.int64)
    return _column(columns[picked]), int((columns[~picked] == -1).sum())


def alive(start: array[int], stop: array[int], event: int) -> array[int]:
    """As `TraceData.live_at`."""
    born, dead = _view(start), _view(stop)
    return _column(((born >= 0) & (born <= event) & (event < dead)).nonzero()[0])


def between(values: array[int], low: int, high: int) -> list[int]:
    """The places of those that are one of `low`, …, `high` - 1."""
    found: list[int] = ((_view(values) >= low) & (_view(values) < high)).nonzero()[0].tolist()
    return found


def those(values: array[int], wanted: Sequence[int]) -> list[int]:
    """The places of those that are one of some."""
    import numpy as np

    found: list[int] = np.isin(_view(values), wanted).nonzero()[0].tolist() if wanted else []
    return found


def highest(values: array[int], start: int = 0, stop: int | None = None) -> int:
    """The largest of a stretch; 0 of none."""
    part = _view(values)[start:stop]
    return int(part.max()) if len(part) else 0


def distinct(values: array[int]) -> list[int]:
    """Each once, in order."""
    import numpy as np

    found: list[int] = np.unique(_view(values)).tolist()
    return found


def ordered(places: array[int], nearest: Sequence[int], farthest: Sequence[int]) -> bool:
    """Whether each row reads only of rows before it: by the place that it has in a table, the nearest it reads is one
    before, and the farthest is there."""
    import numpy as np

    near, far = np.asarray(nearest, np.int64)[_view(places)], np.asarray(farthest, np.int64)[_view(places)]
    return bool((near >= 1).all() and (far <= np.arange(len(far))).all())


def as_code(values: array[int], code: str) -> array[int]:
    """The same numbers as a column of another kind, in which they fit."""
    return _column(_view(values), code)


def _view(values: array[int]) -> Any:
    import numpy as np

    return np.frombuffer(values, np.dtype(values.typecode))


def _column(values: Any, code: str | None = "q") -> array[int]:
    """An array of numpy's numbers; without a code in four bytes each if they fit.

    Raises:
        OverflowError: they do not fit what is asked for.
    """
    import numpy as np

    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    small = np.iinfo(np.int32)
    code = code or ("i" if low >= small.min and high <= small.max else "q")
    kind = np.dtype(code)
    if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
        raise OverflowError("a number is too large for its column")
    found = array(code)
    found.frombytes(values.astype(kind, copy=False).data.cast("B"))
    return found


def alike(
    rows: Sequence[int], told: Sequence[array[int]], of: array[int], further: Sequence[array[int]], sizes: array[int]
) -> tuple[array[int], list[int], list[int]]:
    """Rows that columns say the same of.

    Args:
        rows: their places in `told` and `of`.
        of: a place in `further`, or -1.

    Returns:
        The rows, those that are alike together and in their order; where each group begins, in the order of their
        first; and the sum of each group's sizes.
    """
    import numpy as np

    chosen = np.asarray(rows, np.int64)
    makers = _view(of)[chosen].astype(np.int64)
    key = np.zeros(len(chosen), np.int64)
    for values, places in [*((one, chosen) for one in told), *((one, makers) for one in further)]:
        key = _joined(key, np.where(places < 0, -1, _view(values)[places].astype(np.int64)) + 1)
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    begins = first[group.ravel()]
    order = np.argsort(begins, kind="stable")
    starts = np.flatnonzero(np.diff(begins[order], prepend=-1))
    sums = np.add.reduceat(_view(sizes)[chosen[order]], starts) if len(starts) else starts
    return _column(chosen[order]), starts.tolist(), sums.tolist()


def _joined(key: Any, values: Any) -> Any:
    """A number for each pair of a key and a value, neither of which is below 0."""
    import numpy as np

    wide = int(values.max(initial=0)) + 1
    if int(key.max(initial=0)) >= _SAFE / wide:
        key = np.unique(key, return_inverse=True)[1].ravel()
    return key * wide + values


def from_0_on(values: array[int]) -> array[int]:
    """1 for each that is not below 0, else 0."""
    return _column(_view(values) >= 0, "b")
