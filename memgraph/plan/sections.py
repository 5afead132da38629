"""A run cut into sections: the stretches in which one candidate runs, and what lies between them.

A candidate is a part of the model that may be recomputed. Its sections are its forward and its backward; between them
run ops that are nobody's, each a section of its own, for any of them may let go of what a candidate made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from memgraph.plan.cost import Spent
from memgraph.plan.results import Keeping
from memgraph.trace import ENDS, Action, Role, Trace

LOSS = "the loss"
"""Owner of the ops from the head's logits to the loss and back, where these can be computed in chunks."""


class Key(NamedTuple):
    """What two runs have to agree on, section by section."""

    owner: str
    """Empty for what is no candidate's."""
    phase: str
    step: int
    op: str
    """Of a section without an owner in a forward or a backward."""


@dataclass
class Section:
    """Requested bytes relative to the section's start."""

    key: Key
    module: str = ""
    change: int = 0
    """Alive at its end, less alive at its start."""
    top: int = 0
    """The highest, at least 0."""
    released: Counter[str] = field(default_factory=Counter)
    """By candidate: bytes it had allocated in its forward that die here, in a section of another or of nobody."""
    host: int = 0
    """Nanoseconds to issue its ops."""
    device: int = 0
    """Nanoseconds to run them."""
    ops: Counter[str] = field(default_factory=Counter)

    @property
    def nanoseconds(self) -> int:
        """Of the slower of the two: what a section adds to a run of others like it."""
        return max(self.host, self.device)


class Kept(NamedTuple):
    """A workspace that a library allocates once and keeps."""

    size: int
    section: int
    op: str
    phase: str


@dataclass(frozen=True)
class Cut:
    """A run in sections."""

    sections: tuple[Section, ...]
    libraries: tuple[Kept, ...]

    def card_decides(self, owners: Collection[str]) -> bool:
        """Whether the host issues what these run faster than the card runs it. Then it is ahead and its time hidden:
        all but the first ops are there when the card comes to them."""
        own = [section for section in self.sections if section.key.owner in owners]
        return sum(section.host for section in own) <= sum(section.device for section in own)

    def of_the_card(self, owners: Collection[str]) -> Cut:
        """With the card's time alone for what these run."""
        return replace(self, sections=tuple(
            replace(section, host=0) if section.key.owner in owners else section for section in self.sections
        ))  # fmt: skip


def cut(
    trace: Trace,
    owner_of: Callable[[str], str],
    spent: Sequence[Spent],
    loss: Collection[int] = (),
    keeping: Keeping | None = None,
) -> Cut:
    """Cut a run.

    Args:
        owner_of: from a module's path to the candidate that it belongs to, or empty.
        spent: what each op takes.
        loss: the ops that are the loss's.
        keeping: not this run itself, but one like it that keeps some results.
    """
    skipped = keeping.skipped if keeping else frozenset()
    events = keeping.events if keeping else tuple(zip(*trace.events.columns[:3], strict=True))
    sections, of_op, after_loss = _sections(trace, owner_of, spent, frozenset(loss), skipped)
    libraries = _follow(trace, events, sections, of_op, after_loss)
    return Cut(tuple(sections), tuple(libraries))


def _sections(
    trace: Trace, owner_of: Callable[[str], str], spent: Sequence[Spent], loss: frozenset[int], skipped: Collection[int]
) -> tuple[list[Section], list[int], dict[int, int]]:
    """The sections, which of them each op is in, and the one after each forward of the loss: what dies once the loss is
    there, autocast's weights among it, is not the loss's affair."""
    sections: list[Section] = [Section(Key("", "load", 0, ""))]
    of_op: list[int] = []
    after_loss: dict[int, int] = {}
    for index, op in enumerate(trace.ops):
        if index in skipped:
            of_op.append(len(sections) - 1)
            continue
        phase = trace.phases[op.phase]
        passes = phase.name in ("forward", "backward")
        owner = (LOSS if index in loss else owner_of(op.module)) if passes else ""
        key = Key(owner, phase.name, phase.step, op.name if passes and not owner else "")
        if sections[-1].key != key or (passes and not owner):
            if sections[-1].key[:2] == (LOSS, "forward"):
                after_loss[len(sections) - 1] = len(sections)
                sections.append(Section(Key("", "forward", phase.step, "the end of the forward")))
            sections.append(Section(key, op.module))
        sections[-1].host += spent[index].host
        sections[-1].device += spent[index].device
        sections[-1].ops[op.name] += 1
        of_op.append(len(sections) - 1)
    return sections, of_op, after_loss


def _follow(
    trace: Trace, events: Sequence[tuple[int, int, int]], sections: list[Section], of_op: list[int],
    after_loss: Mapping[int, int],
) -> list[Kept]:  # fmt: skip
    """Put every allocation and every death in its section."""
    last_alloc = _last_allocs(events, of_op)
    made_in: dict[int, str] = {}
    libraries = []
    for event, (action, buffer, op) in enumerate(events):
        if action not in (Action.ALLOC, *ENDS):
            continue
        place = of_op[op] if op >= 0 else 0
        if place in after_loss and event > last_alloc.get(place, -1):
            place = after_loss[place]
        section, kept = sections[place], trace.buffers[buffer]
        if kept.role is Role.LIBRARY:
            if action == Action.ALLOC:
                libraries.append(Kept(kept.size, place, trace.ops[op].name if op >= 0 else "", section.key.phase))
        elif action == Action.ALLOC:
            made_in[buffer] = section.key.owner if section.key.phase == "forward" else ""
            section.change += kept.size
            section.top = max(section.top, section.change)
        else:
            section.change -= kept.size
            maker = made_in.get(buffer, "")
            if maker and maker != section.key.owner:
                section.released[maker] += kept.size
    return libraries


def _last_allocs(events: Sequence[tuple[int, int, int]], of_op: list[int]) -> dict[int, int]:
    """The last event of each section that allocates."""
    last = {}
    for event, (action, _, op) in enumerate(events):
        if action == Action.ALLOC and op >= 0:
            last[of_op[op]] = event
    return last


def same_memory(one: Cut, other: Cut) -> bool:
    """Whether two runs have the same sections, and each of them takes and gives back the same."""
    rows = [[(s.key, s.change, s.top, s.released) for s in cut.sections] for cut in (one, other)]
    kept = [Counter((library.size, library.phase) for library in cut.libraries) for cut in (one, other)]
    return rows[0] == rows[1] and kept[0] == kept[1]


def loss_ops(plain: Trace, chunked: Trace) -> tuple[frozenset[int], frozenset[int]]:
    """The ops of two runs that differ by how the loss is computed: the middle of each forward and each backward, which
    begin and end alike."""
    found: tuple[set[int], set[int]] = (set(), set())
    for ours, theirs in zip(_passes(plain), _passes(chunked), strict=False):
        low, high = _alike(plain, chunked, ours, theirs)
        found[0].update(ours[low : len(ours) - high])
        found[1].update(theirs[low : len(theirs) - high])
    return frozenset(found[0]), frozenset(found[1])


def same_loss(base: Trace, loss: Collection[int], trace: Trace) -> frozenset[int]:
    """The loss's ops in another run that computes it as the base does: in each forward as far from its end, in each
    backward as far from its start, for what is recomputed comes after it."""
    found: set[int] = set()
    for ours, theirs in zip(_passes(base), _passes(trace), strict=False):
        forward = base.phases[base.ops[ours[0]].phase].name == "forward"
        shift = len(theirs) - len(ours) if forward else 0
        found.update(theirs[place + shift] for place, op in enumerate(ours) if op in loss)
    return frozenset(found)


def _passes(trace: Trace) -> list[list[int]]:
    """The ops of each forward and each backward."""
    passes: dict[int, list[int]] = {}
    for index, op in enumerate(trace.ops):
        if trace.phases[op.phase].name in ("forward", "backward"):
            passes.setdefault(op.phase, []).append(index)
    return list(passes.values())


def _alike(plain: Trace, chunked: Trace, ours: list[int], theirs: list[int]) -> tuple[int, int]:
    """How many ops at the start and at the end are the same."""

    def same(one: int, other: int) -> bool:
        a, b = plain.ops[one], chunked.ops[other]
        return (a.name, a.module, a.inputs, a.outputs) == (b.name, b.module, b.inputs, b.outputs)

    most = min(len(ours), len(theirs))
    low = next((i for i in range(most) if not same(ours[i], theirs[i])), most)
    high = next((i for i in range(most - low) if not same(ours[-1 - i], theirs[-1 - i])), most - low)
    return low, high
