"""Two sequences of allocations laid side by side: which of one is which of the other.

The longest common subsequence, found in windows: equal stretches are skipped at once, and around a difference the exact
answer is computed for a window that grows until both sides agree again. So the cost is that of reading the sequences
plus that of the differences, also where a million allocations repeat the same few hundred sizes.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple


class Stretch(NamedTuple):
    """Elements that both sequences have: `left[i:i+length] == right[j:j+length]`."""

    left: int
    right: int
    length: int

    @property
    def stop(self) -> tuple[int, int]:
        """One past its last elements."""
        return self.left + self.length, self.right + self.length


class Gap(NamedTuple):
    """What lies between two stretches: elements that one sequence has, and what stands in their place in the other."""

    left: range
    right: range


class _Window(NamedTuple):
    """How far to look from a difference on, and how many equal elements in a row say that it is over."""

    size: int
    settled: int


_WINDOWS = (_Window(64, 16), _Window(512, 32), _Window(4096, 64))
_LARGEST = _Window(16384, 128)
_ALIKE = 0.75
"""Share of a window from which its sides are the same thing with many differences, rather than different things."""
_SEED, _STRIDE, _CANDIDATES = 64, 16, 8
"""Beyond windows: equal stretches of this length are looked for, at every so many places, this many each."""

Cost = Callable[[int, int], int]
"""How ill two elements go together, 0 for well: to choose among equal answers."""


def align(left: Sequence[int], right: Sequence[int]) -> list[Stretch]:
    """The stretches that two sequences share, in order.

    Exact (no longer common subsequence exists) where both differ within 64 elements or within 16 thousand of their
    ends; elsewhere short of it by little, never wrong: what is returned is common to both.
    """
    one, other = array("q", left), array("q", right)
    found: list[Stretch] = []
    i = j = 0
    while True:
        length = _equal(one, other, i, j)
        found.append(Stretch(i, j, length))
        i, j = i + length, j + length
        if i == len(one) or j == len(other):
            return _joined(found)
        stretches, i, j = _past_difference(one, other, i, j)
        found += stretches


def gaps(stretches: Sequence[Stretch], left: int, right: int) -> Iterator[Gap]:
    """What the stretches leave of two sequences of so many elements."""
    ends = [Stretch(0, 0, 0), *stretches, Stretch(left, right, 0)]
    for before, after in pairwise(ends):
        (i, j) = before.stop
        if i < after.left or j < after.right:
            yield Gap(range(i, after.left), range(j, after.right))


def settle(stretches: Sequence[Stretch], left: Sequence[int], right: Sequence[int], cost: Cost) -> list[Stretch]:
    """Where one of several equal elements is too many, leave out the one that fits worst.

    Args:
        stretches: as `align` gives them; `left` and `right` likewise.
        cost: of pairing `left[i]` with `right[j]`.
    """
    rows = [list(stretch) for stretch in stretches]
    for before, after in pairwise(rows):
        shift = _best_shift(before, after, (left, right), cost)
        before[2] += shift
        after[0], after[1], after[2] = after[0] + shift, after[1] + shift, after[2] - shift
    return _joined([Stretch(*row) for row in rows])


def _best_shift(before: list[int], after: list[int], sides: tuple[Sequence[int], Sequence[int]], cost: Cost) -> int:
    """By how many elements to move a gap that only one side has; right is positive."""
    (i, j), (k, m) = (before[0] + before[2], before[1] + before[2]), (after[0], after[1])
    if (i == k) == (j == m):
        return 0
    side, start, stop = (sides[0], i, k) if j == m else (sides[1], j, m)
    best, chosen = 0, 0
    for step, room in ((1, after[2]), (-1, before[2])):
        total = 0
        for moved in range(min(room, stop - start, _SEED)):
            near, far = (start + moved, stop + moved) if step > 0 else (start - 1 - moved, stop - 1 - moved)
            if side[near] != side[far]:
                break
            here, there = (k + moved, m + moved) if step > 0 else (i - 1 - moved, j - 1 - moved)
            pair = (i + moved, j + moved) if step > 0 else (k - 1 - moved, m - 1 - moved)
            total += cost(*pair) - cost(here, there)
            if total < best:
                best, chosen = total, step * (moved + 1)
    return chosen


def _equal(one: array[int], other: array[int], i: int, j: int) -> int:
    """How many elements from here on are equal: in pieces, which are compared as memory."""
    start, piece = i, 64
    while one[i : i + piece] == other[j : j + piece]:
        if i + piece >= len(one) or j + piece >= len(other):
            return min(len(one) - i, len(other) - j) + i - start
        i, j, piece = i + piece, j + piece, min(4 * piece, 2**16)
    while i < len(one) and j < len(other) and one[i] == other[j]:
        if piece > 64:
            return i - start + _equal(one, other, i, j)
        i, j = i + 1, j + 1
    return i - start


def _past_difference(one: array[int], other: array[int], i: int, j: int) -> tuple[list[Stretch], int, int]:
    """What is common around a difference, and where to go on."""
    for window in _WINDOWS:
        stretches, whole = _in_window(one, other, i, j, window.size)
        settled = next((n for n, s in enumerate(stretches) if s.length >= window.settled), None)
        if settled is not None:
            return stretches[:settled], stretches[settled].left, stretches[settled].right
        if whole:
            return stretches, len(one), len(other)
    if _alike(stretches, _WINDOWS[-1].size):
        return _first_half(stretches, i, j, _WINDOWS[-1].size)
    stretches, whole = _in_window(one, other, i, j, _LARGEST.size)
    settled = next((n for n, s in enumerate(stretches) if s.length >= _LARGEST.settled), None)
    if settled is not None and not whole:
        return stretches[:settled], stretches[settled].left, stretches[settled].right
    if whole:
        return stretches, len(one), len(other)
    jump = None if _alike(stretches, _LARGEST.size) else _far(one, other, i, j)
    return ([], *jump) if jump else _first_half(stretches, i, j, _LARGEST.size)


def _in_window(one: array[int], other: array[int], i: int, j: int, size: int) -> tuple[list[Stretch], bool]:
    """The longest common subsequence of the next elements, and whether these were all."""
    pieces = one[i : i + size], other[j : j + size]
    stretches = [Stretch(i + a, j + b, length) for a, b, length in common(*pieces)]
    return stretches, i + size >= len(one) and j + size >= len(other)


def _alike(stretches: Sequence[Stretch], size: int) -> bool:
    return sum(stretch.length for stretch in stretches) >= _ALIKE * size


def _first_half(stretches: list[Stretch], i: int, j: int, size: int) -> tuple[list[Stretch], int, int]:
    """The part of a window whose answer no longer depends on what lies beyond it."""
    kept = [s for s in stretches if s.left + s.length <= i + size // 2 or s.right + s.length <= j + size // 2]
    if not kept:
        return [], i + size // 2, j + size // 2
    return kept, *kept[-1].stop


def _far(one: array[int], other: array[int], i: int, j: int) -> tuple[int, int] | None:
    """The nearest place beyond all windows where a long stretch is equal."""
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for place in range(j, len(other) - _SEED + 1, _STRIDE):
        found = places[other[place : place + _SEED].tobytes()]
        if len(found) < _CANDIDATES:
            found.append(place)
    best: tuple[int, int] | None = None
    for place in range(i, len(one) - _SEED + 1):
        if best is not None and place - i >= sum(best) - i - j:
            break
        for there in places.get(one[place : place + _SEED].tobytes(), ()):
            if best is None or place + there < sum(best):
                best = place, there
    return best


def common(left: Sequence[int], right: Sequence[int]) -> list[Stretch]:
    """The longest common subsequence of two short sequences, exactly.

    One bit an element of `right`, one row an element of `left` (Hyyrö 2004, "Bit-parallel LCS-length computation
    revisited"): a thousand by a thousand take some two milliseconds.
    """
    places: dict[int, int] = {}
    for index, value in enumerate(right):
        places[value] = places.get(value, 0) | 1 << index
    everything = (1 << len(right)) - 1
    row, rows = everything, []
    for value in left:
        same = row & places.get(value, 0)
        row = (row + same | row - same) & everything
        rows.append(row)
    return _traced(rows, len(right))


def _traced(rows: Sequence[int], width: int) -> list[Stretch]:
    """The way back through the rows: a bit that is not set says that the subsequence grows there."""
    pairs: list[Stretch] = []
    at, place = len(rows) - 1, width - 1
    while at >= 0 and place >= 0:
        grown = ~rows[at] & (2 << place) - 1
        place = grown.bit_length() - 1
        if place < 0:
            break
        while at > 0 and not rows[at - 1] >> place & 1:
            at -= 1
        pairs.append(Stretch(at, place, 1))
        at, place = at - 1, place - 1
    return _joined(pairs[::-1])


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Stretches that touch, as one; empty ones left out."""
    rows: list[Stretch] = []
    for stretch in stretches:
        if not stretch.length:
            continue
        if rows and rows[-1].stop == (stretch.left, stretch.right):
            rows[-1] = rows[-1]._replace(length=rows[-1].length + stretch.length)
        else:
            rows.append(stretch)
    return rows
