"""Bytes to text and back. Inside, bytes are integers; outside, binary units. This is the only place that converts."""

from __future__ import annotations

import re
from fractions import Fraction

from memgraph.errors import UsageError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

_FACTORS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,19})?)\s*([kmgt]?)(i?b)?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`'24GiB'`, `'23.7 GiB'`, `'512M'` or `'1048576'` to bytes. All units are binary: `GB` is read as `GiB`.

    Raises:
        UsageError: the text is not a size, is zero, or is more than 63 bits count.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size: write it like 24GiB or 512MiB")
    size = int(Fraction(match[1]) * _FACTORS[match[2].lower()])
    if size <= 0:
        raise UsageError(f"{text!r} is no memory at all: write it like 24GiB or 512MiB")
    if size >= 2**63:
        raise UsageError(f"{text!r} is more than any memory: write it like 24GiB or 512MiB")
    return size


def format_bytes(size: int) -> str:
    """Bytes as a person reads them, four significant digits: `9.384 GiB`, `847.2 MiB`, `512 B`."""
    for factor, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(size) >= factor:
            return f"{_four_digits(size / factor)} {unit}"
    return f"{size} B"


def format_mib(size: int) -> str:
    """Bytes in MiB with two decimals, for columns that are compared: `9,609.65 MiB`."""
    return f"{size / MIB:,.2f} MiB"


def _four_digits(value: float) -> str:
    """Without an exponent, which `g` would give from 1000 on."""
    return f"{value:.0f}" if abs(value) >= 999.95 else f"{value:#.4g}"
