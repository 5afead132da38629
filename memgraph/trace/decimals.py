"""Whole numbers of a JSON text, millions of them: eight digits at a time, with numpy. What is not plainly a number is
for JSON's own reader to judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PART = 2**18
"""Bytes of text that are made numbers at once: what is made of them stays in a core's cache."""
_FRONT = b"0" * 16
"""Stands before each part, that the first number's last sixteen letters are there too."""
_ZERO, _COMMA, _MINUS = b"0,-"
_LONGEST = 16
_JOINS = ((10, 8, 0x00FF00FF00FF00FF), (100, 16, 0x0000FFFF0000FFFF), (10**4, 32, 2**32 - 1))
"""A word's neighbours are joined to pairs, the pairs to fours, the fours to eight: times, shift, and what stays."""


def decimals(text: memoryview) -> Any:
    """`1,-2,3` as numbers, in eight bytes each or less; None where anything but numbers of sixteen digits at most
    stands there."""
    import numpy as np

    parts = [_even(part) for part in _parts(text)]
    return None if any(part is None for part in parts) else np.concatenate(parts)


def _parts(text: memoryview) -> Iterator[bytes]:
    at = 0
    while at <= len(text):
        stop = bytes(text[at + PART : at + PART + 32]).find(b",")
        end = at + PART + stop if stop >= 0 else len(text)
        yield bytes(text[at:end])
        at = end + 1


def _even(text: bytes) -> Any:
    """Numbers that all have as many letters, as places, kinds and addresses in a row mostly have: no comma has to be
    looked for. Others are `_uneven`."""
    import numpy as np

    padded = b"%b%b," % (_FRONT, text)
    stride = padded.find(b",") + 1 - len(_FRONT)
    count, rest = divmod(len(padded) - len(_FRONT), stride)
    letters = np.frombuffer(padded, np.uint8)[len(_FRONT) :]
    if rest or (letters[stride - 1 :: stride] != _COMMA).any():
        return _uneven(padded)
    rows = letters.reshape(count, stride)
    sign = int(letters[0] == _MINUS)
    digits = rows[:, sign:-1] - np.uint8(_ZERO)
    length = digits.shape[1]
    if not 1 <= length <= _LONGEST or (rows[:, :sign] != _MINUS).any() or (digits > 9).any():
        return _uneven(padded)
    if length > 1 and not digits[:, 0].all():  # JSON has no 01
        return None
    if length == 1:
        values = digits[:, 0].astype(np.int8)
    else:
        near, far = (np.ndarray(count, "<u8", padded, len(_FRONT) + stride - 1 - back, stride) for back in (8, 16))
        values = _joined(near.copy(), min(length, 8))
        values = values + 10**8 * _joined(far.copy(), length - 8) if length > 8 else values.astype(np.int32)
    return -values if sign else values


def _uneven(padded: bytes) -> Any:
    """Numbers of any lengths."""
    import numpy as np

    letters = np.frombuffer(padded, np.uint8)
    ends = np.flatnonzero(letters == _COMMA)
    first = np.concatenate([[len(_FRONT)], ends[:-1] + 1])
    minus = letters[first] == _MINUS
    first += minus
    lengths = ends - first
    digits = np.count_nonzero(letters - np.uint8(_ZERO) <= 9)
    plain = digits + len(ends) + np.count_nonzero(minus) == len(letters)
    if not plain or lengths.min() < 1 or lengths.max() > _LONGEST or ((letters[first] == _ZERO) & (lengths > 1)).any():
        return None
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=1)
    values = _joined(words[ends - 8], np.minimum(lengths, 8))
    if (long := np.flatnonzero(lengths > 8)).size:
        values[long] += 10**8 * _joined(words[ends[long] - 16], lengths[long] - 8)
    return np.negative(values, out=values, where=minus)


def _joined(words: Any, lengths: Any) -> Any:
    """What the last `lengths` digits of each eight say; in the words' place."""
    import numpy as np

    words &= np.array([0x0F0F0F0F0F0F0F0F << 8 * (8 - length) & 2**64 - 1 for length in range(9)], np.uint64)[lengths]
    for factor, shift, mask in _JOINS:
        right = words >> np.uint64(shift)
        words *= np.uint64(factor)
        words += right
        words &= np.uint64(mask)
    return words.view(np.int64)
