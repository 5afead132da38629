"""Sizes of a step, and the stretches of them that are taken to follow one law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from memgraph.analyze.polynomial import Point

STEP = 8
"""Attention kernels take masks whose rows are multiples of 8 elements as they are, and pad others with further ops:
lengths of different remainders run different ops (aten/src/ATen/native/transformers/attention.cpp, `pad_bias`)."""
_BATCHES = (2, 13, 5, 3)
"""Of the traces that laws are solved from. Not 1: at one sample views replace copies."""


class Sizes(NamedTuple):
    """A point in the words of the command line."""

    batch: int
    seq: int | None

    @property
    def point(self) -> Point:
        """The same by symbol."""
        return {"B": self.batch} if self.seq is None else {"B": self.batch, "S": self.seq}


class Region(NamedTuple):
    """Sizes that are taken to follow one law: as its traces show, and as every confirmation tries again."""

    gpu: str
    low: int | None
    """Shortest length; None if the model has none."""
    high: int | None
    """Longest length, of the same remainder by `STEP`."""
    alone: bool = False
    """One sample: views take the place of copies, so other ops run than for two."""

    @property
    def one_length(self) -> bool:
        """Whether there is but one, or none."""
        return self.low == self.high

    def point(self, sizes: Sizes) -> Point:
        """The sizes that vary, by symbol."""
        batch = {} if self.alone else {"B": sizes.batch}
        return batch if self.one_length or sizes.seq is None else {**batch, "S": sizes.seq}

    def samples(self) -> list[Sizes]:
        """The points that laws are solved from: few, spread over the lengths, without a common factor."""
        if self.low is None or self.high is None or self.one_length:
            return [Sizes(batch, self.low) for batch in _BATCHES[:3]]
        lengths = spread(self.low, self.high)
        if self.alone:
            return [Sizes(1, length) for length in lengths]
        return [Sizes(batch, lengths[place % len(lengths)]) for place, batch in enumerate(_BATCHES)]


def regions_of(gpu: str, seqs: Sequence[int | None]) -> list[tuple[Region, list[int | None]]]:
    """The lengths by their remainder: each group has one law, or each length its own where they are too close."""
    groups: dict[int | None, list[int | None]] = {}
    for seq in seqs:
        groups.setdefault(None if seq is None else seq % STEP, []).append(seq)
    regions = []
    for group in groups.values():
        known = [seq for seq in group if seq is not None]
        if known and max(known) - min(known) >= 3 * STEP:
            regions.append((Region(gpu, min(known), max(known)), group))
        else:
            regions += [(Region(gpu, seq, seq), [seq]) for seq in group]
    return regions


def around(sizes: Sizes) -> list[Sizes]:
    """Other sizes, those to try first in front."""
    batches = [1, 1, 1] if sizes.batch == 1 else [batch for batch in _BATCHES if batch != sizes.batch][:3]
    if sizes.seq is None:
        return [Sizes(batch, None) for batch in batches if batch != sizes.batch]
    steps = sizes.seq // STEP
    shorter = [sizes.seq - STEP * max(1, steps // part) for part in (2, 3, 5)]
    longer = [sizes.seq + STEP * max(1, steps // part) for part in (2, 3, 5)]
    return [
        Sizes(batch, _odd(length, STEP, 2 * sizes.seq)) for lengths in (shorter, longer)
        for batch, length in zip(batches, lengths, strict=True) if length > 0
    ]  # fmt: skip


def spread(low: int, high: int) -> list[int]:
    """Four lengths between two of the same remainder by `STEP`, nearly from end to end: odd multiples of it, so that
    rounding up to 16, 32, … shows, if there are as many.

    >>> spread(128, 1024)
    [136, 1016, 424, 728]
    """
    steps = (high - low) // STEP
    places = [low + STEP * (steps * part // 3) for part in (0, 3, 1, 2)]
    odd = {_odd(place, low, high): None for place in places}
    return list(odd) if len(odd) == len(places) else list(dict.fromkeys(places))


def _odd(length: int, low: int, high: int) -> int:
    """A length nearby whose quotient by `STEP` is odd."""
    if length // STEP % 2:
        return length
    return length + STEP if length + STEP <= high else length - STEP if length - STEP >= low else length
