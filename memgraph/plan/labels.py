"""Partial choices: what each costs and needs, how it came about, and which are no better than another."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy import ndarray


class Labels(NamedTuple):
    """Choices for the candidates so far, a row each."""

    cost: ndarray[Any, Any]
    needs: ndarray[Any, Any]
    """[labels, moments]: bytes above the room that there is."""
    before: ndarray[Any, Any]
    """What each was made from: its number in the trail."""
    option: ndarray[Any, Any]
    """What was chosen then; -1 for nothing."""


class Trail:
    """How labels came about: what each was made from, and the option that was chosen for it."""

    def __init__(self) -> None:
        self.before: list[int] = []
        self.option: list[int] = []

    def keep(self, labels: Labels) -> ndarray[Any, Any]:
        """Note labels; their numbers."""
        import numpy as np

        first = len(self.before)
        self.before += labels.before.tolist()
        self.option += labels.option.tolist()
        return np.arange(first, len(self.before))

    def choice(self, label: int) -> list[int]:
        """The options that led to a label."""
        chosen = []
        while label >= 0:
            chosen.append(self.option[label])
            label = self.before[label]
        return [number for number in chosen if number >= 0]


def joined(parts: Sequence[Labels]) -> Labels | None:
    """All labels of several; None if there are none."""
    import numpy as np

    return Labels(*map(np.concatenate, zip(*parts, strict=True))) if parts else None


def with_option(labels: Labels, number: int, cost: int, effects: ndarray[Any, Any]) -> Labels:
    """The labels with an option taken."""
    import numpy as np

    return Labels(labels.cost + cost, labels.needs + effects, labels.before, np.full(len(labels.cost), number))


def some(labels: Labels, places: ndarray[Any, Any]) -> Labels:
    """The labels at these places."""
    return Labels(*(column[places] for column in labels))


def undominated(labels: Labels, moments: ndarray[Any, Any]) -> ndarray[Any, Any]:
    """Labels such that no other costs as little and needs as little at any of these moments."""
    import numpy as np

    needs = labels.needs[:, moments]
    order = np.lexsort((*needs.T[::-1], labels.cost))
    rows = needs[order]
    if rows.shape[1] <= 2:
        keep = _staircase(rows)
    else:
        keep = _one_by_one(rows)
    return np.asarray(order[keep])


def _staircase(rows: ndarray[Any, Any]) -> list[int]:
    """Rows in order of cost, none of which is nowhere below an earlier one; of at most two columns."""
    pairs = [tuple(row) for row in rows.tolist()]
    xs: list[int] = []
    ys: list[int] = []
    kept = []
    for place, pair in enumerate(pairs):
        x, y = (*pair, 0, 0)[:2]
        at = bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        at = bisect_left(xs, x)
        stop = at
        while stop < len(xs) and ys[stop] >= y:
            stop += 1
        xs[at:stop], ys[at:stop] = [x], [y]
        kept.append(place)
    return kept


def _one_by_one(rows: ndarray[Any, Any]) -> list[int]:
    kept: list[int] = []
    for place, row in enumerate(rows):
        if not (kept and (rows[kept] <= row).all(axis=1).any()):
            kept.append(place)
    return kept
