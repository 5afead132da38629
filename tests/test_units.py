"""Bytes to text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.errors import UsageError
from memgraph.units import GIB, KIB, MIB, TIB, format_bytes, format_mib, parse_bytes

FACTORS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1048576", MIB),
        ("24GiB", 24 * 2**30),
        ("24 GB", 24 * 2**30),
        ("24g", 24 * 2**30),
        (" 512m ", 512 * 2**20),
        ("1.5KiB", 1536),
        ("23.7 GiB", 25_447_681_228),  # 23.7 × 1,073,741,824 = 25,447,681,228.8, and there is no part of a byte
        ("0.5tib", 2**39),
        ("9007199254740993", 2**53 + 1),  # a float would lose the 1
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "24Gx", "-1GiB", "1e3", "24 GiB free", "1..5", "nan", "٣GiB", "9" * 400, "0." + "1" * 5000]
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size: write it like 24GiB or 512MiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0.0GiB", "0.4"])
def test_no_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no memory at all"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["9223372036854775808", "8388608TiB", "9999999999999999999TiB"])
def test_more_than_63_bits_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is more than any memory"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (KIB, "1.000 KiB"),
        (1536, "1.500 KiB"),
        (MIB - 1, "1024 KiB"),
        (10 * MIB - 1, "10.00 MiB"),  # not 10.000
        (100 * MIB - 1, "100.0 MiB"),
        (1000 * MIB - 1, "1000 MiB"),
        (888_341_504, "847.2 MiB"),
        (10_076_264_264, "9.384 GiB"),
        (-3 * GIB, "-3.000 GiB"),
        (20_000 * TIB, "20000 TiB"),
    ],
)
def test_sizes_are_written_with_four_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_compared_sizes_are_in_mib() -> None:
    assert format_mib(10_076_448_358) == "9,609.65 MiB"  # 10,076,448,358 / 1,048,576 = 9609.65…


@given(st.integers(1, 2**63 - 1))
def test_a_number_is_itself(size: int) -> None:
    assert parse_bytes(str(size)) == size


@given(st.integers(1, 2**20), st.sampled_from(sorted(FACTORS)))
def test_a_unit_multiplies(count: int, unit: str) -> None:
    assert parse_bytes(f"{count}{unit}") == parse_bytes(f"{count} {unit.lower()}") == count * FACTORS[unit]


@given(st.integers(0, 2**62))
def test_what_is_written_is_right_to_half_of_the_fourth_digit(size: int) -> None:
    number, unit = format_bytes(size).split()
    assert abs(float(number) * FACTORS[unit] - size) <= 0.000_5 * size
    assert len(number.replace(".", "")) == 4 or unit in ("B", "TiB")
