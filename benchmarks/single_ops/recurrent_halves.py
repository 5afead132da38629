"""Are the counts of `memgraph/gpu/recurrent.py` laws or a fit? Each kind's are read again off half of the recorded
settings, as those whole numbers that give most of its workspaces to the byte, and tried on the other half.

    python -m benchmarks.single_ops.recurrent_halves      a line a kind, then the sums (half a minute)
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from memgraph.gpu.recurrent import (
    Layers,
    takes_small_algorithm,
    workspace_bytes,
    workspace_is_measured,
    workspace_parts,
)
from tests.gpu.test_recurrent import recorded

_COUNTS = np.array(list(itertools.product(range(33), range(4), range(6), range(14), range(7))), dtype=np.int64)
"""What is tried of hidden, inputs, wider, states and wider states."""


class Size(NamedTuple):
    """A recorded workspace: what is counted, and what the counts must add up to."""

    parts: tuple[int, ...]
    rest: int
    met: bool
    """Whether the rule as it is gives it."""


def by_kind() -> dict[tuple[object, ...], list[list[Size]]]:
    """Two halves of the settings of each kind and algorithm; both calls of a setting are in the same half."""
    found: dict[tuple[object, ...], dict[Layers, list[Size]]] = defaultdict(dict)
    for layers, dropout, *sizes, _ in recorded():
        for size, forward in zip(sizes, (True, False), strict=True):
            small = takes_small_algorithm(layers.mode, layers.hidden, forward=forward)
            fixed, parts = workspace_parts(layers, dropout > 0)
            one = Size(parts, size - fixed, workspace_bytes(layers, small, dropout > 0) == size)
            key = (workspace_is_measured(layers, small), small, *layers.kind)
            found[key].setdefault(layers, []).append(one)
    return {key: _halves(settings) for key, settings in found.items()}


def _halves(settings: dict[Layers, list[Size]]) -> list[list[Size]]:
    ordered = [
        sizes for _, sizes in sorted(settings.items(), key=lambda one: (one[0].steps * 31 + one[0].batch, str(one)))
    ]
    return [list(itertools.chain(*ordered[start::2])) for start in (0, 1)]


def read_off(sizes: list[Size]) -> np.ndarray:
    """The counts that give most of them; of several the smallest."""
    hits = np.zeros(len(_COUNTS), dtype=int)
    for size in sizes:
        hits += _COUNTS @ np.array(size.parts) == size.rest
    best = _COUNTS[hits == hits.max()]
    return best[best.sum(axis=1).argmin()]


def main() -> None:
    """Print how many of the other half's sizes come out."""
    sums: dict[bool, Counter[str]] = defaultdict(Counter)
    for key, halves in sorted(by_kind().items(), key=str):
        met = count = 0
        for read, tried in (halves, halves[::-1]):
            counts = read_off(read)
            met += sum(int(counts @ np.array(size.parts)) == size.rest for size in tried)
            count += len(tried)
        now = sum(size.met for half in halves for size in half)
        print(*key, f"{met} of {count} by the other half's counts, {now} by the rule's")
        sums[bool(key[0])].update(met=met, count=count, now=now)
    for measured, found in sums.items():
        print("called measured:" if measured else "not called measured:", dict(found))


if __name__ == "__main__":
    main()
