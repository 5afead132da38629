"""What a configuration needed once, small enough to keep beside the code, and whether it still does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memgraph.analyze.attribution import consumers
from memgraph.analyze.peak import categories
from memgraph.errors import DAMAGED, MemgraphError, UsageError
from memgraph.small_file import read_text
from memgraph.trace import Trace

SCHEMA = 1
_TOP = 40
"""Consumers that a baseline keeps, to say what moved."""


class Baseline(NamedTuple):
    """A run in some lines. Bytes."""

    settings: Mapping[str, Any]
    gpu: str
    torch: str
    peak: Mapping[str, int]
    after_load: int
    allocations: int
    categories: Mapping[str, int]
    largest: Mapping[str, int]
    """The consumers at the peak, in words."""


class Moved(NamedTuple):
    """How a run is from its baseline."""

    figures: Mapping[str, tuple[int, int]]
    """Requested, allocated and reserved: then and now."""
    share: float
    """The largest of the three changes, as a share of what it was."""
    settings: Sequence[str]
    """What was chosen otherwise: `seq 128 -> 512`."""
    parts: Sequence[tuple[str, int]]
    """Consumers at the peak and their change, the largest first."""


def baseline_of(trace: Trace) -> Baseline:
    """What to keep of a run."""
    peak = trace.peak
    largest: Counter[str] = Counter()
    for row in consumers(trace)[:_TOP]:
        largest[row.provenance] += row.bytes
    return Baseline(
        dict(trace.settings), trace.gpu, trace.torch,
        {"requested": peak.requested, "allocated": peak.allocated, "reserved": peak.reserved},
        trace.after_load.requested, len(trace.buffers),
        {str(row.category): row.bytes for row in categories(trace)},
        dict(largest),
    )  # fmt: skip


def moved(then: Baseline, now: Baseline) -> Moved:
    """What changed between a baseline and a run."""
    figures = {name: (then.peak[name], now.peak[name]) for name in then.peak}
    share = max(abs(new - old) / old if old else float(bool(new)) for old, new in figures.values())
    names = [*then.largest, *(name for name in now.largest if name not in then.largest)]
    parts = [(name, now.largest.get(name, 0) - then.largest.get(name, 0)) for name in names]
    changed = sorted((part for part in parts if part[1]), key=lambda part: -abs(part[1]))
    return Moved(figures, share, _settings(then, now), changed)


def _settings(then: Baseline, now: Baseline) -> list[str]:
    old = {"gpu": then.gpu, "torch": then.torch, **then.settings}
    new = {"gpu": now.gpu, "torch": now.torch, **now.settings}
    names = [*old, *(name for name in new if name not in old)]
    return [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _check(found: Baseline) -> None:
    """Raises:
    TypeError, ValueError, KeyError, AttributeError: it is not what `baseline_of` makes.
    """
    figures = [found.peak[name] for name in ("requested", "allocated", "reserved")]
    numbers = [*figures, found.after_load, found.allocations, *found.categories.values(), *found.largest.values()]
    if any(type(number) is not int or abs(number) >= 2**63 for number in numbers):
        raise ValueError("a number is none")
    moved(found, found)


def written(baseline: Baseline) -> bytes:
    """The file's content: JSON that a person can read and a code review can show."""
    return (json.dumps({"schema": SCHEMA, **baseline._asdict()}, indent=2) + "\n").encode()


def read(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        UsageError: there is none.
        MemgraphError: it is damaged or of a newer version.
    """
    try:
        data = json.loads(read_text(path))
        version = data.pop("schema")
        if version > SCHEMA:
            raise MemgraphError(
                f"{path} is of a newer version of memgraph ({version}): or write it anew: --update --force"
            )
        found = Baseline(**data)
        _check(found)
    except FileNotFoundError as error:
        raise UsageError(f"there is no baseline {path}: --update makes one") from error
    except OSError as error:
        raise MemgraphError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise MemgraphError(f"{path} is no baseline of memgraph: --update --force writes it anew") from error
    return found
