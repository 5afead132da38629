"""Where `cudaMalloc` puts segments. It decides ties of the best fit, which go to the lower address."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Protocol

MIB = 2**20
_SLOT = 32 * MIB
_LOTS = 16
_TOP = 0x7F00_0000_0000
_LOWEST = 2 * MIB
"""No address that is made up is below it."""


class SegmentAddresses(Protocol):
    """Gives each new segment an address."""

    def place(self, size: int) -> int:
        """The address of a new segment of `size` bytes."""
        ...


class DownwardSlots:
    """As the driver was seen to do: segments go downwards in slots of 32 MiB (20 MiB take one, 110 MiB take four), and
    segments of 2 MiB fill a slot upwards before another is taken. Measured on an H200, driver 580, CUDA 13.0; the
    driver interleaves two regions, which is not modelled."""

    def __init__(self) -> None:
        self._bottom = _TOP
        self._small = self._small_end = 0

    def place(self, size: int) -> int:
        if size > 2 * MIB:
            return self._take(size)
        if self._small + size > self._small_end:
            self._small = self._take(_SLOT)
            self._small_end = self._small + _SLOT
        address = self._small
        self._small += size
        return address

    def _take(self, size: int) -> int:
        self._bottom -= -(-size // _SLOT) * _SLOT
        return self._bottom


class Upward:
    """Each segment above the one before: the order in which they came is that of their addresses."""

    def __init__(self) -> None:
        self._top = _LOWEST

    def place(self, size: int) -> int:
        address = self._top
        self._top += size
        return address


class Scattered:
    """Anywhere, without a plan: each segment in a slot of its own, drawn by lot.

    Args:
        seed: of the lots.
    """

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._slots: list[int] = []
        self._top = _LOWEST

    def place(self, size: int) -> int:
        slots = -(-size // _SLOT)
        if slots > 1:
            return self._above(slots)
        if not self._slots:
            first = self._above(_LOTS)
            self._slots = [first + place * _SLOT for place in range(_LOTS)]
            self._dice.shuffle(self._slots)
        return self._slots.pop()

    def _above(self, slots: int) -> int:
        """So many slots that nobody has; a coin decides whether one is left free below them."""
        self._top += self._dice.randrange(2) * _SLOT
        address, self._top = self._top, self._top + slots * _SLOT
        return address


class RecordedAddresses:
    """The addresses of a recording, in order; when they run out, made-up ones."""

    def __init__(self, addresses: Iterable[int]) -> None:
        self._addresses = iter(addresses)
        self._beyond = DownwardSlots()

    def place(self, size: int) -> int:
        address = next(self._addresses, None)
        return self._beyond.place(size) if address is None else address
