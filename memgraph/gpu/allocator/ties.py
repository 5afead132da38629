"""Which of equal free blocks serves a request: it depends on the version of torch."""

from __future__ import annotations

import enum

NEWEST = (2, 15)
"""The newest torch (major, minor) whose allocator is known."""


class Ties(enum.Enum):
    """Which of the free blocks of one size serves a request."""

    ADDRESS = "address"
    """The one with the lowest address: up to torch 2.11."""
    BLOCK = "block"
    """The one that was made first; cutting a block makes its front: torch 2.12."""
    SEGMENT = "segment"
    """The one whose segment was taken first, then the lowest address: from torch 2.13."""

    @classmethod
    def of(cls, torch: tuple[int, int]) -> Ties:
        """As torch (major, minor) does it."""
        if torch < (2, 12):
            return cls.ADDRESS
        return cls.BLOCK if torch == (2, 12) else cls.SEGMENT
