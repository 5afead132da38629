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
from collections.abc import Callable, Iterator

from memgraph.virtual.patches import replaced

_GENERATIONS = 3
_TRIALS = 12


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
    that is looked at, which dies when its function returns, and so must be counted when it is made."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether the program lets it run."""
        self.extra = 0
        """Objects of the recorder that die with each tensor."""
        self.around: Callable[[Callable[[], int]], int] = _plainly
        """Runs each collection: somebody may want to look before and after it."""
        self._gc = gc.collect
        self._count = 0
        """The program's own young objects."""
        self._last = 0
        self._depth = 0
        self._rounds = [0] * _GENERATIONS
        """Collections of each generation since the next older one's last."""
        self._settled = 0

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """While open, it runs at ops alone, and `gc.disable()` and its like decide whether."""
        self.wanted = gc.isenabled()
        self._settled = len(gc.get_objects(2)) if self.wanted else 0
        enable, disable = gc.enable, gc.disable
        disable()
        self._count, self._last = gc.get_count()[0], gc.get_count()[0]
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
        """An op begins: what was made since the last one is the program's."""
        self._depth += 1
        if self._depth == 1:
            self._count = max(0, self._count + gc.get_count()[0] - self._last)
            if self.wanted and self._count > gc.get_threshold()[0] > 0:
                self._run(self._due())

    def ends(self, made: int) -> None:
        """An op ends that returned so many tensors."""
        self._depth -= 1
        if self._depth == 0:
            self._last = gc.get_count()[0]
            self._count += made

    def died(self) -> None:
        """A tensor died between two ops."""
        if self._depth == 0:
            self._count += self.extra

    def try_out(self, run: Callable[[], object]) -> None:
        """Count what dies with an op's result besides that itself.

        Args:
            run: runs one op, and returns its result.
        """
        kept = [run() for _ in range(_TRIALS)]
        alive = gc.get_count()[0]
        kept.clear()
        self.extra = round((alive - gc.get_count()[0]) / _TRIALS) - 1

    def _due(self) -> int:
        """The oldest generation whose threshold is passed; the last only if a quarter of it is new."""
        thresholds = gc.get_threshold()
        for generation in range(_GENERATIONS - 1, 0, -1):
            if self._rounds[generation - 1] > thresholds[generation] > 0 and (generation < 2 or self._grown()):
                return generation
        return 0

    def _grown(self) -> bool:
        return 4 * (len(gc.get_objects(2)) - self._settled) >= self._settled

    def _collect(self, generation: int) -> int:
        return self.around(lambda: self._gc(generation))

    def _run(self, generation: int) -> None:
        self._collect(generation)
        self._count = 0
        self._rounds = [0 if older < generation else count for older, count in enumerate(self._rounds)]
        self._rounds[generation] += 1
        if generation == _GENERATIONS - 1:
            self._settled = len(gc.get_objects(2))

    def _asked(self, generation: int = 2) -> int:
        """As `gc.collect`."""
        found = self._collect(generation)
        self._count, self._last = 0, gc.get_count()[0]
        self._rounds[:generation] = [0] * generation
        return found


def _plainly(collect: Callable[[], int]) -> int:
    return collect()
