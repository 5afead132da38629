"""The peak by what one can do about it."""

from __future__ import annotations

from memgraph.analyze.binding import bound
from memgraph.trace import Category, Trace
from tests.conftest import Tape


def test_parts_add_up_to_the_peak(toy: Trace) -> None:
    assert sum(bound(toy)) == toy.peak.requested


def test_logits_are_told_by_their_shape(tape: Tape) -> None:
    """A number for each of 1,000 words."""
    tape.phase("forward", 1)
    for size, category, shape in (
        (64, Category.PARAMETER, (4, 4)),
        (128, Category.UNSHARDED, (4, 8)),
        (4000, Category.TEMPORARY, (1, 1000)),
        (2000, Category.ACTIVATION, (1, 1000)),
        (256, Category.ACTIVATION, (8, 8)),
        (512, Category.COMMUNICATION, (128,)),
        (16, Category.TEMPORARY, (4,)),
    ):
        tape.alloc(size, category, shape=shape, dtype="float32")
    assert bound(tape.trace(), 1000) == (64, 128, 256, 6000, 512, 16)
    assert bound(tape.trace()).logits == 0
    assert bound(tape.trace(), 1000).largest == (("logits", 6000), ("buffers", 512))
