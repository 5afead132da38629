"""Where segments are put."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.gpu.allocator.segments import DownwardSlots, RecordedAddresses, SegmentAddresses, Upward

MIB = 2**20
SLOT = 32 * MIB
SIZES = st.lists(st.integers(1, 60).map(lambda number: 2 * MIB * number), min_size=2, max_size=40)


def test_large_segments_go_downwards_in_slots_of_32_mib() -> None:
    # 20 MiB take a slot, 110 take four, 32 exactly one.
    place = DownwardSlots().place
    first = place(20 * MIB)
    assert [first - place(size * MIB) for size in (110, 32, 34, 20)] == [4 * SLOT, 5 * SLOT, 7 * SLOT, 8 * SLOT]


def test_small_segments_fill_a_slot_upwards() -> None:
    # 16 of 2 MiB in a slot, the next in the slot below; a large one in between takes a slot of its own.
    place = DownwardSlots().place
    small = [place(2 * MIB) for _ in range(8)]
    large = place(20 * MIB)
    small += [place(2 * MIB) for _ in range(9)]
    assert [address - small[0] for address in small[:16]] == [2 * MIB * number for number in range(16)]
    assert small[0] - large == SLOT
    assert large - small[16] == SLOT


def test_upward_is_in_order_without_gaps() -> None:
    place = Upward().place
    assert [place(size * MIB) - 2 * MIB for size in (20, 2, 110, 2)] == [0, 20 * MIB, 22 * MIB, 132 * MIB]


def test_recorded_addresses_come_first_then_made_up_ones() -> None:
    addresses = RecordedAddresses([7 * MIB, 3 * MIB])
    made_up = DownwardSlots()
    assert [addresses.place(20 * MIB) for _ in range(4)] == [
        7 * MIB,
        3 * MIB,
        made_up.place(20 * MIB),
        made_up.place(20 * MIB),
    ]


@pytest.mark.parametrize("kind", [DownwardSlots, Upward])
@given(sizes=SIZES)
def test_segments_do_not_overlap_and_are_aligned(kind: type[SegmentAddresses], sizes: list[int]) -> None:
    addresses = kind()
    stretches = sorted((addresses.place(size), size) for size in sizes)
    assert all(start + size <= after for (start, size), (after, _) in pairwise(stretches))
    assert all(start > 0 and start % (2 * MIB) == 0 for start, _ in stretches)
