"""Which candidates to recompute, as numbers: for every moment of the run the memory it needs, linear in the choices.

The peak is a maximum over time, so each moment is a row: what it takes with everything kept, and what each option
changes of that. An option changes nothing before its forward; after it by what it no longer keeps; while it runs, by
its own recomputation; and nothing once its backward is over. The numbers are read off traces, one with everything
kept and one per kind of option with that option everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memgraph.plan.sections import LOSS, Cut, Key, Section

PARTS = 5000
"""Into so many a step is divided where costs are compared."""


class Irregular(Exception):
    """Two runs do not have the same sections: an option changes more than its own modules."""


class Option(NamedTuple):
    """One way to treat one candidate, or several that follow each other."""

    covers: tuple[str, ...]
    """Candidates by name; of two options that cover the same one at most one is taken."""
    kind: str
    """`nothing`, `matmuls`, …: see `plan_file.KEPT_OPS`; of the loss `8 chunks`."""
    cost: int
    """What it adds to a step, in parts of `PARTS`, rounded up: what the solver adds up. Coarser than a nanosecond, or
    plans that differ by nothing would be told apart at length; finer than any roofline is right."""
    nanoseconds: int
    """The same, as it is."""
    effects: Mapping[int, int]
    """By section: requested bytes more than with everything kept, where that is not nothing."""


class Moment(NamedTuple):
    """A row: what one section needs at its highest."""

    name: str
    base: int
    """Requested bytes with everything kept."""
    effects: tuple[tuple[int, int], ...]
    """(option, bytes) where not nothing."""
    onces: tuple[int, ...] = ()
    """The workspaces, by their index, that may be there."""


class Once(NamedTuple):
    """A workspace that is allocated if any of some options is taken, and stays: cuBLASLt's for the backward's thread,
    which a backward does not use and a recomputation may."""

    size: int
    options: frozenset[int]
    start: int
    """The section from which on it may be there."""


@dataclass(frozen=True)
class Problem:
    """See the module's text. A choice is a set of options, by their index."""

    candidates: tuple[str, ...]
    options: tuple[Option, ...]
    moments: tuple[Moment, ...]
    onces: tuple[Once, ...]
    step: int
    """Nanoseconds of a step with everything kept."""

    def levels(self, choice: Iterable[int]) -> list[int]:
        """Requested bytes at each moment."""
        taken = frozenset(choice)
        there = [once.size if once.options & taken else 0 for once in self.onces]
        return [
            row.base + sum(size for option, size in row.effects if option in taken) + sum(there[i] for i in row.onces)
            for row in self.moments
        ]

    def peak(self, choice: Iterable[int]) -> int:
        """The highest of them."""
        return max(self.levels(choice))

    def binding(self, choice: Iterable[int]) -> Moment:
        """The moment at which it is highest."""
        levels = self.levels(choice)
        return self.moments[levels.index(max(levels))]

    def cost(self, choice: Iterable[int]) -> int:
        """In parts of `PARTS` of a step."""
        return sum(self.options[option].cost for option in choice)

    def share(self, choice: Iterable[int]) -> float:
        """What is added to a step, as a share of it."""
        return sum(self.options[option].nanoseconds for option in choice) / self.step if self.step else 0.0

    def allowed(self, choice: Iterable[int]) -> bool:
        """Whether no candidate is covered twice."""
        covered = [name for option in choice for name in self.options[option].covers]
        return len(covered) == len(set(covered))


class Variant(NamedTuple):
    """A run with some option everywhere it goes."""

    regions: tuple[tuple[str, ...], ...]
    """The candidates that each of its regions covers."""
    kinds: tuple[str, ...]
    """What each of them keeps."""
    cut: Cut
    """Its sections' owners are its regions, by the name of the first candidate."""


def build(candidates: Sequence[str], base: Cut, variants: Iterable[Variant], steps: int) -> Problem:
    """The problem.

    Args:
        candidates: in the order of the forward.
        base: with everything kept.
        steps: of each run.

    Raises:
        Irregular: a variant's sections are not the base's.
    """
    options: list[Option] = []
    numbers: dict[tuple[tuple[str, ...], str], int] = {}
    onces: list[Once] = []
    nanoseconds = max(1, sum(section.nanoseconds for section in base.sections if section.key.step) // steps)
    for variant in variants:
        pairs = _align(base, variant)
        handed = _handed(base, variant, pairs)
        for region, kind in zip(variant.regions, variant.kinds, strict=True):
            if (region, kind) not in numbers:
                numbers[region, kind] = len(options)
                options.append(_option(base, variant, region, kind, pairs, handed, steps, nanoseconds))
        mine = [numbers[both] for both in zip(variant.regions, variant.kinds, strict=True)]
        onces += _extra_libraries(base, variant, pairs, mine)
    merged = _merged(onces)
    return Problem(tuple(candidates), tuple(options), _moments(base, options, merged), merged, nanoseconds)


def _merged(onces: Iterable[Once]) -> tuple[Once, ...]:
    """Different options ask for the same workspace."""
    found: dict[int, Once] = {}
    for once in onces:
        other = found.get(once.size, once)
        found[once.size] = Once(once.size, once.options | other.options, min(once.start, other.start))
    return tuple(found.values())


def _moments(base: Cut, options: Sequence[Option], onces: Sequence[Once]) -> tuple[Moment, ...]:
    """The rows; of those that the options change alike, the highest."""
    by_section: list[list[tuple[int, int]]] = [[] for _ in base.sections]
    for number, option in enumerate(options):
        for place, size in option.effects.items():
            by_section[place].append((number, size))
    kept = Counter[int]()
    for library in base.libraries:
        kept[library.section] += library.size
    rows: dict[tuple[object, ...], Moment] = {}
    level = 0
    for place, section in enumerate(base.sections):
        level += kept[place]
        there = tuple(number for number, once in enumerate(onces) if once.start <= place)
        row = Moment(name_of(section), level + section.top, tuple(by_section[place]), there)
        if row[2:] not in rows or rows[row[2:]].base < row.base:
            rows[row[2:]] = row
        level += section.change
    return tuple(rows.values())


def name_of(section: Section) -> str:
    """The moment in words: `the backward of decoder.blocks.3`."""
    key = section.key
    if key.owner == LOSS:
        return f"{LOSS} ({key.phase})"
    if key.owner:
        return f"the {key.phase} of {key.owner}"
    if key.phase == "optimizer":
        return "the optimizer step"
    if key.phase in ("forward", "backward"):
        op = key.op.removeprefix("aten.").rpartition(".")[0] or key.op
        return f"the {key.phase}, at {op}{f' in {section.module}' if section.module else ''}"
    return f"the phase {key.phase}"


def _align(base: Cut, variant: Variant) -> list[tuple[range, Section]]:
    """Each section of the variant with the base's sections that it stands for.

    Raises:
        Irregular: there is no such correspondence.
    """
    region_of = {name: region[0] for region in variant.regions for name in region}
    runs: list[tuple[Key, int, int]] = []
    for place, section in enumerate(base.sections):
        key = section.key._replace(owner=region_of.get(section.key.owner, section.key.owner))
        if runs and key.owner and runs[-1][0] == key:
            runs[-1] = key, runs[-1][1], place + 1
        else:
            runs.append((key, place, place + 1))
    theirs = variant.cut.sections
    if [key for key, _, _ in runs] != [section.key for section in theirs]:
        raise Irregular(_first_difference([key for key, _, _ in runs], [section.key for section in theirs]))
    return [(range(start, stop), section) for (_, start, stop), section in zip(runs, theirs, strict=True)]


def _first_difference(ours: list[Key], theirs: list[Key]) -> str:
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"section {place} is {tuple(other)} where {tuple(one)} was expected"
    return f"it has {len(theirs)} sections where {len(ours)} were expected"


def _option(
    base: Cut, variant: Variant, region: tuple[str, ...], kind: str, pairs: list[tuple[range, Section]],
    handed: Sequence[Counter[str]], steps: int, step: int,
) -> Option:  # fmt: skip
    alone = len(variant.regions) == 1
    effects: dict[int, int] = {}
    change = total = nanoseconds = 0
    for (run, section), given in zip(pairs, handed, strict=True):
        ours = [base.sections[place] for place in run]
        if total == 0 and section.key.phase not in ("forward", "backward"):
            change = 0  # where all regions together leave nothing, none does: what is left was another's
        total += section.change - sum(part.change for part in ours)
        own = section.key.owner == region[0]
        if own:
            effects.update(_own_effects(run, ours, section, change))
            nanoseconds += section.nanoseconds - sum(part.nanoseconds for part in ours)
        elif change:
            effects.update(dict.fromkeys(run, change))
        change += _change(ours, section, region, alone)
        if not alone:
            change += given.total() if own else -given[region[0]]
    kept = {place: size for place, size in effects.items() if size}
    added = nanoseconds // steps
    return Option(region, kind, -(-added * PARTS // step), added, kept)


def _own_effects(run: range, ours: list[Section], section: Section, change: int) -> dict[int, int]:
    """While the region runs, its own highest takes the place of its candidates'."""
    level, effects = 0, {}
    for place, part in zip(run, ours, strict=True):
        effects[place] = change + section.top - (level + part.top)
        level += part.change
    return effects


def _change(ours: list[Section], section: Section, region: tuple[str, ...], alone: bool) -> int:
    """What a section leaves behind on account of a region, more than with everything kept."""
    if section.key.owner == region[0] or alone:
        return section.change - sum(part.change for part in ours)
    if section.key.owner:
        return 0
    return sum(part.released[name] for part in ours for name in region) - section.released[region[0]]


def _handed(base: Cut, variant: Variant, pairs: Sequence[tuple[range, Section]]) -> list[Counter[str]]:
    """For each section: by maker, bytes that another region made and that die here more than with everything kept,
    because the maker itself no longer holds them; or less, because it now does. Such is a result that its own backward
    and the next module's both need. They are the maker's to let go of, whatever is done with the next one. What dies
    here because this region keeps its inputs, and died in its forward before, is this region's affair."""
    region_of = {name: region[0] for region in variant.regions for name in region}
    held: Counter[tuple[str, str]] = Counter()
    handed = []
    for run, section in pairs:
        here: Counter[str] = Counter()
        before: Counter[str] = Counter()
        for place in run if section.key.owner else ():
            for maker, size in base.sections[place].released.items():
                before[region_of.get(maker, maker)] += size
        for maker in {*section.released, *before} - {section.key.owner} if section.key.owner else ():
            more = section.released[maker] - before[maker]
            if section.key.phase == "forward":
                held[maker, section.key.owner] -= more
                continue
            own = held.pop((maker, section.key.owner), 0)
            here[maker] = max(0, more - max(0, own)) if more > 0 else min(0, more - min(0, own))
        handed.append(here)
    return handed


def _extra_libraries(
    base: Cut, variant: Variant, pairs: Sequence[tuple[range, Section]], numbers: Sequence[int]
) -> list[Once]:
    """Workspaces that only the variant has, with the options whose recomputation runs such an op.

    Args:
        numbers: of the options that its regions are.
    """
    usual = Counter((kept.size, kept.phase) for kept in base.libraries)
    extra: dict[tuple[int, str], str] = {}
    for kept in variant.cut.libraries:
        usual[kept.size, kept.phase] -= 1
        if usual[kept.size, kept.phase] < 0:
            extra[kept.size, kept.phase] = kept.op
    onces = []
    for (size, phase), op in extra.items():
        asking = [(run.start, part.key.owner) for run, part in pairs if part.key.phase == phase and part.ops[op]]
        owners = {owner for _, owner in asking}
        users = frozenset(n for n, region in zip(numbers, variant.regions, strict=True) if region[0] in owners)
        onces.append(Once(size, users, min(start for start, _ in asking)))
    return onces
