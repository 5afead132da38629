"""Python's garbage collector, run when the program by itself would have made it run.

CPython (3.11 to 3.13) collects its young objects once more of them were made than died by a threshold (`gc.get_count`,
`gc.get_threshold`; Python/gc.c, `gc_alloc`). Writing a run down makes objects too, several for each op, so cycles of
references that hold tensors would die earlier than they do. Automatic collection is therefore off while a program is
followed; the objects of the recorder are taken out of the count; and at each op it is asked whether a collection is
due.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

from torch import Tensor

from memgraph.virtual.patches import replaced

_GENERATIONS = 3
_TRIALS = 12
_LISTED = 100
"""Dead dicts, and some more, that CPython keeps for the next ones, which no count tells (`PyDict_MAXFREELIST`)."""
_AS_BEFORE = -1
"""Stands for the outputs of an op whose like has run before."""
_OF_A_TENSOR = 2
"""Objects of a tensor without values: itself and its attributes."""


class Objects(NamedTuple):
    """What a recorder makes."""

    kept: int
    """Of each op, and keeps."""
    beside: int
    """With each storage, besides one for its first tensor: they die with it."""


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """While open, Python's collector does not run by itself: it would look through every row of a long run, again and
    again, and find no cycle."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


class Collecting:
    """See the module's text. Whoever tells it of ops looks at the stack before: Python makes an object of every frame
    that is looked at, which dies when its function returns, and so must be counted when it is made.

    Args:
        followed: the storages of the run, each with objects of the recorder that live and die with it.
        others: how many objects the recorder has besides; asked where a collection seems due.
    """

    def __init__(self, followed: Sized, others: Callable[[], int]) -> None:
        self._followed, self._others = followed, others
        self.wanted = False
        """Whether the program lets it run."""
        self._beside = self._kept = 0
        self._new = _AS_BEFORE
        self.around: Callable[[Callable[[], int], bool], int] = _plainly
        """Runs each collection: somebody may want to look before and after it, and whether the program asked for it, of
        all objects."""
        self._gc = gc.collect
        self._count = 0
        """Young objects, the program's and those that live with its storages, made since the run began."""
        self._floor = 0
        """What that is of no objects of the program."""
        self._last = self._begun = self._storages = self._before = 0
        self._depth = 0
        self._rounds = [0] * _GENERATIONS
        """Collections of each generation since the next older one's last."""
        self._settled = 0

    @contextlib.contextmanager
    def following(self, objects: Objects) -> Iterator[None]:
        """While open, it runs at ops alone, and `gc.disable()` and its like decide whether.

        Args:
            objects: those of the recorder.
        """
        self._kept, self._beside = objects
        self.wanted = gc.isenabled()
        self._settled = len(gc.get_objects(2)) if self.wanted else 0
        enable, disable = gc.enable, gc.disable
        disable()
        self._last = gc.get_count()[0]
        self._begins_anew()
        try:
            with (
                replaced(gc, "isenabled", lambda: self.wanted),
                replaced(gc, "enable", self._switch(True)),
                replaced(gc, "disable", self._switch(False)),
                replaced(gc, "collect", self._asked),
            ):
                yield
        finally:
            if self.wanted:
                enable()

    def _switch(self, wanted: bool) -> Callable[[], None]:
        def switch() -> None:
            self.wanted = wanted

        return switch

    def begins(self) -> None:
        """An op begins: what was made since the last one is the program's, and what died."""
        self._depth += 1
        if self._depth == 1:
            self._begun = gc.get_count()[0]
            self._count += self._begun - self._last
            self._storages, self._new = len(self._followed), _AS_BEFORE
            young = self._count - self._beside * self._storages - self._floor
            if young < 0:
                self._floor += young
            elif self.wanted and young > gc.get_threshold()[0] > 0:
                self._seems_due(young)
                self._begun = gc.get_count()[0]

    def _seems_due(self, young: int) -> None:
        grown = self._others() - self._before
        self._before += grown
        self._floor += grown
        if young - grown > gc.get_threshold()[0]:
            self._run(self._due())

    def first(self, outputs: Any, tensors: Sequence[Tensor]) -> None:
        """An op has run as there was none before, of whose objects some stay: its new outputs are counted instead."""
        each = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
        self._new = sum(isinstance(one, Tensor) and all(one is not tensor for tensor in tensors) for one in each)

    def ends(self) -> None:
        """An op ends. Whatever it made and does not leave for good dies with its results."""
        self._depth -= 1
        if self._depth == 0:
            self._last = gc.get_count()[0]
            if self._new == _AS_BEFORE:
                self._count += self._last - self._begun - self._kept
            else:
                born = len(self._followed) - self._storages
                self._count += _OF_A_TENSOR * self._new + (self._beside + 1 - _OF_A_TENSOR) * born

    def try_out(self, make: Callable[[], object]) -> Objects:
        """Those of a recorder that follows nothing else, counted at an op that makes a tensor and its storage."""
        alive = [make(), make()]
        make()  # and dies after it was counted, as each of the next
        kept = self._grown_by(make)
        alive += [[{} for _ in range(_LISTED)], make()]
        return Objects(kept, self._grown_by(lambda: alive.append(make())) - kept - 1)

    def _grown_by(self, make: Callable[[], object]) -> int:
        before = self._count - self._others()
        for _ in range(_TRIALS):
            make()
        return round((self._count - self._others() - before) / _TRIALS)

    def now(self) -> None:
        """Of all objects, seen by nobody."""
        self._gc()

    def _due(self) -> int:
        """The oldest generation whose threshold is passed; the last only if a quarter of it is new."""
        thresholds = gc.get_threshold()
        for generation in range(_GENERATIONS - 1, 0, -1):
            if self._rounds[generation - 1] > thresholds[generation] > 0 and (generation < 2 or self._grown()):
                return generation
        return 0

    def _grown(self) -> bool:
        return 4 * (len(gc.get_objects(2)) - self._settled) >= self._settled

    def _collect(self, generation: int, asked: bool = False) -> int:
        return self.around(lambda: self._gc(generation), asked)

    def _run(self, generation: int) -> None:
        self._collect(generation)
        self._begins_anew()
        self._rounds = [0 if older < generation else count for older, count in enumerate(self._rounds)]
        self._rounds[generation] += 1
        if generation == _GENERATIONS - 1:
            self._settled = len(gc.get_objects(2))

    def _begins_anew(self) -> None:
        self._floor, self._before = self._count - self._beside * len(self._followed), self._others()

    def _asked(self, generation: int = 2) -> int:
        """As `gc.collect`."""
        found = self._collect(generation, asked=generation == _GENERATIONS - 1)
        self._last = gc.get_count()[0]
        self._begins_anew()
        self._rounds[:generation] = [0] * generation
        return found


def _plainly(collect: Callable[[], int], _asked: bool) -> int:
    return collect()
