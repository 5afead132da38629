"""Python's collector, and what it need not walk."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from memgraph.trace.garbage import grown_old


@pytest.fixture(autouse=True)
def _frozen() -> Iterator[None]:
    """Nothing is, before a test or after it, whatever has been imported."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_is_grown_old_is_of_the_oldest_generation_and_nothing_of_it_is_frozen() -> None:
    gc.disable()
    try:
        young = [[number] for number in range(100)]
        grown_old()
        assert all(any(each is old for old in gc.get_objects(2)) for each in young[:3])
        assert not any(each is young[0] for each in gc.get_objects(0))
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_what_a_program_froze_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    grown_old()
    assert gc.get_freeze_count() == frozen > 0
