"""`isin`, as it was recorded on an H200 with torch 2.11: each allocation in order."""

from __future__ import annotations

from memgraph.gpu.call import TensorMeta
from tests.gpu.workspace_calls import allocated, new, run


def asked(elements: TensorMeta, tests: TensorMeta, **kwargs: object) -> list[object]:
    return allocated(run("isin", elements, tests, out=new(*elements.shape, dtype="bool"), **kwargs))


def test_few_tests_are_compared_with_each_element() -> None:
    # Ten tests or so for up to a thousand elements: 1,000 x 3 flags, then whether any.
    assert asked(new(1000, dtype="int64"), new(3, dtype="int64")) == ["out 0", 3000, 1000]


def test_many_are_made_distinct_and_sorted_with_them() -> None:
    # 627 different elements and all 50 tests but for none: 677 · 8 bytes three times, and a range; flags of 677 places.
    found = asked(new(1000, dtype="int64"), new(50, dtype="int64"), distinct=(627, 50))
    first = [8000, 8000, 8000, 1, 8000, 8000, 1023, 8000, 8, 1023]
    assert found == ["out 0", *first, 400, 1, 400, 8, 1023, *[677 * 8] * 4, 677, 676, 677, 1000]


def test_what_is_said_to_be_unique_is_only_sorted() -> None:
    found = asked(new(300_000, dtype="int64"), new(5000, dtype="int64"), assume_unique=True)
    assert found == ["out 0", 2_440_000, 2_440_000, 2_440_000, 2_440_000, 4_965_887, 305_000, 304_999, 305_000]
