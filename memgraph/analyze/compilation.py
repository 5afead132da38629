"""What a compiled step keeps for its backward, over equal layers."""

from __future__ import annotations

from collections import Counter

from memgraph.analyze.attribution import starred
from memgraph.trace import Compilation, Saved


def by_layer(made: Compilation) -> list[Saved]:
    """Saved tensors grouped over equal layers, the largest group first."""
    counts: Counter[Saved] = Counter()
    for row in made.saved:
        counts[row._replace(module=starred(row.module), count=0)] += row.count
    groups = [row._replace(count=count) for row, count in counts.items()]
    return sorted(groups, key=lambda row: (-row.size * row.count, row))


def saved_bytes(made: Compilation) -> int:
    """Of all that is saved; tensors that share memory count each."""
    return sum(row.size * row.count for row in made.saved)
