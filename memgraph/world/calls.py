"""Which collectives a rank has called, on which groups: what ranks have in common, and where they part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.distributed import distributed_c10d as c10d

MESSAGES = ("send", "recv_", "recv_any_source_")


class Group(NamedTuple):
    """A process group, by the ranks in it."""

    name: str
    ranks: tuple[int, ...]


class Called(NamedTuple):
    """One collective."""

    name: str
    """`allreduce_`"""
    group: Group
    peer: int | None
    """For a message the global rank at its other end."""
    size: int
    """Bytes that it takes in, or puts out where there is only that."""
    place: str
    """`train.py:31`, the line that called it."""

    @property
    def is_message(self) -> bool:
        """From one rank to another, of whom the receiver need not know."""
        return self.name in MESSAGES


class Calls:
    """Of one rank, in order.

    Args:
        where: the line of the user's that runs.
        used: told of each tensor that a collective reads or writes.
    """

    def __init__(self, where: Callable[[], str], used: Callable[[Tensor], None]) -> None:
        self.made_so_far: list[Called] = []
        self.groups: dict[str, Group] = {}
        self._where = where
        self._used = used

    def made(
        self, name: str, group: Any, results: Sequence[Tensor], sources: Sequence[Tensor], peer: int | None
    ) -> int | None:
        """A collective is called; the global rank at the other end, for a message."""
        known = self.group(group)
        end = None if peer is None or name not in MESSAGES else known.ranks[peer]
        size = sum(tensor.numel() * tensor.element_size() for tensor in sources or results)
        self.made_so_far.append(Called(name, known, end, size, self._where()))
        for tensor in (*results, *sources):
            self._used(tensor)
        return end

    def group(self, group: Any) -> Group:
        """The group behind torch's object."""
        name = group.group_name
        if name not in self.groups:
            self.groups[name] = Group(name, tuple(c10d.get_process_group_ranks(group)))
        return self.groups[name]
