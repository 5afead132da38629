"""Bytes of a pickle, looked at in many places at once, with numpy: numbers, references, lists of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[np.int64]]
    Marks = np.ndarray[Any, np.dtype[np.bool_]]

_AFTER = 64
"""Zeros behind the bytes, which no operation that is looked for begins with."""
_BININT1, _BININT2, _BININT, _LONG1 = 0x4B, 0x4D, 0x4A, 0x8A
_BINGET, _LONG_BINGET = 0x68, 0x6A
_LONGEST = 8
"""Bytes of a whole number that fits a column."""


class Bytes:
    """A stretch of a pickle. `at` are places in it, in each method."""

    def __init__(self, data: bytes) -> None:
        import numpy as np

        self.data = data
        padded = data + bytes(_AFTER)
        self._single = np.frombuffer(padded, np.uint8)
        self._eight: Numbers = np.ndarray((len(padded) - 7,), "<i8", padded, strides=(1,))
        """The eight bytes from each place on, as a number."""
        self._reference = np.zeros(256, np.int64)
        """Bytes that a reference takes, by its first."""
        self._reference[_BINGET], self._reference[_LONG_BINGET] = 2, 5

    def places(self, text: bytes) -> Numbers:
        """Where three bytes stand, of which the second is the rarest."""
        one, two, three = text
        at = (self._single[1 : len(self.data) - 1] == two).nonzero()[0]
        return at[(self._single[at] == one) & (self._single[at + 2] == three)]

    def stands(self, at: Numbers, text: bytes) -> Marks:
        """Whether a text stands there."""
        found = self._single[at] == text[0]
        for offset, value in enumerate(text[1:], 1):
            found &= self._single[at + offset] == value
        return found

    def numbers(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """Whole numbers, and how many bytes are taken for each; none where there is no number."""
        import numpy as np

        kind, next_ = self._single[at], self._single[at + 1].astype(np.int64)
        width = np.where(kind == _LONG1, next_, 0) * (next_ <= _LONGEST)
        shift = 8 * (_LONGEST - np.maximum(width, 1))
        long = self._eight[at + 2] << shift >> shift
        four = self._eight[at + 1].astype(np.int32)
        found = np.select(
            [kind == _LONG1, kind == _BININT, kind == _BININT1], [long, four, next_], self._eight[at + 1] & 0xFFFF
        )
        lengths = np.select([width > 0, kind == _BININT, kind == _BININT1, kind == _BININT2], [2 + width, 5, 2, 3], 0)
        return found, lengths

    def references(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """The places in the memory that are referred to, and how many bytes are taken for each; none where there is no
        reference."""
        import numpy as np

        kind = self._single[at]
        found = np.where(kind == _BINGET, self._single[at + 1], self._eight[at + 1] & 0xFFFFFFFF)
        return found, self._reference[kind]

    def lists(self, at: Numbers) -> Numbers:
        """Bytes of lists that are remembered, of references alone; none where there is no such list."""
        import numpy as np

        begins = self.stands(at, b"]\x94")
        inside = self.within(at + 2)
        several, single = self.stands(inside, b"("), self._reference[self._single[inside]]
        ends = self.passed(self.within(inside + 1))
        one = (single > 0) & self.stands(self.within(inside + single), b"a")
        lengths = np.select([several & self.stands(ends, b"e"), several, one], [ends + 1 - at, 0, 3 + single], 2)
        return np.where(begins, lengths, 0)

    def passed(self, at: Numbers) -> Numbers:
        """Where references in a row end."""
        while True:
            steps = self._reference[self._single[at]]
            if not steps.any():
                return at
            at = self.within(at + steps)

    def within(self, at: Numbers) -> Numbers:
        """Places behind the end are at the end."""
        import numpy as np

        return np.minimum(at, len(self.data))
