"""Which of millions of rows are alike, by columns of numbers; with numpy. The time is that of the rows times columns:
nothing is sorted unless there are very many kinds."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from memgraph.trace.columns import as_column, view

_TABLE = 4
"""Numbers up to so many times the rows are looked up in a table."""


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
    kinds, count = _numbered(*_told_apart(chosen, told, of, further))
    small = np.min_scalar_type(max(count - 1, 0))  # of sixteen bits and less are sorted by counting them
    order = np.argsort(kinds.astype(small), kind="stable")
    starts = np.cumsum(np.bincount(kinds, minlength=count)) - np.bincount(kinds, minlength=count)
    sums = np.add.reduceat(view(sizes)[chosen[order]], starts) if count else starts
    return as_column(chosen[order]), starts.tolist(), sums.tolist()


def _told_apart(chosen: Any, told: Sequence[array[int]], of: array[int], further: Sequence[array[int]]) -> Any:
    """A number for each row, the same for those that are alike; and what all are below."""
    import numpy as np

    key, below = np.zeros(len(chosen), np.int64), 1
    for values in _values(chosen, told, of, further):
        dense, wide = _dense(values)
        if wide == 1:
            continue
        if below * wide > _TABLE * len(chosen):
            key, below = _numbered(key, below)
        key = key * wide + dense
        below *= wide
    return key, below


def _values(chosen: Any, told: Sequence[array[int]], of: array[int], further: Sequence[array[int]]) -> Iterator[Any]:
    """What each column says of the rows; of the makers of those that have none something that no column says."""
    import numpy as np

    yield from (view(values)[chosen] for values in told)
    makers = view(of)[chosen]
    none = np.flatnonzero(makers < 0)
    for values in further:
        found = view(values)[makers].astype(np.int64) if len(none) else view(values)[makers]
        found[none] = -1
        yield found


def _dense(values: Any) -> tuple[Any, int]:
    """The same with numbers from 0 on and few gaps, in their order; and what all are below."""
    import numpy as np

    low = int(values.min(initial=0))
    wide = int(values.max(initial=0)) - low + 1
    values = values - np.int64(low) if low else values
    if wide <= _TABLE or wide > _TABLE * len(values):
        return values, wide
    there = np.zeros(wide, bool)
    there[values] = True
    numbers = np.cumsum(there) - 1
    return numbers[values], int(numbers[-1]) + 1


def _numbered(key: Any, below: int) -> tuple[Any, int]:
    """Rows of one number under another, which counts them in the order of their first; and how many there are."""
    import numpy as np

    every = np.arange(len(key))
    if below <= _TABLE * len(key):
        first = np.empty(below, np.int64)
        first[key[::-1]] = every[::-1]  # the last that is written stays: the first
        first = first[key]
    else:
        _, begins, group = np.unique(key, return_index=True, return_inverse=True)
        first = begins[group.ravel()]
    numbers = np.cumsum(first == every) - 1
    return numbers[first], int(numbers[-1]) + 1 if len(numbers) else 0
