"""The store through which ranks find each other: here it knows only what this rank has said."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from torch._C._distributed_c10d import Store

from memgraph.errors import MemgraphError
from memgraph.world.place import Place


class LonelyStore(Store):
    """A key-value store in which nobody waits: what another rank would have set raises.

    Args:
        here: the rank that uses it.
    """

    def __init__(self, here: Place) -> None:
        super().__init__()
        self._here = here
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str | bytes) -> None:
        self._values[key] = value if isinstance(value, bytes) else value.encode()

    def get(self, key: str) -> bytes:
        """Raises:
        MemgraphError: this rank has not set it.
        """
        if key not in self._values:
            raise MemgraphError(
                f"rank {self._here.rank} waits for {key!r} in the store, which another rank sets: trace that rank, or "
                "give the value to all"
            )
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        value = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(value).encode()
        return value

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        if self._values.get(key, b"") == expected.encode():
            self._values[key] = desired.encode()
        return self._values.get(key, expected.encode())

    def check(self, keys: Sequence[str]) -> bool:  # type: ignore[override]
        return all(key in self._values for key in keys)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:  # type: ignore[override]
        for key in keys:
            self.get(key)

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)

    def set_timeout(self, timeout: timedelta) -> None:
        """Nobody waits."""
