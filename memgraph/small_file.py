"""Small files of text: plans, baselines, times, configurations. What is far larger is none of them, and is not read."""

from __future__ import annotations

import os
from pathlib import Path

LARGEST = 2**26
"""Bytes; measured times, the largest, have some megabytes."""


def read_text(path: str | os.PathLike[str], largest: int = LARGEST) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text of UTF-8, or has more than `largest` bytes.
    """
    with Path(path).open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content.decode("utf-8")


def end_of(path: str | os.PathLike[str], largest: int = LARGEST) -> str:
    """The end of a file, with what is no UTF-8 replaced.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - largest))
        return file.read(largest).decode("utf-8", "replace")
