"""Pools of an allocator that are not everybody's: those of CUDA graphs and of `torch.cuda.MemPool`.

As `PrivatePool` of c10/cuda/CUDACachingAllocator.cpp, torch 2.11 to 2.15: what is asked for while one is open comes out
of it and goes back into it; its segments are given back to the card only when nobody uses the pool any more, by the
next `empty_cache`. While one is open, none is given back to make room.
"""

from __future__ import annotations

from collections.abc import Callable

Serves = Callable[[int], bool]
"""Whether requests on a stream, made now, come out of the pool."""


class PrivatePools:
    """Those of one allocator, by their numbers; 0 is everybody's."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}
        self._open: list[tuple[int, Serves]] = []

    @property
    def underway(self) -> bool:
        """Whether one is open."""
        return bool(self._open)

    def use(self, pool: int) -> None:
        """One more uses it."""
        self._users[pool] = self._users.get(pool, 0) + 1

    def begin(self, pool: int, serves: Serves) -> None:
        """From now on requests come out of it; whoever begins uses it."""
        self.use(pool)
        self._open.append((pool, serves))

    def end(self, pool: int) -> None:
        """No longer."""
        self._open = [entry for entry in self._open if entry[0] != pool]

    def release(self, pool: int) -> None:
        """One uses it no more."""
        self._users[pool] -= 1

    def of(self, stream: int) -> int:
        """The pool that serves a request."""
        return next((pool for pool, serves in self._open if serves(stream)), 0)

    def users(self, pool: int) -> int:
        """How many use it."""
        return self._users.get(pool, 0)

    def kept(self, pool: int) -> bool:
        """Whether its segments stay."""
        return self.users(pool) > 0
