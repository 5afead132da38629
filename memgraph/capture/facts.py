"""What a program did that its allocations alone do not say: noted while it runs, for the rules that look for causes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memgraph.capture.provenance import SourceLines
from memgraph.trace import Fact


class Facts:
    """Each is kept once, however often it is told.

    Args:
        sources: says lines.
    """

    def __init__(self, sources: SourceLines) -> None:
        self._sources = sources
        self._attention: dict[tuple[str, str], None] = {}
        self._idle: dict[int, tuple[str, str]] = {}
        self._moved: set[int] = set()
        self._optimizers: dict[int, tuple[str, str]] = {}

    def computed_by_steps(self, refusals: Sequence[str]) -> None:
        """Attention is computed step by step, with its scores in memory.

        Args:
            refusals: why each fused kernel was passed over.
        """
        self._attention[self._sources.current(), "; ".join(refusals)] = None

    def given(self, optimizer: str, without: Iterable[int], moved: Iterable[int]) -> None:
        """An optimizer is about to step.

        Args:
            without: the buffers of the parameters that want a gradient and have none.
            moved: those of parameters that have one.
        """
        source = self._sources.current()
        self._moved.update(moved)
        self._idle |= dict.fromkeys(without, (optimizer, source))

    def steps(self, optimizer: object, forms: Iterable[str]) -> None:
        """An optimizer is about to step.

        Args:
            forms: of `foreach` and `fused` those that it has.
        """
        if id(optimizer) not in self._optimizers:
            text = ", ".join([type(optimizer).__name__, *forms])
            self._optimizers[id(optimizer)] = (self._sources.current(), text)

    @property
    def idle(self) -> bool:
        """Whether a parameter was ever without a gradient."""
        return bool(self._idle)

    def all(self) -> tuple[Fact, ...]:
        """Those so far."""
        attention = [Fact("attention by steps", source, text) for source, text in self._attention]
        idle: dict[tuple[str, str], list[int]] = {}
        for buffer, who in self._idle.items():
            if buffer not in self._moved:
                idle.setdefault(who, []).append(buffer)
        optimizers = dict.fromkeys(self._optimizers.values())
        return (
            *attention,
            *(Fact("optimizer", source, text) for source, text in optimizers),
            *(Fact("no gradient", source, name, tuple(buffers)) for (name, source), buffers in idle.items()),
        )
