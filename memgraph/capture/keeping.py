"""Looks, at the ends of steps, for who holds what should have gone: a few times a run, where there is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from memgraph.capture.collecting import Collecting
from memgraph.capture.holders import Found, holders
from memgraph.capture.ledger import Ledger
from memgraph.capture.provenance import ModulePaths, SourceLines
from memgraph.capture.roots import UNNAMED_GRADIENT, Path
from memgraph.capture.storages import Storages
from memgraph.capture.tags import Tags
from memgraph.capture.waiting import SHOWS, Waiting
from memgraph.capture.written import line_of_class, line_that_fills, line_that_passes, line_that_registers
from memgraph.trace import Action, Held, Op, Role

_SHARE = 200
"""One part in so many of what is alive: less is not looked for."""
_ALWAYS = 2
"""Steps after which it looks in any case."""


_MUCH = 2**20
"""Bytes: of what a collection frees, less is of no interest."""
_DIES = (int(Action.FREE), int(Action.FREE_REQUESTED))


class _Who(NamedTuple):
    name: str
    kind: str
    graph: bool
    source: str
    moment: int


_SOME_CYCLE = _Who("", "cycle", False, "", 0)


class Keeping:
    """See the module's text.

    Args:
        ledger: what is alive.
        storages: whose it is.
        paths: the models that were called.
        sources: says lines.
        ops: what ran, as it grows.
        tags: say which op made a tensor.
        collecting: runs Python's collector, whose finds are looked at.
    """

    def __init__(
        self, ledger: Ledger, storages: Storages, paths: ModulePaths, sources: SourceLines, ops: Sequence[Op],
        tags: Tags, collecting: Collecting,
    ) -> None:  # fmt: skip
        self._ledger, self._storages, self._paths = ledger, storages, paths
        self._sources, self._ops, self._tags = sources, ops, tags
        self._before: dict[str, list[int]] = {"step": [], "call": []}
        """Number of buffers when each step, or call of a model, was over."""
        self._looked_at = dict.fromkeys(self._before, 0)
        self._who: dict[int, _Who] = {}
        self._cycles: dict[str, _Who] = {}
        """Who held what was made at a line, where it was found in a cycle."""
        self._collected = 0
        self.waiting = Waiting()
        self._collecting = collecting
        collecting.around = self._collect

    def ended(self, unit: str) -> None:
        """A step is over, or a call of a model: look, if twice as much is left of those before the last as when it last
        looked. What is left of the last one alone may be what names have until the next."""
        before = self._before[unit]
        wanted = self._unnamed()
        old, older = (self._bytes(wanted, (0, 0, *before)[-steps]) for steps in (1, 2))
        before.append(len(self._ledger.sizes))
        if len(before) <= _ALWAYS or older >= max(1, 2 * self._looked_at[unit]):
            self._looked_at[unit] = older
            self._look(wanted, old)

    def _bytes(self, buffers: Sequence[int], before: int) -> int:
        return sum(self._ledger.sizes[buffer] for buffer in buffers if buffer < before)

    def _look(self, wanted: Sequence[int], old: int) -> None:
        """Find who holds these.

        Args:
            old: bytes of those that are of a step before the one that ended.
        """
        sizes, enough = self._ledger.sizes, self._ledger.live_bytes // _SHARE
        if sum(sizes[buffer] for buffer in wanted) < enough:
            return
        moment = sum(map(len, self._before.values()))
        found = holders(self._storages.keys_of(wanted), self._paths.roots(), cycles=old >= enough)
        for buffer in wanted:
            self._who.pop(buffer, None)
        self._who |= {buffer: self._told(one, moment) for buffer, one in found.items()}

    def _collect(self, run: Callable[[], int], asked: bool) -> int:
        """Python's collector: what it frees was held by cycles of references. By which is looked for once, before it
        runs again: to look takes long, and few programs have such."""
        if self._collected and not self._cycles:
            self._find_cycles()
        start = len(self._ledger)
        found = run()
        died = [buffer for action, buffer, *_ in self._ledger.rows(start) if action in _DIES] if found else []
        self.waiting.collected(died, len(self._ledger), asked=asked)
        size = sum(map(self._ledger.sizes.__getitem__, died))
        if size >= _MUCH:
            self._collected += size
            self._who |= dict.fromkeys(died, _SOME_CYCLE)
        return found

    def over(self) -> None:
        """The program is over, and its names are still there. What else is alive, and is not the newest of its name,
        may wait for the collector; where that is much, it is let run, of which the record shows nothing."""
        wanted, ledger = self._older(), self._ledger
        if sum(map(ledger.sizes.__getitem__, wanted)) <= ledger.allocator.peak_requested // SHOWS:
            return
        ledger.close()
        before = self._storages.keys_of(wanted).values()
        self._collecting.now()
        self.waiting.left({*before} - {*self._storages.keys_of(wanted).values()})

    def _older(self) -> list[int]:
        newest = {self._ledger.names.get(buffer, ""): buffer for buffer in sorted(self._ledger.live())}
        return [b for b in self._unnamed() if b not in self._ledger.names or newest[self._ledger.names[b]] != b]

    def _find_cycles(self) -> None:
        wanted = self._unnamed()
        for buffer, one in holders(self._storages.keys_of(wanted), self._paths.roots(), cycles=True).items():
            if one.path.kind == "cycle":
                self._cycles[self._line(buffer)] = self._told(one, 0)

    def _line(self, buffer: int) -> str:
        op = self._ledger.ops[buffer]
        return self._ops[op].source if op >= 0 else ""

    def held(self) -> tuple[Held, ...]:
        """What was found, together where it is one name's."""
        if self._collected and not self._cycles:
            self._find_cycles()
        groups: dict[_Who, list[int]] = {}
        for buffer, who in self._who.items():
            if who is _SOME_CYCLE:
                who = self._cycles.get(self._line(buffer), who)
            groups.setdefault(who, []).append(buffer)
        return tuple(Held(*who, tuple(sorted(buffers))) for who, buffers in groups.items())

    def _unnamed(self) -> list[int]:
        """What is alive and has no name of its own, and what has that of another: two models are there then."""
        ledger = self._ledger
        live = [buffer for buffer in ledger.live() if ledger.roles[buffer] is Role.OUTPUT]
        taken = Counter(ledger.names.get(buffer, "") for buffer in live if buffer in ledger.categories)
        return [b for b in live if b not in ledger.categories or taken[ledger.names.get(b, "")] > 1]

    def _told(self, found: Found, moment: int) -> _Who:
        """A variable or an attribute is given what it holds by the op that made it; a container is filled elsewhere."""
        path, op = found.path, self._tags.made_by(found.by)
        made = self._ops[op].source if op >= 0 else ""
        line = _line(path) if path.file else 0
        written = self._sources.at(path.file, line) if line else ""
        direct = path.kind in ("variable", "attribute", "buffer")
        source = (made or written) if direct and found.graph else (written or made)
        graph = found.graph or path.name == UNNAMED_GRADIENT
        return _Who(path.name, path.kind, graph, source, moment)


def _line(path: Path) -> int:
    """Where a source gives a name what it holds, 0 if that is not found."""
    if path.kind == "gradient":
        return line_that_passes(path.file, "create_graph")
    if path.kind == "hook":
        return line_that_registers(path.file)
    return line_of_class(path.file, path.name) if path.kind == "cycle" else line_that_fills(path.file, path.name)
