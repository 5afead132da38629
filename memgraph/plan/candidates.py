"""What could be checkpointed: found in a trace, not in a list of names.

First the numbered blocks of the module tree (`decoder.blocks.3`). Where these are not most of the model, regions of the
graph: modules, or runs of them, that have one way in and one way out.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from memgraph.plan.graph_regions import regions
from memgraph.trace import Trace

_NEARLY_ALL = 0.9
"""Share of a numbered module's ops in numbered modules below it from which on it is a stage, and those are blocks."""
_MOST = 0.5
"""Share of what a forward keeps from which on blocks are all there is to look at."""


Regions = tuple[tuple[str, ...], ...]
"""The candidates that each region covers, by name."""


class Candidate(NamedTuple):
    """Modules that are recomputed together or not at all."""

    name: str
    modules: tuple[str, ...]
    """Paths, in the order of the forward."""


class Found(NamedTuple):
    """The candidates in the order of the forward, in stacks: between two of a stack nothing else runs."""

    stacks: tuple[tuple[Candidate, ...], ...]

    @property
    def all(self) -> tuple[Candidate, ...]:
        """In one row."""
        return tuple(candidate for stack in self.stacks for candidate in stack)

    def without(self, names: Collection[str]) -> Found:
        """Without these candidates; a stack ends where one of them was."""
        parts = (itertools.groupby(stack, lambda candidate: candidate.name in names) for stack in self.stacks)
        return Found(tuple(tuple(kept) for stack in parts for gone, kept in stack if not gone))


def find(trace: Trace) -> Found:
    """The candidates of a run with nothing checkpointed."""
    forward = _one_forward(trace)
    paths = _blocks([trace.ops[op].module for op in forward])
    blocks = [Candidate(path, (path,)) for path in paths]
    kept = _kept(trace, forward)
    total = sum(kept.values())
    inside = sum(size for module, size in kept.items() if owner_of(blocks)(module))
    if inside < _MOST * total:
        parts = regions(trace, forward, kept, taken=paths)
        blocks += [Candidate(modules[0] if len(modules) == 1 else f"{modules[0]} to {modules[-1]}", modules)
                   for modules in parts]  # fmt: skip
    return Found(_stacks(trace, forward, blocks))


def together(found: Found, lengths: Sequence[int]) -> list[Regions]:
    """Neighbours as one, for each length that there is of them."""
    longest = max((len(stack) for stack in found.stacks), default=0)
    ways = []
    for length in (length for length in lengths if length <= longest):
        names = [[candidate.name for candidate in stack] for stack in found.stacks]
        ways.append(tuple(group for stack in names for group in _groups(stack, length)))
    return [regions for regions in ways if regions]


def _groups(names: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Neighbours, so many at a time; a single one left over is none."""
    groups = [tuple(names[at : at + length]) for at in range(0, len(names), length)]
    return [group for group in groups if len(group) > 1]


def owner_of(candidates: Iterable[Candidate]) -> Callable[[str], str]:
    """From a module's path to the name of the candidate it belongs to, or empty."""
    by_path = {path: candidate.name for candidate in candidates for path in candidate.modules}
    known: dict[str, str] = {}

    def owner(module: str) -> str:
        if module not in known:
            known[module] = next((by_path[path] for path in _prefixes(module) if path in by_path), "")
        return known[module]

    return owner


def _prefixes(path: str) -> list[str]:
    """`a`, `a.b`, `a.b.c`."""
    parts = path.split(".")
    return [".".join(parts[: at + 1]) for at in range(len(parts))]


def _one_forward(trace: Trace) -> list[int]:
    """The ops of the last forward."""
    phases = [number for number, phase in enumerate(trace.phases) if phase.name == "forward"]
    return [] if not phases else [index for index, op in enumerate(trace.ops) if op.phase == phases[-1]]


def _blocks(modules: Sequence[str]) -> list[str]:
    """The numbered modules that hold modules of their own and stand beside others such, the outermost of them; but the
    next below where one is nothing but a stage of these."""
    ops = Counter[str]()
    below = defaultdict[str, set[str]](set)
    for module in modules:
        for path in _prefixes(module):
            ops[path] += 1
            if path != module:
                below[path].add(module)
    numbered = [path for path in ops if path.rpartition(".")[2].isdigit() and len(below[path]) > 1]
    siblings = Counter(path.rpartition(".")[0] for path in numbered)
    blocks = [path for path in numbered if siblings[path.rpartition(".")[0]] > 1]
    inner = {path: [other for other in blocks if other.startswith(path + ".")] for path in blocks}
    stages = {path for path in blocks if sum(ops[part] for part in _outermost(inner[path])) >= _NEARLY_ALL * ops[path]}
    return _outermost([path for path in blocks if path not in stages])


def _outermost(paths: Sequence[str]) -> list[str]:
    chosen = set(paths)
    return [path for path in paths if not any(other in chosen for other in _prefixes(path)[:-1])]


def _kept(trace: Trace, forward: Sequence[int]) -> Counter[str]:
    """Bytes that the last forward leaves for the backward, by the module that made them."""
    kept: Counter[str] = Counter()
    if not forward:
        return kept
    phase = trace.phases[trace.ops[forward[0]].phase]
    for buffer, life in zip(trace.buffers, trace.lives, strict=True):
        if phase.start <= life.start < phase.stop <= life.stop - 1 and buffer.op >= 0:
            kept[trace.ops[buffer.op].module] += buffer.size
    return kept


def _stacks(trace: Trace, forward: Sequence[int], candidates: Sequence[Candidate]) -> tuple[tuple[Candidate, ...], ...]:
    """In the order in which they run; a new stack wherever something else runs in between."""
    by_name = {candidate.name: candidate for candidate in candidates}
    owner = owner_of(candidates)
    stacks: list[list[Candidate]] = [[]]
    seen: set[str] = set()
    last = ""
    for op in forward:
        name = owner(trace.ops[op].module)
        if name and name not in seen:
            seen.add(name)
            if not last and stacks[-1]:
                stacks.append([])
            stacks[-1].append(by_name[name])
        last = name
    return tuple(tuple(stack) for stack in stacks if stack)


__all__ = ["Candidate", "Found", "Regions", "find", "owner_of", "together"]
